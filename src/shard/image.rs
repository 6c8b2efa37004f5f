//! The metadata image on a shard: swapping in a new one, and what follows from it for partitions
//! and settings.

use crate::Shard;
use crate::io::Effect;
use crate::mesh::Message;
use crate::partition::{Found, Partition, State};
use crate::turn::Turn;
use flumen_base::{Offset, ShardId, TopicId, TopicPartition, Uuid};
use flumen_log::{CleanupPolicy, LogConfig, TargetCompression, TimestampType};
use flumen_quorum::{ConfigMap, Delta, Image, ResourceType, Topic};
use flumen_settings::{BrokerConfig, Compression, TopicConfig};
use std::sync::Arc;

/// The broker's settings with the dynamic ones of the image. Those that contradict are left out as
/// a whole (they were checked when they were set; a static setting may have changed since).
pub(crate) fn effective_broker(base: &BrokerConfig, image: &Image) -> BrokerConfig {
    let none = ConfigMap::new();
    let own = base.node_id.to_string();
    let get = |name: &str| image.config(ResourceType::Broker, name);
    let cluster = get("").map_or(&none, |c| &**c);
    let broker = get(&own).map_or(&none, |c| &**c);
    base.with_dynamic(cluster, broker).unwrap_or_else(|error| {
        tracing::warn!(%error, "dynamic broker settings are not applied");
        base.clone()
    })
}

