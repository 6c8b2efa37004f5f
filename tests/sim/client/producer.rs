//! Producers: idempotent ones that retry with the same sequence numbers as real ones do, and simple
//! ones with any acks.

use super::{Client, Key, Spec, code, tp_of};
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::model::{BatchNo, Tp};
use crate::trace::note;
use crate::{Check, boot, shown};
use flumen_log::{BatchBuilder, Compression};
use flumen_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use flumen_wire::messages::produce_response::PartitionProduceResponse;
use flumen_wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, InitProducerIdRequest, InitProducerIdResponse,
    ProduceRequest, ProduceResponse,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

/// Requests in flight.
pub(crate) const IN_FLIGHT_MAX: usize = 5;
/// Record timestamps begin here: in the past of every clock jump.
pub(crate) const TIMESTAMPS_MS: i64 = boot::WALL_START_MS - 3 * 3_600_000;

#[derive(Debug)]
enum Ask {
    ApiVersions,
    Init,
    Produce(Vec<(Key, Tp, BatchNo)>),
}

#[derive(Debug)]
struct Out {
    no: BatchNo,
    in_flight: bool,
    /// The life of the process in which it was first sent.
    life: u32,
}

#[derive(Debug)]
struct PartState {
    tp: Tp,
    next_sequence: i32,
    unacked: VecDeque<Out>,
    /// A batch failed: those in flight come back first, then all are sent again.
    draining: bool,
    /// Power losses before the producer id was first used here.
    losses: u32,
}

/// What kind of producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) idempotent: bool,
    pub(crate) acks: i16,
    /// Batches of a partition that are not acked, at most.
    pub(crate) unacked_max: usize,
    /// The disk fails now and then, so that a first batch may fail and its successor be taken.
    pub(crate) failing_disk: bool,
    /// It disconnects now and then, and gives up on slow answers.
    pub(crate) cuts: bool,
}

/// A producer.
pub(crate) struct Producer {
    link: Link<Ask>,
    specs: Vec<Spec>,
    style: Style,
    id: Option<i64>,
    parts: BTreeMap<Key, PartState>,
    produced: u64,
    /// Gives up on requests after so many milliseconds.
    timeout_ms: u64,
}

impl Producer {
    pub(crate) fn new(name: String, specs: Vec<Spec>, style: Style, timeout_ms: u64) -> Self {
        Self {
            link: Link::new(name),
            specs,
            style,
            id: None,
            parts: BTreeMap::new(),
            produced: 0,
            timeout_ms,
        }
    }

    fn build(&mut self, cx: &mut Cx<'_>, sequence: i32) -> Check<(bytes::Bytes, (i64, i64))> {
        let mut batch = BatchBuilder::new();
        if let (true, Some(id)) = (self.style.idempotent, self.id) {
            batch = batch.producer(id, 0, sequence);
        }
        let count = 1 + cx.rng.below(4);
        let first_timestamp = TIMESTAMPS_MS + self.produced as i64 + 1;
        for _ in 0..count {
            self.produced += 1;
            let text = format!("{}-{}", self.link.name, self.produced);
            let len = match cx.rng.below(12) {
                0 => cx.rng.below(6_000) as usize,
                _ => cx.rng.below(120) as usize,
            };
            let mut value = Vec::with_capacity(len + 8);
            while value.len() < len {
                value.extend_from_slice(&cx.rng.next_u64().to_be_bytes());
            }
            let timestamp = TIMESTAMPS_MS + self.produced as i64;
            batch.push(timestamp, Some(text.as_bytes()), Some(&value));
        }
        let bytes = match cx.rng.below(8) {
            0 => batch.build_compressed(Compression::Lz4, 1).map_err(shown)?,
            1 => batch
                .build_compressed(Compression::Zstd, 1)
                .map_err(shown)?,
            _ => batch.build().ok_or("an empty batch")?,
        };
        Ok((bytes, (count as i64, first_timestamp)))
    }

    /// The next batch of a partition: one that must be sent again, or a new one.
    fn next_batch(&mut self, cx: &mut Cx<'_>, key: Key) -> Check<Option<(Tp, BatchNo)>> {
        let Some(tp) = tp_of(cx, &self.specs, key) else {
            self.parts.remove(&key);
            return Ok(None);
        };
        let floor = cx.model.floor(tp);
        let fresh = |tp| PartState {
            tp,
            next_sequence: 0,
            unacked: VecDeque::new(),
            draining: false,
            losses: floor.losses,
        };
        let part = self.parts.entry(key).or_insert_with(|| fresh(tp));
        if part.tp != tp {
            *part = fresh(tp);
        }
        if part.draining {
            if part.unacked.iter().any(|o| o.in_flight) {
                return Ok(None);
            }
            part.draining = false;
        }
        if let Some(again) = part.unacked.iter_mut().find(|o| !o.in_flight) {
            again.in_flight = true;
            return Ok(Some((tp, again.no)));
        }
        if cx.settling || part.unacked.len() >= self.style.unacked_max {
            return Ok(None);
        }
        let sequence = part.next_sequence;
        let (bytes, (count, from)) = self.build(cx, sequence)?;
        let idempotent = self.style.idempotent;
        let no = cx.model.produce(tp, bytes, (count, from), idempotent);
        let (name, id) = (&self.link.name, self.id);
        note!(
            cx.trace,
            "{name} makes batch {no}: {count} from {id:?}/{sequence}"
        );
        if let Some(part) = self.parts.get_mut(&key) {
            part.next_sequence = sequence.wrapping_add(count as i32);
            if self.style.acks != 0 {
                part.unacked.push_back(Out {
                    no,
                    in_flight: true,
                    life: cx.model.life,
                });
            }
        }
        Ok(Some((tp, no)))
    }

