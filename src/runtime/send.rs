//! Responses on their way out: in order, one send in flight per connection, file slices by copy or
//! by splice.
//!
//! A slice in the page cache is sent from where its file is mapped, in one sendmsg with its header:
//! one copy, by the kernel. What is not there, or small, is read up to `splice_above_bytes` (from
//! the page cache inline, else by the ring); above, it goes file -> pipe -> socket, by the ring
//! where the disk is needed, so that the disk never holds up the shard. A connection moves at most
//! [`TURN_BYTES`] per turn, and holds at most about that much in memory of ours, however slow its
//! peer; `turns.rs` says which connections have a turn.
//!
//! A sendmsg is made at once, where it never waits, unless many connections have answers in memory
//! in the same turn: those leave in one submission of the ring. Made at once, its result is known
//! within the turn: no further turn, and the same buffer, still in the cache, for the next
//! connection.

use crate::core::ShardCore;
use crate::logfile::{LogHandle, OpenLog};
use crate::mapped::{self, Mapping, SendBuf};
use crate::reactor::{Owner, Reactor};
use crate::ring::Op;
use crate::splice::Pipe;
use crate::sys;
use bytes::{Buf, Bytes, BytesMut};
use flumen_base::LogFile;
use flumen_shard::io::{ConnId, FileSlice, Response, Segment};
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that one connection splices or reads from files in one turn.
pub(crate) const TURN_BYTES: usize = 256 << 10;
/// Bytes in memory that one sendmsg takes.
const SEND_BYTES: usize = 1 << 20;
/// From here on the pages of a file themselves go into the socket; below, copying them is quicker
/// (docs/adr/0005).
const PAGES_BYTES_MIN: usize = 128 << 10;
/// Buffers that one sendmsg takes.
pub(crate) const SEND_BUFS: usize = 128;
/// Answers of a connection that leave together with the ring are copied into one buffer up to so
/// many bytes.
const JOIN_BYTES_MAX: usize = 4 << 10;
/// Memory that such buffers share.
const JOINED_BYTES: usize = 16 << 10;

/// A piece of the outgoing stream.
pub(crate) enum Piece {
    Bytes(Bytes),
    File(FileSlice),
    /// What was read of a file slice, in a buffer of the pool, and how much of it has been sent.
    Read(BytesMut, usize),
    /// A part of a mapped file.
    Mapped(MappedPart),
    /// A response ends here.
    End,
}

/// What is left to send of a part of a mapped file.
pub(crate) struct MappedPart {
    pub(crate) mapping: Arc<Mapping>,
    /// Its lease: a file that nobody holds may be cut before it goes.
    pub(crate) file: Arc<LogFile>,
    pub(crate) pos: usize,
    pub(crate) len: usize,
}

impl MappedPart {
    /// Whether its pages go into the socket themselves, without a copy.
    fn is_large(&self) -> bool {
        self.len >= PAGES_BYTES_MIN
    }

    fn send_pages(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let log = OpenLog::new(&self.file).ok_or_else(short_slice)?;
        sys::sendfile(socket, log.as_fd(), self.pos as u64, self.len)
    }
}

/// Buffers for file slices that go by copy: used again, because fresh memory costs more than the
/// copy into it.
#[derive(Default)]
pub(crate) struct CopyBufs(Vec<BytesMut>);

/// Buffers kept when idle.
const COPY_BUFS_KEPT: usize = 8;

impl CopyBufs {
    pub(crate) fn take(&mut self, len: usize) -> BytesMut {
        let mut buf = self.0.pop().unwrap_or_default();
        buf.reserve(if len > TURN_BYTES / 4 {
            TURN_BYTES
        } else {
            len
        });
        buf
    }

    fn give_back(&mut self, mut buf: BytesMut) {
        if self.0.len() < COPY_BUFS_KEPT {
            buf.clear();
            self.0.push(buf);
        }
    }
}

/// Where small answers of a connection that leave together are copied one behind the other: one
/// buffer is less work for the kernel than one for each. Once all have left, the same memory is
/// used again.
#[derive(Default)]
pub(crate) struct Joined(BytesMut);

