//! Arguments of the suite.

use std::path::PathBuf;

use clap::Args;

use super::broker::System;
use super::place::Fs;

/// Flumen, Kafka and the limit of each workload in turn on one CPU, several rounds.
#[derive(Debug, Clone, Args)]
pub struct SuiteArgs {
    /// Four workloads, two short rounds: three minutes in all
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// Also what runs once for minutes: troubles, the disk at its limit, the soak
    #[arg(long)]
    pub full: bool,
    /// Alternating rounds
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Measured seconds of each run
    #[arg(long)]
    pub seconds: Option<f64>,
    /// File systems; by default those that each scenario names
    #[arg(long, value_enum, value_delimiter = ',')]
    pub fs: Vec<Fs>,
    /// Scenarios whose whole name matches this regular expression
    #[arg(long)]
    pub only: Option<String>,
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',',
        default_values_t = [System::Kafka, System::Flumen, System::Limit])]
    pub systems: Vec<System>,
    /// Drive the broker at this host:port instead: nothing is started, stopped or measured in the
    /// machine
    #[arg(long)]
    pub address: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shared: SharedArgs,
}

/// Flumen alone with its write strategies, on file systems of the disk.
#[derive(Debug, Clone, Args)]
pub struct StrategyArgs {
    /// File systems
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Fs::Ext4, Fs::XfsDisk])]
    pub fs: Vec<Fs>,
    /// Values of `flumen.log.write.strategy`
    #[arg(long, value_delimiter = ',',
        default_values_t = ["inline", "ring", "direct", "auto"].map(String::from))]
    pub strategies: Vec<String>,
    /// Measured seconds of each run; without it each scenario's own
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Scenarios whose whole name matches this regular expression
    #[arg(long, default_value = "disk90|disk-saturate|trouble-.*")]
    pub only: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shared: SharedArgs,
}

/// Where things are.
#[derive(Debug, Clone, Args)]
pub struct SharedArgs {
    /// A directory on the disk that is measured; everything below it is removed in the end
    #[arg(long, default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Where the result folders go
    #[arg(long, default_value = "perf-results")]
    pub out: PathBuf,
    /// The source tree whose commit is measured
    #[arg(long, default_value = ".")]
    pub root: PathBuf,
    /// Flumen's broker; by default `flumen` beside this program
    #[arg(long, env = "FLUMEN_BIN")]
    pub flumen_bin: Option<PathBuf>,
    /// What scripts/fetch-deps.sh fetched; by default ~/.cache/flumen-deps
    #[arg(long, env = "FLUMEN_DEPS")]
    pub deps: Option<PathBuf>,
    /// Port of the brokers; the next one is Kafka's controller's
    #[arg(long, env = "BENCH_PORT", default_value_t = 29_192)]
    pub port: u16,
    /// CPU of the broker
    #[arg(long, default_value_t = 0)]
    pub broker_cpu: usize,
    /// CPU of the client, and of the suite
    #[arg(long, default_value_t = 1)]
    pub client_cpu: usize,
    /// A setting of Flumen, KEY=VALUE, repeatable
    #[arg(long, value_parser = key_value)]
    pub flumen_config: Vec<(String, String)>,
    /// A setting of Kafka, KEY=VALUE, repeatable
    #[arg(long, value_parser = key_value)]
    pub kafka_config: Vec<(String, String)>,
    /// The disk's sequential speed in MB/s, in place of measuring it
    #[arg(long)]
    pub disk_speed: Option<f64>,
    /// Have the block layer hold the disk's writes to so many MB/s, and its reads too (root, cgroup
    /// v1): where it takes more than a core can write, it would never be the bound
    #[arg(long)]
    pub disk_limit: Option<f64>,
    /// A README whose table is renewed as well (not by --quick)
    #[arg(long)]
    pub readme: Option<PathBuf>,
    /// Leave the tables as they are
    #[arg(long)]
    pub no_publish: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
