//! What retention and DeleteRecords take away while others write it and read it: fetches under way
//! are answered whole, writes do not wait, files and descriptors go.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::{Broker, Kind, Options, Raw, Shape, raw, rounds_to, wait};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{DeleteRecordsRequest, FetchRequest, FetchResponse, ResponseHeader};
use kafka_protocol::protocol::Decodable as _;
use kafka_protocol::records::RecordBatchDecoder;

scenarios!(
    records_go_while_they_are_read_and_written,
    a_large_segment_goes_without_holding_up_writes,
);

const TOPIC: &str = "gone";
const PARTITIONS: i32 = 2;
const LIMIT: Duration = Duration::from_secs(60);
const OUT_OF_RANGE: i16 = 1;
const FETCH_VERSION: i16 = 11;
/// Bytes of a record, and of a segment with 16 of them.
const RECORD: usize = 64 << 10;
/// Fetches that a slow reader has under way: more than sockets hold.
const PIPELINED: usize = 24;

fn broker(shape: Shape, segment_bytes: &str) -> Result<Broker> {
    Broker::start(
        Options::new(shape)
            .set("log.segment.bytes", segment_bytes)
            .set("log.retention.check.interval.ms", "50")
            .set("log.initial.task.delay.ms", "50")
            .set("log.retention.ms", "-1")
            .set("log.segment.delete.delay.ms", "0"),
    )
}

/// The record that belongs at an offset.
fn value(offset: i64, len: usize) -> Bytes {
    let mut value = format!("{offset}.").into_bytes();
    value.resize(len, b'a' + (offset % 26) as u8);
    value.into()
}

/// One record after the other, each at the offset that it names.
fn write(client: &mut Raw, partition: i32, from: i64, count: i64, len: usize) -> Result<()> {
    for n in from..from + count {
        let offsets = client.produce(TOPIC, &[(partition, raw::batch(&[value(n, len)])?)])?;
        ensure!(offsets == [n], "{n} is at {offsets:?}");
    }
    Ok(())
}

fn delete_below(client: &mut Raw, partition: i32, offset: i64) -> Result<()> {
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(partition)
        .with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(raw::name(TOPIC))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000);
    let answer = client.call(&request, 2)?;
    for p in answer.topics.iter().flat_map(|t| &t.partitions) {
        ensure!(p.error_code == 0, "DeleteRecords: error {}", p.error_code);
        ensure!(p.low_watermark >= offset, "{} of {offset}", p.low_watermark);
    }
    Ok(())
}

fn fetch_request(partition: i32, offset: i64) -> FetchRequest {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(-1)
        .with_partition_max_bytes(1 << 20);
    let asked = FetchTopic::default()
        .with_topic(raw::name(TOPIC))
        .with_partitions(vec![asked]);
    FetchRequest::default()
        .with_max_wait_ms(100)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![asked])
}

/// A connection with fetches under way that nobody has read the answers of.
struct Slow {
    client: Raw,
    offset: i64,
}

impl Slow {
    fn begin(broker: &Broker, partition: i32, offset: i64) -> Result<Self> {
        use std::io::Write as _;
        let mut client = broker.raw()?;
        let request = fetch_request(partition, offset);
        for id in 0..PIPELINED {
            let frame = raw::frame(&request, FETCH_VERSION, i32::try_from(id)?)?;
            client.stream().write_all(&frame)?;
        }
        Ok(Self { client, offset })
    }

    /// Reads all answers: each has the records that were asked for, whole, or says that they are
    /// gone. Gives how many had them.
    fn end(mut self) -> Result<usize> {
        let mut whole = 0;
        for id in 0..PIPELINED {
            let mut answer = self.client.read_frame().context("an answer is cut off")?;
            let header = ResponseHeader::decode(&mut answer, 0)?;
            ensure!(header.correlation_id == i32::try_from(id)?);
            let answer = FetchResponse::decode(&mut answer, FETCH_VERSION)?;
            let mut parts = answer.responses.into_iter().flat_map(|t| t.partitions);
            let part = parts.next().context("no partition")?;
            if part.error_code == OUT_OF_RANGE {
                continue;
            }
            ensure!(part.error_code == 0, "error {}", part.error_code);
            check(part.records, self.offset)?;
            whole += 1;
        }
        Ok(whole)
    }
}

/// Records from `offset` on, without a gap, each the one that belongs there.
fn check(records: Option<Bytes>, offset: i64) -> Result<i64> {
    let mut bytes = records.context("no records")?;
    let mut next = offset;
    for record in RecordBatchDecoder::decode_all(&mut bytes)?
        .into_iter()
        .flat_map(|set| set.records)
    {
        ensure!(
            record.offset == next,
            "{} follows {}",
            record.offset,
            next - 1
        );
        let found = record.value.unwrap_or_default();
        ensure!(
            found == value(next, found.len()),
            "offset {next} holds another record"
        );
        next += 1;
    }
    ensure!(next > offset, "no records from {offset} on");
    Ok(next)
}

