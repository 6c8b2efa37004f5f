//! Loading a partition's directory at start: what Kafka's LogLoader does, as a job over the disk,
//! in slices.
//!
//! After a clean shutdown no log data is read but what stands behind the active segment's last
//! index entry. After an unclean one the segments from the recovery point on are walked: headers
//! below it, whole batches from it on. There the first batch that is not whole and valid ends the
//! log, its bytes and all later segments go, and indexes are rebuilt. Below the recovery point
//! nothing is cut: such a log is refused ([`Refused`]). Producer state comes from the latest
//! snapshot below the end and the batches behind it.

use crate::checkpoint;
use crate::config::LogConfig;
use crate::epoch::EpochCache;
use crate::index::{OffsetIndex, TimeEntry, encode_times};
use crate::jobs::replace;
pub use crate::leftovers::remove_deleted_dirs;
use crate::producer_state::ProducerState;
pub use crate::refused::{ACCEPT_LOSS, Refused};
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, SegmentMark, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX,
    offset_of_name, segment_path,
};
use crate::txn_index::{AbortedTxns, write_txn_index};
use crate::walk::{Rules, Slice, Walk};
use flumen_base::{Disk, DiskFile, Offset, OpenMode, TopicId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const SNAPSHOT_FILE_MAX: u64 = 1 << 30;
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
    /// From `recovery-point-offset-checkpoint`, 0 if absent, [`Offset::UNKNOWN`] if that could not
    /// be read: then what was synced is judged by the files themselves.
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
    /// Segments whose batches were walked and whose indexes were rebuilt.
    pub segments_recovered: usize,
    /// Bytes of log that were walked.
    pub bytes_walked: u64,
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
    /// Its largest timestamp is that of a batch.
    pub(crate) time_checked: bool,
    pub(crate) aborted: AbortedTxns,
    /// It was walked, and markers were among its batches: its aborted transactions are to be found
    /// again.
    pub(crate) has_markers: bool,
    /// One above its last record.
    pub(crate) end: i64,
}

impl LoadedSegment {
    pub(crate) fn empty(base: i64) -> Self {
        Self {
            base_offset: base,
            mark: SegmentMark::empty(base),
            index: OffsetIndex::new(),
            times: Vec::new(),
            time_checked: true,
            aborted: AbortedTxns::default(),
            has_markers: false,
            end: base,
        }
    }
}

/// Loads a partition's directory. Blocking: for a job.
///
/// # Errors
/// Those of the disk; [`Refused`] where records that were on disk would be lost.
pub fn load(disk: &dyn Disk, params: LoadParams) -> io::Result<LoadedLog> {
    let mut load = Box::new(Load::new(params));
    loop {
        match load.step(disk, u64::MAX)? {
            LoadStep::Done(loaded) => return Ok(*loaded),
            LoadStep::More(more) => load = more,
        }
    }
}

/// A load in progress.
#[derive(Debug)]
pub struct Load {
    params: LoadParams,
    report: LoadReport,
    found: Found,
}

/// What a slice of a load gives.
#[derive(Debug)]
pub enum LoadStep {
    /// The log.
    Done(Box<LoadedLog>),
    /// There is more to do.
    More(Box<Load>),
}

/// What loading has found out so far.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) epochs: EpochCache,
    pub(crate) epochs_changed: bool,
    /// The file of epochs is missing or wrong: all segments are walked for them.
    pub(crate) epochs_lost: bool,
    /// The directory is new, so that its own name is.
    fresh: bool,
    /// Files of new names were made in it.
    pub(crate) new_names: bool,
    /// An operator accepts that records are lost.
    accepts_loss: bool,
    /// Everything below was on disk; the log must not end before it.
    must_have: i64,
    segments: Option<Segments>,
}

/// How far the segments are loaded.
#[derive(Debug)]
struct Segments {
    /// Base offsets, ascending.
    all: Vec<i64>,
    /// The next to load, or being walked.
    at: usize,
    walk: Option<Walk>,
    /// The first that may have been written to since the recovery point.
    first_unflushed: Option<i64>,
    /// Where the one before ended, if it was walked as one of those.
    walked_end: Option<i64>,
    loaded: Vec<LoadedSegment>,
}

impl Segments {
    /// All of them are walked: the epochs come from there.
    fn begin_again(&mut self) {
        (self.at, self.walked_end) = (0, None);
        self.loaded.clear();
    }
}

impl Load {
    /// One that has not begun.
    pub fn new(params: LoadParams) -> Self {
        Self {
            params,
            report: LoadReport::default(),
            found: Found::default(),
        }
    }

