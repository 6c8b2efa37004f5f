//! EndTxn (26), versions 0-5, and the rollbacks that the coordinator decides itself.
//!
//! - 2: PRODUCER_FENCED where there was INVALID_PRODUCER_EPOCH. 5: the epoch grows with each
//!   transaction, and the answer says which one is next (KIP-890).
//!
//! What a client of version 5 hears when nothing is open; a retry names the epoch before:
//!
//! | | abort: retry | abort | commit: retry | commit |
//! |--|--|--|--|--|
//! | Empty | fenced | epoch grows | fenced | INVALID_TXN_STATE |
//! | CompleteAbort | done | epoch grows | INVALID_TXN_STATE | INVALID_TXN_STATE |
//! | CompleteCommit | INVALID_TXN_STATE | epoch grows | done | INVALID_TXN_STATE |

use super::state::{Metadata, NONE, TxnState, bumps_epoch, is_exhausted};
use super::{Done, TransactionCoordinator, TxnOut, TxnSerial, Waiting, settle};
use crate::out::ReplyToken;
use flumen_base::{ErrorCode, Now, ProducerId};
use flumen_wire::messages::EndTxnRequest;

/// From here on the epoch grows with each transaction.
const BUMPS_EPOCH_FROM: i16 = 5;

/// The request, to outlive its frame.
#[derive(Clone, Debug)]
pub(super) struct End {
    token: ReplyToken,
    version: i16,
    pub(super) transactional_id: String,
    producer_id: ProducerId,
    producer_epoch: i16,
    commit: bool,
}

impl End {
    pub(super) fn done(&self) -> Done {
        Done::Ended {
            token: self.token,
            version: self.version,
        }
    }

    fn client_version(&self) -> i16 {
        if self.version >= BUMPS_EPOCH_FROM {
            2
        } else {
            0
        }
    }
}

/// What is to be done about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Write it. True: nothing was added to the transaction.
    Write(bool),
    /// That was done before; the producer goes on with the id and epoch it has.
    Done,
}

impl TransactionCoordinator {
    /// EndTxn. Answered with [`super::TxnReply::EndTxn`] when the decision is written; its markers
    /// follow.
    pub fn end_txn(
        &mut self,
        now: Now,
        token: ReplyToken,
        request: &EndTxnRequest<'_>,
        version: i16,
        out: &mut TxnOut,
    ) {
        let end = End {
            token,
            version,
            transactional_id: request.transactional_id.to_string(),
            producer_id: request.producer_id,
            producer_epoch: request.producer_epoch,
            commit: request.committed,
        };
        self.end(now, end, out);
    }

    pub(super) fn end(&mut self, now: Now, end: End, out: &mut TxnOut) {
        let decided = self.known(&end.transactional_id).and_then(|(serial, txn)| {
            if bumps_epoch(end.client_version()) {
                // Looked at first: the producer may have a new id that is still being written.
                if txn.is_busy() {
                    return Err(ErrorCode::ConcurrentTransactions);
                }
                Ok((serial, decide_v2(&txn.meta, &end)?))
            } else {
                Ok((serial, decide_v1(&txn.meta, &end, txn.is_busy())?))
            }
        });
        match decided {
            Err(error) => settle::answer(end.done(), None, error, out),
            Ok((serial, Decision::Done)) => {
                let meta = self.txns.get(&serial).map(|txn| &txn.meta);
                let meta = meta.filter(|_| bumps_epoch(end.client_version()));
                let told = meta.map(|meta| (meta.producer_id, meta.producer_epoch));
                settle::answer(end.done(), told, ErrorCode::None, out);
            }
            Ok((serial, Decision::Write(nothing_added))) => {
                let version = end.client_version();
                let Some(next_id) = self.next_id_for(serial, version) else {
                    return self.await_ids(Waiting::End(end), out);
                };
                let Some(txn) = self.txns.get(&serial) else {
                    return; // it was just found
                };
                let meta = &txn.meta;
                let to = meta.decided(end.commit, version, next_id, nothing_added, now.wall_ms);
                self.write(serial, to, end.done(), out);
            }
        }
    }

    /// The id that takes over where a decision uses up the last epoch, else -1. `None` when one is
    /// needed and there is none.
    fn next_id_for(&mut self, serial: TxnSerial, version: i16) -> Option<ProducerId> {
        let epoch = self.txns.get(&serial)?.meta.producer_epoch;
        match bumps_epoch(version) && is_exhausted(epoch) {
            true => self.take_id(),
            false => Some(-1),
        }
    }

    /// Rolls an ongoing transaction back and takes the epoch of its producer away. False when that
    /// takes a producer id and there is none: nothing was done.
    pub(super) fn fence(
        &mut self,
        now: Now,
        serial: TxnSerial,
        done: Done,
        out: &mut TxnOut,
    ) -> bool {
        let version = self.config.transaction_version;
        let Some(next_id) = self.next_id_for(serial, version) else {
            return false;
        };
        let Some(txn) = self.txns.get_mut(&serial) else {
            return true;
        };
        if !bumps_epoch(version) && !txn.failed_fence {
            // The decision does not change the epoch: it is taken beforehand. It is never told to
            // anybody, so that it may stay taken when the write fails.
            txn.meta.producer_epoch = txn.meta.producer_epoch.saturating_add(1);
            txn.meta.last_producer_epoch = NONE;
            txn.failed_fence = true;
        }
        let version = if bumps_epoch(version) { version } else { 0 };
        let to = txn
            .meta
            .decided(false, version, next_id, false, now.wall_ms);
        self.write(serial, to, done, out);
        true
    }
}

/// Clients whose epoch stays: what is asked for must be open, or done.
fn decide_v1(meta: &Metadata, end: &End, busy: bool) -> Result<Decision, ErrorCode> {
    if meta.producer_id != end.producer_id {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    if meta.producer_epoch != end.producer_epoch {
        return Err(ErrorCode::ProducerFenced);
    }
    if busy {
        return Err(ErrorCode::ConcurrentTransactions);
    }
    match (meta.state, end.commit) {
        (TxnState::Ongoing, _) => Ok(Decision::Write(false)),
        (TxnState::CompleteCommit, true) | (TxnState::CompleteAbort, false) => Ok(Decision::Done),
        _ => Err(ErrorCode::InvalidTxnState),
    }
}

/// Clients whose epoch grows with each transaction: see the table of the module.
fn decide_v2(meta: &Metadata, end: &End) -> Result<Decision, ErrorCode> {
    let epoch = end.producer_epoch;
    let over = meta.previous_producer_id == end.producer_id
        && epoch == i16::MAX - 1
        && meta.producer_epoch == 0;
    let retry = over || i32::from(meta.producer_epoch) == i32::from(epoch) + 1;
    if meta.producer_id != end.producer_id && !over {
        return Err(ErrorCode::InvalidProducerIdMapping);
    }
    let complete = matches!(
        meta.state,
        TxnState::CompleteCommit | TxnState::CompleteAbort
    );
    if epoch != meta.producer_epoch && !(retry && complete) {
        return Err(ErrorCode::ProducerFenced);
    }
    let same = (meta.state == TxnState::CompleteCommit) == end.commit;
    match meta.state {
        TxnState::Ongoing => Ok(Decision::Write(false)),
        _ if complete && retry && same => Ok(Decision::Done),
        _ if complete && retry => Err(ErrorCode::InvalidTxnState),
        _ if end.commit => Err(ErrorCode::InvalidTxnState),
        _ => Ok(Decision::Write(true)),
    }
}
