//! The table is complete and consistent.

use std::collections::BTreeSet;

use super::*;

/// What is asked: a measure, what it is held against, the bound, and where.
type Row = (&'static str, Measure, Against, Bound, Option<Fs>);

#[test]
fn names_are_unique_and_fit_folders() {
    let mut seen = BTreeSet::new();
    for s in SCENARIOS {
        assert!(seen.insert(s.name), "{} twice", s.name);
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(s.name.chars().all(plain), "{}", s.name);
        assert!(!s.about.is_empty() && !s.fs.is_empty(), "{}", s.name);
        // A folder's name ends in the file system: a scenario's must not, but for what it is of.
        assert!(
            !s.name.ends_with("-ext4") && !s.name.ends_with("-xfs"),
            "{}",
            s.name
        );
    }
}

#[test]
fn a_floor_against_the_limit_has_a_probe() {
    for s in SCENARIOS {
        let asks = s.floors.iter().any(|f| f.against == Against::Limit);
        assert!(!asks || !s.limit.is_empty(), "{}", s.name);
        let calm = s.floors.iter().any(|f| f.against == Against::Calm);
        assert_eq!(calm, matches!(s.run, Run::Trouble { .. }), "{}", s.name);
    }
}

#[test]
fn synced_scenarios_run_on_a_disk() {
    for s in SCENARIOS {
        assert_eq!(s.synced(), s.name.starts_with("sync"), "{}", s.name);
        assert!(!s.synced() || !s.fs.contains(&Fs::Tmpfs), "{}", s.name);
    }
}

#[test]
#[rustfmt::skip] // a table
fn every_row_that_is_asked_for_has_its_floor() {
    use Against::{Absolute, Calm, Kafka, Limit, OneShard};
    use Bound::{AtLeast, AtMost, MoreBy};
    use Measure as M;
    const THIRD: f64 = 1.0 / 3.0;
    let (tmpfs, xfs, ext4) = (Some(Fs::Tmpfs), Some(Fs::Xfs), Some(Fs::Ext4));
    let mut rows: Vec<Row> = vec![
        ("tiny8", M::Requests, Kafka, AtLeast(4.5), tmpfs),
        ("tiny8", M::Requests, Limit, AtLeast(0.9), tmpfs),
        ("tiny8", M::P99, Kafka, AtMost(THIRD), tmpfs),
        ("tiny32", M::Requests, Kafka, AtLeast(3.5), tmpfs),
        ("tiny32", M::Requests, Limit, AtLeast(0.9), tmpfs),
        ("tiny32", M::P99, Kafka, AtMost(0.5), tmpfs),
        ("serve64k", M::Megabytes, Kafka, AtLeast(2.2), tmpfs),
        ("serve64k", M::Megabytes, Limit, AtLeast(0.8), tmpfs),
        ("serve64k", M::P99, Kafka, AtMost(0.5), tmpfs),
        ("serve1m", M::Megabytes, Kafka, AtLeast(1.2), tmpfs),
        ("serve1m", M::Megabytes, Limit, AtLeast(0.9), tmpfs),
        ("serve1m", M::P99, Kafka, AtMost(2.0 / 3.0), tmpfs),
        ("e2e1k", M::P50, Kafka, AtMost(0.6), tmpfs),
        ("e2e1k", M::CpuPerRequest, Kafka, AtMost(0.2), tmpfs),
        ("e2e1k", M::P99, Kafka, AtMost(0.2), tmpfs),
        ("lat16k", M::P50, Kafka, AtMost(0.5), tmpfs),
        ("lat16k", M::CpuPerRequest, Kafka, AtMost(0.4), tmpfs),
        ("lat16k", M::P99, Kafka, AtMost(THIRD), tmpfs),
        ("sync16k", M::Megabytes, Kafka, AtLeast(7.0), ext4),
        ("sync16k", M::Megabytes, Limit, AtLeast(0.9), ext4),
        ("sync16k", M::P99, Kafka, AtMost(0.25), ext4),
        ("sync64k", M::Megabytes, Kafka, AtLeast(5.0), ext4),
        ("sync64k", M::Megabytes, Limit, AtLeast(0.9), ext4),
        ("sync64k", M::P99, Kafka, AtMost(2.0 / 3.0), ext4),
        ("disk90", M::Sustained, Absolute, AtLeast(0.99), ext4),
        ("disk90", M::P99, Kafka, AtMost(0.6), ext4),
        ("disk-saturate", M::Megabytes, Limit, AtLeast(0.95), ext4),
        ("disk-saturate", M::ServiceP99, Absolute, AtMost(50_000.0), ext4),
        ("mixed-cold", M::P99, Calm, AtMost(2.0), ext4),
        ("64k", M::Memory, Kafka, AtMost(1.0 / 15.0), tmpfs),
        ("start", M::Start, Kafka, AtMost(1.0 / 30.0), tmpfs),
        ("start1000", M::Start, Kafka, AtMost(0.1), tmpfs),
        ("two-shards-64k", M::OwnCpuPerGb, OneShard, AtMost(1.1), tmpfs),
        ("two-shards-tiny", M::OwnCpuPerRequest, OneShard, MoreBy(0.75), tmpfs),
    ];
    for (name, folios, fresh) in [
        ("16k", 4.0, 2.3), ("64k", 4.5, 2.0), ("256k", 4.0, 1.4), ("8x16k", 5.0, 2.0),
    ] {
        rows.push((name, M::Megabytes, Kafka, AtLeast(folios), xfs));
        rows.push((name, M::Megabytes, Limit, AtLeast(0.75), xfs));
        rows.push((name, M::P99, Kafka, AtMost(THIRD), xfs));
        for fs in [tmpfs, ext4] {
            rows.push((name, M::Megabytes, Kafka, AtLeast(fresh), fs));
            rows.push((name, M::Megabytes, Limit, AtLeast(0.8), fs));
            rows.push((name, M::P99, Kafka, AtMost(0.5), fs));
        }
    }
    for name in ["fanout1", "fanout10", "fanout100"] {
        rows.push((name, M::PerCpu, Kafka, AtLeast(3.0), tmpfs));
        rows.push((name, M::P99, Kafka, AtMost(THIRD), tmpfs));
    }
    for (name, measure, against, bound, fs) in rows {
        let s = Scenario::named(name).unwrap_or_else(|| panic!("no scenario {name}"));
        let fs = fs.unwrap();
        assert!(s.fs.contains(&fs), "{name} is not measured on {}", fs.name());
        let found = s.floors_on(fs)
            .any(|f| f.measure == measure && f.against == against && f.bound == bound);
        assert!(found, "{name} on {}: {measure:?} {against:?} {bound:?}", fs.name());
    }
}

#[test]
fn a_bound_is_of_a_ratio_or_of_a_difference() {
    assert!(Bound::AtLeast(2.0).holds(10.0, Some(5.0)));
    assert!(!Bound::AtLeast(2.1).holds(10.0, Some(5.0)));
    assert!(Bound::AtMost(0.5).holds(1.0, Some(2.0)));
    assert!(Bound::AtMost(50.0).holds(49.0, None));
    assert!(Bound::MoreBy(0.75).holds(5.0, Some(4.3)));
    assert!(!Bound::MoreBy(0.75).holds(5.0, Some(4.2)));
}
