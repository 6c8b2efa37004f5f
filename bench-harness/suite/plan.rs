//! What will run, in which order, and how long that takes.

use anyhow::{Result, ensure};
use regex_lite::Regex;

use super::broker::{System, Variant};
use super::cli::{StrategyArgs, SuiteArgs};
use super::place::Fs;
use super::scenario::{Run, SCENARIOS, Scenario, Stage};

/// Scenarios of `--quick`: all on tmpfs, the cheap ones of each kind.
const QUICK: &[&str] = &["tiny8", "64k", "serve64k", "e2e1k"];

/// The whole of one call.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Columns.
    pub variants: Vec<Variant>,
    /// Lines, with the file systems of each that are wanted.
    pub lines: Vec<(&'static Scenario, Vec<Fs>)>,
    /// Alternating rounds of the lines that run in rounds.
    pub rounds: usize,
    /// Measured seconds of those.
    pub seconds: f64,
    /// Measured seconds of the others; their own when not given.
    pub seconds_once: Option<f64>,
    /// Cap of the warm-up of a JVM, seconds.
    pub warm_max: f64,
    /// Whether it is the quick look.
    pub quick: bool,
    /// Put before the scenario's name in folders.
    pub prefix: &'static str,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub struct Step {
    /// Of the rounds, from 1.
    pub round: usize,
    /// Where.
    pub fs: Fs,
    /// What is measured.
    pub variant: Variant,
    /// With what, on one broker, in this order.
    pub scenarios: Vec<&'static Scenario>,
}

impl Plan {
    /// Of `bench-harness suite`.
    ///
    /// # Errors
    /// A filter is no regular expression, or nothing is left.
    pub fn suite(args: &SuiteArgs) -> Result<Self> {
        let quick = args.quick;
        let shared = &args.shared;
        let only = args.only.as_deref().map(whole).transpose()?;
        let wanted = |s: &Scenario| {
            if quick && only.is_none() {
                return QUICK.contains(&s.name);
            }
            let once = matches!(s.stage, Stage::Once { .. });
            only.as_ref()
                .map_or(args.full || !once, |o| o.is_match(s.name))
        };
        let config = |system: System| match system {
            System::Flumen => shared.flumen_config.clone(),
            System::Kafka => shared.kafka_config.clone(),
            System::Limit | System::Remote => Vec::new(),
        };
        let mut variants: Vec<Variant> = Vec::new();
        let remote = [System::Remote];
        let systems = match args.address {
            Some(_) => remote.as_slice(),
            None => &args.systems,
        };
        for system in systems {
            ensure!(
                (*system == System::Remote) == args.address.is_some(),
                "the system `remote` goes with --address"
            );
            variants.push(Variant {
                name: system.name().to_owned(),
                system: *system,
                config: config(*system),
            });
        }
        let fs_of = |s: &Scenario| -> Vec<Fs> {
            if args.address.is_some() {
                return vec![Fs::Dir];
            }
            let asked = args.fs.iter().copied();
            // An explicit choice by name is followed even where the table does not have it.
            match (args.fs.is_empty(), only.is_some()) {
                (true, _) if quick => vec![Fs::Tmpfs],
                (true, _) => s.fs.to_vec(),
                (false, true) => asked.collect(),
                (false, false) => asked
                    .filter(|f| s.fs.contains(f) || (*f == Fs::XfsDisk && s.fs.contains(&Fs::Xfs)))
                    .collect(),
            }
        };
        let lines = lines(|s| if wanted(s) { fs_of(s) } else { Vec::new() });
        let plan = Self {
            variants,
            lines,
            rounds: args.rounds.unwrap_or(if quick { 2 } else { 5 }),
            seconds: args.seconds.unwrap_or(if quick { 2.0 } else { 5.0 }),
            seconds_once: args.seconds,
            warm_max: if quick { 11.0 } else { 90.0 },
            quick,
            prefix: "",
        };
        plan.sound()
    }

    /// Of `bench-harness strategies`.
    ///
    /// # Errors
    /// As [`Plan::suite`].
    pub fn strategies(args: &StrategyArgs) -> Result<Self> {
        let only = whole(&args.only)?;
        let variant = |strategy: &String| {
            let mut config = args.shared.flumen_config.clone();
            config.push(("flumen.log.write.strategy".to_owned(), strategy.clone()));
            Variant {
                name: strategy.clone(),
                system: System::Flumen,
                config,
            }
        };
        let plan = Self {
            variants: args.strategies.iter().map(variant).collect(),
            lines: lines(|s| {
                if only.is_match(s.name) {
                    args.fs.clone()
                } else {
                    Vec::new()
                }
            }),
            rounds: 1,
            seconds: args.seconds.unwrap_or(60.0),
            seconds_once: args.seconds,
            warm_max: 0.0,
            quick: false,
            prefix: "strategies-",
        };
        plan.sound()
    }

    fn sound(self) -> Result<Self> {
        ensure!(
            !self.lines.is_empty(),
            "no scenario is left by --only and --fs"
        );
        ensure!(!self.variants.is_empty(), "nothing to measure");
        ensure!(self.rounds > 0 && self.seconds > 0.0, "no round or no time");
        Ok(self)
    }

