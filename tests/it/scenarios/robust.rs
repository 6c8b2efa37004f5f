//! Clients that misbehave, and ends of the process under load: the broker lives, its memory stays
//! bounded, others are served, and nothing that was acked is lost.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use flumen_it::{Broker, Kind, Options, Raw, Shape, raw, rounds_to, wait};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, MetadataRequest, ProduceRequest};

scenarios!(
    consumers_that_never_read_cost_little,
    a_flood_without_acks_is_bounded_and_kept,
    thousands_of_connections,
    requests_before_a_half_close_count,
    sigterm_under_load_loses_nothing,
    sigterm_ends_long_polls,
    sigkill_again_and_again,
);

const MIB: u64 = 1 << 20;

fn fetch_frame(topic: &str, wait_ms: i32, min_bytes: i32) -> Result<BytesMut> {
    let part = FetchPartition::default().with_partition_max_bytes(50 << 20);
    let wanted = FetchTopic::default()
        .with_topic(raw::name(topic))
        .with_partitions(vec![part]);
    let fetch = FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(50 << 20)
        .with_topics(vec![wanted]);
    raw::frame(&fetch, 11, 1)
}

fn produce_frame(topic: &str, acks: i16, batch: &Bytes) -> Result<BytesMut> {
    let part = PartitionProduceData::default().with_records(Some(batch.clone()));
    let data = TopicProduceData::default()
        .with_name(raw::name(topic))
        .with_partition_data(vec![part]);
    let request = ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![data]);
    raw::frame(&request, 9, 1)
}

/// Writes until the broker takes no more for a while.
fn fill(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.set_write_timeout(Some(Duration::from_millis(300)))?;
    match stream.write_all(bytes) {
        Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => Err(e.into()),
        _ => Ok(()),
    }
}

/// The best of some tries: what others on the machine do is not the subject.
fn quickest(good: &mut Raw, topic: &str) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let begin = Instant::now();
        ensure!(!good.fetch(topic, 0, 0)?.is_empty());
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

/// Answers that nobody reads: large ones, and many to tiny requests that all came at once.
fn consumers_that_never_read_cost_little(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    let mut good = broker.raw()?;
    good.create_topic("large", 1)?;
    good.create_topic("wide", 300)?;
    good.create_topic("small", 1)?;
    let megabyte = raw::batch(&[Bytes::from(vec![b'x'; 900_000])])?;
    for _ in 0..64 {
        good.produce("large", &[(0, megabyte.clone())])?;
    }
    good.produce("small", &[(0, raw::batch(&[Bytes::from_static(b"s")])?)])?;
    let before = broker.process()?.resident_bytes()?;

    let fetch = fetch_frame("large", 100, 1)?;
    let topic = MetadataRequestTopic::default().with_name(Some(raw::name("wide")));
    let metadata = MetadataRequest::default().with_topics(Some(vec![topic]));
    let metadata = raw::frame(&metadata, 12, 1)?;
    let mut stuck = Vec::new();
    for _ in 0..8 {
        for one in [&fetch, &metadata] {
            let mut client = broker.raw()?;
            fill(client.stream(), &one.repeat(20_000))?;
            stuck.push(client);
        }
    }
    // Data comes meanwhile, which the waiting answers must not pin in memory.
    for _ in 0..64 {
        good.produce("large", &[(0, megabyte.clone())])?;
    }
    let best = quickest(&mut good, "small")?;
    let after = broker.process()?.resident_bytes()?;
    println!("{} -> {} MiB, others {best:?}", before / MIB, after / MIB);
    if broker.kind() == Kind::Flumen {
        ensure!(after < before + 96 * MIB, "{before} -> {after}");
        ensure!(best < Duration::from_millis(200), "{best:?}");
    }
    Ok(())
}

