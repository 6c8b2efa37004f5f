//! The load curve, and the broker at rest.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::args::{Common, LoadCurveArgs, ProduceArgs};
use crate::observe::{SAMPLE_EVERY, Watch};
use crate::produce::produce;
use crate::report::{Idle, LoadCurve, LoadPoint, Report, command};
use crate::setup::{Admin, resolve};

/// A closed loop finds the capacity, then open loops offer parts of it, in rising order.
///
/// # Errors
/// The broker refused or went away, or a step is not above zero.
pub fn load_curve(args: &LoadCurveArgs) -> Result<LoadCurve> {
    let base = &args.produce;
    ensure!(
        args.steps.iter().all(|s| *s > 0.0),
        "a step is a percentage above zero"
    );
    let closed = match args.capacity {
        Some(_) => None,
        None => Some(produce(&at_rate(base, None))?),
    };
    let measured = closed.as_ref().map(|r| r.requests_per_second);
    let capacity = args.capacity.or(measured).context("a capacity")?;
    let mut steps = args.steps.clone();
    steps.sort_by(f64::total_cmp);
    let mut points = Vec::new();
    for percent in steps {
        let rate = rate_of(capacity, percent);
        points.push(point(percent, rate, produce(&at_rate(base, Some(rate)))?));
    }
    Ok(LoadCurve {
        scenario: base.common.scenario.clone(),
        command: command(),
        capacity_per_second: capacity,
        closed,
        points,
    })
}

fn rate_of(capacity: f64, percent: f64) -> f64 {
    capacity * percent / 100.0
}

/// The same workload at another rate. Its log of latencies would overwrite that of the step
/// before, so none is kept: the points have their histograms.
fn at_rate(args: &ProduceArgs, rate: Option<f64>) -> ProduceArgs {
    let common = Common {
        rate,
        hdr_log: None,
        ..args.common.clone()
    };
    ProduceArgs {
        common,
        ..args.clone()
    }
}

fn point(percent: f64, offered: f64, report: Report) -> LoadPoint {
    LoadPoint {
        percent,
        offered_per_second: offered,
        achieved_per_second: report.requests_per_second,
        broker_cpu: report
            .broker
            .as_ref()
            .map(|b| b.cpu_seconds / report.seconds),
        report,
    }
}

/// Leaves the broker alone with one connection that has spoken once.
///
/// # Errors
/// There is no broker or no process of that id.
pub fn idle(common: &Common) -> Result<Idle> {
    let pid = common.broker_pid.context("idle needs --broker-pid")?;
    let mut admin = Admin::connect(resolve(&common.bootstrap_server)?)?;
    admin.create_topic(&common.topic, common.partitions, &common.config)?;
    std::thread::sleep(Duration::from_secs_f64(common.warmup));
    let begin = Instant::now();
    let mut watch = Watch::start(pid, common.broker_cpu)?;
    let end = begin + Duration::from_secs_f64(common.seconds);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::sleep(left.min(SAMPLE_EVERY));
        if left > SAMPLE_EVERY {
            watch.again()?;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let broker = watch.finish(0, 0)?;
    drop(admin);
    let switches = broker.switches_voluntary + broker.switches_involuntary;
    Ok(Idle {
        scenario: common.scenario.clone(),
        command: command(),
        seconds,
        broker_cpu: broker.cpu_seconds / seconds,
        switches_per_second: switches as f64 / seconds,
        broker,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::BrokerCost;

    #[test]
    fn a_point_says_what_part_of_a_cpu_the_broker_used() {
        let report = Report {
            seconds: 4.0,
            requests_per_second: 900.0,
            broker: Some(BrokerCost {
                cpu_seconds: 3.0,
                ..BrokerCost::default()
            }),
            ..Report::default()
        };
        let point = point(95.0, rate_of(1000.0, 95.0), report);
        assert!((point.offered_per_second - 950.0).abs() < 1e-9);
        assert!((point.achieved_per_second - 900.0).abs() < 1e-9);
        assert!((point.broker_cpu.unwrap() - 0.75).abs() < 1e-9);
    }
}
