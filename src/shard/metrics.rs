//! What one shard counts, as Prometheus text (format 0.0.4). Plain numbers: nobody else touches
//! them. Each family has its HELP and TYPE here; the runtime joins the texts of all shards.
//!
//! Label values that clients choose (groups, topics) are escaped, and their number is bounded.

use crate::Shard;
use crate::io::{Effect, Token};
use crate::ops::{Gathering, ListOffsetOp, Op, OpResult, PartitionOp};
use crate::request::{Reply, ReplyTo};
use crate::turn::Turn;
use flumen_base::{Now, ShardId};
use flumen_log::Log;
use flumen_wire::ApiKey;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Upper bounds of the latency buckets: in microseconds, and as the label says it in seconds.
const BUCKETS: [(u64, &str); 16] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
];
/// Series of group lag that one shard gives; groups beyond are left out.
const LAG_SERIES_MAX: usize = 10_000;
/// ListOffsets' word for the end of a log.
const LATEST: i64 = -1;

/// Counters of one shard.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) conns_closed: u64,
    pub(crate) log_bytes_written: u64,
    /// At the API's key: from the frame's arrival until its answer is handed over.
    latency: Vec<Option<Box<Latency>>>,
}

/// The latencies of one API.
struct Latency {
    api: &'static str,
    /// Requests up to each bound but above the one before it; those above all bounds are only in
    /// `count`.
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum_us: u64,
}

impl Latency {
    fn of(api: &'static str) -> Self {
        Self {
            api,
            buckets: [0; BUCKETS.len()],
            count: 0,
            sum_us: 0,
        }
    }
}

impl Metrics {
    /// A request was answered with so many bytes.
    pub(crate) fn answered(&mut self, reply: &Reply, bytes: usize, now: Now) {
        self.bytes_out += bytes as u64;
        let micros = now.mono.nanos_since(reply.received) / 1000;
        let key = usize::from(reply.api.key.code().unsigned_abs());
        if key >= self.latency.len() {
            self.latency.resize_with(key + 1, || None);
        }
        let Some(latency) = self.latency.get_mut(key) else {
            return; // not reached: there is room for it now
        };
        let latency = latency.get_or_insert_with(|| Box::new(Latency::of(reply.api.name)));
        let place = BUCKETS.partition_point(|(bound, _)| *bound < micros);
        if let Some(bucket) = latency.buckets.get_mut(place) {
            *bucket += 1;
        }
        latency.count += 1;
        latency.sum_us += micros;
    }
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

    /// Gives this shard's part of /metrics, once the ends of the partitions that its groups have
    /// committed offsets of are known: those belong to any shard.
    pub(crate) fn metrics_wanted(&mut self, turn: &mut Turn<'_>, token: Token) {
        let mut text = String::with_capacity(8192);
        self.counters_text(&mut text);
        self.gauges_text(&mut text);
        self.dirs_text(&mut text);
        self.latency_text(&mut text);
        self.cleaner_text(&mut text);
        self.log_text(&mut text);
        self.group_text(&mut text);
        let (lines, ops) = self.committed();
        let body = Lag { token, text, lines };
        // Nobody's request: the text leaves as an effect, and this is never answered.
        let reply = Reply {
            to: ReplyTo::Shard(self.id, 0),
            api: ApiKey::ApiVersions.info(),
            version: 0,
            correlation_id: 0,
            received: turn.now.mono,
        };
        self.gather(turn, reply, Box::new(body), ops);
    }

    fn counters_text(&self, out: &mut String) {
        let (m, cleaner) = (&self.metrics, &self.cleaner.totals);
        let counters = [
            ("bytes_in", "Bytes of requests received.", m.bytes_in),
            ("bytes_out", "Bytes of responses given.", m.bytes_out),
            (
                "connections_closed",
                "Connections that the broker closed.",
                m.conns_closed,
            ),
            (
                "log_bytes_written",
                "Bytes appended to logs.",
                m.log_bytes_written,
            ),
            ("cleaner_runs", "Logs that were compacted.", cleaner.runs),
            (
                "cleaner_failures",
                "Compactions that failed.",
                cleaner.failures,
            ),
            (
                "cleaner_bytes_read",
                "Bytes that compaction has read.",
                cleaner.bytes_read,
            ),
            (
                "cleaner_bytes_written",
                "Bytes that compaction has written.",
                cleaner.bytes_written,
            ),
            (
                "cleaner_records_removed",
                "Records that compaction has removed.",
                cleaner.records_removed,
            ),
        ];
        for (name, help, value) in counters {
            let name = format!("flumen_{name}_total");
            self.sample(out, (&name, "counter", help), value);
        }
    }

