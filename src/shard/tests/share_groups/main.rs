//! Share groups (KIP-932) over shards driven in one thread: records shared by members,
//! acknowledged, released, held too long; sessions; offsets; restarts in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // helpers of tests

mod waits;

use bytes::Bytes;
use flumen_base::{ErrorCode, Prng, Uuid};
use flumen_log::BatchBuilder;
use flumen_log::batch::Batches;
use flumen_log::testing::MemDisk;
use flumen_shard::testing::{Client, Driver};
use flumen_wire::messages as wire;
use std::collections::{BTreeMap, BTreeSet};

const GROUP: &str = "g";
const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;
const RENEW: i8 = 4;

fn each_shape(test: impl Fn(Driver)) {
    for (shards, seed) in [(1, 1), (4, 2), (3, 3)] {
        println!("shards {shards} seed {seed}");
        test(Driver::ready(shards, seed));
    }
}

fn batch(from: i64, count: i64) -> Bytes {
    let mut b = BatchBuilder::new();
    for n in from..from + count {
        b.push(1_700_000_000_000, None, Some(n.to_string().as_bytes()));
    }
    b.build().unwrap()
}

/// Sets something for the group alone.
fn set(d: &mut Driver, c: Client, name: &str, value: &str) {
    use wire::incremental_alter_configs_request as alter;
    let config = alter::AlterableConfig {
        name: name.into(),
        value: Some(value.into()),
        ..Default::default()
    };
    let request = wire::IncrementalAlterConfigsRequest {
        resources: vec![alter::AlterConfigsResource {
            resource_type: 32,
            resource_name: GROUP.into(),
            configs: vec![config],
        }],
        ..Default::default()
    };
    let r: wire::IncrementalAlterConfigsResponse<'_> = d.call(c, &request, 1);
    assert_eq!(
        r.responses[0].error_code, 0,
        "{:?}",
        r.responses[0].error_message
    );
}

