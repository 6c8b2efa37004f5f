//! Spring for Apache Kafka: templates, listeners that retry and give up into a dead-letter topic,
//! and transactions, with the client that Spring brings along.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flumen_it::deps::java;
use flumen_it::{Broker, Program, Shape, lacks, random};
use serde_json::Value;

use super::{PATIENCE, count, options};

ecosystem!(
    listeners_retry_and_give_up_into_a_dead_letter_topic,
    listeners_and_templates_in_transactions,
);

/// Topics of the program (`SpringApp.java`) and their partitions.
const TOPICS: &[(&str, i32)] = &[
    ("orders", 4),
    ("orders-dead", 4),
    ("payments", 4),
    ("receipts", 4),
];

/// Runs the program in a mode over `records` records while the broker is killed; gives what it
/// found out about itself.
fn application(broker: &mut Broker, mode: &str, records: usize, kills: usize) -> Result<Value> {
    let mut random = random("spring");
    for (topic, partitions) in TOPICS {
        broker.raw()?.create_topic(topic, *partitions)?;
    }
    let mut command = java(
        300,
        &["kafka/driver", "spring/classes", "spring/*"],
        &[],
        "SpringApp",
    )?;
    command.args([&broker.address(), mode, &records.to_string()]);
    let mut program = Program::start(&broker.scratch(""), mode, &mut command)?;
    program.until_line("STARTED", PATIENCE)?;
    for kill in 1..=kills {
        let least = records * kill / (kills + 2);
        program.until("a part of the records", PATIENCE, |lines| {
            let last = lines.iter().rfind(|l| l.starts_with("HANDLED "))?;
            let handled: usize = last.strip_prefix("HANDLED ")?.parse().ok()?;
            (handled >= least).then_some(())
        })?;
        std::thread::sleep(Duration::from_micros(random(100_000))); // any moment
        broker.kill();
        broker
            .launch()
            .with_context(|| format!("after kill {kill}"))?;
    }
    let output = program.wait(2 * PATIENCE)?.ok()?;
    let result = output
        .lines()
        .into_iter()
        .find_map(|l| l.strip_prefix("RESULT "));
    let result = result.with_context(|| output.to_string())?;
    serde_json::from_str(result).with_context(|| result.to_owned())
}

/// Every tenth order is refused each time: three attempts, then it is a dead letter with its
/// history in the headers. Every other one that fails once is handled at its second attempt.
fn listeners_retry_and_give_up_into_a_dead_letter_topic(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    let (records, kills) = (count(300, 5000), count(1, 20));
    let found = application(&mut broker, "listen", records, kills)?;
    let number = |key: &str| found[key].as_u64().unwrap_or_default() as usize;
    let poisoned = records.div_ceil(10);
    ensure!(number("sent") == records, "{found}");
    ensure!(number("handled") == records - poisoned, "{found}");
    ensure!(number("dead") == poisoned, "{found}");
    // At least: a kill between the record and its commit repeats it.
    ensure!(number("attempts") >= records + 2 * poisoned, "{found}");
    ensure!(number("wrong_headers") == 0, "{found}");
    // Nothing is left to read, as the groups' own tool says.
    let described = broker.tool(
        "kafka-consumer-groups",
        &["--describe", "--group", "orders-group"],
    )?;
    for partition in ["0", "1", "2", "3"] {
        let row = described.row(&["orders-group", "orders", partition])?;
        ensure!(row.get(5) == Some(&"0"), "{described}");
    }
    println!("{found}");
    Ok(())
}

/// A payment becomes two receipts in one transaction with its offset; every seventh fails at first,
/// after it has sent one of them. A reader of what is committed sees two of each, once.
fn listeners_and_templates_in_transactions(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    if lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    let (records, kills) = (count(200, 3000), count(1, 20));
    let found = application(&mut broker, "transactions", records, kills)?;
    let number = |key: &str| found[key].as_u64().unwrap_or_default() as usize;
    ensure!(number("committed") == 2 * records, "{found}");
    ensure!(number("distinct") == 2 * records, "{found}");
    // Of each that failed, one receipt is in the log and can only be read uncommitted.
    ensure!(
        number("uncommitted") >= 2 * records + records.div_ceil(7),
        "{found}"
    );
    // What a template sent in a transaction that it gave up.
    ensure!(number("given_up_seen") == 0, "{found}");
    ensure!(number("kept_seen") == 10, "{found}");
    println!("{found}");
    Ok(())
}