/// The settings of one log from those of its topic.
pub(crate) fn log_config(topic: &TopicConfig, broker: &BrokerConfig) -> LogConfig {
    let u32_of = |n: i32| u32::try_from(n).unwrap_or(0);
    let sync_always = broker.flumen.log_sync_before_ack;
    LogConfig {
        segment_bytes: u32_of(topic.segment_bytes),
        segment_ms: topic.segment_ms,
        segment_jitter_ms: topic.segment_jitter_ms,
        segment_index_bytes: u32_of(topic.segment_index_bytes),
        index_interval_bytes: u32_of(topic.index_interval_bytes),
        retention_ms: topic.retention_ms,
        retention_bytes: topic.retention_bytes,
        max_message_bytes: u32_of(topic.max_message_bytes),
        compression: match topic.compression {
            Compression::Producer => TargetCompression::Producer,
            Compression::Uncompressed => TargetCompression::Uncompressed,
            Compression::Gzip(level) => TargetCompression::Gzip(level),
            Compression::Snappy => TargetCompression::Snappy,
            Compression::Lz4(level) => TargetCompression::Lz4(level),
            Compression::Zstd(level) => TargetCompression::Zstd(level),
        },
        message_timestamp_type: match topic.timestamp_type {
            flumen_settings::TimestampType::CreateTime => TimestampType::CreateTime,
            flumen_settings::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        message_timestamp_before_max_ms: topic.timestamp_before_max_ms,
        message_timestamp_after_max_ms: topic.timestamp_after_max_ms,
        flush_messages: if sync_always { 1 } else { topic.flush_messages },
        flush_ms: topic.flush_ms,
        cleanup_policy: CleanupPolicy {
            delete: topic.cleanup_policy.delete,
            compact: topic.cleanup_policy.compact,
        },
        delete_retention_ms: topic.delete_retention_ms,
        min_cleanable_dirty_ratio: topic.min_cleanable_dirty_ratio,
        min_compaction_lag_ms: topic.min_compaction_lag_ms,
        max_compaction_lag_ms: topic.max_compaction_lag_ms,
        file_delete_delay_ms: topic.file_delete_delay_ms,
        preallocate: topic.preallocate,
        txn_verification: broker.log.transaction_partition_verification_enable,
        producer_id_expiration_ms: i64::from(broker.log.producer_id_expiration_ms),
        min_insync_replicas: topic.min_insync_replicas,
    }
}

impl Shard {
    /// Swaps in a new image from shard 0 and tells it so.
    pub(crate) fn apply_image(&mut self, turn: &mut Turn<'_>, image: Arc<Image>, delta: &Delta) {
        let version = image.index();
        // The quorum's first delta begins at its snapshot; this shard began with what was read at
        // start.
        let first;
        let delta = if std::mem::replace(&mut self.image_followed, true) {
            delta
        } else {
            first = Delta::between(&self.image, &image);
            &first
        };
        self.image = image;
        for topic in &delta.deleted {
            for p in &topic.partitions {
                self.remove_partition(turn, id_of(topic, p.index));
            }
        }
        let deleted: Vec<(&str, TopicId)> =
            delta.deleted.iter().map(|t| (&*t.name, t.id)).collect();
        if !deleted.is_empty() {
            self.forget_topics(turn, &deleted);
        }
        if deleted
            .iter()
            .any(|(name, _)| crate::txns::is_txn_topic(name))
        {
            self.forget_txns();
        }
        if deleted
            .iter()
            .any(|(name, _)| *name == crate::share_states::SHARE_STATE_TOPIC)
        {
            self.forget_share_states();
        }
        self.share_states_of_deleted(turn, &deleted);
        for topic in &delta.created {
            self.adopt_topic(topic);
        }
        for change in &delta.partitions {
            self.adopt_partition(&change.topic, change.index);
            self.wake_watchers(turn, id_of(&change.topic, change.index));
        }
        self.apply_configs(delta);
        self.refresh_group_metadata(Some(delta));
        self.reconfigure_txns();
        if self.id == ShardId::FIRST {
            self.on_applied(turn, self.id, version);
        } else {
            let message = Message::Applied(version);
            turn.fx.push(Effect::Mesh(ShardId::FIRST, message));
        }
    }

    /// Takes over what the image gives this shard, at start.
    pub(crate) fn adopt_all_partitions(&mut self) {
        let image = self.image.clone();
        for topic in image.topics().values() {
            self.adopt_topic(topic);
        }
        self.refresh_group_metadata(None);
    }

    fn adopt_topic(&mut self, topic: &Topic) {
        for p in &topic.partitions {
            self.adopt_partition(topic, p.index);
        }
    }

    fn adopt_partition(&mut self, topic: &Topic, index: i32) {
        let tp = id_of(topic, index);
        let node = self.broker.node_id;
        let Some(p) = topic.partition(index) else {
            return;
        };
        let Some(replica) = p.replicas.iter().position(|r| *r == node) else {
            return;
        };
        if self.owner(tp) != self.id {
            return;
        }
        if let Some(known) = self.partitions.map.get_mut(&tp) {
            known.leader_epoch = p.leader_epoch;
            return;
        }
        let assigned = p.directories.get(replica).copied();
        let log_dir = self.place(tp, &topic.name, assigned);
        let usable = self.dirs.is_online(log_dir);
        let path = self
            .dir_path(log_dir)
            .join(format!("{}-{index}", topic.name));
        let config = Arc::new(self.log_config_of(&topic.name));
        let mut partition = Partition::new(
            tp,
            topic.name.clone(),
            (log_dir, path),
            p.leader_epoch,
            config,
        );
        if !self.image_followed {
            // What a topic of the same name left is not this one's.
            partition.found = self.partitions.found_state(log_dir, &topic.name, index);
        }
        if !usable {
            partition.state = State::Failed;
            self.partitions.map.insert(tp, partition);
            return;
        }
        self.partitions.map.insert(tp, partition);
        self.partitions.to_load.push_back(tp);
        if crate::groups::is_offsets_topic(&topic.name) {
            self.announce_groups(tp);
            self.reconfigure_groups();
        }
        if crate::txns::is_txn_topic(&topic.name) {
            self.announce_txns(tp, p.leader_epoch);
            self.reconfigure_txns();
        }
        if *topic.name == *crate::share_states::SHARE_STATE_TOPIC {
            self.announce_share_states(tp);
        }
    }

    /// The settings of a topic's logs by the image and the broker's settings.
    fn log_config_of(&self, topic: &str) -> LogConfig {
        let none = ConfigMap::new();
        let overrides = self.image.topic_config(topic).map_or(&none, |c| &**c);
        let config = TopicConfig::resolve(&self.broker, overrides).unwrap_or_else(|error| {
            tracing::warn!(topic, %error, "topic settings are not applied");
            self.broker.topics.log.clone()
        });
        log_config(&config, &self.broker)
    }

    fn apply_configs(&mut self, delta: &Delta) {
        let broker = delta
            .configs
            .iter()
            .any(|(k, _)| *k == ResourceType::Broker);
        if broker {
            self.broker = Arc::new(effective_broker(&self.config.broker, &self.image));
            self.reconfigure_groups();
        }
        let changed = |topic: &str| {
            let mut configs = delta.configs.iter();
            broker || configs.any(|(k, name)| *k == ResourceType::Topic && name == topic)
        };
        let tps: Vec<TopicPartition> = self
            .partitions
            .map
            .values()
            .filter(|p| !delta.configs.is_empty() && changed(&p.topic))
            .map(|p| p.tp)
            .collect();
        for tp in tps {
            let Some(topic) = self.partitions.map.get(&tp).map(|p| p.topic.clone()) else {
                continue;
            };
            let config = Arc::new(self.log_config_of(&topic));
            if let Some(p) = self.partitions.map.get_mut(&tp) {
                p.config = config.clone();
                if let Some(log) = p.log_mut() {
                    log.set_config(config);
                }
            }
        }
    }

    /// The id of a partition by its topic's name, if the image has it.
    pub(crate) fn partition_id(&self, topic: &str, index: i32) -> Option<TopicPartition> {
        let topic = self.image.topic(topic)?;
        topic.partition(index).map(|_| id_of(topic, index))
    }
}

impl Shard {
    /// The log directory of a partition: where it is found at start, else where the metadata says
    /// that it is. One of a disk that can't be used is not made anew elsewhere: its data may come
    /// back.
    fn place(&self, tp: TopicPartition, topic: &str, assigned: Option<Uuid>) -> usize {
        const NONE: usize = usize::MAX;
        let assigned = assigned.filter(|id| !id.is_zero());
        let dirs = self.config.log_dirs.iter();
        let named = dirs.clone().position(|d| Some(d.id) == assigned);
        if self.image_followed
            && let Some(named) = named
        {
            return named; // it is new
        }
        let key = (topic.to_owned(), tp.partition);
        let found = self.partitions.found.iter().position(|d| d.has(&key));
        match (found, named, assigned) {
            (Some(found), ..) => found,
            (None, Some(named), _) => named,
            (None, None, Some(_)) => NONE,
            (None, None, None) if !self.image_followed && !self.dirs.all_online() => NONE,
            (None, None, None) => {
                let online: Vec<usize> = self.dirs.online().collect();
                let spread = tp
                    .topic_id
                    .fold64()
                    .wrapping_add(tp.partition.unsigned_abs().into());
                let n = (spread % online.len().max(1) as u64) as usize;
                online.get(n).copied().unwrap_or(NONE)
            }
        }
    }
}

impl crate::partitions::Partitions {
    /// What the checkpoints of its directory say about a partition.
    fn found_state(&self, log_dir: usize, topic: &str, index: i32) -> Found {
        let key = (topic.to_owned(), index);
        let Some(dir) = self.found.get(log_dir) else {
            return Found::default();
        };
        // It may have come from another directory after the checkpoints were written.
        let log_starts = self.found.iter().filter_map(|d| d.log_starts.get(&key));
        let elsewhere = log_starts.max().copied().unwrap_or(Offset(0));
        let log_start = dir.log_starts.get(&key).copied();
        Found {
            clean: dir.clean,
            recovery_point: match dir.recovery_points.get(&key) {
                Some(point) => *point,
                None if dir.points_lost => Offset::UNKNOWN,
                None => Offset(0),
            },
            cleaned: match dir.cleaned.get(&key) {
                Some(cleaned) => Some(*cleaned),
                None => dir.cleaned_lost.then_some(Offset(0)),
            },
            log_start: log_start.unwrap_or(elsewhere),
        }
    }
}

/// The id of a topic's partition.
pub(crate) fn id_of(topic: &Topic, partition: i32) -> TopicPartition {
    TopicPartition {
        topic_id: topic.id,
        partition,
    }
}
