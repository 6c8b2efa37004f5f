//! `flumen start`: from a configuration to running shards.

use super::storage::{self, CheckedDir};
use anyhow::{Context, ensure};
use clap::Args;
use flumen_base::{BrokerId, Disk, Mono, Now};
use flumen_log::checkpoint::read_meta_properties;
use flumen_quorum::{Image, Quorum, QuorumConfig};
use flumen_runtime::{
    FsDisk, In, Listen, Out, Running, RuntimeConfig, ShardCore, ShardStart, WriteStrategy,
};
use flumen_settings::{BrokerConfig, Loaded};
use flumen_shard::jobs::{Job, JobOutput};
use flumen_shard::mesh::Message;
use flumen_shard::{LogDir, LogDirState, Shard, ShardConfig, ShardInit, settle_duplicates};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What `--dev` starts with.
const DEV_PROPERTIES: &str = include_str!("../../config/dev.properties");
/// The directory of the metadata log below `metadata.log.dir`.
const METADATA_DIR: &str = "__cluster_metadata-0";
/// A file that Apache Kafka keeps there and Flumen does not.
const KAFKA_QUORUM_STATE: &str = "quorum-state";
/// Files of the metadata log have ids from here on, those of partitions below.
const METADATA_FILE_IDS: u64 = 1 << 63;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["dev", "config"]))]
pub(crate) struct StartArgs {
    /// Run a broker for development: data in ./flumen-data, formatted if need be, listening on
    /// 127.0.0.1:9092.
    #[arg(long)]
    dev: bool,
    /// The broker's properties file, with Kafka's keys.
    #[arg(long, short = 'c', value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting that replaces the file's (or --dev's); may be repeated.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// Runs a broker until SIGTERM or SIGINT.
pub(crate) fn run(args: &StartArgs) -> anyhow::Result<()> {
    let begin = Instant::now();
    let Loaded {
        mut config,
        without_effect,
        unknown,
    } = load(args)?;
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, reason) in &without_effect {
        by_reason.entry(reason).or_default().push(key);
    }
    for (reason, keys) in by_reason {
        tracing::info!(keys = %keys.join(", "), %reason, "keys without effect");
    }
    if !unknown.is_empty() {
        tracing::warn!(keys = %unknown.join(", "), "unknown keys");
    }
    if args.dev {
        format_missing(&config)?;
    }
    let dirs = storage::check_dirs(&config)?;
    advertise(&mut config);
    let runtime = runtime_config(&config)?;
    let (quorum, image) = load_quorum(&config)?;
    let (log_dirs, states) = load_dirs(&dirs.list, &image, config.node_id)?;
    let cluster_id = dirs.cluster_id.clone();
    tracing::info!(%cluster_id, node_id = config.node_id, dirs = log_dirs.len(), "starting");
    let plan = Arc::new(Plan {
        base: ShardConfig {
            broker: config,
            cluster_id,
            log_dirs,
        },
        config: OnceLock::new(),
        image: Arc::new(image),
        quorum: Mutex::new(Some(quorum)),
        states: Arc::new(states),
    });
    let make = move |start: &ShardStart| plan.shard(start);
    let started = |running: &Running| announce(running, begin);
    flumen_runtime::run(runtime, make, started)?;
    tracing::info!("stopped");
    Ok(())
}

/// What the log directories hold. One that can't be read is offline while others can.
fn load_dirs(
    dirs: &[CheckedDir],
    image: &Image,
    node: BrokerId,
) -> anyhow::Result<(Vec<LogDir>, Vec<LogDirState>)> {
    let failed = |reason: String| LogDirState {
        failed: Some(reason),
        ..LogDirState::default()
    };
    let mut log_dirs = Vec::new();
    let mut states = Vec::new();
    for dir in dirs {
        states.push(match &dir.failed {
            Some(reason) => failed(reason.clone()),
            None => LogDirState::load(&FsDisk, &dir.path, image)
                .unwrap_or_else(|e| failed(format!("{}: {e}", dir.path.display()))),
        });
        log_dirs.push(LogDir {
            id: dir.id,
            // As clients are to name it.
            path: std::path::absolute(&dir.path)?,
        });
        if dir.failed.is_none() {
            spread(&dir.path);
        }
    }
    for (n, e) in settle_duplicates(&FsDisk, &log_dirs, &mut states, image, node) {
        if let (Some(dir), Some(state)) = (dirs.get(n), states.get_mut(n)) {
            *state = failed(format!("{}: {e}", dir.path.display()));
        }
    }
    let reasons: Vec<&str> = states.iter().filter_map(|s| s.failed.as_deref()).collect();
    ensure!(
        reasons.len() < states.len(),
        "no log directory can be used: {}",
        reasons.join("; ")
    );
    for reason in reasons {
        tracing::error!(%reason, "log directory is offline");
    }
    Ok((log_dirs, states))
}

