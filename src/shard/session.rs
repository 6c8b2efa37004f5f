//! Fetch sessions of one shard (KIP-227): a client that fetches many partitions names only what
//! changed since its last request, and the broker answers only what changed since its last
//! response.
//!
//! A session belongs to the shard that made it; [`shard_of`] finds that shard from the id, so that
//! a session goes on over another connection. Sessions are bounded in number
//! (`max.incremental.fetch.session.cache.slots`, divided among shards) and in partitions; where
//! there is no room the fetch is answered without a session, which every client accepts.

use flumen_base::limits::{FETCH_SESSION_PARTITIONS_MAX, FETCH_SESSIONS_MAX};
use flumen_base::{ErrorCode, IdMap, Mono, PartitionIndex, Prng, ShardId, Uuid};
use std::collections::BTreeMap;
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

#[derive(Clone, Debug)]
struct Cached {
    want: FetchPartition,
    /// As last sent; -1 makes the next answer include the partition.
    high_watermark: i64,
    log_start: i64,
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

#[derive(Debug)]
struct Session {
    by_id: bool,
    epoch: i32,
    last_used: Mono,
    /// In the order in which they are served: those that gave data last move to the end, so that
    /// none starves.
    order: BTreeMap<u64, Cached>,
    place: BTreeMap<(TopicKey, PartitionIndex), u64>,
    next_place: u64,
}

impl Session {
    fn put(&mut self, want: FetchPartition) {
        let key = (want.topic.clone(), want.partition);
        if let Some(cached) = self.place.get(&key).and_then(|p| self.order.get_mut(p)) {
            cached.want = want;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.place.insert(key, place);
        let cached = Cached {
            want,
            high_watermark: -1,
            log_start: -1,
        };
        self.order.insert(place, cached);
    }

    fn forget(&mut self, topic: TopicKey, partition: PartitionIndex) {
        if let Some(place) = self.place.remove(&(topic, partition)) {
            self.order.remove(&place);
        }
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

/// All sessions of a shard.
#[derive(Debug)]
pub(crate) struct Sessions {
    map: IdMap<i32, Session>,
    partitions: usize,
    slots_max: usize,
    shard: ShardId,
    shards: u16,
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
        }
    }

    /// Number of sessions and of partitions in them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.map.len(), self.partitions)
    }

