//! The steady path of a produce request allocates nothing in the core: counted by the allocator
//! itself, over shards that are stepped as the runtime does it.
//!
//! What is left, each amortised over many requests and bounded here together: memory of 64 KiB for
//! patched headers and small batches, of 16 KiB for responses, an index entry per
//! `index.interval.bytes` and other vectors that double.
#![allow(clippy::unwrap_used)] // a test may

use bytes::{Bytes, BytesMut};
use flumen_base::{Mono, Now, Prng, ShardId};
use flumen_log::BatchBuilder;
use flumen_log::testing::MemDisk;
use flumen_shard::io::{ConnId, ConnInfo, DiskOp, Effect, Effects, Input, IoOutput, Segment};
use flumen_shard::mesh::Message;
use flumen_shard::testing::{Driver, boot_shards, create_request, run_op};
use flumen_shard::{Job, Shard};
use flumen_wire::header::{RequestHeader, write_request_header};
use flumen_wire::messages::{self, produce_request as wire};
use flumen_wire::{Request, Writer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Disk work under way: only what the test itself keeps.
enum Work {
    Write(flumen_shard::io::Token, Vec<Bytes>),
    Other(flumen_shard::io::Token, DiskOp),
    Job(flumen_shard::io::Token, Job),
}

/// Shards stepped in turns: all inputs that are there, then the end of the turn, then its effects.
struct Node {
    disk: MemDisk,
    now: Now,
    shards: Vec<Shard>,
    inputs: Vec<VecDeque<Input>>,
    fx: Vec<Effects>,
    work: Vec<VecDeque<Work>>,
    sent: Vec<VecDeque<Bytes>>,
    /// Effects of the last turns, by kind.
    writes: u64,
    sends: u64,
    messages: u64,
    /// Whether writes end with the turn they began in, as inline writes do.
    write_back: bool,
}

impl Node {
    fn start(count: u16) -> Self {
        let mut node = Self {
            disk: MemDisk::new(),
            now: Now {
                mono: Mono(1_000_000_000),
                wall_ms: 1_700_000_000_000,
            },
            shards: Vec::new(),
            inputs: (0..count).map(|_| VecDeque::new()).collect(),
            fx: (0..count).map(|_| Effects::new()).collect(),
            work: (0..count).map(|_| VecDeque::new()).collect(),
            sent: (0..count).map(|_| VecDeque::new()).collect(),
            writes: 0,
            sends: 0,
            messages: 0,
            write_back: true,
        };
        let broker = Driver::settings();
        let prng = &mut Prng::new(1);
        node.shards = boot_shards(count, &broker, &node.disk, node.now, prng);
        node.settle();
        for n in 0..count {
            let info = ConnInfo {
                listener: 0,
                peer: ([127, 0, 0, 1], 40_000).into(),
            };
            for conn in 0..8 {
                let input = Input::ConnOpened(ConnId(conn), info.clone());
                node.inputs[usize::from(n)].push_back(input);
            }
        }
        node.settle();
        node
    }

    /// Turns until nothing is left to do.
    fn settle(&mut self) {
        let mut busy = true;
        while std::mem::take(&mut busy) {
            for n in 0..self.shards.len() {
                busy |= self.turn(n);
            }
        }
    }

    fn turn(&mut self, n: usize) -> bool {
        let mut busy = false;
        while let Some(work) = self.work[n].pop_front() {
            busy = true;
            let input = match work {
                Work::Write(token, bufs) => Input::IoDone(token, Ok(IoOutput::Written(bufs))),
                Work::Other(token, op) => {
                    Input::IoDone(token, Ok(run_op(&self.disk, &op).unwrap()))
                }
                Work::Job(token, job) => Input::JobDone(token, Box::new(job.run(&self.disk))),
            };
            self.inputs[n].push_back(input);
        }
        busy |= !self.inputs[n].is_empty();
        while let Some(input) = self.inputs[n].pop_front() {
            core_step(&mut self.shards[n], self.now, input, &mut self.fx[n]);
        }
        core_end_turn(&mut self.shards[n], self.now, &mut self.fx[n]);
        let mut fx = std::mem::take(&mut self.fx[n]);
        for effect in fx.drain() {
            busy = true;
            self.effect(n, effect);
        }
        self.fx[n] = fx;
        busy
    }

    fn effect(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::Send(conn, response) => {
                self.sends += 1;
                for segment in response.segments {
                    if let Segment::Bytes(bytes) = segment {
                        self.sent[n].push_back(bytes);
                    }
                }
                self.inputs[n].push_back(Input::Sent(conn, 1));
            }
            // The bytes of produced records go nowhere: this disk would allocate for them.
            Effect::Io(token, DiskOp::Write { file, bufs, .. })
                if file.path().to_string_lossy().contains("/t-") && self.write_back =>
            {
                self.writes += 1;
                self.work[n].push_back(Work::Write(token, bufs));
            }
            Effect::Io(token, op) => self.work[n].push_back(Work::Other(token, op)),
            Effect::Job(token, job) => self.work[n].push_back(Work::Job(token, job)),
            Effect::Mesh(to, message) => {
                self.messages += u64::from(matches!(message, Message::Batch(_)));
                let from = ShardId(n as u16);
                self.inputs[to.index()].push_back(Input::Mesh(from, message));
            }
            Effect::Fatal(why) => panic!("{why}"),
            _ => {}
        }
    }

    /// Sends a frame on a connection of a shard.
    fn send(&mut self, n: usize, conn: u64, frame: Bytes) {
        self.inputs[n].push_back(Input::Frame(ConnId(conn), frame));
    }
}

