//! Where the limit probe puts records, with as little as a log can do: segments of one size, the
//! oldest removed or written over, no index.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use mio::Waker;
use rustix::io::pwritev;

/// As the brokers' topics are created with: `segment.bytes` and `retention.bytes`.
const SEGMENT_BYTES: u64 = 16 << 20;
const KEPT_SEGMENTS: usize = 4;
/// Slices of one vectored write.
const SLICES: usize = 64;
/// Segments that may wait for their removal. Beyond that the probe waits too: what is written and
/// not yet removed must not fill the disk, nor memory until the kernel begins to write it back.
const REMOVED_WAITING: usize = 16;
/// Threads that sync files at the same time.
const SYNC_THREADS: usize = 16;

/// What happens to the oldest segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oldest {
    /// A helper thread removes it; the next one is a new file.
    Removed,
    /// It becomes the next one: its pages are there already.
    Overwritten,
    /// It stays: the whole log is one file, for fetches.
    Kept,
}

/// A batch's place in the log, or that of a part of it.
#[derive(Debug, Clone)]
pub struct Slot {
    file: Arc<File>,
    /// Where the next bytes go.
    pub at: u64,
}

impl Slot {
    /// The place of the next `bytes`, which this one then stands behind.
    pub fn advance(&mut self, bytes: usize) -> Self {
        let place = self.clone();
        self.at += bytes as u64;
        place
    }

    /// Whether it is in the present segment of this log.
    pub fn is_in(&self, log: &Log) -> bool {
        Arc::ptr_eq(&self.file, &log.file)
    }
}

/// One partition.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    oldest: Oldest,
    file: Arc<File>,
    path: PathBuf,
    /// Bytes in the present segment.
    filled: u64,
    old: VecDeque<(PathBuf, Arc<File>)>,
    segments: u64,
    /// Offset of the next record.
    pub end: i64,
    /// Base offset and position of each batch, when the log is kept.
    index: Vec<(i64, u64)>,
    /// Somebody takes what is to be synced.
    synced: bool,
    /// Written since the last sync; the segments that ended since then are in the second field.
    dirty: bool,
    ended: Vec<Arc<File>>,
}

fn create(path: &Path) -> Result<Arc<File>> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    Ok(Arc::new(file.with_context(|| path.display().to_string())?))
}

impl Log {
    /// An empty log in `dir`, which is created. With `synced`, [`Log::take_dirty`] has to be
    /// called: until then it holds the segments that it was to give.
    ///
    /// # Errors
    /// The files cannot be created.
    pub fn new(dir: PathBuf, oldest: Oldest, synced: bool) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let path = dir.join("0.log");
        Ok(Self {
            file: create(&path)?,
            dir,
            oldest,
            path,
            filled: 0,
            old: VecDeque::new(),
            segments: 1,
            end: 0,
            index: Vec::new(),
            synced,
            dirty: false,
            ended: Vec::new(),
        })
    }

    /// Reserves the place of a batch of `bytes` with `records`, and its base offset.
    ///
    /// # Errors
    /// The next segment cannot be created.
    pub fn reserve(
        &mut self,
        bytes: u64,
        records: i64,
        helper: &SyncSender<Removed>,
    ) -> Result<(Slot, i64)> {
        let full = self.filled > 0 && self.filled + bytes > SEGMENT_BYTES;
        if self.oldest != Oldest::Kept && full {
            self.roll(helper)?;
        }
        let slot = Slot {
            file: Arc::clone(&self.file),
            at: self.filled,
        };
        let base = self.end;
        if self.oldest == Oldest::Kept {
            self.index.push((base, self.filled));
        }
        self.filled += bytes;
        self.end += records;
        self.dirty = true;
        Ok((slot, base))
    }

    fn roll(&mut self, helper: &SyncSender<Removed>) -> Result<()> {
        if self.synced && self.dirty {
            self.ended.push(Arc::clone(&self.file));
        }
        let spare = if self.old.len() >= KEPT_SEGMENTS {
            self.old.pop_front()
        } else {
            None
        };
        let (path, file) = match spare {
            Some(oldest) if self.oldest == Oldest::Overwritten => oldest,
            spare => {
                if let Some((path, file)) = spare {
                    helper
                        .send(Removed { path, file })
                        .context("the helper thread")?;
                }
                let path = self.dir.join(format!("{}.log", self.segments));
                self.segments += 1;
                (path.clone(), create(&path)?)
            }
        };
        let ended = (
            std::mem::replace(&mut self.path, path),
            std::mem::replace(&mut self.file, file),
        );
        self.old.push_back(ended);
        self.filled = 0;
        Ok(())
    }

    /// Moves the files that were written since the last call to `files`.
    pub fn take_dirty(&mut self, files: &mut Vec<Arc<File>>) {
        files.append(&mut self.ended);
        if std::mem::take(&mut self.dirty) {
            files.push(Arc::clone(&self.file));
        }
    }

    /// Position and bytes of the whole batches from `offset` on that fit into `bytes`, one at
    /// least.
    pub fn find(&self, offset: i64, bytes: usize) -> (u64, usize) {
        let first = self.index.partition_point(|(base, _)| *base < offset);
        let Some((_, begin)) = self.index.get(first).copied() else {
            return (self.filled, 0);
        };
        let limit = begin + bytes as u64;
        let next = self
            .index
            .partition_point(|(_, at)| *at <= limit)
            .max(first + 1);
        let all_fit = next == self.index.len() && self.filled <= limit;
        let end = match self.index.get(next).map(|(_, at)| *at) {
            _ if all_fit => self.filled,
            // The last batch that begins within the limit may end behind it.
            _ if next - 1 > first => self.index.get(next - 1).map_or(begin, |(_, at)| *at),
            Some(at) => at,
            None => self.filled,
        };
        (begin, usize::try_from(end - begin).unwrap_or(0))
    }

    /// The file that holds all of a kept log.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// A part of the input that goes to a file.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Where it goes.
    pub slot: Slot,
    /// Where it stands in the input.
    pub from: usize,
    /// How long it is.
    pub bytes: usize,
}

