//! Work that blocks, as plain data: made on a shard's turn, run beside the shards with a [`Disk`],
//! its output handed back with the token it went out with.

use crate::found::{self, Ids};
use crate::mesh::CheckpointLine;
use bytes::Bytes;
use flumen_base::limits::LOAD_SLICE_BYTES;
use flumen_base::{Disk, DiskFault, Space, TopicId};
use flumen_log::checkpoint::{self, Offsets};
use flumen_log::clean::{CleanOutput, Cleaning, SwapJob, Swapped};
use flumen_log::lookup::{TimestampLookup, TimestampOffset};
use flumen_log::recovery::{self, Load, LoadStep};
use flumen_log::{
    CheckedTimes, CloseJob, Closed, Copied, CopyJob, CutJob, DeleteJob, Deleted, EpochJob,
    LogConfig, Origin, ReindexJob, Reindexed, RelocateJob, Relocated, SealJob, SealStep, TimesJob,
    UnlinkJob, ValidBatch, ValidateError,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One job.
#[derive(Debug)]
pub enum Job {
    /// Go on loading (and where needed recovering) a partition, for a slice.
    Load(Box<Load>),
    /// Finish a rolled segment.
    Seal(SealJob),
    /// Write `leader-epoch-checkpoint`.
    Epoch(EpochJob),
    /// Set retired segments aside.
    Retire(DeleteJob),
    /// Unlink retired segments.
    Unlink(UnlinkJob),
    /// Close a log for shutdown.
    Close(CloseJob),
    /// Find an offset by time.
    Lookup(TimestampLookup),
    /// A slice of a cleaning.
    Clean(Box<Cleaning>),
    /// A cleaned segment takes the place of others.
    Swap(SwapJob),
    /// Remove what a cleaning has begun.
    DiscardCleaning(Box<Cleaning>),
    /// Look at the largest timestamps of segments found at start.
    Times(TimesJob),
    /// Make a wrong index anew.
    Reindex(ReindexJob),
    /// Check a batch that has much to unfold.
    Validate(ValidateJob),
    /// Rename a deleted partition's directory and remove it.
    RemovePartition {
        /// Its directory.
        dir: PathBuf,
        /// The name it gets first (`topic-partition.<id>-delete`), so that a crash leaves nothing
        /// that looks alive.
        renamed: PathBuf,
        /// Id of its topic: a directory of a younger topic of the same name stays.
        topic_id: TopicId,
    },
    /// Remove what earlier deletions left in a log directory.
    RemoveLeftBehind(PathBuf),
    /// Write the offset checkpoints of a log directory.
    Checkpoint(CheckpointJob),
    /// Write what compaction has come to in a log directory.
    Cleaned(CleanedJob),
    /// Write the last checkpoints and the marker of a clean shutdown, in every log directory.
    CleanShutdown(Vec<CheckpointJob>),
    /// Something of the quorum.
    Quorum(flumen_quorum::Job),
    /// Cut off what a failed write has left.
    Cut(CutJob),
    /// Ask how much room there is in these log directories, by index.
    Space(Vec<(usize, PathBuf)>),
    /// Copy a slice of a log to another log directory.
    Copy(CopyJob),
    /// The last step of that.
    Relocate(RelocateJob),
    /// Remove a directory that nobody uses.
    RemoveDir(PathBuf),
}

/// The room in a log directory, by index.
pub type SpaceLine = (usize, io::Result<Option<Space>>);

/// Input of [`Job::Validate`].
#[derive(Debug)]
pub struct ValidateJob {
    pub(crate) batch: Bytes,
    pub(crate) config: Arc<LogConfig>,
    pub(crate) now_ms: i64,
    pub(crate) decompressed_max: usize,
    pub(crate) frame_len: usize,
    pub(crate) txn: flumen_log::TxnContext,
}

/// The checkpoint values of one log directory.
#[derive(Debug)]
pub struct CheckpointJob {
    pub(crate) dir: PathBuf,
    pub(crate) recovery_points: Offsets,
    pub(crate) log_starts: Offsets,
    pub(crate) cleaned: Offsets,
    pub(crate) topic_ids: Ids,
    /// A log in it is not closed: no marker of a clean shutdown.
    pub(crate) unclean: bool,
}

/// What compaction has come to in some partitions of a log directory.
#[derive(Debug)]
pub struct CleanedJob {
    pub(crate) dir: PathBuf,
    pub(crate) offsets: Offsets,
}

/// What a job gives.
#[derive(Debug)]
pub enum JobOutput {
    /// Of [`Job::Load`].
    Load(io::Result<LoadStep>),
    /// Of [`Job::Seal`].
    Seal(io::Result<SealStep>),
    /// Of [`Job::Retire`].
    Retire(io::Result<Deleted>),
    /// Of [`Job::Close`].
    Close(io::Result<Closed>),
    /// Of [`Job::Clean`].
    Clean(Box<CleanOutput>),
    /// Of [`Job::Swap`].
    Swap(io::Result<Swapped>),
    /// Of [`Job::Lookup`].
    Lookup(io::Result<(Option<TimestampOffset>, CheckedTimes)>),
    /// Of [`Job::Times`].
    Times(io::Result<CheckedTimes>),
    /// Of [`Job::Reindex`].
    Reindex(io::Result<Reindexed>),
    /// The job failed, and may be done again later.
    Again(Box<Job>, io::Error),
    /// Of [`Job::Validate`].
    Validate(Result<ValidBatch, ValidateError>),
    /// Of [`Job::Quorum`].
    Quorum(flumen_quorum::JobResult),
    /// Of [`Job::Retire`], where there was no room: to be done again.
    RetireAgain(Box<DeleteJob>, io::Error),
    /// Of [`Job::Space`].
    Space(Vec<SpaceLine>),
    /// Of [`Job::Copy`].
    Copy(io::Result<Copied>),
    /// Of [`Job::Relocate`].
    Relocate(io::Result<Relocated>),
    /// Of all others.
    Done(io::Result<()>),
}

impl Job {
    /// Does it. Blocking.
    pub fn run(self, disk: &dyn Disk) -> JobOutput {
        match self {
            Self::Load(load) => JobOutput::Load(load.step(disk, LOAD_SLICE_BYTES)),
            Self::Seal(job) => JobOutput::Seal(job.run(disk)),
            Self::Epoch(job) => JobOutput::Done(job.run(disk)),
            Self::Retire(job) => match job.run(disk) {
                Err(e) if DiskFault::of(e.kind()) == DiskFault::Full => {
                    JobOutput::RetireAgain(Box::new(job), e)
                }
                result => JobOutput::Retire(result),
            },
            Self::Unlink(job) => match job.run(disk) {
                Ok(()) => JobOutput::Done(Ok(())),
                Err(error) => JobOutput::Again(Box::new(Self::Unlink(job)), error),
            },
            Self::Close(job) => JobOutput::Close(job.run(disk)),
            Self::Lookup(job) => JobOutput::Lookup(job.run(disk)),
            Self::Clean(work) => JobOutput::Clean(Box::new(work.slice(disk))),
            Self::Swap(job) => JobOutput::Swap(job.run(disk)),
            Self::DiscardCleaning(work) => JobOutput::Done(work.discard(disk)),
            Self::Times(job) => JobOutput::Times(job.run(disk)),
            Self::Reindex(job) => JobOutput::Reindex(job.run(disk)),
            Self::Validate(job) => JobOutput::Validate(job.run()),
            Self::RemovePartition {
                dir,
                renamed,
                topic_id,
            } => match remove_partition(disk, &dir, &renamed, topic_id) {
                Ok(()) => JobOutput::Done(Ok(())),
                Err(error) => {
                    let again = Self::RemovePartition {
                        dir,
                        renamed,
                        topic_id,
                    };
                    JobOutput::Again(Box::new(again), error)
                }
            },
            Self::RemoveLeftBehind(dir) => {
                JobOutput::Done(recovery::remove_deleted_dirs(disk, &dir).map(|_| ()))
            }
            Self::Checkpoint(job) => JobOutput::Done(job.run(disk)),
            Self::Cleaned(job) => JobOutput::Done(job.run(disk)),
            Self::CleanShutdown(jobs) => JobOutput::Done(clean_shutdown(disk, jobs)),
            Self::Quorum(job) => JobOutput::Quorum(job.run(disk)),
            Self::Cut(job) => JobOutput::Done(job.run(disk)),
            Self::Space(dirs) => {
                let line = |(n, path): (usize, PathBuf)| (n, disk.space(&path));
                JobOutput::Space(dirs.into_iter().map(line).collect())
            }
            Self::Copy(job) => JobOutput::Copy(job.run(disk)),
            Self::Relocate(job) => JobOutput::Relocate(job.run(disk)),
            Self::RemoveDir(path) => JobOutput::Done(match disk.remove_dir_all(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }),
        }
    }

    /// Whether it is short, and appends wait for it.
    pub fn is_awaited(&self) -> bool {
        matches!(self, Self::Seal(job) if job.is_awaited())
    }

    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Load(_) => "load",
            Self::Seal(_) => "seal",
            Self::Epoch(_) => "epoch checkpoint",
            Self::Retire(_) => "retire",
            Self::Unlink(_) => "unlink",
            Self::Close(_) => "close",
            Self::Lookup(_) => "time lookup",
            Self::Clean(_) => "clean",
            Self::Swap(_) => "swap",
            Self::DiscardCleaning(_) => "discard cleaning",
            Self::Times(_) => "times",
            Self::Reindex(_) => "reindex",
            Self::Validate(_) => "validate",
            Self::RemovePartition { .. } => "remove partition",
            Self::RemoveLeftBehind(_) => "remove leftovers",
            Self::Checkpoint(_) => "checkpoint",
            Self::Cleaned(_) => "cleaner checkpoint",
            Self::CleanShutdown(_) => "clean shutdown",
            Self::Quorum(_) => "quorum",
            Self::Cut(_) => "cut",
            Self::Space(_) => "space",
            Self::Copy(_) => "copy",
            Self::Relocate(_) => "relocate",
            Self::RemoveDir(_) => "remove directory",
        }
    }
}

