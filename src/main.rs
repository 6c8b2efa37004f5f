//! The `flumen` binary: the broker, its storage tool, and clients for any Kafka-compatible cluster.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cli::is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<cli::Ended>() {
            Some(ended) => ExitCode::from(ended.0),
            None => {
                cli::report(&error);
                ExitCode::FAILURE
            }
        },
    }
}
