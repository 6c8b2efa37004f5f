use super::*;
use flumen_base::limits::DECOMPRESSED_BATCH_BYTES_MAX as MAX;

const NOW: i64 = 1_000_000;

fn batch(codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new();
    builder.push(NOW, Some(b"a"), Some(b"1"));
    builder.push(NOW - 5, Some(b"b"), Some(b"2"));
    builder.build_compressed(codec, 1).unwrap()
}

fn code(bytes: Bytes, config: &LogConfig) -> ErrorCode {
    match validate(bytes, config, Origin::Client, NOW, MAX) {
        Ok(_) => ErrorCode::None,
        Err(error) => error.code,
    }
}

/// Changes bytes of a good batch and redoes its CRC.
fn changed(at: usize, bytes: &[u8]) -> Bytes {
    let mut all = batch(Compression::None).to_vec();
    all[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&all[crate::batch::CRC_START..]);
    all[17..21].copy_from_slice(&crc.to_be_bytes());
    all.into()
}

#[test]
fn a_good_batch_keeps_its_bytes() {
    let config = LogConfig::default();
    for codec in 0..5 {
        let bytes = batch(Compression::from_id(codec).unwrap());
        let valid = validate(bytes.clone(), &config, Origin::Client, NOW, MAX).unwrap();
        assert_eq!(valid.header[..], bytes[..HEADER_LEN]);
        assert_eq!(valid.records, bytes.slice(HEADER_LEN..));
        assert_eq!(
            valid.records.as_ptr(),
            bytes[HEADER_LEN..].as_ptr(),
            "not copied"
        );
        assert_eq!(valid.log_append_time_ms, -1);
    }
}

#[test]
fn each_defect_has_its_code() {
    let config = LogConfig::default();
    let good = batch(Compression::None);
    assert_eq!(code(Bytes::new(), &config), ErrorCode::InvalidRecord);
    assert_eq!(
        code(good.slice(..good.len() - 1), &config),
        ErrorCode::InvalidRecord
    );
    let two = [&good[..], &good[..]].concat();
    assert_eq!(code(two.into(), &config), ErrorCode::InvalidRecord);
    let mut torn = good.to_vec();
    *torn.last_mut().unwrap() ^= 1;
    assert_eq!(code(torn.into(), &config), ErrorCode::CorruptMessage);
    let invalid = [
        (0, &1i64.to_be_bytes()[..]), // base offset
        (21, &0x20i16.to_be_bytes()), // control
        (21, &7i16.to_be_bytes()),    // codec
        (23, &2i32.to_be_bytes()),    // last offset delta
        (43, &5i64.to_be_bytes()),    // producer id without sequence
        (57, &3i32.to_be_bytes()),    // count
    ];
    // Kafka finds an older batch's checksum wrong before it looks at its magic.
    assert_eq!(code(changed(16, &[1]), &config), ErrorCode::CorruptMessage);
    for (at, bytes) in invalid {
        assert_eq!(
            code(changed(at, bytes), &config),
            ErrorCode::InvalidRecord,
            "at {at}"
        );
    }
    let small = LogConfig {
        max_message_bytes: good.len() as u32 - 1,
        ..LogConfig::default()
    };
    assert_eq!(code(good, &small), ErrorCode::MessageTooLarge);
}

#[test]
fn record_errors_name_the_records() {
    let compacted = LogConfig {
        cleanup_policy: crate::CleanupPolicy {
            delete: false,
            compact: true,
        },
        ..LogConfig::default()
    };
    let mut builder = BatchBuilder::new();
    builder.push(NOW, Some(b"a"), None);
    builder.push(NOW, None, Some(b"x"));
    let bytes = builder.build().unwrap();
    let error = validate(bytes, &compacted, Origin::Client, NOW, MAX).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRecord);
    assert_eq!(error.record_errors.len(), 1);
    assert_eq!(error.record_errors[0].batch_index, 1);

    let strict = LogConfig {
        message_timestamp_before_max_ms: 4,
        ..LogConfig::default()
    };
    let error = validate(batch(Compression::Gzip), &strict, Origin::Client, NOW, MAX).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidTimestamp);
    assert_eq!(error.record_errors[0].batch_index, 1);
}

