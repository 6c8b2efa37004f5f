//! ConsumerGroupHeartbeat (68), versions 0 and 1. 1: the member makes its id itself; subscriptions
//! by regular expression.
//!
//! Epoch 0 joins, -1 leaves, -2 leaves for a while (static members). A field that is null has not
//! changed since the last time.

use super::member::{LEAVE_EPOCH, LEAVE_STATIC_EPOCH, Member};
use super::reconcile::Reconcile;
use super::regex::RegexChange;
use super::state::ConsumerGroup;
use super::static_member::{Speaker, away, is_leave};
use super::target::Changed;
use super::{Change, ConsumerRecord, Refusal};
use crate::config::CoordinatorConfig;
use crate::group::{Env, Group};
use crate::modern::{EpochPartitions, Partitions, is_blank, is_blank_if_any};
use crate::out::{Reply, ReplyToken, RequestContext};
use flumen_base::ErrorCode;
use flumen_wire::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use flumen_wire::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Versions from here on must bring the id that the member made.
const MEMBER_ID_FROM: i16 = 1;
/// How long topic metadata is taken for unchanged when nobody says that it changed (Kafka's
/// constant).
const REFRESH_INTERVAL_MS: i64 = i32::MAX as i64;

/// A refusal as the answer.
pub(crate) fn heartbeat_error(refusal: Refusal) -> Reply {
    Reply::ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse {
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    })
}

/// What is wrong with a request by itself.
pub(crate) fn validate(
    request: &ConsumerGroupHeartbeatRequest<'_>,
    api_version: i16,
    config: &CoordinatorConfig,
) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let epoch = request.member_epoch;
    let needs_id = api_version >= MEMBER_ID_FROM || epoch > 0 || epoch == LEAVE_EPOCH;
    if needs_id && is_blank(&request.member_id) {
        return invalid("MemberId can't be empty.");
    }
    if is_blank(&request.group_id) {
        return invalid("GroupId can't be empty.");
    }
    if is_blank_if_any(request.instance_id.as_deref()) {
        return invalid("InstanceId can't be empty.");
    }
    if is_blank_if_any(request.rack_id.as_deref()) {
        return invalid("RackId can't be empty.");
    }
    if epoch == 0 {
        if request.rebalance_timeout_ms == -1 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        if request
            .topic_partitions
            .as_ref()
            .is_none_or(|t| !t.is_empty())
        {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return invalid(
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                 (re-)joining.",
            );
        }
    } else if epoch == LEAVE_STATIC_EPOCH && request.instance_id.is_none() {
        return invalid("InstanceId can't be null.");
    } else if epoch < LEAVE_STATIC_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    let known = |name: &str| {
        let mut assignors = config.consumer_group_assignors.iter();
        assignors.any(|a| a.name() == name)
    };
    match request.server_assignor.as_deref() {
        Some(name) if !known(name) => {
            let all = config.consumer_group_assignors.iter();
            let all: Vec<_> = all.map(|a| a.name()).collect();
            let message = format!(
                "ServerAssignor {name} is not supported. Supported assignors: {}.",
                all.join(", ")
            );
            Err(Refusal::new(ErrorCode::UnsupportedAssignor, message))
        }
        _ => Ok(()),
    }
}

/// What follows from a member's request: what is written, and what it has then.
struct Plan {
    records: Vec<ConsumerRecord>,
    member: Arc<Member>,
    /// What it has, or its state, changed.
    reconciled: bool,
    /// When topic metadata is to be looked at again, if it was looked at now.
    refresh: Option<(i64, i32)>,
    /// The group has expressions to match.
    resolve: bool,
}

/// The member before and after a request, and what the request says of its partitions.
pub(super) struct Step<'a> {
    pub(super) group: &'a ConsumerGroup,
    pub(super) name: &'a str,
    pub(super) before: Arc<Member>,
    pub(super) member: Arc<Member>,
    pub(super) owned: Option<&'a Partitions>,
}

