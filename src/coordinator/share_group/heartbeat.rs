//! ShareGroupHeartbeat (76), version 1.
//!
//! Epoch 0 joins, -1 leaves. A list of topics that is null has not changed since the last time.
//! What a member shall have it has at once: partitions are shared, nobody has to give up anything
//! first.

use super::calls::{ShareCall, ShareThen};
use super::records::ShareRecord;
use super::state::{ShareGroup, ShareMember, StateTopics};
use super::write::After;
use crate::group::{Env, Group};
use crate::modern::assign::simple::{self, ShareMemberSpec};
use crate::modern::{
    LEAVE_EPOCH, Partitions, Refusal, TopicCounts, is_blank, is_blank_if_any, is_over,
    unknown_member,
};
use crate::out::{Metadata, Reply, ReplyToken, RequestContext};
use flumen_base::{ErrorCode, Uuid};
use flumen_wire::messages::share_group_heartbeat_response::{Assignment, TopicPartitions};
use flumen_wire::messages::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long topic metadata is taken for unchanged when nobody says that it changed (Kafka's
/// constant).
const REFRESH_INTERVAL_MS: i64 = i32::MAX as i64;
/// The longest member id, in UTF-16 units.
const MEMBER_ID_LEN_MAX: usize = 36;

/// A refusal as the answer.
pub(crate) fn share_heartbeat_error(refusal: Refusal) -> Reply {
    Reply::ShareGroupHeartbeat(ShareGroupHeartbeatResponse {
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    })
}

/// Whether a text can be the id of a member of a share group.
pub fn is_share_member_id(id: &str) -> bool {
    !id.is_empty() && id.encode_utf16().count() <= MEMBER_ID_LEN_MAX
}

/// What is wrong with a request by itself.
pub(crate) fn validate(request: &ShareGroupHeartbeatRequest<'_>) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    if !is_share_member_id(&request.member_id) {
        return Err(ErrorCode::InvalidRequest.into());
    }
    if is_blank(&request.member_id) {
        return invalid("MemberId can't be empty.");
    }
    if is_blank(&request.group_id) {
        return invalid("GroupId can't be empty.");
    }
    if is_blank_if_any(request.rack_id.as_deref()) {
        return invalid("RackId can't be empty.");
    }
    let topics = request.subscribed_topic_names.as_ref();
    if request.member_epoch == 0 && topics.is_none_or(Vec::is_empty) {
        return invalid("SubscribedTopicNames must be set in first request.");
    }
    if request.member_epoch < LEAVE_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    Ok(())
}

/// A member in this epoch, or in the one before: the answer with the new one may have got lost.
fn check_epoch(member: &ShareMember, epoch: i32) -> Result<(), Refusal> {
    let (known, before) = (member.epoch, member.previous_epoch);
    let fenced = |message| Err(Refusal::new(ErrorCode::FencedMemberEpoch, message));
    if epoch > known {
        return fenced(format!(
            "The share group member has a greater member epoch ({epoch}) than the one known by \
             the group coordinator ({known}). The member must abandon all its partitions and \
             rejoin."
        ));
    }
    if epoch != 0 && epoch < known && epoch != before {
        return fenced(format!(
            "The share group member has a smaller member epoch ({epoch}) than the one known by \
             the group coordinator ({known}), and it does not match the previous member epoch \
             ({before}). The member must abandon all its partitions and rejoin."
        ));
    }
    Ok(())
}

/// The member with what the request says of it.
fn updated(
    before: &Arc<ShareMember>,
    ctx: RequestContext<'_>,
    request: &ShareGroupHeartbeatRequest<'_>,
) -> Arc<ShareMember> {
    let mut member = ShareMember::clone(before);
    if let Some(rack) = request.rack_id.as_deref() {
        member.rack = Some(rack.into());
    }
    if let Some(names) = &request.subscribed_topic_names {
        member.topics = names.iter().map(|n| (&**n).into()).collect();
    }
    member.client_id = ctx.client_id.into();
    member.client_host = ctx.client_host.into();
    if member == **before {
        return before.clone();
    }
    Arc::new(member)
}

