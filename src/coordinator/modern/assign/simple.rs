//! The `simple` assignor of share groups: a partition may have several members. Each partition has
//! as many as are needed for every member to have something, each member as many as the next one
//! or one more; where that leaves room, everything stays where it was.
//!
//! If all members subscribe to the same topics that is done over all of them at once, else for
//! each topic by itself.

use super::give;
use crate::modern::Partitions;
use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet};

/// A member as the assignor sees it.
pub(crate) struct ShareMemberSpec<'a> {
    /// Topics that it subscribes to and that exist.
    pub(crate) topics: BTreeSet<Uuid>,
    /// What it was given last.
    pub(crate) last: Option<&'a Partitions>,
}

type Place = (Uuid, PartitionIndex);

/// What each member shall have, in the order of the members. Only `assignable` partitions are
/// given out.
pub(crate) fn assign(members: &[ShareMemberSpec<'_>], assignable: &Partitions) -> Vec<Partitions> {
    let mut targets = vec![Partitions::new(); members.len()];
    let Some(first) = members.first() else {
        return targets;
    };
    let places = |topics: &mut dyn Iterator<Item = &Uuid>| -> Vec<Place> {
        topics
            .flat_map(|topic| {
                let partitions = assignable.get(topic).into_iter().flatten();
                partitions.map(|p| (*topic, *p))
            })
            .collect()
    };
    if members.iter().all(|m| m.topics == first.topics) {
        let all: Vec<usize> = (0..members.len()).collect();
        let places = places(&mut first.topics.iter());
        share_out(members, &all, &places, &mut targets);
        return targets;
    }
    let topics: BTreeSet<Uuid> = members.iter().flat_map(|m| &m.topics).copied().collect();
    for topic in topics {
        let subscribed = members.iter().enumerate();
        let subscribed = subscribed.filter(|(_, m)| m.topics.contains(&topic));
        let subscribed: Vec<usize> = subscribed.map(|(n, _)| n).collect();
        let places = places(&mut std::iter::once(&topic));
        share_out(members, &subscribed, &places, &mut targets);
    }
    targets
}

/// Gives places to those of the members that `of` names.
fn share_out(
    members: &[ShareMemberSpec<'_>],
    of: &[usize],
    places: &[Place],
    targets: &mut [Partitions],
) {
    if places.is_empty() || of.is_empty() {
        return;
    }
    // How many members a place shall have, and so how many places a member.
    let sharing = of.len().div_ceil(places.len());
    let total = sharing * places.len();
    let quota = |n: usize| (total * (n + 1)).div_ceil(of.len()) - (total * n).div_ceil(of.len());
    let mut by_place: BTreeMap<Place, BTreeSet<usize>> = places
        .iter()
        .map(|place| (*place, BTreeSet::new()))
        .collect();
    let mut counts = vec![0; of.len()];
    // What was given last stays, as far as it may.
    for (n, member) in of.iter().enumerate() {
        let last = members.get(*member).and_then(|m| m.last);
        let last = last.into_iter().flatten();
        let last = last.flat_map(|(topic, partitions)| partitions.iter().map(|p| (*topic, *p)));
        for place in last {
            if let (Some(holders), Some(count)) = (by_place.get_mut(&place), counts.get_mut(n))
                && *count < quota(n)
                && holders.len() < sharing
            {
                holders.insert(n);
                *count += 1;
            }
        }
    }
    // The rest goes to those who have room, one after the other.
    let mut next = 0;
    for holders in by_place.values_mut() {
        let mut tried = 0;
        while holders.len() < sharing && tried < of.len() {
            let n = next % of.len();
            (next, tried) = (next + 1, tried + 1);
            if let Some(count) = counts.get_mut(n)
                && *count < quota(n)
                && holders.insert(n)
            {
                *count += 1;
                tried = 0;
            }
        }
    }
    for (place, holders) in by_place {
        for member in holders.into_iter().filter_map(|n| of.get(n)) {
            if let Some(target) = targets.get_mut(*member) {
                give(target, place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    fn assignable(topics: &[(u8, i32)]) -> Partitions {
        let topics = topics.iter();
        topics
            .map(|(n, count)| (topic(*n), (0..*count).collect()))
            .collect()
    }

    /// Assigns twice; the second time nothing may move.
    fn settled(subscriptions: &[&[u8]], assignable: &Partitions) -> Vec<Partitions> {
        let spec = |last: Option<&'static [Partitions]>| -> Vec<ShareMemberSpec<'static>> {
            let members = subscriptions.iter().enumerate();
            members
                .map(|(n, topics)| ShareMemberSpec {
                    topics: topics.iter().map(|t| topic(*t)).collect(),
                    last: last.map(|last| &last[n]),
                })
                .collect()
        };
        let first = assign(&spec(None), assignable);
        let kept: &'static [Partitions] = first.clone().leak();
        assert_eq!(assign(&spec(Some(kept)), assignable), first);
        first
    }

    fn count(partitions: &Partitions) -> usize {
        partitions.values().map(BTreeSet::len).sum()
    }

    #[test]
    fn more_members_than_partitions_share_them() {
        let targets = settled(&[&[1], &[1], &[1], &[1]], &assignable(&[(1, 2)]));
        assert!(targets.iter().all(|t| count(t) == 1), "{targets:?}");
        let of_first = targets.iter().filter(|t| t[&topic(1)].contains(&0)).count();
        assert_eq!(of_first, 2);
    }

    #[test]
    fn more_partitions_than_members_are_spread() {
        let targets = settled(&[&[1], &[1], &[1]], &assignable(&[(1, 7)]));
        let mut counts: Vec<usize> = targets.iter().map(count).collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 2, 3]);
    }

    #[test]
    fn every_partition_has_somebody_whatever_the_subscriptions() {
        for (members, partitions) in [(1, 5), (3, 5), (7, 3), (8, 3), (20, 6)] {
            let both: &[u8] = &[1, 2];
            let one: &[u8] = &[1];
            let subscriptions: Vec<&[u8]> = (0..members)
                .map(|n| if n % 2 == 0 { both } else { one })
                .collect();
            let assignable = assignable(&[(1, partitions), (2, 1)]);
            let targets = settled(&subscriptions, &assignable);
            for (topic, all) in &assignable {
                for partition in all {
                    let has = |t: &&Partitions| t.get(topic).is_some_and(|p| p.contains(partition));
                    assert!(
                        targets.iter().any(|t| has(&t)),
                        "{members} {topic} {partition}"
                    );
                }
            }
            for (target, topics) in targets.iter().zip(&subscriptions) {
                assert!(
                    target
                        .keys()
                        .all(|t| topics.iter().any(|n| topic(*n) == *t))
                );
            }
        }
    }

    #[test]
    fn a_member_that_comes_takes_over_some_and_the_others_keep_theirs() {
        let assignable = assignable(&[(1, 6)]);
        let last = [assignable.clone(), Partitions::new()];
        let members: Vec<_> = last
            .iter()
            .map(|last| ShareMemberSpec {
                topics: BTreeSet::from([topic(1)]),
                last: Some(last),
            })
            .collect();
        let targets = assign(&members, &assignable);
        assert_eq!(targets.iter().map(count).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(targets[0][&topic(1)], BTreeSet::from([0, 1, 2]));
    }
}
