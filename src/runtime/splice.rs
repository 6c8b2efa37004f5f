//! Pipes for splicing: pooled, because making one costs system calls and pages, and capped, because
//! a user may own only so many pipe pages (16,384 by default).

use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Capacity of a pipe in bytes, and so the most that one splice moves.
pub(crate) const PIPE_BYTES: usize = 256 << 10;
/// Pipes of one shard at a time; a connection that gets none sends by copying.
const PIPES_MAX: usize = 32;
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
