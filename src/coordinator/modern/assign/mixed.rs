//! The `uniform` assignor where members subscribe to different topics: partitions stay where they
//! were if they may, free ones go to the subscriber with least, and then partitions move from those
//! with many to those with few, topic by topic, until no move makes it more even.
//!
//! With the same subscriptions for all subscribers of a topic that is perfectly even; where
//! subscriptions overlap in part it is nearly so.

use super::{Spec, give};
use crate::modern::Partitions;
use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds of moving over all topics. Each about halves what is uneven.
const ROUNDS_MAX: usize = 16;

struct Topic {
    id: Uuid,
    /// Members, ascending.
    subscribers: Vec<usize>,
    /// By partition.
    owners: Vec<Option<usize>>,
}

/// A member by how much it has.
type Load = (usize, usize);

pub(super) fn assign(spec: &Spec<'_>) -> Vec<Partitions> {
    let mut topics = topics_of(spec);
    // Topics with few subscribers for their partitions first: they have least choice.
    topics.sort_by(|a, b| {
        let (left, right) = (
            a.owners.len() * b.subscribers.len(),
            b.owners.len() * a.subscribers.len(),
        );
        let by_share = right.cmp(&left);
        by_share
            .then(a.subscribers.len().cmp(&b.subscribers.len()))
            .then(a.id.cmp(&b.id))
    });
    let mut sizes = vec![0; spec.members.len()];
    for owner in topics.iter().flat_map(|t| t.owners.iter().flatten()) {
        sizes[*owner] += 1;
    }
    for topic in &mut topics {
        fill(topic, &mut sizes);
    }
    for _ in 0..ROUNDS_MAX {
        let mut moved = false;
        for topic in &mut topics {
            moved |= even_out(topic, &mut sizes);
        }
        if !moved {
            break;
        }
    }
    let mut targets = vec![Partitions::new(); spec.members.len()];
    for topic in &topics {
        for (partition, owner) in topic.owners.iter().enumerate() {
            if let Some(owner) = owner {
                let partition = partition as PartitionIndex; // below the topic's count, an i32
                give(&mut targets[*owner], (topic.id, partition));
            }
        }
    }
    targets
}

fn topics_of(spec: &Spec<'_>) -> Vec<Topic> {
    let mut subscribers: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
    for (n, member) in spec.members.iter().enumerate() {
        for topic in member.topics.iter() {
            subscribers.entry(*topic).or_default().push(n);
        }
    }
    let owners = spec.owners();
    let topics = subscribers.into_iter().map(|(id, subscribers)| {
        let partitions = 0..spec.count(id);
        let owners = partitions.map(|p| owners.get(&(id, p)).copied()).collect();
        Topic {
            id,
            subscribers,
            owners,
        }
    });
    topics.collect()
}

/// Gives the free partitions of a topic to whoever has least.
fn fill(topic: &mut Topic, sizes: &mut [usize]) {
    let subscribers = topic.subscribers.iter();
    let mut loads: BTreeSet<Load> = subscribers.map(|n| (sizes[*n], *n)).collect();
    for owner in topic.owners.iter_mut().filter(|owner| owner.is_none()) {
        let Some((size, taker)) = loads.pop_first() else {
            return;
        };
        *owner = Some(taker);
        sizes[taker] = size + 1;
        loads.insert((size + 1, taker));
    }
}

/// Moves partitions of a topic from its subscribers with most to those with least; whether any
/// moved.
fn even_out(topic: &mut Topic, sizes: &mut [usize]) -> bool {
    if topic.subscribers.len() < 2 {
        return false;
    }
    let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (partition, owner) in topic.owners.iter().enumerate() {
        if let Some(owner) = owner {
            owned.entry(*owner).or_default().push(partition);
        }
    }
    let subscribers = topic.subscribers.iter();
    let mut takers: BTreeSet<Load> = subscribers.map(|n| (sizes[*n], *n)).collect();
    let mut givers: BTreeSet<Load> = owned.keys().map(|n| (sizes[*n], *n)).collect();
    let mut moved = false;
    while let (Some(&(most, giver)), Some(&(least, taker))) = (givers.last(), takers.first()) {
        if most <= least + 1 {
            break;
        }
        let Some(partition) = owned.get_mut(&giver).and_then(Vec::pop) else {
            givers.remove(&(most, giver));
            continue;
        };
        topic.owners[partition] = Some(taker);
        owned.entry(taker).or_default().push(partition);
        for (member, before, after) in [(giver, most, most - 1), (taker, least, least + 1)] {
            sizes[member] = after;
            takers.remove(&(before, member));
            takers.insert((after, member));
            givers.remove(&(before, member));
            givers.insert((after, member));
        }
        moved = true;
    }
    moved
}
