//! Indexes checked in step with the batches of their segment: each reads its file once, in chunks.
//! [`Check`] walks the entries and stops at the first that does not go on from the one before it;
//! what each kind of entry says about a batch stands with the kind.

use super::entries::{AbortedTxn, Entries, OffsetEntry, TXN_ENTRY_LEN, TimestampEntry};
use super::segment::Passed;
use super::verify::Verifier;
use crate::index::{OFFSET_ENTRY_LEN, TIME_ENTRY_LEN};
use flumen_base::DiskFile;
use std::io;
use std::path::PathBuf;

const SCANNED_AGAIN: &str =
    "lookups from here on read more than they must; the index is made again when it is removed";

/// A file of entries with the next one at hand.
struct Cursor<'a, const N: usize> {
    path: PathBuf,
    len: u64,
    entries: Entries<'a, N>,
    next: Option<(u64, [u8; N])>,
    /// Read already, behind a first entry of zeros.
    ahead: Option<(u64, [u8; N])>,
    begun: bool,
    read: u64,
}

impl<'a, const N: usize> Cursor<'a, N> {
    fn new(path: PathBuf, file: &'a dyn DiskFile, len: u64) -> Self {
        Self {
            path,
            len,
            entries: Entries::new(file, len),
            next: None,
            ahead: None,
            begun: false,
            read: 0,
        }
    }

    /// The entry at hand; the first call reads the first one.
    fn peek(&mut self, v: &mut Verifier<'_>) -> io::Result<Option<(u64, [u8; N])>> {
        if !self.begun {
            self.begun = true;
            if !self.len.is_multiple_of(N as u64) {
                let whole = self.len - self.len % N as u64;
                let what = format!("{} bytes are no whole entry", self.len - whole);
                v.defect(
                    &self.path,
                    whole,
                    &what,
                    "the segment is read again at start",
                );
            }
            self.advance(v)?;
        }
        Ok(self.next)
    }

    /// On to the next entry. Zeros up to the end are space that was taken ahead.
    fn advance(&mut self, v: &mut Verifier<'_>) -> io::Result<()> {
        self.next = match self.ahead.take() {
            Some(entry) => Some(entry),
            None => self.entries.next_entry()?,
        };
        self.read += 1;
        let Some((pos, _)) = self.next.filter(|(_, entry)| *entry == [0; N]) else {
            return Ok(());
        };
        let mut following = self.entries.next_entry()?;
        if self.read == 1 && following.is_none_or(|(_, entry)| entry != [0; N]) {
            self.ahead = following; // time 0 at the first offset
            return Ok(());
        }
        while let Some((_, entry)) = following {
            following = self.entries.next_entry()?;
            if entry != [0; N] {
                let so = "lookups stop here; the segment is read again at start";
                v.defect(&self.path, pos, "entries of zeros before others", so);
                self.next = None;
                return Ok(());
            }
        }
        self.next = None;
        let what = format!("{} bytes of zeros at the end", self.len - pos);
        let so = "space that was taken ahead: the broker runs, or was not stopped cleanly";
        v.note(&self.path, pos, &what, so);
        Ok(())
    }

    /// Nothing more is read.
    fn stop(&mut self) {
        self.begun = true;
        self.next = None;
    }

    fn stopped(&self) -> bool {
        self.begun && self.next.is_none()
    }
}

/// A kind of entry, `N` bytes each.
pub(super) trait Entry<const N: usize>: Copy {
    /// From its bytes.
    fn decode(bytes: &[u8; N]) -> Self;

    /// Whether it may stand behind `before` in an index of the segment with this base offset.
    fn follows(&self, before: Option<&Self>, base: i64) -> bool;

    /// What to say of one that does not follow, and what comes of it.
    fn message(&self, before: Option<&Self>) -> (String, &'static str);
}

/// An index against its batches.
pub(super) struct Check<'a, E, const N: usize> {
    cursor: Cursor<'a, N>,
    base: i64,
    previous: Option<E>,
}

/// An `.index` against its batches.
pub(super) type OffsetCheck<'a> = Check<'a, OffsetEntry, OFFSET_ENTRY_LEN>;
/// A `.timeindex` against its batches.
pub(super) type TimeCheck<'a> = Check<'a, TimestampEntry, TIME_ENTRY_LEN>;
/// A `.txnindex` against its batches.
pub(super) type TxnCheck<'a> = Check<'a, AbortedTxn, TXN_ENTRY_LEN>;

