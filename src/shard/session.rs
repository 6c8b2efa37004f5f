//! Fetch sessions of one shard (KIP-227): a client that fetches many partitions names only what
//! changed since its last request, and the broker answers only what changed since its last
//! response.
//!
//! Nor does the broker look at the others. A partition that had nothing to give when it was read is
//! watched: its owner tells once when that changes. What a fetch of the session reads are the
//! partitions that are *due*:
//!
//! ```text
//! named in the request, or new in the session ----------+
//! told of by the owner, the last answer gave data,       +--> due --> read by the next fetch
//! was cut off by the limit, or failed -------------------+              |
//!    ^                                                                  | nothing there
//!    +---------------- news ---------------- watched <------------------+
//! ```
//! A session belongs to the shard that made it; [`shard_of`] finds that shard from the id, so that
//! a session goes on over another connection. Sessions are bounded in number
//! (`max.incremental.fetch.session.cache.slots`, divided among shards) and in partitions; where
//! there is no room the fetch is answered without a session, which every client accepts.

use flumen_base::limits::{FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_MAX};
use flumen_base::{ErrorCode, IdMap, Mono, PartitionIndex, Prng, ShardId, TopicPartition, Uuid};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A session that was not used for this long gives way to a new one (Kafka's
/// `min.incremental.fetch.session.eviction.ms`).
const EVICTION_IDLE_NANOS: u64 = 120_000_000_000;
/// Epoch of a request that asks for a new session.
pub(crate) const INITIAL_EPOCH: i32 = 0;
/// Epoch of a request that closes its session, or wants none.
pub(crate) const FINAL_EPOCH: i32 = -1;

/// The shard that owns a session.
pub(crate) fn shard_of(session_id: i32, shards: u16) -> ShardId {
    ShardId((session_id.unsigned_abs() % u32::from(shards.max(1))) as u16)
}

/// A topic as the client named it: by id from Fetch 13, by name before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TopicKey {
    Id(Uuid),
    Name(Arc<str>),
}

/// One partition as a client wants it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchPartition {
    pub(crate) topic: TopicKey,
    pub(crate) partition: PartitionIndex,
    pub(crate) current_leader_epoch: i32,
    pub(crate) fetch_offset: i64,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) max_bytes: i32,
}

/// What the answer for one partition says, as far as sessions care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) error: i16,
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    pub(crate) bytes: usize,
    pub(crate) diverging: bool,
}

impl Answered {
    /// Whether the next fetch has to look again, whatever happens meanwhile.
    pub(crate) fn is_news(&self) -> bool {
        self.bytes > 0 || self.error != 0 || self.diverging
    }
}

/// One partition of a session.
#[derive(Clone, Debug)]
struct Cached {
    want: FetchPartition,
    /// As last sent; -1 makes the next answer include the partition.
    high_watermark: i64,
    log_start: i64,
    /// It is among those that the next fetch reads.
    due: bool,
    /// Its place among those that the fetch in progress reads.
    read_as: Option<u32>,
    /// Its owner tells when there is news.
    watched: Option<TopicPartition>,
}

/// What a request says of the session it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) id: i32,
    pub(crate) epoch: i32,
    /// Topics are named by id.
    pub(crate) by_id: bool,
    /// Only committed records are wanted.
    pub(crate) committed_only: bool,
}

/// Where the partitions of a fetch of a session are gathered. They keep their places.
pub(crate) trait Reads {
    /// One more.
    fn add(&mut self, slot: u32, want: FetchPartition);
    /// This one again: what was read of it is out of date.
    fn again(&mut self, place: u32);
    /// How many there are.
    fn count(&self) -> u32;
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    committed_only: bool,
    epoch: i32,
    last_used: Mono,
    slots: Vec<Option<Cached>>,
    free: Vec<u32>,
    place: BTreeMap<(TopicKey, PartitionIndex), u32>,
    /// The slots of those that are due, in the order in which they are served: those that gave data
    /// last stand at the end, so that none starves. Others may be among them.
    due: VecDeque<u32>,
    /// The fetch in progress.
    fetch: Option<u64>,
}

