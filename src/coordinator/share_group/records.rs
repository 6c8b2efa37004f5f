//! The records of a share group, byte for byte as Kafka 4.3.1 writes them.
//!
//! | key type | record | holds |
//! |--|--|--|
//! | 10 | ShareGroupMemberMetadata | what a member says of itself |
//! | 11 | ShareGroupMetadata | group epoch, hash of the topics' metadata |
//! | 12 | ShareGroupTargetAssignmentMetadata | target epoch and when it was made |
//! | 13 | ShareGroupTargetAssignmentMember | what a member shall have |
//! | 14 | ShareGroupCurrentMemberAssignment | what a member has |
//! | 15 | ShareGroupStatePartitionMetadata | of which share partitions there is stored state |

use super::state::{ShareMember, StateTopic, StateTopics};
use crate::modern::Partitions;
use crate::out::Record;
use crate::records::ReplayError;
use bytes::Bytes;
use flumen_base::Uuid;
use flumen_wire::records::{
    self as wire, share_group_current_member_assignment_value as current_value,
    share_group_state_partition_metadata_value as stored_value,
    share_group_target_assignment_member_value as target_value,
};
use flumen_wire::{EncodeError, Message};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

const VERSION: i16 = 0;
/// Members of share groups have no other state.
const STABLE: i8 = 0;

/// One change of a share group. `None` is a tombstone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ShareRecord {
    /// What a member says of itself; the rest of the [`ShareMember`] does not count.
    Member(Arc<str>, Option<Arc<ShareMember>>),
    /// What a member has; the rest of the [`ShareMember`] does not count.
    Current(Arc<str>, Option<Arc<ShareMember>>),
    /// What a member shall have.
    Target(Arc<str>, Option<Arc<Partitions>>),
    /// Target epoch, and wall clock of its making.
    TargetEpoch(Option<(i32, i64)>),
    /// Group epoch and metadata hash; the tombstone ends the group.
    Epoch(Option<(i32, i64)>),
    /// Of which share partitions there is stored state.
    Stored(Option<Arc<StateTopics>>),
}

