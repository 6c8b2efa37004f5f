//! Idempotent and transactional producers of one partition: what Kafka's ProducerStateManager
//! keeps, and its `.snapshot` files. State changes when a batch is staged; [`Undo`] takes it back
//! when the write fails.

use crate::batch::{BatchHeader, Record, sequence_sub};
use crate::crc;
use crate::marker::Marker;
use crate::ops::AppendError;
use crate::txn_index::AbortedTxn;
use crate::validate::Origin;
use crate::verification::{TxnContext, Verifications};
use flumen_base::{ErrorCode, IdMap, ProducerId};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Batches remembered per producer, for answering duplicates.
pub const BATCHES_RETAINED: usize = 5;

/// One remembered batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMeta {
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Last offset less first offset.
    pub offset_delta: i32,
    /// Its max timestamp.
    pub timestamp: i64,
}

impl BatchMeta {
    /// Sequence of its first record.
    pub fn first_sequence(&self) -> i32 {
        sequence_sub(self.last_sequence, self.offset_delta)
    }

    /// Offset of its first record.
    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// What is known of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Its epoch, -1 before its first batch.
    pub epoch: i16,
    /// Epoch of the transaction coordinator that wrote its last marker, -1 if none did.
    pub coordinator_epoch: i32,
    /// Max timestamp of its last batch.
    pub last_timestamp: i64,
    /// First offset of its open transaction.
    pub txn_first_offset: Option<i64>,
    /// Its last batches of this epoch, oldest first.
    pub batches: SmallVec<[BatchMeta; BATCHES_RETAINED]>,
}

impl ProducerEntry {
    fn empty() -> Self {
        Self {
            epoch: -1,
            coordinator_epoch: -1,
            last_timestamp: -1,
            txn_first_offset: None,
            batches: SmallVec::new(),
        }
    }

    /// Sequence of its last record, -1 if none is remembered.
    pub fn last_sequence(&self) -> i32 {
        self.batches.last().map_or(-1, |b| b.last_sequence)
    }

    fn set_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.batches.clear();
            self.epoch = epoch;
        }
    }

    /// The remembered batch that this one repeats.
    fn find_duplicate(&self, batch: &BatchHeader<'_>) -> Option<BatchMeta> {
        if batch.producer_epoch() != self.epoch {
            return None;
        }
        let (first, last) = (batch.base_sequence(), batch.last_sequence());
        let same = |b: &&BatchMeta| b.first_sequence() == first && b.last_sequence == last;
        self.batches.iter().find(same).copied()
    }

    /// Remembers a batch; gives the one that is forgotten for it.
    fn add(&mut self, epoch: i16, batch: BatchMeta) -> Option<BatchMeta> {
        self.set_epoch(epoch);
        let full = self.batches.len() == BATCHES_RETAINED;
        let forgotten = full.then(|| self.batches.remove(0));
        self.batches.push(batch);
        self.last_timestamp = batch.timestamp;
        forgotten
    }
}

/// What a batch is to its producer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It may be appended.
    New,
    /// It is already in the log, there.
    Duplicate(BatchMeta),
}

/// A transaction that a marker has ended in this partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Where it was.
    pub txn: AbortedTxn,
    /// Rolled back, not committed.
    pub aborted: bool,
}

/// What a batch is checked by.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Who appends it.
    pub origin: Origin,
    /// What came along with it.
    pub txn: TxnContext,
    /// What a control batch says.
    pub marker: Option<Marker>,
    /// `transaction.partition.verification.enable`.
    pub verify: bool,
}

impl Terms {
    /// Of a batch without a transaction.
    pub fn plain(origin: Origin) -> Self {
        Self {
            origin,
            txn: TxnContext::default(),
            marker: None,
            verify: true,
        }
    }
}

/// Takes one change back.
#[derive(Debug)]
pub struct Undo {
    producer_id: ProducerId,
    change: Change,
    /// Seldom there: kept small.
    ended: Option<Box<Ended>>,
}

impl Undo {
    /// The transaction that the batch has ended.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_deref()
    }
}

#[derive(Debug)]
enum Change {
    /// A batch more of the same epoch outside of transactions: nearly all are.
    Added {
        /// The batch that was forgotten for it.
        forgotten: Option<BatchMeta>,
        last_timestamp: i64,
    },
    /// Anything else: what was known before.
    Replaced(Option<Box<ProducerEntry>>),
}

