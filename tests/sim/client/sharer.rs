//! A member of a share group: what it knows of itself, and the requests that it sends.

use super::deliveries::{ACCEPT, Asked, Bond, Deliveries, REJECT, RELEASE, RENEW, Said};
use crate::Check;
use crate::link::{Cx, Link};
use flumen_base::{Mono, Prng, Uuid};
use flumen_wire::messages::share_acknowledge_request as acknowledge;
use flumen_wire::messages::share_fetch_request as fetch;
use flumen_wire::messages::{
    FindCoordinatorRequest, ShareAcknowledgeRequest, ShareFetchRequest, ShareGroupHeartbeatRequest,
};
use std::collections::{BTreeMap, BTreeSet};

/// A heartbeat in so many milliseconds at least.
const BEAT_MS: i64 = 3_000;
/// Epoch of a heartbeat that leaves, and of a request that ends a session.
pub(crate) const LEAVES: i32 = -1;
/// No more records than asked for (`ShareAcquireMode`).
const STRICT: i8 = 1;

/// What was asked of the coordinator.
#[derive(Debug)]
pub(crate) enum Beat {
    Find,
    /// With this epoch.
    Beat(i32),
}

/// What was asked where the records are.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) asked: Asked,
    /// Partitions that records are wanted from.
    pub(crate) partitions: Vec<i32>,
    pub(crate) said: Vec<Said>,
    pub(crate) ends: bool,
    /// It is a ShareAcknowledge.
    pub(crate) only_says: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) bond: Bond,
    pub(crate) epoch: i32,
    pub(crate) partitions: Vec<i32>,
    /// Its end is on the way.
    ending: bool,
}

/// A member.
#[derive(Debug)]
pub(crate) struct Sharer {
    /// Its id; it has another one after it has left or crashed.
    pub(crate) id: String,
    pub(crate) beats: Link<Beat>,
    pub(crate) link: Link<Ask>,
    /// It knows its coordinator.
    pub(crate) found: bool,
    /// The next heartbeat says everything, and so does the answer.
    pub(crate) full: bool,
    /// Its epoch, if it is a member.
    pub(crate) epoch: Option<i32>,
    beat_at: Mono,
    pub(crate) assigned: Vec<i32>,
    pub(crate) session: Option<Session>,
    /// Sessions that this id had.
    sessions: u32,
    pub(crate) held: BTreeSet<(i32, i64)>,
    pub(crate) leaving: bool,
}

impl Sharer {
    pub(crate) fn new(id: String) -> Self {
        Self {
            beats: Link::new(format!("{id} beats")),
            link: Link::new(id.clone()),
            id,
            found: false,
            full: true,
            epoch: None,
            beat_at: Mono(0),
            assigned: Vec::new(),
            session: None,
            sessions: 0,
            held: BTreeSet::new(),
            leaving: false,
        }
    }

    /// The session that it has and keeps.
    pub(crate) fn bond(&self) -> Option<Bond> {
        let session = self.session.as_ref().filter(|s| !s.ending);
        session.map(|s| s.bond)
    }

    // ---- the coordinator ----

    /// The next thing that it wants of its coordinator, if there is one.
    pub(crate) fn beat(&mut self, cx: &mut Cx<'_>, group: &str, topic: &str) -> Check {
        let now = cx.now().mono;
        let joins = self.epoch.is_none();
        let leaves = self.leaving && self.session.is_none() && self.link.in_flight() == 0;
        let due = joins || leaves || now >= self.beat_at || cx.rng.one_in(20);
        if self.beats.in_flight() > 0 || !due || !self.beats.open(cx) {
            return Ok(());
        }
        if !self.found {
            let request = FindCoordinatorRequest {
                coordinator_keys: vec![group.to_owned().into()],
                ..Default::default()
            };
            return self.beats.send(cx, 5, &request, Some(Beat::Find));
        }
        self.beat_at = now.plus_ms(BEAT_MS);
        let full = !leaves && (joins || std::mem::take(&mut self.full));
        let epoch = match (self.epoch, leaves) {
            (Some(_), true) => LEAVES,
            (epoch, _) => epoch.unwrap_or(0),
        };
        let request = ShareGroupHeartbeatRequest {
            group_id: group.to_owned().into(),
            member_id: self.id.clone().into(),
            member_epoch: epoch,
            subscribed_topic_names: full.then(|| vec![topic.to_owned().into()]),
            ..Default::default()
        };
        self.beats.send(cx, 1, &request, Some(Beat::Beat(epoch)))
    }

