//! Work beside the hot path: plain data, made by [`crate::Log`] and run off the core with a [`Disk`].

use flumen_base::{Disk, Offset};
use std::io;
use std::path::PathBuf;

/// Finishes a rolled segment: syncs it, writes its indexes and the producer snapshot of its end.
#[derive(Debug)]
pub struct SealJob {}

/// A sealed segment.
#[derive(Debug)]
pub struct Sealed {
    pub(crate) base_offset: Offset,
}

impl SealJob {
    /// Does it.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Sealed> {
        let _ = disk;
        todo!()
    }
}

/// Writes `leader-epoch-checkpoint`.
#[derive(Debug)]
pub struct EpochJob {}

impl EpochJob {
    /// Does it.
    pub fn run(self, disk: &dyn Disk) -> io::Result<()> {
        let _ = disk;
        todo!()
    }
}

/// Renames the files of dropped segments to `.deleted`.
#[derive(Debug)]
pub struct DeleteJob {}

/// Segments whose files wait to be unlinked.
#[derive(Debug)]
pub struct Deleted {
    /// The job for it.
    pub unlink: UnlinkJob,
    /// Run it so many milliseconds later (`file.delete.delay.ms`).
    pub delay_ms: i64,
}

impl DeleteJob {
    /// Does it.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Deleted> {
        let _ = disk;
        todo!()
    }
}

/// Unlinks files.
#[derive(Debug)]
pub struct UnlinkJob {
    pub(crate) paths: Vec<PathBuf>,
}

impl UnlinkJob {
    /// Does it. A file that is gone already is fine.
    pub fn run(self, disk: &dyn Disk) -> io::Result<()> {
        let _ = disk;
        todo!()
    }
}

/// Clean shutdown of one log.
#[derive(Debug)]
pub struct CloseJob {}

/// A closed log.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// For `recovery-point-offset-checkpoint`.
    pub recovery_point: Offset,
}

impl CloseJob {
    /// Does it.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Closed> {
        let _ = disk;
        todo!()
    }
}
