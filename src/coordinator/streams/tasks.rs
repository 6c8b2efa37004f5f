//! Tasks: a subtopology and a partition of what it reads. Active ones process; standby and warm-up
//! ones follow with a copy of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Partitions by subtopology.
pub(super) type TaskMap = BTreeMap<Arc<str>, BTreeSet<i32>>;

/// The same, each with the epoch at which its owner got it.
pub(super) type EpochTaskMap = BTreeMap<Arc<str>, BTreeMap<i32, i32>>;

/// What a member shall have, or says it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    pub(super) active: TaskMap,
    pub(super) standby: TaskMap,
    pub(super) warmup: TaskMap,
}

/// What a member has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeldTasks {
    pub(super) active: EpochTaskMap,
    pub(super) standby: TaskMap,
    pub(super) warmup: TaskMap,
}

/// Whether one of these tasks is in both.
fn meet<V>(tasks: &TaskMap, of: impl Fn(&str) -> Option<V>, has: impl Fn(&V, i32) -> bool) -> bool {
    tasks.iter().any(|(subtopology, partitions)| {
        let other = of(subtopology);
        other.is_some_and(|other| partitions.iter().any(|p| has(&other, *p)))
    })
}

fn meet_sets(tasks: &TaskMap, other: &TaskMap) -> bool {
    meet(tasks, |s| other.get(s), |set, p| set.contains(&p))
}

fn meet_epochs(tasks: &TaskMap, other: &EpochTaskMap) -> bool {
    meet(tasks, |s| other.get(s), |map, p| map.contains_key(&p))
}

/// Whether all of these tasks are in `other`.
fn within(tasks: &TaskMap, has: impl Fn(&str, i32) -> bool) -> bool {
    let all = tasks.iter();
    let mut all = all.flat_map(|(s, partitions)| partitions.iter().map(move |p| (s, *p)));
    all.all(|(subtopology, partition)| has(subtopology, partition))
}

/// Whether a set of tasks has this one.
pub(super) fn has_task(tasks: &TaskMap, subtopology: &str, partition: i32) -> bool {
    let partitions = tasks.get(subtopology);
    partitions.is_some_and(|p| p.contains(&partition))
}

impl Tasks {
    /// None at all; a subtopology without partitions counts as something.
    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.standby.is_empty() && self.warmup.is_empty()
    }

    /// Whether one of them is in `held`, in the same role.
    pub(super) fn contain_any_of(&self, held: &HeldTasks) -> bool {
        meet_epochs(&self.active, &held.active)
            || meet_sets(&self.standby, &held.standby)
            || meet_sets(&self.warmup, &held.warmup)
    }

    /// Whether all of them are in `held`, in the same role.
    pub(super) fn are_within(&self, held: &HeldTasks) -> bool {
        within(&self.active, |s, p| held.epoch_of(s, p).is_some())
            && within(&self.standby, |s, p| has_task(&held.standby, s, p))
            && within(&self.warmup, |s, p| has_task(&held.warmup, s, p))
    }
}

impl HeldTasks {
    /// None at all.
    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.standby.is_empty() && self.warmup.is_empty()
    }

    /// The epoch at which an active task was given.
    pub(super) fn epoch_of(&self, subtopology: &str, partition: i32) -> Option<i32> {
        self.active.get(subtopology)?.get(&partition).copied()
    }

    /// Active tasks without their epochs.
    pub(super) fn active_set(&self) -> TaskMap {
        let all = self.active.iter();
        all.map(|(subtopology, epochs)| (subtopology.clone(), epochs.keys().copied().collect()))
            .collect()
    }

    /// Without epochs.
    pub(super) fn without_epochs(&self) -> Tasks {
        Tasks {
            active: self.active_set(),
            standby: self.standby.clone(),
            warmup: self.warmup.clone(),
        }
    }
}

/// Adds all of `more`.
pub(super) fn extend(tasks: &mut TaskMap, more: TaskMap) {
    for (subtopology, partitions) in more {
        tasks.entry(subtopology).or_default().extend(partitions);
    }
}
