//! What is written beside the reports: a folder's README and pictures, the tables of all.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::kept::Kept;
use super::measure::{Measure, Outcome};
use super::picture;
use super::rows::{COLUMNS, Judged, Row, judge, markdown, ours, rows, scenario_of, spreads};
use super::stats::short;
use crate::plot::{Axis, Bar, Line, bars, lines, percentile_tick};

/// Where the compact table stands in the top README.
const BEGIN: &str = "<!-- perf-table -->";
const END: &str = "<!-- /perf-table -->";
/// The picture of all.
const OVERVIEW: &str = "overview.svg";

/// Metrics of a folder's table.
const SHOWN: &[Measure] = &[
    Measure::Requests,
    Measure::Megabytes,
    Measure::P50,
    Measure::P99,
    Measure::P999,
    Measure::ServiceP99,
    Measure::SecondP99,
    Measure::CpuPerGb,
    Measure::CpuPerRequest,
    Measure::Memory,
    Measure::IdleCpu,
    Measure::IdleSwitches,
    Measure::Start,
    Measure::Sustained,
];

/// Writes a folder's pictures and its README.
///
/// # Errors
/// The folder cannot be written.
pub fn folder(kept: &Kept) -> Result<()> {
    let mut names = Vec::new();
    for (name, svg) in pictures(kept)? {
        fs::write(kept.path.join(name), svg)?;
        names.push(name);
    }
    fs::write(kept.path.join("README.md"), folder_text(kept, &names))?;
    Ok(())
}

fn pictures(kept: &Kept) -> Result<Vec<(&'static str, String)>> {
    let title = format!("{} on {}", kept.facts.scenario, kept.facts.fs);
    let main = scenario_of(kept).map_or(Measure::Requests, |s| s.main);
    let mut found = Vec::new();
    let mut add = |name: &'static str, svg: Option<String>| {
        found.extend(svg.map(|svg| (name, svg)));
    };
    let of = spreads(kept, main);
    let bar = |system: &String, median: f64| Bar {
        name: system.clone(),
        median,
        rounds: kept.systems.get(system).map_or_else(Vec::new, |all| {
            all.iter()
                .map(|o| main.of(o))
                .filter(|v| v.is_finite())
                .collect()
        }),
    };
    let all: Vec<Bar> = of.iter().map(|(system, s)| bar(system, s.median)).collect();
    add(
        "throughput.svg",
        bars(&format!("{title}: {}", main.name()), main.name(), &all)?,
    );
    let x = Axis {
        text: percentile_tick,
        ..Axis::log("percentile of requests")
    };
    let curves: Vec<Line> = kept.systems.keys().filter_map(|s| curve(kept, s)).collect();
    let head = format!("{title}: latency, all rounds");
    add(
        "percentiles.svg",
        lines(&head, &x, &Axis::log("us"), &curves)?,
    );
    let load = load_curves(kept);
    let x = Axis::linear("requests/s answered");
    add(
        "load-curve.svg",
        lines(
            &format!("{title}: p99 by load"),
            &x,
            &Axis::log("us"),
            &load,
        )?,
    );
    // A run of seconds has no course worth a picture; the first round of a long one has.
    if kept.facts.seconds >= 20.0 {
        let x = Axis::linear("seconds since the load began");
        let p99 = series(kept, |s| s.p99);
        let head = format!("{title}: p99 of each second");
        add("series-p99.svg", lines(&head, &x, &Axis::log("us"), &p99)?);
        let rate = series(kept, |s| s.bytes as f64 / 1e6 / s.seconds.max(1e-3));
        let head = format!("{title}: throughput of each second");
        add(
            "series-rate.svg",
            lines(&head, &x, &Axis::linear("MB/s"), &rate)?,
        );
    }
    Ok(found)
}

