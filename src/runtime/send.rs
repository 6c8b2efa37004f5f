//! Responses on their way out: in order, one send in flight per connection, file slices by copy or
//! by splice.
//!
//! A slice in the page cache is sent from where its file is mapped, in one sendmsg with its header:
//! one copy, by the kernel. What is not there, or small, is read up to `splice_above_bytes` (from
//! the page cache inline, else by the ring); above, it goes file -> pipe -> socket, by the ring
//! where the disk is needed, so that the disk never holds up the shard. A connection moves at most
//! [`TURN_BYTES`] per turn, and holds at most about that much in memory of ours, however slow its
//! peer.
//!
//! A sendmsg is made at once, where it never waits, unless many connections have answers in memory
//! in the same turn: those leave in one submission of the ring. Made at once, its result is known
//! within the turn: no further turn, and the same buffer, still in the cache, for the next
//! connection.

use crate::core::ShardCore;
use crate::logfile::OpenLog;
use crate::mapped::{self, Mapping, SendBuf};
use crate::reactor::{Owner, Reactor};
use crate::ring::Op;
use crate::splice::Pipe;
use crate::sys::{self, FileSystem};
use bytes::{Buf, Bytes, BytesMut};
use flumen_base::{LogFile, Mono};
use flumen_shard::io::{ConnId, FileSlice, Response, Segment};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that one connection splices or reads from files in one turn.
const TURN_BYTES: usize = 256 << 10;
/// Bytes in memory that one sendmsg takes.
const SEND_BYTES: usize = 1 << 20;
/// Buffers that one sendmsg takes.
const SEND_BUFS: usize = 128;
/// Shorter slices are not worth the page table's work: they are read.
const MAPPED_BYTES_MIN: u32 = 16 << 10;
/// Mapped files above which those that are gone are looked for.
const MAPPED_LISTED_MAX: usize = 1024;
/// How long after the last use of any of them mapped files are let go.
const UNMAP_AFTER_MS: i64 = 1000;
/// Bytes that are read for several connections before the first send: they stay in the cache.
const READ_AHEAD_BYTES: usize = 512 << 10;
/// Connections with something to send above which the sends of a turn go through the ring together.
const INLINE_SENDS_MAX: usize = 4;
/// Distance of the residency probes, in bytes.
const PROBE_STEP: u64 = 64 << 10;

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
    mapping: Arc<Mapping>,
    pos: usize,
    len: usize,
}

/// Buffers for file slices that go by copy: used again, because fresh memory costs more than the
/// copy into it.
#[derive(Default)]
pub(crate) struct CopyBufs(Vec<BytesMut>);

/// Buffers kept when idle.
const COPY_BUFS_KEPT: usize = 8;

