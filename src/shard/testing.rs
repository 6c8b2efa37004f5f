//! A driver that runs shards in one thread over an in-memory disk, deterministic by its seed: for
//! the tests of this crate and for the simulator.
//!
//! Disk operations, jobs and messages wait in queues; each step takes one of them by chance
//! (messages of a pair of shards keep their order, so do operations on one file), so that every
//! order that the real runtime may give can come. Time moves only when nothing else can, or when
//! the test says so.

use crate::io::{CloseReason, ConnId, ConnInfo, DiskOp, Effect, Effects, Input, IoFailure, Token};
use crate::jobs::Job;
use crate::mesh::Message;
pub use crate::testing_calls::{create_request, each_shape, produce_request};
pub use crate::testing_io::{decode_answer, file_of, read_response, run_op};
use crate::{LogDir, LogDirState, Shard, ShardConfig, ShardInit, settle_duplicates};
use bytes::Bytes;
use flumen_base::{Disk, Mono, Now, Prng, ShardId, Uuid};
use flumen_log::testing::MemDisk;
use flumen_log::testing_dirs::Faults;
use flumen_quorum::{Quorum, QuorumConfig};
use flumen_settings::BrokerConfig;
use flumen_wire::header::{RequestHeader, write_request_header};
use flumen_wire::{Message as WireMessage, Request, Writer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A connection of the driver: its shard, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client {
    /// The shard that serves it.
    pub shard: ShardId,
    /// Its number.
    pub conn: ConnId,
}

/// Directory of the metadata log.
const METADATA_DIR: &str = "__cluster_metadata-0";

/// Disk work that waits for its turn.
#[derive(Debug)]
enum Work {
    Io(Token, DiskOp),
    Job(Token, Job),
}

/// All shards of one node and what goes on between them.
pub struct Driver {
    /// The disk; it survives [`Driver::crash`].
    pub disk: MemDisk,
    /// Current time.
    pub now: Now,
    /// Everything random comes from here.
    pub prng: Prng,
    broker: BrokerConfig,
    count: u16,
    shards: Vec<Shard>,
    /// Effects per shard of the turn that has not ended.
    fx: Vec<Effects>,
    /// Disk work per shard.
    work: Vec<VecDeque<Work>>,
    /// Messages by (from, to).
    links: BTreeMap<(u16, u16), VecDeque<Message>>,
    answers: BTreeMap<Client, VecDeque<Bytes>>,
    closed: BTreeMap<Client, CloseReason>,
    /// Connections that ended because an answer's records could not be read.
    pub cut_short: BTreeSet<Client>,
    ready: Vec<bool>,
    stopped: Vec<bool>,
    /// Why the process ended, if it did.
    pub fatal: Option<String>,
    last_conn: u64,
    last_correlation: i32,
    /// Steps done, for traces.
    pub steps: u64,
    /// When set, so many percent of the writes of the hot path fail without harm to the disk.
    pub io_failures_percent: u64,
    /// What fails of the disk; it survives a crash, too.
    pub faults: Faults,
}

impl Driver {
    /// Starts `count` shards with these settings on a disk (which may hold what a run before left).
    ///
    /// # Panics
    /// If the metadata on the disk can't be loaded: the test is over then.
    pub fn start(count: u16, seed: u64, broker: BrokerConfig, disk: MemDisk) -> Self {
        let mut driver = Self {
            disk,
            now: Now {
                mono: Mono(1_000_000_000),
                wall_ms: 1_700_000_000_000,
            },
            prng: Prng::new(seed),
            broker,
            count,
            shards: Vec::new(),
            fx: Vec::new(),
            work: Vec::new(),
            links: BTreeMap::new(),
            answers: BTreeMap::new(),
            closed: BTreeMap::new(),
            cut_short: BTreeSet::new(),
            ready: Vec::new(),
            stopped: Vec::new(),
            fatal: None,
            last_conn: 0,
            last_correlation: 0,
            steps: 0,
            io_failures_percent: 0,
            faults: Faults::default(),
        };
        driver.boot();
        driver
    }

    /// [`Driver::settings`] with these log directories, the metadata log in the first.
    pub fn settings_with(dirs: &[&str]) -> BrokerConfig {
        let mut broker = Self::settings();
        broker.log_dirs = dirs.iter().map(PathBuf::from).collect();
        broker.metadata_log_dir.clone_from(&broker.log_dirs[0]);
        broker
    }

    /// Settings for tests: one log directory, quick rebalances, one replica for internal topics.
    pub fn settings() -> BrokerConfig {
        let mut broker = BrokerConfig::default();
        broker.offsets.topic_replication_factor = 1;
        broker.offsets.topic_num_partitions = 5;
        broker.transactions.state_log_replication_factor = 1;
        broker.transactions.state_log_num_partitions = 5;
        broker.groups.initial_rebalance_delay_ms = 0;
        broker.share.state_topic_replication_factor = 1;
        broker.share.state_topic_min_isr = 1;
        broker.share.state_topic_num_partitions = 5;
        broker
    }

    fn boot(&mut self) {
        self.shards.clear();
        self.shards = boot_shards(
            self.count,
            &self.broker,
            &self.faults.on(&self.disk),
            self.now,
            &mut self.prng,
        );
        let count = usize::from(self.count);
        self.fx = (0..count).map(|_| Effects::new()).collect();
        self.work = (0..count).map(|_| VecDeque::new()).collect();
        self.links.clear();
        self.answers.clear();
        self.closed.clear();
        self.ready = vec![false; count];
        self.stopped = vec![false; count];
        for n in 0..self.count {
            self.end_turn(n);
        }
    }

    /// The process dies and the machine with it: unsynced writes are lost or torn by chance. Then
    /// it starts again.
    pub fn crash(&mut self) {
        self.shards.clear();
        self.disk.crash(&mut self.prng);
        self.boot();
    }

    /// The process dies (kill -9) and starts again: what was written survives, what was queued does
    /// not.
    pub fn kill(&mut self) {
        self.shards.clear();
        self.disk.kill();
        self.boot();
    }

    /// SIGTERM, until every shard has stopped, and a new start.
    pub fn restart(&mut self) {
        self.shutdown();
        self.boot();
    }

    /// SIGTERM, until every shard has stopped.
    ///
    /// # Panics
    /// If they don't within 10 s of virtual time.
    pub fn shutdown(&mut self) {
        for n in 0..self.count {
            self.input(n, Input::Shutdown);
        }
        let end = self.now.mono.plus_ms(10_000);
        while !self.stopped.iter().all(|s| *s) {
            assert!(self.now.mono < end, "shutdown takes too long");
            self.step_or_wait();
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.count
    }

    /// Whether every shard has said that it serves.
    pub fn is_ready(&self) -> bool {
        self.ready.iter().all(|r| *r)
    }

    /// Runs until every shard serves.
    ///
    /// # Panics
    /// If they don't within 30 s of virtual time.
    pub fn run_until_ready(&mut self) {
        let end = self.now.mono.plus_ms(30_000);
        while !self.is_ready() {
            assert!(self.now.mono < end, "not ready in time");
            self.step_or_wait();
        }
    }

    /// Opens a connection to a shard.
    pub fn connect(&mut self, shard: u16) -> Client {
        self.connect_through(shard, 0)
    }

    /// Opens a connection to a shard through the listener of this index.
    pub fn connect_through(&mut self, shard: u16, listener: usize) -> Client {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let info = ConnInfo {
            listener,
            peer: ([127, 0, 0, 1], 40_000).into(),
        };
        self.input(shard, Input::ConnOpened(conn, info));
        Client {
            shard: ShardId(shard),
            conn,
        }
    }

    /// Closes a connection, as a client that goes away.
    pub fn disconnect(&mut self, client: Client) {
        self.input(client.shard.0, Input::ConnClosed(client.conn));
    }

    /// Sends a request and gives its correlation id.
    ///
    /// # Panics
    /// If the request can't be encoded in this version.
    #[allow(clippy::expect_used)] // a test's own request
    pub fn send<'a, R: Request<'a>>(&mut self, client: Client, request: &R, version: i16) -> i32 {
        self.last_correlation += 1;
        let mut w = Writer::with_capacity(256);
        let header = RequestHeader {
            api_key: R::API_KEY,
            api_version: version,
            correlation_id: self.last_correlation,
            client_id: Some("test"),
        };
        write_request_header(&mut w, &header);
        request.encode(&mut w, version).expect("request");
        self.send_frame(client, w.into_buf().freeze());
        self.last_correlation
    }

    /// Sends a frame, without its size.
    pub fn send_frame(&mut self, client: Client, frame: Bytes) {
        self.input(client.shard.0, Input::Frame(client.conn, frame));
    }

    /// The oldest answer that came, without its size.
    pub fn take_answer(&mut self, client: Client) -> Option<Bytes> {
        self.answers.get_mut(&client)?.pop_front()
    }

    /// Why the shard closed a connection.
    pub fn closed(&self, client: Client) -> Option<&CloseReason> {
        self.closed.get(&client)
    }

    /// Sends a request, runs until its answer is there, and decodes it.
    ///
    /// # Panics
    /// If no answer comes within 60 s of virtual time, or it is no such response.
    #[allow(clippy::expect_used, clippy::panic)] // a test's own request
    pub fn call<'a, Q: Request<'a>, A: WireMessage<'static>>(
        &mut self,
        client: Client,
        request: &Q,
        version: i16,
    ) -> A {
        let correlation = self.send(client, request, version);
        let frame = self.wait_answer(client);
        decode_answer::<A>(Q::API_KEY, version, correlation, frame)
    }

    /// Runs until an answer is there.
    ///
    /// # Panics
    /// If none comes within 60 s of virtual time, or the connection is closed.
    pub fn wait_answer(&mut self, client: Client) -> Bytes {
        let end = self.now.mono.plus_ms(60_000);
        loop {
            if let Some(answer) = self.take_answer(client) {
                return answer;
            }
            let closed = self.closed.get(&client);
            assert!(closed.is_none(), "closed: {closed:?}");
            let late = self.now.mono >= end;
            assert!(!late, "no answer in time: {}", self.describe());
            self.step_or_wait();
        }
    }

    /// What each shard still has to do, for messages of tests.
    pub fn describe(&self) -> String {
        let shards = self.shards.iter().map(Shard::describe);
        shards.collect::<Vec<_>>().join("; ")
    }

    /// Runs until nothing is left to do at this time.
    pub fn run_until_idle(&mut self) {
        while self.step() {}
    }

    /// Runs for so many milliseconds of virtual time.
    pub fn run_for_ms(&mut self, ms: i64) {
        let end = self.now.mono.plus_ms(ms);
        loop {
            self.run_until_idle();
            match self.next_deadline().filter(|at| *at <= end) {
                Some(at) => self.move_to(at),
                None => break,
            }
        }
        self.move_to(end);
        self.run_until_idle();
    }

    /// One step, or the next deadline where there is none.
    pub fn step_or_wait(&mut self) {
        if !self.step() {
            let at = self.next_deadline().unwrap_or(self.now.mono.plus_ms(1000));
            self.move_to(at.max(self.now.mono.plus_ms(1)));
        }
    }

    /// Metrics of a shard.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn metrics(&mut self, shard: u16) -> String {
        let token = Token(u64::MAX);
        let mut fx = Effects::new();
        self.shards[usize::from(shard)].step(self.now, Input::MetricsWanted(token), &mut fx);
        let texts = fx.drain().filter_map(|e| match e {
            Effect::Metrics(_, text) => Some(text),
            _ => None,
        });
        texts.collect()
    }

    fn next_deadline(&self) -> Option<Mono> {
        self.shards.iter().filter_map(Shard::next_deadline).min()
    }

    pub(crate) fn move_to(&mut self, at: Mono) {
        let at = at.max(self.now.mono);
        let passed = at.nanos_since(self.now.mono);
        self.now.wall_ms += (passed / 1_000_000) as i64;
        self.now.mono = at;
    }

    /// Does one thing that can be done now, chosen by chance; false if there is none.
    pub fn step(&mut self) -> bool {
        let mut choices: Vec<(u16, Option<u16>)> = Vec::new();
        for (n, work) in self.work.iter().enumerate() {
            if !work.is_empty() {
                choices.push((n as u16, None));
            }
        }
        let links = self.links.iter().filter(|(_, q)| !q.is_empty());
        choices.extend(links.map(|((from, to), _)| (*to, Some(*from))));
        let due = |s: &Shard| s.next_deadline().is_some_and(|at| at <= self.now.mono);
        let timers = self.shards.iter().enumerate().filter(|(_, s)| due(s));
        choices.extend(timers.map(|(n, _)| (n as u16, Some(u16::MAX))));
        if choices.is_empty() {
            return false;
        }
        let (shard, what) = choices[self.prng.below(choices.len() as u64) as usize];
        self.steps += 1;
        match what {
            None => self.step_work(shard),
            Some(u16::MAX) => {
                let n = usize::from(shard);
                self.shards[n].tick(self.now, &mut self.fx[n]);
                self.end_turn(shard);
            }
            Some(from) => {
                let message = self
                    .links
                    .get_mut(&(from, shard))
                    .and_then(VecDeque::pop_front);
                if let Some(message) = message {
                    self.input(shard, Input::Mesh(ShardId(from), message));
                }
            }
        }
        true
    }

    /// Carries out one disk operation or job of a shard. The order between files is by chance.
    fn step_work(&mut self, shard: u16) {
        let queue = &mut self.work[usize::from(shard)];
        let mut pick = self.prng.below(queue.len() as u64) as usize;
        if let Some(Work::Io(_, op)) = queue.get(pick) {
            // The first operation on the same file goes before.
            let id = file_of(op).id();
            let same = |w: &Work| matches!(w, Work::Io(_, op) if file_of(op).id() == id);
            pick = queue.iter().position(same).unwrap_or(pick);
        }
        let Some(work) = queue.remove(pick) else {
            return;
        };
        let input = match work {
            Work::Io(token, op) => {
                // A failed metadata write ends the process, which is another test.
                let path = file_of(&op).path();
                let metadata = path.components().any(|c| c.as_os_str() == METADATA_DIR);
                let may = !metadata && matches!(op, DiskOp::Write { .. });
                let result = if may && self.prng.below(100) < self.io_failures_percent {
                    Err(match self.prng.one_in(8) {
                        true => io::ErrorKind::StorageFull.into(),
                        false => io::ErrorKind::ResourceBusy.into(),
                    })
                } else {
                    run_op(&self.faults.on(&self.disk), &op)
                };
                let path = file_of(&op).path().display().to_string();
                Input::IoDone(
                    token,
                    result.map_err(|e| IoFailure {
                        op: "disk operation",
                        path,
                        kind: e.kind(),
                    }),
                )
            }
            Work::Job(token, job) => {
                Input::JobDone(token, Box::new(job.run(&self.faults.on(&self.disk))))
            }
        };
        self.input(shard, input);
    }

    fn input(&mut self, shard: u16, input: Input) {
        let n = usize::from(shard);
        self.shards[n].step(self.now, input, &mut self.fx[n]);
        // Several inputs may share a turn.
        if self.prng.one_in(4) && self.has_mail(shard) {
            return;
        }
        self.end_turn(shard);
    }

    fn has_mail(&self, shard: u16) -> bool {
        let mut links = self.links.iter();
        links.any(|((_, to), q)| *to == shard && !q.is_empty())
    }

    fn end_turn(&mut self, shard: u16) {
        let n = usize::from(shard);
        let mut fx = std::mem::take(&mut self.fx[n]);
        self.shards[n].end_turn(self.now, &mut fx);
        let effects: Vec<Effect> = fx.drain().collect();
        self.fx[n] = fx;
        for effect in effects {
            self.effect(shard, effect);
        }
    }

    fn effect(&mut self, shard: u16, effect: Effect) {
        let n = usize::from(shard);
        let client = |conn| Client {
            shard: ShardId(shard),
            conn,
        };
        match effect {
            Effect::Send(conn, response) => {
                match read_response(&self.faults.on(&self.disk), &response) {
                    Ok(frame) => {
                        let answers = self.answers.entry(client(conn)).or_default();
                        answers.push_back(frame);
                        self.shards[n].step(self.now, Input::Sent(conn, 1), &mut self.fx[n]);
                    }
                    Err(failure) => {
                        self.cut_short.insert(client(conn));
                        for input in [Input::SliceFailed(failure), Input::ConnClosed(conn)] {
                            self.shards[n].step(self.now, input, &mut self.fx[n]);
                        }
                        self.end_turn(shard);
                    }
                }
            }
            Effect::CloseConn(conn, reason) => {
                self.closed.insert(client(conn), reason);
                self.shards[n].step(self.now, Input::ConnClosed(conn), &mut self.fx[n]);
            }
            Effect::Io(token, op) => self.work[n].push_back(Work::Io(token, op)),
            Effect::Job(token, job) => self.work[n].push_back(Work::Job(token, job)),
            Effect::Mesh(to, message) => {
                self.links
                    .entry((shard, to.0))
                    .or_default()
                    .push_back(message);
            }
            Effect::Ready => self.ready[n] = true,
            Effect::Stopped => self.stopped[n] = true,
            Effect::Fatal(reason) => self.fatal = Some(reason),
            Effect::SetReading(..) | Effect::Metrics(..) | Effect::Full(_) => {}
        }
    }
}

