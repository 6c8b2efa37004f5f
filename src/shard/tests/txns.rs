//! Transactions over shards driven in one thread: produced, committed, rolled back, read committed,
//! offsets with them, restarts in the middle.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests stand outside of them

use bytes::Bytes;
use flumen_base::ErrorCode;
use flumen_log::testing::MemDisk;
use flumen_log::{BatchBuilder, BatchHeader, Marker};
use flumen_shard::testing::{Client, Driver};
use flumen_wire::messages as wire;
use std::borrow::Cow;
use std::collections::BTreeSet;

fn each_shape(test: impl Fn(Driver)) {
    for (shards, seed) in [(1, 1), (4, 2), (3, 3)] {
        println!("shards {shards} seed {seed}");
        test(Driver::ready(shards, seed));
    }
}

fn create(d: &mut Driver, c: Client, name: &str, partitions: i32) {
    assert_eq!(d.create_topic(c, name, partitions), 0);
}

/// Asks for the coordinator until it is there.
fn find(d: &mut Driver, c: Client, key: &str, key_type: i8) {
    for _ in 0..10 {
        let request = wire::FindCoordinatorRequest {
            key_type,
            coordinator_keys: vec![key.into()],
            ..Default::default()
        };
        let r: wire::FindCoordinatorResponse<'_> = d.call(c, &request, 6);
        match ErrorCode::from_i16(r.coordinators[0].error_code) {
            Some(ErrorCode::None) => return,
            Some(ErrorCode::CoordinatorNotAvailable) => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("no coordinator");
}

type Who = (i64, i16);

fn init(d: &mut Driver, c: Client, id: &str) -> Who {
    find(d, c, id, 1);
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

#[test]
fn committed_records_are_read_and_others_not() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 6);
        let mut who = init(&mut d, c, "a");
        for p in 0..6 {
            write(&mut d, c, who, 0, ("t", p), "yes");
            write(&mut d, c, who, 1, ("t", p), "yes too");
            assert_eq!(fetch(&mut d, c, ("t", p), true), (vec![], 0), "open");
            let (all, stable) = fetch(&mut d, c, ("t", p), false);
            assert_eq!((all.len(), stable), (2, 0));
        }
        who = end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        for p in 0..6 {
            write(&mut d, c, who, 0, ("t", p), "no");
        }
        who = end(&mut d, c, "a", who, false).unwrap();
        settle(&mut d, c, "a");
        for p in 0..6 {
            write(&mut d, c, who, 0, ("t", p), "open");
            let expected = vec!["yes".to_owned(), "yes too".to_owned()];
            assert_eq!(fetch(&mut d, c, ("t", p), true), (expected.clone(), 5));
            // What was decided stays so.
        }
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        for p in 0..6 {
            let expected = vec!["yes".to_owned(), "yes too".to_owned()];
            assert_eq!(fetch(&mut d, c, ("t", p), true), (expected, 5));
        }
        let again = init(&mut d, c, "a");
        assert!(again.1 > who.1);
        settle(&mut d, c, "a");
        let (values, stable) = fetch(&mut d, c, ("t", 0), true);
        assert_eq!(
            (values.len(), stable),
            (2, 7),
            "rolled back by the one who came"
        );
    });
}

