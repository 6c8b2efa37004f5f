//! Files: damaged ones, many of them with few descriptors, and, asked for by name, ten thousand
//! partitions and a restart with gigabytes to look through.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::{Broker, Kind, Options, Raw, Shape, raw, wait};
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::protocol::StrBytes;

scenarios!(
    a_damaged_partition_is_refused_alone,
    more_partitions_than_descriptors,
    preallocated_segments,
);

/// The records here are years old.
const KEEP: [(&str, &str); 1] = [("retention.ms", "-1")];

fn values(n: usize, len: usize) -> Vec<Bytes> {
    (0..n).map(|i| Bytes::from(format!("{i:0>len$}"))).collect()
}

/// After a clean stop one log is cut, one index is garbage and a checkpoint too: the partition that
/// lost records is refused, with a message that says where and what to do; all else serves; the
/// loss can be accepted.
fn a_damaged_partition_is_refused_alone(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    if broker.kind() == Kind::Kafka {
        return Ok(()); // it would go on without the records
    }
    let mut client = broker.raw()?;
    client.create_topic("hurt", 3)?;
    let batch = raw::batch(&values(10, 1000))?;
    for _ in 0..5 {
        let all: Vec<_> = (0..3).map(|p| (p, batch.clone())).collect();
        client.produce("hurt", &all)?;
    }
    broker.stop(Duration::from_secs(10))?;
    let file = |name: &str| broker.log_dir().join(name);
    let log = file("hurt-0/00000000000000000000.log");
    let opened = OpenOptions::new().write(true).open(&log)?;
    opened.set_len(opened.metadata()?.len() - 100)?;
    std::fs::write(file("hurt-1/00000000000000000000.index"), [0xff; 77])?;
    std::fs::write(file("log-start-offset-checkpoint"), "garbage")?;
    broker.launch()?;
    let mut client = broker.raw()?;
    let refused = client.offset("hurt", 0, -1);
    let text = format!("{:#}", refused.err().context("it serves")?);
    ensure!(text.contains("error 56"), "{text}");
    for partition in [1, 2] {
        ensure!(client.read_all("hurt", partition)?.len() == 50);
    }
    let told = broker.log_tail();
    let place = log.display().to_string();
    ensure!(
        told.contains(&place) && told.contains("flumen-accept-loss"),
        "{told}"
    );
    ensure!(
        told.contains("offset 40"),
        "the first that would be lost: {told}"
    );

    broker.stop(Duration::from_secs(10))?;
    std::fs::write(log.with_file_name("flumen-accept-loss"), "")?;
    broker.launch()?;
    let mut client = broker.raw()?;
    ensure!(client.read_all("hurt", 0)?.len() == 40);
    ensure!(client.produce("hurt", &[(0, batch)])? == [40]);
    Ok(())
}

/// Descriptors of the broker.
fn descriptors(broker: &mut Broker) -> Result<usize> {
    let id = broker.process()?.id();
    Ok(std::fs::read_dir(format!("/proc/{id}/fd"))?.count())
}

/// With fewer descriptors than it has partitions, every partition takes records and
/// gives them back, before and after a kill.
fn more_partitions_than_descriptors(shape: Shape) -> Result<()> {
    const PARTITIONS: i32 = 900;
    const FILES: u32 = 600;
    let mut broker = Broker::start(Options::new(shape).files_max(FILES))?;
    if broker.kind() == Kind::Kafka {
        return Ok(()); // it ends with "Too many open files"
    }
    let mut client = broker.raw()?;
    create(&mut client, "many", PARTITIONS, &KEEP)?;
    client.await_leaders("many", PARTITIONS)?;
    let batch = raw::batch(&values(3, 700))?;
    let all: Vec<i32> = (0..PARTITIONS).collect();
    for round in 0..2 {
        for some in all.chunks(100) {
            let batches: Vec<_> = some.iter().map(|p| (*p, batch.clone())).collect();
            let offsets = client.produce("many", &batches)?;
            ensure!(offsets.iter().all(|o| *o == round * 3), "{offsets:?}");
        }
        let open = descriptors(&mut broker)?;
        println!("{open} descriptors after round {round}");
        ensure!(open < FILES as usize, "{open} descriptors");
    }
    broker.kill();
    broker.launch()?;
    let mut client = broker.raw()?;
    client.await_leaders("many", PARTITIONS)?;
    for partition in all {
        let records = client.read_all("many", partition)?;
        ensure!(
            records.len() == 6,
            "partition {partition}: {}",
            records.len()
        );
    }
    let open = descriptors(&mut broker)?;
    println!("{open} descriptors after reading all");
    ensure!(open < FILES as usize, "{open} descriptors");
    Ok(())
}

