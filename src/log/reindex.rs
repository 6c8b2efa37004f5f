//! An index that leads astray: it is not believed any more, reads do without it, and a job makes it
//! anew from the segment's batches.

use crate::index::{IndexEntry, OffsetIndex, encode_times};
use crate::jobs::replace;
use crate::log::Log;
use crate::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, Segment, SegmentState, TIME_INDEX_SUFFIX, segment_path,
};
use crate::walk::{Rules, Slice, Walk};
use flumen_base::{Disk, LogFile, OpenMode};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What reads have found wrong.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// Base offsets of segments whose index is to be made anew.
    wrong_indexes: Vec<i64>,
    /// A job makes one of them.
    busy: bool,
    /// The damage that was told last: segment and position.
    told: Option<(i64, u64)>,
    /// To be told.
    message: Option<String>,
}

/// Makes a segment's index anew.
#[derive(Debug)]
pub struct ReindexJob {
    dir: PathBuf,
    base_offset: i64,
    file: Arc<LogFile>,
    /// Bytes to index.
    len: u64,
    interval: u32,
    /// Its files are to be written: it takes no appends.
    is_sealed: bool,
}

/// An index made anew.
#[derive(Debug)]
pub struct Reindexed {
    base_offset: i64,
    file: Arc<LogFile>,
    entries: Vec<IndexEntry>,
}

impl ReindexJob {
    /// Does it.
    ///
    /// # Errors
    /// Those of the disk; `InvalidData` where the segment itself is damaged.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Reindexed> {
        let path = segment_path(&self.dir, self.base_offset, LOG_SUFFIX);
        let file = disk.open(&path, OpenMode::Read)?;
        let rules = Rules {
            is_last: false,
            point: i64::MAX,
            gaps: true,
            interval: self.interval,
        };
        let mut walk = Walk::new(self.base_offset, rules);
        let mut left = u64::MAX;
        if let Slice::Damaged(why) = walk.slice_to(&*file, self.len, &mut left)? {
            let message = format!("{} at byte {}: {why}", path.display(), walk.mark.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let segment = walk.into_segment();
        if self.is_sealed {
            let index = segment.index.encode().unwrap_or_default();
            let path = segment_path(&self.dir, self.base_offset, INDEX_SUFFIX);
            replace(disk, &path, &index)?;
            let path = segment_path(&self.dir, self.base_offset, TIME_INDEX_SUFFIX);
            replace(disk, &path, &encode_times(&segment.times))?;
        }
        let OffsetIndex::Full(entries) = segment.index else {
            return Err(io::ErrorKind::InvalidData.into()); // a walk gives all of them
        };
        Ok(Reindexed {
            base_offset: self.base_offset,
            file: self.file,
            entries,
        })
    }
}

impl Log {
    /// The index of a segment is wrong: until it is made anew, reads begin at the segment's start.
    /// False if all of it was made in this process: then it is the records that are wrong.
    pub(crate) fn distrust_index(&mut self, index: usize) -> bool {
        let Some(segment) = self.segments.get_mut(index) else {
            return false;
        };
        let base = segment.base_offset;
        let kept = in_process_entries(segment);
        if kept.len() == segment.index.len() {
            return false;
        }
        self.set_entries(index, kept);
        if !self.trouble.wrong_indexes.contains(&base) {
            self.trouble.wrong_indexes.push(base);
            let path = segment_path(&self.dir, base, INDEX_SUFFIX);
            self.trouble.message = Some(format!("{} is wrong, it is made anew", path.display()));
        }
        true
    }

    /// A read has found no batch where there should be one.
    pub(crate) fn note_damage(&mut self, segment: i64, position: u64, why: &str) {
        if self.trouble.told != Some((segment, position)) {
            self.trouble.told = Some((segment, position));
            let path = segment_path(&self.dir, segment, LOG_SUFFIX);
            let text = format!("{} is damaged at byte {position}: {why}", path.display());
            self.trouble.message = Some(text);
        }
    }

    /// What reads have found wrong since the last call, once for each place.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.message.take()
    }

    /// Whether there is something to tell or to mend.
    pub fn is_troubled(&self) -> bool {
        self.wants_times || self.trouble.message.is_some() || !self.trouble.wrong_indexes.is_empty()
    }

    /// The job that makes the next wrong index anew, if there is one and no such job runs.
    pub fn take_reindex_job(&mut self) -> Option<ReindexJob> {
        if self.trouble.busy || self.closed {
            return None;
        }
        let base_offset = self.trouble.wrong_indexes.pop()?;
        let segment = self.segments.get(self.segment_index(base_offset)?)?;
        // What was appended in this process is in memory, and right.
        let first = match &segment.index {
            OffsetIndex::Full(entries) => entries.first().map(|e| u64::from(e.position)),
            _ => None,
        };
        self.trouble.busy = true;
        Some(ReindexJob {
            dir: self.dir.clone(),
            base_offset,
            file: Arc::clone(&segment.file),
            len: first.unwrap_or(segment.written),
            interval: self.config.index_interval_bytes,
            is_sealed: segment.state == SegmentState::Sealed,
        })
    }

    /// Such a job has ended.
    pub fn reindex_done(&mut self, result: io::Result<Reindexed>) {
        self.trouble.busy = false;
        let made = match result {
            Ok(made) => made,
            Err(error) => {
                self.trouble.message = Some(format!("an index could not be made anew: {error}"));
                return;
            }
        };
        let Some(index) = self.segment_index(made.base_offset) else {
            return; // retention took it
        };
        let Some(segment) = self.segments.get_mut(index) else {
            return;
        };
        if !Arc::ptr_eq(&segment.file, &made.file) {
            return; // compaction has put another in its place
        }
        let mut entries = made.entries;
        let end = entries.last().map(|e| e.position);
        let kept = in_process_entries(segment);
        entries.extend(
            kept.into_iter()
                .filter(|e| end.is_none_or(|end| e.position > end)),
        );
        self.set_entries(index, entries);
    }

    /// Replaces a segment's entries; what appends in flight would take back moves with them.
    fn set_entries(&mut self, index: usize, entries: Vec<IndexEntry>) {
        let Some(segment) = self.segments.get_mut(index) else {
            return;
        };
        let (before, after) = (segment.mark.index_len, entries.len());
        segment.mark.index_len = after;
        segment.index = OffsetIndex::Full(entries);
        if segment.state == SegmentState::Sealed {
            segment.index.thin();
        }
        let base = segment.base_offset;
        for undo in self.undo.iter_mut().filter(|u| u.segment == base) {
            undo.mark.index_len = (undo.mark.index_len + after).saturating_sub(before);
        }
    }
}

/// The entries of a segment that were made in this process.
fn in_process_entries(segment: &Segment) -> Vec<IndexEntry> {
    match &segment.index {
        OffsetIndex::Full(entries) => {
            let made = entries.iter().filter(|e| e.first != IndexEntry::UNKNOWN);
            made.copied().collect()
        }
        _ => Vec::new(),
    }
}
