//! The simulator: one broker of one to four shards with its disk, and its clients, in one thread,
//! everything from one seed. See `docs/simulator.md`.
//!
//! ```text
//! sim      the schedule: which piece happens next          model  what was promised and seen
//! broker   the process: shards, mesh, ring, jobs, sockets  link   a client's connection
//! boot     start and end of the process                    client producers, consumers, ...
//! ```
#![forbid(unsafe_code)]

mod boot;
mod broker;
mod client;
mod fuse;
mod io;
mod link;
mod model;
mod net;
mod planted;
mod sim;
mod trace;

pub use planted::Planted;
pub use trace::Trace;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A check: what is wrong, in words.
pub(crate) type Check<T = ()> = Result<T, String>;

/// An error as text.
pub(crate) fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Steps of a run if nothing else is said.
pub const STEPS: u64 = 6_000;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Steps with faults; the run then goes on until everything has come to rest.
    pub steps: u64,
    /// Keep the trace as text.
    pub trace: bool,
    /// A bug to find.
    pub planted: Planted,
}

impl Options {
    /// A run of this seed as the tests do it.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            steps: STEPS,
            trace: false,
            planted: Planted::None,
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches that were acked.
    pub acks: u64,
    /// Records that were read and compared.
    pub records_read: u64,
    /// Times the process was killed.
    pub kills: u64,
    /// Times the power failed.
    pub power_losses: u64,
    /// Clean shutdowns.
    pub shutdowns: u64,
}

/// The end of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Steps it took.
    pub steps: u64,
    /// What is wrong, if something is.
    pub failure: Option<String>,
    /// Hash of all that happened.
    pub hash: u64,
    /// All that happened, if it was asked for.
    pub text: Option<String>,
    /// What it did.
    pub stats: Stats,
}

impl Outcome {
    /// The failure with how to see it again.
    pub fn report(&self) -> Option<String> {
        let failure = self.failure.as_ref()?;
        let (seed, steps) = (self.seed, self.steps);
        Some(format!(
            "seed {seed}, step {steps}: {failure}\n  again: cargo run --profile sim -p sim -- \
             --seed {seed} --trace"
        ))
    }
}

/// Runs one seed.
pub fn run(options: &Options) -> Outcome {
    options.planted.plant();
    let trace = Trace::new(options.trace);
    let (mut sim, mut failure) = match sim::Sim::new(options.seed, trace) {
        Ok(sim) => (Some(sim), None),
        Err(error) => (None, Some(error)),
    };
    if let Some(sim) = &mut sim {
        failure = match catch_unwind(AssertUnwindSafe(|| sim.run(options.steps))) {
            Ok(checked) => checked.err(),
            Err(panic) => Some(format!("panic: {}", panic_text(&*panic))),
        };
    }
    Planted::None.plant();
    let (steps, stats) = sim
        .as_ref()
        .map_or((0, Stats::default()), |s| (s.steps, s.stats));
    let trace = sim.map_or_else(|| Trace::new(false), |s| s.trace);
    Outcome {
        seed: options.seed,
        steps,
        failure,
        hash: trace.hash(),
        text: trace.into_text(),
        stats,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    text.unwrap_or_else(|| "without a message".to_owned())
}
