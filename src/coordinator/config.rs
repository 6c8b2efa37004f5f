//! Settings of the coordinator, by Kafka's names (dots for underscores), with Kafka 4.3.1's
//! defaults.

use crate::modern::assign::Assignor;

/// `group.consumer.migration.policy`: which way groups may change their kind while they have
/// members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Kafka's names
pub enum MigrationPolicy {
    #[default]
    Bidirectional,
    /// From classic to consumer.
    Upgrade,
    /// From consumer to classic.
    Downgrade,
    Disabled,
}

impl MigrationPolicy {
    /// The policy of this name, in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "bidirectional" => Self::Bidirectional,
            "upgrade" => Self::Upgrade,
            "downgrade" => Self::Downgrade,
            "disabled" => Self::Disabled,
            _ => return None,
        })
    }

    pub(crate) fn upgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Upgrade)
    }

    pub(crate) fn downgrades(self) -> bool {
        matches!(self, Self::Bidirectional | Self::Downgrade)
    }
}

/// Plain values; the shard fills them from the settings. Times in milliseconds unless said
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each field is the Kafka setting of that name
pub struct CoordinatorConfig {
    pub group_min_session_timeout_ms: i32,
    pub group_max_session_timeout_ms: i32,
    pub group_initial_rebalance_delay_ms: i32,
    /// Members of one group.
    pub group_max_size: usize,
    /// Longest metadata string of one committed offset, in UTF-16 units (as Java counts).
    pub offset_metadata_max_bytes: usize,
    /// Already converted from `offsets.retention.minutes`.
    pub offsets_retention_ms: i64,
    pub offsets_retention_check_interval_ms: i64,
    /// Partitions of `__consumer_offsets`, as the topic really has them.
    pub offsets_topic_num_partitions: i32,
    /// How long an append of ours may take before the shard fails it. Carried for the shard; the
    /// coordinator does not use it.
    pub offsets_commit_timeout_ms: i32,
    /// Ours, not a setting of Kafka: how much longer than its time a join phase lasts (unless its
    /// time is zero). A member that hears of the rebalance just before the end still has to commit
    /// and to send its JoinGroup; cut off to the millisecond it is dropped, joins as a new member
    /// and causes the next rebalance, and members whose heartbeats are further apart than the join
    /// phase is long can go on dropping each other.
    pub join_grace_ms: i32,
    pub consumer_group_session_timeout_ms: i32,
    pub consumer_group_heartbeat_interval_ms: i32,
    pub consumer_group_assignment_interval_ms: i32,
    /// Members of one consumer group.
    pub consumer_group_max_size: usize,
    /// The first is the one that a group has whose members name none.
    pub consumer_group_assignors: Vec<Assignor>,
    pub consumer_group_migration_policy: MigrationPolicy,
    pub consumer_group_regex_refresh_interval_ms: i32,
    pub streams_group_session_timeout_ms: i32,
    pub streams_group_heartbeat_interval_ms: i32,
    pub streams_group_assignment_interval_ms: i32,
    pub streams_group_initial_rebalance_delay_ms: i32,
    pub streams_group_num_standby_replicas: i32,
    /// Members of one streams group.
    pub streams_group_max_size: usize,
    pub share_group_session_timeout_ms: i32,
    pub share_group_heartbeat_interval_ms: i32,
    pub share_group_assignment_interval_ms: i32,
    /// Members of one share group.
    pub share_group_max_size: usize,
    pub share_group_initialize_retry_interval_ms: i32,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            group_min_session_timeout_ms: 6_000,
            group_max_session_timeout_ms: 1_800_000,
            group_initial_rebalance_delay_ms: 3_000,
            group_max_size: i32::MAX as usize,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 10_080 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            offsets_topic_num_partitions: 50,
            offsets_commit_timeout_ms: 5_000,
            join_grace_ms: 0,
            consumer_group_session_timeout_ms: 45_000,
            consumer_group_heartbeat_interval_ms: 5_000,
            consumer_group_assignment_interval_ms: 1_000,
            consumer_group_max_size: i32::MAX as usize,
            consumer_group_assignors: Assignor::ALL.to_vec(),
            consumer_group_migration_policy: MigrationPolicy::Bidirectional,
            consumer_group_regex_refresh_interval_ms: 600_000,
            streams_group_session_timeout_ms: 45_000,
            streams_group_heartbeat_interval_ms: 5_000,
            streams_group_assignment_interval_ms: 1_000,
            streams_group_initial_rebalance_delay_ms: 3_000,
            streams_group_num_standby_replicas: 0,
            streams_group_max_size: i32::MAX as usize,
            share_group_session_timeout_ms: 45_000,
            share_group_heartbeat_interval_ms: 5_000,
            share_group_assignment_interval_ms: 1_000,
            share_group_max_size: 200,
            share_group_initialize_retry_interval_ms: 30_000,
        }
    }
}
