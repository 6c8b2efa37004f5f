//! A topology among the topics there are: how many tasks each subtopology has, which topics the
//! broker has to make and with how many partitions, or what is in the way.
//!
//! ```text
//! what is read from outside    must be there: MISSING_SOURCE_TOPICS
//! repartition topics           as many partitions as they ask for, else as the widest that the
//!                              subtopologies read which write them, link by link
//! copartition groups           all alike: repartition topics that don't ask for a number follow
//!                              the others, the rest is INCORRECTLY_PARTITIONED_TOPICS
//! changelog topics             as many as the subtopology has tasks
//! topics that are not there    are to be made: MISSING_INTERNAL_TOPICS until they are; those that
//!                              are there must fit: INCORRECTLY_PARTITIONED_TOPICS
//! ```

use super::Refusal;
use super::copartition::copartition;
use super::topology::{InternalTopic, Subtopology, Topology};
use crate::out::Metadata;
use flumen_base::ErrorCode;
use flumen_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names that a status lists before it only counts.
const NAMES_TOLD_MAX: usize = 3;

/// What a member is told beside its assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusCode {
    StaleTopology = 0,
    MissingSourceTopics = 1,
    IncorrectlyPartitionedTopics = 2,
    MissingInternalTopics = 3,
    ShutdownApplication = 4,
    AssignmentDelayed = 5,
}

/// Why a topology can't run yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) code: StatusCode,
    pub(super) detail: String,
}

/// Why a topology can't be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It could later: the group goes on without an assignment.
    NotYet(Obstacle),
    /// It never can: the request is refused.
    Never(Refusal),
}

impl Failure {
    pub(super) fn misfit(detail: String) -> Self {
        Self::NotYet(Obstacle {
            code: StatusCode::IncorrectlyPartitionedTopics,
            detail,
        })
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        let error = ErrorCode::StreamsInvalidTopology;
        Self::Never(Refusal::new(error, message))
    }

    /// Where Kafka's coordinator fails at something that it does not expect.
    pub(super) fn unexpected(message: impl Into<String>) -> Self {
        Self::Never(Refusal::new(ErrorCode::UnknownServerError, message))
    }
}

/// A subtopology whose topics are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfiguredSubtopology {
    pub(super) tasks: i32,
    pub(super) sources: BTreeSet<Box<str>>,
    pub(super) repartition_sinks: BTreeSet<Box<str>>,
    /// With the number of partitions that each has or shall have.
    pub(super) repartition_sources: BTreeMap<Box<str>, InternalTopic>,
    pub(super) changelogs: BTreeMap<Box<str>, InternalTopic>,
}

/// A topology among the topics there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Configured {
    pub(super) topology_epoch: i32,
    /// Of the topics that it was made with.
    pub(super) metadata_hash: i64,
    /// `None` where topics are missing or don't fit.
    pub(super) subtopologies: Option<BTreeMap<Arc<str>, ConfiguredSubtopology>>,
    pub(super) obstacle: Option<Obstacle>,
    /// What is to be made, by name.
    pub(super) to_create: Vec<InternalTopic>,
}

impl Configured {
    /// Whether tasks can run.
    pub(super) fn is_ready(&self) -> bool {
        self.obstacle.is_none()
    }
}

/// Partitions of the topics there are, and of those that will be made.
pub(super) struct Counts<'a> {
    metadata: &'a dyn Metadata,
    pub(super) decided: BTreeMap<Box<str>, i32>,
}

impl Counts<'_> {
    fn existing(&self, topic: &str) -> Option<i32> {
        self.metadata
            .partition_count(self.metadata.topic_id(topic)?)
    }

    /// Of a topic that exists, else of one that will be made.
    pub(super) fn of(&self, topic: &str) -> Option<i32> {
        let decided = || self.decided.get(topic).copied();
        self.existing(topic).or_else(decided)
    }
}

