//! Log compaction on a shard: of its compacted partitions the dirtiest is cleaned, one at a time,
//! in slices that leave room for the shard's own work and for
//! `log.cleaner.io.max.bytes.per.second`.
//!
//! ```text
//! Waiting -- log.cleaner.backoff.ms --> Choosing -- none is due --> Waiting
//!   Choosing -- the dirtiest that is due --> Slice (a job) -- more --> Paused --> Slice
//!   Slice -- a new segment is ready --> Opening: the old files are opened, so that readers keep
//!     them --> Swapping (a job) --> Paused
//!   Slice -- done --> Choosing
//!   any -- the log has failed, moved or gone, or the broker stops --> the cleaning is let go of
//! ```
//! One timer is armed in Waiting, Choosing and Paused, none while a job or the disk has the word.

use crate::Shard;
use crate::io::{DiskOp, Effect};
use crate::jobs::Job;
use crate::lookups::PendingLookup;
use crate::partition::Partition;
use crate::partitions::{Pending, PendingJob};
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::{LogFile, Mono, Now, Offset, TopicPartition};
use flumen_log::Log;
use flumen_log::clean::{
    CleanLimits, CleanOutput, CleanStats, CleanStep, Cleaning, SwapJob, Swapped,
};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Partitions looked at per slice, as in housekeeping.
const CHOOSE_SLICE: usize = 64;
const CHOOSE_PAUSE_MS: i64 = 1;
/// Least bytes that a slice reads.
const SLICE_BYTES_MIN: usize = 16 << 10;
/// Between two slices it rests as long as the last one took, but no longer than this: at most half
/// of a CPU that it shares with the shard is taken.
const REST_MAX: Duration = Duration::from_millis(50);

/// The cleaner of one shard.
#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    state: State,
    /// Logs whose cleaning found damage: not tried again in this process, as in Kafka.
    uncleanable: BTreeSet<TopicPartition>,
    /// Searches by time that may have met files that were changing places.
    pub(crate) lookups: Vec<PendingLookup>,
    pub(crate) totals: Totals,
}

/// What /metrics tells.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) failures: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) records_removed: u64,
    /// Of the last look at all partitions.
    pub(crate) max_dirty_percent: u64,
    /// Of the last cleaning.
    pub(crate) map_percent: u64,
    pub(crate) last_run_ms: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    Choosing {
        left: Vec<TopicPartition>,
        best: Option<(f64, TopicPartition)>,
        max_ratio: f64,
    },
    Cleaning(Box<Running>),
}

/// The cleaning in progress.
#[derive(Debug)]
struct Running {
    tp: TopicPartition,
    began: Mono,
    /// When the job of now began.
    job_began: Mono,
    /// What the metrics have of it already.
    counted: CleanStats,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// A job has it.
    Slice,
    Paused(Box<Cleaning>),
    Opening {
        work: Box<Cleaning>,
        swap: Box<SwapJob>,
        left: usize,
        failed: bool,
    },
    Swapping(Box<Cleaning>),
}

impl Cleaner {
    /// Partitions that are not cleaned any more.
    pub(crate) fn uncleanable(&self) -> usize {
        self.uncleanable.len()
    }

    /// Whether a cleaning goes on.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Cleaning(_))
    }

    fn count(&mut self, stats: CleanStats) {
        let State::Cleaning(running) = &mut self.state else {
            return;
        };
        let before = std::mem::replace(&mut running.counted, stats);
        let removed = |s: &CleanStats| s.records_read - s.records_kept;
        let totals = &mut self.totals;
        totals.bytes_read += stats.bytes_read - before.bytes_read;
        totals.bytes_written += stats.bytes_written - before.bytes_written;
        totals.records_removed += removed(&stats) - removed(&before);
    }
}

impl Shard {
    /// At the start: the first look comes after `log.cleaner.backoff.ms`.
    pub(crate) fn arm_cleaner(&mut self, now: Now) {
        if self.broker.log.cleaner_enable {
            let at = now.mono.plus_ms(self.broker.log.cleaner_backoff_ms.max(1));
            self.timers.arm(at, TimerKey::Cleaner);
        }
    }

