//! Transaction coordinator of one shard (KIP-98, KIP-890), synchronous and without I/O.
//!
//! A shard owns one [`TransactionCoordinator`]. It holds the transactional ids of those
//! `__transaction_state` partitions whose log the shard owns; an id's partition is
//! [`crate::partition_for`]. A change of an id is one record; while it is on its way to the log the
//! id answers CONCURRENT_TRANSACTIONS.
//!
//! ```text
//! begin_load(p, epoch) -> replay(p, key, value)* -> finish_load(p)
//! init_producer_id, add_partitions, end_txn ...   fill a TxnOut
//!   each Append is one record; when it is written (or not):
//!     commit(write_token) | append_failed(write_token, error)
//!   a decision that is written:
//!     Markers -> marker_done(token, partition, error) for each -> Append of the completion
//!   ids are used up:
//!     wants_producer_ids -> producer_ids(block)
//! next_deadline(), tick(now)                      timeouts, expiry, retries
//! ```
//! What is in memory only: epochs that a retry may name, and which markers of a decision are
//! written. After a restart all of its markers are written once more; partitions know them.

mod add;
mod end;
mod init;
mod out;
mod records;
mod settle;
mod state;
mod time;
mod view;

pub use out::{Markers, MarkersToken, TxnConfig, TxnOut, TxnPartitions, TxnReply};

use crate::limits::{TXN_IDS_MAX, WRITES_OUTSTANDING_MAX};
use crate::out::{Append, AppendKind, Record, ReplyToken, WriteToken};
use crate::roster::Roster;
use crate::{ReplayError, partition_for};
use end::End;
use flumen_base::{ErrorCode, IdMap, Mono, Now, PartitionIndex, ProducerId};
use init::Init;
use records::Replayed;
use state::{Metadata, TxnState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Number of a transactional id in a coordinator's life: one that expires and comes back has
/// another.
type TxnSerial = u64;

/// One transactional id.
#[derive(Debug)]
struct Txn {
    id: Arc<str>,
    partition: PartitionIndex,
    /// As the log has it.
    meta: Metadata,
    /// A record of it was written.
    persisted: bool,
    /// A record of it is on its way.
    pending: Option<Pending>,
    /// An epoch was taken to fence a producer (before transaction version 2), and not written: no
    /// other is taken for that.
    failed_fence: bool,
    /// Partitions whose markers are on their way.
    unmarked: BTreeSet<(Arc<str>, PartitionIndex)>,
}

impl Txn {
    /// Whether a change is under way: others have to wait.
    fn is_busy(&self) -> bool {
        self.pending.is_some() || self.meta.state.is_prepared()
    }
}

/// What a record on its way will do.
#[derive(Debug)]
enum Pending {
    Change(Box<Metadata>),
    Tombstone,
}

/// An append in flight.
#[derive(Debug)]
struct Write {
    partition: PartitionIndex,
    /// Whose records it holds.
    txns: Vec<TxnSerial>,
    done: Done,
}

/// Whom a write answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Nobody,
    Init {
        token: ReplyToken,
        version: i16,
    },
    /// The decision that InitProducerId asks for before anything else: it answers
    /// CONCURRENT_TRANSACTIONS, so that the client comes back.
    Fenced {
        token: ReplyToken,
        version: i16,
    },
    Added(ReplyToken),
    Ended {
        token: ReplyToken,
        version: i16,
    },
}

/// A partition of `__transaction_state` that this shard owns.
#[derive(Debug, Default)]
struct PartitionState {
    loading: bool,
    /// Leader epoch: the epoch of this coordinator in its markers.
    epoch: i32,
    names: Roster,
    /// Where the look for expired ids stopped.
    expiry_cursor: Option<TxnSerial>,
}

/// A request that waits for producer ids.
#[derive(Clone, Debug)]
enum Waiting {
    Init(Init),
    End(End),
}

/// Producer ids that may be given out.
#[derive(Debug, Default)]
struct Ids {
    next: ProducerId,
    end: ProducerId,
    asked: bool,
    waiting: VecDeque<Waiting>,
}

/// Transactions of one shard: see the module.
#[derive(Debug)]
pub struct TransactionCoordinator {
    config: TxnConfig,
    partitions: BTreeMap<PartitionIndex, PartitionState>,
    txns: IdMap<TxnSerial, Txn>,
    txn_last: TxnSerial,
    writes: IdMap<u64, Write>,
    write_last: u64,
    ids: Ids,
    /// Ongoing transactions by the wall clock of their timeout.
    timeouts: BTreeSet<(i64, TxnSerial)>,
    /// Markers and completions to be tried again.
    retries: BTreeSet<TxnSerial>,
    retry_at: Option<Mono>,
    abort_at: Option<Mono>,
    expiry_at: Option<Mono>,
}

