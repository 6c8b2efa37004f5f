//! Starting and ending the process: CPUs, listeners, one glommio executor per shard, signals.

use crate::clock::OsClock;
use crate::config::{Listen, RuntimeConfig, ShardStart, WriteStrategy};
use crate::core::ShardCore;
use crate::files::Closer;
use crate::fsdisk::FsDisk;
use crate::http::Endpoint;
use crate::jobs::{HelperCpus, Jobs};
use crate::mesh::{self, Mesh};
use crate::probe::{self, ProbeError};
use crate::reactor::{Parts, Reactor};
use crate::sched;
use crate::shared::Shared;
use crate::sys;
use crate::writeback::Watcher;
use flumen_base::{Clock, Disk, ShardId};
use glommio::{CpuSet, ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;
/// Entries of glommio's own rings, which carry nothing but its wakes.
const GLOMMIO_RING_ENTRIES: usize = 16;

/// Descriptors that connections leave for log files, rings and pipes; more where a quarter is more.
const FILES_KEPT: usize = 256;
/// How long an address in use is tried again, and the pause between.
const BIND_RETRY_MAX: Duration = Duration::from_secs(10);
const BIND_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Why the runtime could not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The kernel or a limit does not suffice.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A value of the configuration can't work on this machine.
    #[error("{0}")]
    Config(String),
    /// A listener could not be bound.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// What was to be bound.
        address: String,
        /// The system's error.
        error: io::Error,
    },
    /// The OS refused something else.
    #[error("{0}")]
    Os(#[from] io::Error),
    /// A shard ended with a failure.
    #[error("{0}")]
    Shard(String),
}

/// The running shards.
pub struct Running {
    shared: Arc<Shared>,
    executors: Vec<ExecutorJoinHandle<()>>,
    listeners: Vec<SocketAddr>,
    endpoint: Option<Endpoint>,
    watcher: Option<Watcher>,
    closer: Option<Closer>,
}

/// Ends the process's shards from any thread.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    /// Asks all shards to end in order: [`flumen_shard::io::Input::Shutdown`].
    pub fn shutdown(&self) {
        self.0.shutdown();
    }
}

impl Running {
    /// The addresses that the listeners are bound to, in the order of the configuration.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// The address of the metrics and health endpoint.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(Endpoint::address)
    }

    /// Whether all shards serve.
    pub fn is_ready(&self) -> bool {
        self.shared.all_ready()
    }

    /// Waits until all shards serve; false if that takes longer than `max` or a shard failed.
    pub fn wait_ready(&self, max: Duration) -> bool {
        let end = Instant::now() + max;
        while !self.is_ready() && !self.shared.aborting() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.is_ready()
    }

    /// What /metrics answers.
    pub fn metrics(&self) -> Option<String> {
        crate::http::metrics(&self.shared)
    }

    /// A handle to end it.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// Waits for all shards to end.
    pub fn join(self) -> Result<(), RuntimeError> {
        for executor in self.executors {
            if let Err(e) = executor.join() {
                self.shared.fail(format!("a shard's executor failed: {e}"));
            }
        }
        if let Some(endpoint) = self.endpoint {
            endpoint.stop();
        }
        if let Some(watcher) = self.watcher {
            watcher.stop();
        }
        if let Some(closer) = self.closer {
            closer.stop();
        }
        self.shared
            .take_failure()
            .map_or(Ok(()), |reason| Err(RuntimeError::Shard(reason)))
    }
}

/// Everything that can be refused before a shard exists: limits and features checked, CPUs chosen,
/// listeners bound.
pub struct Prepared {
    config: RuntimeConfig,
    mask: Vec<usize>,
    cpus: Vec<usize>,
    shards: u16,
    /// Descriptors that the process may have.
    files_max: usize,
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    endpoint: Option<TcpListener>,
}

