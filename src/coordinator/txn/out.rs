//! What goes into the transaction coordinator beside requests, and what comes out of it.

use super::state::Partitions;
use crate::out::{Append, ReplyToken};
use flumen_base::{ErrorCode, PartitionIndex, ProducerId};
use flumen_wire::messages::{EndTxnResponse, InitProducerIdResponse};
use std::sync::Arc;

/// Settings of the coordinator, by Kafka's names. Times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnConfig {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    pub abort_interval_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub expiry_interval_ms: i64,
    /// Partitions of `__transaction_state`, as the topic really has them.
    pub num_partitions: i32,
    /// The finalized level of `transaction.version`.
    pub transaction_version: i16,
}

impl Default for TxnConfig {
    fn default() -> Self {
        Self {
            max_timeout_ms: 900_000,
            id_expiration_ms: 604_800_000,
            abort_interval_ms: 10_000,
            expiry_interval_ms: 3_600_000,
            num_partitions: 50,
            transaction_version: 2,
        }
    }
}

/// The coordinator's name for a transaction whose markers are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkersToken(pub u64);

/// Markers to be written to these partitions. Each is answered once with
/// [`super::TransactionCoordinator::marker_done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// To be handed back.
    pub token: MarkersToken,
    /// Whose transaction ends.
    pub producer_id: ProducerId,
    /// The epoch of the markers.
    pub producer_epoch: i16,
    /// Leader epoch of the coordinator's partition.
    pub coordinator_epoch: i32,
    /// Committed, not rolled back.
    pub commit: bool,
    /// `transaction.version` that the transaction was made under.
    pub transaction_version: i16,
    /// Where to write them.
    pub partitions: Vec<(Arc<str>, PartitionIndex)>,
}

/// A transaction's share of an AddPartitionsToTxn, an AddOffsetsToTxn, or what a Produce or
/// TxnOffsetCommit adds by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnPartitions {
    /// Whose.
    pub transactional_id: String,
    /// Its producer.
    pub producer_id: ProducerId,
    /// And that one's epoch.
    pub producer_epoch: i16,
    /// The partitions by topic.
    pub partitions: Partitions,
    /// `transaction.version` of the client.
    pub client_version: i16,
}

/// An answer that may have had to wait.
#[derive(Clone, Debug, PartialEq)]
pub enum TxnReply {
    /// Of InitProducerId.
    InitProducerId(InitProducerIdResponse),
    /// Of EndTxn.
    EndTxn(EndTxnResponse),
    /// All partitions of one transaction were added, or none of them.
    Added(ErrorCode),
}

/// The effects of a call, to be drained after it.
#[derive(Debug, Default)]
pub struct TxnOut {
    /// Records for `__transaction_state`, in the order they must be appended.
    pub appends: Vec<Append>,
    /// In no particular order.
    pub replies: Vec<(ReplyToken, TxnReply)>,
    /// Markers to write.
    pub markers: Vec<Markers>,
    /// A block of producer ids is needed: answer with
    /// [`super::TransactionCoordinator::producer_ids`].
    pub wants_producer_ids: bool,
}

impl TxnOut {
    /// Whether there is nothing to drain.
    pub fn is_empty(&self) -> bool {
        let nothing_to_write = self.appends.is_empty() && self.markers.is_empty();
        nothing_to_write && self.replies.is_empty() && !self.wants_producer_ids
    }
}
