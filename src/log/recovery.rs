//! Loading a partition's directory at start: what Kafka's LogLoader does, as a job over the disk.
//!
//! After a clean shutdown no log data is read but what stands behind the active segment's last
//! index entry. After an unclean one the segments from the recovery point on are read as a whole:
//! the first batch that is not whole and valid ends the log, its bytes and all later segments go,
//! and indexes are rebuilt. Producer state comes from the latest snapshot below the end and the
//! batches behind it.

use crate::batch::{BatchHeader, HEADER_LEN};
use crate::checkpoint;
use crate::config::LogConfig;
use crate::epoch::{self, EpochCache};
use crate::index::{self, IndexEntry, OFFSET_ENTRY_LEN, OffsetIndex, TimeEntry};
use crate::jobs::replace;
use crate::producer_state::ProducerState;
use crate::scan::Scanner;
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, SegmentMark, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX, push_index,
    segment_path,
};
use flumen_base::aligned;
use flumen_base::{Disk, DiskFile, Offset, OpenMode, TopicId};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No index file is longer (Kafka's `segment.index.bytes` is an i32).
const INDEX_FILE_MAX: u64 = i32::MAX as u64;
const EPOCH_FILE_MAX: u64 = 16 << 20;
pub(crate) const SEGMENT_SUFFIXES: [&str; 4] = [
    LOG_SUFFIX,
    INDEX_SUFFIX,
    TIME_INDEX_SUFFIX,
    TXN_INDEX_SUFFIX,
];

/// What to load and what is known about it.
#[derive(Clone, Debug)]
pub struct LoadParams {
    /// The partition's directory; created if missing.
    pub dir: PathBuf,
    /// Its settings.
    pub config: Arc<LogConfig>,
    /// From `recovery-point-offset-checkpoint`, 0 if absent.
    pub recovery_point: Offset,
    /// From `log-start-offset-checkpoint`, 0 if absent.
    pub log_start_offset: Offset,
    /// From `cleaner-offset-checkpoint`, 0 if absent: below it compaction has left gaps.
    pub cleaned_offset: Offset,
    /// Whether the log directory was shut down cleanly.
    pub clean: bool,
    /// Wall clock in milliseconds, for producer expiry.
    pub now_ms: i64,
    /// Written to `partition.metadata` when that is missing; a file with another id is an error
    /// (`InvalidData`).
    pub topic_id: TopicId,
}

/// What loading did, for the log of the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Segments found.
    pub segments: usize,
    /// Segments whose batches were read and whose indexes were rebuilt.
    pub segments_recovered: usize,
    /// Bytes cut off a torn tail.
    pub bytes_truncated: u64,
    /// Files removed: leftovers and segments behind a cut.
    pub files_removed: Vec<String>,
    /// Why the tail was cut, if it was.
    pub cut: Option<String>,
}

/// A loaded log, to be given to [`crate::Log::from_loaded`].
#[derive(Debug)]
pub struct LoadedLog {
    pub(crate) dir: PathBuf,
    pub(crate) now_ms: i64,
    /// Ascending, not empty; the last is the active one.
    pub(crate) segments: Vec<LoadedSegment>,
    pub(crate) log_start: i64,
    pub(crate) log_end: i64,
    pub(crate) recovery_point: i64,
    pub(crate) producers: ProducerState,
    pub(crate) epochs: EpochCache,
    /// What was done.
    pub report: LoadReport,
}

impl LoadedLog {
    /// One above its last record.
    pub fn log_end_offset(&self) -> Offset {
        Offset(self.log_end)
    }
}

#[derive(Debug)]
pub(crate) struct LoadedSegment {
    pub(crate) base_offset: i64,
    pub(crate) mark: SegmentMark,
    pub(crate) index: OffsetIndex,
    pub(crate) times: Vec<TimeEntry>,
    /// One above its last record.
    pub(crate) end: i64,
}

