//! Scatter and gather: one request becomes operations for partitions and groups of any shard; their
//! results come back and, when all are there, become the answer.
//!
//! Operations for another shard wait in an outbox until the end of the turn and travel in one
//! message; so do results. Those for this shard are carried out at once, and their results are
//! handed over before the step ends.

use crate::Shard;
use crate::api::produce::ProduceGather;
use crate::created::Wanted;
pub(crate) use crate::group_ops::{GroupOp, GroupResult};
use crate::io::{Effect, Segment};
use crate::mesh::{Batch, BatchItem, Message};
use crate::partitions::PendingJob;
use crate::request::Reply;
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::{ErrorCode, PartitionIndex, ShardId, Space, TopicPartition};
use flumen_coordinator::TxnMarker;
use flumen_coordinator::txn::TxnPartitions;
use flumen_wire::messages as wire;
use flumen_wire::messages::create_topics_request::CreatableTopic;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// One operation, on its way to the shard that owns its partition or group.
#[derive(Debug)]
pub(crate) struct OpRequest {
    /// The gather it belongs to, at the shard that sends it.
    pub(crate) gather: u64,
    /// Which of the gather's results it gives.
    pub(crate) index: u32,
    /// What to do.
    pub(crate) op: Op,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Op {
    /// Something with a partition that the receiver owns.
    Partition(TopicPartition, PartitionOp),
    /// Something of the group coordinator.
    Group(GroupOp),
    /// Something of the transaction coordinator.
    Txn(TxnOp),
    /// Shard 0: a block of producer ids.
    ProducerIds,
    /// Shard 0: create these topics with the broker's defaults.
    AutoCreate(Vec<String>),
    /// Shard 0: create these topics as they are.
    CreateTopics(Vec<CreatableTopic<'static>>),
    /// The watch of the same gather and index ends. There is no result.
    Unwatch,
    /// How much room the log directories have.
    Space,
}

/// What to do with a partition.
#[derive(Debug)]
pub(crate) enum PartitionOp {
    Append(AppendOp),
    Read(ReadOp),
    /// Send [`OpResult::Wake`] when there is more to read (long poll), until [`Op::Unwatch`].
    Watch(WatchOp),
    ListOffset(ListOffsetOp),
    EpochEnd {
        current_leader_epoch: i32,
        epoch: i32,
    },
    /// Delete below this offset; -1 is the high watermark.
    DeleteRecords(i64),
    /// Size for DescribeLogDirs.
    Size,
    /// Move to the log directory with this index.
    MoveTo(usize),
    /// Active producers for DescribeProducers.
    Producers,
    /// Write a transaction marker.
    Marker(TxnMarker, MarkerFor),
}

/// Who wants a marker written, and so hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkerFor {
    /// A WriteTxnMarkers request: [`OpResult::Marker`].
    Request,
    /// The transaction coordinator of the shard that asks: [`OpResult::TxnMarked`].
    Coordinator,
}

impl MarkerFor {
    /// The result as it is waited for.
    pub(crate) fn result(self, error: ErrorCode) -> OpResult {
        match self {
            Self::Request => OpResult::Marker(error),
            Self::Coordinator => OpResult::TxnMarked(error),
        }
    }
}

/// What a transactional batch of a produce request is verified by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TxnProduce {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) sequence: i32,
    /// The producer has an epoch for each transaction, and partitions add themselves.
    pub(crate) bumps_epoch: bool,
    /// The proof that the coordinator was asked.
    pub(crate) guard: Option<u64>,
}

/// An operation of the transaction coordinator.
#[derive(Debug)]
pub(crate) enum TxnOp {
    /// Add partitions to a transaction: [`OpResult::TxnAdded`].
    Add(Box<TxnPartitions>),
    /// Whether partitions are in a transaction: [`OpResult::TxnVerified`].
    Verify(Box<TxnPartitions>),
    Describe(String),
    List {
        body: Bytes,
        version: i16,
    },
}

/// What became of each partition of a transaction.
pub(crate) type TxnVerified = Vec<(Arc<str>, PartitionIndex, ErrorCode)>;

/// A produce to one partition.
#[derive(Debug)]
pub(crate) struct AppendOp {
    /// Exactly the records field, a part of the request's frame.
    pub(crate) records: Bytes,
    /// Length of that frame: what a batch kept in memory would keep with it.
    pub(crate) frame_len: usize,
    /// Version of the Produce request: decides some checks.
    pub(crate) version: i16,
    /// Of a transactional batch that is to be verified.
    pub(crate) txn: Option<Box<TxnProduce>>,
}

