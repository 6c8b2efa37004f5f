//! JoinGroup (11), versions 0-9.
//!
//! - 0: no rebalance timeout, the session timeout stands for it.
//! - 4: a dynamic member without id is told one and must come back with it (MEMBER_ID_REQUIRED,
//!   KIP-394).
//! - 5: static members (`group.instance.id`, KIP-345).
//! - 7: protocol type in the answer, protocol name nullable.
//! - 9: a returning static leader skips the assignment (KIP-814).

use super::member::{Member, Parked, Protocol};
use super::{State, metadata_append_error};
use crate::group::{Env, Group};
use crate::limits::{GROUP_PENDING_MEMBERS_MAX, NEW_MEMBER_JOIN_TIMEOUT_MS};
use crate::out::{Reply, ReplyToken, RequestContext};
use crate::timers::{Deadline, MemberSerial, TimerKey};
use crate::writes::{Done, Effect, Part};
use bytes::Bytes;
use flumen_base::{ErrorCode, Prng};
use flumen_wire::messages::join_group_response::JoinGroupResponseMember;
use flumen_wire::messages::{JoinGroupRequest, JoinGroupResponse};
use std::fmt::Write as _;
use std::sync::Arc;

/// Versions from here on must come back with the id they are told.
const REQUIRES_KNOWN_MEMBER_ID_FROM: i16 = 4;
/// Versions from here on understand skipAssignment.
const SKIP_ASSIGNMENT_FROM: i16 = 9;
/// Versions from here on can take a null protocol name.
const NULLABLE_PROTOCOL_NAME_FROM: i16 = 7;

/// A static member that came back under a new id, while the record that says so is being written.
#[derive(Debug)]
pub(crate) struct StaticReplacement {
    pub(crate) member: MemberSerial,
    pub(crate) token: ReplyToken,
    pub(crate) old_id: Arc<str>,
    pub(crate) old_protocols: Vec<Protocol>,
    pub(crate) old_rebalance_timeout_ms: i32,
    pub(crate) old_session_timeout_ms: i32,
    /// The leader before, by id: versions that can't skip the assignment must not take themselves
    /// for the leader.
    pub(crate) old_leader_id: Box<str>,
}

/// An answer without content.
pub(crate) fn join_error(parked: Parked, member_id: &str, error: ErrorCode) -> Reply {
    let mut response = JoinGroupResponse {
        error_code: error.code(),
        protocol_name: None,
        member_id: member_id.to_owned().into(),
        ..Default::default()
    };
    fit_version(&mut response, parked.api_version);
    Reply::JoinGroup(response)
}

/// Before version 7 the protocol name can't be null.
fn fit_version(response: &mut JoinGroupResponse<'static>, api_version: i16) {
    response.protocol_name = match (response.protocol_name.take(), api_version) {
        (None, version) if version < NULLABLE_PROTOCOL_NAME_FROM => Some("".into()),
        (name, _) => name,
    };
}

/// A member id as Kafka makes it: prefix, hyphen, random UUID in Java's form.
fn generate_member_id(prefix: &str, prng: &mut Prng) -> Arc<str> {
    let mut bytes = prng.bytes16();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut id = String::with_capacity(prefix.len() + 37);
    id.push_str(prefix);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 0 | 4 | 6 | 8 | 10) {
            id.push('-');
        }
        let _ = write!(id, "{byte:02x}"); // writing to a String can't fail
    }
    id.into()
}

fn protocols_of(request: &JoinGroupRequest<'_>) -> Vec<Protocol> {
    let protocols = request.protocols.iter();
    protocols
        .map(|p| Protocol {
            name: (&*p.name).into(),
            metadata: Bytes::copy_from_slice(&p.metadata),
        })
        .collect()
}

fn offers(member: &Member, request: &JoinGroupRequest<'_>) -> bool {
    let offered = member.protocols.iter().map(|p| (&*p.name, &*p.metadata));
    offered.eq(request.protocols.iter().map(|p| (&*p.name, &*p.metadata)))
}

/// Version 0 has no rebalance timeout.
pub(crate) fn rebalance_timeout_ms(request: &JoinGroupRequest<'_>, api_version: i16) -> i32 {
    if api_version == 0 {
        request.session_timeout_ms
    } else {
        request.rebalance_timeout_ms
    }
}

/// Whether a member must come back with the id that it is told: a dynamic one without id.
pub(crate) fn requires_member_id(request: &JoinGroupRequest<'_>, api_version: i16) -> bool {
    api_version >= REQUIRES_KNOWN_MEMBER_ID_FROM
        && request.group_instance_id.is_none()
        && request.member_id.is_empty()
}

