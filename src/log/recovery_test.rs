use super::*;
use crate::LogConfig;
use crate::testing::{MemDisk, SyncFailure};
use crate::testing_rig::{DIR, Rig, batch, batch_values};
use flumen_base::aligned;
use std::path::Path;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 2000,
        index_interval_bytes: 100,
        retention_ms: -1,
        ..LogConfig::default()
    }
}

/// Twelve batches of one record, some per segment, sealed and closed cleanly.
fn written() -> (MemDisk, Vec<PathBuf>) {
    let mut rig = Rig::new(config());
    for i in 0..12 {
        rig.append_at_epoch(batch(1 + i, i as u64, 1, 500), i as i32 / 5)
            .unwrap();
    }
    rig.write();
    rig.seal();
    let (disk, _) = rig.close();
    let logs: Vec<_> = disk
        .paths()
        .into_iter()
        .filter(|p| p.to_string_lossy().ends_with(LOG_SUFFIX))
        .collect();
    assert_eq!(logs.len(), 4);
    (disk, logs)
}

fn contents(disk: &MemDisk, suffix: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let ends = |p: &PathBuf| p.to_string_lossy().ends_with(suffix);
    let paths = disk.paths().into_iter().filter(ends);
    paths
        .map(|p| (p.clone(), disk.contents(&p).unwrap()))
        .collect()
}

#[test]
fn recovery_rebuilds_the_same_indexes_and_epochs() {
    let (disk, _) = written();
    let before: Vec<_> = [".index", ".timeindex", "checkpoint"]
        .map(|s| contents(&disk, s))
        .into_iter()
        .collect();
    for (path, _) in before.iter().flatten() {
        disk.remove_file(path).unwrap();
    }
    let rig = Rig::open(disk.clone(), config(), 0, 0, false);
    assert_eq!(rig.report.segments_recovered, 4);
    assert_eq!(rig.report.cut, None);
    assert_eq!(rig.log.latest_epoch(), 2);
    assert_eq!(
        rig.log.recovery_point(),
        Offset(9),
        "the last segment is not synced"
    );
    let (disk, _) = rig.close();
    let after: Vec<_> = [".index", ".timeindex", "checkpoint"]
        .map(|s| contents(&disk, s))
        .into_iter()
        .collect();
    assert_eq!(after, before);
}

#[test]
fn only_segments_from_the_recovery_point_on_are_read() {
    let (disk, _) = written();
    let rig = Rig::open(disk.clone(), config(), 9, 0, false);
    assert_eq!(rig.report.segments_recovered, 1);
    let (disk, _) = written();
    let rig_missing = {
        disk.remove_file(&segment_path(Path::new(DIR), 0, INDEX_SUFFIX))
            .unwrap();
        Rig::open(disk, config(), 12, 0, true)
    };
    assert_eq!(
        rig_missing.report.segments_recovered, 1,
        "its index was gone"
    );
    assert_eq!(rig.log.log_end_offset(), rig_missing.log.log_end_offset());
}

#[test]
fn a_bad_batch_ends_the_log() {
    for (at, truncated) in [(0, 0), (3, 0), (600, 1), (1100, 2)] {
        let (disk, logs) = written();
        let file = disk.open(&logs[1], OpenMode::ReadWrite).unwrap();
        let at_byte = at + 70; // in the records of a batch
        let mut byte = [0];
        file.read_exact_at(&mut byte, at_byte).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at_byte).unwrap();
        let mut rig = Rig::open(disk.clone(), config(), 0, 0, false);
        let end = 3 + truncated;
        assert_eq!(rig.log.log_end_offset(), Offset(end), "{:?}", rig.report);
        assert!(rig.report.cut.is_some() && rig.report.bytes_truncated > 0);
        assert!(
            rig.report
                .files_removed
                .iter()
                .any(|n| n.ends_with("9.log"))
        );
        let values: Vec<_> = rig.consume(0, 4000).into_iter().map(|v| v.1).collect();
        let expected: Vec<_> = (0..end as u64)
            .flat_map(|i| batch_values(i, 1, 500))
            .collect();
        assert_eq!(values, expected);
        assert_eq!(
            rig.append(batch(1, 0, 1, 1)).unwrap().base_offset,
            Offset(end)
        );
    }
}

#[test]
fn every_torn_tail_leaves_whole_batches() {
    let (disk, logs) = written();
    let last = logs.last().unwrap();
    let whole = disk.contents(last).unwrap();
    for cut in (0..whole.len()).step_by(37) {
        let file = disk.open(last, OpenMode::ReadWrite).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(&whole[..cut], 0).unwrap();
        let mut rig = Rig::open(disk.clone(), config(), 9, 0, false);
        let records = cut / (whole.len() / 3);
        assert_eq!(rig.log.log_end_offset().0, 9 + records as i64);
        assert_eq!(rig.consume(0, 9000).len(), 9 + records);
    }
}

