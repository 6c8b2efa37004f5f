//! What the disk holds when the process has ended. A copy of it is loaded as the next process will
//! load it, and then read from end to end without any index: it must hold what was promised, and
//! indexes, producers and epochs must be what the batches say.

use crate::broker::Broker;
use crate::client::Spec;
use crate::model::{Model, OnDisk, Tp};
use crate::trace::{Trace, note};
use crate::{Check, boot, shown};
use flumen_base::{Disk, Offset};
use flumen_log::batch::{Batch, BatchHeader, Batches};
use flumen_log::checkpoint::{Offsets, read_partition_metadata};
use flumen_log::index::{
    IndexEntry, OFFSET_ENTRY_LEN, TIME_ENTRY_LEN, TimeEntry, decode_offsets, decode_times,
};
use flumen_log::recovery::{LoadParams, load};
use flumen_log::segment::{
    INDEX_SUFFIX, LOG_SUFFIX, TIME_INDEX_SUFFIX, offset_of_name, segment_path,
};
use flumen_log::testing::MemDisk;
use flumen_log::{FileIds, Log, LogConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One partition on the copied disk.
struct Dir<'a> {
    disk: &'a MemDisk,
    path: PathBuf,
    tp: Tp,
    /// It was closed in order.
    clean: bool,
    /// A power loss may have left garbage in the epochs of batches, which no CRC covers.
    any_epoch: bool,
    /// Not compacted: dense, and each batch but the first of a segment has an index entry.
    plain: bool,
    /// The model knows what was produced to it.
    known: bool,
}

/// A segment's file, and where its batches begin.
struct Segment {
    base: i64,
    bytes: Vec<u8>,
}

/// A batch and where it begins in its file.
type Placed<'a> = (u64, Batch<'a>);

/// Looks at every partition of every topic that the metadata has.
pub(crate) fn audit(b: &Broker, model: &mut Model, specs: &[Spec], trace: &mut Trace) -> Check {
    let disk = b.disk.fork();
    let loaded = boot::load(&disk, &b.config);
    let (_, states, image) = loaded.map_err(|e| format!("a copy of the disk: {e}"))?;
    let (mut partitions, mut batches) = (0, 0);
    for topic in image.topics().values() {
        let spec = specs.iter().find(|s| *s.name == *topic.name);
        for partition in &topic.partitions {
            let tp = (topic.id, partition.index);
            if model.is_rotten(tp) {
                continue;
            }
            let name = format!("{}-{}", topic.name, partition.index);
            let dirs = b.config.log_dirs.iter().zip(&states);
            let mut dirs = dirs.map(|(dir, state)| (dir.path.join(&name), state));
            let id = |path: &Path| read_partition_metadata(&disk, path).ok().flatten();
            let Some((path, state)) = dirs.find(|(path, _)| id(path) == Some(topic.id)) else {
                if model.must_be_there(tp) {
                    return Err(format!("{tp:?}: {name} is not on the disk"));
                }
                continue;
            };
            let key = (topic.name.to_string(), partition.index);
            let at = |offsets: &Offsets| offsets.get(&key).copied();
            let params = LoadParams {
                dir: path.clone(),
                config: Arc::new(config_of(spec)),
                recovery_point: at(&state.recovery_points).unwrap_or_default(),
                log_start_offset: at(&state.log_starts).unwrap_or_default(),
                cleaned_offset: at(&state.cleaned).unwrap_or_default(),
                clean: state.clean,
                now_ms: b.wall_ms,
                topic_id: topic.id,
            };
            let dir = Dir {
                disk: &disk,
                path,
                tp,
                clean: state.clean,
                any_epoch: b.garbage,
                plain: spec.is_some_and(|s| !s.compacted),
                known: spec.is_some_and(|s| !s.compacted && !s.transactional),
            };
            partitions += 1;
            batches += dir.audit(params, model)?;
        }
    }
    note!(trace, "audit: {partitions} partitions, {batches} batches");
    Ok(())
}

/// The settings that matter to loading, as the administrator has made them.
fn config_of(spec: Option<&Spec>) -> LogConfig {
    let mut config = LogConfig::default();
    if let Some(spec) = spec {
        config.index_interval_bytes = 0;
        config.flush_messages = if spec.durable { 1 } else { i64::MAX };
    }
    config.cleanup_policy.compact = spec.is_none_or(|s| s.compacted);
    config
}

