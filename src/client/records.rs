//! Record batches, magic 2 (Kafka's message format): encoding and decoding. Headers keep their
//! order and duplicates.

use crate::{ClientError, Codec};

/// Base offset and batch length, which stand before the bytes that the length counts.
const PREFIX_BYTES: usize = 12;
/// From the base offset to the record count.
const HEADER_BYTES: usize = 61;
/// Where the checksum starts to count: at the attributes.
const CRC_START: usize = 21;
const CONTROL: i16 = 1 << 5;
const TRANSACTIONAL: i16 = 1 << 4;
const LOG_APPEND_TIME: i16 = 1 << 3;

/// One record. When it is sent only `timestamp`, `key`, `value` and `headers` count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since the epoch; of a record to be sent `None` means the moment of encoding is
    /// not known, and 0 is
    /// written.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// In order, names may repeat.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Whether it is a transaction marker.
    pub control: bool,
}

impl Record {
    /// A record without headers.
    pub fn new(key: Option<Vec<u8>>, value: Option<Vec<u8>>) -> Self {
        Self {
            key,
            value,
            ..Self::default()
        }
    }
}

/// The header of a batch to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// The codec.
    pub codec: Codec,
    /// -1: not idempotent.
    pub producer_id: i64,
    /// -1: not idempotent.
    pub producer_epoch: i16,
    /// Of the first record; -1: not idempotent.
    pub base_sequence: i32,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            codec: Codec::None,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            transactional: false,
        }
    }
}

/// Encodes records as one batch with base offset 0. Fails only if the codec does.
pub fn encode_batch(records: &[Record], options: &BatchOptions) -> std::io::Result<Vec<u8>> {
    let stamp = |r: &Record| r.timestamp.unwrap_or(0);
    let base_timestamp = records.first().map_or(0, stamp);
    let max_timestamp = records.iter().map(stamp).max().unwrap_or(0);
    let mut body = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let delta = stamp(record).wrapping_sub(base_timestamp);
        encode_record(&mut body, record, index as i64, delta);
    }
    let body = options.codec.compress(body)?;
    let transactional = if options.transactional {
        TRANSACTIONAL
    } else {
        0
    };
    let attributes = i16::from(options.codec as u8) | transactional;
    let mut batch = Vec::with_capacity(HEADER_BYTES + body.len());
    batch.extend(0i64.to_be_bytes());
    batch.extend(((HEADER_BYTES - PREFIX_BYTES + body.len()) as i32).to_be_bytes());
    batch.extend((-1i32).to_be_bytes()); // leader epoch: the broker's to fill in
    batch.push(2);
    batch.extend([0; 4]); // checksum, below
    batch.extend(attributes.to_be_bytes());
    batch.extend((records.len() as i32 - 1).to_be_bytes());
    batch.extend(base_timestamp.to_be_bytes());
    batch.extend(max_timestamp.to_be_bytes());
    batch.extend(options.producer_id.to_be_bytes());
    batch.extend(options.producer_epoch.to_be_bytes());
    batch.extend(options.base_sequence.to_be_bytes());
    batch.extend((records.len() as i32).to_be_bytes());
    batch.extend(body);
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
    Ok(batch)
}

fn encode_record(out: &mut Vec<u8>, record: &Record, offset_delta: i64, timestamp_delta: i64) {
    let mut body = vec![0]; // attributes
    put_varint(&mut body, timestamp_delta);
    put_varint(&mut body, offset_delta);
    put_bytes(&mut body, record.key.as_deref());
    put_bytes(&mut body, record.value.as_deref());
    put_varint(&mut body, record.headers.len() as i64);
    for (name, value) in &record.headers {
        put_bytes(&mut body, Some(name.as_bytes()));
        put_bytes(&mut body, value.as_deref());
    }
    put_varint(out, body.len() as i64);
    out.extend(body);
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend(bytes);
        }
        None => put_varint(out, -1),
    }
}

