//! ShareFetch (78), versions 1 and 2 (KIP-932; v2: strict limits, KIP-1206, and renewed locks,
//! KIP-1222).
//!
//! The request belongs to the member's share session, which its connection's shard has. What it
//! says of records goes to their partitions first; then the partitions of the session are asked for
//! records, one after the other while there is room. If none has any, their owners are asked to
//! tell, until `max_wait_ms` is over.
//!
//! ```text
//! new session: shard 0 agrees -> acknowledgements go out -> Acquiring -- something, an error,
//!                                                             ^   |      or time is over --> Done
//!                                                    woken by |   v nothing                   |
//!                                                          Waiting           answered when all
//!                                                                     acknowledgements are, too
//! ```
//! Where more than one byte is wanted, the partitions are first asked how much they have (Probing).

use super::share_acks::{self, Said};
use super::{decode, share_answer};
use crate::io::ConnId;
use crate::ops::{OF_SHARES, Op, OpReply, OpRequest, OpResult, PartitionOp};
use crate::request::{Reply, ReplyTo, Request};
use crate::share_sessions::{FINAL_EPOCH, INITIAL_EPOCH, MemberKey, ShareSessionOp};
use crate::shares::{ShareAckOp, ShareAcquireOp, ShareAcquired};
use crate::timers::TimerKey;
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, Mono, PartitionIndex, ShardId, TopicPartition, Uuid};
use flumen_wire::messages as wire;

/// `ShareAcquireMode`: no more records than asked for.
const STRICT: i8 = 1;

/// A share fetch in progress, or a ShareAcknowledge.
pub(crate) struct ShareFetch {
    pub(super) reply: Reply,
    pub(super) conn: ConnId,
    pub(super) key: MemberKey,
    pub(super) epoch: i32,
    pub(super) wants: Vec<ShareWant>,
    /// Acknowledgements that are not answered.
    acks_left: usize,
    /// Places in `wants` of the partitions that are asked for records, in this order.
    order: Vec<usize>,
    /// How many of them were asked.
    asked: usize,
    limits: FetchLimits,
    left: (i64, usize),
    deadline: Mono,
    armed: bool,
    phase: Phase,
    /// The number of the session that is being made.
    number: u64,
}

/// What a request says of how much.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FetchLimits {
    strict: bool,
    batch_size: i64,
    max_records: i64,
    max_bytes: usize,
    max_wait_ms: i32,
    min_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Shard 0 is asked for a session.
    Opening,
    /// There is no room for a session: the client is kept from asking again at once.
    Refused,
    /// Partitions are asked how much they have: bytes so far, and answers that are missing.
    Probing(u64, usize),
    Acquiring,
    Waiting,
    Done,
}

/// One partition of a share fetch.
pub(super) struct ShareWant {
    pub(super) topic: Uuid,
    pub(super) index: PartitionIndex,
    pub(super) tp: Result<TopicPartition, ErrorCode>,
    pub(super) result: Option<Box<ShareAcquired>>,
    /// What became of what the request says of its records.
    pub(super) acked: Option<ErrorCode>,
    watched: bool,
}

impl ShareWant {
    pub(super) fn new(
        (topic, index): (Uuid, PartitionIndex),
        tp: Result<TopicPartition, ErrorCode>,
    ) -> Self {
        Self {
            topic,
            index,
            tp,
            result: None,
            acked: None,
            watched: false,
        }
    }

