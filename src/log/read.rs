//! Reading: from an offset to bytes in memory or a range of a file, without touching the disk.
//!
//! ```text
//! plan_read -> in the memory tail?                        -> Memory
//!           -> position known (index entry, last reader)? -> File
//!           -> else NeedScan: [index block] -> batches after it -> resume_read -> Memory | File
//! ```
//! A range starts at the batch that contains the offset. It ends at a batch boundary where memory
//! knows one, so that the next read of the same reader needs no scan. Where memory knows none and
//! not much is wanted, the scan reads all of it: its bytes are the answer, and where they end is
//! known then.

use crate::batch::BatchHeader;
use crate::index::{Floor, IndexEntry, OFFSET_ENTRY_LEN, decode_offsets, floor_in};
use crate::log::Log;
use crate::segment::{Segment, relative};
use bytes::Bytes;
use flumen_base::{LogFile, Offset};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of one look at batch headers.
const SCAN_LEN: u32 = 8 << 10;
/// Requests up to so many bytes are answered with what a scan has read.
const SCANNED_ANSWER_MAX: u32 = 256 << 10;
/// Positions remembered per log for readers that go on.
const POSITIONS_MAX: usize = 64;

/// A range of a segment's file (or, inside a [`Scan`], of an index file).
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file; the `Arc` leases it.
    pub file: Arc<LogFile>,
    /// Where it starts, in bytes.
    pub pos: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// What a fetch wants of one partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The first offset wanted.
    pub offset: Offset,
    /// Nothing at or above this offset is returned (high watermark or last stable offset).
    pub upper_bound: Offset,
    /// Bytes wanted at most.
    pub max_bytes: u32,
    /// Whether the first batch comes whole even when it exceeds `max_bytes`.
    pub min_one: bool,
}

/// How to serve a [`ReadRequest`].
#[derive(Debug)]
pub enum ReadPlan {
    /// Whole batches from the memory tail or a scan, in order; the first contains the offset.
    Memory(SmallVec<[Bytes; 4]>),
    /// A range that starts at the batch containing the offset; it may end inside a batch.
    File(FileRange),
    /// Read [`Scan::range`] (fewer bytes at the end of the file are fine) and call
    /// [`Log::resume_read`].
    NeedScan(Scan),
    /// Nothing between the offset and the bound (or the first batch exceeds `max_bytes` without
    /// `min_one`).
    Empty,
    /// Below the log start offset or above the log end offset.
    OffsetOutOfRange,
    /// The file does not hold batches where it should: `KAFKA_STORAGE_ERROR`.
    Corrupt,
}

impl ReadPlan {
    /// Bytes that this plan sends.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bufs) => bufs.iter().map(Bytes::len).sum(),
            Self::File(range) => range.len as usize,
            _ => 0,
        }
    }

    /// Whether it sends nothing (a scan is not known yet).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A read that needs to look at the disk first: an index block, or batch headers from an index
/// entry on.
#[derive(Debug)]
pub struct Scan {
    /// The request that this scan serves.
    pub request: ReadRequest,
    /// What to read.
    pub range: FileRange,
    segment: i64,
    kind: ScanKind,
}

#[derive(Clone, Copy, Debug)]
enum ScanKind {
    /// The whole index file, for its samples.
    WholeIndex,
    /// A block of the index file.
    IndexBlock,
    /// Batch headers.
    Headers,
}

/// Where a read begins, and what a scan has seen there.
#[derive(Clone, Copy, Debug)]
struct Start {
    pos: u64,
    /// Of the first batch, if a scan saw it: its length, and the end of the last batch seen below
    /// the bound.
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first_len: u64,
    end: u64,
}

/// What a walk through batch headers has found.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Where the first batch begins that is wanted.
    pos: u64,
    seen: Seen,
    /// End of the batches that came whole and may be returned, and the offset after them.
    whole: Option<(u64, i64)>,
}

impl Log {
    /// How to serve a fetch.
    pub fn plan_read(&mut self, request: &ReadRequest) -> ReadPlan {
        let offset = request.offset.0;
        if offset < self.log_start || offset > self.log_end {
            return ReadPlan::OffsetOutOfRange;
        }
        let bound = self.read_bound(request);
        if offset >= bound {
            return ReadPlan::Empty;
        }
        if let Some(plan) = self.tail.read(request, bound) {
            return plan;
        }
        let above = self.segments.partition_point(|s| s.base_offset <= offset);
        self.plan_in_segment(above.saturating_sub(1), request)
    }

