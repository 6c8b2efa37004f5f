use super::*;
use crate::config::CleanupPolicy;
use crate::testing_rig::{DIR, Rig, batch};
use crate::{LogConfig, WriteDone};
use flumen_base::{ErrorCode, Prng};
use std::sync::Arc;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1000,
        retention_ms: -1,
        message_timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    }
}

/// Ten segments of one batch each, at times 1000, 1001 ...
fn ten(config: LogConfig) -> Rig {
    let mut rig = ten_unsealed(config);
    rig.seal();
    assert_eq!(rig.log.segment_count(), 10);
    rig
}

fn ten_unsealed(config: LogConfig) -> Rig {
    let mut rig = Rig::new(config);
    for i in 0..10 {
        rig.append(batch(1000 + i, i as u64, 1, 800)).unwrap();
    }
    rig.write();
    rig
}

/// Whether the log says so many milliseconds later that it is too large.
fn over_after(ms: i64, rig: &mut Rig) -> bool {
    rig.now_ms += ms;
    let now = rig.now().mono;
    rig.log.is_over_size(now)
}

fn retain(rig: &mut Rig, high_watermark: i64) -> usize {
    match rig.log.retention(rig.now(), Offset(high_watermark)) {
        None => 0,
        Some(job) => {
            let count = job.segments().len();
            let again = rig.log.retention(rig.now(), Offset(high_watermark));
            assert!(again.is_none(), "one at a time");
            let deleted = job.run(&rig.disk);
            rig.log.retire_done(&deleted);
            let deleted = deleted.unwrap();
            assert_eq!(deleted.delay_ms, 60_000);
            let names = rig.disk.paths();
            let marked = names
                .iter()
                .filter(|p| p.to_string_lossy().ends_with(".deleted"));
            assert!(marked.count() >= count);
            deleted.unlink.unwrap().run(&rig.disk).unwrap();
            count
        }
    }
}

#[test]
fn sealing_moves_the_recovery_point_and_writes_kafkas_files() {
    let rig = ten(config());
    assert_eq!(rig.log.recovery_point(), Offset(9));
    let names: Vec<String> = rig
        .disk
        .list(Path::new(DIR))
        .unwrap()
        .into_iter()
        .map(|n| n.0)
        .collect();
    for suffix in ["log", "index", "timeindex"] {
        assert!(names.contains(&format!("00000000000000000003.{suffix}")));
    }
    assert!(names.contains(&"00000000000000000004.snapshot".to_owned()));
    assert!(names.contains(&"leader-epoch-checkpoint".to_owned()));
}

#[test]
fn retention_by_size() {
    let size = ten(config()).log.size_bytes() as i64;
    let mut rig = ten(LogConfig {
        retention_bytes: size - size / 10 * 3,
        ..config()
    });
    assert_eq!(retain(&mut rig, 10), 3);
    assert_eq!(rig.log.log_start_offset(), Offset(3));
    assert_eq!(rig.read(2, 10, 100), None);
    assert_eq!(rig.consume(3, 100).len(), 7);
    assert_eq!(retain(&mut rig, 10), 0);
}

#[test]
fn retention_by_time_rolls_the_active_segment_and_respects_the_high_watermark() {
    let mut rig = ten(LogConfig {
        retention_ms: 100,
        ..config()
    });
    rig.now_ms = 1104;
    assert_eq!(retain(&mut rig, 10), 4);
    rig.now_ms = 5000;
    assert_eq!(retain(&mut rig, 6), 2);
    assert_eq!(retain(&mut rig, 10), 4);
    assert_eq!(rig.log.log_start_offset(), Offset(10));
    assert_eq!((rig.log.segment_count(), rig.log.size_bytes()), (1, 0));
    assert_eq!(retain(&mut rig, 10), 0, "an empty segment stays");
    // The end survives even without the checkpoint of the log start.
    rig.seal();
    let (disk, config) = rig.close();
    let mut rig = Rig::open(disk, config, 0, 0, false);
    assert_eq!(rig.log.log_end_offset(), Offset(10));
    assert_eq!(
        rig.append(batch(1, 0, 1, 1)).unwrap().base_offset,
        Offset(10)
    );
}

