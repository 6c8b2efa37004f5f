//! The typed configuration of one topic.

use crate::definitions::{definition, definitions};
use crate::describe::{ConfigResource, ValueType};
use crate::value::Value;
use crate::view::View;
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

/// One topic's configuration with every default resolved. Names are Kafka's keys in snake case;
/// `_ms` milliseconds,
/// `_bytes` bytes; -1 means unlimited where Kafka says so; i64::MAX means never for the flush keys.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of the same name
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
    /// The broker's defaults (dynamic ones included, if `broker` came from
    /// [`BrokerConfig::with_dynamic`]) overlaid with
    /// the topic's own settings. Fails on a value that [`crate::validate_topic`] would refuse.
    pub fn resolve(broker: &BrokerConfig, overrides: &ConfigMap) -> Result<Self, ConfigError> {
        let mut config = broker.topics.log.clone();
        // The level belongs to the codec, whichever layer each comes from.
        let mut codec = config.codec_name();
        let mut levels = broker.topics.compression_levels;
        for (name, text) in overrides {
            let unknown = || ConfigError::Unknown {
                kind: "topic",
                name: name.clone(),
            };
            let definition = definition(ConfigResource::Topic, name).ok_or_else(unknown)?;
            let value = definition.parse(text)?;
            match (name.as_str(), value) {
                ("compression.type", Value::Text(name)) => codec = name,
                ("compression.gzip.level", Value::Int(n)) => levels.gzip = n,
                ("compression.lz4.level", Value::Int(n)) => levels.lz4 = n,
                ("compression.zstd.level", Value::Int(n)) => levels.zstd = n,
                (name, value) => config.set(name, value),
            }
        }
        config.compression = Compression::from_parts(&codec, levels);
        if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
            return Err(ConfigError::Refused(format!(
                "conflict topic config setting min.compaction.lag.ms ({}) > max.compaction.lag.ms \
                 ({})",
                config.min_compaction_lag_ms, config.max_compaction_lag_ms
            )));
        }
        Ok(config)
    }

    /// The broker's `log.*` keys as topic defaults.
    pub(crate) fn load(view: &View<'_>) -> Result<(Self, CompressionLevels), ConfigError> {
        let levels = CompressionLevels {
            gzip: view.int("compression.gzip.level")?,
            lz4: view.int("compression.lz4.level")?,
            zstd: view.int("compression.zstd.level")?,
        };
        let mut config = Self {
            compression: Compression::from_parts(&view.text("compression.type")?, levels),
            ..Self::default()
        };
        for definition in definitions(ConfigResource::Topic).values() {
            if definition.synonyms.is_empty() || definition.name.starts_with("compression.") {
                continue;
            }
            let value = match definition.value_type {
                ValueType::Long => Some(Value::Long(view.first_long(&definition.synonyms)?)),
                _ => view.value(definition.synonyms[0].0)?,
            };
            if let Some(value) = value {
                config.set(definition.name, value);
            }
        }
        if config.retention_ms < 0 {
            config.retention_ms = -1;
        }
        Ok((config, levels))
    }

    /// Sets one field from its validated value; a key without a field (a codec's level) is none of
    /// its business.
    fn set(&mut self, name: &str, value: Value) {
        match value {
            Value::Long(n) => self.set_long(name, n),
            Value::Int(n) => self.set_int(name, n),
            Value::Bool(b) => self.set_bool(name, b),
            Value::Double(x) if name == "min.cleanable.dirty.ratio" => {
                self.min_cleanable_dirty_ratio = x;
            }
            Value::Text(text) if name == "message.timestamp.type" => {
                self.timestamp_type = if text == "LogAppendTime" {
                    TimestampType::LogAppendTime
                } else {
                    TimestampType::CreateTime
                };
            }
            Value::List(items) => self.set_list(name, items),
            Value::Double(_) | Value::Text(_) | Value::Short(_) => {}
        }
    }

    fn set_long(&mut self, name: &str, n: i64) {
        let field = match name {
            "delete.retention.ms" => &mut self.delete_retention_ms,
            "file.delete.delay.ms" => &mut self.file_delete_delay_ms,
            "flush.messages" => &mut self.flush_messages,
            "flush.ms" => &mut self.flush_ms,
            "max.compaction.lag.ms" => &mut self.max_compaction_lag_ms,
            "message.timestamp.before.max.ms" => &mut self.timestamp_before_max_ms,
            "message.timestamp.after.max.ms" => &mut self.timestamp_after_max_ms,
            "min.compaction.lag.ms" => &mut self.min_compaction_lag_ms,
            "retention.bytes" => &mut self.retention_bytes,
            "retention.ms" => &mut self.retention_ms,
            "segment.jitter.ms" => &mut self.segment_jitter_ms,
            "segment.ms" => &mut self.segment_ms,
            "local.retention.ms" => &mut self.local_retention_ms,
            "local.retention.bytes" => &mut self.local_retention_bytes,
            _ => return,
        };
        *field = n;
    }

    fn set_int(&mut self, name: &str, n: i32) {
        let field = match name {
            "index.interval.bytes" => &mut self.index_interval_bytes,
            "max.message.bytes" => &mut self.max_message_bytes,
            "min.insync.replicas" => &mut self.min_insync_replicas,
            "segment.bytes" | "internal.segment.bytes" => &mut self.segment_bytes,
            "segment.index.bytes" => &mut self.segment_index_bytes,
            _ => return,
        };
        *field = n;
    }

    fn set_bool(&mut self, name: &str, b: bool) {
        let field = match name {
            "preallocate" => &mut self.preallocate,
            "unclean.leader.election.enable" => &mut self.unclean_leader_election_enable,
            "remote.storage.enable" => &mut self.remote_storage_enable,
            "remote.log.copy.disable" => &mut self.remote_copy_disable,
            "remote.log.delete.on.disable" => &mut self.remote_delete_on_disable,
            _ => return,
        };
        *field = b;
    }

    fn set_list(&mut self, name: &str, items: Vec<String>) {
        match name {
            "cleanup.policy" => {
                self.cleanup_policy = CleanupPolicy {
                    delete: items.iter().any(|p| p == "delete"),
                    compact: items.iter().any(|p| p == "compact"),
                };
            }
            "leader.replication.throttled.replicas" => {
                self.leader_replication_throttled_replicas = items;
            }
            "follower.replication.throttled.replicas" => {
                self.follower_replication_throttled_replicas = items;
            }
            _ => {}
        }
    }

    fn codec_name(&self) -> String {
        match self.compression {
            Compression::Producer => "producer",
            Compression::Uncompressed => "uncompressed",
            Compression::Gzip(_) => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4(_) => "lz4",
            Compression::Zstd(_) => "zstd",
        }
        .to_owned()
    }
}

/// `compression.gzip.level` and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // by codec
pub struct CompressionLevels {
    pub gzip: i32,
    pub lz4: i32,
    pub zstd: i32,
}

impl Default for CompressionLevels {
    fn default() -> Self {
        Self {
            gzip: -1,
            lz4: 9,
            zstd: 3,
        }
    }
}

impl Compression {
    fn from_parts(codec: &str, levels: CompressionLevels) -> Self {
        match codec {
            "uncompressed" => Self::Uncompressed,
            "gzip" => Self::Gzip(levels.gzip),
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4(levels.lz4),
            "zstd" => Self::Zstd(levels.zstd),
            _ => Self::Producer,
        }
    }
}
