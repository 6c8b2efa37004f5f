//! Many seeds, on several threads.

use crate::{Options, Outcome, run};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Runs seeds, in ascending order on so many threads, until `enough` says so of one of them; gives
/// all that were run, by seed. Every seed below one that was run was run as well, so that the first
/// failure is the same however many threads there are.
pub fn run_many(
    seeds: Range<u64>,
    threads: usize,
    options: &Options,
    enough: impl Fn(&Outcome) -> bool + Sync,
) -> Vec<Outcome> {
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return outcomes;
            }
            let outcome = run(&Options { seed, ..*options });
            if enough(&outcome) {
                next.store(seeds.end, Ordering::Relaxed);
            }
            outcomes.push(outcome);
        }
    };
    let mut outcomes: Vec<Outcome> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
        // A run that panics says so in its outcome: the thread does not.
        ended.flat_map(Result::unwrap_or_default).collect()
    });
    outcomes.sort_unstable_by_key(|o| o.seed);
    outcomes
}

/// One thread for each CPU, but not too many.
pub fn threads() -> usize {
    thread::available_parallelism()
        .map_or(2, usize::from)
        .min(8)
}
