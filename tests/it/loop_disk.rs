//! A small file system of its own, ext4 or XFS, on a loop device: to be filled up to the last byte.
//!
//! It needs root, loop devices and the tools of util-linux and of the file systems: where one is
//! missing it fails, and says which.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

/// Smallest piece that is taken of the room.
const BLOCK: u64 = 4096;

/// Runs a tool of the system, and requires success.
pub(crate) fn system(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} is needed for a disk"))?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {err}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}

/// What this machine lacks to mount such a disk, if anything.
pub fn missing() -> Option<String> {
    let control = "/dev/loop-control";
    if let Err(error) = File::options().read(true).write(true).open(control) {
        return Some(format!("{control}: {error}"));
    }
    ["mkfs.ext4", "mkfs.xfs", "losetup", "mount", "fallocate"]
        .into_iter()
        .find(|tool| Command::new(tool).arg("-V").output().is_err())
        .map(|tool| format!("{tool} is not installed"))
}

/// Says loudly that this machine has no such disks, for this reason. Where rounds are asked for
/// (`--full`) that is a failure.
///
/// # Errors
/// Rounds are asked for.
pub fn not_run(what: &str, missing: Option<String>) -> Result<bool> {
    let Some(missing) = missing else {
        return Ok(false);
    };
    ensure!(crate::rounds() == 1, "{what} cannot be tested: {missing}");
    #[allow(clippy::print_stdout)] // belongs to the output of the test
    {
        println!("NOT RUN: {what} was not tested: {missing}");
    }
    Ok(true)
}

/// A file with a new file system of this kind (ext4 or xfs) in it.
pub(crate) fn make_image(kind: &str, path: &Path) -> Result<()> {
    let (bytes, args): (u64, &[&str]) = match kind {
        "ext4" => (
            128 << 20,
            &[
                "-q",
                "-F",
                "-m",
                "0",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
            ],
        ),
        // The smallest that it makes.
        "xfs" => (320 << 20, &["-q", "-f"]),
        other => bail!("no image of {other}"),
    };
    File::create(path)?.set_len(bytes)?;
    system(&format!("mkfs.{kind}"), &[args, &[text(path)?]].concat())?;
    Ok(())
}

/// A mounted file system. Dropping it takes it down, even if it is still in use.
#[derive(Debug)]
pub struct LoopDisk {
    dir: TempDir,
    device: String,
    is_mounted: bool,
}

impl LoopDisk {
    /// Makes and mounts one.
    ///
    /// # Errors
    /// Not root, or the machine lacks what this takes; the message says what.
    pub fn new(kind: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flumen-disk-").tempdir()?;
        let image = dir.path().join("image");
        make_image(kind, &image)?;
        std::fs::create_dir(dir.path().join("mnt"))?;
        let device = system("losetup", &["--find", "--show", text(&image)?])?;
        let mut disk = Self {
            dir,
            device,
            is_mounted: false,
        };
        system("mount", &[&disk.device, text(&disk.path())?])?;
        disk.is_mounted = true;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Bytes that can be written.
    ///
    /// # Errors
    /// The tool fails.
    pub fn free(&self) -> Result<u64> {
        let out = system("df", &["--output=avail", "-B1", text(&self.path())?])?;
        let line = out.lines().last().context("df says nothing")?;
        Ok(line.trim().parse()?)
    }

    /// Takes all room but about so many bytes; removing the file that it names gives it back.
    ///
    /// # Errors
    /// The tools fail.
    pub fn fill(&self, but: u64) -> Result<PathBuf> {
        let path = self.path().join("ballast");
        File::create(&path)?;
        // In pieces that get smaller: the file system's own tables take room, too.
        let mut piece = self.free()?.saturating_sub(but) / BLOCK * BLOCK;
        let mut len = 0;
        while piece >= BLOCK {
            let (at, size) = (len.to_string(), piece.to_string());
            let took = system("fallocate", &["-o", &at, "-l", &size, text(&path)?]);
            if took.is_ok() {
                len += piece;
            }
            let left = self.free()?.saturating_sub(but) / BLOCK * BLOCK;
            piece = match took {
                Ok(_) => left.min(piece),
                Err(_) => left.min(piece / 2 / BLOCK * BLOCK),
            };
        }
        Ok(path)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A broker that a failed test has not ended yet: what is left goes with it.
        if self.is_mounted {
            let path = self.path();
            let _ = Command::new("umount").arg("--lazy").arg(path).output();
        }
        let detach = ["--detach", &self.device];
        let _ = Command::new("losetup").args(detach).output();
    }
}
