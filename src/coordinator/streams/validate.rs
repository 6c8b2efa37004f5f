//! What is wrong with a StreamsGroupHeartbeat by itself.

use super::Refusal;
use crate::modern::{LEAVE_STATIC_EPOCH, is_blank, is_blank_if_any};
use flumen_base::ErrorCode;
use flumen_wire::messages::StreamsGroupHeartbeatRequest;
use flumen_wire::messages::streams_group_heartbeat_request::{TaskIds, Topology};

fn invalid(message: &str) -> Result<(), Refusal> {
    Err(Refusal::new(ErrorCode::InvalidRequest, message))
}

/// What Kafka 4.3.1 refuses because it does not have it yet.
fn check_supported(request: &StreamsGroupHeartbeatRequest<'_>) -> Result<(), Refusal> {
    if request.instance_id.is_some() {
        return invalid("Static membership is not yet supported.");
    }
    if request.task_offsets.is_some() {
        return invalid("TaskOffsets are not supported yet.");
    }
    if request.task_end_offsets.is_some() {
        return invalid("TaskEndOffsets are not supported yet.");
    }
    if request.warmup_tasks.as_ref().is_some_and(|t| !t.is_empty()) {
        return invalid("WarmupTasks are not supported yet.");
    }
    let topology = request.topology.iter();
    let mut subtopologies = topology.flat_map(|t| &t.subtopologies);
    if subtopologies.any(|s| !s.source_topic_regex.is_empty()) {
        return invalid("Regular expressions for source topics are not supported yet.");
    }
    Ok(())
}

fn check_topology(topology: &Topology<'_>) -> Result<(), Refusal> {
    let all = topology.subtopologies.iter();
    let mut changelogs = all.flat_map(|s| &s.state_changelog_topics);
    let Some(topic) = changelogs.find(|t| t.partitions != 0) else {
        return Ok(());
    };
    let message = format!(
        "Changelog topic {} must have an undefined partition count, but it is set to {}.",
        topic.name, topic.partitions
    );
    Err(Refusal::new(ErrorCode::StreamsInvalidTopology, message))
}

/// What must be so in the first heartbeat.
fn check_join(request: &StreamsGroupHeartbeatRequest<'_>) -> Result<(), Refusal> {
    let empty = |tasks: &Option<Vec<TaskIds<'_>>>| tasks.as_ref().is_some_and(Vec::is_empty);
    if request.rebalance_timeout_ms == -1 {
        return invalid("RebalanceTimeoutMs must be provided in first request.");
    }
    if !empty(&request.active_tasks) {
        return invalid("ActiveTasks must be empty when (re-)joining.");
    }
    if !empty(&request.standby_tasks) {
        return invalid("StandbyTasks must be empty when (re-)joining.");
    }
    if !empty(&request.warmup_tasks) {
        return invalid("WarmupTasks must be empty when (re-)joining.");
    }
    match &request.topology {
        None => invalid("Topology must be non-null when (re-)joining."),
        Some(topology) => check_topology(topology),
    }
}

/// Checks a request.
///
/// # Errors
/// INVALID_REQUEST or STREAMS_INVALID_TOPOLOGY, with what is wrong.
pub(crate) fn validate(request: &StreamsGroupHeartbeatRequest<'_>) -> Result<(), Refusal> {
    check_supported(request)?;
    if is_blank(&request.member_id) {
        return invalid("MemberId can't be empty.");
    }
    if is_blank(&request.group_id) {
        return invalid("GroupId can't be empty.");
    }
    if is_blank_if_any(request.rack_id.as_deref()) {
        return invalid("RackId can't be empty.");
    }
    let epoch = request.member_epoch;
    if epoch == 0 {
        check_join(request)?;
    } else if epoch == LEAVE_STATIC_EPOCH {
        // Static members alone leave for a while.
        return invalid("InstanceId can't be null.");
    } else if epoch < LEAVE_STATIC_EPOCH {
        let message = format!("MemberEpoch is {epoch}, but must be greater than or equal to -2.");
        return invalid(&message);
    }
    let tasks = [
        &request.active_tasks,
        &request.standby_tasks,
        &request.warmup_tasks,
    ];
    let told = tasks.iter().filter(|tasks| tasks.is_some()).count();
    if told != 0 && told != tasks.len() {
        return invalid("If one task-type is non-null, all must be non-null.");
    }
    if epoch != 0 && request.topology.is_some() {
        return invalid("Topology can only be provided when (re-)joining.");
    }
    Ok(())
}
