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
use crate::io::Segment;
use crate::mesh::{Batch, BatchItem};
use crate::partitions::PendingJob;
use crate::request::Reply;
use crate::share_sessions::ShareSessionOp;
use crate::share_states::{ShareStateOp, ShareStateResult};
use crate::shares::{ShareAckOp, ShareAcquireOp, ShareAcquired};
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::{ErrorCode, PartitionIndex, ShardId, Space, TopicPartition};
use flumen_coordinator::TxnMarker;
use flumen_coordinator::txn::TxnPartitions;
use flumen_wire::messages as wire;
use flumen_wire::messages::create_topics_request::CreatableTopic;
use smallvec::SmallVec;
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
    /// Something with the stored state of a share partition.
    ShareState(Box<ShareStateOp>),
    /// Something with a share session.
    ShareSession(ShareSessionOp),
    /// Nobody fetches for this share group any more.
    ShareGroupIdle(Arc<str>),
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
    /// Hand records to a member of a share group.
    ShareAcquire(Box<ShareAcquireOp>),
    /// What a member of a share group says of records that it holds.
    ShareAcknowledge(Box<ShareAckOp>),
    /// A member of a share group has gone: what it holds is handed out again. There is no result.
    ShareRelease {
        group: Arc<str>,
        member: Arc<str>,
    },
    /// Send [`OpResult::Wake`] when there may be something for a share group, until
    /// [`Op::Unwatch`].
    ShareWatch {
        group: Arc<str>,
        /// What is there already does not count.
        only_news: bool,
    },
    /// How many bytes there are for a share group, up to a limit: [`OpResult::ShareProbed`].
    ShareProbe {
        group: Arc<str>,
        max_bytes: u32,
    },
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
    /// A watched partition can give so many bytes more than when the watch began. 0 of a share
    /// partition: it is not there, only to acquire will tell why.
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
    /// Of the stored state of a share partition, for a request.
    ShareState(ShareStateResult),
    /// The same, for a share partition.
    ShareStored(ShareStateResult),
    /// The same, for the group coordinator.
    ShareCalled(ErrorCode),
    ShareAcquired(Box<ShareAcquired>),
    ShareProbed(u64),
    ShareAcknowledged(ErrorCode),
    ShareReleased,
    /// Whether there is room for one more share session.
    ShareSession(bool),
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
/// Marks gather numbers of share fetches.
pub(crate) const OF_SHARES: u64 = 1 << 61;
/// In place of a gather: share groups of the shard wait for the topic of their stored states.
pub(crate) const FOR_SHARE_TOPIC: u64 = OF_GROUPS;
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

    /// The same for an append: one of this shard's own partition does not become an operation.
    pub(crate) fn send_append(
        &mut self,
        turn: &mut Turn<'_>,
        (gather, index): (u64, u32),
        tp: TopicPartition,
        append: AppendOp,
    ) {
        let shard = self.owner(tp);
        if shard == self.id {
            let from = OpFrom {
                shard,
                gather,
                index,
            };
            self.append(turn, from, tp, append);
        } else {
            let op = Op::Partition(tp, PartitionOp::Append(append));
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
        while let Some(reply) = self.outbox.next_here() {
            self.take_result(turn, reply);
        }
        self.partitions.shared = None;
    }

    /// One result of an operation of ours. A gather that is gone (its connection closed) is
    /// ignored.
    pub(crate) fn take_result(&mut self, turn: &mut Turn<'_>, reply: OpReply) {
        if reply.gather & OF_SHARES != 0 && reply.gather != FOR_TXNS {
            return self.take_share_result(turn, reply);
        }
        if matches!(reply.result, OpResult::Read(_) | OpResult::Wake(_)) {
            self.take_fetch_result(turn, reply);
            return;
        }
        if reply.gather == FOR_TXNS {
            return self.txn_ids_came(turn, reply.result);
        }
        let reply = match reply.result {
            OpResult::TxnMarked(error) => {
                return self.txn_marked(turn, reply.gather, reply.index, error);
            }
            OpResult::CreatedTopics(results) => {
                self.streams_topics_created(turn.now.mono, results);
                return;
            }
            OpResult::ShareStored(result) => {
                return self.share_stored(turn, reply.gather, result);
            }
            OpResult::ShareCalled(error) => {
                return self.share_called(turn, reply.gather, reply.index, error);
            }
            OpResult::ListOffset(found) if reply.gather & OF_GROUPS != 0 => {
                return self.share_start_found(turn, reply.gather & !OF_GROUPS, found);
            }
            OpResult::AutoCreate(_) if reply.gather == FOR_SHARE_TOPIC => {
                return self.share_topic_made(turn);
            }
            _ => reply,
        };
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
            Op::ShareState(op) => self.run_share_state_op(turn, from, op),
            Op::ShareSession(op) => self.run_share_session_op(turn, from, op),
            Op::ShareGroupIdle(group) => self.share_group_idle(turn, &group),
            Op::ProducerIds => self.run_producer_ids(turn, from),
            Op::AutoCreate(names) => self.run_create(turn, from, Wanted::ByDefaults(names)),
            Op::CreateTopics(topics) => self.run_create(turn, from, Wanted::AsTheyAre(topics)),
            Op::Unwatch => {
                self.partitions.unwatch(&from);
                self.shares.unwatch(&from);
            }
            Op::Space => {
                let job = self.space_job();
                self.start_job(turn, PendingJob::DescribeSpace(from), job);
            }
            Op::Partition(tp, op) => self.run_partition_op(turn, from, tp, op),
        }
    }
}
