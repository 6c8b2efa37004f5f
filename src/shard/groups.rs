//! The group coordinator of one shard: requests go in, its appends go to the shard's partitions of
//! `__consumer_offsets`, and after a start its groups are read back from there.

use crate::Shard;
use crate::dirs::{NO_ROOM, fault_of};
use crate::group_metadata::{ImageTopics, with_consumer_settings};
use crate::group_ops::group_error;
use crate::incoming::{GROUP_SEQUENCE, coordinator_batch, replay_group_record};
use crate::io::{DiskOp, Effect, FileSlice, IoFailure, IoOutput, Segment};
use crate::ops::{
    GroupResult, MarkerFor, OF_GROUPS, Op, OpFrom, OpResult, PartitionOp, ReadOp, ReadResult,
};
use crate::partition::AckTo;
use crate::partitions::Pending;
use crate::request::{Reply, Request};
use crate::streams_topics::StreamsTopics;
use crate::timers::TimerKey;
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::{
    ErrorCode, IdMap, IdSet, Mono, Now, PartitionIndex, Prng, ShardId, TopicPartition, Uuid,
};
use flumen_coordinator::{
    Append, CoordinatorConfig, GroupCoordinator, Out, ReplyToken, RequestContext as Context,
    WriteToken, partition_for,
};
use flumen_settings::BrokerConfig;

/// The topic that groups live in.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Pause after a read that failed.
const LOAD_RETRY_MS: i64 = 500;
/// How much longer than its time a join phase lasts, for members that are on their way.
const JOIN_GRACE_MS: i32 = 25;
/// Bytes read at a time while groups are loaded: one slice of work.
const LOAD_CHUNK_BYTES: u32 = 1 << 20;

/// Whether a topic is the one that groups live in.
pub(crate) fn is_offsets_topic(name: &str) -> bool {
    name == OFFSETS_TOPIC
}

/// The coordinator and who waits for it.
pub(crate) struct Groups {
    pub(crate) coordinator: GroupCoordinator,
    pub(crate) out: Out,
    /// Who waits for which answer.
    pub(crate) waiting: IdMap<ReplyToken, WaitingFor>,
    /// Partitions that are being read, by the number of the read.
    loads: IdMap<u64, GroupLoad>,
    /// Partitions that the coordinator serves or loads.
    served: IdMap<PartitionIndex, TopicPartition>,
    /// Those of them whose groups are not known yet.
    loading: IdSet<PartitionIndex>,
    /// Those of them that were created just now: there is nothing to read.
    created: Vec<PartitionIndex>,
    timer: Option<Mono>,
    /// Topics that streams groups want.
    pub(crate) streams_topics: StreamsTopics,
}

/// Who waits for an answer of the coordinator.
pub(crate) enum WaitingFor {
    Request(Reply),
    Op(OpFrom),
    /// A transaction marker.
    Marker(OpFrom, MarkerFor),
}

/// A partition whose groups are being read.
struct GroupLoad {
    tp: TopicPartition,
    next_offset: i64,
}

/// A range of a log file that groups are read from.
pub(crate) struct GroupRead {
    load: u64,
}

impl Groups {
    /// None yet.
    pub(crate) fn new(broker: &BrokerConfig, prng: Prng) -> Self {
        Self {
            coordinator: GroupCoordinator::new(config_of(broker), prng),
            out: Out::default(),
            waiting: IdMap::default(),
            loads: IdMap::default(),
            served: IdMap::default(),
            loading: IdSet::default(),
            created: Vec::new(),
            timer: None,
            streams_topics: StreamsTopics::default(),
        }
    }
}

impl Groups {
    /// Whether nothing of the coordinator waits to be carried out.
    pub(crate) fn is_quiet(&self) -> bool {
        let Out {
            appends,
            replies,
            share_calls,
        } = &self.out;
        appends.is_empty() && replies.is_empty() && share_calls.is_empty()
    }
}

