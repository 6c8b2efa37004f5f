//! The `uniform` assignor where all members subscribe to the same topics. Everyone has as many
//! partitions as the next one, or one more; who has one more is chosen so that as few partitions as
//! possible move.

use super::{Spec, give};
use crate::modern::Partitions;
use flumen_base::Uuid;
use std::collections::BTreeSet;

pub(super) fn assign(spec: &Spec<'_>, topics: &BTreeSet<Uuid>) -> Vec<Partitions> {
    let owners = spec.owners();
    let mut free = Vec::new();
    let mut total = 0;
    for topic in topics {
        let all = (0..spec.count(*topic)).map(|p| (*topic, p));
        total += all.len();
        free.extend(all.filter(|partition| !owners.contains_key(partition)));
    }
    let count = spec.members.len().max(1);
    let least = total / count;
    // How many may have one more.
    let mut extras = total % count;
    let mut targets = Vec::with_capacity(count);
    let mut unfilled = Vec::new();
    for (n, member) in spec.members.iter().enumerate() {
        let mut has_extra = extras > 0;
        let mut quota = least + usize::from(has_extra);
        let mut target = Partitions::new();
        for (topic, partitions) in member.last.into_iter().flatten() {
            for partition in partitions.iter().map(|p| (*topic, *p)) {
                if owners.get(&partition) != Some(&n) {
                    continue;
                }
                if quota > 0 {
                    quota -= 1;
                    give(&mut target, partition);
                } else {
                    free.push(partition);
                }
            }
        }
        // Who does not need its extra leaves it to another, unless nobody is left to take it.
        if quota > 0 && has_extra && count - n > extras {
            quota -= 1;
            has_extra = false;
        }
        extras -= usize::from(has_extra);
        if quota > 0 {
            unfilled.push((n, quota));
        }
        targets.push(target);
    }
    let mut free = free.into_iter();
    for (n, quota) in unfilled {
        if let Some(target) = targets.get_mut(n) {
            free.by_ref().take(quota).for_each(|p| give(target, p));
        }
    }
    debug_assert!(free.next().is_none(), "the quotas add up to all partitions");
    targets
}
