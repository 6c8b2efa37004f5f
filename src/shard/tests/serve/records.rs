//! Records that are produced, fetched and listed, and producers.

use super::*;
use flumen_log::testing::MemDisk;
use flumen_shard::io::CloseReason;
use flumen_shard::testing::{decode_answer, produce_request};

#[test]
fn produced_records_are_fetched_from_any_shard() {
    each_shape(|mut d| {
        let a = d.connect(0);
        let b = {
            let last = d.shards() - 1;
            d.connect(last)
        };
        assert_eq!(d.create_topic(a, "t", 3), 0);
        assert_eq!(d.create_topic(a, "t", 3), 36);
        for p in 0..3 {
            assert_eq!(produce(&mut d, a, "t", p, &["x", "y"]), (0, 0));
            assert_eq!(produce(&mut d, b, "t", p, &["z"]), (0, 2));
            assert_eq!(fetch(&mut d, b, "t", p, 0), ["x", "y", "z"]);
            assert_eq!(fetch(&mut d, a, "t", p, 2), ["z"]);
            assert!(fetch(&mut d, a, "t", p, 3).is_empty());
        }
        assert_eq!(produce(&mut d, a, "nope", 0, &["x"]).0, 3);
        let request = fetch_request(&[("t", 0, 99)], 0);
        let r: wire::FetchResponse<'_> = d.call(a, &request, 12);
        assert_eq!(r.responses[0].partitions[0].error_code, 1);
    });
}

#[test]
fn long_poll_ends_with_data_or_time() {
    each_shape(|mut d| {
        let a = d.connect(0);
        let b = {
            let last = d.shards() - 1;
            d.connect(last)
        };
        d.create_topic(a, "t", 2);
        let request = fetch_request(&[("t", 0, 0), ("t", 1, 0)], 500);
        let id = d.send(b, &request, 12);
        d.run_for_ms(100);
        assert!(d.take_answer(b).is_none());
        assert_eq!(produce(&mut d, a, "t", 1, &["late"]), (0, 0));
        d.run_until_idle();
        let frame = d.take_answer(b).unwrap();
        let r: wire::FetchResponse<'_> = decode_answer(1, 12, id, frame);
        assert_eq!(values(&r), ["late"]);
        let request = fetch_request(&[("t", 0, 0), ("t", 1, 1)], 500);
        let id = d.send(b, &request, 12);
        d.run_for_ms(499);
        assert!(d.take_answer(b).is_none());
        d.run_for_ms(2);
        let frame = d.take_answer(b).unwrap();
        let r: wire::FetchResponse<'_> = decode_answer(1, 12, id, frame);
        assert!(values(&r).is_empty());
        let partitions = r.responses.iter().flat_map(|t| &t.partitions);
        assert_eq!(partitions.count(), 2);
    });
}

#[test]
fn incremental_sessions_answer_what_changed() {
    each_shape(|mut d| {
        let a = d.connect(0);
        d.create_topic(a, "t", 3);
        let mut request = fetch_request(&[("t", 0, 0), ("t", 1, 0), ("t", 2, 0)], 0);
        request.session_epoch = 0;
        let r: wire::FetchResponse<'_> = d.call(a, &request, 12);
        assert_ne!(r.session_id, 0);
        assert_eq!(
            r.responses
                .iter()
                .map(|t| t.partitions.len())
                .sum::<usize>(),
            3
        );
        produce(&mut d, a, "t", 1, &["new"]);
        let next = wire::FetchRequest {
            session_id: r.session_id,
            session_epoch: 1,
            max_bytes: 1 << 20,
            ..Default::default()
        };
        let r: wire::FetchResponse<'_> = d.call(a, &next, 12);
        assert_eq!(r.error_code, 0);
        assert_eq!(values(&r), ["new"]);
        assert_eq!(r.responses.len(), 1);
        let r: wire::FetchResponse<'_> = d.call(a, &next, 12);
        assert_eq!(r.error_code, 71);
        let unknown = wire::FetchRequest {
            session_id: r.session_id + 12345,
            session_epoch: 4,
            ..Default::default()
        };
        let r: wire::FetchResponse<'_> = d.call(a, &unknown, 12);
        assert_eq!(r.error_code, 70);
    });
}

