//! Leader epochs of a partition and where each starts (`leader-epoch-checkpoint`).

use flumen_base::{LeaderEpoch, Offset};

/// Answer to OffsetForLeaderEpoch: -1/-1 when unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch at or below the one asked for.
    pub epoch: LeaderEpoch,
    /// One above its last record.
    pub end_offset: Offset,
}
