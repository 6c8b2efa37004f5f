//! Deadlines of the members of a consumer group. When one passes, its member is fenced.
//!
//! They are not in records: after a restart, or when a write was taken back, sessions start anew.

use super::ConsumerGroup;
use super::member::{Member, MemberState};
use crate::group::{Env, Group};
use crate::timers::{Deadline, GroupSerial, MemberSerial, MemberTimer, TimerKey};
use flumen_base::Mono;
use std::sync::Arc;

/// The deadlines of one member.
#[derive(Debug, Default)]
pub(crate) struct MemberTimers {
    /// Names it in queue entries.
    serial: MemberSerial,
    /// It must be heard of.
    session: Deadline,
    /// It must give up what it was asked to give up, while it is in this epoch.
    rebalance: Deadline,
    rebalance_epoch: i32,
    /// It was told to join; classic members.
    join: Deadline,
    /// It was answered and must fetch its assignment; classic members.
    sync: Deadline,
}

impl MemberTimers {
    fn deadline(&mut self, timer: MemberTimer) -> &mut Deadline {
        match timer {
            MemberTimer::Session => &mut self.session,
            MemberTimer::Rebalance => &mut self.rebalance,
            MemberTimer::Join => &mut self.join,
            MemberTimer::Sync => &mut self.sync,
        }
    }
}

/// The session timeout of a group's members that speak the consumer protocol.
pub(super) fn session_timeout_ms(env: &Env<'_>, group: &str) -> i32 {
    let own = env.metadata.group_settings(group).session_timeout_ms;
    own.unwrap_or(env.config.consumer_group_session_timeout_ms)
}

impl ConsumerGroup {
    fn timers_of(&mut self, id: &str) -> Option<&mut MemberTimers> {
        let (id, _) = self.members().get_key_value(id)?;
        let id = id.clone();
        if !self.timers.contains_key(&id) {
            self.serial_last += 1;
            self.serials.insert(self.serial_last, id.clone());
            let timers = MemberTimers {
                serial: self.serial_last,
                ..MemberTimers::default()
            };
            self.timers.insert(id.clone(), timers);
        }
        self.timers.get_mut(&id)
    }

    /// Sets a deadline of a member.
    pub(super) fn set_timer(
        &mut self,
        env: &mut Env<'_>,
        group: GroupSerial,
        id: &str,
        timer: MemberTimer,
        after_ms: i32,
    ) {
        let Some(timers) = self.timers_of(id) else {
            return;
        };
        let key = TimerKey::Member(group, timers.serial, timer);
        let at = env.now.mono.plus_ms(after_ms.into());
        env.timers.set(timers.deadline(timer), key, at);
    }

    /// Sets a deadline, unless it is set.
    pub(super) fn set_timer_if_absent(
        &mut self,
        env: &mut Env<'_>,
        group: GroupSerial,
        id: &str,
        timer: MemberTimer,
        after_ms: i32,
    ) {
        let timers = self.timers_of(id);
        if timers.is_some_and(|t| !t.deadline(timer).is_set()) {
            self.set_timer(env, group, id, timer, after_ms);
        }
    }

    /// Unsets a deadline.
    pub(super) fn cancel_timer(&mut self, id: &str, timer: MemberTimer) {
        if let Some(timers) = self.timers.get_mut(id) {
            timers.deadline(timer).cancel();
        }
    }

    /// The time to give up partitions begins, or ends, after a change of what a member has. Classic
    /// members have their join and sync deadlines instead.
    pub(super) fn watch_revocation(
        &mut self,
        env: &mut Env<'_>,
        group: GroupSerial,
        member: &Member,
    ) {
        if member.is_classic() {
            return;
        }
        if member.state != MemberState::Unrevoked {
            return self.cancel_timer(&member.id, MemberTimer::Rebalance);
        }
        let after_ms = member.rebalance_timeout_ms;
        self.set_timer(env, group, &member.id, MemberTimer::Rebalance, after_ms);
        if let Some(timers) = self.timers.get_mut(&member.id) {
            timers.rebalance_epoch = member.epoch;
        }
    }

    /// Members that are gone have no deadlines; those that have none get a session.
    pub(super) fn fit_timers(&mut self, env: &mut Env<'_>, group: (GroupSerial, &str)) {
        let members = self.members();
        let gone = self.timers.keys().filter(|id| !members.contains_key(*id));
        for id in gone.cloned().collect::<Vec<_>>() {
            if let Some(timers) = self.timers.remove(&id) {
                self.serials.remove(&timers.serial);
            }
        }
        let lacks = |m: &&Arc<Member>| {
            let timers = self.timers.get(&m.id);
            timers.is_none_or(|t| !t.session.is_set())
        };
        let new: Vec<_> = self.members().values().filter(lacks).cloned().collect();
        for member in new {
            self.begin_session(env, group, &member);
            if member.state == MemberState::Unrevoked {
                self.watch_revocation(env, group.0, &member);
            }
        }
    }

    /// The member was heard of.
    pub(super) fn begin_session(
        &mut self,
        env: &mut Env<'_>,
        (serial, name): (GroupSerial, &str),
        member: &Member,
    ) {
        let after_ms = match &member.classic {
            Some(classic) => classic.session_timeout_ms,
            None => session_timeout_ms(env, name),
        };
        self.set_timer(env, serial, &member.id, MemberTimer::Session, after_ms);
    }

    /// Forgets all deadlines: their queue entries may have come up while the group was put aside.
    pub(super) fn forget_timers(&mut self) {
        self.timers.clear();
        self.serials.clear();
    }

    /// Whether a queue entry still belongs to a deadline.
    pub(crate) fn owns_entry(&self, at: Mono, serial: MemberSerial, timer: MemberTimer) -> bool {
        let timers = self.serials.get(&serial).and_then(|id| self.timers.get(id));
        timers.is_some_and(|t| match timer {
            MemberTimer::Session => t.session.owns(at),
            MemberTimer::Rebalance => t.rebalance.owns(at),
            MemberTimer::Join => t.join.owns(at),
            MemberTimer::Sync => t.sync.owns(at),
        })
    }

    /// The member whose deadline a queue entry is about, if that has passed and still matters.
    fn take_due(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        serial: MemberSerial,
        timer: MemberTimer,
    ) -> Option<Arc<Member>> {
        let id = self.serials.get(&serial)?.clone();
        let timers = self.timers.get_mut(&id)?;
        let epoch = timers.rebalance_epoch;
        let now = env.now.mono;
        if !env.timers.take_due(timers.deadline(timer), entry, now) {
            return None;
        }
        let member = self.member(&id)?.clone();
        let moved_on = timer == MemberTimer::Rebalance && member.epoch != epoch;
        (!moved_on).then_some(member)
    }
}

impl Group {
    /// A deadline of a member of a consumer group may have passed: the member is fenced.
    pub(crate) fn member_timer(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        serial: MemberSerial,
        timer: MemberTimer,
    ) {
        let Some(consumer) = &mut self.consumer else {
            return;
        };
        if let Some(member) = consumer.take_due(env, entry, serial, timer) {
            self.fence(env, &[member]);
        }
    }

    /// The group was read from the log: sessions start, and the time of those who must give up
    /// partitions.
    pub(crate) fn consumer_loaded(&mut self, env: &mut Env<'_>) {
        let group = (self.serial, &*self.name);
        if let Some(consumer) = &mut self.consumer {
            consumer.forget_timers();
            consumer.fit_timers(env, group);
        }
    }
}
