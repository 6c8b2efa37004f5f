//! What admin requests see of a streams group: StreamsGroupDescribe (89), version 0.

use super::Refusal;
use super::configure::{Configured, ConfiguredSubtopology};
use super::member::Member;
use super::state::StreamsGroup;
use super::tasks::{TaskMap, Tasks};
use super::topology::{InternalTopic, Subtopology, Topology};
use crate::group::Group;
use flumen_base::ErrorCode;
use flumen_wire::messages::streams_group_describe_response as wire;
use std::borrow::Cow;
use wire::DescribedGroup;

/// A description of a group that can't be given.
pub(crate) fn described_error(group: &str, refusal: Refusal) -> DescribedGroup<'static> {
    DescribedGroup {
        group_id: group.to_owned().into(),
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    }
}

/// A description of a group that does not exist, or (`exists`) is of another kind.
pub(crate) fn described_unknown(group: &str, exists: bool) -> DescribedGroup<'static> {
    let message = match exists {
        true => format!("Group {group} is not a streams group."),
        false => format!("Group {group} not found."),
    };
    described_error(group, Refusal::new(ErrorCode::GroupIdNotFound, message))
}

fn owned(text: &str) -> Cow<'static, str> {
    text.to_owned().into()
}

fn sorted<'t>(names: impl Iterator<Item = &'t Box<str>>) -> Vec<Cow<'static, str>> {
    let mut names: Vec<_> = names.map(|name| owned(name)).collect();
    names.sort();
    names
}

fn topics<'t>(topics: impl Iterator<Item = &'t InternalTopic>) -> Vec<wire::TopicInfo<'static>> {
    let mut topics: Vec<_> = topics
        .map(|t| wire::TopicInfo {
            name: owned(&t.name),
            partitions: t.partitions,
            replication_factor: t.replication_factor,
            topic_configs: t
                .configs
                .iter()
                .map(|(key, value)| wire::KeyValue {
                    key: owned(key),
                    value: owned(value),
                })
                .collect(),
        })
        .collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics
}

fn as_configured(id: &str, s: &ConfiguredSubtopology) -> wire::Subtopology<'static> {
    wire::Subtopology {
        subtopology_id: owned(id),
        source_topics: sorted(s.sources.iter()),
        repartition_sink_topics: sorted(s.repartition_sinks.iter()),
        state_changelog_topics: topics(s.changelogs.values()),
        repartition_source_topics: topics(s.repartition_sources.values()),
    }
}

fn as_brought(s: &Subtopology) -> wire::Subtopology<'static> {
    wire::Subtopology {
        subtopology_id: owned(&s.id),
        source_topics: sorted(s.sources.iter()),
        repartition_sink_topics: sorted(s.repartition_sinks.iter()),
        state_changelog_topics: topics(s.changelogs.iter()),
        repartition_source_topics: topics(s.repartition_sources.iter()),
    }
}

/// With the numbers of partitions where the topology can run, else as its members brought it.
fn described_topology(
    topology: &Topology,
    configured: Option<&Configured>,
) -> wire::Topology<'static> {
    let ready = configured.filter(|c| c.is_ready() && c.topology_epoch == topology.epoch);
    let subtopologies = match ready.and_then(|c| c.subtopologies.as_ref()) {
        Some(all) => all.iter().map(|(id, s)| as_configured(id, s)).collect(),
        None => {
            let mut all: Vec<_> = topology.subtopologies.iter().map(as_brought).collect();
            all.sort_by(|a, b| a.subtopology_id.cmp(&b.subtopology_id));
            all
        }
    };
    wire::Topology {
        epoch: topology.epoch,
        subtopologies: Some(subtopologies),
    }
}

fn assignment(tasks: &Tasks) -> wire::Assignment<'static> {
    let ids = |all: &TaskMap| {
        let all = all.iter();
        all.map(|(subtopology, partitions)| wire::TaskIds {
            subtopology_id: owned(subtopology),
            partitions: partitions.iter().copied().collect(),
        })
        .collect()
    };
    wire::Assignment {
        active_tasks: ids(&tasks.active),
        standby_tasks: ids(&tasks.standby),
        warmup_tasks: ids(&tasks.warmup),
    }
}

impl StreamsGroup {
    fn describe_member(&self, m: &Member) -> wire::Member<'static> {
        let none = Tasks::default();
        let target = self.target(&m.id).map_or(&none, |t| &**t);
        wire::Member {
            member_id: owned(&m.id),
            member_epoch: m.epoch,
            instance_id: m.instance.as_deref().map(owned),
            rack_id: m.rack.as_deref().map(owned),
            client_id: owned(&m.client_id),
            client_host: owned(&m.client_host),
            topology_epoch: m.topology_epoch,
            process_id: owned(&m.process),
            user_endpoint: m.endpoint.as_ref().map(|e| wire::Endpoint {
                host: owned(&e.host),
                port: e.port,
            }),
            client_tags: m
                .tags
                .iter()
                .map(|(key, value)| wire::KeyValue {
                    key: owned(key),
                    value: owned(value),
                })
                .collect(),
            assignment: assignment(&m.assigned.without_epochs()),
            target_assignment: assignment(target),
            ..Default::default()
        }
    }
}

impl Group {
    /// As StreamsGroupDescribe shows it; `None` for other kinds of groups.
    pub(crate) fn describe_streams(&self) -> Option<DescribedGroup<'static>> {
        let streams = self.streams.as_ref()?;
        let topology = streams.topology.as_ref();
        let configured = streams.configured.as_deref();
        let members = streams.members().values();
        Some(DescribedGroup {
            group_id: owned(&self.name),
            group_state: streams.state().name().into(),
            group_epoch: streams.at.epoch,
            assignment_epoch: streams.target_epoch,
            topology: topology.map(|t| described_topology(t, configured)),
            members: members.map(|m| streams.describe_member(m)).collect(),
            ..Default::default()
        })
    }
}