    /// Goes on with a read whose scan has come back.
    pub fn resume_read(&mut self, scan: Scan, bytes: &Bytes) -> ReadPlan {
        let request = scan.request;
        // Meanwhile retention may have moved the log start.
        if request.offset.0 < self.log_start {
            return ReadPlan::OffsetOutOfRange;
        }
        let Some(index) = self.segment_index(scan.segment) else {
            return self.plan_read(&request);
        };
        let Some(segment) = self.segments.get_mut(index) else {
            return ReadPlan::Corrupt;
        };
        let same = match scan.kind {
            ScanKind::Headers => Arc::ptr_eq(&scan.range.file, &segment.file),
            _ => Arc::ptr_eq(&scan.range.file, &segment.index_file),
        };
        if !same {
            return self.plan_read(&request); // compaction has put another in its place
        }
        match scan.kind {
            ScanKind::WholeIndex => {
                segment.index.load_samples(bytes);
                self.plan_in_segment(index, &request)
            }
            ScanKind::IndexBlock => {
                let entries: Vec<IndexEntry> = decode_offsets(bytes).collect();
                let offset = relative(request.offset.0, segment.base_offset);
                let pos = match floor_in(&entries, offset).0 {
                    Floor::Exact(pos) | Floor::AtOrAfter(pos) => u64::from(pos),
                    _ => 0,
                };
                scan_headers(segment, &request, pos)
            }
            ScanKind::Headers => self.resume_headers(index, &request, scan.range.pos, bytes),
        }
    }

    /// Base offset of the active segment and the bytes written to it.
    pub fn end_position(&self) -> (i64, u64) {
        let active = self.segments.back();
        active.map_or((0, 0), |segment| (segment.base_offset, segment.written))
    }

    fn read_bound(&self, request: &ReadRequest) -> i64 {
        request.upper_bound.0.min(self.written_end)
    }

    fn plan_in_segment(&mut self, index: usize, request: &ReadRequest) -> ReadPlan {
        let offset = request.offset.0;
        let bound = self.read_bound(request);
        let Some(segment) = self.segments.get(index) else {
            return ReadPlan::Empty;
        };
        if segment.base_offset >= bound {
            return ReadPlan::Empty;
        }
        if segment.written == 0 {
            return self.plan_in_segment(index + 1, request); // compaction has left nothing
        }
        let floor = if offset <= segment.base_offset {
            Floor::Exact(0)
        } else if let Some(pos) = self.positions.get(offset, segment.base_offset) {
            return self.finish(index, request, Start { pos, seen: None });
        } else {
            segment.index.floor(relative(offset, segment.base_offset))
        };
        match floor {
            Floor::Exact(pos) => {
                let pos = u64::from(pos);
                self.finish(index, request, Start { pos, seen: None })
            }
            Floor::AtOrAfter(pos) => scan_headers(segment, request, pos.into()),
            Floor::NeedBlock { slot, entries } => ReadPlan::NeedScan(Scan {
                request: *request,
                range: FileRange {
                    file: Arc::clone(&segment.index_file),
                    pos: (slot * OFFSET_ENTRY_LEN) as u64,
                    len: (entries * OFFSET_ENTRY_LEN) as u32,
                },
                segment: segment.base_offset,
                kind: ScanKind::IndexBlock,
            }),
            Floor::NeedAll { entries } => ReadPlan::NeedScan(Scan {
                request: *request,
                range: FileRange {
                    file: Arc::clone(&segment.index_file),
                    pos: 0,
                    len: (entries * OFFSET_ENTRY_LEN) as u32,
                },
                segment: segment.base_offset,
                kind: ScanKind::WholeIndex,
            }),
        }
    }

    /// Walks the batches in `bytes`, which stand at `start` in the file.
    fn resume_headers(
        &mut self,
        index: usize,
        request: &ReadRequest,
        start: u64,
        bytes: &Bytes,
    ) -> ReadPlan {
        let bound = self.read_bound(request);
        let Some(segment) = self.segments.get(index) else {
            return ReadPlan::Corrupt;
        };
        let room = u64::from(request.max_bytes);
        let (mut pos, mut found, mut ended) = (start, None::<Found>, false);
        while pos < segment.written {
            let at = usize::try_from(pos - start).unwrap_or(usize::MAX);
            let Some(header) = bytes.get(at..).and_then(BatchHeader::new) else {
                break;
            };
            let Ok(len) = header.size() else {
                return ReadPlan::Corrupt;
            };
            let (first_len, end) = (len as u64, pos + len as u64);
            if end > segment.written || header.base_offset() < segment.base_offset {
                return ReadPlan::Corrupt;
            }
            if found.is_some() || header.last_offset() >= request.offset.0 {
                if header.last_offset() >= bound {
                    ended = true; // what was found before it is all there is
                    break;
                }
                let is_first = found.is_none();
                let seen = Seen { first_len, end };
                let whole = None;
                let found = found.get_or_insert(Found { pos, seen, whole });
                found.seen.end = end;
                let fits = end - found.pos <= room || (is_first && request.min_one);
                if fits && at.saturating_add(len) <= bytes.len() {
                    found.whole = Some((end, header.last_offset() + 1));
                }
            }
            pos = end;
        }
        match found {
            Some(Found {
                pos,
                whole: Some((end, next)),
                ..
            }) if request.max_bytes <= SCANNED_ANSWER_MAX => {
                self.positions.insert(next, (segment.base_offset, end));
                let from = usize::try_from(pos - start).unwrap_or(usize::MAX);
                let to = usize::try_from(end - start).unwrap_or(usize::MAX);
                ReadPlan::Memory(SmallVec::from_iter([bytes.slice(from..to)]))
            }
            Some(Found { pos, seen, .. }) => {
                let seen = Some(seen);
                self.finish(index, request, Start { pos, seen })
            }
            None if ended => ReadPlan::Empty,
            None if pos >= segment.written => self.plan_in_segment(index + 1, request),
            None if pos == start => ReadPlan::Corrupt, // not even one header: the file is too short
            None => scan_headers(segment, request, pos),
        }
    }

