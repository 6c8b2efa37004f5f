//! Small safe wrappers around system calls that the standard library lacks. One of the files of
//! this crate that may hold unsafe code.

use bytes::{Bytes, BytesMut};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// What a call gives that gives a length.
pub(crate) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A new eventfd, not blocking: reading it on a ring waits, writing it never does.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd. Blocks only at 2^64 - 2 wakes, which are drained long before.
pub(crate) fn eventfd_wake(fd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is 8 bytes and lives over the call. A failure could only be EINTR before
    // the write, which an eventfd that doesn't block never gives.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Where the kernel keeps what it knows of the disk with this number (`st_dev`).
pub(crate) fn disk_dir(device: u64) -> std::path::PathBuf {
    let (major, minor) = (libc::major(device), libc::minor(device));
    format!("/sys/dev/block/{major}:{minor}").into()
}

/// The kinds of file system that are treated differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// tmpfs: what is in a file is in memory (or swapped out, like any memory of ours). It refuses
    /// RWF_NOWAIT, and does not need it.
    Tmpfs,
    /// XFS.
    Xfs,
    /// Any other.
    Other,
}

/// Total and usable bytes of the file system under a directory.
pub(crate) fn disk_space(path: &std::path::Path) -> io::Result<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: an all-zero statvfs is valid; path and struct live over the call.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        check(libc::statvfs(path.as_ptr(), &raw mut stat))?;
        stat
    };
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok((bytes(stat.f_blocks), bytes(stat.f_bavail)))
}

/// Takes those pages of a file out of the page cache that do not wait to be written.
pub(crate) fn drop_clean(file: &File) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The file system of an open file.
pub(crate) fn file_system(fd: BorrowedFd<'_>) -> io::Result<FileSystem> {
    // SAFETY: an all-zero statfs is valid, and the struct lives over the call.
    let stat = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        check(libc::fstatfs(fd.as_raw_fd(), &raw mut stat))?;
        stat
    };
    Ok(match stat.f_type {
        libc::TMPFS_MAGIC => FileSystem::Tmpfs,
        libc::XFS_SUPER_MAGIC => FileSystem::Xfs,
        _ => FileSystem::Other,
    })
}

fn nowait(fs: FileSystem) -> libc::c_int {
    match fs {
        FileSystem::Tmpfs => 0,
        _ => libc::RWF_NOWAIT,
    }
}

/// Reads up to `len` bytes at `pos` behind what is in `buf`, only what is in the page cache:
/// `WouldBlock` when nothing is.
pub(crate) fn read_resident(
    fd: BorrowedFd<'_>,
    fs: FileSystem,
    buf: &mut BytesMut,
    len: usize,
    pos: u64,
) -> io::Result<usize> {
    buf.reserve(len);
    let spare = buf.spare_capacity_mut();
    let iov = libc::iovec {
        iov_base: spare.as_mut_ptr().cast(),
        iov_len: len.min(spare.len()),
    };
    let pos = libc::off_t::try_from(pos).map_err(io::Error::other)?;
    // SAFETY: the iovec covers spare capacity of `buf`, which lives over the call.
    let n =
        check_len(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const iov, 1, pos, nowait(fs)) })?;
    // SAFETY: the kernel has written the first `n` bytes of the spare capacity.
    unsafe { buf.set_len(buf.len() + n) };
    Ok(n)
}

/// Whether the pages at the given places are in the page cache (a probe: they may leave it any
/// time). The copy of one byte each is what makes the answer true: `cachestat` counts pages whose
/// read is still under way.
pub(crate) fn is_resident(
    fd: BorrowedFd<'_>,
    fs: FileSystem,
    pos: u64,
    len: u64,
    step: u64,
) -> bool {
    if fs == FileSystem::Tmpfs {
        return true;
    }
    let mut at = pos;
    let last = pos + len.saturating_sub(1);
    loop {
        let mut byte = 0u8;
        let iov = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        let Ok(offset) = libc::off_t::try_from(at) else {
            return false;
        };
        // SAFETY: the iovec covers one byte that lives over the call.
        let n =
            unsafe { libc::preadv2(fd.as_raw_fd(), &raw const iov, 1, offset, libc::RWF_NOWAIT) };
        if n != 1 {
            return false;
        }
        if at >= last {
            return true;
        }
        at = last.min(at + step);
    }
}

