//! Takes a partition's files out of the page cache, so that the next read of them is cold.

use std::collections::HashMap;
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Advice, fadvise};

/// A folio goes if all of it is in the part to be evicted: one that ended behind the part before
/// goes with the next.
const FOLIO_BYTES_MAX: u64 = 4 << 20;
/// What a call evicts while the client is at work: some 10 us.
const PIECE_BYTES: u64 = 256 << 10;
/// Pause behind such a call: the client's thread, which may share its CPU, has its turn then.
const PAUSE: Duration = Duration::from_micros(50);
/// With more than so many parts to be evicted there are no pauses: the next pass must find none.
const WAITING_MAX: usize = 64;

/// Drops the files of one partition from the page cache, what is dirty after writing it.
///
/// # Errors
/// The directory cannot be read.
pub fn evict(broker_dir: &Path, topic: &str, partition: i32) -> Result<()> {
    for (_, file) in segments(broker_dir, topic, partition)? {
        file.sync_data()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Base offset and log file of each segment.
type Segments = Vec<(i64, File)>;

fn segments(broker_dir: &Path, topic: &str, partition: i32) -> Result<Segments> {
    let dir = broker_dir.join(format!("{topic}-{partition}"));
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let base = path.file_stem().and_then(|s| s.to_str()?.parse().ok());
        // A file may be deleted meanwhile.
        if path.extension().is_some_and(|e| e == "log")
            && let Some(base) = base
            && let Ok(file) = File::open(&path)
        {
            found.push((base, file));
        }
    }
    Ok(found)
}

/// Where the batches of these offsets lie in a segment that begins at `base` and is `len` bytes
/// long, if all batches have so many bytes and records.
fn place(offsets: &Range<i64>, base: i64, len: u64, batch: (usize, i64)) -> Range<u64> {
    let at = |offset: i64| {
        let batches = (offset - base).max(0) / batch.1;
        (batches as u64).saturating_mul(batch.0 as u64).min(len)
    };
    at(offsets.start)..at(offsets.end)
}

/// What was read, and is to be read from the disk the next time.
#[derive(Debug)]
pub struct ReadOnce {
    /// Topic and partition.
    pub partition: (String, i32),
    /// First offset, and the one behind the last.
    pub offsets: Range<i64>,
    /// Bytes and records of each batch.
    pub batch: (usize, i64),
}

/// A thread that evicts behind readers what was synced before: on the client's own thread 256 MiB
/// would hold up requests that are due for tens of milliseconds, and what is still to be read must
/// not be evicted between the broker's look at it and its sending. It ends with the last handle.
#[derive(Debug, Clone)]
pub struct Evictor {
    wanted: Sender<ReadOnce>,
    waiting: Arc<AtomicUsize>,
    failed: Arc<OnceLock<String>>,
}

impl Evictor {
    /// Starts it, for partitions in this directory.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(broker_dir: PathBuf) -> Result<Self> {
        let (wanted, all) = channel::<ReadOnce>();
        let failed = Arc::new(OnceLock::new());
        let waiting = Arc::new(AtomicUsize::new(0));
        let (why, left) = (Arc::clone(&failed), Arc::clone(&waiting));
        let work = move || {
            let mut parts = Parts {
                broker_dir,
                known: HashMap::new(),
            };
            let done = all.iter().try_for_each(|read| {
                let before = left.fetch_sub(1, Ordering::Relaxed);
                parts.evict(read, before <= WAITING_MAX)
            });
            if let Err(e) = done {
                let _ = why.set(format!("{e:#}")); // set only here
            }
        };
        let thread = std::thread::Builder::new().name("evictor".to_owned());
        thread.spawn(work)?;
        Ok(Self {
            wanted,
            waiting,
            failed,
        })
    }

    /// Evicts this soon.
    ///
    /// # Errors
    /// Something earlier could not be evicted.
    pub fn evict(&self, read: ReadOnce) -> Result<()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.wanted.send(read).is_err() {
            let why = self.failed.get().map_or("it ended", String::as_str);
            bail!("what is read may not be cold: {why}");
        }
        Ok(())
    }
}

/// Partitions whose files have been found: to look for them each time would take longer than to
/// evict what was read.
struct Parts {
    broker_dir: PathBuf,
    known: HashMap<(String, i32), Segments>,
}

impl Parts {
    fn evict(&mut self, read: ReadOnce, with_pauses: bool) -> Result<()> {
        let (topic, partition) = &read.partition;
        let last = self.known.get(&read.partition).and_then(|all| all.last());
        let whole = match last {
            Some((base, file)) => {
                let len = file.metadata()?.len();
                place(&read.offsets, *base, u64::MAX, read.batch).end <= len
            }
            None => false,
        };
        if !whole {
            let mut all = segments(&self.broker_dir, topic, *partition)?;
            all.sort_unstable_by_key(|(base, _)| *base);
            self.known.insert(read.partition.clone(), all);
        }
        let files = self.known.get(&read.partition).into_iter().flatten();
        for (base, file) in files {
            let part = place(&read.offsets, *base, file.metadata()?.len(), read.batch);
            let mut at = part.start;
            while at < part.end {
                let end = part.end.min(at + PIECE_BYTES);
                let from = at.saturating_sub(FOLIO_BYTES_MAX);
                fadvise(file, from, NonZeroU64::new(end - from), Advice::DontNeed)?;
                if with_pauses {
                    std::thread::sleep(PAUSE);
                }
                at = end;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < end, "{what} takes too long");
            std::thread::yield_now();
        }
    }

    #[test]
    fn parts_lie_where_their_batches_are() {
        let batch = (1000, 10);
        assert_eq!(place(&(0..50), 0, 9000, batch), 0..5000);
        assert_eq!(place(&(50..100), 0, 9000, batch), 5000..9000);
        assert_eq!(place(&(50..100), 90, 9000, batch), 0..1000);
        assert!(place(&(50..100), 100, 9000, batch).is_empty());
        assert!(place(&(500..600), 0, 9000, batch).is_empty());
    }

    #[test]
    fn a_partition_that_is_not_there_is_said_with_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let evictor = Evictor::start(dir.path().to_owned()).unwrap();
        let none = || ReadOnce {
            partition: ("none".to_owned(), 0),
            offsets: 0..10,
            batch: (1000, 10),
        };
        evictor.evict(none()).unwrap();
        let mut said = String::new();
        until("the refusal", || match evictor.evict(none()) {
            Ok(()) => false,
            Err(e) => {
                said = e.to_string();
                true
            }
        });
        assert!(said.contains("none-0"), "{said}");
    }
}
