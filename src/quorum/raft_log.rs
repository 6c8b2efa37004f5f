//! The metadata log on disk.
//!
//! The directory (`<metadata.log.dir>/__cluster_metadata-0`) holds `snapshot.raft` and segments
//! `segment-00000000000000000000.raft`; the names are not those of Kafka's files, so that neither
//! broker takes the other's for its own. A segment is a header and then frames, each the result of
//! one write:
//!
//! ```text
//! header  magic "FLRAFT\0\1", segment number u64, CRC32C of these 16 bytes
//! frame   magic u32, payload length u32, CRC32C u32 of (length, sequence, payload),
//!         sequence u64, payload
//! payload term u64, vote u64, commit u64, count u32, then per entry:
//!         index u64, term u64, kind u8, data length u32, data
//! ```
//! Every frame is synced before the next is written, and sequence numbers are dense over all
//! segments. So a bad frame that is followed anywhere by a good one with a later sequence number
//! means that acknowledged data is damaged (an error); without one it is the torn tail of a write
//! that was never acknowledged, and is cut.

use crate::codec::{Decoder, Encoder, RecordError};
use crate::image::ImageError;
use crate::storage::MemoryLog;
use flumen_base::{Disk, OpenMode};
use raft::eraftpb::{Entry, EntryType, HardState};
use std::io;
use std::path::{Path, PathBuf};

const HEADER_MAGIC: &[u8; 8] = b"FLRAFT\x00\x01";
/// Length of a segment's header, where its first frame starts.
pub(crate) const HEADER_LEN: u64 = 20;
/// Not UTF-8 anywhere, so that no name or value inside a frame can look like the start of one.
const FRAME_MAGIC: [u8; 4] = [0xff, 0xfe, 0xf1, 0xf5];
const FRAME_HEADER_LEN: usize = 20;
/// Far above what the snapshot threshold lets a segment grow to.
const SEGMENT_BYTES_MAX: u64 = 4 << 30;

/// Why a metadata directory can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The disk failed.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// Bytes that were acknowledged are damaged (not just a torn tail).
    #[error("{path} is corrupt at byte {pos}: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        pos: u64,
        /// What is wrong.
        reason: String,
    },
    /// A record can't be read, most likely one of a later release.
    #[error("{0}: {1}")]
    Record(PathBuf, #[source] RecordError),
    /// A record does not fit the state before it.
    #[error("{0}: {1}")]
    Image(PathBuf, #[source] ImageError),
}

/// A segment that is no longer written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) number: u64,
    /// Every entry in it has at most this index.
    pub(crate) last_index: u64,
}

/// Where the next frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) segment: u64,
    pub(crate) pos: u64,
    pub(crate) sequence: u64,
}

/// Segments as they were found and repaired.
#[derive(Debug)]
pub(crate) struct LoadedLog {
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) tail: Tail,
    /// Bytes of frames in all segments.
    pub(crate) bytes: u64,
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("segment-{number:020}.raft"))
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".raft")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// Creates an empty segment; its header is on disk as a whole or not at all.
pub(crate) fn create_segment(disk: &dyn Disk, dir: &Path, number: u64) -> io::Result<()> {
    let mut header = HEADER_MAGIC.to_vec();
    header.extend_from_slice(&number.to_be_bytes());
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_be_bytes());
    disk.write_atomic(&segment_path(dir, number), &header)
}

/// One frame: the node's persistent state and new entries.
pub(crate) fn encode_frame(sequence: u64, state: &HardState, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![0; FRAME_HEADER_LEN];
    let mut e = Encoder::new(&mut out);
    e.u64(state.term);
    e.u64(state.vote);
    e.u64(state.commit);
    e.u32(entries.len() as u32);
    for entry in entries {
        e.u64(entry.index);
        e.u64(entry.term);
        e.u8(match entry.get_entry_type() {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        });
        e.sized_bytes(&entry.data);
    }
    let len = (out.len() - FRAME_HEADER_LEN) as u32;
    out[0..4].copy_from_slice(&FRAME_MAGIC);
    out[4..8].copy_from_slice(&len.to_be_bytes());
    out[12..20].copy_from_slice(&sequence.to_be_bytes());
    let crc = frame_crc(len, sequence, &out[FRAME_HEADER_LEN..]);
    out[8..12].copy_from_slice(&crc.to_be_bytes());
    out
}

fn frame_crc(len: u32, sequence: u64, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&len.to_be_bytes());
    let crc = crc32c::crc32c_append(crc, &sequence.to_be_bytes());
    crc32c::crc32c_append(crc, payload)
}

/// A frame whose checksum holds.
struct Frame<'a> {
    sequence: u64,
    payload: &'a [u8],
}

/// The frame at the start of `bytes`, if it is whole.
fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let rest = bytes.strip_prefix(&FRAME_MAGIC)?;
    let mut d = Decoder::new(rest);
    let len = d.u32().ok()?;
    let crc = d.u32().ok()?;
    let sequence = d.u64().ok()?;
    let payload = d.take(len as usize).ok()?;
    (frame_crc(len, sequence, payload) == crc).then_some(Frame { sequence, payload })
}

/// Whether a whole frame with this sequence number or a later one starts anywhere in `bytes`.
fn has_later_frame(bytes: &[u8], sequence: u64) -> bool {
    bytes
        .windows(FRAME_MAGIC.len())
        .enumerate()
        .filter(|(_, window)| *window == FRAME_MAGIC)
        .any(|(at, _)| frame(&bytes[at..]).is_some_and(|f| f.sequence >= sequence))
}

