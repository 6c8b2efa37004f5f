//! How far the kernel's write-back is behind, so that a write into the page cache does not stop a
//! shard in the kernel's dirty throttle.
//!
//! The kernel lets writers run freely up to the mean of its two dirty thresholds, and puts them to
//! sleep above. A thread of its own looks at `/proc/vmstat` while log writes happen, and never at
//! idle; shards only look at a flag. The flag goes up below the throttle by what can be written
//! between two looks, no earlier: what waits in the disk's queue is in the way of direct writes. It
//! goes down where background write-back ends by itself. Where it goes up again soon, the disk is
//! slower than what comes in, and it stays up longer each time: else memory would fill, drain and
//! fill again.
//!
//! Some disks serve what comes in its order (a limit of the block layer's controller, a device with
//! a long queue): a direct write then takes as long as write-back needs for what it has queued,
//! seconds. So a thread tries one first, into a file without a name; until it is through, and for
//! some minutes where it took long, log writes stay in the page cache, at the disk's pace
//! (`pace.rs`), and what counts as full is less: the kernel is not to begin with write-back.

use crate::direct::AlignedBuf;
use crate::jobs::HelperCpus;
use crate::pace::{Pace, Rate};
use crate::sys;
use flumen_base::aligned::BLOCK;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

const VMSTAT: &str = "/proc/vmstat";
/// `/proc/vmstat` is a few KiB; what is looked for stands in its first part.
const VMSTAT_LEN_MAX: usize = 16 << 10;
/// Pause between looks, while little is dirty and otherwise.
const CALM: Duration = Duration::from_millis(100);
const CLOSE: Duration = Duration::from_millis(25);
/// Share of the free run, in percent, from which it is looked at closely. Background write-back
/// begins at two thirds of it by default.
const CLOSE_AT: u64 = 10;
/// Its last part counts as full: what can be written between two looks, 64 MiB in pages of 4 KiB,
/// but no more than this share in percent: with little memory that would be most of it.
const MARGIN_PAGES: u64 = 16 << 10;
const MARGIN_MAX: u64 = 20;
/// Where direct writes wait behind write-back: percent of what the kernel begins at from which it
/// counts as behind, and as through.
const EARLY_FULL: u64 = 90;
const EARLY_LOW: u64 = 20;
/// How long it counts as behind at least: the first time, and at most when that comes again and
/// again within the pause.
const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(60);
const RELAPSE: Duration = Duration::from_secs(10);
/// A direct write that took so long had to wait for write-back, and how long that is remembered.
const DIRECT_SLOW: Duration = Duration::from_millis(200);
const DIRECT_AGAIN: Duration = Duration::from_secs(600);
/// Pauses without a write, after which the thread sleeps until the next write.
const IDLE_LOOKS: u32 = 10;
/// While little is dirty it is looked at again only when so much was written, in bytes (a look
/// costs as much as several writes), or after so many pauses: others write too.
const LOOK_BYTES: u64 = 32 << 20;
const PAUSES_MAX: u32 = 10;

/// What the kernel says, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dirty {
    /// Dirty or being written back.
    pub(crate) unwritten: u64,
    /// Of that, being written back.
    pub(crate) writeback: u64,
    /// Above this the kernel writes back in the background.
    pub(crate) background: u64,
    /// Up to here writers are not held up.
    pub(crate) free_run: u64,
}

