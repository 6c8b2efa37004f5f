//! Requests of a transaction: of one connection each begins when the one before it has been
//! answered. They are handled on several shards, and clients send the end of a transaction right
//! behind the partitions that they add to it. (Other requests may pass by; those that wait are
//! bounded with all that a connection has in flight.)

use crate::io::ConnId;
use crate::request::Request;
use crate::{Shard, Turn, api};
use flumen_wire::ApiKey;
use std::collections::VecDeque;

/// Such requests of one connection. It is there while one of them is in work.
#[derive(Debug, Default)]
pub(crate) struct InOrder {
    held: VecDeque<Request>,
    /// One is in work.
    busy: bool,
    /// The next are begun further up the stack.
    beginning: bool,
}

/// Whether requests of this API keep their order.
pub(crate) fn keeps_order(key: ApiKey) -> bool {
    matches!(
        key,
        ApiKey::InitProducerId
            | ApiKey::AddPartitionsToTxn
            | ApiKey::AddOffsetsToTxn
            | ApiKey::EndTxn
            | ApiKey::TxnOffsetCommit
    )
}

impl Shard {
    /// Such a request has come: it begins now, or later. Not inlined into what all requests go
    /// through, nor is the next.
    #[cold]
    #[inline(never)]
    pub(crate) fn enter_order(&mut self, turn: &mut Turn<'_>, conn: ConnId, request: Request) {
        let queue = self.in_order.entry(conn).or_default();
        queue.held.push_back(request);
        if !queue.busy {
            self.begin_next(turn, conn);
        }
    }

    /// One has been answered.
    #[cold]
    #[inline(never)]
    pub(crate) fn answered_in_order(&mut self, turn: &mut Turn<'_>, conn: ConnId) {
        if let Some(queue) = self.in_order.get_mut(&conn) {
            queue.busy = false;
            self.begin_next(turn, conn);
        }
    }

    /// Begins what waits, one after the other where they are answered at once.
    fn begin_next(&mut self, turn: &mut Turn<'_>, conn: ConnId) {
        while let Some(queue) = self.in_order.get_mut(&conn) {
            if queue.busy || queue.beginning {
                return;
            }
            let Some(request) = queue.held.pop_front() else {
                self.in_order.remove(&conn);
                return;
            };
            (queue.busy, queue.beginning) = (true, true);
            if let Some(handler) = api::handler(request.reply.api.key) {
                (handler.run)(self, turn, request);
            }
            if let Some(queue) = self.in_order.get_mut(&conn) {
                queue.beginning = false;
            }
        }
    }
}
