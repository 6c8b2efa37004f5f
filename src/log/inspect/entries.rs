//! The files of fixed-size entries: `.index`, `.timeindex`, `.txnindex`, and producer snapshots.

use crate::crc;
use crate::index::{OFFSET_ENTRY_LEN, TIME_ENTRY_LEN};
use crate::producer_state::{SNAPSHOT_ENTRY_LEN, SNAPSHOT_PREFIX_LEN, SNAPSHOT_VERSION};
use flumen_base::DiskFile;
use std::io;

/// Length of an entry of a `.txnindex` file.
pub const TXN_ENTRY_LEN: usize = 34;
/// Bytes of one read.
const CHUNK_LEN: usize = 64 << 10;
/// No snapshot is larger: a million producers.
pub(super) const SNAPSHOT_LEN_MAX: u64 = 64 << 20;

/// A file of entries of `N` bytes, read in chunks.
pub struct Entries<'a, const N: usize> {
    file: &'a dyn DiskFile,
    pos: u64,
    end: u64,
    chunk: Vec<u8>,
    at: usize,
}

impl<'a, const N: usize> Entries<'a, N> {
    /// The whole entries of the first `len` bytes.
    pub fn new(file: &'a dyn DiskFile, len: u64) -> Self {
        Self {
            file,
            pos: 0,
            end: len - len % N as u64,
            chunk: Vec::new(),
            at: 0,
        }
    }

    /// The next entry, with its position.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn next_entry(&mut self) -> io::Result<Option<(u64, [u8; N])>> {
        if self.pos >= self.end {
            return Ok(None);
        }
        if self.at >= self.chunk.len() {
            let left = usize::try_from(self.end - self.pos).unwrap_or(usize::MAX);
            let len = left.min(CHUNK_LEN / N * N);
            self.chunk.resize(len, 0);
            self.at = 0;
            self.file.read_exact_at(&mut self.chunk, self.pos)?;
        }
        let rest = self.chunk.get(self.at..).unwrap_or_default();
        let Some(entry) = rest.first_chunk::<N>() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let found = (self.pos, *entry);
        self.at += N;
        self.pos += N as u64;
        Ok(Some(found))
    }
}

/// Takes big-endian numbers off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        // Callers hold as many bytes as their fields take.
        let Some((head, tail)) = self.0.split_first_chunk::<N>() else {
            return [0; N];
        };
        self.0 = tail;
        *head
    }

    fn i16(&mut self) -> i16 {
        i16::from_be_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
}

/// Entry of an `.index` file, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Offset relative to the segment's base.
    pub relative: i32,
    /// Position of a batch in the segment.
    pub position: i32,
}

impl OffsetEntry {
    /// From its bytes.
    pub fn decode(bytes: &[u8; OFFSET_ENTRY_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            relative: fields.i32(),
            position: fields.i32(),
        }
    }
}

/// Entry of a `.timeindex` file, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampEntry {
    /// Milliseconds.
    pub timestamp: i64,
    /// Offset relative to the segment's base.
    pub relative: i32,
}

impl TimestampEntry {
    /// From its bytes.
    pub fn decode(bytes: &[u8; TIME_ENTRY_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            timestamp: fields.i64(),
            relative: fields.i32(),
        }
    }
}

/// An aborted transaction in a `.txnindex` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Format of the entry: 0.
    pub version: i16,
    /// Whose.
    pub producer_id: i64,
    /// Offset of its first record in this partition.
    pub first_offset: i64,
    /// Offset of its marker.
    pub last_offset: i64,
    /// Last stable offset when the marker was written.
    pub last_stable_offset: i64,
}

impl AbortedTxn {
    /// From its bytes.
    pub fn decode(bytes: &[u8; TXN_ENTRY_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            version: fields.i16(),
            producer_id: fields.i64(),
            first_offset: fields.i64(),
            last_offset: fields.i64(),
            last_stable_offset: fields.i64(),
        }
    }
}

/// One producer in a `.snapshot` file, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Its id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of its last record, -1 if none is remembered.
    pub last_sequence: i32,
    /// Offset of its last record, -1 if none is remembered.
    pub last_offset: i64,
    /// Last offset less first offset of its last batch.
    pub offset_delta: i32,
    /// Timestamp of its last batch.
    pub timestamp: i64,
    /// Epoch of the coordinator that wrote its last marker, -1 if none did.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction, -1 if none is open.
    pub txn_first_offset: i64,
}

/// A producer snapshot, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The producers, in the file's order.
    pub entries: Vec<SnapshotEntry>,
    /// What is wrong, and where.
    pub problems: Vec<(u64, String)>,
}

impl SnapshotFile {
    /// From the file's bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let Some((prefix, body)) = bytes.split_first_chunk::<SNAPSHOT_PREFIX_LEN>() else {
            let what = format!("{} bytes are too few for a snapshot", bytes.len());
            found.problems.push((0, what));
            return found;
        };
        let mut fields = Fields(prefix);
        let (version, crc) = (fields.i16(), fields.i32() as u32);
        if version != SNAPSHOT_VERSION {
            let what = format!("snapshot version {version} is not {SNAPSHOT_VERSION}");
            found.problems.push((0, what));
            return found;
        }
        let computed = crc::crc32c(body);
        if crc != computed {
            let what = format!("the CRC is {crc:#010x} but should be {computed:#010x}");
            found.problems.push((2, what));
        }
        let Some((count, rest)) = body.split_first_chunk::<4>() else {
            found.problems.push((6, "the count is missing".to_owned()));
            return found;
        };
        let count = i64::from(i32::from_be_bytes(*count));
        let whole = (rest.len() / SNAPSHOT_ENTRY_LEN) as i64;
        if count != whole || !rest.len().is_multiple_of(SNAPSHOT_ENTRY_LEN) {
            let what = format!("{count} producers do not take {} bytes", rest.len());
            found.problems.push((6, what));
        }
        for entry in rest.chunks_exact(SNAPSHOT_ENTRY_LEN) {
            let mut fields = Fields(entry);
            found.entries.push(SnapshotEntry {
                producer_id: fields.i64(),
                epoch: fields.i16(),
                last_sequence: fields.i32(),
                last_offset: fields.i64(),
                offset_delta: fields.i32(),
                timestamp: fields.i64(),
                coordinator_epoch: fields.i32(),
                txn_first_offset: fields.i64(),
            });
        }
        found
    }

    /// Where the entry of this number begins in the file.
    pub fn position(entry: usize) -> u64 {
        (SNAPSHOT_PREFIX_LEN + 4 + entry * SNAPSHOT_ENTRY_LEN) as u64
    }
}
