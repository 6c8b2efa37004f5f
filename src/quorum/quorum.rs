//! The Raft group of the metadata log, driven without I/O.

use crate::codec::RecordError;
use crate::delta::Delta;
use crate::image::{Image, ImageError};
use crate::record::MetadataRecord;
use bytes::Bytes;
use flumen_base::{BrokerId, Disk, LogFile, Now};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to start a [`Quorum`].
#[derive(Clone, Debug)]
pub struct QuorumConfig {
    /// This node's id.
    pub node_id: BrokerId,
    /// The directory that was loaded.
    pub dir: PathBuf,
    /// Log files get ids from here upwards; a range of its own, so that they differ from those of partitions.
    pub file_id_base: u64,
    /// Log bytes after which a snapshot is taken and the log before it removed.
    pub snapshot_bytes: u64,
}

/// Names a proposal of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// What the owner must do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Write and sync, then call [`Quorum::append_done`]. At most one is outstanding.
    Append(Append),
    /// Records are committed: hand the image to every shard, then answer `finished`.
    Committed(Commit),
    /// Run on a helper thread, then call [`Quorum::job_done`].
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
    /// What; it must be on disk (fdatasync) before [`Quorum::append_done`].
    pub bytes: Bytes,
}

/// Newly committed records.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The cluster metadata now.
    pub image: Arc<Image>,
    /// What changed since the image before.
    pub delta: Arc<Delta>,
    /// Proposals that are contained in it, ascending.
    pub finished: Vec<ProposalId>,
}

/// Blocking work beside the shards. Plain data; [`Job::run`] does it.
#[derive(Debug)]
pub enum Job {
    /// Write a snapshot, start a new log segment, and remove what the snapshot covers.
    Snapshot(Box<SnapshotJob>),
}

/// What [`Job::Snapshot`] needs.
#[derive(Debug)]
pub struct SnapshotJob {
    pub(crate) image: Arc<Image>,
}

/// What a [`Job`] did.
#[derive(Debug)]
pub enum JobResult {
    /// The snapshot is on disk, or why it is not (the log then just goes on growing).
    Snapshot(Result<(), String>),
}

impl Job {
    /// Does the work.
    pub fn run(self, _disk: &dyn Disk) -> JobResult {
        JobResult::Snapshot(Ok(()))
    }
}

/// Why a metadata directory can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The disk failed.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] std::io::Error),
    /// Bytes that were acknowledged are damaged (not just a torn tail).
    #[error("{path} is corrupt at byte {pos}: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        pos: u64,
        /// What is wrong.
        reason: String,
    },
    /// A record can't be read, most likely one of a later release.
    #[error("{0}: {1}")]
    Record(PathBuf, #[source] RecordError),
    /// A record does not fit the state before it.
    #[error("{0}: {1}")]
    Image(PathBuf, #[source] ImageError),
}

/// What [`Quorum::load`] found.
#[derive(Debug)]
pub struct Loaded {
    image: Arc<Image>,
}

impl Loaded {
    /// The metadata of the last snapshot; what the log adds comes with the first [`Effect::Committed`].
    pub fn image(&self) -> &Arc<Image> {
        &self.image
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
    /// A record does not fit the latest image: a bug in its handler.
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

/// One node's part in the metadata Raft group.
#[derive(Debug)]
pub struct Quorum {
    committed: Arc<Image>,
}

impl Quorum {
    /// Reads snapshot and log from `dir` (created if missing), cuts a torn tail. Blocks: run it as a job at start.
    pub fn load(_disk: &dyn Disk, _dir: &Path) -> Result<Loaded, LoadError> {
        Ok(Loaded {
            image: Arc::default(),
        })
    }

    /// Starts the group of one voter and its election; the first effects come from [`Quorum::poll`].
    pub fn new(_config: QuorumConfig, loaded: Loaded, _now: Now) -> Self {
        Self {
            committed: loaded.image,
        }
    }

    /// Whether this node leads and has applied everything from before: from then on handlers may decide.
    pub fn is_ready(&self) -> bool {
        false
    }

    /// The metadata including what is proposed but not yet committed: what handlers decide on.
    pub fn latest(&self) -> &Image {
        &self.committed
    }

    /// The committed metadata: what everybody may see.
    pub fn committed(&self) -> &Arc<Image> {
        &self.committed
    }

    /// Takes records as one entry: all or nothing. They are applied to [`Quorum::latest`] at once.
    pub fn propose(&mut self, _records: Vec<MetadataRecord>) -> Result<ProposalId, ProposeError> {
        Err(ProposeError::NotLeader)
    }

    /// Appends what there is to do to `out`. Call it after anything else was called, at the end of the turn.
    pub fn poll(&mut self, _out: &mut Vec<Effect>) {}

    /// The outstanding [`Effect::Append`] is on disk, or failed for the reason given.
    pub fn append_done(&mut self, _result: Result<(), String>) {}

    /// The outstanding [`Effect::Job`] is done.
    pub fn job_done(&mut self, _result: JobResult) {}

    /// Time passes (elections and heartbeats of a larger group).
    pub fn tick(&mut self, _now: Now) {}

    /// When [`Quorum::tick`] wants to be called next; `None` for a group of one.
    pub fn next_deadline(&self) -> Option<flumen_base::Mono> {
        None
    }

    /// State of the group.
    pub fn status(&self) -> QuorumStatus {
        QuorumStatus {
            leader: -1,
            term: 0,
            committed: 0,
            last_index: 0,
            voters: Vec::new(),
        }
    }
}
