//! One partition on the shard that owns it: its log, who waits for its writes, and who waits for
//! its data.
//!
//! ```text
//! append -> validate (here, or as a job when there is much to unfold) -> Log::append -> ack waits
//! end of turn -> one write of all that is staged -> write done -> acks leave, watchers wake
//! ```
//! The high watermark of a partition with one replica is the end of what is written: nothing is
//! read or acked before. Everything here is keyed by topic id, so a topic that is deleted and
//! created again starts afresh.

use crate::answers::{ack, refuse, refused_batch};
use crate::group_commit::GroupCommit;
use crate::io::Segment;
use crate::ops::{MarkerFor, OpFrom, OpResult, PartitionOp, ReadOp, ReadResult, WatchOp};
use crate::relocate::Move;
use crate::tails::TailUse;
use crate::watch::{Watch, WatchList, Watches};
use bytes::Bytes;
use flumen_base::{ErrorCode, Mono, Now, Offset, ShardId, TopicPartition};
use flumen_coordinator::WriteToken;
use flumen_log::{AppendInfo, Log, LogConfig, ReadPlan, ReadRequest, Scan, ValidBatch};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// Operations that wait for a partition to load; more are answered with a retriable error.
const PARKED_MAX: usize = 10_000;

/// A partition of this shard. Made when the image assigns it here, dropped when its topic is
/// deleted.
pub(crate) struct Partition {
    pub(crate) tp: TopicPartition,
    pub(crate) topic: Arc<str>,
    /// Index of its log directory.
    pub(crate) log_dir: usize,
    pub(crate) dir: PathBuf,
    pub(crate) leader_epoch: i32,
    pub(crate) config: Arc<LogConfig>,
    pub(crate) state: State,
    /// Disk work and jobs on its files that have not ended. A deleted partition's directory is
    /// removed at zero.
    pub(crate) in_flight: u32,
    /// Appends that wait for their write, by ascending offset.
    acks: VecDeque<Ack>,
    /// Appends whose batches are being checked by jobs, and those behind them, in order of arrival.
    pub(crate) validating: VecDeque<Validating>,
    /// Who waits for its data.
    pub(crate) watches: WatchList,
    /// In the shard's list of partitions to write at the end of the turn.
    pub(crate) dirty: bool,
    /// When its next synced write begins.
    pub(crate) group_commit: GroupCommit,
    /// A timer says when its next seal is due.
    pub(crate) seal_armed: bool,
    /// Loading takes long: reads do not wait for it.
    pub(crate) slow_load: bool,
    /// Failed loads in a row.
    pub(crate) load_failures: u32,
    /// What its share of the memory for latest batches depends on.
    pub(crate) tail: TailUse,
    /// To be loaded again when nothing is in flight.
    pub(crate) reload: bool,
    /// On its way to another log directory.
    pub(crate) moving: Option<Box<Move>>,
    /// What is known before it is loaded.
    pub(crate) found: Found,
}

/// What checkpoints say about a log that is to be loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) clean: bool,
    pub(crate) recovery_point: Offset,
    pub(crate) log_start: Offset,
    pub(crate) cleaned: Option<Offset>,
}

/// Whether its log is there.
pub(crate) enum State {
    /// Being loaded; operations wait.
    Loading(Vec<(OpFrom, PartitionOp)>),
    /// Serving.
    Online(Box<Log>),
    /// Can't be loaded or written: KAFKA_STORAGE_ERROR.
    Failed,
    /// Deleted; waits for `in_flight` to end.
    Removing,
}

/// Who waits for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckTo {
    /// A produce request.
    Op(OpFrom),
    /// The group coordinator of this shard.
    Groups(WriteToken),
    /// The transaction coordinator of this shard.
    Txns(WriteToken),
    /// The home of stored share states of this shard.
    ShareState(u64),
    /// Whoever sent a transaction marker.
    Marker(OpFrom, MarkerFor),
}

struct Ack {
    last_offset: Offset,
    to: AckTo,
    info: AppendInfo,
}

/// An append whose turn to be staged has not come.
pub(crate) struct Validating {
    /// Names it in the job's completion.
    pub(crate) id: u64,
    pub(crate) to: AckTo,
    /// The outcome, once known.
    pub(crate) outcome: Option<Result<ValidBatch, flumen_log::ValidateError>>,
}

/// What a completed write or append means for somebody outside.
pub(crate) enum Outcome {
    Result(OpFrom, OpResult),
    GroupsDone(WriteToken),
    GroupsFailed(WriteToken, ErrorCode),
    /// The same of the transaction coordinator; NONE: it is written.
    Txns(WriteToken, ErrorCode),
    /// A record of a stored share state is written at this offset, or not.
    ShareState(u64, Result<i64, ErrorCode>),
    /// A part of a frame of this other shard is no longer needed.
    GiveBack(ShardId, Bytes),
}

