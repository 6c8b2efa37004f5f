//! One segment of a log: its file names, and what its shard keeps of it in memory.

use crate::batch::BatchHeader;
use crate::config::LogConfig;
use crate::index::{self, IndexEntry, OFFSET_ENTRY_LEN, OffsetIndex, TIME_ENTRY_LEN, TimeEntry};
use crate::recovery::LoadedSegment;
use crate::txn_index::AbortedTxns;
use flumen_base::{LogFile, Mono, Prng};
use smallvec::SmallVec;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Suffix of a segment's records.
pub const LOG_SUFFIX: &str = ".log";
/// Suffix of a segment's offset index.
pub const INDEX_SUFFIX: &str = ".index";
/// Suffix of a segment's time index.
pub const TIME_INDEX_SUFFIX: &str = ".timeindex";
/// Suffix of a segment's index of aborted transactions.
pub const TXN_INDEX_SUFFIX: &str = ".txnindex";
/// Suffix of a producer snapshot; its number is the offset up to which it holds.
pub const SNAPSHOT_SUFFIX: &str = ".snapshot";
/// Added to the names of files that wait to be unlinked.
pub const DELETED_SUFFIX: &str = ".deleted";

/// `dir/00000000000000000042.log`.
pub fn segment_path(dir: &Path, base_offset: i64, suffix: &str) -> PathBuf {
    dir.join(format!("{base_offset:020}{suffix}"))
}

/// The offset that a file name begins with, if it is 20 digits and then exactly `suffix`.
pub fn offset_of_name(name: &str, suffix: &str) -> Option<i64> {
    let digits = name.strip_suffix(suffix)?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// What of a segment changes with an append; copied to take appends back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentMark {
    pub(crate) size: u64,
    pub(crate) bytes_since_index: u64,
    pub(crate) index_len: usize,
    pub(crate) time_len: usize,
    /// Largest timestamp, -1 if none.
    pub(crate) max_timestamp: i64,
    /// Offset of the last record of the batch that holds it.
    pub(crate) max_timestamp_offset: i64,
    /// Max timestamp of the first batch, from which `segment.ms` counts.
    pub(crate) first_timestamp: Option<i64>,
}

impl SegmentMark {
    /// Of a segment without records.
    pub(crate) fn empty(base_offset: i64) -> Self {
        Self {
            size: 0,
            bytes_since_index: 0,
            index_len: 0,
            time_len: 0,
            max_timestamp: -1,
            max_timestamp_offset: base_offset,
            first_timestamp: None,
        }
    }
}

/// How far a segment is on its way to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentState {
    /// Takes appends.
    Active,
    /// Rolled; its seal job has not been taken.
    Rolled,
    /// Its seal job runs.
    Sealing,
    /// Synced, with its indexes on disk.
    Sealed,
}

/// Where the batches of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenEnd {
    /// In the file, in bytes: less than its length where something else than a batch follows.
    pub(crate) size: u64,
    /// One above the last record.
    pub(crate) offset: i64,
}

impl SeenEnd {
    /// Of a segment that was walked at start, or has no batches.
    pub(crate) fn of(found: &LoadedSegment) -> Option<Self> {
        let size = found.mark.size;
        let offset = match size {
            0 => found.base_offset,
            _ => found.end,
        };
        found.time_checked.then_some(Self { size, offset })
    }

    /// The first offset that is lost of a file of this size: see [`Segment::lost_from`].
    pub(crate) fn lost_from(self, size: u64, next: Option<i64>) -> Option<i64> {
        let ends_early = next.is_some_and(|next| self.offset < next);
        (self.size < size || ends_early).then_some(self.offset)
    }
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    pub(crate) file: Arc<LogFile>,
    pub(crate) index_file: Arc<LogFile>,
    pub(crate) state: SegmentState,
    pub(crate) mark: SegmentMark,
    /// Bytes whose write has completed.
    pub(crate) written: u64,
    /// Bytes that synced writes have put on disk.
    pub(crate) synced: u64,
    /// Its name is on disk: what is synced in it will be found after a power loss.
    pub(crate) named: bool,
    pub(crate) index: OffsetIndex,
    pub(crate) times: Vec<TimeEntry>,
    /// Its largest timestamp is that of a batch, and not only of an entry of its time index.
    pub(crate) time_checked: bool,
    /// How far its batches go, where its file was looked through as an earlier process left it.
    pub(crate) seen: Option<SeenEnd>,
    /// Transactions rolled back by markers in it.
    pub(crate) aborted: AbortedTxns,
    /// Wall clock when it was made: counts where records have no timestamp.
    pub(crate) created_ms: i64,
    /// Wall clock of the last append.
    pub(crate) modified_ms: i64,
    pub(crate) jitter_ms: i64,
    /// When it rolled.
    pub(crate) rolled: Mono,
    /// Producer state at its end, taken when it rolled.
    pub(crate) roll_snapshot: Option<Vec<u8>>,
}

impl Segment {
    pub(crate) fn empty(
        base_offset: i64,
        file: Arc<LogFile>,
        index_file: Arc<LogFile>,
        config: &LogConfig,
        now_ms: i64,
    ) -> Self {
        // Spread over segments without randomness: the same log rolls at the same records in every
        // run.
        let seed = base_offset as u64 ^ file.path().as_os_str().len() as u64 ^ now_ms as u64;
        if config.preallocate {
            file.set_space(config.segment_bytes.into());
        }
        let jitter_max = config.segment_jitter_ms.min(config.segment_ms).max(0) as u64;
        Self {
            base_offset,
            file,
            index_file,
            state: SegmentState::Active,
            mark: SegmentMark::empty(base_offset),
            written: 0,
            synced: 0,
            named: false,
            index: OffsetIndex::new(),
            times: Vec::new(),
            time_checked: true,
            seen: None,
            aborted: AbortedTxns::default(),
            created_ms: now_ms,
            modified_ms: now_ms,
            rolled: Mono(0),
            jitter_ms: Prng::new(seed).below(jitter_max) as i64,
            roll_snapshot: None,
        }
    }

