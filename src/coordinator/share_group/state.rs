//! The state of a share group. It changes by records only, live and in replay alike; what is
//! computed from them follows along. Nothing here decides.

use super::records::ShareRecord;
use crate::modern::{ById, FIRST_EPOCH, GroupMember, MemberTimers, Partitions, Place, TopicCounts};
use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A member. Shared and replaced, never changed in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShareMember {
    pub(crate) id: Arc<str>,

    // What the member says of itself: ShareGroupMemberMetadata.
    pub(crate) rack: Option<Box<str>>,
    pub(crate) client_id: Box<str>,
    pub(crate) client_host: Box<str>,
    pub(crate) topics: BTreeSet<Box<str>>,

    // What it has: ShareGroupCurrentMemberAssignment.
    pub(crate) epoch: i32,
    pub(crate) previous_epoch: i32,
    pub(crate) assigned: Partitions,
}

impl ShareMember {
    /// A member that nothing is known of.
    pub(crate) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            rack: None,
            client_id: "".into(),
            client_host: "".into(),
            topics: BTreeSet::new(),
            epoch: 0,
            previous_epoch: -1,
            assigned: Partitions::new(),
        }
    }
}

impl GroupMember for ShareMember {
    fn new(id: Arc<str>) -> Self {
        Self::new(id)
    }

    fn copy_metadata(&mut self, other: &Self) {
        self.rack.clone_from(&other.rack);
        self.client_id.clone_from(&other.client_id);
        self.client_host.clone_from(&other.client_host);
        self.topics.clone_from(&other.topics);
    }

    fn copy_assignment(&mut self, other: &Self) {
        self.epoch = other.epoch;
        self.previous_epoch = other.previous_epoch;
        self.assigned.clone_from(&other.assigned);
    }

    fn lose_assignment(&mut self, epoch: i32) {
        self.epoch = epoch;
        self.previous_epoch = epoch;
        self.assigned.clear();
    }
}

/// Share partitions of one topic whose stored state is being made, or is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateTopic {
    pub(crate) name: Box<str>,
    pub(crate) partitions: BTreeSet<PartitionIndex>,
    /// Wall clock of when the group heard of it; 0: before this process.
    pub(crate) since_ms: i64,
}

/// Of which share partitions a group has stored state: ShareGroupStatePartitionMetadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StateTopics {
    /// Asked for.
    pub(crate) initializing: BTreeMap<Uuid, StateTopic>,
    /// There: these can be assigned.
    pub(crate) initialized: BTreeMap<Uuid, StateTopic>,
    /// To be deleted, with the names that they had.
    pub(crate) deleting: BTreeMap<Uuid, Box<str>>,
}

impl StateTopics {
    /// Notes when the group heard of all this.
    pub(super) fn at(mut self, now_ms: i64) -> Self {
        let all = self.initializing.values_mut();
        for topic in all.chain(self.initialized.values_mut()) {
            topic.since_ms = now_ms;
        }
        self
    }
}

/// Adds share partitions to some; the name is the newer one's.
pub(super) fn combine(to: &mut BTreeMap<Uuid, StateTopic>, more: BTreeMap<Uuid, StateTopic>) {
    for (id, topic) in more {
        match to.get_mut(&id) {
            Some(known) => {
                known.partitions.extend(topic.partitions);
                known.name = topic.name;
            }
            None => {
                to.insert(id, topic);
            }
        }
    }
}

/// What the records of a share group say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShareRecords {
    pub(crate) epoch: i32,
    /// Over the metadata of its topics, as of `epoch`.
    pub(crate) metadata_hash: i64,
    pub(crate) target_epoch: i32,
    /// Wall clock of the target's making; 0: not known.
    pub(crate) target_ms: i64,
    pub(crate) members: ById<ShareMember>,
    pub(crate) targets: ById<Partitions>,
    /// `None`: there is no such record.
    pub(crate) stored: Option<Arc<StateTopics>>,
}

impl ShareRecords {
    fn new() -> Self {
        Self {
            epoch: FIRST_EPOCH,
            metadata_hash: 0,
            target_epoch: FIRST_EPOCH,
            target_ms: 0,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            stored: None,
        }
    }
}

/// How to take one record back.
#[derive(Debug)]
pub(crate) enum Undo {
    Member(Place<ShareMember>),
    Target(Place<Partitions>),
    TargetEpoch(i32, i64),
    Epoch(i32, i64),
    Stored(Option<Arc<StateTopics>>),
}

/// A share group.
#[derive(Debug)]
pub(crate) struct ShareGroup {
    pub(crate) records: ShareRecords,
    /// The topics that members subscribe to; follows from the records.
    topics: TopicCounts,

