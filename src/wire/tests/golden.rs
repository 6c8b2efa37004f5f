//! Frames recorded between Kafka 4.3.1's tools and a Kafka 4.3.1 broker
//! (`scripts/capture-frames.py`): each decodes as a whole and is written again the same.
#![allow(clippy::unwrap_used)] // a test may

use flumen_wire::testing::codec_of;
use flumen_wire::{ApiKey, Reader, Writer, header};
use std::collections::BTreeSet;
use std::fs;

/// KEY-vVERSION-KIND-N.bin
fn parse_name(name: &str) -> Option<(i16, i16, &str)> {
    let mut words = name.strip_suffix(".bin")?.split('-');
    let key = words.next()?.parse().ok()?;
    let version = words.next()?.strip_prefix('v')?.parse().ok()?;
    Some((key, version, words.next()?))
}

fn check(key: ApiKey, version: i16, kind: &str, frame: &[u8]) {
    let mut r = Reader::new(frame);
    let mut w = Writer::new();
    if kind == "request" {
        let header = header::decode_request_header(&mut r).unwrap();
        assert_eq!((header.api_key, header.api_version), (key.code(), version));
        header::write_request_header(&mut w, &header);
        // The hand-written paths take it too.
        flumen_wire::fuzz::fuzz_request(frame);
    } else {
        let correlation_id = r.i32();
        header::write_response_header(&mut w, key, version, correlation_id);
        r.take(w.len() - 4);
    }
    assert_eq!(w.as_slice(), &frame[..r.position()], "header");
    let again = (codec_of(kind, key.code()).unwrap().reencode)(r.rest(), version).unwrap();
    assert_eq!(again, r.rest());
}

#[test]
fn recorded_frames_decode_and_encode_the_same() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
    let mut apis = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let (key, version, kind) = parse_name(name).unwrap_or_else(|| panic!("{name}"));
        let key = ApiKey::from_i16(key).unwrap();
        println!("{name} {key}"); // shown when it fails
        check(key, version, kind, &fs::read(&path).unwrap());
        apis.insert((key, kind.to_string()));
    }
    assert!(apis.len() > 80, "{} recorded", apis.len());
}
