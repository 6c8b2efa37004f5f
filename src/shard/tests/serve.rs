//! Shards driven in one thread over an in-memory disk: produce, fetch, sessions, groups, topics,
//! restarts.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests stand outside of them

use bytes::Bytes;
use flumen_log::BatchBuilder;
use flumen_log::batch::Batches;
use flumen_log::testing::MemDisk;
use flumen_shard::io::CloseReason;
use flumen_shard::testing::{Client, Driver, decode_answer, produce_request};
use flumen_wire::messages as wire;
use std::borrow::Cow;

fn each_shape(test: impl Fn(Driver)) {
    for (shards, seed) in [(1, 1), (4, 2), (4, 3), (3, 4)] {
        println!("shards {shards} seed {seed}");
        test(Driver::ready(shards, seed));
    }
}

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

#[test]
fn api_versions_name_what_is_served_and_answer_unknown_versions() {
    each_shape(|mut d| {
        let c = d.connect(0);
        let request = wire::ApiVersionsRequest {
            client_software_name: "test".into(),
            client_software_version: "1".into(),
        };
        let r: wire::ApiVersionsResponse<'_> = d.call(c, &request, 4);
        assert_eq!(r.error_code, 0);
        let produce = r.api_keys.iter().find(|k| k.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
        // Version 99, header as version 3 has it; answered in version 0.
        d.send_frame(
            c,
            Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 7, 0, 0, 0, 1, 1, 0]),
        );
        let frame = d.wait_answer(c);
        let r: wire::ApiVersionsResponse<'_> = decode_answer(18, 0, 7, frame);
        assert_eq!(r.error_code, 35);
        assert_eq!(r.api_keys[0].api_key, 18);
        // Produce 2 is advertised and refused.
        d.send_frame(c, Bytes::from_static(&[0, 0, 0, 2, 0, 0, 0, 8, 0, 0]));
        d.run_until_idle();
        assert_eq!(d.closed(c), Some(&CloseReason::UnsupportedVersion(0, 2)));
    });
}

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

