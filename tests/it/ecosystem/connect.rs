//! Kafka Connect: a file that grows, through a topic, into another file; workers and brokers that
//! die; the REST calls that operators use; and a source that writes exactly once.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use flumen_it::{Broker, Shape, lacks, random, wait};
use serde_json::json;

use super::worker::Worker;
use super::{PACE, PATIENCE, count, options};

ecosystem!(
    standalone_worker_copies_a_file,
    distributed_workers_and_their_rest_calls,
    exactly_once_source,
);

const TOPIC: &str = "connect-lines";

/// The input file and the lines in it.
struct Input {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Input {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&path)?;
        Ok(Self {
            path,
            file,
            lines: 0,
        })
    }

    fn append(&mut self, lines: usize) -> Result<()> {
        let mut text = String::new();
        for n in self.lines..self.lines + lines {
            text.push_str(&line(n));
            text.push('\n');
        }
        self.lines += lines;
        self.file.write_all(text.as_bytes())?;
        Ok(())
    }
}

fn line(n: usize) -> String {
    format!("line-{n:08}")
}

fn source(input: &Path) -> Vec<(&'static str, String)> {
    vec![
        (
            "connector.class",
            "org.apache.kafka.connect.file.FileStreamSourceConnector".to_owned(),
        ),
        ("tasks.max", "1".to_owned()),
        ("file", input.display().to_string()),
        ("topic", TOPIC.to_owned()),
        ("batch.size", "100".to_owned()),
    ]
}

fn sink(output: &Path) -> Vec<(&'static str, String)> {
    vec![
        (
            "connector.class",
            "org.apache.kafka.connect.file.FileStreamSinkConnector".to_owned(),
        ),
        ("tasks.max", "1".to_owned()),
        ("file", output.display().to_string()),
        ("topics", TOPIC.to_owned()),
    ]
}

fn borrowed<'a>(config: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    config.iter().map(|(k, v)| (*k, v.as_str())).collect()
}

/// Waits until the output has every line of the input, in order at their first coming. Returns how
/// many came again.
fn await_copied(output: &Path, lines: usize, worker: &Worker) -> Result<usize> {
    let last = line(lines - 1);
    wait::every(PACE, "the last line in the copy", PATIENCE, || {
        let text = std::fs::read_to_string(output)?;
        ensure!(text.ends_with('\n'), "a torn line");
        Ok(text.lines().any(|l| l == last).then_some(()))
    })
    .with_context(|| worker.tail())?;
    let text = std::fs::read_to_string(output)?;
    let mut next = 0;
    let mut again = 0;
    for found in text.lines() {
        if found == line(next) {
            next += 1;
            continue;
        }
        let known = (0..next).rev().any(|n| found == line(n));
        ensure!(known, "{found} where {} should be", line(next));
        again += 1;
    }
    ensure!(next == lines, "{next} of {lines} lines");
    Ok(again)
}

/// In the topic each line is once, while only the broker dies and the worker is stopped in order:
/// the producer is idempotent, and what it sent is noted before it ends. The sink may repeat lines
/// whose commit the broker's death took along.
fn standalone_worker_copies_a_file(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    broker.raw()?.create_topic(TOPIC, 1)?;
    let (input, output) = (broker.scratch("in.txt"), broker.scratch("out.txt"));
    let mut lines = Input::create(input.clone())?;
    lines.append(500)?;
    let (source, sink) = (source(&input), sink(&output));
    let (source, sink) = (borrowed(&source), borrowed(&sink));
    let connectors = [("source", source.as_slice()), ("sink", sink.as_slice())];
    let mut worker = Worker::standalone(&broker, &connectors)?;
    worker.start()?;
    worker.await_state("source", "RUNNING")?;
    worker.await_state("sink", "RUNNING")?;
    let mut again = 0;
    for round in 0..count(2, 20) {
        lines.append(500)?;
        if round % 2 == 0 {
            broker.kill();
            lines.append(500)?;
            broker.launch()?;
            lines.append(500)?;
        } else {
            worker.stop()?;
            lines.append(500)?;
            worker.start()?;
        }
        again += await_copied(&output, lines.lines, &worker)?;
    }
    worker.stop()?;
    let read = broker.raw()?.read_all(TOPIC, 0)?;
    for (n, record) in read.iter().enumerate() {
        let found = String::from_utf8_lossy(&record.value);
        ensure!(found == line(n), "{found} where {} should be", line(n));
    }
    ensure!(read.len() == lines.lines, "{} records", read.len());
    println!(
        "{} lines, each once in the topic; {again} twice in the copy",
        lines.lines
    );
    Ok(())
}

