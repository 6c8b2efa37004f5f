//! Streams groups (KIP-1071) through shards: heartbeats to the shard that has the group, internal
//! topics that the broker makes, settings of the group, the feature.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests stand outside of them

use flumen_log::testing::MemDisk;
use flumen_shard::testing::{Client, Driver};
use flumen_wire::messages as wire;
use wire::streams_group_describe_response::DescribedGroup;
use wire::streams_group_heartbeat_request::{KeyValue, Subtopology, TopicInfo, Topology};

const MISSING_SOURCE_TOPICS: i8 = 1;
const MISSING_INTERNAL_TOPICS: i8 = 3;

type Response = wire::StreamsGroupHeartbeatResponse<'static>;

fn start(shards: u16, seed: u64, disk: MemDisk) -> Driver {
    let mut settings = Driver::settings();
    settings.groups.streams_initial_rebalance_delay_ms = 0;
    settings.groups.streams_assignment_interval_ms = 0;
    let mut driver = Driver::start(shards, seed, settings, disk);
    driver.run_until_ready();
    driver
}

/// Words are counted: read, sent on by key, counted in a store.
fn word_count(source: &str) -> Topology<'_> {
    let topic = |name: &'static str, configs| TopicInfo {
        name: name.into(),
        replication_factor: 1,
        topic_configs: configs,
        ..Default::default()
    };
    let compacted = KeyValue {
        key: "cleanup.policy".into(),
        value: "compact".into(),
    };
    Topology {
        epoch: 0,
        subtopologies: vec![
            Subtopology {
                subtopology_id: "0".into(),
                source_topics: vec![source.into()],
                repartition_sink_topics: vec!["app-words-repartition".into()],
                ..Default::default()
            },
            Subtopology {
                subtopology_id: "1".into(),
                repartition_source_topics: vec![topic("app-words-repartition", Vec::new())],
                state_changelog_topics: vec![topic("app-counts-changelog", vec![compacted])],
                ..Default::default()
            },
        ],
    }
}

fn join(d: &mut Driver, c: Client, topology: Topology<'_>) -> Response {
    let request = wire::StreamsGroupHeartbeatRequest {
        group_id: "app".into(),
        member_id: "m".into(),
        rebalance_timeout_ms: 60_000,
        topology: Some(topology),
        active_tasks: Some(Vec::new()),
        standby_tasks: Some(Vec::new()),
        warmup_tasks: Some(Vec::new()),
        process_id: Some("p".into()),
        client_tags: Some(Vec::new()),
        ..Default::default()
    };
    d.call(c, &request, 0)
}

fn beat(d: &mut Driver, c: Client, epoch: i32) -> Response {
    let request = wire::StreamsGroupHeartbeatRequest {
        group_id: "app".into(),
        member_id: "m".into(),
        member_epoch: epoch,
        ..Default::default()
    };
    d.call(c, &request, 0)
}

fn describe(d: &mut Driver, c: Client) -> DescribedGroup<'static> {
    let request = wire::StreamsGroupDescribeRequest {
        group_ids: vec!["app".into()],
        include_authorized_operations: true,
    };
    let mut r: wire::StreamsGroupDescribeResponse<'static> = d.call(c, &request, 0);
    r.groups.remove(0)
}

fn statuses(response: &Response) -> Vec<i8> {
    let all = response.status.iter().flatten();
    all.map(|s| s.status_code).collect()
}

fn tasks(response: &Response) -> Vec<(String, Vec<i32>)> {
    let all = response.active_tasks.iter().flatten();
    all.map(|t| (t.subtopology_id.to_string(), t.partitions.clone()))
        .collect()
}

/// Number of partitions, and the cleanup policy that was set.
fn topic(d: &mut Driver, c: Client, name: &'static str) -> (usize, Option<String>) {
    let request = wire::MetadataRequest {
        topics: Some(vec![wire::metadata_request::MetadataRequestTopic {
            name: Some(name.into()),
            ..Default::default()
        }]),
        ..Default::default()
    };
    let r: wire::MetadataResponse<'_> = d.call(c, &request, 9);
    let count = r.topics[0].partitions.len();
    let request = wire::DescribeConfigsRequest {
        resources: vec![wire::describe_configs_request::DescribeConfigsResource {
            resource_type: 2,
            resource_name: name.into(),
            configuration_keys: Some(vec!["cleanup.policy".into()]),
        }],
        ..Default::default()
    };
    let r: wire::DescribeConfigsResponse<'_> = d.call(c, &request, 4);
    let config = r.results[0].configs.first();
    (
        count,
        config.and_then(|c| c.value.as_deref()).map(str::to_owned),
    )
}

