//! Consumers: long polls with and without sessions, over all partitions, from the start to the end
//! and again.

use super::{Client, Key, Spec, code, tp_of};
use crate::Check;
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::model::{Floor, Tp};
use crate::trace::note;
use flumen_base::Uuid;
use flumen_log::batch::{BatchError, Batches};
use flumen_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use flumen_wire::messages::fetch_response::PartitionData;
use flumen_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use flumen_wire::messages::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use std::collections::BTreeMap;

/// Versions worth trying: each change of the format.
const VERSIONS: [i16; 10] = [4, 5, 6, 7, 9, 11, 12, 13, 15, 18];
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

#[derive(Debug)]
struct Asked {
    tp: Tp,
    offset: i64,
    floor: Floor,
}

#[derive(Debug)]
enum Ask {
    Fetch(BTreeMap<Key, Asked>),
    List(Key, Tp, i64, Floor),
}

#[derive(Debug)]
struct Position {
    tp: Tp,
    offset: i64,
    /// What the session has.
    in_session: Option<i64>,
    /// The offset was out of range: the earliest is asked for.
    lost: bool,
}

/// What a consumer has to expect, and does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) failing_disk: bool,
    /// It disconnects now and then, and gives up on requests after so many milliseconds.
    pub(crate) cuts: bool,
    pub(crate) timeout_ms: u64,
}

/// A consumer.
pub(crate) struct Consumer {
    link: Link<Ask>,
    specs: Vec<Spec>,
    version: i16,
    sessions: bool,
    session: (i32, i32),
    positions: BTreeMap<Key, Position>,
    manner: Manner,
    settling: bool,
}

impl Consumer {
    pub(crate) fn new(name: String, specs: Vec<Spec>, version_from: u64, manner: Manner) -> Self {
        let version = VERSIONS[version_from as usize % VERSIONS.len()];
        Self {
            link: Link::new(name),
            specs,
            version,
            sessions: version >= 7 && !version_from.is_multiple_of(4),
            session: (0, 0),
            positions: BTreeMap::new(),
            manner,
            settling: false,
        }
    }

    fn keys(&self) -> Vec<Key> {
        let topics = self.specs.iter().enumerate();
        topics
            .flat_map(|(t, s)| (0..s.partitions).map(move |p| (t, p)))
            .collect()
    }

    /// Brings the positions up to date with the topics that exist; returns those that are gone.
    fn refresh(&mut self, cx: &Cx<'_>) -> Vec<(Key, Tp)> {
        let mut gone = Vec::new();
        for key in self.keys() {
            let tp = tp_of(cx, &self.specs, key);
            if let Some(position) = self.positions.get(&key)
                && tp != Some(position.tp)
            {
                if position.in_session.is_some() {
                    gone.push((key, position.tp));
                }
                self.positions.remove(&key);
            }
            if let Some(tp) = tp {
                self.positions.entry(key).or_insert(Position {
                    tp,
                    offset: 0,
                    in_session: None,
                    lost: false,
                });
            }
        }
        gone
    }

