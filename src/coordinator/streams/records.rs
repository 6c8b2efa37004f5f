//! The records of a streams group, byte for byte as Kafka 4.3.1 writes them.
//!
//! | key type | record | holds |
//! |--|--|--|
//! | 17 | StreamsGroupMetadata | group epoch, hash of the topics' metadata, validated topology |
//! | 19 | StreamsGroupMemberMetadata | what a member says of itself |
//! | 20 | StreamsGroupTargetAssignmentMetadata | target epoch and when it was made |
//! | 21 | StreamsGroupTargetAssignmentMember | the tasks that a member shall have |
//! | 22 | StreamsGroupCurrentMemberAssignment | the tasks that a member has |
//! | 23 | StreamsGroupTopology | the topology |

use super::member::{Endpoint, Member};
use super::tasks::{EpochTaskMap, HeldTasks, TaskMap, Tasks};
use super::topology::Topology;
use crate::modern::MemberState;
use crate::out::Record;
use crate::records::ReplayError;
use bytes::Bytes;
use flumen_wire::records as wire;
use flumen_wire::{EncodeError, Message};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::{
    streams_group_current_member_assignment_value as current_value,
    streams_group_member_metadata_value as metadata_value,
    streams_group_metadata_value as group_value,
    streams_group_target_assignment_member_value as target_value,
};

const VERSION: i16 = 0;
/// The code of [`MemberState::Stable`]; the others follow.
const STABLE: i8 = 1;

/// Settings that targets are made with, by name.
pub(super) type AssignmentConfigs = BTreeMap<Box<str>, Box<str>>;

/// What is known of a group as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupEpoch {
    pub(super) epoch: i32,
    /// Over the metadata of its topics, as of `epoch`.
    pub(super) metadata_hash: i64,
    /// The topology whose topics were all there; -1: none.
    pub(super) validated_topology_epoch: i32,
    /// What the last epoch was begun with.
    pub(super) configs: AssignmentConfigs,
}

/// One change of a streams group. `None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamsRecord {
    /// What a member says of itself; the rest of the [`Member`] does not count.
    Member(Arc<str>, Option<Arc<Member>>),
    /// What a member has; the rest of the [`Member`] does not count.
    Current(Arc<str>, Option<Arc<Member>>),
    /// What a member shall have.
    Target(Arc<str>, Option<Arc<Tasks>>),
    /// Target epoch, and wall clock of its making.
    TargetEpoch(Option<(i32, i64)>),
    /// The tombstone ends the group.
    Epoch(Option<Arc<GroupEpoch>>),
    Topology(Option<Arc<Topology>>),
}

