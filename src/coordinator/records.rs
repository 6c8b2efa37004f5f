//! Records of `__consumer_offsets`, byte for byte as Kafka 4.3.1 writes them, and read in every
//! version it reads.
//!
//! | key type | key | value versions read | written |
//! |--|--|--|--|
//! | 0, 1 | OffsetCommitKey | 0-4 | key 1; value 4, or 1 with an expire timestamp |
//! | 2 | GroupMetadataKey | 0-4 | value 3 |
//! | 3-8, 16 | of consumer groups: [`crate::consumer`] | 0 | 0 |
//! | 10-15 | of share groups: [`crate::share_group`] | 0 | 0 |
//! | 17, 19-23 | of streams groups: [`crate::streams`] | 0 | 0 |

use crate::classic::{ClassicGroup, Member};
use crate::consumer::{ConsumerRecord, read_record};
use crate::offsets::OffsetValue;
use crate::out::Record;
use crate::share_group::{ShareRecord, read_share_record};
use crate::streams::{StreamsRecord, read_streams_record};
use bytes::Bytes;
use flumen_base::PartitionIndex;
use flumen_wire::records::group_metadata_value::MemberMetadata;
use flumen_wire::records::{
    self, GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue,
};
use flumen_wire::{DecodeError, EncodeError};
use std::borrow::Cow;

const LEGACY_OFFSET_COMMIT_KEY: i16 = 0;
const OFFSET_COMMIT_KEY: i16 = 1;
const GROUP_METADATA_KEY: i16 = 2;

const OFFSET_VALUE_VERSION: i16 = 4;
const OFFSET_VALUE_VERSION_WITH_EXPIRY: i16 = 1;
const GROUP_VALUE_VERSION: i16 = 3;

/// A record whose bytes are not what they should be; it was skipped.
#[derive(Debug, thiserror::Error)]
#[error("record of __consumer_offsets can't be read: {0}")]
pub struct ReplayError(#[from] DecodeError);

/// A record as read from the log.
pub(crate) enum Replayed<'a> {
    Offset(OffsetCommitKey<'a>, Option<OffsetCommitValue<'a>>),
    Group(GroupMetadataKey<'a>, Option<GroupMetadataValue<'a>>),
    /// Of a consumer group: its name, and what it says.
    Consumer(Cow<'a, str>, ConsumerRecord),
    /// Of a share group, likewise.
    Share(Cow<'a, str>, ShareRecord),
    /// Of a streams group, likewise.
    Streams(Cow<'a, str>, StreamsRecord),
    /// Of a protocol that this version does not know.
    Other,
}

impl Replayed<'_> {
    /// Whether it is the tombstone of a group.
    pub(crate) fn ends_group(&self) -> bool {
        match self {
            Self::Group(_, value) => value.is_none(),
            Self::Consumer(_, record) => matches!(record, ConsumerRecord::Epoch(None)),
            Self::Streams(_, record) => record.ends_group(),
            Self::Share(_, record) => matches!(record, ShareRecord::Epoch(None)),
            Self::Offset(..) | Self::Other => false,
        }
    }
}

/// Reads a record.
pub(crate) fn read<'a>(
    key: &'a [u8],
    value: Option<&'a [u8]>,
) -> Result<Replayed<'a>, ReplayError> {
    let (kind, body) = records::read_version_prefix(key)?;
    Ok(match kind {
        LEGACY_OFFSET_COMMIT_KEY | OFFSET_COMMIT_KEY => {
            let value = value.map(records::decode_versioned).transpose()?;
            Replayed::Offset(records::decode_key(body)?, value)
        }
        GROUP_METADATA_KEY => {
            let value = value.map(records::decode_versioned).transpose()?;
            Replayed::Group(records::decode_key(body)?, value)
        }
        _ => match read_record(kind, body, value)? {
            Some((group, record)) => Replayed::Consumer(group, record),
            None => match read_share_record(kind, body, value)? {
                Some((group, record)) => Replayed::Share(group, record),
                None => match read_streams_record(kind, body, value)? {
                    Some((group, record)) => Replayed::Streams(group, record),
                    None => Replayed::Other,
                },
            },
        },
    })
}

fn offset_key(group: &str, topic: &str, partition: PartitionIndex) -> Result<Bytes, EncodeError> {
    records::encode_key(&OffsetCommitKey {
        group: group.into(),
        topic: topic.into(),
        partition,
    })
}

/// A committed offset; `None` for its tombstone. No record when a name is too long for one.
pub(crate) fn offset(
    group: &str,
    topic: &str,
    partition: PartitionIndex,
    value: Option<&OffsetValue>,
) -> Option<Record> {
    let key = offset_key(group, topic, partition).ok()?;
    let Some(value) = value else {
        return Some(Record { key, value: None });
    };
    let version = match value.expire_ms {
        Some(_) => OFFSET_VALUE_VERSION_WITH_EXPIRY,
        None => OFFSET_VALUE_VERSION,
    };
    let value = OffsetCommitValue {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: (&*value.metadata).into(),
        commit_timestamp: value.commit_ms,
        expire_timestamp: value.expire_ms.unwrap_or(-1),
        topic_id: value.topic_id,
    };
    let value = records::encode_versioned(&value, version).ok()?;
    Some(Record {
        key,
        value: Some(value),
    })
}

/// A generation of a classic group. No record when a string is too long for one.
pub(crate) fn group_metadata(
    group: &str,
    classic: &ClassicGroup,
    assignment: impl Fn(&Member) -> Bytes,
) -> Option<Record> {
    let protocol = classic.protocol.as_deref();
    let leader = classic.leader.and_then(|l| classic.members.get(&l));
    let members: Vec<_> = classic
        .members
        .values()
        .map(|m| (m, m.metadata(protocol.unwrap_or("")), assignment(m)))
        .collect();
    let members = members
        .iter()
        .map(|(m, subscription, assignment)| MemberMetadata {
            member_id: (&*m.id).into(),
            group_instance_id: m.instance.as_deref().map(Into::into),
            client_id: (&*m.client_id).into(),
            client_host: (&*m.client_host).into(),
            rebalance_timeout: m.rebalance_timeout_ms,
            session_timeout: m.session_timeout_ms,
            subscription: (&**subscription).into(),
            assignment: (&**assignment).into(),
        });
    let value = GroupMetadataValue {
        protocol_type: classic.protocol_type.as_deref().unwrap_or("").into(),
        generation: classic.generation,
        protocol: protocol.map(Into::into),
        leader: leader.map(|m| (&*m.id).into()),
        current_state_timestamp: classic.state_since_ms,
        members: members.collect(),
    };
    let value = records::encode_versioned(&value, GROUP_VALUE_VERSION).ok()?;
    Some(Record {
        key: group_key(group)?,
        value: Some(value),
    })
}

/// The tombstone of a group.
pub(crate) fn group_tombstone(group: &str) -> Option<Record> {
    Some(Record {
        key: group_key(group)?,
        value: None,
    })
}

fn group_key(group: &str) -> Option<Bytes> {
    let key = GroupMetadataKey {
        group: group.into(),
    };
    records::encode_key(&key).ok()
}