impl Joined {
    fn join<'a>(&mut self, pieces: impl Iterator<Item = &'a Bytes>, total: usize) -> Bytes {
        if self.0.capacity() < total {
            self.0.reserve(JOINED_BYTES);
        }
        for piece in pieces {
            self.0.extend_from_slice(piece);
        }
        self.0.split().freeze()
    }
}

/// The sending half of one connection.
#[derive(Default)]
pub(crate) struct Outgoing {
    pub(crate) pieces: VecDeque<Piece>,
    /// An operation for sending is in the ring.
    pub(crate) busy: bool,
    /// What the pipe holds belongs before the rest of the slice at the front.
    pub(crate) pipe: Option<Pipe>,
    /// The slice at the front goes by copy: no pipe was to be had, or its file can't be spliced.
    pub(crate) copy: bool,
    /// The piece that a cold read will fill.
    pub(crate) cold: usize,
}

pub(crate) enum Front {
    Empty,
    Copy,
    Splice,
}

impl Outgoing {
    fn push(&mut self, response: Response) {
        for segment in response.segments {
            match segment {
                segment if segment.is_empty() => {}
                Segment::Bytes(bytes) => self.pieces.push_back(Piece::Bytes(bytes)),
                Segment::File(slice) => self.pieces.push_back(Piece::File(slice)),
            }
        }
        self.pieces.push_back(Piece::End);
    }

    /// Removes what has been sent whole from the front; gives the number of responses that ended.
    fn pop_ends(&mut self) -> u32 {
        let mut ends = 0;
        while let Some(Piece::End) = self.pieces.front() {
            self.pieces.pop_front();
            ends += 1;
        }
        ends
    }

    /// `n` bytes in memory have been sent.
    fn advance(&mut self, mut n: usize, bufs: &mut CopyBufs) -> u32 {
        let mut ends = 0;
        while n > 0 {
            ends += self.pop_ends();
            let left = match self.pieces.front_mut() {
                Some(Piece::Bytes(bytes)) if bytes.len() > n => {
                    bytes.advance(n);
                    break;
                }
                Some(Piece::Bytes(bytes)) => bytes.len(),
                Some(Piece::Read(buf, sent)) if buf.len() - *sent > n => {
                    *sent += n;
                    break;
                }
                Some(Piece::Read(buf, sent)) => buf.len() - *sent,
                Some(Piece::Mapped(part)) if part.len > n => {
                    part.pos += n;
                    part.len -= n;
                    break;
                }
                Some(Piece::Mapped(part)) => part.len,
                _ => break,
            };
            n -= left;
            if let Some(Piece::Read(buf, _)) = self.pieces.pop_front() {
                bufs.give_back(buf);
            }
        }
        ends + self.pop_ends()
    }

    /// How many buffers of the next sendmsg there are and their bytes, if all of it is in memory
    /// that can be shared.
    fn in_memory(&self) -> Option<(usize, usize)> {
        let (mut count, mut total) = (0, 0);
        for piece in &self.pieces {
            match piece {
                Piece::End => {}
                Piece::Bytes(bytes) => {
                    total += bytes.len();
                    count += 1;
                }
                _ => return None,
            }
            if count >= SEND_BUFS || total >= SEND_BYTES {
                break;
            }
        }
        Some((count, total))
    }

    /// The large part of a file at the front, if that is what comes next.
    fn large_part(&self) -> Option<&MappedPart> {
        match self.pieces.front() {
            Some(Piece::Mapped(part)) if part.is_large() => Some(part),
            _ => None,
        }
    }

