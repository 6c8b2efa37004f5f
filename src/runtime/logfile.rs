//! The open file of a log segment, as the runtime keeps it in its `LogFile`.

use crate::files::Files;
use crate::fsdisk::cut_in_steps;
use crate::mapped::Mapping;
use crate::sys::{self, FileSystem};
use flumen_base::aligned::LastBlock;
use flumen_base::{LogFile, sync_failed};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Bytes that are asked for at a time.
const WRITEBACK_UNIT: u64 = 2 << 20;
/// Least bytes that are allocated ahead of the writes at a time.
const RESERVE_MIN: u64 = 1 << 20;
/// Bytes that are kept allocated behind the end of the metadata log, half of them at least.
const AHEAD: u64 = 1 << 20;
/// Between two looks whether a handle has been let go of.
const LET_GO_PAUSE: Duration = Duration::from_micros(50);

/// What the runtime puts into a log file's handle. The flags are hints of one writer at a time.
pub(crate) struct LogHandle {
    file: Arc<File>,
    fs: FileSystem,
    files: Arc<Files>,
    /// Looked up since the last look of [`Files`].
    used: AtomicBool,
    /// All that was written through it has been synced.
    flushed: AtomicBool,
    refuses_uncached: AtomicBool,
    /// A second descriptor, with O_DIRECT; `None` where the file system refuses that.
    direct: OnceLock<Option<Arc<File>>>,
    refuses_direct: AtomicBool,
    last_block: Mutex<LastBlock>,
    /// Something may have been written that was not synced.
    unsynced: AtomicBool,
    /// Blocks are allocated up to here.
    reserved: AtomicU64,
    /// Up to here write-back was asked for, or left to the kernel: all, at first.
    asked: AtomicU64,
    mapped: Mutex<Mapped>,
    /// The file is at least so long.
    len: AtomicU64,
    /// [`sys::inode_clock`] at the last write that noted the time of the change.
    changed_at: AtomicU64,
}

/// The file in the address space.
enum Mapped {
    NotYet,
    Yes(Arc<Mapping>),
    Refused,
}

/// Least bytes of a file that are mapped.
const MAPPED_BYTES_MIN: usize = 1 << 20;

impl LogHandle {
    /// Takes an open file and asks which file system it is on.
    pub(crate) fn new(file: File, files: &Arc<Files>) -> io::Result<Self> {
        let fs = sys::file_system(file.as_fd())?;
        files.opened();
        Ok(Self {
            file: Arc::new(file),
            fs,
            files: Arc::clone(files),
            used: AtomicBool::new(true),
            flushed: AtomicBool::new(true),
            refuses_uncached: AtomicBool::new(fs == FileSystem::Tmpfs),
            direct: OnceLock::new(),
            refuses_direct: AtomicBool::new(fs == FileSystem::Tmpfs),
            last_block: Mutex::default(),
            // Whoever wrote it before may not have synced it.
            unsynced: AtomicBool::new(true),
            reserved: AtomicU64::new(0),
            asked: AtomicU64::new(u64::MAX),
            mapped: Mutex::new(Mapped::NotYet),
            len: AtomicU64::new(0),
            changed_at: AtomicU64::new(0),
        })
    }

    /// The file in the address space, its first `end` bytes at least; `None` where it is shorter,
    /// or can't be mapped.
    pub(crate) fn mapping(&self, end: u64) -> Option<Arc<Mapping>> {
        if end > self.len.load(Ordering::Relaxed) {
            // Else zeros would be sent behind the end, up to the end of the page.
            let len = self.file.metadata().ok()?.len();
            self.len.store(len, Ordering::Relaxed);
            if end > len {
                return None;
            }
        }
        let end = usize::try_from(end).ok()?;
        // Replaced whole.
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        match &*mapped {
            Mapped::Yes(mapping) if mapping.len() >= end => return Some(Arc::clone(mapping)),
            Mapped::Refused => return None,
            _ => {}
        }
        // All of it, and what comes until it has doubled.
        let len = usize::try_from(self.len.load(Ordering::Relaxed)).ok()?;
        let len = len.max(MAPPED_BYTES_MIN).checked_next_power_of_two()?;
        let mapping = Mapping::new(self.file.as_fd(), len).ok().map(Arc::new);
        *mapped = mapping.clone().map_or(Mapped::Refused, Mapped::Yes);
        mapping
    }

