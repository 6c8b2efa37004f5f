//! Offsets by time (ListOffsets), as a job over the disk: the time index leads to the offset index,
//! that to a position, and from there batches are read until one qualifies.

use crate::batch::{Batch, BatchHeader, HEADER_LEN, Records};
use crate::index::{
    Floor, IndexEntry, OffsetIndex, TimeEntry, decode_offsets, decode_times, floor_in,
};
use crate::log::Log;
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, SegmentState, TIME_INDEX_SUFFIX, relative, segment_path,
};
use flumen_base::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use flumen_base::{Disk, DiskFile, LeaderEpoch, Offset, OpenMode};
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
}

#[derive(Debug)]
struct SegmentView {
    base_offset: i64,
    written: u64,
    max_timestamp: i64,
    /// Where to begin, if the indexes are in memory; else they are read.
    floor: Option<u64>,
}

impl Log {
    /// A job that finds an offset by time among the records below `upper_bound` (high watermark or
    /// last stable offset).
    pub fn lookup(&self, target: Target, upper_bound: Offset) -> TimestampLookup {
        let max = self.segments.iter().map(|s| s.mark.max_timestamp).max();
        let wanted = match target {
            Target::Timestamp(timestamp) => timestamp,
            Target::MaxTimestamp => max.unwrap_or(-1),
        };
        // One segment is enough unless its last records are above the bound or were compacted away:
        // what is staged counts in the segments' largest timestamps, but can't be found yet.
        let all = target == Target::MaxTimestamp && upper_bound.0 < self.log_end;
        let segments = self
            .segments
            .iter()
            .filter(|s| (all || s.mark.max_timestamp >= wanted) && s.written > 0)
            .map(|s| SegmentView {
                base_offset: s.base_offset,
                written: s.written,
                max_timestamp: s.mark.max_timestamp,
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
            })
            .collect();
        TimestampLookup {
            dir: self.dir.clone(),
            target,
            log_start: self.log_start,
            upper_bound: upper_bound.0.min(self.written_end),
            segments,
        }
    }
}

impl TimestampLookup {
    /// Does it; `None` when no record qualifies.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Option<TimestampOffset>> {
        let mut youngest: Option<TimestampOffset> = None;
        for segment in &self.segments {
            let wanted = match self.target {
                Target::Timestamp(timestamp) => timestamp,
                Target::MaxTimestamp => segment.max_timestamp,
            };
            if youngest.is_some_and(|y| y.timestamp >= wanted) {
                continue;
            }
            let found = match self.search(disk, segment, wanted) {
                // Meanwhile retention has taken it, and all that was in it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            let found = match self.target {
                Target::Timestamp(_) if found.is_some() => return Ok(found),
                Target::MaxTimestamp if found.is_none() => self.youngest(disk, segment)?,
                _ => found,
            };
            if let Some(found) = found
                && youngest.is_none_or(|y| y.timestamp < found.timestamp)
            {
                youngest = Some(found);
            }
        }
        Ok(youngest)
    }

    /// The first of the youngest records of a segment, where its largest timestamp is not below the
    /// bound.
    fn youngest(
        &self,
        disk: &dyn Disk,
        segment: &SegmentView,
    ) -> io::Result<Option<TimestampOffset>> {
        let path = segment_path(&self.dir, segment.base_offset, LOG_SUFFIX);
        let file = disk.open(&path, OpenMode::Read)?;
        let (mut pos, mut max) = (0, None);
        while pos + HEADER_LEN as u64 <= segment.written {
            let mut header = [0; HEADER_LEN];
            file.read_exact_at(&mut header, pos)?;
            let header = BatchHeader::from_array(&header);
            if header.base_offset() >= self.upper_bound {
                break;
            }
            if header.last_offset() >= self.log_start {
                max = max.max(Some(header.max_timestamp()));
            }
            pos += header.size().map_err(invalid)? as u64;
        }
        match max {
            Some(max) => self.search_from(disk, segment, 0, max),
            None => Ok(None),
        }
    }

    fn search(
        &self,
        disk: &dyn Disk,
        segment: &SegmentView,
        wanted: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        let pos = self.floor(disk, segment, wanted)?;
        self.search_from(disk, segment, pos, wanted)
    }

    fn search_from(
        &self,
        disk: &dyn Disk,
        segment: &SegmentView,
        mut pos: u64,
        wanted: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        let path = segment_path(&self.dir, segment.base_offset, LOG_SUFFIX);
        let file = disk.open(&path, OpenMode::Read)?;
        while pos + HEADER_LEN as u64 <= segment.written {
            let mut header = [0; HEADER_LEN];
            file.read_exact_at(&mut header, pos)?;
            let header = BatchHeader::from_array(&header);
            let len = header.size().map_err(invalid)? as u64;
            if header.base_offset() >= self.upper_bound {
                break;
            }
            if header.max_timestamp() >= wanted && header.last_offset() >= self.log_start {
                let len = len.min(segment.written - pos) as usize;
                if let Some(found) = self.search_batch(&*file, pos, len, wanted)? {
                    return Ok(Some(found));
                }
            }
            pos += len;
        }
        Ok(None)
    }

    /// Where to begin: everything before it is older than `wanted`.
    fn floor(&self, disk: &dyn Disk, segment: &SegmentView, wanted: i64) -> io::Result<u64> {
        let read = |suffix| {
            let path = segment_path(&self.dir, segment.base_offset, suffix);
            match disk.read_all(&path, INDEX_FILE_MAX) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                result => result,
            }
        };
        if let Some(floor) = segment.floor {
            return Ok(floor);
        }
        let times: Vec<_> = decode_times(&read(TIME_INDEX_SUFFIX)?).collect();
        let entries: Vec<_> = decode_offsets(&read(INDEX_SUFFIX)?).collect();
        let start = relative(self.log_start, segment.base_offset);
        Ok(floor_position(&times, &entries, start, wanted))
    }

    fn search_batch(
        &self,
        file: &dyn DiskFile,
        pos: u64,
        len: usize,
        wanted: i64,
    ) -> io::Result<Option<TimestampOffset>> {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, pos)?;
        let batch = Batch::parse(&bytes).map_err(invalid)?;
        let header = &batch.header;
        let section = batch
            .unfold(DECOMPRESSED_BATCH_BYTES_MAX)
            .map_err(invalid)?;
        for record in Records::new(&section, header.count()) {
            let record = record.map_err(invalid)?;
            let timestamp = header.timestamp_of(&record);
            let offset = header.base_offset() + i64::from(record.offset_delta);
            if timestamp >= wanted && offset >= self.log_start && offset < self.upper_bound {
                return Ok(Some(TimestampOffset {
                    timestamp,
                    offset: Offset(offset),
                    leader_epoch: header.leader_epoch(),
                }));
            }
        }
        Ok(None)
    }
}

/// A position before which all records are older than `wanted` or below the relative offset
/// `start`.
fn floor_position(times: &[TimeEntry], entries: &[IndexEntry], start: u32, wanted: i64) -> u64 {
    let older = times.partition_point(|e| e.timestamp < wanted);
    let by_time = older.checked_sub(1).and_then(|i| times.get(i));
    let offset = by_time.map_or(0, |e| e.offset).max(start);
    match floor_in(entries, offset).0 {
        Floor::Exact(pos) | Floor::AtOrAfter(pos) => pos.into(),
        _ => 0,
    }
}

fn invalid(error: crate::batch::BatchError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
#[path = "lookup_test.rs"]
mod tests;
