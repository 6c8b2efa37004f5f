//! Disk work of the hot path: open on first use, write, fdatasync, read, each finished whole.

use crate::config::WriteStrategy;
use crate::core::ShardCore;
use crate::logfile::{LogHandle, OpenLog, path_of};
use crate::reactor::{Owner, Reactor};
use crate::ring::{Op, OpenFirst, Then};
use crate::send::{is_transient, needs_ring};
use crate::sys::{self, FileSystem};
use bytes::{Bytes, BytesMut};
use flumen_base::LogFile;
use flumen_shard::io::{DiskOp, Input, IoFailure, IoOutput, Token};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How one write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Inline,
    /// As `Inline` if it goes without waiting, else as `Ring`.
    InlineIfFree,
    Ring,
    /// As `Ring`, once the pace lets it begin.
    Paced,
    Uncached,
    Direct,
}

/// Where `auto` writes while the kernel's write-back is behind (docs/adr/0006).
const WHEN_BEHIND: Way = Way::Direct;
/// The same where direct writes have to wait for all that write-back has queued, or nobody knows
/// yet: no faster than the disk writes (docs/adr/0023). Should the kernel's throttle be met all the
/// same, it holds up a worker and not the shard.
const WHEN_BEHIND_A_QUEUE: Way = Way::Paced;
/// Where `auto` writes what is to be on disk before it is acked, if all before it was too.
const WHEN_SYNCED: Way = Way::Direct;
/// How often a file is tried to be opened while there is no descriptor left, and the pause between.
const OPEN_TRIES: u32 = 2_000;
const OPEN_PAUSE: Duration = Duration::from_millis(2);

/// A write of these buffers at a position, and whether it is to be synced.
pub(crate) type LogWrite = (OpenLog, u64, Vec<Bytes>, bool);

pub(crate) fn failure(op: &'static str, file: &LogFile, e: &io::Error) -> IoFailure {
    IoFailure {
        op,
        path: file.path().display().to_string(),
        kind: match e.raw_os_error() {
            // These pass, and say nothing about the disk.
            Some(libc::EMFILE | libc::ENFILE) => io::ErrorKind::ResourceBusy,
            _ => e.kind(),
        },
    }
}

impl<C: ShardCore> Reactor<C> {
    /// Starts a disk operation; it may complete at once.
    pub(crate) fn start_io(&mut self, token: Token, op: DiskOp) {
        match op {
            DiskOp::Write {
                file,
                pos,
                bufs,
                sync,
            } => match OpenLog::new(&file) {
                Some(log) => self.start_write(token, log, pos, bufs, sync),
                None => self.open_first(token, file, Then::Write { pos, bufs, sync }),
            },
            DiskOp::Sync { file } => match OpenLog::new(&file) {
                Some(log) => self.start_sync(token, log),
                None => self.open_first(token, file, Then::Sync),
            },
            DiskOp::Read { file, pos, len } => {
                let len = len as usize;
                match OpenLog::new(&file) {
                    Some(log) => self.start_read(token, log, pos, len),
                    None => self.open_first(token, file, Then::Read { pos, len }),
                }
            }
        }
    }

    fn io_done(&mut self, token: Token, output: IoOutput) {
        self.inputs.push_back(Input::IoDone(token, Ok(output)));
    }

    pub(crate) fn io_failed(
        &mut self,
        token: Token,
        op: &'static str,
        file: &LogFile,
        e: &io::Error,
    ) {
        if let Some(handle) = LogHandle::of(file) {
            // A write that failed half way is cut off again, and others may take its place.
            handle.forget_last_block();
        }
        let failure = failure(op, file, e);
        tracing::error!(op, path = %failure.path, error = %e, "disk operation failed");
        self.inputs.push_back(Input::IoDone(token, Err(failure)));
    }

    /// How a write of so many bytes to this file goes.
    fn way(&self, log: &OpenLog, bytes: usize, sync: bool) -> Way {
        let way = match self.config.write_strategy {
            WriteStrategy::Inline => Way::Inline,
            WriteStrategy::Ring => Way::Ring,
            WriteStrategy::Uncached => Way::Uncached,
            WriteStrategy::Direct => Way::Direct,
            WriteStrategy::Paced(_) => Way::Paced,
            // Nothing is ever written back there.
            WriteStrategy::Auto if log.fs == FileSystem::Tmpfs => Way::Inline,
            WriteStrategy::Auto => match (log.fs, self.is_behind(bytes)) {
                (_, true) if sync || self.lets_direct_pass(log) => WHEN_BEHIND,
                (_, true) => WHEN_BEHIND_A_QUEUE,
                // Not where only every so many are synced: a file should keep to one way.
                (_, false) if sync && log.handle.is_synced() => WHEN_SYNCED,
                // A write here may wait for the journal, in which others' syncs are under way.
                (_, false) if sync => Way::Ring,
                (FileSystem::Xfs, false) => Way::InlineIfFree,
                (_, false) => Way::Inline,
            },
        };
        match way {
            Way::Uncached if !log.handle.takes_uncached() => Way::Ring,
            way => way,
        }
    }

