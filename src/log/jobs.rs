//! Work beside the hot path: plain data, made by [`Log`] and run off the core with a [`Disk`].

use crate::checkpoint::ensure_file;
use crate::epoch;
use crate::index;
use crate::log::Log;
use crate::producer_state::ProducerState;
use crate::retire::{DeleteJob, Deleted};
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, Segment, SegmentState, TIME_INDEX_SUFFIX,
    TXN_INDEX_SUFFIX, segment_path,
};
use crate::txn_index::write_txn_index;
use flumen_base::{Disk, DiskFault, DiskFile, Mono, Now, Offset, OpenMode};
use std::io;
use std::path::{Path, PathBuf};

/// How long a rolled segment waits for its seal, milliseconds: what retention takes away by then
/// needs no sync, and most of the rest has been written back without one.
pub const SEAL_DELAY_MS: i64 = 2000;
/// And for another try where the disk was full.
pub(crate) const SEAL_RETRY_MS: i64 = 1000;
/// Between two looks at the size of a log that grows.
const SIZE_CHECK_MS: i64 = 50;
/// Bytes too many that are taken away at the next look. Fewer wait until the last ones were so long
/// ago: small segments go several at a time, as each time costs syncs of the directory.
const EXCESS_BYTES: u64 = 8 << 20;
const SMALL_EXCESS_MS: i64 = 200;
/// Entries of the newest segments' indexes that a log keeps in memory, 12 bytes each.
const INDEX_ENTRIES_KEPT: usize = 4096;

/// Finishes a rolled segment: syncs it, writes its indexes and the producer snapshot of its end.
#[derive(Debug)]
pub struct SealJob {
    dir: PathBuf,
    base_offset: i64,
    files: SegmentFiles,
    /// Offset and content of the producer snapshot.
    snapshot: Option<(i64, Vec<u8>)>,
    /// Base of the segment that follows: its file is made, so that the log's end survives without
    /// records in it.
    next_base: i64,
    /// That file is to be made, and its name to be on disk, before all else: a synced write waits.
    name_first: bool,
    /// [`SizeCheck::retired`], if no retirement was running.
    retired: Option<u64>,
}

/// The indexes of one segment, ready to be written.
#[derive(Debug)]
struct SegmentFiles {
    /// Bytes of records: behind them may stand the padding of a direct write.
    len: u64,
    /// `None` if the file on disk is complete.
    index: Option<Vec<u8>>,
    times: Vec<u8>,
    /// Empty: no transaction was rolled back in it, and it has no such file.
    aborted: Vec<u8>,
}

impl SegmentFiles {
    fn of(segment: &Segment) -> Self {
        Self {
            len: segment.mark.size,
            index: segment.index.encode(),
            times: index::encode_times(&segment.times),
            aborted: segment.aborted.encode(),
        }
    }

    /// Syncs the records first: an index never points at what is not there.
    fn write(&self, disk: &dyn Disk, dir: &Path, base_offset: i64) -> io::Result<()> {
        let log = segment_path(dir, base_offset, LOG_SUFFIX);
        let file = disk.open(&log, OpenMode::Create)?;
        // Also gives back what was allocated behind the end.
        let kept = file.len()? * u64::from(planted!(KeepPadding));
        file.set_len(self.len.max(kept))?;
        file.sync()?;
        if let Some(index) = &self.index {
            replace(disk, &segment_path(dir, base_offset, INDEX_SUFFIX), index)?;
            let times = segment_path(dir, base_offset, TIME_INDEX_SUFFIX);
            replace(disk, &times, &self.times)?;
            let aborted = segment_path(dir, base_offset, TXN_INDEX_SUFFIX);
            write_txn_index(disk, &aborted, &self.aborted)?;
        }
        Ok(())
    }
}

/// A sealed segment.
#[derive(Debug)]
pub struct Sealed {
    base_offset: i64,
    next_base: i64,
    retired: Option<u64>,
}

/// How far a [`SealJob`] has come.
#[derive(Debug)]
pub enum SealStep {
    /// The name of the segment that follows is on disk: [`Log::seal_named`]. The rest is to be run.
    Named(SealJob),
    /// It is done.
    Sealed(Sealed),
}

impl SealJob {
    /// Whether its next step is the one that a synced write waits for.
    pub fn is_awaited(&self) -> bool {
        self.name_first
    }

    /// Does it, or its first step.
    pub fn run(mut self, disk: &dyn Disk) -> io::Result<SealStep> {
        let next = segment_path(&self.dir, self.next_base, LOG_SUFFIX);
        if std::mem::take(&mut self.name_first) {
            ensure_file(disk, &next)?;
            disk.sync_dir(&self.dir)?;
            return Ok(SealStep::Named(self));
        }
        self.files.write(disk, &self.dir, self.base_offset)?;
        if let Some((offset, bytes)) = &self.snapshot {
            let path = segment_path(&self.dir, *offset, SNAPSHOT_SUFFIX);
            replace(disk, &path, bytes)?;
        }
        ensure_file(disk, &next)?;
        disk.sync_dir(&self.dir)?;
        Ok(SealStep::Sealed(Sealed {
            base_offset: self.base_offset,
            next_base: self.next_base,
            retired: self.retired,
        }))
    }
}

