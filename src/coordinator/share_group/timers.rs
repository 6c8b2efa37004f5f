//! Sessions of the members of a share group. A member that is not heard of is taken out.

use super::state::ShareGroup;
use crate::group::{Env, Group};
use crate::timers::{GroupSerial, MemberSerial, MemberTimer, TimerKey};
use flumen_base::Mono;
use std::sync::Arc;

impl ShareGroup {
    /// The member was heard of.
    pub(super) fn begin_session(
        &mut self,
        env: &mut Env<'_>,
        (serial, name): (GroupSerial, &str),
        id: &Arc<str>,
    ) {
        let own = env.metadata.group_settings(name).share_session_timeout_ms;
        let after_ms = own.unwrap_or(env.config.share_group_session_timeout_ms);
        self.timers
            .set(env, serial, id, MemberTimer::Session, after_ms);
    }

    /// Members that are gone have no session; those that have none get one.
    pub(crate) fn fit_timers(&mut self, env: &mut Env<'_>, group: (GroupSerial, &str)) {
        for member in self.timers.fit(&self.records.members) {
            self.begin_session(env, group, &member.id);
        }
    }
}

impl Group {
    /// The session of a member of a share group may be over: the member is taken out.
    pub(crate) fn share_timer(
        &mut self,
        env: &mut Env<'_>,
        entry: (Mono, TimerKey),
        of: (MemberSerial, MemberTimer),
    ) {
        let Some(share) = &mut self.share else {
            return;
        };
        let Some(passed) = share.timers.take_due(env, entry, of) else {
            return;
        };
        if share.member(&passed.member).is_some() {
            // It can't fail: this member's names stand in records already.
            let _ = self.share_fence(env, &passed.member, None);
        }
    }

    /// The group was read from the log: sessions start.
    pub(crate) fn share_loaded(&mut self, env: &mut Env<'_>) {
        let group = (self.serial, &*self.name);
        if let Some(share) = &mut self.share {
            share.timers.clear();
            share.fit_timers(env, group);
        }
    }
}
