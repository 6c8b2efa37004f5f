//! The real disk for blocking jobs: `std::fs`. Calls that may take long end with a look whether it
//! is time to let a shard have the CPU.

use crate::sched::{between_turns, has_short_turns};
use crate::sys::{self, FileSystem};
use flumen_base::{Disk, DiskFile, OpenMode, Space, sync_failed};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How files are taken away that may be large: cut in steps of so many bytes, if they have more.
#[derive(Clone, Copy)]
struct Steps {
    bytes: u64,
    least: u64,
}

/// On tmpfs, for a thread that gets its turns soon: some 25 us of work each.
const SMALL_STEPS: Steps = Steps {
    bytes: 1 << 20,
    least: 2 << 20,
};
/// Elsewhere, but for XFS. Where each pause ends with a wait for a busy CPU small steps would let
/// removal fall behind a fast producer: so only what takes very long is cut.
const LARGE_STEPS: Steps = Steps {
    bytes: 4 << 20,
    least: 64 << 20,
};
/// The page cache's unit.
const PAGE_BYTES: u64 = 4096;
/// Between two steps a shard on the same CPU has at least this time, and as long as the step took.
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_micros(500);

/// Files of this machine. Only jobs on helper threads use it.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsDisk;

struct FsFile(File);

impl Disk for FsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        options.create(mode == OpenMode::Create).truncate(false);
        let file = between_turns(|| options.open(path))?;
        Ok(Box::new(FsFile(file)))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A name that is no UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push((name, entry.file_type()?.is_dir()));
            }
        }
        Ok(names)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        between_turns(|| fs::create_dir_all(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        between_turns(|| fs::rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        between_turns(|| fs::remove_file(path))
    }

    fn remove_large_file(&self, path: &Path) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        // Another name (nlink) keeps what is in it, as after an import by links.
        if metadata.len() <= SMALL_STEPS.least || metadata.nlink() > 1 {
            return between_turns(|| fs::remove_file(path));
        }
        let file = OpenOptions::new().write(true).open(path)?;
        let on = sys::file_system(file.as_fd()).unwrap_or(FileSystem::Other);
        // The name first: a file system's journal keeps that order, so that after a power loss no
        // file is found cut under a name that it had.
        fs::remove_file(path)?;
        let done = cut_in_steps(&file, on);
        between_turns(|| drop(file)); // what is left of it goes
        done
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        between_turns(|| fs::remove_dir_all(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // "" is how `Path::parent` spells the current directory of a relative path.
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        between_turns(|| File::open(path)?.sync_all().map_err(|e| sync_failed(&e)))
    }

    fn is_memory(&self, path: &Path) -> bool {
        let on = File::open(path).and_then(|dir| sys::file_system(dir.as_fd()));
        matches!(on, Ok(FileSystem::Tmpfs))
    }

    fn space(&self, path: &Path) -> io::Result<Option<Space>> {
        let (total, usable) = sys::disk_space(path)?;
        Ok(Some(Space { total, usable }))
    }
}

/// Cuts a file that was removed and that nobody reads any more, so that little is left for its end.
/// Not on XFS: it writes what is left of a file before it cuts it, if that was not written back
/// yet, and waits for the disk, where the end of the file would just drop it.
pub(crate) fn cut_in_steps(file: &File, on: FileSystem) -> io::Result<()> {
    match on {
        FileSystem::Xfs => Ok(()),
        FileSystem::Tmpfs if has_short_turns() => cut(file, SMALL_STEPS),
        _ => cut(file, LARGE_STEPS),
    }
}

fn cut(file: &File, steps: Steps) -> io::Result<()> {
    let len_before = file.metadata()?.len();
    let mut len = len_before;
    while len > steps.bytes && len_before > steps.least {
        let begun = Instant::now();
        // At a page's border: what is cut off within one would be overwritten with zeros, which may
        // still wait in a socket.
        len = (len - steps.bytes) / PAGE_BYTES * PAGE_BYTES;
        file.set_len(len)?;
        std::thread::sleep(begun.elapsed().clamp(PAUSE_MIN, PAUSE_MAX));
    }
    Ok(())
}

impl DiskFile for FsFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        between_turns(|| FileExt::read_at(&self.0, buf, pos))
    }

    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        between_turns(|| FileExt::write_at(&self.0, bytes, pos))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        between_turns(|| self.0.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        between_turns(|| self.0.sync_data().map_err(|e| sync_failed(&e)))
    }

    fn drop_clean(&self) -> io::Result<()> {
        sys::drop_clean(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_written_listed_renamed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("a/b");
        FsDisk.create_dir_all(&sub).unwrap();
        let path = sub.join("f");
        assert!(FsDisk.open(&path, OpenMode::ReadWrite).is_err());
        FsDisk.write_atomic(&path, b"hello").unwrap();
        FsDisk
            .open(&path, OpenMode::Read)
            .unwrap()
            .drop_clean()
            .unwrap();
        assert_eq!(FsDisk.read_all(&path, 5).unwrap(), b"hello");
        assert!(FsDisk.read_all(&path, 4).is_err());
        let space = FsDisk.space(&sub).unwrap().unwrap();
        assert!(space.total > 0 && space.usable <= space.total);
        assert_eq!(FsDisk.list(&sub).unwrap(), vec![("f".to_owned(), false)]);
        FsDisk.rename(&path, &sub.join("g")).unwrap();
        assert!(!FsDisk.exists(&path));
        FsDisk.remove_file(&sub.join("g")).unwrap();
        let large = sub.join("large");
        for (len, steps) in [
            (5, SMALL_STEPS),
            (5 * SMALL_STEPS.bytes + 5, SMALL_STEPS),
            (LARGE_STEPS.least + 5, LARGE_STEPS),
        ] {
            let made = FsDisk.open(&large, OpenMode::Create).unwrap();
            made.set_len(len).unwrap();
            let file = File::options().write(true).open(&large).unwrap();
            FsDisk.remove_file(&large).unwrap();
            cut(&file, steps).unwrap();
            assert!(!FsDisk.exists(&large));
            // Whoever still has it sees its beginning.
            let left = if len > steps.least { steps.bytes } else { len };
            assert_eq!(made.len().unwrap(), left);
            let file = FsDisk.open(&large, OpenMode::Create).unwrap();
            file.set_len(len).unwrap();
            FsDisk.remove_large_file(&large).unwrap();
            assert!(!FsDisk.exists(&large));
        }
        let len = LARGE_STEPS.least + 5;
        let file = FsDisk.open(&large, OpenMode::Create).unwrap();
        file.set_len(len).unwrap();
        let other = sub.join("other");
        fs::hard_link(&large, &other).unwrap();
        FsDisk.remove_large_file(&other).unwrap();
        assert_eq!(FsDisk.len(&large).unwrap(), len, "its other name keeps it");
        FsDisk.remove_file(&large).unwrap();
        assert!(FsDisk.remove_large_file(&large).is_err());
        FsDisk.remove_dir_all(&dir.path().join("a")).unwrap();
        assert!(!FsDisk.exists(&sub));
    }
}
