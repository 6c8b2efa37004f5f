//! Fetch (key 1), versions 4 to 18.
//!
//! The connection's shard asks the owners of the partitions for read plans, puts the answer
//! together around record bytes in memory and ranges of log files that it never copies, and sends
//! it. Where less than `min_bytes` is there it waits: the owners tell it when their partitions
//! grow, and it reads again when enough has come, or when `max_wait_ms` is over.
//!
//! ```text
//! reading -- all results --> enough, an error, or time is over --> answer
//!    ^                          | too little
//!    +-- grown enough -- waiting (watches at the owners, a timer)
//! ```
//! - v7: sessions (KIP-227), see `session.rs`; a request for the session of another shard is
//!   forwarded to it.
//! - v12: flexible, last fetched epoch and diverging epoch (KIP-595). v13: topics by id (KIP-516).
//! - v15: replica state as a tag (KIP-903). v16: leader tags (KIP-951). v18: high watermark of
//!   followers (KIP-1166).
//!
//! Gaps: fetches of followers are served as those of consumers; the leader tags; rack-aware replica
//! choice.

use crate::io::{Effect, Response, Segment};
use crate::mesh::Message as Mesh;
use crate::ops::{Op, OpReply, OpResult, PartitionOp, ReadOp, ReadResult};
use crate::request::{Reply, ReplyTo, Request};
use crate::session::{self, Answered, FetchPartition, INITIAL_EPOCH, Mode, TopicKey};
use crate::timers::TimerKey;
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, Mono, ShardId, TopicPartition};
use flumen_quorum::Image;
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::fetch::FetchRequest;
use flumen_wire::hot::fetch_response::{FetchFramer, PartitionHead};
use smallvec::SmallVec;
use std::sync::Arc;

/// The first version that names topics by id.
const TOPIC_ID_FROM: i16 = 13;

/// A fetch for a connection of another shard waits at most so long: nothing tells this shard when
/// that connection ends. The client just asks again.
const FORWARDED_WAIT_MS_MAX: i32 = 5000;

/// A fetch in progress.
pub(crate) struct Fetch {
    reply: Reply,
    mode: Mode,
    session: (i32, i32),
    wants: Vec<Want>,
    outstanding: u32,
    max_bytes: usize,
    min_bytes: u64,
    committed_only: bool,
    deadline: Mono,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    /// The bytes that were there when the wait began.
    Waiting {
        had: u64,
    },
}

/// One partition of a fetch.
struct Want {
    want: FetchPartition,
    tp: Result<TopicPartition, ErrorCode>,
    result: Option<Box<ReadResult>>,
    /// Bytes that came since the wait began.
    grown: u64,
}

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let version = request.version();
    let parsed = match FetchRequest::parse(&request.body, 0, version) {
        Ok(parsed) => parsed,
        Err(error) => {
            shard.malformed(turn, request.reply, error);
            return;
        }
    };
    let session = (parsed.session_id, parsed.session_epoch);
    let owner = session::shard_of(session.0, shard.shards);
    if session.0 != 0 && owner != shard.id && matches!(request.reply.to, ReplyTo::Conn(..)) {
        shard.forward(turn, owner, request);
        return;
    }
    let mut asked = std::mem::take(&mut shard.fetch_lists.asked);
    asked.clear();
    wants_of(&parsed, &shard.image, &mut asked);
    let forgotten = parsed
        .forgotten()
        .map(|(topic, n)| (key_of(topic), n))
        .collect();
    let by_id = version >= TOPIC_ID_FROM;
    let now = turn.now.mono;
    let mode = match shard
        .sessions
        .begin(now, session, by_id, &mut asked, forgotten)
    {
        Ok(mode) => mode,
        Err(error) => {
            shard.fetch_lists.asked = asked;
            shard.answer_session_error(turn, request.reply, error);
            return;
        }
    };
    let wait_ms = match request.reply.to {
        ReplyTo::Conn(..) => parsed.max_wait_ms,
        ReplyTo::Shard(..) => parsed.max_wait_ms.min(FORWARDED_WAIT_MS_MAX),
    };
    let limit = shard.broker.fetch.max_bytes.min(parsed.max_bytes).max(0);
    let mut wants = shard.fetch_lists.wants.pop().unwrap_or_default();
    wants.extend(asked.drain(..).map(|want| shard.want(want)));
    shard.fetch_lists.asked = asked;
    let fetch = Fetch {
        mode,
        session,
        wants,
        outstanding: 0,
        max_bytes: limit as usize,
        min_bytes: u64::try_from(parsed.min_bytes.min(limit)).unwrap_or(0),
        committed_only: parsed.isolation_level == 1,
        deadline: now.plus_ms(wait_ms.into()),
        phase: Phase::Reading,
        reply: request.reply,
    };
    let id = shard.next_id();
    if let ReplyTo::Conn(conn, _) = fetch.reply.to
        && let Some(conn) = shard.conns.get_mut(&conn)
    {
        conn.fetches.push(id);
    }
    shard.fetches.insert(id, fetch);
    shard.read_all(turn, id);
}