/// acks=0 as fast as the socket takes it: memory stays bounded, and every record is kept.
fn a_flood_without_acks_is_bounded_and_kept(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    let mut good = broker.raw()?;
    good.create_topic("flood", 1)?;
    let batch = raw::batch(&[Bytes::from(vec![b'x'; 100_000])])?;
    let frame = produce_frame("flood", 0, &batch)?;
    let before = broker.process()?.resident_bytes()?;
    let count = 4_000;
    let mut flood = broker.raw()?;
    let mut peak = 0;
    for n in 0..count {
        flood.stream().write_all(&frame)?;
        if n % 200 == 0 {
            peak = peak.max(broker.process()?.resident_bytes()?);
        }
    }
    flood.produce("flood", &[(0, batch)])?; // behind them on the same connection
    let end = good.offset("flood", 0, -1)?;
    println!("{} -> {} MiB", before / MIB, peak / MIB);
    ensure!(end == i64::from(count) + 1, "{end} records");
    ensure!(broker.kind() == Kind::Kafka || peak < before + 256 * MIB);
    Ok(())
}

/// Thousands of clients that connect, ask once and stay.
fn thousands_of_connections(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    let before = broker.process()?.resident_bytes()?;
    let mut all = Vec::new();
    for n in 0..4_000 {
        let mut one = broker.raw().with_context(|| format!("connection {n}"))?;
        if n % 10 == 0 {
            ensure!(one.brokers()? == 1);
        }
        all.push(one);
    }
    for one in all.iter_mut().step_by(97) {
        ensure!(one.brokers()? == 1);
    }
    let after = broker.process()?.resident_bytes()?;
    println!("{} -> {} MiB", before / MIB, after / MIB);
    ensure!(broker.kind() == Kind::Kafka || after < before + 64 * MIB);
    drop(all);
    ensure!(broker.raw()?.brokers()? == 1);
    Ok(())
}

/// What came whole before the end of the stream is carried out, whether or not it is answered.
fn requests_before_a_half_close_count(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    let mut good = broker.raw()?;
    good.create_topic("half", 1)?;
    let batch = raw::batch(&[Bytes::from_static(b"last words")])?;
    for acks in [0, 1, -1] {
        let mut client = broker.raw()?;
        let mut bytes = produce_frame("half", acks, &batch)?;
        bytes.extend_from_slice(&[0, 0, 1, 0, 0]); // and the beginning of another
        client.stream().write_all(&bytes)?;
        client.stream().shutdown(Shutdown::Write)?;
        // The broker closes its side as well.
        let mut rest = Vec::new();
        let ended = client.stream().read_to_end(&mut rest);
        let reset = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
        ensure!(
            ended.is_ok() || ended.as_ref().is_err_and(reset),
            "{ended:?}"
        );
    }
    wait::until("all three records", Duration::from_secs(10), || {
        Ok((good.offset("half", 0, -1)? == 3).then_some(()))
    })
}

/// Values acked with their offsets, by producers that go on until the broker is gone.
type Acked = Mutex<Vec<(i32, i64, String)>>;