/// Looks at a topology among the topics there are.
///
/// # Errors
/// The topology contradicts itself.
pub(super) fn configure(
    topology: &Topology,
    metadata: &dyn Metadata,
    metadata_hash: i64,
) -> Result<Configured, Refusal> {
    let mut configured = Configured {
        topology_epoch: topology.epoch,
        metadata_hash,
        subtopologies: None,
        obstacle: None,
        to_create: Vec::new(),
    };
    match decide(topology, metadata) {
        Err(Failure::Never(refusal)) => return Err(refusal),
        Err(Failure::NotYet(obstacle)) => configured.obstacle = Some(obstacle),
        Ok((subtopologies, to_create)) => {
            if !to_create.is_empty() {
                let names = to_create.iter().map(|t| &*t.name);
                configured.obstacle = Some(Obstacle {
                    code: StatusCode::MissingInternalTopics,
                    detail: format!("Internal topics are missing: {}", listed(names)),
                });
            }
            configured.subtopologies = Some(subtopologies);
            configured.to_create = to_create;
        }
    }
    Ok(configured)
}

type Decided = (
    BTreeMap<Arc<str>, ConfiguredSubtopology>,
    Vec<InternalTopic>,
);

fn decide(topology: &Topology, metadata: &dyn Metadata) -> Result<Decided, Failure> {
    let mut counts = Counts {
        metadata,
        decided: BTreeMap::new(),
    };
    check_sources(topology, &counts)?;
    counts.decided = repartition_counts(topology, &counts)?;
    copartition(topology, &mut counts)?;
    let changelogs = changelog_counts(topology, &counts)?;
    counts.decided.extend(changelogs);
    let mut subtopologies = BTreeMap::new();
    for subtopology in &topology.subtopologies {
        let configured = configured_subtopology(subtopology, &counts)?;
        subtopologies.insert(subtopology.id.clone(), configured);
    }
    let to_create = missing(&subtopologies, &counts)?;
    Ok((subtopologies, to_create))
}

/// Some of the names, and how many more there are.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let (told, rest) = names.split_at(names.len().min(NAMES_TOLD_MAX));
    match rest.len() {
        0 => told.join(", "),
        more => format!("{} and {more} additional topics", told.join(", ")),
    }
}

fn check_sources(topology: &Topology, counts: &Counts<'_>) -> Result<(), Failure> {
    let sources = topology.subtopologies.iter().flat_map(|s| &s.sources);
    let gone = sources.filter(|topic| counts.existing(topic).is_none());
    let gone: BTreeSet<&str> = gone.map(|topic| &**topic).collect();
    if gone.is_empty() {
        return Ok(());
    }
    Err(Failure::NotYet(Obstacle {
        code: StatusCode::MissingSourceTopics,
        detail: format!("Source topics {} are missing.", listed(gone.into_iter())),
    }))
}

/// How many partitions the repartition topics get by themselves.
fn repartition_counts(
    topology: &Topology,
    counts: &Counts<'_>,
) -> Result<BTreeMap<Box<str>, i32>, Failure> {
    let all = &topology.subtopologies;
    let mut decided: BTreeMap<Box<str>, i32> = BTreeMap::new();
    for topic in all.iter().flat_map(|s| &s.repartition_sources) {
        if topic.partitions != 0 {
            decided.insert(topic.name.clone(), topic.partitions);
        }
    }
    // Each round decides topics one link further from what is read from outside.
    loop {
        let (mut open, mut progress) = (false, false);
        for subtopology in all {
            for sink in &subtopology.repartition_sinks {
                if decided.contains_key(sink) {
                    continue;
                }
                let made = subtopology.repartition_sources.iter();
                let made = made.filter_map(|t| decided.get(&t.name).copied());
                let outside = subtopology.sources.iter().filter_map(|t| counts.of(t));
                match made.chain(outside).max() {
                    Some(count) => {
                        decided.insert(sink.clone(), count);
                        progress = true;
                    }
                    None => open = true,
                }
            }
        }
        if !open {
            break;
        }
        if !progress {
            return Err(Failure::invalid(
                "Failed to compute number of partitions for all repartition topics. There may be \
                 loops in the topology that cannot be resolved.",
            ));
        }
    }
    let mut read = all.iter().flat_map(|s| &s.repartition_sources);
    if read.any(|topic| !decided.contains_key(&topic.name)) {
        return Err(Failure::invalid(
            "Failed to compute number of partitions for all repartition topics, because a \
             repartition source topic is never used as a sink topic.",
        ));
    }
    Ok(decided)
}

