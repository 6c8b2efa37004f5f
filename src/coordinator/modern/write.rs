//! How changes of a group whose assignment the coordinator makes are written and, when that fails,
//! taken back.
//!
//! A change is applied when it is handed out, so that the next request sees it. Until it is written
//! the group remembers how to undo it. When a write fails, the changes after it are undone, then
//! it; then those after it are done again from their records: they are, or will be, in the log,
//! and the group is then what a replay of the log would make.

use super::{Place, Refusal};
use crate::classic::{ClassicGroup, metadata_append_error};
use crate::consumer::{self, ConsumerGroup, ConsumerRecord, Conversion};
use crate::group::{Env, Group};
use crate::out::{Record, Reply, ReplyToken};
use crate::records::{self, Replayed};
use crate::share_group::{self, ShareGroup, ShareRecord};
use crate::streams::{self, StreamsGroup, StreamsRecord};
use crate::writes::{Done, Effect, Part};
use flumen_base::ErrorCode;
use std::collections::VecDeque;
use std::sync::Arc;

/// One change of a group, as a record.
pub(crate) trait ChangeRecord {
    /// The record for the log; `None` when a string is too long for one.
    fn encode(&self, group: &str) -> Option<Record>;
    /// Applies it; how to take it back, unless it changes nothing.
    fn apply_to(&self, group: &mut Group) -> Option<AnyUndo>;
}

impl ChangeRecord for ConsumerRecord {
    fn encode(&self, group: &str) -> Option<Record> {
        self.encode(group)
    }

    fn apply_to(&self, group: &mut Group) -> Option<AnyUndo> {
        group.apply(self).map(AnyUndo::Consumer)
    }
}

impl ChangeRecord for ShareRecord {
    fn encode(&self, group: &str) -> Option<Record> {
        self.encode(group)
    }

    fn apply_to(&self, group: &mut Group) -> Option<AnyUndo> {
        group.apply_share(self).map(AnyUndo::Share)
    }
}

impl ChangeRecord for StreamsRecord {
    fn encode(&self, group: &str) -> Option<Record> {
        self.encode(group)
    }

    fn apply_to(&self, group: &mut Group) -> Option<AnyUndo> {
        group.apply_streams(self).map(AnyUndo::Streams)
    }
}

/// How to take one record back.
#[derive(Debug)]
pub(crate) enum AnyUndo {
    Consumer(consumer::Undo),
    Share(share_group::Undo),
    Streams(streams::Undo),
}

/// What a handler wants to happen.
#[derive(Debug)]
pub(crate) struct Change<R = ConsumerRecord> {
    /// The group begins or ends to be of this kind; first.
    pub(crate) conversion: Option<Conversion>,
    pub(crate) records: Vec<R>,
}

impl<R> Default for Change<R> {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl<R> Change<R> {
    /// Only records.
    pub(crate) fn of(records: Vec<R>) -> Self {
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
    streams: Option<Box<StreamsGroup>>,
}

/// A change that is being written.
#[derive(Debug)]
struct Step {
    write: u64,
    /// A conversion.
    converts: bool,
    /// What undoing a conversion brings back.
    before: Option<Before>,
    undo: Vec<AnyUndo>,
    records: Vec<Record>,
}

/// The changes of a group that are being written, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Step>);

impl History {
    fn undos(&self) -> impl Iterator<Item = &AnyUndo> {
        self.0.iter().flat_map(|step| &step.undo)
    }

    /// A member of a consumer group as it is written: as it was before the first of the changes on
    /// their way, or, when none is about it, as it is `now`.
    pub(crate) fn consumer_member<'a>(
        &'a self,
        id: &str,
        now: Option<&'a Arc<consumer::Member>>,
    ) -> Option<&'a Arc<consumer::Member>> {
        let members = self.undos().filter_map(|undo| match undo {
            AnyUndo::Consumer(consumer::Undo::Member(before)) => Some(before),
            _ => None,
        });
        as_written(members, id, now)
    }

    /// The same of a streams group.
    pub(crate) fn streams_member<'a>(
        &'a self,
        id: &str,
        now: Option<&'a Arc<streams::Member>>,
    ) -> Option<&'a Arc<streams::Member>> {
        let members = self.undos().filter_map(|undo| match undo {
            AnyUndo::Streams(streams::Undo::Member(before)) => Some(before),
            _ => None,
        });
        as_written(members, id, now)
    }
}

/// The member as it was before the first of these changes that is about it.
fn as_written<'a, M: 'a>(
    mut changes: impl Iterator<Item = &'a Place<M>>,
    id: &str,
    now: Option<&'a Arc<M>>,
) -> Option<&'a Arc<M>> {
    match changes.find(|before| *before.id == *id) {
        Some(before) => before.holds.as_ref(),
        None => now,
    }
}

impl Group {
    /// Applies a change and hands it out to be written; the reply leaves when it is. Without
    /// records it leaves when what the group did before is written.
    ///
    /// # Errors
    /// A string is too long for its record; nothing has changed.
    pub(crate) fn write_change<R: ChangeRecord>(
        &mut self,
        env: &mut Env<'_>,
        change: Change<R>,
        reply: Option<(ReplyToken, Reply)>,
    ) -> Result<(), Refusal> {
        self.write_change_then(env, change, Done::answer(reply))
    }

