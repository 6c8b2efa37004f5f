//! Transactions as a cleaning passes through them: data of aborted ones goes at once, a marker
//! stays until nothing of its transaction is left.

use crate::batch::{BatchHeader, Record};
use crate::txn_index::AbortedTxn;
use flumen_base::{IdMap, IdSet, ProducerId};
use std::collections::VecDeque;

/// Which transactions are open at the place that a pass has come to.
#[derive(Debug, Default)]
pub(crate) struct TxnState {
    /// Those still to come, by first offset.
    aborted: VecDeque<AbortedTxn>,
    open_aborted: IdMap<ProducerId, OpenAborted>,
    /// Producers with batches of a transaction that was committed, or whose abort is not known.
    open_committed: IdSet<ProducerId>,
    /// Entries for the index of the segment that is being written.
    kept: Vec<AbortedTxn>,
}

#[derive(Debug)]
struct OpenAborted {
    txn: AbortedTxn,
    /// A batch of it was seen.
    seen: bool,
}

impl TxnState {
    /// For a pass that begins at `start`, with all aborted transactions that may matter.
    pub(crate) fn new(aborted: &[AbortedTxn], start: i64) -> Self {
        let mut list: Vec<AbortedTxn> = aborted.to_vec();
        list.retain(|txn| txn.last_offset >= start);
        list.sort_unstable_by_key(|txn| (txn.first_offset, txn.producer_id));
        list.dedup();
        Self {
            aborted: list.into(),
            ..Self::default()
        }
    }

    /// A batch of data comes next; true if it is of an aborted transaction and may go.
    pub(crate) fn on_data(&mut self, batch: &BatchHeader<'_>) -> bool {
        self.open_up_to(batch.last_offset());
        if !batch.is_transactional() {
            return false;
        }
        if let Some(open) = self.open_aborted.get_mut(&batch.producer_id()) {
            open.seen = true;
            return true;
        }
        self.open_committed.insert(batch.producer_id());
        false
    }

    /// A control batch comes next, `marker` is its first record, if one is left; true if nothing
    /// of its transaction was seen, so that it may go in time.
    pub(crate) fn on_control(
        &mut self,
        batch: &BatchHeader<'_>,
        marker: Option<&Record<'_>>,
    ) -> bool {
        self.open_up_to(batch.last_offset());
        let Some(marker) = marker else {
            return true; // it was emptied by an earlier cleaning
        };
        match marker.key.and_then(|key| key.get(2..4)) {
            Some([0, 0]) => match self.open_aborted.remove(&batch.producer_id()) {
                Some(OpenAborted { txn, seen: true }) => {
                    self.kept.push(txn);
                    false
                }
                _ => true,
            },
            Some([0, 1]) => !self.open_committed.remove(&batch.producer_id()),
            _ => false, // no marker of a transaction
        }
    }

    fn open_up_to(&mut self, offset: i64) {
        while let Some(txn) = self.aborted.pop_front_if(|txn| txn.first_offset <= offset) {
            let open = OpenAborted { txn, seen: false };
            self.open_aborted.entry(txn.producer_id).or_insert(open);
        }
    }

    /// The entries for the index of the segment that was written, which ends here.
    pub(crate) fn take_kept(&mut self) -> Vec<AbortedTxn> {
        std::mem::take(&mut self.kept)
    }
}
