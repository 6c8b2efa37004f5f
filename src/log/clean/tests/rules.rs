//! One rule each.

use super::*;
use crate::batch::BatchHeader;
use crate::codec::Compression;
use crate::lookup::Target;
use crate::read::{ReadPlan, ReadRequest};
use flumen_base::{Offset, OpenMode};

fn values(rig: &mut Rig) -> Vec<(i64, String)> {
    let seen = read_from(rig, 0, 1 << 20).into_iter();
    let text = |v: Option<Vec<u8>>| v.map_or("-".to_owned(), |v| String::from_utf8(v).unwrap());
    seen.map(|s| (s.offset, text(s.value))).collect()
}

fn owned(list: &[(i64, &str)]) -> Vec<(i64, String)> {
    list.iter().map(|(o, v)| (*o, (*v).to_owned())).collect()
}

/// Cleans once, if that is due.
fn clean_if_due(rig: &mut Rig) -> bool {
    let what = rig.log.cleanable(rig.now(), rig.log.written_end_offset());
    let due = what.is_some_and(|what| what.is_due(&rig.config));
    if due {
        let disk = rig.disk.clone();
        clean_with(rig, 1 << 20, &disk).unwrap();
    }
    due
}

#[test]
fn a_tombstone_stays_for_its_time_under_a_delete_horizon() {
    let mut rig = Rig::new(config());
    put(&mut rig, one("a", Some("1"), 500));
    let mut both = one("a", None, 501);
    both.push(502, Some(b"b"), Some(b"2"));
    put(&mut rig, both);
    roll(&mut rig);
    clean_all(&mut rig, 1 << 20);
    let horizon = rig.now_ms + RETENTION_MS;
    assert_eq!(values(&mut rig), owned(&[(1, "-"), (2, "2")]));
    assert_eq!(batches(&mut rig), [(1, 2, 2, false, Some(horizon))]);
    let times: Vec<i64> = read_from(&mut rig, 0, 100)
        .iter()
        .map(|s| s.timestamp)
        .collect();
    assert_eq!(times, [501, 502], "records keep their own timestamps");
    let dirty = |rig: &mut Rig| {
        put(rig, one("c", Some("3"), 503));
        roll(rig);
    };
    rig.now_ms = horizon - 1;
    dirty(&mut rig);
    clean_all(&mut rig, 1 << 20);
    assert_eq!(values(&mut rig).len(), 3);
    assert_eq!(batches(&mut rig)[0].4, Some(horizon), "it does not move");
    rig.now_ms = horizon;
    dirty(&mut rig);
    clean_all(&mut rig, 1 << 20);
    assert_eq!(values(&mut rig), owned(&[(2, "2"), (4, "3")]));
    assert_eq!(batches(&mut rig)[0], (1, 2, 1, false, Some(horizon)));
    let times: Vec<i64> = read_from(&mut rig, 0, 100)
        .iter()
        .map(|s| s.timestamp)
        .collect();
    assert_eq!(times, [502, 503]);
}

#[test]
fn a_rewritten_batch_keeps_offsets_sequences_and_codec() {
    for codec in (0..5).map(|id| Compression::from_id(id).unwrap()) {
        let mut rig = Rig::new(config());
        let mut b = BatchBuilder::new().producer(7, 3, 10);
        for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")] {
            b.push(1000, Some(key.as_bytes()), Some(value.as_bytes()));
        }
        put_bytes(&mut rig, b.build_compressed(codec, 1).unwrap());
        put(&mut rig, one("a", Some("5"), 1001));
        put(&mut rig, one("d", Some("6"), 1001));
        roll(&mut rig);
        clean_all(&mut rig, 1 << 20);
        let bytes = rig.read(0, 6, 1 << 20).unwrap();
        let header = BatchHeader::new(&bytes).unwrap();
        assert_eq!(header.compression(), Ok(codec));
        assert_eq!((header.base_offset(), header.last_offset()), (0, 3));
        assert_eq!((header.count(), header.base_sequence()), (2, 10));
        assert_eq!((header.last_sequence(), header.producer_epoch()), (13, 3));
        let wanted = [(1, "2"), (2, "3"), (4, "5"), (5, "6")];
        assert_eq!(values(&mut rig), owned(&wanted));
        // An offset that is gone gives what comes next; so does a look at time.
        assert_eq!(read_from(&mut rig, 3, 100)[0].offset, 4);
        let found = rig.log.lookup(Target::Timestamp(1001), Offset(6));
        let found = found.run(&rig.disk).unwrap().0.unwrap();
        assert_eq!((found.offset, found.timestamp), (Offset(4), 1001));
    }
}