impl Session {
    fn cached(&mut self, slot: u32) -> Option<&mut Cached> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Adds a partition or changes what is wanted of it.
    fn put(&mut self, want: FetchPartition) -> u32 {
        let key = (want.topic.clone(), want.partition);
        if let Some(&slot) = self.place.get(&key) {
            if let Some(cached) = self.cached(slot) {
                cached.want = want;
            }
            return slot;
        }
        let cached = Some(Cached {
            want,
            high_watermark: -1,
            log_start: -1,
            due: false,
            read_as: None,
            watched: None,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(place) = self.slots.get_mut(slot as usize) {
                    *place = cached;
                }
                slot
            }
            None => {
                self.slots.push(cached);
                (self.slots.len() - 1) as u32
            }
        };
        self.place.insert(key, slot);
        slot
    }

    /// Takes a partition out; gives its slot, and the partition if it was watched.
    fn forget(&mut self, topic: TopicKey, n: PartitionIndex) -> Option<(u32, TopicPartition)> {
        let slot = self.place.remove(&(topic, n))?;
        let cached = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some((slot, cached.watched?))
    }

    fn mark_due(&mut self, slot: u32) {
        if let Some(cached) = self.cached(slot)
            && !std::mem::replace(&mut cached.due, true)
        {
            self.due.push_back(slot);
        }
    }

    fn mark_all_due(&mut self) {
        for slot in 0..self.slots.len() as u32 {
            self.mark_due(slot);
        }
    }

    /// Moves those that are due into a fetch; whether there were any.
    fn take_due(&mut self, reads: &mut impl Reads) -> bool {
        let mut any = false;
        while let Some(slot) = self.due.pop_front() {
            let Some(cached) = self.cached(slot).filter(|cached| cached.due) else {
                continue;
            };
            any = true;
            cached.due = false;
            match cached.read_as {
                Some(place) => reads.again(place),
                None => {
                    cached.read_as = Some(reads.count());
                    reads.add(slot, cached.want.clone());
                }
            }
        }
        any
    }

    /// The fetch in progress comes to nothing; gives its id.
    fn interrupt(&mut self) -> Option<u64> {
        let fetch = self.fetch.take()?;
        for slot in 0..self.slots.len() as u32 {
            if self
                .cached(slot)
                .is_some_and(|c| c.read_as.take().is_some())
            {
                self.mark_due(slot);
            }
        }
        Some(fetch)
    }
}

/// How a fetch is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Every partition that was asked for, session id 0.
    Sessionless,
    /// Every partition, and a session is made of them if there is room.
    Full,
    /// Only what changed, in the session of this id.
    Incremental(i32),
}

/// What sessions that ended or changed leave to be tidied up by the shard.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Fetches of sessions that have ended, or that another fetch has overtaken.
    pub(crate) fetches: Vec<u64>,
    /// Session, slot and partition of watches that nobody wants any more.
    pub(crate) watches: Vec<(i32, u32, TopicPartition)>,
}

impl Leftovers {
    /// Whether there is nothing to be done.
    pub(crate) fn is_empty(&self) -> bool {
        self.fetches.is_empty() && self.watches.is_empty()
    }
}

/// All sessions of a shard.
#[derive(Debug)]
pub(crate) struct Sessions {
    map: IdMap<i32, Session>,
    partitions: usize,
    slots_max: usize,
    shard: ShardId,
    shards: u16,
    /// To be taken by the shard after [`Sessions::begin`] and [`Sessions::create`].
    pub(crate) left: Leftovers,
}

