//! From start to stop: when a shard is ready, and how it ends.
//!
//! ```text
//! Starting -- registered, all loads done or 1 s --> Running -- Shutdown --> Draining
//! Draining -- nothing in flight, or 3 s --> Closing
//!   Closing: every log is synced, its indexes and producer snapshot are written, by jobs
//!   -- all closed --> checkpoint values to shard 0 --> Stopped
//!   shard 0 waits for the others' values, then writes checkpoints and clean-shutdown markers
//!   --> Stopped
//! ```

use crate::Shard;
use crate::io::{CloseReason, ConnId, Effect};
use crate::jobs::{CheckpointJob, Job};
use crate::mesh::{CheckpointLine, Message};
use crate::partition::{Partition, State};
use crate::partitions::PendingJob;
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::{ShardId, TopicPartition};
use flumen_log::{Closed, Log};
use std::io;

/// How long a shutdown waits for requests in flight.
const DRAIN_MS: i64 = 3000;
/// Logs of one shard that are closed at the same time.
const CLOSES_IN_FLIGHT_MAX: usize = 8;

/// Where in its life a shard is.
#[derive(Debug)]
pub(crate) enum Life {
    /// Loads its partitions.
    Starting {
        registered: bool,
    },
    Running,
    /// Ends what is in flight; admits nothing new.
    Draining,
    /// Closes its logs.
    Closing {
        left: Vec<TopicPartition>,
        in_flight: usize,
        lines: Vec<CheckpointLine>,
    },
    /// Shard 0: waits for the other shards' lines.
    Closed,
    Stopped,
}

impl Life {
    /// Whether nothing new is admitted.
    pub(crate) fn is_stopping(&self) -> bool {
        !matches!(self, Self::Starting { .. } | Self::Running)
    }

    /// Whether logs are being closed: those that are not open yet stay so, since a clean shutdown
    /// would not know of them.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_stopping() && !matches!(self, Self::Draining)
    }

    /// This process is registered.
    pub(crate) fn registered(&mut self) {
        if let Self::Starting { registered } = self {
            *registered = true;
        }
    }
}

/// Whether something works on its files, or will at the end of the turn.
fn is_busy(p: &Partition) -> bool {
    p.in_flight > 0 || p.log().is_some_and(Log::has_pending_writes)
}

impl Shard {
    /// At the end of each turn: whether it goes on to the next part of its life.
    pub(crate) fn check_life(&mut self, turn: &mut Turn<'_>) {
        match &self.life {
            Life::Starting { registered: true } => {
                let p = &self.partitions;
                let loading = p.is_loading();
                if !loading || p.loads.late {
                    self.life = Life::Running;
                    let partitions = p.len();
                    tracing::info!(shard = self.id.0, partitions, loading, "ready");
                    turn.fx.push(Effect::Ready);
                }
            }
            Life::Draining if self.is_drained() => self.begin_closing(turn),
            Life::Closing { .. } => self.close_more(turn),
            _ => {}
        }
    }

