//! TxnOffsetCommit (28), versions 0 to 5: offsets that are committed when a transaction is. It runs
//! on the shard that coordinates the group, whose partition of the offsets topic must be part of
//! the transaction: as with Produce, its coordinator is asked unless the transaction is open there.
//!
//! - v2: leader epochs. v3: flexible, member and generation (KIP-447). v4: TRANSACTION_ABORTABLE.
//!   v5: adds the partition itself (KIP-890).

use super::decode;
use crate::group_metadata::ImageTopics;
use crate::groups::OFFSETS_TOPIC;
use crate::ops::{Gathering, Op, OpResult, TxnOp};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::{ErrorCode, PartitionIndex, TopicPartition};
use flumen_coordinator::txn::TxnPartitions;
use flumen_coordinator::{ReplyToken, partition_for, txn_commit_draft, txn_commit_error};
use flumen_wire::Message;
use flumen_wire::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use std::sync::Arc;

/// The partition adds itself to the transaction from here on.
const ADDS_FROM: i16 = 5;
/// Clients know TRANSACTION_ABORTABLE from here on.
const ABORTABLE_FROM: i16 = 4;
/// Older producers can't handle COORDINATOR_LOAD_IN_PROGRESS.
const LOADING_FROM: i16 = 2;
const NO_SEQUENCE: i32 = -1;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone();
    let message = decode!(shard, turn, request, TxnOffsetCommitRequest<'_>);
    let owner = match shard.coordinator_of(&message.group_id) {
        Ok(owner) if owner != shard.id => {
            shard.forward(turn, owner, request);
            return;
        }
        owner => owner,
    };
    let version = request.reply.version;
    let draft = txn_commit_draft(&message, &ImageTopics(&shard.image));
    let mut partitions = draft.topics.iter().flat_map(|t| &t.partitions);
    if !partitions.any(|p| p.error_code == 0) {
        shard.reply(turn, request.reply, &draft);
        return;
    }
    let began = match (message.group_id.is_empty(), owner) {
        (true, _) => Err(ErrorCode::InvalidGroupId),
        (_, Err(error)) => Err(error),
        (_, Ok(_)) => shard.begin_txn_commit(turn, &message, version),
    };
    match began {
        Err(error) => {
            let error = append_error(told_as(error, version));
            let response = refuse(&message, draft, error);
            drop(message);
            shard.reply_txn_commit(turn, request.reply, response);
        }
        Ok(None) => {
            drop(message);
            shard.commit_txn(turn, request.reply, &body, None);
        }
        Ok(Some((guard, partition))) => {
            let asking = Box::new(TxnPartitions {
                transactional_id: message.transactional_id.to_string(),
                producer_id: message.producer_id,
                producer_epoch: message.producer_epoch,
                partitions: [(Arc::from(OFFSETS_TOPIC), [partition].into())].into(),
                client_version: if version >= ADDS_FROM { 2 } else { 0 },
            });
            drop(message);
            let owner = shard.txn_coordinator_of(&asking.transactional_id);
            let error = owner.err().unwrap_or(ErrorCode::UnknownServerError);
            let op = match version >= ADDS_FROM {
                true => TxnOp::Add(asking),
                false => TxnOp::Verify(asking),
            };
            let ops = owner
                .map(|owner| (owner, Op::Txn(op)))
                .into_iter()
                .collect();
            let verified = Box::new(Verified { body, guard, error });
            shard.gather(turn, request.reply, verified, ops);
        }
    }
}

/// Errors of the partitions that exist; the others keep theirs.
fn refuse(
    message: &TxnOffsetCommitRequest<'_>,
    draft: TxnOffsetCommitResponse<'static>,
    error: ErrorCode,
) -> TxnOffsetCommitResponse<'static> {
    let mut response = txn_commit_error(message, error);
    for (topic, known) in response.topics.iter_mut().zip(draft.topics) {
        for (partition, known) in topic.partitions.iter_mut().zip(known.partitions) {
            if known.error_code != 0 {
                partition.error_code = known.error_code;
            }
        }
    }
    response
}