impl<'a, E: Entry<N>, const N: usize> Check<'a, E, N> {
    pub(super) fn new(path: PathBuf, file: &'a dyn DiskFile, len: u64, base: i64) -> Self {
        Self {
            cursor: Cursor::new(path, file, len),
            base,
            previous: None,
        }
    }

    /// The entry at hand, if it goes on from the one before it; else the check ends.
    fn entry(&mut self, v: &mut Verifier<'_>) -> io::Result<Option<(u64, E)>> {
        let Some((pos, bytes)) = self.cursor.peek(v)? else {
            return Ok(None);
        };
        let (entry, before) = (E::decode(&bytes), self.previous.as_ref());
        if entry.follows(before, self.base) {
            return Ok(Some((pos, entry)));
        }
        let (what, so) = entry.message(before);
        v.defect(&self.cursor.path, pos, &what, so);
        self.cursor.stop();
        Ok(None)
    }

    fn pass(&mut self, v: &mut Verifier<'_>, entry: E) -> io::Result<()> {
        self.previous = Some(entry);
        self.cursor.advance(v)
    }
}

impl Entry<OFFSET_ENTRY_LEN> for OffsetEntry {
    fn decode(bytes: &[u8; OFFSET_ENTRY_LEN]) -> Self {
        Self::decode(bytes)
    }

    fn follows(&self, before: Option<&Self>, _base: i64) -> bool {
        let above = |b: &Self| self.relative > b.relative && self.position > b.position;
        before.map_or(self.relative >= 0 && self.position >= 0, above)
    }

    fn message(&self, _before: Option<&Self>) -> (String, &'static str) {
        let (relative, position) = (self.relative, self.position);
        let what = format!("entry (+{relative}, {position}) is not above the one before it");
        let so = "lookups take the entries before it only; the segment is read again at start";
        (what, so)
    }
}

impl Entry<TIME_ENTRY_LEN> for TimestampEntry {
    fn decode(bytes: &[u8; TIME_ENTRY_LEN]) -> Self {
        Self::decode(bytes)
    }

    fn follows(&self, before: Option<&Self>, _base: i64) -> bool {
        let above = |b: &Self| self.timestamp > b.timestamp && self.relative >= b.relative;
        self.relative >= 0 && before.is_none_or(above)
    }

    fn message(&self, _before: Option<&Self>) -> (String, &'static str) {
        let (timestamp, relative) = (self.timestamp, self.relative);
        let what = format!("entry ({timestamp}, +{relative}) is not above the one before it");
        (what, "lookups by time take the entries before it only")
    }
}

impl Entry<TXN_ENTRY_LEN> for AbortedTxn {
    fn decode(bytes: &[u8; TXN_ENTRY_LEN]) -> Self {
        Self::decode(bytes)
    }

    fn follows(&self, before: Option<&Self>, base: i64) -> bool {
        let (first, last) = (self.first_offset, self.last_offset);
        let is_ordered = (0..=last).contains(&first) && last >= base;
        self.version == 0 && is_ordered && before.is_none_or(|b| last > b.last_offset)
    }

    fn message(&self, before: Option<&Self>) -> (String, &'static str) {
        let (first, last, after) = (
            self.first_offset,
            self.last_offset,
            before.map_or(-1, |b| b.last_offset),
        );
        let (version, id) = (self.version, self.producer_id);
        let what = format!(
            "entry of version {version}, producer {id}, offsets {first} to {last}, after {after}"
        );
        (
            what,
            "consumers of committed records may be given aborted ones",
        )
    }
}

