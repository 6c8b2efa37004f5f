//! Transactional producers of two families, and Kafka's copier, while the broker is killed again
//! and again: nothing is lost, nothing is there twice, and nobody reads what was aborted.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::deps::{self, java};
use flumen_it::history::{self, Fault, History, Seen, Transaction};
use flumen_it::{Broker, Program, Shape, lacks, random, raw, rounds, wait};

use super::{PACE, PATIENCE, options};

ecosystem!(copiers_through_kills, histories_through_kills);

const PARTITIONS: i32 = 4;
/// The line of a writer whose client refuses to go on.
const STUCK: &str = "stuck";
/// Kafka's programs, and those of `tests/clients/java/ecosystem`.
const PATH: &[&str] = &["kafka/driver", "programs", "kafka/libs/*"];

/// Kafka's TransactionalMessageCopier, two of one group, with aborts of its own: each partition of
/// the output is the input, record for record.
fn copiers_through_kills(shape: Shape) -> Result<()> {
    let kills = 2 * rounds();
    let mut random = random("copiers");
    let mut broker = Broker::start(options(shape))?;
    if lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    for topic in ["input", "output"] {
        broker.raw()?.create_topic(topic, PARTITIONS)?;
    }
    let mut sent = 0;
    let mut left = kills;
    while left > 0 {
        fill(&broker, &mut sent, 500)?;
        let copiers = [copier(&broker, "one")?, copier(&broker, "two")?];
        // Some of the kills while these copy, at any moment.
        let begin = outputs(&broker)?;
        for kill in 1..=left.min(4) {
            let progress = wait::every(PACE, "copied records", PATIENCE, || {
                let copied = outputs(&broker)? - begin;
                Ok((copied >= 200 * i64::try_from(kill)?).then_some(()))
            });
            progress.with_context(|| copiers.each_ref().map(Program::tail).concat())?;
            std::thread::sleep(Duration::from_micros(random(60_000)));
            broker.kill();
            broker.launch()?;
            left -= 1;
        }
        for copier in copiers {
            copier.wait(2 * PATIENCE)?.ok()?.has("ShutdownComplete")?;
        }
    }
    let mut raw = broker.raw()?;
    raw.await_stable("output", PARTITIONS, Duration::from_secs(90))?;
    let mut aborted = 0;
    for partition in 0..PARTITIONS {
        let input = raw.read_all("input", partition)?;
        let output = raw.read_committed("output", partition)?;
        let values = |records: &[raw::Read]| -> Vec<Bytes> {
            records.iter().map(|r| r.value.clone()).collect()
        };
        let (input, output) = (values(&input), values(&output));
        let differs = input.iter().zip(&output).position(|(a, b)| a != b);
        ensure!(
            input == output,
            "partition {partition}: {} in, {} out, first difference at {differs:?}",
            input.len(),
            output.len()
        );
        aborted += raw.offset("output", partition, -1)? - i64::try_from(output.len())?;
    }
    ensure!(aborted > 0, "no marker, nothing aborted");
    let what = "the same out; markers and aborted records";
    println!("{kills} kills: {} records in, {what}: {aborted}", sent * 4);
    Ok(())
}

/// The next records of the input, in every partition.
fn fill(broker: &Broker, sent: &mut usize, records: usize) -> Result<()> {
    let mut raw = broker.raw()?;
    for partition in 0..PARTITIONS {
        let values: Vec<Bytes> = (*sent..*sent + records)
            .map(|n| Bytes::from(format!("{partition}-{n}")))
            .collect();
        for chunk in values.chunks(100) {
            raw.produce("input", &[(partition, raw::batch(chunk)?)])?;
        }
    }
    *sent += records;
    Ok(())
}

fn outputs(broker: &Broker) -> Result<i64> {
    let mut raw = broker.raw()?;
    (0..PARTITIONS)
        .map(|p| raw.offset("output", p, -1))
        .sum::<Result<i64>>()
}

fn copier(broker: &Broker, name: &str) -> Result<Program> {
    let class = "org.apache.kafka.tools.TransactionalMessageCopier";
    let mut command = java(200, PATH, &[], class)?;
    command.args(["--broker-list", &broker.address()]);
    command.args(["--input-topic", "input", "--input-partition", "0"]);
    command.args(["--output-topic", "output", "--consumer-group", "copiers"]);
    command.args(["--transactional-id", name, "--transaction-size", "20"]);
    command.args(["--transaction-timeout", "30000", "--enable-random-aborts"]);
    command.args(["--group-mode", "--use-group-metadata"]);
    Program::start(&broker.scratch(""), &format!("copier-{name}"), &mut command)
}

