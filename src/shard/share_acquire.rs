//! Records for members of share groups: read from the log from where the share partition says, held
//! against what is in flight, and handed out.

use crate::Shard;
use crate::dirs::fault_of;
use crate::io::{DiskOp, Effect, FileSlice, IoFailure, IoOutput, Segment};
use crate::ops::{OF_GROUPS, Op, OpFrom, OpResult, PartitionOp, ReadOp, ReadResult};
use crate::partitions::Pending;
use crate::shares::{ShareAcquireOp, ShareAcquired, Shared};
use crate::turn::Turn;
use crate::whole_batches::whole_batches;
use bytes::Bytes;
use flumen_base::limits::SHARE_READ_BYTES_MAX;
use flumen_base::{ErrorCode, IdSet};
use flumen_coordinator::share::{Acquire, Acquired, BatchSpan};
use flumen_log::Marker;
use flumen_log::batch::{Batch, Batches, Records};

/// A fetch that is being served.
pub(super) struct Reading {
    /// The number of the read.
    pub(super) id: u64,
    pub(super) from: OpFrom,
    pub(super) op: Box<ShareAcquireOp>,
    offset: i64,
    /// Its member has gone.
    pub(super) cancelled: bool,
    /// (producer id, first offset) of aborted transactions, if they count.
    aborted: Vec<(i64, i64)>,
}

/// A batch of what was read.
struct Piece {
    span: BatchSpan,
    bytes: Bytes,
    aborted: bool,
}

/// The whole batches of what was read.
fn pieces(data: &[Bytes], aborted: &[(i64, i64)]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut open: IdSet<i64> = IdSet::default();
    let mut begins: Vec<_> = aborted.to_vec();
    begins.sort_unstable_by_key(|(_, first)| std::cmp::Reverse(*first));
    for bytes in data {
        for batch in Batches::new(bytes).map_while(Result::ok) {
            let header = batch.header;
            let span = BatchSpan {
                base: header.base_offset(),
                last: header.last_offset(),
            };
            while begins.last().is_some_and(|(_, first)| *first <= span.last) {
                if let Some((producer, _)) = begins.pop() {
                    open.insert(producer);
                }
            }
            let producer = header.producer_id();
            let mut is_aborted = false;
            if header.is_control() {
                if is_abort(&batch) {
                    open.remove(&producer);
                }
            } else if header.is_transactional() {
                is_aborted = open.contains(&producer);
            }
            pieces.push(Piece {
                span,
                bytes: bytes.slice_ref(batch.bytes()),
                aborted: is_aborted,
            });
        }
    }
    pieces
}

fn is_abort(batch: &Batch<'_>) -> bool {
    let Ok(section) = batch.unfold(usize::from(u16::MAX)) else {
        return false;
    };
    let mut records = Records::new(&section, batch.header.count()).map_while(Result::ok);
    let marker = records.next().and_then(|record| Marker::read(&record));
    marker.is_some_and(|marker| !marker.commit)
}

/// The batches that have something of what was handed out, from the first to the last of them.
fn data_of(pieces: Vec<Piece>, acquired: &[Acquired]) -> Vec<Bytes> {
    let (Some(first), Some(last)) = (acquired.first(), acquired.last()) else {
        return Vec::new();
    };
    let (first, last) = (first.first, last.last);
    let within = |piece: &Piece| piece.span.last >= first && piece.span.base <= last;
    pieces.into_iter().filter(within).map(|p| p.bytes).collect()
}

