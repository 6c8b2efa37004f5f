//! JoinGroup to a consumer group: a member that speaks the classic protocol joins, or rejoins to
//! give up partitions and to get new ones. The answer does not wait for others; the coordinator has
//! assigned, so nobody leads.

use super::convert::{Subscription, read_subscription};
use super::heartbeat::{Step, speak_for};
use super::member::{ClassicMember, ClassicProtocol, Member};
use super::reconcile::Reconcile;
use super::regex::RegexChange;
use super::state::ConsumerGroup;
use super::static_member::Speaker;
use super::{Change, ConsumerRecord, Refusal};
use crate::classic::{Joining, join_error, rebalance_timeout_ms, requires_member_id};
use crate::config::MigrationPolicy;
use crate::group::{Env, Group};
use crate::modern::Partitions;
use crate::out::{Metadata, Reply};
use crate::timers::MemberTimer;
use bytes::Bytes;
use flumen_base::ErrorCode;
use flumen_wire::messages::{JoinGroupRequest, JoinGroupResponse};
use std::collections::BTreeSet;
use std::sync::Arc;

const PROTOCOL_TYPE: &str = "consumer";

/// What follows from a JoinGroup.
struct Plan {
    change: Change,
    member: Arc<Member>,
    refresh: Option<(i64, i32)>,
}

fn classic_member(request: &JoinGroupRequest<'_>) -> ClassicMember {
    let mut protocols: Vec<ClassicProtocol> = Vec::new();
    for protocol in &request.protocols {
        if !protocols.iter().any(|p| *p.name == *protocol.name) {
            protocols.push(ClassicProtocol {
                name: (&*protocol.name).into(),
                metadata: Bytes::copy_from_slice(&protocol.metadata),
            });
        }
    }
    ClassicMember {
        session_timeout_ms: request.session_timeout_ms,
        protocols,
    }
}

/// The partitions that a member says it has, by topic id.
fn owned_of(subscription: &Subscription, metadata: &dyn Metadata) -> Partitions {
    let mut owned = Partitions::new();
    for (topic, partitions) in &subscription.owned {
        if let Some(id) = metadata.topic_id(topic) {
            owned.entry(id).or_default().extend(partitions);
        }
    }
    owned
}

/// The member with what the request says of it. Classic members have no expression.
fn updated(before: &Arc<Member>, join: &Joining<'_>, said: &Subscription) -> Arc<Member> {
    let request = join.request;
    let mut member = before.clone();
    let new = Arc::make_mut(&mut member);
    if let Some(instance) = &request.group_instance_id {
        new.instance = Some((&**instance).into());
    }
    if let Some(rack) = &said.rack {
        new.rack = Some(rack.clone());
    }
    let timeout_ms = rebalance_timeout_ms(request, join.ctx.api_version);
    if timeout_ms != -1 {
        new.rebalance_timeout_ms = timeout_ms;
    }
    new.topics = said
        .topics
        .iter()
        .map(|t| (&**t).into())
        .collect::<BTreeSet<_>>();
    new.regex = Some("".into());
    new.classic = Some(Arc::new(classic_member(request)));
    speak_for(&mut member, join.ctx);
    member
}

fn plan(
    (group, name): (&ConsumerGroup, &str),
    id: &Arc<str>,
    env: &Env<'_>,
    join: &Joining<'_>,
) -> Result<Plan, Refusal> {
    let request = join.request;
    let instance = request.group_instance_id.as_deref();
    let mut records = Vec::new();
    let speaker = Speaker {
        id,
        instance,
        joins: instance.is_none() || request.member_id.is_empty(),
        at: None,
    };
    let before = group.plan_member(speaker, name, &mut records)?;
    let replaced = instance.and_then(|i| group.static_member(i));
    let replaced = replaced.filter(|m| group.downgrades_without(env, m));
    let first = request.protocols.first();
    let said = first.and_then(|p| read_subscription(&p.metadata));
    let said = said.ok_or(ErrorCode::UnknownServerError)?;
    let owned = owned_of(&said, env.metadata);
    let member = updated(&before, join, &said);
    let step = Step {
        group,
        name,
        before,
        member,
        owned: Some(&owned),
    };
    let names_changed = step.plan_metadata(&mut records);
    let (regex, _) = group.plan_regex(env, &step.before, &step.member, &mut records)?;
    let bump = names_changed || regex != RegexChange::Same;
    let (epoch, refresh) = if bump || group.is_metadata_due(env.now.wall_ms) {
        step.plan_refresh(env, bump, &mut records)
    } else {
        (group.epoch, None)
    };
    let Some(replaced) = replaced else {
        let member = step.plan_assignment(env, epoch, bump, &mut records)?;
        return Ok(Plan {
            change: Change::of(records),
            member,
            refresh,
        });
    };
    let rebalance = group.target_epoch < epoch;
    let member = match rebalance {
        true => step.member.clone(),
        false => last_step(&step, env, bump)?,
    };
    let conversion = group.plan_downgrade_by(env, &member, replaced, rebalance);
    let conversion = conversion.ok_or(ErrorCode::GroupIdNotFound)?;
    Ok(Plan {
        change: Change {
            conversion: Some(conversion),
            records: Vec::new(),
        },
        member,
        refresh: None,
    })
}