#[test]
fn the_last_batch_of_an_active_producer_stays_as_a_header() {
    let mut rig = Rig::new(config());
    let with_producer = |sequence, key: &str| {
        let mut b = BatchBuilder::new().producer(7, 0, sequence);
        b.push(1000, Some(key.as_bytes()), Some(b"of 7"));
        b
    };
    put(&mut rig, with_producer(0, "a"));
    put(&mut rig, with_producer(1, "a"));
    put(&mut rig, one("a", Some("other"), 1000));
    roll(&mut rig);
    clean_all(&mut rig, 1 << 20);
    assert_eq!(values(&mut rig), owned(&[(2, "other")]));
    assert_eq!(batches(&mut rig)[0], (1, 1, 0, false, None));
    // Without any snapshot the next sequence is known, and the batch goes once there is a newer.
    for path in rig.disk.paths() {
        if path.extension().is_some_and(|e| e == "snapshot") {
            rig.disk.remove_file(&path).unwrap();
        }
    }
    let mut rig = reopen(rig);
    assert_eq!(rig.log.producers().get(7).unwrap().last_sequence(), 1);
    put(&mut rig, with_producer(2, "b"));
    roll(&mut rig);
    clean_all(&mut rig, 1 << 20);
    assert_eq!(values(&mut rig), owned(&[(2, "other"), (3, "of 7")]));
    assert_eq!(batches(&mut rig).len(), 2);
}

fn in_txn(producer: i64, sequence: i32, key: &str, value: &str) -> BatchBuilder {
    let mut b = BatchBuilder::new()
        .producer(producer, 0, sequence)
        .transactional(true);
    b.push(1000, Some(key.as_bytes()), Some(value.as_bytes()));
    b
}

fn marker(producer: i64, commit: bool) -> BatchBuilder {
    let mut b = BatchBuilder::new()
        .producer(producer, 0, -1)
        .transactional(true)
        .control(true);
    let key = [0, 0, 0, u8::from(commit)];
    b.push(1000, Some(&key), Some(&[0, 0, 0, 0, 0, 9]));
    b
}

#[test]
fn aborted_data_goes_at_once_and_the_marker_in_time() {
    let mut rig = Rig::new(config());
    put(&mut rig, one("a", Some("kept"), 1000));
    put(&mut rig, in_txn(5, 0, "a", "aborted"));
    put(&mut rig, marker(5, false));
    // So that its batch above is not the last that the producer is known by.
    put(&mut rig, in_txn(5, 1, "b", "committed"));
    put(&mut rig, marker(5, true));
    roll(&mut rig);
    let disk = rig.disk.clone();
    clean_with(&mut rig, 1 << 20, &disk).unwrap();
    assert_eq!(values(&mut rig), owned(&[(0, "kept"), (3, "committed")]));
    let control = |rig: &mut Rig| -> Vec<(i64, Option<i64>)> {
        let all = batches(rig).into_iter();
        all.filter(|b| b.3).map(|b| (b.0, b.4)).collect()
    };
    assert_eq!(
        control(&mut rig),
        [(2, None), (4, None)],
        "both markers stay"
    );
    let known = rig.log.segments.iter().map(|s| s.aborted.as_slice().len());
    assert_eq!(known.sum::<usize>(), 1, "readers still know of it");
    // From now on the new segment's own index tells.
    let index = rig.disk.paths();
    assert!(
        index
            .iter()
            .any(|p| p.extension().is_some_and(|e| e == "txnindex"))
    );
    let again = |rig: &mut Rig, n: i32| {
        put(rig, in_txn(5, 2 + n, "c", "later"));
        put(rig, marker(5, true));
        roll(rig);
        clean_all(rig, 1 << 20);
    };
    again(&mut rig, 0);
    let horizon = rig.now_ms + RETENTION_MS;
    assert_eq!(
        control(&mut rig)[0],
        (2, Some(horizon)),
        "nothing of it is left"
    );
    rig.now_ms = horizon;
    again(&mut rig, 1);
    assert!(control(&mut rig).iter().all(|(offset, _)| *offset != 2));
    let seen = values(&mut rig);
    assert_eq!(seen[..2], owned(&[(0, "kept"), (3, "committed")]));
}

