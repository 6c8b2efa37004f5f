//! Record batches of format v2, as a producer sends them; encoded once, then patched in place.

use anyhow::{Result, ensure};

use crate::args::Codec;
use crate::compress::compress;

/// Length of a batch before its records.
const HEADER_BYTES: usize = 61;
/// Where the CRC stands; it covers everything from `ATTRIBUTES_AT`.
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const PRODUCER_AT: usize = 43;
const SEQUENCE_AT: usize = 53;

/// A batch and what is needed to change it in place.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The encoded batch.
    pub bytes: Vec<u8>,
    /// Where the value of the first record begins.
    pub value_at: usize,
    /// How many records it holds.
    pub records: usize,
    /// Its length before compression.
    pub uncompressed: usize,
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

fn varint_of(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// What a batch holds.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many records.
    pub records: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Time of all records.
    pub timestamp_ms: i64,
    /// How they are compressed.
    pub codec: Codec,
}

/// Values are bytes in steps for the uncompressed batch, at least one of which does not repeat, so
/// that a checksum error would show; lines of JSON for a compressed one.
fn values(shape: Shape) -> impl FnMut(usize, &mut Vec<u8>) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    move |n, out| {
        if shape.codec == Codec::None {
            out.extend((0..shape.value_bytes).map(|i| (i * 31 + n * 7).to_le_bytes()[0]));
            return;
        }
        let begin = out.len();
        while out.len() - begin < shape.value_bytes {
            out.extend_from_slice(line(&mut random, shape.timestamp_ms, n).as_bytes());
        }
        out.truncate(begin + shape.value_bytes);
    }
}

/// One event of a web shop: names that repeat, numbers that do not.
fn line(random: &mut u64, timestamp_ms: i64, n: usize) -> String {
    let mut pick = |limit: u64| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random % limit
    };
    const PATHS: [&str; 4] = ["/orders", "/carts/items", "/products/search", "/login"];
    const AGENTS: [&str; 3] = [
        "Mozilla/5.0 (X11; Linux x86_64)",
        "okhttp/4.12.0",
        "curl/8.5.0",
    ];
    let path = PATHS.get(pick(4) as usize).copied().unwrap_or_default();
    let agent = AGENTS.get(pick(3) as usize).copied().unwrap_or_default();
    let status = if pick(20) == 0 { 404 } else { 200 };
    format!(
        "{{\"time\":{},\"id\":\"{:016x}\",\"user\":{},\"path\":\"{path}\",\"status\":{status},\
         \"micros\":{},\"agent\":\"{agent}\",\"session\":\"{:012x}\"}}",
        timestamp_ms + i64::try_from(n).unwrap_or(0),
        pick(u64::MAX),
        pick(1_000_000),
        pick(90_000),
        pick(1 << 48),
    )
}

/// An uncompressed batch of `records` values of `value_bytes` each.
///
/// # Errors
/// As `encode`.
pub fn batch(records: usize, value_bytes: usize, timestamp_ms: i64) -> Result<Batch> {
    let codec = Codec::None;
    encode(Shape {
        records,
        value_bytes,
        timestamp_ms,
        codec,
    })
}

/// As [`batch`], with `first_key` and those after it as keys.
///
/// # Errors
/// As `encode`.
pub fn keyed(records: usize, value_bytes: usize, first_key: u64) -> Result<Batch> {
    let shape = Shape {
        records,
        value_bytes,
        timestamp_ms: 1_700_000_000_000,
        codec: Codec::None,
    };
    build(shape, Some(first_key))
}

/// A batch of that shape, without keys and without a producer id.
///
/// # Errors
/// It is larger than the format allows, or the compressor failed.
pub fn encode(shape: Shape) -> Result<Batch> {
    build(shape, None)
}

