//! How changes of a consumer group are written and, when that fails, taken back.
//!
//! A change is applied when it is handed out, so that the next request sees it. Until it is written
//! the group remembers how to undo it. When a write fails, the changes after it are undone, then
//! it; then those after it are done again from their records: they are, or will be, in the log,
//! and the group is then what a replay of the log would make.

use super::convert::Conversion;
use super::state::{ConsumerGroup, Undo};
use super::{ConsumerRecord, Refusal};
use crate::classic::{ClassicGroup, metadata_append_error};
use crate::group::{Env, Group};
use crate::out::{Record, Reply, ReplyToken};
use crate::records::{self, Replayed};
use crate::writes::{Done, Effect, Part};
use flumen_base::ErrorCode;
use std::collections::VecDeque;

/// What a handler wants to happen.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// The group begins or ends to be a consumer group; first.
    pub(crate) conversion: Option<Conversion>,
    pub(crate) records: Vec<ConsumerRecord>,
}

impl Change {
    /// Only records.
    pub(crate) fn of(records: Vec<ConsumerRecord>) -> Self {
        Self {
            conversion: None,
            records,
        }
    }
}

/// What the group was before a conversion.
#[derive(Debug)]
struct Before {
    classic: ClassicGroup,
    consumer: Option<Box<ConsumerGroup>>,
}

/// A change that is being written.
#[derive(Debug)]
struct Step {
    write: u64,
    /// A conversion.
    converts: bool,
    /// What undoing a conversion brings back.
    before: Option<Before>,
    undo: Vec<Undo>,
    records: Vec<Record>,
}

/// The changes of a group that are being written, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Step>);

impl History {
    /// The members as committed differ from those of the group by these: the oldest change of each
    /// comes first.
    pub(super) fn undos(&self) -> impl Iterator<Item = &Undo> {
        self.0.iter().flat_map(|step| &step.undo)
    }
}

impl ConsumerRecord {
    /// Whether it is one.
    pub(crate) fn is_tombstone(&self) -> bool {
        match self {
            Self::Member(_, value) | Self::Current(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::TargetEpoch(value) | Self::Epoch(value) => value.is_none(),
            Self::PartitionMetadata(exists) => !exists,
            Self::Regex(_, value) => value.is_none(),
        }
    }
}

impl Group {
    /// Applies a change and hands it out to be written; the reply leaves when it is. Without
    /// records it leaves when what the group did before is written.
    ///
    /// # Errors
    /// A string is too long for its record; nothing has changed.
    pub(super) fn write_change(
        &mut self,
        env: &mut Env<'_>,
        change: Change,
        reply: Option<(ReplyToken, Reply)>,
    ) -> Result<(), Refusal> {
        let records = self.encode(&change)?;
        if records.is_empty() {
            if let Some((token, reply)) = reply {
                self.reply_when_written(env, token, reply);
            }
            return Ok(());
        }
        let mut step = Step {
            write: env.next_write(),
            converts: change.conversion.is_some(),
            before: None,
            undo: Vec::new(),
            records: records.clone(),
        };
        let converts = step.converts;
        let rebalance = change.conversion.as_ref().is_some_and(|c| c.rebalances());
        if let Some(conversion) = change.conversion {
            step.before = Some(self.convert(env, conversion));
        }
        for record in &change.records {
            step.undo.extend(self.apply(record));
        }
        self.history.0.push_back(step);
        let part = Part {
            group: self.serial,
            offsets: Vec::new(),
            effect: Effect::Consumer,
        };
        let part = self.part(env.next_write(), part);
        let done = match reply {
            Some((token, reply)) => Done::Reply(token, reply),
            None => Done::Nothing,
        };
        env.append(self.partition, records, vec![part], done);
        if converts && self.consumer.is_none() {
            self.begin_classic_sessions(env);
            if rebalance {
                self.prepare_rebalance(env);
            }
        }
        Ok(())
    }

    fn encode(&self, change: &Change) -> Result<Vec<Record>, Refusal> {
        let too_long = || Refusal::from(ErrorCode::UnknownServerError);
        let mut records = Vec::new();
        if let Some(conversion) = &change.conversion {
            records.extend(conversion.encode(&self.name).ok_or_else(too_long)?);
        }
        for record in &change.records {
            records.push(record.encode(&self.name).ok_or_else(too_long)?);
        }
        Ok(records)
    }

