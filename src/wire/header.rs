//! The headers before requests and responses, and whole frames.

use crate::api::ApiKey;
use crate::{DecodeError, EncodeError, Reader, Response, Writer};
use bytes::BytesMut;

/// Version of a request header. 0 is no longer spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestHeaderVersion {
    /// Without tags.
    V1,
    /// With tags.
    V2,
}

/// What stands before every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// The API; a key that no table knows is the caller's to refuse.
    pub api_key: i16,
    /// Version of the request's body.
    pub api_version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<&'a str>,
}

/// The fixed first part of a header: enough to answer a request whose version is not known.
///
/// # Errors
/// [`DecodeError::Truncated`].
#[inline]
pub fn request_header_start(r: &mut Reader<'_>) -> Result<RequestHeader<'static>, DecodeError> {
    let header = RequestHeader {
        api_key: r.i16(),
        api_version: r.i16(),
        correlation_id: r.i32(),
        client_id: None,
    };
    r.check().map(|()| header)
}

/// Reads the header of a request (the frame without its length). Its own version follows from key
/// and version of the request. For a key or version that is not known the header is read without
/// tags.
///
/// # Errors
/// A header that ends early, or whose client id is no string.
pub fn decode_request_header<'a>(r: &mut Reader<'a>) -> Result<RequestHeader<'a>, DecodeError> {
    let start = request_header_start(r)?;
    let api = ApiKey::from_i16(start.api_key).map(ApiKey::info);
    let flexible = api.is_some_and(|api| api.is_flexible(start.api_version));
    let client_id = request_header_rest(r, flexible)?;
    Ok(RequestHeader { client_id, ..start })
}

/// Reads what follows [`request_header_start`], up to the body; gives the client id.
///
/// # Errors
/// As [`decode_request_header`].
pub fn request_header_rest<'a>(
    r: &mut Reader<'a>,
    flexible: bool,
) -> Result<Option<&'a str>, DecodeError> {
    // Not compact in any version: old brokers must be able to read the header of a newer
    // ApiVersions request.
    let client_id = r.nullable_str(false);
    if flexible {
        r.skip_tags();
    }
    r.check().map(|()| client_id)
}

/// Writes a request header, as a client does.
pub fn write_request_header(w: &mut Writer, header: &RequestHeader<'_>) {
    w.i16(header.api_key);
    w.i16(header.api_version);
    w.i32(header.correlation_id);
    w.nullable_str(header.client_id, false);
    if ApiKey::from_i16(header.api_key).is_some_and(|k| k.info().is_flexible(header.api_version)) {
        w.u8(0);
    }
}

/// Writes the header of a response to a request of `api` in `version`.
pub fn write_response_header(w: &mut Writer, api: ApiKey, version: i16, correlation_id: i32) {
    w.i32(correlation_id);
    if api.info().response_header_version(version) == 1 {
        w.u8(0);
    }
}

/// A whole response frame: length, header, body.
///
/// # Errors
/// The body cannot be written in this version.
pub fn response_frame<'a, T: Response<'a>>(
    response: &T,
    version: i16,
    correlation_id: i32,
) -> Result<BytesMut, EncodeError> {
    let mut w = Writer::with_capacity(256);
    w.i32(0);
    w.i32(correlation_id);
    if ApiKey::from_i16(T::API_KEY).is_some_and(|k| k.info().response_header_version(version) == 1)
    {
        w.u8(0);
    }
    response.encode(&mut w, version)?;
    let len = w.len() - 4;
    w.patch_i32(0, i32::try_from(len).map_err(|_| EncodeError::Length(len))?);
    Ok(w.into_buf())
}
