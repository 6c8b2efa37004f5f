//! Offsets by time (ListOffsets), as a job over the disk: the time index leads to the offset index,
//! that to a position, and from there batches are read until one qualifies. What a segment has lost
//! is not passed over: its records might have qualified.

use crate::batch::{Batch, BatchError, Records};
use crate::index::{
    Floor, IndexEntry, OFFSET_ENTRY_LEN, OffsetIndex, TIME_ENTRY_LEN, TimeEntry, decode_offsets,
    decode_times, floor_in,
};
use crate::log::Log;
use crate::scan::{Scanned, Scanner, read_whole};
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, SeenEnd, Segment, SegmentState, TIME_INDEX_SUFFIX, relative,
    segment_path,
};
use crate::times::{CheckedTimes, TimesJob};
use crate::trusted::{find_batch, time_fits};
use flumen_base::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use flumen_base::{Disk, DiskFile, LeaderEpoch, Offset, OpenMode};
use std::cmp::Reverse;
use std::io;
use std::path::PathBuf;

/// Largest index file that is read: `segment.index.bytes` may not be set higher than this in
/// Kafka's practice.
const INDEX_FILE_MAX: u64 = 1 << 30;

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

/// The job, made by [`Log::lookup`].
#[derive(Debug)]
pub struct TimestampLookup {
    dir: PathBuf,
    target: Target,
    log_start: i64,
    upper_bound: i64,
    segments: Vec<SegmentView>,
    times: TimesJob,
}

#[derive(Debug)]
struct SegmentView {
    base_offset: i64,
    written: u64,
    max_timestamp: i64,
    seen: Option<SeenEnd>,
    /// Where the next one begins, if it must join this one.
    next: Option<i64>,
    /// Where to begin, if the indexes are in memory; else they are read.
    floor: Option<Start>,
}

/// Where to begin in a segment, and the time entry that says so.
#[derive(Clone, Copy, Debug)]
struct Start {
    pos: u64,
    by: Option<TimeEntry>,
}

impl SegmentView {
    /// Where its batches end in the file, as far as is known.
    fn end(&self) -> u64 {
        let seen = self.seen.map_or(u64::MAX, |seen| seen.size);
        seen.min(self.written)
    }
}

impl Log {
    /// A job that finds an offset by time among the records below `upper_bound` (high watermark or
    /// last stable offset).
    pub fn lookup(&self, target: Target, upper_bound: Offset) -> TimestampLookup {
        let times = self.times_job();
        let wanted = match target {
            Target::Timestamp(timestamp) if times.is_empty() => timestamp,
            _ => i64::MIN,
        };
        let start = self.log_start;
        let above = self.segments.partition_point(|s| s.base_offset <= start);
        let first = above.saturating_sub(1);
        let nexts = self.segments.iter().skip(first + 1).map(|s| s.base_offset);
        let nexts = nexts
            .map(|next| self.is_dense().then_some(next))
            .chain([None]);
        let segments = self
            .segments
            .range(first..)
            .zip(nexts)
            .filter(|(s, next)| {
                s.lost_from(*next).is_some() || (s.written > 0 && s.mark.max_timestamp >= wanted)
            })
            .map(|(s, next)| self.view(s, next, target))
            .collect();
        TimestampLookup {
            dir: self.dir.clone(),
            target,
            log_start: self.log_start,
            upper_bound: upper_bound.0.min(self.written_end),
            segments,
            times,
        }
    }

    fn view(&self, s: &Segment, next: Option<i64>, target: Target) -> SegmentView {
        SegmentView {
            base_offset: s.base_offset,
            written: s.written,
            max_timestamp: s.mark.max_timestamp,
            seen: s.seen,
            next,
            floor: match &s.index {
                // Of a sealed segment the times are on disk only.
                OffsetIndex::Full(entries) if s.state != SegmentState::Sealed => {
                    let start = relative(self.log_start, s.base_offset);
                    let wanted = match target {
                        Target::Timestamp(timestamp) => timestamp,
                        Target::MaxTimestamp => s.mark.max_timestamp,
                    };
                    Some(floor_position(&s.times, entries, start, wanted))
                }
                _ => None,
            },
        }
    }
}

impl TimestampLookup {
    /// Does it; nothing found is `None`. What it has seen of the segments' largest timestamps goes
    /// to [`Log::times_checked`].
    ///
    /// # Errors
    /// Those of the disk; `InvalidData` names the file and the place where records are lost that
    /// might have been the ones.
    pub fn run(mut self, disk: &dyn Disk) -> io::Result<(Option<TimestampOffset>, CheckedTimes)> {
        let times = std::mem::take(&mut self.times).run(disk)?;
        for segment in &mut self.segments {
            if let Some((max, seen)) = times.of(segment.base_offset) {
                // Of a damaged one either may be true.
                segment.max_timestamp = match seen.size < segment.written {
                    true => max.max(segment.max_timestamp),
                    false => max,
                };
                segment.seen = Some(seen);
            }
        }
        let found = match self.target {
            Target::Timestamp(wanted) => self.first_from(disk, wanted)?,
            Target::MaxTimestamp => self.youngest(disk)?,
        };
        Ok((found, times))
    }

