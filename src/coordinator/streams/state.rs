//! The state of a streams group. It changes by records only, live and in replay alike; what is
//! computed from them (owners) follows along. Nothing here decides.

use super::configure::Configured;
use super::member::Member;
use super::owners::Owners;
use super::records::{AssignmentConfigs, GroupEpoch, StreamsRecord};
use super::tasks::Tasks;
use super::topology::Topology;
use crate::modern::{ById, FIRST_EPOCH, MemberTimers, Place};
use crate::timers::Deadline;
use std::collections::BTreeMap;
use std::sync::Arc;

/// State of a streams group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamsState {
    /// No members.
    Empty,
    /// Topics of the topology are missing, or don't fit.
    NotReady,
    /// The target is older than the group.
    Assigning,
    /// Some member has not got what it shall have.
    Reconciling,
    Stable,
}

impl StreamsState {
    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::NotReady => "NotReady",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

/// How to take one record back.
#[derive(Debug)]
pub(crate) enum Undo {
    Member(Place<Member>),
    Target(Place<Tasks>),
    TargetEpoch(i32, i64),
    Epoch(Arc<GroupEpoch>),
    Topology(Option<Arc<Topology>>),
}

/// A streams group.
#[derive(Debug)]
pub(crate) struct StreamsGroup {
    // ---- what records say ----
    pub(super) at: Arc<GroupEpoch>,
    pub(super) target_epoch: i32,
    /// Wall clock of the target's making; 0: not known.
    pub(super) target_ms: i64,
    pub(super) members: ById<Member>,
    targets: ById<Tasks>,
    pub(super) topology: Option<Arc<Topology>>,

    // ---- what follows from them ----
    owners: Owners,

    // ---- what a restart forgets ----
    /// The topology among the topics there are, as of the metadata hash in it.
    pub(super) configured: Option<Arc<Configured>>,
    /// Wall clock from which the metadata is to be looked at again, and the group epoch that was
    /// made with it: an epoch that was taken back makes it look again.
    pub(super) refresh: (i64, i32),
    /// The member that wants all instances of the application to end. Forgotten with the last
    /// member.
    pub(super) shutdown_by: Option<Arc<str>>,
    /// Goes up when a member with an endpoint gets other tasks.
    pub(super) endpoint_epoch: i32,
    /// Until then, who joins a group that was empty waits for others.
    pub(crate) delay: Deadline,
    pub(crate) timers: MemberTimers,
}

impl StreamsGroup {
    pub(crate) fn new() -> Self {
        Self {
            at: Arc::new(GroupEpoch {
                epoch: FIRST_EPOCH,
                metadata_hash: 0,
                validated_topology_epoch: 0,
                configs: AssignmentConfigs::new(),
            }),
            target_epoch: FIRST_EPOCH,
            target_ms: 0,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            topology: None,
            owners: Owners::default(),
            configured: None,
            refresh: (0, 0),
            shutdown_by: None,
            endpoint_epoch: 0,
            delay: Deadline::default(),
            timers: MemberTimers::default(),
        }
    }

    // ---- questions ----

    /// All members by id.
    pub(super) fn members(&self) -> &ById<Member> {
        &self.members
    }

    /// The member with this id.
    pub(crate) fn member(&self, id: &str) -> Option<&Arc<Member>> {
        self.members.get(id)
    }

    /// Nobody in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Its state.
    pub(crate) fn state(&self) -> StreamsState {
        let validated = self.at.validated_topology_epoch;
        let ready = |t: &Arc<Topology>| t.epoch == validated;
        let behind = |m: &Arc<Member>| !m.is_reconciled_to(self.target_epoch);
        if self.members.is_empty() {
            StreamsState::Empty
        } else if !self.topology.as_ref().is_some_and(ready) {
            StreamsState::NotReady
        } else if self.at.epoch > self.target_epoch {
            StreamsState::Assigning
        } else if self.members.values().any(behind) {
            StreamsState::Reconciling
        } else {
            StreamsState::Stable
        }
    }

    /// What a member shall have.
    pub(super) fn target(&self, id: &str) -> Option<&Arc<Tasks>> {
        self.targets.get(id)
    }

    /// Who has which tasks.
    pub(super) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Whether a member may read this topic.
    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        let reads = |t: &Arc<Topology>| t.reader_of(topic).is_some();
        !self.members.is_empty() && self.topology.as_ref().is_some_and(reads)
    }

