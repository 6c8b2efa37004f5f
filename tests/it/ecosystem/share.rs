//! Share groups with Kafka's own consumers: they share the work, and what fails too often, or was
//! rejected, comes no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use bytes::Bytes;
use flumen_it::deps::java;
use flumen_it::tools::class_of;
use flumen_it::{Broker, Program, Shape, lacks, raw, wait};

use super::{PACE, PATIENCE, count, options};

ecosystem!(
    console_share_consumers_share_the_work,
    records_that_fail_come_no_more,
);

const TOPIC: &str = "shared";
const PARTITIONS: i32 = 2;
const PATH: &[&str] = &["kafka/driver", "programs", "kafka/libs/*"];
/// How often a record is delivered at most.
const LIMIT: usize = 3;

/// A broker with a topic of numbered records and a group that begins at the start; none when the
/// broker has no share groups.
fn prepared(shape: Shape, records: usize, group: &str) -> Result<Option<Broker>> {
    let options = options(shape).set("group.share.delivery.count.limit", &LIMIT.to_string());
    let broker = Broker::start(options)?;
    if lacks(&broker, "share.version")? {
        return Ok(None);
    }
    broker.raw()?.create_topic(TOPIC, PARTITIONS)?;
    fill(&broker, 0, records)?;
    from_the_start(&broker, group)?;
    Ok(Some(broker))
}

/// Makes a group begin at the start of its topics.
fn from_the_start(broker: &Broker, group: &str) -> Result<()> {
    let mut args = vec!["--alter", "--entity-type", "groups", "--entity-name", group];
    args.extend(["--add-config", "share.auto.offset.reset=earliest"]);
    broker.tool("kafka-configs", &args).map(drop)
}

/// Records with these numbers, in turn to the partitions.
fn fill(broker: &Broker, from: usize, to: usize) -> Result<()> {
    let mut raw = broker.raw()?;
    for (turn, chunk) in (from..to).collect::<Vec<_>>().chunks(20).enumerate() {
        let values: Vec<Bytes> = chunk.iter().map(|n| Bytes::from(format!("v{n}"))).collect();
        let partition = i32::try_from(turn)? % PARTITIONS;
        raw.produce(TOPIC, &[(partition, raw::batch(&values)?)])?;
    }
    Ok(())
}

fn expected(records: usize) -> BTreeSet<String> {
    (0..records).map(|n| format!("v{n}")).collect()
}

/// Everything of the group is acknowledged, as its own tool says: no lag is left.
fn await_no_lag(broker: &Broker, group: &str) -> Result<()> {
    wait::every(PACE, "a group without lag", PATIENCE, || {
        let out = broker.tool("kafka-share-groups", &["--describe", "--group", group])?;
        for partition in 0..PARTITIONS {
            let row = out.row(&[group, TOPIC, &partition.to_string()])?;
            ensure!(row.last() == Some(&"0"), "{out}");
        }
        Ok(Some(()))
    })
}

/// The group has so many members, as its own tool says.
fn await_members(broker: &Broker, group: &str, members: usize) -> Result<()> {
    let args = ["--describe", "--group", group, "--members"];
    wait::every(PACE, "a group with all its members", PATIENCE, || {
        let out = broker.tool("kafka-share-groups", &args)?;
        let found = out.lines().iter().filter(|l| l.starts_with(group)).count();
        Ok((found == members).then_some(()))
    })
}

