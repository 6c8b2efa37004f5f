//! A group: its members' protocol and its committed offsets, under one name.

use crate::classic::{ClassicGroup, State};
use crate::config::CoordinatorConfig;
use crate::consumer::ConsumerGroup;
use crate::modern::History;
use crate::offsets::Offsets;
use crate::out::{Append, AppendKind, Metadata, Out, Record, Reply, ReplyToken, WriteToken};
use crate::share_group::ShareGroup;
use crate::streams::StreamsGroup;
use crate::timers::{GroupSerial, Timers};
use crate::writes::{Done, Part, Write, Writes};
use flumen_base::{Now, PartitionIndex, Prng};
use std::sync::Arc;

/// One group of this shard.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its number.
    pub(crate) serial: GroupSerial,
    /// Its id on the wire.
    pub(crate) name: Arc<str>,
    /// Partition of `__consumer_offsets` that holds it.
    pub(crate) partition: PartitionIndex,
    /// Whether a record of it was written: an unwritten group is gone if the write fails.
    pub(crate) persisted: bool,
    /// Appends in flight that concern it.
    pub(crate) writes_pending: u32,
    /// The latest of them.
    pub(crate) write_last: Option<u64>,
    /// Membership of a classic group. Beside a group of another kind it is empty; dead it is while
    /// the tombstone of any kind is being written.
    pub(crate) classic: ClassicGroup,
    /// Set: this is a consumer group.
    pub(crate) consumer: Option<Box<ConsumerGroup>>,
    /// Set: this is a share group.
    pub(crate) share: Option<Box<ShareGroup>>,
    /// Set: this is a streams group.
    pub(crate) streams: Option<Box<StreamsGroup>>,
    /// Changes of the consumer, share or streams group that are being written.
    pub(crate) history: History,
    /// Committed offsets and those being committed.
    pub(crate) offsets: Offsets,
}

impl Group {
    /// An empty group that nobody wrote yet.
    pub(crate) fn new(
        serial: GroupSerial,
        name: Arc<str>,
        partition: PartitionIndex,
        wall_ms: i64,
    ) -> Self {
        Self {
            serial,
            name,
            partition,
            persisted: false,
            writes_pending: 0,
            write_last: None,
            classic: ClassicGroup::new(wall_ms),
            consumer: None,
            share: None,
            streams: None,
            history: History::default(),
            offsets: Offsets::default(),
        }
    }

    /// Whether admin requests see it: it was written, or its members were told of a generation.
    pub(crate) fn is_visible(&self) -> bool {
        self.persisted || self.classic.generation > 0
    }

    /// Whether nothing would be lost without it: never written, nothing in flight, nobody in it.
    pub(crate) fn is_ghost(&self) -> bool {
        !self.persisted
            && self.writes_pending == 0
            && self.offsets.is_empty()
            && self.classic.is_vacant()
            && self.consumer.is_none()
            && self.streams.is_none()
            && self.share.as_ref().is_none_or(|share| share.is_blank())
    }

    /// Whether neither members nor offsets nor a generation are left.
    pub(crate) fn is_nothing(&self) -> bool {
        self.offsets.is_empty() && self.classic.is_blank() && self.is_classic_kind()
    }

    /// Whether it is neither a consumer nor a streams nor a share group.
    pub(crate) fn is_classic_kind(&self) -> bool {
        self.consumer.is_none() && self.streams.is_none() && self.share.is_none()
    }

    /// Whether its tombstone is being written.
    pub(crate) fn is_dead(&self) -> bool {
        self.classic.state == State::Dead
    }

    /// Nobody in it.
    pub(crate) fn is_memberless(&self) -> bool {
        match (&self.consumer, &self.streams, &self.share) {
            (Some(consumer), _, _) => consumer.is_empty(),
            (_, Some(streams), _) => streams.is_empty(),
            (_, _, Some(share)) => share.is_empty(),
            (None, None, None) => self.classic.state == State::Empty,
        }
    }

    /// Whether a member may read this topic: offsets of such topics are neither deleted nor
    /// expired.
    pub(crate) fn is_subscribed(&self, topic: &str) -> bool {
        match (&self.consumer, &self.streams, &self.share) {
            (Some(consumer), _, _) => consumer.topic_counts().contains(topic),
            (_, Some(streams), _) => streams.is_subscribed(topic),
            (_, _, Some(share)) => share.topics().contains(topic),
            (None, None, None) => self.classic.is_subscribed(topic),
        }
    }

    /// This group's share of a write, counted.
    pub(crate) fn part(&mut self, token: u64, part: Part) -> Part {
        debug_assert_eq!(part.group, self.serial);
        self.writes_pending += 1;
        self.write_last = Some(token);
        part
    }
}

/// What a handler may touch besides its group.
pub(crate) struct Env<'a> {
    pub(crate) now: Now,
    pub(crate) config: &'a CoordinatorConfig,
    pub(crate) timers: &'a mut Timers,
    pub(crate) writes: &'a mut Writes,
    pub(crate) prng: &'a mut Prng,
    pub(crate) metadata: &'a dyn Metadata,
    /// Version of the metadata that brought the latest new topic.
    pub(crate) topics_created_at: i64,
    pub(crate) out: &'a mut Out,
}

impl Env<'_> {
    /// Answers a request.
    pub(crate) fn reply(&mut self, token: ReplyToken, reply: Reply) {
        self.out.replies.push((token, reply));
    }

    /// The token of the append that [`Env::append`] will hand out next.
    pub(crate) fn next_write(&self) -> u64 {
        self.writes.last + 1
    }

    /// Hands out an append. `parts` were counted with [`Group::part`] under [`Env::next_write`].
    pub(crate) fn append(
        &mut self,
        partition: PartitionIndex,
        records: Vec<Record>,
        parts: Vec<Part>,
        done: Done,
    ) {
        debug_assert!(!records.is_empty());
        self.append_kind(partition, AppendKind::Plain, records, parts, done);
    }

    /// As [`Env::append`], of any kind.
    pub(crate) fn append_kind(
        &mut self,
        partition: PartitionIndex,
        kind: AppendKind,
        records: Vec<Record>,
        parts: Vec<Part>,
        done: Done,
    ) {
        self.writes.last += 1;
        let token = self.writes.last;
        self.writes.pending.insert(
            token,
            Write {
                partition,
                parts,
                done,
                waiters: Vec::new(),
            },
        );
        self.out.appends.push(Append {
            partition,
            records,
            kind,
            write_token: WriteToken(token),
        });
    }
}