    /// The same with whatever follows. Without records that can only be a reply.
    pub(crate) fn write_change_then<R: ChangeRecord>(
        &mut self,
        env: &mut Env<'_>,
        change: Change<R>,
        done: Done,
    ) -> Result<(), Refusal> {
        let records = self.encode(&change)?;
        if records.is_empty() {
            if let Done::Reply(token, reply) = done {
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
            step.undo.extend(record.apply_to(self));
        }
        self.history.0.push_back(step);
        let part = Part {
            group: self.serial,
            offsets: Vec::new(),
            effect: Effect::Change,
        };
        let part = self.part(env.next_write(), part);
        env.append(self.partition, records, vec![part], done);
        if converts && self.is_classic_kind() {
            self.begin_classic_sessions(env);
            if rebalance {
                self.prepare_rebalance(env);
            }
        }
        Ok(())
    }

    fn encode<R: ChangeRecord>(&self, change: &Change<R>) -> Result<Vec<Record>, Refusal> {
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
    pub(crate) fn reply_when_written(
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
        let mut after = Before {
            classic: ClassicGroup::new(env.now.wall_ms),
            consumer: None,
            streams: None,
        };
        match conversion {
            Conversion::ToConsumer { group, .. } => {
                self.answer_all(env, ErrorCode::RebalanceInProgress);
                after.consumer = Some(group);
            }
            Conversion::ToStreams { .. } => after.streams = Some(Box::new(StreamsGroup::new())),
            Conversion::ToClassic { group, .. } | Conversion::FromStreams { group, .. } => {
                after.classic = *group;
            }
        }
        self.replace_kind(after)
    }

    /// Puts the group of one kind in the place of that of another.
    fn replace_kind(&mut self, by: Before) -> Before {
        Before {
            classic: std::mem::replace(&mut self.classic, by.classic),
            consumer: std::mem::replace(&mut self.consumer, by.consumer),
            streams: std::mem::replace(&mut self.streams, by.streams),
        }
    }

    /// Applies a record of a consumer group, live or in replay; how to undo it.
    pub(crate) fn apply(&mut self, record: &ConsumerRecord) -> Option<consumer::Undo> {
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

    /// Applies a record of a share group, live or in replay; how to undo it.
    pub(crate) fn apply_share(&mut self, record: &ShareRecord) -> Option<share_group::Undo> {
        if matches!(record, ShareRecord::Epoch(None)) {
            self.share = None;
            return None;
        }
        if self.share.is_none() && record.is_tombstone() {
            return None;
        }
        let new = || Box::new(ShareGroup::new());
        self.share.get_or_insert_with(new).apply(record)
    }

    /// Applies a record of a streams group, live or in replay; how to undo it. The topology is
    /// buried after the group has ended.
    pub(crate) fn apply_streams(&mut self, record: &StreamsRecord) -> Option<streams::Undo> {
        if record.ends_group() {
            self.streams = None;
            return None;
        }
        if self.streams.is_none() && record.is_tombstone() {
            return None;
        }
        let new = || Box::new(StreamsGroup::new());
        self.streams.get_or_insert_with(new).apply(record)
    }

    /// Applies a record of any kind of group, from the log.
    pub(crate) fn replay(&mut self, record: &Replayed<'_>) -> Option<AnyUndo> {
        match record {
            Replayed::Consumer(_, record) => record.apply_to(self),
            Replayed::Share(_, record) => record.apply_to(self),
            Replayed::Streams(_, record) => record.apply_to(self),
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
        if self.history.0.is_empty() {
            self.history = History::default(); // changes are rare, groups many: no room is kept
        }
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
            consumer.timers.clear();
            consumer.fit_timers(env, group);
        } else if let Some(share) = &mut self.share {
            share.timers.clear();
            share.fit_timers(env, group);
        } else if let Some(streams) = &mut self.streams {
            streams.recount();
            streams.timers.clear();
            streams.fit_timers(env, group);
        } else if converted {
            self.classic_revived(env);
        }
    }

    /// Takes a change back; whether it was a conversion.
    fn revert(&mut self, env: &mut Env<'_>, step: &mut Step, error: ErrorCode) -> bool {
        if let Some(before) = step.before.take() {
            step.undo.clear();
            self.answer_all(env, metadata_append_error(error));
            self.replace_kind(before);
            return true;
        }
        for undo in step.undo.drain(..).rev() {
            match (undo, &mut self.consumer, &mut self.share, &mut self.streams) {
                (AnyUndo::Consumer(undo), Some(consumer), _, _) => consumer.undo(undo),
                (AnyUndo::Share(undo), _, Some(share), _) => share.undo(undo),
                (AnyUndo::Streams(undo), _, _, Some(streams)) => streams.undo(undo),
                _ => {}
            }
        }
        false
    }

    /// Does a change again that was undone because one before it failed.
    fn redo(&mut self, env: &mut Env<'_>, mut step: Step) {
        if step.converts {
            step.before = Some(self.replace_kind(Before {
                classic: ClassicGroup::new(env.now.wall_ms),
                consumer: None,
                streams: None,
            }));
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
