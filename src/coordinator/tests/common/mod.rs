//! A coordinator with a log in memory and time by hand.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used)] // tests, though outside of a #[test]

pub mod consumers;
pub mod members;
pub mod shares;
pub mod streams;

use bytes::Bytes;
use consumers::TestMetadata;
use flumen_base::{ErrorCode, Mono, Now, PartitionIndex, Prng, Uuid};
use flumen_coordinator::{
    Append, CoordinatorConfig, GroupCoordinator, Out, Reply, ReplyToken, RequestContext, ShareCall,
    Topics, WriteToken, partition_for,
};
use flumen_wire::messages::join_group_request::JoinGroupRequestProtocol;
use flumen_wire::messages::leave_group_request::MemberIdentity;
use flumen_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use flumen_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use flumen_wire::messages::offset_fetch_response::OffsetFetchResponseGroup;
use flumen_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use flumen_wire::messages::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub const PARTITIONS: i32 = 4;
pub const WALL_START_MS: i64 = 1_700_000_000_000;

/// Topics t0..t9 with 10 partitions each; the id of tN is all N + 1.
pub struct TenTopics;

pub fn topic_id(n: u8) -> Uuid {
    Uuid::from_bytes([n + 1; 16])
}

const NAMES: [&str; 10] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"];

impl Topics for TenTopics {
    fn id_of(&self, name: &str) -> Option<Uuid> {
        let n = NAMES.iter().position(|n| *n == name)?;
        Some(topic_id(n as u8))
    }
    fn name_of(&self, id: Uuid) -> Option<&str> {
        (0..10)
            .find(|n| topic_id(*n) == id)
            .map(|n| NAMES[usize::from(n)])
    }
    fn has_partition(&self, name: &str, partition: PartitionIndex) -> bool {
        self.id_of(name).is_some() && (0..10).contains(&partition)
    }
}

pub type LogRecord = (PartitionIndex, Bytes, Option<Bytes>);

pub struct World {
    pub coordinator: GroupCoordinator,
    pub config: CoordinatorConfig,
    pub now: Now,
    /// What was committed, in order.
    pub log: Vec<LogRecord>,
    /// Appends not answered, oldest first.
    pub appends: VecDeque<Append>,
    /// Answers not looked at.
    pub replies: BTreeMap<ReplyToken, Reply>,
    /// Calls for stored share states that are not answered, oldest first.
    pub share_calls: VecDeque<(u64, ShareCall)>,
    pub token_last: u64,
    /// Appends are committed at once.
    pub auto_commit: bool,
    pub seed: u64,
    pub metadata: Arc<TestMetadata>,
}

pub fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        offsets_topic_num_partitions: PARTITIONS,
        ..CoordinatorConfig::default()
    }
}

