//! The state of a classic group and its bookkeeping. Nothing here sends or writes.

use super::member::{Member, Parked, Protocol};
use crate::timers::{Deadline, MemberSerial};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// `ConsumerProtocol.PROTOCOL_TYPE`: the only protocol type the coordinator looks into (for
/// subscribed topics).
const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// State of a classic group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    /// Kafka's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// What the end of the join phase's timer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinTimer {
    /// The first rebalance of an empty group: wait `delay_ms`, longer while members come, up to
    /// `remaining_ms` more.
    Initial { delay_ms: i32, remaining_ms: i32 },
    /// Go on with those who have joined.
    Complete,
}

/// Membership of a group.
#[derive(Debug)]
pub(crate) struct ClassicGroup {
    pub(crate) state: State,
    /// The state before this one.
    pub(crate) previous: State,
    /// Wall clock of the last change of state; -1 when a record of an old version did not tell.
    pub(crate) state_since_ms: i64,
    /// `None`: simple group, offsets only.
    pub(crate) protocol_type: Option<Box<str>>,
    /// Chosen for this generation.
    pub(crate) protocol: Option<Box<str>>,
    /// 0 before the first; never goes back.
    pub(crate) generation: i32,
    pub(crate) leader: Option<MemberSerial>,
    /// In order of joining. Behind a pointer: a tree's node has room for eleven, and most groups
    /// have few members.
    pub(crate) members: BTreeMap<MemberSerial, Box<Member>>,
    /// Told their id, not back yet. Their time runs in the deadline.
    pub(crate) pending: BTreeMap<MemberSerial, (Arc<str>, Deadline)>,
    /// Ids of `members` and `pending`.
    ids: BTreeMap<Arc<str>, MemberSerial>,
    /// `group.instance.id`s of `members`.
    statics: BTreeMap<Box<str>, MemberSerial>,
    /// Members that offer a protocol, by its name.
    offered: BTreeMap<Box<str>, usize>,
    /// Members whose JoinGroup waits.
    joining: usize,
    /// Members of this generation that have not sent SyncGroup.
    pub(crate) sync_missing: BTreeSet<MemberSerial>,
    /// Topics that the members of a consumer group read; `None` when unknown.
    pub(crate) subscribed: Option<BTreeSet<Box<str>>>,
    /// A member came during the initial delay.
    pub(crate) member_added: bool,
    pub(crate) join_deadline: Deadline,
    pub(crate) join_timer: JoinTimer,
    pub(crate) sync_deadline: Deadline,
    /// The assignment of this generation is being written.
    pub(crate) assignment_in_flight: bool,
    member_last: MemberSerial,
}

impl ClassicGroup {
    pub(crate) fn new(wall_ms: i64) -> Self {
        Self {
            state: State::Empty,
            previous: State::Dead,
            state_since_ms: wall_ms,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            pending: BTreeMap::new(),
            ids: BTreeMap::new(),
            statics: BTreeMap::new(),
            offered: BTreeMap::new(),
            joining: 0,
            sync_missing: BTreeSet::new(),
            subscribed: None,
            member_added: false,
            join_deadline: Deadline::default(),
            join_timer: JoinTimer::Complete,
            sync_deadline: Deadline::default(),
            assignment_in_flight: false,
            member_last: 0,
        }
    }

