//! What an error of the disk means for the log directory it came from.

use std::io;

/// How far an error of the disk reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// No space is left, or a quota is used up: nothing is wrong with what is there, and it passes.
    Full,
    /// One file or one moment: not there, damaged, too many files open.
    Local,
    /// The device or its file system can't be trusted any more.
    Device,
}

impl DiskFault {
    /// What an error of this kind means for a write, a read, or a job. (A sync that fails is a
    /// [`DiskFault::Device`] whatever the kind: what was written before it may be lost, and the
    /// next sync would not tell.)
    pub fn of(kind: io::ErrorKind) -> Self {
        use io::ErrorKind as K;
        match kind {
            K::StorageFull | K::QuotaExceeded => Self::Full,
            K::NotFound
            | K::AlreadyExists
            | K::InvalidData
            | K::InvalidInput
            | K::UnexpectedEof
            | K::OutOfMemory
            | K::ResourceBusy
            | K::Interrupted
            | K::WouldBlock
            | K::TimedOut => Self::Local,
            // EIO among them, which has no kind of its own.
            _ => Self::Device,
        }
    }

    /// [`DiskFault::of`] a job's error. That a process or the system has too many files open has no
    /// kind of its own either, and says nothing of the device.
    pub fn of_error(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(ENFILE | EMFILE) => Self::Local,
            _ => Self::of(error.kind()),
        }
    }

    /// [`DiskFault::of`] a write's error: where its file or directory is gone, somebody has taken
    /// the disk away.
    pub fn of_write(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::NotFound => Self::Device,
            kind => Self::of(kind),
        }
    }
}

/// Of Linux, `errno(3)`.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// The error of a failed sync: never one that may be tried again.
pub fn sync_failed(error: &io::Error) -> io::Error {
    io::Error::other(format!("fdatasync: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_reach_as_far_as_they_should() {
        // Linux's numbers: ENOSPC, EDQUOT, ENOENT, EIO, EROFS, EACCES, EUCLEAN.
        for (errno, fault) in [
            (28, DiskFault::Full),
            (122, DiskFault::Full),
            (2, DiskFault::Local),
            (5, DiskFault::Device),
            (30, DiskFault::Device),
            (13, DiskFault::Device),
            (117, DiskFault::Device),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(DiskFault::of(error.kind()), fault, "{error}");
        }
        let too_many = |errno| DiskFault::of_error(&io::Error::from_raw_os_error(errno));
        assert_eq!(
            [EMFILE, ENFILE, 5].map(too_many),
            [DiskFault::Local, DiskFault::Local, DiskFault::Device]
        );
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(DiskFault::of(sync_failed(&full).kind()), DiskFault::Device);
        let gone = io::ErrorKind::NotFound;
        assert_eq!(DiskFault::of_write(gone), DiskFault::Device);
    }
}
