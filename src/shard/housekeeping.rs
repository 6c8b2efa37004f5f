//! What a shard does from time to time, in slices: retention, producer expiry, `flush.ms`,
//! checkpoints, idle connections.

use crate::Shard;
use crate::io::{CloseReason, ConnId};
use crate::partition::Partition;
use crate::timers::{Task, TimerKey};
use crate::turn::Turn;
use flumen_base::{Now, TopicPartition};

/// Partitions handled per slice; the next slice follows after a pause that lets other work in.
const SLICE: usize = 64;
const SLICE_PAUSE_MS: i64 = 1;
const FLUSH_CHECK_MS: i64 = 1000;
const CONNECTIONS_CHECK_MS: i64 = 10_000;

/// A task that is in the middle of its partitions.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    left: Vec<TopicPartition>,
}

impl Shard {
    /// Arms the first run of each task.
    pub(crate) fn arm_housekeeping(&mut self, now: Now) {
        let first = self.broker.log.initial_task_delay_ms;
        for (task, ms) in [
            (Task::Retention, first),
            (Task::Checkpoint, first),
            // Not delayed: Kafka looks for silent producers from the first interval on.
            (Task::Producers, self.interval_ms(Task::Producers)),
            (Task::Flush, self.interval_ms(Task::Flush)),
            (Task::Connections, CONNECTIONS_CHECK_MS),
        ] {
            self.timers
                .arm(now.mono.plus_ms(ms), TimerKey::Housekeeping(task));
        }
    }

    fn interval_ms(&self, task: Task) -> i64 {
        let log = &self.broker.log;
        let ms = match task {
            Task::Retention => log.retention_check_interval_ms,
            Task::Checkpoint => i64::from(
                log.flush_offset_checkpoint_interval_ms
                    .min(log.flush_start_offset_checkpoint_interval_ms),
            ),
            Task::Producers => i64::from(log.producer_id_expiration_check_interval_ms),
            // Kafka looks never unless told how often, so that `flush.ms` alone does nothing there.
            Task::Flush => match log.flush_scheduler_interval_ms {
                i64::MAX => FLUSH_CHECK_MS,
                told => told,
            },
            Task::Connections => CONNECTIONS_CHECK_MS,
        };
        ms.max(1)
    }

    /// Runs a slice of a task and arms its next run.
    pub(crate) fn run_housekeeping(&mut self, turn: &mut Turn<'_>, task: Task) {
        let mut pause = self.interval_ms(task);
        match task {
            Task::Checkpoint => self.checkpoint(turn),
            Task::Connections => {
                self.close_idle(turn);
                self.cool_tails();
            }
            Task::Retention | Task::Producers | Task::Flush => {
                if self.sweep(turn, task) {
                    pause = SLICE_PAUSE_MS;
                }
            }
        }
        if !self.life.is_stopping() {
            let at = turn.now.mono.plus_ms(pause);
            self.timers.arm(at, TimerKey::Housekeeping(task));
        }
    }

    /// One slice over the partitions; true if some are left.
    fn sweep(&mut self, turn: &mut Turn<'_>, task: Task) -> bool {
        let mut sweep = self.sweeps.remove(&task).unwrap_or_default();
        if sweep.left.is_empty() {
            sweep.left.extend(self.partitions.map.keys().copied());
            sweep.left.sort_unstable_by(|a, b| b.cmp(a));
        }
        let first = sweep.left.len().saturating_sub(SLICE);
        for tp in sweep.left.split_off(first) {
            match task {
                Task::Retention => self.retention(turn, tp),
                Task::Flush => self.flush(turn, tp),
                _ => {
                    let p = self.partitions.map.get_mut(&tp);
                    if let Some(log) = p.and_then(Partition::log_mut) {
                        log.expire_producers(turn.now);
                    }
                }
            }
        }
        let more = !sweep.left.is_empty();
        if more {
            self.sweeps.insert(task, sweep);
        }
        more
    }

    fn close_idle(&mut self, turn: &mut Turn<'_>) {
        let idle_ms = self.broker.network.connections_max_idle_ms;
        if idle_ms < 0 {
            return;
        }
        let limit = (idle_ms as u64).saturating_mul(1_000_000);
        let idle: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.in_flight() == 0 && c.unsent() == 0)
            .filter(|(_, c)| turn.now.mono.nanos_since(c.last_active) > limit)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.close_conn(turn, id, CloseReason::Idle);
        }
    }
}
