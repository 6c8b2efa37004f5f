//! Loading: what is read, in which slices, what is refused, and what operators can do then.

use crate::recovery::{ACCEPT_LOSS, Load, LoadParams, LoadStep, Refused, load};
use crate::segment::{INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, segment_path};
use crate::testing::MemDisk;
use crate::testing_rig::{DIR, Rig, batch};
use crate::{CleanupPolicy, LogConfig};
use flumen_base::{Disk, Offset, OpenMode, Uuid};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 2000,
        index_interval_bytes: 100,
        retention_ms: -1,
        ..LogConfig::default()
    }
}

fn params(recovery_point: i64, clean: bool) -> LoadParams {
    LoadParams {
        dir: PathBuf::from(DIR),
        config: Arc::new(config()),
        recovery_point: Offset(recovery_point),
        log_start_offset: Offset(0),
        cleaned_offset: Offset(0),
        clean,
        now_ms: 1_000_000,
        topic_id: Uuid::from_bytes([3; 16]),
    }
}

/// Twelve batches of one record, three per segment, sealed and closed.
fn written() -> MemDisk {
    let mut rig = Rig::new(config());
    for i in 0..12 {
        rig.append_at_epoch(batch(1 + i, i as u64, 1, 500), i as i32 / 5)
            .unwrap();
    }
    rig.write();
    rig.seal();
    rig.close().0
}

fn path(base: i64, suffix: &str) -> PathBuf {
    segment_path(Path::new(DIR), base, suffix)
}