impl StreamsRecord {
    /// Whether it is a tombstone.
    pub(crate) fn is_tombstone(&self) -> bool {
        match self {
            Self::Member(_, value) | Self::Current(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::TargetEpoch(value) => value.is_none(),
            Self::Epoch(value) => value.is_none(),
            Self::Topology(value) => value.is_none(),
        }
    }

    /// Whether it is the tombstone of a group.
    pub(crate) fn ends_group(&self) -> bool {
        matches!(self, Self::Epoch(None))
    }

    /// The record for the log; `None` when a string is too long for one.
    pub(crate) fn encode(&self, group: &str) -> Option<Record> {
        self.try_encode(group.into()).ok()
    }

    fn try_encode(&self, group_id: Cow<'_, str>) -> Result<Record, EncodeError> {
        let (key, value) = match self {
            Self::Member(id, member) => (
                wire::encode_key(&wire::StreamsGroupMemberMetadataKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                member.as_ref().map(|m| metadata_bytes(m)).transpose()?,
            ),
            Self::Current(id, member) => (
                wire::encode_key(&wire::StreamsGroupCurrentMemberAssignmentKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                member.as_ref().map(|m| current_bytes(m)).transpose()?,
            ),
            Self::Target(id, target) => (
                wire::encode_key(&wire::StreamsGroupTargetAssignmentMemberKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                target.as_ref().map(|t| target_bytes(t)).transpose()?,
            ),
            Self::TargetEpoch(value) => (
                wire::encode_key(&wire::StreamsGroupTargetAssignmentMetadataKey { group_id })?,
                value
                    .map(|(assignment_epoch, assignment_timestamp)| {
                        versioned(&wire::StreamsGroupTargetAssignmentMetadataValue {
                            assignment_epoch,
                            assignment_timestamp,
                        })
                    })
                    .transpose()?,
            ),
            Self::Epoch(value) => (
                wire::encode_key(&wire::StreamsGroupMetadataKey { group_id })?,
                value.as_ref().map(|v| epoch_bytes(v)).transpose()?,
            ),
            Self::Topology(value) => (
                wire::encode_key(&wire::StreamsGroupTopologyKey { group_id })?,
                value
                    .as_ref()
                    .map(|topology| versioned(&topology.to_record()))
                    .transpose()?,
            ),
        };
        Ok(Record { key, value })
    }
}

fn versioned<'a, T: Message<'a>>(value: &T) -> Result<Bytes, EncodeError> {
    wire::encode_versioned(value, VERSION)
}

fn text(text: &Option<Box<str>>) -> Option<Cow<'_, str>> {
    text.as_deref().map(Cow::Borrowed)
}

fn epoch_bytes(v: &GroupEpoch) -> Result<Bytes, EncodeError> {
    let configs = v.configs.iter();
    versioned(&wire::StreamsGroupMetadataValue {
        epoch: v.epoch,
        metadata_hash: v.metadata_hash,
        validated_topology_epoch: v.validated_topology_epoch,
        last_assignment_configs: Some(
            configs
                .map(|(key, value)| group_value::LastAssignmentConfig {
                    key: (&**key).into(),
                    value: (&**value).into(),
                })
                .collect(),
        ),
    })
}

fn metadata_bytes(m: &Member) -> Result<Bytes, EncodeError> {
    let tags = m.tags.iter();
    versioned(&wire::StreamsGroupMemberMetadataValue {
        instance_id: text(&m.instance),
        rack_id: text(&m.rack),
        client_id: (&*m.client_id).into(),
        client_host: (&*m.client_host).into(),
        rebalance_timeout_ms: m.rebalance_timeout_ms,
        topology_epoch: m.topology_epoch,
        process_id: (&*m.process).into(),
        user_endpoint: m.endpoint.as_ref().map(|e| metadata_value::Endpoint {
            host: (&*e.host).into(),
            port: e.port,
        }),
        client_tags: tags
            .map(|(key, value)| metadata_value::KeyValue {
                key: (&**key).into(),
                value: (&**value).into(),
            })
            .collect(),
    })
}

fn current_bytes(m: &Member) -> Result<Bytes, EncodeError> {
    fn active(all: &EpochTaskMap) -> Vec<current_value::TaskIds<'_>> {
        let all = all.iter();
        all.map(|(subtopology, epochs)| current_value::TaskIds {
            subtopology_id: (&**subtopology).into(),
            partitions: epochs.keys().copied().collect(),
            assignment_epochs: Some(epochs.values().copied().collect()),
        })
        .collect()
    }
    fn passive(all: &TaskMap) -> Vec<current_value::TaskIds<'_>> {
        let all = all.iter();
        all.map(|(subtopology, partitions)| current_value::TaskIds {
            subtopology_id: (&**subtopology).into(),
            partitions: partitions.iter().copied().collect(),
            assignment_epochs: None,
        })
        .collect()
    }
    versioned(&wire::StreamsGroupCurrentMemberAssignmentValue {
        member_epoch: m.epoch,
        previous_member_epoch: m.previous_epoch,
        state: m.state.code(STABLE),
        active_tasks: active(&m.assigned.active),
        standby_tasks: passive(&m.assigned.standby),
        warmup_tasks: passive(&m.assigned.warmup),
        active_tasks_pending_revocation: active(&m.revoking.active),
        standby_tasks_pending_revocation: passive(&m.revoking.standby),
        warmup_tasks_pending_revocation: passive(&m.revoking.warmup),
    })
}

fn target_bytes(target: &Tasks) -> Result<Bytes, EncodeError> {
    fn tasks(all: &TaskMap) -> Vec<target_value::TaskIds<'_>> {
        let all = all.iter();
        all.map(|(subtopology, partitions)| target_value::TaskIds {
            subtopology_id: (&**subtopology).into(),
            partitions: partitions.iter().copied().collect(),
        })
        .collect()
    }
    versioned(&wire::StreamsGroupTargetAssignmentMemberValue {
        active_tasks: tasks(&target.active),
        standby_tasks: tasks(&target.standby),
        warmup_tasks: tasks(&target.warmup),
    })
}

// ---- reading ----

/// Reads a record of a streams group: whose it is, and what it says. `None` for other kinds.
pub(crate) fn read<'a>(
    kind: i16,
    body: &'a [u8],
    value: Option<&'a [u8]>,
) -> Result<Option<(Cow<'a, str>, StreamsRecord)>, ReplayError> {
    use StreamsRecord as R;
    Ok(Some(match kind {
        17 => {
            let key: wire::StreamsGroupMetadataKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::StreamsGroupMetadataValue<'_>>(value)?;
            (key.group_id, R::Epoch(value.map(|v| Arc::new(epoch_of(v)))))
        }
        19 => {
            let key: wire::StreamsGroupMemberMetadataKey<'_> = wire::decode_key(body)?;
            let id: Arc<str> = (&*key.member_id).into();
            let value = decoded::<wire::StreamsGroupMemberMetadataValue<'_>>(value)?;
            let member = value.map(|v| Arc::new(metadata_of(id.clone(), v)));
            (key.group_id, R::Member(id, member))
        }
        20 => {
            let key: wire::StreamsGroupTargetAssignmentMetadataKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::StreamsGroupTargetAssignmentMetadataValue>(value)?;
            let value = value.map(|v| (v.assignment_epoch, v.assignment_timestamp));
            (key.group_id, R::TargetEpoch(value))
        }
        21 => {
            let key: wire::StreamsGroupTargetAssignmentMemberKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::StreamsGroupTargetAssignmentMemberValue<'_>>(value)?;
            let target = value.map(|v| Arc::new(target_of(v)));
            (key.group_id, R::Target((&*key.member_id).into(), target))
        }
        22 => {
            let key: wire::StreamsGroupCurrentMemberAssignmentKey<'_> = wire::decode_key(body)?;
            let id: Arc<str> = (&*key.member_id).into();
            let value = decoded::<wire::StreamsGroupCurrentMemberAssignmentValue<'_>>(value)?;
            let member = value.map(|v| Arc::new(current_of(id.clone(), &v)));
            (key.group_id, R::Current(id, member))
        }
        23 => {
            let key: wire::StreamsGroupTopologyKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::StreamsGroupTopologyValue<'_>>(value)?;
            let topology = value.map(|v| Arc::new(Topology::of_record(&v)));
            (key.group_id, R::Topology(topology))
        }
        _ => return Ok(None),
    }))
}

