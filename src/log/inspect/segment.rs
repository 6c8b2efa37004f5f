//! One segment: its batches, and its indexes in step with them, in one pass over the file.

use super::lockstep::{OffsetCheck, TimeCheck, TxnCheck};
use super::verify::{NOWHERE, Verifier};
use super::{Found, FoundBatch, Walker};
use crate::batch::{BatchHeader, Record, Records};
use crate::config::TimestampType;
use crate::epoch::EpochCache;
use crate::segment::{INDEX_SUFFIX, LOG_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX, segment_path};
use flumen_base::{DiskFile, LeaderEpoch};
use std::io;
use std::path::{Path, PathBuf};

const LOST: &str = "records are damaged: a broker that scans the segment cuts the log here";

/// What a segment is found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentFacts {
    /// One above its last record.
    pub(super) end: i64,
    /// Offsets are missing inside, as after compaction.
    pub(super) has_gaps: bool,
}

/// A batch, with what the checks of indexes ask of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) pos: u64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) max_timestamp: i64,
    /// Largest of the batches before it.
    pub(super) timestamp_before: i64,
    /// Producer whose transaction it ends by an abort.
    pub(super) aborts: Option<i64>,
}

type Opened = Option<(Box<dyn DiskFile>, u64)>;

impl Verifier<'_> {
    /// Checks a segment with its indexes; `is_last` where its indexes may not be written yet.
    pub(super) fn segment(
        &mut self,
        dir: &Path,
        base: i64,
        epochs: Option<&EpochCache>,
        is_last: bool,
    ) -> SegmentFacts {
        let path = segment_path(dir, base, LOG_SUFFIX);
        let nothing = SegmentFacts {
            end: base,
            has_gaps: false,
        };
        let Some((file, len)) = self.open(&path) else {
            return nothing;
        };
        self.summary.segments += 1;
        self.summary.bytes += len;
        let names = [INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX]
            .map(|suffix| segment_path(dir, base, suffix));
        let [offsets, times, txns] = names.each_ref().map(|path| self.open_if_there(path));
        let [offsets_path, times_path, txns_path] = names;
        for (path, opened) in [(&offsets_path, &offsets), (&times_path, &times)] {
            if opened.is_none() && len > 0 {
                self.missing_index(path, is_last);
            }
        }
        let mut check = SegmentCheck {
            path: path.clone(),
            base,
            epochs,
            epoch_told: None,
            offsets: opened(&offsets).map(|(f, len)| OffsetCheck::new(offsets_path, f, len, base)),
            times: opened(&times).map(|(f, len)| TimeCheck::new(times_path, f, len, base)),
            txns: opened(&txns).map(|(f, len)| TxnCheck::new(txns_path, f, len, base)),
            facts: nothing,
            damaged: false,
            max_timestamp: -1,
        };
        if let Err(error) = check.run(self, &*file, len) {
            self.unreadable(&path, &error);
        }
        check.facts
    }

    fn open_if_there(&mut self, path: &Path) -> Opened {
        match self.disk.exists(path) {
            true => self.open(path),
            false => None,
        }
    }

    fn missing_index(&mut self, path: &Path, is_last: bool) {
        if is_last {
            let so = "the broker runs or was killed: it is made at the next start";
            self.note(path, NOWHERE, "the last segment's index is not there", so);
        } else {
            let so = "the segment is read as a whole at the next start, to make it again";
            self.defect(path, NOWHERE, "missing", so);
        }
    }
}

fn opened(file: &Opened) -> Option<(&dyn DiskFile, u64)> {
    file.as_ref().map(|(file, len)| (&**file, *len))
}

struct SegmentCheck<'a> {
    path: PathBuf,
    base: i64,
    epochs: Option<&'a EpochCache>,
    /// Epochs of the last difference told: in the checkpoint, in the batch.
    epoch_told: Option<(LeaderEpoch, LeaderEpoch)>,
    offsets: Option<OffsetCheck<'a>>,
    times: Option<TimeCheck<'a>>,
    txns: Option<TxnCheck<'a>>,
    facts: SegmentFacts,
    /// Damage came before this: what follows need not join.
    damaged: bool,
    max_timestamp: i64,
}

