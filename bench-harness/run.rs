//! What all workloads share: the roles of their connections and the measurement.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::args::{Codec, Common};
use crate::batch::{Batch, Shape, encode, records_for};
use crate::drive::{Effort, drive};
use crate::engine::{Connection, Pace, Role, Times};
use crate::observe::{SAMPLE_EVERY, Watch};
use crate::produce::Producer;
use crate::read::{Catcher, Follower};
use crate::report::{Client, Report};
use crate::tally::{Tally, write_log};

/// A tally that several connections add to.
pub type Shared = Rc<RefCell<Tally>>;

/// What one connection does.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one per connection
pub enum Work {
    /// Sends batches.
    Produce(Producer),
    /// Reads from the beginning, again and again.
    CatchUp(Catcher),
    /// Reads what is new.
    Follow(Follower),
}

impl Role for Work {
    fn prepare(&mut self, frame: &mut [u8], due_ns: u64) {
        match self {
            Self::Produce(producer) => producer.prepare(frame, due_ns),
            Self::CatchUp(catcher) => catcher.prepare(frame),
            Self::Follow(follower) => follower.prepare(frame),
        }
    }

    fn head_bytes(&self) -> usize {
        match self {
            Self::CatchUp(catcher) => catcher.head_bytes(),
            Self::Produce(_) | Self::Follow(_) => usize::MAX,
        }
    }

    fn answer(&mut self, response: &[u8], length: usize, times: Times) -> Result<()> {
        match self {
            Self::Produce(producer) => producer.answer(response, times),
            Self::CatchUp(catcher) => catcher.answer(response, length, times),
            Self::Follow(follower) => follower.answer(response, times),
        }
    }

    fn unanswered(&mut self, due_ns: u64, now_ns: u64) {
        if let Self::Produce(producer) = self {
            producer.unanswered(due_ns, now_ns);
        }
    }
}

/// Whether the client was the bound, in a sentence. `broker` is the part of one CPU that the broker
/// used, of its whole CPU where that is known; `had_cpu` that which the client had of its own.
fn saturation(open: bool, client: &Client, had_cpu: f64, broker: Option<f64>) -> Option<String> {
    let percent = |part: f64| part * 100.0;
    if open {
        // It spins, so that a thread with its CPU to itself is on it all the time.
        let why = if had_cpu < 0.95 {
            format!("it had its CPU only {:.0} % of the time", percent(had_cpu))
        } else {
            "it was busy itself".to_owned()
        };
        return (client.late_fraction > 0.01).then(|| {
            format!(
                "the client sent {:.1} % of the requests more than 1 ms after they were due: {why}",
                percent(client.late_fraction)
            )
        });
    }
    if client.busy < 0.95 {
        return None;
    }
    match broker {
        Some(broker) if broker >= 0.9 => None,
        Some(broker) => Some(format!(
            "the client was busy {:.0} % of the time and the broker's CPU only {:.0} %",
            percent(client.busy),
            percent(broker)
        )),
        None => Some(format!(
            "the client was busy {:.0} % of the time; what the broker used is not known",
            percent(client.busy)
        )),
    }
}

impl Common {
    /// When connection `n` of `count` sends.
    pub fn pace(&self, n: usize, count: usize) -> Pace {
        let Some(rate) = self.rate else {
            return Pace::Closed(self.in_flight);
        };
        let every_ns = 1e9 * count as f64 / rate;
        // The connections take turns, so that the sum is even.
        let first_ns = every_ns * n as f64 / count as f64;
        Pace::Open { every_ns, first_ns }
    }

