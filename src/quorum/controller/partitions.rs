//! CreatePartitions (37), versions 0 to 3: a topic may grow, never shrink.

use super::create_topics::{all_fenced, count_names};
use super::{ApiError, Context, Decision, RECORDS_PER_REQUEST_MAX, owned, placement, wire_error};
use crate::record::MetadataRecord;
use flumen_base::{BrokerId, ErrorCode, Prng};
use flumen_wire::messages::create_partitions_request::CreatePartitionsTopic;
use flumen_wire::messages::create_partitions_response::CreatePartitionsTopicResult;
use flumen_wire::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

/// Adds partitions to topics.
pub fn create_partitions(
    ctx: &Context<'_>,
    prng: &mut Prng,
    request: &CreatePartitionsRequest<'_>,
) -> Decision<CreatePartitionsResponse<'static>> {
    let counts = count_names(request.topics.iter().map(|t| &*t.name));
    let mut results = Vec::with_capacity(counts.len());
    for (name, _) in counts.iter().filter(|(_, count)| **count > 1) {
        let e = ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name.");
        results.push(result(name, Err(e)));
    }
    let mut records = Vec::new();
    for topic in &request.topics {
        if counts.get(&*topic.name) != Some(&1) {
            continue;
        }
        let room = RECORDS_PER_REQUEST_MAX - records.len();
        let outcome = grow(ctx, prng, topic, room).map(|mut new| records.append(&mut new));
        results.push(result(&topic.name, outcome));
    }
    let response = CreatePartitionsResponse {
        throttle_time_ms: 0,
        results,
    };
    Decision::new(records, request.validate_only, response)
}

fn result(name: &str, outcome: Result<(), ApiError>) -> CreatePartitionsTopicResult<'static> {
    let (error_code, error_message) = wire_error(&outcome);
    CreatePartitionsTopicResult {
        name: owned(name),
        error_code,
        error_message,
    }
}

fn grow(
    ctx: &Context<'_>,
    prng: &mut Prng,
    request: &CreatePartitionsTopic<'_>,
    room: usize,
) -> Result<Vec<MetadataRecord>, ApiError> {
    let Some(topic) = ctx.image.topic(&request.name) else {
        return Err(ApiError::bare(ErrorCode::UnknownTopicOrPartition));
    };
    let current = topic.partitions.len();
    let wanted = usize::try_from(request.count).unwrap_or(0);
    if wanted <= current {
        let message = if request.count == current as i32 {
            format!("Topic already has {current} partition(s).")
        } else {
            format!(
                "The topic {} currently has {current} partition(s); {} would not be an increase.",
                request.name, request.count
            )
        };
        return Err(ApiError::new(ErrorCode::InvalidPartitions, message));
    }
    let additional = wanted - current;
    if additional > room {
        return Err(ApiError::too_many_records());
    }
    let factor = topic.partitions.first().map_or(1, |p| p.replicas.len());
    let replicas = match &request.assignments {
        Some(assignments) => {
            let lists = assignments.iter().map(|a| a.broker_ids.clone());
            check_manual(ctx, lists.collect(), additional, factor, current)?
        }
        None => placement::place(ctx, prng, additional, factor as i16)
            .map_err(|reason| ApiError::new(ErrorCode::InvalidReplicationFactor, reason))?,
    };
    let mut records = Vec::with_capacity(additional);
    for (index, replicas) in (current as i32..).zip(replicas) {
        let record = placement::new_partition(ctx, topic.id, index, replicas);
        records.push(record.ok_or_else(|| all_fenced(false, index, factor))?);
    }
    Ok(records)
}

fn check_manual(
    ctx: &Context<'_>,
    assignments: Vec<Vec<BrokerId>>,
    additional: usize,
    factor: usize,
    first: usize,
) -> Result<Vec<Vec<BrokerId>>, ApiError> {
    if assignments.len() != additional {
        return Err(ApiError::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "Attempted to add {additional} additional partition(s), but only {} assignment(s) \
                 were specified.",
                assignments.len()
            ),
        ));
    }
    for (index, replicas) in (first as i32..).zip(&assignments) {
        placement::check_assignment(ctx, replicas, Some(factor))?;
        if !replicas.iter().any(|&id| ctx.image.is_active(id)) {
            return Err(all_fenced(true, index, factor));
        }
    }
    Ok(assignments)
}