    pub(super) fn place(&self) -> (Uuid, PartitionIndex) {
        (self.topic, self.index)
    }
}

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::ShareFetchRequest<'_>);
    let version = request.reply.version;
    let ReplyTo::Conn(conn, _) = request.reply.to else {
        return; // it is never forwarded
    };
    let said = share_acks::said_in_fetch(&message, version);
    let named = message.topics.iter().flat_map(|t| {
        let partitions = t.partitions.iter();
        partitions.map(|p| (t.topic_id, p.partition_index))
    });
    let named: Vec<_> = named.collect();
    let forgotten = message.forgotten_topics_data.iter();
    let forgotten = forgotten.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p)));
    let forgotten: Vec<_> = forgotten.collect();
    let epoch = message.share_session_epoch;
    let renews = version >= 2 && message.is_renew_ack;
    let checked = shard.check_share_request(&message.group_id, &message.member_id);
    let checked = checked.and_then(|key| {
        let amounts = [message.max_bytes, message.min_bytes, message.max_records];
        let wants_any = amounts.iter().any(|n| *n != 0) || message.max_wait_ms != 0;
        match renews && wants_any {
            true => Err(ErrorCode::InvalidRequest),
            false => Ok(key),
        }
    });
    let max_bytes = message.max_bytes.min(shard.broker.fetch.max_bytes).max(0);
    let limits = FetchLimits {
        strict: version >= 2 && message.share_acquire_mode == STRICT,
        batch_size: i64::from(message.batch_size).max(1),
        max_records: match renews || epoch == FINAL_EPOCH {
            true => 0,
            false => message.max_records.into(),
        },
        max_bytes: max_bytes as usize,
        max_wait_ms: message.max_wait_ms,
        min_bytes: u64::try_from(message.min_bytes.min(max_bytes)).unwrap_or(0),
    };
    drop(message);
    let begun = checked.and_then(|key| {
        let session = shard.begin_share_request(&key, epoch, &named, &forgotten, &said)?;
        Ok((key, session))
    });
    match begun {
        Err(error) => share_answer::refuse_fetch(shard, turn, request.reply, error),
        Ok((key, places)) => {
            let mut fetch = ShareFetch::new(request.reply, conn, key, (epoch, turn.now.mono));
            fetch.set_limits(limits, turn.now.mono);
            fetch.wants = shard.share_wants(places, &said);
            shard.start_share_fetch(turn, fetch, said);
        }
    }
}

impl ShareFetch {
    pub(super) fn new(
        reply: Reply,
        conn: ConnId,
        key: MemberKey,
        (epoch, now): (i32, Mono),
    ) -> Self {
        Self {
            reply,
            conn,
            key,
            epoch,
            wants: Vec::new(),
            acks_left: 0,
            order: Vec::new(),
            asked: 0,
            limits: FetchLimits::default(),
            left: (0, 0),
            deadline: now,
            armed: false,
            phase: Phase::Acquiring,
            number: 0,
        }
    }

    fn set_limits(&mut self, limits: FetchLimits, now: Mono) {
        self.limits = limits;
        self.deadline = now.plus_ms(limits.max_wait_ms.into());
    }

    /// The partitions in the order in which they are asked: from another one each time.
    fn begin_round(&mut self) {
        self.order = (0..self.wants.len()).collect();
        let count = self.order.len();
        if self.epoch >= 1 && count > 1 {
            self.order
                .rotate_left(self.epoch.unsigned_abs() as usize % count);
        }
        self.asked = 0;
        self.left = (self.limits.max_records, self.limits.max_bytes);
        for want in &mut self.wants {
            want.result = None;
        }
        self.phase = Phase::Acquiring;
    }

    /// Whether no records are asked for.
    fn wants_none(&self) -> bool {
        self.limits.max_records <= 0 || self.limits.max_bytes == 0
    }

    /// Whether there is something to be answered at once. Partitions that there are not can wait
    /// for the others.
    fn has_something(&self) -> bool {
        let there = self.wants.iter().filter(|want| want.tp.is_ok());
        let mut results = there.filter_map(|want| want.result.as_ref());
        results.any(|r| !r.error.is_none() || !r.acquired.is_empty())
    }
}

