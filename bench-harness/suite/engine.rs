//! Carries out a plan: brokers and probes in turn, each scenario on each, reports into folders.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::admin::{delete_topics, first_produce};
use super::broker::{Broker, Programs, System, Variant};
use super::facts::Facts;
use super::measure::{Measure, Outcome};
use super::memory;
use super::place::{Fs, Place};
use super::plan::{Plan, Step};
use super::process::{Managed, Stop};
use super::progress::Progress;
use super::scenario::{KEEP, Run, Scenario, Stage, Trouble};
use super::trouble::Disturbance;
use super::warm::Slices;

/// Loads that a JVM is warmed with: name, arguments.
const WARM: &[(&str, &[&str])] = &[
    ("64k", &["produce", "--batch-bytes", "65536"]),
    (
        "serve64k",
        &[
            "fetch",
            "--fetch-bytes",
            "65536",
            "--connections",
            "4",
            "--partitions",
            "4",
        ],
    ),
    (
        "tiny8",
        &["produce", "--record-bytes", "100", "--batch-bytes", "1"],
    ),
    (
        "e2e1k",
        &[
            "end-to-end",
            "--record-bytes",
            "1024",
            "--rate",
            "1000",
            "--partitions",
            "1",
        ],
    ),
];

/// Rest of the disk after a sync.
const SETTLE: Duration = Duration::from_secs(2);

/// What is known about one scenario on one file system.
#[derive(Debug, Default)]
pub struct Cell {
    /// How the file system was mounted.
    pub mount: String,
    /// What differs from the usual.
    pub remarks: BTreeSet<String>,
    /// Disk speed, where it was measured.
    pub disk: Option<f64>,
}

/// The engine and what it has gathered.
#[derive(Debug)]
pub struct Engine {
    /// What is to be done.
    pub plan: Plan,
    /// With what.
    pub programs: Programs,
    /// Until when.
    pub stop: Stop,
    /// What is common to all results.
    pub facts: Facts,
    /// A directory on the disk, removed in the end.
    pub base: PathBuf,
    /// Reports, one directory per cell.
    pub raw: PathBuf,
    /// By scenario and file system.
    pub cells: BTreeMap<(&'static str, Fs), Cell>,
    /// Address of somebody's broker.
    pub remote: Option<String>,
    /// Lines on stderr.
    pub progress: Progress,
    /// Known speeds of disks, MB/s.
    pub disk_speed: BTreeMap<Fs, f64>,
}

/// One call of the client.
struct Load<'a> {
    scenario: &'a str,
    topic: String,
    args: Vec<String>,
    config: Vec<String>,
    seconds: f64,
    warmup: f64,
    cpus: String,
    /// The client has its CPU for itself: it polls without sleeping, so that the broker does not
    /// pay for waking it.
    spin: bool,
    out: PathBuf,
    hdr_log: bool,
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

impl Engine {
    /// An engine that has done nothing yet.
    pub fn new(plan: Plan, programs: Programs, stop: Stop, facts: Facts, base: PathBuf) -> Self {
        let estimate = plan.steps().iter().map(|s| plan.estimate_step(s)).sum();
        let runs = plan.steps().iter().map(|s| s.scenarios.len()).sum();
        Self {
            raw: base.join("raw"),
            progress: Progress::new(runs, estimate),
            plan,
            programs,
            stop,
            facts,
            base,
            cells: BTreeMap::new(),
            remote: None,
            disk_speed: BTreeMap::new(),
        }
    }

