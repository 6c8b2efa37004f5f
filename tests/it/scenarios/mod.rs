//! One module per subject; each scenario is one function that starts its own broker.

use anyhow::Result;
use flumen_it::{Kind, Shape};

/// Makes two tests, `dev` and `four_shards`, of each scenario function.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod dev {
            $(#[test] fn $name() -> anyhow::Result<()> {
                $crate::scenarios::run(flumen_it::Shape::Dev, super::$name)
            })*
        }
        mod four_shards {
            $(#[test] fn $name() -> anyhow::Result<()> {
                $crate::scenarios::run(flumen_it::Shape::FourShards, super::$name)
            })*
        }
    };
}

mod admin;
mod adopt;
mod cli;
mod clients;
mod compaction;
mod crash;
mod disk;
mod full;
mod kills;
mod limits;
mod metrics;
mod power;
mod recovery;
mod retention;
mod robust;
mod shares;
mod tools_data;
mod txns;
mod unreadable;

/// Runs a scenario in one shape. Kafka has one shape only: there the second is the same test.
fn run(shape: Shape, scenario: fn(Shape) -> Result<()>) -> Result<()> {
    if Kind::chosen() == Kind::Kafka && shape == Shape::FourShards {
        eprintln!("Apache Kafka has no shards: `dev` ran this scenario");
        return Ok(());
    }
    scenario(shape)
}
