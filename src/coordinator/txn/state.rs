//! The state of one transactional id, and the states that may follow it: each function here gives
//! the metadata to be written next, and changes nothing.

use flumen_base::{ErrorCode, PartitionIndex, ProducerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// No producer id, epoch or time.
pub(crate) const NONE: i16 = -1;

/// Where a transaction stands, numbered as in `__transaction_state`. Kafka's two other states, Dead
/// and PrepareEpochFence, are never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TxnState {
    /// The producer is known; nothing was begun under its epoch.
    Empty = 0,
    /// Partitions were added.
    Ongoing = 1,
    /// Decided; markers are on their way.
    PrepareCommit = 2,
    /// Decided; markers are on their way.
    PrepareAbort = 3,
    /// All markers are written.
    CompleteCommit = 4,
    /// All markers are written.
    CompleteAbort = 5,
}

impl TxnState {
    /// All of them with Kafka's names.
    pub(crate) const NAMES: [(Self, &'static str); 6] = [
        (Self::Empty, "Empty"),
        (Self::Ongoing, "Ongoing"),
        (Self::PrepareCommit, "PrepareCommit"),
        (Self::PrepareAbort, "PrepareAbort"),
        (Self::CompleteCommit, "CompleteCommit"),
        (Self::CompleteAbort, "CompleteAbort"),
    ];

    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(state, _)| *state == self);
        found.map_or("", |(_, name)| name)
    }

    /// By its number.
    pub(crate) fn from_id(id: i8) -> Option<Self> {
        let mut states = Self::NAMES.iter().map(|(state, _)| *state);
        states.find(|state| *state as i8 == id)
    }

    /// Markers are on their way.
    pub(crate) fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    /// Nothing is open: the id may be given a new epoch, or expire.
    pub(crate) fn is_at_rest(self) -> bool {
        matches!(
            self,
            Self::Empty | Self::CompleteCommit | Self::CompleteAbort
        )
    }
}

/// Partitions by topic.
pub(crate) type Partitions = BTreeMap<Arc<str>, BTreeSet<PartitionIndex>>;

/// What is stored of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) producer_id: ProducerId,
    /// That of before the last change; differs after epochs were used up.
    pub(crate) previous_producer_id: ProducerId,
    /// Takes over when the markers are written, where this transaction used up the last epoch; -1.
    pub(crate) next_producer_id: ProducerId,
    pub(crate) producer_epoch: i16,
    /// The epoch that the producer had before, as far as a retry of its request may name it; -1.
    /// Not stored.
    pub(crate) last_producer_epoch: i16,
    pub(crate) timeout_ms: i32,
    pub(crate) state: TxnState,
    pub(crate) partitions: Partitions,
    /// Wall clock, -1 where none has begun.
    pub(crate) start_ms: i64,
    /// Wall clock of the last change.
    pub(crate) last_update_ms: i64,
    /// `transaction.version` of the client that the last change came from.
    pub(crate) client_version: i16,
}

/// Whether no transaction fits under this epoch any more: the last one is left for fencing.
pub(crate) fn is_exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}

/// Whether the epoch grows with each transaction.
pub(crate) fn bumps_epoch(version: i16) -> bool {
    version >= 2
}

