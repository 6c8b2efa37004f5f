//! Record batches of magic 2 (protocol guide, "Record Batch"): a view of the header, and checked
//! iteration over records. Nothing here trusts a length before it is compared with the bytes that
//! are there.
//!
//! ```text
//! 0 baseOffset i64 | 8 length i32 (of all that follows) | 12 leaderEpoch i32 | 16 magic i8
//! 17 crc u32 | 21 attributes i16 | 23 lastOffsetDelta i32 | 27 baseTimestamp i64
//! 35 maxTimestamp i64 | 43 producerId i64 | 51 producerEpoch i16 | 53 baseSequence i32
//! 57 count i32 | 61 records
//! ```
//! The CRC32C covers everything from the attributes on: base offset and leader epoch may be patched
//! without redoing it.

pub use crate::builder::BatchBuilder;
use crate::codec::{self, CodecError, Compression};
use crate::config::TimestampType;
use crate::crc;
use bytes::Bytes;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 61;
/// Length of what stands before the bytes that the length field counts.
pub const LOG_OVERHEAD: usize = 12;
/// Where the bytes begin that the CRC covers.
pub const CRC_START: usize = 21;
/// The only magic that 4.x brokers store.
pub const MAGIC: i8 = 2;

const ATTR_COMPRESSION: i16 = 0x07;
pub(crate) const ATTR_LOG_APPEND_TIME: i16 = 0x08;
pub(crate) const ATTR_TRANSACTIONAL: i16 = 0x10;
pub(crate) const ATTR_CONTROL: i16 = 0x20;
pub(crate) const ATTR_DELETE_HORIZON: i16 = 0x40;

/// Why bytes are no record batch, or no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch claims.
    #[error("the batch is longer than the bytes that are there")]
    Truncated,
    /// The length field is smaller than a header.
    #[error("the batch's length {0} is smaller than its header")]
    TooShort(i32),
    /// Not magic 2.
    #[error("Invalid magic found in record: {0}")]
    Magic(i8),
    /// The CRC does not match.
    #[error("the CRC is {stored:#010x} but should be {computed:#010x}")]
    Crc {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// Attributes name no codec.
    #[error("unknown compression codec {0}")]
    Codec(u8),
    /// A record breaks the format.
    #[error("malformed record: {0}")]
    Record(&'static str),
    /// The records section could not be unfolded.
    #[error("compressed records: {0}")]
    Compressed(#[from] CodecError),
}

/// A view of a batch's header; every bit pattern is a value, nothing is checked but the length.
#[derive(Clone, Copy, Debug)]
pub struct BatchHeader<'a>(&'a [u8; HEADER_LEN]);

impl<'a> BatchHeader<'a> {
    /// The header at the start of `bytes`, or `None` if there are fewer than 61.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }

    /// The header in these 61 bytes.
    pub fn from_array(bytes: &'a [u8; HEADER_LEN]) -> Self {
        Self(bytes)
    }

    /// Its 61 bytes.
    pub fn bytes(&self) -> &'a [u8; HEADER_LEN] {
        self.0
    }

    fn be<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]); // `at` is one of the constants below
        out
    }

    /// Offset of the first record.
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(self.be(0))
    }

    /// The length field: bytes after it.
    pub fn length(&self) -> i32 {
        i32::from_be_bytes(self.be(8))
    }

    /// Length of the whole batch in bytes, if the length field is possible for magic 2.
    pub fn size(&self) -> Result<usize, BatchError> {
        let length = self.length();
        match usize::try_from(length) {
            Ok(n) if n + LOG_OVERHEAD >= HEADER_LEN => Ok(n + LOG_OVERHEAD),
            _ => Err(BatchError::TooShort(length)),
        }
    }

    /// Leader epoch that appended it.
    pub fn leader_epoch(&self) -> i32 {
        i32::from_be_bytes(self.be(12))
    }

    /// Format version.
    pub fn magic(&self) -> i8 {
        i8::from_be_bytes(self.be(16))
    }

    /// CRC32C of the bytes from the attributes on.
    pub fn crc(&self) -> u32 {
        u32::from_be_bytes(self.be(17))
    }

    /// All attribute bits.
    pub fn attributes(&self) -> i16 {
        i16::from_be_bytes(self.be(21))
    }

    /// Codec of the records.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let id = (self.attributes() & ATTR_COMPRESSION) as u8;
        Compression::from_id(id).ok_or(BatchError::Codec(id))
    }

    /// Whose the timestamps are.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & ATTR_LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & ATTR_TRANSACTIONAL != 0
    }

    /// Holds a transaction marker (or another control record) instead of data.
    pub fn is_control(&self) -> bool {
        self.attributes() & ATTR_CONTROL != 0
    }

    /// Base timestamp is the delete horizon (set by compaction).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes() & ATTR_DELETE_HORIZON != 0
    }

    /// Offset of the last record relative to the first.
    pub fn last_offset_delta(&self) -> i32 {
        i32::from_be_bytes(self.be(23))
    }

    /// Timestamp that the records' deltas add to.
    pub fn base_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.be(27))
    }

    /// Largest timestamp in the batch, or the append time.
    pub fn max_timestamp(&self) -> i64 {
        i64::from_be_bytes(self.be(35))
    }

    /// Producer id, -1 without idempotence.
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(self.be(43))
    }

    /// Producer epoch.
    pub fn producer_epoch(&self) -> i16 {
        i16::from_be_bytes(self.be(51))
    }

    /// Sequence of the first record.
    pub fn base_sequence(&self) -> i32 {
        i32::from_be_bytes(self.be(53))
    }

    /// Records in the batch.
    pub fn count(&self) -> i32 {
        i32::from_be_bytes(self.be(57))
    }

    /// A record's timestamp: its own, or the append time.
    pub fn timestamp_of(&self, record: &Record<'_>) -> i64 {
        match self.timestamp_type() {
            TimestampType::CreateTime => self.base_timestamp().wrapping_add(record.timestamp_delta),
            TimestampType::LogAppendTime => self.max_timestamp(),
        }
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset()
            .wrapping_add(i64::from(self.last_offset_delta()))
    }

    /// Sequence of the last record (it wraps from `i32::MAX` to 0), -1 without idempotence.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            base if base < 0 => -1,
            base => sequence_add(base, self.last_offset_delta()),
        }
    }
}

