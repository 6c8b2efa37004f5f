//! The result of one run: JSON for keeping, a table for reading.

use std::path::Path;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use serde::{Deserialize, Serialize};

/// Latencies in microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are the percentiles
#[serde(default)]
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
#[serde(default)]
pub struct BrokerCost {
    /// User and system time of all threads, seconds. The io_uring workers (`iou-wrk`) are threads
    /// of the process and count here; write-back by the kernel's own threads does not. In ticks of
    /// 10 ms when a thread ended, else exact.
    pub cpu_seconds: f64,
    /// The same per 1e9 bytes moved.
    pub cpu_seconds_per_gb: f64,
    /// The same per request, microseconds; which is also seconds per million requests.
    pub cpu_us_per_request: f64,
    /// CPU time of those of the kernel's threads that work for files and sockets (kworker, jbd2,
    /// xfs*, kswapd, ksoftirqd, ...) in the whole machine, seconds: write-back, journal, discards.
    pub kernel_thread_seconds: f64,
    /// Each kind of kernel thread with its CPU seconds, greatest first; also those that are not
    /// in the sum.
    pub kernel_threads: Vec<(String, f64)>,
    /// Busy time of the broker's CPU, seconds: everything that ran there, interrupts included.
    /// Present when its number was given.
    pub cpu_busy_seconds: Option<f64>,
    /// Time that the hypervisor took from that CPU, seconds.
    pub cpu_steal_seconds: Option<f64>,
    /// `cpu_seconds + kernel_thread_seconds` per 1e9 bytes moved.
    pub cpu_seconds_per_gb_with_kernel: f64,
    /// `cpu_seconds + kernel_thread_seconds` per request, microseconds.
    pub cpu_us_per_request_with_kernel: f64,
    /// Resident memory at the end, bytes.
    pub resident_bytes: u64,
    /// Its greatest value so far, bytes.
    pub resident_bytes_max: u64,
    /// Times that a thread went to sleep.
    pub switches_voluntary: u64,
    /// Times that a thread was taken off its CPU.
    pub switches_involuntary: u64,
    /// Threads that ended while being measured: their switches since the sample before (15 s) are
    /// not counted.
    pub threads_ended: u64,
    /// Bytes that the process caused to be written to disk (when they were dirtied).
    pub disk_write_bytes: u64,
    /// Bytes that it caused to be read from disk.
    pub disk_read_bytes: u64,
}

/// Whether the client kept up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// CPU time of the client's thread in the measured time, seconds.
    pub cpu_seconds: f64,
    /// Part of the measured time that the client did not wait for events; 1 in an open loop, which
    /// spins.
    pub busy: f64,
    /// Part of the open loop's requests that were sent more than 1 ms late because the client was
    /// busy: its own fault.
    pub late_fraction: f64,
    /// Part that was sent more than 1 ms late because the broker did not take bytes: no fault of
    /// the client; the latency from the due time has it.
    pub blocked_fraction: f64,
    /// Requests per second that were due, in an open loop.
    pub offered_per_second: Option<f64>,
    /// A sentence when the client and not the broker was the bound: the figures are then only a
    /// lower limit of what the broker can do.
    pub saturated: Option<String>,
}

/// One second of a run: what was answered in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Second {
    /// Seconds since the load began (warm-up included; negative values do not occur).
    pub at: f64,
    /// Length, seconds; the last one may be shorter than 1.
    pub seconds: f64,
    /// Requests answered.
    pub requests: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
    /// Microseconds.
    pub max: f64,
}

/// A second kind of traffic in the same run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stream {
    /// What it is, such as `catch-up` or `tail`.
    pub name: String,
    /// Requests answered (records, for a tail reader).
    pub requests: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Megabytes (1e6) per second.
    pub megabytes_per_second: f64,
    /// Microseconds.
    pub latency_us: Latency,
    /// Its seconds.
    pub series: Vec<Second>,
    /// As the report's.
    pub histogram_v2_hex: String,
}