#[test]
fn metadata_creates_topics_and_lists_them() {
    each_shape(|mut d| {
        let a = d.connect(0);
        let request = wire::MetadataRequest {
            topics: Some(vec![wire::metadata_request::MetadataRequestTopic {
                name: Some("auto".into()),
                ..Default::default()
            }]),
            allow_auto_topic_creation: true,
            ..Default::default()
        };
        let r: wire::MetadataResponse<'_> = d.call(a, &request, 12);
        assert_eq!(r.topics[0].error_code, 0);
        assert_eq!(r.topics[0].partitions.len(), 1);
        assert_eq!(r.brokers[0].port, 9092);
        assert_eq!(r.controller_id, 1);
        let all = wire::MetadataRequest {
            topics: None,
            ..Default::default()
        };
        let r: wire::MetadataResponse<'_> = d.call(a, &all, 9);
        assert_eq!(r.topics.len(), 1);
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
        let delete = wire::DeleteTopicsRequest {
            topics: vec![wire::delete_topics_request::DeleteTopicState {
                name: Some("t".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let r: wire::DeleteTopicsResponse<'_> = d.call(c, &delete, 6);
        assert_eq!(r.responses[0].error_code, 0);
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

fn join(d: &mut Driver, c: Client, member: &str) -> wire::JoinGroupResponse<'static> {
    let request = wire::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member.to_owned().into(),
        protocol_type: "consumer".into(),
        protocols: vec![wire::join_group_request::JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Cow::Borrowed(&[0]),
        }],
        ..Default::default()
    };
    d.call(c, &request, 9)
}

#[test]
fn a_group_joins_commits_and_is_there_after_a_restart() {
    each_shape(|mut d| {
        let mut c = d.connect(0);
        d.create_topic(c, "t", 1);
        let find = wire::FindCoordinatorRequest {
            coordinator_keys: vec!["g".into()],
            ..Default::default()
        };
        // The question that makes the offsets topic is answered as if there was none.
        let r: wire::FindCoordinatorResponse<'_> = d.call(c, &find, 4);
        assert_eq!(r.coordinators[0].error_code, 15);
        let r: wire::FindCoordinatorResponse<'_> = d.call(c, &find, 4);
        assert_eq!(r.coordinators[0].error_code, 0);
        assert_eq!(r.coordinators[0].node_id, 1);
        // A partition that is new has no groups to be loaded: it serves at once.
        let r = join(&mut d, c, "");
        assert_eq!(r.error_code, 79);
        let member = r.member_id.into_owned();
        let r = join(&mut d, c, &member);
        assert_eq!((r.error_code, r.generation_id), (0, 1));
        let sync = wire::SyncGroupRequest {
            group_id: "g".into(),
            generation_id: 1,
            member_id: member.clone().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: vec![wire::sync_group_request::SyncGroupRequestAssignment {
                member_id: member.clone().into(),
                assignment: Cow::Borrowed(&[1, 2]),
            }],
            ..Default::default()
        };
        let r: wire::SyncGroupResponse<'_> = d.call(c, &sync, 5);
        assert_eq!((r.error_code, &*r.assignment), (0, &[1u8, 2][..]));
        let commit = wire::OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: 1,
            member_id: member.clone().into(),
            topics: vec![wire::offset_commit_request::OffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![wire::offset_commit_request::OffsetCommitRequestPartition {
                    committed_offset: 41,
                    committed_leader_epoch: -1,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let r: wire::OffsetCommitResponse<'_> = d.call(c, &commit, 8);
        assert_eq!(r.topics[0].partitions[0].error_code, 0);
        for restart in [false, true] {
            if restart {
                d.restart();
                d.run_until_ready();
                d.run_until_idle();
                c = d.connect(0);
            }
            let fetch = wire::OffsetFetchRequest {
                groups: vec![wire::offset_fetch_request::OffsetFetchRequestGroup {
                    group_id: "g".into(),
                    topics: None,
                    ..Default::default()
                }],
                ..Default::default()
            };
            let r: wire::OffsetFetchResponse<'_> = d.call(c, &fetch, 8);
            assert_eq!(r.groups[0].error_code, 0);
            let p = &r.groups[0].topics[0].partitions[0];
            assert_eq!(p.committed_offset, 41);
            let r: wire::ListGroupsResponse<'_> = d.call(c, &wire::ListGroupsRequest::default(), 5);
            assert_eq!(r.groups[0].group_id, "g");
        }
        let heartbeat = wire::HeartbeatRequest {
            group_id: "g".into(),
            generation_id: 1,
            member_id: member.into(),
            ..Default::default()
        };
        let r: wire::HeartbeatResponse = d.call(c, &heartbeat, 4);
        assert_eq!(r.error_code, 0);
    });
}

#[test]
fn a_controller_listener_serves_what_controllers_do() {
    let mut settings = Driver::settings();
    let properties = "process.roles=broker,controller\nnode.id=1\n\
        listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
        controller.listener.names=CONTROLLER\n\
        controller.quorum.voters=1@localhost:9093\n";
    let properties = flumen_settings::Properties::parse(properties).unwrap();
    let named = flumen_settings::BrokerConfig::load(&properties).unwrap();
    settings.listeners = named.config.listeners;
    let mut d = Driver::start(2, 8, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect_through(1, 1);
    let ask = wire::ApiVersionsRequest::default();
    let r: wire::ApiVersionsResponse<'_> = d.call(c, &ask, 0);
    let keys: Vec<i16> = r.api_keys.iter().map(|k| k.api_key).collect();
    let all = [18, 19, 20, 32, 33, 37, 43, 44, 45, 46, 55, 57, 60, 64];
    assert_eq!(keys, all);
    assert_eq!(d.create_topic(c, "t", 1), 0);
    let metadata = wire::MetadataRequest::default();
    d.send(c, &metadata, 9);
    d.run_until_idle();
    let closed = d.closed(c);
    assert_eq!(closed, Some(&CloseReason::UnsupportedVersion(3, 9)));
}

#[test]
fn without_the_offsets_topic_no_group_is_coordinated_here() {
    let mut d = Driver::ready(2, 6);
    let c = d.connect(0);
    d.create_topic(c, "t", 1);
    assert_eq!(join(&mut d, c, "").error_code, 16);
    let topics = vec![wire::offset_fetch_request::OffsetFetchRequestTopic {
        name: "t".into(),
        partition_indexes: vec![0],
    }];
    let fetch = wire::OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(topics),
        ..Default::default()
    };
    // Version 1 has no place for a group's error but at each partition.
    let r: wire::OffsetFetchResponse<'_> = d.call(c, &fetch, 1);
    assert_eq!(r.topics[0].partitions[0].error_code, 16);
    assert_eq!(r.topics[0].partitions[0].committed_offset, -1);
    let r: wire::OffsetFetchResponse<'_> = d.call(c, &fetch, 2);
    assert_eq!((r.error_code, r.topics.len()), (16, 0));
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

#[test]
fn same_seed_same_run() {
    let run = || {
        let mut d = Driver::ready(4, 7);
        let c = d.connect(1);
        d.create_topic(c, "t", 8);
        for n in 0..20 {
            produce(&mut d, c, "t", n % 8, &["v"]);
        }
        d.crash();
        d.run_until_ready();
        (d.steps, d.now.mono, d.disk.paths())
    };
    assert_eq!(run(), run());
}

fn rounds() -> u64 {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    12 * factor.and_then(|f| f.parse::<u64>().ok()).unwrap_or(1)
}

/// Produces by chance over some connections, with disk failures, and kills or crashes now and then.
fn chaos(seed: u64) {
    let crashes = seed.is_multiple_of(2);
    let mut settings = Driver::settings();
    settings.flumen.log_sync_before_ack = crashes;
    settings.topics.log.segment_bytes = 2000;
    let shards = 1 + (seed % 4) as u16;
    let mut d = Driver::start(shards, seed, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    assert_eq!(d.create_topic(c, "t", 5), 0);
    let mut acked: Vec<Vec<(i64, String)>> = vec![Vec::new(); 5];
    for life in 0..3 {
        let clients: Vec<Client> = (0..4).map(|n| d.connect(n % shards)).collect();
        d.io_failures_percent = if life == 1 { 10 } else { 0 };
        for n in 0..30 {
            let mut sent = Vec::new();
            for c in &clients {
                let partition = d.prng.below(5) as usize;
                let value = format!("{life}-{n}-{}-{}", c.conn.0, "x".repeat(80));
                let records = batch(&[&value]);
                let id = d.send(*c, &produce_request("t", partition as i32, -1, &records), 9);
                sent.push((*c, id, partition, value));
            }
            for (c, id, partition, value) in sent {
                let frame = d.wait_answer(c);
                let r: wire::ProduceResponse<'_> = decode_answer(0, 9, id, frame);
                let p = &r.responses[0].partition_responses[0];
                match p.error_code {
                    0 => acked[partition].push((p.base_offset, value)),
                    error => assert!(d.io_failures_percent > 0, "error {error}"),
                }
            }
        }
        d.io_failures_percent = 0;
        match (crashes, life) {
            (true, _) => d.crash(),
            (false, 0) => d.restart(),
            (false, _) => d.kill(),
        }
        d.run_until_ready();
        let c = d.connect(0);
        for (partition, acked) in acked.iter().enumerate() {
            let mut next = 0;
            let mut found = Vec::new();
            loop {
                let request = fetch_request(&[("t", partition as i32, next)], 0);
                let r: wire::FetchResponse<'_> = d.call(c, &request, 12);
                let p = &r.responses[0].partitions[0];
                assert_eq!(p.error_code, 0, "seed {seed}");
                let mut end = next;
                for b in Batches::new(p.records.as_deref().unwrap_or_default()) {
                    let h = b.unwrap().header;
                    assert_eq!(h.base_offset(), end, "seed {seed}: offsets are not dense");
                    end = h.last_offset() + 1;
                }
                found.extend(values(&r));
                if end == next {
                    break;
                }
                next = end;
            }
            for (offset, value) in acked {
                let there = found.get(*offset as usize);
                assert_eq!(there, Some(value), "seed {seed}, partition {partition}");
            }
        }
    }
}

#[test]
fn acked_is_readable_after_failures_kills_and_crashes() {
    for seed in 0..rounds() {
        println!("seed {seed}");
        chaos(seed);
    }
}
