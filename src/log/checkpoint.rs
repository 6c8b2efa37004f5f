//! Kafka's small files of a log directory: offset checkpoints, `partition.metadata`,
//! `meta.properties`, `.kafka_cleanshutdown`. All are replaced as a whole, so a crash leaves the
//! old one or the new one.

use flumen_base::{Disk, Offset, OpenMode, TopicId, Uuid};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

/// Name of the checkpoint of recovery points.
pub const RECOVERY_POINT: &str = "recovery-point-offset-checkpoint";
/// Name of the checkpoint of log start offsets.
pub const LOG_START: &str = "log-start-offset-checkpoint";
/// Name of the checkpoint of what compaction has cleaned.
pub const CLEANER: &str = "cleaner-offset-checkpoint";
/// Name of the checkpoint of high watermarks.
pub const HIGH_WATERMARK: &str = "replication-offset-checkpoint";
/// Name of the marker of a clean shutdown.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// Name of a log directory's identity.
pub const META_PROPERTIES: &str = "meta.properties";
/// Name of a partition's identity.
pub const PARTITION_METADATA: &str = "partition.metadata";

/// No checkpoint is longer: 100 bytes for each of 600,000 partitions.
const CHECKPOINT_LEN_MAX: u64 = 64 << 20;
const SMALL_FILE_LEN_MAX: u64 = 64 << 10;

/// (topic name, partition) -> offset.
pub type Offsets = BTreeMap<(String, i32), Offset>;

/// Reads one of the offset checkpoints of a log directory; empty when the file is missing.
pub fn read_offsets(disk: &dyn Disk, log_dir: &Path, name: &str) -> io::Result<Offsets> {
    let path = log_dir.join(name);
    let Some(text) = read_text(disk, &path, CHECKPOINT_LEN_MAX)? else {
        return Ok(Offsets::new());
    };
    parse_offsets(&text).ok_or_else(|| malformed(&path))
}

/// Writes one of the offset checkpoints.
pub fn write_offsets(
    disk: &dyn Disk,
    log_dir: &Path,
    name: &str,
    offsets: &Offsets,
) -> io::Result<()> {
    let mut text = format!("0\n{}\n", offsets.len());
    for ((topic, partition), offset) in offsets {
        let _ = writeln!(text, "{topic} {partition} {offset}"); // a String takes all
    }
    disk.write_atomic(&log_dir.join(name), text.as_bytes())
}

fn parse_offsets(text: &str) -> Option<Offsets> {
    let mut offsets = Offsets::new();
    for fields in parse_lines(text, 0)? {
        let [topic, partition, offset] = fields[..] else {
            return None;
        };
        let key = (topic.to_owned(), partition.parse().ok()?);
        offsets.insert(key, Offset(offset.parse().ok()?));
    }
    Some(offsets)
}

/// The lines of a checkpoint file, split at white space: after its version and its count, which
/// must both be right.
pub(crate) fn parse_lines(text: &str, version: i32) -> Option<Vec<Vec<&str>>> {
    let mut lines = text.lines();
    if lines.next()?.trim().parse() != Ok(version) {
        return None;
    }
    let count: usize = lines.next()?.trim().parse().ok()?;
    let lines: Vec<_> = lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    (lines.len() == count).then_some(lines)
}

/// Topic id in a partition directory's `partition.metadata`; `None` when the file is missing.
pub fn read_partition_metadata(disk: &dyn Disk, dir: &Path) -> io::Result<Option<TopicId>> {
    let path = dir.join(PARTITION_METADATA);
    let Some(text) = read_text(disk, &path, SMALL_FILE_LEN_MAX)? else {
        return Ok(None);
    };
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let known = value("version:").and_then(|v| v.trim().parse::<u32>().ok());
    let id = value("topic_id:").and_then(|id| Uuid::parse(id.trim()));
    match (known, id) {
        (Some(_), Some(id)) if !id.is_zero() => Ok(Some(id)),
        _ => Err(malformed(&path)),
    }
}

