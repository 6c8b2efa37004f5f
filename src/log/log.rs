//! The log of one partition: the state that its shard owns.

use crate::config::LogConfig;
use crate::epoch::EpochEnd;
use crate::jobs::{CloseJob, Closed, DeleteJob, EpochJob, SealJob, Sealed};
use crate::lookup::TimestampLookup;
use crate::producer_state::ProducerState;
use crate::read::{ReadPlan, ReadRequest, Scan};
use crate::recovery::LoadedLog;
use crate::validate::ValidBatch;
use bytes::Bytes;
use flumen_base::{ErrorCode, FileId, LeaderEpoch, LogFile, Now, Offset};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Gives log files their numbers. Clones draw from the same row; one per shard, each with its own start.
#[derive(Clone, Debug, Default)]
pub struct FileIds(Arc<AtomicU64>);

impl FileIds {
    /// Numbers from `first` on.
    pub fn starting_at(first: u64) -> Self {
        Self(Arc::new(AtomicU64::new(first)))
    }

    /// The next number.
    pub fn next_id(&self) -> FileId {
        FileId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// What an append gave. The batch may be read, and acked, once [`Log::written_end_offset`] exceeds `last_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendInfo {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The stamp in LogAppendTime, -1 in CreateTime.
    pub log_append_time_ms: i64,
    /// The log start offset for the response.
    pub log_start_offset: Offset,
    /// An idempotent producer sent this again: nothing was appended, the offsets are the first append's.
    pub duplicate: bool,
}

/// Why an append was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AppendError {
    /// What the client is answered.
    pub code: ErrorCode,
    /// Details for its error message.
    pub message: String,
}

/// One coalesced write. Carry it out as `DiskOp::Write`, then call [`Log::write_done`].
#[derive(Debug)]
pub struct WriteOp {
    /// The segment's file.
    pub file: Arc<LogFile>,
    /// Where the first buffer goes, in bytes.
    pub pos: u64,
    /// In order.
    pub bufs: Vec<Bytes>,
    /// The log's end once this is written.
    pub end_offset: Offset,
    /// Whether `flush.messages` asks for a sync with it.
    pub sync: bool,
}

/// A sync that `flush.ms` asks for. Carry it out as `DiskOp::Sync`, then call [`Log::sync_done`].
#[derive(Debug)]
pub struct SyncOp {
    /// The segment's file.
    pub file: Arc<LogFile>,
    /// Everything below is on disk after it.
    pub end_offset: Offset,
}

/// What a completed write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDone {
    /// Everything below this offset is written and may be acked and read.
    Advanced(Offset),
    /// The write failed: everything staged was taken back, the log ends at this offset, and it takes no more appends
    /// (`KAFKA_STORAGE_ERROR`) until it is loaded again. Answer all waiting appends at or above it.
    Failed(Offset),
}

/// The log of one partition.
pub struct Log {
    config: Arc<LogConfig>,
}

