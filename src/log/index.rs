//! Offset and time indexes of a segment, in memory and in Kafka's file formats.
//!
//! The offset index of a segment that is still in work is in memory as a whole. Once sealed (its
//! file is on disk) every 256th entry stays, so that memory is bounded by 16 KiB per GiB of log; a
//! lookup then reads one block of 2 KiB of the file. Segments found at start have nothing in memory
//! until the first lookup loads the samples. The time index of a sealed segment is not kept:
//! lookups by time are jobs and read the file.

/// Length of an entry of an `.index` file: relative offset i32, position i32.
pub const OFFSET_ENTRY_LEN: usize = 8;
/// Length of an entry of a `.timeindex` file: timestamp i64, relative offset i32.
pub const TIME_ENTRY_LEN: usize = 12;
/// One of so many entries of a sealed segment's index stays in memory.
pub const SAMPLE_EVERY: usize = 256;

/// The batch at `position` ends with offset `base + last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the last record of the batch, relative to the segment's base.
    pub last: u32,
    /// Where the batch begins in the file.
    pub position: u32,
    /// Offset of its first record, relative; [`IndexEntry::UNKNOWN`] if the entry came from a file.
    pub first: u32,
}

impl IndexEntry {
    /// The file format has no first offset.
    pub const UNKNOWN: u32 = u32::MAX;

    /// No record before `position` has this offset or a higher one.
    pub fn safe_bound(&self) -> u32 {
        if self.first == Self::UNKNOWN {
            self.last
        } else {
            self.first
        }
    }
}

/// A segment's offset index.
#[derive(Clone, Debug)]
pub(crate) enum OffsetIndex {
    /// All entries.
    Full(Vec<IndexEntry>),
    /// Every [`SAMPLE_EVERY`]th of so many entries.
    Sampled {
        samples: Vec<IndexEntry>,
        entries: usize,
    },
    /// Nothing yet of so many entries in the file.
    Cold { entries: usize },
}

/// Where to begin looking for an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// The batch with this offset (or the next one, if the offset is in a gap) begins exactly here.
    Exact(u32),
    /// It begins here or later.
    AtOrAfter(u32),
    /// Read this part of the index file first: entries from `slot` on.
    NeedBlock { slot: usize, entries: usize },
    /// Read the whole index file first, for the samples.
    NeedAll { entries: usize },
}

impl OffsetIndex {
    pub(crate) fn new() -> Self {
        Self::Full(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Full(all) => all.len(),
            Self::Sampled { entries, .. } | Self::Cold { entries } => *entries,
        }
    }

    pub(crate) fn push(&mut self, entry: IndexEntry) {
        if let Self::Full(all) = self {
            all.push(entry);
        }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        if let Self::Full(all) = self {
            all.truncate(len);
        }
    }

    /// Keeps the samples only: the file is on disk.
    pub(crate) fn thin(&mut self) {
        if let Self::Full(all) = self {
            let entries = all.len();
            let samples = all.iter().copied().step_by(SAMPLE_EVERY).collect();
            *self = Self::Sampled { samples, entries };
        }
    }

    /// Samples from the whole file's bytes, for a segment of so many bytes; false if they are not
    /// what they should be.
    pub(crate) fn load_samples(&mut self, file: &[u8], written: u64) -> bool {
        let all: Vec<_> = decode_offsets(file).collect();
        let inside = all.last().is_none_or(|e| u64::from(e.position) < written);
        if all.len() != self.len() || !inside {
            return false;
        }
        *self = Self::Full(all);
        self.thin();
        true
    }

    /// Where the batch with `offset` (relative) begins, as far as memory knows.
    pub(crate) fn floor(&self, offset: u32) -> Floor {
        match self {
            Self::Full(all) => floor_in(all, offset).0,
            Self::Cold { entries: 0 } => Floor::AtOrAfter(0),
            Self::Cold { entries } => Floor::NeedAll { entries: *entries },
            Self::Sampled { samples, entries } => match floor_in(samples, offset) {
                (Floor::Exact(position), _) => Floor::Exact(position),
                (_, None) => Floor::AtOrAfter(0),
                (_, Some(sample)) => {
                    let slot = sample * SAMPLE_EVERY;
                    let entries = SAMPLE_EVERY.min(entries.saturating_sub(slot));
                    Floor::NeedBlock { slot, entries }
                }
            },
        }
    }

