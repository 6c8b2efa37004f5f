//! The transaction coordinator of one shard: requests go in, its appends go to the shard's
//! partitions of `__transaction_state`, its markers to the partitions of transactions, and after a
//! start its state is read back.

use crate::Shard;
use crate::dirs::NO_ROOM;
use crate::homes::Homes;
use crate::incoming::{TXN_SEQUENCE, coordinator_batch, marker_batch};
use crate::ops::{FOR_TXNS, MarkerFor, Op, OpFrom, OpResult, PartitionOp, TxnOp};
use crate::partition::AckTo;
use crate::replay::ReplayTo;
use crate::request::Reply;
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::{ErrorCode, IdMap, Mono, PartitionIndex, ShardId, TopicPartition};
use flumen_coordinator::txn::{Markers, TransactionCoordinator, TxnConfig, TxnOut, TxnReply};
use flumen_coordinator::{Append, ReplyToken, TxnMarker, WriteToken, partition_for};
use flumen_quorum::Image;
use flumen_quorum::controller::TRANSACTION_VERSION_FEATURE;
use flumen_settings::BrokerConfig;
use flumen_wire::Message;
use flumen_wire::messages::ListTransactionsRequest;

/// The topic that transactions live in.
pub(crate) const TXN_TOPIC: &str = "__transaction_state";

/// Whether a topic is the one that transactions live in.
pub(crate) fn is_txn_topic(name: &str) -> bool {
    name == TXN_TOPIC
}

/// The coordinator and who waits for it.
pub(crate) struct Txns {
    pub(crate) coordinator: TransactionCoordinator,
    pub(crate) out: TxnOut,
    waiting: IdMap<ReplyToken, WaitingFor>,
    homes: Homes,
    /// Markers on their way, by number.
    marking: IdMap<u64, Marking>,
    timer: Option<Mono>,
}

/// Markers on their way, and how many of them are not answered.
struct Marking {
    markers: Markers,
    left: usize,
}

enum WaitingFor {
    Request(Reply),
    Op(OpFrom),
}

impl Txns {
    /// None yet.
    pub(crate) fn new(broker: &BrokerConfig, image: &Image) -> Self {
        Self {
            coordinator: TransactionCoordinator::new(config_of(broker, image)),
            out: TxnOut::default(),
            waiting: IdMap::default(),
            homes: Homes::default(),
            marking: IdMap::default(),
            timer: None,
        }
    }
}

fn config_of(broker: &BrokerConfig, image: &Image) -> TxnConfig {
    let settings = &broker.transactions;
    let partitions = image.topic(TXN_TOPIC).map(|t| t.partitions.len());
    let partitions = partitions.and_then(|n| i32::try_from(n).ok());
    TxnConfig {
        max_timeout_ms: settings.max_timeout_ms,
        id_expiration_ms: i64::from(settings.transactional_id_expiration_ms),
        abort_interval_ms: i64::from(settings.abort_timed_out_cleanup_interval_ms),
        expiry_interval_ms: i64::from(settings.remove_expired_cleanup_interval_ms),
        num_partitions: partitions.unwrap_or(settings.state_log_num_partitions),
        transaction_version: image.feature(TRANSACTION_VERSION_FEATURE),
    }
}

impl Shard {
    /// The shard that coordinates a transactional id; NOT_COORDINATOR until the topic exists, so
    /// that clients ask for the coordinator, which creates it.
    pub(crate) fn txn_coordinator_of(&self, id: &str) -> Result<ShardId, ErrorCode> {
        self.home_in(TXN_TOPIC, |count| partition_for(id, count))
    }

    /// Runs `call` for a request whose answer comes out of the coordinator.
    pub(crate) fn ask_txns(
        &mut self,
        reply: Reply,
        call: impl FnOnce(&mut TransactionCoordinator, ReplyToken, &mut TxnOut),
    ) {
        let token = ReplyToken(self.next_id());
        let waiting = WaitingFor::Request(reply);
        self.txns.waiting.insert(token, waiting);
        call(&mut self.txns.coordinator, token, &mut self.txns.out);
    }

