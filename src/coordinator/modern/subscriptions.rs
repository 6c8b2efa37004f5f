//! Which topics a group subscribes to, and how often: by name and by expression.

use super::metadata_hash;
use crate::out::Metadata;
use std::collections::BTreeMap;

/// How a topic is subscribed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Members that name it.
    pub(crate) by_name: usize,
    /// Expressions that match it.
    pub(crate) by_regex: usize,
}

/// Every topic of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TopicCounts(BTreeMap<Box<str>, Count>);

impl TopicCounts {
    fn change(&mut self, topic: &str, add: bool, field: impl Fn(&mut Count) -> &mut usize) {
        if add {
            let count = match self.0.get_mut(topic) {
                Some(count) => count,
                None => self.0.entry(topic.into()).or_default(),
            };
            *field(count) += 1;
            return;
        }
        if let Some(count) = self.0.get_mut(topic) {
            let n = field(count);
            *n = n.saturating_sub(1);
            if *count == Count::default() {
                self.0.remove(topic);
            }
        }
    }

    /// A member begins or ends to name a topic.
    pub(crate) fn by_name(&mut self, topic: &str, add: bool) {
        self.change(topic, add, |count| &mut count.by_name);
    }

    /// An expression begins or ends to match a topic.
    pub(crate) fn by_regex(&mut self, topic: &str, add: bool) {
        self.change(topic, add, |count| &mut count.by_regex);
    }

    /// Whether somebody subscribes to it.
    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }

    /// Their names, ascending.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|t| &**t)
    }

    /// The hash over their metadata.
    pub(crate) fn metadata_hash(&self, metadata: &dyn Metadata) -> i64 {
        metadata_hash(metadata, self.names())
    }
}
