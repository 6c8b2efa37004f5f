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
use crate::found::set_aside_name;
use crate::io::{DiskOp, Effect};
use crate::jobs::{Job, JobOutput};
use crate::partition::{Partition, State, refused_op};
use crate::partitions::{Pending, PendingJob};
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::limits::LOADS_IN_FLIGHT_MAX;
use flumen_base::{ErrorCode, Offset, TopicPartition};
use flumen_log::recovery::{LoadParams, LoadedLog};
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
        for dir in std::mem::take(&mut self.partitions.left_behind) {
            let whose = PendingJob::Background("remove leftovers");
            self.start_job(turn, whose, Job::RemoveLeftBehind(dir));
        }
        while self.partitions.loading < LOADS_IN_FLIGHT_MAX {
            let Some(tp) = self.partitions.to_load.pop_front() else {
                return;
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
            self.start_job(turn, PendingJob::Load(tp), Job::Load(Box::new(params)));
        }
    }

    /// The output of a job has come.
    pub(crate) fn job_done(&mut self, turn: &mut Turn<'_>, whose: PendingJob, output: JobOutput) {
        match (whose, output) {
            (PendingJob::Load(tp), JobOutput::Load(loaded)) => self.loaded(turn, tp, loaded),
            (PendingJob::Seal(tp), JobOutput::Seal(result)) => {
                if let Some(log) = self.job_ended(turn, tp) {
                    log.seal_done(result);
                    self.partitions.mark_dirty(tp); // writes may have waited for it
                    self.start_log_jobs(turn, tp);
                    self.reload_if_failed(turn, tp);
                }
            }
            (PendingJob::Epoch(tp), JobOutput::Done(result)) => {
                warn_failed("epoch checkpoint", &result);
                self.job_ended(turn, tp);
            }
            (PendingJob::Retire(tp), JobOutput::Retire(result)) => {
                if let Some(log) = self.job_ended(turn, tp) {
                    log.retire_done(&result);
                    self.partitions.mark_dirty(tp);
                    self.reload_if_failed(turn, tp);
                }
                self.retired(turn, result);
            }
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
            (PendingJob::Validate(tp, id), JobOutput::Validate(outcome)) => {
                self.validated(turn, tp, id, outcome);
            }
            (PendingJob::Quorum, JobOutput::Quorum(result)) => self.quorum_job_done(result),
            (PendingJob::Unlink, JobOutput::Done(result)) => {
                warn_failed("unlink", &result);
                self.partitions.unlinking -= 1;
                self.unlink_more(turn);
            }
            (PendingJob::CleanShutdown, JobOutput::Done(result)) => {
                warn_failed("clean shutdown", &result);
                self.all_stopped(turn);
            }
            (PendingJob::Background(what), JobOutput::Done(result)) => warn_failed(what, &result),
            (_, output) => tracing::error!(?output, "a job gave an output of another kind"),
        }
    }

    fn loaded(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        loaded: io::Result<Box<LoadedLog>>,
    ) {
        self.partitions.loading -= 1;
        let ids = self.partitions.file_ids.clone();
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        p.in_flight -= 1;
        if matches!(p.state, State::Removing) {
            self.removal_goes_on(turn, tp);
            return;
        }
        match loaded {
            Ok(loaded) => {
                let report = &loaded.report;
                if report.segments_recovered > 0 || report.cut.is_some() {
                    tracing::info!(partition = p.dir_name(), ?report, "recovered");
                }
                p.load_failures = 0;
                // Its share of memory begins with the next append.
                p.warm = false;
                let mut log = Log::from_loaded(*loaded, p.config.clone(), ids);
                log.set_cleaned_offset(p.found.cleaned);
                let state = State::Online(Box::new(log));
                let before = std::mem::replace(&mut p.state, state);
                let offsets = crate::groups::is_offsets_topic(&p.topic);
                if let State::Loading(parked) = before {
                    for (from, op) in parked {
                        self.run_partition_op(turn, from, tp, op);
                    }
                }
                if offsets {
                    self.load_groups(turn, tp);
                }
            }
            Err(error) => self.load_failed(turn, tp, &error),
        }
    }

    fn load_failed(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, error: &io::Error) {
        let n = self.next_id();
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        p.load_failures += 1;
        if p.load_failures < RELOADS_MAX {
            tracing::debug!(partition = p.dir_name(), %error, "load failed, will try again");
            self.partitions.reloads.insert(n, tp);
            let at = turn.now.mono.plus_ms(RELOAD_DELAY_MS);
            self.timers.arm(at, TimerKey::Reload(n));
            return;
        }
        tracing::error!(partition = p.dir_name(), %error, "load failed");
        if let State::Loading(parked) = std::mem::replace(&mut p.state, State::Failed) {
            for (from, op) in parked {
                let result = refused_op(&op, ErrorCode::KafkaStorageError);
                self.outbox.result(from, result);
            }
        }
        self.stage_waiting(turn, tp);
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
            let known = p.log().map(|log| {
                let (point, start) = (log.recovery_point(), log.log_start_offset());
                (point, start, log.cleaned_offset())
            });
            if let Some((recovery_point, log_start, cleaned)) = known {
                p.found.recovery_point = recovery_point;
                p.found.log_start = log_start;
                p.found.cleaned = cleaned;
            }
            p.found.clean = false;
            p.state = State::Loading(Vec::new());
            p.reload = true;
            self.removal_goes_on(turn, tp);
        }
    }

    /// A sync or a seal failed: as with a failed write.
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
        let Some(log) = p.log_mut() else {
            return;
        };
        if log.is_over_size(turn.now.mono) {
            return self.retention(turn, tp); // comes back here
        }
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
    }

    /// The delay of a rolled segment's seal is over.
    pub(crate) fn seal_due(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            p.seal_armed = false;
            self.start_log_jobs(turn, tp);
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
        self.partitions.map.get_mut(&tp)?.log_mut()
    }

    fn retired(&mut self, turn: &mut Turn<'_>, result: io::Result<Deleted>) {
        match result {
            Ok(deleted) => self.unlink_later(turn, deleted.unlink, deleted.delay_ms),
            Err(error) => tracing::warn!(%error, "retired segments could not be set aside"),
        }
    }

    /// Files that nothing finds any more are unlinked after `file.delete.delay.ms`.
    pub(crate) fn unlink_later(&mut self, turn: &mut Turn<'_>, unlink: UnlinkJob, delay_ms: i64) {
        let n = self.next_id();
        let at = turn.now.mono.plus_ms(delay_ms);
        self.partitions.unlinks.insert(n, unlink);
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
            && let Some(unlink) = self.partitions.to_unlink.pop_front()
        {
            self.partitions.unlinking += 1;
            self.start_job(turn, PendingJob::Unlink, Job::Unlink(unlink));
        }
    }

    /// Runs retention on one partition.
    pub(crate) fn retention(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let high_watermark = Offset(p.high_watermark());
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
        ok: bool,
    ) {
        if let Some(log) = self.job_ended(turn, tp) {
            log.sync_done(end, ok);
            self.reload_if_failed(turn, tp);
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
            let job = removal(p);
            self.partitions.map.remove(&tp);
            self.start_job(turn, PendingJob::Background("remove partition"), job);
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
