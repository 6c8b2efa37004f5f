//! Ends of the process: SIGKILL under load, SIGTERM, restarts, and a file written for Kafka.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::process::Process;
use flumen_it::{Broker, Kind, Options, Shape, deps, raw, rounds_to, wait};

scenarios!(
    kill_under_load_keeps_each_acked_record_once,
    sigterm_ends_cleanly_and_restart_keeps_all,
    server_properties_of_kafka_start_unchanged,
);

/// An idempotent producer with acks=all lives through two SIGKILLs of the broker: every record is
/// there exactly once, in order, and each at the offset that its ack named.
fn kill_under_load_keeps_each_acked_record_once(shape: Shape) -> Result<()> {
    let count = 40_000 * rounds_to(20);
    let mut broker = Broker::start(Options::new(shape))?;
    broker.raw()?.create_topic("load", 4)?;
    let acks = broker.scratch("acks");
    let mut command = Command::new(deps::dir()?.join("venv/bin/python"));
    command
        .arg(deps::client_file("python/client.py"))
        .arg("survive")
        .arg(broker.address());
    command
        .arg("load")
        .arg(count.to_string())
        .arg(&acks)
        .stdin(Stdio::null());
    // librdkafka tells on stderr of every lost connection: here that is the subject.
    let mut producer = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    for part in 1..=2usize {
        wait::until("acks before the kill", Duration::from_secs(60), || {
            let text = std::fs::read(&acks).unwrap_or_default();
            let lines = text.iter().filter(|b| **b == b'\n').count();
            Ok((lines > part * count / 4).then_some(()))
        })?;
        ensure!(producer.alive(), "the producer ended before kill {part}");
        broker.kill();
        broker.launch()?;
        println!("restart after SIGKILL {part}: {:?}", broker.start_time);
    }
    let status = producer.wait(Duration::from_secs(180))?;
    ensure!(
        status.success(),
        "the producer ended with {status}: {}",
        broker.log_tail()
    );

    let mut acked: BTreeMap<(i32, i64), String> = BTreeMap::new();
    for line in std::fs::read_to_string(&acks)?.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().context("an ack");
        let place = (word()?.parse()?, word()?.parse()?);
        acked.insert(place, word()?.to_owned());
    }
    ensure!(acked.len() == count, "{} acks of {count}", acked.len());
    let mut reader = broker.raw()?;
    for partition in 0..4i32 {
        let records = reader.read_all("load", partition)?;
        let numbers: Vec<i64> = records
            .iter()
            .map(|r| Ok(std::str::from_utf8(&r.value)?.parse()?))
            .collect::<Result<_>>()?;
        let expected: Vec<i64> = (0..i64::try_from(count)?)
            .filter(|n| n % 4 == i64::from(partition))
            .collect();
        let wrong = numbers.iter().zip(&expected).position(|(a, b)| a != b);
        ensure!(
            numbers == expected,
            "partition {partition}: {} records, {} sent; first difference at {wrong:?}",
            numbers.len(),
            expected.len()
        );
        for record in &records {
            // librdkafka gives -1 to a batch that the broker called a duplicate without offset.
            if let Some(value) = acked.get(&(partition, record.offset)) {
                ensure!(
                    value.as_bytes() == &record.value[..],
                    "acked elsewhere: {record:?}"
                );
            }
        }
    }
    Ok(())
}

