//! The disk stops in the middle of a cleaning, at every change that it makes; then the log is
//! loaded again.

use super::*;
use crate::clean::{CLEANED_SUFFIX, SWAP_SUFFIX};
use crate::testing::MemDisk;
use crate::testing_fuse::Fuse;
use flumen_base::{OpenMode, Prng};
use std::collections::BTreeMap;

/// Sealed segments in which most keys were written several times, and an active one.
fn history() -> Rig {
    let mut rig = Rig::new(config());
    for round in 0..4 {
        for n in 0..6 {
            let value = format!("{round}-{n}-{}", "x".repeat(150));
            let key = format!("k{}", n % (2 + round));
            put(
                &mut rig,
                one(&key, Some(&value), 1000 + i64::from(round * 10 + n)),
            );
        }
        put(&mut rig, one("gone", None, 1100 + i64::from(round)));
        roll(&mut rig);
    }
    put(&mut rig, one("last", Some("1"), 2000));
    rig
}

/// The value of each key that a reader ends with.
fn latest(seen: &[Seen]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut map = BTreeMap::new();
    for s in seen {
        match &s.value {
            Some(value) => map.insert(s.key.clone(), value.clone()),
            None => map.remove(&s.key),
        };
    }
    map
}

fn leftovers(disk: &MemDisk) -> Vec<String> {
    let names = disk.paths().into_iter().map(|p| p.display().to_string());
    let left = |n: &String| n.ends_with(CLEANED_SUFFIX) || n.ends_with(SWAP_SUFFIX);
    names.filter(left).collect()
}

#[test]
fn cut_off_at_every_change_it_loses_nothing_and_can_be_done_again() {
    for power in [false, true] {
        for seed in 0..3 {
            let mut changes = 0;
            while cut_off_after(changes, power, seed) {
                changes += 1;
            }
            assert!(changes > 25, "only {changes} changes");
        }
    }
}

/// Whether the cleaning was cut off.
fn cut_off_after(changes: u64, power: bool, seed: u64) -> bool {
    let what = format!("after {changes} changes, power {power}, seed {seed}");
    let mut prng = Prng::new(seed << 32 | changes);
    let mut rig = history();
    let before = read_from(&mut rig, 0, 1 << 20);
    let (wanted, end) = (latest(&before), rig.log.log_end_offset());
    let disk = rig.disk.clone();
    let ended = clean_with(&mut rig, 1 << 20, &Fuse::new(&disk, changes));
    let was_cut = ended.is_err();
    if power {
        // What is not synced goes; what is in the active segment shall not be in question here.
        let active = format!("{:020}.log", rig.log.log_end_offset().0 - 1);
        let file = rig
            .disk
            .open(&rig.log.dir().join(active), OpenMode::ReadWrite);
        file.unwrap().sync().unwrap();
        rig.disk.crash(&mut prng);
    } else {
        rig.disk.kill();
    }
    let mut rig = reopen(rig);
    assert_eq!(rig.log.log_end_offset(), end, "{what}");
    let after = read_from(&mut rig, 0, 1 << 20);
    assert_eq!(latest(&after), wanted, "{what}");
    let known = |s: &Seen| before.contains(s);
    assert!(after.iter().all(known), "{what}: {after:?}");
    assert_eq!(leftovers(&rig.disk), [""; 0], "{what}");
    clean_all(&mut rig, 1 << 20);
    let after = read_from(&mut rig, 0, 1 << 20);
    assert_eq!(latest(&after), wanted, "{what}");
    let mut keys: Vec<_> = after.iter().map(|s| s.key.clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), after.len(), "{what}: a key is there twice");
    was_cut
}

/// Only what has all of its names counts.
#[test]
fn half_of_a_swap_is_undone() {
    let rig = history();
    let (disk, dir) = (rig.disk.clone(), rig.log.dir().to_path_buf());
    drop(rig);
    let base = format!("{:020}", 0);
    let write = |suffix: &str| {
        let path = dir.join(format!("{base}{suffix}"));
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(b"x", 0).unwrap();
    };
    write(".index.swap");
    write(".log.cleaned");
    let mut rig = Rig::open(disk.clone(), config(), 28, 0, false);
    assert_eq!(leftovers(&disk), [""; 0]);
    assert_eq!(read_from(&mut rig, 0, 1 << 20).len(), 29);
    // An index whose segment has its name already.
    write(".timeindex.swap");
    drop(rig);
    let mut rig = Rig::open(disk.clone(), config(), 28, 0, false);
    assert_eq!(leftovers(&disk), [""; 0]);
    assert_eq!(read_from(&mut rig, 0, 1 << 20).len(), 29);
}
