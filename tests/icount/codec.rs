//! The codec alone: what a shard parses and writes for the two hot requests.

use crate::scenarios::{fetch_request, produce_request};
use flumen_wire::header::write_request_header;
use flumen_wire::header::{RequestHeader, decode_request_header, response_frame};
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::fetch::FetchRequest;
use flumen_wire::hot::fetch_response::{FetchFramer, PartitionHead};
use flumen_wire::hot::produce::ProduceRequest;
use flumen_wire::messages as wire;
use flumen_wire::{Reader, Request, Writer};
use std::hint::black_box;

const TIMES: u64 = 256;
const PRODUCE: i16 = 11;
const FETCH: i16 = 12;

fn frame<'a, R: Request<'a>>(request: &R, version: i16) -> Vec<u8> {
    let mut w = Writer::new();
    let header = RequestHeader {
        api_key: R::API_KEY,
        api_version: version,
        correlation_id: 7,
        client_id: Some("bench"),
    };
    write_request_header(&mut w, &header);
    request.encode(&mut w, version).unwrap();
    w.as_slice().to_vec()
}

/// Warms and counts.
fn times(mut once: impl FnMut()) -> u64 {
    for _ in 0..TIMES {
        once();
    }
    for _ in 0..TIMES {
        run_counted_here(&mut once);
    }
    TIMES
}

#[inline(never)]
fn run_counted_here(once: &mut impl FnMut()) {
    once();
}

pub fn parse_produce(partitions: i32) -> u64 {
    let to: Vec<i32> = (0..partitions).collect();
    let frame = frame(&produce_request(&to, &[7; 200]), PRODUCE);
    times(|| {
        let mut r = Reader::new(black_box(&frame));
        black_box(decode_request_header(&mut r).unwrap());
        let request = ProduceRequest::parse(r.rest(), 0, PRODUCE).unwrap();
        for partition in request.partitions() {
            black_box(partition);
        }
    })
}

pub fn parse_fetch(partitions: i32) -> u64 {
    let wants: Vec<(i32, i64)> = (0..partitions).map(|p| (p, 1000)).collect();
    let frame = frame(&fetch_request(&wants, 65_536, 500), FETCH);
    times(|| {
        let mut r = Reader::new(black_box(&frame));
        black_box(decode_request_header(&mut r).unwrap());
        let request = FetchRequest::parse(r.rest(), 0, FETCH).unwrap();
        for partition in request.partitions() {
            black_box(partition);
        }
    })
}

pub fn encode_produce(partitions: i32) -> u64 {
    let part = |index| wire::produce_response::PartitionProduceResponse {
        index,
        base_offset: 1000,
        log_start_offset: 0,
        ..Default::default()
    };
    let response = wire::ProduceResponse {
        responses: vec![wire::produce_response::TopicProduceResponse {
            name: "bench".into(),
            partition_responses: (0..partitions).map(part).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    times(|| {
        black_box(response_frame(black_box(&response), PRODUCE, 7).unwrap());
    })
}

pub fn encode_fetch(partitions: i32) -> u64 {
    times(|| {
        let mut framer = FetchFramer::new(FETCH, 7, 0, 0, 0, 1);
        framer.topic(TopicRef::Name(black_box("bench")), partitions as usize);
        for index in 0..partitions {
            framer.partition(&PartitionHead {
                high_watermark: 1000,
                last_stable_offset: 1000,
                log_start_offset: 0,
                records_len: Some(65_536),
                ..PartitionHead::error(index, 0)
            });
        }
        for part in framer.finish(&[]).unwrap().into_parts() {
            black_box(part);
        }
    })
}
