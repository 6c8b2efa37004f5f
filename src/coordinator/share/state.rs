//! The stored state of share partitions: the records of `__share_group_state` (KIP-932), byte for
//! byte as Kafka 4.3.1 writes them.
//!
//! | key type | key | value |
//! |--|--|--|
//! | 0 | ShareSnapshotKey | the whole state of a share partition, or its tombstone |
//! | 1 | ShareUpdateKey | what changed since the snapshot |
//!
//! Handlers return the record to append; [`ShareStates::replay`] takes it when it is written, and
//! every record again after a restart. A record is made from the state before it, so the shard
//! appends the records of one share partition one after the other.

use super::state_batches::{Stored, combine};
use crate::out::Record;
use crate::records::ReplayError;
use flumen_base::{ErrorCode, Uuid};
use flumen_wire::EncodeError;
use flumen_wire::records::{
    self, ShareSnapshotKey, ShareSnapshotValue, ShareUpdateKey, ShareUpdateValue,
    share_snapshot_value, share_update_value,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const SNAPSHOT_KEY: i16 = 0;
const UPDATE_KEY: i16 = 1;
/// What Kafka stores for an epoch, an offset or a count that is not known yet.
pub const UNKNOWN: i32 = -1;

/// Names a share partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShareKey {
    /// The share group.
    pub group: Arc<str>,
    /// The topic's id.
    pub topic: Uuid,
    /// The partition's index.
    pub partition: i32,
}

impl ShareKey {
    /// The partition of `__share_group_state` that holds the state: Java's hash of
    /// `group:topic:partition`, the topic's id in base64.
    pub fn state_partition(&self, partitions: i32) -> i32 {
        let text = format!("{}:{}:{}", self.group, self.topic, self.partition);
        crate::partition_for(&text, partitions)
    }
}

/// The stored state of one share partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareState {
    /// Counts the snapshots of this share partition.
    pub snapshot_epoch: i32,
    /// Counts its (re-)initializations, as by a change of offsets.
    pub state_epoch: i32,
    /// The highest leader epoch that has read or written it.
    pub leader_epoch: i32,
    /// -1: to be found by `share.auto.offset.reset`.
    pub start_offset: i64,
    /// Finished records at and behind the start offset; -1 before anything was consumed.
    pub delivery_complete_count: i32,
    /// In order, not overlapping.
    pub batches: Vec<Stored>,
    /// When the first snapshot was written, milliseconds since the epoch.
    pub create_ms: i64,
    /// When the newest snapshot was written.
    pub write_ms: i64,
    /// Update records since that snapshot.
    updates: u32,
}

/// What a leader wants to be stored.
#[derive(Clone, Debug)]
pub struct ShareWrite {
    /// -1: unknown.
    pub leader_epoch: i32,
    /// -1: unknown.
    pub state_epoch: i32,
    /// -1: as it is.
    pub start_offset: i64,
    /// See [`ShareState::delivery_complete_count`].
    pub delivery_complete_count: i32,
    /// What changed.
    pub batches: Vec<Stored>,
}

/// The states whose partitions of `__share_group_state` one shard owns.
#[derive(Debug)]
pub struct ShareStates {
    states: BTreeMap<ShareKey, ShareState>,
    /// Update records between two snapshots
    /// (`share.coordinator.snapshot.update.records.per.snapshot`).
    updates_max: u32,
}

impl ShareStates {
    /// None yet.
    pub fn new(updates_max: u32) -> Self {
        Self {
            states: BTreeMap::new(),
            updates_max,
        }
    }

    /// The state of a share partition; `None` before it was initialized.
    pub fn get(&self, key: &ShareKey) -> Option<&ShareState> {
        self.states.get(key)
    }

    /// The record that makes a share partition known, or that begins it anew at another offset.
    /// FENCED_STATE_EPOCH where a later beginning is stored.
    pub fn initialize(
        &self,
        now_ms: i64,
        key: &ShareKey,
        state_epoch: i32,
        start_offset: i64,
    ) -> Result<Record, ErrorCode> {
        let before = self.states.get(key);
        if state_epoch != UNKNOWN && before.is_some_and(|state| state.state_epoch > state_epoch) {
            return Err(ErrorCode::FencedStateEpoch);
        }
        let started = start_offset != i64::from(UNKNOWN);
        snapshot(
            key,
            &ShareState {
                snapshot_epoch: before.map_or(0, |state| state.snapshot_epoch.saturating_add(1)),
                state_epoch,
                leader_epoch: 0,
                start_offset,
                delivery_complete_count: if started { 0 } else { UNKNOWN },
                batches: Vec::new(),
                create_ms: now_ms,
                write_ms: now_ms,
                updates: 0,
            },
        )
    }

