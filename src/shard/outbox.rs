//! Operations and results that wait for the end of the turn, to travel in one message per shard.

use crate::io::Effect;
use crate::mesh::{Batch, BatchItem, Message};
use crate::ops::{OpFrom, OpReply, OpRequest, OpResult};
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::ShardId;
use std::collections::VecDeque;

/// What waits for the end of the turn.
#[derive(Debug)]
pub(crate) struct Outbox {
    me: ShardId,
    /// By shard; `None` until something comes up.
    out: Vec<Option<Box<Batch>>>,
    here: VecDeque<OpReply>,
    /// Batches that came and are done with, empty, for those to come.
    #[allow(clippy::vec_box)] // the box is what is kept: messages between shards carry it
    spare: Vec<Box<Batch>>,
}

/// Batches kept for reuse: about as many as two shards have on the way.
const SPARE_BATCHES_MAX: usize = 64;
/// A longer one is not kept.
const SPARE_ITEMS_MAX: usize = 4096;

impl Outbox {
    /// Empty, for shard `me` of `shards`.
    pub(crate) fn new(me: ShardId, shards: u16) -> Self {
        Self {
            me,
            out: (0..shards).map(|_| None).collect(),
            here: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Sends an operation with the turn's message.
    pub(crate) fn op(&mut self, to: ShardId, op: OpRequest) {
        if let Some(batch) = self.batch(to) {
            batch.items.push(BatchItem::Op(op));
        }
    }

    /// Sends a result: into the queue of local ones, or with the turn's message.
    pub(crate) fn result(&mut self, to: OpFrom, result: OpResult) {
        let reply = OpReply {
            gather: to.gather,
            index: to.index,
            result,
        };
        if to.shard == self.me {
            self.here.push_back(reply);
        } else if let Some(batch) = self.batch(to.shard) {
            batch.items.push(BatchItem::Result(reply));
        }
    }

    /// Gives a part of a frame back to the other shard that it came from; travels with the next
    /// results.
    pub(crate) fn give_back(&mut self, to: ShardId, part: Bytes) {
        if let Some(batch) = self.batch(to) {
            batch.returned.push(part);
        }
    }

    fn batch(&mut self, to: ShardId) -> Option<&mut Batch> {
        let out = self.out.get_mut(to.index())?;
        if out.is_none() {
            *out = Some(self.spare.pop().unwrap_or_default());
        }
        out.as_deref_mut()
    }

    /// Sends what waits for other shards: one message per shard.
    pub(crate) fn flush(&mut self, turn: &mut Turn<'_>) {
        for (n, out) in self.out.iter_mut().enumerate() {
            if let Some(batch) = out.take_if(|batch| !batch.items.is_empty()) {
                let effect = Effect::Mesh(ShardId(n as u16), Message::Batch(batch));
                turn.fx.push(effect);
            }
        }
    }

    /// The next result of an operation that was carried out here.
    pub(crate) fn next_here(&mut self) -> Option<OpReply> {
        self.here.pop_front()
    }

    /// Keeps the memory of a batch that came.
    pub(crate) fn reuse(&mut self, mut batch: Box<Batch>) {
        batch.returned.clear();
        if self.spare.len() < SPARE_BATCHES_MAX && batch.items.capacity() <= SPARE_ITEMS_MAX {
            self.spare.push(batch);
        }
    }
}
