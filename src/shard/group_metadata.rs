//! The cluster's metadata as the group coordinator needs it to assign partitions, and what is set
//! for single groups; its topics as requests name them.

use crate::Shard;
use flumen_base::{PartitionIndex, Uuid};
use flumen_coordinator::{
    Assignor, CoordinatorConfig, GroupSettings, Metadata, MigrationPolicy, StreamsSettings, Topics,
};
use flumen_quorum::controller::{GROUP_VERSION_FEATURE, STREAMS_VERSION_FEATURE};
use flumen_quorum::{Delta, Image, ResourceType};
use flumen_settings::{Bounded, BrokerConfig};
use std::sync::Arc;

/// One version of it.
#[derive(Debug)]
struct ClusterMetadata {
    image: Arc<Image>,
    broker: Arc<BrokerConfig>,
}

impl Metadata for ClusterMetadata {
    fn version(&self) -> i64 {
        i64::try_from(self.image.index()).unwrap_or(i64::MAX)
    }

    fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.image.topic(name).map(|t| t.id)
    }

    fn topic_name(&self, id: Uuid) -> Option<&str> {
        self.image.topic_by_id(&id).map(|t| &*t.name)
    }

    fn partition_count(&self, id: Uuid) -> Option<i32> {
        let topic = self.image.topic_by_id(&id)?;
        i32::try_from(topic.partitions.len()).ok()
    }

    fn racks(&self, id: Uuid, partition: PartitionIndex) -> Vec<&str> {
        let topic = self.image.topic_by_id(&id);
        let replicas = topic.and_then(|t| t.partition(partition));
        let replicas = replicas.map_or(&[][..], |p| &p.replicas);
        let brokers = replicas.iter().filter_map(|r| self.image.brokers().get(r));
        brokers.filter_map(|b| b.rack.as_deref()).collect()
    }

    fn for_each_topic(&self, each: &mut dyn FnMut(&str)) {
        self.image.topics().keys().for_each(|name| each(name));
    }

    fn group_settings(&self, group: &str) -> GroupSettings {
        let Some(config) = self.image.config(ResourceType::Group, group) else {
            return GroupSettings::default();
        };
        let (g, s) = (&self.broker.groups, &self.broker.share);
        // Bounds may have changed since a value was set; Kafka pulls it within them, too.
        let get = |name: &str, min: i32, max: i32| {
            let value: i32 = config.get(name)?.trim().parse().ok()?;
            Some(value.clamp(min, max.max(min)))
        };
        let share = |name: &str, bounds: Bounded| get(name, bounds.min, bounds.max);
        GroupSettings {
            session_timeout_ms: get(
                "consumer.session.timeout.ms",
                g.consumer_min_session_timeout_ms,
                g.consumer_max_session_timeout_ms,
            ),
            heartbeat_interval_ms: get(
                "consumer.heartbeat.interval.ms",
                g.consumer_min_heartbeat_interval_ms,
                g.consumer_max_heartbeat_interval_ms,
            ),
            assignment_interval_ms: get(
                "consumer.assignment.interval.ms",
                g.consumer_min_assignment_interval_ms,
                g.consumer_max_assignment_interval_ms,
            ),
            share_session_timeout_ms: share("share.session.timeout.ms", s.session_timeout_ms),
            share_heartbeat_interval_ms: share(
                "share.heartbeat.interval.ms",
                s.heartbeat_interval_ms,
            ),
            share_assignment_interval_ms: share(
                "share.assignment.interval.ms",
                s.assignment_interval_ms,
            ),
            streams: StreamsSettings {
                session_timeout_ms: get(
                    "streams.session.timeout.ms",
                    g.streams_min_session_timeout_ms,
                    g.streams_max_session_timeout_ms,
                ),
                heartbeat_interval_ms: get(
                    "streams.heartbeat.interval.ms",
                    g.streams_min_heartbeat_interval_ms,
                    g.streams_max_heartbeat_interval_ms,
                ),
                assignment_interval_ms: get(
                    "streams.assignment.interval.ms",
                    g.streams_min_assignment_interval_ms,
                    g.streams_max_assignment_interval_ms,
                ),
                initial_rebalance_delay_ms: get("streams.initial.rebalance.delay.ms", 0, i32::MAX),
                standby_replicas: get(
                    "streams.num.standby.replicas",
                    0,
                    g.streams_max_standby_replicas,
                ),
            },
        }
    }
}

