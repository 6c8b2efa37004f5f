//! Finding the member that a request speaks for, or making it; static members (KIP-345) that come
//! back take the place of the instance before.

use super::member::{LEAVE_EPOCH, LEAVE_STATIC_EPOCH, Member};
use super::state::ConsumerGroup;
use super::{ConsumerRecord, Refusal};
use crate::modern::Partitions;
pub(super) use crate::modern::unknown_member as unknown;
use flumen_base::ErrorCode;
use std::sync::Arc;

/// Who speaks, as the request tells it.
#[derive(Clone, Copy)]
pub(super) struct Speaker<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) instance: Option<&'a str>,
    /// May be new.
    pub(super) joins: bool,
    /// Its epoch and what it says it has; `None`: it speaks the classic protocol, where a
    /// generation is checked elsewhere.
    pub(super) at: Option<(i32, Option<&'a Partitions>)>,
}

/// The records that take a member out.
pub(super) fn bury_member(id: &Arc<str>, records: &mut Vec<ConsumerRecord>) {
    records.push(ConsumerRecord::Current(id.clone(), None));
    records.push(ConsumerRecord::Target(id.clone(), None));
    records.push(ConsumerRecord::Member(id.clone(), None));
}

/// An instance id is another member's now.
pub(super) fn check_instance(owner: &Member, id: &str, instance: &str) -> Result<(), Refusal> {
    if *owner.id == *id {
        return Ok(());
    }
    let message = format!(
        "Static member {id} with instance id {instance} was fenced by member {}.",
        owner.id
    );
    Err(Refusal::new(ErrorCode::FencedInstanceId, message))
}

impl ConsumerGroup {
    /// The member that speaks. Records are added where it takes the place of another.
    pub(super) fn plan_member(
        &self,
        speaker: Speaker<'_>,
        group: &str,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<Arc<Member>, Refusal> {
        let Some(instance) = speaker.instance else {
            let member = match self.member(speaker.id) {
                Some(member) => member.clone(),
                None if speaker.joins => Arc::new(Member::new(speaker.id.clone())),
                None => return Err(unknown(speaker.id, group)),
            };
            check_epoch(&member, speaker)?;
            return Ok(member);
        };
        let owner = self.static_member(instance);
        if !speaker.joins {
            let owner = owner.ok_or_else(|| unknown_instance(instance))?;
            check_instance(owner, speaker.id, instance)?;
            check_epoch(owner, speaker)?;
            return Ok(owner.clone());
        }
        let Some(owner) = owner else {
            let member = self.member(speaker.id).cloned();
            return Ok(member.unwrap_or_else(|| Arc::new(Member::new(speaker.id.clone()))));
        };
        let both_consumers = speaker.at.is_some() && !owner.is_classic();
        if both_consumers && owner.epoch != LEAVE_STATIC_EPOCH {
            let message = format!(
                "Static member {} with instance id {instance} cannot join the group because the \
                 instance id is owned by {} member.",
                speaker.id, owner.id
            );
            return Err(Refusal::new(ErrorCode::UnreleasedInstanceId, message));
        }
        Ok(self.replace(owner, speaker.id, records))
    }

    /// A member that has all of another's, from the first epoch on.
    fn replace(
        &self,
        owner: &Arc<Member>,
        id: &Arc<str>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Arc<Member> {
        let mut member = owner.renamed(id.clone());
        member.epoch = 0;
        member.previous_epoch = 0;
        let member = Arc::new(member);
        bury_member(&owner.id, records);
        let target = self.target(&owner.id).cloned().unwrap_or_default();
        records.push(ConsumerRecord::Member(id.clone(), Some(member.clone())));
        records.push(ConsumerRecord::Target(id.clone(), Some(target)));
        records.push(ConsumerRecord::Current(id.clone(), Some(member.clone())));
        member
    }

    /// The member that wants to leave.
    pub(super) fn leaving(
        &self,
        id: &str,
        instance: Option<&str>,
        group: &str,
    ) -> Result<Arc<Member>, Refusal> {
        let Some(instance) = instance else {
            let member = self.member(id).cloned();
            return member.ok_or_else(|| unknown(id, group));
        };
        let owner = self.static_member(instance);
        let owner = owner.ok_or_else(|| unknown_instance(instance))?;
        check_instance(owner, id, instance)?;
        Ok(owner.clone())
    }
}

pub(super) fn unknown_instance(instance: &str) -> Refusal {
    let message = format!("Instance id {instance} is unknown.");
    Refusal::new(ErrorCode::UnknownMemberId, message)
}

/// An epoch must be the member's, or the one before if the answer with the new one may have got
/// lost: then the member can't have more than it had. 0 begins anew, at any time.
fn check_epoch(member: &Member, speaker: Speaker<'_>) -> Result<(), Refusal> {
    let Some((epoch, owned)) = speaker.at else {
        return Ok(());
    };
    if epoch == 0 || epoch == member.epoch {
        return Ok(());
    }
    let within = |owned: &Partitions| {
        owned.iter().all(|(topic, partitions)| {
            let has = member.assigned.get(topic);
            has.is_some_and(|has| partitions.iter().all(|p| has.contains_key(p)))
        })
    };
    let smaller = epoch < member.epoch;
    if smaller && epoch == member.previous_epoch && owned.is_some_and(within) {
        return Ok(());
    }
    let what = if smaller { "smaller" } else { "greater" };
    let message = format!(
        "The consumer group member has a {what} member epoch ({epoch}) than the one known by the \
         group coordinator ({}). The member must abandon all its partitions and rejoin.",
        member.epoch
    );
    Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
}

/// A member that leaves for a while: what it has stays its own, from the first epoch on.
pub(super) fn away(member: &Member) -> Arc<Member> {
    let mut away = member.clone();
    away.epoch = LEAVE_STATIC_EPOCH;
    away.revoking.clear();
    for epoch in away.assigned.values_mut().flat_map(|t| t.values_mut()) {
        *epoch = 0;
    }
    Arc::new(away)
}

/// Whether an epoch says that the member leaves.
pub(super) fn is_leave(epoch: i32) -> bool {
    matches!(epoch, LEAVE_EPOCH | LEAVE_STATIC_EPOCH)
}