fn topic_id(d: &mut Driver, c: Client, name: &str) -> Uuid {
    let request = wire::MetadataRequest {
        topics: Some(vec![wire::metadata_request::MetadataRequestTopic {
            name: Some(name.into()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let r: wire::MetadataResponse<'_> = d.call(c, &request, 12);
    r.topics[0].topic_id
}

fn find(d: &mut Driver, c: Client) {
    for _ in 0..10 {
        let request = wire::FindCoordinatorRequest {
            coordinator_keys: vec![GROUP.into()],
            ..Default::default()
        };
        let r: wire::FindCoordinatorResponse<'_> = d.call(c, &request, 6);
        if r.coordinators[0].error_code == 0 {
            return;
        }
    }
    panic!("no coordinator");
}

fn beat(
    d: &mut Driver,
    c: Client,
    member: &str,
    epoch: i32,
) -> wire::ShareGroupHeartbeatResponse<'static> {
    let request = wire::ShareGroupHeartbeatRequest {
        group_id: GROUP.into(),
        member_id: member.to_owned().into(),
        member_epoch: epoch,
        subscribed_topic_names: (epoch == 0).then(|| vec!["t".into()]),
        ..Default::default()
    };
    d.call(c, &request, 1)
}

/// Joins, and beats until all partitions of the topic are assigned to somebody.
fn join(d: &mut Driver, c: Client, member: &str) -> i32 {
    let r = beat(d, c, member, 0);
    assert_eq!(r.error_code, 0, "{:?}", r.error_message);
    let mut epoch = r.member_epoch;
    for _ in 0..20 {
        d.run_for_ms(300);
        let r = beat(d, c, member, epoch);
        assert_eq!(r.error_code, 0, "{:?}", r.error_message);
        epoch = r.member_epoch;
        if r.assignment.is_some_and(|a| !a.topic_partitions.is_empty()) {
            return epoch;
        }
    }
    panic!("nothing is assigned");
}

/// What a member got: (partition, first, last, deliveries), and base offsets of batches.
#[derive(Debug, Default, PartialEq)]
struct Got {
    error: i16,
    pieces: Vec<(i32, i64, i64, i16)>,
    batches: Vec<(i32, i64)>,
    acks: BTreeMap<i32, i16>,
}

/// Offsets of one partition, and what is said of each.
type Say = (i32, i64, i64, i8);

/// A member with a session.
struct Member {
    c: Client,
    id: &'static str,
    topic: Uuid,
    epoch: i32,
}

impl Member {
    fn new(c: Client, id: &'static str, topic: Uuid) -> Self {
        Self {
            c,
            id,
            topic,
            epoch: 0,
        }
    }

    fn request(
        &mut self,
        partitions: &[i32],
        says: &[Say],
        wait_ms: i32,
    ) -> wire::ShareFetchRequest<'static> {
        use wire::share_fetch_request as fetch;
        let mut named: BTreeMap<i32, Vec<fetch::AcknowledgementBatch>> = BTreeMap::new();
        for p in partitions {
            named.entry(*p).or_default();
        }
        for (p, first, last, kind) in says {
            let batch = fetch::AcknowledgementBatch {
                first_offset: *first,
                last_offset: *last,
                acknowledge_types: vec![*kind],
            };
            named.entry(*p).or_default().push(batch);
        }
        let partitions = named.into_iter().map(|(p, batches)| fetch::FetchPartition {
            partition_index: p,
            acknowledgement_batches: batches,
        });
        let topic = fetch::FetchTopic {
            topic_id: self.topic,
            partitions: partitions.collect(),
        };
        let epoch = self.epoch;
        self.epoch += 1;
        wire::ShareFetchRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.into()),
            share_session_epoch: epoch,
            max_wait_ms: wait_ms,
            min_bytes: 1,
            max_bytes: 1 << 20,
            max_records: 500,
            batch_size: 500,
            topics: if topic.partitions.is_empty() {
                Vec::new()
            } else {
                vec![topic]
            },
            ..Default::default()
        }
    }

    fn fetch(&mut self, d: &mut Driver, partitions: &[i32], says: &[Say], wait_ms: i32) -> Got {
        let request = self.request(partitions, says, wait_ms);
        got(&d.call(self.c, &request, 2))
    }

    fn acknowledge(&mut self, d: &mut Driver, says: &[Say]) -> (i16, Vec<i16>) {
        use wire::share_acknowledge_request as ack;
        let partitions = says
            .iter()
            .map(|(p, first, last, kind)| ack::AcknowledgePartition {
                partition_index: *p,
                acknowledgement_batches: vec![ack::AcknowledgementBatch {
                    first_offset: *first,
                    last_offset: *last,
                    acknowledge_types: vec![*kind],
                }],
            });
        let request = wire::ShareAcknowledgeRequest {
            group_id: Some(GROUP.into()),
            member_id: Some(self.id.into()),
            share_session_epoch: self.epoch,
            is_renew_ack: says.iter().any(|s| s.3 == RENEW),
            topics: vec![ack::AcknowledgeTopic {
                topic_id: self.topic,
                partitions: partitions.collect(),
            }],
        };
        self.epoch += 1;
        let r: wire::ShareAcknowledgeResponse<'_> = d.call(self.c, &request, 2);
        let topics = r.responses.iter().flat_map(|t| &t.partitions);
        (r.error_code, topics.map(|p| p.error_code).collect())
    }
}

fn got(r: &wire::ShareFetchResponse<'_>) -> Got {
    let mut got = Got {
        error: r.error_code,
        ..Got::default()
    };
    for p in r.responses.iter().flat_map(|t| &t.partitions) {
        assert_eq!(p.error_code, 0, "partition {}", p.partition_index);
        got.acks.insert(p.partition_index, p.acknowledge_error_code);
        for a in &p.acquired_records {
            let piece = (
                p.partition_index,
                a.first_offset,
                a.last_offset,
                a.delivery_count,
            );
            got.pieces.push(piece);
        }
        for batch in Batches::new(&p.records).map_while(Result::ok) {
            got.batches
                .push((p.partition_index, batch.header.base_offset()));
        }
    }
    got.pieces.sort_unstable();
    got
}

/// A topic of so many partitions, and a member that reads it from its beginning.
fn with_member(d: &mut Driver, partitions: i32) -> Member {
    let c = d.connect(0);
    find(d, c);
    assert_eq!(d.create_topic(c, "t", partitions), 0);
    set(d, c, "share.auto.offset.reset", "earliest");
    join(d, c, "a");
    let topic = topic_id(d, c, "t");
    Member::new(c, "a", topic)
}

#[test]
fn records_are_handed_out_once_and_are_done_with_when_accepted() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 3);
        for p in 0..3 {
            assert_eq!(d.produce(a.c, "t", p, &batch(0, 4)).0, 0);
        }
        let got = a.fetch(&mut d, &[0, 1, 2], &[], 500);
        assert_eq!(got.pieces, [(0, 0, 3, 1), (1, 0, 3, 1), (2, 0, 3, 1)]);
        assert_eq!(got.batches.len(), 3);
        let c = d.connect(d.shards() - 1);
        let mut b = Member::new(c, "b", a.topic);
        assert_eq!(b.fetch(&mut d, &[0, 1, 2], &[], 50).pieces, []);
        let says = [
            (0, 0, 3, ACCEPT),
            (1, 0, 1, ACCEPT),
            (1, 2, 3, RELEASE),
            (2, 0, 3, REJECT),
        ];
        let got = a.fetch(&mut d, &[], &says, 500);
        assert_eq!(got.error, 0);
        assert!(got.acks.values().all(|e| *e == 0), "{got:?}");
        let mut pieces = got.pieces;
        if pieces.is_empty() {
            // The release was written after the fetch had looked.
            pieces = a.fetch(&mut d, &[], &[], 500).pieces;
        }
        assert_eq!(pieces, [(1, 2, 3, 2)], "delivered again");
        assert_eq!(a.acknowledge(&mut d, &[(1, 2, 3, ACCEPT)]), (0, vec![0]));
        assert_eq!(a.fetch(&mut d, &[], &[], 50).pieces, []);
        let (error, of) = a.acknowledge(&mut d, &[(1, 2, 3, ACCEPT)]);
        assert_eq!((error, of), (0, vec![0]), "below the start");
        let (_, of) = a.acknowledge(&mut d, &[(1, 9, 9, ACCEPT)]);
        assert_eq!(of, [ErrorCode::InvalidRequest.code()]);
    });
}

