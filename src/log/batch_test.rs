use super::*;
use crate::{LogConfig, Origin, validate};
use proptest::prelude::*;

fn sample() -> BatchBuilder {
    let mut builder = BatchBuilder::new().producer(7, 1, 3);
    builder.push(1000, Some(b"k"), Some(b"v"));
    builder.push_with_headers(999, None, Some(b"w"), &[("h", Some(b"x")), ("n", None)]);
    builder.push(1002, Some(b"z"), None);
    builder
}

#[test]
fn a_built_batch_reads_back() {
    let bytes = sample().base_offset(40).leader_epoch(2).build().unwrap();
    let batch = Batch::parse(&bytes).unwrap();
    batch.check_crc().unwrap();
    let header = batch.header;
    assert_eq!((header.base_offset(), header.last_offset()), (40, 42));
    assert_eq!(
        (header.base_timestamp(), header.max_timestamp()),
        (1000, 1002)
    );
    assert_eq!((header.producer_id(), header.producer_epoch()), (7, 1));
    assert_eq!((header.base_sequence(), header.last_sequence()), (3, 5));
    assert_eq!((header.leader_epoch(), header.count()), (2, 3));
    let section = batch.unfold(100).unwrap();
    let records: Vec<_> = Records::new(&section, 3).collect::<Result<_, _>>().unwrap();
    assert_eq!(records[0].key, Some(&b"k"[..]));
    assert_eq!(records[1].timestamp_delta, -1);
    let headers: Vec<_> = records[1].headers().collect();
    assert_eq!(headers, [(&b"h"[..], Some(&b"x"[..])), (&b"n"[..], None)]);
    assert_eq!((records[2].offset_delta, records[2].value), (2, None));
}

#[test]
fn the_record_count_must_match_the_bytes() {
    let bytes = sample().build().unwrap();
    let section = &bytes[HEADER_LEN..];
    assert!(Records::new(section, 2).any(|r| r.is_err()));
    assert!(Records::new(section, 4).any(|r| r.is_err()));
    assert!(Records::new(section, -1).any(|r| r.is_err()));
}

#[test]
fn all_codecs_round_trip() {
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        for size in [0, 1, 100, 40_000, 200_000] {
            let input: Vec<u8> = (0..size).map(|i: u32| (i / 7 % 251) as u8).collect();
            let folded = codec::compress(codec, &input, 1).unwrap();
            let unfolded = codec::decompress(codec, &folded, size as usize);
            assert_eq!(unfolded.as_deref(), Ok(&input[..]), "{codec:?} {size}");
            if size > 0 {
                let max = size as usize - 1;
                let error = codec::decompress(codec, &folded, max);
                assert_eq!(error, Err(CodecError::TooLarge(max)), "{codec:?} {size}");
            }
        }
    }
}

#[test]
fn raw_snappy_is_read_too() {
    let raw = snap::raw::Encoder::new()
        .compress_vec(b"hello hello hello")
        .unwrap();
    let unfolded = codec::decompress(Compression::Snappy, &raw, 100).unwrap();
    assert_eq!(unfolded, b"hello hello hello");
}

#[test]
fn sequences_wrap() {
    assert_eq!(sequence_add(i32::MAX, 1), 0);
    assert_eq!(sequence_add(i32::MAX - 1, 3), 1);
    assert_eq!(sequence_sub(0, 1), i32::MAX);
    assert_eq!(sequence_sub(1, 3), i32::MAX - 1);
}

pub(crate) fn cases(base: u32) -> ProptestConfig {
    let rounds = std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok());
    ProptestConfig::with_cases(base * rounds.unwrap_or(1))
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_batch(&bytes);
    }

    #[test]
    fn mutated_batches_never_panic(
        codec in 0u8..5,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        fix_crc: bool,
    ) {
        let codec = Compression::from_id(codec).unwrap();
        let mut bytes = sample().build_compressed(codec, 1).unwrap().to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if fix_crc {
            let crc = crc32c::crc32c(&bytes[CRC_START..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        fuzz_batch(&bytes);
        fuzz_batch(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn records_survive_the_round_trip(
        records in proptest::collection::vec(
            (0..1i64 << 50, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
             proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))), 1..20),
        codec in 0u8..5,
    ) {
        let codec = Compression::from_id(codec).unwrap();
        let mut builder = BatchBuilder::new();
        for (time, key, value) in &records {
            builder.push(*time, key.as_deref(), value.as_deref());
        }
        let bytes = builder.build_compressed(codec, 1).unwrap();
        let batch = Batch::parse(&bytes).unwrap();
        prop_assert!(batch.check_crc().is_ok());
        let section = batch.unfold(1 << 20).unwrap();
        let base = batch.header.base_timestamp();
        for ((time, key, value), read) in
            records.iter().zip(Records::new(&section, batch.header.count()))
        {
            let read = read.unwrap();
            prop_assert_eq!(base + read.timestamp_delta, *time);
            prop_assert_eq!(read.key, key.as_deref());
            prop_assert_eq!(read.value, value.as_deref());
        }
        let config = LogConfig { message_timestamp_after_max_ms: i64::MAX, ..LogConfig::default() };
        prop_assert!(validate(bytes, &config, Origin::Client, 0, 1 << 20).is_ok());
    }
}