    fn topic_of(&self, (topic, _): Key, id: Uuid) -> FetchTopic<'static> {
        FetchTopic {
            topic: self.specs[topic].name.into(),
            topic_id: id,
            ..Default::default()
        }
    }

    fn fetch(&mut self, cx: &mut Cx<'_>) -> Check {
        let gone = self.refresh(cx);
        if !gone.is_empty() && self.version < 13 {
            // By name the session can't tell the old topic from the new.
            self.end_session();
        }
        let incremental = self.sessions && self.session.0 != 0;
        let mut topics: BTreeMap<usize, FetchTopic<'_>> = BTreeMap::new();
        let mut asked = BTreeMap::new();
        let keys: Vec<Key> = self.positions.keys().copied().collect();
        for key in keys {
            let topic = self.positions.get(&key).map(|p| self.topic_of(key, p.tp.0));
            let (Some(topic), Some(position)) = (topic, self.positions.get_mut(&key)) else {
                continue;
            };
            let what = Asked {
                tp: position.tp,
                offset: position.offset,
                floor: cx.model.floor(position.tp),
            };
            asked.insert(key, what);
            if incremental && position.in_session == Some(position.offset) {
                continue;
            }
            position.in_session = self.sessions.then_some(position.offset);
            let max = if cx.rng.one_in(3) {
                1 + cx.rng.below(3_000)
            } else {
                1 << 20
            };
            topics
                .entry(key.0)
                .or_insert(topic)
                .partitions
                .push(FetchPartition {
                    partition: key.1,
                    fetch_offset: position.offset,
                    partition_max_bytes: max as i32,
                    ..Default::default()
                });
        }
        if asked.is_empty() {
            return Ok(());
        }
        let forgotten = gone.into_iter().map(|(key, tp)| ForgottenTopic {
            topic: self.specs[key.0].name.into(),
            topic_id: tp.0,
            partitions: vec![key.1],
        });
        let mut topics: Vec<FetchTopic<'_>> = topics.into_values().collect();
        if !topics.is_empty() {
            // Whoever comes first gets the bytes: everybody in turn.
            let turn = cx.rng.below(topics.len() as u64) as usize;
            topics.rotate_left(turn);
        }
        let response_max = if cx.rng.one_in(4) {
            1 + cx.rng.below(5_000)
        } else {
            1 << 24
        };
        let request = FetchRequest {
            max_wait_ms: if cx.rng.one_in(3) {
                0
            } else {
                cx.rng.below(1_500) as i32
            },
            min_bytes: if cx.rng.one_in(5) {
                1 + cx.rng.below(4_000) as i32
            } else {
                1
            },
            max_bytes: response_max as i32,
            isolation_level: cx.rng.below(2) as i8,
            session_id: self.session.0,
            session_epoch: if self.sessions { self.session.1 } else { -1 },
            topics,
            forgotten_topics_data: if incremental {
                forgotten.collect()
            } else {
                Vec::new()
            },
            ..Default::default()
        };
        self.link
            .send(cx, self.version, &request, Some(Ask::Fetch(asked)))
    }

    fn list(&mut self, cx: &mut Cx<'_>, key: Key, tp: Tp, timestamp: i64) -> Check {
        let floor = cx.model.floor(tp);
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: self.specs[key.0].name.into(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: key.1,
                    timestamp,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let version = 1 + cx.rng.below(10) as i16;
        let what = Ask::List(key, tp, timestamp, floor);
        self.link.send(cx, version, &request, Some(what))
    }

    fn fetched(
        &mut self,
        cx: &mut Cx<'_>,
        mut asked: BTreeMap<Key, Asked>,
        version: i16,
        body: &[u8],
    ) -> Check {
        let response: FetchResponse<'_> = decode(body, version)?;
        match response.error_code {
            0 => {}
            code::FETCH_SESSION_ID_NOT_FOUND | code::INVALID_FETCH_SESSION_EPOCH => {
                self.end_session();
                return Ok(());
            }
            _ => {
                return Err(format!(
                    "{}: fetch error {}",
                    self.link.name, response.error_code
                ));
            }
        }
        if self.sessions {
            self.session = match (self.session, response.session_id) {
                (_, 0) => {
                    self.end_session();
                    (0, 0)
                }
                ((0, _), id) => (id, 1),
                ((had, epoch), id) if had == id => (id, epoch + 1),
                ((had, _), id) => return Err(format!("session {had} became {id}")),
            };
        }
        for topic in &response.responses {
            for data in &topic.partitions {
                let this = |(key, asked): &(&Key, &Asked)| {
                    key.1 == data.partition_index
                        && (asked.tp.0 == topic.topic_id || self.specs[key.0].name == topic.topic)
                };
                let key = asked.iter().find(this).map(|(key, _)| *key);
                let key = key.ok_or_else(|| format!("{}: data not asked for", self.link.name))?;
                let Some(what) = asked.remove(&key) else {
                    continue;
                };
                self.partition(cx, key, &what, data)?;
            }
        }
        Ok(())
    }

    fn partition(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        asked: &Asked,
        data: &PartitionData<'_>,
    ) -> Check {
        let position = self.positions.get_mut(&key).filter(|p| p.tp == asked.tp);
        // By name a topic that was made again may have answered.
        if self.version < 13 && tp_of(cx, &self.specs, key) != Some(asked.tp) {
            return Ok(());
        }
        let (name, tp) = (&self.link.name, asked.tp);
        match data.error_code {
            0 => {}
            code::OFFSET_OUT_OF_RANGE => {
                if let Some(position) = position {
                    position.lost = true;
                }
                return cx.model.out_of_range(tp, asked.floor, asked.offset);
            }
            code::UNKNOWN_TOPIC_OR_PARTITION | code::UNKNOWN_TOPIC_ID
                if self.specs[key.0].comes_and_goes =>
            {
                return Ok(());
            }
            error if self.manner.failing_disk && code::is_disk_trouble(error) => return Ok(()),
            code::NOT_LEADER_OR_FOLLOWER => return Ok(()),
            error => return Err(format!("{name}: error {error} for {tp:?}")),
        }
        let (high, start) = (data.high_watermark, data.log_start_offset);
        let (at, len) = (asked.offset, data.records.as_deref().map_or(0, <[u8]>::len));
        note!(
            cx.trace,
            "{name}: {tp:?} from {at}: {len} bytes, log {start}..{high}"
        );
        cx.model.bounds(tp, asked.floor, high, start)?;
        if data.last_stable_offset > high {
            return Err(format!(
                "{name}: {tp:?}: last stable above {high}: {data:?}"
            ));
        }
        let rotten = cx.model.is_rotten(tp);
        let mut batches = Vec::new();
        for batch in Batches::new(data.records.as_deref().unwrap_or_default()) {
            match batch {
                // A real consumer looks at the CRC as well.
                Ok(b) if rotten && b.check_crc().is_err() => break,
                Err(_) if rotten => break,
                Ok(b) => batches.push((b.header.base_offset(), b.header.last_offset(), b.bytes())),
                // A batch may be cut at the limit.
                Err(BatchError::Truncated) if !batches.is_empty() => break,
                Err(error) => return Err(format!("{name}: {tp:?} at {}: {error}", asked.offset)),
            }
        }
        let next = cx.model.fetched(tp, asked.offset, &batches)?;
        // After a power loss a position may lie above what is left.
        if !batches.is_empty() && next > high && !rotten {
            return Err(format!(
                "{name}: {tp:?}: read up to {next}, high watermark {high}"
            ));
        }
        if let Some(position) = position
            && position.offset == asked.offset
        {
            position.offset = next;
        }
        Ok(())
    }

    fn listed(
        &mut self,
        cx: &mut Cx<'_>,
        (key, tp, timestamp, floor): (Key, Tp, i64, Floor),
        version: i16,
        body: &[u8],
    ) -> Check {
        let response: ListOffsetsResponse<'_> = decode(body, version)?;
        let topic = response.topics.first().ok_or("no topic in the answer")?;
        let result = topic
            .partitions
            .first()
            .ok_or("no partition in the answer")?;
        if tp_of(cx, &self.specs, key) != Some(tp) {
            return Ok(());
        }
        match result.error_code {
            0 => {}
            code::NOT_LEADER_OR_FOLLOWER => return Ok(()),
            error if self.manner.failing_disk && code::is_disk_trouble(error) => return Ok(()),
            code::UNKNOWN_TOPIC_OR_PARTITION if self.specs[key.0].comes_and_goes => {
                return Ok(());
            }
            _ => return Err(format!("{}: {result:?}", self.link.name)),
        }
        match timestamp {
            LATEST => cx.model.bounds(tp, floor, result.offset, -1),
            _ => {
                if let Some(position) = self.positions.get_mut(&key)
                    && position.tp == tp
                {
                    position.offset = result.offset;
                    position.lost = false;
                }
                cx.model.bounds(tp, floor, -1, result.offset)
            }
        }
    }

    fn end_session(&mut self) {
        self.session = (0, 0);
        for position in self.positions.values_mut() {
            position.in_session = None;
        }
    }
}

