//! Metadata that tests change, and requests of the consumer protocol.

use super::*;
use flumen_coordinator::{CoordinatorConfig, GroupSettings, Metadata};
use flumen_wire::messages::consumer_group_describe_response::DescribedGroup;
use flumen_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use std::collections::BTreeSet;

/// Topics by name: id and number of partitions.
#[derive(Clone, Debug, Default)]
pub struct TestMetadata {
    pub version: i64,
    pub topics: BTreeMap<String, (Uuid, i32)>,
    pub settings: GroupSettings,
    /// Of the only broker.
    pub rack: Option<String>,
}

impl TestMetadata {
    /// Those of [`TenTopics`].
    pub fn ten() -> Self {
        let topics = NAMES.iter().zip(0..);
        Self {
            version: 1,
            topics: topics
                .map(|(name, n)| ((*name).to_owned(), (topic_id(n), 10)))
                .collect(),
            ..Self::default()
        }
    }
}

impl Metadata for TestMetadata {
    fn version(&self) -> i64 {
        self.version
    }
    fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.topics.get(name).map(|(id, _)| *id)
    }
    fn topic_name(&self, id: Uuid) -> Option<&str> {
        let found = self.topics.iter().find(|(_, (of, _))| *of == id);
        found.map(|(name, _)| &**name)
    }
    fn partition_count(&self, id: Uuid) -> Option<i32> {
        let found = self.topics.values().find(|(of, _)| *of == id);
        found.map(|(_, count)| *count)
    }
    fn racks(&self, _id: Uuid, _partition: PartitionIndex) -> Vec<&str> {
        self.rack.iter().map(|r| &**r).collect()
    }
    fn for_each_topic(&self, each: &mut dyn FnMut(&str)) {
        self.topics.keys().for_each(|name| each(name));
    }
    fn group_settings(&self, _group: &str) -> GroupSettings {
        self.settings
    }
}

impl World {
    /// Changes the metadata; topics that differ are told.
    pub fn change_metadata(&mut self, change: impl FnOnce(&mut TestMetadata)) {
        let before = self.metadata.clone();
        let mut after = TestMetadata::clone(&before);
        after.version += 1;
        change(&mut after);
        let names: BTreeSet<&String> = before.topics.keys().chain(after.topics.keys()).collect();
        let changed = names
            .into_iter()
            .filter(|name| before.topics.get(*name) != after.topics.get(*name))
            .map(|name| &**name);
        let changed: Vec<&str> = changed.collect();
        let known = |id: &Uuid| before.topics.values().any(|(of, _)| of == id);
        let created = after.topics.values().any(|(id, _)| !known(id));
        let after = Arc::new(after.clone());
        self.coordinator
            .set_metadata(after.clone(), &changed, created);
        self.metadata = after;
    }

    /// A heartbeat of version 1.
    pub fn beat(&mut self, request: &ConsumerGroupHeartbeatRequest<'_>) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .consumer_group_heartbeat(self.now, ctx(1), token, request, &mut out);
        self.drain(out);
        token
    }

    pub fn beaten(&mut self, token: ReplyToken) -> ConsumerGroupHeartbeatResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::ConsumerGroupHeartbeat(response)) => response,
            other => panic!("no answer to ConsumerGroupHeartbeat: {other:?}"),
        }
    }

    /// A heartbeat and its answer.
    pub fn ask(
        &mut self,
        request: &ConsumerGroupHeartbeatRequest<'_>,
    ) -> ConsumerGroupHeartbeatResponse<'static> {
        let token = self.beat(request);
        self.beaten(token)
    }

    pub fn describe_consumers(&self, group: &str) -> DescribedGroup<'static> {
        self.coordinator.describe_consumer_group(group)
    }
}

/// The first heartbeat of a member.
pub fn join_consumers<'a>(
    group: &'a str,
    member: &'a str,
    topics: &[&'a str],
) -> ConsumerGroupHeartbeatRequest<'a> {
    ConsumerGroupHeartbeatRequest {
        group_id: group.into(),
        member_id: member.into(),
        member_epoch: 0,
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(topics.iter().map(|t| (*t).into()).collect()),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    }
}

/// A heartbeat that changes nothing.
pub fn beat_request<'a>(
    group: &'a str,
    member: &'a str,
    epoch: i32,
) -> ConsumerGroupHeartbeatRequest<'a> {
    ConsumerGroupHeartbeatRequest {
        group_id: group.into(),
        member_id: member.into(),
        member_epoch: epoch,
        ..Default::default()
    }
}

/// A heartbeat that says what the member has.
pub fn owning<'a>(
    group: &'a str,
    member: &'a str,
    epoch: i32,
    owned: &[(u8, &[i32])],
) -> ConsumerGroupHeartbeatRequest<'a> {
    let owned = owned.iter().map(|(topic, partitions)| TopicPartitions {
        topic_id: topic_id(*topic),
        partitions: partitions.to_vec(),
    });
    ConsumerGroupHeartbeatRequest {
        topic_partitions: Some(owned.collect()),
        ..beat_request(group, member, epoch)
    }
}

/// What an answer assigns, as (number of the topic, partitions).
pub fn assigned(response: &ConsumerGroupHeartbeatResponse<'_>) -> Option<Vec<(u8, Vec<i32>)>> {
    let assignment = response.assignment.as_ref()?;
    let topics = assignment.topic_partitions.iter();
    let number = |id: &Uuid| id.as_bytes()[0] - 1;
    Some(
        topics
            .map(|t| (number(&t.topic_id), t.partitions.clone()))
            .collect(),
    )
}

pub fn code(response: &ConsumerGroupHeartbeatResponse<'_>) -> ErrorCode {
    ErrorCode::from_i16(response.error_code).unwrap()
}

/// A coordinator that assigns at once.
pub fn world() -> World {
    World::with(
        CoordinatorConfig {
            consumer_group_assignment_interval_ms: 0,
            ..config()
        },
        1,
    )
}

/// A member that has all ten partitions of t0, in epoch 2.
pub fn alone(w: &mut World, group: &str, member: &str) {
    let r = w.ask(&join_consumers(group, member, &["t0"]));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, 2));
    assert_eq!(assigned(&r), Some(vec![(0, (0..10).collect())]));
}
