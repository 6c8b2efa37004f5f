//! One step of a member from the tasks that it has to those that it shall have.
//!
//! What it must give up comes first: its epoch stays until it no longer reports those tasks. Then
//! it moves to the target's epoch and gets what is free; for the rest it waits. An active task is
//! free when nobody runs it and its own process has no copy of it in another role; a standby or
//! warm-up task when its own process does not have it in any role.

use super::Refusal;
use super::member::Member;
use super::owners::Owners;
use super::records::StreamsRecord;
use super::tasks::{EpochTaskMap, HeldTasks, TaskMap, Tasks, extend};
use crate::modern::MemberState;
use flumen_base::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where to, and what is known of the member.
pub(super) struct Reconcile<'a> {
    pub(super) owners: &'a Owners,
    pub(super) target_epoch: i32,
    pub(super) target: &'a Tasks,
    /// What it says it has; `None`: it says nothing.
    pub(super) owned: Option<&'a Tasks>,
}

/// What becomes of a member's tasks by a new target.
#[derive(Default)]
struct Sorted {
    kept: HeldTasks,
    revoked: HeldTasks,
    free: Tasks,
    /// It shall have some that are not free.
    waits: bool,
}

impl Reconcile<'_> {
    /// The member after its next step; a record is added if it makes one.
    pub(super) fn run(
        &self,
        member: Arc<Member>,
        records: &mut Vec<StreamsRecord>,
    ) -> Result<Arc<Member>, Refusal> {
        if member.is_reconciled_to(self.target_epoch) {
            return Ok(member);
        }
        let next = match member.state {
            MemberState::Stable => self.advance(&member, member.epoch),
            MemberState::Unrevoked if self.has_any_of(&member.revoking) => return Ok(member),
            MemberState::Unrevoked => self.advance(&member, member.epoch.saturating_add(1)),
            MemberState::Unreleased => self.advance(&member, member.epoch),
            MemberState::Unknown => {
                if self.owned.is_none_or(|owned| !owned.is_empty()) {
                    return Err(Refusal::new(
                        ErrorCode::FencedMemberEpoch,
                        "The streams group member is in a unknown state. The member must abandon \
                         all its tasks and rejoin.",
                    ));
                }
                self.advance(&member, self.target_epoch)
            }
        };
        if next == *member {
            return Ok(member);
        }
        let next = Arc::new(next);
        let id = next.id.clone();
        records.push(StreamsRecord::Current(id, Some(next.clone())));
        Ok(next)
    }

    /// Whether the member may still have one of these.
    fn has_any_of(&self, revoked: &HeldTasks) -> bool {
        self.owned.is_none_or(|owned| owned.contain_any_of(revoked))
    }

    /// Towards the target; in `epoch` while something has to be given up.
    fn advance(&self, member: &Member, epoch: i32) -> Member {
        let mut sorted = self.sort(member);
        let mut next = member.clone();
        if !sorted.revoked.is_empty() && self.has_any_of(&sorted.revoked) {
            next.advance(epoch);
            next.state = MemberState::Unrevoked;
            next.assigned = sorted.kept;
            next.revoking = sorted.revoked;
            return next;
        }
        for (subtopology, partitions) in sorted.free.active {
            let new = partitions.into_iter().map(|p| (p, self.target_epoch));
            let active = sorted.kept.active.entry(subtopology).or_default();
            active.extend(new);
        }
        extend(&mut sorted.kept.standby, sorted.free.standby);
        extend(&mut sorted.kept.warmup, sorted.free.warmup);
        next.advance(self.target_epoch);
        next.assigned = sorted.kept;
        next.revoking = HeldTasks::default();
        next.state = match sorted.waits {
            true => MemberState::Unreleased,
            false => MemberState::Stable,
        };
        next
    }

    fn sort(&self, member: &Member) -> Sorted {
        let (process, owners) = (&*member.process, self.owners);
        let mut sorted = Sorted::default();
        let has = &member.assigned;
        sorted.waits |= sort_active(
            (&has.active, &self.target.active),
            (&mut sorted.kept.active, &mut sorted.revoked.active),
            &mut sorted.free.active,
            |s, p| owners.is_active(s, p) || owners.is_passive_in(process, s, p),
        );
        let taken =
            |s: &str, p| owners.is_active_in(process, s, p) || owners.is_passive_in(process, s, p);
        sorted.waits |= sort_passive(
            (&has.standby, &self.target.standby),
            (&mut sorted.kept.standby, &mut sorted.revoked.standby),
            &mut sorted.free.standby,
            taken,
        );
        sorted.waits |= sort_passive(
            (&has.warmup, &self.target.warmup),
            (&mut sorted.kept.warmup, &mut sorted.revoked.warmup),
            &mut sorted.free.warmup,
            taken,
        );
        sorted
    }
}

/// Sorts active tasks; whether some that it shall have are taken.
fn sort_active(
    (has, shall): (&EpochTaskMap, &TaskMap),
    (kept, revoked): (&mut EpochTaskMap, &mut EpochTaskMap),
    free: &mut TaskMap,
    taken: impl Fn(&str, i32) -> bool,
) -> bool {
    for (subtopology, epochs) in has {
        let shall = shall.get(subtopology);
        for (partition, epoch) in epochs {
            let all = match shall.is_some_and(|s| s.contains(partition)) {
                true => &mut *kept,
                false => &mut *revoked,
            };
            let all: &mut BTreeMap<i32, i32> = all.entry(subtopology.clone()).or_default();
            all.insert(*partition, *epoch);
        }
    }
    let holds = |s: &str, p: i32| has.get(s).is_some_and(|epochs| epochs.contains_key(&p));
    sort_new(shall, holds, free, taken)
}

/// Sorts standby or warm-up tasks; whether some that it shall have are taken.
fn sort_passive(
    (has, shall): (&TaskMap, &TaskMap),
    (kept, revoked): (&mut TaskMap, &mut TaskMap),
    free: &mut TaskMap,
    taken: impl Fn(&str, i32) -> bool,
) -> bool {
    for (subtopology, partitions) in has {
        let shall = shall.get(subtopology);
        for partition in partitions {
            let all = match shall.is_some_and(|s| s.contains(partition)) {
                true => &mut *kept,
                false => &mut *revoked,
            };
            let all: &mut BTreeSet<i32> = all.entry(subtopology.clone()).or_default();
            all.insert(*partition);
        }
    }
    let holds = |s: &str, p: i32| has.get(s).is_some_and(|set| set.contains(&p));
    sort_new(shall, holds, free, taken)
}

/// Collects the tasks that are free among those that a member shall have and has not; whether
/// others are taken.
fn sort_new(
    shall: &TaskMap,
    holds: impl Fn(&str, i32) -> bool,
    free: &mut TaskMap,
    taken: impl Fn(&str, i32) -> bool,
) -> bool {
    let mut waits = false;
    for (subtopology, partitions) in shall {
        for partition in partitions.iter().filter(|p| !holds(subtopology, **p)) {
            if taken(subtopology, *partition) {
                waits = true;
            } else {
                let free = free.entry(subtopology.clone()).or_default();
                free.insert(*partition);
            }
        }
    }
    waits
}
