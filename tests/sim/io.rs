//! The ring: disk operations of the hot path, in pieces, in order per file and in any order across
//! files.

use crate::faults::strikes;
use crate::planted::{self, Planted};
use crate::trace::{digest, note};
use crate::{Check, trace::Trace};
use bytes::Bytes;
use flumen_base::aligned::{AlignedWrite, LastBlock, Piece};
use flumen_base::{Disk, DiskFile, FileId, LogFile, OpenMode, Prng};
use flumen_log::testing::{MemDisk, SyncFailure};
use flumen_shard::io::{DiskOp, FileSlice, IoFailure, IoOutput, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;

/// How log writes are carried out in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Through the page cache.
    #[default]
    Cached,
    /// In aligned blocks, with O_DIRECT.
    Direct,
    /// Now so, now so.
    Switching,
}

/// What may go wrong with disk operations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IoFaults {
    pub(crate) writes: Writes,
    /// Writes and reads are done in parts.
    pub(crate) short: bool,
    /// Pieces of writes and reads fail one time in so many, syncs more often; 0 is never.
    pub(crate) fail_one_in: u64,
    /// A failed sync loses what it was to write.
    pub(crate) loses_syncs: bool,
}

impl IoFaults {
    pub(crate) fn sync_failure(&self) -> SyncFailure {
        match self.loses_syncs {
            true => SyncFailure::Loses,
            false => SyncFailure::Keeps,
        }
    }

    /// How rare failures are among operations of which there are fewer.
    pub(crate) fn more_often(&self, times: u64) -> u64 {
        match self.fail_one_in {
            0 => 0,
            n => n / times + 1,
        }
    }
}

/// Unit in which a direct write may be short or torn.
const SECTOR: u64 = 512;

/// An operation in progress.
struct Op {
    shard: usize,
    token: Token,
    op: DiskOp,
    /// All buffers of a write, and how much of it is done.
    bytes: Bytes,
    done: usize,
    /// The same, if it is a direct write.
    direct: Option<AlignedWrite<Bytes>>,
    /// Nothing happens before this moment.
    not_before: u64,
    /// The completion was given already (a planted bug).
    acked: bool,
}

/// A completion for a shard.
pub(crate) struct IoDone {
    pub(crate) shard: usize,
    pub(crate) token: Token,
    pub(crate) result: Result<IoOutput, IoFailure>,
}

/// What failed, and how.
type Broken = (&'static str, io::Error);

/// All operations in progress and the open files of the process.
#[derive(Default)]
pub(crate) struct Ring {
    queues: BTreeMap<FileId, VecDeque<Op>>,
    handles: BTreeMap<FileId, Box<dyn DiskFile>>,
    last_blocks: BTreeMap<FileId, LastBlock>,
    /// Nothing more may be written to these.
    full: BTreeSet<FileId>,
    pub(crate) faults: IoFaults,
    /// A write of the metadata log failed, or a device did: the process may end.
    pub(crate) may_end: bool,
    /// Operations that failed in this run.
    pub(crate) failures: u64,
}

/// Files of the metadata log have ids from here on.
pub(crate) const METADATA_FILE_IDS: u64 = 1 << 63;

fn file_of(op: &DiskOp) -> &LogFile {
    match op {
        DiskOp::Write { file, .. } | DiskOp::Sync { file } | DiskOp::Read { file, .. } => file,
    }
}

/// The shard that may work on a file: their numbers come from a range per shard.
fn owner_of(id: FileId) -> usize {
    if id.0 >= METADATA_FILE_IDS {
        0
    } else {
        (id.0 >> 48) as usize - 1
    }
}

fn is_mutation(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Write { .. })
}

