//! Loading a partition's directory at start: what Kafka's LogLoader does, as a job over the disk.

use crate::config::LogConfig;
use flumen_base::{Disk, Offset, TopicId};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to load and what is known about it.
#[derive(Clone, Debug)]
pub struct LoadParams {
    /// The partition's directory; created if missing.
    pub dir: PathBuf,
    /// Its settings.
    pub config: Arc<LogConfig>,
    /// From `recovery-point-offset-checkpoint`, 0 if absent.
    pub recovery_point: Offset,
    /// From `log-start-offset-checkpoint`, 0 if absent.
    pub log_start_offset: Offset,
    /// Whether the log directory was shut down cleanly.
    pub clean: bool,
    /// Wall clock in milliseconds, for producer expiry.
    pub now_ms: i64,
    /// Written to `partition.metadata` when that is missing; a file with another id is an error.
    pub topic_id: TopicId,
}

/// What loading did, for the log of the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Segments found.
    pub segments: usize,
    /// Segments whose batches were read and whose indexes were rebuilt.
    pub segments_recovered: usize,
    /// Bytes of log data read.
    pub bytes_scanned: u64,
    /// Bytes cut off a torn tail.
    pub bytes_truncated: u64,
    /// Files removed: leftovers and segments behind a cut.
    pub files_removed: Vec<String>,
    /// Why the tail was cut, if it was.
    pub cut: Option<String>,
}

/// A loaded log, to be given to [`crate::Log::from_loaded`].
#[derive(Debug)]
pub struct LoadedLog {
    pub(crate) dir: PathBuf,
    /// What was done.
    pub report: LoadReport,
}

/// Loads a partition's directory. Blocking: for a job.
pub fn load(disk: &dyn Disk, params: LoadParams) -> io::Result<LoadedLog> {
    let _ = (disk, params);
    todo!()
}

/// Removes what a crash left in a log directory: `-delete` directories and, of `strays`, nothing (they are the caller's).
/// Returns the names removed.
pub fn remove_deleted_dirs(disk: &dyn Disk, log_dir: &Path) -> io::Result<Vec<String>> {
    let _ = (disk, log_dir);
    todo!()
}