fn assignment_of(assigned: &Partitions) -> Assignment {
    let topics = assigned.iter();
    Assignment {
        topic_partitions: topics
            .map(|(topic, partitions)| TopicPartitions {
                topic_id: *topic,
                partitions: partitions.iter().copied().collect(),
            })
            .collect(),
    }
}

/// What follows from a request.
#[derive(Default)]
struct Plan {
    records: Vec<ShareRecord>,
    call: Option<ShareCall>,
    /// When topic metadata is to be looked at again, if it was looked at now.
    refresh: Option<(i64, i32)>,
    /// There was nothing to do.
    settled: bool,
}

/// A group and a member of it before and after a request.
struct Beat<'a> {
    group: &'a ShareGroup,
    name: &'a Arc<str>,
    before: Arc<ShareMember>,
    member: Arc<ShareMember>,
}

impl Beat<'_> {
    /// What is to be written, and the member as it is then.
    fn plan(&self, env: &Env<'_>) -> (Plan, Arc<ShareMember>) {
        let mut plan = Plan::default();
        let now_ms = env.now.wall_ms;
        let known = &self.group.records;
        if self.before != self.member {
            let id = self.member.id.clone();
            let record = ShareRecord::Member(id, Some(self.member.clone()));
            plan.records.push(record);
        }
        let subscribes_anew = self.before.topics != self.member.topics;
        let quiet = self.group.settled && !subscribes_anew;
        let stored = self.group.stored();
        let mut bump = subscribes_anew;
        if !quiet && known.target_epoch >= known.epoch {
            bump |= self.assigns_other_than(&stored);
        }
        let mut epoch = known.epoch;
        let mut topics: Option<TopicCounts> = None;
        if bump || self.group.is_metadata_due(now_ms) {
            let mut counts = self.group.topics().clone();
            let names = |member: &ShareMember, add: bool, counts: &mut TopicCounts| {
                member.topics.iter().for_each(|t| counts.by_name(t, add));
            };
            if self.group.member(&self.member.id).is_some() {
                names(&self.before, false, &mut counts);
            }
            names(&self.member, true, &mut counts);
            let hash = counts.metadata_hash(env.metadata);
            bump |= hash != known.metadata_hash;
            if bump {
                epoch = epoch.saturating_add(1);
                plan.records.push(ShareRecord::Epoch(Some((epoch, hash))));
            }
            plan.refresh = Some((now_ms.saturating_add(REFRESH_INTERVAL_MS), epoch));
            topics = Some(counts);
        }
        let (target_epoch, target) = self.target(env, epoch, &stored, &mut plan.records);
        let member = self.reconcile(env, (target_epoch, &target), bump, &mut plan.records);
        if !quiet || topics.is_some() {
            let topics = topics.as_ref().unwrap_or(self.group.topics());
            plan.call = self.initialize(env, epoch, topics, stored, &mut plan.records);
        }
        let waits = known
            .stored
            .as_ref()
            .is_some_and(|s| !s.initializing.is_empty());
        plan.settled = plan.records.is_empty() && target_epoch == epoch && !waits;
        (plan, member)
    }

    /// Whether of some topic that is subscribed to other partitions have stored state than are
    /// assigned.
    fn assigns_other_than(&self, stored: &StateTopics) -> bool {
        let mut assigned: BTreeMap<Uuid, BTreeSet<i32>> = BTreeMap::new();
        for (topic, partitions) in self.group.records.targets.values().flat_map(|t| t.iter()) {
            assigned.entry(*topic).or_default().extend(partitions);
        }
        stored.initialized.iter().any(|(id, topic)| {
            self.group.topics().contains(&topic.name) && assigned.get(id) != Some(&topic.partitions)
        })
    }

    /// A new target if the group's epoch is ahead of it and the last one is old enough. Its epoch
    /// and what it gives to the member.
    fn target(
        &self,
        env: &Env<'_>,
        epoch: i32,
        stored: &StateTopics,
        records: &mut Vec<ShareRecord>,
    ) -> (i32, Arc<Partitions>) {
        let known = &self.group.records;
        let last = || {
            known
                .targets
                .get(&self.member.id)
                .cloned()
                .unwrap_or_default()
        };
        if known.target_epoch >= epoch || !self.may_assign(env) {
            return (known.target_epoch, last());
        }
        let mut members: BTreeMap<&Arc<str>, &ShareMember> =
            known.members.iter().map(|(id, m)| (id, &**m)).collect();
        members.insert(&self.member.id, &*self.member);
        let specs = members.values().map(|m| ShareMemberSpec {
            topics: topic_ids(env.metadata, m),
            last: known.targets.get(&m.id).map(|t| &**t),
        });
        let specs: Vec<_> = specs.collect();
        let targets = simple::assign(&specs, &assignable(env.metadata, stored));
        let mut own = Arc::default();
        for (member, target) in members.values().zip(targets) {
            let old = known.targets.get(&member.id);
            let target = match old.filter(|old| ***old == target) {
                Some(same) => same.clone(),
                None => {
                    let target = Arc::new(target);
                    let record = ShareRecord::Target(member.id.clone(), Some(target.clone()));
                    records.push(record);
                    target
                }
            };
            if member.id == self.member.id {
                own = target;
            }
        }
        let made = Some((epoch, env.now.wall_ms));
        records.push(ShareRecord::TargetEpoch(made));
        (epoch, own)
    }

    /// `group.share.assignment.interval.ms` lies between two targets.
    fn may_assign(&self, env: &Env<'_>) -> bool {
        let own = env
            .metadata
            .group_settings(self.name)
            .share_assignment_interval_ms;
        let interval_ms = own.unwrap_or(env.config.share_group_assignment_interval_ms);
        let made_ms = self.group.records.target_ms;
        made_ms == 0 || is_over(made_ms, interval_ms.into(), env.now.wall_ms)
    }

    /// The member with what the target gives it.
    fn reconcile(
        &self,
        env: &Env<'_>,
        (target_epoch, target): (i32, &Partitions),
        bumped: bool,
        records: &mut Vec<ShareRecord>,
    ) -> Arc<ShareMember> {
        let moves = self.member.epoch != target_epoch;
        if !moves && !bumped {
            return self.member.clone();
        }
        let mut member = ShareMember::clone(&self.member);
        if moves {
            member.previous_epoch = member.epoch;
            member.epoch = target_epoch;
        }
        let subscribed = topic_ids(env.metadata, &member);
        let mine = target
            .iter()
            .filter(|(topic, _)| subscribed.contains(topic));
        member.assigned = mine.map(|(t, p)| (*t, p.clone())).collect();
        if member == *self.member {
            return self.member.clone();
        }
        let member = Arc::new(member);
        let record = ShareRecord::Current(member.id.clone(), Some(member.clone()));
        records.push(record);
        member
    }

    /// Asks for the stored states that partitions of subscribed topics lack: only with one are they
    /// assigned. Those that were asked for long ago are asked for again.
    fn initialize(
        &self,
        env: &Env<'_>,
        state_epoch: i32,
        topics: &TopicCounts,
        mut stored: StateTopics,
        records: &mut Vec<ShareRecord>,
    ) -> Option<ShareCall> {
        let now_ms = env.now.wall_ms;
        let retry_ms = i64::from(env.config.share_group_initialize_retry_interval_ms);
        let missing = stored.missing(env.metadata, topics.names(), |since_ms| {
            !is_over(since_ms, retry_ms, now_ms)
        });
        if missing.is_empty() {
            return None;
        }
        let partitions = missing.iter().flat_map(|(id, topic)| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| (*id, *p, -1))
        });
        let call = ShareCall::initialize(self.name, state_epoch, partitions.collect());
        stored.begin(missing);
        records.push(ShareRecord::Stored(Some(Arc::new(stored.at(now_ms)))));
        Some(call)
    }
}

