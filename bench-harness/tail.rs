//! Workloads with producers and readers at once: end to end, fan-out, mixed.

use anyhow::{Context as _, Result, ensure};

use crate::args::{Codec, Common, FanOutArgs, MixedArgs};
use crate::batch::batch;
use crate::produce::{self, Plan};
use crate::read::{Source, follower};
use crate::report::Report;
use crate::setup::{Admin, resolve};

/// One batch per request whose first record holds the time it was due.
const STAMPED: Plan = Plan {
    per_request: 1,
    acks: -1,
    spread: false,
    idempotent: false,
    stamped: true,
};

fn create(common: &Common) -> Result<()> {
    ensure!(
        common.record_bytes >= 8,
        "a record holds its time: at least 8 bytes"
    );
    let mut admin = Admin::connect(resolve(&common.bootstrap_server)?)?;
    admin.create_topic(&common.topic, common.partitions, &common.config)
}

/// One record per request at a fixed rate, timed from when it was due to when a waiting consumer
/// holds it; the producer's own latency beside.
///
/// # Errors
/// The broker refused or went away.
pub fn end_to_end(common: &Common) -> Result<Report> {
    common.rate.context("end-to-end needs --rate")?;
    create(common)?;
    let common = Common {
        connections: usize::try_from(common.partitions)?,
        ..common.clone()
    };
    let made = batch(1, common.record_bytes, 1_700_000_000_000)?;
    let arrivals = common.tally("end-to-end", false)?;
    let produced = common.tally("produce", true)?;
    let mut all = produce::connections(&common, &STAMPED, &made, &produced)?;
    for partition in 0..common.partitions {
        all.push(follower(&common, partition, made.value_at, &arrivals)?);
    }
    common.measure(all, &arrivals, Some(&produced))
}

/// One producer at a rate and many consumers of the same partition, each timed from when a record
/// was due; requests and bytes are those that the consumers got, together.
///
/// # Errors
/// The broker refused or went away.
pub fn fan_out(args: &FanOutArgs) -> Result<Report> {
    args.common.rate.context("fan-out needs --rate")?;
    let common = Common {
        connections: 1,
        partitions: 1,
        ..args.common.clone()
    };
    create(&common)?;
    let made = common.batch(Codec::None)?;
    let arrivals = common.tally("fan-out", false)?;
    let produced = common.tally("produce", true)?;
    let mut all = produce::connections(&common, &STAMPED, &made, &produced)?;
    for _ in 0..args.consumers {
        all.push(follower(&common, 0, made.value_at, &arrivals)?);
    }
    common.measure(all, &arrivals, Some(&produced))
}

/// Producers at a rate beside catch-up readers of another topic or tail readers of the same one.
///
/// # Errors
/// The broker refused or went away.
pub fn mixed(args: &MixedArgs) -> Result<Report> {
    let common = &args.common;
    common.rate.context("mixed needs --rate")?;
    create(common)?;
    let made = common.batch(Codec::None)?;
    let produced = common.tally("produce", true)?;
    let name = if args.tail { "tail" } else { "catch-up" };
    let read = common.tally(name, false)?;
    let plan = Plan {
        stamped: args.tail,
        ..STAMPED
    };
    // Filling takes its time, so the producers connect after it.
    let readers = if args.tail {
        let count = usize::try_from(common.partitions)?.min(common.connections);
        let partitions = 0..i32::try_from(count)?;
        partitions
            .map(|p| follower(common, p, made.value_at, &read))
            .collect::<Result<Vec<_>>>()?
    } else {
        let source = Source {
            common,
            topic: &args.read_topic,
            partitions: i32::try_from(args.readers.max(1))?,
            readers: args.readers,
            fetch_bytes: args.fetch_bytes,
            fill_bytes: args.fill_bytes,
            cold: &args.cold,
        };
        source.open(&made, &read)?
    };
    let mut all = produce::connections(common, &plan, &made, &produced)?;
    all.extend(readers);
    common.measure(all, &produced, Some(&read))
}
