//! The three workloads: produce, fetch (catching up), end to end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

pub use crate::args::{Common, FetchArgs, ProduceArgs};
use crate::batch::{Batch, batch, records_for, seal};
use crate::engine::{Connection, Pace, Role, drive};
use crate::frames;
use crate::observe::Watch;
use crate::report::Report;
use crate::setup::{Admin, resolve};

/// Longest latency that is told apart.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Sums of the measured time; requests that were due before it do not count.
#[derive(Debug)]
struct Tally {
    from_ns: u64,
    requests: u64,
    bytes: u64,
    latency: Histogram<u64>,
}

impl Tally {
    fn new(warmup: f64) -> Result<Rc<RefCell<Self>>> {
        let latency = Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3)?;
        let from_ns = Duration::from_secs_f64(warmup).as_nanos();
        let from_ns = u64::try_from(from_ns)?;
        Ok(Rc::new(RefCell::new(Self {
            from_ns,
            requests: 0,
            bytes: 0,
            latency,
        })))
    }

    fn add(&mut self, bytes: u64, due_ns: u64, now_ns: u64) {
        // Work counts by its completion; a latency by when its request was due.
        if now_ns >= self.from_ns {
            self.requests += 1;
            self.bytes += bytes;
        }
        if due_ns >= self.from_ns {
            self.latency
                .saturating_record(now_ns.saturating_sub(due_ns));
        }
    }
}

type Shared = Rc<RefCell<Tally>>;

/// What one connection does.
enum Work {
    Produce {
        tally: Shared,
        bytes: u64,
        answers: bool,
    },
    Fetch {
        tally: Shared,
        offset: i64,
        offset_at: usize,
    },
    /// End to end: writes the due time into its record.
    Stamp { batch: Batch, batch_at: usize },
    /// End to end: reads the time from each record.
    Arrive {
        tally: Shared,
        offset: i64,
        offset_at: usize,
        value_at: usize,
    },
}

impl Role for Work {
    fn prepare(&mut self, frame: &mut [u8], due_ns: u64) {
        match self {
            Self::Produce { .. } => {}
            Self::Fetch {
                offset, offset_at, ..
            }
            | Self::Arrive {
                offset, offset_at, ..
            } => {
                frames::patch(frame, *offset_at, &offset.to_be_bytes());
            }
            Self::Stamp { batch, batch_at } => {
                frames::patch(&mut batch.bytes, batch.value_at, &due_ns.to_be_bytes());
                seal(&mut batch.bytes);
                frames::patch(frame, *batch_at, &batch.bytes);
            }
        }
    }

    fn answer(&mut self, response: &[u8], due_ns: u64, now_ns: u64) -> Result<()> {
        match self {
            Self::Produce {
                tally,
                bytes,
                answers,
            } => {
                if *answers {
                    frames::check_produced(response)?;
                }
                tally.borrow_mut().add(*bytes, due_ns, now_ns);
            }
            Self::Fetch { tally, offset, .. } => {
                let (records, high_watermark) = frames::fetched(response)?;
                if let Some((_, next, _)) = frames::batches(records).last() {
                    *offset = next;
                }
                if *offset >= high_watermark {
                    *offset = 0;
                }
                tally
                    .borrow_mut()
                    .add(u64::try_from(records.len())?, due_ns, now_ns);
            }
            Self::Stamp { .. } => frames::check_produced(response)?,
            Self::Arrive {
                tally,
                offset,
                value_at,
                ..
            } => {
                let (records, _) = frames::fetched(response)?;
                for (base, next, batch) in frames::batches(records) {
                    if base < *offset {
                        continue;
                    }
                    *offset = next;
                    let stamp = batch.get(*value_at..).and_then(|v| v.first_chunk::<8>());
                    let due_ns = u64::from_be_bytes(*stamp.context("a stamp")?);
                    tally
                        .borrow_mut()
                        .add(u64::try_from(batch.len())?, due_ns, now_ns);
                }
            }
        }
        Ok(())
    }
}

impl Common {
    fn pace(&self, connection: usize) -> Pace {
        let Some(rate) = self.rate else {
            return Pace::Closed(self.in_flight);
        };
        let every = 1e9 * self.connections as f64 / rate;
        // The connections take turns, so that the sum is even.
        let first = every * connection as f64 / self.connections as f64;
        Pace::Open {
            every_ns: every as u64,
            first_ns: first as u64,
        }
    }

    fn batch(&self) -> Batch {
        let records = records_for(self.batch_bytes, self.record_bytes);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(0);
        batch(records, self.record_bytes, now)
    }