impl Ring {
    /// Takes an operation of a shard. With the planted bug its completion comes at once.
    pub(crate) fn start(
        &mut self,
        shard: usize,
        token: Token,
        op: DiskOp,
        (disk, not_before, rng): (&MemDisk, u64, &mut Prng),
        trace: &mut Trace,
    ) -> Check<Option<IoDone>> {
        let file = file_of(&op);
        // Opened at once, as the runtime does; what fails now will fail again below.
        let create = !matches!(op, DiskOp::Read { .. });
        let _ = open(&mut self.handles, disk, file, create);
        if owner_of(file.id()) != shard {
            return Err(format!("shard {shard} works on {file:?} of another"));
        }
        let queue = self.queues.entry(file.id()).or_default();
        if is_mutation(&op) && queue.iter().any(|o| is_mutation(&o.op) && !o.acked) {
            return Err(format!("two writes of {file:?} in flight"));
        }
        if is_mutation(&op) && self.full.contains(&file.id()) {
            return Err(format!("a write of {file:?}, which was full"));
        }
        let mut bytes = Bytes::new();
        let mut direct = None;
        match &op {
            DiskOp::Write {
                pos, bufs, sync, ..
            } => {
                bytes = bufs.concat().into();
                let (n, sum) = (bytes.len(), digest(&bytes));
                let path = file.path().display();
                let is_direct = match self.faults.writes {
                    Writes::Cached => false,
                    Writes::Direct => true,
                    Writes::Switching => rng.one_in(2),
                };
                if is_direct && file.is_segment() {
                    direct = Some(AlignedWrite::new(*pos, vec![bytes.clone()]));
                }
                let how = if direct.is_some() { " direct" } else { "" };
                note!(
                    trace,
                    "  write{how} {path} pos={pos} len={n} sync={sync} {sum:x}"
                );
            }
            DiskOp::Sync { .. } => note!(trace, "  sync {}", file.path().display()),
            DiskOp::Read { pos, len, .. } => {
                note!(
                    trace,
                    "  read {} pos={pos} len={len}",
                    file.path().display()
                );
            }
        }
        let early =
            is_mutation(&op) && planted::is(Planted::EarlyAck) && file.id().0 < METADATA_FILE_IDS;
        let done = early.then(|| IoDone {
            shard,
            token,
            result: Ok(IoOutput::Done),
        });
        queue.push_back(Op {
            shard,
            token,
            op,
            bytes,
            done: 0,
            direct,
            not_before,
            acked: early,
        });
        Ok(done)
    }

    /// A shard will not write to this file any more.
    pub(crate) fn full(&mut self, file: &LogFile) -> Check {
        let mut queue = self.queues.get(&file.id()).into_iter().flatten();
        if queue.any(|o| is_mutation(&o.op) && !o.acked) {
            return Err(format!("{file:?} is full with a write in flight"));
        }
        self.full.insert(file.id());
        Ok(())
    }

    /// Files whose oldest operation can go on now.
    pub(crate) fn ready(&self, now: u64) -> Vec<FileId> {
        let due = |queue: &VecDeque<Op>| queue.front().is_some_and(|op| op.not_before <= now);
        let ready = self.queues.iter().filter(|(_, queue)| due(queue));
        ready.map(|(id, _)| *id).collect()
    }

    /// When the next operation can go on.
    pub(crate) fn next_time(&self) -> Option<u64> {
        let heads = self.queues.values().filter_map(|queue| queue.front());
        heads.map(|op| op.not_before).min()
    }

    /// Does one piece of the oldest operation of a file.
    pub(crate) fn advance(
        &mut self,
        disk: &MemDisk,
        id: FileId,
        rng: &mut Prng,
        trace: &mut Trace,
    ) -> Option<IoDone> {
        let mut op = self.queues.get_mut(&id)?.pop_front()?;
        let ended = self.piece(disk, &mut op, rng);
        let Some(result) = ended else {
            self.queues.entry(id).or_default().push_front(op);
            return None;
        };
        if self.queues.get(&id).is_some_and(VecDeque::is_empty) {
            self.queues.remove(&id);
        }
        let how = result.as_ref().err().map_or("ok", |e| e.op);
        note!(trace, "io shard={} token={} {how}", op.shard, op.token.0);
        (!op.acked).then_some(IoDone {
            shard: op.shard,
            token: op.token,
            result,
        })
    }

    fn piece(
        &mut self,
        disk: &MemDisk,
        op: &mut Op,
        rng: &mut Prng,
    ) -> Option<Result<IoOutput, IoFailure>> {
        let ended = match &op.op {
            DiskOp::Write { .. } => self.write_piece(disk, op, rng),
            DiskOp::Sync { file } => {
                let fails = strikes(self.faults.more_often(20), rng);
                self.sync(disk, file, fails).map(|()| Some(IoOutput::Done))
            }
            DiskOp::Read { file, pos, len } => {
                self.read(disk, file, (*pos, *len), rng).map(|bytes| {
                    let bytes = Bytes::from(bytes);
                    Some(IoOutput::Read(bytes))
                })
            }
        };
        match ended {
            Ok(done) => done.map(Ok),
            Err(broken) => Some(Err(self.failed(file_of(&op.op), &broken))),
        }
    }