    // ---- records ----

    /// Some of what it holds, and what it says of it.
    fn choose(&mut self, rng: &mut Prng, settling: bool, to: &mut Deliveries) -> Vec<Said> {
        let all = settling || rng.one_in(3);
        let one = rng.one_in(3);
        let mut kind = kind_of(rng, settling);
        let mut runs: Vec<(i32, i64, Vec<i8>)> = Vec::new();
        for place @ (partition, offset) in self.held.clone() {
            if !all && rng.one_in(2) {
                continue;
            }
            self.held.remove(&place);
            if !one {
                kind = kind_of(rng, settling);
            }
            match runs.last_mut() {
                Some((p, first, kinds))
                    if *p == partition && *first + kinds.len() as i64 == offset =>
                {
                    kinds.push(kind);
                }
                _ => runs.push((partition, offset, vec![kind])),
            }
        }
        let runs = runs.into_iter();
        runs.map(|(p, first, kinds)| to.say(p, first, kinds))
            .collect()
    }

    /// Sends the next request about records.
    pub(crate) fn ask(
        &mut self,
        cx: &mut Cx<'_>,
        (group, topic): (&str, Uuid),
        to: &mut Deliveries,
    ) -> Check {
        let at = cx.now().mono;
        let Some(session) = &self.session else {
            return self.begin_session(cx, (group, topic), to);
        };
        let (bond, moved) = (session.bond, session.partitions != self.assigned);
        let (settling, leaving) = (cx.settling, self.leaving);
        let ends = leaving || moved || (!settling && cx.rng.one_in(40));
        let says = !self.held.is_empty() && (settling || ends || cx.rng.one_in(2));
        let said = match says {
            true => self.choose(cx.rng, settling, to),
            false => Vec::new(),
        };
        let ask = Ask {
            asked: Asked {
                sent: to.tick(),
                at,
                bond,
            },
            partitions: Vec::new(),
            only_says: (!said.is_empty() || ends) && cx.rng.one_in(2),
            said,
            ends,
        };
        match ask.only_says {
            true => self.acknowledge(cx, (group, topic), ask),
            false => self.fetch(cx, (group, topic), ask),
        }
    }

    fn begin_session(
        &mut self,
        cx: &mut Cx<'_>,
        place: (&str, Uuid),
        to: &mut Deliveries,
    ) -> Check {
        if self.leaving || self.assigned.is_empty() {
            return Ok(());
        }
        let sent = to.tick();
        let bond = Bond {
            session: sent,
            firm: self.sessions == 0,
            life: cx.model.life,
        };
        self.sessions += 1;
        self.session = Some(Session {
            bond,
            epoch: 0,
            partitions: self.assigned.clone(),
            ending: false,
        });
        let at = cx.now().mono;
        let ask = Ask {
            asked: Asked { sent, at, bond },
            partitions: Vec::new(),
            said: Vec::new(),
            ends: false,
            only_says: false,
        };
        self.fetch(cx, place, ask)
    }

    /// The epoch of the next request of the session.
    fn next_epoch(&mut self, ends: bool) -> i32 {
        let Some(session) = &mut self.session else {
            return 0;
        };
        let epoch = session.epoch;
        session.epoch += 1;
        session.ending = ends;
        if ends { LEAVES } else { epoch }
    }

