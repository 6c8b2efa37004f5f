//! Fetch (key 1), versions 4 to 18.
//!
//! The connection's shard asks the owners of the partitions for read plans, puts the answer
//! together around record bytes in memory and ranges of log files that it never copies
//! (`fetch_answer.rs`), and sends it. Where less than `min_bytes` is there it waits: the owners
//! tell it when their partitions grow, and it reads again when enough has come, or when
//! `max_wait_ms` is over.
//!
//! ```text
//! reading -- all results --> enough, an error, or time is over --> answer
//!    ^                          | too little
//!    +-- grown enough -- waiting (watches at the owners, a timer)
//! ```
//! - v7: sessions (KIP-227), see `session.rs`; a request for the session of another shard is
//!   forwarded to it. Its fetches read only the partitions with news, and their watches outlive
//!   them.
//! - v12: flexible, last fetched epoch and diverging epoch (KIP-595). v13: topics by id (KIP-516).
//! - v15: replica state as a tag (KIP-903). v16: leader tags (KIP-951). v18: high watermark of
//!   followers (KIP-1166).
//!
//! Gaps: fetches of followers are served as those of consumers; the leader tags; rack-aware replica
//! choice.

use crate::ops::{
    OF_GROUPS, OF_SESSIONS, Op, OpFrom, OpReply, OpRequest, OpResult, PartitionOp, ReadOp,
    ReadResult,
};
use crate::request::{Reply, ReplyTo, Request};
use crate::session::{self, FetchPartition, Mode, Reads, Said, TopicKey};
use crate::timers::WaitTimer;
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, Mono, TopicPartition};
use flumen_quorum::{Image, Topic};
use flumen_wire::DecodeError;
use flumen_wire::hot::TopicRef;
use flumen_wire::hot::fetch::FetchRequest;
use std::sync::Arc;

/// The first version that names topics by id.
const TOPIC_ID_FROM: i16 = 13;

/// A fetch for a connection of another shard waits at most so long: nothing tells this shard when
/// that connection ends. The client just asks again.
const FORWARDED_WAIT_MS_MAX: i32 = 5000;

/// A fetch in progress.
pub(crate) struct Fetch {
    pub(super) reply: Reply,
    pub(super) mode: Mode,
    pub(super) said: Said,
    pub(super) wants: Vec<Want>,
    outstanding: u32,
    pub(super) max_bytes: usize,
    pub(super) min_bytes: u64,
    deadline: Mono,
    /// Its deadline is armed.
    timer: Option<WaitTimer>,
    /// Its connection knows it, to cancel it.
    listed: bool,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Reading,
    /// The bytes that were there when the wait began.
    Waiting {
        had: u64,
    },
}

/// One partition of a fetch.
pub(super) struct Want {
    /// Its slot, where the fetch belongs to a session.
    pub(super) slot: u32,
    pub(super) want: FetchPartition,
    pub(super) tp: Result<TopicPartition, ErrorCode>,
    pub(super) result: Option<Box<ReadResult>>,
    /// To be read, or read again.
    unread: bool,
    /// Its owner tells of news, for this fetch alone.
    pub(super) watched: bool,
    /// Bytes that came since the wait began.
    grown: u64,
    /// The limit of the request left nothing of its data.
    pub(super) cut: bool,
}

impl Want {
    fn new(slot: u32, want: FetchPartition, tp: Result<TopicPartition, ErrorCode>) -> Self {
        Self {
            slot,
            want,
            tp,
            result: None,
            unread: true,
            watched: false,
            grown: 0,
            cut: false,
        }
    }

