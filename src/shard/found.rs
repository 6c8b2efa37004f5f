//! What a log directory holds when the process starts, held against the metadata.
//!
//! Names say little: a topic may have been deleted, and made again, since a directory or a line of
//! a checkpoint was written. A partition's directory has its topic's id in `partition.metadata`;
//! for the lines of Kafka's checkpoints, which know names only, the ids are kept in a file of our
//! own.

use crate::{LogDir, LogDirState};
use flumen_base::{BrokerId, Disk, PartitionIndex, TopicId, Uuid};
use flumen_log::checkpoint::{self, CLEANER, LOG_START, Offsets, RECOVERY_POINT};
use flumen_quorum::Image;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;

/// Topic ids of the lines of the offset checkpoints. Written after them: a line that has no id
/// here, or one that does not fit, is of a deleted topic, or its checkpoint was not finished, and
/// is not believed.
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
    /// A checkpoint that is damaged counts as not there, with a warning: loading then judges by the
    /// logs themselves.
    ///
    /// # Errors
    /// If the directory can't be listed, or a checkpoint can't be read from the disk.
    pub fn load(disk: &dyn Disk, dir: &Path, image: &Image) -> io::Result<Self> {
        let points = read_offsets(disk, dir, RECOVERY_POINT)?;
        let cleaned = read_cleaned(disk, dir)?;
        let mut state = Self {
            clean: checkpoint::has_clean_shutdown(disk, dir),
            cleaned_lost: cleaned.is_none(),
            cleaned: cleaned.unwrap_or_default(),
            points_lost: points.is_none(),
            recovery_points: points.unwrap_or_default(),
            log_starts: read_offsets(disk, dir, LOG_START)?.unwrap_or_default(),
            ..Self::default()
        };
        let ids = read_ids(disk, dir)?;
        state.take_names(disk, dir, image, ids.as_ref())?;
        let ids = match ids {
            Some(ids) => ids,
            None => {
                let ids = state.ids_by_name(image);
                write_ids(disk, dir, &ids)?;
                ids
            }
        };
        state.drop_lines_of_others(&ids, image);
        checkpoint::remove_clean_shutdown(disk, dir)?;
        Ok(state)
    }

    /// Finds the partitions, and sets aside what is nobody's.
    fn take_names(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        image: &Image,
        ids: Option<&Ids>,
    ) -> io::Result<()> {
        let mut names = disk.list(dir)?;
        names.sort();
        let mut set_aside = false;
        for (name, is_dir) in names {
            if !is_dir || name == METADATA_DIR {
                continue;
            }
            if let Some(copy) = name.strip_suffix("-future") {
                // It may not be whole: the move begins again.
                let left = format!("{copy}-delete");
                disk.rename(&dir.join(&name), &dir.join(&left))?;
                self.left_behind.push(left);
                self.arriving.extend(partition_of_copy(copy, image));
            } else if name.ends_with("-delete") {
                self.left_behind.push(name);
            } else if let Some((topic, index)) = name.rsplit_once('-')
                && let Ok(index) = index.parse()
            {
                let key = (topic.to_owned(), index);
                if let Some(id) = ids.and_then(|ids| ids.get(&key))
                    && is_now(image, &key, *id)
                    && self.recovery_points.get(&key).is_some_and(|p| p.0 > 0)
                {
                    mend_identity(disk, &dir.join(&name), *id)?;
                }
                match stray_id(disk, dir, &name, index, image) {
                    None => self.partitions.push(key),
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
        self.partitions.sort();
        Ok(())
    }

    /// The ids in a directory without a file of them, which is new or was left by another broker:
    /// a line of a checkpoint there is of the partition that has its name. From now on the file is
    /// there: were it made by the first checkpoint, the lines of one that was not finished would be
    /// taken for those of topics that are made again under a name.
    fn ids_by_name(&self, image: &Image) -> Ids {
        let id = |key: &(String, PartitionIndex)| Some((key.clone(), image.topic(&key.0)?.id));
        self.partitions.iter().filter_map(id).collect()
    }

    fn drop_lines_of_others(&mut self, ids: &Ids, image: &Image) {
        let fits = |key: &(String, PartitionIndex)| {
            let id = ids.get(key);
            id.is_some_and(|id| is_now(image, key, *id))
        };
        self.recovery_points.retain(|key, _| fits(key));
        self.log_starts.retain(|key, _| fits(key));
        self.cleaned.retain(|key, _| fits(key));
    }
}

/// What compaction has cleaned; `None` if the file is damaged, which costs no more than cleaning
/// again.
fn read_cleaned(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Offsets>> {
    match checkpoint::read_offsets(disk, dir, CLEANER) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "logs will be cleaned from their start");
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// The partition whose copy has this name (`topic-partition.<id>`), if there is one.
fn partition_of_copy(copy: &str, image: &Image) -> Option<(String, PartitionIndex)> {
    let (name, _) = copy.rsplit_once('.')?;
    let (topic, index) = name.rsplit_once('-')?;
    let index = index.parse().ok()?;
    image.topic(topic)?.partition(index)?;
    Some((topic.to_owned(), index))
}

/// Of a partition that several log directories have (a process died in the last step of a move, or
/// a disk came back), one is kept: that which the metadata names, else the first. The others get
/// another name (`topic-partition.<id>-stray`). Gives the log directories in which that failed, by
/// index.
pub fn settle_duplicates(
    disk: &dyn Disk,
    dirs: &[LogDir],
    states: &mut [LogDirState],
    image: &Image,
    node: BrokerId,
) -> Vec<(usize, io::Error)> {
    let mut holders: BTreeMap<(String, PartitionIndex), Vec<usize>> = BTreeMap::new();
    for (n, state) in states.iter().enumerate() {
        for key in &state.partitions {
            holders.entry(key.clone()).or_default().push(n);
        }
    }
    let mut errors = Vec::new();
    for (key, holders) in holders {
        let Some(first) = holders.first().filter(|_| holders.len() > 1).copied() else {
            continue;
        };
        let topic = image.topic(&key.0);
        let assigned = topic.and_then(|t| t.partition(key.1)?.directory_of(node));
        let is_assigned = |n: &&usize| dirs.get(**n).map(|d| d.id) == assigned;
        let kept = holders.iter().find(is_assigned).copied().unwrap_or(first);
        for n in holders.into_iter().filter(|n| *n != kept) {
            let (Some(dir), Some(state)) = (dirs.get(n), states.get_mut(n)) else {
                continue;
            };
            let name = format!("{}-{}", key.0, key.1);
            let id = topic.map_or(Uuid::ZERO, |t| t.id);
            let stray = dir.path.join(set_aside_name(&name, id, "stray"));
            tracing::warn!(%name, to = %stray.display(), "another log directory has it too");
            let renamed = disk
                .rename(&dir.path.join(&name), &stray)
                .and_then(|()| disk.sync_dir(&dir.path));
            errors.extend(renamed.err().map(|e| (n, e)));
            state.partitions.retain(|p| *p != key);
        }
    }
    errors
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

/// One of the two offset checkpoints; `None` if it is damaged.
fn read_offsets(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Option<Offsets>> {
    match checkpoint::read_offsets(disk, dir, name) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "not believed: the logs themselves are asked");
            Ok(None)
        }
        offsets => offsets.map(Some),
    }
}

/// Whether the topic of this name has this id today.
fn is_now(image: &Image, (topic, _): &(String, PartitionIndex), id: TopicId) -> bool {
    image.topic(topic).is_some_and(|t| t.id == id)
}

/// The metadata and the ids beside the checkpoints agree on the topic of a partition that has
/// served: where its directory says otherwise, that is damaged.
fn mend_identity(disk: &dyn Disk, dir: &Path, id: TopicId) -> io::Result<()> {
    match checkpoint::read_partition_metadata(disk, dir) {
        Ok(Some(found)) if found == id => return Ok(()),
        Err(e) if e.kind() != io::ErrorKind::InvalidData => return Err(e),
        _ => {}
    }
    tracing::warn!(dir = %dir.display(), %id, "its identity was damaged, and is written again");
    checkpoint::write_partition_metadata(disk, dir, id)?;
    disk.sync_dir(dir)
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

/// The ids; `None` if there is no file of them, or it is damaged.
fn read_ids(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Ids>> {
    let bytes = match disk.read_all(&dir.join(IDS), IDS_LEN_MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => None, // too long
        bytes => Some(bytes?),
    };
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let ids = text.and_then(|text| parse_ids(&text));
    if ids.is_none() {
        tracing::warn!(dir = %dir.display(), "{IDS} is malformed: lines are known by their names");
    }
    Ok(ids)
}

fn parse_ids(text: &str) -> Option<Ids> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (topic, partition) = (fields.next()?, fields.next()?.parse().ok()?);
        let id = Uuid::parse(fields.next()?)?;
        Some(((topic.to_owned(), partition), id))
    };
    text.lines().map(line).collect()
}