/// Zigzag, then seven bits a byte.
fn put_varint(out: &mut Vec<u8>, n: i64) {
    let mut zigzag = ((n << 1) ^ (n >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// Bytes being taken apart; every read is checked.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], ClientError> {
        let (head, tail) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| ClientError::Malformed("a record batch ends early".to_owned()))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ClientError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn i16(&mut self) -> Result<i16, ClientError> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, ClientError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, ClientError> {
        self.array().map(i64::from_be_bytes)
    }

    fn varint(&mut self) -> Result<i64, ClientError> {
        let mut zigzag = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            zigzag |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err(ClientError::Malformed("a varint too long".to_owned()))
    }

    fn bytes(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match usize::try_from(self.varint()?) {
            Ok(len) => self.take(len).map(|b| Some(b.to_vec())),
            Err(_) => Ok(None),
        }
    }
}

/// Decodes a fetch's records. A batch that is cut off at the end (brokers may do that) is left out;
/// a wrong checksum is an
/// error.
pub fn decode_batches(mut bytes: &[u8]) -> Result<Vec<Record>, ClientError> {
    let mut records = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let length = bytes
            .get(8..12)
            .map_or(0, |b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let size = usize::try_from(length)
            .unwrap_or(0)
            .saturating_add(PREFIX_BYTES);
        if size < HEADER_BYTES {
            return Err(ClientError::Malformed(format!(
                "a record batch of {length} bytes"
            )));
        }
        let Some(batch) = bytes.get(..size) else {
            break;
        };
        decode_batch(batch, &mut records)?;
        bytes = &bytes[size..];
    }
    Ok(records)
}

fn decode_batch(batch: &[u8], records: &mut Vec<Record>) -> Result<(), ClientError> {
    let mut header = Cursor(batch);
    let base_offset = header.i64()?;
    let (_length, _epoch) = (header.i32()?, header.i32()?);
    let magic = header.take(1)?[0];
    if magic != 2 {
        return Err(ClientError::Unsupported(format!("record format {magic}")));
    }
    let crc = header.i32()? as u32;
    if crc != crc32c::crc32c(header.0) {
        return Err(ClientError::Malformed(format!(
            "the batch at offset {base_offset} has a wrong checksum"
        )));
    }
    let attributes = header.i16()?;
    let _last_offset_delta = header.i32()?;
    let (base_timestamp, max_timestamp) = (header.i64()?, header.i64()?);
    let _producer = (header.i64()?, header.i16()?, header.i32()?);
    let count = header.i32()?;
    let codec = Codec::from_attributes(attributes)
        .ok_or_else(|| ClientError::Malformed("an unknown codec".to_owned()))?;
    let unfolded = codec.decompress(header.0)?;
    let mut body = Cursor(&unfolded);
    for _ in 0..count {
        let mut record = decode_record(&mut body, base_offset, base_timestamp)?;
        record.control = attributes & CONTROL != 0;
        if attributes & LOG_APPEND_TIME != 0 {
            record.timestamp = Some(max_timestamp);
        }
        records.push(record);
    }
    Ok(())
}

fn decode_record(
    body: &mut Cursor<'_>,
    base_offset: i64,
    base_timestamp: i64,
) -> Result<Record, ClientError> {
    let length = usize::try_from(body.varint()?)
        .map_err(|_| ClientError::Malformed("a record of negative length".to_owned()))?;
    let mut fields = Cursor(body.take(length)?);
    let _attributes = fields.take(1)?;
    let timestamp = base_timestamp.wrapping_add(fields.varint()?);
    let offset = base_offset.wrapping_add(fields.varint()?);
    let (key, value) = (fields.bytes()?, fields.bytes()?);
    let mut headers = Vec::new();
    for _ in 0..fields.varint()? {
        let name = fields.bytes()?.unwrap_or_default();
        headers.push((String::from_utf8_lossy(&name).into_owned(), fields.bytes()?));
    }
    Ok(Record {
        offset,
        timestamp: Some(timestamp),
        key,
        value,
        headers,
        control: false,
    })
}