impl Shard {
    /// Begins a request whose session is in order (or is yet to be made).
    pub(super) fn start_share_fetch(
        &mut self,
        turn: &mut Turn<'_>,
        mut fetch: ShareFetch,
        said: Vec<Said>,
    ) {
        let id = self.share_fetches.reserve();
        if let Some(conn) = self.conns.get_mut(&fetch.conn) {
            conn.fetches.push(OF_SHARES | id);
        }
        if fetch.epoch == INITIAL_EPOCH {
            self.forget_share_session(&fetch.key);
            fetch.number = self.next_id();
            fetch.phase = Phase::Opening;
            let open = ShareSessionOp::Open(fetch.key.clone(), fetch.number);
            self.share_fetches.fill(id, fetch);
            let op = Op::ShareSession(open);
            return self.send_op(turn, ShardId::FIRST, OF_SHARES | id, 0, op);
        }
        let ops = self.share_acks(&mut fetch, said);
        fetch.begin_round();
        let wants_none = fetch.wants_none();
        // All of it stands before the first operation is carried out, here perhaps.
        self.share_fetches.fill(id, fetch);
        for (index, tp, op) in ops {
            let op = Op::Partition(tp, PartitionOp::ShareAcknowledge(Box::new(op)));
            self.send_op(turn, self.owner(tp), OF_SHARES | id, index, op);
        }
        match self.share_fetches.lift(id) {
            Some(fetch) if wants_none => self.share_fetch_done(turn, id, fetch),
            Some(fetch) => self.begin_acquiring(turn, id, fetch),
            None => {}
        }
    }

    /// Begins a round; where more than a byte is wanted, only if there is enough.
    fn begin_acquiring(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: ShareFetch) {
        fetch.begin_round();
        let late = fetch.deadline <= turn.now.mono || self.life.is_stopping();
        let places = fetch.wants.iter().zip(0..);
        let places = places.filter_map(|(want, index)| Some((index, want.tp.ok()?)));
        let places: Vec<(u32, TopicPartition)> = places.collect();
        if fetch.limits.min_bytes <= 1 || late || places.is_empty() {
            return self.acquire_next(turn, id, fetch);
        }
        fetch.phase = Phase::Probing(0, places.len());
        let group = fetch.key.0.clone();
        let max_bytes = u32::try_from(fetch.limits.max_bytes).unwrap_or(u32::MAX);
        self.share_fetches.fill(id, fetch);
        for (index, tp) in places {
            let group = group.clone();
            let op = Op::Partition(tp, PartitionOp::ShareProbe { group, max_bytes });
            self.send_op(turn, self.owner(tp), OF_SHARES | id, index, op);
        }
    }

    /// The operations of what a request says of records; what is wrong with it is noted.
    fn share_acks(
        &self,
        fetch: &mut ShareFetch,
        said: Vec<Said>,
    ) -> Vec<(u32, TopicPartition, ShareAckOp)> {
        let mut ops = Vec::new();
        for said in said {
            let place = (said.topic, said.index);
            let want = fetch
                .wants
                .iter_mut()
                .zip(0..)
                .find(|(w, _)| w.place() == place);
            let Some((want, index)) = want else {
                continue;
            };
            match (said.valid, want.tp) {
                (Err(error), Ok(_)) | (_, Err(error)) => want.acked = Some(error),
                (Ok(()), Ok(tp)) => {
                    fetch.acks_left += 1;
                    let op = ShareAckOp {
                        group: fetch.key.0.clone(),
                        member: fetch.key.1.clone(),
                        batches: said.batches,
                        renews: said.renews,
                    };
                    ops.push((index, tp, op));
                }
            }
        }
        ops
    }

    /// Asks the next partition for records, or ends the round.
    fn acquire_next(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: ShareFetch) {
        let (records, bytes) = fetch.left;
        let room = records > 0 && bytes > 0;
        while let Some(place) = fetch.order.get(fetch.asked).copied().filter(|_| room) {
            fetch.asked += 1;
            let Some(want) = fetch.wants.get_mut(place) else {
                continue;
            };
            let tp = match want.tp {
                Ok(tp) => tp,
                Err(error) => {
                    want.result = Some(Box::new(ShareAcquired::refused(error)));
                    continue;
                }
            };
            let op = PartitionOp::ShareAcquire(Box::new(ShareAcquireOp {
                group: fetch.key.0.clone(),
                member: fetch.key.1.clone(),
                strict: fetch.limits.strict,
                batch_size: fetch.limits.batch_size,
                max_records: records,
                max_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            }));
            self.share_fetches.fill(id, fetch);
            let index = place as u32;
            return self.send_op(
                turn,
                self.owner(tp),
                OF_SHARES | id,
                index,
                Op::Partition(tp, op),
            );
        }
        let late = fetch.deadline <= turn.now.mono || self.life.is_stopping();
        let nowhere = fetch.wants.iter().all(|want| want.tp.is_err());
        if fetch.wants_none() || nowhere || late || fetch.has_something() {
            return self.share_fetch_done(turn, id, fetch);
        }
        self.wait_for_records(turn, id, fetch, false);
    }