#[test]
fn an_application_gets_its_topics_and_its_tasks() {
    for (shards, seed) in [(1, 1), (4, 2), (3, 3)] {
        println!("shards {shards} seed {seed}");
        let mut d = start(shards, seed, MemDisk::new());
        let c = d.connect(0);
        let r = join(&mut d, c, word_count("lines"));
        assert_eq!(r.error_code, 16, "no coordinator yet");
        d.find_coordinator(c, "app", 0);
        let r = join(&mut d, c, word_count("lines"));
        assert_eq!((r.error_code, r.member_epoch), (0, 2));
        assert_eq!(statuses(&r), [MISSING_SOURCE_TOPICS]);
        assert_eq!(d.create_topic(c, "lines", 3), 0);
        let r = beat(&mut d, c, r.member_epoch);
        assert_eq!(statuses(&r), [MISSING_INTERNAL_TOPICS]);
        assert_eq!(describe(&mut d, c).group_state, "NotReady");
        d.run_until_idle();
        let r = beat(&mut d, c, r.member_epoch);
        assert_eq!((r.error_code, statuses(&r)), (0, Vec::new()));
        let all = vec![0, 1, 2];
        assert_eq!(tasks(&r), [("0".into(), all.clone()), ("1".into(), all)]);
        let compacted = Some("compact".to_owned());
        assert_eq!(topic(&mut d, c, "app-counts-changelog"), (3, compacted));
        let deleted = Some("delete".to_owned());
        assert_eq!(topic(&mut d, c, "app-words-repartition"), (3, deleted));
        let group = describe(&mut d, c);
        assert_eq!((&*group.group_state, group.error_code), ("Stable", 0));
        assert_eq!(group.members.len(), 1);
        let topology = group.topology.unwrap().subtopologies.unwrap();
        assert_eq!(topology[1].state_changelog_topics[0].partitions, 3);
    }
}

#[test]
fn a_restart_brings_the_group_back() {
    let mut d = start(2, 4, MemDisk::new());
    let c = d.connect(0);
    d.find_coordinator(c, "app", 0);
    assert_eq!(d.create_topic(c, "lines", 2), 0);
    join(&mut d, c, word_count("lines"));
    d.run_until_idle();
    let r = beat(&mut d, c, 2);
    assert_eq!(tasks(&r).len(), 2);
    let before = describe(&mut d, c);
    d.shutdown();
    d.restart();
    d.run_until_ready();
    let c = d.connect(0);
    d.run_until_idle();
    let after = describe(&mut d, c);
    assert_eq!(after.group_epoch, before.group_epoch);
    assert_eq!(after.members, before.members);
    let r = beat(&mut d, c, r.member_epoch);
    assert_eq!(
        (r.error_code, r.member_epoch),
        (0, before.members[0].member_epoch)
    );
    assert_eq!(describe(&mut d, c), before, "with the topics' partitions");
}

#[test]
fn topics_that_can_not_be_made_are_told() {
    let mut d = start(2, 5, MemDisk::new());
    let c = d.connect(0);
    d.find_coordinator(c, "app", 0);
    assert_eq!(d.create_topic(c, "lines", 2), 0);
    let mut topology = word_count("lines");
    topology.subtopologies[1].state_changelog_topics[0].replication_factor = 7;
    let r = join(&mut d, c, topology);
    assert_eq!(statuses(&r), [MISSING_INTERNAL_TOPICS]);
    d.run_until_idle();
    let r = beat(&mut d, c, r.member_epoch);
    let detail = &r.status.as_ref().unwrap()[0].status_detail;
    assert!(
        detail.contains("; Creation failed: app-counts-changelog ("),
        "{detail}"
    );
}

#[test]
fn a_topology_must_name_topics_that_it_may() {
    let mut d = start(2, 6, MemDisk::new());
    let c = d.connect(0);
    d.find_coordinator(c, "app", 0);
    let r = join(&mut d, c, word_count("__consumer_offsets"));
    assert_eq!(r.error_code, 130);
    let text = r.error_message.unwrap();
    assert!(text.contains("__consumer_offsets"), "{text}");
    let r = join(&mut d, c, word_count("no/name"));
    assert_eq!(r.error_code, 130);
    let text = r.error_message.unwrap();
    assert!(text.contains("no/name"), "{text}");
}

#[test]
fn without_the_feature_the_protocol_is_not_spoken() {
    let mut d = start(2, 7, MemDisk::new());
    let c = d.connect(0);
    d.find_coordinator(c, "app", 0);
    assert_eq!(d.switch_off(c, "streams.version"), 0);
    assert_eq!(join(&mut d, c, word_count("lines")).error_code, 35);
    assert_eq!(describe(&mut d, c).error_code, 35);
}