fn build(shape: Shape, first_key: Option<u64>) -> Result<Batch> {
    let Shape {
        records,
        value_bytes,
        timestamp_ms,
        codec,
    } = shape;
    let mut bytes = vec![0; HEADER_BYTES];
    let mut value_at = 0;
    let mut value = values(shape);
    for n in 0..records {
        let mut head = vec![0]; // attributes
        varint(&mut head, 0); // timestamp delta
        varint(&mut head, varint_of(n)); // offset delta
        match first_key {
            Some(first) => {
                varint(&mut head, 8);
                head.extend_from_slice(&(first + n as u64).to_be_bytes());
            }
            None => varint(&mut head, -1),
        }
        varint(&mut head, varint_of(value_bytes));
        varint(&mut bytes, varint_of(head.len() + value_bytes + 1));
        bytes.extend_from_slice(&head);
        if n == 0 {
            value_at = bytes.len();
        }
        value(n, &mut bytes);
        bytes.push(0); // no headers
    }
    let uncompressed = bytes.len();
    if codec != Codec::None {
        let packed = compress(codec, bytes.get(HEADER_BYTES..).unwrap_or_default())?;
        bytes.truncate(HEADER_BYTES);
        bytes.extend_from_slice(&packed);
    }
    let count = i32::try_from(records)?;
    ensure!(count > 0, "a batch without records");
    let length = i32::try_from(bytes.len() - 12)?;
    put(&mut bytes, 8, &length.to_be_bytes());
    put(&mut bytes, 12, &(-1i32).to_be_bytes()); // partition leader epoch
    put(&mut bytes, 16, &[2]); // magic
    put(&mut bytes, ATTRIBUTES_AT, &(codec as i16).to_be_bytes());
    put(&mut bytes, 23, &(count - 1).to_be_bytes()); // last offset delta
    put(&mut bytes, 27, &timestamp_ms.to_be_bytes());
    put(&mut bytes, 35, &timestamp_ms.to_be_bytes());
    set_producer(&mut bytes, -1, -1, -1);
    put(&mut bytes, 57, &count.to_be_bytes());
    seal(&mut bytes);
    Ok(Batch {
        bytes,
        value_at,
        records,
        uncompressed,
    })
}

/// Sets producer id, epoch and base sequence; the checksum must be written after.
pub fn set_producer(batch: &mut [u8], id: i64, epoch: i16, sequence: i32) {
    put(batch, PRODUCER_AT, &id.to_be_bytes());
    put(batch, PRODUCER_AT + 8, &epoch.to_be_bytes());
    put(batch, SEQUENCE_AT, &sequence.to_be_bytes());
}

