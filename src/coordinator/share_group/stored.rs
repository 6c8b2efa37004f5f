//! Which share partitions have stored state: what is missing, what has come and what goes.

use super::calls::{ShareCall, ShareDeed};
use super::state::{StateTopic, StateTopics, combine};
use crate::out::Metadata;
use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The name of a topic that is gone (Kafka's).
const UNKNOWN_NAME: &str = "<UNKNOWN>";

fn name_of(metadata: &dyn Metadata, id: Uuid) -> Box<str> {
    metadata.topic_name(id).unwrap_or(UNKNOWN_NAME).into()
}

impl ShareCall {
    pub(super) fn initialize(
        group: &Arc<str>,
        state_epoch: i32,
        partitions: Vec<(Uuid, PartitionIndex, i64)>,
    ) -> Self {
        Self {
            group: group.clone(),
            what: ShareDeed::Initialize {
                state_epoch,
                partitions,
            },
        }
    }

    pub(super) fn delete(
        group: &Arc<str>,
        topics: &BTreeMap<Uuid, BTreeSet<PartitionIndex>>,
    ) -> Self {
        let partitions = topics
            .iter()
            .flat_map(|(id, partitions)| partitions.iter().map(|p| (*id, *p)));
        Self {
            group: group.clone(),
            what: ShareDeed::Delete {
                partitions: partitions.collect(),
            },
        }
    }
}

impl StateTopics {
    /// The partitions of these topics that have no stored state, but for those that were asked for
    /// at a time that is `fresh`.
    pub(super) fn missing<'n>(
        &self,
        metadata: &dyn Metadata,
        names: impl Iterator<Item = &'n str>,
        fresh: impl Fn(i64) -> bool,
    ) -> BTreeMap<Uuid, StateTopic> {
        let mut missing = BTreeMap::new();
        for name in names {
            let Some(id) = metadata.topic_id(name) else {
                continue;
            };
            let count = metadata.partition_count(id).unwrap_or(0);
            let there = self.initialized.get(&id);
            let coming = self.initializing.get(&id);
            let coming = coming.filter(|topic| fresh(topic.since_ms));
            let has = |p: &PartitionIndex| {
                let of =
                    |topic: Option<&StateTopic>| topic.is_some_and(|t| t.partitions.contains(p));
                of(there) || of(coming)
            };
            let partitions: BTreeSet<_> = (0..count).filter(|p| !has(p)).collect();
            if !partitions.is_empty() {
                let topic = StateTopic {
                    name: name.into(),
                    partitions,
                    since_ms: 0,
                };
                missing.insert(id, topic);
            }
        }
        missing
    }

    /// These are asked for.
    pub(super) fn begin(&mut self, topics: BTreeMap<Uuid, StateTopic>) {
        self.deleting.retain(|id, _| !topics.contains_key(id));
        combine(&mut self.initializing, topics);
        let initializing = &self.initializing;
        self.deleting.retain(|id, _| !initializing.contains_key(id));
    }

    /// These are not asked for any more; `made`: because they are there.
    pub(super) fn end(
        &mut self,
        metadata: &dyn Metadata,
        partitions: &BTreeMap<Uuid, BTreeSet<PartitionIndex>>,
        made: bool,
    ) {
        for (id, indexes) in partitions {
            if let Some(topic) = self.initializing.get_mut(id) {
                topic.partitions.retain(|p| !indexes.contains(p));
                if topic.partitions.is_empty() {
                    self.initializing.remove(id);
                }
            }
            if made {
                let topic = StateTopic {
                    name: name_of(metadata, *id),
                    partitions: indexes.clone(),
                    since_ms: 0,
                };
                combine(&mut self.initialized, BTreeMap::from([(*id, topic)]));
            }
        }
    }

    /// Everything is to be deleted; what, with the partitions of what was to be deleted before.
    pub(super) fn delete_all(
        &mut self,
        metadata: &dyn Metadata,
    ) -> BTreeMap<Uuid, BTreeSet<PartitionIndex>> {
        let mut all = std::mem::take(&mut self.initialized);
        combine(&mut all, std::mem::take(&mut self.initializing));
        let before = std::mem::take(&mut self.deleting);
        let mut gone: BTreeMap<Uuid, BTreeSet<PartitionIndex>> = BTreeMap::new();
        for (id, topic) in all {
            self.deleting.insert(id, topic.name);
            gone.insert(id, topic.partitions);
        }
        for (id, name) in before {
            // Of a topic that is gone the states are gone with it.
            if let Some(count) = metadata.partition_count(id) {
                self.deleting.insert(id, name);
                gone.entry(id).or_default().extend(0..count);
            }
        }
        gone
    }

    /// Topics are gone; whether this knew any of them.
    pub(super) fn forget(&mut self, gone: &[(&str, Uuid)]) -> bool {
        let mut any = false;
        for (_, id) in gone {
            any |= self.initializing.remove(id).is_some();
            any |= self.initialized.remove(id).is_some();
            any |= self.deleting.remove(id).is_some();
        }
        any
    }
}
