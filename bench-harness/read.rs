//! Reading: the roles of catch-up and tail readers, and the catch-up workload.

use anyhow::{Context as _, Result, ensure};

use crate::args::{Codec, ColdArgs, Common, FetchArgs};
use crate::batch::Batch;
use crate::engine::{Connection, Pace, Times};
use crate::evict::{Evictor, ReadOnce, evict};
use crate::frames;
use crate::report::Report;
use crate::run::{Shared, Work};
use crate::setup::{Admin, resolve};

/// What is read of a long answer: its header, the topic's name and the first batch's header.
const HEAD_BYTES: usize = 512;
/// Answers up to this length are read whole: one system call in place of two.
const WHOLE_BYTES: i32 = 16 * 1024;
/// Bytes that are evicted together.
const EVICT_BYTES: i64 = 1 << 20;

/// Reads a partition from its beginning, again and again.
#[derive(Debug)]
pub struct Catcher {
    tally: Shared,
    topic: String,
    partition: i32,
    offset: i64,
    offset_at: usize,
    head_bytes: usize,
    /// Bytes and records of each batch, which are all alike.
    batch: (usize, i64),
    /// Makes cold what was read, and the first offset for which it was not asked to yet.
    evictor: Option<Evictor>,
    warm_from: i64,
}

impl Catcher {
    /// Writes the next offset.
    pub fn prepare(&self, frame: &mut [u8]) {
        frames::patch(frame, self.offset_at, &self.offset.to_be_bytes());
    }

    /// See `Role::head_bytes`.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Has what was read evicted, if it is enough for a call, or is the `last` of this pass.
    fn make_cold(&mut self, last: bool) -> Result<()> {
        let Some(evictor) = &self.evictor else {
            return Ok(());
        };
        let (bytes, records) = self.batch;
        let batches = (self.offset - self.warm_from) / records;
        if !last && batches * i64::try_from(bytes)? < EVICT_BYTES {
            return Ok(());
        }
        let next = if last { 0 } else { self.offset };
        let from = std::mem::replace(&mut self.warm_from, next);
        evictor.evict(ReadOnce {
            partition: (self.topic.clone(), self.partition),
            offsets: from..self.offset,
            batch: self.batch,
        })
    }

    /// Counts an answer and moves on behind its last whole batch. All batches are alike, so that
    /// the header of the first says how many there are; that it begins at the offset that was
    /// asked for proves the sum of the answer before.
    ///
    /// # Errors
    /// The broker reported one, or the answer begins elsewhere.
    pub fn answer(&mut self, response: &[u8], length: usize, times: Times) -> Result<()> {
        let head = frames::fetched_head(response)?;
        ensure!(
            head.records_at + head.records_bytes == length,
            "an answer of {length} bytes does not end with its records"
        );
        let first = response
            .get(head.records_at..)
            .and_then(frames::batch_header);
        if let Some((base, bytes, records)) = first {
            ensure!(
                base == self.offset && (bytes, records) == self.batch,
                "{}-{} holds other batches than this run's: offset {base} of {bytes} bytes and \
                 {records} records at {}; use a fresh topic",
                self.topic,
                self.partition,
                self.offset
            );
            let whole = i64::try_from(head.records_bytes / bytes)?;
            self.offset += whole * records;
        }
        let at_end = self.offset >= head.high_watermark;
        self.make_cold(at_end)?;
        if at_end {
            self.offset = 0;
        }
        let bytes = u64::try_from(head.records_bytes)?;
        self.tally.borrow_mut().add(bytes, times);
        Ok(())
    }
}

/// Reads what is new in a partition and takes the time from the first record of each batch.
#[derive(Debug)]
pub struct Follower {
    tally: Shared,
    offset: i64,
    offset_at: usize,
    value_at: usize,
}

impl Follower {
    /// Writes the next offset.
    pub fn prepare(&self, frame: &mut [u8]) {
        frames::patch(frame, self.offset_at, &self.offset.to_be_bytes());
    }

