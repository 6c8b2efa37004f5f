//! The log directories as a shard knows them: which are offline, which are full, and what an error
//! of the disk leads to.
//!
//! ```text
//! Device   the directory goes offline on every shard: its partitions answer KAFKA_STORAGE_ERROR,
//!          the metadata says that they have no leader; none left, or that of the metadata log:
//!          the process ends
//! Full     appends are refused at the door, retriably; what a write left is cut off; the first
//!          shard looks at the free space until there is room again, and tells the others
//! Local    the write is taken back, the job is done again
//! ```
//! Nothing that failed is counted as done, and no sync is tried twice.

use crate::Shard;
use crate::answers::refused_op;
use crate::config::{LogDir, LogDirState};
use crate::io::{Effect, IoFailure};
use crate::jobs::{Job, SpaceLine};
use crate::mesh::Message;
use crate::ops::{AppendDetails, AppendResult, OpResult};
use crate::partition::State;
use crate::partitions::PendingJob;
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::{DiskFault, ErrorCode, Mono, Now, ShardId, Space, TopicPartition};
use flumen_log::Log;
use std::io;
use std::path::{Path, PathBuf};

/// Between two looks at the free space, and where it is little.
const LOOK_MS: i64 = 500;
const LOOK_CLOSELY_MS: i64 = 100;
/// Free space is little below the reserve and this: more than is written between two looks.
const LITTLE_BYTES: u64 = 4 << 30;
/// After a write found no room nothing is written for so long, and until so much is free.
const FULL_MS: i64 = 1000;
const FULL_UNTIL_FREE_BYTES: u64 = 1 << 20;
/// Pause before work that found no room is tried again.
pub(crate) const RETRY_MS: i64 = 1000;

/// The log directories, in the order of `ShardConfig::log_dirs`.
#[derive(Debug, Default)]
pub(crate) struct Dirs {
    list: Vec<Dir>,
    /// A look at the free space is under way, or its time is set.
    looking: bool,
}

#[derive(Debug, Default)]
struct Dir {
    offline: bool,
    full: bool,
    /// When a write last found no room (on the first shard).
    full_since: Option<Mono>,
    /// At the last look.
    space: Option<Space>,
    /// Bytes that this shard may append until the next look, where a reserve is kept.
    grant: Option<u64>,
    /// Bytes that it has appended since the last one.
    appended: u64,
}

impl Dir {
    fn takes_none(&self) -> bool {
        self.full || self.grant.is_some_and(|grant| self.appended >= grant)
    }
}

impl Dirs {
    /// As they were found at start.
    pub(crate) fn new(found: &[LogDirState]) -> Self {
        let dir = |state: &LogDirState| Dir {
            offline: state.failed.is_some(),
            ..Dir::default()
        };
        Self {
            list: found.iter().map(dir).collect(),
            looking: false,
        }
    }

    /// Whether it is usable. One that is not configured is not.
    pub(crate) fn is_online(&self, n: usize) -> bool {
        self.list.get(n).is_some_and(|dir| !dir.offline)
    }

    /// Whether it takes no records now.
    pub(crate) fn is_full(&self, n: usize) -> bool {
        self.list.get(n).is_some_and(Dir::takes_none)
    }

    /// Records are about to be appended there.
    pub(crate) fn spend(&mut self, n: usize, bytes: u64) {
        if let Some(dir) = self.list.get_mut(n) {
            dir.appended += bytes;
        }
    }

    /// This shard's part of what was free above the reserve at the last look. What it appended
    /// since the one before may not have been on the disk by then: it is taken off.
    pub(crate) fn grant(&mut self, n: usize, bytes: u64) {
        if let Some(dir) = self.list.get_mut(n) {
            dir.grant = Some(bytes.saturating_sub(dir.appended));
            dir.appended = 0;
        }
    }

    /// Whether all are usable.
    pub(crate) fn all_online(&self) -> bool {
        self.list.iter().all(|dir| !dir.offline)
    }