/// One run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
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
    /// The same before compression by the client, where it compressed.
    pub bytes_uncompressed: Option<u64>,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Megabytes (1e6) per second.
    pub megabytes_per_second: f64,
    /// Microseconds, from the send (closed loop) or from the due time (open loop).
    pub latency_us: Latency,
    /// Open loop: microseconds from the actual send.
    pub service_latency_us: Option<Latency>,
    /// Whether the client kept up.
    pub client: Client,
    /// Present when the broker's process id was given.
    pub broker: Option<BrokerCost>,
    /// Catch-up or tail readers beside producers; the producer beside a fan-out.
    pub second: Option<Stream>,
    /// Second by second, warm-up included.
    pub series: Vec<Second>,
    /// The histogram of nanoseconds in HdrHistogram's V2 encoding, in hexadecimal.
    pub histogram_v2_hex: String,
    /// The same of the latency from the actual send.
    pub service_histogram_v2_hex: Option<String>,
}

/// A load curve: a closed loop finds the capacity, then an open loop offers parts of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadCurve {
    /// Name of the workload, free text.
    pub scenario: String,
    /// The command line.
    pub command: String,
    /// Requests per second of the closed loop, or as given by `--capacity`.
    pub capacity_per_second: f64,
    /// The closed loop, when it ran.
    pub closed: Option<Report>,
    /// In rising order of load.
    pub points: Vec<LoadPoint>,
}

/// One point of a load curve.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadPoint {
    /// Part of the capacity that was offered, percent.
    pub percent: f64,
    /// Requests per second that were due.
    pub offered_per_second: f64,
    /// Requests per second that were answered.
    pub achieved_per_second: f64,
    /// Part of one CPU that the broker used.
    pub broker_cpu: Option<f64>,
    /// The run.
    pub report: Report,
}

/// The broker left alone with one open connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Idle {
    /// Name of the workload, free text.
    pub scenario: String,
    /// The command line.
    pub command: String,
    /// Measured time, seconds.
    pub seconds: f64,
    /// Part of one CPU that the broker used.
    pub broker_cpu: f64,
    /// Context switches per second.
    pub switches_per_second: f64,
    /// All that was measured; its values per request and per byte mean nothing here.
    pub broker: BrokerCost,
}

/// The percentiles of a histogram of nanoseconds.
impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |q: f64| histogram.value_at_quantile(q) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1e3,
            mean: histogram.mean() / 1e3,
        }
    }
}

/// A histogram in HdrHistogram's V2 encoding, in hexadecimal.
///
/// # Errors
/// It cannot be written.
pub fn to_hex(histogram: &Histogram<u64>) -> Result<String> {
    let mut raw = Vec::new();
    V2Serializer::new()
        .serialize(histogram, &mut raw)
        .map_err(|e| anyhow::anyhow!("histogram: {e:?}"))?;
    Ok(raw.iter().map(|b| format!("{b:02x}")).collect())
}

/// The histogram of nanoseconds in such a text.
///
/// # Errors
/// It is none.
pub fn from_hex(text: &str) -> Result<Histogram<u64>> {
    let digit = |c: Option<&u8>| c.and_then(|c| char::from(*c).to_digit(16));
    let raw: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            let value = (digit(pair.first())? << 4) | digit(pair.get(1))?;
            u8::try_from(value).ok()
        })
        .collect();
    let raw = raw.context("hexadecimal digits")?;
    Deserializer::new()
        .deserialize(&mut raw.as_slice())
        .map_err(|e| anyhow::anyhow!("histogram: {e:?}"))
}