    /// Notes a write; whether write-back is behind.
    fn is_behind(&self, bytes: usize) -> bool {
        self.shared.writeback.note_write(bytes as u64)
    }

    /// Whether direct writes pass what write-back has queued, as far as that is known.
    fn lets_direct_pass(&self, log: &OpenLog) -> bool {
        let dir = || log.file.path().parent().map(Path::to_path_buf);
        let writeback = &self.shared.writeback;
        writeback.lets_direct_pass(|| dir().unwrap_or_default())
    }

    /// Opens the file beside the shard first: making one can take as long as the file system's
    /// journal, and finding one may have to wait for the disk.
    fn open_first(&mut self, token: Token, file: Arc<LogFile>, then: Then) {
        let path = match path_of(&file) {
            Ok(path) => path,
            Err(e) => return self.io_failed(token, "open", &file, &e),
        };
        let first = Box::new(OpenFirst {
            file,
            path,
            tries: 0,
            then,
        });
        self.start_opening(Owner::Disk(token), Op::OpenFirst(first));
    }

    /// Opens a log file, or lets that wait until there is room for it.
    pub(crate) fn start_opening(&mut self, owner: Owner, op: Op) {
        match self.shared.files.begin_opening(self.shared.connections()) {
            true => self.ring.start(owner, op),
            false => {
                self.held_opens.push((owner, op));
                self.open_at.get_or_insert(self.now.mono + OPEN_PAUSE);
            }
        }
    }

    /// Goes on with those that waited.
    pub(crate) fn open_held(&mut self) {
        if self.open_at.is_some_and(|at| at <= self.now.mono) {
            self.open_at = None;
            for (owner, op) in std::mem::take(&mut self.held_opens) {
                self.start_opening(owner, op);
            }
        }
    }

    fn on_opened(&mut self, token: Token, mut first: Box<OpenFirst>, result: io::Result<u32>) {
        let files = &self.shared.files;
        files.end_opening();
        let opened = result.and_then(|fd| OpenLog::put(&first.file, sys::own_file(fd)?, files));
        let log = match opened {
            Ok(log) => log,
            Err(e) if open_again(&e, &mut first.tries) => {
                return self.open_later(Owner::Disk(token), Op::OpenFirst(first));
            }
            Err(e) => {
                let op = match first.then {
                    Then::Write { .. } => "open",
                    Then::Read { .. } => "read",
                    Then::Sync => "fdatasync",
                };
                return self.io_failed(token, op, &first.file, &e);
            }
        };
        match first.then {
            Then::Write { pos, bufs, sync } => {
                self.allocate_space(&log, pos);
                self.start_write(token, log, pos, bufs, sync);
            }
            Then::Read { pos, len } => self.start_read(token, log, pos, len),
            Then::Sync => self.start_sync(token, log),
        }
    }

    /// There was no descriptor left, or the call was interrupted.
    pub(crate) fn open_later(&mut self, owner: Owner, op: Op) {
        self.shared.files.sweep_soon();
        self.held_opens.push((owner, op));
        self.open_at.get_or_insert(self.now.mono + OPEN_PAUSE);
    }

    /// `preallocate`: all that the segment may hold is allocated with its first write. Nobody waits
    /// for it, and where it fails the writes themselves will tell.
    fn allocate_space(&mut self, log: &OpenLog, pos: u64) {
        let space = log.file.space();
        if space > pos && log.fs != FileSystem::Tmpfs {
            log.handle.set_reserved(space);
            let (log, len) = (log_again(log), space - pos);
            let op = Op::Reserve {
                log,
                from: pos,
                len,
            };
            self.ring.start(Owner::Nobody, op);
        }
    }

    fn start_write(&mut self, token: Token, log: OpenLog, pos: u64, bufs: Vec<Bytes>, sync: bool) {
        let total: usize = bufs.iter().map(Bytes::len).sum();
        let way = self.way(&log, total, sync);
        let write = (log, pos, bufs, sync);
        if way == Way::Paced && self.shared.writeback.pace.follows() {
            self.write_at_pace(token, write, total);
        } else {
            self.write_by(way, token, write, total);
        }
    }