/// The topics that a member subscribes to and that exist.
fn topic_ids(metadata: &dyn Metadata, member: &ShareMember) -> BTreeSet<Uuid> {
    let names = member.topics.iter();
    names.filter_map(|name| metadata.topic_id(name)).collect()
}

/// The partitions that there are and that have stored state.
fn assignable(metadata: &dyn Metadata, stored: &StateTopics) -> Partitions {
    let topics = stored.initialized.iter().map(|(id, topic)| {
        let count = metadata.partition_count(*id).unwrap_or(0);
        let there = topic.partitions.range(..count).copied();
        (*id, there.collect())
    });
    topics.collect()
}

impl Group {
    /// ShareGroupHeartbeat, when the group was found or made.
    pub(crate) fn share_heartbeat(
        &mut self,
        env: &mut Env<'_>,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &ShareGroupHeartbeatRequest<'_>,
    ) {
        let result = if self.is_dead() {
            Err(ErrorCode::CoordinatorNotAvailable.into())
        } else if request.member_epoch == LEAVE_EPOCH {
            self.share_leave(env, token, &request.member_id)
        } else {
            self.share_beat(env, ctx, token, request)
        };
        if let Err(refusal) = result {
            env.reply(token, share_heartbeat_error(refusal));
        }
    }

    fn share_beat(
        &mut self,
        env: &mut Env<'_>,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &ShareGroupHeartbeatRequest<'_>,
    ) -> Result<(), Refusal> {
        let Some(group) = self.share.as_deref() else {
            return Err(ErrorCode::UnknownServerError.into()); // it was found as one
        };
        let known = group.member(&request.member_id).cloned();
        let max_size = env.config.share_group_max_size;
        if known.is_none() && group.records.members.len() >= max_size {
            let message =
                format!("The share group has reached its maximum capacity of {max_size} members.");
            return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
        }
        let joins = request.member_epoch == 0;
        let before = match known {
            Some(member) => member,
            None if joins => Arc::new(ShareMember::new((&*request.member_id).into())),
            None => return Err(unknown_member(&request.member_id, &self.name)),
        };
        check_epoch(&before, request.member_epoch)?;
        let beat = Beat {
            group,
            name: &self.name,
            member: updated(&before, ctx, request),
            before,
        };
        let (plan, member) = beat.plan(env);
        let full = joins || request.subscribed_topic_names.is_some();
        let tells = full || member.assigned != beat.before.assigned;
        let own_interval = env
            .metadata
            .group_settings(&self.name)
            .share_heartbeat_interval_ms;
        let reply = Reply::ShareGroupHeartbeat(ShareGroupHeartbeatResponse {
            member_id: Some(member.id.to_string().into()),
            member_epoch: member.epoch,
            heartbeat_interval_ms: own_interval
                .unwrap_or(env.config.share_group_heartbeat_interval_ms),
            assignment: tells.then(|| assignment_of(&member.assigned)),
            ..Default::default()
        });
        let group = self.name.clone();
        let after = After {
            reply: Some((token, reply)),
            call: plan.call.map(|call| (call, ShareThen::Heartbeat { group })),
        };
        self.write_share(env, plan.records, after)?;
        let name = (self.serial, &*self.name);
        if let Some(share) = &mut self.share {
            share.refresh = plan.refresh.unwrap_or(share.refresh);
            share.settled = plan.settled;
            share.begin_session(env, name, &member.id);
        }
        Ok(())
    }

