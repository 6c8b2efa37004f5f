//! Server-side assignors: who shall have which partition. Pure functions of the members, what they
//! subscribe to, and what they were given last.
//!
//! - `uniform`: partitions as evenly as can be, each staying where it was if that is even enough.
//! - `range`: of each topic a range of partitions, so that co-partitioned topics meet at the same
//!   member.

mod mixed;
mod range;
pub(crate) mod simple;
mod uniform;

#[cfg(test)]
mod assign_test;

use super::Partitions;
use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// An assignor that is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Even over all topics, and sticky.
    Uniform,
    /// A range of each topic.
    Range,
}

impl Assignor {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    /// The assignor that clients call so.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// What clients call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// What each member shall have, in the order of the members.
    pub(crate) fn assign(self, spec: &Spec<'_>) -> Vec<Partitions> {
        match (self, spec.members.first()) {
            (_, None) => Vec::new(),
            (Self::Range, _) => range::assign(spec),
            (Self::Uniform, Some(first)) if spec.all_have(&first.topics) => {
                uniform::assign(spec, &first.topics)
            }
            (Self::Uniform, _) => mixed::assign(spec),
        }
    }
}

/// A member as an assignor sees it.
#[derive(Clone, Debug)]
pub(crate) struct MemberSpec<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// `group.instance.id` of a static member.
    pub(crate) instance: Option<&'a str>,
    /// Topics that it subscribes to and that exist; shared by members with the same ones.
    pub(crate) topics: Rc<BTreeSet<Uuid>>,
    /// What it was given last; `None`: nothing.
    pub(crate) last: Option<&'a Partitions>,
}

/// What is to be assigned to whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec<'a> {
    /// In any order, but the same for the same members: ties are broken by it.
    pub(crate) members: Vec<MemberSpec<'a>>,
    /// Partitions of each topic that somebody subscribes to.
    pub(crate) counts: BTreeMap<Uuid, PartitionIndex>,
}

impl Spec<'_> {
    /// Whether all subscribe to these topics.
    fn all_have(&self, topics: &Rc<BTreeSet<Uuid>>) -> bool {
        let same = |m: &MemberSpec<'_>| Rc::ptr_eq(&m.topics, topics) || m.topics == *topics;
        self.members.iter().all(same)
    }

    fn count(&self, topic: Uuid) -> PartitionIndex {
        self.counts.get(&topic).copied().unwrap_or(0)
    }

    /// Whom each partition was given to last, as far as it may stay: its member subscribes to the
    /// topic, which has that partition. Should two have been given the same, the first has it.
    fn owners(&self) -> BTreeMap<(Uuid, PartitionIndex), usize> {
        let mut owners = BTreeMap::new();
        for (n, member) in self.members.iter().enumerate() {
            for (topic, partitions) in member.last.into_iter().flatten() {
                if !member.topics.contains(topic) {
                    continue;
                }
                let count = self.count(*topic);
                for partition in partitions.iter().filter(|p| (0..count).contains(*p)) {
                    owners.entry((*topic, *partition)).or_insert(n);
                }
            }
        }
        owners
    }
}

fn give(to: &mut Partitions, (topic, partition): (Uuid, PartitionIndex)) {
    to.entry(topic).or_default().insert(partition);
}
