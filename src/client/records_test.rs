//! Tests of the record batch encoder and decoder.

use crate::{BatchOptions, Codec, Record, decode_batches, encode_batch};
use proptest::prelude::*;

const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];

fn rounds() -> u32 {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    64 * factor.and_then(|f| f.parse().ok()).unwrap_or(1)
}

fn with(codec: Codec) -> BatchOptions {
    BatchOptions {
        codec,
        ..BatchOptions::default()
    }
}

/// What the Java client 4.3.1 writes for key "k", value "v", timestamp 1, headers h=1, h=2, h=null.
#[test]
fn a_batch_has_the_bytes_of_kafkas_own_client() {
    let record = Record {
        timestamp: Some(1),
        key: Some(b"k".to_vec()),
        value: Some(b"v".to_vec()),
        headers: vec![
            ("h".to_owned(), Some(b"1".to_vec())),
            ("h".to_owned(), Some(b"2".to_vec())),
            ("h".to_owned(), None),
        ],
        ..Record::default()
    };
    let batch = encode_batch(&[record], &BatchOptions::default()).unwrap();
    let hex: String = batch.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, JAVA);
}

const JAVA: &str = "000000000000000000000045ffffffff02a0abb1fc000000000000000000000000000100\
    00000000000001ffffffffffffffffffffffffffff0000000126000000026b0276060268\
    023102680232026801";

#[test]
fn a_changed_byte_is_seen_and_a_cut_batch_is_left_out() {
    let records = [Record::new(None, Some(vec![7; 100]))];
    let batch = encode_batch(&records, &BatchOptions::default()).unwrap();
    let mut two = batch.clone();
    two.extend(&batch[..batch.len() - 1]);
    assert_eq!(decode_batches(&two).unwrap().len(), 1);
    for at in 16..batch.len() {
        let mut bad = batch.clone();
        bad[at] ^= 1;
        assert!(decode_batches(&bad).is_err(), "byte {at}");
    }
}

#[test]
fn raw_snappy_blocks_of_other_clients_are_read() {
    let packed = snap::raw::Encoder::new().compress_vec(b"hello").unwrap();
    assert_eq!(Codec::Snappy.decompress(&packed).unwrap(), b"hello");
}

fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..200))
}

fn record() -> impl Strategy<Value = Record> {
    let headers = prop::collection::vec(("[a-c]{0,3}", bytes()), 0..5);
    (any::<i32>(), bytes(), bytes(), headers).prop_map(|(stamp, key, value, headers)| Record {
        offset: 0,
        timestamp: Some(i64::from(stamp)),
        key,
        value,
        headers,
        control: false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds()))]

    #[test]
    fn batches_come_back(
        mut records in prop::collection::vec(record(), 1..20),
        codec in 0usize..5,
    ) {
        for (i, record) in records.iter_mut().enumerate() {
            record.offset = i as i64;
        }
        let batch = encode_batch(&records, &with(CODECS[codec])).unwrap();
        prop_assert_eq!(decode_batches(&batch).unwrap(), records);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_batches(&bytes);
    }

    #[test]
    fn no_body_behind_a_good_checksum_panics(
        body in prop::collection::vec(any::<u8>(), 0..100),
        attributes in 0u8..8,
        count in any::<i32>(),
    ) {
        let records = [Record::new(None, Some(body))];
        let mut batch = encode_batch(&records, &BatchOptions::default()).unwrap();
        batch[22] = attributes;
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let _ = decode_batches(&batch);
    }
}