    fn measure(&self, mut connections: Vec<Connection<Work>>, tally: &Shared) -> Result<Report> {
        let from_ns = tally.borrow().from_ns;
        let mut before = None;
        let limit = Duration::from_secs_f64(self.warmup + self.seconds);
        drive(&mut connections, Instant::now(), limit, |now_ns| {
            if now_ns >= from_ns && before.is_none() {
                before = self
                    .broker_pid
                    .map(|pid| Watch::start(pid, self.broker_cpu));
            }
        })?;
        let tally = tally.borrow();
        ensure!(
            tally.requests > 0,
            "nothing was answered in the measured time"
        );
        let mut report = Report::new(
            &self.scenario,
            self.seconds,
            tally.requests,
            tally.bytes,
            &tally.latency,
        )?;
        if let Some(watch) = before {
            report.broker = Some(watch?.finish(report.requests, report.bytes)?);
        }
        Ok(report)
    }
}

/// Produces the same batches over all connections.
///
/// # Errors
/// The broker refused or went away.
pub fn produce(args: &ProduceArgs) -> Result<Report> {
    let common = &args.common;
    let address = resolve(&common.bootstrap_server)?;
    Admin::connect(address)?.create_topic(&common.topic, common.partitions, &common.config)?;
    let made = common.batch();
    let per_request = i32::try_from(args.partitions_per_request)?.clamp(1, common.partitions);
    let tally = Tally::new(common.warmup)?;
    let mut connections = Vec::new();
    for n in 0..common.connections {
        let first = i32::try_from(n)? * per_request;
        let partitions: Vec<i32> = (first..first + per_request)
            .map(|p| p % common.partitions)
            .collect();
        let frame = frames::produce(&common.topic, &partitions, &made.bytes, args.acks)?;
        let work = Work::Produce {
            tally: Rc::clone(&tally),
            bytes: u64::try_from(made.bytes.len() * partitions.len())?,
            answers: args.acks != 0,
        };
        let pace = common.pace(n);
        connections.push(Connection::open(
            address,
            frame,
            work,
            pace,
            args.acks != 0,
        )?);
    }
    common.measure(connections, &tally)
}

/// Reads partitions from the beginning, again and again.
///
/// # Errors
/// The broker refused or went away.
pub fn fetch(args: &FetchArgs) -> Result<Report> {
    let common = &args.common;
    let address = resolve(&common.bootstrap_server)?;
    let mut admin = Admin::connect(address)?;
    admin.create_topic(&common.topic, common.partitions, &common.config)?;
    let made = common.batch();
    for partition in 0..common.partitions {
        if admin.end_offset(&common.topic, partition)? == 0 {
            let frame = frames::produce(&common.topic, &[partition], &made.bytes, -1)?;
            admin.fill(&frame, args.fill_bytes)?;
        }
    }
    let tally = Tally::new(common.warmup)?;
    let mut connections = Vec::new();
    for n in 0..common.connections {
        let partition = i32::try_from(n)? % common.partitions;
        let (frame, offset_at) = frames::fetch(&common.topic, partition, args.fetch_bytes, 500)?;
        let work = Work::Fetch {
            tally: Rc::clone(&tally),
            offset: 0,
            offset_at,
        };
        // A fetch names the offset that the one before it ended at: one in flight.
        let pace = match common.pace(n) {
            Pace::Closed(_) => Pace::Closed(1),
            open => open,
        };
        connections.push(Connection::open(address, frame, work, pace, true)?);
    }
    common.measure(connections, &tally)
}

/// One record per request at a fixed rate, timed from when it was due to when a waiting consumer
/// holds it.
///
/// # Errors
/// The broker refused or went away.
pub fn end_to_end(common: &Common) -> Result<Report> {
    let rate = common.rate.context("end-to-end needs --rate")?;
    let address = resolve(&common.bootstrap_server)?;
    let mut admin = Admin::connect(address)?;
    admin.create_topic(&common.topic, common.partitions, &common.config)?;
    ensure!(
        common.record_bytes >= 8,
        "a record holds its time: at least 8 bytes"
    );
    let tally = Tally::new(common.warmup)?;
    let mut connections = Vec::new();
    let count = usize::try_from(common.partitions)?;
    for n in 0..count {
        let partition = i32::try_from(n)?;
        let made = batch(1, common.record_bytes, 1_700_000_000_000);
        let frame = frames::produce(&common.topic, &[partition], &made.bytes, -1)?;
        let batch_at = frame.len() - made.bytes.len();
        let value_at = made.value_at;
        let every = 1e9 * count as f64 / rate;
        let first = every * n as f64 / count as f64;
        let pace = Pace::Open {
            every_ns: every as u64,
            first_ns: first as u64,
        };
        let work = Work::Stamp {
            batch: made,
            batch_at,
        };
        connections.push(Connection::open(address, frame, work, pace, true)?);
        let offset = admin.end_offset(&common.topic, partition)?;
        let (frame, offset_at) = frames::fetch(&common.topic, partition, 1 << 20, 500)?;
        let work = Work::Arrive {
            tally: Rc::clone(&tally),
            offset,
            offset_at,
            value_at,
        };
        connections.push(Connection::open(
            address,
            frame,
            work,
            Pace::Closed(1),
            true,
        )?);
    }
    common.measure(connections, &tally)
}
