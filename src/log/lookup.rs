//! Offsets by time (ListOffsets), as a job over the disk.

use flumen_base::{Disk, LeaderEpoch, Offset};
use std::io;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The first record with this timestamp or a later one.
    Timestamp(i64),
    /// The first record among those with the largest timestamp (-3).
    MaxTimestamp,
}

/// A record found by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// The record's own timestamp in milliseconds.
    pub timestamp: i64,
    /// Its offset.
    pub offset: Offset,
    /// The leader epoch of its batch, -1 if unknown.
    pub leader_epoch: LeaderEpoch,
}

/// The job, made by [`crate::Log::lookup`].
#[derive(Debug)]
pub struct TimestampLookup {}

impl TimestampLookup {
    /// Does it; `None` when no record qualifies.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Option<TimestampOffset>> {
        let _ = disk;
        todo!()
    }
}
