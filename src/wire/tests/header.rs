//! Headers, prefixes, and values that outlive their frame.
#![allow(clippy::unwrap_used)] // a test may

use flumen_base::Uuid;
use flumen_wire::header::{self, RequestHeader, decode_request_header, request_header_start};
use flumen_wire::messages::{ApiVersionsResponse, JoinGroupRequest, SyncGroupResponse};
use flumen_wire::records::{self, ConsumerGroupMemberMetadataValue, OffsetCommitKey};
use flumen_wire::records::{OffsetCommitValue, consumer_group_member_metadata_value as member};
use flumen_wire::testing::{Gen, Random, encode};
use flumen_wire::{ApiKey, DecodeError, Message, Reader, Record, Request, Response, Writer};

fn read(frame: &[u8]) -> Result<(RequestHeader<'_>, &[u8]), DecodeError> {
    let mut r = Reader::new(frame);
    decode_request_header(&mut r).map(|h| (h, r.rest()))
}

#[test]
fn request_headers() {
    // Metadata 8 has no tags, 9 has.
    let old = [0, 3, 0, 8, 0, 0, 0, 7, 0, 1, b'c', 0xee];
    let (header, rest) = read(&old).unwrap();
    assert_eq!(
        (header.api_key, header.api_version, header.correlation_id),
        (3, 8, 7)
    );
    assert_eq!((header.client_id, rest), (Some("c"), &[0xee][..]));

    let new = [0, 3, 0, 9, 0, 0, 0, 7, 0xff, 0xff, 1, 5, 2, 1, 2, 0xee];
    let (header, rest) = read(&new).unwrap();
    assert_eq!(
        (header.client_id, rest),
        (None, &[0xee][..]),
        "unknown tags are skipped"
    );

    // An API that nobody knows has a header, and no tags that could be told from its body.
    let (header, rest) = read(&[0x7f, 0, 0, 9, 0, 0, 0, 7, 0xff, 0xff, 0]).unwrap();
    assert_eq!((header.api_key, rest), (0x7f00, &[0][..]));
}

#[test]
fn broken_request_headers() {
    for len in 0..10 {
        let error = read(&[0, 3, 0, 9, 0, 0, 0, 7, 0xff, 0xff][..len]).unwrap_err();
        assert_eq!(error, DecodeError::Truncated, "{len}");
    }
    assert_eq!(
        read(&[0, 3, 0, 9, 0, 0, 0, 7, 0, 9, 1]),
        Err(DecodeError::Length(9))
    );
    assert_eq!(
        read(&[0, 3, 0, 8, 0, 0, 0, 7, 0, 1, 0xff]),
        Err(DecodeError::Utf8)
    );
    // Enough to answer UNSUPPORTED_VERSION stands in the first eight bytes.
    let peeked = request_header_start(&mut Reader::new(&[0, 18, 0, 99, 0, 0, 0, 7, 0xff])).unwrap();
    assert_eq!(
        (peeked.api_key, peeked.api_version, peeked.correlation_id),
        (18, 99, 7)
    );
    assert!(request_header_start(&mut Reader::new(&[0, 18, 0])).is_err());
}

