//! Looking at a metadata directory without changing it, for the tool that tells what is wrong.

use crate::quorum::Quorum;
use crate::raft_log::LoadError;
use flumen_base::{Disk, DiskFile, OpenMode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What a metadata directory is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It holds no file of this metadata log.
    Absent,
    /// Nothing is wrong.
    Whole,
    /// The last write was not finished, and never acknowledged: file and byte.
    Torn(String),
    /// What had been acknowledged is damaged: file, byte and reason.
    Damaged(String),
    /// A file could not be read.
    Unreadable(String),
}

/// Loads a metadata directory as a start would, without the repairs.
pub fn check(disk: &dyn Disk, dir: &Path) -> Checked {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Checked::Absent,
        Err(error) => return Checked::Unreadable(format!("{}: {error}", dir.display())),
    };
    if !names.iter().any(|(name, _)| name.ends_with(".raft")) {
        return Checked::Absent;
    }
    let watched = Unchanged {
        disk,
        cut: Arc::default(),
    };
    let loaded = Quorum::load(&watched, dir);
    match loaded {
        Ok(_) => {
            let cut = watched.cut.lock().unwrap_or_else(PoisonError::into_inner);
            match &*cut {
                None => Checked::Whole,
                Some((path, pos)) => {
                    let what = format!("{}: torn from byte {pos} on", path.display());
                    Checked::Torn(what)
                }
            }
        }
        Err(LoadError::Io(path, error)) => {
            Checked::Unreadable(format!("{}: {error}", path.display()))
        }
        Err(error) => {
            // The causes name what the record is.
            let mut what = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                let source = source.to_string();
                if !what.contains(&source) {
                    what = format!("{what}: {source}");
                }
            }
            Checked::Damaged(what)
        }
    }
}

type Cut = Arc<Mutex<Option<(PathBuf, u64)>>>;

/// The disk as it is: changes are taken and forgotten, but for where a file would be cut.
struct Unchanged<'a> {
    disk: &'a dyn Disk,
    cut: Cut,
}

impl Disk for Unchanged<'_> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = match mode {
            OpenMode::Create => None,
            _ => Some(self.disk.open(path, OpenMode::Read)?),
        };
        Ok(Box::new(UnchangedFile {
            file,
            path: path.to_owned(),
            cut: Arc::clone(&self.cut),
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.disk.list(path)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.disk.len(path)
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

struct UnchangedFile {
    /// `None` for a file that would be made.
    file: Option<Box<dyn DiskFile>>,
    path: PathBuf,
    cut: Cut,
}

impl DiskFile for UnchangedFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.file.as_ref().map_or(Ok(0), |f| f.read_at(buf, pos))
    }

    fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.as_ref().map_or(Ok(0), |f| f.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.file.is_some() {
            let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
            *cut = Some((self.path.clone(), len));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
