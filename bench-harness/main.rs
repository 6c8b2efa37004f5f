//! `bench-harness`: loads (`produce`, `fetch`, ...), the whole benchmark (`suite`, `strategies`)
//! and what is made of results (`compare`, `publish`). See `--help` of each.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // the report is this program's output

use anyhow::Result;
use clap::{Parser, Subcommand};
use flumen_bench_harness::workload::Workload;
use flumen_bench_harness::{compare, suite};

#[derive(Debug, Parser)]
#[command(about = "Drives any Kafka broker over raw sockets and compares two of them")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // one per process
enum Command {
    #[command(flatten)]
    Load(Workload),
    #[command(flatten)]
    Suite(suite::Command),
    /// Two results side by side: ratios of medians, and whether they are more than noise
    Compare {
        /// A result folder, a report, or a pattern of either
        a: String,
        /// The other
        b: String,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Load(workload) => workload.run(),
        Command::Suite(command) => command.run(),
        Command::Compare { a, b } => {
            let (ours, theirs) = (compare::read(&a)?, compare::read(&b)?);
            print!("{}", compare::compare((&a, &b), &ours, &theirs)?);
            Ok(())
        }
    }
}
