//! The metadata of a cluster that another broker wrote, as this one's first snapshot.

use crate::image::{Image, ImageError};
use crate::quorum::raft_id;
use crate::record::MetadataRecord;
use crate::{raft_log, snapshot};
use flumen_base::{BrokerId, Disk};
use std::io;
use std::path::Path;

/// What a new metadata directory begins with.
#[derive(Clone, Debug)]
pub struct Initial<'a> {
    /// The only voter.
    pub node_id: BrokerId,
    /// Position that the records stand at: what comes later is above it. At least 1.
    pub index: u64,
    /// Term of that position; the first election is in a later one. At least 1.
    pub term: u64,
    /// The records, in an order that applies.
    pub records: &'a [MetadataRecord],
}

/// Why nothing could be written.
#[derive(Debug, thiserror::Error)]
pub enum InitialError {
    /// The disk failed, or there is a metadata log already.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The records contradict each other.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Writes a metadata directory (created if missing) that holds these records, durably.
///
/// # Errors
/// There is metadata in the directory, the records do not apply, or the disk fails.
pub fn write_initial(
    disk: &dyn Disk,
    dir: &Path,
    initial: &Initial<'_>,
) -> Result<(), InitialError> {
    let mut image = Image::default();
    image.apply_all(initial.records, initial.index.max(1), initial.term.max(1))?;
    disk.create_dir_all(dir)?;
    if !disk.list(dir)?.is_empty() {
        let what = format!("{} is not empty", dir.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what).into());
    }
    // The segment first: with a snapshot alone the directory would be that of a log that was lost.
    raft_log::create_segment(disk, dir, 0)?;
    snapshot::write(disk, dir, &image, &[raft_id(initial.node_id)])?;
    if let Some(parent) = dir.parent() {
        disk.sync_dir(parent)?;
    }
    Ok(())
}