#[test]
fn response_headers() {
    let written = |api, version| {
        let mut w = Writer::new();
        header::write_response_header(&mut w, api, version, 7);
        w.len()
    };
    assert_eq!(written(ApiKey::Metadata, 8), 4);
    assert_eq!(written(ApiKey::Metadata, 9), 5);
    // In every version, known or not: a client must be able to read it.
    assert_eq!(written(ApiKey::ApiVersions, 4), 4);
    assert_eq!(written(ApiKey::SaslHandshake, 1), 4);
    let frame = header::response_frame(&ApiVersionsResponse::default(), 3, 7).unwrap();
    assert_eq!(frame[..10], [0, 0, 0, 12, 0, 0, 0, 7, 0, 0]);
    let frame = header::response_frame(&SyncGroupResponse::default(), 4, 7).unwrap();
    assert_eq!(
        frame[..],
        [0, 0, 0, 13, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    );
    assert!(header::response_frame(&ApiVersionsResponse::default(), 99, 7).is_err());
}

#[test]
fn api_table() {
    let produce = ApiKey::Produce.info();
    assert_eq!(
        (produce.min, produce.max, produce.advertised_min()),
        (3, 13, 0)
    );
    assert_eq!(ApiKey::Fetch.info().advertised_min(), 4);
    assert!(!produce.has(2) && produce.has(3) && produce.has(13) && !produce.has(14));
    assert_eq!(ApiKey::from_i16(4), None);
    assert_eq!(
        ApiKey::StreamsGroupHeartbeat.to_string(),
        "StreamsGroupHeartbeat"
    );
    assert_eq!(
        (JoinGroupRequest::API_KEY, SyncGroupResponse::API_KEY),
        (11, 14)
    );
    assert!(ApiKey::ALL.is_sorted());
}

#[test]
fn stored_keys_have_their_type_and_values_their_version() {
    let key = OffsetCommitKey {
        group: "g".into(),
        topic: "t".into(),
        partition: 3,
    };
    let bytes = records::encode_key(&key).unwrap();
    // As Kafka 4.3.1 writes it.
    assert_eq!(bytes[..], [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 3]);
    let (record_type, rest) = records::read_version_prefix(&bytes).unwrap();
    assert_eq!(record_type, OffsetCommitKey::RECORD_TYPE);
    assert_eq!(records::decode_key::<OffsetCommitKey<'_>>(rest), Ok(key));

    let value = OffsetCommitValue {
        offset: 9,
        topic_id: Uuid::from_bytes([1; 16]),
        ..Default::default()
    };
    let bytes = records::encode_versioned(&value, 4).unwrap();
    assert_eq!(bytes[..2], [0, 4]);
    assert_eq!(records::decode_versioned(&bytes), Ok(value));
    assert_eq!(
        records::read_version_prefix(&[0]),
        Err(DecodeError::Truncated)
    );
}

#[test]
fn a_null_structure_in_a_tag_is_written_as_kafka_writes_it() {
    // The default is an empty structure, which is left out; null is not.
    let mut value = ConsumerGroupMemberMetadataValue::default();
    let head = [1, 1, 1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 1];
    let with = |value: &ConsumerGroupMemberMetadataValue<'_>| encode(value, 0).unwrap();
    assert_eq!(with(&value), [&head[..], &[0]].concat());
    value.classic_member_metadata = None;
    assert_eq!(with(&value), [&head[..], &[1, 0, 1, 0]].concat());
    value.classic_member_metadata = Some(member::ClassicMemberMetadata {
        session_timeout_ms: 5,
        ..Default::default()
    });
    assert_eq!(
        with(&value),
        [&head[..], &[1, 0, 7, 1, 0, 0, 0, 5, 1, 0]].concat()
    );
}

#[test]
fn values_outlive_their_frame() {
    let mut g = Gen::new(5);
    let value = JoinGroupRequest::random(&mut g, 9);
    let member = ConsumerGroupMemberMetadataValue::random(&mut g, 0);
    let (kept, kept_member) = {
        let (bytes, more) = (encode(&value, 9).unwrap(), encode(&member, 0).unwrap());
        let value = JoinGroupRequest::decode_exact(&bytes, 9)
            .unwrap()
            .into_static();
        let member = ConsumerGroupMemberMetadataValue::decode_exact(&more, 0).unwrap();
        (value, member.into_static())
    };
    assert_eq!((kept, kept_member), (value, member));
}

#[test]
fn an_error_leaves_the_writer_as_it_was() {
    let mut w = Writer::new();
    w.raw(b"before");
    let request = flumen_wire::messages::FetchRequest {
        replica_id: 1,
        ..Default::default()
    };
    assert!(request.encode(&mut w, 18).is_err());
    assert_eq!(w.as_slice(), b"before");
    assert!(request.encode(&mut w, 14).is_ok());
    let long = "x".repeat(40_000);
    let header = RequestHeader {
        api_key: 3,
        api_version: 1,
        correlation_id: 1,
        client_id: Some(&long),
    };
    header::write_request_header(&mut w, &header);
    assert!(w.check().is_err(), "an int16 cannot say how long that is");
}
