//! Share partitions (KIP-932) on the shard that owns the log: what share groups have in flight of
//! this shard's partitions. The rules are in [`flumen_coordinator::share`]; here is what they need
//! from outside: the stored state when one begins, records to hand out (`share_acquire.rs`),
//! changes to be stored (`share_persist.rs`), time.
//!
//! ```text
//! first fetch -> Loading: the stored state is read; without a start offset it is found by
//!                `share.auto.offset.reset` -> Ready: fetches are served one after the other
//! nobody fetches for the group any more, its state has begun anew, or the log is gone -> forgotten
//! ```

use crate::Shard;
use crate::ops::{
    ListOffsetOp, ListedOffset, OF_GROUPS, Op, OpFrom, OpResult, PartitionOp, ReadOp, WatchOp,
};
use crate::partition::ReadStep;
use crate::share_acquire::Reading;
use crate::share_persist::{Persisting, load};
use crate::share_rules::Reset;
use crate::share_states::{
    ShareStateAnswer, ShareStateDeed, ShareStateFor, ShareStateOp, ShareStateResult,
};
use crate::timers::TimerKey;
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::limits::SHARE_PARTITION_WAITING_MAX;
use flumen_base::{ErrorCode, IdMap, Mono, TopicPartition};
use flumen_coordinator::share::{AckBatch, Acquired, ShareKey, SharePartition};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A member wants records.
#[derive(Debug)]
pub(crate) struct ShareAcquireOp {
    pub(crate) group: Arc<str>,
    pub(crate) member: Arc<str>,
    pub(crate) strict: bool,
    pub(crate) batch_size: i64,
    pub(crate) max_records: i64,
    pub(crate) max_bytes: u32,
}

/// What it gets.
#[derive(Debug)]
pub(crate) struct ShareAcquired {
    pub(crate) error: ErrorCode,
    /// Whole batches that have something of what was handed out.
    pub(crate) data: Vec<Bytes>,
    pub(crate) acquired: Vec<Acquired>,
}