    /// The record for a change. Errors: INVALID_REQUEST where the share partition was never
    /// initialized, FENCED_LEADER_EPOCH and FENCED_STATE_EPOCH for what somebody newer has passed.
    pub fn write(
        &self,
        now_ms: i64,
        key: &ShareKey,
        write: &ShareWrite,
    ) -> Result<Record, ErrorCode> {
        let state = self.states.get(key).ok_or(ErrorCode::InvalidRequest)?;
        fence_leader(state, write.leader_epoch)?;
        if write.state_epoch != UNKNOWN && state.state_epoch > write.state_epoch {
            return Err(ErrorCode::FencedStateEpoch);
        }
        self.changed(now_ms, key, state, write, state.leader_epoch)
    }

    /// The state for a leader that takes the share partition over, and the record that notes its
    /// epoch where it is a new one. Errors as for [`ShareStates::write`].
    pub fn read(
        &self,
        now_ms: i64,
        key: &ShareKey,
        leader_epoch: i32,
    ) -> Result<(&ShareState, Option<Record>), ErrorCode> {
        let state = self.states.get(key).ok_or(ErrorCode::InvalidRequest)?;
        fence_leader(state, leader_epoch)?;
        if leader_epoch == UNKNOWN || leader_epoch == state.leader_epoch {
            return Ok((state, None));
        }
        let nothing = ShareWrite {
            leader_epoch,
            state_epoch: state.state_epoch,
            start_offset: state.start_offset,
            delivery_complete_count: state.delivery_complete_count,
            batches: Vec::new(),
        };
        let record = self.changed(now_ms, key, state, &nothing, leader_epoch)?;
        Ok((state, Some(record)))
    }

    /// The tombstone; `None` where nothing is stored.
    pub fn delete(&self, key: &ShareKey) -> Result<Option<Record>, ErrorCode> {
        if !self.states.contains_key(key) {
            return Ok(None);
        }
        let key = snapshot_key(key).map_err(|_| ErrorCode::UnknownServerError)?;
        Ok(Some(Record { key, value: None }))
    }

    /// Those stored for topics that `gone` names: they are deleted with them.
    pub fn of_topics(&self, gone: impl Fn(Uuid) -> bool) -> Vec<ShareKey> {
        self.states
            .keys()
            .filter(|key| gone(key.topic))
            .cloned()
            .collect()
    }

    /// Forgets what one partition of the topic holds, when it moves to another shard.
    pub fn unload(&mut self, partition: i32, partitions: i32) {
        self.states
            .retain(|key, _| key.state_partition(partitions) != partition);
    }

