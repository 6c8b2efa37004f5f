//! A node as lean as can be: shards in one thread, whose disk operations complete at once. What the
//! core does stands in a few functions that are never inlined, and callgrind counts in those only
//! ([`COUNTED`]): neither the start, nor the making of requests, nor this driver is measured.

use bytes::{Bytes, BytesMut};
use flumen_base::{Mono, Now, Prng};
use flumen_log::testing::MemDisk;
use flumen_shard::Shard;
use flumen_shard::io::{
    ConnId, ConnInfo, DiskOp, Effect, Effects, Input, IoFailure, IoOutput, Response,
};
use flumen_shard::testing::{Driver, boot_shards, decode_answer, file_of, read_response, run_op};
use flumen_wire::header::{RequestHeader, write_request_header};
use flumen_wire::{Message, Request, Writer};
use std::collections::VecDeque;

/// Functions of this name are counted.
pub const COUNTED: &str = "*counted_here*";

/// What one turn takes.
const TURN_NANOS: u64 = 5_000;
/// Least memory that the runtime receives into.
const RECV_BYTES: usize = 4 << 10;

/// A connection: its shard and its number.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    shard: usize,
    conn: ConnId,
}

/// Whose turns are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Nobody's.
    None,
    /// Every shard's.
    All,
    /// This shard's.
    Only(usize),
}

struct Lane {
    shard: Shard,
    inputs: VecDeque<Input>,
    effects: Effects,
}

/// The shards and all that is under way between them.
pub struct Node {
    /// Whose turns are counted.
    pub counted: Counted,
    disk: MemDisk,
    now: Now,
    lanes: Vec<Lane>,
    is_ready: Vec<bool>,
    answers: VecDeque<(ConnId, Response)>,
    last_conn: u64,
    last_correlation: i32,
}

/// One turn as the runtime's loop makes it: all inputs, deadlines that have passed, the end.
#[inline(never)]
fn turn_counted_here(lane: &mut Lane, now: Now) {
    turn(lane, now);
}

/// The same, not counted.
#[inline(never)]
fn turn_beside(lane: &mut Lane, now: Now) {
    turn(lane, now);
    std::hint::black_box(&lane.inputs); // or both would become one function
}

#[inline(always)]
fn turn(lane: &mut Lane, now: Now) {
    let Lane {
        shard,
        inputs,
        effects,
    } = lane;
    let due = shard.next_deadline().is_some_and(|at| at <= now.mono);
    while let Some(input) = inputs.pop_front() {
        shard.step(now, input, effects);
    }
    if due {
        shard.tick(now, effects);
    }
    shard.end_turn(now, effects);
    std::hint::black_box(shard.frame_bytes());
}

/// Gives back what the core handed out, as the runtime does when it is sent or written.
#[inline(never)]
fn release_counted_here<T>(what: T) {
    drop(what);
}

impl Node {
    /// Starts so many shards on an empty disk and waits until they serve.
    ///
    /// # Panics
    /// If they don't.
    pub fn start(shards: u16) -> Self {
        let broker = Driver::settings();
        let disk = MemDisk::new();
        let now = Now {
            mono: Mono(1_000_000_000),
            wall_ms: 1_700_000_000_000,
        };
        let booted = boot_shards(shards, &broker, &disk, now, &mut Prng::new(7));
        let lane = |shard| Lane {
            shard,
            inputs: VecDeque::new(),
            effects: Effects::new(),
        };
        let mut node = Self {
            counted: Counted::None,
            disk,
            now,
            lanes: booted.into_iter().map(lane).collect(),
            is_ready: vec![false; shards.into()],
            answers: VecDeque::new(),
            last_conn: 0,
            last_correlation: 0,
        };
        for n in 0..node.lanes.len() {
            node.turn(n);
        }
        node.until("ready", |node| node.is_ready.iter().all(|r| *r));
        node
    }

