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
use crate::ops::{AppendOp, AppendResult, Gather, GatherBody, Op, OpResult, PartitionOp};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::{ErrorCode, TopicPartition};
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::produce::{Checked, ProducePartition, ProduceRequest};
use flumen_wire::hot::produce_response::{PartitionAnswer, write_produce_response};

/// The client id that Kafka's own tools use to write to internal topics.
const ADMIN_CLIENT: &str = "__admin_client";
/// Lists of results kept for reuse: about as many requests as a busy shard has in work.
const SPARE_RESULTS_MAX: usize = 1024;
/// A longer one is not kept.
const SPARE_RESULTS_LEN_MAX: usize = 64;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let version = request.version();
    let mut transactional = false;
    let parsed = ProduceRequest::parse_with(&request.body, 0, version, |part| {
        transactional |= is_transactional(part, &request.body);
    });
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            shard.malformed(turn, request.reply, error);
            return;
        }
    };
    let refuse_all = if !(-1..=1).contains(&parsed.acks) {
        Some(ErrorCode::InvalidRequiredAcks)
    } else if parsed.transactional_id.is_some() {
        Some(ErrorCode::InvalidTxnState)
    } else if transactional {
        // Nobody may write as a transactional producer without a name.
        Some(ErrorCode::TransactionalIdAuthorizationFailed)
    } else {
        None
    };
    let admin = request.client_id() == ADMIN_CLIENT;
    let gather = shard.gathers.reserve();
    let mut outstanding = 0;
    let mut results = shard.spare_results.pop().unwrap_or_default();
    for (n, part) in parsed.partitions().enumerate() {
        let found = match refuse_all {
            Some(error) => Err(error),
            None => shard.produce_target(&part, admin),
        };
        let result = match (found, part.records) {
            (Ok(tp), Some(range)) => {
                let op = AppendOp {
                    records: request.body.slice(range),
                    frame_len: request.body.len(),
                    version,
                };
                let op = Op::Partition(tp, PartitionOp::Append(op));
                shard.send_op(turn, shard.owner(tp), gather, n as u32, op);
                outstanding += 1;
                ErrorCode::UnknownServerError // until its own comes
            }
            (Ok(_), None) => ErrorCode::InvalidRecord,
            (Err(error), _) => error,
        };
        results.push(AppendResult::refused(result));
    }
    let body = ProduceGather {
        acks: parsed.acks,
        checked: parsed.checked(),
        results,
        body: request.body,
    };
    if outstanding == 0 {
        shard.gathers.remove(gather);
        body.finish(shard, turn, request.reply);
        return;
    }
    let gathering = Gather {
        reply: request.reply,
        outstanding,
        body: GatherBody::Produce(body),
    };
    shard.gathers.fill(gather, gathering);
}

/// Whether a batch has the transactional bit of its attributes.
fn is_transactional(part: &ProducePartition<'_>, frame: &Bytes) -> bool {
    const ATTRIBUTES_LOW: usize = 22;
    const TRANSACTIONAL: u8 = 0x10;
    let records = part.records.clone().and_then(|range| frame.get(range));
    let attributes = records.and_then(|records| records.get(ATTRIBUTES_LOW));
    attributes.is_some_and(|byte| byte & TRANSACTIONAL != 0)
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

/// Waits for the appends of one request: one result for each of its partitions, in its order. The
/// frame is kept: the answer names topics as the request does.
pub(crate) struct ProduceGather {
    body: Bytes,
    checked: Checked,
    acks: i16,
    results: Vec<AppendResult>,
}

impl ProduceGather {
    /// The result of the partition with this index in the request.
    pub(crate) fn take(&mut self, index: u32, result: OpResult) {
        let slot = self.results.get_mut(index as usize);
        if let (Some(slot), OpResult::Append(result)) = (slot, result) {
            *slot = result;
        }
    }

    /// All are there: answer.
    pub(crate) fn finish(mut self, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        if self.acks == 0 {
            if self.results.iter().any(|r| !r.error.is_none()) {
                shard.close_reply(turn, reply, CloseReason::ProduceWithoutAcksFailed);
            } else {
                shard.send(turn, reply, None);
            }
        } else {
            let response = reply.frame_small(&mut shard.responses, |w| {
                let answers = self.results.iter().map(answer);
                write_produce_response(w, &self.body, self.checked, reply.version, answers);
            });
            shard.send_framed(turn, reply, response);
        }
        self.results.clear();
        if shard.spare_results.len() < SPARE_RESULTS_MAX
            && self.results.capacity() <= SPARE_RESULTS_LEN_MAX
        {
            shard.spare_results.push(self.results);
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
