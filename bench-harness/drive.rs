//! The event loop over all connections of a run.

use std::time::Duration;

use anyhow::Result;
use mio::{Events, Interest, Poll, Token};

use crate::engine::{Connection, Context, Lateness, Role, Turn};
use crate::observe::own_cpu_seconds;

/// How long an open loop waits for its last answers.
const DRAIN: Duration = Duration::from_secs(3);
/// How long readers then have for what was answered last.
const SETTLE: Duration = Duration::from_millis(100);

/// How the client itself fared in the measured time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Effort {
    /// Requests of open loops.
    pub lateness: Lateness,
    /// Seconds of waiting for events.
    pub waited_seconds: f64,
    /// CPU time of the client's thread.
    pub cpu_seconds: f64,
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Drives the connections for `warmup` and `measured`, then waits a little for the last answers of
/// open loops. `spin`: a closed loop does not sleep either. `at_mark` is called at each turn with
/// the time in nanoseconds.
///
/// # Errors
/// A connection ended, a role refused an answer, or `at_mark` failed.
pub fn drive<R: Role>(
    connections: &mut [Connection<R>],
    warmup: Duration,
    measured: Duration,
    spin: bool,
    mut at_mark: impl FnMut(u64) -> Result<()>,
) -> Result<Effort> {
    let mut run = Run::new(connections, nanos(warmup), nanos(warmup + measured))?;
    run.spin = spin;
    let mut events = Events::with_capacity(1024);
    loop {
        let now_ns = run.context.now();
        at_mark(now_ns)?;
        run.meter.look(now_ns);
        if now_ns >= run.limit_ns && run.is_over(now_ns) {
            break;
        }
        run.turn(now_ns, &mut events)?;
    }
    let now_ns = run.context.now();
    for connection in run.connections.iter_mut() {
        connection.abandon(run.limit_ns, now_ns);
    }
    run.meter.effort.lateness = run.context.lateness;
    Ok(run.meter.effort)
}

struct Run<'a, R> {
    connections: &'a mut [Connection<R>],
    poll: Poll,
    context: Context,
    meter: Meter,
    /// Poll without sleeping.
    spin: bool,
    /// Connections with an open loop.
    paced: Vec<usize>,
    /// Connections that had more to do than one turn's worth, and those of the turn under way.
    again: Vec<usize>,
    next: Vec<usize>,
    limit_ns: u64,
    /// Behind the limit: open loops only wait for their answers.
    draining: bool,
    /// When an open loop was last seen to wait for an answer.
    settled_ns: u64,
}

impl<'a, R: Role> Run<'a, R> {
    fn new(connections: &'a mut [Connection<R>], from_ns: u64, limit_ns: u64) -> Result<Self> {
        let poll = Poll::new()?;
        let mut paced = Vec::new();
        for (n, connection) in connections.iter_mut().enumerate() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut connection.stream, Token(n), interest)?;
            if connection.open_loop() {
                paced.push(n);
            }
        }
        let again: Vec<usize> = (0..connections.len()).collect();
        Ok(Self {
            next: Vec::with_capacity(connections.len()),
            connections,
            poll,
            context: Context::new(from_ns),
            meter: Meter::new(from_ns),
            spin: false,
            paced,
            again,
            limit_ns,
            draining: false,
            settled_ns: limit_ns,
        })
    }

    /// Whether the last answers are there, or are waited for no longer.
    fn is_over(&mut self, now_ns: u64) -> bool {
        self.draining = true;
        self.meter.finish();
        let connections = &*self.connections;
        let owing = |n: &usize| connections.get(*n).is_some_and(|c| !c.in_flight.is_empty());
        if self.paced.iter().any(owing) {
            self.settled_ns = now_ns;
        }
        let readers = !self.paced.is_empty() && self.paced.len() < connections.len();
        let settle_ns = if readers { nanos(SETTLE) } else { 0 };
        now_ns >= self.limit_ns + nanos(DRAIN) || now_ns >= self.settled_ns + settle_ns
    }

    /// Sends what open loops have due.
    fn send_due(&mut self, now_ns: u64) -> Result<()> {
        for n in &self.paced {
            if let Some(connection) = self.connections.get_mut(*n)
                && !connection.blocked
                && !self.draining
                && connection.next_due(now_ns).is_some()
                && connection.send(&mut self.context)? == Turn::Again
            {
                self.next.push(*n);
            }
        }
        Ok(())
    }

    fn turn(&mut self, now_ns: u64, events: &mut Events) -> Result<()> {
        self.send_due(now_ns)?;
        self.again.append(&mut self.next);
        // A timer of epoll has a millisecond's grain: the open loop spins on its own CPU instead.
        let idle = self.again.is_empty() && self.paced.is_empty() && !self.spin;
        let wait = Duration::from_millis(if idle { 50 } else { 0 });
        let before_ns = self.context.now();
        self.poll.poll(events, Some(wait))?;
        self.meter.waited(before_ns, self.context.now());
        let again = std::mem::take(&mut self.again);
        let ready = events.iter().map(|e| (e.token().0, e.is_readable()));
        for (n, readable) in ready.chain(again.iter().map(|n| (*n, true))) {
            let Some(connection) = self.connections.get_mut(n) else {
                continue;
            };
            let mut turn = Turn::Done;
            if readable {
                turn = connection.receive(&mut self.context)?;
            }
            let sending = if self.draining && connection.open_loop() {
                connection.flush(&self.context)?;
                Turn::Done
            } else {
                connection.send(&mut self.context)?
            };
            if turn == Turn::Again || sending == Turn::Again {
                self.next.push(n);
            }
            // What one connection was served must not make another one late.
            if !self.paced.is_empty() {
                self.send_due(self.context.now())?;
            }
        }
        self.again = std::mem::replace(&mut self.next, again);
        self.next.clear();
        Ok(())
    }
}

/// Measures the client itself from the end of the warm-up to the end.
struct Meter {
    from_ns: u64,
    cpu_at_start: Option<f64>,
    finished: bool,
    waited_ns: u64,
    effort: Effort,
}

impl Meter {
    fn new(from_ns: u64) -> Self {
        Self {
            from_ns,
            cpu_at_start: None,
            finished: false,
            waited_ns: 0,
            effort: Effort::default(),
        }
    }

    fn look(&mut self, now_ns: u64) {
        if now_ns >= self.from_ns && self.cpu_at_start.is_none() {
            self.cpu_at_start = Some(own_cpu_seconds());
            self.waited_ns = 0;
        }
    }

    fn waited(&mut self, before_ns: u64, after_ns: u64) {
        self.waited_ns += after_ns - before_ns.min(after_ns);
    }

    fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            let begin = self.cpu_at_start.unwrap_or(0.0);
            self.effort.cpu_seconds = own_cpu_seconds() - begin;
            self.effort.waited_seconds = self.waited_ns as f64 / 1e9;
        }
    }
}
