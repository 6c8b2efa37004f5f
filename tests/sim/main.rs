//! Runs the simulator: `--seed N` again, `--seeds A..B` many, `meta` twice and compared, `planted`
//! with bugs on purpose.
#![forbid(unsafe_code)]

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use sim::{FaultSet, Options, Outcome, PLANTED, Planted, STEPS, run_many};
use std::io::Write;
use std::ops::Range;
use std::time::Instant;

/// Seeds within which each planted bug should be found.
const PLANTED_SEEDS: u64 = 1_000;

#[derive(Debug, Parser)]
#[command(about = "A broker, its disk and its clients in one thread, from one seed")]
#[command(after_help = sim::faults_help())]
struct Line {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    seeds: Seeds,
    #[command(flatten)]
    how: How,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// A bug to switch on; `planted` names them.
    #[arg(long, value_parser = planted)]
    planted: Option<Planted>,
}

#[derive(Args, Debug)]
struct Seeds {
    /// The seed to run.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds to run, A..B.
    #[arg(long, value_name = "A..B", conflicts_with = "seed")]
    seeds: Option<String>,
}

#[derive(Args, Debug)]
struct How {
    /// Steps with faults.
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// Kinds of faults: `kill,power` only these, `-clock,+rot` the usual ones but for these.
    #[arg(long, value_parser = FaultSet::parse, allow_hyphen_values = true)]
    faults: Option<FaultSet>,
    /// Threads, each with a run of its own.
    #[arg(long, default_value_t = sim::threads())]
    jobs: usize,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs each seed twice and compares all that happened, byte for byte.
    Meta {
        #[command(flatten)]
        seeds: Seeds,
        #[command(flatten)]
        how: How,
    },
    /// Switches each planted bug on and says how many seeds it takes to find it.
    Planted {
        #[command(flatten)]
        how: How,
    },
}

fn planted(name: &str) -> Result<Planted, String> {
    Planted::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = PLANTED.iter().map(|l| l.1).collect();
        format!("none of {}", names.join(", "))
    })
}

impl How {
    fn options(&self) -> Options {
        Options {
            steps: self.steps,
            faults: self.faults.unwrap_or_else(FaultSet::usual),
            ..Options::new(0)
        }
    }
}

impl Seeds {
    fn range(&self) -> anyhow::Result<Range<u64>> {
        match (&self.seeds, self.seed) {
            (Some(seeds), _) => {
                let (from, to) = seeds.split_once("..").context("--seeds wants A..B")?;
                Ok(from.parse()?..to.parse()?)
            }
            (None, Some(seed)) => Ok(seed..seed + 1),
            (None, None) => bail!("--seed N or --seeds A..B"),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let line = Line::parse();
    let mut out = std::io::stdout().lock();
    match &line.command {
        Some(Command::Meta { seeds, how }) => meta(&mut out, seeds.range()?, how),
        Some(Command::Planted { how }) => find_planted(&mut out, how),
        None => seeds(&mut out, &line),
    }
}

/// Runs seeds in portions, so that something is seen of many.
fn seeds(out: &mut impl Write, line: &Line) -> anyhow::Result<()> {
    let options = Options {
        trace: line.trace,
        planted: line.planted.unwrap_or_default(),
        ..line.how.options()
    };
    let all = line.seeds.range()?;
    let (count, began, mut failed) = (all.end.saturating_sub(all.start), Instant::now(), 0);
    let mut from = all.start;
    while from < all.end {
        let to = all.end.min(from + 16 * line.how.jobs as u64);
        for outcome in run_many(from..to, line.how.jobs, &options, |_| false) {
            show(out, &outcome)?;
            failed += u64::from(outcome.failure.is_some());
        }
        from = to;
    }
    let seconds = began.elapsed().as_secs_f64();
    let speed = count as f64 / seconds.max(0.001);
    writeln!(out, "{count} seeds in {seconds:.1} s, {speed:.1} a second")?;
    ensure!(failed == 0, "{failed} of {count} seeds failed");
    Ok(())
}

fn show(out: &mut impl Write, outcome: &Outcome) -> anyhow::Result<()> {
    if let Some(text) = &outcome.text {
        out.write_all(text.as_bytes())?;
    }
    let (seed, steps, hash) = (outcome.seed, outcome.steps, outcome.hash);
    match outcome.report() {
        Some(report) => writeln!(out, "FAILED {report}")?,
        None => writeln!(
            out,
            "seed {seed}: {steps} steps, {hash:016x}, {:?}",
            outcome.stats
        )?,
    }
    Ok(())
}

fn meta(out: &mut impl Write, seeds: Range<u64>, how: &How) -> anyhow::Result<()> {
    for seed in seeds {
        let options = Options {
            seed,
            trace: true,
            ..how.options()
        };
        let (first, second) = (sim::run(&options), sim::run(&options));
        let lines = |outcome: &Outcome| outcome.text.clone().unwrap_or_default();
        let (a, b) = (lines(&first), lines(&second));
        let mut pairs = a.lines().zip(b.lines()).enumerate();
        if let Some((n, (x, y))) = pairs.find(|(_, (x, y))| x != y) {
            bail!("seed {seed}: the runs differ in line {n}:\n  {x}\n  {y}");
        }
        ensure!(a == b, "seed {seed}: one run is longer");
        let (lines, hash) = (a.lines().count(), first.hash);
        writeln!(
            out,
            "seed {seed}: the same twice, {lines} lines, {hash:016x}"
        )?;
    }
    Ok(())
}

fn find_planted(out: &mut impl Write, how: &How) -> anyhow::Result<()> {
    let mut missed = 0;
    for (planted, name, part) in PLANTED {
        let options = Options {
            planted,
            ..how.options()
        };
        // Fails with the bug, and does not without it.
        let failed = |o: &Outcome| {
            let honest = Options {
                seed: o.seed,
                planted: Planted::None,
                ..options
            };
            o.failure.is_some() && sim::run(&honest).failure.is_none()
        };
        let outcomes = run_many(0..PLANTED_SEEDS, how.jobs, &options, failed);
        match outcomes.iter().find(|o| failed(o)) {
            Some(found) => {
                let (seeds, failure) = (found.seed + 1, found.failure.as_deref());
                let failure = failure.unwrap_or_default();
                writeln!(out, "{part:15} {name:23} {seeds:4} seeds: {failure}")?;
            }
            None => {
                missed += 1;
                writeln!(
                    out,
                    "{part:15} {name:23} not found in {PLANTED_SEEDS} seeds"
                )?;
            }
        }
    }
    ensure!(missed == 0, "{missed} planted bugs were not found");
    Ok(())
}