    /// The steps in order: rounds first, each turning the order of the systems by one, so that
    /// no system always follows the same other; then what runs once.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for round in 1..=self.rounds {
            for fs in self.all_fs() {
                for variant in self.turned(round) {
                    self.push_round(round, fs, variant, &mut steps);
                }
            }
        }
        for (scenario, all) in &self.lines {
            if let Stage::Once { .. } = scenario.stage {
                for fs in all {
                    for variant in self.turned(1) {
                        steps.extend(step(1, *fs, variant, vec![*scenario]));
                    }
                }
            }
        }
        steps
    }

    fn push_round(&self, round: usize, fs: Fs, variant: &Variant, steps: &mut Vec<Step>) {
        let here = || self.lines.iter().filter(|(_, all)| all.contains(&fs));
        let of = |stage: Stage| here().map(|(s, _)| *s).filter(move |s| s.stage == stage);
        steps.extend(step(round, fs, variant, of(Stage::Rounds).collect()));
        for scenario in of(Stage::Alone) {
            steps.extend(step(round, fs, variant, vec![scenario]));
        }
    }

    fn all_fs(&self) -> Vec<Fs> {
        let mut all: Vec<Fs> = self.lines.iter().flat_map(|(_, fs)| fs.clone()).collect();
        all.sort();
        all.dedup();
        all
    }

    fn turned(&self, round: usize) -> impl Iterator<Item = &Variant> {
        let n = self.variants.len();
        (0..n).filter_map(move |i| self.variants.get((i + round - 1) % n.max(1)))
    }

    /// Measured seconds of one run.
    pub fn seconds_of(&self, scenario: &Scenario) -> f64 {
        match scenario.stage {
            Stage::Once { seconds } => self.seconds_once.unwrap_or(f64::from(seconds)),
            Stage::Rounds | Stage::Alone => self.seconds,
        }
    }

    /// Roughly how long a scenario takes on one system, seconds.
    pub fn estimate(&self, scenario: &Scenario, variant: &Variant) -> f64 {
        let kafka = variant.system == System::Kafka;
        let (seconds, warm) = (self.seconds_of(scenario), self.warmup(variant));
        let own = seconds + warm + 1.5;
        match scenario.run {
            Run::Load(args) if args.contains(&"load-curve") => 11.0 * (seconds + warm) + 2.0,
            Run::Load(args) if args.contains(&"--cold") => own + 8.0,
            Run::Load(_) if scenario.name == "disk-saturate" => own + 60.0,
            Run::Load(_) if variant.system == System::Limit => {
                scenario.limit.len() as f64 * (own + 0.5)
            }
            Run::Load(_) | Run::DiskRate { .. } => own,
            Run::Trouble { .. } => 2.0 * own + 8.0,
            Run::Start { partitions: 0 } => {
                if kafka {
                    9.0
                } else {
                    1.5
                }
            }
            Run::Start { .. } => {
                if kafka {
                    60.0
                } else {
                    8.0
                }
            }
            Run::TwoShards(_) => 2.0 * own + 2.0,
        }
    }

    /// The same of a step, its start and warm-up included.
    pub fn estimate_step(&self, step: &Step) -> f64 {
        let all = step.scenarios.iter();
        let sum: f64 = all.map(|s| self.estimate(s, &step.variant)).sum();
        let own_start = step.scenarios.iter().all(|s| s.needs_own_broker());
        sum + if own_start {
            0.0
        } else {
            self.estimate_start(&step.variant)
        }
    }

    /// Of a broker's start and warm-up.
    pub fn estimate_start(&self, variant: &Variant) -> f64 {
        match variant.system {
            System::Kafka => 9.0 + self.warm_max * 0.6,
            System::Flumen => 7.0,
            System::Limit | System::Remote => 0.0,
        }
    }

    /// Seconds of the same load before each measurement.
    pub fn warmup(&self, variant: &Variant) -> f64 {
        match variant.system {
            System::Kafka if !self.quick => 3.0,
            _ => 1.0,
        }
    }
}

fn whole(pattern: &str) -> Result<Regex> {
    Ok(Regex::new(&format!("^(?:{pattern})$"))?)
}

fn lines(fs: impl Fn(&Scenario) -> Vec<Fs>) -> Vec<(&'static Scenario, Vec<Fs>)> {
    let all = SCENARIOS.iter().map(|s| (s, fs(s)));
    all.filter(|(_, fs)| !fs.is_empty()).collect()
}

/// `None` when the variant can run none of the scenarios.
fn step(
    round: usize,
    fs: Fs,
    variant: &Variant,
    mut scenarios: Vec<&'static Scenario>,
) -> Option<Step> {
    scenarios.retain(|s| match variant.system {
        System::Limit => !s.limit.is_empty(),
        System::Kafka => !matches!(s.run, Run::TwoShards(_)),
        // Its process and its files are out of reach.
        System::Remote => !s.needs_own_broker() && !s.is_cold() && s.name != "idle",
        System::Flumen => true,
    });
    (!scenarios.is_empty()).then(|| Step {
        round,
        fs,
        variant: variant.clone(),
        scenarios,
    })
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod plan_test;