/// Adds zeros up to the end of the last block, as a direct write leaves them.
fn pad(disk: &MemDisk, log: &Path) -> Vec<u8> {
    let whole = disk.contents(log).unwrap();
    let file = disk.open(log, OpenMode::ReadWrite).unwrap();
    let padded = whole.len().next_multiple_of(aligned::BLOCK) as u64;
    file.set_len(padded).unwrap();
    whole
}

#[test]
fn padding_is_cut_and_ends_no_log() {
    let (disk, logs) = written();
    let whole: Vec<_> = logs.iter().map(|log| pad(&disk, log)).collect();
    let mut rig = Rig::open(disk.clone(), config(), 0, 0, false);
    assert_eq!(rig.report.cut, None);
    assert_eq!(rig.report.segments_recovered, 4);
    assert_eq!(rig.consume(0, 9000).len(), 12);
    for (log, whole) in logs.iter().zip(&whole) {
        assert_eq!(&disk.contents(log).unwrap(), whole);
    }
    // Anything but zeros is a lost batch.
    pad(&disk, &logs[1]);
    let file = disk.open(&logs[1], OpenMode::ReadWrite).unwrap();
    file.write_all_at(&[1], aligned::BLOCK as u64 - 1).unwrap();
    let rig = Rig::open(disk.clone(), config(), 0, 0, false);
    assert!(rig.report.cut.is_some());
    assert_eq!(rig.log.log_end_offset(), Offset(6));
}

#[test]
fn seal_and_clean_stop_cut_padding() {
    let mut rig = Rig::new(config());
    for i in 0..8 {
        rig.append(batch(1 + i, i as u64, 1, 500)).unwrap();
    }
    rig.write();
    let disk = rig.disk.clone();
    let logs: Vec<_> = contents(&disk, LOG_SUFFIX);
    for (log, _) in &logs {
        pad(&disk, log);
    }
    rig.seal();
    assert_ne!(contents(&disk, LOG_SUFFIX), logs, "the active one stays");
    rig.close();
    assert_eq!(contents(&disk, LOG_SUFFIX), logs);
}

#[test]
fn leftovers_go_and_swaps_complete() {
    let (disk, logs) = written();
    let dir = Path::new(DIR);
    let put = |name: &str, bytes: &[u8]| replace(&disk, &dir.join(name), bytes).unwrap();
    put("00000000000000000000.log.deleted", b"x");
    put("00000000000000000003.log.cleaned", b"x");
    put("00000000000000000777.index", b"x");
    put("leader-epoch-checkpoint.tmp", b"x");
    let rig = Rig::open(disk.clone(), config(), 12, 0, true);
    assert_eq!(rig.report.files_removed.len(), 4, "{:?}", rig.report);
    assert_eq!(rig.log.log_end_offset(), Offset(12));

    // A cleaner had merged the first two segments: their swap file replaces both.
    let first = disk.contents(&logs[0]).unwrap();
    let second = disk.contents(&logs[1]).unwrap();
    put("00000000000000000000.log.swap", &[first, second].concat());
    let mut rig = Rig::open(disk.clone(), config(), 12, 0, true);
    assert_eq!(rig.log.segment_count(), 3);
    assert_eq!(rig.consume(0, 9000).len(), 12);
    assert!(!disk.exists(&logs[1]));
}

#[test]
fn a_log_that_ends_below_its_start_begins_anew() {
    let (disk, _) = written();
    let rig = Rig::open(disk.clone(), config(), 0, 50, false);
    assert_eq!(rig.log.log_start_offset(), Offset(50));
    assert_eq!(rig.log.log_end_offset(), Offset(50));
    assert_eq!(contents(&disk, LOG_SUFFIX).len(), 1);
}

