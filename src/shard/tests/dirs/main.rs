//! Several log directories: where partitions go, directories that fail or are full, moves between
//! them.
#![allow(clippy::unwrap_used)] // a test may panic

mod full;
mod moves;
mod offline;

use bytes::Bytes;
use flumen_log::BatchBuilder;
use flumen_log::batch::{Batches, Records};
use flumen_log::testing::MemDisk;
use flumen_settings::BrokerConfig;
use flumen_shard::testing::{Client, Driver, produce_request};
use flumen_wire::messages as wire;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

const A: &str = "/a";
const B: &str = "/b";
const STORAGE_ERROR: i16 = 56;
const NO_ROOM: i16 = 19;

/// How often random scenarios are repeated.
fn rounds(default: u64) -> u64 {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    default * factor.and_then(|f| f.parse::<u64>().ok()).unwrap_or(1)
}

fn settings() -> BrokerConfig {
    Driver::settings_with(&[A, B])
}

fn start(shards: u16, seed: u64, settings: BrokerConfig) -> (Driver, Client) {
    let mut d = Driver::start(shards, seed, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    (d, c)
}

/// The process starts again, after this.
fn again(d: &mut Driver, how: fn(&mut Driver)) -> Client {
    how(d);
    d.run_until_ready();
    d.connect(0)
}

fn delete_records(d: &mut Driver, c: Client, topic: &str, partition: i32, below: i64) -> i16 {
    let request = wire::DeleteRecordsRequest {
        topics: vec![wire::delete_records_request::DeleteRecordsTopic {
            name: topic.into(),
            partitions: vec![wire::delete_records_request::DeleteRecordsPartition {
                partition_index: partition,
                offset: below,
            }],
        }],
        timeout_ms: 1000,
    };
    let r: wire::DeleteRecordsResponse<'_> = d.call(c, &request, 2);
    r.topics[0].partitions[0].error_code
}

fn batch(value: &str) -> Bytes {
    let mut b = BatchBuilder::new();
    b.push(1_700_000_000_000, None, Some(value.as_bytes()));
    b.build().unwrap()
}

/// Produces one record and gives (error, base offset).
fn produce(d: &mut Driver, c: Client, topic: &str, partition: i32, value: &str) -> (i16, i64) {
    d.produce(c, topic, partition, &batch(value))
}

fn fetch_of(topic: &str, partition: i32, offset: i64) -> wire::FetchRequest<'_> {
    wire::FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![wire::fetch_request::FetchTopic {
            topic: topic.into(),
            partitions: vec![wire::fetch_request::FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// (error, values from this offset to the end).
fn read(d: &mut Driver, c: Client, topic: &str, partition: i32, from: i64) -> (i16, Vec<String>) {
    let mut out = Vec::new();
    let mut offset = from;
    loop {
        let r: wire::FetchResponse<'_> = d.call(c, &fetch_of(topic, partition, offset), 12);
        let p = &r.responses[0].partitions[0];
        let before = offset;
        for b in Batches::new(p.records.as_deref().unwrap_or_default()) {
            let b = b.unwrap();
            assert_eq!(b.header.base_offset(), offset, "offsets are not dense");
            offset = b.header.last_offset() + 1;
            let section = b.unfold(1 << 20).unwrap();
            for record in Records::new(&section, b.header.count()) {
                let value = record.unwrap().value.unwrap().to_vec();
                out.push(String::from_utf8(value).unwrap());
            }
        }
        if p.error_code != 0 || offset == before {
            return (p.error_code, out);
        }
    }
}

fn describe(d: &mut Driver, c: Client) -> wire::DescribeLogDirsResponse<'static> {
    let request = wire::DescribeLogDirsRequest { topics: None };
    d.call(c, &request, 4)
}

/// Partitions by log directory, those to come apart.
fn places(d: &mut Driver, c: Client, future: bool) -> BTreeMap<String, Vec<(String, i32)>> {
    let mut out = BTreeMap::new();
    for dir in describe(d, c).results {
        let mut found = Vec::new();
        for topic in &dir.topics {
            let partitions = topic.partitions.iter();
            let partitions = partitions.filter(|p| p.is_future_key == future);
            found.extend(partitions.map(|p| (topic.name.to_string(), p.partition_index)));
        }
        found.sort();
        out.insert(dir.log_dir.to_string(), found);
    }
    out
}

/// The log directory of a partition.
fn dir_of(d: &mut Driver, c: Client, topic: &str, partition: i32) -> Option<String> {
    let wanted = (topic.to_owned(), partition);
    let mut all = places(d, c, false).into_iter();
    all.find(|(_, found)| found.contains(&wanted))
        .map(|(dir, _)| dir)
}

/// A partition of the topic in this log directory.
fn partition_in(d: &mut Driver, c: Client, topic: &str, dir: &str) -> i32 {
    let found = places(d, c, false).remove(dir).unwrap();
    found.iter().find(|(t, _)| t == topic).unwrap().1
}

#[test]
fn partitions_are_spread_over_directories_and_found_there_again() {
    let (mut d, mut c) = start(3, 1, settings());
    assert_eq!(d.create_topic(c, "t", 3), 0);
    assert_eq!(d.create_topic(c, "u", 5), 0);
    for n in 0..5 {
        assert_eq!(produce(&mut d, c, "u", n, "v"), (0, 0));
    }
    let before = places(&mut d, c, false);
    let counts: Vec<usize> = before.values().map(Vec::len).collect();
    assert_eq!(counts, [4, 4]);
    for how in [Driver::restart, Driver::kill] {
        c = again(&mut d, how);
        assert_eq!(places(&mut d, c, false), before);
        for n in 0..5 {
            assert_eq!(read(&mut d, c, "u", n, 0), (0, vec!["v".to_owned()]));
        }
    }
    for dir in [A, B] {
        let dir = Path::new(dir);
        for name in [
            "recovery-point-offset-checkpoint",
            "flumen-topic-id-checkpoint",
        ] {
            assert!(d.disk.contents(&dir.join(name)).is_some(), "{name}");
        }
    }
}