/// When retention looked at the size of a growing log.
#[derive(Debug)]
pub(crate) struct SizeCheck {
    /// Base offset of what was the active segment.
    active: i64,
    /// Not before this time again.
    next: Mono,
    /// Not before this time again for less than [`EXCESS_BYTES`].
    next_small: Mono,
    /// A job of [`Log::retention`] runs: it would make files again that a later one has removed.
    retiring: bool,
    /// How many of these jobs there were.
    retired: u64,
    /// They took segments that were not synced, whose names may come back when the power goes:
    /// until they can't the recovery point does not pass them.
    pub(crate) unsealed: bool,
}

impl Default for SizeCheck {
    fn default() -> Self {
        Self {
            active: -1,
            next: Mono(0),
            next_small: Mono(0),
            retiring: false,
            retired: 0,
            unsealed: false,
        }
    }
}

/// Clean shutdown of one log: everything synced, all indexes and a snapshot of the end written.
#[derive(Debug)]
pub struct CloseJob {
    dir: PathBuf,
    files: Vec<(i64, SegmentFiles)>,
    snapshot: (i64, Vec<u8>),
    epochs: String,
}

/// A closed log.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// For `recovery-point-offset-checkpoint`.
    pub recovery_point: Offset,
}

impl CloseJob {
    /// Does it.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Closed> {
        let skipped = self.files.len() * usize::from(planted!(CloseWithoutSync));
        for (base_offset, files) in self.files.iter().skip(skipped) {
            files.write(disk, &self.dir, *base_offset)?;
        }
        let (end, snapshot) = &self.snapshot;
        let path = segment_path(&self.dir, *end, SNAPSHOT_SUFFIX);
        replace(disk, &path, snapshot)?;
        disk.write_atomic(&self.dir.join(epoch::FILE_NAME), self.epochs.as_bytes())?;
        Ok(Closed {
            recovery_point: Offset(*end),
        })
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    DiskFault::of(error.kind()) == DiskFault::Full
}

/// The result of taking away what may be gone already.
pub(crate) fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes a file as a whole and syncs it. A crash in between leaves it torn: recovery does not
/// trust these files beyond what their segment needs.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(disk, path, bytes)?.sync()
}

pub(crate) fn write_whole(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
) -> io::Result<Box<dyn DiskFile>> {
    let file = disk.open(path, OpenMode::Create)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    Ok(file)
}

impl Log {
    /// When the oldest rolled segment is to be sealed: its index, and the time, which has come
    /// where synced writes may wait for its seal.
    fn next_seal(&self) -> Option<(usize, Mono)> {
        if self.closed {
            return None; // the close job does it
        }
        // Segments are sealed in order, so those to come stand at the end.
        let sealed = |s: &Segment| s.state == SegmentState::Sealed;
        let index = self.segments.iter().rposition(sealed).map_or(0, |n| n + 1);
        let segment = self.segments.get(index)?;
        if segment.state != SegmentState::Rolled || segment.written < segment.mark.size {
            return None;
        }
        let delay = match self.flushes_never() {
            true => SEAL_DELAY_MS,
            false => 0,
        };
        Some((index, segment.rolled.plus_ms(delay)))
    }

    /// Whether it has not promised to sync.
    fn flushes_never(&self) -> bool {
        (self.config.flush_messages, self.config.flush_ms) == (i64::MAX, i64::MAX)
    }

    /// When [`Log::take_seal_job`] will have a job, as far as that is known.
    pub fn seal_due(&self) -> Option<Mono> {
        self.next_seal().map(|(_, due)| due)
    }

    /// The job that finishes the oldest rolled segment (sync, indexes, producer snapshot), if there
    /// is one, its time has come, all of it and the file of epochs are written, and none runs.
    pub fn take_seal_job(&mut self, now: Mono) -> Option<SealJob> {
        let (index, due) = self.next_seal()?;
        if due > now || self.epochs_behind() {
            return None; // the recovery point must not pass an epoch that is not on disk
        }
        let next = self.segments.get(index + 1)?;
        let (next_base, next_named) = (next.base_offset, next.named);
        let segment = self.segments.get_mut(index)?;
        // Where all before it is on disk, nothing but its name is missing for a synced write. All
        // segments before this one are sealed.
        let name_first = !next_named && segment.synced == segment.mark.size;
        segment.state = SegmentState::Sealing;
        // Kept until it is written: there may be no room.
        let mut snapshot = segment.roll_snapshot.clone();
        if planted!(LateSnapshot) {
            snapshot = Some(self.producers.encode());
        }
        Some(SealJob {
            dir: self.dir.clone(),
            base_offset: segment.base_offset,
            files: SegmentFiles::of(segment),
            snapshot: snapshot.map(|bytes| (next_base, bytes)),
            next_base,
            name_first,
            retired: (!self.size_check.retiring).then_some(self.size_check.retired),
        })
    }