impl Shard {
    /// Serves the fetches that wait for a share partition, as far as that goes at once.
    pub(super) fn share_next(&mut self, turn: &mut Turn<'_>, n: u64) {
        while let Some((from, op)) = self.next_share_op(n) {
            let Some(offset) = self.share_offset(turn, n) else {
                self.answer_acquire(from, ShareAcquired::refused(ErrorCode::None));
                continue;
            };
            let id = self.next_id();
            let Some(shared) = self.shares.map.get_mut(&n) else {
                return;
            };
            let (tp, group) = (shared.tp, shared.group.clone());
            let max_bytes = op.max_bytes.min(SHARE_READ_BYTES_MAX);
            shared.reading = Some(Reading {
                id,
                from,
                op,
                offset,
                cancelled: false,
                aborted: Vec::new(),
            });
            self.shares.reads.insert(id, n);
            let read = PartitionOp::Read(ReadOp {
                offset,
                max_bytes,
                min_one: true,
                current_leader_epoch: -1,
                last_fetched_epoch: -1,
                committed_only: self.share_rules(&group).committed_only,
            });
            return self.send_op(turn, self.id, OF_GROUPS | id, 0, Op::Partition(tp, read));
        }
        // Of what was there when they looked, or came since, something may be left for others.
        self.tell_share_watchers(n);
        self.leave_share(n);
    }

    fn next_share_op(&mut self, n: u64) -> Option<(OpFrom, Box<ShareAcquireOp>)> {
        let shared = self.shares.map.get_mut(&n)?;
        if shared.reading.is_some() || shared.ready().is_none() {
            return None;
        }
        shared.waiting.pop_front()
    }

    /// Where the next read begins; `None`: there is nothing to hand out.
    pub(super) fn share_offset(&mut self, turn: &mut Turn<'_>, n: u64) -> Option<i64> {
        let shared = self.shares.map.get(&n)?;
        let tp = shared.tp;
        let rules = self.share_rules(&shared.group.clone());
        let p = self.partitions.get(&tp)?;
        let (start, bound) = (p.log_start(), p.read_bound(rules.committed_only));
        let partition = self.shares.map.get_mut(&n).and_then(Shared::ready)?;
        partition.log_start_moved(start);
        self.expire_share_locks(turn, n);
        let partition = self.shares.map.get_mut(&n).and_then(Shared::ready)?;
        if !partition.can_acquire(&rules.limits) {
            return None;
        }
        Some(partition.next_fetch_offset()).filter(|offset| *offset < bound)
    }

    fn answer_acquire(&mut self, from: OpFrom, acquired: ShareAcquired) {
        let result = OpResult::ShareAcquired(Box::new(acquired));
        self.outbox.result(from, result);
    }