    /// Input::Shutdown.
    pub(crate) fn on_shutdown(&mut self, turn: &mut Turn<'_>) {
        if self.life.is_stopping() {
            return;
        }
        self.life = Life::Draining;
        let at = turn.now.mono.plus_ms(DRAIN_MS);
        self.timers.arm(at, TimerKey::Shutdown);
        let fetches: Vec<u64> = self.fetches.ids().collect();
        for fetch in fetches {
            self.fetch_timed_out(turn, fetch);
        }
        self.end_share_waits(turn);
        let idle: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.in_flight() == 0)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.close_conn(turn, id, CloseReason::Shutdown);
        }
    }

    /// The grace of a shutdown is over.
    pub(crate) fn life_deadline(&mut self, turn: &mut Turn<'_>) {
        if matches!(self.life, Life::Draining) {
            self.begin_closing(turn);
        }
    }

    fn is_drained(&self) -> bool {
        let writing = self.partitions.map.values().any(|p| p.in_flight > 0);
        let fetching = !self.fetches.is_empty() || !self.share_fetches.is_empty();
        self.gathers.is_empty() && !fetching && !writing
    }

    fn begin_closing(&mut self, turn: &mut Turn<'_>) {
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in conns {
            self.close_conn(turn, id, CloseReason::Shutdown);
        }
        let mut left: Vec<TopicPartition> = self.partitions.map.keys().copied().collect();
        left.sort_unstable();
        self.life = Life::Closing {
            left,
            in_flight: 0,
            lines: Vec::new(),
        };
        self.close_more(turn);
    }

    fn close_more(&mut self, turn: &mut Turn<'_>) {
        loop {
            let Life::Closing {
                left,
                in_flight,
                lines,
            } = &mut self.life
            else {
                return;
            };
            if *in_flight >= CLOSES_IN_FLIGHT_MAX {
                return;
            }
            let Some(tp) = left.pop() else {
                break;
            };
            let Some(p) = self.partitions.map.get_mut(&tp) else {
                continue;
            };
            if is_busy(p) && matches!(p.state, State::Online(_)) {
                // A write or job has not ended, or a write not begun: this one comes again when it
                // has.
                left.insert(0, tp);
                let map = &self.partitions.map;
                let busy = |tp: &TopicPartition| map.get(tp).is_some_and(is_busy);
                if left.iter().all(busy) {
                    return;
                }
                continue;
            }
            if let Some(log) = p.log_mut() {
                let job = log.close_job();
                *in_flight += 1;
                self.start_job(turn, PendingJob::Close(tp), Job::Close(job));
            } else if !matches!(p.state, State::Removing) {
                // Not loaded, or failed: the next start must look at it.
                lines.push(crate::checkpoints::line_of(p));
            }
        }
        if let Life::Closing {
            in_flight: 0,
            lines,
            ..
        } = &mut self.life
        {
            let lines = std::mem::take(lines);
            self.logs_closed(turn, lines);
        }
    }

    /// A log is closed.
    pub(crate) fn closed(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: io::Result<Closed>,
    ) {
        let line = self
            .partitions
            .map
            .get(&tp)
            .map(crate::checkpoints::line_of);
        if let Life::Closing {
            in_flight, lines, ..
        } = &mut self.life
        {
            *in_flight -= 1;
            match (result, line) {
                (Ok(closed), Some(mut line)) => {
                    line.recovery_point = closed.recovery_point;
                    line.closed = true;
                    lines.push(line);
                }
                (Err(error), line) => {
                    tracing::error!(%error, "a log could not be closed");
                    lines.extend(line);
                }
                (Ok(_), None) => {}
            }
        }
        self.close_more(turn);
    }

    fn logs_closed(&mut self, turn: &mut Turn<'_>, lines: Vec<CheckpointLine>) {
        if self.id == ShardId::FIRST {
            self.life = Life::Closed;
            self.on_logs_closed(turn, self.id, lines);
        } else {
            let message = Message::LogsClosed(lines);
            turn.fx.push(Effect::Mesh(ShardId::FIRST, message));
            self.life = Life::Stopped;
            turn.fx.push(Effect::Stopped);
        }
    }

    /// Shard 0: a shard has closed its logs. After the last one the checkpoints and markers are
    /// written.
    pub(crate) fn on_logs_closed(
        &mut self,
        turn: &mut Turn<'_>,
        from: ShardId,
        lines: Vec<CheckpointLine>,
    ) {
        let shards = usize::from(self.shards);
        let dirs = self.config.log_dirs.clone();
        let Some(controller) = &mut self.controller else {
            return;
        };
        controller.closed.insert(from, lines);
        if controller.closed.len() < shards || !matches!(self.life, Life::Closed) {
            return;
        }
        let mut jobs: Vec<CheckpointJob> = dirs
            .iter()
            .map(|d| CheckpointJob::new(d.path.clone()))
            .collect();
        for line in controller.closed.values().flatten() {
            if let Some(job) = jobs.get_mut(line.log_dir) {
                job.add(line);
            }
        }
        let online = jobs.into_iter().enumerate();
        let online = online.filter(|(n, _)| self.dirs.is_online(*n));
        let jobs = online.map(|(_, job)| job).collect();
        self.write_last_checkpoints(turn, jobs);
    }

    /// Shard 0: the markers are written.
    pub(crate) fn all_stopped(&mut self, turn: &mut Turn<'_>) {
        self.life = Life::Stopped;
        turn.fx.push(Effect::Stopped);
    }
}
