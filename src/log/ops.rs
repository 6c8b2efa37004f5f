//! What goes into a log's write path and what comes out of it.

use crate::segment::{INDEX_SUFFIX, LOG_SUFFIX, segment_path};
use bytes::Bytes;
use flumen_base::{ErrorCode, FileId, LogFile, Offset};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Gives log files their numbers. Clones draw from the same row; one per shard, each with its own
/// start.
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

    /// The files of a segment: records and offset index.
    pub(crate) fn segment_files(
        &self,
        dir: &Path,
        base_offset: i64,
    ) -> (Arc<LogFile>, Arc<LogFile>) {
        let records = segment_path(dir, base_offset, LOG_SUFFIX);
        let index = segment_path(dir, base_offset, INDEX_SUFFIX);
        (
            LogFile::segment(self.next_id(), records),
            LogFile::new(self.next_id(), index),
        )
    }
}

/// What an append gave. The batch may be read, and acked, once [`Log::written_end_offset`] exceeds
/// `last_offset`.
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
    /// An idempotent producer sent this again: nothing was appended, the offsets are the first
    /// append's.
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

impl AppendError {
    pub(crate) fn new(code: ErrorCode, message: String) -> Self {
        Self { code, message }
    }
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
    /// The file of the segment before, if this is the first write to a segment: nothing more will
    /// be written there.
    pub full: Option<Arc<LogFile>>,
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
    /// The write failed: everything staged was taken back, the log ends at this offset, and it
    /// takes no more appends (`KAFKA_STORAGE_ERROR`) until it is loaded again. Answer all waiting
    /// appends at or above it.
    Failed(Offset),
}