    /// An operation has failed: counts it, and what it may lead to.
    fn failed(&mut self, file: &LogFile, broken: &Broken) -> IoFailure {
        let (what, kind) = (broken.0, broken.1.kind());
        let small = [io::ErrorKind::StorageFull, io::ErrorKind::ResourceBusy];
        self.may_end |= file.id().0 >= METADATA_FILE_IDS;
        self.may_end |= what == "fdatasync" || !small.contains(&kind);
        self.failures += 1;
        failure(file, what, kind)
    }

    /// Some more of a write, or its sync; what it gives once it is done.
    fn write_piece(
        &mut self,
        disk: &MemDisk,
        op: &mut Op,
        rng: &mut Prng,
    ) -> Result<Option<IoOutput>, Broken> {
        let faults = self.faults;
        let DiskOp::Write {
            file, pos, sync, ..
        } = &op.op
        else {
            return Ok(None); // the caller has looked
        };
        if op.done == op.bytes.len() && *sync {
            let fails = !op.acked && strikes(faults.more_often(4), rng);
            self.sync(disk, file, fails)?;
            return Ok(Some(IoOutput::Done));
        }
        let handle = open(&mut self.handles, disk, file, true).map_err(|e| ("open", e))?;
        if !op.acked && strikes(faults.fail_one_in, rng) {
            let kind = match rng.below(8) {
                0..4 => io::ErrorKind::StorageFull,
                4..7 => io::ErrorKind::ResourceBusy,
                _ => io::ErrorKind::Other,
            };
            return Err(("write", kind.into()));
        }
        if let Some(write) = op.direct.as_mut() {
            let last = self.last_blocks.entry(file.id()).or_default();
            direct_piece(handle, write, last, (*pos, faults.short), rng)
                .map_err(|e| ("write", e))?;
            op.done = if write.is_done() { op.bytes.len() } else { 0 };
        } else if op.done < op.bytes.len() {
            let left = op.bytes.len() - op.done;
            let n = match faults.short && rng.one_in(4) {
                true => 1 + rng.below(left as u64) as usize,
                false => left,
            };
            let at = pos + op.done as u64;
            let written = handle.write_at(&op.bytes[op.done..op.done + n], at);
            op.done += written.map_err(|e| ("write", e))?;
        }
        let done = op.done == op.bytes.len() && !*sync;
        Ok(done.then_some(IoOutput::Done))
    }

    fn sync(&mut self, disk: &MemDisk, file: &LogFile, fails: bool) -> Result<(), Broken> {
        let handle = open(&mut self.handles, disk, file, true).map_err(|e| ("open", e))?;
        if fails {
            disk.fail_next_sync(self.faults.sync_failure());
        }
        handle.sync().map_err(|e| ("fdatasync", e))
    }

    fn read(
        &mut self,
        disk: &MemDisk,
        file: &LogFile,
        (pos, len): (u64, u32),
        rng: &mut Prng,
    ) -> Result<Vec<u8>, Broken> {
        let handle = open(&mut self.handles, disk, file, false).map_err(|e| ("open", e))?;
        if strikes(self.faults.fail_one_in, rng) {
            let kind = match rng.one_in(8) {
                true => io::ErrorKind::Other,
                false => io::ErrorKind::TimedOut,
            };
            return Err(("read", kind.into()));
        }
        read(handle, pos, len as usize).map_err(|e| ("read", e))
    }

    /// Reads a slice of a response. Where the file is gone or too short that is no fault of the
    /// disk.
    pub(crate) fn slice(
        &mut self,
        disk: &MemDisk,
        slice: &FileSlice,
        rng: &mut Prng,
    ) -> Result<Vec<u8>, IoFailure> {
        let wanted = (slice.pos, slice.len);
        let gone = |kind| failure(&slice.file, "read", kind);
        match self.read(disk, &slice.file, wanted, rng) {
            Ok(bytes) if bytes.len() == slice.len as usize => Ok(bytes),
            Ok(_) => Err(gone(io::ErrorKind::UnexpectedEof)),
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => Err(gone(error.kind())),
            Err((_, error)) => Err(self.failed(&slice.file, &("read", error))),
        }
    }