    fn first_from(&self, disk: &dyn Disk, wanted: i64) -> io::Result<Option<TimestampOffset>> {
        for segment in &self.segments {
            if segment.written > 0 && segment.max_timestamp >= wanted {
                let found = self.in_segment(segment, self.search(disk, segment, wanted))?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            self.check_end(segment)?;
        }
        Ok(None)
    }

    /// Refuses to pass over what a segment has lost.
    fn check_end(&self, segment: &SegmentView) -> io::Result<()> {
        let Some(seen) = segment.seen else {
            return Ok(());
        };
        match seen.lost_from(segment.written, segment.next) {
            Some(lost) if lost < self.upper_bound => {
                let why = format!("offset {lost} should follow");
                self.in_segment(segment, Err(damaged(seen.size, &why)))
                    .map(|_: Option<()>| ())
            }
            _ => Ok(()),
        }
    }

    /// Names the segment's file in an error. Meanwhile retention may have taken it, and all that
    /// was in it.
    fn in_segment<T>(
        &self,
        segment: &SegmentView,
        result: io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        unless_gone(result).map_err(|error| {
            let path = segment_path(&self.dir, segment.base_offset, LOG_SUFFIX);
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })
    }

    /// The first of the youngest records. One segment is enough unless the records that gave it its
    /// largest timestamp can't be read: they are being written, above the bound, or were compacted
    /// away.
    fn youngest(&self, disk: &dyn Disk) -> io::Result<Option<TimestampOffset>> {
        self.segments.iter().try_for_each(|s| self.check_end(s))?;
        let mut segments: Vec<&SegmentView> = self.segments.iter().collect();
        segments.sort_by_key(|s| (Reverse(s.max_timestamp), s.base_offset));
        let mut best: Option<TimestampOffset> = None;
        for segment in segments {
            let max = segment.max_timestamp;
            let may_have = |best: TimestampOffset| {
                let before = segment.base_offset < best.offset.0;
                max > best.timestamp || (max == best.timestamp && before)
            };
            if !best.is_none_or(may_have) {
                continue;
            }
            let mut found = self.in_segment(segment, self.search(disk, segment, max))?;
            if found.is_none() {
                found = self.in_segment(segment, self.youngest_in(disk, segment))?;
            }
            let rank = |found: TimestampOffset| (found.timestamp, Reverse(found.offset));
            best = [best, found].into_iter().flatten().max_by_key(|f| rank(*f));
        }
        Ok(best)
    }

    /// The first of the youngest records of a segment whose largest timestamp is not to be found.
    fn youngest_in(
        &self,
        disk: &dyn Disk,
        segment: &SegmentView,
    ) -> io::Result<Option<TimestampOffset>> {
        let path = segment_path(&self.dir, segment.base_offset, LOG_SUFFIX);
        let file = disk.open(&path, OpenMode::Read)?;
        let all = (0, segment.end());
        let mut max = None;
        self.each_batch(&*file, all, |scanned| {
            max = max.max(Some(scanned.header().max_timestamp()));
            Ok(None::<()>)
        })?;
        let Some(max) = max else { return Ok(None) };
        let found = self.search_from(&*file, all, max)?;
        if found.is_some() {
            return Ok(found);
        }
        // Headers keep their timestamps when records are compacted away.
        let mut best: Option<TimestampOffset> = None;
        self.each_batch(&*file, all, |scanned| {
            let wanted = best.map_or(i64::MIN, |best| best.timestamp + 1);
            if scanned.header().max_timestamp() >= wanted {
                let records = self.live_records(&*file, scanned, wanted)?;
                // Of equal ones the first.
                let largest = records.into_iter().rev().max_by_key(|r| r.timestamp);
                best = largest.or(best);
            }
            Ok(None::<()>)
        })?;
        Ok(best)
    }

    fn search(
        &self,
        disk: &dyn Disk,
        segment: &SegmentView,
        wanted: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        let path = segment_path(&self.dir, segment.base_offset, LOG_SUFFIX);
        let file = disk.open(&path, OpenMode::Read)?;
        let from = self.start(disk, &*file, segment, wanted)?;
        self.search_from(&*file, (from, segment.end()), wanted)
    }

    fn search_from(
        &self,
        file: &dyn DiskFile,
        part: (u64, u64),
        wanted: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        self.each_batch(file, part, |scanned| {
            match scanned.header().max_timestamp() >= wanted {
                true => self.search_batch(file, scanned, wanted),
                false => Ok(None),
            }
        })
    }

    /// Shows all batches with records that may be read, until one of them gives something.
    fn each_batch<T>(
        &self,
        file: &dyn DiskFile,
        (from, to): (u64, u64),
        mut show: impl FnMut(&Scanned) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let mut scanner = Scanner::new(file, from, to, false);
        loop {
            let at = scanner.pos();
            let next = scanner.next_header()?.map_err(|e| damaged(at, &e))?;
            let Some(scanned) = next else { break };
            let header = scanned.header();
            if header.base_offset() >= self.upper_bound {
                break;
            }
            if header.last_offset() < self.log_start {
                continue;
            }
            let given = show(&scanned)?;
            if given.is_some() {
                return Ok(given);
            }
        }
        Ok(None)
    }

    /// Where to begin: everything before it is older than `wanted`. What the indexes say is held
    /// against the batches it leads to; where it does not fit, the whole segment is looked through.
    fn start(
        &self,
        disk: &dyn Disk,
        file: &dyn DiskFile,
        segment: &SegmentView,
        wanted: i64,
    ) -> io::Result<u64> {
        let base = segment.base_offset;
        let start = relative(self.log_start, base);
        let found = match segment.floor {
            Some(found) => Some(found),
            None => self
                .read_indexes(disk, base)?
                .map(|(times, entries)| floor_position(&times, &entries, start, wanted)),
        };
        let Some(Start { pos, by }) = found else {
            return Ok(0);
        };
        let offset = base + i64::from(by.map_or(0, |e| e.offset).max(start));
        if pos == 0 {
            return Ok(0);
        }
        let batch = find_batch(file, (pos, segment.written), offset)?;
        let fits = match (&batch, by) {
            (None, _) => false,
            (Some(batch), Some(e)) if e.offset >= start => time_fits(&batch.header(), e),
            (Some(_), _) => true,
        };
        Ok(if fits { pos } else { 0 })
    }

    /// Both indexes of a sealed segment; `None` if one is missing or not in order.
    fn read_indexes(
        &self,
        disk: &dyn Disk,
        base: i64,
    ) -> io::Result<Option<(Vec<TimeEntry>, Vec<IndexEntry>)>> {
        let read =
            |suffix| match disk.read_all(&segment_path(&self.dir, base, suffix), INDEX_FILE_MAX) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                result => result,
            };
        let (times, offsets) = (read(TIME_INDEX_SUFFIX)?, read(INDEX_SUFFIX)?);
        let (time_bytes, offset_bytes) = (times.len(), offsets.len());
        let times: Vec<_> = decode_times(&times).collect();
        let entries: Vec<_> = decode_offsets(&offsets).collect();
        let whole = times.len() * TIME_ENTRY_LEN == time_bytes
            && entries.len() * OFFSET_ENTRY_LEN == offset_bytes;
        Ok(whole.then_some((times, entries)))
    }

