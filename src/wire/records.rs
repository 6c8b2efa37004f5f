//! What coordinators store in their topics, the records of Kafka's metadata log, control records,
//! and what consumers send each other through JoinGroup.
//!
//! Stored keys begin with an int16 that says which record this is, stored values with their
//! version.

use crate::{DecodeError, EncodeError, Message, Reader, Record, Writer};
use bytes::Bytes;

#[allow(clippy::all, unused_variables)] // generated
mod generated {
    include!(concat!(env!("OUT_DIR"), "/records.rs"));
}
pub use generated::*;

/// A value (or a consumer's subscription or assignment) with its version before it.
///
/// # Errors
/// The value cannot be written in this version.
pub fn encode_versioned<'a, T: Message<'a>>(value: &T, version: i16) -> Result<Bytes, EncodeError> {
    encode_prefixed(value, version, version)
}

/// A key of a stored record: its record type, then version 0 of it.
///
/// # Errors
/// The key cannot be written.
pub fn encode_key<'a, T: Record<'a>>(key: &T) -> Result<Bytes, EncodeError> {
    encode_prefixed(key, T::RECORD_TYPE, *T::VERSIONS.start())
}

fn encode_prefixed<'a, T: Message<'a>>(
    value: &T,
    prefix: i16,
    version: i16,
) -> Result<Bytes, EncodeError> {
    let mut w = Writer::with_capacity(64);
    w.i16(prefix);
    value.encode(&mut w, version)?;
    Ok(w.into_buf().freeze())
}

/// The int16 before a stored key (its record type) or value (its version), with what follows it.
///
/// # Errors
/// Fewer than two bytes.
pub fn read_version_prefix(bytes: &[u8]) -> Result<(i16, &[u8]), DecodeError> {
    let mut r = Reader::new(bytes);
    let version = r.i16();
    r.check()?;
    Ok((version, r.rest()))
}

/// Reads a value with its version before it; trailing bytes are an error.
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_versioned<'a, T: Message<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let (version, body) = read_version_prefix(bytes)?;
    T::decode_exact(body, version)
}

/// Reads the key after its record type, as [`read_version_prefix`] left it.
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_key<'a, T: Record<'a>>(body: &'a [u8]) -> Result<T, DecodeError> {
    T::decode_exact(body, *T::VERSIONS.start())
}

/// What stands before a record of Kafka's metadata log (frame version 1): the record's number and
/// its version, with what follows.
///
/// # Errors
/// Fewer bytes, another frame version, or numbers that cannot be.
pub fn read_metadata_prefix(bytes: &[u8]) -> Result<(i16, i16, &[u8]), DecodeError> {
    let mut r = Reader::new(bytes);
    let (frame, kind, version) = (r.uvarint(), r.uvarint(), r.uvarint());
    r.check()?;
    if frame != 1 {
        return Err(DecodeError::Version(i16::try_from(frame).unwrap_or(-1)));
    }
    let short = |n: u32| i16::try_from(n).map_err(|_| DecodeError::Length(n.into()));
    Ok((short(kind)?, short(version)?, r.rest()))
}
