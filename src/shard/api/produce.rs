//! Produce (key 0), versions 3 to 13. Advertised from 0: older librdkafka would not compress
//! otherwise (KAFKA-18659).
//!
//! Each partition's records are a part of the request's frame; they are checked, given their
//! offsets and written by the shard that owns the partition, without being copied. The answer
//! leaves when all partitions have answered: with acks=1 and -1 when the batch is written (one
//! replica: both are the same; with `flush.messages` when it is on disk), with acks=0 there is
//! none, and any error closes the connection.
//!
//! - v7: zstd allowed (KIP-110). v8: RecordErrors and ErrorMessage (KIP-467). v9: flexible.
//! - v10: CurrentLeader and NodeEndpoints tags (KIP-951). v11: TRANSACTION_ABORTABLE. v12:
//!   partitions add themselves to the transaction (KIP-890), see `verify.rs`. v13: topics by id
//!   (KIP-516).
//!
//! Gaps: the tags of v10.

use super::verify::{TxnRequest, transactional_batch};
use crate::io::CloseReason;
use crate::ops::{AppendOp, AppendResult, Gather, GatherBody, OpResult, TxnProduce};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::{ErrorCode, TopicPartition, Uuid};
use flumen_quorum::Topic;
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::produce::{ProducePartition, ProduceRequest};
use flumen_wire::hot::produce_response::{PartitionAnswer, ProduceAnswers};
use std::ops::Range;

/// The client id that Kafka's own tools use to write to internal topics.
const ADMIN_CLIENT: &str = "__admin_client";
/// Lists of slots kept for reuse: about as many requests as a busy shard has in work.
const SPARE_SLOTS_MAX: usize = 1024;
/// A longer one is not kept.
const SLOTS_LEN_MAX: usize = 64;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let version = request.version();
    let admin = *request.client_id == *ADMIN_CLIENT.as_bytes();
    let mut slots = shard.spare_slots.pop().unwrap_or_default();
    let mut topic = None;
    // The one walk through the request: whatever is needed of it later is noted.
    let parsed = ProduceRequest::parse_with(&request.body, 0, version, |part| {
        let (ordinal, found) = match topic {
            Some((ordinal, found)) if ordinal == part.topic_ordinal => (ordinal, found),
            _ => (part.topic_ordinal, shard.produce_topic(&part.topic, admin)),
        };
        let first = topic
            .replace((ordinal, found))
            .is_none_or(|(n, _)| n != ordinal);
        slots.push(Slot::new(
            part,
            found,
            first,
            transactional_batch(part, &request.body, version),
        ));
    });
    let (acks, topics, id) = match parsed {
        Ok(p) => (p.acks, p.answered_topics, p.transactional_id),
        Err(error) => {
            shard.malformed(turn, request.reply, error);
            return;
        }
    };
    let txn = TxnRequest::of(turn.now.mono, version, id, &mut slots);
    let refuse_all = match (&txn, (-1..=1).contains(&acks)) {
        (_, false) => Some(ErrorCode::InvalidRequiredAcks),
        (Err(error), true) => Some(*error),
        (Ok(_), true) => None,
    };
    if let Some(error) = refuse_all {
        for slot in &mut slots {
            slot.result.error = error;
        }
    }
    for slot in &mut slots {
        slot.todo = slot.result.error.is_none();
    }
    let body = ProduceGather {
        acks,
        topics,
        slots,
        frame: request.body,
        txn: txn.unwrap_or_default(),
    };
    shard.enter_line(turn, request.reply, body);
}

impl Shard {
    /// The topic, if a client may produce to it.
    fn produce_topic(&self, topic: &TopicRef<'_>, admin: bool) -> Result<&Topic, ErrorCode> {
        let (topic, unknown) = match topic {
            TopicRef::Name(name) => (self.image.topic(name), ErrorCode::UnknownTopicOrPartition),
            TopicRef::Id(id) => (self.image.topic_by_id(id), ErrorCode::UnknownTopicId),
        };
        let topic = topic.ok_or(unknown)?;
        if topic.is_internal() && !admin {
            return Err(ErrorCode::InvalidTopicException);
        }
        Ok(topic)
    }
}

/// One partition of a request, and its result.
pub(crate) struct Slot {
    /// Where the topic's name or id is in the frame.
    topic_at: Range<usize>,
    /// How many partitions the topic has in the request, at the first of them; else 0.
    topic_partitions: usize,
    pub(super) index: i32,
    /// Of no meaning with an error.
    pub(super) tp: TopicPartition,
    records: Range<usize>,
    /// It is to be appended.
    pub(super) todo: bool,
    /// Of a transactional batch.
    pub(super) txn: Option<Box<TxnProduce>>,
    /// It may not be appended before the coordinator of its transaction agrees.
    pub(super) unverified: bool,
    pub(super) result: AppendResult,
}

