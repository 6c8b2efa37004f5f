//! TxnOffsetCommit (28), versions 0-5, and the markers that decide about what it committed.
//!
//! - 2: leader epoch. 3: member and generation (KIP-447). 4: TRANSACTION_ABORTABLE. 5: adds itself
//!   to the transaction (KIP-890).
//!
//! An offset of a transaction stands beside the committed one, per producer, until the marker of
//! the transaction is written to this partition of `__consumer_offsets`. Then it replaces the
//! committed one, unless that is younger in the log, or it is dropped.

use super::{OffsetValue, Offsets, offset_append_error};
use crate::classic::State;
use crate::coordinator::GroupCoordinator;
use crate::group::{Env, Group};
use crate::out::{AppendKind, Metadata, Out, Reply, ReplyToken, Topics, TxnMarker};
use crate::records::{self, ReplayError, Replayed};
use crate::writes::{Done, Effect, OffsetKey, Part};
use flumen_base::{ErrorCode, Now, PartitionIndex, ProducerId, Uuid};
use flumen_wire::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use flumen_wire::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Offsets of open transactions, by producer.
pub(crate) type TxnOffsets = BTreeMap<ProducerId, BTreeMap<OffsetKey, TxnSlot>>;

/// What an open transaction commits for one partition.
#[derive(Debug, Default)]
pub(crate) struct TxnSlot {
    /// As written, with its place in the log.
    value: Option<(u64, OffsetValue)>,
    /// Values on their way, by write.
    pending: Vec<(u64, OffsetValue)>,
}

/// Who commits, and with what proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TxnPart {
    pub(crate) producer_id: ProducerId,
}

/// Puts an error on every partition that had none.
fn refuse(response: &mut TxnOffsetCommitResponse<'static>, error: ErrorCode) {
    let partitions = response.topics.iter_mut().flat_map(|t| &mut t.partitions);
    for partition in partitions.filter(|p| p.error_code == 0) {
        partition.error_code = error.code();
    }
}

/// The answer of a commit whose append failed.
pub(crate) fn fail_txn_commit(response: &mut TxnOffsetCommitResponse<'static>, error: ErrorCode) {
    refuse(response, offset_append_error(error));
}

/// The answer to a TxnOffsetCommit that is refused as a whole.
pub fn txn_commit_error(
    request: &TxnOffsetCommitRequest<'_>,
    error: ErrorCode,
) -> TxnOffsetCommitResponse<'static> {
    let topics = request.topics.iter().map(|topic| {
        let result = |index| TxnOffsetCommitResponsePartition {
            partition_index: index,
            error_code: error.code(),
        };
        let indexes = topic.partitions.iter().map(|p| p.partition_index);
        TxnOffsetCommitResponseTopic {
            name: topic.name.to_string().into(),
            partitions: indexes.map(result).collect(),
        }
    });
    TxnOffsetCommitResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

/// The answer as the metadata image alone decides it: every partition that exists is accepted.
pub fn txn_commit_draft(
    request: &TxnOffsetCommitRequest<'_>,
    topics: &dyn Topics,
) -> TxnOffsetCommitResponse<'static> {
    let mut draft = txn_commit_error(request, ErrorCode::None);
    for topic in &mut draft.topics {
        for partition in &mut topic.partitions {
            if !topics.has_partition(&topic.name, partition.partition_index) {
                partition.error_code = ErrorCode::UnknownTopicOrPartition.code();
            }
        }
    }
    draft
}

impl GroupCoordinator {
    /// TxnOffsetCommit, when the transaction's coordinator knows that this partition is part of it;
    /// `guard` is the log's proof of that. `draft` comes from [`txn_commit_draft`]. Answered with
    /// [`Reply::TxnOffsetCommit`] when it is written.
    pub fn txn_offset_commit(
        &mut self,
        now: Now,
        token: ReplyToken,
        request: &TxnOffsetCommitRequest<'_>,
        mut draft: TxnOffsetCommitResponse<'static>,
        guard: Option<u64>,
        out: &mut Out,
    ) {
        let target = self.route_named_write(&request.group_id).and_then(|p| {
            if let Some(serial) = self.find(p, &request.group_id) {
                return Ok((p, serial));
            }
            if request.generation_id >= 0 {
                return Err(ErrorCode::IllegalGeneration);
            }
            if !self.has_room() {
                return Err(ErrorCode::CoordinatorNotAvailable);
            }
            Ok((p, self.create(p, &request.group_id, now.wall_ms)))
        });
        let (partition, serial) = match target {
            Ok(target) => target,
            Err(error) => {
                refuse(&mut draft, error);
                return Self::reply(out, token, Reply::TxnOffsetCommit(draft));
            }
        };
        self.with_group(serial, now, out, |group, env| {
            match group.validate_txn_commit(request, &draft, env.metadata) {
                Ok(()) => group.commit_txn_offsets(env, token, request, draft, guard),
                Err(error) => {
                    refuse(&mut draft, error);
                    env.reply(token, Reply::TxnOffsetCommit(draft));
                }
            }
        });
        let id = request.producer_id;
        if let Some(state) = self.partitions.get_mut(&partition)
            && self
                .groups
                .get(&serial)
                .is_some_and(|g| g.offsets.txns.contains_key(&id))
        {
            state.open_txns.entry(id).or_default().insert(serial);
        }
    }

