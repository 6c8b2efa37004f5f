//! Kafka's wire format: bytes to requests, responses and stored records, and back.
//!
//! The codec is generated when the crate is built, from the compact schemas in `schemas/` (facts of
//! Kafka 4.3.1's message definitions, kept by `scripts/import-schemas.py`): [`messages`] for the 77
//! APIs of a broker's client listener in all their stable versions, [`records`] for what
//! coordinators store and what Kafka's metadata log holds ([`json`] shows them). [`api`] is the
//! table of APIs, [`header`] what stands before a message, and [`hot`] what every record passes
//! through: Produce and Fetch requests walked in place, and Fetch responses framed around records
//! that are not copied.
//!
//! What a decoder promises, whatever the bytes: it never panics; it allocates no more than a small
//! multiple of the bytes given, since an array's length is checked against the bytes left before
//! memory is taken; strings and bytes borrow from the frame. It refuses bytes that are left over,
//! lengths that cannot be, null where no null may be, text that is not UTF-8, tags that do not
//! ascend or do not belong to the version; it skips tags that it does not know.
//!
//! What an encoder promises: what it writes is what Kafka's own classes write. A field that is set,
//! that the version lacks, and that may not get lost, is an error.
//!
//! ```
//! use flumen_wire::header::{self, RequestHeader};
//! use flumen_wire::messages::{ListOffsetsRequest, ListOffsetsResponse};
//! use flumen_wire::{ApiKey, Message, Reader, Writer};
//!
//! // What a client sends, without the four bytes of length.
//! let (api, version) = (ApiKey::ListOffsets, 6);
//! let mut w = Writer::new();
//! header::write_request_header(
//!     &mut w,
//!     &RequestHeader {
//!         api_key: api.code(),
//!         api_version: version,
//!         correlation_id: 7,
//!         client_id: Some("me"),
//!     },
//! );
//! ListOffsetsRequest::default().encode(&mut w, version)?;
//! let frame = w.into_buf();
//!
//! // What a broker does with it.
//! let mut r = Reader::new(&frame);
//! let header = header::decode_request_header(&mut r)?;
//! let api = ApiKey::from_i16(header.api_key).expect("an unknown key ends the connection");
//! assert!(api.info().has(header.api_version)); // or UNSUPPORTED_VERSION
//! let request = ListOffsetsRequest::decode_exact(r.rest(), header.api_version)?;
//! assert!(request.topics.is_empty());
//! let response = ListOffsetsResponse::default();
//! let answer = header::response_frame(&response, header.api_version, header.correlation_id)?;
//! assert_eq!(&answer[4..8], &7i32.to_be_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The feature `testing` adds random values of every message, a table of all codecs, and the fuzz
//! targets' functions.
#![forbid(unsafe_code)]

pub mod api;
mod error;
#[cfg(feature = "testing")]
pub mod fuzz;
pub mod header;
pub mod hot;
pub mod json;
pub mod messages;
mod reader;
pub mod records;
#[cfg(feature = "testing")]
pub mod testing;
mod value;
mod writer;

pub use api::{ApiInfo, ApiKey};
pub use error::{DecodeError, EncodeError};
pub use reader::{Reader, Tags};
pub use value::{Message, Record, Request, Response, Value};
pub use writer::Writer;

/// What the generated modules use.
mod prelude {
    pub(crate) use crate::value::{read_tagged_struct, write_tagged_struct};
    pub(crate) use crate::{
        DecodeError, EncodeError, Message, Reader, Record, Request, Response, Value, Writer,
    };
    pub(crate) use flumen_base::Uuid;
    pub(crate) use std::borrow::Cow;
    pub(crate) use std::ops::RangeInclusive;
}
