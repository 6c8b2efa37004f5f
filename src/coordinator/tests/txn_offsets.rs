//! Offsets that are committed with a transaction: a log that knows of producers and markers.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod common;

use bytes::Bytes;
use common::consumers::TestMetadata;
use common::streams::{Beat, join_streams, running, simple};
use common::{PARTITIONS, TenTopics, WALL_START_MS, config, ctx};
use flumen_base::{ErrorCode, Mono, Now, PartitionIndex, Prng};
use flumen_coordinator::{
    Append, AppendKind, CoordinatorConfig, GroupCoordinator, Out, Reply, ReplyToken, TxnMarker,
    partition_for, txn_commit_draft,
};
use flumen_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use flumen_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use flumen_wire::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use flumen_wire::messages::{OffsetCommitRequest, TxnOffsetCommitRequest};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const G: &str = "g";

#[derive(Clone, Debug)]
enum Logged {
    Record(Option<i64>, Bytes, Option<Bytes>),
    Marker(TxnMarker),
}

struct World {
    coordinator: GroupCoordinator,
    now: Now,
    log: Vec<(PartitionIndex, Logged)>,
    appends: VecDeque<Append>,
    replies: BTreeMap<ReplyToken, Reply>,
    token_last: u64,
    auto_commit: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            coordinator: GroupCoordinator::new(config(), Prng::new(1)),
            now: Now {
                mono: Mono(1_000_000_000),
                wall_ms: WALL_START_MS,
            },
            log: Vec::new(),
            appends: VecDeque::new(),
            replies: BTreeMap::new(),
            token_last: 0,
            auto_commit: true,
        };
        world.restart();
        world
    }

    fn replayed(&self, records: usize) -> GroupCoordinator {
        let mut c = GroupCoordinator::new(config(), Prng::new(1));
        let mut out = Out::default();
        (0..PARTITIONS).for_each(|p| c.begin_load(p));
        for (p, logged) in &self.log[..records] {
            match logged {
                Logged::Record(None, key, value) => c.replay(*p, key, value.as_deref()).unwrap(),
                Logged::Record(Some(id), key, value) => {
                    c.replay_txn(*p, *id, key, value.as_deref()).unwrap();
                }
                Logged::Marker(m) => c.replay_marker(*p, m.producer_id, m.commit),
            }
        }
        (0..PARTITIONS).for_each(|p| c.finish_load(self.now, p, &mut out));
        c
    }

    fn restart(&mut self) {
        self.appends.clear();
        self.coordinator = self.replayed(self.log.len());
    }

    fn run(
        &mut self,
        call: impl FnOnce(&mut GroupCoordinator, Now, ReplyToken, &mut Out),
    ) -> ReplyToken {
        self.token_last += 1;
        let token = ReplyToken(self.token_last);
        let mut out = Out::default();
        call(&mut self.coordinator, self.now, token, &mut out);
        self.drain(out);
        token
    }

    fn drain(&mut self, out: Out) {
        self.replies.extend(out.replies);
        self.appends.extend(out.appends);
        while self.auto_commit && !self.appends.is_empty() {
            self.commit_next();
        }
    }

    fn commit_next(&mut self) {
        let append = self.appends.pop_front().unwrap();
        let p = append.partition;
        match append.kind {
            AppendKind::Marker(marker) => self.log.push((p, Logged::Marker(marker))),
            kind => {
                let id = match kind {
                    AppendKind::Txn { producer_id, .. } => Some(producer_id),
                    _ => None,
                };
                let records = append.records.into_iter();
                self.log
                    .extend(records.map(|r| (p, Logged::Record(id, r.key, r.value))));
            }
        }
        let mut out = Out::default();
        self.coordinator
            .commit(self.now, append.write_token, &mut out);
        self.drain(out);
    }

    fn fail_next(&mut self, error: ErrorCode) {
        let append = self.appends.pop_front().unwrap();
        let mut out = Out::default();
        self.coordinator
            .append_failed(self.now, append.write_token, error, &mut out);
        self.drain(out);
    }

    fn txn_commit(&mut self, id: i64, topic: &str, offset: i64) -> ReplyToken {
        self.txn_commit_as(id, topic, offset, (-1, ""))
    }

    fn txn_commit_as(
        &mut self,
        id: i64,
        topic: &str,
        offset: i64,
        (generation_id, member): (i32, &str),
    ) -> ReplyToken {
        let request = TxnOffsetCommitRequest {
            transactional_id: "t".into(),
            group_id: G.into(),
            producer_id: id,
            producer_epoch: 3,
            generation_id,
            member_id: member.into(),
            topics: vec![TxnOffsetCommitRequestTopic {
                name: topic.into(),
                partitions: vec![TxnOffsetCommitRequestPartition {
                    partition_index: 0,
                    committed_offset: offset,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let draft = txn_commit_draft(&request, &TenTopics);
        self.run(|c, now, token, out| {
            c.txn_offset_commit(now, token, &request, draft, Some(9), out);
        })
    }

    fn done(&mut self, token: ReplyToken) -> ErrorCode {
        let code = match self.replies.remove(&token).unwrap() {
            Reply::TxnOffsetCommit(r) => r.topics[0].partitions[0].error_code,
            Reply::OffsetCommit(r) => r.topics[0].partitions[0].error_code,
            Reply::TxnCompleted(error) => return error,
            other => panic!("{other:?}"),
        };
        ErrorCode::from_i16(code).unwrap()
    }

    fn commit(&mut self, topic: &str, offset: i64) -> ReplyToken {
        let request = OffsetCommitRequest {
            group_id: G.into(),
            generation_id_or_member_epoch: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: topic.into(),
                partitions: vec![OffsetCommitRequestPartition {
                    committed_offset: offset,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        self.run(|c, now, token, out| {
            c.offset_commit(now, ctx(8), token, &request, &TenTopics, out);
        })
    }

    fn end(&mut self, id: i64, commit: bool) -> ReplyToken {
        let partition = partition_for(G, PARTITIONS);
        let marker = TxnMarker {
            producer_id: id,
            producer_epoch: 4,
            coordinator_epoch: 0,
            commit,
            transaction_version: 2,
        };
        self.run(|c, now, token, out| c.complete_txn(now, token, partition, marker, out))
    }

    fn offset(&mut self, topic: &str, stable: bool) -> Result<i64, ErrorCode> {
        let request = OffsetFetchRequestGroup {
            group_id: G.into(),
            topics: Some(vec![OffsetFetchRequestTopics {
                name: topic.into(),
                partition_indexes: vec![0],
                ..Default::default()
            }]),
            ..Default::default()
        };
        let token = self.run(|c, _, token, out| {
            c.offset_fetch(ctx(8), token, &request, stable, &TenTopics, out);
        });
        let Reply::OffsetFetch(group) = self.replies.remove(&token).unwrap() else {
            panic!("another answer");
        };
        let p = &group.topics[0].partitions[0];
        match ErrorCode::from_i16(p.error_code).unwrap() {
            ErrorCode::None => Ok(p.committed_offset),
            error => Err(error),
        }
    }
}

const UNSTABLE: Result<i64, ErrorCode> = Err(ErrorCode::UnstableOffsetCommit);

#[test]
fn a_marker_decides() {
    for restart in [false, true] {
        let mut w = World::new();
        let token = w.txn_commit(7, "t0", 5);
        assert_eq!(w.done(token), ErrorCode::None);
        if restart {
            w.restart();
        }
        assert_eq!(
            (w.offset("t0", false), w.offset("t0", true)),
            (Ok(-1), UNSTABLE)
        );
        let token = w.end(7, true);
        assert_eq!(w.done(token), ErrorCode::None);
        assert_eq!(w.offset("t0", true), Ok(5));
        w.txn_commit(7, "t0", 6);
        w.txn_commit(7, "t1", 6);
        w.end(7, false);
        if restart {
            w.restart();
        }
        assert_eq!(
            (w.offset("t0", true), w.offset("t1", true)),
            (Ok(5), Ok(-1))
        );
        let token = w.end(99, true);
        assert_eq!(w.done(token), ErrorCode::None, "of nobody here");
    }
}

#[test]
fn the_younger_of_two_commits_stands() {
    for restart in [false, true] {
        let mut w = World::new();
        w.txn_commit(7, "t0", 5);
        w.commit("t0", 6);
        w.txn_commit(7, "t1", 5);
        w.txn_commit(8, "t1", 7);
        w.end(8, true);
        if restart {
            w.restart();
        }
        w.end(7, true);
        if restart {
            w.restart();
        }
        assert_eq!((w.offset("t0", true), w.offset("t1", true)), (Ok(6), Ok(7)));
    }
}

#[test]
fn what_fails_leaves_no_trace() {
    let mut w = World::new();
    w.auto_commit = false;
    let token = w.txn_commit(7, "t0", 5);
    w.fail_next(ErrorCode::NotEnoughReplicas);
    assert_eq!(w.done(token), ErrorCode::CoordinatorNotAvailable);
    let described = w.coordinator.describe_group(ctx(6), G);
    assert_eq!(described.error_code, ErrorCode::GroupIdNotFound.code());
    let token = w.txn_commit(7, "t0", 5);
    w.commit_next();
    assert_eq!(w.done(token), ErrorCode::None);
    let token = w.end(7, true);
    w.fail_next(ErrorCode::KafkaStorageError);
    assert_eq!(w.done(token), ErrorCode::NotLeaderOrFollower, "try again");
    w.auto_commit = true;
    assert_eq!(w.offset("t0", true), UNSTABLE);
    let token = w.end(7, true);
    assert_eq!(w.done(token), ErrorCode::None);
    assert_eq!(w.offset("t0", true), Ok(5));
}

#[test]
fn the_next_transaction_of_a_producer_is_not_decided_by_the_marker_before_it() {
    let mut w = World::new();
    w.txn_commit(7, "t0", 5);
    w.auto_commit = false;
    w.end(7, true);
    let next = w.txn_commit(7, "t0", 6);
    w.commit_next();
    w.commit_next();
    w.auto_commit = true;
    assert_eq!(w.done(next), ErrorCode::None);
    assert_eq!(
        (w.offset("t0", false), w.offset("t0", true)),
        (Ok(5), UNSTABLE)
    );
    w.end(7, true);
    assert_eq!(w.offset("t0", true), Ok(6));
}

#[test]
fn who_may_commit() {
    let mut w = World::new();
    let illegal = ErrorCode::IllegalGeneration;
    let token = w.txn_commit_as(7, "t0", 5, (1, "m"));
    assert_eq!(w.done(token), illegal, "no such group");
    w.commit("t0", 1);
    let token = w.txn_commit_as(7, "t0", 5, (1, "m"));
    assert_eq!(w.done(token), ErrorCode::UnknownMemberId);
    let token = w.txn_commit_as(7, "nope", 5, (-1, ""));
    assert_eq!(w.done(token), ErrorCode::UnknownTopicOrPartition);
    let token = w.txn_commit(7, "t0", 5);
    assert_eq!(w.done(token), ErrorCode::None);
}

#[test]
fn deleting_a_group_buries_what_transactions_would_bring_back() {
    for restart in [false, true] {
        let mut w = World::new();
        w.txn_commit(7, "t0", 5);
        let token = w.run(|c, now, token, out| c.delete_groups(now, token, &[G], out));
        let reply = w.replies.remove(&token).unwrap();
        assert!(matches!(reply, Reply::DeleteGroups(r) if r[0].error_code == 0));
        if restart {
            w.restart();
        }
        w.end(7, true);
        assert_eq!(w.offset("t0", true), Ok(-1));
    }
}

#[test]
fn replay_of_any_prefix_is_the_state_that_was() {
    for seed in 0..40 {
        let mut prng = Prng::new(seed);
        let mut w = World::new();
        w.auto_commit = seed % 2 == 0;
        let mut states: BTreeMap<usize, String> = BTreeMap::new();
        for _ in 0..120 {
            let topic = ["t0", "t1"][prng.below(2) as usize];
            let (id, offset) = (prng.below(3) as i64, prng.below(1000) as i64);
            match prng.below(10) {
                0..4 => w.txn_commit(id, topic, offset),
                4..6 => w.commit(topic, offset),
                6..8 => w.end(id, prng.below(2) == 0),
                _ if w.appends.is_empty() => continue,
                8 => {
                    w.fail_next(ErrorCode::NotEnoughReplicas);
                    continue;
                }
                _ => {
                    w.commit_next();
                    continue;
                }
            };
            if w.appends.is_empty() {
                let seen = (w.offset("t0", true), w.offset("t1", true));
                let plain = (w.offset("t0", false), w.offset("t1", false));
                states.insert(w.log.len(), format!("{seen:?} {plain:?}"));
            }
        }
        w.appends.clear();
        for (records, state) in states {
            w.coordinator = w.replayed(records);
            let seen = (w.offset("t0", true), w.offset("t1", true));
            let plain = (w.offset("t0", false), w.offset("t1", false));
            assert_eq!(
                format!("{seen:?} {plain:?}"),
                state,
                "seed {seed} at {records}"
            );
        }
    }
}

#[test]
fn members_of_streams_groups_commit_by_their_epoch() {
    let mut w = World::new();
    w.coordinator.set_config(CoordinatorConfig {
        streams_group_initial_rebalance_delay_ms: 0,
        streams_group_assignment_interval_ms: 0,
        ..config()
    });
    let metadata = Arc::new(TestMetadata::ten());
    w.coordinator.set_metadata(metadata, &[], true);
    let beat = |w: &mut World, request: &Beat<'_>| {
        let token = w.run(|c, now, token, out| {
            c.streams_group_heartbeat(now, ctx(0), token, request, out);
        });
        match w.replies.remove(&token) {
            Some(Reply::StreamsGroupHeartbeat(beat)) => beat.response.member_epoch,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(beat(&mut w, &join_streams(G, "a", simple())), 2);
    let commit = |w: &mut World, as_member| {
        let token = w.txn_commit_as(7, "t0", 5, as_member);
        w.done(token)
    };
    for (as_member, error) in [
        ((2, "a"), ErrorCode::None),
        ((-1, ""), ErrorCode::None),
        ((3, "a"), ErrorCode::IllegalGeneration),
        ((1, "a"), ErrorCode::IllegalGeneration),
        ((2, "b"), ErrorCode::UnknownMemberId),
    ] {
        assert_eq!(commit(&mut w, as_member), error, "{as_member:?}");
    }
    // In a later epoch a member may commit in the old one what it has had since.
    beat(&mut w, &join_streams(G, "b", simple()));
    let half = [0, 1, 2, 3, 4];
    assert_eq!(beat(&mut w, &running(G, "a", 2, &[("0", &half)], &[])), 3);
    assert_eq!(commit(&mut w, (2, "a")), ErrorCode::None);
    assert_eq!(w.offset("t0", true), UNSTABLE);
    w.end(7, true);
    assert_eq!(w.offset("t0", true), Ok(5));
}