    fn send_batches(&mut self, cx: &mut Cx<'_>) -> Check {
        // From version 13 on topics go by id, which is the only way not to meet a younger topic of
        // the same name.
        let by_id = self.specs.iter().any(|s| s.comes_and_goes);
        let version = if by_id {
            13
        } else {
            7 + cx.rng.below(7) as i16
        };
        let mut batches: Vec<(Key, Tp, BatchNo)> = Vec::new();
        let mut topics: BTreeMap<usize, TopicProduceData<'_>> = BTreeMap::new();
        for _ in 0..=cx.rng.below(3) {
            let topic = cx.rng.below(self.specs.len() as u64) as usize;
            let partition = cx.rng.below(self.specs[topic].partitions as u64) as i32;
            let key = (topic, partition);
            if batches.iter().any(|(k, ..)| *k == key) {
                continue;
            }
            let Some((tp, no)) = self.next_batch(cx, key)? else {
                continue;
            };
            note!(cx.trace, "{}: batch {no} for {tp:?}", self.link.name);
            batches.push((key, tp, no));
            let data = topics.entry(topic).or_insert_with(|| TopicProduceData {
                name: self.specs[topic].name.into(),
                topic_id: tp.0,
                ..Default::default()
            });
            data.partition_data.push(PartitionProduceData {
                index: partition,
                records: Some(Cow::Owned(cx.model.batch(no).bytes.to_vec())),
            });
        }
        if batches.is_empty() {
            return Ok(());
        }
        let request = ProduceRequest {
            acks: self.style.acks,
            timeout_ms: 5000,
            topic_data: topics.into_values().collect(),
            ..Default::default()
        };
        let what = (self.style.acks != 0).then_some(Ask::Produce(batches));
        self.link.send(cx, version, &request, what)
    }

    fn produced(&mut self, cx: &mut Cx<'_>, sent: &Sent<Ask>, body: &[u8]) -> Check {
        let Ask::Produce(batches) = &sent.what else {
            return Ok(());
        };
        let response: ProduceResponse<'_> = decode(body, sent.version)?;
        let mut left = batches.clone();
        let mut reset = false;
        for topic in &response.responses {
            for result in &topic.partition_responses {
                let this = |(key, tp, _): &(Key, Tp, BatchNo)| {
                    key.1 == result.index
                        && (tp.0 == topic.topic_id || self.specs[key.0].name == topic.name)
                };
                let at = left.iter().position(this);
                let (key, tp, no) = left.swap_remove(at.ok_or("an answer to nothing")?);
                reset |= self.result(cx, key, tp, no, result)?;
            }
        }
        if !left.is_empty() {
            return Err(format!("{} is not told of {left:?}", self.link.name));
        }
        if reset {
            self.id = None;
            self.parts.clear();
        }
        Ok(())
    }