fn distributed_workers_and_their_rest_calls(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    broker.raw()?.create_topic(TOPIC, 1)?;
    let (input, output) = (broker.scratch("in.txt"), broker.scratch("out.txt"));
    let mut lines = Input::create(input.clone())?;
    lines.append(500)?;
    let mut first = Worker::distributed(&broker, "first")?;
    first.start()?;
    first.create("source", &borrowed(&source(&input)))?;
    first.create("sink", &borrowed(&sink(&output)))?;
    first.await_state("source", "RUNNING")?;
    first.await_state("sink", "RUNNING")?;
    let mut again = await_copied(&output, lines.lines, &first)?;
    check_internal_topics(&broker)?;
    rest_calls(&first, &mut lines, &output)?;

    // A second worker takes its share; the first dies, and everything moves to the second.
    let mut second = Worker::distributed(&broker, "second")?;
    second.start()?;
    for round in 0..count(1, 10) {
        lines.append(500)?;
        first.kill();
        second.await_state("source", "RUNNING")?;
        second.await_state("sink", "RUNNING")?;
        broker.kill();
        lines.append(500)?;
        broker.launch()?;
        again += await_copied(&output, lines.lines, &second)
            .with_context(|| format!("round {round}"))?;
        first.start()?;
        std::mem::swap(&mut first, &mut second);
    }
    second.stop()?;
    for name in ["source", "sink"] {
        first.patient("DELETE", &format!("/connectors/{name}"), None)?;
    }
    wait::every(PACE, "no connectors", PATIENCE, || {
        Ok((first.get("/connectors")? == json!([])).then_some(()))
    })?;
    first.stop()?;
    println!("{} lines; {again} came again after a death", lines.lines);
    Ok(())
}

/// The topics in which Connect keeps its state are there and compacted.
fn check_internal_topics(broker: &Broker) -> Result<()> {
    for (topic, partitions) in [
        ("connect-configs", "PartitionCount: 1"),
        ("connect-offsets", "PartitionCount: 4"),
        ("connect-status", "PartitionCount: 2"),
    ] {
        broker
            .tool("kafka-topics", &["--describe", "--topic", topic])?
            .has(partitions)?
            .has("cleanup.policy=compact")?;
    }
    Ok(())
}