fn flip(disk: &MemDisk, path: &Path, at: u64) {
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn cut(disk: &MemDisk, path: &Path, len: u64) {
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    file.set_len(len).unwrap();
}

#[test]
fn a_clean_start_reads_no_segment_but_the_end_of_the_active_one() {
    let disk = written();
    let before = disk.bytes_read(LOG_SUFFIX);
    let loaded = load(&disk, params(12, true)).unwrap();
    assert_eq!(loaded.log_end_offset(), Offset(12));
    let of = |base| disk.bytes_read(&format!("{base:020}{LOG_SUFFIX}"));
    assert_eq!((of(0), of(3), of(6)), (0, 0, 0));
    let read = disk.bytes_read(LOG_SUFFIX) - before;
    assert!(read > 0 && read < 4000, "{read}");
}

#[test]
fn below_the_recovery_point_headers_are_enough() {
    let disk = written();
    // The last segment is 9..12; its first batch was synced.
    let loaded = load(&disk, params(10, false)).unwrap();
    let len = disk.len(&path(9, LOG_SUFFIX)).unwrap();
    assert_eq!(loaded.report.bytes_walked, len);
    flip(&disk, &path(9, LOG_SUFFIX), 100); // records of 9
    let loaded = load(&disk, params(10, false)).unwrap();
    assert_eq!(loaded.report.cut, None, "not looked at");
    flip(&disk, &path(9, LOG_SUFFIX), len / 3 + 100); // records of 10
    let loaded = load(&disk, params(10, false)).unwrap();
    assert_eq!(loaded.log_end_offset(), Offset(10));
}

#[test]
fn a_load_goes_in_slices_and_gives_the_same() {
    let disk = written();
    let whole = load(&disk, params(0, false)).unwrap();
    let mut steps = 0;
    let mut load = Box::new(Load::new(params(0, false)));
    let sliced = loop {
        steps += 1;
        match load.step(&disk, 600).unwrap() {
            LoadStep::Done(loaded) => break loaded,
            LoadStep::More(more) => load = more,
        }
        assert!(load.report().bytes_walked > 0);
    };
    assert!(steps > 6, "{steps}");
    assert_eq!(sliced.report.bytes_walked, whole.report.bytes_walked);
    assert_eq!(sliced.log_end_offset(), whole.log_end_offset());
    assert_eq!(sliced.report.segments_recovered, 4);
}

/// The refusal of a load.
fn refusal(disk: &MemDisk, params: LoadParams) -> Refused {
    let error = load(disk, params).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let text = error.to_string();
    assert!(text.contains(ACCEPT_LOSS) && text.contains(DIR), "{text}");
    Refused::of(&error).unwrap().clone()
}

#[test]
fn what_was_synced_is_not_cut_off() {
    let disk = written();
    flip(&disk, &path(6, LOG_SUFFIX), 17); // the CRC of 6
    let before = disk.paths();
    for clean in [false, true] {
        // A header's chain is whole: nobody looks, or the recovery point is above.
        assert!(load(&disk, params(9, clean)).is_ok());
    }
    let mut at_six = params(7, false);
    at_six.recovery_point = Offset(6);
    assert_eq!(
        load(&disk, at_six).unwrap().log_end_offset(),
        Offset(6),
        "not synced"
    );
    let disk = written();
    flip(&disk, &path(6, LOG_SUFFIX), 16); // the magic of 6
    disk.remove_file(&path(6, INDEX_SUFFIX)).unwrap();
    for (point, clean) in [(12, true), (9, false), (7, false)] {
        let refused = refusal(&disk, params(point, clean));
        assert_eq!(refused.file, path(6, LOG_SUFFIX));
        assert_eq!((refused.position, refused.offset), (0, 6));
    }
    assert_eq!(
        disk.paths().len(),
        before.len() - 1,
        "nothing else is changed"
    );
}

#[test]
fn a_log_that_ends_too_early_is_refused() {
    for point in [(12, true), (12, false), (11, false)] {
        let disk = written();
        let len = disk.len(&path(9, LOG_SUFFIX)).unwrap();
        cut(&disk, &path(9, LOG_SUFFIX), len / 3);
        let refused = refusal(&disk, params(point.0, point.1));
        assert_eq!((refused.offset, refused.position), (10, len / 3));
    }
    let disk = written();
    for path in disk.paths() {
        disk.remove_file(&path).unwrap();
    }
    assert_eq!(refusal(&disk, params(12, true)).offset, 0);
    assert!(load(&disk, params(0, true)).is_ok(), "it never had more");
}

#[test]
fn an_operator_can_accept_the_loss() {
    let disk = written();
    flip(&disk, &path(6, LOG_SUFFIX), 16);
    refusal(&disk, params(7, false));
    let accept = Path::new(DIR).join(ACCEPT_LOSS);
    disk.open(&accept, OpenMode::Create).unwrap();
    let loaded = load(&disk, params(7, false)).unwrap();
    assert_eq!(loaded.log_end_offset(), Offset(6));
    assert!(loaded.report.cut.is_some());
    // The process is killed before the recovery point is written again: still accepted, once.
    assert!(load(&disk, params(7, false)).is_ok());
    assert!(disk.exists(&accept));
    assert!(load(&disk, params(6, false)).is_ok());
    assert!(!disk.exists(&accept));
}

#[test]
fn without_recovery_points_the_snapshots_tell_what_was_synced() {
    let unknown = || params(-1, false);
    let disk = written();
    assert_eq!(load(&disk, unknown()).unwrap().log_end_offset(), Offset(12));
    flip(&disk, &path(6, LOG_SUFFIX), 100);
    assert_eq!(refusal(&disk, unknown()).offset, 6);
    for base in [9, 12] {
        flip(&disk, &path(base, SNAPSHOT_SUFFIX), 3);
    }
    assert_eq!(load(&disk, unknown()).unwrap().log_end_offset(), Offset(6));
}

#[test]
fn a_start_beyond_the_end_deletes_nothing_after_a_clean_stop() {
    let disk = written();
    let mut beyond = params(12, true);
    beyond.log_start_offset = Offset(90);
    assert_eq!(refusal(&disk, beyond).offset, 12);
    assert_eq!(
        load(&disk, params(12, true)).unwrap().log_end_offset(),
        Offset(12)
    );
}

#[test]
fn gaps_are_damage_unless_compaction_may_have_made_them() {
    let base_of_second = |disk: &MemDisk| {
        let len = disk.len(&path(9, LOG_SUFFIX)).unwrap();
        len / 3 + 7 // the lowest byte of the base offset of 10: 11 then
    };
    let disk = written();
    flip(&disk, &path(9, LOG_SUFFIX), base_of_second(&disk));
    let loaded = load(&disk, params(0, false)).unwrap();
    assert_eq!(loaded.log_end_offset(), Offset(10), "{:?}", loaded.report);
    // That nothing was ever cleaned is no leave for the first segment either.
    let disk = written();
    flip(&disk, &path(0, LOG_SUFFIX), 7); // its first offset: 1 then
    let loaded = load(&disk, params(0, false)).unwrap();
    assert_eq!(loaded.log_end_offset(), Offset(0), "{:?}", loaded.report);
    let disk = written();
    flip(&disk, &path(9, LOG_SUFFIX), base_of_second(&disk));
    let mut compacted = params(0, false);
    compacted.config = Arc::new(LogConfig {
        cleanup_policy: CleanupPolicy {
            delete: false,
            compact: true,
        },
        ..config()
    });
    let loaded = load(&disk, compacted).unwrap();
    assert_eq!(loaded.log_end_offset(), Offset(12), "{:?}", loaded.report);
}

#[test]
fn damaged_small_files_are_made_again() {
    for (suffix, base) in [
        (INDEX_SUFFIX, 0),
        (TIME_INDEX_SUFFIX, 3),
        (INDEX_SUFFIX, 9),
        (TIME_INDEX_SUFFIX, 9),
    ] {
        let disk = written();
        let whole = disk.contents(&path(base, suffix)).unwrap();
        let garbage = [
            Vec::new(),
            whole[..whole.len() - 1].to_vec(),
            vec![0xff; whole.len()],
            [&whole[..], &[0; 24]].concat(),
        ];
        for bytes in garbage {
            let what = format!("{base:020}{suffix} {bytes:?}");
            let disk = written();
            cut(&disk, &path(base, suffix), 0);
            let file = disk.open(&path(base, suffix), OpenMode::ReadWrite).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            let rig = Rig::open(disk.clone(), config(), 12, 0, true);
            let empty_index = bytes.is_empty() && suffix == INDEX_SUFFIX;
            let expected = usize::from(!empty_index); // few bytes need no index
            assert_eq!(rig.report.segments_recovered, expected, "{what}");
            let (disk, _) = rig.close();
            if !empty_index {
                assert_eq!(disk.contents(&path(base, suffix)).unwrap(), whole, "{what}");
            }
        }
    }
}

#[test]
fn an_index_that_leads_astray_is_made_anew() {
    let disk = written();
    let whole = disk.contents(&path(0, INDEX_SUFFIX)).unwrap();
    let bad = [&whole[..4], &700u32.to_be_bytes(), &whole[8..]].concat();
    let file = disk
        .open(&path(0, INDEX_SUFFIX), OpenMode::ReadWrite)
        .unwrap();
    file.write_all_at(&bad, 0).unwrap();
    let mut rig = Rig::open(disk.clone(), config(), 12, 0, true);
    assert_eq!(rig.report.segments_recovered, 0, "its end looks well");
    let bytes = rig.read(2, 3, 4000).unwrap();
    assert_eq!(crate::testing_rig::values(&bytes, 2).len(), 1);
    assert!(rig.log.is_troubled());
    rig.mend();
    assert_eq!(rig.mended, 1);
    assert_eq!(disk.contents(&path(0, INDEX_SUFFIX)).unwrap(), whole);
    assert_eq!(rig.consume(0, 700).len(), 12);
    assert!(!rig.log.is_troubled());
}

#[test]
fn epochs_come_from_the_batches_where_the_file_is_wrong() {
    for text in [
        None,
        Some("garbage"),
        Some("0\n1\n0 0\n"),
        Some("0\n1\n7 3\n"),
    ] {
        let disk = written();
        let file = Path::new(DIR).join("leader-epoch-checkpoint");
        disk.remove_file(&file).unwrap();
        if let Some(text) = text {
            disk.write_atomic(&file, text.as_bytes()).unwrap();
        }
        for (point, clean) in [(12, true), (9, false)] {
            let rig = Rig::open(disk.clone(), config(), point, 0, clean);
            assert_eq!(rig.log.latest_epoch(), 2, "{text:?}");
            assert_eq!(
                rig.log.end_offset_for_epoch(0).end_offset,
                Offset(5),
                "{text:?}"
            );
        }
    }
}

#[test]
fn retention_by_time_looks_at_the_batches_before_it_believes_an_index() {
    let disk = written();
    let times = path(0, TIME_INDEX_SUFFIX);
    let len = disk.len(&times).unwrap();
    flip(&disk, &times, len - 12 + 5); // the largest timestamp: 65,536 ms later
    let retaining = LogConfig {
        retention_ms: 500_000,
        ..config()
    };
    let mut rig = Rig::open(disk, retaining, 12, 0, true);
    rig.now_ms = 500_100;
    assert!(rig.log.retention(rig.now(), Offset(12)).is_none());
    let job = rig.log.take_times_job().unwrap();
    rig.log.times_checked(&job.run(&rig.disk).unwrap());
    let job = rig.log.retention(rig.now(), Offset(12)).unwrap();
    assert_eq!(job.segments(), [0, 3, 6, 9], "all are older than that");
    assert!(rig.log.take_times_job().is_none());
}

/// Reads one record at an offset, as a client that wants little.
fn read_one(rig: &mut Rig, offset: i64) -> Result<usize, ()> {
    let bytes = rig.try_read(offset, 12, 100)?;
    Ok(crate::testing_rig::values(&bytes.unwrap(), offset).len())
}

#[test]
fn a_sealed_segment_that_lost_its_end_is_noticed_by_who_reads_there() {
    let third = written().len(&path(3, LOG_SUFFIX)).unwrap() / 3;
    for (len, first_lost) in [(0, 3), (1, 3), (third, 4), (2 * third, 5)] {
        let disk = written();
        cut(&disk, &path(3, LOG_SUFFIX), len);
        let mut rig = Rig::open(disk, config(), 12, 0, true);
        for offset in (0..12).filter(|o| !(first_lost..6).contains(o)) {
            assert_eq!(read_one(&mut rig, offset), Ok(1), "{len} {offset}");
        }
        assert!(!rig.log.is_troubled(), "{len}");
        for offset in first_lost..6 {
            assert_eq!(read_one(&mut rig, offset), Err(()), "{len} {offset}");
            let told = rig.log.take_trouble();
            if offset == first_lost {
                let told = told.unwrap();
                let name = path(3, LOG_SUFFIX).to_string_lossy().into_owned();
                let named = told.contains(&name) && told.contains(&format!("offset {offset} "));
                assert!(named, "{told}");
            }
        }
        // Compaction would have been allowed to.
        rig.log.set_cleaned_offset(Some(Offset(6)));
        for offset in first_lost..6 {
            let bytes = rig.read(offset, 12, 100).unwrap();
            let first = crate::batch::Batches::new(&bytes).next().unwrap().unwrap();
            assert_eq!(first.header.base_offset(), 6, "{len} {offset}");
        }
        assert_eq!(rig.log.take_trouble(), None);
    }
}

#[test]
fn a_lost_end_that_no_start_can_see_is_noticed_by_who_reads_there() {
    let sparse = || LogConfig {
        index_interval_bytes: 4096,
        ..config()
    };
    let mut rig = Rig::new(sparse());
    for i in 0..12 {
        rig.append(batch(1 + i, i as u64, 1, 500)).unwrap();
    }
    rig.write();
    rig.seal();
    let (disk, _) = rig.close();
    let len = disk.len(&path(3, LOG_SUFFIX)).unwrap();
    cut(&disk, &path(3, LOG_SUFFIX), len / 3 * 2);
    let before = disk.bytes_read(&format!("{:020}{LOG_SUFFIX}", 3));
    let mut rig = Rig::open(disk.clone(), sparse(), 12, 0, true);
    let read = disk.bytes_read(&format!("{:020}{LOG_SUFFIX}", 3)) - before;
    assert_eq!(read, 0, "a clean start reads no sealed segment");
    for offset in (0..12).filter(|o| *o != 5) {
        assert_eq!(read_one(&mut rig, offset), Ok(1), "{offset}");
    }
    assert_eq!(read_one(&mut rig, 5), Err(()));
    assert!(rig.log.take_trouble().unwrap().contains("offset 5 "));
}

/// The place of the last batch's `last_offset_delta`, its lowest byte.
fn last_delta(disk: &MemDisk) -> u64 {
    disk.len(&path(9, LOG_SUFFIX)).unwrap() / 3 * 2 + 26
}

#[test]
fn the_last_header_is_not_believed_against_what_the_clean_stop_wrote_down() {
    let disk = written();
    let last = disk.len(&path(9, LOG_SUFFIX)).unwrap() / 3 * 2;
    flip(&disk, &path(9, LOG_SUFFIX), last_delta(&disk)); // 11 to 12 then
    for point in [12, 0, -1] {
        let refused = refusal(&disk, params(point, true));
        assert_eq!(refused.file, path(9, LOG_SUFFIX));
        assert_eq!((refused.position, refused.offset), (last, 11));
    }
    let accept = Path::new(DIR).join(ACCEPT_LOSS);
    disk.open(&accept, OpenMode::Create).unwrap();
    let loaded = load(&disk, params(12, true)).unwrap();
    assert_eq!(loaded.log_end_offset(), Offset(11));
    // An older recovery point is no reason to refuse: the batch is whole.
    for point in [10, 0, -1] {
        let loaded = load(&written(), params(point, true)).unwrap();
        assert_eq!(loaded.log_end_offset(), Offset(12), "{point}");
        assert_eq!(loaded.report.segments_recovered, 0);
    }
}