/// Lists of fetches that were answered, for those to come.
#[derive(Default)]
pub(crate) struct FetchLists {
    asked: Vec<FetchPartition>,
    wants: Vec<Vec<Want>>,
}

/// Lists kept for reuse, and the longest that is kept.
const LISTS_KEPT: usize = 256;
const LIST_KEPT_MAX: usize = 64;

impl FetchLists {
    fn give_back(&mut self, mut wants: Vec<Want>) {
        if self.wants.len() < LISTS_KEPT && wants.capacity() <= LIST_KEPT_MAX {
            wants.clear();
            self.wants.push(wants);
        }
        if self.asked.capacity() > LIST_KEPT_MAX {
            self.asked = Vec::new();
        }
    }
}

fn key_of(topic: TopicRef<'_>) -> TopicKey {
    match topic {
        TopicRef::Name(name) => TopicKey::Name(name.into()),
        TopicRef::Id(id) => TopicKey::Id(id),
    }
}

/// As [`key_of`]; shares the name of a topic that there is.
fn key_of_known(topic: TopicRef<'_>, image: &Image) -> TopicKey {
    match topic {
        TopicRef::Name(name) => match image.topic(name) {
            Some(known) => TopicKey::Name(Arc::clone(&known.name)),
            None => TopicKey::Name(name.into()),
        },
        TopicRef::Id(id) => TopicKey::Id(id),
    }
}

fn wants_of(request: &FetchRequest<'_>, image: &Image, wants: &mut Vec<FetchPartition>) {
    wants.reserve(request.partition_count);
    let mut ordinal = usize::MAX;
    for p in request.partitions() {
        // Partitions of one topic share its name.
        let topic = match wants.last() {
            Some(last) if p.topic_ordinal == ordinal => last.topic.clone(),
            _ => key_of_known(p.topic, image),
        };
        ordinal = p.topic_ordinal;
        wants.push(FetchPartition {
            topic,
            partition: p.index,
            current_leader_epoch: p.current_leader_epoch,
            fetch_offset: p.fetch_offset,
            last_fetched_epoch: p.last_fetched_epoch,
            max_bytes: p.max_bytes,
        });
    }
}

impl Shard {
    fn want(&self, want: FetchPartition) -> Want {
        let (topic, unknown) = match &want.topic {
            TopicKey::Name(name) => (self.image.topic(name), ErrorCode::UnknownTopicOrPartition),
            TopicKey::Id(id) => (self.image.topic_by_id(id), ErrorCode::UnknownTopicId),
        };
        let tp = match topic {
            None => Err(unknown),
            Some(topic) if topic.partition(want.partition).is_none() => {
                Err(ErrorCode::UnknownTopicOrPartition)
            }
            Some(topic) => Ok(crate::image::id_of(topic, want.partition)),
        };
        Want {
            want,
            tp,
            result: None,
            grown: 0,
        }
    }