    fn gauges_text(&self, out: &mut String) {
        let (sessions, session_partitions) = self.sessions.counts();
        let unsent: usize = self.conns.values().map(crate::conn::Conn::unsent).sum();
        let in_flight: usize = self.conns.values().map(crate::conn::Conn::in_flight).sum();
        let logs = self.partitions.map.values().filter_map(|p| p.log());
        let tail: usize = logs.map(Log::tail_bytes).sum();
        let gauges = [
            ("connections", "Open connections.", self.conns.len()),
            (
                "frame_bytes",
                "Bytes of requests in work.",
                self.frame_bytes,
            ),
            (
                "connections_held_back",
                "Connections not read while too many bytes are in work.",
                self.held_back.len(),
            ),
            ("requests_in_flight", "Requests in work.", in_flight),
            ("responses_unsent", "Responses not sent.", unsent),
            (
                "fetches_waiting",
                "Fetches in work, long polls included.",
                self.fetches.len(),
            ),
            (
                "gathers",
                "Requests that wait for parts of their answer.",
                self.gathers.len(),
            ),
            (
                "forwarded_requests",
                "Requests that another shard handles.",
                self.forwards.len(),
            ),
            (
                "operations_pending",
                "Disk operations and jobs under way.",
                self.pending.len(),
            ),
            (
                "fetch_watches",
                "Partitions watched for fetches and their sessions.",
                self.partitions.watches.len(),
            ),
            ("fetch_sessions", "Incremental fetch sessions.", sessions),
            (
                "fetch_session_partitions",
                "Partitions in fetch sessions.",
                session_partitions,
            ),
            ("partitions", "Partitions.", self.partitions.len()),
            (
                "partitions_loading",
                "Partitions being loaded or waiting for it.",
                self.partitions.loading + self.partitions.to_load.len(),
            ),
            (
                "log_tail_bytes",
                "Recently written batches kept in memory.",
                tail,
            ),
        ];
        for (name, help, value) in gauges {
            let name = format!("flumen_{name}");
            self.sample(out, (&name, "gauge", help), value as u64);
        }
    }

    fn cleaner_text(&self, out: &mut String) {
        let totals = &self.cleaner.totals;
        let gauges = [
            (
                "running",
                "Whether a log is being compacted.",
                u64::from(self.cleaner.is_running()),
            ),
            (
                "uncleanable_partitions",
                "Partitions whose logs are damaged and not compacted any more.",
                self.cleaner.uncleanable() as u64,
            ),
            (
                "max_dirty_percent",
                "Dirty part of the dirtiest log when all were looked at last.",
                totals.max_dirty_percent,
            ),
            (
                "map_percent",
                "How much of its map of keys the last compaction used.",
                totals.map_percent,
            ),
            (
                "last_run_milliseconds",
                "How long the last compaction took.",
                totals.last_run_ms,
            ),
        ];
        for (name, help, value) in gauges {
            let name = format!("flumen_cleaner_{name}");
            self.sample(out, (&name, "gauge", help), value);
        }
    }

    fn dirs_text(&self, out: &mut String) {
        let (offline, full) = self.dirs.counts();
        let moving = self.partitions.map.values();
        let moving = moving.filter(|p| p.moving.is_some()).count();
        let gauges = [
            ("log_dirs_offline", "Log directories that failed.", offline),
            (
                "log_dirs_full",
                "Log directories that take no records for want of room.",
                full,
            ),
            (
                "partitions_moving",
                "Partitions on their way to another log directory.",
                moving,
            ),
        ];
        for (name, help, value) in gauges {
            let name = format!("flumen_{name}");
            self.sample(out, (&name, "gauge", help), value as u64);
        }
    }

    fn sample(&self, out: &mut String, (name, kind, help): (&str, &str, &str), value: u64) {
        head(out, name, kind, help);
        let _ = writeln!(out, "{name}{{shard=\"{}\"}} {value}", self.id.0);
    }

    fn latency_text(&self, out: &mut String) {
        let name = "flumen_request_duration_seconds";
        let help = "From the arrival of a request to its answer, by API.";
        let served = self.metrics.latency.iter().flatten();
        if served.clone().next().is_none() {
            return;
        }
        head(out, name, "histogram", help);
        for latency in served {
            let labels = format!("shard=\"{}\",api=\"{}\"", self.id.0, latency.api);
            let mut below = 0;
            for ((_, bound), n) in BUCKETS.iter().zip(&latency.buckets) {
                below += n;
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
            }
            let count = latency.count;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let sum = latency.sum_us as f64 / 1e6;
            let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
            let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
        }
    }

