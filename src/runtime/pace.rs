//! How fast log writes enter the page cache while the disk is slower than what comes in and direct
//! writes would wait for all that is queued: as fast as the disk writes, one after the other, so
//! that it always has work and nobody meets the kernel's dirty throttle (docs/adr/0023).
//!
//! The disk's own count of what it has written is followed, not that of write-back: the kernel
//! counts pages when a whole request has ended, and those of write-back have hundreds of megabytes.

use crate::sys;
use crate::writeback::Dirty;
use flumen_base::Mono;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Over how long what is written back is averaged: ten of a controller's slices.
const MEAN: Duration = Duration::from_secs(1);
/// Parts of the disk's rate that are let in, at least and at most: where much is dirty, and little.
const LEAST: f64 = 0.85;
const MOST: f64 = 1.25;
/// How long a write is held at most; what does not fit in has the kernel's throttle behind it.
const HELD_MAX: Duration = Duration::from_secs(1);
/// Being written back: with less the disk may be idle. 16 MiB in pages of 4 KiB.
const WORK_PAGES: u64 = 4096;
/// Bytes that a cost is of.
const UNIT: u64 = 1 << 20;

/// When writes may begin. All shards share it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Nanoseconds from one MiB to the next; 0 is no pace.
    cost: AtomicU64,
    /// When the next write may begin.
    next: AtomicU64,
    /// What the kernel counts of the disk that is followed.
    disk: Mutex<Option<File>>,
    follows: AtomicBool,
}

impl Pace {
    fn disk(&self) -> MutexGuard<'_, Option<File>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the disk under this directory from now on, if the kernel counts what it does.
    pub(crate) fn follow(&self, dir: &Path) {
        let counts = open_counts(dir);
        if let Err(e) = &counts {
            tracing::info!(dir = %dir.display(), error = %e, "log writes have no pace");
        }
        self.follows.store(counts.is_ok(), Ordering::Relaxed);
        *self.disk() = counts.ok();
    }

    /// Lets so many bytes per second in from now on.
    pub(crate) fn fix(&self, bytes_per_second: u32) {
        self.set(Some(f64::from(bytes_per_second)));
        self.follows.store(true, Ordering::Relaxed);
    }

    /// Follows the last disk again.
    pub(crate) fn resume(&self) {
        let known = self.disk().is_some();
        self.follows.store(known, Ordering::Relaxed);
    }

    /// Follows no disk.
    pub(crate) fn stop(&self) {
        self.follows.store(false, Ordering::Relaxed);
        self.cost.store(0, Ordering::Relaxed);
    }

    pub(crate) fn follows(&self) -> bool {
        self.follows.load(Ordering::Relaxed)
    }

    /// Takes a look into account; writes are held while write-back is behind.
    pub(crate) fn look(&self, rate: &mut Rate, now: Duration, dirty: Dirty, behind: bool) {
        let written = match self.follows() {
            true => self.disk().as_ref().and_then(disk_written),
            false => None,
        };
        let let_in = written.and_then(|bytes| rate.look(now, dirty, bytes));
        self.set(let_in.filter(|_| behind));
    }

    fn set(&self, bytes_per_second: Option<f64>) {
        let cost = bytes_per_second.map_or(0, |rate| (UNIT as f64 * 1e9 / rate.max(1.0)) as u64);
        self.cost.store(cost, Ordering::Relaxed);
    }

    /// When a write of so many bytes may begin.
    pub(crate) fn slot(&self, now: Mono, bytes: usize) -> Mono {
        let cost = self.cost.load(Ordering::Relaxed);
        if cost == 0 {
            return now;
        }
        let took = cost.saturating_mul(bytes as u64) / UNIT;
        let last = now + HELD_MAX;
        let begin = |next: u64| next.clamp(now.0, last.0);
        let (ok, fail) = (Ordering::Relaxed, Ordering::Relaxed);
        let taken = self.next.fetch_update(ok, fail, |next| {
            Some(begin(next).saturating_add(took).min(last.0))
        });
        Mono(begin(taken.unwrap_or(now.0)))
    }
}

