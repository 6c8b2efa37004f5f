//! Rebalances: gathering members, starting a generation, and giving up on those who don't come.

use super::join::join_error;
use super::sync::{sync_error, sync_ok};
use super::{JoinTimer, Member, State};
use crate::group::{Env, Group};
use crate::out::Record;
use crate::records;
use crate::timers::{MemberSerial, TimerKey};
use crate::writes::{Done, Effect, Part};
use bytes::Bytes;
use flumen_base::{ErrorCode, Mono};

impl Group {
    /// The member was heard of: its session starts again.
    pub(crate) fn touch(&mut self, env: &mut Env<'_>, serial: MemberSerial) {
        if let Some(member) = self.classic.members.get_mut(&serial) {
            let at = env.now.mono.plus_ms(member.session_timeout_ms.into());
            let key = TimerKey::Session(self.serial, serial);
            env.timers.set(&mut member.session, key, at);
        }
    }

    /// Takes a member out; whatever it waited for ends with UNKNOWN_MEMBER_ID, so that it joins
    /// anew if it still lives.
    pub(crate) fn drop_member(&mut self, env: &mut Env<'_>, serial: MemberSerial) {
        let Some(member) = self.classic.remove(serial) else {
            return;
        };
        if let Some(parked) = member.join {
            let reply = join_error(parked, "", ErrorCode::UnknownMemberId);
            env.reply(parked.token, reply);
        }
        if let Some(parked) = member.sync {
            env.reply(parked.token, sync_error(ErrorCode::UnknownMemberId));
        }
    }

    /// Membership changed: rebalance, or if that goes on already, see whether it was the last one
    /// missing.
    pub(crate) fn rebalance_or_complete_join(&mut self, env: &mut Env<'_>) {
        if self.classic.can_rebalance() {
            self.prepare_rebalance(env);
        } else {
            self.maybe_complete_join(env);
        }
    }

    /// Starts gathering. An empty group waits for more members than the first; any other for the
    /// members it has.
    pub(crate) fn prepare_rebalance(&mut self, env: &mut Env<'_>) {
        if self.classic.state == State::CompletingRebalance {
            self.end_sync_with(env, ErrorCode::RebalanceInProgress);
        }
        self.classic.sync_missing.clear();
        self.classic.sync_deadline.cancel();
        let initial = self.classic.state == State::Empty;
        self.classic
            .transition(State::PreparingRebalance, env.now.wall_ms);
        if initial {
            let delay_ms = env.config.group_initial_rebalance_delay_ms.max(0);
            let longest_ms = self.classic.rebalance_timeout_ms();
            let remaining_ms = longest_ms.saturating_sub(delay_ms).max(0);
            let timer = JoinTimer::Initial {
                delay_ms,
                remaining_ms,
            };
            self.set_join_timer(env, timer, delay_ms);
        } else if self.classic.all_joined() {
            self.complete_join(env);
        } else {
            let timeout_ms = self.classic.rebalance_timeout_ms();
            self.set_join_timer(env, JoinTimer::Complete, timeout_ms);
        }
    }

    fn set_join_timer(&mut self, env: &mut Env<'_>, timer: JoinTimer, after_ms: i32) {
        self.classic.join_timer = timer;
        let grace_ms = if after_ms > 0 {
            env.config.join_grace_ms
        } else {
            0
        };
        let wait_ms = i64::from(after_ms) + i64::from(grace_ms);
        let at = env.now.mono.plus_ms(wait_ms);
        let key = TimerKey::Join(self.serial);
        env.timers.set(&mut self.classic.join_deadline, key, at);
    }

    /// Ends the join phase if it was waiting for this only. The first rebalance of a group always
    /// takes its delay.
    pub(crate) fn maybe_complete_join(&mut self, env: &mut Env<'_>) {
        let classic = &self.classic;
        if classic.state == State::PreparingRebalance
            && classic.previous != State::Empty
            && classic.all_joined()
        {
            self.complete_join(env);
        }
    }

    /// The join phase's timer.
    pub(crate) fn join_timer_fired(&mut self, env: &mut Env<'_>) {
        if self.classic.state != State::PreparingRebalance {
            return;
        }
        if let JoinTimer::Initial {
            delay_ms,
            remaining_ms,
        } = self.classic.join_timer
            && self.classic.member_added
            && remaining_ms != 0
        {
            self.classic.member_added = false;
            let next_ms = env
                .config
                .group_initial_rebalance_delay_ms
                .clamp(0, remaining_ms);
            let timer = JoinTimer::Initial {
                delay_ms: next_ms,
                remaining_ms: remaining_ms.saturating_sub(delay_ms).max(0),
            };
            return self.set_join_timer(env, timer, next_ms);
        }
        self.complete_join(env);
    }

    /// Starts the next generation with those who have joined; dynamic members who have not are out,
    /// static ones stay.
    pub(crate) fn complete_join(&mut self, env: &mut Env<'_>) {
        self.classic.join_deadline.cancel();
        let late = |m: &Member| m.join.is_none() && m.instance.is_none();
        let members = self.classic.members.iter();
        let late: Vec<_> = members.filter(|(_, m)| late(m)).map(|(s, _)| *s).collect();
        for serial in late {
            self.drop_member(env, serial);
        }
        if !self.classic.elect_joined_leader() && !self.classic.members.is_empty() {
            // Only static members are left and none has come: wait for them or for the ends of
            // their sessions. At least a moment, so that a timeout of zero does not spin.
            let timeout_ms = self.classic.rebalance_timeout_ms().max(1);
            return self.set_join_timer(env, JoinTimer::Complete, timeout_ms);
        }
        self.classic.next_generation(env.now.wall_ms);
        self.classic.member_added = false;
        if self.classic.state == State::Empty {
            self.write_emptied(env);
        } else {
            self.announce_generation(env);
        }
    }

