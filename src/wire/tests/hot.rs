//! The hand-written paths against the generated codec: the same bytes are taken, and say the same.
#![allow(clippy::unwrap_used)] // a test may

use flumen_base::Prng;
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::fetch::FetchRequest;
use flumen_wire::hot::fetch_response::{FetchFramer, PartitionHead};
use flumen_wire::hot::produce::ProduceRequest;
use flumen_wire::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint,
    PartitionData,
};
use flumen_wire::messages::{self, FetchResponse};
use flumen_wire::testing::{Gen, Random, encode};
use flumen_wire::{Message, Writer, header};

fn rounds(n: u64) -> u64 {
    n * std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(1)
}

/// Changes up to three bytes, cuts, or appends; often leaves as is.
fn mutate(rng: &mut Prng, bytes: &mut Vec<u8>, body_at: usize) {
    match rng.below(4) {
        0 => {
            for _ in 0..=rng.below(3) {
                let span = (bytes.len() - body_at) as u64;
                if span > 0 {
                    bytes[body_at + rng.below(span) as usize] = rng.next_u64() as u8;
                }
            }
        }
        1 => bytes.truncate(body_at + rng.below((bytes.len() - body_at) as u64 + 1) as usize),
        2 if rng.one_in(4) => bytes.push(rng.next_u64() as u8),
        _ => {}
    }
}

fn topic_of<'a>(by_id: bool, name: &'a str, id: flumen_base::Uuid) -> TopicRef<'a> {
    if by_id {
        TopicRef::Id(id)
    } else {
        TopicRef::Name(name)
    }
}

fn check_produce(frame: &[u8], at: usize, version: i16) -> Result<bool, String> {
    let walked = ProduceRequest::parse(frame, at, version);
    let decoded = messages::ProduceRequest::decode_exact(&frame[at..], version);
    let (walked, decoded) = match (walked, decoded) {
        (Ok(walked), Ok(decoded)) => (walked, decoded),
        (Err(_), Err(_)) => return Ok(false),
        (walked, decoded) => return Err(format!("{walked:?} but {decoded:?}")),
    };
    assert_eq!(walked.transactional_id, decoded.transactional_id.as_deref());
    assert_eq!(
        (walked.acks, walked.timeout_ms),
        (decoded.acks, decoded.timeout_ms)
    );
    assert_eq!(walked.topic_count, decoded.topic_data.len());
    let mut parts = walked.partitions();
    let mut count = 0;
    for (ordinal, topic) in decoded.topic_data.iter().enumerate() {
        for partition in &topic.partition_data {
            let part = parts.next().unwrap();
            count += 1;
            assert_eq!(
                part.topic,
                topic_of(version >= 13, &topic.name, topic.topic_id)
            );
            assert_eq!((part.topic_ordinal, part.index), (ordinal, partition.index));
            assert_eq!(
                part.records.map(|r| &frame[r]),
                partition.records.as_deref()
            );
        }
    }
    assert_eq!((parts.next(), walked.partition_count), (None, count));
    Ok(true)
}

#[test]
fn produce_requests_walk_as_they_decode() {
    let mut taken = 0;
    for version in 3..=13 {
        for round in 0..rounds(300) {
            let mut g = Gen::new(round << 8 | version as u64);
            let at = g.rng.below(30) as usize;
            let mut frame = vec![0xaa; at];
            let request = messages::ProduceRequest::random(&mut g, version);
            frame.extend(encode(&request, version).unwrap());
            mutate(&mut g.rng, &mut frame, at);
            let same = check_produce(&frame, at, version);
            taken += u64::from(same.unwrap_or_else(|e| panic!("v{version} round {round}: {e}")));
        }
    }
    assert!(taken > 11 * rounds(300) / 3);
    assert!(ProduceRequest::parse(&[0; 64], 0, 2).is_err());
    assert!(ProduceRequest::parse(&[0; 4], 9, 3).is_err());
}

