//! Kafka Streams: Kafka's own smoke test with its verification while the broker is killed, and a
//! word count whose state comes back from its changelog, on both rebalance protocols.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::deps::java;
use flumen_it::{Broker, Program, Shape, lacks, random, raw, wait};

use super::{PACE, PATIENCE, count, options};

ecosystem!(
    smoke_test_at_least_once,
    smoke_test_exactly_once,
    word_count_restores_its_state,
    word_count_exactly_once,
    word_count_on_the_streams_protocol,
);

const PATH: &[&str] = &["kafka/driver", "programs", "streams/*", "kafka/libs/*"];
const PARTITIONS: i32 = 4;

fn smoke_test_at_least_once(shape: Shape) -> Result<()> {
    smoke_test(shape, "at_least_once")
}

fn smoke_test_exactly_once(shape: Shape) -> Result<()> {
    smoke_test(shape, "exactly_once_v2")
}

/// Runs the driver (it makes the data and verifies every result) and instances of the application,
/// kills the broker, moves the state from one instance to another. With transactions an instance is
/// killed as well; without them a killed one may handle records twice, which is no fault.
fn smoke_test(shape: Shape, guarantee: &str) -> Result<()> {
    let exactly = guarantee != "at_least_once";
    let mut random = random("smoke test");
    let mut broker = Broker::start(options(shape))?;
    if exactly && lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    let (keys, per_key, seconds) = (10, count(100, 1000), count(8, 120));
    let smoke = |broker: &Broker, command: &str| -> Result<Program> {
        let class = "org.apache.kafka.streams.tests.Smoke";
        let mut program = java(300, PATH, &[], class)?;
        program.arg(command).arg(broker.address());
        program.args([keys, per_key, seconds].map(|n| n.to_string()));
        program.arg(exactly.to_string());
        Program::start(&broker.scratch(""), command, &mut program)
    };
    smoke(&broker, "create")?.finish(PATIENCE)?;
    let mut first = Some(application(&broker, "first", guarantee)?);
    let mut driver = smoke(&broker, "drive")?;
    let mut second = None;
    let kills = count(2, 20);
    for kill in 1..=kills {
        // Somewhere in each part of the time that the data takes.
        let produced = 10 * per_key * (kill - 1) / kills + 1;
        driver.until("records", PATIENCE, |lines| {
            let progress = lines.iter().filter(|l| l.contains("records produced"));
            (progress.count() * 100 >= produced).then_some(())
        })?;
        std::thread::sleep(std::time::Duration::from_millis(random(500))); // any moment
        broker.kill();
        broker
            .launch()
            .with_context(|| format!("after kill {kill}"))?;
        if kill == kills.div_ceil(2) {
            second = Some(application(&broker, "second", guarantee)?);
            if let Some(mut gone) = first.take() {
                if exactly {
                    gone.kill();
                } else {
                    // It deletes its folder as it ends, which a rebalance would trip over.
                    gone.until("a rebalance's end", PATIENCE, |lines| {
                        let last = lines.iter().rfind(|l| l.contains(" -> "))?;
                        last.ends_with("-> RUNNING").then_some(())
                    })?;
                    gone.stop(PATIENCE)?.has("SMOKE-TEST-CLIENT-CLOSED")?;
                }
            }
        }
    }
    let verified = driver
        .wait(4 * PATIENCE)?
        .ok()?
        .has("ALL-RECORDS-DELIVERED")?;
    // With transactions its verification begins with none being left open.
    let verified = verified.has("SMOKE verified")?;
    if exactly {
        let more = verified.out.contains("PROCESSED-MORE-THAN-GENERATED");
        ensure!(!more, "{verified}");
    }
    for left in first.into_iter().chain(second) {
        left.stop(PATIENCE)?.has("SMOKE-TEST-CLIENT-CLOSED")?;
    }
    println!(
        "{guarantee}: {} records, {kills} kills, verified",
        keys * per_key
    );
    Ok(())
}

