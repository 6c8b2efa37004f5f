//! What clients were promised, and what they have seen: every answer is held against it.
//!
//! Order between answers of different connections is not known, so a promise counts for what was
//! asked after it was heard: requests carry what was promised when they were sent ([`Floor`]).

use crate::Check;
use bytes::Bytes;
use flumen_base::Uuid;
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[path = "model_disk.rs"]
mod disk;
pub(crate) use disk::OnDisk;

/// A partition.
pub(crate) type Tp = (Uuid, i32);

/// Number of a batch that was produced.
pub(crate) type BatchNo = usize;

/// Bytes of a batch in front of what the broker keeps as it is (base offset, length, leader epoch).
const PATCHED: usize = 16;

/// A batch as it was produced.
#[derive(Debug)]
pub(crate) struct Produced {
    pub(crate) bytes: Bytes,
    pub(crate) count: i64,
    /// Of the first record; each further one is a millisecond younger.
    first_timestamp: i64,
    tp: Tp,
    idempotent: bool,
}

/// What is known of a partition's log.
#[derive(Debug, Default)]
struct Part {
    /// Acked or seen batches by base offset.
    at: BTreeMap<i64, BatchNo>,
    /// Where idempotent batches were found.
    place: BTreeMap<BatchNo, i64>,
    /// The highest high watermark that was heard, or follows from an ack.
    high: i64,
    /// The highest log start heard in this life.
    start: i64,
    /// Nothing was ever asked to be deleted above it.
    start_limit: i64,
    /// Every ack is on disk.
    durable: bool,
    /// Retention keeps so many bytes, and may take what is older.
    keeps: Option<u64>,
    /// Bits of it have flipped on the disk: it may refuse to serve, but not lie.
    rotten: bool,
    /// Power losses that may have taken something.
    losses: u32,
}

/// What was promised of a partition when a request was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Floor {
    pub(crate) high: i64,
    pub(crate) start: i64,
    pub(crate) losses: u32,
}

/// What is known of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was never created, or its deletion was answered.
    Absent,
    /// Its creation was answered.
    Exists(Uuid),
    /// A change was asked for and not answered.
    Changing,
}

/// All promises.
#[derive(Debug, Default)]
pub(crate) struct Model {
    produced: Vec<Produced>,
    by_body: HashMap<Bytes, BatchNo>,
    parts: BTreeMap<Tp, Part>,
    /// By name, with a number that changes whenever the state does.
    topics: BTreeMap<String, (Known, u64)>,
    producer_ids: BTreeSet<i64>,
    /// Ends of the process that were no clean shutdowns.
    pub(crate) unclean_ends: u32,
    /// Power losses that may have taken something.
    pub(crate) power_losses: u32,
    /// Counts the lives of the process.
    pub(crate) life: u32,
    pub(crate) acks: u64,
    pub(crate) records_read: u64,
    /// Searches by time that were answered.
    pub(crate) searches: u64,
}

impl Model {
    // ---- topics ----

    pub(crate) fn topic(&self, name: &str) -> (Known, u64) {
        self.topics.get(name).copied().unwrap_or((Known::Absent, 0))
    }

    pub(crate) fn set_topic(&mut self, name: &str, known: Known) {
        let (_, version) = self.topic(name);
        self.topics.insert(name.to_owned(), (known, version + 1));
    }

    /// Holds what Metadata says of a topic against what was known when it was asked, and is still.
    pub(crate) fn check_topic(&self, name: &str, asked: (Known, u64), id: Option<Uuid>) -> Check {
        if self.topic(name) != asked {
            return Ok(());
        }
        match (asked.0, id) {
            (Known::Exists(known), Some(id)) if known == id => Ok(()),
            (Known::Absent, None) | (Known::Changing, _) => Ok(()),
            (known, found) => Err(format!(
                "topic {name}: {known:?}, but metadata says {found:?}"
            )),
        }
    }

    /// A producer id was given out: it must be new.
    pub(crate) fn new_producer_id(&mut self, id: i64) -> Check {
        match id >= 0 && self.producer_ids.insert(id) {
            true => Ok(()),
            false => Err(format!("producer id {id} was given twice")),
        }
    }

    // ---- partitions ----

    pub(crate) fn declare(&mut self, tp: Tp, durable: bool, keeps: Option<u64>) {
        let part = self.parts.entry(tp).or_default();
        (part.durable, part.keeps) = (durable, keeps);
    }

    /// Its files were damaged while the process was down.
    pub(crate) fn rots(&mut self, tp: Tp) {
        self.parts.entry(tp).or_default().rotten = true;
    }

    pub(crate) fn is_rotten(&self, tp: Tp) -> bool {
        self.parts.get(&tp).is_some_and(|p| p.rotten)
    }

    /// Nothing was ever asked to be deleted above this offset.
    pub(crate) fn start_limit(&self, tp: Tp) -> i64 {
        self.parts.get(&tp).map_or(0, |p| p.start_limit)
    }

    pub(crate) fn floor(&self, tp: Tp) -> Floor {
        self.parts.get(&tp).map_or(Floor::default(), |p| Floor {
            high: p.high,
            start: p.start,
            losses: p.losses,
        })
    }

    /// Remembers a batch that is about to be sent.
    pub(crate) fn produce(
        &mut self,
        tp: Tp,
        bytes: Bytes,
        (count, first_timestamp): (i64, i64),
        idempotent: bool,
    ) -> BatchNo {
        let no = self.produced.len();
        self.by_body.insert(bytes.slice(PATCHED..), no);
        self.produced.push(Produced {
            bytes,
            count,
            first_timestamp,
            tp,
            idempotent,
        });
        no
    }