// Functions of their own, so that a profiler can count in them alone (`--toggle-collect`).
#[inline(never)]
fn core_step(shard: &mut Shard, now: Now, input: Input, fx: &mut Effects) {
    shard.step(now, input, fx);
}

#[inline(never)]
fn core_end_turn(shard: &mut Shard, now: Now, fx: &mut Effects) {
    shard.end_turn(now, fx);
}

fn frame<'a, R: Request<'a>>(request: &R, version: i16) -> BytesMut {
    let mut w = Writer::with_capacity(256);
    let header = RequestHeader {
        api_key: R::API_KEY,
        api_version: version,
        correlation_id: 7,
        client_id: Some("producer"),
    };
    write_request_header(&mut w, &header);
    request.encode(&mut w, version).unwrap();
    w.into_buf()
}

fn records(len: usize, producer: Option<(i64, i32)>) -> Bytes {
    let mut b = BatchBuilder::new();
    if let Some((id, sequence)) = producer {
        b = b.producer(id, 0, sequence);
    }
    // Records of at most 1 KiB, as in the measurements.
    let mut left = len;
    while left > 0 {
        let part = left.min(1024);
        b.push(1_700_000_000_000, None, Some(&vec![b'x'; part]));
        left -= part;
    }
    b.build().unwrap()
}