/// Where the member gets by the target there is: what its generation is in the classic group.
fn last_step(step: &Step<'_>, env: &Env<'_>, changed: bool) -> Result<Arc<Member>, Refusal> {
    let target = step.group.last_target(&step.member);
    let reconcile = Reconcile {
        group: step.group,
        metadata: env.metadata,
        target_epoch: step.group.target_epoch,
        target: &target,
        subscription_changed: changed,
        owned: step.owned,
    };
    let mut unwritten: Vec<ConsumerRecord> = Vec::new(); // the group ends with them
    reconcile.run(step.member.clone(), &mut unwritten)
}

impl Group {
    /// JoinGroup, when the group was found and is a consumer group with members.
    pub(crate) fn classic_join(&mut self, env: &mut Env<'_>, join: Joining<'_>) {
        if let Err(refusal) = self.try_classic_join(env, &join) {
            let reply = join_error(join.parked, "", refusal.error);
            env.reply(join.parked.token, reply);
        }
    }

    fn try_classic_join(&mut self, env: &mut Env<'_>, join: &Joining<'_>) -> Result<(), Refusal> {
        let Some(group) = self.consumer.as_deref() else {
            return Err(ErrorCode::UnknownServerError.into()); // the caller has looked
        };
        let request = join.request;
        if env.config.consumer_group_migration_policy == MigrationPolicy::Disabled {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let known = group.member(&request.member_id).is_some();
        if !known && group.members().len() >= env.config.consumer_group_max_size {
            return Err(ErrorCode::GroupMaxSizeReached.into());
        }
        let mut names = request.protocols.iter().map(|p| &*p.name);
        let fits = *request.protocol_type == *PROTOCOL_TYPE
            && names.any(|name| group.offered_by_classic(name));
        if !fits {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let id: Arc<str> = match &*request.member_id {
            "" => env.prng.uuid().to_string().into(),
            id => id.into(),
        };
        if requires_member_id(request, join.ctx.api_version) {
            let reply = join_error(join.parked, &id, ErrorCode::MemberIdRequired);
            env.reply(join.parked.token, reply);
            return Ok(());
        }
        let plan = plan((group, &self.name), &id, env, join)?;
        let (member, refresh) = (plan.member, plan.refresh);
        let reply = Reply::JoinGroup(JoinGroupResponse {
            member_id: member.id.to_string().into(),
            generation_id: member.epoch,
            protocol_type: Some(PROTOCOL_TYPE.into()),
            protocol_name: member.first_protocol().map(|p| p.name.to_string().into()),
            ..Default::default()
        });
        self.write_change(env, plan.change, Some((join.parked.token, reply)))?;
        let timeout_ms = rebalance_timeout_ms(request, join.ctx.api_version);
        let group = (self.serial, &*self.name);
        if let Some(consumer) = &mut self.consumer {
            consumer.refresh = refresh.unwrap_or(consumer.refresh);
            consumer.fit_timers(env, group);
            consumer.begin_session(env, group, &member);
            consumer.cancel_timer(&member.id, MemberTimer::Join);
            consumer.cancel_timer(&member.id, MemberTimer::Rebalance);
            consumer.set_timer(env, group.0, &member.id, MemberTimer::Sync, timeout_ms);
        }
        Ok(())
    }
}
