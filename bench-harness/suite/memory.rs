//! The machine's memory before the first run.
//!
//! In a virtual machine a page that the guest has never used has no page behind it: the first write
//! to it costs the host tens of microseconds, on the CPU of whoever writes. The first broker that
//! fills the page cache would pay for all that come after it.

use std::fs;
use std::hint::black_box;

/// Part of what is available, in percent: the rest is for what else runs.
const PART: u64 = 75;
/// Taken in pieces, so that no allocation asks for more than there is.
const PIECE_BYTES: usize = 256 << 20;

/// Writes to every page of most of the available memory and gives it back; how many MiB.
pub(super) fn touch() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = available_kib(&text).unwrap_or(0);
    let pieces = kib * PART / 100 * 1024 / PIECE_BYTES as u64;
    let mut held = Vec::new();
    for _ in 0..pieces {
        held.push(black_box(vec![1u8; PIECE_BYTES]));
    }
    held.len() as u64 * (PIECE_BYTES >> 20) as u64
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text() {
        let text = "MemTotal:       24684160 kB\nMemAvailable:   21488640 kB\n";
        assert_eq!(available_kib(text), Some(21_488_640));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }
}