impl Log {
    /// The log as [`crate::recovery::load`] found it.
    pub fn from_loaded(loaded: LoadedLog, config: Arc<LogConfig>, ids: FileIds) -> Self {
        let _ = (loaded, ids);
        Self { config }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        todo!()
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
    pub fn append(
        &mut self,
        now: Now,
        batch: ValidBatch,
        leader_epoch: LeaderEpoch,
    ) -> Result<AppendInfo, AppendError> {
        let _ = (now, batch, leader_epoch);
        todo!()
    }

    /// The next write, unless one is in flight or nothing is staged.
    pub fn take_write(&mut self) -> Option<WriteOp> {
        todo!()
    }

    /// The write in flight has ended. More may be staged: call [`Log::take_write`] again.
    pub fn write_done(&mut self, ok: bool) -> WriteDone {
        let _ = ok;
        todo!()
    }

    /// The sync that `flush.ms` asks for by now.
    pub fn take_sync(&mut self, now: Now) -> Option<SyncOp> {
        let _ = now;
        todo!()
    }

    /// The sync has ended.
    pub fn sync_done(&mut self, end_offset: Offset, ok: bool) {
        let _ = (end_offset, ok);
        todo!()
    }

    /// Whether a write is staged or in flight.
    pub fn has_pending_writes(&self) -> bool {
        todo!()
    }

    // ---- offsets ----

    /// One above the last staged record.
    pub fn log_end_offset(&self) -> Offset {
        todo!()
    }

    /// One above the last written record: the most that may be read or acked.
    pub fn written_end_offset(&self) -> Offset {
        todo!()
    }

    /// Everything below is on disk (Kafka's recovery point).
    pub fn recovery_point(&self) -> Offset {
        todo!()
    }

    /// The first offset that may be read.
    pub fn log_start_offset(&self) -> Offset {
        todo!()
    }

    /// First offset of the earliest open transaction (the last stable offset is the lesser of this and the high
    /// watermark).
    pub fn first_unstable_offset(&self) -> Option<Offset> {
        todo!()
    }

    /// Bytes of all segments (written).
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// Idempotent producers known here.
    pub fn producers(&self) -> &ProducerState {
        todo!()
    }

    /// The last epoch that appended here, -1 when none did.
    pub fn latest_epoch(&self) -> LeaderEpoch {
        todo!()
    }

    /// OffsetForLeaderEpoch: the largest epoch at or below `epoch`, and its end offset.
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> EpochEnd {
        let _ = epoch;
        todo!()
    }

    /// The epoch whose records stand at `offset` (ListOffsets answers it beside -1 and -2).
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        let _ = offset;
        todo!()
    }

    // ---- read ----

    /// How to serve a fetch.
    pub fn plan_read(&mut self, request: &ReadRequest) -> ReadPlan {
        let _ = request;
        todo!()
    }

    /// Goes on with a read whose scan has come back.
    pub fn resume_read(&mut self, scan: Scan, bytes: &[u8]) -> ReadPlan {
        let _ = (scan, bytes);
        todo!()
    }

    /// A job that finds an offset by time: run it, it reads the disk.
    pub fn lookup(&self, target: crate::lookup::Target, upper_bound: Offset) -> TimestampLookup {
        let _ = (target, upper_bound);
        todo!()
    }

    /// Bytes in the memory tail.
    pub fn tail_bytes(&self) -> usize {
        todo!()
    }

    /// The most bytes that the memory tail may hold from now on (0 keeps none); evicts at once.
    pub fn set_tail_budget(&mut self, bytes: usize) {
        let _ = bytes;
        todo!()
    }

    // ---- beside the hot path ----

    /// The job that finishes the oldest rolled segment (sync, indexes, producer snapshot), if there is one and none runs.
    pub fn take_seal_job(&mut self) -> Option<SealJob> {
        todo!()
    }

    /// The seal job has ended.
    pub fn seal_done(&mut self, result: std::io::Result<Sealed>) {
        let _ = result;
        todo!()
    }

    /// The job that writes `leader-epoch-checkpoint`, if the epochs changed.
    pub fn take_epoch_job(&mut self) -> Option<EpochJob> {
        todo!()
    }

    /// DeleteRecords: nothing below `offset` may be read any more. At most the high watermark, which the caller checks.
    /// True when it moved.
    pub fn advance_log_start(&mut self, offset: Offset) -> bool {
        let _ = offset;
        todo!()
    }

    /// Takes the segments that retention (time, size, log start offset) lets go out of the log, and returns the job that
    /// removes their files. Only what is below `high_watermark` goes. May roll the active segment.
    pub fn retention(&mut self, now: Now, high_watermark: Offset) -> Option<DeleteJob> {
        let _ = (now, high_watermark);
        todo!()
    }

    /// Forgets producers that were silent for `producer.id.expiration.ms`.
    pub fn expire_producers(&mut self, now: Now) {
        let _ = now;
        todo!()
    }

    /// For a clean shutdown, with nothing staged: the job that syncs the log and writes all indexes and the snapshot.
    pub fn close_job(&mut self) -> CloseJob {
        todo!()
    }

    /// The close job has ended well.
    pub fn close_done(&mut self, closed: Closed) {
        let _ = closed;
        todo!()
    }
}
