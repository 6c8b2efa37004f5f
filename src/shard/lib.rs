//! The brain of one core: a synchronous state machine. Inputs and the time go in, effects come out;
//! it never reads a clock, draws from the OS, waits, or touches a file or socket.
//!
//! ```text
//! step(Frame)  conn -> api::HANDLERS -> handler -> answer now, or
//!                                         ops for partitions and groups of any shard (ops), or
//!                                         the whole request to the shard that decides (mesh)
//! step(Mesh)   ops of other shards, their results, forwarded requests, new images
//! step(IoDone, JobDone)  what was parked under that token goes on
//! end_turn     one write per partition, one message per shard, the quorum's effects
//! tick         deadlines: long polls, groups, housekeeping, the cleaner
//! ```
//! A shard owns the partitions that [`flumen_base::TopicPartition::shard`] gives it and the groups
//! whose `__consumer_offsets` partition it owns; shard 0 also runs the controller. What must not be
//! in here: sockets, rings, files, threads (the runtime), formats of batches and files
//! (`flumen-log`), rules of groups (`flumen-coordinator`) and of metadata (`flumen-quorum`), bytes
//! of messages (`flumen-wire`).
//!
//! Start reading with [`Shard::step`], then `api/produce.rs`, `partition.rs`, and `flumen-log`'s
//! append.
#![forbid(unsafe_code)]

mod answers;
pub mod api;
mod checkpoints;
mod cleaner;
mod config;
mod conn;
mod controller;
mod created;
mod directories;
mod dirs;
mod forward;
mod found;
mod group_commit;
mod group_metadata;
mod group_ops;
mod groups;
mod homes;
mod housekeeping;
mod image;
mod in_order;
mod incoming;
pub mod io;
pub mod jobs;
mod life;
mod loads;
mod logs;
mod lookups;
pub mod mesh;
mod metrics;
mod ops;
mod outbox;
mod partition;
mod partitions;
#[cfg(any(test, feature = "testing"))]
mod probe;
mod reads;
mod relocate;
mod replay;
mod request;
mod seals;
mod session;
mod share_acquire;
mod share_calls;
mod share_persist;
mod share_rules;
mod share_sessions;
mod share_states;
mod shares;
mod slab;
mod streams_topics;
mod tails;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(any(test, feature = "testing"))]
mod testing_calls;
#[cfg(any(test, feature = "testing"))]
mod testing_io;
mod timers;
mod turn;
mod txns;
mod watch;
mod whole_batches;
mod writes;

pub use config::{LogDir, LogDirState, ShardConfig, ShardInit};
pub use found::settle_duplicates;
pub use jobs::{Job, JobOutput};
#[cfg(any(test, feature = "testing"))]
pub use probe::Probe;
pub use turn::Turn;

use crate::conn::Conn;
use crate::controller::Controller;
use crate::groups::Groups;
use crate::io::{ConnId, Effects, Input, IoFailure, IoOutput, Token};
use crate::metrics::Metrics;
use crate::ops::Gather;
use crate::outbox::Outbox;
use crate::partitions::{Partitions, Pending};
use crate::request::{Reply, ResponseMemory};
use crate::session::Sessions;
use crate::slab::Slab;
use crate::timers::{TimerKey, Timers};
use flumen_base::{IdMap, Mono, Now, Prng, ShardId, TopicPartition};
use flumen_quorum::Image;
use flumen_settings::BrokerConfig;
use std::sync::Arc;

/// An answer that leaves at the end of a turn may cause another change; after so many rounds the
/// rest waits for the next turn.
const TURN_ROUNDS_MAX: usize = 8;

