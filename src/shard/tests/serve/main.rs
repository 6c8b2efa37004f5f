//! Shards driven in one thread over an in-memory disk: produce, fetch, sessions, groups, topics,
//! restarts.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests stand outside of them

mod chaos;
mod groups;
mod metadata;
mod records;

use bytes::Bytes;
use flumen_log::BatchBuilder;
use flumen_log::batch::Batches;
use flumen_shard::testing::{Client, Driver, each_shape};
use flumen_wire::messages as wire;

fn batch(values: &[&str]) -> Bytes {
    let mut b = BatchBuilder::new();
    for value in values {
        b.push(1_700_000_000_000, None, Some(value.as_bytes()));
    }
    b.build().unwrap()
}

/// Produces and gives (error, base offset).
fn produce(d: &mut Driver, c: Client, topic: &str, partition: i32, values: &[&str]) -> (i16, i64) {
    d.produce(c, topic, partition, &batch(values))
}

fn fetch_request<'a>(parts: &[(&'a str, i32, i64)], wait_ms: i32) -> wire::FetchRequest<'a> {
    wire::FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: parts
            .iter()
            .map(
                |(topic, partition, offset)| wire::fetch_request::FetchTopic {
                    topic: (*topic).into(),
                    partitions: vec![wire::fetch_request::FetchPartition {
                        partition: *partition,
                        fetch_offset: *offset,
                        partition_max_bytes: 1 << 20,
                        ..Default::default()
                    }],
                    ..Default::default()
                },
            )
            .collect(),
        ..Default::default()
    }
}

/// The values of all partitions in a fetch response.
fn values(r: &wire::FetchResponse<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for p in r.responses.iter().flat_map(|t| &t.partitions) {
        assert_eq!(p.error_code, 0);
        for b in Batches::new(p.records.as_deref().unwrap_or_default()) {
            let b = b.unwrap();
            let section = b.unfold(1 << 20).unwrap();
            for record in flumen_log::batch::Records::new(&section, b.header.count()) {
                let value = record.unwrap().value.unwrap().to_vec();
                out.push(String::from_utf8(value).unwrap());
            }
        }
    }
    out
}

fn fetch(d: &mut Driver, c: Client, topic: &str, partition: i32, offset: i64) -> Vec<String> {
    let request = fetch_request(&[(topic, partition, offset)], 0);
    let r: wire::FetchResponse<'_> = d.call(c, &request, 12);
    values(&r)
}