#[test]
fn acks_0_is_silent_and_its_errors_close() {
    each_shape(|mut d| {
        let a = d.connect(0);
        d.create_topic(a, "t", 1);
        let records = batch(&["quiet"]);
        d.send(a, &produce_request("t", 0, 0, &records), 9);
        d.run_until_idle();
        assert!(d.take_answer(a).is_none());
        assert_eq!(fetch(&mut d, a, "t", 0, 0), ["quiet"]);
        d.send(a, &produce_request("t", 7, 0, &records), 9);
        d.run_until_idle();
        assert_eq!(d.closed(a), Some(&CloseReason::ProduceWithoutAcksFailed));
    });
}

fn list_offset(d: &mut Driver, c: Client, topic: &str, timestamp: i64) -> (i16, i64, i64) {
    let request = wire::ListOffsetsRequest {
        replica_id: -1,
        topics: vec![wire::list_offsets_request::ListOffsetsTopic {
            name: topic.into(),
            partitions: vec![wire::list_offsets_request::ListOffsetsPartition {
                timestamp,
                current_leader_epoch: -1,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let r: wire::ListOffsetsResponse<'_> = d.call(c, &request, 7);
    let p = &r.topics[0].partitions[0];
    (p.error_code, p.offset, p.timestamp)
}

#[test]
fn offsets_are_listed_by_special_and_real_times() {
    each_shape(|mut d| {
        let a = d.connect(0);
        d.create_topic(a, "t", 1);
        assert_eq!(list_offset(&mut d, a, "t", -3), (0, -1, -1));
        produce(&mut d, a, "t", 0, &["a", "b"]);
        assert_eq!(list_offset(&mut d, a, "t", -1), (0, 2, -1));
        assert_eq!(list_offset(&mut d, a, "t", -2), (0, 0, -1));
        assert_eq!(list_offset(&mut d, a, "t", 1), (0, 0, 1_700_000_000_000));
        assert_eq!(list_offset(&mut d, a, "t", 1_800_000_000_000), (0, -1, -1));
        assert_eq!(list_offset(&mut d, a, "t", -3).2, 1_700_000_000_000);
    });
}

#[test]
fn a_partition_listed_twice_is_refused_once_and_leaves_the_others_alone() {
    each_shape(|mut d| {
        let a = d.connect(0);
        d.create_topic(a, "t", 2);
        produce(&mut d, a, "t", 1, &["a", "b"]);
        let latest = |partition_index| wire::list_offsets_request::ListOffsetsPartition {
            partition_index,
            timestamp: -1,
            current_leader_epoch: -1,
        };
        let request = wire::ListOffsetsRequest {
            replica_id: -1,
            topics: vec![wire::list_offsets_request::ListOffsetsTopic {
                name: "t".into(),
                partitions: vec![latest(0), latest(0), latest(1)],
            }],
            ..Default::default()
        };
        let r: wire::ListOffsetsResponse<'_> = d.call(a, &request, 7);
        let lines = r.topics[0].partitions.iter();
        let lines: Vec<_> = lines
            .map(|p| (p.partition_index, p.error_code, p.offset))
            .collect();
        let refused = flumen_base::ErrorCode::InvalidRequest.code();
        assert_eq!(lines, [(0, refused, -1), (1, 0, 2)]);
    });
}

#[test]
fn records_survive_restart_kill_and_topics_their_deletion() {
    each_shape(|mut d| {
        let mut c = d.connect(0);
        d.create_topic(c, "t", 4);
        for p in 0..4 {
            produce(&mut d, c, "t", p, &["one", "two"]);
        }
        for round in 0..2 {
            if round == 0 {
                d.restart();
            } else {
                d.kill();
            }
            d.run_until_ready();
            c = d.connect(0);
            for p in 0..4 {
                assert_eq!(fetch(&mut d, c, "t", p, 0)[..2], ["one", "two"]);
                assert_eq!(produce(&mut d, c, "t", p, &["more"]), (0, 2 + round));
            }
        }
        assert_eq!(d.delete_topic(c, "t"), 0);
        assert_eq!(produce(&mut d, c, "t", 0, &["x"]).0, 3);
        assert_eq!(d.create_topic(c, "t", 1), 0);
        assert_eq!(produce(&mut d, c, "t", 0, &["anew"]), (0, 0));
        assert_eq!(fetch(&mut d, c, "t", 0, 0), ["anew"]);
        d.run_for_ms(1000);
        d.restart();
        d.run_until_ready();
        c = d.connect(0);
        assert_eq!(fetch(&mut d, c, "t", 0, 0), ["anew"]);
    });
}

#[test]
fn silent_producers_are_forgotten_from_the_first_interval_on() {
    let mut settings = Driver::settings();
    settings.log.producer_id_expiration_ms = 1000;
    settings.log.producer_id_expiration_check_interval_ms = 500;
    settings.log.initial_task_delay_ms = 30_000;
    let mut d = Driver::start(1, 7, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    d.create_topic(c, "t", 1);
    let mut b = BatchBuilder::new().producer(5, 0, 0);
    b.push(d.now.wall_ms, None, Some(b"x"));
    let records = b.build().unwrap();
    let request = produce_request("t", 0, -1, &records);
    let r: wire::ProduceResponse<'_> = d.call(c, &request, 9);
    assert_eq!(r.responses[0].partition_responses[0].error_code, 0);
    let describe = wire::DescribeProducersRequest {
        topics: vec![wire::describe_producers_request::TopicRequest {
            name: "t".into(),
            partition_indexes: vec![0],
        }],
    };
    let count = |d: &mut Driver| {
        let r: wire::DescribeProducersResponse<'_> = d.call(c, &describe, 0);
        r.topics[0].partitions[0].active_producers.len()
    };
    assert_eq!(count(&mut d), 1);
    d.run_for_ms(2000);
    assert_eq!(count(&mut d), 0);
}

#[test]
fn producer_ids_are_never_given_twice() {
    each_shape(|mut d| {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            for shard in 0..d.shards() {
                let c = d.connect(shard);
                let request = wire::InitProducerIdRequest {
                    transactional_id: None,
                    transaction_timeout_ms: 1,
                    ..Default::default()
                };
                let r: wire::InitProducerIdResponse = d.call(c, &request, 4);
                assert_eq!(r.error_code, 0);
                assert!(seen.insert(r.producer_id));
            }
            d.kill();
            d.run_until_ready();
        }
    });
}

/// Bytes that the logs of all shards keep in memory.
fn tail_bytes(d: &mut Driver) -> u64 {
    let texts: Vec<String> = (0..d.shards()).map(|shard| d.metrics(shard)).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let of = lines.filter(|line| line.starts_with("flumen_log_tail_bytes{"));
    let values = of.map(|line| line.rsplit_once(' ').unwrap().1);
    values.map(|value| value.parse::<u64>().unwrap()).sum()
}

#[test]
fn memory_keeps_what_readers_at_the_end_will_ask_for() {
    each_shape(|mut d| {
        let c = d.connect(0);
        d.create_topic(c, "t", 2);
        for _ in 0..20 {
            assert_eq!(produce(&mut d, c, "t", 0, &["a", "b"]).0, 0);
            assert_eq!(tail_bytes(&mut d), 0, "nobody reads it");
        }
        // Whoever reads a record gets it from the file the first time.
        assert_eq!(fetch(&mut d, c, "t", 0, 38), ["a", "b"]);
        assert_eq!(tail_bytes(&mut d), 0, "nothing came since");
        assert_eq!(produce(&mut d, c, "t", 0, &["c"]), (0, 40));
        assert_eq!(produce(&mut d, c, "t", 1, &["x"]), (0, 0));
        let one = tail_bytes(&mut d);
        assert!(one > 0 && one < 200, "{one} bytes: of the one that is read");
        assert_eq!(fetch(&mut d, c, "t", 0, 40), ["c"]);
        assert_eq!(
            fetch(&mut d, c, "t", 0, 38),
            ["a", "b", "c"],
            "from the file"
        );

        // Two sweeps later: it was appended to and not read.
        for value in ["d", "e"] {
            assert_eq!(produce(&mut d, c, "t", 0, &[value]).0, 0);
            d.run_for_ms(10_001);
        }
        assert_eq!(tail_bytes(&mut d), 0);
        assert_eq!(fetch(&mut d, c, "t", 0, 40), ["c", "d", "e"]);
        // A reader that waits at the end is one.
        let id = d.send(c, &fetch_request(&[("t", 1, 1)], 500), 12);
        let b = d.connect(0);
        assert_eq!(produce(&mut d, b, "t", 1, &["y"]), (0, 1));
        assert!(tail_bytes(&mut d) > 0);
        let frame = d.wait_answer(c);
        let r: wire::FetchResponse<'_> = decode_answer(1, 12, id, frame);
        assert_eq!(values(&r), ["y"]);
    });
}
