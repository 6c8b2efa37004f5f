//! Entry points for fuzzing, beside the code that they try. Each takes any bytes and panics when a
//! promise is broken: decoders never panic, what they take can be written, and what is written is
//! taken and written the same again. `tests/fuzz` has a cargo-fuzz target for each;
//! `tests/hostile.rs` runs them with seeded garbage.

use crate::header::{decode_request_header, request_header_start};
use crate::hot::{fetch::FetchRequest, produce::ProduceRequest};
use crate::records::read_version_prefix;
use crate::testing::{CODECS, Codec, CodecError, codec_of};
use crate::{ApiKey, Reader};

/// A request frame (without its length): header, body, and the hand-written paths.
pub fn fuzz_request(frame: &[u8]) {
    let _ = request_header_start(&mut Reader::new(frame));
    let mut r = Reader::new(frame);
    let Ok(header) = decode_request_header(&mut r) else {
        return;
    };
    let body_at = r.position();
    let Some(codec) = codec_of("request", header.api_key) else {
        return;
    };
    let taken = body(codec, r.rest(), header.api_version);
    let walked = match ApiKey::from_i16(header.api_key) {
        Some(ApiKey::Produce) => ProduceRequest::parse(frame, body_at, header.api_version)
            .map(|request| request.partitions().count() == request.partition_count),
        Some(ApiKey::Fetch) => {
            FetchRequest::parse(frame, body_at, header.api_version).map(|request| {
                request.forgotten().for_each(drop);
                request.partitions().count() == request.partition_count
            })
        }
        _ => return,
    };
    assert!(
        walked.is_ok() == taken,
        "walker and decoder differ: {walked:?}"
    );
    assert!(walked != Ok(false), "a walk ended early");
}

/// A response body: the API's index in the table and the version in the first two bytes.
pub fn fuzz_response(bytes: &[u8]) {
    let [api, version, rest @ ..] = bytes else {
        return;
    };
    let Some(key) = ApiKey::ALL.get(usize::from(*api) % ApiKey::ALL.len()) else {
        return;
    };
    if let Some(codec) = codec_of("response", key.code()) {
        body(codec, rest, i16::from(*version));
    }
}

/// A stored value or key, a control record or a consumer's metadata: which in the first byte, then
/// its version prefix.
pub fn fuzz_record(bytes: &[u8]) {
    let [which, rest @ ..] = bytes else { return };
    let records = CODECS
        .iter()
        .filter(|c| !matches!(c.kind, "request" | "response"));
    let count = records.clone().count();
    let Some(codec) = records.clone().nth(usize::from(*which) % count.max(1)) else {
        return;
    };
    let Ok((version, rest)) = read_version_prefix(rest) else {
        return;
    };
    body(codec, rest, version);
}

/// Whether the body was taken.
fn body(codec: &Codec, bytes: &[u8], version: i16) -> bool {
    match (codec.reencode)(bytes, version) {
        Err(CodecError::Decode(_)) => false,
        Err(CodecError::Encode(e)) => panic!("{} v{version}: taken, not written: {e}", codec.name),
        Ok(written) => {
            let again = (codec.reencode)(&written, version);
            assert!(again == Ok(written), "{} v{version}: {again:?}", codec.name);
            true
        }
    }
}
