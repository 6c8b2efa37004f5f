//! Validation of a produced batch, as Kafka 4.3.1's leader does it before it appends.
//!
//! Pure and `Send`: a shard validates small batches on its turn and sends those whose [`cost_estimate`] exceeds its
//! bound to a helper as a job.

use crate::config::LogConfig;
use bytes::Bytes;
use flumen_base::ErrorCode;

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A produce request: everything is checked.
    Client,
    /// A coordinator of this broker: control batches are allowed, sequences are not checked.
    Coordinator,
}

/// A record that was refused (`RecordErrors` of Produce v8 and up).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Index of the record in its batch.
    pub batch_index: i32,
    /// Why.
    pub message: String,
}

/// Why a batch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ValidateError {
    /// What the client is answered.
    pub code: ErrorCode,
    /// `ErrorMessage` of Produce v8 and up.
    pub message: String,
    /// At most one entry per refused record.
    pub record_errors: Vec<RecordError>,
}

/// A batch that may be appended: checked, recompressed and stamped where the topic's settings ask for it. Its base
/// offset and leader epoch are not set yet; the CRC does not cover those.
#[derive(Clone, Debug)]
pub struct ValidBatch {
    pub(crate) bytes: Bytes,
    pub(crate) frame_len: usize,
    pub(crate) log_append_time_ms: i64,
    pub(crate) origin: Origin,
}

impl ValidBatch {
    /// Says how long the buffer is that this batch is a slice of, so that the memory tail does not pin a large frame for
    /// a small batch. The default is the batch's own length.
    pub fn with_frame_len(mut self, frame_len: usize) -> Self {
        self.frame_len = frame_len;
        self
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a batch has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Bytes that validating this batch may have to unfold or compress: 0 when it only reads the records in place.
pub fn cost_estimate(batch: &[u8], config: &LogConfig) -> usize {
    let _ = (batch, config);
    todo!()
}

/// Checks one partition's `records` of a produce request and makes it ready to append. `decompressed_max` bounds what a
/// compressed batch may unfold to (`limits::DECOMPRESSED_BATCH_BYTES_MAX`); `now_ms` is the wall clock.
pub fn validate(
    batch: Bytes,
    config: &LogConfig,
    origin: Origin,
    now_ms: i64,
    decompressed_max: usize,
) -> Result<ValidBatch, ValidateError> {
    let _ = (batch, config, origin, now_ms, decompressed_max);
    todo!()
}
