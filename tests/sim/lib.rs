//! The simulator: one broker of one to four shards with its disk, and its clients, in one thread,
//! everything from one seed. See `docs/simulator.md`.
//!
//! ```text
//! sim      the schedule: which piece happens next          model  what was promised and seen
//! broker   the process: shards, mesh, ring, jobs, sockets  link   a client's connection
//! boot     start and end of the process                    client producers, consumers, ...
//! faults   what may go wrong                               audit  what the disk holds at the end
//! ```
#![forbid(unsafe_code)]

mod audit;
mod boot;
mod broker;
mod client;
mod faults;
mod faulty;
mod io;
mod link;
mod many;
mod model;
mod net;
mod planted;
mod sim;
mod trace;

pub use faults::{Fault, FaultSet, help as faults_help};
pub use many::{run_many, threads};
pub use planted::{PLANTED, Planted};
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
    /// What may go wrong.
    pub faults: FaultSet,
}

impl Options {
    /// A run of this seed as the tests do it.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            steps: STEPS,
            trace: false,
            planted: Planted::None,
            faults: FaultSet::usual(),
        }
    }

    /// The arguments of the command line that give this run.
    pub fn arguments(&self) -> String {
        let mut text = format!("--seed {}", self.seed);
        if self.steps != STEPS {
            text += &format!(" --steps {}", self.steps);
        }
        if self.faults != FaultSet::usual() {
            text += &format!(" --faults {}", self.faults);
        }
        if self.planted != Planted::None {
            text += &format!(" --planted {}", self.planted.name());
        }
        text
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches that were acked.
    pub acks: u64,
    /// Records that were read and compared.
    pub records_read: u64,
    /// Searches by time that were answered and compared.
    pub searches: u64,
    /// Operations that the disk failed.
    pub disk_failures: u64,
    /// Times the disk was looked at as a whole.
    pub audits: u64,
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
    /// How to run it again.
    pub again: String,
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
        let again = &self.again;
        Some(format!(
            "seed {seed}, step {steps}: {failure}\n  again: cargo run --profile sim -p sim -- {again} \
             --trace"
        ))
    }
}

/// Runs one seed.
pub fn run(options: &Options) -> Outcome {
    options.planted.plant();
    let trace = Trace::new(options.trace);
    let (mut sim, mut failure) = match sim::Sim::new(options.seed, options.faults, trace) {
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
        again: options.arguments(),
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