impl Step<'_> {
    /// The record of what the member says of itself, if that changed; whether the names it
    /// subscribes to did.
    pub(super) fn plan_metadata(&self, records: &mut Vec<ConsumerRecord>) -> bool {
        if self.before == self.member {
            return false;
        }
        let id = self.member.id.clone();
        records.push(ConsumerRecord::Member(id, Some(self.member.clone())));
        self.before.topics != self.member.topics
    }

    /// Looks at the metadata of the group's topics; a new epoch begins if it changed, or with
    /// `bump`. The epoch, and when to look again.
    pub(super) fn plan_refresh(
        &self,
        env: &Env<'_>,
        bump: bool,
        records: &mut Vec<ConsumerRecord>,
    ) -> (i32, Option<(i64, i32)>) {
        let group = self.group;
        let mut topics = group.topic_counts().clone();
        self.before
            .topics
            .iter()
            .for_each(|t| topics.by_name(t, false));
        self.member
            .topics
            .iter()
            .for_each(|t| topics.by_name(t, true));
        let (old, new) = (self.before.regex(), self.member.regex());
        if old != new
            && let Some(old) = old.filter(|old| group.regex_members(old) == 1)
        {
            let resolved = group.regexes.get(old);
            let matched = resolved.iter().flat_map(|r| &r.topics);
            matched.for_each(|t| topics.by_regex(t, false));
        }
        let hash = topics.metadata_hash(env.metadata);
        let mut epoch = group.epoch;
        if bump || hash != group.metadata_hash {
            epoch = epoch.saturating_add(1);
            records.push(ConsumerRecord::Epoch(Some((epoch, hash))));
        }
        if group.has_partition_metadata {
            records.push(ConsumerRecord::PartitionMetadata(false));
        }
        let due = env.now.wall_ms.saturating_add(REFRESH_INTERVAL_MS);
        (epoch, Some((due, epoch)))
    }

    /// A new target if one is due, and the member's next step towards it.
    pub(super) fn plan_assignment(
        &self,
        env: &Env<'_>,
        group_epoch: i32,
        subscription_changed: bool,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<Arc<Member>, Refusal> {
        let group = self.group;
        // Nothing to look up: most heartbeats come from members that have what they shall have.
        let has_arrived = self.member.is_reconciled_to(group.target_epoch);
        if has_arrived && !subscription_changed && group.target_epoch >= group_epoch {
            return Ok(self.member.clone());
        }
        let changed = Changed {
            group_epoch,
            before: &self.before,
            member: &self.member,
        };
        let target = group.plan_target(env, self.name, &changed, records);
        let reconcile = Reconcile {
            group,
            metadata: env.metadata,
            target_epoch: target.epoch,
            target: &target.partitions,
            subscription_changed,
            owned: self.owned,
        };
        reconcile.run(self.member.clone(), records)
    }
}

/// Changes a text of a member that others share, if it differs.
macro_rules! update {
    ($member:ident.$field:ident, $text:expr) => {
        if $member.$field.as_deref() != Some($text) {
            Arc::make_mut(&mut $member).$field = Some($text.into());
        }
    };
}

/// The member with what the request says of it.
fn updated(
    before: &Arc<Member>,
    ctx: RequestContext<'_>,
    request: &ConsumerGroupHeartbeatRequest<'_>,
) -> Arc<Member> {
    let mut member = before.clone();
    if let Some(instance) = request.instance_id.as_deref() {
        update!(member.instance, instance);
    }
    if let Some(rack) = request.rack_id.as_deref() {
        update!(member.rack, rack);
    }
    if let Some(assignor) = request.server_assignor.as_deref() {
        update!(member.assignor, assignor);
    }
    if let Some(regex) = request.subscribed_topic_regex.as_deref() {
        update!(member.regex, regex);
    }
    let timeout_ms = request.rebalance_timeout_ms;
    if timeout_ms != -1 && timeout_ms != member.rebalance_timeout_ms {
        Arc::make_mut(&mut member).rebalance_timeout_ms = timeout_ms;
    }
    if let Some(names) = &request.subscribed_topic_names {
        let topics: BTreeSet<Box<str>> = names.iter().map(|n| (&**n).into()).collect();
        if topics != member.topics {
            Arc::make_mut(&mut member).topics = topics;
        }
    }
    speak_for(&mut member, ctx);
    if member.is_classic() {
        Arc::make_mut(&mut member).classic = None;
    }
    member
}

