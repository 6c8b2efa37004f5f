//! Loading, part: producer state, from a snapshot and the batches behind it; and the aborted
//! transactions of the segments that were read as a whole, which it takes to find them.

use crate::batch::{Batch, Records};
use crate::jobs::replace;
use crate::lookup::unless_gone;
use crate::producer_state::ProducerState;
use crate::recovery::{LoadedSegment, Loader, Refused};
use crate::scan::{self, Scanner};
use crate::segment::{LOG_SUFFIX, SNAPSHOT_SUFFIX, TXN_INDEX_SUFFIX, offset_of_name};
use crate::txn_index::{AbortedTxns, write_txn_index};
use flumen_base::OpenMode;
use std::io;

const SNAPSHOT_FILE_MAX: u64 = 1 << 30;
const TXN_INDEX_FILE_MAX: u64 = i32::MAX as u64;

impl Loader<'_> {
    /// The latest good snapshot in the log, and the batches behind it. Where markers were
    /// recovered, a snapshot before them: who began what they end is known then. What is below the
    /// log's start counts as long as its file is there: the start may be known already of a
    /// retention that was killed before it wrote who the producers of what it takes are.
    pub(crate) fn load_producers(
        &mut self,
        segments: &mut [LoadedSegment],
        log_end: i64,
    ) -> io::Result<ProducerState> {
        if planted!(ForgetProducers) {
            return Ok(ProducerState::default());
        }
        let names = self.disk.list(&self.params.dir)?;
        let mut offsets: Vec<i64> = names
            .iter()
            .filter_map(|n| offset_of_name(&n.0, SNAPSHOT_SUFFIX))
            .collect();
        offsets.sort_unstable();
        let first_markers = segments.iter().find(|s| s.has_markers);
        let before = first_markers.map_or(log_end, |s| s.base_offset);
        let mut state = ProducerState::default();
        let first = segments.first().map_or(log_end, |s| s.base_offset);
        let mut from = first;
        while let Some(offset) = offsets.pop() {
            if offset > before && offset <= log_end {
                continue;
            }
            let useful = (first..=log_end).contains(&offset);
            let decoded = match useful {
                true => self.read_snapshot(offset)?,
                false => None,
            };
            match decoded {
                Some(decoded) => {
                    (state, from) = (decoded, offset);
                    break;
                }
                None => self.remove(&format!("{offset:020}{SNAPSHOT_SUFFIX}"))?,
            }
        }
        let base = |offset: &i64| segments.iter().any(|s| s.base_offset == *offset);
        for stray in offsets.iter().filter(|o| !base(o)) {
            self.remove(&format!("{stray:020}{SNAPSHOT_SUFFIX}"))?;
        }
        state.expire(
            self.params.now_ms,
            self.params.config.producer_id_expiration_ms,
        );
        // A clean shutdown always leaves one of the end: else it was damaged.
        if from < log_end {
            self.replay_producers(&mut state, segments, from)?;
        }
        state.written(log_end);
        Ok(state)
    }

    fn replay_producers(
        &mut self,
        state: &mut ProducerState,
        segments: &mut [LoadedSegment],
        from: i64,
    ) -> io::Result<()> {
        let start = self.params.log_start_offset.0; // what is lost below it nobody asks for
        for segment in segments.iter_mut().filter(|s| s.end > from) {
            if segment.base_offset > from {
                self.keep_snapshot(state, segment.base_offset)?;
            }
            let path = self.path(segment.base_offset, LOG_SUFFIX);
            let file = self.disk.open(&path, OpenMode::Read)?;
            let mut end = segment.base_offset;
            let mut scanner = Scanner::new(&*file, 0, segment.mark.size, false);
            loop {
                let scanned = match scanner.next_header()? {
                    Ok(Some(scanned)) => scanned,
                    Ok(None) => break,
                    Err(_) if self.accepts_loss() || segment.end <= start => break,
                    Err(error) => {
                        let refused = Refused {
                            file: path,
                            position: scanner.pos(),
                            offset: end,
                            why: error.to_string(),
                        };
                        return Err(refused.into_error());
                    }
                };
                let header = scanned.header();
                end = header.last_offset().saturating_add(1);
                if header.last_offset() < from || header.producer_id() < 0 {
                    continue;
                }
                let mut bytes = Vec::new();
                if header.is_control() {
                    bytes = scan::read_whole(&*file, &scanned)?;
                }
                let batch = Batch::parse(&bytes).ok();
                let records = batch.map(|b| Records::new(b.records_section(), header.count()));
                let marker = records.and_then(|mut r| r.next()).and_then(Result::ok);
                let undo = state.apply(&header, marker.as_ref());
                if segment.has_markers
                    && let Some(ended) = undo.as_ref().and_then(|u| u.ended())
                    && ended.aborted
                    && !planted!(ForgetAborted)
                {
                    segment.aborted.push(ended.txn);
                }
            }
        }
        Ok(())
    }

    /// Writes the producers at the beginning of a segment, where no snapshot stands, or one that a
    /// killed process left torn: when retention takes what is before it, nothing else is left of
    /// them. (All before it has been synced.)
    fn keep_snapshot(&mut self, state: &ProducerState, base: i64) -> io::Result<()> {
        if unless_gone(self.read_snapshot(base))?.is_none() {
            let path = self.path(base, SNAPSHOT_SUFFIX);
            replace(self.disk, &path, &state.encode())?;
            self.found.new_names = true;
        }
        Ok(())
    }

    /// A snapshot by its file; `None` if that can't be trusted.
    fn read_snapshot(&self, offset: i64) -> io::Result<Option<ProducerState>> {
        let path = self.path(offset, SNAPSHOT_SUFFIX);
        let bytes = self.disk.read_all(&path, SNAPSHOT_FILE_MAX)?;
        Ok(ProducerState::decode(&bytes))
    }

    /// The aborted transactions of a segment by its file; `None` if that can't be trusted.
    pub(crate) fn read_aborted(&self, base: i64) -> io::Result<Option<AbortedTxns>> {
        let path = self.path(base, TXN_INDEX_SUFFIX);
        match self.disk.read_all(&path, TXN_INDEX_FILE_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some(AbortedTxns::default())),
            Err(e) => Err(e),
            Ok(bytes) => Ok(AbortedTxns::decode(&bytes, base)),
        }
    }

    /// Writes the files of the segments whose aborted transactions were found again. That of the
    /// active segment is written when it is sealed or closed.
    pub(crate) fn write_aborted(&mut self, segments: &[LoadedSegment]) -> io::Result<()> {
        let sealed = segments.split_last().map_or(&[][..], |(_, rest)| rest);
        for segment in sealed.iter().filter(|s| s.has_markers) {
            let path = self.path(segment.base_offset, TXN_INDEX_SUFFIX);
            write_txn_index(self.disk, &path, &segment.aborted.encode())?;
            self.found.new_names = true;
        }
        Ok(())
    }
}
