//! Aborted transactions of a segment and their `.txnindex` file: Kafka's TransactionIndex.
//!
//! ```text
//! version i16 = 0 | producer id i64 | first offset i64 | last offset i64 | last stable offset i64
//! ```
//! An entry stands in the segment of its marker (the last offset), in the order of the markers. A
//! segment without aborted transactions has no file.

use crate::jobs::{gone_is_fine, replace};
use flumen_base::{Disk, ProducerId};
use std::io;
use std::path::Path;

/// Length of an entry.
pub const TXN_ENTRY_LEN: usize = 2 + 8 + 8 + 8 + 8;

const VERSION: [u8; 2] = [0, 0];

/// A transaction that was rolled back in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose.
    pub producer_id: ProducerId,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of its marker.
    pub last_offset: i64,
    /// Everything below was decided once the marker stood: a search for what is below it needs to
    /// look no further.
    pub last_stable_offset: i64,
}

/// The aborted transactions whose markers are in one segment, by ascending marker.
///
/// All are kept in memory, 32 bytes each, as long as their segment stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AbortedTxns(Vec<AbortedTxn>);

impl AbortedTxns {
    /// These, by ascending marker.
    pub fn of(txns: Vec<AbortedTxn>) -> Self {
        Self(txns)
    }

    /// Takes one more; its marker is behind all others.
    pub fn push(&mut self, txn: AbortedTxn) {
        debug_assert!(
            self.0
                .last()
                .is_none_or(|t| t.last_offset < txn.last_offset)
        );
        self.0.push(txn);
    }

    /// The log now ends at `end`.
    pub fn truncate(&mut self, end: i64) {
        let kept = self.0.partition_point(|t| t.last_offset < end);
        self.0.truncate(kept);
    }

    /// Adds to `found` those that overlap the offsets from `from` up to `bound` (exclusive). True
    /// when no later segment can have more of them.
    pub fn collect(&self, from: i64, bound: i64, found: &mut Vec<AbortedTxn>) -> bool {
        let first = self.0.partition_point(|t| t.last_offset < from);
        for txn in self.0.get(first..).unwrap_or_default() {
            if txn.first_offset < bound {
                found.push(*txn);
            }
            if txn.last_stable_offset >= bound {
                return true;
            }
        }
        false
    }

    /// All of them.
    pub fn as_slice(&self) -> &[AbortedTxn] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The `.txnindex` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * TXN_ENTRY_LEN);
        for txn in &self.0 {
            out.extend_from_slice(&VERSION);
            out.extend_from_slice(&txn.producer_id.to_be_bytes());
            out.extend_from_slice(&txn.first_offset.to_be_bytes());
            out.extend_from_slice(&txn.last_offset.to_be_bytes());
            out.extend_from_slice(&txn.last_stable_offset.to_be_bytes());
        }
        out
    }

    /// Reads the file of the segment that begins at `base`; `None` if it is not whole, of another
    /// version, or its entries do not follow each other in this segment.
    pub fn decode(bytes: &[u8], base: i64) -> Option<Self> {
        let (entries, rest) = bytes.as_chunks::<TXN_ENTRY_LEN>();
        if !rest.is_empty() {
            return None;
        }
        let mut read = Vec::with_capacity(entries.len());
        let mut after = base;
        for entry in entries {
            let (version, mut fields) = entry.split_first_chunk::<2>()?;
            let txn = AbortedTxn {
                producer_id: take(&mut fields)?,
                first_offset: take(&mut fields)?,
                last_offset: take(&mut fields)?,
                last_stable_offset: take(&mut fields)?,
            };
            if *version != VERSION || txn.last_offset < after || txn.first_offset > txn.last_offset
            {
                return None;
            }
            after = txn.last_offset + 1;
            read.push(txn);
        }
        Some(Self(read))
    }
}

fn take(rest: &mut &[u8]) -> Option<i64> {
    let (head, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(i64::from_be_bytes(*head))
}

/// Writes the index of aborted transactions; without entries there is no file.
pub(crate) fn write_txn_index(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if !bytes.is_empty() {
        return replace(disk, path, bytes);
    }
    gone_is_fine(disk.remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(producer_id: i64, first: i64, last: i64, stable: i64) -> AbortedTxn {
        AbortedTxn {
            producer_id,
            first_offset: first,
            last_offset: last,
            last_stable_offset: stable,
        }
    }

    fn some() -> AbortedTxns {
        let mut txns = AbortedTxns::default();
        txns.push(txn(1, 100, 110, 103));
        txns.push(txn(2, 103, 120, 121));
        txns.push(txn(1, 130, 140, 141));
        txns
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let bytes = some().encode();
        assert_eq!(bytes.len(), 3 * 34);
        assert_eq!(AbortedTxns::decode(&bytes, 100), Some(some()));
        assert_eq!(AbortedTxns::decode(&[], 100), Some(AbortedTxns::default()));
        assert_eq!(AbortedTxns::decode(&bytes[1..], 100), None);
        assert_eq!(AbortedTxns::decode(&bytes, 111), None, "of another segment");
        let mut twice = bytes.clone();
        twice.extend_from_slice(&bytes);
        assert_eq!(AbortedTxns::decode(&twice, 100), None, "goes back");
        let mut other = bytes;
        other[1] = 1;
        assert_eq!(AbortedTxns::decode(&other, 100), None, "version");
    }

    #[test]
    fn a_search_finds_what_overlaps_and_knows_when_it_is_over() {
        let search = |from, bound| {
            let mut found = Vec::new();
            let over = some().collect(from, bound, &mut found);
            let ids: Vec<i64> = found.iter().map(|t| t.last_offset).collect();
            (ids, over)
        };
        assert_eq!(search(0, 102), (vec![110], true));
        assert_eq!(search(0, 104), (vec![110, 120], true));
        assert_eq!(search(111, 104), (vec![120], true));
        assert_eq!(search(121, 130), (vec![], true));
        assert_eq!(search(121, 142), (vec![140], false));
        assert_eq!(search(141, 200), (vec![], false));
    }

    #[test]
    fn truncation_drops_markers_behind_the_end() {
        let mut txns = some();
        txns.truncate(120);
        assert_eq!(txns.as_slice(), &some().as_slice()[..1]);
        txns.truncate(0);
        assert!(txns.is_empty());
    }
}
