//! What the runtime is told at start. Values come from the settings crate through the binary.

use flumen_base::{Now, ShardId};
use std::net::SocketAddr;
use std::time::Duration;

/// A listener to bind, by index the one that [`flumen_shard::io::ConnInfo::listener`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Host name or address; empty means every interface.
    pub host: String,
    /// Port; 0 lets the kernel choose, see [`crate::Running::listeners`].
    pub port: u16,
}

impl Listen {
    /// A listener on `host:port`.
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }
}

/// How log writes reach the disk (`flumen.log.write.strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteStrategy {
    /// By file system and state: what is fastest into the page cache (`Ring` on XFS, `Inline`
    /// elsewhere) while the kernel's write-back keeps up, around its throttle when it does not.
    #[default]
    Auto,
    /// `pwritev` on the shard's own turn; syncs still go through the ring.
    Inline,
    /// A ring WRITEV: inline in the kernel on XFS, a kernel worker on ext4 and tmpfs.
    Ring,
    /// A ring WRITEV with RWF_DONTCACHE: write-back begins with the write, and its pages are
    /// dropped. Linux 6.14; `Ring` where the file system refuses it.
    Uncached,
    /// O_DIRECT through the ring, in aligned copies; `Ring` where the file system refuses it.
    Direct,
    /// `Ring`, so many bytes per second: what `Auto` does on a disk that it keeps pace with.
    Paced(u32),
}

/// Everything that the runtime needs to know.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Listeners of the Kafka protocol.
    pub listeners: Vec<Listen>,
    /// CPUs to use (`flumen.cpus`); `None` takes the affinity mask of the process.
    pub cpus: Option<Vec<usize>>,
    /// Number of shards (`flumen.shards`); `None` is one per CPU. More than CPUs share them round
    /// robin.
    pub shards: Option<u16>,
    /// Whether each shard is pinned to its CPU.
    pub pin: bool,
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `max.connections`, of the whole process.
    pub connections_max: usize,
    /// `connections.max.idle.ms`; zero or less in Kafka's key becomes `None`.
    pub idle_max: Option<Duration>,
    /// File slices longer than this many bytes are spliced, shorter ones are read and sent with
    /// their header.
    pub splice_above_bytes: usize,
    /// How log writes are done.
    pub write_strategy: WriteStrategy,
    /// All logs are on one disk: writes may keep pace with it.
    pub one_disk: bool,
    /// Most bytes that are allocated ahead of a segment's synced writes at a time, 1 MiB at least:
    /// room that nobody else finds until the segment is sealed.
    pub allocate_ahead_max: u64,
    /// `host:port` of the metrics and health endpoint; `None` is no endpoint.
    pub metrics: Option<Listen>,
    /// Blocking helper threads per shard. Several, so that a long recovery holds up nobody and
    /// syncs of new partitions share the file system's commits.
    pub job_threads: usize,
    /// How long a shutdown may take before the process ends anyway.
    pub shutdown_max: Duration,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            cpus: None,
            shards: None,
            pin: true,
            request_bytes_max: 104_857_600,
            connections_max: usize::MAX,
            idle_max: Some(Duration::from_secs(600)),
            splice_above_bytes: 256 << 10,
            write_strategy: WriteStrategy::Auto,
            allocate_ahead_max: 64 << 20,
            metrics: None,
            one_disk: false,
            job_threads: 8,
            shutdown_max: Duration::from_millis(4500),
        }
    }
}

/// What a shard learns when it is made, on its own thread.
#[derive(Clone, Debug)]
pub struct ShardStart {
    /// Which shard it is.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// The time now.
    pub now: Now,
    /// Seed of this shard's generator, from the OS.
    pub seed: u64,
    /// The addresses that the listeners are bound to, in the order of the configuration.
    pub listeners: Vec<SocketAddr>,
}
