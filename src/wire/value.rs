//! How each type stands on the wire, and what a message is.

use crate::{DecodeError, EncodeError, Reader, Writer};
use flumen_base::Uuid;
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// A type that fields can have. Errors are noted in the reader or writer.
pub trait Value<'a>: Sized {
    /// The fewest bytes that a value takes in any version.
    const SIZE_MIN: usize;
    /// Reads a value of a message in `version`; `flexible` says whether lengths are compact and
    /// tags follow.
    fn read(r: &mut Reader<'a>, version: i16, flexible: bool) -> Self;
    /// Writes it.
    fn write(&self, w: &mut Writer, version: i16, flexible: bool);

    /// Reads a value or null. Structures have a byte before them: negative for null.
    fn read_nullable(r: &mut Reader<'a>, version: i16, flexible: bool) -> Option<Self> {
        if r.i8() < 0 {
            None
        } else {
            Some(Self::read(r, version, flexible))
        }
    }

    /// Writes a value or null.
    fn write_nullable(value: Option<&Self>, w: &mut Writer, version: i16, flexible: bool) {
        match value {
            None => w.i8(-1),
            Some(value) => {
                w.i8(1);
                value.write(w, version, flexible);
            }
        }
    }
}

macro_rules! primitives {
    ($($kind:ty, $size:literal, $name:ident;)*) => {$(
        impl<'a> Value<'a> for $kind {
            const SIZE_MIN: usize = $size;
            #[inline]
            fn read(r: &mut Reader<'a>, _: i16, _: bool) -> Self {
                r.$name()
            }
            #[inline]
            fn write(&self, w: &mut Writer, _: i16, _: bool) {
                w.$name(*self);
            }
        }
    )*};
}

primitives! {
    bool, 1, bool;
    i8, 1, i8;
    i16, 2, i16;
    i32, 4, i32;
    i64, 8, i64;
    u16, 2, u16;
    u32, 4, u32;
    f64, 8, f64;
    Uuid, 16, uuid;
}

impl<'a> Value<'a> for Cow<'a, str> {
    const SIZE_MIN: usize = 1;

    fn read(r: &mut Reader<'a>, _: i16, flexible: bool) -> Self {
        Cow::Borrowed(r.str(flexible))
    }

    fn write(&self, w: &mut Writer, _: i16, flexible: bool) {
        w.nullable_str(Some(self), flexible);
    }

    fn read_nullable(r: &mut Reader<'a>, _: i16, flexible: bool) -> Option<Self> {
        r.nullable_str(flexible).map(Cow::Borrowed)
    }

    fn write_nullable(value: Option<&Self>, w: &mut Writer, _: i16, flexible: bool) {
        w.nullable_str(value.map(|v| &**v), flexible);
    }
}

impl<'a> Value<'a> for Cow<'a, [u8]> {
    const SIZE_MIN: usize = 1;

    fn read(r: &mut Reader<'a>, _: i16, flexible: bool) -> Self {
        Cow::Borrowed(r.bytes(flexible))
    }

    fn write(&self, w: &mut Writer, _: i16, flexible: bool) {
        w.nullable_bytes(Some(self), flexible);
    }

    fn read_nullable(r: &mut Reader<'a>, _: i16, flexible: bool) -> Option<Self> {
        r.nullable_bytes(flexible).map(Cow::Borrowed)
    }

    fn write_nullable(value: Option<&Self>, w: &mut Writer, _: i16, flexible: bool) {
        w.nullable_bytes(value.map(|v| &**v), flexible);
    }
}

impl<'a, T: Value<'a>> Value<'a> for Vec<T> {
    const SIZE_MIN: usize = 1;

    fn read(r: &mut Reader<'a>, version: i16, flexible: bool) -> Self {
        r.array(version, flexible)
    }

    fn write(&self, w: &mut Writer, version: i16, flexible: bool) {
        w.nullable_array(Some(self), version, flexible);
    }

    fn read_nullable(r: &mut Reader<'a>, version: i16, flexible: bool) -> Option<Self> {
        r.nullable_array(version, flexible)
    }

    fn write_nullable(value: Option<&Self>, w: &mut Writer, version: i16, flexible: bool) {
        w.nullable_array(value.map(Self::as_slice), version, flexible);
    }
}

impl<'a, T: Value<'a>> Value<'a> for Option<T> {
    const SIZE_MIN: usize = 1;

    fn read(r: &mut Reader<'a>, version: i16, flexible: bool) -> Self {
        T::read_nullable(r, version, flexible)
    }

    fn write(&self, w: &mut Writer, version: i16, flexible: bool) {
        T::write_nullable(self.as_ref(), w, version, flexible);
    }
}

/// Reads a structure or null in a tagged field: a variable-length integer stands before it, 0 for
/// null.
pub(crate) fn read_tagged_struct<'a, T: Value<'a>>(
    r: &mut Reader<'a>,
    version: i16,
    flexible: bool,
) -> Option<T> {
    (r.uvarint() > 0).then(|| T::read(r, version, flexible))
}

/// Writes a structure or null into a tagged field.
pub(crate) fn write_tagged_struct<'a, T: Value<'a>>(
    value: Option<&T>,
    w: &mut Writer,
    version: i16,
    flexible: bool,
) {
    w.u8(value.is_some().into());
    if let Some(value) = value {
        value.write(w, version, flexible);
    }
}

/// A whole request, response or record.
pub trait Message<'a>: Value<'a> {
    /// Kafka's name of it.
    const NAME: &'static str;
    /// The versions that exist (of requests and responses: that 4.3.1 calls stable).
    const VERSIONS: RangeInclusive<i16>;
    /// The first version with compact lengths and tags; `i16::MAX` when none has.
    const FLEXIBLE_FROM: i16;

    /// Reads one, leaving what follows it.
    ///
    /// # Errors
    /// Any [`DecodeError`] but `Trailing`.
    fn decode(r: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError> {
        if !Self::VERSIONS.contains(&version) {
            return Err(DecodeError::Version(version));
        }
        let value = Self::read(r, version, version >= Self::FLEXIBLE_FROM);
        r.check()?;
        Ok(value)
    }

    /// Reads one that takes all of `bytes`.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    fn decode_exact(bytes: &'a [u8], version: i16) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let value = Self::decode(&mut r, version)?;
        r.finish()?;
        Ok(value)
    }

    /// Appends it to `w`; on an error `w` is as before.
    ///
    /// # Errors
    /// Any [`EncodeError`].
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if !Self::VERSIONS.contains(&version) {
            return Err(EncodeError::Version {
                name: Self::NAME,
                version,
            });
        }
        w.check()?;
        let start = w.len();
        self.write(w, version, version >= Self::FLEXIBLE_FROM);
        let result = w.check();
        if result.is_err() {
            w.truncate(start);
        }
        result
    }
}

/// A request.
pub trait Request<'a>: Message<'a> {
    /// Key of its API.
    const API_KEY: i16;
}

/// A response.
pub trait Response<'a>: Message<'a> {
    /// Key of its API.
    const API_KEY: i16;
}

/// A key or value that a coordinator stores.
pub trait Record<'a>: Message<'a> {
    /// Which record it is, within its coordinator's topic.
    const RECORD_TYPE: i16;
}