    /// Takes a record of the topic.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ReplayError> {
        let (kind, body) = records::read_version_prefix(key)?;
        match kind {
            SNAPSHOT_KEY => {
                let key: ShareSnapshotKey<'_> = records::decode_key(body)?;
                let key = ShareKey {
                    group: (&*key.group_id).into(),
                    topic: key.topic_id,
                    partition: key.partition,
                };
                match value {
                    None => {
                        self.states.remove(&key);
                    }
                    Some(value) => {
                        let value = records::decode_versioned(value)?;
                        self.replay_snapshot(key, &value);
                    }
                }
            }
            UPDATE_KEY => {
                let key: ShareUpdateKey<'_> = records::decode_key(body)?;
                let Some(value) = value else { return Ok(()) };
                let key = ShareKey {
                    group: (&*key.group_id).into(),
                    topic: key.topic_id,
                    partition: key.partition,
                };
                let value: ShareUpdateValue = records::decode_versioned(value)?;
                if let Some(state) = self.states.get_mut(&key) {
                    update(state, &value);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Of which share partition the record with this key is the snapshot (or its tombstone); `None`
    /// for updates.
    pub fn snapshot_of(key: &[u8]) -> Result<Option<ShareKey>, ReplayError> {
        let (kind, body) = records::read_version_prefix(key)?;
        if kind != SNAPSHOT_KEY {
            return Ok(None);
        }
        let key: ShareSnapshotKey<'_> = records::decode_key(body)?;
        Ok(Some(ShareKey {
            group: (&*key.group_id).into(),
            topic: key.topic_id,
            partition: key.partition,
        }))
    }

    fn replay_snapshot(&mut self, key: ShareKey, value: &ShareSnapshotValue) {
        let before = self.states.get(&key);
        let state = ShareState {
            snapshot_epoch: value.snapshot_epoch,
            state_epoch: value.state_epoch,
            leader_epoch: before.map_or(value.leader_epoch, |state| {
                value.leader_epoch.max(state.leader_epoch)
            }),
            start_offset: value.start_offset,
            delivery_complete_count: value.delivery_complete_count,
            batches: value.state_batches.iter().map(Stored::from).collect(),
            create_ms: value.create_timestamp,
            write_ms: value.write_timestamp,
            updates: 0,
        };
        self.states.insert(key, state);
    }

    /// An update record, or a snapshot when there have been enough of those.
    fn changed(
        &self,
        now_ms: i64,
        key: &ShareKey,
        state: &ShareState,
        write: &ShareWrite,
        leader_epoch: i32,
    ) -> Result<Record, ErrorCode> {
        if state.updates < self.updates_max {
            let value = ShareUpdateValue {
                snapshot_epoch: state.snapshot_epoch,
                leader_epoch,
                start_offset: write.start_offset,
                delivery_complete_count: write.delivery_complete_count,
                state_batches: combine(&[], &write.batches, write.start_offset)
                    .iter()
                    .map(share_update_value::StateBatch::from)
                    .collect(),
            };
            return record(update_key(key), records::encode_versioned(&value, 0));
        }
        let start_offset = match write.start_offset {
            -1 => state.start_offset,
            offset => offset,
        };
        snapshot(
            key,
            &ShareState {
                snapshot_epoch: state.snapshot_epoch.saturating_add(1),
                state_epoch: state.state_epoch,
                leader_epoch,
                start_offset,
                delivery_complete_count: write.delivery_complete_count,
                batches: combine(&state.batches, &write.batches, start_offset),
                create_ms: now_ms,
                write_ms: now_ms,
                updates: 0,
            },
        )
    }
}

fn fence_leader(state: &ShareState, leader_epoch: i32) -> Result<(), ErrorCode> {
    if leader_epoch != UNKNOWN && state.leader_epoch > leader_epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    Ok(())
}

fn update(state: &mut ShareState, value: &ShareUpdateValue) {
    if value.start_offset != i64::from(UNKNOWN) {
        state.start_offset = value.start_offset;
    }
    state.leader_epoch = state.leader_epoch.max(value.leader_epoch);
    state.delivery_complete_count = value.delivery_complete_count;
    let changed: Vec<_> = value.state_batches.iter().map(Stored::from).collect();
    state.batches = combine(&state.batches, &changed, state.start_offset);
    state.updates = state.updates.saturating_add(1);
}

fn snapshot(key: &ShareKey, state: &ShareState) -> Result<Record, ErrorCode> {
    let value = ShareSnapshotValue {
        snapshot_epoch: state.snapshot_epoch,
        state_epoch: state.state_epoch,
        leader_epoch: state.leader_epoch,
        start_offset: state.start_offset,
        delivery_complete_count: state.delivery_complete_count,
        create_timestamp: state.create_ms,
        write_timestamp: state.write_ms,
        state_batches: state
            .batches
            .iter()
            .map(share_snapshot_value::StateBatch::from)
            .collect(),
    };
    record(snapshot_key(key), records::encode_versioned(&value, 0))
}

fn record(
    key: Result<bytes::Bytes, EncodeError>,
    value: Result<bytes::Bytes, EncodeError>,
) -> Result<Record, ErrorCode> {
    match (key, value) {
        (Ok(key), Ok(value)) => Ok(Record {
            key,
            value: Some(value),
        }),
        // A group's name too long for a record: no such group could have been made.
        _ => Err(ErrorCode::InvalidRequest),
    }
}

fn snapshot_key(key: &ShareKey) -> Result<bytes::Bytes, EncodeError> {
    records::encode_key(&ShareSnapshotKey {
        group_id: (&*key.group).into(),
        topic_id: key.topic,
        partition: key.partition,
    })
}

fn update_key(key: &ShareKey) -> Result<bytes::Bytes, EncodeError> {
    records::encode_key(&ShareUpdateKey {
        group_id: (&*key.group).into(),
        topic_id: key.topic,
        partition: key.partition,
    })
}