/// `sequence + n`, wrapping from `i32::MAX` to 0 as Kafka's sequences do.
pub fn sequence_add(sequence: i32, n: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(n);
    if sum > i64::from(i32::MAX) {
        (sum - i64::from(i32::MAX) - 1) as i32
    } else {
        sum as i32
    }
}

/// `sequence - n`, wrapping from 0 to `i32::MAX`.
pub fn sequence_sub(sequence: i32, n: i32) -> i32 {
    let diff = i64::from(sequence) - i64::from(n);
    if diff < 0 {
        (diff + i64::from(i32::MAX) + 1) as i32
    } else {
        diff as i32
    }
}

/// A whole batch: its header is plausible and its bytes are all there. The CRC is checked by
/// [`Batch::check_crc`].
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The header.
    pub header: BatchHeader<'a>,
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch at the start of `bytes`; more may follow it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let header = BatchHeader::new(bytes).ok_or(BatchError::Truncated)?;
        if header.magic() != MAGIC {
            return Err(BatchError::Magic(header.magic()));
        }
        let bytes = bytes.get(..header.size()?).ok_or(BatchError::Truncated)?;
        Ok(Self { header, bytes })
    }

    /// All its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes after the header, compressed as the header says.
    pub fn records_section(&self) -> &'a [u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }

    /// Compares the CRC.
    pub fn check_crc(&self) -> Result<(), BatchError> {
        let stored = self.header.crc();
        let computed = crc::crc32c(self.bytes.get(CRC_START..).unwrap_or_default());
        if stored == computed {
            Ok(())
        } else {
            Err(BatchError::Crc { stored, computed })
        }
    }

    /// The records section uncompressed, at most `max` bytes of it; borrowed when it was not
    /// compressed.
    pub fn unfold(&self, max: usize) -> Result<std::borrow::Cow<'a, [u8]>, BatchError> {
        let section = self.records_section();
        match self.header.compression()? {
            Compression::None => Ok(section.into()),
            codec => Ok(codec::decompress(codec, section, max)?.into()),
        }
    }
}

/// Batches one after the other; ends at the first that is not whole (`Err` once if it is
/// malformed).
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// Batches in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = Batch::parse(self.rest);
        self.rest = match &batch {
            Ok(batch) => self.rest.get(batch.bytes.len()..).unwrap_or_default(),
            Err(_) => &[],
        };
        match batch {
            Err(BatchError::Truncated) => None,
            batch => Some(batch),
        }
    }
}

/// One record of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Attribute bits; Kafka defines none.
    pub attributes: i8,
    /// Offset relative to the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds relative to the batch's base timestamp.
    pub timestamp_delta: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Count of headers and the headers, as encoded (checked).
    pub headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// The headers, in order: key and value.
    pub fn headers(&self) -> Headers<'a> {
        let mut cursor = Cursor(self.headers);
        let left = cursor.varint().unwrap_or(0);
        Headers { cursor, left }
    }
}

/// Iterator over a record's headers.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    left: i32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        let key = self.cursor.nullable_bytes().ok()??;
        Some((key, self.cursor.nullable_bytes().ok()?))
    }
}

/// Records of an uncompressed section, each checked as it comes. After an error it ends. Bytes left
/// behind the last record are an error too, as in Kafka.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    left: i32,
}

