//! One byte of one file is wrong, or a file ends too early: for every byte and every length. Never
//! a panic, never another record than was written; each case is repaired, or refused by name, or it
//! made no difference. By default some of the cases, by seed; with FLUMEN_TEST_ROUNDS >= 100 all.

use crate::batch::{BatchBuilder, BatchHeader, Batches, Records};
use crate::lookup::Target;
use crate::recovery::{LoadParams, Refused, load};
use crate::testing::MemDisk;
use crate::testing_rig::{DIR, Rig, fill};
use crate::{Compression, FileIds, Log, LogConfig, checkpoint};
use flumen_base::{Disk, Offset, OpenMode, Prng, Uuid};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many bytes at the end of the log are attacked.
const LAST: usize = 64 << 10;
/// Where a header's bytes end that no checksum covers, and the part of them that only a look at the
/// batches before and behind can judge: base offset and leader epoch.
const LENGTH: std::ops::Range<usize> = 8..12;
const EPOCH: std::ops::Range<usize> = 12..16;
const MAGIC: usize = 16;
const CRC: usize = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is there, and nothing was said.
    Harmless,
    /// Everything is there again, or all but the unsynced end.
    Repaired,
    /// An error names the place; or the reader sees a wrong checksum.
    Refused,
}

/// A log as it was when its process ended.
struct Case {
    name: &'static str,
    disk: MemDisk,
    clean: bool,
    recovery_point: i64,
    records: Written,
    end: i64,
    producers: Vec<u8>,
    epoch: i32,
}

type Written = BTreeMap<i64, (i64, Vec<u8>)>;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 40_000,
        index_interval_bytes: 700,
        retention_ms: -1,
        message_timestamp_after_max_ms: i64::MAX,
        ..LogConfig::default()
    }
}

/// A log of some 120 KiB in several segments, by two producers in three epochs.
fn case(name: &'static str, clean: bool, synced: bool) -> Case {
    let mut rig = Rig::new(config());
    let (mut records, mut sequence) = (BTreeMap::new(), [0; 2]);
    for i in 0..110u64 {
        let who = (i % 2) as usize;
        let codec = match i % 4 {
            0 => Compression::from_id((i / 4 % 5) as u8).unwrap(),
            _ => Compression::None,
        };
        let mut builder = BatchBuilder::new().producer(7 + who as i64, 0, sequence[who]);
        let time = 1000 + (i as i64 * 10) % 300 + i as i64;
        let count = 1 + i as usize % 3;
        fill(
            &mut builder,
            time,
            i * 1000 + i % 7,
            count,
            300 + (i as usize * 37) % 900,
        );
        sequence[who] += count as i32;
        let bytes = builder.build_compressed(codec, 1).unwrap();
        let info = rig.append_at_epoch(bytes, i as i32 / 40).unwrap();
        let values = crate::testing_rig::batch_values(
            i * 1000 + i % 7,
            count,
            300 + (i as usize * 37) % 900,
        );
        for (offset, value) in (info.base_offset.0..).zip(values) {
            records.insert(offset, (time, value));
        }
        rig.write();
    }
    if synced {
        rig.seal();
    }
    let (end, producers) = (rig.log.log_end_offset().0, rig.log.producers().encode());
    let recovery_point = match (clean, synced) {
        (true, _) => end,
        (false, true) => rig.log.recovery_point().0,
        (false, false) => 0,
    };
    assert!(rig.log.segment_count() > 2);
    let disk = match clean {
        true => rig.close().0,
        false => rig.disk,
    };
    Case {
        name,
        disk,
        clean,
        recovery_point,
        records,
        end,
        producers,
        epoch: 2,
    }
}

/// Another disk with the same files.
fn fork(disk: &MemDisk) -> MemDisk {
    let copy = MemDisk::new();
    copy.create_dir_all(Path::new(DIR)).unwrap();
    for path in disk.paths() {
        let file = copy.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(&disk.contents(&path).unwrap(), 0)
            .unwrap();
    }
    copy
}