/// Writes pieces of `input`, those that follow each other in a file at once.
///
/// # Errors
/// The disk is full or broken.
pub fn write(pieces: &[Piece], input: &[u8]) -> Result<()> {
    let mut rest = pieces;
    while let Some(first) = rest.first() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut end, mut whole) = (0, first.slot.at, 0);
        for (slice, piece) in slices.iter_mut().zip(rest) {
            let same = Arc::ptr_eq(&piece.slot.file, &first.slot.file) && piece.slot.at == end;
            if !same {
                break;
            }
            let bytes = input.get(piece.from..piece.from + piece.bytes);
            *slice = IoSlice::new(bytes.context("inside the input")?);
            count += 1;
            end += piece.bytes as u64;
            whole += piece.bytes;
        }
        let slices = slices.get(..count).unwrap_or_default();
        let done = pwritev(&*first.slot.file, slices, first.slot.at)?;
        ensure!(done == whole, "a short write: the disk is full");
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// A segment that a helper thread closes and removes.
#[derive(Debug)]
pub struct Removed {
    path: PathBuf,
    file: Arc<File>,
}

/// The thread that removes segments: freeing their pages takes as long as writing them.
pub fn remover() -> SyncSender<Removed> {
    let (to, from): (SyncSender<Removed>, Receiver<Removed>) = sync_channel(REMOVED_WAITING);
    std::thread::spawn(move || {
        for removed in from {
            // What cannot be removed is the caller's directory to clean up.
            drop(std::fs::remove_file(&removed.path));
            drop(removed.file);
        }
    });
    to
}

/// Threads that sync the files of a round in parallel, and say when all are done.
#[derive(Debug)]
pub struct Syncer {
    to: Sender<Arc<File>>,
    left: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

impl Syncer {
    /// Starts the threads; `waker` is woken at the end of each round.
    pub fn new(waker: &Arc<Waker>) -> Self {
        let (to, from) = channel::<Arc<File>>();
        let from = Arc::new(Mutex::new(from));
        let left = Arc::new(AtomicUsize::new(0));
        let failed = Arc::new(AtomicUsize::new(0));
        for _ in 0..SYNC_THREADS {
            let (from, left, failed) = (Arc::clone(&from), Arc::clone(&left), Arc::clone(&failed));
            let waker = Arc::clone(waker);
            std::thread::spawn(move || {
                loop {
                    let Ok(Ok(file)) = from.lock().map(|f| f.recv()) else {
                        return; // the probe ended
                    };
                    if file.sync_data().is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    if left.fetch_sub(1, Ordering::AcqRel) == 1 && waker.wake().is_err() {
                        return;
                    }
                }
            });
        }
        Self { to, left, failed }
    }

    /// Whether no round is under way.
    ///
    /// # Errors
    /// A file could not be synced.
    pub fn idle(&self) -> Result<bool> {
        let idle = self.left.load(Ordering::Acquire) == 0;
        ensure!(
            self.failed.load(Ordering::Relaxed) == 0,
            "a file cannot be synced"
        );
        Ok(idle)
    }

    /// Begins a round with these files.
    ///
    /// # Errors
    /// The threads are gone.
    pub fn begin(&self, files: &mut Vec<Arc<File>>) -> Result<()> {
        self.left.store(files.len(), Ordering::Release);
        for file in files.drain(..) {
            self.to.send(file).context("the sync threads")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_segment_that_is_removed_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path().join("t-0"), Oldest::Removed, false).unwrap();
        let helper = remover();
        let (slot, _) = log.reserve(SEGMENT_BYTES, 1, &helper).unwrap();
        let first = Arc::downgrade(&slot.file);
        drop(slot);
        for _ in 0..=KEPT_SEGMENTS {
            log.reserve(SEGMENT_BYTES, 1, &helper).unwrap();
        }
        let by = Instant::now() + Duration::from_secs(20);
        while first.strong_count() > 0 {
            assert!(Instant::now() < by, "somebody has the file still");
            std::thread::yield_now();
        }
    }
}