/// Checks the machine and binds the listeners. Clients may connect from here on, and wait until all
/// shards are ready.
pub fn prepare(mut config: RuntimeConfig) -> Result<Prepared, RuntimeError> {
    let mask: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    let (cpus, shards) = choose_cpus(&config, &mask)?;
    probe::probe(shards)?;
    let files_max = limit_connections(&mut config)?;
    let (sockets, addresses) = bind_all(&config.listeners)?;
    let endpoint = config.metrics.as_ref().map(bind).transpose()?;
    Ok(Prepared {
        config,
        mask,
        cpus,
        shards,
        files_max,
        sockets,
        addresses,
        endpoint,
    })
}

/// [`prepare`] and [`Prepared::start`].
pub fn start<C, F>(config: RuntimeConfig, make_shard: F) -> Result<Running, RuntimeError>
where
    C: ShardCore,
    F: Fn(&ShardStart) -> Result<C, String> + Send + Sync + 'static,
{
    prepare(config)?.start(make_shard)
}

/// [`prepare`] and [`Prepared::run`].
pub fn run<C, F>(
    config: RuntimeConfig,
    make_shard: F,
    started: impl FnOnce(&Running),
) -> Result<(), RuntimeError>
where
    C: ShardCore,
    F: Fn(&ShardStart) -> Result<C, String> + Send + Sync + 'static,
{
    prepare(config)?.run(make_shard, started)
}

impl Prepared {
    /// The addresses that the listeners are bound to, in the order of the configuration.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How many shards there will be.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Runs the shards until SIGTERM or SIGINT, then ends them in order. A second signal ends the
    /// process at once with exit code 1.
    pub fn run<C, F>(
        self,
        make_shard: F,
        started: impl FnOnce(&Running),
    ) -> Result<(), RuntimeError>
    where
        C: ShardCore,
        F: Fn(&ShardStart) -> Result<C, String> + Send + Sync + 'static,
    {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
        let closer = signals.handle();
        let running = self.start(make_shard)?;
        let stopper = running.stopper();
        let watch = move || {
            for (count, signal) in signals.forever().enumerate() {
                if count > 0 {
                    tracing::warn!(signal, "second signal: ending at once");
                    std::process::exit(1);
                }
                tracing::info!(signal, "shutting down");
                stopper.shutdown();
            }
        };
        let watcher = std::thread::Builder::new()
            .name("flumen-signals".to_owned())
            .stack_size(256 << 10)
            .spawn(watch)?;
        started(&running);
        let result = running.join();
        closer.close();
        let _ = watcher.join(); // ends with the iterator
        result
    }

    /// Starts all shards and returns. `make_shard` is called once per shard, on its thread.
    pub fn start<C, F>(mut self, make_shard: F) -> Result<Running, RuntimeError>
    where
        C: ShardCore,
        F: Fn(&ShardStart) -> Result<C, String> + Send + Sync + 'static,
    {
        let pin = self.config.pin;
        let used = self
            .cpus
            .get(..usize::from(self.shards))
            .unwrap_or(&self.cpus);
        let is_spare = |cpu: &&usize| pin && !used.contains(cpu);
        let spare: Vec<usize> = self.mask.iter().filter(is_spare).copied().collect();
        let helpers = if spare.is_empty() {
            self.mask
        } else {
            spare.clone()
        };
        let shared = Arc::new(Shared::new(self.shards, self.files_max)?);
        let helper_cpus = Arc::new(HelperCpus::new(spare));
        let mut running = Running {
            shared: Arc::clone(&shared),
            executors: Vec::new(),
            listeners: self.addresses.clone(),
            endpoint: None,
            watcher: None,
            closer: None,
        };
        let counted = Arc::clone(&shared);
        let connections = move || counted.connections();
        let cpus = Arc::clone(&helper_cpus);
        running.closer = Some(shared.files.start(cpus, connections)?);
        match self.config.write_strategy {
            WriteStrategy::Auto => {
                let (cpus, one_disk) = (Arc::clone(&helper_cpus), self.config.one_disk);
                running.watcher = shared.writeback.watch(cpus, one_disk)?;
            }
            WriteStrategy::Paced(bytes_per_second) => shared.writeback.pace.fix(bytes_per_second),
            _ => {}
        }
        if let Some(socket) = self.endpoint {
            let cpus = Arc::clone(&helper_cpus);
            running.endpoint = Some(Endpoint::start(socket, Arc::clone(&shared), cpus)?);
        }
        let common = Common {
            config: Arc::new(self.config),
            shared: Arc::clone(&shared),
            clock: OsClock::new(),
            disk: Arc::new(FsDisk),
            helper_cpus,
            addresses: self.addresses,
            make_shard: Arc::new(make_shard),
            shards: self.shards,
        };
        for mesh in mesh::mesh::<C::Message>(self.shards, mesh::CAPACITY) {
            let cpu = self.cpus[mesh.me().index() % self.cpus.len()];
            let listeners = std::mem::take(&mut self.sockets); // all on the first shard's ring
            match spawn(common.clone(), mesh, listeners, cpu, &helpers) {
                Ok(executor) => running.executors.push(executor),
                Err(reason) => {
                    shared.fail(reason.clone());
                    return Err(running.join().err().unwrap_or(RuntimeError::Shard(reason)));
                }
            }
        }
        Ok(running)
    }
}

