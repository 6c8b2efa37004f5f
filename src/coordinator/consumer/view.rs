//! What admin requests see of a consumer group: ConsumerGroupDescribe (69), versions 0 and 1 (1:
//! which protocol a member speaks).

use super::Refusal;
use super::member::Member;
use super::state::ConsumerGroup;
use crate::group::Group;
use crate::modern::assign::Assignor;
use crate::modern::{Partitions, without_epochs};
use crate::out::Metadata;
use flumen_base::ErrorCode;
use flumen_wire::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};

const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;

/// A description of a group that can't be given.
pub(crate) fn consumer_described_error(group: &str, refusal: Refusal) -> DescribedGroup<'static> {
    DescribedGroup {
        group_id: group.to_owned().into(),
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    }
}

/// A description of a group that does not exist, or (`exists`) is of another kind.
pub(crate) fn consumer_described_unknown(group: &str, exists: bool) -> DescribedGroup<'static> {
    let message = match exists {
        true => format!("Group {group} is not a consumer group."),
        false => format!("Group {group} not found."),
    };
    consumer_described_error(group, Refusal::new(ErrorCode::GroupIdNotFound, message))
}

fn described(partitions: &Partitions, metadata: &dyn Metadata) -> Assignment<'static> {
    let topics = partitions.iter().filter_map(|(id, indexes)| {
        Some(TopicPartitions {
            topic_id: *id,
            topic_name: metadata.topic_name(*id)?.to_owned().into(),
            partitions: indexes.iter().copied().collect(),
        })
    });
    Assignment {
        topic_partitions: topics.collect(),
    }
}

impl ConsumerGroup {
    fn describe_member(&self, m: &Member, metadata: &dyn Metadata) -> DescribedMember<'static> {
        // What it has to give up is its own until it has.
        let mut has = without_epochs(&m.assigned);
        for (topic, partitions) in without_epochs(&m.revoking) {
            has.entry(topic).or_default().extend(partitions);
        }
        let none = Partitions::new();
        let target = self.target(&m.id).map_or(&none, |t| &**t);
        DescribedMember {
            member_id: m.id.to_string().into(),
            instance_id: m.instance.as_deref().map(|i| i.to_owned().into()),
            rack_id: m.rack.as_deref().map(|r| r.to_owned().into()),
            member_epoch: m.epoch,
            client_id: m.client_id.to_string().into(),
            client_host: m.client_host.to_string().into(),
            subscribed_topic_names: m.topics.iter().map(|t| t.to_string().into()).collect(),
            subscribed_topic_regex: m.regex.as_deref().map(|r| r.to_owned().into()),
            assignment: described(&has, metadata),
            target_assignment: described(target, metadata),
            member_type: if m.is_classic() { CLASSIC } else { CONSUMER },
        }
    }
}

impl Group {
    /// As ConsumerGroupDescribe shows it; `None` for other kinds of groups.
    pub(crate) fn describe_consumer(
        &self,
        metadata: &dyn Metadata,
        default_assignor: Assignor,
    ) -> Option<DescribedGroup<'static>> {
        let consumer = self.consumer.as_ref()?;
        let preferred = consumer.preferred_assignor(None, None);
        let assignor = preferred.as_deref().unwrap_or(default_assignor.name());
        // The order means nothing. Kafka's own test of this API knows its hash table's.
        let members = consumer.members().values().rev();
        Some(DescribedGroup {
            group_id: self.name.to_string().into(),
            group_state: consumer.state().name().into(),
            group_epoch: consumer.epoch,
            assignment_epoch: consumer.target_epoch,
            assignor_name: assignor.to_owned().into(),
            members: members
                .map(|m| consumer.describe_member(m, metadata))
                .collect(),
            ..Default::default()
        })
    }
}
