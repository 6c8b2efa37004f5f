//! Transactions over shards driven in one thread: produced, committed, rolled back, read committed,
//! offsets with them, restarts in the middle.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod offsets;
mod order;
mod records;

use bytes::Bytes;
use flumen_base::ErrorCode;
use flumen_log::{BatchBuilder, Marker};
use flumen_shard::testing::{Client, Driver, each_shape};
use flumen_wire::messages as wire;
use std::borrow::Cow;
use std::collections::BTreeSet;

fn create(d: &mut Driver, c: Client, name: &str, partitions: i32) {
    assert_eq!(d.create_topic(c, name, partitions), 0);
}

type Who = (i64, i16);

fn init(d: &mut Driver, c: Client, id: &str) -> Who {
    d.find_coordinator(c, id, 1);
    for _ in 0..100 {
        let request = wire::InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        let r: wire::InitProducerIdResponse = d.call(c, &request, 5);
        match ErrorCode::from_i16(r.error_code) {
            Some(ErrorCode::None) => return (r.producer_id, r.producer_epoch),
            Some(
                ErrorCode::ConcurrentTransactions
                | ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::NotCoordinator,
            ) => d.run_for_ms(10),
            other => panic!("{other:?}"),
        }
    }
    panic!("{id} stays busy");
}

fn batch(who: Who, sequence: i32, value: &str) -> Bytes {
    let mut b = BatchBuilder::new()
        .producer(who.0, who.1, sequence)
        .transactional(who.0 >= 0);
    b.push(1_700_000_000_000, None, Some(value.as_bytes()));
    b.build().unwrap()
}

struct Produce<'a> {
    id: Option<&'a str>,
    who: Who,
    sequence: i32,
    at: (&'a str, i32),
    value: &'a str,
}

fn produce(d: &mut Driver, c: Client, version: i16, p: &Produce<'_>) -> ErrorCode {
    let records = batch(p.who, p.sequence, p.value);
    let request = wire::ProduceRequest {
        transactional_id: p.id.map(Into::into),
        acks: -1,
        timeout_ms: 1000,
        topic_data: vec![wire::produce_request::TopicProduceData {
            name: p.at.0.into(),
            partition_data: vec![wire::produce_request::PartitionProduceData {
                index: p.at.1,
                records: Some(Cow::Borrowed(&records)),
            }],
            ..Default::default()
        }],
    };
    let r: wire::ProduceResponse<'_> = d.call(c, &request, version);
    let p = &r.responses[0].partition_responses[0];
    ErrorCode::from_i16(p.error_code).unwrap()
}

fn write(d: &mut Driver, c: Client, who: Who, sequence: i32, at: (&str, i32), value: &str) {
    let p = Produce {
        id: Some("a"),
        who,
        sequence,
        at,
        value,
    };
    assert_eq!(produce(d, c, 12, &p), ErrorCode::None);
}

fn end(d: &mut Driver, c: Client, id: &str, who: Who, commit: bool) -> Result<Who, ErrorCode> {
    let request = wire::EndTxnRequest {
        transactional_id: id.into(),
        producer_id: who.0,
        producer_epoch: who.1,
        committed: commit,
    };
    let r: wire::EndTxnResponse = d.call(c, &request, 5);
    match ErrorCode::from_i16(r.error_code).unwrap() {
        ErrorCode::None => Ok((r.producer_id, r.producer_epoch)),
        error => Err(error),
    }
}

/// Reads like a consumer: (values, last stable offset).
fn fetch(d: &mut Driver, c: Client, at: (&str, i32), committed: bool) -> (Vec<String>, i64) {
    let request = wire::FetchRequest {
        max_bytes: 1 << 20,
        session_epoch: -1,
        isolation_level: i8::from(committed),
        topics: vec![wire::fetch_request::FetchTopic {
            topic: at.0.into(),
            partitions: vec![wire::fetch_request::FetchPartition {
                partition: at.1,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let r: wire::FetchResponse<'_> = d.call(c, &request, 12);
    let p = &r.responses[0].partitions[0];
    assert_eq!(p.error_code, 0);
    let mut aborted: Vec<(i64, i64)> = p
        .aborted_transactions
        .iter()
        .flatten()
        .map(|t| (t.first_offset, t.producer_id))
        .collect();
    aborted.sort_unstable();
    let mut aborted = aborted.into_iter().peekable();
    let mut rolled_back = BTreeSet::new();
    let mut out = Vec::new();
    for b in flumen_log::batch::Batches::new(p.records.as_deref().unwrap_or_default()) {
        let b = b.unwrap();
        while let Some((_, id)) = aborted.next_if(|(first, _)| *first <= b.header.last_offset()) {
            rolled_back.insert(id);
        }
        let records = flumen_log::batch::Records::new(b.records_section(), b.header.count());
        let records: Vec<_> = records.map(Result::unwrap).collect();
        let id = b.header.producer_id();
        if b.header.is_control() {
            if Marker::read(&records[0]).is_some_and(|m| !m.commit) {
                rolled_back.remove(&id);
            }
        } else if !(b.header.is_transactional() && rolled_back.contains(&id)) {
            let text = |v: &[u8]| String::from_utf8(v.to_vec()).unwrap();
            out.extend(records.iter().map(|r| text(r.value.unwrap())));
        }
    }
    (out, p.last_stable_offset)
}

fn state(d: &mut Driver, c: Client, id: &str) -> String {
    let request = wire::DescribeTransactionsRequest {
        transactional_ids: vec![id.into()],
    };
    let r: wire::DescribeTransactionsResponse<'_> = d.call(c, &request, 0);
    r.transaction_states[0].transaction_state.to_string()
}

fn settle(d: &mut Driver, c: Client, id: &str) {
    for _ in 0..50 {
        if !state(d, c, id).starts_with("Prepare") {
            return;
        }
        d.run_for_ms(20);
    }
    panic!("{id} is never done");
}