    /// The largest batch boundary known at or below `position_max` such that everything before it
    /// is below `bound` (relative, `None`: no bound).
    pub(crate) fn boundary_below(
        &self,
        position_max: u64,
        bound: Option<u32>,
    ) -> Option<IndexEntry> {
        let entries = match self {
            Self::Full(all) => all,
            Self::Sampled { samples, .. } => samples,
            Self::Cold { .. } => return None,
        };
        let fits = |e: &IndexEntry| {
            u64::from(e.position) <= position_max && bound.is_none_or(|b| e.safe_bound() <= b)
        };
        let above = entries.partition_point(fits);
        above.checked_sub(1).and_then(|i| entries.get(i)).copied()
    }

    /// No record before `position` has this offset (relative) or a higher one, as far as memory
    /// knows.
    pub(crate) fn offset_above(&self, position: u64) -> Option<u32> {
        let entries = match self {
            Self::Full(all) => all,
            Self::Sampled { samples, .. } => samples,
            Self::Cold { .. } => return None,
        };
        let below = entries.partition_point(|e| u64::from(e.position) < position);
        entries.get(below).map(IndexEntry::safe_bound)
    }

    /// The `.index` file; `None` if not all entries are in memory.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let Self::Full(all) = self else { return None };
        Some(encode_offsets(all))
    }
}

/// The floor of `offset` among `entries`, and the slot of the entry it came from.
pub(crate) fn floor_in(entries: &[IndexEntry], offset: u32) -> (Floor, Option<usize>) {
    // The first entry whose batch ends at or behind the offset: the offset is in it, or before it.
    let ceiling = entries.partition_point(|e| e.last < offset);
    if let Some(entry) = entries.get(ceiling)
        && entry.first <= offset
    {
        return (Floor::Exact(entry.position), Some(ceiling));
    }
    match ceiling.checked_sub(1) {
        None => (Floor::AtOrAfter(0), None),
        Some(slot) => {
            let position = entries.get(slot).map_or(0, |e| e.position);
            (Floor::AtOrAfter(position), Some(slot))
        }
    }
}

/// Entries of an `.index` file, up to the first that goes back (Kafka pads the active segment's
/// file with zeros).
pub fn decode_offsets(file: &[u8]) -> impl Iterator<Item = IndexEntry> + '_ {
    let (entries, _) = file.as_chunks::<OFFSET_ENTRY_LEN>();
    let mut previous: Option<IndexEntry> = None;
    entries.iter().map_while(move |e| {
        let [a, b, c, d, rest @ ..] = *e;
        let entry = IndexEntry {
            last: u32::from_be_bytes([a, b, c, d]),
            position: u32::from_be_bytes(rest),
            first: IndexEntry::UNKNOWN,
        };
        let ascends = previous.is_none_or(|p| entry.last > p.last && entry.position > p.position);
        previous = Some(entry);
        ascends.then_some(entry)
    })
}

/// The largest timestamp up to an offset of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Milliseconds.
    pub timestamp: i64,
    /// Relative offset of the last record of the batch that holds it: later batches' offsets are
    /// larger.
    pub offset: u32,
}

/// Adds an entry as Kafka does: only if its timestamp is larger than the last one's.
pub(crate) fn push_time(entries: &mut Vec<TimeEntry>, entry: TimeEntry) {
    if entries.last().map_or(-1, |e| e.timestamp) < entry.timestamp {
        entries.push(entry);
    }
}

/// The `.index` file.
pub(crate) fn encode_offsets(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * OFFSET_ENTRY_LEN);
    for (i, entry) in entries.iter().enumerate() {
        let shift = usize::from(planted!(IndexPosition));
        let position = entries.get(i + shift).unwrap_or(entry).position;
        out.extend_from_slice(&entry.last.to_be_bytes());
        out.extend_from_slice(&position.to_be_bytes());
    }
    out
}

/// The `.timeindex` file.
pub(crate) fn encode_times(entries: &[TimeEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * TIME_ENTRY_LEN);
    for entry in entries {
        out.extend_from_slice(&entry.timestamp.to_be_bytes());
        out.extend_from_slice(&entry.offset.to_be_bytes());
    }
    out
}

/// Entries of a `.timeindex` file, up to the first that goes back.
pub fn decode_times(file: &[u8]) -> impl Iterator<Item = TimeEntry> + '_ {
    let (entries, _) = file.as_chunks::<TIME_ENTRY_LEN>();
    let mut previous: Option<TimeEntry> = None;
    entries.iter().map_while(move |e| {
        let (time, offset) = e.split_first_chunk::<8>()?;
        let entry = TimeEntry {
            timestamp: i64::from_be_bytes(*time),
            offset: u32::from_be_bytes(*offset.first_chunk::<4>()?),
        };
        let ascends =
            previous.is_none_or(|p| entry.timestamp > p.timestamp && entry.offset >= p.offset);
        previous = Some(entry);
        ascends.then_some(entry)
    })
}

#[cfg(test)]
#[path = "index_test.rs"]
mod tests;
