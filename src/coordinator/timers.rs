//! Deadlines with a cost per heartbeat that does not depend on the number of members.
//!
//! The truth is a [`Deadline`] inside the member or group; the queue only holds hints. Moving a
//! deadline later (each heartbeat does) touches nothing but the field: the old entry comes up,
//! finds the deadline moved, and is queued again. So a member costs one queue operation per session
//! timeout, not per heartbeat.

use crate::limits::TIMER_SWEEP_MIN;
use flumen_base::{Mono, PartitionIndex};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Number of a group, unique in a coordinator's life: a deleted and recreated group never meets its
/// past.
pub(crate) type GroupSerial = u64;
/// Number of a member, unique within its group; in order of joining.
pub(crate) type MemberSerial = u64;

/// A deadline of a member of a consumer, share or streams group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MemberTimer {
    /// It must be heard of.
    Session,
    /// It must give up partitions or tasks.
    Rebalance,
    /// A classic member must join again.
    Join,
    /// A classic member must fetch its assignment.
    Sync,
}

/// What a queue entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    /// A member's session, or the time a pending member has to come back.
    Session(GroupSerial, MemberSerial),
    /// End of the join phase.
    Join(GroupSerial),
    /// End of the sync phase.
    Sync(GroupSerial),
    /// A deadline of a member of a consumer, share or streams group.
    Member(GroupSerial, MemberSerial, MemberTimer),
    /// Who joined a streams group that was empty has waited for others.
    Delay(GroupSerial),
    /// Next look for expired offsets and groups.
    Expiry(PartitionIndex),
}

/// A deadline that may be unset, and where its hint stands in the queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline {
    at: Option<Mono>,
    queued: Option<Mono>,
}

impl Deadline {
    /// Unset; the hint dies by itself.
    pub(crate) fn cancel(&mut self) {
        self.at = None;
    }

    /// Whether it is set.
    pub(crate) fn is_set(&self) -> bool {
        self.at.is_some()
    }

    /// Whether a queue entry of this time is this deadline's.
    pub(crate) fn owns(&self, entry: Mono) -> bool {
        self.queued == Some(entry)
    }
}

/// The queue of hints.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BinaryHeap<Reverse<(Mono, TimerKey)>>,
    sweep_at: usize,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, deadline: &mut Deadline, key: TimerKey, at: Mono) {
        deadline.at = Some(at);
        if deadline.queued.is_none_or(|queued| at < queued) {
            deadline.queued = Some(at);
            self.queue.push(Reverse((at, key)));
        }
    }

    /// When to look next; may be earlier than the earliest deadline.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next entry that is due.
    pub(crate) fn pop(&mut self, now: Mono) -> Option<(Mono, TimerKey)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop().map(|Reverse(entry)| entry)
    }

    /// Whether the deadline that `entry` hints at has passed; it is then unset. A deadline that
    /// moved is queued again.
    pub(crate) fn take_due(
        &mut self,
        deadline: &mut Deadline,
        (entry, key): (Mono, TimerKey),
        now: Mono,
    ) -> bool {
        if !deadline.owns(entry) {
            return false;
        }
        deadline.queued = None;
        match deadline.at {
            Some(at) if at <= now => {
                deadline.at = None;
                true
            }
            Some(at) => {
                self.set(deadline, key, at);
                false
            }
            None => false,
        }
    }

    /// Whether enough entries gathered to make a sweep worth it.
    pub(crate) fn wants_sweep(&self) -> bool {
        self.queue.len() > self.sweep_at.max(TIMER_SWEEP_MIN)
    }

    /// Drops the entries whose owner is gone.
    pub(crate) fn sweep(&mut self, alive: impl Fn(Mono, TimerKey) -> bool) {
        self.queue.retain(|Reverse((at, key))| alive(*at, *key));
        self.sweep_at = self.queue.len() * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_do_not_touch_the_queue() {
        let mut timers = Timers::default();
        let mut deadlines: Vec<_> = (0..10_000).map(|_| Deadline::default()).collect();
        let mut popped = 0;
        for second in 0..60u64 {
            let now = Mono(second * 1_000_000_000);
            while let Some(entry) = timers.pop(now) {
                popped += 1;
                let TimerKey::Session(group, _) = entry.1 else {
                    unreachable!("only sessions were set");
                };
                let deadline = &mut deadlines[group as usize];
                assert!(!timers.take_due(deadline, entry, now), "nobody fell silent");
            }
            for (group, deadline) in deadlines.iter_mut().enumerate() {
                let key = TimerKey::Session(group as u64, 1);
                timers.set(deadline, key, now.plus_ms(10_000));
            }
            assert_eq!(timers.queue.len(), 10_000);
        }
        assert!(
            popped < 10_000 * 60 / 8,
            "{popped} looks for 600,000 heartbeats"
        );
    }

    #[test]
    fn a_deadline_moved_earlier_fires_then_and_only_once() {
        let mut timers = Timers::default();
        let mut deadline = Deadline::default();
        let key = TimerKey::Join(1);
        timers.set(&mut deadline, key, Mono(100));
        timers.set(&mut deadline, key, Mono(50));
        let entry = timers.pop(Mono(50)).unwrap();
        assert!(timers.take_due(&mut deadline, entry, Mono(50)));
        let stale = timers.pop(Mono(100)).unwrap();
        assert!(!timers.take_due(&mut deadline, stale, Mono(100)));
        timers.set(&mut deadline, key, Mono(200));
        deadline.cancel();
        let entry = timers.pop(Mono(300)).unwrap();
        assert!(!timers.take_due(&mut deadline, entry, Mono(300)));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_sweep_drops_what_nobody_owns() {
        let mut timers = Timers::default();
        for group in 0..2_000 {
            let mut gone = Deadline::default();
            timers.set(&mut gone, TimerKey::Join(group), Mono(group + 1));
        }
        assert!(timers.wants_sweep());
        timers.sweep(|_, key| key == TimerKey::Join(7));
        assert_eq!(timers.next(), Some(Mono(8)));
        assert!(!timers.wants_sweep());
    }
}