/// Where the member's requests come from.
pub(super) fn speak_for(member: &mut Arc<Member>, ctx: RequestContext<'_>) {
    if *member.client_id != *ctx.client_id {
        Arc::make_mut(member).client_id = ctx.client_id.into();
    }
    if *member.client_host != *ctx.client_host {
        Arc::make_mut(member).client_host = ctx.client_host.into();
    }
}

/// What the member says it has.
fn owned_of(request: &ConsumerGroupHeartbeatRequest<'_>) -> Option<Partitions> {
    let topics = request.topic_partitions.as_ref()?;
    let mut owned = Partitions::new();
    for topic in topics {
        let partitions = owned.entry(topic.topic_id).or_default();
        partitions.extend(&topic.partitions);
    }
    Some(owned)
}

fn assignment_of(assigned: &EpochPartitions) -> Assignment {
    let topics = assigned.iter();
    Assignment {
        topic_partitions: topics
            .map(|(topic, partitions)| TopicPartitions {
                topic_id: *topic,
                partitions: partitions.keys().copied().collect(),
            })
            .collect(),
    }
}

fn plan(
    (group, name): (&ConsumerGroup, &str),
    id: &Arc<str>,
    env: &Env<'_>,
    ctx: RequestContext<'_>,
    request: &ConsumerGroupHeartbeatRequest<'_>,
) -> Result<(Plan, ConsumerGroupHeartbeatResponse<'static>), Refusal> {
    let owned = owned_of(request);
    let mut records = Vec::new();
    let speaker = Speaker {
        id,
        instance: request.instance_id.as_deref(),
        joins: request.member_epoch == 0,
        at: Some((request.member_epoch, owned.as_ref())),
    };
    let before = group.plan_member(speaker, name, &mut records)?;
    let member = updated(&before, ctx, request);
    let step = Step {
        group,
        name,
        before,
        member,
        owned: owned.as_ref(),
    };
    let names_changed = step.plan_metadata(&mut records);
    let (regex, resolve) = group.plan_regex(env, &step.before, &step.member, &mut records)?;
    let changed = names_changed || regex != RegexChange::Same;
    let bump = names_changed || regex == RegexChange::UpdatedAndResolved;
    let (epoch, refresh) = if bump || group.is_metadata_due(env.now.wall_ms) {
        step.plan_refresh(env, bump, &mut records)
    } else {
        (group.epoch, None)
    };
    let planned = records.len();
    let member = step.plan_assignment(env, epoch, changed, &mut records)?;
    let last = records.get(planned..).and_then(|new| new.last());
    let reconciled = matches!(last, Some(ConsumerRecord::Current(..)));
    let full = request.rebalance_timeout_ms != -1
        && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
        && owned.is_some();
    let given = !Arc::ptr_eq(&member, &step.before) && member.assigned != step.before.assigned;
    let tells = request.member_epoch == 0 || full || given;
    let own_interval = env.metadata.group_settings(name).heartbeat_interval_ms;
    let response = ConsumerGroupHeartbeatResponse {
        member_id: Some(member.id.to_string().into()),
        member_epoch: member.epoch,
        heartbeat_interval_ms: own_interval
            .unwrap_or(env.config.consumer_group_heartbeat_interval_ms),
        assignment: tells.then(|| assignment_of(&member.assigned)),
        ..Default::default()
    };
    let plan = Plan {
        records,
        member,
        reconciled,
        refresh,
        resolve,
    };
    Ok((plan, response))
}