#[test]
fn nothing_gets_in_without_the_coordinator() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 2);
        let who = init(&mut d, c, "a");
        let mut p = Produce {
            id: Some("a"),
            who,
            sequence: 0,
            at: ("t", 0),
            value: "v",
        };
        // Before version 12 partitions are added beforehand.
        assert_eq!(produce(&mut d, c, 10, &p), ErrorCode::InvalidTxnState);
        assert_eq!(produce(&mut d, c, 11, &p), ErrorCode::TransactionAbortable);
        p.id = None;
        let refused = ErrorCode::TransactionalIdAuthorizationFailed;
        assert_eq!(produce(&mut d, c, 12, &p), refused);
        p.id = Some("unknown");
        let refused = ErrorCode::InvalidProducerIdMapping;
        assert_eq!(produce(&mut d, c, 12, &p), refused);
        let request = wire::AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: "a".into(),
            v3_and_below_producer_id: who.0,
            v3_and_below_producer_epoch: who.1,
            v3_and_below_topics: vec![
                wire::add_partitions_to_txn_request::AddPartitionsToTxnTopic {
                    name: "t".into(),
                    partitions: vec![0],
                },
            ],
            ..Default::default()
        };
        let r: wire::AddPartitionsToTxnResponse<'_> = d.call(c, &request, 3);
        let result = &r.results_by_topic_v3_and_below[0].results_by_partition[0];
        assert_eq!(result.partition_error_code, 0);
        p.id = Some("a");
        assert_eq!(produce(&mut d, c, 10, &p), ErrorCode::None);
        // A second producer of the same name: the first is fenced.
        let second = init(&mut d, c, "a");
        p.sequence = 1;
        assert_eq!(produce(&mut d, c, 12, &p), ErrorCode::InvalidProducerEpoch);
        assert_eq!(
            end(&mut d, c, "a", who, true),
            Err(ErrorCode::ProducerFenced)
        );
        write(&mut d, c, second, 0, ("t", 0), "mine");
        end(&mut d, c, "a", second, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(fetch(&mut d, c, ("t", 0), true).0, ["mine"]);
    });
}

#[test]
fn a_restart_in_the_middle_loses_no_decision() {
    each_shape(|mut d| {
        for round in 0..6 {
            let c = d.connect(0);
            if round == 0 {
                create(&mut d, c, "t", 3);
            }
            let who = init(&mut d, c, "a");
            for p in 0..3 {
                write(&mut d, c, who, 0, ("t", p), &format!("{round}"));
            }
            let commit = round % 2 == 0;
            end(&mut d, c, "a", who, commit).unwrap();
            if round % 3 > 0 {
                d.restart();
                d.run_until_ready();
            }
        }
        let c = d.connect(0);
        find(&mut d, c, "a", 1);
        settle(&mut d, c, "a");
        for p in 0..3 {
            assert_eq!(fetch(&mut d, c, ("t", p), true).0, ["0", "2", "4"]);
        }
    });
}

#[test]
fn time_rolls_a_transaction_back() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        let who = init(&mut d, c, "a");
        write(&mut d, c, who, 0, ("t", 0), "late");
        d.run_for_ms(75_000);
        let c = d.connect(0);
        settle(&mut d, c, "a");
        assert_eq!(state(&mut d, c, "a"), "CompleteAbort");
        assert_eq!(fetch(&mut d, c, ("t", 0), true), (vec![], 2));
        let listed: wire::ListTransactionsResponse<'_> =
            d.call(c, &wire::ListTransactionsRequest::default(), 2);
        assert_eq!(listed.transaction_states.len(), 1);
    });
}

fn committed(d: &mut Driver, c: Client, stable: bool) -> Result<i64, ErrorCode> {
    let request = wire::OffsetFetchRequest {
        groups: vec![wire::offset_fetch_request::OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: Some(vec![wire::offset_fetch_request::OffsetFetchRequestTopics {
                name: "t".into(),
                partition_indexes: vec![0],
                ..Default::default()
            }]),
            ..Default::default()
        }],
        require_stable: stable,
        ..Default::default()
    };
    let r: wire::OffsetFetchResponse<'_> = d.call(c, &request, 9);
    assert_eq!(r.groups[0].error_code, 0);
    let p = &r.groups[0].topics[0].partitions[0];
    match ErrorCode::from_i16(p.error_code).unwrap() {
        ErrorCode::None => Ok(p.committed_offset),
        error => Err(error),
    }
}

fn commit_offset(d: &mut Driver, c: Client, who: Who, offset: i64, version: i16) -> ErrorCode {
    commit_as(d, c, who, ("", -1), offset, version)
}