/// SIGTERM under a connected client: exit code 0 within 5 s; offsets, records, topic configs and
/// committed offsets are all there after the restart, which scans nothing.
fn sigterm_ends_cleanly_and_restart_keeps_all(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    let create = [
        "--create",
        "--topic",
        "kept",
        "--partitions",
        "3",
        "--config",
    ];
    broker.tool(
        "kafka-topics",
        &[&create[..], &["retention.ms=86400000"]].concat(),
    )?;
    let mut open = broker.raw()?;
    open.await_leaders("kept", 3)?;
    let values: Vec<Bytes> = (0..100).map(|n| Bytes::from(format!("v{n}"))).collect();
    let batch = raw::batch(&values)?;
    for _ in 0..10 {
        let all: Vec<_> = (0..3).map(|p| (p, batch.clone())).collect();
        open.produce("kept", &all)?;
    }
    let read = [
        "--topic",
        "kept",
        "--group",
        "keeper",
        "--from-beginning",
        "--max-messages",
        "3000",
        "--timeout-ms",
        "20000",
    ];
    broker.tool("kafka-console-consumer", &read)?;
    let before: Vec<_> = (0..3)
        .map(|p| open.read_all("kept", p))
        .collect::<Result<_>>()?;
    for round in 1..=2 {
        let took = broker.stop(Duration::from_secs(if broker.kind() == Kind::Kafka {
            30
        } else {
            5
        }))?;
        broker.launch()?;
        println!(
            "round {round}: SIGTERM to exit {took:?}, start to ready {:?}",
            broker.start_time
        );
        let mut again = broker.raw()?;
        again.await_leaders("kept", 3)?;
        let after: Vec<_> = (0..3)
            .map(|p| again.read_all("kept", p))
            .collect::<Result<_>>()?;
        ensure!(
            before == after,
            "round {round}: other records after the restart"
        );
        broker
            .tool("kafka-topics", &["--describe", "--topic", "kept"])?
            .has("retention.ms=86400000")?;
        let text = broker.tool(
            "kafka-consumer-groups",
            &["--describe", "--group", "keeper"],
        )?;
        let lags: Vec<&str> = text
            .lines()
            .into_iter()
            .filter(|l| l.contains("kept"))
            .collect();
        ensure!(lags.len() == 3, "{text}");
        for lag in lags {
            let cells: Vec<&str> = lag.split_whitespace().collect();
            ensure!(
                cells.get(3..6) == Some(&["1000", "1000", "0"]),
                "round {round}: {text}"
            );
        }
    }
    // The next offset follows the last one.
    let next = broker.raw()?.produce("kept", &[(0, batch)])?;
    ensure!(next == [1000], "{next:?}");
    Ok(())
}

/// Kafka's combined-mode file with a controller listener: needs formatting first, starts unchanged,
/// and formatting twice is refused.
fn server_properties_of_kafka_start_unchanged(shape: Shape) -> Result<()> {
    let mut broker = Broker::prepare(
        Options::new(shape)
            .from_file()
            .set("num.network.threads", "3")
            .set("num.io.threads", "8")
            .set("socket.send.buffer.bytes", "102400")
            .set("num.partitions", "2")
            .set("log.retention.hours", "168")
            .set("log.segment.bytes", "1073741824"),
    )?;
    broker.launch()?;
    let mut raw = broker.raw()?;
    ensure!(raw.metadata(&[])?.cluster_id.as_deref() == Some(flumen_it::broker::CLUSTER_ID));
    broker.tool("kafka-topics", &["--create", "--topic", "defaults"])?;
    broker
        .tool("kafka-topics", &["--describe", "--topic", "defaults"])?
        .has("PartitionCount: 2")?;
    // An admin client on the controller's listener.
    let address = broker.controller_address();
    let args = [
        "--bootstrap-controller",
        &address,
        "--describe",
        "--entity-type",
        "brokers",
    ];
    flumen_it::tool(
        "kafka-configs",
        &[&args[..], &["--entity-name", "1"]].concat(),
    )?
    .ok()?;
    let file = broker.file();
    let file = file.to_str().context("a name")?;
    let args = [
        "format",
        "--cluster-id",
        flumen_it::broker::CLUSTER_ID,
        "--config",
        file,
    ];
    let again = |more: &[&str]| -> Result<flumen_it::Output> {
        let args = [&args[..], more].concat();
        if broker.kind() == Kind::Kafka {
            return flumen_it::tool("kafka-storage", &args);
        }
        let mut command = Command::new(deps::flumen()?);
        command.arg("storage").args(args);
        flumen_it::process::run(&mut command, b"", Duration::from_secs(10))
    };
    again(&[])?.fails_with("already formatted")?;
    again(&["--ignore-formatted"])?.ok()?;
    Ok(())
}
