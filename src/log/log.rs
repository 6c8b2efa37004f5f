//! The log of one partition: the state that its shard owns, and its write path.
//!
//! ```text
//! log_start <= recovery_point <= written_end <= log_end
//!                                 |            `- staged: has offsets, no write has completed
//!                                 `- readable and ackable
//! ```
//! Appends are staged and coalesced; one write is in flight at a time. Everything that an append
//! changes (end offset, segment, indexes, producers, epochs, memory tail) changes when it is
//! staged, and an undo record per batch takes it back if the write fails.

use crate::batch::{BatchHeader, Records};
use crate::builder;
use crate::config::LogConfig;
use crate::epoch::EpochCache;
use crate::ops::{AppendError, AppendInfo, FileIds, SyncOp, WriteDone, WriteOp};
use crate::producer_state::{self, Check, ProducerState};
use crate::recovery::LoadedLog;
use crate::segment::{BatchAt, SeenEnd, Segment, SegmentMark, SegmentState};
use crate::staging::Staging;
use crate::tail::{PositionCache, Tail};
use crate::validate::ValidBatch;
use bytes::Bytes;
use flumen_base::{ErrorCode, LeaderEpoch, LogFile, Mono, Now, Offset};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segments that end as they are full differ by less than this in length, or hardly ever by more.
const EXPECTED_UNIT: u64 = 1 << 20;

/// The log of one partition. See the module for its offsets.
#[derive(Debug)]
pub struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) config: Arc<LogConfig>,
    pub(crate) ids: FileIds,
    /// Ascending; never empty; only the last is active.
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) log_start: i64,
    pub(crate) log_end: i64,
    pub(crate) written_end: i64,
    pub(crate) recovery_point: i64,
    /// Everything written to the active segment below this offset was synced.
    synced_end: i64,
    unflushed_records: i64,
    last_flush: Option<Mono>,
    sync_in_flight: bool,
    staging: Staging,
    in_flight: Option<InFlight>,
    pub(crate) undo: VecDeque<AppendUndo>,
    /// A write or a seal failed: no more appends.
    pub(crate) failed: bool,
    /// Its close job has been taken: no more appends either.
    pub(crate) closed: bool,
    pub(crate) producers: ProducerState,
    pub(crate) epochs: EpochCache,
    pub(crate) epochs_dirty: bool,
    pub(crate) epochs_writing: bool,
    pub(crate) tail: Tail,
    /// Somebody has read near the end since [`Log::take_end_read`].
    pub(crate) end_read: bool,
    pub(crate) positions: PositionCache,
    pub(crate) size_check: crate::jobs::SizeCheck,
    pub(crate) clean: crate::clean::CleanState,
    /// Retention waits for a look at largest timestamps.
    pub(crate) wants_times: bool,
    pub(crate) trouble: crate::reindex::Trouble,
}

#[derive(Debug)]
struct InFlight {
    segment: i64,
    end_pos: u64,
    records: i64,
    end_offset: i64,
    sync: bool,
}

/// Takes one staged append back.
#[derive(Debug)]
pub(crate) struct AppendUndo {
    base_offset: i64,
    pub(crate) segment: i64,
    pub(crate) mark: SegmentMark,
    producer: Option<producer_state::Undo>,
}