/// Log files, rings and pipes need descriptors too: clients alone must not use them up. Gives how
/// many there are.
fn limit_connections(config: &mut RuntimeConfig) -> io::Result<usize> {
    let files = usize::try_from(sys::raise_file_limit()?).unwrap_or(usize::MAX);
    let room = files - (files / 4).max(FILES_KEPT).min(files);
    if config.connections_max > room {
        tracing::debug!(files, room, "fewer connections than max.connections fit");
        config.connections_max = room;
    }
    Ok(files)
}

/// The CPUs to use, and the number of shards.
fn choose_cpus(config: &RuntimeConfig, mask: &[usize]) -> Result<(Vec<usize>, u16), RuntimeError> {
    let cpus = config.cpus.clone().unwrap_or_else(|| mask.to_vec());
    if let Some(cpu) = cpus.iter().find(|cpu| !mask.contains(cpu)) {
        return Err(RuntimeError::Config(format!(
            "flumen.cpus names CPU {cpu}, but this process may only run on {mask:?}"
        )));
    }
    let shards = match config.shards {
        Some(shards) => shards,
        None => u16::try_from(cpus.len()).unwrap_or(u16::MAX),
    };
    if cpus.is_empty() || shards == 0 {
        return Err(RuntimeError::Config(
            "at least one CPU and one shard are needed (flumen.cpus, flumen.shards)".to_owned(),
        ));
    }
    Ok((cpus, shards))
}

fn bind_all(listeners: &[Listen]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), RuntimeError> {
    let sockets: Vec<TcpListener> = listeners.iter().map(bind).collect::<Result<_, _>>()?;
    let addresses = sockets
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()?;
    Ok((sockets, addresses))
}

fn bind(listen: &Listen) -> Result<TcpListener, RuntimeError> {
    let failure = |error| RuntimeError::Listen {
        address: format!("{}:{}", listen.host, listen.port),
        error,
    };
    let candidates: Vec<SocketAddr> = if listen.host.is_empty() {
        // Every interface, both families where the machine has IPv6.
        let v6 = (std::net::Ipv6Addr::UNSPECIFIED, listen.port).into();
        vec![v6, (std::net::Ipv4Addr::UNSPECIFIED, listen.port).into()]
    } else {
        let host = listen.host.trim_start_matches('[').trim_end_matches(']');
        (host, listen.port)
            .to_socket_addrs()
            .map_err(failure)?
            .collect()
    };
    let socket = bind_patiently(&candidates).map_err(failure)?;
    sys::set_backlog(socket.as_fd(), BACKLOG).map_err(failure)?;
    Ok(socket)
}

