//! One cleaning of one log, cut into slices: each is a job that reads and writes a bounded number
//! of bytes, and between two of them the shard may pause it or let it go.

use super::CLEANED_SUFFIX;
use super::filter::{Filter, Filtered, Kept, LastRecord};
use super::map::OffsetMap;
use super::swap::{SwapJob, remove_cleaned};
use super::txns::TxnState;
use crate::batch::{Batch, BatchError, BatchHeader, Records};
use crate::index::{self, IndexEntry, OFFSET_ENTRY_LEN, TIME_ENTRY_LEN, TimeEntry};
use crate::jobs::replace;
use crate::scan::Scanner;
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, SegmentMark, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX, push_index,
    relative, segment_path,
};
use crate::txn_index::{AbortedTxn, AbortedTxns};
use flumen_base::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use flumen_base::{Disk, DiskFile, IdMap, Offset, OpenMode, ProducerId};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// Segments that one new segment takes the place of, at most: so many files are held open while
/// they change places.
const GROUP_SEGMENTS_MAX: usize = 64;
/// Bytes of a new segment between two syncs.
const SYNC_BYTES: u64 = 16 << 20;

/// What a cleaning may take.
#[derive(Clone, Copy, Debug)]
pub struct CleanLimits {
    /// Bytes of the map of keys (`log.cleaner.dedupe.buffer.size`, the share of one cleaning).
    pub map_bytes: usize,
    /// How full the map may get, 0 to 1 (`log.cleaner.io.buffer.load.factor`).
    pub map_load_factor: f64,
    /// Bytes read by one slice, about (half of `log.cleaner.io.buffer.size`).
    pub slice_bytes: usize,
    /// Random: the key of the keys' hashes.
    pub hash_key: [u64; 2],
}

/// What a cleaning has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CleanStats {
    /// Bytes read, once for the map and once to be copied.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Records that were looked at to be copied.
    pub records_read: u64,
    /// Those of them that stayed.
    pub records_kept: u64,
    /// Keys in the map.
    pub keys: usize,
    /// How much of the map was used, 0 to 1.
    pub map_utilization: f64,
}

/// What comes after a slice.
#[derive(Debug)]
pub enum CleanStep {
    /// Another slice.
    More,
    /// A new segment is ready: [`crate::Log::begin_swap`], then this job, then another slice.
    Swap(SwapJob),
    /// Nothing: everything below this offset is clean.
    Done(Offset),
}

/// What a slice gives.
#[derive(Debug)]
pub struct CleanOutput {
    /// The cleaning, for its next slice.
    pub work: Box<Cleaning>,
    /// Bytes that the slice has read and written.
    pub bytes: u64,
    /// How it goes on. After an error the cleaning can only be [discarded](Cleaning::discard);
    /// `InvalidData` says that the log itself is damaged, and where.
    pub step: io::Result<CleanStep>,
}

/// A segment to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) base: i64,
    pub(crate) size: u64,
    pub(crate) index_len: usize,
}

/// A cleaning between its slices. Plain data; made by [`crate::Log::start_cleaning`].
#[derive(Debug)]
pub struct Cleaning {
    pub(crate) dir: PathBuf,
    pub(crate) now_ms: i64,
    pub(crate) delete_retention_ms: i64,
    pub(crate) file_delete_delay_ms: i64,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_index_bytes: u64,
    pub(crate) index_interval_bytes: u32,
    pub(crate) limits: CleanLimits,
    pub(crate) first_dirty: i64,
    /// One above what may be cleaned; the base of a segment.
    pub(crate) upper: i64,
    /// All segments below that, ascending.
    pub(crate) sources: Vec<Source>,
    /// Aborted transactions that no file names yet.
    pub(crate) aborted: Vec<AbortedTxn>,
    pub(crate) producers: IdMap<ProducerId, LastRecord>,
    /// Made by the first slice and let go of by the last: its memory is no work for a shard.
    pub(crate) map: OffsetMap,
    pub(crate) stage: Stage,
    /// Base of the new segment whose files were begun last.
    pub(crate) begun: Option<i64>,
    pub(crate) stats: CleanStats,
}

/// How far it is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Nothing is read yet.
    New,
    /// Fills the map.
    Mapping(Place, TxnState),
    /// Between two groups of segments.
    Between(VecDeque<Range<usize>>, TxnState),
    /// Copies a group into one new segment.
    Copying(Box<Group>, VecDeque<Range<usize>>, TxnState),
    /// Over, or it failed.
    Ended,
}

/// A place in the sources.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    source: usize,
    pos: u64,
}