/// Produces to a partition with acks=all until the connection breaks.
fn produce_until_gone(address: &str, partition: i32, round: usize, stop: &AtomicBool, to: &Acked) {
    let Some(Ok(mut client)) = address.parse().ok().map(Raw::connect) else {
        return;
    };
    for n in 0.. {
        let value = format!("{round}-{partition}-{n}");
        let Ok(batch) = raw::batch(&[Bytes::from(value.clone())]) else {
            return;
        };
        match client.produce("load", &[(partition, batch)]) {
            Ok(offsets) => {
                let offset = offsets.first().copied().unwrap_or(-1);
                if let Ok(mut to) = to.lock() {
                    to.push((partition, offset, value));
                }
            }
            Err(_) => return,
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Runs producers until `enough` more acks came, then `end`s the broker under them.
fn end_under_load(
    broker: &mut Broker,
    acked: &Acked,
    round: usize,
    enough: usize,
    end: impl FnOnce(&mut Broker) -> Result<()>,
) -> Result<()> {
    let address = broker.address();
    let stop = AtomicBool::new(false);
    let count = || acked.lock().map_or(0, |a| a.len());
    let before = count();
    std::thread::scope(|scope| {
        for partition in 0..4 {
            let (address, stop) = (&address, &stop);
            scope.spawn(move || produce_until_gone(address, partition, round, stop, acked));
        }
        let reached = wait::until("acks under load", Duration::from_secs(60), || {
            Ok((count() >= before + enough).then_some(()))
        });
        let ended = reached.and_then(|()| end(broker));
        stop.store(true, Ordering::Relaxed);
        ended
    })
}

fn check_acked(broker: &Broker, acked: &Acked) -> Result<usize> {
    let mut reader = broker.raw()?;
    reader.await_leaders("load", 4)?;
    let mut logs = Vec::new();
    for partition in 0..4 {
        let records = reader.read_all("load", partition)?;
        let values: std::collections::BTreeMap<i64, Bytes> =
            records.into_iter().map(|r| (r.offset, r.value)).collect();
        logs.push(values);
    }
    let acked = acked
        .lock()
        .map_err(|_| anyhow::anyhow!("a producer panicked"))?;
    for (partition, offset, value) in acked.iter() {
        let log = logs.get(usize::try_from(*partition)?).context("a log")?;
        let found = log.get(offset);
        ensure!(
            found.is_some_and(|v| v[..] == *value.as_bytes()),
            "acked {value} at {partition}:{offset}, but there is {found:?}"
        );
    }
    Ok(acked.len())
}

/// SIGTERM while producers write: exit code 0 in 5 s, the clean-shutdown marker, no acked record
/// lost.
fn sigterm_under_load_loses_nothing(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    broker.raw()?.create_topic("load", 4)?;
    let acked = Acked::default();
    let limit = if broker.kind() == Kind::Kafka { 60 } else { 5 };
    for round in 0..3 * rounds_to(10) {
        let end = |broker: &mut Broker| {
            let took = broker.stop(Duration::from_secs(limit))?;
            println!("SIGTERM to exit: {took:?}");
            Ok(())
        };
        end_under_load(&mut broker, &acked, round, 300, end)?;
        ensure!(
            broker.log_dir().join(".kafka_cleanshutdown").exists(),
            "round {round}: no marker of a clean shutdown\n{}",
            broker.log_tail()
        );
        broker.launch()?;
        check_acked(&broker, &acked)?;
    }
    println!("{} acked records", check_acked(&broker, &acked)?);
    Ok(())
}

/// Long polls do not hold up the end.
fn sigterm_ends_long_polls(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    let mut good = broker.raw()?;
    good.create_topic("quiet", 1)?;
    let fetch = fetch_frame("quiet", 60_000, 1)?;
    let mut polls = Vec::new();
    for _ in 0..100 {
        let mut client = broker.raw()?;
        client.stream().write_all(&fetch)?;
        polls.push(client);
    }
    ensure!(good.brokers()? == 1);
    let limit = if broker.kind() == Kind::Kafka { 60 } else { 5 };
    let took = broker.stop(Duration::from_secs(limit))?;
    println!("SIGTERM to exit with 100 long polls: {took:?}");
    ensure!(broker.log_dir().join(".kafka_cleanshutdown").exists());
    for mut poll in polls {
        let mut byte = [0; 1];
        poll.stream()
            .set_read_timeout(Some(Duration::from_secs(5)))?;
        let _ = poll.stream().read(&mut byte); // answered or closed, but not silent
    }
    broker.launch()
}

/// SIGKILL under load, restart at once on the same port, again and again.
fn sigkill_again_and_again(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    broker.raw()?.create_topic("load", 4)?;
    let acked = Acked::default();
    let mut slowest = Duration::ZERO;
    for round in 0..10 * rounds_to(10) {
        let end = |broker: &mut Broker| {
            broker.kill();
            Ok(())
        };
        end_under_load(&mut broker, &acked, round, 100, end)?;
        broker.launch()?;
        slowest = slowest.max(broker.start_time);
        check_acked(&broker, &acked)?;
    }
    let records = check_acked(&broker, &acked)?;
    println!("{records} acked records, slowest restart {slowest:?}");
    Ok(())
}