fn decode_payload(payload: &[u8]) -> Result<(HardState, Vec<Entry>), RecordError> {
    let mut d = Decoder::new(payload);
    let state = HardState {
        term: d.u64()?,
        vote: d.u64()?,
        commit: d.u64()?,
        ..HardState::default()
    };
    let entries = d.list(|d| {
        let mut entry = Entry {
            index: d.u64()?,
            term: d.u64()?,
            ..Entry::default()
        };
        entry.set_entry_type(match d.u8()? {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return Err(RecordError::Invalid("entry kind")),
        });
        entry.data = d.sized_bytes()?.to_vec().into();
        Ok(entry)
    })?;
    d.finish()?;
    Ok((state, entries))
}

/// Reads all segments into `log`, which holds the snapshot's position; cuts a torn tail; creates
/// the first segment of a new directory.
pub(crate) fn load(
    disk: &dyn Disk,
    dir: &Path,
    log: &mut MemoryLog,
) -> Result<LoadedLog, LoadError> {
    let io = |e| LoadError::Io(dir.to_owned(), e);
    let mut numbers: Vec<u64> = Vec::new();
    for (name, is_dir) in disk.list(dir).map_err(io)? {
        if !is_dir {
            numbers.extend(segment_number(&name));
        }
    }
    numbers.sort_unstable();
    if numbers.is_empty() {
        create_segment(disk, dir, 0).map_err(io)?;
        numbers.push(0);
    }
    let mut scan = Scan {
        disk,
        dir,
        log,
        sequence: None,
        torn: None,
        last: None,
        bytes: 0,
    };
    let mut sealed = Vec::new();
    let mut tail = (0, HEADER_LEN);
    for number in numbers {
        let len = scan.segment(number)?;
        tail = (number, len);
        let last_index = scan.log.last();
        sealed.push(Sealed { number, last_index });
    }
    sealed.pop(); // the last one is still written
    scan.cut_torn_tail()?;
    scan.sync_last()?;
    let bytes = scan.bytes;
    Ok(LoadedLog {
        sealed,
        tail: Tail {
            segment: tail.0,
            pos: tail.1,
            sequence: scan.sequence.unwrap_or(0),
        },
        bytes,
    })
}

/// A bad place in the log.
struct Torn {
    path: PathBuf,
    pos: u64,
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    log: &'a mut MemoryLog,
    /// Sequence number of the next frame; `None` before the first.
    sequence: Option<u64>,
    torn: Option<Torn>,
    /// The last segment that has frames.
    last: Option<u64>,
    bytes: u64,
}

impl Scan<'_> {
    /// Reads one segment; returns its length without a torn tail.
    fn segment(&mut self, number: u64) -> Result<u64, LoadError> {
        let path = segment_path(self.dir, number);
        // What an earlier process could not sync may stand in memory, and nowhere else.
        let on_disk = self.disk.open(&path, OpenMode::Read);
        let bytes = on_disk
            .and_then(|file| file.drop_clean())
            .and_then(|()| self.disk.read_all(&path, SEGMENT_BYTES_MAX))
            .map_err(|e| LoadError::Io(path.clone(), e))?;
        let corrupt = |pos: usize, reason: &str| LoadError::Corrupt {
            path: path.clone(),
            pos: pos as u64,
            reason: reason.to_owned(),
        };
        let mut header = HEADER_MAGIC.to_vec();
        header.extend_from_slice(&number.to_be_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_be_bytes());
        if !bytes.starts_with(&header) {
            return Err(corrupt(0, "not a metadata log segment of this version"));
        }
        let mut pos = HEADER_LEN as usize;
        while let Some(rest) = bytes.get(pos..).filter(|rest| !rest.is_empty()) {
            let expected = self.sequence;
            let good = frame(rest).filter(|f| expected.is_none_or(|n| n == f.sequence));
            let Some(frame) = good.filter(|_| self.torn.is_none()) else {
                // From a good frame onwards everything must be good: the first bad place may only
                // be the very end.
                if has_later_frame(rest, expected.unwrap_or(0)) {
                    return Err(match &self.torn {
                        Some(torn) => LoadError::Corrupt {
                            path: torn.path.clone(),
                            pos: torn.pos,
                            reason: "damaged frame before whole ones".to_owned(),
                        },
                        None => corrupt(pos, "damaged frame before whole ones"),
                    });
                }
                if self.torn.is_none() {
                    let (path, pos) = (path.clone(), pos as u64);
                    self.torn = Some(Torn { path, pos });
                }
                break;
            };
            let (state, entries) =
                decode_payload(frame.payload).map_err(|e| LoadError::Record(path.clone(), e))?;
            if !self.log.append(&entries) {
                return Err(corrupt(pos, "entries are missing before this frame"));
            }
            self.log.set_hard_state(state);
            self.sequence = Some(frame.sequence + 1);
            self.last = Some(number);
            pos += FRAME_HEADER_LEN + frame.payload.len();
        }
        self.bytes += pos as u64 - HEADER_LEN;
        Ok(pos as u64)
    }

    /// A killed process may not have synced its last frame, and what this one has loaded it serves:
    /// before its own next frame is synced. Where that goes to another file, its sync does not even
    /// reach the last one, and a power loss would leave a hole.
    fn sync_last(&self) -> Result<(), LoadError> {
        let Some(last) = self.last else {
            return Ok(());
        };
        let path = segment_path(self.dir, last);
        let file = self.disk.open(&path, OpenMode::ReadWrite);
        file.and_then(|file| file.sync())
            .map_err(|e| LoadError::Io(path, e))
    }

    fn cut_torn_tail(&self) -> Result<(), LoadError> {
        let Some(torn) = &self.torn else {
            return Ok(());
        };
        let cut = || {
            let file = self.disk.open(&torn.path, OpenMode::ReadWrite)?;
            file.set_len(torn.pos)?;
            file.sync()
        };
        cut().map_err(|e| LoadError::Io(torn.path.clone(), e))
    }
}
