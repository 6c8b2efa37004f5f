//! OffsetFetch (9), versions 1-10.
//!
//! - 1-7: one group. 2: all topics with null, error on top. 7: requireStable. 8: several groups. 9:
//!   member and epoch (checked in consumer groups, of no effect on classic ones). 10: topic ids.
//!
//! Everything works on the group of version 8; [`offset_fetch_group_of`] and
//! [`offset_fetch_response_of`] translate.

use super::{OffsetValue, Slot};
use crate::classic::State;
use crate::group::Group;
use crate::out::Topics;
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use flumen_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use flumen_wire::messages::{OffsetFetchRequest, OffsetFetchResponse};

/// Versions from here on name topics by id.
const TOPIC_IDS_FROM: i16 = 10;
/// Versions from here on have an error for the group.
const GROUP_ERROR_FROM: i16 = 2;

/// The one group of a request of version 1-7, in the form of version 8.
pub fn offset_fetch_group_of<'a>(request: &OffsetFetchRequest<'a>) -> OffsetFetchRequestGroup<'a> {
    let topics = request.topics.as_ref().map(|topics| {
        let topics = topics.iter().map(|t| OffsetFetchRequestTopics {
            name: t.name.clone(),
            partition_indexes: t.partition_indexes.clone(),
            ..Default::default()
        });
        topics.collect()
    });
    OffsetFetchRequestGroup {
        group_id: request.group_id.clone(),
        topics,
        ..Default::default()
    }
}

/// The response of version 1-7 from its one group, in the form of version 8.
pub fn offset_fetch_response_of(
    group: OffsetFetchResponseGroup<'static>,
) -> OffsetFetchResponse<'static> {
    let topics = group.topics.into_iter().map(|t| {
        let partitions = t.partitions.into_iter();
        OffsetFetchResponseTopic {
            name: t.name,
            partitions: partitions
                .map(|p| OffsetFetchResponsePartition {
                    partition_index: p.partition_index,
                    committed_offset: p.committed_offset,
                    committed_leader_epoch: p.committed_leader_epoch,
                    metadata: p.metadata,
                    error_code: p.error_code,
                })
                .collect(),
        }
    });
    OffsetFetchResponse {
        topics: topics.collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}

/// The answer of a group that fails as a whole. Version 1 has no place for it: it stands on each
/// partition.
pub fn fetch_group_error(
    request: &OffsetFetchRequestGroup<'_>,
    error: ErrorCode,
    api_version: i16,
) -> OffsetFetchResponseGroup<'static> {
    let mut group = OffsetFetchResponseGroup {
        group_id: request.group_id.to_string().into(),
        ..Default::default()
    };
    if api_version >= GROUP_ERROR_FROM {
        group.error_code = error.code();
        return group;
    }
    for topic in request.topics.iter().flatten() {
        group.topics.push(topic_result(topic, &topic.name, |index| {
            missing(index, error)
        }));
    }
    group
}

/// What a fetch hears that waited for an append that failed. Old consumers can't handle
/// COORDINATOR_NOT_AVAILABLE here.
pub(crate) fn fetch_append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::RequestTimedOut => ErrorCode::NotCoordinator,
        other => super::offset_append_error(other),
    }
}

fn missing(index: PartitionIndex, error: ErrorCode) -> OffsetFetchResponsePartitions<'static> {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some("".into()),
        error_code: error.code(),
    }
}

fn found(index: PartitionIndex, value: &OffsetValue) -> OffsetFetchResponsePartitions<'static> {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: value.offset,
        committed_leader_epoch: value.leader_epoch,
        metadata: Some(value.metadata.to_string().into()),
        error_code: 0,
    }
}

fn topic_result(
    topic: &OffsetFetchRequestTopics<'_>,
    name: &str,
    result: impl Fn(PartitionIndex) -> OffsetFetchResponsePartitions<'static>,
) -> OffsetFetchResponseTopics<'static> {
    OffsetFetchResponseTopics {
        name: name.to_owned().into(),
        topic_id: topic.topic_id,
        partitions: topic.partition_indexes.iter().map(|p| result(*p)).collect(),
    }
}