/// Most buffers that one gather call takes (`IOV_MAX`).
pub(crate) const IOV_MAX: usize = 1024;

/// Fills `iov` with what is left of `bufs` after `skip` bytes, at most [`IOV_MAX`] entries.
pub(crate) fn gather(bufs: &[Bytes], mut skip: usize, iov: &mut Vec<libc::iovec>) {
    iov.clear();
    for buf in bufs {
        if skip >= buf.len() {
            skip -= buf.len();
            continue;
        }
        if iov.len() == IOV_MAX {
            break;
        }
        let rest = &buf[skip..];
        skip = 0;
        iov.push(libc::iovec {
            iov_base: rest.as_ptr().cast_mut().cast(),
            iov_len: rest.len(),
        });
    }
}

/// Receives up to `len` bytes behind what is in `buf`, without waiting for any.
pub(crate) fn receive(socket: BorrowedFd<'_>, buf: &mut BytesMut, len: usize) -> io::Result<usize> {
    let spare = buf.spare_capacity_mut();
    let len = len.min(spare.len());
    let (at, flags) = (spare.as_mut_ptr().cast(), libc::MSG_DONTWAIT);
    // SAFETY: `at` has room for `len` bytes, which nobody else touches.
    let n = check_len(unsafe { libc::recv(socket.as_raw_fd(), at, len, flags) })?;
    // SAFETY: the kernel has written `n` bytes, at most `len`, behind the buffer's length.
    unsafe { buf.set_len(buf.len() + n) };
    Ok(n)
}

/// Writes what is left of `bufs` after `skip` bytes at `pos`; some of it may remain. `flags` as
/// `pwritev2` takes them.
pub(crate) fn write_some(
    fd: BorrowedFd<'_>,
    bufs: &[Bytes],
    (skip, pos): (usize, u64),
    iov: &mut Vec<libc::iovec>,
    flags: libc::c_int,
) -> io::Result<usize> {
    let pos = libc::off_t::try_from(pos).map_err(io::Error::other)?;
    if let ([one], 0) = (bufs, flags) {
        let rest = one.get(skip..).unwrap_or_default();
        let (at, len) = (rest.as_ptr().cast(), rest.len());
        // SAFETY: the buffer lives over the call, and the kernel only reads it.
        return check_len(unsafe { libc::pwrite(fd.as_raw_fd(), at, len, pos) });
    }
    gather(bufs, skip, iov);
    let count = libc::c_int::try_from(iov.len()).map_err(io::Error::other)?;
    // SAFETY: the iovecs cover `bufs`, which live over the call, and the kernel only reads them.
    check_len(unsafe { libc::pwritev2(fd.as_raw_fd(), iov.as_ptr(), count, pos, flags) })
}

/// The time that a file system would write into an inode now: it moves with the kernel's tick.
pub(crate) fn inode_clock() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is written to and nothing else; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