    /// Goes on, from deadline to deadline if need be, until something is so.
    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..1000 {
            self.settle();
            if so(self) {
                return;
            }
            let deadlines = self.lanes.iter().filter_map(|l| l.shard.next_deadline());
            let Some(at) = deadlines.min() else {
                break;
            };
            self.pass(at.nanos_since(self.now.mono).max(1));
            for n in 0..self.lanes.len() {
                self.turn(n);
            }
        }
        let states: Vec<String> = self
            .lanes
            .iter()
            .map(|l| format!("{:?}", l.shard))
            .collect();
        panic!("never {what}: {}", states.join("; "));
    }

    fn pass(&mut self, nanos: u64) {
        let before = self.now.mono.0 / 1_000_000;
        self.now.mono = Mono(self.now.mono.0 + nanos);
        self.now.wall_ms += (self.now.mono.0 / 1_000_000 - before) as i64;
    }

    /// Opens a connection.
    pub fn connect(&mut self, shard: usize) -> Client {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        let info = ConnInfo {
            listener: 0,
            peer: ([127, 0, 0, 1], 40_000).into(),
        };
        self.lanes[shard]
            .inputs
            .push_back(Input::ConnOpened(conn, info));
        self.settle();
        Client { shard, conn }
    }

    /// A request lies in the socket's buffer: it is part of the shard's next turn.
    pub fn offer<'a, R: Request<'a>>(&mut self, client: Client, request: &R, version: i16) {
        self.last_correlation += 1;
        let frame = frame(request, version, self.last_correlation);
        self.lanes[client.shard]
            .inputs
            .push_back(Input::Frame(client.conn, frame));
    }

    /// A request, and its answer.
    ///
    /// # Panics
    /// If none comes.
    pub fn call<'a, Q: Request<'a>, A: Message<'static>>(
        &mut self,
        client: Client,
        request: &Q,
        version: i16,
    ) -> A {
        self.offer(client, request, version);
        let correlation = self.last_correlation;
        let mut found = None;
        self.until("answered", |node| {
            found = node.answers.pop_front();
            found.is_some()
        });
        let (conn, response) = found.unwrap();
        assert_eq!(conn, client.conn);
        let bytes = read_response(&self.disk, &response).unwrap();
        decode_answer(Q::API_KEY, version, correlation, bytes)
    }

    /// Turns until nothing is left to do at this time.
    pub fn settle(&mut self) {
        while let Some(n) = self.lanes.iter().position(|l| !l.inputs.is_empty()) {
            for n in n..self.lanes.len() {
                if !self.lanes[n].inputs.is_empty() {
                    self.turn(n);
                }
            }
        }
    }

    /// How many answers came, and their bytes (record bytes of files included). They are given
    /// back.
    pub fn take_answers(&mut self) -> (usize, usize) {
        let mut sum = (0, 0);
        while let Some((_, response)) = self.answers.pop_front() {
            sum.0 += 1;
            sum.1 += response.len();
            self.release(0, response);
        }
        sum
    }

    fn release<T>(&self, n: usize, what: T) {
        match self.counted {
            Counted::All => release_counted_here(what),
            Counted::Only(only) if only == n => release_counted_here(what),
            _ => drop(what),
        }
    }

    fn turn(&mut self, n: usize) {
        self.pass(TURN_NANOS);
        let lane = &mut self.lanes[n];
        match self.counted {
            Counted::All => turn_counted_here(lane, self.now),
            Counted::Only(only) if only == n => turn_counted_here(lane, self.now),
            _ => turn_beside(lane, self.now),
        }
        let mut effects = std::mem::take(&mut self.lanes[n].effects);
        for effect in effects.drain() {
            self.perform(n, effect);
        }
        self.lanes[n].effects = effects;
    }

    fn perform(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::Send(conn, response) => {
                self.answers.push_back((conn, response));
                self.lanes[n].inputs.push_back(Input::Sent(conn, 1));
            }
            Effect::Io(token, op) => {
                let result = run_op(&self.disk, &op).map_err(|e| IoFailure {
                    op: "disk operation",
                    path: file_of(&op).path().display().to_string(),
                    kind: e.kind(),
                });
                // The list of buffers goes back with its completion, as the runtime does it.
                let result = match (result, op) {
                    (Ok(IoOutput::Done), DiskOp::Write { bufs, .. }) => Ok(IoOutput::Written(bufs)),
                    (result, op) => {
                        self.release(n, op);
                        result
                    }
                };
                self.lanes[n].inputs.push_back(Input::IoDone(token, result));
            }
            Effect::Job(token, job) => {
                let output = job.run(&self.disk);
                self.lanes[n]
                    .inputs
                    .push_back(Input::JobDone(token, Box::new(output)));
            }
            Effect::Mesh(to, message) => {
                let from = flumen_base::ShardId(n as u16);
                self.lanes[to.index()]
                    .inputs
                    .push_back(Input::Mesh(from, message));
            }
            Effect::Ready => self.is_ready[n] = true,
            Effect::CloseConn(_, reason) => panic!("closed: {reason}"),
            Effect::Fatal(reason) => panic!("fatal: {reason}"),
            Effect::SetReading(..) | Effect::Metrics(..) | Effect::Stopped | Effect::Full(_) => {}
        }
    }
}

/// A frame without its size, as the runtime gives it: a part of a receive buffer.
fn frame<'a, R: Request<'a>>(request: &R, version: i16, correlation_id: i32) -> Bytes {
    let mut w = Writer::with_capacity(256);
    let header = RequestHeader {
        api_key: R::API_KEY,
        api_version: version,
        correlation_id,
        client_id: Some("bench"),
    };
    write_request_header(&mut w, &header);
    request.encode(&mut w, version).unwrap();
    let mut buf = BytesMut::with_capacity((w.len() + 4).max(RECV_BYTES));
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(w.as_slice());
    let size = buf.split_to(4);
    let frame = buf.split().freeze();
    drop(size);
    frame
}
