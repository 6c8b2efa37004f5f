//! What of one batch stays, and the batch as it is written then.
//!
//! A batch keeps its base and last offset, its sequences, epoch and codec, whatever records go: so
//! offsets, and what is known of its producer, stay what they were. One that must stay for its
//! producer's sake, or as the end of the cleaned part, stays as a header without records.
//!
//! Tombstones and markers of empty transactions get a delete horizon when they are met first: it
//! takes the place of the base timestamp, and attribute bit 6 says so. When it has passed they go.

use super::map::OffsetMap;
use super::txns::TxnState;
use crate::batch::{
    ATTR_CONTROL, ATTR_DELETE_HORIZON, ATTR_LOG_APPEND_TIME, ATTR_TRANSACTIONAL, Batch, BatchError,
    BatchHeader, CRC_START, HEADER_LEN, LOG_OVERHEAD, Record, Records,
};
use crate::builder::put_record;
use crate::codec::{self, Compression};
use crate::config::TimestampType;
use crate::crc;
use crate::validate::default_level;
use flumen_base::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use flumen_base::{IdMap, ProducerId};

/// The last batch that a producer is known by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastRecord {
    /// Offset of its last record of data, if one of its epoch is remembered.
    pub(crate) offset: Option<i64>,
    pub(crate) epoch: i16,
}

/// The rules of one pass.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    pub(crate) map: &'a OffsetMap,
    pub(crate) producers: &'a IdMap<ProducerId, LastRecord>,
    pub(crate) txns: &'a mut TxnState,
    pub(crate) now_ms: i64,
    pub(crate) delete_retention_ms: i64,
    /// One above the last offset of the part that may be cleaned.
    pub(crate) upper: i64,
}

/// What stays of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Nothing,
    /// All of it, as it is.
    Whole,
    /// This instead.
    Rewritten(Vec<u8>),
}

/// A filtered batch.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub(crate) kept: Kept,
    pub(crate) records_read: u64,
    pub(crate) records_kept: u64,
}

impl Filter<'_> {
    /// Filters the next batch.
    pub(crate) fn batch(&mut self, batch: &Batch<'_>) -> Result<Filtered, BatchError> {
        let header = &batch.header;
        let section = batch.unfold(DECOMPRESSED_BATCH_BYTES_MAX)?;
        let mut records_read = 0;
        let mut kept: Vec<Record<'_>> = Vec::new();
        let may_go = if header.is_control() {
            let marker = Records::new(&section, header.count()).next().transpose()?;
            self.txns.on_control(header, marker.as_ref())
        } else {
            self.txns.on_data(header)
        };
        let all_go = match header.is_control() {
            true => may_go && horizon_of(header).is_some_and(|horizon| horizon <= self.now_ms),
            false => may_go,
        };
        let mut tombstones = false;
        for record in Records::new(&section, header.count()) {
            let record = record?;
            records_read += 1;
            let stays = !all_go && (header.is_control() || self.stays(header, &record));
            if !stays {
                continue;
            }
            let offset = header.base_offset() + i64::from(record.offset_delta);
            // Before what the map knows all older records of their keys are gone with this pass.
            tombstones |= record.value.is_none() && offset <= self.map.latest();
            kept.push(record);
        }
        let records_kept = kept.len() as u64;
        let empty_txn = may_go && header.is_control();
        let new_horizon = (tombstones || empty_txn) && !header.has_delete_horizon();
        let kept = if kept.is_empty() {
            match self.must_stay(header) {
                true if header.count() == 0 => Kept::Whole,
                true => Kept::Rewritten(empty(header)),
                false => Kept::Nothing,
            }
        } else if records_kept == records_read && !new_horizon {
            Kept::Whole
        } else {
            let horizon = match new_horizon {
                true => Some(self.now_ms.saturating_add(self.delete_retention_ms)),
                false => horizon_of(header),
            };
            Kept::Rewritten(rewrite(header, &kept, horizon)?)
        };
        Ok(Filtered {
            kept,
            records_read,
            records_kept,
        })
    }

    /// Whether a record of data stays.
    fn stays(&self, header: &BatchHeader<'_>, record: &Record<'_>) -> bool {
        let offset = header.base_offset() + i64::from(record.offset_delta);
        if offset > self.map.latest() {
            return true;
        }
        let Some(key) = record.key else {
            return false; // written before the topic was compacted
        };
        let is_last = self.map.get(key).is_none_or(|last| offset >= last);
        let is_needed = || {
            record.value.is_some() || horizon_of(header).is_none_or(|horizon| self.now_ms < horizon)
        };
        is_last && is_needed()
    }

    /// Whether a batch stays even without records.
    fn must_stay(&self, header: &BatchHeader<'_>) -> bool {
        if header.last_offset() + 1 == self.upper {
            return true; // the end of the log must not go back
        }
        let Some(last) = self.producers.get(&header.producer_id()) else {
            return false;
        };
        match last.offset {
            Some(offset) => header.last_offset() == offset,
            // Its epoch is known by a marker.
            None => header.is_control() && header.producer_epoch() == last.epoch,
        }
    }
}

