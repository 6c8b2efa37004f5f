//! Produce, part: transactional batches. A partition appends them only with the consent of the
//! coordinator of their transaction, unless that is open there already (KIP-890).
//!
//! ```text
//! append -> the transaction is open in the partition -> appended
//!        -> Verify(guard) -> ask the coordinator, for all such partitions at once
//!             v12 and later: it adds them to the transaction; before: it says if they are in it
//!           agreed  -> append with the guard
//!           the transaction before is still being ended (v12) -> again after a pause, some times
//!           refused -> the answer
//! ```

use super::produce::{ProduceGather, Slot};
use crate::io::ConnId;
use crate::ops::{
    AppendDetails, AppendResult, Gathering, Op, OpResult, TxnOp, TxnProduce, TxnVerified,
};
use crate::request::{Reply, ReplyTo};
use crate::timers::TimerKey;
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::{ErrorCode, Mono, PartitionIndex};
use flumen_coordinator::txn::TxnPartitions;
use flumen_log::BatchHeader;
use flumen_wire::hot::produce::ProducePartition;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Partitions add themselves to a transaction from here on.
const ADDS_FROM: i16 = 12;
/// Clients know TRANSACTION_ABORTABLE from here on.
const ABORTABLE_FROM: i16 = 11;

/// What a transactional request says of its transaction.
pub(crate) struct TxnRequest {
    id: String,
    producer_id: i64,
    producer_epoch: i16,
    /// Partitions add themselves.
    adds: bool,
    began: Mono,
    /// Other produce requests of its connection wait for it.
    holds: bool,
}

/// The transactional produce requests of one connection. One that is being verified holds back
/// those that came after it: their batches would overtake its own.
#[derive(Default)]
pub(crate) struct Line {
    /// Whose appends are on their way.
    in_flight: u32,
    /// One of them waits for the coordinator.
    verifying: bool,
    /// Those that wait, in the order in which they came.
    held: BTreeMap<u64, (Reply, ProduceGather)>,
}

impl TxnRequest {
    /// `None` where no batch is transactional.
    ///
    /// # Errors
    /// Batches of a transaction without a name, or of several producers.
    pub(super) fn of(
        began: Mono,
        version: i16,
        id: Option<&str>,
        slots: &mut [Slot],
    ) -> Result<Option<Box<Self>>, ErrorCode> {
        if slots.iter().all(|slot| slot.txn.is_none()) {
            return Ok(None);
        }
        // Nobody may write as a transactional producer without a name.
        if id.is_none() {
            return Err(ErrorCode::TransactionalIdAuthorizationFailed);
        }
        // A batch without a producer is of no transaction.
        for slot in slots.iter_mut() {
            slot.txn.take_if(|txn| txn.producer_id < 0);
        }
        let mut txns = slots.iter().filter_map(|slot| slot.txn.as_deref());
        let (Some(first), Some(id)) = (txns.next(), id) else {
            return Ok(None);
        };
        let (producer_id, producer_epoch) = (first.producer_id, first.producer_epoch);
        let same =
            |t: &TxnProduce| (t.producer_id, t.producer_epoch) == (producer_id, producer_epoch);
        if !txns.all(same) {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        Ok(Some(Box::new(Self {
            id: id.to_owned(),
            producer_id,
            producer_epoch,
            adds: version >= ADDS_FROM,
            began,
            holds: false,
        })))
    }
}

/// What is known of a batch that has the transactional bit.
pub(super) fn transactional_batch(
    part: &ProducePartition<'_>,
    frame: &Bytes,
    version: i16,
) -> Option<Box<TxnProduce>> {
    let records = part.records.clone().and_then(|range| frame.get(range))?;
    let header = BatchHeader::new(records)?;
    if !header.is_transactional() {
        return None;
    }
    Some(Box::new(TxnProduce {
        producer_id: header.producer_id(),
        producer_epoch: header.producer_epoch(),
        sequence: header.base_sequence(),
        bumps_epoch: version >= ADDS_FROM,
        guard: None,
    }))
}

impl ProduceGather {
    /// Asks the coordinator of the transaction about all partitions that need it.
    fn verify(self, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let Some(txn) = &self.txn else {
            return self.send(shard, turn, reply); // it has nothing to verify
        };
        let mut partitions: BTreeMap<Arc<str>, std::collections::BTreeSet<PartitionIndex>> =
            BTreeMap::new();
        for slot in self.slots.iter().filter(|slot| slot.unverified) {
            if let Some(topic) = shard.image.topic_by_id(&slot.tp.topic_id) {
                let indexes = partitions.entry(topic.name.clone()).or_default();
                indexes.insert(slot.index);
            }
        }
        let adds = txn.adds;
        let request = Box::new(TxnPartitions {
            transactional_id: txn.id.clone(),
            producer_id: txn.producer_id,
            producer_epoch: txn.producer_epoch,
            partitions,
            client_version: if adds { 2 } else { 0 },
        });
        let owner = shard.txn_coordinator_of(&txn.id);
        let mut verified = Box::new(Verified {
            produce: self,
            adds,
            answer: Err(owner.err().unwrap_or(ErrorCode::CoordinatorNotAvailable)),
        });
        match owner {
            Ok(owner) => {
                verified.answer = Err(ErrorCode::UnknownServerError); // until its own comes
                let op = match adds {
                    true => TxnOp::Add(request),
                    false => TxnOp::Verify(request),
                };
                shard.gather(turn, reply, verified, vec![(owner, Op::Txn(op))]);
            }
            Err(_) => verified.finish(shard, turn, reply),
        }
    }
}

impl ProduceGather {
    /// What is unverified is to be appended from the start: its guard may be used up.
    fn begin_again(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.unverified) {
            (slot.unverified, slot.todo) = (false, true);
            if let Some(txn) = &mut slot.txn {
                txn.guard = None;
            }
        }
    }

