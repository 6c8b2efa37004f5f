//! The group coordinator of one shard: requests go in, its appends go to the shard's partitions of
//! `__consumer_offsets`, and after a start its groups are read back from there.

use crate::Shard;
use crate::dirs::NO_ROOM;
use crate::group_metadata::{ImageTopics, with_consumer_settings};
use crate::group_ops::append_error;
use crate::homes::Homes;
use crate::incoming::{GROUP_SEQUENCE, coordinator_batch};
use crate::ops::{GroupResult, MarkerFor, OpFrom, OpResult};
use crate::partition::AckTo;
use crate::replay::ReplayTo;
use crate::request::{Reply, Request};
use crate::streams_topics::StreamsTopics;
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::{
    ErrorCode, IdMap, Mono, Now, PartitionIndex, Prng, ShardId, TopicPartition, Uuid,
};
use flumen_coordinator::{
    Append, CoordinatorConfig, GroupCoordinator, Out, ReplyToken, RequestContext as Context,
    WriteToken, partition_for,
};
use flumen_settings::BrokerConfig;

/// The topic that groups live in.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// How much longer than its time a join phase lasts, for members that are on their way.
const JOIN_GRACE_MS: i32 = 25;

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
    /// Partitions that the coordinator serves or loads.
    homes: Homes,
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

impl Groups {
    /// None yet.
    pub(crate) fn new(broker: &BrokerConfig, prng: Prng) -> Self {
        Self {
            coordinator: GroupCoordinator::new(config_of(broker), prng),
            out: Out::default(),
            waiting: IdMap::default(),
            homes: Homes::default(),
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
        self.home_in(OFFSETS_TOPIC, |count| partition_for(group, count))
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
        if self.groups.homes.has_created() || !self.groups.is_quiet() {
            self.carry_groups(turn);
        }
    }

    #[inline(never)]
    fn carry_groups(&mut self, turn: &mut Turn<'_>) {
        for index in self.groups.homes.take_created() {
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
        let tp = self.groups.homes.get(append.partition);
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
            Some(error) => coordinator.append_failed(turn.now, token, append_error(error), out),
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
            homes,
            ..
        } = &mut self.groups;
        if deleted.iter().any(|(name, _)| is_offsets_topic(name)) {
            for tp in homes.all() {
                homes.remove(tp);
                coordinator.unload(turn.now, tp.partition, out);
            }
        }
        coordinator.on_topics_deleted(turn.now, deleted, out);
    }

    /// A partition of the offsets topic is this shard's: its groups answer
    /// COORDINATOR_LOAD_IN_PROGRESS until it is read. One that was not there when this process
    /// started is new, and serves at once: what it appends waits for its log.
    pub(crate) fn announce_groups(&mut self, tp: TopicPartition) {
        if self.groups.homes.add(tp, self.image_followed) {
            self.groups.coordinator.begin_load(tp.partition);
        }
    }

    /// The directory of a partition of the offsets topic has failed: its groups have no coordinator
    /// here any more.
    pub(crate) fn unload_groups(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        let Groups {
            coordinator,
            out,
            homes,
            ..
        } = &mut self.groups;
        if homes.remove(tp) {
            coordinator.unload(turn.now, tp.partition, out);
            self.replays.retain(|_, replay| replay.tp != tp);
        }
    }

    /// All groups of a partition are known: it serves.
    pub(crate) fn groups_known(&mut self, turn: &mut Turn<'_>, index: PartitionIndex) {
        let Groups {
            coordinator,
            out,
            homes,
            ..
        } = &mut self.groups;
        if homes.known(index) {
            coordinator.finish_load(turn.now, index, out);
        }
    }

    /// Its log is loaded: reads the groups from it, unless they are known (it is new, or was loaded
    /// again after a failed write). What the coordinator has appended meanwhile is staged.
    pub(crate) fn load_groups(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        self.stage_waiting(turn, tp);
        if self.groups.homes.is_loading(tp.partition) {
            self.begin_replay(turn, tp, ReplayTo::Groups);
        }
    }
}
