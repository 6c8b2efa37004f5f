//! What a log does about a disk that is full: a write that found no room is cut off again, exactly,
//! and the log goes on; work that could not be done is done later.
//!
//! ```text
//! write_done(false): everything staged is taken back, no appends
//!   -> cut_job: the file ends again where it did -> cut_done: appends
//! ```

use crate::jobs::SEAL_RETRY_MS;
use crate::log::Log;
use crate::segment::SegmentState;
use flumen_base::{Disk, Mono, OpenMode};
use std::io;
use std::path::PathBuf;

/// Cuts off what a failed write has left behind the end of a segment.
#[derive(Debug)]
pub struct CutJob {
    path: PathBuf,
    len: u64,
}

impl CutJob {
    /// Does it: after this a crash finds nothing of the write either.
    pub fn run(self, disk: &dyn Disk) -> io::Result<()> {
        let file = match disk.open(&self.path, OpenMode::ReadWrite) {
            // The write failed because it could not be made.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        if file.len()? > self.len {
            file.set_len(self.len)?;
            file.sync()?;
        }
        Ok(())
    }
}

impl Log {
    /// After a write that failed without harm to the disk: the job that removes what came to the
    /// file. Until [`Log::cut_done`] there are no appends. `None` if no write has failed.
    pub fn cut_job(&self) -> Option<CutJob> {
        // All later segments were staged only, and have been taken back.
        let segment = self.segments.back().filter(|_| self.failed)?;
        Some(CutJob {
            path: segment.file.path().to_owned(),
            len: segment.written,
        })
    }

    /// The file ends where the log does: it takes appends again.
    pub fn cut_done(&mut self) {
        self.failed = false;
    }

    /// Takes back what waits for a segment's name on disk, which can't come for want of room; true
    /// if there was something. Answer all waiting appends then.
    pub fn take_back_staged(&mut self) -> bool {
        let waits = self.waits_for_name();
        if waits {
            self.revert();
            self.failed = false; // nothing was written
        }
        waits
    }

    /// The seal job found no room: it is due again after a while.
    pub fn seal_postponed(&mut self, now: Mono) {
        let sealing = |s: &&mut crate::segment::Segment| s.state == SegmentState::Sealing;
        if let Some(segment) = self.segments.iter_mut().find(sealing) {
            segment.state = SegmentState::Rolled;
            segment.rolled = now.plus_ms(SEAL_RETRY_MS);
        }
    }

    /// Whether its close job has been taken.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
#[path = "cut_test.rs"]
mod tests;
