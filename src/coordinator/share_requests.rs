//! The entries of the APIs of share groups, and of what coordinators of stored share state answer.

use crate::coordinator::GroupCoordinator;
use crate::group::{Env, Group};
use crate::modern::Refusal;
use crate::out::{Out, ReplyToken, RequestContext};
use crate::share_group::{
    ShareCalled, ShareGroup, ShareThen, alter_answer, alter_error, delete_offsets_error,
    no_share_group, share_described_error, share_heartbeat_error, validate_share_heartbeat,
};
use crate::timers::GroupSerial;
use crate::writes::Done;
use flumen_base::{ErrorCode, Now, PartitionIndex, Uuid};
use flumen_wire::messages::share_group_describe_response::DescribedGroup;
use flumen_wire::messages::{
    AlterShareGroupOffsetsRequest, DeleteShareGroupOffsetsRequest, ShareGroupHeartbeatRequest,
};

impl GroupCoordinator {
    /// ShareGroupHeartbeat. Answered with [`crate::Reply::ShareGroupHeartbeat`] when what it
    /// changed is written.
    pub fn share_group_heartbeat(
        &mut self,
        now: Now,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &ShareGroupHeartbeatRequest<'_>,
        out: &mut Out,
    ) {
        let epoch = request.member_epoch;
        let valid = validate_share_heartbeat(request);
        let target = valid.and_then(|()| {
            let missing = match epoch {
                1.. => format!("Share group {} not found.", request.group_id),
                _ => format!("Group {} not found.", request.group_id),
            };
            self.share_target(now, &request.group_id, epoch == 0, missing)
        });
        match target {
            Err(refusal) => Self::reply(out, token, share_heartbeat_error(refusal)),
            Ok(serial) => {
                self.with_group(serial, now, out, |group, env| {
                    group.share_heartbeat(env, ctx, token, request);
                });
            }
        }
    }

    /// The share group of this name; made if `creates` and there is none.
    fn share_target(
        &mut self,
        now: Now,
        name: &str,
        creates: bool,
        missing: String,
    ) -> Result<GroupSerial, Refusal> {
        let partition = self.route_write(name)?;
        if let Some(serial) = self.find(partition, name) {
            return match self.is_share_group(serial) {
                true => Ok(serial),
                false => Err(no_share_group(name, true)),
            };
        }
        if !creates {
            return Err(Refusal::new(ErrorCode::GroupIdNotFound, missing));
        }
        if !self.has_room() {
            return Err(ErrorCode::CoordinatorNotAvailable.into());
        }
        let serial = self.create(partition, name, now.wall_ms);
        if let Some(group) = self.groups.get_mut(&serial) {
            group.share = Some(Box::new(ShareGroup::new()));
        }
        Ok(serial)
    }

