//! A small core to drive the runtime with, and a client for it.
//!
//! Requests are `[opcode][arguments]`; each is answered with one frame, in request order.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)] // each test binary uses its part

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flumen_base::{Disk, FileId, LogFile, Mono, Now, OpenMode, ShardId};
use flumen_runtime::{In, Listen, Out, Running, RuntimeConfig, ShardCore, start};
use flumen_shard::io::{
    CloseReason, ConnId, DiskOp, Effect, FileSlice, Input, IoFailure, IoOutput, Response, Segment,
    Token,
};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the test and all its cores see.
#[derive(Default)]
pub struct Stage {
    pub dir: PathBuf,
    /// Frames taken by all cores.
    pub frames: std::sync::atomic::AtomicUsize,
    /// Stop reading a connection that owes so many answers to `hold`; 0 is never.
    pub pause_at: usize,
    /// Answer nothing after Shutdown.
    pub never_stop: bool,
    /// Set to let held requests go, and held jobs.
    pub release: std::sync::atomic::AtomicBool,
    /// Held jobs that run.
    pub running_jobs: std::sync::atomic::AtomicUsize,
    pub files: Mutex<BTreeMap<String, Arc<LogFile>>>,
    pub closed: std::sync::atomic::AtomicUsize,
    pub sent: std::sync::atomic::AtomicUsize,
    /// What was said of slices that could not be sent.
    pub unsent: Mutex<Vec<IoFailure>>,
    /// What the cores say that their frames hold.
    pub core_bytes: std::sync::atomic::AtomicUsize,
}

impl Stage {
    pub fn file(&self, name: &str) -> Arc<LogFile> {
        let mut files = self.files.lock().unwrap();
        let id = FileId(files.len() as u64);
        let path = self.dir.join(name);
        Arc::clone(
            files
                .entry(name.to_owned())
                .or_insert_with(|| LogFile::segment(id, path)),
        )
    }
}

#[derive(Debug)]
pub enum Message {
    Count { burst: u64, n: u64, last: u64 },
    Counted { burst: u64 },
}

pub enum Job {
    WriteAndRead(PathBuf, Vec<u8>),
    /// Waits until the stage's jobs are let go; whether clients wait for it.
    Held(Arc<Stage>, bool),
    Panic,
}

enum Waiting {
    Io,
    Job,
    Burst(usize),
}

pub struct FakeCore {
    me: ShardId,
    shards: u16,
    stage: Arc<Stage>,
    next: u64,
    conns: BTreeMap<u64, (VecDeque<Option<Response>>, u64, usize)>,
    waiting: BTreeMap<u64, (ConnId, u64, Waiting)>,
    /// Per sender: the next expected number.
    expected: BTreeMap<(u16, u64), u64>,
    held: Vec<(ConnId, u64)>,
    started: bool,
    stopping: bool,
    deadline: Option<Mono>,
}

fn frame(body: impl Into<Bytes>) -> Response {
    let body: Bytes = body.into();
    let mut head = BytesMut::new();
    head.put_i32(body.len() as i32);
    Response {
        segments: vec![Segment::Bytes(head.freeze()), Segment::Bytes(body)].into(),
    }
}

impl FakeCore {
    pub fn new(me: ShardId, shards: u16, stage: Arc<Stage>) -> Self {
        Self {
            me,
            shards,
            stage,
            next: 0,
            conns: BTreeMap::new(),
            waiting: BTreeMap::new(),
            expected: BTreeMap::new(),
            held: Vec::new(),
            started: false,
            stopping: false,
            deadline: None,
        }
    }

    fn slot(&mut self, conn: ConnId) -> u64 {
        let Some((slots, first, _)) = self.conns.get_mut(&conn.0) else {
            return 0;
        };
        slots.push_back(None);
        *first + slots.len() as u64 - 1
    }

