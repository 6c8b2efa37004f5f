//! Records of a batch as lines: offsets and sizes, and keys and payloads as far as they are
//! understood.

use super::Decoder;
use super::line::{Line, Shown};
use flumen_log::batch::{BatchHeader, Record, sequence_add};
use flumen_log::config::TimestampType;
use flumen_log::inspect::partition_of_dir;
use flumen_wire::DecodeError;
use flumen_wire::json::{self, Store, ToJson};
use flumen_wire::records::{
    EndTxnMarker, KRaftVersionRecord, LeaderChangeMessage, SnapshotFooterRecord,
    SnapshotHeaderRecord, VotersRecord,
};
use flumen_wire::{Message, Reader};
use std::path::Path;

/// How the records of a file are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Plain,
    Coordinator(Store),
    Metadata,
}

impl Meaning {
    /// As asked for, or by the name of the directory that the file is in.
    pub(super) fn of(decoder: Decoder, file: &Path) -> Self {
        let by_name = || {
            let dir = file.canonicalize().ok()?;
            let dir = dir.parent()?.file_name()?.to_str()?.to_owned();
            let (topic, _) = partition_of_dir(&dir)?;
            match Store::of_topic(topic) {
                Some(store) => Some(Self::Coordinator(store)),
                None => (topic == "__cluster_metadata").then_some(Self::Metadata),
            }
        };
        match decoder {
            Decoder::Auto => by_name().unwrap_or(Self::Plain),
            Decoder::Plain => Self::Plain,
            Decoder::Offsets => Self::Coordinator(Store::Groups),
            Decoder::Transactions => Self::Coordinator(Store::Transactions),
            Decoder::Shares => Self::Coordinator(Store::Shares),
            Decoder::Metadata => Self::Metadata,
        }
    }
}

/// What batches call their timestamps.
pub(super) fn time_name(header: &BatchHeader<'_>) -> &'static str {
    match header.timestamp_type() {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

/// A record's line; with its data if `meaning` is given.
pub(super) fn line(
    header: &BatchHeader<'_>,
    record: &Record<'_>,
    meaning: Option<Meaning>,
) -> Line {
    let size = |bytes: Option<&[u8]>| bytes.map_or(-1, |b| b.len() as i64);
    let offset = header
        .base_offset()
        .wrapping_add(record.offset_delta.into());
    let sequence = match header.base_sequence() {
        base if base < 0 => -1,
        base => sequence_add(base, record.offset_delta),
    };
    let mut line = Line::new("record")
        .with("offset", offset)
        .with(time_name(header), header.timestamp_of(record))
        .with("keySize", size(record.key))
        .with("valueSize", size(record.value))
        .with("sequence", sequence)
        .with("headerKeys", header_keys(record));
    if header.is_control() {
        control(&mut line, record);
        return line;
    }
    match meaning {
        None => {}
        Some(Meaning::Plain) => {
            data(&mut line, "key", record.key);
            data(&mut line, "payload", record.value);
        }
        Some(Meaning::Coordinator(store)) => coordinator(&mut line, store, record),
        Some(Meaning::Metadata) => match record.value.map(json::metadata_value) {
            Some(shown) => decoded(&mut line, "payload", record.value, shown),
            None => data(&mut line, "payload", None),
        },
    }
    line
}

fn header_keys(record: &Record<'_>) -> Shown {
    let mut keys = String::from("[");
    for (n, (key, _)) in record.headers().enumerate() {
        if n > 0 {
            keys.push(',');
        }
        json::quoted(&String::from_utf8_lossy(key), &mut keys);
    }
    keys.push(']');
    Shown::Json(keys)
}

/// Bytes as text where they are, else as hexadecimal digits.
fn data(line: &mut Line, name: &'static str, bytes: Option<&[u8]>) {
    use std::fmt::Write as _;
    match bytes {
        None => line.push(name, Shown::Absent),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => line.push(name, text),
            Err(_) => {
                let mut hex = String::from("0x");
                for byte in bytes {
                    let _ = write!(hex, "{byte:02x}"); // a String takes all
                }
                line.push(name, hex);
            }
        },
    }
}

/// What a codec made of bytes; what it does not know is shown as it is.
fn decoded(
    line: &mut Line,
    name: &'static str,
    bytes: Option<&[u8]>,
    shown: Result<Option<String>, DecodeError>,
) {
    match shown {
        Ok(Some(json)) => line.push(name, Shown::Json(json)),
        Ok(None) => data(line, name, bytes),
        Err(error) => {
            data(line, name, bytes);
            line.push("undecodable", error.to_string());
        }
    }
}

fn coordinator(line: &mut Line, store: Store, record: &Record<'_>) {
    let key = record.key.map(|key| json::coordinator_key(store, key));
    let kind = match &key {
        Some(Ok(Some((kind, _)))) => Some(*kind),
        _ => None,
    };
    let shown = key.unwrap_or(Ok(None)).map(|k| k.map(|(_, json)| json));
    decoded(line, "key", record.key, shown);
    match (kind, record.value) {
        (Some(kind), Some(value)) => {
            let shown = json::coordinator_value(store, kind, value);
            decoded(line, "payload", Some(value), shown);
        }
        (_, value) => data(line, "payload", value),
    }
}

/// A control record: what it is, and what it says.
fn control(line: &mut Line, record: &Record<'_>) {
    let kind = record.key.and_then(|key| {
        let mut r = Reader::new(key);
        let (_version, kind) = (r.i16(), r.i16());
        r.check().ok().map(|()| kind)
    });
    let value = record.value.unwrap_or_default();
    match kind {
        Some(kind @ (0 | 1)) => {
            line.push("endTxnMarker", if kind == 0 { "ABORT" } else { "COMMIT" });
            // Version, then the epoch.
            let marker = value
                .get(2..)
                .map(|body| EndTxnMarker::decode_exact(body, 0));
            match marker {
                Some(Ok(marker)) => line.push("coordinatorEpoch", marker.coordinator_epoch),
                _ => line.push("undecodable", "not a transaction marker"),
            }
        }
        Some(2) => told::<LeaderChangeMessage>(line, "LeaderChange", value, 1),
        Some(3) => told::<SnapshotHeaderRecord>(line, "SnapshotHeader", value, 0),
        Some(4) => told::<SnapshotFooterRecord>(line, "SnapshotFooter", value, 0),
        Some(5) => told::<KRaftVersionRecord>(line, "KRaftVersion", value, 0),
        Some(6) => told::<VotersRecord<'_>>(line, "KRaftVoters", value, 0),
        Some(kind) => line.push("controlType", kind),
        None => line.push("undecodable", "not a control record's key"),
    }
}

/// A control record of the quorum, which has its version in itself.
fn told<'a, T: Message<'a> + ToJson>(
    line: &mut Line,
    name: &'static str,
    value: &'a [u8],
    version_max: i16,
) {
    let version = value.first_chunk().map_or(0, |v| i16::from_be_bytes(*v));
    match T::decode_exact(value, version.clamp(0, version_max)) {
        Ok(message) => {
            let mut json = String::new();
            message.to_json(&mut json, version.clamp(0, version_max));
            line.push(name, Shown::Json(json));
        }
        Err(error) => {
            data(line, name, Some(value));
            line.push("undecodable", error.to_string());
        }
    }
}
