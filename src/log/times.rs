//! Largest timestamps of segments that were found at start. They come from the ends of time
//! indexes, which have no checksum; retention would delete by them, and lookups pass segments over.
//! So before the first such use each is held against the batch it names. That look goes to the end
//! of the file: it finds, too, where batches are lost.

use crate::index::{decode_offsets, floor_in};
use crate::log::Log;
use crate::lookup::{position_of, unless_gone};
use crate::segment::{INDEX_SUFFIX, LOG_SUFFIX, SeenEnd, Segment, relative, segment_path};
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
    timestamp: i64,
    offset: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct CheckedTimes(Vec<Checked>);

#[derive(Clone, Debug)]
struct Checked {
    /// What is true of the batches up to where they end.
    claim: Claim,
    seen: SeenEnd,
    /// What stands there, if it is not the end of the file.
    damage: Option<String>,
}

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
    /// The largest timestamp of a segment and how far its batches go, if it is one of these.
    pub(crate) fn of(&self, base_offset: i64) -> Option<(i64, SeenEnd)> {
        let found = |c: &&Checked| c.claim.base_offset == base_offset;
        let checked = self.0.iter().find(found)?;
        Some((checked.claim.timestamp, checked.seen))
    }
}

fn check(disk: &dyn Disk, dir: &std::path::Path, claim: Claim) -> io::Result<Checked> {
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
    if let Some(offset) = is_largest(&*file, (from, claim.size), said)? {
        let size = claim.size;
        return Ok(Checked {
            claim,
            seen: SeenEnd { size, offset },
            damage: None,
        });
    }
    walk_all(&*file, claim)
}

/// The time index is wrong: all headers tell.
fn walk_all(file: &dyn DiskFile, claim: Claim) -> io::Result<Checked> {
    let rules = Rules {
        is_last: false,
        point: i64::MAX,
        gaps: true,
        interval: u32::MAX,
    };
    let mut walk = Walk::new(claim.base_offset, rules);
    let mut left = u64::MAX;
    let (size, damage) = match walk.slice(file, &mut left)? {
        Slice::Damaged(why) => (walk.mark.size, Some(why)),
        Slice::More | Slice::Whole => (claim.size, None),
    };
    let claim = Claim {
        timestamp: walk.mark.max_timestamp,
        offset: walk.mark.max_timestamp_offset,
        ..claim
    };
    let offset = walk.end;
    Ok(Checked {
        claim,
        seen: SeenEnd { size, offset },
        damage,
    })
}

impl Log {
    /// The job that looks at the largest timestamps which were not looked at so far.
    pub(crate) fn times_job(&self) -> TimesJob {
        let unchecked = self.segments.iter().filter(|s| s.wants_look());
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

    /// Such a job, or a lookup, has looked. By time no segment goes that is damaged: nobody knows
    /// its largest timestamp.
    pub fn times_checked(&mut self, checked: &CheckedTimes) {
        for Checked {
            claim,
            seen,
            damage,
        } in &checked.0
        {
            let Some(index) = self.segment_index(claim.base_offset) else {
                continue; // retention took it
            };
            let Some(segment) = self.segments.get_mut(index).filter(|s| s.wants_look()) else {
                continue;
            };
            segment.seen = Some(*seen);
            if damage.is_none() {
                segment.time_checked = true;
                segment.mark.max_timestamp = claim.timestamp;
                segment.mark.max_timestamp_offset = claim.offset;
            }
            if let Some(why) = damage {
                self.note_damage(claim.base_offset, seen.size, why);
            }
        }
    }
}