/// An offset committed for a topic that was deleted since and created anew is not this topic's.
fn is_of_topic(value: &OffsetValue, topic_id: Uuid) -> bool {
    value.topic_id.is_zero() || topic_id.is_zero() || value.topic_id == topic_id
}

/// Whether an open transaction is about to change the offset.
fn is_unstable(group: Option<&Group>, topic: &str, index: PartitionIndex) -> bool {
    group.is_some_and(|g| g.offsets.is_unstable(topic, index))
}

fn visible(slot: &Slot, latest: bool) -> Option<&OffsetValue> {
    if latest {
        slot.latest()
    } else {
        slot.committed.as_ref()
    }
}

/// Committed offsets of a group (`None`: it does not exist, and so has none). `latest`: those on
/// their way to the log too. `stable`: none of those that an open transaction is about to change.
pub(crate) fn fetch(
    group: Option<&Group>,
    request: &OffsetFetchRequestGroup<'_>,
    (latest, stable): (bool, bool),
    api_version: i16,
    topics: &dyn Topics,
) -> OffsetFetchResponseGroup<'static> {
    let group = group.filter(|g| !latest || g.classic.state != State::Dead);
    let by_id = api_version >= TOPIC_IDS_FROM;
    let results = match &request.topics {
        None => fetch_all(group, (latest, stable), by_id, topics),
        Some(asked) => fetch_asked(group, asked, (latest, stable), by_id, topics),
    };
    OffsetFetchResponseGroup {
        group_id: request.group_id.to_string().into(),
        topics: results,
        ..Default::default()
    }
}

fn fetch_asked(
    group: Option<&Group>,
    asked: &[OffsetFetchRequestTopics<'_>],
    (latest, stable): (bool, bool),
    by_id: bool,
    topics: &dyn Topics,
) -> Vec<OffsetFetchResponseTopics<'static>> {
    let mut results = Vec::with_capacity(asked.len());
    let mut unknown = Vec::new();
    for topic in asked {
        let name = match by_id {
            true => topics.name_of(topic.topic_id),
            false => Some(&*topic.name),
        };
        let Some(name) = name else {
            let result = |index| missing(index, ErrorCode::UnknownTopicId);
            unknown.push(topic_result(topic, "", result));
            continue;
        };
        let slots = group.and_then(|g| g.offsets.topics.get(name));
        let unstable = |index| stable && is_unstable(group, name, index);
        results.push(topic_result(topic, name, |index| {
            if unstable(index) {
                return missing(index, ErrorCode::UnstableOffsetCommit);
            }
            let slot = slots.and_then(|slots| slots.get(&index));
            let value = slot.and_then(|slot| visible(slot, latest));
            match value.filter(|v| is_of_topic(v, topic.topic_id)) {
                Some(value) => found(index, value),
                None => missing(index, ErrorCode::None),
            }
        }));
    }
    results.append(&mut unknown);
    results
}

fn fetch_all(
    group: Option<&Group>,
    (latest, stable): (bool, bool),
    by_id: bool,
    topics: &dyn Topics,
) -> Vec<OffsetFetchResponseTopics<'static>> {
    let mut results = Vec::new();
    for (name, slots) in group.iter().flat_map(|g| &g.offsets.topics) {
        let topic_id = match by_id {
            // A topic without id can't be named in this version.
            true => match topics.id_of(name) {
                Some(id) => id,
                None => continue,
            },
            false => Uuid::ZERO,
        };
        let line = |index, value: &OffsetValue| match stable && is_unstable(group, name, index) {
            true => missing(index, ErrorCode::UnstableOffsetCommit),
            false => found(index, value),
        };
        let partitions = slots
            .iter()
            .filter_map(|(index, slot)| Some(line(*index, visible(slot, latest)?)));
        let partitions: Vec<_> = partitions.collect();
        if !partitions.is_empty() {
            results.push(OffsetFetchResponseTopics {
                name: name.to_string().into(),
                topic_id,
                partitions,
            });
        }
    }
    results
}