fn config_of(broker: &BrokerConfig) -> CoordinatorConfig {
    let classic = CoordinatorConfig {
        group_min_session_timeout_ms: broker.groups.min_session_timeout_ms,
        group_max_session_timeout_ms: broker.groups.max_session_timeout_ms,
        group_initial_rebalance_delay_ms: broker.groups.initial_rebalance_delay_ms,
        group_max_size: usize::try_from(broker.groups.max_size).unwrap_or(usize::MAX),
        offset_metadata_max_bytes: usize::try_from(broker.offsets.metadata_max_bytes).unwrap_or(0),
        offsets_retention_ms: i64::from(broker.offsets.retention_minutes) * 60_000,
        offsets_retention_check_interval_ms: broker.offsets.retention_check_interval_ms,
        offsets_topic_num_partitions: broker.offsets.topic_num_partitions,
        offsets_commit_timeout_ms: broker.offsets.commit_timeout_ms,
        join_grace_ms: JOIN_GRACE_MS,
        ..CoordinatorConfig::default()
    };
    with_consumer_settings(classic, broker)
}

/// A request as a handler of the coordinator takes it.
pub(crate) struct Ask<'a> {
    pub(crate) now: Now,
    pub(crate) ctx: Context<'a>,
    pub(crate) token: ReplyToken,
}

impl Shard {
    /// The shard that coordinates a group; NOT_COORDINATOR until the offsets topic exists, so that
    /// clients ask for the coordinator, which creates it.
    pub(crate) fn coordinator_of(&self, group: &str) -> Result<ShardId, ErrorCode> {
        let topic = self.image.topic(OFFSETS_TOPIC);
        let topic = topic.ok_or(ErrorCode::NotCoordinator)?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let index = partition_for(group, count);
        Ok(self.owner(crate::image::id_of(topic, index)))
    }

