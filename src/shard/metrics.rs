//! What one shard counts, as Prometheus text. Plain numbers: nobody else touches them.

use crate::Shard;
use crate::io::Response;
use crate::request::Reply;
use flumen_base::{IdMap, Now};
use flumen_log::Log;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Highest latency that is told apart, in microseconds (one minute); more counts as this.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Counters of one shard.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) conns_closed: u64,
    pub(crate) log_bytes_written: u64,
    /// By API key: latency from the frame's arrival to the answer's leaving, in microseconds.
    latency: IdMap<i16, (&'static str, Histogram<u64>)>,
}

impl Metrics {
    /// A request was answered.
    pub(crate) fn answered(&mut self, reply: &Reply, response: Option<&Response>, now: Now) {
        self.bytes_out += response.map_or(0, |r| r.len() as u64);
        let micros = now.mono.nanos_since(reply.received) / 1000;
        let micros = micros.clamp(1, LATENCY_MAX_US);
        let entry = self.latency.entry(reply.api.key.code());
        let (_, histogram) = entry.or_insert_with(|| (reply.api.name, new_histogram()));
        histogram.saturating_record(micros);
    }
}

fn new_histogram() -> Histogram<u64> {
    // Bounds are constants that the constructor accepts; the fallback grows by itself.
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).unwrap_or_else(|_| {
        #[allow(clippy::expect_used)] // 2 significant digits are always accepted
        Histogram::new(2).expect("2 significant digits")
    })
}

impl Shard {
    /// What is in work, in a line.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn describe(&self) -> String {
        let p = &self.partitions;
        let mut out = format!(
            "shard {} {:?}: gathers {} fetches {} forwards {} pending {} dirty {} loading {} {:?}",
            self.id,
            self.life,
            self.gathers.len(),
            self.fetches.len(),
            self.forwards.len(),
            self.pending.len(),
            p.dirty.len(),
            p.loading,
            p.to_load,
        );
        for p in p.map.values() {
            let _ = write!(out, " [{} {}]", p.dir_name(), p.describe());
        }
        out
    }

    /// This shard's part of /metrics.
    pub(crate) fn metrics_text(&self) -> String {
        let mut out = String::with_capacity(4096);
        let shard = self.id.0;
        let (sessions, session_partitions) = self.sessions.counts();
        let unsent: usize = self.conns.values().map(crate::conn::Conn::unsent).sum();
        let in_flight: usize = self.conns.values().map(crate::conn::Conn::in_flight).sum();
        let logs = self.partitions.map.values().filter_map(|p| p.log());
        let (size, tail) = logs.fold((0u64, 0usize), |(size, tail), log| {
            (size + Log::size_bytes(log), tail + log.tail_bytes())
        });
        for (name, value) in [
            ("flumen_bytes_in_total", self.metrics.bytes_in),
            ("flumen_bytes_out_total", self.metrics.bytes_out),
            ("flumen_connections", self.conns.len() as u64),
            ("flumen_connections_closed_total", self.metrics.conns_closed),
            ("flumen_frame_bytes", self.frame_bytes as u64),
            ("flumen_requests_in_flight", in_flight as u64),
            ("flumen_responses_unsent", unsent as u64),
            ("flumen_fetches_waiting", self.fetches.len() as u64),
            ("flumen_gathers", self.gathers.len() as u64),
            ("flumen_forwarded_requests", self.forwards.len() as u64),
            (
                "flumen_disk_operations_in_flight",
                self.pending.len() as u64,
            ),
            ("flumen_fetch_sessions", sessions as u64),
            ("flumen_fetch_session_partitions", session_partitions as u64),
            ("flumen_partitions", self.partitions.len() as u64),
            ("flumen_log_size_bytes", size),
            ("flumen_log_tail_bytes", tail as u64),
            (
                "flumen_log_bytes_written_total",
                self.metrics.log_bytes_written,
            ),
        ] {
            let _ = writeln!(out, "{name}{{shard=\"{shard}\"}} {value}");
        }
        self.latency_text(&mut out);
        self.group_text(&mut out);
        out
    }

    fn latency_text(&self, out: &mut String) {
        let shard = self.id.0;
        let by_key: BTreeMap<_, _> = self.metrics.latency.iter().collect();
        for (api, histogram) in by_key.into_values() {
            for quantile in [0.5, 0.9, 0.99, 0.999] {
                let seconds = histogram.value_at_quantile(quantile) as f64 / 1e6;
                let labels = format!("shard=\"{shard}\",api=\"{api}\",quantile=\"{quantile}\"");
                let _ = writeln!(out, "flumen_request_seconds{{{labels}}} {seconds}");
            }
            let count = histogram.len();
            let sum = histogram.mean() * count as f64 / 1e6;
            let labels = format!("shard=\"{shard}\",api=\"{api}\"");
            let _ = writeln!(out, "flumen_request_seconds_sum{{{labels}}} {sum}");
            let _ = writeln!(out, "flumen_request_seconds_count{{{labels}}} {count}");
        }
    }

    fn group_text(&self, out: &mut String) {
        let shard = self.id.0;
        for (state, count) in self.groups.coordinator.group_counts() {
            let _ = writeln!(
                out,
                "flumen_groups{{shard=\"{shard}\",state=\"{state}\"}} {count}"
            );
        }
        self.groups
            .coordinator
            .for_each_committed(&mut |group, topic, partition, offset| {
                // Only partitions of this shard: their end is known here.
                let tp = self.partition_id(topic, partition);
                let p = tp.and_then(|tp| self.partitions.get(&tp));
                if let Some(p) = p {
                    let lag = p.high_watermark().saturating_sub(offset.0).max(0);
                    let labels = format!(
                        "group=\"{}\",topic=\"{topic}\",partition=\"{partition}\"",
                        escape(group)
                    );
                    let _ = writeln!(out, "flumen_group_lag{{{labels}}} {lag}");
                }
            });
    }
}

/// A label's value; group names come from clients.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
