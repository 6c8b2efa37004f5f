//! The subcommands that load a broker or stand in for one, and what each prints and keeps.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::args::{Common, FanOutArgs, FetchArgs, LoadCurveArgs, MixedArgs, ProduceArgs};
use crate::limit::{self, LimitArgs};
use crate::report::Report;
use crate::{curve, produce, read, tail};

/// One workload.
#[derive(Debug, Clone, clap::Subcommand)]
#[allow(clippy::large_enum_variant)] // one per process
pub enum Workload {
    /// Produce the same batches over all connections
    Produce(ProduceArgs),
    /// Read partitions from the beginning again and again
    Fetch(FetchArgs),
    /// One record per request at a fixed rate, from its due time to a waiting consumer
    EndToEnd(Common),
    /// One producer at a fixed rate, many waiting consumers of the same partition
    FanOut(FanOutArgs),
    /// Producers at a fixed rate beside catch-up readers or tail readers
    Mixed(MixedArgs),
    /// A closed loop finds the capacity, open loops offer parts of it
    LoadCurve(LoadCurveArgs),
    /// Leave the broker alone with one connection
    Idle(Common),
    /// Stand in for a broker with the least work that a workload needs
    Limit(LimitArgs),
}

impl Workload {
    /// Runs it, prints a table, and writes the JSON to `--out`: a `Report`, for a load curve a
    /// `LoadCurve`, for `idle` an `Idle`.
    ///
    /// # Errors
    /// The broker refused or went away.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Produce(args) => finish(&produce::produce(args)?, &args.common),
            Self::Fetch(args) => finish(&read::fetch(args)?, &args.common),
            Self::EndToEnd(common) => finish(&tail::end_to_end(common)?, common),
            Self::FanOut(args) => finish(&tail::fan_out(args)?, &args.common),
            Self::Mixed(args) => finish(&tail::mixed(args)?, &args.common),
            Self::LoadCurve(args) => {
                let curve = curve::load_curve(args)?;
                print(&curve.table());
                keep(&curve, args.produce.common.out.as_deref())
            }
            Self::Limit(args) => limit::limit(args),
            Self::Idle(common) => {
                let idle = curve::idle(common)?;
                print(&idle.table());
                keep(&idle, common.out.as_deref())
            }
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
