//! InitProducerId (22) with a transactional id, versions 0-6.
//!
//! - 3: the id and epoch that the producer has, to go on under the next epoch (KIP-360). 4:
//!   PRODUCER_FENCED where there was INVALID_PRODUCER_EPOCH. 6 (unstable): two-phase commit
//!   (KIP-939), refused as Kafka refuses it where it is not switched on.

use super::state::{Metadata, TxnState, is_exhausted};
use super::{Done, TransactionCoordinator, TxnOut, TxnSerial, Waiting, settle};
use crate::out::ReplyToken;
use flumen_base::{ErrorCode, Now, ProducerId};
use flumen_wire::messages::InitProducerIdRequest;

/// The request, to outlive its frame.
#[derive(Clone, Debug)]
pub(super) struct Init {
    token: ReplyToken,
    version: i16,
    pub(super) transactional_id: String,
    timeout_ms: i32,
    expected: Option<(ProducerId, i16)>,
}

impl Init {
    pub(super) fn done(&self) -> Done {
        Done::Init {
            token: self.token,
            version: self.version,
        }
    }
}

/// What is to be done about the request.
enum Decision {
    Write(Metadata),
    /// An open transaction is rolled back first.
    Fence,
    /// A new producer id is needed.
    NeedsId,
}

impl TransactionCoordinator {
    /// InitProducerId with a transactional id. Answered with [`super::TxnReply::InitProducerId`].
    pub fn init_producer_id(
        &mut self,
        now: Now,
        token: ReplyToken,
        request: &InitProducerIdRequest<'_>,
        version: i16,
        out: &mut TxnOut,
    ) {
        let (id, epoch) = (request.producer_id, request.producer_epoch);
        let name = request.transactional_id.as_deref().unwrap_or("");
        let init = Init {
            token,
            version,
            transactional_id: name.to_owned(),
            timeout_ms: request.transaction_timeout_ms,
            expected: (id != -1).then_some((id, epoch)),
        };
        let timeout_is_valid = (1..=self.config.max_timeout_ms).contains(&init.timeout_ms);
        let error = if (id == -1) != (epoch == -1) || name.is_empty() {
            ErrorCode::InvalidRequest
        } else if request.enable2_pc {
            ErrorCode::TransactionalIdAuthorizationFailed
        } else if request.keep_prepared_txn {
            ErrorCode::UnsupportedVersion
        } else if !timeout_is_valid {
            ErrorCode::InvalidTransactionTimeout
        } else if super::records::tombstone(name).is_none() {
            ErrorCode::InvalidRequest
        } else {
            return self.init(now, init, out);
        };
        settle::answer(init.done(), None, error, out);
    }

    pub(super) fn init(&mut self, now: Now, init: Init, out: &mut TxnOut) {
        let serial = match self.init_target(now, &init) {
            Ok(Some(serial)) => serial,
            Ok(None) => return self.await_ids(Waiting::Init(init), out),
            Err(error) => return settle::answer(init.done(), None, error, out),
        };
        match self.decide_init(now, serial, &init) {
            Ok(Decision::Write(to)) => self.write(serial, to, init.done(), out),
            Ok(Decision::Fence) => {
                let done = Done::Fenced {
                    token: init.token,
                    version: init.version,
                };
                if !self.fence(now, serial, done, out) {
                    self.await_ids(Waiting::Init(init), out);
                }
            }
            Ok(Decision::NeedsId) => self.await_ids(Waiting::Init(init), out),
            Err(error) => settle::answer(init.done(), None, error, out),
        }
    }

    /// The id, made if it is not there; `None` when there is no producer id for it.
    fn init_target(&mut self, now: Now, init: &Init) -> Result<Option<TxnSerial>, ErrorCode> {
        let partition = self.route_write(&init.transactional_id)?;
        if let Some(serial) = self.find(partition, &init.transactional_id) {
            return Ok(Some(serial));
        }
        if !self.has_room() {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let Some(id) = self.take_id() else {
            return Ok(None);
        };
        let meta = Metadata::new(id, init.timeout_ms, now.wall_ms);
        Ok(Some(self.create(partition, &init.transactional_id, meta)))
    }

    fn decide_init(
        &mut self,
        now: Now,
        serial: TxnSerial,
        init: &Init,
    ) -> Result<Decision, ErrorCode> {
        let Some(txn) = self.txns.get(&serial) else {
            return Err(ErrorCode::NotCoordinator);
        };
        let meta = &txn.meta;
        if txn.is_busy() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        if !init
            .expected
            .is_none_or(|expected| is_its_own(meta, expected))
        {
            return Err(ErrorCode::ProducerFenced);
        }
        if meta.state == TxnState::Ongoing {
            return Ok(Decision::Fence);
        }
        let expected = init.expected.map(|(_, epoch)| epoch);
        let used_up = is_exhausted(meta.producer_epoch)
            && expected.is_none_or(|epoch| epoch == meta.producer_epoch);
        if !used_up {
            let next = meta.next_epoch(init.timeout_ms, expected, now.wall_ms)?;
            return Ok(Decision::Write(next));
        }
        let Some(id) = self.take_id() else {
            return Ok(Decision::NeedsId);
        };
        let txn = self.txns.get(&serial).ok_or(ErrorCode::NotCoordinator)?;
        let is_retriable = init.expected.is_some();
        let next = txn
            .meta
            .rotate(id, init.timeout_ms, is_retriable, now.wall_ms);
        Ok(Decision::Write(next))
    }
}

/// Whether the id is that of the producer who asks: now, or before the epochs were used up (its
/// epoch is checked when the next one is given).
fn is_its_own(meta: &Metadata, (id, epoch): (ProducerId, i16)) -> bool {
    meta.producer_epoch == super::state::NONE
        || id == meta.producer_id
        || (id == meta.previous_producer_id && is_exhausted(epoch))
}
