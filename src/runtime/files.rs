//! How many log files are open at a time, and where they are closed.
//!
//! A log file is opened on first use and stays open; with thousands of partitions that would be
//! more than the process may. So one thread closes those that were not used lately when what is
//! open comes near the limit. Only a file that nobody uses and whose writes were synced may go:
//! else an error of the kernel's write-back could be forgotten with the file. Where such a sync
//! fails, the file stays broken: what opens it again fails.
//!
//! The same thread closes all handles, whoever lets go of them last: the kernel frees the pages of
//! a removed file there, which is no work for a shard's core. And it has XFS take back what that
//! allocated behind the end of full segments: here no sync of a segment is in its way.

use crate::jobs::HelperCpus;
use crate::logfile::{LogHandle, Remains};
use crate::sys::FileSystem;
use flumen_base::LogFile;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

/// Descriptors that are neither log files nor sockets of clients: the process's own, and for each
/// shard those of its rings, pipes and jobs.
const OWN: usize = 96;
const OWN_PER_SHARD: usize = 160;
/// Log files may always be so many.
const OPEN_MIN: usize = 64;
/// One part in so many of what may be open is kept free.
const AIM_BELOW: usize = 8;
/// Files that are synced at the same time: the file system can make one commit of them.
const SYNCS: usize = 32;
/// More than twice what is open, and so many, are not remembered.
const FORGET_ABOVE: usize = 1024;

/// What the thread is told.
enum Order {
    Close(Remains),
    GiveBack(PathBuf),
    Sweep,
    End,
}

/// The open log files of the process.
pub(crate) struct Files {
    /// What log files and clients' sockets share.
    room: usize,
    open: AtomicUsize,
    /// About to be opened.
    opening: AtomicUsize,
    /// In the order in which they were opened or last found in use.
    known: Mutex<VecDeque<Weak<LogFile>>>,
    sweeping: AtomicBool,
    orders: OnceLock<Sender<Order>>,
}

impl Files {
    /// For a process that may have so many files open.
    pub(crate) fn new(files_max: usize, shards: u16) -> Self {
        let own = OWN + OWN_PER_SHARD * usize::from(shards);
        Self {
            room: files_max.saturating_sub(own.min(files_max / 2)),
            open: AtomicUsize::new(0),
            opening: AtomicUsize::new(0),
            known: Mutex::default(),
            sweeping: AtomicBool::new(false),
            orders: OnceLock::new(),
        }
    }

    /// Descriptors of log files.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many may be open beside so many clients.
    fn budget(&self, connections: usize) -> usize {
        self.room.saturating_sub(connections).max(OPEN_MIN)
    }

