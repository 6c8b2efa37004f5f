//! One member of a streams group, as its records tell it: a thread of an instance (process) of the
//! application.

use super::tasks::HeldTasks;
use crate::modern::{GroupMember, MemberState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where an instance answers questions about its state (interactive queries).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

/// A member. Shared and replaced, never changed in place: what was is needed when a write fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: Arc<str>,

    // What the member says of itself: StreamsGroupMemberMetadata.
    /// Only in records of later versions: static members are refused.
    pub(super) instance: Option<Box<str>>,
    pub(super) rack: Option<Box<str>>,
    pub(super) client_id: Box<str>,
    pub(super) client_host: Box<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) topology_epoch: i32,
    /// The instance of the application that it is a thread of.
    pub(super) process: Arc<str>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) tags: BTreeMap<Box<str>, Box<str>>,

    // What it has: StreamsGroupCurrentMemberAssignment.
    pub(crate) epoch: i32,
    pub(super) previous_epoch: i32,
    pub(super) state: MemberState,
    pub(super) assigned: HeldTasks,
    /// To be given up; it still has them.
    pub(super) revoking: HeldTasks,
}

impl Member {
    /// A member that nothing is known of.
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            instance: None,
            rack: None,
            client_id: "".into(),
            client_host: "".into(),
            rebalance_timeout_ms: -1,
            topology_epoch: -1,
            process: "".into(),
            endpoint: None,
            tags: BTreeMap::new(),
            epoch: 0,
            previous_epoch: 0,
            state: MemberState::Stable,
            assigned: HeldTasks::default(),
            revoking: HeldTasks::default(),
        }
    }

    /// Moves to an epoch; the one before is remembered, because the answer may get lost.
    pub(super) fn advance(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }

    /// Whether it has what the target of this epoch gives it.
    pub(super) fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == target_epoch
    }

    /// The epoch at which it got an active task that it has or still has to give up.
    pub(super) fn epoch_of(&self, subtopology: &str, partition: i32) -> Option<i32> {
        let assigned = self.assigned.epoch_of(subtopology, partition);
        assigned.or_else(|| self.revoking.epoch_of(subtopology, partition))
    }
}

impl GroupMember for Member {
    fn new(id: Arc<str>) -> Self {
        Self::new(id)
    }

    fn copy_metadata(&mut self, other: &Self) {
        let (has, said) = (self.clone(), other.clone());
        *self = said;
        self.copy_assignment(&has);
    }

    fn copy_assignment(&mut self, other: &Self) {
        self.epoch = other.epoch;
        self.previous_epoch = other.previous_epoch;
        self.state = other.state;
        self.assigned.clone_from(&other.assigned);
        self.revoking.clone_from(&other.revoking);
    }

    fn lose_assignment(&mut self, epoch: i32) {
        self.epoch = epoch;
        self.previous_epoch = epoch;
        self.assigned = HeldTasks::default();
        self.revoking = HeldTasks::default();
    }
}