/// Results whose answers have left, for those to come.
#[derive(Default)]
#[allow(clippy::vec_box)] // the boxes are what is kept
pub(crate) struct SpareResults(Vec<Box<ReadResult>>);

/// Results kept for reuse.
const SPARE_RESULTS_MAX: usize = 1024;

impl SpareResults {
    /// A result, in the memory of one that is done with.
    pub(crate) fn fill(&mut self, result: ReadResult) -> Box<ReadResult> {
        match self.0.pop() {
            Some(mut spare) => {
                *spare = result;
                spare
            }
            None => Box::new(result),
        }
    }

    /// Takes one that is done with.
    pub(crate) fn give_back(&mut self, mut result: Box<ReadResult>) {
        if self.0.len() < SPARE_RESULTS_MAX {
            result.data.clear(); // lets go of memory and files
            self.0.push(result);
        }
    }
}

/// A read that is answered, or one that needs the disk first.
pub(crate) enum ReadStep {
    Done(Box<ReadResult>),
    Scan(Scan),
}

impl Partition {
    /// A partition whose log is yet to be loaded.
    pub(crate) fn new(
        tp: TopicPartition,
        topic: Arc<str>,
        (log_dir, dir): (usize, PathBuf),
        leader_epoch: i32,
        config: Arc<LogConfig>,
    ) -> Self {
        Self {
            tp,
            topic,
            log_dir,
            dir,
            leader_epoch,
            config,
            state: State::Loading(Vec::new()),
            in_flight: 0,
            acks: VecDeque::new(),
            validating: VecDeque::new(),
            watches: WatchList::default(),
            dirty: false,
            group_commit: GroupCommit::default(),
            seal_armed: false,
            slow_load: false,
            load_failures: 0,
            tail: TailUse::default(),
            reload: false,
            moving: None,
            found: Found::default(),
        }
    }

    /// Notes what is known of the log, which is about to be forgotten.
    pub(crate) fn remember(&mut self) {
        self.found.clean = false;
        if let State::Online(log) = &self.state {
            self.found.recovery_point = log.recovery_point();
            self.found.log_start = log.log_start_offset();
            self.found.cleaned = log.cleaned_offset();
        }
    }

    /// The log, while it serves.
    pub(crate) fn log(&self) -> Option<&Log> {
        match &self.state {
            State::Online(log) => Some(log),
            _ => None,
        }
    }

    /// The log, while it serves.
    pub(crate) fn log_mut(&mut self) -> Option<&mut Log> {
        match &mut self.state {
            State::Online(log) => Some(log),
            _ => None,
        }
    }

    /// Everything below may be read. -1 while there is no log.
    pub(crate) fn high_watermark(&self) -> i64 {
        self.log().map_or(-1, |log| log.written_end_offset().0)
    }

