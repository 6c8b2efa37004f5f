//! Building and restamping record batches.

use crate::batch::{
    ATTR_CONTROL, ATTR_LOG_APPEND_TIME, ATTR_TRANSACTIONAL, BatchHeader, CRC_START, HEADER_LEN,
    LOG_OVERHEAD, MAGIC, Record,
};
use crate::codec::{self, CodecError, Compression};
use crate::config::TimestampType;
use crate::crc;
use bytes::{BufMut, Bytes, BytesMut};

fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut v = ((value << 1) ^ (value >> 63)) as u64;
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// Adds a record as it stands in a records section; `scratch` is memory to work with.
pub(crate) fn put_record(section: &mut Vec<u8>, scratch: &mut Vec<u8>, record: &Record<'_>) {
    scratch.clear();
    scratch.push(record.attributes as u8);
    put_varlong(scratch, record.timestamp_delta);
    put_varlong(scratch, i64::from(record.offset_delta));
    put_nullable(scratch, record.key);
    put_nullable(scratch, record.value);
    scratch.extend_from_slice(record.headers);
    put_varlong(section, scratch.len() as i64);
    section.extend_from_slice(scratch);
}

/// Builds one batch: for internal topics, and for batches that must be rewritten.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    records: Vec<u8>,
    scratch: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    base_offset: i64,
    leader_epoch: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    attributes: i16,
    append_time_ms: Option<i64>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch with base offset 0 and no producer.
    pub fn new() -> Self {
        Self {
            records: Vec::new(),
            scratch: Vec::new(),
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            base_offset: 0,
            leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            attributes: 0,
            append_time_ms: None,
        }
    }

    /// Sets the offset of the first record.
    pub fn base_offset(mut self, offset: i64) -> Self {
        self.base_offset = offset;
        self
    }

    /// Sets the leader epoch.
    pub fn leader_epoch(mut self, epoch: i32) -> Self {
        self.leader_epoch = epoch;
        self
    }

    /// Sets the producer's id, epoch and the sequence of the first record.
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch) = (id, epoch);
        self.base_sequence = base_sequence;
        self
    }

    /// Marks the batch as part of a transaction.
    pub fn transactional(mut self, yes: bool) -> Self {
        self.attributes = with_bit(self.attributes, ATTR_TRANSACTIONAL, yes);
        self
    }

    /// Marks the batch as a control batch.
    pub fn control(mut self, yes: bool) -> Self {
        self.attributes = with_bit(self.attributes, ATTR_CONTROL, yes);
        self
    }

    /// Makes the batch LogAppendTime, stamped with this.
    pub fn append_time_ms(mut self, now_ms: i64) -> Self {
        self.append_time_ms = Some(now_ms);
        self
    }

    /// Adds a record without headers.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_encoded(timestamp, key, value, &[0]);
    }

    /// Adds a record with headers.
    pub fn push_with_headers(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        let mut encoded = Vec::new();
        put_varlong(&mut encoded, headers.len() as i64);
        for (name, value) in headers {
            put_nullable(&mut encoded, Some(name.as_bytes()));
            put_nullable(&mut encoded, *value);
        }
        self.push_encoded(timestamp, key, value, &encoded);
    }

    /// Adds a record whose headers are encoded already ([`Record::headers`]).
    pub fn push_encoded(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[u8],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let body = &mut self.scratch;
        body.clear();
        body.push(0);
        put_varlong(body, timestamp.wrapping_sub(self.base_timestamp));
        put_varlong(body, i64::from(self.count));
        put_nullable(body, key);
        put_nullable(body, value);
        body.extend_from_slice(headers);
        put_varlong(&mut self.records, body.len() as i64);
        self.records.extend_from_slice(body);
        self.count += 1;
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Bytes of the batch so far, uncompressed.
    pub fn size(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// The batch, uncompressed. `None` when it has no records.
    pub fn build(self) -> Option<Bytes> {
        if self.count == 0 {
            return None;
        }
        Some(self.finish(Compression::None, None))
    }

    /// The batch, compressed at this level.
    pub fn build_compressed(self, codec: Compression, level: i32) -> Result<Bytes, CodecError> {
        let section = codec::compress(codec, &self.records, level)?;
        Ok(self.finish(codec, Some(section)))
    }

    fn finish(self, codec: Compression, compressed: Option<Vec<u8>>) -> Bytes {
        let section = compressed.as_deref().unwrap_or(&self.records);
        let mut attributes = self.attributes | codec as i16;
        let mut max_timestamp = self.max_timestamp;
        if let Some(now_ms) = self.append_time_ms {
            attributes |= ATTR_LOG_APPEND_TIME;
            max_timestamp = now_ms;
        }
        let mut out = BytesMut::with_capacity(HEADER_LEN + section.len());
        out.put_i64(self.base_offset);
        out.put_i32((HEADER_LEN - LOG_OVERHEAD + section.len()) as i32);
        out.put_i32(self.leader_epoch);
        out.put_i8(MAGIC);
        out.put_u32(0);
        out.put_i16(attributes);
        out.put_i32(self.count - 1);
        out.put_i64(self.base_timestamp);
        out.put_i64(max_timestamp);
        out.put_i64(self.producer_id);
        out.put_i16(self.producer_epoch);
        out.put_i32(self.base_sequence);
        out.put_i32(self.count);
        out.put_slice(section);
        let crc = crc::crc32c(&out[CRC_START..]);
        out[17..21].copy_from_slice(&crc.to_be_bytes());
        out.freeze()
    }
}

fn with_bit(attributes: i16, bit: i16, on: bool) -> i16 {
    if on {
        attributes | bit
    } else {
        attributes & !bit
    }
}

/// Sets timestamp type and max timestamp in a copied header and redoes the CRC over it and the
/// records.
pub(crate) fn restamp(
    header: &mut [u8; HEADER_LEN],
    records: &[u8],
    kind: TimestampType,
    max_timestamp: i64,
) {
    let attributes = BatchHeader::from_array(header).attributes();
    let on = kind == TimestampType::LogAppendTime;
    let attributes = with_bit(attributes, ATTR_LOG_APPEND_TIME, on);
    header[21..23].copy_from_slice(&attributes.to_be_bytes());
    header[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    let crc = crc::crc32c_of_two(&header[CRC_START..], records);
    header[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Sets base offset and leader epoch, which the CRC does not cover.
pub(crate) fn set_position(header: &mut [u8; HEADER_LEN], base_offset: i64, leader_epoch: i32) {
    header[0..8].copy_from_slice(&base_offset.to_be_bytes());
    header[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}
