//! Validation of a produced batch, as Kafka 4.3.1's leader does it before it appends (LogValidator
//! and the checks around it): one batch of magic 2, sizes, CRC, counts, producer fields, every
//! record's shape, key and timestamp; compressed batches are unfolded for it. Batches are rewritten
//! where `compression.type` or their inner offsets ask for it.
//!
//! Pure and `Send`. A shard validates on its turn with a small `unfolded_max`; when that is
//! exceeded ([`ValidateError::over_budget`]), or [`cost_estimate`] says so before, it sends the
//! batch to a helper as a job with `limits::DECOMPRESSED_BATCH_BYTES_MAX`.

use crate::batch::{
    Batch, BatchBuilder, BatchError, BatchHeader, Batches, HEADER_LEN, MAGIC, Record, Records,
};
use crate::builder;
use crate::codec::{CodecError, Compression};
use crate::config::{LogConfig, TargetCompression, TimestampType};
use crate::verification::{TxnContext, VerificationGuard};
use bytes::{Buf, Bytes};
use flumen_base::ErrorCode;

/// Why a compacted topic refuses a record.
const NO_KEY: &str = "Compacted topic cannot accept message without key";

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
    /// The batch unfolds to more than `unfolded_max`: it may be fine with a larger bound, on a
    /// helper.
    pub over_budget: bool,
    /// The request is wrong whatever the topic: it is refused before the log is looked at.
    pub malformed: bool,
}

impl ValidateError {
    fn new(code: ErrorCode, message: String) -> Self {
        Self {
            code,
            message,
            record_errors: Vec::new(),
            over_budget: false,
            malformed: false,
        }
    }

    /// Says of which partition (`topic-index`) it is, where Kafka says that.
    pub fn in_partition(mut self, name: &str) -> Self {
        let mut named = false;
        for error in self
            .record_errors
            .iter_mut()
            .filter(|e| e.message == NO_KEY)
        {
            error.message = format!("{NO_KEY} in topic partition {name}");
            named = true;
        }
        if named && self.code == ErrorCode::InvalidRecord {
            self.message = total_of(&self.record_errors);
        }
        self
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRecord, message.into())
    }
}

impl From<BatchError> for ValidateError {
    fn from(error: BatchError) -> Self {
        let code = match error {
            BatchError::Crc { .. } | BatchError::TooShort(_) | BatchError::Magic(_) => {
                ErrorCode::CorruptMessage
            }
            BatchError::Compressed(CodecError::TooLarge(_)) => ErrorCode::MessageTooLarge,
            _ => ErrorCode::InvalidRecord,
        };
        Self {
            over_budget: matches!(error, BatchError::Compressed(CodecError::TooLarge(_))),
            ..Self::new(code, error.to_string())
        }
    }
}

/// A batch that may be appended: checked, recompressed and stamped where the topic's settings ask
/// for it. Its base offset and leader epoch are not set yet; the CRC does not cover those.
#[derive(Clone, Debug)]
pub struct ValidBatch {
    pub(crate) header: [u8; HEADER_LEN],
    pub(crate) records: Bytes,
    pub(crate) frame_len: usize,
    pub(crate) log_append_time_ms: i64,
    pub(crate) origin: Origin,
    /// The parts of its [`TxnContext`], where they take the least room: beyond 128 bytes a batch is
    /// copied by a call, several times on its way.
    guard: Option<VerificationGuard>,
    marker_version: i16,
}

impl ValidBatch {
    /// Says how long the buffer is that this batch is a slice of, so that the memory tail does not
    /// pin a large frame for a small batch. The default is the batch's own length.
    pub fn with_frame_len(mut self, frame_len: usize) -> Self {
        self.frame_len = frame_len;
        self
    }

    /// Says what comes along with a transactional batch or a marker.
    pub fn with_txn(mut self, txn: TxnContext) -> Self {
        (self.guard, self.marker_version) = (txn.guard, txn.version);
        self
    }

    /// What came along with it.
    pub(crate) fn txn(&self) -> TxnContext {
        TxnContext {
            guard: self.guard,
            version: self.marker_version,
        }
    }

