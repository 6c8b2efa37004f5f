//! A Kafka cluster's metadata as Flumen's records.

use super::Key;
use super::kafka::{Metadata, Partition};
use flumen_base::Uuid;
use flumen_log::checkpoint::MetaProperties;
use flumen_quorum::controller::{METADATA_VERSION_FEATURE, built_feature};
use flumen_quorum::{
    Broker, ConfigRecord, Endpoint, MetadataRecord, PartitionRecord, ResourceType,
};

/// Whether a finalized feature means here what it means there, at that level.
pub(super) fn is_kept(feature: &str, level: i16) -> bool {
    let built = built_feature(feature).is_some_and(|built| level <= built.max);
    built || feature == METADATA_VERSION_FEATURE
}

/// Every partition of the metadata, with its topic's id.
pub(super) fn partitions(metadata: &Metadata) -> impl Iterator<Item = (Key, Uuid)> + '_ {
    metadata.topics.iter().flat_map(|(id, topic)| {
        let indexes = topic.partitions.keys();
        indexes.map(move |index| ((topic.name.clone(), *index), *id))
    })
}

/// The records; `directory` is where a partition was brought to.
pub(super) fn of(
    metadata: &Metadata,
    meta: &MetaProperties,
    directory: impl Fn(&Key) -> Option<Uuid>,
) -> Vec<MetadataRecord> {
    let mut out = vec![MetadataRecord::ClusterId(meta.cluster_id.clone())];
    let kept = metadata.features.iter();
    for (name, level) in kept.filter(|(name, level)| is_kept(name, **level)) {
        out.push(MetadataRecord::Feature {
            name: name.clone(),
            level: *level,
        });
    }
    if metadata.next_producer_id > 0 {
        out.push(MetadataRecord::ProducerIds {
            broker: meta.node_id,
            next: metadata.next_producer_id,
        });
    }
    out.extend(broker(metadata, meta.node_id));
    for (id, topic) in &metadata.topics {
        out.push(MetadataRecord::Topic {
            name: topic.name.clone(),
            id: *id,
        });
        for (&index, state) in &topic.partitions {
            let key = (topic.name.clone(), index);
            let record = partition(*id, index, state, meta.node_id, directory(&key));
            out.push(MetadataRecord::Partition(record));
        }
    }
    for ((kind, resource), config) in &metadata.configs {
        // Types that are not stored here have no effect there either.
        let Some(kind) = ResourceType::from_id(*kind) else {
            continue;
        };
        for (key, value) in config {
            out.push(MetadataRecord::Config(ConfigRecord {
                kind,
                resource: resource.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            }));
        }
    }
    out
}

/// The broker as it was, fenced: it registers anew, with a higher epoch, when it starts.
fn broker(metadata: &Metadata, node_id: i32) -> Option<MetadataRecord> {
    let broker = metadata.brokers.get(&node_id)?;
    let endpoints = broker.end_points.iter().map(|e| Endpoint {
        listener: e.name.to_string(),
        host: e.host.to_string(),
        port: e.port,
        security_protocol: e.security_protocol,
    });
    Some(MetadataRecord::RegisterBroker(Broker {
        id: node_id,
        epoch: broker.broker_epoch,
        incarnation: broker.incarnation_id,
        endpoints: endpoints.collect(),
        rack: broker.rack.as_ref().map(ToString::to_string),
        fenced: true,
        log_dirs: broker.log_dirs.clone(),
    }))
}

/// A broker that stops gives up its leaderships; here it takes them again, as the other would have
/// at its next start: with the next epoch.
fn partition(
    topic_id: Uuid,
    index: i32,
    state: &Partition,
    node_id: i32,
    directory: Option<Uuid>,
) -> PartitionRecord {
    PartitionRecord {
        topic_id,
        index,
        replicas: vec![node_id],
        directories: vec![directory.unwrap_or(Uuid::ZERO)],
        isr: vec![node_id],
        leader: node_id,
        leader_epoch: state.leader_epoch.saturating_add(1),
        partition_epoch: state.partition_epoch.saturating_add(1),
    }
}
