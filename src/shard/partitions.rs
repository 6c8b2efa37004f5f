//! All partitions of a shard: operations on them, the turn's writes, and what parked disk work goes
//! on with.

use crate::LogDirState;
use crate::Shard;
use crate::answers::{refused_batch, refused_op};
use crate::dirs::{fault_of, no_room};
use crate::incoming::{Incoming, verification};
use crate::io::{DiskOp, Effect, IoFailure, IoOutput, Token};
use crate::jobs::{Job, ValidateJob};
use crate::loads::Loads;
use crate::lookups::PendingLookup;
use crate::ops::{AppendOp, OpFrom, OpResult, PartitionOp, ProducerLine, ReadOp, ReadResult};
use crate::partition::{AckTo, Outcome, Partition, ReadStep, SpareResults, State, Validating};
use crate::reads::SharedRead;
use crate::timers::TimerKey;
use crate::turn::Turn;
use crate::watch::Watches;
use bytes::Bytes;
use flumen_base::limits::{DECOMPRESSED_BATCH_BYTES_MAX, VALIDATE_INLINE_BYTES_MAX};
use flumen_base::{ErrorCode, IdMap, Offset, PartitionIndex, ShardId, TopicPartition};
use flumen_log::producer_state::ProducerEntry;
use flumen_log::{FileIds, Log, Origin, Scan, UnlinkJob};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

