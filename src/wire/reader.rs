//! Reading primitive values off a frame.

use crate::DecodeError;
use crate::value::Value;
use flumen_base::Uuid;
use std::borrow::Cow;

/// Memory that an array's declared length reserves at once; then it is at most four times what its
/// elements read so far take.
const RESERVE_BYTES_MAX: usize = 16 << 10;

/// A cursor over a frame that remembers the first error: after one, every read yields zero or
/// nothing, no array has elements, and [`Reader::finish`] tells. So a decoder is a straight line of
/// reads, checked once at its end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
    error: Option<DecodeError>,
}

/// Where a walk through a tag section stands.
#[derive(Debug)]
pub struct Tags {
    left: u32,
    /// The smallest tag that may come next.
    next_min: u64,
}

macro_rules! fixed {
    ($($(#[$doc:meta])* $name:ident $kind:ty),*) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $name(&mut self) -> $kind {
            if let Some((bytes, rest)) = self.rest.split_first_chunk() {
                self.rest = rest;
                <$kind>::from_be_bytes(*bytes)
            } else {
                self.fail(DecodeError::Truncated);
                <$kind>::default()
            }
        }
    )*};
}

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            len: bytes.len(),
            error: None,
        }
    }

    /// Bytes read so far. Of no meaning after an error.
    #[inline]
    pub fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    /// What has not been read; empty after an error.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The first error, if any.
    #[inline]
    pub fn error(&self) -> Option<DecodeError> {
        self.error
    }

    /// Whether something was wrong.
    #[inline]
    pub fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Notes an error, unless there was one before, and ends the bytes.
    #[cold]
    pub fn fail(&mut self, error: DecodeError) {
        self.rest = &[];
        self.error.get_or_insert(error);
    }

    /// The first error as a result. Bytes may be left.
    #[inline]
    pub fn check(&self) -> Result<(), DecodeError> {
        self.error.map_or(Ok(()), Err)
    }

    /// The first error as a result; bytes left are one too.
    pub fn finish(&self) -> Result<(), DecodeError> {
        self.check()?;
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.rest.len()))
        }
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
    pub fn f64(&mut self) -> f64 {
        f64::from_bits(self.i64() as u64)
    }

    /// bool: anything but 0 is true, as in Kafka.
    pub fn bool(&mut self) -> bool {
        self.u8() != 0
    }

    /// uuid.
    pub fn uuid(&mut self) -> Uuid {
        self.take(16)
            .try_into()
            .map_or(Uuid::ZERO, Uuid::from_bytes)
    }

    /// The next `n` bytes; empty after an error.
    #[inline]
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        if let Some((bytes, rest)) = self.rest.split_at_checked(n) {
            self.rest = rest;
            bytes
        } else {
            self.fail(DecodeError::Truncated);
            &[]
        }
    }

    /// Unsigned variable-length integer: 7 bits a byte, least significant first, at most 5 bytes.
    /// Bits past the 32nd are refused.
    #[inline]
    pub fn uvarint(&mut self) -> u32 {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return byte.into();
        }
        if let [first, second, third, ..] = *self.rest {
            let low = u32::from(first & 0x7f) | u32::from(second & 0x7f) << 7;
            if second < 0x80 {
                self.rest = &self.rest[2..];
                return low;
            }
            if third < 0x80 {
                self.rest = &self.rest[3..];
                return low | u32::from(third) << 14;
            }
        }
        self.uvarint_long()
    }

    fn uvarint_long(&mut self) -> u32 {
        let mut value = 0u32;
        for (i, &byte) in self.rest.iter().enumerate().take(5) {
            if i == 4 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.rest = self.rest.get(i + 1..).unwrap_or(&[]);
                return value;
            }
        }
        let error = if self.rest.len() < 5 {
            DecodeError::Truncated
        } else {
            DecodeError::Varint
        };
        self.fail(error);
        0
    }

    /// Length of a string: int16, or compact (but no larger, as in Kafka) where `flexible`. `None`
    /// is null.
    fn string_len(&mut self, flexible: bool) -> Option<usize> {
        let len = if flexible {
            i64::from(self.uvarint()) - 1
        } else {
            self.i16().into()
        };
        if len > i64::from(i16::MAX) {
            self.fail(DecodeError::Length(len));
        }
        self.known_len(len)
    }

    /// Length of bytes, records or an array: int32, or compact where `flexible`. `None` is null.
    fn long_len(&mut self, flexible: bool) -> Option<usize> {
        let len = if flexible {
            i64::from(self.uvarint()) - 1
        } else {
            self.i32().into()
        };
        self.known_len(len)
    }

    fn known_len(&mut self, len: i64) -> Option<usize> {
        if len == -1 {
            return None;
        }
        if len < 0 || len > self.rest.len() as i64 {
            self.fail(DecodeError::Length(len));
            return Some(0);
        }
        Some(len as usize)
    }

    /// Notes a null that may not be.
    fn value<T: Default>(&mut self, value: Option<T>) -> T {
        value.unwrap_or_else(|| {
            self.fail(DecodeError::Null);
            T::default()
        })
    }

    /// A string or null.
    pub fn nullable_str(&mut self, flexible: bool) -> Option<&'a str> {
        let len = self.string_len(flexible)?;
        let bytes = self.take(len);
        let text = std::str::from_utf8(bytes).unwrap_or_else(|_| {
            self.fail(DecodeError::Utf8);
            ""
        });
        Some(text)
    }

    /// A string.
    pub fn str(&mut self, flexible: bool) -> &'a str {
        let text = self.nullable_str(flexible);
        self.value(text)
    }

    /// Bytes (or records) or null.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Option<&'a [u8]> {
        let len = self.long_len(flexible)?;
        Some(self.take(len))
    }

    /// Bytes (or records).
    pub fn bytes(&mut self, flexible: bool) -> &'a [u8] {
        let bytes = self.nullable_bytes(flexible);
        self.value(bytes)
    }

    /// Number of elements of an array or null. Checked: the bytes left can hold that many elements
    /// of `size_min` bytes.
    pub fn nullable_array_len(&mut self, flexible: bool, size_min: usize) -> Option<usize> {
        let len = self.long_len(flexible)?;
        if len > self.rest.len() / size_min.max(1) {
            self.fail(DecodeError::Length(len as i64));
            return Some(0);
        }
        Some(len)
    }

    /// Number of elements of an array, checked as by [`Reader::nullable_array_len`].
    pub fn array_len(&mut self, flexible: bool, size_min: usize) -> usize {
        let len = self.nullable_array_len(flexible, size_min);
        self.value(len)
    }

    /// An array or null.
    pub fn nullable_array<T: Value<'a>>(&mut self, version: i16, flexible: bool) -> Option<Vec<T>> {
        let len = self.nullable_array_len(flexible, T::SIZE_MIN)?;
        let reserve_max = (RESERVE_BYTES_MAX / size_of::<T>().max(1)).max(1);
        let mut elements = Vec::with_capacity(len.min(reserve_max));
        for n in 0..len {
            if n == elements.capacity() {
                elements.reserve_exact((len - n).min(3 * n));
            }
            elements.push(T::read(self, version, flexible));
            if self.failed() {
                break;
            }
        }
        Some(elements)
    }

    /// An array.
    pub fn array<T: Value<'a>>(&mut self, version: i16, flexible: bool) -> Vec<T> {
        let elements = self.nullable_array(version, flexible);
        self.value(elements)
    }

    /// Starts a tag section.
    pub fn tags(&mut self) -> Tags {
        Tags {
            left: self.uvarint(),
            next_min: 0,
        }
    }

    /// The next tag with a reader of its bytes. Give the reader back to [`Reader::end_tag`] when
    /// the tag is known.
    pub fn next_tag(&mut self, tags: &mut Tags) -> Option<(u32, Self)> {
        if tags.left == 0 || self.failed() {
            return None;
        }
        tags.left -= 1;
        let tag = self.uvarint();
        if u64::from(tag) < tags.next_min {
            self.fail(DecodeError::TagOrder(tag));
            return None;
        }
        tags.next_min = u64::from(tag) + 1;
        let size = self.uvarint();
        let bytes = self.take(size as usize);
        if self.failed() {
            None
        } else {
            Some((tag, Reader::new(bytes)))
        }
    }

    /// Ends a known tag: what its reader found wrong is wrong here too.
    pub fn end_tag(&mut self, tag: Self) {
        match tag.finish() {
            Ok(()) => {}
            Err(DecodeError::Trailing(n)) => self.fail(DecodeError::TagSize(n)),
            Err(e) => self.fail(e),
        }
    }

    /// Skips a tag section without tags, the usual one; false where it is another, which is left.
    #[inline]
    pub(crate) fn skip_no_tags(&mut self) -> bool {
        let Some((0, rest)) = self.rest.split_first() else {
            return false;
        };
        self.rest = rest;
        true
    }

    /// Skips a tag section of which no tag is known.
    #[inline]
    pub fn skip_tags(&mut self) {
        if !self.skip_no_tags() {
            self.skip_some_tags();
        }
    }

    fn skip_some_tags(&mut self) {
        let mut tags = self.tags();
        while self.next_tag(&mut tags).is_some() {}
    }

    /// A string that borrows.
    pub fn cow_str(&mut self, flexible: bool) -> Cow<'a, str> {
        Cow::Borrowed(self.str(flexible))
    }
}
