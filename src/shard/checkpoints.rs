//! The checkpoint files of the log directories: recovery points and log starts each minute, what
//! compaction has come to after each cleaning, as in Kafka.
//!
//! They have one writer: every shard sends its values to shard 0. For one directory it has one job
//! at a time, because two would write the same temporary file; what comes up meanwhile is written
//! when that has ended.

use crate::Shard;
use crate::io::Effect;
use crate::jobs::{CheckpointJob, CleanedJob, Job};
use crate::mesh::{CheckpointLine, Message};
use crate::partition::Partition;
use crate::partitions::PendingJob;
use crate::turn::Turn;
use flumen_base::{ShardId, TopicPartition};
use flumen_log::checkpoint::Offsets;
use std::collections::BTreeMap;
use std::io;

/// What shard 0 knows and is about to write.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    /// Latest values of each shard.
    lines: BTreeMap<ShardId, Vec<CheckpointLine>>,
    /// By log directory.
    dirs: Vec<Due>,
    /// The last ones wait until no job is under way.
    last: Option<Vec<CheckpointJob>>,
    /// Nothing is written beside or after the last ones.
    closing: bool,
}

/// What is due in a log directory.
#[derive(Debug, Default)]
struct Due {
    /// A job is under way.
    busy: bool,
    /// All of its files.
    all: bool,
    /// Of partitions that were cleaned.
    cleaned: Offsets,
}

impl Checkpoints {
    pub(crate) fn new(dirs: usize) -> Self {
        Self {
            dirs: (0..dirs).map(|_| Due::default()).collect(),
            ..Self::default()
        }
    }

    fn is_busy(&self) -> bool {
        self.dirs.iter().any(|due| due.busy)
    }

    /// All values of a shard.
    pub(crate) fn told(&mut self, from: ShardId, lines: Vec<CheckpointLine>) {
        self.lines.insert(from, lines);
    }

    /// A later value of one partition, if its shard has told of its partitions at all.
    pub(crate) fn told_of_one(&mut self, from: ShardId, line: CheckpointLine) -> bool {
        let Some(lines) = self.lines.get_mut(&from) else {
            return false;
        };
        let same =
            |l: &&mut CheckpointLine| (l.partition, l.topic_id) == (line.partition, line.topic_id);
        match lines.iter_mut().find(same) {
            Some(place) => *place = line,
            None => lines.push(line),
        }
        true
    }
}

impl Shard {
    /// Sends the values of all partitions to shard 0, which writes them.
    pub(crate) fn checkpoint(&mut self, turn: &mut Turn<'_>) {
        let lines: Vec<CheckpointLine> = self.partitions.map.values().map(line_of).collect();
        if self.id != ShardId::FIRST {
            let message = Message::Checkpoint(lines);
            turn.fx.push(Effect::Mesh(ShardId::FIRST, message));
            return;
        }
        self.on_checkpoint(self.id, lines);
        self.write_checkpoints(turn, |_| true);
    }

    /// Shard 0: the values of one shard.
    pub(crate) fn on_checkpoint(&mut self, from: ShardId, lines: Vec<CheckpointLine>) {
        if let Some(controller) = &mut self.controller {
            controller.checkpoints.told(from, lines);
        }
    }

    /// Shard 0: writes the checkpoints of some log directories, by what the shards have told last.
    pub(crate) fn write_checkpoints(&mut self, turn: &mut Turn<'_>, which: impl Fn(usize) -> bool) {
        let Some(controller) = &mut self.controller else {
            return;
        };
        // Written only when every shard has reported: a file that lacks partitions would make them
        // recover from 0.
        let checkpoints = &mut controller.checkpoints;
        if checkpoints.lines.len() < usize::from(self.shards) {
            return;
        }
        let due = checkpoints.dirs.iter_mut().enumerate();
        due.for_each(|(n, due)| due.all |= which(n));
        for n in 0..self.config.log_dirs.len() {
            self.next_checkpoint(turn, n);
        }
    }

    /// A partition was cleaned: its log directory's checkpoint is to say so.
    pub(crate) fn say_cleaned(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Some(line) = self.partitions.get(&tp).map(line_of) else {
            return;
        };
        if self.id == ShardId::FIRST {
            self.on_cleaned(turn, self.id, line);
        } else {
            let message = Message::Cleaned(Box::new(line));
            turn.fx.push(Effect::Mesh(ShardId::FIRST, message));
        }
    }

