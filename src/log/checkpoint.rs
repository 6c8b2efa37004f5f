//! Kafka's small files of a log directory: checkpoints, `partition.metadata`, `meta.properties`, `.kafka_cleanshutdown`.

use flumen_base::{Disk, Offset, TopicId};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Name of the checkpoint of recovery points.
pub const RECOVERY_POINT: &str = "recovery-point-offset-checkpoint";
/// Name of the checkpoint of log start offsets.
pub const LOG_START: &str = "log-start-offset-checkpoint";
/// Name of the checkpoint of high watermarks.
pub const HIGH_WATERMARK: &str = "replication-offset-checkpoint";
/// Name of the marker of a clean shutdown.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// (topic name, partition) -> offset.
pub type Offsets = BTreeMap<(String, i32), Offset>;

/// Reads one of the three offset checkpoints of a log directory; empty when the file is missing.
pub fn read_offsets(disk: &dyn Disk, log_dir: &Path, name: &str) -> io::Result<Offsets> {
    let _ = (disk, log_dir, name);
    todo!()
}

/// Writes one of the three offset checkpoints.
pub fn write_offsets(
    disk: &dyn Disk,
    log_dir: &Path,
    name: &str,
    offsets: &Offsets,
) -> io::Result<()> {
    let _ = (disk, log_dir, name, offsets);
    todo!()
}

/// Topic id in a partition directory's `partition.metadata`; `None` when the file is missing.
pub fn read_partition_metadata(disk: &dyn Disk, dir: &Path) -> io::Result<Option<TopicId>> {
    let _ = (disk, dir);
    todo!()
}

/// Writes `partition.metadata`.
pub fn write_partition_metadata(disk: &dyn Disk, dir: &Path, id: TopicId) -> io::Result<()> {
    let _ = (disk, dir, id);
    todo!()
}

/// `meta.properties` of a log directory (version 1, KRaft).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// `cluster.id`.
    pub cluster_id: String,
    /// `node.id`.
    pub node_id: i32,
    /// `directory.id`, if there is one.
    pub directory_id: Option<flumen_base::Uuid>,
}

/// Reads `meta.properties`; `None` when it is missing.
pub fn read_meta_properties(disk: &dyn Disk, log_dir: &Path) -> io::Result<Option<MetaProperties>> {
    let _ = (disk, log_dir);
    todo!()
}

/// Writes `meta.properties`.
pub fn write_meta_properties(
    disk: &dyn Disk,
    log_dir: &Path,
    meta: &MetaProperties,
) -> io::Result<()> {
    let _ = (disk, log_dir, meta);
    todo!()
}

/// Whether the clean-shutdown marker is there. Remove it before the first write.
pub fn has_clean_shutdown(disk: &dyn Disk, log_dir: &Path) -> bool {
    disk.exists(&log_dir.join(CLEAN_SHUTDOWN))
}

/// Removes the marker; fine if it is not there.
pub fn remove_clean_shutdown(disk: &dyn Disk, log_dir: &Path) -> io::Result<()> {
    let _ = (disk, log_dir);
    todo!()
}

/// Writes the marker, the last file of a clean shutdown.
pub fn write_clean_shutdown(
    disk: &dyn Disk,
    log_dir: &Path,
    broker_epoch: i64,
) -> io::Result<()> {
    let _ = (disk, log_dir, broker_epoch);
    todo!()
}
