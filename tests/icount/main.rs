//! Instructions per request of the hot paths, counted by callgrind: the same on a busy machine as
//! on a quiet one, so that CI can hold them against a stored baseline.
//!
//! ```text
//! flumen-icount [check]     counts, prints the table, fails where the baseline is exceeded
//! flumen-icount update      counts and writes the baseline
//! flumen-icount list        names of the scenarios
//! flumen-icount top NAME    the functions that cost most in one scenario
//! flumen-icount run NAME    one scenario, uncounted: what callgrind runs
//!   --only TEXT             only scenarios whose name contains it
//!   --keep DIR              keep callgrind's files there, for callgrind_annotate
//! ```
//! Counted are `Shard::step`, `end_turn` and `tick`, and giving back what they handed out; not
//! counted are the process's start, making requests, and disk and sockets, which complete at once
//! and cost nothing here. `instructions` are per request, C library included; `allocations` are
//! calls of malloc, calloc and realloc.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)] // a benchmark that can't run is over
#![allow(unreachable_pub)]

mod callgrind;
mod codec;
mod compare;
mod node;
mod scenarios;

use anyhow::{Context as _, Result, bail};
use scenarios::SCENARIOS;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

const TOP_FUNCTIONS: usize = 40;

struct Args {
    command: String,
    name: Option<String>,
    only: String,
    keep: Option<PathBuf>,
}

fn args() -> Result<Args> {
    let mut args = Args {
        command: "check".to_owned(),
        name: None,
        only: String::new(),
        keep: None,
    };
    let mut words = std::env::args().skip(1);
    let mut plain = 0;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--only" => args.only = words.next().context("--only TEXT")?,
            "--keep" => args.keep = Some(words.next().context("--keep DIR")?.into()),
            _ if plain == 0 => (args.command, plain) = (word, 1),
            _ if plain == 1 => (args.name, plain) = (Some(word), 2),
            _ => bail!("unknown argument {word}"),
        }
    }
    Ok(args)
}

fn main() -> Result<ExitCode> {
    let args = args()?;
    let mut out = std::io::stdout().lock();
    match args.command.as_str() {
        "list" => {
            for s in SCENARIOS {
                writeln!(out, "{:28} {}", s.name, s.about)?;
            }
        }
        "run" => {
            let name = args.name.context("run NAME")?;
            let scenario = SCENARIOS.iter().find(|s| s.name == name);
            let requests = (scenario.context("no such scenario")?.run)();
            writeln!(out, "requests {requests}")?;
        }
        "top" => {
            let name = args.name.context("top NAME")?;
            let dir = args.keep.unwrap_or_else(std::env::temp_dir);
            write!(out, "{}", callgrind::top(&name, &dir, TOP_FUNCTIONS)?)?;
        }
        "check" | "update" => {
            let counts = callgrind::count_all(&args.only, args.keep.as_deref())?;
            if args.command == "update" {
                compare::store(&counts)?;
            }
            let (table, fine) = compare::table(&counts)?;
            write!(out, "{table}")?;
            if !fine {
                return Ok(ExitCode::FAILURE);
            }
        }
        other => bail!("unknown command {other}: check, update, list, top or run"),
    }
    Ok(ExitCode::SUCCESS)
}
