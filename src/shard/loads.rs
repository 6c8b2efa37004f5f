//! Loads that take long: in slices, so that many partitions recover side by side and the quick ones
//! first; with progress in the broker's log; and with patience that ends.
//!
//! A shard serves once its loads are done, or have taken [`READY_PATIENCE_MS`]. A read of a
//! partition that is still being loaded waits for it [`OP_PATIENCE_MS`]; then, and from then on at
//! once, it is told to come again, so that a fetch of many partitions does not wait for one.
//! Appends and transaction markers wait in any case: were one refused and the next, already on its
//! way, taken by the log that has come by then, a producer that the log does not know would be
//! written in another order.

use crate::Shard;
use crate::answers::refused_op;
use crate::jobs::Job;
use crate::ops::PartitionOp;
use crate::partition::State;
use crate::partitions::{Partitions, PendingJob};
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::limits::{LOAD_SLICE_BYTES, LOADS_IN_FLIGHT_MAX};
use flumen_base::{ErrorCode, Mono, Now, TopicPartition};
use flumen_log::recovery::{Load, LoadStep, Refused};
use flumen_log::{CheckedTimes, Log};
use std::collections::VecDeque;
use std::io;

/// How long clients wait for all partitions of a start.
const READY_PATIENCE_MS: i64 = 1000;
/// How long an operation waits for its partition.
const OP_PATIENCE_MS: i64 = 1000;
/// Between two reports of progress.
const REPORT_MS: i64 = 5000;
/// A background job that failed is done again after this time.
const AGAIN_MS: i64 = 10_000;

/// The loads of a shard.
#[derive(Default)]
pub(crate) struct Loads {
    /// In the middle of their segments, while others have their turn.
    paused: VecDeque<(TopicPartition, Box<Load>)>,
    /// When the first of those under way began, and when progress is told next.
    report_at: Option<Mono>,
    /// Bytes walked, about.
    walked: u64,
    /// How many have ended well, and how many were refused.
    loaded: usize,
    refused: usize,
    /// The patience of a start is over.
    pub(crate) late: bool,
}

impl Loads {
    /// A load begins.
    pub(crate) fn began(&mut self, now: Mono) {
        self.report_at.get_or_insert(now.plus_ms(REPORT_MS));
    }
}

impl Partitions {
    /// Whether any partition is being loaded, or is to be.
    pub(crate) fn is_loading(&self) -> bool {
        self.loading > 0 || !self.to_load.is_empty() || !self.loads.paused.is_empty()
    }

    /// The log of a partition that serves.
    pub(crate) fn log_mut(&mut self, tp: TopicPartition) -> Option<&mut Log> {
        self.map.get_mut(&tp)?.log_mut()
    }
}

impl Shard {
    /// At the start: when to serve although partitions are still being loaded.
    pub(crate) fn arm_ready(&mut self, now: Now) {
        let at = now.mono.plus_ms(READY_PATIENCE_MS);
        self.timers.arm(at, TimerKey::ReadyBy);
    }

    /// That time has come.
    pub(crate) fn ready_by(&mut self) {
        self.partitions.loads.late = true;
    }

    /// No load is left that has not begun: those that have go on.
    pub(crate) fn go_on_loading(&mut self, turn: &mut Turn<'_>) {
        while self.partitions.loading < LOADS_IN_FLIGHT_MAX {
            let Some((tp, load)) = self.partitions.loads.paused.pop_front() else {
                return;
            };
            self.partitions.loading += 1;
            self.start_job(turn, PendingJob::Load(tp), Job::Load(load));
        }
    }

    /// A slice of a load has ended.
    pub(crate) fn load_step(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        step: io::Result<LoadStep>,
    ) {
        self.partitions.loading -= 1;
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let gone = !p.is_loading();
        let loaded = match step {
            Ok(LoadStep::More(load)) if !gone && !self.life.is_stopping() => {
                self.partitions.loads.walked += LOAD_SLICE_BYTES;
                self.partitions.loads.paused.push_back((tp, load));
                self.report_progress(turn.now.mono);
                return;
            }
            Ok(LoadStep::More(_)) => None, // the next start begins it again
            Ok(LoadStep::Done(loaded)) => Some(Ok(loaded)),
            Err(error) => Some(Err(error)),
        };
        p.in_flight -= 1;
        if gone {
            // Deleted, or its directory went offline meanwhile.
            self.removal_goes_on(turn, tp);
            return;
        }
        let Some(loaded) = loaded else {
            return;
        };
        let loads = &mut self.partitions.loads;
        match &loaded {
            Ok(loaded) => {
                loads.loaded += 1;
                loads.walked += loaded.report.bytes_walked % LOAD_SLICE_BYTES;
            }
            Err(error) => loads.refused += usize::from(Refused::of(error).is_some()),
        }
        self.loaded(turn, tp, loaded);
        self.report_progress(turn.now.mono);
    }

