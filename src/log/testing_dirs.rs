//! A [`MemDisk`] that fails as it is told: no room, errors of the device, syncs that fail.

use crate::testing::MemDisk;
use flumen_base::{Disk, DiskFile, OpenMode, Space};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a file costs beside its bytes.
const FILE_BYTES: u64 = 64;

/// What fails, by directory. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Rules>>);

#[derive(Debug, Default)]
struct Rules {
    broken: Vec<PathBuf>,
    syncs_fail: Vec<PathBuf>,
    room: BTreeMap<PathBuf, u64>,
}

impl Faults {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every operation below this directory fails from now on, as on a device that is gone.
    pub fn break_below(&self, dir: &Path) {
        self.rules().broken.push(dir.to_owned());
    }

    /// Every sync below this directory fails from now on.
    pub fn fail_syncs_below(&self, dir: &Path) {
        self.rules().syncs_fail.push(dir.to_owned());
    }

    /// The file system under this directory holds so many bytes.
    pub fn limit(&self, dir: &Path, bytes: u64) {
        self.rules().room.insert(dir.to_owned(), bytes);
    }

    /// Everything works again, and there is room.
    pub fn mend(&self) {
        *self.rules() = Rules::default();
    }

    /// The disk with these faults.
    pub fn on(&self, disk: &MemDisk) -> FaultyDisk {
        FaultyDisk {
            disk: disk.clone(),
            faults: self.clone(),
        }
    }
}

/// A disk with faults.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    disk: MemDisk,
    faults: Faults,
}

impl FaultyDisk {
    fn check(&self, path: &Path) -> io::Result<()> {
        let rules = self.faults.rules();
        match rules.broken.iter().any(|dir| path.starts_with(dir)) {
            true => Err(io::Error::other("the device is gone")),
            false => Ok(()),
        }
    }

    fn check_sync(&self, path: &Path) -> io::Result<()> {
        self.check(path)?;
        let rules = self.faults.rules();
        match rules.syncs_fail.iter().any(|dir| path.starts_with(dir)) {
            true => Err(io::Error::other("a sync failed")),
            false => Ok(()),
        }
    }

    /// Size of the file system that a path is on, and what is free of it.
    fn room(&self, path: &Path) -> Option<Space> {
        let rules = self.faults.rules();
        let (dir, total) = rules.room.iter().find(|(dir, _)| path.starts_with(dir))?;
        let (dir, total) = (dir.clone(), *total);
        drop(rules);
        let files = self.disk.paths().into_iter();
        let below = files.filter(|file| file.starts_with(&dir));
        let used: u64 = below
            .map(|file| self.disk.len(&file).unwrap_or(0) + FILE_BYTES)
            .sum();
        Some(Space {
            total,
            usable: total.saturating_sub(used),
        })
    }

    fn free(&self, path: &Path) -> u64 {
        self.room(path).map_or(u64::MAX, |space| space.usable)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        self.check(path)?;
        let makes = mode == OpenMode::Create && !self.disk.exists(path);
        if makes && self.free(path) < FILE_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Box::new(FaultyFile {
            file: self.disk.open(path, mode)?,
            path: path.to_owned(),
            disk: self.clone(),
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.check(path)?;
        self.disk.list(path)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.check(path)?;
        self.disk.len(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.check(path)?;
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.check(path)?;
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.check(path)?;
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check_sync(path)?;
        self.disk.sync_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<Option<Space>> {
        self.check(path)?;
        Ok(self.room(path))
    }
}

struct FaultyFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    disk: FaultyDisk,
}

impl FaultyFile {
    /// How many of the last `len` bytes find room in a file that is to end at `end`.
    fn fits(&self, len: u64, end: u64) -> io::Result<u64> {
        let grows = end.saturating_sub(self.file.len()?);
        let missing = grows.saturating_sub(self.disk.free(&self.path));
        Ok(len.saturating_sub(missing))
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.disk.check(&self.path)?;
        self.file.read_at(buf, pos)
    }

    /// What finds room is written.
    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        self.disk.check(&self.path)?;
        let len = bytes.len() as u64;
        let fits = self.fits(len, pos + len)? as usize;
        match bytes.get(..fits) {
            Some([]) if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            Some(part) => self.file.write_at(part, pos),
            None => Ok(0), // it is at most as long
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.check(&self.path)?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.check(&self.path)?;
        if self.fits(1, len)? == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.check_sync(&self.path)?;
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lets_the_first_part_through_and_removal_makes_room() {
        let (mem, faults) = (MemDisk::new(), Faults::default());
        let dir = Path::new("/a");
        mem.create_dir_all(dir).unwrap();
        faults.limit(dir, 1000);
        let disk = faults.on(&mem);
        let file = disk.open(&dir.join("f"), OpenMode::Create).unwrap();
        assert_eq!(disk.space(dir).unwrap().unwrap().usable, 936);
        let error = file.write_all_at(&[1; 2000], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 936);
        file.write_all_at(&[2; 936], 0).unwrap();
        assert!(file.set_len(937).is_err());
        assert!(disk.open(&dir.join("g"), OpenMode::Create).is_err());
        file.set_len(100).unwrap();
        disk.open(&dir.join("g"), OpenMode::Create).unwrap();
        disk.remove_file(&dir.join("f")).unwrap();
        assert_eq!(disk.space(dir).unwrap().unwrap().usable, 936);
    }

    #[test]
    fn a_broken_device_fails_everything_and_others_work() {
        let (mem, faults) = (MemDisk::new(), Faults::default());
        let disk = faults.on(&mem);
        for dir in ["/a", "/b"] {
            disk.create_dir_all(Path::new(dir)).unwrap();
        }
        let a = disk.open(Path::new("/a/f"), OpenMode::Create).unwrap();
        let b = disk.open(Path::new("/b/f"), OpenMode::Create).unwrap();
        faults.fail_syncs_below(Path::new("/a"));
        assert!(a.sync().is_err() && a.write_all_at(b"x", 0).is_ok());
        faults.break_below(Path::new("/a"));
        assert!(a.write_all_at(b"x", 0).is_err() && a.read_at(&mut [0], 0).is_err());
        assert!(disk.list(Path::new("/a")).is_err());
        b.write_all_at(b"x", 0).unwrap();
        b.sync().unwrap();
        faults.mend();
        a.sync().unwrap();
    }
}
