//! The records of a consumer group, byte for byte as Kafka 4.3.1 writes them.
//!
//! | key type | record | holds |
//! |--|--|--|
//! | 3 | ConsumerGroupMetadata | group epoch, hash of the topics' metadata |
//! | 4 | ConsumerGroupPartitionMetadata | of versions before 4.1; only buried |
//! | 5 | ConsumerGroupMemberMetadata | what a member says of itself |
//! | 6 | ConsumerGroupTargetAssignmentMetadata | target epoch and when it was made |
//! | 7 | ConsumerGroupTargetAssignmentMember | what a member shall have |
//! | 8 | ConsumerGroupCurrentMemberAssignment | what a member has |
//! | 16 | ConsumerGroupRegularExpression | the topics that an expression matches |

use super::member::{ClassicMember, ClassicProtocol, Member, MemberState};
use super::regex::Resolved;
use crate::modern::{EpochPartitions, Partitions};
use crate::out::Record;
use crate::records::ReplayError;
use bytes::Bytes;
use flumen_base::Uuid;
use flumen_wire::records::{self as wire, consumer_group_member_metadata_value as metadata_value};
use flumen_wire::records::{
    consumer_group_current_member_assignment_value as current_value,
    consumer_group_target_assignment_member_value as target_value,
};
use flumen_wire::{EncodeError, Message};
use std::borrow::Cow;
use std::sync::Arc;

const VERSION: i16 = 0;
/// The code of [`MemberState::Stable`]; the others follow.
const STABLE: i8 = 0;

/// One change of a consumer group. `None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConsumerRecord {
    /// What a member says of itself; the rest of the [`Member`] does not count.
    Member(Arc<str>, Option<Arc<Member>>),
    /// What a member has; the rest of the [`Member`] does not count.
    Current(Arc<str>, Option<Arc<Member>>),
    /// What a member shall have.
    Target(Arc<str>, Option<Arc<Partitions>>),
    /// Target epoch, and wall clock of its making.
    TargetEpoch(Option<(i32, i64)>),
    /// Group epoch and metadata hash; the tombstone ends the group.
    Epoch(Option<(i32, i64)>),
    /// Whether there is a partition metadata record.
    PartitionMetadata(bool),
    /// What an expression matches.
    Regex(Box<str>, Option<Arc<Resolved>>),
}