    /// One group of a ShareGroupDescribe request.
    pub fn describe_share_group(&self, name: &str) -> DescribedGroup<'static> {
        let group = match self.to_describe(name) {
            Ok(group) => group,
            Err(refusal) => return share_described_error(name, refusal),
        };
        let described = group.and_then(|g| g.describe_share(&*self.metadata));
        described
            .unwrap_or_else(|| share_described_error(name, no_share_group(name, group.is_some())))
    }

    /// The share partitions of a group that have stored state, by topic; none for a group that
    /// there is not. For DescribeShareGroupOffsets.
    ///
    /// # Errors
    /// The group is coordinated elsewhere, or being loaded.
    pub fn share_partitions_of(
        &self,
        name: &str,
    ) -> Result<Vec<(Uuid, Vec<PartitionIndex>)>, ErrorCode> {
        let partition = self.route(name)?;
        let serial = self.find(partition, name);
        let group = serial.and_then(|serial| self.groups.get(&serial));
        let share = group.and_then(|group| group.share.as_ref());
        let stored = share.map(|share| share.stored()).unwrap_or_default();
        let topics = stored.initialized.into_iter();
        Ok(topics
            .map(|(id, topic)| (id, topic.partitions.into_iter().collect()))
            .collect())
    }

    /// AlterShareGroupOffsets. Answered with [`crate::Reply::AlterShareGroupOffsets`] when the
    /// stored states have begun anew.
    pub fn alter_share_group_offsets(
        &mut self,
        now: Now,
        token: ReplyToken,
        request: &AlterShareGroupOffsetsRequest<'_>,
        out: &mut Out,
    ) {
        let target = match &*request.group_id {
            "" => Err(ErrorCode::InvalidGroupId.into()),
            name => self.share_target(now, name, true, String::new()),
        };
        let done = target.and_then(|serial| {
            let run = |group: &mut Group, env: &mut Env<'_>| {
                group.alter_share_offsets(env, token, request)
            };
            self.with_group(serial, now, out, run).unwrap_or(Ok(()))
        });
        if let Err(refusal) = done {
            Self::reply(out, token, alter_error(refusal));
        }
    }

    /// DeleteShareGroupOffsets. Answered with [`crate::Reply::DeleteShareGroupOffsets`] when the
    /// stored states are gone.
    pub fn delete_share_group_offsets(
        &mut self,
        now: Now,
        token: ReplyToken,
        request: &DeleteShareGroupOffsetsRequest<'_>,
        out: &mut Out,
    ) {
        let target = match &*request.group_id {
            "" => Err(ErrorCode::InvalidGroupId.into()),
            name => self.share_target(now, name, false, format!("Group {name} not found.")),
        };
        let done = target.and_then(|serial| {
            let run = |group: &mut Group, env: &mut Env<'_>| {
                group.delete_share_offsets(env, token, request)
            };
            self.with_group(serial, now, out, run).unwrap_or(Ok(()))
        });
        if let Err(refusal) = done {
            Self::reply(out, token, delete_offsets_error(refusal));
        }
    }

    /// A call of [`Out::share_calls`] is answered, with one result for each of its share
    /// partitions.
    pub fn share_called(&mut self, now: Now, call: u64, called: &[ShareCalled], out: &mut Out) {
        let Some(then) = self.share_waits.remove(&call) else {
            return;
        };
        let failed = called.iter().map(|c| c.2).find(|error| !error.is_none());
        let name = then.group().clone();
        let serial = self.route(&name).ok();
        let serial = serial.and_then(|partition| self.find(partition, &name));
        match then {
            ShareThen::Heartbeat { .. } => {
                self.on_share(serial, now, out, |group, env| {
                    group.share_states_begun(env, called, failed.is_none());
                });
            }
            ShareThen::Alter { token, draft, .. } => {
                if failed.is_none() {
                    self.on_share(serial, now, out, |group, env| {
                        group.share_states_begun(env, called, true);
                    });
                }
                Self::reply(out, token, alter_answer(*draft, called));
            }
            ShareThen::DeleteOffsets { token, refused, .. } => {
                let answered = self.on_share(serial, now, out, |group, env| {
                    group.share_offsets_deleted(env, token, called, refused);
                });
                if !answered {
                    let refusal = ErrorCode::NotCoordinator.into();
                    Self::reply(out, token, delete_offsets_error(refusal));
                }
            }
            ShareThen::DeleteGroup { gather, index, .. } => {
                let done = Done::DeletedGroup { gather, index };
                let deleted = match failed {
                    Some(error) => Err(error),
                    None => self.delete_group(now, &name, done, out),
                };
                if let Err(error) = deleted {
                    let done = Done::DeletedGroup { gather, index };
                    self.answer_write(done, Vec::new(), error, out);
                }
            }
        }
    }

    /// Runs a handler on a share group; whether there is one.
    fn on_share(
        &mut self,
        serial: Option<GroupSerial>,
        now: Now,
        out: &mut Out,
        run: impl FnOnce(&mut Group, &mut Env<'_>),
    ) -> bool {
        let found = serial.filter(|serial| self.is_share_group(*serial));
        found.is_some_and(|serial| self.with_group(serial, now, out, run).is_some())
    }
}