impl Client for Consumer {
    fn name(&self) -> &str {
        &self.link.name
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        while let Some(event) = self.link.poll(cx)? {
            match event {
                Event::Answer(Sent { version, what, .. }, body) => match what {
                    Ask::Fetch(asked) => self.fetched(cx, asked, version, &body)?,
                    Ask::List(key, tp, at, floor) => {
                        self.listed(cx, (key, tp, at, floor), version, &body)?;
                    }
                },
                Event::Closed(_) => self.end_session(),
            }
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        let late = self.link.waits_longer_than(cx, self.manner.timeout_ms);
        let cut = late || cx.rng.one_in(200);
        if self.manner.cuts && !cx.settling && self.link.is_open() && cut {
            self.link.close(cx);
            self.end_session();
            return Ok(());
        }
        if self.link.in_flight() > 0 || !self.link.open(cx) {
            return Ok(());
        }
        // What rots may be refused for good: the other partitions are read all the same.
        let (model, rng) = (&*cx.model, &mut *cx.rng);
        let may_wait = |p: &Position| model.is_rotten(p.tp);
        let mut positions = self.positions.iter();
        let lost = positions.find(|(_, p)| p.lost && !(may_wait(p) && rng.one_in(2)));
        if let Some((key, tp)) = lost.map(|(key, p)| (*key, p.tp)) {
            return match tp_of(cx, &self.specs, key) == Some(tp) {
                true => self.list(cx, key, tp, EARLIEST),
                false => {
                    self.positions.remove(&key);
                    self.end_session();
                    Ok(())
                }
            };
        }
        if !cx.settling && cx.rng.one_in(15) {
            let keys = self.keys();
            let key = keys[cx.rng.below(keys.len() as u64) as usize];
            if cx.rng.one_in(3) {
                if let Some(position) = self.positions.get_mut(&key) {
                    position.offset = 0;
                }
            } else if let Some(tp) = tp_of(cx, &self.specs, key) {
                return self.list(cx, key, tp, LATEST);
            }
        }
        self.fetch(cx)
    }

    fn settle(&mut self) {
        self.settling = true;
        for position in self.positions.values_mut() {
            position.offset = 0;
        }
    }

    fn left_to_do(&self, cx: &Cx<'_>) -> Option<String> {
        for key in self.keys() {
            let Some(tp) = tp_of(cx, &self.specs, key) else {
                continue;
            };
            if cx.model.is_rotten(tp) {
                continue;
            }
            let high = cx.model.floor(tp).high;
            match self.positions.get(&key) {
                Some(p) if p.tp == tp && !p.lost && p.offset >= high => {}
                at => return Some(format!("{key:?}: is at {at:?}, high watermark {high}")),
            }
        }
        None
    }
}
