//! Log writes with O_DIRECT: aligned copies from a bounded pool, one piece of a write at a time.
//! What goes where is `flumen_base::aligned`'s; a file that can't do it is written through the
//! page cache.

use crate::core::ShardCore;
use crate::logfile::OpenLog;
use crate::reactor::{Owner, Reactor};
use crate::ring::{DirectPiece, Op};
use crate::send::is_transient;
use crate::sys;
use bytes::{Bytes, BytesMut};
use flumen_base::aligned::{AlignedWrite, BLOCK, PIECE_MAX};
use flumen_shard::io::Token;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Sizes of buffers: a batch or a few, five of the usual size, whatever comes.
const SIZES: [usize; 3] = [64 << 10, 256 << 10, PIECE_MAX];
/// Most bytes in all buffers of a shard; writes beyond wait for one.
const BYTES_MAX: usize = 32 << 20;
/// Most bytes in buffers that wait for use. A new one is paid for page by page, which is a tenth of
/// the CPU of synced writes of 80 KiB: those of eight to 32 partitions are kept.
const SPARE_MAX: usize = 16 << 20;

/// Memory at a block boundary.
pub(crate) struct AlignedBuf {
    mem: Vec<u8>,
    start: usize,
    size: usize,
}

impl AlignedBuf {
    pub(crate) fn new(size: usize) -> Self {
        let mem = vec![0; size + BLOCK];
        let start = mem.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { mem, start, size }
    }

    /// The first `len` bytes, at most the whole.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        &self.mem[self.start..self.start + len.min(self.size)]
    }

    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.mem[self.start..self.start + len.min(self.size)]
    }
}

/// A write that waits for a buffer.
struct Waiting {
    token: Token,
    log: OpenLog,
    write: AlignedWrite<Bytes>,
    sync: bool,
}

/// A shard's direct writes.
#[derive(Default)]
pub(crate) struct DirectWrites {
    spare: [Vec<AlignedBuf>; SIZES.len()],
    spare_bytes: usize,
    used_bytes: usize,
    waiting: VecDeque<Waiting>,
}

/// Which of [`SIZES`] takes so many bytes.
fn class(len: usize) -> usize {
    let fits = SIZES.iter().position(|size| len <= *size);
    fits.unwrap_or(SIZES.len() - 1)
}

impl DirectWrites {
    fn take(&mut self, len: usize) -> Option<AlignedBuf> {
        let size = SIZES[class(len)];
        if self.used_bytes + size > BYTES_MAX {
            return None;
        }
        self.used_bytes += size;
        let spare = self.spare[class(len)].pop();
        self.spare_bytes -= spare.as_ref().map_or(0, |b| b.size);
        Some(spare.unwrap_or_else(|| AlignedBuf::new(size)))
    }

    fn give_back(&mut self, buf: AlignedBuf) {
        self.used_bytes -= buf.size;
        if self.spare_bytes + buf.size <= SPARE_MAX {
            self.spare_bytes += buf.size;
            self.spare[class(buf.size)].push(buf);
        }
    }
}

impl<C: ShardCore> Reactor<C> {
    /// Starts a direct write. Gives it back where the file can't take one (now: its last block is
    /// not known, and not in memory).
    pub(crate) fn start_direct(
        &mut self,
        token: Token,
        (log, pos, bufs, sync): (OpenLog, u64, Vec<Bytes>, bool),
    ) -> Result<(), (OpenLog, u64, Vec<Bytes>, bool)> {
        if !is_possible(&log, pos) {
            return Err((log, pos, bufs, sync));
        }
        let write = AlignedWrite::new(pos, bufs);
        self.direct_piece(token, log, write, sync);
        Ok(())
    }

    fn direct_piece(&mut self, token: Token, log: OpenLog, write: AlignedWrite<Bytes>, sync: bool) {
        let waiting = Waiting {
            token,
            log,
            write,
            sync,
        };
        self.direct.waiting.push_back(waiting);
        self.start_waiting();
    }

