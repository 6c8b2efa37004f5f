//! The disk as the core sees it: named files for blocking jobs, and open log files by reference for
//! the hot path.
//!
//! The hot path (append, sync, read, splice) names a file by an [`Arc<LogFile>`]; the runtime opens
//! it on first use and does the work on its ring. Everything else (recovery, index and checkpoint
//! writes, rename, unlink) is a job that the runtime runs beside the shards with a [`Disk`]; the
//! simulator implements both on a disk that tears and forgets.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a job opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist.
    Read,
    /// Must exist, read and write.
    ReadWrite,
    /// Created where missing, read and write.
    Create,
}

/// How much room the file system under a directory has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What this process may still fill.
    pub usable: u64,
}

/// Blocking file operations, for jobs only (never called on a shard's turn). Paths are as given by
/// the configuration.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;
    /// File and directory names in `path`, in no order, each with whether it is a directory.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>>;
    /// Length of the file in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Whether something of this name exists.
    fn exists(&self, path: &Path) -> bool {
        self.len(path).is_ok()
    }
    /// Creates a directory and its parents; fine if it is there.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or directory, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a file that may be large and that nobody reads any more: its name first, then its
    /// memory and blocks in steps, so that the caller's CPU is never taken for long.
    fn remove_large_file(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether what is in this directory is in memory only: then a sync of it costs nothing.
    fn is_memory(&self, _path: &Path) -> bool {
        false
    }
    /// The room under a directory; `None` where this disk does not know.
    fn space(&self, _path: &Path) -> io::Result<Option<Space>> {
        Ok(None)
    }

    /// The whole file; an error (`InvalidData`) when it is longer than `len_max` bytes.
    fn read_all(&self, path: &Path, len_max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > len_max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "file longer than its limit",
            ));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Replaces a small file as a whole: write `<path>.tmp`, sync it, rename, sync the directory
    /// (Kafka's checkpoint files).
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.replace_file(path, bytes)?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir),
            None => Ok(()),
        }
    }

    /// [`Disk::write_atomic`] for a caller that syncs the directory after more has happened in it.
    fn replace_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".tmp");
        let tmp = PathBuf::from(name);
        let file = self.open(&tmp, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync()?;
        self.rename(&tmp, path)
    }
}

/// A file opened by a job.
#[allow(clippy::len_without_is_empty)] // emptiness needs a system call too: ask for the length
pub trait DiskFile: Send {
    /// Reads up to `buf.len()` bytes at `pos`; 0 at the end.
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize>;
    /// Writes some of `bytes` at `pos`.
    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Data on disk (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Lets go of what is cached and does not wait to be written: it is read from the disk again.
    /// After a sync that failed a kernel keeps what it could not write, as if it had. Nothing by
    /// default, for disks without a cache of that kind.
    fn drop_clean(&self) -> io::Result<()> {
        Ok(())
    }

    /// Fills `buf` or fails with `UnexpectedEof`.
    fn read_exact_at(&self, mut buf: &mut [u8], mut pos: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, pos) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    pos += n as u64;
                    buf = &mut buf[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`; `WriteZero` when the disk takes none.
    fn write_all_at(&self, mut bytes: &[u8], mut pos: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, pos) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    pos += n as u64;
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Number of a log file, unique in the process while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// A log segment's file, shared by everything that reads or writes it. The `Arc` around it is its
/// lease: the OS handle is closed when the last owner lets go, so a fetch in flight of a deleted
/// segment ends well. The runtime puts its handle in on first use (creating the file where it is
/// missing), and takes it out while too many files are open; the core never looks at it.
pub struct LogFile {
    id: FileId,
    path: PathBuf,
    is_segment: bool,
    space: AtomicU64,
    expected: AtomicU64,
    broken: AtomicBool,
    handle: Handle,
}

/// Where the runtime keeps its handle of a file: put in on first use, and taken out again when too
/// many files are open.
#[derive(Default)]
pub struct Handle(Mutex<Option<Arc<dyn Any + Send + Sync>>>);

impl Handle {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<dyn Any + Send + Sync>>> {
        // Replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there, if it is of this type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let handle = Arc::clone(self.slot().as_ref()?);
        handle.downcast().ok()
    }

    /// Puts one in, unless one is there; gives the one that is there then.
    pub fn get_or_put<T: Any + Send + Sync>(&self, new: T) -> Option<Arc<T>> {
        let mut slot = self.slot();
        let new: Arc<dyn Any + Send + Sync> = Arc::new(new);
        let handle = slot.get_or_insert(new);
        Arc::clone(handle).downcast().ok()
    }

    /// Whether one is there.
    pub fn is_there(&self) -> bool {
        self.slot().is_some()
    }

    /// Takes it out if nobody else has it and `idle` says so. True if there is none any more.
    pub fn take_if<T: Any + Send + Sync>(&self, idle: impl FnOnce(&T) -> bool) -> bool {
        let mut slot = self.slot();
        let Some(handle) = slot.as_ref() else {
            return true;
        };
        // Nobody gets one while the slot is held.
        let mut unused = Arc::strong_count(handle) == 1;
        unused = unused && handle.downcast_ref::<T>().is_some_and(idle);
        if unused {
            *slot = None;
        }
        unused
    }
}

impl LogFile {
    /// A file that is not yet open.
    pub fn new(id: FileId, path: PathBuf) -> Arc<Self> {
        Self::of(id, path, false)
    }

    /// A segment of a partition's log, not yet open. While it takes appends it may be longer than
    /// what is written by less than [`crate::aligned::BLOCK`] zeros.
    pub fn segment(id: FileId, path: PathBuf) -> Arc<Self> {
        Self::of(id, path, true)
    }

    fn of(id: FileId, path: PathBuf, is_segment: bool) -> Arc<Self> {
        Arc::new(Self {
            id,
            path,
            is_segment,
            space: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            handle: Handle::default(),
        })
    }

    /// Whether it was made by [`LogFile::segment`].
    pub fn is_segment(&self) -> bool {
        self.is_segment
    }

    /// Has so many bytes allocated when it is made (`preallocate`).
    pub fn set_space(&self, bytes: u64) {
        self.space.store(bytes, Ordering::Relaxed);
    }

    /// Bytes to allocate when it is made.
    pub fn space(&self) -> u64 {
        self.space.load(Ordering::Relaxed)
    }

    /// It may get as long as this: the segment before it did.
    pub fn set_expected(&self, bytes: u64) {
        self.expected.store(bytes, Ordering::Relaxed);
    }

    /// How long it may get, in bytes, as far as is known: zero where it is not.
    pub fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// What was written to it could not be synced, and may be gone: nobody opens it again.
    pub fn set_broken(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    /// Whether that happened.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Its number.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Where it is. A rename of its directory for deletion does not change this: the handle stays
    /// good.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The OS handle, for the crate that put it there.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogFile({}, {})", self.id.0, self.path.display())
    }
}
