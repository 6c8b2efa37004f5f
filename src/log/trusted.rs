//! Loading, part: segments whose files are believed, because a clean shutdown or a seal finished
//! them, after a look that costs a few reads. `None` everywhere: they don't look as they should,
//! and the segment must be walked.
//!
//! Index files have no checksum. Here their length and last entry are looked at; what a lookup uses
//! of them is held against the batch it leads to.

use crate::batch::{BatchHeader, HEADER_LEN};
use crate::index::{
    self, IndexEntry, OFFSET_ENTRY_LEN, OffsetIndex, TIME_ENTRY_LEN, TimeEntry, floor_in,
};
use crate::lookup::position_of;
use crate::recovery::{LoadedSegment, Loader};
use crate::scan::{Scanned, Scanner};
use crate::segment::{INDEX_SUFFIX, LOG_SUFFIX, SegmentMark, TIME_INDEX_SUFFIX};
use crate::txn_index::AbortedTxns;
use flumen_base::{DiskFile, LeaderEpoch, OpenMode};
use std::io;

/// No index file is longer (Kafka's `segment.index.bytes` is an i32).
pub(crate) const INDEX_FILE_MAX: u64 = i32::MAX as u64;
/// An index may end so many bytes of records, and two of the largest batches, before its segment.
const UNINDEXED_MAX: u64 = 16 << 20;

