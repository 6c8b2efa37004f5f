//! Starts with damaged files: what can be repaired is, and what can't is refused for its partition
//! only.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

use bytes::Bytes;
use flumen_base::{Disk, Offset, OpenMode};
use flumen_log::BatchBuilder;
use flumen_log::checkpoint::{self, LOG_START, Offsets};
use flumen_log::recovery::ACCEPT_LOSS;
use flumen_log::testing::MemDisk;
use flumen_settings::BrokerConfig;
use flumen_shard::testing::{Client, Driver};
use flumen_wire::messages as wire;
use std::path::{Path, PathBuf};

const STORAGE_ERROR: i16 = 56;
/// The topic ids beside the checkpoints.
const IDS: &str = "flumen-topic-id-checkpoint";
/// Of every record.
const TIME: i64 = 1_700_000_000_000;
/// The timestamp that asks for the log start (ListOffsets).
const EARLIEST: i64 = -2;

/// A broker with topic "t" of two partitions and three records in each.
fn start() -> (Driver, Client) {
    start_with(Driver::settings())
}

fn start_with(settings: BrokerConfig) -> (Driver, Client) {
    let mut d = Driver::start(2, 9, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    assert_eq!(d.create_topic(c, "t", 2), 0);
    for n in 0..3 {
        for partition in 0..2 {
            assert_eq!(produce(&mut d, c, partition), (0, n));
        }
    }
    (d, c)
}

/// Another topic "t", which has nothing of the first.
fn create_again(d: &mut Driver, c: Client) {
    assert_eq!(d.delete_topic(c, "t"), 0);
    assert_eq!(d.create_topic(c, "t", 2), 0);
}

/// A checkpoint says that the log of partition 0 begins here.
fn say_log_start(d: &Driver, offset: i64) {
    let starts = Offsets::from([(("t".to_owned(), 0), Offset(offset))]);
    let dir = path(d, None, IDS);
    checkpoint::write_offsets(&d.disk, dir.parent().unwrap(), LOG_START, &starts).unwrap();
}

fn batch() -> Bytes {
    let mut b = BatchBuilder::new();
    b.push(TIME, None, Some(&[b'x'; 100]));
    b.build().unwrap()
}

/// Error and offset.
fn produce(d: &mut Driver, c: Client, partition: i32) -> (i16, i64) {
    d.produce(c, "t", partition, &batch())
}

/// The file of this name of one partition, or of the log directory.
fn path(d: &Driver, dir: Option<&str>, end: &str) -> PathBuf {
    let fits = |path: &PathBuf| {
        let parent = path.parent().and_then(Path::file_name);
        let named = path.to_string_lossy().ends_with(end);
        named && dir.is_none_or(|dir| parent.is_some_and(|p| p == dir))
    };
    d.disk.paths().into_iter().find(fits).unwrap()
}

fn overwrite(d: &Driver, path: &Path, bytes: &[u8], at: u64) {
    let file = d.disk.open(path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn restart(d: &mut Driver) -> Client {
    d.restart();
    d.run_until_ready();
    d.connect(0)
}

#[test]
fn a_partition_that_lost_synced_records_is_refused_alone() {
    let (mut d, _) = start();
    d.shutdown();
    let log = path(&d, Some("t-0"), ".log");
    let len = d.disk.len(&log).unwrap();
    let file = d.disk.open(&log, OpenMode::ReadWrite).unwrap();
    file.set_len(len - 1).unwrap();
    let c = restart(&mut d);
    assert_eq!(produce(&mut d, c, 0).0, STORAGE_ERROR);
    assert_eq!(produce(&mut d, c, 1), (0, 3));
    // The loss is accepted: what is left serves.
    d.shutdown();
    let accept = log.with_file_name(ACCEPT_LOSS);
    d.disk.open(&accept, OpenMode::Create).unwrap();
    let c = restart(&mut d);
    assert_eq!(produce(&mut d, c, 0), (0, 2));
    assert_eq!(produce(&mut d, c, 1), (0, 4));
    d.shutdown();
    let c = restart(&mut d);
    assert_eq!(produce(&mut d, c, 0), (0, 3));
    assert!(!d.disk.exists(&accept), "accepted once");
}

#[test]
fn damaged_checkpoints_are_done_without() {
    for name in [
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
    ] {
        for clean in [true, false] {
            let (mut d, _) = start();
            d.shutdown();
            if !clean {
                let marker = path(&d, None, ".kafka_cleanshutdown");
                d.disk.remove_file(&marker).unwrap();
            }
            let file = path(&d, None, name);
            overwrite(&d, &file, b"\xff\xfegarbage", 0);
            let c = restart(&mut d);
            assert_eq!(produce(&mut d, c, 0), (0, 3), "{name} {clean}");
            assert_eq!(produce(&mut d, c, 1), (0, 3), "{name} {clean}");
        }
    }
}

#[test]
fn a_damaged_identity_is_written_again() {
    for (bytes, at) in [(&b"\xff\xff"[..], 0), (&b"A"[..], 24)] {
        let (mut d, _) = start();
        d.shutdown();
        let file = path(&d, Some("t-1"), "partition.metadata");
        let before = d.disk.contents(&file).unwrap();
        overwrite(&d, &file, bytes, at);
        assert_ne!(d.disk.contents(&file).unwrap(), before);
        let c = restart(&mut d);
        assert_eq!(produce(&mut d, c, 1), (0, 3));
        assert_eq!(d.disk.contents(&file).unwrap(), before);
    }
}

#[test]
fn records_that_a_sealed_segment_lost_are_not_passed_over() {
    let mut settings = Driver::settings();
    settings.topics.log.segment_bytes = 400; // two batches
    let (mut d, _) = start_with(settings);
    d.run_for_ms(120_000); // sealed
    d.shutdown();
    let log = path(&d, Some("t-0"), "00000000000000000000.log");
    let len = d.disk.len(&log).unwrap();
    let file = d.disk.open(&log, OpenMode::ReadWrite).unwrap();
    file.set_len(len / 2).unwrap();
    let c = restart(&mut d);
    assert_eq!(fetch(&mut d, c, 0), (0, len as usize / 2));
    assert_eq!(fetch(&mut d, c, 1), (STORAGE_ERROR, 0));
    let (error, bytes) = fetch(&mut d, c, 2);
    assert!(error == 0 && bytes > 0, "{error} {bytes}");
    // A search by time may not pass over them either.
    assert_eq!(first_from(&mut d, c, TIME), (0, 0));
    assert_eq!(first_from(&mut d, c, TIME + 1), (STORAGE_ERROR, -1));
    assert_eq!(produce(&mut d, c, 0), (0, 3));
}

/// Error, and the offset of the first record of this time or later.
fn first_from(d: &mut Driver, c: Client, timestamp: i64) -> (i16, i64) {
    let request = wire::ListOffsetsRequest {
        replica_id: -1,
        topics: vec![wire::list_offsets_request::ListOffsetsTopic {
            name: "t".into(),
            partitions: vec![wire::list_offsets_request::ListOffsetsPartition {
                partition_index: 0,
                current_leader_epoch: -1,
                timestamp,
            }],
        }],
        ..Default::default()
    };
    let r: wire::ListOffsetsResponse<'_> = d.call(c, &request, 5);
    let answer = &r.topics[0].partitions[0];
    (answer.error_code, answer.offset)
}

/// Error, and bytes of records.
fn fetch(d: &mut Driver, c: Client, offset: i64) -> (i16, usize) {
    let request = wire::FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: vec![wire::fetch_request::FetchTopic {
            topic: "t".into(),
            partitions: vec![wire::fetch_request::FetchPartition {
                fetch_offset: offset,
                current_leader_epoch: -1,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let r: wire::FetchResponse<'_> = d.call(c, &request, 11);
    let answer = &r.responses[0].partitions[0];
    let records = answer.records.as_ref();
    (answer.error_code, records.map_or(0, |r| r.len()))
}

#[test]
fn a_line_of_a_checkpoint_that_was_not_finished_is_of_no_topic() {
    // The first checkpoint of the directory: the process dies before the ids are beside it.
    let (mut d, c) = start();
    say_log_start(&d, 2);
    create_again(&mut d, c);
    d.kill();
    d.run_until_ready();
    let c = d.connect(0);
    assert_eq!(first_from(&mut d, c, EARLIEST), (0, 0));
    assert_eq!(produce(&mut d, c, 0), (0, 0));
}

#[test]
fn lines_of_a_directory_without_ids_are_of_the_partitions_that_have_their_names() {
    for damaged in [false, true] {
        let (mut d, _) = start();
        d.shutdown();
        say_log_start(&d, 2);
        let ids = path(&d, None, IDS);
        match damaged {
            true => overwrite(&d, &ids, b"\xff", 0),
            false => d.disk.remove_file(&ids).unwrap(), // as another broker leaves it
        }
        let mut c = restart(&mut d);
        assert_eq!(
            first_from(&mut d, c, EARLIEST),
            (0, 2),
            "damaged: {damaged}"
        );
        // From now on there are ids.
        create_again(&mut d, c);
        d.kill();
        d.run_until_ready();
        c = d.connect(0);
        assert_eq!(
            first_from(&mut d, c, EARLIEST),
            (0, 0),
            "damaged: {damaged}"
        );
    }
}
