//! Record batches of magic 2.

use bytes::Bytes;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 61;

/// Why bytes are no record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed batch")]
pub struct BatchError;

/// A view of a batch's header.
#[derive(Clone, Copy, Debug)]
pub struct BatchHeader<'a>(pub(crate) &'a [u8; HEADER_LEN]);

/// One record of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Offset relative to the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds relative to the batch's base timestamp.
    pub timestamp_delta: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Header count and their bytes.
    pub headers: &'a [u8],
}

/// Builds one batch (internal topics, conversions).
#[derive(Debug, Default)]
pub struct BatchBuilder {}

impl BatchBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let _ = (timestamp, key, value);
        todo!()
    }

    /// The batch with base offset 0, uncompressed. `None` when it has no records.
    pub fn build(self) -> Option<Bytes> {
        todo!()
    }
}