    fn answer(&mut self, conn: ConnId, slot: u64, response: Response, out: &mut Out<Self>) {
        let Some((slots, first, _)) = self.conns.get_mut(&conn.0) else {
            return;
        };
        let at = (slot - *first) as usize;
        slots[at] = Some(response);
        while let Some(Some(_)) = slots.front() {
            let response = slots.pop_front().flatten().unwrap();
            *first += 1;
            out.push(Effect::Send(conn, response));
        }
    }

    fn wait(&mut self, conn: ConnId, slot: u64, what: Waiting) -> Token {
        self.next += 1;
        self.waiting.insert(self.next, (conn, slot, what));
        Token(self.next)
    }

    fn request(&mut self, conn: ConnId, mut body: Bytes, out: &mut Out<Self>) {
        self.stage
            .frames
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if body.is_empty() {
            out.push(Effect::CloseConn(
                conn,
                CloseReason::Malformed("empty".into()),
            ));
            return;
        }
        let op = body.get_u8();
        let slot = self.slot(conn);
        match op {
            b'E' => self.answer(conn, slot, frame(body), out),
            b'S' => {
                let id = self.me.0.to_be_bytes().to_vec();
                self.answer(conn, slot, frame(id), out);
            }
            b'F' => {
                let mut slices = Vec::new();
                while body.remaining() >= 12 {
                    slices.push((body.get_u64(), body.get_u32()));
                }
                let file = self.stage.file("data");
                let total: u32 = slices.iter().map(|s| s.1 + 4).sum();
                let mut segments =
                    vec![Segment::Bytes(Bytes::copy_from_slice(&total.to_be_bytes()))];
                for (pos, len) in slices {
                    segments.push(Segment::Bytes(Bytes::copy_from_slice(&len.to_be_bytes())));
                    segments.push(Segment::File(FileSlice {
                        file: Arc::clone(&file),
                        pos,
                        len,
                    }));
                }
                self.answer(
                    conn,
                    slot,
                    Response {
                        segments: segments.into(),
                    },
                    out,
                );
            }
            b'W' => {
                let (sync, pos) = (body.get_u8() == 1, body.get_u64());
                let file = self.stage.file("written");
                let bufs = body.chunks(1000).map(Bytes::copy_from_slice).collect();
                let token = self.wait(conn, slot, Waiting::Io);
                out.push(Effect::Io(
                    token,
                    DiskOp::Write {
                        file,
                        pos,
                        bufs,
                        sync,
                    },
                ));
            }
            b'Y' => {
                let file = self.stage.file("written");
                let token = self.wait(conn, slot, Waiting::Io);
                out.push(Effect::Io(token, DiskOp::Sync { file }));
            }
            b'R' => {
                let (pos, len) = (body.get_u64(), body.get_u32());
                let file = self.stage.file(std::str::from_utf8(&body).unwrap());
                let token = self.wait(conn, slot, Waiting::Io);
                out.push(Effect::Io(token, DiskOp::Read { file, pos, len }));
            }
            b'J' => {
                let token = self.wait(conn, slot, Waiting::Job);
                let path = self.stage.dir.join(format!("job-{}-{}", self.me, token.0));
                out.push(Effect::Job(token, Job::WriteAndRead(path, body.to_vec())));
            }
            b'L' | b'A' => {
                let token = self.wait(conn, slot, Waiting::Job);
                let job = Job::Held(Arc::clone(&self.stage), op == b'A');
                out.push(Effect::Job(token, job));
            }
            b'X' => {
                let token = self.wait(conn, slot, Waiting::Job);
                out.push(Effect::Job(token, Job::Panic));
            }
            b'M' => {
                let count = body.get_u64();
                let token = self.wait(conn, slot, Waiting::Burst(usize::from(self.shards)));
                for n in 0..count {
                    for to in 0..self.shards {
                        let message = Message::Count {
                            burst: token.0,
                            n,
                            last: count - 1,
                        };
                        out.push(Effect::Mesh(ShardId(to), message));
                    }
                }
            }
            b'H' => {
                self.held.push((conn, slot));
                if let Some(conn_state) = self.conns.get_mut(&conn.0) {
                    conn_state.2 += 1;
                    if self.stage.pause_at > 0 && conn_state.2 == self.stage.pause_at {
                        out.push(Effect::SetReading(conn, false));
                    }
                }
            }
            b'C' => {
                self.answer(conn, slot, frame("bye"), out);
                out.push(Effect::CloseConn(conn, CloseReason::UnknownApi(7)));
            }
            b'Z' => out.push(Effect::Fatal("asked to".into())),
            _ => out.push(Effect::CloseConn(conn, CloseReason::UnknownApi(op.into()))),
        }
    }
}