#[test]
fn large_batches_are_handed_out() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        let mut large = BatchBuilder::new();
        large.push(1_700_000_000_000, None, Some(&[7; 10_000]));
        let large = large.build().unwrap();
        assert_eq!(d.produce(a.c, "t", 0, &batch(0, 1)).0, 0);
        assert_eq!(d.produce(a.c, "t", 0, &large).0, 0);
        assert_eq!(d.produce(a.c, "t", 0, &batch(2, 1)).0, 0);
        let got = a.fetch(&mut d, &[0], &[], 500);
        assert_eq!(got.pieces, [(0, 0, 2, 1)]);
        assert_eq!(got.batches, [(0, 0), (0, 1), (0, 2)]);
    });
}

#[test]
fn a_fetch_waits_for_records() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 2);
        let request = a.request(&[0, 1], &[], 30_000);
        d.send(a.c, &request, 2);
        d.run_for_ms(100);
        assert!(d.take_answer(a.c).is_none(), "nothing is there");
        let c = d.connect(0);
        assert_eq!(d.produce(c, "t", 1, &batch(0, 1)).0, 0);
        d.wait_answer(a.c);
        // And for those that another gives back.
        let mut b = Member::new(d.connect(d.shards() - 1), "b", a.topic);
        let request = b.request(&[1], &[], 30_000);
        d.send(b.c, &request, 2);
        d.run_for_ms(100);
        assert!(d.take_answer(b.c).is_none());
        assert_eq!(a.acknowledge(&mut d, &[(1, 0, 0, RELEASE)]), (0, vec![0]));
        d.wait_answer(b.c);
    });
}

#[test]
fn what_a_member_holds_is_free_when_it_is_gone_or_late() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        assert_eq!(d.produce(a.c, "t", 0, &batch(0, 5)).0, 0);
        assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 0, 4, 1)]);
        let mut b = Member::new(d.connect(d.shards() - 1), "b", a.topic);
        assert_eq!(b.fetch(&mut d, &[0], &[], 50).pieces, []);
        d.disconnect(a.c);
        assert_eq!(b.fetch(&mut d, &[], &[], 1000).pieces, [(0, 0, 4, 2)]);
        // A lock that is renewed holds longer, one that is not runs out.
        d.run_for_ms(20_000);
        assert_eq!(b.acknowledge(&mut d, &[(0, 0, 1, RENEW)]), (0, vec![0]));
        let mut c = Member::new(d.connect(0), "c", a.topic);
        d.run_for_ms(11_000);
        assert_eq!(c.fetch(&mut d, &[0], &[], 50).pieces, [(0, 2, 4, 3)]);
        let (_, of) = b.acknowledge(&mut d, &[(0, 2, 4, ACCEPT)]);
        assert_eq!(of, [ErrorCode::InvalidRecordState.code()]);
        assert_eq!(b.acknowledge(&mut d, &[(0, 0, 1, ACCEPT)]), (0, vec![0]));
    });
}