    /// The cleaner's timer.
    pub(crate) fn cleaner_due(&mut self, turn: &mut Turn<'_>) {
        if self.life.is_stopping() {
            self.cleaner.state = State::Waiting; // what was begun is removed with the next start
            return;
        }
        match std::mem::take(&mut self.cleaner.state) {
            State::Waiting => {
                let compacted = |p: &&Partition| p.config.cleanup_policy.compact;
                let all = self.partitions.map.values().filter(compacted);
                let mut left: Vec<TopicPartition> = all.map(|p| p.tp).collect();
                left.sort_unstable_by(|a, b| b.cmp(a));
                self.choose(turn, left, None, 0.0);
            }
            State::Choosing {
                left,
                best,
                max_ratio,
            } => self.choose(turn, left, best, max_ratio),
            State::Cleaning(running) => match *running {
                Running {
                    tp,
                    began,
                    counted,
                    stage: Stage::Paused(work),
                    ..
                } => self.start_slice(turn, tp, work, began, counted),
                other => self.cleaner.state = State::Cleaning(Box::new(other)),
            },
        }
    }

    /// Looks at some partitions; after the last one the dirtiest is cleaned, if it is due.
    fn choose(
        &mut self,
        turn: &mut Turn<'_>,
        mut left: Vec<TopicPartition>,
        mut best: Option<(f64, TopicPartition)>,
        mut max_ratio: f64,
    ) {
        let first = left.len().saturating_sub(CHOOSE_SLICE);
        for tp in left.split_off(first) {
            if self.cleaner.uncleanable.contains(&tp) {
                continue;
            }
            let Some(p) = self.partitions.map.get(&tp) else {
                continue;
            };
            if p.moving.is_some() {
                continue; // it would be copied anew
            }
            let high_watermark = Offset(p.high_watermark());
            let Some(log) = p.log() else { continue };
            let Some(what) = log.cleanable(turn.now, high_watermark) else {
                continue;
            };
            let ratio = what.ratio();
            max_ratio = max_ratio.max(ratio);
            if what.is_due(log.config()) && best.is_none_or(|(r, _)| ratio > r) {
                best = Some((ratio, tp));
            }
        }
        if !left.is_empty() {
            self.cleaner.state = State::Choosing {
                left,
                best,
                max_ratio,
            };
            return self.rearm_cleaner(turn, CHOOSE_PAUSE_MS);
        }
        self.cleaner.totals.max_dirty_percent = (max_ratio * 100.0) as u64;
        self.cleaner
            .uncleanable
            .retain(|tp| self.partitions.map.contains_key(tp));
        match best {
            Some((_, tp)) => self.start_cleaning(turn, tp),
            None => self.rearm_cleaner(turn, self.broker.log.cleaner_backoff_ms),
        }
    }

    fn rearm_cleaner(&mut self, turn: &mut Turn<'_>, ms: i64) {
        let at = turn.now.mono.plus_ms(ms.max(1));
        self.timers.arm(at, TimerKey::Cleaner);
    }