impl TransactionCoordinator {
    /// A coordinator that owns nothing yet.
    pub fn new(config: TxnConfig) -> Self {
        Self {
            config,
            partitions: BTreeMap::new(),
            txns: IdMap::default(),
            txn_last: 0,
            writes: IdMap::default(),
            write_last: 0,
            ids: Ids::default(),
            timeouts: BTreeSet::new(),
            retries: BTreeSet::new(),
            retry_at: None,
            abort_at: None,
            expiry_at: None,
        }
    }

    /// New settings.
    pub fn set_config(&mut self, config: TxnConfig) {
        self.config = config;
    }

    // ---- partitions ----

    /// The shard owns this partition from now on, under this leader epoch; requests hear
    /// COORDINATOR_LOAD_IN_PROGRESS until [`TransactionCoordinator::finish_load`].
    pub fn begin_load(&mut self, partition: PartitionIndex, epoch: i32) {
        let state = self.partitions.entry(partition).or_default();
        (state.loading, state.epoch) = (true, epoch);
    }

    /// One record of a partition that is loading, in log order. Records of unknown kinds are
    /// skipped.
    ///
    /// # Errors
    /// The record's bytes can't be read; it was skipped and loading may go on.
    pub fn replay(
        &mut self,
        partition: PartitionIndex,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ReplayError> {
        let loading = self.partitions.get(&partition).is_some_and(|p| p.loading);
        debug_assert!(loading, "replay of a partition that is not loading");
        let record = records::read(key, value)?;
        if !loading {
            return Ok(());
        }
        match record {
            Replayed::Txn(id, metadata) => {
                let serial = match self.find(partition, &id) {
                    Some(serial) => serial,
                    None => self.create(partition, &id, (*metadata).clone()),
                };
                self.set_meta(serial, *metadata);
            }
            Replayed::Tombstone(id) => {
                if let Some(serial) = self.find(partition, &id) {
                    self.remove(serial);
                }
            }
            Replayed::Other => {}
        }
        Ok(())
    }

    /// Serves the partition from now on. Decisions whose markers may not all be written are carried
    /// out once more.
    pub fn finish_load(&mut self, now: Now, partition: PartitionIndex, out: &mut TxnOut) {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        state.loading = false;
        let serials: Vec<_> = state.names.iter().collect();
        let config = &self.config;
        let abort_at = now.mono.plus_ms(config.abort_interval_ms.max(1));
        let expiry_at = now.mono.plus_ms(config.expiry_interval_ms.max(1));
        self.abort_at.get_or_insert(abort_at);
        self.expiry_at.get_or_insert(expiry_at);
        for serial in serials {
            self.send_markers(now, serial, out);
        }
    }

    /// Gives a partition up: whoever waits hears NOT_COORDINATOR, its ids and outstanding appends
    /// are forgotten.
    pub fn unload(&mut self, partition: PartitionIndex, out: &mut TxnOut) {
        let Some(state) = self.partitions.remove(&partition) else {
            return;
        };
        for serial in state.names.iter() {
            self.remove(serial);
        }
        let writes = self.writes.iter();
        let tokens = writes.filter(|(_, w)| w.partition == partition);
        let mut tokens: Vec<_> = tokens.map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        for token in tokens {
            if let Some(write) = self.writes.remove(&token) {
                settle::answer(write.done, None, ErrorCode::NotCoordinator, out);
            }
        }
        let n = partition;
        let partitions = self.config.num_partitions;
        let mine = |w: &Waiting| partition_for(w.transactional_id(), partitions) == n;
        let waiting = std::mem::take(&mut self.ids.waiting);
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = waiting.into_iter().partition(mine);
        self.ids.waiting = kept;
        for waiting in gone {
            waiting.refuse(ErrorCode::NotCoordinator, out);
        }
    }

    // ---- ids ----

    /// Producer ids that [`TxnOut::wants_producer_ids`] asked for: the first and how many.
    pub fn producer_ids(
        &mut self,
        now: Now,
        block: Result<(ProducerId, i32), ErrorCode>,
        out: &mut TxnOut,
    ) {
        self.ids.asked = false;
        let waiting = std::mem::take(&mut self.ids.waiting);
        match block {
            Ok((first, count)) => {
                (self.ids.next, self.ids.end) = (first, first + i64::from(count));
                for waiting in waiting {
                    match waiting {
                        Waiting::Init(init) => self.init(now, init, out),
                        Waiting::End(end) => self.end(now, end, out),
                    }
                }
            }
            Err(error) => {
                for waiting in waiting {
                    waiting.refuse(error, out);
                }
            }
        }
    }

    fn take_id(&mut self) -> Option<ProducerId> {
        let id = self.ids.next;
        if id >= self.ids.end {
            return None;
        }
        self.ids.next += 1;
        Some(id)
    }

    /// Lets a request wait for producer ids.
    fn await_ids(&mut self, waiting: Waiting, out: &mut TxnOut) {
        self.ids.waiting.push_back(waiting);
        if !std::mem::replace(&mut self.ids.asked, true) {
            out.wants_producer_ids = true;
        }
    }

    // ---- finding ----

    /// The partition of an id, if it is served here.
    fn route(&self, id: &str) -> Result<PartitionIndex, ErrorCode> {
        let partition = partition_for(id, self.config.num_partitions);
        match self.partitions.get(&partition) {
            None => Err(ErrorCode::NotCoordinator),
            Some(state) if state.loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(_) => Ok(partition),
        }
    }

    /// The same, for requests that may write.
    fn route_write(&self, id: &str) -> Result<PartitionIndex, ErrorCode> {
        let partition = self.route(id)?;
        if self.writes.len() >= WRITES_OUTSTANDING_MAX {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        Ok(partition)
    }

    fn find(&self, partition: PartitionIndex, id: &str) -> Option<TxnSerial> {
        self.partitions.get(&partition)?.names.get(id)
    }

    /// An id that must be there.
    fn known(&self, id: &str) -> Result<(TxnSerial, &Txn), ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let partition = self.route_write(id)?;
        let serial = self.find(partition, id);
        let found = serial.and_then(|serial| Some((serial, self.txns.get(&serial)?)));
        found.ok_or(ErrorCode::InvalidProducerIdMapping)
    }

    fn has_room(&self) -> bool {
        self.txns.len() < TXN_IDS_MAX
    }

    fn create(&mut self, partition: PartitionIndex, id: &str, meta: Metadata) -> TxnSerial {
        self.txn_last += 1;
        let serial = self.txn_last;
        let id: Arc<str> = id.into();
        let state = self.partitions.entry(partition).or_default();
        state.names.insert(id.clone(), serial);
        let txn = Txn {
            id,
            partition,
            meta,
            persisted: false,
            pending: None,
            failed_fence: false,
            unmarked: BTreeSet::new(),
        };
        self.txns.insert(serial, txn);
        serial
    }

    fn remove(&mut self, serial: TxnSerial) {
        if let Some(txn) = self.txns.remove(&serial) {
            self.timeouts.remove(&timeout_of(serial, &txn.meta));
            self.retries.remove(&serial);
            if let Some(state) = self.partitions.get_mut(&txn.partition) {
                state.names.remove(&txn.id);
            }
        }
    }

    /// The only place where what is stored of an id changes: what is written now, at load as well.
    fn set_meta(&mut self, serial: TxnSerial, meta: Metadata) {
        let Some(txn) = self.txns.get_mut(&serial) else {
            return;
        };
        self.timeouts.remove(&timeout_of(serial, &txn.meta));
        if meta.state == TxnState::Ongoing {
            self.timeouts.insert(timeout_of(serial, &meta));
        }
        txn.unmarked = match meta.state.is_prepared() {
            true => {
                let by_topic = meta.partitions.iter();
                let all = by_topic.flat_map(|(t, indexes)| indexes.iter().map(|p| (t.clone(), *p)));
                all.collect()
            }
            false => BTreeSet::new(),
        };
        txn.persisted = true;
        txn.meta = meta;
    }

    // ---- writing ----

    /// Puts a change on its way. An id whose name fits no record is refused before it gets here.
    fn write(&mut self, serial: TxnSerial, to: Metadata, done: Done, out: &mut TxnOut) {
        let Some(txn) = self.txns.get_mut(&serial) else {
            return;
        };
        let version = self.config.transaction_version;
        let Some(record) = records::txn(&txn.id, &to, version) else {
            settle::answer(done, None, ErrorCode::UnknownServerError, out);
            return;
        };
        txn.pending = Some(Pending::Change(Box::new(to)));
        let partition = txn.partition;
        self.append(partition, vec![record], vec![serial], done, out);
    }

    fn append(
        &mut self,
        partition: PartitionIndex,
        records: Vec<Record>,
        txns: Vec<TxnSerial>,
        done: Done,
        out: &mut TxnOut,
    ) {
        self.write_last += 1;
        let write = Write {
            partition,
            txns,
            done,
        };
        self.writes.insert(self.write_last, write);
        out.appends.push(Append {
            partition,
            records,
            kind: AppendKind::Plain,
            write_token: WriteToken(self.write_last),
        });
    }

    /// Appends handed out and not answered.
    pub fn writes_outstanding(&self) -> usize {
        self.writes.len()
    }
}

impl Waiting {
    fn transactional_id(&self) -> &str {
        match self {
            Self::Init(init) => &init.transactional_id,
            Self::End(end) => &end.transactional_id,
        }
    }

    fn refuse(self, error: ErrorCode, out: &mut TxnOut) {
        match self {
            Self::Init(init) => settle::answer(init.done(), None, error, out),
            Self::End(end) => settle::answer(end.done(), None, error, out),
        }
    }
}

/// Its place among the timeouts, if it is ongoing.
fn timeout_of(serial: TxnSerial, meta: &Metadata) -> (i64, TxnSerial) {
    let at = meta.start_ms.saturating_add(i64::from(meta.timeout_ms));
    (at, serial)
}