/// What the disk writes, and what to let in for it.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// The look before, if the disk had work then: when, and what it had written.
    last: Option<(Duration, u64)>,
    /// How long it was seen to have work, up to `MEAN`.
    seen: Duration,
    bytes_per_second: f64,
}

impl Rate {
    /// Takes a look into account, and the bytes that the disk has written: bytes per second to let
    /// in, `None` where it has nothing to do, or nothing is known yet.
    pub(crate) fn look(&mut self, now: Duration, dirty: Dirty, written: u64) -> Option<f64> {
        let has_work = dirty.writeback >= WORK_PAGES;
        let last = std::mem::replace(&mut self.last, has_work.then_some((now, written)));
        let (then, before) = last.filter(|(then, _)| has_work && now > *then)?;
        let took = now - then;
        self.seen = (self.seen + took).min(MEAN);
        let part = took.as_secs_f64() / self.seen.as_secs_f64();
        let rate = written.wrapping_sub(before) as f64 / took.as_secs_f64();
        self.bytes_per_second += (rate - self.bytes_per_second) * part.min(1.0);
        (self.bytes_per_second > 0.0).then(|| self.bytes_per_second * part_let_in(dirty))
    }
}

/// What waits for its time, earliest first. One per shard.
#[derive(Debug)]
pub(crate) struct Held<T>(VecDeque<(Mono, T)>);

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Held<T> {
    pub(crate) fn hold(&mut self, until: Mono, what: T) {
        self.0.push_back((until, what));
    }

    /// What has waited long enough.
    pub(crate) fn next_due(&mut self, now: Mono) -> Option<T> {
        let (_, what) = self.0.pop_front_if(|(until, _)| *until <= now)?;
        Some(what)
    }

    /// When the first one's time comes.
    pub(crate) fn next_at(&self) -> Option<Mono> {
        self.0.front().map(|(until, _)| *until)
    }
}

/// Opens what the kernel counts of the disk under this directory.
fn open_counts(dir: &Path) -> io::Result<File> {
    let device = std::fs::metadata(dir)?.dev();
    File::open(sys::disk_dir(device).join("stat"))
}

/// Bytes that this disk has written (Documentation/block/stat.rst).
fn disk_written(counts: &File) -> Option<u64> {
    let mut buf = [0; 512];
    let n = counts.read_at(&mut buf, 0).ok()?;
    let text = std::str::from_utf8(buf.get(..n)?).ok()?;
    let sectors: u64 = text.split_ascii_whitespace().nth(6)?.parse().ok()?;
    sectors.checked_mul(512)
}