    fn start_cleaning(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let limits = self.clean_limits();
        let now = turn.now;
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return self.rearm_cleaner(turn, CHOOSE_PAUSE_MS);
        };
        let name = p.dir_name();
        let high_watermark = Offset(p.high_watermark());
        let work = p.log_mut().and_then(|log| {
            let what = log.cleanable(now, high_watermark)?;
            tracing::debug!(partition = name, ?what, "cleaning begins");
            Some(log.start_cleaning(now, what, limits))
        });
        match work {
            Some(work) => self.start_slice(turn, tp, work, now.mono, CleanStats::default()),
            None => self.rearm_cleaner(turn, CHOOSE_PAUSE_MS),
        }
    }

    /// This shard's part of what `log.cleaner.*` gives the broker.
    fn clean_limits(&mut self) -> CleanLimits {
        let settings = &self.broker.log;
        let shards = i64::from(self.shards);
        let map_bytes = settings.cleaner_dedupe_buffer_bytes / shards;
        let io_bytes = i64::from(settings.cleaner_io_buffer_bytes) / shards;
        CleanLimits {
            map_bytes: usize::try_from(map_bytes).unwrap_or(0),
            map_load_factor: settings.cleaner_io_buffer_load_factor,
            // Half is for what is written.
            slice_bytes: usize::try_from(io_bytes / 2).map_or(0, |n| n.max(SLICE_BYTES_MIN)),
            hash_key: [self.prng.next_u64(), self.prng.next_u64()],
        }
    }

    fn start_slice(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        work: Box<Cleaning>,
        began: Mono,
        counted: CleanStats,
    ) {
        let running = Running {
            tp,
            began,
            job_began: turn.now.mono,
            counted,
            stage: Stage::Slice,
        };
        self.cleaner.state = State::Cleaning(Box::new(running));
        let cleaning = |p: &&mut Partition| p.log().is_some_and(Log::is_cleaning);
        match self.partitions.map.get_mut(&tp).filter(cleaning) {
            Some(p) => {
                p.in_flight += 1;
                self.start_job(turn, PendingJob::Clean(tp), Job::Clean(work));
            }
            // Loaded again, or gone: its files were tidied up by that.
            None => self.end_cleaning(turn, tp, None),
        }
    }

    /// A slice has ended.
    pub(crate) fn slice_done(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        output: CleanOutput,
    ) {
        let serves = self.job_ended(turn, tp).is_some();
        self.cleaner.count(output.work.stats());
        match output.step {
            _ if !serves || self.life.is_stopping() => self.end_cleaning(turn, tp, None),
            Ok(CleanStep::More) => self.pause_cleaning(turn, output.work, output.bytes),
            Ok(CleanStep::Swap(swap)) => self.begin_swap(turn, tp, output.work, swap),
            Ok(CleanStep::Done(end)) => self.cleaned(turn, tp, &output.work, end),
            Err(error) => self.cleaning_failed(turn, tp, output.work, &error),
        }
    }

    /// The next slice comes later: as much later as the last one took, and as its bytes may.
    fn pause_cleaning(&mut self, turn: &mut Turn<'_>, work: Box<Cleaning>, bytes: u64) {
        let State::Cleaning(running) = &mut self.cleaner.state else {
            return;
        };
        let took = Duration::from_nanos(turn.now.mono.nanos_since(running.job_began));
        running.stage = Stage::Paused(work);
        let per_second = self.broker.log.cleaner_io_max_bytes_per_second / f64::from(self.shards);
        let asked = Duration::try_from_secs_f64(bytes as f64 / per_second.max(1.0));
        let throttle = asked.unwrap_or_default().saturating_sub(took);
        let at = turn.now.mono + took.min(REST_MAX).max(throttle);
        self.timers.arm(at, TimerKey::Cleaner);
    }

    /// Opens the files of the segments that are to be replaced.
    fn begin_swap(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        work: Box<Cleaning>,
        mut swap: SwapJob,
    ) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return self.end_cleaning(turn, tp, None);
        };
        let Some(files) = p.log_mut().and_then(|log| log.begin_swap(&mut swap)) else {
            // Retention has taken some of them.
            return self.give_up(turn, tp, work);
        };
        p.in_flight += u32::try_from(files.len()).unwrap_or(u32::MAX);
        let left = files.len();
        self.set_stage(Stage::Opening {
            work,
            swap: Box::new(swap),
            left,
            failed: false,
        });
        for file in files {
            self.open_for_swap(turn, tp, file);
        }
        if left == 0 {
            self.swap_now(turn);
        }
    }

    fn open_for_swap(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, file: Arc<LogFile>) {
        let token = self.park(Pending::OpenForSwap(tp));
        let (pos, len) = (0, 1);
        turn.fx
            .push(Effect::Io(token, DiskOp::Read { file, pos, len }));
    }

    fn set_stage(&mut self, new: Stage) {
        if let State::Cleaning(running) = &mut self.cleaner.state {
            running.stage = new;
        }
    }

    /// One of the files is open.
    pub(crate) fn opened_for_swap(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, ok: bool) {
        self.job_ended(turn, tp);
        let State::Cleaning(running) = &mut self.cleaner.state else {
            return;
        };
        let Stage::Opening { left, failed, .. } = &mut running.stage else {
            return;
        };
        *left -= 1;
        *failed |= !ok;
        if *left == 0 {
            self.swap_now(turn);
        }
    }

    /// All are open: the files change places, if the log still serves.
    fn swap_now(&mut self, turn: &mut Turn<'_>) {
        let State::Cleaning(running) = &mut self.cleaner.state else {
            return;
        };
        let tp = running.tp;
        running.job_began = turn.now.mono;
        let stage = std::mem::replace(&mut running.stage, Stage::Slice);
        let Stage::Opening {
            work, swap, failed, ..
        } = stage
        else {
            return;
        };
        let stopping = self.life.is_stopping();
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return self.end_cleaning(turn, tp, None);
        };
        let Some(log) = p.log_mut() else {
            return self.end_cleaning(turn, tp, None);
        };
        if failed || stopping || !log.is_swapping() {
            log.swap_given_up();
            return self.give_up(turn, tp, work);
        }
        p.in_flight += 1;
        self.set_stage(Stage::Swapping(work));
        self.start_job(turn, PendingJob::Swap(tp), Job::Swap(*swap));
    }

    /// The files have changed places, or it failed half way: then the log is loaded again, which
    /// completes it.
    pub(crate) fn swapped(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: io::Result<Swapped>,
    ) {
        let dir = self.dir_of(tp);
        if let Err(error) = &result {
            tracing::error!(%error, "a cleaned segment could not be put in place");
            self.job_failed(turn, dir, error);
        }
        let unlink = match self.job_ended(turn, tp) {
            Some(log) => log.swap_done(result),
            None => result.ok().map(|s| (s.unlink, s.delay_ms)), // loaded again, or going
        };
        if let Some((unlink, delay_ms)) = unlink {
            self.unlink_later(turn, dir, unlink, delay_ms);
        }
        self.reload_if_failed(turn, tp);
        self.lookups_again(turn);
        let State::Cleaning(running) = &mut self.cleaner.state else {
            return;
        };
        let stage = std::mem::replace(&mut running.stage, Stage::Slice);
        let p = self.partitions.map.get(&tp);
        match stage {
            Stage::Swapping(work) if p.and_then(Partition::log).is_some_and(Log::is_cleaning) => {
                self.pause_cleaning(turn, work, 0);
            }
            _ => self.end_cleaning(turn, tp, None),
        }
    }

    fn cleaned(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, work: &Cleaning, end: Offset) {
        let stats = work.stats();
        if let Some(p) = self.partitions.map.get(&tp) {
            tracing::info!(partition = p.dir_name(), %end, ?stats, "cleaned");
        }
        let totals = &mut self.cleaner.totals;
        totals.runs += 1;
        totals.map_percent = (stats.map_utilization * 100.0) as u64;
        if let State::Cleaning(running) = &self.cleaner.state {
            totals.last_run_ms = turn.now.mono.nanos_since(running.began) / 1_000_000;
        }
        self.end_cleaning(turn, tp, Some(end));
        self.say_cleaned(turn, tp);
        // For `delete,compact`: Kafka's cleaner does this too.
        self.retention(turn, tp);
    }

    fn cleaning_failed(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        work: Box<Cleaning>,
        error: &io::Error,
    ) {
        self.cleaner.totals.failures += 1;
        self.job_failed(turn, self.dir_of(tp), error);
        match error.kind() {
            // Retention, or a reload, has moved a file on.
            io::ErrorKind::NotFound => tracing::debug!(%error, "a cleaning lost a file"),
            io::ErrorKind::InvalidData => {
                tracing::error!(%error, "a log is damaged and will not be cleaned any more");
                self.cleaner.uncleanable.insert(tp);
            }
            _ => tracing::warn!(%error, "a cleaning failed, will try again"),
        }
        self.give_up(turn, tp, work);
    }

    /// Removes what the cleaning has begun, and lets it go.
    fn give_up(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, work: Box<Cleaning>) {
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            p.in_flight += 1; // the next cleaning must not begin before, nor a reload
            self.start_job(
                turn,
                PendingJob::CleanDiscarded(tp),
                Job::DiscardCleaning(work),
            );
        } else {
            self.end_cleaning(turn, tp, None);
        }
    }

    /// What a cleaning had begun is removed.
    pub(crate) fn discarded(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: &io::Result<()>,
    ) {
        crate::logs::warn_failed("removing what a cleaning had begun", result);
        self.job_ended(turn, tp);
        self.end_cleaning(turn, tp, None);
    }

    /// The cleaning is over; the next look comes at once after one that came to its end.
    fn end_cleaning(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, end: Option<Offset>) {
        self.cleaner.state = State::Waiting;
        let p = self.partitions.map.get_mut(&tp);
        if let Some(log) = p.and_then(Partition::log_mut) {
            log.cleaning_done(end);
        }
        self.lookups_again(turn);
        if !self.life.is_stopping() {
            let backoff_ms = self.broker.log.cleaner_backoff_ms;
            let pause_ms = if end.is_some() {
                CHOOSE_PAUSE_MS
            } else {
                backoff_ms
            };
            self.rearm_cleaner(turn, pause_ms);
        }
    }
}
