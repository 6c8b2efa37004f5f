//! The topology of an application, as its first member brings it: subtopologies, what they read,
//! and the topics that the broker makes for them.

use flumen_base::ErrorCode;
use flumen_wire::messages::streams_group_heartbeat_request as req;
use flumen_wire::records::{StreamsGroupTopologyValue, streams_group_topology_value as rec};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Refusal;

/// A topic that the broker makes for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InternalTopic {
    pub(super) name: Box<str>,
    /// 0: as many as what is read has.
    pub(super) partitions: i32,
    /// 0: the broker's default.
    pub(super) replication_factor: i16,
    pub(super) configs: Vec<(Box<str>, Box<str>)>,
}

/// Topics that must have the same number of partitions, as indexes into the subtopology's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopartitionGroup {
    pub(super) sources: Vec<i16>,
    pub(super) source_regexes: Vec<i16>,
    pub(super) repartition_sources: Vec<i16>,
}

/// A part of a topology that is connected by nothing but topics to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subtopology {
    pub(super) id: Arc<str>,
    pub(super) sources: Vec<Box<str>>,
    pub(super) source_regexes: Vec<Box<str>>,
    /// Topics between subtopologies: written here, ...
    pub(super) repartition_sinks: Vec<Box<str>>,
    /// ... and read there.
    pub(super) repartition_sources: Vec<InternalTopic>,
    /// State is restored from these.
    pub(super) changelogs: Vec<InternalTopic>,
    pub(super) copartition_groups: Vec<CopartitionGroup>,
}

impl Subtopology {
    /// Every topic that it reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = &str> {
        let made = self.repartition_sources.iter().map(|t| &*t.name);
        self.sources.iter().map(|s| &**s).chain(made)
    }
}

/// A topology.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub(super) epoch: i32,
    /// In the order in which they came; their ids differ.
    pub(super) subtopologies: Vec<Subtopology>,
}

impl PartialEq for Topology {
    /// The order of the subtopologies means nothing.
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.subtopologies.len() == other.subtopologies.len()
            && self
                .subtopologies
                .iter()
                .all(|s| other.subtopology(&s.id) == Some(s))
    }
}

impl Eq for Topology {}

impl Topology {
    /// As a member brings it.
    ///
    /// # Errors
    /// A negative epoch, or two subtopologies with one id: Kafka's coordinator fails at them.
    pub(super) fn of_request(topology: &req::Topology<'_>) -> Result<Self, Refusal> {
        let subtopologies = topology.subtopologies.iter();
        let new = Self {
            epoch: topology.epoch,
            subtopologies: subtopologies.map(of_request).collect(),
        };
        let ids: BTreeSet<&str> = new.subtopologies.iter().map(|s| &*s.id).collect();
        if new.epoch < 0 || ids.len() != new.subtopologies.len() {
            return Err(ErrorCode::UnknownServerError.into());
        }
        Ok(new)
    }

    /// As a record has it.
    pub(super) fn of_record(value: &StreamsGroupTopologyValue<'_>) -> Self {
        Self {
            epoch: value.epoch,
            subtopologies: value.subtopologies.iter().map(of_record).collect(),
        }
    }

    /// For a record.
    pub(super) fn to_record(&self) -> StreamsGroupTopologyValue<'_> {
        StreamsGroupTopologyValue {
            epoch: self.epoch,
            subtopologies: self.subtopologies.iter().map(to_record).collect(),
        }
    }

    /// The subtopology with this id.
    pub(super) fn subtopology(&self, id: &str) -> Option<&Subtopology> {
        self.subtopologies.iter().find(|s| &*s.id == id)
    }

    /// Whether this topic must be there.
    pub(super) fn requires(&self, topic: &str) -> bool {
        let mut all = self.subtopologies.iter();
        all.any(|s| s.reads().any(|t| t == topic) || s.changelogs.iter().any(|t| *t.name == *topic))
    }

    /// Every topic that must be there, ascending.
    pub(super) fn required_topics(&self) -> BTreeSet<&str> {
        let all = self.subtopologies.iter();
        all.flat_map(|s| s.reads().chain(s.changelogs.iter().map(|t| &*t.name)))
            .collect()
    }

    /// The subtopology that reads a topic.
    pub(super) fn reader_of(&self, topic: &str) -> Option<&Arc<str>> {
        let mut all = self.subtopologies.iter().rev();
        let reader = all.find(|s| s.reads().any(|t| t == topic));
        reader.map(|s| &s.id)
    }
}

fn texts(all: &[Cow<'_, str>]) -> Vec<Box<str>> {
    all.iter().map(|t| (&**t).into()).collect()
}

fn cows(all: &[Box<str>]) -> Vec<Cow<'_, str>> {
    all.iter().map(|t| Cow::Borrowed(&**t)).collect()
}

/// The same fields under the names of the request and of the record.
macro_rules! reads_subtopology {
    ($name:ident $module:ident $config:ident) => {
        fn $name(s: &$module::Subtopology<'_>) -> Subtopology {
            let topic = |t: &$module::TopicInfo<'_>| {
                let pair = |c: &$module::$config<'_>| ((&*c.key).into(), (&*c.value).into());
                InternalTopic {
                    name: (&*t.name).into(),
                    partitions: t.partitions,
                    replication_factor: t.replication_factor,
                    configs: t.topic_configs.iter().map(pair).collect(),
                }
            };
            let copartition = |g: &$module::CopartitionGroup| CopartitionGroup {
                sources: g.source_topics.clone(),
                source_regexes: g.source_topic_regex.clone(),
                repartition_sources: g.repartition_source_topics.clone(),
            };
            Subtopology {
                id: (&*s.subtopology_id).into(),
                sources: texts(&s.source_topics),
                source_regexes: texts(&s.source_topic_regex),
                repartition_sinks: texts(&s.repartition_sink_topics),
                repartition_sources: s.repartition_source_topics.iter().map(topic).collect(),
                changelogs: s.state_changelog_topics.iter().map(topic).collect(),
                copartition_groups: s.copartition_groups.iter().map(copartition).collect(),
            }
        }
    };
}

reads_subtopology!(of_request req KeyValue);
reads_subtopology!(of_record rec TopicConfig);

fn to_record(s: &Subtopology) -> rec::Subtopology<'_> {
    fn topic(t: &InternalTopic) -> rec::TopicInfo<'_> {
        let configs = t.configs.iter();
        rec::TopicInfo {
            name: (&*t.name).into(),
            partitions: t.partitions,
            replication_factor: t.replication_factor,
            topic_configs: configs
                .map(|(key, value)| rec::TopicConfig {
                    key: (&**key).into(),
                    value: (&**value).into(),
                })
                .collect(),
        }
    }
    let groups = s.copartition_groups.iter();
    rec::Subtopology {
        subtopology_id: (&*s.id).into(),
        source_topics: cows(&s.sources),
        source_topic_regex: cows(&s.source_regexes),
        state_changelog_topics: s.changelogs.iter().map(topic).collect(),
        repartition_sink_topics: cows(&s.repartition_sinks),
        repartition_source_topics: s.repartition_sources.iter().map(topic).collect(),
        copartition_groups: groups
            .map(|g| rec::CopartitionGroup {
                source_topics: g.sources.clone(),
                source_topic_regex: g.source_regexes.clone(),
                repartition_source_topics: g.repartition_sources.clone(),
            })
            .collect(),
    }
}
