//! The process under test: its shards, and everything that the runtime does for them, one small
//! piece at a time.

use crate::faults::strikes;
use crate::faulty::Faulty;
use crate::io::{IoDone, Ring};
use crate::net::{Conn, Inbound, Outbound};
use crate::trace::{Trace, digest, note};
use crate::{Check, boot};
use bytes::Bytes;
use flumen_base::{FileId, Mono, Now, Prng, TopicPartition};
use flumen_log::testing::MemDisk;
use flumen_log::testing_fuse::Fuse;
use flumen_shard::io::{
    ConnId, ConnInfo, Effect, Effects, Input, IoFailure, Response, Segment, Token,
};
use flumen_shard::jobs::Job;
use flumen_shard::mesh::Message;
use flumen_shard::{Shard, ShardConfig};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// A job that has not ended.
pub(crate) struct PendingJob {
    pub(crate) shard: usize,
    token: Token,
    pub(crate) job: Job,
    not_before: u64,
}

/// One shard and what waits for it.
pub(crate) struct Node {
    shard: Shard,
    /// Completions and the like, which come in any order.
    inputs: Vec<Input>,
    pub(crate) ready: bool,
    pub(crate) stopped: bool,
}

/// The machine with its disk, and the process while it runs.
pub(crate) struct Broker {
    pub(crate) disk: MemDisk,
    pub(crate) config: Arc<ShardConfig>,
    pub(crate) shards: usize,
    /// Empty while the process is down.
    pub(crate) nodes: Vec<Node>,
    /// What is on the way from a shard to another, by both.
    mesh: BTreeMap<(usize, usize), VecDeque<Message>>,
    pub(crate) ring: Ring,
    pub(crate) jobs: Vec<PendingJob>,
    conns: BTreeMap<ConnId, Conn>,
    last_conn: u64,
    /// A shutdown was asked for: no new connections.
    pub(crate) stopping: bool,
    /// Slow disk: operations take up to so many nanoseconds.
    pub(crate) disk_delay_max: u64,
    /// A power loss may leave garbage.
    pub(crate) garbage: bool,
    /// The disk takes no more than is on it, and a little.
    pub(crate) full: bool,
    /// Log start and high watermark of each partition, as they were seen last in this life.
    heights: BTreeMap<TopicPartition, (i64, i64)>,
    pub(crate) mono: u64,
    pub(crate) wall_ms: i64,
    /// Why a shard ended the process.
    pub(crate) fatal: Option<String>,
    fx: Effects,
}

enum Source {
    Conn(ConnId),
    Mesh(usize),
    Input,
}

impl Broker {
    pub(crate) fn new(disk: MemDisk, config: Arc<ShardConfig>, shards: usize) -> Self {
        Self {
            disk,
            config,
            shards,
            nodes: Vec::new(),
            mesh: BTreeMap::new(),
            ring: Ring::default(),
            jobs: Vec::new(),
            conns: BTreeMap::new(),
            last_conn: 0,
            stopping: false,
            disk_delay_max: 0,
            garbage: false,
            full: false,
            heights: BTreeMap::new(),
            mono: 1,
            wall_ms: boot::WALL_START_MS,
            fatal: None,
            fx: Effects::new(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono: Mono(self.mono),
            wall_ms: self.wall_ms,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        !self.nodes.is_empty()
    }

    // ---- clients ----

    /// Opens a connection to some shard; `None` while the process is down or about to end.
    pub(crate) fn connect(&mut self, rng: &mut Prng) -> Option<ConnId> {
        if !self.is_up() || self.stopping {
            return None;
        }
        self.last_conn += 1;
        let id = ConnId(self.last_conn);
        let shard = rng.below(self.nodes.len() as u64) as usize;
        self.conns.insert(id, Conn::new(id, shard));
        Some(id)
    }

    pub(crate) fn send(&mut self, id: ConnId, frame: Bytes) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !conn.closed_at_shard
        {
            conn.inbound.push_back(Inbound::Frame(frame));
        }
    }

    /// The next response; `Err` when there are no more and never will be.
    pub(crate) fn receive(&mut self, id: ConnId) -> Result<Option<Bytes>, ()> {
        let conn = self.conns.get_mut(&id).ok_or(())?;
        match conn.received.pop_front() {
            Some(bytes) => Ok(Some(bytes)),
            None if conn.closed_at_client => {
                self.forget_if_over(id);
                Err(())
            }
            None => Ok(None),
        }
    }

    /// The client goes away: of what it sent some may never come to the shard.
    pub(crate) fn disconnect(&mut self, id: ConnId, rng: &mut Prng) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.closed_at_client = true;
        conn.received.clear();
        let frames = conn.inbound.len().saturating_sub(1) as u64;
        conn.inbound.truncate(1 + rng.below(frames + 1) as usize);
        conn.close_towards_shard();
    }