#[test]
fn compacted_topics_and_retention_for_ever_keep_everything() {
    let compact = CleanupPolicy {
        delete: false,
        compact: true,
    };
    let mut rig = ten(LogConfig {
        cleanup_policy: compact,
        retention_ms: 1,
        retention_bytes: 1,
        ..config()
    });
    assert_eq!(retain(&mut rig, 10), 0);
    rig.log.advance_log_start(Offset(5));
    assert_eq!(retain(&mut rig, 10), 5, "but not what DeleteRecords freed");
    let mut rig = ten(config());
    assert_eq!(retain(&mut rig, 10), 0);
}

#[test]
fn segments_in_work_are_not_deleted() {
    let mut rig = Rig::new(LogConfig {
        retention_bytes: 0,
        ..config()
    });
    for i in 0..3 {
        rig.append(batch(1, i, 1, 800)).unwrap();
    }
    assert_eq!(retain(&mut rig, 3), 0, "nothing is written yet");
    let write = rig.log.take_write().unwrap();
    rig.carry_out(&write);
    assert_eq!(rig.log.write_done(true), WriteDone::Advanced(Offset(1)));
    rig.write_epochs();
    let job = rig.log.take_seal_job(rig.later()).unwrap();
    assert!(
        rig.log.take_seal_job(rig.later()).is_none(),
        "one at a time"
    );
    assert_eq!(retain(&mut rig, 1), 0, "it is being sealed");
    rig.run_seal(job);
    assert_eq!(retain(&mut rig, 1), 1);
    assert!(
        rig.log.take_seal_job(rig.later()).is_none(),
        "the next is not written"
    );
    rig.write();
    assert_eq!(rig.consume(1, 100).len(), 2);
}

#[test]
fn a_clean_shutdown_syncs_everything() {
    let rig = ten(config());
    let (disk, config) = rig.close();
    for path in disk.paths() {
        assert!(disk.is_synced(&path), "{path:?}");
    }
    let read_before = disk.bytes_read(".log");
    let rig = Rig::open(disk.clone(), config, 10, 0, true);
    assert_eq!(rig.log.log_end_offset(), Offset(10));
    assert!(
        disk.bytes_read(".log") - read_before < 2000,
        "only the last segment was read"
    );
}

#[test]
fn a_synced_write_waits_for_the_name_of_its_file() {
    let config = LogConfig {
        flush_messages: 1,
        retention_bytes: 0,
        ..config()
    };
    let mut rig = Rig::new(config);
    rig.append(batch(1, 0, 1, 800)).unwrap();
    let first = rig.log.take_write().unwrap();
    assert!(first.sync, "the first file was named when it was loaded");
    rig.carry_out(&first);
    rig.append(batch(2, 1, 1, 800)).unwrap();
    rig.log.write_done(true);
    assert!(
        rig.log.take_write().is_none(),
        "nobody knows the second file"
    );
    rig.write_epochs();
    let job = rig.log.take_seal_job(rig.later()).unwrap();
    let Ok(SealStep::Named(rest)) = job.run(&rig.disk) else {
        panic!("all before it is on disk: its name comes first");
    };
    assert!(rig.log.take_write().is_none());
    rig.log.seal_named(&rest);
    let second = rig.log.take_write().unwrap();
    assert_ne!(second.file.path(), first.file.path());
    rig.carry_out(&second);
    rig.log.write_done(true);
    assert_eq!(rig.log.recovery_point(), Offset(0), "not sealed yet");
    rig.run_seal(rest);

    // Retention that lets all go names the new segment itself.
    rig.append(batch(3, 2, 1, 800)).unwrap();
    rig.write();
    rig.seal();
    let job = rig.log.retention(rig.now(), Offset(3)).unwrap();
    rig.append(batch(4, 3, 1, 800)).unwrap();
    assert!(rig.log.take_write().is_none());
    rig.log.retire_done(&job.run(&rig.disk));
    assert!(rig.log.take_write().is_some());
}

#[test]
fn a_synced_write_waits_for_what_is_not_synced_before_it() {
    let config = LogConfig {
        flush_messages: 2,
        ..config()
    };
    let mut rig = Rig::new(config);
    rig.append(batch(1, 0, 1, 800)).unwrap();
    let first = rig.log.take_write().unwrap();
    assert!(!first.sync);
    rig.carry_out(&first);
    rig.append(batch(2, 1, 1, 800)).unwrap();
    rig.log.write_done(true);
    assert!(rig.log.take_write().is_none());
    rig.write_epochs();
    let job = rig.log.take_seal_job(rig.later()).unwrap();
    assert!(!rig.disk.is_synced(first.file.path()));
    let Ok(SealStep::Sealed(sealed)) = job.run(&rig.disk) else {
        panic!("the name came before the records that the write promises");
    };
    assert!(rig.disk.is_synced(first.file.path()));
    rig.log.seal_done(Ok(sealed));
    assert!(rig.log.take_write().is_some_and(|write| write.sync));
}