    /// Has the coordinator handle a request whose answer it gives when it is ready. (Answers are
    /// taken out at the end of the turn.)
    pub(crate) fn ask_coordinator<F>(&mut self, turn: &Turn<'_>, request: Request, call: F)
    where
        F: FnOnce(&mut GroupCoordinator, Ask<'_>, &ImageTopics<'_>, &mut Out),
    {
        let (now, token) = (turn.now, ReplyToken(self.next_id()));
        self.with_coordinator(&request, |c, ctx, topics, out| {
            call(c, Ask { now, ctx, token }, topics, out);
        });
        self.await_groups(token, request.reply);
    }

    /// The answer with this token is for this request.
    pub(crate) fn await_groups(&mut self, token: ReplyToken, reply: Reply) {
        let waiting = WaitingFor::Request(reply);
        self.groups.waiting.insert(token, waiting);
    }

    /// Runs `call` with what a handler of the coordinator needs.
    pub(crate) fn with_coordinator<T, F>(&mut self, request: &Request, call: F) -> T
    where
        F: FnOnce(&mut GroupCoordinator, Context<'_>, &ImageTopics<'_>, &mut Out) -> T,
    {
        let host = format!("/{}", request.peer.ip());
        let ctx = Context {
            api_version: request.version(),
            client_id: request.client_id(),
            client_host: &host,
        };
        let topics = ImageTopics(&self.image);
        call(
            &mut self.groups.coordinator,
            ctx,
            &topics,
            &mut self.groups.out,
        )
    }

    /// At the end of a turn: appends and answers of the coordinator leave.
    pub(crate) fn poll_groups(&mut self, turn: &mut Turn<'_>) {
        if !self.groups.created.is_empty() || !self.groups.is_quiet() {
            self.carry_groups(turn);
        }
    }

    #[inline(never)]
    fn carry_groups(&mut self, turn: &mut Turn<'_>) {
        for index in std::mem::take(&mut self.groups.created) {
            self.groups_known(turn, index);
        }
        while !self.groups.is_quiet() {
            let out = std::mem::take(&mut self.groups.out);
            for append in out.appends {
                self.append_group_records(turn, append);
            }
            for (token, reply) in out.replies {
                self.group_replied(turn, token, reply);
            }
            for (number, call) in out.share_calls {
                self.share_call(turn, number, call);
            }
        }
    }

    fn append_group_records(&mut self, turn: &mut Turn<'_>, append: Append) {
        let tp = self.groups.served.get(&append.partition).copied();
        if tp.is_some_and(|tp| self.dirs.is_full(self.dir_of(tp))) {
            self.group_append_done(turn, append.write_token, Some(NO_ROOM));
            return;
        }
        match (tp, coordinator_batch(turn, &append, GROUP_SEQUENCE)) {
            (Some(tp), Some(incoming)) => {
                let to = AckTo::Groups(append.write_token);
                self.append_batch(turn, tp, incoming, to);
            }
            _ => {
                let error = Some(ErrorCode::NotCoordinator);
                self.group_append_done(turn, append.write_token, error);
            }
        }
    }

    /// An append of the coordinator is written, or failed.
    pub(crate) fn group_append_done(
        &mut self,
        turn: &mut Turn<'_>,
        token: WriteToken,
        error: Option<ErrorCode>,
    ) {
        let Groups {
            coordinator, out, ..
        } = &mut self.groups;
        match error {
            None => coordinator.commit(turn.now, token, out),
            Some(error) => coordinator.append_failed(turn.now, token, group_error(error), out),
        }
    }

    fn group_replied(
        &mut self,
        turn: &mut Turn<'_>,
        token: ReplyToken,
        answer: flumen_coordinator::Reply,
    ) {
        use flumen_coordinator::Reply as R;
        match (self.groups.waiting.remove(&token), answer) {
            (Some(WaitingFor::Request(reply)), answer) => match answer {
                R::JoinGroup(r) => self.reply(turn, reply, &r),
                R::SyncGroup(r) => self.reply(turn, reply, &r),
                R::LeaveGroup(r) => self.reply(turn, reply, &r),
                R::ConsumerGroupHeartbeat(r) => self.reply(turn, reply, &r),
                R::StreamsGroupHeartbeat(beat) => self.streams_beaten(turn, reply, *beat),
                R::ShareGroupHeartbeat(r) => self.reply(turn, reply, &r),
                R::AlterShareGroupOffsets(r) => self.reply(turn, reply, &r),
                R::DeleteShareGroupOffsets(r) => self.reply(turn, reply, &r),
                R::OffsetCommit(r) => self.reply(turn, reply, &r),
                R::OffsetDelete(r) => self.reply(turn, reply, &r),
                R::TxnOffsetCommit(r) => self.reply_txn_commit(turn, reply, r),
                R::OffsetFetch(_) | R::DeleteGroups(_) | R::TxnCompleted(_) => {
                    tracing::error!("the coordinator gave an answer of another kind");
                }
            },
            (Some(WaitingFor::Op(from)), R::OffsetFetch(group)) => {
                let result = GroupResult::OffsetFetch(Box::new(group));
                self.outbox.result(from, OpResult::Group(result));
            }
            (Some(WaitingFor::Op(from)), R::DeleteGroups(results)) => {
                let result = GroupResult::Delete(results);
                self.outbox.result(from, OpResult::Group(result));
            }
            (Some(WaitingFor::Marker(from, who)), R::TxnCompleted(error)) => {
                self.outbox.result(from, who.result(error));
            }
            (Some(WaitingFor::Op(_) | WaitingFor::Marker(..)), _) => {
                tracing::error!("the coordinator gave an answer of another kind");
            }
            (None, _) => {}
        }
    }

    /// Deadlines of the coordinator.
    pub(crate) fn tick_groups(&mut self, turn: &mut Turn<'_>) {
        self.groups.timer = None;
        let Groups {
            coordinator, out, ..
        } = &mut self.groups;
        coordinator.tick(turn.now, out);
    }

    /// At the end of a turn: the next deadlines of the coordinator and the quorum.
    pub(crate) fn arm_deadlines(&mut self) {
        let wanted = self.groups.coordinator.next_deadline();
        self.timers
            .rearm(&mut self.groups.timer, wanted, TimerKey::Groups);
    }

    /// The broker's settings have changed.
    pub(crate) fn reconfigure_groups(&mut self) {
        let mut config = config_of(&self.broker);
        if let Some(topic) = self.image.topic(OFFSETS_TOPIC) {
            config.offsets_topic_num_partitions =
                i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        }
        self.groups.coordinator.set_config(config);
    }

    /// Topics are gone, with their ids: their offsets go, and the coordinator's partitions if it
    /// was their topic.
    pub(crate) fn forget_topics(&mut self, turn: &mut Turn<'_>, deleted: &[(&str, Uuid)]) {
        let Groups {
            coordinator,
            out,
            served,
            loading,
            created,
            ..
        } = &mut self.groups;
        if deleted.iter().any(|(name, _)| is_offsets_topic(name)) {
            for (index, _) in served.drain() {
                loading.remove(&index);
                created.retain(|c| *c != index);
                coordinator.unload(turn.now, index, out);
            }
        }
        coordinator.on_topics_deleted(turn.now, deleted, out);
    }

    /// A partition of the offsets topic is this shard's: its groups answer
    /// COORDINATOR_LOAD_IN_PROGRESS until it is read. One that was not there when this process
    /// started is new, and serves at once: what it appends waits for its log.
    pub(crate) fn announce_groups(&mut self, tp: TopicPartition) {
        if self.groups.served.insert(tp.partition, tp).is_none() {
            self.groups.loading.insert(tp.partition);
            self.groups.coordinator.begin_load(tp.partition);
            if self.image_followed {
                self.groups.created.push(tp.partition);
            }
        }
    }

    /// The directory of a partition of the offsets topic has failed: its groups have no coordinator
    /// here any more.
    pub(crate) fn unload_groups(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Groups {
            coordinator,
            out,
            loads,
            served,
            loading,
            created,
            ..
        } = &mut self.groups;
        if served.get(&tp.partition) == Some(&tp) {
            served.remove(&tp.partition);
            loading.remove(&tp.partition);
            created.retain(|c| *c != tp.partition);
            loads.retain(|_, load| load.tp != tp);
            coordinator.unload(turn.now, tp.partition, out);
        }
    }

    /// All groups of a partition are known: it serves.
    fn groups_known(&mut self, turn: &mut Turn<'_>, index: PartitionIndex) {
        let Groups {
            coordinator,
            out,
            loading,
            ..
        } = &mut self.groups;
        if loading.remove(&index) {
            coordinator.finish_load(turn.now, index, out);
        }
    }

    /// Its log is loaded: reads the groups from it, unless they are known (it is new, or was loaded
    /// again after a failed write). What the coordinator has appended meanwhile is staged.
    pub(crate) fn load_groups(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        self.stage_waiting(turn, tp);
        let Some(p) = self.partitions.get(&tp) else {
            return;
        };
        let next_offset = p.log().map_or(0, |log| log.log_start_offset().0);
        if !self.groups.loading.contains(&tp.partition) {
            return;
        }
        let load = self.next_id();
        self.groups
            .loads
            .insert(load, GroupLoad { tp, next_offset });
        self.read_groups(turn, load);
    }

    /// Reads the next chunk, or ends the load.
    fn read_groups(&mut self, turn: &mut Turn<'_>, load: u64) {
        let Some(GroupLoad { tp, next_offset }) = self.groups.loads.get(&load) else {
            return;
        };
        let (tp, offset) = (*tp, *next_offset);
        let end = self.partitions.get(&tp).map_or(-1, |p| p.high_watermark());
        if offset >= end {
            self.groups.loads.remove(&load);
            self.groups_known(turn, tp.partition);
            return;
        }
        let op = PartitionOp::Read(ReadOp {
            offset,
            max_bytes: LOAD_CHUNK_BYTES,
            min_one: true,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            committed_only: false,
        });
        self.send_op(turn, self.id, OF_GROUPS | load, 0, Op::Partition(tp, op));
    }

    /// A chunk's place is known: bytes in memory, or a range of a file to be read.
    pub(crate) fn take_group_read(&mut self, turn: &mut Turn<'_>, load: u64, result: ReadResult) {
        if !self.groups.loads.contains_key(&load) {
            self.take_other_read(turn, load, result);
            return;
        }
        if result.error.is_none() && result.data.is_empty() {
            // Compaction has left nothing up to the end.
            if let Some(load) = self.groups.loads.remove(&load) {
                self.groups_known(turn, load.tp.partition);
            }
            return;
        }
        if !result.error.is_none() {
            tracing::error!(error = %result.error, "groups could not be read, will try again");
            self.retry_group_load(turn, load);
            return;
        }
        let mut file = None;
        for segment in result.data {
            match segment {
                Segment::Bytes(bytes) => {
                    self.replay_groups(load, &bytes);
                }
                Segment::File(slice) => file = Some(slice),
            }
        }
        match file {
            None => self.read_groups(turn, load),
            Some(FileSlice { file, pos, len }) => {
                let token = self.park(Pending::GroupRead(Box::new(GroupRead { load })));
                turn.fx
                    .push(Effect::Io(token, DiskOp::Read { file, pos, len }));
            }
        }
    }

    /// A chunk has been read.
    pub(crate) fn group_read_done(
        &mut self,
        turn: &mut Turn<'_>,
        read: GroupRead,
        result: Result<IoOutput, IoFailure>,
    ) {
        let bytes = match result {
            Ok(IoOutput::Read(bytes)) => bytes,
            result => {
                let tp = self.groups.loads.get(&read.load).map(|l| l.tp);
                if let (Some(tp), Err(failure)) = (tp, result) {
                    let n = self.dir_of(tp);
                    self.dir_error(turn, n, fault_of(&failure), &failure);
                }
                self.retry_group_load(turn, read.load);
                return;
            }
        };
        if self.replay_groups(read.load, &bytes) {
            self.read_groups(turn, read.load);
        } else {
            tracing::error!("groups could not be read: no whole batch");
            self.retry_group_load(turn, read.load);
        }
    }

    /// Reading groups failed: goes on where it was after a pause, while clients hear
    /// COORDINATOR_LOAD_IN_PROGRESS.
    fn retry_group_load(&mut self, turn: &mut Turn<'_>, load: u64) {
        let at = turn.now.mono.plus_ms(LOAD_RETRY_MS);
        self.timers.arm(at, TimerKey::GroupLoad(load));
    }

    /// The pause after a failed read is over.
    pub(crate) fn group_load_due(&mut self, turn: &mut Turn<'_>, load: u64) {
        let tp = self.groups.loads.get(&load).map(|l| l.tp);
        if tp.is_some_and(|tp| self.partitions.get(&tp).is_some()) {
            self.read_groups(turn, load);
        } else {
            self.groups.loads.remove(&load);
        }
    }

    /// Replays the whole batches of a chunk; false if there was none.
    fn replay_groups(&mut self, load: u64, bytes: &Bytes) -> bool {
        let Groups {
            coordinator, loads, ..
        } = &mut self.groups;
        let Some(load) = loads.get_mut(&load) else {
            return false;
        };
        let partition = load.tp.partition;
        let mut moved = false;
        for batch in flumen_log::batch::Batches::new(bytes) {
            let Ok(batch) = batch else {
                break;
            };
            let header = batch.header;
            if header.last_offset() >= load.next_offset
                && let Ok(section) = batch.unfold(flumen_base::limits::DECOMPRESSED_BATCH_BYTES_MAX)
            {
                for record in flumen_log::batch::Records::new(&section, header.count()) {
                    let Ok(record) = record else {
                        break;
                    };
                    let replayed = replay_group_record(coordinator, partition, &header, &record);
                    if let Err(error) = replayed {
                        tracing::warn!(partition, %error, "a record of {OFFSETS_TOPIC} is skipped");
                    }
                }
            }
            load.next_offset = load.next_offset.max(header.last_offset() + 1);
            moved = true;
        }
        moved
    }
}
