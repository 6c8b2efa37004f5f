//! Share groups (KIP-932) over shards driven in one thread: records shared by members,
//! acknowledged, released, held too long; sessions; offsets; restarts in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // helpers of tests

mod offsets;
mod records;
mod states;
mod waits;

use bytes::Bytes;
use flumen_base::{ErrorCode, Prng, Uuid};
use flumen_log::BatchBuilder;
use flumen_log::batch::Batches;
use flumen_log::testing::MemDisk;
use flumen_shard::testing::{Client, Driver, each_shape};
use flumen_wire::messages as wire;
use std::collections::{BTreeMap, BTreeSet};

const GROUP: &str = "g";

const ACCEPT: i8 = 1;

const RELEASE: i8 = 2;

const REJECT: i8 = 3;

const RENEW: i8 = 4;

fn batch(from: i64, count: i64) -> Bytes {
    let mut b = BatchBuilder::new();
    for n in from..from + count {
        b.push(1_700_000_000_000, None, Some(n.to_string().as_bytes()));
    }
    b.build().unwrap()
}

/// Sets something for the group alone.
fn set(d: &mut Driver, c: Client, name: &str, value: &str) {
    d.set_group_configs(c, GROUP, &[(name, value)]);
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
    d.find_coordinator(c, GROUP, 0);
    assert_eq!(d.create_topic(c, "t", partitions), 0);
    set(d, c, "share.auto.offset.reset", "earliest");
    join(d, c, "a");
    let topic = d.topic_id(c, "t");
    Member::new(c, "a", topic)
}
