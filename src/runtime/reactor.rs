//! The loop of one shard. A turn: take completions, messages and commands as inputs, step the core
//! through all of them, end the turn, carry out all effects, hand over the messages, submit
//! everything in one system call, and sleep in it when there is nothing to do.

use crate::clock::OsClock;
use crate::config::RuntimeConfig;
use crate::core::{In, Out, ShardCore};
use crate::direct::DirectWrites;
use crate::disk::LogWrite;
use crate::framing::SharedBufs;
use crate::jobs::Jobs;
use crate::logfile::LogHandle;
use crate::mesh::{Item, Mesh};
use crate::net::Conns;
use crate::pace::Held;
use crate::ring::{Done, Op, Ring};
use crate::send::{CopyBufs, Joined};
use crate::shared::{Control, Shared};
use crate::splice::Pipes;
use flumen_base::{Clock, IdMap, Mono, Now, ShardId};
use flumen_shard::io::{Effect, Input, Token};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// For whom an operation runs in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// The connection in this slot.
    Conn(u32),
    /// The core's disk operation.
    Disk(Token),
    /// The listener of this index.
    Accept(usize),
    /// The shard's eventfd.
    Wake,
    /// What nobody waits for.
    Nobody,
}

/// Rounds of stepping in one turn, while effects complete at once and give new inputs.
const ROUNDS_MAX: usize = 4;
/// Completions taken in one round.
const COMPLETIONS_MAX: usize = 4096;
/// How long the end waits for the kernel to let go of buffers.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// Everything that one shard's loop owns.
pub(crate) struct Reactor<C: ShardCore> {
    pub(crate) shard: ShardId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: Arc<RuntimeConfig>,
    pub(crate) now: Now,
    pub(crate) ring: Ring<Owner>,
    pub(crate) inputs: VecDeque<In<C>>,
    pub(crate) conns: Conns,
    pub(crate) dirty: Vec<u32>,
    /// Connections that have used up what they may send in one turn.
    pub(crate) dirty_later: Vec<u32>,
    /// Memory for those of `dirty` without files.
    pub(crate) dirty_small: Vec<u32>,
    /// Bytes of files that may still leave in this turn.
    pub(crate) turn_left: usize,
    /// Log files in the address space.
    pub(crate) mapped: Vec<Weak<LogHandle>>,
    /// When one of them was used last.
    pub(crate) mapped_at: Mono,
    pub(crate) pipes: Pipes,
    pub(crate) copy_bufs: CopyBufs,
    pub(crate) joined: Joined,
    /// For writes of several buffers, one after the other.
    pub(crate) iov: Vec<libc::iovec>,
    pub(crate) direct: DirectWrites,
    pub(crate) recv_bufs: SharedBufs,
    /// Log writes were started in the ring since it was last submitted.
    pub(crate) writes_queued: bool,
    pub(crate) mesh: Mesh<C::Message>,
    /// Listeners of this shard, each with whether an accept is armed.
    pub(crate) listeners: Vec<(Rc<TcpListener>, bool)>,
    pub(crate) accept_at: Option<Mono>,
    /// Log files to be opened once there is room for them, and when to look.
    pub(crate) held_opens: Vec<(Owner, Op)>,
    pub(crate) open_at: Option<Mono>,
    /// Writes that wait for their time, and their bytes; one per partition.
    pub(crate) held_writes: Held<(Token, LogWrite, usize)>,
    pub(crate) stopping: bool,
    core: C,
    clock: OsClock,
    effects: Out<C>,
    jobs: Jobs<C>,
    wake_fd: Rc<OwnedFd>,
    metrics_asks: IdMap<u64, Sender<(ShardId, String)>>,
    metrics_next: u64,
    turns: u64,
    stop_by: Option<Mono>,
    is_ready: bool,
    is_stopped: bool,
    accepting: bool,
}

/// What [`Reactor::new`] needs.
pub(crate) struct Parts<C: ShardCore> {
    pub(crate) shard: ShardId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: Arc<RuntimeConfig>,
    pub(crate) clock: OsClock,
    pub(crate) mesh: Mesh<C::Message>,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) core: C,
    pub(crate) jobs: Jobs<C>,
}