/// Loads a partition's directory. Blocking: for a job.
pub fn load(disk: &dyn Disk, params: LoadParams) -> io::Result<LoadedLog> {
    let mut loader = Loader {
        disk,
        params,
        epochs: EpochCache::default(),
        epochs_changed: false,
        fresh: false,
        new_names: false,
        report: LoadReport::default(),
    };
    loader.prepare_dir()?;
    loader.load_epochs()?;
    let bases = loader.list_segments()?;
    loader.report.segments = bases.len();
    let segments = loader.load_segments(bases)?;
    loader.finish(segments)
}

/// Removes `-delete` directories that a crash left in a log directory; returns their names.
pub fn remove_deleted_dirs(disk: &dyn Disk, log_dir: &Path) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for (name, is_dir) in disk.list(log_dir)? {
        if is_dir && name.ends_with("-delete") {
            disk.remove_dir_all(&log_dir.join(&name))?;
            removed.push(name);
        }
    }
    removed.sort();
    Ok(removed)
}

pub(crate) struct Loader<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) params: LoadParams,
    epochs: EpochCache,
    epochs_changed: bool,
    /// The directory is new, so that its own name is.
    fresh: bool,
    /// Files of new names were made in it.
    new_names: bool,
    pub(crate) report: LoadReport,
}

