//! `bench-harness produce|fetch|end-to-end|compare`: see `--help` of each.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // the report is this program's output

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use flumen_bench_harness::compare;
use flumen_bench_harness::report::Report;
use flumen_bench_harness::workload::Workload;

#[derive(Debug, Parser)]
#[command(about = "Drives any Kafka broker over raw sockets and compares two of them")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Load(Workload),
    /// Medians of two sets of reports and their ratios, as Markdown
    Compare {
        /// Reports of the first broker
        #[arg(long, required = true, num_args = 1..)]
        ours: Vec<PathBuf>,
        /// Reports of the second broker
        #[arg(long, required = true, num_args = 1..)]
        theirs: Vec<PathBuf>,
        /// Names of the two
        #[arg(long, num_args = 2, default_values = ["Flumen", "Kafka"])]
        names: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Load(workload) => workload.run(),
        Command::Compare {
            ours,
            theirs,
            names,
        } => {
            ensure!(names.len() == 2, "two names");
            let read = |paths: &[PathBuf]| -> Result<Vec<Report>> {
                paths.iter().map(|p| Report::read(p)).collect()
            };
            let (ours, theirs) = (read(&ours)?, read(&theirs)?);
            print!("{}", compare::table((&names[0], &names[1]), &ours, &theirs));
            Ok(())
        }
    }
}
