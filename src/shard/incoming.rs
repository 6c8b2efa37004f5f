//! Batches on their way into a log: those of clients and of coordinators, and what a transactional
//! one must bring along. And the way back: what a coordinator reads from its log.

use crate::Shard;
use crate::groups::{Groups, WaitingFor};
use crate::ops::{MarkerFor, OpFrom, OpResult, TxnProduce};
use crate::partition::Partition;
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::PartitionIndex;
use flumen_coordinator::{
    Append, AppendKind, GroupCoordinator, ReplayError, ReplyToken, TxnMarker,
};
use flumen_log::{
    BatchBuilder, BatchHeader, Marker, Origin, Record, TxnContext, VerificationGuard,
};

/// A batch that is to be appended.
pub(crate) struct Incoming {
    pub(crate) batch: Bytes,
    /// Length of the frame that it is a part of.
    pub(crate) frame_len: usize,
    pub(crate) origin: Origin,
    pub(crate) txn: TxnContext,
}

impl Incoming {
    /// Of a coordinator of this shard.
    pub(crate) fn coordinated(batch: Bytes, txn: TxnContext) -> Self {
        Self {
            frame_len: batch.len(),
            batch,
            origin: Origin::Coordinator,
            txn,
        }
    }
}

/// What a transactional batch is appended with; or the answer: it may not be, or not before the
/// coordinator of its transaction agrees.
pub(crate) fn verification(
    p: &mut Partition,
    turn: &Turn<'_>,
    txn: Option<&TxnProduce>,
) -> Result<TxnContext, OpResult> {
    let mut context = TxnContext::default();
    let Some(txn) = txn else {
        return Ok(context);
    };
    if let Some(guard) = txn.guard {
        context.guard = VerificationGuard::from_u64(guard);
        return Ok(context);
    }
    if !txn.bumps_epoch && !p.config.txn_verification {
        return Ok(context);
    }
    let Some(log) = p.log_mut() else {
        return Ok(context);
    };
    let at = (txn.producer_epoch, txn.sequence);
    match log.start_verification(turn.now, txn.producer_id, at, txn.bumps_epoch) {
        Ok(None) => Ok(context),
        Ok(Some(guard)) => Err(OpResult::Verify(guard.get())),
        Err(e) => Err(OpResult::Append(crate::ops::AppendResult::refused(e.code))),
    }
}

/// The sequence of the first record in the batches of group coordinators: Kafka counts from 0 in
/// these, whether they have a producer or not.
pub(crate) const GROUP_SEQUENCE: i32 = 0;

/// The same of transaction coordinators, which have none.
pub(crate) const TXN_SEQUENCE: i32 = -1;

/// The batch that a coordinator hands out, with this sequence; `None` without records.
pub(crate) fn coordinator_batch(
    turn: &Turn<'_>,
    append: &Append,
    sequence: i32,
) -> Option<Incoming> {
    let now_ms = turn.now.wall_ms;
    let mut txn = TxnContext::default();
    let mut batch = BatchBuilder::new();
    match append.kind {
        AppendKind::Plain => batch = batch.producer(-1, -1, sequence),
        AppendKind::Txn {
            producer_id,
            producer_epoch,
            guard,
        } => {
            txn.guard = guard.and_then(VerificationGuard::from_u64);
            batch = batch
                .producer(producer_id, producer_epoch, sequence)
                .transactional(true);
        }
        AppendKind::Marker(marker) => return Some(marker_batch(now_ms, &marker)),
    }
    for record in &append.records {
        batch.push(now_ms, Some(&record.key), record.value.as_deref());
    }
    Some(Incoming::coordinated(batch.build()?, txn))
}

/// The control batch of a transaction marker.
pub(crate) fn marker_batch(now_ms: i64, marker: &TxnMarker) -> Incoming {
    let says = Marker {
        commit: marker.commit,
        coordinator_epoch: marker.coordinator_epoch,
    };
    let batch = says.batch(now_ms, marker.producer_id, marker.producer_epoch);
    let txn = TxnContext {
        guard: None,
        version: marker.transaction_version,
    };
    Incoming::coordinated(batch, txn)
}

/// One record of the offsets topic, or what a marker in it says.
pub(crate) fn replay_group_record(
    coordinator: &mut GroupCoordinator,
    partition: PartitionIndex,
    batch: &BatchHeader<'_>,
    record: &Record<'_>,
) -> Result<(), ReplayError> {
    let id = batch.producer_id();
    if batch.is_control() {
        if let Some(marker) = Marker::read(record) {
            coordinator.replay_marker(partition, id, marker.commit);
        }
        return Ok(());
    }
    match record.key {
        None => Ok(()),
        Some(key) if batch.is_transactional() => {
            coordinator.replay_txn(partition, id, key, record.value)
        }
        Some(key) => coordinator.replay(partition, key, record.value),
    }
}

impl Shard {
    /// A transaction marker for a partition of the offsets topic.
    pub(crate) fn complete_group_txn(
        &mut self,
        turn: &mut Turn<'_>,
        (from, who): (OpFrom, MarkerFor),
        partition: PartitionIndex,
        marker: TxnMarker,
    ) {
        let token = ReplyToken(self.next_id());
        let Groups {
            coordinator,
            out,
            waiting,
            ..
        } = &mut self.groups;
        waiting.insert(token, WaitingFor::Marker(from, who));
        coordinator.complete_txn(turn.now, token, partition, marker, out);
    }
}
