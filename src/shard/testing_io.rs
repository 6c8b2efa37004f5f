//! Disk operations of the driver, on the handles that the log files keep as the runtime does; and
//! the answers that it reads.

use crate::io::{DiskOp, IoFailure, IoOutput, Response, Segment};
use bytes::{Bytes, BytesMut};
use flumen_base::{Disk, DiskFile, LogFile, OpenMode, sync_failed};
use flumen_wire::{Message as WireMessage, Reader};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The file of an operation.
pub fn file_of(op: &DiskOp) -> &Arc<LogFile> {
    match op {
        DiskOp::Write { file, .. } | DiskOp::Sync { file } | DiskOp::Read { file, .. } => file,
    }
}

type OpenFile = Mutex<Box<dyn DiskFile>>;

/// Opens a file on first use, as the runtime does, and runs `f` on it.
fn with_file<T>(
    disk: &dyn Disk,
    file: &LogFile,
    f: impl FnOnce(&dyn DiskFile) -> io::Result<T>,
) -> io::Result<T> {
    let handle = match file.handle().get::<OpenFile>() {
        Some(handle) => Some(handle),
        None => {
            let open: OpenFile = Mutex::new(disk.open(file.path(), OpenMode::Create)?);
            file.handle().get_or_put(open)
        }
    };
    let handle = handle.ok_or(io::ErrorKind::Other)?;
    let guard = handle.lock().unwrap_or_else(PoisonError::into_inner);
    f(&**guard)
}

/// Carries out an operation.
///
/// # Errors
/// Those of the disk.
pub fn run_op(disk: &dyn Disk, op: &DiskOp) -> io::Result<IoOutput> {
    with_file(disk, file_of(op), |handle| match op {
        DiskOp::Write {
            pos, bufs, sync, ..
        } => {
            let mut pos = *pos;
            for buf in bufs {
                handle.write_all_at(buf, pos)?;
                pos += buf.len() as u64;
            }
            if *sync {
                handle.sync().map_err(|e| sync_failed(&e))?;
            }
            Ok(IoOutput::Done)
        }
        DiskOp::Sync { .. } => match handle.sync() {
            Ok(()) => Ok(IoOutput::Done),
            Err(e) => Err(sync_failed(&e)),
        },
        DiskOp::Read { pos, len, .. } => {
            let mut buf = vec![0; *len as usize];
            let n = handle.read_at(&mut buf, *pos)?;
            buf.truncate(n);
            Ok(IoOutput::Read(buf.into()))
        }
    })
}

/// The bytes of a response without its size, file slices read.
///
/// # Errors
/// A slice could not be read; the connection is to be closed then.
///
/// # Panics
/// If a slice is shorter than promised, or the size is wrong.
pub fn read_response(disk: &dyn Disk, response: &Response) -> Result<Bytes, IoFailure> {
    let mut out = BytesMut::with_capacity(response.len());
    for segment in &response.segments {
        match segment {
            Segment::Bytes(bytes) => out.extend_from_slice(bytes),
            Segment::File(slice) => {
                let mut buf = vec![0; slice.len as usize];
                let read = with_file(disk, &slice.file, |h| h.read_exact_at(&mut buf, slice.pos));
                if let Err(error) = read {
                    let kind = error.kind();
                    assert_ne!(kind, io::ErrorKind::UnexpectedEof, "shorter than promised");
                    let path = slice.file.path().display().to_string();
                    let op = "read";
                    return Err(IoFailure { op, path, kind });
                }
                out.extend_from_slice(&buf);
            }
        }
    }
    let size = out.split_to(4);
    assert_eq!(
        i32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize,
        out.len(),
        "a frame's size is wrong"
    );
    Ok(out.freeze())
}

/// Decodes a response frame (without its size).
///
/// # Panics
/// If it is not the answer with this correlation id, or no such response.
#[allow(clippy::expect_used)] // a test's own request
pub fn decode_answer<A: WireMessage<'static>>(
    key: i16,
    version: i16,
    correlation: i32,
    frame: Bytes,
) -> A {
    // Answers borrow from their frame; a test keeps both for its short life.
    let bytes: &'static [u8] = Box::leak(frame.to_vec().into_boxed_slice());
    let mut r = Reader::new(bytes);
    assert_eq!(r.i32(), correlation, "answers out of order");
    let info = flumen_wire::ApiKey::from_i16(key).expect("api").info();
    if info.response_header_version(version) >= 1 {
        r.skip_tags();
    }
    A::decode_exact(r.rest(), version).expect("response")
}
