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

use crate::batch::{BatchHeader, MAGIC};
use crate::index::{Floor, IndexEntry, OFFSET_ENTRY_LEN, decode_offsets, floor_in};
use crate::log::Log;
use crate::lookup::position_of;
use crate::segment::{Segment, relative};
use bytes::Bytes;
use flumen_base::limits::TAIL_BYTES_PER_PARTITION_MAX;
use flumen_base::{LogFile, Offset};
use smallvec::SmallVec;
use std::sync::Arc;

/// Bytes of one look at batch headers.
const SCAN_LEN: u32 = 8 << 10;
/// Requests up to so many bytes are answered with what a scan has read.
const SCANNED_ANSWER_MAX: u32 = 256 << 10;

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
    /// Batch headers; whether it was an index that said where they begin.
    Headers { by_index: bool },
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
    /// It begins after the offset that is wanted.
    after_gap: bool,
}

/// What a look at batch headers gives.
#[derive(Clone, Copy, Debug)]
enum Looked {
    /// Something to return.
    Found(Found),
    /// Nothing below the bound.
    Ended,
    /// All of them are below the offset; the next begins here.
    Passed(u64),
    /// An index led to a place where no batch begins that may hold the offset.
    Astray,
    /// No batch begins here.
    Damaged(u64),
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
            self.end_read = true;
            return ReadPlan::Empty;
        }
        if let Some(plan) = self.tail.read(request, bound) {
            self.end_read = true;
            return plan;
        }
        let above = self.segments.partition_point(|s| s.base_offset <= offset);
        let plan = self.plan_in_segment(above.saturating_sub(1), request);
        self.end_read |= self.is_near_end(&plan);
        plan
    }

    /// Whether it begins where a memory tail might reach.
    fn is_near_end(&self, plan: &ReadPlan) -> bool {
        let range = match plan {
            ReadPlan::File(range) => range,
            ReadPlan::NeedScan(scan) => &scan.range,
            _ => return false,
        };
        let active = self.segments.back();
        active.is_some_and(|active| {
            let ahead = active.written.saturating_sub(range.pos);
            Arc::ptr_eq(&range.file, &active.file) && ahead <= TAIL_BYTES_PER_PARTITION_MAX as u64
        })
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
            ScanKind::Headers { .. } => Arc::ptr_eq(&scan.range.file, &segment.file),
            _ => Arc::ptr_eq(&scan.range.file, &segment.index_file),
        };
        if !same {
            return self.plan_read(&request); // compaction has put another in its place
        }
        match scan.kind {
            ScanKind::WholeIndex => {
                if !segment.index.load_samples(bytes, segment.written)
                    && !self.distrust_index(index)
                {
                    return ReadPlan::Corrupt; // it had entries
                }
                self.plan_in_segment(index, &request)
            }
            ScanKind::IndexBlock => {
                let entries: Vec<IndexEntry> = decode_offsets(bytes).collect();
                if entries.len() * OFFSET_ENTRY_LEN != scan.range.len as usize {
                    self.distrust_index(index);
                    return self.plan_in_segment(index, &request);
                }
                let offset = relative(request.offset.0, segment.base_offset);
                let pos = position_of(floor_in(&entries, offset).0);
                if pos >= segment.written {
                    self.distrust_index(index);
                    return self.plan_in_segment(index, &request);
                }
                scan_headers(segment, &request, (pos, true))
            }
            ScanKind::Headers { by_index } => {
                let at = (scan.range.pos, by_index);
                self.resume_headers(index, &request, at, bytes)
            }
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
            // Compaction has left nothing, or the file has lost all.
            return self.plan_after_gap(index, request, 0);
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
            Floor::AtOrAfter(pos) => scan_headers(segment, request, (pos.into(), true)),
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

    /// Goes on with the batches in `bytes`, which stand at `start` in the file.
    fn resume_headers(
        &mut self,
        index: usize,
        request: &ReadRequest,
        (start, by_index): (u64, bool),
        bytes: &Bytes,
    ) -> ReadPlan {
        let bound = self.read_bound(request);
        let Some(segment) = self.segments.get(index) else {
            return ReadPlan::Corrupt;
        };
        let base = segment.base_offset;
        let next = self.segments.get(index + 1);
        let end = next.map_or(self.log_end, |next| next.base_offset);
        let looked = look(segment, request, (bound, end), (start, by_index), bytes);
        if let Looked::Found(found) = looked
            && found.after_gap
            && self.is_loss(index, request.offset.0, found.pos)
        {
            return ReadPlan::Corrupt;
        }
        let Some(segment) = self.segments.get(index) else {
            return ReadPlan::Corrupt; // it was there
        };
        match looked {
            Looked::Found(Found {
                pos,
                whole: Some((end, next)),
                ..
            }) if request.max_bytes <= SCANNED_ANSWER_MAX => {
                self.positions.insert(next, (base, end));
                let from = usize::try_from(pos - start).unwrap_or(usize::MAX);
                let to = usize::try_from(end - start).unwrap_or(usize::MAX);
                ReadPlan::Memory(SmallVec::from_iter([bytes.slice(from..to)]))
            }
            Looked::Found(Found { pos, seen, .. }) => {
                let seen = Some(seen);
                self.finish(index, request, Start { pos, seen })
            }
            Looked::Ended => ReadPlan::Empty,
            Looked::Passed(pos) if pos >= segment.written => {
                self.plan_after_gap(index, request, pos)
            }
            Looked::Passed(pos) if pos == start => {
                // Not even one header: the file is too short.
                self.note_damage(base, pos, "the file ends here");
                ReadPlan::Corrupt
            }
            Looked::Passed(pos) => scan_headers(segment, request, (pos, false)),
            Looked::Astray if self.distrust_index(index) => self.plan_in_segment(index, request),
            Looked::Astray => {
                self.note_damage(base, start, "no batch begins here");
                ReadPlan::Corrupt
            }
            Looked::Damaged(pos) => {
                self.note_damage(base, pos, "no batch begins here");
                ReadPlan::Corrupt
            }
        }
    }

    /// The batches before this place don't hold `offset`, and those from it on are above.
    /// Compaction leaves such gaps; where there never was one, records are lost, and a reader that
    /// went on would not know.
    fn is_loss(&mut self, index: usize, offset: i64, pos: u64) -> bool {
        if !self.is_dense() {
            return false;
        }
        if let Some(base) = self.segments.get(index).map(|s| s.base_offset) {
            let why = format!("offset {offset} should stand before it");
            self.note_damage(base, pos, &why);
        }
        true
    }

    /// The segment ends before the offset: its place is in the next one, if that may be.
    fn plan_after_gap(&mut self, index: usize, request: &ReadRequest, end: u64) -> ReadPlan {
        let offset = request.offset.0;
        if offset >= self.read_bound(request) {
            return ReadPlan::Empty; // taken back since the read was planned
        }
        match self.is_loss(index, offset, end) {
            true => ReadPlan::Corrupt,
            false => self.plan_in_segment(index + 1, request),
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
            return self.plan_after_gap(index, request, pos);
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
            return scan_headers(segment, request, (pos, false));
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
                (_, None) => return scan_headers(segment, request, (pos, false)),
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

/// Looks through the batches in `bytes`, which stand at `start` in the file.
fn look(
    segment: &Segment,
    request: &ReadRequest,
    (bound, segment_end): (i64, i64),
    (start, by_index): (u64, bool),
    bytes: &Bytes,
) -> Looked {
    let room = u64::from(request.max_bytes);
    let (mut pos, mut found) = (start, None::<Found>);
    while pos < segment.written {
        let at = usize::try_from(pos - start).unwrap_or(usize::MAX);
        let Some(header) = bytes.get(at..).and_then(BatchHeader::new) else {
            break;
        };
        let led = by_index && pos == start && start > 0;
        let len = match whole_batch(segment, segment_end, &header, pos) {
            Some(_) if led && header.base_offset() > request.offset.0 => return Looked::Astray,
            None if led => return Looked::Astray,
            None => return Looked::Damaged(pos),
            Some(len) => len,
        };
        let (first_len, end) = (len as u64, pos + len as u64);
        if found.is_some() || header.last_offset() >= request.offset.0 {
            if header.last_offset() >= bound {
                // What was found before it is all there is.
                return found.map_or(Looked::Ended, Looked::Found);
            }
            let is_first = found.is_none();
            let seen = Seen { first_len, end };
            let found = found.get_or_insert(Found {
                pos,
                seen,
                whole: None,
                after_gap: header.base_offset() > request.offset.0,
            });
            found.seen.end = end;
            let fits = end - found.pos <= room || (is_first && request.min_one);
            if fits && at.saturating_add(len) <= bytes.len() {
                found.whole = Some((end, header.last_offset() + 1));
            }
        }
        pos = end;
    }
    found.map_or(Looked::Passed(pos), Looked::Found)
}

/// The length of the batch that begins at `pos`, if its header may be one of this segment.
fn whole_batch(
    segment: &Segment,
    segment_end: i64,
    header: &BatchHeader<'_>,
    pos: u64,
) -> Option<usize> {
    let len = header.size().ok()?;
    let fits = header.magic() == MAGIC
        && pos.saturating_add(len as u64) <= segment.written
        && header.base_offset() >= segment.base_offset
        && header.last_offset() >= header.base_offset()
        && header.last_offset() < segment_end;
    fits.then_some(len)
}

fn scan_headers(
    segment: &Segment,
    request: &ReadRequest,
    (pos, by_index): (u64, bool),
) -> ReadPlan {
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
        kind: ScanKind::Headers { by_index },
    })
}

#[cfg(test)]
#[path = "read_test.rs"]
mod tests;