    /// Lets a reply leave when all that the group has handed out is written: it may tell of it.
    pub(super) fn reply_when_written(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        reply: Reply,
    ) {
        let write = self.write_last;
        match write.and_then(|write| env.writes.pending.get_mut(&write)) {
            Some(write) => write.waiters.push((token, reply)),
            None => env.reply(token, reply),
        }
    }

    /// Changes what the group is.
    fn convert(&mut self, env: &mut Env<'_>, conversion: Conversion) -> Before {
        let (classic, consumer) = match conversion {
            Conversion::ToConsumer { group, .. } => {
                self.answer_all(env, ErrorCode::RebalanceInProgress);
                (ClassicGroup::new(env.now.wall_ms), Some(group))
            }
            Conversion::ToClassic { group, .. } => (*group, None),
        };
        Before {
            classic: std::mem::replace(&mut self.classic, classic),
            consumer: std::mem::replace(&mut self.consumer, consumer),
        }
    }

    /// Applies a record of a consumer group, live or in replay; how to undo it.
    pub(crate) fn apply(&mut self, record: &ConsumerRecord) -> Option<Undo> {
        if matches!(record, ConsumerRecord::Epoch(None)) {
            self.consumer = None;
            return None;
        }
        if self.consumer.is_none() && record.is_tombstone() {
            return None;
        }
        let new = || Box::new(ConsumerGroup::new());
        self.consumer.get_or_insert_with(new).apply(record)
    }

    /// Applies a record of either kind of group, from the log.
    pub(crate) fn replay(&mut self, record: &Replayed<'_>) -> Option<Undo> {
        match record {
            Replayed::Consumer(_, record) => self.apply(record),
            Replayed::Group(_, Some(value)) => {
                self.classic = ClassicGroup::load(value);
                None
            }
            Replayed::Group(_, None) => {
                self.classic = ClassicGroup::new(-1);
                None
            }
            Replayed::Offset(..) | Replayed::Other => None,
        }
    }

    /// A change is written.
    pub(crate) fn change_written(&mut self, write: u64) {
        self.history.0.retain(|step| step.write != write);
    }

    /// A change could not be written.
    pub(crate) fn change_failed(&mut self, env: &mut Env<'_>, write: u64, error: ErrorCode) {
        let Some(at) = self.history.0.iter().position(|s| s.write == write) else {
            return;
        };
        let mut later = self.history.0.split_off(at + 1);
        let mut converted = false;
        for step in later.iter_mut().rev() {
            converted |= self.revert(env, step, error);
        }
        if let Some(mut step) = self.history.0.pop_back() {
            converted |= self.revert(env, &mut step, error);
        }
        for step in later {
            self.redo(env, step);
        }
        let group = (self.serial, &*self.name);
        if let Some(consumer) = &mut self.consumer {
            consumer.recount();
            consumer.forget_timers();
            consumer.fit_timers(env, group);
        } else if converted {
            self.classic_revived(env);
        }
    }

    /// Takes a change back; whether it was a conversion.
    fn revert(&mut self, env: &mut Env<'_>, step: &mut Step, error: ErrorCode) -> bool {
        if let Some(before) = step.before.take() {
            step.undo.clear();
            self.answer_all(env, metadata_append_error(error));
            self.classic = before.classic;
            self.consumer = before.consumer;
            return true;
        }
        for undo in step.undo.drain(..).rev() {
            if let Some(consumer) = &mut self.consumer {
                consumer.undo(undo);
            }
        }
        false
    }

    /// Does a change again that was undone because one before it failed.
    fn redo(&mut self, env: &mut Env<'_>, mut step: Step) {
        if step.converts {
            let classic = ClassicGroup::new(env.now.wall_ms);
            step.before = Some(Before {
                classic: std::mem::replace(&mut self.classic, classic),
                consumer: self.consumer.take(),
            });
        }
        for record in &step.records {
            // They were written by this process, so they can be read.
            if let Ok(replayed) = records::read(&record.key, record.value.as_deref()) {
                let undo = self.replay(&replayed);
                step.undo.extend(undo);
            }
        }
        self.history.0.push_back(step);
    }

    /// The group is a classic one again: whatever its members waited for has been answered, so they
    /// are asked to join.
    fn classic_revived(&mut self, env: &mut Env<'_>) {
        self.classic.begin_anew();
        self.begin_classic_sessions(env);
        if !self.classic.members.is_empty() {
            self.prepare_rebalance(env);
        }
    }

    fn begin_classic_sessions(&mut self, env: &mut Env<'_>) {
        let serials: Vec<_> = self.classic.members.keys().copied().collect();
        for serial in serials {
            self.touch(env, serial);
        }
    }
}