impl Log {
    /// The log as [`crate::recovery::load`] found it, with its settings of now.
    pub fn from_loaded(loaded: LoadedLog, config: Arc<LogConfig>, ids: FileIds) -> Self {
        let dir = loaded.dir;
        let mut segments = VecDeque::with_capacity(loaded.segments.len());
        for found in loaded.segments {
            let seen = SeenEnd::of(&found);
            let (file, index_file) = ids.segment_files(&dir, found.base_offset);
            let mut segment =
                Segment::empty(found.base_offset, file, index_file, &config, loaded.now_ms);
            segment.state = SegmentState::Sealed;
            segment.mark = found.mark;
            segment.written = found.mark.size;
            segment.named = true; // loading has seen to it
            segment.time_checked = found.time_checked;
            segment.seen = seen;
            segment.index = found.index;
            segment.times = found.times;
            segment.aborted = found.aborted;
            segments.push_back(segment);
        }
        if let Some(active) = segments.back_mut() {
            active.state = SegmentState::Active;
            active.seen = None; // it takes more
        }
        Self {
            dir,
            config,
            ids,
            segments,
            log_start: loaded.log_start,
            log_end: loaded.log_end,
            written_end: loaded.log_end,
            recovery_point: loaded.recovery_point,
            synced_end: loaded.recovery_point,
            unflushed_records: 0,
            last_flush: None,
            sync_in_flight: false,
            staging: Staging::default(),
            in_flight: None,
            undo: VecDeque::new(),
            failed: false,
            closed: false,
            producers: loaded.producers,
            epochs: loaded.epochs,
            epochs_dirty: false,
            epochs_writing: false,
            tail: Tail::default(),
            end_read: false,
            positions: PositionCache::default(),
            size_check: Default::default(),
            clean: Default::default(),
            wants_times: false,
            trouble: Default::default(),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its settings.
    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    /// New settings, from the next append on.
    pub fn set_config(&mut self, config: Arc<LogConfig>) {
        self.config = config;
    }

    // ---- append ----

    /// Gives the batch its offsets and stages it. Nothing is written before [`Log::take_write`].
    /// What it keeps of the batch it shares or copies: the batch may go wherever it came from.
    pub fn append(
        &mut self,
        now: Now,
        batch: &ValidBatch,
        leader_epoch: LeaderEpoch,
    ) -> Result<AppendInfo, AppendError> {
        self.check_open()?;
        let len = batch.len() as u64;
        if len > u64::from(self.config.segment_bytes) {
            let message = format!(
                "Message batch size is {len} bytes which exceeds the maximum configured segment size of {}",
                self.config.segment_bytes
            );
            return Err(AppendError::new(ErrorCode::RecordListTooLarge, message));
        }
        if let Check::Duplicate(known) = self.check_producer(batch)? {
            return Ok(AppendInfo {
                base_offset: Offset(known.first_offset()),
                last_offset: Offset(known.last_offset),
                log_append_time_ms: known.timestamp,
                log_start_offset: Offset(self.log_start),
                duplicate: true,
            });
        }
        let mut header = batch.header;
        builder::set_position(&mut header, self.log_end, leader_epoch);
        let view = BatchHeader::from_array(&header);
        let info = AppendInfo {
            base_offset: Offset(self.log_end),
            last_offset: Offset(view.last_offset()),
            log_append_time_ms: batch.log_append_time_ms,
            log_start_offset: Offset(self.log_start),
            duplicate: false,
        };
        self.stage(now, &view, batch, len);
        Ok(info)
    }

    fn stage(&mut self, now: Now, header: &BatchHeader<'_>, batch: &ValidBatch, len: u64) {
        self.maybe_roll(now, header, len);
        let marker = match header.is_control() {
            true => Records::new(&batch.records, header.count()).next(),
            false => None,
        };
        let marker = marker.as_ref().and_then(|m| m.as_ref().ok());
        let producer = self.producers.apply(header, marker);
        self.note_ended(producer.as_ref());
        if self
            .epochs
            .assign(header.leader_epoch(), header.base_offset())
        {
            self.epochs_dirty = true;
        }
        let interval = self.config.index_interval_bytes;
        let Some(active) = self.segments.back_mut() else {
            return; // there always is an active segment
        };
        self.undo.push_back(AppendUndo {
            base_offset: header.base_offset(),
            segment: active.base_offset,
            mark: active.mark,
            producer,
        });
        let (segment, pos) = (active.base_offset, active.mark.size);
        active.account(header, len, interval);
        active.modified_ms = now.wall_ms;
        self.log_end = header.last_offset() + 1;
        let Self { staging, tail, .. } = self;
        staging.push(header, batch, (segment, pos), tail);
    }

    /// Takes the list of a write's buffers back, for a write to come; the buffers are let go of.
    pub fn reuse_bufs(&mut self, bufs: Vec<Bytes>) {
        self.staging.reuse_bufs(bufs);
    }

    fn maybe_roll(&mut self, now: Now, header: &BatchHeader<'_>, len: u64) {
        let at = BatchAt {
            len,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp(),
        };
        let active = self.segments.back();
        if active.is_some_and(|active| active.should_roll(&self.config, &at, now.wall_ms)) {
            self.roll(now);
        }
    }

    /// Ends the active segment at the log end and begins the next. An empty one has nothing to end.
    pub(crate) fn roll(&mut self, now: Now) {
        let base = self.log_end;
        let mut expected = 0;
        if let Some(active) = self.segments.back_mut() {
            if active.base_offset == base {
                return;
            }
            expected = active.mark.size.next_multiple_of(EXPECTED_UNIT);
            active.state = SegmentState::Rolled;
            active.rolled = now.mono;
            active.push_max_time();
            active.roll_snapshot = Some(self.producers.encode());
        }
        let (file, index_file) = self.ids.segment_files(&self.dir, base);
        file.set_expected(expected);
        let segment = Segment::empty(base, file, index_file, &self.config, now.wall_ms);
        self.segments.push_back(segment);
    }

    /// The file of the segment before this one, if it waits for its seal.
    fn full_before(&self, index: usize) -> Option<Arc<LogFile>> {
        let before = self.segments.get(index.checked_sub(1)?)?;
        (before.state == SegmentState::Rolled).then(|| Arc::clone(&before.file))
    }

    /// The next write, unless one is in flight or nothing is staged. One that is to be synced waits
    /// until its segment's name is on disk: the seal job of the segment before sees to that.
    pub fn take_write(&mut self) -> Option<WriteOp> {
        if self.in_flight.is_some() {
            return None;
        }
        let first = self.staging.front()?;
        let index = self.segment_index(first.segment)?;
        let segment = self.segments.get(index)?;
        let unflushed = self.unflushed_records.saturating_add(first.records);
        let sync = unflushed >= self.config.flush_messages;
        if sync && !segment.named && !planted!(UnnamedWrites) {
            return None;
        }
        let file = Arc::clone(&segment.file);
        let full = match segment.written {
            0 => self.full_before(index),
            _ => None,
        };
        let staged = self.staging.take(&mut self.tail)?;
        self.in_flight = Some(InFlight {
            segment: staged.segment,
            end_pos: staged.pos + staged.len,
            records: staged.records,
            end_offset: staged.end_offset,
            sync,
        });
        Some(WriteOp {
            file,
            pos: staged.pos,
            bufs: staged.bufs,
            end_offset: Offset(staged.end_offset),
            sync: sync && !planted!(SkipSync),
            full,
        })
    }

    /// Whether [`Log::take_write`] holds a synced write back until a job has put the name of its
    /// file on disk: [`Log::take_seal_job`], if none runs.
    pub fn waits_for_name(&self) -> bool {
        let first = self.staging.front();
        let index = first.and_then(|first| self.segment_index(first.segment));
        let segment = index.and_then(|index| self.segments.get(index));
        let unnamed = segment.is_some_and(|segment| !segment.named);
        self.in_flight.is_none() && unnamed && !self.failed
    }

    /// The write in flight has ended. More may be staged: call [`Log::take_write`] again.
    pub fn write_done(&mut self, ok: bool) -> WriteDone {
        let Some(write) = self.in_flight.take() else {
            return WriteDone::Advanced(Offset(self.written_end));
        };
        if !(ok || write.sync && planted!(IgnoreSyncError)) {
            self.revert();
            return WriteDone::Failed(Offset(self.written_end));
        }
        self.written_end = write.end_offset;
        self.producers.written(self.written_end);
        if let Some(index) = self.segment_index(write.segment)
            && let Some(segment) = self.segments.get_mut(index)
        {
            segment.written = write.end_pos;
            if write.sync {
                segment.synced = write.end_pos;
            }
        }
        while self
            .undo
            .front()
            .is_some_and(|u| u.base_offset < write.end_offset)
        {
            self.undo.pop_front();
        }
        if write.sync {
            self.unflushed_records = 0;
            self.note_synced(write.end_offset);
        } else {
            self.unflushed_records = self.unflushed_records.saturating_add(write.records);
        }
        WriteDone::Advanced(Offset(self.written_end))
    }

    /// Takes everything back that is staged, the latest first.
    pub(crate) fn revert(&mut self) {
        self.failed = true;
        self.staging.clear();
        while let Some(undo) = self.undo.pop_back() {
            if let Some(producer) = undo.producer {
                self.producers.undo(producer);
            }
            if let Some(index) = self.segment_index(undo.segment)
                && let Some(segment) = self.segments.get_mut(index)
            {
                segment.restore(undo.mark);
            }
        }
        self.log_end = self.written_end;
        self.forget_ended();
        self.epochs_dirty |= self.epochs.truncate_end(self.log_end);
        self.tail.truncate(self.log_end);
        self.positions.truncate(self.log_end);
        while self.segments.len() > 1
            && self
                .segments
                .back()
                .is_some_and(|s| s.base_offset > self.log_end)
        {
            self.segments.pop_back();
            if let Some(last) = self.segments.back_mut() {
                last.state = SegmentState::Active;
                last.roll_snapshot = None;
            }
        }
    }

    /// The sync that `flush.ms` asks for by now.
    pub fn take_sync(&mut self, now: Now) -> Option<SyncOp> {
        if self.config.flush_ms == i64::MAX || self.unflushed_records == 0 || self.sync_in_flight {
            return None;
        }
        let due = self
            .last_flush
            .get_or_insert(now.mono)
            .plus_ms(self.config.flush_ms);
        if now.mono < due {
            return None;
        }
        self.last_flush = Some(now.mono);
        let active = self.segments.back()?;
        if active.written == 0 {
            return None; // seals do it; there may be no file yet, and no room for one
        }
        self.sync_in_flight = true;
        let file = Arc::clone(&active.file);
        let end_offset = Offset(self.written_end);
        Some(SyncOp { file, end_offset })
    }

    /// The sync has ended.
    pub fn sync_done(&mut self, end_offset: Offset, ok: bool) {
        self.sync_in_flight = false;
        if ok {
            self.unflushed_records = 0;
            self.note_synced(end_offset.0);
        } else {
            self.failed = true;
        }
    }

    fn note_synced(&mut self, end_offset: i64) {
        self.synced_end = self.synced_end.max(end_offset);
        self.advance_recovery_point();
    }

    /// Everything before the first segment that is not sealed is on disk, and of the active one
    /// what was synced. The point stays below the end of what is not sealed: the next segment may
    /// begin there, and then a start would take the one before it, which has no indexes yet, for
    /// sealed.
    pub(crate) fn advance_recovery_point(&mut self) {
        if self.size_check.unsealed {
            return;
        }
        let first = self
            .segments
            .iter()
            .find(|s| s.state != SegmentState::Sealed && !s.passes_for_sealed());
        let Some(first) = first else { return };
        let mut point = first.base_offset;
        if first.state == SegmentState::Active {
            point = point.max(self.synced_end.min(self.written_end - 1));
        }
        self.recovery_point = self.recovery_point.max(point.min(self.written_end));
    }

    /// Whether a write is staged or in flight.
    pub fn has_pending_writes(&self) -> bool {
        self.in_flight.is_some() || !self.staging.is_empty()
    }

    /// Whether a write failed: the log takes no more appends until it is loaded again.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The most bytes that the memory tail may hold from now on (0, the first value, keeps none);
    /// evicts at once.
    pub fn set_tail_budget(&mut self, bytes: usize) {
        self.tail.set_budget(bytes);
        if bytes == 0 {
            self.staging.let_go(&mut self.tail);
        }
    }

    /// Whether somebody has read near the end since [`Log::take_end_read`]: within the reach of a
    /// memory tail, or up to the end.
    pub fn is_end_read(&self) -> bool {
        self.end_read
    }

    /// The same, and forgets it.
    pub fn take_end_read(&mut self) -> bool {
        std::mem::take(&mut self.end_read)
    }

    /// Index of the segment with exactly this base offset.
    pub(crate) fn segment_index(&self, base_offset: i64) -> Option<usize> {
        let index = self
            .segments
            .partition_point(|s| s.base_offset < base_offset);
        let found = self.segments.get(index)?;
        (found.base_offset == base_offset).then_some(index)
    }
}

#[cfg(test)]
#[path = "log_test.rs"]
mod tests;