impl OffsetCheck<'_> {
    pub(super) fn on_batch(&mut self, v: &mut Verifier<'_>, batch: &Passed) -> io::Result<()> {
        while !self.cursor.stopped() {
            let Some((pos, entry)) = self.entry(v)? else {
                return Ok(());
            };
            let position = u64::try_from(entry.position).unwrap_or(0);
            if position > batch.pos {
                return Ok(());
            }
            let offset = self.base.saturating_add(i64::from(entry.relative));
            if position < batch.pos {
                let what = format!("offset {offset}: no batch begins at {position}");
                let so = "a lookup of this offset reads from the middle of a batch";
                v.defect(&self.cursor.path, pos, &what, so);
            } else if offset < batch.first {
                let first = batch.first;
                let what = format!("offset {offset}: the batch at {position} begins with {first}");
                let so = "a lookup of this offset misses records";
                v.defect(&self.cursor.path, pos, &what, so);
            } else if offset != batch.last {
                let last = batch.last;
                let what = format!("offset {offset}: the batch at {position} ends with {last}");
                v.note(&self.cursor.path, pos, &what, SCANNED_AGAIN);
            }
            self.pass(v, entry)?;
        }
        Ok(())
    }

    /// Passes the entries of a damaged part of the segment.
    pub(super) fn skip(&mut self, v: &mut Verifier<'_>, from: u64, to: u64) -> io::Result<()> {
        while let Some((_, entry)) = self.entry(v)? {
            let position = u64::try_from(entry.position).unwrap_or(0);
            if !(from..to).contains(&position) {
                break;
            }
            self.pass(v, entry)?;
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, v: &mut Verifier<'_>, log_len: u64) -> io::Result<()> {
        while let Some((pos, entry)) = self.entry(v)? {
            let what = match u64::try_from(entry.position) {
                Ok(position) if position < log_len => format!("no batch begins at {position}"),
                _ => format!("position {} is behind the segment's end", entry.position),
            };
            let so = "the segment was cut, or its index is of another: it is read again at start";
            v.defect(&self.cursor.path, pos, &what, so);
            self.pass(v, entry)?;
        }
        Ok(())
    }
}

impl TimeCheck<'_> {
    pub(super) fn on_batch(&mut self, v: &mut Verifier<'_>, batch: &Passed) -> io::Result<()> {
        while !self.cursor.stopped() {
            let Some((pos, entry)) = self.entry(v)? else {
                return Ok(());
            };
            let offset = self.base.saturating_add(i64::from(entry.relative));
            if offset > batch.last {
                return Ok(());
            }
            let (time, path) = (entry.timestamp, &self.cursor.path);
            if batch.timestamp_before > time {
                let before = batch.timestamp_before;
                let what = format!("time {time} at offset {offset}, but {before} comes before it");
                v.defect(path, pos, &what, "lookups by time miss records");
            } else if offset >= batch.first && batch.max_timestamp != time {
                let max = batch.max_timestamp;
                let what = format!("time {time} at offset {offset}, whose batch has up to {max}");
                v.defect(path, pos, &what, "lookups by time begin at a wrong place");
            }
            self.pass(v, entry)?;
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, v: &mut Verifier<'_>, log_end: i64) -> io::Result<()> {
        while let Some((pos, entry)) = self.entry(v)? {
            let offset = self.base.saturating_add(i64::from(entry.relative));
            // The first entry of an empty segment, as Kafka writes it when it closes one.
            if offset >= log_end && !(log_end == self.base && entry.timestamp <= 0) {
                let what = format!("offset {offset} is behind the segment's last");
                let so = "lookups by time begin behind the end";
                v.defect(&self.cursor.path, pos, &what, so);
            }
            self.pass(v, entry)?;
        }
        Ok(())
    }
}

impl TxnCheck<'_> {
    pub(super) fn on_batch(&mut self, v: &mut Verifier<'_>, batch: &Passed) -> io::Result<()> {
        while !self.cursor.stopped() {
            let Some((pos, txn)) = self.entry(v)? else {
                return Ok(());
            };
            if txn.last_offset > batch.last {
                return Ok(());
            }
            // Below the batch: compaction removed the marker.
            if txn.last_offset >= batch.first && batch.aborts != Some(txn.producer_id) {
                let (id, at) = (txn.producer_id, txn.last_offset);
                let what = format!("no abort of producer {id} stands at offset {at}");
                let so = "consumers of committed records are not given what they should be";
                v.defect(&self.cursor.path, pos, &what, so);
            }
            self.pass(v, txn)?;
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, v: &mut Verifier<'_>, log_end: i64) -> io::Result<()> {
        while let Some((pos, txn)) = self.entry(v)? {
            let what = format!("offset {} is behind the end {log_end}", txn.last_offset);
            let so = "the segment was cut, or its index is of another";
            v.defect(&self.cursor.path, pos, &what, so);
            self.pass(v, txn)?;
        }
        Ok(())
    }
}
