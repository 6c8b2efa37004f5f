//! Appends on their way to a write: small batches are copied one behind the other into the same
//! memory, and go to the write and to the memory tail as one run of bytes; large ones go as they
//! came, behind a copy of their header.

use crate::batch::{BatchHeader, HEADER_LEN};
use crate::tail::{Tail, TailRun};
use crate::validate::ValidBatch;
use bytes::{Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;

/// Batches up to this length are copied: cheaper than two buffers in a write.
const COPY_LEN_MAX: usize = 4096;
/// Bytes of one run: a reader that begins inside of it walks through its headers.
const RUN_LEN_MAX: u64 = 16 << 10;
/// Buffers of one write (IOV_MAX is 1024).
const WRITE_BUFS_MAX: usize = 1000;
/// Longest list of buffers that is kept for the next write.
const SPARE_BUFS_MAX: usize = 256;
/// Memory that copies share: little at first, twice as much whenever it is used up.
const COPIES_LEN_FIRST: usize = 1 << 10;
const COPIES_LEN_MAX: usize = 64 << 10;

/// Batches staged for one segment, one behind the other.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Base offset of the segment.
    pub(crate) segment: i64,
    /// Where the first begins, in bytes.
    pub(crate) pos: u64,
    pub(crate) bufs: Vec<Bytes>,
    pub(crate) len: u64,
    pub(crate) records: i64,
    pub(crate) end_offset: i64,
}

/// Small batches that are being gathered: they are the last of what is staged.
#[derive(Clone, Copy, Debug)]
struct Run {
    base_offset: i64,
    last_offset: i64,
    segment: i64,
    pos: u64,
    len: u64,
}

/// What is staged, and the memory for it.
#[derive(Debug)]
pub(crate) struct Staging {
    staged: VecDeque<Staged>,
    /// Where headers and small batches are copied to: what is in it is the run's. Its own for each
    /// log, so that the memory tail lets go of it in the order of the copies.
    copies: BytesMut,
    copies_len: usize,
    run: Option<Run>,
    /// Lists of buffers of writes that have ended, empty, for those to come.
    spare_bufs: SmallVec<[Vec<Bytes>; 2]>,
}

impl Default for Staging {
    fn default() -> Self {
        Self {
            staged: VecDeque::new(),
            copies: BytesMut::new(),
            copies_len: COPIES_LEN_FIRST,
            run: None,
            spare_bufs: SmallVec::new(),
        }
    }
}

impl Staging {
    /// Whether nothing waits for a write.
    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// What is written next.
    pub(crate) fn front(&self) -> Option<&Staged> {
        self.staged.front()
    }

    /// Takes what is written next.
    pub(crate) fn take(&mut self, tail: &mut Tail) -> Option<Staged> {
        self.end_run(tail);
        self.staged.pop_front()
    }

    /// Forgets everything staged.
    pub(crate) fn clear(&mut self) {
        self.staged.clear();
        self.copies.clear();
        self.run = None;
    }

    /// Lets go of the memory for copies.
    pub(crate) fn let_go(&mut self, tail: &mut Tail) {
        self.end_run(tail);
        (self.copies, self.copies_len) = (BytesMut::new(), COPIES_LEN_FIRST);
    }

    /// Takes the list of a write's buffers back, for a write to come; the buffers are let go of.
    pub(crate) fn reuse_bufs(&mut self, mut bufs: Vec<Bytes>) {
        bufs.clear();
        if self.spare_bufs.len() < 2 && bufs.capacity() <= SPARE_BUFS_MAX {
            self.spare_bufs.push(bufs);
        }
    }

    /// Stages a batch, whose positioned header this is, for `pos` of `segment`.
    pub(crate) fn push(
        &mut self,
        header: &BatchHeader<'_>,
        batch: &ValidBatch,
        (segment, pos): (i64, u64),
        tail: &mut Tail,
    ) {
        let len = batch.len() as u64;
        let run = Run {
            base_offset: header.base_offset(),
            last_offset: header.last_offset(),
            segment,
            pos,
            len,
        };
        let is_small = batch.len() <= COPY_LEN_MAX;
        if !(is_small && self.fits_run(&run, tail)) {
            self.end_run(tail);
        }
        self.account(&run, header.count());
        if is_small {
            match &mut self.run {
                Some(open) => {
                    open.last_offset = run.last_offset;
                    open.len += len;
                }
                None => {
                    self.reserve(batch.len());
                    self.run = Some(run);
                }
            }
            self.copies.extend_from_slice(header.bytes());
            self.copies.extend_from_slice(&batch.records);
        } else {
            self.reserve(HEADER_LEN);
            self.copies.extend_from_slice(header.bytes());
            let header = self.copies.split().freeze();
            let charge = match batch.len() >= batch.frame_len / 2 {
                true => len,
                false => batch.frame_len as u64,
            };
            self.put(run, charge, smallvec![header, batch.records.clone()], tail);
        }
    }

    /// Whether a small batch may be added to the run.
    fn fits_run(&self, batch: &Run, tail: &Tail) -> bool {
        let room = self.copies.capacity() - self.copies.len();
        let max = match tail.budget() as u64 {
            0 => RUN_LEN_MAX,
            budget => RUN_LEN_MAX.min(budget / 4),
        };
        self.run.is_some_and(|run| {
            run.segment == batch.segment && run.len + batch.len <= max && room as u64 >= batch.len
        })
    }

    /// Counts a batch as staged, in the write that is last or in one of its own.
    fn account(&mut self, batch: &Run, records: i32) {
        let end_offset = batch.last_offset + 1;
        if let Some(staged) = self.staged.back_mut()
            && staged.segment == batch.segment
            && (self.run.is_some() || staged.bufs.len() < WRITE_BUFS_MAX)
        {
            staged.len += batch.len;
            staged.records += i64::from(records);
            staged.end_offset = end_offset;
            return;
        }
        self.staged.push_back(Staged {
            segment: batch.segment,
            pos: batch.pos,
            bufs: self.spare_bufs.pop().unwrap_or_default(),
            len: batch.len,
            records: records.into(),
            end_offset,
        });
    }

    /// The run takes no more: its bytes go to the write and to the memory tail.
    fn end_run(&mut self, tail: &mut Tail) {
        if let Some(run) = self.run.take() {
            let bytes = self.copies.split().freeze();
            self.put(run, run.len, smallvec![bytes], tail);
        }
    }

    fn put(&mut self, run: Run, charge: u64, bufs: SmallVec<[Bytes; 2]>, tail: &mut Tail) {
        let is_kept = tail.budget() > 0;
        if let Some(staged) = self.staged.back_mut() {
            if !is_kept {
                staged.bufs.extend(bufs);
                return;
            }
            staged.bufs.extend(bufs.iter().cloned());
        }
        tail.push(TailRun {
            base_offset: run.base_offset,
            last_offset: run.last_offset,
            segment: run.segment,
            pos: run.pos,
            len: run.len,
            charge,
            bufs,
        });
    }

    /// Room for so many bytes more. Only between runs: what is there is not moved.
    fn reserve(&mut self, room: usize) {
        if self.copies.capacity() < room {
            let reserve = self.copies_len.max(room);
            self.copies.reserve(reserve);
            self.copies_len = (reserve * 2).min(COPIES_LEN_MAX);
        }
    }
}
