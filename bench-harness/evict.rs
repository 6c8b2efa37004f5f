//! Takes a partition's files out of the page cache, so that the next read of them is cold.

use std::fs::{self, File};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Advice, fadvise};

/// A folio goes if all of it is in the part to be evicted: one that ended behind the part before
/// goes with the next.
const FOLIO_BYTES_MAX: u64 = 4 << 20;

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
fn segments(broker_dir: &Path, topic: &str, partition: i32) -> Result<Vec<(i64, File)>> {
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
        let why = Arc::clone(&failed);
        let work = move || {
            let done = all
                .iter()
                .try_for_each(|read| evict_part(&broker_dir, &read));
            if let Err(e) = done {
                let _ = why.set(format!("{e:#}")); // set only here
            }
        };
        let thread = std::thread::Builder::new().name("evictor".to_owned());
        thread.spawn(work)?;
        Ok(Self { wanted, failed })
    }

    /// Evicts this soon.
    ///
    /// # Errors
    /// Something earlier could not be evicted.
    pub fn evict(&self, read: ReadOnce) -> Result<()> {
        if self.wanted.send(read).is_err() {
            let why = self.failed.get().map_or("it ended", String::as_str);
            bail!("what is read may not be cold: {why}");
        }
        Ok(())
    }
}

fn evict_part(broker_dir: &Path, read: &ReadOnce) -> Result<()> {
    let (topic, partition) = &read.partition;
    for (base, file) in segments(broker_dir, topic, *partition)? {
        let part = place(&read.offsets, base, file.metadata()?.len(), read.batch);
        let from = part.start.saturating_sub(FOLIO_BYTES_MAX);
        if let Some(bytes) = NonZeroU64::new(part.end.saturating_sub(from))
            && !part.is_empty()
        {
            fadvise(&file, from, Some(bytes), Advice::DontNeed)?;
        }
    }
    Ok(())
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