impl Dirty {
    /// Reads the text of `/proc/vmstat`; `None` if a line is missing.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let (_, value) = lines.find(|(key, _)| *key == name)?;
            value.trim().parse::<u64>().ok()
        };
        let background = value("nr_dirty_background_threshold")?;
        let throttle = value("nr_dirty_threshold")?;
        let writeback = value("nr_writeback")?;
        Some(Self {
            unwritten: value("nr_dirty")? + writeback,
            writeback,
            background,
            free_run: (background + throttle) / 2,
        })
    }

    /// The same where direct writes wait behind write-back: all happens before the kernel begins to
    /// write back by itself, in pieces of hundreds of megabytes.
    fn early(self) -> Self {
        Self {
            background: self.background * EARLY_LOW / 100,
            free_run: self.background * EARLY_FULL / 100,
            ..self
        }
    }

    /// From here on a writer may be held up before the next look.
    pub(crate) fn full(self) -> u64 {
        let margin = MARGIN_PAGES.min(self.free_run.saturating_mul(MARGIN_MAX) / 100);
        self.free_run.saturating_sub(margin)
    }

    fn is_full(self) -> bool {
        self.unwritten >= self.full()
    }

    fn has_caught_up(self) -> bool {
        self.unwritten < self.background
    }

    fn percent(self) -> u64 {
        self.unwritten.saturating_mul(100) / self.free_run.max(1)
    }
}

/// When it is behind and when it has caught up; times are since any moment.
#[derive(Debug)]
pub(crate) struct Judge {
    behind: bool,
    since: Duration,
    left: Option<Duration>,
    hold: Duration,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            behind: false,
            since: Duration::ZERO,
            left: None,
            hold: HOLD_MIN,
        }
    }
}

impl Judge {
    /// Takes a look into account; true while write-back is behind.
    pub(crate) fn look(&mut self, now: Duration, dirty: Dirty) -> bool {
        if !self.behind && dirty.is_full() {
            let relapse = self.left.is_some_and(|left| now < left + RELAPSE);
            self.hold = match relapse {
                true => (self.hold * 2).min(HOLD_MAX),
                false => HOLD_MIN,
            };
            (self.behind, self.since) = (true, now);
        } else if self.behind && dirty.has_caught_up() && now >= self.since + self.hold {
            (self.behind, self.left) = (false, Some(now));
        }
        self.behind
    }
}

/// What is known of direct writes while write-back is behind: nothing yet.
const UNTRIED: u8 = 0;
/// One is being tried.
const TRYING: u8 = 1;
/// They pass what write-back has queued.
const PASS: u8 = 2;
/// They have to wait for it.
const WAIT: u8 = 3;