    /// Starts the writes for which there are buffers, in order.
    fn start_waiting(&mut self) {
        while let Some(first) = self.direct.waiting.front() {
            let piece = first.write.piece();
            let Some(mut buf) = self.direct.take(piece.len) else {
                return;
            };
            let Some(Waiting {
                token,
                log,
                write,
                sync,
            }) = self.direct.waiting.pop_front()
            else {
                return; // there is one
            };
            write.fill(&piece, &log.handle.last_block(), buf.bytes_mut(piece.len));
            self.reserve(&log, piece.at, piece.len as u64);
            let op = Box::new(DirectPiece {
                sync,
                link: sync && write.is_last(&piece) && !log.handle.is_synced(),
                flag: sync && log.handle.is_synced(),
                log,
                write,
                piece,
                buf,
                begun: self.now.mono,
            });
            self.ring.start(Owner::Disk(token), Op::WriteDirect(op));
        }
    }

    /// A piece has ended.
    pub(crate) fn on_direct(
        &mut self,
        token: Token,
        done: DirectPiece,
        result: io::Result<u32>,
        sync_result: Option<io::Result<u32>>,
    ) {
        let DirectPiece {
            log,
            mut write,
            piece,
            buf,
            begun,
            sync,
            ..
        } = done;
        let took = Duration::from_nanos(self.now.mono.nanos_since(begun));
        self.shared.writeback.note_direct(took);
        let outcome = match &result {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                let mut last = log.handle.last_block();
                write.advance(&piece, buf.bytes(piece.len), *n as usize, &mut last);
                Ok(())
            }
            Err(e) if is_transient(e) => Ok(()),
            Err(e) => Err(io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(0))),
        };
        self.direct.give_back(buf);
        let refused =
            |e: &io::Error| matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
        match outcome {
            Err(e) if refused(&e) => {
                tracing::info!(path = %log.file.path().display(), "no direct writes here");
                log.handle.refuse_direct();
                let (pos, bufs, skip) = write.into_parts();
                self.write_cached(token, log, (pos, bufs, skip), sync);
            }
            Err(e) => self.io_failed(token, "write", &log.file, &e),
            Ok(()) if write.is_done() => {
                let (_, bufs, _) = write.into_parts();
                self.write_ended(token, log, bufs, sync, sync_result);
            }
            Ok(()) => self.direct_piece(token, log, write, sync),
        }
        self.start_waiting();
    }
}

/// Whether a direct write can begin at `pos`: the descriptor is there, and the last block is known
/// or in memory.
fn is_possible(log: &OpenLog, pos: u64) -> bool {
    if !log.file.is_segment() || log.handle.direct(&log.file).is_none() {
        return false;
    }
    let mut last = log.handle.last_block();
    let Some((at, len)) = last.missing(pos) else {
        return true;
    };
    let mut block = BytesMut::with_capacity(len);
    match sys::read_resident(log.as_fd(), log.fs, &mut block, len, at) {
        Ok(n) if n == len => {
            last.set(pos, &block);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_bounded_and_used_again() {
        let mut direct = DirectWrites::default();
        for (size, shorter) in SIZES.into_iter().zip([1, SIZES[0] + 1, SIZES[1] + 1]) {
            let mut out = Vec::new();
            while let Some(mut buf) = direct.take(shorter) {
                assert_eq!(buf.bytes(1).as_ptr() as usize % BLOCK, 0);
                assert_eq!(buf.bytes_mut(usize::MAX).len(), size);
                out.push(buf);
            }
            assert_eq!(out.len(), BYTES_MAX / size);
            assert!(direct.take(1).is_none());
            for buf in out {
                direct.give_back(buf);
            }
            assert_eq!((direct.used_bytes, direct.spare_bytes), (0, SPARE_MAX));
            direct = DirectWrites::default();
        }
        for len in SIZES {
            let buf = direct.take(len).unwrap();
            let at = buf.bytes(1).as_ptr();
            direct.give_back(buf);
            let again = direct.take(len).unwrap();
            assert_eq!(again.bytes(1).as_ptr(), at, "a used one of {len}");
        }
        assert_eq!(direct.spare_bytes, 0);
    }
}