    /// Whether it is in the address space.
    pub(crate) fn is_mapped(&self) -> bool {
        let mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*mapped, Mapped::Yes(_))
    }

    /// Whether it is on this file system.
    pub(crate) fn is_on(&self, fs: FileSystem) -> bool {
        self.fs == fs
    }

    /// Takes it out of the address space, once what is being sent of it has left.
    pub(crate) fn unmap(&self) {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Mapped::Yes(_) = *mapped {
            *mapped = Mapped::NotYet;
        }
    }

    /// What was mapped could not be read: from now on it is read in other ways, which say why.
    pub(crate) fn refuse_mapping(&self) {
        *self.mapped.lock().unwrap_or_else(PoisonError::into_inner) = Mapped::Refused;
    }

    /// Whether RWF_DONTCACHE may be tried.
    pub(crate) fn takes_uncached(&self) -> bool {
        !self.refuses_uncached.load(Ordering::Relaxed)
    }

    /// The file system refused RWF_DONTCACHE.
    pub(crate) fn refuse_uncached(&self) {
        self.refuses_uncached.store(true, Ordering::Relaxed);
    }

    /// The file system refused a direct write.
    pub(crate) fn refuse_direct(&self) {
        self.refuses_direct.store(true, Ordering::Relaxed);
    }

    /// The descriptor for direct writes, opened on first use.
    pub(crate) fn direct(&self, file: &LogFile) -> Option<RawFd> {
        if self.refuses_direct.load(Ordering::Relaxed) {
            return None;
        }
        let open = || {
            let opened = sys::open_direct(file.path()).ok().map(Arc::new);
            if opened.is_some() {
                self.files.opened();
            }
            opened
        };
        self.direct
            .get_or_init(open)
            .as_ref()
            .map(|f| f.as_raw_fd())
    }

    /// What is known of the file's last block.
    pub(crate) fn last_block(&self) -> MutexGuard<'_, LastBlock> {
        // Valid after every single statement.
        self.last_block
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands at the file's end is to be read back before the next direct write.
    pub(crate) fn forget_last_block(&self) {
        self.last_block().set(u64::MAX, &[]);
    }

    /// Whether everything written before the write in flight is known to be on disk.
    pub(crate) fn is_synced(&self) -> bool {
        !self.unsynced.load(Ordering::Relaxed)
    }

    /// A write has ended, with everything before it on disk or not.
    pub(crate) fn set_synced(&self, synced: bool) {
        self.unsynced.store(!synced, Ordering::Relaxed);
        self.flushed.store(synced, Ordering::SeqCst);
    }

    /// Somebody looks it up.
    fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody looked it up since the last call.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Whether it may be closed, if nobody has it: nothing is lost with it.
    pub(crate) fn is_idle(&self) -> bool {
        self.flushed.load(Ordering::SeqCst)
    }

    /// Syncs what was written through it, so that it may be closed. Blocking.
    pub(crate) fn flush(&self) -> io::Result<()> {
        // A write that ends meanwhile takes this back.
        self.flushed.store(true, Ordering::SeqCst);
        let synced = self.file.sync_data();
        if synced.is_err() {
            self.flushed.store(false, Ordering::SeqCst);
        }
        synced
    }

    /// What to ask write-back for before a write at `pos`, by those who do not leave it to the
    /// kernel: from where, and how many bytes; no more than what was written since the last time.
    pub(crate) fn ask_writeback(&self, pos: u64) -> Option<(u64, u32)> {
        let end = pos & !(WRITEBACK_UNIT - 1);
        let from = self.asked.swap(end, Ordering::Relaxed);
        let len = u32::try_from(end.checked_sub(from)?).unwrap_or(u32::MAX);
        (len > 0).then_some((from, len))
    }

    /// Blocks are allocated up to `end`.
    pub(crate) fn set_reserved(&self, end: u64) {
        self.reserved.store(end, Ordering::Relaxed);
    }

    /// What to allocate for a write of these bytes, in a file that may get as long as `expected`:
    /// from where, and how many bytes, about `most`. In few steps: an ext4 file of up to four
    /// extents has them in its inode, one of more has a block to be synced beside it.
    pub(crate) fn reserve(&self, at: Range<u64>, expected: u64, most: u64) -> Option<(u64, u64)> {
        let reserved = self.reserved.load(Ordering::Relaxed);
        if at.end <= reserved {
            return None;
        }
        // As much again as there is.
        let ahead = at.end.max(expected.saturating_sub(at.end));
        let to = at.end + ahead.clamp(RESERVE_MIN, most.max(RESERVE_MIN));
        self.reserved.store(to, Ordering::Relaxed);
        let from = if reserved == 0 { at.start } else { reserved };
        Some((from, to - from))
    }
}

