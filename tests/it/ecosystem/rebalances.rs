//! Java consumers of both protocols join, leave, die, come back under their static name and restart
//! one after the other, in groups of one protocol and in a mixed one, on Flumen and on Kafka. Every
//! record is delivered at least once, no partition has two live owners, and the time without
//! an owner is measured on both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use flumen_it::deps::java;
use flumen_it::ownership::{
    Noted, Span, check_delivered, check_exclusive, check_generations, parse, unowned,
};
use flumen_it::{Broker, Kind, Program, Raw, Shape, random, raw, rounds, wait};

use super::{PACE, PATIENCE, options};

ecosystem!(eager_group, cooperative_group, consumer_group, mixed_group);

const TOPIC: &str = "owned";
const PARTITIONS: i32 = 8;
const GROUP: &str = "owners";
const PATH: &[&str] = &["kafka/driver", "programs", "kafka/libs/*"];

fn eager_group(shape: Shape) -> Result<()> {
    compare(shape, ["eager"; 4])
}

fn cooperative_group(shape: Shape) -> Result<()> {
    compare(shape, ["cooperative"; 4])
}

fn consumer_group(shape: Shape) -> Result<()> {
    compare(shape, ["consumer"; 4])
}

fn mixed_group(shape: Shape) -> Result<()> {
    compare(
        shape,
        ["consumer", "cooperative", "consumer", "cooperative"],
    )
}

/// What one broker did with the whole schedule.
#[derive(Debug, Default)]
struct Measured {
    rebalances: usize,
    /// Of each step: the longest time that one partition had no owner, ms.
    longest: Vec<f64>,
    /// Of each step: the mean over all partitions, ms.
    mean: Vec<f64>,
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The same schedule on the broker under test and, when that is Flumen, on Kafka.
fn compare(shape: Shape, protocols: [&'static str; 4]) -> Result<()> {
    let steps = if rounds() == 1 { 6 } else { 100 };
    let ours = schedule(shape, Kind::chosen(), protocols, steps)?;
    println!("{:?}: {ours:.1?}", Kind::chosen());
    if Kind::chosen() == Kind::Kafka {
        return Ok(());
    }
    let kafka = schedule(shape, Kind::Kafka, protocols, steps)?;
    println!("Kafka: {kafka:.1?}");
    let (a, b) = (average(&ours.mean), average(&kafka.mean));
    println!("{protocols:?}: mean time without owner {a:.1} ms, Kafka's {b:.1} ms");
    // Both wait for the same heartbeats; more than twice of Kafka's is no noise.
    ensure!(a <= 2.0 * b + 250.0, "{a} ms without owner, Kafka {b} ms");
    Ok(())
}

fn schedule(
    shape: Shape,
    kind: Kind,
    protocols: [&'static str; 4],
    steps: usize,
) -> Result<Measured> {
    let options = options(shape)
        .of(kind)
        .set("group.min.session.timeout.ms", "1000")
        .set("group.initial.rebalance.delay.ms", "0")
        .set("group.consumer.min.session.timeout.ms", "1000")
        .set("group.consumer.session.timeout.ms", "2000")
        .set("group.consumer.min.heartbeat.interval.ms", "100")
        .set("group.consumer.heartbeat.interval.ms", "300")
        .set("group.consumer.migration.policy", "bidirectional");
    let broker = Broker::start(options)?;
    broker.raw()?.create_topic(TOPIC, PARTITIONS)?;
    let feed = Feed::start(broker.raw()?);
    let mut group = Members::start(&broker, protocols)?;
    let mut random = random("rebalances");
    let mut measured = Measured::default();
    while measured.rebalances < steps {
        let begin = group.clock()?;
        let what = group.step(&mut random, measured.rebalances)?;
        measured.rebalances += what.1;
        group.settle().with_context(|| what.0.to_owned())?;
        let end = group.clock()?;
        let gaps = unowned(&group.spans()?, PARTITIONS, begin, end);
        let ms: Vec<f64> = gaps.iter().map(|g| *g as f64 / 1e6).collect();
        measured
            .longest
            .push(ms.iter().copied().fold(0.0, f64::max));
        measured.mean.push(average(&ms));
    }
    let ends = feed.stop()?;
    group.await_read(&ends)?;
    let spans = group.spans()?;
    check_exclusive(&spans)?;
    if !protocols.contains(&"consumer") {
        check_generations(&spans)?;
    }
    check_delivered(&group.reads()?, &ends)?;
    group.end()?;
    Ok(measured)
}

/// A producer that never stops: a record to each partition, again and again.
struct Feed {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<i64>>>,
}

impl Feed {
    fn start(mut raw: Raw) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let batch = raw::batch(&[Bytes::from_static(b"owned")])?;
            while !stopped.load(Ordering::Relaxed) {
                for partition in 0..PARTITIONS {
                    raw.produce(TOPIC, &[(partition, batch.clone())])?;
                }
                std::thread::sleep(Duration::from_millis(5)); // a load, not a flood
            }
            (0..PARTITIONS).map(|p| raw.offset(TOPIC, p, -1)).collect()
        });
        Self { stop, thread }
    }