#[test]
fn sessions_have_epochs_and_are_counted() {
    let mut settings = Driver::settings();
    settings.share.max_share_sessions = 1;
    let mut d = Driver::start(3, 8, settings, MemDisk::new());
    d.run_until_ready();
    let mut a = with_member(&mut d, 1);
    a.epoch = 5;
    let error = a.fetch(&mut d, &[0], &[], 0).error;
    assert_eq!(error, ErrorCode::ShareSessionNotFound.code());
    a.epoch = 0;
    assert_eq!(a.fetch(&mut d, &[0], &[], 0).error, 0);
    a.epoch = 7;
    let error = a.fetch(&mut d, &[], &[], 0).error;
    assert_eq!(error, ErrorCode::InvalidShareSessionEpoch.code());
    a.epoch = 0;
    let (error, _) = a.acknowledge(&mut d, &[(0, 0, 0, ACCEPT)]);
    assert_eq!(error, ErrorCode::InvalidShareSessionEpoch.code());
    let mut b = Member::new(d.connect(1), "b", a.topic);
    let error = b.fetch(&mut d, &[0], &[], 10).error;
    assert_eq!(error, ErrorCode::ShareSessionLimitReached.code());
    // The member comes back with another connection: that is no other session.
    let mut again = Member::new(d.connect(2), "a", a.topic);
    assert_eq!(again.fetch(&mut d, &[0], &[], 0).error, 0);
    again.epoch = -1;
    assert_eq!(again.fetch(&mut d, &[], &[], 0).error, 0);
    b.epoch = 0;
    assert_eq!(b.fetch(&mut d, &[0], &[], 10).error, 0, "there is room now");
    let initial = b.request(&[0], &[(0, 0, 0, ACCEPT)], 0);
    let initial = wire::ShareFetchRequest {
        share_session_epoch: 0,
        ..initial
    };
    let r: wire::ShareFetchResponse<'_> = d.call(b.c, &initial, 2);
    assert_eq!(r.error_code, ErrorCode::InvalidRequest.code());
}

fn lag(d: &mut Driver, c: Client) -> (i64, i64) {
    let request = wire::DescribeShareGroupOffsetsRequest {
        groups: vec![
            wire::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup {
                group_id: GROUP.into(),
                topics: None,
            },
        ],
    };
    let r: wire::DescribeShareGroupOffsetsResponse<'_> = d.call(c, &request, 1);
    let group = &r.groups[0];
    assert_eq!(group.error_code, 0);
    let line = &group.topics[0].partitions[0];
    assert_eq!(line.error_code, 0);
    (line.start_offset, line.lag)
}

/// Has the group begin at this offset of partition 0.
fn alter(start_offset: i64) -> wire::AlterShareGroupOffsetsRequest<'static> {
    use wire::alter_share_group_offsets_request as alter;
    let partition = alter::AlterShareGroupOffsetsRequestPartition {
        partition_index: 0,
        start_offset,
    };
    wire::AlterShareGroupOffsetsRequest {
        group_id: GROUP.into(),
        topics: vec![alter::AlterShareGroupOffsetsRequestTopic {
            topic_name: "t".into(),
            partitions: vec![partition],
        }],
    }
}

#[test]
fn offsets_are_described_altered_and_deleted_with_the_group() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        assert_eq!(d.produce(a.c, "t", 0, &batch(0, 10)).0, 0);
        assert_eq!(lag(&mut d, a.c), (-1, -1));
        assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 0, 9, 1)]);
        let (_, of) = a.acknowledge(&mut d, &[(0, 2, 3, ACCEPT)]);
        assert_eq!(of, [0]);
        assert_eq!(lag(&mut d, a.c), (0, 8));
        a.epoch = -1;
        assert_eq!(a.fetch(&mut d, &[], &[], 0).error, 0);
        assert_eq!(beat(&mut d, a.c, "a", -1).error_code, 0);
        let r: wire::AlterShareGroupOffsetsResponse<'_> = d.call(a.c, &alter(7), 0);
        assert_eq!(
            (r.error_code, r.responses[0].partitions[0].error_code),
            (0, 0)
        );
        assert_eq!(lag(&mut d, a.c), (7, 3));
        join(&mut d, a.c, "a");
        a.epoch = 0;
        assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 7, 9, 1)]);
        a.epoch = -1;
        a.fetch(&mut d, &[], &[], 0);
        beat(&mut d, a.c, "a", -1);
        let delete = wire::DeleteGroupsRequest {
            groups_names: vec![GROUP.into()],
        };
        let r: wire::DeleteGroupsResponse<'_> = d.call(a.c, &delete, 2);
        assert_eq!(r.results[0].error_code, 0);
        let describe = wire::ShareGroupDescribeRequest {
            group_ids: vec![GROUP.into()],
            ..Default::default()
        };
        let r: wire::ShareGroupDescribeResponse<'_> = d.call(a.c, &describe, 1);
        assert_eq!(r.groups[0].error_code, ErrorCode::GroupIdNotFound.code());
    });
}

