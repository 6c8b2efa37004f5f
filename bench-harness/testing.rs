//! Arguments for tests, as the command line gives them.

use clap::Parser;

use crate::args::Common;
use crate::workload::Workload;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    workload: Workload,
}

/// A workload from its command line.
pub(crate) fn workload(args: &[&str]) -> Workload {
    let program = std::iter::once("bench-harness");
    match Cli::try_parse_from(program.chain(args.iter().copied())) {
        Ok(cli) => cli.workload,
        Err(e) => panic!("{e}"),
    }
}

/// The common arguments for a broker at `address`.
pub(crate) fn common(address: &str, more: &[&str]) -> Common {
    let args = ["produce", "--bootstrap-server", address];
    match workload(&[&args[..], more].concat()) {
        Workload::Produce(args) => args.common,
        _ => unreachable!("asked for produce"),
    }
}
