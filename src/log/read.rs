//! Reading: from an offset to bytes in memory or a range of a file, without touching the disk.

use bytes::Bytes;
use flumen_base::{LogFile, Offset};
use std::sync::Arc;

/// A range of a segment's file (or, inside a [`Scan`], of an index file).
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file; the `Arc` leases it.
    pub file: Arc<LogFile>,
    /// Where it starts, in bytes.
    pub pos: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// What a fetch wants of one partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The first offset wanted.
    pub offset: Offset,
    /// Nothing at or above this offset is returned (high watermark or last stable offset).
    pub upper_bound: Offset,
    /// Bytes wanted at most.
    pub max_bytes: u32,
    /// Whether the first batch comes whole even when it exceeds `max_bytes`.
    pub min_one: bool,
}

/// How to serve a [`ReadRequest`].
#[derive(Debug)]
pub enum ReadPlan {
    /// Whole batches from the memory tail, in order; the first contains the offset.
    Memory(Vec<Bytes>),
    /// A range that starts at the batch containing the offset; it may end inside a batch.
    File(FileRange),
    /// Read [`Scan::range`] (fewer bytes at the end of the file are fine) and call [`crate::Log::resume_read`].
    NeedScan(Scan),
    /// Nothing between the offset and the bound.
    Empty,
    /// Below the log start offset or above the log end offset.
    OffsetOutOfRange,
}

impl ReadPlan {
    /// Bytes that this plan sends.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bufs) => bufs.iter().map(Bytes::len).sum(),
            Self::File(range) => range.len as usize,
            Self::NeedScan(_) | Self::Empty | Self::OffsetOutOfRange => 0,
        }
    }

    /// Whether it sends nothing (a scan is not known yet).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A read that needs to look at the disk first: an index block, or batch headers from an index entry on.
#[derive(Debug)]
pub struct Scan {
    /// The request that this scan serves.
    pub request: ReadRequest,
    /// What to read.
    pub range: FileRange,
}
