//! The file systems that are measured: made before, gone afterwards, whatever happens between.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::memory;
use super::process::run;

/// Room of the file systems in memory. Retention runs once a second, so a second's writes must fit.
pub(super) const MEMORY_BYTES_MAX: u64 = 10 << 30;
/// Room of XFS in a file on the disk (the file is sparse).
const DISK_BYTES: u64 = 24 << 30;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fs {
    /// A bounded tmpfs: pages are fresh, nothing is ever written back
    Tmpfs,
    /// The disk's own directory, which has to be on ext4
    Ext4,
    /// XFS in a loop file on tmpfs: large folios without a disk behind, for what the CPU bounds
    Xfs,
    /// XFS in a loop file on the disk, direct I/O below the loop device
    XfsDisk,
    /// The directory as it is, whatever it is on
    Dir,
}

impl Fs {
    /// Its name in folders and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::XfsDisk => "xfs-disk",
            Self::Dir => "dir",
        }
    }

    /// Whether a disk is behind it.
    pub fn on_disk(self) -> bool {
        matches!(self, Self::Ext4 | Self::XfsDisk)
    }

    /// What a reader must know about it.
    pub fn about(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs, fresh pages",
            Self::Ext4 => "ext4 on the machine's disk",
            Self::Xfs => "XFS in a loop file on tmpfs (no disk behind it)",
            Self::XfsDisk => "XFS in a loop file on the machine's disk (direct I/O below)",
            Self::Dir => "the given directory as it is",
        }
    }
}

/// What has to be undone, last first.
#[derive(Debug)]
enum Undo {
    Unmount(PathBuf),
    Detach(String),
    Remove(PathBuf),
}

/// A place for a broker's data; dropping it removes everything.
#[derive(Debug)]
pub struct Place {
    /// Which.
    pub fs: Fs,
    /// Where.
    pub path: PathBuf,
    /// The line of `/proc/mounts` behind it.
    pub mount: String,
    undo: Vec<Undo>,
}

impl Place {
    /// Makes it below `base`, a directory of the disk that is measured.
    ///
    /// # Errors
    /// Not permitted, not the right kind of disk, or a tool is missing.
    pub fn make(fs: Fs, base: &Path) -> Result<Self> {
        let root = base.join(fs.name());
        let mut place = Self {
            fs,
            path: root.clone(),
            mount: String::new(),
            undo: Vec::new(),
        };
        place.fill(&root).with_context(|| fs.about().to_owned())?;
        place.mount = mount_of(&place.path);
        Ok(place)
    }

    fn fill(&mut self, root: &Path) -> Result<()> {
        match self.fs {
            Fs::Tmpfs if !is_root() => {
                let shm = PathBuf::from("/dev/shm");
                ensure!(kind_of(&shm) == "tmpfs", "not root, and no /dev/shm");
                self.path = shm.join(format!("flumen-bench-{}", std::process::id()));
                self.folder(&self.path.clone())
            }
            Fs::Tmpfs => self.tmpfs(root),
            Fs::Ext4 => {
                self.folder(root)?;
                let kind = kind_of(root);
                ensure!(
                    kind == "ext4",
                    "{} is on {kind}: give --dir",
                    root.display()
                );
                Ok(())
            }
            Fs::Dir => self.folder(root),
            Fs::Xfs | Fs::XfsDisk => self.xfs(root),
        }
    }

    fn folder(&mut self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        self.undo.push(Undo::Remove(path.to_owned()));
        Ok(())
    }

    fn tmpfs(&mut self, path: &Path) -> Result<()> {
        self.folder(path)?;
        let size = format!("size={}", memory_bytes());
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &text(path)])?;
        self.undo.push(Undo::Unmount(path.to_owned()));
        Ok(())
    }

    fn xfs(&mut self, root: &Path) -> Result<()> {
        ensure!(is_root(), "mounting needs root");
        if run("mkfs.xfs", &["-V"]).is_err() {
            bail!("mkfs.xfs is missing: scripts/fetch-deps.sh installs xfsprogs as root");
        }
        let on_disk = self.fs == Fs::XfsDisk;
        let (below, size) = if on_disk {
            (root.join("below"), DISK_BYTES)
        } else {
            (root.join("below"), memory_bytes().saturating_sub(64 << 20))
        };
        self.folder(root)?;
        if on_disk {
            self.folder(&below)?;
        } else {
            self.tmpfs(&below)?;
        }
        let image = below.join("xfs.img");
        fs::File::create(&image)?.set_len(size)?;
        run("mkfs.xfs", &["-q", "-f", &text(&image)])?;
        let direct = if on_disk {
            "--direct-io=on"
        } else {
            "--direct-io=off"
        };
        let device = run("losetup", &["-f", "--show", direct, &text(&image)])?;
        let device = device.trim().to_owned();
        self.undo.push(Undo::Detach(device.clone()));
        let path = root.join("mount");
        self.folder(&path)?;
        run("mount", &["-t", "xfs", &device, &text(&path)])?;
        self.undo.push(Undo::Unmount(path.clone()));
        self.path = path;
        Ok(())
    }

    /// The directory of the broker's data, empty.
    ///
    /// # Errors
    /// It cannot be removed or made.
    pub fn fresh(&self) -> Result<PathBuf> {
        let data = self.data();
        match fs::remove_dir_all(&data) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        fs::create_dir_all(&data)?;
        Ok(data)
    }

    /// The directory of the broker's data.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while let Some(step) = self.undo.pop() {
            match step {
                Undo::Unmount(path) => unmount(&path),
                Undo::Detach(device) => {
                    let _ = run("losetup", &["-d", &device]);
                }
                Undo::Remove(path) => {
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
    }
}

