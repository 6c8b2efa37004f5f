//! Loading, part: one segment walked batch by batch, in slices, and its indexes made anew.
//!
//! Below the recovery point everything was synced: there headers are enough. From it on each batch
//! is read as a whole and its CRC checked; the first that is not whole and valid ends the segment.

use crate::batch::BatchHeader;
use crate::index::{IndexEntry, OffsetIndex, TimeEntry, push_time};
use crate::recovery::LoadedSegment;
use crate::scan::Scanner;
use crate::segment::{SegmentMark, push_index, relative};
use crate::txn_index::AbortedTxns;
use flumen_base::{DiskFile, LeaderEpoch, aligned};
use std::io;

/// Where a walk stands between two slices.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) base: i64,
    /// It takes appends: the last of the log.
    pub(crate) is_last: bool,
    /// Batches that end below this offset are not read but for their headers.
    checked_from: i64,
    /// A batch must begin where the one before it ended: nothing was compacted away here.
    dense_from: i64,
    interval: u32,
    pub(crate) mark: SegmentMark,
    entries: Vec<IndexEntry>,
    times: Vec<TimeEntry>,
    /// Transaction markers were among its batches.
    has_markers: bool,
    /// One above the last record so far.
    pub(crate) end: i64,
    /// Leader epochs with the offset at which each begins, as they come.
    pub(crate) epochs: Vec<(LeaderEpoch, i64)>,
}

/// How a slice of a walk ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// There is more of the segment.
    More,
    /// All of it is whole and valid.
    Whole,
    /// At [`SegmentMark::size`] stands something else than the next batch.
    Damaged(String),
}

/// What decides how a segment is walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) is_last: bool,
    /// Everything below was synced.
    pub(crate) point: i64,
    /// Records may have been compacted away.
    pub(crate) gaps: bool,
    pub(crate) interval: u32,
}

impl Walk {
    pub(crate) fn new(base: i64, rules: Rules) -> Self {
        Self {
            base,
            is_last: rules.is_last,
            checked_from: rules.point,
            dense_from: match (rules.gaps, rules.is_last) {
                (true, _) => i64::MAX,
                // Compaction leaves the active segment alone.
                (false, true) => i64::MIN,
                // It may have been compacted before its policy changed.
                (false, false) => rules.point,
            },
            interval: rules.interval,
            mark: SegmentMark::empty(base),
            entries: Vec::new(),
            times: Vec::new(),
            has_markers: false,
            end: base,
            epochs: Vec::new(),
        }
    }

    /// Goes on for about `left` bytes, which are taken off.
    pub(crate) fn slice(&mut self, file: &dyn DiskFile, left: &mut u64) -> io::Result<Slice> {
        if self.mark.size == 0 {
            // What an earlier process could not sync may stand in memory, and nowhere else.
            file.drop_clean()?;
        }
        self.slice_to(file, file.len()?, left)
    }

    /// The same, of a segment that has `size` bytes.
    pub(crate) fn slice_to(
        &mut self,
        file: &dyn DiskFile,
        size: u64,
        left: &mut u64,
    ) -> io::Result<Slice> {
        let from = self.mark.size;
        let mut scanner = Scanner::new(file, from, size, self.end >= self.checked_from);
        loop {
            let used = self.mark.size - from;
            if used > *left {
                *left = 0;
                return Ok(Slice::More);
            }
            let scanned = match scanner.next_header()? {
                Ok(None) => {
                    *left -= used;
                    return Ok(Slice::Whole);
                }
                Ok(Some(scanned)) => scanned,
                Err(_) if is_padding(file, self.mark.size, size)? => return Ok(Slice::Whole),
                Err(error) => return Ok(Slice::Damaged(error.to_string())),
            };
            let header = scanned.header();
            if let Some(why) = self.misfit(&header) {
                return Ok(Slice::Damaged(why));
            }
            if header.last_offset() >= self.checked_from {
                scanner.want_whole(true);
                if let Err(error) = scanner.check(&scanned)? {
                    return Ok(Slice::Damaged(error.to_string()));
                }
            }
            self.take(&header, scanned.len as u64);
        }
    }

    /// Why a batch does not belong where it stands.
    fn misfit(&self, header: &BatchHeader<'_>) -> Option<String> {
        let (first, last) = (header.base_offset(), header.last_offset());
        let goes_on = match self.end >= self.dense_from {
            true => first == self.end,
            false => first >= self.end,
        };
        let fits = goes_on && last >= first && last - self.base <= i64::from(i32::MAX);
        (!fits).then(|| format!("offsets {first} to {last} where {} should follow", self.end))
    }

    fn take(&mut self, header: &BatchHeader<'_>, len: u64) {
        let (entries, times) = (&mut self.entries, &mut self.times);
        push_index(
            &mut self.mark,
            entries,
            times,
            self.base,
            header,
            self.interval,
        );
        self.mark.size += len;
        self.mark.bytes_since_index += len;
        self.end = header.last_offset() + 1;
        self.has_markers |= header.is_control();
        let epoch = header.leader_epoch();
        if self.epochs.last().is_none_or(|last| last.0 < epoch) {
            self.epochs.push((epoch, header.base_offset()));
        }
    }

    /// The walk is over.
    pub(crate) fn into_segment(mut self) -> LoadedSegment {
        let last = TimeEntry {
            timestamp: self.mark.max_timestamp,
            offset: relative(self.mark.max_timestamp_offset, self.base),
        };
        push_time(&mut self.times, last);
        (self.mark.index_len, self.mark.time_len) = (self.entries.len(), self.times.len());
        LoadedSegment {
            base_offset: self.base,
            mark: self.mark,
            index: OffsetIndex::Full(self.entries),
            times: self.times,
            time_checked: true,
            aborted: AbortedTxns::default(),
            has_markers: self.has_markers,
            end: self.end,
        }
    }
}

/// Whether nothing but zeros stands there, less than a block of them: the rest of a direct write's
/// last block, no lost batch.
fn is_padding(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<bool> {
    let mut block = [0; aligned::BLOCK];
    let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    let Some(part) = block.get_mut(..len) else {
        return Ok(false);
    };
    file.read_exact_at(part, from)?;
    Ok(part.iter().all(|b| *b == 0))
}
