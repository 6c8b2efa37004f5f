//! A disk that stops working after so many changes: a process that dies in the middle of a job.

use flumen_base::{Disk, DiskFile, OpenMode};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Passes everything on to `disk` until so many changes were made; fails everything after that.
pub struct Fuse<'a> {
    disk: &'a dyn Disk,
    left: Arc<AtomicU64>,
}

fn blown() -> io::Error {
    io::Error::other("the process died here")
}

fn spend(left: &AtomicU64) -> io::Result<()> {
    let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    spent.map(|_| ()).map_err(|_| blown())
}

impl<'a> Fuse<'a> {
    /// Works for so many changes.
    pub fn new(disk: &'a dyn Disk, changes: u64) -> Self {
        Self {
            disk,
            left: Arc::new(AtomicU64::new(changes)),
        }
    }

    /// Whether something was refused, or the next change would be.
    pub fn is_blown(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

impl Disk for Fuse<'_> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        if mode == OpenMode::Create && !self.disk.exists(path) {
            spend(&self.left)?;
        }
        let file = self.disk.open(path, mode)?;
        let left = Arc::clone(&self.left);
        Ok(Box::new(FuseFile { file, left }))
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
        spend(&self.left)?;
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        spend(&self.left)?;
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

struct FuseFile {
    file: Box<dyn DiskFile>,
    left: Arc<AtomicU64>,
}

impl DiskFile for FuseFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.file.read_at(buf, pos)
    }

    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        if let Err(e) = spend(&self.left) {
            // The last write is torn.
            self.file.write_at(&bytes[..bytes.len() / 2], pos)?;
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