impl Case {
    fn params(&self) -> LoadParams {
        LoadParams {
            dir: PathBuf::from(DIR),
            config: Arc::new(config()),
            recovery_point: Offset(self.recovery_point),
            log_start_offset: Offset(0),
            cleaned_offset: Offset(0),
            clean: self.clean,
            now_ms: 1_000_000,
            topic_id: Uuid::from_bytes([3; 16]),
        }
    }

    /// Loads a damaged copy, reads it like a consumer, and judges.
    fn judge(&self, disk: &MemDisk, params: LoadParams, what: &str) -> Outcome {
        let loaded = match load(disk, params.clone()) {
            Ok(loaded) => loaded,
            Err(error) => {
                let text = error.to_string();
                let named = Refused::of(&error).is_some() || text.contains(DIR);
                assert!(named, "{what}: {text}");
                return Outcome::Refused;
            }
        };
        let report = loaded.report.clone();
        let log = Log::from_loaded(loaded, Arc::clone(&params.config), FileIds::default());
        let end = log.log_end_offset().0;
        assert!(end <= self.end, "{what}: it ends at {end} of {}", self.end);
        assert!(
            end >= params.recovery_point.0,
            "{what}: synced records are gone: {end}"
        );
        if end == self.end {
            assert_eq!(log.producers().encode(), self.producers, "{what}");
            assert_eq!(log.latest_epoch(), self.epoch, "{what}");
        }
        let mut rig = Rig::around(disk.clone(), log, params.config);
        let whole = self.consume(&mut rig, what);
        self.look_up(&rig, whole, what);
        let info = rig.append(crate::testing_rig::batch(1, 1, 1, 50)).unwrap();
        assert_eq!(info.base_offset.0, end, "{what}");
        rig.write();
        match (whole, report.segments_recovered, report.cut) {
            (false, ..) => Outcome::Refused,
            (true, 0, None) if rig.mended == 0 => Outcome::Harmless,
            (true, ..) => Outcome::Repaired,
        }
    }

    /// Reads everything; false where the log, or a checksum, says that something is wrong.
    fn consume(&self, rig: &mut Rig, what: &str) -> bool {
        let (mut offset, end) = (rig.log.log_start_offset().0, rig.log.written_end_offset().0);
        let mut told = false;
        while offset < end {
            let Ok(bytes) = rig.try_read(offset, end, 5000) else {
                return false;
            };
            told |= rig.mend();
            let bytes = bytes.unwrap();
            let before = offset;
            for batch in Batches::new(&bytes) {
                let Ok(batch) = batch else { return false };
                if batch.check_crc().is_err() {
                    return false;
                }
                let header = batch.header;
                let section = batch.unfold(1 << 20).unwrap();
                for record in Records::new(&section, header.count()) {
                    let record = record.unwrap();
                    let at = header.base_offset() + i64::from(record.offset_delta);
                    let written = self.records.get(&at);
                    let written = written.map(|(_, value)| &value[..]);
                    assert_eq!(record.value, written, "{what}: another record at {at}");
                    assert!(
                        at <= offset || told,
                        "{what}: {offset} is missing, {at} came"
                    );
                    offset = offset.max(at + 1);
                }
            }
            if offset == before {
                // A batch said to be longer than all that came: clients stop there with an error.
                let size = BatchHeader::new(&bytes).and_then(|header| header.size().ok());
                let longer = size.is_some_and(|size| size > bytes.len());
                assert!(longer, "{what}: no progress at {offset} of {end}");
                return false;
            }
        }
        !told
    }