    /// One more descriptor.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// A log file has been opened: it may be closed when it is not used.
    pub(crate) fn add(&self, file: &Arc<LogFile>) {
        let mut known = self.lock();
        if known.len() >= self.open() * 2 + FORGET_ABOVE {
            // Of files that are gone for good.
            known.retain(|file| file.strong_count() > 0);
        }
        known.push_back(Arc::downgrade(file));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Weak<LogFile>>> {
        // Valid after every single statement.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has files closed if there are nearly too many beside so many clients.
    pub(crate) fn check(&self, connections: usize) {
        if self.open() > self.aim(connections) {
            self.sweep_soon();
        }
    }

    /// Takes room for one more file; else it must wait until others are closed.
    pub(crate) fn begin_opening(&self, connections: usize) -> bool {
        self.check(connections);
        let opening = self.opening.fetch_add(1, Ordering::Relaxed);
        let fits = self.open() + opening < self.budget(connections);
        if !fits {
            self.end_opening();
        }
        fits
    }

    /// A file was opened, or could not be.
    pub(crate) fn end_opening(&self) {
        self.opening.fetch_sub(1, Ordering::Relaxed);
    }

    /// What a sweep leaves open, so that there is room for the next.
    fn aim(&self, connections: usize) -> usize {
        let budget = self.budget(connections);
        budget - budget / AIM_BELOW
    }

    /// Has some closed in any case.
    pub(crate) fn sweep_soon(&self) {
        if !self.sweeping.swap(true, Ordering::SeqCst) {
            self.order(Order::Sweep);
        }
    }

    /// Closes what is left of a handle, elsewhere.
    pub(crate) fn close(&self, remains: Remains) {
        self.open
            .fetch_sub(remains.descriptors(), Ordering::Relaxed);
        self.order(Order::Close(remains));
    }

    /// Nothing more will be written to this file. XFS keeps blocks behind the end of what grows, up
    /// to as many again as the file has, until a descriptor that could write is closed for the
    /// first time (`xfs_file_release`): the file's own stays open, and its seal may be far.
    pub(crate) fn full(&self, file: &LogFile) {
        let handle = LogHandle::of(file);
        if handle.is_some_and(|handle| handle.is_on(FileSystem::Xfs)) {
            self.order(Order::GiveBack(file.path().to_owned()));
        }
    }

    fn order(&self, order: Order) {
        if let Some(orders) = self.orders.get() {
            let _ = orders.send(order); // the process ends: what the order holds is dropped here
        }
    }

    /// Starts the thread.
    pub(crate) fn start(
        self: &Arc<Self>,
        cpus: Arc<HelperCpus>,
        connections: impl Fn() -> usize + Send + 'static,
    ) -> io::Result<Closer> {
        let (sender, orders) = channel();
        let _ = self.orders.set(sender.clone()); // started once
        let own = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("flumen-files".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                cpus.pin_current();
                own.run(&orders, &connections);
            })?;
        Ok(Closer { sender, thread })
    }

    fn run(&self, orders: &Receiver<Order>, connections: &dyn Fn() -> usize) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Close(remains) => remains.close(),
                Order::GiveBack(path) => give_back(&path),
                Order::Sweep => {
                    // Orders that come from now on may see what this sweep has passed.
                    self.sweeping.store(false, Ordering::SeqCst);
                    self.sweep(connections);
                }
                Order::End => return,
            }
        }
    }

    /// Closes files that were not used since the last look, the oldest first.
    fn sweep(&self, connections: &dyn Fn() -> usize) {
        let aim = self.aim(connections());
        // First without those that somebody is about to use.
        for leased in [false, true] {
            // Each is looked at twice at most: once for its mark, once without.
            let mut looks = self.lock().len() * 2;
            while self.open() > aim && looks > 0 {
                let victims = self.idle_files(&mut looks, leased);
                if victims.is_empty() {
                    break;
                }
                flush_all(&victims);
                for file in victims {
                    if !close_idle(&file) {
                        self.lock().push_back(Arc::downgrade(&file));
                    }
                }
            }
        }
        if self.open() > aim {
            let open = self.open();
            tracing::debug!(
                open,
                aim,
                "log files in use take more room than they should"
            );
        }
    }

    /// Some files that were not used since the last look; takes them off the list.
    fn idle_files(&self, looks: &mut usize, leased: bool) -> Vec<Arc<LogFile>> {
        let mut idle = Vec::new();
        while idle.len() < SYNCS && *looks > 0 {
            *looks -= 1;
            let Some(weak) = self.lock().pop_front() else {
                break;
            };
            let Some(file) = weak.upgrade() else {
                continue;
            };
            match is_unused(&file, leased) {
                Some(true) => idle.push(file),
                Some(false) => self.lock().push_back(weak),
                None => {} // it is closed
            }
        }
        idle
    }
}

/// Opens a file for writing, and closes it.
fn give_back(path: &Path) {
    match File::options().write(true).open(path) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {} // retired meanwhile
        Err(error) => {
            let path = path.display();
            tracing::debug!(%path, %error, "what is allocated behind its end stays");
        }
    }
}

/// Whether a file was not used since the last call; `None` if it is not open. One that somebody
/// has leased only if `leased` says so, and not while it is sent from where it is mapped.
fn is_unused(file: &Arc<LogFile>, leased: bool) -> Option<bool> {
    let handle = file.handle().get::<LogHandle>()?;
    // Its log has one, and who asks.
    let wanted = Arc::strong_count(file) > 2;
    let free = !wanted || (leased && !handle.is_mapped());
    Some(!handle.take_used() && free)
}

/// Syncs what was written to them.
fn flush_all(files: &[Arc<LogFile>]) {
    let flush = |file: &Arc<LogFile>| {
        let handle = file.handle().get::<LogHandle>();
        if let Some(handle) = handle.filter(|handle| !handle.is_idle())
            && let Err(error) = handle.flush()
        {
            tracing::error!(path = %file.path().display(), %error, "a log file's sync failed");
            file.set_broken();
        }
    };
    std::thread::scope(|scope| {
        for file in files {
            let thread = std::thread::Builder::new().stack_size(64 << 10);
            if thread.spawn_scoped(scope, || flush(file)).is_err() {
                flush(file);
            }
        }
    });
}

/// Closes a file if nobody has it and nothing is lost with it.
fn close_idle(file: &Arc<LogFile>) -> bool {
    file.handle()
        .take_if::<LogHandle>(|handle| handle.is_idle())
}

/// The running thread.
pub(crate) struct Closer {
    sender: Sender<Order>,
    thread: JoinHandle<()>,
}

impl Closer {
    /// Ends it, once all shards have ended.
    pub(crate) fn stop(self) {
        let _ = self.sender.send(Order::End); // it has ended
        if self.thread.join().is_err() {
            tracing::warn!("the thread that closes log files panicked");
        }
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod tests;