/// One shard. Owned by one thread (or by the simulator); all calls come from there.
pub struct Shard {
    id: ShardId,
    shards: u16,
    config: Arc<ShardConfig>,
    /// The settings with the image's dynamic ones laid over them.
    broker: Arc<BrokerConfig>,
    prng: Prng,
    image: Arc<Image>,
    /// Whether the image came from shard 0 (and not with the start).
    image_followed: bool,
    /// The last number given to a job, a load of groups or a forwarded request.
    last_id: u64,
    conns: IdMap<ConnId, Conn>,
    /// Bytes of frames in work, of all connections.
    frame_bytes: usize,
    /// Connections that wait until fewer bytes are in work.
    held_back: Vec<ConnId>,
    /// Requests that another shard handles.
    forwards: IdMap<u64, Reply>,
    gathers: Slab<Gather>,
    /// Lists of slots of produce requests that were answered, empty.
    spare_slots: Vec<Vec<api::produce::Slot>>,
    responses: ResponseMemory,
    fetches: Slab<api::fetch::Fetch>,
    fetch_lists: api::fetch_answer::FetchLists,
    sessions: Sessions,
    partitions: Partitions,
    dirs: dirs::Dirs,
    /// What is done again after a pause.
    retries: IdMap<u64, dirs::Retry>,
    outbox: Outbox,
    pending: Slab<Pending>,
    timers: Timers,
    groups: Groups,
    txns: txns::Txns,
    /// Partitions of coordinators' topics that are being read.
    replays: IdMap<u64, replay::Replay>,
    share_states: share_states::ShareStatesHome,
    share_calls: share_calls::ShareCalls,
    shares: shares::Shares,
    share_sessions: share_sessions::ShareSessions,
    share_fetches: Slab<api::share_fetch::ShareFetch>,
    /// Produce requests that wait to be verified again.
    unverified: IdMap<u64, (Reply, api::produce::ProduceGather)>,
    /// Transactional produce requests by connection.
    lines: IdMap<ConnId, api::verify::Line>,
    /// The other requests of transactions by connection.
    in_order: IdMap<ConnId, in_order::InOrder>,
    producer_ids: api::init_producer_id::ProducerIds,
    /// On shard 0 only.
    controller: Option<Controller>,
    tails: tails::Tails,
    cleaner: cleaner::Cleaner,
    metrics: Metrics,
    life: life::Life,
    /// Housekeeping that is in the middle of its partitions.
    sweeps: std::collections::BTreeMap<timers::Task, housekeeping::Sweep>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("id", &self.id)
            .field("conns", &self.conns.len())
            .field("partitions", &self.partitions.len())
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// A shard with the partitions that the image gives it, none of them loaded. Call
    /// [`Shard::end_turn`] at once: the jobs that load them leave there. [`Effect::Ready`] follows
    /// when it serves.
    pub fn new(init: ShardInit) -> Self {
        let ShardInit {
            id, shards, config, ..
        } = init;
        let shards = shards.max(1);
        let broker = image::effective_broker(&config.broker, &init.image);
        let slots = broker.fetch.max_incremental_fetch_session_cache_slots;
        let slots = usize::try_from(slots).unwrap_or(0) / usize::from(shards);
        let mut prng = Prng::new(init.seed);
        let groups = Groups::new(&broker, Prng::new(prng.next_u64()));
        let txns = txns::Txns::new(&broker, &init.image);
        let dirs = config.log_dirs.len();
        let share_states = share_states::ShareStatesHome::new(&broker);
        let controller = init
            .quorum
            .map(|quorum| Controller::new(quorum, shards, dirs, Prng::new(prng.next_u64())));
        let mut shard = Self {
            id,
            shards,
            broker: Arc::new(broker),
            prng,
            image: init.image,
            image_followed: false,
            last_id: 0,
            conns: IdMap::default(),
            frame_bytes: 0,
            held_back: Vec::new(),
            forwards: IdMap::default(),
            gathers: Slab::default(),
            spare_slots: Vec::new(),
            responses: ResponseMemory::default(),
            fetches: Slab::default(),
            fetch_lists: api::fetch_answer::FetchLists::default(),
            sessions: Sessions::new(id, shards, slots),
            dirs: dirs::Dirs::new(&init.log_dirs),
            retries: IdMap::default(),
            partitions: Partitions::new(id, init.log_dirs),
            outbox: Outbox::new(id, shards),
            pending: Slab::default(),
            timers: Timers::default(),
            groups,
            txns,
            replays: IdMap::default(),
            share_states,
            share_calls: share_calls::ShareCalls::default(),
            shares: shares::Shares::default(),
            share_sessions: share_sessions::ShareSessions::default(),
            share_fetches: Slab::default(),
            unverified: IdMap::default(),
            lines: IdMap::default(),
            in_order: IdMap::default(),
            producer_ids: api::init_producer_id::ProducerIds::default(),
            controller,
            tails: tails::Tails::default(),
            cleaner: cleaner::Cleaner::default(),
            metrics: Metrics::default(),
            life: life::Life::Starting { registered: false },
            sweeps: std::collections::BTreeMap::new(),
            config,
        };
        if shard.id == ShardId::FIRST {
            let found = shard.partitions.found.clone();
            let dirs = shard.config.log_dirs.iter().zip(found.iter());
            let dirs = dirs.filter(|(_, state)| !state.left_behind.is_empty());
            shard.partitions.left_behind = dirs.map(|(dir, _)| dir.path.clone()).collect();
        }
        shard.adopt_all_partitions();
        shard.arm_ready(init.now);
        shard.arm_housekeeping(init.now);
        shard.arm_cleaner(init.now);
        shard.arm_space(init.now);
        shard
    }