/// The producers known to one partition.
#[derive(Clone, Debug, Default)]
pub struct ProducerState {
    producers: IdMap<ProducerId, ProducerEntry>,
    /// First offset of each open transaction.
    open_txns: BTreeMap<i64, ProducerId>,
    /// Transactions whose marker is staged and not written yet, by first offset, with the offset of
    /// the marker: they are not decided before.
    deciding: BTreeMap<i64, i64>,
    verifications: Verifications,
}

impl ProducerState {
    /// Producers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &ProducerEntry)> {
        self.producers.iter().map(|(id, entry)| (*id, entry))
    }

    /// One producer.
    pub fn get(&self, id: ProducerId) -> Option<&ProducerEntry> {
        self.producers.get(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// First offset of the earliest transaction that is open, or whose marker is not written yet.
    pub fn first_open_txn(&self) -> Option<i64> {
        let open = self.open_txns.keys().next().copied();
        let deciding = self.deciding.keys().next().copied();
        open.into_iter().chain(deciding).min()
    }

    /// Whether a producer has a transaction open here, under this epoch.
    pub fn is_open(&self, id: ProducerId, epoch: i16) -> bool {
        let entry = self.producers.get(&id);
        entry.is_some_and(|e| e.txn_first_offset.is_some() && e.epoch == epoch)
    }

    /// Everything below `end` is written: markers there have decided.
    pub fn written(&mut self, end: i64) {
        if !self.deciding.is_empty() {
            self.deciding.retain(|_, marker| *marker >= end);
        }
    }

    /// Verifications that have begun.
    pub(crate) fn verifications(&mut self) -> &mut Verifications {
        &mut self.verifications
    }

    /// Whether this batch follows what its producer sent before.
    pub fn check(&self, batch: &BatchHeader<'_>, terms: &Terms) -> Result<Check, AppendError> {
        let entry = self.producers.get(&batch.producer_id());
        if terms.origin == Origin::Client
            && let Some(known) = entry.and_then(|e| e.find_duplicate(batch))
        {
            return Ok(Check::Duplicate(known));
        }
        if batch.is_transactional() {
            self.check_verified(batch, entry, terms)?;
        }
        if batch.is_control() {
            return match (entry, &terms.marker) {
                (Some(entry), Some(marker)) => check_marker(batch, entry, marker, terms),
                _ => Ok(Check::New),
            };
        }
        let (epoch, first) = (batch.producer_epoch(), batch.base_sequence());
        if let Some(entry) = entry
            && epoch < entry.epoch
        {
            return refuse(batch, ErrorCode::InvalidProducerEpoch, "Old epoch");
        }
        let out_of_order = ErrorCode::OutOfOrderSequenceNumber;
        let id = batch.producer_id();
        if terms.origin == Origin::Client
            && let Some(earliest) = self.verifications.contradicts(id, first, entry)
        {
            let what = format!("Out of order sequence (earliest seen {earliest})");
            return refuse(batch, out_of_order, &what);
        }
        let Some(entry) = entry else {
            return Ok(Check::New); // unknown producers may start at any sequence
        };
        if terms.origin == Origin::Client {
            let last = entry.last_sequence();
            let in_order = if epoch != entry.epoch {
                first == 0 || entry.epoch < 0
            } else {
                // After a restart or expiry nothing may be remembered of this epoch: then -1
                // precedes 0 only.
                i64::from(first) == i64::from(last) + 1 || (first == 0 && last == i32::MAX)
            };
            if !in_order {
                let what = format!(
                    "Out of order sequence (epoch {}, {last} known)",
                    entry.epoch
                );
                return refuse(batch, out_of_order, &what);
            }
        }
        if entry.txn_first_offset.is_some() && !batch.is_transactional() {
            let what = "Expected transactional write";
            return refuse(batch, ErrorCode::InvalidTxnState, what);
        }
        Ok(Check::New)
    }

    /// A transactional batch needs a transaction that is open here, or proof that its coordinator
    /// knows of it. Markers need neither: the coordinator itself sends them.
    fn check_verified(
        &self,
        batch: &BatchHeader<'_>,
        entry: Option<&ProducerEntry>,
        terms: &Terms,
    ) -> Result<(), AppendError> {
        let (id, epoch) = (batch.producer_id(), batch.producer_epoch());
        if self.is_open(id, epoch) || planted!(Unverified) {
            return Ok(());
        }
        if entry.is_some_and(|e| epoch < e.epoch) {
            return refuse(batch, ErrorCode::InvalidProducerEpoch, "Old epoch").map(|_| ());
        }
        let proven = self.verifications.holds(id, terms.txn.guard);
        if terms.verify && !batch.is_control() && !proven {
            let what = "Record was not part of an ongoing transaction";
            return refuse(batch, ErrorCode::InvalidTxnState, what).map(|_| ());
        }
        Ok(())
    }

    /// Takes a checked batch in (also in recovery, where everything is taken). `batch` has its
    /// final offsets; `marker` is the first record of a control batch.
    pub fn apply(&mut self, batch: &BatchHeader<'_>, marker: Option<&Record<'_>>) -> Option<Undo> {
        let id = batch.producer_id();
        if id < 0 {
            return None;
        }
        let meta = BatchMeta {
            last_sequence: batch.last_sequence(),
            last_offset: batch.last_offset(),
            offset_delta: batch.last_offset_delta(),
            timestamp: batch.max_timestamp(),
        };
        self.verifications.staged(batch);
        let plain = !batch.is_control() && !batch.is_transactional();
        if plain
            && let Some(entry) = self.producers.get_mut(&id)
            && entry.epoch == batch.producer_epoch()
        {
            let last_timestamp = entry.last_timestamp;
            let forgotten = entry.add(entry.epoch, meta);
            let change = Change::Added {
                forgotten,
                last_timestamp,
            };
            return Some(Undo {
                producer_id: id,
                change,
                ended: None,
            });
        }
        let previous = self.producers.get(&id).cloned().map(Box::new);
        let entry = self
            .producers
            .entry(id)
            .or_insert_with(ProducerEntry::empty);
        let mut ended = None;
        if batch.is_control() {
            if let Some(marker) = marker.and_then(Marker::read) {
                entry.set_epoch(batch.producer_epoch());
                entry.coordinator_epoch = marker.coordinator_epoch;
                entry.last_timestamp = batch.max_timestamp();
                if let Some(first) = entry.txn_first_offset.take() {
                    ended = Some(self.end_txn(id, first, batch.base_offset(), !marker.commit));
                }
            }
        } else {
            entry.add(batch.producer_epoch(), meta);
            if batch.is_transactional() && entry.txn_first_offset.is_none() {
                entry.txn_first_offset = Some(batch.base_offset());
                self.open_txns.insert(batch.base_offset(), id);
            }
        }
        Some(Undo {
            producer_id: id,
            change: Change::Replaced(previous),
            ended: ended.map(Box::new),
        })
    }

    /// The marker at `at` ends the transaction that began at `first`.
    fn end_txn(&mut self, id: ProducerId, first: i64, at: i64, aborted: bool) -> Ended {
        self.open_txns.remove(&first);
        self.deciding.insert(first, at);
        let still_open = self.open_txns.keys().next().copied();
        let txn = AbortedTxn {
            producer_id: id,
            first_offset: first,
            last_offset: at,
            last_stable_offset: still_open.unwrap_or(at + 1),
        };
        Ended { txn, aborted }
    }

    /// Takes an [`ProducerState::apply`] back; the latest first.
    pub fn undo(&mut self, undo: Undo) {
        let id = undo.producer_id;
        if let Some(ended) = undo.ended {
            self.deciding.remove(&ended.txn.first_offset);
        }
        let previous = match undo.change {
            Change::Replaced(previous) => previous,
            Change::Added {
                forgotten,
                last_timestamp,
            } => {
                if let Some(entry) = self.producers.get_mut(&id) {
                    entry.batches.pop();
                    entry.last_timestamp = last_timestamp;
                    if let Some(batch) = forgotten {
                        entry.batches.insert(0, batch);
                    }
                }
                return;
            }
        };
        let current = self.producers.remove(&id);
        if let Some(first) = current.and_then(|entry| entry.txn_first_offset) {
            self.open_txns.remove(&first);
        }
        if let Some(previous) = previous {
            self.insert(id, *previous);
        }
    }

    fn insert(&mut self, id: ProducerId, entry: ProducerEntry) {
        if let Some(first) = entry.txn_first_offset {
            self.open_txns.insert(first, id);
        }
        self.producers.insert(id, entry);
    }

    /// Forgets producers that wrote nothing for `expiration_ms` and have no transaction open.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.verifications.expire(now_ms, expiration_ms);
        self.producers.retain(|_, entry| {
            entry.txn_first_offset.is_some()
                || now_ms.saturating_sub(entry.last_timestamp) < expiration_ms
        });
    }

    /// A `.snapshot` file (version 1).
    pub fn encode(&self) -> Vec<u8> {
        let mut ids: Vec<_> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        let mut entries = Vec::with_capacity(4 + ids.len() * SNAPSHOT_ENTRY_LEN);
        entries.extend_from_slice(&(ids.len() as i32).to_be_bytes());
        for id in ids {
            let Some(entry) = self.producers.get(&id) else {
                continue;
            };
            let last = entry.batches.last();
            entries.extend_from_slice(&id.to_be_bytes());
            entries.extend_from_slice(&entry.epoch.to_be_bytes());
            entries.extend_from_slice(&entry.last_sequence().to_be_bytes());
            entries.extend_from_slice(&last.map_or(-1, |b| b.last_offset).to_be_bytes());
            entries.extend_from_slice(&last.map_or(0, |b| b.offset_delta).to_be_bytes());
            entries.extend_from_slice(&entry.last_timestamp.to_be_bytes());
            entries.extend_from_slice(&entry.coordinator_epoch.to_be_bytes());
            entries.extend_from_slice(&entry.txn_first_offset.unwrap_or(-1).to_be_bytes());
        }
        let mut out = Vec::with_capacity(SNAPSHOT_PREFIX_LEN + entries.len());
        out.extend_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
        out.extend_from_slice(&crc::crc32c(&entries).to_be_bytes());
        out.extend_from_slice(&entries);
        out
    }

    /// Reads a `.snapshot` file; `None` if it is corrupt (Kafka then takes an older one).
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<2>()?;
        let (crc, entries) = rest.split_first_chunk::<4>()?;
        if i16::from_be_bytes(*version) != SNAPSHOT_VERSION
            || u32::from_be_bytes(*crc) != crc::crc32c(entries)
        {
            return None;
        }
        let (count, mut rest) = entries.split_first_chunk::<4>()?;
        let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
        if count.checked_mul(SNAPSHOT_ENTRY_LEN)? != rest.len() {
            return None;
        }
        let mut state = Self::default();
        while !rest.is_empty() {
            let id = i64::from_be_bytes(take(&mut rest)?);
            let epoch = i16::from_be_bytes(take(&mut rest)?);
            let last_sequence = i32::from_be_bytes(take(&mut rest)?);
            let last_offset = i64::from_be_bytes(take(&mut rest)?);
            let offset_delta = i32::from_be_bytes(take(&mut rest)?);
            let last_timestamp = i64::from_be_bytes(take(&mut rest)?);
            let coordinator_epoch = i32::from_be_bytes(take(&mut rest)?);
            let txn_first_offset = i64::from_be_bytes(take(&mut rest)?);
            let mut entry = ProducerEntry {
                epoch,
                coordinator_epoch,
                last_timestamp,
                txn_first_offset: (txn_first_offset >= 0).then_some(txn_first_offset),
                batches: SmallVec::new(),
            };
            if last_offset >= 0 {
                entry.batches.push(BatchMeta {
                    last_sequence,
                    last_offset,
                    offset_delta,
                    timestamp: last_timestamp,
                });
            }
            state.insert(id, entry);
        }
        Some(state)
    }
}