    /// Its header, not yet positioned.
    pub fn header(&self) -> BatchHeader<'_> {
        BatchHeader::from_array(&self.header)
    }

    /// Its records: what is left to let go of after an append.
    pub fn into_records(self) -> Bytes {
        self.records
    }

    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty)] // a batch is never empty
    pub fn len(&self) -> usize {
        HEADER_LEN + self.records.len()
    }
}

/// What the version of a produce request forbids, before the topic is looked at: zstd before v7
/// (KIP-110). Bytes that are no batch of magic 2 are left to [`validate`].
pub fn check_produce_version(records: &[u8], version: i16) -> Result<(), ValidateError> {
    const ZSTD_SINCE: i16 = 7;
    if version >= ZSTD_SINCE {
        return Ok(());
    }
    let header = BatchHeader::new(records).filter(|header| header.magic() == MAGIC);
    if header.is_some_and(|header| header.compression() == Ok(Compression::Zstd)) {
        return Err(ValidateError::new(
            ErrorCode::UnsupportedCompressionType,
            format!("Produce requests with version {version} are not allowed to use zstd"),
        ));
    }
    Ok(())
}

/// Bytes that validating this batch may have to unfold or compress, guessed from its size: 0 when
/// its records are only read in place.
pub fn cost_estimate(batch: &[u8], config: &LogConfig) -> usize {
    const USUAL_RATIO: usize = 4;
    let Some(Ok(source)) = BatchHeader::new(batch).map(|h| h.compression()) else {
        return 0;
    };
    let (target, _) = target_codec(config.compression, source);
    match (source, target) {
        (Compression::None, Compression::None) => 0,
        (Compression::None, _) => batch.len(),
        (source, target) if source == target => batch.len().saturating_mul(USUAL_RATIO),
        _ => batch.len().saturating_mul(USUAL_RATIO * 2),
    }
}

/// Checks one partition's `records` of a produce request and makes it ready to append.
/// `unfolded_max` bounds what a compressed batch may unfold to; `now_ms` is the wall clock.
pub fn validate(
    bytes: Bytes,
    config: &LogConfig,
    origin: Origin,
    now_ms: i64,
    unfolded_max: usize,
) -> Result<ValidBatch, ValidateError> {
    let batch = single_batch(&bytes).map_err(|error| ValidateError {
        malformed: true,
        ..error
    })?;
    check_batch(&batch, config, origin)?;
    let source = batch.header.compression()?;
    let (target, level) = target_codec(config.compression, source);
    let section = batch.unfold(unfolded_max)?;
    let checked = check_records(&batch.header, &section, config, now_ms)?;

    let stamp = config.message_timestamp_type;
    let append_time = (stamp == TimestampType::LogAppendTime).then_some(now_ms);
    let in_place = checked.offsets_dense
        && (source == target || (source == Compression::None && batch.header.is_control()));
    let (header, records) = if in_place {
        let mut header = *batch.header.bytes();
        let max_timestamp = append_time.unwrap_or(checked.max_timestamp);
        let restamp =
            batch.header.timestamp_type() != stamp || batch.header.max_timestamp() != max_timestamp;
        let mut records = bytes; // it holds this one batch: no other handle on it is needed
        records.advance(HEADER_LEN);
        if restamp {
            builder::restamp(&mut header, &records, stamp, max_timestamp);
        }
        (header, records)
    } else {
        let rewritten = rewrite(&batch.header, &section, append_time, target, level)?;
        let header = *rewritten.first_chunk().ok_or(BatchError::Truncated)?;
        check_size(rewritten.len(), config)?;
        (header, rewritten.slice(HEADER_LEN..))
    };
    Ok(ValidBatch {
        frame_len: HEADER_LEN + records.len(),
        header,
        records,
        log_append_time_ms: append_time.unwrap_or(-1),
        origin,
        guard: None,
        marker_version: 0,
    })
}

fn single_batch(bytes: &[u8]) -> Result<Batch<'_>, ValidateError> {
    let mut batches = Batches::new(bytes);
    let batch = match batches.next() {
        None => return Err(ValidateError::invalid("Record batch has no batches at all")),
        Some(batch) => batch?,
    };
    if batch.bytes().len() != bytes.len() {
        return Err(ValidateError::invalid(
            "Produce requests must hold exactly one record batch per partition",
        ));
    }
    Ok(batch)
}

