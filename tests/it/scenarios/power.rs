//! Power loss: the disk under the log is cut at any moment, and forgets what was not flushed to it.
//! With `flush.messages=1` an ack promises the disk, so that each acked record is there afterwards.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::cut_disk::{Cut, CutDisk, missing, new_image};
use flumen_it::loop_disk::not_run;
use flumen_it::{Broker, Kind, Options, Raw, Shape, random, raw, rounds_to, wait};

scenarios!(
    power_loss_on_ext4,
    power_loss_on_xfs,
    power_loss_takes_what_no_ack_promised
);

const TOPIC: &str = "power";
const PARTITIONS: i32 = 4;
/// Cuts that one file system lives through before a new one takes its place.
const CUTS_PER_IMAGE: usize = 10;

fn power_loss_on_ext4(shape: Shape) -> Result<()> {
    lose_power("ext4", shape)
}

fn power_loss_on_xfs(shape: Shape) -> Result<()> {
    lose_power("xfs", shape)
}

/// The same cut with acks that do not promise the disk: were nothing lost then, the cut would not
/// be one.
fn power_loss_takes_what_no_ack_promised(shape: Shape) -> Result<()> {
    if Kind::chosen() == Kind::Kafka || cannot_cut()? {
        return Ok(());
    }
    let mut random = random("power loss without promise");
    let dir = tempfile::Builder::new()
        .prefix("flumen-it-power-")
        .tempdir()?;
    let mut life = Life::new(shape, dir.path(), "9223372036854775807");
    let image = new_image("ext4", dir.path())?;
    let (image, ..) = life.one_cut(image, dir.path(), 0, &mut random)?;
    let disk = CutDisk::mount(image, dir.path())?;
    let mut broker = life.start()?;
    let lost = life.check(&broker);
    broker.kill();
    drop(disk);
    let why = lost.err().context("nothing was lost")?;
    ensure!(why.to_string().contains("acked record"), "{why:#}");
    println!("without syncs, {} acked batches: {why}", life.acked());
    Ok(())
}

/// Whether this machine cannot cut a disk, which is said loudly.
fn cannot_cut() -> Result<bool> {
    not_run("power loss", missing())
}

/// What one producer of one partition knows.
#[derive(Debug, Default)]
struct Sent {
    /// Number of the next record.
    next: u64,
    /// Base offset and values of each batch that was acked.
    acked: Vec<(i64, Vec<Bytes>)>,
}

/// One file system's life: cuts, and restarts on what they left.
struct Life {
    options: Options,
    sent: Vec<Mutex<Sent>>,
    /// Acked batches of each partition before the last cut.
    required: Vec<usize>,
}

fn lose_power(kind: &str, shape: Shape) -> Result<()> {
    if Kind::chosen() == Kind::Kafka {
        println!("Apache Kafka's own restart after a power loss is not what is tested here");
        return Ok(());
    }
    if cannot_cut()? {
        return Ok(());
    }
    let (count, mut random) = (rounds_to(25), random("power loss"));
    let dir = tempfile::Builder::new()
        .prefix("flumen-it-power-")
        .tempdir()?;
    let (mut acked, mut total, mut slowest) = (0, (0, 0, 0), Duration::ZERO);
    let mut left = count;
    while left > 0 {
        let cuts = left.min(CUTS_PER_IMAGE);
        left -= cuts;
        let mut image = new_image(kind, dir.path())?;
        let mut life = Life::new(shape, dir.path(), "1");
        for round in 0..cuts {
            let ready = life.one_cut(image, dir.path(), round, &mut random)?;
            let (next, cut, start_time) = ready;
            image = next;
            total.0 += cut.unflushed;
            total.1 += cut.lost;
            total.2 += cut.flushes;
            slowest = slowest.max(start_time);
        }
        // What the last cut left is looked at as well.
        let disk = CutDisk::mount(image, dir.path())?;
        let mut broker = life.start()?;
        life.check(&broker)?;
        broker.kill();
        drop(disk);
        acked += life.acked();
    }
    println!(
        "{kind}: {count} cuts, {acked} acked batches, none lost; {} writes were not flushed, {} of \
         them lost; {} flushes; slowest start {slowest:?}",
        total.0, total.1, total.2
    );
    Ok(())
}

