//! What a log keeps in memory for its readers: its latest batches, and where batches begin that
//! will be asked for next.

use crate::read::{ReadPlan, ReadRequest};
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Positions remembered per log for readers that go on.
const POSITIONS_MAX: usize = 64;

/// One batch of the memory tail, as it is (or will be) in the file.
#[derive(Clone, Debug)]
pub(crate) struct TailBatch {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) segment: i64,
    pub(crate) pos: u64,
    pub(crate) len: u64,
    /// Bytes of memory that it may keep from being freed: what the budget is charged with.
    pub(crate) charge: u64,
    pub(crate) bufs: SmallVec<[Bytes; 2]>,
}

/// The latest batches of the log, without gaps, up to a budget of bytes.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<TailBatch>,
    bytes: usize,
    budget: usize,
}

impl Tail {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn set_budget(&mut self, budget: usize) {
        self.budget = budget;
        self.evict();
    }

    pub(crate) fn push(&mut self, batch: TailBatch) {
        self.bytes += batch.charge as usize;
        self.batches.push_back(batch);
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.budget {
            let Some(batch) = self.batches.pop_front() else {
                break;
            };
            self.bytes -= batch.charge as usize;
        }
        if self.batches.is_empty() {
            self.batches.shrink_to(0);
        }
    }

    /// What is below `end` was compacted.
    pub(crate) fn drop_below(&mut self, end: i64) {
        while let Some(batch) = self.batches.pop_front_if(|b| b.base_offset < end) {
            self.bytes -= batch.charge as usize;
        }
    }

    /// The log now ends at `end`.
    pub(crate) fn truncate(&mut self, end: i64) {
        while let Some(batch) = self.batches.pop_back_if(|b| b.base_offset >= end) {
            self.bytes -= batch.charge as usize;
        }
    }

    /// Where the batch begins whose base offset this is, if it is in this segment.
    pub(crate) fn position_of(&self, base_offset: i64, segment: i64) -> Option<u64> {
        let index = self
            .batches
            .partition_point(|b| b.base_offset < base_offset);
        let batch = self.batches.get(index)?;
        (batch.base_offset == base_offset && batch.segment == segment).then_some(batch.pos)
    }

    /// Serves a read whose offset is below `bound`; `None` if the offset is older than the tail.
    pub(crate) fn read(&self, request: &ReadRequest, bound: i64) -> Option<ReadPlan> {
        let offset = request.offset.0;
        if self.batches.front()?.base_offset > offset {
            return None;
        }
        let first = self.batches.partition_point(|b| b.last_offset < offset);
        let mut bufs = SmallVec::new();
        let mut len = 0;
        for batch in self.batches.range(first..) {
            let fits = len + batch.len <= u64::from(request.max_bytes);
            if batch.last_offset >= bound || !(fits || (request.min_one && bufs.is_empty())) {
                break;
            }
            len += batch.len;
            bufs.extend(batch.bufs.iter().cloned());
        }
        if bufs.is_empty() {
            return Some(ReadPlan::Empty);
        }
        Some(ReadPlan::Memory(bufs))
    }
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