impl Slot {
    fn new(
        part: &ProducePartition<'_>,
        topic: Result<&Topic, ErrorCode>,
        first: bool,
        txn: Option<Box<TxnProduce>>,
    ) -> Self {
        let (topic_id, error) = match topic {
            Err(error) => (Uuid::ZERO, error),
            Ok(topic) if topic.partition(part.index).is_none() => {
                (topic.id, ErrorCode::UnknownTopicOrPartition)
            }
            Ok(topic) if part.records.is_none() => (topic.id, ErrorCode::InvalidRecord),
            Ok(topic) => (topic.id, ErrorCode::None),
        };
        Self {
            topic_at: part.topic_at.clone(),
            topic_partitions: if first { part.topic_partitions } else { 0 },
            index: part.index,
            tp: TopicPartition {
                topic_id,
                partition: part.index,
            },
            records: part.records.clone().unwrap_or_default(),
            todo: false,
            txn,
            unverified: false,
            result: AppendResult::refused(error),
        }
    }
}

/// Waits for the appends of one request. The frame is kept: the answer names topics as the request
/// does.
pub(crate) struct ProduceGather {
    frame: Bytes,
    topics: usize,
    acks: i16,
    /// The request's partitions, in its order.
    pub(super) slots: Vec<Slot>,
    /// Of a transactional producer.
    pub(super) txn: Option<Box<TxnRequest>>,
}

impl ProduceGather {
    /// The result of the partition with this index in the request.
    pub(crate) fn take(&mut self, index: u32, result: OpResult) {
        match (self.slots.get_mut(index as usize), result) {
            (Some(slot), OpResult::Append(result)) => slot.result = result,
            (Some(slot), OpResult::Verify(guard)) => {
                slot.unverified = true;
                if let Some(txn) = &mut slot.txn {
                    txn.guard = Some(guard);
                }
            }
            _ => {}
        }
    }

    /// Sends the appends that are to be done, or answers when there are none.
    pub(super) fn send(mut self, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let gather = shard.gathers.reserve();
        let mut outstanding = 0;
        for (n, slot) in self.slots.iter_mut().enumerate() {
            if !std::mem::take(&mut slot.todo) {
                continue;
            }
            let op = AppendOp {
                records: self.frame.slice(slot.records.clone()),
                frame_len: self.frame.len(),
                version: reply.version,
                txn: slot.txn.clone(),
            };
            slot.result.error = ErrorCode::UnknownServerError; // until its own result comes
            outstanding += 1;
            shard.send_append(turn, (gather, n as u32), slot.tp, op);
        }
        if outstanding == 0 {
            shard.gathers.remove(gather);
            self.finish(shard, turn, reply);
            return;
        }
        let gathering = Gather {
            reply,
            outstanding,
            body: GatherBody::Produce(self),
        };
        shard.gathers.fill(gather, gathering);
    }

    /// All are there: answer, unless the coordinator of a transaction is to be asked first.
    pub(crate) fn finish(self, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        match self.txn {
            Some(_) => self.appended(shard, turn, reply),
            None => self.answer(shard, turn, reply),
        }
    }

    pub(super) fn answer(mut self, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        if self.acks == 0 {
            if self.slots.iter().any(|s| !s.result.error.is_none()) {
                shard.close_reply(turn, reply, CloseReason::ProduceWithoutAcksFailed);
            } else {
                shard.send(turn, reply, None::<Bytes>);
            }
        } else {
            let response = reply.frame_small(&mut shard.responses, |w| {
                let mut body = ProduceAnswers::begin(w, reply.version, self.topics);
                for slot in &self.slots {
                    if slot.topic_partitions > 0 {
                        let name = self.frame.get(slot.topic_at.clone());
                        body.topic(name.unwrap_or_default(), slot.topic_partitions);
                    }
                    body.partition(slot.index, &answer(&slot.result));
                }
                body.finish();
            });
            shard.send_framed(turn, reply, response);
        }
        self.slots.clear();
        if shard.spare_slots.len() < SPARE_SLOTS_MAX && self.slots.capacity() <= SLOTS_LEN_MAX {
            shard.spare_slots.push(self.slots);
        }
    }
}

fn answer(result: &AppendResult) -> PartitionAnswer<'_> {
    let details = result.details.as_deref();
    PartitionAnswer {
        error_code: result.error.code(),
        base_offset: result.base_offset,
        log_append_time_ms: result.log_append_time,
        log_start_offset: result.log_start,
        record_errors: details.map_or(&[], |d| &d.record_errors),
        error_message: details.and_then(|d| d.message.as_deref()),
    }
}
