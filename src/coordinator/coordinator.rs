//! The coordinator itself: which partitions it holds, how requests find their group, what time
//! does.

use crate::classic::State;
use crate::config::CoordinatorConfig;
use crate::consumer::ConsumerState;
use crate::group::{Env, Group};
use crate::limits::{EXPIRY_GROUPS_PER_TICK_MAX, EXPIRY_RECORDS_PER_APPEND_MAX, GROUPS_MAX};
use crate::out::{AppendKind, Metadata, NoMetadata, Out, Reply, ReplyToken};
use crate::records::{self, ReplayError, Replayed};
use crate::roster::Roster;
use crate::settle::Gather;
use crate::share_group::ShareThen;
use crate::streams::StreamsState;
use crate::timers::{Deadline, GroupSerial, TimerKey, Timers};
use crate::writes::{Done, Writes};
use crate::{offsets, partition_for};
use flumen_base::{ErrorCode, IdMap, Mono, Now, Offset, PartitionIndex, Prng, ProducerId, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A partition of `__consumer_offsets` that this shard owns.
#[derive(Debug, Default)]
pub(crate) struct PartitionState {
    /// Its log is being read.
    pub(crate) loading: bool,
    /// Its groups.
    pub(crate) names: Roster,
    /// Next look for expired offsets.
    expiry: Deadline,
    /// Groups with offsets of open transactions, by producer.
    pub(crate) open_txns: BTreeMap<ProducerId, BTreeSet<GroupSerial>>,
    /// Where that look stopped to give others a turn.
    expiry_cursor: Option<GroupSerial>,
}

/// Consumer groups of one shard: see the crate's documentation for the loop around it.
#[derive(Debug)]
pub struct GroupCoordinator {
    pub(crate) config: CoordinatorConfig,
    pub(crate) prng: Prng,
    pub(crate) partitions: BTreeMap<PartitionIndex, PartitionState>,
    pub(crate) groups: IdMap<GroupSerial, Group>,
    pub(crate) group_last: GroupSerial,
    pub(crate) timers: Timers,
    pub(crate) writes: Writes,
    pub(crate) metadata: Arc<dyn Metadata>,
    /// Version of the metadata that brought the latest new topic; -1 before the first.
    topics_created_at: i64,
    /// DeleteGroups requests whose appends are not all answered.
    pub(crate) gathers: IdMap<u64, Gather>,
    pub(crate) gather_last: u64,
    /// Calls for stored states of share partitions that are not answered.
    pub(crate) share_waits: IdMap<u64, ShareThen>,
    pub(crate) share_wait_last: u64,
}

impl GroupCoordinator {
    /// A coordinator that owns nothing yet.
    pub fn new(config: CoordinatorConfig, prng: Prng) -> Self {
        Self {
            config,
            prng,
            partitions: BTreeMap::new(),
            groups: IdMap::default(),
            group_last: 0,
            timers: Timers::default(),
            writes: Writes::default(),
            metadata: Arc::new(NoMetadata),
            topics_created_at: -1,
            gathers: IdMap::default(),
            gather_last: 0,
            share_waits: IdMap::default(),
            share_wait_last: 0,
        }
    }

    /// New settings. Timers that run keep their times.
    pub fn set_config(&mut self, config: CoordinatorConfig) {
        self.config = config;
    }

    /// The cluster's metadata from now on. `changed` names the topics that were created, changed or
    /// deleted: groups that subscribe to them look at them again with the next request. `created`:
    /// some of them are new, so that expressions are matched again.
    pub fn set_metadata(&mut self, metadata: Arc<dyn Metadata>, changed: &[&str], created: bool) {
        if created || self.topics_created_at < 0 {
            self.topics_created_at = metadata.version();
        }
        self.metadata = metadata;
        for group in self.groups.values_mut() {
            if let Some(consumer) = group.consumer.as_mut() {
                let topics = consumer.topic_counts();
                if changed.iter().any(|topic| topics.contains(topic)) {
                    consumer.refresh = (0, 0);
                }
            }
            if let Some(share) = group.share.as_mut()
                && changed.iter().any(|topic| share.topics().contains(topic))
            {
                share.metadata_changed();
            }
            if let Some(streams) = group.streams.as_mut()
                && streams.requires_any(changed)
            {
                streams.request_refresh();
            }
        }
    }

    // ---- partitions ----

    /// The shard owns this partition from now on; requests hear COORDINATOR_LOAD_IN_PROGRESS until
    /// [`GroupCoordinator::finish_load`].
    pub fn begin_load(&mut self, partition: PartitionIndex) {
        self.partitions.entry(partition).or_default().loading = true;
    }

    /// One record of a partition that is loading, in log order. Records of unknown kinds are
    /// skipped, and so are those of other partitions.
    ///
    /// # Errors
    /// The record's bytes can't be read; it was skipped and loading may go on.
    pub fn replay(
        &mut self,
        partition: PartitionIndex,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ReplayError> {
        let loading = self.partitions.get(&partition).is_some_and(|p| p.loading);
        debug_assert!(loading, "replay of a partition that is not loading");
        let record = records::read(key, value)?;
        if !loading {
            return Ok(());
        }
        let (name, tombstone) = match &record {
            Replayed::Offset(key, value) => (&*key.group, value.is_none()),
            Replayed::Group(key, value) => (&*key.group, value.is_none()),
            Replayed::Consumer(name, record) => (&**name, record.is_tombstone()),
            Replayed::Streams(name, record) => (&**name, record.is_tombstone()),
            Replayed::Share(name, record) => (&**name, record.is_tombstone()),
            Replayed::Other => return Ok(()),
        };
        let serial = match self.find(partition, name) {
            Some(serial) => serial,
            None if tombstone => return Ok(()),
            None => self.create(partition, name, -1),
        };
        let Some(group) = self.groups.get_mut(&serial) else {
            return Ok(());
        };
        group.persisted = true;
        if let Replayed::Offset(key, value) = &record {
            self.writes.last += 1;
            let at = self.writes.last;
            let value = value.as_ref().map(offsets::OffsetValue::load);
            group.offsets.load(at, &key.topic, key.partition, value);
        } else {
            group.replay(&record);
            // What follows the tombstone of one kind may be the other kind, and offsets stay.
            if record.ends_group() && group.is_nothing() {
                self.remove(serial);
            }
        }
        Ok(())
    }

    /// Serves the partition from now on: loaded members' sessions start anew; a group larger than
    /// `group.max.size` rebalances.
    pub fn finish_load(&mut self, now: Now, partition: PartitionIndex, out: &mut Out) {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        state.loading = false;
        let at = now
            .mono
            .plus_ms(self.config.offsets_retention_check_interval_ms);
        let key = TimerKey::Expiry(partition);
        self.timers.set(&mut state.expiry, key, at);
        let serials: Vec<_> = state.names.iter().collect();
        for serial in serials {
            self.with_group(serial, now, out, |group, env| {
                if group.consumer.is_some() {
                    return group.consumer_loaded(env);
                }
                if group.streams.is_some() {
                    return group.streams_loaded(env);
                }
                if group.share.is_some() {
                    return group.share_loaded(env);
                }
                let members: Vec<_> = group.classic.members.keys().copied().collect();
                for member in &members {
                    group.touch(env, *member);
                }
                if members.len() > env.config.group_max_size {
                    group.prepare_rebalance(env);
                }
            });
        }
    }

    /// Gives a partition up: whoever waits hears NOT_COORDINATOR, its groups and outstanding
    /// appends are forgotten.
    pub fn unload(&mut self, now: Now, partition: PartitionIndex, out: &mut Out) {
        let Some(state) = self.partitions.remove(&partition) else {
            return;
        };
        for serial in state.names.iter() {
            self.with_group(serial, now, out, |group, env| {
                group.answer_all(env, ErrorCode::NotCoordinator);
            });
            self.groups.remove(&serial);
        }
        let pending = self.writes.pending.iter();
        let tokens = pending.filter(|(_, w)| w.partition == partition);
        let mut tokens: Vec<_> = tokens.map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        for token in tokens {
            if let Some(write) = self.writes.pending.remove(&token) {
                self.answer_write(write.done, write.waiters, ErrorCode::NotCoordinator, out);
            }
        }
    }

    // ---- finding groups ----

    /// The partition of a group, if it is served here.
    pub(crate) fn route(&self, group: &str) -> Result<PartitionIndex, ErrorCode> {
        let partition = partition_for(group, self.config.offsets_topic_num_partitions);
        match self.partitions.get(&partition) {
            None => Err(ErrorCode::NotCoordinator),
            Some(state) if state.loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(_) => Ok(partition),
        }
    }

    pub(crate) fn find(&self, partition: PartitionIndex, group: &str) -> Option<GroupSerial> {
        self.partitions.get(&partition)?.names.get(group)
    }

    /// Whether one more group fits.
    pub(crate) fn has_room(&self) -> bool {
        self.groups.len() < GROUPS_MAX
    }

    /// Makes a group that nobody wrote yet.
    pub(crate) fn create(
        &mut self,
        partition: PartitionIndex,
        name: &str,
        wall_ms: i64,
    ) -> GroupSerial {
        self.group_last += 1;
        let serial = self.group_last;
        let name: Arc<str> = name.into();
        let state = self.partitions.entry(partition).or_default();
        state.names.insert(name.clone(), serial);
        let group = Group::new(serial, name, partition, wall_ms);
        self.groups.insert(serial, group);
        serial
    }

    pub(crate) fn remove(&mut self, serial: GroupSerial) {
        if let Some(group) = self.groups.remove(&serial)
            && let Some(state) = self.partitions.get_mut(&group.partition)
        {
            state.names.remove(&group.name);
        }
    }

    /// Runs a handler on a group; a group that is nothing afterwards is forgotten.
    pub(crate) fn with_group<R>(
        &mut self,
        serial: GroupSerial,
        now: Now,
        out: &mut Out,
        run: impl FnOnce(&mut Group, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let group = self.groups.get_mut(&serial)?;
        let mut env = Env {
            now,
            config: &self.config,
            timers: &mut self.timers,
            writes: &mut self.writes,
            prng: &mut self.prng,
            metadata: &*self.metadata,
            topics_created_at: self.topics_created_at,
            out,
        };
        let result = run(group, &mut env);
        if group.is_ghost() {
            self.remove(serial);
        }
        Some(result)
    }

    // ---- time ----

    /// When to call [`GroupCoordinator::tick`] next; it may turn out to be for nothing.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now, out: &mut Out) {
        // This ends: what a timer sets anew lies later, or drops members of whom there are ever
        // fewer.
        let mut expiries = Vec::new();
        while let Some(entry) = self.timers.pop(now.mono) {
            match entry.1 {
                TimerKey::Expiry(partition) => expiries.push((partition, entry)),
                TimerKey::Session(serial, _)
                | TimerKey::Join(serial)
                | TimerKey::Sync(serial)
                | TimerKey::Delay(serial)
                | TimerKey::Member(serial, ..) => {
                    self.with_group(serial, now, out, |group, env| group.timer(env, entry));
                }
            }
        }
        for (partition, entry) in expiries {
            let Some(state) = self.partitions.get_mut(&partition) else {
                continue;
            };
            if self.timers.take_due(&mut state.expiry, entry, now.mono) {
                self.expire(now, partition, out);
            }
        }
        if self.timers.wants_sweep() {
            let (groups, partitions) = (&self.groups, &self.partitions);
            self.timers.sweep(|at, key| match key {
                TimerKey::Expiry(p) => partitions.get(&p).is_some_and(|p| p.expiry.owns(at)),
                TimerKey::Session(g, _)
                | TimerKey::Join(g)
                | TimerKey::Sync(g)
                | TimerKey::Delay(g)
                | TimerKey::Member(g, ..) => groups.get(&g).is_some_and(|g| g.owns_entry(at, key)),
            });
        }
    }

    /// Looks at some groups of a partition for what has expired.
    fn expire(&mut self, now: Now, partition: PartitionIndex, out: &mut Out) {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        let from = state.expiry_cursor.take().unwrap_or(0);
        let some = state.names.iter_from(from);
        let some: Vec<_> = some.take(EXPIRY_GROUPS_PER_TICK_MAX + 1).collect();
        let (mut records, mut parts, mut cursor) = (Vec::new(), Vec::new(), None);
        for (i, serial) in some.into_iter().enumerate() {
            let stop =
                i == EXPIRY_GROUPS_PER_TICK_MAX || records.len() >= EXPIRY_RECORDS_PER_APPEND_MAX;
            let through = !stop
                && self
                    .with_group(serial, now, out, |group, env| {
                        group.expire(env, &mut records, &mut parts)
                    })
                    .unwrap_or(true);
            if !through {
                cursor = Some(serial);
                break;
            }
        }
        let mut wait_ms = self.config.offsets_retention_check_interval_ms.max(1);
        if cursor.is_some() {
            wait_ms = 1; // soon, but after others had a turn
        }
        if !records.is_empty() {
            let mut env = Env {
                now,
                config: &self.config,
                timers: &mut self.timers,
                writes: &mut self.writes,
                prng: &mut self.prng,
                metadata: &*self.metadata,
                topics_created_at: self.topics_created_at,
                out,
            };
            env.append(partition, records, parts, Done::Nothing);
        }
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.expiry_cursor = cursor;
            let at = now.mono.plus_ms(wait_ms);
            self.timers
                .set(&mut state.expiry, TimerKey::Expiry(partition), at);
        }
    }

    // ---- others ----

    /// Hands out an append that concerns no single group.
    pub(crate) fn append_kind(
        &mut self,
        now: Now,
        partition: PartitionIndex,
        kind: AppendKind,
        done: Done,
        out: &mut Out,
    ) {
        let mut env = Env {
            now,
            config: &self.config,
            timers: &mut self.timers,
            writes: &mut self.writes,
            prng: &mut self.prng,
            metadata: &*self.metadata,
            topics_created_at: self.topics_created_at,
            out,
        };
        env.append_kind(partition, kind, Vec::new(), Vec::new(), done);
    }

    /// Topics were deleted, given by name and id: their committed offsets go.
    pub fn on_topics_deleted(&mut self, now: Now, deleted: &[(&str, Uuid)], out: &mut Out) {
        for serial in self.serials() {
            self.with_group(serial, now, out, |group, env| {
                if !group.is_dead() {
                    group.on_topics_deleted(env, deleted);
                    group.share_topics_deleted(env, deleted);
                }
            });
        }
    }

    fn serials(&self) -> Vec<GroupSerial> {
        let served = self.partitions.values().filter(|p| !p.loading);
        served.flat_map(|p| p.names.iter()).collect()
    }

    /// Calls `each` with every committed offset: group, topic, partition, offset. For lag metrics.
    pub fn for_each_committed(&self, each: &mut dyn FnMut(&str, &str, PartitionIndex, Offset)) {
        for group in self.serials().iter().filter_map(|s| self.groups.get(s)) {
            for (topic, partition, value) in group.offsets.committed() {
                each(&group.name, topic, partition, Offset(value.offset));
            }
        }
    }

    /// Number of groups by Kafka's name of their state.
    pub fn group_counts(&self) -> [(&'static str, usize); 7] {
        let states = [
            State::Empty.name(),
            State::PreparingRebalance.name(),
            State::CompletingRebalance.name(),
            ConsumerState::Assigning.name(),
            ConsumerState::Reconciling.name(),
            State::Stable.name(),
            StreamsState::NotReady.name(),
        ];
        let mut counts = states.map(|state| (state, 0));
        for group in self.groups.values() {
            let name = group.state_name();
            for (state, count) in &mut counts {
                *count += usize::from(*state == name);
            }
        }
        counts
    }

    /// For tests: panics when what a group computes does not follow from its records.
    pub fn check(&self) {
        for consumer in self.groups.values().filter_map(|g| g.consumer.as_ref()) {
            consumer.check();
        }
        for streams in self.groups.values().filter_map(|g| g.streams.as_ref()) {
            streams.check();
        }
        for share in self.groups.values().filter_map(|g| g.share.as_ref()) {
            share.check();
        }
    }

    /// Appends handed out and not answered.
    pub fn writes_outstanding(&self) -> usize {
        self.writes.pending.len()
    }

    pub(crate) fn reply(out: &mut Out, token: ReplyToken, reply: Reply) {
        out.replies.push((token, reply));
    }
}