impl LogHandle {
    /// The handle of a log file, if it is open.
    pub(crate) fn of(file: &LogFile) -> Option<Arc<Self>> {
        file.handle().get::<Self>()
    }

    /// What to allocate so that a file of small appends finds room when the disk is full: from
    /// where, and how many bytes.
    pub(crate) fn keep_ahead(&self, end: u64) -> Option<(u64, u64)> {
        if end + AHEAD / 2 <= self.reserved.load(Ordering::Relaxed) {
            return None;
        }
        self.reserved.store(end + AHEAD, Ordering::Relaxed);
        Some((end, AHEAD))
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        let mapped = self
            .mapped
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let mapping = match std::mem::replace(mapped, Mapped::NotYet) {
            Mapped::Yes(mapping) => Some(mapping),
            Mapped::NotYet | Mapped::Refused => None,
        };
        self.files.close(Remains {
            file: Arc::clone(&self.file),
            fs: self.fs,
            direct: self.direct.take().flatten(),
            mapping,
        });
    }
}

/// What is left of a handle that nobody has any more.
pub(crate) struct Remains {
    file: Arc<File>,
    fs: FileSystem,
    direct: Option<Arc<File>>,
    mapping: Option<Arc<Mapping>>,
}

impl Remains {
    /// Its descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        1 + usize::from(self.direct.is_some())
    }

    /// Closes it. If the file was removed, its pages and blocks go with it: then in steps, where
    /// that is of use.
    pub(crate) fn close(self) {
        drop(self.mapping);
        drop(self.direct);
        // Whoever let go of it is just about to.
        while Arc::strong_count(&self.file) > 1 {
            std::thread::sleep(LET_GO_PAUSE);
        }
        let removed = self.file.metadata().is_ok_and(|m| m.nlink() == 0);
        if removed && let Err(error) = cut_in_steps(&self.file, self.fs) {
            tracing::debug!(%error, "a removed file goes at once");
        }
    }
}

/// The open file of a log segment.
pub(crate) struct OpenLog {
    pub(crate) file: Arc<LogFile>,
    pub(crate) handle: Arc<LogHandle>,
    /// Where it is.
    pub(crate) fs: FileSystem,
}

impl OpenLog {
    /// The file, if its handle has been put in.
    pub(crate) fn new(file: &Arc<LogFile>) -> Option<Self> {
        let handle = LogHandle::of(file)?;
        handle.mark_used();
        Some(Self {
            file: Arc::clone(file),
            fs: handle.fs,
            handle,
        })
    }

    /// Whether a write that was not to wait may have been refused for the time of the change alone:
    /// the first one in each tick of the kernel's clock has to note it in the inode, which XFS
    /// takes for waiting (`file_modified_flags` in fs/inode.c). Not if somebody else has the file
    /// in hand: a read that waits for the disk holds XFS's lock.
    pub(crate) fn may_be_its_times(&self) -> bool {
        // The file's own, and this one.
        let alone = Arc::strong_count(&self.handle) == 2;
        let now = sys::inode_clock();
        alone && self.handle.changed_at.swap(now, Ordering::Relaxed) != now
    }

    /// Puts the handle in, or closes `opened` again if another shard was quicker.
    pub(crate) fn put(file: &Arc<LogFile>, opened: File, files: &Arc<Files>) -> io::Result<Self> {
        if file.is_broken() {
            let message = "what was written to it could not be synced";
            return Err(sync_failed(&io::Error::other(message)));
        }
        let new = LogHandle::new(opened, files)?;
        let handle = file.handle().get_or_put(new);
        let handle =
            handle.ok_or_else(|| io::Error::other("the handle of a log file is no file"))?;
        files.add(file);
        Ok(Self {
            file: Arc::clone(file),
            fs: handle.fs,
            handle,
        })
    }
}

impl AsFd for OpenLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.file.as_fd()
    }
}

impl AsRawFd for OpenLog {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.file.as_raw_fd()
    }
}

