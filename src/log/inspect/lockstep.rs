//! Indexes checked in step with the batches of their segment: each reads its file once, in chunks.

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

/// An `.index` against its batches.
pub(super) struct OffsetCheck<'a> {
    cursor: Cursor<'a, OFFSET_ENTRY_LEN>,
    base: i64,
    previous: Option<OffsetEntry>,
}

impl<'a> OffsetCheck<'a> {
    pub(super) fn new(path: PathBuf, file: &'a dyn DiskFile, len: u64, base: i64) -> Self {
        Self {
            cursor: Cursor::new(path, file, len),
            base,
            previous: None,
        }
    }

    /// The entry at hand, if it goes on from the one before it; else the check ends.
    fn entry(&mut self, v: &mut Verifier<'_>) -> io::Result<Option<(u64, OffsetEntry)>> {
        let Some((pos, bytes)) = self.cursor.peek(v)? else {
            return Ok(None);
        };
        let entry = OffsetEntry::decode(&bytes);
        let first = OffsetEntry {
            relative: -1,
            position: -1,
        };
        let before = self.previous.unwrap_or(first);
        if entry.relative > before.relative && entry.position > before.position {
            return Ok(Some((pos, entry)));
        }
        let (relative, position) = (entry.relative, entry.position);
        let what = format!("entry (+{relative}, {position}) is not above the one before it");
        let so = "lookups take the entries before it only; the segment is read again at start";
        v.defect(&self.cursor.path, pos, &what, so);
        self.cursor.stop();
        Ok(None)
    }

    fn pass(&mut self, v: &mut Verifier<'_>, entry: OffsetEntry) -> io::Result<()> {
        self.previous = Some(entry);
        self.cursor.advance(v)
    }

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

/// A `.timeindex` against its batches.
pub(super) struct TimeCheck<'a> {
    cursor: Cursor<'a, TIME_ENTRY_LEN>,
    base: i64,
    previous: Option<TimestampEntry>,
}

impl<'a> TimeCheck<'a> {
    pub(super) fn new(path: PathBuf, file: &'a dyn DiskFile, len: u64, base: i64) -> Self {
        Self {
            cursor: Cursor::new(path, file, len),
            base,
            previous: None,
        }
    }

    fn entry(&mut self, v: &mut Verifier<'_>) -> io::Result<Option<(u64, TimestampEntry)>> {
        let Some((pos, bytes)) = self.cursor.peek(v)? else {
            return Ok(None);
        };
        let entry = TimestampEntry::decode(&bytes);
        let ascends = self
            .previous
            .is_none_or(|p| entry.timestamp > p.timestamp && entry.relative >= p.relative);
        if ascends && entry.relative >= 0 {
            return Ok(Some((pos, entry)));
        }
        let (timestamp, relative) = (entry.timestamp, entry.relative);
        let what = format!("entry ({timestamp}, +{relative}) is not above the one before it");
        let so = "lookups by time take the entries before it only";
        v.defect(&self.cursor.path, pos, &what, so);
        self.cursor.stop();
        Ok(None)
    }

    fn pass(&mut self, v: &mut Verifier<'_>, entry: TimestampEntry) -> io::Result<()> {
        self.previous = Some(entry);
        self.cursor.advance(v)
    }

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

/// A `.txnindex` against its batches.
pub(super) struct TxnCheck<'a> {
    cursor: Cursor<'a, TXN_ENTRY_LEN>,
    base: i64,
    previous: i64,
}

impl<'a> TxnCheck<'a> {
    pub(super) fn new(path: PathBuf, file: &'a dyn DiskFile, len: u64, base: i64) -> Self {
        Self {
            cursor: Cursor::new(path, file, len),
            base,
            previous: -1,
        }
    }

    fn entry(&mut self, v: &mut Verifier<'_>) -> io::Result<Option<(u64, AbortedTxn)>> {
        let Some((pos, bytes)) = self.cursor.peek(v)? else {
            return Ok(None);
        };
        let txn = AbortedTxn::decode(&bytes);
        let (first, last) = (txn.first_offset, txn.last_offset);
        let fits = txn.version == 0
            && last > self.previous
            && (0..=last).contains(&first)
            && last >= self.base;
        if fits {
            return Ok(Some((pos, txn)));
        }
        let (version, id) = (txn.version, txn.producer_id);
        let what = format!(
            "entry of version {version}, producer {id}, offsets {first} to {last}, after {}",
            self.previous
        );
        let so = "consumers of committed records may be given aborted ones";
        v.defect(&self.cursor.path, pos, &what, so);
        self.cursor.stop();
        Ok(None)
    }

    fn pass(&mut self, v: &mut Verifier<'_>, txn: &AbortedTxn) -> io::Result<()> {
        self.previous = txn.last_offset;
        self.cursor.advance(v)
    }

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
            self.pass(v, &txn)?;
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, v: &mut Verifier<'_>, log_end: i64) -> io::Result<()> {
        while let Some((pos, txn)) = self.entry(v)? {
            let what = format!("offset {} is behind the end {log_end}", txn.last_offset);
            let so = "the segment was cut, or its index is of another";
            v.defect(&self.cursor.path, pos, &what, so);
            self.pass(v, &txn)?;
        }
        Ok(())
    }
}