/// The flag, and the thread that keeps it.
#[derive(Debug, Default)]
pub(crate) struct Writeback {
    behind: AtomicBool,
    direct: AtomicU8,
    /// When log writes that have to go behind what is queued may begin.
    pub(crate) pace: Pace,
    /// Where a direct write is to be tried.
    try_in: Mutex<Option<PathBuf>>,
    /// Bytes of writes that came since the last pause.
    written: AtomicU64,
    asleep: AtomicBool,
    ended: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Writeback {
    /// A log write of so many bytes happens now. True if write-back is behind.
    pub(crate) fn note_write(&self, bytes: u64) -> bool {
        let before = self.written.load(Ordering::Relaxed);
        if before == 0 {
            self.written.store(bytes, Ordering::SeqCst);
            if self.asleep.load(Ordering::SeqCst) {
                self.wake();
            }
        } else if before < LOOK_BYTES {
            // Shards may overwrite each other's counts: it is a hint.
            self.written.store(before + bytes, Ordering::Relaxed);
        }
        self.behind.load(Ordering::Relaxed)
    }

    /// A direct write has taken so long.
    pub(crate) fn note_direct(&self, took: Duration) {
        if took >= DIRECT_SLOW && self.behind.load(Ordering::Relaxed) {
            self.direct.store(WAIT, Ordering::Relaxed);
        }
    }

    /// Whether direct writes are known to pass what write-back has queued. If nothing is known, one
    /// is tried in this directory, by a thread of its own.
    pub(crate) fn lets_direct_pass(&self, dir: impl FnOnce() -> PathBuf) -> bool {
        let known = self.direct.load(Ordering::Relaxed);
        if known == UNTRIED && self.becomes(UNTRIED, TRYING) {
            *self.try_in() = Some(dir());
            self.wake();
        }
        known == PASS
    }

    fn try_in(&self) -> std::sync::MutexGuard<'_, Option<PathBuf>> {
        self.try_in.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn becomes(&self, from: u8, to: u8) -> bool {
        let (ok, fail) = (Ordering::Relaxed, Ordering::Relaxed);
        self.direct.compare_exchange(from, to, ok, fail).is_ok()
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Starts the thread. Without `/proc/vmstat` there is none, and nothing is ever behind. Writes
    /// can keep pace with a disk where all logs are on one.
    pub(crate) fn watch(
        self: &Arc<Self>,
        cpus: Arc<HelperCpus>,
        one_disk: bool,
    ) -> io::Result<Option<Watcher>> {
        let Ok(file) = File::open(VMSTAT) else {
            tracing::warn!("{VMSTAT} can't be read: log writes don't follow write-back");
            return Ok(None);
        };
        let own = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("flumen-dirty".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                cpus.pin_current();
                own.run(&file, &cpus, one_disk);
            })?;
        let _ = self.thread.set(thread.thread().clone()); // watched once
        Ok(Some(Watcher {
            writeback: Arc::clone(self),
            thread,
        }))
    }

    fn run(self: &Arc<Self>, file: &File, cpus: &Arc<HelperCpus>, one_disk: bool) {
        let start = Instant::now();
        let (mut judge, mut rate) = (Judge::default(), Rate::default());
        let mut buf = vec![0; VMSTAT_LEN_MAX];
        let (mut idle, mut pauses, mut bytes) = (0, 0, 0);
        let (mut behind, mut calm, mut slow_since) = (false, false, None);
        while !self.ended.load(Ordering::SeqCst) {
            if !calm || bytes >= LOOK_BYTES || pauses >= PAUSES_MAX {
                (pauses, bytes) = (0, 0);
                let Some(dirty) = read(file, &mut buf) else {
                    let why = "log writes don't follow write-back";
                    tracing::warn!("{VMSTAT} can't be understood: {why}");
                    self.behind.store(false, Ordering::Relaxed);
                    self.pace.stop();
                    return;
                };
                let dirty = match self.pace.follows() {
                    true => dirty.early(),
                    false => dirty,
                };
                behind = judge.look(start.elapsed(), dirty);
                if self.behind.swap(behind, Ordering::Relaxed) != behind {
                    let percent = dirty.percent();
                    tracing::info!(behind, percent, "write-back of dirty memory");
                    // Another time the queue may be another.
                    self.becomes(PASS, UNTRIED);
                }
                self.pace.look(&mut rate, start.elapsed(), dirty, behind);
                self.forget_slow(&mut slow_since, start.elapsed());
                calm = !behind && dirty.percent() < CLOSE_AT;
            }
            if let Some(dir) = self.try_in().take() {
                if one_disk {
                    self.pace.follow(&dir);
                }
                self.start_trial(dir, Arc::clone(cpus));
            }
            pauses += 1;
            let written = self.written.swap(0, Ordering::SeqCst);
            bytes += written;
            idle = if written > 0 { 0 } else { idle + 1 };
            if idle < IDLE_LOOKS || behind {
                std::thread::park_timeout(if calm { CALM } else { CLOSE });
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            // A write between the two would see no sleeper.
            if self.written.load(Ordering::SeqCst) == 0 && !self.ended.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
            (idle, calm) = (0, false); // others may have written meanwhile
        }
    }

    /// Direct writes are tried again some minutes after one was slow, `since` when that was seen.
    fn forget_slow(&self, since: &mut Option<Duration>, now: Duration) {
        match *since {
            None if self.direct.load(Ordering::Relaxed) == WAIT => {
                tracing::info!("direct writes wait behind write-back: not used for a while");
                self.pace.resume();
                *since = Some(now);
            }
            Some(then) if now >= then + DIRECT_AGAIN => {
                self.becomes(WAIT, UNTRIED);
                *since = None;
            }
            _ => {}
        }
    }

    /// Tries a direct write in a thread that nobody waits for: it may take seconds.
    fn start_trial(self: &Arc<Self>, dir: PathBuf, cpus: Arc<HelperCpus>) {
        let own = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("flumen-trial".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                cpus.pin_current();
                own.end_trial(&dir, write_direct(&dir));
            });
        if let Err(e) = spawned {
            tracing::warn!(error = %e, "no thread to try a direct write");
            self.pace.stop();
            self.becomes(TRYING, PASS);
        }
    }

    fn end_trial(&self, dir: &Path, took: io::Result<Duration>) {
        let known = match &took {
            Ok(took) if *took >= DIRECT_SLOW => WAIT,
            // Where it is not possible each file finds out by itself.
            Ok(_) | Err(_) => PASS,
        };
        tracing::info!(dir = %dir.display(), ?took, "direct write while write-back is behind");
        if self.becomes(TRYING, known) && known == PASS {
            self.pace.stop();
        }
    }
}

/// How long a direct write of a block takes in this directory, in a file that has no name and is
/// gone with its descriptor.
fn write_direct(dir: &Path) -> io::Result<Duration> {
    let file = sys::open_unnamed_direct(dir)?;
    let begun = Instant::now();
    file.write_all_at(AlignedBuf::new(BLOCK).bytes(BLOCK), 0)?;
    Ok(begun.elapsed())
}

fn read(file: &File, buf: &mut [u8]) -> Option<Dirty> {
    let n = file.read_at(buf, 0).ok()?;
    let text = buf.get(..n).map(String::from_utf8_lossy)?;
    Dirty::parse(&text)
}

/// The running thread.
pub(crate) struct Watcher {
    writeback: Arc<Writeback>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Ends it.
    pub(crate) fn stop(self) {
        self.writeback.ended.store(true, Ordering::SeqCst);
        self.writeback.wake();
        if self.thread.join().is_err() {
            tracing::warn!("the thread that watched write-back panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE_RUN: u64 = 600_000;
    const BACKGROUND: u64 = 400_000;

    fn dirty(unwritten: u64) -> Dirty {
        Dirty {
            unwritten,
            writeback: 0,
            background: BACKGROUND,
            free_run: FREE_RUN,
        }
    }

    #[test]
    fn the_kernels_text() {
        let text = "nr_free_pages 5\nnr_dirty 100\nnr_writeback 20\nnr_writeback_temp 7\n\
                    nr_dirty_threshold 3000\nnr_dirty_background_threshold 1000\n";
        let expected = Dirty {
            unwritten: 120,
            writeback: 20,
            background: 1000,
            free_run: 2000,
        };
        assert_eq!(Dirty::parse(text), Some(expected));
        assert_eq!(Dirty::parse("nr_dirty 100\n"), None);
        assert_eq!(Dirty::parse(""), None);
        let own = std::fs::read_to_string(VMSTAT).unwrap();
        assert!(Dirty::parse(&own).unwrap().free_run > 0);
    }

    #[test]
    fn falls_behind_before_the_throttle_and_catches_up_where_background_writes_end() {
        let mut judge = Judge::default();
        let second = Duration::from_secs(1);
        let full = FREE_RUN - MARGIN_PAGES;
        assert!(!judge.look(second, dirty(full - 1)));
        assert!(judge.look(second, dirty(full)));
        assert!(judge.look(2 * second, dirty(BACKGROUND)));
        assert!(!judge.look(2 * second, dirty(BACKGROUND - 1)));
    }

    #[test]
    fn with_little_memory_it_is_not_always_behind() {
        let little = |unwritten| Dirty {
            unwritten,
            writeback: 0,
            background: 6_000,
            free_run: 9_000,
        };
        assert!(!little(7_199).is_full());
        assert!(little(7_200).is_full());
    }

    #[test]
    fn holds_longer_each_time_it_relapses() {
        let mut judge = Judge::default();
        let mut now = Duration::ZERO;
        let step = Duration::from_millis(25);
        // Full, then empty: how long it counts as behind.
        let mut held = |judge: &mut Judge| {
            assert!(judge.look(now, dirty(FREE_RUN)));
            let since = now;
            while judge.look(now, dirty(0)) {
                now += step;
            }
            now - since
        };
        let times: Vec<u64> = (0..9).map(|_| held(&mut judge).as_secs()).collect();
        assert_eq!(times, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        now += RELAPSE;
        assert!(judge.look(now, dirty(FREE_RUN)));
        assert!(!judge.look(now + HOLD_MIN, dirty(0)));
    }

    /// Whether direct writes pass, and where one is to be tried to find out.
    fn asked(writeback: &Writeback) -> (bool, Option<PathBuf>) {
        let pass = writeback.lets_direct_pass(|| PathBuf::from("t-0"));
        (pass, writeback.try_in().take())
    }

    #[test]
    fn a_direct_write_is_tried_before_others_are_made() {
        let writeback = Writeback::default();
        let dir = PathBuf::from("t-0");
        assert_eq!(asked(&writeback), (false, Some(dir.clone())));
        assert_eq!(asked(&writeback), (false, None), "one at a time");
        writeback.end_trial(&dir, Ok(DIRECT_SLOW - Duration::from_millis(1)));
        assert_eq!(asked(&writeback), (true, None));

        let writeback = Writeback::default();
        assert_eq!(asked(&writeback), (false, Some(dir.clone())));
        writeback.end_trial(&dir, Ok(DIRECT_SLOW));
        assert_eq!(asked(&writeback), (false, None));

        let writeback = Writeback::default();
        assert_eq!(asked(&writeback), (false, Some(dir.clone())));
        writeback.end_trial(&dir, Err(io::ErrorKind::Unsupported.into()));
        assert_eq!(asked(&writeback), (true, None));
    }

    #[test]
    fn slow_direct_writes_are_remembered_for_minutes() {
        let writeback = Writeback::default();
        let dir = PathBuf::from("t-0");
        let (mut since, second) = (None, Duration::from_secs(1));
        assert!(asked(&writeback).1.is_some());
        writeback.end_trial(&dir, Ok(Duration::ZERO));
        writeback.note_direct(DIRECT_SLOW);
        assert!(asked(&writeback).0, "write-back was not behind");
        writeback.behind.store(true, Ordering::Relaxed);
        writeback.note_direct(DIRECT_SLOW - Duration::from_millis(1));
        assert!(asked(&writeback).0);
        writeback.note_direct(DIRECT_SLOW);
        writeback.forget_slow(&mut since, second);
        writeback.forget_slow(&mut since, DIRECT_AGAIN);
        assert_eq!(asked(&writeback), (false, None));
        writeback.forget_slow(&mut since, second + DIRECT_AGAIN);
        assert_eq!(asked(&writeback), (false, Some(dir)), "tried again");
        writeback.note_direct(DIRECT_SLOW);
        writeback.end_trial(Path::new("t-0"), Ok(Duration::ZERO));
        assert_eq!(
            asked(&writeback),
            (false, None),
            "another was slow meanwhile"
        );
    }

    #[test]
    fn the_tried_write_leaves_nothing() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        match write_direct(dir.path()) {
            Ok(took) => assert!(took > Duration::ZERO),
            // A file system without files that have no name, or without direct writes.
            Err(e) => assert!(e.raw_os_error().is_some(), "{e}"),
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let gone = dir.path().join("gone");
        assert!(write_direct(&gone).is_err());
    }

    #[test]
    fn a_write_wakes_it_and_it_ends() {
        let writeback = Arc::new(Writeback::default());
        let watcher = writeback.watch(Arc::default(), true).unwrap().unwrap();
        let by = Instant::now() + Duration::from_secs(20);
        while !writeback.asleep.load(Ordering::SeqCst) {
            assert!(Instant::now() < by, "it does not fall asleep");
            std::thread::yield_now();
        }
        writeback.note_write(1);
        while writeback.written.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < by, "it does not wake");
            std::thread::yield_now();
        }
        // One of a directory that is not there says nothing about the disk.
        while !writeback.lets_direct_pass(|| PathBuf::from("/nowhere/t-0")) {
            assert!(Instant::now() < by, "nothing is tried");
            std::thread::yield_now();
        }
        watcher.stop();
    }
}
