//! A client with a transactional id: it writes records of a transaction to several partitions,
//! commits or aborts, and reads what is committed. Of a transaction all is seen, or nothing.

mod reads;

use super::producer::TIMESTAMPS_MS;
use super::{Client, Spec, code, tp_of};
use crate::link::{Cx, Event, Link, Sent, decode};
use crate::trace::note;
use crate::{Check, shown};
use flumen_base::Uuid;
use flumen_log::BatchBuilder;
use flumen_log::batch::{Batch, Batches, Records};
use flumen_wire::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use flumen_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use flumen_wire::messages::fetch_response::PartitionData;
use flumen_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use flumen_wire::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse,
    FetchRequest, FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Coordinators of transactions (FindCoordinator).
const TRANSACTION: i8 = 1;
const UNFOLDED_MAX: usize = 1 << 20;

/// What has become of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
    /// It was to be committed, and no answer came: all of it, or nothing.
    Either,
    /// The power failed, and with it the coordinator's memory.
    Any,
}

/// A record that was sent. Its key is its writer's name and its number.
#[derive(Debug)]
struct Written {
    txn: usize,
    partition: i32,
    offset: Option<i64>,
    /// Its batch was not taken, and another with its sequence numbers went in its place.
    refused: bool,
}

#[derive(Debug)]
enum Ask {
    Find,
    Init,
    Add(Vec<i32>),
    Produce(i32, usize, usize),
    End(bool),
    Fetch(i32, i64),
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// It does not know its coordinator.
    Lost,
    /// It has no producer id, or one that is not good any more.
    Found,
    /// No transaction is open.
    Ready,
    /// One is: in these partitions, with so many batches to come, then to be committed or not.
    Open(Vec<i32>, u64, bool),
}

/// A read of all partitions, one after the other.
#[derive(Debug, Default)]
struct Pass {
    partition: i32,
    next: i64,
    /// Where the read of each partition ended, and the high watermark then.
    ended: Vec<(i64, i64)>,
    seen: BTreeSet<usize>,
}

/// The client.
pub(crate) struct Ledger {
    link: Link<Ask>,
    spec: Spec,
    /// Partitions add themselves, and each transaction has an epoch (KIP-890).
    modern: bool,
    failing_disk: bool,
    cuts: bool,
    stage: Stage,
    /// Another one after each power loss: what was given to an id may be forgotten, and its epoch
    /// be given again, under which partitions know batches already.
    transactional_id: String,
    id: (i64, i16),
    sequences: BTreeMap<i32, i32>,
    txns: Vec<Fate>,
    written: Vec<Written>,
    pass: Option<Pass>,
    power_losses: u32,
    /// Everything was read after the last transaction.
    rests: bool,
}

impl Ledger {
    pub(crate) fn new(
        name: &str,
        spec: Spec,
        modern: bool,
        (failing_disk, cuts): (bool, bool),
    ) -> Self {
        Self {
            link: Link::new(name.to_owned()),
            spec,
            modern,
            failing_disk,
            cuts,
            stage: Stage::Lost,
            transactional_id: name.to_owned(),
            id: (-1, -1),
            sequences: BTreeMap::new(),
            txns: Vec::new(),
            written: Vec::new(),
            pass: None,
            power_losses: 0,
            rests: false,
        }
    }

    // ---- writing ----

    /// The next step towards the end of a transaction.
    fn write(&mut self, cx: &mut Cx<'_>, topic: Uuid) -> Check {
        let (id, epoch) = self.id;
        match &mut self.stage {
            Stage::Lost => {
                let request = FindCoordinatorRequest {
                    key: self.transactional_id.clone().into(),
                    key_type: TRANSACTION,
                    ..Default::default()
                };
                self.link.send(cx, 3, &request, Some(Ask::Find))
            }
            Stage::Found => {
                let request = InitProducerIdRequest {
                    transactional_id: Some(self.transactional_id.clone().into()),
                    transaction_timeout_ms: 60_000,
                    ..Default::default()
                };
                let version = if self.modern { 5 } else { 4 };
                self.link.send(cx, version, &request, Some(Ask::Init))
            }
            Stage::Ready if cx.settling => Ok(()),
            Stage::Ready => {
                let all = 0..self.spec.partitions;
                let mut partitions: Vec<i32> = all.filter(|_| cx.rng.one_in(2)).collect();
                if partitions.is_empty() {
                    partitions.push(0);
                }
                if self.modern {
                    self.begin(cx, partitions);
                    return Ok(());
                }
                let request = AddPartitionsToTxnRequest {
                    v3_and_below_transactional_id: self.transactional_id.clone().into(),
                    v3_and_below_producer_id: id,
                    v3_and_below_producer_epoch: epoch,
                    v3_and_below_topics: vec![AddPartitionsToTxnTopic {
                        name: self.spec.name.into(),
                        partitions: partitions.clone(),
                    }],
                    ..Default::default()
                };
                self.link.send(cx, 3, &request, Some(Ask::Add(partitions)))
            }
            Stage::Open(_, 0, commit) => {
                let request = EndTxnRequest {
                    transactional_id: self.transactional_id.clone().into(),
                    producer_id: id,
                    producer_epoch: epoch,
                    committed: *commit,
                };
                let what = Ask::End(*commit);
                let version = if self.modern { 5 } else { 3 };
                self.link.send(cx, version, &request, Some(what))
            }
            Stage::Open(partitions, left, _) => {
                *left -= 1;
                let n = cx.rng.below(partitions.len() as u64) as usize;
                let partition = partitions[n];
                self.produce(cx, topic, partition)
            }
        }
    }