    // ---- what a restart forgets ----
    /// Wall clock from which the metadata is to be looked at again, and the group epoch that was
    /// made with it: an epoch that was taken back makes it look again.
    pub(crate) refresh: (i64, i32),
    /// A look at topics, stored states and targets has found nothing to do, and nothing changed
    /// since.
    pub(crate) settled: bool,
    /// Members' sessions.
    pub(crate) timers: MemberTimers,
}

impl ShareGroup {
    pub(crate) fn new() -> Self {
        Self {
            records: ShareRecords::new(),
            topics: TopicCounts::default(),
            refresh: (0, 0),
            settled: false,
            timers: MemberTimers::default(),
        }
    }

    // ---- questions ----

    /// The member with this id.
    pub(crate) fn member(&self, id: &str) -> Option<&Arc<ShareMember>> {
        self.records.members.get(id)
    }

    /// Nobody in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.members.is_empty()
    }

    /// Whether no record says anything of it.
    pub(crate) fn is_blank(&self) -> bool {
        self.records == ShareRecords::new()
    }

    /// Kafka's name of its state.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.is_empty() {
            true => "Empty",
            false => "Stable",
        }
    }

    /// The topics that somebody subscribes to.
    pub(crate) fn topics(&self) -> &TopicCounts {
        &self.topics
    }

    /// Of which share partitions there is stored state.
    pub(crate) fn stored(&self) -> StateTopics {
        self.records.stored.as_deref().cloned().unwrap_or_default()
    }

    /// Whether topic metadata is to be looked at again.
    pub(crate) fn is_metadata_due(&self, now_ms: i64) -> bool {
        now_ms >= self.refresh.0 || self.records.epoch < self.refresh.1
    }

    /// Topics that it knows have changed.
    pub(crate) fn metadata_changed(&mut self) {
        self.refresh = (0, 0);
        self.settled = false;
    }

    // ---- records ----

    /// Applies a record; how to take it back, unless it changes nothing. The tombstone of the group
    /// itself is its owner's affair.
    pub(crate) fn apply(&mut self, record: &ShareRecord) -> Option<Undo> {
        use ShareRecord as R;
        self.settled = false;
        let records = &mut self.records;
        Some(match record {
            R::Member(id, said) => {
                let member = Place::said(&self.records.members, id, said.as_ref())?;
                Undo::Member(self.put_member(member))
            }
            R::Current(id, has) => {
                let member = Place::has(&self.records.members, id, has.as_ref())?;
                Undo::Member(self.put_member(member))
            }
            R::Target(id, target) => {
                Undo::Target(Place::new(id, target.clone()).put_into(&mut self.records.targets))
            }
            R::TargetEpoch(value) => {
                let undo = Undo::TargetEpoch(records.target_epoch, records.target_ms);
                (records.target_epoch, records.target_ms) = value.unwrap_or((-1, 0));
                undo
            }
            R::Epoch(Some(value)) => {
                let undo = Undo::Epoch(records.epoch, records.metadata_hash);
                (records.epoch, records.metadata_hash) = *value;
                undo
            }
            R::Epoch(None) => return None,
            R::Stored(stored) => {
                Undo::Stored(std::mem::replace(&mut records.stored, stored.clone()))
            }
        })
    }

    /// Takes a record back.
    pub(crate) fn undo(&mut self, undo: Undo) {
        self.settled = false;
        let records = &mut self.records;
        match undo {
            Undo::Member(before) => {
                self.put_member(before);
            }
            Undo::Target(before) => {
                before.put_into(&mut self.records.targets);
            }
            Undo::TargetEpoch(epoch, ms) => {
                (records.target_epoch, records.target_ms) = (epoch, ms);
            }
            Undo::Epoch(epoch, hash) => {
                (records.epoch, records.metadata_hash) = (epoch, hash);
            }
            Undo::Stored(before) => records.stored = before,
        }
    }

    /// Puts a member in its place; who was there before.
    fn put_member(&mut self, place: Place<ShareMember>) -> Place<ShareMember> {
        let new = place.holds.clone();
        let old = place.put_into(&mut self.records.members);
        for (member, add) in [(&old.holds, false), (&new, true)] {
            for topic in member.iter().flat_map(|m| &m.topics) {
                self.topics.by_name(topic, add);
            }
        }
        old
    }

    /// For tests: panics when something computed does not follow from the records.
    pub(crate) fn check(&self) {
        let mut counts = TopicCounts::default();
        for topic in self.records.members.values().flat_map(|m| &m.topics) {
            counts.by_name(topic, true);
        }
        assert_eq!(counts, self.topics, "topic counts");
    }
}