#[test]
fn a_committed_marker_stays_while_there_is_data_of_it() {
    let mut rig = Rig::new(config());
    put(&mut rig, in_txn(5, 0, "a", "1"));
    put(&mut rig, marker(5, true));
    put(&mut rig, in_txn(5, 1, "b", "2"));
    put(&mut rig, marker(5, true));
    roll(&mut rig);
    let next = |rig: &mut Rig, key: &str| {
        rig.now_ms += 2 * RETENTION_MS;
        put(rig, one(key, Some("x"), 1000));
        roll(rig);
        clean_all(rig, 1 << 20);
        let all = batches(rig).into_iter().filter(|b| b.3);
        all.map(|b| (b.0, b.4.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(next(&mut rig, "x"), [(1, false), (3, false)]);
    assert_eq!(
        next(&mut rig, "a"),
        [(1, false), (3, false)],
        "its data was still met"
    );
    assert_eq!(next(&mut rig, "y"), [(1, true), (3, false)]);
    assert_eq!(next(&mut rig, "z"), [(3, false)]);
}

#[test]
fn what_is_open_young_or_active_is_not_cleaned() {
    let mut rig = Rig::new(LogConfig {
        min_compaction_lag_ms: 100,
        ..config()
    });
    let now = rig.now_ms;
    put(&mut rig, one("a", Some("1"), now - 200));
    put(&mut rig, one("a", Some("2"), now - 200));
    assert_eq!(rig.log.cleanable(rig.now(), Offset(2)), None, "active");
    roll(&mut rig);
    put(&mut rig, one("a", Some("3"), now - 50));
    roll(&mut rig);
    put(&mut rig, one("b", Some("4"), now));
    let hw = rig.log.written_end_offset();
    let what = rig.log.cleanable(rig.now(), hw).unwrap();
    assert_eq!((what.first_dirty, what.upper), (Offset(0), Offset(2)));
    assert_eq!(
        rig.log.cleanable(rig.now(), Offset(1)),
        None,
        "above the high watermark"
    );
    rig.now_ms += 100;
    let what = rig.log.cleanable(rig.now(), hw).unwrap();
    assert_eq!(what.upper, Offset(3));
    assert_eq!(what.ratio(), 1.0);

    let mut rig = Rig::new(config());
    put(&mut rig, one("a", Some("1"), 1000));
    roll(&mut rig);
    put(&mut rig, in_txn(5, 0, "a", "2"));
    roll(&mut rig);
    put(&mut rig, one("a", Some("3"), 1000));
    roll(&mut rig);
    let upper = |rig: &Rig| {
        let what = rig.log.cleanable(rig.now(), rig.log.written_end_offset());
        what.map(|w| w.upper.0)
    };
    assert_eq!(upper(&rig), Some(1), "the transaction is open");
    put(&mut rig, marker(5, true));
    assert_eq!(upper(&rig), Some(3));
}

#[test]
fn ratio_and_largest_lag_say_when() {
    let mut rig = Rig::new(LogConfig {
        min_cleanable_dirty_ratio: 0.5,
        max_compaction_lag_ms: 10_000,
        segment_ms: i64::MAX,
        ..config()
    });
    let time = rig.now_ms;
    for n in 0..4 {
        put(&mut rig, one(&format!("k{n}"), Some("some value"), time));
    }
    roll(&mut rig);
    assert!(clean_if_due(&mut rig), "all is dirty");
    assert!(!clean_if_due(&mut rig), "nothing is");
    put(&mut rig, one("k9", Some("some value"), time));
    roll(&mut rig);
    assert!(!clean_if_due(&mut rig), "a fifth is");
    rig.now_ms += 10_000;
    assert!(!clean_if_due(&mut rig));
    rig.now_ms += 1;
    assert!(clean_if_due(&mut rig), "but it has waited for long enough");
    // What is in the active segment does not wait there for longer either.
    let now_ms = rig.now_ms;
    put(&mut rig, one("k9", Some("1"), now_ms));
    let base = rig.log.segment_count();
    put(&mut rig, one("k9", Some("2"), now_ms + 10_001));
    assert_eq!(rig.log.segment_count(), base + 1);
}

#[test]
fn small_segments_are_joined_and_empty_ones_swallowed() {
    let mut rig = Rig::new(config());
    for n in 0..20 {
        put(&mut rig, one("same", Some(&format!("{n}")), 1000 + n));
        roll(&mut rig);
    }
    put(&mut rig, one("other", Some("x"), 2000));
    assert_eq!(rig.log.segment_count(), 21);
    clean_all(&mut rig, 1 << 20);
    assert_eq!(rig.log.segment_count(), 2);
    assert_eq!(values(&mut rig), owned(&[(19, "19"), (20, "x")]));
    assert_eq!(rig.log.log_start_offset(), Offset(0));
    let (disk, config) = rig.close();
    let mut rig = Rig::open(disk, config, 21, 0, true);
    assert_eq!(values(&mut rig), owned(&[(19, "19"), (20, "x")]));
    assert_eq!(rig.log.segment_count(), 2);
}

#[test]
fn a_segment_without_anything_left_can_be_read_through_and_loaded() {
    let mut rig = Rig::new(LogConfig {
        segment_bytes: 400, // two batches: no joining
        ..config()
    });
    let long = "x".repeat(200);
    for n in 0..3 {
        put(&mut rig, one("same", Some(&format!("{n}{long}")), 1000 + n));
        roll(&mut rig);
    }
    clean_all(&mut rig, 1 << 20);
    let sizes: Vec<u64> = rig.log.segments.iter().map(|s| s.mark.size).collect();
    assert_eq!(sizes[0], 0);
    assert_eq!(values(&mut rig).len(), 1);
    assert_eq!(read_from(&mut rig, 1, 50)[0].offset, 2);
    let mut rig = reopen(rig);
    assert_eq!(values(&mut rig).len(), 1);
    assert_eq!(rig.log.log_end_offset(), Offset(3));
}

#[test]
fn slices_are_bounded_and_a_tiny_map_takes_several_cleanings() {
    let mut rig = Rig::new(config());
    for n in 0..60 {
        let value = "x".repeat(100);
        put(
            &mut rig,
            one(&format!("k{}", n % 30), Some(&value), 1000 + n),
        );
    }
    roll(&mut rig);
    let what = rig.log.cleanable(rig.now(), Offset(60)).unwrap();
    let limits = CleanLimits {
        slice_bytes: 300,
        ..limits(24 * 12)
    };
    let mut work = rig.log.start_cleaning(rig.now(), what, limits);
    let mut slices = 0;
    let end = loop {
        let output = work.slice(&rig.disk);
        assert!(output.bytes <= 4 * 300, "{} bytes in a slice", output.bytes);
        slices += 1;
        work = output.work;
        match output.step.unwrap() {
            CleanStep::More => {}
            CleanStep::Swap(mut job) => {
                rig.log.begin_swap(&mut job).unwrap();
                rig.log.swap_done(job.run(&rig.disk)).unwrap();
            }
            CleanStep::Done(end) => break end,
        }
    };
    rig.log.cleaning_done(Some(end));
    assert!(slices > 10, "{slices} slices");
    assert_eq!(end, Offset(10), "no more keys fit");
    assert_eq!(work.stats().keys, 10);
    assert!(clean_all(&mut rig, 24 * 12) >= 4);
    assert_eq!(values(&mut rig).len(), 30);
}

#[test]
fn a_read_that_was_on_its_way_goes_on_in_the_new_segment() {
    let mut rig = Rig::new(config());
    for n in 0..6 {
        let value = format!("{n}{}", "x".repeat(100));
        put(
            &mut rig,
            one(&format!("k{}", n % 3), Some(&value), 1000 + n),
        );
    }
    roll(&mut rig);
    let request = ReadRequest {
        offset: Offset(3),
        upper_bound: Offset(6),
        max_bytes: 1000,
        min_one: true,
    };
    let ReadPlan::NeedScan(scan) = rig.log.plan_read(&request) else {
        panic!("its place is known");
    };
    let file = rig
        .disk
        .open(scan.range.file.path(), OpenMode::Read)
        .unwrap();
    let mut bytes = vec![0; scan.range.len as usize];
    let n = file.read_at(&mut bytes, scan.range.pos).unwrap();
    bytes.truncate(n);
    clean_all(&mut rig, 1 << 20);
    let plan = rig.log.resume_read(scan, &bytes.into());
    assert!(
        matches!(plan, ReadPlan::NeedScan(_)),
        "from the start again"
    );
    assert_eq!(read_from(&mut rig, 2, 1000)[0].offset, 3);
}

#[test]
fn retention_and_a_swap_keep_out_of_each_others_way() {
    let mut rig = Rig::new(config());
    for n in 0..6 {
        put(&mut rig, one("k", Some(&format!("{n}")), 1000 + n));
        roll(&mut rig);
    }
    let what = rig.log.cleanable(rig.now(), Offset(6)).unwrap();
    let limits = limits(1 << 20);
    let mut work = rig.log.start_cleaning(rig.now(), what, limits);
    assert_eq!(
        rig.log.cleanable(rig.now(), Offset(6)),
        None,
        "one at a time"
    );
    let mut job = loop {
        let output = work.slice(&rig.disk);
        work = output.work;
        if let CleanStep::Swap(job) = output.step.unwrap() {
            break job;
        }
    };
    rig.log.begin_swap(&mut job).unwrap();
    rig.log.advance_log_start(Offset(3));
    assert!(rig.log.retention(rig.now(), Offset(6)).is_none());
    rig.log.swap_given_up();
    let deleted = rig.log.retention(rig.now(), Offset(6)).unwrap();
    deleted.run(&rig.disk).unwrap();
    assert!(rig.log.begin_swap(&mut job).is_none(), "three are gone");
    work.discard(&rig.disk).unwrap();
    rig.log.cleaning_done(None);
    clean_all(&mut rig, 1 << 20);
    assert_eq!(values_from(&mut rig, 3), owned(&[(5, "5")]));
}

fn values_from(rig: &mut Rig, offset: i64) -> Vec<(i64, String)> {
    let seen = read_from(rig, offset, 1 << 20).into_iter();
    seen.map(|s| (s.offset, String::from_utf8(s.value.unwrap()).unwrap()))
        .collect()
}

#[test]
fn damage_stops_a_cleaning_and_is_named() {
    let mut rig = Rig::new(config());
    for n in 0..4 {
        put(&mut rig, one("k", Some(&format!("value {n}")), 1000));
    }
    roll(&mut rig);
    let path = rig.log.dir().join(format!("{:020}.log", 0));
    let file = rig.disk.open(&path, OpenMode::ReadWrite).unwrap();
    let pos = file.len().unwrap() - 1;
    file.write_all_at(b"?", pos).unwrap();
    let disk = rig.disk.clone();
    let before = disk.contents(&path).unwrap();
    let error = clean_with(&mut rig, 1 << 20, &disk).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(
        error
            .to_string()
            .contains("00000000000000000000.log at byte"),
        "{error}"
    );
    assert_eq!(disk.contents(&path).unwrap(), before);
    assert!(!rig.log.is_cleaning());
}