/// As a member of the group, at its epoch.
fn commit_as(
    d: &mut Driver,
    c: Client,
    who: Who,
    (member, epoch): (&str, i32),
    offset: i64,
    version: i16,
) -> ErrorCode {
    use wire::txn_offset_commit_request as r;
    let request = wire::TxnOffsetCommitRequest {
        member_id: member.into(),
        generation_id: epoch,
        transactional_id: "a".into(),
        group_id: "g".into(),
        producer_id: who.0,
        producer_epoch: who.1,
        topics: vec![r::TxnOffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![r::TxnOffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let r: wire::TxnOffsetCommitResponse<'_> = d.call(c, &request, version);
    ErrorCode::from_i16(r.topics[0].partitions[0].error_code).unwrap()
}

#[test]
fn offsets_are_committed_with_their_transaction() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        find(&mut d, c, "g", 0);
        let mut who = init(&mut d, c, "a");
        let refused = ErrorCode::InvalidTxnState;
        assert_eq!(commit_offset(&mut d, c, who, 7, 3), refused, "not added");
        assert_eq!(commit_offset(&mut d, c, who, 7, 5), ErrorCode::None);
        assert_eq!(committed(&mut d, c, false), Ok(-1));
        let unstable = Err(ErrorCode::UnstableOffsetCommit);
        assert_eq!(committed(&mut d, c, true), unstable);
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        d.run_for_ms(100);
        assert_eq!(committed(&mut d, c, true), unstable);
        who = end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        assert_eq!(commit_offset(&mut d, c, who, 9, 5), ErrorCode::None);
        end(&mut d, c, "a", who, false).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        d.run_for_ms(100);
        assert_eq!(committed(&mut d, c, true), Ok(7));
    });
}

/// Sequences of the first records of the batches in a topic, without those of markers.
fn sequences(d: &Driver, topic: &str) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let logs = d.disk.paths().into_iter().filter(|p| {
        let in_topic = p.display().to_string().contains(topic);
        in_topic && p.extension().is_some_and(|e| e == "log")
    });
    for log in logs {
        let bytes = d.disk.contents(&log).unwrap();
        let mut rest = &bytes[..];
        while let Some(batch) = BatchHeader::new(rest) {
            let Ok(size) = batch.size() else { break };
            if !batch.is_control() {
                found.insert(batch.base_sequence());
            }
            rest = &rest[size..];
        }
    }
    found
}

/// Kafka's group coordinators number their records, its transaction coordinators do not.
#[test]
fn sequences_are_those_of_kafkas_coordinators() {
    let mut d = Driver::ready(1, 1);
    let c = d.connect(0);
    create(&mut d, c, "t", 1);
    find(&mut d, c, "g", 0);
    let who = init(&mut d, c, "a");
    assert_eq!(commit_offset(&mut d, c, who, 7, 5), ErrorCode::None);
    end(&mut d, c, "a", who, true).unwrap();
    settle(&mut d, c, "a");
    let commit = wire::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![wire::offset_commit_request::OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![Default::default()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let r: wire::OffsetCommitResponse<'_> = d.call(c, &commit, 8);
    assert_eq!(r.topics[0].partitions[0].error_code, 0);
    d.run_for_ms(1_000);
    assert_eq!(sequences(&d, "__consumer_offsets"), BTreeSet::from([0]));
    assert_eq!(sequences(&d, "__transaction_state"), BTreeSet::from([-1]));
}

#[test]
fn members_of_a_consumer_group_commit_offsets_in_transactions() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        find(&mut d, c, "g", 0);
        let join = wire::ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            rebalance_timeout_ms: 60_000,
            subscribed_topic_names: Some(vec!["t".into()]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        let r: wire::ConsumerGroupHeartbeatResponse<'_> = d.call(c, &join, 1);
        assert_eq!(r.error_code, 0);
        let epoch = r.member_epoch;
        let mut who = init(&mut d, c, "a");
        let stranger = commit_as(&mut d, c, who, ("x", epoch), 5, 5);
        assert_eq!(stranger, ErrorCode::UnknownMemberId);
        let ahead = commit_as(&mut d, c, who, ("m", epoch + 1), 5, 5);
        assert_eq!(ahead, ErrorCode::IllegalGeneration);
        let member = commit_as(&mut d, c, who, ("m", epoch), 7, 5);
        assert_eq!(member, ErrorCode::None);
        let unstable = Err(ErrorCode::UnstableOffsetCommit);
        assert_eq!(committed(&mut d, c, true), unstable);
        who = end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        d.run_for_ms(100);
        let member = commit_as(&mut d, c, who, ("m", epoch), 9, 5);
        assert_eq!(member, ErrorCode::None, "the group is known again");
        who = end(&mut d, c, "a", who, false).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        let unnamed = commit_offset(&mut d, c, who, 11, 5);
        assert_eq!(unnamed, ErrorCode::None, "old clients do not name members");
        end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(11));
    });
}

