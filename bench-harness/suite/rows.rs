//! The lines of the tables: Kafka, Flumen and the limit side by side, and whether the floor is met.

use super::kept::Kept;
use super::measure::Measure;
use super::place::Fs;
use super::scenario::{Against, Bound, Floor, SCENARIOS, Scenario};
use super::stats::{Summary, Verdict, short};

/// One line.
#[derive(Debug, Clone)]
pub struct Row {
    /// The scenario's name.
    pub name: String,
    /// File system.
    pub fs: String,
    /// Cells of the full table, in the order of [`COLUMNS`].
    pub cells: Vec<String>,
    /// Whether all floors hold; `None` without floors, or when none is missed and some are not
    /// measured.
    pub met: Option<bool>,
}

/// Heads of the full table.
pub const COLUMNS: &[&str] = &[
    "workload",
    "file system",
    "unit",
    "Kafka",
    "Flumen",
    "limit",
    "Flumen / Kafka",
    "of the limit",
    "CPU",
    "p50",
    "p99",
    "memory",
    "floor",
    "met",
];

/// Floor, and what was reached.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The floor in words.
    pub asked: String,
    /// Its measure, and against what if that is not Kafka.
    pub name: String,
    /// The value that is held against the bound.
    pub reached: Option<f64>,
    /// Whether it holds.
    pub holds: Option<bool>,
}

/// The system that is held against Kafka.
pub const OURS: &str = "flumen";
const KAFKA: &str = "kafka";
const LIMIT: &str = "limit";

/// The table's scenario of a folder: its own name, or what follows a matrix's prefix.
pub fn scenario_of(kept: &Kept) -> Option<&'static Scenario> {
    let name = kept.facts.scenario.as_str();
    Scenario::named(name).or_else(|| Scenario::named(name.strip_prefix("strategies-")?))
}

fn fs_of(kept: &Kept) -> Fs {
    let all = [Fs::Tmpfs, Fs::Ext4, Fs::Xfs, Fs::XfsDisk];
    let found = all.into_iter().find(|f| f.name() == kept.facts.fs);
    found.unwrap_or(Fs::Dir)
}

/// The lines in the table's order; folders of unknown scenarios are left out.
pub fn rows(all: &[Kept]) -> Vec<Row> {
    let mut rows = Vec::new();
    for scenario in SCENARIOS {
        for kept in all.iter().filter(|k| k.facts.scenario == scenario.name) {
            rows.push(row(kept, scenario));
        }
    }
    rows
}

fn row(kept: &Kept, scenario: &Scenario) -> Row {
    let main = scenario.main;
    let ours = kept.median(OURS, main);
    let kafka = kept.median(KAFKA, main);
    let limit = kept.median(LIMIT, main);
    let value = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), short);
    let ratio = |measure: Measure| -> Option<f64> {
        Some(kept.median(OURS, measure)? / kept.median(KAFKA, measure)?)
    };
    let part = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}x"));
    let mark = |system: &str, text: String| {
        if kept.saturated().contains(&system) {
            format!("{text} (c)")
        } else {
            text
        }
    };
    let noise = match (kept.summary(OURS, main), kept.summary(KAFKA, main)) {
        (Some(a), Some(b))
            if Verdict::of(&a, &b, main.more_is_better()) == Verdict::WithinNoise =>
        {
            " (noise)"
        }
        _ => "",
    };
    let cpu = match main {
        Measure::Requests => ratio(Measure::CpuPerRequest),
        _ => ratio(Measure::CpuPerGb),
    };
    let judged = judge(kept, scenario, OURS);
    let asked: Vec<&str> = judged.iter().map(|j| j.asked.as_str()).collect();
    let share = match (ours, limit) {
        (Some(a), Some(b)) if main.more_is_better() => format!("{:.0} %", 100.0 * a / b),
        // Of a time: how much of it the bare program needs as well.
        (Some(a), Some(b)) => format!("{:.0} %", 100.0 * b / a),
        _ => "-".to_owned(),
    };
    let quick = if kept.facts.quick { " (quick)" } else { "" };
    let cells = vec![
        format!("[{}]({}/){quick}", scenario.name, kept.name()),
        kept.facts.fs.clone(),
        main.name().to_owned(),
        mark(KAFKA, value(kafka)),
        mark(OURS, value(ours)),
        mark(LIMIT, value(limit)),
        format!("{}{noise}", part(ratio(main))),
        share,
        part(cpu),
        part(ratio(Measure::P50)),
        part(ratio(Measure::P99)),
        part(ratio(Measure::Memory)),
        if asked.is_empty() {
            "-".to_owned()
        } else {
            asked.join("; ")
        },
        verdict(&judged),
    ];
    Row {
        name: scenario.name.to_owned(),
        fs: kept.facts.fs.clone(),
        cells,
        met: met(&judged),
    }
}

