//! What can be wrong with bytes, or with a value for a version.

/// Why bytes are not the message that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field goes on past the last byte.
    #[error("ends in the middle of a field")]
    Truncated,
    /// A length is negative, or the bytes left cannot hold that many.
    #[error("length {0} cannot be")]
    Length(i64),
    /// A variable-length integer goes on for too many bytes.
    #[error("variable-length integer too long")]
    Varint,
    /// A string is not UTF-8.
    #[error("string is not UTF-8")]
    Utf8,
    /// A field that must have a value is null in this version.
    #[error("null where a value must be")]
    Null,
    /// Tags must ascend.
    #[error("tag {0} follows a tag that is not smaller")]
    TagOrder(u32),
    /// A tag of a later version.
    #[error("tag {0} is not valid in this version")]
    TagNotInVersion(u32),
    /// A tagged field is shorter than its declared size.
    #[error("tagged field has {0} bytes too many")]
    TagSize(usize),
    /// The message does not exist in this version.
    #[error("version {0} is not known")]
    Version(i16),
    /// Bytes after the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// Why a value cannot be written in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message does not exist in this version.
    #[error("{name} has no version {version}")]
    Version {
        /// Name of the message.
        name: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A field that must not get lost is set, and this version lacks it.
    #[error("{field} is set, and version {version} has no such field")]
    NotInVersion {
        /// The schema's name of the field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A field may not be null in this version.
    #[error("{field} is null, and may not be in version {version}")]
    Null {
        /// The schema's name of the field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A string, array or byte sequence is longer than its length field can say.
    #[error("length {0} does not fit")]
    Length(usize),
}
