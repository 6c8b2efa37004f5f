//! Batches of a file whose bytes may be anything: each whole one, and each region that is none,
//! with where it ends. Memory is bounded whatever a length field claims.

use super::{BATCH_LEN_MAX, UNFOLDED_MAX};
use crate::batch::{Batch, BatchError, BatchHeader, CRC_START, HEADER_LEN, LOG_OVERHEAD, MAGIC};
use crate::codec::CodecError;
use crate::crc::Crc;
use flumen_base::DiskFile;
use std::io;

/// Bytes of one read.
const CHUNK_LEN: usize = 1 << 20;
/// Candidates for the next whole batch whose CRC is computed, in one damaged region.
const CANDIDATES_MAX: usize = 10_000;
/// Bytes whose CRC is computed for them.
const CANDIDATE_BYTES_MAX: u64 = 1 << 30;

/// A batch that is framed: its header is possible and its bytes are all there.
#[derive(Clone, Copy, Debug)]
pub struct FoundBatch {
    /// Where it begins.
    pub pos: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What is wrong with its CRC, if anything.
    pub crc: Result<(), BatchError>,
    header: [u8; HEADER_LEN],
}

impl FoundBatch {
    /// Its header.
    pub fn header(&self) -> BatchHeader<'_> {
        BatchHeader::from_array(&self.header)
    }
}

/// Bytes that are no batch.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    /// Where they begin.
    pub pos: u64,
    /// How many there are, up to the next whole batch or the end of the file.
    pub len: u64,
    /// Why no batch begins there.
    pub error: BatchError,
    /// Nothing but zeros up to the end of the file.
    pub is_padding: bool,
}

/// One step through a file.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A batch.
    Batch(FoundBatch),
    /// Something else.
    Damage(Damage),
}

/// Walks over a file of batches.
pub struct Walker<'a> {
    file: &'a dyn DiskFile,
    pos: u64,
    end: u64,
    /// No whole batch behind damage has a lower offset.
    offset_min: i64,
    chunk: Vec<u8>,
    chunk_pos: u64,
}

impl<'a> Walker<'a> {
    /// Over the first `end` bytes; `base_offset` is the file's, 0 if it has none.
    pub fn new(file: &'a dyn DiskFile, end: u64, base_offset: i64) -> Self {
        Self {
            file,
            pos: 0,
            end,
            offset_min: base_offset,
            chunk: Vec::new(),
            chunk_pos: 0,
        }
    }

