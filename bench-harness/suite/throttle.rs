//! A slower disk: what is written to it and read from it is held back by the block layer.
//!
//! Where the disk takes more than one core of either broker can write, nothing that is said about
//! a full write-back queue can be seen; where it gives more than the client can read, readers of
//! cold data take the client's CPU from what is measured. cgroup v1's `blkio` controller limits a
//! device at its root, which is where the kernel's own write-back threads are counted (cgroup v2
//! has no limit there).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device",
    "/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device",
];

/// A limit on the writes of one device, and the same on its reads; dropping it takes it away.
#[derive(Debug)]
pub struct Throttle {
    /// `major:minor` of the whole disk.
    device: String,
}

impl Throttle {
    /// Holds the disk below `dir` to `megabytes` per second.
    ///
    /// # Errors
    /// Not root, no cgroup v1 with `blkio`, or `dir` is not on a disk.
    pub fn begin(dir: &Path, megabytes: f64) -> Result<Self> {
        let number = fs::metadata(dir)
            .with_context(|| dir.display().to_string())?
            .dev();
        let device = whole_disk(rustix::fs::major(number), rustix::fs::minor(number));
        let throttle = Self { device };
        throttle.set((megabytes * 1e6) as u64).with_context(|| {
            format!(
                "--disk-limit wants root, cgroup v1's blkio controller ({}) and a disk: device {}",
                LIMITS.join(", "),
                throttle.device
            )
        })?;
        Ok(throttle)
    }

    /// 0 takes the limit away.
    fn set(&self, bytes_per_second: u64) -> Result<()> {
        for limit in LIMITS {
            fs::write(limit, format!("{} {bytes_per_second}", self.device))?;
        }
        Ok(())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let _ = self.set(0);
    }
}

/// The disk that a partition is on, or the device itself: only whole disks have limits.
fn whole_disk(major: u32, minor: u32) -> String {
    let device = format!("/sys/dev/block/{major}:{minor}");
    let above = Path::new(&device).join("partition").exists();
    let disk = above.then(|| fs::read_to_string(format!("{device}/../dev")));
    match disk {
        Some(Ok(numbers)) => numbers.trim().to_owned(),
        _ => format!("{major}:{minor}"),
    }
}