    /// Shard 0: a partition was cleaned.
    pub(crate) fn on_cleaned(&mut self, turn: &mut Turn<'_>, from: ShardId, line: CheckpointLine) {
        let Some(controller) = &mut self.controller else {
            return;
        };
        let (n, checkpoints) = (line.log_dir, &mut controller.checkpoints);
        if let (Some(due), Some(cleaned)) = (checkpoints.dirs.get_mut(n), line.cleaned) {
            let key = (line.topic.to_string(), line.partition);
            due.cleaned.insert(key, cleaned);
        }
        checkpoints.told_of_one(from, line);
        self.next_checkpoint(turn, n);
    }

    /// Shard 0: starts what is due in a log directory, unless a job is under way there.
    fn next_checkpoint(&mut self, turn: &mut Turn<'_>, n: usize) {
        let (Some(controller), Some(dir)) = (&mut self.controller, self.config.log_dirs.get(n))
        else {
            return;
        };
        let checkpoints = &mut controller.checkpoints;
        let may = self.dirs.is_online(n) && !checkpoints.closing;
        let Some(due) = checkpoints.dirs.get_mut(n).filter(|due| may && !due.busy) else {
            return;
        };
        let job = if std::mem::take(&mut due.all) {
            due.cleaned.clear(); // the lines say it, too
            let mut job = CheckpointJob::new(dir.path.clone());
            let lines = checkpoints.lines.values().flatten();
            lines.filter(|l| l.log_dir == n).for_each(|l| job.add(l));
            Job::Checkpoint(job)
        } else if due.cleaned.is_empty() {
            return;
        } else {
            let offsets = std::mem::take(&mut due.cleaned);
            let dir = dir.path.clone();
            Job::Cleaned(CleanedJob { dir, offsets })
        };
        due.busy = true;
        self.start_job(turn, PendingJob::Checkpoint(n), job);
    }

    /// Shard 0: a checkpoint of a log directory is written, or could not be.
    pub(crate) fn checkpoint_ended(
        &mut self,
        turn: &mut Turn<'_>,
        n: usize,
        result: &io::Result<()>,
    ) {
        crate::logs::warn_failed("checkpoint", result);
        if let Err(error) = result {
            self.job_failed(turn, n, error);
        }
        let Some(controller) = &mut self.controller else {
            return;
        };
        if let Some(due) = controller.checkpoints.dirs.get_mut(n) {
            due.busy = false;
        }
        self.next_checkpoint(turn, n);
        self.shutdown_if_idle(turn);
    }

    /// Shard 0: writes the last checkpoints and the markers of a clean shutdown, as soon as no
    /// other job writes there.
    pub(crate) fn write_last_checkpoints(&mut self, turn: &mut Turn<'_>, jobs: Vec<CheckpointJob>) {
        if let Some(controller) = &mut self.controller {
            controller.checkpoints.last = Some(jobs);
            controller.checkpoints.closing = true;
            self.shutdown_if_idle(turn);
        }
    }

    fn shutdown_if_idle(&mut self, turn: &mut Turn<'_>) {
        let Some(controller) = &mut self.controller else {
            return;
        };
        let checkpoints = &mut controller.checkpoints;
        if !checkpoints.is_busy()
            && let Some(jobs) = checkpoints.last.take()
        {
            self.start_job(turn, PendingJob::CleanShutdown, Job::CleanShutdown(jobs));
        }
    }
}

/// What checkpoints say about a partition; what they said before, while it is not loaded.
pub(crate) fn line_of(p: &Partition) -> CheckpointLine {
    let found = &p.found;
    let (recovery_point, log_start, cleaned) = match p.log() {
        Some(log) => (
            log.recovery_point(),
            log.log_start_offset(),
            log.cleaned_offset(),
        ),
        None => (found.recovery_point, found.log_start, found.cleaned),
    };
    CheckpointLine {
        log_dir: p.log_dir,
        topic: p.topic.clone(),
        topic_id: p.tp.topic_id,
        partition: p.tp.partition,
        recovery_point,
        log_start,
        cleaned,
        closed: false,
    }
}