fn check_fetch(frame: &[u8], at: usize, version: i16) -> Result<bool, String> {
    let walked = FetchRequest::parse(frame, at, version);
    let decoded = messages::FetchRequest::decode_exact(&frame[at..], version);
    let (w, d) = match (walked, decoded) {
        (Ok(walked), Ok(decoded)) => (walked, decoded),
        (Err(_), Err(_)) => return Ok(false),
        (walked, decoded) => return Err(format!("{walked:?} but {decoded:?}")),
    };
    let replica = if version >= 15 {
        d.replica_state.replica_id
    } else {
        d.replica_id
    };
    assert_eq!(
        (w.replica_id, w.replica_epoch),
        (replica, d.replica_state.replica_epoch)
    );
    assert_eq!(w.cluster_id, d.cluster_id.as_deref());
    assert_eq!(
        (w.max_wait_ms, w.min_bytes, w.max_bytes),
        (d.max_wait_ms, d.min_bytes, d.max_bytes)
    );
    assert_eq!(
        (w.isolation_level, w.session_id, w.session_epoch, w.rack_id),
        (
            d.isolation_level,
            d.session_id,
            d.session_epoch,
            &*d.rack_id
        )
    );
    assert_eq!(w.topic_count, d.topics.len());
    compare_fetch_partitions(&w, &d, version);
    Ok(true)
}

fn compare_fetch_partitions(w: &FetchRequest<'_>, d: &messages::FetchRequest<'_>, version: i16) {
    let mut parts = w.partitions();
    let mut count = 0;
    for (ordinal, topic) in d.topics.iter().enumerate() {
        for p in &topic.partitions {
            let part = parts.next().unwrap();
            count += 1;
            assert_eq!(
                part.topic,
                topic_of(version >= 13, &topic.topic, topic.topic_id)
            );
            assert_eq!((part.topic_ordinal, part.index), (ordinal, p.partition));
            assert_eq!(
                (
                    part.current_leader_epoch,
                    part.fetch_offset,
                    part.last_fetched_epoch
                ),
                (p.current_leader_epoch, p.fetch_offset, p.last_fetched_epoch)
            );
            assert_eq!(
                (
                    part.log_start_offset,
                    part.max_bytes,
                    part.replica_directory_id
                ),
                (
                    p.log_start_offset,
                    p.partition_max_bytes,
                    p.replica_directory_id
                )
            );
            assert_eq!(part.high_watermark, p.high_watermark);
        }
    }
    assert_eq!((parts.next(), w.partition_count), (None, count));
    let mut forgotten = w.forgotten();
    for topic in &d.forgotten_topics_data {
        for &index in &topic.partitions {
            let name = topic_of(version >= 13, &topic.topic, topic.topic_id);
            assert_eq!(forgotten.next(), Some((name, index)));
        }
    }
    assert_eq!(forgotten.next(), None);
}

#[test]
fn fetch_requests_walk_as_they_decode() {
    let mut taken = 0;
    for version in 4..=18 {
        for round in 0..rounds(300) {
            let mut g = Gen::new(round << 8 | version as u64);
            let at = g.rng.below(30) as usize;
            let mut frame = vec![0xaa; at];
            let request = messages::FetchRequest::random(&mut g, version);
            frame.extend(encode(&request, version).unwrap());
            mutate(&mut g.rng, &mut frame, at);
            let same = check_fetch(&frame, at, version);
            taken += u64::from(same.unwrap_or_else(|e| panic!("v{version} round {round}: {e}")));
        }
    }
    assert!(taken > 15 * rounds(300) / 3);
    assert!(FetchRequest::parse(&[0; 64], 0, 3).is_err());
}

/// A response of which every field can be framed, with the records beside it.
fn random_response(g: &mut Gen, version: i16) -> FetchResponse<'static> {
    let mut response = FetchResponse::random(g, version);
    for topic in &mut response.responses {
        for p in &mut topic.partitions {
            p.snapshot_id = Default::default(); // only of metadata logs, which this does not serve
        }
    }
    response
}

