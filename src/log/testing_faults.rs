//! What can go wrong with a [`MemDisk`] beyond what a crash takes: it is full, a sync fails, a
//! power loss leaves garbage, bits rot.

use super::names::{File, Names, Tree};
use super::{Handle, MemDisk, MemFile, SECTOR, State, lock, torn};
use flumen_base::Prng;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What a failed sync means for what was to be synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFailure {
    /// It may still come to the disk: the next sync sees to it.
    Keeps,
    /// It is readable as before and never comes to the disk, whatever a later sync says: Linux
    /// marks the pages clean.
    Loses,
}

impl SyncFailure {
    pub(super) fn strike(self, file: &mut MemFile) -> io::Error {
        if self == Self::Loses {
            file.unsynced.clear();
            file.lost = true;
        }
        io::Error::other("the disk failed to sync")
    }
}

impl State {
    /// Bytes that still fit.
    fn room(&self) -> u64 {
        self.capacity
            .map_or(u64::MAX, |all| all.saturating_sub(used(&self.names.now)))
    }

    pub(super) fn take_sync_failure(&mut self) -> Option<SyncFailure> {
        let failure = self.sync_failure.take();
        self.lost_syncs |= failure == Some(SyncFailure::Loses);
        failure
    }

    /// A new name takes space too.
    pub(super) fn check_room_for_a_name(&self) -> io::Result<()> {
        match self.room() {
            0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

fn used(tree: &Tree) -> u64 {
    tree.files.values().map(|f| lock(f).data.len() as u64).sum()
}

impl Handle {
    /// How many of so many bytes fit at `pos`; an error if none does.
    pub(super) fn fitting(&self, len: usize, pos: u64) -> io::Result<usize> {
        let room = lock(&self.disk).room();
        if room == u64::MAX {
            return Ok(len);
        }
        let there = lock(&self.file).data.len() as u64;
        let fits = (there + room).saturating_sub(pos).min(len as u64) as usize;
        match fits {
            0 if len > 0 => Err(io::ErrorKind::StorageFull.into()),
            fits => Ok(fits),
        }
    }
}

impl MemDisk {
    /// From now on so many bytes fit (`None`: any number). What is there stays, even if it is more;
    /// what would make a file longer is written in part, or fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.0).capacity = bytes;
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        used(&lock(&self.0).names.now)
    }

    /// The next sync of a file fails.
    pub fn fail_next_sync(&self, how: SyncFailure) {
        lock(&self.0).sync_failure = Some(how);
    }

    /// Whether a sync has lost something since the last call.
    pub fn take_lost_syncs(&self) -> bool {
        std::mem::take(&mut lock(&self.0).lost_syncs)
    }

    /// As [`MemDisk::crash`]; and sectors that were new hold in some files what nobody wrote.
    pub fn crash_with_garbage(&self, prng: &mut Prng) {
        self.lose_power(prng, |old, prng| {
            let mut data = torn(old, prng);
            // A sector that was synced is old or new, even if it was being written again.
            let safe = old.synced.len().next_multiple_of(SECTOR);
            if data.len() > safe && prng.one_in(2) {
                garble(&mut data[safe..], prng);
            }
            data
        });
    }

    /// A bit of what is on the disk turns. False if there is no such byte.
    pub fn flip_bit(&self, path: &Path, at: u64, bit: u8) -> bool {
        let state = lock(&self.0);
        let Some(mut file) = state.names.now.files.get(path).map(|file| lock(file)) else {
            return false;
        };
        let at = at as usize;
        let mask = 1 << (bit & 7);
        let mut flipped = false;
        let MemFile { data, synced, .. } = &mut *file;
        for bytes in [data, synced] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
                flipped = true;
            }
        }
        flipped
    }

    /// Another disk with the same content, on which everything is synced that can be.
    pub fn fork(&self) -> Self {
        let state = lock(&self.0);
        let now = &state.names.now;
        let mut copies: BTreeMap<*const Mutex<MemFile>, File> = BTreeMap::new();
        let mut copy = |(path, file): (&PathBuf, &File)| {
            let copied = copies.entry(Arc::as_ptr(file)).or_insert_with(|| {
                let file = lock(file);
                Arc::new(Mutex::new(MemFile {
                    synced: file.kept(),
                    data: file.data.clone(),
                    lost: file.lost,
                    ..MemFile::default()
                }))
            });
            (path.clone(), Arc::clone(copied))
        };
        let tree = Tree {
            files: now.files.iter().map(&mut copy).collect(),
            dirs: now.dirs.clone(),
        };
        Self(Arc::new(Mutex::new(State {
            names: Names::all_synced(tree),
            ..State::default()
        })))
    }
}

/// One bit, or a whole sector.
fn garble(fresh: &mut [u8], prng: &mut Prng) {
    let at = prng.below(fresh.len() as u64) as usize;
    if prng.one_in(2) {
        fresh[at] ^= 1 << prng.below(8);
        return;
    }
    let from = at - at % SECTOR;
    let to = fresh.len().min(from + SECTOR);
    for byte in &mut fresh[from..to] {
        *byte = prng.next_u64() as u8;
    }
}

#[cfg(test)]
#[path = "testing_faults_test.rs"]
mod tests;