    /// The marker of a transaction for a partition of `__consumer_offsets`. Answered with
    /// [`Reply::TxnCompleted`] when it is written, which is when the transaction's offsets are
    /// committed, or gone.
    pub fn complete_txn(
        &mut self,
        now: Now,
        token: ReplyToken,
        partition: PartitionIndex,
        marker: TxnMarker,
        out: &mut Out,
    ) {
        // What Kafka's transaction coordinator takes for a partition that is not ready.
        let ready = self.partitions.get(&partition).is_some_and(|p| !p.loading);
        if !ready {
            let error = ErrorCode::NotLeaderOrFollower;
            return Self::reply(out, token, Reply::TxnCompleted(error));
        }
        let done = Done::TxnCompleted { token, marker };
        let kind = AppendKind::Marker(marker);
        self.append_kind(now, partition, kind, done, out);
    }

    /// The marker is written, or loaded.
    pub(crate) fn apply_marker(&mut self, partition: PartitionIndex, id: ProducerId, commit: bool) {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        for serial in state.open_txns.remove(&id).into_iter().flatten() {
            let Some(group) = self.groups.get_mut(&serial) else {
                continue;
            };
            let still_open = group.offsets.end_txn(id, commit);
            if still_open && let Some(state) = self.partitions.get_mut(&partition) {
                state.open_txns.entry(id).or_default().insert(serial);
            }
        }
    }

    /// One record of a transaction, of a partition that is loading.
    ///
    /// # Errors
    /// As [`GroupCoordinator::replay`].
    pub fn replay_txn(
        &mut self,
        partition: PartitionIndex,
        producer_id: ProducerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ReplayError> {
        let Replayed::Offset(key, Some(value)) = records::read(key, value)? else {
            return Ok(()); // transactions commit offsets and nothing else
        };
        let serial = match self.find(partition, &key.group) {
            Some(serial) => serial,
            None => self.create(partition, &key.group, -1),
        };
        self.writes.last += 1;
        let at = self.writes.last;
        if let Some(group) = self.groups.get_mut(&serial) {
            group.persisted = true;
            let value = OffsetValue::load(&value);
            let of = TxnPart { producer_id };
            let key = group
                .offsets
                .propose_txn(at, of, &key.topic, key.partition, value);
            group.offsets.settle_txn(at, of, &key, true);
        }
        if let Some(state) = self.partitions.get_mut(&partition) {
            state
                .open_txns
                .entry(producer_id)
                .or_default()
                .insert(serial);
        }
        Ok(())
    }

    /// A marker of a partition that is loading.
    pub fn replay_marker(
        &mut self,
        partition: PartitionIndex,
        producer_id: ProducerId,
        commit: bool,
    ) {
        self.apply_marker(partition, producer_id, commit);
    }
}

/// Whether the sender may commit in a transaction: `None` if it may, the member if only what that
/// has had since an older epoch. Old clients say nothing of members.
pub(crate) fn older_member<M>(
    request: &TxnOffsetCommitRequest<'_>,
    nobody_there: bool,
    member: Option<(M, i32)>,
) -> Result<Option<M>, ErrorCode> {
    let epoch = request.generation_id;
    let unnamed = request.member_id.is_empty() && request.group_instance_id.is_none();
    if epoch < 0 && (unnamed || nobody_there) {
        return Ok(None);
    }
    let (member, now) = member.ok_or(ErrorCode::UnknownMemberId)?;
    match epoch.cmp(&now) {
        Ordering::Less => Ok(Some(member)),
        Ordering::Equal => Ok(None),
        Ordering::Greater => Err(ErrorCode::IllegalGeneration),
    }
}

impl Group {
    /// Whether this sender may commit in a transaction now. The state of the group does not matter,
    /// and old clients say nothing of members.
    fn validate_txn_commit(
        &self,
        request: &TxnOffsetCommitRequest<'_>,
        draft: &TxnOffsetCommitResponse<'static>,
        metadata: &dyn Metadata,
    ) -> Result<(), ErrorCode> {
        if self.share.is_some() {
            return Err(ErrorCode::GroupIdNotFound);
        }
        if let Some(consumer) = self.consumer.as_ref().filter(|_| !self.is_dead()) {
            return consumer.validate_txn_commit(request, draft, metadata);
        }
        if let Some(streams) = self.streams.as_ref().filter(|_| !self.is_dead()) {
            return streams.validate_txn_commit(request, draft);
        }
        let classic = &self.classic;
        let generation = request.generation_id;
        let instance = request.group_instance_id.as_deref();
        match classic.state {
            State::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
            State::Empty if generation < 0 => return Ok(()),
            _ => {}
        }
        if generation >= 0 || !request.member_id.is_empty() || instance.is_some() {
            classic.validate_member(&request.member_id, instance)?;
            if generation != classic.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        }
        Ok(())
    }