    /// Takes one input. Effects are appended to `fx`; those that are batched per turn leave with
    /// [`Shard::end_turn`].
    pub fn step(&mut self, now: Now, input: Input, fx: &mut Effects) {
        let turn = &mut Turn { now, fx };
        match input {
            Input::Frame(conn, frame) => self.on_frame(turn, conn, frame),
            Input::IoDone(token, result) => self.on_io(turn, token, result),
            Input::Mesh(from, message) => self.on_message(turn, from, message),
            Input::Sent(conn, count) => {
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.sent(conn, count, turn.fx);
                }
            }
            Input::JobDone(token, output) => self.on_job(turn, token, *output),
            Input::SliceFailed(failure) => self.slice_failed(turn, &failure),
            Input::ConnOpened(conn, info) => self.on_conn_opened(turn, conn, info),
            Input::ConnClosed(conn) => self.on_conn_closed(turn, conn),
            Input::MetricsWanted(token) => self.metrics_wanted(turn, token),
            Input::Shutdown => self.on_shutdown(turn),
        }
        self.drain_results(turn);
    }

    /// Bytes of frames in work, of all connections.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Ends a turn: writes, messages and the quorum's effects leave. Bounded by what the turn's
    /// steps left behind.
    pub fn end_turn(&mut self, now: Now, fx: &mut Effects) {
        let turn = &mut Turn { now, fx };
        for _ in 0..TURN_ROUNDS_MAX {
            self.poll_controller(turn);
            self.poll_groups(turn);
            self.poll_txns(turn);
            self.poll_share_states(turn);
            self.drain_results(turn);
            if self.groups.is_quiet() && self.txns.out.is_empty() {
                break;
            }
        }
        self.start_loads(turn);
        self.write_dirty(turn);
        self.outbox.flush(turn);
        self.arm_deadlines();
        self.arm_txns();
        self.check_life(turn);
    }

    /// Handles all deadlines that have passed. Call [`Shard::end_turn`] afterwards.
    pub fn tick(&mut self, now: Now, fx: &mut Effects) {
        let turn = &mut Turn { now, fx };
        while let Some(key) = self.timers.pop_due(now.mono) {
            match key {
                TimerKey::Fetch(gather) => self.fetch_timed_out(turn, gather),
                TimerKey::Groups => self.tick_groups(turn),
                TimerKey::Housekeeping(task) => self.run_housekeeping(turn, task),
                TimerKey::Unlink(n) => self.unlink_due(turn, n),
                TimerKey::Txns => self.tick_txns(turn),
                TimerKey::Replay(n) => self.replay_due(turn, n),
                TimerKey::PruneShareStates => self.prune_share_states(turn),
                TimerKey::ShareLocks(n) => self.share_locks_due(turn, n),
                TimerKey::ShareFetch(n) => self.share_fetch_timed_out(turn, n),
                TimerKey::Verify(n) => self.verify_again(turn, n),
                TimerKey::Seal(tp) => self.seal_due(turn, tp),
                TimerKey::Gather(tp) => self.gather_due(tp),
                TimerKey::Move(tp) => self.copy_slice(turn, tp),
                TimerKey::Space => self.look_at_space(turn),
                TimerKey::Retry(n) => self.retry_due(turn, n),
                TimerKey::Reload(n) => self.reload_due(turn, n),
                TimerKey::Cleaner => self.cleaner_due(turn),
                TimerKey::Again(n) => self.again_due(turn, n),
                TimerKey::ReadyBy => self.ready_by(),
                TimerKey::Patience(tp) => self.patience_over(tp),
                TimerKey::Shutdown => self.life_deadline(turn),
            }
            self.drain_results(turn);
        }
    }

    /// When [`Shard::tick`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// A number that was not used before, for jobs, loads of groups and forwarded requests.
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Parks `what` and gives its token.
    fn park(&mut self, what: Pending) -> Token {
        Token(self.pending.insert(what))
    }

    /// The shard that owns a partition.
    fn owner(&self, tp: TopicPartition) -> ShardId {
        if self.shards == 1 {
            return self.id; // without dividing
        }
        tp.shard(self.shards)
    }

    fn on_io(&mut self, turn: &mut Turn<'_>, token: Token, result: Result<IoOutput, IoFailure>) {
        let Some(pending) = self.pending.remove(token.0) else {
            return;
        };
        if let Err(failure) = &result {
            tracing::error!(shard = self.id.0, %failure, "disk operation failed");
        }
        match pending {
            Pending::Write(tp) => {
                let bufs = match result {
                    Ok(IoOutput::Written(bufs)) => Ok(bufs),
                    Ok(_) => Ok(Vec::new()),
                    Err(failure) => Err(failure),
                };
                self.write_done(turn, tp, bufs);
            }
            Pending::OpenForSwap(tp) => self.opened_for_swap(turn, tp, result.is_ok()),
            Pending::Sync(tp, end) => self.sync_done(turn, tp, end, &result),
            Pending::Scan(scan) => self.scan_done(turn, *scan, result),
            Pending::QuorumAppend => self.quorum_append_done(turn.now, result),
            Pending::Replay(n) => self.replay_read_done(turn, n, result),
            Pending::ShareRead(n) => self.share_read_done(turn, n, result),
            Pending::Job(_) => {}
        }
    }

    fn on_job(&mut self, turn: &mut Turn<'_>, token: Token, output: JobOutput) {
        if let Some(Pending::Job(job)) = self.pending.remove(token.0) {
            self.job_done(turn, job, output);
        }
    }

    fn on_message(&mut self, turn: &mut Turn<'_>, from: ShardId, message: mesh::Message) {
        use mesh::Message as M;
        match message {
            M::Batch(batch) => self.on_batch(turn, from, batch),
            M::Forward(n, request) => self.on_forwarded(turn, from, n, *request),
            M::Forwarded(n, answer) => self.on_forward_answered(turn, n, answer.map(|a| *a)),
            M::ForwardedClose(n, reason) => self.on_forward_close(turn, n, reason),
            M::Image(image, delta) => self.apply_image(turn, image, &delta),
            M::Applied(version) => self.on_applied(turn, from, version),
            M::Registered => self.life.registered(),
            M::Checkpoint(lines) => self.on_checkpoint(from, lines),
            M::Cleaned(line) => self.on_cleaned(turn, from, *line),
            M::LogsClosed(lines) => self.on_logs_closed(turn, from, lines),
            M::DirFailed(n, reason) => self.on_dir_failed(turn, n, &reason),
            M::DirFull(n) => self.on_dir_full(turn, n),
            M::DirRoom(n, full) => self.on_dir_room(n, full),
            M::DirGrant(n, bytes) => self.dirs.grant(n, bytes),
            M::Moved(tp, line) => self.on_moved(turn, from, tp, *line),
        }
    }
}
