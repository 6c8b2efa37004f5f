//! A disk on which single operations fail, or are done in part: for jobs.

use crate::faults::strikes;
use crate::io::IoFaults;
use flumen_base::{Disk, DiskFile, OpenMode, Prng};
use flumen_log::testing::{MemDisk, SyncFailure};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Passes everything on to a disk, unless the dice say otherwise.
pub(crate) struct Faulty {
    disk: MemDisk,
    dice: Arc<Mutex<Dice>>,
}

struct Dice {
    rng: Prng,
    short: bool,
    /// Operations fail one time in so many; 0 is never.
    fail_one_in: u64,
    sync_failure: SyncFailure,
    struck: bool,
}

impl Dice {
    fn fails(&mut self) -> bool {
        let fails = strikes(self.fail_one_in, &mut self.rng);
        self.struck |= fails;
        fails
    }

    fn strike(&mut self) -> io::Result<()> {
        match self.fails() {
            true => Err(io::Error::other("the disk fails")),
            false => Ok(()),
        }
    }

    /// How much of a read or write is done now.
    fn part(&mut self, len: usize) -> io::Result<usize> {
        self.strike()?;
        match self.short && len > 0 {
            true if self.rng.one_in(16) => Err(io::ErrorKind::Interrupted.into()),
            true if self.rng.one_in(4) => Ok(1 + self.rng.below(len as u64) as usize),
            _ => Ok(len),
        }
    }
}

fn lock(dice: &Mutex<Dice>) -> MutexGuard<'_, Dice> {
    dice.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    /// For one job: an operation fails with this chance, whatever the faults of the ring say.
    pub(crate) fn new(disk: &MemDisk, faults: &IoFaults, fail_one_in: u64, rng: &mut Prng) -> Self {
        let dice = Dice {
            rng: Prng::new(rng.next_u64()),
            short: faults.short,
            fail_one_in,
            sync_failure: faults.sync_failure(),
            struck: false,
        };
        Self {
            disk: disk.clone(),
            dice: Arc::new(Mutex::new(dice)),
        }
    }

    /// Whether anything has failed.
    pub(crate) fn has_struck(&self) -> bool {
        lock(&self.dice).struck
    }

    fn strike(&self) -> io::Result<()> {
        lock(&self.dice).strike()
    }
}

impl Disk for Faulty {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        self.strike()?;
        Ok(Box::new(FaultyFile {
            file: self.disk.open(path, mode)?,
            disk: self.disk.clone(),
            dice: Arc::clone(&self.dice),
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.strike()?;
        self.disk.list(path)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.strike()?;
        self.disk.len(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.strike()?;
        self.disk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.strike()?;
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.strike()?;
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.strike()?;
        self.disk.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.strike()?;
        self.disk.sync_dir(path)
    }
}

struct FaultyFile {
    file: Box<dyn DiskFile>,
    disk: MemDisk,
    dice: Arc<Mutex<Dice>>,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let part = lock(&self.dice).part(buf.len())?;
        self.file.read_at(&mut buf[..part], pos)
    }

    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        let part = lock(&self.dice).part(bytes.len())?;
        self.file.write_at(&bytes[..part], pos)
    }

    fn len(&self) -> io::Result<u64> {
        lock(&self.dice).strike()?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.dice).strike()?;
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut dice = lock(&self.dice);
        if dice.fails() {
            self.disk.fail_next_sync(dice.sync_failure);
        }
        self.file.sync()
    }

    fn drop_clean(&self) -> io::Result<()> {
        self.file.drop_clean()
    }
}