/// Nothing but speed depends on it.
fn spread(dir: &Path) {
    match flumen_runtime::spread_directories(dir) {
        Ok(true) => {
            let what = "ext4 without a journal: new partitions are spread over it (chattr +T)";
            tracing::info!(dir = %dir.display(), "{what}");
        }
        Ok(false) => {}
        Err(error) => tracing::debug!(dir = %dir.display(), %error, "partitions are not spread"),
    }
}

fn load(args: &StartArgs) -> anyhow::Result<Loaded> {
    let Some(file) = &args.config else {
        return storage::load_text(DEV_PROPERTIES, &with_controller(&args.overrides));
    };
    storage::load_config(file, &args.overrides)
}

/// In development an override of `listeners` need not name a controller listener: it gets a free
/// port.
fn with_controller(overrides: &[String]) -> Vec<String> {
    let complete = |text: &String| {
        let named = |l: &str| l.trim().to_ascii_uppercase().starts_with("CONTROLLER:");
        match text.split_once('=') {
            Some((key, value)) if key.trim() == "listeners" && !value.split(',').any(named) => {
                format!("listeners={value},CONTROLLER://127.0.0.1:0")
            }
            _ => text.clone(),
        }
    };
    overrides.iter().map(complete).collect()
}

/// Formats the directories that are not, for the cluster of those that are or a new one.
fn format_missing(config: &BrokerConfig) -> anyhow::Result<()> {
    let mut cluster = None;
    let mut missing = Vec::new();
    for dir in storage::all_dirs(config) {
        match read_meta_properties(&FsDisk, &dir).with_context(|| dir.display().to_string())? {
            Some(meta) => cluster = Some(meta.cluster_id),
            None => missing.push(dir),
        }
    }
    let cluster = match cluster {
        Some(id) => id,
        None => storage::random_uuid()?.to_string(),
    };
    for dir in missing {
        storage::format_dir(&dir, &cluster, config.node_id)?;
        tracing::info!(dir = %dir.display(), %cluster, "formatted");
    }
    Ok(())
}

/// A listener on every interface is advertised under this machine's name, if that can be resolved.
fn advertise(config: &mut BrokerConfig) {
    let file = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let own = file.trim();
    let resolves = !own.is_empty() && (own, 0).to_socket_addrs().is_ok();
    for listener in &mut config.advertised_listeners {
        if listener.host.is_empty() {
            let host = if resolves { own } else { "localhost" };
            host.clone_into(&mut listener.host);
        }
    }
}

fn runtime_config(config: &BrokerConfig) -> anyhow::Result<RuntimeConfig> {
    use flumen_settings::WriteStrategy as Wanted;
    let write_strategy = match config.flumen.write_strategy {
        Wanted::Auto => WriteStrategy::Auto,
        Wanted::Inline => WriteStrategy::Inline,
        Wanted::Ring => WriteStrategy::Ring,
        Wanted::Uncached => WriteStrategy::Uncached,
        Wanted::Direct => WriteStrategy::Direct,
    };
    let metrics = config.flumen.metrics_listener.as_deref();
    let metrics = metrics.and_then(|address| {
        let (host, port) = address.rsplit_once(':')?;
        Some(Listen::new(host, port.parse().ok()?))
    });
    let idle = u64::try_from(config.network.connections_max_idle_ms).unwrap_or(0);
    let listeners = config.listeners.iter();
    Ok(RuntimeConfig {
        listeners: listeners.map(|l| Listen::new(&l.host, l.port)).collect(),
        cpus: config.flumen.cpus.clone(),
        shards: config.flumen.shards,
        request_bytes_max: usize::try_from(config.network.request_max_bytes).unwrap_or(1),
        connections_max: usize::try_from(config.network.max_connections).unwrap_or(0),
        idle_max: (idle > 0).then(|| Duration::from_millis(idle)),
        splice_above_bytes: config.flumen.fetch_splice_min_bytes as usize,
        write_strategy,
        one_disk: are_on_one_disk(&config.log_dirs),
        // What is taken ahead is not there for what the reserve is for.
        allocate_ahead_max: match config.flumen.disk_reserve_bytes {
            0 => RuntimeConfig::default().allocate_ahead_max,
            _ => 0,
        },
        metrics,
        ..RuntimeConfig::default()
    })
}

