//! A disk whose power can be cut: a file system's image as a file that this process serves through
//! FUSE, under a loop device. Writes are in a volatile cache until the device is flushed; the cut
//! keeps what was flushed, and of the rest, in any combination, all, nothing, or torn parts in
//! sectors of 512 bytes.
//!
//! It needs root, `/dev/fuse`, loop devices and the tools of util-linux: where one is missing it
//! fails, and says which.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::loop_disk::{self, make_image, system, text};
use crate::wait;

/// What survives torn or whole.
const SECTOR: usize = 512;
/// How long a flush takes.
const FLUSH_TIME: Duration = Duration::from_millis(1);
/// The largest write that is asked for at once.
const WRITE_MAX: u32 = 128 << 10;
/// One request: a write with its headers.
const REQUEST_MAX: usize = WRITE_MAX as usize + 4096;
const IN_HEADER: usize = 40;
/// `fh`, `offset`, `size` stand at the start of reads and writes.
const IO_HEADER: usize = 40;

// Requests of the FUSE protocol 7.31 (include/uapi/linux/fuse.h).
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const FORGET: u32 = 2;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const ACCESS: u32 = 34;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

/// A write that is not flushed.
#[derive(Debug)]
struct Cached {
    pos: usize,
    before: Vec<u8>,
    now: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    /// As a reader sees it.
    image: Vec<u8>,
    cache: Vec<Cached>,
    is_cut: bool,
    fails_reads: bool,
    flushes: u64,
}

/// What a cut found in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Writes that were not flushed.
    pub unflushed: usize,
    /// Those of them that are wholly or partly lost.
    pub lost: usize,
    /// Flushes of the device before.
    pub flushes: u64,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mounted file system on such a disk. Dropping it takes all of it down.
#[derive(Debug)]
pub struct CutDisk {
    state: Arc<Mutex<State>>,
    /// Where the image is served.
    file: PathBuf,
    mount_point: PathBuf,
    device: Option<String>,
    is_mounted: bool,
    server: Option<std::thread::JoinHandle<()>>,
}

/// What this machine lacks to cut a disk, if anything: `/dev/fuse`, or what a [`LoopDisk`] takes.
///
/// [`LoopDisk`]: crate::loop_disk::LoopDisk
pub fn missing() -> Option<String> {
    let fuse = File::options().read(true).write(true).open("/dev/fuse");
    match fuse {
        Err(error) => Some(format!("/dev/fuse: {error}")),
        Ok(_) => loop_disk::missing(),
    }
}

/// A new file system of this kind (ext4 or xfs) as an image.
///
/// # Errors
/// `mkfs` is missing or fails.
pub fn new_image(kind: &str, dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join("new.img");
    make_image(kind, &path)?;
    let image = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    Ok(image)
}

impl CutDisk {
    /// Serves the image and mounts its file system below `dir`.
    ///
    /// # Errors
    /// Not root, or the machine lacks what this takes; the message says what.
    pub fn mount(image: Vec<u8>, dir: &Path) -> Result<Self> {
        let (file, mount_point) = (dir.join("disk"), dir.join("mnt"));
        std::fs::create_dir_all(&mount_point)?;
        File::create(&file)?;
        let fuse = File::options().read(true).write(true).open("/dev/fuse");
        let fuse = fuse.context("/dev/fuse is needed to cut a disk (as root)")?;
        // The tool mounts what its standard input is: no file number has to be inherited.
        let mounted = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o"])
            .arg("fd=0,rootmode=100600,user_id=0,group_id=0")
            .arg("flumen-it")
            .arg(&file)
            .stdin(Stdio::from(fuse.try_clone()?))
            .output()
            .context("mount is needed to cut a disk")?;
        let err = String::from_utf8_lossy(&mounted.stderr);
        ensure!(mounted.status.success(), "mounting FUSE needs root: {err}");
        let state = Arc::new(Mutex::new(State {
            image,
            ..State::default()
        }));
        let served = Arc::clone(&state);
        let mut disk = Self {
            state,
            file,
            mount_point,
            device: None,
            is_mounted: false,
            server: Some(std::thread::spawn(move || serve(fuse, &served))),
        };
        let device = system("losetup", &["--find", "--show", text(&disk.file)?]);
        let device = device.context("a loop device is needed to cut a disk")?;
        disk.device = Some(device.clone());
        system("mount", &[&device, text(&disk.mount_point)?])?;
        disk.is_mounted = true;
        Ok(disk)
    }