/// All of the disk's rate in the middle between where write-back begins and where writes are full;
/// less above, so that others who write do not push it into the throttle, and more below.
fn part_let_in(dirty: Dirty) -> f64 {
    let top = dirty.full() as f64;
    let middle = f64::midpoint(top, dirty.background as f64);
    let part = (top - dirty.unwritten as f64) / (top - middle).max(1.0);
    part.clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pages of 4 KiB.
    const BACKGROUND: u64 = 100_000;
    const FREE_RUN: u64 = 450_000;

    fn dirty(unwritten: u64, writeback: u64) -> Dirty {
        Dirty {
            unwritten,
            writeback,
            background: BACKGROUND,
            free_run: FREE_RUN,
        }
    }

    /// A disk that takes 30 MB in the first quarter of each tenth of a second, and a producer that
    /// always has the next 320 KiB.
    #[test]
    fn a_disk_that_works_in_bursts_is_fed_evenly() {
        const WRITE: usize = 320 << 10;
        let (pace, mut rate) = (Pace::default(), Rate::default());
        let (mut level, mut written, mut taken, mut longest) = (400_000 << 12, 0, 0, 0);
        let mut free_at = Mono(0);
        for ms in 0..60_000u64 {
            let now = Mono(ms * 1_000_000);
            if ms % 100 < 25 {
                let bytes = 1_200_000.min(level);
                (level, written) = (level - bytes, written + bytes);
            }
            if ms % 25 == 0 {
                let dirty = dirty(level >> 12, level >> 12);
                pace.set(rate.look(Duration::from_millis(ms), dirty, written));
            }
            while free_at <= now {
                free_at = pace.slot(now, WRITE);
                level += WRITE as u64;
                let held = free_at - now;
                if ms >= 20_000 {
                    taken += WRITE as u64;
                    longest = longest.max(held.as_millis());
                }
                if held.is_zero() && ms < 100 {
                    break; // nothing is known yet
                }
            }
            assert!(
                level >> 12 < FREE_RUN && (ms < 1_000 || level > 0),
                "{level} at {ms}"
            );
        }
        let per_second = taken / 40;
        assert!(
            (290_000_000..310_000_000).contains(&per_second),
            "{per_second}"
        );
        assert!(longest <= 3, "{longest} ms");
    }

    #[test]
    fn a_disk_with_nothing_to_do_holds_nobody() {
        let (pace, mut rate) = (Pace::default(), Rate::default());
        let at = Duration::from_millis;
        pace.set(rate.look(at(0), dirty(200_000, 200_000), 0));
        pace.set(rate.look(at(25), dirty(200_000, 200_000), 1 << 20));
        let now = Mono(1 << 40);
        let first = pace.slot(now, 1 << 20);
        assert!((first, pace.slot(now, 1) > now) == (now, true));
        pace.set(rate.look(at(50), dirty(200_000, WORK_PAGES - 1), 2 << 20));
        assert_eq!(pace.slot(now, 1 << 20), now);
        // And nothing was learned from what it did meanwhile.
        assert_eq!(rate.look(at(75), dirty(200_000, 200_000), 2 << 20), None);
        assert!(
            rate.look(at(100), dirty(200_000, 200_000), 3 << 20)
                .unwrap()
                > 30e6
        );
    }

    #[test]
    fn nobody_is_held_for_more_than_a_second() {
        let pace = Pace::default();
        pace.set(Some(0.0));
        let now = Mono(5);
        for bytes in [1, 1 << 30, usize::MAX, 1 << 20] {
            assert!(pace.slot(now, bytes) <= now + HELD_MAX);
        }
        let later = now + HELD_MAX * 2;
        assert_eq!(pace.slot(later, 1), later);
    }

    #[test]
    fn more_is_let_in_where_little_is_dirty() {
        let parts = [0, BACKGROUND, 267_000, 380_000, FREE_RUN].map(|n| part_let_in(dirty(n, n)));
        assert_eq!((parts[0], parts[1], parts[4]), (MOST, MOST, LEAST));
        assert!((parts[2] - 1.0).abs() < 0.1, "{parts:?}");
        assert_eq!(parts[3], LEAST);
    }

    #[test]
    fn what_is_held_comes_out_at_its_time() {
        let mut held = Held::default();
        held.hold(Mono(5), "a");
        held.hold(Mono(5), "b");
        held.hold(Mono(9), "c");
        assert_eq!(
            (held.next_at(), held.next_due(Mono(4))),
            (Some(Mono(5)), None)
        );
        assert_eq!(held.next_due(Mono(5)), Some("a"));
        assert_eq!(held.next_due(Mono(8)), Some("b"));
        assert_eq!(
            (held.next_due(Mono(8)), held.next_at()),
            (None, Some(Mono(9)))
        );
        assert_eq!((held.next_due(Mono(9)), held.next_at()), (Some("c"), None));
    }

    #[test]
    fn the_kernels_counts_of_a_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " 9 1 72 3 11 5 4096 7 0 8 9\n").unwrap();
        let counts = File::open(file.path()).unwrap();
        assert_eq!(disk_written(&counts), Some(4096 * 512));
        std::fs::write(file.path(), "9 1 72\n").unwrap();
        assert_eq!(disk_written(&counts), None);
        let pace = Pace::default();
        pace.follow(Path::new("/proc"));
        assert!(!pace.follows());
        pace.resume();
        assert!(!pace.follows());
        *pace.disk() = Some(counts);
        pace.resume();
        assert!(pace.follows());
        pace.stop();
        assert!(!pace.follows());
    }
}