    /// The process dies: of what is in flight the oldest write of each file may be applied in part,
    /// and its sync done.
    pub(crate) fn die(&mut self, disk: &MemDisk, rng: &mut Prng) {
        for (_, queue) in std::mem::take(&mut self.queues) {
            let Some(op) = queue.into_iter().next() else {
                continue;
            };
            let DiskOp::Write { file, pos, .. } = &op.op else {
                continue;
            };
            let left = op.bytes.len() - op.done;
            if op.acked || left == 0 || rng.one_in(2) {
                continue;
            }
            if let Some(write) = &op.direct {
                let last = self.last_blocks.entry(file.id()).or_default();
                if let Ok(handle) = open(&mut self.handles, disk, file, true) {
                    tear(handle, write, last, *pos, rng);
                }
                continue;
            }
            let n = rng.below(left as u64 + 1) as usize;
            if let Ok(handle) = open(&mut self.handles, disk, file, true) {
                let _ = handle.write_at(&op.bytes[op.done..op.done + n], pos + op.done as u64);
            }
        }
        *self = Self {
            faults: self.faults,
            failures: self.failures,
            ..Self::default()
        };
    }
}

fn failure(file: &LogFile, op: &'static str, kind: io::ErrorKind) -> IoFailure {
    let path = file.path().display().to_string();
    IoFailure { op, path, kind }
}

/// Fills the next piece, as the runtime does: what the last block holds is read back where it is
/// not known.
fn fill(
    handle: &dyn DiskFile,
    write: &AlignedWrite<Bytes>,
    last: &mut LastBlock,
    pos: u64,
) -> io::Result<(Piece, Vec<u8>)> {
    let piece = write.piece();
    // Only the first piece can begin in a block that an earlier write has begun.
    if piece.at < pos
        && !planted::is(Planted::StaleBlock)
        && let Some((at, len)) = last.missing(pos)
    {
        let mut block = vec![0; len];
        handle.read_exact_at(&mut block, at)?;
        last.set(pos, &block);
    }
    let mut out = vec![0; piece.len];
    write.fill(&piece, last, &mut out);
    Ok((piece, out))
}

fn direct_piece(
    handle: &dyn DiskFile,
    write: &mut AlignedWrite<Bytes>,
    last: &mut LastBlock,
    (pos, short): (u64, bool),
    rng: &mut Prng,
) -> io::Result<()> {
    let (piece, out) = fill(handle, write, last, pos)?;
    let n = match short && rng.one_in(4) {
        true => (rng.below(piece.len as u64 / SECTOR + 1) * SECTOR) as usize,
        false => piece.len,
    };
    let written = handle.write_at(&out[..n], piece.at)?;
    write.advance(&piece, &out, written, last);
    Ok(())
}

/// Of the piece in flight some sectors have come to the file.
fn tear(
    handle: &dyn DiskFile,
    write: &AlignedWrite<Bytes>,
    last: &mut LastBlock,
    pos: u64,
    rng: &mut Prng,
) {
    let Ok((piece, out)) = fill(handle, write, last, pos) else {
        return;
    };
    for (n, sector) in out.chunks(SECTOR as usize).enumerate() {
        if rng.one_in(2) {
            let _ = handle.write_all_at(sector, piece.at + n as u64 * SECTOR);
        }
    }
}

fn open<'a>(
    handles: &'a mut BTreeMap<FileId, Box<dyn DiskFile>>,
    disk: &MemDisk,
    file: &LogFile,
    create: bool,
) -> io::Result<&'a dyn DiskFile> {
    let entry = match handles.entry(file.id()) {
        std::collections::btree_map::Entry::Occupied(e) => return Ok(&**e.into_mut()),
        std::collections::btree_map::Entry::Vacant(e) => e,
    };
    let parent = file.path().parent().unwrap_or(Path::new("/"));
    disk.list(parent)?;
    let mode = if create {
        OpenMode::Create
    } else {
        OpenMode::ReadWrite
    };
    Ok(&**entry.insert(disk.open(file.path(), mode)?))
}

fn read(handle: &dyn DiskFile, pos: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let n = handle.read_at(&mut bytes, pos)?;
    bytes.truncate(n);
    Ok(bytes)
}
