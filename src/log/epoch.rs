//! Leader epochs of a partition and where each starts: Kafka's LeaderEpochFileCache and its
//! `leader-epoch-checkpoint`.

use flumen_base::{LeaderEpoch, Offset};

/// Name of the file in the partition's directory.
pub const FILE_NAME: &str = "leader-epoch-checkpoint";

/// Answer to OffsetForLeaderEpoch: -1/-1 when unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch at or below the one asked for.
    pub epoch: LeaderEpoch,
    /// One above its last record.
    pub end_offset: Offset,
}

impl EpochEnd {
    const UNKNOWN: Self = Self {
        epoch: -1,
        end_offset: Offset::UNKNOWN,
    };
}

/// Epochs and start offsets, both ascending. A leader change appends one, so it stays short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache {
    entries: Vec<(LeaderEpoch, i64)>,
}

impl EpochCache {
    /// The entries, ascending.
    pub fn entries(&self) -> &[(LeaderEpoch, i64)] {
        &self.entries
    }

    /// The last epoch.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|e| e.0)
    }

    /// Records of `epoch` begin at `start`; entries that contradict this go. True when something
    /// changed.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: i64) -> bool {
        if epoch < 0 || start < 0 {
            return false;
        }
        if let Some(&(last, last_start)) = self.entries.last()
            && last == epoch
            && start >= last_start
        {
            return false;
        }
        while let Some(&(last, last_start)) = self.entries.last()
            && (last >= epoch || last_start >= start)
        {
            self.entries.pop();
        }
        self.entries.push((epoch, start));
        true
    }

    /// OffsetForLeaderEpoch.
    pub fn end_offset(&self, epoch: LeaderEpoch, log_end: i64) -> EpochEnd {
        if epoch < 0 {
            return EpochEnd::UNKNOWN;
        }
        if self.latest() == Some(epoch) {
            return EpochEnd {
                epoch,
                end_offset: Offset(log_end),
            };
        }
        let higher = self.entries.partition_point(|e| e.0 <= epoch);
        let Some(&(_, end)) = self.entries.get(higher) else {
            return EpochEnd::UNKNOWN;
        };
        let floor = higher.checked_sub(1).and_then(|i| self.entries.get(i));
        EpochEnd {
            epoch: floor.map_or(epoch, |e| e.0),
            end_offset: Offset(end),
        }
    }

    /// The epoch of the record at `offset`, -1 if it is older than all that is known.
    pub fn at(&self, offset: i64) -> LeaderEpoch {
        let above = self.entries.partition_point(|e| e.1 <= offset);
        let entry = above.checked_sub(1).and_then(|i| self.entries.get(i));
        entry.map_or(-1, |e| e.0)
    }

    /// The log now ends at `end`. True when something changed.
    pub fn truncate_end(&mut self, end: i64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.1 < end);
        self.entries.len() != before
    }

    /// The log now starts at `start`: the epoch at it begins there. True when something changed.
    pub fn truncate_start(&mut self, start: i64) -> bool {
        let above = self.entries.partition_point(|e| e.1 <= start);
        let Some(last) = above.checked_sub(1) else {
            return false;
        };
        let changed = last > 0 || self.entries[0].1 != start;
        self.entries.drain(..last);
        if let Some(first) = self.entries.first_mut() {
            first.1 = start;
        }
        changed
    }

    /// The file: version 0, count, a line per entry.
    pub fn encode(&self) -> String {
        let mut out = format!("0\n{}\n", self.entries.len());
        for (epoch, start) in &self.entries {
            out.push_str(&format!("{epoch} {start}\n"));
        }
        out
    }

    /// Reads the file; `None` if it is malformed.
    pub fn decode(text: &str) -> Option<Self> {
        let mut cache = Self::default();
        for fields in crate::checkpoint::parse_lines(text, 0)? {
            let [epoch, start] = fields[..] else {
                return None;
            };
            cache.assign(epoch.parse().ok()?, start.parse().ok()?);
        }
        Some(cache)
    }
}

#[cfg(test)]
#[path = "epoch_test.rs"]
mod tests;
