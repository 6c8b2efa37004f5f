//! Arguments of the workloads.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::engine::KAFKA_SEND_BUFFER;

/// What all workloads share.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Broker, host:port
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap_server: String,
    /// Name of the run in its report
    #[arg(long, default_value = "run")]
    pub scenario: String,
    /// Topic; created when it is not there
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Partitions of the topic
    #[arg(long, default_value_t = 8)]
    pub partitions: i32,
    /// Topic config KEY=VALUE for the creation, repeatable
    #[arg(long, value_parser = key_value)]
    pub config: Vec<(String, String)>,
    /// Connections
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Requests in flight per connection (closed loop)
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    /// Requests per second in all (open loop); without it the loop is closed
    #[arg(long)]
    pub rate: Option<f64>,
    /// Value bytes of a record
    #[arg(long, default_value_t = 1000)]
    pub record_bytes: usize,
    /// Bytes of a batch; a record larger than that makes a batch of one
    #[arg(long, default_value_t = 16_384)]
    pub batch_bytes: usize,
    /// Measured seconds
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds of the same load before
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Bytes of a producer's socket send buffer, Kafka's own default; 0 leaves it to the system
    #[arg(long, default_value_t = KAFKA_SEND_BUFFER)]
    pub send_buffer: usize,
    /// Poll without sleeping in a closed loop too: spares the broker the cost of waking the client
    #[arg(long)]
    pub spin: bool,
    /// Process id of the broker, for its CPU time, memory, switches and disk bytes
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// Number of the CPU that the broker is pinned to, for its whole busy time
    #[arg(long)]
    pub broker_cpu: Option<usize>,
    /// Where to write the JSON report
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Where to write a HdrHistogram log of the latencies, an interval per second
    #[arg(long)]
    pub hdr_log: Option<PathBuf>,
}

/// How the client compresses its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // the codecs' own names
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Produce.
#[derive(Debug, Clone, Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    /// Partitions, and so batches, in one request
    #[arg(long, default_value_t = 1)]
    pub partitions_per_request: usize,
    /// Acks: -1, 0 or 1
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub acks: i16,
    /// Each connection walks its share of the partitions, request by request; without it each
    /// keeps to the same ones
    #[arg(long)]
    pub spread: bool,
    /// With a producer id and sequences per connection
    #[arg(long)]
    pub idempotent: bool,
    /// Compress batches (of text that compresses as such records do); encoded once
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub compression: Codec,
}

/// Fetch.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    /// Bytes to ask for in one request
    #[arg(long, default_value_t = 65_536)]
    pub fetch_bytes: i32,
    /// Bytes that each partition holds at least before the measurement
    #[arg(long, default_value_t = 32 << 20)]
    pub fill_bytes: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cold: ColdArgs,
}

/// Reading what memory no longer holds.
#[derive(Debug, Clone, Args)]
pub struct ColdArgs {
    /// Drop the broker's files from the page cache before each pass over a partition (on file
    /// systems with a disk)
    #[arg(long, requires = "broker_dir")]
    pub cold: bool,
    /// The broker's log directory
    #[arg(long)]
    pub broker_dir: Option<PathBuf>,
}

/// One producer, many consumers of the same partition.
#[derive(Debug, Clone, Args)]
pub struct FanOutArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    /// Consumers, each with a connection, at the end of the partition
    #[arg(long, default_value_t = 10)]
    pub consumers: usize,
}

/// Producers at a rate beside readers.
#[derive(Debug, Clone, Args)]
pub struct MixedArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
    /// Catch-up readers of a topic of their own, in a closed loop
    #[arg(long, default_value_t = 4)]
    pub readers: usize,
    /// The readers' topic, with a partition for each; filled before
    #[arg(long, default_value = "bench-read")]
    pub read_topic: String,
    /// Bytes that a reader asks for in one request
    #[arg(long, default_value_t = 1 << 20)]
    pub fetch_bytes: i32,
    /// Bytes that each partition of the readers holds at least
    #[arg(long, default_value_t = 64 << 20)]
    pub fill_bytes: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cold: ColdArgs,
    /// No catch-up readers but a tail consumer of each partition that is produced to: the second
    /// latency is from a record's due time to its arrival
    #[arg(long)]
    pub tail: bool,
}

/// A load curve.
#[derive(Debug, Clone, Args)]
pub struct LoadCurveArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub produce: ProduceArgs,
    /// Percent of the capacity, one open-loop run each
    #[arg(long, value_delimiter = ',',
        default_values_t = [10.0, 25.0, 40.0, 55.0, 70.0, 80.0, 90.0, 95.0, 105.0, 120.0])]
    pub steps: Vec<f64>,
    /// Requests per second that are 100 %; without it a closed loop of as many seconds as a step
    /// finds them
    #[arg(long)]
    pub capacity: Option<f64>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