    fn forget_if_over(&mut self, id: ConnId) {
        if self.conns.get(&id).is_some_and(Conn::is_over) {
            self.conns.remove(&id);
        }
    }

    // ---- what can happen next ----

    /// Shards that have something to do.
    pub(crate) fn busy_shards(&self) -> Vec<usize> {
        let mut busy = vec![false; self.nodes.len()];
        for conn in self.conns.values().filter(|c| c.has_input()) {
            if let Some(b) = busy.get_mut(conn.shard) {
                *b = true;
            }
        }
        for ((_, to), queue) in &self.mesh {
            if !queue.is_empty() {
                busy[*to] = true;
            }
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let due = node
                .shard
                .next_deadline()
                .is_some_and(|at| at.0 <= self.mono);
            busy[n] |= due || !node.inputs.is_empty();
        }
        (0..busy.len()).filter(|n| busy[*n]).collect()
    }

    /// Files on which the ring can do something.
    pub(crate) fn ready_files(&self) -> Vec<FileId> {
        self.ring.ready(self.mono)
    }

    /// Jobs that can run.
    pub(crate) fn ready_jobs(&self) -> Vec<usize> {
        let due = |n: &usize| self.jobs[*n].not_before <= self.mono;
        (0..self.jobs.len()).filter(due).collect()
    }

    /// Connections with a response on the way.
    pub(crate) fn sending(&self) -> Vec<ConnId> {
        let sending = self.conns.values().filter(|c| !c.outbound.is_empty());
        sending.map(|c| c.id).collect()
    }

    /// When something happens if nothing is done until then.
    pub(crate) fn next_time(&self) -> Option<u64> {
        let shards = self.nodes.iter().filter_map(|n| n.shard.next_deadline());
        let times = shards.map(|at| at.0).chain(self.ring.next_time());
        times.chain(self.jobs.iter().map(|j| j.not_before)).min()
    }

    // ---- pieces ----

    /// One turn of a shard, with some of what waits for it.
    pub(crate) fn turn(&mut self, n: usize, rng: &mut Prng, trace: &mut Trace) -> Check {
        let now = self.now();
        note!(trace, "turn {n} mono={} wall={}", now.mono.0, now.wall_ms);
        let mut fx = std::mem::take(&mut self.fx);
        for _ in 0..=rng.below(6) {
            let Some(input) = self.next_input(n, rng, trace) else {
                break;
            };
            self.nodes[n].shard.step(now, input, &mut fx);
        }
        let shard = &mut self.nodes[n].shard;
        if shard.next_deadline().is_some_and(|at| at <= now.mono) {
            note!(trace, " tick");
            shard.tick(now, &mut fx);
        }
        shard.end_turn(now, &mut fx);
        let effects: Vec<Effect> = fx.drain().collect();
        self.fx = fx;
        for effect in effects {
            self.carry_out(n, effect, rng, trace)?;
        }
        self.mono += 1 + rng.below(20_000);
        self.look(n)
    }

    /// The first turn of a new shard.
    pub(crate) fn first_turn(&mut self, shard: Shard, rng: &mut Prng, trace: &mut Trace) -> Check {
        let n = self.nodes.len();
        self.nodes.push(Node {
            shard,
            inputs: Vec::new(),
            ready: false,
            stopped: false,
        });
        let now = self.now();
        let mut fx = Effects::new();
        self.nodes[n].shard.end_turn(now, &mut fx);
        let effects: Vec<Effect> = fx.drain().collect();
        for effect in effects {
            self.carry_out(n, effect, rng, trace)?;
        }
        Ok(())
    }