    /// Runs the whole plan. What was gathered stays when it fails.
    ///
    /// # Errors
    /// Interrupted. What goes wrong with a broker or a workload is a remark and a gap.
    pub fn run(&mut self) -> Result<()> {
        for step in self.plan.steps() {
            self.stop.check()?;
            if let Err(error) = self.step(&step) {
                self.stop.check()?;
                let what = format!("{} on {}", step.variant.name, step.fs.name());
                for scenario in &step.scenarios {
                    self.remark(scenario, step.fs, format!("{what}: {error:#}"));
                }
                self.progress.note(&format!("SKIPPED {what}: {error:#}"));
            }
            self.progress.step_done(self.plan.estimate_step(&step));
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        self.note_shortage(step);
        let place = Place::make(step.fs, &self.base)?;
        if step.fs.on_disk() {
            // What the step before left to be written back must not be paid for by this one.
            rustix::fs::sync();
            self.stop.sleep(SETTLE)?;
        }
        for scenario in &step.scenarios {
            let cell = self.cells.entry((scenario.name, step.fs)).or_default();
            cell.mount = place.mount.clone();
            fs::create_dir_all(self.raw.join(folder(scenario, step.fs)))?;
        }
        match (step.variant.system, step.scenarios.first().map(|s| s.run)) {
            (System::Limit, _) => self.each(step, |engine, scenario| {
                engine.limit(step, scenario, &place)
            }),
            (System::Remote, _) => {
                let address = self.remote.clone().context("an address")?;
                let mut broker = Broker::remote(&address);
                self.on_broker(step, &place, &mut broker)
            }
            (_, Some(Run::Start { partitions })) => self.each(step, |engine, scenario| {
                engine.start(step, scenario, partitions, &place)
            }),
            (_, Some(Run::TwoShards(args))) => self.each(step, |engine, scenario| {
                engine.two_shards(step, scenario, args, &place)
            }),
            _ => self.shared_broker(step, &place),
        }
    }

    /// Runs each scenario of a step; a failure is a remark.
    fn each(
        &mut self,
        step: &Step,
        mut run: impl FnMut(&mut Self, &'static Scenario) -> Result<Outcome>,
    ) -> Result<()> {
        for scenario in &step.scenarios {
            self.stop.check()?;
            self.progress.begin(step, scenario, self.plan.rounds);
            match run(self, scenario) {
                Ok(outcome) => self.progress.result(scenario.main, &outcome),
                Err(error) => {
                    self.stop.check()?;
                    let text = format!("{} failed: {error:#}", step.variant.name);
                    self.progress.note(&text);
                    self.remark(scenario, step.fs, text);
                }
            }
            let estimate = self.plan.estimate(scenario, &step.variant);
            self.progress.time_done(estimate);
        }
        Ok(())
    }

    /// Remarks it where there is too little memory for what is measured in it.
    fn note_shortage(&mut self, step: &Step) {
        let available = memory::available_bytes().unwrap_or(u64::MAX);
        if let Some(text) = memory::shortage(step.fs, available) {
            self.progress.note(&text);
            for scenario in &step.scenarios {
                self.remark(scenario, step.fs, text.clone());
            }
        }
    }

    fn remark(&mut self, scenario: &Scenario, fs: Fs, text: String) {
        let cell = self.cells.entry((scenario.name, fs)).or_default();
        cell.remarks.insert(text);
    }

    /// A broker for all scenarios of a step. One that died is started again, empty.
    fn shared_broker(&mut self, step: &Step, place: &Place) -> Result<()> {
        let mut broker = self.start_warm(step, place)?;
        let estimate = self.plan.estimate_start(&step.variant);
        self.progress.time_done(estimate);
        let all = step.scenarios.clone();
        for scenario in all {
            let one = Step {
                scenarios: vec![scenario],
                ..step.clone()
            };
            if broker.ensure_running().is_err() {
                broker.kill();
                broker = self.start_warm(step, place)?;
            }
            self.on_broker(&one, place, &mut broker)?;
        }
        if !broker.stop() {
            self.progress
                .note(&format!("{} had to be killed", step.variant.name));
        }
        Ok(())
    }

    fn on_broker(&mut self, step: &Step, place: &Place, broker: &mut Broker) -> Result<()> {
        let variant = &step.variant;
        self.each(step, |engine, scenario| {
            let topics = [topic(scenario.name), topic(scenario.name) + "-read"];
            let outcome = engine.measure(step, scenario, place, broker);
            let data = place.data();
            let data = (variant.system != System::Remote).then_some(data.as_path());
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            if outcome.is_ok() {
                delete_topics(&broker.address, &names, data, &engine.stop)?;
            } else if broker.ensure_running().is_ok() {
                let _ = delete_topics(&broker.address, &names, data, &engine.stop);
            }
            outcome
        })
    }

    fn start_warm(&mut self, step: &Step, place: &Place) -> Result<Broker> {
        let variant = &step.variant;
        let data = place.fresh()?;
        self.programs.format(variant, &data)?;
        let cpu = self.programs.broker_cpu.to_string();
        let broker = self.programs.start(variant, &cpu, &self.stop)?;
        self.facts
            .autogroup
            .insert(variant.name.clone(), broker.autogroup());
        let properties = self.programs.properties(variant, Path::new("DATA"));
        self.facts
            .properties
            .insert(variant.name.clone(), properties);
        let ms = broker.listening.as_millis();
        self.progress
            .note(&format!("{} listens after {ms} ms; warming", variant.name));
        let warm = self.warm(step, &broker)?;
        self.facts.warm.entry(variant.name.clone()).or_insert(warm);
        Ok(broker)
    }

    /// Kafka's code has to be compiled before it is measured; Flumen needs only its caches.
    fn warm(&mut self, step: &Step, broker: &Broker) -> Result<Vec<String>> {
        let kafka = step.variant.system == System::Kafka;
        let slice = if kafka && !self.plan.quick { 3.0 } else { 1.0 };
        let begin = Instant::now();
        let mut said = Vec::new();
        for (at, (name, args)) in WARM.iter().enumerate() {
            // The later loads share most of the code, and get a smaller share of the time.
            let cap = self.plan.warm_max * [0.5, 0.8, 0.9, 1.0].get(at).unwrap_or(&1.0);
            let mut slices = Slices::default();
            let own = Instant::now();
            let topic = topic(&format!("warm-{name}"));
            loop {
                let load = Load {
                    scenario: &topic,
                    topic: topic.clone(),
                    args: strings(args),
                    config: strings(KEEP),
                    seconds: slice,
                    warmup: 0.0,
                    cpus: self.programs.client_cpu.to_string(),
                    spin: true,
                    out: self.base.join("warm.json"),
                    hdr_log: false,
                };
                let outcome = self.client(&load, broker, None)?;
                slices.push(Measure::Requests.of(&outcome));
                // An open loop's throughput says nothing about the compiler.
                let paced = args.contains(&"--rate");
                let over = begin.elapsed().as_secs_f64() >= cap;
                if !kafka || slices.stable() && !paced || over {
                    break;
                }
            }
            said.push(slices.text(name, own.elapsed().as_secs_f64()));
            delete_topics(&broker.address, &[&topic], None, &self.stop)?;
        }
        self.progress.note(&format!(
            "{} warmed: {}",
            step.variant.name,
            said.join("; ")
        ));
        Ok(said)
    }

    /// A scenario on a broker that runs.
    fn measure(
        &mut self,
        step: &Step,
        scenario: &'static Scenario,
        place: &Place,
        broker: &mut Broker,
    ) -> Result<Outcome> {
        match scenario.run {
            Run::Load(args) => self.load(step, scenario, strings(args), broker, place),
            Run::DiskRate {
                part,
                at_most,
                request_bytes,
                args,
            } => {
                let disk = self.disk_speed(step.fs, place)?;
                let megabytes = (part * disk).min(at_most);
                let mut args = strings(args);
                args.extend([
                    "--rate".to_owned(),
                    format!("{:.1}", megabytes * 1e6 / request_bytes),
                ]);
                let cell = self.cells.entry((scenario.name, step.fs)).or_default();
                cell.disk = Some(disk);
                self.load(step, scenario, args, broker, place)
            }
            Run::Trouble {
                args,
                calm,
                trouble,
            } => {
                let name = format!("{}-calm", step.variant.name);
                let mut load = self.prepared(step, scenario, strings(calm), &name);
                let topic = topic(scenario.name) + "-calm";
                load.topic.clone_from(&topic);
                load.config = strings(KEEP);
                self.client(&load, broker, Some(place))?;
                delete_topics(&broker.address, &[&topic], None, &self.stop)?;
                if trouble == Trouble::Recovery {
                    self.restart_to_recover(step, broker)?;
                }
                let disturbance = Disturbance::begin(trouble, &broker.address)?;
                let outcome = self.load(step, scenario, strings(args), broker, place)?;
                disturbance.end().context("the trouble itself")?;
                Ok(outcome)
            }
            Run::Start { .. } | Run::TwoShards(_) => unreachable_run(scenario),
        }
    }

    fn prepared<'a>(
        &self,
        step: &Step,
        scenario: &'a Scenario,
        args: Vec<String>,
        variant: &str,
    ) -> Load<'a> {
        let file = format!("{}-{variant}-{}.json", scenario.name, step.round);
        let plain = matches!(
            args.first().map(String::as_str),
            Some("idle" | "load-curve")
        );
        Load {
            scenario: scenario.name,
            topic: topic(scenario.name),
            config: strings(scenario.topic),
            seconds: self.plan.seconds_of(scenario),
            warmup: self.plan.warmup(&step.variant),
            cpus: self.programs.client_cpu.to_string(),
            spin: true,
            out: self.raw.join(folder(scenario, step.fs)).join(file),
            hdr_log: !plain,
            args,
        }
    }