/// One instance of the smoke test's application.
fn application(broker: &Broker, name: &str, guarantee: &str) -> Result<Program> {
    let file = broker.scratch(&format!("{name}.properties"));
    let temporary = broker.scratch(&format!("{name}-state"));
    std::fs::create_dir_all(&temporary)?;
    let mut text = format!("bootstrap.servers={}\n", broker.address());
    let _ = write!(
        text,
        "processing.guarantee={guarantee}\nreplication.factor=1\ncommit.interval.ms=200\n\
         num.stream.threads=2\nmain.consumer.session.timeout.ms=6000\n\
         main.consumer.heartbeat.interval.ms=500\nproducer.delivery.timeout.ms=120000\n\
         consumer.metadata.max.age.ms=2000\nreconnect.backoff.max.ms=200\n"
    );
    std::fs::write(&file, text)?;
    let temporary = format!("-Djava.io.tmpdir={}", temporary.display());
    let class = "org.apache.kafka.streams.tests.StreamsSmokeTest";
    let mut program = java(400, PATH, &[&temporary], class)?;
    program.arg(&file).arg("process");
    let mut started = Program::start(&broker.scratch(""), name, &mut program)?;
    started.until_line("SMOKE-TEST-CLIENT-STARTED", PATIENCE)?;
    Ok(started)
}

fn word_count_restores_its_state(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    let instance = |name| Instance::new(name, "classic", "at_least_once");
    restored(&mut broker, &[instance("one")])
}

/// The application is killed in the middle of its work: each word counts once all the same.
fn word_count_exactly_once(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    if lacks(&broker, "transaction.version")? {
        return Ok(());
    }
    let one = Instance::new("one", "classic", "exactly_once_v2");
    let mut words = Words::create(&broker)?;
    for _ in 0..count(3, 50) {
        let mut application = one.start(&broker)?;
        words.send(&broker, 500)?;
        // Each tells of every hundredth line: somewhere in the middle.
        application.until("some lines", PATIENCE, |lines| {
            let told = lines.iter().filter(|l| l.starts_with("COUNTED")).count();
            (told >= 2).then_some(())
        })?;
        application.kill();
        broker.kill();
        broker.launch()?;
        std::fs::remove_dir_all(one.state(&broker))?;
    }
    let mut application = one.start(&broker)?;
    words.settle(&mut [&mut application])?;
    application.finish(PATIENCE)?;
    words.check_output(&broker)
}

/// Two instances, the tasks of which the broker gives out.
fn word_count_on_the_streams_protocol(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    if lacks(&broker, "streams.version")? {
        return Ok(());
    }
    let instance = |name| Instance::new(name, "streams", "at_least_once");
    restored(&mut broker, &[instance("one"), instance("two")])?;
    broker
        .tool("kafka-groups", &["--list"])?
        .has("word-count")?
        .has("Streams")?;
    // Of a group without members the tool shows nothing.
    let member = instance("one").start(&broker)?;
    let described = ["--describe", "--group", "word-count", "--verbose"];
    broker
        .tool("kafka-streams-groups", &described)?
        .has("word-count")?
        .has("lines")?;
    member.finish(PATIENCE).map(drop)
}

/// Counts words while the broker is killed, loses the state and the broker, and has the right
/// counts again before any more input; then counts on.
fn restored(broker: &mut Broker, instances: &[Instance]) -> Result<()> {
    let mut words = Words::create(broker)?;
    for round in 0..count(2, 20) {
        let mut running = Vec::new();
        for instance in instances {
            running.push(instance.start(broker)?);
        }
        let mut all: Vec<&mut Program> = running.iter_mut().collect();
        if round > 0 {
            words.settle(&mut all).context("from the changelog alone")?;
        }
        words.send(broker, 500)?;
        broker.kill();
        broker.launch()?;
        words.send(broker, 500)?;
        words.settle(&mut all)?;
        let restored: u64 = running.iter().map(restored_records).sum();
        ensure!(
            round == 0 || restored > 0,
            "nothing came from the changelog"
        );
        for program in running {
            program.finish(PATIENCE)?;
        }
        for instance in instances {
            std::fs::remove_dir_all(instance.state(broker))?;
        }
        broker.kill();
        broker.launch()?;
    }
    words.check_output(broker)
}

/// What `RESTORED STORE RECORDS` lines of an application add up to.
fn restored_records(program: &Program) -> u64 {
    let lines = program.lines();
    let restored = lines.iter().filter(|l| l.starts_with("RESTORED "));
    let numbers = restored.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok());
    numbers.sum()
}

/// One instance of the word count (`WordCount.java`).
struct Instance {
    name: &'static str,
    protocol: &'static str,
    guarantee: &'static str,
}

