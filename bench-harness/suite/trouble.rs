//! Things that go on beside a load and should not disturb it.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::admin::delete_topics;
use super::process::Stop;
use super::scenario::{KEEP, Trouble};
use crate::batch::{batch, keyed, records_for};
use crate::frames;
use crate::setup::{Admin, resolve};

/// Consumers that do not read their sockets.
const SLOW: usize = 8;
/// Requests of a MiB that each of them has sent.
const SLOW_REQUESTS: usize = 32;
/// Partitions of a topic that comes and goes.
const CHURN_PARTITIONS: i32 = 64;
const CHURN_PAUSE: Duration = Duration::from_secs(1);
/// Partitions to be recovered, bytes of each, and a segment that holds them all: nothing of it is
/// sealed or synced by then.
const RECOVER_PARTITIONS: i32 = 4;
const RECOVER_BYTES: u64 = 256 << 20;
const RECOVER_CONFIG: &[(&str, &str)] = &[("segment.bytes", "1073741824"), ("retention.ms", "-1")];

/// A compacted topic: partitions, bytes of each that never change, and how often as many hot keys
/// as fit into a batch are written again, in each partition.
const COMPACT_TOPIC: &str = "flumen-bench-trouble-compact";
const COMPACT_PARTITIONS: i32 = 8;
const COMPACT_COLD_BYTES: usize = 32 << 20;
const COMPACT_BATCH_BYTES: usize = 64 << 10;
const COMPACT_VALUE_BYTES: usize = 1000;
const COMPACT_PAUSE: Duration = Duration::from_millis(50);
/// How long the first cleaning may take to come.
const COMPACT_BEGINS: Duration = Duration::from_secs(120);
const COMPACT_CONFIG: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("file.delete.delay.ms", "0"),
];

/// What goes on until this is dropped.
#[derive(Debug, Default)]
pub struct Disturbance {
    held: Vec<TcpStream>,
    churn: Option<(Stop, JoinHandle<Result<u32>>)>,
}

impl Disturbance {
    /// Begins it.
    ///
    /// # Errors
    /// The broker refused.
    pub fn begin(trouble: Trouble, address: &str) -> Result<Self> {
        match trouble {
            Trouble::Itself | Trouble::Recovery => Ok(Self::default()),
            Trouble::SlowConsumers => Ok(Self {
                held: slow_consumers(address)?,
                churn: None,
            }),
            Trouble::TopicChurn => {
                let address = address.to_owned();
                Ok(Self::until_stopped(move |stop| churn(&address, stop)))
            }
            Trouble::Compaction => {
                let compacted = Compacted::begin(address)?;
                Ok(Self::until_stopped(move |stop| compacted.go_on(stop)))
            }
        }
    }

    fn until_stopped(run: impl FnOnce(&Stop) -> Result<u32> + Send + 'static) -> Self {
        let stop = Stop::default();
        let until = stop.clone();
        let thread = std::thread::spawn(move || run(&until));
        Self {
            held: Vec::new(),
            churn: Some((stop, thread)),
        }
    }

    /// Ends it; an error when it did not do what it should have.
    ///
    /// # Errors
    /// The broker refused something meanwhile.
    pub fn end(mut self) -> Result<()> {
        self.held.clear();
        if let Some((stop, thread)) = self.churn.take() {
            stop.set();
            let times = thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            anyhow::ensure!(times > 0, "it did not happen once");
        }
        Ok(())
    }
}

impl Drop for Disturbance {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.churn.take() {
            stop.set();
            let _ = thread.join();
        }
    }
}

fn configs() -> Vec<(String, String)> {
    owned(KEEP.iter().filter_map(|c| c.split_once('=')))
}

fn owned<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A topic that the broker has begun to compact, and that stays dirty.
struct Compacted {
    admin: Admin,
    /// Writes the hot keys of each partition again.
    hot: Vec<u8>,
}

