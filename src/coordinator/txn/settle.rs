//! How appends end, and what follows from a decision: its markers, and its completion.

use super::state::{Metadata, bumps_epoch};
use super::{
    Done, Markers, MarkersToken, Pending, TransactionCoordinator, TxnOut, TxnReply, TxnSerial,
};
use crate::offsets::offset_append_error;
use crate::out::WriteToken;
use flumen_base::{ErrorCode, Now, PartitionIndex, ProducerId};
use flumen_wire::messages::{EndTxnResponse, InitProducerIdResponse};

/// Between two tries to write a marker or a completion, milliseconds.
const RETRY_MS: i64 = 50;
/// Clients know PRODUCER_FENCED from these versions on.
const INIT_TELLS_FENCED_FROM: i16 = 4;
const END_TELLS_FENCED_FROM: i16 = 2;

impl TransactionCoordinator {
    /// An append is written (and replicated as far as the topic asks for).
    pub fn commit(&mut self, now: Now, token: WriteToken, out: &mut TxnOut) {
        let Some(write) = self.writes.remove(&token.0) else {
            return; // of a partition that was given up
        };
        let mut told = None;
        for serial in write.txns {
            let Some(txn) = self.txns.get_mut(&serial) else {
                continue;
            };
            match txn.pending.take() {
                None => {}
                Some(Pending::Tombstone) => self.remove(serial),
                Some(Pending::Change(to)) => {
                    if to.state.is_prepared() {
                        txn.failed_fence = false;
                    }
                    told = Some(after(&to));
                    self.set_meta(serial, *to);
                }
            }
            self.send_markers(now, serial, out);
        }
        answer(write.done, told, ErrorCode::None, out);
    }

    /// An append did not happen, and never will: the ids stay as they were, and who waited hears
    /// the error that Kafka makes of this one.
    pub fn append_failed(
        &mut self,
        now: Now,
        token: WriteToken,
        error: ErrorCode,
        out: &mut TxnOut,
    ) {
        let Some(write) = self.writes.remove(&token.0) else {
            return;
        };
        for serial in write.txns {
            let Some(txn) = self.txns.get_mut(&serial) else {
                continue;
            };
            txn.pending = None;
            if !txn.persisted {
                self.remove(serial);
            } else if txn.meta.state.is_prepared() {
                self.retry_later(now, serial);
            }
        }
        let error = match offset_append_error(error) {
            ErrorCode::None => ErrorCode::UnknownServerError,
            error => error,
        };
        answer(write.done, None, error, out);
    }

    /// What a decision still needs: its markers, or its completion when all are written.
    pub(super) fn send_markers(&mut self, now: Now, serial: TxnSerial, out: &mut TxnOut) {
        let Some(txn) = self.txns.get(&serial) else {
            return;
        };
        let meta = &txn.meta;
        if !meta.state.is_prepared() || txn.pending.is_some() {
            return;
        }
        if txn.unmarked.is_empty() {
            let to = meta.completed(now.wall_ms);
            self.write(serial, to, Done::Nobody, out);
            return;
        }
        let state = self.partitions.get(&txn.partition);
        out.markers.push(Markers {
            token: MarkersToken(serial),
            producer_id: meta.producer_id,
            producer_epoch: meta.producer_epoch,
            coordinator_epoch: state.map_or(-1, |p| p.epoch),
            commit: meta.state == super::TxnState::PrepareCommit,
            transaction_version: meta.client_version,
            partitions: txn.unmarked.iter().cloned().collect(),
        });
    }

    /// A marker was written, or its partition is gone (NONE), or it failed. A partition that knows
    /// a later epoch has been told by somebody else.
    pub fn marker_done(
        &mut self,
        now: Now,
        token: MarkersToken,
        (topic, index): (&str, PartitionIndex),
        error: ErrorCode,
        out: &mut TxnOut,
    ) {
        let serial = token.0;
        let Some(txn) = self.txns.get_mut(&serial) else {
            return;
        };
        let written = matches!(
            error,
            ErrorCode::None
                | ErrorCode::UnsupportedForMessageFormat
                | ErrorCode::UnsupportedVersion
                | ErrorCode::InvalidProducerEpoch
                | ErrorCode::TransactionCoordinatorFenced
        );
        if !written {
            return self.retry_later(now, serial);
        }
        txn.unmarked.remove(&(topic.into(), index));
        if txn.unmarked.is_empty() {
            self.send_markers(now, serial, out);
        }
    }

    fn retry_later(&mut self, now: Now, serial: TxnSerial) {
        self.retries.insert(serial);
        let at = now.mono.plus_ms(RETRY_MS);
        self.retry_at = Some(self.retry_at.map_or(at, |due| due.min(at)));
    }
}

/// The producer's id and epoch once this is done: after a decision those of its completion.
fn after(meta: &Metadata) -> (ProducerId, i16) {
    match meta.state.is_prepared() && bumps_epoch(meta.client_version) {
        true => {
            let done = meta.completed(0);
            (done.producer_id, done.producer_epoch)
        }
        false => (meta.producer_id, meta.producer_epoch),
    }
}

/// Answers a request: with the producer's id and epoch where it asks for them and all is well.
pub(super) fn answer(
    done: Done,
    told: Option<(ProducerId, i16)>,
    error: ErrorCode,
    out: &mut TxnOut,
) {
    let none = (-1, -1);
    let (token, reply) = match done {
        Done::Nobody => return,
        Done::Init { token, version } => {
            let told = told.filter(|_| error.is_none());
            (token, init_reply(error, told.unwrap_or(none), version))
        }
        Done::Fenced { token, version } => {
            let error = match error {
                ErrorCode::None => ErrorCode::ConcurrentTransactions,
                error => error,
            };
            (token, init_reply(error, none, version))
        }
        Done::Added(token) => (token, TxnReply::Added(error)),
        Done::Ended { token, version } => {
            let bumps = version >= 5;
            let told = told.filter(|_| bumps && error.is_none());
            let (producer_id, producer_epoch) = told.unwrap_or(none);
            let response = EndTxnResponse {
                error_code: told_as(error, version, END_TELLS_FENCED_FROM),
                producer_id,
                producer_epoch,
                ..Default::default()
            };
            (token, TxnReply::EndTxn(response))
        }
    };
    out.replies.push((token, reply));
}

fn init_reply(error: ErrorCode, (id, epoch): (ProducerId, i16), version: i16) -> TxnReply {
    TxnReply::InitProducerId(InitProducerIdResponse {
        error_code: told_as(error, version, INIT_TELLS_FENCED_FROM),
        producer_id: id,
        producer_epoch: epoch,
        ..Default::default()
    })
}

/// An error as a client of this version understands it.
fn told_as(error: ErrorCode, version: i16, fenced_from: i16) -> i16 {
    match error {
        ErrorCode::ProducerFenced if version < fenced_from => ErrorCode::InvalidProducerEpoch,
        error => error,
    }
    .code()
}