    /// The next step; `None` at the end.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn next_found(&mut self) -> io::Result<Option<Found>> {
        if self.pos >= self.end {
            return Ok(None);
        }
        let error = match self.framed(self.pos)? {
            Err(error) => error,
            Ok((header, len)) => {
                let crc = self.check_crc(self.pos, len, &header)?;
                // A wrong CRC of a batch that others follow (or nothing) is damage inside of it;
                // else its length is not to be believed either.
                match crc {
                    Err(error) if !self.is_followed(self.pos + len)? => error,
                    crc => {
                        let pos = self.pos;
                        self.pos += len;
                        let view = BatchHeader::from_array(&header);
                        if crc.is_ok() {
                            self.offset_min = view.last_offset().saturating_add(1);
                        }
                        return Ok(Some(Found::Batch(FoundBatch {
                            pos,
                            len,
                            crc,
                            header,
                        })));
                    }
                }
            }
        };
        let (pos, is_padding) = (self.pos, self.is_zero_from(self.pos)?);
        self.pos = match is_padding {
            true => self.end,
            false => self.next_whole(pos + 1)?,
        };
        Ok(Some(Found::Damage(Damage {
            pos,
            len: self.pos - pos,
            error,
            is_padding,
        })))
    }

    /// The records of a batch, unfolded.
    ///
    /// # Errors
    /// The outer: the file could not be read. The inner: the records can't be unfolded, or take
    /// more memory than is allowed.
    pub fn records(&self, batch: &FoundBatch) -> io::Result<Result<Vec<u8>, BatchError>> {
        let len = match usize::try_from(batch.len) {
            Ok(len) if len <= BATCH_LEN_MAX => len,
            _ => return Ok(Err(CodecError::TooLarge(BATCH_LEN_MAX).into())),
        };
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, batch.pos)?;
        let section = Batch::parse(&bytes).and_then(|b| Ok(b.unfold(UNFOLDED_MAX)?.into_owned()));
        Ok(section)
    }

    /// Up to `len` bytes at `pos`, fewer at the end.
    fn bytes(&mut self, pos: u64, len: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(pos)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let at = pos.checked_sub(self.chunk_pos);
        let at = at.and_then(|at| usize::try_from(at).ok());
        let inside = at.filter(|at| at.saturating_add(len) <= self.chunk.len());
        let at = match inside {
            Some(at) => at,
            None => {
                self.chunk.resize(len.max(CHUNK_LEN).min(left), 0);
                self.chunk_pos = pos;
                if let Err(error) = self.file.read_exact_at(&mut self.chunk, pos) {
                    self.chunk.clear();
                    return Err(error);
                }
                0
            }
        };
        Ok(self.chunk.get(at..at + len).unwrap_or_default())
    }

    /// The header at `pos` and the length of its batch, if both can be.
    fn framed(&mut self, pos: u64) -> io::Result<Result<([u8; HEADER_LEN], u64), BatchError>> {
        let left = self.end.saturating_sub(pos);
        let bytes = self.bytes(pos, HEADER_LEN)?;
        let Some(header) = bytes.first_chunk::<HEADER_LEN>().copied() else {
            return Ok(Err(BatchError::Truncated));
        };
        Ok(frame(&header, left).map(|len| (header, len)))
    }

    fn check_crc(
        &mut self,
        pos: u64,
        len: u64,
        header: &[u8; HEADER_LEN],
    ) -> io::Result<Result<(), BatchError>> {
        let mut crc = Crc::new();
        let (mut at, end) = (pos + CRC_START as u64, pos + len);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(CHUNK_LEN);
            let bytes = self.bytes(at, want.min(CHUNK_LEN))?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            crc.update(bytes);
            at += bytes.len() as u64;
        }
        let (stored, computed) = (BatchHeader::from_array(header).crc(), crc.value());
        Ok(match stored == computed {
            true => Ok(()),
            false => Err(BatchError::Crc { stored, computed }),
        })
    }

    /// Whether a batch seems to begin at `pos`, or the file ends there.
    fn is_followed(&mut self, pos: u64) -> io::Result<bool> {
        Ok(pos == self.end || self.framed(pos)?.is_ok())
    }

    fn is_zero_from(&mut self, pos: u64) -> io::Result<bool> {
        let mut at = pos;
        while at < self.end {
            let bytes = self.bytes(at, CHUNK_LEN)?;
            if bytes.is_empty() || bytes.iter().any(|b| *b != 0) {
                return Ok(false);
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Where the next whole batch begins at or behind `from`, or the end.
    fn next_whole(&mut self, from: u64) -> io::Result<u64> {
        const MAGIC_AT: usize = LOG_OVERHEAD + 4;
        let (mut candidates, mut candidate_bytes) = (0, 0);
        let mut at = from;
        while at + HEADER_LEN as u64 <= self.end {
            let end = self.end;
            let offset_min = self.offset_min;
            let window = self.bytes(at, CHUNK_LEN)?;
            let looked_at = window.len().saturating_sub(HEADER_LEN - 1);
            let hit = window.windows(HEADER_LEN).enumerate().find_map(|(n, w)| {
                if w.get(MAGIC_AT).copied() != Some(MAGIC as u8) {
                    return None;
                }
                let header: &[u8; HEADER_LEN] = w.first_chunk()?;
                let pos = at + n as u64;
                let len = frame(header, end - pos).ok()?;
                let view = BatchHeader::from_array(header);
                let offsets = offset_min..=offset_min.saturating_add(i64::from(i32::MAX));
                let fits = offsets.contains(&view.base_offset()) && view.last_offset_delta() >= 0;
                fits.then_some((pos, len, *header))
            });
            let Some((pos, len, header)) = hit else {
                at += looked_at.max(1) as u64;
                continue;
            };
            candidates += 1;
            candidate_bytes += len;
            if candidates > CANDIDATES_MAX || candidate_bytes > CANDIDATE_BYTES_MAX {
                return Ok(self.end);
            }
            if self.check_crc(pos, len, &header)?.is_ok() {
                return Ok(pos);
            }
            at = pos + 1;
        }
        Ok(self.end)
    }
}

/// The length of a batch with this header, if `left` bytes can hold it.
fn frame(header: &[u8; HEADER_LEN], left: u64) -> Result<u64, BatchError> {
    let view = BatchHeader::from_array(header);
    if view.magic() != MAGIC {
        return Err(BatchError::Magic(view.magic()));
    }
    match view.size()? as u64 {
        len if len > left => Err(BatchError::Truncated),
        len => Ok(len),
    }
}
