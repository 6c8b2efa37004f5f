use super::*;
use crate::LogConfig;
use crate::batch::BatchBuilder;
use crate::checkpoint::{self, MetaProperties, Offsets};
use crate::index::OFFSET_ENTRY_LEN;
use crate::testing::MemDisk;
use crate::testing_rig::{DIR, Rig, batch};
use flumen_base::{Disk, Offset, OpenMode, Prng};
use std::path::{Path, PathBuf};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 3000,
        index_interval_bytes: 100,
        retention_ms: -1,
        ..LogConfig::default()
    }
}

/// A partition with several segments, two epochs, an idempotent producer, cleanly closed, in a
/// formatted log directory with its checkpoints.
fn written() -> MemDisk {
    let mut rig = Rig::new(config());
    for i in 0..16 {
        let bytes = if i % 3 == 0 {
            let mut builder = BatchBuilder::new().producer(7, 0, i / 3);
            builder.push(i64::from(i), Some(b"k"), Some(&[b'v'; 400]));
            builder.build().unwrap()
        } else {
            batch(i64::from(i), i as u64, 2, 300)
        };
        rig.append_at_epoch(bytes, i / 8).unwrap();
    }
    rig.write();
    rig.seal();
    let end = rig.log.log_end_offset();
    let (disk, _) = rig.close();
    let dir = Path::new("/logs");
    let all = Offsets::from([(("t".to_owned(), 0), end)]);
    for name in [checkpoint::RECOVERY_POINT, checkpoint::HIGH_WATERMARK] {
        checkpoint::write_offsets(&disk, dir, name, &all).unwrap();
    }
    let none = Offsets::from([(("t".to_owned(), 0), Offset(0))]);
    checkpoint::write_offsets(&disk, dir, checkpoint::LOG_START, &none).unwrap();
    let meta = MetaProperties {
        cluster_id: "c".to_owned(),
        node_id: 1,
        directory_id: None,
    };
    checkpoint::write_meta_properties(&disk, dir, &meta).unwrap();
    disk
}

fn look(disk: &MemDisk, path: &str) -> (Vec<Finding>, Summary) {
    let mut found = Vec::new();
    let options = VerifyOptions { deep: true };
    let summary = verify(disk, Path::new(path), options, &mut |f| {
        found.push(f.clone())
    })
    .unwrap();
    (found, summary)
}

fn defects(disk: &MemDisk) -> Vec<Finding> {
    let (mut found, _) = look(disk, "/logs");
    found.retain(|f| f.severity == Severity::Defect);
    found
}

fn files(disk: &MemDisk, suffix: &str) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|p| p.to_string_lossy().ends_with(suffix));
    paths
}

fn overwrite(disk: &MemDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::Create).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

#[test]
fn what_a_broker_wrote_is_clean() {
    let disk = written();
    let (found, summary) = look(&disk, "/logs");
    assert_eq!(found, []);
    assert!(summary.segments >= 3, "{summary:?}");
    assert_eq!((summary.batches, summary.records), (16, 26));
    let (found, partition) = look(&disk, DIR);
    assert_eq!((found, partition.batches), (Vec::new(), 16));
    for path in disk.paths() {
        let (found, _) = look(&disk, &path.to_string_lossy());
        assert_eq!(found, [], "{}", path.display());
    }
    assert!(
        verify(
            &disk,
            Path::new("/no"),
            VerifyOptions::default(),
            &mut |_| ()
        )
        .is_err()
    );
}

#[test]
fn every_flipped_byte_of_a_segment_is_found() {
    let disk = written();
    let logs = files(&disk, ".log");
    let mut count = 0;
    for path in &logs {
        let good = disk.contents(path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            overwrite(&disk, path, &bad);
            let found = defects(&disk);
            assert!(!found.is_empty(), "byte {at} of {}", path.display());
        }
        overwrite(&disk, path, &good);
        count += good.len();
    }
    println!("{count} bytes flipped, each found");
    assert_eq!(defects(&disk), []);
}