/// As clients do that do not wait: the end is sent right behind the partitions and the offsets.
#[test]
fn the_end_does_not_overtake_what_was_sent_before_it() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 8);
        find(&mut d, c, "g", 0);
        let who = init(&mut d, c, "a");
        use wire::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
        let add = wire::AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: "a".into(),
            v3_and_below_producer_id: who.0,
            v3_and_below_producer_epoch: who.1,
            v3_and_below_topics: vec![AddPartitionsToTxnTopic {
                name: "t".into(),
                partitions: (0..8).collect(),
            }],
            ..Default::default()
        };
        let offsets = wire::AddOffsetsToTxnRequest {
            transactional_id: "a".into(),
            producer_id: who.0,
            producer_epoch: who.1,
            group_id: "g".into(),
        };
        for round in 0..20 {
            let end = wire::EndTxnRequest {
                transactional_id: "a".into(),
                producer_id: who.0,
                producer_epoch: who.1,
                committed: round % 3 == 0,
            };
            let sent = [
                d.send(c, &add, 3),
                d.send(c, &offsets, 3),
                d.send(c, &end, 3),
            ];
            let frame = d.wait_answer(c);
            let r: wire::AddPartitionsToTxnResponse<'_> =
                flumen_shard::testing::decode_answer(24, 3, sent[0], frame);
            let results = &r.results_by_topic_v3_and_below[0].results_by_partition;
            assert!(results.iter().all(|p| p.partition_error_code == 0));
            let frame = d.wait_answer(c);
            let r: wire::AddOffsetsToTxnResponse =
                flumen_shard::testing::decode_answer(25, 3, sent[1], frame);
            assert_eq!(r.error_code, 0, "round {round}");
            let frame = d.wait_answer(c);
            let r: wire::EndTxnResponse =
                flumen_shard::testing::decode_answer(26, 3, sent[2], frame);
            assert_eq!(r.error_code, 0, "round {round}");
            settle(&mut d, c, "a");
        }
    });
}

#[test]
fn markers_of_the_tool() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        let who = init(&mut d, c, "a");
        write(&mut d, c, who, 0, ("t", 0), "hangs");
        use wire::write_txn_markers_request as r;
        let request = wire::WriteTxnMarkersRequest {
            markers: vec![r::WritableTxnMarker {
                producer_id: who.0,
                producer_epoch: who.1,
                transaction_result: false,
                topics: vec![r::WritableTxnMarkerTopic {
                    name: "t".into(),
                    partition_indexes: vec![0, 9],
                }],
                coordinator_epoch: 0,
                transaction_version: 0,
            }],
        };
        let r: wire::WriteTxnMarkersResponse<'_> = d.call(c, &request, 1);
        let results = &r.markers[0].topics[0].partitions;
        let errors: Vec<i16> = results.iter().map(|p| p.error_code).collect();
        assert_eq!(errors, [0, ErrorCode::UnknownTopicOrPartition.code()]);
        assert_eq!(fetch(&mut d, c, ("t", 0), true), (vec![], 2));
    });
}