/// What a producer of this version hears when the coordinator of its transaction does not agree.
fn told_as(error: ErrorCode, version: i16) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if version < ABORTABLE_FROM => ErrorCode::InvalidTxnState,
        error => error,
    }
}

/// What a group's client hears of an error of its partition.
fn append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        error => error,
    }
}

/// A guard, and the partition of the offsets topic that it is for.
type Unverified = (u64, PartitionIndex);

impl Shard {
    /// Whether the coordinator of the transaction is to be asked.
    fn begin_txn_commit(
        &mut self,
        turn: &Turn<'_>,
        message: &TxnOffsetCommitRequest<'_>,
        version: i16,
    ) -> Result<Option<Unverified>, ErrorCode> {
        let topic = self.image.topic(OFFSETS_TOPIC);
        let topic = topic.ok_or(ErrorCode::NotCoordinator)?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let index = partition_for(&message.group_id, count);
        let tp: TopicPartition = crate::image::id_of(topic, index);
        let p = self.partitions.map.get_mut(&tp);
        let p = p.ok_or(ErrorCode::NotLeaderOrFollower)?;
        let adds = version >= ADDS_FROM;
        if !adds && !p.config.txn_verification {
            return Ok(None);
        }
        let log = p.log_mut().ok_or(ErrorCode::NotLeaderOrFollower)?;
        let at = (message.producer_epoch, NO_SEQUENCE);
        let guard = log
            .start_verification(turn.now, message.producer_id, at, adds)
            .map_err(|e| e.code)?;
        Ok(guard.map(|guard| (guard.get(), index)))
    }

    /// The coordinator of the transaction agrees: the group's decides.
    fn commit_txn(&mut self, turn: &mut Turn<'_>, reply: Reply, body: &Bytes, guard: Option<u64>) {
        let Ok(message) = TxnOffsetCommitRequest::decode_exact(body, reply.version) else {
            return; // it was decoded before
        };
        let draft = txn_commit_draft(&message, &ImageTopics(&self.image));
        let (now, token) = (turn.now, ReplyToken(self.next_id()));
        let groups = &mut self.groups;
        groups
            .coordinator
            .txn_offset_commit(now, token, &message, draft, guard, &mut groups.out);
        self.await_groups(token, reply);
    }

    /// Answers a TxnOffsetCommit.
    pub(crate) fn reply_txn_commit(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        mut response: TxnOffsetCommitResponse<'static>,
    ) {
        if reply.version < LOADING_FROM {
            let loading = ErrorCode::CoordinatorLoadInProgress.code();
            let partitions = response.topics.iter_mut().flat_map(|t| &mut t.partitions);
            for partition in partitions.filter(|p| p.error_code == loading) {
                partition.error_code = ErrorCode::CoordinatorNotAvailable.code();
            }
        }
        self.reply(turn, reply, &response);
    }
}

/// Waits for the coordinator of the transaction.
struct Verified {
    body: Bytes,
    guard: u64,
    error: ErrorCode,
}

impl Gathering for Verified {
    fn take(&mut self, _index: u32, result: OpResult) {
        match result {
            OpResult::TxnAdded(error) | OpResult::TxnVerified(Err(error)) => self.error = error,
            OpResult::TxnVerified(Ok(each)) => {
                let first = each.first().map(|(_, _, error)| *error);
                self.error = first.unwrap_or(ErrorCode::TransactionAbortable);
            }
            _ => {}
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        if self.error.is_none() {
            shard.commit_txn(turn, reply, &self.body, Some(self.guard));
            return;
        }
        let Ok(message) = TxnOffsetCommitRequest::decode_exact(&self.body, reply.version) else {
            return; // it was decoded before
        };
        let draft = txn_commit_draft(&message, &ImageTopics(&shard.image));
        let error = append_error(told_as(self.error, reply.version));
        let response = refuse(&message, draft, error);
        shard.reply_txn_commit(turn, reply, response);
    }
}
