//! Who runs first where a shard shares its CPU with other threads of the process: on one CPU, or
//! with as many shards as CPUs.
//!
//! Without this a shard that wakes waits until a busy helper has used up its turn, 1.5 to 3 ms: the
//! kernel's scheduler protects whoever runs (EEVDF). A thread that asks for shorter turns is mostly
//! let in at once (Linux 6.12), as long as it does not use more than its share of the CPU; the
//! helpers' niceness makes that nearly all. One that is not let in would wait for the kernel's next
//! tick, up to 4 ms, so helpers offer their CPU between system calls. docs/adr/0014 has figures.

use crate::sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// Niceness of helpers above that of the process: they get at most a tenth of a CPU that a shard
/// wants whole. What clients wait for in a helper is the disk more than the CPU.
const HELPER_NICER: i32 = 10;

/// What top and perf call helpers.
const HELPER_NAME: &CStr = c"flumen-helper";

/// After how long a helper offers its CPU, by the clock (its CPU time would take a system call to
/// ask for, so that one that slept offers it too): as long as the kernel's shortest turn, which
/// is what it gives away (yield forfeits the turn), so that a helper that another thread waits for
/// keeps half of its share.
const HELPER_TURN: Duration = Duration::from_micros(100);

thread_local! {
    /// When the calling thread last offered its CPU; none if it is no helper with short turns.
    static OFFERED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Marks the calling thread as a shard's.
pub(crate) fn prefer_current() {
    if !sys::take_short_turns() {
        tracing::debug!("the kernel gives a shard's thread no turns before busy helpers");
    }
}

/// Marks the calling thread, once, as one of the helpers.
pub(crate) fn defer_current() {
    thread_local!(static DEFERRED: Cell<bool> = const { Cell::new(false) });
    if DEFERRED.replace(true) {
        return;
    }
    sys::name_this_thread(HELPER_NAME); // it has inherited its shard's
    // Without short turns each offer would give away a long one, and nearly all of its share.
    if sys::take_short_turns() {
        OFFERED.set(Some(Instant::now()));
    }
    if !sys::add_niceness(HELPER_NICER) {
        tracing::debug!("a helper thread keeps its niceness");
    }
}

/// Whether the calling thread is a helper that gets its turns soon.
pub(crate) fn has_short_turns() -> bool {
    OFFERED.get().is_some()
}

/// Makes one system call; behind it others may have the CPU if the calling thread is a helper that
/// last offered it a turn ago or longer.
pub(crate) fn between_turns<T>(call: impl FnOnce() -> T) -> T {
    let done = call();
    if OFFERED.get().is_some_and(|at| at.elapsed() >= HELPER_TURN) {
        std::thread::yield_now();
        OFFERED.set(Some(Instant::now()));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn becomes_nicer_by(mark: fn()) -> i32 {
        let thread = std::thread::spawn(move || {
            let before = sys::niceness().unwrap();
            mark();
            mark();
            sys::niceness().unwrap() - before
        });
        thread.join().unwrap()
    }

    /// Whether the CPU was offered behind a call that took so long.
    fn offered_behind(took: Duration) -> bool {
        let before = OFFERED.get();
        let begun = Instant::now();
        between_turns(|| while begun.elapsed() < took {});
        OFFERED.get() != before
    }

    #[test]
    fn a_helper_offers_its_cpu_behind_long_calls() {
        let helper = std::thread::spawn(|| {
            assert!(!offered_behind(HELPER_TURN), "it is no helper yet");
            defer_current();
            let name = std::fs::read("/proc/thread-self/comm").unwrap();
            assert_eq!(name.trim_ascii(), HELPER_NAME.to_bytes());
            (has_short_turns(), offered_behind(HELPER_TURN))
        });
        let (short, offered) = helper.join().unwrap();
        assert_eq!(offered, short, "only who gets short turns gives them away");
    }

    #[test]
    fn helpers_become_nicer_once_and_shards_do_not() {
        let room = 19 - sys::niceness().unwrap();
        assert_eq!(becomes_nicer_by(prefer_current), 0);
        assert_eq!(becomes_nicer_by(defer_current), HELPER_NICER.min(room));
    }
}
