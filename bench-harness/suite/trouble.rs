//! Things that go on beside a load and should not disturb it.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::admin::delete_topics;
use super::process::Stop;
use super::scenario::{KEEP, Trouble};
use crate::batch::{batch, records_for};
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
                let (stop, address) = (Stop::default(), address.to_owned());
                let until = stop.clone();
                let thread = std::thread::spawn(move || churn(&address, &until));
                Ok(Self {
                    held: Vec::new(),
                    churn: Some((stop, thread)),
                })
            }
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
            let topics = thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            anyhow::ensure!(topics > 0, "no topic came and went");
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
    let pairs = KEEP.iter().filter_map(|c| c.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Fills a topic that a broker has to recover when it is killed after this.
///
/// # Errors
/// The broker refused.
pub fn fill_to_recover(address: &str) -> Result<()> {
    let topic = "flumen-bench-trouble-recover";
    let pairs = RECOVER_CONFIG.iter();
    let configs: Vec<(String, String)> = pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
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