    fn search_batch(
        &self,
        file: &dyn DiskFile,
        scanned: &Scanned,
        wanted: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        let records = self.live_records(file, scanned, wanted)?;
        Ok(records.into_iter().next())
    }

    /// The records of a batch that may be read and are not older than `wanted`.
    fn live_records(
        &self,
        file: &dyn DiskFile,
        scanned: &Scanned,
        wanted: i64,
    ) -> io::Result<Vec<TimestampOffset>> {
        let bytes = read_whole(file, scanned)?;
        let invalid = |error: BatchError| damaged(scanned.pos, &error);
        let batch = Batch::parse(&bytes).map_err(invalid)?;
        batch.check_crc().map_err(invalid)?;
        let header = &batch.header;
        let section = batch
            .unfold(DECOMPRESSED_BATCH_BYTES_MAX)
            .map_err(invalid)?;
        let mut live = Vec::new();
        for record in Records::new(&section, header.count()) {
            let record = record.map_err(invalid)?;
            let timestamp = header.timestamp_of(&record);
            let offset = header.base_offset() + i64::from(record.offset_delta);
            if timestamp >= wanted && offset >= self.log_start && offset < self.upper_bound {
                live.push(TimestampOffset {
                    timestamp,
                    offset: Offset(offset),
                    leader_epoch: header.leader_epoch(),
                });
            }
        }
        Ok(live)
    }
}

/// A position before which all records are older than `wanted` or below the relative offset
/// `start`.
fn floor_position(times: &[TimeEntry], entries: &[IndexEntry], start: u32, wanted: i64) -> Start {
    let older = times.partition_point(|e| e.timestamp < wanted);
    let by = older.checked_sub(1).and_then(|i| times.get(i)).copied();
    let offset = by.map_or(0, |e| e.offset).max(start);
    let pos = position_of(floor_in(entries, offset).0);
    Start { pos, by }
}

/// The position that an index gives.
pub(crate) fn position_of(floor: Floor) -> u64 {
    match floor {
        Floor::Exact(pos) | Floor::AtOrAfter(pos) => pos.into(),
        _ => 0,
    }
}

/// `None` of a file that is not there: meanwhile retention may have taken a segment, and all that
/// was in it.
pub(crate) fn unless_gone<T>(result: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result,
    }
}

fn damaged(pos: u64, why: &dyn std::fmt::Display) -> io::Error {
    let message = format!("damaged at byte {pos}: {why}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
#[path = "lookup_test.rs"]
mod tests;
