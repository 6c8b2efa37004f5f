//! The result of one run: JSON for keeping, a table for reading.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use serde::{Deserialize, Serialize};

/// Latencies in microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are the percentiles
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

/// What the kernel says about the broker's process during the measured time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BrokerCost {
    /// User and system time of all threads, seconds.
    pub cpu_seconds: f64,
    /// The same per 1e9 bytes moved.
    pub cpu_seconds_per_gb: f64,
    /// The same per request, microseconds.
    pub cpu_us_per_request: f64,
    /// Resident memory at the end, bytes.
    pub resident_bytes: u64,
    /// Its greatest value so far, bytes.
    pub resident_bytes_max: u64,
}

/// One run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Name of the workload, free text.
    pub scenario: String,
    /// The command line.
    pub command: String,
    /// Measured time, seconds.
    pub seconds: f64,
    /// Requests answered.
    pub requests: u64,
    /// Record bytes moved (batches as they stand in the log).
    pub bytes: u64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Megabytes (1e6) per second.
    pub megabytes_per_second: f64,
    /// Microseconds, from the send (closed loop) or from the due time (open loop).
    pub latency_us: Latency,
    /// Present when the broker's process id was given.
    pub broker: Option<BrokerCost>,
    /// The histogram of nanoseconds in HdrHistogram's V2 encoding, in hexadecimal.
    pub histogram_v2_hex: String,
}

/// Processor time of a process with all its threads.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(')').context("a name")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let mut ticks = 0u64;
    for at in [11, 12] {
        ticks += fields.get(at).context("a time")?.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 10)) // USER_HZ is 100 on Linux
}

/// A line of `/proc/PID/status` in bytes.
fn status_bytes(pid: u32, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find(|l| l.starts_with(key))
        .with_context(|| key.to_owned())?;
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .context("a number")?
        .parse()?;
    Ok(kib * 1024)
}

impl BrokerCost {
    /// The cost of `requests` and `bytes`, from the processor times before and after.
    ///
    /// # Errors
    /// The process is gone.
    pub fn measure(pid: u32, used: Duration, requests: u64, bytes: u64) -> Result<Self> {
        let cpu_seconds = used.as_secs_f64();
        Ok(Self {
            cpu_seconds,
            cpu_seconds_per_gb: cpu_seconds / (bytes.max(1) as f64 / 1e9),
            cpu_us_per_request: cpu_seconds * 1e6 / requests.max(1) as f64,
            resident_bytes: status_bytes(pid, "VmRSS:")?,
            resident_bytes_max: status_bytes(pid, "VmHWM:")?,
        })
    }
}

impl Report {
    /// Sums up a run.
    ///
    /// # Errors
    /// The histogram cannot be written.
    pub fn new(
        scenario: &str,
        seconds: f64,
        requests: u64,
        bytes: u64,
        histogram: &Histogram<u64>,
    ) -> Result<Self> {
        let at = |q: f64| histogram.value_at_quantile(q) as f64 / 1e3;
        let mut raw = Vec::new();
        V2Serializer::new()
            .serialize(histogram, &mut raw)
            .map_err(|e| anyhow::anyhow!("histogram: {e:?}"))?;
        Ok(Self {
            scenario: scenario.to_owned(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            seconds,
            requests,
            bytes,
            requests_per_second: requests as f64 / seconds,
            megabytes_per_second: bytes as f64 / 1e6 / seconds,
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: histogram.max() as f64 / 1e3,
                mean: histogram.mean() / 1e3,
            },
            broker: None,
            histogram_v2_hex: raw.iter().map(|b| format!("{b:02x}")).collect(),
        })
    }

    /// Reads a kept report.
    ///
    /// # Errors
    /// No such file, or not a report.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// The report as a small table.
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let l = &self.latency_us;
        let mut text = format!(
            "{}: {:.1} s, {} requests\n  {:>12.0} requests/s {:>12.1} MB/s\n  latency us  p50 {:.0}  \
             p90 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}\n",
            self.scenario,
            self.seconds,
            self.requests,
            self.requests_per_second,
            self.megabytes_per_second,
            l.p50,
            l.p90,
            l.p99,
            l.p999,
            l.max
        );
        if let Some(b) = &self.broker {
            let _ = writeln!(
                text,
                "  broker      {:.2} CPU s, {:.3} s/GB, {:.1} us/request, {} MiB resident",
                b.cpu_seconds,
                b.cpu_seconds_per_gb,
                b.cpu_us_per_request,
                b.resident_bytes >> 20
            );
        }
        text
    }
}