/// Files of the topic, those that wait to be removed included.
fn files(broker: &Broker) -> Result<Vec<PathBuf>> {
    let mut all = broker.segment_files(TOPIC, "log")?;
    all.extend(broker.segment_files(TOPIC, "deleted")?);
    Ok(all)
}

/// Descriptors of files that have no name any more.
fn nameless(broker: &mut Broker) -> Result<usize> {
    let id = broker.process()?.id();
    let mut count = 0;
    for entry in std::fs::read_dir(format!("/proc/{id}/fd"))? {
        // One that was closed meanwhile has no link.
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        let target = target.display().to_string();
        count += usize::from(target.contains("/gone-") && target.ends_with(" (deleted)"));
    }
    Ok(count)
}

/// Retention by size on one partition, DeleteRecords on the other, both under load, with slow
/// readers at the log start all the time and a quick one that follows it.
fn records_go_while_they_are_read_and_written(shape: Shape) -> Result<()> {
    let mut broker = broker(shape, "1048576")?;
    if broker.kind() == Kind::Kafka {
        return Ok(()); // it waits for a minute before it looks
    }
    let mut client = broker.raw()?;
    client.create_topic(TOPIC, PARTITIONS)?;
    let count = 16 * 16 * i64::try_from(rounds_to(20))?;
    let (done, written) = (AtomicBool::new(false), AtomicI64::new(0));
    // 4 MiB, for the partition that DeleteRecords leaves alone: the other is so large only where
    // the thread that deletes has to wait.
    broker.tool(
        "kafka-configs",
        &[
            "--alter",
            "--entity-type",
            "topics",
            "--entity-name",
            TOPIC,
            "--add-config",
            "retention.bytes=4194304",
        ],
    )?;
    let (whole, followed) = std::thread::scope(|scope| -> Result<(usize, i64)> {
        let (shared, done, written) = (&broker, &done, &written);
        let writers: Vec<_> = (0..PARTITIONS)
            .map(|partition| {
                let mut client = shared.raw()?;
                Ok(scope.spawn(move || -> Result<()> {
                    for n in 0..count {
                        write(&mut client, partition, n, 1, RECORD)?;
                        if partition == 1 {
                            written.store(n + 1, Ordering::SeqCst);
                        }
                    }
                    Ok(())
                }))
            })
            .collect::<Result<_>>()?;
        let mut deleter = shared.raw()?;
        let deletes = scope.spawn(move || -> Result<()> {
            let mut below = 0;
            loop {
                let over = done.load(Ordering::SeqCst); // then the last look is at all of it
                let to = written.load(Ordering::SeqCst) - 20;
                if to > below {
                    below = to;
                    delete_below(&mut deleter, 1, below)?;
                    let start = deleter.offset(TOPIC, 1, -2)?;
                    ensure!(start >= below, "the log starts at {start}, not at {below}");
                }
                if over {
                    return Ok(());
                }
                std::thread::yield_now();
            }
        });
        let follower = scope.spawn(move || follow(shared, done));
        let slow = scope.spawn(move || read_slowly(shared, done));
        let mut results = Vec::new();
        for writer in writers {
            let ended = writer.join();
            results.push(ended.unwrap_or_else(|_| anyhow::bail!("a writer panicked")));
        }
        done.store(true, Ordering::SeqCst);
        let ended = deletes.join();
        results.push(ended.unwrap_or_else(|_| anyhow::bail!("DeleteRecords panicked")));
        let followed = follower.join();
        let followed = followed.unwrap_or_else(|_| anyhow::bail!("a reader panicked"));
        let slow = slow.join();
        let slow = slow.unwrap_or_else(|_| anyhow::bail!("a slow reader panicked"));
        results.into_iter().collect::<Result<Vec<()>>>()?;
        Ok((slow?, followed?))
    })
    .with_context(|| broker.log_tail())?;
    println!("{whole} answers of records that were going, {followed} records read behind the end");
    // What is left is what was asked for, and nothing else is held.
    for partition in 0..PARTITIONS {
        let start = client.offset(TOPIC, partition, -2)?;
        let end = client.offset(TOPIC, partition, -1)?;
        ensure!(start > 0 && end == count, "{start} to {end}");
        // Retention may go on meanwhile. An answer from a file ends with its segment.
        let mut offsets = Vec::new();
        while offsets.last().is_none_or(|last| last + 1 < count) {
            let next = offsets.last().map_or(count - 3, |last| last + 1);
            let read = client.fetch(TOPIC, partition, next)?;
            ensure!(!read.is_empty(), "nothing at {next} of {count}");
            offsets.extend(read.iter().map(|r| r.offset));
        }
        ensure!(offsets == [count - 3, count - 2, count - 1], "{offsets:?}");
    }
    wait::until("only the last segments", LIMIT, || {
        let files = files(&broker)?;
        Ok((files.len() <= 5 + 1 + 3).then_some(()))
    })
    .with_context(|| format!("{:?}\n{}", files(&broker), broker.log_tail()))?;
    wait::until("no descriptors of what is gone", LIMIT, || {
        Ok((nameless(&mut broker)? == 0).then_some(()))
    })?;
    Ok(())
}

