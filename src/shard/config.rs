//! What a shard is started with.

use flumen_base::{Now, Offset, PartitionIndex, ShardId, Uuid};
use flumen_quorum::{Image, Quorum};
use flumen_settings::BrokerConfig;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What all shards of a process share and never change.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// The broker's settings. Dynamic configs are laid over them from the image. Ports of
    /// `advertised_listeners` are already the real ones (never 0).
    pub broker: BrokerConfig,
    /// The cluster's id, from `meta.properties`.
    pub cluster_id: String,
    /// All log directories, in the order of `log.dirs`.
    pub log_dirs: Vec<LogDir>,
}

/// One log directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDir {
    /// `directory.id` of its `meta.properties`; zero where that could not be read.
    pub id: Uuid,
    /// Where it is.
    pub path: PathBuf,
}

/// What was found in one log directory at start, by the name of each partition's directory
/// (`topic-partition`).
#[derive(Clone, Debug, Default)]
pub struct LogDirState {
    /// Whether the last run ended with a clean shutdown (the marker file was there and is removed
    /// now).
    pub clean: bool,
    /// `recovery-point-offset-checkpoint` is damaged.
    pub points_lost: bool,
    /// `recovery-point-offset-checkpoint`: everything below is on disk.
    pub recovery_points: BTreeMap<(String, PartitionIndex), Offset>,
    /// `log-start-offset-checkpoint`.
    pub log_starts: BTreeMap<(String, PartitionIndex), Offset>,
    /// `cleaner-offset-checkpoint`.
    pub cleaned: BTreeMap<(String, PartitionIndex), Offset>,
    /// That file is damaged: any log may have been cleaned.
    pub cleaned_lost: bool,
    /// Partition directories that are there (topic, partition), ascending, those being deleted
    /// excepted.
    pub partitions: Vec<(String, PartitionIndex)>,
    /// Names of directories that a deletion left behind (`*-delete`): removed by a job of the first
    /// shard.
    pub left_behind: Vec<String>,
    /// Partitions that were on their way here from another log directory when the last process
    /// ended: the copy is among those left behind, and begins again.
    pub arriving: Vec<(String, PartitionIndex)>,
    /// Why it can't be used, if it can't: it is offline from the start.
    pub failed: Option<String>,
}

impl LogDirState {
    /// Whether a partition's directory is there.
    pub(crate) fn has(&self, key: &(String, PartitionIndex)) -> bool {
        self.partitions.binary_search(key).is_ok()
    }
}

/// What one shard is started with.
pub struct ShardInit {
    /// Which shard.
    pub id: ShardId,
    /// How many there are; at least 1.
    pub shards: u16,
    /// Shared by all.
    pub config: Arc<ShardConfig>,
    /// Seed of its random numbers (member ids, session ids, new topic ids on shard 0).
    pub seed: u64,
    /// The time at which it starts.
    pub now: Now,
    /// The metadata image that the quorum had loaded when the process started.
    pub image: Arc<Image>,
    /// The loaded quorum: on shard 0, and only there.
    pub quorum: Option<Quorum>,
    /// What each of `ShardConfig::log_dirs` holds, in that order.
    pub log_dirs: Arc<Vec<LogDirState>>,
}

impl std::fmt::Debug for ShardInit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardInit")
            .field("id", &self.id)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}