pub fn ctx(api_version: i16) -> RequestContext<'static> {
    RequestContext {
        api_version,
        client_id: "client",
        client_host: "/127.0.0.1",
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(config(), 1)
    }

    pub fn with(config: CoordinatorConfig, seed: u64) -> Self {
        let mut world = Self {
            coordinator: GroupCoordinator::new(config.clone(), Prng::new(seed)),
            config,
            now: Now {
                mono: Mono(1_000_000_000),
                wall_ms: WALL_START_MS,
            },
            log: Vec::new(),
            appends: VecDeque::new(),
            replies: BTreeMap::new(),
            share_calls: VecDeque::new(),
            token_last: 0,
            auto_commit: true,
            seed,
            metadata: Arc::new(TestMetadata::ten()),
        };
        let metadata = world.metadata.clone();
        world.coordinator.set_metadata(metadata, &[], true);
        let mut out = Out::default();
        for p in 0..PARTITIONS {
            world.coordinator.begin_load(p);
            world.coordinator.finish_load(world.now, p, &mut out);
        }
        world.drain(out);
        world
    }

    /// A coordinator as a restart would bring it back from the first `records` records.
    pub fn replayed(&self, records: usize) -> GroupCoordinator {
        let mut coordinator = GroupCoordinator::new(self.config.clone(), Prng::new(self.seed));
        let mut out = Out::default();
        coordinator.set_metadata(self.metadata.clone(), &[], true);
        (0..PARTITIONS).for_each(|p| coordinator.begin_load(p));
        for (p, key, value) in &self.log[..records] {
            coordinator.replay(*p, key, value.as_deref()).unwrap();
        }
        (0..PARTITIONS).for_each(|p| coordinator.finish_load(self.now, p, &mut out));
        assert!(out.replies.is_empty());
        coordinator
    }

    /// The process restarts: everything in flight is lost.
    pub fn restart(&mut self) {
        self.appends.clear();
        self.share_calls.clear();
        self.seed += 1;
        self.coordinator = self.replayed(self.log.len());
    }

    pub fn token(&mut self) -> ReplyToken {
        self.token_last += 1;
        ReplyToken(self.token_last)
    }

    pub fn drain(&mut self, out: Out) {
        for (token, reply) in out.replies {
            let twice = self.replies.insert(token, reply);
            assert!(
                twice.is_none(),
                "seed {}: {token:?} answered twice",
                self.seed
            );
        }
        self.share_calls.extend(out.share_calls);
        for append in out.appends {
            assert!(!append.records.is_empty());
            self.appends.push_back(append);
        }
        if self.auto_commit {
            self.commit_all();
        }
    }

    pub fn commit_all(&mut self) {
        while self.commit_next() {}
    }

    pub fn commit_next(&mut self) -> bool {
        let Some(append) = self.appends.pop_front() else {
            return false;
        };
        for r in append.records {
            self.log.push((append.partition, r.key, r.value));
        }
        let mut out = Out::default();
        self.coordinator
            .commit(self.now, append.write_token, &mut out);
        self.drain(out);
        true
    }

    pub fn fail_next(&mut self, error: ErrorCode) -> bool {
        let Some(append) = self.appends.pop_front() else {
            return false;
        };
        self.fail(append.write_token, error);
        true
    }

    pub fn fail(&mut self, token: WriteToken, error: ErrorCode) {
        let mut out = Out::default();
        self.coordinator
            .append_failed(self.now, token, error, &mut out);
        self.drain(out);
    }

    /// Lets time pass, with every deadline on the way.
    pub fn advance_ms(&mut self, ms: i64) {
        let end = self.now.mono.plus_ms(ms);
        let start = self.now;
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            let at = at.max(self.now.mono);
            self.now.mono = at;
            self.now.wall_ms = start.wall_ms + (at.nanos_since(start.mono) / 1_000_000) as i64;
            let mut out = Out::default();
            self.coordinator.tick(self.now, &mut out);
            self.drain(out);
        }
        self.now.mono = end;
        self.now.wall_ms = start.wall_ms + ms;
    }

    // ---- requests ----

    pub fn join(&mut self, version: i16, request: &JoinGroupRequest<'_>) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .join_group(self.now, ctx(version), token, request, &mut out);
        self.drain(out);
        token
    }

    pub fn joined(&mut self, token: ReplyToken) -> JoinGroupResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::JoinGroup(response)) => response,
            other => panic!("no answer to JoinGroup: {other:?}"),
        }
    }

    pub fn sync(&mut self, version: i16, request: &SyncGroupRequest<'_>) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .sync_group(self.now, ctx(version), token, request, &mut out);
        self.drain(out);
        token
    }

    pub fn synced(&mut self, token: ReplyToken) -> SyncGroupResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::SyncGroup(response)) => response,
            other => panic!("no answer to SyncGroup: {other:?}"),
        }
    }

    pub fn is_waiting(&self, token: ReplyToken) -> bool {
        !self.replies.contains_key(&token)
    }

    pub fn heartbeat(&mut self, group: &str, member: &str, generation: i32) -> ErrorCode {
        self.heartbeat_as(group, member, None, generation)
    }

    pub fn heartbeat_as(
        &mut self,
        group: &str,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: group.into(),
            member_id: member.into(),
            generation_id: generation,
            group_instance_id: instance.map(Into::into),
        };
        let mut out = Out::default();
        let response = self.coordinator.heartbeat(self.now, &request, &mut out);
        self.drain(out);
        ErrorCode::from_i16(response.error_code).unwrap()
    }

    pub fn leave(
        &mut self,
        version: i16,
        group: &str,
        members: &[(&str, Option<&str>)],
    ) -> ReplyToken {
        let mut request = LeaveGroupRequest {
            group_id: group.into(),
            ..Default::default()
        };
        if version < 3 {
            request.member_id = members[0].0.into();
        } else {
            let members = members.iter().map(|(id, instance)| MemberIdentity {
                member_id: (*id).into(),
                group_instance_id: instance.map(Into::into),
                ..Default::default()
            });
            request.members = members.collect();
        }
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .leave_group(self.now, ctx(version), token, &request, &mut out);
        self.drain(out);
        token
    }

    pub fn left(&mut self, token: ReplyToken) -> LeaveGroupResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::LeaveGroup(response)) => response,
            other => panic!("no answer to LeaveGroup: {other:?}"),
        }
    }

    pub fn commit(&mut self, version: i16, request: &OffsetCommitRequest<'_>) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator.offset_commit(
            self.now,
            ctx(version),
            token,
            request,
            &TenTopics,
            &mut out,
        );
        self.drain(out);
        token
    }

    pub fn committed(&mut self, token: ReplyToken) -> OffsetCommitResponse<'static> {
        match self.replies.remove(&token) {
            Some(Reply::OffsetCommit(response)) => response,
            other => panic!("no answer to OffsetCommit: {other:?}"),
        }
    }

    pub fn fetch(
        &mut self,
        version: i16,
        request: &OffsetFetchRequestGroup<'_>,
        stable: bool,
    ) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .offset_fetch(ctx(version), token, request, stable, &TenTopics, &mut out);
        self.drain(out);
        token
    }

    pub fn fetched(&mut self, token: ReplyToken) -> OffsetFetchResponseGroup<'static> {
        match self.replies.remove(&token) {
            Some(Reply::OffsetFetch(group)) => group,
            other => panic!("no answer to OffsetFetch: {other:?}"),
        }
    }

    /// The committed offset of one partition, as a consumer without requireStable sees it; -1 for
    /// none.
    pub fn offset_of(&mut self, group: &str, topic: &str, partition: i32) -> i64 {
        let token = self.fetch(8, &fetch_request(group, topic, &[partition]), false);
        self.fetched(token).topics[0].partitions[0].committed_offset
    }

    pub fn delete_groups(&mut self, groups: &[&str]) -> ReplyToken {
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .delete_groups(self.now, token, groups, &mut out);
        self.drain(out);
        token
    }

    pub fn deleted(&mut self, token: ReplyToken) -> Vec<i16> {
        match self.replies.remove(&token) {
            Some(Reply::DeleteGroups(results)) => results.iter().map(|r| r.error_code).collect(),
            other => panic!("no answer to DeleteGroups: {other:?}"),
        }
    }

    pub fn delete_offset(&mut self, group: &str, topic: &str, partition: i32) -> ReplyToken {
        use flumen_wire::messages::offset_delete_request::*;
        let request = OffsetDeleteRequest {
            group_id: group.into(),
            topics: vec![OffsetDeleteRequestTopic {
                name: topic.into(),
                partitions: vec![OffsetDeleteRequestPartition {
                    partition_index: partition,
                }],
            }],
        };
        let token = self.token();
        let mut out = Out::default();
        self.coordinator
            .offset_delete(self.now, token, &request, &TenTopics, &mut out);
        self.drain(out);
        token
    }

    /// (error of the request, error of its one partition)
    pub fn offset_deleted(&mut self, token: ReplyToken) -> (i16, Option<i16>) {
        match self.replies.remove(&token) {
            Some(Reply::OffsetDelete(r)) => (
                r.error_code,
                r.topics.first().map(|t| t.partitions[0].error_code),
            ),
            other => panic!("no answer to OffsetDelete: {other:?}"),
        }
    }

    pub fn state(&self, group: &str) -> String {
        let described = self.coordinator.describe_group(ctx(5), group);
        described.group_state.into_owned()
    }

    /// Joins as a member in one go (two for dynamic members); waits out the initial delay.
    pub fn join_alone(&mut self, group: &str, protocol: &str) -> JoinGroupResponse<'static> {
        let token = self.join(3, &join_request(group, "", &[(protocol, b"meta")]));
        if self.is_waiting(token) {
            self.advance_ms(self.config.group_initial_rebalance_delay_ms.into());
        }
        self.joined(token)
    }

    /// A stable group of one member; returns its id and generation.
    pub fn stable_group(&mut self, group: &str) -> (String, i32) {
        let joined = self.join_alone(group, "range");
        let id = joined.member_id.to_string();
        let request = sync_request(group, &id, joined.generation_id, &[(&id, b"all")]);
        let token = self.sync(3, &request);
        self.commit_all();
        assert_eq!(self.synced(token).error_code, 0);
        (id, joined.generation_id)
    }
}

