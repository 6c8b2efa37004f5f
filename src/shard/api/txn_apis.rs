//! The APIs of transactions. Their rules are in `flumen-coordinator`; here is how each request gets
//! to the shard that coordinates its transactional id, and what the image says of its partitions.
//!
//! - AddPartitionsToTxn (24) 0 to 5: v2 PRODUCER_FENCED, v4 many transactions and verification, for
//!   brokers (KIP-890), v5 TRANSACTION_ABORTABLE.
//! - AddOffsetsToTxn (25) 0 to 4: v2 PRODUCER_FENCED, v4 TRANSACTION_ABORTABLE.
//! - EndTxn (26) 0 to 5: v2 PRODUCER_FENCED, v5 the epoch grows (KIP-890).
//! - WriteTxnMarkers (27) 1 to 2: v2 transaction version. From the tool that ends hanging
//!   transactions.
//! - DescribeTransactions (65) 0 and ListTransactions (66) 0 to 2 (KIP-664): v1 duration (KIP-994),
//!   v2 pattern.

use super::decode;
use crate::groups::OFFSETS_TOPIC;
use crate::ops::{Gathering, MarkerFor, Op, OpResult, PartitionOp, TxnOp};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, PartitionIndex, ShardId};
use flumen_coordinator::txn::TxnPartitions;
use flumen_coordinator::{TxnMarker, partition_for};
use flumen_wire::messages as wire;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use wire::add_partitions_to_txn_response as add;
use wire::write_txn_markers_response as marked;

/// AddPartitionsToTxn has many transactions from here on, and comes from brokers.
const BATCHED_FROM: i16 = 4;
/// Clients know PRODUCER_FENCED from here on.
const TELLS_FENCED_FROM: i16 = 2;

/// An error as a client of this version understands it.
fn told_as(error: ErrorCode, version: i16) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if version < TELLS_FENCED_FROM => ErrorCode::InvalidProducerEpoch,
        error => error,
    }
}