/// Three console consumers: each gets some of the records, and each record is printed by one of
/// them and never again.
fn console_share_consumers_share_the_work(shape: Shape) -> Result<()> {
    let Some(broker) = prepared(shape, 0, "console")? else {
        return Ok(());
    };
    let mut consumers = Vec::new();
    for name in ["console-1", "console-2", "console-3"] {
        let mut command = java(200, PATH, &[], class_of("kafka-console-share-consumer"))?;
        command.args(["--bootstrap-server", &broker.address()]);
        command.args(["--topic", TOPIC, "--group", "console"]);
        consumers.push(Program::start(&broker.scratch(""), name, &mut command)?);
    }
    await_members(&broker, "console", consumers.len())?;
    let (mut records, step) = (0, count(40, 400));
    // Who gets what is a matter of who asks: it goes on until each has had something.
    wait::every(PACE, "records for each consumer", PATIENCE, || {
        fill(&broker, records, records + step)?;
        records += step;
        let each = consumers.iter().all(|c| !c.lines().is_empty());
        Ok((each && records >= count(600, 20_000)).then_some(()))
    })?;
    for consumer in &mut consumers {
        ensure!(consumer.alive(), "it ended\n{}", consumer.tail());
    }
    await_no_lag(&broker, "console")?;
    let mut all = Vec::new();
    let mut shares = Vec::new();
    for consumer in consumers {
        let output = consumer.stop(PATIENCE)?;
        let found: Vec<String> = output.lines().iter().map(|l| (*l).to_owned()).collect();
        shares.push(found.len());
        all.extend(found);
    }
    let distinct: BTreeSet<String> = all.iter().cloned().collect();
    ensure!(distinct == expected(records), "{} records", distinct.len());
    let twice = all.len() - records;
    ensure!(twice == 0, "{twice} of {records} came twice");
    println!("{records} records, each once: {shares:?}");
    Ok(())
}

/// A member with explicit acknowledgements (`ShareMember.java`). It prints `got PARTITION OFFSET
/// COUNT VALUE` and does with each record what its argument says: `accept`, `release`, `reject`.
fn member(broker: &Broker, name: &str, group: &str, what: &str) -> Result<Program> {
    let mut command = java(200, PATH, &[], "ShareMember")?;
    command.args([&broker.address(), TOPIC, group, what]);
    let dir: &Path = &broker.scratch("");
    let mut program = Program::start(dir, name, &mut command)?;
    program.until_line("ready", PATIENCE)?;
    Ok(program)
}

/// What a member got: value, and with it how often it had been delivered.
fn got(program: &Program) -> Vec<(String, usize)> {
    let parse = |line: &String| {
        let mut words = line.strip_prefix("got ")?.split(' ').skip(2);
        let delivery = words.next()?.parse().ok()?;
        Some((words.next()?.to_owned(), delivery))
    };
    program.lines().iter().filter_map(parse).collect()
}

fn await_values(program: &mut Program, least: usize) -> Result<()> {
    program.until("records", PATIENCE, |lines| {
        let found = lines.iter().filter(|l| l.starts_with("got ")).count();
        (found >= least).then_some(())
    })
}

/// A record that is released each time is delivered as often as the limit says, one that is
/// rejected once; then neither comes again, and the group goes on behind them.
fn records_that_fail_come_no_more(shape: Shape) -> Result<()> {
    let Some(broker) = prepared(shape, 40, "failing")? else {
        return Ok(());
    };
    let mut failing = member(&broker, "failing", "failing", "release")?;
    await_values(&mut failing, 40 * LIMIT)?;
    await_no_lag(&broker, "failing")?;
    let mut deliveries: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (value, delivery) in got(&failing) {
        deliveries.entry(value).or_default().push(delivery);
    }
    let each: Vec<usize> = (1..=LIMIT).collect();
    for (value, found) in &deliveries {
        ensure!(*found == each, "{value}: deliveries {found:?}");
    }
    ensure!(deliveries.len() == 40, "{} records", deliveries.len());
    failing.finish(PATIENCE)?;
    fill(&broker, 40, 60)?;
    let mut strict = member(&broker, "strict", "failing", "reject")?;
    await_values(&mut strict, 20)?;
    await_no_lag(&broker, "failing")?;
    let output = strict.finish(PATIENCE)?;
    fill(&broker, 60, 80)?;
    let mut last = member(&broker, "last", "failing", "accept")?;
    await_values(&mut last, 20)?;
    await_no_lag(&broker, "failing")?; // so that nothing else can come
    let found: BTreeSet<String> = got(&last).into_iter().map(|g| g.0).collect();
    let fresh: BTreeSet<String> = (60..80).map(|n| format!("v{n}")).collect();
    ensure!(found == fresh, "{found:?}");
    last.finish(PATIENCE)?;
    let rejected = output.out.lines().filter(|l| l.starts_with("got ")).count();
    ensure!(
        rejected == 20,
        "{rejected} deliveries of 20 rejected records"
    );
    Ok(())
}
