//! The same requests to Apache Kafka 4.3.1 and to Flumen, in the lowest, a middle and the highest
//! version that Flumen serves of each API: the answers must be equal, but for what each broker
//! makes up (`pair.rs`) and for the differences in [`INTENDED`], each with its reason.
//!
//! One start of each broker serves all cases. A difference that is not intended and an intended one
//! that does not occur both fail the test.

mod admin;
mod batch;
mod configs;
mod consumers;
mod fetch;
mod groups;
mod internal;
mod modern;
mod offsets;
mod pair;
mod produce;
mod schema;
mod shares;
mod streams;
mod topics;
mod txns;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use pair::{Difference, Pair};

/// A difference that is meant: case, API and path (each its start or `*`), and why.
type Intended = (&'static str, &'static str, &'static str, &'static str);

/// The differences that are meant.
const INTENDED: &[Intended] = &[
    (
        "versions",
        "ApiVersions",
        "/ApiKeys",
        "APIs that are not built are not advertised",
    ),
    (
        "versions",
        "ApiVersions",
        "/SupportedFeatures",
        "features that are not built are not there",
    ),
    (
        "created by asking",
        "Metadata",
        "",
        "the topic is there with the first answer",
    ),
    (
        "metadata: neither name nor id",
        "Metadata",
        "",
        "Kafka fails inside (error -1)",
    ),
    (
        "quorum",
        "DescribeQuorum",
        "LogEndOffset",
        "another metadata log",
    ),
    (
        "quorum",
        "DescribeQuorum",
        "HighWatermark",
        "another metadata log",
    ),
    (
        "feature ",
        "UpdateFeatures",
        "/ErrorMessage",
        "other levels are supported",
    ),
    (
        "describe*4 \"1\"",
        "DescribeConfigs",
        "/Results/1/Configs/length",
        "keys of our own",
    ),
    (
        "describe*4 \"1\"",
        "DescribeConfigs",
        "/Results/1/Configs",
        "keys of our own",
    ),
    (
        "describe after altering",
        "DescribeConfigs",
        "/Results/1/Configs",
        "keys of our own",
    ),
    (
        "describe documentation",
        "DescribeConfigs",
        "/Documentation",
        "texts are not copied",
    ),
    (
        "unknown operation",
        "IncrementalAlterConfigs",
        "",
        "Kafka fails inside (error -1)",
    ),
    (
        "partition twice",
        "Produce",
        "",
        "Kafka keeps the last, here both are stored",
    ),
    (
        "partition twice",
        "Fetch",
        "",
        "Kafka answers the last, here both",
    ),
    (
        "unknown compression",
        "Produce",
        "",
        "Kafka fails inside (error -1)",
    ),
    (
        "compression that is none",
        "Produce",
        "",
        "Kafka fails inside (error -1)",
    ),
    (
        "fetch at most*",
        "Fetch",
        "/Records",
        "whole batches, and one of each partition at least",
    ),
    (
        "fetch at most -1*",
        "Fetch",
        "",
        "a negative limit is none (Kafka: error -1)",
    ),
    (
        "fetch at most*, -1*",
        "Fetch",
        "",
        "a negative limit is none (Kafka: error -1)",
    ),
    (
        "fetch as a follower",
        "Fetch",
        "",
        "replication between brokers is not built",
    ),
    ("list offsets: epochs", "ListOffsets", "", "-2 is no epoch"),
    (
        "delete records: what is left",
        "ListOffsets",
        "",
        "Kafka looks only into a deleted segment",
    ),
    (
        "delete records: all",
        "ListOffsets",
        "",
        "Kafka remembers the time of a deleted record",
    ),
    (
        "offsets: delete: nothing",
        "OffsetDelete",
        "",
        "the topic is answered with no partitions",
    ),
    (
        "txns: ",
        "Fetch",
        "/Records",
        "producer ids, and times of markers",
    ),
    ("shares: ", "Share", "ErrorMessage", "texts are not copied"),
    (
        "listed at the end",
        "ListGroups",
        "",
        "Kafka keeps groups that refused joins made",
    ),
];

