//! Stored records as JSON text, as Kafka's own tools show them: for people and scripts, never read
//! back.
//!
//! Names are the schemas', in lower camel case; bytes are base64; a field that the version lacks,
//! and a tagged field that says nothing, are left out.

use crate::records::{read_metadata_prefix, read_version_prefix};
use crate::{DecodeError, Message};
use flumen_base::Uuid;
use std::borrow::Cow;
use std::fmt::Write as _;

/// A value that can be shown.
pub trait ToJson {
    /// Appends it as it stands in a message of this version.
    fn to_json(&self, out: &mut String, version: i16);
}

/// Whose records a topic holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `__consumer_offsets`.
    Groups,
    /// `__transaction_state`.
    Transactions,
    /// `__share_group_state`.
    Shares,
}

impl Store {
    /// The store that a topic is, by its name.
    pub fn of_topic(name: &str) -> Option<Self> {
        match name {
            "__consumer_offsets" => Some(Self::Groups),
            "__transaction_state" => Some(Self::Transactions),
            "__share_group_state" => Some(Self::Shares),
            _ => None,
        }
    }
}

/// A key of a coordinator's topic: `{"type":"1","data":{...}}`, with the record's number. `None`
/// for a number that 4.3.1 does not know.
///
/// # Errors
/// The bytes are not what the number says.
pub fn coordinator_key(store: Store, key: &[u8]) -> Result<Option<(i16, String)>, DecodeError> {
    let (kind, body) = read_version_prefix(key)?;
    let shown = match store {
        Store::Groups => generated::group_key(kind, 0, body),
        Store::Transactions => generated::transaction_key(kind, 0, body),
        Store::Shares => generated::share_key(kind, 0, body),
    };
    let Some(shown) = shown else { return Ok(None) };
    let text = shown.data?;
    Ok(Some((
        kind,
        format!("{{\"type\":\"{kind}\",\"data\":{text}}}"),
    )))
}

/// The value behind a key of this number: `{"version":"3","data":{...}}`. `None` as there.
///
/// # Errors
/// The bytes are not what the number and their version say.
pub fn coordinator_value(
    store: Store,
    kind: i16,
    value: &[u8],
) -> Result<Option<String>, DecodeError> {
    let (version, body) = read_version_prefix(value)?;
    let shown = match store {
        Store::Groups => generated::group_value(kind, version, body),
        Store::Transactions => generated::transaction_value(kind, version, body),
        Store::Shares => generated::share_value(kind, version, body),
    };
    let Some(shown) = shown else { return Ok(None) };
    let text = shown.data?;
    Ok(Some(format!(
        "{{\"version\":\"{version}\",\"data\":{text}}}"
    )))
}

/// A record of Kafka's `__cluster_metadata`: `{"type":"TOPIC_RECORD","version":0,"data":{...}}`.
/// `None` for a number that 4.3.1 does not know.
///
/// # Errors
/// The bytes are not such a record.
pub fn metadata_value(value: &[u8]) -> Result<Option<String>, DecodeError> {
    let (kind, version, body) = read_metadata_prefix(value)?;
    let Some(shown) = generated::metadata(kind, version, body) else {
        return Ok(None);
    };
    let name = upper_snake(shown.name);
    let text = shown.data?;
    Ok(Some(format!(
        "{{\"type\":\"{name}\",\"version\":{version},\"data\":{text}}}"
    )))
}

/// `TopicRecord` to `TOPIC_RECORD`.
fn upper_snake(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// A record of a known number.
struct Shown {
    name: &'static str,
    data: Result<String, DecodeError>,
}

fn show<'a, T: Message<'a> + ToJson>(body: &'a [u8], version: i16) -> Shown {
    let data = T::decode_exact(body, version).map(|value| {
        let mut out = String::new();
        value.to_json(&mut out, version);
        out
    });
    Shown {
        name: T::NAME,
        data,
    }
}

/// Writes the fields of one structure.
struct Object<'o> {
    out: &'o mut String,
    first: bool,
}

impl<'o> Object<'o> {
    fn new(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    fn field(&mut self, name: &str, value: &impl ToJson, version: i16) {
        if !std::mem::take(&mut self.first) {
            self.out.push(',');
        }
        quoted(name, self.out);
        self.out.push(':');
        value.to_json(self.out, version);
    }

    fn end(self) {
        self.out.push('}');
    }
}

/// Appends text as a JSON string.
pub fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c)); // a String takes all
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends bytes in base64 with padding, as a JSON string.
fn base64(bytes: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push('"');
    for group in bytes.chunks(3) {
        let at = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            if digit > group.len() {
                out.push('=');
            } else {
                let index = (bits >> (18 - 6 * digit)) as usize & 63;
                out.push(char::from(ALPHABET[index])); // the index has six bits
            }
        }
    }
    out.push('"');
}

macro_rules! plain {
    ($($kind:ty),*) => {$(
        impl ToJson for $kind {
            fn to_json(&self, out: &mut String, _: i16) {
                let _ = write!(out, "{self}"); // a String takes all
            }
        }
    )*};
}

plain!(bool, i8, i16, i32, i64, u16, u32);

impl ToJson for f64 {
    fn to_json(&self, out: &mut String, _: i16) {
        // JSON has no words for the others.
        let _ = if self.is_finite() {
            write!(out, "{self:?}")
        } else {
            write!(out, "\"{self}\"")
        };
    }
}

