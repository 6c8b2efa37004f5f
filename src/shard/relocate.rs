//! AlterReplicaLogDirs: partitions on their way from one log directory to another, while they
//! serve.
//!
//! ```text
//! begin -> slice -> slice ... little left -> held: no new writes or jobs; those under way end
//!                    ^  |pause                -> swap -> the log goes on in the other directory
//! ```
//! The copy has a name of its own (`topic-partition.<id>-future`, as Kafka's) until it is whole and
//! on disk. A process that dies before finds the old directory, removes what was copied, and begins
//! again; one that dies between the two renames of the swap finds two directories that hold the
//! same, and keeps one.

use crate::Shard;
use crate::dirs::RETRY_MS;
use crate::found::set_aside_name;
use crate::io::Effect;
use crate::jobs::Job;
use crate::mesh::{CheckpointLine, Message};
use crate::ops::SizeLine;
use crate::partition::{Partition, State};
use crate::partitions::PendingJob;
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::{DiskFault, ErrorCode, Now, ShardId, TopicPartition, Uuid};
use flumen_log::{Copied, CopyState, Log, Relocated};
use std::io;
use std::path::PathBuf;

/// Bytes of one slice, at most and at least. As much may be left when writes are held back for the
/// last step: copied and synced in some 10 ms.
const SLICE_BYTES_MAX: u64 = 4 << 20;
const SLICE_BYTES_MIN: u64 = 512;
/// A limited rate is spread over so many slices in a second.
const SLICES_PER_SECOND: u64 = 10;
/// Partitions of one shard that are copied at the same time; others wait.
const MOVES_AT_ONCE: usize = 4;

/// A partition's move.
#[derive(Debug)]
pub(crate) struct Move {
    /// Names it in completions of its jobs.
    id: u64,
    /// Index of the log directory it goes to.
    dir: usize,
    /// Where the copy is.
    copy: PathBuf,
    state: CopyState,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Its next slice has a time.
    Waiting,
    Copying,
    /// Little is left: what is under way on the log ends, and nothing begins.
    Held,
    Swapping,
}

impl Partition {
    /// Nothing new may be begun on its log: it is about to go on elsewhere.
    pub(crate) fn is_held(&self) -> bool {
        let held = |m: &Move| matches!(m.step, Step::Held | Step::Swapping);
        self.moving.as_deref().is_some_and(held)
    }

    /// Its line in DescribeLogDirs.
    pub(crate) fn size_line(&self) -> Option<SizeLine> {
        let log = self.log()?;
        let future = self.moving.as_deref().map(|m| {
            let (bytes, lag) = (m.state.size_bytes(), m.state.lag_offsets(log));
            (m.dir, bytes, lag)
        });
        Some(SizeLine {
            dir: self.log_dir,
            bytes: log.size_bytes(),
            future,
        })
    }
}

impl Shard {
    /// A client wants a partition in this log directory: begins to copy it there, or gives up
    /// another move of it.
    pub(crate) fn move_to(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        dir: usize,
    ) -> ErrorCode {
        let Some(p) = self.partitions.map.get(&tp).filter(|p| p.log().is_some()) else {
            return ErrorCode::KafkaStorageError;
        };
        if !self.dirs.is_online(dir) {
            return ErrorCode::KafkaStorageError;
        }
        let goes_there = p.moving.as_deref().is_some_and(|m| m.dir == dir);
        if goes_there {
            return ErrorCode::None;
        }
        let is_there = p.log_dir == dir;
        self.give_up_move(turn, tp);
        // Too late to give up: it ends where it was to go.
        let ends = self.partitions.get(&tp).is_none_or(|p| p.moving.is_some());
        if !is_there && !ends {
            self.begin_move(turn, tp, dir);
        }
        ErrorCode::None
    }

    fn begin_move(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, dir: usize) {
        let (id, unique) = (self.next_id(), self.prng.uuid());
        let path = self.dir_path(dir);
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let copy = path.join(set_aside_name(&p.dir_name(), unique, "future"));
        tracing::info!(partition = p.dir_name(), to = %path.display(), "begins to move");
        p.moving = Some(Box::new(Move {
            id,
            dir,
            copy,
            state: CopyState::default(),
            step: Step::Waiting,
        }));
        self.copy_slice(turn, tp);
    }

    /// A partition has been loaded whose move an earlier process had begun.
    pub(crate) fn resume_move(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.get(&tp) else {
            return;
        };
        let key = (p.topic.to_string(), tp.partition);
        let (now, is_moving) = (p.log_dir, p.moving.is_some());
        if let Some(dir) = self.partitions.resumes.remove(&key)
            && dir != now
            && !is_moving
            && self.dirs.is_online(dir)
        {
            self.begin_move(turn, tp, dir);
        }
    }