    fn next_input(&mut self, n: usize, rng: &mut Prng, trace: &mut Trace) -> Option<Input> {
        let conns = self
            .conns
            .values()
            .filter(|c| c.shard == n && c.has_input());
        let mut sources: Vec<Source> = conns.map(|c| Source::Conn(c.id)).collect();
        let mesh = self
            .mesh
            .iter()
            .filter(|((_, to), queue)| *to == n && !queue.is_empty());
        sources.extend(mesh.map(|((from, _), _)| Source::Mesh(*from)));
        if !self.nodes[n].inputs.is_empty() {
            sources.push(Source::Input);
        }
        if sources.is_empty() {
            return None;
        }
        let chosen = rng.below(sources.len() as u64) as usize;
        match sources.swap_remove(chosen) {
            Source::Conn(id) => self.conn_input(id, trace),
            Source::Mesh(from) => {
                let message = self.mesh.get_mut(&(from, n))?.pop_front()?;
                note!(trace, " mesh {from}->{n} {}", message_name(&message));
                Some(Input::Mesh(flumen_base::ShardId(from as u16), message))
            }
            Source::Input => {
                let inputs = &mut self.nodes[n].inputs;
                let at = rng.below(inputs.len() as u64) as usize;
                let input = inputs.remove(at);
                match &input {
                    Input::IoDone(token, result) => {
                        note!(trace, " io done {} ok={}", token.0, result.is_ok());
                    }
                    Input::JobDone(token, _) => note!(trace, " job done {}", token.0),
                    Input::Sent(conn, count) => note!(trace, " sent {} {count}", conn.0),
                    _ => note!(trace, " shutdown"),
                }
                Some(input)
            }
        }
    }

    fn conn_input(&mut self, id: ConnId, trace: &mut Trace) -> Option<Input> {
        let conn = self.conns.get_mut(&id)?;
        let input = match conn.inbound.pop_front()? {
            Inbound::Opened => {
                note!(trace, " opened {}", id.0);
                let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
                Input::ConnOpened(id, ConnInfo { listener: 0, peer })
            }
            Inbound::Frame(frame) => {
                note!(
                    trace,
                    " frame {} len={} {:x}",
                    id.0,
                    frame.len(),
                    digest(&frame)
                );
                Input::Frame(id, frame)
            }
            Inbound::Closed => {
                note!(trace, " closed {}", id.0);
                Input::ConnClosed(id)
            }
        };
        self.forget_if_over(id);
        Some(input)
    }