    /// The group has no members any more: that is a generation too.
    fn write_emptied(&mut self, env: &mut Env<'_>) {
        let Some(record) = self.metadata_record(|_| Bytes::new()) else {
            return; // the generation before stays in the log: without living members, so harmless
        };
        let part = Part {
            group: self.serial,
            offsets: Vec::new(),
            effect: Effect::None,
        };
        let part = self.part(env.next_write(), part);
        env.append(self.partition, vec![record], vec![part], Done::Nothing);
    }

    /// Answers every JoinGroup and waits for every SyncGroup.
    fn announce_generation(&mut self, env: &mut Env<'_>) {
        let serials: Vec<_> = self.classic.members.keys().copied().collect();
        for serial in serials {
            if let Some(parked) = self.classic.take_join(serial) {
                let leads = self.classic.leader == Some(serial);
                let reply = self.joined(serial, parked, leads);
                env.reply(parked.token, reply);
            }
            self.touch(env, serial);
            if let Some(member) = self.classic.members.get_mut(&serial) {
                member.is_new = false;
            }
            self.classic.sync_missing.insert(serial);
        }
        let at = env
            .now
            .mono
            .plus_ms(self.classic.rebalance_timeout_ms().into());
        let key = TimerKey::Sync(self.serial);
        env.timers.set(&mut self.classic.sync_deadline, key, at);
    }

    /// The sync phase's timer: members that have not sent SyncGroup are out, the others go on
    /// without them.
    pub(crate) fn sync_timer_fired(&mut self, env: &mut Env<'_>) {
        let classic = &mut self.classic;
        let waiting = matches!(classic.state, State::CompletingRebalance | State::Stable);
        if !waiting || classic.sync_missing.is_empty() {
            return;
        }
        for serial in std::mem::take(&mut classic.sync_missing) {
            self.drop_member(env, serial);
        }
        self.prepare_rebalance(env);
    }

    /// A session ended, or a pending member did not come back in time.
    pub(crate) fn session_timer_fired(&mut self, env: &mut Env<'_>, serial: MemberSerial) {
        if self.classic.state == State::Dead {
            return;
        }
        if self.classic.pending.contains_key(&serial) {
            self.classic.remove(serial);
            if self.classic.state == State::PreparingRebalance && self.classic.all_joined() {
                self.complete_join(env);
            }
            return;
        }
        let member = self.classic.members.get(&serial);
        if member.is_some_and(|m| !m.is_excused()) {
            self.drop_member(env, serial);
            match self.classic.state {
                State::Stable | State::CompletingRebalance => self.rebalance_or_complete_join(env),
                State::PreparingRebalance if self.classic.all_joined() => self.complete_join(env),
                _ => {}
            }
        }
    }

    /// Ends the sync phase without an assignment.
    pub(crate) fn end_sync_with(&mut self, env: &mut Env<'_>, error: ErrorCode) {
        for member in self.classic.members.values_mut() {
            member.assignment = Bytes::new();
        }
        self.end_sync(env, error);
    }

    /// Answers every waiting SyncGroup with the member's assignment (or the error).
    pub(crate) fn end_sync(&mut self, env: &mut Env<'_>, error: ErrorCode) {
        self.classic.assignment_in_flight = false;
        let serials: Vec<_> = self.classic.members.keys().copied().collect();
        for serial in serials {
            let Some(member) = self.classic.members.get_mut(&serial) else {
                continue;
            };
            let Some(parked) = member.sync.take() else {
                continue;
            };
            let reply = if error.is_none() {
                let assignment = member.assignment.clone();
                sync_ok(&self.classic, &assignment)
            } else {
                sync_error(error)
            };
            env.reply(parked.token, reply);
            // Its session may have ended unnoticed while it waited.
            self.touch(env, serial);
        }
    }

    /// This generation as a record, with the given assignments; `None` when a string is too long
    /// for it.
    pub(crate) fn metadata_record(&self, assignment: impl Fn(&Member) -> Bytes) -> Option<Record> {
        records::group_metadata(&self.name, &self.classic, assignment)
    }

    /// Whether a queue entry still belongs to a deadline of this group.
    pub(crate) fn owns_entry(&self, at: Mono, key: TimerKey) -> bool {
        let classic = &self.classic;
        match key {
            TimerKey::Session(_, serial) => {
                let member = classic.members.get(&serial).map(|m| m.session);
                let pending = classic.pending.get(&serial).map(|(_, deadline)| *deadline);
                member.or(pending).is_some_and(|d| d.owns(at))
            }
            TimerKey::Join(_) => classic.join_deadline.owns(at),
            TimerKey::Sync(_) => classic.sync_deadline.owns(at),
            TimerKey::Member(_, serial, timer) => {
                let timers = match (&self.consumer, &self.streams, &self.share) {
                    (Some(consumer), _, _) => &consumer.timers,
                    (_, Some(streams), _) => &streams.timers,
                    (_, _, Some(share)) => &share.timers,
                    (None, None, None) => return false,
                };
                timers.owns_entry(at, serial, timer)
            }
            TimerKey::Delay(_) => self.streams.as_ref().is_some_and(|s| s.delay.owns(at)),
            TimerKey::Expiry(_) => false,
        }
    }
}