impl CopyBufs {
    fn take(&mut self, len: usize) -> BytesMut {
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

/// The sending half of one connection.
#[derive(Default)]
pub(crate) struct Outgoing {
    pub(crate) pieces: VecDeque<Piece>,
    /// An operation for sending is in the ring.
    busy: bool,
    /// What the pipe holds belongs before the rest of the slice at the front.
    pub(crate) pipe: Option<Pipe>,
    /// The slice at the front goes by copy: no pipe was to be had, or its file can't be spliced.
    copy: bool,
    /// The piece that a cold read will fill.
    cold: usize,
}

enum Front {
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

    /// Bytes of files at hand to be sent.
    fn at_hand(&self) -> usize {
        let of_files = self.pieces.iter().map(|piece| match piece {
            Piece::Read(buf, sent) => buf.len() - sent,
            Piece::Mapped(part) => part.len,
            _ => 0,
        });
        of_files.sum()
    }

    fn front(&self, splice_above: usize) -> Front {
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

    /// Has [`Self::drive_sends`] look at this connection.
    pub(crate) fn mark_dirty(&mut self, index: u32) {
        if let Some(conn) = self.conns.get(index)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Starts or goes on with the sends of all connections that have something new.
    pub(crate) fn drive_sends(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let together = dirty.len() > INLINE_SENDS_MAX;
        if dirty.len() > 1 {
            // First all reads, then all sends: a client with several connections is woken once.
            let mut left = READ_AHEAD_BYTES;
            for &index in &dirty {
                self.read_ahead(index, &mut left);
            }
        }
        for index in dirty.drain(..) {
            if let Some(conn) = self.conns.get(index) {
                conn.dirty = false;
                self.drive_send(index, together);
            }
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Has the next turn's [`Self::drive_sends`] go on with this connection.
    fn go_on_later(&mut self, index: u32) {
        self.dirty_later.push(index);
    }

    /// The connections whose turn was over have one again.
    pub(crate) fn go_on_sending(&mut self) {
        while let Some(index) = self.dirty_later.pop() {
            self.mark_dirty(index);
        }
    }

    fn read_ahead(&mut self, index: u32, left: &mut usize) {
        if let Some(conn) = self.conns.get(index)
            && !conn.closed
            && !conn.out.busy
            && conn.out.pipe.is_none()
        {
            let mut budget = TURN_BYTES.saturating_sub(conn.out.at_hand()).min(*left);
            let before = budget;
            let result = self.read_slices(index, &mut budget);
            *left -= before - budget;
            if let Err(e) = result {
                self.close_conn(index, &e);
            }
        }
    }

    fn drive_send(&mut self, index: u32, together: bool) {
        let splice_above = self.config.splice_above_bytes;
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        let mut budget = TURN_BYTES.saturating_sub(conn.out.at_hand());
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
                Front::Copy if together => self.send_by_ring(index, &mut budget),
                Front::Copy => self.send_now(index, &mut budget),
                Front::Splice => match self.map_front(index, &mut budget) {
                    Ok(None) => self.step_splice(index, &mut budget),
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
        let (bufs, total, more) = conn.out.gather();
        if total == 0 {
            drop(bufs);
            self.go_on_later(index); // a slice for which this turn has no budget
            return Ok(false);
        }
        let more = more && *budget > 0;
        let result = mapped::send(conn.socket.as_fd(), &bufs, more);
        drop(bufs);
        match result {
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
            // A mapped file was cut, or can't be read.
            Err(e) if e.raw_os_error() == Some(libc::EFAULT) => Err(short_slice()),
            Err(e) => Err(e),
        }
    }

    /// As [`Self::send_now`], with the turn's submission, where all of it lies in memory that can
    /// be shared.
    fn send_by_ring(&mut self, index: u32, budget: &mut usize) -> io::Result<bool> {
        let Some(conn) = self.conns.get(index) else {
            return Ok(false);
        };
        let mut bufs: SmallVec<[Bytes; 8]> = SmallVec::new();
        let mut total = 0;
        for piece in &conn.out.pieces {
            match piece {
                Piece::End => {}
                Piece::Bytes(bytes) => {
                    total += bytes.len();
                    bufs.push(bytes.clone());
                }
                _ => return self.send_now(index, budget),
            }
            if bufs.len() >= SEND_BUFS || total >= SEND_BYTES {
                break;
            }
        }
        conn.out.busy = true;
        conn.ops += 1;
        let socket = Rc::clone(&conn.socket);
        let more = false;
        self.ring
            .start(Owner::Conn(index), Op::Send { socket, bufs, more });
        Ok(false)
    }

    /// Has a large slice at the front sent from where it is mapped: `None` where it can't be, else
    /// whether to go on.
    fn map_front(&mut self, index: u32, budget: &mut usize) -> io::Result<Option<bool>> {
        let splice_above = self.config.splice_above_bytes;
        let Some(conn) = self.conns.get(index) else {
            return Ok(Some(false));
        };
        if conn.out.pipe.is_some() {
            return Ok(None);
        }
        if *budget == 0 {
            self.go_on_later(index);
            return Ok(Some(false));
        }
        if !self.read_slices(index, budget)? {
            return Ok(Some(false));
        }
        let front = self
            .conns
            .get(index)
            .map(|conn| conn.out.front(splice_above));
        Ok(matches!(front, Some(Front::Copy)).then_some(true))
    }

    /// Reads the slices at the front that go by copy into memory, as far as the budget goes; on the
    /// ring where they are cold, then it gives false.
    fn read_slices(&mut self, index: u32, budget: &mut usize) -> io::Result<bool> {
        let splice_above = self.config.splice_above_bytes;
        let Some(conn) = self.conns.get(index) else {
            return Ok(false);
        };
        let mut at = 0;
        while at < conn.out.pieces.len().min(SEND_BUFS) {
            let Piece::File(slice) = &mut conn.out.pieces[at] else {
                at += 1;
                continue;
            };
            let by_copy = slice.len as usize <= splice_above || (at == 0 && conn.out.copy);
            if *budget == 0 {
                break;
            }
            let Some(log) = OpenLog::new(&slice.file) else {
                let file = Arc::clone(&slice.file);
                self.open_slice(index, file)?;
                return Ok(false);
            };
            let len = slice.len.min(u32::try_from(*budget).unwrap_or(u32::MAX));
            if let Some(part) = mapped_part(&log, slice, len) {
                self.mapped_at = self.now.mono;
                if !part.1 {
                    if self.mapped.len() >= MAPPED_LISTED_MAX {
                        self.mapped.retain(|handle| handle.strong_count() > 0);
                    }
                    self.mapped.push(Arc::downgrade(&log.handle));
                }
                *budget -= part.0.len;
                slice.pos += u64::from(len);
                slice.len -= len;
                if slice.len == 0 {
                    conn.out.pieces[at] = Piece::Mapped(part.0);
                } else {
                    conn.out.pieces.insert(at, Piece::Mapped(part.0));
                }
                at += 1;
                continue;
            }
            if !by_copy {
                break;
            }
            if slice.len as usize > *budget {
                let rest = split_slice(slice, *budget);
                conn.out.pieces.insert(at + 1, Piece::File(rest));
                continue;
            }
            let buf = self.copy_bufs.take(slice.len as usize);
            let (buf, whole) = read_what_is_resident(&log, slice, buf)?;
            *budget -= buf.len();
            if !whole {
                conn.out.cold = at;
                conn.out.busy = true;
                conn.ops += 1;
                let (pos, len) = (slice.pos, slice.len as usize);
                self.start_cold_read(index, log, pos, len, buf);
                return Ok(false);
            }
            conn.out.pieces[at] = Piece::Read(buf, 0);
        }
        Ok(true)
    }

    /// When [`Self::unmap_idle`] wants to run.
    pub(crate) fn next_unmap(&self) -> Option<Mono> {
        (!self.mapped.is_empty()).then(|| self.mapped_at.plus_ms(UNMAP_AFTER_MS))
    }

    /// Takes log files out of the address space when none was sent from for a while: their pages
    /// would count as this process's memory.
    pub(crate) fn unmap_idle(&mut self) {
        if self.next_unmap().is_some_and(|at| at <= self.now.mono) {
            for handle in self.mapped.drain(..) {
                if let Some(handle) = handle.upgrade() {
                    handle.unmap();
                }
            }
        }
    }

    /// Opens the file of a slice off the core: its directory may have to be read from the disk.
    fn open_slice(&mut self, index: u32, file: Arc<LogFile>) -> io::Result<()> {
        let path = CString::new(file.path().as_os_str().as_bytes()).map_err(io::Error::other)?;
        if let Some(conn) = self.conns.get(index) {
            conn.out.busy = true;
            conn.ops += 1;
            let op = Op::OpenForSend { file, path };
            self.ring.start(Owner::Conn(index), op);
        }
        Ok(())
    }

    /// The file of a slice has been opened.
    pub(crate) fn on_slice_opened(
        &mut self,
        index: u32,
        file: &Arc<LogFile>,
        result: io::Result<u32>,
    ) {
        let opened = result.and_then(|fd| OpenLog::put(file, sys::own_file(fd)?));
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        conn.out.busy = false;
        if conn.closed {
            return;
        }
        match opened {
            Err(e) if !is_transient(&e) => self.close_conn(index, &e),
            _ => self.mark_dirty(index), // an interrupted one is tried again
        }
    }

    fn start_cold_read(
        &mut self,
        index: u32,
        log: OpenLog,
        pos: u64,
        len: usize,
        mut buf: BytesMut,
    ) {
        let missing = len - buf.len();
        buf.reserve(missing);
        let op = Op::Read {
            log,
            pos: pos + buf.len() as u64,
            buf,
            len: missing,
        };
        self.ring.start(Owner::Conn(index), op);
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

    /// A cold read for a send ended.
    pub(crate) fn on_cold_read(&mut self, index: u32, buf: BytesMut, result: io::Result<u32>) {
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        conn.out.busy = false;
        if conn.closed {
            return;
        }
        let at = conn.out.cold;
        let Some(Piece::File(slice)) = conn.out.pieces.get(at) else {
            return;
        };
        match result {
            Ok(0) => self.close_conn(index, &short_slice()),
            Ok(_) if buf.len() == slice.len as usize => {
                conn.out.pieces[at] = Piece::Read(buf, 0);
                self.mark_dirty(index);
            }
            Err(e) if !is_transient(&e) => self.close_conn(index, &e),
            Ok(_) | Err(_) => {
                let Some(log) = OpenLog::new(&slice.file) else {
                    return;
                };
                conn.out.busy = true;
                conn.ops += 1;
                let (pos, len) = (slice.pos, slice.len as usize);
                self.start_cold_read(index, log, pos, len, buf);
            }
        }
    }

    /// One step of a splice. True: go on; false: an operation is under way, or the turn's budget is
    /// used up.
    fn step_splice(&mut self, index: u32, budget: &mut usize) -> io::Result<bool> {
        let Some(conn) = self.conns.get(index) else {
            return Ok(false);
        };
        let after = conn.out.pieces.len() > 2; // this slice, its end, and something behind it
        let Some(Piece::File(slice)) = conn.out.pieces.front_mut() else {
            return Ok(false);
        };
        let Some(mut pipe) = conn.out.pipe.take().or_else(|| self.pipes.take()) else {
            conn.out.copy = true;
            return Ok(true);
        };
        if pipe.filled > 0 {
            let more = slice.len > 0 || after;
            let socket = conn.socket.as_fd();
            let result = sys::splice_out(pipe.read_end(), socket, pipe.filled, more);
            if let Ok(n) = result {
                pipe.filled -= n;
            }
            conn.out.pipe = Some(pipe);
            return match result {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {
                    self.touch(index);
                    Ok(true)
                }
                Err(e) if is_transient(&e) => {
                    self.wait_writable(index);
                    Ok(false)
                }
                Err(e) => Err(e),
            };
        }
        if slice.len == 0 {
            conn.out.pieces.pop_front();
            conn.out.copy = false;
            self.pipes.give_back(pipe);
            return Ok(true);
        }
        if *budget == 0 {
            conn.out.pipe = Some(pipe);
            self.go_on_later(index);
            return Ok(false);
        }
        let Some(log) = OpenLog::new(&slice.file) else {
            let file = Arc::clone(&slice.file);
            conn.out.pipe = Some(pipe);
            self.open_slice(index, file)?;
            return Ok(false);
        };
        let len = (slice.len as usize).min(pipe.capacity).min(*budget);
        *budget -= len;
        let file = log.as_fd();
        if sys::is_resident(file, log.fs, slice.pos, len as u64, PROBE_STEP) {
            match sys::splice_in(file, slice.pos, pipe.write_end(), len) {
                Ok(0) => return Err(short_slice()),
                Ok(n) => {
                    pipe.filled = n;
                    slice.pos += n as u64;
                    slice.len -= n as u32;
                    conn.out.pipe = Some(pipe);
                    return Ok(true);
                }
                Err(e) if is_transient(&e) => {} // left the page cache since: the ring waits for it
                Err(e) => return Err(e),
            }
        }
        let pos = slice.pos;
        conn.out.busy = true;
        conn.ops += 1;
        let op = Op::SpliceIn {
            log,
            pos,
            pipe,
            len,
        };
        self.ring.start(Owner::Conn(index), op);
        Ok(false)
    }

    /// A splice from file to pipe ended.
    pub(crate) fn on_splice_in(&mut self, index: u32, mut pipe: Pipe, result: io::Result<u32>) {
        pipe.filled = result.as_ref().map_or(0, |n| *n as usize);
        let Some(conn) = self.conns.get(index).filter(|conn| !conn.closed) else {
            if let Some(conn) = self.conns.get(index) {
                conn.out.busy = false;
            }
            return self.pipes.give_back(pipe);
        };
        conn.out.busy = false;
        let Some(Piece::File(slice)) = conn.out.pieces.front_mut() else {
            return self.pipes.give_back(pipe);
        };
        match result {
            Ok(0) => {
                self.pipes.give_back(pipe);
                self.close_conn(index, &short_slice());
            }
            Ok(n) => {
                slice.pos += u64::from(n);
                slice.len -= n;
                conn.out.pipe = Some(pipe);
                self.mark_dirty(index);
            }
            Err(_) => {
                // The file system can't splice, or an error that a plain read will name.
                conn.out.copy = true;
                self.pipes.give_back(pipe);
                self.mark_dirty(index);
            }
        }
    }

    fn wait_writable(&mut self, index: u32) {
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

/// The first `len` bytes of the slice as a part of the mapped file, where that is worth it and
/// nothing has to be read; and whether the file was mapped before.
fn mapped_part(log: &OpenLog, slice: &FileSlice, len: u32) -> Option<(MappedPart, bool)> {
    if len < MAPPED_BYTES_MIN {
        return None;
    }
    let before = log.handle.is_mapped();
    let mapping = log.handle.mapping(slice.pos + u64::from(len))?;
    let (pos, len) = (usize::try_from(slice.pos).ok()?, len as usize);
    let there = log.fs == FileSystem::Tmpfs || mapping.is_resident(pos, len);
    there.then_some((MappedPart { mapping, pos, len }, before))
}

/// Cuts a slice to `len` bytes, fewer than it has; gives the rest.
fn split_slice(slice: &mut FileSlice, len: usize) -> FileSlice {
    let cut = len as u32;
    let rest = FileSlice {
        file: slice.file.clone(),
        pos: slice.pos + u64::from(cut),
        len: slice.len - cut,
    };
    slice.len = cut;
    rest
}

/// Reads as much of the slice as is in the page cache; whether that is all of it.
fn read_what_is_resident(
    log: &OpenLog,
    slice: &FileSlice,
    mut buf: BytesMut,
) -> io::Result<(BytesMut, bool)> {
    let len = slice.len as usize;
    while buf.len() < len {
        let (missing, pos) = (len - buf.len(), slice.pos + buf.len() as u64);
        match sys::read_resident(log.as_fd(), log.fs, &mut buf, missing, pos) {
            Ok(0) => return Err(short_slice()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if is_cold(&e) => return Ok((buf, false)),
            Err(e) => return Err(e),
        }
    }
    Ok((buf, true))
}

/// Whether a read with RWF_NOWAIT has to be done by the ring: not resident, or the file system
/// can't tell.
pub(crate) fn is_cold(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock || e.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// Whether the same call may go well later.
pub(crate) fn is_transient(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn short_slice() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "a log file is shorter than the slice to send",
    )
}