    /// Begins a write when its time has come. Write-back of what is before it is asked for in small
    /// pieces, before the kernel does it in large ones.
    fn write_at_pace(&mut self, token: Token, write: LogWrite, len: usize) {
        let (log, pos, ..) = &write;
        if let Some((from, len)) = log.handle.ask_writeback(*pos) {
            let log = log_again(log);
            let op = Op::StartWriteback { log, from, len };
            self.ring.start(Owner::Nobody, op);
        }
        let at = self.shared.writeback.pace.slot(self.now.mono, len);
        match at > self.now.mono {
            true => self.held_writes.hold(at, (token, write, len)),
            false => self.write_by(Way::Paced, token, write, len),
        }
    }

    /// Begins the writes whose time has come.
    pub(crate) fn begin_held_writes(&mut self) {
        while let Some((token, write, len)) = self.held_writes.next_due(self.now.mono) {
            self.write_by(Way::Paced, token, write, len);
        }
    }

    fn write_by(&mut self, mut way: Way, token: Token, mut write: LogWrite, total: usize) {
        if way == Way::Direct {
            match self.start_direct(token, write) {
                Ok(()) => return,
                Err(refused) => (way, write) = (Way::Ring, refused),
            }
        }
        let (log, pos, bufs, sync) = write;
        if sync {
            self.reserve(&log, pos, total as u64);
        }
        let (at, iov) = ((pos, total), &mut self.iov);
        let written = match way {
            Way::Inline => write_here(&log, &bufs, at, iov, 0),
            Way::InlineIfFree => write_here(&log, &bufs, at, iov, libc::RWF_NOWAIT),
            Way::Ring | Way::Paced | Way::Uncached | Way::Direct => Ok(0),
        };
        match written {
            Err(e) => self.io_failed(token, "write", &log.file, &e),
            Ok(skip) if skip < total => {
                self.writes_queued = true;
                let op = Op::Write {
                    by_flag: log.handle.is_synced(),
                    log,
                    pos,
                    bufs,
                    skip,
                    sync,
                    uncached: way == Way::Uncached,
                };
                self.ring.start(Owner::Disk(token), op);
            }
            // A sync does nothing on tmpfs.
            Ok(_) if sync && log.fs != FileSystem::Tmpfs => self.start_sync(token, log),
            Ok(_) => {
                log.handle.set_synced(false);
                self.write_done(token, bufs);
            }
        }
    }

    /// Goes on with a direct write through the page cache.
    pub(crate) fn write_cached(
        &mut self,
        token: Token,
        log: OpenLog,
        (pos, bufs, skip): (u64, Vec<Bytes>, usize),
        sync: bool,
    ) {
        let op = Op::Write {
            log,
            pos,
            bufs,
            skip,
            sync,
            uncached: false,
            by_flag: false,
        };
        self.ring.start(Owner::Disk(token), op);
    }

    /// Has blocks allocated for a write at `pos` whose completion waits for the disk, and ahead of
    /// it, so that its fdatasync finds fewer changes of the file to write down.
    pub(crate) fn reserve(&mut self, log: &OpenLog, pos: u64, len: u64) {
        let (end, most) = (pos + len, self.config.allocate_ahead_max);
        let wanted = match (log.file.is_segment(), log.fs) {
            // The metadata log: topics must be deletable where the disk is full.
            (false, _) => log.handle.keep_ahead(end),
            (true, FileSystem::Tmpfs) => None,
            (true, _) => log.handle.reserve(pos..end, log.file.expected(), most),
        };
        if let Some((from, len)) = wanted {
            let log = log_again(log);
            self.ring
                .start(Owner::Nobody, Op::Reserve { log, from, len });
        }
    }

    fn start_sync(&mut self, token: Token, log: OpenLog) {
        self.ring.start(Owner::Disk(token), Op::Sync { log });
    }

    fn write_done(&mut self, token: Token, bufs: Vec<Bytes>) {
        self.io_done(token, IoOutput::Written(bufs));
    }

    /// All of a write is written; `sync_result` is that of the fdatasync linked to it.
    pub(crate) fn write_ended(
        &mut self,
        token: Token,
        log: OpenLog,
        bufs: Vec<Bytes>,
        sync: bool,
        sync_result: Option<io::Result<u32>>,
    ) {
        match sync_result {
            None | Some(Ok(_)) => {
                log.handle.set_synced(sync);
                self.write_done(token, bufs);
            }
            // The link was cut, or the sync interrupted, although the write is whole: sync by
            // itself.
            Some(Err(e)) if is_transient(&e) || e.raw_os_error() == Some(libc::ECANCELED) => {
                self.start_sync(token, log);
            }
            Some(Err(e)) => self.io_failed(token, "fdatasync", &log.file, &e),
        }
    }

