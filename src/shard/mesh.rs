//! What shards say to each other. All of it is plain data; buffers and file leases travel by
//! reference count.
//!
//! ```text
//! connection's shard                            partition's or group's shard
//!   Batch [op, op ...]  -- one message per turn -->  carries each out, now or when a write is done
//!                       <-- one message per turn --  Batch [result, ...]
//!   Forward(request)    -->                          runs the whole request there
//!                       <--                          Forwarded(answer)
//! shard 0 (controller)
//!   Image(image)        -->  all                     swaps it in, starts loading new partitions
//!                       <--                          Applied(version)
//! ```

use crate::io::{CloseReason, Response};
use crate::ops::{OpReply, OpRequest};
use crate::request::Request;
use bytes::Bytes;
use flumen_base::{Offset, PartitionIndex, TopicId, TopicPartition};
use flumen_quorum::{Delta, Image};
use std::sync::Arc;

/// A message from one shard to another. Those of one pair arrive in order.
#[derive(Debug)]
pub enum Message {
    /// Operations for partitions and groups of the receiver, and results of those it sent.
    Batch(Box<Batch>),
    /// A whole request to be handled by the receiver; the number is the sender's.
    Forward(u64, Box<Request>),
    /// The answer to a forwarded request; `None` where nothing is to be sent (acks=0).
    Forwarded(u64, Option<Box<Response>>),
    /// The receiver's connection with this forwarded request is to be closed.
    ForwardedClose(u64, CloseReason),
    /// From shard 0: the newest image, and what changed since the one before.
    Image(Arc<Image>, Arc<Delta>),
    /// To shard 0: the sender has applied the image up to this version.
    Applied(u64),
    /// From shard 0: this process is registered as a broker, and all shards have the image that
    /// says so.
    Registered,
    /// To shard 0: checkpoint values of the sender's partitions, all of them.
    Checkpoint(Vec<CheckpointLine>),
    /// To shard 0: checkpoint values of a partition of the sender that was cleaned.
    Cleaned(Box<CheckpointLine>),
    /// To shard 0: all logs of the sender are flushed and closed; nothing follows.
    LogsClosed(Vec<CheckpointLine>),
    /// To all: this log directory (by its index) failed, for this reason.
    DirFailed(usize, String),
    /// To shard 0: a write of the sender found no room in this log directory.
    DirFull(usize),
    /// From shard 0: whether this log directory is full.
    DirRoom(usize, bool),
    /// From shard 0: so many bytes may be appended to this log directory until the next look at its
    /// free space.
    DirGrant(usize, u64),
    /// To shard 0: a partition of the sender is in another log directory now, which the line names.
    Moved(TopicPartition, Box<CheckpointLine>),
}

/// All operations and results of one turn for one shard. The receiver fills the same memory for
/// the next batch of its own: between two shards that answer each other none is allocated.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they came up.
    pub(crate) items: Vec<BatchItem>,
    /// Parts of frames of the receiver that the sender is done with: the last to let go of a
    /// frame's memory should be the thread that allocated it.
    pub(crate) returned: Vec<Bytes>,
}

impl Batch {
    /// Operations and results in it.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none are in it.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// One of a [`Batch`].
#[derive(Debug)]
pub(crate) enum BatchItem {
    Op(OpRequest),
    Result(OpReply),
}

/// The checkpoint values of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointLine {
    /// Index of its log directory in `ShardConfig::log_dirs`.
    pub log_dir: usize,
    /// Name of its topic.
    pub topic: Arc<str>,
    /// Id of its topic.
    pub topic_id: TopicId,
    /// Its index.
    pub partition: PartitionIndex,
    /// Everything below is on disk.
    pub recovery_point: Offset,
    /// Where the log starts.
    pub log_start: Offset,
    /// What compaction has come to, if it ever ran.
    pub cleaned: Option<Offset>,
    /// Whether the log is closed: all of it, and its indexes, are on disk.
    pub closed: bool,
}
