//! What is not simply a client on a warm broker: limits, the disk, starts, two shards.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Engine, first_produce, folder, strings, unreachable_run};
use crate::report::{Latency, Report};
use crate::suite::broker::Broker;
use crate::suite::disk;
use crate::suite::measure::{Outcome, START};
use crate::suite::place::{Fs, Place};
use crate::suite::plan::Step;
use crate::suite::scenario::{Run, Scenario};
use crate::suite::trouble;

/// Longest time until the port of a killed broker is free.
const FREED_MAX: Duration = Duration::from_secs(5);

impl Engine {
    /// The same client against each probe of a scenario; the better one's report is kept.
    pub(super) fn limit(
        &mut self,
        step: &Step,
        scenario: &'static Scenario,
        place: &Place,
    ) -> Result<Outcome> {
        if scenario.limit == ["disk"] {
            return self.disk_limit(step, scenario, place);
        }
        let Run::Load(args) = scenario.run else {
            return unreachable_run(scenario);
        };
        let kept = self
            .prepared(step, scenario, strings(args), &step.variant.name)
            .out;
        let mut best: Option<(f64, Outcome)> = None;
        for kind in scenario.limit {
            let data = place.fresh()?;
            let probe = self.programs.start_probe(kind, &data, &self.stop)?;
            let mut load = self.prepared(step, scenario, strings(args), kind);
            load.hdr_log = false;
            let outcome = self.client(&load, &probe, Some(place));
            probe.kill();
            let outcome = outcome.with_context(|| format!("limit {kind}"))?;
            let value = scenario.main.of(&outcome);
            let more = scenario.main.more_is_better();
            if best.as_ref().is_none_or(|(b, _)| (value > *b) == more) {
                fs::rename(&load.out, &kept)?;
                best = Some((value, outcome));
            } else {
                fs::remove_file(&load.out)?;
            }
        }
        let probes = scenario.limit.join(" or ");
        self.facts
            .versions
            .insert(format!("limit of {}", scenario.name), probes);
        Ok(best.context("a probe")?.1)
    }

    pub(super) fn disk_speed(&mut self, fs: Fs, place: &Place) -> Result<f64> {
        if let Some(known) = self.disk_speed.get(&fs) {
            return Ok(*known);
        }
        let speed = disk::sequential_write(&place.path, &self.stop)?;
        self.progress
            .note(&format!("{}: {speed:.0} MB/s sequential", fs.name()));
        self.disk_speed.insert(fs, speed);
        Ok(speed)
    }

    fn disk_limit(&mut self, step: &Step, scenario: &Scenario, place: &Place) -> Result<Outcome> {
        let speed = self.disk_speed(step.fs, place)?;
        let cell = self.cells.entry((scenario.name, step.fs)).or_default();
        cell.disk = Some(speed);
        let report = Report {
            scenario: scenario.name.to_owned(),
            command: "the disk's sequential speed, nothing else".to_owned(),
            megabytes_per_second: speed,
            ..Report::default()
        };
        self.keep(step, scenario, &step.variant.name, report)
    }

    fn keep(
        &self,
        step: &Step,
        scenario: &Scenario,
        variant: &str,
        report: Report,
    ) -> Result<Outcome> {
        let file = format!("{}-{variant}-{}.json", scenario.name, step.round);
        let path = self.raw.join(folder(scenario, step.fs)).join(file);
        fs::write(path, serde_json::to_string(&report)?)?;
        Ok(Outcome::Run(Box::new(report)))
    }

    /// Gives the broker something to recover, kills it, and starts it again. Returns when it serves
    /// a new topic.
    pub(super) fn restart_to_recover(&self, step: &Step, broker: &mut Broker) -> Result<()> {
        ensure!(step.variant.is_broker(), "only a broker of ours is killed");
        let address = broker.address.clone();
        trouble::fill_to_recover(&address).context("what is to be recovered")?;
        std::mem::replace(broker, Broker::remote(&address)).kill();
        // The kernel lets go of a killed process's sockets a little later.
        let begun = Instant::now();
        while TcpStream::connect(&address).is_ok() && begun.elapsed() < FREED_MAX {
            self.stop.sleep(Duration::from_millis(10))?;
        }
        let cpu = self.programs.broker_cpu.to_string();
        *broker = self.programs.start(&step.variant, &cpu, &self.stop)?;
        first_produce(
            &address,
            ("flumen-bench-trouble-ready", 1),
            true,
            &self.stop,
        )?;
        Ok(())
    }

    /// From the process's start to the first acknowledged produce.
    pub(super) fn start(
        &mut self,
        step: &Step,
        scenario: &'static Scenario,
        partitions: i32,
        place: &Place,
    ) -> Result<Outcome> {
        let cpu = self.programs.broker_cpu.to_string();
        let data = place.fresh()?;
        self.programs.format(&step.variant, &data)?;
        let empty = partitions == 0;
        let (topic, count) = (super::topic(scenario.name), partitions.max(1));
        if !empty {
            let broker = self.programs.start(&step.variant, &cpu, &self.stop)?;
            first_produce(&broker.address, (&topic, count), true, &self.stop)?;
            let mut load = self.prepared(step, scenario, Vec::new(), &step.variant.name);
            load.args = strings(&["produce", "--spread", "--batch-bytes", "1"]);
            load.args
                .extend(["--partitions".to_owned(), count.to_string()]);
            load.config = Vec::new();
            load.hdr_log = false;
            (load.seconds, load.warmup) = (2.0, 0.0);
            self.client(&load, &broker, None)?;
            ensure!(broker.stop(), "the stop before was not clean");
        }
        let broker = self.programs.start(&step.variant, &cpu, &self.stop)?;
        let acked = first_produce(&broker.address, (&topic, count), empty, &self.stop)?;
        let time = acked.duration_since(broker.begun);
        broker.stop();
        let us = time.as_secs_f64() * 1e6;
        let report = Report {
            scenario: scenario.name.to_owned(),
            command: format!("{START}, {partitions} partitions"),
            seconds: time.as_secs_f64(),
            requests: 1,
            latency_us: Latency {
                p50: us,
                p90: us,
                p99: us,
                p999: us,
                max: us,
                mean: us,
            },
            ..Report::default()
        };
        self.keep(step, scenario, &step.variant.name, report)
    }

    /// One shard on the broker's CPU, then two on both; the client is on the other, then on both.
    pub(super) fn two_shards(
        &mut self,
        step: &Step,
        scenario: &'static Scenario,
        args: &[&str],
        place: &Place,
    ) -> Result<Outcome> {
        let (one, both) = (
            self.programs.broker_cpu.to_string(),
            format!("{},{}", self.programs.broker_cpu, self.programs.client_cpu),
        );
        let client = self.programs.client_cpu.to_string();
        let mut last = None;
        let shapes = [("one-shard", "1", &one, &client), ("", "2", &both, &both)];
        for (suffix, shards, broker_cpus, client_cpus) in shapes {
            let mut variant = step.variant.clone();
            variant
                .config
                .push(("flumen.shards".to_owned(), shards.to_owned()));
            let name = match suffix {
                "" => variant.name.clone(),
                suffix => format!("{}-{suffix}", variant.name),
            };
            let data = place.fresh()?;
            self.programs.format(&variant, &data)?;
            let broker = self.programs.start(&variant, broker_cpus, &self.stop)?;
            let mut load = self.prepared(step, scenario, strings(args), &name);
            load.cpus.clone_from(client_cpus);
            load.spin = false; // it shares its CPU with a shard
            last = Some(self.client(&load, &broker, Some(place))?);
            broker.stop();
        }
        last.context("two runs")
    }
}