    fn start_read(&mut self, token: Token, log: OpenLog, pos: u64, len: usize) {
        let mut buf = BytesMut::with_capacity(len);
        while buf.len() < len {
            let (missing, at) = (len - buf.len(), pos + buf.len() as u64);
            match sys::read_resident(log.as_fd(), log.fs, &mut buf, missing, at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if needs_ring(&e) => {
                    let op = Op::Read {
                        log,
                        pos: at,
                        buf,
                        len: missing,
                    };
                    return self.ring.start(Owner::Disk(token), op);
                }
                Err(e) => return self.io_failed(token, "read", &log.file, &e),
            }
        }
        self.io_done(token, IoOutput::Read(buf.freeze()));
    }

    /// A disk operation on the ring ended: short and interrupted ones go on.
    pub(crate) fn on_disk(
        &mut self,
        token: Token,
        op: Op,
        result: io::Result<u32>,
        sync_result: Option<io::Result<u32>>,
    ) {
        match op {
            Op::Sync { log } => match result {
                Ok(_) => self.io_done(token, IoOutput::Done),
                Err(e) if is_transient(&e) => {
                    self.ring.start(Owner::Disk(token), Op::Sync { log });
                }
                Err(e) => self.io_failed(token, "fdatasync", &log.file, &e),
            },
            Op::Read { log, pos, buf, len } => match result {
                Ok(n) if n == 0 || n as usize == len => {
                    self.io_done(token, IoOutput::Read(buf.freeze()));
                }
                Err(e) if !is_transient(&e) => self.io_failed(token, "read", &log.file, &e),
                partial => {
                    let n = partial.unwrap_or(0) as usize;
                    let op = Op::Read {
                        log,
                        pos: pos + n as u64,
                        buf,
                        len: len - n,
                    };
                    self.ring.start(Owner::Disk(token), op);
                }
            },
            Op::Write {
                log,
                pos,
                bufs,
                skip,
                sync,
                uncached,
                by_flag,
            } => {
                let write = (log, pos, bufs, skip);
                let how = (sync, uncached, by_flag);
                self.on_write(token, write, how, (result, sync_result));
            }
            Op::WriteDirect(piece) => self.on_direct(token, *piece, result, sync_result),
            Op::OpenFirst(first) => self.on_opened(token, first, result),
            _ => {}
        }
    }

    fn on_write(
        &mut self,
        token: Token,
        (log, pos, bufs, mut skip): (OpenLog, u64, Vec<Bytes>, usize),
        (sync, mut uncached, by_flag): (bool, bool, bool),
        (result, sync_result): (io::Result<u32>, Option<io::Result<u32>>),
    ) {
        match result {
            Ok(0) => {
                let e = io::ErrorKind::WriteZero.into();
                return self.io_failed(token, "write", &log.file, &e);
            }
            Ok(n) => skip += n as usize,
            Err(e) if is_transient(&e) => {}
            Err(e) if uncached && e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                uncached = false;
                log.handle.refuse_uncached();
            }
            Err(e) => return self.io_failed(token, "write", &log.file, &e),
        }
        if skip < bufs.iter().map(Bytes::len).sum() {
            let op = Op::Write {
                log,
                pos,
                bufs,
                skip,
                sync,
                uncached,
                by_flag,
            };
            return self.ring.start(Owner::Disk(token), op);
        }
        self.write_ended(token, log, bufs, sync, sync_result);
    }
}

/// Whether to try again to open a file: there was no descriptor left, and others are being closed.
pub(crate) fn open_again(e: &io::Error, tries: &mut u32) -> bool {
    if is_transient(e) {
        return true;
    }
    *tries += 1;
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && *tries < OPEN_TRIES
}

fn log_again(log: &OpenLog) -> OpenLog {
    OpenLog {
        file: Arc::clone(&log.file),
        handle: Arc::clone(&log.handle),
        fs: log.fs,
    }
}

/// Writes `bufs`, with RWF_NOWAIT as `flags` only what goes without waiting for a lock, for memory
/// or for the kernel's throttle, or where nothing but the inode's times can be what it would wait
/// for. Gives how many bytes that were.
fn write_here(
    log: &OpenLog,
    bufs: &[Bytes],
    (pos, total): (u64, usize),
    iov: &mut Vec<libc::iovec>,
    mut flags: libc::c_int,
) -> io::Result<usize> {
    let mut skip = 0;
    while skip < total {
        match sys::write_some(log.as_fd(), bufs, (skip, pos + skip as u64), iov, flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => skip += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if flags == 0 || !needs_ring(&e) => return Err(e),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && log.may_be_its_times() => flags = 0,
            Err(_) => break,
        }
    }
    Ok(skip)
}
