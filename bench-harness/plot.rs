//! Pictures as SVG: lines over linear or logarithmic axes, and bars with the spread of rounds.
//!
//! A logarithmic axis is a linear one of decimal logarithms with other labels. Lines are thinned
//! to a few hundred points, so that a picture stays below 60 KB.

use std::fmt::Debug;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Most points of a line.
const POINTS_MAX: usize = 240;

/// Colours of the known systems; others take the rest in turn.
const OURS: RGBColor = RGBColor(0, 121, 140);
const KAFKA: RGBColor = RGBColor(209, 73, 91);
const LIMIT: RGBColor = RGBColor(140, 140, 140);
const OTHERS: [RGBColor; 5] = [
    RGBColor(237, 174, 73),
    RGBColor(102, 161, 130),
    RGBColor(46, 64, 87),
    RGBColor(150, 90, 170),
    RGBColor(160, 110, 60),
];
/// Text and axes.
pub const INK: RGBColor = RGBColor(40, 40, 40);
/// Lines of the mesh.
const FAINT: RGBColor = RGBColor(225, 225, 225);

/// The colour of a system; `at` is its place among all.
pub fn colour(system: &str, at: usize) -> RGBColor {
    match system {
        "flumen" | "Flumen" => OURS,
        "kafka" | "Kafka" => KAFKA,
        "limit" => LIMIT,
        _ => OTHERS.get(at % OTHERS.len()).copied().unwrap_or(INK),
    }
}

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend, usually a system's.
    pub name: String,
    /// Points in the order of drawing.
    pub points: Vec<(f64, f64)>,
    /// Whether its points are marked.
    pub marks: bool,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it shows, with unit.
    pub label: String,
    /// Whether it is logarithmic; values of zero and below are then left out.
    pub log: bool,
    /// How a value is written.
    pub text: fn(f64) -> String,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            log: false,
            text: tick,
        }
    }

    /// A logarithmic axis.
    pub fn log(label: &str) -> Self {
        Self {
            log: true,
            ..Self::linear(label)
        }
    }

    fn place(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        value.is_finite().then_some(value)
    }

    /// The label at a place; a logarithmic axis names whole powers only.
    fn at(&self, place: f64) -> String {
        if !self.log {
            return (self.text)(place);
        }
        if (place - place.round()).abs() > 1e-6 {
            return String::new();
        }
        (self.text)(10f64.powf(place))
    }
}

/// A short number.
pub fn tick(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if size >= 1e3 {
        format!("{}k", trimmed(value / 1e3))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A percentile as 1 / (1 - q): 10 is p90, 1000 is p99.9.
pub fn percentile_tick(nines: f64) -> String {
    if nines <= 1.0 {
        return "0".to_owned();
    }
    let percent = format!("{:.4}", 100.0 * (1.0 - 1.0 / nines));
    percent
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

/// Errors of the backend hold a reference to it.
fn failed(error: impl Debug) -> anyhow::Error {
    anyhow!("plot: {error:?}")
}

/// Every n-th point, and the greatest of those between, so that peaks stay.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS_MAX).max(1);
    let peak = |group: &[(f64, f64)]| group.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(every).filter_map(peak).collect()
}

/// Two decimals of a pixel do not matter and cost half the file.
fn range(values: impl Iterator<Item = f64>, log: bool) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return None;
    }
    if log {
        return Some((low.floor(), (high + 0.05).ceil().max(low.floor() + 1.0)));
    }
    let low = low.min(0.0);
    Some((low, high + (high - low).max(1e-9) * 0.06))
}

/// The thinned points of a line as places on the axes.
fn placed(line: &Line, x: &Axis, y: &Axis) -> Vec<(f64, f64)> {
    let place = |(a, b): (f64, f64)| Some((x.place(a)?, y.place(b)?));
    let thin = thinned(&line.points).into_iter();
    thin.filter_map(place).collect()
}

/// Lines over two axes; `None` when there is nothing to draw.
///
/// # Errors
/// The backend failed.
pub fn lines(title: &str, x: &Axis, y: &Axis, all: &[Line]) -> Result<Option<String>> {
    let placed: Vec<(&Line, Vec<(f64, f64)>)> = all.iter().map(|l| (l, placed(l, x, y))).collect();
    let points = || placed.iter().flat_map(|(_, p)| p.iter().copied());
    let ranges = (
        range(points().map(|p| p.0), x.log),
        range(points().map(|p| p.1), y.log),
    );
    let (Some((x0, x1)), Some((y0, y1))) = ranges else {
        return Ok(None);
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (760, 420)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 17).into_font().color(&INK))
            .margin(12)
            .margin_right(30)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(x0..x1, y0..y1)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(&x.label)
            .y_desc(&y.label)
            .x_labels(12)
            .y_labels(8)
            .max_light_lines(0)
            .bold_line_style(FAINT)
            .x_label_formatter(&|v| x.at(*v))
            .y_label_formatter(&|v| y.at(*v))
            .label_style(("sans-serif", 12).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        for (at, (line, points)) in placed.iter().enumerate() {
            let colour = colour(&line.name, at);
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))
                .map_err(failed)?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            if line.marks {
                let mark = |p: &(f64, f64)| Circle::new(*p, 3, colour.filled());
                chart.draw_series(points.iter().map(mark)).map_err(failed)?;
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(FAINT)
            .label_font(("sans-serif", 13).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(Some(svg))
}

/// A bar: name, median, and the value of each round.
#[derive(Debug, Clone)]
pub struct Bar {
    /// The system.
    pub name: String,
    /// Height.
    pub median: f64,
    /// A dot each.
    pub rounds: Vec<f64>,
}

/// Bars from zero with a dot for every round.
///
/// # Errors
/// The backend failed.
pub fn bars(title: &str, unit: &str, all: &[Bar]) -> Result<Option<String>> {
    let values = all
        .iter()
        .flat_map(|b| b.rounds.iter().copied().chain([b.median]));
    let Some((_, top)) = range(values, false) else {
        return Ok(None);
    };
    let mut svg = String::new();
    {
        let width = 190 + 120 * u32::try_from(all.len())?;
        let root = SVGBackend::with_string(&mut svg, (width, 360)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 16).into_font().color(&INK))
            .margin(12)
            .x_label_area_size(30)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..all.len() as f64, 0.0..top)
            .map_err(failed)?;
        let name = |v: f64| {
            let middle = (v.fract() - 0.5).abs() < 1e-6;
            let bar = all.get(v.floor() as usize).filter(|_| middle);
            bar.map_or_else(String::new, |b| b.name.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .bold_line_style(FAINT)
            .y_desc(unit)
            .x_labels(2 * all.len() + 1)
            .x_label_formatter(&|v| name(*v))
            .y_label_formatter(&|v| tick(*v))
            .label_style(("sans-serif", 13).into_font().color(&INK))
            .draw()
            .map_err(failed)?;
        for (at, bar) in all.iter().enumerate() {
            let (left, fill) = (at as f64, colour(&bar.name, at));
            let body = [(left + 0.2, 0.0), (left + 0.8, bar.median)];
            let dots = bar.rounds.iter().enumerate().map(|(n, value)| {
                let step = 0.4 * (n as f64 + 0.5) / bar.rounds.len() as f64;
                Circle::new((left + 0.3 + step, *value), 3, INK.filled())
            });
            chart
                .draw_series([Rectangle::new(body, fill.filled())])
                .map_err(failed)?;
            chart.draw_series(dots).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(Some(svg))
}

#[cfg(test)]
#[path = "plot_test.rs"]
mod plot_test;