/// `io_uring_enter` on a ring by its descriptor or, with `registered`, by the number it has in the
/// thread's own table, which spares the kernel the look-up. Submits `submit` entries; waits for
/// `wait` completions, at most `max`.
pub(crate) fn ring_enter(
    ring: (u32, bool),
    submit: u32,
    wait: u32,
    max: Option<Duration>,
) -> io::Result<()> {
    // As the kernel's io_uring_getevents_arg: no signal mask, no least wait, the time limit.
    #[repr(C)]
    struct Arg {
        sigmask: u64,
        sigmask_size: u32,
        min_wait_usec: u32,
        timeout: u64,
    }
    let limit = max.map(|max| libc::timespec {
        tv_sec: libc::time_t::try_from(max.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: max.subsec_nanos().into(),
    });
    let arg = Arg {
        sigmask: 0,
        sigmask_size: 0,
        min_wait_usec: 0,
        timeout: limit.as_ref().map_or(0, |limit| &raw const *limit as u64),
    };
    let mut flags = ENTER_GETEVENTS;
    let (arg, size) = match limit {
        Some(_) => {
            flags |= ENTER_EXT_ARG;
            (&raw const arg, size_of::<Arg>())
        }
        None => (std::ptr::null(), 0),
    };
    if ring.1 {
        flags |= ENTER_REGISTERED_RING;
    }
    // SAFETY: the argument and the time limit in it live over the call. What the submitted entries
    // point to is the business of whoever put them into the queue.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            ring.0,
            submit,
            wait,
            flags,
            arg,
            size,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Registers a ring's descriptor with the calling thread; gives its number there.
pub(crate) fn register_ring(ring: BorrowedFd<'_>) -> io::Result<u32> {
    // As the kernel's io_uring_rsrc_update: any free place, the descriptor.
    #[repr(C)]
    struct Update {
        offset: u32,
        reserved: u32,
        data: u64,
    }
    let fd = ring.as_raw_fd();
    let mut update = Update {
        offset: u32::MAX,
        reserved: 0,
        data: fd as u64,
    };
    // SAFETY: the struct lives over the call, which writes its `offset`.
    let result = unsafe {
        let nr = libc::SYS_io_uring_register;
        libc::syscall(nr, fd, REGISTER_RING_FDS, &raw mut update, 1)
    };
    if result == 1 {
        Ok(update.offset)
    } else {
        Err(io::Error::last_os_error())
    }
}

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 8;
const ENTER_REGISTERED_RING: u32 = 16;
const REGISTER_RING_FDS: u32 = 20;

/// Raises the accept backlog of a listening socket.
pub(crate) fn set_backlog(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// `RLIMIT_MEMLOCK`'s soft limit in bytes; `u64::MAX` is unlimited.
pub(crate) fn memlock_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives over the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    Ok(limit.rlim_cur)
}

/// Raises `RLIMIT_NOFILE`'s soft limit to the hard one; gives the number of descriptors that the
/// process may then have.
pub(crate) fn raise_file_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives over the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the kernel only reads it.
    match check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }) {
        Ok(_) => Ok(limit.rlim_cur),
        Err(_) => Ok(before),
    }
}

/// CPU time of the process so far in seconds, and its greatest resident size in KiB.
pub(crate) fn usage() -> (f64, u64) {
    // SAFETY: an all-zero rusage is valid, and the struct lives over the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let secs = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    (
        secs(usage.ru_utime) + secs(usage.ru_stime),
        usage.ru_maxrss.unsigned_abs(),
    )
}

/// 64 random bits from the OS.
pub(crate) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer lives over the call.
    let n = check_len(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) })?;
    if n == bytes.len() {
        Ok(u64::from_ne_bytes(bytes))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A pipe of about `bytes` capacity, neither end blocking. Gives the capacity got: without
/// privileges a user has a budget (`fs.pipe-user-pages-soft`), beyond which pipes stay small.
pub(crate) fn pipe(bytes: usize) -> io::Result<(OwnedFd, OwnedFd, usize)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for both descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    // SAFETY: both descriptors are new and nobody else owns them.
    let (read, write) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    let want = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the call takes no pointers.
    unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, want) };
    // SAFETY: as above.
    let got = check(unsafe { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) })?;
    Ok((read, write, got.unsigned_abs() as usize))
}