    /// Asks the owners for the data of all partitions that have no result yet.
    fn read_all(&mut self, turn: &mut Turn<'_>, id: u64) {
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        fetch.phase = Phase::Reading;
        let mut count = 0;
        for want in &mut fetch.wants {
            match want.tp {
                // What is not known has no aborted transactions, rather than none that were asked.
                Err(error) => {
                    want.result = Some(Box::new(ReadResult {
                        aborted: Some(Vec::new()),
                        ..ReadResult::refused(error)
                    }));
                }
                Ok(_) if want.result.is_none() => count += 1,
                Ok(_) => {}
            }
        }
        // Results of this shard's own partitions come only after this.
        fetch.outstanding = count;
        if count == 0 {
            self.all_read(turn, id);
            return;
        }
        let mut index = 0;
        while let Some(fetch) = self.fetches.get(&id)
            && let Some(want) = fetch.wants.get(index)
        {
            if let (Ok(tp), None) = (want.tp, &want.result) {
                let op = want.read(fetch.max_bytes as u32, fetch.committed_only);
                let op = Op::Partition(tp, PartitionOp::Read(op));
                self.send_op(turn, self.owner(tp), id, index as u32, op);
            }
            index += 1;
        }
    }

    /// A result of a read, or a watched partition has grown. Those of fetches that are gone are
    /// ignored.
    pub(crate) fn take_fetch_result(&mut self, turn: &mut Turn<'_>, reply: OpReply) {
        let id = reply.gather;
        let Some(fetch) = self.fetches.get_mut(&id) else {
            if let OpResult::Read(result) = reply.result {
                self.take_group_read(turn, id, *result);
            }
            return;
        };
        let Some(want) = fetch.wants.get_mut(reply.index as usize) else {
            return;
        };
        match (reply.result, fetch.phase) {
            (OpResult::Read(result), Phase::Reading) => {
                want.result = Some(result);
                fetch.outstanding -= 1;
                if fetch.outstanding == 0 {
                    self.all_read(turn, id);
                }
            }
            (OpResult::Wake(grown), Phase::Waiting { had }) => {
                want.grown = grown;
                let grown = fetch
                    .wants
                    .iter()
                    .fold(0u64, |n, w| n.saturating_add(w.grown));
                if had.saturating_add(grown) >= fetch.min_bytes {
                    self.stop_waiting(turn, id);
                    self.read_grown(turn, id);
                }
            }
            _ => {}
        }
    }

    /// All results are there: answer, or wait for more.
    fn all_read(&mut self, turn: &mut Turn<'_>, id: u64) {
        let stopping = self.life.is_stopping();
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        let results = || fetch.wants.iter().filter_map(|w| w.result.as_ref());
        let had: u64 = results().map(|r| r.bytes() as u64).sum();
        let urgent = results().any(|r| !r.error.is_none() || r.diverging.is_some());
        let late = fetch.deadline <= turn.now.mono || stopping;
        if had >= fetch.min_bytes || urgent || late || fetch.wants.is_empty() {
            self.answer_fetch(turn, id);
            return;
        }
        fetch.phase = Phase::Waiting { had };
        let deadline = fetch.deadline;
        self.timers.arm(deadline, TimerKey::Fetch(id));
        let mut index = 0;
        while let Some(fetch) = self.fetches.get(&id)
            && let Some(want) = fetch.wants.get(index)
        {
            if let Ok(tp) = want.tp {
                let seen = want.result.as_ref().map_or(-1, |r| r.high_watermark);
                let op = Op::Partition(tp, PartitionOp::Watch(seen));
                self.send_op(turn, self.owner(tp), id, index as u32, op);
            }
            index += 1;
        }
    }

    /// Reads those partitions again that have grown: of the others the result still holds.
    fn read_grown(&mut self, turn: &mut Turn<'_>, id: u64) {
        if let Some(fetch) = self.fetches.get_mut(&id) {
            for want in fetch.wants.iter_mut().filter(|want| want.grown > 0) {
                want.result = None;
                want.grown = 0;
            }
        }
        self.read_all(turn, id);
    }