#[test]
fn another_topics_directory_is_refused() {
    let (disk, _) = written();
    let params = LoadParams {
        dir: PathBuf::from(DIR),
        config: Arc::new(config()),
        recovery_point: Offset(0),
        log_start_offset: Offset(0),
        cleaned_offset: Offset(0),
        clean: true,
        now_ms: 0,
        topic_id: TopicId::from_bytes([4; 16]),
    };
    let error = load(&disk, params).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn deleted_directories_are_removed() {
    let disk = MemDisk::new();
    for name in ["a-0", "a-1.0123456789abcdef-delete", "b-0"] {
        disk.create_dir_all(&Path::new("/logs").join(name)).unwrap();
    }
    let removed = remove_deleted_dirs(&disk, Path::new("/logs")).unwrap();
    assert_eq!(removed, ["a-1.0123456789abcdef-delete"]);
}

/// With FLUMEN_DUMP_DIR set, writes a partition directory there for Kafka's DumpLogSegments.
#[test]
fn dump_for_kafkas_tool() {
    let Ok(target) = std::env::var("FLUMEN_DUMP_DIR") else {
        return;
    };
    let mut rig = Rig::new(LogConfig {
        segment_bytes: 20_000,
        index_interval_bytes: 1000,
        ..config()
    });
    let mut sequence = 0;
    for i in 0..60 {
        let codec = crate::Compression::from_id((i % 5) as u8).unwrap();
        let mut builder = crate::BatchBuilder::new().producer(7, 0, sequence);
        crate::testing_rig::fill(&mut builder, 1000 + i, i as u64, 5, 250);
        sequence += 5;
        rig.append_at_epoch(builder.build_compressed(codec, 1).unwrap(), i as i32 / 25)
            .unwrap();
    }
    rig.write();
    rig.seal();
    let (disk, _) = rig.close();
    for path in disk.paths() {
        let name = path.file_name().unwrap();
        std::fs::write(Path::new(&target).join(name), disk.contents(&path).unwrap()).unwrap();
    }
}

/// A kernel that failed to sync keeps what it could not write as if it had, and a later sync says
/// that all is well.
#[test]
fn what_a_failed_sync_left_in_memory_is_not_promised() {
    for acked in [1, 2] {
        let mut rig = Rig::new(LogConfig::default());
        let path = segment_path(Path::new(DIR), 0, LOG_SUFFIX);
        let sync = |rig: &Rig| rig.disk.open(&path, OpenMode::ReadWrite).unwrap().sync();
        for n in 0..acked {
            rig.append(batch(1, n, 1, 300)).unwrap();
            rig.write();
        }
        sync(&rig).unwrap();
        rig.append(batch(1, acked, 1, 300)).unwrap();
        rig.write();
        rig.disk.fail_next_sync(SyncFailure::Loses);
        sync(&rig).unwrap_err();
        rig.append(batch(1, acked + 1, 1, 300)).unwrap();
        rig.write();
        let end = acked as i64;
        let mut rig = Rig::open(rig.disk, LogConfig::default(), 0, 0, false);
        assert_eq!(rig.log.log_end_offset(), Offset(end));
        // What comes now is as safe as it says.
        rig.append(batch(1, 9, 1, 300)).unwrap();
        rig.write();
        sync(&rig).unwrap();
        rig.disk.crash(&mut flumen_base::Prng::new(3));
        let rig = Rig::open(rig.disk, LogConfig::default(), end + 1, 0, false);
        assert_eq!(rig.log.log_end_offset(), Offset(end + 1));
    }
}

/// One batch of 900 bytes, the first of its producer.
fn of_producer(producer: i64) -> bytes::Bytes {
    let mut builder = crate::BatchBuilder::new().producer(producer, 0, 0);
    builder.push(1, None, Some(&[b'x'; 900]));
    builder.build().unwrap()
}

/// Seven batches of as many producers, two in a segment.
fn seven_producers() -> Rig {
    let mut rig = Rig::new(config());
    for producer in 0..7 {
        rig.append(of_producer(producer)).unwrap();
    }
    rig.write();
    rig
}

fn all_seven_are_known(rig: &mut Rig) {
    for producer in 0..7 {
        let info = rig.append(of_producer(producer)).unwrap();
        assert!(info.duplicate, "{producer}");
    }
}

/// The process is killed before a segment is sealed, the next one recovers it, retention takes it,
/// and that process is killed as well: whose batches went is still known.
#[test]
fn producers_of_recovered_segments_outlive_retention() {
    let rig = seven_producers();
    rig.disk.kill();
    let mut rig = Rig::open(rig.disk, config(), 0, 0, false);
    assert_eq!(rig.log.segment_count(), 4);
    rig.log.advance_log_start(Offset(4));
    let job = rig.log.retention(rig.now(), Offset(7)).unwrap();
    assert_eq!(job.segments(), [0, 2]);
    rig.log.retire_done(&job.run(&rig.disk));
    rig.disk.kill();
    let mut rig = Rig::open(rig.disk, config(), 0, 4, false);
    assert_eq!(rig.log.log_start_offset(), Offset(4));
    all_seven_are_known(&mut rig);
}

/// The log's start comes to disk, the process is killed before the job of the retention that moved
/// it: nothing but the batches below the start says whose they are. Nor where DeleteRecords moved
/// it into the active segment.
#[test]
fn producers_of_what_a_killed_retention_did_not_take_are_known() {
    for start in [4, 6, 7] {
        let mut rig = seven_producers();
        rig.log.advance_log_start(Offset(start));
        assert!(rig.log.retention(rig.now(), Offset(7)).is_some());
        rig.disk.kill();
        let mut rig = Rig::open(rig.disk, config(), 0, start, false);
        assert_eq!(rig.log.log_start_offset(), Offset(start));
        all_seven_are_known(&mut rig);

        // And when it takes them in the end.
        rig.log.advance_log_start(Offset(7));
        let job = rig.log.retention(rig.now(), Offset(7)).unwrap();
        rig.log.retire_done(&job.run(&rig.disk));
        rig.disk.kill();
        let mut rig = Rig::open(rig.disk, config(), 0, 7, false);
        all_seven_are_known(&mut rig);
    }
}
