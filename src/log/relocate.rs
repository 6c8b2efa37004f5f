//! Moving a log to another log directory while it serves: its files are copied in slices, and when
//! little is left, and nothing of it is in flight, the log goes on with the copies.
//!
//! ```text
//! plan -> CopyJob -> copied -> plan ... little left, writes held back, nothing in flight
//!   -> RelocateJob: the rest, all small files; the copy gets the partition's name
//!   -> Log::moved_to
//! ```
//! What is written never changes but by a cut of what nobody was told of, so a copied byte stays
//! right; a segment that compaction replaces has another file, and is copied anew.

use crate::log::Log;
use crate::segment::{
    DELETED_SUFFIX, INDEX_SUFFIX, LOG_SUFFIX, SegmentState, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX,
    offset_of_name, segment_path,
};
use crate::tail::PositionCache;
use flumen_base::{Disk, DiskFile, FileId, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What is copied at once within a slice.
const CHUNK_BYTES: usize = 1 << 20;
/// Segments whose index files one slice copies.
const INDEXES_PER_SLICE: usize = 16;
/// Indexes that never change once their segment is sealed.
const INDEX_SUFFIXES: [&str; 2] = [INDEX_SUFFIX, TIME_INDEX_SUFFIX];

/// How far a log has been copied.
#[derive(Debug, Default)]
pub struct CopyState {
    /// By base offset: which file, and how many bytes of it.
    done: BTreeMap<i64, (FileId, u64)>,
    /// Segments whose index files are copied.
    indexed: BTreeSet<i64>,
}

/// One slice of copying.
#[derive(Debug)]
pub struct CopyJob {
    from: PathBuf,
    to: PathBuf,
    pieces: Vec<Piece>,
    indexes: Vec<i64>,
    gone: Vec<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    base: i64,
    file: FileId,
    pos: u64,
    len: u64,
}

/// What a slice has copied.
#[derive(Debug)]
pub struct Copied {
    pieces: Vec<Piece>,
    indexes: Vec<i64>,
}

impl CopyState {
    /// The next slice: at most so many bytes of records. Let it end before the next is planned.
    pub fn plan(&mut self, log: &Log, to: &Path, bytes_max: u64) -> CopyJob {
        let exists = |base: &i64| log.segment_index(*base).is_some();
        let gone: Vec<i64> = self.done.keys().filter(|b| !exists(b)).copied().collect();
        for base in &gone {
            self.done.remove(base);
            self.indexed.remove(base);
        }
        let mut job = CopyJob {
            from: log.dir.clone(),
            to: to.to_owned(),
            pieces: Vec::new(),
            indexes: Vec::new(),
            gone,
        };
        let mut left = bytes_max;
        for segment in &log.segments {
            let (base, file) = (segment.base_offset, segment.file.id());
            let done = self.done.entry(base).or_insert((file, 0));
            if done.0 != file {
                *done = (file, 0);
                self.indexed.remove(&base);
                job.gone.push(base);
            }
            let len = (segment.written - done.1.min(segment.written)).min(left);
            if len > 0 {
                let pos = done.1;
                job.pieces.push(Piece {
                    base,
                    file,
                    pos,
                    len,
                });
                left -= len;
            }
            let sealed = segment.state == SegmentState::Sealed && !self.indexed.contains(&base);
            if sealed && job.indexes.len() < INDEXES_PER_SLICE {
                job.indexes.push(base);
            }
        }
        job
    }

    /// A slice has ended well.
    pub fn copied(&mut self, copied: &Copied) {
        for piece in &copied.pieces {
            if let Some(done) = self.done.get_mut(&piece.base)
                && done.0 == piece.file
            {
                done.1 = piece.pos + piece.len;
            }
        }
        self.indexed.extend(&copied.indexes);
    }

    /// Bytes of records that are not copied.
    pub fn lag_bytes(&self, log: &Log) -> u64 {
        let missing = |s: &crate::segment::Segment| {
            let done = self.done.get(&s.base_offset);
            let done = done.filter(|(file, _)| *file == s.file.id());
            s.written.saturating_sub(done.map_or(0, |d| d.1))
        };
        log.segments.iter().map(missing).sum()
    }

    /// Whether so little is left that the last step would be short.
    pub fn is_close(&self, log: &Log, bytes: u64) -> bool {
        let sealed = |s: &&crate::segment::Segment| s.state == SegmentState::Sealed;
        let mut sealed = log.segments.iter().filter(sealed);
        self.lag_bytes(log) <= bytes && sealed.all(|s| self.indexed.contains(&s.base_offset))
    }

    /// Offsets that the copy is behind: whole segments count until all of them is copied.
    pub fn lag_offsets(&self, log: &Log) -> i64 {
        let behind = log.segments.iter().find(|s| {
            let done = self.done.get(&s.base_offset).map_or(0, |d| d.1);
            done < s.written
        });
        behind.map_or(0, |s| log.written_end - s.base_offset.max(log.log_start))
    }

    /// Bytes copied so far.
    pub fn size_bytes(&self) -> u64 {
        self.done.values().map(|d| d.1).sum()
    }

    /// The last step, while nothing is written to the log: the rest is copied, and the copy takes
    /// the name `to` (the partition's in the other log directory); the old one becomes `aside`.
    pub fn swap(&mut self, log: &Log, copy: &Path, to: PathBuf, aside: PathBuf) -> RelocateJob {
        let segments = log.segments.iter();
        RelocateJob {
            rest: self.plan(log, copy, u64::MAX),
            lens: segments.map(|s| (s.base_offset, s.written)).collect(),
            to,
            aside,
        }
    }
}

impl CopyJob {
    /// Bytes of records that it copies.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|p| p.len).sum()
    }

    /// Does it. What it has copied is on disk then.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Copied> {
        disk.create_dir_all(&self.to)?;
        for base in &self.gone {
            for suffix in [
                LOG_SUFFIX,
                INDEX_SUFFIX,
                TIME_INDEX_SUFFIX,
                TXN_INDEX_SUFFIX,
            ] {
                // It may not be there.
                let _ = disk.remove_file(&segment_path(&self.to, *base, suffix));
            }
        }
        let mut copied = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces {
            if copy_piece(disk, &self.from, &self.to, &piece)? {
                copied.push(piece);
            }
        }
        for base in &self.indexes {
            for suffix in INDEX_SUFFIXES {
                let from = segment_path(&self.from, *base, suffix);
                copy_file(disk, &from, &segment_path(&self.to, *base, suffix))?;
            }
        }
        Ok(Copied {
            pieces: copied,
            indexes: self.indexes,
        })
    }
}

