//! What the threads of the process share: per shard a few atomics and a mailbox for rare commands,
//! nothing on a hot path.

use crate::files::Files;
use crate::sys;
use crate::writeback::Writeback;
use flumen_base::ShardId;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A command to a shard from another thread.
pub(crate) enum Control {
    /// Feed `Input::Shutdown`.
    Shutdown,
    /// Give the metrics text.
    Metrics(Sender<(ShardId, String)>),
    /// Look at the shared state: all are ready, all have stopped, or the process aborts.
    Look,
}

/// What others may touch of one shard. Aligned so that two shards share no cache line.
#[repr(align(128))]
pub(crate) struct ShardShared {
    sleeping: AtomicBool,
    has_control: AtomicBool,
    /// Blocking jobs that have ended, for the shard to give glommio a turn.
    pub(crate) jobs_finished: AtomicU64,
    /// Connections given to this shard and not yet closed.
    pub(crate) connections: AtomicUsize,
    /// For doorbells.
    pub(crate) ring_fd: OnceLock<OwnedFd>,
    wake: OwnedFd,
    control: Mutex<Vec<Control>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind our locks is valid after every single statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ShardShared {
    fn new() -> io::Result<Self> {
        Ok(Self {
            sleeping: AtomicBool::new(false),
            has_control: AtomicBool::new(false),
            jobs_finished: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            ring_fd: OnceLock::new(),
            wake: sys::eventfd()?,
            control: Mutex::new(Vec::new()),
        })
    }

    /// Announces that the shard will sleep. It must look for work once more after this.
    pub(crate) fn start_sleeping(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// True once per sleep: the caller has to wake the shard. Call after a full fence.
    pub(crate) fn stop_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst)
    }

    /// Wakes the shard from a thread without a ring.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.stop_sleeping() {
            sys::eventfd_wake(self.wake.as_fd());
        }
    }

    /// The eventfd to read on the ring.
    pub(crate) fn wake_fd(&self) -> io::Result<OwnedFd> {
        sys::duplicate(self.wake.as_fd())
    }

    /// Sends a command.
    pub(crate) fn send(&self, control: Control) {
        lock(&self.control).push(control);
        self.has_control.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether commands wait.
    pub(crate) fn has_control(&self) -> bool {
        self.has_control.load(Ordering::SeqCst)
    }

    /// Takes the commands.
    pub(crate) fn take_control(&self) -> Vec<Control> {
        if !self.has_control.swap(false, Ordering::SeqCst) {
            return Vec::new();
        }
        std::mem::take(&mut *lock(&self.control))
    }
}

/// What all shards share.
pub(crate) struct Shared {
    pub(crate) shards: Vec<ShardShared>,
    /// Whether the kernel's write-back is behind.
    pub(crate) writeback: Arc<Writeback>,
    /// Open log files.
    pub(crate) files: Arc<Files>,
    ready: AtomicUsize,
    stopped: AtomicUsize,
    abort: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(shards: u16, files_max: usize) -> io::Result<Self> {
        Ok(Self {
            shards: (0..shards)
                .map(|_| ShardShared::new())
                .collect::<Result<_, _>>()?,
            writeback: Arc::default(),
            files: Arc::new(Files::new(files_max, shards)),
            ready: AtomicUsize::new(0),
            stopped: AtomicUsize::new(0),
            abort: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    fn look(&self) {
        for shard in &self.shards {
            shard.send(Control::Look);
        }
    }

    /// One more shard is ready.
    pub(crate) fn one_ready(&self) {
        if self.ready.fetch_add(1, Ordering::SeqCst) + 1 == self.shards.len() {
            self.look();
        }
    }

    /// Whether all shards are ready.
    pub(crate) fn all_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst) >= self.shards.len()
    }

    /// One more shard has nothing in flight after a shutdown.
    pub(crate) fn one_stopped(&self) {
        if self.stopped.fetch_add(1, Ordering::SeqCst) + 1 == self.shards.len() {
            self.look();
        }
    }

    /// Whether all shards have stopped: only then may one end, since others may still need it.
    pub(crate) fn all_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst) >= self.shards.len()
    }

    /// Ends the process with a failure. The first reason counts.
    pub(crate) fn fail(&self, reason: String) {
        lock(&self.failure).get_or_insert(reason);
        self.abort();
    }

    /// Ends all shards now.
    pub(crate) fn abort(&self) {
        self.abort.store(true, Ordering::SeqCst);
        self.look();
    }

    /// Whether all shards are to end now.
    pub(crate) fn aborting(&self) -> bool {
        self.abort.load(Ordering::SeqCst)
    }

    /// Why the process fails.
    pub(crate) fn take_failure(&self) -> Option<String> {
        lock(&self.failure).take()
    }

    /// Asks all shards to end.
    pub(crate) fn shutdown(&self) {
        for shard in &self.shards {
            shard.send(Control::Shutdown);
        }
    }

    /// Open connections of the process.
    pub(crate) fn connections(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.connections.load(Ordering::Relaxed))
            .sum()
    }
}
