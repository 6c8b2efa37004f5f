//! The log's side of a cleaning: what of it may be cleaned and whether it is due, and new segments
//! in the place of old ones.

use super::filter::LastRecord;
use super::map::OffsetMap;
use super::swap::{SwapJob, Swapped};
use super::work::{CleanLimits, CleanStats, Cleaning, Source, Stage};
use crate::config::LogConfig;
use crate::index::OffsetIndex;
use crate::log::Log;
use crate::retire::UnlinkJob;
use crate::segment::{Segment, SegmentState};
use flumen_base::{LogFile, Now, Offset};
use std::io;
use std::sync::Arc;

/// What a log knows of its cleanings.
#[derive(Debug, Default)]
pub(crate) struct CleanState {
    /// Everything below was cleaned, as far as that is known.
    cleaned: Option<i64>,
    /// A cleaning of this very log goes on (not of one before a reload).
    running: bool,
    /// First and last base offset of segments that are about to be replaced on disk.
    swapping: Option<(i64, i64)>,
    /// Swaps so far.
    swaps: u64,
}

impl CleanState {
    /// Whether the files of this segment are in the hands of a swap.
    pub(crate) fn holds(&self, base_offset: i64) -> bool {
        let range = self.swapping;
        range.is_some_and(|(first, last)| (first..=last).contains(&base_offset))
    }
}

/// What of a log may be cleaned now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanable {
    /// Everything below is clean.
    pub first_dirty: Offset,
    /// One above what may be cleaned: the base of a segment.
    pub upper: Offset,
    /// Bytes of segments below the first dirty offset.
    pub clean_bytes: u64,
    /// Bytes of segments with dirty records that may be cleaned.
    pub dirty_bytes: u64,
    /// For how long records have been older than `max.compaction.lag.ms`, milliseconds.
    pub overdue_ms: i64,
}

impl Cleanable {
    /// The dirty part of what may be cleaned, 0 to 1.
    pub fn ratio(&self) -> f64 {
        match self.clean_bytes + self.dirty_bytes {
            0 => 0.0,
            all => self.dirty_bytes as f64 / all as f64,
        }
    }

    /// Whether `min.cleanable.dirty.ratio` or `max.compaction.lag.ms` ask for a cleaning.
    pub fn is_due(&self, config: &LogConfig) -> bool {
        (self.overdue_ms > 0 && self.dirty_bytes > 0)
            || self.ratio() > config.min_cleanable_dirty_ratio
    }
}

impl Log {
    /// Everything below was cleaned; `None` if the log never was. For the checkpoint.
    pub fn cleaned_offset(&self) -> Option<Offset> {
        self.clean.cleaned.map(Offset)
    }

    /// What the checkpoint says about a log that was loaded.
    pub fn set_cleaned_offset(&mut self, offset: Option<Offset>) {
        self.clean.cleaned = offset.map(|o| o.0);
    }

    /// Swaps of segments so far. What was found through the names of files holds only if there was
    /// none meanwhile, and [`Log::is_swapping`] said no before.
    pub fn swaps(&self) -> u64 {
        self.clean.swaps
    }

    /// Whether files are changing places.
    pub fn is_swapping(&self) -> bool {
        self.clean.swapping.is_some()
    }

    /// Whether every offset has its record: nothing was ever compacted away, as far as is known.
    pub(crate) fn is_dense(&self) -> bool {
        !self.config.cleanup_policy.compact && self.clean.cleaned.is_none()
    }

    /// What may be cleaned, if the topic is compacted and anything is dirty. Nothing at or above
    /// the last stable offset, in the active segment or younger than `min.compaction.lag.ms`.
    pub fn cleanable(&self, now: Now, high_watermark: Offset) -> Option<Cleanable> {
        if !self.config.cleanup_policy.compact || self.failed || self.closed || self.clean.running {
            return None;
        }
        let first_dirty = match self.clean.cleaned {
            // A checkpoint may be older or younger than what was found.
            Some(cleaned) if (self.log_start..=self.log_end).contains(&cleaned) => cleaned,
            _ => self.log_start,
        };
        let stable = self.first_unstable_offset().unwrap_or(high_watermark);
        let stable = stable.min(high_watermark).0;
        let (mut upper, mut before_ms) = (self.segments.front()?.base_offset, -1);
        let (mut clean_bytes, mut dirty_bytes, mut oldest_ms) = (0, 0, i64::MAX);
        let next = self.segments.iter().skip(1).map(|s| s.base_offset);
        for (segment, next) in self.segments.iter().zip(next) {
            let dirty = next > first_dirty;
            let young = dirty && self.is_young(segment, now);
            if segment.state != SegmentState::Sealed || next > stable || young {
                break;
            }
            if segment.base_offset < first_dirty {
                clean_bytes += segment.mark.size;
            }
            if dirty {
                dirty_bytes += segment.mark.size;
                // Of a segment that was found at start it is not known when it began: not before
                // the one before it ended.
                let began_ms = segment.mark.first_timestamp.unwrap_or(match before_ms {
                    -1 => segment.mark.max_timestamp,
                    before_ms => before_ms,
                });
                if began_ms > 0 {
                    oldest_ms = oldest_ms.min(began_ms);
                }
            }
            before_ms = segment.mark.max_timestamp;
            upper = next;
        }
        let lag_ms = self.config.max_compaction_lag_ms.max(0);
        let due_ms = now.wall_ms.saturating_sub(lag_ms);
        (dirty_bytes > 0 && upper > first_dirty).then(|| Cleanable {
            first_dirty: Offset(first_dirty),
            upper: Offset(upper),
            clean_bytes,
            dirty_bytes,
            overdue_ms: due_ms.saturating_sub(oldest_ms).max(0),
        })
    }

