//! Changes of share partitions on their way to the stored state: one write of a share partition at
//! a time, those that come up meanwhile go together with the next.

use crate::Shard;
use crate::ops::{OpFrom, OpResult};
use crate::share_states::{ShareStateAnswer, ShareStateDeed, ShareStateFor, ShareStateOp};
use crate::shares::stored_error;
use crate::turn::Turn;
use flumen_base::ErrorCode;
use flumen_coordinator::share::{Persist, RecordState, SharePartition, ShareWrite};
use flumen_coordinator::share::{Stored, Ticket};
use flumen_log::planted;
use std::collections::BTreeMap;

/// Changes of one share partition.
#[derive(Default)]
pub(super) struct Persisting {
    /// To be written.
    next: Vec<Persist>,
    /// What the write on its way carries, if there is one.
    tickets: Option<Vec<Ticket>>,
    /// Who waits for which change.
    waiting: BTreeMap<Ticket, OpFrom>,
}

impl Persisting {
    /// Whether all is stored.
    pub(super) fn is_idle(&self) -> bool {
        self.next.is_empty() && self.tickets.is_none()
    }

    /// Those who wait.
    pub(super) fn into_waiting(self) -> impl Iterator<Item = OpFrom> {
        self.waiting.into_values()
    }
}

/// The share partition of a stored state.
///
/// # Errors
/// UNKNOWN_SERVER_ERROR and those of [`SharePartition::load`]: the state does not hold together.
pub(super) fn load(answer: &ShareStateAnswer) -> Result<SharePartition, ErrorCode> {
    let batches: Option<Vec<_>> = answer.batches.iter().map(Stored::known).collect();
    let mut batches = batches.ok_or(ErrorCode::UnknownServerError)?;
    for batch in batches.iter_mut().filter(|_| planted!(ForgetReleased)) {
        if batch.state == RecordState::Available {
            batch.state = RecordState::Archived;
        }
    }
    SharePartition::load(answer.start_offset, answer.state_epoch, &batches)
}

impl Shard {
    /// Has a change stored; `from` hears of it.
    pub(super) fn share_persist(
        &mut self,
        turn: &mut Turn<'_>,
        n: u64,
        persist: Persist,
        from: Option<OpFrom>,
    ) {
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        let persisting = &mut shared.persisting;
        if let (Some(ticket), Some(from)) = (persist.ticket, from) {
            if planted!(EarlyShareAck) {
                let done = OpResult::ShareAcknowledged(ErrorCode::None);
                self.outbox.result(from, done);
            } else {
                persisting.waiting.insert(ticket, from);
            }
        }
        persisting.next.push(persist);
        self.write_share(turn, n);
    }

    /// Writes what has come up, unless a write is on its way.
    fn write_share(&mut self, turn: &mut Turn<'_>, n: u64) {
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        if shared.persisting.tickets.is_some() {
            return;
        }
        let all = std::mem::take(&mut shared.persisting.next);
        let (Some(last), Some(partition)) = (all.last(), shared.ready()) else {
            return;
        };
        let state_epoch = partition.state_epoch();
        let write = ShareWrite {
            leader_epoch: self
                .partitions
                .get(&shared.tp)
                .map_or(-1, |p| p.leader_epoch),
            state_epoch,
            start_offset: last.start_offset,
            delivery_complete_count: last.delivery_complete_count,
            batches: all
                .iter()
                .flat_map(|p| &p.batches)
                .copied()
                .map(Stored::from)
                .collect(),
        };
        let op = ShareStateOp {
            key: shared.key(),
            deed: ShareStateDeed::Write(write),
            who: ShareStateFor::Partition,
        };
        let tickets = all.iter().filter_map(|p| p.ticket).collect();
        shared.persisting.tickets = Some(tickets);
        self.send_share_state(turn, (n, 0), op);
    }

    /// A write has ended: what it carried holds, or is taken back.
    pub(super) fn share_persisted(
        &mut self,
        turn: &mut Turn<'_>,
        n: u64,
        error: Option<ErrorCode>,
    ) {
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        let Some(tickets) = shared.persisting.tickets.take() else {
            return;
        };
        let told = error.map_or(ErrorCode::None, stored_error);
        for ticket in tickets {
            if let Some(partition) = shared.ready() {
                partition.settle(ticket, error.is_none());
            }
            if let Some(from) = shared.persisting.waiting.remove(&ticket) {
                self.outbox.result(from, OpResult::ShareAcknowledged(told));
            }
        }
        // Somebody has begun the state anew, or it is not there any more: this one is of the past.
        let of_the_past = matches!(
            told,
            ErrorCode::NotLeaderOrFollower
                | ErrorCode::GroupIdNotFound
                | ErrorCode::UnknownTopicOrPartition
        );
        if of_the_past {
            return self.drop_share(n, told);
        }
        self.write_share(turn, n);
        self.arm_share_locks(n);
        // What was released, or room for more where all that may be in flight was.
        self.tell_share_watchers(n);
        self.leave_share(n);
    }
}