/// A process that was just killed may still hold the address: the kernel lets go of the sockets in
/// an io_uring ring in a worker of its own, which on a machine at its limit has taken seconds.
fn bind_patiently(candidates: &[SocketAddr]) -> io::Result<TcpListener> {
    let end = Instant::now() + BIND_RETRY_MAX;
    let mut told = false;
    loop {
        match TcpListener::bind(candidates) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(?candidates, "address in use: trying for a while");
                }
                std::thread::sleep(BIND_RETRY_PAUSE);
            }
            result => return result,
        }
    }
}

struct Common<F> {
    config: Arc<RuntimeConfig>,
    shared: Arc<Shared>,
    clock: OsClock,
    disk: Arc<dyn Disk>,
    helper_cpus: Arc<HelperCpus>,
    addresses: Vec<SocketAddr>,
    make_shard: Arc<F>,
    shards: u16,
}

impl<F> Clone for Common<F> {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            shared: Arc::clone(&self.shared),
            clock: self.clock,
            disk: Arc::clone(&self.disk),
            helper_cpus: Arc::clone(&self.helper_cpus),
            addresses: self.addresses.clone(),
            make_shard: Arc::clone(&self.make_shard),
            shards: self.shards,
        }
    }
}

fn spawn<C, F>(
    common: Common<F>,
    mesh: Mesh<C::Message>,
    listeners: Vec<TcpListener>,
    cpu: usize,
    helpers: &[usize],
) -> Result<ExecutorJoinHandle<()>, String>
where
    C: ShardCore,
    F: Fn(&ShardStart) -> Result<C, String> + Send + Sync + 'static,
{
    let placement = if common.config.pin {
        Placement::Fixed(cpu)
    } else {
        Placement::Unbound
    };
    LocalExecutorBuilder::new(placement)
        .name("flumen-shard")
        .io_memory(probe::GLOMMIO_IO_BYTES)
        .ring_depth(GLOMMIO_RING_ENTRIES)
        .blocking_thread_pool_placement(pool(common.config.job_threads.max(1), helpers))
        .spawn(move || async move {
            sched::prefer_current();
            let guard = FailOnPanic(Arc::clone(&common.shared));
            let shared = Arc::clone(&common.shared);
            if let Err(reason) = run_shard(common, mesh, listeners).await {
                tracing::error!(%reason, "shard failed");
                shared.fail(reason);
            }
            drop(guard);
        })
        .map_err(|e| format!("glommio executor on CPU {cpu}: {e}"))
}

fn pool(threads: usize, helpers: &[usize]) -> PoolPlacement {
    match CpuSet::online() {
        Ok(online) => {
            let set = online.filter(|location| helpers.contains(&location.cpu));
            if set.is_empty() {
                PoolPlacement::Unbound(threads)
            } else {
                PoolPlacement::Fenced(threads, set)
            }
        }
        Err(_) => PoolPlacement::Unbound(threads),
    }
}

/// A shard that panics (only in builds that unwind) must not leave the others waiting for it.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a shard panicked".to_owned());
        }
    }
}

async fn run_shard<C, F>(
    common: Common<F>,
    mesh: Mesh<C::Message>,
    listeners: Vec<TcpListener>,
) -> Result<(), String>
where
    C: ShardCore,
    F: Fn(&ShardStart) -> Result<C, String>,
{
    let shard: ShardId = mesh.me();
    let start = ShardStart {
        shard,
        shards: common.shards,
        now: common.clock.now(),
        seed: sys::random_u64().map_err(|e| format!("getrandom: {e}"))?,
        listeners: common.addresses,
    };
    let core = (common.make_shard)(&start)?;
    let jobs = Jobs::new(
        shard,
        Arc::clone(&common.shared),
        common.disk,
        common.helper_cpus,
    );
    let parts = Parts {
        shard,
        shared: common.shared,
        config: common.config,
        clock: common.clock,
        mesh,
        listeners,
        core,
        jobs,
    };
    Reactor::new(parts)?.run().await
}
