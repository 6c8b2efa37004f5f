//! Other people's programs on the real broker: Kafka Streams, Kafka Connect with a database,
//! Spring, Burrow, transactional producers, consumers of all kinds, and a very large number of
//! groups.
//!
//! Each scenario starts its own broker and programs and ends them all. With few rounds each runs in
//! one shape of the broker; with `FLUMEN_TEST_ROUNDS` (`--full`) in both, larger. What stands on a
//! feature that the broker has not finalized says `NOT RUN`, and fails where rounds are asked for.

use std::time::Duration;

use anyhow::Result;
use flumen_it::{Kind, Options, Shape, rounds};

/// Makes two tests, `dev` and `four_shards`, of each scenario function.
macro_rules! ecosystem {
    ($($name:ident),* $(,)?) => {
        mod dev {
            $(#[test] fn $name() -> anyhow::Result<()> {
                $crate::ecosystem::run(flumen_it::Shape::Dev, super::$name)
            })*
        }
        mod four_shards {
            $(#[test] fn $name() -> anyhow::Result<()> {
                $crate::ecosystem::run(flumen_it::Shape::FourShards, super::$name)
            })*
        }
    };
}

mod burrow;
mod connect;
mod database;
mod many_groups;
mod pipelined;
mod rebalances;
mod share;
mod spring;
mod streams;
mod transaction_tools;
mod transactions;
mod worker;

/// How long a program may take to start, or to come back after its broker was away.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a condition is looked at that costs a program or a request.
const PACE: Duration = Duration::from_millis(100);

/// Runs a scenario: against Kafka once, against Flumen in both shapes where rounds are asked for.
fn run(shape: Shape, scenario: fn(Shape) -> Result<()>) -> Result<()> {
    let only = match Kind::chosen() {
        Kind::Kafka => Some(Shape::Dev),
        Kind::Flumen if rounds() == 1 => Some(Shape::FourShards),
        Kind::Flumen => None,
    };
    match only {
        Some(other) if other != shape => {
            println!("few rounds, or Kafka: {other:?} runs this scenario");
            Ok(())
        }
        _ => scenario(shape),
    }
}

/// A broker whose internal topics have few partitions, and that keeps records whatever their time.
fn options(shape: Shape) -> Options {
    Options::new(shape)
        .set("log.retention.ms", "-1")
        .set("offsets.topic.num.partitions", "4")
        .set("transaction.state.log.num.partitions", "4")
        .set("share.coordinator.state.topic.num.partitions", "4")
}

/// `few` as it is, and with rounds `many`.
fn count(few: usize, many: usize) -> usize {
    if rounds() == 1 { few } else { many }
}
