//! The subcommands that load a broker or stand in for one, and what each prints and keeps.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::report::Report;
use crate::{run, run::Common};

/// One workload.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Workload {
    /// Produce the same batches over all connections
    Produce(run::ProduceArgs),
    /// Read partitions from the beginning again and again
    Fetch(run::FetchArgs),
    /// One record per request at a fixed rate, from its due time to a waiting consumer
    EndToEnd(Common),
}

impl Workload {
    /// Runs it, prints a table, and writes the JSON to `--out`: a `Report`, for a load curve a
    /// `LoadCurve`, for `idle` an `Idle`.
    ///
    /// # Errors
    /// The broker refused or went away.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Produce(args) => finish(&run::produce(args)?, &args.common),
            Self::Fetch(args) => finish(&run::fetch(args)?, &args.common),
            Self::EndToEnd(common) => finish(&run::end_to_end(common)?, common),
        }
    }
}

fn finish(report: &Report, common: &Common) -> Result<()> {
    print(&report.table());
    keep(report, common.out.as_deref())
}

fn keep<T: Serialize>(result: &T, path: Option<&Path>) -> Result<()> {
    if let Some(path) = path {
        std::fs::write(path, serde_json::to_string_pretty(result)?)?;
    }
    Ok(())
}

#[allow(clippy::print_stdout)] // the table is this program's output
fn print(table: &str) {
    print!("{table}");
}
