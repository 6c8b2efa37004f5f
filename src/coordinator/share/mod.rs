//! One share partition: the records of a partition that a share group has in flight (KIP-932).
//!
//! A [`SharePartition`] lives on the shard that owns the partition's log. Records between its start
//! offset and its end offset are [`RecordState::Available`], [`RecordState::Acquired`] by a member
//! under a lock, or finished. Kafka keeps a map of batches, some of them with a map of offsets
//! inside; here it is one map of runs of equal state, split and merged as states differ and agree.
//!
//! What has to survive a restart goes out as a [`Persist`], which the shard writes to the group's
//! share state; a change asked for by a client takes hold when [`SharePartition::settle`] says
//! that it has been written.

mod acknowledge;
mod acquire;
mod partition;
mod state;
mod state_batches;
#[cfg(test)]
mod state_test;
#[cfg(test)]
mod tests;

pub use acknowledge::{AckBatch, AckType};
pub use acquire::{Acquire, Acquired, BatchSpan};
pub use partition::{ShareLimits, SharePartition};
pub use state::{ShareKey, ShareState, ShareStates, ShareWrite, UNKNOWN};
pub use state_batches::{Stored, combine};

/// Where a record stands, with the number that share state stores for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum RecordState {
    /// May be acquired.
    Available = 0,
    /// A member holds it until its lock runs out.
    Acquired = 1,
    /// Accepted: done with.
    Acknowledged = 2,
    /// Rejected, delivered too often, aborted or not there: done with.
    Archived = 4,
}

impl RecordState {
    /// The state of a stored number; `None` for one that Kafka does not know.
    pub fn from_stored(id: i8) -> Option<Self> {
        [
            Self::Available,
            Self::Acquired,
            Self::Acknowledged,
            Self::Archived,
        ]
        .into_iter()
        .find(|state| *state as i8 == id)
    }

    /// Whether nothing can happen to the record any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Acknowledged | Self::Archived)
    }
}

/// Offsets of one state, as share state stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateBatch {
    /// First offset.
    pub first: i64,
    /// Last offset, inclusive.
    pub last: i64,
    /// Their state.
    pub state: RecordState,
    /// How often they were handed out.
    pub deliveries: u16,
}

/// Names a change until [`SharePartition::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What has to be written to the group's share state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// To be settled once it is written or refused; `None` where nothing waits for it.
    pub ticket: Option<Ticket>,
    /// The start offset as it is now: finished records are not below it before they are written.
    pub start_offset: i64,
    /// Finished records at and behind the start offset, these changes included.
    pub delivery_complete_count: i32,
    /// The changes, in order of offsets.
    pub batches: Vec<StateBatch>,
}