/// `preallocate`: the first record brings the blocks of the whole segment, the file's length stays
/// that of its records; a rolled segment gives back what it does not need.
fn preallocated_segments(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    let kind = std::process::Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(broker.log_dir())
        .output()?;
    let kind = String::from_utf8(kind.stdout)?;
    if broker.kind() == Kind::Kafka || kind.trim() == "tmpfs" {
        println!("nothing is allocated on {kind}");
        return Ok(());
    }
    const SEGMENT: u64 = 4 << 20;
    let segment = SEGMENT.to_string();
    let configs = [
        KEEP[0],
        ("preallocate", "true"),
        ("segment.bytes", &segment),
    ];
    let mut client = broker.raw()?;
    create(&mut client, "ahead", 1, &configs)?;
    client.await_leaders("ahead", 1)?;
    let batch = raw::batch(&values(10, 1000))?;
    client.produce("ahead", &[(0, batch.clone())])?;
    let file = broker.log_dir().join("ahead-0/00000000000000000000.log");
    let blocks = |file: &std::path::Path| -> Result<u64> { Ok(file.metadata()?.blocks() * 512) };
    wait::until("the segment's blocks", Duration::from_secs(10), || {
        Ok((blocks(&file)? >= SEGMENT).then_some(()))
    })?;
    ensure!(file.metadata()?.len() == batch.len() as u64);
    let count = SEGMENT / batch.len() as u64 + 1;
    for _ in 0..count {
        client.produce("ahead", &[(0, batch.clone())])?;
    }
    broker.stop(Duration::from_secs(10))?;
    let last = broker.segment_files("ahead", "log")?;
    let last = last.last().context("no segment")?;
    ensure!(*last != file, "it rolled");
    let left = blocks(last)?;
    ensure!(
        left < SEGMENT / 2,
        "{left} bytes allocated after a clean stop"
    );
    Ok(())
}

fn number(name: &str, default: usize) -> Result<usize> {
    Ok(std::env::var(name).map_or(Ok(default), |n| n.parse())?)
}

fn create(client: &mut Raw, topic: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
    let config = |(name, value): &(&str, &str)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string((*name).to_owned()))
            .with_value(Some(StrBytes::from_string((*value).to_owned())))
    };
    let topic = CreatableTopic::default()
        .with_name(raw::name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(60_000);
    let answer = client.call(&request, 5)?;
    let error = answer.topics.first().context("nothing")?.error_code;
    ensure!(error == 0, "error {error}");
    Ok(())
}

/// Latencies of a record to each partition, sorted.
fn round(client: &mut Raw, partitions: i32, batch: &Bytes) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for partition in 0..partitions {
        let begin = Instant::now();
        client.produce("wide", &[(partition, batch.clone())])?;
        took.push(begin.elapsed());
    }
    took.sort();
    Ok(took)
}

fn print(what: &str, took: &[Duration]) {
    let at = |share: usize| took.get((took.len() * share / 1000).min(took.len() - 1));
    println!(
        "{what}: p50 {:?} p99 {:?} max {:?}",
        at(500),
        at(990),
        took.last()
    );
}