/// A fetch from one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadOp {
    pub(crate) offset: i64,
    pub(crate) max_bytes: u32,
    /// The first batch is returned whole even if it is larger than `max_bytes`.
    pub(crate) min_one: bool,
    pub(crate) current_leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) committed_only: bool,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatchOp {
    /// A high watermark above this one.
    pub(crate) above: i64,
    /// Or a log that starts elsewhere than here.
    pub(crate) log_start: Option<i64>,
    /// The first news end it.
    pub(crate) once: bool,
}

impl WatchOp {
    /// Whether there is news, with this high watermark and log start.
    pub(crate) fn is_due(&self, high_watermark: i64, log_start: i64) -> bool {
        high_watermark > self.above || self.log_start.is_some_and(|start| start != log_start)
    }
}

/// One ListOffsets partition.
#[derive(Clone, Debug)]
pub(crate) struct ListOffsetOp {
    pub(crate) timestamp: i64,
    pub(crate) current_leader_epoch: i32,
    pub(crate) committed_only: bool,
    /// Whether the answer has room for a leader epoch (from version 4).
    pub(crate) epochs: bool,
}

/// The result of one operation, on its way back.
#[derive(Debug)]
pub(crate) struct OpReply {
    pub(crate) gather: u64,
    pub(crate) index: u32,
    pub(crate) result: OpResult,
}

/// What an operation gives.
#[derive(Debug)]
pub(crate) enum OpResult {
    Append(AppendResult),
    Read(Box<ReadResult>),
    /// A watched partition can give so many bytes more than when the watch began.
    Wake(u64),
    ListOffset(Result<ListedOffset, ErrorCode>),
    /// (epoch, end offset); -1 and -1 where unknown.
    EpochEnd(Result<(i32, i64), ErrorCode>),
    /// The new low watermark.
    DeleteRecords(Result<i64, ErrorCode>),
    Size(Result<SizeLine, ErrorCode>),
    MoveTo(ErrorCode),
    /// The room in log directories, by index, as far as it is known.
    Space(Vec<(usize, Space)>),
    Producers(Result<Vec<ProducerLine>, ErrorCode>),
    Group(GroupResult),
    /// The batch needs the consent of the coordinator of its transaction, under this guard.
    Verify(u64),
    /// A marker is written, or why not.
    Marker(ErrorCode),
    /// The same, for the transaction coordinator.
    TxnMarked(ErrorCode),
    TxnAdded(ErrorCode),
    TxnVerified(Result<TxnVerified, ErrorCode>),
    TxnDescribed(Box<wire::describe_transactions_response::TransactionState<'static>>),
    TxnListed(Box<wire::ListTransactionsResponse<'static>>),
    /// First id and how many.
    ProducerIds(Result<(i64, i32), ErrorCode>),
    AutoCreate(Vec<(String, ErrorCode)>),
    /// What became of each topic of an [`Op::CreateTopics`]: why it was not created.
    CreatedTopics(Vec<(String, Option<String>)>),
}

/// The answer to a produce to one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendResult {
    pub(crate) error: ErrorCode,
    pub(crate) base_offset: i64,
    pub(crate) log_append_time: i64,
    pub(crate) log_start: i64,
    /// What is wrong, where there is more to say than the error.
    pub(crate) details: Option<Box<AppendDetails>>,
}

/// What is wrong with a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppendDetails {
    /// (index of the record in its batch, what is wrong with it)
    pub(crate) record_errors: Vec<(i32, String)>,
    pub(crate) message: Option<String>,
}

impl AppendResult {
    /// A refusal.
    pub(crate) fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            base_offset: -1,
            log_append_time: -1,
            log_start: -1,
            details: None,
        }
    }
}

/// The answer to a fetch from one partition.
#[derive(Clone, Debug)]
pub(crate) struct ReadResult {
    pub(crate) error: ErrorCode,
    pub(crate) high_watermark: i64,
    pub(crate) last_stable: i64,
    pub(crate) log_start: i64,
    /// (producer id, first offset) of aborted transactions; `None` unless only committed records
    /// were asked for.
    pub(crate) aborted: Option<Vec<(i64, i64)>>,
    /// (epoch, end offset) where the reader's log diverges.
    pub(crate) diverging: Option<(i32, i64)>,
    pub(crate) data: SmallVec<[Segment; 2]>,
}

impl ReadResult {
    /// A refusal.
    pub(crate) fn refused(error: ErrorCode) -> Self {
        Self {
            error,
            high_watermark: -1,
            last_stable: -1,
            log_start: -1,
            aborted: None,
            diverging: None,
            data: SmallVec::new(),
        }
    }

