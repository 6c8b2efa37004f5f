//! SIGKILL again and again under two producers that never stop: Kafka's VerifiableProducer and an
//! idempotent librdkafka. Nothing that was acked is lost, nothing is there twice, nothing is out of
//! order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flumen_it::process::Process;
use flumen_it::raw::Read;
use flumen_it::{Broker, Options, Shape, deps, random, rounds, wait};

scenarios!(killed_again_and_again_under_two_producers);

const PARTITIONS: i32 = 4;
const JAVA: &str = "verifiable";
const PYTHON: &str = "librdkafka";

/// 0 lost, 0 duplicated, 0 reordered, however often the broker is killed.
fn killed_again_and_again_under_two_producers(shape: Shape) -> Result<()> {
    let kills = 2 * rounds();
    let mut random = random("kills");
    let mut broker = Broker::start(Options::new(shape))?;
    for topic in [JAVA, PYTHON] {
        let mut raw = broker.raw()?;
        raw.create_topic(topic, PARTITIONS)?;
        raw.await_leaders(topic, PARTITIONS)?;
    }
    let mut verifiable = Verifiable::start(&broker)?;
    let mut endless = Endless::start(&broker)?;
    let mut slowest = Duration::ZERO;
    for kill in 1..=kills {
        let seen = (lines(&verifiable.out), lines(&endless.acks));
        wait::until("acks of both producers", Duration::from_secs(90), || {
            let more = |file: &Path, seen| lines(file) > seen + 20;
            Ok((more(&verifiable.out, seen.0) && more(&endless.acks, seen.1)).then_some(()))
        })
        .with_context(|| format!("before kill {kill}: {}", broker.log_tail()))?;
        let alive = verifiable.process.alive() && endless.process.alive();
        ensure!(alive, "a producer ended before kill {kill}");
        std::thread::sleep(Duration::from_micros(random(40_000))); // any moment
        broker.kill();
        broker
            .launch()
            .with_context(|| format!("after kill {kill}"))?;
        slowest = slowest.max(broker.start_time);
    }
    let acked = verifiable.end()?;
    let sent = endless.end()?;
    let java = verify_acked(&mut broker, &acked)?;
    verify_all(&mut broker, sent, &endless.acks)?;
    println!(
        "{kills} kills: {} records acked to VerifiableProducer ({java} stored), {sent} to \
         librdkafka; none lost, twice or out of order; slowest restart {slowest:?}",
        acked.len()
    );
    Ok(())
}

/// Lines that are complete.
fn lines(file: &Path) -> usize {
    let text = std::fs::read(file).unwrap_or_default();
    text.iter().filter(|b| **b == b'\n').count()
}

/// Kafka's VerifiableProducer, idempotent and retrying.
struct Verifiable {
    process: Process,
    out: PathBuf,
}

impl Verifiable {
    fn start(broker: &Broker) -> Result<Self> {
        let (out, config) = (
            broker.scratch("verifiable.out"),
            broker.scratch("verifiable.conf"),
        );
        std::fs::write(
            &config,
            "enable.idempotence=true\nretries=2147483647\ndelivery.timeout.ms=120000\n\
             reconnect.backoff.max.ms=200\nretry.backoff.ms=20\n",
        )?;
        let kafka = deps::dir()?.join("kafka");
        let mut command = Command::new("java");
        command.args(["-Xmx200m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command
            .arg("-cp")
            .arg(format!("{0}/driver:{0}/libs/*", kafka.display()))
            .arg("org.apache.kafka.tools.VerifiableProducer")
            .args(["--bootstrap-server", &broker.address(), "--topic", JAVA])
            .args(["--acks", "-1", "--throughput", "1000", "--command-config"])
            .arg(&config);
        command
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(broker.scratch("verifiable.err"))?);
        let process = Process::start(&mut command)?;
        Ok(Self { process, out })
    }

    /// Ends it, and gives place and value of what was acked.
    fn end(&mut self) -> Result<BTreeMap<(i32, i64), u64>> {
        self.process.terminate()?;
        self.process.wait(Duration::from_secs(130))?;
        let mut acked = BTreeMap::new();
        for line in std::fs::read_to_string(&self.out)?.lines() {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            // What waits in the client when it is asked to end was not sent.
            ensure!(
                event["name"] != "producer_send_error" || line.contains("Producer closed"),
                "not sent: {line}"
            );
            if event["name"] != "producer_send_success" {
                continue;
            }
            let number = |key: &str| event[key].as_i64().with_context(|| line.to_owned());
            let value = event["value"].as_str().with_context(|| line.to_owned())?;
            let place = (i32::try_from(number("partition")?)?, number("offset")?);
            // Of a batch that the broker called a duplicate without remembering where it is.
            if place.1 >= 0 {
                let before = acked.insert(place, value.parse()?);
                ensure!(before.is_none(), "two records at {place:?}");
            }
        }
        Ok(acked)
    }
}

/// librdkafka's idempotent producer, from the Python client's `endless`.
struct Endless {
    process: Process,
    acks: PathBuf,
}

impl Endless {
    fn start(broker: &Broker) -> Result<Self> {
        let acks = broker.scratch("acks");
        let mut command = Command::new(deps::dir()?.join("venv/bin/python"));
        command
            .arg(deps::client_file("python/client.py"))
            .arg("endless")
            .arg(broker.address())
            .arg(PYTHON)
            .arg(&acks);
        // librdkafka tells on stderr of every lost connection: here that is the subject.
        command
            .stdin(Stdio::piped())
            .stdout(File::create(broker.scratch("endless.out"))?)
            .stderr(File::create(broker.scratch("endless.err"))?);
        let process = Process::start(&mut command)?;
        Ok(Self { process, acks })
    }

