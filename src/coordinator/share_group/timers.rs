//! Sessions of the members of a share group. A member that is not heard of is taken out. They are
//! not in records: after a restart, or when a write was taken back, they begin anew.

use super::state::ShareGroup;
use crate::group::{Env, Group};
use crate::timers::{Deadline, GroupSerial, MemberSerial, MemberTimer, TimerKey};
use flumen_base::Mono;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The sessions of a group.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<Arc<str>, (MemberSerial, Deadline)>,
    serials: BTreeMap<MemberSerial, Arc<str>>,
    serial_last: MemberSerial,
}

/// How long a group's members may be silent, milliseconds.
fn timeout_ms(env: &Env<'_>, group: &str) -> i32 {
    let own = env.metadata.group_settings(group).share_session_timeout_ms;
    own.unwrap_or(env.config.share_group_session_timeout_ms)
}

impl ShareGroup {
    /// The member was heard of.
    pub(super) fn begin_session(
        &mut self,
        env: &mut Env<'_>,
        (serial, name): (GroupSerial, &str),
        id: &Arc<str>,
    ) {
        let at = env.now.mono.plus_ms(timeout_ms(env, name).into());
        let sessions = &mut self.sessions;
        if !sessions.by_id.contains_key(id) {
            sessions.serial_last += 1;
            sessions.serials.insert(sessions.serial_last, id.clone());
            let new = (sessions.serial_last, Deadline::default());
            sessions.by_id.insert(id.clone(), new);
        }
        if let Some((member, deadline)) = sessions.by_id.get_mut(id) {
            let key = TimerKey::Member(serial, *member, MemberTimer::Session);
            env.timers.set(deadline, key, at);
        }
    }

    /// Members that are gone have no session; those that have none get one.
    pub(super) fn fit_sessions(&mut self, env: &mut Env<'_>, group: (GroupSerial, &str)) {
        let members = &self.records.members;
        let sessions = &mut self.sessions;
        sessions.by_id.retain(|id, _| members.contains_key(id));
        let known = &sessions.by_id;
        sessions.serials.retain(|_, id| known.contains_key(id));
        let lacks = |id: &&Arc<str>| !self.sessions.by_id.contains_key(*id);
        let new: Vec<_> = members.keys().filter(lacks).cloned().collect();
        for id in new {
            self.begin_session(env, group, &id);
        }
    }

    /// Whether a queue entry still belongs to a session.
    pub(crate) fn owns_entry(&self, at: Mono, serial: MemberSerial) -> bool {
        let id = self.sessions.serials.get(&serial);
        let session = id.and_then(|id| self.sessions.by_id.get(id));
        session.is_some_and(|(_, deadline)| deadline.owns(at))
    }
}

impl Group {
    /// The session of a member of a share group may be over: the member is taken out.
    pub(crate) fn share_timer(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        serial: MemberSerial,
    ) {
        let Some(share) = &mut self.share else {
            return;
        };
        let Some(id) = share.sessions.serials.get(&serial).cloned() else {
            return;
        };
        let Some((_, deadline)) = share.sessions.by_id.get_mut(&id) else {
            return;
        };
        if !env.timers.take_due(deadline, entry, env.now.mono) {
            return;
        }
        // It can't fail: this member's names stand in records already.
        let _ = self.share_fence(env, &id, None);
    }

    /// The group was read from the log: sessions start.
    pub(crate) fn share_loaded(&mut self, env: &mut Env<'_>) {
        let group = (self.serial, &*self.name);
        if let Some(share) = &mut self.share {
            share.sessions = Sessions::default();
            share.fit_sessions(env, group);
        }
    }
}