#[test]
fn groups_are_listed_by_their_kind() {
    each_shape(|mut d| {
        let a = with_member(&mut d, 1);
        let request = wire::ListGroupsRequest {
            types_filter: vec!["share".into()],
            ..Default::default()
        };
        let r: wire::ListGroupsResponse<'_> = d.call(a.c, &request, 5);
        let lines: Vec<_> = r
            .groups
            .iter()
            .map(|g| {
                (
                    &*g.group_id,
                    &*g.protocol_type,
                    &*g.group_state,
                    &*g.group_type,
                )
            })
            .collect();
        assert_eq!(lines, [(GROUP, "share", "Stable", "share")]);
    });
}

#[test]
fn without_the_feature_there_are_no_share_groups() {
    let mut d = Driver::ready(2, 5);
    let c = d.connect(0);
    assert_eq!(d.switch_off(c, "share.version"), 0);
    let unsupported = ErrorCode::UnsupportedVersion.code();
    assert_eq!(beat(&mut d, c, "a", 0).error_code, unsupported);
    let mut a = Member::new(c, "a", Uuid::ZERO);
    assert_eq!(a.fetch(&mut d, &[], &[], 0).error, unsupported);
}

#[test]
fn stored_states_are_read_and_written_by_requests() {
    each_shape(|mut d| {
        let a = with_member(&mut d, 1);
        let topic_id = a.topic;
        let write = wire::WriteShareGroupStateRequest {
            group_id: GROUP.into(),
            topics: vec![wire::write_share_group_state_request::WriteStateData {
                topic_id,
                partitions: vec![wire::write_share_group_state_request::PartitionData {
                    state_epoch: 9,
                    leader_epoch: -1,
                    start_offset: 4,
                    delivery_complete_count: 2,
                    state_batches: vec![wire::write_share_group_state_request::StateBatch {
                        first_offset: 5,
                        last_offset: 6,
                        delivery_state: 2,
                        delivery_count: 1,
                    }],
                    ..Default::default()
                }],
            }],
        };
        let r: wire::WriteShareGroupStateResponse<'_> = d.call(a.c, &write, 1);
        assert_eq!(r.results[0].partitions[0].error_code, 0);
        let read = wire::ReadShareGroupStateRequest {
            group_id: GROUP.into(),
            topics: vec![wire::read_share_group_state_request::ReadStateData {
                topic_id,
                partitions: vec![wire::read_share_group_state_request::PartitionData {
                    leader_epoch: -1,
                    ..Default::default()
                }],
            }],
        };
        for _ in 0..2 {
            let r: wire::ReadShareGroupStateResponse<'_> = d.call(a.c, &read, 0);
            let line = &r.results[0].partitions[0];
            assert_eq!((line.error_code, line.start_offset), (0, 4));
            assert_eq!(line.state_batches.len(), 1);
            d.run_until_idle();
        }
    });
}

#[test]
fn a_fetch_waits_for_as_much_as_it_wants() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 2);
        let c = d.connect(0);
        a.fetch(&mut d, &[0, 1], &[], 0);
        let request = wire::ShareFetchRequest {
            min_bytes: 200,
            ..a.request(&[], &[], 30_000)
        };
        d.send(a.c, &request, 2);
        assert_eq!(d.produce(c, "t", 0, &batch(0, 1)).0, 0);
        d.run_for_ms(100);
        assert!(d.take_answer(a.c).is_none(), "less than 200 bytes");
        assert_eq!(d.produce(c, "t", 1, &batch(0, 30)).0, 0);
        d.wait_answer(a.c);
        // When its time is over it takes what there is.
        assert_eq!(d.produce(c, "t", 0, &batch(1, 1)).0, 0);
        let request = wire::ShareFetchRequest {
            min_bytes: 10_000,
            ..a.request(&[], &[], 500)
        };
        let got = got(&d.call(a.c, &request, 2));
        assert_eq!(got.pieces, [(0, 1, 1, 1)]);
    });
}

