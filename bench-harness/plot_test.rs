//! Pictures are well-formed, small, and show what they were given.

use super::*;
use crate::suite::svg_check::well_formed;

fn line(name: &str, points: usize) -> Line {
    Line {
        name: name.to_owned(),
        points: (1..=points).map(|i| (i as f64, (i * i) as f64)).collect(),
        marks: false,
    }
}

#[test]
fn lines_are_thinned_and_named() {
    let all = [line("flumen", 20_000), line("kafka & <others>", 3)];
    let svg = lines("a < b", &Axis::linear("x"), &Axis::log("y us"), &all)
        .unwrap()
        .unwrap();
    well_formed(&svg).unwrap();
    assert!(svg.len() < 60_000, "{} bytes", svg.len());
    assert!(svg.contains("flumen") && svg.contains("&amp;"), "{svg}");
}

#[test]
fn nothing_to_draw_is_no_picture() {
    let empty = line("flumen", 0);
    let drawn = lines("t", &Axis::linear("x"), &Axis::log("y"), &[empty]).unwrap();
    assert!(drawn.is_none());
}

#[test]
fn bars_have_a_dot_for_each_round() {
    let bar = |name: &str, median: f64| Bar {
        name: name.to_owned(),
        median,
        rounds: vec![median * 0.9, median, median * 1.1],
    };
    let svg = bars("64k", "MB/s", &[bar("kafka", 400.0), bar("flumen", 1500.0)])
        .unwrap()
        .unwrap();
    well_formed(&svg).unwrap();
    assert_eq!(svg.matches("<circle").count(), 6);
    assert!(svg.contains("kafka") && svg.contains("flumen"));
}

#[test]
fn a_peak_survives_thinning() {
    let mut spiky = line("flumen", 0);
    spiky.points = (0..5_000)
        .map(|i| (f64::from(i), if i == 1234 { 99.0 } else { 1.0 }))
        .collect();
    assert!(thinned(&spiky.points).iter().any(|p| p.1 > 98.0));
}

#[test]
fn labels() {
    assert_eq!(
        [tick(1500.0), tick(0.25), tick(2e6)],
        ["1.5k", "0.25", "2M"]
    );
    let nines = [1.0, 10.0, 100.0, 1000.0, 10_000.0].map(percentile_tick);
    assert_eq!(nines, ["0", "90", "99", "99.9", "99.99"]);
}