    fn begin(&mut self, cx: &mut Cx<'_>, partitions: Vec<i32>) {
        self.txns.push(Fate::Open);
        let commit = !cx.rng.one_in(3);
        self.stage = Stage::Open(partitions, 1 + cx.rng.below(5), commit);
    }

    fn produce(&mut self, cx: &mut Cx<'_>, topic: Uuid, partition: i32) -> Check {
        let (id, epoch) = self.id;
        let sequence = self.sequences.entry(partition).or_default();
        let mut batch = BatchBuilder::new()
            .producer(id, epoch, *sequence)
            .transactional(true);
        let (first, count) = (self.written.len(), 1 + cx.rng.below(3) as usize);
        *sequence += count as i32;
        for n in first..first + count {
            self.written.push(Written {
                txn: self.txns.len() - 1,
                partition,
                offset: None,
                refused: false,
            });
            let timestamp = TIMESTAMPS_MS + n as i64;
            let text = format!("{} {n}", self.link.name);
            batch.push(timestamp, Some(text.as_bytes()), Some(b"entry"));
        }
        let bytes = batch.build().ok_or("an empty batch")?;
        let request = ProduceRequest {
            transactional_id: Some(self.transactional_id.clone().into()),
            acks: -1,
            timeout_ms: 5000,
            topic_data: vec![TopicProduceData {
                name: self.spec.name.into(),
                topic_id: topic,
                partition_data: vec![PartitionProduceData {
                    index: partition,
                    records: Some(Cow::Owned(bytes.to_vec())),
                }],
            }],
        };
        let what = Ask::Produce(partition, first, count);
        let version = if self.modern { 12 } else { 11 };
        self.link.send(cx, version, &request, Some(what))
    }

    /// What is open can't be ended in order any more: the next producer id aborts it, unless its
    /// commit was on its way.
    fn give_up(&mut self, ending: bool) {
        if let Stage::Open(_, _, commit) = self.stage
            && let Some(last) = self.txns.last_mut()
            && ending
            && commit
        {
            *last = Fate::Either;
        }
        self.stage = Stage::Lost;
    }

    fn answered(&mut self, cx: &mut Cx<'_>, sent: Sent<Ask>, body: &[u8]) -> Check {
        let version = sent.version;
        match sent.what {
            Ask::Find => {
                let response: FindCoordinatorResponse<'_> = decode(body, version)?;
                match response.error_code {
                    0 => self.stage = Stage::Found,
                    error => self.expect(error)?,
                }
            }
            Ask::Init => {
                let response: InitProducerIdResponse = decode(body, version)?;
                match response.error_code {
                    0 => {
                        self.id = (response.producer_id, response.producer_epoch);
                        self.sequences.clear();
                        for fate in self.txns.iter_mut().filter(|f| **f == Fate::Open) {
                            *fate = Fate::Aborted;
                        }
                        self.stage = Stage::Ready;
                    }
                    error => {
                        self.expect(error)?;
                        self.stage = Stage::Lost;
                    }
                }
            }
            Ask::Add(partitions) => {
                let response: AddPartitionsToTxnResponse<'_> = decode(body, version)?;
                let topics = response.results_by_topic_v3_and_below.iter();
                let mut results = topics.flat_map(|t| &t.results_by_partition);
                let error = results.find(|r| r.partition_error_code != 0);
                match error.map(|r| r.partition_error_code) {
                    None => self.begin(cx, partitions),
                    Some(code::CONCURRENT_TRANSACTIONS) => {}
                    Some(error) => {
                        self.expect(error)?;
                        self.give_up(false);
                    }
                }
            }
            Ask::Produce(partition, first, count) => {
                let response: ProduceResponse<'_> = decode(body, version)?;
                let topic = response.responses.first().ok_or("no topic in the answer")?;
                let result = topic.partition_responses.first();
                let result = result.ok_or("no partition in the answer")?;
                let base = result.base_offset;
                match result.error_code {
                    0 => {
                        for n in 0..count {
                            self.stands(first + n, partition, base + n as i64)?;
                        }
                    }
                    code::CONCURRENT_TRANSACTIONS => {
                        *self.sequences.entry(partition).or_default() -= count as i32;
                        for record in self.written.iter_mut().skip(first).take(count) {
                            record.refused = true;
                        }
                    }
                    error => {
                        self.expect(error)?;
                        self.give_up(false);
                    }
                }
            }
            Ask::End(commit) => {
                let response: EndTxnResponse = decode(body, version)?;
                match (response.error_code, self.txns.last_mut()) {
                    (0, Some(last)) => {
                        *last = if commit {
                            Fate::Committed
                        } else {
                            Fate::Aborted
                        };
                        self.stage = Stage::Ready;
                        if self.modern {
                            self.id = (response.producer_id, response.producer_epoch);
                            self.sequences.clear();
                        }
                    }
                    (code::CONCURRENT_TRANSACTIONS | code::COORDINATOR_LOAD_IN_PROGRESS, _) => {}
                    (error, _) => {
                        self.expect(error)?;
                        self.give_up(true);
                    }
                }
            }
            Ask::Fetch(partition, offset) => {
                self.fetched(cx, (partition, offset), version, body)?;
            }
        }
        Ok(())
    }