/// The base sequence after a batch of `records` that began at `sequence`: it goes on at 0 behind
/// the greatest number.
pub fn sequence_after(sequence: i32, records: i32) -> i32 {
    let next = i64::from(sequence) + i64::from(records);
    i32::try_from(next % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

/// Checksums of batches that differ only in their first bytes, without reading the rest again:
/// a checksum of two parts is that of the first, moved on by the length of the second, XOR that
/// of the second.
#[derive(Debug, Clone)]
pub struct Sealer {
    /// End of the part that changes.
    prefix_end: usize,
    rest_crc: u32,
    /// What each bit of the first checksum becomes after the length of the rest.
    moved: [u32; 32],
}

impl Sealer {
    /// For batches of which only bytes before `prefix_end` change.
    pub fn new(batch: &[u8], prefix_end: usize) -> Self {
        let rest = batch.get(prefix_end..).unwrap_or_default();
        let mut moved = [0; 32];
        for (bit, value) in moved.iter_mut().enumerate() {
            *value = crc32c::crc32c_combine(1 << bit, 0, rest.len());
        }
        Self {
            prefix_end,
            rest_crc: crc32c::crc32c(rest),
            moved,
        }
    }

    /// For a change of the header only.
    pub fn of_header(batch: &[u8]) -> Self {
        Self::new(batch, HEADER_BYTES)
    }

    /// Writes the checksum of a changed batch.
    pub fn seal(&self, batch: &mut [u8]) {
        let prefix = batch.get(ATTRIBUTES_AT..self.prefix_end);
        let mut first = crc32c::crc32c(prefix.unwrap_or_default());
        let mut crc = self.rest_crc;
        for value in &self.moved {
            crc ^= value * (first & 1);
            first >>= 1;
        }
        put(batch, CRC_AT, &crc.to_be_bytes());
    }
}

/// Writes the checksum of a batch that was changed.
pub fn seal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(bytes.get(ATTRIBUTES_AT..).unwrap_or_default());
    put(bytes, CRC_AT, &crc.to_be_bytes());
}

/// How many records of `value_bytes` fill a batch of about `batch_bytes`; at least one.
pub fn records_for(batch_bytes: usize, value_bytes: usize) -> usize {
    (batch_bytes.saturating_sub(HEADER_BYTES) / (value_bytes + 9)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::records::RecordBatchDecoder;

    #[test]
    fn keys_follow_each_other() {
        let mut bytes = bytes::Bytes::from(keyed(3, 10, 7).unwrap().bytes);
        let sets = RecordBatchDecoder::decode_all(&mut bytes).unwrap();
        let records = sets.into_iter().flat_map(|s| s.records);
        let keys: Vec<Vec<u8>> = records.map(|r| r.key.unwrap().to_vec()).collect();
        assert_eq!(keys, [7u64, 8, 9].map(|k| k.to_be_bytes().to_vec()));
    }

    #[test]
    fn another_decoder_reads_the_batch() {
        for (records, value) in [(1, 100), (1, 16_000), (300, 200), (1, 1)] {
            let made = batch(records, value, 1_700_000_000_000).unwrap();
            let mut bytes = bytes::Bytes::from(made.bytes.clone());
            let sets = RecordBatchDecoder::decode_all(&mut bytes).unwrap();
            let read: Vec<_> = sets.into_iter().flat_map(|s| s.records).collect();
            assert_eq!(read.len(), records);
            assert!(
                read.iter()
                    .all(|r| r.value.as_ref().unwrap().len() == value)
            );
            assert_eq!(
                read[0].value.as_ref().unwrap()[..],
                made.bytes[made.value_at..][..value]
            );
        }
    }

    #[test]
    fn sealing_after_a_change_makes_the_checksum_right_again() {
        let mut made = batch(1, 64, 5).unwrap();
        put(&mut made.bytes, made.value_at, &42u64.to_be_bytes());
        seal(&mut made.bytes);
        let mut bytes = bytes::Bytes::from(made.bytes);
        assert!(RecordBatchDecoder::decode_all(&mut bytes).is_ok());
    }
    fn decoded(bytes: &[u8]) -> Vec<kafka_protocol::records::Record> {
        let mut bytes = bytes::Bytes::copy_from_slice(bytes);
        let sets = RecordBatchDecoder::decode_all(&mut bytes).unwrap();
        sets.into_iter().flat_map(|s| s.records).collect()
    }

    #[test]
    fn a_sealer_agrees_with_the_whole_checksum() {
        for (records, value_bytes) in [(1, 100), (70, 900), (1, 9)] {
            let made = batch(records, value_bytes, 7).unwrap();
            let header = Sealer::of_header(&made.bytes);
            let mut quick = made.bytes.clone();
            set_producer(&mut quick, 4711, 3, 99);
            let mut whole = quick.clone();
            header.seal(&mut quick);
            seal(&mut whole);
            assert_eq!(quick, whole);
            let read = decoded(&quick);
            assert_eq!((read[0].producer_id, read[0].producer_epoch), (4711, 3));
            assert_eq!(read[0].sequence, 99);

            let stamped = Sealer::new(&made.bytes, made.value_at + 8);
            put(
                &mut quick,
                made.value_at,
                &0x0123_4567_89ab_cdef_u64.to_be_bytes(),
            );
            let mut whole = quick.clone();
            stamped.seal(&mut quick);
            seal(&mut whole);
            assert_eq!(quick, whole);
        }
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(sequence_after(0, 1), 1);
        assert_eq!(sequence_after(i32::MAX - 2, 2), i32::MAX);
        assert_eq!(sequence_after(i32::MAX - 1, 2), 0);
        assert_eq!(sequence_after(i32::MAX, 3), 2);
    }
}