    /// Has the partitions tell when there is something; `only_news`: more than there is now.
    fn wait_for_records(
        &mut self,
        turn: &mut Turn<'_>,
        id: u64,
        mut fetch: ShareFetch,
        only_news: bool,
    ) {
        fetch.phase = Phase::Waiting;
        if !std::mem::replace(&mut fetch.armed, true) {
            self.timers.arm(fetch.deadline, TimerKey::ShareFetch(id));
        }
        let mut places = Vec::new();
        for (index, want) in (0..).zip(&mut fetch.wants) {
            if let Ok(tp) = want.tp {
                want.watched = true;
                places.push((index, tp));
            }
        }
        let group = fetch.key.0.clone();
        self.share_fetches.fill(id, fetch);
        for (index, tp) in places {
            let group = group.clone();
            let op = Op::Partition(tp, PartitionOp::ShareWatch { group, only_news });
            self.send_op(turn, self.owner(tp), OF_SHARES | id, index, op);
        }
    }

    /// A result for a share fetch. Those of fetches that are gone are ignored.
    pub(crate) fn take_share_result(&mut self, turn: &mut Turn<'_>, reply: OpReply) {
        let id = reply.gather & !OF_SHARES;
        let Some(mut fetch) = self.share_fetches.lift(id) else {
            return;
        };
        let want = fetch.wants.get_mut(reply.index as usize);
        match (reply.result, fetch.phase) {
            (OpResult::ShareSession(room), Phase::Opening) => {
                return self.share_session_opened(turn, id, fetch, room);
            }
            (OpResult::ShareAcknowledged(error), _) => {
                if let Some(want) = want {
                    want.acked = Some(error);
                    fetch.acks_left = fetch.acks_left.saturating_sub(1);
                }
                if fetch.phase == Phase::Done && fetch.acks_left == 0 {
                    return self.answer_share_fetch(turn, id, fetch);
                }
            }
            (OpResult::ShareAcquired(result), Phase::Acquiring) => {
                fetch.left.0 -= result.count();
                fetch.left.1 = fetch.left.1.saturating_sub(result.bytes());
                if let Some(want) = want {
                    want.result = Some(result);
                }
                return self.acquire_next(turn, id, fetch);
            }
            (OpResult::ShareProbed(bytes), Phase::Probing(before, left)) => {
                let (bytes, left) = (before.saturating_add(bytes), left.saturating_sub(1));
                fetch.phase = Phase::Probing(bytes, left);
                if bytes >= fetch.limits.min_bytes {
                    fetch.phase = Phase::Acquiring;
                    return self.acquire_next(turn, id, fetch);
                }
                if left == 0 {
                    return self.wait_for_records(turn, id, fetch, true);
                }
            }
            (OpResult::Wake(bytes), Phase::Waiting) => {
                self.end_share_watches(id, &mut fetch);
                if bytes == 0 {
                    fetch.begin_round();
                    return self.acquire_next(turn, id, fetch);
                }
                return self.begin_acquiring(turn, id, fetch);
            }
            _ => {}
        }
        self.share_fetches.fill(id, fetch);
    }

    /// Shard 0 has agreed to a session, or there is no room for one.
    fn share_session_opened(
        &mut self,
        turn: &mut Turn<'_>,
        id: u64,
        mut fetch: ShareFetch,
        room: bool,
    ) {
        if !room {
            fetch.phase = Phase::Refused;
            fetch.armed = true;
            self.timers.arm(fetch.deadline, TimerKey::ShareFetch(id));
            self.share_fetches.fill(id, fetch);
            return;
        }
        let places: Vec<_> = fetch.wants.iter().map(ShareWant::place).collect();
        self.make_share_session(fetch.conn, &fetch.key, fetch.number, &places);
        if fetch.wants_none() {
            return self.share_fetch_done(turn, id, fetch);
        }
        self.begin_acquiring(turn, id, fetch);
    }