    /// Whether such an error may come: the coordinator moves with the process, and what is open for
    /// long is rolled back by it.
    fn expect(&self, error: i16) -> Check {
        let expected = [
            code::UNKNOWN_TOPIC_OR_PARTITION,
            code::LEADER_NOT_AVAILABLE,
            code::NOT_LEADER_OR_FOLLOWER,
            code::COORDINATOR_LOAD_IN_PROGRESS,
            code::COORDINATOR_NOT_AVAILABLE,
            code::NOT_COORDINATOR,
            code::NOT_ENOUGH_REPLICAS,
            code::INVALID_PRODUCER_EPOCH,
            code::INVALID_TXN_STATE,
            code::INVALID_PRODUCER_ID_MAPPING,
            code::CONCURRENT_TRANSACTIONS,
            code::PRODUCER_FENCED,
            code::TRANSACTION_ABORTABLE,
        ];
        let of_disk = self.failing_disk && code::is_disk_trouble(error);
        match of_disk || expected.contains(&error) {
            true => Ok(()),
            false => Err(format!("ledger: error {error} in {:?}", self.stage)),
        }
    }

    fn stands(&mut self, n: usize, partition: i32, offset: i64) -> Check {
        let record = self.written.get_mut(n).ok_or("nobody wrote that")?;
        let other = record.offset.replace(offset).filter(|o| *o != offset);
        if other.is_some() || record.partition != partition {
            return Err(format!(
                "ledger: {record:?} is at {other:?} and at {offset} of {partition}"
            ));
        }
        Ok(())
    }

    // ---- reading ----
}

impl Client for Ledger {
    fn name(&self) -> &str {
        &self.link.name
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> Check {
        while let Some(event) = self.link.poll(cx)? {
            match event {
                Event::Answer(sent, body) => self.answered(cx, sent, &body)?,
                Event::Closed(unanswered) => {
                    let ending = unanswered.iter().any(|s| matches!(s.what, Ask::End(_)));
                    self.give_up(ending);
                }
            }
        }
        if self.power_losses != cx.model.power_losses {
            self.power_losses = cx.model.power_losses;
            self.txns.fill(Fate::Any);
            self.stage = Stage::Lost;
            self.transactional_id = format!("{} {}", self.link.name, self.power_losses);
            self.pass = None;
        }
        Ok(())
    }

    fn act(&mut self, cx: &mut Cx<'_>) -> Check {
        self.receive(cx)?;
        let Some((topic, _)) = tp_of(cx, std::slice::from_ref(&self.spec), (0, 0)) else {
            return Ok(());
        };
        if self.cuts && !cx.settling && self.link.is_open() && cx.rng.one_in(150) {
            let unanswered = self.link.close(cx);
            let ending = unanswered.iter().any(|s| matches!(s.what, Ask::End(_)));
            self.give_up(ending);
            return Ok(());
        }
        if self.link.in_flight() > 0 || !self.link.open(cx) {
            return Ok(());
        }
        if cx.settling
            && let Stage::Open(_, left, _) = &mut self.stage
        {
            *left = 0;
        }
        let reads = cx.rng.one_in(3) || (cx.settling && self.stage == Stage::Ready);
        match reads && !self.rests {
            true => self.fetch(cx, topic),
            false => self.write(cx, topic),
        }
    }

    fn settle(&mut self) {
        self.pass = None;
        self.rests = false;
    }

    fn left_to_do(&self, _cx: &Cx<'_>) -> Option<String> {
        let rests = self.rests && self.link.in_flight() == 0;
        (!rests).then(|| format!("{:?}, {:?}", self.stage, self.pass))
    }
}
