//! The stored baseline and the table.

use crate::callgrind::{Count, Counts};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What `baseline.json` holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Baseline {
    /// Percent by which instructions may exceed the baseline. A C library or compiler of another
    /// version moves counts by one or two.
    tolerance_percent: f64,
    /// Per request.
    scenarios: BTreeMap<String, Count>,
}

const TOLERANCE_PERCENT: f64 = 3.0;
/// Growth of a map or buffer, spread over the requests, may differ so much.
const ALLOCATIONS_SLACK: f64 = 0.1;
const UPDATE: &str = "scripts/icount.sh --update";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json")
}

fn load() -> Result<Baseline> {
    let text = match std::fs::read_to_string(path()) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Baseline {
                tolerance_percent: TOLERANCE_PERCENT,
                scenarios: BTreeMap::new(),
            });
        }
        Err(error) => return Err(error).context("baseline.json"),
    };
    serde_json::from_str(&text).context("baseline.json")
}

/// Writes these counts into the baseline. Scenarios that were not counted keep theirs, those that
/// exist no more go.
///
/// # Errors
/// The file can't be read or written.
pub fn store(counts: &Counts) -> Result<()> {
    let mut baseline = load()?;
    let known = |name: &String| crate::SCENARIOS.iter().any(|s| s.name == name);
    baseline.scenarios.retain(|name, _| known(name));
    baseline.scenarios.extend(counts.iter().cloned());
    let text = serde_json::to_string_pretty(&baseline)? + "\n";
    std::fs::write(path(), text).context("baseline.json")
}

/// The counts beside the baseline, and whether none exceeds it.
///
/// # Errors
/// The baseline can't be read.
pub fn table(counts: &Counts) -> Result<(String, bool)> {
    let baseline = load()?;
    let tolerance = baseline.tolerance_percent;
    let mut text = format!(
        "{:28} {:>12} {:>12} {:>8} {:>8} {:>8}\n",
        "per request", "instructions", "baseline", "change", "allocs", "baseline"
    );
    let (mut worse, mut better) = (0, 0);
    for (name, now) in counts {
        let Some(old) = baseline.scenarios.get(name) else {
            worse += 1;
            let (instructions, allocations) = (now.instructions, now.allocations);
            writeln!(
                text,
                "{name:28} {instructions:12.1} {:>12} {:>8} {allocations:8.2} {:>8}  NOT IN BASELINE",
                "-", "-", "-"
            )?;
            continue;
        };
        let change = (now.instructions / old.instructions - 1.0) * 100.0;
        let verdict = if change > tolerance || now.allocations > old.allocations + ALLOCATIONS_SLACK
        {
            worse += 1;
            "  WORSE"
        } else if change < -tolerance || now.allocations < old.allocations - ALLOCATIONS_SLACK {
            better += 1;
            "  better"
        } else {
            ""
        };
        writeln!(
            text,
            "{name:28} {:12.1} {:12.1} {change:+7.2}% {:8.2} {:8.2}{verdict}",
            now.instructions, old.instructions, now.allocations, old.allocations,
        )?;
    }
    if worse > 0 {
        writeln!(
            text,
            "{worse} exceed the baseline by more than {tolerance} % or lack one; where that is meant: {UPDATE}"
        )?;
    } else if better > 0 {
        writeln!(
            text,
            "{better} are better than the baseline: keep it so with {UPDATE}"
        )?;
    }
    Ok((text, worse == 0))
}