    /// The first step of a seal job has ended: writes may have waited for the name
    /// ([`Log::take_write`]).
    pub fn seal_named(&mut self, job: &SealJob) {
        self.name(job.next_base);
    }

    /// The name of the segment that begins here is on disk.
    fn name(&mut self, base_offset: i64) {
        let index = self.segment_index(base_offset);
        if let Some(segment) = index.and_then(|index| self.segments.get_mut(index)) {
            segment.named = true;
        }
    }

    /// The seal job has ended. A failure fails the log.
    pub fn seal_done(&mut self, result: io::Result<Sealed>) {
        let Ok(sealed) = result else {
            self.failed = true;
            return;
        };
        if let Some(index) = self.segment_index(sealed.base_offset)
            && let Some(segment) = self.segments.get_mut(index)
        {
            segment.state = SegmentState::Sealed;
            segment.roll_snapshot = None;
            segment.times = Vec::new();
            self.thin_indexes();
        }
        self.name(sealed.next_base);
        if sealed.retired == Some(self.size_check.retired) {
            self.size_check.unsealed = false; // it has synced the directory
        }
        self.advance_recovery_point();
    }

    /// A job of [`Log::retention`] has ended. If it failed to put the name of the first segment
    /// that stays on disk, the log fails.
    pub fn retire_done(&mut self, result: &io::Result<Deleted>) {
        self.size_check.retiring = false;
        match result {
            Ok(deleted) => {
                for segment in &mut self.segments {
                    segment.named |= segment.base_offset <= deleted.named_to;
                }
                self.size_check.unsealed &= !deleted.synced;
                self.advance_recovery_point();
            }
            Err(_) => {
                let first = self.segments.front();
                self.failed |= first.is_some_and(|first| !first.named);
            }
        }
    }

    /// Keeps samples only of all but the newest segments' indexes: readers that are a little behind
    /// find their way without the disk.
    pub(crate) fn thin_indexes(&mut self) {
        let mut kept = 0;
        for segment in self.segments.iter_mut().rev() {
            kept += segment.index.len();
            if kept > INDEX_ENTRIES_KEPT && segment.state == SegmentState::Sealed {
                segment.index.thin();
            }
        }
    }

    /// DeleteRecords: nothing below `offset` may be read any more. At most the high watermark,
    /// which the caller checks. True when it moved. [`Log::retention`] then lets the segments below
    /// it go.
    pub fn advance_log_start(&mut self, offset: Offset) -> bool {
        if offset.0 <= self.log_start || offset.0 > self.written_end {
            return false;
        }
        self.log_start = offset.0;
        self.epochs_dirty |= self.epochs.truncate_start(offset.0);
        true
    }

    /// Takes the segments that retention (log start offset, size, time) lets go out of the log, and
    /// returns the job that removes their files. Only what is below `high_watermark` goes. When all
    /// may go, the active segment is rolled first. By time go those only whose largest timestamp
    /// was looked at: [`Log::take_times_job`].
    pub fn retention(&mut self, now: Now, high_watermark: Offset) -> Option<DeleteJob> {
        let by_time = self.config.cleanup_policy.delete && self.config.retention_ms >= 0;
        self.wants_times |= by_time && self.segments.iter().any(Segment::wants_look);
        let count = self.count_to_delete(now, high_watermark.0);
        if count == 0 || self.closed || self.size_check.retiring {
            return None; // or the close job would make files again that are gone
        }
        if count == self.segments.len() {
            self.roll(now);
        }
        let mut snapshot = None;
        let (mut gone, mut files) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for segment in self.segments.drain(..count) {
            self.size_check.unsealed |= segment.state != SegmentState::Sealed;
            gone.push(segment.base_offset);
            files.push(segment.file);
            snapshot = segment.roll_snapshot;
        }
        // Without one there are no producers either.
        snapshot = snapshot.filter(|bytes| *bytes != ProducerState::default().encode());
        let (first, kept_named) = self.segments.front().map(|s| (s.base_offset, s.named))?;
        if first > self.log_start {
            self.log_start = first;
            // No new file for that: loading cuts the epochs at the log's start as well.
            self.epochs.truncate_start(first);
        }
        self.advance_recovery_point();
        self.size_check.retiring = true;
        self.size_check.retired += 1;
        // Nothing was promised to be on disk, and another job is to come: the seal or the
        // retirement of the first that stays.
        let sync_later = self.config.file_delete_delay_ms == 0
            && self.flushes_never()
            && (self.segments.front()).is_some_and(|s| s.state == SegmentState::Rolled);
        let made = self.segments.iter().take_while(|s| s.written > 0).last();
        Some(DeleteJob {
            made_to: made.map_or(-1, |s| s.base_offset),
            dir: self.dir.clone(),
            bases: gone,
            kept_base: first,
            kept_named,
            sync_later,
            snapshot: snapshot.map(|bytes| (first, bytes)),
            unsealed: self.size_check.unsealed,
            delay_ms: self.config.file_delete_delay_ms,
            files,
        })
    }

