//! Log files mapped into memory for the kernel to send from: what is in the page cache goes into
//! the socket by one copy instead of two, and needs no memory of ours.
//!
//! Nothing here ever touches the mapped bytes itself. The kernel does, within a system call: where
//! a file turns out shorter, that call fails and nothing else happens. Pages that are not there
//! would make it wait for the disk, so they are looked for first ([`Mapping::is_resident`]). One of
//! the files of this crate that may hold unsafe code.

use crate::sys::check_len;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// The unit of the page cache that is looked at.
const PAGE_BYTES: usize = 4096;
/// Most bytes that are looked at in one call: a share of a turn, which may begin within a page.
const LOOK_BYTES: usize = crate::send::TURN_BYTES + PAGE_BYTES;

/// A file in the address space.
pub(crate) struct Mapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: a range of addresses, which are never read here; the kernel's calls on it may come from
// any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file; it may be shorter.
    pub(crate) fn new(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { start, len })
    }

    /// Bytes from the file's start on.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether all pages of the range have been read and are in the page cache (they may leave it
    /// any time).
    pub(crate) fn is_resident(&self, pos: usize, len: usize) -> bool {
        let end = pos.saturating_add(len);
        if end > self.len {
            return false;
        }
        let mut at = pos / PAGE_BYTES * PAGE_BYTES;
        let mut seen = [0u8; LOOK_BYTES / PAGE_BYTES];
        while at < end {
            let bytes = (end - at).min(LOOK_BYTES);
            let pages = bytes.div_ceil(PAGE_BYTES);
            // SAFETY: the range lies in the mapping, which lives over the call, and `seen` has a
            // byte for each of its pages.
            let result = unsafe {
                libc::mincore(self.start.as_ptr().byte_add(at), bytes, seen.as_mut_ptr())
            };
            let there = |pages: &[u8]| pages.iter().all(|page| page & 1 == 1);
            if result != 0 || !seen.get(..pages).is_some_and(there) {
                return false;
            }
            at += bytes;
        }
        true
    }

    /// A part of it to be sent, as far as it is mapped.
    pub(crate) fn part(&self, pos: usize, len: usize) -> SendBuf<'_> {
        let pos = pos.min(self.len);
        let iov = libc::iovec {
            // SAFETY: within the mapping or at its end.
            iov_base: unsafe { self.start.as_ptr().byte_add(pos) },
            iov_len: len.min(self.len - pos),
        };
        SendBuf(iov, PhantomData)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a part of it any more, and the kernel keeps none after a call.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}

/// A buffer for the kernel to read: an iovec that lives no longer than what it points to.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct SendBuf<'a>(libc::iovec, PhantomData<&'a [u8]>);

impl<'a> SendBuf<'a> {
    /// Of bytes in memory.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let iov = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        Self(iov, PhantomData)
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.0.iov_len
    }
}

/// Sends what the socket takes of the buffers, without waiting. `more`: something follows soon.
pub(crate) fn send(fd: BorrowedFd<'_>, bufs: &[SendBuf<'_>], more: bool) -> io::Result<usize> {
    let more = if more { libc::MSG_MORE } else { 0 };
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | more;
    let sent = if let [one] = bufs {
        // SAFETY: the buffer lives over the call, and the kernel only reads it.
        unsafe { libc::send(fd.as_raw_fd(), one.0.iov_base, one.0.iov_len, flags) }
    } else {
        // SAFETY: all zero is a valid empty msghdr.
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        msg.msg_iov = bufs.as_ptr().cast_mut().cast();
        msg.msg_iovlen = bufs.len();
        // SAFETY: a `SendBuf` is an iovec; they and their buffers live over the call, and the
        // kernel only reads them.
        unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, flags) }
    };
    check_len(sent)
}
