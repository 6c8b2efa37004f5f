//! A shard's private io_uring ring, with the table of its operations. An operation owns everything
//! the kernel may touch (descriptor, buffers, vectors) from start to completion, whatever happens
//! to whoever asked for it: that is what makes this interface safe. One of the files of this crate
//! that may hold unsafe code.

use crate::direct::AlignedBuf;
use crate::logfile::OpenLog;
use crate::splice::Pipe;
use crate::sys;
use bytes::{Bytes, BytesMut};
use flumen_base::aligned::{AlignedWrite, Piece};
use flumen_base::{LogFile, Mono};
use io_uring::{IoUring, opcode, squeue, types};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Entries of the submission queue: one turn's usual batch. A fuller turn submits several times.
const SQ_ENTRIES: u32 = 256;
/// Entries of the completion queue; more completions wait in the kernel (feature NODROP).
const CQ_ENTRIES: u32 = 4096;

/// Most kernel workers of a ring: for regular files (the kernel's own limit is 4 per CPU, and
/// writes that wait for the disk would queue behind each other, where they could share a commit of
/// the journal), and for all else (its limit is that of processes).
const FILE_WORKERS: u32 = 32;
const OTHER_WORKERS: u32 = 64;

/// Completion of a doorbell that another shard rang.
const DOORBELL: u64 = u64::MAX;
/// Completions nobody waits for.
const IGNORED: u64 = u64::MAX - 1;
/// `IORING_RECVSEND_POLL_FIRST`: wait for the socket before the first try.
const RECVSEND_POLL_FIRST: u16 = 1;
/// Marks the completion of the fdatasync that is linked to a write.
const SYNC_HALF: u64 = 1 << 62;

/// An operation with all that it needs.
// Lives in a reused slot; a box per send would cost more than the copy.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Op {
    /// Receive up to `len` bytes behind what is in `buf`.
    Recv {
        socket: Rc<TcpStream>,
        buf: BytesMut,
        len: usize,
        /// Whether bytes are likely to be there already: else the kernel does not look first. At
        /// completion, whether it left some in the socket.
        ready: bool,
    },
    /// Send the buffers in order; the result may be short.
    Send {
        socket: Rc<TcpStream>,
        bufs: SmallVec<[Bytes; 4]>,
        more: bool,
    },
    /// Wait until the socket takes bytes.
    PollOut { socket: Rc<TcpStream> },
    /// Accept connections until it fails (multishot).
    Accept { listener: Rc<TcpListener> },
    /// Wait for the eventfd by which other threads wake this shard.
    Wake {
        fd: Rc<OwnedFd>,
        count: Box<[u8; 8]>,
    },
    /// Read up to `len` bytes at `pos` behind what is in `buf`.
    Read {
        log: OpenLog,
        pos: u64,
        buf: BytesMut,
        len: usize,
    },
    /// Write what is left of `bufs` after `skip` bytes, at `pos + skip`; with `sync`, a linked
    /// fdatasync follows.
    Write {
        log: OpenLog,
        pos: u64,
        bufs: Vec<Bytes>,
        skip: usize,
        sync: bool,
        /// RWF_DONTCACHE.
        uncached: bool,
        /// `sync` by RWF_DSYNC, which is enough where all before is on disk.
        by_flag: bool,
    },
    /// Write whole blocks with O_DIRECT.
    WriteDirect(Box<DirectPiece>),
    /// Open the file of a log, for the operation that waits for it.
    OpenFirst(Box<OpenFirst>),
    /// Open the file of a log, for the answer that waits for it.
    OpenForSend {
        file: Arc<LogFile>,
        path: CString,
        /// Tries so far that found no descriptor left.
        tries: u32,
    },
    /// Allocate blocks, the file's length as it is: nobody waits for it, and it may fail.
    Reserve { log: OpenLog, from: u64, len: u64 },
    /// Has what is dirty in a range of the file written back; nobody waits for it.
    StartWriteback { log: OpenLog, from: u64, len: u32 },
    /// fdatasync.
    Sync { log: OpenLog },
    /// Splice `len` bytes at `pos` into the pipe, waiting for the disk where needed.
    SpliceIn {
        log: OpenLog,
        pos: u64,
        pipe: Pipe,
        len: usize,
    },
}