/// Follows the first partition's log start; what is gone is passed over. Gives how many records it
/// has read.
fn follow(broker: &Broker, done: &AtomicBool) -> Result<i64> {
    let mut client = broker.raw()?;
    let (mut next, mut count, mut starts) = (0, 0, 0);
    while !done.load(Ordering::SeqCst) {
        let answer = client.call(&fetch_request(0, next), FETCH_VERSION)?;
        let mut parts = answer.responses.into_iter().flat_map(|t| t.partitions);
        let part = parts.next().context("no partition")?;
        if part.error_code == OUT_OF_RANGE {
            // Such an answer does not say where the log starts.
            starts = client.offset(TOPIC, 0, -2)?;
            ensure!(starts > next, "{next} is there, the log starts at {starts}");
            next = starts;
            continue;
        }
        ensure!(part.error_code == 0, "error {}", part.error_code);
        ensure!(part.log_start_offset >= starts, "the log start went back");
        starts = part.log_start_offset;
        if part.records.as_ref().is_none_or(Bytes::is_empty) {
            continue;
        }
        let end = check(part.records, next)?;
        count += end - next;
        next = end;
    }
    Ok(count)
}

/// Has fetches under way at the log start, reads their answers when that is gone, and begins again.
fn read_slowly(broker: &Broker, done: &AtomicBool) -> Result<usize> {
    let mut client = broker.raw()?;
    let mut whole = 0;
    while !done.load(Ordering::SeqCst) {
        for partition in 0..PARTITIONS {
            let offset = client.offset(TOPIC, partition, -2)?;
            if client.offset(TOPIC, partition, -1)? <= offset {
                continue;
            }
            let slow = Slow::begin(broker, partition, offset)?;
            // More than a segment behind by then, unless nothing is written any more.
            while client.offset(TOPIC, partition, -2)? < offset + 32 && !done.load(Ordering::SeqCst)
            {
                std::thread::yield_now();
            }
            whole += slow.end()?;
        }
    }
    Ok(whole)
}

/// Removing a segment of a GiB (`--full`; 128 MiB else) takes the kernel long: writes to the same
/// shard go on meanwhile.
fn a_large_segment_goes_without_holding_up_writes(shape: Shape) -> Result<()> {
    /// As much as a machine of two busy CPUs needs for a few turns.
    const HELD_UP_MAX: Duration = Duration::from_millis(250);
    let segment_bytes = (128 << 20) * rounds_to(8);
    let mut broker = broker(shape, &segment_bytes.to_string())?;
    if broker.kind() == Kind::Kafka {
        return Ok(());
    }
    let mut client = broker.raw()?;
    client.create_topic(TOPIC, PARTITIONS)?;
    client.create_topic("beside", 4)?;
    // The last one is in the next segment.
    let large = i64::try_from(segment_bytes / (1000 << 10) + 1)?;
    write(&mut client, 0, 0, large, 1000 << 10)?;
    let segment = broker
        .log_dir()
        .join(format!("{TOPIC}-0/00000000000000000000.log"));
    let size = segment.metadata()?.len();
    ensure!(size > segment_bytes as u64 / 100 * 98, "{size} bytes");
    delete_below(&mut client, 0, large)?;
    // Quick requests to every shard until the file is gone, and for a while after.
    let batch = raw::batch(&[Bytes::from_static(b"beside")])?;
    let (mut took, mut gone) = (Vec::new(), None);
    let begin = Instant::now();
    while gone.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(1)) {
        ensure!(begin.elapsed() < LIMIT, "the segment stays");
        for partition in 0..4 {
            let sent = Instant::now();
            client.produce("beside", &[(partition, batch.clone())])?;
            took.push(sent.elapsed());
        }
        let left = segment.exists() || segment.with_extension("log.deleted").exists();
        if !left && gone.is_none() {
            gone = Some(Instant::now());
        }
    }
    took.sort();
    let at = |part: usize| took.get((took.len() - 1) * part / 1000).copied();
    let worst = at(1000).context("nothing was sent")?;
    println!(
        "{} MiB gone in {:?}; beside it {} produces: p50 {:?}, p99 {:?}, most {worst:?}",
        size >> 20,
        gone.map(|at| at - begin),
        took.len(),
        at(500),
        at(990),
    );
    ensure!(worst < HELD_UP_MAX, "held up for {worst:?}");
    wait::until("no descriptors of what is gone", LIMIT, || {
        Ok((nameless(&mut broker)? == 0).then_some(()))
    })?;
    Ok(())
}
