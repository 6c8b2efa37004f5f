//! Sums, histograms and the series of seconds of one kind of traffic.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use hdrhistogram::serialization::{
    Deserializer, Serializer as _, V2DeflateSerializer, V2Serializer,
};

use crate::engine::Times;
use crate::report::{Latency, Report, Second, Stream, to_hex};

/// Shortest and longest latency that are told apart.
const LATENCY_NS_MIN: u64 = 100;
const LATENCY_NS_MAX: u64 = 120_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A histogram of nanoseconds.
///
/// # Errors
/// None: the bounds are constants that it takes.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(
        LATENCY_NS_MIN,
        LATENCY_NS_MAX,
        3,
    )?)
}

/// One kind of traffic. Work counts in the second in which it completed; a latency counts when its
/// request was due in the measured time, answered or not.
#[derive(Debug)]
pub struct Tally {
    name: String,
    from_ns: u64,
    until_ns: u64,
    requests: u64,
    bytes: u64,
    latency: Histogram<u64>,
    /// From the actual send, in open loops.
    service: Option<Histogram<u64>>,
    second_ns: u64,
    second_requests: u64,
    second_bytes: u64,
    second: Histogram<u64>,
    series: Vec<Second>,
    /// Intervals for the log: start, length, V2 bytes. Compressed only when the run is over.
    log: Option<Vec<(u64, u64, Vec<u8>)>>,
    raw: Vec<u8>,
}

impl Tally {
    /// Nothing yet. `open`: the loop is an open one; `log`: intervals are kept for `write_log`.
    ///
    /// # Errors
    /// As `histogram`.
    pub fn new(name: &str, warmup: f64, seconds: f64, open: bool, log: bool) -> Result<Self> {
        let nanos = |s: f64| u64::try_from(Duration::from_secs_f64(s).as_nanos());
        Ok(Self {
            name: name.to_owned(),
            from_ns: nanos(warmup)?,
            until_ns: nanos(warmup + seconds)?,
            requests: 0,
            bytes: 0,
            latency: histogram()?,
            service: if open { Some(histogram()?) } else { None },
            second_ns: 0,
            second_requests: 0,
            second_bytes: 0,
            second: histogram()?,
            series: Vec::new(),
            log: log.then(Vec::new),
            raw: Vec::new(),
        })
    }

    /// Counts an answer.
    pub fn add(&mut self, bytes: u64, times: Times) {
        let Times {
            due_ns,
            sent_ns,
            now_ns,
        } = times;
        if now_ns < self.until_ns {
            if now_ns >= self.from_ns {
                self.requests += 1;
                self.bytes += bytes;
            }
            self.second_requests += 1;
            self.second_bytes += bytes;
            self.second.saturating_record(now_ns.saturating_sub(due_ns));
        }
        if due_ns >= self.from_ns && due_ns < self.until_ns {
            self.latency
                .saturating_record(now_ns.saturating_sub(due_ns));
            if let Some(service) = &mut self.service {
                service.saturating_record(now_ns.saturating_sub(sent_ns));
            }
        }
    }

    /// Counts a request that had no answer by `now_ns`, with the latency that it has at least.
    pub fn unanswered(&mut self, due_ns: u64, now_ns: u64) {
        if due_ns >= self.from_ns && due_ns < self.until_ns {
            self.latency
                .saturating_record(now_ns.saturating_sub(due_ns));
        }
    }

    /// Closes the second when it is over, and the last one at the end of the run.
    ///
    /// # Errors
    /// The histogram cannot be written.
    pub fn tick(&mut self, now_ns: u64) -> Result<()> {
        let now_ns = now_ns.min(self.until_ns);
        let over = now_ns >= self.second_ns + SECOND_NS;
        let last = now_ns == self.until_ns && self.second_ns < self.until_ns;
        if !(over || last) {
            return Ok(());
        }
        let seconds = (now_ns - self.second_ns) as f64 / 1e9;
        let at = |q: f64| self.second.value_at_quantile(q) as f64 / 1e3;
        self.series.push(Second {
            at: self.second_ns as f64 / 1e9,
            seconds,
            requests: self.second_requests,
            bytes: self.second_bytes,
            p50: at(0.5),
            p99: at(0.99),
            max: self.second.max() as f64 / 1e3,
        });
        if let Some(log) = &mut self.log {
            self.raw.clear();
            V2Serializer::new()
                .serialize(&self.second, &mut self.raw)
                .map_err(|e| anyhow::anyhow!("histogram: {e:?}"))?;
            log.push((self.second_ns, now_ns - self.second_ns, self.raw.clone()));
        }
        self.second.reset();
        (self.second_requests, self.second_bytes) = (0, 0);
        self.second_ns = now_ns;
        Ok(())
    }

    fn seconds(&self) -> f64 {
        (self.until_ns - self.from_ns) as f64 / 1e9
    }