fn framed(response: &FetchResponse<'_>, version: i16) -> Vec<u8> {
    let mut framer = FetchFramer::new(
        version,
        77,
        response.throttle_time_ms,
        response.error_code,
        response.session_id,
        response.responses.len(),
    );
    for topic in &response.responses {
        let name = topic_of(version >= 13, &topic.topic, topic.topic_id);
        framer.topic(name, topic.partitions.len());
        for p in &topic.partitions {
            let aborted: Option<Vec<(i64, i64)>> = p.aborted_transactions.as_ref().map(|list| {
                list.iter()
                    .map(|a| (a.producer_id, a.first_offset))
                    .collect()
            });
            let diverging = &p.diverging_epoch;
            let leader = &p.current_leader;
            framer.partition(&PartitionHead {
                index: p.partition_index,
                error_code: p.error_code,
                high_watermark: p.high_watermark,
                last_stable_offset: p.last_stable_offset,
                log_start_offset: p.log_start_offset,
                aborted: aborted.as_deref(),
                preferred_read_replica: p.preferred_read_replica,
                diverging_epoch: (*diverging != EpochEndOffset::default())
                    .then_some((diverging.epoch, diverging.end_offset)),
                current_leader: (*leader != LeaderIdAndEpoch::default())
                    .then_some((leader.leader_id, leader.leader_epoch)),
                records_len: p.records.as_ref().map(|r| r.len()),
            });
        }
    }
    let frame = framer.finish(&response.node_endpoints).unwrap();
    let all = response.responses.iter().flat_map(|t| &t.partitions);
    let mut records = all
        .filter_map(|p| p.records.as_deref())
        .filter(|r| !r.is_empty());
    let mut out = Vec::new();
    for (piece, gap) in frame.parts() {
        out.extend_from_slice(piece);
        if gap > 0 {
            let records = records.next().unwrap();
            assert_eq!(records.len(), gap);
            out.extend_from_slice(records);
        }
    }
    assert_eq!(out.len(), frame.len());
    let pieces: Vec<_> = frame.clone().into_parts().collect();
    assert!(
        frame
            .parts()
            .eq(pieces.iter().map(|(bytes, gap)| (&bytes[..], *gap)))
    );
    out
}

#[test]
fn framed_fetch_responses_equal_encoded_ones() {
    for version in 4..=18 {
        for round in 0..rounds(100) {
            let mut g = Gen::new(round << 8 | version as u64);
            let response = random_response(&mut g, version);
            let encoded = header::response_frame(&response, version, 77).unwrap();
            assert_eq!(
                framed(&response, version),
                encoded,
                "v{version} round {round}"
            );
        }
    }
}