impl ShareAcquired {
    /// A refusal, or with NONE: there is nothing.
    pub(crate) fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            data: Vec::new(),
            acquired: Vec::new(),
        }
    }

    /// How many records.
    pub(crate) fn count(&self) -> i64 {
        let counts = self
            .acquired
            .iter()
            .map(|piece| piece.last - piece.first + 1);
        counts.sum()
    }

    /// Bytes of them.
    pub(crate) fn bytes(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

/// What a member says of records that it holds.
#[derive(Debug)]
pub(crate) struct ShareAckOp {
    pub(crate) group: Arc<str>,
    pub(crate) member: Arc<str>,
    /// First and last offset, and what is said: once for all, or of each.
    pub(crate) batches: Vec<(i64, i64, Vec<i8>)>,
    /// Locks may be renewed.
    pub(crate) renews: bool,
}

/// Where a share partition stands.
pub(super) enum Stand {
    /// Its stored state is being read, or (with it) its start offset is being looked up.
    Loading(Option<Box<ShareStateAnswer>>),
    Ready(Box<SharePartition>),
}

/// A share partition.
pub(super) struct Shared {
    pub(super) group: Arc<str>,
    pub(super) tp: TopicPartition,
    pub(super) stand: Stand,
    /// Fetches that wait for it, or for the one that is being served.
    pub(super) waiting: VecDeque<(OpFrom, Box<ShareAcquireOp>)>,
    /// The one that is being served.
    pub(super) reading: Option<Reading>,
    /// Who wants to know that there is something.
    watchers: Vec<OpFrom>,
    pub(super) persisting: Persisting,
    /// When the next lock runs out, as far as a timer is armed for it.
    armed: Option<Mono>,
    /// To be forgotten when nothing is being stored.
    leaving: bool,
}

impl Shared {
    /// The partition, once it is ready.
    pub(super) fn ready(&mut self) -> Option<&mut SharePartition> {
        match &mut self.stand {
            Stand::Ready(partition) => Some(partition),
            Stand::Loading(_) => None,
        }
    }

    pub(super) fn key(&self) -> ShareKey {
        ShareKey {
            group: self.group.clone(),
            topic: self.tp.topic_id,
            partition: self.tp.partition,
        }
    }
}

/// All share partitions of a shard.
#[derive(Default)]
pub(crate) struct Shares {
    by_key: BTreeMap<(TopicPartition, Arc<str>), u64>,
    pub(super) map: IdMap<u64, Shared>,
    /// The share partition that each watch is of.
    watching: IdMap<OpFrom, u64>,
    /// The share partition that each read of a log is for.
    pub(super) reads: IdMap<u64, u64>,
}

impl Shares {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Ends a watch, if there is one.
    pub(crate) fn unwatch(&mut self, from: &OpFrom) {
        let n = self.watching.remove(from);
        if let Some(shared) = n.and_then(|n| self.map.get_mut(&n)) {
            shared.watchers.retain(|watcher| watcher != from);
        }
    }

    fn number(&self, tp: TopicPartition, group: &Arc<str>) -> Option<u64> {
        self.by_key.get(&(tp, group.clone())).copied()
    }
}

impl Shard {
    // ---- operations ----

    /// PartitionOp::ShareAcquire.
    pub(crate) fn share_acquire(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: Box<ShareAcquireOp>,
    ) {
        let known = self.shares.number(tp, &op.group);
        let n = match known {
            Some(n) => n,
            None => self.begin_share(turn, tp, op.group.clone()),
        };
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        shared.leaving = false;
        if shared.waiting.len() >= SHARE_PARTITION_WAITING_MAX {
            let nothing = Box::new(ShareAcquired::refused(ErrorCode::None));
            self.outbox.result(from, OpResult::ShareAcquired(nothing));
            return;
        }
        shared.waiting.push_back((from, op));
        self.share_next(turn, n);
    }

    /// A share partition that nobody has fetched from: its stored state is asked for.
    fn begin_share(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, group: Arc<str>) -> u64 {
        let n = self.next_id();
        let shared = Shared {
            group: group.clone(),
            tp,
            stand: Stand::Loading(None),
            waiting: VecDeque::new(),
            reading: None,
            watchers: Vec::new(),
            persisting: Persisting::default(),
            armed: None,
            leaving: false,
        };
        let leader_epoch = self.partitions.get(&tp).map_or(-1, |p| p.leader_epoch);
        let op = ShareStateOp {
            key: shared.key(),
            deed: ShareStateDeed::Read { leader_epoch },
            who: ShareStateFor::Partition,
        };
        self.shares.by_key.insert((tp, group), n);
        self.shares.map.insert(n, shared);
        self.send_share_state(turn, (n, 0), op);
        n
    }

    /// PartitionOp::ShareProbe: bytes that a fetch would read now.
    pub(crate) fn share_bytes(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        group: &Arc<str>,
        max_bytes: u32,
    ) -> u64 {
        let Some(n) = self.shares.number(tp, group) else {
            self.begin_share(turn, tp, group.clone());
            return 0;
        };
        let Some(offset) = self.share_offset(turn, n) else {
            return 0;
        };
        let op = ReadOp {
            offset,
            max_bytes,
            min_one: true,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            committed_only: self.share_rules(group).committed_only,
        };
        let p = self.partitions.map.get_mut(&tp);
        match p.map(|p| p.read(&op, &mut self.partitions.spare_results)) {
            Some(ReadStep::Done(result)) => {
                let bytes = result.bytes() as u64;
                self.partitions.spare_results.give_back(result);
                bytes
            }
            _ => u64::MAX, // not known without the disk: there is much
        }
    }

    /// PartitionOp::ShareAcknowledge.
    pub(crate) fn share_acknowledge(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: &ShareAckOp,
    ) {
        let n = self.shares.number(tp, &op.group);
        let rules = self.share_rules(&op.group);
        let shared = n.and_then(|n| self.shares.map.get_mut(&n));
        let (Some(n), Some(partition)) = (n, shared.and_then(Shared::ready)) else {
            let error = ErrorCode::UnknownTopicOrPartition;
            return self.outbox.result(from, OpResult::ShareAcknowledged(error));
        };
        let batches = op.batches.iter().map(|(first, last, types)| AckBatch {
            first: *first,
            last: *last,
            types,
        });
        let batches: Vec<_> = batches.collect();
        let renews = op.renews && rules.renews;
        let now = turn.now.mono;
        match partition.acknowledge(now, &op.member, &batches, &rules.limits, renews) {
            Ok(Some(persist)) => self.share_persist(turn, n, persist, Some(from)),
            Ok(None) => {
                let done = OpResult::ShareAcknowledged(ErrorCode::None);
                self.outbox.result(from, done);
            }
            Err(error) => self.outbox.result(from, OpResult::ShareAcknowledged(error)),
        }
        self.arm_share_locks(n);
    }

    /// PartitionOp::ShareRelease.
    pub(crate) fn share_release(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        group: &Arc<str>,
        member: &Arc<str>,
    ) {
        let Some(n) = self.shares.number(tp, group) else {
            return;
        };
        let limits = self.share_rules(group).limits;
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        // What it has asked for and not got it does not need any more. It may be there again with
        // another session, and then asks once more.
        let waiting = std::mem::take(&mut shared.waiting).into_iter();
        let (gone, stay): (VecDeque<_>, _) = waiting.partition(|(_, op)| op.member == *member);
        shared.waiting = stay;
        for (from, _) in gone {
            let nothing = Box::new(ShareAcquired::refused(ErrorCode::None));
            self.outbox.result(from, OpResult::ShareAcquired(nothing));
        }
        if let Some(reading) = shared.reading.as_mut().filter(|r| r.op.member == *member) {
            reading.cancelled = true;
        }
        let persist = shared.ready().and_then(|p| p.release(member, &limits));
        if let Some(persist) = persist {
            self.share_persist(turn, n, persist, None);
        }
    }

    /// PartitionOp::ShareWatch.
    pub(crate) fn share_watch(
        &mut self,
        from: OpFrom,
        tp: TopicPartition,
        group: &Arc<str>,
        only_news: bool,
    ) {
        let Some(n) = self.shares.number(tp, group) else {
            // It could not be loaded, and a probe would not say so.
            return self.outbox.result(from, OpResult::Wake(0));
        };
        if !only_news && self.share_has_something(n) {
            return self.outbox.result(from, OpResult::Wake(u64::MAX));
        }
        if let Some(shared) = self.shares.map.get_mut(&n) {
            shared.watchers.push(from);
            self.shares.watching.insert(from, n);
        }
        let above = self.partitions.get(&tp).map_or(-1, |p| p.high_watermark());
        let op = WatchOp {
            above,
            log_start: None,
            once: true,
        };
        self.watch(from, tp, op);
    }

    /// Whether a fetch would get something now.
    fn share_has_something(&mut self, n: u64) -> bool {
        let Some(shared) = self.shares.map.get(&n) else {
            return true;
        };
        let (tp, busy) = (shared.tp, shared.reading.is_some());
        let rules = self.share_rules(&shared.group.clone());
        let bound = self
            .partitions
            .get(&tp)
            .map(|p| p.read_bound(rules.committed_only));
        let partition = self.shares.map.get_mut(&n).and_then(Shared::ready);
        match (partition, bound) {
            (Some(partition), Some(bound)) if !busy => {
                partition.can_acquire(&rules.limits) && partition.next_fetch_offset() < bound
            }
            _ => false,
        }
    }

    /// Those who wait fetch again if there is something for them and nobody is being served.
    pub(super) fn tell_share_watchers(&mut self, n: u64) {
        let waited_for = self
            .shares
            .map
            .get(&n)
            .is_some_and(|s| !s.watchers.is_empty());
        if waited_for && self.share_has_something(n) {
            self.wake_share_watchers(n);
        }
    }

    /// There is something for a share group, or may be: those who wait for it fetch again.
    pub(super) fn wake_share_watchers(&mut self, n: u64) {
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        for from in std::mem::take(&mut shared.watchers) {
            self.shares.watching.remove(&from);
            self.partitions.unwatch(&from);
            self.outbox.result(from, OpResult::Wake(u64::MAX));
        }
    }

    // ---- beginning ----

    /// OpResult::ShareStored: the stored state of a share partition, or what became of a change.
    pub(crate) fn share_stored(&mut self, turn: &mut Turn<'_>, n: u64, result: ShareStateResult) {
        match self.shares.map.get(&n).map(|shared| &shared.stand) {
            None => {}
            Some(Stand::Ready(_)) => self.share_persisted(turn, n, result.err()),
            Some(Stand::Loading(_)) => match result {
                Ok(answer) if answer.start_offset >= 0 => self.share_ready(turn, n, &answer),
                Ok(answer) => self.find_share_start(turn, n, answer),
                Err(error) => self.drop_share(n, stored_error(error)),
            },
        }
    }

    /// A state without a start offset: it is found as the group's settings say.
    fn find_share_start(&mut self, turn: &mut Turn<'_>, n: u64, mut answer: Box<ShareStateAnswer>) {
        let Some(shared) = self.shares.map.get(&n) else {
            return;
        };
        let (tp, group) = (shared.tp, shared.group.clone());
        let (high, start) = match self.partitions.get(&tp) {
            Some(p) if p.log().is_some() => (p.high_watermark(), p.log_start()),
            _ => return self.drop_share(n, ErrorCode::NotLeaderOrFollower),
        };
        match self.share_rules(&group).reset {
            Reset::Latest => answer.start_offset = high,
            Reset::Earliest => answer.start_offset = start,
            Reset::Within(ms) => {
                let op = PartitionOp::ListOffset(ListOffsetOp {
                    timestamp: turn.now.wall_ms.saturating_sub(ms).max(0),
                    current_leader_epoch: -1,
                    committed_only: false,
                    epochs: true,
                });
                if let Some(shared) = self.shares.map.get_mut(&n) {
                    shared.stand = Stand::Loading(Some(answer));
                }
                return self.send_op(turn, self.id, OF_GROUPS | n, 0, Op::Partition(tp, op));
            }
        }
        self.share_ready(turn, n, &answer);
    }

    /// The first record of a time has been looked up.
    pub(crate) fn share_start_found(
        &mut self,
        turn: &mut Turn<'_>,
        n: u64,
        found: Result<ListedOffset, ErrorCode>,
    ) {
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        let Stand::Loading(Some(answer)) = &mut shared.stand else {
            return;
        };
        let mut answer = std::mem::take(answer);
        let tp = shared.tp;
        match found {
            Err(error) => return self.drop_share(n, error),
            Ok(found) if found.offset >= 0 => answer.start_offset = found.offset,
            // Nothing is as young as that: what comes is.
            Ok(_) => {
                let high = self.partitions.get(&tp).map_or(0, |p| p.high_watermark());
                answer.start_offset = high.max(0);
            }
        }
        self.share_ready(turn, n, &answer);
    }

    fn share_ready(&mut self, turn: &mut Turn<'_>, n: u64, answer: &ShareStateAnswer) {
        match (load(answer), self.shares.map.get_mut(&n)) {
            (Ok(partition), Some(shared)) => {
                shared.stand = Stand::Ready(Box::new(partition));
                self.share_next(turn, n);
            }
            (Err(error), _) => {
                tracing::error!(%error, "a stored share state does not hold together");
                self.drop_share(n, ErrorCode::UnknownServerError);
            }
            (Ok(_), None) => {}
        }
    }

    // ---- time ----

    /// Arms the timer of the next lock that runs out.
    pub(super) fn arm_share_locks(&mut self, n: u64) {
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        let wanted = shared.ready().and_then(|p| p.next_deadline());
        if let Some(at) = wanted
            && shared.armed.is_none_or(|armed| at < armed)
        {
            if let Some(before) = shared.armed.replace(at) {
                self.timers.disarm(before, TimerKey::ShareLocks(n));
            }
            self.timers.arm(at, TimerKey::ShareLocks(n));
        }
    }

    /// Locks may have run out.
    pub(crate) fn share_locks_due(&mut self, turn: &mut Turn<'_>, n: u64) {
        if let Some(shared) = self.shares.map.get_mut(&n) {
            shared.armed = None;
            self.expire_share_locks(turn, n);
            self.arm_share_locks(n);
        }
    }

    /// Takes back what is held too long; others may have it.
    pub(super) fn expire_share_locks(&mut self, turn: &mut Turn<'_>, n: u64) {
        let Some(shared) = self.shares.map.get(&n) else {
            return;
        };
        let limits = self.share_rules(&shared.group).limits;
        let partition = self.shares.map.get_mut(&n).and_then(Shared::ready);
        let persist = partition.and_then(|p| p.expire(turn.now.mono, &limits));
        if let Some(persist) = persist {
            self.share_persist(turn, n, persist, None);
            self.wake_share_watchers(n);
        }
    }

    // ---- ending ----

    /// Forgets a share partition; who waits hears why.
    pub(super) fn drop_share(&mut self, n: u64, error: ErrorCode) {
        self.wake_share_watchers(n);
        let Some(shared) = self.shares.map.remove(&n) else {
            return;
        };
        self.shares
            .by_key
            .remove(&(shared.tp, shared.group.clone()));
        if let Some(at) = shared.armed {
            self.timers.disarm(at, TimerKey::ShareLocks(n));
        }
        if let Some(reading) = &shared.reading {
            self.shares.reads.remove(&reading.id);
        }
        let served = shared.reading.map(|reading| (reading.from, reading.op));
        for (from, _) in shared.waiting.into_iter().chain(served) {
            let refused = Box::new(ShareAcquired::refused(error));
            self.outbox.result(from, OpResult::ShareAcquired(refused));
        }
        for from in shared.persisting.into_waiting() {
            self.outbox.result(from, OpResult::ShareAcknowledged(error));
        }
    }

    /// The log of a partition is gone from here: what share groups had in flight of it is
    /// forgotten.
    pub(crate) fn drop_shares_of(&mut self, tp: TopicPartition, error: ErrorCode) {
        let from = (tp, Arc::from(""));
        let range = self.shares.by_key.range(from..);
        let numbers = range.take_while(|((of, _), _)| *of == tp).map(|(_, n)| *n);
        for n in numbers.collect::<Vec<_>>() {
            self.drop_share(n, error);
        }
    }

    /// Nobody fetches for a share group any more: its partitions are forgotten when all is stored.
    pub(crate) fn share_group_idle(&mut self, _turn: &mut Turn<'_>, group: &Arc<str>) {
        let of = self
            .shares
            .map
            .iter_mut()
            .filter(|(_, s)| s.group == *group);
        let mut idle = Vec::new();
        for (n, shared) in of {
            shared.leaving = true;
            idle.push(*n);
        }
        for n in idle {
            self.leave_share(n);
        }
    }

    /// Forgets a share partition that nobody needs, if all of it is stored.
    pub(super) fn leave_share(&mut self, n: u64) {
        let done = self.shares.map.get(&n).is_some_and(|shared| {
            let quiet = shared.waiting.is_empty() && shared.reading.is_none();
            shared.leaving && quiet && shared.persisting.is_idle()
        });
        if done {
            self.drop_share(n, ErrorCode::NotLeaderOrFollower);
        }
    }
}

/// What an error of the stored state means for members.
pub(super) fn stored_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::NotCoordinator
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::CoordinatorLoadInProgress => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::GroupIdNotFound | ErrorCode::UnknownTopicOrPartition => error,
        ErrorCode::FencedLeaderEpoch | ErrorCode::FencedStateEpoch => {
            ErrorCode::NotLeaderOrFollower
        }
        _ => ErrorCode::UnknownServerError,
    }
}
