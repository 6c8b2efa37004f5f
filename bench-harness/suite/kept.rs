//! Result folders: read back, newest of each scenario found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;

use super::facts::Facts;
use super::measure::{Measure, Outcome};
use super::stats::Summary;
use crate::report::{Second, from_hex};

/// The facts' file.
pub const FACTS: &str = "machine.json";

/// One result folder.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// What is known of the run; of folders older than the suite only what their name says.
    pub facts: Facts,
    /// System to its rounds.
    pub systems: BTreeMap<String, Vec<Outcome>>,
}

impl Kept {
    /// Reads a folder.
    ///
    /// # Errors
    /// There is none, or a report in it is broken.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let facts = match fs::read_to_string(path.join(FACTS)) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{name}/{FACTS}"))?,
            Err(_) => facts_of_name(&name, path).with_context(|| format!("{name} is no result"))?,
        };
        let mut kept = Self {
            path: path.to_owned(),
            facts,
            systems: BTreeMap::new(),
        };
        let mut found: Vec<(String, usize, PathBuf)> = Vec::new();
        for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
            let file = entry?.path();
            let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned());
            let is_json = file.extension().is_some_and(|e| e == "json");
            if let (true, Some(stem)) = (is_json, stem)
                && let Some((system, round)) = kept.parse(&stem)
            {
                found.push((system, round, file));
            }
        }
        found.sort();
        for (system, _, file) in found {
            let outcome = Outcome::read(&file)?;
            kept.systems.entry(system).or_default().push(outcome);
        }
        Ok(kept)
    }

    /// `<scenario>-<system>-<round>`.
    fn parse(&self, stem: &str) -> Option<(String, usize)> {
        let rest = stem.strip_prefix(&self.facts.scenario)?.strip_prefix('-')?;
        let (system, round) = rest.rsplit_once('-')?;
        Some((system.to_owned(), round.parse().ok()?))
    }

    /// The name of the folder.
    pub fn name(&self) -> String {
        let name = self.path.file_name();
        name.map_or_else(String::new, |n| n.to_string_lossy().into_owned())
    }

    /// A metric of a system over its rounds.
    pub fn summary(&self, system: &str, measure: Measure) -> Option<Summary> {
        let rounds = self.systems.get(system)?;
        // A zero is what a report says about what it did not measure, unless nothing happened.
        let idle = matches!(measure, Measure::IdleCpu | Measure::IdleSwitches);
        Summary::of(
            rounds
                .iter()
                .map(|o| measure.of(o))
                .filter(|v| idle || *v != 0.0),
        )
    }

    /// Median of a metric.
    pub fn median(&self, system: &str, measure: Measure) -> Option<f64> {
        self.summary(system, measure).map(|s| s.median)
    }

    /// All rounds' latencies of a system in one histogram of nanoseconds.
    pub fn merged(&self, system: &str) -> Option<Histogram<u64>> {
        let mut sum: Option<Histogram<u64>> = None;
        for report in self.systems.get(system)?.iter().filter_map(Outcome::report) {
            let Ok(one) = from_hex(&report.histogram_v2_hex) else {
                continue;
            };
            match &mut sum {
                None => sum = Some(one),
                // Rounds of one build have the same bounds; others are left out.
                Some(sum) => drop(sum.add(&one)),
            }
        }
        sum.filter(|h| !h.is_empty())
    }

    /// Second by second, of a system's first round.
    pub fn series(&self, system: &str) -> &[Second] {
        let first = self.systems.get(system).and_then(|all| all.first());
        first.and_then(Outcome::report).map_or(&[], |r| &r.series)
    }

    /// Systems whose client was the bound in some round.
    pub fn saturated(&self) -> Vec<&str> {
        let some = |all: &&Vec<Outcome>| all.iter().any(|o| o.saturated().is_some());
        let all = self.systems.iter().filter(|(_, all)| some(all));
        all.map(|(name, _)| name.as_str()).collect()
    }
}