    /// Where the file system is.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Cuts the power: nothing that is written or flushed from now on reaches the disk, though
    /// whoever writes is told that it did.
    pub fn cut(&self) {
        lock(&self.state).is_cut = true;
    }

    /// Takes a file of the disk, which nobody writes, out of the kernel's page cache: its next read
    /// is one of the device.
    ///
    /// # Errors
    /// `dd` is missing or fails.
    pub fn drop_cached(&self, file: &Path) -> Result<()> {
        for cached in [file, &self.file] {
            let input = format!("if={}", text(cached)?);
            system("dd", &[&input, "iflag=nocache", "count=0", "status=none"])?;
        }
        Ok(())
    }

    /// From now on, or not any more, every read of the device fails. What the kernel has in its
    /// page cache is still there.
    pub fn fail_reads(&self, fail: bool) {
        lock(&self.state).fails_reads = fail;
    }

    /// Takes the disk down and gives the image that a machine would find after the cut; `random`
    /// decides what of the cache survived. Processes that use it must have ended.
    ///
    /// # Errors
    /// It is still in use.
    pub fn image(mut self, random: &mut dyn FnMut(u64) -> u64) -> Result<(Vec<u8>, Cut)> {
        self.cut();
        self.take_down()?;
        let mut state = lock(&self.state);
        let cache = std::mem::take(&mut state.cache);
        let mut image = std::mem::take(&mut state.image);
        let mut cut = Cut {
            unflushed: cache.len(),
            lost: 0,
            flushes: state.flushes,
        };
        for write in cache.iter().rev() {
            put(&mut image, write.pos, &write.before);
        }
        // One cut of three loses all that the cache held.
        let loses_all = random(3) == 0;
        for write in &cache {
            let fate = if loses_all { 0 } else { random(3) };
            cut.lost += usize::from(fate < 2);
            match fate {
                0 => {}
                1 => {
                    for (n, sector) in write.now.chunks(SECTOR).enumerate() {
                        if random(2) == 0 {
                            put(&mut image, write.pos + n * SECTOR, sector);
                        }
                    }
                }
                _ => put(&mut image, write.pos, &write.now),
            }
        }
        Ok((image, cut))
    }

    fn take_down(&mut self) -> Result<()> {
        let unmount = |path: &Path| {
            wait::until("unmounting", Duration::from_secs(20), || {
                system("umount", &[text(path)?]).map(Some)
            })
        };
        if std::mem::take(&mut self.is_mounted) {
            unmount(&self.mount_point)?;
        }
        if let Some(device) = self.device.take() {
            system("losetup", &["--detach", &device])?;
        }
        if let Some(server) = self.server.take() {
            unmount(&self.file)?;
            ensure!(server.join().is_ok(), "the server of the image panicked");
        }
        Ok(())
    }
}

impl Drop for CutDisk {
    fn drop(&mut self) {
        if self.server.is_some() && self.take_down().is_err() {
            // A broker that a failed test has not ended yet: what is left goes with it.
            for path in [&self.mount_point, &self.file] {
                let _ = Command::new("umount").arg("--lazy").arg(path).output();
            }
        }
    }
}

fn put(image: &mut [u8], pos: usize, bytes: &[u8]) {
    if let Some(part) = image.get_mut(pos..pos + bytes.len()) {
        part.copy_from_slice(bytes);
    }
}