    /// The outcome for one batch; true if the producer must begin anew with another id.
    fn result(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        tp: Tp,
        no: BatchNo,
        result: &PartitionProduceResponse<'_>,
    ) -> Check<bool> {
        let (name, error, base) = (&self.link.name, result.error_code, result.base_offset);
        note!(
            cx.trace,
            "{name}: batch {no} of {tp:?}: error {error}, base offset {base}"
        );
        if error == 0 {
            cx.model.acked(tp, no, base)?;
        }
        let style = self.style;
        let Some(part) = self.parts.get_mut(&key).filter(|p| p.tp == tp) else {
            return Ok(false);
        };
        let Some(at) = part.unacked.iter().position(|o| o.no == no) else {
            return Ok(false);
        };
        match result.error_code {
            0 => {
                if at > 0 && style.idempotent && !style.failing_disk {
                    return Err(format!(
                        "{name}: batch {no} was taken before its predecessor"
                    ));
                }
                part.unacked.remove(at);
            }
            code::UNKNOWN_TOPIC_OR_PARTITION | code::UNKNOWN_TOPIC_ID
                if !self.specs[key.0].comes_and_goes =>
            {
                return Err(format!("{name}: {tp:?} is unknown: {result:?}"));
            }
            code::KAFKA_STORAGE_ERROR | code::NOT_ENOUGH_REPLICAS if !style.failing_disk => {
                return Err(format!("{name}: {result:?}"));
            }
            code::OUT_OF_ORDER_SEQUENCE_NUMBER
            | code::UNKNOWN_PRODUCER_ID
            | code::DUPLICATE_SEQUENCE_NUMBER => {
                // Snapshots of producers hold the last batch of each only (it is Kafka's format),
                // so that a batch with successors may not be recognized after a restart.
                let restarted = part.unacked[at].life != cx.model.life && style.unacked_max > 1;
                let lost = restarted || cx.model.floor(tp).losses != part.losses;
                if at == 0 && !lost && !style.failing_disk {
                    return Err(format!(
                        "{name}: batch {no}, the first that is not acked, is refused: {result:?}"
                    ));
                }
                if at == 0 {
                    return Ok(true);
                }
                part.unacked[at].in_flight = false;
                part.draining = true;
            }
            code::UNKNOWN_TOPIC_OR_PARTITION
            | code::UNKNOWN_TOPIC_ID
            | code::LEADER_NOT_AVAILABLE
            | code::NOT_LEADER_OR_FOLLOWER
            | code::KAFKA_STORAGE_ERROR
            | code::NOT_ENOUGH_REPLICAS => {
                part.unacked[at].in_flight = false;
                part.draining = true;
            }
            _ => return Err(format!("{name}: batch {no}: {result:?}")),
        }
        Ok(false)
    }

    fn answer(&mut self, cx: &mut Cx<'_>, sent: &Sent<Ask>, body: &[u8]) -> Check {
        match sent.what {
            Ask::Produce(_) => self.produced(cx, sent, body),
            Ask::ApiVersions => {
                let response: ApiVersionsResponse<'_> = decode(body, sent.version)?;
                match response.error_code {
                    0 => Ok(()),
                    _ => Err(format!("api versions: {response:?}")),
                }
            }
            Ask::Init => {
                let response: InitProducerIdResponse = decode(body, sent.version)?;
                match response.error_code {
                    0 => {
                        self.id = Some(response.producer_id);
                        cx.model.new_producer_id(response.producer_id)
                    }
                    code::COORDINATOR_LOAD_IN_PROGRESS | code::NOT_CONTROLLER => Ok(()),
                    _ => Err(format!("no producer id: {response:?}")),
                }
            }
        }
    }

    fn all_back(&mut self) {
        for part in self.parts.values_mut() {
            part.draining = false;
            for out in &mut part.unacked {
                out.in_flight = false;
            }
        }
    }
}

impl Client for Producer {
    fn name(&self) -> &str {
        &self.link.name
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        while let Some(event) = self.link.poll(cx)? {
            match event {
                Event::Answer(sent, body) => self.answer(cx, &sent, &body)?,
                Event::Closed(_) => self.all_back(),
            }
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        let late = self.link.waits_longer_than(cx, self.timeout_ms);
        let cut = late || cx.rng.one_in(150);
        if self.style.cuts && !cx.settling && self.link.is_open() && cut {
            self.link.close(cx);
            self.all_back();
            return Ok(());
        }
        if !self.link.is_open() {
            if self.link.open(cx) && cx.rng.one_in(2) {
                let request = ApiVersionsRequest {
                    client_software_name: "sim".into(),
                    client_software_version: "1".into(),
                };
                let version = cx.rng.below(5) as i16;
                self.link
                    .send(cx, version, &request, Some(Ask::ApiVersions))?;
            }
            return Ok(());
        }
        if self.style.idempotent && self.id.is_none() {
            if self.link.in_flight() == 0 && !cx.settling {
                let request = InitProducerIdRequest {
                    transactional_id: None,
                    ..Default::default()
                };
                let version = cx.rng.below(6) as i16;
                return self.link.send(cx, version, &request, Some(Ask::Init));
            }
            return Ok(());
        }
        if self.link.in_flight() < IN_FLIGHT_MAX {
            self.send_batches(cx)?;
        }
        Ok(())
    }

    fn left_to_do(&self, cx: &Cx<'_>) -> Option<String> {
        // What rots may be refused for good, and is sent again and again.
        let rotten = |ask: &&Ask| match ask {
            Ask::Produce(batches) => batches.iter().all(|(_, tp, _)| cx.model.is_rotten(*tp)),
            _ => false,
        };
        if let Some(ask) = self.link.pending().find(|ask| !rotten(ask)) {
            return Some(format!("waits for {ask:?}"));
        }
        let open = self.parts.iter().find(|(key, part)| {
            !part.unacked.is_empty()
                && !cx.model.is_rotten(part.tp)
                && tp_of(cx, &self.specs, **key) == Some(part.tp)
        });
        open.map(|(key, part)| format!("{key:?}: {:?} are not acked", part.unacked))
    }
}