/// A name such as `2026-11-20-f27c906-64k`, and the last word of its `machine.txt`.
fn facts_of_name(name: &str, path: &Path) -> Option<Facts> {
    let date = name.get(..10)?;
    let digits = |c: char| c.is_ascii_digit() || c == '-';
    if !date.chars().all(digits) {
        return None;
    }
    let (commit, scenario) = name.get(11..)?.split_once('-')?;
    let machine = fs::read_to_string(path.join("machine.txt")).unwrap_or_default();
    let fs = machine
        .lines()
        .next()
        .and_then(|l| l.rsplit(", ").next())
        .unwrap_or_default();
    Some(Facts {
        date: date.to_owned(),
        commit: commit.to_owned(),
        scenario: scenario.to_owned(),
        fs: fs.trim().to_owned(),
        ..Facts::default()
    })
}

/// The newest folder of each scenario and file system below `out`. Results of `--quick` give way
/// to any other.
///
/// # Errors
/// `out` cannot be read.
pub fn newest(out: &Path) -> Result<Vec<Kept>> {
    let mut best: BTreeMap<(String, String), Kept> = BTreeMap::new();
    let age = |k: &Kept| (!k.facts.quick, k.facts.date.clone(), k.facts.finished);
    let entries = fs::read_dir(out).with_context(|| out.display().to_string())?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    folders.sort();
    for path in folders.into_iter().filter(|p| p.is_dir()) {
        let Ok(kept) = Kept::read(&path) else {
            continue; // some other directory
        };
        let name = kept.facts.scenario.clone();
        let key = (name, kept.facts.fs.clone());
        if best.get(&key).is_none_or(|other| age(other) < age(&kept)) {
            best.insert(key, kept);
        }
    }
    Ok(best.into_values().collect())
}

/// Folders and reports that a word of the command line names: a folder, a report, or a pattern
/// with `*` in its last part.
///
/// # Errors
/// Nothing fits.
pub fn select(word: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(word);
    if path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let pattern = path
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let mut found = Vec::new();
    if let (true, Ok(entries)) = (pattern.contains('*'), fs::read_dir(parent)) {
        for entry in entries.flatten() {
            if fits(&pattern, &entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
        }
    }
    if found.is_empty() {
        bail!("nothing fits {word}");
    }
    found.sort();
    Ok(found)
}

/// A name against a pattern in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(tail) = name.strip_prefix(head) else {
        return false;
    };
    (0..=tail.len()).any(|at| tail.get(at..).is_some_and(|t| fits(rest, t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(fits("*-64k*", "2026-11-20-f27c906-64k"));
        assert!(fits("2026*", "2026-11-20-f27c906-64k"));
        assert!(!fits("*-64k", "2026-11-20-f27c906-serve64k-ext4"));
        assert!(fits("a", "a") && !fits("a", "ab"));
    }

    #[test]
    fn a_folder_of_before_the_suite_is_read_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("2026-11-20-f27c906-64k");
        fs::create_dir(&folder).unwrap();
        fs::write(
            folder.join("machine.txt"),
            "A CPU, 2 CPUs, kernel 6, tmpfs\nnote\n",
        )
        .unwrap();
        let report = r#"{"scenario":"64k","command":"","seconds":1.0,"requests":5,"bytes":5,
            "requests_per_second":5.0,"megabytes_per_second":7.0,"latency_us":{"p50":1.0,
            "p90":1.0,"p99":1.0,"p999":1.0,"max":1.0,"mean":1.0},"broker":null,
            "histogram_v2_hex":""}"#;
        for name in ["64k-flumen-1", "64k-flumen-2", "64k-kafka-1"] {
            fs::write(folder.join(format!("{name}.json")), report).unwrap();
        }
        let kept = Kept::read(&folder).unwrap();
        assert_eq!(
            (kept.facts.fs.as_str(), kept.facts.commit.as_str()),
            ("tmpfs", "f27c906")
        );
        assert_eq!(kept.systems["flumen"].len(), 2);
        assert_eq!(kept.median("kafka", Measure::Megabytes), Some(7.0));
    }
}