/// Latency over percentile, to the last that the number of requests supports.
fn curve(kept: &Kept, system: &str) -> Option<Line> {
    let histogram = kept.merged(system)?;
    let most = (histogram.len() as f64).min(1e6);
    let steps = (most.log10() * 20.0).floor() as i32;
    let points = (0..=steps).map(|step| {
        let nines = 10f64.powf(f64::from(step) / 20.0);
        let ns = histogram.value_at_quantile(1.0 - 1.0 / nines);
        (nines, ns as f64 / 1e3)
    });
    Some(Line {
        name: system.to_owned(),
        points: points.collect(),
        marks: false,
    })
}

/// The middle round's curve of each system: p99 over what was answered.
fn load_curves(kept: &Kept) -> Vec<Line> {
    let mut found = Vec::new();
    for (system, all) in &kept.systems {
        let mut curves: Vec<_> = all
            .iter()
            .filter_map(|o| match o {
                Outcome::Curve(curve) => Some(curve),
                _ => None,
            })
            .collect();
        curves.sort_by(|a, b| a.capacity_per_second.total_cmp(&b.capacity_per_second));
        let Some(curve) = curves.get(curves.len() / 2) else {
            continue;
        };
        let points = curve.points.iter();
        found.push(Line {
            name: system.clone(),
            points: points
                .map(|p| (p.achieved_per_second, p.report.latency_us.p99))
                .collect(),
            marks: true,
        });
    }
    found
}

fn series(kept: &Kept, value: fn(&crate::report::Second) -> f64) -> Vec<Line> {
    let of = |system: &String| Line {
        name: system.clone(),
        points: kept
            .series(system)
            .iter()
            .map(|s| (s.at, value(s)))
            .collect(),
        marks: false,
    };
    kept.systems.keys().map(of).collect()
}

fn folder_text(kept: &Kept, pictures: &[&str]) -> String {
    let facts = &kept.facts;
    let scenario = scenario_of(kept);
    let mut text = format!("# {} on {}\n\n", facts.scenario, facts.fs);
    if let Some(scenario) = scenario {
        let _ = writeln!(text, "{}; {}.\n", scenario.about, facts.fs_about);
    }
    if facts.quick {
        text += "**A quick look**: few rounds, short runs, a JVM that is hardly warm.\n\n";
    }
    let systems: Vec<&String> = kept.systems.keys().collect();
    let mut heads = vec!["median (least .. greatest)"];
    heads.extend(systems.iter().map(|s| s.as_str()));
    let mut table = Vec::new();
    let main = scenario.map_or(Measure::Requests, |s| s.main);
    for measure in SHOWN.iter().filter(|m| belongs(kept, main, **m)) {
        let mut line = vec![measure.name().to_owned()];
        for system in &systems {
            line.push(
                kept.summary(system, *measure)
                    .map_or_else(String::new, |s| {
                        let (median, low, high) = (short(s.median), short(s.min), short(s.max));
                        if s.rounds > 1 {
                            format!("{median} ({low} .. {high})")
                        } else {
                            median
                        }
                    }),
            );
        }
        if line.iter().skip(1).any(|cell| !cell.is_empty()) {
            table.push(line);
        }
    }
    text += &markdown(&heads, &table);
    text += "\n";
    if let Some(scenario) = scenario {
        for system in ours(kept) {
            text += &floors_text(system, &judge(kept, scenario, system));
        }
    }
    text += &noise_text(kept);
    for picture in pictures {
        let _ = writeln!(text, "![{picture}]({picture})");
    }
    let _ = write!(text, "\n{}\n", machine_text(kept));
    text
}

/// A start has one figure; other runs have none of it. Without an open loop, latency is service
/// latency.
fn belongs(kept: &Kept, main: Measure, measure: Measure) -> bool {
    if (measure == Measure::Start) != (main == Measure::Start) {
        return false;
    }
    let mut reports = kept.systems.values().flatten().filter_map(Outcome::report);
    measure != Measure::ServiceP99 || reports.any(|r| r.service_latency_us.is_some())
}