    pub(super) fn read(&self, limit: u32, committed_only: bool) -> ReadOp {
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

/// The partitions of a session's fetch; which topics they belong to is still to be found out.
impl Reads for Vec<Want> {
    fn add(&mut self, slot: u32, want: FetchPartition) {
        self.push(Want::new(slot, want, Err(ErrorCode::UnknownServerError)));
    }

    fn again(&mut self, place: u32) {
        if let Some(want) = self.get_mut(place as usize) {
            want.unread = true;
        }
    }

    fn count(&self) -> u32 {
        self.len() as u32
    }
}

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let version = request.version();
    let mut wants = shard.fetch_lists.take();
    let parsed = match parse(&request.body, version, &shard.image, &mut wants) {
        Ok(parsed) => parsed,
        Err(error) => {
            shard.fetch_lists.give_back(wants);
            shard.malformed(turn, request.reply, error);
            return;
        }
    };
    let said = Said {
        id: parsed.session_id,
        epoch: parsed.session_epoch,
        by_id: version >= TOPIC_ID_FROM,
        committed_only: parsed.isolation_level == 1,
    };
    let owner = session::shard_of(said.id, shard.shards);
    if said.id != 0 && owner != shard.id && matches!(request.reply.to, ReplyTo::Conn(..)) {
        shard.fetch_lists.give_back(wants);
        shard.forward(turn, owner, request);
        return;
    }
    let id = shard.fetches.reserve();
    let mode = match shard.begin_fetch(turn, id, &parsed, said, &mut wants) {
        Ok(mode) => mode,
        Err(error) => {
            shard.fetches.remove(id);
            shard.fetch_lists.give_back(wants);
            shard.answer_session_error(turn, request.reply, error);
            return;
        }
    };
    let wait_ms = match request.reply.to {
        ReplyTo::Conn(..) => parsed.max_wait_ms,
        ReplyTo::Shard(..) => parsed.max_wait_ms.min(FORWARDED_WAIT_MS_MAX),
    };
    let limit = shard.broker.fetch.max_bytes.min(parsed.max_bytes).max(0);
    let fetch = Fetch {
        mode,
        said,
        wants,
        outstanding: 0,
        max_bytes: limit as usize,
        min_bytes: u64::try_from(parsed.min_bytes.min(limit)).unwrap_or(0),
        deadline: turn.now.mono.plus_ms(wait_ms.into()),
        timer: None,
        listed: false,
        phase: Phase::Reading,
        reply: request.reply,
    };
    shard.read_wants(turn, id, fetch);
}

/// Reads the request, and makes its partitions `wants`; they count only if there is no error.
fn parse<'a>(
    body: &'a [u8],
    version: i16,
    image: &Image,
    wants: &mut Vec<Want>,
) -> Result<FetchRequest<'a>, DecodeError> {
    let (mut ordinal, mut topic) = (usize::MAX, None);
    FetchRequest::parse_with(body, 0, version, |p| {
        // Partitions of one topic share its name.
        let key = match wants.last() {
            Some(last) if p.topic_ordinal == ordinal => last.want.topic.clone(),
            _ => {
                ordinal = p.topic_ordinal;
                topic = match p.topic {
                    TopicRef::Name(name) => image.topic(name),
                    TopicRef::Id(id) => image.topic_by_id(&id),
                };
                key_of(p.topic, topic)
            }
        };
        let tp = partition_of(topic, &key, p.index);
        let want = FetchPartition {
            topic: key,
            partition: p.index,
            current_leader_epoch: p.current_leader_epoch,
            fetch_offset: p.fetch_offset,
            last_fetched_epoch: p.last_fetched_epoch,
            max_bytes: p.max_bytes,
        };
        wants.push(Want::new(0, want, tp));
    })
}

/// The topic as the request names it; shares the name of one that there is.
fn key_of(topic: TopicRef<'_>, known: Option<&Arc<Topic>>) -> TopicKey {
    match (topic, known) {
        (TopicRef::Name(_), Some(known)) => TopicKey::Name(Arc::clone(&known.name)),
        (TopicRef::Name(name), None) => TopicKey::Name(name.into()),
        (TopicRef::Id(id), _) => TopicKey::Id(id),
    }
}

fn partition_of(
    topic: Option<&Arc<Topic>>,
    key: &TopicKey,
    index: i32,
) -> Result<TopicPartition, ErrorCode> {
    match (topic, key) {
        (None, TopicKey::Id(_)) => Err(ErrorCode::UnknownTopicId),
        (Some(topic), _) if topic.partition(index).is_some() => {
            Ok(crate::image::id_of(topic, index))
        }
        _ => Err(ErrorCode::UnknownTopicOrPartition),
    }
}