    /// Copies the next slice, or has the log held back for the last step.
    pub(crate) fn copy_slice(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let slice = slice_bytes(self.move_rate());
        let is_copying = |p: &&Partition| {
            let copying = |m: &Move| m.step == Step::Copying;
            p.moving.as_deref().is_some_and(copying)
        };
        let busy = self.partitions.map.values().filter(is_copying).count();
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let Some(to) = p.moving.as_deref().filter(|m| m.step == Step::Waiting) else {
            return;
        };
        let to = to.dir;
        let log = p.log().filter(|log| !log.has_failed() && !log.is_closed());
        let may = log.is_some() && !self.life.is_stopping();
        if !may || busy >= MOVES_AT_ONCE || self.dirs.is_full(to) {
            self.copy_later(turn.now, tp, RETRY_MS);
            return;
        }
        let Some((log, m)) = p.log_and_move() else {
            return;
        };
        if m.state.is_close(log, slice) && !log.is_cleaning() {
            m.step = Step::Held;
            self.move_goes_on(turn, tp);
            return;
        }
        if log.is_cleaning() && m.state.lag_bytes(log) == 0 {
            self.copy_later(turn.now, tp, RETRY_MS);
            return;
        }
        m.step = Step::Copying;
        let job = m.state.plan(log, &m.copy, slice);
        let bytes = job.bytes();
        let whose = PendingJob::Copy {
            tp,
            id: m.id,
            copy: m.copy.clone(),
            bytes,
        };
        p.in_flight += 1;
        self.dirs.spend(to, bytes);
        self.start_job(turn, whose, Job::Copy(job));
    }

    /// Bytes per second of one partition's move.
    fn move_rate(&self) -> u64 {
        let rate = self.broker.log.alter_dirs_bytes_per_second;
        u64::try_from(rate).unwrap_or(0).max(1)
    }

    fn copy_later(&mut self, now: Now, tp: TopicPartition, ms: i64) {
        if !self.life.is_stopping() {
            self.timers.arm(now.mono.plus_ms(ms), TimerKey::Move(tp));
        }
    }

    /// A slice has ended.
    pub(crate) fn slice_ended(
        &mut self,
        turn: &mut Turn<'_>,
        (tp, id, copy, bytes): (TopicPartition, u64, PathBuf, u64),
        result: io::Result<Copied>,
    ) {
        self.job_ended(turn, tp);
        let p = self.partitions.map.get_mut(&tp);
        let ours = p.and_then(|p| p.moving.as_deref_mut().filter(|m| m.id == id));
        let Some(m) = ours else {
            self.remove_dir(turn, None, copy);
            return;
        };
        m.step = Step::Waiting;
        match result {
            Ok(copied) => {
                m.state.copied(&copied);
                // A slice is small: no overflow.
                match bytes * 1000 / self.move_rate() {
                    0 => self.copy_slice(turn, tp),
                    pause => self.copy_later(turn.now, tp, pause as i64),
                }
            }
            Err(error) => {
                let dir = m.dir;
                tracing::warn!(%error, copy = %copy.display(), "a slice could not be copied");
                match DiskFault::of_error(&error) {
                    // One of both disks: whoever reads or writes there next will know which.
                    DiskFault::Device => self.give_up_move(turn, tp),
                    fault => {
                        self.dir_error(turn, dir, fault, &error);
                        self.copy_later(turn.now, tp, RETRY_MS);
                    }
                }
            }
        }
    }