/// FLUMEN_IT_PARTITIONS (9,990: one operation makes at most 10,000 metadata records, in Kafka
/// too) partitions on one node under nofile 20,000: start times, memory,
/// descriptors, and produce latencies while nothing rolls and while every append rolls a segment.
#[test]
#[ignore = "takes minutes: cargo test -p flumen-it ten_thousand -- --ignored --nocapture"]
fn ten_thousand_partitions() -> Result<()> {
    let partitions = i32::try_from(number("FLUMEN_IT_PARTITIONS", 9_990)?)?;
    let mut broker = Broker::start(Options::new(Shape::Dev).files_max(20_000))?;
    let mut client = broker.raw()?;
    let begin = Instant::now();
    create(
        &mut client,
        "wide",
        partitions,
        &[KEEP[0], ("segment.ms", "1000")],
    )?;
    client.await_leaders("wide", partitions)?;
    println!("created in {:?}", begin.elapsed());
    let batch = raw::batch(&values(1, 1000))?;
    print(
        "first record of each",
        &round(&mut client, partitions, &batch)?,
    );
    print("nothing rolls", &round(&mut client, partitions, &batch)?);
    let rolling = raw::batch_at(&values(1, 1000), raw::time_ms() + 10_000)?;
    print("all roll", &round(&mut client, partitions, &rolling)?);
    let memory = broker.process()?.resident_bytes()? >> 20;
    println!(
        "{memory} MiB resident, {} descriptors",
        descriptors(&mut broker)?
    );
    for clean in [true, false] {
        match clean {
            true => println!("stopped in {:?}", broker.stop(Duration::from_secs(60))?),
            false => broker.kill(),
        }
        broker.launch()?;
        let mut client = broker.raw()?;
        let begin = Instant::now();
        wait::until("all partitions", Duration::from_secs(120), || {
            Ok(client.offset("wide", partitions - 1, -1).ok())
        })?;
        let took = begin.elapsed();
        let memory = broker.process()?.resident_bytes()? >> 20;
        let open = descriptors(&mut broker)?;
        println!(
            "start after {}: first answer {:?}, the last partition {:?} later, {memory} MiB, {} \
             descriptors",
            if clean { "SIGTERM" } else { "SIGKILL" },
            broker.start_time,
            took,
            open
        );
    }
    Ok(())
}

/// FLUMEN_IT_GIB (10) of data, then SIGKILL: how long until the broker answers, until a small
/// partition serves, and until all do.
#[test]
#[ignore = "writes gigabytes: cargo test -p flumen-it gigabytes -- --ignored --nocapture"]
fn restart_with_gigabytes() -> Result<()> {
    let gib = number("FLUMEN_IT_GIB", 10)?;
    let mut broker = Broker::start(Options::new(Shape::Dev))?;
    let mut client = broker.raw()?;
    create(
        &mut client,
        "large",
        8,
        &[KEEP[0], ("segment.bytes", "2000000000")],
    )?;
    create(&mut client, "small", 1, &KEEP)?;
    client.await_leaders("large", 8)?;
    let batch = raw::batch(&values(128, 8000))?;
    let begin = Instant::now();
    for n in 0..gib * 1024 {
        let partition = i32::try_from(n % 8)?;
        client.produce("large", &[(partition, batch.clone())])?;
    }
    client.produce("small", &[(0, batch)])?;
    println!("{gib} GiB written in {:?}", begin.elapsed());
    broker.kill();
    broker.launch()?;
    let begin = Instant::now();
    let mut client = broker.raw()?;
    wait::until("the small partition", Duration::from_secs(60), || {
        Ok(client.offset("small", 0, -1).ok())
    })?;
    let small = begin.elapsed();
    for partition in 0..8 {
        let end = wait::until("a large partition", Duration::from_secs(600), || {
            Ok(client.offset("large", partition, -1).ok())
        })?;
        ensure!(
            usize::try_from(end)? == gib * 1024 / 8 * 128,
            "{partition}: {end}"
        );
    }
    let memory = broker.process()?.resident_bytes()? >> 20;
    println!(
        "first answer {:?}, small partition {small:?} later, all {:?} later; {memory} MiB resident",
        broker.start_time,
        begin.elapsed()
    );
    Ok(())
}
