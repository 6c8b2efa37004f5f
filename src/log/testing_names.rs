//! The names on a [`MemDisk`](super::MemDisk): which there are, which would be there after a power
//! loss, and what has changed in between.

use super::{MemFile, lock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub(super) type File = Arc<Mutex<MemFile>>;

/// Files and directories by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<PathBuf, File>,
    pub(super) dirs: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Added(PathBuf, File),
    Removed(PathBuf),
    Renamed(PathBuf, PathBuf),
    DirAdded(PathBuf),
    DirRemoved(PathBuf),
    DirRenamed(PathBuf, PathBuf),
}

impl NameChange {
    fn is_of_dir(&self) -> bool {
        use NameChange::{DirAdded, DirRemoved, DirRenamed};
        matches!(self, DirAdded(_) | DirRemoved(_) | DirRenamed(..))
    }

    fn as_dir_rename(&self) -> Option<(&Path, &Path)> {
        match self {
            Self::DirRenamed(from, to) => Some((from, to)),
            _ => None,
        }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let (one, other) = match self {
            Self::Added(path, _)
            | Self::Removed(path)
            | Self::DirAdded(path)
            | Self::DirRemoved(path) => (path, None),
            Self::Renamed(from, to) | Self::DirRenamed(from, to) => (from, Some(to)),
        };
        [Some(one), other]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    /// The same where the directory `from` is called `to`.
    fn moved(&self, from: &Path, to: &Path) -> Self {
        let map = |path: &PathBuf| moved(path, from, to).unwrap_or_else(|| path.clone());
        match self {
            Self::Added(path, file) => Self::Added(map(path), Arc::clone(file)),
            Self::Removed(path) => Self::Removed(map(path)),
            Self::Renamed(a, b) => Self::Renamed(map(a), map(b)),
            Self::DirAdded(path) => Self::DirAdded(map(path)),
            Self::DirRemoved(path) => Self::DirRemoved(map(path)),
            Self::DirRenamed(a, b) => Self::DirRenamed(map(a), map(b)),
        }
    }
}

fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    match rest.as_os_str().is_empty() {
        true => Some(to.to_owned()),
        false => Some(to.join(rest)),
    }
}

impl Tree {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Added(path, file) => {
                self.files.insert(path.clone(), Arc::clone(file));
            }
            NameChange::Removed(path) => {
                self.files.remove(path);
            }
            NameChange::Renamed(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
            }
            NameChange::DirAdded(path) => {
                self.dirs.insert(path.clone());
            }
            NameChange::DirRemoved(path) => {
                self.dirs.retain(|p| !p.starts_with(path));
                self.files.retain(|p, _| !p.starts_with(path));
            }
            NameChange::DirRenamed(from, to) => {
                let dirs = std::mem::take(&mut self.dirs).into_iter();
                self.dirs = dirs.map(|p| moved(&p, from, to).unwrap_or(p)).collect();
                let files = std::mem::take(&mut self.files).into_iter();
                let rename = |(p, file): (PathBuf, File)| (moved(&p, from, to).unwrap_or(p), file);
                self.files = files.map(rename).collect();
            }
        }
    }

    /// What is in no directory that is there is not there either.
    fn drop_orphans(&mut self) {
        let there = |dirs: &BTreeSet<PathBuf>, path: &Path| {
            let mut parents = path
                .ancestors()
                .skip(1)
                .filter(|p| !p.as_os_str().is_empty());
            parents.all(|p| dirs.contains(p))
        };
        let all = self.dirs.clone();
        self.dirs.retain(|dir| there(&all, dir));
        let dirs = &self.dirs;
        self.files.retain(|path, _| there(dirs, path));
    }
}

/// The names now, and as they are on disk.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) now: Tree,
    synced: Tree,
    /// Since then, in order.
    changes: Vec<NameChange>,
    /// Directories, too, are on disk only once the one above them is synced.
    pub(super) lazy_dirs: bool,
}

impl Names {
    /// All of it is on disk.
    pub(super) fn all_synced(now: Tree) -> Self {
        Self {
            synced: now.clone(),
            now,
            ..Self::default()
        }
    }

    pub(super) fn change(&mut self, change: NameChange) {
        self.now.apply(&change);
        if self.lazy_dirs || !change.is_of_dir() {
            self.changes.push(change);
            return;
        }
        // At once, and with it all that is below.
        let below = |c: &NameChange| c.paths().any(|p| change.paths().any(|d| p.starts_with(d)));
        let changes = std::mem::take(&mut self.changes);
        let (before, later): (Vec<_>, Vec<_>) = changes.into_iter().partition(below);
        self.changes = later;
        for earlier in &before {
            self.synced.apply(earlier);
        }
        self.synced.apply(&change);
    }

    /// Changes in this directory are on disk from now on.
    pub(super) fn sync(&mut self, dir: &Path) {
        let all = std::mem::take(&mut self.changes);
        let mut left: Vec<NameChange> = Vec::new();
        for (n, change) in all.iter().enumerate() {
            // What its directory has come to be called since.
            let later = all.get(n + 1..).unwrap_or_default();
            let is_in = |path: &Path| {
                let renames = later.iter().filter_map(NameChange::as_dir_rename);
                let parent = path.parent().unwrap_or(path).to_owned();
                let parent = renames.fold(parent, |p, (from, to)| moved(&p, from, to).unwrap_or(p));
                parent == dir
            };
            if !change.paths().any(is_in) {
                left.push(change.clone());
                continue;
            }
            // On disk directories may still have their old names.
            let renames = left.iter().rev().filter_map(NameChange::as_dir_rename);
            let on_disk = renames.fold(change.clone(), |c, (from, to)| c.moved(to, from));
            self.synced.apply(&on_disk);
            if let Some((from, to)) = change.as_dir_rename() {
                for earlier in &mut left {
                    *earlier = earlier.moved(from, to);
                }
            }
        }
        self.changes = left;
    }

    /// How many changes a power loss may take back.
    pub(super) fn unsynced(&self) -> usize {
        self.changes.len()
    }

    /// The power fails: of the unsynced changes only the first so many have happened.
    pub(super) fn lose(&mut self, kept: usize) {
        for change in self.changes.drain(..).take(kept) {
            self.synced.apply(&change);
        }
        if self.lazy_dirs {
            self.synced.drop_orphans();
        }
        self.now = self.synced.clone();
    }

    /// Every file becomes another: handles of a process that ended hold the old ones.
    pub(super) fn replace_files(&mut self, mut new: impl FnMut(&MemFile) -> MemFile) {
        let mut made: BTreeMap<*const Mutex<MemFile>, File> = BTreeMap::new();
        let mut other = |file: &mut File| {
            let made = made.entry(Arc::as_ptr(file));
            let replacement = made.or_insert_with(|| Arc::new(Mutex::new(new(&lock(file)))));
            *file = Arc::clone(replacement);
        };
        self.now.files.values_mut().for_each(&mut other);
        self.synced.files.values_mut().for_each(&mut other);
        for change in &mut self.changes {
            if let NameChange::Added(_, file) = change {
                other(file);
            }
        }
    }

    /// Whether a power loss would leave this file under this name.
    pub(super) fn is_synced(&self, path: &Path) -> bool {
        let same = |tree: &Tree| tree.files.get(path).map(Arc::as_ptr);
        same(&self.synced) == same(&self.now)
    }
}

#[cfg(test)]
#[path = "testing_names_test.rs"]
mod tests;
