//! Reads and watches of this shard's own partitions, for fetches of its own connections.

use crate::Shard;
use crate::api::fetch_answer::SharedAnswer;
use crate::ops::{OpFrom, OpResult, PartitionOp, ReadOp, ReadResult, WatchOp};
use crate::partition::{Partition, ReadStep};
use crate::partitions::Partitions;
use crate::turn::Turn;
use flumen_base::{ErrorCode, Offset, TopicPartition};
use flumen_log::ReadPlan;

/// A read that several readers of a partition are about to ask for: those at the end of its log,
/// which a write has woken. The first is planned; the others get the same memory and file ranges.
#[derive(Debug)]
pub(crate) struct SharedRead {
    tp: TopicPartition,
    known: Option<(ReadOp, ReadResult)>,
    /// The answer that the first of them got.
    pub(crate) answer: Option<SharedAnswer>,
}

impl SharedRead {
    /// For readers of this partition. Holds until the step ends: nothing else happens to the
    /// partition before.
    pub(crate) fn of(tp: TopicPartition) -> Self {
        Self {
            tp,
            known: None,
            answer: None,
        }
    }

    /// Whether it is for readers of this partition.
    pub(crate) fn is_of(&self, tp: Result<TopicPartition, ErrorCode>) -> bool {
        tp == Ok(self.tp)
    }

    /// The answer that a reader of this partition got.
    pub(crate) fn answer_for(
        &self,
        tp: Result<TopicPartition, ErrorCode>,
    ) -> Option<&SharedAnswer> {
        self.answer.as_ref().filter(|_| self.is_of(tp))
    }
}

impl Partition {
    /// Of the transactions that were rolled back: producer id and first offset.
    pub(crate) fn aborted(&self, op: &ReadOp, plan: &ReadPlan) -> Vec<(i64, i64)> {
        let bound = Offset(self.read_bound(true));
        let txns = self
            .log()
            .map(|log| log.aborted_txns(Offset(op.offset), bound, plan));
        let txns = txns.into_iter().flatten();
        txns.map(|t| (t.producer_id, t.first_offset)).collect()
    }
}

impl Partitions {
    /// Ends a watch, if it is still there.
    pub(crate) fn unwatch(&mut self, from: &OpFrom) {
        let tp = self.watches.partition_of(from);
        if let Some(p) = tp.and_then(|tp| self.map.get_mut(&tp)) {
            self.watches.remove(&mut p.watches, from);
        }
    }
}

impl Shard {
    /// Reads from a partition of this shard and gives the result, unless that has to wait for the
    /// disk or for the log: then it comes as any other result.
    pub(crate) fn read_here(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: ReadOp,
    ) -> Option<Box<ReadResult>> {
        let partitions = &mut self.partitions;
        let serving = |p: &&mut Partition| p.log().is_some();
        let Some(p) = partitions.map.get_mut(&tp).filter(serving) else {
            self.run_partition_op(turn, from, tp, PartitionOp::Read(op));
            return None;
        };
        let spare = &mut partitions.spare_results;
        let shared = partitions.shared.as_mut().filter(|shared| shared.tp == tp);
        if let Some((known, result)) = shared.as_ref().and_then(|shared| shared.known.as_ref())
            && *known == op
        {
            return Some(spare.fill(result.clone()));
        }
        match p.read(&op, spare) {
            ReadStep::Done(result) if result.error != ErrorCode::KafkaStorageError => {
                if let Some(shared) = shared {
                    shared.known = Some((op, (*result).clone()));
                }
                Some(result)
            }
            step => {
                self.read_step(turn, from, tp, op, step);
                None
            }
        }
    }

    /// Begins a watch of a partition of this shard. Where there is news at once, or no log, that is
    /// told: a read says more.
    pub(crate) fn watch(&mut self, from: OpFrom, tp: TopicPartition, op: WatchOp) {
        let watches = &mut self.partitions.watches;
        let p = self.partitions.map.get_mut(&tp);
        if !p.is_some_and(|p| p.watch(from, op, watches)) {
            self.outbox.result(from, OpResult::Wake(u64::MAX));
        }
        if let Some((tp, at)) = self.partitions.watches.take_replaced()
            && let Some(p) = self.partitions.map.get_mut(&tp)
        {
            let watches = &mut self.partitions.watches;
            watches.end_replaced(&mut p.watches, at);
        }
    }

    /// Something about a partition has changed besides its end: those who watch for that are told.
    pub(crate) fn tell_watchers(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            let mut out = std::mem::take(&mut self.partitions.scratch);
            p.wake(&mut self.partitions.watches, &mut out);
            self.carry_outcomes(turn, out);
        }
    }

    /// What was known of a partition does not hold any more (its leader's epoch has changed): all
    /// who watch it are told.
    pub(crate) fn wake_watchers(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            let mut out = std::mem::take(&mut self.partitions.scratch);
            p.wake_all(&mut self.partitions.watches, &mut out);
            self.carry_outcomes(turn, out);
        }
    }
}
