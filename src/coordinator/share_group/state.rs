//! The state of a share group. It changes by records only, live and in replay alike; what is
//! computed from them follows along. Nothing here decides.

use super::records::ShareRecord;
use super::timers::Sessions;
use super::write::Step;
use crate::modern::{Partitions, TopicCounts};
use flumen_base::{PartitionIndex, Uuid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The epoch that a group and its target begin with.
const FIRST_EPOCH: i32 = 1;
/// The epoch of a member that has left, and of a request that leaves.
pub(super) const LEAVE_EPOCH: i32 = -1;

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
    pub(crate) members: BTreeMap<Arc<str>, Arc<ShareMember>>,
    pub(crate) targets: BTreeMap<Arc<str>, Arc<Partitions>>,
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
    pub(super) sessions: Sessions,
    /// Changes that are being written, oldest first.
    pub(super) history: VecDeque<Step>,
}

impl ShareGroup {
    pub(crate) fn new() -> Self {
        Self {
            records: ShareRecords::new(),
            topics: TopicCounts::default(),
            refresh: (0, 0),
            settled: false,
            sessions: Sessions::default(),
            history: VecDeque::new(),
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
        self.history.is_empty() && self.records == ShareRecords::new()
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

    /// Applies a record. The tombstone of the group itself is its owner's affair.
    pub(crate) fn apply(&mut self, record: &ShareRecord) {
        use ShareRecord as R;
        self.settled = false;
        let records = &mut self.records;
        match record {
            R::Member(id, Some(said)) => {
                let mut member = self.get_or_new(id);
                let m = Arc::make_mut(&mut member);
                m.rack.clone_from(&said.rack);
                m.client_id.clone_from(&said.client_id);
                m.client_host.clone_from(&said.client_host);
                m.topics.clone_from(&said.topics);
                self.put_member(id, Some(member));
            }
            R::Member(id, None) => self.put_member(id, None),
            R::Current(id, Some(has)) => {
                let mut member = self.get_or_new(id);
                let m = Arc::make_mut(&mut member);
                m.epoch = has.epoch;
                m.previous_epoch = has.previous_epoch;
                m.assigned.clone_from(&has.assigned);
                self.put_member(id, Some(member));
            }
            R::Current(id, None) => {
                if let Some(member) = records.members.get_mut(id) {
                    let m = Arc::make_mut(member);
                    m.epoch = LEAVE_EPOCH;
                    m.previous_epoch = LEAVE_EPOCH;
                    m.assigned.clear();
                }
            }
            R::Target(id, Some(target)) => {
                records.targets.insert(id.clone(), target.clone());
            }
            R::Target(id, None) => {
                records.targets.remove(id);
            }
            R::TargetEpoch(value) => {
                (records.target_epoch, records.target_ms) = value.unwrap_or((-1, 0));
            }
            R::Epoch(Some(value)) => (records.epoch, records.metadata_hash) = *value,
            R::Epoch(None) => {}
            R::Stored(stored) => records.stored.clone_from(stored),
        }
    }

    /// Takes over what records said at another time.
    pub(super) fn set_records(&mut self, records: ShareRecords) {
        self.records = records;
        self.settled = false;
        self.topics = TopicCounts::default();
        for topic in self.records.members.values().flat_map(|m| &m.topics) {
            self.topics.by_name(topic, true);
        }
    }

    fn get_or_new(&self, id: &Arc<str>) -> Arc<ShareMember> {
        match self.records.members.get(id) {
            Some(member) => member.clone(),
            None => Arc::new(ShareMember::new(id.clone())),
        }
    }

    fn put_member(&mut self, id: &Arc<str>, new: Option<Arc<ShareMember>>) {
        let members = &mut self.records.members;
        let old = match &new {
            Some(member) => members.insert(id.clone(), member.clone()),
            None => members.remove(id),
        };
        for (member, add) in [(old, false), (new, true)] {
            for topic in member.iter().flat_map(|m| &m.topics) {
                self.topics.by_name(topic, add);
            }
        }
    }

    /// For tests: panics when something computed does not follow from the records.
    pub(crate) fn check(&self) {
        let mut again = Self::new();
        again.set_records(self.records.clone());
        assert_eq!(again.topics, self.topics, "topic counts");
    }
}
