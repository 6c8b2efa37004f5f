//! Scatter and gather: one request becomes operations for partitions and groups of any shard; their
//! results come back and, when all are there, become the answer.
//!
//! Operations for another shard wait in an outbox until the end of the turn and travel in one
//! message; so do results. Those for this shard are carried out at once, and their results are
//! handed over before the step ends.

use crate::Shard;
use crate::io::{Effect, Segment};
use crate::mesh::Message;
use crate::request::Reply;
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::{ErrorCode, ShardId, TopicPartition};
use flumen_wire::messages as wire;
use std::collections::VecDeque;

/// One operation, on its way to the shard that owns its partition or group.
#[derive(Debug)]
pub struct OpRequest {
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
    /// Shard 0: a block of producer ids.
    ProducerIds,
    /// Shard 0: create these topics with the broker's defaults.
    AutoCreate(Vec<String>),
}

/// What to do with a partition.
#[derive(Debug)]
pub(crate) enum PartitionOp {
    Append(AppendOp),
    Read(ReadOp),
    /// Send [`OpResult::Wake`] when the high watermark is above this one (long poll), until
    /// [`Message::Unwatch`].
    Watch(i64),
    ListOffset(ListOffsetOp),
    EpochEnd {
        current_leader_epoch: i32,
        epoch: i32,
    },
    /// Delete below this offset; -1 is the high watermark.
    DeleteRecords(i64),
    /// Size for DescribeLogDirs.
    Size,
    /// Active producers for DescribeProducers.
    Producers,
}

/// A produce to one partition.
#[derive(Debug)]
pub(crate) struct AppendOp {
    /// Exactly the records field, a part of the request's frame.
    pub(crate) records: Bytes,
    /// Length of that frame: what a batch kept in memory would keep with it.
    pub(crate) frame_len: usize,
    /// Version of the Produce request: decides some checks.
    pub(crate) version: i16,
}

/// A fetch from one partition.
#[derive(Clone, Debug)]
pub(crate) struct ReadOp {
    pub(crate) offset: i64,
    pub(crate) max_bytes: u32,
    /// The first batch is returned whole even if it is larger than `max_bytes`.
    pub(crate) min_one: bool,
    pub(crate) current_leader_epoch: i32,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) committed_only: bool,
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

/// An operation of the group coordinator that is part of a request for several groups.
#[derive(Debug)]
pub(crate) enum GroupOp {
    Describe {
        group: String,
        version: i16,
    },
    Delete {
        groups: Vec<String>,
    },
    OffsetFetch {
        /// Group number `group` of this request is meant; kept encoded, it is cheap to decode
        /// again.
        body: Bytes,
        group: usize,
        version: i16,
    },
    List {
        body: Bytes,
        version: i16,
    },
}

/// The result of one operation, on its way back.
#[derive(Debug)]
pub struct OpReply {
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
    /// Index of the log directory, bytes.
    Size(Result<(usize, u64), ErrorCode>),
    Producers(Result<Vec<ProducerLine>, ErrorCode>),
    Group(GroupResult),
    /// First id and how many.
    ProducerIds(Result<(i64, i32), ErrorCode>),
    AutoCreate(Vec<(String, ErrorCode)>),
}

/// The answer to a produce to one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendResult {
    pub(crate) error: ErrorCode,
    pub(crate) base_offset: i64,
    pub(crate) log_append_time: i64,
    pub(crate) log_start: i64,
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
            record_errors: Vec::new(),
            message: None,
        }
    }
}

/// The answer to a fetch from one partition.
#[derive(Debug)]
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
    pub(crate) data: Vec<Segment>,
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
            data: Vec::new(),
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

/// What a group operation gives.
#[derive(Debug)]
pub(crate) enum GroupResult {
    Describe(Box<wire::describe_groups_response::DescribedGroup<'static>>),
    Delete(Vec<wire::delete_groups_response::DeletableGroupResult<'static>>),
    OffsetFetch(Box<wire::offset_fetch_response::OffsetFetchResponseGroup<'static>>),
    List(Result<Vec<wire::list_groups_response::ListedGroup<'static>>, ErrorCode>),
}

/// Collects the results of one request's operations.
pub(crate) trait Gathering: Send {
    /// Takes one result.
    fn take(&mut self, index: u32, result: OpResult);
    /// All are there: answer.
    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply);
}

/// A request that waits for results.
pub(crate) struct Gather {
    pub(crate) reply: Reply,
    pub(crate) outstanding: u32,
    pub(crate) body: Box<dyn Gathering>,
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
    ops: Vec<Vec<OpRequest>>,
    results: Vec<Vec<OpReply>>,
    here: VecDeque<OpReply>,
}

impl Outbox {
    /// Empty, for shard `me` of `shards`.
    pub(crate) fn new(me: ShardId, shards: u16) -> Self {
        Self {
            me,
            ops: (0..shards).map(|_| Vec::new()).collect(),
            results: (0..shards).map(|_| Vec::new()).collect(),
            here: VecDeque::new(),
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
        } else if let Some(out) = self.results.get_mut(to.shard.index()) {
            out.push(reply);
        }
    }

    /// Sends what waits for other shards: one message of operations and one of results per shard.
    pub(crate) fn flush(&mut self, turn: &mut Turn<'_>) {
        for (n, ops) in self.ops.iter_mut().enumerate() {
            if !ops.is_empty() {
                let message = Message::Ops(std::mem::take(ops));
                turn.fx.push(Effect::Mesh(ShardId(n as u16), message));
            }
        }
        for (n, results) in self.results.iter_mut().enumerate() {
            if !results.is_empty() {
                let message = Message::Results(std::mem::take(results));
                turn.fx.push(Effect::Mesh(ShardId(n as u16), message));
            }
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
        let gather = self.next_id();
        let outstanding = ops.len() as u32;
        let entry = Gather {
            reply,
            outstanding,
            body,
        };
        self.gathers.insert(gather, entry);
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
        } else if let Some(out) = self.outbox.ops.get_mut(shard.index()) {
            out.push(OpRequest { gather, index, op });
        }
    }

    /// Hands over the results of local operations, those that come up meanwhile included.
    pub(crate) fn drain_results(&mut self, turn: &mut Turn<'_>) {
        while let Some(reply) = self.outbox.here.pop_front() {
            self.take_result(turn, reply);
        }
    }

    /// One result of an operation of ours. A gather that is gone (its connection closed) is
    /// ignored.
    pub(crate) fn take_result(&mut self, turn: &mut Turn<'_>, reply: OpReply) {
        if matches!(reply.result, OpResult::Read(_) | OpResult::Wake(_)) {
            self.take_fetch_result(turn, reply);
            return;
        }
        let Some(gather) = self.gathers.get_mut(&reply.gather) else {
            return;
        };
        gather.body.take(reply.index, reply.result);
        gather.outstanding -= 1;
        if gather.outstanding == 0
            && let Some(gather) = self.gathers.remove(&reply.gather)
        {
            gather.body.finish(self, turn, gather.reply);
        }
    }

    /// Carries out one operation for `from`.
    pub(crate) fn run_op(&mut self, turn: &mut Turn<'_>, from: OpFrom, op: Op) {
        match op {
            Op::Group(op) => self.run_group_op(turn, from, op),
            Op::ProducerIds => self.run_producer_ids(turn, from),
            Op::AutoCreate(names) => self.run_auto_create(turn, from, names),
            Op::Partition(tp, op) => self.run_partition_op(turn, from, tp, op),
        }
    }
}
