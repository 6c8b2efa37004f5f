//! Tables and pictures from reports made up for the purpose.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::*;
use crate::report::{BrokerCost, LoadCurve, LoadPoint, Report, to_hex};
use crate::suite::facts::Facts;
use crate::suite::svg_check::well_formed;

/// A report of `rate` requests of 64 KiB per second with a latency of `us`.
fn report(rate: f64, us: u64, resident: u64) -> Report {
    let mut histogram = Histogram::<u64>::new_with_bounds(100, 120_000_000_000, 3).unwrap();
    for n in 0..1000 {
        histogram.record(us * 1000 + n * 10).unwrap();
    }
    let mut report = Report::new("64k", 5.0, (rate * 5.0) as u64, 0, &histogram).unwrap();
    report.requests_per_second = rate;
    report.megabytes_per_second = rate * 0.065;
    report.latency_us.p50 = us as f64;
    report.latency_us.p99 = us as f64;
    report.histogram_v2_hex = to_hex(&histogram).unwrap();
    report.broker = Some(BrokerCost {
        cpu_seconds_per_gb: 1e3 / rate,
        cpu_us_per_request: 1e6 / rate,
        resident_bytes: resident << 20,
        ..BrokerCost::default()
    });
    report
}

fn runs(all: &[Report]) -> Vec<Outcome> {
    all.iter()
        .map(|r| Outcome::Run(Box::new(r.clone())))
        .collect()
}

fn kept(scenario: &str, fs: &str, systems: &[(&str, Vec<Outcome>)]) -> Kept {
    let facts = Facts {
        date: "2026-11-20".to_owned(),
        commit: "abc1234".to_owned(),
        scenario: scenario.to_owned(),
        fs: fs.to_owned(),
        fs_about: "tmpfs, fresh pages".to_owned(),
        rounds: 3,
        seconds: 5.0,
        cpu: "A CPU".to_owned(),
        cpus: 2,
        memory_mib: 24 * 1024,
        kernel: "6.18".to_owned(),
        pinned: "Broker on CPU 0, client on CPU 1.".to_owned(),
        ..Facts::default()
    };
    let systems = systems
        .iter()
        .map(|(name, all)| ((*name).to_owned(), all.clone()));
    Kept {
        path: format!("perf-results/{}", facts.folder()).into(),
        facts,
        systems: BTreeMap::from_iter(systems),
    }
}

fn sixty_four() -> Kept {
    let ours = [
        report(20_000.0, 1000, 40),
        report(22_000.0, 900, 40),
        report(24_000.0, 800, 40),
    ];
    let kafka = [report(9_000.0, 4000, 900), report(10_000.0, 3600, 900)];
    let mut limit = [report(25_000.0, 700, 5), report(25_000.0, 700, 5)];
    limit[1].client.saturated = Some("98 % busy".to_owned());
    kept(
        "64k",
        "tmpfs",
        &[
            ("flumen", runs(&ours)),
            ("kafka", runs(&kafka)),
            ("limit", runs(&limit)),
        ],
    )
}

#[test]
fn the_table_has_kafka_flumen_and_the_limit_side_by_side() {
    let all = [sixty_four()];
    let lines = rows(&all);
    let line = lines[0].cells.join("|");
    let golden = "[64k](2026-11-20-abc1234-64k-tmpfs/)|tmpfs|MB/s|618|1430|1625 (c)|2.32x|\
        88 %|0.43x|0.24x|0.24x|0.04x|MB/s >= 2x; MB/s >= 80 % of the limit; \
        p99 us <= 1/2 of Kafka's; resident MiB <= 1/15 of Kafka's|**yes**";
    assert_eq!(line, golden);
    let text = all_text(&all, &lines, true);
    assert!(
        text.contains("1 of 1 lines with floors meet all of them."),
        "{text}"
    );
    assert!(text.contains("- 2026-11-20, commit abc1234: A CPU, 2 CPUs, 24 GiB, kernel 6.18"));
}

#[test]
fn what_misses_or_was_not_measured_is_said() {
    let mut slow = sixty_four();
    slow.systems.insert(
        "flumen".to_owned(),
        runs(&[report(12_000.0, 3000, 40), report(12_000.0, 3000, 40)]),
    );
    let line = rows(&[slow.clone()])[0].cells.join("|");
    assert!(
        line.ends_with("|no: MB/s 1.26, of the limit 0.48, p99 us 0.79"),
        "{line}"
    );
    let mut alone = sixty_four();
    alone.systems.remove("limit");
    let line = rows(&[alone])[0].cells.join("|");
    assert!(line.ends_with("|not measured: of the limit"), "{line}");
    // Ranges that overlap are no result.
    slow.systems.insert(
        "kafka".to_owned(),
        runs(&[report(11_000.0, 1, 1), report(13_000.0, 1, 1)]),
    );
    let line = rows(&[slow])[0].cells.join("|");
    assert!(line.contains("1.00x (noise)"), "{line}");
}

