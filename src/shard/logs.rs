//! The life of a partition's log on its shard: loading, the jobs beside the hot path, reloading
//! after a failed write, and removal.
//!
//! ```text
//! image assigns it -> to_load -> Job::Load -> Online -> (seal, epoch, retire, sync) -> Close
//!                        ^                       | failed write
//!                        +-----------------------+
//! image drops it -> those who wait are refused -> nothing in flight -> directory removed
//! ```

use crate::Shard;
use crate::answers::refused_op;
use crate::dirs::{RETRY_MS, Retry, space_result};
use crate::found::set_aside_name;
use crate::io::{DiskOp, Effect, IoFailure, IoOutput};
use crate::jobs::{Job, JobOutput};
use crate::partition::{Partition, State};
use crate::partitions::{Pending, PendingJob};
use crate::tails::TailUse;
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::limits::LOADS_IN_FLIGHT_MAX;
use flumen_base::{DiskFault, ErrorCode, Offset, TopicPartition};
use flumen_log::recovery::{Load, LoadParams, LoadedLog, Refused};
use flumen_log::{Deleted, Log, UnlinkJob};
use std::io;

/// A load that failed is tried again after this time (the directory of a deleted topic of the same
/// name may still be there), so many times.
const RELOAD_DELAY_MS: i64 = 50;
const RELOADS_MAX: u32 = 100;
/// Jobs that unlink at the same time at most; one more for so many that wait.
const UNLINK_JOBS_MAX: usize = 4;
const UNLINKS_PER_JOB: usize = 8;

impl Shard {
    /// Emits load jobs while fewer than the limit run; before the first, removes what deletions
    /// left behind.
    pub(crate) fn start_loads(&mut self, turn: &mut Turn<'_>) {
        if self.life.is_closing() {
            return;
        }
        for dir in std::mem::take(&mut self.partitions.left_behind) {
            let whose = PendingJob::Background("remove leftovers");
            self.start_job(turn, whose, Job::RemoveLeftBehind(dir));
        }
        while self.partitions.loading < LOADS_IN_FLIGHT_MAX {
            let Some(tp) = self.partitions.to_load.pop_front() else {
                return self.go_on_loading(turn);
            };
            let Some(p) = self.partitions.map.get_mut(&tp) else {
                continue;
            };
            if !matches!(p.state, State::Loading(_)) || p.in_flight > 0 {
                // Served, deleted or being loaded already.
                continue;
            }
            let params = LoadParams {
                dir: p.dir.clone(),
                config: p.config.clone(),
                recovery_point: p.found.recovery_point,
                log_start_offset: p.found.log_start,
                cleaned_offset: p.found.cleaned.unwrap_or_default(),
                clean: p.found.clean,
                now_ms: turn.now.wall_ms,
                topic_id: tp.topic_id,
            };
            p.in_flight += 1;
            self.partitions.loading += 1;
            self.partitions.loads.began(turn.now.mono);
            let load = Box::new(Load::new(params));
            self.start_job(turn, PendingJob::Load(tp), Job::Load(load));
        }
    }

