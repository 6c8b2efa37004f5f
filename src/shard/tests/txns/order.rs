//! Requests that are sent without waiting for the answers of those before.

use super::*;
use flumen_shard::testing::decode_answer;

/// As clients do that do not wait: the end is sent right behind the partitions and the offsets.
#[test]
fn the_end_does_not_overtake_what_was_sent_before_it() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 8);
        d.find_coordinator(c, "g", 0);
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
            let r: wire::AddPartitionsToTxnResponse<'_> = decode_answer(24, 3, sent[0], frame);
            let results = &r.results_by_topic_v3_and_below[0].results_by_partition;
            assert!(results.iter().all(|p| p.partition_error_code == 0));
            let frame = d.wait_answer(c);
            let r: wire::AddOffsetsToTxnResponse = decode_answer(25, 3, sent[1], frame);
            assert_eq!(r.error_code, 0, "round {round}");
            let frame = d.wait_answer(c);
            let r: wire::EndTxnResponse = decode_answer(26, 3, sent[2], frame);
            assert_eq!(r.error_code, 0, "round {round}");
            settle(&mut d, c, "a");
        }
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
                let r: wire::ProduceResponse<'_> = decode_answer(0, 12, correlation, frame);
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
