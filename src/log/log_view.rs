//! What a log says of itself: offsets, sizes, epochs, producers.

use crate::epoch::EpochEnd;
use crate::log::Log;
use crate::ops::AppendError;
use crate::producer_state::ProducerState;
use flumen_base::{ErrorCode, LeaderEpoch, Now, Offset};

impl Log {
    /// Whether it takes appends.
    pub(crate) fn check_open(&self) -> Result<(), AppendError> {
        let (code, message) = match (self.failed, self.closed && !planted!(AppendAfterClose)) {
            (true, _) => {
                let message = "a failed write is being taken back";
                (ErrorCode::NotEnoughReplicas, message)
            }
            (false, true) => (ErrorCode::NotLeaderOrFollower, "the broker is stopping"),
            (false, false) => return Ok(()),
        };
        Err(AppendError::new(code, message.to_owned()))
    }

    /// One above the last staged record.
    pub fn log_end_offset(&self) -> Offset {
        Offset(self.log_end)
    }

    /// One above the last written record: the most that may be read or acked.
    pub fn written_end_offset(&self) -> Offset {
        Offset(self.written_end)
    }

    /// Everything below is on disk (Kafka's recovery point).
    pub fn recovery_point(&self) -> Offset {
        Offset(self.recovery_point)
    }

    /// The first offset that may be read.
    pub fn log_start_offset(&self) -> Offset {
        Offset(self.log_start)
    }

    /// Bytes of all segments (written).
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.written).sum()
    }

    /// Segments, the active one included.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Producers known here.
    pub fn producers(&self) -> &ProducerState {
        &self.producers
    }

    /// Forgets producers that were silent for `producer.id.expiration.ms`.
    pub fn expire_producers(&mut self, now: Now) {
        if !self.has_pending_writes() {
            let after = self.config.producer_id_expiration_ms;
            self.producers.expire(now.wall_ms, after);
        }
    }

    /// The last epoch that appended here, -1 when none did.
    pub fn latest_epoch(&self) -> LeaderEpoch {
        self.epochs.latest().unwrap_or(-1)
    }

    /// OffsetForLeaderEpoch: the largest epoch at or below `epoch`, and its end offset.
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> EpochEnd {
        self.epochs.end_offset(epoch, self.written_end)
    }

    /// The epoch whose records stand at `offset` (ListOffsets answers it beside -1 and -2).
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        self.epochs.at(offset.0)
    }

    /// Bytes in the memory tail.
    pub fn tail_bytes(&self) -> usize {
        self.tail.bytes()
    }
}
