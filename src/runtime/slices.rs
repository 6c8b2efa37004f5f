//! Slices of log files on their way into an answer: sent from where the file is mapped, or read
//! into memory; opened and read by the ring where the disk is needed.

use crate::core::ShardCore;
use crate::disk::{failure, open_again};
use crate::logfile::{OpenLog, path_of};
use crate::reactor::{Owner, Reactor};
use crate::ring::Op;
use crate::send::{
    Front, MappedPart, Piece, SEND_BUFS, TURN_BYTES, is_transient, needs_ring, short_slice,
};
use crate::sys::{self, FileSystem};
use bytes::BytesMut;
use flumen_base::{LogFile, Mono};
use flumen_shard::io::{FileSlice, Input};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Shorter slices are not worth the page table's work: they are read.
const MAPPED_BYTES_MIN: u32 = 16 << 10;
/// Mapped files above which those that are gone are looked for.
const MAPPED_LISTED_MAX: usize = 1024;
/// How long after the last use of any of them mapped files are let go.
const UNMAP_AFTER_MS: i64 = 1000;
/// Ends the names of segments that wait to be unlinked.
const RETIRED: &[u8] = b".deleted";

impl<C: ShardCore> Reactor<C> {
    pub(crate) fn read_ahead(&mut self, index: u32, left: &mut usize) {
        if let Some(conn) = self.conns.get(index)
            && !conn.closed
            && !conn.out.busy
            && conn.out.pipe.is_none()
        {
            let mut budget = TURN_BYTES.saturating_sub(conn.out.at_hand());
            let before = budget;
            let result = self.read_slices(index, &mut budget);
            *left = left.saturating_sub(before - budget);
            if let Err(e) = result {
                self.close_conn(index, &e);
            }
        }
    }

    /// Has a large slice at the front sent from where it is mapped: `None` where it can't be, else
    /// whether to go on.
    pub(crate) fn map_front(&mut self, index: u32, budget: &mut usize) -> io::Result<Option<bool>> {
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
    pub(crate) fn read_slices(&mut self, index: u32, budget: &mut usize) -> io::Result<bool> {
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
            let (buf, whole) = match read_what_is_resident(&log, slice, buf) {
                Ok(read) => read,
                Err(e) => {
                    self.slice_failed(index, &log.file, &e);
                    return Ok(false);
                }
            };
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
    pub(crate) fn open_slice(&mut self, index: u32, file: Arc<LogFile>) -> io::Result<()> {
        let path = path_of(&file)?;
        self.start_open(index, file, path, 0);
        Ok(())
    }

    fn start_open(&mut self, index: u32, file: Arc<LogFile>, path: CString, tries: u32) {
        if let Some(conn) = self.conns.get(index) {
            conn.out.busy = true;
            conn.ops += 1;
            let op = Op::OpenForSend { file, path, tries };
            self.start_opening(Owner::Conn(index), op);
        }
    }

    /// The file of a slice has been opened.
    pub(crate) fn on_slice_opened(
        &mut self,
        index: u32,
        (file, path, mut tries): (Arc<LogFile>, CString, u32),
        result: io::Result<u32>,
    ) {
        let files = &self.shared.files;
        files.end_opening();
        let opened = result.and_then(|fd| OpenLog::put(&file, sys::own_file(fd)?, files));
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        conn.out.busy = false;
        if conn.closed {
            return;
        }
        match opened {
            Ok(_) => self.mark_dirty(index),
            Err(e) if open_again(&e, &mut tries) => {
                if let Some(conn) = self.conns.get(index) {
                    conn.out.busy = true;
                    conn.ops += 1;
                }
                let op = Op::OpenForSend { file, path, tries };
                self.open_later(Owner::Conn(index), op);
            }
            // Retired since: under its other name until `file.delete.delay.ms` is over.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !is_retired(&path) => {
                match retired(&path) {
                    Ok(path) => self.start_open(index, file, path, tries),
                    Err(e) => self.slice_failed(index, &file, &e),
                }
            }
            Err(e) => self.slice_failed(index, &file, &e),
        }
    }

    /// A log file could not be read: the core hears of it, and the connection ends, as its answer
    /// can't be sent whole.
    pub(crate) fn slice_failed(&mut self, index: u32, file: &LogFile, error: &io::Error) {
        let failure = failure("read", file, error);
        self.inputs.push_back(Input::SliceFailed(failure));
        self.close_conn(index, error);
    }

    pub(crate) fn start_cold_read(
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
            Ok(0) => {
                let file = Arc::clone(&slice.file);
                self.slice_failed(index, &file, &short_slice());
            }
            Ok(_) if buf.len() == slice.len as usize => {
                conn.out.pieces[at] = Piece::Read(buf, 0);
                self.mark_dirty(index);
            }
            Err(e) if !is_transient(&e) => {
                let file = Arc::clone(&slice.file);
                self.slice_failed(index, &file, &e);
            }
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
}

/// The name of a segment's file while it waits to be unlinked.
fn retired(path: &CStr) -> io::Result<CString> {
    Ok(CString::new([path.to_bytes(), RETIRED].concat())?)
}

fn is_retired(path: &CStr) -> bool {
    path.to_bytes().ends_with(RETIRED)
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
    let part = MappedPart {
        mapping,
        file: Arc::clone(&log.file),
        pos,
        len,
    };
    there.then_some((part, before))
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
            Err(e) if needs_ring(&e) => return Ok((buf, false)),
            Err(e) => return Err(e),
        }
    }
    Ok((buf, true))
}
