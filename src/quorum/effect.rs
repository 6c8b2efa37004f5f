//! What the driver of the Raft group asks of its owner, and the small types of its interface.

use crate::delta::Delta;
use crate::image::{Image, ImageError};
use crate::snapshot::SnapshotJob;
use bytes::Bytes;
use flumen_base::{BrokerId, Disk, LogFile};
use std::sync::Arc;

/// Names a proposal of this process; ascending in the order of proposing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// What the owner must do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Write and sync, then call [`crate::Quorum::append_done`]. At most one is outstanding. Where
    /// there is no room on the disk: [`crate::Quorum::append_full`].
    Append(Append),
    /// Records are committed: hand the image to every shard, then answer `finished`.
    Committed(Commit),
    /// Run on a helper thread, then call [`crate::Quorum::job_done`]. At most one is outstanding.
    Job(Job),
    /// The metadata log can't be written or does not apply: the process must end.
    Fatal(String),
}

/// A write to the metadata log.
#[derive(Clone, Debug)]
pub struct Append {
    /// The segment.
    pub file: Arc<LogFile>,
    /// Where, in bytes.
    pub pos: u64,
    /// What; it must be on disk (fdatasync) before [`crate::Quorum::append_done`].
    pub bytes: Bytes,
}

/// Newly committed records.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The cluster metadata now.
    pub image: Arc<Image>,
    /// What changed since the image of the commit before (since the empty image at the first).
    pub delta: Arc<Delta>,
    /// Proposals that are contained in it, ascending.
    pub finished: Vec<ProposalId>,
}

/// Blocking work beside the shards. Plain data; [`Job::run`] does it.
#[derive(Debug)]
pub enum Job {
    /// Write a snapshot, start a new log segment, and remove what the snapshot covers.
    Snapshot(SnapshotJob),
}

/// What a [`Job`] did.
#[derive(Debug)]
pub enum JobResult {
    /// Numbers of the log segments that were removed; or why there is no snapshot (the log then
    /// goes on growing, and it is tried again later).
    Snapshot(Result<Vec<u64>, String>),
}

impl Job {
    /// Does the work.
    pub fn run(self, disk: &dyn Disk) -> JobResult {
        match self {
            Self::Snapshot(job) => JobResult::Snapshot(job.run(disk).map_err(|e| e.to_string())),
        }
    }
}

/// Why records were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead the group (yet): NOT_CONTROLLER.
    #[error("not the controller")]
    NotLeader,
    /// Too many bytes wait to be written: try again later.
    #[error("too many metadata changes in flight")]
    Busy,
    /// The disk of the metadata log is full: try again later.
    #[error("the disk of the metadata log is full")]
    Full,
    /// A record does not fit the latest image: a bug in its handler. Nothing changed.
    #[error(transparent)]
    Invalid(ImageError),
    /// The group stopped after a failed write.
    #[error("the metadata log failed")]
    Failed,
}

/// State of the group, for DescribeQuorum and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// The leader's node id, -1 if unknown.
    pub leader: BrokerId,
    /// Raft term.
    pub term: u64,
    /// Last committed index.
    pub committed: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// The voters.
    pub voters: Vec<VoterStatus>,
}

/// One voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterStatus {
    /// Its node id.
    pub node_id: BrokerId,
    /// End of its log as far as the leader knows.
    pub last_index: u64,
}