/// A log file's path as a system call takes it.
pub(crate) fn path_of(file: &LogFile) -> io::Result<CString> {
    Ok(CString::new(file.path().as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_base::FileId;

    const MOST: u64 = 64 << 20;

    #[test]
    fn allocates_ahead_in_growing_steps() {
        let file = tempfile::tempfile().unwrap();
        let handle = LogHandle::new(file, &Arc::new(Files::new(100, 1))).unwrap();
        let reserve = |at, most| handle.reserve(at, 0, most);
        assert_eq!(reserve(0..4096, MOST), Some((0, 4096 + (1 << 20))));
        assert_eq!(reserve(4096..1 << 20, MOST), None);
        let reserved = 4096 + (1 << 20);
        let (from, len) = reserve(1 << 20..reserved + 1, MOST).unwrap();
        assert_eq!((from, from + len), (reserved, 2 * (reserved + 1)));
        let (from, len) = reserve(reserved..1 << 30, MOST).unwrap();
        assert_eq!(from + len, (1 << 30) + MOST);
        let (from, len) = reserve(1 << 30..2 << 30, 0).unwrap();
        assert_eq!(from + len, (2 << 30) + RESERVE_MIN);
    }

    #[test]
    fn write_back_is_asked_for_in_units() {
        let file = tempfile::tempfile().unwrap();
        let handle = LogHandle::new(file, &Arc::new(Files::new(100, 1))).unwrap();
        let unit = WRITEBACK_UNIT;
        let ask = |pos| handle.ask_writeback(pos);
        assert_eq!((ask(3 * unit + 5), ask(4 * unit - 1)), (None, None));
        assert_eq!(ask(4 * unit + 7), Some((3 * unit, unit as u32)));
        assert_eq!(ask(7 * unit), Some((4 * unit, 3 * unit as u32)));
        // It was cut off.
        assert_eq!((ask(5), ask(unit - 1)), (None, None));
        assert_eq!(ask(unit), Some((0, unit as u32)));
    }

    #[test]
    fn allocates_at_once_what_a_file_is_expected_to_have() {
        let handle = || {
            let file = tempfile::tempfile().unwrap();
            LogHandle::new(file, &Arc::new(Files::new(100, 1))).unwrap()
        };
        let small = handle();
        let at = 8192..12288;
        assert_eq!(
            small.reserve(at, MOST / 2, MOST),
            Some((8192, MOST / 2 - 8192))
        );
        assert_eq!(small.reserve(12288..MOST / 2, MOST / 2, MOST), None);
        let large = handle();
        assert_eq!(
            large.reserve(0..4096, 1 << 40, MOST),
            Some((0, 4096 + MOST))
        );
        let (from, len) = large.reserve(MOST..2 * MOST, 1 << 40, MOST).unwrap();
        assert_eq!((from, from + len), (4096 + MOST, 3 * MOST));
        // It became longer than that.
        let (from, len) = small.reserve(MOST / 2..MOST, MOST / 2, MOST).unwrap();
        assert_eq!((from, from + len), (MOST / 2, 2 * MOST));
    }

    #[test]
    fn a_write_waits_once_a_tick_and_only_if_nobody_else_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = LogFile::segment(FileId(1), dir.path().join("0.log"));
        let opened = tempfile::tempfile().unwrap();
        let log = OpenLog::put(&file, opened, &Arc::new(Files::new(100, 1))).unwrap();
        let reader = OpenLog::new(&file).unwrap();
        assert!(!log.may_be_its_times());
        drop(reader);
        assert!(log.may_be_its_times());
        let (mut ticks, mut waited, mut last) = (0, 0, sys::inode_clock());
        while ticks < 5 {
            waited += u32::from(log.may_be_its_times());
            let now = sys::inode_clock();
            ticks += u32::from(std::mem::replace(&mut last, now) != now);
        }
        // The clock may have moved before the first look, and after the last.
        assert!((4..=6).contains(&waited), "{waited} in {ticks} ticks");
    }

    #[test]
    fn keeps_room_behind_the_end() {
        let handle =
            LogHandle::new(tempfile::tempfile().unwrap(), &Arc::new(Files::new(100, 1))).unwrap();
        assert_eq!(handle.keep_ahead(100), Some((100, AHEAD)));
        assert_eq!(handle.keep_ahead(100 + AHEAD / 2), None);
        let end = 101 + AHEAD / 2;
        assert_eq!(handle.keep_ahead(end), Some((end, AHEAD)));
    }
}