/// The partitions of one shard and the work that is due on them.
pub(crate) struct Partitions {
    pub(crate) map: IdMap<TopicPartition, Partition>,
    /// Those with something staged, in the order in which they got it.
    pub(crate) dirty: Vec<TopicPartition>,
    /// Those to be loaded when a job slot is free.
    pub(crate) to_load: VecDeque<TopicPartition>,
    pub(crate) loading: usize,
    pub(crate) watches: Watches,
    /// What several readers are about to read.
    pub(crate) shared: Option<SharedRead>,
    pub(crate) loads: Loads,
    pub(crate) file_ids: FileIds,
    pub(crate) found: Arc<Vec<LogDirState>>,
    /// Log directories with leftovers of deletions (shard 0).
    pub(crate) left_behind: Vec<PathBuf>,
    /// Failed loads that wait to be tried again.
    pub(crate) reloads: IdMap<u64, TopicPartition>,
    /// Jobs in a log directory that failed and wait to be done again.
    pub(crate) again: IdMap<u64, (usize, &'static str, Job)>,
    /// Retired files that wait for their delay, and their log directory.
    pub(crate) unlinks: IdMap<u64, (usize, UnlinkJob)>,
    /// Those whose delay is over, and how many are being unlinked.
    pub(crate) to_unlink: VecDeque<(usize, UnlinkJob)>,
    pub(crate) unlinking: usize,
    /// Moves that an earlier process had begun, and to which log directory.
    pub(crate) resumes: BTreeMap<(String, PartitionIndex), usize>,
    pub(crate) scratch: Vec<Outcome>,
    pub(crate) spare_results: SpareResults,
}

/// What goes on when disk work under a token ends.
pub(crate) enum Pending {
    Write(TopicPartition),
    Sync(TopicPartition, Offset),
    /// A file that is about to be replaced is being opened.
    OpenForSwap(TopicPartition),
    Scan(Box<PendingScan>),
    /// A chunk of a coordinator's topic.
    Replay(u64),
    /// Records for a share partition.
    ShareRead(u64),
    QuorumAppend,
    Job(PendingJob),
}

/// A read that waits for the disk.
pub(crate) struct PendingScan {
    tp: TopicPartition,
    from: OpFrom,
    op: ReadOp,
    scan: Scan,
}

/// Whose job it is.
pub(crate) enum PendingJob {
    Load(TopicPartition),
    Seal(TopicPartition),
    Epoch(TopicPartition),
    Retire(TopicPartition),
    /// Of retired segments in this log directory.
    Unlink(usize),
    Close(TopicPartition),
    Lookup(Box<PendingLookup>),
    /// A slice of a cleaning.
    Clean(TopicPartition),
    /// A cleaned segment in the place of others.
    Swap(TopicPartition),
    CleanDiscarded(TopicPartition),
    Times(TopicPartition),
    Reindex(TopicPartition),
    Validate(TopicPartition, u64),
    Quorum,
    /// Of a log directory.
    Checkpoint(usize),
    CleanShutdown,
    Cut(TopicPartition),
    /// A look at the free space.
    Space,
    /// The free space for a request.
    DescribeSpace(OpFrom),
    /// A slice of a move.
    Copy {
        tp: TopicPartition,
        id: u64,
        copy: PathBuf,
        bytes: u64,
    },
    /// The last step of a move.
    Relocate(TopicPartition),
    /// Nobody goes on: a failure is logged, and may mean that this log directory failed.
    InDir(usize, &'static str),
    /// Nobody goes on: a failure is logged.
    Background(&'static str),
}

/// Whether its log serves.
fn serves(p: &&mut Partition) -> bool {
    p.log().is_some()
}

impl Partitions {
    /// None yet. File numbers are made unique in the process by the shard's own range.
    pub(crate) fn new(id: ShardId, found: Arc<Vec<LogDirState>>) -> Self {
        Self {
            map: IdMap::default(),
            dirty: Vec::new(),
            to_load: VecDeque::new(),
            loading: 0,
            watches: Watches::default(),
            shared: None,
            loads: Loads::default(),
            file_ids: FileIds::starting_at((u64::from(id.0) + 1) << 48),
            resumes: {
                let dirs = found.iter().enumerate();
                let arriving = dirs.flat_map(|(n, d)| d.arriving.iter().map(move |p| (p, n)));
                arriving.map(|(p, n)| (p.clone(), n)).collect()
            },
            found,
            left_behind: Vec::new(),
            reloads: IdMap::default(),
            again: IdMap::default(),
            unlinks: IdMap::default(),
            to_unlink: VecDeque::new(),
            unlinking: 0,
            scratch: Vec::new(),
            spare_results: SpareResults::default(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The partition with this id.
    pub(crate) fn get(&self, tp: &TopicPartition) -> Option<&Partition> {
        self.map.get(tp)
    }

    /// Puts a partition on the list of those to write at the end of the turn.
    pub(crate) fn mark_dirty(&mut self, tp: TopicPartition) {
        if let Some(p) = self.map.get_mut(&tp) {
            p.mark_dirty(&mut self.dirty);
        }
    }
}

impl Shard {
    /// Emits a job and remembers who goes on with its output.
    pub(crate) fn start_job(&mut self, turn: &mut Turn<'_>, whose: PendingJob, job: Job) -> Token {
        let token = self.park(Pending::Job(whose));
        turn.fx.push(Effect::Job(token, job));
        token
    }

    /// Carries out an operation on a partition of this shard, or lets it wait for the partition's
    /// log.
    pub(crate) fn run_partition_op(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: PartitionOp,
    ) {
        if let PartitionOp::Append(op) = op {
            return self.append(turn, from, tp, op);
        }
        let Some(p) = self.partitions.map.get_mut(&tp).filter(serves) else {
            return self.run_without_log(turn, from, tp, op);
        };
        match op {
            PartitionOp::Read(op) => {
                let step = p.read(&op, &mut self.partitions.spare_results);
                self.read_step(turn, from, tp, op, step);
            }
            PartitionOp::Watch(op) => self.watch(from, tp, op),
            PartitionOp::ListOffset(op) => self.list_offset(turn, from, tp, &op),
            PartitionOp::MoveTo(dir) => {
                let error = self.move_to(turn, tp, dir);
                self.outbox.result(from, OpResult::MoveTo(error));
            }
            PartitionOp::Marker(marker, who) => self.write_marker(turn, (from, who), tp, marker),
            PartitionOp::ShareAcquire(op) => self.share_acquire(turn, from, tp, op),
            PartitionOp::ShareAcknowledge(op) => self.share_acknowledge(turn, from, tp, &op),
            PartitionOp::ShareRelease { group, member } => {
                self.share_release(turn, tp, &group, &member);
            }
            PartitionOp::ShareWatch { group, only_news } => {
                self.share_watch(from, tp, &group, only_news);
            }
            PartitionOp::ShareProbe { group, max_bytes } => {
                let bytes = self.share_bytes(turn, tp, &group, max_bytes);
                self.outbox.result(from, OpResult::ShareProbed(bytes));
            }
            op => {
                let result = simple_op(p, &op);
                self.outbox.result(from, result);
                if matches!(op, PartitionOp::DeleteRecords(_)) {
                    self.tell_watchers(turn, tp);
                }
            }
        }
    }

    /// An operation on a partition whose log does not serve waits for it, or is refused.
    fn run_without_log(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: PartitionOp,
    ) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            // The image that moved it here has not come yet, or one that deletes it overtook the
            // request.
            let result = refused_op(&op, ErrorCode::NotLeaderOrFollower);
            self.outbox.result(from, result);
            return;
        };
        let refusal = |error| refused_op(&op, error);
        let error = match &p.state {
            State::Loading(_) => None,
            State::Failed => Some(refusal(ErrorCode::KafkaStorageError)),
            _ => Some(refusal(ErrorCode::UnknownTopicOrPartition)),
        };
        if let Some(result) = error {
            self.outbox.result(from, result);
        } else if matches!(op, PartitionOp::Watch(_) | PartitionOp::ShareWatch { .. }) {
            // A read tells more, and waits; a watch that waits could not be taken back.
            self.outbox.result(from, OpResult::Wake(u64::MAX));
        } else {
            match p.park(from, op) {
                Ok(true) => self.arm_patience(turn, tp),
                Ok(false) => {}
                Err((op, error)) => self.outbox.result(from, refused_op(&op, error)),
            }
        }
    }

    /// Appends to a partition; where its log does not serve, the append waits or is refused.
    pub(crate) fn append(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: AppendOp,
    ) {
        let p = self.partitions.map.get_mut(&tp);
        if p.as_ref().is_some_and(|p| self.dirs.is_full(p.log_dir)) {
            self.outbox.result(from, OpResult::Append(no_room()));
            return;
        }
        let Some(p) = p.filter(serves) else {
            return self.run_without_log(turn, from, tp, PartitionOp::Append(op));
        };
        // With acks=0 too: the request counts as in work, and its bytes against the budgets, until
        // the write has ended, or a flood would pile up in memory.
        let to = AckTo::Op(from);
        if let Err(error) = flumen_log::check_produce_version(&op.records, op.version) {
            let result = crate::ops::AppendResult::refused(error.code);
            self.outbox.result(from, OpResult::Append(result));
            return;
        }
        let txn = match verification(p, turn, op.txn.as_deref()) {
            Ok(txn) => txn,
            Err(result) => {
                self.outbox.result(from, result);
                return;
            }
        };
        let end_read = p.log().is_some_and(Log::is_end_read);
        if p.tail.note_append(end_read) {
            self.warm_tail(tp);
        }
        let incoming = Incoming {
            batch: op.records,
            frame_len: op.frame_len,
            origin: Origin::Client,
            txn,
        };
        self.append_batch(turn, tp, incoming, to);
    }

    /// Checks a batch and stages it; the write leaves at the end of the turn. The order of appends
    /// to a partition is kept when some are checked by jobs.
    pub(crate) fn append_batch(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        incoming: Incoming,
        to: AckTo,
    ) {
        let Incoming {
            batch,
            frame_len,
            origin,
            txn,
        } = incoming;
        let mut out = std::mem::take(&mut self.partitions.scratch);
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            crate::answers::refuse(to, ErrorCode::NotLeaderOrFollower, -1, &mut out);
            self.carry_outcomes(turn, out);
            return;
        };
        self.dirs.spend(p.log_dir, batch.len() as u64);
        let wall_ms = turn.now.wall_ms;
        let cost = flumen_log::cost_estimate(&batch, &p.config);
        let mut job = None;
        if cost > VALIDATE_INLINE_BYTES_MAX {
            job = Some(ValidateJob {
                batch,
                config: p.config.clone(),
                now_ms: wall_ms,
                decompressed_max: DECOMPRESSED_BATCH_BYTES_MAX,
                frame_len,
                txn,
            });
        } else {
            let max = DECOMPRESSED_BATCH_BYTES_MAX;
            let outcome = flumen_log::validate(batch, &p.config, origin, wall_ms, max)
                .map(|batch| batch.with_frame_len(frame_len).with_txn(txn));
            if p.validating.is_empty() && !p.is_loading() {
                match outcome {
                    Ok(batch) => p.stage((turn.now, self.id), batch, to, &mut out),
                    Err(e) => {
                        let e = e.in_partition(&p.dir_name());
                        out.push(refused_batch(to, e, p.log_start()));
                    }
                }
            } else {
                let outcome = Some(outcome);
                p.validating.push_back(Validating { id: 0, to, outcome });
            }
        }
        p.mark_dirty(&mut self.partitions.dirty);
        if let Some(job) = job {
            self.validate_in_job(turn, tp, to, job);
        }
        self.carry_outcomes(turn, out);
    }

    fn validate_in_job(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        to: AckTo,
        job: ValidateJob,
    ) {
        let id = self.next_id();
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            let outcome = None;
            p.validating.push_back(Validating { id, to, outcome });
        }
        self.start_job(turn, PendingJob::Validate(tp, id), Job::Validate(job));
    }

    /// A batch was checked by a job: it and those behind it are staged.
    pub(crate) fn validated(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        id: u64,
        outcome: Result<flumen_log::ValidBatch, flumen_log::ValidateError>,
    ) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if let Some(v) = p.validating.iter_mut().find(|v| v.id == id) {
            v.outcome = Some(outcome);
        }
        self.stage_waiting(turn, tp);
    }