#[test]
fn a_folder_says_its_spread_floors_and_machine() {
    let text = folder_text(&sixty_four(), &["throughput.svg"]);
    for part in [
        "# 64k on tmpfs",
        "|median (least .. greatest)|flumen|kafka|limit|",
        "|MB/s|1430 (1300 .. 1560)|618 (585 .. 650)|1625 (1625 .. 1625)|",
        "- Floor for flumen: MB/s >= 2x. met: 2.32.",
        "flumen 18 % from least to greatest, 9 % between the quartiles (3 rounds)",
        "The client was the bound for limit: those figures are lower limits.",
        "![throughput.svg](throughput.svg)",
        "Broker on CPU 0, client on CPU 1.",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(
        !text.contains("start ms") && !text.contains("service"),
        "{text}"
    );
}

#[test]
fn in_a_matrix_each_column_is_judged_against_its_own_calm() {
    let calm = runs(&[report(1000.0, 100, 40)]);
    let systems = [
        ("inline", runs(&[report(1000.0, 150, 40)])),
        ("inline-calm", calm.clone()),
        ("ring", runs(&[report(1000.0, 300, 40)])),
        ("ring-calm", calm),
    ];
    let text = folder_text(&kept("strategies-trouble-cold", "ext4", &systems), &[]);
    assert!(
        text.contains("- Floor for inline: p99 us <= 2x of undisturbed. met: 1.50."),
        "{text}"
    );
    assert!(text.contains("- Floor for ring: p99 us <= 2x of undisturbed. not met: 3.00."));
    assert!(!text.contains("Floor for inline-calm"));
}

#[test]
fn pictures_are_well_formed_and_small() {
    let mut with_series = sixty_four();
    with_series.facts.seconds = 1800.0;
    for all in with_series.systems.values_mut() {
        if let Some(Outcome::Run(report)) = all.first_mut() {
            report.series = (0..1800)
                .map(|at| crate::report::Second {
                    at: f64::from(at),
                    seconds: 1.0,
                    bytes: 250_000_000,
                    p99: 100.0 + f64::from(at % 97),
                    ..Default::default()
                })
                .collect();
        }
    }
    let pictures = pictures(&with_series).unwrap();
    let names: Vec<&str> = pictures.iter().map(|(name, _)| *name).collect();
    let wanted = [
        "throughput.svg",
        "percentiles.svg",
        "series-p99.svg",
        "series-rate.svg",
    ];
    assert_eq!(names, wanted);
    let overview = picture::overview(&[with_series]).unwrap().unwrap();
    let all = pictures.iter().map(|(name, svg)| (*name, svg));
    for (name, svg) in all.chain([("overview", &overview)]) {
        well_formed(svg).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(svg.len() < 60_000, "{name}: {} bytes", svg.len());
    }
}

#[test]
fn a_load_curve_is_drawn_by_what_was_answered() {
    let point = |rate: f64, us: u64| LoadPoint {
        achieved_per_second: rate,
        report: report(rate, us, 10),
        ..LoadPoint::default()
    };
    let curve = LoadCurve {
        capacity_per_second: 1000.0,
        closed: Some(report(1000.0, 50, 10)),
        points: vec![point(100.0, 40), point(900.0, 400), point(1000.0, 9000)],
        ..LoadCurve::default()
    };
    let all = vec![Outcome::Curve(Box::new(curve))];
    let kept = kept("load-curve", "tmpfs", &[("flumen", all)]);
    let lines = load_curves(&kept);
    assert_eq!(
        lines[0].points,
        [(100.0, 40.0), (900.0, 400.0), (1000.0, 9000.0)]
    );
    assert!(
        pictures(&kept)
            .unwrap()
            .iter()
            .any(|(name, _)| *name == "load-curve.svg")
    );
}

#[test]
fn the_compact_table_goes_between_its_markers() {
    let text = "# Top\n\n<!-- perf-table -->\nold\n<!-- /perf-table -->\n\n## State\n";
    let new = inserted(text, "new\n");
    assert_eq!(
        new,
        "# Top\n\n<!-- perf-table -->\nnew\n<!-- /perf-table -->\n\n## State\n"
    );
    assert_eq!(inserted(&new, "new\n"), new);
    let without = inserted("# Top\n\n## Use\n\n## State\nx\n", "t\n");
    let block = "<!-- perf-table -->\nt\n<!-- /perf-table -->";
    assert_eq!(
        without,
        format!("# Top\n\n## Use\n\n## Measured\n\n{block}\n\n## State\nx\n")
    );
    let table = compact(&[sixty_four()], "perf-results");
    assert!(
        table.contains("](perf-results/2026-11-20-abc1234-64k-tmpfs/)"),
        "{table}"
    );
}
