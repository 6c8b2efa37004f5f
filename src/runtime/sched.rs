//! Who runs first where a shard shares its CPU with other threads of the process: on one CPU, or
//! with as many shards as CPUs.
//!
//! Without this a shard that wakes waits until a busy helper has used up its turn, 1.5 to 3 ms: the
//! kernel's scheduler protects whoever runs (EEVDF). A thread that asks for shorter turns is mostly
//! let in at once (Linux 6.12), as long as it does not use more than its share of the CPU; the
//! helpers' niceness makes that nearly all. docs/adr/0014 says how often it still waits.

use crate::sys;
use std::cell::Cell;

/// Niceness of helpers above that of the process: they get a tenth of a CPU that a shard wants
/// whole. What clients wait for in a helper is the disk more than the CPU.
const HELPER_NICER: i32 = 10;

/// Marks the calling thread as a shard's.
pub(crate) fn prefer_current() {
    if !sys::ShortTurns::for_good() {
        tracing::debug!("the kernel gives a shard's thread no turns before busy helpers");
    }
}

/// Marks the calling thread, once, as one of the helpers.
pub(crate) fn defer_current() {
    thread_local!(static DEFERRED: Cell<bool> = const { Cell::new(false) });
    if !DEFERRED.replace(true) && !sys::add_niceness(HELPER_NICER) {
        tracing::debug!("a helper thread keeps its niceness");
    }
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

    #[test]
    fn helpers_become_nicer_once_and_shards_do_not() {
        let room = 19 - sys::niceness().unwrap();
        assert_eq!(becomes_nicer_by(prefer_current), 0);
        assert_eq!(becomes_nicer_by(defer_current), HELPER_NICER.min(room));
    }
}