    /// Op::Txn of a shard.
    pub(crate) fn run_txn_op(&mut self, turn: &mut Turn<'_>, from: OpFrom, op: TxnOp) {
        let token = ReplyToken(self.next_id());
        let Txns {
            coordinator,
            out,
            waiting,
            ..
        } = &mut self.txns;
        let result = match op {
            TxnOp::Add(request) => {
                waiting.insert(token, WaitingFor::Op(from));
                coordinator.add_partitions(turn.now, token, &request, out);
                return;
            }
            TxnOp::Verify(request) => {
                OpResult::TxnVerified(coordinator.verify_partitions(&request))
            }
            TxnOp::Describe(id) => OpResult::TxnDescribed(Box::new(coordinator.describe(&id))),
            TxnOp::List { body, version } => {
                let Ok(request) = ListTransactionsRequest::decode_exact(&body, version) else {
                    return; // it was decoded where it came from
                };
                OpResult::TxnListed(Box::new(coordinator.list(turn.now, &request)))
            }
        };
        self.outbox.result(from, result);
    }

    /// At the end of a turn: appends, markers and answers of the coordinator leave.
    pub(crate) fn poll_txns(&mut self, turn: &mut Turn<'_>) {
        if self.txns.homes.has_created() || !self.txns.out.is_empty() {
            self.carry_txns(turn);
        }
    }

    /// Not inlined: what it keeps on the stack would be made room for in every turn.
    #[inline(never)]
    fn carry_txns(&mut self, turn: &mut Turn<'_>) {
        for index in self.txns.homes.take_created() {
            self.txns_known(turn, index);
        }
        while !self.txns.out.is_empty() {
            let out = std::mem::take(&mut self.txns.out);
            for append in out.appends {
                self.append_txn_record(turn, append);
            }
            for markers in out.markers {
                self.send_markers(turn, markers);
            }
            for (token, reply) in out.replies {
                self.txn_replied(turn, token, reply);
            }
            if out.wants_producer_ids {
                self.send_op(turn, ShardId::FIRST, FOR_TXNS, 0, Op::ProducerIds);
            }
        }
    }

    fn append_txn_record(&mut self, turn: &mut Turn<'_>, append: Append) {
        let tp = self.txns.homes.get(append.partition);
        if tp.is_some_and(|tp| self.dirs.is_full(self.dir_of(tp))) {
            self.txn_append_done(turn, append.write_token, NO_ROOM);
            return;
        }
        match (tp, coordinator_batch(turn, &append, TXN_SEQUENCE)) {
            (Some(tp), Some(incoming)) => {
                self.append_batch(turn, tp, incoming, AckTo::Txns(append.write_token));
            }
            _ => self.txn_append_done(turn, append.write_token, ErrorCode::NotCoordinator),
        }
    }

    /// An append of the coordinator is written, or failed.
    pub(crate) fn txn_append_done(
        &mut self,
        turn: &mut Turn<'_>,
        token: WriteToken,
        error: ErrorCode,
    ) {
        let Txns {
            coordinator, out, ..
        } = &mut self.txns;
        match error {
            ErrorCode::None => coordinator.commit(turn.now, token, out),
            error => coordinator.append_failed(turn.now, token, error, out),
        }
    }

    fn txn_replied(&mut self, turn: &mut Turn<'_>, token: ReplyToken, answer: TxnReply) {
        match (self.txns.waiting.remove(&token), answer) {
            (Some(WaitingFor::Request(reply)), TxnReply::InitProducerId(r)) => {
                self.reply(turn, reply, &r);
            }
            (Some(WaitingFor::Request(reply)), TxnReply::EndTxn(r)) => {
                self.reply(turn, reply, &r);
            }
            (Some(WaitingFor::Op(from)), TxnReply::Added(error)) => {
                self.outbox.result(from, OpResult::TxnAdded(error));
            }
            (None, _) => {}
            _ => tracing::error!("the transaction coordinator gave an answer of another kind"),
        }
    }

    /// A block of producer ids has come, or none.
    pub(crate) fn txn_ids_came(&mut self, turn: &mut Turn<'_>, result: OpResult) {
        if let OpResult::ProducerIds(block) = result {
            let Txns {
                coordinator, out, ..
            } = &mut self.txns;
            coordinator.producer_ids(turn.now, block, out);
        }
    }

    // ---- markers ----

    /// Sends the markers of a decision to the owners of their partitions. A partition that is gone
    /// needs none.
    fn send_markers(&mut self, turn: &mut Turn<'_>, markers: Markers) {
        let n = self.next_id();
        let marker = TxnMarker {
            producer_id: markers.producer_id,
            producer_epoch: markers.producer_epoch,
            coordinator_epoch: markers.coordinator_epoch,
            commit: markers.commit,
            transaction_version: markers.transaction_version,
        };
        let places = markers.partitions.clone();
        let left = places.len();
        self.txns.marking.insert(n, Marking { markers, left });
        for (index, (topic, partition)) in places.iter().enumerate() {
            let index = index as u32;
            match self.partition_id(topic, *partition) {
                Some(tp) => {
                    let op = PartitionOp::Marker(marker, MarkerFor::Coordinator);
                    self.send_op(turn, self.owner(tp), n, index, Op::Partition(tp, op));
                }
                None => self.txn_marked(turn, n, index, ErrorCode::None),
            }
        }
    }