pub fn join_request<'a>(
    group: &'a str,
    member: &'a str,
    protocols: &[(&'a str, &'a [u8])],
) -> JoinGroupRequest<'a> {
    let protocols = protocols
        .iter()
        .map(|(name, metadata)| JoinGroupRequestProtocol {
            name: (*name).into(),
            metadata: (*metadata).into(),
        });
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.into(),
        protocol_type: "consumer".into(),
        protocols: protocols.collect(),
        ..Default::default()
    }
}

pub fn static_join<'a>(
    group: &'a str,
    member: &'a str,
    instance: &'a str,
    protocols: &[(&'a str, &'a [u8])],
) -> JoinGroupRequest<'a> {
    JoinGroupRequest {
        group_instance_id: Some(instance.into()),
        ..join_request(group, member, protocols)
    }
}

pub fn sync_request<'a>(
    group: &'a str,
    member: &'a str,
    generation: i32,
    assignments: &[(&'a str, &'a [u8])],
) -> SyncGroupRequest<'a> {
    let assignments = assignments
        .iter()
        .map(|(id, bytes)| SyncGroupRequestAssignment {
            member_id: (*id).into(),
            assignment: (*bytes).into(),
        });
    SyncGroupRequest {
        group_id: group.into(),
        generation_id: generation,
        member_id: member.into(),
        assignments: assignments.collect(),
        ..Default::default()
    }
}

