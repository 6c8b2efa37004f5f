//! The disk stops in the middle of a cleaning, at every change that it makes; then the log is
//! loaded again.

use super::*;
use crate::clean::{CLEANED_SUFFIX, SWAP_SUFFIX};
use crate::testing::MemDisk;
use flumen_base::{DiskFile, OpenMode, Prng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Passes everything on until so many changes were made; fails all after that.
struct Cut {
    disk: MemDisk,
    left: Arc<AtomicU64>,
}

fn spend(left: &AtomicU64) -> io::Result<()> {
    let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    spent.map(|_| ()).map_err(|_| io::Error::other("cut"))
}

impl Disk for Cut {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        if mode == OpenMode::Create && !self.disk.exists(path) {
            spend(&self.left)?;
        }
        let (file, left) = (self.disk.open(path, mode)?, Arc::clone(&self.left));
        Ok(Box::new(CutFile { file, left }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.disk.list(path)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.disk.len(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.disk.exists(from) {
            spend(&self.left)?;
        }
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if self.disk.exists(path) {
            spend(&self.left)?;
        }
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        spend(&self.left)?;
        self.disk.sync_dir(path)
    }
}

struct CutFile {
    file: Box<dyn DiskFile>,
    left: Arc<AtomicU64>,
}

impl DiskFile for CutFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.file.read_at(buf, pos)
    }

    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        if let Err(e) = spend(&self.left) {
            self.file.write_at(&bytes[..bytes.len() / 2], pos)?; // torn
            return Err(e);
        }
        self.file.write_at(bytes, pos)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        spend(&self.left)?;
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        spend(&self.left)?;
        self.file.sync()
    }
}

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
    let cut = Cut {
        disk: rig.disk.clone(),
        left: Arc::new(AtomicU64::new(changes)),
    };
    let ended = clean_with(&mut rig, 1 << 20, &cut);
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