/// A JoinGroup on its way: the request and whom to answer.
#[derive(Clone, Copy)]
pub(crate) struct Joining<'a> {
    pub(crate) ctx: RequestContext<'a>,
    pub(crate) request: &'a JoinGroupRequest<'a>,
    pub(crate) parked: Parked,
}

impl Group {
    /// Whether a new group could begin with this request.
    pub(crate) fn could_begin_with(request: &JoinGroupRequest<'_>) -> bool {
        !request.protocol_type.is_empty() && !request.protocols.is_empty()
    }

    /// JoinGroup, when the group was found or made.
    pub(crate) fn join(&mut self, env: &mut Env<'_>, join: Joining<'_>) {
        let Joining { request, .. } = join;
        let refuse = |env: &mut Env<'_>, id: &str, error| {
            env.reply(join.parked.token, join_error(join.parked, id, error));
        };
        if !self.accepts(env, &request.member_id) {
            if let Some(serial) = self.classic.find(&request.member_id) {
                self.drop_member(env, serial);
            }
            return refuse(env, "", ErrorCode::GroupMaxSizeReached);
        }
        if self.classic.state == State::Dead {
            return refuse(env, &request.member_id, ErrorCode::CoordinatorNotAvailable);
        }
        let names = request.protocols.iter().map(|p| &*p.name);
        if !self.classic.supports(&request.protocol_type, names) {
            return refuse(
                env,
                &request.member_id,
                ErrorCode::InconsistentGroupProtocol,
            );
        }
        if request.member_id.is_empty() {
            self.join_without_id(env, join);
        } else {
            self.join_with_id(env, join);
        }
    }

    /// `group.max.size`. While members gather, those who wait already count, so that the last ones
    /// to come back are the ones to go; afterwards the members count.
    fn accepts(&self, env: &Env<'_>, member_id: &str) -> bool {
        let known = self.classic.find(member_id);
        match self.classic.state {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                let member = known.and_then(|serial| self.classic.members.get(&serial));
                member.is_some_and(|m| m.join.is_some())
                    || self.classic.joining() < env.config.group_max_size
            }
            State::CompletingRebalance | State::Stable => {
                known.is_some() || self.classic.members.len() < env.config.group_max_size
            }
        }
    }

    fn join_without_id(&mut self, env: &mut Env<'_>, join: Joining<'_>) {
        let Joining {
            ctx,
            request,
            parked,
        } = join;
        if let Some(instance) = request.group_instance_id.as_deref() {
            let id = generate_member_id(instance, env.prng);
            match self.classic.find_static(instance) {
                Some(old) => self.replace_static(env, join, old, id),
                None => {
                    let serial = self.classic.next_serial();
                    self.add_member(env, join, serial, id);
                }
            }
            return;
        }
        let id = generate_member_id(ctx.client_id, env.prng);
        if !requires_member_id(request, ctx.api_version) {
            let serial = self.classic.next_serial();
            return self.add_member(env, join, serial, id);
        }
        if self.classic.pending.len() >= GROUP_PENDING_MEMBERS_MAX {
            let reply = join_error(parked, "", ErrorCode::GroupMaxSizeReached);
            return env.reply(parked.token, reply);
        }
        let serial = self.classic.next_serial();
        let mut deadline = Deadline::default();
        let at = env.now.mono.plus_ms(request.session_timeout_ms.into());
        env.timers
            .set(&mut deadline, TimerKey::Session(self.serial, serial), at);
        env.reply(
            parked.token,
            join_error(parked, &id, ErrorCode::MemberIdRequired),
        );
        self.classic.add_pending(serial, id, deadline);
    }

    fn join_with_id(&mut self, env: &mut Env<'_>, join: Joining<'_>) {
        let Joining {
            request, parked, ..
        } = join;
        let instance = request.group_instance_id.as_deref();
        if let Some(serial) = self.classic.find_pending(&request.member_id) {
            if instance.is_some() {
                // Ids are handed out to dynamic members only; Kafka fails here with an internal
                // error.
                let reply = join_error(parked, &request.member_id, ErrorCode::UnknownServerError);
                return env.reply(parked.token, reply);
            }
            return self.add_member(env, join, serial, Arc::from(&*request.member_id));
        }
        let serial = match self.classic.validate_member(&request.member_id, instance) {
            Ok(serial) => serial,
            Err(error) => {
                let reply = join_error(parked, &request.member_id, error);
                return env.reply(parked.token, reply);
            }
        };
        let same = self
            .classic
            .members
            .get(&serial)
            .is_some_and(|m| offers(m, request));
        match self.classic.state {
            State::PreparingRebalance => self.rejoin(env, join, serial),
            State::CompletingRebalance if same => self.answer_current(env, serial, parked),
            // The leader comes back to make a rebalance happen (its view of the topics changed).
            State::Stable if same && self.classic.leader != Some(serial) => {
                self.answer_current(env, serial, parked);
            }
            State::CompletingRebalance | State::Stable => self.rejoin(env, join, serial),
            State::Empty | State::Dead => {
                let reply = join_error(parked, &request.member_id, ErrorCode::UnknownMemberId);
                env.reply(parked.token, reply);
            }
        }
    }

    /// The answer was lost or the member is a follower with nothing new: this generation as it is.
    fn answer_current(&mut self, env: &mut Env<'_>, serial: MemberSerial, parked: Parked) {
        let with_members =
            self.classic.state == State::CompletingRebalance && self.classic.leader == Some(serial);
        let reply = self.joined(serial, parked, with_members);
        env.reply(parked.token, reply);
    }

    /// What a member of this generation hears; `with_members` for its leader.
    pub(crate) fn joined(&self, serial: MemberSerial, parked: Parked, with_members: bool) -> Reply {
        let classic = &self.classic;
        let id = classic.members.get(&serial).map(|m| &*m.id).unwrap_or("");
        let mut response = JoinGroupResponse {
            generation_id: classic.generation,
            protocol_type: classic
                .protocol_type
                .as_deref()
                .map(|t| t.to_owned().into()),
            protocol_name: classic.protocol.as_deref().map(|p| p.to_owned().into()),
            leader: self.leader_id().to_owned().into(),
            member_id: id.to_owned().into(),
            ..Default::default()
        };
        if with_members {
            let protocol = classic.protocol.as_deref().unwrap_or("");
            let members = classic.members.values().map(|m| JoinGroupResponseMember {
                member_id: m.id.to_string().into(),
                group_instance_id: m.instance.as_deref().map(|i| i.to_owned().into()),
                metadata: m.metadata(protocol).to_vec().into(),
            });
            response.members = members.collect();
        }
        fit_version(&mut response, parked.api_version);
        Reply::JoinGroup(response)
    }

    pub(crate) fn leader_id(&self) -> &str {
        let leader = self
            .classic
            .leader
            .and_then(|l| self.classic.members.get(&l));
        leader.map(|m| &*m.id).unwrap_or("")
    }

    fn add_member(
        &mut self,
        env: &mut Env<'_>,
        join: Joining<'_>,
        serial: MemberSerial,
        id: Arc<str>,
    ) {
        let Joining {
            ctx,
            request,
            parked,
        } = join;
        let mut session = Deadline::default();
        if let Some((_, deadline)) = self.classic.pending.get(&serial) {
            session = *deadline; // its queue entry goes on under the same number
        }
        // A member that waits in its first JoinGroup can't heartbeat, and its connection is not
        // read: if the client went away, only this limit removes it.
        let at = env.now.mono.plus_ms(NEW_MEMBER_JOIN_TIMEOUT_MS);
        env.timers
            .set(&mut session, TimerKey::Session(self.serial, serial), at);
        let member = Member {
            id,
            instance: request.group_instance_id.as_deref().map(Into::into),
            client_id: ctx.client_id.into(),
            client_host: ctx.client_host.into(),
            rebalance_timeout_ms: rebalance_timeout_ms(request, ctx.api_version),
            session_timeout_ms: request.session_timeout_ms,
            protocols: protocols_of(request),
            assignment: Bytes::new(),
            join: Some(parked),
            sync: None,
            is_new: true,
            session,
        };
        let classic = &mut self.classic;
        if classic.state == State::PreparingRebalance && classic.previous == State::Empty {
            classic.member_added = true;
        }
        classic.add(serial, member, &request.protocol_type);
        self.rebalance_or_complete_join(env);
    }

    /// A member joins again with what it offers now.
    fn rejoin(&mut self, env: &mut Env<'_>, join: Joining<'_>, serial: MemberSerial) {
        self.update_member(env, join, serial);
        self.rebalance_or_complete_join(env);
    }

    /// Takes over what the member offers, and parks its request.
    fn update_member(&mut self, env: &mut Env<'_>, join: Joining<'_>, serial: MemberSerial) {
        let Joining {
            ctx,
            request,
            parked,
        } = join;
        self.classic.set_protocols(serial, protocols_of(request));
        if let Some(member) = self.classic.members.get_mut(&serial) {
            member.rebalance_timeout_ms = rebalance_timeout_ms(request, ctx.api_version);
            member.session_timeout_ms = request.session_timeout_ms;
        }
        if let Some(old) = self.classic.park_join(serial, parked) {
            // The client sent it again on another connection; whoever still reads the first one may
            // retry.
            let reply = join_error(old, &request.member_id, ErrorCode::RebalanceInProgress);
            env.reply(old.token, reply);
        }
    }

    /// A static member is back without its id (it restarted): it gets a new one, the old one is
    /// fenced. If the group is stable and would choose the same protocol, nobody else needs to
    /// know.
    fn replace_static(
        &mut self,
        env: &mut Env<'_>,
        join: Joining<'_>,
        old: MemberSerial,
        id: Arc<str>,
    ) {
        let Joining { parked, .. } = join;
        let old_leader_id: Box<str> = self.leader_id().into();
        let Some((old_id, serial)) = self.rename_static(env, old, id) else {
            return; // it was found a moment ago
        };
        let Some(member) = self.classic.members.get(&serial) else {
            return;
        };
        let replaced = StaticReplacement {
            member: serial,
            token: parked.token,
            old_id,
            old_protocols: member.protocols.clone(),
            old_rebalance_timeout_ms: member.rebalance_timeout_ms,
            old_session_timeout_ms: member.session_timeout_ms,
            old_leader_id,
        };
        self.update_member(env, join, serial);
        match self.classic.state {
            State::Stable if self.classic.protocol == self.classic.select_protocol() => {
                let Some(record) = self.metadata_record(|member| member.assignment.clone()) else {
                    let error = ErrorCode::UnknownServerError;
                    return self.static_replacement_failed(env, replaced, error);
                };
                let part = Part {
                    group: self.serial,
                    offsets: Vec::new(),
                    effect: Effect::Replaced(Box::new(replaced)),
                };
                let part = self.part(env.next_write(), part);
                env.append(self.partition, vec![record], vec![part], Done::Nothing);
            }
            State::Stable => self.rebalance_or_complete_join(env),
            // The leader may already be assigning to the old id.
            State::CompletingRebalance => self.prepare_rebalance(env),
            _ => self.maybe_complete_join(env),
        }
    }

    /// Gives the static member a new id and fences whoever waits under the old one.
    fn rename_static(
        &mut self,
        env: &mut Env<'_>,
        old: MemberSerial,
        id: Arc<str>,
    ) -> Option<(Arc<str>, MemberSerial)> {
        let old_id = self.classic.members.get(&old)?.id.clone();
        if let Some(parked) = self.classic.take_join(old) {
            let reply = join_error(parked, &old_id, ErrorCode::FencedInstanceId);
            env.reply(parked.token, reply);
        }
        if let Some(parked) = self.classic.members.get_mut(&old)?.sync.take() {
            env.reply(
                parked.token,
                super::sync::sync_error(ErrorCode::FencedInstanceId),
            );
        }
        let serial = self.classic.rename(old, id)?;
        if let Some(member) = self.classic.members.get_mut(&serial) {
            member.is_new = false;
        }
        self.touch(env, serial);
        Some((old_id, serial))
    }

    /// The record of a [`StaticReplacement`] is written: the member may go on. If a rebalance has
    /// answered it meanwhile, there is nothing to say.
    pub(crate) fn static_replaced(&mut self, env: &mut Env<'_>, replaced: &StaticReplacement) {
        if !self.is_parked(replaced) {
            return;
        }
        let Some(parked) = self.classic.take_join(replaced.member) else {
            return;
        };
        let skips = parked.api_version >= SKIP_ASSIGNMENT_FROM;
        let leads = self.classic.leader == Some(replaced.member);
        let mut reply = self.joined(replaced.member, parked, skips && leads);
        if let Reply::JoinGroup(response) = &mut reply {
            response.skip_assignment = skips && leads;
            if !skips {
                response.leader = replaced.old_leader_id.to_string().into();
            }
        }
        env.reply(parked.token, reply);
    }

    /// The record could not be written: the old id is good again.
    pub(crate) fn static_replacement_failed(
        &mut self,
        env: &mut Env<'_>,
        replaced: StaticReplacement,
        error: ErrorCode,
    ) {
        if !self.is_parked(&replaced) {
            return;
        }
        let Some(parked) = self.classic.take_join(replaced.member) else {
            return;
        };
        let mut reply = self.joined(replaced.member, parked, false);
        if let Reply::JoinGroup(response) = &mut reply {
            response.error_code = metadata_append_error(error).code();
            response.member_id = "".into();
            response.leader = replaced.old_leader_id.to_string().into();
        }
        env.reply(parked.token, reply);
        self.classic
            .set_protocols(replaced.member, replaced.old_protocols);
        if let Some(member) = self.classic.members.get_mut(&replaced.member) {
            member.rebalance_timeout_ms = replaced.old_rebalance_timeout_ms;
            member.session_timeout_ms = replaced.old_session_timeout_ms;
        }
        self.rename_static(env, replaced.member, replaced.old_id);
    }

    fn is_parked(&self, replaced: &StaticReplacement) -> bool {
        let member = self.classic.members.get(&replaced.member);
        member
            .and_then(|m| m.join)
            .is_some_and(|parked| parked.token == replaced.token)
    }
}