#[test]
fn requests_behind_one_that_is_verified_do_not_overtake_it() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 3);
        let mut who = init(&mut d, c, "a");
        for round in 0..5 {
            let mut sent = Vec::new();
            for n in 0..12 {
                let records = batch(who, n / 3, &format!("{round}-{n}"));
                let request = wire::ProduceRequest {
                    transactional_id: Some("a".into()),
                    acks: -1,
                    timeout_ms: 1000,
                    topic_data: vec![wire::produce_request::TopicProduceData {
                        name: "t".into(),
                        partition_data: vec![wire::produce_request::PartitionProduceData {
                            index: n % 3,
                            records: Some(Cow::Borrowed(&records)),
                        }],
                        ..Default::default()
                    }],
                };
                sent.push(d.send(c, &request, 12));
                for _ in 0..d.prng.below(4) {
                    d.step();
                }
            }
            for correlation in sent {
                let frame = d.wait_answer(c);
                let r: wire::ProduceResponse<'_> =
                    flumen_shard::testing::decode_answer(0, 12, correlation, frame);
                assert_eq!(r.responses[0].partition_responses[0].error_code, 0);
            }
            // The next one begins while the markers of this are on their way.
            who = end(&mut d, c, "a", who, true).unwrap();
        }
        settle(&mut d, c, "a");
        for p in 0..3 {
            let mut expected = Vec::new();
            for round in 0..5 {
                expected.extend((0..4).map(|n| format!("{round}-{}", n * 3 + p)));
            }
            assert_eq!(fetch(&mut d, c, ("t", p), true).0, expected);
        }
    });
}

/// Reads for a share group, whose states are not stored: offsets that are handed out.
fn share_fetch(d: &mut Driver, c: Client, epoch: i32, topic: &str) -> Vec<i64> {
    use wire::share_fetch_request as share;
    let about = wire::MetadataRequest {
        topics: Some(vec![wire::metadata_request::MetadataRequestTopic {
            name: Some(topic.into()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let about: wire::MetadataResponse<'_> = d.call(c, &about, 12);
    let request = wire::ShareFetchRequest {
        group_id: Some("g".into()),
        member_id: Some("m".into()),
        share_session_epoch: epoch,
        max_wait_ms: 100,
        max_bytes: 1 << 20,
        max_records: 500,
        batch_size: 500,
        topics: vec![share::FetchTopic {
            topic_id: about.topics[0].topic_id,
            partitions: vec![share::FetchPartition::default()],
        }],
        ..Default::default()
    };
    let r: wire::ShareFetchResponse<'_> = d.call(c, &request, 1);
    assert_eq!(r.error_code, 0);
    let partitions = r.responses.iter().flat_map(|t| &t.partitions);
    let acquired = partitions.flat_map(|p| &p.acquired_records);
    acquired
        .flat_map(|a| a.first_offset..=a.last_offset)
        .collect()
}

#[test]
fn share_groups_of_readers_of_committed_records_get_no_others() {
    use wire::incremental_alter_configs_request as alter;
    let mut settings = Driver::settings();
    settings.share.stores_state = false;
    let mut d = Driver::start(3, 6, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    create(&mut d, c, "t", 1);
    let configs = [
        ("share.auto.offset.reset", "earliest"),
        ("share.isolation.level", "read_committed"),
    ];
    let configs = configs.map(|(name, value)| alter::AlterableConfig {
        name: name.into(),
        value: Some(value.into()),
        ..Default::default()
    });
    let request = wire::IncrementalAlterConfigsRequest {
        resources: vec![alter::AlterConfigsResource {
            resource_type: 32,
            resource_name: "g".into(),
            configs: configs.to_vec(),
        }],
        ..Default::default()
    };
    let r: wire::IncrementalAlterConfigsResponse<'_> = d.call(c, &request, 1);
    assert_eq!(r.responses[0].error_code, 0);
    let who = init(&mut d, c, "a");
    write(&mut d, c, who, 0, ("t", 0), "yes");
    write(&mut d, c, who, 1, ("t", 0), "yes too");
    assert_eq!(share_fetch(&mut d, c, 0, "t"), [], "open");
    let who = end(&mut d, c, "a", who, true).unwrap();
    settle(&mut d, c, "a");
    write(&mut d, c, who, 0, ("t", 0), "no");
    let who = end(&mut d, c, "a", who, false).unwrap();
    settle(&mut d, c, "a");
    write(&mut d, c, who, 0, ("t", 0), "open");
    // Markers are handed out, too: members pass over them. 3 was rolled back.
    assert_eq!(share_fetch(&mut d, c, 1, "t"), [0, 1, 2, 4]);
    assert_eq!(share_fetch(&mut d, c, 2, "t"), []);
}
