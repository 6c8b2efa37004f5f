//! The state of a consumer group. It changes by records only, live and in replay alike; what is
//! computed from them (owners, counts) follows along. Nothing here decides.

use super::counted;
use super::member::Member;
use super::records::ConsumerRecord;
use super::regex::Resolved;
use crate::modern::{ById, FIRST_EPOCH, MemberTimers, Partitions, Place, TopicCounts};
use flumen_base::{PartitionIndex, Uuid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// State of a consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConsumerState {
    /// No members.
    Empty,
    /// The target is older than the group.
    Assigning,
    /// Some member has not got what it shall have.
    Reconciling,
    Stable,
}

impl ConsumerState {
    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
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
    Target(Place<Partitions>),
    TargetEpoch(i32, i64),
    Epoch(i32, i64),
    PartitionMetadata(bool),
    Regex(Box<str>, Option<Arc<Resolved>>),
}

/// A consumer group.
#[derive(Debug)]
pub(crate) struct ConsumerGroup {
    // ---- what records say ----
    pub(crate) epoch: i32,
    /// Over the metadata of its topics, as of `epoch`.
    pub(crate) metadata_hash: i64,
    pub(crate) target_epoch: i32,
    /// Wall clock of the target's making; 0: not known.
    pub(crate) target_ms: i64,
    pub(super) members: ById<Member>,
    targets: ById<Partitions>,
    pub(crate) regexes: BTreeMap<Box<str>, Arc<Resolved>>,
    /// A record of an older version is to be buried.
    pub(crate) has_partition_metadata: bool,

    // ---- what follows from them ----
    statics: BTreeMap<Box<str>, Arc<str>>,
    /// How many members hold a partition: one, but while a change is done again that was undone
    /// because one before it failed.
    owners: BTreeMap<(Uuid, PartitionIndex), u32>,
    topics: TopicCounts,
    /// Members by expression.
    regex_members: BTreeMap<Box<str>, usize>,
    /// Members by the assignor they would like.
    assignors: BTreeMap<Box<str>, usize>,
    classic_count: usize,
    /// Classic members by the protocol they offer.
    classic_protocols: BTreeMap<Box<str>, usize>,

    // ---- what a restart forgets ----
    /// Wall clock from which the metadata is to be looked at again, and the group epoch that was
    /// made with it: an epoch that was taken back makes it look again.
    pub(crate) refresh: (i64, i32),
    pub(crate) timers: MemberTimers,
}

impl ConsumerGroup {
    pub(crate) fn new() -> Self {
        Self {
            epoch: FIRST_EPOCH,
            metadata_hash: 0,
            target_epoch: FIRST_EPOCH,
            target_ms: 0,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            regexes: BTreeMap::new(),
            has_partition_metadata: false,
            statics: BTreeMap::new(),
            owners: BTreeMap::new(),
            topics: TopicCounts::default(),
            regex_members: BTreeMap::new(),
            assignors: BTreeMap::new(),
            classic_count: 0,
            classic_protocols: BTreeMap::new(),
            refresh: (0, 0),
            timers: MemberTimers::default(),
        }
    }

    // ---- questions ----

    /// All members by id.
    pub(crate) fn members(&self) -> &ById<Member> {
        &self.members
    }

    /// The member with this id.
    pub(crate) fn member(&self, id: &str) -> Option<&Arc<Member>> {
        self.members.get(id)
    }

    /// The static member with this `group.instance.id`.
    pub(crate) fn static_member(&self, instance: &str) -> Option<&Arc<Member>> {
        self.members.get(self.statics.get(instance)?)
    }

    /// Nobody in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Its state.
    pub(crate) fn state(&self) -> ConsumerState {
        let behind = |m: &Arc<Member>| !m.is_reconciled_to(self.target_epoch);
        if self.members.is_empty() {
            ConsumerState::Empty
        } else if self.epoch > self.target_epoch {
            ConsumerState::Assigning
        } else if self.members.values().any(behind) {
            ConsumerState::Reconciling
        } else {
            ConsumerState::Stable
        }
    }

    /// What a member shall have.
    pub(crate) fn target(&self, id: &str) -> Option<&Arc<Partitions>> {
        self.targets.get(id)
    }

    /// Whether a member has this partition, given up or not.
    pub(crate) fn is_owned(&self, topic: Uuid, partition: PartitionIndex) -> bool {
        self.owners.contains_key(&(topic, partition))
    }

    /// The topics that somebody subscribes to.
    pub(crate) fn topic_counts(&self) -> &TopicCounts {
        &self.topics
    }

    /// Members by their expression.
    pub(crate) fn subscribed_regexes(&self) -> &BTreeMap<Box<str>, usize> {
        &self.regex_members
    }

    /// Members with this expression.
    pub(crate) fn regex_members(&self, regex: &str) -> usize {
        self.regex_members.get(regex).copied().unwrap_or(0)
    }

    /// The assignor that most members would like, if one member changes.
    pub(crate) fn preferred_assignor(
        &self,
        old: Option<&Member>,
        new: Option<&Member>,
    ) -> Option<Box<str>> {
        let mut counts = self.assignors.clone();
        for (member, add) in [(old, false), (new, true)] {
            if let Some(assignor) = member.and_then(|m| m.assignor.as_deref()) {
                counted(&mut counts, assignor, add);
            }
        }
        let most = counts.iter().max_by_key(|(_, count)| **count);
        most.map(|(name, _)| name.clone())
    }