#[test]
fn a_full_response_has_its_bytes_where_kafka_reads_them() {
    let response = FetchResponse {
        session_id: 9,
        responses: vec![FetchableTopicResponse {
            topic_id: flumen_base::Uuid::from_bytes([1; 16]),
            partitions: vec![PartitionData {
                high_watermark: 5,
                aborted_transactions: Some(vec![AbortedTransaction {
                    producer_id: 1,
                    first_offset: 2,
                }]),
                current_leader: LeaderIdAndEpoch {
                    leader_id: 3,
                    leader_epoch: 4,
                },
                records: Some(vec![7; 200].into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        node_endpoints: vec![NodeEndpoint {
            node_id: 3,
            host: "localhost".into(),
            port: 9092,
            rack: None,
        }],
        ..Default::default()
    };
    assert_eq!(
        framed(&response, 18),
        header::response_frame(&response, 18, 77).unwrap()
    );
}

#[test]
fn what_a_version_lacks_is_refused() {
    let head = PartitionHead {
        current_leader: Some((1, 1)),
        ..PartitionHead::error(0, 0)
    };
    let mut framer = FetchFramer::new(11, 1, 0, 0, 0, 1);
    framer.topic(TopicRef::Name("t"), 1);
    framer.partition(&head);
    assert!(framer.finish(&[]).is_err());
    assert!(FetchFramer::new(6, 1, 0, 0, 5, 0).finish(&[]).is_err());
    assert!(FetchFramer::new(19, 1, 0, 0, 0, 0).finish(&[]).is_err());
    assert!(
        FetchFramer::new(15, 1, 0, 0, 0, 0)
            .finish(&[NodeEndpoint::default()])
            .is_err()
    );
}

#[test]
fn a_length_is_patched_where_it_stands() {
    let mut w = Writer::new();
    w.i32(0);
    w.u8(9);
    w.patch_i32(0, 1);
    w.patch_i32(3, 1); // does not fit: left alone
    assert_eq!(w.as_slice(), [0, 0, 0, 1, 9]);
}

#[test]
fn produce_responses_are_those_of_the_generated_encoder() {
    use flumen_wire::hot::produce_response::{PartitionAnswer, ProduceAnswers};
    use flumen_wire::messages::produce_response as wire;
    let text = |rng: &mut Prng| (0..rng.below(200)).map(|n| (b'a' + n as u8 % 26) as char);
    for version in 3..=13 {
        for round in 0..rounds(200) {
            let mut g = Gen::new(round << 8 | version as u64);
            let request = messages::ProduceRequest::random(&mut g, version);
            let frame = encode(&request, version).unwrap();
            let parsed = ProduceRequest::parse(&frame, 0, version).unwrap();
            let rng = &mut g.rng;
            let errors: Vec<Vec<(i32, String)>> = parsed
                .partitions()
                .map(|_| match rng.one_in(3) {
                    true => (0..rng.below(4) as i32)
                        .map(|n| (n, text(rng).collect()))
                        .collect(),
                    false => Vec::new(),
                })
                .collect();
            let messages: Vec<Option<String>> = (errors.iter())
                .map(|_| rng.one_in(3).then(|| text(rng).collect()))
                .collect();
            let answers: Vec<PartitionAnswer<'_>> = (errors.iter().zip(&messages))
                .map(|(errors, message)| PartitionAnswer {
                    error_code: rng.next_u64() as i16,
                    base_offset: rng.next_u64() as i64,
                    log_append_time_ms: rng.next_u64() as i64,
                    log_start_offset: rng.next_u64() as i64,
                    record_errors: errors,
                    error_message: message.as_deref(),
                })
                .collect();
            let mut response = messages::ProduceResponse::default();
            let mut ordinal = usize::MAX;
            for (part, answer) in parsed.partitions().zip(&answers) {
                if part.topic_ordinal != ordinal {
                    ordinal = part.topic_ordinal;
                    let (name, topic_id) = match part.topic {
                        TopicRef::Name(name) => (name, flumen_base::Uuid::ZERO),
                        TopicRef::Id(id) => ("", id),
                    };
                    response.responses.push(wire::TopicProduceResponse {
                        name: name.into(),
                        topic_id,
                        ..Default::default()
                    });
                }
                let records = answer.record_errors.iter();
                let partition = wire::PartitionProduceResponse {
                    index: part.index,
                    error_code: answer.error_code,
                    base_offset: answer.base_offset,
                    log_append_time_ms: answer.log_append_time_ms,
                    log_start_offset: answer.log_start_offset,
                    record_errors: records
                        .map(|(index, message)| wire::BatchIndexAndErrorMessage {
                            batch_index: *index,
                            batch_index_error_message: Some(message.into()),
                        })
                        .collect(),
                    error_message: answer.error_message.map(Into::into),
                    ..Default::default()
                };
                let topic = response.responses.last_mut().unwrap();
                topic.partition_responses.push(partition);
            }
            let mut w = Writer::new();
            let mut body = ProduceAnswers::begin(&mut w, version, parsed.answered_topics);
            ordinal = usize::MAX;
            for (part, answer) in parsed.partitions().zip(&answers) {
                if part.topic_ordinal != ordinal {
                    ordinal = part.topic_ordinal;
                    body.topic(&frame[part.topic_at], part.topic_partitions);
                }
                body.partition(part.index, answer);
            }
            body.finish();
            w.check().unwrap();
            let generated = encode(&response, version).unwrap();
            assert_eq!(w.as_slice(), &generated[..], "v{version} round {round}");
        }
    }
    let message = "m".repeat(40_000);
    let mut w = Writer::new();
    let answer = PartitionAnswer {
        error_code: 0,
        base_offset: 0,
        log_append_time_ms: 0,
        log_start_offset: 0,
        record_errors: &[],
        error_message: Some(&message),
    };
    let mut body = ProduceAnswers::begin(&mut w, 9, 1);
    body.topic(b"t", 1);
    body.partition(0, &answer);
    body.finish();
    assert!(w.check().is_err(), "longer than a string may be");
}
