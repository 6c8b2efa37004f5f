//! A disk in memory for tests: it knows what was synced, and a crash tears and forgets the rest.
//!
//! What a file holds is durable only once it is synced, its name once its directory is. A crash
//! keeps of each unsynced write, in any combination, all, nothing, or torn parts in units of 512
//! bytes; and of unsynced creations, renames and removals of files the first so many (directories
//! themselves are durable at once).

use flumen_base::{Disk, DiskFile, OpenMode, Prng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Unit in which a torn write is kept.
const SECTOR: usize = 512;

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Files,
    dirs: BTreeSet<PathBuf>,
    /// Names as of the last syncs of their directories.
    synced_names: Files,
    /// Since then, in order.
    unsynced_names: Vec<NameChange>,
}

type Files = BTreeMap<PathBuf, Arc<Mutex<MemFile>>>;

#[derive(Clone, Debug)]
enum NameChange {
    Added(PathBuf, Arc<Mutex<MemFile>>),
    Removed(PathBuf),
    Renamed(PathBuf, PathBuf),
}

impl NameChange {
    fn apply(&self, files: &mut Files) {
        match self {
            Self::Added(path, file) => {
                files.insert(path.clone(), Arc::clone(file));
            }
            Self::Removed(path) => {
                files.remove(path);
            }
            Self::Renamed(from, to) => {
                if let Some(file) = files.remove(from) {
                    files.insert(to.clone(), file);
                }
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Added(path, _) | Self::Removed(path) => path.parent() == Some(dir),
            Self::Renamed(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl State {
    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.files);
        self.unsynced_names.push(change);
    }

    /// Everything below a directory that is renamed or removed.
    fn sync_names_below(&mut self, dir: &Path) {
        let below = |path: &PathBuf| path.starts_with(dir);
        let changes = std::mem::take(&mut self.unsynced_names);
        let (now, later): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| match change {
            NameChange::Added(path, _) | NameChange::Removed(path) => below(path),
            NameChange::Renamed(from, to) => below(from) || below(to),
        });
        self.unsynced_names = later;
        for change in now {
            change.apply(&mut self.synced_names);
        }
    }

    /// Every file becomes another: handles of a process that ended hold the old ones.
    fn replace_files(&mut self, mut new: impl FnMut(&MemFile) -> MemFile) {
        let mut made: BTreeMap<*const Mutex<MemFile>, Arc<Mutex<MemFile>>> = BTreeMap::new();
        let mut other = |file: &mut Arc<Mutex<MemFile>>| {
            let made = made.entry(Arc::as_ptr(file));
            let replacement = made.or_insert_with(|| Arc::new(Mutex::new(new(&lock(file)))));
            *file = Arc::clone(replacement);
        };
        self.files.values_mut().for_each(&mut other);
        self.synced_names.values_mut().for_each(&mut other);
        for change in &mut self.unsynced_names {
            if let NameChange::Added(_, file) = change {
                other(file);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct MemFile {
    /// As a reader sees it.
    data: Vec<u8>,
    /// As of the last sync.
    synced: Vec<u8>,
    /// Since then, in order.
    unsynced: Vec<Change>,
    /// Bytes ever read, for tests that bound it.
    bytes_read: u64,
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
        let mut state = lock(&self.0);
        let kept = prng.below(state.unsynced_names.len() as u64 + 1) as usize;
        let State {
            files,
            synced_names,
            unsynced_names,
            ..
        } = &mut *state;
        for change in unsynced_names.drain(..).take(kept) {
            change.apply(synced_names);
        }
        files.clone_from(synced_names);
        state.replace_files(|old| {
            let data = torn(old, prng);
            MemFile {
                synced: data.clone(),
                data,
                ..MemFile::default()
            }
        });
    }

    /// The process dies but the machine stays up: everything written survives.
    pub fn kill(&self) {
        lock(&self.0).replace_files(MemFile::clone);
    }

    /// Bytes read so far from all files whose name ends with `suffix`.
    pub fn bytes_read(&self, suffix: &str) -> u64 {
        let state = lock(&self.0);
        let ends = |path: &Path| path.to_string_lossy().ends_with(suffix);
        let files = state.files.iter().filter(|(path, _)| ends(path));
        files.map(|(_, file)| lock(file).bytes_read).sum()
    }

    /// All file paths, ascending.
    pub fn paths(&self) -> Vec<PathBuf> {
        lock(&self.0).files.keys().cloned().collect()
    }

    /// What a file holds, for comparing; `None` if there is no such file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = lock(&self.0);
        state.files.get(path).map(|file| lock(file).data.clone())
    }

    /// Whether everything in the file, and its name, would survive a crash.
    pub fn is_synced(&self, path: &Path) -> bool {
        let state = lock(&self.0);
        if state.synced_names.get(path).map(Arc::as_ptr) != state.files.get(path).map(Arc::as_ptr) {
            return false;
        }
        state
            .files
            .get(path)
            .is_some_and(|file| lock(file).unsynced.is_empty())
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = lock(&self.0);
        let file = match (state.files.get(path), mode) {
            (Some(file), _) => Arc::clone(file),
            (None, OpenMode::Create) => {
                let file = Arc::<Mutex<MemFile>>::default();
                state.change_name(NameChange::Added(path.to_owned(), Arc::clone(&file)));
                file
            }
            (None, _) => return Err(not_found(path)),
        };
        Ok(Box::new(Handle {
            file,
            read_only: mode == OpenMode::Read,
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let state = lock(&self.0);
        if !state.dirs.contains(path) {
            return Err(not_found(path));
        }
        let name = |child: &Path| {
            let inside = child.parent() == Some(path);
            inside.then(|| child.file_name().map(|n| n.to_string_lossy().into_owned()))?
        };
        let files = state.files.keys().filter_map(|p| Some((name(p)?, false)));
        let dirs = state.dirs.iter().filter_map(|p| Some((name(p)?, true)));
        Ok(files.chain(dirs).collect())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let state = lock(&self.0);
        match state.files.get(path) {
            Some(file) => Ok(lock(file).data.len() as u64),
            None if state.dirs.contains(path) => Ok(0),
            None => Err(not_found(path)),
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.dirs.extend(path.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if state.files.contains_key(from) {
            state.change_name(NameChange::Renamed(from.to_owned(), to.to_owned()));
            return Ok(());
        }
        if !state.dirs.remove(from) {
            return Err(not_found(from));
        }
        state.dirs.insert(to.to_owned());
        let moved = |path: &Path| Some(to.join(path.strip_prefix(from).ok()?));
        let dirs: Vec<_> = state
            .dirs
            .iter()
            .filter_map(|p| Some((p.clone(), moved(p)?)))
            .collect();
        for (old, new) in dirs {
            state.dirs.remove(&old);
            state.dirs.insert(new);
        }
        state.sync_names_below(from);
        let State {
            files,
            synced_names,
            ..
        } = &mut *state;
        for names in [files, synced_names] {
            let all = std::mem::take(names).into_iter();
            *names = all.map(|(p, f)| (moved(&p).unwrap_or(p), f)).collect();
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if !state.files.contains_key(path) {
            return Err(not_found(path));
        }
        state.change_name(NameChange::Removed(path.to_owned()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if !state.dirs.contains(path) {
            return Err(not_found(path));
        }
        state.dirs.retain(|p| !p.starts_with(path));
        state.sync_names_below(path);
        state.files.retain(|p, _| !p.starts_with(path));
        state.synced_names.retain(|p, _| !p.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if !state.dirs.contains(path) {
            return Err(not_found(path));
        }
        let changes = std::mem::take(&mut state.unsynced_names);
        let (now, later): (Vec<_>, Vec<_>) = changes.into_iter().partition(|c| c.is_in(path));
        state.unsynced_names = later;
        for change in now {
            change.apply(&mut state.synced_names);
        }
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
        self.change(Change::Write(pos, bytes.to_vec()))?;
        Ok(bytes.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.file).data.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }

    fn sync(&self) -> io::Result<()> {
        let mut file = lock(&self.file);
        file.synced = file.data.clone();
        file.unsynced.clear();
        Ok(())
    }
}
