//! What a log keeps in memory for its readers: its latest batches, and where batches begin that
//! will be asked for next.

use crate::batch::{Batch, Batches};
use crate::read::{ReadPlan, ReadRequest};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Range;

/// Positions remembered per log for readers that go on.
const POSITIONS_MAX: usize = 64;

/// A piece of the memory tail, as it is (or will be) in the file: one batch as it came, header and
/// records apart, or a run of small batches in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct TailRun {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    /// Base offset of its segment.
    pub(crate) segment: i64,
    /// Where it begins in there, in bytes.
    pub(crate) pos: u64,
    pub(crate) len: u64,
    /// Bytes of memory that it may keep from being freed: what the budget is charged with.
    pub(crate) charge: u64,
    pub(crate) bufs: SmallVec<[Bytes; 2]>,
}

impl TailRun {
    /// The run's batches, each with its place in the buffer; none of a batch that came alone.
    fn batches(&self) -> impl Iterator<Item = (usize, Batch<'_>)> {
        let bytes: &[u8] = match self.bufs.as_slice() {
            [bytes] => bytes,
            _ => &[],
        };
        let mut at = 0;
        Batches::new(bytes).map_while(move |batch| {
            let batch = batch.ok()?;
            let begin = at;
            at += batch.bytes().len();
            Some((begin, batch))
        })
    }
}

/// The latest batches of the log, without gaps, up to a budget of bytes.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    runs: VecDeque<TailRun>,
    bytes: usize,
    budget: usize,
}

impl Tail {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    pub(crate) fn set_budget(&mut self, budget: usize) {
        self.budget = budget;
        self.evict();
    }

    /// Only to be called with a budget.
    pub(crate) fn push(&mut self, run: TailRun) {
        self.bytes += run.charge as usize;
        self.runs.push_back(run);
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.budget {
            let Some(run) = self.runs.pop_front() else {
                break;
            };
            self.bytes -= run.charge as usize;
        }
        if self.runs.is_empty() {
            self.runs.shrink_to(0);
        }
    }

    /// What is below `end` was compacted.
    pub(crate) fn drop_below(&mut self, end: i64) {
        while let Some(run) = self.runs.pop_front_if(|r| r.base_offset < end) {
            self.bytes -= run.charge as usize;
        }
    }

    /// The log now ends at `end`.
    pub(crate) fn truncate(&mut self, end: i64) {
        while let Some(run) = self.runs.pop_back_if(|r| r.last_offset >= end) {
            self.bytes -= run.charge as usize;
        }
    }

    /// Where the batch begins whose base offset this is, if it is in this segment.
    pub(crate) fn position_of(&self, base_offset: i64, segment: i64) -> Option<u64> {
        let index = self.runs.partition_point(|r| r.last_offset < base_offset);
        let run = self.runs.get(index).filter(|r| r.segment == segment)?;
        if run.base_offset == base_offset {
            return Some(run.pos);
        }
        let mut batches = run.batches();
        let (at, _) = batches.find(|(_, b)| b.header.base_offset() == base_offset)?;
        Some(run.pos + at as u64)
    }

    /// Serves a read whose offset is below `bound`; `None` if the offset is older than the tail.
    pub(crate) fn read(&self, request: &ReadRequest, bound: i64) -> Option<ReadPlan> {
        let offset = request.offset.0;
        if self.runs.front()?.base_offset > offset {
            return None;
        }
        let first = self.runs.partition_point(|r| r.last_offset < offset);
        let mut bufs = SmallVec::new();
        let mut room = u64::from(request.max_bytes);
        for run in self.runs.range(first..) {
            let alone = run.bufs.len() != 1;
            if run.last_offset < bound
                && (alone || run.base_offset >= offset)
                && (run.len <= room || (alone && request.min_one && bufs.is_empty()))
            {
                room = room.saturating_sub(run.len);
                bufs.extend(run.bufs.iter().cloned());
                continue;
            }
            // Of a run as many batches as are wanted.
            let part = part_of(run, request, (bound, room), bufs.is_empty());
            let Some(buf) = run.bufs.first().filter(|_| !part.is_empty()) else {
                break;
            };
            room = room.saturating_sub(part.len() as u64);
            let is_cut = part.end < buf.len();
            bufs.push(buf.slice(part));
            if is_cut {
                break;
            }
        }
        if bufs.is_empty() {
            return Some(ReadPlan::Empty);
        }
        Some(ReadPlan::Memory(bufs))
    }
}

/// The bytes of a run from the batch with the wanted offset on, below the bound and as far as there
/// is room; `first`: they are the first of the answer.
fn part_of(
    run: &TailRun,
    request: &ReadRequest,
    (bound, room): (i64, u64),
    first: bool,
) -> Range<usize> {
    let mut part = 0..0;
    for (at, batch) in run.batches() {
        if batch.header.last_offset() < request.offset.0 {
            continue;
        }
        let begin = if part.is_empty() { at } else { part.start };
        let end = at + batch.bytes().len();
        let whatever = request.min_one && first && part.is_empty();
        if batch.header.last_offset() >= bound || !((end - begin) as u64 <= room || whatever) {
            break;
        }
        part = begin..end;
    }
    part
}

/// Where batches begin that a reader will ask for next. The oldest goes when it is full.
#[derive(Debug, Default)]
pub(crate) struct PositionCache {
    known: Vec<KnownPosition>,
    oldest: usize,
}

#[derive(Clone, Copy, Debug)]
struct KnownPosition {
    offset: i64,
    /// Base offset of its segment.
    segment: i64,
    pos: u64,
}

impl PositionCache {
    pub(crate) fn get(&self, offset: i64, segment: i64) -> Option<u64> {
        let known = self.known.iter().find(|k| k.offset == offset)?;
        (known.segment == segment).then_some(known.pos)
    }

    pub(crate) fn insert(&mut self, offset: i64, (segment, pos): (i64, u64)) {
        let new = KnownPosition {
            offset,
            segment,
            pos,
        };
        if let Some(known) = self.known.iter_mut().find(|k| k.offset == offset) {
            *known = new;
        } else if self.known.len() < POSITIONS_MAX {
            self.known.push(new);
        } else if let Some(oldest) = self.known.get_mut(self.oldest) {
            *oldest = new;
            self.oldest = (self.oldest + 1) % POSITIONS_MAX;
        }
    }

    /// Other segments have taken the place of these.
    pub(crate) fn forget(&mut self, segments: &[i64]) {
        self.known.retain(|k| !segments.contains(&k.segment));
        self.oldest = 0;
    }

    /// The log now ends at `end`.
    pub(crate) fn truncate(&mut self, end: i64) {
        self.known.retain(|k| k.offset <= end);
        self.oldest = 0;
    }
}

#[cfg(test)]
#[path = "tail_test.rs"]
mod tests;