    /// Its appends have ended: it is answered, or waits for its turn to be verified.
    pub(super) fn appended(mut self, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let unverified = self.slots.iter().any(|slot| slot.unverified);
        let holds = self.txn.as_ref().is_some_and(|txn| txn.holds);
        let ReplyTo::Conn(conn, slot) = reply.to else {
            return self.answer(shard, turn, reply);
        };
        let Some(line) = shard.lines.get_mut(&conn) else {
            return self.answer(shard, turn, reply); // the connection is gone
        };
        line.in_flight = line.in_flight.saturating_sub(1);
        match (unverified, holds) {
            (true, true) => self.verify(shard, turn, reply),
            (true, false) => {
                line.held.insert(slot, (reply, self));
                shard.advance(turn, conn);
            }
            (false, _) => {
                line.verifying &= !holds;
                if let Some(txn) = &mut self.txn {
                    txn.holds = false;
                }
                self.answer(shard, turn, reply);
                shard.advance(turn, conn);
            }
        }
    }
}

/// Waits for the answer of the coordinator.
struct Verified {
    produce: ProduceGather,
    adds: bool,
    /// For all, or by partition.
    answer: Result<Option<TxnVerified>, ErrorCode>,
}

impl Verified {
    fn error_of(&self, topic: &str, index: PartitionIndex) -> ErrorCode {
        match &self.answer {
            Err(error) => *error,
            Ok(None) => ErrorCode::None,
            Ok(Some(each)) => {
                let found = each.iter().find(|(t, p, _)| **t == *topic && *p == index);
                found.map_or(ErrorCode::TransactionAbortable, |(_, _, error)| *error)
            }
        }
    }
}

impl Gathering for Verified {
    fn take(&mut self, _index: u32, result: OpResult) {
        match result {
            OpResult::TxnAdded(ErrorCode::None) => self.answer = Ok(None),
            OpResult::TxnAdded(error) => self.answer = Err(error),
            OpResult::TxnVerified(result) => self.answer = result.map(Some),
            _ => {}
        }
    }

    fn finish(mut self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let began = self.produce.txn.as_ref().map_or(Mono(0), |txn| txn.began);
        let settings = &shard.broker.transactions;
        let pause_ms = i64::from(settings.add_partitions_retry_backoff_ms);
        let tries_ms = i64::from(settings.add_partitions_retry_backoff_max_ms);
        let late = turn.now.mono >= began.plus_ms(tries_ms);
        let wait = self.answer == Err(ErrorCode::ConcurrentTransactions) && self.adds && !late;
        if wait {
            self.produce.begin_again();
            let n = shard.next_id();
            shard.unverified.insert(n, (reply, self.produce));
            let at = turn.now.mono.plus_ms(pause_ms);
            shard.timers.arm(at, TimerKey::Verify(n));
            return;
        }
        let mut slots = std::mem::take(&mut self.produce.slots);
        for slot in slots.iter_mut().filter(|slot| slot.unverified) {
            slot.unverified = false;
            let topic = shard.image.topic_by_id(&slot.tp.topic_id);
            let name = topic.map_or("", |topic| &*topic.name);
            match self.error_of(name, slot.index) {
                ErrorCode::None => slot.todo = true,
                error => slot.result = refused(error, reply.version),
            }
        }
        self.produce.slots = slots;
        if let Some(txn) = &mut self.produce.txn {
            txn.holds = false;
        }
        if let Some(line) = shard.line_of(&reply) {
            line.verifying = false;
            line.in_flight += 1;
            // Their guards are used up by what is appended now.
            line.held.values_mut().for_each(|(_, p)| p.begin_again());
        }
        self.produce.send(shard, turn, reply);
    }
}