    /// Those that are usable.
    pub(crate) fn online(&self) -> impl Iterator<Item = usize> {
        let dirs = self.list.iter().enumerate();
        dirs.filter(|(_, dir)| !dir.offline).map(|(n, _)| n)
    }

    /// How many are offline, and how many are full.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let offline = self.list.iter().filter(|dir| dir.offline).count();
        let full = self.list.iter().filter(|dir| dir.takes_none()).count();
        (offline, full)
    }

    /// True if it was online until now.
    fn set_offline(&mut self, n: usize) -> bool {
        let dir = self.list.get_mut(n);
        dir.is_some_and(|dir| !std::mem::replace(&mut dir.offline, true))
    }

    /// True if that is new.
    fn set_full(&mut self, n: usize, full: bool) -> bool {
        let dir = self.list.get_mut(n);
        dir.is_some_and(|dir| std::mem::replace(&mut dir.full, full) != full)
    }
}

/// What a failed operation of the hot path means. After a failed sync nobody knows what is on disk,
/// whatever the reason.
pub(crate) fn fault_of(failure: &IoFailure) -> DiskFault {
    match failure.op {
        "fdatasync" => DiskFault::Device,
        "read" => DiskFault::of(failure.kind),
        _ => DiskFault::of_write(failure.kind),
    }
}

/// The refusal of an append where there is no room.
pub(crate) fn no_room() -> AppendResult {
    let message = "The log directory has no room left: nothing was written.".to_owned();
    AppendResult {
        details: Some(Box::new(AppendDetails {
            record_errors: Vec::new(),
            message: Some(message),
        })),
        ..AppendResult::refused(NO_ROOM)
    }
}

/// What clients hear where there is no room: producers try again and know that nothing was written
/// (docs/adr/0012).
pub(crate) const NO_ROOM: ErrorCode = ErrorCode::NotEnoughReplicas;

impl Shard {
    /// An error of a log directory's disk that nobody else deals with.
    pub(crate) fn dir_error(
        &mut self,
        turn: &mut Turn<'_>,
        n: usize,
        fault: DiskFault,
        what: &dyn std::fmt::Display,
    ) {
        match fault {
            DiskFault::Device => self.fail_dir(turn, n, &what.to_string()),
            DiskFault::Full => self.dir_is_full(turn, n),
            DiskFault::Local => {}
        }
    }

    /// [`Shard::dir_error`] of a job.
    pub(crate) fn job_failed(&mut self, turn: &mut Turn<'_>, n: usize, error: &io::Error) {
        self.dir_error(turn, n, DiskFault::of_error(error), error);
    }

    /// A file could not be read for an answer. It may be of another shard's partition, or of one
    /// that is gone: its path tells which directory's disk it was.
    pub(crate) fn slice_failed(&mut self, turn: &mut Turn<'_>, failure: &IoFailure) {
        let path = Path::new(&failure.path);
        let dirs = self.config.log_dirs.iter().enumerate();
        let holding = dirs.filter(|(_, dir)| path.starts_with(&dir.path));
        let deepest = holding.max_by_key(|(_, dir)| dir.path.components().count());
        if let Some(n) = deepest.map(|(n, _)| n) {
            tracing::error!(shard = self.id.0, %failure, "records could not be sent");
            self.dir_error(turn, n, fault_of(failure), failure);
        }
    }

    /// The directory of a partition, if there is one.
    pub(crate) fn dir_of(&self, tp: TopicPartition) -> usize {
        self.partitions.get(&tp).map_or(usize::MAX, |p| p.log_dir)
    }

    // ---- offline ----

    /// Nothing of this directory can be trusted any more: it goes offline here and on every other
    /// shard.
    pub(crate) fn fail_dir(&mut self, turn: &mut Turn<'_>, n: usize, reason: &str) {
        if !self.dirs.set_offline(n) {
            return;
        }
        for other in (0..self.shards).map(ShardId) {
            if other != self.id {
                let message = Message::DirFailed(n, reason.to_owned());
                turn.fx.push(Effect::Mesh(other, message));
            }
        }
        self.dir_is_offline(turn, n, reason);
    }

