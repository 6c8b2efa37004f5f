//! Where the logs of a shard stand: for the simulator, which looks after every turn.

use crate::Shard;
use flumen_base::{Offset, TopicPartition};

/// The offsets of one partition that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which.
    pub tp: TopicPartition,
    /// The first offset that may be read.
    pub log_start: Offset,
    /// Nothing at or above it may be read by those who want committed records.
    pub last_stable: Offset,
    /// Nothing at or above it may be read.
    pub high_watermark: Offset,
    /// One above the last record that has an offset.
    pub log_end: Offset,
    /// Everything below is on disk, as the log believes.
    pub recovery_point: Offset,
}

impl Shard {
    /// The partitions of this shard whose logs serve, in no order.
    pub fn probe(&self) -> impl Iterator<Item = Probe> {
        self.partitions.map.values().filter_map(|p| {
            let log = p.log()?;
            Some(Probe {
                tp: p.tp,
                log_start: log.log_start_offset(),
                last_stable: Offset(p.read_bound(true)),
                high_watermark: Offset(p.high_watermark()),
                log_end: log.log_end_offset(),
                recovery_point: log.recovery_point(),
            })
        })
    }
}
