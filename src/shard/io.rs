//! What goes into a shard and what comes out: the whole boundary between the synchronous core and
//! the runtime.
//!
//! ```text
//!            Input                                   Effect
//! sockets -> ConnOpened, Frame, Sent, ConnClosed     Send, SetReading, CloseConn     -> sockets
//! disk    -> IoDone                                  Io (write, sync, read)          -> ring
//! jobs    -> JobDone                               Job (recovery ...)            -> background
//! mesh    -> Mesh                                  Mesh                          -> other shards
//! ```
//! The runtime collects the inputs of one turn, calls [`crate::Shard::step`] for each, then
//! [`crate::Shard::end_turn`] once (coalesced writes leave there), and carries out all effects in
//! one batch. It also calls [`crate::Shard::tick`] when [`crate::Shard::next_deadline`] has passed.

use crate::jobs::{Job, JobOutput};
use crate::mesh::Message;
use bytes::Bytes;
use flumen_base::{LogFile, ShardId};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;

/// A connection of one shard, never reused while the process runs (a slot index and a generation,
/// chosen by the runtime).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Names the shard's own parked operation in a completion; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What the runtime knows of a new connection.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Index into the configured listeners.
    pub listener: usize,
    /// The client's address.
    pub peer: SocketAddr,
}

/// One input of a shard. The runtime knows jobs and messages only as types to carry, hence the
/// parameters.
#[derive(Debug)]
pub enum Input<M = Message, O = JobOutput> {
    /// A connection was given to this shard.
    ConnOpened(ConnId, ConnInfo),
    /// One whole request, without its 4-byte size, at most `socket.request.max.bytes` long (the
    /// runtime checks).
    Frame(ConnId, Bytes),
    /// So many responses have left for the kernel completely, oldest first. Comes before the
    /// connection's next frame; at once only while the connection is not read
    /// ([`Effect::SetReading`]) and after [`Input::Shutdown`].
    Sent(ConnId, u32),
    /// The peer or the runtime closed it. The runtime keeps buffers and leases of sends in progress
    /// until they end.
    ConnClosed(ConnId),
    /// Completion of an [`Effect::Io`]. Completions of different operations come in any order.
    IoDone(Token, Result<IoOutput, IoFailure>),
    /// A log file could not be read for an answer ([`Segment::File`]); the connection it was for is
    /// closed. A shorter file than was promised is an end of file here.
    SliceFailed(IoFailure),
    /// Completion of an [`Effect::Job`].
    JobDone(Token, Box<O>),
    /// From another shard (or this one, for uniform code), in the order it sent them.
    Mesh(ShardId, M),
    /// Somebody wants the metrics: answer with [`Effect::Metrics`].
    MetricsWanted(Token),
    /// SIGTERM: no new work is admitted; when the shard has nothing in flight it emits
    /// [`Effect::Stopped`].
    Shutdown,
}

/// One effect of a shard. Effects on one connection or one file are carried out in the order given.
#[derive(Debug)]
pub enum Effect<M = Message, J = Job> {
    /// The next response of this connection, in request order, its 4-byte size included.
    Send(ConnId, Response),
    /// Stop or go on reading this connection (backpressure). Frames already received may still
    /// come.
    SetReading(ConnId, bool),
    /// Close after what was sent before has left; the reason goes to the log. [`Input::ConnClosed`]
    /// follows.
    CloseConn(ConnId, CloseReason),
    /// Disk work of the hot path.
    Io(Token, DiskOp),
    /// All writes to this file have ended and there will be no more: what the file system keeps
    /// allocated behind its end may go.
    Full(Arc<LogFile>),
    /// Disk work beside the hot path.
    Job(Token, J),
    /// To another shard; batched per destination and turn.
    Mesh(ShardId, M),
    /// Answer to [`Input::MetricsWanted`]: Prometheus text of this shard.
    Metrics(Token, String),
    /// The recovered and served state of this shard changed to ready.
    Ready,
    /// Nothing is in flight any more after [`Input::Shutdown`].
    Stopped,
    /// The shard can't go on (for example no log directory is left): log it and end the process
    /// with a failure.
    Fatal(String),
}