impl<C: ShardCore> Reactor<C> {
    /// Makes the ring, on the thread that will run the loop.
    pub(crate) fn new(parts: Parts<C>) -> Result<Self, String> {
        let ring = Ring::new().map_err(|e| crate::probe::ring_error(&e))?;
        let own = &parts.shared.shards[parts.shard.index()];
        let fd = ring.duplicate_fd().map_err(|e| e.to_string())?;
        let _ = own.ring_fd.set(fd); // set by this thread only
        let wake_fd = Rc::new(own.wake_fd().map_err(|e| e.to_string())?);
        let mut reactor = Self {
            shard: parts.shard,
            shared: parts.shared,
            config: parts.config,
            now: parts.clock.now(),
            ring,
            inputs: VecDeque::new(),
            conns: Conns::default(),
            dirty: Vec::new(),
            dirty_later: Vec::new(),
            dirty_small: Vec::new(),
            turn_left: 0,
            mapped: Vec::new(),
            mapped_at: Mono(0),
            pipes: Pipes::default(),
            copy_bufs: CopyBufs::default(),
            joined: Joined::default(),
            iov: Vec::new(),
            direct: DirectWrites::default(),
            recv_bufs: SharedBufs::default(),
            writes_queued: false,
            mesh: parts.mesh,
            listeners: parts
                .listeners
                .into_iter()
                .map(|l| (Rc::new(l), false))
                .collect(),
            accept_at: None,
            held_opens: Vec::new(),
            open_at: None,
            held_writes: Held::default(),
            stopping: false,
            core: parts.core,
            clock: parts.clock,
            effects: Out::<C>::new(),
            jobs: parts.jobs,
            wake_fd,
            metrics_asks: IdMap::default(),
            metrics_next: 0,
            turns: 0,
            stop_by: None,
            is_ready: false,
            is_stopped: false,
            accepting: false,
        };
        reactor.arm_wake();
        Ok(reactor)
    }

    /// Runs until all shards have stopped or the process aborts.
    pub(crate) async fn run(mut self) -> Result<(), String> {
        let result = self.run_turns().await;
        self.close_all();
        self.ring.drain(DRAIN_MAX);
        result
    }

