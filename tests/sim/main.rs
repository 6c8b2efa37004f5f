//! Runs the simulator: `--seed N` again, `--seeds A..B` many, `meta --seed N` twice and compared.
#![forbid(unsafe_code)]

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use sim::{Options, Outcome, STEPS};
use std::io::Write;

#[derive(Debug, Parser)]
#[command(about = "A broker, its disk and its clients in one thread, from one seed")]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The seed to run.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds to run, A..B.
    #[arg(long, value_name = "A..B", conflicts_with = "seed")]
    seeds: Option<String>,
    /// Steps with faults.
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a seed twice and compares all that happened, byte for byte.
    Meta {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Steps with faults.
        #[arg(long, default_value_t = STEPS)]
        steps: u64,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut out = std::io::stdout().lock();
    if let Some(Command::Meta { seed, steps }) = args.command {
        return meta(&mut out, seed, steps);
    }
    let (from, to) = range(&args)?;
    let mut failed = 0;
    for seed in from..to {
        let outcome = sim::run(&Options {
            steps: args.steps,
            trace: args.trace,
            ..Options::new(seed)
        });
        show(&mut out, &outcome)?;
        failed += u64::from(outcome.failure.is_some());
    }
    ensure!(failed == 0, "{failed} of {} seeds failed", to - from);
    Ok(())
}

fn range(args: &Args) -> anyhow::Result<(u64, u64)> {
    match (&args.seeds, args.seed) {
        (Some(seeds), _) => {
            let (from, to) = seeds.split_once("..").context("--seeds wants A..B")?;
            Ok((from.parse()?, to.parse()?))
        }
        (None, Some(seed)) => Ok((seed, seed + 1)),
        (None, None) => bail!("--seed N, --seeds A..B, or meta --seed N"),
    }
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

fn meta(out: &mut impl Write, seed: u64, steps: u64) -> anyhow::Result<()> {
    let options = Options {
        steps,
        trace: true,
        ..Options::new(seed)
    };
    let (first, second) = (sim::run(&options), sim::run(&options));
    let lines = |outcome: &Outcome| outcome.text.clone().unwrap_or_default();
    let (a, b) = (lines(&first), lines(&second));
    if let Some((n, (x, y))) = a
        .lines()
        .zip(b.lines())
        .enumerate()
        .find(|(_, (x, y))| x != y)
    {
        bail!("seed {seed}: the runs differ in line {n}:\n  {x}\n  {y}");
    }
    ensure!(a == b, "seed {seed}: one run is longer");
    writeln!(
        out,
        "seed {seed}: the same twice, {} lines",
        a.lines().count()
    )?;
    Ok(())
}
