//! A new target assignment: the tasks that every member shall have.

use super::assign::{MemberSpec, Spec, SubtopologySpec, assign};
use super::configure::Configured;
use super::member::Member;
use super::records::{AssignmentConfigs, StreamsRecord};
use super::state::StreamsGroup;
use super::tasks::Tasks;
use crate::group::Env;
use crate::modern::is_over;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The setting among those that targets are made with.
const STANDBYS: &str = "num.standby.replicas";

/// The settings that the next target of a group is made with.
pub(super) fn assignment_configs(env: &Env<'_>, group: &str) -> AssignmentConfigs {
    let own = env.metadata.group_settings(group).streams.standby_replicas;
    let standbys = own.unwrap_or(env.config.streams_group_num_standby_replicas);
    BTreeMap::from([(STANDBYS.into(), standbys.to_string().into())])
}

/// Why no new target is made although one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delayed {
    /// Others may join.
    InitialRebalance,
    /// The last one is too new.
    AssignmentInterval,
}

impl Delayed {
    /// What the member is told.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::InitialRebalance => {
                "Assignment delayed due to the configured initial rebalance delay."
            }
            Self::AssignmentInterval => {
                "Assignment delayed due to the configured assignment interval."
            }
        }
    }
}

/// What one member shall have.
pub(super) struct Target {
    pub(super) epoch: i32,
    pub(super) tasks: Arc<Tasks>,
    pub(super) delayed: Option<Delayed>,
}

/// A group as it will be.
pub(super) struct Changed<'a> {
    pub(super) group_epoch: i32,
    pub(super) configured: &'a Configured,
    pub(super) configs: &'a AssignmentConfigs,
    /// The member that has changed or is new.
    pub(super) member: Option<&'a Arc<Member>>,
    /// Others may join.
    pub(super) waits: bool,
}

impl StreamsGroup {
    /// Makes a new target if the group's epoch is ahead of it and the last one is old enough.
    pub(super) fn plan_target(
        &self,
        env: &Env<'_>,
        group: &str,
        changed: &Changed<'_>,
        records: &mut Vec<StreamsRecord>,
    ) -> Target {
        let last = |delayed| Target {
            epoch: self.target_epoch,
            tasks: match (changed.member, delayed) {
                (None, _) | (_, Some(Delayed::InitialRebalance)) => Arc::default(),
                (Some(member), _) => self.target(&member.id).cloned().unwrap_or_default(),
            },
            delayed,
        };
        if changed.waits {
            return last(Some(Delayed::InitialRebalance));
        }
        if self.target_epoch >= changed.group_epoch {
            return last(None);
        }
        if !self.may_assign(env, group) {
            return last(Some(Delayed::AssignmentInterval));
        }
        let mut members = self.members().clone();
        if let Some(member) = changed.member {
            members.insert(member.id.clone(), member.clone());
        }
        let targets = self.targets(&members, changed);
        let mut own = Arc::default();
        for (id, target) in members.keys().zip(targets) {
            let old = self.target(id).filter(|old| ***old == target);
            let new = old.cloned().unwrap_or_else(|| Arc::new(target));
            if old.is_none() {
                records.push(StreamsRecord::Target(id.clone(), Some(new.clone())));
            }
            if changed.member.is_some_and(|m| m.id == *id) {
                own = new;
            }
        }
        let made = Some((changed.group_epoch, env.now.wall_ms));
        records.push(StreamsRecord::TargetEpoch(made));
        Target {
            epoch: changed.group_epoch,
            tasks: own,
            delayed: None,
        }
    }

    /// `group.streams.assignment.interval.ms` lies between two targets.
    fn may_assign(&self, env: &Env<'_>, group: &str) -> bool {
        let own = env.metadata.group_settings(group).streams;
        let own = own.assignment_interval_ms;
        let interval_ms = own.unwrap_or(env.config.streams_group_assignment_interval_ms);
        let last_ms = self.target_ms;
        last_ms == 0 || is_over(last_ms, interval_ms.into(), env.now.wall_ms)
    }

    /// What each of the members shall have; nothing while topics are missing.
    fn targets(
        &self,
        members: &BTreeMap<Arc<str>, Arc<Member>>,
        changed: &Changed<'_>,
    ) -> Vec<Tasks> {
        let configured = changed.configured;
        let subtopologies = configured.subtopologies.as_ref();
        let Some(subtopologies) = subtopologies.filter(|_| configured.is_ready()) else {
            return vec![Tasks::default(); members.len()];
        };
        let standbys = changed.configs.get(STANDBYS);
        let standbys = standbys.and_then(|text| text.parse().ok());
        assign(&Spec {
            members: members
                .values()
                .map(|m| MemberSpec {
                    process: &m.process,
                    last: self.target(&m.id).map(|t| &**t),
                })
                .collect(),
            subtopologies: subtopologies
                .iter()
                .map(|(id, s)| SubtopologySpec {
                    id,
                    tasks: s.tasks,
                    stateful: !s.changelogs.is_empty(),
                })
                .collect(),
            standbys: standbys.unwrap_or(0),
        })
    }
}
