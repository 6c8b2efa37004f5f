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
//! - v10: CurrentLeader and NodeEndpoints tags (KIP-951). v13: topics by id (KIP-516).
//!
//! Gaps: transactions (a transactional id is refused with INVALID_TXN_STATE); the tags of v10.

use crate::io::CloseReason;
use crate::ops::{AppendOp, AppendResult, Gathering, Op, OpResult, PartitionOp};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::{ErrorCode, TopicPartition, Uuid};
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::produce::{ProducePartition, ProduceRequest};
use flumen_wire::messages::produce_response as wire;
use std::borrow::Cow;

/// The client id that Kafka's own tools use to write to internal topics.
const ADMIN_CLIENT: &str = "__admin_client";

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let version = request.version();
    let parsed = match ProduceRequest::parse(&request.body, 0, version) {
        Ok(parsed) => parsed,
        Err(error) => {
            shard.malformed(turn, request.reply, error);
            return;
        }
    };
    let acks = parsed.acks;
    let refuse_all = if !(-1..=1).contains(&acks) {
        Some(ErrorCode::InvalidRequiredAcks)
    } else if parsed.transactional_id.is_some() {
        Some(ErrorCode::InvalidTxnState)
    } else if has_transactional_records(&parsed, &request.body) {
        // Nobody may write as a transactional producer without a name.
        Some(ErrorCode::TransactionalIdAuthorizationFailed)
    } else {
        None
    };
    let admin = request.client_id() == ADMIN_CLIENT;
    let mut results = Vec::with_capacity(parsed.partition_count);
    let mut ops = Vec::with_capacity(parsed.partition_count);
    let mut slots = Vec::with_capacity(parsed.partition_count);
    for (n, part) in parsed.partitions().enumerate() {
        let found = match refuse_all {
            Some(error) => Err(error),
            None => shard.produce_target(&part, admin),
        };
        match (found, part.records) {
            (Ok(tp), Some(range)) => {
                let records = request.body.slice(range);
                let op = AppendOp {
                    records,
                    frame_len: request.body.len(),
                    version,
                };
                let op = Op::Partition(tp, PartitionOp::Append(op));
                ops.push((shard.owner(tp), op));
                slots.push(n as u32);
                results.push(AppendResult::refused(ErrorCode::UnknownServerError));
            }
            (Ok(_), None) => results.push(AppendResult::refused(ErrorCode::InvalidRecord)),
            (Err(error), _) => results.push(AppendResult::refused(error)),
        }
    }
    let gathering = ProduceGather {
        body: request.body,
        acks,
        results,
        slots,
    };
    shard.gather(turn, request.reply, Box::new(gathering), ops);
}

/// Whether a batch has the transactional bit of its attributes.
fn has_transactional_records(request: &ProduceRequest<'_>, body: &Bytes) -> bool {
    const ATTRIBUTES_LOW: usize = 22;
    const TRANSACTIONAL: u8 = 0x10;
    request.partitions().filter_map(|p| p.records).any(|range| {
        let attributes = body
            .get(range)
            .and_then(|records| records.get(ATTRIBUTES_LOW));
        attributes.is_some_and(|byte| byte & TRANSACTIONAL != 0)
    })
}

impl Shard {
    fn produce_target(
        &self,
        part: &ProducePartition<'_>,
        admin: bool,
    ) -> Result<TopicPartition, ErrorCode> {
        let (topic, unknown) = match part.topic {
            TopicRef::Name(name) => (self.image.topic(name), ErrorCode::UnknownTopicOrPartition),
            TopicRef::Id(id) => (self.image.topic_by_id(&id), ErrorCode::UnknownTopicId),
        };
        let topic = topic.ok_or(unknown)?;
        if topic.is_internal() && !admin {
            return Err(ErrorCode::InvalidTopicException);
        }
        let partition = topic.partition(part.index);
        partition.ok_or(ErrorCode::UnknownTopicOrPartition)?;
        Ok(crate::image::id_of(topic, part.index))
    }
}

/// Waits for the appends of one request. The frame is kept: the answer names topics as the request
/// does.
struct ProduceGather {
    body: Bytes,
    acks: i16,
    results: Vec<AppendResult>,
    /// Which result each operation gives.
    slots: Vec<u32>,
}

impl Gathering for ProduceGather {
    fn take(&mut self, index: u32, result: OpResult) {
        let slot = self.slots.get(index as usize);
        let slot = slot.and_then(|n| self.results.get_mut(*n as usize));
        if let (Some(slot), OpResult::Append(result)) = (slot, result) {
            *slot = result;
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        if self.acks == 0 {
            if self.results.iter().any(|r| !r.error.is_none()) {
                shard.close_reply(turn, reply, CloseReason::ProduceWithoutAcksFailed);
            } else {
                shard.send(turn, reply, None);
            }
            return;
        }
        match ProduceRequest::parse(&self.body, 0, reply.version) {
            Ok(request) => {
                let response = response(&request, self.results);
                shard.reply(turn, reply, &response);
            }
            Err(error) => shard.malformed(turn, reply, error),
        }
    }
}

fn response<'a>(
    request: &ProduceRequest<'a>,
    results: Vec<AppendResult>,
) -> wire::ProduceResponse<'a> {
    let mut responses: Vec<wire::TopicProduceResponse<'a>> =
        Vec::with_capacity(request.topic_count);
    let mut ordinal = usize::MAX;
    for (part, result) in request.partitions().zip(results) {
        if part.topic_ordinal != ordinal {
            ordinal = part.topic_ordinal;
            let (name, topic_id) = match part.topic {
                TopicRef::Name(name) => (name, Uuid::ZERO),
                TopicRef::Id(id) => ("", id),
            };
            responses.push(wire::TopicProduceResponse {
                name: Cow::Borrowed(name),
                topic_id,
                ..Default::default()
            });
        }
        if let Some(topic) = responses.last_mut() {
            topic
                .partition_responses
                .push(partition_response(part.index, result));
        }
    }
    wire::ProduceResponse {
        responses,
        ..Default::default()
    }
}

fn partition_response<'a>(index: i32, r: AppendResult) -> wire::PartitionProduceResponse<'a> {
    let record_errors = r.record_errors.into_iter();
    wire::PartitionProduceResponse {
        index,
        error_code: r.error.code(),
        base_offset: r.base_offset,
        log_append_time_ms: r.log_append_time,
        log_start_offset: r.log_start,
        record_errors: record_errors
            .map(|(batch_index, message)| wire::BatchIndexAndErrorMessage {
                batch_index,
                batch_index_error_message: Some(Cow::Owned(message)),
            })
            .collect(),
        error_message: r.message.map(Cow::Owned),
        ..Default::default()
    }
}