    fn carry_out(&mut self, n: usize, effect: Effect, rng: &mut Prng, trace: &mut Trace) -> Check {
        match effect {
            Effect::Send(id, response) => self.queue_out(id, Outbound::Response(response)),
            Effect::SetReading(id, reading) => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.reading = reading || conn.closed_at_shard;
                }
            }
            Effect::CloseConn(id, reason) => {
                note!(trace, "  close {} {reason}", id.0);
                self.queue_out(id, Outbound::Close);
            }
            Effect::Io(token, op) => {
                let not_before = self.mono + rng.below(self.disk_delay_max + 1);
                let done = self
                    .ring
                    .start(n, token, op, (&self.disk, not_before, rng), trace)?;
                self.complete(done);
            }
            Effect::Full(file) => {
                note!(trace, "  full {}", file.path().display());
                self.ring.full(&file)?;
            }
            Effect::Job(token, job) => {
                note!(trace, "  job {} {}", token.0, job.name());
                self.jobs.push(PendingJob {
                    shard: n,
                    token,
                    job,
                    not_before: self.mono + rng.below(self.disk_delay_max + 1),
                });
            }
            Effect::Mesh(to, message) => {
                note!(trace, "  mesh to {} {}", to.0, message_name(&message));
                let queue = self.mesh.entry((n, to.index())).or_default();
                queue.push_back(message);
            }
            Effect::Metrics(..) => {}
            Effect::Ready => {
                note!(trace, "  ready {n}");
                self.nodes[n].ready = true;
            }
            Effect::Stopped => {
                note!(trace, "  stopped {n}");
                self.nodes[n].stopped = true;
            }
            Effect::Fatal(reason) => {
                note!(trace, "  fatal {reason}");
                self.fatal = Some(reason);
            }
        }
        Ok(())
    }

    fn queue_out(&mut self, id: ConnId, out: Outbound) {
        if let Some(conn) = self.conns.get_mut(&id)
            && !conn.closed_at_shard
        {
            conn.outbound.push_back(out);
        }
    }

    fn complete(&mut self, done: Option<IoDone>) {
        if let Some(done) = done
            && let Some(node) = self.nodes.get_mut(done.shard)
        {
            node.inputs.push(Input::IoDone(done.token, done.result));
        }
    }

    /// The ring does a piece of work on a file.
    pub(crate) fn advance_io(&mut self, id: FileId, rng: &mut Prng, trace: &mut Trace) {
        let done = self.ring.advance(&self.disk, id, rng, trace);
        self.complete(done);
        self.mono += 1 + rng.below(50_000);
    }

    /// Where the logs of a shard stand: in order, and never back while the process lives.
    fn look(&mut self, n: usize) -> Check {
        for p in self.nodes[n].shard.probe() {
            let (start, high) = (p.log_start.0, p.high_watermark.0);
            let in_order = start <= high
                && p.last_stable <= p.high_watermark
                && p.high_watermark <= p.log_end
                && p.recovery_point <= p.high_watermark;
            if !in_order {
                return Err(format!("the offsets of a log are not in order: {p:?}"));
            }
            let seen = self.heights.entry(p.tp).or_default();
            if start < seen.0 || high < seen.1 {
                return Err(format!(
                    "start and high watermark were {seen:?}, now: {p:?}"
                ));
            }
            *seen = (start, high);
        }
        Ok(())
    }

    /// A job runs as a whole. Its reads and writes may be done in parts; on a failing disk an
    /// operation may fail, or all after so many.
    pub(crate) fn run_job(&mut self, at: usize, rng: &mut Prng, trace: &mut Trace) {
        let pending = self.jobs.remove(at);
        let (token, name) = (pending.token, pending.job.name());
        note!(trace, "job {} {name} of {}", token.0, pending.shard);
        let faults = self.ring.faults;
        // A removal that failed is not tried again before the next start, and its topic's name
        // can't be used until then: known, so it is left out.
        let fails = name != "remove partition" && strikes(faults.more_often(20), rng);
        let output = match fails {
            true if rng.one_in(2) => {
                note!(trace, " the disk fails from some operation on");
                (self.ring.failures, self.ring.may_end) = (self.ring.failures + 1, true);
                pending.job.run(&Fuse::new(&self.disk, rng.below(6)))
            }
            _ => {
                let fail_one_in = if fails { 1 + rng.below(20) } else { 0 };
                let disk = Faulty::new(&self.disk, &faults, fail_one_in, rng);
                let output = pending.job.run(&disk);
                if disk.has_struck() {
                    note!(trace, " the disk failed");
                    (self.ring.failures, self.ring.may_end) = (self.ring.failures + 1, true);
                }
                output
            }
        };
        self.nodes[pending.shard]
            .inputs
            .push(Input::JobDone(token, Box::new(output)));
    }

    /// The disk has room for so many bytes more from now on.
    pub(crate) fn set_room(&mut self, bytes: Option<u64>, trace: &mut Trace) {
        self.full = bytes.is_some();
        let used = self.disk.used();
        note!(trace, "the disk holds {used}, room for {bytes:?}");
        self.disk.set_capacity(bytes.map(|room| used + room));
    }

    /// The oldest response of a connection leaves; its slices of files are read now.
    pub(crate) fn deliver(&mut self, id: ConnId, rng: &mut Prng, trace: &mut Trace) -> Check {
        let Some(conn) = self.conns.get_mut(&id) else {
            return Ok(());
        };
        let close = match conn.outbound.pop_front() {
            None => return Ok(()),
            Some(Outbound::Close) => true,
            Some(Outbound::Response(response)) => {
                let announced = response.len();
                match assemble(&mut self.ring, &self.disk, response, rng) {
                    Err(failure) => {
                        note!(trace, "a response to {} ends early: {failure}", id.0);
                        let failed = Input::SliceFailed(failure);
                        self.nodes[conn.shard].inputs.push(failed);
                        true
                    }
                    Ok(bytes) => {
                        check_size(&bytes, announced)?;
                        note!(
                            trace,
                            "to client {} len={announced} {:x}",
                            id.0,
                            digest(&bytes)
                        );
                        conn.received.push_back(bytes.slice(4..));
                        let sent = Input::Sent(id, 1);
                        self.nodes[conn.shard].inputs.push(sent);
                        false
                    }
                }
            }
        };
        if close {
            conn.closed_at_client = true;
            conn.close_towards_shard();
            conn.inbound
                .retain(|i| matches!(i, Inbound::Closed | Inbound::Opened));
        }
        Ok(())
    }

    /// SIGTERM.
    pub(crate) fn shut_down(&mut self) {
        self.stopping = true;
        for node in &mut self.nodes {
            node.inputs.push(Input::Shutdown);
        }
    }

    /// The process is about to die: what is on its way to clients may still come, in part.
    pub(crate) fn last_words(&mut self, rng: &mut Prng, trace: &mut Trace) -> Check {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            let waiting = self.conns.get(&id).map_or(0, |c| c.outbound.len());
            for _ in 0..rng.below(waiting as u64 + 1) {
                self.deliver(id, rng, trace)?;
            }
        }
        Ok(())
    }

    /// The process is gone, and with it every connection.
    pub(crate) fn process_ends(&mut self) {
        for conn in self.conns.values_mut() {
            conn.closed_at_client = true;
            conn.closed_at_shard = true;
            conn.inbound.clear();
            conn.outbound.clear();
        }
        self.nodes.clear();
        self.mesh.clear();
        self.jobs.clear();
        self.heights.clear();
        self.stopping = false;
        self.fatal = None;
    }
}

