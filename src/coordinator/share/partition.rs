//! The runs of a share partition, its offsets, its locks and what time does to them.

use super::{Persist, RecordState, StateBatch, Ticket};
use flumen_base::{ErrorCode, Mono};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The settings that bound a share partition; the group's own where it has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// Records between start and end offset (`group.share.partition.max.record.locks`).
    pub in_flight_max: i64,
    /// Deliveries of a record before it is archived (`group.share.delivery.count.limit`).
    pub deliveries_max: u16,
    /// How long an acquired record stays a member's, milliseconds
    /// (`group.share.record.lock.duration.ms`).
    pub lock_ms: i64,
}

/// Neighbouring offsets of one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Inclusive.
    pub(super) last: i64,
    pub(super) state: RecordState,
    pub(super) deliveries: u16,
    /// First and last offset of what was acquired together: later answers list such batches apart.
    pub(super) origin: (i64, i64),
    /// Who holds it and until when, while it is acquired.
    pub(super) lock: Option<Lock>,
    /// What it becomes when the change has been written. Nobody else may touch it until then.
    pub(super) change: Option<(Ticket, RecordState)>,
}

/// A member's hold on records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) member: Arc<str>,
    pub(super) until: Mono,
}

/// One share partition; see the module. All offsets are the log's.
#[derive(Debug)]
pub struct SharePartition {
    pub(super) start: i64,
    /// Exclusive: the first offset that nobody was given yet. Equal to `start` when nothing is in
    /// flight.
    pub(super) end: i64,
    /// By first offset, not overlapping, all within start..end. Holes have never been handed out.
    pub(super) runs: BTreeMap<i64, Run>,
    /// Whether something below `end` may be there to acquire.
    pub(super) look_below_end: bool,
    /// No lock runs out before.
    pub(super) first_expiry: Option<Mono>,
    state_epoch: i32,
    next_ticket: u64,
}

impl SharePartition {
    /// From what share state holds. `Err` when the batches are not in order, overlap or lie below
    /// the start: such a state is refused rather than guessed at.
    pub fn load(
        start_offset: i64,
        state_epoch: i32,
        batches: &[StateBatch],
    ) -> Result<Self, ErrorCode> {
        let mut runs = BTreeMap::new();
        let mut end = start_offset;
        for batch in batches {
            if batch.first < end || batch.last < batch.first || batch.last == i64::MAX {
                return Err(ErrorCode::CorruptMessage);
            }
            let state = match batch.state {
                // Locks do not survive: Kafka stores no acquired record either.
                RecordState::Acquired => RecordState::Available,
                other => other,
            };
            runs.insert(
                batch.first,
                Run {
                    last: batch.last,
                    state,
                    deliveries: batch.deliveries,
                    origin: (batch.first, batch.last),
                    lock: None,
                    change: None,
                },
            );
            end = batch.last + 1;
        }
        let mut partition = Self {
            start: start_offset,
            end,
            runs,
            look_below_end: true,
            first_expiry: None,
            state_epoch,
            next_ticket: 0,
        };
        partition.drop_finished();
        Ok(partition)
    }

    /// The first offset that is not finished.
    pub fn start_offset(&self) -> i64 {
        self.start
    }

    /// The epoch of the stored state: a write with an older one is fenced.
    pub fn state_epoch(&self) -> i32 {
        self.state_epoch
    }

    /// Records between start and end offset, finished ones included.
    pub fn in_flight(&self) -> i64 {
        self.end - self.start
    }

    /// Where the next read for this group starts: what was released or skipped first, then what
    /// nobody has had.
    pub fn next_fetch_offset(&mut self) -> i64 {
        if !self.look_below_end {
            return self.end;
        }
        let mut expected = self.start;
        for (&first, run) in &self.runs {
            if first > expected {
                return expected;
            }
            if run.is_free() {
                return first;
            }
            expected = run.last + 1;
        }
        self.look_below_end = false;
        self.end
    }

    /// Whether a read could end in records for somebody.
    pub fn can_acquire(&mut self, limits: &ShareLimits) -> bool {
        self.next_fetch_offset() < self.end || self.in_flight() < limits.in_flight_max
    }

    /// The log begins later than it did: what was below is forgotten, whoever held it.
    pub fn log_start_moved(&mut self, log_start: i64) {
        if log_start <= self.start {
            return;
        }
        self.split_at(log_start);
        self.runs = self.runs.split_off(&log_start);
        self.start = log_start;
        self.end = self.end.max(log_start);
        self.drop_finished();
    }