/// The new segment of a group.
#[derive(Debug)]
pub(crate) struct Group {
    sources: Range<usize>,
    place: Place,
    mark: SegmentMark,
    entries: Vec<IndexEntry>,
    times: Vec<TimeEntry>,
    /// It differs from what it replaces.
    changed: bool,
    /// Copied but not written yet.
    out: Vec<u8>,
    /// Where that goes.
    written: u64,
    /// Written since the last sync.
    unsynced: u64,
}

impl Group {
    fn new(sources: Range<usize>, base: i64) -> Self {
        Self {
            place: Place {
                source: sources.start,
                pos: 0,
            },
            changed: sources.len() > 1,
            sources,
            mark: SegmentMark::empty(base),
            entries: Vec::new(),
            times: Vec::new(),
            out: Vec::new(),
            written: 0,
            unsynced: 0,
        }
    }

    fn push(&mut self, bytes: &[u8], base: i64, interval: u32) {
        let Some(header) = BatchHeader::new(bytes) else {
            return; // a batch has a header
        };
        let Self {
            mark,
            entries,
            times,
            out,
            ..
        } = self;
        push_index(mark, entries, times, base, &header, interval);
        mark.size += bytes.len() as u64;
        mark.bytes_since_index += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }
}

impl Cleaning {
    /// What it has done so far.
    pub fn stats(&self) -> CleanStats {
        self.stats
    }

    /// Does the next slice.
    pub fn slice(mut self: Box<Self>, disk: &dyn Disk) -> CleanOutput {
        let before = self.stats.bytes_read + self.stats.bytes_written;
        let stage = std::mem::replace(&mut self.stage, Stage::Ended);
        let step = match stage {
            Stage::New => self.begin(),
            Stage::Mapping(place, txns) => self.map_slice(disk, place, txns),
            Stage::Between(groups, txns) => self.next_group(disk, groups, txns),
            Stage::Copying(group, groups, txns) => self.copy_slice(disk, group, groups, txns),
            Stage::Ended => Err(io::Error::other("the cleaning has ended")),
        };
        let bytes = self.stats.bytes_read + self.stats.bytes_written - before;
        let work = self;
        CleanOutput { work, bytes, step }
    }

    /// Removes what it has written and not swapped in. Blocking: for a job.
    pub fn discard(&self, disk: &dyn Disk) -> io::Result<()> {
        match self.begun {
            Some(base) => remove_cleaned(disk, &self.dir, base),
            None => Ok(()),
        }
    }

    fn slice_bytes(&self) -> usize {
        self.limits.slice_bytes.max(1)
    }

    fn path_of(&self, source: &Source) -> PathBuf {
        segment_path(&self.dir, source.base, LOG_SUFFIX)
    }

    fn begin(&mut self) -> io::Result<CleanStep> {
        let CleanLimits {
            map_bytes,
            map_load_factor,
            hash_key,
            ..
        } = self.limits;
        let keys_max = (self.upper - self.first_dirty).unsigned_abs();
        self.map = OffsetMap::new(map_bytes, map_load_factor, keys_max, hash_key);
        let dirty = self.sources.partition_point(|s| s.base <= self.first_dirty);
        let source = dirty.saturating_sub(1);
        let start = self.sources.get(source).map_or(0, |s| s.base);
        let place = Place { source, pos: 0 };
        self.stage = Stage::Mapping(place, TxnState::new(&self.aborted, start));
        Ok(CleanStep::More)
    }

    // ---- the map ----

    fn map_slice(
        &mut self,
        disk: &dyn Disk,
        mut place: Place,
        mut txns: TxnState,
    ) -> io::Result<CleanStep> {
        let mut left = self.slice_bytes() as u64;
        while let Some(source) = self.sources.get(place.source).copied() {
            let file = disk.open(&self.path_of(&source), OpenMode::Read)?;
            let mut scanner = self.scanner(&*file, place.pos, source.size);
            loop {
                let batch = match scanner.next_batch()? {
                    Ok(Some(batch)) => batch,
                    Ok(None) => break,
                    Err(e) => return Err(self.damaged(&source, place.pos, &e)),
                };
                let len = batch.bytes().len() as u64;
                let mapped = map_batch(&mut self.map, &mut txns, self.first_dirty, &batch);
                self.stats.bytes_read += len;
                if mapped.map_err(|e| self.damaged(&source, place.pos, &e))? == Mapped::Full {
                    return Ok(self.mapped());
                }
                place.pos += len;
                left = left.saturating_sub(len);
                if left == 0 {
                    self.stage = Stage::Mapping(place, txns);
                    return Ok(CleanStep::More);
                }
            }
            // Offsets may be missing at the segment's end.
            place = Place {
                source: place.source + 1,
                pos: 0,
            };
            let next = self
                .sources
                .get(place.source)
                .map_or(self.upper, |s| s.base);
            self.map.advance(next - 1);
        }
        Ok(self.mapped())
    }