    pub(crate) fn batch(&self, no: BatchNo) -> &Produced {
        &self.produced[no]
    }

    /// The broker says that a batch is in the log, from this offset on.
    pub(crate) fn acked(&mut self, tp: Tp, no: BatchNo, base: i64) -> Check {
        self.acks += 1;
        if base < 0 {
            return Err(format!("batch {no} of {tp:?} was acked without an offset"));
        }
        let end = base + self.produced[no].count;
        self.found(tp, no, base)?;
        let part = self.parts.entry(tp).or_default();
        part.high = part.high.max(end);
        Ok(())
    }

    /// A batch is, or was, in the log at this offset. No other may be there, and one of an
    /// idempotent producer nowhere else.
    fn found(&mut self, tp: Tp, no: BatchNo, base: i64) -> Check {
        let Produced {
            tp: wanted,
            count,
            idempotent,
            ..
        } = self.produced[no];
        if wanted != tp {
            return Err(format!(
                "batch {no} was sent to {wanted:?} and is in {tp:?}"
            ));
        }
        let part = self.parts.entry(tp).or_default();
        if part.rotten {
            return Ok(());
        }
        let before = part.at.range(..base + count).next_back();
        if let Some((&other, &there)) = before {
            let other_end = other + self.produced[there].count;
            if other_end > base && (other, there) != (base, no) {
                let end = base + count;
                return Err(format!(
                    "{tp:?}: batch {no} at {base}..{end}, but batch {there} was at \
                     {other}..{other_end}"
                ));
            }
        }
        part.at.insert(base, no);
        if idempotent {
            let first = *part.place.entry(no).or_insert(base);
            // A first copy that was deleted is no second one.
            if first != base && first >= part.start_limit {
                return Err(format!(
                    "{tp:?}: idempotent batch {no} is at {first} and at {base}"
                ));
            }
        }
        Ok(())
    }

    /// A read gave these batches, asked for from `offset` on.
    pub(crate) fn fetched(
        &mut self,
        tp: Tp,
        offset: i64,
        batches: &[(i64, i64, &[u8])],
    ) -> Check<i64> {
        let mut next = None;
        let rotten = self.is_rotten(tp);
        for (base, last, bytes) in batches {
            let expected = next.unwrap_or(*base);
            if *base != expected && !rotten {
                return Err(format!(
                    "{tp:?}: offset {base} follows where {expected} should"
                ));
            }
            if next.is_none() && !rotten && !(*base..=*last).contains(&offset) {
                return Err(format!("{tp:?}: asked for {offset}, got {base}..={last}"));
            }
            let body = body_of(bytes);
            let Some(&no) = self.by_body.get(body) else {
                return Err(format!(
                    "{tp:?}: nobody produced the batch at {base}..={last}"
                ));
            };
            self.found(tp, no, *base)?;
            self.records_read += (last - base + 1) as u64;
            next = Some(last + 1);
        }
        Ok(next.unwrap_or(offset))
    }

    /// High watermark and log start as an answer says them; -1 where it doesn't.
    pub(crate) fn bounds(&mut self, tp: Tp, floor: Floor, high: i64, start: i64) -> Check {
        let part = self.parts.entry(tp).or_default();
        if part.rotten {
            return Ok(());
        }
        if high >= 0 && high < floor.high {
            let was = floor.high;
            return Err(format!(
                "{tp:?}: the high watermark went from {was} back to {high}"
            ));
        }
        if start >= 0 && start < floor.start {
            let was = floor.start;
            return Err(format!(
                "{tp:?}: the log start went from {was} back to {start}"
            ));
        }
        if part.keeps.is_some() {
            part.start_limit = part.start_limit.max(start);
        } else if start > part.start_limit {
            let limit = part.start_limit;
            return Err(format!(
                "{tp:?}: the log starts at {start}, deleted was below {limit}"
            ));
        }
        part.high = part.high.max(high);
        part.start = part.start.max(start);
        Ok(())
    }

    /// Whether a read from here may be out of range, and whether this log start is allowed.
    pub(crate) fn out_of_range(&self, tp: Tp, floor: Floor, offset: i64) -> Check {
        match self.parts.get(&tp) {
            Some(part) if part.rotten || part.keeps.is_some() => Ok(()),
            Some(part) if offset >= part.start_limit && offset <= floor.high => Err(format!(
                "{tp:?}: {offset} is out of range, high watermark {}",
                floor.high
            )),
            _ => Ok(()),
        }
    }

    /// Records below this offset are about to be deleted.
    pub(crate) fn deleting(&mut self, tp: Tp, below: i64) {
        let part = self.parts.entry(tp).or_default();
        part.start_limit = part.start_limit.max(below);
    }

    /// They are deleted.
    pub(crate) fn deleted(&mut self, tp: Tp, start: i64) {
        let part = self.parts.entry(tp).or_default();
        part.start = part.start.max(start);
    }

    // ---- crashes ----

    /// The process ended. A log start that was answered may be forgotten (Kafka writes its
    /// checkpoint from time to time, and so does Flumen): the disk says which one counts
    /// ([`Model::on_disk`]).
    pub(crate) fn new_life(&mut self) {
        self.life += 1;
    }

    /// The power failed: where acks don't wait for the disk anything may be gone.
    pub(crate) fn power_lost(&mut self) {
        self.power_losses += 1;
        for part in self.parts.values_mut().filter(|p| !p.durable) {
            part.at.clear();
            part.place.clear();
            part.high = 0;
            part.start = 0;
            part.losses += 1;
        }
    }
}

/// What of a batch the broker keeps as it is.
fn body_of(batch: &[u8]) -> &[u8] {
    batch.get(PATCHED..).unwrap_or_default()
}
