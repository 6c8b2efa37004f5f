//! Committed offsets of a group: those in the log, and those on their way there.
//!
//! A slot holds the committed value and the values of appends in flight. Requests that decide
//! (commit, delete, expiry) see the latest value; OffsetFetch sees the committed one, or with
//! requireStable the latest and waits for its append. Offsets of open transactions stand beside,
//! per producer.

mod commit;
mod delete;
mod expiry;
mod fetch;
mod txn;

pub(crate) use commit::{
    accepts_any, draft_commit, fail_commit, refuse_commit, refuse_long_metadata, validate_new,
};
pub(crate) use delete::{delete_append_error, delete_error};
pub(crate) use fetch::{fetch, fetch_append_error};
pub use fetch::{fetch_group_error, offset_fetch_group_of, offset_fetch_response_of};
pub(crate) use txn::older_member;
pub(crate) use txn::{TxnOffsets, TxnPart, fail_txn_commit};
pub use txn::{txn_commit_draft, txn_commit_error};

use crate::writes::OffsetKey;
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_wire::records::OffsetCommitValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a client hears when an append of offsets failed.
pub(crate) fn offset_append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::InvalidFetchSize => ErrorCode::UnknownServerError,
        other => other,
    }
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OffsetValue {
    pub(crate) offset: i64,
    /// -1: not told.
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: Box<str>,
    /// Wall clock of the commit.
    pub(crate) commit_ms: i64,
    /// Wall clock of its end, when the client asked for one (OffsetCommit until version 4).
    pub(crate) expire_ms: Option<i64>,
    /// Zero: not known.
    pub(crate) topic_id: Uuid,
}

impl OffsetValue {
    /// As a record tells it.
    pub(crate) fn load(value: &OffsetCommitValue<'_>) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: (&*value.metadata).into(),
            commit_ms: value.commit_timestamp,
            expire_ms: (value.expire_timestamp != -1).then_some(value.expire_timestamp),
            topic_id: value.topic_id,
        }
    }
}

/// One partition's committed offset.
#[derive(Debug, Default)]
struct Slot {
    committed: Option<OffsetValue>,
    /// Its place in the log, among those of this partition of it.
    committed_at: u64,
    /// By write token, ascending; `None` is a tombstone.
    pending: Vec<(u64, Option<OffsetValue>)>,
}

impl Slot {
    fn latest(&self) -> Option<&OffsetValue> {
        match self.pending.last() {
            Some((_, value)) => value.as_ref(),
            None => self.committed.as_ref(),
        }
    }

    fn is_free(&self) -> bool {
        self.committed.is_none() && self.pending.is_empty()
    }
}

/// All slots of a group.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<PartitionIndex, Slot>>,
    txns: TxnOffsets,
}

impl Offsets {
    /// No offset, committed or on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.txns.is_empty()
    }

    /// Puts a value (or a tombstone) on its way; the key is for [`Offsets::settle`].
    fn propose(
        &mut self,
        write: u64,
        topic: &str,
        partition: PartitionIndex,
        value: Option<OffsetValue>,
    ) -> OffsetKey {
        let name = match self.topics.get_key_value(topic) {
            Some((name, _)) => name.clone(),
            None => topic.into(),
        };
        let slots = self.topics.entry(name.clone()).or_default();
        slots
            .entry(partition)
            .or_default()
            .pending
            .push((write, value));
        (name, partition)
    }

    /// A write ended: its value is the committed one, or is forgotten.
    pub(crate) fn settle(&mut self, write: u64, (topic, partition): &OffsetKey, written: bool) {
        let Some(slots) = self.topics.get_mut(topic) else {
            return;
        };
        let Some(slot) = slots.get_mut(partition) else {
            return;
        };
        // One write may hold the same partition twice (a request may name it twice): the last one
        // wins, as in the log.
        let mut buried = false;
        while let Some(at) = slot.pending.iter().position(|(token, _)| *token == write) {
            let (_, value) = slot.pending.remove(at);
            if written {
                buried = value.is_none();
                (slot.committed, slot.committed_at) = (value, write);
            }
        }
        if slot.is_free() {
            slots.remove(partition);
            if slots.is_empty() {
                self.topics.remove(topic);
            }
        }
        if buried {
            self.bury_txns(&(topic.clone(), *partition));
        }
    }

    /// Sets a value from the log.
    pub(crate) fn load(
        &mut self,
        at: u64,
        topic: &str,
        partition: PartitionIndex,
        value: Option<OffsetValue>,
    ) {
        let key = self.propose(at, topic, partition, value);
        self.settle(at, &key, true);
    }

    fn slot(&self, topic: &str, partition: PartitionIndex) -> Option<&Slot> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Every committed value.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (&str, PartitionIndex, &OffsetValue)> {
        self.topics.iter().flat_map(|(topic, slots)| {
            let slots = slots.iter();
            slots.filter_map(|(p, slot)| Some((&**topic, *p, slot.committed.as_ref()?)))
        })
    }

    /// Every partition with an offset, committed or on its way, or a tombstone on its way.
    fn keys(&self) -> impl Iterator<Item = OffsetKey> {
        self.topics.iter().flat_map(|(topic, slots)| {
            let partitions = slots.keys();
            partitions.map(move |partition| (topic.clone(), *partition))
        })
    }

    /// Every latest value.
    fn latest(&self) -> impl Iterator<Item = (&Arc<str>, PartitionIndex, &OffsetValue)> {
        self.topics.iter().flat_map(|(topic, slots)| {
            let slots = slots.iter();
            slots.filter_map(move |(p, slot)| Some((topic, *p, slot.latest()?)))
        })
    }
}
