//! Deadlines of a streams group and its members, and members that leave or are made to.

use super::Refusal;
use super::member::Member;
use super::records::{GroupEpoch, StreamsRecord};
use super::state::{StreamsGroup, bury_member};
use super::target::Changed;
use crate::group::{Env, Group};
use crate::modern::{Change, MemberState};
use crate::out::{Reply, ReplyToken};
use crate::timers::{GroupSerial, MemberSerial, MemberTimer, TimerKey};
use flumen_base::Mono;
use std::collections::BTreeSet;
use std::sync::Arc;

impl StreamsGroup {
    /// A member wants all instances of the application to end; the first one is remembered.
    pub(super) fn shut_down(&mut self, by: &Arc<str>) {
        self.shutdown_by.get_or_insert_with(|| by.clone());
    }

    /// Who has joined an empty group waits for others.
    pub(super) fn begin_delay(&mut self, env: &mut Env<'_>, group: GroupSerial, after_ms: i32) {
        let at = env.now.mono.plus_ms(after_ms.into());
        env.timers.set(&mut self.delay, TimerKey::Delay(group), at);
    }

    /// The member was heard of.
    pub(super) fn begin_session(
        &mut self,
        env: &mut Env<'_>,
        (serial, name): (GroupSerial, &str),
        id: &Arc<str>,
    ) {
        let own = env.metadata.group_settings(name).streams;
        let own = own.session_timeout_ms;
        let after_ms = own.unwrap_or(env.config.streams_group_session_timeout_ms);
        self.timers
            .set(env, serial, id, MemberTimer::Session, after_ms);
    }

    /// The time to give up tasks begins, or ends, after a change of what a member has.
    pub(super) fn watch_revocation(
        &mut self,
        env: &mut Env<'_>,
        group: GroupSerial,
        member: &Member,
    ) {
        if member.state != MemberState::Unrevoked {
            return self.timers.cancel(&member.id, MemberTimer::Rebalance);
        }
        let time = (member.epoch, member.rebalance_timeout_ms);
        self.timers.set_rebalance(env, group, &member.id, time);
    }

    /// Members that are gone have no deadlines; those that have none get a session.
    pub(crate) fn fit_timers(&mut self, env: &mut Env<'_>, group: (GroupSerial, &str)) {
        for member in self.timers.fit(&self.members) {
            self.begin_session(env, group, &member.id);
            if member.state == MemberState::Unrevoked {
                self.watch_revocation(env, group.0, &member);
            }
        }
    }

    /// Takes members out; a new epoch begins.
    fn plan_fence(&self, members: &BTreeSet<Arc<str>>) -> Vec<StreamsRecord> {
        let mut records = Vec::new();
        for id in members {
            bury_member(id, &mut records);
        }
        let at = GroupEpoch {
            epoch: self.at.epoch.saturating_add(1),
            ..GroupEpoch::clone(&self.at)
        };
        records.push(StreamsRecord::Epoch(Some(Arc::new(at))));
        records
    }
}

impl Group {
    /// Takes members out.
    pub(super) fn fence_streams(
        &mut self,
        env: &mut Env<'_>,
        members: &BTreeSet<Arc<str>>,
        reply: Option<(ReplyToken, Reply)>,
    ) -> Result<(), Refusal> {
        let Some(streams) = &self.streams else {
            return Ok(());
        };
        let change = Change::of(streams.plan_fence(members));
        self.write_change(env, change, reply)?;
        let group = (self.serial, &*self.name);
        if let Some(streams) = &mut self.streams {
            streams.fit_timers(env, group);
        }
        Ok(())
    }

    /// A deadline of a member of a streams group may have passed: the member is fenced.
    pub(crate) fn streams_timer(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        of: (MemberSerial, MemberTimer),
    ) {
        let Some(streams) = &mut self.streams else {
            return;
        };
        let Some(passed) = streams.timers.take_due(env, entry, of) else {
            return;
        };
        let epoch = streams.member(&passed.member).map(|m| m.epoch);
        let moved_on = of.1 == MemberTimer::Rebalance && epoch != Some(passed.epoch);
        if epoch.is_some() && !moved_on {
            // It can't fail: this member's name stands in records already.
            let _ = self.fence_streams(env, &BTreeSet::from([passed.member]), None);
        }
    }

    /// The time that the first members wait for others may be over: all get their first target.
    pub(crate) fn streams_delay(&mut self, env: &mut Env<'_>, entry: (Mono, TimerKey)) {
        let Some(streams) = &mut self.streams else {
            return;
        };
        let now = env.now.mono;
        if !env.timers.take_due(&mut streams.delay, entry, now) || streams.is_empty() {
            return;
        }
        let Some(configured) = streams.configured.clone() else {
            return; // the next heartbeat looks at the topics, and makes a target
        };
        let mut records = Vec::new();
        let changed = Changed {
            group_epoch: streams.at.epoch,
            configured: &configured,
            configs: &streams.at.configs,
            member: None,
            waits: false,
        };
        streams.plan_target(env, &self.name, &changed, &mut records);
        // It can't fail: these members' names stand in records already.
        let _ = self.write_change(env, Change::of(records), None);
    }

    /// The group was read from the log: sessions start, and the time of those who must give up
    /// tasks.
    pub(crate) fn streams_loaded(&mut self, env: &mut Env<'_>) {
        let group = (self.serial, &*self.name);
        if let Some(streams) = &mut self.streams {
            streams.timers.clear();
            streams.fit_timers(env, group);
        }
    }
}