/// What the header alone shows, and the CRC. The order is Kafka's: it decides which error a client
/// sees.
fn check_batch(batch: &Batch<'_>, config: &LogConfig, origin: Origin) -> Result<(), ValidateError> {
    let header = &batch.header;
    if origin == Origin::Client && header.base_offset() != 0 {
        return Err(ValidateError::invalid(format!(
            "The baseOffset of the record batch should be 0, but it is {}",
            header.base_offset()
        )));
    }
    check_size(batch.bytes().len(), config)?;
    batch.check_crc()?;
    if origin == Origin::Coordinator {
        return Ok(());
    }
    let count = header.count();
    if header.last_offset_delta() < 0 || count <= 0 || header.last_offset_delta() != count - 1 {
        return Err(ValidateError::invalid(format!(
            "Inconsistent batch: last offset delta {} and count of records {count}",
            header.last_offset_delta()
        )));
    }
    if header.is_control() {
        return Err(ValidateError::invalid(
            "Clients are not allowed to write control records",
        ));
    }
    if header.producer_id() >= 0 && header.base_sequence() < 0 {
        return Err(ValidateError::invalid(format!(
            "Invalid sequence number {} in record batch with producerId {}",
            header.base_sequence(),
            header.producer_id()
        )));
    }
    Ok(())
}

fn check_size(size: usize, config: &LogConfig) -> Result<(), ValidateError> {
    if size <= config.max_message_bytes as usize {
        return Ok(());
    }
    Err(ValidateError::new(
        ErrorCode::MessageTooLarge,
        format!(
            "The record batch size is {size} bytes which exceeds the maximum configured value of {}",
            config.max_message_bytes
        ),
    ))
}

struct CheckedRecords {
    max_timestamp: i64,
    /// Offset deltas are 0, 1, 2 ...
    offsets_dense: bool,
}

fn check_records(
    header: &BatchHeader<'_>,
    section: &[u8],
    config: &LogConfig,
    now_ms: i64,
) -> Result<CheckedRecords, ValidateError> {
    let mut checked = CheckedRecords {
        max_timestamp: -1,
        offsets_dense: true,
    };
    let mut errors = Vec::new();
    let mut bad_timestamp = false;
    let stamp =
        (header.timestamp_type() == TimestampType::LogAppendTime).then(|| header.max_timestamp());
    let base = header.base_timestamp();
    let in_range = TimestampRange::of(header, config, now_ms);
    for (index, record) in Records::new(section, header.count()).enumerate() {
        let record = record?;
        let timestamp = stamp.unwrap_or_else(|| base.wrapping_add(record.timestamp_delta));
        checked.max_timestamp = checked.max_timestamp.max(timestamp);
        checked.offsets_dense &= record.offset_delta as usize == index;
        if in_range.covers(timestamp) && (record.key.is_some() || !config.cleanup_policy.compact) {
            continue; // the rule; what follows finds out why not
        }
        if let Some((is_time, message)) = refuse(header, &record, timestamp, config, now_ms) {
            bad_timestamp |= is_time;
            errors.push(RecordError {
                batch_index: index as i32,
                message,
            });
        }
    }
    if errors.is_empty() {
        return Ok(checked);
    }
    let (code, message) = if bad_timestamp {
        let message = "One or more records have been rejected due to invalid timestamp";
        (ErrorCode::InvalidTimestamp, message.to_owned())
    } else {
        (ErrorCode::InvalidRecord, total_of(&errors))
    };
    Err(ValidateError {
        record_errors: errors,
        ..ValidateError::new(code, message)
    })
}

/// What is said of a batch of which some records are refused.
fn total_of(errors: &[RecordError]) -> String {
    let first: Vec<String> = errors
        .iter()
        .take(3)
        .map(|e| {
            format!(
                "RecordError(batchIndex={}, message='{}')",
                e.batch_index, e.message
            )
        })
        .collect();
    format!(
        "One or more records have been rejected due to {} record errors in total, and only showing \
         the first three errors at most: [{}]",
        errors.len(),
        first.join(", ")
    )
}

