//! Two sets of reports of the same scenario side by side: medians and ratios.

use std::fmt::Write as _;

use crate::report::Report;

/// The middle of the values; of two, the mean.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let (low, high) = (n.saturating_sub(1) / 2, n / 2);
    match (values.get(low), values.get(high)) {
        (Some(a), Some(b)) => f64::midpoint(*a, *b),
        _ => f64::NAN,
    }
}

/// Name, how to read it, and whether more is better.
type Metric = (&'static str, fn(&Report) -> f64, bool);

const METRICS: &[Metric] = &[
    ("requests/s", |r| r.requests_per_second, true),
    ("MB/s", |r| r.megabytes_per_second, true),
    ("p50 us", |r| r.latency_us.p50, false),
    ("p99 us", |r| r.latency_us.p99, false),
    ("p99.9 us", |r| r.latency_us.p999, false),
    (
        "broker CPU s/GB",
        |r| cost(r, |b| b.cpu_seconds_per_gb),
        false,
    ),
    (
        "broker CPU us/request",
        |r| cost(r, |b| b.cpu_us_per_request),
        false,
    ),
    (
        "resident MiB",
        |r| cost(r, |b| b.resident_bytes as f64 / f64::from(1 << 20)),
        false,
    ),
];

fn cost(report: &Report, field: fn(&crate::report::BrokerCost) -> f64) -> f64 {
    report.broker.as_ref().map_or(f64::NAN, field)
}

/// A Markdown table of the medians of `ours` and `theirs`; a ratio above 1 is better for `ours`.
pub fn table(names: (&str, &str), ours: &[Report], theirs: &[Report]) -> String {
    let scenario = ours.first().map_or("", |r| r.scenario.as_str());
    let mut text = format!(
        "|{scenario}|{}|{}|times better|\n|---|---:|---:|---:|\n",
        names.0, names.1
    );
    for (name, read, more_is_better) in METRICS {
        let a = median(ours.iter().map(read).collect());
        let b = median(theirs.iter().map(read).collect());
        if a.is_nan() || b.is_nan() {
            continue;
        }
        let ratio = if *more_is_better { a / b } else { b / a };
        let _ = writeln!(text, "|{name}|{}|{}|{ratio:.2}|", number(a), number(b));
    }
    text
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_outlier() {
        assert!((median(vec![1.0, 900.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![1.0, 3.0]) - 2.0).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn a_ratio_above_one_is_better_for_ours() {
        let report = |rate: f64, p50: f64| {
            let mut r = Report {
                requests_per_second: rate,
                ..Report::default()
            };
            r.latency_us.p50 = p50;
            r
        };
        let text = table(("a", "b"), &[report(200.0, 10.0)], &[report(100.0, 40.0)]);
        assert!(text.contains("|requests/s|200|100|2.00|"), "{text}");
        assert!(text.contains("|p50 us|10.000|40.000|4.00|"), "{text}");
    }
}