    /// Ends it by the end of its input; gives how many records it sent, each of which was acked.
    fn end(&mut self) -> Result<usize> {
        drop(self.process.child().stdin.take());
        let status = self.process.wait(Duration::from_secs(180))?;
        let dir = self.acks.parent().context("a folder")?;
        let err = std::fs::read_to_string(dir.join("endless.err")).unwrap_or_default();
        ensure!(status.success(), "librdkafka's producer: {status}: {err}");
        let out = std::fs::read_to_string(dir.join("endless.out"))?;
        let count = out.trim().strip_prefix("ok ").context("no count")?;
        Ok(count.parse()?)
    }
}

fn read(broker: &mut Broker, topic: &str, partition: i32) -> Result<Vec<(i64, u64)>> {
    let records: Vec<Read> = broker.raw()?.read_all(topic, partition)?;
    let numbered = records.iter().map(|r| {
        let number: u64 = std::str::from_utf8(&r.value)?.parse()?;
        Ok((r.offset, number))
    });
    numbered.collect()
}

/// Each acked record is where its ack said; no value is there twice; values ascend. Returns how
/// many are stored.
fn verify_acked(broker: &mut Broker, acked: &BTreeMap<(i32, i64), u64>) -> Result<usize> {
    let mut seen = BTreeSet::new();
    let mut there = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let mut previous = None;
        for (offset, number) in read(broker, JAVA, partition)? {
            ensure!(seen.insert(number), "{number} is stored twice");
            let ascends = previous.is_none_or(|p| number > p);
            ensure!(
                ascends,
                "partition {partition}: {number} after {previous:?}"
            );
            previous = Some(number);
            there.insert((partition, offset), number);
        }
    }
    for (place, number) in acked {
        let found = there.get(place);
        ensure!(
            found == Some(number),
            "acked {number} at {place:?}, where {found:?} is"
        );
    }
    Ok(there.len())
}

/// Numbers went to the partitions in turn: each is there once, in order, and where its ack said.
fn verify_all(broker: &mut Broker, sent: usize, acks: &Path) -> Result<()> {
    let mut there = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let records = read(broker, PYTHON, partition)?;
        let numbers: Vec<u64> = records.iter().map(|r| r.1).collect();
        let expected: Vec<u64> = (0..sent as u64)
            .filter(|n| n % PARTITIONS as u64 == partition as u64)
            .collect();
        let wrong = numbers.iter().zip(&expected).position(|(a, b)| a != b);
        ensure!(
            numbers == expected,
            "partition {partition}: {} records, {} sent; first difference at {wrong:?}",
            numbers.len(),
            expected.len()
        );
        there.extend(records.into_iter().map(|(o, n)| ((partition, o), n)));
    }
    let text = std::fs::read_to_string(acks)?;
    ensure!(text.lines().count() == sent, "not all of {sent} were acked");
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().context("an ack");
        let place: (i32, i64) = (word()?.parse()?, word()?.parse()?);
        let number: u64 = word()?.parse()?;
        // librdkafka gives -1 to a batch that the broker called a duplicate without offset.
        if place.1 >= 0 {
            ensure!(
                there.get(&place) == Some(&number),
                "acked elsewhere: {line}"
            );
        }
    }
    Ok(())
}