#[test]
fn every_shorter_segment_is_found() {
    let disk = written();
    let mut count = 0;
    for path in files(&disk, ".log") {
        let good = disk.contents(&path).unwrap();
        for len in 0..good.len() {
            overwrite(&disk, &path, &good[..len]);
            assert!(!defects(&disk).is_empty(), "{len} of {}", path.display());
        }
        overwrite(&disk, &path, &good);
        count += good.len();
    }
    println!("{count} shorter lengths, each found");
}

#[test]
fn damage_ends_where_the_next_whole_batch_begins() {
    let disk = written();
    let path = &files(&disk, ".log")[0];
    let good = disk.contents(path).unwrap();
    let len = i32::from_be_bytes(*good[8..].first_chunk().unwrap()) as usize + 12;
    // A length that can't be: the batch is lost, its successor is not.
    let mut bad = good.clone();
    bad[8] = 0x7f;
    overwrite(&disk, path, &bad);
    let (found, summary) = look(&disk, DIR);
    let of_log: Vec<_> = found.iter().filter(|f| &f.file == path).collect();
    assert_eq!(of_log[0].position, Some(0));
    assert!(
        of_log[0].what.starts_with(&format!("{len} bytes")),
        "{of_log:?}"
    );
    assert_eq!(summary.batches, 15);
    // Zeros behind the end are space, no damage.
    let padded = [&good[..], &[0; 5000]].concat();
    overwrite(&disk, path, &padded);
    let (found, _) = look(&disk, DIR);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].severity, Severity::Note);
    assert_eq!(found[0].position, Some(good.len() as u64));
}

#[test]
fn wrong_indexes_are_found() {
    let disk = written();
    for (suffix, entry) in [(".index", OFFSET_ENTRY_LEN), (".timeindex", 12)] {
        let path = files(&disk, suffix).remove(0);
        let good = disk.contents(&path).unwrap();
        assert!(good.len() >= 2 * entry, "{}", path.display());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            overwrite(&disk, &path, &bad);
            let (found, _) = look(&disk, "/logs");
            assert!(!found.is_empty(), "byte {at} of {}", path.display());
        }
        // Taken ahead, torn, empty, missing.
        overwrite(&disk, &path, &[&good[..], &[0; 240]].concat());
        let (found, _) = look(&disk, "/logs");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, Severity::Note);
        overwrite(&disk, &path, &good[..good.len() - 1]);
        assert_eq!(defects(&disk).len(), 1);
        disk.remove_file(&path).unwrap();
        assert_eq!(defects(&disk).len(), 1);
        overwrite(&disk, &path, &good);
    }
    assert_eq!(defects(&disk), []);
}

#[test]
fn every_flipped_byte_of_a_snapshot_is_found() {
    let disk = written();
    let path = files(&disk, ".snapshot").pop().unwrap();
    let good = disk.contents(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        overwrite(&disk, &path, &bad);
        assert!(!defects(&disk).is_empty(), "byte {at}");
    }
}

#[test]
fn checkpoints_are_read_line_by_line() {
    for (name, text, at) in [
        ("recovery-point-offset-checkpoint", "0\n1\nt 0 999\n", 4),
        ("replication-offset-checkpoint", "0\n2\nt 0 1\nt 0 1\n", 10),
        ("log-start-offset-checkpoint", "1\n0\n", 0),
        ("log-start-offset-checkpoint", "0\n2\nt 0 1\n", 10),
        ("log-start-offset-checkpoint", "0\n1\nt 0\n", 4),
        ("log-start-offset-checkpoint", "0\n1\nt 0 x\n", 4),
        ("log-start-offset-checkpoint", "0\n1\nt 0 -4\n", 4),
        ("cleaner-offset-checkpoint", "0\n", 2),
        ("meta.properties", "version=1\n", 0),
        ("t-0/leader-epoch-checkpoint", "0\n2\n1 5\n0 7\n", 8),
        ("t-0/partition.metadata", "version: 0\n", 0),
    ] {
        let disk = written();
        let path = Path::new("/logs").join(name);
        overwrite(&disk, &path, text.as_bytes());
        let found = defects(&disk);
        let ours: Vec<_> = found.iter().filter(|f| f.file == path).collect();
        assert_eq!(ours.len(), 1, "{name} {text:?}: {found:?}");
        assert_eq!(ours[0].position, Some(at), "{name} {text:?}: {found:?}");
    }
}