impl Shard {
    fn line_of(&mut self, reply: &Reply) -> Option<&mut Line> {
        match reply.to {
            ReplyTo::Conn(conn, _) => self.lines.get_mut(&conn),
            ReplyTo::Shard(..) => None,
        }
    }

    /// A produce request was read: it is appended, unless it has to wait behind another one.
    pub(super) fn enter_line(&mut self, turn: &mut Turn<'_>, reply: Reply, produce: ProduceGather) {
        if produce.txn.is_some()
            && let ReplyTo::Conn(conn, slot) = reply.to
        {
            let line = self.lines.entry(conn).or_default();
            if line.verifying || !line.held.is_empty() {
                line.held.insert(slot, (reply, produce));
                return;
            }
            line.in_flight += 1;
        }
        produce.send(self, turn, reply);
    }

    /// What waits on a connection goes on, once nothing is in flight that it could overtake.
    fn advance(&mut self, turn: &mut Turn<'_>, conn: ConnId) {
        let idle = self
            .lines
            .get(&conn)
            .is_some_and(|line| line.in_flight == 0);
        while idle && let Some(line) = self.lines.get_mut(&conn) {
            let Some(front) = line.held.first_entry().filter(|_| !line.verifying) else {
                if !line.verifying && line.in_flight == 0 {
                    self.lines.remove(&conn);
                }
                return;
            };
            let unverified = front.get().1.slots.iter().any(|slot| slot.unverified);
            if unverified && line.in_flight > 0 {
                return;
            }
            let (reply, mut produce) = front.remove();
            if !unverified {
                line.in_flight += 1;
                produce.send(self, turn, reply);
                continue;
            }
            line.verifying = true;
            if let Some(txn) = &mut produce.txn {
                txn.holds = true;
            }
            return produce.verify(self, turn, reply);
        }
    }

    /// The pause before another try is over.
    pub(crate) fn verify_again(&mut self, turn: &mut Turn<'_>, n: u64) {
        if let Some((reply, produce)) = self.unverified.remove(&n) {
            if let Some(line) = self.line_of(&reply) {
                line.in_flight += 1;
            }
            produce.send(self, turn, reply);
        }
    }
}

/// What a producer of this version hears when the coordinator does not agree.
fn refused(error: ErrorCode, version: i16) -> AppendResult {
    let error = match error {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if version < ABORTABLE_FROM => ErrorCode::InvalidTxnState,
        error => error,
    };
    let retriable = matches!(
        error,
        ErrorCode::NetworkException
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::NotCoordinator
    );
    let (error, message) = match error {
        ErrorCode::InvalidTxnState => {
            let message = "Partition was not added to the transaction".to_owned();
            (error, Some(message))
        }
        // Old producers may not try again on the error itself.
        _ if retriable || (error == ErrorCode::ConcurrentTransactions && version < ADDS_FROM) => {
            let message = format!(
                "Unable to verify the partition has been added to the transaction. Underlying \
                 error: {}",
                kafka_name(error)
            );
            (ErrorCode::NotEnoughReplicas, Some(message))
        }
        error => (error, None),
    };
    AppendResult {
        details: message.map(|message| {
            Box::new(AppendDetails {
                record_errors: Vec::new(),
                message: Some(message),
            })
        }),
        ..AppendResult::refused(error)
    }
}

/// The name of a code as Kafka writes it.
fn kafka_name(error: ErrorCode) -> String {
    let name = format!("{error:?}");
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_as_producers_of_each_version_know_them() {
        let told = |error, version| refused(error, version).error;
        let abortable = ErrorCode::TransactionAbortable;
        assert_eq!(told(abortable, 10), ErrorCode::InvalidTxnState);
        assert_eq!(told(abortable, 11), abortable);
        let concurrent = ErrorCode::ConcurrentTransactions;
        assert_eq!(told(concurrent, 11), ErrorCode::NotEnoughReplicas);
        assert_eq!(told(concurrent, 12), concurrent);
        assert_eq!(
            told(ErrorCode::ProducerFenced, 13),
            ErrorCode::InvalidProducerEpoch
        );
        let result = refused(ErrorCode::NotCoordinator, 12);
        let message = result.details.unwrap().message.unwrap();
        assert!(message.ends_with("error: NOT_COORDINATOR"), "{message}");
    }
}
