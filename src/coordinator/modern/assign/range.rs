//! The `range` assignor: for each topic its subscribers in order, each with the next range, the
//! first ones with one partition more where they can't be equal. Static members come first, by
//! instance id, so that a restart changes nothing; the others by member id.

use super::{MemberSpec, Spec};
use crate::modern::Partitions;
use flumen_base::Uuid;
use std::collections::BTreeMap;

/// How far a topic is given out.
#[derive(Default)]
struct Ranges {
    subscribers: i32,
    served: i32,
    next: i32,
}

fn order<'a>(member: &MemberSpec<'a>) -> (bool, &'a str) {
    match member.instance {
        Some(instance) => (false, instance),
        None => (true, member.id),
    }
}

pub(super) fn assign(spec: &Spec<'_>) -> Vec<Partitions> {
    let mut sorted: Vec<_> = spec.members.iter().enumerate().collect();
    sorted.sort_by_key(|(_, member)| order(member));
    let mut ranges: BTreeMap<Uuid, Ranges> = BTreeMap::new();
    for topic in spec.members.iter().flat_map(|m| m.topics.iter()) {
        ranges.entry(*topic).or_default().subscribers += 1;
    }
    let mut targets = vec![Partitions::new(); spec.members.len()];
    for (n, member) in sorted {
        let Some(target) = targets.get_mut(n) else {
            continue;
        };
        for topic in member.topics.iter() {
            let Some(range) = ranges.get_mut(topic) else {
                continue;
            };
            let count = spec.count(*topic);
            let extra = i32::from(range.served < count % range.subscribers);
            let end = range.next + count / range.subscribers + extra;
            if range.next < end {
                target.insert(*topic, (range.next..end).collect());
            }
            range.next = end;
            range.served += 1;
        }
    }
    targets
}