    /// Requests and bytes of the measured time.
    pub fn counts(&self) -> (u64, u64) {
        (self.requests, self.bytes)
    }

    /// As the main traffic of a report.
    ///
    /// # Errors
    /// A histogram cannot be written.
    pub fn report(&self, scenario: &str) -> Result<Report> {
        let (requests, bytes) = self.counts();
        let mut report = Report::new(scenario, self.seconds(), requests, bytes, &self.latency)?;
        report.series.clone_from(&self.series);
        if let Some(service) = &self.service {
            report.service_latency_us = Some(Latency::from(service));
            report.service_histogram_v2_hex = Some(to_hex(service)?);
        }
        Ok(report)
    }

    /// As the second traffic of a report.
    ///
    /// # Errors
    /// A histogram cannot be written.
    pub fn stream(&self) -> Result<Stream> {
        let (requests, bytes) = self.counts();
        Ok(Stream {
            name: self.name.clone(),
            requests,
            bytes,
            requests_per_second: requests as f64 / self.seconds(),
            megabytes_per_second: bytes as f64 / 1e6 / self.seconds(),
            latency_us: Latency::from(&self.latency),
            series: self.series.clone(),
            histogram_v2_hex: to_hex(&self.latency)?,
        })
    }
}

/// Writes the seconds of all `tallies` as one HdrHistogram log of nanoseconds, each under its
/// name as the tag; `started` is when the run's clock began.
///
/// # Errors
/// The file cannot be written.
pub fn write_log(path: &Path, started: SystemTime, tallies: &[&Tally]) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut out = BufWriter::new(file);
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment("[latencies in nanoseconds; the column of maxima is in milliseconds]")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(1e6);
    let mut writer = builder.begin_log_with(&mut out, &mut serializer)?;
    let mut rows: Vec<_> = tallies
        .iter()
        .flat_map(|t| t.log.iter().flatten().map(|row| (t.name.as_str(), row)))
        .collect();
    rows.sort_by_key(|(_, row)| row.0);
    for (name, (start_ns, length_ns, raw)) in rows {
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut raw.as_slice())
            .map_err(|e| anyhow::anyhow!("histogram: {e:?}"))?;
        let (start, length) = (
            Duration::from_nanos(*start_ns),
            Duration::from_nanos(*length_ns),
        );
        writer
            .write_histogram(&histogram, start, length, Tag::new(name))
            .map_err(|e| anyhow::anyhow!("histogram log: {e:?}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn times(due: u64, sent: u64, now: u64) -> Times {
        Times {
            due_ns: due * MS,
            sent_ns: sent * MS,
            now_ns: now * MS,
        }
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.01
    }

    /// One second of warm-up, two measured.
    fn tally() -> Tally {
        Tally::new("t", 1.0, 2.0, true, true).unwrap()
    }

    #[test]
    fn work_counts_when_it_is_done_and_latency_when_it_was_due() {
        let mut t = tally();
        t.add(10, times(100, 100, 200)); // all in the warm-up
        t.add(10, times(900, 900, 1100)); // due in it, done after it
        t.add(10, times(1500, 1540, 1550)); // in the measured time, sent late
        t.add(10, times(2900, 2900, 3200)); // done behind the end
        t.unanswered(2950 * MS, 4000 * MS);
        t.unanswered(950 * MS, 4000 * MS);
        t.tick(3000 * MS).unwrap();
        assert_eq!(t.counts(), (2, 20));
        let report = t.report("s").unwrap();
        assert!(near(report.requests_per_second, 1.0));
        // 50, 300 and at least 1050 ms.
        assert_eq!(t.latency.len(), 3);
        assert!(near(report.latency_us.p50, 300e3) && near(report.latency_us.max, 1050e3));
        let service = report.service_latency_us.unwrap();
        assert!(near(service.p50, 10e3), "{service:?}");
    }

    #[test]
    fn seconds_have_their_own_counts_and_percentiles() {
        let mut t = tally();
        t.add(5, times(0, 0, 10));
        t.tick(999 * MS).unwrap();
        assert!(t.series.is_empty());
        t.tick(1001 * MS).unwrap();
        t.add(7, times(1100, 1100, 1120));
        t.add(7, times(1100, 1100, 1400));
        // A stall: two seconds pass without a look.
        t.tick(3500 * MS).unwrap();
        t.tick(3600 * MS).unwrap();
        assert_eq!(t.series.len(), 2);
        let [first, second] = &t.series[..] else {
            panic!("two seconds");
        };
        assert_eq!((first.requests, first.bytes), (1, 5));
        assert!(near(first.seconds, 1.001) && near(first.max, 10e3));
        assert_eq!((second.requests, second.bytes), (2, 14));
        assert!(near(second.seconds, 1.999) && near(second.p50, 20e3) && near(second.p99, 300e3));
        assert_eq!(t.log.unwrap().len(), 2);
    }
}