#[test]
fn epochs_and_order_of_segments_are_compared() {
    let disk = written();
    let path = Path::new(DIR).join("leader-epoch-checkpoint");
    overwrite(&disk, &path, b"0\n1\n0 0\n");
    let found = defects(&disk);
    let of_epoch = |f: &Finding| f.what.contains("leader epoch 1");
    assert!(found.iter().all(of_epoch), "{found:?}");
    let segments = files(&disk, ".log").len();
    let once_each = (1..=segments).contains(&found.len());
    assert!(once_each, "not once per segment: {found:?}");

    let disk = written();
    let logs = files(&disk, ".log");
    disk.remove_file(&logs[1]).unwrap();
    let found = defects(&disk);
    let missing: Vec<_> = found.iter().filter(|f| f.file == logs[2]).collect();
    assert_eq!(missing.len(), 1, "{found:?}");
    assert!(missing[0].what.contains("are in no segment"), "{found:?}");
    // Where compaction was at work that is no defect.
    let swapped = logs[0].with_extension("log.1.deleted");
    overwrite(&disk, &swapped, b"");
    let left = defects(&disk);
    assert!(left.iter().all(|f| f.file != logs[2]), "{left:?}");
    let orphans = found
        .iter()
        .filter(|f| f.what.contains("whose segment is missing"));
    assert_eq!(orphans.count(), 2, "{found:?}");
}

#[test]
fn names_say_what_files_are() {
    let of = FileKind::of;
    assert_eq!(of("00000000000000000042.log"), FileKind::Log(42));
    assert_eq!(of("00000000000000000042.txnindex"), FileKind::TxnIndex(42));
    let snapshot = "00000000000000000042-0000000003.checkpoint";
    assert_eq!(of(snapshot), FileKind::KafkaSnapshot);
    assert_eq!(of("bootstrap.checkpoint"), FileKind::Known);
    assert_eq!(of("42.log"), FileKind::Other);
    assert_eq!(of("00000000000000000042.log.deleted"), FileKind::Leftover);
    assert_eq!(partition_of_dir("a-b-12"), Some(("a-b", 12)));
    for name in [
        "a",
        "-1",
        "a-",
        "a-+1",
        "a-12.0123456789abcdef-delete",
        "a-99999999999",
    ] {
        assert_eq!(partition_of_dir(name), None, "{name}");
    }
}

/// Whatever is done to the files, looking at them ends, and says something of each that changed
/// much; it never panics.
#[test]
fn mutated_files_never_panic() {
    let rounds = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    let rounds: u64 = rounds.and_then(|n| n.parse().ok()).unwrap_or(1);
    let good = written();
    for seed in 0..300 * rounds {
        let mut prng = Prng::new(seed);
        let disk = written_again(&good);
        for _ in 0..=prng.below(4) {
            let paths = disk.paths();
            let path = &paths[prng.below(paths.len() as u64) as usize];
            let mut bytes = disk.contents(path).unwrap();
            mutate(&mut bytes, &mut prng);
            overwrite(&disk, path, &bytes);
        }
        let (found, summary) = look(&disk, "/logs");
        let counted = summary.defects + summary.notes + summary.unreadable;
        assert!(counted >= found.len() as u64, "seed {seed}");
    }
}

fn written_again(good: &MemDisk) -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for path in good.paths() {
        overwrite(&disk, &path, &good.contents(&path).unwrap());
    }
    disk
}

fn mutate(bytes: &mut Vec<u8>, prng: &mut Prng) {
    let len = bytes.len() as u64;
    let at = prng.below(len + 1) as usize;
    match prng.below(6) {
        0 => bytes.truncate(at),
        1 => bytes.extend((0..prng.below(300)).map(|_| prng.next_u64() as u8)),
        2 => bytes.extend(vec![0; prng.below(5000) as usize]),
        3 => {
            let copy = bytes[at..].to_vec();
            bytes.extend(copy);
        }
        4 => {
            for byte in bytes.iter_mut().skip(at).take(40) {
                *byte = prng.next_u64() as u8;
            }
        }
        _ => {
            for byte in bytes.iter_mut().skip(at).take(1) {
                *byte ^= 1 << prng.below(8);
            }
        }
    }
}
