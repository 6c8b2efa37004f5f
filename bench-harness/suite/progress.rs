//! Lines on stderr: what runs, what came out, how long it will still take.

use std::time::Instant;

use super::measure::{Measure, Outcome};
use super::plan::Step;
use super::scenario::Scenario;
use super::stats::short;

/// Where the run stands.
#[derive(Debug)]
pub struct Progress {
    runs: usize,
    run: usize,
    estimate: f64,
    done: f64,
    /// Of the current step, already counted in `done`.
    of_step: f64,
    begun: Instant,
}

impl Progress {
    /// Of so many runs that take about so many seconds.
    pub fn new(runs: usize, estimate: f64) -> Self {
        Self {
            runs,
            run: 0,
            estimate,
            done: 0.0,
            of_step: 0.0,
            begun: Instant::now(),
        }
    }

    /// A line.
    pub fn note(&self, text: &str) {
        say(&format!("  {text}"));
    }

    /// A run begins.
    pub fn begin(&mut self, step: &Step, scenario: &Scenario, rounds: usize) {
        self.run += 1;
        let (round, fs) = (step.round, step.fs.name());
        let rounds = if scenario.once() { 1 } else { rounds };
        say(&format!(
            "[{}/{}] {} on {fs}, round {round}/{rounds}, {}; about {} left",
            self.run,
            self.runs,
            scenario.name,
            step.variant.name,
            minutes(self.left())
        ));
    }

    /// What it gave.
    pub fn result(&self, main: Measure, outcome: &Outcome) {
        let mut parts = Vec::new();
        for measure in [
            main,
            Measure::Requests,
            Measure::Megabytes,
            Measure::P50,
            Measure::P99,
            Measure::CpuPerGb,
        ] {
            let value = measure.of(outcome);
            let text = format!("{} {}", short(value), measure.name());
            if value.is_finite() && value != 0.0 && !parts.contains(&text) {
                parts.push(text);
            }
        }
        if outcome.saturated().is_some() {
            parts.push("CLIENT SATURATED".to_owned());
        }
        say(&format!("      {}", parts.join(", ")));
    }

    /// A part of a step is over, whose estimate was this.
    pub fn time_done(&mut self, estimate: f64) {
        self.done += estimate;
        self.of_step += estimate;
    }

    /// A step is over, whose estimate was this.
    pub fn step_done(&mut self, estimate: f64) {
        self.done += estimate - self.of_step;
        self.of_step = 0.0;
    }

    /// Seconds left: the estimate, corrected by how it did so far.
    pub fn left(&self) -> f64 {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let factor = if self.done > 30.0 {
            elapsed / self.done
        } else {
            1.0
        };
        (self.estimate - self.done).max(0.0) * factor
    }

    /// Minutes and seconds since the beginning.
    pub fn elapsed(&self) -> String {
        minutes(self.begun.elapsed().as_secs_f64())
    }
}

/// `m:ss` or `h:mm:ss`.
pub fn minutes(seconds: f64) -> String {
    let all = seconds.max(0.0).round() as u64;
    let (h, m, s) = (all / 3600, all / 60 % 60, all % 60);
    if h > 0 {
        format!("{h}:{m:02}:{s:02}")
    } else {
        format!("{m}:{s:02}")
    }
}

/// The suite talks on stderr; its results are files.
#[allow(clippy::print_stderr)]
pub fn say(text: &str) {
    eprintln!("{text}");
}
