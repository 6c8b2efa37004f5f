//! Which partitions the instances hold state of that can be asked for it (interactive queries).

use super::configure::ConfiguredSubtopology;
use super::member::Member;
use super::state::StreamsGroup;
use super::tasks::TaskMap;
use crate::out::Metadata;
use flumen_wire::messages::streams_group_heartbeat_response::{
    Endpoint, EndpointToPartitions, TopicPartition,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Subtopologies = BTreeMap<Arc<str>, ConfiguredSubtopology>;

/// The partitions that tasks read.
fn partitions_of(
    tasks: &TaskMap,
    subtopologies: &Subtopologies,
    metadata: &dyn Metadata,
) -> Vec<TopicPartition<'static>> {
    let mut all = Vec::new();
    for (id, partitions) in tasks {
        let Some(subtopology) = subtopologies.get(id) else {
            continue;
        };
        let made = subtopology.repartition_sources.keys();
        let topics: BTreeSet<&Box<str>> = subtopology.sources.iter().chain(made).collect();
        for topic in topics {
            let count = metadata.topic_id(topic);
            let count = count.and_then(|id| metadata.partition_count(id));
            // A task whose partition a narrower topic does not have reads nothing of it.
            let read = partitions.range(..count.unwrap_or(0));
            all.push(TopicPartition {
                topic: topic.to_string().into(),
                partitions: read.copied().collect(),
            });
        }
    }
    all
}

fn endpoint_of(
    member: &Member,
    subtopologies: &Subtopologies,
    metadata: &dyn Metadata,
) -> Option<EndpointToPartitions<'static>> {
    let endpoint = member.endpoint.as_ref()?;
    let partitions = |tasks: &TaskMap| partitions_of(tasks, subtopologies, metadata);
    Some(EndpointToPartitions {
        user_endpoint: Endpoint {
            host: endpoint.host.to_string().into(),
            port: endpoint.port,
        },
        active_partitions: partitions(&member.assigned.active_set()),
        standby_partitions: partitions(&member.assigned.standby),
    })
}

impl StreamsGroup {
    /// All endpoints; `member` is as it will be.
    pub(super) fn endpoints(
        &self,
        member: &Member,
        subtopologies: Option<&Subtopologies>,
        metadata: &dyn Metadata,
    ) -> Vec<EndpointToPartitions<'static>> {
        let none = Subtopologies::new();
        let subtopologies = subtopologies.unwrap_or(&none);
        let others = self.members().values().map(|m| &**m);
        let others = others.filter(|m| m.id != member.id);
        let all = others.chain([member]);
        all.filter_map(|m| endpoint_of(m, subtopologies, metadata))
            .collect()
    }
}
