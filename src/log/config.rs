//! The settings of one log: Kafka's topic configs (4.3.1 names and defaults), already parsed.

/// Who decides a record's timestamp (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's at append.
    LogAppendTime,
}

/// `compression.type`: what the broker stores. Levels as in `compression.{gzip,lz4,zstd}.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TargetCompression {
    /// As the producer sent it.
    #[default]
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip; -1 is zlib's default, else 1 to 9.
    Gzip(i32),
    /// Snappy in xerial's framing.
    Snappy,
    /// LZ4 frames; 1 to 17.
    Lz4(i32),
    /// Zstandard; -131072 to 22.
    Zstd(i32),
}

/// `cleanup.policy`. Both may be off (KIP-1080 and `cleanup.policy=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Old segments are deleted.
    pub delete: bool,
    /// Only the last record of each key is kept (records must have keys).
    pub compact: bool,
}

impl Default for CleanupPolicy {
    fn default() -> Self {
        Self {
            delete: true,
            compact: false,
        }
    }
}

/// Settings of one log; field names are Kafka's config names. Times in milliseconds, sizes in
/// bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`, at most `i32::MAX`.
    pub segment_bytes: u32,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: each segment rolls up to so much earlier.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: a full index rolls the segment.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `retention.ms`; -1 keeps for ever.
    pub retention_ms: i64,
    /// `retention.bytes`; -1 has no limit.
    pub retention_bytes: i64,
    /// `max.message.bytes`: the largest batch.
    pub max_message_bytes: u32,
    /// `compression.type` with its level.
    pub compression: TargetCompression,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub message_timestamp_after_max_ms: i64,
    /// `flush.messages`: records between syncs.
    pub flush_messages: i64,
    /// `flush.ms`: time between syncs.
    pub flush_ms: i64,
    /// `cleanup.policy`.
    pub cleanup_policy: CleanupPolicy,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`, 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `file.delete.delay.ms`.
    pub file_delete_delay_ms: i64,
    /// `preallocate`: a segment's blocks are allocated with its first write.
    pub preallocate: bool,
    /// `transaction.partition.verification.enable` (a broker setting).
    pub txn_verification: bool,
    /// `producer.id.expiration.ms` (a broker setting).
    pub producer_id_expiration_ms: i64,
    /// `min.insync.replicas`: kept here because it is a topic config; the log does not use it.
    pub min_insync_replicas: i32,
}

impl LogConfig {
    /// After which time a segment rolls: what is to be compacted must not stay in the active one
    /// for longer than `max.compaction.lag.ms`.
    pub(crate) fn roll_ms(&self) -> i64 {
        match self.cleanup_policy.compact && self.max_compaction_lag_ms > 0 {
            true => self.segment_ms.min(self.max_compaction_lag_ms),
            false => self.segment_ms,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: WEEK_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: WEEK_MS,
            retention_bytes: -1,
            max_message_bytes: 1_048_588,
            compression: TargetCompression::Producer,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: 3_600_000,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            cleanup_policy: CleanupPolicy::default(),
            delete_retention_ms: 86_400_000,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            file_delete_delay_ms: 60_000,
            preallocate: false,
            txn_verification: true,
            producer_id_expiration_ms: 86_400_000,
            min_insync_replicas: 1,
        }
    }
}
