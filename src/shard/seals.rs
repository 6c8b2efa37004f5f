//! Rolled segments are sealed: when that is due, and what goes on with each of its steps.

use crate::jobs::Job;
use crate::logs::warn_failed;
use crate::partitions::PendingJob;
use crate::timers::TimerKey;
use crate::{Shard, Turn};
use flumen_base::{Mono, TopicPartition};
use flumen_log::{SealJob, SealStep};
use std::io;

/// The file of epochs could not be written: it is tried again after this time.
const EPOCHS_RETRY_MS: i64 = 1000;

impl Shard {
    /// A step of a seal has ended.
    pub(crate) fn sealed(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: io::Result<SealStep>,
    ) {
        let result = match result {
            Ok(SealStep::Named(rest)) => return self.named(turn, tp, rest),
            Ok(SealStep::Sealed(sealed)) => Ok(sealed),
            Err(error) => Err(error),
        };
        let Some(log) = self.job_ended(turn, tp) else {
            return;
        };
        match result {
            Ok(sealed) => {
                log.seal_done(Ok(sealed));
                self.partitions.mark_dirty(tp); // writes may have waited for it
                self.start_log_jobs(turn, tp);
            }
            Err(error) => self.seal_failed(turn, tp, &error),
        }
    }

    /// The first step of a seal has ended. All of it is in flight until its end.
    fn named(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, rest: SealJob) {
        match self.partitions.map.get_mut(&tp).and_then(|p| p.log_mut()) {
            Some(log) => {
                log.seal_named(&rest);
                self.partitions.mark_dirty(tp); // writes have waited for it
                self.start_job(turn, PendingJob::Seal(tp), Job::Seal(rest));
            }
            None => drop(self.job_ended(turn, tp)),
        }
    }

    /// The file of epochs has been written, for which a seal may have waited, or not.
    pub(crate) fn epochs_written(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: &io::Result<()>,
    ) {
        warn_failed("epoch checkpoint", result);
        let n = self.dir_of(tp);
        let Some(log) = self.job_ended(turn, tp) else {
            return;
        };
        log.epochs_written(result.is_ok());
        match result {
            Ok(()) => self.start_log_jobs(turn, tp),
            Err(error) => {
                self.arm_seal(tp, turn.now.mono.plus_ms(EPOCHS_RETRY_MS));
                self.job_failed(turn, n, error);
            }
        }
    }

    fn arm_seal(&mut self, tp: TopicPartition, due: Mono) {
        if let Some(p) = self.partitions.map.get_mut(&tp)
            && !std::mem::replace(&mut p.seal_armed, true)
        {
            self.timers.arm(due, TimerKey::Seal(tp));
        }
    }

    /// The delay of a rolled segment's seal is over.
    pub(crate) fn seal_due(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            p.seal_armed = false;
            self.start_log_jobs(turn, tp);
        }
    }
}
