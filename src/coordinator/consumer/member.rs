//! One member of a consumer group, as its records tell it.

use crate::modern::{EpochPartitions, GroupMember};
pub(crate) use crate::modern::{LEAVE_EPOCH, LEAVE_STATIC_EPOCH, MemberState};
use bytes::Bytes;
use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A protocol that a classic member offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassicProtocol {
    pub(crate) name: Box<str>,
    pub(crate) metadata: Bytes,
}

/// What only members have that speak the classic protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassicMember {
    pub(crate) session_timeout_ms: i32,
    /// Never empty but in records that somebody else wrote.
    pub(crate) protocols: Vec<ClassicProtocol>,
}

/// A member. Shared and replaced, never changed in place: what was is needed when a write fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: Arc<str>,

    // What the member says of itself: ConsumerGroupMemberMetadata.
    pub(crate) instance: Option<Box<str>>,
    pub(crate) rack: Option<Box<str>>,
    pub(crate) client_id: Box<str>,
    pub(crate) client_host: Box<str>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) topics: BTreeSet<Box<str>>,
    /// Empty: none. Records can also hold a null.
    pub(crate) regex: Option<Box<str>>,
    /// The assignor that it would like.
    pub(crate) assignor: Option<Box<str>>,
    /// Set: it speaks the classic protocol.
    pub(crate) classic: Option<Arc<ClassicMember>>,

    // What it has: ConsumerGroupCurrentMemberAssignment.
    pub(crate) epoch: i32,
    pub(crate) previous_epoch: i32,
    pub(crate) state: MemberState,
    pub(crate) assigned: EpochPartitions,
    /// To be given up; it still has them.
    pub(crate) revoking: EpochPartitions,
}

impl Member {
    /// A member that nothing is known of.
    pub(crate) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            instance: None,
            rack: None,
            client_id: "".into(),
            client_host: "".into(),
            rebalance_timeout_ms: -1,
            topics: BTreeSet::new(),
            regex: Some("".into()),
            assignor: None,
            classic: None,
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: BTreeMap::new(),
            revoking: BTreeMap::new(),
        }
    }

    /// The same under another id.
    pub(crate) fn renamed(&self, id: Arc<str>) -> Self {
        Self { id, ..self.clone() }
    }

    /// Moves to an epoch; the one before is remembered, because the answer may get lost.
    pub(crate) fn advance(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }

    /// Whether it speaks the classic protocol.
    pub(crate) fn is_classic(&self) -> bool {
        self.classic.is_some()
    }

    /// Whether it has what the target of this epoch gives it.
    pub(crate) fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == target_epoch
    }

    /// Its regular expression, if it has one.
    pub(crate) fn regex(&self) -> Option<&str> {
        self.regex.as_deref().filter(|r| !r.is_empty())
    }

    /// The epoch at which it got a partition that it has or still has to give up.
    pub(crate) fn epoch_of(&self, topic: Uuid, partition: PartitionIndex) -> Option<i32> {
        let of = |all: &EpochPartitions| all.get(&topic)?.get(&partition).copied();
        of(&self.assigned).or_else(|| of(&self.revoking))
    }

    /// Every partition that it has, given up or not.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Uuid, PartitionIndex)> {
        let all = self.assigned.iter().chain(&self.revoking);
        all.flat_map(|(topic, partitions)| partitions.keys().map(move |p| (*topic, *p)))
    }

    /// The first protocol that it offers; classic members only.
    pub(crate) fn first_protocol(&self) -> Option<&ClassicProtocol> {
        self.classic.as_ref()?.protocols.first()
    }
}

impl GroupMember for Member {
    fn new(id: Arc<str>) -> Self {
        Self::new(id)
    }

    fn copy_metadata(&mut self, other: &Self) {
        self.instance.clone_from(&other.instance);
        self.rack.clone_from(&other.rack);
        self.client_id.clone_from(&other.client_id);
        self.client_host.clone_from(&other.client_host);
        self.rebalance_timeout_ms = other.rebalance_timeout_ms;
        self.topics.clone_from(&other.topics);
        self.regex.clone_from(&other.regex);
        self.assignor.clone_from(&other.assignor);
        self.classic.clone_from(&other.classic);
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
        self.assigned.clear();
        self.revoking.clear();
    }
}
