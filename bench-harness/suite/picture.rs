//! The one picture that a newcomer reads first: throughput of one core beside Kafka's and beside
//! the limit, and the 99th percentile, workload by workload.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::kept::Kept;
use super::measure::Measure;
use super::scenario::SCENARIOS;
use crate::plot::{INK, colour};

/// Workloads of the picture, where they were measured.
const SHOWN: &[(&str, &str, &str)] = &[
    ("tiny8", "tmpfs", "produce 100 B"),
    ("16k", "tmpfs", "produce 16 KiB, tmpfs"),
    ("64k", "tmpfs", "produce 64 KiB, tmpfs"),
    ("64k", "xfs", "produce 64 KiB, XFS"),
    ("256k", "xfs", "produce 256 KiB, XFS"),
    ("sync16k", "ext4", "16 KiB synced, ext4"),
    ("serve64k", "tmpfs", "fetch 64 KiB"),
    ("serve1m", "tmpfs", "fetch 1 MiB"),
    ("lat16k", "tmpfs", "16 KiB at 3,000/s"),
    ("e2e1k", "tmpfs", "end to end 1 KiB"),
];

const WIDTH: i32 = 1000;
const LEFT: i32 = 190;
const ROW: i32 = 62;
const TOP: i32 = 76;
/// Of the throughput panel and of the latency panel.
const PANEL: [(i32, i32); 2] = [(LEFT, 400), (LEFT + 470, 260)];

/// One workload's bars.
#[derive(Debug, Clone)]
struct Bars {
    title: String,
    /// Kafka, Flumen, limit: throughput, Kafka's being 1.
    throughput: [Option<f64>; 3],
    /// Kafka, Flumen: the 99th percentile, us.
    p99: [Option<f64>; 2],
}

fn bars(all: &[Kept]) -> Vec<Bars> {
    let mut found = Vec::new();
    for (name, fs, title) in SHOWN {
        let of = |k: &&Kept| k.facts.scenario == *name && k.facts.fs == *fs;
        let scenario = SCENARIOS.iter().find(|s| s.name == *name);
        let (Some(kept), Some(scenario)) = (all.iter().find(of), scenario) else {
            continue;
        };
        let p99 = |system: &str| kept.median(system, Measure::P99);
        let p99 = [p99("kafka"), p99("flumen")];
        let kafka = kept.median("kafka", scenario.main);
        // At a given rate throughput says nothing: what a core can do then is what it costs.
        let throughput = if scenario.main.more_is_better() {
            ["kafka", "flumen", "limit"].map(|s| Some(kept.median(s, scenario.main)? / kafka?))
        } else {
            let cost = |s: &str| kept.median(s, Measure::CpuPerRequest);
            ["kafka", "flumen", "limit"].map(|s| Some(cost("kafka")? / cost(s)?))
        };
        if throughput[1].is_some() {
            found.push(Bars {
                title: (*title).to_owned(),
                throughput,
                p99,
            });
        }
    }
    found
}

fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("picture: {error:?}")
}

/// The picture; `None` when nothing that it shows was measured with Kafka beside.
///
/// # Errors
/// The backend failed.
pub fn overview(all: &[Kept]) -> Result<Option<String>> {
    let bars = bars(all);
    if bars.is_empty() {
        return Ok(None);
    }
    let height = TOP + ROW * i32::try_from(bars.len())? + 34;
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let text = |x: i32, y: i32, size: i32, text: String| {
            let font = ("sans-serif", size).into_font().color(&INK);
            root.draw(&Text::new(text, (x, y), font)).map_err(failed)
        };
        let bar = |x: i32, y: i32, width: f64, tall: i32, fill: RGBColor| {
            let corners = [(x, y), (x + (width.round() as i32).max(1), y + tall)];
            root.draw(&Rectangle::new(corners, fill.filled()))
                .map_err(failed)
        };
        text(
            LEFT,
            14,
            18,
            "Work of one core (Kafka = 1); longer is better".to_owned(),
        )?;
        text(
            PANEL[1].0,
            14,
            18,
            "99th percentile; shorter is better".to_owned(),
        )?;
        for (at, name) in ["kafka", "flumen", "limit"].iter().enumerate() {
            let x = LEFT + 150 * i32::try_from(at)?;
            let label = ["Apache Kafka 4.3.1", "Flumen", "limit of the core"];
            bar(x, 46, 14.0, 12, colour(name, at))?;
            text(
                x + 20,
                46,
                13,
                label.get(at).copied().unwrap_or_default().to_owned(),
            )?;
        }
        let most = bars
            .iter()
            .flat_map(|b| b.throughput)
            .flatten()
            .fold(1.0, f64::max);
        for (row, one) in (0i32..).zip(&bars) {
            let y = TOP + ROW * row;
            text(12, y + 16, 14, one.title.clone())?;
            for (at, value) in (0i32..).zip(one.throughput) {
                let Some(value) = value else { continue };
                let name = ["kafka", "flumen", "limit"].get(at as usize).copied();
                let fill = colour(name.unwrap_or_default(), 0);
                let width = f64::from(PANEL[0].1) * value / most;
                bar(LEFT, y + 16 * at, width, 13, fill)?;
                text(
                    LEFT + width as i32 + 6,
                    y + 16 * at,
                    12,
                    format!("{value:.1}x"),
                )?;
            }
            for (at, value) in (0i32..).zip(one.p99) {
                let Some(value) = value else { continue };
                let fill = colour(
                    ["kafka", "flumen"].get(at as usize).copied().unwrap_or(""),
                    0,
                );
                // Latencies span three decades: each line has its own scale, the slower fills it.
                let slowest = one.p99.iter().flatten().fold(0.0, |a: f64, b| a.max(*b));
                let width = f64::from(PANEL[1].1) * value / slowest.max(1e-9);
                bar(PANEL[1].0, y + 16 * at, width, 13, fill)?;
                text(PANEL[1].0 + width as i32 + 6, y + 16 * at, 12, time(value))?;
            }
        }
        let note = "Each latency line has a scale of its own. At a fixed rate, work is requests \
                    per CPU second. Medians over rounds.";
        text(12, height - 22, 12, note.to_owned())?;
        root.present().map_err(failed)?;
    }
    Ok(Some(svg))
}

fn time(us: f64) -> String {
    if us >= 1000.0 {
        format!("{:.1} ms", us / 1000.0)
    } else {
        format!("{us:.0} us")
    }
}