impl Shard {
    /// Brings the session up to date with the request; `wants` become what the fetch reads.
    fn begin_fetch(
        &mut self,
        turn: &mut Turn<'_>,
        id: u64,
        request: &FetchRequest<'_>,
        said: Said,
        wants: &mut Vec<Want>,
    ) -> Result<Mode, ErrorCode> {
        if said.epoch == session::FINAL_EPOCH && said.id == 0 {
            return Ok(Mode::Sessionless); // the quick way to what follows
        }
        let forgotten = request
            .forgotten()
            .map(|(topic, n)| (key_of(topic, None), n));
        let now = turn.now.mono;
        let mode = if said.epoch > 0 {
            let named = wants.drain(..).map(|want| want.want);
            self.sessions.begin(now, said, id, named, forgotten)
        } else {
            let none = std::iter::empty();
            self.sessions.begin(now, said, id, none, forgotten)
        };
        self.tidy_sessions(turn);
        if let Ok(Mode::Incremental(session)) = mode {
            self.sessions.take_due(session, wants);
            self.find_topics(wants, 0);
        }
        mode
    }

    /// Finds the partitions of a session's fetch, from place `from` on.
    fn find_topics(&self, wants: &mut [Want], from: usize) {
        for want in wants.iter_mut().skip(from) {
            let topic = match &want.want.topic {
                TopicKey::Name(name) => self.image.topic(name),
                TopicKey::Id(id) => self.image.topic_by_id(id),
            };
            want.tp = partition_of(topic, &want.want.topic, want.want.partition);
        }
    }

    /// Asks the owners for the data of all partitions that are to be read. Those of a session that
    /// come when the answer is full already wait for the next fetch.
    pub(super) fn read_wants(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: Fetch) {
        let limit = fetch.max_bytes as u32;
        let in_session = matches!(fetch.mode, Mode::Incremental(_));
        let (mut bytes, mut outstanding) = (0, 0);
        for (index, want) in (0..).zip(&mut fetch.wants) {
            if !want.unread || (in_session && bytes > 0 && bytes >= fetch.max_bytes) {
                continue;
            }
            want.unread = false;
            if let Some(before) = want.result.take() {
                self.partitions.spare_results.give_back(before);
            }
            let Ok(tp) = want.tp else {
                want.result = Some(self.unknown(want.tp));
                continue;
            };
            let op = want.read(limit, fetch.said.committed_only);
            let owner = self.owner(tp);
            if owner != self.id {
                let (gather, op) = (id, Op::Partition(tp, PartitionOp::Read(op)));
                self.outbox.op(owner, OpRequest { gather, index, op });
                outstanding += 1;
                continue;
            }
            let from = OpFrom {
                shard: self.id,
                gather: id,
                index,
            };
            want.result = self.read_here(turn, from, tp, op);
            match &want.result {
                Some(result) => bytes += result.bytes(),
                None => outstanding += 1,
            }
        }
        fetch.outstanding = outstanding;
        fetch.phase = Phase::Reading;
        if outstanding == 0 {
            self.all_read(turn, id, fetch);
        } else {
            self.keep_fetch(id, fetch);
        }
    }

    /// The result of a partition that there is not.
    fn unknown(&mut self, tp: Result<TopicPartition, ErrorCode>) -> Box<ReadResult> {
        let error = tp.err().unwrap_or(ErrorCode::UnknownTopicOrPartition);
        // It has no aborted transactions, rather than none that were asked for.
        self.partitions.spare_results.fill(ReadResult {
            aborted: Some(Vec::new()),
            ..ReadResult::refused(error)
        })
    }

    /// Puts a fetch back that has to wait for something.
    fn keep_fetch(&mut self, id: u64, mut fetch: Fetch) {
        if !fetch.listed
            && let ReplyTo::Conn(conn, _) = fetch.reply.to
            && let Some(conn) = self.conns.get_mut(&conn)
        {
            fetch.listed = true;
            conn.fetches.push(id);
        }
        self.fetches.fill(id, fetch);
    }