impl<'a> Records<'a> {
    /// `count` records in `section`.
    pub fn new(section: &'a [u8], count: i32) -> Self {
        Self {
            cursor: Cursor(section),
            left: count,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    // Inlined, the cursor stays in registers: else each record waits for what the last one stored.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            if std::mem::take(&mut self.cursor.0).is_empty() {
                return None;
            }
            return Some(Err(BatchError::Record("bytes left behind the last record")));
        }
        let record = read_record(&mut self.cursor);
        self.left -= 1;
        if record.is_err() {
            self.left = 0;
            self.cursor = Cursor(&[]);
        }
        Some(record)
    }
}

#[inline(always)]
fn read_record<'a>(cursor: &mut Cursor<'a>) -> Result<Record<'a>, BatchError> {
    let size = cursor.varint()?;
    let size = usize::try_from(size).map_err(|_| BatchError::Record("negative size"))?;
    let mut body = Cursor(cursor.take(size)?);
    let attributes = body.take(1)?[0] as i8; // one byte was taken
    let timestamp_delta = body.varlong()?;
    let offset_delta = body.varint()?;
    let key = body.nullable_bytes()?;
    let value = body.nullable_bytes()?;
    let headers = body.0;
    let count = body.varint()?;
    if count < 0 || count as usize > body.0.len() {
        return Err(BatchError::Record("impossible number of headers"));
    }
    for _ in 0..count {
        if body.nullable_bytes()?.is_none() {
            return Err(BatchError::Record("null header key"));
        }
        body.nullable_bytes()?;
    }
    if !body.0.is_empty() {
        return Err(BatchError::Record("size does not match the content"));
    }
    Ok(Record {
        attributes,
        offset_delta,
        timestamp_delta,
        key,
        value,
        headers,
    })
}

#[derive(Clone, Copy, Debug)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    fn take(&mut self, n: usize) -> Result<&'a [u8], BatchError> {
        if n > self.0.len() {
            return Err(BatchError::Record("ends early"));
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Ok(head)
    }

    /// Zigzag varint of at most 10 bytes.
    #[inline]
    fn varlong(&mut self) -> Result<i64, BatchError> {
        match self.short_varint() {
            Some(value) => Ok(i64::from(value)),
            None => self.varlong_slow(),
        }
    }

    fn varlong_slow(&mut self) -> Result<i64, BatchError> {
        let mut value = 0u64;
        for (i, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = self.0.get(i + 1..).unwrap_or_default();
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(BatchError::Record("varint without end"))
    }

    /// A varint of one or two bytes, as nearly all are; `None`, and nothing taken, otherwise.
    #[inline]
    fn short_varint(&mut self) -> Option<i32> {
        let value = match *self.0 {
            [first, ref rest @ ..] if first < 0x80 => {
                self.0 = rest;
                u32::from(first)
            }
            [first, second, ref rest @ ..] if second < 0x80 => {
                self.0 = rest;
                u32::from(first & 0x7f) | u32::from(second) << 7
            }
            _ => return None,
        };
        Some((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// Zigzag varint of at most 5 bytes.
    #[inline]
    fn varint(&mut self) -> Result<i32, BatchError> {
        match self.short_varint() {
            Some(value) => Ok(value),
            None => self.varint_slow(),
        }
    }

    fn varint_slow(&mut self) -> Result<i32, BatchError> {
        let mut value = 0u32;
        for (i, &byte) in self.0.iter().enumerate().take(5) {
            value |= u32::from(byte & 0x7f).wrapping_shl(7 * i as u32);
            if byte & 0x80 == 0 {
                self.0 = self.0.get(i + 1..).unwrap_or_default();
                return Ok((value >> 1) as i32 ^ -((value & 1) as i32));
            }
        }
        Err(BatchError::Record("varint without end"))
    }

    #[inline]
    fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, BatchError> {
        match self.varint()? {
            len if len < 0 => Ok(None),
            len => self.take(len as usize).map(Some),
        }
    }
}

/// Fuzz entry: whatever the bytes are, decoding ends without panic and within its memory bound.
pub fn fuzz_batch(bytes: &[u8]) {
    const UNFOLDED_MAX: usize = 1 << 20;
    for batch in Batches::new(bytes) {
        let Ok(batch) = batch else { break };
        let _ = batch.check_crc();
        if let Ok(section) = batch.unfold(UNFOLDED_MAX) {
            assert!(section.len() <= UNFOLDED_MAX.max(bytes.len()));
            for record in Records::new(&section, batch.header.count()) {
                let Ok(record) = record else { break };
                let _ = record.headers().count();
            }
        }
    }
    let config = crate::LogConfig::default();
    let _ = crate::validate(
        Bytes::copy_from_slice(bytes),
        &config,
        crate::Origin::Client,
        0,
        UNFOLDED_MAX,
    );
}

#[cfg(test)]
#[path = "batch_test.rs"]
mod tests;
