//! Pipes for splicing: pooled, because making one costs system calls and pages, and capped, because
//! a user may own only so many pipe pages (16,384 by default).

use crate::core::ShardCore;
use crate::logfile::OpenLog;
use crate::reactor::{Owner, Reactor};
use crate::ring::Op;
use crate::send::{Piece, is_transient, short_slice};
use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Capacity of a pipe in bytes, and so the most that one splice moves.
pub(crate) const PIPE_BYTES: usize = 256 << 10;
/// Pipes of one shard at a time; a connection that gets none sends by copying.
const PIPES_MAX: usize = 32;
/// Distance of the residency probes, in bytes.
const PROBE_STEP: u64 = 64 << 10;
/// Pipes kept when idle.
const PIPES_KEPT: usize = 8;

/// A pipe and how many bytes are in it.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// What fits, in bytes.
    pub(crate) capacity: usize,
    /// What is in it, in bytes.
    pub(crate) filled: usize,
}

impl Pipe {
    pub(crate) fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    pub(crate) fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

/// The pipes of one shard.
#[derive(Default)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    out: usize,
}

impl Pipes {
    /// A pipe, or `None` when the cap is reached or the system gives none.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if self.out >= PIPES_MAX {
            return None;
        }
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None => Self::make().ok()?,
        };
        self.out += 1;
        Some(pipe)
    }

    fn make() -> io::Result<Pipe> {
        let (read, write, capacity) = sys::pipe(PIPE_BYTES)?;
        Ok(Pipe {
            read,
            write,
            capacity,
            filled: 0,
        })
    }

    /// Takes a pipe back; one that still holds bytes is closed.
    pub(crate) fn give_back(&mut self, pipe: Pipe) {
        self.out = self.out.saturating_sub(1);
        if pipe.filled == 0 && self.idle.len() < PIPES_KEPT {
            self.idle.push(pipe);
        }
    }
}

impl<C: ShardCore> Reactor<C> {
    /// One step of a splice. True: go on; false: an operation is under way, or the turn's budget is
    /// used up.
    pub(crate) fn step_splice(&mut self, index: u32, budget: &mut usize) -> io::Result<bool> {
        let Some(conn) = self.conns.get(index) else {
            return Ok(false);
        };
        let after = conn.out.pieces.len() > 2; // this slice, its end, and something behind it
        let Some(Piece::File(slice)) = conn.out.pieces.front_mut() else {
            return Ok(false);
        };
        let Some(mut pipe) = conn.out.pipe.take().or_else(|| self.pipes.take()) else {
            conn.out.copy = true;
            return Ok(true);
        };
        if pipe.filled > 0 {
            let more = slice.len > 0 || after;
            let socket = conn.socket.as_fd();
            let result = sys::splice_out(pipe.read_end(), socket, pipe.filled, more);
            if let Ok(n) = result {
                pipe.filled -= n;
            }
            conn.out.pipe = Some(pipe);
            return match result {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {
                    self.touch(index);
                    Ok(true)
                }
                Err(e) if is_transient(&e) => {
                    self.wait_writable(index);
                    Ok(false)
                }
                Err(e) => Err(e),
            };
        }
        if slice.len == 0 {
            conn.out.pieces.pop_front();
            conn.out.copy = false;
            self.pipes.give_back(pipe);
            return Ok(true);
        }
        if *budget == 0 {
            conn.out.pipe = Some(pipe);
            self.go_on_later(index);
            return Ok(false);
        }
        let Some(log) = OpenLog::new(&slice.file) else {
            let file = Arc::clone(&slice.file);
            conn.out.pipe = Some(pipe);
            self.open_slice(index, file)?;
            return Ok(false);
        };
        let len = (slice.len as usize).min(pipe.capacity).min(*budget);
        *budget -= len;
        let file = log.as_fd();
        if sys::is_resident(file, log.fs, slice.pos, len as u64, PROBE_STEP) {
            match sys::splice_in(file, slice.pos, pipe.write_end(), len) {
                Ok(0) => {
                    let file = Arc::clone(&slice.file);
                    self.pipes.give_back(pipe);
                    self.slice_failed(index, &file, &short_slice());
                    return Ok(false);
                }
                Ok(n) => {
                    pipe.filled = n;
                    slice.pos += n as u64;
                    slice.len -= n as u32;
                    conn.out.pipe = Some(pipe);
                    return Ok(true);
                }
                Err(e) if is_transient(&e) => {} // left the page cache since: the ring waits for it
                Err(_) => {
                    conn.out.copy = true; // a plain read will name the error
                    self.pipes.give_back(pipe);
                    return Ok(true);
                }
            }
        }
        let pos = slice.pos;
        conn.out.busy = true;
        conn.ops += 1;
        let op = Op::SpliceIn {
            log,
            pos,
            pipe,
            len,
        };
        self.ring.start(Owner::Conn(index), op);
        Ok(false)
    }

    /// A splice from file to pipe ended.
    pub(crate) fn on_splice_in(&mut self, index: u32, mut pipe: Pipe, result: io::Result<u32>) {
        pipe.filled = result.as_ref().map_or(0, |n| *n as usize);
        let Some(conn) = self.conns.get(index).filter(|conn| !conn.closed) else {
            if let Some(conn) = self.conns.get(index) {
                conn.out.busy = false;
            }
            return self.pipes.give_back(pipe);
        };
        conn.out.busy = false;
        let Some(Piece::File(slice)) = conn.out.pieces.front_mut() else {
            return self.pipes.give_back(pipe);
        };
        match result {
            Ok(0) => {
                let file = Arc::clone(&slice.file);
                self.pipes.give_back(pipe);
                self.slice_failed(index, &file, &short_slice());
            }
            Ok(n) => {
                slice.pos += u64::from(n);
                slice.len -= n;
                conn.out.pipe = Some(pipe);
                self.mark_dirty(index);
            }
            Err(_) => {
                // The file system can't splice, or an error that a plain read will name.
                conn.out.copy = true;
                self.pipes.give_back(pipe);
                self.mark_dirty(index);
            }
        }
    }
}