/// Splices resident file pages into a pipe.
pub(crate) fn splice_in(
    file: BorrowedFd<'_>,
    pos: u64,
    pipe: BorrowedFd<'_>,
    len: usize,
) -> io::Result<usize> {
    let mut offset = libc::loff_t::try_from(pos).map_err(io::Error::other)?;
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: the offset lives over the call.
    check_len(unsafe {
        libc::splice(
            file.as_raw_fd(),
            &raw mut offset,
            pipe.as_raw_fd(),
            std::ptr::null_mut(),
            len,
            flags,
        )
    })
}

/// Has a socket that does not block take pages of a file, without waiting for it; for the disk it
/// would wait.
pub(crate) fn sendfile(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    pos: u64,
    len: usize,
) -> io::Result<usize> {
    let mut pos = libc::off_t::try_from(pos).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open over the call, and `pos` is its own.
    check_len(unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut pos, len) })
}

/// Splices from a pipe into a socket, without waiting.
pub(crate) fn splice_out(
    pipe: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    len: usize,
    more: bool,
) -> io::Result<usize> {
    let mut flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    if more {
        flags |= libc::SPLICE_F_MORE;
    }
    // SAFETY: neither offset is given; the call touches no memory of ours.
    check_len(unsafe {
        libc::splice(
            pipe.as_raw_fd(),
            std::ptr::null_mut(),
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            len,
            flags,
        )
    })
}

/// Opens a log segment's file for reading and writing.
#[cfg(test)]
pub(crate) fn open_log(path: &std::path::Path, create: bool) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .open(path)
}

/// The file of a descriptor that the ring has just opened for us.
pub(crate) fn own_file(fd: u32) -> io::Result<File> {
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Opens a log segment's file for direct writes.
pub(crate) fn open_direct(path: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

/// Makes a file without a name in this directory, for direct writes.
pub(crate) fn open_unnamed_direct(dir: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_TMPFILE)
        .open(dir)
}

/// A second descriptor of the same thing.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

/// As the kernel's `sched_attr` in its first version.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of a thread with the usual policy: how long a turn it asks for, in nanoseconds; 0 is the
    /// kernel's choice.
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// The shortest turn that the kernel gives.
const SHORT_TURN_NANOS: u64 = 100_000;

/// The calling thread asks for short turns on its CPU, until it ends: a thread that has little to
/// do each time gets its turns soon, and never holds up another for long. False where the kernel
/// knows no such thing (before Linux 6.12) or the thread has another policy.
pub(crate) fn take_short_turns() -> bool {
    let Some(mut attr) = SchedAttr::of_this_thread() else {
        return false;
    };
    if attr.policy != libc::SCHED_OTHER.unsigned_abs() || attr.runtime == 0 {
        return false;
    }
    attr.runtime = SHORT_TURN_NANOS;
    attr.set()
}

impl SchedAttr {
    fn of_this_thread() -> Option<Self> {
        let mut attr = Self::default();
        let size = size_of::<Self>();
        // SAFETY: the struct has the size that is given and lives over the call.
        let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
        (attr.size, attr.flags) = (size as u32, 0);
        (got == 0).then_some(attr)
    }

    /// Gives the calling thread these attributes; whether the kernel agreed.
    fn set(&self) -> bool {
        // SAFETY: the struct lives over the call, which only reads it.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *self, 0) == 0 }
    }
}

/// Gives the calling thread a name of at most 15 bytes, which top and perf show.
pub(crate) fn name_this_thread(name: &CStr) {
    // SAFETY: the kernel reads the string up to its end, and nothing else.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Niceness of the calling thread: on Linux each thread has its own (nice(2)).
pub(crate) fn niceness() -> Option<i32> {
    SchedAttr::of_this_thread().map(|attr| attr.nice)
}

const NICENESS_MAX: i32 = 19;

/// Makes the calling thread nicer, at most to 19; whether the kernel agreed.
pub(crate) fn add_niceness(more: i32) -> bool {
    let Some(to) = niceness().map(|nice| nice.saturating_add(more).min(NICENESS_MAX)) else {
        return false;
    };
    // SAFETY: the call takes no pointers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, to) == 0 }
}
