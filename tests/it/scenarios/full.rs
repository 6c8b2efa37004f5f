//! Disks that are full, on real file systems: small ones, ext4 and XFS, on loop devices. With a
//! reserve and without, while records are written, segments roll, several producers share a sync, a
//! log is compacted, and the metadata changes; then there is room again, and all goes on by itself.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flumen_it::loop_disk::{LoopDisk, missing, not_run};
use flumen_it::{Broker, Kind, Options, Raw, Shape, raw, rounds_to, wait};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::disk::{acked, check_acked, produce, producer, until_full};
use super::metrics::get;

scenarios!(
    records_and_rolls_on_ext4,
    records_and_rolls_on_xfs,
    group_commit_on_ext4,
    group_commit_on_xfs,
    compaction_on_ext4,
    compaction_on_xfs,
    metadata_on_ext4,
    metadata_on_xfs,
    full_segments_keep_no_room_on_xfs,
);

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const RESERVE: u64 = 16 * MIB;
/// What a disk may hold beside records while the reserve is kept: indexes, the metadata log, files
/// that are replaced.
const BESIDE: u64 = 4 * MIB;
/// A topic's setting, 20 KB long.
const LONG_CONFIG: &str = "leader.replication.throttled.replicas";
const TOPIC_RESOURCE: i8 = 2;
const HOT_KEYS: u64 = 25;
const ROUNDS: u64 = 12;

fn records_and_rolls_on_ext4(shape: Shape) -> Result<()> {
    records("ext4", shape, "9223372036854775807")
}

fn records_and_rolls_on_xfs(shape: Shape) -> Result<()> {
    records("xfs", shape, "9223372036854775807")
}

fn group_commit_on_ext4(shape: Shape) -> Result<()> {
    records("ext4", shape, "1")
}

fn group_commit_on_xfs(shape: Shape) -> Result<()> {
    records("xfs", shape, "1")
}

/// Whether this is not for this broker, or not for this machine, which is said loudly.
fn does_not_apply() -> Result<bool> {
    if Kind::chosen() == Kind::Kafka {
        println!("Apache Kafka takes a full log directory offline");
        return Ok(true);
    }
    not_run("a full disk", missing())
}

fn options(shape: Shape, disk: &LoopDisk, reserve: u64) -> Options {
    Options::new(shape)
        .set("log.dirs", &disk.path().join("data").display().to_string())
        .set("flumen.disk.reserve.bytes", &reserve.to_string())
}

