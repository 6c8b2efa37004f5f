//! A client of a compacted topic: it writes few keys again and again, deletes some, and reads the
//! topic from its start to its end. What compaction may take, and what not, it knows itself.

use super::producer::TIMESTAMPS_MS;
use super::{Client, Spec, code, tp_of};
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::model::Tp;
use crate::trace::note;
use crate::{Check, shown};
use flumen_base::Prng;
use flumen_log::batch::{Batch, Batches, Records};
use flumen_log::{BatchBuilder, Compression};
use flumen_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use flumen_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use flumen_wire::messages::{FetchRequest, FetchResponse, ProduceRequest, ProduceResponse};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Keys that are written.
const KEYS: u64 = 12;
const UNFOLDED_MAX: usize = 1 << 20;
/// A read that goes on while segments are cleaned may miss a deletion; so many in a row may not.
const STALE_READS_MAX: u32 = 3;
/// After so many answers without a record there is none to come.
const EMPTY_READS: u32 = 3;

type Key = u64;

/// A record that was sent. Its timestamp is its number, and nobody else's.
#[derive(Debug)]
struct Written {
    key: Key,
    /// Nothing deletes the key.
    value: Option<Vec<u8>>,
    /// Where it is, once that is known.
    offset: Option<i64>,
}

#[derive(Debug)]
enum Ask {
    /// The first record's number, and how many there are.
    Produce(usize, usize),
    Fetch(i64),
}

/// One read of the whole topic.
#[derive(Debug)]
struct Pass {
    next: i64,
    until: i64,
    /// The last record of each key below `until`, as it was known when the read began.
    needed: BTreeMap<Key, (i64, usize)>,
    /// The last of each key that was read.
    seen: BTreeMap<Key, i64>,
    /// Answers without a record in a row: nothing may be left of the last offsets.
    empty: u32,
    /// Nothing is written any more.
    settled: bool,
}

/// The client.
pub(crate) struct Keyed {
    link: Link<Ask>,
    spec: Spec,
    failing_disk: bool,
    cuts: bool,
    written: Vec<Written>,
    /// Everything below is acked or was read.
    high: i64,
    pass: Option<Pass>,
    stale_reads: u32,
    /// The topic was read after the last write.
    rests: bool,
}

impl Keyed {
    pub(crate) fn new(spec: Spec, failing_disk: bool, cuts: bool) -> Self {
        Self {
            link: Link::new("keyed".to_owned()),
            spec,
            failing_disk,
            cuts,
            written: Vec::new(),
            high: 0,
            pass: None,
            stale_reads: 0,
            rests: false,
        }
    }

    // ---- writing ----

