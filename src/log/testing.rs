//! A disk in memory for tests: it knows what was synced, and a crash tears and forgets the rest.
//!
//! Names (creations, renames, removals) are durable at once; what a file holds is durable only once
//! it is synced. A crash keeps of each unsynced write, in any combination, all, nothing, or a torn
//! part in units of 512 bytes.

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
    files: BTreeMap<PathBuf, Arc<Mutex<MemFile>>>,
    dirs: BTreeSet<PathBuf>,
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
        for file in state.files.values_mut() {
            let old = lock(file).clone();
            let mut data = old.synced;
            let mode = prng.below(4);
            for change in &old.unsynced {
                match (mode, change) {
                    (0, _) => break, // all that came after the sync is lost
                    (1, change) => change.apply(&mut data),
                    (_, change) => match (prng.below(4), change) {
                        (0, _) => {}
                        (1, Change::Write(pos, bytes)) => {
                            let sectors = bytes.len().div_ceil(SECTOR) as u64;
                            let keep = (prng.below(sectors + 1) as usize * SECTOR).min(bytes.len());
                            Change::Write(*pos, bytes[..keep].to_vec()).apply(&mut data);
                        }
                        (_, change) => change.apply(&mut data),
                    },
                }
            }
            *file = Arc::new(Mutex::new(MemFile {
                synced: data.clone(),
                data,
                ..MemFile::default()
            }));
        }
    }

    /// The process dies but the machine stays up: everything written survives.
    pub fn kill(&self) {
        let mut state = lock(&self.0);
        for file in state.files.values_mut() {
            let copy = lock(file).clone();
            *file = Arc::new(Mutex::new(copy));
        }
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

    /// Whether everything in the file would survive a crash.
    pub fn is_synced(&self, path: &Path) -> bool {
        let state = lock(&self.0);
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
                state.files.insert(path.to_owned(), Arc::clone(&file));
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
        if let Some(file) = state.files.remove(from) {
            state.files.insert(to.to_owned(), file);
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
        let files: Vec<_> = state
            .files
            .keys()
            .filter_map(|p| Some((p.clone(), moved(p)?)))
            .collect();
        for (old, new) in files {
            if let Some(file) = state.files.remove(&old) {
                state.files.insert(new, file);
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let removed = lock(&self.0).files.remove(path);
        removed.map(|_| ()).ok_or_else(|| not_found(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        if !state.dirs.contains(path) {
            return Err(not_found(path));
        }
        state.dirs.retain(|p| !p.starts_with(path));
        state.files.retain(|p, _| !p.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match lock(&self.0).dirs.contains(path) {
            true => Ok(()),
            false => Err(not_found(path)),
        }
    }
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
