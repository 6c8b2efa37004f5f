//! Kafka's wire format.
#![forbid(unsafe_code)]

pub mod api;
mod error;
pub mod header;
pub mod hot;
#[allow(clippy::all, unused_imports, unused_mut, unused_variables, unused_qualifications)]
#[rustfmt::skip]
pub mod messages;
#[cfg(feature = "testing")]
pub mod fuzz;
mod reader;
#[allow(clippy::all, unused_mut, unused_variables, unused_qualifications)]
pub mod records;
#[cfg(feature = "testing")]
#[allow(
    clippy::all,
    unused_variables,
    elided_lifetimes_in_paths,
    unused_qualifications
)]
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