fn floors_text(system: &str, judged: &[Judged]) -> String {
    let mut text = String::new();
    for one in judged {
        let verdict = match one.holds {
            Some(true) => "met",
            Some(false) => "not met",
            None => "not measured",
        };
        let reached = one
            .reached
            .map_or_else(String::new, |r| format!(": {r:.2}"));
        let _ = writeln!(
            text,
            "- Floor for {system}: {}. {verdict}{reached}.",
            one.asked
        );
    }
    if !text.is_empty() {
        text += "\n";
    }
    text
}

/// The paragraph on noise, computed.
fn noise_text(kept: &Kept) -> String {
    let main = scenario_of(kept).map_or(Measure::Requests, |s| s.main);
    let mut text = format!("**Noise.** Spread of {} over rounds", main.name());
    let mut any = false;
    for (system, s) in spreads(kept, main) {
        let (spread, iqr) = (100.0 * s.spread(), 100.0 * s.iqr());
        if s.rounds > 1 {
            let rounds = s.rounds;
            let _ = write!(
                text,
                "{} {system} {spread:.0} % from least to greatest, {iqr:.0} % between the \
                 quartiles ({rounds} rounds)",
                if any { ";" } else { ":" }
            );
            any = true;
        }
    }
    text += if any {
        ". A difference smaller than that shows nothing.\n"
    } else {
        " is unknown: one round.\n"
    };
    let saturated = kept.saturated();
    if !saturated.is_empty() {
        let _ = writeln!(
            text,
            "The client was the bound for {}: those figures are lower limits.",
            saturated.join(", ")
        );
    }
    for remark in &kept.facts.remarks {
        let _ = writeln!(text, "- Remark: {}", remark.replace('\n', " "));
    }
    text + "\n"
}

fn machine_text(kept: &Kept) -> String {
    let f = &kept.facts;
    let warm = f
        .warm
        .iter()
        .map(|(system, all)| format!("{system}: {}", all.join("; ")));
    let warm: Vec<String> = warm.collect();
    let disk = f.disk_mb_per_second;
    let disk = disk.map_or_else(String::new, |d| format!(" The disk takes {d:.0} MB/s."));
    format!(
        "{}. {} Mounted as `{}`.{disk} {} rounds of {} s. Warm-up: {}. More in [machine.json](machine.json).",
        f.machine(),
        f.pinned,
        f.mount,
        f.rounds,
        f.seconds,
        if warm.is_empty() {
            "none".to_owned()
        } else {
            warm.join("; ")
        }
    )
}

/// Regenerates `README.md` and the picture in `out` from the newest folder of each scenario.
///
/// # Errors
/// They cannot be written.
pub fn all(out: &Path, kept: &[Kept]) -> Result<()> {
    let picture = picture::overview(kept)?;
    if let Some(svg) = &picture {
        fs::write(out.join(OVERVIEW), svg)?;
    }
    let rows = rows(kept);
    fs::write(
        out.join("README.md"),
        all_text(kept, &rows, picture.is_some()),
    )?;
    Ok(())
}