    /// What it has done so far.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Goes on until about so many bytes of log have been walked. Blocking: for a job.
    ///
    /// # Errors
    /// As [`load`].
    pub fn step(self: Box<Self>, disk: &dyn Disk, bytes: u64) -> io::Result<LoadStep> {
        let mut loader = Loader {
            disk,
            params: self.params,
            report: self.report,
            found: self.found,
        };
        let mut segments = match loader.found.segments.take() {
            Some(segments) => segments,
            None => loader.begin()?,
        };
        let mut left = bytes;
        if loader.load_segments(&mut segments, &mut left)? {
            let loaded = loader.finish(segments.loaded)?;
            return Ok(LoadStep::Done(Box::new(loaded)));
        }
        loader.found.segments = Some(segments);
        Ok(LoadStep::More(Box::new(Self {
            params: loader.params,
            report: loader.report,
            found: loader.found,
        })))
    }
}

/// One slice of a load.
pub(crate) struct Loader<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) params: LoadParams,
    pub(crate) report: LoadReport,
    pub(crate) found: Found,
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

    /// Everything before the first segment.
    fn begin(&mut self) -> io::Result<Segments> {
        self.prepare_dir()?;
        let accepts = self.params.dir.join(ACCEPT_LOSS);
        self.found.accepts_loss = self.disk.exists(&accepts);
        self.load_epochs()?;
        let bases = self.list_segments()?;
        self.report.segments = bases.len();
        self.found.must_have = self.params.recovery_point.0;
        if self.params.recovery_point.0 < 0 {
            self.found.must_have = self.latest_snapshot()?;
            self.params.recovery_point = Offset(0);
        }
        self.params.log_start_offset = self.params.log_start_offset.max(Offset(0));
        let point = self.params.recovery_point.0;
        let first = bases.range(..=point).next_back().or(bases.first());
        let first_unflushed = first.copied().filter(|_| !self.params.clean);
        Ok(Segments {
            all: bases.into_iter().collect(),
            at: 0,
            walk: None,
            first_unflushed,
            walked_end: None,
            loaded: Vec::new(),
        })
    }

    /// Offset of the latest good snapshot, 0 if there is none. One is written only when everything
    /// below has been synced (or is about to be removed as a whole).
    fn latest_snapshot(&self) -> io::Result<i64> {
        let names = self.disk.list(&self.params.dir)?;
        let offsets = names.iter();
        let offsets = offsets.filter_map(|n| offset_of_name(&n.0, SNAPSHOT_SUFFIX));
        let mut latest = 0;
        for offset in offsets {
            let path = self.path(offset, SNAPSHOT_SUFFIX);
            if offset > latest {
                let bytes = self.disk.read_all(&path, SNAPSHOT_FILE_MAX)?;
                if ProducerState::decode(&bytes).is_some() {
                    latest = offset;
                }
            }
        }
        Ok(latest)
    }

    fn prepare_dir(&mut self) -> io::Result<()> {
        let dir = &self.params.dir;
        // A directory that a killed process made may not be on disk either.
        self.found.fresh = self.may_be_unnamed() || self.disk.list(dir).is_err();
        self.disk.create_dir_all(dir)?;
        let id = self.params.topic_id;
        match checkpoint::read_partition_metadata(self.disk, dir)? {
            None => {
                self.found.new_names = true;
                checkpoint::write_partition_metadata(self.disk, dir, id)
            }
            Some(found) if found == id => Ok(()),
            Some(found) => {
                let message = format!("{} is of topic id {found}, not {id}", dir.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }

    /// Whether an operator accepts that records are lost.
    pub(crate) fn accepts_loss(&self) -> bool {
        self.found.accepts_loss
    }

    /// Whether offsets may be missing between the batches of this segment, and before it.
    pub(crate) fn may_have_gaps(&self, base: i64) -> bool {
        let cleaned = self.params.cleaned_offset.0;
        self.params.config.cleanup_policy.compact || (cleaned > 0 && base <= cleaned)
    }

    /// Goes on loading segments; true when there is none left.
    fn load_segments(&mut self, s: &mut Segments, left: &mut u64) -> io::Result<bool> {
        while let Some(&base) = s.all.get(s.at) {
            let mut walk = match s.walk.take() {
                Some(walk) => walk,
                None if self.is_torn_off(s, base)? => break,
                None => match self.begin_segment(s, base)? {
                    Some(walk) => walk,
                    None => continue, // believed, or all begins anew
                },
            };
            let path = self.path(base, LOG_SUFFIX);
            let file = self.disk.open(&path, OpenMode::ReadWrite)?;
            let before = walk.mark.size;
            let slice = walk.slice(&*file, left)?;
            self.report.bytes_walked += walk.mark.size - before;
            let damage = match slice {
                Slice::More => {
                    s.walk = Some(walk);
                    return Ok(false);
                }
                Slice::Whole => None,
                Slice::Damaged(why) => Some(why),
            };
            if (walk.is_last || damage.is_some()) && !self.epochs_hold(&walk) {
                s.begin_again();
                continue;
            }
            if let Some(why) = &damage {
                self.cut(base, walk.mark.size, walk.end, why)?;
                self.report.bytes_truncated += file.len()? - walk.mark.size;
            }
            let unflushed = s.first_unflushed.is_some_and(|first| base >= first);
            s.walked_end = unflushed.then_some(walk.end);
            s.at += 1;
            let segment = self.end_walk(&*file, walk, damage.is_some())?;
            s.loaded.push(segment);
            if damage.is_some() && !planted!(KeepBehindCut) {
                self.remove_rest(s)?;
            }
        }
        Ok(true)
    }

    /// Takes the next segment as it is, or begins to walk it.
    fn begin_segment(&mut self, s: &mut Segments, base: i64) -> io::Result<Option<Walk>> {
        let next = s.all.get(s.at + 1).copied();
        let unflushed = s.first_unflushed.is_some_and(|first| base >= first);
        let lost_before = self.found.epochs_lost;
        if !unflushed && !lost_before {
            let loaded = self.load_trusted(base, next)?;
            if self.found.epochs_lost {
                s.begin_again();
                return Ok(None);
            }
            if let Some(segment) = loaded {
                s.loaded.push(segment);
                s.at += 1;
                return Ok(None);
            }
        }
        self.report.segments_recovered += 1;
        let rules = Rules {
            is_last: next.is_none(),
            // A clean stop synced everything; what is said to follow its end must prove itself.
            point: match self.params.clean && next.is_some() {
                true => i64::MAX,
                false => self.params.recovery_point.0,
            },
            gaps: self.may_have_gaps(base),
            interval: self.params.config.index_interval_bytes,
        };
        Ok(Some(Walk::new(base, rules)))
    }

    /// Lost writes can end a segment at a batch boundary: then the next one does not join it, and
    /// goes with all behind it. (After compaction segments need not join.)
    fn is_torn_off(&mut self, s: &mut Segments, base: i64) -> io::Result<bool> {
        let Some(end) = s.walked_end.filter(|end| base != *end) else {
            return Ok(false);
        };
        if planted!(KeepBehindCut) || self.may_have_gaps(base) && base > end {
            return Ok(false);
        }
        let why = format!("its first offset is {base} where {end} should follow");
        self.cut(base, 0, end, &why)?;
        self.remove_rest(s)?;
        Ok(true)
    }

    /// The log ends at `offset`, at this place; refused where that would lose what was on disk.
    fn cut(&mut self, segment: i64, position: u64, offset: i64, why: &str) -> io::Result<()> {
        let synced = self.params.clean || offset < self.found.must_have;
        if synced && !self.found.accepts_loss {
            let refused = Refused {
                file: self.path(segment, LOG_SUFFIX),
                position,
                offset,
                why: why.to_owned(),
            };
            return Err(refused.into_error());
        }
        let place = format!("segment {segment} at byte {position}: {why}");
        self.report.cut.get_or_insert(place);
        Ok(())
    }

    fn remove_rest(&mut self, s: &mut Segments) -> io::Result<()> {
        let rest = s.all.split_off(s.at);
        self.remove_segments(&rest)
    }

    fn remove_segments(&mut self, bases: &[i64]) -> io::Result<()> {
        for base in bases {
            for suffix in SEGMENT_SUFFIXES {
                self.remove(&format!("{base:020}{suffix}"))?;
            }
        }
        self.disk.sync_dir(&self.params.dir)
    }

    /// A segment has been walked: what stands behind its end goes. The last one stays in work: it
    /// need not be synced now, and its index files are written when it is sealed or closed.
    fn end_walk(
        &mut self,
        file: &dyn DiskFile,
        walk: Walk,
        is_cut: bool,
    ) -> io::Result<LoadedSegment> {
        let is_last = walk.is_last || is_cut;
        if file.len()? > walk.mark.size {
            file.set_len(walk.mark.size)?;
        }
        for (epoch, start) in &walk.epochs {
            let latest = self.found.epochs.latest();
            if latest.is_none_or(|latest| *epoch > latest) {
                self.found.epochs_changed |= self.found.epochs.assign(*epoch, *start);
            }
        }
        let base = walk.base;
        let segment = walk.into_segment();
        // What was written but not synced is about to be served, and acked again to producers that
        // retry: where an ack promises the disk, it must be there.
        let acked_again =
            self.params.config.flush_messages < i64::MAX && !planted!(NoSyncAfterRecovery);
        if !is_last || acked_again {
            file.sync()?;
        }
        if !is_last {
            // The recovery point passes it: its names must be on disk, too.
            self.found.new_names = true;
            let bytes = segment.index.encode().unwrap_or_default();
            replace(self.disk, &self.path(base, INDEX_SUFFIX), &bytes)?;
            let bytes = encode_times(&segment.times);
            replace(self.disk, &self.path(base, TIME_INDEX_SUFFIX), &bytes)?;
            if !segment.has_markers {
                write_txn_index(self.disk, &self.path(base, TXN_INDEX_SUFFIX), &[])?;
            }
        }
        Ok(segment)
    }

    fn finish(mut self, mut segments: Vec<LoadedSegment>) -> io::Result<LoadedLog> {
        let start = self.params.log_start_offset.0;
        let end = segments.last().map_or(start, |last| last.end.max(start));
        if end < self.found.must_have {
            let last = segments.last();
            let (base, size) = last.map_or((start, 0), |s| (s.base_offset, s.mark.size));
            let why = format!(
                "the log ends here, but it went up to {}",
                self.found.must_have
            );
            self.cut(base, size, end, &why)?;
        }
        if let Some(last) = segments.last().filter(|last| last.end < start) {
            if self.params.clean {
                let why = format!("the log ends here, but its start is said to be {start}");
                self.cut(last.base_offset, last.mark.size, last.end, &why)?;
            }
            // Somebody removed files: what is left is below what may be read.
            let bases: Vec<i64> = segments.drain(..).map(|s| s.base_offset).collect();
            self.remove_segments(&bases)?;
            self.found.epochs = EpochCache::default();
        }
        if segments.is_empty() {
            let path = self.path(start, LOG_SUFFIX);
            self.found.new_names |= checkpoint::ensure_file(self.disk, &path)?;
            segments.push(LoadedSegment::empty(start));
        }
        let last = segments.len() - 1;
        for segment in &mut segments[..last] {
            segment.index.thin();
            segment.times = Vec::new();
        }
        let log_end = segments[last].end;
        let log_start = start.max(segments[0].base_offset);
        self.end_epochs(log_start, log_end)?;
        // A clean shutdown synced everything, recovery all segments but the last.
        let point = self.params.recovery_point.0;
        let recovery_point = match self.params.clean && self.report.cut.is_none() {
            true => log_end,
            false => point.min(log_end).max(segments[last].base_offset),
        };
        let producers = self.load_producers(&mut segments, log_end)?;
        self.write_aborted(&segments)?;
        self.sync_names(recovery_point > point)?;
        self.end_acceptance()?;
        Ok(LoadedLog {
            dir: self.params.dir,
            now_ms: self.params.now_ms,
            segments,
            log_start,
            log_end,
            recovery_point,
            producers,
            epochs: self.found.epochs,
            report: self.report,
        })
    }

    /// What an operator accepted holds until a load finds nothing to accept: by then the recovery
    /// point has been written again.
    fn end_acceptance(&self) -> io::Result<()> {
        if !self.found.accepts_loss || self.report.cut.is_some() {
            return Ok(());
        }
        self.disk.remove_file(&self.params.dir.join(ACCEPT_LOSS))?;
        self.disk.sync_dir(&self.params.dir)
    }

    /// Whether an ack or a sync may promise the disk while names of a killed process are not there.
    fn may_be_unnamed(&self) -> bool {
        let config = &self.params.config;
        !self.params.clean && (config.flush_messages < i64::MAX || config.flush_ms < i64::MAX)
    }

    /// Puts all names on disk at once: those that loading has made, and those of a process that was
    /// killed, if the recovery point promises what is in them.
    fn sync_names(&self, promised: bool) -> io::Result<()> {
        if promised || self.found.new_names || self.may_be_unnamed() {
            self.disk.sync_dir(&self.params.dir)?;
        }
        match self.params.dir.parent() {
            Some(parent) if self.found.fresh => self.disk.sync_dir(parent),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "recovery_test.rs"]
mod tests;