/// Fills in the settings of consumer, share and streams groups.
pub(crate) fn with_consumer_settings(
    config: CoordinatorConfig,
    broker: &BrokerConfig,
) -> CoordinatorConfig {
    let (g, s) = (&broker.groups, &broker.share);
    let assignors = g.consumer_assignors.iter();
    let mut assignors: Vec<_> = assignors.filter_map(|n| Assignor::by_name(n)).collect();
    if assignors.is_empty() {
        assignors = Assignor::ALL.to_vec(); // only classes of Java were named
    }
    let policy = MigrationPolicy::by_name(&g.consumer_migration_policy);
    CoordinatorConfig {
        consumer_group_session_timeout_ms: g.consumer_session_timeout_ms,
        consumer_group_heartbeat_interval_ms: g.consumer_heartbeat_interval_ms,
        consumer_group_assignment_interval_ms: g.consumer_assignment_interval_ms,
        consumer_group_max_size: usize::try_from(g.consumer_max_size).unwrap_or(usize::MAX),
        consumer_group_assignors: assignors,
        consumer_group_migration_policy: policy.unwrap_or_default(),
        consumer_group_regex_refresh_interval_ms: g.consumer_regex_refresh_interval_ms,
        streams_group_session_timeout_ms: g.streams_session_timeout_ms,
        streams_group_heartbeat_interval_ms: g.streams_heartbeat_interval_ms,
        streams_group_assignment_interval_ms: g.streams_assignment_interval_ms,
        streams_group_initial_rebalance_delay_ms: g.streams_initial_rebalance_delay_ms,
        streams_group_num_standby_replicas: g.streams_num_standby_replicas,
        streams_group_max_size: usize::try_from(g.streams_max_size).unwrap_or(usize::MAX),
        share_group_session_timeout_ms: s.session_timeout_ms.value,
        share_group_heartbeat_interval_ms: s.heartbeat_interval_ms.value,
        share_group_assignment_interval_ms: s.assignment_interval_ms.value,
        share_group_max_size: usize::try_from(s.max_size).unwrap_or(usize::MAX),
        share_group_initialize_retry_interval_ms: s.initialize_retry_interval_ms,
        ..config
    }
}

impl Shard {
    /// Whether the consumer group protocol may be spoken: the feature is finalized and the protocol
    /// is among `group.coordinator.rebalance.protocols`.
    pub(crate) fn serves_consumer_groups(&self) -> bool {
        self.serves_groups(GROUP_VERSION_FEATURE, "consumer")
    }

    /// The same of the streams group protocol.
    pub(crate) fn serves_streams_groups(&self) -> bool {
        self.serves_groups(STREAMS_VERSION_FEATURE, "streams")
    }

    fn serves_groups(&self, feature: &str, protocol: &str) -> bool {
        let protocols = &self.broker.groups.coordinator_rebalance_protocols;
        self.image.feature(feature) >= 1 && protocols.iter().any(|p| p == protocol)
    }

    /// Hands the coordinator the metadata image there is, after `delta` (`None`: the first).
    pub(crate) fn refresh_group_metadata(&mut self, delta: Option<&Delta>) {
        let metadata = ClusterMetadata {
            image: self.image.clone(),
            broker: self.broker.clone(),
        };
        let mut changed: Vec<&str> = Vec::new();
        let mut created = false;
        if let Some(delta) = delta {
            let topics = delta.created.iter().chain(&delta.deleted);
            changed.extend(topics.map(|t| &*t.name));
            changed.extend(delta.partitions.iter().map(|p| &*p.topic.name));
            changed.sort_unstable();
            changed.dedup();
            created = !delta.created.is_empty();
        }
        let coordinator = &mut self.groups.coordinator;
        coordinator.set_metadata(Arc::new(metadata), &changed, created);
    }
}

/// The image as the coordinator asks it.
pub(crate) struct ImageTopics<'a>(pub(crate) &'a Image);

impl Topics for ImageTopics<'_> {
    fn id_of(&self, name: &str) -> Option<Uuid> {
        self.0.topic(name).map(|t| t.id)
    }

    fn name_of(&self, id: Uuid) -> Option<&str> {
        self.0.topic_by_id(&id).map(|t| &*t.name)
    }

    fn has_partition(&self, name: &str, partition: PartitionIndex) -> bool {
        self.0
            .topic(name)
            .is_some_and(|t| t.partition(partition).is_some())
    }
}
