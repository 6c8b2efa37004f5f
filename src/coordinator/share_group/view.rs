//! What admin requests see of a share group: ShareGroupDescribe (77), version 1.

use super::state::ShareMember;
use crate::group::Group;
use crate::modern::Refusal;
use crate::out::Metadata;
use flumen_base::ErrorCode;
use flumen_wire::messages::share_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};

/// The only assignor there is.
const ASSIGNOR: &str = "simple";

/// A description of a group that can't be given.
pub(crate) fn share_described_error(group: &str, refusal: Refusal) -> DescribedGroup<'static> {
    DescribedGroup {
        group_id: group.to_owned().into(),
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    }
}

/// Why a group is none for requests of share groups: it does not exist, or (`exists`) is of another
/// kind.
pub(crate) fn no_share_group(group: &str, exists: bool) -> Refusal {
    let message = match exists {
        true => format!("Group {group} is not a share group."),
        false => format!("Group {group} not found."),
    };
    Refusal::new(ErrorCode::GroupIdNotFound, message)
}

fn described(m: &ShareMember, metadata: &dyn Metadata) -> DescribedMember<'static> {
    let topics = m.assigned.iter().filter_map(|(id, indexes)| {
        Some(TopicPartitions {
            topic_id: *id,
            topic_name: metadata.topic_name(*id)?.to_owned().into(),
            partitions: indexes.iter().copied().collect(),
        })
    });
    DescribedMember {
        member_id: m.id.to_string().into(),
        rack_id: m.rack.as_deref().map(|r| r.to_owned().into()),
        member_epoch: m.epoch,
        client_id: m.client_id.to_string().into(),
        client_host: m.client_host.to_string().into(),
        subscribed_topic_names: m.topics.iter().map(|t| t.to_string().into()).collect(),
        assignment: Assignment {
            topic_partitions: topics.collect(),
        },
    }
}

impl Group {
    /// As ShareGroupDescribe shows it; `None` for other kinds of groups.
    pub(crate) fn describe_share(
        &self,
        metadata: &dyn Metadata,
    ) -> Option<DescribedGroup<'static>> {
        let share = self.share.as_ref()?;
        let members = share.records.members.values();
        Some(DescribedGroup {
            group_id: self.name.to_string().into(),
            group_state: share.state_name().into(),
            group_epoch: share.records.epoch,
            assignment_epoch: share.records.target_epoch,
            assignor_name: ASSIGNOR.into(),
            members: members.map(|m| described(m, metadata)).collect(),
            ..Default::default()
        })
    }

    /// What ends a share group in the log.
    pub(crate) fn share_tombstones(&self) -> Vec<super::ShareRecord> {
        use super::ShareRecord as R;
        let members = || {
            self.share
                .iter()
                .flat_map(|share| share.records.members.keys())
        };
        let mut records = Vec::new();
        records.extend(members().map(|id| R::Current(id.clone(), None)));
        records.extend(members().map(|id| R::Target(id.clone(), None)));
        records.push(R::TargetEpoch(None));
        records.extend(members().map(|id| R::Member(id.clone(), None)));
        records.push(R::Stored(None));
        records.push(R::Epoch(None));
        records
    }
}
