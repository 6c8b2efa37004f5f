//! Transactions as the log shows them: what a reader of committed records may see, and which of it
//! was rolled back.

use crate::batch::{BatchHeader, Batches, Records};
use crate::log::Log;
use crate::marker::Marker;
use crate::ops::AppendError;
use crate::producer_state::{Check, Terms};
use crate::read::ReadPlan;
use crate::txn_index::AbortedTxn;
use crate::validate::ValidBatch;
use crate::verification::VerificationGuard;
use flumen_base::{ErrorCode, Now, Offset, ProducerId};

impl Log {
    /// A transactional batch is about to be appended: `None` if its transaction is open here, else
    /// the guard that the append must come with, once the coordinator has agreed. `epoch_bump`: the
    /// producer has a new epoch for each transaction (transaction version 2).
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH when the partition knows a later epoch.
    pub fn start_verification(
        &mut self,
        now: Now,
        id: ProducerId,
        (epoch, sequence): (i16, i32),
        epoch_bump: bool,
    ) -> Result<Option<VerificationGuard>, AppendError> {
        let known = self.producers.get(id);
        if let Some(entry) = known.filter(|e| epoch < e.epoch) {
            let message = format!(
                "Epoch of producer {id} is {epoch}, which is smaller than the last seen epoch {}",
                entry.epoch
            );
            return Err(AppendError::new(ErrorCode::InvalidProducerEpoch, message));
        }
        if self.producers.is_open(id, epoch) || planted!(Unverified) {
            return Ok(None);
        }
        let verifications = self.producers.verifications();
        let guard = verifications.start(now.wall_ms, id, (epoch, sequence), epoch_bump);
        Ok(Some(guard))
    }

    /// Whether the batch follows what its producer sent before.
    pub(crate) fn check_producer(&self, batch: &ValidBatch) -> Result<Check, AppendError> {
        let header = batch.header();
        if header.producer_id() < 0 && !header.is_transactional() {
            return Ok(Check::New); // nobody's
        }
        self.producers.check(&header, &self.terms(batch))
    }

    /// What a batch is checked by before it is appended.
    fn terms(&self, batch: &ValidBatch) -> Terms {
        let header = batch.header();
        let first = match header.is_control() {
            true => Records::new(&batch.records, header.count()).next(),
            false => None,
        };
        Terms {
            origin: batch.origin,
            txn: batch.txn(),
            marker: first.and_then(|r| Marker::read(&r.ok()?)),
            verify: self.config.txn_verification,
        }
    }

    /// First offset of the earliest transaction that is not decided (the last stable offset is the
    /// lesser of this and the high watermark). Not below the log's start, whatever was deleted.
    pub fn first_unstable_offset(&self) -> Option<Offset> {
        if planted!(StableAhead) {
            return None;
        }
        let first = self.producers.first_open_txn()?;
        Some(Offset(first.max(self.log_start)))
    }

    /// The transactions that were rolled back among what `plan` gives to a reader at `from` who may
    /// see what is below `bound`. May name some that begin behind it.
    pub fn aborted_txns(&self, from: Offset, bound: Offset, plan: &ReadPlan) -> Vec<AbortedTxn> {
        let mut found = Vec::new();
        let above = self.segments.partition_point(|s| s.base_offset <= from.0);
        let first = above.saturating_sub(1);
        if self.segments.range(first..).all(|s| s.aborted.is_empty()) {
            return found;
        }
        let end = self.plan_end(plan).min(bound.0);
        // The marker of a transaction may stand in any later segment.
        for segment in self.segments.range(first..) {
            if segment.aborted.collect(from.0, end, &mut found) {
                break;
            }
        }
        found
    }

    /// An offset at or behind the end of what a plan gives.
    fn plan_end(&self, plan: &ReadPlan) -> i64 {
        match plan {
            ReadPlan::Memory(bufs) => bufs.last().map_or(0, |_| end_of(bufs)),
            ReadPlan::File(range) => {
                let index = self
                    .segments
                    .iter()
                    .position(|s| s.file.id() == range.file.id());
                let Some(segment) = index.and_then(|n| self.segments.get(n)) else {
                    return i64::MAX;
                };
                let end = range.pos + u64::from(range.len);
                let known = segment.index.offset_above(end);
                let next = index.and_then(|n| self.segments.get(n + 1));
                let next = next.map_or(i64::MAX, |s| s.base_offset);
                known.map_or(next, |rel| segment.base_offset + i64::from(rel))
            }
            _ => 0,
        }
    }

    /// The log was taken back to its end: so are the transactions that were rolled back behind it.
    pub(crate) fn forget_ended(&mut self) {
        let end = self.log_end;
        for segment in &mut self.segments {
            segment.aborted.truncate(end);
        }
    }

    /// What is needed of a batch that was just staged: an entry for a transaction that it rolls
    /// back.
    pub(crate) fn note_ended(&mut self, undo: Option<&crate::producer_state::Undo>) {
        if let Some(ended) = undo.and_then(|u| u.ended())
            && ended.aborted
            && let Some(active) = self.segments.back_mut()
        {
            active.aborted.push(ended.txn);
        }
    }
}

/// The offset behind the last batch. A batch may be in two pieces, its header in one of them.
fn end_of(bufs: &[bytes::Bytes]) -> i64 {
    let mut end = 0;
    let mut expected = 0;
    for buf in bufs {
        if expected > 0 {
            // The records of the batch whose header came before.
            expected = 0;
            continue;
        }
        let Some(header) = BatchHeader::new(buf) else {
            return i64::MAX;
        };
        match header.size() {
            Ok(size) if size > buf.len() => {
                expected = size - buf.len();
                end = header.last_offset() + 1;
            }
            Ok(_) => {
                for batch in Batches::new(buf).flatten() {
                    end = batch.header.last_offset() + 1;
                }
            }
            Err(_) => return i64::MAX,
        }
    }
    end
}

#[cfg(test)]
#[path = "txn_test.rs"]
mod tests;
