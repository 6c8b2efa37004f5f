//! Jobs that take the files of retired segments away.

use crate::checkpoint::ensure_file;
use crate::jobs::{gone_is_fine, is_full, write_whole};
use crate::recovery::SEGMENT_SUFFIXES;
use crate::segment::{
    DELETED_SUFFIX, INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, segment_path,
};
use flumen_base::{Disk, LogFile};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Renames the files of dropped segments to `.deleted`, or unlinks them where nothing delays that.
#[derive(Debug)]
pub struct DeleteJob {
    pub(crate) dir: PathBuf,
    pub(crate) bases: Vec<i64>,
    /// The first segment that stays, and whether its name is on disk.
    pub(crate) kept_base: i64,
    pub(crate) kept_named: bool,
    /// The last one that has a file: a sync of the directory puts the names up to it on disk.
    pub(crate) made_to: i64,
    /// Offset and content of the producer snapshot of the end of those that go, where no seal has
    /// written it.
    pub(crate) snapshot: Option<(i64, Vec<u8>)>,
    /// Their names need not be gone from the disk when this ends: a later job sees to that.
    pub(crate) sync_later: bool,
    /// Some were never synced: what passes for on disk above them must not outlive their names.
    pub(crate) unsealed: bool,
    pub(crate) delay_ms: i64,
    /// Of those that go.
    pub(crate) files: Vec<Arc<LogFile>>,
}

/// Segments whose files wait to be unlinked.
#[derive(Debug)]
pub struct Deleted {
    /// The job for it; none if no name is left.
    pub unlink: Option<UnlinkJob>,
    /// Run it so many milliseconds later (`file.delete.delay.ms`).
    pub delay_ms: i64,
    /// Names of segments up to this one are on disk.
    pub(crate) named_to: i64,
    /// Nothing below them comes back that was not synced.
    pub(crate) synced: bool,
}

impl DeleteJob {
    /// Indexes can be made again, and those of the segments that go are not even needed.
    fn make_room(&self, disk: &dyn Disk) {
        for base in &self.bases {
            for suffix in [INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
                // It may not be there.
                let _ = disk.remove_file(&segment_path(&self.dir, *base, suffix));
            }
        }
    }

    /// Renames the files of a segment, and adds their new names to `paths`.
    fn mark_deleted(&self, disk: &dyn Disk, base: i64, paths: &mut Vec<PathBuf>) -> io::Result<()> {
        for suffix in suffixes() {
            let from = segment_path(&self.dir, base, suffix);
            let to = segment_path(&self.dir, base, &format!("{suffix}{DELETED_SUFFIX}"));
            match disk.rename(&from, &to) {
                Ok(()) => paths.push(to),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if disk.exists(&to) {
                        paths.push(to); // renamed by a try that failed later
                    }
                }
                // No room for the other name: the file goes at once.
                Err(e) if is_full(&e) => disk.remove_file(&from)?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes the names of a segment's files away.
    fn unlink(&self, disk: &dyn Disk, base: i64) -> io::Result<()> {
        for suffix in suffixes() {
            gone_is_fine(disk.remove_file(&segment_path(&self.dir, base, suffix)))?;
        }
        Ok(())
    }

    /// Base offsets of the segments that go.
    pub fn segments(&self) -> &[i64] {
        &self.bases
    }

    /// Does it.
    ///
    /// # Errors
    /// Those of the disk. After one that says that it is full it can be done again.
    pub fn run(&self, disk: &dyn Disk) -> io::Result<Deleted> {
        // Before the others go, or a crash would leave no trace of the offsets that were given.
        if let Some((offset, bytes)) = &self.snapshot {
            // Not synced: it is for a killed process, the power takes unsynced segments with it.
            let path = segment_path(&self.dir, *offset, SNAPSHOT_SUFFIX);
            match write_whole(disk, &path, bytes) {
                Err(e) if is_full(&e) => {
                    self.make_room(disk);
                    write_whole(disk, &path, bytes)?
                }
                written => written?,
            };
        }
        let kept = segment_path(&self.dir, self.kept_base, LOG_SUFFIX);
        let name_kept = ensure_file(disk, &kept)? || !self.kept_named;
        if name_kept {
            disk.sync_dir(&self.dir)?;
        }
        // In memory the other name costs nothing, and helpers free the pages in smaller steps.
        let at_once = self.delay_ms == 0 && !disk.is_memory(&self.dir);
        let (mut paths, mut unlinked) = (Vec::new(), false);
        for (base, file) in self.bases.iter().zip(&self.files) {
            if at_once && file.handle().is_there() {
                // Its bytes go with the handle.
                self.unlink(disk, *base)?;
                unlinked = true;
            } else {
                self.mark_deleted(disk, *base, &mut paths)?;
            }
        }
        let sync = (self.unsealed || unlinked) && !self.sync_later;
        if sync {
            disk.sync_dir(&self.dir)?;
        }
        Ok(Deleted {
            unlink: (!paths.is_empty()).then(|| UnlinkJob {
                dir: self.dir.clone(),
                paths,
                files: self.files.clone(),
            }),
            delay_ms: self.delay_ms,
            named_to: match name_kept || sync {
                true => self.made_to.max(self.kept_base),
                false => self.kept_base,
            },
            synced: sync || !self.unsealed,
        })
    }
}

/// Unlinks files.
#[derive(Debug)]
pub struct UnlinkJob {
    dir: PathBuf,
    paths: Vec<PathBuf>,
    /// The segments' own: if nobody else has them, the files may be cut.
    files: Vec<Arc<LogFile>>,
}

impl UnlinkJob {
    /// For these files, whose handles are closed with it.
    pub(crate) fn new(dir: PathBuf, paths: Vec<PathBuf>, files: Vec<Arc<LogFile>>) -> Self {
        Self { dir, paths, files }
    }

    /// Does it. A file that is gone already is fine; so a failed run may be done again.
    pub fn run(&self, disk: &dyn Disk) -> io::Result<()> {
        // Somebody may still be reading one of them: then none is cut.
        let free = self.files.iter().all(|file| Arc::strong_count(file) == 1);
        for path in &self.paths {
            gone_is_fine(match free {
                true => disk.remove_large_file(path),
                false => disk.remove_file(path),
            })?;
        }
        gone_is_fine(disk.sync_dir(&self.dir)) // the whole topic may be gone
    }
}

/// Of the files that a segment may have.
fn suffixes() -> impl Iterator<Item = &'static str> {
    SEGMENT_SUFFIXES.into_iter().chain([SNAPSHOT_SUFFIX])
}
