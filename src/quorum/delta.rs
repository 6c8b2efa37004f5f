//! What differs between two images.

use crate::image::{Image, Partition, ResourceType, Topic};
use flumen_base::PartitionIndex;
use std::sync::Arc;

/// The changes from one image to a later one, for shards that create, change and delete partitions.
/// Topics are matched by id: a topic that was deleted and created again is in both lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Topics that are new, with all their partitions.
    pub created: Vec<Arc<Topic>>,
    /// Topics that are gone, as they were.
    pub deleted: Vec<Arc<Topic>>,
    /// Partitions of existing topics that are new or changed.
    pub partitions: Vec<PartitionDelta>,
    /// Resources whose settings changed, including those of created and deleted topics.
    pub configs: Vec<(ResourceType, String)>,
    /// Whether a broker joined, left, or changed.
    pub brokers_changed: bool,
    /// Whether a finalized feature changed.
    pub features_changed: bool,
}

/// One partition that is new or changed in a topic that was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDelta {
    /// The topic as it is now.
    pub topic: Arc<Topic>,
    /// Which partition.
    pub index: PartitionIndex,
    /// What it was before; `None` if it is new.
    pub before: Option<Arc<Partition>>,
}

impl PartitionDelta {
    /// The partition as it is now.
    pub fn now(&self) -> Option<&Arc<Partition>> {
        self.topic.partition(self.index)
    }
}

impl Delta {
    /// What changed from `old` to `new`. Costs one pointer comparison per unchanged topic and
    /// resource.
    pub fn between(old: &Image, new: &Image) -> Self {
        let mut delta = Self::default();
        delta.topics(old, new);
        for kind in [
            ResourceType::Topic,
            ResourceType::Broker,
            ResourceType::ClientMetrics,
            ResourceType::Group,
        ] {
            delta.config_kind(old, new, kind);
        }
        delta.brokers_changed = old.brokers() != new.brokers();
        delta.features_changed = old.features() != new.features();
        delta
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn topics(&mut self, old: &Image, new: &Image) {
        if std::ptr::eq(old.topics(), new.topics()) {
            return;
        }
        for topic in new.topics().values() {
            match old.topic_by_id(&topic.id) {
                None => self.created.push(topic.clone()),
                Some(before) if Arc::ptr_eq(before, topic) => {}
                Some(before) => self.partitions(before, topic),
            }
        }
        for topic in old.topics().values() {
            if new.topic_by_id(&topic.id).is_none() {
                self.deleted.push(topic.clone());
            }
        }
    }

    fn partitions(&mut self, before: &Topic, topic: &Arc<Topic>) {
        for now in &topic.partitions {
            let before = before.partition(now.index);
            if before.is_none_or(|before| !Arc::ptr_eq(before, now) && before != now) {
                self.partitions.push(PartitionDelta {
                    topic: topic.clone(),
                    index: now.index,
                    before: before.cloned(),
                });
            }
        }
    }

    fn config_kind(&mut self, old: &Image, new: &Image, kind: ResourceType) {
        for (name, config) in new.configs(kind) {
            let before = old.config(kind, name);
            if before.is_none_or(|before| !Arc::ptr_eq(before, config) && before != config) {
                self.configs.push((kind, name.to_owned()));
            }
        }
        for (name, _) in old.configs(kind) {
            if new.config(kind, name).is_none() {
                self.configs.push((kind, name.to_owned()));
            }
        }
    }
}