    /// Members that speak the classic protocol.
    pub(crate) fn classic_count(&self) -> usize {
        self.classic_count
    }

    /// Whether all classic members offer this protocol.
    pub(crate) fn offered_by_classic(&self, protocol: &str) -> bool {
        let count = self.classic_protocols.get(protocol).copied();
        count.unwrap_or(0) == self.classic_count
    }

    /// Whether topic metadata is to be looked at again.
    pub(crate) fn is_metadata_due(&self, now_ms: i64) -> bool {
        now_ms >= self.refresh.0 || self.epoch < self.refresh.1
    }

    // ---- records ----

    /// Applies a record; how to take it back, unless it changes nothing. The tombstone of the group
    /// itself is its owner's affair.
    pub(crate) fn apply(&mut self, record: &ConsumerRecord) -> Option<Undo> {
        use ConsumerRecord as R;
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
                let old = Undo::Epoch(self.epoch, self.metadata_hash);
                if let Some(value) = value {
                    (self.epoch, self.metadata_hash) = *value;
                }
                old
            }
            R::PartitionMetadata(exists) => {
                let old = std::mem::replace(&mut self.has_partition_metadata, *exists);
                Undo::PartitionMetadata(old)
            }
            R::Regex(regex, resolved) => {
                let old = self.put_regex(regex, resolved.clone());
                Undo::Regex(regex.clone(), old)
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
            Undo::Epoch(epoch, hash) => (self.epoch, self.metadata_hash) = (epoch, hash),
            Undo::PartitionMetadata(exists) => self.has_partition_metadata = exists,
            Undo::Regex(regex, resolved) => {
                self.put_regex(&regex, resolved);
            }
        }
    }

    /// Computes again what follows from the records: while changes were taken back, two members
    /// may have had the same instance id.
    pub(crate) fn recount(&mut self) {
        self.statics.clear();
        self.owners.clear();
        self.topics = TopicCounts::default();
        self.regex_members.clear();
        self.assignors.clear();
        self.classic_count = 0;
        self.classic_protocols.clear();
        let members: Vec<_> = self.members.values().cloned().collect();
        for member in &members {
            self.count(member, true);
        }
        let regexes: Vec<_> = self.regexes.values().cloned().collect();
        for topic in regexes.iter().flat_map(|r| &r.topics) {
            self.topics.by_regex(topic, true);
        }
    }

    fn put_regex(&mut self, regex: &str, new: Option<Arc<Resolved>>) -> Option<Arc<Resolved>> {
        let old = self.regexes.remove(regex);
        for topic in old.iter().flat_map(|r| &r.topics) {
            self.topics.by_regex(topic, false);
        }
        for topic in new.iter().flat_map(|r| &r.topics) {
            self.topics.by_regex(topic, true);
        }
        if let Some(new) = new {
            self.regexes.insert(regex.into(), new);
        }
        old
    }

    /// Puts a member in its place and counts; who was there before.
    fn put_member(&mut self, place: Place<Member>) -> Place<Member> {
        let new = place.holds.clone();
        let old = place.put_into(&mut self.members);
        if let Some(old) = &old.holds {
            self.count(old, false);
        }
        if let Some(new) = &new {
            self.count(new, true);
        }
        old
    }

    /// Counts a member in or out.
    fn count(&mut self, member: &Arc<Member>, add: bool) {
        for partition in member.held() {
            if add {
                *self.owners.entry(partition).or_default() += 1;
            } else if let Some(owners) = self.owners.get_mut(&partition) {
                *owners -= 1;
                if *owners == 0 {
                    self.owners.remove(&partition);
                }
            }
        }
        for topic in &member.topics {
            self.topics.by_name(topic, add);
        }
        if let Some(regex) = member.regex() {
            counted(&mut self.regex_members, regex, add);
        }
        if let Some(assignor) = &member.assignor {
            counted(&mut self.assignors, assignor, add);
        }
        if let Some(instance) = &member.instance {
            if add {
                self.statics.insert(instance.clone(), member.id.clone());
            } else if self.statics.get(instance) == Some(&member.id) {
                self.statics.remove(instance);
            }
        }
        if let Some(classic) = &member.classic {
            self.classic_count = if add {
                self.classic_count + 1
            } else {
                self.classic_count.saturating_sub(1)
            };
            for protocol in &classic.protocols {
                counted(&mut self.classic_protocols, &protocol.name, add);
            }
        }
    }
}

/// For tests: what a replay must bring back.
impl ConsumerGroup {
    /// Panics when something computed does not follow from the records.
    pub(crate) fn check(&self) {
        let mut again = Self::new();
        for member in self.members.values() {
            again.put_member(Place::new(&member.id, Some(member.clone())));
        }
        for (regex, resolved) in &self.regexes {
            again.put_regex(regex, Some(resolved.clone()));
        }
        assert_eq!(again.statics, self.statics, "static members");
        assert_eq!(again.topics, self.topics, "topic counts");
        assert_eq!(again.regex_members, self.regex_members, "expressions");
        assert_eq!(again.assignors, self.assignors, "assignors");
        assert_eq!(again.classic_count, self.classic_count, "classic members");
        assert_eq!(again.classic_protocols, self.classic_protocols, "protocols");
        assert_eq!(again.owners, self.owners, "owned partitions");
    }
}
