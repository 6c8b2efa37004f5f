//! Disks: several log directories, one that is away, one that is full, and partitions that move
//! between them. Small file systems are mounted for it: needs root.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flumen_it::process::Process;
use flumen_it::{Broker, Options, Raw, Shape, deps, raw, rounds_to, wait};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tempfile::TempDir;

scenarios!(
    a_full_disk_refuses_and_writing_goes_on_with_room,
    the_reserve_keeps_room_for_all_else,
    a_directory_that_is_away_leaves_the_others,
    partitions_move_between_directories_under_load,
);

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";

/// A file system of its own, unmounted at the end.
struct Mount(TempDir);

impl Mount {
    fn new(mib: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flumen-disk-").tempdir()?;
        let mount = Self(dir);
        mount.mount(mib)?;
        Ok(mount)
    }

    fn mount(&self, mib: u64) -> Result<()> {
        let size = format!("size={mib}m");
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", &size, "flumen-it"])
            .arg(self.path());
        flumen_it::process::run(&mut command, b"", LIMIT)?
            .ok()
            .context("this test mounts a small file system: it needs root")?;
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        let mut command = Command::new("umount");
        command.arg("--lazy").arg(self.path());
        flumen_it::process::run(&mut command, b"", LIMIT)?.ok()?;
        Ok(())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn text(&self) -> Result<&str> {
        self.path().to_str().context("the folder's name")
    }

    /// Fills all of it but about so many bytes; dropping the file's name makes room again.
    fn fill(&self, but: u64) -> Result<PathBuf> {
        let path = self.path().join("ballast");
        let mut file = File::create(&path)?;
        let chunk = vec![1; 64 << 10];
        while file.write_all(&chunk).is_ok() {}
        let len = file.metadata()?.len();
        file.set_len(len.saturating_sub(but))?;
        Ok(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.unmount(); // or it was not mounted
    }
}

/// A librdkafka producer, idempotent, that writes each ack to a file.
pub(super) fn producer(broker: &Broker, topic: &str, count: usize, acks: &Path) -> Result<Process> {
    let mut command = Command::new(deps::dir()?.join("venv/bin/python"));
    command
        .arg(deps::client_file("python/client.py"))
        .args(["survive", &broker.address(), topic, &count.to_string()])
        .arg(acks)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Process::start(&mut command)
}

pub(super) fn acked(path: &Path) -> usize {
    let text = std::fs::read(path).unwrap_or_default();
    text.iter().filter(|b| **b == b'\n').count()
}

/// All that was acked is there once, where its ack said, and in the order of sending.
pub(super) fn check_acked(raw: &mut Raw, topic: &str, count: usize, acks: &Path) -> Result<()> {
    let mut places: BTreeMap<(i32, i64), String> = BTreeMap::new();
    for line in std::fs::read_to_string(acks)?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [partition, offset, value] = words[..] else {
            bail!("no ack: {line}");
        };
        places.insert((partition.parse()?, offset.parse()?), value.to_owned());
    }
    ensure!(places.len() == count, "{} acks of {count}", places.len());
    for partition in 0..4i32 {
        let records = raw.read_all(topic, partition)?;
        let numbers: Vec<i64> = records
            .iter()
            .map(|r| Ok(std::str::from_utf8(&r.value)?.parse()?))
            .collect::<Result<_>>()?;
        let all = 0..i64::try_from(count)?;
        let expected: Vec<i64> = all.filter(|n| n % 4 == i64::from(partition)).collect();
        ensure!(
            numbers == expected,
            "partition {partition}: {} records of {}",
            numbers.len(),
            expected.len()
        );
        for record in &records {
            if let Some(value) = places.get(&(partition, record.offset)) {
                ensure!(value.as_bytes() == &record.value[..], "{record:?}");
            }
        }
    }
    Ok(())
}

/// The error of a produce, and what is said beside it.
pub(super) fn produce(raw: &mut Raw, topic: &str, value: &Bytes) -> Result<(i16, Option<String>)> {
    let records = raw::batch(std::slice::from_ref(value))?;
    let part = PartitionProduceData::default().with_records(Some(records));
    let data = TopicProduceData::default()
        .with_name(raw::name(topic))
        .with_partition_data(vec![part]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![data]);
    let answer = raw.call(&request, 9)?;
    let part = answer
        .responses
        .into_iter()
        .flat_map(|t| t.partition_responses)
        .next();
    let part = part.context("nothing")?;
    Ok((part.error_code, part.error_message.map(|m| m.to_string())))
}

pub(super) fn until_full(raw: &mut Raw, topic: &str) -> Result<()> {
    let value = Bytes::from(vec![7; 100 << 10]);
    wait::until("no room", LIMIT, || match produce(raw, topic, &value)? {
        (0, _) => Ok(None),
        (19, Some(why)) => {
            ensure!(why.contains("no room"), "{why}");
            Ok(Some(()))
        }
        other => bail!("{other:?}"),
    })
}

/// One disk for all, full to the last byte, under a producer that goes on: reads and admin go on,
/// memory stays flat, topics can be deleted, and when there is room again so does the producer,
/// with nothing lost, twice, or out of order.
fn a_full_disk_refuses_and_writing_goes_on_with_room(shape: Shape) -> Result<()> {
    for flush in ["1", "9223372036854775807"] {
        let disk = Mount::new(96)?;
        let options = Options::new(shape)
            .set("log.dirs", disk.text()?)
            .set("log.flush.interval.messages", flush)
            .set("log.segment.bytes", "1048576");
        let mut broker = Broker::start(options)?;
        let mut raw = broker.raw()?;
        for (topic, partitions) in [("load", 4), ("victim", 1), ("other", 1)] {
            raw.create_topic(topic, partitions)?;
        }
        for _ in 0..40 {
            let (error, _) = produce(&mut raw, "victim", &Bytes::from(vec![1; 100 << 10]))?;
            ensure!(error == 0, "error {error}");
        }
        disk.fill(300 << 10)?;
        let count = 40_000 * rounds_to(10);
        let acks = broker.scratch("acks");
        let mut load = producer(&broker, "load", count, &acks)?;
        until_full(&mut raw, "other")?;
        let before = broker.process()?.resident_bytes()?;
        let held = acked(&acks);
        for _ in 0..200 {
            let (error, _) = produce(&mut raw, "other", &Bytes::from(vec![7; 500 << 10]))?;
            ensure!(error == 19, "error {error}");
            raw.fetch("victim", 0, 0)?;
        }
        ensure!(load.alive(), "the producer ended while the disk was full");
        let after = broker.process()?.resident_bytes()?;
        ensure!(after < before + 64 * MIB, "{before} bytes, then {after}");
        broker.tool("kafka-topics", &["--describe", "--topic", "load"])?;
        broker
            .tool("kafka-log-dirs", &["--describe", "--topic-list", "load"])?
            .has("\"error\":null")?;
        // Deleting a topic needs a change of the metadata, on the same disk.
        broker.tool("kafka-topics", &["--delete", "--topic", "victim"])?;
        let status = load.wait(Duration::from_secs(180))?;
        ensure!(status.success(), "{status}: {}", broker.log_tail());
        println!("acked while full {held}, at the end {}", acked(&acks));
        check_acked(&mut raw, "load", count, &acks)?;
        let (error, _) = produce(&mut raw, "other", &Bytes::from("more"))?;
        ensure!(error == 0, "error {error}");
        // Also after the process was killed.
        broker.kill();
        broker.launch()?;
        check_acked(&mut broker.raw()?, "load", count, &acks)?;
    }
    Ok(())
}

/// With a reserve the disk is never full: everything but records finds room, groups included.
fn the_reserve_keeps_room_for_all_else(shape: Shape) -> Result<()> {
    let disk = Mount::new(64)?;
    let options = Options::new(shape)
        .set("log.dirs", disk.text()?)
        .set("flumen.disk.reserve.bytes", "8388608")
        .set("log.segment.bytes", "1048576");
    let broker = Broker::start(options)?;
    let mut raw = broker.raw()?;
    raw.create_topic("load", 4)?;
    raw.create_topic("t", 1)?;
    produce(&mut raw, "t", &Bytes::from("first"))?;
    // A group, before and while there is no room.
    let read = [
        "--topic",
        "t",
        "--from-beginning",
        "--max-messages",
        "1",
        "--timeout-ms",
        "20000",
    ];
    broker.tool(
        "kafka-console-consumer",
        &[&read[..], &["--group", "g1"]].concat(),
    )?;
    let ballast = disk.fill(10 * MIB)?;
    let count = 40_000 * rounds_to(10);
    let acks = broker.scratch("acks");
    let mut load = producer(&broker, "load", count, &acks)?;
    // The ballast had taken all for a moment.
    wait::until("a write", LIMIT, || {
        let (error, _) = produce(&mut raw, "t", &Bytes::from("second"))?;
        Ok((error == 0).then_some(()))
    })?;
    until_full(&mut raw, "t")?;
    ensure!(load.alive(), "the producer ended");
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "new", "--partitions", "3"],
    )?;
    broker.tool("kafka-topics", &["--delete", "--topic", "new"])?;
    ensure!(raw.fetch("t", 0, 0)?.len() > 1, "no records");
    // What remains belongs to others: the disk is not full.
    let mut file = File::create(disk.path().join("foreign"))?;
    file.write_all(&vec![1; 2 << 20])?;
    std::fs::remove_file(disk.path().join("foreign"))?;
    std::fs::remove_file(ballast)?;
    let status = load.wait(Duration::from_secs(180))?;
    ensure!(status.success(), "{status}: {}", broker.log_tail());
    check_acked(&mut raw, "load", count, &acks)?;
    broker.tool(
        "kafka-console-consumer",
        &[&read[..], &["--group", "g2"]].concat(),
    )?;
    Ok(())
}

