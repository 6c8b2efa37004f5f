//! One partition's directory: its segments in order, and what stands beside them.

use super::entries::{SNAPSHOT_LEN_MAX, SnapshotFile};
use super::segment::SegmentFacts;
use super::small::{Lines, partition_of_dir};
use super::verify::{Known, NOWHERE, PartitionFacts, Verifier};
use super::{FileKind, Found, Walker};
use crate::checkpoint;
use crate::epoch::{self, EpochCache};
use crate::segment::{DELETED_SUFFIX, LOG_SUFFIX, segment_path};
use std::collections::BTreeSet;
use std::path::Path;

impl Verifier<'_> {
    pub(super) fn partition(
        &mut self,
        dir: &Path,
        mut names: Vec<(String, bool)>,
        known: &Known,
    ) -> PartitionFacts {
        names.sort();
        let bases: BTreeSet<i64> = names
            .iter()
            .filter_map(|(name, is_dir)| match FileKind::of(name) {
                FileKind::Log(base) if !is_dir => Some(base),
                _ => None,
            })
            .collect();
        let has = |wanted: &str| names.iter().any(|(name, _)| name == wanted);
        let epochs_path = dir.join(epoch::FILE_NAME);
        let epochs = match has(epoch::FILE_NAME) {
            true => self.epochs(&epochs_path),
            false => None,
        };
        let topic_id = match has(checkpoint::PARTITION_METADATA) {
            true => self.partition_metadata(&dir.join(checkpoint::PARTITION_METADATA)),
            false => None,
        };
        let compacted = known.is_compacted || was_compacted(dir, &names, &bases);
        let end = self.segments(dir, &bases, epochs.as_ref(), compacted);
        for (name, is_dir) in &names {
            let path = dir.join(name);
            match FileKind::of(name) {
                _ if *is_dir => self.note(&path, NOWHERE, "a directory", "brokers leave it alone"),
                FileKind::OffsetIndex(base)
                | FileKind::TimeIndex(base)
                | FileKind::TxnIndex(base)
                    if !bases.contains(&base) =>
                {
                    let so = "it goes at the next start";
                    self.defect(&path, NOWHERE, "an index whose segment is missing", so);
                }
                FileKind::ProducerSnapshot(at) => self.snapshot(&path, at),
                FileKind::KafkaSnapshot => self.batches(&path),
                FileKind::Leftover => self.leftover(&path),
                FileKind::Other => {
                    let what = "not a file of a partition";
                    self.note(&path, NOWHERE, what, "brokers leave it alone");
                }
                _ => {}
            }
        }
        PartitionFacts { end, topic_id }
    }

    /// All segments, and that each begins where the one before it ends. Returns the log's end.
    fn segments(
        &mut self,
        dir: &Path,
        bases: &BTreeSet<i64>,
        epochs: Option<&EpochCache>,
        compacted: bool,
    ) -> i64 {
        let mut before: Option<(i64, SegmentFacts)> = None;
        let mut has_gaps = compacted;
        for &base in bases {
            if let Some((previous, facts)) = before
                && facts.end != base
            {
                self.not_joined(dir, previous, facts.end, base, has_gaps || facts.has_gaps);
            }
            let facts = self.segment(dir, base, epochs, bases.last() == Some(&base));
            has_gaps |= facts.has_gaps;
            before = Some((base, facts));
        }
        before.map_or(0, |(_, facts)| facts.end)
    }

    fn not_joined(&mut self, dir: &Path, previous: i64, end: i64, base: i64, compacted: bool) {
        let path = segment_path(dir, base, LOG_SUFFIX);
        if end > base {
            let what = format!("the segment before it ({previous}) goes up to offset {end}");
            let so = "the same offsets are there twice: readers see one of them";
            self.defect(&path, 0, &what, so);
            return;
        }
        let what = format!("offsets {end} to {} are in no segment", base - 1);
        if compacted {
            self.note(&path, 0, &what, "compaction removed them");
        } else {
            self.defect(&path, 0, &what, "records are missing");
        }
    }

    /// An index whose segment is looked at with it, where there is one.
    pub(super) fn index_alone(&mut self, path: &Path, base: i64) {
        let dir = path.parent().unwrap_or(Path::new(""));
        if self.disk.exists(&segment_path(dir, base, LOG_SUFFIX)) {
            self.segment(dir, base, None, true);
        } else {
            let so = "it goes at the next start";
            self.defect(path, NOWHERE, "an index whose segment is missing", so);
        }
    }

    /// `leader-epoch-checkpoint`.
    pub(super) fn epochs(&mut self, path: &Path) -> Option<EpochCache> {
        let text = self.text(path)?;
        let mut lines = Lines::parse(&text, 2);
        let mut cache = EpochCache::default();
        let mut before: Option<(i64, i64)> = None;
        for (at, _, numbers) in lines.numbers::<i64>(0) {
            let &[epoch, start] = &numbers[..] else {
                continue;
            };
            let ascends = before.is_none_or(|(e, s)| epoch > e && start > s);
            match i32::try_from(epoch) {
                Ok(short) if ascends && short >= 0 && start >= 0 => {
                    before = Some((epoch, start));
                    cache.assign(short, start);
                }
                _ => lines.problem(at, format!("epoch {epoch} from offset {start} on")),
            }
        }
        let so = "followers and consumers would be told wrong ends of epochs";
        self.tell(path, &lines, so);
        lines.problems.is_empty().then_some(cache)
    }

    /// A producer snapshot as of offset `at`.
    pub(super) fn snapshot(&mut self, path: &Path, at: i64) {
        self.summary.files += 1;
        let bytes = match self.disk.read_all(path, SNAPSHOT_LEN_MAX) {
            Ok(bytes) => bytes,
            Err(error) => return self.unreadable(path, &error),
        };
        let so = "an older snapshot is taken, and more of the log is read at start";
        let file = SnapshotFile::decode(&bytes);
        for (pos, what) in &file.problems {
            self.defect(path, *pos, what, so);
        }
        let mut ids = BTreeSet::new();
        for (n, entry) in file.entries.iter().enumerate() {
            let pos = SnapshotFile::position(n);
            let id = entry.producer_id;
            if !ids.insert(id) {
                self.defect(path, pos, &format!("producer {id} is there twice"), so);
            }
            if entry.last_offset >= at || entry.txn_first_offset >= at {
                let offset = entry.last_offset.max(entry.txn_first_offset);
                let what = format!("producer {id} at offset {offset}, behind the snapshot's own");
                self.defect(path, pos, &what, so);
            }
            if id < 0 || entry.epoch < -1 {
                let what = format!("producer {id} with epoch {}", entry.epoch);
                self.defect(path, pos, &what, so);
            }
        }
    }

    /// A file of batches without indexes: a snapshot of Kafka's metadata.
    pub(super) fn batches(&mut self, path: &Path) {
        let Some((file, len)) = self.open(path) else {
            return;
        };
        let mut walker = Walker::new(&*file, len, 0);
        loop {
            match walker.next_found() {
                Err(error) => return self.unreadable(path, &error),
                Ok(None) => return,
                Ok(Some(Found::Batch(batch))) => {
                    self.summary.batches += 1;
                    if let Err(error) = batch.crc {
                        let so = "the snapshot cannot be loaded";
                        self.defect(path, batch.pos, &error.to_string(), so);
                    }
                }
                Ok(Some(Found::Damage(damage))) => {
                    let what = format!("{} bytes that are no batch: {}", damage.len, damage.error);
                    self.defect(path, damage.pos, &what, "the snapshot cannot be loaded");
                }
            }
        }
    }
}

/// Whether compaction was at work, although no checkpoint says so yet: the topic is one that is
/// always compacted, or a segment was replaced.
fn was_compacted(dir: &Path, names: &[(String, bool)], bases: &BTreeSet<i64>) -> bool {
    let dir_name = dir.file_name().unwrap_or_default().to_string_lossy();
    let topic = partition_of_dir(&dir_name).map_or("", |(topic, _)| topic);
    let replaced = |name: &str| {
        let base = name.get(..20).and_then(|digits| digits.parse().ok());
        let rest = name.get(20..).unwrap_or_default();
        let is_old = rest.starts_with(LOG_SUFFIX) && rest.ends_with(DELETED_SUFFIX);
        is_old && base.is_some_and(|base| bases.contains(&base))
    };
    let of_a_swap = |name: &str| name.ends_with(".cleaned") || name.ends_with(".swap");
    matches!(topic, "__consumer_offsets" | "__transaction_state")
        || names
            .iter()
            .any(|(name, _)| of_a_swap(name) || replaced(name))
}