    /// Takes a batch into account that is put at the end; its header is final.
    pub(crate) fn account(&mut self, batch: &BatchHeader<'_>, len: u64, interval: u32) {
        let Self { mark, times, .. } = self;
        let mut added: SmallVec<[IndexEntry; 1]> = SmallVec::new();
        push_index(mark, &mut added, times, self.base_offset, batch, interval);
        for entry in added {
            self.index.push(entry);
        }
        self.mark.index_len = self.index.len();
        self.mark.time_len = self.times.len();
        self.mark.size += len;
        self.mark.bytes_since_index += len;
    }

    /// Adds the time entry that closes a time index.
    pub(crate) fn push_max_time(&mut self) {
        if planted!(StaleTimes) {
            return;
        }
        let entry = TimeEntry {
            timestamp: self.mark.max_timestamp,
            offset: relative(self.mark.max_timestamp_offset, self.base_offset),
        };
        index::push_time(&mut self.times, entry);
        self.mark.time_len = self.times.len();
    }

    /// Whether what is said of its largest timestamp is to be held against its batches.
    pub(crate) fn wants_look(&self) -> bool {
        !self.time_checked && self.seen.is_none()
    }

    /// The first offset whose record should stand in it and does not, as far as its file was looked
    /// through. The segment behind it begins at `next`; with `None` it need not join this one.
    pub(crate) fn lost_from(&self, next: Option<i64>) -> Option<i64> {
        self.seen?.lost_from(self.written, next)
    }

    /// A bug, when it is switched on: a rolled segment is taken for a sealed one.
    pub(crate) fn passes_for_sealed(&self) -> bool {
        self.state != SegmentState::Active && planted!(RecoveryPointAhead)
    }

    /// Back to an earlier mark.
    pub(crate) fn restore(&mut self, mark: SegmentMark) {
        self.index.truncate(mark.index_len);
        self.times.truncate(mark.time_len);
        self.mark = mark;
    }

    /// Whether a batch of `len` bytes must go to a new segment (Kafka's LogSegment.shouldRoll).
    pub(crate) fn should_roll(&self, config: &LogConfig, batch: &BatchAt, now_ms: i64) -> bool {
        let size = self.mark.size;
        let waited = match self.mark.first_timestamp {
            Some(first) if first >= 0 => batch.max_timestamp.saturating_sub(first),
            _ => now_ms.saturating_sub(self.created_ms),
        };
        let index_max = config.segment_index_bytes as usize / OFFSET_ENTRY_LEN;
        let times_max = (config.segment_index_bytes as usize / TIME_ENTRY_LEN).max(1) - 1;
        size + batch.len > u64::from(config.segment_bytes)
            || (size > 0 && waited > config.roll_ms().saturating_sub(self.jitter_ms))
            || (size > 0 && self.index.len() >= index_max)
            || (size > 0 && self.times.len() >= times_max)
            || batch.last_offset - self.base_offset > i64::from(i32::MAX)
    }

    /// What retention by time counts from.
    pub(crate) fn largest_timestamp(&self) -> i64 {
        if self.mark.max_timestamp >= 0 {
            self.mark.max_timestamp
        } else {
            self.modified_ms
        }
    }
}

/// The index entries that a batch at the position `mark.size` causes (Kafka's LogSegment.append):
/// one of each kind when more than `interval` bytes have come since the last.
pub(crate) fn push_index(
    mark: &mut SegmentMark,
    entries: &mut impl Extend<IndexEntry>,
    times: &mut Vec<TimeEntry>,
    base: i64,
    batch: &BatchHeader<'_>,
    interval: u32,
) {
    let last = batch.last_offset();
    if batch.max_timestamp() > mark.max_timestamp {
        mark.max_timestamp = batch.max_timestamp();
        mark.max_timestamp_offset = last;
    }
    mark.first_timestamp.get_or_insert(batch.max_timestamp());
    if mark.bytes_since_index > u64::from(interval) {
        entries.extend(Some(IndexEntry {
            last: relative(last, base),
            position: mark.size as u32,
            first: relative(batch.base_offset(), base),
        }));
        let time = TimeEntry {
            timestamp: mark.max_timestamp,
            offset: relative(mark.max_timestamp_offset, base),
        };
        index::push_time(times, time);
        mark.bytes_since_index = 0;
    }
}

/// What rolling needs to know of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchAt {
    pub(crate) len: u64,
    pub(crate) last_offset: i64,
    pub(crate) max_timestamp: i64,
}

/// `offset` relative to `base`; offsets outside the segment stick to its ends.
pub(crate) fn relative(offset: i64, base: i64) -> u32 {
    offset.saturating_sub(base).clamp(0, i64::from(i32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let path = segment_path(Path::new("d"), 42, LOG_SUFFIX);
        assert_eq!(path, Path::new("d/00000000000000000042.log"));
        assert_eq!(
            offset_of_name("00000000000000000042.log", LOG_SUFFIX),
            Some(42)
        );
        assert_eq!(offset_of_name("42.log", LOG_SUFFIX), None);
        assert_eq!(
            offset_of_name("00000000000000000042.log.deleted", LOG_SUFFIX),
            None
        );
        assert_eq!(offset_of_name("99999999999999999999.log", LOG_SUFFIX), None);
    }
}