/// Answers the kernel until the file is unmounted.
fn serve(mut fuse: File, state: &Mutex<State>) {
    let mut request = vec![0; REQUEST_MAX];
    loop {
        let len = match fuse.read(&mut request) {
            Ok(0) => return,
            Ok(len) => len,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            // A request that was taken back.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => return, // unmounted
        };
        let request = request.get(..len).unwrap_or_default();
        let Some(answer) = answer(request, state) else {
            continue;
        };
        // What was interrupted in between needs no answer.
        let _ = fuse.write_all(&answer);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |b| u32::from_ne_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |b| u64::from_ne_bytes(*b))
}

/// The answer to one request, `None` to those that want none.
fn answer(request: &[u8], state: &Mutex<State>) -> Option<Vec<u8>> {
    let (code, unique) = (u32_at(request, 4), u64_at(request, 8));
    let body = request.get(IN_HEADER..).unwrap_or_default();
    if code == FSYNC {
        std::thread::sleep(FLUSH_TIME); // a disk that takes its time: the cut often falls into it
    }
    let mut state = lock(state);
    let payload = match code {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init()),
        GETATTR | SETATTR => Ok(attributes(state.image.len() as u64)),
        OPEN => Ok(vec![0; 16]),
        READ if state.fails_reads => Err(EIO),
        READ => Ok(read(&state, body)),
        WRITE => Ok(write(&mut state, body)),
        STATFS => Ok(vec![0; 80]),
        FSYNC => {
            if !state.is_cut {
                state.cache.clear();
                state.flushes += 1;
            }
            Ok(Vec::new())
        }
        RELEASE | FLUSH | ACCESS | DESTROY => Ok(Vec::new()),
        // Extended attributes, holes: a file of fixed size does without.
        _ => Err(ENOSYS),
    };
    let (error, payload) = match payload {
        Ok(payload) => (0, payload),
        Err(error) => (-error, Vec::new()),
    };
    let mut out = Vec::with_capacity(16 + payload.len());
    out.extend_from_slice(
        &u32::try_from(16 + payload.len())
            .unwrap_or(16)
            .to_ne_bytes(),
    );
    out.extend_from_slice(&i32::to_ne_bytes(error));
    out.extend_from_slice(&unique.to_ne_bytes());
    out.extend_from_slice(&payload);
    Some(out)
}

/// Version 7.31, no write-back cache: a write is here before it is said to be done.
fn init() -> Vec<u8> {
    const BIG_WRITES: u32 = 1 << 5;
    let mut out = Vec::with_capacity(64);
    for word in [7u32, 31, 0, BIG_WRITES] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(&[0; 4]); // background requests: the kernel's own limits
    out.extend_from_slice(&WRITE_MAX.to_ne_bytes());
    out.extend_from_slice(&1u32.to_ne_bytes()); // time granularity
    out.resize(64, 0);
    out
}

/// One regular file of this length, whatever is asked; valid for an hour.
fn attributes(len: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(104);
    out.extend_from_slice(&3600u64.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    for long in [1, len, len.div_ceil(512), 0, 0, 0] {
        out.extend_from_slice(&long.to_ne_bytes());
    }
    for word in [0, 0, 0, 0o100_600, 1, 0, 0, 0, 4096, 0u32] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out
}

fn read(state: &State, body: &[u8]) -> Vec<u8> {
    let from = usize::try_from(u64_at(body, 8)).unwrap_or(usize::MAX);
    let to = from.saturating_add(u32_at(body, 16) as usize);
    let to = to.min(state.image.len());
    state.image.get(from..to).unwrap_or_default().to_vec()
}

fn write(state: &mut State, body: &[u8]) -> Vec<u8> {
    let pos = usize::try_from(u64_at(body, 8)).unwrap_or(usize::MAX);
    let bytes = body.get(IO_HEADER..).unwrap_or_default();
    let before = state.image.get(pos..pos.saturating_add(bytes.len()));
    if let Some(before) = before.filter(|_| !state.is_cut) {
        let write = Cached {
            pos,
            before: before.to_vec(),
            now: bytes.to_vec(),
        };
        put(&mut state.image, pos, bytes);
        state.cache.push(write);
    }
    let mut out = u32_at(body, 16).to_ne_bytes().to_vec();
    out.extend_from_slice(&[0; 4]);
    out
}