impl Dir<'_> {
    /// Loads the partition and holds what loading gives against what its files hold; the number of
    /// its batches.
    fn audit(&self, params: LoadParams, model: &mut Model) -> Check<usize> {
        let tp = self.tp;
        let config = Arc::clone(&params.config);
        let loaded = load(self.disk, params).map_err(|e| format!("{tp:?} does not load: {e}"))?;
        let log = Log::from_loaded(loaded, config, FileIds::default());
        let (log_start, log_end) = (log.log_start_offset().0, log.log_end_offset().0);
        let segments = self.segments(log_start)?;
        let mut next = None;
        let mut batches = BTreeMap::new();
        let mut producers = BTreeMap::new();
        for (n, segment) in segments.iter().enumerate() {
            let placed = self.scan(segment, next)?;
            next = Some(
                placed
                    .last()
                    .map_or(segment.base, |b| b.1.header.last_offset() + 1),
            );
            let is_last = n + 1 == segments.len();
            if !is_last || self.clean {
                self.check_indexes(segment, &placed)?;
            }
            for (_, batch) in &placed {
                let header = &batch.header;
                if header.producer_id() >= 0 {
                    take_producer(&mut producers, header);
                }
                if header.last_offset() < log_start {
                    continue;
                }
                let (epoch, known) = (
                    header.leader_epoch(),
                    log.epoch_at(Offset(header.base_offset())),
                );
                let told = known >= 0 && !self.any_epoch && header.base_offset() >= log_start;
                if told && epoch != known {
                    let base = header.base_offset();
                    return Err(format!(
                        "{tp:?}: the batch at {base} is of epoch {epoch}, not {known}"
                    ));
                }
            }
            batches.extend(
                placed
                    .iter()
                    .map(|(_, b)| (b.header.base_offset(), b.bytes())),
            );
        }
        if next != Some(log_end) {
            return Err(format!(
                "{tp:?}: the batches end at {next:?}, the log at {log_end}"
            ));
        }
        self.check_producers(&log, &producers)?;
        let count = batches.len();
        if self.known {
            model.on_disk(&OnDisk {
                tp,
                clean: self.clean,
                log_start,
                log_end,
                size: segments.iter().map(|s| s.bytes.len() as u64).sum(),
                batches,
            })?;
        }
        Ok(count)
    }

    /// Those that hold something at or above `from`. What is left of others may be anything: they
    /// are on their way out.
    fn segments(&self, from: i64) -> Check<Vec<Segment>> {
        let names = self.disk.list(&self.path).map_err(shown)?;
        let mut bases: Vec<i64> = names
            .iter()
            .filter_map(|n| offset_of_name(&n.0, LOG_SUFFIX))
            .collect();
        bases.sort_unstable();
        let above = bases.partition_point(|base| *base <= from);
        bases.drain(..above.saturating_sub(1));
        let read = |base| Segment {
            base,
            bytes: self.read(base, LOG_SUFFIX).unwrap_or_default(),
        };
        Ok(bases.into_iter().map(read).collect())
    }

    fn read(&self, base: i64, suffix: &str) -> Option<Vec<u8>> {
        self.disk.contents(&segment_path(&self.path, base, suffix))
    }

    /// The batches of a segment: whole, valid, and one behind the other from `next` on.
    fn scan<'s>(&self, segment: &'s Segment, next: Option<i64>) -> Check<Vec<Placed<'s>>> {
        let (tp, base) = (self.tp, segment.base);
        let mut placed = Vec::new();
        let mut pos = 0;
        let mut next = next.unwrap_or(base);
        let follows = |at: i64, next: i64| at == next || (at > next && !self.plain);
        if !follows(base, next) {
            return Err(format!("{tp:?}: segment {base} follows the end {next}"));
        }
        for batch in Batches::new(&segment.bytes) {
            let batch = batch.and_then(|batch| batch.check_crc().map(|()| batch));
            let batch = batch.map_err(|e| format!("{tp:?}: segment {base} at byte {pos}: {e}"))?;
            let first = batch.header.base_offset();
            if !follows(first, next) {
                return Err(format!(
                    "{tp:?}: {first} stands where {next} should, segment {base}"
                ));
            }
            next = batch.header.last_offset() + 1;
            let len = batch.bytes().len() as u64;
            placed.push((pos, batch));
            pos += len;
        }
        if pos != segment.bytes.len() as u64 {
            return Err(format!(
                "{tp:?}: segment {base} ends inside of the batch at byte {pos}"
            ));
        }
        Ok(placed)
    }

    fn check_indexes(&self, segment: &Segment, placed: &[Placed<'_>]) -> Check {
        let (tp, base) = (self.tp, segment.base);
        let wrong = |what: String| Err(format!("{tp:?}: segment {base}: {what}"));
        let file = self.read(base, INDEX_SUFFIX).unwrap_or_default();
        let entries: Vec<IndexEntry> = decode_offsets(&file).collect();
        if entries.len() * OFFSET_ENTRY_LEN != file.len() {
            return wrong(format!(
                "the index goes back after {} entries",
                entries.len()
            ));
        }
        for entry in &entries {
            let there = placed.binary_search_by_key(&u64::from(entry.position), |b| b.0);
            let there = there.ok().and_then(|n| placed.get(n));
            let last = there.map(|b| b.1.header.last_offset());
            if last != Some(base + i64::from(entry.last)) {
                return wrong(format!(
                    "{entry:?} of the index, but the batch there ends at {last:?}"
                ));
            }
        }
        let expected = placed.len().saturating_sub(1);
        if self.plain && entries.len() != expected {
            return wrong(format!(
                "{} index entries for {expected} batches",
                entries.len()
            ));
        }
        self.check_times(segment, placed)
    }

    /// Each entry of the time index is the largest timestamp so far, and the last of all.
    fn check_times(&self, segment: &Segment, placed: &[Placed<'_>]) -> Check {
        let (tp, base) = (self.tp, segment.base);
        let wrong = |what: String| Err(format!("{tp:?}: segment {base}: {what}"));
        let file = self.read(base, TIME_INDEX_SUFFIX).unwrap_or_default();
        let times: Vec<TimeEntry> = decode_times(&file).collect();
        if times.len() * TIME_ENTRY_LEN != file.len() {
            return wrong(format!(
                "the time index goes back after {} entries",
                times.len()
            ));
        }
        let mut left = times.iter().peekable();
        let mut max = -1;
        for (_, batch) in placed {
            let header = &batch.header;
            let last = header.last_offset();
            while let Some(entry) = left.next_if(|e| base + i64::from(e.offset) <= last) {
                let fits = base + i64::from(entry.offset) == last
                    && entry.timestamp == header.max_timestamp()
                    && entry.timestamp > max;
                if !fits {
                    return wrong(format!(
                        "{entry:?} of the time index, the largest was {max}"
                    ));
                }
            }
            max = max.max(header.max_timestamp());
        }
        let closing = times.last().map_or(-1, |e| e.timestamp);
        if left.next().is_some() || closing != max {
            return wrong(format!(
                "the time index ends with {closing}, the largest is {max}"
            ));
        }
        Ok(())
    }

    /// Loading knows the last batch of each producer that has one in the log, and none that is not
    /// in it. Below the log's start as well, in the segment where that is.
    fn check_producers(&self, log: &Log, scanned: &BTreeMap<i64, (i16, i32)>) -> Check {
        let tp = self.tp;
        for (id, last) in scanned {
            let entry = log.producers().get(*id);
            let known = entry.map(|e| (e.epoch, e.last_sequence()));
            if known != Some(*last) {
                return Err(format!(
                    "{tp:?}: the last of producer {id} is {last:?}, but loading gives {known:?}"
                ));
            }
        }
        let end = log.log_end_offset().0;
        let beyond = |e: &flumen_log::producer_state::ProducerEntry| {
            e.batches.last().is_some_and(|b| b.last_offset >= end)
        };
        match log.producers().iter().find(|(_, e)| beyond(e)) {
            Some((id, entry)) => Err(format!(
                "{tp:?}: producer {id} is beyond the end: {entry:?}"
            )),
            None => Ok(()),
        }
    }
}

/// The last of a batch's producer. A marker says its epoch; what was written under another one
/// counts no more.
fn take_producer(producers: &mut BTreeMap<i64, (i16, i32)>, header: &BatchHeader<'_>) {
    let (id, epoch) = (header.producer_id(), header.producer_epoch());
    let sequence = match header.is_control() {
        false => header.last_sequence(),
        true => producers
            .get(&id)
            .filter(|known| known.0 == epoch)
            .map_or(-1, |known| known.1),
    };
    producers.insert(id, (epoch, sequence));
}
