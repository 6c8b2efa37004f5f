//! Batches of a segment's file one after the other, read in chunks of bounded size.

use crate::batch::{Batch, BatchError, BatchHeader, CRC_START, HEADER_LEN, MAGIC};
use crate::crc::Crc;
use flumen_base::DiskFile;
use std::io;

/// Bytes of one read when whole batches are wanted. A kernel without preemption copies them without
/// a break, and a shard that wakes on the same CPU waits for that (docs/adr/0014).
const CHUNK_LEN: usize = 128 << 10;
/// Bytes of one read when only headers are wanted.
const HEADERS_LEN: usize = 16 << 10;

/// Reads batches from a position on. `Ok(Err(_))` is a batch that is not whole or not valid: the
/// scan ends there.
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    pos: u64,
    end: u64,
    chunk: Vec<u8>,
    chunk_pos: u64,
    chunk_len: usize,
}

/// A batch of which only the header was read.
pub(crate) struct Scanned {
    header: [u8; HEADER_LEN],
    pub(crate) pos: u64,
    pub(crate) len: usize,
}

impl Scanned {
    pub(crate) fn header(&self) -> BatchHeader<'_> {
        BatchHeader::from_array(&self.header)
    }
}

impl<'a> Scanner<'a> {
    /// From `pos` to `end`, for whole batches or for headers.
    pub(crate) fn new(file: &'a dyn DiskFile, pos: u64, end: u64, whole: bool) -> Self {
        Self {
            file,
            pos,
            end,
            chunk: Vec::new(),
            chunk_pos: pos,
            chunk_len: if whole { CHUNK_LEN } else { HEADERS_LEN },
        }
    }

    /// Reads so many bytes at a time, where whole batches are wanted.
    pub(crate) fn reading(mut self, bytes: usize) -> Self {
        self.chunk_len = bytes.clamp(HEADER_LEN, CHUNK_LEN);
        self
    }

    /// Where the next batch begins, in bytes.
    pub(crate) fn pos(&self) -> u64 {
        self.pos
    }

    /// Whether whole batches are wanted from here on, or headers.
    pub(crate) fn want_whole(&mut self, whole: bool) {
        self.chunk_len = if whole { CHUNK_LEN } else { HEADERS_LEN };
    }

    /// The next `len` bytes, which the file has.
    fn fill(&mut self, len: usize) -> io::Result<&[u8]> {
        let at = self.pos.checked_sub(self.chunk_pos).map(|at| at as usize);
        if at.is_none_or(|at| at + len > self.chunk.len()) {
            let left = usize::try_from(self.end - self.pos).unwrap_or(usize::MAX);
            self.chunk.resize(len.max(self.chunk_len).min(left), 0);
            self.file.read_exact_at(&mut self.chunk, self.pos)?;
            self.chunk_pos = self.pos;
        }
        let at = (self.pos - self.chunk_pos) as usize;
        self.chunk
            .get(at..at + len)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The next batch's header, and how long the batch is; nothing of it is checked but its magic
    /// and that it is whole.
    pub(crate) fn next_header(&mut self) -> io::Result<Result<Option<Scanned>, BatchError>> {
        let left = self.end.saturating_sub(self.pos);
        if left == 0 {
            return Ok(Ok(None));
        }
        if left < HEADER_LEN as u64 {
            return Ok(Err(BatchError::Truncated));
        }
        let pos = self.pos;
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(self.fill(HEADER_LEN)?);
        let view = BatchHeader::from_array(&header);
        if view.magic() != MAGIC {
            return Ok(Err(BatchError::Magic(view.magic())));
        }
        let len = match view.size() {
            Err(error) => return Ok(Err(error)),
            Ok(len) if len as u64 > left => return Ok(Err(BatchError::Truncated)),
            Ok(len) => len,
        };
        self.pos += len as u64;
        Ok(Ok(Some(Scanned { header, pos, len })))
    }

    /// The next batch with its records, its CRC checked.
    pub(crate) fn next_batch(&mut self) -> io::Result<Result<Option<Batch<'_>>, BatchError>> {
        let scanned = match self.next_header()? {
            Ok(Some(scanned)) => scanned,
            Ok(None) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        };
        self.pos = scanned.pos;
        self.fill(scanned.len)?;
        self.pos += scanned.len as u64;
        let at = (scanned.pos - self.chunk_pos) as usize;
        let bytes = self.chunk.get(at..at + scanned.len).unwrap_or_default();
        if planted!(NoCrcCheck) {
            return Ok(Batch::parse(bytes).map(Some));
        }
        Ok(Batch::parse(bytes).and_then(|batch| batch.check_crc().map(|()| Some(batch))))
    }

    /// Checks the CRC of the batch whose header was the last that was read. Its bytes come in
    /// chunks: a length in garbage may claim all that is left of the file.
    pub(crate) fn check(&mut self, scanned: &Scanned) -> io::Result<Result<(), BatchError>> {
        if planted!(NoCrcCheck) {
            return Ok(Ok(()));
        }
        let end = scanned.pos + scanned.len as u64;
        let mut crc = Crc::new();
        self.pos = scanned.pos + CRC_START as u64;
        while self.pos < end {
            let len = CHUNK_LEN.min(usize::try_from(end - self.pos).unwrap_or(CHUNK_LEN));
            crc.update(self.fill(len)?);
            self.pos += len as u64;
        }
        let (stored, computed) = (scanned.header().crc(), crc.value());
        match stored == computed {
            true => Ok(Ok(())),
            false => Ok(Err(BatchError::Crc { stored, computed })),
        }
    }
}

/// The whole batch of a scanned header.
pub(crate) fn read_whole(file: &dyn DiskFile, scanned: &Scanned) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; scanned.len];
    file.read_exact_at(&mut bytes, scanned.pos)?;
    Ok(bytes)
}