fn rest_calls(worker: &Worker, lines: &mut Input, output: &Path) -> Result<()> {
    let info = worker.get("/")?;
    ensure!(info["version"] == "4.3.1", "{info}");
    ensure!(info["kafka_cluster_id"].is_string(), "{info}");
    let plugins = worker.get("/connector-plugins")?.to_string();
    ensure!(plugins.contains("FileStreamSource"), "{plugins}");
    let tasks = worker.patient("GET", "/connectors/source/tasks", None)?;
    ensure!(tasks.as_array().is_some_and(|t| t.len() == 1), "{tasks}");
    // Restarts of a task, of a connector, of both.
    worker.patient("POST", "/connectors/source/tasks/0/restart", None)?;
    worker.await_state("source", "RUNNING")?;
    let both = "/connectors/sink/restart?includeTasks=true&onlyFailed=false";
    worker.patient("POST", both, None)?;
    worker.await_state("sink", "RUNNING")?;
    // What is paused does not go on, what is resumed does.
    worker.patient("PUT", "/connectors/source/pause", None)?;
    worker.await_state("source", "PAUSED")?;
    lines.append(100)?;
    worker.patient("PUT", "/connectors/source/resume", None)?;
    worker.await_state("source", "RUNNING")?;
    await_copied(output, lines.lines, worker)?;
    // Committed positions of both kinds of connectors.
    let size = std::fs::metadata(&lines.path)?.len();
    wait::every(PACE, "the source's position", PATIENCE, || {
        let offsets = worker.get("/connectors/source/offsets")?;
        let position = offsets["offsets"][0]["offset"]["position"].as_u64();
        ensure!(position == Some(size), "{offsets}, {size} bytes");
        Ok(Some(()))
    })?;
    wait::every(PACE, "the sink's position", PATIENCE, || {
        let offsets = worker.get("/connectors/sink/offsets")?;
        let offset = offsets["offsets"][0]["offset"]["kafka_offset"].as_u64();
        let enough = offset.is_some_and(|o| o >= lines.lines as u64);
        ensure!(enough, "{offsets}, {} lines", lines.lines);
        Ok(Some(()))
    })?;
    // A changed configuration restarts the task.
    let mut config = worker.patient("GET", "/connectors/source/config", None)?;
    config["batch.size"] = json!("50");
    worker.patient("PUT", "/connectors/source/config", Some(&config))?;
    worker.await_state("source", "RUNNING")?;
    let found = worker.patient("GET", "/connectors/source", None)?;
    ensure!(found["config"]["batch.size"] == "50", "{found}");
    lines.append(100)?;
    await_copied(output, lines.lines, worker).map(drop)
}

/// Workers and the broker die at any moment; in the topic each line is committed once, in order.
///
/// Until the transaction of a killed task ends, its timeout if nothing else ends it, a worker that
/// starts cannot read the offsets topic to its end (KIP-618).
fn exactly_once_source(shape: Shape) -> Result<()> {
    let scan = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    let mut broker = Broker::start(options(shape).set(scan, "1000"))?;
    if lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    let mut random = random("exactly-once source");
    broker.raw()?.create_topic(TOPIC, 1)?;
    let input = broker.scratch("in.txt");
    let mut lines = Input::create(input.clone())?;
    let mut worker = Worker::distributed(&broker, "worker")?;
    worker.set("exactly.once.source.support", "enabled")?;
    worker.start()?;
    let mut config = source(&input);
    config.push(("exactly.once.support", "required".to_owned()));
    config.push(("transaction.boundary", "poll".to_owned()));
    let timeout = "producer.override.transaction.timeout.ms";
    config.push((timeout, "15000".to_owned()));
    worker.create("source", &borrowed(&config))?;
    worker.await_state("source", "RUNNING")?;
    for round in 0..count(2, 30) {
        lines.append(2000)?;
        // After a part of them, which the last stable offset shows.
        let part = (lines.lines as u64 - 2000) + random(1800);
        wait::every(PACE, "a part of the lines", PATIENCE, || {
            let end = broker.raw()?.stable_end(TOPIC, 0)?;
            Ok((u64::try_from(end)? > part).then_some(()))
        })
        .with_context(|| worker.tail())?;
        worker.kill();
        if round % 2 == 1 {
            broker.kill();
            broker.launch()?;
        }
        worker.start()?;
        worker.await_state("source", "RUNNING")?;
    }
    let expected: Vec<String> = (0..lines.lines).map(line).collect();
    wait::every(PACE, "all lines in the topic", PATIENCE, || {
        let read = broker.raw()?.read_committed(TOPIC, 0)?;
        let found: Vec<&[u8]> = read.iter().map(|r| r.value.as_ref()).collect();
        let differs = found
            .iter()
            .zip(&expected)
            .position(|(a, b)| *a != b.as_bytes());
        ensure!(differs.is_none(), "line {differs:?} is another");
        ensure!(
            found.len() <= expected.len(),
            "{} lines too many",
            found.len()
        );
        Ok((found.len() == expected.len()).then_some(()))
    })
    .with_context(|| worker.tail())?;
    worker.stop()?;
    println!("{} lines, each once", lines.lines);
    Ok(())
}