impl Life {
    fn new(shape: Shape, dir: &Path, flush_messages: &str) -> Self {
        Self {
            options: Options::new(shape)
                .set("log.flush.interval.messages", flush_messages)
                .set("log.segment.bytes", "1048576")
                .set("log.dirs", &dir.join("mnt/data").display().to_string()),
            sent: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            required: vec![0; PARTITIONS as usize],
        }
    }

    fn start(&self) -> Result<Broker> {
        Broker::start(self.options.clone())
    }

    fn acked(&self) -> usize {
        self.required.iter().sum()
    }

    /// Starts on what is there, checks it, produces, and cuts the power at a random moment. Gives
    /// what the disk holds then.
    fn one_cut(
        &mut self,
        image: Vec<u8>,
        dir: &Path,
        round: usize,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Result<(Vec<u8>, Cut, Duration)> {
        let disk = CutDisk::mount(image, dir)?;
        let mut broker = self.start()?;
        if round == 0 {
            let mut raw = broker.raw()?;
            raw.create_topic(TOPIC, PARTITIONS)?;
            raw.await_leaders(TOPIC, PARTITIONS)?;
        }
        self.check(&broker)
            .with_context(|| format!("after cut {round}"))?;
        let before = self.acked();
        let pause = Duration::from_millis(random(300));
        let sent = &self.sent;
        let required = std::thread::scope(|scope| -> Result<Vec<usize>> {
            let mut producers = Vec::new();
            for (partition, sent) in (0i32..).zip(sent) {
                let connection = broker.raw()?;
                producers.push(scope.spawn(move || produce(connection, partition, sent)));
            }
            let lens = || -> Vec<usize> { sent.iter().map(|s| lock(s).acked.len()).collect() };
            let acked = wait::until("acks", Duration::from_secs(30), || {
                Ok((lens().iter().sum::<usize>() > before + 20).then_some(()))
            });
            std::thread::sleep(pause); // the moment of the cut is random
            // In this order: what is acked after the first line need not be there.
            let required = lens();
            disk.cut();
            broker.kill();
            for producer in producers {
                ensure!(producer.join().is_ok(), "a producer panicked");
            }
            acked.map(|()| required)
        });
        self.required = required.with_context(|| broker.log_tail())?;
        for (sent, required) in self.sent.iter().zip(&self.required) {
            lock(sent).acked.truncate(*required);
        }
        let start_time = broker.start_time;
        drop(broker);
        let (image, cut) = disk.image(random)?;
        Ok((image, cut, start_time))
    }

    /// Each acked record is where its ack said; nothing is there twice, out of order, or unsent.
    fn check(&self, broker: &Broker) -> Result<()> {
        let mut reader = broker.raw()?;
        for (partition, sent) in (0i32..).zip(&self.sent) {
            let sent = lock(sent);
            let records = reader.read_all(TOPIC, partition)?;
            let mut previous = None;
            for record in &records {
                let number: u64 = std::str::from_utf8(&record.value)?
                    .split('.')
                    .next()
                    .context("no number")?
                    .parse()?;
                ensure!(
                    previous.is_none_or(|p| number > p) && number < sent.next,
                    "partition {partition}: {number} follows {previous:?} at {}",
                    record.offset
                );
                previous = Some(number);
            }
            for (base, values) in &sent.acked {
                for (offset, value) in (*base..).zip(values) {
                    let at = usize::try_from(offset)?;
                    let there = records.get(at).filter(|r| r.offset == offset);
                    let there = there.map(|r| &r.value);
                    ensure!(
                        there == Some(value),
                        "partition {partition}: acked record {value:?} is not at {offset} of {}",
                        records.len()
                    );
                }
            }
        }
        Ok(())
    }
}

fn lock(sent: &Mutex<Sent>) -> std::sync::MutexGuard<'_, Sent> {
    sent.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Sends one batch after the other until the broker is gone; batches grow from a few bytes to some
/// that a write of the disk does not take at once.
fn produce(mut connection: Raw, partition: i32, sent: &Mutex<Sent>) {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let first = {
            let mut sent = lock(sent);
            let first = sent.next;
            sent.next += 1 + first % 5;
            first
        };
        let padding = "x".repeat((first * first % 1500) as usize);
        let values: Vec<Bytes> = (first..=first + first % 5)
            .map(|n| Bytes::from(format!("{n}.{padding}")))
            .collect();
        let offsets =
            raw::batch(&values).and_then(|batch| connection.produce(TOPIC, &[(partition, batch)]));
        match offsets.as_deref() {
            Ok([base]) => lock(sent).acked.push((*base, values)),
            _ => return,
        }
    }
}