    /// Takes timer and watches of a waiting fetch back.
    fn stop_waiting(&mut self, turn: &mut Turn<'_>, id: u64) {
        let Some(fetch) = self.fetches.get(&id) else {
            return;
        };
        if !matches!(fetch.phase, Phase::Waiting { .. }) {
            return;
        }
        self.timers.disarm(fetch.deadline, TimerKey::Fetch(id));
        let watched = fetch.wants.iter().filter_map(|w| w.tp.ok());
        let mut owners: SmallVec<[ShardId; 8]> = SmallVec::new();
        for owner in watched.map(|tp| self.owner(tp)) {
            if owners.last() != Some(&owner) {
                owners.push(owner);
            }
        }
        owners.sort_unstable();
        owners.dedup();
        for owner in owners {
            if owner == self.id {
                self.unwatch(owner, id);
            } else {
                turn.fx.push(Effect::Mesh(owner, Mesh::Unwatch(id)));
            }
        }
    }

    /// `max_wait_ms` is over: what is there is the answer.
    pub(crate) fn fetch_timed_out(&mut self, turn: &mut Turn<'_>, id: u64) {
        let Some(fetch) = self.fetches.get(&id) else {
            return;
        };
        if matches!(fetch.phase, Phase::Waiting { .. }) {
            let grown = fetch.wants.iter().any(|w| w.grown > 0);
            self.stop_waiting(turn, id);
            if grown {
                self.read_grown(turn, id);
            } else {
                self.answer_fetch(turn, id);
            }
        }
    }

    /// Its connection is gone.
    pub(crate) fn cancel_fetch(&mut self, turn: &mut Turn<'_>, id: u64) {
        self.stop_waiting(turn, id);
        self.fetches.remove(&id);
    }

    fn answer_session_error(&mut self, turn: &mut Turn<'_>, reply: Reply, error: ErrorCode) {
        let (version, correlation) = (reply.version, reply.correlation_id);
        let framer = FetchFramer::new(version, correlation, 0, error.code(), 0, 0);
        self.send_fetch(turn, reply, framer, &mut []);
    }

    fn answer_fetch(&mut self, turn: &mut Turn<'_>, id: u64) {
        let Some(mut fetch) = self.fetches.remove(&id) else {
            return;
        };
        if let ReplyTo::Conn(conn, _) = fetch.reply.to
            && let Some(conn) = self.conns.get_mut(&conn)
        {
            conn.fetches.retain(|f| *f != id);
        }
        fetch.keep_within_limit();
        let mut noted = Vec::new();
        for want in &mut fetch.wants {
            let Some(result) = &want.result else {
                continue;
            };
            let answered = answered(result);
            let include = match fetch.mode {
                Mode::Sessionless => true,
                Mode::Full => {
                    noted.push((want.want.clone(), answered));
                    true
                }
                Mode::Incremental(session) => {
                    let (topic, n) = (&want.want.topic, want.want.partition);
                    self.sessions.must_answer(session, topic, n, &answered)
                }
            };
            if !include {
                want.result = None;
            }
        }
        fetch.wants.retain(|want| want.result.is_some());
        let version = fetch.reply.version;
        let session_id = match fetch.mode {
            Mode::Sessionless => 0,
            Mode::Full if fetch.session.1 != INITIAL_EPOCH || version < 7 => 0,
            Mode::Full => {
                let by_id = version >= TOPIC_ID_FROM;
                self.sessions
                    .create(turn.now.mono, by_id, &mut self.prng, &noted)
            }
            Mode::Incremental(session) if self.sessions.is_current(session, fetch.session.1) => {
                session
            }
            Mode::Incremental(_) => {
                let error = ErrorCode::InvalidFetchSessionEpoch;
                self.answer_session_error(turn, fetch.reply, error);
                return;
            }
        };
        self.frame_fetch(turn, fetch.reply, session_id, fetch.wants);
    }

