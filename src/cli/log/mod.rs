//! `flumen log`: what files of a log directory hold, and what is wrong with them.
//!
//! Exit codes, for scripts: 0 clean, 1 defects, 2 wrong usage or a file that could not be read.

mod dump;
mod line;
mod records;
mod verify;

use super::{Ended, is_closed_output, report};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_DEFECTS: u8 = 1;
const EXIT_UNREADABLE: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show what files of a log directory hold, as Kafka's kafka-dump-log does. Ends with 1 if some
    /// of it is damaged, with 2 if a file cannot be read.
    Dump(DumpArgs),
    /// Look for defects in log directories, partitions or files, without changing them. Ends with 1
    /// if there are any, with 2 if a file cannot be read.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// Files, partition directories or log directories, of Flumen or of Apache Kafka.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Show each record with key and payload, not only the batches.
    #[arg(long)]
    print_data_log: bool,
    /// Show each record, without key and payload.
    #[arg(long, visible_alias = "deep-iteration")]
    deep: bool,
    /// Print a JSON object per line.
    #[arg(long)]
    json: bool,
    /// How keys and payloads are to be understood.
    #[arg(long, value_enum, default_value_t = Decoder::Auto)]
    decoder: Decoder,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Log directories, partition directories or files, of Flumen or of Apache Kafka.
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    /// Trust the CRC of each batch: do not look into the records.
    #[arg(long)]
    shallow: bool,
    /// Print a JSON object per finding and a summary per path.
    #[arg(long)]
    json: bool,
    /// Print defects only, no notes.
    #[arg(long, short)]
    quiet: bool,
}

/// Whose records a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Decoder {
    /// By the name of the partition's directory.
    Auto,
    /// Text where it is UTF-8, else hexadecimal.
    Plain,
    /// Records of `__consumer_offsets`.
    Offsets,
    /// Records of `__transaction_state`.
    Transactions,
    /// Records of `__share_group_state`.
    Shares,
    /// Records of Kafka's `__cluster_metadata`.
    Metadata,
}

/// Runs one of the commands.
pub(crate) fn run(command: &LogCommand) -> anyhow::Result<()> {
    let done = match command {
        LogCommand::Dump(args) => dump::run(args),
        LogCommand::Verify(args) => verify::run(args),
    };
    match done {
        Ok(Outcome {
            unreadable: true, ..
        }) => Err(Ended(EXIT_UNREADABLE).into()),
        Ok(Outcome { defects: true, .. }) => Err(Ended(EXIT_DEFECTS).into()),
        Ok(_) => Ok(()),
        Err(error) if is_closed_output(&error) => Err(error),
        Err(error) => {
            report(&error);
            Err(Ended(EXIT_UNREADABLE).into())
        }
    }
}

/// How a command went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    defects: bool,
    unreadable: bool,
}
