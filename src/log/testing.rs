//! A disk in memory for tests: it knows what was synced, and a crash tears and forgets the rest.
//!
//! What a file holds is durable only once it is synced, its name once its directory is. A crash
//! keeps of each unsynced write, in any combination, all, nothing, or torn parts in units of 512
//! bytes; and of unsynced creations, renames and removals the first so many (those of directories
//! are durable at once, unless [`MemDisk::forget_directories`] says otherwise). What else can go
//! wrong with it is in `testing_faults.rs`.

use flumen_base::{Disk, DiskFile, OpenMode, Prng};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[path = "testing_faults.rs"]
mod faults;
#[path = "testing_names.rs"]
mod names;

pub use faults::SyncFailure;
use names::{File, NameChange, Names};

/// Unit in which a torn write is kept.
const SECTOR: usize = 512;

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    names: Names,
    /// Bytes that fit on it, if there is a limit.
    capacity: Option<u64>,
    /// The next sync of a file fails, so.
    sync_failure: Option<SyncFailure>,
    /// A sync has lost what it was to write.
    lost_syncs: bool,
}

#[derive(Clone, Debug, Default)]
struct MemFile {
    /// As a reader sees it.
    data: Vec<u8>,
    /// As of the last sync.
    synced: Vec<u8>,
    /// Since then, in order.
    unsynced: Vec<Change>,
    /// A sync failed and lost what it was to write: `data` has it, the disk never will.
    lost: bool,
    /// Bytes ever read, for tests that bound it.
    bytes_read: u64,
}

impl MemFile {
    fn is_synced(&self) -> bool {
        self.unsynced.is_empty() && self.data == self.synced
    }