    /// Ends it; the end of each partition.
    fn stop(self) -> Result<Vec<i64>> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(ends) => ends,
            Err(_) => bail!("the producer's thread"),
        }
    }
}

/// One place for a member: a program that hosts one consumer at a time (`Member.java`).
struct Place {
    name: String,
    protocol: &'static str,
    /// The static name, of every second place.
    instance: Option<String>,
    program: Program,
    joined: bool,
}

/// The places, and what members noted that are gone.
struct Members<'a> {
    broker: &'a Broker,
    places: Vec<Place>,
    past: Vec<Noted>,
    started: usize,
}

impl<'a> Members<'a> {
    /// Four members, settled.
    fn start(broker: &'a Broker, protocols: [&'static str; 4]) -> Result<Self> {
        let mut group = Self {
            broker,
            places: Vec::new(),
            past: Vec::new(),
            started: 0,
        };
        for (n, protocol) in protocols.into_iter().enumerate() {
            let program = group.host()?;
            group.places.push(Place {
                name: format!("{n}-{protocol}"),
                protocol,
                instance: (n >= 2).then(|| format!("static-{n}")),
                program,
                joined: false,
            });
        }
        for n in 0..group.places.len() {
            group.join(n)?;
            // Kafka 4.3.1 throws, and so ends a member of the consumer protocol for good, when that
            // member is the second of a group whose first one, of the classic protocol, waits for
            // its first generation (ConsumerGroup.fromClassicGroup: there is no protocol name yet).
            if n == 0 && broker.kind() == Kind::Kafka {
                group.settle()?;
            }
        }
        group.settle()?;
        Ok(group)
    }

    /// A program that waits for commands.
    fn host(&mut self) -> Result<Program> {
        self.started += 1;
        let mut command = java(120, PATH, &[], "Member")?;
        command.args([&self.broker.address(), GROUP, TOPIC]);
        let name = format!("member-{}", self.started);
        Program::start(&self.broker.scratch(""), &name, &mut command)
    }

    fn place(&mut self, n: usize) -> Result<&mut Place> {
        self.places.get_mut(n).context("a place")
    }

    fn join(&mut self, n: usize) -> Result<()> {
        let place = self.place(n)?;
        let instance = place.instance.as_deref().unwrap_or("-");
        let line = format!("join {} {instance}", place.protocol);
        place.joined = true;
        place.program.say(&line)
    }

    /// Leaves and waits until it has.
    fn leave(&mut self, n: usize) -> Result<()> {
        let place = self.place(n)?;
        let gone = |lines: &[String]| lines.iter().filter(|l| l.ends_with(" closed")).count();
        let before = gone(&place.program.lines());
        place.joined = false;
        place.program.say("leave")?;
        place.program.until("its leaving", PATIENCE, |lines| {
            (gone(lines) > before).then_some(())
        })
    }

    /// SIGKILL, and an empty program in its place.
    fn kill(&mut self, n: usize) -> Result<()> {
        self.place(n)?.program.kill();
        let fresh = self.host()?;
        // The clock of another program is the machine's.
        let place = self.place(n)?;
        let dead = std::mem::replace(&mut place.program, fresh);
        place.joined = false;
        let name = place.name.clone();
        let now = self.clock()?;
        // What it owned ended at its last sign of life at the latest; the kill itself at `now`.
        self.past.push(parse(&name, &dead.lines(), Some(now))?);
        Ok(())
    }

    /// The machine's monotonic clock as the members see it, ns.
    fn clock(&mut self) -> Result<u64> {
        let place = self.places.iter_mut().find(|p| p.joined);
        let program = &mut place.context("a member")?.program;
        let clocks = |lines: &[String]| {
            let told = lines.iter().filter_map(|l| l.strip_suffix(" clock"));
            told.filter_map(|t| t.parse().ok()).collect::<Vec<u64>>()
        };
        let before = clocks(&program.lines()).len();
        program.say("clock")?;
        program.until("its clock", PATIENCE, |lines| {
            clocks(lines).get(before).copied()
        })
    }

    /// One change of the group; says which, and how many rebalances it asks for.
    fn step(
        &mut self,
        random: &mut impl FnMut(u64) -> u64,
        before: usize,
    ) -> Result<(&'static str, usize)> {
        let named = |joined: bool, is_static: bool| -> Vec<usize> {
            let places = self.places.iter().enumerate();
            let fits = |p: &Place| p.joined == joined && p.instance.is_some() == is_static;
            places.filter(|(_, p)| fits(p)).map(|(n, _)| n).collect()
        };
        let (away, dynamic, fixed) = (named(false, false), named(true, false), named(true, true));
        let mut pick = |from: &[usize]| -> Option<usize> {
            let n = random(from.len() as u64);
            from.get(usize::try_from(n).ok()?).copied()
        };
        // The first steps do each thing once, in an order that is always possible.
        let which = match before {
            0 => 1,
            1 => 0,
            2 => 2,
            3 => 3,
            _ => pick(&[0, 1, 2, 3, 4]).unwrap_or_default(),
        };
        if let (0..=2, Some(n)) = (which, pick(&away)) {
            self.join(n)?;
            return Ok(("join", 1));
        }
        match (which, pick(&dynamic), pick(&fixed)) {
            (0 | 1, Some(n), _) => {
                self.leave(n)?;
                Ok(("leave", 1))
            }
            (2, Some(n), _) => {
                self.kill(n)?;
                Ok(("kill", 1))
            }
            (3, _, Some(n)) => {
                self.leave(n)?;
                self.join(n)?;
                Ok(("static rejoin", 1))
            }
            _ => {
                let joined: Vec<usize> = dynamic.into_iter().chain(fixed).collect();
                for n in &joined {
                    self.leave(*n)?;
                    self.join(*n)?;
                    self.settle()?;
                }
                Ok(("rolling restart", joined.len()))
            }
        }
    }

    /// Waits until the members share all partitions evenly, each owned once.
    fn settle(&mut self) -> Result<()> {
        wait::every(PACE, "an even share for each member", PATIENCE, || {
            let mut all = Vec::new();
            let mut shares = Vec::new();
            for place in &mut self.places {
                let alive = place.program.alive();
                ensure!(alive, "{} ended: {}", place.name, place.program.tail());
                let owns = parse(&place.name, &place.program.lines(), None)?.owns();
                ensure!(place.joined || owns.is_empty(), "{} has left", place.name);
                if place.joined {
                    shares.push(owns.len());
                }
                all.extend(owns);
            }
            let (least, most) = (shares.iter().min(), shares.iter().max());
            let even = most.zip(least).is_some_and(|(m, l)| m - l <= 1);
            let distinct: BTreeSet<&i32> = all.iter().collect();
            let each = distinct.len() == PARTITIONS as usize && all.len() == distinct.len();
            ensure!(even && each, "{shares:?} of {all:?}");
            Ok(Some(()))
        })
    }

    fn noted(&self) -> Result<Vec<Noted>> {
        let now = self.places.iter();
        let now = now.map(|p| parse(&p.name, &p.program.lines(), None));
        let past = self.past.iter().cloned().map(Ok);
        past.chain(now).collect()
    }

    fn spans(&self) -> Result<Vec<Span>> {
        Ok(self.noted()?.into_iter().flat_map(|n| n.spans).collect())
    }

    fn reads(&self) -> Result<Vec<(i32, i64, i64)>> {
        Ok(self.noted()?.into_iter().flat_map(|n| n.reads).collect())
    }

    /// Waits until somebody has read to the end of each partition.
    fn await_read(&self, ends: &[i64]) -> Result<()> {
        wait::every(PACE, "the ends to be read", PATIENCE, || {
            let reads = self.reads()?;
            let done = (0i32..).zip(ends).all(|(partition, end)| {
                let reached = reads.iter().filter(|r| r.0 == partition).map(|r| r.2).max();
                reached.is_some_and(|r| r >= *end)
            });
            Ok(done.then_some(()))
        })
    }

    fn end(self) -> Result<()> {
        for place in self.places {
            place.program.finish(PATIENCE)?;
        }
        Ok(())
    }
}
