//! Two results side by side: the ratio of medians, and whether it is more than noise.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use crate::suite::kept::{Kept, select};
use crate::suite::measure::{Measure, Outcome};
use crate::suite::rows::markdown;
use crate::suite::stats::{Summary, Verdict, short};

const MEASURES: &[Measure] = &[
    Measure::Requests,
    Measure::Megabytes,
    Measure::P50,
    Measure::P99,
    Measure::P999,
    Measure::CpuPerGb,
    Measure::CpuPerRequest,
    Measure::Memory,
    Measure::IdleCpu,
    Measure::Start,
];

/// Rounds by "scenario on file system, system".
type Groups = BTreeMap<String, Vec<Outcome>>;

/// Reads what a word of the command line names: result folders, reports, or a pattern of either.
///
/// # Errors
/// Nothing fits, or what fits is no result.
pub fn read(word: &str) -> Result<Groups> {
    let mut groups = Groups::new();
    for path in select(word)? {
        if path.is_dir() {
            let kept = Kept::read(&path)?;
            for (system, all) in &kept.systems {
                let key = format!("{} on {}, {system}", kept.facts.scenario, kept.facts.fs);
                groups.entry(key).or_default().extend(all.iter().cloned());
            }
        } else {
            let outcome = Outcome::read(&path)?;
            groups.entry(String::new()).or_default().push(outcome);
        }
    }
    ensure!(!groups.is_empty(), "{word} holds no report");
    Ok(groups)
}

/// Markdown tables of `a` against `b`: one for every scenario, file system and system that both
/// have. Sets of single reports, and folders of different scenarios that hold one group each, are
/// compared as they are.
///
/// # Errors
/// The two have nothing in common.
pub fn compare(names: (&str, &str), a: &Groups, b: &Groups) -> Result<String> {
    let mut text = String::new();
    for (key, ours) in a {
        if let Some(theirs) = b.get(key) {
            text += &table(key, names, ours, theirs);
            text += "\n";
        }
    }
    if !text.is_empty() {
        return Ok(text);
    }
    // Different systems of one folder given as reports, or folders of different scenarios.
    match (a.iter().next(), b.iter().next()) {
        (Some((x, ours)), Some((y, theirs))) if a.len() == 1 && b.len() == 1 => {
            Ok(table(&format!("{x} / {y}"), names, ours, theirs))
        }
        _ => bail!("the two have no scenario, file system and system in common"),
    }
}

/// One table. A ratio is `a` to `b`; the verdict is on `a`.
fn table(title: &str, names: (&str, &str), a: &[Outcome], b: &[Outcome]) -> String {
    let mut rows = Vec::new();
    for measure in MEASURES {
        let of =
            |all: &[Outcome]| Summary::of(all.iter().map(|o| measure.of(o)).filter(|v| *v != 0.0));
        let (Some(x), Some(y)) = (of(a), of(b)) else {
            continue;
        };
        let spread =
            |s: &Summary| format!("{} ({} .. {})", short(s.median), short(s.min), short(s.max));
        rows.push(vec![
            measure.name().to_owned(),
            spread(&x),
            spread(&y),
            format!("{:.2}x", x.median / y.median),
            Verdict::of(&x, &y, measure.more_is_better())
                .text()
                .to_owned(),
        ]);
    }
    let heads = [title, names.0, names.1, "ratio", "first against second"];
    markdown(&heads, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    fn rounds(rates: &[f64]) -> Vec<Outcome> {
        let of = |rate: &f64| {
            let mut report = Report {
                requests_per_second: *rate,
                ..Report::default()
            };
            report.latency_us.p50 = 1e6 / rate;
            Outcome::Run(Box::new(report))
        };
        rates.iter().map(of).collect()
    }

    fn groups(key: &str, rates: &[f64]) -> Groups {
        Groups::from([(key.to_owned(), rounds(rates))])
    }

    #[test]
    fn a_difference_larger_than_the_spread_has_a_verdict() {
        let key = "64k on tmpfs, flumen";
        let (a, b) = (
            groups(key, &[200.0, 210.0, 220.0]),
            groups(key, &[100.0, 105.0, 110.0]),
        );
        let text = compare(("new", "old"), &a, &b).unwrap();
        let rate = "|requests/s|210 (200 .. 220)|105 (100 .. 110)|2.00x|better|";
        assert!(text.contains(rate), "{text}");
        let p50 = "|p50 us|4762 (4545 .. 5000)|9524 (9091 .. 10.0k)|0.50x|better|";
        assert!(text.contains(p50), "{text}");
    }

    #[test]
    fn overlapping_ranges_are_noise_and_strangers_are_an_error() {
        let key = "64k on tmpfs, flumen";
        let (a, b) = (groups(key, &[100.0, 120.0]), groups(key, &[110.0, 105.0]));
        let text = compare(("new", "old"), &a, &b).unwrap();
        assert!(text.contains("within noise"), "{text}");
        let mut two = groups("16k on ext4, flumen", &[1.0]);
        two.extend(groups("16k on ext4, kafka", &[1.0]));
        assert!(compare(("new", "old"), &a, &two).is_err());
    }

    #[test]
    fn single_reports_are_compared_as_they_are() {
        let text = compare(("a", "b"), &groups("", &[10.0]), &groups("", &[5.0])).unwrap();
        assert!(text.contains("|2.00x|one round: unknown noise|"), "{text}");
    }
}