    /// The map is as good as it gets: what comes is one group after the other.
    fn mapped(&mut self) -> CleanStep {
        self.stats.keys = self.map.len();
        self.stats.map_utilization = self.map.utilization();
        let start = self.sources.first().map_or(0, |s| s.base);
        let txns = TxnState::new(&self.aborted, start);
        self.stage = Stage::Between(self.groups(), txns);
        CleanStep::More
    }

    /// Segments that go together: as many as one segment may hold.
    fn groups(&self) -> VecDeque<Range<usize>> {
        let end = self.map.latest() + 1;
        let count = self.sources.partition_point(|s| s.base < end);
        let mut groups = VecDeque::new();
        let mut start = 0;
        while let Some(first) = self.sources.get(start).filter(|_| start < count) {
            let (mut size, mut entries) = (first.size, first.index_len);
            let mut stop = start + 1;
            while let Some(next) = self.sources.get(stop).filter(|_| stop < count) {
                let last = self.sources.get(stop + 1).map_or(self.upper, |s| s.base) - 1;
                (size, entries) = (size + next.size, entries + next.index_len);
                let times = (entries + (stop - start) + 1) * TIME_ENTRY_LEN;
                let fits = size <= self.segment_bytes
                    && (entries * OFFSET_ENTRY_LEN) as u64 <= self.segment_index_bytes
                    && times as u64 <= self.segment_index_bytes
                    && last - first.base <= i64::from(i32::MAX)
                    && stop - start < GROUP_SEGMENTS_MAX;
                if !fits {
                    break;
                }
                stop += 1;
            }
            groups.push_back(start..stop);
            start = stop;
        }
        groups
    }

    // ---- the copies ----

    fn next_group(
        &mut self,
        disk: &dyn Disk,
        mut groups: VecDeque<Range<usize>>,
        txns: TxnState,
    ) -> io::Result<CleanStep> {
        let Some(range) = groups.pop_front() else {
            let map = std::mem::take(&mut self.map);
            return Ok(CleanStep::Done(Offset(map.latest() + 1)));
        };
        let base = self.sources.get(range.start).map_or(0, |s| s.base);
        self.begun = Some(base);
        // A cleaning that was let go of may have left some.
        remove_cleaned(disk, &self.dir, base)?;
        let group = Box::new(Group::new(range, base));
        self.copy_slice(disk, group, groups, txns)
    }

    fn copy_slice(
        &mut self,
        disk: &dyn Disk,
        mut group: Box<Group>,
        groups: VecDeque<Range<usize>>,
        mut txns: TxnState,
    ) -> io::Result<CleanStep> {
        let base = self.sources.get(group.sources.start).map_or(0, |s| s.base);
        let path = segment_path(&self.dir, base, &format!("{LOG_SUFFIX}{CLEANED_SUFFIX}"));
        let cleaned = disk.open(&path, OpenMode::Create)?;
        let mut left = self.slice_bytes() as u64;
        while left > 0 && group.place.source < group.sources.end {
            let Some(source) = self.sources.get(group.place.source).copied() else {
                break; // groups are ranges of the sources
            };
            let file = disk.open(&self.path_of(&source), OpenMode::Read)?;
            let mut scanner = self.scanner(&*file, group.place.pos, source.size);
            while left > 0 {
                let pos = group.place.pos;
                let batch = match scanner.next_batch()? {
                    Ok(Some(batch)) => batch,
                    Ok(None) => {
                        group.place = Place {
                            source: group.place.source + 1,
                            pos: 0,
                        };
                        break;
                    }
                    Err(e) => return Err(self.damaged(&source, pos, &e)),
                };
                let filtered = self.filter(&mut txns).batch(&batch);
                let filtered = filtered.map_err(|e| self.damaged(&source, pos, &e))?;
                self.take(&mut group, base, &batch, filtered);
                let len = batch.bytes().len() as u64;
                group.place.pos += len;
                left = left.saturating_sub(len);
            }
            self.flush(&mut group, &*cleaned)?;
        }
        if group.place.source < group.sources.end {
            self.stage = Stage::Copying(group, groups, txns);
            return Ok(CleanStep::More);
        }
        let aborted = AbortedTxns::of(txns.take_kept());
        self.stage = Stage::Between(groups, txns);
        if !group.changed {
            remove_cleaned(disk, &self.dir, base)?;
            return Ok(CleanStep::More);
        }
        self.finish_group(disk, *group, base, &*cleaned, aborted)
            .map(CleanStep::Swap)
    }

