//! Arguments, logging and dispatch. Exit codes: 0 done, 1 failed, 2 wrong usage (clap's own); those
//! of `flumen log` are its own.

mod consume;
mod groups;
mod import;
mod log;
mod output;
mod produce;
mod start;
mod storage;
mod time;
mod topics;

#[cfg(test)]
mod tests;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use flumen_client::{Client, Options};
use std::io::Write;
use std::time::Duration;

/// A Kafka-wire-compatible broker, and a command line for any Kafka-compatible cluster.
#[derive(Debug, Parser)]
#[command(name = "flumen", version, about, max_term_width = 100)]
pub(crate) struct Args {
    /// What to log: error, warn, info, debug, trace or a filter such as flumen_shard=debug.
    /// RUST_LOG does the same.
    #[arg(long, global = true, value_name = "FILTER")]
    log_level: Option<String>,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker.
    Start(start::StartArgs),
    /// Prepare, fill and inspect log directories.
    #[command(subcommand)]
    Storage(storage::StorageCommand),
    /// Show what files of a log directory hold, and look for defects in them.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Create, list, describe, alter and delete topics.
    #[command(subcommand)]
    Topics(topics::TopicsCommand),
    /// Send the lines of standard input to a topic.
    Produce(produce::ProduceArgs),
    /// Print the records of a topic.
    Consume(consume::ConsumeArgs),
    /// List, describe, reset and delete consumer groups.
    #[command(subcommand)]
    Groups(groups::GroupsCommand),
}

/// Which cluster to talk to.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Cluster {
    /// Addresses to start from, comma separated.
    #[arg(
        long,
        short = 'b',
        visible_alias = "bootstrap",
        value_name = "HOST:PORT",
        default_value = "localhost:9092",
        env = "FLUMEN_BOOTSTRAP_SERVER"
    )]
    bootstrap_server: String,
    /// How long to wait for a connection and for an answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    request_timeout_ms: u64,
    /// What brokers call this client.
    #[arg(long, value_name = "NAME", default_value = "flumen-cli")]
    client_id: String,
}

impl Cluster {
    fn connect(&self) -> anyhow::Result<Client> {
        let timeout = Duration::from_millis(self.request_timeout_ms);
        let options = Options {
            client_id: self.client_id.clone(),
            timeout,
            retry: timeout,
        };
        Client::connect(&self.bootstrap_server, options)
            .with_context(|| format!("cannot reach the cluster at {}", self.bootstrap_server))
    }
}

/// A topic, as an argument or as Kafka's tools write it.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Topic {
    /// The topic.
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
    /// The topic, as Kafka's tools take it.
    #[arg(long = "topic", value_name = "TOPIC", hide = true)]
    topic_flag: Option<String>,
}

impl Topic {
    fn name(&self) -> &str {
        let given = self.topic.as_deref().or(self.topic_flag.as_deref());
        given.unwrap_or_default()
    }
}

/// Runs what the arguments say.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let is_server = matches!(args.command, Command::Start(_));
    init_logs(args.log_level.as_deref(), args.log_format, is_server)?;
    match args.command {
        Command::Start(args) => start::run(&args),
        Command::Storage(command) => storage::run(&command),
        Command::Log(command) => log::run(&command),
        Command::Topics(command) => topics::run(&command),
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::Groups(command) => groups::run(&command),
    }
}

/// An end with an exit code of its own; what there is to say has been said.
#[derive(Debug)]
pub(crate) struct Ended(pub(crate) u8);

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl std::error::Error for Ended {}

/// Whether it is only that nobody reads standard output any more.
pub(crate) fn is_closed_output(error: &anyhow::Error) -> bool {
    error.is::<output::Closed>()
}

/// Writes a failure to standard error.
pub(crate) fn report(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "flumen: {error:#}");
}

/// Logs go to standard error: `--log-level`, else RUST_LOG, else info for the broker and warnings
/// for the clients.
fn init_logs(level: Option<&str>, format: LogFormat, is_server: bool) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let default = if is_server { "info" } else { "warn" };
    let from_env = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty());
    let text = level.map(str::to_owned).or(from_env);
    let text = text.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(text).with_context(|| format!("log level '{text}'"))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second init (tests) keeps the first.
    let _ = match format {
        LogFormat::Text => logs
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    Ok(())
}

/// `key=value`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected key=value".to_owned()),
    }
}