    /// Lets an operation wait for the log, and says whether it is the first; gives it back where
    /// too many wait, or it is a read and waiting takes too long.
    pub(crate) fn park(
        &mut self,
        from: OpFrom,
        op: PartitionOp,
    ) -> Result<bool, (PartitionOp, ErrorCode)> {
        let waits = !self.slow_load || matches!(op, PartitionOp::Append(_));
        match &mut self.state {
            State::Loading(parked) if waits && parked.len() < PARKED_MAX => {
                parked.push((from, op));
                Ok(parked.len() == 1)
            }
            _ => Err((op, ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// FENCED_LEADER_EPOCH or UNKNOWN_LEADER_EPOCH when the client knows another epoch (KIP-320);
    /// -1 knows none.
    pub(crate) fn check_epoch(&self, current_leader_epoch: i32) -> Result<(), ErrorCode> {
        if current_leader_epoch < 0 || current_leader_epoch == self.leader_epoch {
            Ok(())
        } else if current_leader_epoch < self.leader_epoch {
            Err(ErrorCode::FencedLeaderEpoch)
        } else {
            Err(ErrorCode::UnknownLeaderEpoch)
        }
    }

    /// Gives a checked batch its offsets and stages it. The ack leaves when it is written; refusals
    /// leave now, and what is no longer needed of the frame of another shard than this one, `here`.
    pub(crate) fn stage(
        &mut self,
        (now, here): (Now, ShardId),
        batch: ValidBatch,
        to: AckTo,
        out: &mut Vec<Outcome>,
    ) {
        self.append(now, &batch, to, out);
        if let AckTo::Op(from) = to
            && from.shard != here
        {
            out.push(Outcome::GiveBack(from.shard, batch.into_records()));
        }
    }

    fn append(&mut self, now: Now, batch: &ValidBatch, to: AckTo, out: &mut Vec<Outcome>) {
        let epoch = self.leader_epoch;
        let Some(log) = self.log_mut() else {
            refuse(to, ErrorCode::KafkaStorageError, -1, out);
            return;
        };
        match log.append(now, batch, epoch) {
            Ok(info) if info.last_offset < log.written_end_offset() => ack(to, &info, out),
            Ok(info) => self.acks.push_back(Ack {
                last_offset: info.last_offset,
                to,
                info,
            }),
            Err(e) => {
                refuse(to, e.code, log.log_start_offset().0, out);
                tracing::debug!(partition = self.dir_name(), "{:?}: {}", e.code, e.message);
            }
        }
    }

    /// Puts it on the list of those to write at the end of the turn.
    pub(crate) fn mark_dirty(&mut self, list: &mut Vec<TopicPartition>) {
        if !std::mem::replace(&mut self.dirty, true) {
            list.push(self.tp);
        }
    }

    /// Its write has ended; the appends in it are about to be answered.
    pub(crate) fn write_ended(&mut self, now: Mono) {
        self.group_commit.ended(now, self.acks.len());
    }

    /// Until when its next write is held back, so that more share its sync.
    pub(crate) fn gathers_until(&mut self, now: Mono) -> Option<Mono> {
        self.group_commit.holds(now, self.acks.len())
    }

    /// Whether its log is being loaded: appends wait.
    pub(crate) fn is_loading(&self) -> bool {
        matches!(self.state, State::Loading(_))
    }

    /// Stages the checked appends at the front of the queue, once there is a log.
    pub(crate) fn stage_validated(&mut self, at: (Now, ShardId), out: &mut Vec<Outcome>) {
        if self.is_loading() {
            return;
        }
        while let Some(front) = self.validating.front_mut() {
            let Some(outcome) = front.outcome.take() else {
                return;
            };
            let to = front.to;
            self.validating.pop_front();
            match outcome {
                Ok(batch) => self.stage(at, batch, to, out),
                Err(e) => {
                    let e = e.in_partition(&self.dir_name());
                    out.push(refused_batch(to, e, self.log_start()));
                }
            }
        }
    }

    /// Everything below `end` is written: acks leave, watchers wake. Gives how many do.
    pub(crate) fn advanced(
        &mut self,
        end: Offset,
        watches: &mut Watches,
        out: &mut Vec<Outcome>,
    ) -> usize {
        while self.acks.front().is_some_and(|a| a.last_offset < end) {
            if let Some(a) = self.acks.pop_front() {
                ack(a.to, &a.info, out);
            }
        }
        self.wake(watches, out)
    }

    /// Wakes those who wait for something that is so now. Gives how many.
    pub(crate) fn wake(&mut self, watches: &mut Watches, out: &mut Vec<Outcome>) -> usize {
        let Some(log) = self.log() else {
            return 0;
        };
        let (high, start) = (log.written_end_offset().0, log.log_start_offset().0);
        let (segment, end) = log.end_position();
        watches.wake(
            &mut self.watches,
            |watch| watch.op.is_due(high, start),
            |watch| {
                // How much it is beyond a roll is not worth to be known: a read tells.
                let added = match watch.at {
                    (same, at) if same == segment => end.saturating_sub(at).max(1),
                    _ => u64::MAX,
                };
                out.push(Outcome::Result(watch.from, OpResult::Wake(added)));
            },
        )
    }

    /// The log is gone (failed write, deletion): everybody who waits is told.
    pub(crate) fn fail_all(
        &mut self,
        error: ErrorCode,
        watches: &mut Watches,
        out: &mut Vec<Outcome>,
    ) {
        for a in self.acks.drain(..) {
            refuse(a.to, error, -1, out);
        }
        for v in self.validating.drain(..) {
            refuse(v.to, error, -1, out);
        }
        self.wake_all(watches, out);
    }

    /// Ends all watches: what was known of this partition does not hold any more.
    pub(crate) fn wake_all(&mut self, watches: &mut Watches, out: &mut Vec<Outcome>) {
        watches.end_all(&mut self.watches, |watch| {
            out.push(Outcome::Result(watch.from, OpResult::Wake(u64::MAX)));
        });
    }

    /// Has `from` told when what it waits for is so. False if it is already, or there is no log.
    pub(crate) fn watch(&mut self, from: OpFrom, op: WatchOp, watches: &mut Watches) -> bool {
        let Some(log) = self.log() else {
            return false;
        };
        let (high, start) = (log.written_end_offset().0, log.log_start_offset().0);
        if op.is_due(high, start) {
            return false;
        }
        let at = log.end_position();
        let watch = Watch { from, op, at };
        watches.add(&mut self.watches, self.tp, watch);
        true
    }

    /// Starts a read: the checks, then the log's plan.
    pub(crate) fn read(&mut self, op: &ReadOp, spare: &mut SpareResults) -> ReadStep {
        if let Err(error) = self.check_epoch(op.current_leader_epoch) {
            return ReadStep::Done(Box::new(ReadResult::refused(error)));
        }
        if op.last_fetched_epoch > self.leader_epoch {
            let refused = ReadResult::refused(ErrorCode::OffsetOutOfRange);
            return ReadStep::Done(Box::new(refused));
        }
        if let Some(diverging) = self.diverging(op) {
            let mut result = self.read_result(op, spare);
            result.diverging = Some(diverging);
            return ReadStep::Done(result);
        }
        let upper_bound = Offset(self.read_bound(op.committed_only));
        let Some(log) = self.log_mut() else {
            let refused = ReadResult::refused(ErrorCode::KafkaStorageError);
            return ReadStep::Done(Box::new(refused));
        };
        let plan = log.plan_read(&ReadRequest {
            offset: Offset(op.offset),
            upper_bound,
            max_bytes: op.max_bytes,
            min_one: op.min_one,
        });
        self.carry_out(op, plan, spare)
    }

    /// Goes on with a read whose scan has come back.
    pub(crate) fn resume_read(
        &mut self,
        op: &ReadOp,
        scan: Scan,
        bytes: &Bytes,
        spare: &mut SpareResults,
    ) -> ReadStep {
        match self.log_mut() {
            Some(log) => {
                let plan = log.resume_read(scan, bytes);
                self.carry_out(op, plan, spare)
            }
            // Its topic was deleted meanwhile, or it is loaded again.
            None => ReadStep::Done(Box::new(ReadResult::refused(
                ErrorCode::NotLeaderOrFollower,
            ))),
        }
    }

    fn carry_out(&self, op: &ReadOp, plan: ReadPlan, spare: &mut SpareResults) -> ReadStep {
        let mut result = self.read_result(op, spare);
        if op.committed_only {
            result.aborted = Some(self.aborted(op, &plan));
        }
        match plan {
            ReadPlan::NeedScan(scan) => return ReadStep::Scan(scan),
            ReadPlan::Memory(bufs) => result.data.extend(bufs.into_iter().map(Segment::Bytes)),
            ReadPlan::File(range) => result.data.push(Segment::File(crate::io::FileSlice {
                file: range.file,
                pos: range.pos,
                len: range.len,
            })),
            ReadPlan::Empty => {}
            ReadPlan::Corrupt => {
                let refused = ReadResult::refused(ErrorCode::KafkaStorageError);
                return ReadStep::Done(Box::new(refused));
            }
            ReadPlan::OffsetOutOfRange => {
                return ReadStep::Done(Box::new(ReadResult::refused(ErrorCode::OffsetOutOfRange)));
            }
        }
        ReadStep::Done(result)
    }

    fn read_result(&self, op: &ReadOp, spare: &mut SpareResults) -> Box<ReadResult> {
        spare.fill(ReadResult {
            error: ErrorCode::None,
            high_watermark: self.high_watermark(),
            last_stable: self.read_bound(true),
            log_start: self.log_start(),
            aborted: op.committed_only.then(Vec::new),
            diverging: None,
            data: SmallVec::new(),
        })
    }

    /// The log start offset, -1 while there is no log.
    pub(crate) fn log_start(&self) -> i64 {
        self.log().map_or(-1, |log| log.log_start_offset().0)
    }

    /// Nothing at or above it is returned: the high watermark, or the last stable offset.
    pub(crate) fn read_bound(&self, committed_only: bool) -> i64 {
        let Some(log) = self.log() else {
            return -1;
        };
        let high = log.written_end_offset();
        let stable = match log.first_unstable_offset() {
            Some(first) if committed_only => first.min(high),
            _ => high,
        };
        stable.0
    }

    fn diverging(&self, op: &ReadOp) -> Option<(i32, i64)> {
        if op.last_fetched_epoch < 0 {
            return None;
        }
        let end = self.log()?.end_offset_for_epoch(op.last_fetched_epoch);
        let diverges = end.epoch < op.last_fetched_epoch || end.end_offset.0 < op.offset;
        (end.epoch >= 0 && diverges).then_some((end.epoch, end.end_offset.0))
    }

    /// What is in work, for messages of tests.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn describe(&self) -> String {
        let state = match &self.state {
            State::Loading(parked) => format!("loading, {} parked", parked.len()),
            State::Online(log) => format!(
                "end {} written {}",
                log.log_end_offset(),
                log.written_end_offset()
            ),
            State::Failed => "failed".to_owned(),
            State::Removing => "removing".to_owned(),
        };
        let (acks, busy) = (self.acks.len(), self.in_flight);
        format!(
            "{state} acks {acks} in flight {busy} reload {}",
            self.reload
        )
    }

    /// The name of its directory.
    pub(crate) fn dir_name(&self) -> String {
        format!("{}-{}", self.topic, self.tp.partition)
    }
}
