//! Producing: the role of such a connection and the workload.

use anyhow::{Result, ensure};

use crate::args::{Codec, Common, ProduceArgs};
use crate::batch::{Batch, Sealer, sequence_after, set_producer};
use crate::engine::{Connection, Times};
use crate::frames::{self, Place};
use crate::report::Report;
use crate::run::{Shared, Work};
use crate::setup::{Admin, resolve};

/// Producer id and epoch of one connection.
#[derive(Debug, Clone, Copy)]
struct Identity {
    id: i64,
    epoch: i16,
}

/// Sends the same batches again and again.
#[derive(Debug)]
pub struct Producer {
    tally: Shared,
    /// Record bytes of one request.
    bytes: u64,
    answers: bool,
    places: Vec<Place>,
    records: i32,
    /// Partitions that the connection walks, with the next sequence of each; as many of them as
    /// there are places take part in a request.
    share: Vec<(i32, i32)>,
    cursor: usize,
    identity: Option<Identity>,
    sealer: Sealer,
    /// Where the due time is written in a batch, if at all.
    stamp_at: Option<usize>,
}

impl Producer {
    /// Writes partitions, sequences and stamps where they are not the same in each request.
    pub fn prepare(&mut self, frame: &mut [u8], due_ns: u64) {
        let moves = self.share.len() > self.places.len();
        if !moves && self.identity.is_none() && self.stamp_at.is_none() {
            return;
        }
        let count = self.share.len();
        for place in &self.places {
            let Some((partition, sequence)) = self.share.get_mut(self.cursor) else {
                return; // the share is never empty and the cursor inside it
            };
            frames::patch(frame, place.index_at, &partition.to_be_bytes());
            self.cursor = (self.cursor + 1) % count;
            let end = place.batch_at + place.batch_bytes;
            let Some(batch) = frame.get_mut(place.batch_at..end) else {
                return;
            };
            if let Some(Identity { id, epoch }) = self.identity {
                set_producer(batch, id, epoch, *sequence);
                *sequence = sequence_after(*sequence, self.records);
            }
            if let Some(at) = self.stamp_at {
                frames::patch(batch, at, &due_ns.to_be_bytes());
            }
            if self.identity.is_some() || self.stamp_at.is_some() {
                self.sealer.seal(batch);
            }
        }
    }

    /// Checks an answer and counts it.
    ///
    /// # Errors
    /// The broker refused a batch.
    pub fn answer(&mut self, response: &[u8], times: Times) -> Result<()> {
        if self.answers {
            frames::check_produced(response)?;
        }
        self.tally.borrow_mut().add(self.bytes, times);
        Ok(())
    }

    /// Counts a request without an answer.
    pub fn unanswered(&mut self, due_ns: u64, now_ns: u64) {
        self.tally.borrow_mut().unanswered(due_ns, now_ns);
    }
}

/// How a workload produces.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Batches, and partitions, per request.
    pub per_request: i32,
    /// As the protocol's.
    pub acks: i16,
    /// Walk the share.
    pub spread: bool,
    /// With a producer id.
    pub idempotent: bool,
    /// Write the due time into the first record.
    pub stamped: bool,
}

/// Partitions of connection `n`: one request's worth, or, spread, its part of all: as many as
/// requests of that size need, so that no partition is left out.
fn share(common: &Common, plan: &Plan, n: usize) -> Result<Vec<i32>> {
    let (all, n) = (common.partitions, i32::try_from(n)?);
    let connections = i32::try_from(common.connections)?;
    if !plan.spread {
        let first = n * plan.per_request;
        return Ok((first..first + plan.per_request).map(|p| p % all).collect());
    }
    let mut mine: Vec<i32> = (0..all)
        .filter(|p| p % connections == n % connections)
        .collect();
    if mine.len() < usize::try_from(plan.per_request)? {
        mine = (0..all).collect();
    }
    Ok(mine)
}

/// The producing connections of a workload.
///
/// # Errors
/// The broker refused.
pub fn connections(
    common: &Common,
    plan: &Plan,
    made: &Batch,
    tally: &Shared,
) -> Result<Vec<Connection<Work>>> {
    let address = resolve(&common.bootstrap_server)?;
    let mut admin = Admin::connect(address)?;
    let answers = plan.acks != 0;
    ensure!(
        !plan.idempotent || (plan.acks == -1 && common.in_flight <= 5),
        "idempotence needs acks -1 and at most 5 in flight"
    );
    let mut all = Vec::new();
    for n in 0..common.connections {
        let share = share(common, plan, n)?;
        let first = share
            .get(..usize::try_from(plan.per_request)?)
            .unwrap_or(&share);
        let frame = frames::produce(&common.topic, first, &made.bytes, plan.acks)?;
        let mut places = Vec::new();
        frames::produce_places(&frame, &mut places)?;
        let identity = if plan.idempotent {
            let (id, epoch) = admin.producer_id()?;
            Some(Identity { id, epoch })
        } else {
            None
        };
        let stamp_at = plan.stamped.then_some(made.value_at);
        let sealer = match stamp_at {
            Some(at) => Sealer::new(&made.bytes, at + 8),
            None => Sealer::of_header(&made.bytes),
        };
        let producer = Producer {
            tally: tally.clone(),
            bytes: u64::try_from(made.bytes.len() * places.len())?,
            answers,
            places,
            records: i32::try_from(made.records)?,
            share: share.into_iter().map(|p| (p, 0)).collect(),
            cursor: 0,
            identity,
            sealer,
            stamp_at,
        };
        let pace = common.pace(n, common.connections);
        let work = Work::Produce(producer);
        let buffer = Some(common.send_buffer).filter(|b| *b > 0);
        all.push(Connection::open(
            address, frame, work, pace, answers, buffer,
        )?);
    }
    Ok(all)
}

/// Produces the same batches over all connections.
///
/// # Errors
/// The broker refused or went away.
pub fn produce(args: &ProduceArgs) -> Result<Report> {
    let common = &args.common;
    let address = resolve(&common.bootstrap_server)?;
    Admin::connect(address)?.create_topic(&common.topic, common.partitions, &common.config)?;
    let made = common.batch(args.compression)?;
    let per_request = i32::try_from(args.partitions_per_request)?.clamp(1, common.partitions);
    let plan = Plan {
        per_request,
        acks: args.acks,
        spread: args.spread,
        idempotent: args.idempotent,
        stamped: false,
    };
    let tally = common.tally("produce", common.rate.is_some())?;
    let connections = connections(common, &plan, &made, &tally)?;
    let mut report = common.measure(connections, &tally, None)?;
    if args.compression != Codec::None {
        let whole = u64::try_from(made.uncompressed)? * u64::try_from(per_request)?;
        report.bytes_uncompressed = Some(report.requests * whole);
    }
    Ok(report)
}
