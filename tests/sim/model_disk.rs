//! Promises that are held against the disk when the process has ended, and against searches by
//! time.

use super::{BatchNo, Floor, Model, Part, Tp, body_of};
use crate::Check;
use std::collections::{BTreeMap, BTreeSet};

/// What the next process will find of one partition.
#[derive(Debug)]
pub(crate) struct OnDisk<'a> {
    pub(crate) tp: Tp,
    /// Everything was closed in order.
    pub(crate) clean: bool,
    pub(crate) log_start: i64,
    pub(crate) log_end: i64,
    /// Bytes of all segments.
    pub(crate) size: u64,
    /// All batches of all segments, by base offset.
    pub(crate) batches: BTreeMap<i64, &'a [u8]>,
}

impl Model {
    /// Partitions of which something is known that must be on the disk.
    pub(crate) fn must_be_there(&self, tp: Tp) -> bool {
        let part = self.parts.get(&tp);
        part.is_some_and(|p| !p.rotten && p.high > p.start)
    }

    /// The disk holds all that was acked, at the offsets that were answered, and nothing that
    /// nobody produced. Its log start is the one that counts from now on.
    pub(crate) fn on_disk(&mut self, found: &OnDisk<'_>) -> Check {
        let tp = found.tp;
        let Some(part) = self.parts.get(&tp) else {
            return Ok(());
        };
        if !part.rotten {
            check_bounds(part, found, self.unclean_ends == 0)?;
            self.all_acked_is_there(part, found)?;
            self.all_was_produced(part, found)?;
        }
        if let Some(part) = self.parts.get_mut(&tp) {
            part.start = found.log_start;
        }
        Ok(())
    }

    fn all_acked_is_there(&self, part: &Part, found: &OnDisk<'_>) -> Check {
        let tp = found.tp;
        for (&base, &no) in &part.at {
            let end = base + self.produced[no].count;
            if end <= found.log_start {
                continue;
            }
            let bytes = found.batches.get(&base);
            let there = bytes.and_then(|b| self.by_body.get(body_of(b)));
            if there != Some(&no) {
                return Err(format!(
                    "{tp:?}: batch {no} at {base}..{end} is not on the disk, but {there:?}"
                ));
            }
        }
        Ok(())
    }

    fn all_was_produced(&self, part: &Part, found: &OnDisk<'_>) -> Check {
        let tp = found.tp;
        let mut seen: BTreeSet<BatchNo> = BTreeSet::new();
        for (base, bytes) in &found.batches {
            let Some(&no) = self.by_body.get(body_of(bytes)) else {
                return Err(format!(
                    "{tp:?}: nobody produced the batch at {base} on the disk"
                ));
            };
            let batch = &self.produced[no];
            if base + batch.count <= found.log_start {
                continue; // its producer may be forgotten by now, as in Kafka
            }
            if batch.tp != tp {
                let wanted = batch.tp;
                return Err(format!(
                    "{tp:?}: batch {no} at {base} was sent to {wanted:?}"
                ));
            }
            let elsewhere = part.place.get(&no).filter(|first| *first != base);
            let elsewhere = elsewhere.filter(|first| **first >= found.log_start);
            if batch.idempotent && (!seen.insert(no) || elsewhere.is_some()) {
                return Err(format!(
                    "{tp:?}: idempotent batch {no} is on the disk at {base} and at {elsewhere:?}"
                ));
            }
        }
        Ok(())
    }

    /// The answer to a search for the first record that is not older than `wanted` (or, for
    /// `None`, for the first of the youngest): its timestamp and offset, if there is one.
    pub(crate) fn found_by_time(
        &self,
        tp: Tp,
        floor: Floor,
        wanted: Option<i64>,
        found: Option<(i64, i64)>,
    ) -> Check {
        let Some(part) = self.parts.get(&tp) else {
            return Ok(());
        };
        if part.rotten || part.losses != floor.losses {
            return Ok(());
        }
        if let Some((timestamp, offset)) = found {
            let right = self
                .timestamp_at(part, offset)
                .is_none_or(|t| t == timestamp);
            if !right || wanted.is_some_and(|wanted| timestamp < wanted) {
                return Err(format!(
                    "{tp:?}: a search for {wanted:?} found {timestamp} at {offset}"
                ));
            }
        }
        for (&base, &no) in part.at.range(..floor.high) {
            let batch = &self.produced[no];
            let end = base + batch.count;
            let first = base.max(part.start_limit);
            if end > floor.high || first >= end {
                continue; // it may have come later, or be deleted
            }
            // What of it qualifies, and better than what was found?
            let timestamp_of = |offset: i64| batch.first_timestamp + (offset - base);
            let best = match (wanted, found) {
                (Some(wanted), _) => (first..end).find(|o| timestamp_of(*o) >= wanted),
                (None, Some((youngest, _))) => (first..end).find(|o| timestamp_of(*o) > youngest),
                (None, None) => Some(first),
            };
            let missed = match (best, found) {
                (Some(best), Some((_, offset))) => wanted.is_none() || best < offset,
                (best, _) => best.is_some(),
            };
            if missed {
                return Err(format!(
                    "{tp:?}: a search for {wanted:?} found {found:?}, but batch {no} is at {base}"
                ));
            }
        }
        Ok(())
    }

    /// The timestamp of a record, if it is known what stands at its offset.
    fn timestamp_at(&self, part: &Part, offset: i64) -> Option<i64> {
        let (&base, &no) = part.at.range(..=offset).next_back()?;
        let batch = &self.produced[no];
        (offset < base + batch.count).then(|| batch.first_timestamp + (offset - base))
    }
}

fn check_bounds(part: &Part, found: &OnDisk<'_>, always_clean: bool) -> Check {
    let OnDisk {
        tp,
        clean,
        log_start,
        log_end,
        size,
        ..
    } = *found;
    if log_end < part.high {
        let high = part.high;
        return Err(format!(
            "{tp:?}: the high watermark was {high}, the log on the disk ends at {log_end}"
        ));
    }
    if clean && log_start < part.start {
        let was = part.start;
        return Err(format!(
            "{tp:?}: the log start was {was}, after a clean stop it is {log_start}"
        ));
    }
    match part.keeps {
        None if log_start > part.start_limit => Err(format!(
            "{tp:?}: the log starts at {log_start} on the disk, deleted was below {}",
            part.start_limit
        )),
        // What was staged and not written counted as kept, and is gone with an unclean end.
        Some(keeps) if clean && always_clean && log_start > 0 && size < keeps => {
            Err(format!("{tp:?}: retention left {size} bytes of {keeps}"))
        }
        _ => Ok(()),
    }
}