    fn fetch(&mut self, cx: &mut Cx<'_>, (group, topic): (&str, Uuid), mut ask: Ask) -> Check {
        let version = 1 + cx.rng.below(2) as i16;
        let epoch = self.next_epoch(ask.ends);
        let mut named: BTreeMap<i32, Vec<fetch::AcknowledgementBatch>> = BTreeMap::new();
        if let Some(session) = self.session.as_ref().filter(|_| !ask.ends) {
            ask.partitions.clone_from(&session.partitions);
            if epoch == 0 {
                named = session
                    .partitions
                    .iter()
                    .map(|p| (*p, Vec::new()))
                    .collect();
            }
        }
        for said in &ask.said {
            let batch = fetch::AcknowledgementBatch {
                first_offset: said.first,
                last_offset: said.last(),
                acknowledge_types: said.kinds.clone(),
            };
            named.entry(said.partition).or_default().push(batch);
        }
        let partitions = named
            .into_iter()
            .map(|(index, batches)| fetch::FetchPartition {
                partition_index: index,
                acknowledgement_batches: batches,
            });
        let partitions: Vec<_> = partitions.collect();
        let topics = match partitions.is_empty() {
            true => Vec::new(),
            false => vec![fetch::FetchTopic {
                topic_id: topic,
                partitions,
            }],
        };
        let wait_ms = match cx.settling || cx.rng.one_in(3) {
            true => 0,
            false => cx.rng.below(3_000) as i32,
        };
        let request = ShareFetchRequest {
            group_id: Some(group.to_owned().into()),
            member_id: Some(self.id.clone().into()),
            share_session_epoch: epoch,
            max_wait_ms: wait_ms,
            min_bytes: if cx.rng.one_in(5) { 500 } else { 1 },
            max_bytes: if cx.rng.one_in(4) { 600 } else { 1 << 20 },
            max_records: 1 + cx.rng.below(60) as i32,
            batch_size: 1 + cx.rng.below(60) as i32,
            share_acquire_mode: if version >= 2 && cx.rng.one_in(2) {
                STRICT
            } else {
                0
            },
            topics,
            ..Default::default()
        };
        self.link.send(cx, version, &request, Some(ask))
    }

    fn acknowledge(&mut self, cx: &mut Cx<'_>, (group, topic): (&str, Uuid), ask: Ask) -> Check {
        let epoch = self.next_epoch(ask.ends);
        let mut named: BTreeMap<i32, Vec<acknowledge::AcknowledgementBatch>> = BTreeMap::new();
        for said in &ask.said {
            let batch = acknowledge::AcknowledgementBatch {
                first_offset: said.first,
                last_offset: said.last(),
                acknowledge_types: said.kinds.clone(),
            };
            named.entry(said.partition).or_default().push(batch);
        }
        let partitions =
            named
                .into_iter()
                .map(|(index, batches)| acknowledge::AcknowledgePartition {
                    partition_index: index,
                    acknowledgement_batches: batches,
                });
        let renews = ask.said.iter().any(|said| said.kinds.contains(&RENEW));
        let request = ShareAcknowledgeRequest {
            group_id: Some(group.to_owned().into()),
            member_id: Some(self.id.clone().into()),
            share_session_epoch: epoch,
            is_renew_ack: renews,
            topics: vec![acknowledge::AcknowledgeTopic {
                topic_id: topic,
                partitions: partitions.collect(),
            }],
        };
        let version = if renews || cx.rng.one_in(2) { 2 } else { 1 };
        self.link.send(cx, version, &request, Some(ask))
    }

    /// Renews the lock of something that it holds.
    pub(crate) fn renew(
        &mut self,
        cx: &mut Cx<'_>,
        place: (&str, Uuid),
        to: &mut Deliveries,
    ) -> Check {
        let (Some(bond), Some((partition, offset))) = (self.bond(), self.held.first().copied())
        else {
            return Ok(());
        };
        let ask = Ask {
            asked: Asked {
                sent: to.tick(),
                at: cx.now().mono,
                bond,
            },
            partitions: Vec::new(),
            said: vec![to.say(partition, offset, vec![RENEW])],
            ends: false,
            only_says: true,
        };
        self.acknowledge(cx, place, ask)
    }
}

fn kind_of(rng: &mut Prng, settling: bool) -> i8 {
    match rng.below(10) {
        _ if settling => ACCEPT,
        0..=5 => ACCEPT,
        6..=8 => RELEASE,
        _ => REJECT,
    }
}