    fn produce(&mut self, cx: &mut Cx<'_>, tp: Tp) -> Check {
        let first = self.written.len();
        let count = 1 + cx.rng.below(5) as usize;
        let mut batch = BatchBuilder::new();
        for n in first..first + count {
            let record = Written {
                key: cx.rng.below(KEYS),
                value: (!cx.rng.one_in(6)).then(|| value(n, cx.rng)),
                offset: None,
            };
            let key = record.key.to_string();
            let timestamp = TIMESTAMPS_MS + n as i64;
            batch.push(timestamp, Some(key.as_bytes()), record.value.as_deref());
            self.written.push(record);
        }
        let bytes = match cx.rng.one_in(4) {
            true => batch.build_compressed(Compression::Lz4, 1).map_err(shown)?,
            false => batch.build().ok_or("an empty batch")?,
        };
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: 5000,
            topic_data: vec![TopicProduceData {
                name: self.spec.name.into(),
                topic_id: tp.0,
                partition_data: vec![PartitionProduceData {
                    index: tp.1,
                    records: Some(Cow::Owned(bytes.to_vec())),
                }],
            }],
            ..Default::default()
        };
        let version = 9 + cx.rng.below(5) as i16;
        let what = Ask::Produce(first, count);
        self.link.send(cx, version, &request, Some(what))
    }

    fn produced(&mut self, first: usize, count: usize, version: i16, body: &[u8]) -> Check {
        let response: ProduceResponse<'_> = decode(body, version)?;
        let topic = response.responses.first().ok_or("no topic in the answer")?;
        let result = topic.partition_responses.first();
        let result = result.ok_or("no partition in the answer")?;
        match result.error_code {
            0 => {}
            code::NOT_LEADER_OR_FOLLOWER | code::LEADER_NOT_AVAILABLE => return Ok(()),
            error if self.failing_disk && code::is_disk_trouble(error) => return Ok(()),
            _ => return Err(format!("keyed: {result:?}")),
        }
        for n in 0..count {
            self.stands(first + n, result.base_offset + n as i64)?;
        }
        Ok(())
    }

    /// A record is at this offset.
    fn stands(&mut self, n: usize, offset: i64) -> Check {
        let record = self.written.get_mut(n).ok_or("nobody wrote that")?;
        match record.offset.replace(offset) {
            Some(other) if other != offset => {
                Err(format!("keyed: record {n} is at {other} and at {offset}"))
            }
            _ => {
                self.high = self.high.max(offset + 1);
                Ok(())
            }
        }
    }

    // ---- reading ----

    fn begin_pass(&mut self, settled: bool) {
        let mut needed: BTreeMap<Key, (i64, usize)> = BTreeMap::new();
        for (n, record) in self.written.iter().enumerate() {
            if let Some(offset) = record.offset {
                let last = needed.entry(record.key).or_insert((offset, n));
                *last = (*last).max((offset, n));
            }
        }
        self.pass = Some(Pass {
            next: 0,
            until: self.high,
            needed,
            seen: BTreeMap::new(),
            empty: 0,
            settled,
        });
    }

    fn fetch(&mut self, cx: &mut Cx<'_>, tp: Tp, offset: i64) -> Check {
        let max_bytes = match cx.rng.one_in(3) {
            true => 1 + cx.rng.below(3_000) as i32,
            false => 1 << 20,
        };
        let request = FetchRequest {
            max_bytes: 1 << 24,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: self.spec.name.into(),
                topic_id: tp.0,
                partitions: vec![FetchPartition {
                    partition: tp.1,
                    fetch_offset: offset,
                    partition_max_bytes: max_bytes,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let version = if cx.rng.one_in(2) { 12 } else { 13 };
        self.link
            .send(cx, version, &request, Some(Ask::Fetch(offset)))
    }

    fn fetched(&mut self, cx: &mut Cx<'_>, offset: i64, version: i16, body: &[u8]) -> Check {
        let response: FetchResponse<'_> = decode(body, version)?;
        let topic = response.responses.first().ok_or("no topic in the answer")?;
        let data = topic
            .partitions
            .first()
            .ok_or("no partition in the answer")?;
        match data.error_code {
            0 => {}
            code::NOT_LEADER_OR_FOLLOWER | code::LEADER_NOT_AVAILABLE => return Ok(()),
            error if self.failing_disk && code::is_disk_trouble(error) => return Ok(()),
            error => return Err(format!("keyed: error {error} at {offset}")),
        }
        let records = data.records.as_deref().unwrap_or_default();
        note!(cx.trace, "keyed: {} bytes at {offset}", records.len());
        let mut next = offset;
        for batch in Batches::new(records) {
            let batch = batch.map_err(|e| format!("keyed: at {next}: {e}"))?;
            batch
                .check_crc()
                .map_err(|e| format!("keyed: at {next}: {e}"))?;
            if batch.header.last_offset() < next {
                return Err(format!("keyed: asked for {next}, got {:?}", batch.header));
            }
            self.read(cx, &batch, next)?;
            next = batch.header.last_offset() + 1;
        }
        if let Some(pass) = self.pass.as_mut().filter(|p| p.next == offset) {
            pass.empty = if next == offset { pass.empty + 1 } else { 0 };
            pass.next = next;
            // Whatever took the place of a record that is gone stood below what is the high
            // watermark now.
            let end = data.high_watermark.max(pass.until);
            if next >= end || pass.empty > EMPTY_READS {
                return self.end_pass();
            }
        }
        Ok(())
    }

    /// The records of a batch from an offset on.
    fn read(&mut self, cx: &mut Cx<'_>, batch: &Batch<'_>, from: i64) -> Check {
        let header = &batch.header;
        let section = batch.unfold(UNFOLDED_MAX).map_err(shown)?;
        for record in Records::new(&section, header.count()) {
            let record = record.map_err(shown)?;
            let offset = header.base_offset() + i64::from(record.offset_delta);
            let n = header.timestamp_of(&record) - TIMESTAMPS_MS;
            if offset < from {
                continue;
            }
            let n = usize::try_from(n).map_err(shown)?;
            let written = self.written.get(n).ok_or("nobody wrote that")?;
            let key = written.key.to_string();
            if record.key != Some(key.as_bytes()) || record.value != written.value.as_deref() {
                return Err(format!("keyed: {record:?} at {offset} is not record {n}"));
            }
            let key = written.key;
            self.stands(n, offset)?;
            cx.model.records_read += 1;
            if let Some(pass) = &mut self.pass {
                pass.seen.insert(key, offset);
            }
        }
        Ok(())
    }

    /// Of every key the last record that was known at the beginning was read, or a later one; or
    /// the key was deleted.
    fn end_pass(&mut self) -> Check {
        let Some(pass) = self.pass.take() else {
            return Ok(());
        };
        let mut stale = None;
        for (key, (offset, n)) in &pass.needed {
            let seen = pass.seen.get(key);
            if seen.is_some_and(|seen| seen >= offset) {
                continue;
            }
            let deleted = self.written.get(*n).is_some_and(|w| w.value.is_none());
            if deleted && seen.is_some() {
                stale = Some(format!(
                    "keyed: key {key} was deleted at {offset} and is still at {seen:?}"
                ));
            }
            let later = |w: &Written| {
                let later = w.offset.is_none_or(|at| at > *offset);
                w.key == *key && w.value.is_none() && later
            };
            if !deleted && !self.written.iter().any(later) {
                return Err(format!(
                    "keyed: the last of key {key}, record {n} at {offset}, is gone: {seen:?}"
                ));
            }
        }
        self.stale_reads = stale.as_ref().map_or(0, |_| self.stale_reads + 1);
        if let Some(stale) = stale
            && self.stale_reads > STALE_READS_MAX
        {
            return Err(stale);
        }
        self.rests = pass.settled && self.stale_reads == 0;
        Ok(())
    }
}

fn value(n: usize, rng: &mut Prng) -> Vec<u8> {
    let mut value = n.to_string().into_bytes();
    let len = match rng.below(10) {
        0 => rng.below(3_000),
        _ => rng.below(100),
    };
    value.resize(value.len() + len as usize, b'v');
    value
}

impl Client for Keyed {
    fn name(&self) -> &str {
        &self.link.name
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        while let Some(event) = self.link.poll(cx)? {
            if let Event::Answer(Sent { version, what, .. }, body) = event {
                match what {
                    Ask::Produce(first, count) => self.produced(first, count, version, &body)?,
                    Ask::Fetch(offset) => self.fetched(cx, offset, version, &body)?,
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        let specs = std::slice::from_ref(&self.spec);
        let Some(tp) = tp_of(cx, specs, (0, 0)) else {
            return Ok(());
        };
        if self.cuts && !cx.settling && self.link.is_open() && cx.rng.one_in(150) {
            self.link.close(cx);
            return Ok(());
        }
        if self.link.in_flight() > 0 || !self.link.open(cx) {
            return Ok(());
        }
        if !cx.settling && cx.rng.one_in(2) {
            return self.produce(cx, tp);
        }
        if self.pass.is_none() && !self.rests {
            self.begin_pass(cx.settling);
        }
        match self.pass.as_ref().map(|p| p.next) {
            Some(next) => self.fetch(cx, tp, next),
            None => Ok(()),
        }
    }

    fn settle(&mut self) {
        self.pass = None;
        self.rests = false;
    }

    fn left_to_do(&self, _cx: &Cx<'_>) -> Option<String> {
        let rests = self.rests && self.link.in_flight() == 0;
        (!rests).then(|| format!("{:?} of {}", self.pass, self.high))
    }
}