/// Offsets as (topic, partition, offset).
pub fn commit_request<'a>(
    group: &'a str,
    member: &'a str,
    generation: i32,
    offsets: &[(&'a str, i32, i64)],
) -> OffsetCommitRequest<'a> {
    let topics = offsets
        .iter()
        .map(|(name, partition, offset)| OffsetCommitRequestTopic {
            name: (*name).into(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: *partition,
                committed_offset: *offset,
                committed_leader_epoch: -1,
                committed_metadata: Some("".into()),
            }],
            ..Default::default()
        });
    OffsetCommitRequest {
        group_id: group.into(),
        member_id: member.into(),
        generation_id_or_member_epoch: generation,
        topics: topics.collect(),
        ..Default::default()
    }
}

pub fn fetch_request<'a>(
    group: &'a str,
    topic: &'a str,
    partitions: &[i32],
) -> OffsetFetchRequestGroup<'a> {
    OffsetFetchRequestGroup {
        group_id: group.into(),
        topics: Some(vec![OffsetFetchRequestTopics {
            name: topic.into(),
            partition_indexes: partitions.to_vec(),
            ..Default::default()
        }]),
        ..Default::default()
    }
}

/// A consumer's subscription, version 1: topics, no user data, nothing owned.
pub fn subscription(topics: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0, 1];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes.extend(0i32.to_be_bytes());
    bytes
}

/// A group name whose partition is `partition`.
pub fn group_in(partition: PartitionIndex, n: usize) -> String {
    let mut names = (0..).map(|i| format!("group-{i}"));
    let found = names
        .by_ref()
        .filter(|name| partition_for(name, PARTITIONS) == partition);
    found.into_iter().nth(n).unwrap()
}

/// The seeds of a test that takes so many by default: `FLUMEN_TEST_SEED` alone, or
/// `FLUMEN_TEST_ROUNDS` times as many.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match number("FLUMEN_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * number("FLUMEN_TEST_ROUNDS").unwrap_or(1).max(1),
    }
}