    /// The output of a job has come.
    pub(crate) fn job_done(&mut self, turn: &mut Turn<'_>, whose: PendingJob, output: JobOutput) {
        match (whose, output) {
            (PendingJob::Load(tp), JobOutput::Load(step)) => self.load_step(turn, tp, step),
            (PendingJob::Seal(tp), JobOutput::Seal(result)) => self.sealed(turn, tp, result),
            (PendingJob::Epoch(tp), JobOutput::Done(result)) => {
                self.epochs_written(turn, tp, &result);
            }
            (PendingJob::Retire(tp), output) => self.retire_ended(turn, tp, output),
            (PendingJob::Close(tp), JobOutput::Close(result)) => self.closed(turn, tp, result),
            (PendingJob::Lookup(lookup), JobOutput::Lookup(result)) => {
                self.looked_up(turn, lookup, result);
            }
            (PendingJob::Clean(tp), JobOutput::Clean(output)) => {
                self.slice_done(turn, tp, *output);
            }
            (PendingJob::Swap(tp), JobOutput::Swap(result)) => self.swapped(turn, tp, result),
            (PendingJob::CleanDiscarded(tp), JobOutput::Done(result)) => {
                self.discarded(turn, tp, &result);
            }
            (PendingJob::Times(tp), JobOutput::Times(result)) => self.times_done(turn, tp, result),
            (PendingJob::Reindex(tp), JobOutput::Reindex(result)) => {
                if let Err(error) = &result {
                    let n = self.dir_of(tp);
                    self.job_failed(turn, n, error);
                }
                if let Some(log) = self.job_ended(turn, tp) {
                    log.reindex_done(result);
                    self.start_log_jobs(turn, tp);
                }
            }
            (PendingJob::Validate(tp, id), JobOutput::Validate(outcome)) => {
                self.validated(turn, tp, id, outcome);
            }
            (PendingJob::Quorum, JobOutput::Quorum(result)) => self.quorum_job_done(result),
            (PendingJob::Unlink(n), JobOutput::Again(job, error)) => {
                self.job_failed(turn, n, &error);
                self.partitions.unlinking -= 1;
                self.job_again(turn, (n, "unlink"), *job, &error);
                self.unlink_more(turn);
            }
            (PendingJob::Unlink(n), JobOutput::Done(result)) => {
                if let Err(error) = &result {
                    self.job_failed(turn, n, error);
                }
                warn_failed("unlink", &result);
                self.partitions.unlinking -= 1;
                self.unlink_more(turn);
            }
            (PendingJob::CleanShutdown, JobOutput::Done(result)) => {
                warn_failed("clean shutdown", &result);
                self.all_stopped(turn);
            }
            (PendingJob::Background(what), JobOutput::Done(result)) => warn_failed(what, &result),
            (whose, output) => self.dir_job_done(turn, whose, output),
        }
    }

    /// The output of a job that has to do with log directories has come.
    fn dir_job_done(&mut self, turn: &mut Turn<'_>, whose: PendingJob, output: JobOutput) {
        match (whose, output) {
            (PendingJob::InDir(n, what), JobOutput::Again(job, error)) => {
                self.job_failed(turn, n, &error);
                self.job_again(turn, (n, what), *job, &error);
            }
            (PendingJob::InDir(n, what), JobOutput::Done(result)) => {
                warn_failed(what, &result);
                if let Err(error) = &result {
                    self.job_failed(turn, n, error);
                }
            }
            (PendingJob::Checkpoint(n), JobOutput::Done(result)) => {
                self.checkpoint_ended(turn, n, &result);
            }
            (PendingJob::Cut(tp), JobOutput::Done(result)) => self.cut_ended(turn, tp, &result),
            (PendingJob::Space, JobOutput::Space(lines)) => self.space_known(turn, lines),
            (PendingJob::DescribeSpace(from), JobOutput::Space(lines)) => {
                self.outbox.result(from, space_result(lines));
            }
            (
                PendingJob::Copy {
                    tp,
                    id,
                    copy,
                    bytes,
                },
                JobOutput::Copy(result),
            ) => self.slice_ended(turn, (tp, id, copy, bytes), result),
            (PendingJob::Relocate(tp), JobOutput::Relocate(result)) => {
                self.swap_ended(turn, tp, result)
            }
            (_, output) => tracing::error!(?output, "a job gave an output of another kind"),
        }
    }