impl ToJson for Uuid {
    fn to_json(&self, out: &mut String, _: i16) {
        let _ = write!(out, "\"{self}\""); // a String takes all
    }
}

impl ToJson for Cow<'_, str> {
    fn to_json(&self, out: &mut String, _: i16) {
        quoted(self, out);
    }
}

impl ToJson for Cow<'_, [u8]> {
    fn to_json(&self, out: &mut String, _: i16) {
        base64(self, out);
    }
}

impl<T: ToJson> ToJson for Option<T> {
    fn to_json(&self, out: &mut String, version: i16) {
        match self {
            Some(value) => value.to_json(out, version),
            None => out.push_str("null"),
        }
    }
}

impl<T: ToJson> ToJson for Vec<T> {
    fn to_json(&self, out: &mut String, version: i16) {
        out.push('[');
        for (n, value) in self.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            value.to_json(out, version);
        }
        out.push(']');
    }
}

#[allow(clippy::all, unused_variables, unused_mut, unused_qualifications)] // generated
mod generated {
    use super::{Object, Shown, ToJson, show};
    #[allow(unused_imports)]
    use flumen_base::Uuid;
    include!(concat!(env!("OUT_DIR"), "/json.rs"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{self, GroupMetadataKey, OffsetCommitKey, OffsetCommitValue, TopicRecord};

    fn data(value: &impl ToJson, version: i16) -> String {
        let mut out = String::new();
        value.to_json(&mut out, version);
        out
    }

    #[test]
    fn records_look_as_kafka_shows_them() {
        let key = records::encode_key(&OffsetCommitKey {
            group: "g".into(),
            topic: "t\"".into(),
            partition: 3,
        });
        let shown = coordinator_key(Store::Groups, &key.unwrap()).unwrap();
        let text = r#"{"type":"1","data":{"group":"g","topic":"t\"","partition":3}}"#;
        assert_eq!(shown, Some((1, text.to_owned())));
        let value = OffsetCommitValue {
            offset: 7,
            leader_epoch: -1,
            metadata: "m".into(),
            commit_timestamp: 9,
            ..Default::default()
        };
        let bytes = records::encode_versioned(&value, 3).unwrap();
        let shown = coordinator_value(Store::Groups, 1, &bytes).unwrap();
        let data_3 = r#"{"offset":7,"leaderEpoch":-1,"metadata":"m","commitTimestamp":9}"#;
        let text = format!(r#"{{"version":"3","data":{data_3}}}"#);
        assert_eq!(shown, Some(text));
        assert!(data(&value, 1).contains("expireTimestamp"));
        assert!(!data(&value, 4).contains("topicId"), "a tag at its default");
    }

    #[test]
    fn metadata_records_have_their_frame() {
        let id = Uuid::METADATA_TOPIC;
        let record = TopicRecord {
            name: "t".into(),
            topic_id: id,
        };
        let mut w = crate::Writer::new();
        for prefix in [1, 2, 0] {
            w.uvarint(prefix); // frame, record type, version
        }
        record.encode(&mut w, 0).unwrap();
        let text = format!(
            r#"{{"type":"TOPIC_RECORD","version":0,"data":{{"name":"t","topicId":"{id}"}}}}"#
        );
        assert_eq!(metadata_value(w.as_slice()).unwrap(), Some(text));
        assert_eq!(metadata_value(&[1, 99, 0]), Ok(None));
        assert!(metadata_value(&[1]).is_err());
    }

    #[test]
    fn what_is_not_known_or_not_whole_is_said() {
        assert_eq!(coordinator_key(Store::Groups, &[0x7f, 0, 1]), Ok(None));
        assert!(coordinator_key(Store::Groups, &[0]).is_err());
        let key = records::encode_key(&GroupMetadataKey { group: "g".into() }).unwrap();
        assert!(coordinator_key(Store::Groups, &key[..3]).is_err());
        assert_eq!(
            Store::of_topic("__transaction_state"),
            Some(Store::Transactions)
        );
        assert_eq!(Store::of_topic("t"), None);
    }

    /// Whatever the bytes are: refused, or shown.
    #[test]
    fn any_bytes_end_without_panic() {
        let stores = [Store::Groups, Store::Transactions, Store::Shares];
        for seed in 0..20_000 {
            let mut prng = flumen_base::Prng::new(seed);
            let len = prng.below(60) as usize;
            let mut bytes: Vec<u8> = (0..len).map(|_| prng.next_u64() as u8).collect();
            let kind = prng.below(25) as i16;
            // Half of them begin as a record would.
            if prng.one_in(2) {
                bytes.splice(..0, kind.to_be_bytes());
            }
            for store in stores {
                let _ = coordinator_key(store, &bytes);
                let _ = coordinator_value(store, kind, &bytes);
            }
            bytes.splice(..0, [1, kind as u8, 0]);
            let _ = metadata_value(&bytes);
        }
    }

    #[test]
    fn text_and_bytes_are_escaped() {
        let mut out = String::new();
        quoted("a\u{1}\n\\é", &mut out);
        assert_eq!(out, "\"a\\u0001\\n\\\\é\"");
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
        ] {
            let mut out = String::new();
            base64(bytes, &mut out);
            assert_eq!(out, format!("\"{text}\""));
        }
    }
}