    /// Nobody in it, nobody coming.
    pub(crate) fn is_vacant(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// As if there had never been a member.
    pub(crate) fn is_blank(&self) -> bool {
        self.is_vacant() && self.protocol_type.is_none() && self.generation == 0
    }

    /// Moves to another state.
    pub(crate) fn transition(&mut self, to: State, wall_ms: i64) {
        self.previous = self.state;
        self.state = to;
        self.state_since_ms = wall_ms;
    }

    /// A rebalance may start.
    pub(crate) fn can_rebalance(&self) -> bool {
        matches!(
            self.state,
            State::Stable | State::CompletingRebalance | State::Empty
        )
    }

    /// The group was put aside meanwhile: nobody waits, no deadline runs, and who was only told an
    /// id is forgotten.
    pub(crate) fn begin_anew(&mut self) {
        for (id, _) in std::mem::take(&mut self.pending).into_values() {
            self.ids.remove(&id);
        }
        for member in self.members.values_mut() {
            member.session = Deadline::default();
        }
        self.join_deadline = Deadline::default();
        self.sync_deadline = Deadline::default();
        self.sync_missing.clear();
        self.assignment_in_flight = false;
        if !self.members.is_empty() {
            self.state = State::Stable;
        } else if self.state != State::Dead {
            self.state = State::Empty;
        }
    }

    // ---- members ----

    /// A number for a new member.
    pub(crate) fn next_serial(&mut self) -> MemberSerial {
        self.member_last += 1;
        self.member_last
    }

    /// The member with this id; pending ones don't count.
    pub(crate) fn find(&self, id: &str) -> Option<MemberSerial> {
        let serial = *self.ids.get(id)?;
        self.members.contains_key(&serial).then_some(serial)
    }

    /// The pending member with this id.
    pub(crate) fn find_pending(&self, id: &str) -> Option<MemberSerial> {
        let serial = *self.ids.get(id)?;
        self.pending.contains_key(&serial).then_some(serial)
    }

    /// The static member with this `group.instance.id`.
    pub(crate) fn find_static(&self, instance: &str) -> Option<MemberSerial> {
        self.statics.get(instance).copied()
    }

    /// Registers an id that was handed out.
    pub(crate) fn add_pending(&mut self, serial: MemberSerial, id: Arc<str>, deadline: Deadline) {
        self.ids.insert(id.clone(), serial);
        self.pending.insert(serial, (id, deadline));
    }

    /// Adds a member (its protocols already fit); the first one gives the group its type, and
    /// leads.
    pub(crate) fn add(&mut self, serial: MemberSerial, mut member: Member, protocol_type: &str) {
        self.pending.remove(&serial);
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.into());
        }
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), serial);
        }
        self.ids.insert(member.id.clone(), serial);
        self.leader.get_or_insert(serial);
        self.count_protocols(&member.protocols, true);
        let join = member.join.take();
        self.members.insert(serial, Box::new(member));
        if let Some(parked) = join {
            self.park_join(serial, parked);
        }
    }

    /// Takes a member or a pending member out; the leadership goes to the first of the others. The
    /// caller answers what the member was waiting for.
    pub(crate) fn remove(&mut self, serial: MemberSerial) -> Option<Member> {
        if let Some((id, _)) = self.pending.remove(&serial) {
            self.ids.remove(&id);
            return None;
        }
        let member = self.members.remove(&serial)?;
        self.ids.remove(&member.id);
        self.count_protocols(&member.protocols, false);
        self.joining -= usize::from(member.join.is_some());
        if let Some(instance) = &member.instance {
            self.statics.remove(instance);
        }
        if self.leader == Some(serial) {
            self.leader = self.members.keys().next().copied();
        }
        self.sync_missing.remove(&serial);
        Some(*member)
    }

    /// Gives a static member a new id (and number); its leadership stays. The old deadline dies
    /// with the old number.
    pub(crate) fn rename(&mut self, old: MemberSerial, id: Arc<str>) -> Option<MemberSerial> {
        let mut member = self.members.remove(&old)?;
        self.ids.remove(&member.id);
        let serial = self.next_serial();
        self.ids.insert(id.clone(), serial);
        member.id = id;
        member.session = Deadline::default();
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), serial);
        }
        if self.leader == Some(old) {
            self.leader = Some(serial);
        }
        self.sync_missing.remove(&old);
        self.members.insert(serial, member);
        Some(serial)
    }

    /// Replaces what a member offers; returns what it offered before.
    pub(crate) fn set_protocols(
        &mut self,
        serial: MemberSerial,
        protocols: Vec<Protocol>,
    ) -> Vec<Protocol> {
        let Some(member) = self.members.get_mut(&serial) else {
            return Vec::new();
        };
        let old = std::mem::replace(&mut member.protocols, protocols.clone());
        self.count_protocols(&old, false);
        self.count_protocols(&protocols, true);
        old
    }

    // ---- waiting requests ----

    /// Parks a JoinGroup; returns the one it takes the place of.
    pub(crate) fn park_join(&mut self, serial: MemberSerial, parked: Parked) -> Option<Parked> {
        let member = self.members.get_mut(&serial)?;
        let old = member.join.replace(parked);
        self.joining += usize::from(old.is_none());
        old
    }

    /// Takes a parked JoinGroup, to answer it.
    pub(crate) fn take_join(&mut self, serial: MemberSerial) -> Option<Parked> {
        let parked = self.members.get_mut(&serial)?.join.take();
        self.joining -= usize::from(parked.is_some());
        parked
    }

    /// Members whose JoinGroup waits.
    pub(crate) fn joining(&self) -> usize {
        self.joining
    }

    /// Whether the join phase has nobody to wait for.
    pub(crate) fn all_joined(&self) -> bool {
        self.members.len() == self.joining && self.pending.is_empty()
    }

    /// The longest rebalance timeout of the members.
    pub(crate) fn rebalance_timeout_ms(&self) -> i32 {
        let longest = self.members.values().map(|m| m.rebalance_timeout_ms).max();
        longest.unwrap_or(0).max(0)
    }

    /// Makes sure that a member who joined leads; false when none has (or there is none).
    pub(crate) fn elect_joined_leader(&mut self) -> bool {
        let joined = |m: Option<&Box<Member>>| m.is_some_and(|m| m.join.is_some());
        let Some(leader) = self.leader else {
            return false;
        };
        if joined(self.members.get(&leader)) {
            return true;
        }
        let other = self.members.iter().find(|(_, m)| m.join.is_some());
        match other.map(|(serial, _)| *serial) {
            Some(serial) => {
                self.leader = Some(serial);
                true
            }
            None => false,
        }
    }

    // ---- protocols ----

    fn count_protocols(&mut self, protocols: &[Protocol], add: bool) {
        for (i, protocol) in protocols.iter().enumerate() {
            if protocols[..i].iter().any(|p| p.name == protocol.name) {
                continue; // named twice, counted once
            }
            if add {
                *self.offered.entry(protocol.name.clone()).or_default() += 1;
            } else if let Some(count) = self.offered.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.offered.remove(&protocol.name);
                }
            }
        }
    }

    fn offered_by_all(&self, name: &str) -> bool {
        self.offered.get(name) == Some(&self.members.len())
    }

    /// Whether somebody with these protocols could join.
    pub(crate) fn supports<'n>(
        &self,
        protocol_type: &str,
        mut names: impl Iterator<Item = &'n str>,
    ) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && names.next().is_some();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && names.any(|name| self.members.is_empty() || self.offered_by_all(name))
    }

    /// The protocol with most votes: each member votes for the first of its list that all offer.
    /// Ties go to the earliest member's vote.
    pub(crate) fn select_protocol(&self) -> Option<Box<str>> {
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for member in self.members.values() {
            let vote = member
                .protocols
                .iter()
                .find(|p| self.offered_by_all(&p.name));
            let Some(vote) = vote else { continue };
            match votes.iter_mut().find(|(name, _)| *name == &*vote.name) {
                Some((_, count)) => *count += 1,
                None => votes.push((&vote.name, 1)),
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        let winner = votes.iter().find(|(_, count)| *count == most)?;
        Some(winner.0.into())
    }

    /// The next generation begins, with the members there are.
    pub(crate) fn next_generation(&mut self, wall_ms: i64) {
        // Java's int wraps here after 2^31 rebalances; a generation must not go back, so ours
        // stays.
        self.generation = self.generation.saturating_add(1);
        self.protocol = if self.members.is_empty() {
            None
        } else {
            self.select_protocol()
        };
        self.subscribed = self.subscribed_topics();
        let to = if self.members.is_empty() {
            State::Empty
        } else {
            State::CompletingRebalance
        };
        self.transition(to, wall_ms);
        self.sync_missing.clear();
        self.assignment_in_flight = false;
    }

    // ---- subscriptions ----

    /// Whether members speak the consumer's embedded protocol.
    pub(crate) fn is_consumer(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// Whether a member may read this topic: offsets of such topics are neither deleted nor
    /// expired.
    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.is_consumer(),
        }
    }

    /// What the members subscribe to, from their metadata; `None` when it can't be told.
    pub(crate) fn subscribed_topics(&self) -> Option<BTreeSet<Box<str>>> {
        if !self.is_consumer() {
            return None;
        }
        let mut topics = BTreeSet::new();
        if self.members.is_empty() {
            return Some(topics);
        }
        let protocol = self.protocol.as_deref()?;
        for member in self.members.values() {
            super::view::read_subscription(&member.metadata(protocol), &mut topics)?;
        }
        Some(topics)
    }
}
