//! Newtypes for the numbers of Kafka's protocol that must not be mixed up.

use crate::Uuid;
use std::fmt;

/// Position of a record in its partition. Valid offsets are 0 and up; -1 is Kafka's "unknown".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub i64);

impl Offset {
    /// Kafka's "no offset" (-1).
    pub const UNKNOWN: Self = Self(-1);

    /// `self - earlier`, in offsets.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<i64> for Offset {
    type Output = Self;
    fn add(self, n: i64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Leader epoch of a partition; -1 is "unknown".
pub type LeaderEpoch = i32;
/// Index of a partition within its topic.
pub type PartitionIndex = i32;
/// Producer id (KIP-98); -1 is "none".
pub type ProducerId = i64;
/// Broker (node) id.
pub type BrokerId = i32;
/// Topic id (KIP-516): never reused, so a deleted and recreated topic never meets its past.
pub type TopicId = Uuid;

/// One shard of this process: an index from 0, one per executor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard that also runs the controller and writes checkpoints.
    pub const FIRST: Self = Self(0);

    /// As an index into per-shard tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition, by the id of its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's id.
    pub topic_id: TopicId,
    /// Index of the partition in its topic.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// The shard that owns this partition on a node of `shards` shards: neighbours of one topic go
    /// to neighbouring shards, topics start at different ones. Node-local: never stored, so the
    /// number of shards may change at restart.
    pub fn shard(&self, shards: u16) -> ShardId {
        let start = self.topic_id.fold64() % u64::from(shards.max(1));
        let index =
            start.wrapping_add(self.partition.unsigned_abs().into()) % u64::from(shards.max(1));
        ShardId(index as u16)
    }
}
