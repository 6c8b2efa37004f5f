//! Checked reading and plain writing of the metadata log's own encoding: big-endian numbers, `u32`
//! lengths before strings and lists, one byte before optional values.

use flumen_base::Uuid;

/// Why bytes are not metadata records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end too early.
    #[error("record ends too early")]
    Truncated,
    /// Bytes are left over.
    #[error("{0} bytes left after the record")]
    Trailing(usize),
    /// A value that can't be.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// A record of a later release.
    #[error("unknown metadata record type {number}")]
    UnknownType {
        /// Its number.
        number: u16,
    },
    /// A record of a later release.
    #[error("unknown version {version} of metadata record type {number}")]
    UnknownVersion {
        /// Its number.
        number: u16,
        /// Its version.
        version: u8,
    },
}

/// Appends values to a buffer.
pub(crate) struct Encoder<'a>(&'a mut Vec<u8>);

impl<'a> Encoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self(out)
    }

    pub(crate) fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub(crate) fn bool(&mut self, v: bool) {
        self.0.push(u8::from(v));
    }

    pub(crate) fn u16(&mut self, v: u16) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn i16(&mut self, v: i16) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, v: u32) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, v: i32) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, v: u64) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, v: i64) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, v: &Uuid) {
        self.bytes(v.as_bytes());
    }

    pub(crate) fn str(&mut self, v: &str) {
        self.sized_bytes(v.as_bytes());
    }

    pub(crate) fn sized_bytes(&mut self, v: &[u8]) {
        // Longer values never get here: settings and requests are bounded far below.
        self.u32(v.len() as u32);
        self.bytes(v);
    }

    pub(crate) fn bytes(&mut self, v: &[u8]) {
        self.0.extend_from_slice(v);
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.u32(items.len() as u32);
        for item in items {
            each(self, item);
        }
    }

    pub(crate) fn option<T>(&mut self, value: Option<&T>, some: impl FnOnce(&mut Self, &T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            some(self, value);
        }
    }

    /// What `body` writes, with its length in front.
    pub(crate) fn sized(&mut self, body: impl FnOnce(&mut Encoder<'_>)) {
        let mut bytes = Vec::new();
        body(&mut Encoder::new(&mut bytes));
        self.sized_bytes(&bytes);
    }
}

/// Takes values from bytes; every read is checked.
#[derive(Clone, Debug)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(RecordError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(RecordError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn bool(&mut self) -> Result<bool, RecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Invalid("boolean")),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, RecordError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, RecordError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, RecordError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, RecordError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    pub(crate) fn str(&mut self) -> Result<String, RecordError> {
        let bytes = self.sized_bytes()?;
        let text = std::str::from_utf8(bytes).map_err(|_| RecordError::Invalid("UTF-8"))?;
        Ok(text.to_owned())
    }

    pub(crate) fn sized_bytes(&mut self) -> Result<&'a [u8], RecordError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    pub(crate) fn sized(&mut self) -> Result<Self, RecordError> {
        Ok(Self(self.sized_bytes()?))
    }

    pub(crate) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = self.u32()? as usize;
        // Every item takes at least one byte, so a wrong count can't ask for memory that the bytes
        // do not justify.
        if count > self.0.len() {
            return Err(RecordError::Truncated);
        }
        (0..count).map(|_| each(self)).collect()
    }

    pub(crate) fn option<T>(
        &mut self,
        some: impl FnOnce(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Option<T>, RecordError> {
        if self.bool()? {
            some(self).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn finish(&self) -> Result<(), RecordError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(RecordError::Trailing(left)),
        }
    }
}
