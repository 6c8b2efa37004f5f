//! Connections with requests in flight; `drive` turns them, in one thread.
//!
//! Nothing is allocated per request. All connections read into one buffer, so that it stays in the
//! cache; only what is left of an answer is kept by its connection. Small requests that are due
//! together leave in one write; a large one goes out of its frame as it stands there. Of a long
//! answer only the head is read, the rest is discarded by the kernel uncopied (`MSG_TRUNC`): a
//! client that copied what it was served would be slower than the brokers it measures.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use rustix::net::{RecvFlags, recv, sockopt};

use crate::frames;

/// The buffer that all connections read into.
const INPUT_BYTES: usize = 512 * 1024;
/// Frames up to this length are gathered, several in one write.
const SMALL_FRAME_BYTES: usize = 8 * 1024;
/// As many bytes are gathered at most.
const GATHER_BYTES: usize = 64 * 1024;
/// Reads of one connection before others get their turn.
const READS_PER_TURN: usize = 2;
/// A request that is sent later than this after it was due was late.
const LATE_NS: u64 = 1_000_000;
/// `send.buffer.bytes` of Kafka's producer.
pub const KAFKA_SEND_BUFFER: usize = 128 * 1024;

/// When one request was due, sent and answered, in nanoseconds of the run's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the sentence above
pub struct Times {
    pub due_ns: u64,
    pub sent_ns: u64,
    pub now_ns: u64,
}

/// What a connection does with its requests and answers.
pub trait Role {
    /// Changes the frame for the next send. `due_ns`: when it was due.
    fn prepare(&mut self, _frame: &mut [u8], _due_ns: u64) {}

    /// How much of an answer is worth reading; the rest is discarded.
    fn head_bytes(&self) -> usize {
        usize::MAX
    }

    /// Takes one answer: all of it, or its head when it is longer than `head_bytes`; `length` is
    /// that of the whole.
    ///
    /// # Errors
    /// The broker refused, or the answer is broken: ends the run.
    fn answer(&mut self, response: &[u8], length: usize, times: Times) -> Result<()>;

    /// A request that was due at `due_ns` has no answer at the end of the run.
    fn unanswered(&mut self, _due_ns: u64, _now_ns: u64) {}
}

/// When a connection sends.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// This many requests in flight, always.
    Closed(usize),
    /// One request each so many nanoseconds, the first after the given delay.
    Open {
        /// From one request of this connection to its next.
        every_ns: f64,
        /// From the start to its first.
        first_ns: f64,
    },
}

/// Requests of an open loop that were due in the measured time.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)] // as the report's
pub struct Lateness {
    pub sent: u64,
    pub late: u64,
    pub blocked: u64,
}

/// What the connections of a run share.
#[derive(Debug)]
pub(crate) struct Context {
    clock: Instant,
    from_ns: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Of all open loops.
    pub(crate) lateness: Lateness,
}

impl Context {
    /// Begins the run's clock; the measured time begins at `from_ns` of it.
    pub(crate) fn new(from_ns: u64) -> Self {
        Self {
            clock: Instant::now(),
            from_ns,
            input: vec![0; INPUT_BYTES],
            output: Vec::with_capacity(GATHER_BYTES),
            lateness: Lateness::default(),
        }
    }

    /// Nanoseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// One connection with one frame that it sends again and again.
pub struct Connection<R> {
    pub(crate) stream: TcpStream,
    /// What it does.
    pub role: R,
    frame: Vec<u8>,
    /// Position in the frame being sent.
    sent: Option<usize>,
    /// Gathered frames that the socket did not take.
    unsent: Vec<u8>,
    /// The socket is full since its last write.
    pub(crate) blocked: bool,
    /// When it last stopped being full.
    unblocked_ns: u64,
    pace: Pace,
    /// Requests made so far, for the open loop.
    made: u64,
    /// Sent or being sent, with the time each was due and sent.
    pub(crate) in_flight: VecDeque<(u64, u64)>,
    next_id: i32,
    oldest_id: i32,
    /// Requests without an answer (acks=0) complete when they are sent.
    answers: bool,
    /// The beginning of an answer.
    partial: Vec<u8>,
    /// Bytes of it that are still to be discarded, and its length.
    skip: usize,
    length: usize,
}

/// How an attempt to read or write ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more to do until the socket says so.
    Done,
    /// Others first, then again.
    Again,
}