    /// Decides how a fetch with this id and epoch is answered, and brings the session up to date
    /// with the request. `wants` are the partitions named in the request; for an incremental fetch
    /// they become those of the session.
    pub(crate) fn begin(
        &mut self,
        now: Mono,
        (id, epoch): (i32, i32),
        by_id: bool,
        wants: &mut Vec<FetchPartition>,
        forgotten: Vec<(TopicKey, PartitionIndex)>,
    ) -> Result<Mode, ErrorCode> {
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
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        if wants.len() > room {
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let before = session.order.len();
        for want in wants.drain(..) {
            session.put(want);
        }
        for (topic, partition) in forgotten {
            session.forget(topic, partition);
        }
        self.partitions = self.partitions - before + session.order.len();
        if session.order.is_empty() {
            self.remove(id);
            return Ok(Mode::Sessionless);
        }
        session.last_used = now;
        session.epoch = next_epoch(session.epoch);
        wants.extend(session.order.values().map(|c| c.want.clone()));
        Ok(Mode::Incremental(id))
    }

    /// Makes a session for a full fetch; 0 if there is no room.
    pub(crate) fn create(
        &mut self,
        now: Mono,
        by_id: bool,
        prng: &mut Prng,
        wants: &[(FetchPartition, Answered)],
    ) -> i32 {
        if wants.is_empty() || self.partitions + wants.len() > FETCH_SESSION_PARTITIONS_MAX {
            return 0;
        }
        if self.map.len() >= self.slots_max && !self.evict(now) {
            return 0;
        }
        let id = self.draw_id(prng);
        let mut session = Session {
            by_id,
            epoch: next_epoch(INITIAL_EPOCH),
            last_used: now,
            order: BTreeMap::new(),
            place: BTreeMap::new(),
            next_place: 0,
        };
        for (want, answered) in wants {
            session.put(want.clone());
            if let Some(mut last) = session.order.last_entry() {
                last.get_mut().note(answered);
            }
        }
        self.partitions += session.order.len();
        self.map.insert(id, session);
        id
    }

    /// Whether the incremental answer must name this partition; remembers what is said.
    pub(crate) fn must_answer(
        &mut self,
        id: i32,
        topic: &TopicKey,
        partition: PartitionIndex,
        answered: &Answered,
    ) -> bool {
        let Some(session) = self.map.get_mut(&id) else {
            return true;
        };
        let key = (topic.clone(), partition);
        let Some(&place) = session.place.get(&key) else {
            return true;
        };
        let Some(cached) = session.order.get_mut(&place) else {
            return true;
        };
        let must = answered.bytes > 0
            || answered.error != 0
            || answered.diverging
            || answered.high_watermark != cached.high_watermark
            || answered.log_start != cached.log_start;
        cached.note(answered);
        if answered.bytes > 0
            && let Some(cached) = session.order.remove(&place)
        {
            let end = session.next_place;
            session.next_place += 1;
            session.order.insert(end, cached);
            session.place.insert(key, end);
        }
        must
    }

    /// Whether the session is there with the epoch that follows `epoch` (another request did not
    /// overtake this one).
    pub(crate) fn is_current(&self, id: i32, epoch: i32) -> bool {
        self.map
            .get(&id)
            .is_some_and(|s| s.epoch == next_epoch(epoch))
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.map.remove(&id) {
            self.partitions -= session.order.len();
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
mod tests {
    use super::*;

    fn want(partition: i32) -> FetchPartition {
        FetchPartition {
            topic: TopicKey::Name("t".into()),
            partition,
            current_leader_epoch: -1,
            fetch_offset: 0,
            last_fetched_epoch: -1,
            max_bytes: 1,
        }
    }

    fn answered(high_watermark: i64, bytes: usize) -> Answered {
        Answered {
            error: 0,
            high_watermark,
            log_start: 0,
            bytes,
            diverging: false,
        }
    }

    #[test]
    fn incremental_names_only_changes() {
        let mut prng = Prng::new(1);
        let mut sessions = Sessions::new(ShardId(2), 4, 10);
        let now = Mono(0);
        let full = [(want(0), answered(5, 0)), (want(1), answered(7, 0))];
        let id = sessions.create(now, false, &mut prng, &full);
        assert_eq!(shard_of(id, 4), ShardId(2));
        let mut wants = vec![];
        let mode = sessions.begin(now, (id, 1), false, &mut wants, vec![]);
        assert_eq!(mode, Ok(Mode::Incremental(id)));
        assert_eq!(wants.len(), 2);
        let topic = TopicKey::Name("t".into());
        assert!(!sessions.must_answer(id, &topic, 0, &answered(5, 0)));
        assert!(sessions.must_answer(id, &topic, 1, &answered(8, 0)));
        assert_eq!(
            sessions.begin(now, (id, 1), false, &mut wants, vec![]),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        assert_eq!(
            sessions.begin(now, (id, 2), true, &mut wants, vec![]),
            Err(ErrorCode::FetchSessionTopicIdError)
        );
        wants.clear();
        let forgotten = vec![(topic.clone(), 0), (topic, 1)];
        let mode = sessions.begin(now, (id, 2), false, &mut wants, forgotten);
        assert_eq!(mode, Ok(Mode::Sessionless));
        assert_eq!(sessions.counts(), (0, 0));
    }

    #[test]
    fn those_that_gave_data_move_to_the_end() {
        let mut prng = Prng::new(1);
        let mut sessions = Sessions::new(ShardId(0), 1, 10);
        let full = [(want(0), answered(5, 0)), (want(1), answered(7, 0))];
        let id = sessions.create(Mono(0), false, &mut prng, &full);
        let topic = TopicKey::Name("t".into());
        assert!(sessions.must_answer(id, &topic, 0, &answered(5, 10)));
        let mut wants = vec![];
        sessions
            .begin(Mono(0), (id, 1), false, &mut wants, vec![])
            .unwrap();
        assert_eq!(wants[0].partition, 1);
    }
}
