//! SyncGroup (14), versions 0-5. 3: `group.instance.id`. 5: protocol type and name must be there
//! and match.

use super::member::Parked;
use super::{ClassicGroup, State, metadata_append_error};
use crate::group::{Env, Group};
use crate::out::{Reply, ReplyToken, RequestContext};
use crate::timers::MemberSerial;
use crate::writes::{Done, Effect, Part};
use bytes::Bytes;
use flumen_base::ErrorCode;
use flumen_wire::messages::{SyncGroupRequest, SyncGroupResponse};
use std::collections::BTreeMap;

/// An answer without assignment.
pub(crate) fn sync_error(error: ErrorCode) -> Reply {
    Reply::SyncGroup(SyncGroupResponse {
        error_code: error.code(),
        ..Default::default()
    })
}

/// The assignment of one member.
pub(crate) fn sync_ok(classic: &ClassicGroup, assignment: &[u8]) -> Reply {
    Reply::SyncGroup(SyncGroupResponse {
        protocol_type: classic
            .protocol_type
            .as_deref()
            .map(|t| t.to_owned().into()),
        protocol_name: classic.protocol.as_deref().map(|p| p.to_owned().into()),
        assignment: assignment.to_vec().into(),
        ..Default::default()
    })
}

/// Set on both sides, and different.
fn differ(theirs: Option<&str>, ours: Option<&str>) -> bool {
    matches!((theirs, ours), (Some(theirs), Some(ours)) if theirs != ours)
}

impl Group {
    /// SyncGroup, when the group was found.
    pub(crate) fn sync(
        &mut self,
        env: &mut Env<'_>,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &SyncGroupRequest<'_>,
    ) {
        let serial = match self.validate_sync(request) {
            Ok(serial) => serial,
            Err(error) => return env.reply(token, sync_error(error)),
        };
        match self.classic.state {
            State::CompletingRebalance => {
                let parked = Parked {
                    token,
                    api_version: ctx.api_version,
                };
                self.park_sync(env, serial, parked);
                self.sync_received(serial);
                if self.classic.leader == Some(serial) && !self.classic.assignment_in_flight {
                    self.write_assignment(env, request);
                }
            }
            State::Stable => {
                self.sync_received(serial);
                let member = self.classic.members.get(&serial);
                let assignment = member.map(|m| m.assignment.clone()).unwrap_or_default();
                env.reply(token, sync_ok(&self.classic, &assignment));
            }
            State::PreparingRebalance => {
                env.reply(token, sync_error(ErrorCode::RebalanceInProgress));
            }
            State::Empty => env.reply(token, sync_error(ErrorCode::UnknownMemberId)),
            State::Dead => env.reply(token, sync_error(ErrorCode::CoordinatorNotAvailable)),
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest<'_>) -> Result<MemberSerial, ErrorCode> {
        let classic = &self.classic;
        match classic.state {
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            State::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
            _ => {}
        }
        let instance = request.group_instance_id.as_deref();
        let serial = classic.validate_member(&request.member_id, instance)?;
        if request.generation_id != classic.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let theirs = request.protocol_type.as_deref();
        if differ(theirs, classic.protocol_type.as_deref())
            || differ(
                request.protocol_name.as_deref(),
                classic.protocol.as_deref(),
            )
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(serial)
    }

    fn park_sync(&mut self, env: &mut Env<'_>, serial: MemberSerial, parked: Parked) {
        let Some(member) = self.classic.members.get_mut(&serial) else {
            return;
        };
        if let Some(old) = member.sync.replace(parked) {
            // Sent again on another connection; whoever still reads the first one may rejoin.
            env.reply(old.token, sync_error(ErrorCode::RebalanceInProgress));
        }
    }

    fn sync_received(&mut self, serial: MemberSerial) {
        self.classic.sync_missing.remove(&serial);
        if self.classic.sync_missing.is_empty() {
            self.classic.sync_deadline.cancel();
        }
    }

    /// The leader has decided: write it, and give it out when it is written. Members it left out
    /// get nothing.
    fn write_assignment(&mut self, env: &mut Env<'_>, request: &SyncGroupRequest<'_>) {
        let mut by_member: BTreeMap<Box<str>, Bytes> = BTreeMap::new();
        for assigned in &request.assignments {
            if self.classic.find(&assigned.member_id).is_some() {
                let bytes = Bytes::copy_from_slice(&assigned.assignment);
                by_member.insert((&*assigned.member_id).into(), bytes);
            }
        }
        let record = self.metadata_record(|m| by_member.get(&*m.id).cloned().unwrap_or_default());
        let Some(record) = record else {
            let generation = self.classic.generation;
            return self.assignment_failed(env, generation, ErrorCode::UnknownServerError);
        };
        let part = Part {
            group: self.serial,
            offsets: Vec::new(),
            effect: Effect::Assignment {
                generation: self.classic.generation,
                by_member,
            },
        };
        self.classic.assignment_in_flight = true;
        let part = self.part(env.next_write(), part);
        env.append(self.partition, vec![record], vec![part], Done::Nothing);
    }

    /// The assignment is written. If the group has moved on meanwhile, it is of no use any more.
    pub(crate) fn assignment_written(
        &mut self,
        env: &mut Env<'_>,
        generation: i32,
        by_member: &BTreeMap<Box<str>, Bytes>,
    ) {
        if !self.is_completing(generation) {
            return;
        }
        for member in self.classic.members.values_mut() {
            member.assignment = by_member.get(&*member.id).cloned().unwrap_or_default();
        }
        self.end_sync(env, ErrorCode::None);
        self.classic.transition(State::Stable, env.now.wall_ms);
    }

    /// The assignment could not be written: the members hear why, and join again.
    pub(crate) fn assignment_failed(
        &mut self,
        env: &mut Env<'_>,
        generation: i32,
        error: ErrorCode,
    ) {
        if self.is_completing(generation) {
            self.end_sync_with(env, metadata_append_error(error));
            self.rebalance_or_complete_join(env);
        }
    }

    fn is_completing(&self, generation: i32) -> bool {
        self.classic.state == State::CompletingRebalance && self.classic.generation == generation
    }
}