    /// Whether its topology names one of these topics: what is known of them is out of date.
    pub(crate) fn requires_any(&self, topics: &[&str]) -> bool {
        let topology = self.topology.as_ref();
        topology.is_some_and(|t| topics.iter().any(|topic| t.requires(topic)))
    }

    /// The next request looks at the topics again.
    pub(crate) fn request_refresh(&mut self) {
        self.refresh = (0, 0);
    }

    /// Whether topic metadata is to be looked at again.
    pub(super) fn is_metadata_due(&self, now_ms: i64) -> bool {
        now_ms >= self.refresh.0 || self.at.epoch < self.refresh.1
    }

    // ---- records ----

    /// Applies a record; how to take it back, unless it changes nothing. The tombstone of the group
    /// itself is its owner's affair.
    pub(crate) fn apply(&mut self, record: &StreamsRecord) -> Option<Undo> {
        use StreamsRecord as R;
        Some(match record {
            R::Member(id, said) => {
                let member = Place::said(&self.members, id, said.as_ref())?;
                Undo::Member(self.put_member(member))
            }
            R::Current(id, has) => {
                let member = Place::has(&self.members, id, has.as_ref())?;
                Undo::Member(self.put_member(member))
            }
            R::Target(id, target) => {
                Undo::Target(Place::new(id, target.clone()).put_into(&mut self.targets))
            }
            R::TargetEpoch(value) => {
                let old = Undo::TargetEpoch(self.target_epoch, self.target_ms);
                (self.target_epoch, self.target_ms) = value.unwrap_or((-1, 0));
                old
            }
            R::Epoch(value) => {
                let new = value.clone().unwrap_or_else(|| self.at.clone());
                Undo::Epoch(std::mem::replace(&mut self.at, new))
            }
            R::Topology(topology) => {
                self.configured = None;
                Undo::Topology(std::mem::replace(&mut self.topology, topology.clone()))
            }
        })
    }

    /// Takes a record back.
    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Member(before) => {
                self.put_member(before);
            }
            Undo::Target(before) => {
                before.put_into(&mut self.targets);
            }
            Undo::TargetEpoch(epoch, ms) => (self.target_epoch, self.target_ms) = (epoch, ms),
            Undo::Epoch(at) => self.at = at,
            Undo::Topology(topology) => self.topology = topology,
        }
    }

    /// Computes again what follows from the records; what is known of topics is forgotten.
    pub(crate) fn recount(&mut self) {
        self.owners = self.counted_owners();
        self.configured = None;
        self.request_refresh();
    }

    fn counted_owners(&self) -> Owners {
        let mut owners = Owners::default();
        for member in self.members.values() {
            owners.count(member, true);
        }
        owners
    }

    /// Puts a member in its place and counts; who was there before.
    fn put_member(&mut self, place: Place<Member>) -> Place<Member> {
        let new = place.holds.clone();
        let old = place.put_into(&mut self.members);
        if let Some(old) = &old.holds {
            self.owners.count(old, false);
        }
        if let Some(new) = &new {
            self.owners.count(new, true);
        }
        if self.members.is_empty() {
            self.shutdown_by = None;
        }
        old
    }

    /// The tombstones of all its records. The topology's comes after the one that ends the group.
    pub(crate) fn tombstones(&self) -> Vec<StreamsRecord> {
        use StreamsRecord as R;
        let ids = || self.members.keys().cloned();
        let mut records: Vec<R> = ids().map(|id| R::Current(id, None)).collect();
        records.extend(ids().map(|id| R::Target(id, None)));
        records.push(R::TargetEpoch(None));
        records.extend(ids().map(|id| R::Member(id, None)));
        records.push(R::Epoch(None));
        records.push(R::Topology(None));
        records
    }
}

/// The records that take a member out.
pub(super) fn bury_member(id: &Arc<str>, records: &mut Vec<StreamsRecord>) {
    records.push(StreamsRecord::Current(id.clone(), None));
    records.push(StreamsRecord::Target(id.clone(), None));
    records.push(StreamsRecord::Member(id.clone(), None));
}

/// For tests: what a replay must bring back.
impl StreamsGroup {
    /// Panics when something computed does not follow from the records.
    pub(crate) fn check(&self) {
        assert_eq!(self.counted_owners(), self.owners, "owned tasks");
    }
}