/// False if its segment has been removed meanwhile.
fn copy_piece(disk: &dyn Disk, from: &Path, to: &Path, piece: &Piece) -> io::Result<bool> {
    let source = match disk.open(&segment_path(from, piece.base, LOG_SUFFIX), OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let path = segment_path(to, piece.base, LOG_SUFFIX);
    let target = disk.open(&path, OpenMode::Create)?;
    if piece.pos == 0 {
        target.set_len(0)?;
    }
    copy_range(&*source, &*target, piece.pos, piece.len)?;
    target.sync()?;
    Ok(true)
}

fn copy_range(from: &dyn DiskFile, to: &dyn DiskFile, mut pos: u64, len: u64) -> io::Result<()> {
    let end = pos + len;
    let mut buf = vec![0; CHUNK_BYTES.min(usize::try_from(len).unwrap_or(CHUNK_BYTES))];
    while pos < end {
        let n = buf
            .len()
            .min(usize::try_from(end - pos).unwrap_or(usize::MAX));
        let Some(part) = buf.get_mut(..n) else {
            return Ok(()); // `n` is at most the buffer's length
        };
        from.read_exact_at(part, pos)?;
        to.write_all_at(part, pos)?;
        pos += n as u64;
    }
    Ok(())
}

/// Copies a whole file that may not be there.
fn copy_file(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    let source = match disk.open(from, OpenMode::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let target = disk.open(to, OpenMode::Create)?;
    target.set_len(0)?;
    copy_range(&*source, &*target, 0, source.len()?)?;
    target.sync()
}

/// The last step of a move.
#[derive(Debug)]
pub struct RelocateJob {
    rest: CopyJob,
    /// Each segment and how long it must be.
    lens: Vec<(i64, u64)>,
    to: PathBuf,
    aside: PathBuf,
}

/// The copy has the partition's name.
#[derive(Debug)]
pub struct Relocated {
    /// Where the log is now.
    pub dir: PathBuf,
    /// What the old directory is called now: to be removed.
    pub aside: PathBuf,
    /// The old directory could not be put aside: it still has the partition's name.
    pub left_behind: Option<io::Error>,
}

impl RelocateJob {
    /// Does it.
    ///
    /// # Errors
    /// The log is where it was, and the copy still has its own name.
    pub fn run(self, disk: &dyn Disk) -> io::Result<Relocated> {
        let (from, copy) = (self.rest.from.clone(), self.rest.to.clone());
        self.rest.run(disk)?;
        for (base, len) in &self.lens {
            let path = segment_path(&copy, *base, LOG_SUFFIX);
            let file = disk.open(&path, OpenMode::Create)?;
            if file.len()? != *len {
                let message = format!("{}: the copy is not whole", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        copy_small_files(disk, &from, &copy, &self.lens)?;
        disk.sync_dir(&copy)?;
        disk.rename(&copy, &self.to)?;
        let parent_of = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
        disk.sync_dir(&parent_of(&self.to))?;
        let put_aside = || {
            disk.rename(&from, &self.aside)?;
            disk.sync_dir(&parent_of(&self.aside))
        };
        Ok(Relocated {
            left_behind: put_aside().err(),
            dir: self.to,
            aside: self.aside,
        })
    }
}

/// Copies all but the records, and the indexes that slices have copied: the log's checkpoints,
/// snapshots, indexes of open segments and of transactions.
fn copy_small_files(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    segments: &[(i64, u64)],
) -> io::Result<()> {
    let is_segment = |base| segments.iter().any(|(s, _)| *s == base);
    for (name, is_dir) in disk.list(from)? {
        let index = INDEX_SUFFIXES
            .iter()
            .find_map(|suffix| offset_of_name(&name, suffix));
        let wanted = match (index, offset_of_name(&name, TXN_INDEX_SUFFIX)) {
            (Some(base), _) => is_segment(base) && !disk.exists(&to.join(&name)),
            (_, Some(base)) => is_segment(base),
            _ => {
                let dead = [DELETED_SUFFIX, ".tmp", ".swap", ".cleaned"];
                offset_of_name(&name, LOG_SUFFIX).is_none()
                    && !dead.iter().any(|suffix| name.ends_with(suffix))
            }
        };
        if wanted && !is_dir {
            copy_file(disk, &from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

impl Log {
    /// A [`RelocateJob`] has ended well: the log goes on in `dir`, all of it on disk. Nothing
    /// may have been in flight.
    pub fn moved_to(&mut self, dir: PathBuf) {
        for segment in &mut self.segments {
            (segment.file, segment.index_file) = self.ids.segment_files(&dir, segment.base_offset);
            segment.named = true;
        }
        self.positions = PositionCache::default();
        self.dir = dir;
    }
}

#[cfg(test)]
#[path = "relocate_test.rs"]
mod tests;
