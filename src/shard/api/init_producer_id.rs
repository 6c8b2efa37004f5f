//! InitProducerId (key 22), versions 0 to 6. For idempotent producers: a new id with epoch 0 each
//! time, from blocks that the controller gives out and that are never given twice. With a
//! transactional id the coordinator of that decides (`txn_apis.rs`). v2: flexible. v3: id and epoch
//! of before (KIP-360), which only matter with a transactional id. v4: PRODUCER_FENCED (KIP-588).
//! v6: two-phase commit (KIP-939), only with `unstable.api.versions.enable`, and refused.

use super::decode;
use crate::ops::{Gathering, Op, OpResult};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, ShardId};
use flumen_wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

/// The ids that this shard may give out.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    end: i64,
    /// A block was asked for.
    asked: bool,
    /// Requests that wait for it.
    waiting: Vec<Reply>,
}

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, InitProducerIdRequest<'_>);
    // An id and an epoch come together or not at all (KIP-360).
    let half = (message.producer_id < 0) != (message.producer_epoch < 0);
    let error = match message.transactional_id.as_deref() {
        _ if half => Some(ErrorCode::InvalidRequest),
        Some("") => Some(ErrorCode::InvalidRequest),
        Some(_) => {
            drop(message);
            return super::txn_apis::init_producer_id(shard, turn, request);
        }
        None => None,
    };
    match error {
        Some(error) => answer(shard, turn, request.reply, Err(error)),
        None => shard.give_producer_id(turn, request.reply),
    }
}

fn answer(shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply, id: Result<i64, ErrorCode>) {
    let response = InitProducerIdResponse {
        error_code: id.err().unwrap_or_default().code(),
        producer_id: id.unwrap_or(-1),
        producer_epoch: if id.is_ok() { 0 } else { -1 },
        ..Default::default()
    };
    shard.reply(turn, reply, &response);
}

impl Shard {
    fn give_producer_id(&mut self, turn: &mut Turn<'_>, reply: Reply) {
        let ids = &mut self.producer_ids;
        if ids.next < ids.end {
            let id = ids.next;
            ids.next += 1;
            answer(self, turn, reply, Ok(id));
            return;
        }
        if !std::mem::replace(&mut ids.asked, true) {
            let block = Box::new(Block(None));
            self.gather(turn, reply, block, vec![(ShardId::FIRST, Op::ProducerIds)]);
        } else {
            ids.waiting.push(reply);
        }
    }
}

/// Waits for a block.
struct Block(Option<Result<(i64, i32), ErrorCode>>);

impl Gathering for Block {
    fn take(&mut self, _index: u32, result: OpResult) {
        if let OpResult::ProducerIds(block) = result {
            self.0 = Some(block);
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        shard.producer_ids.asked = false;
        let block = self.0.unwrap_or(Err(ErrorCode::CoordinatorLoadInProgress));
        match block {
            Ok((first, len)) => {
                shard.producer_ids.next = first;
                shard.producer_ids.end = first + i64::from(len);
                shard.give_producer_id(turn, reply);
            }
            Err(error) => answer(shard, turn, reply, Err(error)),
        }
        for reply in std::mem::take(&mut shard.producer_ids.waiting) {
            shard.give_producer_id(turn, reply);
        }
    }
}
