//! Verification of transactional appends (KIP-890): no transactional batch gets into the log that
//! the transaction's coordinator does not know of.
//!
//! ```text
//! start_verification -> None: the transaction is open here, append at once
//!                    -> Some(guard): ask the coordinator, then append with the guard
//! ```
//! A guard is good for one transaction: the first batch that is appended uses it up, and so does a
//! marker that overtakes the answer of the coordinator.

use crate::batch::BatchHeader;
use crate::producer_state::ProducerEntry;
use flumen_base::{IdMap, ProducerId};
use std::num::NonZeroU64;

/// Proof that the coordinator was asked about the transaction that begins with a batch. Unique in
/// the life of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationGuard(NonZeroU64);

impl VerificationGuard {
    /// From [`VerificationGuard::get`]; `None` for 0, which never is one.
    pub fn from_u64(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// As a number, to be carried through layers that don't know of logs.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// What comes along with a transactional batch or a marker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxnContext {
    /// From [`crate::Log::start_verification`], once the coordinator has agreed.
    pub guard: Option<VerificationGuard>,
    /// `transaction.version` of a marker: from 2 on each transaction has an epoch of its own.
    pub version: i16,
}

/// A verification that was begun and not used up.
#[derive(Clone, Copy, Debug)]
struct Verifying {
    guard: VerificationGuard,
    since_ms: i64,
    /// The producer bumps its epoch with each transaction (transaction version 2).
    epoch_bump: bool,
    lowest_sequence: i32,
    epoch: i16,
}

/// All verifications of one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verifications {
    map: IdMap<ProducerId, Verifying>,
    last: u64,
}

impl Verifications {
    /// Begins one, or joins the one that is there.
    pub(crate) fn start(
        &mut self,
        now_ms: i64,
        id: ProducerId,
        (epoch, sequence): (i16, i32),
        epoch_bump: bool,
    ) -> VerificationGuard {
        let last = &mut self.last;
        let known = self.map.entry(id).or_insert_with(|| {
            let number = NonZeroU64::MIN.saturating_add(*last);
            *last += 1;
            Verifying {
                guard: VerificationGuard(number),
                since_ms: now_ms,
                epoch_bump,
                lowest_sequence: sequence,
                epoch,
            }
        });
        if epoch == known.epoch {
            known.lowest_sequence = known.lowest_sequence.min(sequence);
        } else if epoch > known.epoch {
            (known.epoch, known.lowest_sequence) = (epoch, sequence);
        }
        known.guard
    }

    /// Whether `guard` is the one of this producer's verification.
    pub(crate) fn holds(&self, id: ProducerId, guard: Option<VerificationGuard>) -> bool {
        let known = self.map.get(&id).map(|v| v.guard);
        known.is_some() && known == guard
    }

    /// The lowest sequence seen while verifying, if a first sequence contradicts it: batches behind
    /// one that has yet to be verified must not overtake it.
    pub(crate) fn contradicts(
        &self,
        id: ProducerId,
        first_sequence: i32,
        entry: Option<&ProducerEntry>,
    ) -> Option<i32> {
        let known = self.map.get(&id)?;
        let nothing_known = entry.is_none_or(|e| e.batches.is_empty());
        let out_of_order = (known.epoch_bump && first_sequence != 0 && nothing_known)
            || first_sequence > known.lowest_sequence;
        out_of_order.then_some(known.lowest_sequence)
    }

    /// A transactional batch was staged: the guard is used up, but by a marker of the transaction
    /// before, whose epoch is where the next one begins.
    pub(crate) fn staged(&mut self, batch: &BatchHeader<'_>) {
        if self.map.is_empty() || !batch.is_transactional() {
            return;
        }
        let next_began = self.map.get(&batch.producer_id()).is_some_and(|v| {
            v.epoch_bump && batch.is_control() && batch.producer_epoch() == v.epoch
        });
        if !next_began {
            self.map.remove(&batch.producer_id());
        }
    }

    /// Forgets those that nobody went on with.
    pub(crate) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.map
            .retain(|_, v| now_ms.saturating_sub(v.since_ms) < expiration_ms);
    }
}
