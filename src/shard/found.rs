//! What a log directory holds when the process starts, held against the metadata.
//!
//! Names say little: a topic may have been deleted, and made again, since a directory or a line of
//! a checkpoint was written. A partition's directory has its topic's id in `partition.metadata`;
//! for the lines of Kafka's checkpoints, which know names only, the ids are kept in a file of our
//! own.

use crate::LogDirState;
use flumen_base::{Disk, PartitionIndex, TopicId, Uuid};
use flumen_log::checkpoint::{self, CLEANER, LOG_START, Offsets, RECOVERY_POINT};
use flumen_quorum::Image;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;

/// Topic ids of the lines of the offset checkpoints. Written after them: a line whose id does
/// not fit is of a deleted topic, or its checkpoint was not finished, and is not believed.
const IDS: &str = "flumen-topic-id-checkpoint";
const IDS_LEN_MAX: u64 = 64 << 20;
/// The metadata log's own directory, if it shares a log directory.
const METADATA_DIR: &str = "__cluster_metadata-0";

/// The topic ids behind the lines of a checkpoint.
pub(crate) type Ids = BTreeMap<(String, PartitionIndex), TopicId>;

impl LogDirState {
    /// Reads what a log directory holds, and removes the marker of a clean shutdown: from now on
    /// it is in use. Directories of topics that are no more get another name
    /// (`topic-partition.<id>-stray`, as Kafka does), so that they are in nobody's way; they are
    /// not removed, in case it is the metadata that is wrong.
    ///
    /// # Errors
    /// If the directory can't be listed, or a checkpoint can't be read.
    pub fn load(disk: &dyn Disk, dir: &Path, image: &Image) -> io::Result<Self> {
        let mut state = Self {
            clean: checkpoint::has_clean_shutdown(disk, dir),
            recovery_points: checkpoint::read_offsets(disk, dir, RECOVERY_POINT)?,
            log_starts: checkpoint::read_offsets(disk, dir, LOG_START)?,
            cleaned: read_cleaned(disk, dir)?,
            ..Self::default()
        };
        let mut names = disk.list(dir)?;
        names.sort();
        let mut set_aside = false;
        for (name, is_dir) in names {
            if !is_dir || name == METADATA_DIR {
                continue;
            }
            if name.ends_with("-delete") {
                state.left_behind.push(name);
            } else if let Some((topic, index)) = name.rsplit_once('-')
                && let Ok(index) = index.parse()
            {
                match stray_id(disk, dir, &name, index, image) {
                    None => state.partitions.push((topic.to_owned(), index)),
                    Some(id) => {
                        let stray = dir.join(set_aside_name(&name, id, "stray"));
                        tracing::warn!(%name, %id, to = %stray.display(), "no topic has it");
                        disk.rename(&dir.join(&name), &stray)?;
                        set_aside = true;
                    }
                }
            }
        }
        if set_aside {
            disk.sync_dir(dir)?;
        }
        state.drop_lines_of_others(&read_ids(disk, dir), image);
        checkpoint::remove_clean_shutdown(disk, dir)?;
        Ok(state)
    }

    fn drop_lines_of_others(&mut self, ids: &Ids, image: &Image) {
        let fits = |key: &(String, PartitionIndex)| {
            let now = image.topic(&key.0).map(|t| t.id);
            ids.get(key).is_none_or(|id| now == Some(*id))
        };
        self.recovery_points.retain(|key, _| fits(key));
        self.log_starts.retain(|key, _| fits(key));
        self.cleaned.retain(|key, _| fits(key));
    }
}

/// What compaction has cleaned. A file that is damaged costs no more than cleaning again.
fn read_cleaned(disk: &dyn Disk, dir: &Path) -> io::Result<Offsets> {
    match checkpoint::read_offsets(disk, dir, CLEANER) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "logs will be cleaned from their start");
            Ok(Offsets::new())
        }
        result => result,
    }
}

/// The name under which a partition's directory (`topic-partition`) is set aside. A long topic is
/// cut, so that the whole stays within 255 bytes.
pub(crate) fn set_aside_name(name: &str, id: TopicId, suffix: &str) -> String {
    let (topic, partition) = name.rsplit_once('-').unwrap_or((name, "0"));
    let mut text: String = topic.chars().take(200).collect();
    let _ = write!(text, "-{partition}."); // a String takes all
    for byte in id.as_bytes() {
        let _ = write!(text, "{byte:02x}"); // a String takes all
    }
    text + "-" + suffix
}

/// The id in a directory whose topic the metadata does not know.
fn stray_id(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    index: PartitionIndex,
    image: &Image,
) -> Option<TopicId> {
    let id = checkpoint::read_partition_metadata(disk, &dir.join(name)).ok()??;
    let topic = image.topic_by_id(&id);
    let known = topic.is_some_and(|t| t.partition(index).is_some());
    (!known).then_some(id)
}

pub(crate) fn write_ids(disk: &dyn Disk, dir: &Path, ids: &Ids) -> io::Result<()> {
    let mut text = String::new();
    for ((topic, partition), id) in ids {
        let _ = writeln!(text, "{topic} {partition} {id}"); // a String takes all
    }
    disk.write_atomic(&dir.join(IDS), text.as_bytes())
}

/// The ids, as far as the file can be read: without it every line is believed, as in a directory
/// that another broker left.
fn read_ids(disk: &dyn Disk, dir: &Path) -> Ids {
    let bytes = disk
        .read_all(&dir.join(IDS), IDS_LEN_MAX)
        .unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (topic, partition) = (fields.next()?, fields.next()?.parse().ok()?);
        let id = Uuid::parse(fields.next()?)?;
        Some(((topic.to_owned(), partition), id))
    };
    text.lines().filter_map(line).collect()
}