    fn filter<'a>(&'a self, txns: &'a mut TxnState) -> Filter<'a> {
        Filter {
            map: &self.map,
            producers: &self.producers,
            txns,
            now_ms: self.now_ms,
            delete_retention_ms: self.delete_retention_ms,
            upper: self.upper,
        }
    }

    fn take(&mut self, group: &mut Group, base: i64, batch: &Batch<'_>, filtered: Filtered) {
        self.stats.bytes_read += batch.bytes().len() as u64;
        self.stats.records_read += filtered.records_read;
        self.stats.records_kept += filtered.records_kept;
        match filtered.kept {
            Kept::Whole => group.push(batch.bytes(), base, self.index_interval_bytes),
            Kept::Nothing => group.changed = true,
            Kept::Rewritten(bytes) => {
                group.changed = true;
                group.push(&bytes, base, self.index_interval_bytes);
            }
        }
    }

    fn flush(&mut self, group: &mut Group, file: &dyn DiskFile) -> io::Result<()> {
        file.write_all_at(&group.out, group.written)?;
        group.written += group.out.len() as u64;
        group.unsynced += group.out.len() as u64;
        self.stats.bytes_written += group.out.len() as u64;
        group.out.clear();
        if group.unsynced >= SYNC_BYTES {
            file.sync()?; // in steps, so that no one of them keeps the disk for long
            group.unsynced = 0;
        }
        Ok(())
    }

    /// Syncs the new segment and writes its indexes.
    fn finish_group(
        &mut self,
        disk: &dyn Disk,
        mut group: Group,
        base: i64,
        file: &dyn DiskFile,
        aborted: AbortedTxns,
    ) -> io::Result<SwapJob> {
        file.set_len(group.mark.size)?;
        file.sync()?;
        let last = TimeEntry {
            timestamp: group.mark.max_timestamp,
            offset: relative(group.mark.max_timestamp_offset, base),
        };
        index::push_time(&mut group.times, last);
        let Group {
            mut mark,
            entries,
            times,
            sources,
            ..
        } = group;
        (mark.index_len, mark.time_len) = (entries.len(), times.len());
        let write = |suffix: &str, bytes: &[u8]| {
            let path = segment_path(&self.dir, base, &format!("{suffix}{CLEANED_SUFFIX}"));
            replace(disk, &path, bytes)
        };
        write(INDEX_SUFFIX, &index::encode_offsets(&entries))?;
        write(TIME_INDEX_SUFFIX, &index::encode_times(&times))?;
        if !aborted.is_empty() {
            write(TXN_INDEX_SUFFIX, &aborted.encode())?;
        }
        let replaced = self.sources.get(sources).unwrap_or_default();
        Ok(SwapJob {
            dir: self.dir.clone(),
            replaced: replaced.iter().map(|s| s.base).collect(),
            mark,
            entries,
            aborted,
            files: Vec::new(),
            delay_ms: self.file_delete_delay_ms,
        })
    }

    fn scanner<'a>(&self, file: &'a dyn DiskFile, pos: u64, end: u64) -> Scanner<'a> {
        Scanner::new(file, pos, end, true).reading(self.slice_bytes())
    }

    fn damaged(&self, source: &Source, pos: u64, error: &BatchError) -> io::Error {
        let path = self.path_of(source);
        let message = format!("{} at byte {pos}: {error}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped {
    All,
    /// The map took no more, from some record of the batch on.
    Full,
}

/// Puts the keys of a batch into the map.
fn map_batch(
    map: &mut OffsetMap,
    txns: &mut TxnState,
    first_dirty: i64,
    batch: &Batch<'_>,
) -> Result<Mapped, BatchError> {
    let header = &batch.header;
    let dirty = header.last_offset() >= first_dirty;
    if header.is_control() {
        let section = batch.records_section();
        let marker = Records::new(section, header.count()).next().transpose()?;
        txns.on_control(header, marker.as_ref());
    } else if !txns.on_data(header) && dirty {
        let section = batch.unfold(DECOMPRESSED_BATCH_BYTES_MAX)?;
        for record in Records::new(&section, header.count()) {
            let record = record?;
            let offset = header.base_offset() + i64::from(record.offset_delta);
            let Some(key) = record.key.filter(|_| offset >= first_dirty) else {
                continue;
            };
            if map.is_full() {
                return Ok(Mapped::Full);
            }
            map.put(key, offset);
        }
    }
    if dirty {
        map.advance(header.last_offset());
    }
    Ok(Mapped::All)
}
