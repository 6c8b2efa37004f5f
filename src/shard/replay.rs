//! Reading a coordinator's topic back, a chunk at a time, into the coordinator of this shard: after
//! a start, until everything below the high watermark is known.

use crate::Shard;
use crate::dirs::fault_of;
use crate::incoming::replay_group_record;
use crate::io::{DiskOp, Effect, FileSlice, IoFailure, IoOutput, Segment};
use crate::ops::{OF_GROUPS, Op, PartitionOp, ReadOp, ReadResult};
use crate::partitions::Pending;
use crate::timers::TimerKey;
use crate::turn::Turn;
use crate::whole_batches::whole_batches;
use bytes::Bytes;
use flumen_base::TopicPartition;
use flumen_base::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use flumen_log::batch::{Batches, Records};

/// Pause after a read that failed.
const RETRY_MS: i64 = 500;
/// Bytes of the offsets topic that are read at a time: one slice of work.
const GROUPS_CHUNK_BYTES: i32 = 1 << 20;

/// Whose records they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplayTo {
    /// The group coordinator.
    Groups,
    /// The transaction coordinator.
    Txns,
    /// Stored states of share partitions.
    ShareStates,
}

/// A partition that is being read.
pub(crate) struct Replay {
    to: ReplayTo,
    pub(crate) tp: TopicPartition,
    next_offset: i64,
}

impl Shard {
    /// Begins to read a partition whose log is loaded. [`Shard::replayed`] follows.
    pub(crate) fn begin_replay(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, to: ReplayTo) {
        let log = self.partitions.get(&tp).and_then(|p| p.log());
        let next_offset = log.map_or(0, |log| log.log_start_offset().0);
        let n = self.next_id();
        let replay = Replay {
            to,
            tp,
            next_offset,
        };
        self.replays.insert(n, replay);
        self.replay_more(turn, n);
    }

    /// All that a partition holds has been handed over.
    fn replayed(&mut self, turn: &mut Turn<'_>, n: u64) {
        let Some(Replay { to, tp, .. }) = self.replays.remove(&n) else {
            return;
        };
        match to {
            ReplayTo::Groups => self.groups_known(turn, tp.partition),
            ReplayTo::Txns => self.txns_known(turn, tp.partition),
            ReplayTo::ShareStates => self.share_states_known(turn, tp.partition),
        }
    }

    /// Reads the next chunk, or ends.
    fn replay_more(&mut self, turn: &mut Turn<'_>, n: u64) {
        let Some(&Replay {
            to,
            tp,
            next_offset,
        }) = self.replays.get(&n)
        else {
            return;
        };
        let end = self.partitions.get(&tp).map_or(-1, |p| p.high_watermark());
        if next_offset >= end {
            return self.replayed(turn, n);
        }
        let chunk = match to {
            ReplayTo::Groups => GROUPS_CHUNK_BYTES,
            ReplayTo::Txns => self.broker.transactions.state_log_load_buffer_size,
            ReplayTo::ShareStates => self.broker.share.load_buffer_size,
        };
        let op = PartitionOp::Read(ReadOp {
            offset: next_offset,
            max_bytes: u32::try_from(chunk).unwrap_or(0),
            min_one: true,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            committed_only: false,
        });
        self.send_op(turn, self.id, OF_GROUPS | n, 0, Op::Partition(tp, op));
    }

    /// A chunk's place is known: bytes in memory, or a range of a file to be read. False if this is
    /// no read of a replay.
    pub(crate) fn take_replay_read(
        &mut self,
        turn: &mut Turn<'_>,
        n: u64,
        result: &ReadResult,
    ) -> bool {
        let Some(Replay { to, .. }) = self.replays.get(&n) else {
            return false;
        };
        if result.error.is_none() && result.data.is_empty() {
            // Compaction has left nothing up to the end.
            self.replayed(turn, n);
            return true;
        }
        if !result.error.is_none() {
            tracing::error!(error = %result.error, ?to, "could not be read, will try again");
            self.retry_replay(turn, n);
            return true;
        }
        let mut in_file = None;
        let mut in_memory = Vec::new();
        for segment in &result.data {
            match segment {
                Segment::Bytes(bytes) => in_memory.push(bytes.clone()),
                Segment::File(slice) => in_file = Some(slice.clone()),
            }
        }
        let mut moved = false;
        for bytes in whole_batches(in_memory) {
            moved |= self.replay_chunk(n, &bytes);
        }
        match in_file {
            None if moved => self.replay_more(turn, n),
            // To ask at once would give the same.
            None => self.retry_replay(turn, n),
            Some(FileSlice { file, pos, len }) => {
                let token = self.park(Pending::Replay(n));
                turn.fx
                    .push(Effect::Io(token, DiskOp::Read { file, pos, len }));
            }
        }
        true
    }

    /// A chunk has been read.
    pub(crate) fn replay_read_done(
        &mut self,
        turn: &mut Turn<'_>,
        n: u64,
        result: Result<IoOutput, IoFailure>,
    ) {
        match result {
            Ok(IoOutput::Read(bytes)) if self.replay_chunk(n, &bytes) => self.replay_more(turn, n),
            result => {
                tracing::error!("a coordinator's topic could not be read, will try again");
                let tp = self.replays.get(&n).map(|replay| replay.tp);
                if let (Some(tp), Err(failure)) = (tp, result) {
                    let dir = self.dir_of(tp);
                    self.dir_error(turn, dir, fault_of(&failure), &failure);
                }
                self.retry_replay(turn, n);
            }
        }
    }

    fn retry_replay(&mut self, turn: &mut Turn<'_>, n: u64) {
        let at = turn.now.mono.plus_ms(RETRY_MS);
        self.timers.arm(at, TimerKey::Replay(n));
    }

    /// The pause after a failed read is over.
    pub(crate) fn replay_due(&mut self, turn: &mut Turn<'_>, n: u64) {
        let tp = self.replays.get(&n).map(|replay| replay.tp);
        if tp.is_some_and(|tp| self.partitions.get(&tp).is_some()) {
            self.replay_more(turn, n);
        } else {
            self.replays.remove(&n);
        }
    }

    /// Hands over the whole batches of a chunk; false if there was none.
    fn replay_chunk(&mut self, n: u64, bytes: &Bytes) -> bool {
        let Some(replay) = self.replays.get_mut(&n) else {
            return false;
        };
        let partition = replay.tp.partition;
        let mut moved = false;
        for batch in Batches::new(bytes) {
            let Ok(batch) = batch else {
                break;
            };
            let header = batch.header;
            if header.last_offset() >= replay.next_offset
                && let Ok(section) = batch.unfold(DECOMPRESSED_BATCH_BYTES_MAX)
            {
                for record in Records::new(&section, header.count()).map_while(Result::ok) {
                    let replayed = match (replay.to, record.key) {
                        (ReplayTo::Groups, _) => {
                            let groups = &mut self.groups.coordinator;
                            replay_group_record(groups, partition, &header, &record)
                        }
                        (_, None) => Ok(()),
                        (ReplayTo::Txns, Some(key)) => {
                            self.txns.coordinator.replay(partition, key, record.value)
                        }
                        (ReplayTo::ShareStates, Some(key)) => {
                            let at = header.base_offset();
                            self.share_states.replay(partition, at, key, record.value)
                        }
                    };
                    if let Err(error) = replayed {
                        let to = replay.to;
                        tracing::warn!(partition, ?to, %error, "a record is skipped");
                    }
                }
            }
            replay.next_offset = replay.next_offset.max(header.last_offset() + 1);
            moved = true;
        }
        moved
    }
}