impl ShareRecord {
    /// Whether it is one.
    pub(crate) fn is_tombstone(&self) -> bool {
        match self {
            Self::Member(_, value) | Self::Current(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::TargetEpoch(value) | Self::Epoch(value) => value.is_none(),
            Self::Stored(value) => value.is_none(),
        }
    }

    /// The record for the log; `None` when a string is too long for one.
    pub(crate) fn encode(&self, group: &str) -> Option<Record> {
        self.try_encode(group.into()).ok()
    }

    fn try_encode(&self, group_id: Cow<'_, str>) -> Result<Record, EncodeError> {
        let (key, value) = match self {
            Self::Member(id, member) => (
                wire::encode_key(&wire::ShareGroupMemberMetadataKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                member.as_ref().map(|m| metadata_bytes(m)).transpose()?,
            ),
            Self::Current(id, member) => (
                wire::encode_key(&wire::ShareGroupCurrentMemberAssignmentKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                member.as_ref().map(|m| current_bytes(m)).transpose()?,
            ),
            Self::Target(id, target) => (
                wire::encode_key(&wire::ShareGroupTargetAssignmentMemberKey {
                    group_id,
                    member_id: (&**id).into(),
                })?,
                target.as_ref().map(|t| target_bytes(t)).transpose()?,
            ),
            Self::TargetEpoch(value) => (
                wire::encode_key(&wire::ShareGroupTargetAssignmentMetadataKey { group_id })?,
                value
                    .map(|(assignment_epoch, assignment_timestamp)| {
                        versioned(&wire::ShareGroupTargetAssignmentMetadataValue {
                            assignment_epoch,
                            assignment_timestamp,
                        })
                    })
                    .transpose()?,
            ),
            Self::Epoch(value) => (
                wire::encode_key(&wire::ShareGroupMetadataKey { group_id })?,
                value
                    .map(|(epoch, metadata_hash)| {
                        versioned(&wire::ShareGroupMetadataValue {
                            epoch,
                            metadata_hash,
                        })
                    })
                    .transpose()?,
            ),
            Self::Stored(stored) => (
                wire::encode_key(&wire::ShareGroupStatePartitionMetadataKey { group_id })?,
                stored.as_ref().map(|s| stored_bytes(s)).transpose()?,
            ),
        };
        Ok(Record { key, value })
    }
}

fn versioned<'a, T: Message<'a>>(value: &T) -> Result<Bytes, EncodeError> {
    wire::encode_versioned(value, VERSION)
}

fn metadata_bytes(m: &ShareMember) -> Result<Bytes, EncodeError> {
    versioned(&wire::ShareGroupMemberMetadataValue {
        rack_id: m.rack.as_deref().map(Cow::Borrowed),
        client_id: (&*m.client_id).into(),
        client_host: (&*m.client_host).into(),
        subscribed_topic_names: m.topics.iter().map(|t| Cow::Borrowed(&**t)).collect(),
    })
}

fn current_bytes(m: &ShareMember) -> Result<Bytes, EncodeError> {
    let topics = m.assigned.iter();
    versioned(&wire::ShareGroupCurrentMemberAssignmentValue {
        member_epoch: m.epoch,
        previous_member_epoch: m.previous_epoch,
        state: STABLE,
        assigned_partitions: topics
            .map(|(topic, partitions)| current_value::TopicPartitions {
                topic_id: *topic,
                partitions: partitions.iter().copied().collect(),
            })
            .collect(),
    })
}

fn target_bytes(target: &Partitions) -> Result<Bytes, EncodeError> {
    let topics = target.iter();
    versioned(&wire::ShareGroupTargetAssignmentMemberValue {
        topic_partitions: topics
            .map(|(topic, partitions)| target_value::TopicPartition {
                topic_id: *topic,
                partitions: partitions.iter().copied().collect(),
            })
            .collect(),
    })
}

fn stored_bytes(stored: &StateTopics) -> Result<Bytes, EncodeError> {
    let list = |topics: &BTreeMap<Uuid, StateTopic>| -> Vec<_> {
        let topics = topics.iter();
        topics
            .map(|(id, topic)| stored_value::TopicPartitionsInfo {
                topic_id: *id,
                topic_name: topic.name.to_string().into(),
                partitions: topic.partitions.iter().copied().collect(),
            })
            .collect()
    };
    let deleting = stored.deleting.iter();
    versioned(&wire::ShareGroupStatePartitionMetadataValue {
        initializing_topics: list(&stored.initializing),
        initialized_topics: list(&stored.initialized),
        deleting_topics: deleting
            .map(|(id, name)| stored_value::TopicInfo {
                topic_id: *id,
                topic_name: (&**name).into(),
            })
            .collect(),
    })
}

// ---- reading ----

/// Reads a record of a share group: whose it is, and what it says. `None` for other kinds.
pub(crate) fn read<'a>(
    kind: i16,
    body: &'a [u8],
    value: Option<&'a [u8]>,
) -> Result<Option<(Cow<'a, str>, ShareRecord)>, ReplayError> {
    use ShareRecord as R;
    Ok(Some(match kind {
        10 => {
            let key: wire::ShareGroupMemberMetadataKey<'_> = wire::decode_key(body)?;
            let id: Arc<str> = (&*key.member_id).into();
            let value = decoded::<wire::ShareGroupMemberMetadataValue<'_>>(value)?;
            let member = value.map(|v| Arc::new(metadata_of(id.clone(), &v)));
            (key.group_id, R::Member(id, member))
        }
        11 => {
            let key: wire::ShareGroupMetadataKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ShareGroupMetadataValue>(value)?;
            let record = R::Epoch(value.map(|v| (v.epoch, v.metadata_hash)));
            (key.group_id, record)
        }
        12 => {
            let key: wire::ShareGroupTargetAssignmentMetadataKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ShareGroupTargetAssignmentMetadataValue>(value)?;
            let value = value.map(|v| (v.assignment_epoch, v.assignment_timestamp));
            (key.group_id, R::TargetEpoch(value))
        }
        13 => {
            let key: wire::ShareGroupTargetAssignmentMemberKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ShareGroupTargetAssignmentMemberValue>(value)?;
            let lists = value.map(|v| v.topic_partitions.into_iter());
            let target = lists.map(|lists| {
                let topics = lists.map(|t| (t.topic_id, t.partitions.into_iter().collect()));
                Arc::new(topics.collect::<Partitions>())
            });
            (key.group_id, R::Target((&*key.member_id).into(), target))
        }
        14 => {
            let key: wire::ShareGroupCurrentMemberAssignmentKey<'_> = wire::decode_key(body)?;
            let id: Arc<str> = (&*key.member_id).into();
            let value = decoded::<wire::ShareGroupCurrentMemberAssignmentValue>(value)?;
            let member = value.map(|v| Arc::new(current_of(id.clone(), v)));
            (key.group_id, R::Current(id, member))
        }
        15 => {
            let key: wire::ShareGroupStatePartitionMetadataKey<'_> = wire::decode_key(body)?;
            let value = decoded::<wire::ShareGroupStatePartitionMetadataValue<'_>>(value)?;
            let stored = value.map(|v| Arc::new(stored_of(&v)));
            (key.group_id, R::Stored(stored))
        }
        _ => return Ok(None),
    }))
}

fn decoded<'a, T: Message<'a>>(value: Option<&'a [u8]>) -> Result<Option<T>, ReplayError> {
    Ok(value.map(wire::decode_versioned).transpose()?)
}

fn metadata_of(id: Arc<str>, v: &wire::ShareGroupMemberMetadataValue<'_>) -> ShareMember {
    let topics = v.subscribed_topic_names.iter();
    ShareMember {
        rack: v.rack_id.as_deref().map(Into::into),
        client_id: (&*v.client_id).into(),
        client_host: (&*v.client_host).into(),
        topics: topics.map(|t| (&**t).into()).collect(),
        ..ShareMember::new(id)
    }
}

fn current_of(id: Arc<str>, v: wire::ShareGroupCurrentMemberAssignmentValue) -> ShareMember {
    let topics = v.assigned_partitions.into_iter();
    ShareMember {
        epoch: v.member_epoch,
        previous_epoch: v.previous_member_epoch,
        assigned: topics
            .map(|t| (t.topic_id, t.partitions.into_iter().collect()))
            .collect(),
        ..ShareMember::new(id)
    }
}

fn stored_of(v: &wire::ShareGroupStatePartitionMetadataValue<'_>) -> StateTopics {
    let map = |topics: &[stored_value::TopicPartitionsInfo<'_>]| {
        let topics = topics.iter().map(|t| {
            let topic = StateTopic {
                name: (&*t.topic_name).into(),
                partitions: t.partitions.iter().copied().collect(),
                since_ms: 0,
            };
            (t.topic_id, topic)
        });
        topics.collect()
    };
    let deleting = v.deleting_topics.iter();
    StateTopics {
        initializing: map(&v.initializing_topics),
        initialized: map(&v.initialized_topics),
        deleting: deleting
            .map(|t| (t.topic_id, (&*t.topic_name).into()))
            .collect(),
    }
}