    /// Stages the appends that are checked, unless the log is still being loaded.
    pub(crate) fn stage_waiting(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let mut out = std::mem::take(&mut self.partitions.scratch);
        p.stage_validated((turn.now, self.id), &mut out);
        self.partitions.mark_dirty(tp);
        self.carry_outcomes(turn, out);
    }

    /// Tells those outside what became of their appends and watches. `out` comes from the scratch
    /// list and goes back.
    pub(crate) fn carry_outcomes(&mut self, turn: &mut Turn<'_>, mut out: Vec<Outcome>) {
        for outcome in out.drain(..) {
            match outcome {
                Outcome::Result(to, result) => self.outbox.result(to, result),
                Outcome::GiveBack(to, part) => self.outbox.give_back(to, part),
                Outcome::GroupsDone(token) => self.group_append_done(turn, token, None),
                Outcome::GroupsFailed(token, e) => self.group_append_done(turn, token, Some(e)),
                Outcome::Txns(token, error) => self.txn_append_done(turn, token, error),
                Outcome::ShareState(token, result) => {
                    self.share_state_written(turn, token, result);
                }
            }
        }
        self.partitions.scratch = out;
    }

    /// Emits one write per partition that has something staged and none in flight.
    pub(crate) fn write_dirty(&mut self, turn: &mut Turn<'_>) {
        let mut dirty = std::mem::take(&mut self.partitions.dirty);
        for tp in dirty.drain(..) {
            let Some(p) = self.partitions.map.get_mut(&tp) else {
                continue;
            };
            p.dirty = false;
            if p.is_held() {
                continue; // marked again when it is not
            }
            let until = p.gathers_until(turn.now.mono);
            let armed = until.filter(|_| p.log().is_some_and(Log::has_pending_writes));
            let key = TimerKey::Gather(tp);
            self.timers.rearm(&mut p.group_commit.armed, armed, key);
            if until.is_some() {
                continue; // marked again by the next append, or then
            }
            let Some(write) = p.log_mut().and_then(Log::take_write) else {
                if p.log().is_some_and(Log::waits_for_name) {
                    // The segment before was all written when the roll came.
                    self.start_log_jobs(turn, tp);
                }
                continue;
            };
            p.in_flight += 1;
            p.group_commit.begins(turn.now.mono, write.sync);
            let bytes: usize = write.bufs.iter().map(Bytes::len).sum();
            self.metrics.log_bytes_written += bytes as u64;
            if let Some(full) = write.full {
                turn.fx.push(Effect::Full(full));
            }
            let token = self.park(Pending::Write(tp));
            let op = DiskOp::Write {
                file: write.file,
                pos: write.pos,
                bufs: write.bufs,
                sync: write.sync,
            };
            turn.fx.push(Effect::Io(token, op));
        }
        // What was marked meanwhile keeps its place; the memory of the list is kept either way.
        if self.partitions.dirty.is_empty() {
            self.partitions.dirty = dirty;
        }
    }