impl Compacted {
    /// Returns when something has been compacted.
    fn begin(address: &str) -> Result<Self> {
        let mut admin = Admin::connect(resolve(address)?)?;
        let configs = owned(COMPACT_CONFIG.iter().copied());
        admin.create_topic(COMPACT_TOPIC, COMPACT_PARTITIONS, &configs)?;
        let all: Vec<i32> = (0..COMPACT_PARTITIONS).collect();
        let count = records_for(COMPACT_BATCH_BYTES, COMPACT_VALUE_BYTES);
        let frame = |first_key| {
            let made = keyed(count, COMPACT_VALUE_BYTES, first_key)?;
            frames::produce(COMPACT_TOPIC, &all, &made.bytes, -1)
        };
        let hot = frame(0)?;
        frames::check_produced(&admin.exchange(&hot)?)?;
        for n in 1..=COMPACT_COLD_BYTES / COMPACT_BATCH_BYTES {
            let cold = frame((n * count) as u64)?;
            frames::check_produced(&admin.exchange(&cold)?)?;
        }
        let mut compacted = Self { admin, hot };
        let (begun, starts) = (Instant::now(), vec![0; all.len()]);
        while compacted.gone(&starts)? == 0 {
            let late = begun.elapsed() > COMPACT_BEGINS;
            anyhow::ensure!(!late, "nothing is compacted");
            compacted.write()?;
            std::thread::sleep(COMPACT_PAUSE);
        }
        Ok(compacted)
    }

    fn write(&mut self) -> Result<()> {
        frames::check_produced(&self.admin.exchange(&self.hot)?)
    }

    /// In how many partitions the batch that began at this offset is there no more.
    fn gone(&mut self, offsets: &[i64]) -> Result<u32> {
        let mut count = 0;
        for (partition, offset) in (0i32..).zip(offsets) {
            let bytes_max = i32::try_from(2 * COMPACT_BATCH_BYTES)?;
            let (mut fetch, at) = frames::fetch(COMPACT_TOPIC, partition, bytes_max, 500)?;
            frames::patch(&mut fetch, at, &offset.to_be_bytes());
            let answer = self.admin.exchange(&fetch)?;
            let first = frames::batch_header(frames::fetched(&answer)?);
            count += u32::from(first.is_some_and(|(base, ..)| base > *offset));
        }
        Ok(count)
    }

    /// Keeps it dirty until `stop`. Returns in how many partitions something was compacted.
    fn go_on(mut self, stop: &Stop) -> Result<u32> {
        let mut ends = Vec::new();
        for partition in 0..COMPACT_PARTITIONS {
            ends.push(self.admin.end_offset(COMPACT_TOPIC, partition)?);
        }
        while stop.sleep(COMPACT_PAUSE).is_ok() {
            self.write()?;
        }
        self.gone(&ends)
    }
}

/// Fills a topic that a broker has to recover when it is killed after this.
///
/// # Errors
/// The broker refused.
pub fn fill_to_recover(address: &str) -> Result<()> {
    let topic = "flumen-bench-trouble-recover";
    let configs = owned(RECOVER_CONFIG.iter().copied());
    let mut admin = Admin::connect(resolve(address)?)?;
    admin.create_topic(topic, RECOVER_PARTITIONS, &configs)?;
    let made = batch(records_for(65_536, 1000), 1000, 1_700_000_000_000)?;
    for partition in 0..RECOVER_PARTITIONS {
        let produce = frames::produce(topic, &[partition], &made.bytes, -1)?;
        admin.fill(&produce, RECOVER_BYTES)?;
    }
    Ok(())
}

fn slow_consumers(address: &str) -> Result<Vec<TcpStream>> {
    let topic = "flumen-bench-trouble-slow";
    let address = resolve(address)?;
    let mut admin = Admin::connect(address)?;
    admin.create_topic(topic, 1, &configs())?;
    let made = batch(records_for(65_536, 1000), 1000, 1_700_000_000_000)?;
    let produce = frames::produce(topic, &[0], &made.bytes, -1)?;
    admin.fill(&produce, 48 << 20)?;
    let (fetch, _) = frames::fetch(topic, 0, 1 << 20, 500)?;
    let mut held = Vec::new();
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(address)?;
        for _ in 0..SLOW_REQUESTS {
            stream.write_all(&fetch)?;
        }
        held.push(stream);
    }
    Ok(held)
}

/// Topics that are created, written to and deleted, until `stop`. Returns how many were.
fn churn(address: &str, stop: &Stop) -> Result<u32> {
    let made = batch(records_for(16_384, 1000), 1000, 1_700_000_000_000)?;
    let all: Vec<i32> = (0..CHURN_PARTITIONS).collect();
    let mut count = 0;
    while stop.check().is_ok() {
        let topic = format!("flumen-bench-trouble-{count}");
        let mut admin = Admin::connect(resolve(address)?)?;
        admin.create_topic(&topic, CHURN_PARTITIONS, &configs())?;
        let produce = frames::produce(&topic, &all, &made.bytes, -1)?;
        frames::check_produced(&admin.exchange(&produce)?)?;
        delete_topics(address, &[&topic], None, stop).ok();
        count += 1;
        let _ = stop.sleep(CHURN_PAUSE); // its error is the end of the loop
    }
    Ok(count)
}
