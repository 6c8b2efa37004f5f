//! Deadlines of the members of a group whose assignment the coordinator makes. When one passes, its
//! member is fenced.
//!
//! They are not in records: after a restart, or when a write was taken back, sessions start anew.

use crate::group::Env;
use crate::timers::{Deadline, GroupSerial, MemberSerial, MemberTimer, TimerKey};
use flumen_base::Mono;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether a time of the wall clock is over that began at `since_ms`. A clock that was set back
/// meanwhile does not make it longer.
pub(crate) fn is_over(since_ms: i64, interval_ms: i64, now_ms: i64) -> bool {
    let passed_ms = now_ms.saturating_sub(since_ms);
    passed_ms < 0 || passed_ms >= interval_ms
}

/// The deadlines of one member.
#[derive(Debug, Default)]
struct Clock {
    /// Names it in queue entries.
    serial: MemberSerial,
    /// It must be heard of.
    session: Deadline,
    /// It must give up what it was asked to give up, while it is in this epoch.
    rebalance: Deadline,
    rebalance_epoch: i32,
    /// It was told to join; classic members of consumer groups.
    join: Deadline,
    /// It was answered and must fetch its assignment; classic members of consumer groups.
    sync: Deadline,
}

impl Clock {
    fn deadline(&mut self, timer: MemberTimer) -> &mut Deadline {
        match timer {
            MemberTimer::Session => &mut self.session,
            MemberTimer::Rebalance => &mut self.rebalance,
            MemberTimer::Join => &mut self.join,
            MemberTimer::Sync => &mut self.sync,
        }
    }

    fn owns(&self, timer: MemberTimer, at: Mono) -> bool {
        match timer {
            MemberTimer::Session => self.session.owns(at),
            MemberTimer::Rebalance => self.rebalance.owns(at),
            MemberTimer::Join => self.join.owns(at),
            MemberTimer::Sync => self.sync.owns(at),
        }
    }
}

/// A deadline that has passed.
pub(crate) struct Passed {
    pub(crate) member: Arc<str>,
    /// The epoch that the member had to leave; for [`MemberTimer::Rebalance`].
    pub(crate) epoch: i32,
}

/// The deadlines of a group's members.
#[derive(Debug, Default)]
pub(crate) struct MemberTimers {
    /// Behind a pointer: a tree's node has room for eleven, and most groups have few members.
    clocks: BTreeMap<Arc<str>, Box<Clock>>,
    serials: BTreeMap<MemberSerial, Arc<str>>,
    serial_last: MemberSerial,
}

impl MemberTimers {
    fn clock(&mut self, id: &Arc<str>) -> &mut Clock {
        let (serials, last) = (&mut self.serials, &mut self.serial_last);
        self.clocks.entry(id.clone()).or_insert_with(|| {
            *last += 1;
            serials.insert(*last, id.clone());
            Box::new(Clock {
                serial: *last,
                ..Clock::default()
            })
        })
    }

    /// Sets a deadline of a member.
    pub(crate) fn set(
        &mut self,
        env: &mut Env<'_>,
        group: GroupSerial,
        id: &Arc<str>,
        timer: MemberTimer,
        after_ms: i32,
    ) {
        let clock = self.clock(id);
        let key = TimerKey::Member(group, clock.serial, timer);
        let at = env.now.mono.plus_ms(after_ms.into());
        env.timers.set(clock.deadline(timer), key, at);
    }

    /// Gives a member so much time to leave an epoch in which it has to give something up.
    pub(crate) fn set_rebalance(
        &mut self,
        env: &mut Env<'_>,
        group: GroupSerial,
        id: &Arc<str>,
        (epoch, after_ms): (i32, i32),
    ) {
        self.set(env, group, id, MemberTimer::Rebalance, after_ms);
        self.clock(id).rebalance_epoch = epoch;
    }

    /// Whether a deadline is set.
    pub(crate) fn is_set(&self, id: &str, timer: MemberTimer) -> bool {
        let clock = self.clocks.get(id);
        clock.is_some_and(|c| match timer {
            MemberTimer::Session => c.session.is_set(),
            MemberTimer::Rebalance => c.rebalance.is_set(),
            MemberTimer::Join => c.join.is_set(),
            MemberTimer::Sync => c.sync.is_set(),
        })
    }

    /// Unsets a deadline.
    pub(crate) fn cancel(&mut self, id: &str, timer: MemberTimer) {
        if let Some(clock) = self.clocks.get_mut(id) {
            clock.deadline(timer).cancel();
        }
    }

    /// Forgets the deadlines of all but these members; those of them that have no session yet.
    pub(crate) fn fit<M>(&mut self, members: &BTreeMap<Arc<str>, Arc<M>>) -> Vec<Arc<M>> {
        let serials = &mut self.serials;
        self.clocks.retain(|id, clock| {
            let stays = members.contains_key(id);
            if !stays {
                serials.remove(&clock.serial);
            }
            stays
        });
        let lacks = |id: &Arc<str>| !self.is_set(id, MemberTimer::Session);
        let new = members.iter().filter(|(id, _)| lacks(id));
        new.map(|(_, member)| member.clone()).collect()
    }

    /// Forgets all deadlines: their queue entries may have come up while the group was put aside.
    pub(crate) fn clear(&mut self) {
        self.clocks.clear();
        self.serials.clear();
    }

    /// Whether a queue entry still belongs to a deadline.
    pub(crate) fn owns_entry(&self, at: Mono, serial: MemberSerial, timer: MemberTimer) -> bool {
        let clock = self.serials.get(&serial).and_then(|id| self.clocks.get(id));
        clock.is_some_and(|c| c.owns(timer, at))
    }

    /// The deadline that a queue entry is about, if it has passed.
    pub(crate) fn take_due(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        (serial, timer): (MemberSerial, MemberTimer),
    ) -> Option<Passed> {
        let member = self.serials.get(&serial)?.clone();
        let clock = self.clocks.get_mut(&member)?;
        let epoch = clock.rebalance_epoch;
        let now = env.now.mono;
        let due = env.timers.take_due(clock.deadline(timer), entry, now);
        due.then_some(Passed { member, epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::is_over;

    #[test]
    fn a_clock_that_was_set_back_makes_no_time_longer() {
        assert!(!is_over(1_000, 500, 1_499));
        assert!(is_over(1_000, 500, 1_500));
        assert!(is_over(1_000, 500, 999), "it was set back");
        assert!(is_over(1_000, 0, 1_000));
    }
}