    /// Whether what is written is so much more than `retention.bytes` that a segment may go, and
    /// that has not been said since the last roll. Looked at as the log grows, at most so often,
    /// and not only each `log.retention.check.interval.ms`: a log that grows by its own size within
    /// that time would hold many times of what it may.
    pub fn is_over_size(&mut self, now: Mono) -> bool {
        let active = self.segments.back().map_or(-1, |s| s.base_offset);
        let check = &mut self.size_check;
        if active == check.active || now < check.next || self.config.retention_bytes < 0 {
            return false;
        }
        check.next = now.plus_ms(SIZE_CHECK_MS);
        let (most, first) = (self.config.retention_bytes as u64, self.segments.front());
        let kept: u64 = self.segments.iter().skip(1).map(|s| s.written).sum();
        let excess = (kept + first.map_or(0, |s| s.written)).saturating_sub(most);
        let soon = excess >= EXCESS_BYTES || now >= check.next_small;
        let over = self.config.cleanup_policy.delete && kept >= most && soon;
        if over {
            check.active = active; // else it may yet be: more is about to be written
            check.next_small = now.plus_ms(SMALL_EXCESS_MS);
        }
        over
    }

    /// How many of the oldest segments may go.
    fn count_to_delete(&self, now: Now, high_watermark: i64) -> usize {
        let policy = self.config.cleanup_policy;
        let by_start = |s: &Segment, next: Option<i64>| {
            let eager = planted!(RetentionEager) && s.base_offset < self.log_start;
            next.is_some_and(|next| next <= self.log_start || eager)
        };
        let mut count = self.count_while(0, high_watermark, by_start);
        if !policy.delete {
            return count;
        }
        if self.config.retention_bytes >= 0 {
            // What is staged does not count: it is taken back if its write finds no room.
            let kept: u64 = self.segments.range(count..).map(|s| s.written).sum();
            let mut excess = kept as i64 - self.config.retention_bytes;
            count = self.count_while(count, high_watermark, |s, _| {
                excess -= s.written as i64;
                excess >= 0
            });
        }
        if self.config.retention_ms >= 0 {
            count = self.count_while(count, high_watermark, |s, _| {
                let age = now.wall_ms.saturating_sub(s.largest_timestamp());
                s.time_checked && age > self.config.retention_ms
            });
        }
        count
    }

    fn count_while(
        &self,
        from: usize,
        high_watermark: i64,
        mut may_go: impl FnMut(&Segment, Option<i64>) -> bool,
    ) -> usize {
        let mut count = from;
        for segment in self.segments.range(from..) {
            let next = self.segments.get(count + 1);
            let next = next.map(|s| s.base_offset);
            let empty_active = next.is_none() && segment.mark.size == 0;
            let busy = segment.state == SegmentState::Sealing
                || segment.written < segment.mark.size
                || self.clean.holds(segment.base_offset);
            let below = high_watermark >= next.unwrap_or(self.log_end);
            if empty_active || busy || !below || !may_go(segment, next) {
                break;
            }
            count += 1;
        }
        count
    }

    /// For a clean shutdown, with nothing staged and no job running: the job that syncs the log and
    /// writes all indexes and the producer snapshot. Appends after this are refused: the job cuts
    /// the file where it ends now.
    pub fn close_job(&mut self) -> CloseJob {
        self.closed = true;
        for segment in &mut self.segments {
            if segment.state == SegmentState::Active {
                segment.push_max_time();
            }
        }
        let files = self
            .segments
            .iter()
            .filter(|s| s.state != SegmentState::Sealed)
            .map(|s| (s.base_offset, SegmentFiles::of(s)))
            .collect();
        CloseJob {
            dir: self.dir.clone(),
            files,
            snapshot: (self.written_end, self.producers.encode()),
            epochs: self.epochs.encode(),
        }
    }

    /// The close job has ended well.
    pub fn close_done(&mut self, closed: Closed) {
        self.recovery_point = self.recovery_point.max(closed.recovery_point.0);
    }
}

#[cfg(test)]
#[path = "jobs_test.rs"]
mod tests;
