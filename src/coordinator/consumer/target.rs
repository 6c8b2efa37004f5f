//! A new target assignment: what every member shall have.

use super::ConsumerRecord;
use super::member::Member;
use super::state::ConsumerGroup;
use crate::group::Env;
use crate::modern::assign::{Assignor, MemberSpec, Spec};
use crate::modern::{Partitions, is_over};
use crate::out::Metadata;
use flumen_base::Uuid;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// What one member shall have.
pub(super) struct Target {
    pub(super) epoch: i32,
    pub(super) partitions: Arc<Partitions>,
}

/// A group as it will be when the member has changed.
pub(super) struct Changed<'a> {
    pub(super) group_epoch: i32,
    /// The member before; the default for one that is new.
    pub(super) before: &'a Member,
    pub(super) member: &'a Arc<Member>,
}

impl ConsumerGroup {
    /// What a member shall have by the last target. A static member that comes back under another
    /// id inherits.
    pub(super) fn last_target(&self, member: &Member) -> Arc<Partitions> {
        let id = match &member.instance {
            None => Some(&member.id),
            Some(instance) => self.static_member(instance).map(|m| &m.id),
        };
        let target = id.and_then(|id| self.target(id));
        target.cloned().unwrap_or_default()
    }

    /// Makes a new target if the group's epoch is ahead of it and the last one is old enough.
    pub(super) fn plan_target(
        &self,
        env: &Env<'_>,
        group: &str,
        changed: &Changed<'_>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Target {
        if self.target_epoch >= changed.group_epoch || !self.may_assign(env, group) {
            return Target {
                epoch: self.target_epoch,
                partitions: self.last_target(changed.member),
            };
        }
        let preferred = self.preferred_assignor(Some(changed.before), Some(changed.member));
        let assignor = preferred.and_then(|name| Assignor::by_name(&name));
        let default = env.config.consumer_group_assignors.first().copied();
        let assignor = assignor.or(default).unwrap_or(Assignor::Uniform);
        let members = self.members_with(changed.member);
        let spec = self.spec(env.metadata, &members);
        let mut own = Arc::default();
        for (member, target) in members.iter().zip(assignor.assign(&spec)) {
            let old = self.target(&member.id);
            if old.is_none_or(|old| **old != target) {
                let target = Arc::new(target);
                if member.id == changed.member.id {
                    own = Arc::clone(&target);
                }
                records.push(ConsumerRecord::Target(member.id.clone(), Some(target)));
            } else if let Some(old) = old.filter(|_| member.id == changed.member.id) {
                own = Arc::clone(old);
            }
        }
        let made = Some((changed.group_epoch, env.now.wall_ms));
        records.push(ConsumerRecord::TargetEpoch(made));
        Target {
            epoch: changed.group_epoch,
            partitions: own,
        }
    }

    /// `group.consumer.assignment.interval.ms` lies between two targets.
    fn may_assign(&self, env: &Env<'_>, group: &str) -> bool {
        let own = env.metadata.group_settings(group).assignment_interval_ms;
        let interval_ms = own.unwrap_or(env.config.consumer_group_assignment_interval_ms);
        let last_ms = self.target_ms;
        last_ms == 0 || is_over(last_ms, interval_ms.into(), env.now.wall_ms)
    }

    /// The members, with `changed` as it will be and without the one that it takes the place of.
    fn members_with<'a>(&'a self, changed: &'a Arc<Member>) -> Vec<&'a Arc<Member>> {
        let instance = changed.instance.as_deref();
        let replaced = instance.and_then(|i| self.static_member(i)).map(|m| &m.id);
        let mut members: BTreeMap<&Arc<str>, &Arc<Member>> = self
            .members()
            .iter()
            .filter(|(id, _)| Some(*id) != replaced)
            .collect();
        members.insert(&changed.id, changed);
        members.into_values().collect()
    }

    fn spec<'a>(&'a self, metadata: &dyn Metadata, members: &[&'a Arc<Member>]) -> Spec<'a> {
        let mut spec = Spec::default();
        let mut last: Option<(&Arc<Member>, Rc<BTreeSet<Uuid>>)> = None;
        for &member in members {
            let same =
                |other: &Member| other.topics == member.topics && other.regex() == member.regex();
            let topics = match &last {
                Some((other, topics)) if same(other) => topics.clone(),
                _ => Rc::new(self.topic_ids(metadata, member, &mut spec.counts)),
            };
            last = Some((member, topics.clone()));
            let instance = member.instance.as_deref();
            let inherits = instance.and_then(|i| self.static_member(i)).map(|m| &m.id);
            let given = self.target(inherits.unwrap_or(&member.id));
            spec.members.push(MemberSpec {
                id: &member.id,
                instance,
                topics,
                last: given.map(|t| &**t),
            });
        }
        spec
    }

    /// The topics that a member subscribes to and that exist; their partitions are counted.
    fn topic_ids(
        &self,
        metadata: &dyn Metadata,
        member: &Member,
        counts: &mut BTreeMap<Uuid, i32>,
    ) -> BTreeSet<Uuid> {
        let resolved = member.regex().and_then(|r| self.regexes.get(r));
        let matched = resolved.iter().flat_map(|r| &r.topics);
        let mut ids = BTreeSet::new();
        for name in member.topics.iter().chain(matched) {
            let Some(id) = metadata.topic_id(name) else {
                continue;
            };
            if let Some(count) = metadata.partition_count(id) {
                counts.insert(id, count);
                ids.insert(id);
            }
        }
        ids
    }
}
