//! Keys of share groups and of the coordinator of their stored state (`group.share.*`,
//! `share.coordinator.*`).

use crate::validate::group_kind;
use crate::view::View;
use crate::{BrokerConfig, ConfigError};

/// A value that groups may set for themselves, between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// `group.share.x`
    pub value: i32,
    /// `group.share.min.x`
    pub min: i32,
    /// `group.share.max.x`
    pub max: i32,
}

impl Bounded {
    /// A group's own value, pulled within the bounds; else the broker's.
    pub fn own(&self, own: Option<i32>) -> i32 {
        own.map_or(self.value, |own| {
            own.clamp(self.min, self.max.max(self.min))
        })
    }
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the key `group.share.x` of the same name, unless another is named
pub struct ShareSettings {
    pub session_timeout_ms: Bounded,
    pub heartbeat_interval_ms: Bounded,
    pub assignment_interval_ms: Bounded,
    pub record_lock_duration_ms: Bounded,
    pub delivery_count_limit: Bounded,
    pub partition_max_record_locks: Bounded,
    pub max_size: i32,
    pub max_share_sessions: i32,
    pub initialize_retry_interval_ms: i32,
    /// `group.share.persister.class.name`: whether states are stored. Empty or
    /// `NoOpStatePersister`: they last as long as somebody fetches for their group.
    pub stores_state: bool,
    /// `share.coordinator.state.topic.num.partitions`
    pub state_topic_num_partitions: i32,
    /// `share.coordinator.state.topic.replication.factor`
    pub state_topic_replication_factor: i16,
    /// `share.coordinator.state.topic.min.isr`
    pub state_topic_min_isr: i16,
    /// `share.coordinator.state.topic.segment.bytes`
    pub state_topic_segment_bytes: i32,
    /// `share.coordinator.state.topic.prune.interval.ms`
    pub state_topic_prune_interval_ms: i32,
    /// `share.coordinator.snapshot.update.records.per.snapshot`
    pub snapshot_update_records: i32,
    /// `share.coordinator.load.buffer.size`
    pub load_buffer_size: i32,
}

impl Default for ShareSettings {
    fn default() -> Self {
        let bounded = |value, min, max| Bounded { value, min, max };
        Self {
            session_timeout_ms: bounded(45_000, 45_000, 60_000),
            heartbeat_interval_ms: bounded(5000, 5000, 15_000),
            assignment_interval_ms: bounded(1000, 0, 15_000),
            record_lock_duration_ms: bounded(30_000, 15_000, 60_000),
            delivery_count_limit: bounded(5, 2, 10),
            partition_max_record_locks: bounded(2000, 100, 4000),
            max_size: 200,
            max_share_sessions: 2000,
            initialize_retry_interval_ms: 30_000,
            stores_state: true,
            state_topic_num_partitions: 50,
            state_topic_replication_factor: 3,
            state_topic_min_isr: 2,
            state_topic_segment_bytes: 100 << 20,
            state_topic_prune_interval_ms: 300_000,
            snapshot_update_records: 500,
            load_buffer_size: 5 << 20,
        }
    }
}

/// Reads them.
pub(crate) fn load(v: &View<'_>) -> Result<ShareSettings, ConfigError> {
    let bounded = |rest: &str| {
        Ok::<_, ConfigError>(Bounded {
            value: v.int(&format!("group.share.{rest}"))?,
            min: v.int(&format!("group.share.min.{rest}"))?,
            max: v.int(&format!("group.share.max.{rest}"))?,
        })
    };
    Ok(ShareSettings {
        session_timeout_ms: bounded("session.timeout.ms")?,
        heartbeat_interval_ms: bounded("heartbeat.interval.ms")?,
        assignment_interval_ms: bounded("assignment.interval.ms")?,
        record_lock_duration_ms: bounded("record.lock.duration.ms")?,
        delivery_count_limit: bounded("delivery.count.limit")?,
        partition_max_record_locks: bounded("partition.max.record.locks")?,
        max_size: v.int("group.share.max.size")?,
        max_share_sessions: v.int("group.share.max.share.sessions")?,
        initialize_retry_interval_ms: v.int("group.share.initialize.retry.interval.ms")?,
        stores_state: {
            let class = v.text("group.share.persister.class.name")?;
            !class.is_empty() && !class.ends_with(".NoOpStatePersister")
        },
        state_topic_num_partitions: v.int("share.coordinator.state.topic.num.partitions")?,
        state_topic_replication_factor: v
            .short("share.coordinator.state.topic.replication.factor")?,
        state_topic_min_isr: v.short("share.coordinator.state.topic.min.isr")?,
        state_topic_segment_bytes: v.int("share.coordinator.state.topic.segment.bytes")?,
        state_topic_prune_interval_ms: v.int("share.coordinator.state.topic.prune.interval.ms")?,
        snapshot_update_records: v.int("share.coordinator.snapshot.update.records.per.snapshot")?,
        load_buffer_size: v.int("share.coordinator.load.buffer.size")?,
    })
}

/// Values within their bounds, and heartbeats within sessions.
pub(crate) fn validate(c: &BrokerConfig) -> Result<(), ConfigError> {
    let s = &c.share;
    let bounded = |key, of: Bounded| (key, of.min, of.value, of.max);
    let all = [
        bounded("heartbeat.interval.ms", s.heartbeat_interval_ms),
        bounded("session.timeout.ms", s.session_timeout_ms),
        bounded("assignment.interval.ms", s.assignment_interval_ms),
        bounded("record.lock.duration.ms", s.record_lock_duration_ms),
        bounded("delivery.count.limit", s.delivery_count_limit),
        bounded("partition.max.record.locks", s.partition_max_record_locks),
    ];
    let beats = s.heartbeat_interval_ms.value < s.session_timeout_ms.value;
    group_kind("share", &all, beats)
}