    /// When [`SharePartition::expire`] has something to do, at the earliest.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.first_expiry
    }

    /// Takes records back whose locks ran out. Written for a restart's sake; nothing waits for it.
    pub fn expire(&mut self, now: Mono, limits: &ShareLimits) -> Option<Persist> {
        if self.first_expiry.is_none_or(|at| at > now) {
            return None;
        }
        let mut next: Option<Mono> = None;
        let mut expired = Vec::new();
        for (&first, run) in &mut self.runs {
            let Some(until) = run.lock.as_ref().map(|lock| lock.until) else {
                continue;
            };
            if until > now {
                next = Some(next.map_or(until, |at| at.min(until)));
            } else if run.change.is_none() {
                run.lock = None;
                run.state = run.state_when_released(limits);
                expired.push(run.as_batch(first));
            }
        }
        self.first_expiry = next;
        self.freed(expired, None)
    }

    /// A member has left: what it holds is handed out again.
    pub fn release(&mut self, member: &str, limits: &ShareLimits) -> Option<Persist> {
        let ticket = self.ticket();
        let mut released = Vec::new();
        for (&first, run) in &mut self.runs {
            if run.held_by(member) && run.change.is_none() {
                let state = run.state_when_released(limits);
                run.change = Some((ticket, state));
                let batch = run.as_batch(first);
                released.push(StateBatch { state, ..batch });
            }
        }
        (!released.is_empty()).then(|| self.persist(released, Some(ticket)))
    }

    /// The write of a change has ended: it holds, or everything is as before.
    pub fn settle(&mut self, ticket: Ticket, written: bool) {
        for run in self.runs.values_mut() {
            let Some((_, state)) = run.change.take_if(|(of, _)| *of == ticket) else {
                continue;
            };
            if written {
                run.lock = None;
                run.state = state;
                self.look_below_end |= state == RecordState::Available;
            } else if let Some(lock) = &run.lock {
                // A lock that ran out meanwhile is taken back with the next look at the clock.
                let until = lock.until;
                self.first_expiry = Some(self.first_expiry.map_or(until, |at| at.min(until)));
            }
        }
        self.drop_finished();
    }

    /// Offsets that hold nothing for this group, as those of an aborted transaction or those that
    /// compaction took away: finished unless somebody holds them already. Not written: they are
    /// found again.
    pub fn archive(&mut self, first: i64, last: i64) {
        let (first, last) = (first.max(self.start), last.min(self.end - 1));
        if first > last {
            return;
        }
        self.split_at(first);
        self.split_at(last + 1);
        for run in self.runs.range_mut(first..=last).map(|(_, run)| run) {
            if run.is_free() {
                run.state = RecordState::Archived;
            }
        }
        for (from, to) in self.holes(first, last) {
            let run = Run {
                last: to,
                state: RecordState::Archived,
                deliveries: 0,
                origin: (from, to),
                lock: None,
                change: None,
            };
            self.runs.insert(from, run);
        }
        self.drop_finished();
    }

    /// The parts of first..=last that no run covers.
    pub(super) fn holes(&self, first: i64, last: i64) -> Vec<(i64, i64)> {
        let mut holes = Vec::new();
        let mut expected = self
            .runs
            .range(..=first)
            .next_back()
            .map_or(first, |(_, run)| first.max(run.last + 1));
        for (&from, run) in self.runs.range(first..=last) {
            if from > expected {
                holes.push((expected, from - 1));
            }
            expected = expected.max(run.last + 1);
        }
        if expected <= last {
            holes.push((expected, last));
        }
        holes
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Makes `offset` the first of a run if one contains it.
    pub(super) fn split_at(&mut self, offset: i64) {
        let Some((&first, run)) = self.runs.range_mut(..offset).next_back() else {
            return;
        };
        if first < offset && run.last >= offset {
            let rest = run.clone();
            run.last = offset - 1;
            self.runs.insert(offset, rest);
        }
    }

    /// Moves the start over what is finished, and joins finished neighbours, so that the map grows
    /// with what is open and not with what was.
    pub(super) fn drop_finished(&mut self) {
        while let Some(entry) = self.runs.first_entry() {
            if *entry.key() != self.start || !entry.get().is_finished() {
                break;
            }
            self.start = entry.remove().last + 1;
        }
        let mut joined: Option<(i64, i64)> = None;
        let mut gone = Vec::new();
        let mut longer = Vec::new();
        for (&first, run) in &self.runs {
            let finished = run.is_finished();
            match &mut joined {
                Some((_, last)) if finished && *last + 1 == first => {
                    *last = run.last;
                    gone.push(first);
                }
                _ => {
                    longer.extend(joined.take());
                    joined = finished.then_some((first, run.last));
                }
            }
        }
        longer.extend(joined);
        if gone.is_empty() {
            return;
        }
        for first in gone {
            self.runs.remove(&first);
        }
        for (first, last) in longer {
            if let Some(run) = self.runs.get_mut(&first) {
                run.last = last;
            }
        }
    }

    pub(super) fn persist(&self, batches: Vec<StateBatch>, ticket: Option<Ticket>) -> Persist {
        let complete: i64 = self
            .runs
            .iter()
            .filter(|(_, run)| run.change.map_or(run.state, |(_, to)| to).is_final())
            .map(|(first, run)| run.last - first + 1)
            .sum();
        Persist {
            ticket,
            start_offset: self.start,
            delivery_complete_count: i32::try_from(complete).unwrap_or(i32::MAX),
            batches,
        }
    }

    fn freed(&mut self, batches: Vec<StateBatch>, ticket: Option<Ticket>) -> Option<Persist> {
        if batches.is_empty() {
            return None;
        }
        self.look_below_end = true;
        let persist = self.persist(batches, ticket);
        self.drop_finished();
        Some(persist)
    }
}

impl Run {
    /// May be acquired.
    pub(super) fn is_free(&self) -> bool {
        self.state == RecordState::Available && self.change.is_none()
    }

    fn is_finished(&self) -> bool {
        self.state.is_final() && self.change.is_none()
    }

    pub(super) fn held_by(&self, member: &str) -> bool {
        self.lock
            .as_ref()
            .is_some_and(|lock| &*lock.member == member)
    }

    /// What a record becomes that its holder gives back or loses.
    pub(super) fn state_when_released(&self, limits: &ShareLimits) -> RecordState {
        if self.deliveries >= limits.deliveries_max {
            RecordState::Archived
        } else {
            RecordState::Available
        }
    }

    pub(super) fn as_batch(&self, first: i64) -> StateBatch {
        StateBatch {
            first,
            last: self.last,
            state: self.state,
            deliveries: self.deliveries,
        }
    }
}
