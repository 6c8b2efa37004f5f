//! Writing primitive values into a buffer.

use crate::EncodeError;
use crate::value::Value;
use bytes::{BufMut, BytesMut};
use flumen_base::Uuid;

/// A growing buffer that remembers the first error; [`crate::Message::encode`] checks it at the
/// end.
#[derive(Debug, Default)]
pub struct Writer {
    buf: BytesMut,
    error: Option<EncodeError>,
}

macro_rules! fixed {
    ($($(#[$doc:meta])* $name:ident $kind:ty),*) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $name(&mut self, value: $kind) {
            self.buf.extend_from_slice(&value.to_be_bytes());
        }
    )*};
}

impl Writer {
    /// Empty, without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends to `buf`.
    pub fn with_buf(buf: BytesMut) -> Self {
        Self { buf, error: None }
    }

    /// Empty, with room for `n` bytes.
    pub fn with_capacity(n: usize) -> Self {
        Self::with_buf(BytesMut::with_capacity(n))
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// What is written.
    pub fn as_slice(&self) -> &[u8] {
        &self.buf
    }

    /// The buffer; check [`Writer::check`] before, where values were written without
    /// [`crate::Message::encode`].
    pub fn into_buf(self) -> BytesMut {
        self.buf
    }

    /// What was written since the last call, leaving the rest of the memory for what follows.
    pub fn split(&mut self) -> BytesMut {
        self.buf.split()
    }

    /// Forgets what was written after the first `len` bytes, and the error.
    pub fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
        self.error = None;
    }

    /// Notes an error, unless there was one before.
    #[cold]
    pub fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// The first error as a result.
    pub fn check(&self) -> Result<(), EncodeError> {
        self.error.map_or(Ok(()), Err)
    }

    fixed! {
        /// One byte.
        u8 u8,
        /// int8.
        i8 i8,
        /// int16.
        i16 i16,
        /// uint16.
        u16 u16,
        /// int32.
        i32 i32,
        /// uint32.
        u32 u32,
        /// int64.
        i64 i64
    }

    /// float64.
    pub fn f64(&mut self, value: f64) {
        self.i64(value.to_bits() as i64);
    }

    /// bool.
    pub fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// uuid.
    pub fn uuid(&mut self, value: Uuid) {
        self.raw(value.as_bytes());
    }

    /// Bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Unsigned variable-length integer.
    #[inline]
    pub fn uvarint(&mut self, mut value: u32) {
        if value < 0x80 {
            return self.u8(value as u8);
        }
        let (mut bytes, mut len) = ([0; 5], 0);
        for byte in &mut bytes {
            *byte = value as u8 | 0x80;
            len += 1;
            value >>= 7;
            if value == 0 {
                *byte &= 0x7f;
                break;
            }
        }
        self.raw(&bytes[..len]);
    }

    /// Length of a string: int16, or compact where `flexible`; -1 for null.
    #[inline]
    pub(crate) fn string_len(&mut self, len: Option<usize>, flexible: bool) {
        if flexible {
            return self.compact_len(len);
        }
        match len.map(i16::try_from) {
            None => self.i16(-1),
            Some(Ok(n)) => self.i16(n),
            Some(Err(_)) => self.fail(EncodeError::Length(len.unwrap_or(0))),
        }
    }

    /// Length of bytes, records or an array: int32, or compact where `flexible`; -1 for null.
    #[inline]
    pub fn long_len(&mut self, len: Option<usize>, flexible: bool) {
        if flexible {
            return self.compact_len(len);
        }
        match len.map(i32::try_from) {
            None => self.i32(-1),
            Some(Ok(n)) => self.i32(n),
            Some(Err(_)) => self.fail(EncodeError::Length(len.unwrap_or(0))),
        }
    }

    #[inline]
    fn compact_len(&mut self, len: Option<usize>) {
        match len.map(i32::try_from) {
            None => self.u8(0),
            Some(Ok(n)) => self.uvarint(n as u32 + 1),
            Some(Err(_)) => self.fail(EncodeError::Length(len.unwrap_or(0))),
        }
    }

    /// A string or null. In flexible versions too no longer than an int16 can say, as in Kafka.
    pub fn nullable_str(&mut self, text: Option<&str>, flexible: bool) {
        if text.is_some_and(|t| t.len() > i16::MAX as usize) {
            return self.fail(EncodeError::Length(text.map_or(0, str::len)));
        }
        self.string_len(text.map(str::len), flexible);
        self.raw(text.unwrap_or("").as_bytes());
    }

    /// Bytes (or records) or null.
    pub fn nullable_bytes(&mut self, bytes: Option<&[u8]>, flexible: bool) {
        self.long_len(bytes.map(<[u8]>::len), flexible);
        self.raw(bytes.unwrap_or(&[]));
    }

    /// An array or null.
    pub fn nullable_array<'a, T: Value<'a>>(
        &mut self,
        elements: Option<&[T]>,
        version: i16,
        flexible: bool,
    ) {
        self.long_len(elements.map(<[T]>::len), flexible);
        for element in elements.unwrap_or(&[]) {
            element.write(self, version, flexible);
        }
    }

    /// A value that may not be null in this version.
    pub fn non_null<'a, T: Value<'a>>(
        &mut self,
        value: &Option<T>,
        field: &'static str,
        version: i16,
        flexible: bool,
    ) {
        match value {
            Some(value) => value.write(self, version, flexible),
            None => self.fail(EncodeError::Null { field, version }),
        }
    }

    /// Starts a tagged field; [`Writer::end_tag`] with what this returns puts in its size.
    pub fn begin_tag(&mut self, tag: u32) -> usize {
        self.uvarint(tag);
        let at = self.buf.len();
        self.u8(0);
        at
    }

    /// Ends the tagged field begun at `at`. Nearly all are shorter than 128 bytes; a longer one
    /// moves up.
    pub fn end_tag(&mut self, at: usize) {
        let size = self.buf.len() - at - 1;
        let Ok(size32) = u32::try_from(size) else {
            return self.fail(EncodeError::Length(size));
        };
        if size32 < 0x80 {
            if let Some(byte) = self.buf.get_mut(at) {
                *byte = size32 as u8;
            }
            return;
        }
        let body = self.buf.split_off(at + 1);
        self.buf.truncate(at);
        self.uvarint(size32);
        self.buf.put_slice(&body);
    }

    /// Overwrites four bytes at `at` that were written before (a length known only now).
    pub fn patch_i32(&mut self, at: usize, value: i32) {
        if let Some(bytes) = self.buf.get_mut(at..at + 4) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }
}
