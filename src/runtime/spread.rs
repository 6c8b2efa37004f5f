//! Directories of partitions far from each other, on an ext4 that has no journal.
//!
//! Such an ext4 gives no inode again within a minute, and for every file it makes it looks at each
//! one of the same block group that was removed meanwhile (`recently_deleted` in
//! fs/ext4/ialloc.c). It puts a directory near its parent, and a file near its directory: so all
//! partitions of a log directory pay for what any of them removes. With `FS_TOPDIR_FL`
//! (ioctl_iflags(2), `chattr +T`) the directories in a directory count as unrelated, and are spread
//! over the disk.

use crate::sys;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Has the directories that will be made in `dir`, a log directory, spread over the disk where
/// that matters: says whether it does. What is there stays where it is.
///
/// # Errors
/// `dir` can't be read, or it belongs to somebody else.
pub fn spread_directories(dir: &Path) -> io::Result<bool> {
    let file = File::open(dir)?;
    let device = file.metadata()?.dev();
    let lacks_journal = options_of_ext4(device).is_some_and(|o| !names_journal(&o));
    if lacks_journal {
        let flags = ioctl_getflags(&file)?;
        if !flags.contains(IFlags::TOPDIR) {
            ioctl_setflags(&file, flags | IFlags::TOPDIR)?;
        }
    }
    Ok(lacks_journal)
}

/// What the kernel says of the ext4 on a device; `None` where there is none.
fn options_of_ext4(device: u64) -> Option<String> {
    let device = fs::canonicalize(sys::disk_dir(device)).ok()?;
    let name = device.file_name()?.to_str()?;
    fs::read_to_string(format!("/proc/fs/ext4/{name}/options")).ok()
}

/// Whether they tell how data is journalled, which they do where there is a journal.
fn names_journal(options: &str) -> bool {
    options.lines().any(|line| line.starts_with("data="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_journal_is_missed_where_the_kernel_says_so() {
        assert!(names_journal("rw\nbarrier\ndata=ordered\n"));
        assert!(!names_journal("rw\nbarrier\nnojournal_checksum\n"));
        assert_eq!(options_of_ext4(0), None);
    }

    #[test]
    fn directories_are_spread_where_it_matters() {
        let dir = tempfile::tempdir().unwrap();
        let flagged = || {
            let flags = ioctl_getflags(File::open(dir.path()).unwrap());
            flags.is_ok_and(|f| f.contains(IFlags::TOPDIR))
        };
        let spread = spread_directories(dir.path()).unwrap();
        assert_eq!(flagged(), spread);
        assert_eq!(spread_directories(dir.path()).unwrap(), spread);
        if !spread {
            println!("skipped: the temporary directory is not on an ext4 without a journal");
            return;
        }
        // Neighbours in a block group have neighbouring numbers.
        let far = (0..32).map(|n| {
            let sub = dir.path().join(n.to_string());
            fs::create_dir(&sub).unwrap();
            fs::metadata(sub).unwrap().ino() / 1024
        });
        let far: BTreeSet<u64> = far.collect();
        assert!(far.len() > 8, "32 directories are in {} places", far.len());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = spread_directories(&dir.path().join("none"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