    /// Counts each batch that arrived.
    ///
    /// # Errors
    /// The broker reported one.
    pub fn answer(&mut self, response: &[u8], times: Times) -> Result<()> {
        let records = frames::fetched(response)?;
        for (base, next, batch) in frames::batches(records) {
            if base < self.offset {
                continue;
            }
            self.offset = next;
            let stamp = batch
                .get(self.value_at..)
                .and_then(|v| v.first_chunk::<8>());
            let due_ns = u64::from_be_bytes(*stamp.context("a stamp")?);
            let times = Times { due_ns, ..times };
            let bytes = u64::try_from(batch.len())?;
            self.tally.borrow_mut().add(bytes, times);
        }
        Ok(())
    }
}

/// A connection that follows a partition from its present end.
///
/// # Errors
/// The broker refused.
pub fn follower(
    common: &Common,
    partition: i32,
    value_at: usize,
    tally: &Shared,
) -> Result<Connection<Work>> {
    let address = resolve(&common.bootstrap_server)?;
    let offset = Admin::connect(address)?.end_offset(&common.topic, partition)?;
    let (frame, offset_at) = frames::fetch(&common.topic, partition, 1 << 20, 500)?;
    let work = Work::Follow(Follower {
        tally: tally.clone(),
        offset,
        offset_at,
        value_at,
    });
    Connection::open(address, frame, work, Pace::Closed(1), true, None)
}

/// What catch-up readers read.
#[derive(Debug)]
pub struct Source<'a> {
    /// Broker and configuration.
    pub common: &'a Common,
    /// The topic, which may be another than `common`'s.
    pub topic: &'a str,
    /// Its partitions.
    pub partitions: i32,
    /// How many read.
    pub readers: usize,
    /// Bytes of one request.
    pub fetch_bytes: i32,
    /// Bytes of each partition.
    pub fill_bytes: u64,
    /// From disk or not.
    pub cold: &'a ColdArgs,
}

impl Source<'_> {
    /// Creates and fills the topic, and opens the connections.
    ///
    /// # Errors
    /// The broker refused.
    pub fn open(&self, made: &Batch, tally: &Shared) -> Result<Vec<Connection<Work>>> {
        let address = resolve(&self.common.bootstrap_server)?;
        let mut admin = Admin::connect(address)?;
        admin.create_topic(self.topic, self.partitions, &self.common.config)?;
        ensure!(
            !self.cold.cold || self.readers <= usize::try_from(self.partitions)?,
            "two readers of a partition would read it warm"
        );
        let broker_dir = self.cold.broker_dir.clone().filter(|_| self.cold.cold);
        for partition in 0..self.partitions {
            if admin.end_offset(self.topic, partition)? == 0 {
                let frame = frames::produce(self.topic, &[partition], &made.bytes, -1)?;
                admin.fill(&frame, self.fill_bytes)?;
            }
            if let Some(dir) = &broker_dir {
                evict(dir, self.topic, partition)?;
            }
        }
        let evictor = broker_dir.map(Evictor::start).transpose()?;
        let mut all = Vec::new();
        for n in 0..self.readers {
            let partition = i32::try_from(n)? % self.partitions;
            let (frame, offset_at) = frames::fetch(self.topic, partition, self.fetch_bytes, 500)?;
            let whole = self.fetch_bytes <= WHOLE_BYTES;
            let work = Work::CatchUp(Catcher {
                tally: tally.clone(),
                topic: self.topic.to_owned(),
                partition,
                offset: 0,
                offset_at,
                head_bytes: if whole { usize::MAX } else { HEAD_BYTES },
                batch: (made.bytes.len(), i64::try_from(made.records)?),
                evictor: evictor.clone(),
                warm_from: 0,
            });
            all.push(Connection::open(
                address,
                frame,
                work,
                Pace::Closed(1),
                true,
                None,
            )?);
        }
        Ok(all)
    }
}

/// Reads partitions from the beginning, again and again.
///
/// # Errors
/// The broker refused or went away.
pub fn fetch(args: &FetchArgs) -> Result<Report> {
    let common = &args.common;
    let made = common.batch(Codec::None)?;
    let tally = common.tally("fetch", false)?;
    let source = Source {
        common,
        topic: &common.topic,
        partitions: common.partitions,
        readers: common.connections,
        fetch_bytes: args.fetch_bytes,
        fill_bytes: args.fill_bytes,
        cold: &args.cold,
    };
    ensure!(
        common.rate.is_none(),
        "a fetch names the offset that the one before it ended at: it has no rate of its own"
    );
    let connections = source.open(&made, &tally)?;
    common.measure(connections, &tally, None)
}