    fn retire_ended(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, output: JobOutput) {
        let n = self.dir_of(tp);
        let serves = self.job_ended(turn, tp);
        match output {
            JobOutput::Retire(result) => {
                if let Some(log) = serves {
                    log.retire_done(&result);
                    self.partitions.mark_dirty(tp);
                    self.reload_if_failed(turn, tp);
                }
                self.retired(turn, n, result);
            }
            JobOutput::RetireAgain(job, error) => {
                tracing::warn!(%error, "retired segments could not be set aside, will try again");
                self.job_failed(turn, n, &error);
                self.retry(turn.now, Retry::Retire(tp, job));
            }
            output => tracing::error!(?output, "a job gave an output of another kind"),
        }
    }

    /// A load has ended.
    pub(crate) fn loaded(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        loaded: io::Result<Box<LoadedLog>>,
    ) {
        let ids = self.partitions.file_ids.clone();
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        match loaded {
            Ok(loaded) => {
                let report = &loaded.report;
                if report.cut.is_some() {
                    tracing::warn!(partition = p.dir_name(), ?report, "recovered, with a cut");
                } else if report.segments_recovered > 0 {
                    tracing::debug!(partition = p.dir_name(), ?report, "recovered");
                }
                p.slow_load = false;
                p.load_failures = 0;
                // Its share of memory begins with the next append.
                p.tail = TailUse::default();
                let mut log = Log::from_loaded(*loaded, p.config.clone(), ids);
                log.set_cleaned_offset(p.found.cleaned);
                let state = State::Online(Box::new(log));
                let before = std::mem::replace(&mut p.state, state);
                let offsets = crate::groups::is_offsets_topic(&p.topic);
                let txns = crate::txns::is_txn_topic(&p.topic);
                let share_states = *p.topic == *crate::share_states::SHARE_STATE_TOPIC;
                if let State::Loading(parked) = before {
                    for (from, op) in parked {
                        self.run_partition_op(turn, from, tp, op);
                    }
                }
                if offsets {
                    self.load_groups(turn, tp);
                }
                self.resume_move(turn, tp);
                if txns {
                    self.load_txns(turn, tp);
                }
                if share_states {
                    self.load_share_states(turn, tp);
                }
            }
            Err(error) => self.load_failed(turn, tp, &error),
        }
    }

    fn load_failed(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, error: &io::Error) {
        let fault = DiskFault::of_error(error);
        let dir = self.dir_of(tp);
        self.dir_error(turn, dir, fault, error);
        if fault == DiskFault::Full {
            self.load_later(turn, tp, error);
        }
        if fault != DiskFault::Local {
            return;
        }
        let n = self.next_id();
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        p.load_failures += 1;
        let refused = Refused::of(error).is_some();
        if p.load_failures < RELOADS_MAX && !refused {
            tracing::debug!(partition = p.dir_name(), %error, "load failed, will try again");
            self.partitions.reloads.insert(n, tp);
            let at = turn.now.mono.plus_ms(RELOAD_DELAY_MS);
            self.timers.arm(at, TimerKey::Reload(n));
            return;
        }
        tracing::error!(partition = p.dir_name(), %error, "not loaded");
        if let State::Loading(parked) = std::mem::replace(&mut p.state, State::Failed) {
            for (from, op) in parked {
                let result = refused_op(&op, ErrorCode::KafkaStorageError);
                self.outbox.result(from, result);
            }
        }
        self.stage_waiting(turn, tp);
    }

    /// There is no room for the files of a partition: it is tried again until there is, and nobody
    /// waits for that.
    fn load_later(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, error: &io::Error) {
        let n = self.next_id();
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        tracing::warn!(partition = p.dir_name(), %error, "load failed, will try again");
        if let State::Loading(parked) = &mut p.state {
            for (from, op) in parked.drain(..) {
                let result = refused_op(&op, ErrorCode::NotLeaderOrFollower);
                self.outbox.result(from, result);
            }
        }
        self.partitions.reloads.insert(n, tp);
        let at = turn.now.mono.plus_ms(RETRY_MS);
        self.timers.arm(at, TimerKey::Reload(n));
    }