pub(crate) const SNAPSHOT_VERSION: i16 = 1;
pub(crate) const SNAPSHOT_PREFIX_LEN: usize = 6;
pub(crate) const SNAPSHOT_ENTRY_LEN: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn refuse(batch: &BatchHeader<'_>, code: ErrorCode, what: &str) -> Result<Check, AppendError> {
    let (id, epoch, first) = (
        batch.producer_id(),
        batch.producer_epoch(),
        batch.base_sequence(),
    );
    let message = format!("{what} of producer {id}: epoch {epoch}, sequence {first}");
    Err(AppendError { code, message })
}

/// Whether a marker may end its producer's transaction here. With transaction version 2 its epoch
/// is above that of the transaction, so that a late marker of the one before is recognized; the
/// same epoch without a transaction is the same marker once more.
fn check_marker(
    batch: &BatchHeader<'_>,
    entry: &ProducerEntry,
    marker: &Marker,
    terms: &Terms,
) -> Result<Check, AppendError> {
    let epoch = batch.producer_epoch();
    let bumps = terms.txn.version >= 2;
    let again = epoch == entry.epoch && (entry.txn_first_offset.is_none() || epoch == i16::MAX);
    if epoch < entry.epoch || (bumps && epoch == entry.epoch && !again) {
        return refuse(
            batch,
            ErrorCode::InvalidProducerEpoch,
            "Marker of an old epoch",
        );
    }
    if entry.coordinator_epoch > marker.coordinator_epoch {
        let code = ErrorCode::TransactionCoordinatorFenced;
        return refuse(batch, code, "Marker of an old coordinator");
    }
    Ok(Check::New)
}

#[cfg(test)]
#[path = "producer_state_test.rs"]
mod tests;