/// One response: header and bodies in order. Bytes are sent as they are; file slices by `pread` and
/// `send` or by splice, as the runtime sees fit. If a slice turns out shorter than promised, or
/// can't be read, the runtime closes the connection and says so by [`Input::SliceFailed`].
#[derive(Debug, Default)]
pub struct Response {
    /// In order of sending.
    pub segments: SmallVec<[Segment; 4]>,
}

/// A piece of a response.
#[derive(Clone, Debug)]
pub enum Segment {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes of a log file.
    File(FileSlice),
}

/// A range of a log file; the `Arc` leases it until it is sent.
#[derive(Clone, Debug)]
pub struct FileSlice {
    /// The segment's file.
    pub file: Arc<LogFile>,
    /// Where the slice starts, in bytes.
    pub pos: u64,
    /// Its length in bytes.
    pub len: u32,
}

impl Segment {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(slice) => slice.len as usize,
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Response {
    /// Length of all segments in bytes.
    pub fn len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// Length of the segments that are in memory, in bytes.
    pub fn bytes_in_memory(&self) -> usize {
        let in_memory = self.segments.iter().map(|s| match s {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::File(_) => 0,
        });
        in_memory.sum()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(Segment::is_empty)
    }
}

/// A disk operation of the hot path. The runtime opens the file on first use (a write creates it)
/// and finishes short writes and reads itself.
#[derive(Debug)]
pub enum DiskOp {
    /// Write all buffers at `pos`; with `sync`, fdatasync before completing. At most one write per
    /// file is in flight.
    Write {
        /// The segment's file.
        file: Arc<LogFile>,
        /// Where the first buffer goes, in bytes.
        pos: u64,
        /// In order.
        bufs: Vec<Bytes>,
        /// Whether the completion waits for fdatasync.
        sync: bool,
    },
    /// fdatasync.
    Sync {
        /// The segment's file.
        file: Arc<LogFile>,
    },
    /// Read up to `len` bytes at `pos`; fewer only at the end of the file.
    Read {
        /// The segment's file.
        file: Arc<LogFile>,
        /// Where to start, in bytes.
        pos: u64,
        /// How many bytes at most.
        len: u32,
    },
}

/// What a completed [`DiskOp`] gives.
#[derive(Debug)]
pub enum IoOutput {
    /// A write or sync is done.
    Done,
    /// A write is done; its list of buffers comes back, to be used for another.
    Written(Vec<Bytes>),
    /// The bytes read.
    Read(Bytes),
}

/// Why a disk operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{op} of {path}: {kind}")]
pub struct IoFailure {
    /// "write", "fdatasync" or "read".
    pub op: &'static str,
    /// The file.
    pub path: String,
    /// The system's own error (ENOSPC is `StorageFull`).
    pub kind: std::io::ErrorKind,
}

/// Why the broker closes a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The request could not be parsed.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// As Kafka: an API key the broker does not know.
    #[error("unknown api key {0}")]
    UnknownApi(i16),
    /// As Kafka: a version the broker does not know.
    #[error("unsupported version {1} of api key {0}")]
    UnsupportedVersion(i16, i16),
    /// As Kafka: a produce with acks=0 failed, and closing is the only way to say so.
    #[error("error in a produce with acks=0")]
    ProduceWithoutAcksFailed,
    /// A change that can't be made now, for an API that has no words for it: clients ask again.
    #[error("not possible now: {0}")]
    NotNow(String),
    /// `connections.max.idle.ms` passed.
    #[error("idle")]
    Idle,
    /// Too many connections.
    #[error("too many connections")]
    TooManyConnections,
    /// The broker ends.
    #[error("shutting down")]
    Shutdown,
}

/// The effects of one turn, in order. The runtime owns it, drains it after
/// [`crate::Shard::end_turn`] and hands the same one in again, so that its memory is reused.
#[derive(Debug)]
pub struct Effects<M = Message, J = Job> {
    list: Vec<Effect<M, J>>,
}

impl<M, J> Default for Effects<M, J> {
    fn default() -> Self {
        Self { list: Vec::new() }
    }
}

impl<M, J> Effects<M, J> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one at the end.
    pub fn push(&mut self, effect: Effect<M, J>) {
        self.list.push(effect);
    }

    /// Takes all of them, oldest first; the memory stays.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Effect<M, J>> {
        self.list.drain(..)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