#[test]
fn append_time_is_stamped_and_the_crc_redone() {
    let config = LogConfig {
        message_timestamp_type: TimestampType::LogAppendTime,
        ..LogConfig::default()
    };
    let valid = validate(
        batch(Compression::Lz4),
        &config,
        Origin::Client,
        NOW + 9,
        MAX,
    )
    .unwrap();
    assert_eq!(valid.log_append_time_ms, NOW + 9);
    let whole = [&valid.header[..], &valid.records[..]].concat();
    let stored = Batch::parse(&whole).unwrap();
    stored.check_crc().unwrap();
    assert_eq!(stored.header.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!(stored.header.max_timestamp(), NOW + 9);
    let whole = Bytes::from(whole);
    assert_eq!(
        code(whole, &config),
        ErrorCode::InvalidTimestamp,
        "clients may not stamp"
    );
}

#[test]
fn a_wrong_max_timestamp_is_corrected() {
    let bytes = changed(35, &(NOW + 77).to_be_bytes());
    let valid = validate(bytes, &LogConfig::default(), Origin::Client, NOW, MAX).unwrap();
    assert_eq!(valid.header().max_timestamp(), NOW);
    let whole = [&valid.header[..], &valid.records[..]].concat();
    Batch::parse(&whole).unwrap().check_crc().unwrap();
}

#[test]
fn compression_type_recompresses() {
    for target in [
        TargetCompression::Uncompressed,
        TargetCompression::Gzip(-1),
        TargetCompression::Snappy,
        TargetCompression::Lz4(9),
        TargetCompression::Zstd(3),
    ] {
        let config = LogConfig {
            compression: target,
            ..LogConfig::default()
        };
        for source in 0..5 {
            let bytes = batch(Compression::from_id(source).unwrap());
            let valid = validate(bytes, &config, Origin::Client, NOW, MAX).unwrap();
            let whole = [&valid.header[..], &valid.records[..]].concat();
            let stored = Batch::parse(&whole).unwrap();
            stored.check_crc().unwrap();
            assert_eq!(
                stored.header.compression(),
                Ok(target_codec(target, Compression::None).0)
            );
            let section = stored.unfold(MAX).unwrap();
            assert_eq!(Records::new(&section, 2).filter(|r| r.is_ok()).count(), 2);
        }
    }
}

#[test]
fn a_bomb_is_over_budget() {
    let mut builder = BatchBuilder::new();
    builder.push(NOW, None, Some(&vec![0; 1 << 20]));
    let bytes = builder.build_compressed(Compression::Zstd, 3).unwrap();
    let config = LogConfig::default();
    assert!(cost_estimate(&bytes, &config) > 0);
    let error = validate(bytes.clone(), &config, Origin::Client, NOW, 1 << 16).unwrap_err();
    assert!(error.over_budget);
    assert!(validate(bytes, &config, Origin::Client, NOW, MAX).is_ok());
}

#[test]
fn zstd_needs_produce_7() {
    let bytes = batch(Compression::Zstd);
    let error = check_produce_version(&bytes, 6).unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedCompressionType);
    assert!(check_produce_version(&bytes, 7).is_ok());
}

/// The quick look at a timestamp never takes what the rule refuses.
#[test]
fn timestamps_that_are_surely_fine_are_fine() {
    let mut prng = flumen_base::Prng::new(1);
    let edges = [i64::MIN, -2, -1, 0, 1, 1000, 1_700_000_000_000, i64::MAX];
    let mut pick = || {
        let edge = edges[prng.below(edges.len() as u64) as usize];
        edge.wrapping_add(prng.below(5) as i64 - 2)
    };
    let mut taken = 0;
    for round in 0..200_000 {
        let kinds = [TimestampType::CreateTime, TimestampType::LogAppendTime];
        let config = LogConfig {
            message_timestamp_type: kinds[round & 1],
            message_timestamp_before_max_ms: pick(),
            message_timestamp_after_max_ms: pick(),
            ..LogConfig::default()
        };
        let mut header = [0; HEADER_LEN];
        header[22] = (round as u8 & 2) << 2; // the batch's own timestamp type
        let header = BatchHeader::from_array(&header);
        let (now_ms, timestamp) = (pick(), pick());
        let record = Record {
            attributes: 0,
            offset_delta: 0,
            timestamp_delta: 0,
            key: None,
            value: None,
            headers: &[],
        };
        if TimestampRange::of(&header, &config, now_ms).covers(timestamp) {
            taken += 1;
            let refused = refuse(&header, &record, timestamp, &config, now_ms);
            assert_eq!(
                refused, None,
                "{config:?} now {now_ms} timestamp {timestamp}"
            );
        }
    }
    assert!(taken > 20_000, "{taken}");
}