    /// Sends what `wants` have as results.
    fn frame_fetch(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        session_id: i32,
        mut wants: Vec<Want>,
    ) {
        let same_topic = |a: &Want, b: &Want| a.want.topic == b.want.topic;
        let topics = wants.chunk_by(same_topic).count();
        let (version, correlation) = (reply.version, reply.correlation_id);
        let memory = self.responses.take();
        let start = (0, session_id, topics);
        let mut framer = FetchFramer::with_buf(memory, version, correlation, 0, start);
        for of_topic in wants.chunk_by(same_topic) {
            for (n, want) in of_topic.iter().enumerate() {
                if n == 0 {
                    framer.topic(topic_ref(&want.want.topic), of_topic.len());
                }
                if let Some(result) = &want.result {
                    framer.partition(&head(&want.want, result, version));
                }
            }
        }
        self.send_fetch(turn, reply, framer, &mut wants);
        for result in wants.iter_mut().filter_map(|want| want.result.take()) {
            self.partitions.spare_results.give_back(result);
        }
        self.fetch_lists.give_back(wants);
    }

    fn send_fetch(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        framer: FetchFramer,
        wants: &mut [Want],
    ) {
        match framer.finish(&[]) {
            Ok(frame) => {
                let with_data = |want: &mut Want| {
                    let data = &mut want.result.as_mut()?.data;
                    (!data.is_empty()).then(|| std::mem::take(data))
                };
                let mut data = wants.iter_mut().filter_map(with_data);
                let mut segments = SmallVec::new();
                let (parts, rest) = frame.split_parts();
                for (bytes, gap) in parts {
                    if !bytes.is_empty() {
                        segments.push(Segment::Bytes(bytes));
                    }
                    if gap > 0 {
                        segments.extend(data.next().into_iter().flatten());
                    }
                }
                self.responses.give_back(rest);
                self.send(turn, reply, Some(Response { segments }));
            }
            Err(error) => {
                tracing::error!(%error, "a fetch response could not be framed");
                let reason = crate::io::CloseReason::Malformed(error.to_string());
                self.close_reply(turn, reply, reason);
            }
        }
    }
}

impl Want {
    fn read(&self, limit: u32, committed_only: bool) -> ReadOp {
        ReadOp {
            offset: self.want.fetch_offset,
            max_bytes: u32::try_from(self.want.max_bytes).unwrap_or(0).min(limit),
            min_one: true,
            current_leader_epoch: self.want.current_leader_epoch,
            last_fetched_epoch: self.want.last_fetched_epoch,
            committed_only,
        }
    }
}

impl Fetch {
    /// Drops what goes beyond the request's limit; the first data of all comes whole, or nothing
    /// would ever move.
    fn keep_within_limit(&mut self) {
        let mut left = self.max_bytes;
        let mut first = true;
        for want in &mut self.wants {
            let Some(result) = &mut want.result else {
                continue;
            };
            let len = result.bytes();
            if len == 0 {
                continue;
            }
            if !first && len > left {
                cut(&mut result.data, left);
            }
            first = false;
            left = left.saturating_sub(result.bytes());
        }
    }
}

/// Keeps whole pieces within `limit`. A range of a file goes as a whole, because where its batches
/// end is not known here.
fn cut(data: &mut SmallVec<[Segment; 2]>, limit: usize) {
    let mut total = 0;
    let keep = data.iter().take_while(|segment| {
        total += segment.len();
        total <= limit
    });
    let keep = keep.count();
    data.truncate(keep);
}

fn answered(result: &ReadResult) -> Answered {
    Answered {
        error: result.error.code(),
        high_watermark: result.high_watermark,
        log_start: result.log_start,
        bytes: result.bytes(),
        diverging: result.diverging.is_some(),
    }
}

fn topic_ref(topic: &TopicKey) -> TopicRef<'_> {
    match topic {
        TopicKey::Name(name) => TopicRef::Name(name),
        TopicKey::Id(id) => TopicRef::Id(*id),
    }
}

fn head<'a>(want: &FetchPartition, result: &'a ReadResult, version: i16) -> PartitionHead<'a> {
    PartitionHead {
        index: want.partition,
        error_code: result.error.code(),
        high_watermark: result.high_watermark,
        last_stable_offset: result.last_stable,
        log_start_offset: result.log_start,
        aborted: result.aborted.as_deref(),
        preferred_read_replica: -1,
        diverging_epoch: result.diverging.filter(|_| version >= 12),
        current_leader: None,
        records_len: Some(result.bytes()),
    }
}
