//! Partitions of transactions: AddPartitionsToTxn (24), versions 0-5, and AddOffsetsToTxn (25),
//! versions 0-4, add them; transactions of version 2 add them with the first record.

use super::state::TxnState;
use super::{Done, TransactionCoordinator, TxnOut, TxnPartitions, TxnReply, TxnSerial};
use crate::out::ReplyToken;
use flumen_base::{ErrorCode, Now, PartitionIndex};
use std::sync::Arc;

impl TransactionCoordinator {
    /// Adds partitions to a transaction, all or none; the first begins it. Answered with
    /// [`TxnReply::Added`] when it is written.
    pub fn add_partitions(
        &mut self,
        now: Now,
        token: ReplyToken,
        request: &TxnPartitions,
        out: &mut TxnOut,
    ) {
        match self.decide_add(request) {
            Ok(Some(serial)) => {
                let Some(txn) = self.txns.get(&serial) else {
                    return; // it was just found
                };
                let version = request.client_version;
                let meta = &txn.meta;
                let next = meta.with_partitions(&request.partitions, version, now.wall_ms);
                self.write(serial, next, Done::Added(token), out);
            }
            Ok(None) => out.replies.push((token, TxnReply::Added(ErrorCode::None))),
            Err(error) => out.replies.push((token, TxnReply::Added(error))),
        }
    }

    /// `None`: all are in it.
    fn decide_add(&self, request: &TxnPartitions) -> Result<Option<TxnSerial>, ErrorCode> {
        let (serial, txn) = self.known(&request.transactional_id)?;
        let meta = &txn.meta;
        // Looked at first: the producer may have a new id that is still being written.
        if txn.pending.is_some() || meta.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        if meta.producer_id != request.producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if meta.producer_epoch != request.producer_epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        let known = meta.state == TxnState::Ongoing && meta.has_all(&request.partitions);
        Ok((!known).then_some(serial))
    }

    /// Whether partitions are in a transaction: for each NONE or TRANSACTION_ABORTABLE.
    ///
    /// # Errors
    /// The transaction itself is not what the producer believes.
    pub fn verify_partitions(
        &self,
        request: &TxnPartitions,
    ) -> Result<Vec<(Arc<str>, PartitionIndex, ErrorCode)>, ErrorCode> {
        if request.transactional_id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let partition = self.route(&request.transactional_id)?;
        let serial = self.find(partition, &request.transactional_id);
        let txn = serial.and_then(|serial| self.txns.get(&serial));
        let meta = &txn.ok_or(ErrorCode::InvalidProducerIdMapping)?.meta;
        if meta.producer_id != request.producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if meta.producer_epoch != request.producer_epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        if meta.state.is_prepared() {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let asked = request.partitions.iter();
        let asked = asked.flat_map(|(topic, indexes)| indexes.iter().map(move |p| (topic, *p)));
        let result = |(topic, index): (&Arc<str>, PartitionIndex)| {
            let known = meta.partitions.get(topic);
            let error = match known.is_some_and(|known| known.contains(&index)) {
                true => ErrorCode::None,
                false => ErrorCode::TransactionAbortable,
            };
            (topic.clone(), index, error)
        };
        Ok(asked.map(result).collect())
    }
}