#[test]
fn states_that_are_not_stored_last_while_somebody_fetches() {
    let mut settings = Driver::settings();
    settings.share.stores_state = false;
    let mut d = Driver::start(3, 4, settings, MemDisk::new());
    d.run_until_ready();
    let mut a = with_member(&mut d, 1);
    assert_eq!(d.produce(a.c, "t", 0, &batch(0, 3)).0, 0);
    assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 0, 2, 1)]);
    assert_eq!(a.acknowledge(&mut d, &[(0, 0, 1, ACCEPT)]), (0, vec![0]));
    let mut b = Member::new(d.connect(1), "b", a.topic);
    assert_eq!(b.fetch(&mut d, &[0], &[], 0).pieces, []);
    a.epoch = -1;
    a.fetch(&mut d, &[], &[], 0);
    assert_eq!(b.fetch(&mut d, &[], &[], 1000).pieces, [(0, 2, 2, 2)]);
    b.epoch = -1;
    b.fetch(&mut d, &[], &[], 0);
    d.run_for_ms(100);
    b.epoch = 0;
    assert_eq!(
        b.fetch(&mut d, &[0], &[], 1000).pieces,
        [(0, 0, 2, 1)],
        "all over again"
    );
}

/// Members come, go, accept, release, fall silent; the process dies now and then. Every record is
/// accepted in the end, and none is delivered after its acceptance was confirmed.
#[test]
fn every_record_is_accepted_and_none_comes_back() {
    const IDS: [&str; 3] = ["a", "b", "c"];
    for seed in 0..12 {
        println!("seed {seed}");
        let mut prng = Prng::new(seed);
        let mut d = Driver::ready(1 + (seed % 3) as u16, seed);
        let first = with_member(&mut d, 2);
        set(&mut d, first.c, "share.delivery.count.limit", "10");
        let topic = first.topic;
        let mut members: Vec<Option<Member>> = vec![Some(first), None, None];
        let mut produced = [0i64; 2];
        let mut held: Vec<Vec<Say>> = vec![Vec::new(); 3];
        let mut done: BTreeSet<(i32, i64)> = BTreeSet::new();
        for round in 0..80 {
            let producing = round < 40;
            if producing && prng.below(3) == 0 {
                let p = prng.below(2) as i32;
                let c = d.connect(0);
                let count = 1 + prng.below(5) as i64;
                let (error, base) = d.produce(c, "t", p, &batch(0, count));
                assert_eq!(error, 0);
                assert_eq!(base, produced[p as usize]);
                produced[p as usize] += count;
                d.disconnect(c);
            }
            if prng.below(40) == 0 {
                d.kill();
                d.run_until_ready();
                members = vec![None, None, None];
                held = vec![Vec::new(); 3];
                d.run_for_ms(1000);
            }
            let n = prng.below(3) as usize;
            let shards = u64::from(d.shards());
            let member = match &mut members[n] {
                Some(member) => member,
                none => {
                    let c = d.connect(prng.below(shards) as u16);
                    none.insert(Member::new(c, IDS[n], topic))
                }
            };
            if prng.below(12) == 0 && producing {
                let c = member.c;
                members[n] = None;
                held[n].clear();
                d.disconnect(c);
                continue;
            }
            let mut says = std::mem::take(&mut held[n]);
            for say in &mut says {
                say.3 = if producing && prng.below(3) == 0 {
                    RELEASE
                } else {
                    ACCEPT
                };
            }
            let partitions: &[i32] = if member.epoch == 0 { &[0, 1] } else { &[] };
            if member.epoch == 0 {
                says.clear();
            }
            let got = member.fetch(&mut d, partitions, &says, 20);
            if got.error != 0 {
                member.epoch = 0;
                continue;
            }
            for (p, first, last, kind) in says {
                if got.acks.get(&p) == Some(&0) && kind == ACCEPT {
                    done.extend((first..=last).map(|offset| (p, offset)));
                }
            }
            for (p, first, last, _) in &got.pieces {
                for offset in *first..=*last {
                    assert!(
                        !done.contains(&(*p, offset)),
                        "seed {seed}: {p} {offset} again"
                    );
                }
                held[n].push((*p, *first, *last, ACCEPT));
            }
            if !producing {
                d.run_for_ms(2000); // locks of members that are gone run out
            }
        }
        let all = produced.iter().sum::<i64>() as usize;
        assert!(done.len() <= all);
        assert_eq!(done.len(), all, "seed {seed}: not all are accepted");
    }
}