    pub(crate) fn read_step(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: ReadOp,
        step: ReadStep,
    ) {
        match step {
            ReadStep::Done(result) => {
                let failed = result.error == ErrorCode::KafkaStorageError;
                self.outbox.result(from, OpResult::Read(result));
                if failed {
                    self.start_mending(turn, tp); // and told of
                }
            }
            ReadStep::Scan(scan) => {
                let read = DiskOp::Read {
                    file: scan.range.file.clone(),
                    pos: scan.range.pos,
                    len: scan.range.len,
                };
                let pending = PendingScan { tp, from, op, scan };
                let token = self.park(Pending::Scan(Box::new(pending)));
                turn.fx.push(Effect::Io(token, read));
            }
        }
    }

    /// The disk has answered a read that needed it.
    pub(crate) fn scan_done(
        &mut self,
        turn: &mut Turn<'_>,
        pending: PendingScan,
        result: Result<IoOutput, IoFailure>,
    ) {
        let PendingScan { tp, from, op, scan } = pending;
        if let Err(failure) = &result {
            let n = self.dir_of(tp);
            self.dir_error(turn, n, fault_of(failure), failure);
        }
        let error = match (self.partitions.map.get_mut(&tp), result) {
            (Some(p), Ok(IoOutput::Read(bytes))) => {
                let spare = &mut self.partitions.spare_results;
                let step = p.resume_read(&op, scan, &bytes, spare);
                let troubled = p.log().is_some_and(Log::is_troubled);
                self.read_step(turn, from, tp, op, step);
                if troubled {
                    self.start_mending(turn, tp);
                }
                return;
            }
            (None, _) => ErrorCode::NotLeaderOrFollower,
            (Some(_), _) => ErrorCode::KafkaStorageError,
        };
        let refused = Box::new(ReadResult::refused(error));
        self.outbox.result(from, OpResult::Read(refused));
    }
}

/// Operations that are answered at once.
fn simple_op(p: &mut Partition, op: &PartitionOp) -> OpResult {
    let high_watermark = p.high_watermark();
    match *op {
        PartitionOp::EpochEnd {
            current_leader_epoch,
            epoch,
        } => OpResult::EpochEnd(p.check_epoch(current_leader_epoch).and_then(|()| {
            let log = p.log().ok_or(ErrorCode::KafkaStorageError)?;
            let end = log.end_offset_for_epoch(epoch);
            // The leader's own epoch ends where its log does, even before its first record.
            if end.epoch < 0 && epoch == p.leader_epoch {
                return Ok((epoch, p.high_watermark()));
            }
            Ok((end.epoch, end.end_offset.0))
        })),
        PartitionOp::DeleteRecords(below) => {
            OpResult::DeleteRecords(delete_records(p, below, high_watermark))
        }
        PartitionOp::Size => OpResult::Size(p.size_line().ok_or(ErrorCode::KafkaStorageError)),
        PartitionOp::Producers => {
            let producers = p
                .log()
                .map(|log| log.producers().iter().map(producer_line).collect());
            OpResult::Producers(producers.ok_or(ErrorCode::KafkaStorageError))
        }
        _ => refused_op(op, ErrorCode::UnknownServerError),
    }
}

fn producer_line((id, entry): (i64, &ProducerEntry)) -> ProducerLine {
    ProducerLine {
        id,
        epoch: i32::from(entry.epoch),
        last_sequence: entry.last_sequence(),
        last_timestamp: entry.last_timestamp,
        coordinator_epoch: entry.coordinator_epoch,
        txn_start: entry.txn_first_offset.unwrap_or(-1),
    }
}

fn delete_records(p: &mut Partition, below: i64, high_watermark: i64) -> Result<i64, ErrorCode> {
    let policy = p.config.cleanup_policy;
    let below = if below == -1 { high_watermark } else { below };
    if policy.compact && !policy.delete {
        return Err(ErrorCode::PolicyViolation);
    }
    if below < 0 || below > high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    let log = p.log_mut().ok_or(ErrorCode::KafkaStorageError)?;
    log.advance_log_start(Offset(below));
    Ok(log.log_start_offset().0)
}
