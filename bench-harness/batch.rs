//! Record batches of format v2, as a producer sends them: uncompressed, without a producer id.

/// Length of a batch before its records.
const HEADER_BYTES: usize = 61;
/// Where the CRC stands; it covers everything from `ATTRIBUTES_AT`.
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;

/// A batch and what is needed to change it in place.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The encoded batch.
    pub bytes: Vec<u8>,
    /// Where the value of the first record begins.
    pub value_at: usize,
    /// How many records it holds.
    pub records: usize,
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

/// A batch of `records` values of `value_bytes` each, at least one byte that does not repeat, so
/// that a checksum error would show. `timestamp_ms` is the time of all records.
pub fn batch(records: usize, value_bytes: usize, timestamp_ms: i64) -> Batch {
    let mut bytes = vec![0; HEADER_BYTES];
    let mut value_at = 0;
    for n in 0..records {
        let mut head = vec![0]; // attributes
        varint(&mut head, 0); // timestamp delta
        varint(&mut head, varint_of(n)); // offset delta
        varint(&mut head, -1); // no key
        varint(&mut head, varint_of(value_bytes));
        varint(&mut bytes, varint_of(head.len() + value_bytes + 1));
        bytes.extend_from_slice(&head);
        if n == 0 {
            value_at = bytes.len();
        }
        bytes.extend((0..value_bytes).map(|i| (i * 31 + n * 7).to_le_bytes()[0]));
        bytes.push(0); // no headers
    }
    let count = i32::try_from(records).unwrap_or(i32::MAX);
    let length = i32::try_from(bytes.len() - 12).unwrap_or(i32::MAX);
    put(&mut bytes, 8, &length.to_be_bytes());
    put(&mut bytes, 12, &(-1i32).to_be_bytes()); // partition leader epoch
    put(&mut bytes, 16, &[2]); // magic
    put(&mut bytes, 23, &(count - 1).to_be_bytes()); // last offset delta
    put(&mut bytes, 27, &timestamp_ms.to_be_bytes());
    put(&mut bytes, 35, &timestamp_ms.to_be_bytes());
    put(&mut bytes, 43, &(-1i64).to_be_bytes()); // producer id
    put(&mut bytes, 51, &(-1i16).to_be_bytes());
    put(&mut bytes, 53, &(-1i32).to_be_bytes());
    put(&mut bytes, 57, &count.to_be_bytes());
    seal(&mut bytes);
    Batch {
        bytes,
        value_at,
        records,
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
    fn another_decoder_reads_the_batch() {
        for (records, value) in [(1, 100), (1, 16_000), (300, 200), (1, 1)] {
            let made = batch(records, value, 1_700_000_000_000);
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
        let mut made = batch(1, 64, 5);
        put(&mut made.bytes, made.value_at, &42u64.to_be_bytes());
        seal(&mut made.bytes);
        let mut bytes = bytes::Bytes::from(made.bytes);
        assert!(RecordBatchDecoder::decode_all(&mut bytes).is_ok());
    }
}