fn decoded<'a, T: Message<'a>>(value: Option<&'a [u8]>) -> Result<Option<T>, ReplayError> {
    Ok(value.map(wire::decode_versioned).transpose()?)
}

fn boxed(text: Option<Cow<'_, str>>) -> Option<Box<str>> {
    text.as_deref().map(Into::into)
}

fn epoch_of(v: wire::StreamsGroupMetadataValue<'_>) -> GroupEpoch {
    let configs = v.last_assignment_configs.unwrap_or_default().into_iter();
    GroupEpoch {
        epoch: v.epoch,
        metadata_hash: v.metadata_hash,
        validated_topology_epoch: v.validated_topology_epoch,
        configs: configs
            .map(|c| ((&*c.key).into(), (&*c.value).into()))
            .collect(),
    }
}

fn metadata_of(id: Arc<str>, v: wire::StreamsGroupMemberMetadataValue<'_>) -> Member {
    let tags = v.client_tags.iter();
    Member {
        instance: boxed(v.instance_id),
        rack: boxed(v.rack_id),
        client_id: (&*v.client_id).into(),
        client_host: (&*v.client_host).into(),
        rebalance_timeout_ms: v.rebalance_timeout_ms,
        topology_epoch: v.topology_epoch,
        process: (&*v.process_id).into(),
        endpoint: v.user_endpoint.map(|e| Endpoint {
            host: (&*e.host).into(),
            port: e.port,
        }),
        tags: tags
            .map(|tag| ((&*tag.key).into(), (&*tag.value).into()))
            .collect(),
        ..Member::new(id)
    }
}

fn current_of(id: Arc<str>, v: &wire::StreamsGroupCurrentMemberAssignmentValue<'_>) -> Member {
    let active = |all: &[current_value::TaskIds<'_>]| epochs_of(all, v.member_epoch);
    Member {
        epoch: v.member_epoch,
        previous_epoch: v.previous_member_epoch,
        state: MemberState::from_code(v.state, STABLE),
        assigned: HeldTasks {
            active: active(&v.active_tasks),
            standby: passive_of(&v.standby_tasks),
            warmup: passive_of(&v.warmup_tasks),
        },
        revoking: HeldTasks {
            active: active(&v.active_tasks_pending_revocation),
            standby: passive_of(&v.standby_tasks_pending_revocation),
            warmup: passive_of(&v.warmup_tasks_pending_revocation),
        },
        ..Member::new(id)
    }
}

fn passive_of(all: &[current_value::TaskIds<'_>]) -> TaskMap {
    let all = all.iter();
    all.map(|t| {
        (
            (&*t.subtopology_id).into(),
            t.partitions.iter().copied().collect(),
        )
    })
    .collect()
}

/// Versions before 4.3 wrote no epochs: the member's stands for each.
fn epochs_of(all: &[current_value::TaskIds<'_>], member_epoch: i32) -> EpochTaskMap {
    let all = all.iter();
    all.map(|t| {
        let epochs = t.assignment_epochs.as_deref().unwrap_or(&[]);
        let told = epochs.len() == t.partitions.len();
        let partitions = t.partitions.iter().enumerate().map(|(n, partition)| {
            let epoch = epochs.get(n).copied().filter(|_| told);
            (*partition, epoch.unwrap_or(member_epoch))
        });
        ((&*t.subtopology_id).into(), partitions.collect())
    })
    .collect()
}

fn target_of(v: wire::StreamsGroupTargetAssignmentMemberValue<'_>) -> Tasks {
    let tasks = |all: Vec<target_value::TaskIds<'_>>| -> TaskMap {
        let all = all.into_iter();
        all.map(|t| {
            (
                (&*t.subtopology_id).into(),
                t.partitions.into_iter().collect(),
            )
        })
        .collect()
    };
    Tasks {
        active: tasks(v.active_tasks),
        standby: tasks(v.standby_tasks),
        warmup: tasks(v.warmup_tasks),
    }
}