/// Writes `partition.metadata`. The caller syncs the directory.
pub fn write_partition_metadata(disk: &dyn Disk, dir: &Path, id: TopicId) -> io::Result<()> {
    let text = format!("version: 0\ntopic_id: {id}");
    disk.replace_file(&dir.join(PARTITION_METADATA), text.as_bytes())
}

/// `meta.properties` of a log directory (version 1, KRaft).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// `cluster.id`.
    pub cluster_id: String,
    /// `node.id`.
    pub node_id: i32,
    /// `directory.id`, if there is one.
    pub directory_id: Option<Uuid>,
}

/// Reads `meta.properties`; `None` when it is missing.
pub fn read_meta_properties(disk: &dyn Disk, log_dir: &Path) -> io::Result<Option<MetaProperties>> {
    let path = log_dir.join(META_PROPERTIES);
    let Some(text) = read_text(disk, &path, SMALL_FILE_LEN_MAX)? else {
        return Ok(None);
    };
    let value = |name: &str| {
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with(['#', '!']));
        let mut pairs = lines.filter_map(|line| line.split_once('='));
        let (_, value) = pairs.find(|(key, _)| key.trim() == name)?;
        Some(value.trim().replace('\\', "")) // Java escapes ':' and '=' that way
    };
    let meta = || {
        if value("version")? != "1" {
            return None;
        }
        let directory_id = match value("directory.id") {
            Some(id) => Some(Uuid::parse(&id)?),
            None => None,
        };
        Some(MetaProperties {
            cluster_id: value("cluster.id")?,
            node_id: value("node.id")?.parse().ok()?,
            directory_id,
        })
    };
    meta().map(Some).ok_or_else(|| malformed(&path))
}

/// Writes `meta.properties`.
pub fn write_meta_properties(
    disk: &dyn Disk,
    log_dir: &Path,
    meta: &MetaProperties,
) -> io::Result<()> {
    let mut text = format!("#\nversion=1\nnode.id={}\n", meta.node_id);
    let _ = writeln!(text, "cluster.id={}", meta.cluster_id); // a String takes all
    if let Some(id) = meta.directory_id {
        let _ = writeln!(text, "directory.id={id}");
    }
    disk.write_atomic(&log_dir.join(META_PROPERTIES), text.as_bytes())
}

/// Whether the clean-shutdown marker is there. Remove it before the first write.
pub fn has_clean_shutdown(disk: &dyn Disk, log_dir: &Path) -> bool {
    disk.exists(&log_dir.join(CLEAN_SHUTDOWN))
}

/// Removes the marker durably; fine if it is not there.
pub fn remove_clean_shutdown(disk: &dyn Disk, log_dir: &Path) -> io::Result<()> {
    match disk.remove_file(&log_dir.join(CLEAN_SHUTDOWN)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(()) => disk.sync_dir(log_dir),
    }
}

/// Writes the marker, the last file of a clean shutdown.
pub fn write_clean_shutdown(disk: &dyn Disk, log_dir: &Path, broker_epoch: i64) -> io::Result<()> {
    let text = format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}");
    disk.write_atomic(&log_dir.join(CLEAN_SHUTDOWN), text.as_bytes())
}

/// Creates an empty file if there is none; true if there was none. Its name lasts once the caller
/// has synced the directory.
pub(crate) fn ensure_file(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    if disk.exists(path) {
        return Ok(false);
    }
    disk.open(path, OpenMode::Create)?;
    Ok(true)
}

pub(crate) fn read_text(disk: &dyn Disk, path: &Path, max: u64) -> io::Result<Option<String>> {
    match disk.read_all(path, max) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(malformed(path)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn malformed(path: &Path) -> io::Error {
    let message = format!("{} is malformed", path.display());
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
#[path = "checkpoint_test.rs"]
mod tests;