pub(super) fn leaders(raw: &mut Raw, topic: &str) -> Result<Vec<i32>> {
    let answer = raw.metadata(&[topic])?;
    let topics = answer.topics.into_iter();
    let mut all: Vec<(i32, i32)> = topics
        .flat_map(|t| t.partitions)
        .map(|p| (p.partition_index, p.leader_id.0))
        .collect();
    all.sort_unstable();
    Ok(all.into_iter().map(|(_, leader)| leader).collect())
}

/// A disk that is not mounted at the start: its partitions have no leader, all others serve, and
/// with the disk the records are back. Without any the broker says so and ends.
fn a_directory_that_is_away_leaves_the_others(shape: Shape) -> Result<()> {
    let (one, two) = (Mount::new(64)?, Mount::new(64)?);
    let keep = tempfile::tempdir()?;
    let dirs = format!("{},{}", one.text()?, two.text()?);
    let options = Options::new(shape).set("log.dirs", &dirs).from_file();
    let mut broker = Broker::start(options)?;
    let mut raw = broker.raw()?;
    raw.create_topic("t", 4)?;
    for partition in 0..4 {
        let value = Bytes::from(format!("v{partition}"));
        raw.produce("t", &[(partition, raw::batch(&[value])?)])?;
    }
    let in_two = |n: &i32| two.path().join(format!("t-{n}")).exists();
    let lost: Vec<i32> = (0..4).filter(in_two).collect();
    ensure!(lost.len() == 2, "partitions are not spread: {lost:?}");
    broker.stop(Duration::from_secs(10))?;
    copy(two.path(), keep.path())?;
    two.unmount()?;
    broker.launch()?;
    let mut raw = broker.raw()?;
    let now = leaders(&mut raw, "t")?;
    for partition in 0..4i32 {
        let gone = lost.contains(&partition);
        ensure!(
            now.get(partition as usize) == Some(&if gone { -1 } else { 1 }),
            "{now:?}"
        );
        let read = raw.read_all("t", partition);
        ensure!(read.is_err() == gone, "partition {partition}: {read:?}");
    }
    raw.create_topic("new", 2)?;
    broker
        .tool("kafka-log-dirs", &["--describe"])?
        .has("KafkaStorageException")?;
    broker.stop(Duration::from_secs(10))?;
    two.mount(64)?;
    copy(keep.path(), two.path())?;
    broker.launch()?;
    let mut raw = broker.raw()?;
    raw.await_leaders("t", 4)?;
    for partition in 0..4 {
        ensure!(raw.read_all("t", partition)?.len() == 1);
    }
    broker.stop(Duration::from_secs(10))?;
    one.unmount()?;
    two.unmount()?;
    let mut command = Command::new(deps::flumen()?);
    command.arg("start").arg("--config").arg(broker.file());
    let output = flumen_it::process::run(&mut command, b"", Duration::from_secs(10))?;
    output.fails_with("flumen storage format")?;
    Ok(())
}