/// Timestamps that are surely fine: a quick first look, [`refuse`] has the last word.
struct TimestampRange {
    first: i64,
    last: i64,
}

impl TimestampRange {
    fn of(header: &BatchHeader<'_>, config: &LogConfig, now_ms: i64) -> Self {
        let (before, after) = (
            config.message_timestamp_before_max_ms,
            config.message_timestamp_after_max_ms,
        );
        let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
        match config.message_timestamp_type {
            TimestampType::LogAppendTime if !stamped => Self {
                first: i64::MIN,
                last: i64::MAX,
            },
            TimestampType::CreateTime if before >= 0 && after >= 0 => Self {
                first: now_ms.saturating_sub(before),
                last: now_ms.saturating_add(after),
            },
            _ => Self { first: 1, last: 0 }, // none is surely fine
        }
    }

    fn covers(&self, timestamp: i64) -> bool {
        // -1 is no time, and has rules of its own.
        timestamp != -1 && (self.first..=self.last).contains(&timestamp)
    }
}

/// Why this record can't be taken (true: because of its time).
fn refuse(
    header: &BatchHeader<'_>,
    record: &Record<'_>,
    timestamp: i64,
    config: &LogConfig,
    now_ms: i64,
) -> Option<(bool, String)> {
    if config.cleanup_policy.compact && record.key.is_none() {
        return Some((false, NO_KEY.to_owned()));
    }
    if config.message_timestamp_type == TimestampType::CreateTime && timestamp != -1 {
        let age = now_ms.saturating_sub(timestamp);
        let before = config.message_timestamp_before_max_ms;
        let after = config.message_timestamp_after_max_ms;
        if age > before || age.saturating_neg() > after {
            return Some((
                true,
                format!(
                    "Timestamp {timestamp} of message with offset {} is out of range. The \
                     timestamp should be within [{}, {}]",
                    record.offset_delta,
                    now_ms.saturating_sub(before),
                    now_ms.saturating_add(after)
                ),
            ));
        }
    } else if header.timestamp_type() == TimestampType::LogAppendTime {
        let message = "Invalid timestamp type in message. Producer should not set timestamp \
                       type to LogAppendTime.";
        return Some((true, message.to_owned()));
    }
    None
}

fn target_codec(target: TargetCompression, source: Compression) -> (Compression, i32) {
    match target {
        TargetCompression::Producer => (source, default_level(source)),
        TargetCompression::Uncompressed => (Compression::None, 0),
        TargetCompression::Gzip(level) => (Compression::Gzip, level),
        TargetCompression::Snappy => (Compression::Snappy, 0),
        TargetCompression::Lz4(level) => (Compression::Lz4, level),
        TargetCompression::Zstd(level) => (Compression::Zstd, level),
    }
}

/// The level that Kafka compresses with where no setting says otherwise.
pub(crate) fn default_level(codec: Compression) -> i32 {
    match codec {
        Compression::Gzip => -1,
        Compression::Lz4 => 9,
        Compression::Zstd => 3,
        Compression::None | Compression::Snappy => 0,
    }
}

/// The same records in a new batch with dense offsets, compressed as the topic wants it.
fn rewrite(
    header: &BatchHeader<'_>,
    section: &[u8],
    append_time: Option<i64>,
    target: Compression,
    level: i32,
) -> Result<Bytes, ValidateError> {
    let mut builder = BatchBuilder::new()
        .producer(
            header.producer_id(),
            header.producer_epoch(),
            header.base_sequence(),
        )
        .transactional(header.is_transactional())
        .control(header.is_control());
    if let Some(now_ms) = append_time {
        builder = builder.append_time_ms(now_ms);
    }
    for record in Records::new(section, header.count()) {
        let record = record?;
        let timestamp = header.timestamp_of(&record);
        builder.push_encoded(timestamp, record.key, record.value, record.headers);
    }
    builder
        .build_compressed(target, level)
        .map_err(|e| ValidateError::invalid(e.to_string()))
}

#[cfg(test)]
#[path = "validate_test.rs"]
mod tests;