    /// The start is known: decides where the range ends.
    fn finish(&mut self, index: usize, request: &ReadRequest, start: Start) -> ReadPlan {
        let bound = self.read_bound(request);
        let next_base = self.segments.get(index + 1).map(|s| s.base_offset);
        let Some(segment) = self.segments.get(index) else {
            return ReadPlan::Corrupt;
        };
        let pos = start.pos;
        if pos >= segment.written {
            return self.plan_in_segment(index + 1, request);
        }
        let whole = bound >= next_base.unwrap_or(self.written_end).min(self.written_end);
        let limit = if whole {
            segment.written
        } else {
            let rel = relative(bound, segment.base_offset);
            let indexed = segment.index.boundary_below(segment.written, Some(rel));
            let in_tail = self.tail.position_of(bound, segment.base_offset);
            let seen = start.seen.map(|s| s.end);
            let known = [indexed.map(|e| u64::from(e.position)), in_tail, seen];
            known.into_iter().flatten().max().unwrap_or(0)
        };
        if limit <= pos {
            return scan_headers(segment, request, pos);
        }
        let available = limit - pos;
        let mut len = available.min(u64::from(request.max_bytes));
        if len < available {
            let boundary = segment.index.boundary_below(pos + len, None);
            match (boundary, start.seen) {
                (Some(entry), _) if u64::from(entry.position) > pos => {
                    len = u64::from(entry.position) - pos;
                    if entry.first != IndexEntry::UNKNOWN {
                        let offset = segment.base_offset + i64::from(entry.first);
                        let at = (segment.base_offset, entry.position.into());
                        self.positions.insert(offset, at);
                    }
                }
                (_, None) => return scan_headers(segment, request, pos),
                (_, Some(seen)) if seen.first_len > len => {
                    if !request.min_one {
                        return ReadPlan::Empty;
                    }
                    len = seen.first_len;
                }
                _ => {}
            }
        } else if whole && next_base.is_none() {
            let at = (segment.base_offset, limit);
            self.positions.insert(self.written_end, at);
        }
        ReadPlan::File(FileRange {
            file: Arc::clone(&segment.file),
            pos,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        })
    }
}

fn scan_headers(segment: &Segment, request: &ReadRequest, pos: u64) -> ReadPlan {
    let left = segment.written.saturating_sub(pos);
    let len = match request.max_bytes {
        wanted if wanted <= SCANNED_ANSWER_MAX => wanted.max(SCAN_LEN),
        _ => SCAN_LEN,
    };
    ReadPlan::NeedScan(Scan {
        request: *request,
        range: FileRange {
            file: Arc::clone(&segment.file),
            pos,
            len: u32::try_from(left).unwrap_or(u32::MAX).min(len),
        },
        segment: segment.base_offset,
        kind: ScanKind::Headers,
    })
}

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
    fn position_of(&self, base_offset: i64, segment: i64) -> Option<u64> {
        let index = self
            .batches
            .partition_point(|b| b.base_offset < base_offset);
        let batch = self.batches.get(index)?;
        (batch.base_offset == base_offset && batch.segment == segment).then_some(batch.pos)
    }

    /// Serves a read whose offset is below `bound`; `None` if the offset is older than the tail.
    fn read(&self, request: &ReadRequest, bound: i64) -> Option<ReadPlan> {
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
    fn get(&self, offset: i64, segment: i64) -> Option<u64> {
        let known = self.known.iter().find(|k| k.offset == offset)?;
        (known.segment == segment).then_some(known.pos)
    }

    fn insert(&mut self, offset: i64, (segment, pos): (i64, u64)) {
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
#[path = "read_test.rs"]
mod tests;