#[test]
fn a_sync_of_the_active_segment_says_nothing_of_those_before() {
    let config = LogConfig {
        flush_messages: 3,
        flush_ms: 1,
        ..config()
    };
    let mut rig = Rig::new(config);
    for i in 0..2 {
        rig.append(batch(1 + i, i as u64, 1, 800)).unwrap();
        rig.write();
    }
    assert!(rig.log.take_sync(rig.now()).is_none(), "the time begins");
    rig.now_ms += 1;
    let sync = rig.log.take_sync(rig.now()).unwrap();
    rig.disk
        .open(sync.file.path(), OpenMode::Create)
        .unwrap()
        .sync()
        .unwrap();
    rig.log.sync_done(sync.end_offset, true);
    rig.write_epochs();
    let job = rig.log.take_seal_job(rig.later()).unwrap();
    assert!(matches!(job.run(&rig.disk), Ok(SealStep::Sealed(_))));
}

#[test]
fn without_sync_nobody_waits_for_a_name() {
    let mut rig = Rig::new(config());
    for i in 0..2 {
        rig.append(batch(1 + i, i as u64, 1, 800)).unwrap();
    }
    for _ in 0..2 {
        let write = rig.log.take_write().unwrap();
        rig.carry_out(&write);
        rig.log.write_done(true);
    }
}

#[test]
fn a_rolled_segment_waits_for_its_seal_and_retention_may_come_first() {
    let mut rig = Rig::new(LogConfig {
        retention_bytes: 1700,
        ..config()
    });
    for i in 0..5 {
        rig.append(batch(1000 + i, i as u64, 1, 800)).unwrap();
    }
    rig.write();
    let now = rig.now().mono;
    assert!(rig.log.take_seal_job(now).is_none(), "not yet");
    assert_eq!(rig.log.seal_due(), Some(now.plus_ms(SEAL_DELAY_MS)));
    assert_eq!(retain(&mut rig, 5), 3, "none of them was sealed");
    assert_eq!(rig.log.log_start_offset(), Offset(3));

    // The power fails: of what was never synced, at least the offsets are not given again.
    rig.disk.crash(&mut Prng::new(7));
    let recovered = Rig::open(rig.disk.clone(), config(), 0, 0, false);
    assert!(recovered.log.log_start_offset() >= Offset(3));
    assert!(recovered.log.log_end_offset() >= Offset(3));
}

#[test]
fn after_the_close_job_nothing_is_appended_sealed_or_deleted() {
    let mut rig = Rig::new(LogConfig {
        retention_bytes: 0,
        ..config()
    });
    for i in 0..3 {
        rig.append(batch(1 + i, i as u64, 1, 800)).unwrap();
    }
    rig.write();
    let job = rig.log.close_job();
    let refused = rig.append(batch(4, 3, 1, 800)).unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotLeaderOrFollower);
    assert!(rig.log.take_seal_job(rig.later()).is_none());
    assert_eq!(retain(&mut rig, 3), 0);
    job.run(&rig.disk).unwrap();
    let mut rig = Rig::open(rig.disk.clone(), config(), 3, 0, true);
    assert_eq!(rig.consume(0, 10_000).len(), 3);
}

#[test]
fn retention_by_size_does_not_count_what_is_not_written() {
    let mut rig = ten(config());
    let size = rig.log.size_bytes() as i64 / 10;
    let keeps = LogConfig {
        retention_bytes: size * 9,
        ..config()
    };
    rig.log.set_config(Arc::new(keeps));
    assert_eq!(retain(&mut rig, 10), 1);
    let over = |rig: &mut Rig| over_after(SMALL_EXCESS_MS, rig);

    rig.append(batch(1010, 10, 1, 800)).unwrap();
    assert!(!over(&mut rig), "it may find no room");
    assert_eq!(retain(&mut rig, 10), 0);
    assert!(rig.log.take_write().is_some());
    assert!(!over(&mut rig));
    assert_eq!(rig.log.write_done(false), WriteDone::Failed(Offset(10)));
    assert_eq!(retain(&mut rig, 10), 0);
    assert_eq!(rig.consume(1, 100).len(), 9);

    // Nor has a look before the write been the last one at this segment.
    let (disk, config) = (rig.disk.clone(), (*rig.config).clone());
    let mut rig = Rig::open(disk, config, 10, 0, false);
    let keeps = LogConfig {
        retention_bytes: size * 9,
        ..(*rig.config).clone()
    };
    rig.log.set_config(Arc::new(keeps));
    rig.append(batch(1010, 10, 1, 800)).unwrap();
    assert!(!over(&mut rig));
    rig.write();
    assert!(over(&mut rig));
    assert_eq!(retain(&mut rig, 11), 1);
    assert!(!over(&mut rig), "said once");
}

