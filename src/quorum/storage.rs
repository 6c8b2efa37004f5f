//! The Raft log in memory: the entries since the last snapshot, as the `raft` crate reads them.
//! What is on disk is in [`crate::raft_log`].

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// Entries after `snapshot_index`, and the persistent state of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryLog {
    snapshot_index: u64,
    snapshot_term: u64,
    entries: Vec<Entry>,
    hard_state: HardState,
    voters: Vec<u64>,
}

impl MemoryLog {
    pub(crate) fn new(snapshot_index: u64, snapshot_term: u64, voters: Vec<u64>) -> Self {
        Self {
            snapshot_index,
            snapshot_term,
            voters,
            ..Self::default()
        }
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn set_voters(&mut self, voters: Vec<u64>) {
        self.voters = voters;
    }

    pub(crate) fn voters(&self) -> &[u64] {
        &self.voters
    }

    pub(crate) fn entries_all(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn last(&self) -> u64 {
        self.snapshot_index + self.entries.len() as u64
    }

    /// Appends; an entry at an index that is taken replaces it and all after it. Entries that the
    /// snapshot covers are skipped. False (and nothing changed) if they would leave a gap.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> bool {
        let skip = entries
            .iter()
            .take_while(|e| e.index <= self.snapshot_index)
            .count();
        let entries = &entries[skip..];
        let Some(first) = entries.first() else {
            return true;
        };
        let dense = entries
            .iter()
            .zip(first.index..)
            .all(|(entry, index)| entry.index == index);
        if first.index > self.last() + 1 || !dense {
            return false;
        }
        let keep = (first.index - self.snapshot_index - 1) as usize;
        self.entries.truncate(keep);
        self.entries.extend_from_slice(entries);
        true
    }

    /// Forgets the entries up to `index`, which a snapshot holds now.
    pub(crate) fn compact(&mut self, index: u64, term: u64) {
        if index <= self.snapshot_index || index > self.last() {
            return;
        }
        let drop = (index - self.snapshot_index) as usize;
        self.entries.drain(..drop);
        self.snapshot_index = index;
        self.snapshot_term = term;
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf = ConfState::from((self.voters.clone(), Vec::new()));
        Ok(RaftState::new(self.hard_state.clone(), conf))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.snapshot_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let from = (low - self.snapshot_index - 1) as usize;
        let to = (high - self.snapshot_index - 1) as usize;
        let Some(range) = self.entries.get(from..to) else {
            return Err(raft::Error::Store(StorageError::Unavailable));
        };
        let mut entries = range.to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.snapshot_index {
            return Ok(self.snapshot_term);
        }
        if index < self.snapshot_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.snapshot_index - 1) as usize);
        entry
            .map(|e| e.term)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Only a follower that lags behind the log asks for one, and there is none yet.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(
            StorageError::SnapshotTemporarilyUnavailable,
        ))
    }
}
