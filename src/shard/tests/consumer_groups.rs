//! Consumer groups (KIP-848) through shards: heartbeats to the shard that has the group, topics
//! that come, settings of the group, the feature.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests stand outside of them

use flumen_log::testing::MemDisk;
use flumen_shard::testing::{Client, Driver};
use flumen_wire::messages as wire;
use wire::consumer_group_describe_response::DescribedGroup;

fn start(shards: u16, seed: u64, disk: MemDisk) -> Driver {
    let mut driver = Driver::start(shards, seed, Driver::settings(), disk);
    driver.run_until_ready();
    driver
}

fn beat(d: &mut Driver, c: Client, epoch: i32) -> wire::ConsumerGroupHeartbeatResponse<'static> {
    let joins = epoch == 0;
    let request = wire::ConsumerGroupHeartbeatRequest {
        group_id: "g".into(),
        member_id: "m".into(),
        member_epoch: epoch,
        rebalance_timeout_ms: if joins { 60_000 } else { -1 },
        subscribed_topic_names: joins.then(|| vec!["t".into()]),
        topic_partitions: joins.then(Vec::new),
        ..Default::default()
    };
    d.call(c, &request, 1)
}

fn describe(d: &mut Driver, c: Client) -> DescribedGroup<'static> {
    let request = wire::ConsumerGroupDescribeRequest {
        group_ids: vec!["g".into()],
        ..Default::default()
    };
    let mut r: wire::ConsumerGroupDescribeResponse<'static> = d.call(c, &request, 1);
    r.groups.remove(0)
}

#[test]
fn a_member_gets_what_there_is_and_what_comes() {
    for (shards, seed) in [(1, 1), (4, 2), (3, 3)] {
        println!("shards {shards} seed {seed}");
        let mut d = start(shards, seed, MemDisk::new());
        let c = d.connect(0);
        assert_eq!(beat(&mut d, c, 0).error_code, 16, "no coordinator yet");
        d.find_coordinator(c, "g", 0);
        assert_eq!(d.create_topic(c, "t", 3), 0);
        let r = beat(&mut d, c, 0);
        assert_eq!((r.error_code, r.member_epoch), (0, 2));
        let topics = r.assignment.unwrap().topic_partitions;
        assert_eq!(topics[0].partitions, [0, 1, 2]);
        let grow = wire::CreatePartitionsRequest {
            topics: vec![wire::create_partitions_request::CreatePartitionsTopic {
                name: "t".into(),
                count: 4,
                assignments: None,
            }],
            timeout_ms: 1000,
            ..Default::default()
        };
        let r: wire::CreatePartitionsResponse<'_> = d.call(c, &grow, 3);
        assert_eq!(r.results[0].error_code, 0);
        let configs = [
            ("consumer.heartbeat.interval.ms", "6000"),
            ("consumer.assignment.interval.ms", "0"),
        ];
        d.set_group_configs(c, "g", &configs);
        let r = beat(&mut d, c, 2);
        assert_eq!(
            (r.error_code, r.member_epoch, r.heartbeat_interval_ms),
            (0, 3, 6000)
        );
        assert_eq!(
            r.assignment.unwrap().topic_partitions[0].partitions.len(),
            4
        );
        let group = describe(&mut d, c);
        assert_eq!((&*group.group_state, group.group_epoch), ("Stable", 3));
    }
}

#[test]
fn without_the_feature_the_protocol_is_not_spoken() {
    let mut d = start(2, 5, MemDisk::new());
    let c = d.connect(0);
    d.find_coordinator(c, "g", 0);
    assert_eq!(d.switch_off(c, "group.version"), 0);
    assert_eq!(beat(&mut d, c, 0).error_code, 35);
    assert_eq!(describe(&mut d, c).error_code, 35);
}
