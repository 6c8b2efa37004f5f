//! One step of a member from what it has to what it shall have.
//!
//! What it must give up comes first: its epoch stays until it no longer reports those partitions.
//! Then it moves to the target's epoch and gets what nobody else has; for the rest it waits.

use super::member::{Member, MemberState};
use super::state::ConsumerGroup;
use super::{ConsumerRecord, Refusal};
use crate::modern::{EpochPartitions, Partitions};
use crate::out::Metadata;
use flumen_base::{ErrorCode, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where to, and what is known of the member.
pub(super) struct Reconcile<'a> {
    pub(super) group: &'a ConsumerGroup,
    pub(super) metadata: &'a dyn Metadata,
    pub(super) target_epoch: i32,
    pub(super) target: &'a Partitions,
    /// It has subscribed to something else just now: what it has must fit at once.
    pub(super) subscription_changed: bool,
    /// What it says it has; `None`: it says nothing.
    pub(super) owned: Option<&'a Partitions>,
}

/// What becomes of a member's partitions by a new target.
#[derive(Default)]
struct Sorted {
    kept: EpochPartitions,
    revoked: EpochPartitions,
    free: Partitions,
    /// It shall have some that others still have.
    waits: bool,
}

impl Reconcile<'_> {
    /// The member after its next step; a record is added if it makes one.
    pub(super) fn run(
        &self,
        member: Arc<Member>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<Arc<Member>, Refusal> {
        if !self.subscription_changed && member.is_reconciled_to(self.target_epoch) {
            return Ok(member);
        }
        let next = match member.state {
            MemberState::Stable if member.epoch != self.target_epoch => self.advance(&member),
            MemberState::Stable => self.shrink(&member),
            MemberState::Unrevoked if self.has_any_of(&member.revoking) => {
                if self.subscription_changed {
                    self.shrink(&member)
                } else {
                    None
                }
            }
            MemberState::Unrevoked | MemberState::Unreleased => self.advance(&member),
            MemberState::Unknown => {
                if self.owned.is_none_or(|owned| !owned.is_empty()) {
                    return Err(Refusal::new(
                        ErrorCode::FencedMemberEpoch,
                        "The consumer group member is in a unknown state. The member must abandon \
                         all its partitions and rejoin.",
                    ));
                }
                self.advance(&member)
            }
        };
        match next.filter(|next| **next != *member) {
            None => Ok(member),
            Some(next) => {
                let id = next.id.clone();
                records.push(ConsumerRecord::Current(id, Some(next.clone())));
                Ok(next)
            }
        }
    }

    /// Whether the member may still have one of these.
    fn has_any_of(&self, revoked: &EpochPartitions) -> bool {
        let Some(owned) = self.owned else {
            return true;
        };
        owned.iter().any(|(topic, partitions)| {
            let revoked = revoked.get(topic);
            revoked.is_some_and(|r| partitions.iter().any(|p| r.contains_key(p)))
        })
    }

    /// What the member subscribes to, as a question. An expression that is not resolved matches
    /// nothing yet.
    fn subscription<'m>(&'m self, member: &'m Member) -> impl Fn(&Uuid) -> bool + 'm {
        let resolved = member.regex().and_then(|r| self.group.regexes.get(r));
        move |topic| {
            let name = self.metadata.topic_name(*topic);
            name.is_some_and(|name| {
                member.topics.contains(name) || resolved.is_some_and(|r| r.topics.contains(name))
            })
        }
    }

    /// Stays in its epoch, but loses topics that it no longer subscribes to.
    fn shrink(&self, member: &Member) -> Option<Arc<Member>> {
        let subscribes = self.subscription(member);
        let mut assigned = member.assigned.clone();
        let mut revoking = member.revoking.clone();
        for (topic, partitions) in &member.assigned {
            if !subscribes(topic) {
                assigned.remove(topic);
                revoking.entry(*topic).or_default().extend(partitions);
            }
        }
        if assigned.len() == member.assigned.len() {
            return None;
        }
        let mut next = member.clone();
        next.advance(member.epoch);
        next.assigned = assigned;
        if self.has_any_of(&revoking) {
            next.state = MemberState::Unrevoked;
            next.revoking = revoking;
        }
        Some(Arc::new(next))
    }

    /// Towards the target.
    fn advance(&self, member: &Member) -> Option<Arc<Member>> {
        let sorted = self.sort(member);
        let mut next = member.clone();
        if !sorted.revoked.is_empty() && self.has_any_of(&sorted.revoked) {
            let epoch = match member.state {
                MemberState::Unknown => self.target_epoch,
                _ => member.epoch,
            };
            next.advance(epoch);
            next.state = MemberState::Unrevoked;
            next.assigned = sorted.kept;
            next.revoking = sorted.revoked;
            return Some(Arc::new(next));
        }
        next.advance(self.target_epoch);
        next.assigned = sorted.kept;
        for (topic, partitions) in sorted.free {
            let new = partitions.into_iter().map(|p| (p, self.target_epoch));
            next.assigned.entry(topic).or_default().extend(new);
        }
        next.revoking = BTreeMap::new();
        next.state = match sorted.waits {
            true => MemberState::Unreleased,
            false => MemberState::Stable,
        };
        Some(Arc::new(next))
    }

    fn sort(&self, member: &Member) -> Sorted {
        let subscribes = self.subscription(member);
        let mut sorted = Sorted::default();
        let (none_shall, none_has) = (BTreeSet::new(), BTreeMap::new());
        let topics: BTreeSet<&Uuid> = self.target.keys().chain(member.assigned.keys()).collect();
        for topic in topics {
            let shall = self.target.get(topic).filter(|_| subscribes(topic));
            let shall = shall.unwrap_or(&none_shall);
            let has = member.assigned.get(topic).unwrap_or(&none_has);
            for (partition, epoch) in has {
                let all = match shall.contains(partition) {
                    true => &mut sorted.kept,
                    false => &mut sorted.revoked,
                };
                all.entry(*topic).or_default().insert(*partition, *epoch);
            }
            let own = member.revoking.get(topic);
            for partition in shall.iter().filter(|p| !has.contains_key(p)) {
                // What it is just giving up is its own: nobody else can have it.
                let given_up = own.is_some_and(|own| own.contains_key(partition));
                if self.group.is_owned(*topic, *partition) && !given_up {
                    sorted.waits = true;
                } else {
                    sorted.free.entry(*topic).or_default().insert(*partition);
                }
            }
        }
        sorted
    }
}