impl SegmentCheck<'_> {
    fn run(&mut self, v: &mut Verifier<'_>, file: &dyn DiskFile, len: u64) -> io::Result<()> {
        let mut walker = Walker::new(file, len, self.base);
        while let Some(found) = walker.next_found()? {
            match found {
                Found::Batch(batch) => self.batch(v, &walker, &batch)?,
                Found::Damage(damage) if damage.is_padding => {
                    let what = format!("{} bytes of zeros at the end", damage.len);
                    let so = "space that was taken ahead or a torn block: it is cut at the next \
                              start";
                    v.note(&self.path, damage.pos, &what, so);
                }
                Found::Damage(damage) => {
                    let (len, error) = (damage.len, damage.error);
                    let what = format!("{len} bytes that are no batch: {error}");
                    v.defect(&self.path, damage.pos, &what, LOST);
                    self.skip(v, damage.pos, damage.pos + len)?;
                }
            }
        }
        if let Some(check) = &mut self.offsets {
            check.finish(v, len)?;
        }
        if let Some(check) = &mut self.times {
            check.finish(v, self.facts.end)?;
        }
        if let Some(check) = &mut self.txns {
            check.finish(v, self.facts.end)?;
        }
        Ok(())
    }

    fn batch(
        &mut self,
        v: &mut Verifier<'_>,
        walker: &Walker<'_>,
        batch: &FoundBatch,
    ) -> io::Result<()> {
        let header = batch.header();
        v.summary.batches += 1;
        if let Err(error) = batch.crc {
            v.defect(&self.path, batch.pos, &error.to_string(), LOST);
            // What its header says may be wrong as well; where it ends is likely right.
            return self.skip(v, batch.pos, batch.pos + batch.len);
        }
        v.summary.records += u64::try_from(header.count()).unwrap_or(0);
        self.header(v, batch.pos, &header);
        let aborts = match header.is_control() || v.options.deep {
            true => self.records(v, walker, batch)?,
            false => None,
        };
        let passed = Passed {
            pos: batch.pos,
            first: header.base_offset(),
            last: header.last_offset(),
            max_timestamp: header.max_timestamp(),
            timestamp_before: self.max_timestamp,
            aborts,
        };
        if let Some(check) = &mut self.offsets {
            check.on_batch(v, &passed)?;
        }
        if let Some(check) = &mut self.times {
            check.on_batch(v, &passed)?;
        }
        if let Some(check) = &mut self.txns {
            check.on_batch(v, &passed)?;
        }
        self.max_timestamp = self.max_timestamp.max(passed.max_timestamp);
        self.facts.end = self.facts.end.max(passed.last.saturating_add(1));
        Ok(())
    }

    /// Leaves damage behind: entries that name it are not told again.
    fn skip(&mut self, v: &mut Verifier<'_>, from: u64, to: u64) -> io::Result<()> {
        self.damaged = true;
        match &mut self.offsets {
            Some(check) => check.skip(v, from, to),
            None => Ok(()),
        }
    }

    /// What a header must say whatever its records are.
    fn header(&mut self, v: &mut Verifier<'_>, pos: u64, header: &BatchHeader<'_>) {
        let (first, last) = (header.base_offset(), header.last_offset());
        let delta = header.last_offset_delta();
        let path = &self.path;
        let so = "readers cannot find these records by their offsets";
        if first < self.base || last.saturating_sub(self.base) > i64::from(i32::MAX) || delta < 0 {
            let what = format!("offsets {first} to {last} do not belong into this segment");
            v.defect(path, pos, &what, so);
        } else if first < self.facts.end {
            let end = self.facts.end;
            let what = format!("offset {first} comes again: the batch before ends at {end}");
            v.defect(path, pos, &what, so);
        }
        // A segment may begin with a gap as well: its name is where the one before it ended.
        let after_damage = std::mem::take(&mut self.damaged);
        self.facts.has_gaps |= first > self.facts.end && !after_damage;
        let count = i64::from(header.count());
        if count < 0 || count > i64::from(delta) + 1 {
            let what = format!("{count} records at {} offsets", i64::from(delta) + 1);
            v.defect(path, pos, &what, "clients refuse the batch");
        }
        self.facts.has_gaps |= count != i64::from(delta) + 1;
        if let Err(error) = header.compression() {
            v.defect(
                path,
                pos,
                &error.to_string(),
                "clients cannot read the records",
            );
        }
        if header.is_transactional() && header.producer_id() < 0 {
            let what = "transactional, but of no producer";
            v.defect(path, pos, what, "it can be neither committed nor aborted");
        }
        self.epoch(v, pos, header);
    }

    fn epoch(&mut self, v: &mut Verifier<'_>, pos: u64, header: &BatchHeader<'_>) {
        let Some(epochs) = self.epochs else { return };
        let (cached, own) = (epochs.at(header.base_offset()), header.leader_epoch());
        // -1: below the log's start, of which the checkpoint knows nothing any more; or of a batch
        // that was stored before there were epochs.
        if cached == -1 || own == -1 || cached == own || self.epoch_told == Some((cached, own)) {
            return;
        }
        self.epoch_told = Some((cached, own));
        let what = format!("leader epoch {own}, but leader-epoch-checkpoint says {cached}");
        let so = "followers and consumers are told wrong ends of epochs";
        v.defect(&self.path, pos, &what, so);
    }

    /// Looks into a batch; returns the producer whose transaction it aborts.
    fn records(
        &self,
        v: &mut Verifier<'_>,
        walker: &Walker<'_>,
        batch: &FoundBatch,
    ) -> io::Result<Option<i64>> {
        let so = "the CRC holds, so it was stored like this: clients cannot read the records";
        let section = match walker.records(batch)? {
            Ok(section) => section,
            Err(error) => {
                v.defect(&self.path, batch.pos, &error.to_string(), so);
                return Ok(None);
            }
        };
        let header = batch.header();
        let (mut count, mut previous) = (0i64, -1i64);
        let mut max_timestamp: Option<i64> = None;
        let mut aborts = None;
        for record in Records::new(&section, header.count()) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    let what = format!("record {count}: {error}");
                    v.defect(&self.path, batch.pos, &what, so);
                    return Ok(None);
                }
            };
            let delta = i64::from(record.offset_delta);
            if delta <= previous || delta > i64::from(header.last_offset_delta()) {
                let what = format!("record {count} has offset delta {delta} after {previous}");
                v.defect(&self.path, batch.pos, &what, so);
            }
            previous = delta;
            max_timestamp = max_timestamp.max(Some(header.timestamp_of(&record)));
            if header.is_control() && is_abort(&record) {
                aborts = Some(header.producer_id());
            }
            count += 1;
        }
        if count != i64::from(header.count()) {
            let what = format!("{count} records, but the header says {}", header.count());
            v.defect(&self.path, batch.pos, &what, so);
        }
        let own = header.timestamp_type() == TimestampType::CreateTime;
        if let Some(max) = max_timestamp.filter(|max| own && *max != header.max_timestamp()) {
            let header_says = header.max_timestamp();
            let what = format!("largest timestamp is {max}, but the header says {header_says}");
            let so = "lookups by time and retention go by the header";
            v.defect(&self.path, batch.pos, &what, so);
        }
        Ok(aborts)
    }
}

/// Whether a control record aborts a transaction (key: version i16, type i16).
fn is_abort(record: &Record<'_>) -> bool {
    record.key.and_then(|key| key.get(2..4)) == Some(&[0, 0])
}