    /// The batch that is sent again and again.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn batch(&self, codec: Codec) -> Result<Batch> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        encode(Shape {
            records: records_for(self.batch_bytes, self.record_bytes),
            value_bytes: self.record_bytes,
            timestamp_ms: i64::try_from(now.as_millis())?,
            codec,
        })
    }

    /// An empty tally for this run.
    ///
    /// # Errors
    /// As `Tally::new`.
    pub fn tally(&self, name: &str, open: bool) -> Result<Shared> {
        let log = self.hdr_log.is_some();
        let tally = Tally::new(name, self.warmup, self.seconds, open, log)?;
        Ok(Rc::new(RefCell::new(tally)))
    }

    /// Runs the connections and reports on `main`, with `second` beside it.
    ///
    /// # Errors
    /// The broker refused or went away, or nothing was answered.
    pub fn measure(
        &self,
        mut connections: Vec<Connection<Work>>,
        main: &Shared,
        second: Option<&Shared>,
    ) -> Result<Report> {
        let (warmup, seconds) = (self.warmup, self.seconds);
        let from_ns = Duration::from_secs_f64(warmup).as_nanos();
        let until_ns = Duration::from_secs_f64(warmup + seconds).as_nanos();
        let mut watch: Option<Watch> = None;
        let mut cost = None;
        let mut look_ns = from_ns;
        let started = SystemTime::now();
        let spans = (
            Duration::from_secs_f64(warmup),
            Duration::from_secs_f64(seconds),
        );
        let effort = drive(&mut connections, spans.0, spans.1, self.spin, |now_ns| {
            main.borrow_mut().tick(now_ns)?;
            if let Some(second) = second {
                second.borrow_mut().tick(now_ns)?;
            }
            let now_ns = u128::from(now_ns);
            let Some(pid) = self.broker_pid.filter(|_| now_ns >= look_ns) else {
                return Ok(());
            };
            look_ns = (look_ns + SAMPLE_EVERY.as_nanos()).min(until_ns);
            match &mut watch {
                // The answers that come late belong to no measured second: the end is here.
                Some(_) if now_ns >= until_ns => {
                    look_ns = u128::MAX;
                    let (requests, bytes) = moved(main, second);
                    cost = watch.take().map(|w| w.finish(requests, bytes));
                }
                Some(watch) => watch.again()?,
                None => watch = Some(Watch::start(pid, self.broker_cpu)?),
            }
            Ok(())
        })?;
        drop(connections);
        ensure!(
            main.borrow().counts().0 > 0,
            "nothing was answered in the measured time"
        );
        let mut report = main.borrow().report(&self.scenario)?;
        report.second = second.map(|s| s.borrow().stream()).transpose()?;
        report.broker = cost.transpose()?;
        report.client = self.client(effort, &report);
        if let Some(path) = &self.hdr_log {
            let main = main.borrow();
            let second = second.map(|s| s.borrow());
            let all: Vec<&Tally> = std::iter::once(&*main).chain(second.as_deref()).collect();
            write_log(path, started, &all)?;
        }
        Ok(report)
    }

    fn client(&self, effort: Effort, report: &Report) -> Client {
        let open = self.rate.is_some();
        let of = |part: u64| part as f64 / effort.lateness.sent.max(1) as f64;
        // Time without the CPU, taken by another process, is no waiting either.
        let awake = 1.0 - effort.waited_seconds / self.seconds;
        let on_cpu = effort.cpu_seconds / self.seconds;
        let busy = if self.spin { awake } else { awake.max(on_cpu) };
        let mut client = Client {
            cpu_seconds: effort.cpu_seconds,
            busy: if open { 1.0 } else { busy.clamp(0.0, 1.0) },
            late_fraction: of(effort.lateness.late),
            blocked_fraction: of(effort.lateness.blocked),
            offered_per_second: self.rate,
            saturated: None,
        };
        let broker = report.broker.as_ref().map(|b| {
            let used = b.cpu_busy_seconds.unwrap_or(0.0).max(b.cpu_seconds);
            used / self.seconds
        });
        client.saturated = saturation(open, &client, effort.cpu_seconds / self.seconds, broker);
        client
    }
}

/// Requests and bytes of both kinds of traffic.
fn moved(main: &Shared, second: Option<&Shared>) -> (u64, u64) {
    let (requests, bytes) = main.borrow().counts();
    let beside = second.map_or((0, 0), |s| s.borrow().counts());
    (requests + beside.0, bytes + beside.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(busy: f64, late: f64) -> Client {
        Client {
            busy,
            late_fraction: late,
            ..Client::default()
        }
    }

    #[test]
    fn a_busy_client_beside_an_idle_broker_is_named() {
        let text = saturation(false, &client(0.99, 0.0), 1.0, Some(0.5)).unwrap();
        assert!(text.contains("99 %") && text.contains("50 %"), "{text}");
        assert!(saturation(false, &client(0.99, 0.0), 1.0, Some(0.95)).is_none());
        assert!(saturation(false, &client(0.94, 0.0), 1.0, Some(0.5)).is_none());
        assert!(saturation(false, &client(0.97, 0.0), 1.0, None).is_some());
    }

    #[test]
    fn an_open_loop_is_judged_by_what_it_sent_late() {
        assert!(saturation(true, &client(1.0, 0.005), 1.0, Some(0.1)).is_none());
        let text = saturation(true, &client(1.0, 0.02), 1.0, Some(0.1)).unwrap();
        assert!(
            text.contains("2.0 %") && text.contains("busy itself"),
            "{text}"
        );
        let text = saturation(true, &client(1.0, 0.02), 0.4, Some(0.1)).unwrap();
        assert!(text.contains("only 40 %"), "{text}");
    }

    #[test]
    fn open_connections_take_turns() {
        let pace = |n| match (Pace::Open {
            every_ns: 4e6,
            first_ns: 1e6 * n as f64,
        }) {
            Pace::Open { every_ns, first_ns } => (every_ns, first_ns),
            Pace::Closed(_) => unreachable!(),
        };
        let common = crate::testing::common("127.0.0.1:1", &["--rate", "1000"]);
        for n in 0..4 {
            let Pace::Open { every_ns, first_ns } = common.pace(n, 4) else {
                panic!("an open loop");
            };
            assert_eq!((every_ns, first_ns), pace(n));
        }
    }
}