/// The text of `perf-results/README.md`.
pub fn all_text(kept: &[Kept], rows: &[Row], picture: bool) -> String {
    let mut text = String::from(
        "# Measurements\n\nWritten by `bench-harness publish` (`scripts/bench.sh` ends with it) from \
         the newest folder of each\nscenario; do not edit. Each folder holds the reports of all \
         rounds with their histograms, the facts of the\nmachine and pictures. \
         `bench-harness compare A B` compares any two.\n\n",
    );
    if picture {
        let _ = writeln!(text, "![Flumen, Kafka and the limit]({OVERVIEW})\n");
    }
    let cells: Vec<Vec<String>> = rows.iter().map(|r| r.cells.clone()).collect();
    text += &markdown(COLUMNS, &cells);
    text += "\nAll on one pinned core, the client on another, in the same run. \"CPU\", \"p50\", \
             \"p99\" and \"memory\" are\nFlumen's as a part of Kafka's (CPU: per request where \
             requests are counted, else per GB; kernel threads\nincluded). \"limit\" is a bare \
             program that moves the same bytes over the same connections. (c): the client was\n\
             the bound, the figure is a lower limit. (noise): the ranges of the rounds overlap. \
             (quick): a short look.\n\n";
    let met = rows.iter().filter(|r| r.met == Some(true)).count();
    let judged = rows.iter().filter(|r| r.met.is_some()).count();
    let _ = writeln!(
        text,
        "{met} of {judged} lines with floors meet all of them.\n"
    );
    text += &sources(kept);
    let other: Vec<&Kept> = kept
        .iter()
        .filter(|k| !rows.iter().any(|r| same(r, k)))
        .collect();
    if !other.is_empty() {
        text += "\nOther folders, the newest of each:\n\n";
        for k in other {
            let _ = writeln!(text, "- [{}]({0}/)", k.name());
        }
    }
    text
}

fn same(row: &Row, kept: &Kept) -> bool {
    row.name == kept.facts.scenario && row.fs == kept.facts.fs
}

/// Which machine, commit and day the lines are of.
fn sources(kept: &[Kept]) -> String {
    let mut all: Vec<String> = Vec::new();
    for k in kept.iter().filter(|k| !k.facts.kernel.is_empty()) {
        let f = &k.facts;
        let dirty = if f.dirty { " with local changes" } else { "" };
        let line = format!("{}, commit {}{dirty}: {}", f.date, f.commit, f.machine());
        if !all.contains(&line) {
            all.push(line);
        }
    }
    all.sort();
    all.iter().map(|line| format!("- {line}\n")).collect()
}

/// The compact table for the top README.
pub fn compact(kept: &[Kept], results: &str) -> String {
    let keep = [0, 1, 2, 3, 4, 5, 6, 7, 10];
    let pick = |all: &[String]| -> Vec<String> {
        let cells = keep.iter().filter_map(|at| all.get(*at));
        cells
            .map(|c| c.replace("](", &format!("]({results}/")))
            .collect()
    };
    let heads: Vec<&str> = keep
        .iter()
        .filter_map(|at| COLUMNS.get(*at).copied())
        .collect();
    let shown = |r: &&Row| {
        let scenario = super::scenario::Scenario::named(&r.name);
        scenario.is_some_and(|s| !s.floors.is_empty() && !s.once())
    };
    let rows: Vec<Vec<String>> = rows(kept)
        .iter()
        .filter(shown)
        .map(|r| pick(&r.cells))
        .collect();
    format!(
        "![Flumen, Kafka and the limit]({results}/{OVERVIEW})\n\n{}\nOne pinned core each, medians; \
         p99 as a part of Kafka's. Everything else: [{results}/]({results}/README.md).\n",
        markdown(&heads, &rows)
    )
}

/// Puts `table` between the markers of a README; without markers, before its last section.
///
/// # Errors
/// The file cannot be read or written.
pub fn insert(readme: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(readme).with_context(|| readme.display().to_string())?;
    fs::write(readme, inserted(&text, table))?;
    Ok(())
}

fn inserted(text: &str, table: &str) -> String {
    let block = format!("{BEGIN}\n{table}{END}");
    let from = text.find(BEGIN);
    let to = text.find(END).map(|at| at + END.len());
    if let (Some(from), Some(to)) = (from, to)
        && let (Some(head), Some(tail)) = (text.get(..from), text.get(to..))
    {
        return format!("{head}{block}{tail}");
    }
    let at = text.rfind("\n## ").map_or(text.len(), |at| at + 1);
    let (head, tail) = text.split_at(at);
    format!("{head}## Measured\n\n{block}\n\n{tail}")
}

#[cfg(test)]
#[path = "readme_test.rs"]
mod readme_test;