    /// Another shard has found out.
    pub(crate) fn on_dir_failed(&mut self, turn: &mut Turn<'_>, n: usize, reason: &str) {
        if self.dirs.set_offline(n) {
            self.dir_is_offline(turn, n, reason);
        }
    }

    fn dir_is_offline(&mut self, turn: &mut Turn<'_>, n: usize, reason: &str) {
        let partitions = self.partitions.map.values();
        let mut hit: Vec<TopicPartition> = partitions
            .filter(|p| p.log_dir == n)
            .map(|p| p.tp)
            .collect();
        hit.sort_unstable();
        for tp in hit {
            self.partition_is_offline(turn, tp);
        }
        self.moves_to_failed_dir(turn, n);
        if self.id == ShardId::FIRST {
            let path = self.dir_path(n);
            let path = path.display();
            tracing::error!(dir = %path, %reason, "log directory is offline from now on");
            if self.holds_metadata(n) {
                let text =
                    format!("the log directory of the metadata log, {path}, failed: {reason}");
                turn.fx.push(Effect::Fatal(text));
            } else if self.dirs.online().next().is_none() {
                let text = format!("no log directory is left, the last was {path}: {reason}");
                turn.fx.push(Effect::Fatal(text));
            } else if let Some(c) = &mut self.controller {
                c.directories.lost = true;
            }
        }
    }

    pub(crate) fn partition_is_offline(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if matches!(p.state, State::Removing) {
            return;
        }
        p.remember();
        let mut out = Vec::new();
        let watches = &mut self.partitions.watches;
        p.fail_all(ErrorCode::KafkaStorageError, watches, &mut out);
        let before = std::mem::replace(&mut p.state, State::Failed);
        p.reload = false;
        if let State::Loading(parked) = before {
            for (from, op) in parked {
                let result = refused_op(&op, ErrorCode::KafkaStorageError);
                self.outbox.result(from, result);
            }
        }
        let is_offsets = crate::groups::is_offsets_topic(&p.topic);
        let is_txns = *p.topic == *crate::txns::TXN_TOPIC;
        let is_share_states = *p.topic == *crate::share_states::SHARE_STATE_TOPIC;
        self.carry_outcomes(turn, out);
        self.forget_move(turn, tp);
        if is_offsets {
            self.unload_groups(turn, tp);
        }
        if is_txns {
            self.unload_txns(tp);
        }
        if is_share_states {
            self.unload_share_states(tp);
        }
        self.drop_shares_of(tp, ErrorCode::KafkaStorageError);
    }

    pub(crate) fn dir_path(&self, n: usize) -> PathBuf {
        let dir = self.config.log_dirs.get(n);
        dir.map(|d: &LogDir| d.path.clone()).unwrap_or_default()
    }

    fn holds_metadata(&self, n: usize) -> bool {
        let broker = &self.config.broker;
        broker.log_dirs.get(n) == Some(&broker.metadata_log_dir)
    }

    // ---- a write that failed ----