/// `count` requests for `partitions` partitions each, as slices of one buffer: what the runtime's
/// framing makes of what it received.
fn frames(count: usize, partitions: &[i32], len: usize, acks: i16, idempotent: bool) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(count);
    let mut sequence = 0;
    let mut chunk = BytesMut::new();
    for _ in 0..count {
        let batch = records(len, idempotent.then_some((77, sequence)));
        let in_batch = len.div_ceil(1024) as i32;
        sequence += in_batch;
        let request = messages::ProduceRequest {
            acks,
            timeout_ms: 1000,
            topic_data: vec![wire::TopicProduceData {
                name: "t".into(),
                partition_data: partitions
                    .iter()
                    .map(|index| wire::PartitionProduceData {
                        index: *index,
                        records: Some(batch.to_vec().into()),
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        chunk.extend_from_slice(&frame(&request, 12));
        out.push(chunk.split().freeze());
    }
    out
}

fn node(shards: u16, partitions: i32) -> Node {
    let mut node = Node::start(shards);
    let request = create_request("t", partitions);
    node.send(0, 0, frame(&request, 7).freeze());
    node.settle();
    node.sent[0].clear();
    node
}

const STEADY: usize = 1000;

/// Allocations per request, of all shards, once warm. `per_turn` requests come in each turn.
fn per_request(mut node: Node, all: Vec<Bytes>, per_turn: usize, answers: bool) -> f64 {
    // Of the first partition: behind size, correlation id, tags, counts, name and index.
    const ERROR_AT: std::ops::Range<usize> = 17..19;
    let mut before = 0;
    let warm = all.len() - STEADY;
    let mut turn = 0;
    for (n, frame) in all.into_iter().enumerate() {
        if n == warm {
            before = ALLOCATIONS.with(Cell::get);
        }
        turn += 1;
        node.send(0, (turn % 8) as u64, frame);
        if turn == per_turn {
            turn = 0;
            node.settle();
            for (n, sent) in node.sent.iter_mut().enumerate() {
                assert_eq!(sent.len(), if answers && n == 0 { per_turn } else { 0 });
                for response in sent.drain(..) {
                    assert_eq!(response[ERROR_AT], [0, 0], "{response:?}");
                }
            }
        }
    }
    let count = ALLOCATIONS.with(Cell::get) - before;
    count as f64 / STEADY as f64
}

const EIGHT: [i32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Name, shards, partitions of a request, bytes of a batch, acks, requests of a turn, idempotent,
/// the most allocations per request.
type Case = (
    &'static str,
    u16,
    &'static [i32],
    usize,
    i16,
    usize,
    bool,
    f64,
);

#[test]
fn a_steady_produce_allocates_nothing() {
    let all: [Case; 11] = [
        ("1 x 100 B", 1, &[0], 100, -1, 8, false, 0.02),
        ("1 x 100 B alone", 1, &[0], 100, -1, 1, false, 0.02),
        ("1 x 100 B acks=0", 1, &[0], 100, 0, 8, false, 0.02),
        ("1 x 100 B idempotent", 1, &[0], 100, -1, 1, true, 0.02),
        ("16 KiB", 1, &[0], 16 << 10, -1, 4, false, 0.02),
        ("16 KiB acks=0", 1, &[0], 16 << 10, 0, 4, false, 0.02),
        ("8 x 16 KiB", 1, &EIGHT, 16 << 10, -1, 2, false, 0.1),
        ("8 x 16 KiB acks=0", 1, &EIGHT, 16 << 10, 0, 2, false, 0.1),
        ("two shards, 1 x 100 B", 2, &[0], 100, -1, 8, false, 0.02),
        ("two shards, other", 2, &[1], 100, -1, 8, false, 0.02),
        (
            "two shards, 8 x 16 KiB",
            2,
            &EIGHT,
            16 << 10,
            -1,
            2,
            false,
            0.1,
        ),
    ];
    let mut over = Vec::new();
    let only = std::env::var("ONLY").ok();
    for (name, shards, partitions, len, acks, per_turn, idempotent, most) in all {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let warm = if len > 1000 { 200 } else { 2000 };
        let frames = frames(STEADY + warm, partitions, len, acks, idempotent);
        let node = node(shards, 8);
        let n = per_request(node, frames, per_turn, acks != 0);
        println!("{name}: {n} allocations per request");
        if n > most {
            over.push(format!("{name}: {n}, may be {most}"));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}

/// Requests of several connections in one turn: one write per partition, one message per shard and
/// direction, and one answer each.
#[test]
fn a_turn_is_one_write_per_partition_and_one_message_per_shard() {
    for shards in [1, 2] {
        let mut node = node(shards, 8);
        let all = frames(24, &EIGHT, 100, -1, false);
        (node.writes, node.sends, node.messages) = (0, 0, 0);
        for (n, frame) in all.into_iter().enumerate() {
            node.send(0, n as u64 % 8, frame);
        }
        node.settle();
        assert_eq!((node.writes, node.sends), (8, 24), "{shards} shards");
        assert_eq!(node.messages, if shards == 1 { 0 } else { 2 });
    }
}

/// A fetch of partition 0.
fn fetch(version: i16, offset: i64, max_wait_ms: i32) -> Bytes {
    use messages::fetch_request::{FetchPartition, FetchTopic};
    let request = messages::FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic: "t".into(),
            partitions: vec![FetchPartition {
                partition: 0,
                fetch_offset: offset,
                partition_max_bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    frame(&request, version).freeze()
}

/// What readers at the end of a log cost: answers at once from memory, and waits that a produce
/// ends. Amortised as above.
#[test]
fn a_steady_fetch_allocates_nothing() {
    let mut node = node(1, 8);
    // Memory keeps what comes after somebody has read at the end.
    node.send(0, 0, fetch(12, 0, 0));
    node.settle();
    node.send(0, 0, frames(1, &[0], 1000, -1, false).remove(0));
    node.settle();
    node.sent[0].clear();
    for version in [11, 12] {
        let request = fetch(version, 0, 0);
        let mut before = 0;
        for n in 0..STEADY + 500 {
            if n == 500 {
                before = ALLOCATIONS.with(Cell::get);
            }
            node.send(0, n as u64 % 8, request.clone());
            node.settle();
            let answered: usize = node.sent[0].drain(..).map(|bytes| bytes.len()).sum();
            assert!(answered > 1000, "{answered} bytes");
        }
        let count = (ALLOCATIONS.with(Cell::get) - before) as f64 / STEADY as f64;
        println!("fetch {version}: {count} allocations per request");
        assert!(
            count < 0.1,
            "fetch {version}: {count} allocations per request"
        );
    }
    let produces = frames(STEADY + 500, &[0], 100, -1, false);
    let mut before = 0;
    let fetches: Vec<Bytes> = (0..produces.len() as i64)
        .map(|n| fetch(12, 1 + n, 500))
        .collect();
    for (n, (produce, fetch)) in produces.into_iter().zip(fetches).enumerate() {
        if n == 500 {
            before = ALLOCATIONS.with(Cell::get);
        }
        node.send(0, 1, fetch);
        node.settle();
        assert!(
            node.sent[0].is_empty(),
            "answered before there was anything"
        );
        node.send(0, 0, produce);
        node.settle();
        let answered: usize = node.sent[0].drain(..).map(|bytes| bytes.len()).sum();
        assert!(answered > 200, "{answered} bytes");
    }
    let count = (ALLOCATIONS.with(Cell::get) - before) as f64 / STEADY as f64;
    println!("waiting fetch: {count} allocations per request and its produce");
    assert!(count < 4.0, "{count} allocations per waiting fetch");
}