    /// Bytes of records.
    pub(crate) fn bytes(&self) -> usize {
        self.data.iter().map(Segment::len).sum()
    }
}

/// The answer to one ListOffsets partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListedOffset {
    pub(crate) timestamp: i64,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
}

/// A partition in DescribeLogDirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeLine {
    /// Index of its log directory.
    pub(crate) dir: usize,
    pub(crate) bytes: u64,
    /// Where it is being copied to: the directory, bytes there, and offsets that are missing.
    pub(crate) future: Option<(usize, u64, i64)>,
}

/// One active producer, as DescribeProducers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerLine {
    pub(crate) id: i64,
    pub(crate) epoch: i32,
    pub(crate) last_sequence: i32,
    pub(crate) last_timestamp: i64,
    pub(crate) coordinator_epoch: i32,
    pub(crate) txn_start: i64,
}

/// Marks gather numbers of reads for loads of coordinators; those of gathers and fetches are below.
pub(crate) const OF_GROUPS: u64 = 1 << 62;
/// Marks gather numbers of watches for fetch sessions.
pub(crate) const OF_SESSIONS: u64 = 1 << 63;

/// Collects the results of one request's operations.
pub(crate) trait Gathering: Send {
    /// Takes one result.
    fn take(&mut self, index: u32, result: OpResult);
    /// All are there: answer.
    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply);
}

/// In place of a gather: the transaction coordinator of the shard waits, for producer ids.
pub(crate) const FOR_TXNS: u64 = u64::MAX;

/// A request that waits for results.
pub(crate) struct Gather {
    pub(crate) reply: Reply,
    pub(crate) outstanding: u32,
    pub(crate) body: GatherBody,
}

/// Who collects them.
pub(crate) enum GatherBody {
    /// In place: the one that comes hundreds of thousands of times a second.
    Produce(ProduceGather),
    Other(Box<dyn Gathering>),
}

/// Where the result of an operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OpFrom {
    pub(crate) shard: ShardId,
    pub(crate) gather: u64,
    pub(crate) index: u32,
}

/// What waits for the end of the turn.
#[derive(Debug)]
pub(crate) struct Outbox {
    me: ShardId,
    /// By shard; `None` until something comes up.
    out: Vec<Option<Box<Batch>>>,
    here: VecDeque<OpReply>,
    /// Batches that came and are done with, empty, for those to come.
    #[allow(clippy::vec_box)] // the box is what is kept: messages between shards carry it
    spare: Vec<Box<Batch>>,
}

/// Batches kept for reuse: about as many as two shards have on the way.
const SPARE_BATCHES_MAX: usize = 64;
/// A longer one is not kept.
const SPARE_ITEMS_MAX: usize = 4096;

