//! When the disk holds what was acked: `flush.messages`, `flush.ms` and their broker-wide forms.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

use bytes::Bytes;
use flumen_log::BatchBuilder;
use flumen_log::testing::MemDisk;
use flumen_settings::BrokerConfig;
use flumen_shard::testing::{Client, Driver, produce_request};
use flumen_wire::messages as wire;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A broker with topic "t" of one partition, which has settings of its own.
fn start(settings: BrokerConfig, own: &[(&str, &str)]) -> (Driver, Client) {
    let mut d = Driver::start(1, 5, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    let config = |(name, value): &(&'static str, &'static str)| {
        wire::create_topics_request::CreatableTopicConfig {
            name: Cow::Borrowed(*name),
            value: Some(Cow::Borrowed(*value)),
        }
    };
    let own: Vec<(&'static str, &'static str)> = own
        .iter()
        .map(|(n, v)| (&*n.to_string().leak(), &*v.to_string().leak()))
        .collect();
    let request = wire::CreateTopicsRequest {
        topics: vec![wire::create_topics_request::CreatableTopic {
            name: "t".into(),
            num_partitions: 1,
            replication_factor: 1,
            configs: own.iter().map(config).collect(),
            ..Default::default()
        }],
        timeout_ms: 1000,
        ..Default::default()
    };
    let r: wire::CreateTopicsResponse<'_> = d.call(c, &request, 7);
    assert_eq!(r.topics[0].error_code, 0);
    (d, c)
}

fn batch(records: u64) -> Bytes {
    let mut b = BatchBuilder::new();
    for n in 0..records {
        b.push(
            1_700_000_000_000,
            None,
            Some(format!("{n:0>100}").as_bytes()),
        );
    }
    b.build().unwrap()
}

/// Waits for the ack.
fn produce(d: &mut Driver, c: Client, records: u64) {
    let records = batch(records);
    assert_eq!(d.produce(c, "t", 0, &records).0, 0);
}

fn logs(d: &Driver) -> Vec<PathBuf> {
    let is_log = |p: &PathBuf| {
        let dir = p.parent().and_then(Path::file_name);
        dir.is_some_and(|dir| dir == "t-0") && p.extension().is_some_and(|e| e == "log")
    };
    d.disk.paths().into_iter().filter(is_log).collect()
}

fn synced(d: &Driver) -> bool {
    logs(d).iter().all(|log| d.disk.is_synced(log))
}

#[test]
fn by_default_nothing_is_synced_for_an_ack() {
    let (mut d, c) = start(Driver::settings(), &[]);
    produce(&mut d, c, 10);
    d.run_for_ms(60_000);
    assert!(!synced(&d));
}

#[test]
fn flush_messages_1_acks_what_is_on_disk() {
    let (mut d, c) = start(Driver::settings(), &[("flush.messages", "1")]);
    for _ in 0..20 {
        produce(&mut d, c, 1);
        assert!(synced(&d));
    }
}

#[test]
fn every_so_many_messages_one_sync() {
    let (mut d, c) = start(Driver::settings(), &[("flush.messages", "10")]);
    produce(&mut d, c, 9);
    assert!(!synced(&d));
    produce(&mut d, c, 1);
    assert!(synced(&d));
    produce(&mut d, c, 9);
    assert!(!synced(&d));
}

#[test]
fn the_topics_setting_goes_over_the_brokers() {
    let mut settings = Driver::settings();
    settings.topics.log.flush_messages = 1; // log.flush.interval.messages
    let (mut d, c) = start(settings.clone(), &[]);
    produce(&mut d, c, 1);
    assert!(synced(&d));
    let (mut d, c) = start(settings, &[("flush.messages", "100")]);
    produce(&mut d, c, 1);
    assert!(!synced(&d));
}

#[test]
fn flush_ms_syncs_what_has_waited_so_long() {
    let (mut d, c) = start(Driver::settings(), &[("flush.ms", "5000")]);
    produce(&mut d, c, 1);
    d.run_for_ms(2_000);
    assert!(!synced(&d));
    d.run_for_ms(6_000);
    assert!(synced(&d));
}

#[test]
fn the_scheduler_interval_is_how_often_flush_ms_is_looked_at() {
    let mut settings = Driver::settings();
    settings.topics.log.flush_ms = 50; // log.flush.interval.ms
    settings.log.flush_scheduler_interval_ms = 20_000;
    let (mut d, c) = start(settings.clone(), &[]);
    produce(&mut d, c, 1);
    d.run_for_ms(15_000);
    assert!(!synced(&d));
    d.run_for_ms(30_000);
    assert!(synced(&d));
    settings.log.flush_scheduler_interval_ms = 20;
    let (mut d, c) = start(settings, &[]);
    produce(&mut d, c, 1);
    d.run_for_ms(200);
    assert!(synced(&d));
}

/// Segments of one or two batches: each ack promises file and name.
#[test]
fn a_rolled_segments_name_is_on_disk_before_the_ack() {
    let mut settings = Driver::settings();
    settings.topics.log.segment_bytes = 2000;
    settings.flumen.log_sync_before_ack = true;
    let (mut d, c) = start(settings, &[]);
    for n in 1..=20 {
        produce(&mut d, c, 10);
        assert!(synced(&d), "batch {n}");
    }
    assert!(logs(&d).len() > 5);
}

/// Three producers, the first of which has been answered for a write that took 4 ms; the others'
/// records came while it was under way.
fn two_wait_behind_one() -> (Driver, [Client; 3]) {
    let (mut d, c) = start(Driver::settings(), &[("flush.messages", "1")]);
    produce(&mut d, c, 1);
    d.run_until_idle();
    let clients = [c, d.connect(0), d.connect(0)];
    for client in clients {
        send(&mut d, client);
    }
    d.pass_ms(4);
    assert!(d.step());
    assert!(d.take_answer(c).is_some());
    (d, clients)
}

fn send(d: &mut Driver, c: Client) {
    d.send(c, &produce_request("t", 0, -1, &batch(1)), 9);
}

#[test]
fn those_who_are_answered_share_the_next_sync_with_those_who_wait() {
    let (mut d, clients) = two_wait_behind_one();
    assert!(!d.step(), "the next write has begun without the first");
    send(&mut d, clients[0]);
    assert!(d.step());
    assert!(!d.step());
    assert!(synced(&d));
    for client in clients {
        assert!(d.take_answer(client).is_some());
    }
}

#[test]
fn a_write_waits_for_others_only_a_moment() {
    let (mut d, clients) = two_wait_behind_one();
    d.run_for_ms(1);
    assert!(synced(&d));
    for client in &clients[1..] {
        assert!(d.take_answer(*client).is_some());
    }
    // In vain: now it begins at once.
    for client in clients {
        send(&mut d, client);
    }
    d.pass_ms(4);
    assert!(d.step());
    assert!(d.step(), "the next write waits");
    for client in clients {
        assert!(d.take_answer(client).is_some());
    }
}