impl Loader<'_> {
    /// A segment that is believed; it is the last one if there is no `next`.
    pub(crate) fn load_trusted(
        &mut self,
        base: i64,
        next: Option<i64>,
    ) -> io::Result<Option<LoadedSegment>> {
        let Some(aborted) = self.read_aborted(base)? else {
            return Ok(None);
        };
        let size = self.disk.len(&self.path(base, LOG_SUFFIX))?;
        let loaded = match next {
            Some(next) => self.load_sealed(base, next, size)?,
            None => self.load_active(base, size)?,
        };
        Ok(loaded.map(|segment| LoadedSegment { aborted, ..segment }))
    }

    fn load_sealed(&self, base: i64, next: i64, size: u64) -> io::Result<Option<LoadedSegment>> {
        let mut mark = SegmentMark::empty(base);
        mark.size = size;
        if size > 0 {
            let offsets = (base, INDEX_SUFFIX, OFFSET_ENTRY_LEN);
            let end = self.index_end(offsets, |b| index::decode_offsets(b).collect())?;
            let Some((entries, last)) = end else {
                return Ok(None);
            };
            let from = last.map_or(0, |last| u64::from(last.position));
            let ends_early = size.saturating_sub(from) > self.unindexed_max();
            let inside = |e: IndexEntry| from < size && base + i64::from(e.last) < next;
            if ends_early || !last.is_none_or(inside) {
                return Ok(None);
            }
            mark.index_len = entries;
            let times = (base, TIME_INDEX_SUFFIX, TIME_ENTRY_LEN);
            let end = self.index_end(times, |b| index::decode_times(b).collect())?;
            let last = end.and_then(|(_, last)| last);
            let inside = |e: &TimeEntry| e.timestamp >= 0 && base + i64::from(e.offset) < next;
            let Some(last) = last.filter(inside) else {
                return Ok(None);
            };
            mark.max_timestamp = last.timestamp;
            mark.max_timestamp_offset = base + i64::from(last.offset);
        }
        let entries = mark.index_len;
        Ok(Some(LoadedSegment {
            base_offset: base,
            mark,
            index: OffsetIndex::Cold { entries },
            times: Vec::new(),
            time_checked: size == 0,
            aborted: AbortedTxns::default(),
            has_markers: false,
            end: next,
        }))
    }

    fn unindexed_max(&self) -> u64 {
        let config = &self.params.config;
        let batches = u64::from(config.max_message_bytes).saturating_mul(2);
        batches.max(UNINDEXED_MAX) + u64::from(config.index_interval_bytes)
    }

    /// How many entries an index file has, and the last one; `None` if it is not there, not made of
    /// whole entries, or the last one goes back.
    #[allow(clippy::type_complexity)] // said in words above
    fn index_end<T>(
        &self,
        (base, suffix, entry_len): (i64, &str, usize),
        decode: impl Fn(&[u8]) -> Vec<T>,
    ) -> io::Result<Option<(usize, Option<T>)>> {
        let file = match self.disk.open(&self.path(base, suffix), OpenMode::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let len = file.len()?;
        let whole = len <= INDEX_FILE_MAX && len % entry_len as u64 == 0;
        let entries = usize::try_from(len / entry_len as u64).ok();
        let Some(entries) = entries.filter(|_| whole) else {
            return Ok(None);
        };
        let mut bytes = vec![0; entries.min(2) * entry_len];
        let from = len - bytes.len() as u64;
        file.read_exact_at(&mut bytes, from)?;
        let mut last = decode(&bytes);
        let ascends = last.len() == entries.min(2);
        Ok(ascends.then(|| (entries, last.pop())))
    }

    /// The entries of a whole index file; `None` if it is not there or one of them goes back.
    fn whole_index<T>(
        &self,
        (base, suffix, entry_len): (i64, &str, usize),
        decode: impl Fn(&[u8]) -> Vec<T>,
    ) -> io::Result<Option<Vec<T>>> {
        match self.disk.read_all(&self.path(base, suffix), INDEX_FILE_MAX) {
            Ok(bytes) => {
                let entries = decode(&bytes);
                let whole = entries.len() * entry_len == bytes.len();
                Ok(whole.then_some(entries))
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// The active segment after a clean shutdown: its indexes, and the headers behind the last
    /// index entry.
    fn load_active(&mut self, base: i64, size: u64) -> io::Result<Option<LoadedSegment>> {
        let offsets = (base, INDEX_SUFFIX, OFFSET_ENTRY_LEN);
        let entries = self.whole_index(offsets, |b| index::decode_offsets(b).collect())?;
        let times = (base, TIME_INDEX_SUFFIX, TIME_ENTRY_LEN);
        let times = self.whole_index(times, |b| index::decode_times(b).collect())?;
        let (Some(entries), Some(times)) = (entries, times) else {
            // A log without records was never closed with more than its name.
            return Ok((size == 0).then(|| LoadedSegment::empty(base)));
        };
        let Some(last) = times.last().copied() else {
            let empty = size == 0 && entries.is_empty();
            return Ok(empty.then(|| LoadedSegment::empty(base)));
        };
        let indexed = entries.last().map_or(0, |e| u64::from(e.position));
        if indexed >= size || size - indexed > self.unindexed_max() {
            return Ok(None);
        }
        let file = self
            .disk
            .open(&self.path(base, LOG_SUFFIX), OpenMode::Read)?;
        let mut end = ActiveEnd {
            base,
            gaps: self.may_have_gaps(base),
            indexed: entries.last().copied(),
            last,
            end: None,
            batch: None,
            epoch: -1,
            seen: (false, false),
        };
        let from = position_of(floor_in(&entries, last.offset).0).min(indexed);
        let mut scanner = Scanner::new(&*file, from, size, false);
        while let Ok(Some(scanned)) = scanner.next_header()? {
            if !end.take(&scanned) {
                return Ok(None);
            }
            end.batch = Some(scanned);
        }
        let whole = scanner.pos() == size && end.seen == (true, true);
        let Some(log_end) = end.end.filter(|_| whole) else {
            return Ok(None);
        };
        // A clean stop has written down where the log ends. Where that says something else, the
        // last batch must show that its header is right.
        if log_end != self.params.recovery_point.0
            && let Some(batch) = &end.batch
            && scanner.check(batch)?.is_err()
        {
            return Ok(None);
        }
        self.check_epoch(end.epoch, log_end - 1);
        let mut mark = SegmentMark::empty(base);
        mark.first_timestamp = first_timestamp(&*file, size)?;
        mark.max_timestamp = last.timestamp;
        mark.max_timestamp_offset = base + i64::from(last.offset);
        mark.size = size;
        mark.bytes_since_index = size - indexed;
        (mark.index_len, mark.time_len) = (entries.len(), times.len());
        Ok(Some(LoadedSegment {
            base_offset: base,
            mark,
            index: OffsetIndex::Full(entries),
            times,
            time_checked: true,
            aborted: AbortedTxns::default(),
            has_markers: false,
            end: log_end,
        }))
    }
}

/// A walk through the headers at the end of an active segment, held against the ends of its
/// indexes.
struct ActiveEnd {
    base: i64,
    gaps: bool,
    /// The last entries of both indexes.
    indexed: Option<IndexEntry>,
    last: TimeEntry,
    /// One above the last record so far.
    end: Option<i64>,
    /// The last one so far.
    batch: Option<Scanned>,
    epoch: LeaderEpoch,
    /// Whether the batches have come that the two entries name.
    seen: (bool, bool),
}

impl ActiveEnd {
    /// Takes the next batch; false if it does not fit.
    fn take(&mut self, scanned: &Scanned) -> bool {
        let header = scanned.header();
        let (first, last) = (header.base_offset(), header.last_offset());
        let follows = match self.end {
            Some(end) => first == end || (self.gaps && first > end),
            None => scanned.pos > 0 || first == self.base || self.gaps,
        };
        let offset = self.base + i64::from(self.last.offset);
        let newest = header.max_timestamp();
        if first <= offset && offset <= last {
            self.seen.1 = newest == self.last.timestamp;
        }
        match self.indexed {
            None => self.seen.0 = true,
            Some(e) if u64::from(e.position) == scanned.pos => {
                self.seen.0 = last == self.base + i64::from(e.last);
            }
            Some(_) => {}
        }
        (self.end, self.epoch) = (Some(last.saturating_add(1)), header.leader_epoch());
        follows && first <= last && newest <= self.last.timestamp
    }
}

/// Whether a time entry says what the batch says to which it leads.
pub(crate) fn time_fits(header: &BatchHeader<'_>, entry: TimeEntry) -> bool {
    header.max_timestamp() == entry.timestamp
}

/// Whether the batch that holds this offset has this timestamp as its largest, and none behind it a
/// larger one; if so, one above the last record. Looked for from a batch's position on.
pub(crate) fn is_largest(
    file: &dyn DiskFile,
    (from, size): (u64, u64),
    (offset, timestamp): (i64, i64),
) -> io::Result<Option<i64>> {
    let Some(found) = find_batch(file, (from, size), offset)? else {
        return Ok(None);
    };
    if found.header().max_timestamp() != timestamp {
        return Ok(None);
    }
    let mut scanner = Scanner::new(file, found.pos, size, false);
    let mut end = None;
    loop {
        match scanner.next_header()? {
            Ok(None) => return Ok(end),
            Ok(Some(scanned)) if scanned.header().max_timestamp() <= timestamp => {
                end = Some(scanned.header().last_offset().saturating_add(1));
            }
            Ok(Some(_)) | Err(_) => return Ok(None),
        }
    }
}

/// The batch that holds this offset, looked for from a batch's position on; `None` where no chain
/// of batches leads to it.
pub(crate) fn find_batch(
    file: &dyn DiskFile,
    (from, size): (u64, u64),
    offset: i64,
) -> io::Result<Option<Scanned>> {
    let mut scanner = Scanner::new(file, from, size, false);
    while let Ok(Some(scanned)) = scanner.next_header()? {
        let header = scanned.header();
        if header.last_offset() >= offset {
            return Ok((header.base_offset() <= offset).then_some(scanned));
        }
    }
    Ok(None)
}

fn first_timestamp(file: &dyn DiskFile, size: u64) -> io::Result<Option<i64>> {
    if size < HEADER_LEN as u64 {
        return Ok(None);
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0)?;
    Ok(Some(BatchHeader::from_array(&header).max_timestamp()))
}