fn assemble(
    ring: &mut Ring,
    disk: &MemDisk,
    response: Response,
    rng: &mut Prng,
) -> Result<Bytes, IoFailure> {
    let mut bytes = Vec::with_capacity(response.len());
    for segment in &response.segments {
        match segment {
            Segment::Bytes(b) => bytes.extend_from_slice(b),
            Segment::File(slice) => bytes.extend(ring.slice(disk, slice, rng)?),
        }
    }
    Ok(bytes.into())
}

fn check_size(bytes: &[u8], announced: usize) -> Check {
    let size = bytes
        .first_chunk::<4>()
        .map(|b| u32::from_be_bytes(*b) as usize);
    if bytes.len() == announced && size == Some(announced - 4) {
        return Ok(());
    }
    let len = bytes.len();
    Err(format!(
        "a response of {len} bytes says {size:?}, its segments {announced}"
    ))
}

fn message_name(message: &Message) -> String {
    match message {
        Message::Batch(batch) => format!("Batch({})", batch.len()),
        Message::Forward(n, _) => format!("Forward({n})"),
        Message::Forwarded(n, _) => format!("Forwarded({n})"),
        Message::ForwardedClose(n, reason) => format!("ForwardedClose({n}, {reason})"),
        Message::Image(image, _) => format!("Image({})", image.index()),
        Message::Applied(version) => format!("Applied({version})"),
        Message::Registered => "Registered".to_owned(),
        Message::Checkpoint(lines) => format!("Checkpoint({})", lines.len()),
        Message::Cleaned(line) => format!("Cleaned({line:?})"),
        Message::LogsClosed(lines) => format!("LogsClosed({})", lines.len()),
        Message::DirFailed(n, _) => format!("DirFailed({n})"),
        Message::DirFull(n) => format!("DirFull({n})"),
        Message::DirRoom(n, full) => format!("DirRoom({n}, {full})"),
        Message::DirGrant(n, bytes) => format!("DirGrant({n}, {bytes})"),
        Message::Moved(tp, line) => format!("Moved({tp:?} to {})", line.log_dir),
    }
}
