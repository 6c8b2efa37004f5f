//! Every message in every version: what is encoded comes back.
#![allow(clippy::unwrap_used)] // a test may

use flumen_wire::messages::{FetchRequest, JoinGroupRequest, OffsetFetchResponse};
use flumen_wire::testing::{CODECS, Gen, encode};
use flumen_wire::{DecodeError, EncodeError, Message};

/// `FLUMEN_TEST_ROUNDS` multiplies the number of rounds.
fn rounds(n: u64) -> u64 {
    n * std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(1)
}

#[test]
fn every_message_in_every_version_comes_back() {
    for (i, codec) in CODECS.iter().enumerate() {
        for version in codec.versions.0..=codec.versions.1 {
            for round in 0..rounds(16) {
                let seed = round << 32 | (i as u64) << 16 | version as u64;
                (codec.round_trip)(&mut Gen::new(seed), version)
                    .unwrap_or_else(|e| panic!("{} v{version} seed {seed}: {e}", codec.name));
            }
        }
    }
}

#[test]
fn what_is_decoded_is_written_the_same() {
    for (i, codec) in CODECS.iter().enumerate() {
        for version in codec.versions.0..=codec.versions.1 {
            for round in 0..rounds(8) {
                let seed = round << 32 | (i as u64) << 16 | version as u64;
                let bytes = (codec.random)(&mut Gen::new(seed), version).unwrap();
                let again = (codec.reencode)(&bytes, version);
                assert_eq!(again, Ok(bytes), "{} v{version} seed {seed}", codec.name);
            }
        }
    }
}

#[test]
fn tables_are_complete() {
    let of = |kind| CODECS.iter().filter(|c| c.kind == kind).count();
    assert_eq!((of("request"), of("response")), (77, 77));
    assert_eq!(flumen_wire::ApiKey::ALL.len(), 77);
    assert_eq!((of("coordinator-key"), of("coordinator-value")), (25, 25));
    assert_eq!(of("metadata"), 26);
    for key in flumen_wire::ApiKey::ALL {
        assert_eq!(flumen_wire::ApiKey::from_i16(key.code()), Some(*key));
        let info = key.info();
        for kind in ["request", "response"] {
            let codec = flumen_wire::testing::codec_of(kind, key.code()).unwrap();
            assert_eq!(codec.versions, (info.min, info.max), "{key}");
        }
    }
    // The last one is unstable in 4.3.1: known here, served only where that was asked for.
    assert_eq!(flumen_wire::ApiKey::InitProducerId.info().max, 6);
}

#[test]
fn a_field_that_a_version_lacks_is_refused_unless_it_may_get_lost() {
    let mut request = FetchRequest {
        replica_id: 3,
        ..Default::default()
    };
    assert_eq!(
        encode(&request, 15),
        Err(EncodeError::NotInVersion {
            field: "ReplicaId",
            version: 15
        })
    );
    request.replica_id = -1;
    request.session_epoch = 7; // ignorable
    assert!(encode(&request, 4).is_ok());
    assert_eq!(
        encode(&request, 99),
        Err(EncodeError::Version {
            name: "FetchRequest",
            version: 99
        })
    );
}

#[test]
fn null_only_where_the_version_has_it() {
    // Groups came with 8, flexible with 6; a null protocol type is allowed nowhere.
    assert_eq!(
        JoinGroupRequest::decode_exact(&[0, 0], 0),
        Err(DecodeError::Truncated)
    );
    assert_eq!(
        JoinGroupRequest::decode_exact(&[0xff, 0xff], 0),
        Err(DecodeError::Null)
    );
    assert_eq!(
        JoinGroupRequest::decode_exact(&[0xff, 0xfe], 0),
        Err(DecodeError::Length(-2))
    );
    assert_eq!(
        JoinGroupRequest::decode_exact(&[0, 1, 0xff], 0),
        Err(DecodeError::Utf8)
    );
    assert_eq!(
        OffsetFetchResponse::decode_exact(&[0, 0], 0),
        Err(DecodeError::Version(0))
    );
}

#[test]
fn tags_ascend_and_belong_to_their_version() {
    use flumen_wire::messages::ApiVersionsRequest;
    // Two empty names, then the tags.
    let with = |tags: &[u8]| {
        let bytes = [&[1, 1], tags].concat();
        ApiVersionsRequest::decode_exact(&bytes, 3).map(|_| ())
    };
    assert_eq!(with(&[0]), Ok(()));
    assert_eq!(
        with(&[2, 5, 0, 6, 1, 9]),
        Ok(()),
        "unknown tags are skipped"
    );
    assert_eq!(with(&[2, 5, 0, 5, 0]), Err(DecodeError::TagOrder(5)));
    assert_eq!(with(&[2, 6, 0, 5, 0]), Err(DecodeError::TagOrder(5)));
    assert_eq!(with(&[1, 5, 4, 0]), Err(DecodeError::Truncated));
    assert_eq!(with(&[0, 0]), Err(DecodeError::Trailing(1)));
    assert_eq!(
        with(&[1, 0x80, 0x80, 0x80, 0x80, 0x10, 0]),
        Err(DecodeError::Varint)
    );

    let mut bytes = encode(&FetchRequest::default(), 14).unwrap();
    *bytes.last_mut().unwrap() = 1;
    bytes.extend([1, 0]);
    assert_eq!(
        FetchRequest::decode_exact(&bytes, 14),
        Err(DecodeError::TagNotInVersion(1))
    );
    // A tagged field with bytes to spare.
    let mut bytes = encode(&FetchRequest::default(), 12).unwrap();
    *bytes.last_mut().unwrap() = 1;
    bytes.extend([0, 2, 1, 9]);
    assert_eq!(
        FetchRequest::decode_exact(&bytes, 12),
        Err(DecodeError::TagSize(1))
    );
}

#[test]
fn an_array_that_cannot_be_there_is_refused_before_memory_is_taken() {
    use flumen_wire::messages::MetadataRequest;
    let claim = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(
        MetadataRequest::decode_exact(&claim, 1),
        Err(DecodeError::Length(0x7fff_ffff))
    );
}