    fn log_text(&self, out: &mut String) {
        let mut sizes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for p in self.partitions.map.values() {
            if let Some(log) = p.log() {
                let (bytes, count) = sizes.entry(&*p.topic).or_default();
                *bytes += log.size_bytes();
                *count += 1;
            }
        }
        if sizes.is_empty() {
            return;
        }
        let shard = self.id.0;
        let name = "flumen_log_size_bytes";
        head(out, name, "gauge", "Bytes of the logs of a topic.");
        for (topic, (bytes, _)) in &sizes {
            let labels = format!("shard=\"{shard}\",topic=\"{}\"", escape(topic));
            let _ = writeln!(out, "{name}{{{labels}}} {bytes}");
        }
        let name = "flumen_topic_partitions";
        head(out, name, "gauge", "Partitions of a topic that are served.");
        for (topic, (_, count)) in &sizes {
            let labels = format!("shard=\"{shard}\",topic=\"{}\"", escape(topic));
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
    }

    fn group_text(&self, out: &mut String) {
        let name = "flumen_groups";
        head(out, name, "gauge", "Groups by state.");
        for (state, count) in self.groups.coordinator.group_counts() {
            let labels = format!("shard=\"{}\",state=\"{}\"", self.id.0, escape(state));
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
        for (name, what, count) in [
            (
                "flumen_share_sessions",
                "Share sessions of this shard's connections.",
                self.share_sessions.len(),
            ),
            (
                "flumen_share_partitions",
                "Share partitions that are in use.",
                self.shares.len(),
            ),
        ] {
            head(out, name, "gauge", what);
            let _ = writeln!(out, "{name}{{shard=\"{}\"}} {count}", self.id.0);
        }
        let name = "flumen_transactional_ids";
        head(out, name, "gauge", "Transactional ids by state.");
        for (state, count) in self.txns.coordinator.counts() {
            let labels = format!("shard=\"{}\",state=\"{state}\"", self.id.0);
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
    }

    /// What the groups of this shard have committed, and questions for the ends of the partitions.
    fn committed(&self) -> (Vec<LagLine>, Vec<(ShardId, Op)>) {
        let (mut lines, mut ops) = (Vec::new(), Vec::new());
        self.groups
            .coordinator
            .for_each_committed(&mut |group, topic, partition, offset| {
                let Some(tp) = self.partition_id(topic, partition) else {
                    return;
                };
                if lines.len() == LAG_SERIES_MAX {
                    return;
                }
                let (group, topic) = (escape(group), escape(topic));
                lines.push(LagLine {
                    labels: format!(
                        "group=\"{group}\",topic=\"{topic}\",partition=\"{partition}\""
                    ),
                    committed: offset.0,
                    end: None,
                });
                let op = ListOffsetOp {
                    timestamp: LATEST,
                    current_leader_epoch: -1,
                    committed_only: false,
                    epochs: false,
                };
                let op = Op::Partition(tp, PartitionOp::ListOffset(op));
                ops.push((self.owner(tp), op));
            });
        (lines, ops)
    }
}

/// One committed offset.
struct LagLine {
    labels: String,
    committed: i64,
    end: Option<i64>,
}

/// The text that waits for the ends of partitions.
struct Lag {
    token: Token,
    text: String,
    lines: Vec<LagLine>,
}

impl Gathering for Lag {
    fn take(&mut self, index: u32, result: OpResult) {
        if let (Some(line), OpResult::ListOffset(Ok(listed))) =
            (self.lines.get_mut(index as usize), result)
        {
            line.end = Some(listed.offset);
        }
    }

    fn finish(mut self: Box<Self>, _: &mut Shard, turn: &mut Turn<'_>, _: Reply) {
        let known = |l: &LagLine| Some((l.labels.clone(), l.end? - l.committed));
        let lines: Vec<(String, i64)> = self.lines.iter().filter_map(known).collect();
        if !lines.is_empty() {
            let name = "flumen_group_lag";
            let help = "Records that a group has not committed yet.";
            head(&mut self.text, name, "gauge", help);
            for (labels, lag) in lines {
                let _ = writeln!(self.text, "{name}{{{labels}}} {}", lag.max(0));
            }
        }
        turn.fx.push(Effect::Metrics(self.token, self.text));
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value; group names come from clients.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