    /// Tells from time to time how far recovery is.
    fn report_progress(&mut self, now: Mono) {
        let loading = self.partitions.is_loading();
        let under_way = self.partitions.to_load.len() + self.partitions.loading;
        let loads = &mut self.partitions.loads;
        if loads.report_at.is_none_or(|at| now < at) && loading {
            return;
        }
        // What went by quickly needs no report.
        if loads.report_at.is_some_and(|at| now >= at) || loads.refused > 0 {
            let left = under_way + loads.paused.len();
            let mebibytes = loads.walked >> 20;
            tracing::info!(
                shard = self.id.0,
                left,
                loaded = loads.loaded,
                refused = loads.refused,
                mebibytes,
                "loading partitions"
            );
        }
        loads.report_at = loading.then(|| now.plus_ms(REPORT_MS));
        if !loading {
            (loads.walked, loads.loaded, loads.refused) = (0, 0, 0);
        }
    }

    /// An operation waits for a partition that is being loaded: not for long.
    pub(crate) fn arm_patience(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let at = turn.now.mono.plus_ms(OP_PATIENCE_MS);
        self.timers.arm(at, TimerKey::Patience(tp));
    }

    /// Operations have waited long enough for a partition.
    pub(crate) fn patience_over(&mut self, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if let State::Loading(parked) = &mut p.state {
            p.slow_load = true;
            let waits = |(_, op): &(_, PartitionOp)| {
                matches!(op, PartitionOp::Append(_) | PartitionOp::Marker(..))
            };
            let (kept, refused) = std::mem::take(parked).into_iter().partition(waits);
            *parked = kept;
            let refused: Vec<_> = refused;
            for (from, op) in refused {
                let result = refused_op(&op, ErrorCode::NotLeaderOrFollower);
                self.outbox.result(from, result);
            }
        }
    }

    /// Tells what reads have found wrong with a log, and has it mended.
    pub(crate) fn start_mending(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let Some(log) = p.log_mut() else {
            return;
        };
        if let Some(trouble) = log.take_trouble() {
            tracing::error!(%trouble, "a log file is not as it should be");
        }
        let (reindex, times) = (log.take_reindex_job(), log.take_times_job());
        p.in_flight += u32::from(reindex.is_some()) + u32::from(times.is_some());
        if let Some(job) = reindex {
            self.start_job(turn, PendingJob::Reindex(tp), Job::Reindex(job));
        }
        if let Some(job) = times {
            self.start_job(turn, PendingJob::Times(tp), Job::Times(job));
        }
    }

    /// Largest timestamps have been looked at: retention goes on.
    pub(crate) fn times_done(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: io::Result<CheckedTimes>,
    ) {
        let name = self.partitions.get(&tp).map(|p| p.dir_name());
        let n = self.dir_of(tp);
        let log = self.job_ended(turn, tp);
        match (result, log) {
            (Ok(checked), Some(log)) => {
                log.times_checked(&checked);
                self.retention(turn, tp);
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::error!(partition = name, %error, "no retention by time");
                self.job_failed(turn, n, &error);
            }
        }
    }

    /// A background job failed: it is done again later.
    pub(crate) fn job_again(
        &mut self,
        turn: &mut Turn<'_>,
        (dir, what): (usize, &'static str),
        job: Job,
        error: &io::Error,
    ) {
        if self.life.is_stopping() {
            return; // the next start removes what is left
        }
        let n = self.next_id();
        tracing::warn!(%error, "{what} failed, it will be tried again");
        self.partitions.again.insert(n, (dir, what, job));
        self.timers
            .arm(turn.now.mono.plus_ms(AGAIN_MS), TimerKey::Again(n));
    }

    /// A background job is due again.
    pub(crate) fn again_due(&mut self, turn: &mut Turn<'_>, n: u64) {
        if let Some((dir, what, job)) = self.partitions.again.remove(&n) {
            self.start_job(turn, PendingJob::InDir(dir, what), job);
        }
    }
}