    /// The buffers at the front that lie in memory, and whether something of the same response
    /// follows them.
    fn gather(&self) -> (SmallVec<[SendBuf<'_>; 8]>, usize, bool) {
        let mut bufs: SmallVec<[SendBuf<'_>; 8]> = SmallVec::new();
        let mut total = 0;
        for piece in &self.pieces {
            let buf = match piece {
                Piece::End => continue,
                Piece::File(_) => return (bufs, total, true),
                Piece::Bytes(bytes) => SendBuf::new(bytes),
                Piece::Read(buf, sent) => SendBuf::new(buf.get(*sent..).unwrap_or_default()),
                Piece::Mapped(part) if part.is_large() => return (bufs, total, true),
                Piece::Mapped(part) => part.mapping.part(part.pos, part.len),
            };
            total += buf.len();
            bufs.push(buf);
            if bufs.len() >= SEND_BUFS || total >= SEND_BYTES {
                break;
            }
        }
        (bufs, total, false)
    }

    /// What was to be sent from where it is mapped is to be read in other ways; whether there was
    /// such a part.
    fn unmap_parts(&mut self) -> bool {
        let mut any = false;
        for piece in &mut self.pieces {
            let Piece::Mapped(part) = piece else {
                continue;
            };
            if let Some(handle) = LogHandle::of(&part.file) {
                handle.refuse_mapping();
            }
            let slice = FileSlice {
                file: Arc::clone(&part.file),
                pos: part.pos as u64,
                len: part.len as u32, // a part of a slice
            };
            *piece = Piece::File(slice);
            any = true;
        }
        any
    }

    /// Bytes of files at hand to be sent.
    pub(crate) fn at_hand(&self) -> usize {
        let of_files = self.pieces.iter().map(|piece| match piece {
            Piece::Read(buf, sent) => buf.len() - sent,
            Piece::Mapped(part) => part.len,
            _ => 0,
        });
        let in_pipe = self.pipe.as_ref().map_or(0, |pipe| pipe.filled);
        of_files.sum::<usize>() + in_pipe
    }

    /// Whether a part of a file is still to be sent.
    pub(crate) fn has_file(&self) -> bool {
        let mut pieces = self.pieces.iter();
        pieces.any(|piece| !matches!(piece, Piece::Bytes(_) | Piece::End))
    }

    pub(crate) fn front(&self, splice_above: usize) -> Front {
        match self.pieces.front() {
            None => Front::Empty,
            Some(Piece::File(_)) if self.pipe.is_some() => Front::Splice,
            Some(Piece::File(slice)) if !self.copy && slice.len as usize > splice_above => {
                Front::Splice
            }
            Some(_) => Front::Copy,
        }
    }
}

impl<C: ShardCore> Reactor<C> {
    /// Queues a response.
    pub(crate) fn queue_response(&mut self, id: ConnId, response: Response) {
        let Some(index) = self.conns.find(id) else {
            return;
        };
        if let Some(conn) = self.conns.get(index) {
            conn.out.push(response);
            self.mark_dirty(index);
        }
    }

    /// Sends until nothing is left, an operation is under way or the budget of bytes of files is
    /// used up. `together`: what is in memory leaves with the turn's submission.
    pub(crate) fn drive_send(&mut self, index: u32, together: bool, budget: &mut usize) {
        let splice_above = self.config.splice_above_bytes;
        loop {
            let Some(conn) = self.conns.get(index) else {
                return;
            };
            if conn.closed || conn.out.busy {
                return;
            }
            let ends = conn.out.pop_ends();
            let front = conn.out.front(splice_above);
            let closing = conn.closing.clone();
            self.sent(index, ends);
            let result = match front {
                Front::Empty => {
                    if let Some(reason) = closing {
                        self.close_conn(index, &reason);
                    }
                    return;
                }
                Front::Copy if together => self.send_by_ring(index, budget),
                Front::Copy => self.send_now(index, budget),
                Front::Splice => match self.map_front(index, budget) {
                    Ok(None) => self.step_splice(index, budget),
                    Ok(Some(go_on)) => Ok(go_on),
                    Err(e) => Err(e),
                },
            };
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(e) => return self.close_conn(index, &e),
            }
        }
    }

    /// One sendmsg of what is at the front. True: go on; false: an operation is under way, or the
    /// turn's budget is used up.
    fn send_now(&mut self, index: u32, budget: &mut usize) -> io::Result<bool> {
        if !self.read_slices(index, budget)? {
            return Ok(false);
        }
        let Some(conn) = self.conns.get(index) else {
            return Ok(false);
        };
        if let Some(part) = conn.out.large_part() {
            let (result, len) = (part.send_pages(conn.socket.as_fd()), part.len);
            return self.sent_now(index, result, len);
        }
        let (bufs, total, more) = conn.out.gather();
        if total == 0 {
            drop(bufs);
            self.go_on_later(index); // a slice for which this turn has no budget
            return Ok(false);
        }
        let more = more && *budget > 0;
        let result = mapped::send(conn.socket.as_fd(), &bufs, more);
        drop(bufs);
        self.sent_now(index, result, total)
    }

    /// The socket has taken a part of `total` bytes at the front. True: go on.
    fn sent_now(
        &mut self,
        index: u32,
        result: io::Result<usize>,
        total: usize,
    ) -> io::Result<bool> {
        let Some(conn) = self.conns.get(index) else {
            return Ok(false);
        };
        match result {
            // A mapped file was cut, or can't be read: a plain read will tell.
            Ok(0) if conn.out.unmap_parts() => Ok(true),
            Err(e) if is_unreadable(&e) && conn.out.unmap_parts() => Ok(true),
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                let ends = conn.out.advance(n, &mut self.copy_bufs);
                self.sent(index, ends);
                self.touch(index);
                if n < total {
                    self.wait_writable(index);
                } else if total >= SEND_BYTES {
                    self.go_on_later(index);
                }
                Ok(n == total && total < SEND_BYTES)
            }
            Err(e) if is_transient(&e) => {
                self.wait_writable(index);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// As [`Self::send_now`], with the turn's submission, where all of it lies in memory that can
    /// be shared.
    fn send_by_ring(&mut self, index: u32, budget: &mut usize) -> io::Result<bool> {
        let Some(conn) = self.conns.get(index) else {
            return Ok(false);
        };
        let Some((count, total)) = conn.out.in_memory() else {
            return self.send_now(index, budget);
        };
        let pieces = conn.out.pieces.iter();
        let bytes = pieces.filter_map(|piece| match piece {
            Piece::Bytes(bytes) => Some(bytes),
            _ => None,
        });
        let bytes = bytes.take(count);
        let bufs = match count > 1 && total <= JOIN_BYTES_MAX {
            true => smallvec![self.joined.join(bytes, total)],
            false => bytes.cloned().collect(),
        };
        conn.out.busy = true;
        conn.ops += 1;
        let socket = Rc::clone(&conn.socket);
        let more = false;
        self.ring
            .start(Owner::Conn(index), Op::Send { socket, bufs, more });
        Ok(false)
    }

    /// A send ended.
    pub(crate) fn on_send(&mut self, index: u32, result: io::Result<u32>) {
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        conn.out.busy = false;
        if conn.closed {
            return;
        }
        match result {
            Ok(0) => self.close_conn(index, &"the socket takes no bytes"),
            Ok(n) => {
                let ends = conn.out.advance(n as usize, &mut self.copy_bufs);
                let more = !conn.out.pieces.is_empty() || conn.closing.is_some();
                self.sent(index, ends);
                self.touch(index);
                if more {
                    self.mark_dirty(index);
                }
            }
            Err(e) if is_transient(&e) => self.wait_writable(index),
            Err(e) => self.close_conn(index, &e),
        }
    }

    pub(crate) fn wait_writable(&mut self, index: u32) {
        if let Some(conn) = self.conns.get(index) {
            conn.out.busy = true;
            conn.ops += 1;
            let socket = Rc::clone(&conn.socket);
            self.ring.start(Owner::Conn(index), Op::PollOut { socket });
        }
    }

    /// The socket takes bytes again.
    pub(crate) fn on_writable(&mut self, index: u32) {
        if let Some(conn) = self.conns.get(index) {
            conn.out.busy = false;
            self.mark_dirty(index);
        }
    }
}

/// Whether a read or write with RWF_NOWAIT has to be done by the ring: it would wait, as what is
/// not resident does, or the file system can't tell.
pub(crate) fn needs_ring(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// Whether a send failed because of the file that it sends from.
fn is_unreadable(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EIO))
}

/// Whether the same call may go well later.
pub(crate) fn is_transient(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

pub(crate) fn short_slice() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "a log file is shorter than the slice to send",
    )
}