    /// Offsets by time are those of a linear scan; where records are damaged or lost, that is said
    /// instead. (A header in which a bit is wrong is believed while its batch is passed over.)
    fn look_up(&self, rig: &Rig, whole: bool, what: &str) {
        if !whole && !what.contains(" cut to ") {
            return;
        }
        let look = |target| {
            let end = rig.log.written_end_offset();
            match rig.log.lookup(target, end).run(&rig.disk) {
                Ok((found, _)) => Some(found),
                Err(error) if !whole && error.to_string().contains(DIR) => None,
                Err(error) => panic!("{what}: {error}"),
            }
        };
        let (start, end) = (rig.log.log_start_offset().0, rig.log.written_end_offset().0);
        for wanted in (995..1500).step_by(61) {
            let live = self.records.range(start..end);
            let expected = live.clone().find(|(_, (time, _))| *time >= wanted);
            if let Some(found) = look(Target::Timestamp(wanted)) {
                let found = found.map(|f| f.offset.0);
                assert_eq!(found, expected.map(|e| *e.0), "{what}: {wanted}");
            }
        }
        let largest = self
            .records
            .range(start..end)
            .map(|(_, (time, _))| *time)
            .max();
        if let Some(found) = look(Target::MaxTimestamp) {
            assert_eq!(found.map(|f| f.timestamp), largest, "{what}: largest");
        }
    }

    /// All files, with the part of each that is attacked.
    fn targets(&self) -> Vec<(PathBuf, std::ops::Range<usize>)> {
        let mut left = LAST;
        let mut all: Vec<_> = self.disk.paths();
        all.sort();
        all.reverse(); // the end of the log first
        let part = |path: PathBuf| {
            let len = self.disk.contents(&path).unwrap().len();
            let is_log = path.extension().is_some_and(|e| e == "log");
            let take = if is_log { left.min(len) } else { len };
            if is_log {
                left -= take;
            }
            (path, len - take..len)
        };
        all.into_iter().map(part).collect()
    }
}

/// Positions of batches in a segment.
fn batch_starts(bytes: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut starts = Vec::new();
    for batch in Batches::new(bytes) {
        starts.push(at);
        at += batch.unwrap().bytes().len();
    }
    starts
}

/// Which byte of a batch this is.
fn inside(starts: &[usize], at: usize) -> usize {
    let start = starts.iter().rev().find(|s| **s <= at);
    start.map_or(usize::MAX, |s| at - s)
}

/// Whether only the batches around this byte tell that it is wrong.
fn is_bare(starts: &[usize], at: usize) -> bool {
    let inside = inside(starts, at);
    inside < CRC && !LENGTH.contains(&inside) && inside != MAGIC
}

/// One case of so many is run.
fn one_in() -> u64 {
    let rounds = std::env::var("FLUMEN_TEST_ROUNDS").map_or(1, |n| n.parse().unwrap());
    (150 / rounds).max(1)
}

fn count(counts: &mut BTreeMap<(String, Outcome), usize>, path: &Path, outcome: Outcome) {
    let kind = path.extension().map(|e| e.to_string_lossy().into_owned());
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    *counts.entry((kind.unwrap_or(name), outcome)).or_default() += 1;
}

fn cases() -> [Case; 3] {
    [
        case("clean", true, true),
        case("killed", false, true),
        case("killed, nothing synced", false, false),
    ]
}

#[test]
fn no_wrong_byte_gives_a_wrong_record() {
    for case in cases() {
        let mut prng = Prng::new(1);
        let (mut counts, mut bare) = (BTreeMap::new(), 0);
        for (path, part) in case.targets() {
            let bytes = case.disk.contents(&path).unwrap();
            let is_log = path.extension().is_some_and(|e| e == "log");
            let starts = if is_log {
                batch_starts(&bytes)
            } else {
                Vec::new()
            };
            for at in part {
                if !prng.one_in(one_in()) {
                    continue;
                }
                let flip = 1 << prng.below(8);
                let what = format!("{}: {} at {at} ^ {flip}", case.name, path.display());
                if is_log && EPOCH.contains(&inside(&starts, at)) {
                    bare += 1; // no record is another by it
                    continue;
                }
                // Where nothing is read at start, nobody looks at the batches around.
                let trusted = case.clean || case.recovery_point > 0;
                if is_log && trusted && is_bare(&starts, at) {
                    bare += 1;
                    continue;
                }
                let disk = fork(&case.disk);
                let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
                file.write_all_at(&[bytes[at] ^ flip], at as u64).unwrap();
                let outcome = case.judge(&disk, case.params(), &what);
                let is_index = path.to_string_lossy().ends_with("index");
                let refused = is_index && outcome == Outcome::Refused;
                assert!(!refused, "{what}: an index can be made again");
                count(&mut counts, &path, outcome);
            }
        }
        println!(
            "{}: {counts:?}, not covered by a checksum: {bare}",
            case.name
        );
    }
}