    fn share_leave(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        member_id: &str,
    ) -> Result<(), Refusal> {
        let member = self
            .share
            .as_ref()
            .and_then(|share| share.member(member_id));
        let id = member.map(|m| m.id.clone());
        let id = id.ok_or_else(|| unknown_member(member_id, &self.name))?;
        let reply = Reply::ShareGroupHeartbeat(ShareGroupHeartbeatResponse {
            member_id: Some(member_id.to_owned().into()),
            member_epoch: LEAVE_EPOCH,
            ..Default::default()
        });
        self.share_fence(env, &id, Some((token, reply)))
    }

    /// Takes a member out; a new epoch begins.
    pub(super) fn share_fence(
        &mut self,
        env: &mut Env<'_>,
        id: &Arc<str>,
        reply: Option<(ReplyToken, Reply)>,
    ) -> Result<(), Refusal> {
        let Some(share) = &self.share else {
            return Ok(());
        };
        let mut topics = share.topics().clone();
        for topic in share.member(id).iter().flat_map(|m| &m.topics) {
            topics.by_name(topic, false);
        }
        let epoch = share.records.epoch.saturating_add(1);
        let hash = topics.metadata_hash(env.metadata);
        let records = vec![
            ShareRecord::Current(id.clone(), None),
            ShareRecord::Target(id.clone(), None),
            ShareRecord::Member(id.clone(), None),
            ShareRecord::Epoch(Some((epoch, hash))),
        ];
        self.write_share(env, records, After { reply, call: None })
    }
}