/// A piece of a direct write.
pub(crate) struct DirectPiece {
    pub(crate) log: OpenLog,
    pub(crate) write: AlignedWrite<Bytes>,
    pub(crate) piece: Piece,
    pub(crate) buf: AlignedBuf,
    /// When it was handed to the kernel, by the shard's clock.
    pub(crate) begun: Mono,
    /// The whole write is to be on disk before it is done.
    pub(crate) sync: bool,
    /// This piece goes there by a linked fdatasync.
    pub(crate) link: bool,
    /// This piece goes there by RWF_DSYNC.
    pub(crate) flag: bool,
}

/// An operation that waits for its file.
pub(crate) struct OpenFirst {
    pub(crate) file: Arc<LogFile>,
    pub(crate) path: CString,
    /// Tries so far that found no descriptor left.
    pub(crate) tries: u32,
    pub(crate) then: Then,
}

/// What goes on once a file is open.
pub(crate) enum Then {
    Write {
        pos: u64,
        bufs: Vec<Bytes>,
        sync: bool,
    },
    Read {
        pos: u64,
        len: usize,
    },
    Sync,
}

/// What a completion gives back.
#[allow(clippy::large_enum_variant)] // on the stack, for one match
pub(crate) enum Done<T> {
    /// The operation has ended. For a synced write, `sync` is the result of the fdatasync.
    Op {
        owner: T,
        op: Op,
        result: io::Result<u32>,
        sync: Option<io::Result<u32>>,
    },
    /// A multishot operation gave one more result and goes on.
    Accepted { owner: T, fd: OwnedFd },
}

struct Slot<T> {
    busy: Option<(T, Op)>,
    iov: Vec<libc::iovec>,
    msg: libc::msghdr,
    /// Completions still to come.
    awaited: u8,
    main: i32,
    sync: Option<i32>,
}

/// The ring and its operations; `T` says for whom an operation runs.
pub(crate) struct Ring<T> {
    uring: IoUring,
    /// How [`sys::ring_enter`] finds it.
    enter: (u32, bool),
    // Boxed: the kernel holds pointers into a slot while its operation runs, and the vector moves
    // when it grows.
    #[allow(clippy::vec_box)]
    slots: Vec<Box<Slot<T>>>,
    free: Vec<u32>,
    live: usize,
    backlog: VecDeque<SmallVec<[squeue::Entry; 2]>>,
}