    async fn run_turns(&mut self) -> Result<(), String> {
        // The core's first effects (its recovery) come from a turn without inputs.
        self.core.end_turn(self.now, &mut self.effects);
        self.perform()?;
        while !self.is_over() {
            self.turn()?;
            if self.jobs.needs_turn() {
                glommio::executor().yield_task_queue_now().await;
            }
            self.jobs.collect(&mut self.inputs)?;
            self.rest()?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.shared.aborting() || (self.is_stopped && self.shared.all_stopped())
    }

    fn turn(&mut self) -> Result<(), String> {
        self.turns += 1;
        self.now = self.clock.now();
        self.go_on_sending();
        for _ in 0..ROUNDS_MAX {
            self.take_completions();
            self.take_messages();
            self.take_control();
            self.deliver_more();
            let came = self.receive_bulk();
            if !self.step_core()? {
                break;
            }
            // What the core is to do next may be an answer: a write has ended.
            self.drive_sends(self.inputs.is_empty());
            // Written while the caches have it, so that the next round receives into its memory.
            if came && std::mem::take(&mut self.writes_queued) {
                self.submit(None)?;
            }
        }
        self.drive_sends(true);
        self.run_timers();
        self.mesh.flush(&self.shared);
        for peer in self.mesh.take_bells() {
            if let Some(fd) = self.shared.shards[peer.index()].ring_fd.get() {
                self.ring.ring_doorbell(fd);
            }
        }
        self.resume_stalled();
        Ok(())
    }

    /// Steps the core through all inputs and carries out its effects; false if there was nothing to
    /// do.
    fn step_core(&mut self) -> Result<bool, String> {
        let due = self
            .core
            .next_deadline()
            .is_some_and(|deadline| deadline <= self.now.mono);
        if self.inputs.is_empty() && !due {
            return Ok(false);
        }
        while let Some(input) = self.inputs.pop_front() {
            self.core.step(self.now, input, &mut self.effects);
        }
        if due {
            self.core.tick(self.now, &mut self.effects);
        }
        self.core.end_turn(self.now, &mut self.effects);
        self.perform()?;
        Ok(true)
    }

    fn perform(&mut self) -> Result<(), String> {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain() {
            match effect {
                Effect::Send(id, response) => self.queue_response(id, response),
                Effect::SetReading(id, reading) => self.set_reading(id, reading),
                Effect::CloseConn(id, reason) => self.close_after_sends(id, reason),
                Effect::Io(token, op) => self.start_io(token, op),
                Effect::Full(file) => self.shared.files.full(&file),
                Effect::Job(token, job) => self.jobs.add(token, job)?,
                Effect::Mesh(to, message) => self.send_mesh(to, message)?,
                Effect::Metrics(token, text) => self.answer_metrics(token, text),
                Effect::Ready => self.on_ready(),
                Effect::Stopped => self.on_stopped(),
                Effect::Fatal(reason) => return Err(reason),
            }
        }
        self.effects = effects;
        Ok(())
    }

    fn send_mesh(&mut self, to: ShardId, message: C::Message) -> Result<(), String> {
        match self.mesh.send(to, Item::Core(message)) {
            Err(Item::Core(message)) if to == self.shard => {
                self.inputs.push_back(Input::Mesh(to, message));
                Ok(())
            }
            Err(_) => Err(format!("message to shard {to}, which does not exist")),
            Ok(()) => Ok(()),
        }
    }

    /// Bytes of frames that the core works on.
    pub(crate) fn core_frame_bytes(&self) -> usize {
        self.core.frame_bytes()
    }

    fn on_ready(&mut self) {
        if !std::mem::replace(&mut self.is_ready, true) {
            self.shared.one_ready();
        }
    }

    fn on_stopped(&mut self) {
        if !std::mem::replace(&mut self.is_stopped, true) {
            self.shared.one_stopped();
        }
    }

    fn answer_metrics(&mut self, token: Token, text: String) {
        if let Some(asker) = self.metrics_asks.remove(&token.0) {
            let _ = asker.send((self.shard, text + &self.own_metrics())); // it may have given up
        }
    }

    fn own_metrics(&self) -> String {
        let (sockets, partial) = self.conns.gauges();
        let mut text = String::new();
        let values = [
            (
                "flumen_sockets",
                "gauge",
                "Sockets held, closing ones included.",
                sockets as u64,
            ),
            (
                "flumen_partial_frame_bytes",
                "gauge",
                "Bytes held of requests that are not whole yet.",
                partial as u64,
            ),
            (
                "flumen_ring_operations",
                "gauge",
                "Operations in the shard's io_uring ring.",
                self.ring.live() as u64,
            ),
            (
                "flumen_mesh_waiting",
                "gauge",
                "Messages to other shards that wait for room.",
                self.mesh.waiting() as u64,
            ),
            (
                "flumen_jobs_pending",
                "gauge",
                "Background jobs waiting or running.",
                self.jobs.pending() as u64,
            ),
            (
                "flumen_open_log_files",
                "gauge",
                "Descriptors of log files of the whole process.",
                self.shared.files.open() as u64,
            ),
            (
                "flumen_turns_total",
                "counter",
                "Turns of the shard's loop.",
                self.turns,
            ),
        ];
        for (name, kind, help, value) in values {
            let _ = writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{shard=\"{}\"}} {value}",
                self.shard
            );
        }
        text
    }

    fn arm_wake(&mut self) {
        let fd = Rc::clone(&self.wake_fd);
        let count = Box::default();
        self.ring.start(Owner::Wake, Op::Wake { fd, count });
    }

    fn take_completions(&mut self) {
        for _ in 0..COMPLETIONS_MAX {
            match self.ring.next() {
                None => break,
                Some(Done::Accepted {
                    owner: Owner::Accept(listener),
                    fd,
                }) => self.on_accepted(listener, fd),
                Some(Done::Accepted { .. }) => {}
                Some(Done::Op {
                    owner,
                    op,
                    result,
                    sync,
                }) => match owner {
                    Owner::Wake => self.arm_wake(),
                    Owner::Accept(listener) => self.on_accept_end(listener, result),
                    Owner::Nobody => {}
                    Owner::Disk(token) => self.on_disk(token, op, result, sync),
                    Owner::Conn(index) => self.on_conn_op(index, op, result),
                },
            }
        }
    }

    fn on_conn_op(&mut self, index: u32, op: Op, result: std::io::Result<u32>) {
        if let Some(conn) = self.conns.get(index) {
            conn.ops = conn.ops.saturating_sub(1);
        }
        match op {
            Op::Recv { buf, ready, .. } => {
                self.on_recv(index, (buf, ready), result.map(|n| n as usize));
            }
            Op::Send { bufs, .. } => {
                drop(bufs); // so that buffers of the pool have one owner again
                self.on_send(index, result);
            }
            Op::PollOut { .. } => self.on_writable(index),
            Op::Read { log, buf, .. } => {
                drop(log);
                self.on_cold_read(index, buf, result);
            }
            Op::SpliceIn { pipe, .. } => self.on_splice_in(index, pipe, result),
            Op::OpenForSend { file, path, tries } => {
                self.on_slice_opened(index, (file, path, tries), result);
            }
            _ => {} // not for connections
        }
        self.free_conn(index);
    }

    fn take_messages(&mut self) {
        let mut opened = Vec::new();
        let inputs = &mut self.inputs;
        self.mesh.receive(&self.shared, |from, item| match item {
            Item::Core(message) => inputs.push_back(Input::Mesh(from, message)),
            Item::Conn(socket, info) => opened.push((socket, info)),
        });
        for (socket, info) in opened {
            self.open_conn(socket, info);
        }
    }

    fn take_control(&mut self) {
        let own = &self.shared.shards[self.shard.index()];
        if !own.has_control() {
            return;
        }
        for control in own.take_control() {
            match control {
                Control::Shutdown => self.begin_shutdown(),
                Control::Metrics(asker) => {
                    self.metrics_next += 1;
                    self.metrics_asks.insert(self.metrics_next, asker);
                    self.inputs
                        .push_back(Input::MetricsWanted(Token(self.metrics_next)));
                }
                Control::Look => {
                    // Clients are taken once every shard can serve them; until then they wait in
                    // the backlog.
                    if self.shared.all_ready() && !self.accepting && !self.stopping {
                        self.accepting = true;
                        self.start_accepting();
                    }
                }
            }
        }
    }

    fn begin_shutdown(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        for (listener, _) in &self.listeners {
            crate::net::stop_listening(listener);
        }
        self.accept_at = None;
        self.stop_by = Some(self.now.mono + self.config.shutdown_max);
        self.tell_all_sent();
        self.inputs.push_back(Input::Shutdown);
    }

    fn run_timers(&mut self) {
        self.sweep_idle();
        self.unmap_idle();
        self.open_held();
        self.begin_held_writes();
        if self.accept_at.is_some_and(|at| at <= self.now.mono) {
            self.accept_at = None;
            self.start_accepting();
        }
        if self.stop_by.is_some_and(|by| by <= self.now.mono) && !self.shared.aborting() {
            tracing::warn!(shard = %self.shard, "shutdown takes too long: ending anyway");
            self.shared.abort();
        }
    }

    /// Submits, and sleeps if there is nothing to do.
    fn rest(&mut self) -> Result<(), String> {
        let own = &self.shared.shards[self.shard.index()];
        let jobs_due = self.jobs.needs_turn() || self.jobs.has_ended();
        let inputs_due = !self.inputs.is_empty() || self.has_undelivered() || self.has_readable();
        let sends_due = !self.dirty.is_empty() || !self.dirty_later.is_empty();
        let busy = inputs_due || sends_due || jobs_due;
        let wait = if busy || self.ring.has_completions() {
            None
        } else {
            own.start_sleeping();
            let work = self.mesh.has_incoming()
                || self.mesh.has_room()
                || own.has_control()
                || self.jobs.has_ended()
                || self.is_over();
            if work { None } else { self.until_deadline() }
        };
        self.writes_queued = false;
        let result = self.submit(wait);
        self.shared.shards[self.shard.index()].awake();
        result
    }

    fn submit(&mut self, wait: Option<Option<Duration>>) -> Result<(), String> {
        let result = self.ring.submit(wait);
        result.map_err(|e| format!("io_uring_enter: {e}"))
    }

    /// How long to sleep: `None` not at all, `Some(None)` until something happens.
    fn until_deadline(&self) -> Option<Option<Duration>> {
        let deadlines = [
            self.core.next_deadline(),
            self.next_sweep(),
            self.next_unmap(),
            self.accept_at,
            self.open_at,
            self.held_writes.next_at(),
            self.stop_by,
        ];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            return Some(None);
        };
        let left = deadline - self.clock.now().mono;
        (!left.is_zero()).then_some(Some(left))
    }
}