    /// Writes what the draft accepts, and answers with the draft when it is written.
    fn commit_txn_offsets(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &TxnOffsetCommitRequest<'_>,
        mut draft: TxnOffsetCommitResponse<'static>,
        guard: Option<u64>,
    ) {
        let write = env.next_write();
        let longest = env.config.offset_metadata_max_bytes;
        let of = TxnPart {
            producer_id: request.producer_id,
        };
        let (mut records, mut keys) = (Vec::new(), Vec::new());
        for (topic, result) in request.topics.iter().zip(&mut draft.topics) {
            for (partition, result) in topic.partitions.iter().zip(&mut result.partitions) {
                let metadata = partition.committed_metadata.as_deref().unwrap_or("");
                if result.error_code != 0 {
                    continue;
                }
                if metadata.len() > longest && metadata.encode_utf16().count() > longest {
                    result.error_code = ErrorCode::OffsetMetadataTooLarge.code();
                    continue;
                }
                let index = partition.partition_index;
                let value = OffsetValue {
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: metadata.into(),
                    commit_ms: env.now.wall_ms,
                    expire_ms: None,
                    topic_id: Uuid::ZERO,
                };
                match records::offset(&self.name, &topic.name, index, Some(&value)) {
                    Some(record) => {
                        records.push(record);
                        let name = &topic.name;
                        keys.push(self.offsets.propose_txn(write, of, name, index, value));
                    }
                    None => result.error_code = ErrorCode::UnknownServerError.code(),
                }
            }
        }
        let reply = Reply::TxnOffsetCommit(draft);
        if records.is_empty() {
            return env.reply(token, reply);
        }
        let part = Part {
            group: self.serial,
            offsets: keys,
            effect: Effect::Txn(of),
        };
        let part = self.part(write, part);
        let kind = AppendKind::Txn {
            producer_id: request.producer_id,
            producer_epoch: request.producer_epoch,
            guard,
        };
        env.append_kind(
            self.partition,
            kind,
            records,
            vec![part],
            Done::Reply(token, reply),
        );
    }
}

impl Offsets {
    /// Puts an offset of a transaction on its way.
    fn propose_txn(
        &mut self,
        write: u64,
        of: TxnPart,
        topic: &str,
        partition: PartitionIndex,
        value: OffsetValue,
    ) -> OffsetKey {
        let key: OffsetKey = (topic.into(), partition);
        let slots = self.txns.entry(of.producer_id).or_default();
        let slot: &mut TxnSlot = slots.entry(key.clone()).or_default();
        slot.pending.push((write, value));
        key
    }

    /// The write of an offset of a transaction ended.
    pub(crate) fn settle_txn(&mut self, write: u64, of: TxnPart, key: &OffsetKey, written: bool) {
        let Some(slots) = self.txns.get_mut(&of.producer_id) else {
            return;
        };
        let Some(slot) = slots.get_mut(key) else {
            return;
        };
        while let Some(n) = slot.pending.iter().position(|(token, _)| *token == write) {
            let (at, value) = slot.pending.remove(n);
            if written {
                slot.value = Some((at, value));
            }
        }
        if slot.value.is_none() && slot.pending.is_empty() {
            slots.remove(key);
            if slots.is_empty() {
                self.txns.remove(&of.producer_id);
            }
        }
    }

    /// A transaction is decided; true if the producer has begun the next one here.
    fn end_txn(&mut self, id: ProducerId, commit: bool) -> bool {
        let Some(slots) = self.txns.remove(&id) else {
            return false;
        };
        let mut left = BTreeMap::new();
        for (key, mut slot) in slots {
            if let Some((at, value)) = slot.value.take().filter(|_| commit) {
                self.materialize(at, &key, value);
            }
            if !slot.pending.is_empty() {
                left.insert(key, slot);
            }
        }
        let more = !left.is_empty();
        if more {
            self.txns.insert(id, left);
        }
        more
    }

    fn materialize(&mut self, at: u64, (topic, partition): &OffsetKey, value: OffsetValue) {
        let slots = self.topics.entry(topic.clone()).or_default();
        let slot = slots.entry(*partition).or_default();
        if slot.committed.is_none() || at > slot.committed_at {
            (slot.committed, slot.committed_at) = (Some(value), at);
        }
    }

    /// Whether an open transaction commits an offset for this partition.
    pub(crate) fn is_unstable(&self, topic: &str, partition: PartitionIndex) -> bool {
        if self.txns.is_empty() {
            return false;
        }
        let key: OffsetKey = (topic.into(), partition);
        self.txns.values().any(|slots| slots.contains_key(&key))
    }

    /// Partitions that open transactions commit offsets for.
    pub(crate) fn unstable(&self) -> Vec<OffsetKey> {
        let open = self.txns.values().flat_map(BTreeMap::keys);
        open.cloned().collect()
    }

    /// A tombstone is written for this partition: no transaction brings its offset back.
    pub(crate) fn bury_txns(&mut self, key: &OffsetKey) {
        self.txns.retain(|_, slots| {
            if let Some(slot) = slots.get_mut(key) {
                slot.value = None;
                if slot.pending.is_empty() {
                    slots.remove(key);
                }
            }
            !slots.is_empty()
        });
    }
}
