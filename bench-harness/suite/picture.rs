//! The one picture that a newcomer reads first: throughput of one core beside Kafka's and beside
//! the limit, and the 99th percentile, workload by workload.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
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

/// Names in results and in the picture, in the order of the bars.
const SYSTEMS: [(&str, &str); 3] = [
    ("kafka", "Apache Kafka 4.3.1"),
    ("flumen", "Flumen"),
    ("limit", "limit of the core"),
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

/// Values of a panel, the one that fills it, and how they are written.
type Values<'a> = (&'a [Option<f64>], f64, fn(f64) -> String);

/// What is drawn on.
struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl Canvas<'_> {
    fn text(&self, (x, y): (i32, i32), size: i32, text: &str) -> Result<()> {
        let font = ("sans-serif", size).into_font().color(&INK);
        let text = Text::new(text.to_owned(), (x, y), font);
        self.0.draw(&text).map_err(failed)
    }

    fn bar(&self, (x, y): (i32, i32), width: f64, system: usize) -> Result<()> {
        let corners = [(x, y), (x + (width.round() as i32).max(1), y + 13)];
        let name = SYSTEMS.get(system).map_or("", |s| s.0);
        let bar = Rectangle::new(corners, colour(name, system).filled());
        self.0.draw(&bar).map_err(failed)
    }

    fn head(&self) -> Result<()> {
        let left = "Work of one core (Kafka = 1); longer is better";
        self.text((LEFT, 14), 18, left)?;
        self.text((PANEL[1].0, 14), 18, "99th percentile; shorter is better")?;
        for (at, (_, label)) in SYSTEMS.iter().enumerate() {
            let x = LEFT + 150 * i32::try_from(at)?;
            self.bar((x, 46), 14.0, at)?;
            self.text((x + 20, 46), 13, label)?;
        }
        Ok(())
    }

    /// One workload; `most` is the greatest throughput of all.
    fn row(&self, y: i32, one: &Bars, most: f64) -> Result<()> {
        self.text((12, y + 16), 14, &one.title)?;
        // Latencies span three decades: each line has its own scale, the slower fills it.
        let slowest = one.p99.iter().flatten().fold(0.0, |a: f64, b| a.max(*b));
        let panels: [Values<'_>; 2] = [
            (&one.throughput, most, |v| format!("{v:.1}x")),
            (&one.p99, slowest, time),
        ];
        for ((left, room), (values, full, label)) in PANEL.into_iter().zip(panels) {
            for (at, value) in values.iter().enumerate() {
                let Some(value) = value else { continue };
                let y = y + 16 * i32::try_from(at)?;
                let width = f64::from(room) * value / full.max(1e-9);
                self.bar((left, y), width, at)?;
                self.text((left + width as i32 + 6, y), 12, &label(*value))?;
            }
        }
        Ok(())
    }
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
    let most = bars.iter().flat_map(|b| b.throughput).flatten();
    let most = most.fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let canvas = Canvas(root);
        canvas.head()?;
        for (row, one) in (0i32..).zip(&bars) {
            canvas.row(TOP + ROW * row, one, most)?;
        }
        let note = "Each latency line has a scale of its own. At a fixed rate, work is requests \
                    per CPU second. Medians over rounds.";
        canvas.text((12, height - 22), 12, note)?;
        canvas.0.present().map_err(failed)?;
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