impl ConsumerRecord {
    /// Whether it is a tombstone.
    pub(crate) fn is_tombstone(&self) -> bool {
        match self {
            Self::Member(_, value) | Self::Current(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::TargetEpoch(value) | Self::Epoch(value) => value.is_none(),
            Self::PartitionMetadata(exists) => !exists,
            Self::Regex(_, value) => value.is_none(),
        }
    }

    /// The record for the log; `None` when a string is too long for one.
    pub(crate) fn encode(&self, group: &str) -> Option<Record> {
        self.try_encode(group.into()).ok()
    }

    fn try_encode(&self, group_id: Cow<'_, str>) -> Result<Record, EncodeError> {
        let (key, value) = match self {
            Self::Member(id, member) => (
                wire::encode_key(&wire::ConsumerGroupMemberMetadataKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                member.as_ref().map(|m| metadata_bytes(m)).transpose()?,
            ),
            Self::Current(id, member) => (
                wire::encode_key(&wire::ConsumerGroupCurrentMemberAssignmentKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                member.as_ref().map(|m| current_bytes(m)).transpose()?,
            ),
            Self::Target(id, target) => (
                wire::encode_key(&wire::ConsumerGroupTargetAssignmentMemberKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                target.as_ref().map(|t| target_bytes(t)).transpose()?,
            ),
            Self::TargetEpoch(value) => (
                wire::encode_key(&wire::ConsumerGroupTargetAssignmentMetadataKey { group_id })?,
                value
                    .map(|(assignment_epoch, assignment_timestamp)| {
                        versioned(&wire::ConsumerGroupTargetAssignmentMetadataValue {
                            assignment_epoch,
                            assignment_timestamp,
                        })
                    })
                    .transpose()?,
            ),
            Self::Epoch(value) => (
                wire::encode_key(&wire::ConsumerGroupMetadataKey { group_id })?,
                value
                    .map(|(epoch, metadata_hash)| {
                        versioned(&wire::ConsumerGroupMetadataValue {
                            epoch,
                            metadata_hash,
                        })
                    })
                    .transpose()?,
            ),
            Self::PartitionMetadata(exists) => (
                wire::encode_key(&wire::ConsumerGroupPartitionMetadataKey { group_id })?,
                exists
                    .then(|| versioned(&wire::ConsumerGroupPartitionMetadataValue::default()))
                    .transpose()?,
            ),
            Self::Regex(regex, resolved) => (
                wire::encode_key(&wire::ConsumerGroupRegularExpressionKey {
                    group_id,
                    regular_expression: (&**regex).into(),
                })?,
                resolved.as_ref().map(|r| regex_bytes(r)).transpose()?,
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

fn metadata_bytes(m: &Member) -> Result<Bytes, EncodeError> {
    let classic = m.classic.as_ref().map(|classic| {
        let protocols = classic.protocols.iter();
        metadata_value::ClassicMemberMetadata {
            session_timeout_ms: classic.session_timeout_ms,
            supported_protocols: protocols
                .map(|p| metadata_value::ClassicProtocol {
                    name: (&*p.name).into(),
                    metadata: (&*p.metadata).into(),
                })
                .collect(),
        }
    });
    versioned(&wire::ConsumerGroupMemberMetadataValue {
        instance_id: text(&m.instance),
        rack_id: text(&m.rack),
        client_id: (&*m.client_id).into(),
        client_host: (&*m.client_host).into(),
        subscribed_topic_names: m.topics.iter().map(|t| Cow::Borrowed(&**t)).collect(),
        subscribed_topic_regex: text(&m.regex),
        rebalance_timeout_ms: m.rebalance_timeout_ms,
        server_assignor: text(&m.assignor),
        classic_member_metadata: classic,
    })
}

fn current_bytes(m: &Member) -> Result<Bytes, EncodeError> {
    let topics = |all: &EpochPartitions| -> Vec<current_value::TopicPartitions> {
        let topics = all.iter();
        topics
            .map(|(topic, partitions)| current_value::TopicPartitions {
                topic_id: *topic,
                partitions: partitions.keys().copied().collect(),
                assignment_epochs: Some(partitions.values().copied().collect()),
            })
            .collect()
    };
    versioned(&wire::ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: m.epoch,
        previous_member_epoch: m.previous_epoch,
        state: m.state.code(STABLE),
        assigned_partitions: topics(&m.assigned),
        partitions_pending_revocation: topics(&m.revoking),
    })
}

fn target_bytes(target: &Partitions) -> Result<Bytes, EncodeError> {
    let topics = target.iter();
    versioned(&wire::ConsumerGroupTargetAssignmentMemberValue {
        topic_partitions: topics
            .map(|(topic, partitions)| target_value::TopicPartition {
                topic_id: *topic,
                partitions: partitions.iter().copied().collect(),
            })
            .collect(),
    })
}

fn regex_bytes(resolved: &Resolved) -> Result<Bytes, EncodeError> {
    let topics = resolved.topics.iter();
    versioned(&wire::ConsumerGroupRegularExpressionValue {
        topics: topics.map(|t| Cow::Borrowed(&**t)).collect(),
        version: resolved.version,
        timestamp: resolved.resolved_ms,
    })
}

// ---- reading ----

/// Reads a record of a consumer group: whose it is, and what it says. `None` for other kinds.
pub(crate) fn read<'a>(
    kind: i16,
    body: &'a [u8],
    value: Option<&'a [u8]>,
) -> Result<Option<(Cow<'a, str>, ConsumerRecord)>, ReplayError> {
    use ConsumerRecord as R;
    Ok(Some(match kind {
        3 => {
            let key: wire::ConsumerGroupMetadataKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ConsumerGroupMetadataValue>(value)?;
            let record = R::Epoch(value.map(|v| (v.epoch, v.metadata_hash)));
            (key.group_id, record)
        }
        4 => {
            let key: wire::ConsumerGroupPartitionMetadataKey<'_> = wire::decode_key(body)?;
            (key.group_id, R::PartitionMetadata(value.is_some()))
        }
        5 => {
            let key: wire::ConsumerGroupMemberMetadataKey<'_> = wire::decode_key(body)?;
            let id: Arc<str> = (&*key.member_id).into();
            let value = decoded::<wire::ConsumerGroupMemberMetadataValue<'_>>(value)?;
            let member = value.map(|v| Arc::new(metadata_of(id.clone(), v)));
            (key.group_id, R::Member(id, member))
        }
        6 => {
            let key: wire::ConsumerGroupTargetAssignmentMetadataKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ConsumerGroupTargetAssignmentMetadataValue>(value)?;
            let value = value.map(|v| (v.assignment_epoch, v.assignment_timestamp));
            (key.group_id, R::TargetEpoch(value))
        }
        7 => {
            let key: wire::ConsumerGroupTargetAssignmentMemberKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ConsumerGroupTargetAssignmentMemberValue>(value)?;
            let target = value.map(|v| Arc::new(target_of(v)));
            (key.group_id, R::Target((&*key.member_id).into(), target))
        }
        8 => {
            let key: wire::ConsumerGroupCurrentMemberAssignmentKey<'_> = wire::decode_key(body)?;
            let id: Arc<str> = (&*key.member_id).into();
            let value = decoded::<wire::ConsumerGroupCurrentMemberAssignmentValue>(value)?;
            let member = value.map(|v| Arc::new(current_of(id.clone(), v)));
            (key.group_id, R::Current(id, member))
        }
        16 => {
            let key: wire::ConsumerGroupRegularExpressionKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ConsumerGroupRegularExpressionValue<'_>>(value)?;
            let resolved = value.map(|v| {
                Arc::new(Resolved {
                    topics: v.topics.iter().map(|t| (&**t).into()).collect(),
                    version: v.version,
                    resolved_ms: v.timestamp,
                })
            });
            let regex = (&*key.regular_expression).into();
            (key.group_id, R::Regex(regex, resolved))
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

fn metadata_of(id: Arc<str>, v: wire::ConsumerGroupMemberMetadataValue<'_>) -> Member {
    let classic = v.classic_member_metadata.map(|classic| {
        let protocols = classic.supported_protocols.iter();
        Arc::new(ClassicMember {
            session_timeout_ms: classic.session_timeout_ms,
            protocols: protocols
                .map(|p| ClassicProtocol {
                    name: (&*p.name).into(),
                    metadata: Bytes::copy_from_slice(&p.metadata),
                })
                .collect(),
        })
    });
    Member {
        instance: boxed(v.instance_id),
        rack: boxed(v.rack_id),
        client_id: (&*v.client_id).into(),
        client_host: (&*v.client_host).into(),
        rebalance_timeout_ms: v.rebalance_timeout_ms,
        topics: v
            .subscribed_topic_names
            .iter()
            .map(|t| (&**t).into())
            .collect(),
        regex: boxed(v.subscribed_topic_regex),
        assignor: boxed(v.server_assignor),
        classic,
        ..Member::new(id)
    }
}

fn current_of(id: Arc<str>, v: wire::ConsumerGroupCurrentMemberAssignmentValue) -> Member {
    Member {
        epoch: v.member_epoch,
        previous_epoch: v.previous_member_epoch,
        state: MemberState::from_code(v.state, STABLE),
        assigned: epochs_of(&v.assigned_partitions, v.member_epoch),
        revoking: epochs_of(&v.partitions_pending_revocation, v.member_epoch),
        ..Member::new(id)
    }
}

/// Versions before 4.3 wrote no epochs: the member's stands for each.
fn epochs_of(topics: &[current_value::TopicPartitions], member_epoch: i32) -> EpochPartitions {
    let mut all = EpochPartitions::new();
    for topic in topics {
        let epochs = topic.assignment_epochs.as_deref().unwrap_or(&[]);
        let told = epochs.len() == topic.partitions.len();
        let partitions = topic.partitions.iter().enumerate().map(|(n, partition)| {
            let epoch = epochs.get(n).copied().filter(|_| told);
            (*partition, epoch.unwrap_or(member_epoch.max(0)))
        });
        all.insert(topic.topic_id, partitions.collect());
    }
    all
}

fn target_of(v: wire::ConsumerGroupTargetAssignmentMemberValue) -> Partitions {
    let topics = v.topic_partitions.into_iter();
    topics
        .map(|t| (t.topic_id, t.partitions.into_iter().collect()))
        .collect::<std::collections::BTreeMap<Uuid, _>>()
}
