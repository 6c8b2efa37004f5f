//! Which brokers hold a new partition.

use super::{ApiError, Context};
use crate::record::{MetadataRecord, PartitionRecord};
use flumen_base::{BrokerId, ErrorCode, PartitionIndex, Prng, TopicId, Uuid};

/// Replicas for `count` partitions: leaders and followers go round the brokers, from a random one
/// on. Brokers that are fenced come last, so that a leader is alive.
pub(super) fn place(
    ctx: &Context<'_>,
    prng: &mut Prng,
    count: usize,
    replication_factor: i16,
) -> Result<Vec<Vec<BrokerId>>, String> {
    let factor = usize::try_from(replication_factor).unwrap_or(0);
    if factor == 0 {
        return Err(format!(
            "Invalid replication factor {replication_factor}: the replication factor must be \
             positive."
        ));
    }
    let active: Vec<BrokerId> = ctx.image.active_brokers().map(|b| b.id).collect();
    if active.is_empty() {
        return Err(
            "All brokers are currently fenced, or have all their log directories cordoned."
                .to_owned(),
        );
    }
    let brokers = ctx.image.brokers();
    if factor > brokers.len() {
        return Err(format!(
            "The target replication factor of {replication_factor} cannot be reached because \
             only {} broker(s) are registered or some brokers have all their log directories \
             cordoned.",
            brokers.len()
        ));
    }
    let fenced = brokers.values().filter(|b| b.fenced).map(|b| b.id);
    let fenced: Vec<BrokerId> = fenced.take(factor.saturating_sub(active.len())).collect();
    let start = prng.below(active.len() as u64) as usize;
    let replicas_of = |partition: usize| {
        let round = active
            .iter()
            .cycle()
            .skip((start + partition) % active.len());
        let alive = round.take(factor.min(active.len()));
        alive.chain(&fenced).copied().collect()
    };
    Ok((0..count).map(replicas_of).collect())
}

/// Checks an assignment that a client made.
pub(super) fn check_assignment(
    ctx: &Context<'_>,
    replicas: &[BrokerId],
    replication_factor: Option<usize>,
) -> Result<(), ApiError> {
    let invalid =
        |message: String| Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return invalid(
            "The manual partition assignment includes an empty replica list.".to_owned(),
        );
    }
    let mut sorted = replicas.to_vec();
    sorted.sort_unstable();
    let mut previous = None;
    for id in sorted {
        if !ctx.image.brokers().contains_key(&id) {
            return invalid(format!(
                "The manual partition assignment includes broker {id}, but no such broker is \
                 registered."
            ));
        }
        if previous.replace(id) == Some(id) {
            return invalid(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    match replication_factor {
        Some(factor) if factor != replicas.len() => invalid(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is \
             not consistent with previous partitions, which have {factor} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}

/// The record of a new partition: the replicas that are alive are in sync, the first of them leads.
/// `None` if none is.
pub(super) fn new_partition(
    ctx: &Context<'_>,
    topic_id: TopicId,
    index: PartitionIndex,
    replicas: Vec<BrokerId>,
) -> Option<MetadataRecord> {
    let alive = replicas.iter().filter(|id| ctx.image.is_active(**id));
    let isr: Vec<BrokerId> = alive.copied().collect();
    let leader = *isr.first()?;
    let directories = replicas.iter().map(|&id| default_directory(ctx, id));
    Some(MetadataRecord::Partition(PartitionRecord {
        topic_id,
        index,
        directories: directories.collect(),
        replicas,
        isr,
        leader,
        leader_epoch: 0,
        partition_epoch: 0,
    }))
}

/// The log directory of a new replica: known where the broker has only one, its own choice
/// otherwise.
fn default_directory(ctx: &Context<'_>, broker: BrokerId) -> Uuid {
    match ctx.image.brokers().get(&broker).map(|b| &b.log_dirs[..]) {
        Some([only]) => *only,
        _ => Uuid::ZERO,
    }
}
