//! Which processes have which tasks: no active task may run twice, and no process may have a task
//! twice, for its members share one directory of state.

use super::member::Member;
use super::tasks::TaskMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many members of each process have a task: one, but while a change is done again that was
/// undone because one before it failed.
type Holders = BTreeMap<Arc<str>, u32>;
type ByTask = BTreeMap<Arc<str>, BTreeMap<i32, Holders>>;

/// Who has what, by role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owners {
    active: ByTask,
    standby: ByTask,
    warmup: ByTask,
}

fn holders<'a>(all: &'a ByTask, subtopology: &str, partition: i32) -> Option<&'a Holders> {
    all.get(subtopology)?.get(&partition)
}

fn count(all: &mut ByTask, tasks: &TaskMap, process: &Arc<str>, add: bool) {
    for (subtopology, partitions) in tasks {
        if add && partitions.is_empty() {
            continue;
        }
        let Some(by_partition) = (match add {
            true => Some(all.entry(subtopology.clone()).or_default()),
            false => all.get_mut(subtopology),
        }) else {
            continue;
        };
        for partition in partitions {
            if add {
                let holders = by_partition.entry(*partition).or_default();
                *holders.entry(process.clone()).or_default() += 1;
            } else if let Some(holders) = by_partition.get_mut(partition) {
                if let Some(members) = holders.get_mut(process) {
                    *members -= 1;
                }
                holders.retain(|_, members| *members > 0);
                if holders.is_empty() {
                    by_partition.remove(partition);
                }
            }
        }
        if by_partition.is_empty() {
            all.remove(subtopology);
        }
    }
}

impl Owners {
    /// Counts what a member has in or out.
    pub(super) fn count(&mut self, member: &Member, add: bool) {
        for held in [&member.assigned, &member.revoking] {
            count(&mut self.active, &held.active_set(), &member.process, add);
            count(&mut self.standby, &held.standby, &member.process, add);
            count(&mut self.warmup, &held.warmup, &member.process, add);
        }
    }

    /// Whether a process has an active task.
    pub(super) fn is_active(&self, subtopology: &str, partition: i32) -> bool {
        holders(&self.active, subtopology, partition).is_some()
    }

    /// Whether this process has an active task.
    pub(super) fn is_active_in(&self, process: &str, subtopology: &str, partition: i32) -> bool {
        let holders = holders(&self.active, subtopology, partition);
        holders.is_some_and(|h| h.contains_key(process))
    }

    /// Whether this process has a task as standby or to warm up.
    pub(super) fn is_passive_in(&self, process: &str, subtopology: &str, partition: i32) -> bool {
        [&self.standby, &self.warmup].into_iter().any(|all| {
            let holders = holders(all, subtopology, partition);
            holders.is_some_and(|h| h.contains_key(process))
        })
    }
}