/// Producers of librdkafka and of Java write transactions; a part of them is aborted, a part is
/// killed, a part is fenced by a second producer with its transactional id and goes on trying. Two
/// readers: librdkafka's, which follows the end all the time, and our own at the end. The checker
/// of histories must find nothing; and it must find the aborted data when it is given what a
/// reader with `read_uncommitted` sees.
fn histories_through_kills(shape: Shape) -> Result<()> {
    let kills = 2 * rounds();
    let mut random = random("histories");
    let mut broker = Broker::start(options(shape))?;
    if lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    broker.raw()?.create_topic("history", PARTITIONS)?;
    let mut reader = python(&broker, "follow", "follow", &[])?;
    let mut writers: Vec<Writer> = [
        ("rd-a", Family::Librdkafka),
        ("rd-b", Family::Librdkafka),
        ("java-a", Family::Java),
        ("java-b", Family::Java),
    ]
    .map(|(id, family)| Writer::new(id, family))
    .into();
    for writer in &mut writers {
        writer.start(&broker)?;
    }
    for kill in 1..=kills {
        let troubled = trouble(&mut broker, &mut writers, &mut random);
        troubled.with_context(|| format!("kill {kill}"))?;
    }
    let mut transactions = Vec::new();
    let mut fenced = 0;
    for mut writer in writers {
        writer.await_progress(&broker, 5)?;
        fenced += writer.end()?;
        transactions.extend(writer.transactions(&broker)?);
    }
    let mut raw = broker.raw()?;
    raw.await_stable("history", PARTITIONS, Duration::from_secs(90))?;
    let mut history = History {
        transactions,
        read: read(&broker, raw::Raw::read_committed)?,
        live: Seen::new(),
    };
    let total: usize = history.read.values().map(Vec::len).sum();
    reader.until("the end of the reader that follows", PATIENCE, |lines| {
        (lines.iter().filter(|l| l.starts_with("read ")).count() >= total).then_some(())
    })?;
    history.live = followed(&reader.finish(PATIENCE)?.out)?;
    let summary = history::check(&history)
        .map_err(|fault| anyhow::anyhow!("{fault:?}"))
        .with_context(|| broker.log_tail())?;
    ensure!(fenced > 0, "no producer was fenced");
    ensure!(
        summary.committed > 0 && summary.aborted > 0 && summary.live == total,
        "{summary:?}"
    );
    history.read = read(&broker, raw::Raw::read_uncommitted)?;
    history.live.clear();
    let fault = history::check(&history);
    ensure!(
        matches!(fault, Err(Fault::Aborted(_) | Fault::Torn(_))),
        "uncommitted reads passed: {fault:?}"
    );
    println!("{kills} kills, {fenced} fenced producers: {summary:?}");
    Ok(())
}

/// One of the producers dies, one gets a successor while it lives, and the broker is killed.
fn trouble(
    broker: &mut Broker,
    writers: &mut [Writer],
    random: &mut impl FnMut(u64) -> u64,
) -> Result<()> {
    for writer in writers.iter_mut() {
        writer.await_progress(broker, 5)?;
    }
    let one = usize::try_from(random(4))?;
    writers[one].running = None; // killed
    writers[one].start(broker)?;
    let other = (one + 1 + usize::try_from(random(3))?) % 4;
    writers[other].start(broker)?;
    std::thread::sleep(Duration::from_micros(random(200_000))); // any moment
    broker.kill();
    broker.launch()
}

/// All partitions as one kind of reader sees them.
fn read(
    broker: &Broker,
    how: fn(&mut raw::Raw, &str, i32) -> Result<Vec<raw::Read>>,
) -> Result<Seen> {
    let mut raw = broker.raw()?;
    let mut all = Seen::new();
    for partition in 0..PARTITIONS {
        let records = how(&mut raw, "history", partition)?.into_iter();
        let records = records.map(|r| Ok((r.offset, String::from_utf8(r.value.to_vec())?)));
        all.insert(partition, records.collect::<Result<_>>()?);
    }
    Ok(all)
}