    /// As a sync of now would leave it.
    fn kept(&self) -> Vec<u8> {
        if !self.lost {
            return self.data.clone();
        }
        let mut data = self.synced.clone();
        for change in &self.unsynced {
            change.apply(&mut data);
        }
        data
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => data.resize(*len as usize, 0),
            Self::Write(pos, bytes) => {
                let (start, end) = (*pos as usize, *pos as usize + bytes.len());
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[start..end].copy_from_slice(bytes);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Power goes: what was not synced is kept, torn or lost, as `prng` decides. Open files are the
    /// old ones still: drop them, they are of the process that died.
    pub fn crash(&self, prng: &mut Prng) {
        self.lose_power(prng, torn);
    }

    fn lose_power(&self, prng: &mut Prng, left: impl Fn(&MemFile, &mut Prng) -> Vec<u8>) {
        let mut state = lock(&self.0);
        let kept = prng.below(state.names.unsynced() as u64 + 1) as usize;
        state.names.lose(kept);
        state.names.replace_files(|old| {
            let data = left(old, prng);
            MemFile {
                synced: data.clone(),
                data,
                ..MemFile::default()
            }
        });
    }

    /// The process dies but the machine stays up: everything written survives.
    pub fn kill(&self) {
        lock(&self.0).names.replace_files(MemFile::clone);
    }

    /// From now on a power loss may also take back that directories were made, renamed or removed,
    /// where the one above was not synced; and nothing is made in a directory that is not there.
    pub fn forget_directories(&self) {
        lock(&self.0).names.lazy_dirs = true;
    }

    /// Bytes read so far from all files whose name ends with `suffix`.
    pub fn bytes_read(&self, suffix: &str) -> u64 {
        let state = lock(&self.0);
        let ends = |path: &Path| path.to_string_lossy().ends_with(suffix);
        let files = state.names.now.files.iter();
        let files = files.filter(|(path, _)| ends(path));
        files.map(|(_, file)| lock(file).bytes_read).sum()
    }

    /// All file paths, ascending.
    pub fn paths(&self) -> Vec<PathBuf> {
        lock(&self.0).names.now.files.keys().cloned().collect()
    }

    /// What a file holds, for comparing; `None` if there is no such file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = lock(&self.0);
        let file = state.names.now.files.get(path);
        file.map(|file| lock(file).data.clone())
    }

    /// Whether everything in the file, and its name, would survive a crash.
    pub fn is_synced(&self, path: &Path) -> bool {
        let state = lock(&self.0);
        let file = state.names.now.files.get(path);
        state.names.is_synced(path) && file.is_some_and(|file| lock(file).is_synced())
    }
}

impl State {
    /// Where something may be made.
    fn check_parent(&self, path: &Path) -> io::Result<()> {
        let dirs = &self.names.now.dirs;
        let there = path.parent().is_none_or(|parent| dirs.contains(parent));
        match there || !self.names.lazy_dirs {
            true => Ok(()),
            false => Err(not_found(path)),
        }
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = lock(&self.0);
        let file = match (state.names.now.files.get(path), mode) {
            (Some(file), _) => Arc::clone(file),
            (None, OpenMode::Create) => {
                state.check_parent(path)?;
                state.check_room_for_a_name()?;
                let file = File::default();
                let change = NameChange::Added(path.to_owned(), Arc::clone(&file));
                state.names.change(change);
                file
            }
            (None, _) => return Err(not_found(path)),
        };
        Ok(Box::new(Handle {
            disk: Arc::clone(&self.0),
            file,
            read_only: mode == OpenMode::Read,
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let state = lock(&self.0);
        let tree = &state.names.now;
        if !tree.dirs.contains(path) {
            return Err(not_found(path));
        }
        let name = |child: &Path| {
            let inside = child.parent() == Some(path);
            inside.then(|| child.file_name().map(|n| n.to_string_lossy().into_owned()))?
        };
        let files = tree.files.keys().filter_map(|p| Some((name(p)?, false)));
        let dirs = tree.dirs.iter().filter_map(|p| Some((name(p)?, true)));
        Ok(files.chain(dirs).collect())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let state = lock(&self.0);
        let tree = &state.names.now;
        match tree.files.get(path) {
            Some(file) => Ok(lock(file).data.len() as u64),
            None if tree.dirs.contains(path) => Ok(0),
            None => Err(not_found(path)),
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        let mut missing: Vec<&Path> = path.ancestors().collect();
        missing.retain(|dir| !state.names.now.dirs.contains(*dir));
        for dir in missing.into_iter().rev() {
            state.names.change(NameChange::DirAdded(dir.to_owned()));
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.check_parent(to)?;
        let (from, to) = (from.to_owned(), to.to_owned());
        let change = if state.names.now.files.contains_key(&from) {
            NameChange::Renamed(from, to)
        } else if state.names.now.dirs.contains(&from) {
            NameChange::DirRenamed(from, to)
        } else {
            return Err(not_found(&from));
        };
        state.names.change(change);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if !state.names.now.files.contains_key(path) {
            return Err(not_found(path));
        }
        state.names.change(NameChange::Removed(path.to_owned()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if !state.names.now.dirs.contains(path) {
            return Err(not_found(path));
        }
        state.names.change(NameChange::DirRemoved(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if !state.names.now.dirs.contains(path) {
            return Err(not_found(path));
        }
        state.names.sync(path);
        Ok(())
    }
}

/// What a file holds after a power loss.
fn torn(old: &MemFile, prng: &mut Prng) -> Vec<u8> {
    let mut data = old.synced.clone();
    let mode = prng.below(4);
    for change in &old.unsynced {
        match (mode, change) {
            (0, _) => break, // all that came after the sync is lost
            (1, change) => change.apply(&mut data),
            (_, change) => match (prng.below(5), change) {
                (0, _) => {}
                (1, Change::Write(pos, bytes)) => {
                    let sectors = bytes.len().div_ceil(SECTOR) as u64;
                    let keep = (prng.below(sectors + 1) as usize * SECTOR).min(bytes.len());
                    Change::Write(*pos, bytes[..keep].to_vec()).apply(&mut data);
                }
                (2, Change::Write(pos, bytes)) => {
                    for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                        if prng.one_in(2) {
                            let at = pos + (n * SECTOR) as u64;
                            Change::Write(at, sector.to_vec()).apply(&mut data);
                        }
                    }
                }
                (_, change) => change.apply(&mut data),
            },
        }
    }
    data
}

struct Handle {
    disk: Arc<Mutex<State>>,
    file: Arc<Mutex<MemFile>>,
    read_only: bool,
}

impl Handle {
    fn change(&self, change: Change) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut file = lock(&self.file);
        change.apply(&mut file.data);
        file.unsynced.push(change);
        Ok(())
    }
}

impl DiskFile for Handle {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut file = lock(&self.file);
        let start = usize::try_from(pos).map_err(io::Error::other)?;
        let there = file.data.get(start..).unwrap_or_default();
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        file.bytes_read += n as u64;
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        let fits = self.fitting(bytes.len(), pos)?;
        self.change(Change::Write(pos, bytes[..fits].to_vec()))?;
        Ok(fits)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.file).data.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        let failure = lock(&self.disk).take_sync_failure();
        let mut file = lock(&self.file);
        if let Some(failure) = failure {
            return Err(failure.strike(&mut file));
        }
        let MemFile {
            synced, unsynced, ..
        } = &mut *file;
        for change in unsynced.drain(..) {
            change.apply(synced);
        }
        Ok(())
    }

    fn drop_clean(&self) -> io::Result<()> {
        let mut file = lock(&self.file);
        if file.lost {
            let mut data = file.kept();
            data.resize(file.data.len(), 0); // a file's length comes to the disk another way
            (file.data, file.lost) = (data, false);
        }
        Ok(())
    }
}