#[test]
fn no_lost_end_gives_a_wrong_record() {
    for case in cases() {
        let mut prng = Prng::new(2);
        let mut counts = BTreeMap::new();
        for (path, part) in case.targets() {
            for len in part {
                if !prng.one_in(one_in()) {
                    continue;
                }
                let what = format!("{}: {} cut to {len}", case.name, path.display());
                let disk = fork(&case.disk);
                let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
                file.set_len(len as u64).unwrap();
                let outcome = case.judge(&disk, case.params(), &what);
                count(&mut counts, &path, outcome);
            }
        }
        println!("{}: {counts:?}", case.name);
    }
}

/// Each file but the records missing altogether.
#[test]
fn every_small_file_can_be_missing() {
    for case in cases() {
        let mut counts = BTreeMap::new();
        for path in case.disk.paths() {
            if path.extension().is_some_and(|e| e == "log") {
                continue;
            }
            let what = format!("{}: {} missing", case.name, path.display());
            let disk = fork(&case.disk);
            disk.remove_file(&path).unwrap();
            let outcome = case.judge(&disk, case.params(), &what);
            assert_ne!(outcome, Outcome::Refused, "{what}");
            count(&mut counts, &path, outcome);
        }
        println!("{}: {counts:?}", case.name);
    }
}

/// The two checkpoints of the log directory: what they say after a flip leads to no loss.
#[test]
fn checkpoints_with_a_wrong_byte() {
    for case in cases() {
        for (name, value) in [
            (checkpoint::RECOVERY_POINT, case.recovery_point),
            (checkpoint::LOG_START, 3),
        ] {
            let mut counts = BTreeMap::new();
            let disk = fork(&case.disk);
            let dir = Path::new("/logs");
            let key = ("t".to_owned(), 0);
            let offsets = BTreeMap::from([(key.clone(), Offset(value))]);
            checkpoint::write_offsets(&disk, dir, name, &offsets).unwrap();
            let path = dir.join(name);
            let bytes = disk.contents(&path).unwrap();
            for (at, byte) in bytes.iter().enumerate() {
                for bit in 0..8 {
                    let what = format!("{}: {name} at {at} ^ {}", case.name, 1 << bit);
                    let disk = fork(&disk);
                    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
                    file.write_all_at(&[byte ^ (1 << bit)], at as u64).unwrap();
                    let mut params = case.params();
                    let read = checkpoint::read_offsets(&disk, dir, name);
                    let lost = read.is_err();
                    let found = read.unwrap_or_default().get(&key).copied();
                    if name == checkpoint::LOG_START {
                        params.log_start_offset = found.unwrap_or(Offset(0));
                    } else {
                        let absent = if lost { Offset::UNKNOWN } else { Offset(0) };
                        params.recovery_point = found.unwrap_or(absent);
                    }
                    if params.log_start_offset.0 > case.end && !case.clean {
                        continue; // as if records below it had been lost, which may be
                    }
                    let outcome = case.judge(&disk, params, &what);
                    count(&mut counts, &path, outcome);
                }
            }
            println!("{}: {name} {counts:?}", case.name);
        }
    }
}