    /// A read of a log that is for no group: for a coordinator's topic, or for a share partition.
    pub(crate) fn take_other_read(&mut self, turn: &mut Turn<'_>, id: u64, result: ReadResult) {
        if self.take_replay_read(turn, id, &result) {
            return;
        }
        let Some(n) = self.shares.reads.get(&id).copied() else {
            return;
        };
        match result.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => {
                // The log begins later: so does the share partition, with the next fetch.
                let partition = self.shares.map.get_mut(&n).and_then(Shared::ready);
                if let Some(partition) = partition {
                    partition.log_start_moved(result.log_start);
                }
                return self.share_read_failed(turn, id, ErrorCode::None);
            }
            error => return self.share_read_failed(turn, id, error),
        }
        let reading = self.shares.map.get_mut(&n).and_then(|s| s.reading.as_mut());
        if let Some(reading) = reading {
            reading.aborted = result.aborted.unwrap_or_default();
        }
        let mut data = Vec::new();
        for segment in result.data {
            match segment {
                Segment::Bytes(bytes) => data.push(bytes),
                Segment::File(FileSlice { file, pos, len }) => {
                    let token = self.park(Pending::ShareRead(id));
                    let read = DiskOp::Read { file, pos, len };
                    turn.fx.push(Effect::Io(token, read));
                    return;
                }
            }
        }
        self.hand_out(turn, id, &whole_batches(data));
    }

    /// A range of a file for a share partition has been read.
    pub(crate) fn share_read_done(
        &mut self,
        turn: &mut Turn<'_>,
        id: u64,
        result: Result<IoOutput, IoFailure>,
    ) {
        match result {
            Ok(IoOutput::Read(bytes)) => self.hand_out(turn, id, &[bytes]),
            result => {
                let n = self.shares.reads.get(&id);
                let tp = n.and_then(|n| self.shares.map.get(n)).map(|s| s.tp);
                if let (Some(tp), Err(failure)) = (tp, result) {
                    let dir = self.dir_of(tp);
                    self.dir_error(turn, dir, fault_of(&failure), &failure);
                }
                self.share_read_failed(turn, id, ErrorCode::KafkaStorageError);
            }
        }
    }

    fn share_read_failed(&mut self, turn: &mut Turn<'_>, id: u64, error: ErrorCode) {
        let Some(n) = self.shares.reads.remove(&id) else {
            return;
        };
        let shared = self.shares.map.get_mut(&n);
        if let Some(reading) = shared.and_then(|s| s.reading.take()) {
            self.answer_acquire(reading.from, ShareAcquired::refused(error));
        }
        self.share_next(turn, n);
    }

    /// Records are there: the member gets what is free of them.
    fn hand_out(&mut self, turn: &mut Turn<'_>, id: u64, data: &[Bytes]) {
        let Some(n) = self.shares.reads.remove(&id) else {
            return;
        };
        let Some(shared) = self.shares.map.get_mut(&n) else {
            return;
        };
        let group = shared.group.clone();
        let Some(reading) = shared.reading.take() else {
            return self.share_next(turn, n);
        };
        if reading.cancelled {
            self.answer_acquire(reading.from, ShareAcquired::refused(ErrorCode::None));
            return self.share_next(turn, n);
        }
        let limits = self.share_rules(&group).limits;
        let pieces = pieces(data, &reading.aborted);
        let spans: Vec<_> = pieces.iter().map(|p| p.span).collect();
        let ask = Acquire {
            member: &reading.op.member,
            strict: reading.op.strict,
            batch_size: reading.op.batch_size,
            max_records: reading.op.max_records,
            fetch_offset: reading.offset,
        };
        let mut answer = ShareAcquired::refused(ErrorCode::None);
        if let Some(partition) = self.shares.map.get_mut(&n).and_then(Shared::ready) {
            let list = partition.acquire(turn.now.mono, ask, &spans, &limits);
            let aborted = pieces.iter().filter(|p| p.aborted).map(|p| p.span);
            let aborted: Vec<_> = aborted.collect();
            answer.acquired = partition.without_aborted(&reading.op.member, list, &aborted);
        }
        answer.data = data_of(pieces, &answer.acquired);
        self.answer_acquire(reading.from, answer);
        self.arm_share_locks(n);
        self.share_next(turn, n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_log::BatchBuilder;

    fn batch(base: i64, count: i64, producer: Option<(i64, bool)>) -> Bytes {
        let mut builder = BatchBuilder::new().base_offset(base);
        if let Some((id, _)) = producer {
            builder = builder.producer(id, 0, 0).transactional(true);
        }
        for n in 0..count {
            builder.push(1, Some(b"k"), Some(&n.to_be_bytes()));
        }
        builder.build().unwrap()
    }

    #[test]
    fn batches_of_aborted_transactions_are_known() {
        let data = [
            batch(0, 2, None),
            batch(2, 3, Some((7, true))),
            batch(5, 1, Some((8, true))),
        ];
        let pieces = pieces(&data, &[(7, 2)]);
        let said: Vec<_> = pieces
            .iter()
            .map(|p| (p.span.base, p.span.last, p.aborted))
            .collect();
        assert_eq!(said, [(0, 1, false), (2, 4, true), (5, 5, false)]);
        let acquired = Acquired {
            first: 3,
            last: 3,
            deliveries: 1,
        };
        let bytes = data_of(pieces, &[acquired]);
        assert_eq!(bytes, [data[1].clone()]);
    }
}
