//! The partitions of a coordinator's topic that this shard has, and which of them it knows what
//! they hold of.

use crate::Shard;
use flumen_base::{ErrorCode, IdMap, IdSet, PartitionIndex, ShardId, TopicPartition};

/// See the module. Every coordinator of the shard has one.
#[derive(Debug, Default)]
pub(crate) struct Homes {
    served: IdMap<PartitionIndex, TopicPartition>,
    /// Those of them that are not known yet.
    loading: IdSet<PartitionIndex>,
    /// Those of them that were created just now: there is nothing to read.
    created: Vec<PartitionIndex>,
}

impl Homes {
    /// A partition is this shard's; one that `is_new` holds nothing, and [`Homes::take_created`]
    /// gives it. False if it was here already.
    pub(crate) fn add(&mut self, tp: TopicPartition, is_new: bool) -> bool {
        if self.served.insert(tp.partition, tp).is_some() {
            return false;
        }
        self.loading.insert(tp.partition);
        if is_new {
            self.created.push(tp.partition);
        }
        true
    }

    /// The partition with this index.
    pub(crate) fn get(&self, index: PartitionIndex) -> Option<TopicPartition> {
        self.served.get(&index).copied()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<TopicPartition> {
        self.served.values().copied().collect()
    }

    /// Whether it is here and not known yet.
    pub(crate) fn is_loading(&self, index: PartitionIndex) -> bool {
        self.loading.contains(&index)
    }

    /// All that it holds is known. False if it was already, or is not here.
    pub(crate) fn known(&mut self, index: PartitionIndex) -> bool {
        self.loading.remove(&index)
    }

    /// Whether there are some to be taken by [`Homes::take_created`].
    pub(crate) fn has_created(&self) -> bool {
        !self.created.is_empty()
    }

    /// Those that were created, once.
    pub(crate) fn take_created(&mut self) -> Vec<PartitionIndex> {
        std::mem::take(&mut self.created)
    }

    /// A partition has no home here any more. False if it had none.
    pub(crate) fn remove(&mut self, tp: TopicPartition) -> bool {
        if self.get(tp.partition) != Some(tp) {
            return false;
        }
        self.served.remove(&tp.partition);
        self.loading.remove(&tp.partition);
        self.created.retain(|index| *index != tp.partition);
        true
    }
}

impl Shard {
    /// The shard of a partition of a coordinator's topic, which `index` chooses among so many;
    /// NOT_COORDINATOR until the topic exists.
    pub(crate) fn home_in(
        &self,
        topic: &str,
        index: impl FnOnce(i32) -> PartitionIndex,
    ) -> Result<ShardId, ErrorCode> {
        let topic = self.image.topic(topic).ok_or(ErrorCode::NotCoordinator)?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        Ok(self.owner(crate::image::id_of(topic, index(count))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_base::Uuid;

    fn tp(topic: u8, partition: PartitionIndex) -> TopicPartition {
        TopicPartition {
            topic_id: Uuid::from_bytes([topic; 16]),
            partition,
        }
    }

    #[test]
    fn a_partition_comes_is_known_once_and_goes() {
        let mut homes = Homes::default();
        assert!(homes.add(tp(1, 3), false) && !homes.add(tp(1, 3), true));
        assert!(homes.is_loading(3) && !homes.has_created());
        assert!(homes.known(3) && !homes.known(3));
        assert_eq!(homes.get(3), Some(tp(1, 3)));
        assert!(!homes.remove(tp(2, 3)), "a topic made again has another id");
        assert!(homes.remove(tp(1, 3)) && homes.get(3).is_none());
    }

    #[test]
    fn what_goes_before_it_was_taken_is_not_taken() {
        let mut homes = Homes::default();
        assert!(homes.add(tp(1, 0), true) && homes.add(tp(1, 1), true));
        assert!(homes.remove(tp(1, 0)));
        assert_eq!(homes.take_created(), [1]);
        assert!(!homes.has_created() && homes.is_loading(1));
        assert!(!homes.known(0));
    }
}