    /// A result of a read, or a watched partition has grown. Those of fetches that are gone are
    /// ignored.
    pub(crate) fn take_fetch_result(&mut self, turn: &mut Turn<'_>, reply: OpReply) {
        let id = reply.gather;
        if id & OF_SESSIONS != 0 {
            return self.session_moved(turn, (id & !OF_SESSIONS) as i32, reply.index);
        }
        if id & OF_GROUPS != 0 {
            if let OpResult::Read(result) = reply.result {
                self.take_other_read(turn, id & !OF_GROUPS, *result);
            }
            return;
        }
        let Some(fetch) = self.fetches.get_mut(id) else {
            return;
        };
        let min_bytes = fetch.min_bytes;
        let Some(want) = fetch.wants.get_mut(reply.index as usize) else {
            return;
        };
        match (reply.result, fetch.phase) {
            (OpResult::Read(result), Phase::Reading) => {
                want.result = Some(result);
                fetch.outstanding = fetch.outstanding.saturating_sub(1);
                if fetch.outstanding == 0
                    && let Some(fetch) = self.fetches.lift(id)
                {
                    self.all_read(turn, id, fetch);
                }
            }
            (OpResult::Wake(grown), Phase::Waiting { had }) => {
                want.grown = grown;
                want.watched &= had.saturating_add(1) < min_bytes; // or it was told once
                let grown = fetch.wants.iter().map(|want| want.grown);
                if grown.fold(had, u64::saturating_add) >= min_bytes
                    && let Some(fetch) = self.fetches.lift(id)
                    && let Some(fetch) = self.answer_like_last(turn, id, fetch)
                {
                    self.read_grown(turn, id, fetch);
                }
            }
            _ => {}
        }
    }

    /// Has a fetch of a session read those that have become due; whether there are any.
    pub(super) fn take_due(&mut self, session: i32, fetch: &mut Fetch) -> bool {
        let known = fetch.wants.len();
        let any = self.sessions.take_due(session, &mut fetch.wants);
        self.find_topics(&mut fetch.wants, known);
        any
    }

    /// All results are there: answer, or wait for more.
    fn all_read(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: Fetch) {
        let results = || fetch.wants.iter().filter_map(|w| w.result.as_ref());
        let had: u64 = results().map(|r| r.bytes() as u64).sum();
        let urgent = results().any(|r| !r.error.is_none() || r.diverging.is_some());
        let late = fetch.deadline <= turn.now.mono || self.life.is_stopping();
        let nothing = fetch.wants.is_empty() && !matches!(fetch.mode, Mode::Incremental(_));
        if had >= fetch.min_bytes || urgent || late || nothing {
            return self.answer_fetch(turn, id, fetch);
        }
        match fetch.mode {
            Mode::Incremental(session) => {
                if self.take_due(session, &mut fetch) {
                    // They got news while others were read.
                    return self.read_wants(turn, id, fetch);
                }
                for want in &fetch.wants {
                    self.watch_for_session(session, want);
                }
            }
            Mode::Sessionless | Mode::Full => self.watch_wants(id, had, &mut fetch),
        }
        fetch.phase = Phase::Waiting { had };
        if fetch.timer.is_none() {
            fetch.timer = Some(self.timers.arm_wait(fetch.deadline, id));
        }
        self.keep_fetch(id, fetch);
    }

    /// Reads those partitions again that have grown: of the others the result still holds.
    fn read_grown(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: Fetch) {
        self.end_watches(id, &mut fetch);
        for want in &mut fetch.wants {
            want.unread |= std::mem::take(&mut want.grown) > 0;
        }
        self.read_wants(turn, id, fetch);
    }

    /// `max_wait_ms` is over: what is there is the answer. One that is being read is answered when
    /// that is done.
    pub(crate) fn fetch_timed_out(&mut self, turn: &mut Turn<'_>, id: u64) {
        let waiting = |f: &mut Fetch| matches!(f.phase, Phase::Waiting { .. });
        if self.fetches.get_mut(id).is_some_and(waiting)
            && let Some(fetch) = self.fetches.lift(id)
        {
            if fetch.wants.iter().any(|want| want.grown > 0) {
                self.read_grown(turn, id, fetch);
            } else {
                self.answer_fetch(turn, id, fetch);
            }
        }
    }

    /// Takes back all that a fetch has armed. Its id is of the past.
    pub(super) fn end_fetch(&mut self, id: u64, fetch: &mut Fetch) {
        self.end_watches(id, fetch);
        if let Some(timer) = fetch.timer.take() {
            self.timers.disarm_wait(fetch.deadline, id, timer);
        }
        self.fetches.remove(id);
        if fetch.listed
            && let ReplyTo::Conn(conn, _) = fetch.reply.to
            && let Some(conn) = self.conns.get_mut(&conn)
        {
            conn.fetches.retain(|f| *f != id);
        }
    }
}
