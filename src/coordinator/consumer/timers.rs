//! Deadlines of the members of a consumer group, as [`crate::modern`] keeps them.

use super::ConsumerGroup;
use super::member::{Member, MemberState};
use crate::group::{Env, Group};
use crate::timers::{GroupSerial, MemberSerial, MemberTimer, TimerKey};
use flumen_base::Mono;
use std::sync::Arc;

/// The session timeout of a group's members that speak the consumer protocol.
pub(super) fn session_timeout_ms(env: &Env<'_>, group: &str) -> i32 {
    let own = env.metadata.group_settings(group).session_timeout_ms;
    own.unwrap_or(env.config.consumer_group_session_timeout_ms)
}

impl ConsumerGroup {
    /// Sets a deadline of a member.
    pub(super) fn set_timer(
        &mut self,
        env: &mut Env<'_>,
        group: GroupSerial,
        id: &str,
        timer: MemberTimer,
        after_ms: i32,
    ) {
        if let Some((id, _)) = self.members().get_key_value(id) {
            let id = id.clone();
            self.timers.set(env, group, &id, timer, after_ms);
        }
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
        if !self.timers.is_set(id, timer) {
            self.set_timer(env, group, id, timer, after_ms);
        }
    }

    /// Unsets a deadline.
    pub(super) fn cancel_timer(&mut self, id: &str, timer: MemberTimer) {
        self.timers.cancel(id, timer);
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
        let time = (member.epoch, member.rebalance_timeout_ms);
        self.timers.set_rebalance(env, group, &member.id, time);
    }

    /// Members that are gone have no deadlines; those that have none get a session.
    pub(crate) fn fit_timers(&mut self, env: &mut Env<'_>, group: (GroupSerial, &str)) {
        for member in self.timers.fit(&self.members) {
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

    /// The member whose deadline a queue entry is about, if that has passed and still matters.
    fn take_due(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        of: (MemberSerial, MemberTimer),
    ) -> Option<Arc<Member>> {
        let passed = self.timers.take_due(env, entry, of)?;
        let member = self.member(&passed.member)?.clone();
        let moved_on = of.1 == MemberTimer::Rebalance && member.epoch != passed.epoch;
        (!moved_on).then_some(member)
    }
}

impl Group {
    /// A deadline of a member of a consumer group may have passed: the member is fenced.
    pub(crate) fn consumer_timer(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        of: (MemberSerial, MemberTimer),
    ) {
        let Some(consumer) = &mut self.consumer else {
            return;
        };
        if let Some(member) = consumer.take_due(env, entry, of) {
            self.fence(env, &[member]);
        }
    }

    /// The group was read from the log: sessions start, and the time of those who must give up
    /// partitions.
    pub(crate) fn consumer_loaded(&mut self, env: &mut Env<'_>) {
        let group = (self.serial, &*self.name);
        if let Some(consumer) = &mut self.consumer {
            consumer.timers.clear();
            consumer.fit_timers(env, group);
        }
    }
}