impl Loader<'_> {
    pub(crate) fn path(&self, base_offset: i64, suffix: &str) -> PathBuf {
        segment_path(&self.params.dir, base_offset, suffix)
    }

    pub(crate) fn remove(&mut self, name: &str) -> io::Result<()> {
        match self.disk.remove_file(&self.params.dir.join(name)) {
            Ok(()) => {
                self.report.files_removed.push(name.to_owned());
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn prepare_dir(&mut self) -> io::Result<()> {
        let dir = &self.params.dir;
        // A directory that a killed process made may not be on disk either.
        self.fresh = self.may_be_unnamed() || self.disk.list(dir).is_err();
        self.disk.create_dir_all(dir)?;
        let id = self.params.topic_id;
        match checkpoint::read_partition_metadata(self.disk, dir)? {
            None => {
                self.new_names = true;
                checkpoint::write_partition_metadata(self.disk, dir, id)
            }
            Some(found) if found == id => Ok(()),
            Some(found) => {
                let message = format!("{} is of topic id {found}, not {id}", dir.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }

    fn load_epochs(&mut self) -> io::Result<()> {
        let path = self.params.dir.join(epoch::FILE_NAME);
        match checkpoint::read_text(self.disk, &path, EPOCH_FILE_MAX) {
            // A file that can't be read is made again from the batches that are scanned.
            Ok(text) => {
                self.epochs = text
                    .as_deref()
                    .and_then(EpochCache::decode)
                    .unwrap_or_default()
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn load_segments(&mut self, bases: BTreeSet<i64>) -> io::Result<Vec<LoadedSegment>> {
        let point = self.params.recovery_point.0;
        let first_unflushed = bases.range(..=point).next_back().or(bases.first()).copied();
        let mut segments: Vec<LoadedSegment> = Vec::with_capacity(bases.len());
        let mut scanned_end: Option<i64> = None;
        let all: Vec<i64> = bases.into_iter().collect();
        for (i, &base) in all.iter().enumerate() {
            let next = all.get(i + 1).copied();
            let unflushed =
                !self.params.clean && first_unflushed.is_some_and(|first| base >= first);
            // Lost writes can end a segment at a batch boundary: then the next one does not join
            // it. (After compaction segments need not join.)
            let compacted =
                self.params.config.cleanup_policy.compact || base <= self.params.cleaned_offset.0;
            if scanned_end.is_some_and(|end| base != end) && !compacted && !planted!(KeepBehindCut)
            {
                self.report.cut = Some(format!("segment {base} does not follow the one before it"));
                self.remove_segments(&all[i..])?;
                break;
            }
            let loaded = match unflushed {
                true => None,
                false => self.load_trusted(base, next)?,
            };
            if let Some(segment) = loaded {
                segments.push(segment);
                continue;
            }
            let cut_before = self.report.cut.is_some();
            // Nothing is missing where nothing was compacted away.
            let dense = unflushed && !compacted;
            let segment = self.recover_segment(base, (next.is_none(), dense))?;
            scanned_end = unflushed.then_some(segment.end);
            segments.push(segment);
            if !cut_before && self.report.cut.is_some() && !planted!(KeepBehindCut) {
                self.remove_segments(&all[i + 1..])?;
                break;
            }
        }
        Ok(segments)
    }

    fn remove_segments(&mut self, bases: &[i64]) -> io::Result<()> {
        for base in bases {
            for suffix in SEGMENT_SUFFIXES {
                self.remove(&format!("{base:020}{suffix}"))?;
            }
        }
        self.disk.sync_dir(&self.params.dir)
    }

    /// A segment whose files may be trusted; `None` if they don't look so after all, and it must be
    /// recovered.
    fn load_trusted(&mut self, base: i64, next: Option<i64>) -> io::Result<Option<LoadedSegment>> {
        let size = self.disk.len(&self.path(base, LOG_SUFFIX))?;
        let index_len = match self.disk.len(&self.path(base, INDEX_SUFFIX)) {
            Err(_) if size > 0 => return Ok(None),
            Err(_) => 0,
            Ok(len) if len % OFFSET_ENTRY_LEN as u64 != 0 => return Ok(None),
            Ok(len) => len,
        };
        match next {
            Some(next) => self.load_sealed(base, next, size, index_len).map(Some),
            None => self.load_active(base, size),
        }
    }

    fn load_sealed(
        &mut self,
        base: i64,
        next: i64,
        size: u64,
        index_len: u64,
    ) -> io::Result<LoadedSegment> {
        let mut mark = SegmentMark::empty(base);
        mark.size = size;
        if let Some(last) = self.last_time_entry(base)? {
            mark.max_timestamp = last.timestamp;
            mark.max_timestamp_offset = base + i64::from(last.offset);
        }
        mark.index_len = usize::try_from(index_len).map_err(io::Error::other)? / OFFSET_ENTRY_LEN;
        Ok(LoadedSegment {
            base_offset: base,
            mark,
            index: OffsetIndex::Cold {
                entries: mark.index_len,
            },
            times: Vec::new(),
            end: next,
        })
    }

    fn last_time_entry(&self, base: i64) -> io::Result<Option<TimeEntry>> {
        let path = self.path(base, TIME_INDEX_SUFFIX);
        let file = match self.disk.open(&path, OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let len = file.len()?;
        let entries = len / index::TIME_ENTRY_LEN as u64;
        if entries == 0 {
            return Ok(None);
        }
        let mut bytes = [0; index::TIME_ENTRY_LEN];
        let pos = (entries - 1) * index::TIME_ENTRY_LEN as u64;
        file.read_exact_at(&mut bytes, pos)?;
        Ok(index::decode_times(&bytes).next())
    }

    /// The active segment after a clean shutdown: its indexes, and the headers behind the last
    /// index entry.
    fn load_active(&mut self, base: i64, size: u64) -> io::Result<Option<LoadedSegment>> {
        let read = |suffix| match self.disk.read_all(&self.path(base, suffix), INDEX_FILE_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            result => result,
        };
        let entries: Vec<IndexEntry> = index::decode_offsets(&read(INDEX_SUFFIX)?).collect();
        let times: Vec<TimeEntry> = index::decode_times(&read(TIME_INDEX_SUFFIX)?).collect();
        let file = self
            .disk
            .open(&self.path(base, LOG_SUFFIX), OpenMode::Read)?;
        let mut mark = SegmentMark::empty(base);
        if let Some(last) = times.last() {
            mark.max_timestamp = last.timestamp;
            mark.max_timestamp_offset = base + i64::from(last.offset);
        }
        mark.first_timestamp = first_timestamp(&*file, size)?;
        let from = entries.last().map_or(0, |e| u64::from(e.position));
        if from > size {
            return Ok(None);
        }
        let mut end = base;
        let mut scanner = Scanner::new(&*file, from, size, false);
        loop {
            match scanner.next_header()? {
                Err(_) => return Ok(None),
                Ok(None) => break,
                Ok(Some(batch)) => {
                    let header = batch.header();
                    end = header.last_offset() + 1;
                    if header.max_timestamp() > mark.max_timestamp {
                        mark.max_timestamp = header.max_timestamp();
                        mark.max_timestamp_offset = header.last_offset();
                    }
                }
            }
        }
        mark.size = size;
        mark.bytes_since_index = size - from;
        (mark.index_len, mark.time_len) = (entries.len(), times.len());
        Ok(Some(LoadedSegment {
            base_offset: base,
            mark,
            index: OffsetIndex::Full(entries),
            times,
            end,
        }))
    }

    /// Reads all batches of a segment, cuts it at the first bad one, and rebuilds its indexes. The
    /// last segment stays in work: it need not be synced now, and its index files are written when
    /// it is sealed or closed.
    fn recover_segment(
        &mut self,
        base: i64,
        (is_last, dense): (bool, bool),
    ) -> io::Result<LoadedSegment> {
        self.report.segments_recovered += 1;
        let file = self
            .disk
            .open(&self.path(base, LOG_SUFFIX), OpenMode::ReadWrite)?;
        let size = file.len()?;
        let mut mark = SegmentMark::empty(base);
        let mut entries = Vec::new();
        let mut times = Vec::new();
        let mut end = base;
        let mut scanner = Scanner::new(&*file, 0, size, true);
        let cut = loop {
            let batch = match scanner.next_batch()? {
                Ok(None) => break None,
                Ok(Some(batch)) => batch,
                Err(_) if is_padding(&*file, mark.size, size)? => break None,
                Err(error) => break Some(error.to_string()),
            };
            let header = &batch.header;
            let first = header.base_offset();
            let follows = first == end || (first > end && !dense);
            if !follows || header.last_offset() - base > i64::from(i32::MAX) {
                break Some(format!("offset {first} does not belong here"));
            }
            end = header.last_offset() + 1;
            let interval = self.params.config.index_interval_bytes;
            push_index(&mut mark, &mut entries, &mut times, base, header, interval);
            mark.size += batch.bytes().len() as u64;
            mark.bytes_since_index += batch.bytes().len() as u64;
            self.epochs_changed |= self.epochs_follow(header);
        };
        let is_last = is_last || cut.is_some();
        if let Some(why) = cut {
            self.report.bytes_truncated += size - mark.size;
            let place = format!("segment {base} at byte {}: {why}", mark.size);
            self.report.cut.get_or_insert(place);
        }
        if size > mark.size {
            file.set_len(mark.size)?;
        }
        let last = TimeEntry {
            timestamp: mark.max_timestamp,
            offset: crate::segment::relative(mark.max_timestamp_offset, base),
        };
        index::push_time(&mut times, last);
        (mark.index_len, mark.time_len) = (entries.len(), times.len());
        let index = OffsetIndex::Full(entries);
        // What was written but not synced is about to be served, and acked again to producers that
        // retry: where an ack promises the disk, it must be there.
        let acked_again = self.params.config.flush_messages < i64::MAX;
        if is_last && acked_again && !planted!(NoSyncAfterRecovery) {
            file.sync()?;
        }
        if !is_last {
            // The recovery point passes it: it must be on disk as a whole, its names too.
            self.new_names = true;
            file.sync()?;
            let bytes = index.encode().unwrap_or_default();
            replace(self.disk, &self.path(base, INDEX_SUFFIX), &bytes)?;
            let bytes = index::encode_times(&times);
            replace(self.disk, &self.path(base, TIME_INDEX_SUFFIX), &bytes)?;
        }
        Ok(LoadedSegment {
            base_offset: base,
            mark,
            index,
            times,
            end,
        })
    }

    fn epochs_follow(&mut self, header: &BatchHeader<'_>) -> bool {
        let newer = self
            .epochs
            .latest()
            .is_none_or(|latest| header.leader_epoch() > latest);
        newer
            && self
                .epochs
                .assign(header.leader_epoch(), header.base_offset())
    }

    fn finish(mut self, mut segments: Vec<LoadedSegment>) -> io::Result<LoadedLog> {
        let start = self.params.log_start_offset.0;
        if segments.last().is_some_and(|last| last.end < start) {
            // Somebody removed files: what is left is below what may be read.
            let bases: Vec<i64> = segments.drain(..).map(|s| s.base_offset).collect();
            self.remove_segments(&bases)?;
            self.epochs = EpochCache::default();
        }
        if segments.is_empty() {
            self.new_names |= checkpoint::ensure_file(self.disk, &self.path(start, LOG_SUFFIX))?;
            segments.push(LoadedSegment {
                base_offset: start,
                mark: SegmentMark::empty(start),
                index: OffsetIndex::new(),
                times: Vec::new(),
                end: start,
            });
        }
        let last = segments.len() - 1;
        for segment in &mut segments[..last] {
            segment.index.thin();
            segment.times = Vec::new();
        }
        let log_end = segments[last].end;
        let log_start = start.max(segments[0].base_offset);
        self.epochs_changed |= self.epochs.truncate_end(log_end);
        self.epochs_changed |= self.epochs.truncate_start(log_start);
        if self.epochs_changed {
            let path = self.params.dir.join(epoch::FILE_NAME);
            self.disk
                .write_atomic(&path, self.epochs.encode().as_bytes())?;
        }
        self.sync_names()?;
        // A clean shutdown synced everything, recovery all segments but the last.
        let recovery_point = match self.params.clean && self.report.segments_recovered == 0 {
            true => log_end,
            false => self
                .params
                .recovery_point
                .0
                .min(log_end)
                .max(segments[last].base_offset),
        };
        let producers = self.load_producers(&segments, log_start, log_end)?;
        Ok(LoadedLog {
            dir: self.params.dir,
            now_ms: self.params.now_ms,
            segments,
            log_start,
            log_end,
            recovery_point,
            producers,
            epochs: self.epochs,
            report: self.report,
        })
    }
}

impl Loader<'_> {
    /// Whether an ack may promise the disk while names of a killed process are not there.
    fn may_be_unnamed(&self) -> bool {
        !self.params.clean && self.params.config.flush_messages < i64::MAX
    }

    /// Puts all names on disk at once: those that loading has made, and those of a process that was
    /// killed.
    fn sync_names(&self) -> io::Result<()> {
        if self.new_names || self.may_be_unnamed() {
            self.disk.sync_dir(&self.params.dir)?;
        }
        match self.params.dir.parent() {
            Some(parent) if self.fresh => self.disk.sync_dir(parent),
            _ => Ok(()),
        }
    }
}

/// Whether nothing but zeros stands there: the rest of a direct write's last block, no lost batch.
fn is_padding(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<bool> {
    let mut block = [0; aligned::BLOCK];
    let mut pos = from;
    while pos < to {
        let len = block
            .len()
            .min(usize::try_from(to - pos).unwrap_or(usize::MAX));
        let Some(part) = block.get_mut(..len) else {
            return Ok(false); // `len` is at most the block's
        };
        file.read_exact_at(part, pos)?;
        if part.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        pos += len as u64;
    }
    Ok(true)
}

fn first_timestamp(file: &dyn DiskFile, size: u64) -> io::Result<Option<i64>> {
    if size < HEADER_LEN as u64 {
        return Ok(None);
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0)?;
    Ok(Some(BatchHeader::from_array(&header).max_timestamp()))
}

#[cfg(test)]
#[path = "recovery_test.rs"]
mod tests;
