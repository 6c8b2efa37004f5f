//! Many seeds, each seed the same twice, and bugs on purpose that must be found.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use sim::{Options, Outcome, Planted, Stats, run};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Seeds of the ordinary run; `FLUMEN_SIM_SEEDS` sets another number.
const SEEDS: u64 = 200;

fn seeds() -> u64 {
    let wanted = std::env::var("FLUMEN_SIM_SEEDS").ok();
    wanted.map_or(SEEDS, |n| n.parse().expect("FLUMEN_SIM_SEEDS is a number"))
}

/// Runs seeds on all cores until `enough` says so; the outcomes in no order.
fn run_all(seeds: u64, planted: Planted, enough: fn(&Outcome) -> bool) -> Vec<Outcome> {
    let next = AtomicU64::new(0);
    let worker = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return outcomes;
            }
            let outcome = run(&Options {
                planted,
                ..Options::new(seed)
            });
            if enough(&outcome) {
                next.store(seeds, Ordering::Relaxed);
            }
            outcomes.push(outcome);
        }
    };
    let threads = thread::available_parallelism()
        .map_or(2, usize::from)
        .min(8);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let outcomes = workers.into_iter().map(|w| w.join().expect("a worker"));
        outcomes.flatten().collect()
    })
}

#[test]
fn seeds_pass() {
    let outcomes = run_all(seeds(), Planted::None, |_| false);
    let mut failures: Vec<String> = outcomes.iter().filter_map(Outcome::report).collect();
    failures.sort();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // The runs did what they are for.
    let sum = |f: fn(&Stats) -> u64| outcomes.iter().map(|o| f(&o.stats)).sum::<u64>();
    let runs = outcomes.len() as u64;
    assert!(sum(|s| s.acks) > 100 * runs);
    assert!(sum(|s| s.records_read) > 1000 * runs);
    assert!(sum(|s| s.kills) > runs / 4);
    assert!(sum(|s| s.power_losses) > runs / 8);
    assert!(sum(|s| s.shutdowns) > runs / 8);
}

#[test]
fn a_seed_is_the_same_twice() {
    for seed in 0..5 {
        let options = Options {
            trace: true,
            ..Options::new(seed)
        };
        let (first, second) = (run(&options), run(&options));
        assert!(first.text.is_some());
        assert!(first.text == second.text, "seed {seed}: the traces differ");
        assert_eq!(first.hash, second.hash);
        let silent = run(&Options::new(seed));
        assert_eq!(
            first.hash, silent.hash,
            "seed {seed}: to look at it changes it"
        );
    }
}

/// A planted bug must be found within the ordinary seeds.
fn found(planted: Planted) {
    let outcomes = run_all(SEEDS, planted, |outcome| outcome.failure.is_some());
    let found = outcomes.iter().filter_map(|o| o.failure.as_ref()).count();
    assert!(
        found > 0,
        "{planted:?} was not found in {} seeds",
        outcomes.len()
    );
}

#[test]
fn an_ack_before_the_write_is_found() {
    found(Planted::EarlyAck);
}

#[test]
fn recovery_without_crc_is_found() {
    found(Planted::NoCrcCheck);
}

#[test]
fn recovery_without_producers_is_found() {
    found(Planted::ForgetProducers);
}
