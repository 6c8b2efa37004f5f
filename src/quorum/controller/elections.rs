//! ElectLeaders (43), versions 0 to 2: of the preferred replica, or (type 1) of any replica that is
//! alive.

use super::{ApiError, Context, Decision, owned, wire_error};
use crate::image::{Partition, Topic};
use crate::record::{MetadataRecord, PartitionChange};
use flumen_base::{ErrorCode, PartitionIndex};
use flumen_wire::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use flumen_wire::messages::{ElectLeadersRequest, ElectLeadersResponse};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Election {
    Preferred,
    Unclean,
}

/// Elects leaders.
pub fn elect_leaders(
    ctx: &Context<'_>,
    request: &ElectLeadersRequest<'_>,
) -> Decision<ElectLeadersResponse<'static>> {
    let election = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        other => return Decision::answer(refuse_all(request, other)),
    };
    let mut records = Vec::new();
    let mut results = Vec::new();
    match &request.topic_partitions {
        None => {
            for topic in ctx.image.topics().values() {
                // Asked for all, the partitions that need nothing are left out.
                let all = topic.partitions.iter().filter_map(|p| {
                    let outcome = elect(ctx, topic, p, election);
                    let unneeded = |e: &ApiError| e.code == ErrorCode::ElectionNotNeeded;
                    (!outcome.as_ref().is_err_and(unneeded)).then_some((p.index, outcome))
                });
                results.push(topic_result(&topic.name, all.collect(), &mut records));
            }
        }
        Some(topics) => {
            for topic in topics {
                let partitions = topic.partitions.iter();
                let named = partitions.map(|&p| (p, elect_named(ctx, &topic.topic, p, election)));
                results.push(topic_result(&topic.topic, named.collect(), &mut records));
            }
        }
    }
    let response = ElectLeadersResponse {
        replica_election_results: results,
        ..ElectLeadersResponse::default()
    };
    Decision::new(records, false, response)
}

type Outcome = Result<MetadataRecord, ApiError>;

fn topic_result(
    name: &str,
    outcomes: Vec<(PartitionIndex, Outcome)>,
    records: &mut Vec<MetadataRecord>,
) -> ReplicaElectionResult<'static> {
    let mut partition_result = Vec::with_capacity(outcomes.len());
    for (partition_id, outcome) in outcomes {
        let (error_code, error_message) = wire_error(&outcome);
        partition_result.push(PartitionResult {
            partition_id,
            error_code,
            error_message,
        });
        records.extend(outcome);
    }
    ReplicaElectionResult {
        topic: owned(name),
        partition_result,
    }
}

fn elect_named(
    ctx: &Context<'_>,
    name: &str,
    index: PartitionIndex,
    election: Election,
) -> Outcome {
    let unknown = |message| Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, message));
    let Some(topic) = ctx.image.topic(name) else {
        return unknown(format!("No such topic as {name}"));
    };
    match topic.partition(index) {
        Some(partition) => elect(ctx, topic, partition, election),
        None => unknown(format!("No such partition as {name}-{index}")),
    }
}

fn elect(ctx: &Context<'_>, topic: &Topic, p: &Partition, election: Election) -> Outcome {
    let needed = match election {
        Election::Preferred => !p.has_preferred_leader(),
        Election::Unclean => p.leader < 0,
    };
    if !needed {
        return Err(ApiError::new(
            ErrorCode::ElectionNotNeeded,
            "Leader election not needed for topic partition.",
        ));
    }
    let clean = |id: &&i32| ctx.image.serves(p, **id) && p.isr.contains(id);
    let preferred = p.replicas.first().filter(clean);
    let (leader, isr) = match election {
        Election::Preferred => (preferred, None),
        Election::Unclean => match p.replicas.iter().find(clean) {
            Some(leader) => (Some(leader), None),
            None => {
                let alive = p.replicas.iter().find(|&&id| ctx.image.serves(p, id));
                (alive, alive.map(|&id| vec![id]))
            }
        },
    };
    match (leader, election) {
        (Some(&leader), _) => Ok(MetadataRecord::PartitionChange(PartitionChange {
            topic_id: topic.id,
            index: p.index,
            leader: Some(leader),
            isr,
            ..PartitionChange::default()
        })),
        (None, Election::Preferred) => Err(ApiError::new(
            ErrorCode::PreferredLeaderNotAvailable,
            "The preferred leader was not available.",
        )),
        (None, Election::Unclean) => Err(ApiError::new(
            ErrorCode::EligibleLeadersNotAvailable,
            "Eligible topic partition leaders are not available.",
        )),
    }
}

fn refuse_all(request: &ElectLeadersRequest<'_>, kind: i8) -> ElectLeadersResponse<'static> {
    let message = format!("Unknown election type {kind}");
    let error = ApiError::new(ErrorCode::InvalidRequest, message);
    let topics = request.topic_partitions.iter().flatten();
    ElectLeadersResponse {
        throttle_time_ms: 0,
        error_code: error.code.code(),
        replica_election_results: topics
            .map(|topic| {
                let partitions = topic.partitions.iter();
                let refused = partitions.map(|&p| (p, Err(error.clone())));
                topic_result(&topic.topic, refused.collect(), &mut Vec::new())
            })
            .collect(),
    }
}
