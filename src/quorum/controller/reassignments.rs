//! AlterPartitionReassignments (45), versions 0 and 1, and ListPartitionReassignments (46), version
//! 0.
//!
//! A reassignment to replicas that are all in sync is done at once, by one change of the partition;
//! the others would wait for data to be copied, which takes brokers that replicate: with one broker
//! there are none.

use super::{ApiError, Context, Decision, owned, placement, wire_error};
use crate::image::Partition;
use crate::record::{MetadataRecord, PartitionChange};
use flumen_base::{BrokerId, ErrorCode, TopicId};
use flumen_wire::messages::alter_partition_reassignments_request::ReassignablePartition;
use flumen_wire::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use flumen_wire::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use flumen_wire::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

/// Starts and cancels reassignments.
pub fn alter_partition_reassignments(
    ctx: &Context<'_>,
    request: &AlterPartitionReassignmentsRequest<'_>,
) -> Decision<AlterPartitionReassignmentsResponse<'static>> {
    let allow_change = request.allow_replication_factor_change;
    let mut records = Vec::new();
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for target in &topic.partitions {
            let outcome = reassign(ctx, &topic.name, target, allow_change);
            let (error_code, error_message) = wire_error(&outcome);
            partitions.push(ReassignablePartitionResponse {
                partition_index: target.partition_index,
                error_code,
                error_message,
            });
            records.extend(outcome.ok().flatten());
        }
        responses.push(ReassignableTopicResponse {
            name: owned(&topic.name),
            partitions,
        });
    }
    let response = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: allow_change,
        error_message: None,
        responses,
        ..AlterPartitionReassignmentsResponse::default()
    };
    Decision::new(records, false, response)
}

fn reassign(
    ctx: &Context<'_>,
    name: &str,
    target: &ReassignablePartition,
    allow_change: bool,
) -> Result<Option<MetadataRecord>, ApiError> {
    let unknown = |message| Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, message));
    let Some(topic) = ctx.image.topic(name) else {
        return unknown(format!("Unable to find a topic named {name}."));
    };
    let Some(partition) = topic.partition(target.partition_index) else {
        return unknown(format!(
            "Unable to find partition {name}:{}.",
            target.partition_index
        ));
    };
    let change = match &target.replicas {
        None => cancel(ctx, topic.id, partition)?,
        Some(replicas) => start(ctx, topic.id, partition, replicas, allow_change)?,
    };
    Ok(change.map(MetadataRecord::PartitionChange))
}

fn cancel(
    ctx: &Context<'_>,
    topic_id: TopicId,
    p: &Partition,
) -> Result<Option<PartitionChange>, ApiError> {
    if !p.is_reassigning() {
        return Err(ApiError::bare(ErrorCode::NoReassignmentInProgress));
    }
    let without = |from: &[BrokerId]| -> Vec<BrokerId> {
        let kept = from.iter().filter(|id| !p.adding.contains(id));
        kept.copied().collect()
    };
    let (replicas, isr) = (without(&p.replicas), without(&p.isr));
    if isr.is_empty() {
        return Err(ApiError::new(
            ErrorCode::InvalidReplicaAssignment,
            "Unable to revert partition assignment because it would require an unclean leader \
             election.",
        ));
    }
    Ok(Some(settle(ctx, topic_id, p, replicas, isr)))
}

fn start(
    ctx: &Context<'_>,
    topic_id: TopicId,
    p: &Partition,
    target: &[BrokerId],
    allow_change: bool,
) -> Result<Option<PartitionChange>, ApiError> {
    placement::check_assignment(ctx, target, None)?;
    // What the replicas would be if a reassignment in progress were done.
    let settled = p.replicas.iter().filter(|id| !p.removing.contains(id));
    let factor = settled.count();
    if !allow_change && factor != target.len() {
        return Err(ApiError::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "The replication factor is changed from {factor} to {}",
                target.len()
            ),
        ));
    }
    if target == p.replicas && !p.is_reassigning() {
        return Ok(None);
    }
    let isr: Vec<BrokerId> = p
        .isr
        .iter()
        .copied()
        .filter(|id| target.contains(id))
        .collect();
    if isr.len() == target.len() {
        return Ok(Some(settle(ctx, topic_id, p, target.to_vec(), isr)));
    }
    let missing = |from: &[BrokerId], other: &[BrokerId]| -> Vec<BrokerId> {
        let ids = from.iter().filter(|id| !other.contains(id));
        ids.copied().collect()
    };
    let adding = missing(target, &p.replicas);
    let removing = missing(&p.replicas, target);
    let replicas: Vec<BrokerId> = target.iter().chain(&removing).copied().collect();
    Ok(Some(PartitionChange {
        topic_id,
        index: p.index,
        directories: Some(directories(p, &replicas)),
        replicas: Some(replicas),
        adding: Some(adding),
        removing: Some(removing),
        ..PartitionChange::default()
    }))
}

/// The last change of a reassignment: these are the replicas now.
fn settle(
    ctx: &Context<'_>,
    topic_id: TopicId,
    p: &Partition,
    replicas: Vec<BrokerId>,
    isr: Vec<BrokerId>,
) -> PartitionChange {
    let stays = isr.contains(&p.leader) && ctx.image.is_active(p.leader);
    let mut candidates = replicas.iter();
    let successor = candidates.find(|id| isr.contains(id) && ctx.image.is_active(**id));
    PartitionChange {
        topic_id,
        index: p.index,
        leader: (!stays).then(|| successor.copied().unwrap_or(-1)),
        directories: Some(directories(p, &replicas)),
        replicas: Some(replicas),
        isr: Some(isr),
        adding: Some(Vec::new()),
        removing: Some(Vec::new()),
    }
}

/// Directories of replicas that stay; new ones choose their own.
fn directories(p: &Partition, replicas: &[BrokerId]) -> Vec<flumen_base::Uuid> {
    let directory_of = |id: &BrokerId| {
        let at = p.replicas.iter().position(|r| r == id);
        at.and_then(|at| p.directories.get(at)).copied()
    };
    let ids = replicas.iter();
    ids.map(|id| directory_of(id).unwrap_or_default()).collect()
}

/// Lists reassignments in progress.
pub fn list_partition_reassignments(
    ctx: &Context<'_>,
    request: &ListPartitionReassignmentsRequest<'_>,
) -> ListPartitionReassignmentsResponse<'static> {
    let ongoing = |p: &Partition| OngoingPartitionReassignment {
        partition_index: p.index,
        replicas: p.replicas.clone(),
        adding_replicas: p.adding.clone(),
        removing_replicas: p.removing.clone(),
    };
    let mut topics = Vec::new();
    for topic in ctx.image.topics().values() {
        let asked = match &request.topics {
            None => None,
            Some(asked) => match asked.iter().find(|t| t.name == *topic.name) {
                Some(t) => Some(&t.partition_indexes),
                None => continue,
            },
        };
        let wanted = |p: &Partition| asked.is_none_or(|indexes| indexes.contains(&p.index));
        let partitions = topic.partitions.iter();
        let partitions = partitions.filter(|p| p.is_reassigning() && wanted(p));
        let partitions: Vec<_> = partitions.map(|p| ongoing(p)).collect();
        if !partitions.is_empty() {
            topics.push(OngoingTopicReassignment {
                name: owned(&topic.name),
                partitions,
            });
        }
    }
    ListPartitionReassignmentsResponse {
        topics,
        error_message: None,
        ..ListPartitionReassignmentsResponse::default()
    }
}