impl Metadata {
    /// An id that is asked for the first time.
    pub(crate) fn new(producer_id: ProducerId, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer_id,
            previous_producer_id: -1,
            next_producer_id: -1,
            producer_epoch: NONE,
            last_producer_epoch: NONE,
            timeout_ms,
            state: TxnState::Empty,
            partitions: Partitions::new(),
            start_ms: -1,
            last_update_ms: now_ms,
            client_version: 0,
        }
    }

    /// What every change begins with.
    fn next(&self, state: TxnState) -> Self {
        Self {
            state,
            previous_producer_id: self.producer_id,
            ..self.clone()
        }
    }

    /// InitProducerId without anything open: the next epoch, or the same one for a retry.
    /// `expected` is the epoch that the producer believes to have.
    ///
    /// # Errors
    /// PRODUCER_FENCED when another producer has taken the id over.
    pub(crate) fn next_epoch(
        &self,
        timeout_ms: i32,
        expected: Option<i16>,
        now_ms: i64,
    ) -> Result<Self, ErrorCode> {
        if is_exhausted(self.producer_epoch) {
            return Err(ErrorCode::UnknownServerError);
        }
        let bumped = self.producer_epoch + 1;
        let (epoch, last) = match expected {
            None => (bumped, NONE),
            Some(epoch) if epoch == self.producer_epoch || self.producer_epoch == NONE => {
                (bumped, self.producer_epoch)
            }
            // A retry: its answer was lost.
            Some(epoch) if epoch == self.last_producer_epoch => (self.producer_epoch, epoch),
            Some(_) => return Err(ErrorCode::ProducerFenced),
        };
        Ok(Self {
            producer_epoch: epoch,
            last_producer_epoch: last,
            timeout_ms,
            partitions: Partitions::new(),
            start_ms: -1,
            last_update_ms: now_ms,
            ..self.next(TxnState::Empty)
        })
    }

    /// InitProducerId when the epochs are used up: another producer id.
    pub(crate) fn rotate(
        &self,
        producer_id: ProducerId,
        timeout_ms: i32,
        is_retriable: bool,
        now_ms: i64,
    ) -> Self {
        Self {
            producer_id,
            producer_epoch: 0,
            last_producer_epoch: if is_retriable {
                self.producer_epoch
            } else {
                NONE
            },
            timeout_ms,
            partitions: Partitions::new(),
            start_ms: -1,
            last_update_ms: now_ms,
            ..self.next(TxnState::Empty)
        }
    }

    /// Partitions are added; the transaction begins with the first.
    pub(crate) fn with_partitions(
        &self,
        added: &Partitions,
        client_version: i16,
        now_ms: i64,
    ) -> Self {
        let mut next = self.next(TxnState::Ongoing);
        for (topic, indexes) in added {
            next.partitions
                .entry(topic.clone())
                .or_default()
                .extend(indexes);
        }
        if self.state.is_at_rest() {
            next.start_ms = now_ms;
        }
        next.last_update_ms = now_ms;
        next.client_version = client_version;
        next
    }

    /// The decision. With epochs that grow, `next_producer_id` takes over from the last one (-1
    /// otherwise); `nothing_added`: an abort of a transaction that the coordinator knows nothing
    /// of.
    pub(crate) fn decided(
        &self,
        commit: bool,
        client_version: i16,
        next_producer_id: ProducerId,
        nothing_added: bool,
        now_ms: i64,
    ) -> Self {
        let state = match commit {
            true => TxnState::PrepareCommit,
            false => TxnState::PrepareAbort,
        };
        let mut next = self.next(state);
        if bumps_epoch(client_version) {
            next.last_producer_epoch = self.producer_epoch;
            // Saturates where an abort has to get through although all epochs are gone.
            next.producer_epoch = self.producer_epoch.saturating_add(1);
        }
        if nothing_added {
            next.start_ms = now_ms;
        }
        next.next_producer_id = next_producer_id;
        next.last_update_ms = now_ms;
        next.client_version = client_version;
        next
    }

    /// All markers are written.
    pub(crate) fn completed(&self, now_ms: i64) -> Self {
        let state = match self.state {
            TxnState::PrepareCommit => TxnState::CompleteCommit,
            _ => TxnState::CompleteAbort,
        };
        let mut next = self.next(state);
        if bumps_epoch(self.client_version) && self.next_producer_id >= 0 {
            (next.producer_id, next.producer_epoch) = (self.next_producer_id, 0);
        }
        next.next_producer_id = -1;
        next.partitions = Partitions::new();
        next.last_update_ms = now_ms;
        next
    }

    /// Whether all of these are in the transaction.
    pub(crate) fn has_all(&self, partitions: &Partitions) -> bool {
        partitions.iter().all(|(topic, indexes)| {
            let known = self.partitions.get(topic);
            known.is_some_and(|known| indexes.is_subset(known))
        })
    }
}