impl Outbox {
    /// Empty, for shard `me` of `shards`.
    pub(crate) fn new(me: ShardId, shards: u16) -> Self {
        Self {
            me,
            out: (0..shards).map(|_| None).collect(),
            here: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Sends an operation with the turn's message.
    pub(crate) fn op(&mut self, to: ShardId, op: OpRequest) {
        if let Some(batch) = self.batch(to) {
            batch.items.push(BatchItem::Op(op));
        }
    }

    /// Sends a result: into the queue of local ones, or with the turn's message.
    pub(crate) fn result(&mut self, to: OpFrom, result: OpResult) {
        let reply = OpReply {
            gather: to.gather,
            index: to.index,
            result,
        };
        if to.shard == self.me {
            self.here.push_back(reply);
        } else if let Some(batch) = self.batch(to.shard) {
            batch.items.push(BatchItem::Result(reply));
        }
    }

    /// Gives a part of a frame back to the shard it came from; travels with the next results.
    pub(crate) fn give_back(&mut self, to: ShardId, part: Bytes) {
        if to != self.me
            && let Some(batch) = self.batch(to)
        {
            batch.returned.push(part);
        }
    }

    fn batch(&mut self, to: ShardId) -> Option<&mut Batch> {
        let out = self.out.get_mut(to.index())?;
        if out.is_none() {
            *out = Some(self.spare.pop().unwrap_or_default());
        }
        out.as_deref_mut()
    }

    /// Sends what waits for other shards: one message per shard.
    pub(crate) fn flush(&mut self, turn: &mut Turn<'_>) {
        for (n, out) in self.out.iter_mut().enumerate() {
            if let Some(batch) = out.take_if(|batch| !batch.items.is_empty()) {
                let effect = Effect::Mesh(ShardId(n as u16), Message::Batch(batch));
                turn.fx.push(effect);
            }
        }
    }

    /// Keeps the memory of a batch that came.
    fn reuse(&mut self, mut batch: Box<Batch>) {
        batch.returned.clear();
        if self.spare.len() < SPARE_BATCHES_MAX && batch.items.capacity() <= SPARE_ITEMS_MAX {
            self.spare.push(batch);
        }
    }
}

impl Shard {
    /// Scatters `ops` and answers through `body` when all results are there.
    pub(crate) fn gather(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        body: Box<dyn Gathering>,
        ops: Vec<(ShardId, Op)>,
    ) {
        if ops.is_empty() {
            body.finish(self, turn, reply);
            return;
        }
        let gather = self.gathers.insert(Gather {
            reply,
            outstanding: ops.len() as u32,
            body: GatherBody::Other(body),
        });
        for (index, (shard, op)) in ops.into_iter().enumerate() {
            self.send_op(turn, shard, gather, index as u32, op);
        }
    }

    /// Sends one operation: carried out at once here, with the turn's message elsewhere.
    pub(crate) fn send_op(
        &mut self,
        turn: &mut Turn<'_>,
        shard: ShardId,
        gather: u64,
        index: u32,
        op: Op,
    ) {
        if shard == self.id {
            let from = OpFrom {
                shard,
                gather,
                index,
            };
            self.run_op(turn, from, op);
        } else {
            self.outbox.op(shard, OpRequest { gather, index, op });
        }
    }

    /// Operations for this shard, and results of what it asked for.
    pub(crate) fn on_batch(&mut self, turn: &mut Turn<'_>, from: ShardId, mut batch: Box<Batch>) {
        for item in batch.items.drain(..) {
            match item {
                BatchItem::Op(op) => {
                    let to = OpFrom {
                        shard: from,
                        gather: op.gather,
                        index: op.index,
                    };
                    self.run_op(turn, to, op.op);
                }
                BatchItem::Result(result) => self.take_result(turn, result),
            }
        }
        self.outbox.reuse(batch);
    }

    /// Hands over the results of local operations, those that come up meanwhile included.
    pub(crate) fn drain_results(&mut self, turn: &mut Turn<'_>) {
        while let Some(reply) = self.outbox.here.pop_front() {
            self.take_result(turn, reply);
        }
        self.partitions.shared = None;
    }

    /// One result of an operation of ours. A gather that is gone (its connection closed) is
    /// ignored.
    pub(crate) fn take_result(&mut self, turn: &mut Turn<'_>, reply: OpReply) {
        if matches!(reply.result, OpResult::Read(_) | OpResult::Wake(_)) {
            self.take_fetch_result(turn, reply);
            return;
        }
        if reply.gather == FOR_TXNS {
            return self.txn_ids_came(turn, reply.result);
        }
        if let OpResult::TxnMarked(error) = reply.result {
            return self.txn_marked(turn, reply.gather, reply.index, error);
        }
        if let OpResult::CreatedTopics(results) = reply.result {
            self.streams_topics_created(turn.now.mono, results);
            return;
        }
        let Some(gather) = self.gathers.get_mut(reply.gather) else {
            return;
        };
        match &mut gather.body {
            GatherBody::Produce(body) => body.take(reply.index, reply.result),
            GatherBody::Other(body) => body.take(reply.index, reply.result),
        }
        gather.outstanding -= 1;
        if gather.outstanding == 0
            && let Some(gather) = self.gathers.remove(reply.gather)
        {
            match gather.body {
                GatherBody::Produce(body) => body.finish(self, turn, gather.reply),
                GatherBody::Other(body) => body.finish(self, turn, gather.reply),
            }
        }
    }

    /// Carries out one operation for `from`.
    pub(crate) fn run_op(&mut self, turn: &mut Turn<'_>, from: OpFrom, op: Op) {
        match op {
            Op::Group(op) => self.run_group_op(turn, from, op),
            Op::Txn(op) => self.run_txn_op(turn, from, op),
            Op::ProducerIds => self.run_producer_ids(turn, from),
            Op::AutoCreate(names) => self.run_create(turn, from, Wanted::ByDefaults(names)),
            Op::CreateTopics(topics) => self.run_create(turn, from, Wanted::AsTheyAre(topics)),
            Op::Unwatch => self.partitions.unwatch(&from),
            Op::Space => {
                let job = self.space_job();
                self.start_job(turn, PendingJob::DescribeSpace(from), job);
            }
            Op::Partition(tp, op) => self.run_partition_op(turn, from, tp, op),
        }
    }
}
