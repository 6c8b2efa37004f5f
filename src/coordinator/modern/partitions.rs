//! Sets of partitions, by topic. No topic stands in them without a partition, but where a record
//! says so.

use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet};

/// Partitions by topic id.
pub(crate) type Partitions = BTreeMap<Uuid, BTreeSet<PartitionIndex>>;

/// Partitions by topic id, each with the epoch at which its owner got it.
pub(crate) type EpochPartitions = BTreeMap<Uuid, BTreeMap<PartitionIndex, i32>>;

/// All with the same epoch.
pub(crate) fn with_epoch(partitions: &Partitions, epoch: i32) -> EpochPartitions {
    let topics = partitions.iter();
    topics
        .map(|(topic, indexes)| (*topic, indexes.iter().map(|p| (*p, epoch)).collect()))
        .collect()
}

/// Without their epochs.
pub(crate) fn without_epochs(partitions: &EpochPartitions) -> Partitions {
    let topics = partitions.iter();
    topics
        .map(|(topic, indexes)| (*topic, indexes.keys().copied().collect()))
        .collect()
}