/// The shards of a node with these settings, on a disk that may hold what a run before left. The
/// caller ends a first turn of each.
///
/// # Panics
/// If the metadata on the disk can't be loaded: the test is over then.
#[allow(clippy::expect_used)] // a test that can't start is over
pub fn boot_shards(
    count: u16,
    broker: &BrokerConfig,
    disk: &dyn Disk,
    now: Now,
    prng: &mut Prng,
) -> Vec<Shard> {
    let first = &broker.log_dirs[0];
    disk.create_dir_all(first).expect("log directory");
    let loaded = Quorum::load(disk, &first.join(METADATA_DIR)).expect("metadata");
    let image = Arc::new(loaded.image().clone());
    let dirs = broker.log_dirs.iter().zip(9..);
    let log_dirs: Vec<LogDir> = dirs
        .map(|(path, n)| LogDir {
            id: Uuid::from_bytes([n; 16]),
            path: path.clone(),
        })
        .collect();
    let state = |dir: &LogDir| {
        let made = disk.create_dir_all(&dir.path);
        let loaded = made.and_then(|()| LogDirState::load(disk, &dir.path, &image));
        loaded.unwrap_or_else(|e| LogDirState {
            failed: Some(e.to_string()),
            ..LogDirState::default()
        })
    };
    let mut states: Vec<LogDirState> = log_dirs.iter().map(state).collect();
    let twice = settle_duplicates(disk, &log_dirs, &mut states, &image, broker.node_id);
    assert!(twice.is_empty(), "{twice:?}");
    let quorum = QuorumConfig {
        node_id: broker.node_id,
        file_id_base: 0,
        snapshot_bytes: 1 << 20,
    };
    let mut quorum = Some(Quorum::new(quorum, loaded).expect("quorum"));
    let config = Arc::new(ShardConfig {
        broker: broker.clone(),
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAg".to_owned(),
        log_dirs,
    });
    let found = Arc::new(states);
    let shard = |n| {
        Shard::new(ShardInit {
            id: ShardId(n),
            shards: count,
            config: config.clone(),
            seed: prng.next_u64(),
            now,
            image: image.clone(),
            quorum: quorum.take(),
            log_dirs: found.clone(),
        })
    };
    (0..count).map(shard).collect()
}

/// Settings whose one log directory is at `path`.
pub fn settings_at(path: &str) -> BrokerConfig {
    let mut broker = Driver::settings();
    broker.log_dirs = vec![PathBuf::from(path)];
    broker
}