impl<R: Role> Connection<R> {
    /// Connects; `answers` is false where the broker sends none (acks=0). `send_buffer` is the
    /// socket's, `None` leaves it to the system.
    ///
    /// # Errors
    /// Refused.
    pub fn open(
        address: SocketAddr,
        frame: Vec<u8>,
        role: R,
        pace: Pace,
        answers: bool,
        send_buffer: Option<usize>,
    ) -> Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        if let Some(bytes) = send_buffer {
            sockopt::set_socket_send_buffer_size(&stream, bytes)?;
        }
        Ok(Self {
            stream: TcpStream::from_std(stream),
            role,
            frame,
            sent: None,
            unsent: Vec::new(),
            blocked: false,
            unblocked_ns: 0,
            pace,
            made: 0,
            in_flight: VecDeque::with_capacity(1024),
            next_id: 0,
            oldest_id: 0,
            answers,
            partial: Vec::new(),
            skip: 0,
            length: 0,
        })
    }

    pub(crate) fn open_loop(&self) -> bool {
        matches!(self.pace, Pace::Open { .. })
    }

    /// When the next request is due, if the pace allows one by `now_ns`.
    pub(crate) fn next_due(&self, now_ns: u64) -> Option<u64> {
        match self.pace {
            Pace::Closed(depth) => (self.in_flight.len() < depth).then_some(now_ns),
            Pace::Open { every_ns, first_ns } => {
                let due_ns = (first_ns + every_ns * self.made as f64) as u64;
                (due_ns <= now_ns).then_some(due_ns)
            }
        }
    }

    /// Makes the next request in the frame.
    fn make(&mut self, due_ns: u64, sent_ns: u64, context: &mut Context) {
        frames::set_correlation(&mut self.frame, self.next_id);
        self.role.prepare(&mut self.frame, due_ns);
        self.next_id = self.next_id.wrapping_add(1);
        self.made += 1;
        self.in_flight.push_back((due_ns, sent_ns));
        if self.open_loop() && due_ns >= context.from_ns {
            let counts = &mut context.lateness;
            counts.sent += 1;
            if sent_ns.saturating_sub(due_ns) > LATE_NS {
                // A request that waited for a full socket was held up by the broker.
                let held = self.unblocked_ns >= due_ns;
                *(if held {
                    &mut counts.blocked
                } else {
                    &mut counts.late
                }) += 1;
            }
        }
    }

    /// Writes as much of `bytes` as the socket takes.
    fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|r| !r.is_empty()) {
            match stream.write(rest) {
                Ok(0) => bail!("the connection is closed"),
                Ok(count) => done += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    /// Finishes what an earlier turn began; false when the socket is still full.
    pub(crate) fn flush(&mut self, context: &Context) -> Result<bool> {
        if let Some(at) = self.sent {
            let rest = self.frame.get(at..).unwrap_or_default();
            let count = Self::write(&mut self.stream, rest)?;
            self.sent = (count < rest.len()).then_some(at + count);
        } else if !self.unsent.is_empty() {
            let count = Self::write(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..count);
        }
        let was = self.blocked;
        self.blocked = self.sent.is_some() || !self.unsent.is_empty();
        if was && !self.blocked {
            self.unblocked_ns = context.now();
        }
        Ok(!self.blocked)
    }

    /// Sends what is due until the socket is full.
    pub(crate) fn send(&mut self, context: &mut Context) -> Result<Turn> {
        if !self.flush(context)? {
            return Ok(Turn::Done);
        }
        let small = self.frame.len() <= SMALL_FRAME_BYTES;
        loop {
            if !self.answers {
                self.complete_sent(context)?;
            }
            let now_ns = context.now();
            let Some(due_ns) = self.next_due(now_ns) else {
                return Ok(Turn::Done);
            };
            if small {
                self.gather(now_ns, context);
                let count = Self::write(&mut self.stream, &context.output)?;
                let rest = context.output.get(count..).unwrap_or_default();
                self.unsent.extend_from_slice(rest);
            } else {
                self.make(due_ns, now_ns, context);
                let count = Self::write(&mut self.stream, &self.frame)?;
                self.sent = (count < self.frame.len()).then_some(count);
            }
            self.blocked = self.sent.is_some() || !self.unsent.is_empty();
            if self.blocked {
                return Ok(Turn::Done);
            }
            if !self.answers {
                // Without answers nothing else ends this loop.
                self.complete_sent(context)?;
                return Ok(Turn::Again);
            }
        }
    }

    /// Puts all requests that are due one behind the other.
    fn gather(&mut self, now_ns: u64, context: &mut Context) {
        context.output.clear();
        while let Some(due_ns) = self.next_due(now_ns) {
            if context.output.len() + self.frame.len() > GATHER_BYTES {
                break;
            }
            self.make(due_ns, now_ns, context);
            context.output.extend_from_slice(&self.frame);
        }
    }

    fn complete_sent(&mut self, context: &Context) -> Result<()> {
        let now_ns = context.now();
        while let Some((due_ns, sent_ns)) = self.in_flight.pop_front() {
            let times = Times {
                due_ns,
                sent_ns,
                now_ns,
            };
            self.role.answer(&[], 0, times)?;
        }
        Ok(())
    }

    /// Reads until the socket is empty and hands over complete answers.
    pub(crate) fn receive(&mut self, context: &mut Context) -> Result<Turn> {
        for _ in 0..READS_PER_TURN {
            let (wanted, got) = if self.skip > 0 {
                let wanted = self.skip.min(context.input.len());
                (wanted, self.discard(wanted, context)?)
            } else {
                let start = self.partial.len();
                if let Some(place) = context.input.get_mut(..start) {
                    place.copy_from_slice(&self.partial);
                }
                let room = context.input.len() - start;
                let head = self.role.head_bytes().saturating_add(4);
                let wanted = room.min(head.saturating_sub(start).max(1));
                let place = context.input.get_mut(start..start + wanted);
                match self.stream.read(place.unwrap_or_default()) {
                    Ok(0) => bail!("the broker closed the connection"),
                    Ok(count) => {
                        self.partial.clear();
                        self.take(start + count, context)?;
                        (wanted, count)
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => (wanted, 0),
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e.into()),
                }
            };
            // A short read empties a stream socket: the next bytes raise a new event.
            if got < wanted {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::Again)
    }

    /// Lets the kernel drop bytes of the answer without copying them.
    fn discard(&mut self, wanted: usize, context: &mut Context) -> Result<usize> {
        let place = context.input.get_mut(..wanted).unwrap_or_default();
        let count = match recv(&self.stream, place, RecvFlags::TRUNC) {
            Ok((_, 0)) => bail!("the broker closed the connection"),
            Ok((_, count)) => count,
            Err(rustix::io::Errno::AGAIN) => return Ok(0),
            Err(rustix::io::Errno::INTR) => return Ok(wanted),
            Err(e) => return Err(e.into()),
        };
        self.skip = self.skip.saturating_sub(count);
        if self.skip == 0 {
            let head = std::mem::take(&mut self.partial);
            let response = head.get(4..).unwrap_or_default();
            self.one(response, self.length, context.now())?;
            self.partial = head;
            self.partial.clear();
        }
        Ok(count)
    }

    /// Takes the answers in the first `filled` bytes of the input.
    fn take(&mut self, filled: usize, context: &mut Context) -> Result<()> {
        let now_ns = context.now();
        let head_bytes = self.role.head_bytes();
        let mut at = 0;
        while let Some(bytes) = context.input.get(at..filled)
            && let Some(prefix) = bytes.first_chunk::<4>()
        {
            let length = usize::try_from(i32::from_be_bytes(*prefix))?;
            if let Some(response) = bytes.get(4..4 + length) {
                self.one(response, length, now_ns)?;
                at += 4 + length;
                continue;
            }
            if bytes.len() - 4 >= head_bytes {
                self.skip = 4 + length - bytes.len();
                self.length = length;
            }
            break;
        }
        let rest = context.input.get(at..filled).unwrap_or_default();
        self.partial.extend_from_slice(rest);
        // Room for the whole of a long answer that is read to its end.
        if self.skip == 0
            && let Some(prefix) = self.partial.first_chunk::<4>()
        {
            let whole = 4 + usize::try_from(i32::from_be_bytes(*prefix))?;
            if head_bytes == usize::MAX && whole > context.input.len() {
                context.input.resize(whole + INPUT_BYTES, 0);
            }
        }
        Ok(())
    }

    fn one(&mut self, response: &[u8], length: usize, now_ns: u64) -> Result<()> {
        frames::expect_correlation(response, self.oldest_id)?;
        self.oldest_id = self.oldest_id.wrapping_add(1);
        let (due_ns, sent_ns) = self
            .in_flight
            .pop_front()
            .context("an answer to no request")?;
        let times = Times {
            due_ns,
            sent_ns,
            now_ns,
        };
        self.role.answer(response, length, times)
    }

    /// Counts what has no answer: in flight, or due and never sent.
    pub(crate) fn abandon(&mut self, limit_ns: u64, now_ns: u64) {
        if !self.open_loop() {
            return;
        }
        while let Some((due_ns, _)) = self.in_flight.pop_front() {
            self.role.unanswered(due_ns, now_ns);
        }
        while let Some(due_ns) = self.next_due(limit_ns) {
            self.made += 1;
            self.role.unanswered(due_ns, now_ns);
        }
    }
}
