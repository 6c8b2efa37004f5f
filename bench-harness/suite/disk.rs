//! The disk's own speed: what nothing above it can pass.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::process::Stop;

const BLOCK_BYTES: usize = 1 << 20;
/// Direct writes in flight.
const WRITERS: u64 = 4;
/// Time of the direct measurement, and the longest of the buffered one. A disk that is shared
/// grants more for the first seconds than later.
const TIME_MAX: Duration = Duration::from_secs(15);
/// Size of the file; direct writes begin again at its start.
const FILE_BYTES: u64 = 4 << 30;
/// Direct I/O wants memory and offsets on such boundaries.
const ALIGN: usize = 4096;

/// MB/s of sequential writes to a file in `dir`: the better of buffered writes with one sync in
/// the end, and of direct writes with four in flight.
///
/// # Errors
/// The file system refused, or the suite was asked to end.
pub fn sequential_write(dir: &Path, stop: &Stop) -> Result<f64> {
    let path = dir.join("disk-speed");
    let all = buffered(&path, stop).map(|b| (b, direct(&path, stop).unwrap_or(0.0)));
    let _ = std::fs::remove_file(&path);
    let (buffered, direct) = all?;
    Ok(buffered.max(direct))
}

fn buffered(path: &Path, stop: &Stop) -> Result<f64> {
    let file = File::create(path)?;
    let block = vec![0x5a; BLOCK_BYTES];
    let begin = Instant::now();
    let mut written = 0;
    while written < FILE_BYTES && begin.elapsed() < TIME_MAX {
        stop.check()?;
        file.write_all_at(&block, written)?;
        written += BLOCK_BYTES as u64;
    }
    file.sync_data()?;
    Ok(written as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

fn direct(path: &Path, stop: &Stop) -> Result<f64> {
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits())?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(flag)
        .open(path)?;
    let part = FILE_BYTES / WRITERS;
    let begin = Instant::now();
    let written: Result<u64> = std::thread::scope(|scope| {
        let run = |n: u64| {
            let file = &file;
            scope.spawn(move || write_direct(file, n * part, part, begin, stop))
        };
        let writers: Vec<_> = (0..WRITERS).map(run).collect();
        let mut sum = 0;
        for writer in writers {
            sum += writer
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(sum)
    });
    let written = written?;
    file.sync_data()?;
    Ok(written as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

/// Writes `part` bytes from `at` again and again, over blocks that the buffered run has allocated.
fn write_direct(file: &File, at: u64, part: u64, begin: Instant, stop: &Stop) -> Result<u64> {
    let memory = vec![0x5a_u8; BLOCK_BYTES + ALIGN];
    let skip = memory.as_ptr().align_offset(ALIGN);
    let block = memory.get(skip..skip + BLOCK_BYTES).unwrap_or_default();
    let mut written = 0;
    while begin.elapsed() < TIME_MAX {
        stop.check()?;
        file.write_all_at(block, at + written % part)?;
        written += BLOCK_BYTES as u64;
    }
    Ok(written)
}