/// A broker that was just killed lets go of its files a moment later.
fn unmount(path: &Path) {
    for _ in 0..50 {
        if run("umount", &[&text(path)]).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = run("umount", &["-l", &text(path)]);
}

/// Undoes what a suite left behind that was killed: mounts, loop devices and files of its
/// directory `<base>/flumen-bench-<pid>`.
pub fn remove_stale(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for dir in entries.flatten().map(|e| e.path()) {
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned());
        let pid = name.and_then(|n| n.strip_prefix("flumen-bench-")?.parse::<u32>().ok());
        let Some(pid) = pid.filter(|p| !Path::new(&format!("/proc/{p}")).exists()) else {
            continue;
        };
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let below = mounts.lines().rev().filter_map(|line| {
            let mut words = line.split(' ');
            let (device, point) = (words.next()?, Path::new(words.next()?));
            point.starts_with(&dir).then_some((device, point))
        });
        for (device, point) in below {
            unmount(point);
            if device.starts_with("/dev/loop") {
                let _ = run("losetup", &["-d", device]);
            }
        }
        let _ = fs::remove_dir_all(&dir);
        super::progress::say(&format!("removed what suite {pid} left"));
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn memory_bytes() -> u64 {
    MEMORY_BYTES_MAX.min(memory::available_bytes().unwrap_or(4 << 30) / 2)
}

/// Whether the process may mount.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The name of the file system that `path` is on.
pub fn kind_of(path: &Path) -> String {
    let mount = mount_of(path);
    mount.split(' ').nth(2).unwrap_or("unknown").to_owned()
}

/// The line of `/proc/mounts` of the mount that `path` is on: the longest mount point above it.
pub fn mount_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut best: (usize, &str) = (0, "");
    for line in mounts.lines() {
        let point = line.split(' ').nth(1).unwrap_or_default();
        // A later mount on the same point hides the earlier one.
        if path.starts_with(point) && point.len() >= best.0 {
            best = (point.len(), line);
        }
    }
    best.1.to_owned()
}

/// Whether the ext4 in this line of `/proc/mounts` has no journal. Creating a file there looks at
/// the inode of each one removed in the last minute (`recently_deleted` in fs/ext4/ialloc.c).
pub fn lacks_journal(mount: &str) -> bool {
    let fields: Vec<&str> = mount.split(' ').collect();
    let [device, _, "ext4", ..] = fields[..] else {
        return false;
    };
    let name = device.rsplit('/').next().unwrap_or(device);
    let options = fs::read_to_string(format!("/proc/fs/ext4/{name}/options"));
    options.is_ok_and(|text| !names_journal_mode(&text))
}

/// Whether the kernel's list of options says how data is journalled, which it does if there is one.
fn names_journal_mode(options: &str) -> bool {
    options.lines().any(|line| line.starts_with("data="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_missed_where_the_kernel_says_so() {
        assert!(names_journal_mode("rw\nbarrier\ndata=ordered\n"));
        assert!(!names_journal_mode("rw\nbarrier\nnojournal_checksum\n"));
        assert!(!lacks_journal("/dev/none-such / ext4 rw 0 0"));
        assert!(!lacks_journal("tmpfs /tmp tmpfs rw 0 0"));
        assert!(!lacks_journal(""));
    }

    #[test]
    fn a_place_is_empty_when_it_is_fresh_and_gone_in_the_end() {
        let base = tempfile::tempdir().unwrap();
        let place = Place::make(Fs::Dir, base.path()).unwrap();
        let data = place.fresh().unwrap();
        fs::write(data.join("x"), "x").unwrap();
        assert_eq!(fs::read_dir(place.fresh().unwrap()).unwrap().count(), 0);
        assert!(place.mount.split(' ').count() >= 4, "{}", place.mount);
        let path = place.path.clone();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn leftovers_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let base = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = base.path().join(format!("flumen-bench-{}", child.id()));
        child.wait().unwrap();
        let alive = base
            .path()
            .join(format!("flumen-bench-{}", std::process::id()));
        let other = base.path().join("flumen-bench-notes");
        for dir in [&dead, &alive, &other] {
            fs::create_dir(dir).unwrap();
        }
        remove_stale(base.path());
        assert_eq!(
            [dead, alive, other].map(|d| d.exists()),
            [false, true, true]
        );
    }
}
