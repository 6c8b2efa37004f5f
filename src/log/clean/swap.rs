//! A new segment takes the place of those that it was made from, so that a crash at any moment
//! leaves either those or the new one, and recovery (`leftovers.rs`) can tell which.
//!
//! ```text
//! X.log.cleaned ...   whole and synced, named on disk       | a crash here: they are removed
//! X.log.swap ...      named on disk: from here on it counts | a crash here: recovery goes on
//! old files -> .deleted, and so named on disk               |   with the swap
//! X.log ...           named on disk                         | a crash here: nothing to do
//! ```

use super::{CLEANED_SUFFIX, SWAP_SUFFIX};
use crate::index::IndexEntry;
use crate::jobs::gone_is_fine;
use crate::retire::UnlinkJob;
use crate::segment::{
    DELETED_SUFFIX, INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, SegmentMark, TIME_INDEX_SUFFIX,
    TXN_INDEX_SUFFIX, segment_path,
};
use crate::txn_index::AbortedTxns;
use flumen_base::{Disk, LogFile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a segment, the records last: under a new name the others count with them only.
const SUFFIXES: [&str; 4] = [
    INDEX_SUFFIX,
    TIME_INDEX_SUFFIX,
    TXN_INDEX_SUFFIX,
    LOG_SUFFIX,
];

/// Puts a cleaned segment in place. [`crate::Log::begin_swap`] comes before.
#[derive(Debug)]
pub struct SwapJob {
    pub(crate) dir: PathBuf,
    /// Base offsets of the segments that it replaces; the first is its own.
    pub(crate) replaced: Vec<i64>,
    pub(crate) mark: SegmentMark,
    pub(crate) entries: Vec<IndexEntry>,
    pub(crate) aborted: AbortedTxns,
    /// Of those that it replaces.
    pub(crate) files: Vec<Arc<LogFile>>,
    pub(crate) delay_ms: i64,
}

/// A segment that took the place of others.
#[derive(Debug)]
pub struct Swapped {
    pub(crate) replaced: Vec<i64>,
    pub(crate) mark: SegmentMark,
    pub(crate) entries: Vec<IndexEntry>,
    /// What its `.txnindex` holds now.
    pub(crate) aborted: AbortedTxns,
    /// Unlinks the old files.
    pub unlink: UnlinkJob,
    /// To be run so many milliseconds later (`file.delete.delay.ms`).
    pub delay_ms: i64,
}

impl SwapJob {
    /// Base offsets of the segments that it replaces, ascending; the new one has the first.
    pub fn replaced(&self) -> &[i64] {
        &self.replaced
    }

    /// Does it. After an error the files are anywhere in between: the log must be loaded again.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Swapped> {
        let base = self.replaced.first().copied().unwrap_or_default();
        disk.sync_dir(&self.dir)?;
        for suffix in SUFFIXES {
            let path = |state: &str| segment_path(&self.dir, base, &format!("{suffix}{state}"));
            rename_if_there(disk, &path(CLEANED_SUFFIX), &path(SWAP_SUFFIX))?;
        }
        disk.sync_dir(&self.dir)?;
        let old = self.set_aside(disk)?;
        disk.sync_dir(&self.dir)?;
        for suffix in SUFFIXES {
            let from = segment_path(&self.dir, base, &format!("{suffix}{SWAP_SUFFIX}"));
            rename_if_there(disk, &from, &segment_path(&self.dir, base, suffix))?;
        }
        disk.sync_dir(&self.dir)?;
        Ok(Swapped {
            replaced: self.replaced,
            mark: self.mark,
            entries: self.entries,
            aborted: self.aborted,
            unlink: UnlinkJob::new(self.dir, old, self.files),
            delay_ms: self.delay_ms,
        })
    }

    /// Gives the old files names under which nothing finds them; returns those. Each swap has its
    /// own: files of one before may still wait to be unlinked.
    fn set_aside(&self, disk: &dyn Disk) -> io::Result<Vec<PathBuf>> {
        let mut old = Vec::new();
        let id = self.files.first().map_or(0, |file| file.id().0);
        for (n, base) in self.replaced.iter().enumerate() {
            // The producers at the start of the first are still those at the start of the new one.
            let snapshot = (n > 0).then_some(SNAPSHOT_SUFFIX);
            for suffix in SUFFIXES.into_iter().chain(snapshot) {
                let from = segment_path(&self.dir, *base, suffix);
                let gone = format!("{suffix}.{id:x}{DELETED_SUFFIX}");
                let to = segment_path(&self.dir, *base, &gone);
                if rename_if_there(disk, &from, &to)? {
                    old.push(to);
                }
            }
        }
        Ok(old)
    }
}

/// Removes what a cleaning wrote for a new segment with this base offset.
pub(crate) fn remove_cleaned(disk: &dyn Disk, dir: &Path, base: i64) -> io::Result<()> {
    for suffix in SUFFIXES {
        let path = segment_path(dir, base, &format!("{suffix}{CLEANED_SUFFIX}"));
        gone_is_fine(disk.remove_file(&path))?;
    }
    Ok(())
}

/// False if there is no such file.
fn rename_if_there(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<bool> {
    match disk.rename(from, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
