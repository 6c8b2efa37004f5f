//! Transactions as a cleaning passes through them: data of aborted ones goes at once, a marker
//! stays until nothing of its transaction is left.

use crate::batch::{BatchHeader, Record};
use flumen_base::{IdMap, IdSet, ProducerId};
use std::collections::VecDeque;

/// Length of an entry of a `.txnindex` file: version i16, producer id i64, first, last and last
/// stable offset i64.
const ENTRY_LEN: usize = 34;
const VERSION: i16 = 0;

/// An aborted transaction, as an entry of a `.txnindex` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTxn {
    /// Offset of its first record.
    pub first_offset: i64,
    /// Whose it was.
    pub producer_id: ProducerId,
    /// Offset of its marker.
    pub last_offset: i64,
    /// The last stable offset when the marker came.
    pub last_stable_offset: i64,
}

impl AbortedTxn {
    /// A `.txnindex` file.
    pub(crate) fn encode_all(list: &[Self]) -> Vec<u8> {
        let mut out = Vec::with_capacity(list.len() * ENTRY_LEN);
        for txn in list {
            out.extend_from_slice(&VERSION.to_be_bytes());
            for field in [
                txn.producer_id,
                txn.first_offset,
                txn.last_offset,
                txn.last_stable_offset,
            ] {
                out.extend_from_slice(&field.to_be_bytes());
            }
        }
        out
    }

    /// Entries of a `.txnindex` file, up to the first that is of an unknown version or not whole.
    pub(crate) fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Self> + '_ {
        let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
        entries.iter().map_while(|entry| {
            let (version, rest) = entry.split_first_chunk::<2>()?;
            let (fields, _) = rest.as_chunks::<8>();
            let [producer_id, first_offset, last_offset, last_stable_offset] = *fields else {
                return None;
            };
            (i16::from_be_bytes(*version) == VERSION).then(|| Self {
                producer_id: i64::from_be_bytes(producer_id),
                first_offset: i64::from_be_bytes(first_offset),
                last_offset: i64::from_be_bytes(last_offset),
                last_stable_offset: i64::from_be_bytes(last_stable_offset),
            })
        })
    }
}

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
        list.sort_unstable();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kafkas() {
        let txn = AbortedTxn {
            producer_id: 1,
            first_offset: 2,
            last_offset: 3,
            last_stable_offset: 4,
        };
        let bytes = AbortedTxn::encode_all(&[txn, txn]);
        assert_eq!(bytes.len(), 68);
        assert_eq!(bytes[..3], [0, 0, 0]);
        assert_eq!((bytes[9], bytes[17], bytes[25], bytes[33]), (1, 2, 3, 4));
        let read: Vec<_> = AbortedTxn::decode_all(&bytes).collect();
        assert_eq!(read, [txn, txn]);
        assert_eq!(AbortedTxn::decode_all(&bytes[..40]).count(), 1);
        let mut unknown = bytes;
        unknown[1] = 9;
        assert_eq!(AbortedTxn::decode_all(&unknown).count(), 0);
    }
}
