//! Many seeds, each seed the same twice, and bugs on purpose that must be found.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use sim::{Options, Outcome, PLANTED, Planted, Stats, run, run_many, threads};

/// Seeds of the ordinary run; `FLUMEN_SIM_SEEDS` sets another number.
const SEEDS: u64 = 200;
/// Seeds within which every planted bug must be found.
const PLANTED_SEEDS: u64 = 600;

fn seeds() -> u64 {
    let wanted = std::env::var("FLUMEN_SIM_SEEDS").ok();
    wanted.map_or(SEEDS, |n| n.parse().expect("FLUMEN_SIM_SEEDS is a number"))
}

#[test]
fn seeds_pass() {
    let outcomes = run_many(0..seeds(), threads(), &Options::new(0), |_| false);
    assert_eq!(outcomes.len() as u64, seeds());
    let failures: Vec<String> = outcomes.iter().filter_map(Outcome::report).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // The runs did what they are for.
    let sum = |f: fn(&Stats) -> u64| outcomes.iter().map(|o| f(&o.stats)).sum::<u64>();
    let runs = outcomes.len() as u64;
    assert!(sum(|s| s.acks) > 100 * runs);
    assert!(sum(|s| s.records_read) > 1000 * runs);
    assert!(sum(|s| s.searches) > 10 * runs);
    assert!(sum(|s| s.kills) > runs / 4);
    assert!(sum(|s| s.power_losses) > runs / 8);
    assert!(sum(|s| s.shutdowns) > runs / 8);
    assert!(sum(|s| s.disk_failures) > runs / 8);
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
    // Nor does it matter what else runs beside it.
    let hashes = |threads| {
        let outcomes = run_many(0..20, threads, &Options::new(0), |_| false);
        outcomes.iter().map(|o| o.hash).collect::<Vec<_>>()
    };
    assert_eq!(hashes(1), hashes(4));
}

/// Every planted bug is found within so many seeds. Says after how many.
#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    for (planted, name, part) in PLANTED {
        let options = Options {
            planted,
            ..Options::new(0)
        };
        // Fails with the bug, and does not without it.
        let failed = |o: &Outcome| {
            let honest = Options {
                seed: o.seed,
                planted: Planted::None,
                ..options
            };
            o.failure.is_some() && run(&honest).failure.is_none()
        };
        let outcomes = run_many(0..PLANTED_SEEDS, threads(), &options, failed);
        match outcomes.iter().find(|o| failed(o)) {
            Some(found) => println!("{part}: {name} was found by seed {}", found.seed),
            None => missed.push(name),
        }
    }
    assert!(
        missed.is_empty(),
        "not found in {PLANTED_SEEDS} seeds: {missed:?}"
    );
}
