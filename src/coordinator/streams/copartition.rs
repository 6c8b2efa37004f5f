//! Copartition groups: topics that are joined must have the same number of partitions.

use super::configure::{Counts, Failure};
use super::topology::{CopartitionGroup, Subtopology, Topology};
use std::collections::{BTreeMap, BTreeSet};

type Sizes<'t> = BTreeMap<&'t str, i32>;

/// Makes the repartition topics of each copartition group as wide as its other topics.
pub(super) fn copartition(topology: &Topology, counts: &mut Counts<'_>) -> Result<(), Failure> {
    let all = topology.subtopologies.iter();
    let made = all.flat_map(|s| &s.repartition_sources);
    let (fixed, free): (Vec<_>, Vec<_>) = made.partition(|t| t.partitions != 0);
    let fixed: BTreeSet<&str> = fixed.iter().map(|t| &*t.name).collect();
    let free: BTreeSet<&str> = free.iter().map(|t| &*t.name).collect();
    for subtopology in &topology.subtopologies {
        for group in &subtopology.copartition_groups {
            let topics = topics_of(subtopology, group)?;
            let (mut made, mut outside) = (Sizes::new(), Sizes::new());
            for topic in topics {
                let Some(count) = counts.of(topic) else {
                    let message = format!("Number of partitions is not set for topic: {topic}");
                    return Err(Failure::unexpected(message));
                };
                match fixed.contains(topic) || free.contains(topic) {
                    true => made.insert(topic, count),
                    false => outside.insert(topic, count),
                };
            }
            let Some(width) = width(&made, &outside, &fixed, counts)? else {
                continue;
            };
            for (topic, count) in made {
                if fixed.contains(topic) && count != width {
                    return Err(Failure::misfit(format!(
                        "Number of partitions [{count}] of repartition topic [{topic}] doesn't \
                         match number of partitions [{width}] of the source topic."
                    )));
                }
                counts.decided.insert(topic.into(), width);
            }
        }
    }
    Ok(())
}

/// The names behind the indexes of a group.
fn topics_of<'t>(
    subtopology: &'t Subtopology,
    group: &CopartitionGroup,
) -> Result<BTreeSet<&'t str>, Failure> {
    fn at<T>(all: &[T], index: i16) -> Option<&T> {
        all.get(usize::try_from(index).ok()?)
    }
    let sources = group.sources.iter();
    let sources = sources.map(|i| at(&subtopology.sources, *i).map(|t| &**t));
    let made = group.repartition_sources.iter();
    let made = made.map(|i| at(&subtopology.repartition_sources, *i).map(|t| &*t.name));
    let topics: Option<_> = sources.chain(made).collect();
    topics.ok_or_else(|| {
        Failure::unexpected("A copartition group names a topic that the subtopology does not have")
    })
}

/// How wide the repartition topics of a group are to be; `None` for a group without topics.
fn width(
    made: &Sizes<'_>,
    outside: &Sizes<'_>,
    fixed: &BTreeSet<&str>,
    counts: &Counts<'_>,
) -> Result<Option<i32>, Failure> {
    if !outside.is_empty() {
        return same(outside.values().copied(), outside).map(Some);
    }
    if made.is_empty() {
        return Ok(None);
    }
    // As in Kafka, a fixed topic anywhere in the topology binds groups of repartition topics.
    if !fixed.is_empty() {
        return same(fixed.iter().filter_map(|topic| counts.of(topic)), made).map(Some);
    }
    match made.values().copied().max() {
        Some(0) => Err(Failure::invalid(
            "All topics in the copartition group had undefined partition number",
        )),
        widest => Ok(widest),
    }
}

/// The number that all of these are; `told` is shown where they differ.
fn same(mut counts: impl Iterator<Item = i32>, told: &Sizes<'_>) -> Result<i32, Failure> {
    let first = counts.next().unwrap_or(0);
    if counts.all(|count| count == first) {
        return Ok(first);
    }
    let told: Vec<_> = told
        .iter()
        .map(|(t, count)| format!("{t}={count}"))
        .collect();
    Err(Failure::misfit(format!(
        "Following topics do not have the same number of partitions: [{{{}}}]",
        told.join(", ")
    )))
}