    /// A write failed, and everything staged was taken back.
    pub(crate) fn write_failed(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        (fault, what): (DiskFault, &IoFailure),
    ) {
        let n = self.dir_of(tp);
        if fault == DiskFault::Device {
            self.fail_dir(turn, n, &what.to_string());
            return;
        }
        let mut out = Vec::new();
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            p.fail_all(NO_ROOM, &mut self.partitions.watches, &mut out);
        }
        self.dir_error(turn, n, fault, what);
        self.start_cut(turn, tp);
        self.carry_outcomes(turn, out);
    }

    /// Has what a failed write left cut off, after which appends go on.
    fn start_cut(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        if let Some(job) = p.log().and_then(Log::cut_job) {
            p.in_flight += 1;
            self.start_job(turn, PendingJob::Cut(tp), Job::Cut(job));
        }
    }

    /// The cut has ended.
    pub(crate) fn cut_ended(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        result: &io::Result<()>,
    ) {
        let n = self.dir_of(tp);
        let Some(log) = self.job_ended(turn, tp) else {
            return;
        };
        match result {
            Ok(()) => {
                log.cut_done();
                self.partitions.mark_dirty(tp);
                self.start_log_jobs(turn, tp);
            }
            Err(error) => {
                tracing::warn!(%error, "a failed write could not be cut off");
                self.job_failed(turn, n, error);
                self.retry(turn.now, Retry::Cut(tp));
            }
        }
    }

    /// A seal found no room, or something else that passes: it comes again, and those who wait for
    /// it are told.
    pub(crate) fn seal_failed(
        &mut self,
        turn: &mut Turn<'_>,
        tp: TopicPartition,
        error: &io::Error,
    ) {
        tracing::warn!(%error, "a segment could not be sealed");
        self.job_failed(turn, self.dir_of(tp), error);
        let mut out = Vec::new();
        if let Some(p) = self.partitions.map.get_mut(&tp)
            && let Some(log) = p.log_mut()
        {
            log.seal_postponed(turn.now.mono);
            if log.take_back_staged() {
                p.fail_all(NO_ROOM, &mut self.partitions.watches, &mut out);
            }
        }
        self.carry_outcomes(turn, out);
        self.start_log_jobs(turn, tp);
    }

    // ---- work that comes again ----

    /// Has something done again after a pause.
    pub(crate) fn retry(&mut self, now: Now, what: Retry) {
        let n = self.next_id();
        self.retries.insert(n, what);
        let at = now.mono.plus_ms(RETRY_MS);
        self.timers.arm(at, TimerKey::Retry(n));
    }

    /// The pause is over.
    pub(crate) fn retry_due(&mut self, turn: &mut Turn<'_>, n: u64) {
        match self.retries.remove(&n) {
            Some(Retry::Cut(tp)) => self.start_cut(turn, tp),
            Some(Retry::Retire(tp, job)) => {
                let p = self.partitions.map.get_mut(&tp);
                if let Some(p) = p.filter(|p| p.log().is_some_and(|log| !log.is_closed())) {
                    p.in_flight += 1;
                    self.start_job(turn, PendingJob::Retire(tp), Job::Retire(*job));
                }
            }
            Some(Retry::Quorum) => self.retry_quorum_append(turn),
            None => {}
        }
    }

    // ---- full ----

    /// There is no room in it: appends are refused from now on, until the first shard says that
    /// there is again.
    pub(crate) fn dir_is_full(&mut self, turn: &mut Turn<'_>, n: usize) {
        self.dirs.set_full(n, true);
        if self.id == ShardId::FIRST {
            self.on_dir_full(turn, n);
        } else {
            let message = Message::DirFull(n);
            turn.fx.push(Effect::Mesh(ShardId::FIRST, message));
        }
    }

    /// The first shard: a write found no room in a directory.
    pub(crate) fn on_dir_full(&mut self, turn: &mut Turn<'_>, n: usize) {
        let now = turn.now.mono;
        let Some(dir) = self.dirs.list.get_mut(n) else {
            return;
        };
        if dir.full_since.replace(now).is_none() {
            let path = self.dir_path(n);
            tracing::error!(dir = %path.display(), "the disk is full: records are refused");
        }
        self.dirs.set_full(n, true);
        self.tell_room(turn, n, true);
        self.look_later(turn.now, LOOK_CLOSELY_MS);
    }

    /// From the first shard: whether a directory is full.
    pub(crate) fn on_dir_room(&mut self, n: usize, full: bool) {
        self.dirs.set_full(n, full);
    }

    fn tell_room(&self, turn: &mut Turn<'_>, n: usize, full: bool) {
        for other in (1..self.shards).map(ShardId) {
            let message = Message::DirRoom(n, full);
            turn.fx.push(Effect::Mesh(other, message));
        }
    }

    /// Each shard may use its part of the room until the next look: a burst must not use up the
    /// reserve in between.
    fn share_room(&mut self, turn: &mut Turn<'_>, n: usize, bytes: u64) {
        let part = bytes / u64::from(self.shards);
        self.dirs.grant(n, part);
        for other in (1..self.shards).map(ShardId) {
            let message = Message::DirGrant(n, part);
            turn.fx.push(Effect::Mesh(other, message));
        }
    }

    /// Arms the first look at the free space, where a reserve is to be kept.
    pub(crate) fn arm_space(&mut self, now: Now) {
        if self.id == ShardId::FIRST && self.config.broker.flumen.disk_reserve_bytes > 0 {
            self.look_later(now, 0);
        }
    }

    fn look_later(&mut self, now: Now, ms: i64) {
        if !std::mem::replace(&mut self.dirs.looking, true) {
            self.timers.arm(now.mono.plus_ms(ms), TimerKey::Space);
        }
    }

    /// Has a job look at the free space.
    pub(crate) fn look_at_space(&mut self, turn: &mut Turn<'_>) {
        if self.life.is_stopping() {
            self.dirs.looking = false;
            return;
        }
        let job = self.space_job();
        self.start_job(turn, PendingJob::Space, job);
    }

    /// The job that looks at all usable directories.
    pub(crate) fn space_job(&self) -> Job {
        let dirs = self.dirs.online().map(|n| (n, self.dir_path(n)));
        Job::Space(dirs.collect())
    }

    /// The free space is known.
    pub(crate) fn space_known(&mut self, turn: &mut Turn<'_>, lines: Vec<SpaceLine>) {
        self.dirs.looking = false;
        let reserve = self.config.broker.flumen.disk_reserve_bytes;
        let (mut again, mut ms) = (reserve > 0, LOOK_MS);
        for (n, space) in lines {
            let space = match space {
                Ok(space) => space,
                Err(error) => {
                    let fault = DiskFault::of_write(error.kind());
                    self.dir_error(turn, n, fault, &error);
                    continue;
                }
            };
            let Some(dir) = self.dirs.list.get_mut(n) else {
                continue;
            };
            dir.space = space;
            let full = dir.judge(turn.now.mono, reserve);
            if let Some(space) = space.filter(|_| reserve > 0) {
                self.share_room(turn, n, space.usable.saturating_sub(reserve));
            }
            if self.dirs.set_full(n, full) {
                let (path, free) = (self.dir_path(n), space.map_or(0, |s| s.usable));
                let path = path.display();
                match full {
                    true => tracing::error!(dir = %path, free, reserve,
                        "less than the reserve is free: records are refused"),
                    false => tracing::info!(dir = %path, free, "there is room again"),
                }
                self.tell_room(turn, n, full);
            }
            let little = space.is_some_and(|s| s.usable < reserve.saturating_add(LITTLE_BYTES));
            again |= full;
            if full || (little && reserve > 0) {
                ms = LOOK_CLOSELY_MS;
            }
        }
        if again {
            self.look_later(turn.now, ms);
        }
    }
}

impl Dir {
    /// Whether it is full by what is known now.
    fn judge(&mut self, now: Mono, reserve: u64) -> bool {
        let usable = self.space.map_or(u64::MAX, |s| s.usable);
        if let Some(since) = self.full_since {
            if now < since.plus_ms(FULL_MS) || usable < FULL_UNTIL_FREE_BYTES {
                return true;
            }
            self.full_since = None;
        }
        usable < reserve
    }
}

/// What is done again after a pause.
#[derive(Debug)]
pub(crate) enum Retry {
    /// The cut of a failed write.
    Cut(TopicPartition),
    /// Retired segments could not be set aside.
    Retire(TopicPartition, Box<flumen_log::DeleteJob>),
    /// A write of the metadata log found no room.
    Quorum,
}

/// The free space goes to a request.
pub(crate) fn space_result(lines: Vec<SpaceLine>) -> OpResult {
    let known = |(n, space): SpaceLine| Some((n, space.ok()??));
    OpResult::Space(lines.into_iter().filter_map(known).collect())
}

#[cfg(test)]
#[path = "dirs_test.rs"]
mod tests;