fn are_on_one_disk(dirs: &[PathBuf]) -> bool {
    let disks = dirs.iter().map(|dir| Ok(std::fs::metadata(dir)?.dev()));
    let disks: std::io::Result<BTreeSet<u64>> = disks.collect();
    disks.is_ok_and(|disks| disks.len() == 1)
}

/// Loads the metadata log and makes this node its only voter.
fn load_quorum(config: &BrokerConfig) -> anyhow::Result<(Quorum, Image)> {
    let dir = config.metadata_log_dir.join(METADATA_DIR);
    ensure!(
        !FsDisk.exists(&dir.join(KAFKA_QUORUM_STATE)),
        "{} was written by Apache Kafka: Flumen has its own metadata log and can't take it over",
        dir.display()
    );
    let loaded = Quorum::load(&FsDisk, &dir).context("the metadata log")?;
    let image = loaded.image().clone();
    let snapshot_bytes = u64::try_from(config.quorum.snapshot_after_bytes).unwrap_or(1);
    let quorum_config = QuorumConfig {
        node_id: config.node_id,
        file_id_base: METADATA_FILE_IDS,
        snapshot_bytes,
    };
    let quorum = Quorum::new(quorum_config, loaded).map_err(anyhow::Error::msg)?;
    Ok((quorum, image))
}

/// What the shards are made from.
struct Plan {
    base: ShardConfig,
    /// With the ports that the listeners really have.
    config: OnceLock<Arc<ShardConfig>>,
    image: Arc<Image>,
    /// Taken by the first shard.
    quorum: Mutex<Option<Quorum>>,
    states: Arc<Vec<LogDirState>>,
}

impl Plan {
    fn shard(&self, start: &ShardStart) -> Result<Core, String> {
        let config = self.config.get_or_init(|| {
            let mut config = self.base.clone();
            set_ports(&mut config.broker, &start.listeners);
            Arc::new(config)
        });
        let quorum = if start.shard == flumen_base::ShardId::FIRST {
            let mut quorum = self.quorum.lock().map_err(|e| e.to_string())?;
            Some(quorum.take().ok_or("the quorum was given away")?)
        } else {
            None
        };
        Ok(Core(Shard::new(ShardInit {
            id: start.shard,
            shards: start.shards,
            config: Arc::clone(config),
            seed: start.seed,
            now: start.now,
            image: Arc::clone(&self.image),
            quorum,
            log_dirs: Arc::clone(&self.states),
        })))
    }
}

/// Puts the real port where the kernel chose one.
fn set_ports(config: &mut BrokerConfig, bound: &[SocketAddr]) {
    for (index, address) in bound.iter().enumerate() {
        let own = config.listeners.get_mut(index);
        let advertised = config.advertised_listeners.get_mut(index);
        for listener in own.into_iter().chain(advertised) {
            if listener.port == 0 {
                listener.port = address.port();
            }
        }
    }
}

/// Says where the broker listens, and when it serves.
fn announce(running: &Running, begin: Instant) {
    for address in running.listeners() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = running.metrics_address() {
        tracing::info!(%address, "metrics");
    }
    if running.wait_ready(Duration::from_secs(60)) {
        let ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(ms, "ready");
    }
}

/// A shard as the runtime drives it.
struct Core(Shard);

impl ShardCore for Core {
    type Message = Message;
    type Job = Job;
    type JobOutput = JobOutput;

    fn run_job(job: Job, disk: &dyn Disk) -> JobOutput {
        job.run(disk)
    }

    fn is_awaited(job: &Job) -> bool {
        job.is_awaited()
    }

    fn step(&mut self, now: Now, input: In<Self>, effects: &mut Out<Self>) {
        self.0.step(now, input, effects);
    }

    fn end_turn(&mut self, now: Now, effects: &mut Out<Self>) {
        self.0.end_turn(now, effects);
    }

    fn tick(&mut self, now: Now, effects: &mut Out<Self>) {
        self.0.tick(now, effects);
    }

    fn next_deadline(&self) -> Option<Mono> {
        self.0.next_deadline()
    }

    fn frame_bytes(&self) -> usize {
        self.0.frame_bytes()
    }
}