#[test]
fn retention_by_size_takes_much_at_once_and_little_together() {
    // Segments of some hundred bytes: ten of them, and room for nine.
    let mut rig = ten(config());
    let keeps = LogConfig {
        retention_bytes: rig.log.size_bytes() as i64 / 10 * 9,
        ..config()
    };
    rig.log.set_config(Arc::new(keeps));
    assert!(over_after(SMALL_EXCESS_MS, &mut rig));
    assert_eq!(retain(&mut rig, 10), 1);
    rig.append(batch(1010, 10, 1, 800)).unwrap();
    rig.write();
    assert!(
        !over_after(SIZE_CHECK_MS, &mut rig),
        "there may be more soon"
    );
    assert!(over_after(SMALL_EXCESS_MS, &mut rig));

    // As much as is taken at once.
    let keeps = LogConfig {
        segment_bytes: 1 << 20,
        retention_bytes: 1000,
        ..config()
    };
    rig.log.set_config(Arc::new(keeps));
    let bytes = 900_000;
    for n in 11..12 + EXCESS_BYTES as i64 / bytes {
        rig.append(batch(1000 + n, n as u64, 1, bytes as usize))
            .unwrap();
    }
    rig.write();
    assert!(over_after(SIZE_CHECK_MS, &mut rig));
}

#[test]
fn retirement_puts_the_names_of_all_segments_on_disk() {
    let mut rig = ten_unsealed(config());
    let synced = |retention_bytes: i64| LogConfig {
        segment_bytes: 10_000,
        retention_bytes,
        flush_messages: 1,
        ..config()
    };
    rig.log.set_config(Arc::new(synced(-1)));
    rig.append(batch(1010, 10, 1, 800)).unwrap();
    assert!(rig.log.take_write().is_none(), "the name is not on disk");
    rig.log.set_config(Arc::new(synced(5000)));
    assert!(retain(&mut rig, 10) > 0);
    assert!(rig.log.take_write().is_some());
}

/// Retires open segments without a delay, does `then`, and cuts the power. Names of segments that
/// went are back in so many of twenty cases.
fn names_that_come_back(retention_bytes: i64, then: impl Fn(&mut Rig)) -> usize {
    let come_back = |seed| {
        let mut rig = ten_unsealed(LogConfig {
            retention_bytes,
            file_delete_delay_ms: 0,
            ..config()
        });
        for segment in &rig.log.segments {
            segment.file.handle().get_or_put(()).unwrap();
        }
        let job = rig.log.retention(rig.now(), Offset(10)).unwrap();
        let gone: Vec<String> = job.segments().iter().map(|b| format!("{b:020}")).collect();
        assert!(!gone.is_empty());
        let deleted = job.run(&rig.disk);
        rig.log.retire_done(&deleted);
        assert!(deleted.unwrap().unlink.is_none(), "no name is left");
        then(&mut rig);
        rig.disk.crash(&mut Prng::new(seed));
        let paths = rig.disk.paths();
        let mut names = paths.iter().map(|path| path.to_string_lossy());
        names.any(|path| gone.iter().any(|base| path.contains(base)))
    };
    (0..20).filter(|seed| come_back(*seed)).count()
}

#[test]
fn what_retention_removes_at_once_is_gone_for_good_once_the_recovery_point_passes() {
    // The first that stays is sealed later, which syncs the directory.
    let waits = |rig: &mut Rig| assert_eq!(rig.log.recovery_point(), Offset(0));
    assert!(names_that_come_back(5000, waits) > 0);
    let sealed = |rig: &mut Rig| {
        rig.seal();
        assert_eq!(rig.log.recovery_point(), Offset(9));
    };
    assert_eq!(names_that_come_back(5000, sealed), 0);
    // Only the active one stays: no seal would come.
    let passes = |rig: &mut Rig| assert!(rig.log.recovery_point() > Offset(0));
    assert_eq!(names_that_come_back(0, passes), 0);
}