impl ValidateJob {
    fn run(self) -> Result<ValidBatch, ValidateError> {
        flumen_log::validate(
            self.batch,
            &self.config,
            Origin::Client,
            self.now_ms,
            self.decompressed_max,
        )
        .map(|batch| batch.with_frame_len(self.frame_len).with_txn(self.txn))
    }
}

impl CheckpointJob {
    /// For a log directory, without partitions yet.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            recovery_points: Offsets::new(),
            log_starts: Offsets::new(),
            cleaned: Offsets::new(),
            topic_ids: Ids::new(),
            unclean: false,
        }
    }

    /// Adds one partition. A log start of 0 is left out, as Kafka does: it is what is assumed.
    pub(crate) fn add(&mut self, line: &CheckpointLine) {
        let key = (line.topic.to_string(), line.partition);
        self.unclean |= !line.closed;
        if line.log_start.0 > 0 {
            self.log_starts.insert(key.clone(), line.log_start);
        }
        if let Some(cleaned) = line.cleaned {
            self.cleaned.insert(key.clone(), cleaned);
        }
        self.recovery_points
            .insert(key.clone(), line.recovery_point);
        self.topic_ids.insert(key, line.topic_id);
    }

    fn run(&self, disk: &dyn Disk) -> io::Result<()> {
        let (points, starts) = (&self.recovery_points, &self.log_starts);
        // In this order: what is gone below a log's start must not be missed.
        checkpoint::write_offsets(disk, &self.dir, checkpoint::LOG_START, starts)?;
        if !self.cleaned.is_empty() || disk.exists(&self.dir.join(checkpoint::CLEANER)) {
            checkpoint::write_offsets(disk, &self.dir, checkpoint::CLEANER, &self.cleaned)?;
        }
        checkpoint::write_offsets(disk, &self.dir, checkpoint::RECOVERY_POINT, points)?;
        found::write_ids(disk, &self.dir, &self.topic_ids)
    }
}

