//! The machine's memory before the first run.
//!
//! In a virtual machine a page that the guest has never used has no page behind it: the first write
//! to it costs the host tens of microseconds, on the CPU of whoever writes. The first broker that
//! fills the page cache would pay for all that come after it.

use std::fs;
use std::hint::black_box;

use anyhow::Result;

use super::place::{Fs, MEMORY_BYTES_MAX};
use super::process::Stop;

/// Part of what is available, in percent: the rest is for what else runs.
const PART: u64 = 75;
/// Taken in pieces, so that no allocation asks for more than there is.
const PIECE_BYTES: usize = 256 << 20;

/// Besides what lies on a file system in memory: brokers, client, and what the kernel wants free.
const OTHERS_BYTES: u64 = 2 << 30;

/// Writes to every page of most of the available memory and gives it back; how many MiB. It may
/// take minutes where the host is slow to find pages.
///
/// # Errors
/// The suite was asked to end.
pub(super) fn touch(stop: &Stop) -> Result<u64> {
    let pieces = available_bytes().unwrap_or(0) * PART / 100 / PIECE_BYTES as u64;
    let mut held = Vec::new();
    for _ in 0..pieces {
        stop.check()?;
        held.push(black_box(vec![1u8; PIECE_BYTES]));
    }
    Ok(held.len() as u64 * (PIECE_BYTES >> 20) as u64)
}

/// What the kernel could give without swapping.
pub(super) fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    Some(available_kib(&text)? * 1024)
}

/// What a reader must know of figures on `fs` when so much is available before it is made: with too
/// little the kernel throttles writers, and not each system alike (XFS in a loop file holds its
/// pages twice).
pub(super) fn shortage(fs: Fs, available_bytes: u64) -> Option<String> {
    let wanted_bytes = OTHERS_BYTES
        + match fs {
            Fs::Tmpfs => MEMORY_BYTES_MAX,
            Fs::Xfs => MEMORY_BYTES_MAX * 3 / 2,
            Fs::Ext4 | Fs::XfsDisk | Fs::Dir => return None,
        };
    (available_bytes < wanted_bytes).then(|| {
        format!(
            "MEMORY WAS SHORT: {} GiB available before a run on {}, {} wanted; do not trust the \
             figures",
            available_bytes >> 30,
            fs.name(),
            wanted_bytes >> 30,
        )
    })
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_heard_before_memory_is_touched() {
        let stop = Stop::default();
        stop.set();
        assert!(touch(&stop).is_err());
    }

    #[test]
    fn the_kernels_text() {
        let text = "MemTotal:       24684160 kB\nMemAvailable:   21488640 kB\n";
        assert_eq!(available_kib(text), Some(21_488_640));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn file_systems_in_memory_want_memory() {
        for (fs, gib, short) in [
            (Fs::Tmpfs, 11, true),
            (Fs::Tmpfs, 12, false),
            (Fs::Xfs, 12, true),
            (Fs::Xfs, 22, false),
            (Fs::Ext4, 1, false),
        ] {
            assert_eq!(shortage(fs, gib << 30).is_some(), short, "{fs:?} {gib}");
        }
    }
}