/// The command line without the program.
pub fn command() -> String {
    std::env::args().skip(1).collect::<Vec<_>>().join(" ")
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
        Ok(Self {
            scenario: scenario.to_owned(),
            command: command(),
            seconds,
            requests,
            bytes,
            requests_per_second: requests as f64 / seconds,
            megabytes_per_second: bytes as f64 / 1e6 / seconds,
            latency_us: Latency::from(histogram),
            histogram_v2_hex: to_hex(histogram)?,
            ..Self::default()
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
        let mut text = format!(
            "{}: {:.1} s, {} requests\n  {:>12.0} requests/s {:>12.1} MB/s\n{}",
            self.scenario,
            self.seconds,
            self.requests,
            self.requests_per_second,
            self.megabytes_per_second,
            self.latency_us.line("latency us")
        );
        if let Some(service) = &self.service_latency_us {
            text += &service.line("service us");
        }
        if let Some(s) = &self.second {
            let _ = writeln!(
                text,
                "  {:<11} {:.0} requests/s {:.1} MB/s",
                s.name, s.requests_per_second, s.megabytes_per_second
            );
            text += &s.latency_us.line("");
        }
        if let Some(b) = &self.broker {
            text += &b.line();
        }
        let c = &self.client;
        let _ = writeln!(
            text,
            "  client      {:.2} CPU s, {:.0} % busy, {:.2} % late",
            c.cpu_seconds,
            c.busy * 100.0,
            c.late_fraction * 100.0
        );
        if let Some(why) = &c.saturated {
            let _ = writeln!(text, "  CAUTION     {why}");
        }
        text
    }
}

impl Latency {
    fn line(&self, name: &str) -> String {
        format!(
            "  {name:<11} p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}\n",
            self.p50, self.p90, self.p99, self.p999, self.max
        )
    }
}

impl BrokerCost {
    fn line(&self) -> String {
        format!(
            "  broker      {:.2} CPU s, {:.3} s/GB, {:.2} us/request, {} MiB resident, \
             {} + {} switches, kernel threads {:.2} s\n",
            self.cpu_seconds,
            self.cpu_seconds_per_gb,
            self.cpu_us_per_request,
            self.resident_bytes >> 20,
            self.switches_voluntary,
            self.switches_involuntary,
            self.kernel_thread_seconds
        )
    }
}

impl LoadCurve {
    /// The curve as a small table.
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            "{}: capacity {:.0} requests/s\n  {:>5} {:>11} {:>11} {:>9} {:>9} {:>6}\n",
            self.scenario,
            self.capacity_per_second,
            "%",
            "offered/s",
            "achieved/s",
            "p50",
            "p99",
            "CPU"
        );
        for p in &self.points {
            let _ = writeln!(
                text,
                "  {:>5.0} {:>11.0} {:>11.0} {:>9.0} {:>9.0} {:>6.2}{}",
                p.percent,
                p.offered_per_second,
                p.achieved_per_second,
                p.report.latency_us.p50,
                p.report.latency_us.p99,
                p.broker_cpu.unwrap_or(f64::NAN),
                if p.report.client.saturated.is_some() {
                    " client!"
                } else {
                    ""
                }
            );
        }
        text
    }
}

impl Idle {
    /// The result as one line.
    pub fn table(&self) -> String {
        format!(
            "{}: {:.1} s idle, {:.4} of a CPU, {:.1} switches/s, {} MiB resident\n",
            self.scenario,
            self.seconds,
            self.broker_cpu,
            self.switches_per_second,
            self.broker.resident_bytes >> 20
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_the_newer_fields_still_reads() {
        let old = r#"{"scenario":"64k","command":"produce","seconds":5.0,"requests":9,"bytes":90,
            "requests_per_second":1.8,"megabytes_per_second":0.00002,
            "latency_us":{"p50":1.0,"p90":2.0,"p99":3.0,"p999":4.0,"max":5.0,"mean":1.5},
            "broker":{"cpu_seconds":1.5,"cpu_seconds_per_gb":0.4,"cpu_us_per_request":12.0,
            "resident_bytes":1048576,"resident_bytes_max":2097152},"histogram_v2_hex":""}"#;
        let report: Report = serde_json::from_str(old).unwrap();
        assert_eq!(report.requests, 9);
        let broker = report.broker.as_ref().unwrap();
        assert_eq!(
            (broker.resident_bytes, broker.switches_voluntary),
            (1 << 20, 0)
        );
        assert!(report.series.is_empty() && report.client.saturated.is_none());
        assert!(report.table().contains("1 MiB resident"));
    }

    #[test]
    fn a_histogram_survives_its_text() {
        let mut histogram = crate::tally::histogram().unwrap();
        for n in 1..1000u64 {
            histogram.saturating_record(n * n * 1000);
        }
        let again = from_hex(&to_hex(&histogram).unwrap()).unwrap();
        assert_eq!(again, histogram);
        assert!(from_hex("0x").is_err() && from_hex("00").is_err());
    }

    #[test]
    fn a_saturated_client_stands_out() {
        let mut report = Report::default();
        report.client.saturated = Some("the client was busy".to_owned());
        assert!(report.table().contains("CAUTION     the client was busy"));
    }
}