/// InitProducerId of a transactional producer.
pub(crate) fn init_producer_id(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone(); // for the message to outlive the request
    let message = decode!(shard, turn, request => body, wire::InitProducerIdRequest<'_>);
    let id = message.transactional_id.as_deref().unwrap_or("");
    let (now, version) = (turn.now, request.version());
    match shard.txn_coordinator_of(id) {
        Ok(owner) if owner != shard.id => shard.forward(turn, owner, request),
        Ok(_) => shard.ask_txns(request.reply, |c, token, out| {
            c.init_producer_id(now, token, &message, version, out);
        }),
        Err(error) => {
            let response = wire::InitProducerIdResponse {
                error_code: error.code(),
                producer_id: -1,
                producer_epoch: -1,
                ..Default::default()
            };
            shard.reply(turn, request.reply, &response);
        }
    }
}

pub(crate) fn end_txn(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone(); // as above
    let message = decode!(shard, turn, request => body, wire::EndTxnRequest<'_>);
    let (now, version) = (turn.now, request.version());
    match shard.txn_coordinator_of(&message.transactional_id) {
        Ok(owner) if owner != shard.id => shard.forward(turn, owner, request),
        Ok(_) => shard.ask_txns(request.reply, |c, token, out| {
            c.end_txn(now, token, &message, version, out);
        }),
        Err(error) => {
            let response = wire::EndTxnResponse {
                error_code: error.code(),
                ..Default::default()
            };
            shard.reply(turn, request.reply, &response);
        }
    }
}

pub(crate) fn add_offsets(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::AddOffsetsToTxnRequest<'_>);
    let topic = shard.image.topic(OFFSETS_TOPIC);
    let count = match topic {
        Some(topic) => i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        None => shard.broker.offsets.topic_num_partitions,
    };
    let partition = partition_for(&message.group_id, count);
    let adding = Box::new(TxnPartitions {
        transactional_id: message.transactional_id.to_string(),
        producer_id: message.producer_id,
        producer_epoch: message.producer_epoch,
        partitions: [(Arc::from(OFFSETS_TOPIC), [partition].into())].into(),
        client_version: 0, // the others add them with TxnOffsetCommit
    });
    drop(message);
    let owner = shard.txn_coordinator_of(&adding.transactional_id);
    let error = owner.err().unwrap_or(ErrorCode::UnknownServerError);
    let op = owner.map(|owner| (owner, Op::Txn(TxnOp::Add(adding))));
    let ops = op.into_iter().collect();
    shard.gather(turn, request.reply, Box::new(OffsetsAdded(error)), ops);
}

struct OffsetsAdded(ErrorCode);

impl Gathering for OffsetsAdded {
    fn take(&mut self, _index: u32, result: OpResult) {
        if let OpResult::TxnAdded(error) = result {
            self.0 = error;
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let response = wire::AddOffsetsToTxnResponse {
            error_code: told_as(self.0, reply.version).code(),
            ..Default::default()
        };
        shard.reply(turn, reply, &response);
    }
}

/// What became of each partition of a topic.
type Results = Vec<(PartitionIndex, ErrorCode)>;

/// One transaction of an AddPartitionsToTxn.
struct Adding {
    id: String,
    partitions: BTreeMap<Arc<str>, BTreeSet<PartitionIndex>>,
    /// Its results, in the order of the request.
    topics: Vec<(Arc<str>, Results)>,
}

impl Adding {
    /// What the image says: one unknown partition fails all of the transaction.
    fn new(shard: &Shard, id: &str, topics: &[AddPartitionsToTxnTopic<'_>]) -> Self {
        let mut adding = Self {
            id: id.to_owned(),
            partitions: BTreeMap::new(),
            topics: Vec::new(),
        };
        for topic in topics {
            let name: Arc<str> = Arc::from(&*topic.name);
            let error = |index: &PartitionIndex| match shard.partition_id(&name, *index) {
                Some(_) => ErrorCode::None,
                None => ErrorCode::UnknownTopicOrPartition,
            };
            let results = topic.partitions.iter().map(|p| (*p, error(p))).collect();
            let indexes = adding.partitions.entry(name.clone()).or_default();
            indexes.extend(&topic.partitions);
            adding.topics.push((name, results));
        }
        let mut all = adding.topics.iter_mut().flat_map(|(_, results)| results);
        if all.any(|(_, error)| !error.is_none()) {
            let all = adding.topics.iter_mut().flat_map(|(_, results)| results);
            for (_, error) in all.filter(|(_, error)| error.is_none()) {
                *error = ErrorCode::OperationNotAttempted;
            }
        }
        adding
    }

    fn is_refused(&self) -> bool {
        let mut all = self.topics.iter().flat_map(|(_, results)| results);
        all.any(|(_, error)| !error.is_none())
    }

    /// Puts one error on all of them.
    fn put(&mut self, error: ErrorCode) {
        let all = self.topics.iter_mut().flat_map(|(_, results)| results);
        all.for_each(|(_, e)| *e = error);
    }

    fn results(self) -> Vec<add::AddPartitionsToTxnTopicResult<'static>> {
        let line =
            |(index, error): (PartitionIndex, ErrorCode)| add::AddPartitionsToTxnPartitionResult {
                partition_index: index,
                partition_error_code: error.code(),
            };
        let of_topic = |(name, results): (Arc<str>, Results)| add::AddPartitionsToTxnTopicResult {
            name: name.to_string().into(),
            results_by_partition: results.into_iter().map(line).collect(),
        };
        self.topics.into_iter().map(of_topic).collect()
    }
}

pub(crate) fn add_partitions(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::AddPartitionsToTxnRequest<'_>);
    let version = request.reply.version;
    let mut added = Added {
        txns: Vec::new(),
        asked: Vec::new(),
    };
    let mut ops = Vec::new();
    let mut one = |id: &str, who: (i64, i16), verify: bool, topics: &[_]| {
        let mut adding = Adding::new(shard, id, topics);
        let owner = shard.txn_coordinator_of(id);
        if !adding.is_refused() {
            match owner {
                Ok(owner) => {
                    let request = Box::new(TxnPartitions {
                        transactional_id: id.to_owned(),
                        producer_id: who.0,
                        producer_epoch: who.1,
                        partitions: adding.partitions.clone(),
                        client_version: if version >= BATCHED_FROM { 2 } else { 0 },
                    });
                    let op = match verify {
                        true => TxnOp::Verify(request),
                        false => TxnOp::Add(request),
                    };
                    ops.push((owner, Op::Txn(op)));
                    added.asked.push(added.txns.len());
                }
                Err(error) => adding.put(error),
            }
        }
        added.txns.push(adding);
    };
    if version >= BATCHED_FROM {
        for t in &message.transactions {
            let who = (t.producer_id, t.producer_epoch);
            one(&t.transactional_id, who, t.verify_only, &t.topics);
        }
    } else {
        let who = (
            message.v3_and_below_producer_id,
            message.v3_and_below_producer_epoch,
        );
        let id = &message.v3_and_below_transactional_id;
        one(id, who, false, &message.v3_and_below_topics);
    }
    drop(message);
    shard.gather(turn, request.reply, Box::new(added), ops);
}

struct Added {
    txns: Vec<Adding>,
    /// Which of them each operation is about.
    asked: Vec<usize>,
}

impl Gathering for Added {
    fn take(&mut self, index: u32, result: OpResult) {
        let txn = self.asked.get(index as usize);
        let Some(txn) = txn.and_then(|n| self.txns.get_mut(*n)) else {
            return;
        };
        match result {
            OpResult::TxnAdded(error) | OpResult::TxnVerified(Err(error)) => txn.put(error),
            OpResult::TxnVerified(Ok(each)) => {
                for (topic, index, error) in each {
                    let topics = txn.topics.iter_mut().filter(|(name, _)| *name == topic);
                    let results = topics.flat_map(|(_, results)| results);
                    results
                        .filter(|(p, _)| *p == index)
                        .for_each(|(_, e)| *e = error);
                }
            }
            _ => {}
        }
    }

    fn finish(mut self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let mut response = wire::AddPartitionsToTxnResponse::default();
        if reply.version >= BATCHED_FROM {
            let line = |txn: Adding| add::AddPartitionsToTxnResult {
                transactional_id: txn.id.clone().into(),
                topic_results: txn.results(),
            };
            response.results_by_transaction = self.txns.into_iter().map(line).collect();
        } else if let Some(mut txn) = self.txns.pop() {
            for (_, error) in txn.topics.iter_mut().flat_map(|(_, results)| results) {
                *error = told_as(*error, reply.version);
            }
            response.results_by_topic_v3_and_below = txn.results();
        }
        shard.reply(turn, reply, &response);
    }
}

pub(crate) fn describe(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::DescribeTransactionsRequest<'_>);
    let mut described = Described {
        states: Vec::new(),
        asked: Vec::new(),
    };
    let mut ops = Vec::new();
    for id in &message.transactional_ids {
        let owner = shard.txn_coordinator_of(id);
        match owner {
            _ if id.is_empty() => {}
            Ok(owner) => {
                ops.push((owner, Op::Txn(TxnOp::Describe(id.to_string()))));
                described.asked.push(described.states.len());
            }
            Err(_) => {}
        }
        let error = match id.is_empty() {
            true => ErrorCode::InvalidRequest,
            false => owner.err().unwrap_or_default(),
        };
        let state = wire::describe_transactions_response::TransactionState {
            error_code: error.code(),
            transactional_id: Cow::Owned(id.to_string()),
            ..Default::default()
        };
        described.states.push(state);
    }
    drop(message);
    shard.gather(turn, request.reply, Box::new(described), ops);
}

struct Described {
    states: Vec<wire::describe_transactions_response::TransactionState<'static>>,
    asked: Vec<usize>,
}

impl Gathering for Described {
    fn take(&mut self, index: u32, result: OpResult) {
        let place = self.asked.get(index as usize);
        let place = place.and_then(|n| self.states.get_mut(*n));
        if let (Some(place), OpResult::TxnDescribed(state)) = (place, result) {
            *place = *state;
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let response = wire::DescribeTransactionsResponse {
            transaction_states: self.states,
            ..Default::default()
        };
        shard.reply(turn, reply, &response);
    }
}

pub(crate) fn list(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::ListTransactionsRequest<'_>);
    drop(message);
    let ask = |n| {
        let op = TxnOp::List {
            body: request.body.clone(),
            version: request.reply.version,
        };
        (ShardId(n), Op::Txn(op))
    };
    let ops = (0..shard.shards).map(ask).collect();
    let listed = Box::new(Listed::default());
    shard.gather(turn, request.reply, listed, ops);
}

#[derive(Default)]
struct Listed(wire::ListTransactionsResponse<'static>);

impl Gathering for Listed {
    fn take(&mut self, _index: u32, result: OpResult) {
        if let OpResult::TxnListed(list) = result {
            if list.error_code != 0 {
                self.0.error_code = list.error_code;
            }
            // The filters are the same everywhere.
            self.0.unknown_state_filters = list.unknown_state_filters;
            self.0.transaction_states.extend(list.transaction_states);
        }
    }

    fn finish(mut self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        if self.0.error_code != 0 {
            self.0.transaction_states.clear();
            self.0.unknown_state_filters.clear();
        }
        shard.reply(turn, reply, &self.0);
    }
}

pub(crate) fn write_markers(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::WriteTxnMarkersRequest<'_>);
    let mut written = Written {
        errors: BTreeMap::new(),
        places: Vec::new(),
    };
    let mut ops = Vec::new();
    for m in &message.markers {
        let marker = TxnMarker {
            producer_id: m.producer_id,
            producer_epoch: m.producer_epoch,
            coordinator_epoch: m.coordinator_epoch,
            commit: m.transaction_result,
            transaction_version: i16::from(m.transaction_version),
        };
        for topic in &m.topics {
            for index in &topic.partition_indexes {
                let place = (m.producer_id, topic.name.to_string(), *index);
                match shard.partition_id(&topic.name, *index) {
                    Some(tp) => {
                        let op = PartitionOp::Marker(marker, MarkerFor::Request);
                        ops.push((shard.owner(tp), Op::Partition(tp, op)));
                        written.places.push(place);
                    }
                    None => written.put(place, ErrorCode::UnknownTopicOrPartition),
                }
            }
        }
    }
    drop(message);
    shard.gather(turn, request.reply, Box::new(written), ops);
}

type MarkerPlace = (i64, String, PartitionIndex);

struct Written {
    errors: BTreeMap<i64, BTreeMap<String, BTreeMap<PartitionIndex, ErrorCode>>>,
    places: Vec<MarkerPlace>,
}

impl Written {
    fn put(&mut self, (id, topic, index): MarkerPlace, error: ErrorCode) {
        let topics = self.errors.entry(id).or_default();
        topics.entry(topic).or_default().insert(index, error);
    }
}

impl Gathering for Written {
    fn take(&mut self, index: u32, result: OpResult) {
        let place = self.places.get(index as usize).cloned();
        if let (Some(place), OpResult::Marker(error)) = (place, result) {
            self.put(place, error);
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let line = |(index, error): (PartitionIndex, ErrorCode)| {
            marked::WritableTxnMarkerPartitionResult {
                partition_index: index,
                error_code: error.code(),
            }
        };
        let of_topic =
            |(name, partitions): (String, BTreeMap<_, _>)| marked::WritableTxnMarkerTopicResult {
                name: name.into(),
                partitions: partitions.into_iter().map(line).collect(),
            };
        let of_producer = |(id, topics): (i64, BTreeMap<_, _>)| marked::WritableTxnMarkerResult {
            producer_id: id,
            topics: topics.into_iter().map(of_topic).collect(),
        };
        let response = wire::WriteTxnMarkersResponse {
            markers: self.errors.into_iter().map(of_producer).collect(),
        };
        shard.reply(turn, reply, &response);
    }
}