/// An idempotent librdkafka producer goes on while a disk gets full and has room again: nothing is
/// lost, twice or out of order, and nothing but records was refused.
fn records(kind: &str, shape: Shape, flush: &str) -> Result<()> {
    if does_not_apply()? {
        return Ok(());
    }
    for reserve in [0, RESERVE] {
        let disk = LoopDisk::new(kind)?;
        let options = options(shape, &disk, reserve)
            .set("log.flush.interval.messages", flush)
            .set("log.segment.bytes", "1048576");
        let mut broker = Broker::start(options)?;
        let mut raw = broker.raw()?;
        for (topic, partitions) in [("load", 4), ("other", 1)] {
            raw.create_topic(topic, partitions)?;
        }
        produce(&mut raw, "other", &Bytes::from("first"))?;
        let ballast = disk.fill(reserve + 2 * MIB)?;
        let count = 40_000 * rounds_to(10);
        let acks = broker.scratch("acks");
        let mut load = producer(&broker, "load", count, &acks)?;
        wait::until("acks", LIMIT, || Ok((acked(&acks) > 0).then_some(())))?;
        until_full(&mut raw, "other")?;
        let (held, before) = (acked(&acks), broker.process()?.resident_bytes()?);
        let mut refused = 0;
        for _ in 0..100 {
            let (error, _) = produce(&mut raw, "other", &Bytes::from(vec![7; 500 << 10]))?;
            // What was taken ahead for a segment is given back when it is sealed.
            ensure!(error == 19 || error == 0, "error {error}");
            refused += usize::from(error == 19);
            raw.fetch("other", 0, 0)?;
        }
        ensure!(refused > 50, "only {refused} of 100 were refused");
        ensure!(load.alive(), "the producer ended while the disk was full");
        let after = broker.process()?.resident_bytes()?;
        ensure!(after < before + 64 * MIB, "{before} bytes, then {after}");
        let free = disk.free()?;
        ensure!(
            free + BESIDE >= reserve,
            "{free} bytes are free, {reserve} are reserved"
        );
        create(&mut raw, "admin").context("a topic on a full disk")?;
        std::fs::remove_file(ballast)?;
        let status = load.wait(Duration::from_secs(180))?;
        ensure!(status.success(), "{status}: {}", broker.log_tail());
        println!("{kind}, reserve {reserve}: {held} acked when full, {free} bytes free");
        raw.await_leaders("admin", 1)?;
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

/// Creates a topic; its partition may have no room yet.
fn create(raw: &mut Raw, topic: &str) -> Result<()> {
    let wanted = CreatableTopic::default()
        .with_name(raw::name(topic))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default()
        .with_topics(vec![wanted])
        .with_timeout_ms(30_000);
    for result in raw.call(&request, 7)?.topics {
        let (code, why) = (result.error_code, result.error_message);
        ensure!(code == 0, "error {code} {why:?}");
    }
    Ok(())
}

fn compaction_on_ext4(shape: Shape) -> Result<()> {
    compaction("ext4", shape)
}

fn compaction_on_xfs(shape: Shape) -> Result<()> {
    compaction("xfs", shape)
}

/// The sum of a metric over all shards.
fn metric(broker: &Broker, name: &str) -> Result<f64> {
    let (_, text) = get(&broker.metrics_address(), "/metrics")?;
    let values = text
        .lines()
        .filter(|l| l.split(['{', ' ']).next() == Some(name));
    let mut sum = 0.0;
    for line in values {
        sum += line
            .rsplit(' ')
            .next()
            .context("no value")?
            .parse::<f64>()?;
    }
    Ok(sum)
}

/// Value of round `round` of key `key`.
fn value(round: u64, key: u64) -> Bytes {
    let mut value = format!("{round}-{key}-").into_bytes();
    value.resize(20 << 10, b'x');
    value.into()
}

/// Compaction needs room for what it writes anew. With a reserve it finds some, and makes more: the
/// disk heals by itself. Without it waits, and nothing else does.
fn compaction(kind: &str, shape: Shape) -> Result<()> {
    if does_not_apply()? {
        return Ok(());
    }
    for reserve in [0, RESERVE] {
        let disk = LoopDisk::new(kind)?;
        let options = options(shape, &disk, reserve)
            .set("log.segment.bytes", "1048576")
            .set("log.cleanup.policy", "compact")
            .set("log.cleaner.backoff.ms", "200")
            .set("log.cleaner.min.cleanable.ratio", "0.01")
            .set("log.cleaner.min.compaction.lag.ms", "86400000")
            .set("log.cleaner.dedupe.buffer.size", "8388608")
            .set("log.segment.delete.delay.ms", "0");
        let mut broker = Broker::start(options)?;
        let mut raw = broker.raw()?;
        raw.create_topic("t", 1)?;
        for round in 0..ROUNDS {
            for key in keys_of(round) {
                let key_bytes = Bytes::from(key.to_string());
                let batch = raw::keyed_batch(&[(key_bytes, value(round, key))])?;
                raw.produce("t", &[(0, batch)])?;
            }
        }
        // What was taken ahead for segments is given back.
        broker.stop(LIMIT)?;
        broker.launch()?;
        raw = broker.raw()?;
        raw.await_leaders("t", 1)?;
        let ballast = disk.fill(reserve.saturating_sub(MIB) + (64 << 10))?;
        // From now on all of it may be compacted.
        let lag = "min.compaction.lag.ms";
        broker.tool(
            "kafka-configs",
            &[
                "--alter",
                "--entity-type",
                "topics",
                "--entity-name",
                "t",
                "--add-config",
                &format!("{lag}=0"),
            ],
        )?;
        if reserve == 0 {
            wait::until("a compaction without room", LIMIT, || {
                let failures = metric(&broker, "flumen_cleaner_failures_total")?;
                let runs = metric(&broker, "flumen_cleaner_runs_total")?;
                ensure!(failures > 0.0, "{runs} runs, {} bytes free", disk.free()?);
                Ok(Some(()))
            })?;
            ensure!(raw.fetch("t", 0, 0)?.len() > 1, "no records");
            std::fs::remove_file(&ballast)?;
        }
        wait::until("a compaction", LIMIT, || {
            let removed = metric(&broker, "flumen_cleaner_records_removed_total")?;
            Ok((removed >= (HOT_KEYS * (ROUNDS - 3)) as f64).then_some(()))
        })?;
        // Writing has resumed without anybody's help.
        let more = raw::keyed_batch(&[(Bytes::from("more"), Bytes::from("1"))])?;
        wait::until("a write", LIMIT, || {
            raw.produce("t", &[(0, more.clone())]).map(Some)
        })?;
        let full = metric(&broker, "flumen_log_dirs_full")?;
        ensure!(full == 0.0, "{full} directories are full");
        check_last(&mut raw)?;
        broker.kill();
        broker.launch()?;
        check_last(&mut broker.raw()?)?;
        let odd = [".cleaned", ".swap"];
        let names = std::fs::read_dir(disk.path().join("data/t-0"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        let left = names.iter().find(|n| odd.iter().any(|o| n.ends_with(o)));
        ensure!(left.is_none(), "{left:?} is left");
    }
    Ok(())
}

/// Keys of each round, and keys that no other round has: half of every segment stays, so that
/// compaction needs room before it makes any.
fn keys_of(round: u64) -> impl Iterator<Item = u64> {
    (0..HOT_KEYS).flat_map(move |n| [n, 1000 + round * HOT_KEYS + n])
}

/// The last value of each key is there.
fn check_last(raw: &mut Raw) -> Result<()> {
    let records = raw.read_all("t", 0)?;
    let mut last: BTreeMap<String, &Bytes> = BTreeMap::new();
    for record in &records {
        let text = String::from_utf8_lossy(&record.value);
        if let Some(key) = text.split('-').nth(1) {
            last.insert(key.to_owned(), &record.value);
        }
    }
    for round in 0..ROUNDS {
        for key in keys_of(round) {
            let newest = if key < HOT_KEYS { ROUNDS - 1 } else { round };
            let found = last.get(&key.to_string());
            ensure!(found == Some(&&value(newest, key)), "key {key}");
        }
    }
    Ok(())
}

fn metadata_on_ext4(shape: Shape) -> Result<()> {
    metadata("ext4", shape)
}

fn metadata_on_xfs(shape: Shape) -> Result<()> {
    metadata("xfs", shape)
}

fn long_value(n: usize) -> String {
    let items: Vec<String> = (0..3000).map(|k| format!("{k}:{n}")).collect();
    items.join(",")
}

/// Sets the topic's long setting to its `n`th value.
fn alter(raw: &mut Raw, n: usize) -> Result<()> {
    let config = AlterableConfig::default()
        .with_name(StrBytes::from_static_str(LONG_CONFIG))
        .with_config_operation(0)
        .with_value(Some(StrBytes::from_string(long_value(n))));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(StrBytes::from_static_str("t"))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    for one in raw.call(&request, 1)?.responses {
        let (code, why) = (one.error_code, one.error_message);
        ensure!(code == 0, "error {code} {why:?}");
    }
    Ok(())
}

fn described(raw: &mut Raw) -> Result<String> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(StrBytes::from_static_str("t"))
        .with_configuration_keys(Some(vec![StrBytes::from_static_str(LONG_CONFIG)]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let answer = raw.call(&request, 4)?;
    let configs = answer.results.into_iter().flat_map(|r| r.configs);
    let value = configs.filter_map(|c| c.value).next();
    Ok(value.context("it is not described")?.to_string())
}

/// Changes of the metadata until there is no room for them, not even what the log has taken ahead:
/// then they wait, the broker lives, and what was answered is there after a kill. A reserve has
/// room for all of them.
fn metadata(kind: &str, shape: Shape) -> Result<()> {
    const CHANGES: usize = 100;
    if does_not_apply()? {
        return Ok(());
    }
    for reserve in [0, RESERVE] {
        let disk = LoopDisk::new(kind)?;
        let mut broker = Broker::start(options(shape, &disk, reserve))?;
        let mut raw = broker.raw()?;
        raw.create_topic("t", 1)?;
        produce(&mut raw, "t", &Bytes::from("first"))?;
        let ballast = disk.fill(reserve.saturating_sub(MIB))?;
        raw.stream()
            .set_read_timeout(Some(Duration::from_secs(5)))?;
        let made = (0..CHANGES).take_while(|n| alter(&mut raw, *n).is_ok());
        let made = made.count();
        println!("{kind}, reserve {reserve}: {made} changes of 20 KB found room");
        ensure!(made > 10, "only {made} changes were made");
        ensure!((made == CHANGES) == (reserve > 0), "{made} of {CHANGES}");
        // Reads go on.
        let mut other = broker.raw()?;
        ensure!(other.fetch("t", 0, 0)?.len() == 1, "no record");
        if reserve > 0 {
            let (error, _) = produce(&mut other, "t", &Bytes::from("second"))?;
            ensure!(error == 19, "less than the reserve is free: error {error}");
        }
        ensure!(broker.process()?.alive(), "{}", broker.log_tail());
        std::fs::remove_file(ballast)?;
        let mut last = CHANGES;
        wait::until("a change", LIMIT, || {
            last += 1;
            let mut raw = broker.raw()?;
            alter(&mut raw, last).map(Some)
        })?;
        wait::until("a write", LIMIT, || {
            let (error, _) = produce(&mut other, "t", &Bytes::from("second"))?;
            Ok((error == 0).then_some(()))
        })?;
        broker.kill();
        broker.launch()?;
        let mut raw = broker.raw()?;
        raw.await_leaders("t", 1)?;
        ensure!(described(&mut raw)? == long_value(last), "a change is lost");
        ensure!(raw.read_all("t", 0)?.len() == 2);
    }
    Ok(())
}

/// XFS allocates ahead of what grows. A full segment gives that back before its seal, which comes
/// two seconds after the roll, and later where the disk is busy.
fn full_segments_keep_no_room_on_xfs(shape: Shape) -> Result<()> {
    if does_not_apply()? {
        return Ok(());
    }
    let disk = LoopDisk::new("xfs")?;
    let options = options(shape, &disk, 0).set("log.segment.bytes", "1048576");
    let broker = Broker::start(options)?;
    let mut raw = broker.raw()?;
    raw.create_topic("load", 1)?;
    let dir = disk.path().join("data/load-0");
    let value = Bytes::from(vec![7; 100 << 10]);
    let mut held = 0;
    // A machine may be too slow to see one in time.
    for _ in 0..20 {
        let rolled = segments(&dir)?.len() + 1;
        while segments(&dir)?.len() < rolled {
            held = held.max(behind_its_end(segments(&dir)?.last())?);
            let (error, _) = produce(&mut raw, "load", &value)?;
            ensure!(error == 0, "error {error}");
        }
        let full = segments(&dir)?.into_iter().nth(rolled - 2);
        let by = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < by {
            if behind_its_end(full.as_ref())? == 0 {
                ensure!(held > 0, "XFS allocated nothing ahead");
                return Ok(());
            }
            std::thread::yield_now();
        }
    }
    bail!("full segments keep what was allocated behind their ends");
}

/// The segments of a partition, the oldest first.
fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "log") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Bytes that are allocated behind the last block of a file.
fn behind_its_end(path: Option<&PathBuf>) -> Result<u64> {
    let Some(path) = path else { return Ok(0) };
    let meta = path.metadata()?;
    Ok((meta.blocks() * 512).saturating_sub(meta.len().next_multiple_of(4096)))
}