    fn load(
        &mut self,
        step: &Step,
        scenario: &'static Scenario,
        args: Vec<String>,
        broker: &Broker,
        place: &Place,
    ) -> Result<Outcome> {
        let load = self.prepared(step, scenario, args, &step.variant.name);
        self.client(&load, broker, Some(place))
    }

    /// Runs the client and reads its report.
    fn client(&self, load: &Load<'_>, broker: &Broker, place: Option<&Place>) -> Result<Outcome> {
        let mut args = load.args.clone();
        let mut add = |key: &str, value: String| {
            // What the scenario says itself goes before what all get.
            if !args.iter().any(|a| a == key) {
                args.extend([key.to_owned(), value]);
            }
        };
        add("--scenario", load.scenario.to_owned());
        add("--topic", load.topic.clone());
        add("--bootstrap-server", broker.address.clone());
        add("--seconds", load.seconds.to_string());
        add("--warmup", load.warmup.to_string());
        add("--out", load.out.display().to_string());
        if let Some(pid) = broker.pid() {
            add("--broker-pid", pid.to_string());
            add("--broker-cpu", self.programs.broker_cpu.to_string());
        }
        if load.hdr_log {
            add(
                "--hdr-log",
                load.out.with_extension("hlog").display().to_string(),
            );
        }
        if load.spin && args.first().is_some_and(|a| a != "idle") {
            args.push("--spin".to_owned());
        }
        if args.first().is_some_and(|a| a == "mixed") && !args.iter().any(|a| a == "--tail") {
            args.extend(["--read-topic".to_owned(), format!("{}-read", load.topic)]);
        }
        if let (true, Some(place)) = (args.iter().any(|a| a == "--cold"), place) {
            args.extend([
                "--broker-dir".to_owned(),
                place.data().display().to_string(),
            ]);
        }
        for config in &load.config {
            args.extend(["--config".to_owned(), config.clone()]);
        }
        let mut command = vec![self.programs.harness.clone().into_os_string()];
        command.extend(args.iter().map(OsString::from));
        let log = self.programs.logs.join("client.log");
        let mut client = Managed::spawn("client", &load.cpus, &command, &log)?;
        // Filling, a load curve's steps and the warm-up come on top of the measured time.
        let limit = Duration::from_secs_f64((load.seconds + load.warmup) * 14.0 + 180.0);
        let status = client.wait(limit, &self.stop)?;
        ensure!(status.success(), "{}: {}", args.join(" "), client.tail());
        Outcome::read(&load.out)
    }
}

mod special;

/// The suite deletes its topics, maybe on somebody's broker: their names are nobody else's.
fn topic(name: &str) -> String {
    format!("flumen-bench-{name}")
}

/// `<scenario>-<fs>`.
pub fn folder(scenario: &Scenario, fs: Fs) -> String {
    format!("{}-{}", scenario.name, fs.name())
}

/// A plan only holds steps whose system can run their scenarios.
fn unreachable_run<T>(scenario: &Scenario) -> Result<T> {
    anyhow::bail!("{} does not run like this", scenario.name)
}

impl Variant {
    /// Whether it is started and stopped here.
    pub fn is_broker(&self) -> bool {
        matches!(self.system, System::Flumen | System::Kafka)
    }
}

impl Scenario {
    /// Whether it runs once and not in rounds.
    pub fn once(&self) -> bool {
        matches!(self.stage, Stage::Once { .. })
    }
}
