//! The event loop: connections with requests in flight, driven by one thread.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::frames;

/// Room that one read offers at least.
const READ_BYTES_MIN: usize = 256 * 1024;

/// What a connection does with its requests and answers.
pub trait Role {
    /// Changes the frame for the next send. `due_ns`: when it was due.
    fn prepare(&mut self, _frame: &mut [u8], _due_ns: u64) {}

    /// Takes one answer. `due_ns` is that of its request, `now_ns` the time it was complete.
    ///
    /// # Errors
    /// The broker refused, or the answer is broken: ends the run.
    fn answer(&mut self, response: &[u8], due_ns: u64, now_ns: u64) -> Result<()>;
}

/// When a connection sends.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// This many requests in flight, always.
    Closed(usize),
    /// One request each so many nanoseconds, the first after the given delay.
    Open {
        /// From one request of this connection to its next.
        every_ns: u64,
        /// From the start to its first.
        first_ns: u64,
    },
}

/// One connection with one frame that it sends again and again.
pub struct Connection<R> {
    stream: TcpStream,
    /// What it does.
    pub role: R,
    frame: Vec<u8>,
    /// Position in the frame being sent.
    sent: Option<usize>,
    pace: Pace,
    next_due_ns: u64,
    /// Due but not begun, for the open loop.
    waiting: VecDeque<u64>,
    /// Sent or being sent, with the time each was due.
    in_flight: VecDeque<u64>,
    next_id: i32,
    oldest_id: i32,
    /// Requests without an answer (acks=0) complete when they are sent.
    answers: bool,
    input: Vec<u8>,
    filled: usize,
}

impl<R: Role> Connection<R> {
    /// Connects; `answers` is false where the broker sends none (acks=0).
    ///
    /// # Errors
    /// Refused.
    pub fn open(
        address: SocketAddr,
        frame: Vec<u8>,
        role: R,
        pace: Pace,
        answers: bool,
    ) -> Result<Self> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            role,
            frame,
            sent: None,
            pace,
            next_due_ns: match pace {
                Pace::Closed(_) => 0,
                Pace::Open { first_ns, .. } => first_ns,
            },
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_id: 0,
            oldest_id: 0,
            answers,
            input: vec![0; READ_BYTES_MIN],
            filled: 0,
        })
    }

    /// Makes requests due; `open` is false once the run only drains.
    fn make_due(&mut self, now_ns: u64, open: bool) {
        match self.pace {
            _ if !open => {}
            Pace::Closed(depth) => {
                while self.in_flight.len() + self.waiting.len() < depth {
                    self.waiting.push_back(now_ns);
                }
            }
            Pace::Open { every_ns, .. } => {
                while self.next_due_ns <= now_ns {
                    self.waiting.push_back(self.next_due_ns);
                    self.next_due_ns += every_ns;
                }
            }
        }
    }

    /// Sends what is due until the socket is full.
    fn send(&mut self, clock: Instant) -> Result<()> {
        loop {
            let at = match self.sent {
                Some(at) => at,
                None => {
                    let Some(due_ns) = self.waiting.pop_front() else {
                        return Ok(());
                    };
                    frames::set_correlation(&mut self.frame, self.next_id);
                    self.role.prepare(&mut self.frame, due_ns);
                    self.next_id = self.next_id.wrapping_add(1);
                    self.in_flight.push_back(due_ns);
                    0
                }
            };
            let rest = self.frame.get(at..).unwrap_or_default();
            match self.stream.write(rest) {
                Ok(0) => bail!("the connection is closed"),
                Ok(count) if count < rest.len() => self.sent = Some(at + count),
                Ok(_) => {
                    self.sent = None;
                    if !self.answers
                        && let Some(due_ns) = self.in_flight.pop_front()
                    {
                        self.role.answer(&[], due_ns, elapsed(clock))?;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.sent = Some(at);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => self.sent = Some(at),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Reads until the socket is empty and hands over complete answers.
    fn receive(&mut self, clock: Instant) -> Result<()> {
        loop {
            if self.input.len() - self.filled < READ_BYTES_MIN / 2 {
                self.input.resize(self.input.len() * 2, 0);
            }
            let room = self.input.get_mut(self.filled..).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => bail!("the broker closed the connection"),
                Ok(count) => self.filled += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            }
            self.answers(clock)?;
        }
    }

    fn answers(&mut self, clock: Instant) -> Result<()> {
        let mut at = 0;
        while let Some(prefix) = self
            .input
            .get(at..self.filled)
            .and_then(|b| b.first_chunk::<4>())
        {
            let length = usize::try_from(i32::from_be_bytes(*prefix))?;
            let end = at + 4 + length;
            if end > self.filled {
                if self.input.len() < end {
                    self.input.resize(end + READ_BYTES_MIN, 0);
                }
                break;
            }
            let response = self
                .input
                .get(at + 4..end)
                .context("a frame inside the input")?;
            frames::expect_correlation(response, self.oldest_id)?;
            self.oldest_id = self.oldest_id.wrapping_add(1);
            let due_ns = self
                .in_flight
                .pop_front()
                .context("an answer to no request")?;
            self.role.answer(response, due_ns, elapsed(clock))?;
            at = end;
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}

fn elapsed(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Drives the connections until `limit` after `clock`, then waits up to 5 s for the answers of
/// connections whose requests end by themselves.
///
/// # Errors
/// A connection ended or a role refused an answer.
pub fn drive<R: Role>(
    connections: &mut [Connection<R>],
    clock: Instant,
    limit: Duration,
    mut at_mark: impl FnMut(u64),
) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    for (n, connection) in connections.iter_mut().enumerate() {
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut connection.stream, Token(n), interest)?;
    }
    // A timer of epoll has a millisecond's grain: the open loop spins on its own CPU instead.
    let open_loop = connections
        .iter()
        .any(|c| matches!(c.pace, Pace::Open { .. }));
    let wait = Duration::from_millis(if open_loop { 0 } else { 100 });
    while clock.elapsed() < limit {
        let now_ns = elapsed(clock);
        at_mark(now_ns);
        for connection in connections.iter_mut() {
            connection.make_due(now_ns, true);
            connection.send(clock)?;
        }
        poll.poll(&mut events, Some(wait))?;
        for event in &events {
            if let Some(connection) = connections.get_mut(event.token().0)
                && event.is_readable()
            {
                connection.receive(clock)?;
            }
        }
    }
    Ok(())
}