    /// `max_wait_ms` is over.
    pub(crate) fn share_fetch_timed_out(&mut self, turn: &mut Turn<'_>, id: u64) {
        let Some(mut fetch) = self.share_fetches.lift(id) else {
            return;
        };
        fetch.armed = false;
        match fetch.phase {
            Phase::Refused => {
                self.end_share_fetch(id, &mut fetch);
                let error = ErrorCode::ShareSessionLimitReached;
                share_answer::refuse_fetch(self, turn, fetch.reply, error);
            }
            // Less than was wanted is something, too.
            Phase::Waiting if fetch.limits.min_bytes > 1 => {
                self.end_share_watches(id, &mut fetch);
                self.begin_acquiring(turn, id, fetch);
            }
            Phase::Waiting => self.share_fetch_done(turn, id, fetch),
            _ => self.share_fetches.fill(id, fetch),
        }
    }

    /// What there is has been handed out; the answer leaves when all acknowledgements are answered.
    fn share_fetch_done(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: ShareFetch) {
        self.end_share_watches(id, &mut fetch);
        fetch.phase = Phase::Done;
        if fetch.acks_left == 0 {
            return self.answer_share_fetch(turn, id, fetch);
        }
        self.share_fetches.fill(id, fetch);
    }

    fn answer_share_fetch(&mut self, turn: &mut Turn<'_>, id: u64, mut fetch: ShareFetch) {
        self.end_share_fetch(id, &mut fetch);
        share_answer::answer(self, turn, fetch);
    }

    fn end_share_watches(&mut self, id: u64, fetch: &mut ShareFetch) {
        let gather = OF_SHARES | id;
        for (index, want) in (0..).zip(&mut fetch.wants) {
            let (true, Ok(tp)) = (std::mem::take(&mut want.watched), want.tp) else {
                continue;
            };
            let owner = self.owner(tp);
            if owner == self.id {
                let from = crate::ops::OpFrom {
                    shard: owner,
                    gather,
                    index,
                };
                self.partitions.unwatch(&from);
                self.shares.unwatch(&from);
            } else {
                let op = Op::Unwatch;
                self.outbox.op(owner, OpRequest { gather, index, op });
            }
        }
    }

    /// Takes back all that a fetch has armed. Its id is of the past.
    fn end_share_fetch(&mut self, id: u64, fetch: &mut ShareFetch) {
        self.end_share_watches(id, fetch);
        if std::mem::take(&mut fetch.armed) {
            self.timers.disarm(fetch.deadline, TimerKey::ShareFetch(id));
        }
        self.share_fetches.remove(id);
        if let Some(conn) = self.conns.get_mut(&fetch.conn) {
            conn.fetches.retain(|f| *f != OF_SHARES | id);
        }
    }

    /// Its connection is gone. What it was given is handed out to others when its session ends.
    pub(crate) fn cancel_share_fetch(&mut self, turn: &mut Turn<'_>, id: u64) {
        let Some(mut fetch) = self.share_fetches.lift(id) else {
            return;
        };
        if fetch.phase == Phase::Opening {
            // Shard 0 counts a session that will never be.
            let close = ShareSessionOp::Close(fetch.key.clone(), fetch.number);
            self.send_op(turn, ShardId::FIRST, 0, 0, Op::ShareSession(close));
        }
        self.end_share_fetch(id, &mut fetch);
    }

    /// The broker stops: fetches that wait are answered with what there is.
    pub(crate) fn end_share_waits(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<u64> = self.share_fetches.ids().collect();
        for id in ids {
            if let Some(mut fetch) = self.share_fetches.lift(id) {
                if std::mem::take(&mut fetch.armed) {
                    self.timers.disarm(fetch.deadline, TimerKey::ShareFetch(id));
                }
                self.share_fetches.fill(id, fetch);
                self.share_fetch_timed_out(turn, id);
            }
        }
    }
}
