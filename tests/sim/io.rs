//! The ring: disk operations of the hot path, in pieces, in order per file and in any order across
//! files.

use crate::planted;
use crate::trace::{digest, note};
use crate::{Check, trace::Trace};
use bytes::Bytes;
use flumen_base::aligned::{AlignedWrite, LastBlock, Piece};
use flumen_base::{Disk, DiskFile, FileId, LogFile, OpenMode, Prng};
use flumen_log::testing::MemDisk;
use flumen_shard::io::{DiskOp, FileSlice, IoFailure, IoOutput, Token};
use std::collections::{BTreeMap, VecDeque};
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

/// All operations in progress and the open files of the process.
#[derive(Default)]
pub(crate) struct Ring {
    queues: BTreeMap<FileId, VecDeque<Op>>,
    handles: BTreeMap<FileId, Box<dyn DiskFile>>,
    last_blocks: BTreeMap<FileId, LastBlock>,
    pub(crate) writes: Writes,
    /// Writes fail one time in so many; 0 is never.
    pub(crate) fail_one_in: u64,
    /// A write of the metadata log failed, or a device did: the process may end.
    pub(crate) may_end: bool,
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
        let mut bytes = Bytes::new();
        let mut direct = None;
        match &op {
            DiskOp::Write {
                pos, bufs, sync, ..
            } => {
                bytes = bufs.concat().into();
                let (n, sum) = (bytes.len(), digest(&bytes));
                let path = file.path().display();
                let is_direct = match self.writes {
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
        let early = is_mutation(&op) && planted::early_ack() && file.id().0 < METADATA_FILE_IDS;
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
        let file = file_of(&op.op);
        let failure = |what: &'static str, e: &io::Error| IoFailure {
            op: what,
            path: file.path().display().to_string(),
            kind: e.kind(),
        };
        let is_write = !matches!(op.op, DiskOp::Read { .. });
        let handle = match open(&mut self.handles, disk, file, is_write) {
            Ok(handle) => handle,
            Err(e) => return Some(Err(failure("open", &e))),
        };
        match &op.op {
            DiskOp::Write { pos, sync, .. } => {
                if self.fail_one_in > 0 && !op.acked && rng.one_in(self.fail_one_in) {
                    let kind = match rng.below(8) {
                        0..4 => io::ErrorKind::StorageFull,
                        4..7 => io::ErrorKind::ResourceBusy,
                        _ => io::ErrorKind::Other,
                    };
                    self.may_end |= file.id().0 >= METADATA_FILE_IDS;
                    self.may_end |= kind == io::ErrorKind::Other;
                    return Some(Err(failure("write", &kind.into())));
                }
                if let Some(write) = op.direct.as_mut().filter(|w| !w.is_done()) {
                    let last = self.last_blocks.entry(file.id()).or_default();
                    if let Err(e) = direct_piece(handle, write, last, *pos, rng) {
                        return Some(Err(failure("write", &e)));
                    }
                    op.done = if write.is_done() { op.bytes.len() } else { 0 };
                    if !write.is_done() || *sync {
                        return None;
                    }
                } else if op.done < op.bytes.len() {
                    let left = op.bytes.len() - op.done;
                    let n = if rng.one_in(4) {
                        1 + rng.below(left as u64) as usize
                    } else {
                        left
                    };
                    let at = pos + op.done as u64;
                    if let Err(e) = handle.write_at(&op.bytes[op.done..op.done + n], at) {
                        return Some(Err(failure("write", &e)));
                    }
                    op.done += n;
                    if op.done < op.bytes.len() || *sync {
                        return None;
                    }
                } else if *sync && let Err(e) = handle.sync() {
                    return Some(Err(failure("fdatasync", &e)));
                }
                Some(Ok(IoOutput::Done))
            }
            DiskOp::Sync { .. }
                if self.fail_one_in > 0 && rng.one_in(self.fail_one_in / 20 + 1) =>
            {
                self.may_end = true;
                Some(Err(failure("fdatasync", &io::ErrorKind::Other.into())))
            }
            DiskOp::Sync { .. } => match handle.sync() {
                Ok(()) => Some(Ok(IoOutput::Done)),
                Err(e) => Some(Err(failure("fdatasync", &e))),
            },
            DiskOp::Read { pos, len, .. } => match read(handle, *pos, *len as usize) {
                Ok(bytes) => Some(Ok(IoOutput::Read(bytes.into()))),
                Err(e) => Some(Err(failure("read", &e))),
            },
        }
    }

    /// Reads a slice of a response; `None` where the file is gone or too short.
    pub(crate) fn slice(&mut self, disk: &MemDisk, slice: &FileSlice) -> Option<Vec<u8>> {
        let handle = open(&mut self.handles, disk, &slice.file, false).ok()?;
        let bytes = read(handle, slice.pos, slice.len as usize).ok()?;
        (bytes.len() == slice.len as usize).then_some(bytes)
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
            writes: self.writes,
            ..Self::default()
        };
    }
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
    pos: u64,
    rng: &mut Prng,
) -> io::Result<()> {
    let (piece, out) = fill(handle, write, last, pos)?;
    let n = match rng.one_in(4) {
        true => (rng.below(piece.len as u64 / SECTOR + 1) * SECTOR) as usize,
        false => piece.len,
    };
    handle.write_all_at(&out[..n], piece.at)?;
    write.advance(&piece, &out, n, last);
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