impl Group {
    /// ConsumerGroupHeartbeat, when the group was found or (`created`) made.
    pub(crate) fn consumer_heartbeat(
        &mut self,
        env: &mut Env<'_>,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        created: bool,
    ) {
        let result = if self.is_dead() {
            Err(ErrorCode::CoordinatorNotAvailable.into())
        } else if is_leave(request.member_epoch) {
            self.consumer_leave(env, token, request)
        } else {
            self.consumer_beat(env, ctx, token, request, created)
        };
        if let Err(refusal) = result {
            env.reply(token, heartbeat_error(refusal));
        }
    }

    fn consumer_beat(
        &mut self,
        env: &mut Env<'_>,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &ConsumerGroupHeartbeatRequest<'_>,
        created: bool,
    ) -> Result<(), Refusal> {
        let joins = request.member_epoch == 0;
        let conversion = self.plan_begin(env, joins, created)?;
        let begun = conversion.as_ref().and_then(|c| c.consumer());
        let Some(group) = begun.or(self.consumer.as_deref()) else {
            return Err(ErrorCode::UnknownServerError.into()); // one of them is there
        };
        let max_size = env.config.consumer_group_max_size;
        let known = group.member(&request.member_id).is_some();
        if group.members().len() >= max_size && !known {
            let message = format!(
                "The consumer group has reached its maximum capacity of {max_size} members."
            );
            return Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message));
        }
        let id: Arc<str> = match &*request.member_id {
            "" => env.prng.uuid().to_string().into(),
            id => id.into(),
        };
        let (plan, response) = plan((group, &self.name), &id, env, ctx, request)?;
        let (member, reconciled) = (plan.member.clone(), plan.reconciled);
        let (refresh, resolve) = (plan.refresh, plan.resolve);
        let buries = |r: &ConsumerRecord| matches!(r, ConsumerRecord::Member(_, None));
        let others = conversion.is_some() || plan.records.iter().any(buries);
        let change = Change {
            conversion,
            records: plan.records,
        };
        let reply = Reply::ConsumerGroupHeartbeat(response);
        self.write_change(env, change, Some((token, reply)))?;
        let group = (self.serial, &*self.name);
        if let Some(consumer) = &mut self.consumer {
            consumer.refresh = refresh.unwrap_or(consumer.refresh);
            if others {
                consumer.fit_timers(env, group);
            }
            consumer.begin_session(env, group, &member);
            if reconciled {
                consumer.watch_revocation(env, group.0, &member);
            }
        }
        if resolve {
            self.resolve_regexes(env);
        }
        Ok(())
    }

    /// Matches the group's expressions with the topics there are.
    fn resolve_regexes(&mut self, env: &mut Env<'_>) {
        let Some(consumer) = &self.consumer else {
            return;
        };
        let change = Change::of(consumer.plan_resolve(env));
        let bumps = |r: &ConsumerRecord| matches!(r, ConsumerRecord::Epoch(_));
        let bumped = change.records.iter().any(bumps);
        let due = env.now.wall_ms.saturating_add(REFRESH_INTERVAL_MS);
        // An expression that can't be written is one that its member could not bring.
        let written = self.write_change(env, change, None).is_ok();
        if let Some(consumer) = self.consumer.as_mut().filter(|_| bumped && written) {
            consumer.refresh = (due, consumer.epoch);
        }
    }

    fn consumer_leave(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &ConsumerGroupHeartbeatRequest<'_>,
    ) -> Result<(), Refusal> {
        let Some(consumer) = &self.consumer else {
            let message = format!("Group {} is not a consumer group.", self.name);
            return Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
        };
        let instance = request.instance_id.as_deref();
        let member = consumer.leaving(&request.member_id, instance, &self.name)?;
        let reply = Reply::ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse {
            member_id: Some(request.member_id.to_string().into()),
            member_epoch: request.member_epoch,
            ..Default::default()
        });
        if instance.is_some() && request.member_epoch == LEAVE_STATIC_EPOCH {
            let id = member.id.clone();
            let record = ConsumerRecord::Current(id, Some(away(&member)));
            return self.write_change(env, Change::of(vec![record]), Some((token, reply)));
        }
        self.fence_with(env, &[member], Some((token, reply)))
    }
}