impl ShardCore for FakeCore {
    type Message = Message;
    type Job = Job;
    type JobOutput = Vec<u8>;

    fn run_job(job: Job, disk: &dyn Disk) -> Vec<u8> {
        match job {
            Job::WriteAndRead(path, bytes) => {
                let file = disk.open(&path, OpenMode::Create).unwrap();
                file.write_all_at(&bytes, 0).unwrap();
                file.sync().unwrap();
                disk.read_all(&path, 1 << 20).unwrap()
            }
            Job::Held(stage, _) => {
                use std::sync::atomic::Ordering::SeqCst;
                stage.running_jobs.fetch_add(1, SeqCst);
                eventually("jobs are let go", || stage.release.load(SeqCst));
                b"let go".to_vec()
            }
            Job::Panic => panic!("a job that panics on purpose"),
        }
    }

    fn is_awaited(job: &Job) -> bool {
        matches!(job, Job::Held(_, true))
    }

    fn step(&mut self, now: Now, input: In<Self>, out: &mut Out<Self>) {
        use std::sync::atomic::Ordering::SeqCst;
        match input {
            Input::ConnOpened(conn, _) => {
                self.conns.insert(conn.0, Default::default());
            }
            Input::Frame(conn, body) => self.request(conn, body, out),
            Input::Sent(_, n) => {
                self.stage.sent.fetch_add(n as usize, SeqCst);
            }
            Input::ConnClosed(conn) => {
                self.stage.closed.fetch_add(1, SeqCst);
                self.conns.remove(&conn.0);
            }
            Input::IoDone(token, result) => {
                let Some((conn, slot, _)) = self.waiting.remove(&token.0) else {
                    return;
                };
                let body = match result {
                    Ok(IoOutput::Read(bytes)) => bytes,
                    Ok(_) => Bytes::from_static(b"done"),
                    Err(e) => Bytes::from(format!("error: {e}")),
                };
                self.answer(conn, slot, frame(body), out);
            }
            Input::SliceFailed(failure) => self.stage.unsent.lock().unwrap().push(failure),
            Input::JobDone(token, bytes) => {
                let Some((conn, slot, _)) = self.waiting.remove(&token.0) else {
                    return;
                };
                self.answer(conn, slot, frame(*bytes), out);
            }
            Input::Mesh(from, Message::Count { burst, n, last }) => {
                let expected = self.expected.entry((from.0, burst)).or_default();
                assert_eq!(*expected, n, "order of messages from shard {from}");
                *expected += 1;
                if n == last {
                    out.push(Effect::Mesh(from, Message::Counted { burst }));
                }
            }
            Input::Mesh(_, Message::Counted { burst }) => {
                let Some((conn, slot, Waiting::Burst(left))) = self.waiting.get_mut(&burst) else {
                    return;
                };
                *left -= 1;
                if *left == 0 {
                    let (conn, slot) = (*conn, *slot);
                    self.waiting.remove(&burst);
                    self.answer(conn, slot, frame("counted"), out);
                }
            }
            Input::MetricsWanted(token) => {
                out.push(Effect::Metrics(
                    token,
                    format!("fake{{shard=\"{}\"}} 1\n", self.me),
                ));
            }
            Input::Shutdown => self.stopping = true,
        }
        self.deadline = Some(now.mono.plus_ms(5));
    }