impl CleanedJob {
    /// The other lines of the file stay, unless it is damaged: then the next checkpoint of all
    /// partitions has them again.
    fn run(self, disk: &dyn Disk) -> io::Result<()> {
        let mut all = match checkpoint::read_offsets(disk, &self.dir, checkpoint::CLEANER) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Offsets::new(),
            read => read?,
        };
        all.extend(self.offsets);
        checkpoint::write_offsets(disk, &self.dir, checkpoint::CLEANER, &all)
    }
}

/// One directory's failure leaves the others as they should be.
fn clean_shutdown(disk: &dyn Disk, jobs: Vec<CheckpointJob>) -> io::Result<()> {
    let close = |job: CheckpointJob| {
        job.run(disk)?;
        match job.unclean {
            true => Ok(()),
            false => checkpoint::write_clean_shutdown(disk, &job.dir, -1),
        }
    };
    jobs.into_iter().map(close).fold(Ok(()), Result::and)
}

fn remove_partition(
    disk: &dyn Disk,
    dir: &Path,
    renamed: &Path,
    topic_id: TopicId,
) -> io::Result<()> {
    match checkpoint::read_partition_metadata(disk, dir) {
        Ok(Some(id)) if id != topic_id => return Ok(()),
        _ => {}
    }
    match disk.rename(dir, renamed) {
        Ok(()) => {}
        // Created but never written: nothing is there. Or an earlier try came this far.
        Err(e) if e.kind() == io::ErrorKind::NotFound && !disk.exists(renamed) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        // No room for the other name.
        Err(e) if DiskFault::of(e.kind()) == DiskFault::Full => return disk.remove_dir_all(dir),
        Err(e) => return Err(e),
    }
    if let Some(parent) = renamed.parent() {
        disk.sync_dir(parent)?;
    }
    disk.remove_dir_all(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_log::testing::MemDisk;

    #[test]
    fn a_removal_that_failed_half_way_ends_with_the_next_try() {
        let disk = MemDisk::new();
        let (dir, renamed) = (Path::new("/logs/t-0"), Path::new("/logs/t-0.12-delete"));
        let id = TopicId::from_bytes([1; 16]);
        disk.create_dir_all(renamed).unwrap();
        remove_partition(&disk, dir, renamed, id).unwrap();
        assert!(!disk.exists(renamed));
        remove_partition(&disk, dir, renamed, id).unwrap(); // nothing is left
        // A younger topic of the same name stays.
        disk.create_dir_all(dir).unwrap();
        checkpoint::write_partition_metadata(&disk, dir, TopicId::from_bytes([2; 16])).unwrap();
        remove_partition(&disk, dir, renamed, id).unwrap();
        assert!(disk.exists(dir));
    }
}
