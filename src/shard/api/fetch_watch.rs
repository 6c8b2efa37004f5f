//! What a fetch arms at the owners of its partitions, and what sessions of fetches do: their
//! watches outlive a fetch.

use super::fetch::{Fetch, Phase, Want};
use crate::ops::{OF_SESSIONS, Op, OpFrom, OpRequest, PartitionOp, WatchOp};
use crate::session::Mode;
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, TopicPartition};

/// The gather number of a session's watches.
fn session_number(session: i32) -> u64 {
    OF_SESSIONS | u64::from(session.unsigned_abs())
}

impl Shard {
    /// Has the owners tell this fetch when its partitions grow.
    pub(super) fn watch_wants(&mut self, id: u64, had: u64, fetch: &mut Fetch) {
        let once = had.saturating_add(1) >= fetch.min_bytes;
        for (index, want) in (0..).zip(&mut fetch.wants) {
            let (Ok(tp), Some(result), false) = (want.tp, &want.result, want.watched) else {
                continue;
            };
            want.watched = true;
            let op = WatchOp {
                above: result.high_watermark,
                log_start: None,
                once,
            };
            self.begin_watch(tp, (id, index), op);
        }
    }

    /// Has the owner of a partition that was read tell the session of news.
    pub(super) fn watch_for_session(&mut self, session: i32, want: &Want) {
        let (Ok(tp), Some(result)) = (want.tp, &want.result) else {
            return;
        };
        if self.sessions.is_unwatched(session, want.slot) {
            self.sessions.watched(session, want.slot, tp);
            let op = WatchOp {
                above: result.high_watermark,
                log_start: Some(result.log_start),
                once: true,
            };
            self.begin_watch(tp, (session_number(session), want.slot), op);
        }
    }

    fn begin_watch(&mut self, tp: TopicPartition, (gather, index): (u64, u32), op: WatchOp) {
        let owner = self.owner(tp);
        if owner == self.id {
            let from = OpFrom {
                shard: owner,
                gather,
                index,
            };
            self.watch(from, tp, op);
        } else {
            let op = Op::Partition(tp, PartitionOp::Watch(op));
            self.outbox.op(owner, OpRequest { gather, index, op });
        }
    }

    fn end_watch(&mut self, tp: TopicPartition, gather: u64, index: u32) {
        let owner = self.owner(tp);
        if owner == self.id {
            let from = OpFrom {
                shard: owner,
                gather,
                index,
            };
            self.partitions.unwatch(&from);
        } else {
            let op = Op::Unwatch;
            self.outbox.op(owner, OpRequest { gather, index, op });
        }
    }

    /// Takes the watches of a fetch back.
    pub(super) fn end_watches(&mut self, id: u64, fetch: &mut Fetch) {
        for (index, want) in (0..).zip(&mut fetch.wants) {
            if let (true, Ok(tp)) = (std::mem::take(&mut want.watched), want.tp) {
                self.end_watch(tp, id, index);
            }
        }
    }

    /// Ends what sessions that are gone, or changed, have left.
    pub(super) fn tidy_sessions(&mut self, turn: &mut Turn<'_>) {
        if self.sessions.left.is_empty() {
            return;
        }
        let mut left = std::mem::take(&mut self.sessions.left);
        for (session, slot, tp) in left.watches.drain(..) {
            self.end_watch(tp, session_number(session), slot);
        }
        for id in left.fetches.drain(..) {
            // One that waits goes on until its time is over: Kafka handles the requests of a
            // connection one after the other, and a client that closes its session behind a fetch
            // expects the end of that fetch first.
            let waits = |f: &mut Fetch| matches!(f.phase, Phase::Waiting { .. });
            if self.fetches.get_mut(id).is_some_and(waits) {
                continue;
            }
            if let Some(mut fetch) = self.fetches.lift(id) {
                self.end_fetch(id, &mut fetch);
                let error = ErrorCode::InvalidFetchSessionEpoch;
                self.answer_session_error(turn, fetch.reply, error);
            }
        }
        self.sessions.left = left;
    }

    /// There is news of a partition of a session: its fetch, if one waits, reads it.
    pub(super) fn session_moved(&mut self, turn: &mut Turn<'_>, session: i32, slot: u32) {
        let Some(id) = self.sessions.moved(session, slot) else {
            return;
        };
        let waiting = |f: &mut Fetch| matches!(f.phase, Phase::Waiting { .. });
        if self.fetches.get_mut(id).is_some_and(waiting)
            && let Some(mut fetch) = self.fetches.lift(id)
        {
            self.take_due(session, &mut fetch);
            self.read_wants(turn, id, fetch);
        }
    }

    /// Its connection is gone.
    pub(crate) fn cancel_fetch(&mut self, id: u64) {
        let Some(mut fetch) = self.fetches.lift(id) else {
            return;
        };
        self.end_fetch(id, &mut fetch);
        if let Mode::Incremental(session) = fetch.mode {
            // The client may come back with another connection: nothing of it was answered.
            for want in fetch.wants.iter().rev() {
                self.sessions.was_read(session, want.slot);
                self.sessions.due_first(session, want.slot);
            }
            self.sessions.fetch_ended(session);
        }
    }
}