impl Sessions {
    /// None yet; at most `slots_max` (and our own limit).
    pub(crate) fn new(shard: ShardId, shards: u16, slots_max: usize) -> Self {
        Self {
            map: IdMap::default(),
            partitions: 0,
            slots_max: slots_max.min(FETCH_SESSIONS_MAX),
            shard,
            shards: shards.max(1),
            left: Leftovers::default(),
        }
    }

    /// Number of sessions and of partitions in them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.map.len(), self.partitions)
    }

    /// Decides how the fetch with this number is answered, and brings its session up to date with
    /// the request: `named` partitions and those `forgotten`. Only an incremental fetch takes them;
    /// [`Sessions::take_due`] tells what it reads.
    pub(crate) fn begin(
        &mut self,
        now: Mono,
        said: Said,
        fetch: u64,
        named: impl ExactSizeIterator<Item = FetchPartition>,
        forgotten: impl Iterator<Item = (TopicKey, PartitionIndex)>,
    ) -> Result<Mode, ErrorCode> {
        let Said { id, epoch, .. } = said;
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            self.remove(id);
            return Ok(if epoch == FINAL_EPOCH {
                Mode::Sessionless
            } else {
                Mode::Full
            });
        }
        let room = FETCH_SESSION_PARTITIONS_MAX.saturating_sub(self.partitions);
        let Some(session) = self.map.get_mut(&id) else {
            return Err(ErrorCode::FetchSessionIdNotFound);
        };
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != said.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if named.len() > room {
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        self.left.fetches.extend(session.interrupt());
        if std::mem::replace(&mut session.committed_only, said.committed_only)
            != said.committed_only
        {
            session.mark_all_due(); // what is not committed counts now, or does no more
        }
        let before = session.place.len();
        for want in named {
            let slot = session.put(want);
            session.mark_due(slot);
        }
        for (topic, partition) in forgotten {
            let watch = session.forget(topic, partition);
            let watch = watch.map(|(slot, tp)| (id, slot, tp));
            self.left.watches.extend(watch);
        }
        self.partitions = self.partitions - before + session.place.len();
        if session.place.is_empty() {
            self.remove(id);
            return Ok(Mode::Sessionless);
        }
        session.last_used = now;
        session.epoch = next_epoch(session.epoch);
        session.fetch = Some(fetch);
        Ok(Mode::Incremental(id))
    }

    /// Moves the partitions of a session that are due into its fetch; whether there were any.
    pub(crate) fn take_due(&mut self, id: i32, reads: &mut impl Reads) -> bool {
        let session = self.map.get_mut(&id);
        session.is_some_and(|session| session.take_due(reads))
    }

    /// Makes a session for a full fetch; 0 if there is no room. The slots of its partitions follow
    /// from [`Sessions::add`].
    pub(crate) fn create(
        &mut self,
        now: Mono,
        said: Said,
        prng: &mut Prng,
        partitions: usize,
    ) -> i32 {
        if partitions == 0 || self.partitions + partitions > FETCH_SESSION_PARTITIONS_MAX {
            return 0;
        }
        if self.map.len() >= self.slots_max && !self.evict(now) {
            return 0;
        }
        let id = self.draw_id(prng);
        let session = Session {
            by_id: said.by_id,
            committed_only: said.committed_only,
            epoch: next_epoch(INITIAL_EPOCH),
            last_used: now,
            slots: Vec::with_capacity(partitions),
            free: Vec::new(),
            place: BTreeMap::new(),
            due: VecDeque::new(),
            fetch: None,
        };
        self.map.insert(id, session);
        id
    }

    /// Adds a partition to a session that was just made; gives its slot.
    pub(crate) fn add(&mut self, id: i32, want: FetchPartition) -> u32 {
        let Some(session) = self.map.get_mut(&id) else {
            return 0; // not reached
        };
        let before = session.place.len();
        let slot = session.put(want);
        self.partitions += session.place.len() - before;
        slot
    }

    /// Whether the incremental answer must name this partition; remembers what is said.
    pub(crate) fn must_answer(&mut self, id: i32, slot: u32, answered: &Answered) -> bool {
        let Some(cached) = self.cached(id, slot) else {
            return true;
        };
        let must = answered.is_news()
            || answered.high_watermark != cached.high_watermark
            || answered.log_start != cached.log_start;
        cached.note(answered);
        must
    }

    /// The next fetch reads this partition before all others: this one had no room for it.
    pub(crate) fn due_first(&mut self, id: i32, slot: u32) {
        let Some(session) = self.map.get_mut(&id) else {
            return;
        };
        if let Some(cached) = session.cached(slot) {
            cached.due = true;
            session.due.push_front(slot); // if it was there, that place counts no more
        }
    }

    /// The next fetch reads this partition after all others.
    pub(crate) fn due_last(&mut self, id: i32, slot: u32) {
        if let Some(session) = self.map.get_mut(&id) {
            session.mark_due(slot);
        }
    }

    /// Whether nobody would tell of news of this partition.
    pub(crate) fn is_unwatched(&mut self, id: i32, slot: u32) -> bool {
        self.cached(id, slot).is_some_and(|c| c.watched.is_none())
    }

    /// The owner of this partition tells of news from now on.
    pub(crate) fn watched(&mut self, id: i32, slot: u32, tp: TopicPartition) {
        if let Some(cached) = self.cached(id, slot) {
            cached.watched = Some(tp);
        }
    }

    /// There is news of a partition: it is due. Gives the session's fetch, if one is in progress.
    pub(crate) fn moved(&mut self, id: i32, slot: u32) -> Option<u64> {
        let session = self.map.get_mut(&id)?;
        session.cached(slot)?.watched = None;
        session.mark_due(slot);
        session.fetch
    }

    /// A partition is no longer read by the fetch in progress.
    pub(crate) fn was_read(&mut self, id: i32, slot: u32) {
        if let Some(cached) = self.cached(id, slot) {
            cached.read_as = None;
        }
    }

    /// The fetch in progress has ended.
    pub(crate) fn fetch_ended(&mut self, id: i32) {
        if let Some(session) = self.map.get_mut(&id) {
            session.fetch = None;
        }
    }

    /// Whether this fetch is the one in progress (another request did not overtake it).
    pub(crate) fn is_current(&self, id: i32, fetch: u64) -> bool {
        self.map.get(&id).is_some_and(|s| s.fetch == Some(fetch))
    }

    fn cached(&mut self, id: i32, slot: u32) -> Option<&mut Cached> {
        self.map.get_mut(&id)?.cached(slot)
    }

    fn remove(&mut self, id: i32) {
        let Some(session) = self.map.remove(&id) else {
            return;
        };
        self.partitions -= session.place.len();
        self.left.fetches.extend(session.fetch);
        for (slot, cached) in (0..).zip(&session.slots) {
            let tp = cached.as_ref().and_then(|cached| cached.watched);
            self.left.watches.extend(tp.map(|tp| (id, slot, tp)));
        }
    }

    fn evict(&mut self, now: Mono) -> bool {
        let oldest = self.map.iter().min_by_key(|(id, s)| (s.last_used, **id));
        let Some((&id, session)) = oldest else {
            return false;
        };
        let idle = now.nanos_since(session.last_used) > EVICTION_IDLE_NANOS;
        if idle {
            self.remove(id);
        }
        idle
    }

    fn draw_id(&self, prng: &mut Prng) -> i32 {
        let shards = i64::from(self.shards);
        loop {
            let random = (prng.next_u64() >> 34) as i64;
            let id = random / shards * shards + i64::from(self.shard.0);
            match i32::try_from(id) {
                Ok(id) if id > 0 && !self.map.contains_key(&id) => return id,
                _ => {}
            }
        }
    }
}

impl Cached {
    fn note(&mut self, answered: &Answered) {
        self.high_watermark = if answered.error == 0 {
            answered.high_watermark
        } else {
            -1
        };
        self.log_start = answered.log_start;
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