/// The widest topic that a subtopology reads has a partition for each of its tasks.
fn widest(subtopology: &Subtopology, counts: &Counts<'_>) -> Result<i32, Failure> {
    let mut widest = None;
    for topic in subtopology.reads() {
        let Some(count) = counts.of(topic) else {
            let message = format!("No partition count for source topic {topic}");
            return Err(Failure::unexpected(message));
        };
        widest = widest.max(Some(count));
    }
    widest.ok_or_else(|| {
        Failure::invalid(format!(
            "No source topics found for subtopology {}",
            subtopology.id
        ))
    })
}

fn changelog_counts(
    topology: &Topology,
    counts: &Counts<'_>,
) -> Result<BTreeMap<Box<str>, i32>, Failure> {
    let mut decided = BTreeMap::new();
    for subtopology in &topology.subtopologies {
        let count = widest(subtopology, counts)?;
        let names = subtopology.changelogs.iter().map(|t| t.name.clone());
        decided.extend(names.map(|name| (name, count)));
    }
    Ok(decided)
}

fn configured_subtopology(
    subtopology: &Subtopology,
    counts: &Counts<'_>,
) -> Result<ConfiguredSubtopology, Failure> {
    let topics = |all: &[InternalTopic]| -> Result<BTreeMap<Box<str>, InternalTopic>, Failure> {
        let all = all.iter().map(|topic| {
            let mut topic = topic.clone();
            if topic.partitions == 0 {
                topic.partitions = counts.decided.get(&topic.name).copied().unwrap_or(0);
            }
            match topic.partitions {
                ..1 => Err(Failure::unexpected(
                    "Number of partitions must be at least 1.",
                )),
                _ => Ok((topic.name.clone(), topic)),
            }
        });
        all.collect()
    };
    Ok(ConfiguredSubtopology {
        tasks: widest(subtopology, counts)?,
        sources: subtopology.sources.iter().cloned().collect(),
        repartition_sinks: subtopology.repartition_sinks.iter().cloned().collect(),
        repartition_sources: topics(&subtopology.repartition_sources)?,
        changelogs: topics(&subtopology.changelogs)?,
    })
}

/// The broker's topics that are not there; those that are must have the right size.
fn missing(
    subtopologies: &BTreeMap<Arc<str>, ConfiguredSubtopology>,
    counts: &Counts<'_>,
) -> Result<Vec<InternalTopic>, Failure> {
    let all = subtopologies.values();
    let all = all.flat_map(|s| s.repartition_sources.iter().chain(&s.changelogs));
    let by_name: BTreeMap<_, _> = all.collect();
    let mut to_create = Vec::new();
    for (name, topic) in by_name {
        match counts.existing(name) {
            None => to_create.push(topic.clone()),
            Some(found) if found == topic.partitions => {}
            Some(found) => {
                return Err(Failure::misfit(format!(
                    "Existing topic {name} has different number of partitions: expected {}, found \
                     {found}",
                    topic.partitions
                )));
            }
        }
    }
    Ok(to_create)
}

/// How a topic is asked for.
pub(super) fn creatable(topic: &InternalTopic) -> CreatableTopic<'static> {
    let configs = topic.configs.iter();
    CreatableTopic {
        name: topic.name.to_string().into(),
        num_partitions: topic.partitions,
        replication_factor: match topic.replication_factor {
            0 => -1,
            factor => factor,
        },
        configs: configs
            .map(|(name, value)| CreatableTopicConfig {
                name: name.to_string().into(),
                value: Some(value.to_string().into()),
            })
            .collect(),
        ..Default::default()
    }
}