/// No when one is missed, yes when all hold; otherwise unknown.
fn met(judged: &[Judged]) -> Option<bool> {
    if judged.iter().any(|j| j.holds == Some(false)) {
        return Some(false);
    }
    let all = judged.iter().all(|j| j.holds == Some(true));
    (all && !judged.is_empty()).then_some(true)
}

/// The systems that floors are for: Flumen, or in a matrix each of its columns.
pub fn ours(kept: &Kept) -> Vec<&str> {
    let all = kept.systems.keys().map(String::as_str);
    if kept.systems.contains_key(OURS) {
        return vec![OURS];
    }
    let beside = |s: &str| s == KAFKA || s == LIMIT || s.ends_with("-calm");
    all.filter(|s| !beside(s)).collect()
}

/// Each floor of a scenario on a folder's file system against what `system` reached.
pub fn judge(kept: &Kept, scenario: &Scenario, system: &str) -> Vec<Judged> {
    let floors = scenario.floors_on(fs_of(kept));
    floors.map(|floor| judge_one(kept, floor, system)).collect()
}

fn judge_one(kept: &Kept, floor: &Floor, system: &str) -> Judged {
    let value = kept.median(system, floor.measure);
    let other = match floor.against {
        Against::Kafka => kept.median(KAFKA, floor.measure),
        Against::Limit => kept.median(LIMIT, floor.measure),
        Against::Calm => kept.median(&format!("{system}-calm"), floor.measure),
        Against::OneShard => kept.median(&format!("{system}-one-shard"), floor.measure),
        Against::Absolute => None,
    };
    let comparable = floor.against == Against::Absolute || other.is_some();
    let value = value.filter(|_| comparable);
    Judged {
        asked: asked(floor),
        name: match floor.against {
            Against::Limit => "of the limit".to_owned(),
            _ => floor.measure.name().to_owned(),
        },
        reached: value.map(|v| match floor.bound {
            Bound::MoreBy(_) => v - other.unwrap_or(0.0),
            _ => v / other.unwrap_or(1.0),
        }),
        holds: value.map(|v| floor.bound.holds(v, other)),
    }
}

fn asked(floor: &Floor) -> String {
    let name = floor.measure.name();
    let whose = match floor.against {
        Against::Kafka => " of Kafka's",
        Against::Limit => " of the limit",
        Against::Calm => " of undisturbed",
        Against::OneShard => " of one shard's",
        Against::Absolute => "",
    };
    match floor.bound {
        Bound::AtLeast(least) if floor.against == Against::Kafka => format!("{name} >= {least}x"),
        Bound::AtLeast(least) => format!("{name} >= {:.0} %{whose}", least * 100.0),
        Bound::AtMost(most) if floor.against == Against::Absolute => {
            format!("{name} <= {}", short(most))
        }
        Bound::AtMost(most) => format!("{name} <= {}{whose}", part(most)),
        Bound::MoreBy(most) => format!("{name} <= {most:.2} more than one shard's"),
    }
}

/// 0.25 is "1/4", 0.6 is "0.6x".
fn part(ratio: f64) -> String {
    let whole = (1.0 / ratio).round();
    if whole > 1.0 && (ratio * whole - 1.0).abs() < 1e-9 {
        format!("1/{whole}")
    } else if (ratio * 3.0).fract().abs() < 1e-9 && ratio < 1.0 {
        format!("{}/3", (ratio * 3.0).round())
    } else {
        format!("{ratio}x")
    }
}

/// "yes", or what missed and by what.
fn verdict(judged: &[Judged]) -> String {
    if judged.is_empty() {
        return "-".to_owned();
    }
    let mut missed = Vec::new();
    let mut unknown = Vec::new();
    for one in judged {
        match (one.holds, one.reached) {
            (Some(false), Some(reached)) => missed.push(format!("{} {reached:.2}", one.name)),
            (None, _) => unknown.push(one.name.clone()),
            _ => {}
        }
    }
    if !missed.is_empty() {
        format!("no: {}", missed.join(", "))
    } else if unknown.is_empty() {
        "**yes**".to_owned()
    } else {
        format!("not measured: {}", unknown.join(", "))
    }
}

/// A metric of every system of a folder, with its spread.
pub fn spreads(kept: &Kept, measure: Measure) -> Vec<(String, Summary)> {
    let all = kept.systems.keys();
    let some = all.filter_map(|s| Some((s.clone(), kept.summary(s, measure)?)));
    some.collect()
}

/// A Markdown table.
pub fn markdown(heads: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("|{}|\n", cells.join("|"));
    let heads: Vec<String> = heads.iter().map(|h| (*h).to_owned()).collect();
    let mut text = line(&heads);
    text += &line(&vec!["---".to_owned(); heads.len()]);
    for row in rows {
        text += &line(row);
    }
    text
}