fn node_id(raw: &mut Raw) -> Result<i32> {
    let brokers = raw.metadata(&[])?.brokers;
    Ok(brokers.first().context("no broker")?.node_id.0)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from.join(".")).arg(to);
    flumen_it::process::run(&mut command, b"", LIMIT)?.ok()?;
    Ok(())
}

/// Kafka's own tool sends partitions to other directories while a producer writes to them.
fn partitions_move_between_directories_under_load(shape: Shape) -> Result<()> {
    let dirs = TempDir::new()?;
    let (one, two) = (dirs.path().join("one"), dirs.path().join("two"));
    let both = format!("{},{}", one.display(), two.display());
    let options = Options::new(shape)
        .set("log.dirs", &both)
        .set("log.segment.bytes", "1048576");
    let mut broker = Broker::start(options)?;
    broker.raw()?.create_topic("load", 4)?;
    // Something to copy.
    let mut raw = broker.raw()?;
    let count = 40_000 * rounds_to(10);
    let acks = broker.scratch("acks");
    let mut load = producer(&broker, "load", count, &acks)?;
    wait::until("some acks", LIMIT, || {
        Ok((acked(&acks) > count / 8).then_some(()))
    })?;
    for target in [&two, &one, &two] {
        let id = node_id(&mut raw)?;
        let place = |n: i32| {
            format!(
                r#"{{"topic":"load","partition":{n},"replicas":[{id}],"log_dirs":["{}"]}}"#,
                target.display()
            )
        };
        let plan: Vec<String> = (0..4).map(place).collect();
        let plan = format!(r#"{{"version":1,"partitions":[{}]}}"#, plan.join(","));
        let file = broker.scratch("plan.json");
        std::fs::write(&file, plan)?;
        let file = file.to_str().context("a name")?;
        broker.tool(REASSIGN, &["--execute", "--reassignment-json-file", file])?;
        let args = ["--verify", "--reassignment-json-file", file];
        wait::until("all have moved", LIMIT, || {
            let output = broker.tool(REASSIGN, &args)?;
            let done = output.out.matches("completed successfully").count();
            ensure!(done >= 4, "{output}");
            Ok(Some(()))
        })?;
        for n in 0..4 {
            let name = format!("load-{n}");
            ensure!(target.join(&name).is_dir(), "{name} is not in {target:?}");
            let other = if target == &one { &two } else { &one };
            ensure!(!other.join(&name).exists(), "{name} is still in {other:?}");
        }
    }
    let status = load.wait(Duration::from_secs(180))?;
    ensure!(status.success(), "{status}: {}", broker.log_tail());
    check_acked(&mut broker.raw()?, "load", count, &acks)?;
    broker.kill();
    broker.launch()?;
    check_acked(&mut broker.raw()?, "load", count, &acks)?;
    for n in 0..4 {
        ensure!(two.join(format!("load-{n}")).is_dir(), "load-{n}");
    }
    Ok(())
}