    /// A partition's writes and jobs have ended: if it was held for that, its last step begins.
    pub(crate) fn move_goes_on(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp).filter(|p| p.is_held()) else {
            return;
        };
        if p.in_flight > 0 {
            return;
        }
        let (name, topic_id, old) = (p.dir_name(), tp.topic_id, p.dir.clone());
        let Some((log, m)) = p.log_and_move().filter(|(_, m)| m.step == Step::Held) else {
            return;
        };
        if log.has_failed() || log.is_closed() {
            m.step = Step::Waiting;
            self.copy_later(turn.now, tp, RETRY_MS);
            return;
        }
        m.step = Step::Swapping;
        let parent = self.config.log_dirs.get(m.dir).map(|d| d.path.join(&name));
        let aside = old.with_file_name(set_aside_name(&name, topic_id, "delete"));
        let job = m
            .state
            .swap(log, &m.copy, parent.unwrap_or_default(), aside);
        p.in_flight += 1;
        self.start_job(turn, PendingJob::Relocate(tp), Job::Relocate(job));
    }

    /// The last step has ended.
    pub(crate) fn swap_ended(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: io::Result<Relocated>,
    ) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        let Some(mut m) = p.moving.take() else {
            self.job_ended(turn, tp);
            return;
        };
        let old = p.log_dir;
        match result {
            Err(error) if DiskFault::of_error(&error) == DiskFault::Full => {
                let dir = m.dir;
                m.step = Step::Waiting;
                p.moving = Some(m);
                self.dir_error(turn, dir, DiskFault::Full, &error);
                self.copy_later(turn.now, tp, RETRY_MS);
            }
            Err(error) => {
                let partition = p.dir_name();
                tracing::warn!(%error, partition, "it stays in its log directory");
                self.remove_dir(turn, Some(m.dir), m.copy);
            }
            Ok(swapped) => {
                p.log_dir = m.dir;
                p.dir.clone_from(&swapped.dir);
                if let Some(log) = p.log_mut() {
                    log.moved_to(swapped.dir);
                }
                tracing::info!(partition = p.dir_name(), to = %p.dir.display(), "has moved");
                let line = crate::checkpoints::line_of(p);
                self.say_moved(turn, tp, line);
                match swapped.left_behind {
                    None => self.remove_dir(turn, Some(old), swapped.aside),
                    Some(error) => self.job_failed(turn, old, &error),
                }
            }
        }
        if !self.dirs.is_online(self.dir_of(tp)) {
            self.partition_is_offline(turn, tp);
        }
        self.job_ended(turn, tp);
        self.partitions.mark_dirty(tp);
        self.start_log_jobs(turn, tp);
    }

    fn say_moved(&mut self, turn: &mut Turn<'_>, tp: TopicPartition, line: CheckpointLine) {
        if self.id == ShardId::FIRST {
            self.on_moved(turn, self.id, tp, line);
        } else {
            let message = Message::Moved(tp, Box::new(line));
            turn.fx.push(Effect::Mesh(ShardId::FIRST, message));
        }
    }

    /// The first shard: a partition is in another directory. The metadata and that directory's
    /// checkpoints say so from now on.
    pub(crate) fn on_moved(
        &mut self,
        turn: &mut Turn<'_>,
        from: ShardId,
        tp: TopicPartition,
        line: CheckpointLine,
    ) {
        let id = self.config.log_dirs.get(line.log_dir).map(|d| d.id);
        let dir = line.log_dir;
        let Some(c) = &mut self.controller else {
            return;
        };
        c.directories
            .moved
            .push_back((tp, id.unwrap_or(Uuid::ZERO)));
        // Where the log starts must be known there, whatever happens next.
        if c.checkpoints.told_of_one(from, line) {
            self.write_checkpoints(turn, |n| n == dir);
        }
    }

    // ---- giving up ----

    /// Ends a move, unless it is in its last step.
    fn give_up_move(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let p = self.partitions.map.get_mut(&tp);
        let swapping = |m: &Move| m.step == Step::Swapping;
        if let Some(p) = p
            && !p.moving.as_deref().is_some_and(swapping)
        {
            self.forget_move(turn, tp);
            self.partitions.mark_dirty(tp);
            self.start_log_jobs(turn, tp);
        }
    }

    /// The partition is not moved any more: its copy goes, as soon as nobody writes to it.
    pub(crate) fn forget_move(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let p = self.partitions.map.get_mut(&tp);
        let Some(m) = p.and_then(|p| p.moving.take()) else {
            return;
        };
        match m.step {
            // Removed when the slice ends.
            Step::Copying => {}
            Step::Waiting | Step::Held => self.remove_dir(turn, Some(m.dir), m.copy),
            // What becomes of it is found out when it has ended.
            Step::Swapping => {
                if let Some(p) = self.partitions.map.get_mut(&tp) {
                    p.moving = Some(m);
                }
            }
        }
    }

    /// A directory has failed: nobody moves there any more.
    pub(crate) fn moves_to_failed_dir(&mut self, turn: &mut Turn<'_>, n: usize) {
        let goes = |p: &&Partition| p.moving.as_deref().is_some_and(|m| m.dir == n);
        let going: Vec<TopicPartition> = self
            .partitions
            .map
            .values()
            .filter(goes)
            .map(|p| p.tp)
            .collect();
        for tp in going {
            self.give_up_move(turn, tp);
        }
    }

    /// Removes a directory in the background, unless it is on a disk that failed.
    fn remove_dir(&mut self, turn: &mut Turn<'_>, dir: Option<usize>, path: PathBuf) {
        if dir.is_none_or(|n| self.dirs.is_online(n)) {
            let whose = PendingJob::Background("remove a copy");
            self.start_job(turn, whose, Job::RemoveDir(path));
        }
    }
}

/// The slice that goes with a rate.
fn slice_bytes(rate: u64) -> u64 {
    (rate / SLICES_PER_SECOND).clamp(SLICE_BYTES_MIN, SLICE_BYTES_MAX)
}

impl Partition {
    fn log_and_move(&mut self) -> Option<(&Log, &mut Move)> {
        match &self.state {
            State::Online(log) => Some((&**log, self.moving.as_deref_mut()?)),
            _ => None,
        }
    }
}