fn horizon_of(header: &BatchHeader<'_>) -> Option<i64> {
    header.has_delete_horizon().then(|| header.base_timestamp())
}

/// The batch with these of its records.
fn rewrite(
    header: &BatchHeader<'_>,
    records: &[Record<'_>],
    horizon: Option<i64>,
) -> Result<Vec<u8>, BatchError> {
    let first = records.first().map_or(-1, |r| header.timestamp_of(r));
    let base_timestamp = horizon.unwrap_or(first);
    let mut section = Vec::new();
    let mut scratch = Vec::new();
    let mut max_timestamp = -1;
    for record in records {
        let timestamp = header.timestamp_of(record);
        max_timestamp = timestamp.max(max_timestamp);
        let record = Record {
            timestamp_delta: timestamp.wrapping_sub(base_timestamp),
            ..record.clone()
        };
        put_record(&mut section, &mut scratch, &record);
    }
    let codec = header.compression()?;
    let section = match codec {
        Compression::None => section,
        codec => codec::compress(codec, &section, default_level(codec))?,
    };
    let horizon_bit = if horizon.is_some() {
        ATTR_DELETE_HORIZON
    } else {
        0
    };
    let times = Times {
        base: base_timestamp,
        max: match header.timestamp_type() {
            TimestampType::CreateTime => max_timestamp,
            TimestampType::LogAppendTime => header.max_timestamp(),
        },
    };
    let attributes = codec as i16 | horizon_bit;
    Ok(put_batch(
        header,
        attributes,
        times,
        records.len(),
        &section,
    ))
}

/// The batch without records.
fn empty(header: &BatchHeader<'_>) -> Vec<u8> {
    let times = Times {
        base: -1,
        max: header.max_timestamp(),
    };
    put_batch(header, 0, times, 0, &[])
}

struct Times {
    base: i64,
    max: i64,
}

fn put_batch(
    old: &BatchHeader<'_>,
    codec_and_horizon: i16,
    times: Times,
    count: usize,
    section: &[u8],
) -> Vec<u8> {
    let same = ATTR_LOG_APPEND_TIME | ATTR_TRANSACTIONAL | ATTR_CONTROL;
    let attributes = codec_and_horizon | (old.attributes() & same);
    let length = (HEADER_LEN - LOG_OVERHEAD + section.len()) as i32;
    let mut out = Vec::with_capacity(HEADER_LEN + section.len());
    out.extend_from_slice(&old.base_offset().to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&old.leader_epoch().to_be_bytes());
    out.extend_from_slice(&old.magic().to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&attributes.to_be_bytes());
    out.extend_from_slice(&old.last_offset_delta().to_be_bytes());
    out.extend_from_slice(&times.base.to_be_bytes());
    out.extend_from_slice(&times.max.to_be_bytes());
    out.extend_from_slice(&old.producer_id().to_be_bytes());
    out.extend_from_slice(&old.producer_epoch().to_be_bytes());
    out.extend_from_slice(&old.base_sequence().to_be_bytes());
    out.extend_from_slice(&(count as i32).to_be_bytes());
    out.extend_from_slice(section);
    let crc = crc::crc32c(&out[CRC_START..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out
}
