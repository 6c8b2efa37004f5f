//! Disk work of the hot path: open on first use, write, fdatasync, read, each finished whole.

use crate::config::WriteStrategy;
use crate::core::ShardCore;
use crate::reactor::{Owner, Reactor};
use crate::ring::{LogHandle, Op, OpenLog};
use crate::send::{is_cold, is_transient};
use crate::sys::{self, FileSystem};
use bytes::{Bytes, BytesMut};
use flumen_base::LogFile;
use flumen_shard::io::{DiskOp, Input, IoFailure, IoOutput, Token};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How one write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Inline,
    Ring,
    Uncached,
    Direct,
}

/// Where `auto` writes while the kernel's write-back is behind (docs/adr/0006).
const WHEN_BEHIND: Way = Way::Uncached;

/// The open file, opened (with `create`: made) where it is not open yet.
pub(crate) fn open(file: &Arc<LogFile>, create: bool) -> io::Result<OpenLog> {
    if file.handle().get().is_none() {
        let opened = sys::open_log(file.path(), create)?;
        // Another shard may have been quicker; then ours is closed again.
        let _ = file.handle().set(Box::new(LogHandle::new(opened)?));
    }
    OpenLog::new(file).ok_or_else(|| io::Error::other("the handle of a log file is not a file"))
}

fn failure(op: &'static str, file: &LogFile, e: &io::Error) -> IoFailure {
    IoFailure {
        op,
        path: file.path().display().to_string(),
        kind: e.kind(),
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
            } => match open(&file, true) {
                Ok(log) => self.start_write(token, log, pos, bufs, sync),
                Err(e) => self.io_failed(token, "write", &file, &e),
            },
            DiskOp::Sync { file } => match open(&file, true) {
                Ok(log) => self.ring.start(Owner::Disk(token), Op::Sync { log }),
                Err(e) => self.io_failed(token, "fdatasync", &file, &e),
            },
            DiskOp::Read { file, pos, len } => match open(&file, false) {
                Ok(log) => self.start_read(token, log, pos, len as usize),
                Err(e) => self.io_failed(token, "read", &file, &e),
            },
        }
    }

    fn io_done(&mut self, token: Token, output: IoOutput) {
        self.inputs.push_back(Input::IoDone(token, Ok(output)));
    }

    fn io_failed(&mut self, token: Token, op: &'static str, file: &LogFile, e: &io::Error) {
        let failure = failure(op, file, e);
        tracing::error!(op, path = %failure.path, error = %e, "disk operation failed");
        self.inputs.push_back(Input::IoDone(token, Err(failure)));
    }

    /// How a write to this file goes.
    fn way(&self, log: &OpenLog) -> Way {
        let way = match self.config.write_strategy {
            WriteStrategy::Inline => Way::Inline,
            WriteStrategy::Ring => Way::Ring,
            WriteStrategy::Uncached => Way::Uncached,
            WriteStrategy::Direct => Way::Direct,
            WriteStrategy::Auto => match (log.fs, self.shared.writeback.note_write()) {
                // Nothing is ever written back there.
                (FileSystem::Tmpfs, _) => Way::Inline,
                (_, true) => WHEN_BEHIND,
                (FileSystem::Xfs, false) => Way::Ring,
                (_, false) => Way::Inline,
            },
        };
        let refuses_uncached = |h: &LogHandle| h.refuses_uncached.load(Ordering::Relaxed);
        match way {
            Way::Uncached if log.handle().is_some_and(refuses_uncached) => Way::Ring,
            way => way,
        }
    }

    fn start_write(&mut self, token: Token, log: OpenLog, pos: u64, bufs: Vec<Bytes>, sync: bool) {
        let total: usize = bufs.iter().map(Bytes::len).sum();
        let way = self.way(&log);
        if way == Way::Inline || total == 0 {
            return match write_inline(&log, &bufs, pos, total) {
                Err(e) => self.io_failed(token, "write", &log.file, &e),
                Ok(()) if sync => self.ring.start(Owner::Disk(token), Op::Sync { log }),
                Ok(()) => self.io_done(token, IoOutput::Done),
            };
        }
        let op = Op::Write {
            log,
            pos,
            bufs,
            skip: 0,
            sync,
            uncached: way == Way::Uncached,
        };
        self.ring.start(Owner::Disk(token), op);
    }

    fn start_read(&mut self, token: Token, log: OpenLog, pos: u64, len: usize) {
        let mut buf = BytesMut::with_capacity(len);
        while buf.len() < len {
            let (missing, at) = (len - buf.len(), pos + buf.len() as u64);
            match sys::read_resident(log.as_fd(), log.fs, &mut buf, missing, at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_cold(&e) => {
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
            } => {
                let write = (log, pos, bufs, skip, sync, uncached);
                self.on_write(token, write, result, sync_result);
            }
            _ => {}
        }
    }

    fn on_write(
        &mut self,
        token: Token,
        (log, pos, bufs, mut skip, sync, mut uncached): (
            OpenLog,
            u64,
            Vec<Bytes>,
            usize,
            bool,
            bool,
        ),
        result: io::Result<u32>,
        sync_result: Option<io::Result<u32>>,
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
                if let Some(handle) = log.handle() {
                    handle.refuses_uncached.store(true, Ordering::Relaxed);
                }
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
            };
            return self.ring.start(Owner::Disk(token), op);
        }
        match sync_result {
            None | Some(Ok(_)) => self.io_done(token, IoOutput::Done),
            // The link was cut, or the sync interrupted, although the write is whole: sync by
            // itself.
            Some(Err(e)) if is_transient(&e) || e.raw_os_error() == Some(libc::ECANCELED) => {
                self.ring.start(Owner::Disk(token), Op::Sync { log });
            }
            Some(Err(e)) => self.io_failed(token, "fdatasync", &log.file, &e),
        }
    }
}

fn write_inline(log: &OpenLog, bufs: &[Bytes], pos: u64, total: usize) -> io::Result<()> {
    let mut iov = Vec::new();
    let mut skip = 0;
    while skip < total {
        match sys::write_some(log.as_fd(), bufs, skip, pos + skip as u64, &mut iov) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => skip += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