fn to_result(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

impl<T: Copy> Ring<T> {
    /// A ring for the calling thread only.
    pub(crate) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_cqsize(CQ_ENTRIES)
            .dontfork();
        // Linux 6.6 and newer need no indirection between queue and entries.
        let newer = builder.clone().setup_no_sqarray().build(SQ_ENTRIES);
        let uring = newer.or_else(|_| builder.build(SQ_ENTRIES))?;
        let fd = uring.as_raw_fd();
        // SAFETY: the ring's descriptor is open over this call.
        let registered = sys::register_ring(unsafe { BorrowedFd::borrow_raw(fd) });
        let by_fd = (fd.unsigned_abs(), false);
        // A kernel that refuses keeps its own limits.
        let _ = uring
            .submitter()
            .register_iowq_max_workers(&mut [FILE_WORKERS, OTHER_WORKERS]);
        Ok(Self {
            enter: registered.map_or(by_fd, |number| (number, true)),
            uring,
            slots: Vec::new(),
            free: Vec::new(),
            live: 0,
            backlog: VecDeque::new(),
        })
    }

    /// A second descriptor of the ring, for the doorbells of other shards.
    pub(crate) fn duplicate_fd(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring's descriptor is open as long as `self` lives, so over this call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) };
        sys::duplicate(fd)
    }

    /// Operations that the kernel has not finished.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Starts an operation with the next submission.
    pub(crate) fn start(&mut self, owner: T, op: Op) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Box::new(Slot {
                    busy: None,
                    iov: Vec::new(),
                    // SAFETY: all zero is a valid empty msghdr.
                    msg: unsafe { std::mem::zeroed() },
                    awaited: 0,
                    main: 0,
                    sync: None,
                }));
                (self.slots.len() - 1) as u32
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.main = 0;
        slot.sync = None;
        let (_, op) = slot.busy.insert((owner, op));
        let entries = build(op, &mut slot.iov, &mut slot.msg, u64::from(index));
        slot.awaited = entries.len() as u8;
        self.live += 1;
        self.push(entries);
    }

    /// Rings another shard's doorbell with the next submission.
    pub(crate) fn ring_doorbell(&mut self, peer: &OwnedFd) {
        let entry = opcode::MsgRingData::new(types::Fd(peer.as_raw_fd()), 0, DOORBELL, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(IGNORED);
        self.push(SmallVec::from_iter([entry]));
    }

    fn push(&mut self, entries: SmallVec<[squeue::Entry; 2]>) {
        if !self.backlog.is_empty() || !self.try_push(&entries) {
            self.backlog.push_back(entries);
        }
    }

    fn try_push(&mut self, entries: &[squeue::Entry]) -> bool {
        for _ in 0..2 {
            // SAFETY: each entry's pointers lead into its slot or into buffers that the slot's
            // operation owns, and a slot is emptied only when all its completions have come (or
            // leaked, see `Drop`). Doorbells carry no pointers.
            if unsafe { self.uring.submission().push_multiple(entries) }.is_ok() {
                return true;
            }
            // The queue is full: let the kernel take it. It refuses (EBUSY) while completions wait
            // to be taken; then the entries go to the backlog.
            if self.uring.submit().is_err() {
                return false;
            }
        }
        false
    }

    /// Submits everything started. With `wait`, sleeps until a completion is there or the time is
    /// over (`None`: for ever); without, only lets the kernel post completions that are ready.
    pub(crate) fn submit(&mut self, wait: Option<Option<Duration>>) -> io::Result<()> {
        while let Some(entries) = self.backlog.pop_front() {
            if !self.try_push(&entries) {
                self.backlog.push_front(entries);
                break;
            }
        }
        let queued = self.uring.submission().len() as u32;
        let (least, max) = match wait {
            Some(max) if self.backlog.is_empty() => (1, max),
            _ => (0, None), // nothing to wait for: only runs deferred work
        };
        let result = sys::ring_enter(self.enter, queued, least, max);
        match result.map_err(|e| e.raw_os_error()) {
            Ok(_) => Ok(()),
            Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(Some(code)) => Err(io::Error::from_raw_os_error(code)),
            Err(None) => Err(io::Error::other("io_uring_enter failed")),
        }
    }

    /// Whether completions can be taken without a system call.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Takes the next completion. Doorbells and completions nobody waits for are dropped.
    pub(crate) fn next(&mut self) -> Option<Done<T>> {
        loop {
            let entry = self.uring.completion().next()?;
            let data = entry.user_data();
            if data >= IGNORED {
                continue;
            }
            if let Some(done) = self.complete(data, entry.result(), entry.flags()) {
                return Some(done);
            }
        }
    }

    fn complete(&mut self, data: u64, result: i32, flags: u32) -> Option<Done<T>> {
        let index = (data & !SYNC_HALF) as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if io_uring::cqueue::more(flags) {
            let (owner, Op::Accept { .. }) = slot.busy.as_ref()? else {
                return None;
            };
            let fd = accepted(result)?;
            return Some(Done::Accepted { owner: *owner, fd });
        }
        if data & SYNC_HALF == 0 {
            slot.main = result;
        } else {
            slot.sync = Some(result);
        }
        slot.awaited = slot.awaited.saturating_sub(1);
        if slot.awaited > 0 {
            return None;
        }
        let (owner, mut op) = slot.busy.take()?;
        if let Op::Recv { buf, len, .. } | Op::Read { buf, len, .. } = &mut op {
            let n = usize::try_from(slot.main).unwrap_or(0).min(*len);
            // SAFETY: the kernel has written `n` bytes, at most the `len` that were reserved behind
            // the buffer's length when the operation was started, and nobody has touched the buffer
            // since.
            unsafe { buf.set_len(buf.len() + n) };
        }
        if let Op::Recv { ready, .. } = &mut op {
            *ready = io_uring::cqueue::sock_nonempty(flags);
        }
        self.free.push(index);
        self.live -= 1;
        Some(Done::Op {
            owner,
            op,
            result: to_result(slot.main),
            sync: slot.sync.map(to_result),
        })
    }

    /// Cancels everything and waits for the kernel to let go of all buffers, at most `max`.
    pub(crate) fn drain(&mut self, max: Duration) {
        let end = std::time::Instant::now() + max;
        let _ = self
            .uring
            .submitter()
            .register_sync_cancel(None, types::CancelBuilder::any());
        while self.live > 0 {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || self.submit(Some(Some(left))).is_err() {
                break;
            }
            while self.next().is_some() {}
            let _ = self
                .uring
                .submitter()
                .register_sync_cancel(None, types::CancelBuilder::any());
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.live > 0 {
            // The kernel may still write into these buffers: they are given up, not freed.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

fn accepted(result: i32) -> Option<OwnedFd> {
    if result < 0 {
        return None;
    }
    // SAFETY: a successful accept gives a new descriptor that nobody else owns.
    Some(unsafe { std::os::fd::FromRawFd::from_raw_fd(result) })
}

/// The result of an accept that was the last of its multishot.
pub(crate) fn last_accepted(result: &io::Result<u32>) -> Option<OwnedFd> {
    match result {
        Ok(fd) => accepted(i32::try_from(*fd).ok()?),
        Err(_) => None,
    }
}

/// Builds the entries of an operation that is already in its slot.
fn build(
    op: &mut Op,
    iov: &mut Vec<libc::iovec>,
    msg: &mut libc::msghdr,
    data: u64,
) -> SmallVec<[squeue::Entry; 2]> {
    let entry = match op {
        Op::Recv {
            socket,
            buf,
            len,
            ready,
        } => {
            let spare = buf.spare_capacity_mut();
            *len = (*len).min(spare.len());
            let at = spare.as_mut_ptr().cast();
            let ioprio = if *ready { 0 } else { RECVSEND_POLL_FIRST };
            opcode::Recv::new(types::Fd(socket.as_raw_fd()), at, *len as u32)
                .ioprio(ioprio)
                .build()
        }
        Op::Send { socket, bufs, more } => {
            let fd = types::Fd(socket.as_raw_fd());
            let flags = libc::MSG_NOSIGNAL | if *more { libc::MSG_MORE } else { 0 };
            if let [one] = bufs.as_slice() {
                // The kernel has no header to copy. A frame is shorter than 4 GiB.
                opcode::Send::new(fd, one.as_ptr(), one.len() as u32)
                    .flags(flags)
                    .build()
            } else {
                sys::gather(bufs, 0, iov);
                msg.msg_iov = iov.as_mut_ptr();
                msg.msg_iovlen = iov.len();
                opcode::SendMsg::new(fd, &raw const *msg)
                    .flags(flags as u32)
                    .build()
            }
        }
        Op::PollOut { socket } => {
            opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build()
        }
        Op::Accept { listener } => opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
            .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
            .build(),
        Op::Wake { fd, count } => {
            opcode::Read::new(types::Fd(fd.as_raw_fd()), count.as_mut_ptr(), 8).build()
        }
        Op::Read { log, pos, buf, len } => {
            let spare = buf.spare_capacity_mut();
            *len = (*len).min(spare.len());
            let at = spare.as_mut_ptr().cast();
            opcode::Read::new(types::Fd(log.as_raw_fd()), at, *len as u32)
                .offset(*pos)
                .build()
        }
        Op::Write {
            log,
            pos,
            bufs,
            skip,
            sync,
            uncached,
            by_flag,
        } => {
            sys::gather(bufs, *skip, iov);
            let mut flags = if *uncached { libc::RWF_DONTCACHE } else { 0 };
            if *sync && *by_flag {
                flags |= libc::RWF_DSYNC;
            }
            let write =
                opcode::Writev::new(types::Fd(log.as_raw_fd()), iov.as_ptr(), iov.len() as u32)
                    .offset(*pos + *skip as u64)
                    .rw_flags(flags)
                    .build()
                    .user_data(data);
            if *sync && !*by_flag {
                let sync = datasync(log.as_raw_fd()).user_data(data | SYNC_HALF);
                return SmallVec::from([write.flags(squeue::Flags::IO_LINK), sync]);
            }
            // What waits for the disk must not do so in our own submission.
            match flags {
                0 => write,
                _ => write.flags(squeue::Flags::ASYNC),
            }
        }
        Op::WriteDirect(piece) => return build_direct(piece, data),
        Op::OpenFirst(open) => {
            let create = match open.then {
                Then::Write { .. } | Then::Sync => libc::O_CREAT,
                Then::Read { .. } => 0,
            };
            let flags = libc::O_RDWR | libc::O_CLOEXEC | create;
            opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), open.path.as_ptr())
                .flags(flags)
                .mode(0o666)
                .build()
        }
        Op::OpenForSend { path, .. } => {
            opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
                .flags(libc::O_RDWR | libc::O_CLOEXEC)
                .build()
        }
        Op::Reserve { log, from, len } => opcode::Fallocate::new(types::Fd(log.as_raw_fd()), *len)
            .offset(*from)
            .mode(libc::FALLOC_FL_KEEP_SIZE)
            .build(),
        Op::StartWriteback { log, from, len } => {
            opcode::SyncFileRange::new(types::Fd(log.as_raw_fd()), *len)
                .offset(*from)
                .flags(libc::SYNC_FILE_RANGE_WRITE)
                .build()
        }
        Op::Sync { log } => datasync(log.as_raw_fd()),
        Op::SpliceIn {
            log,
            pos,
            pipe,
            len,
        } => opcode::Splice::new(
            types::Fd(log.as_raw_fd()),
            i64::try_from(*pos).unwrap_or(i64::MAX),
            types::Fd(pipe.write_end().as_raw_fd()),
            -1,
            *len as u32,
        )
        .flags(libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK)
        .build(),
    };
    SmallVec::from_iter([entry.user_data(data)])
}

fn build_direct(op: &DirectPiece, data: u64) -> SmallVec<[squeue::Entry; 2]> {
    let bytes = op.buf.bytes(op.piece.len);
    // Without a descriptor for direct writes the kernel says EBADF.
    let fd = op.log.handle.direct(&op.log.file).unwrap_or(-1);
    let write = opcode::Write::new(types::Fd(fd), bytes.as_ptr(), bytes.len() as u32)
        .offset(op.piece.at)
        .rw_flags(if op.flag { libc::RWF_DSYNC } else { 0 })
        .build()
        .user_data(data);
    // A write that makes the file longer goes to a worker anyway, after a try in vain.
    if op.link {
        let sync = datasync(op.log.as_raw_fd()).user_data(data | SYNC_HALF);
        let both = squeue::Flags::IO_LINK | squeue::Flags::ASYNC;
        return SmallVec::from([write.flags(both), sync]);
    }
    SmallVec::from_iter([write.flags(squeue::Flags::ASYNC)])
}

fn datasync(fd: RawFd) -> squeue::Entry {
    opcode::Fsync::new(types::Fd(fd))
        .flags(types::FsyncFlags::DATASYNC)
        .build()
}