    fn end_turn(&mut self, _: Now, out: &mut Out<Self>) {
        if !self.started {
            self.started = true;
            out.push(Effect::Ready);
        }
        if self.stopping && !self.stage.never_stop {
            out.push(Effect::Stopped);
        }
    }

    fn tick(&mut self, now: Now, out: &mut Out<Self>) {
        self.deadline = None;
        if self.held.is_empty() {
            return;
        }
        self.deadline = Some(now.mono.plus_ms(5));
        if self.stage.release.load(std::sync::atomic::Ordering::SeqCst) {
            for (conn, slot) in std::mem::take(&mut self.held) {
                self.answer(conn, slot, frame("released"), out);
                out.push(Effect::SetReading(conn, true));
                if let Some(state) = self.conns.get_mut(&conn.0) {
                    state.2 = 0;
                }
            }
        }
    }

    fn frame_bytes(&self) -> usize {
        self.stage
            .core_bytes
            .load(std::sync::atomic::Ordering::SeqCst)
    }

    fn next_deadline(&self) -> Option<Mono> {
        self.deadline
    }
}

/// A running set of fake shards.
pub struct Rig {
    pub running: Option<Running>,
    pub stage: Arc<Stage>,
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
}

impl Rig {
    pub fn new(config: RuntimeConfig) -> Self {
        Self::staged(config, Stage::default())
    }

    pub fn staged(mut config: RuntimeConfig, mut stage: Stage) -> Self {
        let dir = tempfile::tempdir().unwrap();
        stage.dir = dir.path().to_owned();
        let stage = Arc::new(stage);
        config.listeners = vec![Listen::new("127.0.0.1", 0)];
        let given = Arc::clone(&stage);
        let make = move |start: &flumen_runtime::ShardStart| {
            assert_eq!(start.listeners.len(), 1);
            Ok(FakeCore::new(start.shard, start.shards, Arc::clone(&given)))
        };
        let running = start(config, make).unwrap();
        assert!(running.wait_ready(PATIENCE));
        let address = running.listeners()[0];
        Self {
            running: Some(running),
            stage,
            address,
            dir,
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    pub fn stop(mut self) -> Duration {
        let begin = Instant::now();
        let running = self.running.take().unwrap();
        running.stopper().shutdown();
        running.join().unwrap();
        begin.elapsed()
    }

    /// The value of a metric summed over the shards.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.running.as_ref().unwrap().metrics().unwrap();
        text.lines()
            .filter(|line| line.starts_with(name))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stopper().shutdown();
            let _ = running.join();
        }
    }
}

/// A blocking client.
pub struct Client(pub TcpStream);

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, op: u8, args: &[u8]) {
        self.0.write_all(&framed(op, args)).unwrap();
    }

    pub fn receive(&mut self) -> Vec<u8> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head).unwrap();
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    pub fn ask(&mut self, op: u8, args: &[u8]) -> Vec<u8> {
        self.send(op, args);
        self.receive()
    }

    /// Whether the broker closes the connection, whatever it still sends.
    pub fn is_closed_by_peer(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub fn framed(op: u8, args: &[u8]) -> Vec<u8> {
    let mut bytes = ((args.len() + 1) as i32).to_be_bytes().to_vec();
    bytes.push(op);
    bytes.extend_from_slice(args);
    bytes
}

/// Waits for a condition.
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Bytes that differ everywhere.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut prng = flumen_base::Prng::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&prng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A configuration of several shards on the machine's first allowed CPU.
pub fn on_one_cpu(shards: u16) -> RuntimeConfig {
    let cpu = core_affinity::get_core_ids().unwrap()[0].id;
    RuntimeConfig {
        cpus: Some(vec![cpu]),
        shards: Some(shards),
        ..RuntimeConfig::default()
    }
}
