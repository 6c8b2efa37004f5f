//! Largest timestamps of segments that were found at start. They come from the ends of time
//! indexes, which have no checksum; retention would delete by them, and lookups pass segments over.
//! So before the first such use each is held against the batch it names.

use crate::index::{decode_offsets, floor_in};
use crate::log::Log;
use crate::lookup::{position_of, unless_gone};
use crate::segment::{INDEX_SUFFIX, LOG_SUFFIX, Segment, relative, segment_path};
use crate::trusted::{INDEX_FILE_MAX, is_largest};
use crate::walk::{Rules, Slice, Walk};
use flumen_base::{Disk, DiskFile, OpenMode};
use std::io;
use std::path::PathBuf;

/// Looks at the largest timestamps of some segments.
#[derive(Debug, Default)]
pub struct TimesJob {
    dir: PathBuf,
    segments: Vec<Claim>,
}

/// A segment's largest timestamp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    base_offset: i64,
    size: u64,
    pub(crate) timestamp: i64,
    offset: i64,
}

/// What was found true.
#[derive(Debug, Default)]
pub struct CheckedTimes(Vec<Claim>);

impl Claim {
    fn of(segment: &Segment) -> Self {
        Self {
            base_offset: segment.base_offset,
            size: segment.mark.size,
            timestamp: segment.mark.max_timestamp,
            offset: segment.mark.max_timestamp_offset,
        }
    }
}

impl TimesJob {
    /// Does it.
    pub fn run(self, disk: &dyn Disk) -> io::Result<CheckedTimes> {
        let check = |claim| unless_gone(check(disk, &self.dir, claim).map(Some)).transpose();
        let checked = self.segments.iter().copied().filter_map(check);
        checked.collect::<io::Result<_>>().map(CheckedTimes)
    }

    /// Whether there is nothing to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

impl CheckedTimes {
    /// The largest timestamp of a segment, if it is one of these.
    pub(crate) fn of(&self, base_offset: i64) -> Option<i64> {
        let claim = self.0.iter().find(|c| c.base_offset == base_offset)?;
        Some(claim.timestamp)
    }
}

fn check(disk: &dyn Disk, dir: &std::path::Path, claim: Claim) -> io::Result<Claim> {
    let base = claim.base_offset;
    let file = disk.open(&segment_path(dir, base, LOG_SUFFIX), OpenMode::Read)?;
    let from = match disk.read_all(&segment_path(dir, base, INDEX_SUFFIX), INDEX_FILE_MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        bytes => {
            let entries: Vec<_> = decode_offsets(&bytes?).collect();
            position_of(floor_in(&entries, relative(claim.offset, base)).0)
        }
    };
    let said = (claim.offset, claim.timestamp);
    if is_largest(&*file, (from, claim.size), said)? {
        return Ok(claim);
    }
    walk_all(&*file, claim)
}

/// The time index is wrong: all headers tell.
fn walk_all(file: &dyn DiskFile, claim: Claim) -> io::Result<Claim> {
    let rules = Rules {
        is_last: false,
        point: i64::MAX,
        gaps: true,
        interval: u32::MAX,
    };
    let mut walk = Walk::new(claim.base_offset, rules);
    let mut left = u64::MAX;
    match walk.slice(file, &mut left)? {
        Slice::Damaged(why) => {
            let message = format!(
                "segment {} at byte {}: {why}",
                claim.base_offset, walk.mark.size
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
        Slice::More | Slice::Whole => Ok(Claim {
            timestamp: walk.mark.max_timestamp,
            offset: walk.mark.max_timestamp_offset,
            ..claim
        }),
    }
}

impl Log {
    /// The job that looks at the largest timestamps which were not looked at so far.
    pub(crate) fn times_job(&self) -> TimesJob {
        let unchecked = self.segments.iter().filter(|s| !s.time_checked);
        TimesJob {
            dir: self.dir.clone(),
            segments: unchecked.map(Claim::of).collect(),
        }
    }

    /// The job that [`Log::retention`] waits for, if it does and no such job runs.
    pub fn take_times_job(&mut self) -> Option<TimesJob> {
        if !std::mem::take(&mut self.wants_times) {
            return None;
        }
        Some(self.times_job())
    }

    /// Such a job, or a lookup, has looked.
    pub fn times_checked(&mut self, checked: &CheckedTimes) {
        for claim in &checked.0 {
            if let Some(index) = self.segment_index(claim.base_offset)
                && let Some(segment) = self.segments.get_mut(index)
                && !segment.time_checked
            {
                segment.time_checked = true;
                segment.mark.max_timestamp = claim.timestamp;
                segment.mark.max_timestamp_offset = claim.offset;
            }
        }
    }
}