    /// One of these markers is written, or why not.
    pub(crate) fn txn_marked(&mut self, turn: &mut Turn<'_>, n: u64, index: u32, error: ErrorCode) {
        let Txns {
            coordinator,
            out,
            marking,
            ..
        } = &mut self.txns;
        let Some(Marking { markers, left }) = marking.get_mut(&n) else {
            return;
        };
        let token = markers.token;
        let Some((topic, partition)) = markers.partitions.get(index as usize).cloned() else {
            return;
        };
        *left -= 1;
        if *left == 0 {
            marking.remove(&n);
        }
        let place = (&*topic, partition);
        coordinator.marker_done(turn.now, token, place, error, out);
    }

    /// PartitionOp::Marker: to a partition of groups by way of their coordinator, whose offsets it
    /// decides about.
    pub(crate) fn write_marker(
        &mut self,
        turn: &mut Turn<'_>,
        (from, who): (OpFrom, MarkerFor),
        tp: TopicPartition,
        marker: TxnMarker,
    ) {
        let is_of_groups = self
            .partitions
            .get(&tp)
            .is_some_and(|p| crate::groups::is_offsets_topic(&p.topic));
        if is_of_groups {
            self.complete_group_txn(turn, (from, who), tp.partition, marker);
            return;
        }
        if self.dirs.is_full(self.dir_of(tp)) {
            self.outbox.result(from, who.result(NO_ROOM));
            return;
        }
        let incoming = marker_batch(turn.now.wall_ms, &marker);
        self.append_batch(turn, tp, incoming, AckTo::Marker(from, who));
    }

    // ---- time and settings ----

    /// Deadlines of the coordinator.
    pub(crate) fn tick_txns(&mut self, turn: &mut Turn<'_>) {
        self.txns.timer = None;
        let Txns {
            coordinator, out, ..
        } = &mut self.txns;
        coordinator.tick(turn.now, out);
    }

    /// At the end of a turn: the coordinator's next deadline.
    pub(crate) fn arm_txns(&mut self) {
        let wanted = self.txns.coordinator.next_deadline();
        self.timers
            .rearm(&mut self.txns.timer, wanted, TimerKey::Txns);
    }

    /// The broker's settings or the cluster's features have changed.
    pub(crate) fn reconfigure_txns(&mut self) {
        let config = config_of(&self.broker, &self.image);
        self.txns.coordinator.set_config(config);
    }

    // ---- loading ----

    /// The topic of transactions is gone.
    pub(crate) fn forget_txns(&mut self) {
        let Txns {
            coordinator,
            out,
            homes,
            ..
        } = &mut self.txns;
        for tp in homes.all() {
            homes.remove(tp);
            coordinator.unload(tp.partition, out);
        }
    }

    /// The directory of a partition of the topic has failed: its transactions have no coordinator
    /// here any more.
    pub(crate) fn unload_txns(&mut self, tp: TopicPartition) {
        let Txns {
            coordinator,
            out,
            homes,
            ..
        } = &mut self.txns;
        if homes.remove(tp) {
            coordinator.unload(tp.partition, out);
            self.replays.retain(|_, replay| replay.tp != tp);
        }
    }

    /// A partition of the topic of transactions is this shard's. One that was not there when this
    /// process started is new, and serves at once.
    pub(crate) fn announce_txns(&mut self, tp: TopicPartition, epoch: i32) {
        if self.txns.homes.add(tp, self.image_followed) {
            self.txns.coordinator.begin_load(tp.partition, epoch);
        }
    }

    /// All that a partition holds is known: it serves.
    pub(crate) fn txns_known(&mut self, turn: &mut Turn<'_>, index: PartitionIndex) {
        let Txns {
            coordinator,
            out,
            homes,
            ..
        } = &mut self.txns;
        if homes.known(index) {
            coordinator.finish_load(turn.now, index, out);
        }
    }

    /// Its log is loaded: reads the transactions from it, unless they are known.
    pub(crate) fn load_txns(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        self.stage_waiting(turn, tp);
        if self.txns.homes.is_loading(tp.partition) {
            self.begin_replay(turn, tp, ReplayTo::Txns);
        }
    }
}
