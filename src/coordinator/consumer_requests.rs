//! The entries of the APIs of consumer groups, and of JoinGroup where it meets one.

use crate::classic::{Joining, join_error};
use crate::consumer::{
    self, Refusal, consumer_described_error, consumer_described_unknown, heartbeat_error,
};
use crate::coordinator::GroupCoordinator;
use crate::group::{Env, Group};
use crate::modern::assign::Assignor;
use crate::out::{Out, ReplyToken, RequestContext};
use crate::timers::GroupSerial;
use flumen_base::{ErrorCode, Now};
use flumen_wire::messages::ConsumerGroupHeartbeatRequest;
use flumen_wire::messages::consumer_group_describe_response::DescribedGroup;

impl GroupCoordinator {
    /// ConsumerGroupHeartbeat. Answered with [`Reply::ConsumerGroupHeartbeat`] when what it changed
    /// is written.
    pub fn consumer_group_heartbeat(
        &mut self,
        now: Now,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        out: &mut Out,
    ) {
        let valid = consumer::validate(request, ctx.api_version, &self.config);
        let asked = (&*request.group_id, request.member_epoch);
        let target = valid.and_then(|()| self.heartbeat_target(now, asked, "Consumer group"));
        match target {
            Err(refusal) => Self::reply(out, token, heartbeat_error(refusal)),
            Ok((serial, created)) => {
                self.with_group(serial, now, out, |group, env| {
                    group.consumer_heartbeat(env, ctx, token, request, created);
                });
            }
        }
    }

    /// The group that a heartbeat is for, and whether it was made for this. `kind`: what groups of
    /// this protocol are called.
    pub(crate) fn heartbeat_target(
        &mut self,
        now: Now,
        (name, epoch): (&str, i32),
        kind: &str,
    ) -> Result<(GroupSerial, bool), Refusal> {
        let partition = self.route_write(name)?;
        if let Some(serial) = self.find(partition, name) {
            if self.is_share_group(serial) {
                let kind = kind.to_lowercase();
                let message = format!("Group {name} is not a {kind}.");
                return Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
            }
            return Ok((serial, false));
        }
        match epoch {
            0 if self.has_room() => Ok((self.create(partition, name, now.wall_ms), true)),
            0 => Err(ErrorCode::CoordinatorNotAvailable.into()),
            epoch => {
                let what = if epoch > 0 { kind } else { "Group" };
                let message = format!("{what} {name} not found.");
                Err(Refusal::new(ErrorCode::GroupIdNotFound, message))
            }
        }
    }

    /// The group that is to be described, if there is one to be seen.
    pub(crate) fn to_describe(&self, name: &str) -> Result<Option<&Group>, Refusal> {
        if name.is_empty() {
            return Err(ErrorCode::InvalidGroupId.into());
        }
        let serial = self.find(self.route(name)?, name);
        let group = serial.and_then(|serial| self.groups.get(&serial));
        Ok(group.filter(|group| group.is_visible()))
    }

    /// One group of a ConsumerGroupDescribe request.
    pub fn describe_consumer_group(&self, name: &str) -> DescribedGroup<'static> {
        let group = match self.to_describe(name) {
            Ok(group) => group,
            Err(refusal) => return consumer_described_error(name, refusal),
        };
        let default = self.config.consumer_group_assignors.first();
        let default = default.copied().unwrap_or(Assignor::Uniform);
        let described = group.and_then(|g| g.describe_consumer(&*self.metadata, default));
        described.unwrap_or_else(|| consumer_described_unknown(name, group.is_some()))
    }
}

impl Group {
    /// JoinGroup, when the group was found and is not a classic group. An empty one becomes one;
    /// streams groups have no classic members.
    pub(crate) fn join_other_kind(&mut self, env: &mut Env<'_>, join: Joining<'_>) {
        let (request, parked) = (join.request, join.parked);
        if self.is_dead() {
            let error = ErrorCode::CoordinatorNotAvailable;
            return env.reply(parked.token, join_error(parked, &request.member_id, error));
        }
        if !self.is_memberless() && self.streams.is_some() {
            let error = ErrorCode::InconsistentGroupProtocol;
            return env.reply(parked.token, join_error(parked, "", error));
        }
        if !self.is_memberless() {
            return self.classic_join(env, join);
        }
        let result = if !request.member_id.is_empty() {
            Err(ErrorCode::UnknownMemberId)
        } else if !Self::could_begin_with(request) {
            Err(ErrorCode::InconsistentGroupProtocol)
        } else {
            self.become_classic(env)
        };
        match result {
            Ok(()) => self.join(env, join),
            Err(error) => {
                let reply = join_error(parked, &request.member_id, error);
                env.reply(parked.token, reply);
            }
        }
        debug_assert!(!self.is_classic_kind() || self.classic.generation == 0);
    }
}