impl Instance {
    fn new(name: &'static str, protocol: &'static str, guarantee: &'static str) -> Self {
        Self {
            name,
            protocol,
            guarantee,
        }
    }

    fn state(&self, broker: &Broker) -> std::path::PathBuf {
        broker.scratch(&format!("state-{}", self.name))
    }

    fn start(&self, broker: &Broker) -> Result<Program> {
        let state = self.state(broker);
        std::fs::create_dir_all(&state)?;
        let mut program = java(300, PATH, &[], "WordCount")?;
        program.arg(broker.address()).arg(&state);
        program.args([self.protocol, self.guarantee, "lines", "counts"]);
        let dir: &Path = &broker.scratch("");
        let mut started = Program::start(dir, self.name, &mut program)?;
        started.until_line("STATE RUNNING", PATIENCE)?;
        Ok(started)
    }
}

/// The input, and what it must add up to.
struct Words {
    counts: BTreeMap<String, u64>,
    sent: usize,
    random: Box<dyn FnMut(u64) -> u64>,
}

impl Words {
    fn create(broker: &Broker) -> Result<Self> {
        let mut raw = broker.raw()?;
        raw.create_topic("lines", PARTITIONS)?;
        raw.create_topic("counts", PARTITIONS)?;
        Ok(Self {
            counts: BTreeMap::new(),
            sent: 0,
            random: Box::new(random("words")),
        })
    }

    /// Produces lines of a few words each, over all partitions.
    fn send(&mut self, broker: &Broker, lines: usize) -> Result<()> {
        let mut raw = broker.raw()?;
        // Kafka serves before it leads all of its partitions.
        wait::until("leaders", PATIENCE, || {
            let ends = (0..PARTITIONS).map(|p| raw.offset("lines", p, -1));
            ends.collect::<Result<Vec<_>>>().map(Some)
        })?;
        for chunk in 0..lines.div_ceil(50) {
            let mut values = Vec::new();
            for _ in 0..50 {
                let mut line = String::new();
                for _ in 0..4 {
                    let word = format!("w{}", (self.random)(40));
                    let _ = write!(line, "{word} ");
                    *self.counts.entry(word).or_default() += 1;
                }
                values.push(Bytes::from(line.trim().to_owned()));
            }
            self.sent += 50;
            let partition = i32::try_from(chunk)? % PARTITIONS;
            raw.produce("lines", &[(partition, raw::batch(&values)?)])?;
        }
        Ok(())
    }

    /// Asks the instances until their stores together hold exactly these counts.
    fn settle(&self, programs: &mut [&mut Program]) -> Result<()> {
        wait::every(PACE, "the counts", PATIENCE, || {
            let mut found: BTreeMap<String, u64> = BTreeMap::new();
            for (n, program) in programs.iter_mut().enumerate() {
                let before = program.lines().len();
                program.say("all")?;
                let answer = |lines: &[String]| {
                    let new = lines.get(before..)?;
                    let end = new.iter().position(|l| l.starts_with("END"))?;
                    Some(new.get(..=end)?.to_vec())
                };
                let answer = program.until("its counts", PATIENCE, answer)?;
                let end = answer.last().map(String::as_str);
                ensure!(end == Some("END"), "instance {n}: {end:?}");
                for line in answer {
                    let Some(pair) = line.strip_prefix("COUNT ") else {
                        continue;
                    };
                    let (word, number) = pair.split_once(' ').context("a count")?;
                    *found.entry(word.to_owned()).or_default() += number.parse::<u64>()?;
                }
            }
            ensure!(found == self.counts, "{found:?} of {:?}", self.counts);
            Ok(Some(()))
        })
    }

    /// The last record of each word in the output is its count.
    fn check_output(&self, broker: &Broker) -> Result<()> {
        let mut last = BTreeMap::new();
        let mut raw = broker.raw()?;
        for partition in 0..PARTITIONS {
            for record in raw.read_committed("counts", partition)? {
                // The value carries its word: `WORD COUNT`.
                let text = std::str::from_utf8(&record.value)?.to_owned();
                let (word, number) = text.split_once(' ').context("a count")?;
                last.insert(word.to_owned(), number.parse::<u64>()?);
            }
        }
        ensure!(last == self.counts, "{last:?} of {:?}", self.counts);
        println!("{} lines, {} words, counted right", self.sent, last.len());
        Ok(())
    }
}
