//! SyncGroup, Heartbeat and LeaveGroup of a consumer group's members that speak the classic
//! protocol. Their generation is their epoch.

use super::Refusal;
use super::convert::write_assignment;
use super::member::{Member, MemberState};
use super::state::ConsumerGroup;
use super::static_member::{check_instance, unknown, unknown_instance};
use crate::classic::{Leaving, leave_reply, leaving, left, sync_error};
use crate::group::{Env, Group};
use crate::modern::without_epochs;
use crate::out::{Reply, ReplyToken};
use crate::timers::MemberTimer;
use flumen_base::ErrorCode;
use flumen_wire::messages::{
    HeartbeatRequest, LeaveGroupRequest, SyncGroupRequest, SyncGroupResponse,
};
use std::sync::Arc;

const PROTOCOL_TYPE: &str = "consumer";

impl ConsumerGroup {
    /// The classic member that a request speaks for, in the generation that it names.
    fn classic_speaker(
        &self,
        group: &str,
        (id, instance, generation): (&str, Option<&str>, i32),
    ) -> Result<Arc<Member>, Refusal> {
        let member = match instance {
            None => self.member(id).ok_or_else(|| unknown(id, group))?,
            Some(instance) => {
                let owner = self.static_member(instance);
                let owner = owner.ok_or_else(|| unknown_instance(instance))?;
                check_instance(owner, id, instance)?;
                owner
            }
        };
        if !member.is_classic() {
            return Err(ErrorCode::UnknownMemberId.into());
        }
        if member.epoch != generation {
            return Err(ErrorCode::IllegalGeneration.into());
        }
        Ok(member.clone())
    }

    /// Whether a member still has to wait for what others have.
    fn must_wait(&self, member: &Member) -> bool {
        let Some(target) = self.target(&member.id) else {
            return false;
        };
        target.iter().any(|(topic, partitions)| {
            let has = member.assigned.get(topic);
            let lacks = |p: &&i32| has.is_none_or(|has| !has.contains_key(*p));
            let mut missing = partitions.iter().filter(lacks);
            missing.any(|p| self.is_owned(*topic, *p))
        })
    }

    /// Whether joining again would bring the member on.
    fn must_rejoin(&self, member: &Member) -> bool {
        member.epoch < self.target_epoch
            || member.state == MemberState::Unrevoked
            || (member.state == MemberState::Unreleased && !self.must_wait(member))
    }
}

impl Group {
    /// The member is told to join, and has its rebalance timeout for it.
    fn await_join(&mut self, env: &mut Env<'_>, member: &Member) {
        let serial = self.serial;
        if let Some(consumer) = &mut self.consumer {
            let after_ms = member.rebalance_timeout_ms;
            consumer.set_timer_if_absent(env, serial, &member.id, MemberTimer::Join, after_ms);
        }
    }

    /// The member was heard of.
    fn hear(&mut self, env: &mut Env<'_>, member: &Member) {
        let group = (self.serial, &*self.name);
        if let Some(consumer) = &mut self.consumer {
            consumer.begin_session(env, group, member);
        }
    }

    /// Heartbeat to a consumer group.
    pub(crate) fn classic_heartbeat(
        &mut self,
        env: &mut Env<'_>,
        request: &HeartbeatRequest<'_>,
    ) -> Result<(), ErrorCode> {
        let Some(consumer) = &self.consumer else {
            return Err(ErrorCode::UnknownMemberId);
        };
        let instance = request.group_instance_id.as_deref();
        let speaker = (&*request.member_id, instance, request.generation_id);
        let member = consumer
            .classic_speaker(&self.name, speaker)
            .map_err(|refusal| refusal.error)?;
        let rejoin = consumer.must_rejoin(&member);
        self.hear(env, &member);
        if rejoin {
            self.await_join(env, &member);
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// SyncGroup to a consumer group.
    pub(crate) fn classic_sync(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &SyncGroupRequest<'_>,
    ) {
        match self.try_classic_sync(env, request) {
            Ok(response) => {
                let reply = Reply::SyncGroup(response);
                self.reply_when_written(env, token, reply);
            }
            Err(refusal) => env.reply(token, sync_error(refusal.error)),
        }
    }

    fn try_classic_sync(
        &mut self,
        env: &mut Env<'_>,
        request: &SyncGroupRequest<'_>,
    ) -> Result<SyncGroupResponse<'static>, Refusal> {
        let Some(consumer) = &self.consumer else {
            return Err(ErrorCode::UnknownMemberId.into());
        };
        let instance = request.group_instance_id.as_deref();
        let speaker = (&*request.member_id, instance, request.generation_id);
        let member = consumer.classic_speaker(&self.name, speaker)?;
        let protocol = member.first_protocol();
        let protocol = protocol.ok_or(ErrorCode::UnknownServerError)?;
        let (kind, name) = (
            request.protocol_type.as_deref(),
            request.protocol_name.as_deref(),
        );
        if kind.is_some_and(|k| k != PROTOCOL_TYPE) || name.is_some_and(|n| *n != *protocol.name) {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        // Who still has to give up partitions has joined already; it is told to join again when
        // it has.
        if consumer.target_epoch > member.epoch && member.state != MemberState::Unrevoked {
            self.await_join(env, &member);
            return Err(ErrorCode::RebalanceInProgress.into());
        }
        let partitions = without_epochs(&member.assigned);
        let assignment = write_assignment(&partitions, &protocol.metadata, env.metadata);
        let assignment = assignment.ok_or(ErrorCode::UnknownServerError)?;
        let response = SyncGroupResponse {
            protocol_type: kind.map(|k| k.to_owned().into()),
            protocol_name: name.map(|n| n.to_owned().into()),
            assignment: assignment.to_vec().into(),
            ..Default::default()
        };
        self.hear(env, &member);
        if let Some(consumer) = &mut self.consumer {
            consumer.cancel_timer(&member.id, MemberTimer::Sync);
        }
        Ok(response)
    }

    /// LeaveGroup to a consumer group. It also takes members out that are not classic.
    pub(crate) fn classic_leave(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &LeaveGroupRequest<'_>,
        api_version: i16,
    ) {
        let mut members: Vec<Arc<Member>> = Vec::new();
        let mut results = Vec::new();
        for leaves in leaving(request, api_version) {
            let error = match self.leaving_member(&leaves) {
                Ok(member) => {
                    if members.iter().all(|m| m.id != member.id) {
                        members.push(member);
                    }
                    ErrorCode::None
                }
                Err(refusal) => refusal.error,
            };
            results.push(left(&leaves, error));
        }
        let reply = leave_reply(results, api_version);
        if let Err(refusal) = self.fence_with(env, &members, Some((token, reply))) {
            env.reply(token, crate::classic::leave_error(refusal.error));
        }
    }

    fn leaving_member(&self, leaves: &Leaving<'_>) -> Result<Arc<Member>, Refusal> {
        let consumer = self.consumer.as_deref();
        let consumer = consumer.ok_or(ErrorCode::UnknownMemberId)?;
        let by_instance_only = leaves.instance.filter(|_| leaves.member_id.is_empty());
        if let Some(instance) = by_instance_only {
            let owner = consumer.static_member(instance).cloned();
            return owner.ok_or_else(|| unknown_instance(instance));
        }
        consumer.leaving(leaves.member_id, leaves.instance, &self.name)
    }
}
