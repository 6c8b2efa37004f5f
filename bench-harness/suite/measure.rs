//! What is read from a result file, by name.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::report::{BrokerCost, Idle, LoadCurve, Report};

/// Whatever a workload wrote.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// A run under load.
    Run(Box<Report>),
    /// A load curve.
    Curve(Box<LoadCurve>),
    /// A broker left alone.
    Idle(Box<Idle>),
}

impl Outcome {
    /// Reads a result file; which it is shows in its fields.
    ///
    /// # Errors
    /// No such file, or no result.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// As [`Outcome::read`], of its text.
    ///
    /// # Errors
    /// No result.
    pub fn parse(text: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        if value.get("points").is_some() {
            return Ok(Self::Curve(Box::new(serde_json::from_value(value)?)));
        }
        if value.get("switches_per_second").is_some() {
            return Ok(Self::Idle(Box::new(serde_json::from_value(value)?)));
        }
        value.get("latency_us").context("not a report")?;
        Ok(Self::Run(Box::new(serde_json::from_value(value)?)))
    }

    /// The run: of a curve, its closed loop.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Run(report) => Some(report),
            Self::Curve(curve) => curve.closed.as_ref(),
            Self::Idle(_) => None,
        }
    }

    fn cost(&self) -> Option<&BrokerCost> {
        match self {
            Self::Idle(idle) => Some(&idle.broker),
            _ => self.report()?.broker.as_ref(),
        }
    }

    /// Why the client was the bound, if it was.
    pub fn saturated(&self) -> Option<&str> {
        self.report()?.client.saturated.as_deref()
    }
}

/// How the command of a start's report begins.
pub const START: &str = "start to the first acknowledged produce";

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Requests per second.
    Requests,
    /// Megabytes per second.
    Megabytes,
    /// Median latency, us.
    P50,
    /// 99th percentile, us.
    P99,
    /// 99.9th percentile, us.
    P999,
    /// 99th percentile from the actual send, us.
    ServiceP99,
    /// 99th percentile of the second stream, us.
    SecondP99,
    /// CPU seconds per GB, kernel threads included.
    CpuPerGb,
    /// CPU microseconds per request, kernel threads included.
    CpuPerRequest,
    /// CPU seconds per GB of the broker's own threads.
    OwnCpuPerGb,
    /// CPU microseconds per request of the broker's own threads.
    OwnCpuPerRequest,
    /// Gigabytes per CPU second.
    PerCpu,
    /// Resident memory, MiB.
    Memory,
    /// Part of a CPU used while idle.
    IdleCpu,
    /// Context switches per second while idle.
    IdleSwitches,
    /// Milliseconds to the first acknowledged produce.
    Start,
    /// What was answered, as a part of what was offered.
    Sustained,
}

impl Measure {
    /// Name with unit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests/s",
            Self::Megabytes => "MB/s",
            Self::P50 => "p50 us",
            Self::P99 => "p99 us",
            Self::P999 => "p99.9 us",
            Self::ServiceP99 => "service p99 us",
            Self::SecondP99 => "other side's p99 us",
            Self::CpuPerGb => "CPU s/GB",
            Self::CpuPerRequest => "CPU us/request",
            Self::OwnCpuPerGb => "own CPU s/GB",
            Self::OwnCpuPerRequest => "own CPU us/request",
            Self::PerCpu => "GB per CPU s",
            Self::Memory => "resident MiB",
            Self::IdleCpu => "idle CPU",
            Self::IdleSwitches => "idle switches/s",
            Self::Start => "start ms",
            Self::Sustained => "sustained",
        }
    }

    /// Whether a greater value is a better one.
    pub fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Requests | Self::Megabytes | Self::PerCpu | Self::Sustained
        )
    }

    /// Its value in a result; not a number where the result does not hold it.
    pub fn of(self, outcome: &Outcome) -> f64 {
        self.read(outcome).unwrap_or(f64::NAN)
    }

    fn read(self, outcome: &Outcome) -> Option<f64> {
        let report = outcome.report();
        // What an idle broker used is divided by no work.
        let idle = matches!(outcome, Outcome::Idle(_)) && self != Self::Memory;
        let cost = outcome.cost().filter(|_| !idle);
        // Reports of before kernel threads were counted hold a zero there.
        let whole = |with: f64, own: f64| if with > 0.0 { with } else { own };
        let per_gb = |b: &BrokerCost| whole(b.cpu_seconds_per_gb_with_kernel, b.cpu_seconds_per_gb);
        match self {
            Self::Requests => Some(report?.requests_per_second),
            Self::Megabytes => Some(report?.megabytes_per_second),
            Self::P50 => Some(report?.latency_us.p50),
            Self::P99 => Some(report?.latency_us.p99),
            Self::P999 => Some(report?.latency_us.p999),
            Self::ServiceP99 => {
                let report = report?;
                let closed = &report.latency_us;
                Some(report.service_latency_us.as_ref().unwrap_or(closed).p99)
            }
            Self::SecondP99 => Some(report?.second.as_ref()?.latency_us.p99),
            Self::CpuPerGb => Some(per_gb(cost?)),
            Self::CpuPerRequest => {
                let b = cost?;
                Some(whole(
                    b.cpu_us_per_request_with_kernel,
                    b.cpu_us_per_request,
                ))
            }
            Self::OwnCpuPerGb => Some(cost?.cpu_seconds_per_gb),
            Self::OwnCpuPerRequest => Some(cost?.cpu_us_per_request),
            Self::PerCpu => Some(1.0 / per_gb(cost?)),
            Self::Memory => Some(cost?.resident_bytes as f64 / f64::from(1 << 20)),
            Self::IdleCpu | Self::IdleSwitches => {
                let Outcome::Idle(idle) = outcome else {
                    return None;
                };
                Some(match self {
                    Self::IdleCpu => idle.broker_cpu,
                    _ => idle.switches_per_second,
                })
            }
            // Of a start's report only: in any other the greatest latency is not a start.
            Self::Start => {
                let start = report.filter(|r| r.command.starts_with(START))?;
                Some(start.latency_us.max / 1e3)
            }
            Self::Sustained => {
                let report = report?;
                Some(report.requests_per_second / report.client.offered_per_second?)
            }
        }
    }
}