    /// The delay after a failed load is over.
    pub(crate) fn reload_due(&mut self, _turn: &mut Turn<'_>, n: u64) {
        if let Some(tp) = self.partitions.reloads.remove(&n) {
            self.partitions.to_load.push_back(tp);
        }
    }

    /// A write failed: the log is forgotten and loaded again from what the disk holds, once nothing
    /// is in flight on it.
    pub(crate) fn reload(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            p.remember();
            p.state = State::Loading(Vec::new());
            p.reload = true;
            self.removal_goes_on(turn, tp);
        }
    }

    /// The name of a segment could not be put on disk, or a cleaned one could not take its place:
    /// what the disk holds is read again.
    pub(crate) fn reload_if_failed(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if !p.log().is_some_and(Log::has_failed) {
            return;
        }
        let mut out = Vec::new();
        p.fail_all(
            ErrorCode::KafkaStorageError,
            &mut self.partitions.watches,
            &mut out,
        );
        self.reload(turn, tp);
        self.carry_outcomes(turn, out);
    }

    /// Emits the jobs that a log has become due for.
    pub(crate) fn start_log_jobs(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if p.is_held() {
            return;
        }
        let Some(log) = p.log_mut() else {
            return;
        };
        if log.is_over_size(turn.now.mono) {
            return self.retention(turn, tp); // comes back here
        }
        let troubled = log.is_troubled();
        let epoch = log.take_epoch_job();
        let seal = match log.seal_due() {
            Some(due) if due <= turn.now.mono => log.take_seal_job(turn.now.mono),
            Some(due) if !p.seal_armed => {
                p.seal_armed = true;
                self.timers.arm(due, TimerKey::Seal(tp));
                None
            }
            _ => None,
        };
        p.in_flight += u32::from(seal.is_some()) + u32::from(epoch.is_some());
        if let Some(job) = seal {
            self.start_job(turn, PendingJob::Seal(tp), Job::Seal(job));
        }
        if let Some(job) = epoch {
            self.start_job(turn, PendingJob::Epoch(tp), Job::Epoch(job));
        }
        if troubled {
            self.start_mending(turn, tp);
        }
    }

    /// A job on a log has ended; gives the log if it still serves.
    pub(crate) fn job_ended(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
    ) -> Option<&mut Log> {
        self.partitions.map.get_mut(&tp)?.in_flight -= 1;
        self.removal_goes_on(turn, tp);
        self.move_goes_on(turn, tp);
        self.partitions.map.get_mut(&tp)?.log_mut()
    }

    fn retired(&mut self, turn: &mut Turn<'_>, dir: usize, result: io::Result<Deleted>) {
        match result {
            Ok(deleted) => {
                if let Some(unlink) = deleted.unlink {
                    self.unlink_later(turn, dir, unlink, deleted.delay_ms);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "retired segments could not be set aside");
                self.job_failed(turn, dir, &error);
            }
        }
    }

    /// Files that nothing finds any more are unlinked after `file.delete.delay.ms`.
    pub(crate) fn unlink_later(
        &mut self,
        turn: &mut Turn<'_>,
        dir: usize,
        unlink: UnlinkJob,
        delay_ms: i64,
    ) {
        let n = self.next_id();
        // Where there is no room nobody can wait for it.
        let delay = if self.dirs.is_full(dir) { 0 } else { delay_ms };
        let at = turn.now.mono.plus_ms(delay);
        self.partitions.unlinks.insert(n, (dir, unlink));
        self.timers.arm(at, TimerKey::Unlink(n));
    }

    /// `file.delete.delay.ms` of retired segments is over.
    pub(crate) fn unlink_due(&mut self, turn: &mut Turn<'_>, n: u64) {
        let due = self.partitions.unlinks.remove(&n);
        self.partitions.to_unlink.extend(due);
        self.unlink_more(turn);
    }

    /// Unlinks what waits for it, one after the other: to free a segment takes the CPU that the
    /// shard may be on, and other jobs wait for the threads. Several only where it falls behind.
    fn unlink_more(&mut self, turn: &mut Turn<'_>) {
        let most = (1 + self.partitions.to_unlink.len() / UNLINKS_PER_JOB).min(UNLINK_JOBS_MAX);
        while self.partitions.unlinking < most
            && let Some((dir, unlink)) = self.partitions.to_unlink.pop_front()
        {
            self.partitions.unlinking += 1;
            self.start_job(turn, PendingJob::Unlink(dir), Job::Unlink(unlink));
        }
    }

    /// Runs retention on one partition.
    pub(crate) fn retention(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let high_watermark = Offset(p.high_watermark());
        if p.is_held() {
            return;
        }
        let job = p
            .log_mut()
            .and_then(|log| log.retention(turn.now, high_watermark));
        if let Some(job) = job {
            p.in_flight += 1;
            self.start_job(turn, PendingJob::Retire(tp), Job::Retire(job));
            self.tell_watchers(turn, tp); // the log may start elsewhere now
        }
        self.start_log_jobs(turn, tp);
    }

    /// Emits the sync that `flush.ms` asks for.
    pub(crate) fn flush(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if p.is_held() {
            return;
        }
        if let Some(sync) = p.log_mut().and_then(|log| log.take_sync(turn.now)) {
            p.in_flight += 1;
            let token = self.park(Pending::Sync(tp, sync.end_offset));
            turn.fx
                .push(Effect::Io(token, DiskOp::Sync { file: sync.file }));
        }
    }

    /// A sync has ended.
    pub(crate) fn sync_done(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        end: Offset,
        result: &Result<IoOutput, IoFailure>,
    ) {
        let n = self.dir_of(tp);
        if let Err(failure) = result {
            self.fail_dir(turn, n, &failure.to_string());
        }
        if let Some(log) = self.job_ended(turn, tp) {
            log.sync_done(end, result.is_ok());
        }
    }

    /// The image has dropped the partition: nobody waits for it any more, and its files go when
    /// nothing is in flight.
    pub(crate) fn remove_partition(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let mut out = Vec::new();
        p.fail_all(
            ErrorCode::UnknownTopicOrPartition,
            &mut self.partitions.watches,
            &mut out,
        );
        if let State::Loading(parked) = std::mem::replace(&mut p.state, State::Removing) {
            for (from, op) in parked {
                let result = refused_op(&op, ErrorCode::UnknownTopicOrPartition);
                self.outbox.result(from, result);
            }
        }
        self.carry_outcomes(turn, out);
        self.drop_shares_of(tp, ErrorCode::UnknownTopicOrPartition);
        self.forget_move(turn, tp);
        self.removal_goes_on(turn, tp);
    }

    /// Nothing may be in flight any more on a partition: what waited for that goes on.
    pub(crate) fn removal_goes_on(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if p.in_flight > 0 {
            return;
        }
        if p.reload && matches!(p.state, State::Loading(_)) {
            p.reload = false;
            self.partitions.to_load.push_back(tp);
        } else if matches!(p.state, State::Removing) {
            let (job, dir) = (removal(p), p.log_dir);
            self.partitions.map.remove(&tp);
            // On a disk that failed it stays, and is found without a topic when that is back.
            if self.dirs.is_online(dir) {
                self.start_job(turn, PendingJob::InDir(dir, "remove partition"), job);
            }
        }
    }
}

fn removal(p: &Partition) -> Job {
    let name = set_aside_name(&p.dir_name(), p.tp.topic_id, "delete");
    Job::RemovePartition {
        dir: p.dir.clone(),
        renamed: p.dir.with_file_name(name),
        topic_id: p.tp.topic_id,
    }
}

/// Logs a background job that failed; the next run does its work.
pub(crate) fn warn_failed(what: &str, result: &io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what} failed");
    }
}
