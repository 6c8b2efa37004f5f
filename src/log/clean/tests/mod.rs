//! The cleaner against a naive model: over random histories, in tiny memory, and with the disk cut
//! off at every step.

mod crash;
mod model;
mod rules;

use super::{CleanLimits, CleanStats, CleanStep};
use crate::batch::{BatchBuilder, Batches, Records};
use crate::config::CleanupPolicy;
use crate::testing_rig::Rig;
use crate::{LogConfig, Origin, validate};
use bytes::Bytes;
use flumen_base::Disk;
use std::io;

pub(super) const RETENTION_MS: i64 = 1000;

pub(super) fn config() -> LogConfig {
    LogConfig {
        txn_verification: false,
        segment_bytes: 1500,
        index_interval_bytes: 200,
        retention_ms: -1,
        message_timestamp_after_max_ms: i64::MAX,
        delete_retention_ms: RETENTION_MS,
        min_cleanable_dirty_ratio: 0.0,
        cleanup_policy: CleanupPolicy {
            delete: false,
            compact: true,
        },
        ..LogConfig::default()
    }
}

pub(super) fn limits(map_bytes: usize) -> CleanLimits {
    CleanLimits {
        map_bytes,
        map_load_factor: 0.9,
        slice_bytes: 700,
        hash_key: [1, 2],
    }
}

/// What a reader sees of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) offset: i64,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) timestamp: i64,
    pub(super) headers: Vec<u8>,
}

/// Records in whole batches, from `offset` on, and where to go on reading.
pub(super) fn records(bytes: &[u8], offset: i64) -> (Vec<Seen>, i64) {
    let (mut out, mut next) = (Vec::new(), offset);
    for batch in Batches::new(bytes) {
        let batch = batch.unwrap();
        batch.check_crc().unwrap();
        let header = batch.header;
        let section = batch.unfold(1 << 20).unwrap();
        for record in Records::new(&section, header.count()) {
            let record = record.unwrap();
            let at = header.base_offset() + i64::from(record.offset_delta);
            if at >= offset && !header.is_control() {
                out.push(Seen {
                    offset: at,
                    key: record.key.unwrap().to_vec(),
                    value: record.value.map(<[u8]>::to_vec),
                    timestamp: header.timestamp_of(&record),
                    headers: record.headers.to_vec(),
                });
            }
        }
        assert!(header.last_offset() >= next, "a read gave what was before");
        next = header.last_offset() + 1;
    }
    (out, next)
}

/// Everything from `offset` on, as a consumer reads it.
pub(super) fn read_from(rig: &mut Rig, mut offset: i64, max_bytes: u32) -> Vec<Seen> {
    let end = rig.log.written_end_offset().0;
    let mut out = Vec::new();
    while offset < end {
        let bytes = rig.read(offset, end, max_bytes).unwrap();
        let (got, next) = records(&bytes, offset);
        if next == offset {
            break; // nothing is left up to the end
        }
        out.extend(got);
        offset = next;
    }
    out
}

/// All batches of the log's files, headers only: (base, last, count, control, horizon).
pub(super) fn batches(rig: &mut Rig) -> Vec<(i64, i64, i32, bool, Option<i64>)> {
    let end = rig.log.written_end_offset().0;
    let (mut out, mut offset) = (Vec::new(), rig.log.log_start_offset().0);
    while offset < end {
        let bytes = rig.read(offset, end, 1 << 20).unwrap();
        let before = offset;
        for batch in Batches::new(&bytes) {
            let h = batch.unwrap().header;
            let horizon = h.has_delete_horizon().then(|| h.base_timestamp());
            out.push((
                h.base_offset(),
                h.last_offset(),
                h.count(),
                h.is_control(),
                horizon,
            ));
            offset = h.last_offset() + 1;
        }
        if offset == before {
            break;
        }
    }
    out
}

/// One cleaning as a shard drives it; `None` if nothing is dirty.
pub(super) fn clean_with(
    rig: &mut Rig,
    map_bytes: usize,
    disk: &dyn Disk,
) -> io::Result<Option<CleanStats>> {
    let high_watermark = rig.log.written_end_offset();
    let Some(what) = rig.log.cleanable(rig.now(), high_watermark) else {
        return Ok(None);
    };
    let now = rig.now();
    let mut work = rig.log.start_cleaning(now, what, limits(map_bytes));
    loop {
        let output = work.slice(disk);
        work = output.work;
        match output.step {
            Ok(CleanStep::More) => {}
            Ok(CleanStep::Swap(mut job)) => {
                assert!(rig.log.begin_swap(&mut job).is_some());
                assert!(rig.log.is_swapping());
                let result = job.run(disk);
                let failed = result.as_ref().err().map(io::Error::kind);
                match rig.log.swap_done(result) {
                    Some((unlink, _)) => unlink.run(disk)?,
                    None => return Err(failed.unwrap().into()),
                }
            }
            Ok(CleanStep::Done(end)) => {
                assert!(end > what.first_dirty && end <= what.upper);
                rig.log.cleaning_done(Some(end));
                return Ok(Some(work.stats()));
            }
            Err(e) => {
                let discarded = work.discard(disk);
                rig.log.cleaning_done(None);
                discarded?;
                return Err(e);
            }
        }
    }
}

/// Cleans until nothing is dirty; how many cleanings it took.
pub(super) fn clean_all(rig: &mut Rig, map_bytes: usize) -> usize {
    let disk = rig.disk.clone();
    let mut count = 0;
    while clean_with(rig, map_bytes, &disk).unwrap().is_some() {
        count += 1;
        assert!(count < 10_000, "cleaning makes no progress");
    }
    count
}

/// Appends a batch, written and sealed where it rolled.
pub(super) fn put(rig: &mut Rig, builder: BatchBuilder) -> i64 {
    put_bytes(rig, builder.build().unwrap())
}

pub(super) fn put_bytes(rig: &mut Rig, bytes: Bytes) -> i64 {
    let now_ms = rig.now_ms;
    let valid = validate(bytes, &rig.config, Origin::Coordinator, now_ms, 1 << 20).unwrap();
    let info = rig.log.append(rig.now(), &valid, 0).unwrap();
    rig.write();
    info.base_offset.0
}

/// Ends the active segment, and seals it.
pub(super) fn roll(rig: &mut Rig) {
    rig.log.roll(rig.now());
    rig.seal();
}

/// One record.
pub(super) fn one(key: &str, value: Option<&str>, timestamp: i64) -> BatchBuilder {
    let mut b = BatchBuilder::new();
    b.push(timestamp, Some(key.as_bytes()), value.map(str::as_bytes));
    b
}

/// The log again, after its process has died.
pub(super) fn reopen(rig: Rig) -> Rig {
    let cleaned = rig.log.cleaned_offset();
    let point = rig.log.recovery_point().0;
    let config = (*rig.config).clone();
    let (disk, now_ms, start) = (rig.disk.clone(), rig.now_ms, rig.log.log_start_offset().0);
    drop(rig);
    let mut rig = Rig::open(disk, config, point, start, false);
    rig.now_ms = now_ms;
    rig.log.set_cleaned_offset(cleaned);
    rig
}