/// What the reader that followed printed: `read PARTITION OFFSET VALUE`.
fn followed(text: &str) -> Result<Seen> {
    let mut seen = Seen::new();
    for line in text.lines().filter(|l| l.starts_with("read ")) {
        let mut words = line.split(' ').skip(1);
        let mut word = || words.next().with_context(|| line.to_owned());
        let place: (i32, i64) = (word()?.parse()?, word()?.parse()?);
        let records = seen.entry(place.0).or_default();
        records.push((place.1, word()?.to_owned()));
    }
    Ok(seen)
}

/// A part of `python/transactions.py`.
fn python(broker: &Broker, name: &str, what: &str, args: &[&str]) -> Result<Program> {
    let mut command = Command::new(deps::dir()?.join("venv/bin/python"));
    command.arg(deps::client_file("python/transactions.py"));
    command.arg(what).arg(broker.address()).arg("history");
    Program::start(&broker.scratch(""), name, command.args(args))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Librdkafka,
    Java,
}

/// The producers with one transactional id, one after the other or, for a while, two at once.
struct Writer {
    id: &'static str,
    family: Family,
    incarnation: u32,
    /// The newest, unless it was killed.
    running: Option<Program>,
    /// Those that have a successor and still try.
    replaced: Vec<Program>,
}

impl Writer {
    fn new(id: &'static str, family: Family) -> Self {
        Self {
            id,
            family,
            incarnation: 0,
            running: None,
            replaced: Vec::new(),
        }
    }

    /// The file of one incarnation's notes.
    fn notes(&self, broker: &Broker, incarnation: u32) -> std::path::PathBuf {
        broker.scratch(&format!("{}-{incarnation}.out", self.id))
    }

    /// Starts the next producer with this id; the one that runs is not told.
    fn start(&mut self, broker: &Broker) -> Result<()> {
        self.incarnation += 1;
        let name = format!("{}-{}", self.id, self.incarnation);
        let incarnation = self.incarnation.to_string();
        let mut program = if self.family == Family::Java {
            let mut command = java(150, PATH, &[], "TxnWriter")?;
            command.args([&broker.address(), "history", self.id, &incarnation]);
            Program::start(&broker.scratch(""), &name, &mut command)?
        } else {
            python(broker, &name, "write", &[self.id, &incarnation])?
        };
        program.until_line("ready", PATIENCE)?;
        self.replaced.extend(self.running.replace(program));
        Ok(())
    }

    /// Waits until the newest has ended this many transactions. One that its client lets go on no
    /// more gets a successor.
    fn await_progress(&mut self, broker: &Broker, transactions: usize) -> Result<()> {
        loop {
            let program = self.running.as_mut().context("no producer")?;
            let goes_on = program.until("transactions", PATIENCE, |lines| {
                let ended = ["committed ", "aborted "];
                let ended = |l: &&String| ended.iter().any(|e| l.starts_with(e));
                let enough = lines.iter().filter(ended).count() >= transactions;
                let stuck = lines.iter().any(|l| l == STUCK);
                (enough || stuck).then_some(!stuck)
            })?;
            if goes_on {
                return Ok(());
            }
            let stuck = self.running.take().context("no producer")?;
            stuck.wait(PATIENCE)?.ok()?;
            self.start(broker)?;
        }
    }

    /// Ends all of them; gives how many said that they were fenced.
    fn end(&mut self) -> Result<usize> {
        let mut fenced = 0;
        for replaced in self.replaced.drain(..) {
            // It ends by itself when it learns that it has a successor.
            let output = replaced.wait(PATIENCE)?.ok()?;
            let told = output.out.contains("fenced ");
            ensure!(told || output.out.contains(STUCK), "not fenced: {output}");
            fenced += usize::from(told);
        }
        let newest = self.running.take().context("no producer")?;
        newest.finish(PATIENCE)?;
        Ok(fenced)
    }

    fn transactions(&self, broker: &Broker) -> Result<Vec<Transaction>> {
        let mut all = Vec::new();
        for incarnation in 1..=self.incarnation {
            let text = std::fs::read_to_string(self.notes(broker, incarnation))?;
            let notes: Vec<&str> = text.split_inclusive('\n').filter(|l| is_note(l)).collect();
            all.extend(history::parse_notes(self.id, incarnation, &notes.concat())?);
        }
        Ok(all)
    }
}

/// Whether a line is one of the checker's notes.
fn is_note(line: &str) -> bool {
    line.trim() != "ready" && line.contains(' ')
}