    fn is_young(&self, segment: &Segment, now: Now) -> bool {
        let lag_ms = self.config.min_compaction_lag_ms;
        lag_ms > 0 && segment.largest_timestamp() > now.wall_ms.saturating_sub(lag_ms)
    }

    /// Begins to clean what [`Log::cleanable`] said.
    pub fn start_cleaning(
        &mut self,
        now: Now,
        what: Cleanable,
        limits: CleanLimits,
    ) -> Box<Cleaning> {
        self.clean.running = true;
        let config = &self.config;
        let (first_dirty, upper) = (what.first_dirty.0, what.upper.0);
        let below = self.segments.iter().filter(|s| s.base_offset < upper);
        let sources = below.map(|s| Source {
            base: s.base_offset,
            size: s.mark.size,
            index_len: s.index.len(),
        });
        let aborted = self.segments.iter().flat_map(|s| s.aborted.as_slice());
        let producers = self.producers.iter().map(|(id, entry)| {
            let last = LastRecord {
                offset: entry.batches.last().map(|b| b.last_offset),
                epoch: entry.epoch,
            };
            (id, last)
        });
        Box::new(Cleaning {
            dir: self.dir.clone(),
            now_ms: now.wall_ms,
            delete_retention_ms: config.delete_retention_ms,
            file_delete_delay_ms: config.file_delete_delay_ms,
            segment_bytes: u64::from(config.segment_bytes),
            segment_index_bytes: u64::from(config.segment_index_bytes),
            index_interval_bytes: config.index_interval_bytes,
            limits,
            first_dirty,
            upper,
            sources: sources.collect(),
            aborted: aborted.copied().collect(),
            producers: producers.collect(),
            map: OffsetMap::default(),
            stage: Stage::New,
            begun: None,
            stats: CleanStats::default(),
        })
    }

    /// Whether a cleaning that was started goes on on this log: not after it was loaded again.
    pub fn is_cleaning(&self) -> bool {
        self.clean.running
    }

    /// A new segment is about to take the place of others, unless one of those has gone meanwhile
    /// (`None`: the cleaning can only be let go of). Gives their files: each must be open before
    /// the job runs, so that whoever reads one goes on reading it and not what has its name then.
    pub fn begin_swap(&mut self, job: &mut SwapJob) -> Option<Vec<Arc<LogFile>>> {
        let (first, last) = (*job.replaced.first()?, *job.replaced.last()?);
        if self.failed || self.closed || !self.clean.running {
            return None;
        }
        let mut to_open = Vec::new();
        let mut held = Vec::new();
        for base in &job.replaced {
            let segment = self.segments.get(self.segment_index(*base)?)?;
            held.push(Arc::clone(&segment.file));
            if segment.written > 0 {
                to_open.push(Arc::clone(&segment.file));
            }
            if segment.index.len() > 0 {
                to_open.push(Arc::clone(&segment.index_file));
                held.push(Arc::clone(&segment.index_file));
            }
        }
        job.files = held;
        self.clean.swapping = Some((first, last));
        // Should this be all that is done of it: from now on there are gaps.
        self.clean.cleaned.get_or_insert(self.log_start);
        Some(to_open)
    }

    /// The files could not be opened: nothing changes places.
    pub fn swap_given_up(&mut self) {
        self.clean.swapping = None;
    }

    /// The swap has ended; gives the job that unlinks the old files, and after how many
    /// milliseconds it is to be run. A failure fails the log.
    pub fn swap_done(&mut self, result: io::Result<Swapped>) -> Option<(UnlinkJob, i64)> {
        self.clean.swapping = None;
        self.clean.swaps += 1;
        let Ok(swapped) = result else {
            self.failed = true;
            return None;
        };
        let base = *swapped.replaced.first()?;
        let index = self.segment_index(base)?;
        let count = swapped.replaced.len();
        let last = self.segments.get(index + count - 1)?;
        let (created_ms, modified_ms) = (last.created_ms, last.modified_ms);
        let end = self.segments.get(index + count)?.base_offset;
        let (file, index_file) = self.ids.segment_files(&self.dir, base);
        let mut segment = Segment::empty(base, file, index_file, &self.config, created_ms);
        segment.state = SegmentState::Sealed;
        segment.mark = swapped.mark;
        segment.written = swapped.mark.size;
        segment.named = true;
        segment.modified_ms = modified_ms;
        segment.index = OffsetIndex::Full(swapped.entries);
        segment.aborted = swapped.aborted;
        self.segments.drain(index + 1..index + count);
        if let Some(old) = self.segments.get_mut(index) {
            *old = segment;
        }
        self.thin_indexes();
        self.tail.drop_below(end);
        self.positions.forget(&swapped.replaced);
        Some((swapped.unlink, swapped.delay_ms))
    }

    /// The cleaning has ended: everything below `end` is clean; `None` if it was let go of.
    pub fn cleaning_done(&mut self, end: Option<Offset>) {
        self.clean.running = false;
        if let Some(end) = end {
            self.clean.cleaned = Some(end.0);
        }
    }
}