/// Both brokers' settings.
const PROPERTIES: &[(&str, &str)] = &[
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "4"),
    ("num.partitions", "2"),
    ("max.incremental.fetch.session.cache.slots", "1000"),
    // Answers must not depend on how much time lies between two requests.
    ("group.consumer.assignment.interval.ms", "0"),
    ("group.share.assignment.interval.ms", "0"),
    ("share.coordinator.state.topic.num.partitions", "4"),
    ("group.streams.assignment.interval.ms", "0"),
    ("group.streams.initial.rebalance.delay.ms", "0"),
];

/// A group of cases by its name.
type Case = (&'static str, fn(&mut Pair) -> Result<()>);

/// The groups of cases; `FLUMEN_IT_COMPARE` picks those whose name has this text.
const CASES: &[Case] = &[
    ("admin", admin::run),
    ("topics", topics::run),
    ("configs", configs::run),
    ("produce", produce::run),
    ("fetch", fetch::run),
    ("offsets", offsets::run),
    ("groups", groups::run),
    ("consumers", consumers::run),
    ("shares", shares::run),
    ("txns", txns::run),
    ("streams", streams::run),
];

fn is_meant(intended: &Intended, difference: &Difference) -> bool {
    let fits = |pattern: &str, text: &str| {
        pattern
            .split('*')
            .try_fold(text, |rest, part| {
                rest.find(part).map(|at| rest.split_at(at + part.len()).1)
            })
            .is_some()
    };
    fits(intended.0, &difference.case)
        && fits(intended.1, &difference.api)
        && fits(intended.2, &difference.path)
}

#[test]
fn answers_equal_those_of_kafka() -> Result<()> {
    let only = std::env::var("FLUMEN_IT_COMPARE").unwrap_or_default();
    let mut pair = Pair::start(PROPERTIES)?;
    for (name, run) in CASES.iter().filter(|(name, _)| name.contains(&only)) {
        let begin = std::time::Instant::now();
        let before = (pair.compared, pair.differences.len());
        pair.case(name);
        let ended = run(&mut pair);
        println!(
            "{name}: {} answers, {} differences, {:?}",
            pair.compared - before.0,
            pair.differences.len() - before.1,
            begin.elapsed()
        );
        let ended = ended.with_context(|| format!("{}\n{name}", report(&pair.differences, &[])));
        ended?;
    }
    let unused: Vec<&Intended> = INTENDED
        .iter()
        .filter(|i| only.is_empty() && !pair.differences.iter().any(|d| is_meant(i, d)))
        .collect();
    let left: Vec<Difference> = pair
        .differences
        .iter()
        .filter(|d| !INTENDED.iter().any(|i| is_meant(i, d)))
        .cloned()
        .collect();
    if !left.is_empty() || !unused.is_empty() {
        bail!("{}", report(&left, &unused));
    }
    Ok(())
}

/// The differences, each once for all versions that have it.
fn report(left: &[Difference], unused: &[&Intended]) -> String {
    let mut text = format!("{} answers differ\n", left.len());
    let mut seen = BTreeSet::new();
    for d in left {
        let api = d.api.split(' ').next().unwrap_or_default();
        if seen.insert((&d.case, api, &d.path, &d.kafka, &d.flumen)) {
            let cut = |s: &str| s.chars().take(500).collect::<String>();
            let _ = writeln!(
                text,
                "{} | {} | {}\n    Kafka:  {}\n    Flumen: {}",
                d.case,
                d.api,
                d.path,
                cut(&d.kafka),
                cut(&d.flumen)
            );
        }
    }
    for (case, api, path, _) in unused {
        let _ = writeln!(text, "meant, but equal: {case} | {api} | {path}");
    }
    text
}
