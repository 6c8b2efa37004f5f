//! Brokers coming and going: registration at each start, UnregisterBroker (64).

use super::{ApiError, Context, Decision, METADATA_VERSION_FEATURE, wire_error};
use crate::image::{Image, Partition};
use crate::record::{Broker, Endpoint, MetadataRecord, PartitionChange};
use flumen_base::{BrokerId, ErrorCode, TopicId, Uuid};
use flumen_wire::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use std::collections::BTreeMap;

/// What a broker says of itself when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// The cluster id of its formatted directories (`meta.properties`).
    pub cluster_id: String,
    /// Names this run of the process (random).
    pub incarnation: Uuid,
    /// Advertised client listeners, with real ports.
    pub endpoints: Vec<Endpoint>,
    /// Ids of its log directories.
    pub log_dirs: Vec<Uuid>,
    /// The finalized features that a new cluster begins with, `metadata.version` among them.
    pub features: BTreeMap<String, i16>,
}

/// The cluster id in the metadata, for a check against `meta.properties` before anything else is
/// done.
pub fn cluster_id_of(image: &Image) -> Option<&str> {
    image.cluster_id().map(|id| &**id)
}

/// Registers this broker with what it listens on now; the first start of a cluster also writes its
/// id and features.
///
/// # Errors
/// If the metadata belongs to another cluster.
pub fn register_broker(
    ctx: &Context<'_>,
    registration: &Registration,
) -> Result<Vec<MetadataRecord>, ApiError> {
    let mut records = Vec::new();
    match cluster_id_of(ctx.image) {
        None => {
            records.push(MetadataRecord::ClusterId(registration.cluster_id.clone()));
            // The metadata's own first: it says how to read what follows.
            let (metadata, others): (Vec<_>, Vec<_>) = registration
                .features
                .iter()
                .filter(|(_, level)| **level > 0)
                .partition(|(name, _)| *name == METADATA_VERSION_FEATURE);
            for (name, level) in metadata.into_iter().chain(others) {
                records.push(MetadataRecord::Feature {
                    name: name.clone(),
                    level: *level,
                });
            }
        }
        Some(id) if id == registration.cluster_id => {}
        Some(id) => {
            return Err(ApiError::new(
                ErrorCode::InconsistentClusterId,
                format!(
                    "Expected cluster ID {id}, but got cluster ID {}",
                    registration.cluster_id
                ),
            ));
        }
    }
    let id = ctx.broker.node_id;
    let before = ctx.image.brokers().get(&id);
    records.push(MetadataRecord::RegisterBroker(Broker {
        id,
        // Grows with every registration, because every registration moves the log on.
        epoch: (ctx.image.index() as i64 + 1).max(before.map_or(0, |b| b.epoch + 1)),
        incarnation: registration.incarnation,
        endpoints: registration.endpoints.clone(),
        rack: ctx.broker.rack.clone(),
        fenced: false,
        log_dirs: registration.log_dirs.clone(),
    }));
    Ok(records)
}

/// Removes a broker that is gone for good. Unlike Kafka's, a broker that is alive is refused: it
/// would go on without being part of the cluster.
pub fn unregister_broker(
    ctx: &Context<'_>,
    request: &UnregisterBrokerRequest,
) -> Decision<UnregisterBrokerResponse<'static>> {
    let outcome = unregister(ctx, request.broker_id);
    let (error_code, error_message) = wire_error(&outcome);
    let response = UnregisterBrokerResponse {
        throttle_time_ms: 0,
        error_code,
        error_message,
    };
    Decision::new(outcome.unwrap_or_default(), false, response)
}

fn unregister(ctx: &Context<'_>, id: BrokerId) -> Result<Vec<MetadataRecord>, ApiError> {
    if !ctx.image.brokers().contains_key(&id) {
        return Err(ApiError::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("Broker ID {id} is not currently registered"),
        ));
    }
    if ctx.image.is_active(id) {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!("Broker {id} is running: stop it before it is unregistered."),
        ));
    }
    let mut records = Vec::new();
    for topic in ctx.image.topics().values() {
        let changes = topic.partitions.iter();
        records.extend(changes.filter_map(|p| leave(ctx, topic.id, p, id)));
    }
    records.push(MetadataRecord::UnregisterBroker { id });
    Ok(records)
}

/// Takes a broker out of a partition's leadership and in-sync replicas; the last in-sync replica
/// stays, because only it has all data.
fn leave(
    ctx: &Context<'_>,
    topic_id: TopicId,
    partition: &Partition,
    id: BrokerId,
) -> Option<MetadataRecord> {
    let leads = partition.leader == id;
    let rest: Vec<BrokerId> = partition.isr.iter().copied().filter(|&b| b != id).collect();
    let in_sync = rest.len() < partition.isr.len();
    if !leads && !in_sync {
        return None;
    }
    let successor = rest.iter().find(|&&b| ctx.image.is_active(b));
    Some(MetadataRecord::PartitionChange(PartitionChange {
        topic_id,
        index: partition.index,
        leader: leads.then(|| successor.copied().unwrap_or(-1)),
        isr: (in_sync && !rest.is_empty()).then_some(rest),
        ..PartitionChange::default()
    }))
}
