//! The home of stored share states on one shard (KIP-932): those whose partitions of
//! `__share_group_state` it owns. Operations come from share partitions, from share groups and from
//! requests; what they change is appended to the partition and holds when it is written.
//!
//! A record is made from the state before it, so the operations on one share partition are carried
//! out one after the other. Records below the oldest snapshot that counts are pruned.

use crate::Shard;
use crate::dirs::NO_ROOM;
use crate::group_ops::append_error;
use crate::homes::Homes;
use crate::incoming::{GROUP_SEQUENCE, Incoming};
use crate::ops::{Op, OpFrom, OpResult};
use crate::partition::AckTo;
use crate::replay::ReplayTo;
use crate::timers::TimerKey;
use crate::turn::Turn;
use flumen_base::limits::SHARE_STATE_OPS_WAITING_MAX;
use flumen_base::{ErrorCode, IdMap, Offset, PartitionIndex, ShardId, TopicPartition, Uuid};
use flumen_coordinator::share::{ShareKey, ShareState, ShareStates, ShareWrite, Stored};
use flumen_coordinator::{Record, ReplayError};
use flumen_log::{BatchBuilder, TxnContext};
use flumen_settings::BrokerConfig;
use std::collections::{BTreeMap, VecDeque};

/// The topic that share states live in.
pub(crate) const SHARE_STATE_TOPIC: &str = "__share_group_state";

/// An operation on the stored state of one share partition.
#[derive(Debug)]
pub(crate) struct ShareStateOp {
    pub(crate) key: ShareKey,
    pub(crate) deed: ShareStateDeed,
    pub(crate) who: ShareStateFor,
}

/// What to do with it.
#[derive(Debug)]
pub(crate) enum ShareStateDeed {
    Initialize { state_epoch: i32, start_offset: i64 },
    Read { leader_epoch: i32 },
    Write(ShareWrite),
    Delete,
    Summary,
}

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShareStateFor {
    /// A request: [`OpResult::ShareState`].
    Request,
    /// A share partition of the shard that asks: [`OpResult::ShareStored`].
    Partition,
    /// The group coordinator of the shard that asks: [`OpResult::ShareCalled`].
    Group,
    /// Nobody.
    Nobody,
}

/// What is told of a state; nothing but defaults where something was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShareStateAnswer {
    pub(crate) state_epoch: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) start_offset: i64,
    pub(crate) delivery_complete_count: i32,
    pub(crate) batches: Vec<Stored>,
}

/// What became of an operation.
pub(crate) type ShareStateResult = Result<Box<ShareStateAnswer>, ErrorCode>;

type Waiting = (OpFrom, Box<ShareStateOp>);

/// A record that is being written.
struct Writing {
    key: ShareKey,
    partition: PartitionIndex,
    record: Record,
    from: OpFrom,
    who: ShareStateFor,
    answer: Box<ShareStateAnswer>,
}

/// The states and who waits for them.
pub(crate) struct ShareStatesHome {
    states: ShareStates,
    homes: Homes,
    /// Operations that wait for a partition to be known.
    early: Vec<Waiting>,
    /// Operations behind a record that is being written.
    busy: BTreeMap<ShareKey, VecDeque<Waiting>>,
    /// How many of these there are.
    waiting: usize,
    writing: IdMap<u64, Writing>,
    /// Where the latest snapshot of each state is, by partition.
    snapshots: BTreeMap<PartitionIndex, BTreeMap<ShareKey, i64>>,
    prunes: bool,
}

impl ShareStatesHome {
    /// None yet.
    pub(crate) fn new(broker: &BrokerConfig) -> Self {
        let updates = u32::try_from(broker.share.snapshot_update_records).unwrap_or(0);
        Self {
            states: ShareStates::new(updates),
            homes: Homes::default(),
            early: Vec::new(),
            busy: BTreeMap::new(),
            waiting: 0,
            writing: IdMap::default(),
            snapshots: BTreeMap::new(),
            prunes: false,
        }
    }

    /// Takes a record of the topic, of a batch at this offset.
    pub(crate) fn replay(
        &mut self,
        partition: PartitionIndex,
        at: i64,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ReplayError> {
        self.states.replay(key, value)?;
        if let Some(of) = ShareStates::snapshot_of(key)? {
            let snapshots = self.snapshots.entry(partition).or_default();
            match value {
                Some(_) => snapshots.insert(of, at),
                None => snapshots.remove(&of),
            };
        }
        Ok(())
    }
}

fn answer_of(state: &ShareState, with_batches: bool) -> Box<ShareStateAnswer> {
    Box::new(ShareStateAnswer {
        state_epoch: state.state_epoch,
        leader_epoch: state.leader_epoch,
        start_offset: state.start_offset,
        delivery_complete_count: state.delivery_complete_count,
        batches: match with_batches {
            true => state.batches.clone(),
            false => Vec::new(),
        },
    })
}

/// What is said of a state that there is not.
fn unknown_state() -> Box<ShareStateAnswer> {
    Box::new(ShareStateAnswer {
        start_offset: -1,
        delivery_complete_count: -1,
        ..ShareStateAnswer::default()
    })
}

impl Shard {
    /// Partitions of the topic of share states; `None` before it is made.
    fn share_state_partitions(&self) -> Option<i32> {
        let topic = self.image.topic(SHARE_STATE_TOPIC)?;
        i32::try_from(topic.partitions.len()).ok()
    }

    /// The shard that has a state; NOT_COORDINATOR until the topic exists.
    pub(crate) fn share_state_owner(&self, key: &ShareKey) -> Result<ShardId, ErrorCode> {
        self.home_in(SHARE_STATE_TOPIC, |count| key.state_partition(count))
    }

    /// Sends an operation to the shard that has the state; refused at once where there is none.
    pub(crate) fn send_share_state(
        &mut self,
        turn: &mut Turn<'_>,
        (gather, index): (u64, u32),
        op: ShareStateOp,
    ) {
        let answer = match self.broker.share.stores_state {
            false => Ok(unknown_state()),
            true => match self.share_state_owner(&op.key) {
                Ok(owner) => {
                    let op = Op::ShareState(Box::new(op));
                    return self.send_op(turn, owner, gather, index, op);
                }
                Err(error) => Err(error),
            },
        };
        let from = OpFrom {
            shard: self.id,
            gather,
            index,
        };
        self.answer_share_state(from, op.who, answer);
    }

    fn answer_share_state(&mut self, to: OpFrom, who: ShareStateFor, result: ShareStateResult) {
        let result = match who {
            ShareStateFor::Request => OpResult::ShareState(result),
            ShareStateFor::Partition => OpResult::ShareStored(result),
            ShareStateFor::Group => OpResult::ShareCalled(result.err().unwrap_or(ErrorCode::None)),
            ShareStateFor::Nobody => return,
        };
        self.outbox.result(to, result);
    }

    /// Op::ShareState of a shard.
    pub(crate) fn run_share_state_op(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        op: Box<ShareStateOp>,
    ) {
        let count = self.share_state_partitions().unwrap_or(0);
        let index = op.key.state_partition(count);
        let home = &mut self.share_states;
        let refusal = if count == 0 || home.homes.get(index).is_none() {
            ErrorCode::NotCoordinator
        } else if home.homes.is_loading(index) {
            if op.who != ShareStateFor::Request && home.early.len() < SHARE_STATE_OPS_WAITING_MAX {
                home.early.push((from, op));
                return;
            }
            ErrorCode::CoordinatorLoadInProgress
        } else if let Some(queue) = home.busy.get_mut(&op.key) {
            if home.waiting < SHARE_STATE_OPS_WAITING_MAX {
                home.waiting += 1;
                queue.push_back((from, op));
                return;
            }
            ErrorCode::CoordinatorNotAvailable
        } else {
            return self.do_share_state(turn, index, (from, op));
        };
        self.answer_share_state(from, op.who, Err(refusal));
    }

    /// Carries an operation out, or begins to.
    fn do_share_state(
        &mut self,
        turn: &mut Turn<'_>,
        partition: PartitionIndex,
        (from, op): Waiting,
    ) {
        let ShareStateOp { key, deed, who } = *op;
        match self.share_state_record(turn.now.wall_ms, &key, &deed) {
            Err(error) => self.answer_share_state(from, who, Err(error)),
            Ok((answer, None)) => self.answer_share_state(from, who, Ok(answer)),
            Ok((answer, Some(record))) => {
                let writing = Writing {
                    key,
                    partition,
                    record,
                    from,
                    who,
                    answer,
                };
                self.write_share_state(turn, writing);
            }
        }
    }

    /// What an operation is answered with, and the record that has to be written first.
    fn share_state_record(
        &self,
        now_ms: i64,
        key: &ShareKey,
        deed: &ShareStateDeed,
    ) -> Result<(Box<ShareStateAnswer>, Option<Record>), ErrorCode> {
        let states = &self.share_states.states;
        if key.partition < 0 {
            return Err(ErrorCode::InvalidRequest);
        }
        let there = || match self.image.topic_by_id(&key.topic) {
            Some(topic) if topic.partition(key.partition).is_some() => Ok(()),
            _ => Err(ErrorCode::UnknownTopicOrPartition),
        };
        let done = Box::<ShareStateAnswer>::default;
        match deed {
            ShareStateDeed::Initialize {
                state_epoch,
                start_offset,
            } => {
                let record = states.initialize(now_ms, key, *state_epoch, *start_offset)?;
                there()?;
                Ok((done(), Some(record)))
            }
            ShareStateDeed::Read { leader_epoch } => {
                let (state, record) = states.read(now_ms, key, *leader_epoch)?;
                there()?;
                Ok((answer_of(state, true), record))
            }
            ShareStateDeed::Write(write) => {
                let record = states.write(now_ms, key, write)?;
                there()?;
                Ok((done(), Some(record)))
            }
            ShareStateDeed::Delete => Ok((done(), states.delete(key)?)),
            ShareStateDeed::Summary => {
                there()?;
                let state = states.get(key).map(|state| answer_of(state, false));
                Ok((state.unwrap_or_else(unknown_state), None))
            }
        }
    }

    fn write_share_state(&mut self, turn: &mut Turn<'_>, writing: Writing) {
        let token = self.next_id();
        let tp = self.share_states.homes.get(writing.partition);
        // As batches of group coordinators are: one program writes both in Kafka.
        let mut batch = BatchBuilder::new().producer(-1, -1, GROUP_SEQUENCE);
        let record = &writing.record;
        batch.push(turn.now.wall_ms, Some(&record.key), record.value.as_deref());
        self.share_states
            .busy
            .entry(writing.key.clone())
            .or_default();
        self.share_states.writing.insert(token, writing);
        match (tp, batch.build()) {
            (Some(tp), _) if self.dirs.is_full(self.dir_of(tp)) => {
                self.share_state_written(turn, token, Err(NO_ROOM));
            }
            (Some(tp), Some(batch)) => {
                let incoming = Incoming::coordinated(batch, TxnContext::default());
                self.append_batch(turn, tp, incoming, AckTo::ShareState(token));
            }
            _ => self.share_state_written(turn, token, Err(ErrorCode::NotCoordinator)),
        }
    }

    /// A record is written at this offset, or not: the next operations on its share partition are
    /// carried out.
    pub(crate) fn share_state_written(
        &mut self,
        turn: &mut Turn<'_>,
        token: u64,
        written: Result<i64, ErrorCode>,
    ) {
        let Some(writing) = self.share_states.writing.remove(&token) else {
            return;
        };
        let Writing {
            key,
            partition,
            record,
            from,
            who,
            answer,
        } = writing;
        let result = match written {
            Ok(at) => {
                let value = record.value.as_deref();
                let replayed = self.share_states.replay(partition, at, &record.key, value);
                replayed.map(|()| answer).map_err(|error| {
                    tracing::error!(%error, "a record of our own can't be read");
                    ErrorCode::UnknownServerError
                })
            }
            Err(error) => Err(append_error(error)),
        };
        self.answer_share_state(from, who, result);
        loop {
            let home = &mut self.share_states;
            let Some(queue) = home.busy.get_mut(&key) else {
                return;
            };
            let Some(next) = queue.pop_front() else {
                home.busy.remove(&key);
                return;
            };
            home.waiting -= 1;
            let before = home.writing.len();
            self.do_share_state(turn, partition, next);
            if self.share_states.writing.len() > before {
                return; // it goes on when that is written
            }
        }
    }

    // ---- where they are ----

    /// A partition of the topic is this shard's. One that was not there when this process started
    /// is new, and serves at once.
    pub(crate) fn announce_share_states(&mut self, tp: TopicPartition) {
        self.share_states.homes.add(tp, self.image_followed);
    }

    /// Its log is loaded: reads the states from it, unless they are known.
    pub(crate) fn load_share_states(&mut self, turn: &mut Turn<'_>, tp: TopicPartition) {
        self.stage_waiting(turn, tp);
        if self.share_states.homes.is_loading(tp.partition) {
            self.begin_replay(turn, tp, ReplayTo::ShareStates);
        }
    }

    /// All that a partition holds is known: it serves.
    pub(crate) fn share_states_known(&mut self, turn: &mut Turn<'_>, index: PartitionIndex) {
        if !self.share_states.homes.known(index) {
            return;
        }
        for (from, op) in std::mem::take(&mut self.share_states.early) {
            self.run_share_state_op(turn, from, op);
        }
        if !std::mem::replace(&mut self.share_states.prunes, true) {
            self.arm_prune(turn);
        }
    }

    /// At the end of a turn: partitions that are new serve.
    pub(crate) fn poll_share_states(&mut self, turn: &mut Turn<'_>) {
        if !self.share_states.homes.has_created() {
            return;
        }
        for index in self.share_states.homes.take_created() {
            self.share_states_known(turn, index);
        }
    }

    /// A partition of the topic has no home here any more.
    pub(crate) fn unload_share_states(&mut self, tp: TopicPartition) {
        let count = self.share_state_partitions().unwrap_or(tp.partition + 1);
        let home = &mut self.share_states;
        if !home.homes.remove(tp) {
            return;
        }
        home.snapshots.remove(&tp.partition);
        home.states.unload(tp.partition, count);
        self.replays.retain(|_, replay| replay.tp != tp);
        let mut refused = Vec::new();
        let of = |key: &ShareKey| key.state_partition(count) == tp.partition;
        for (from, op) in std::mem::take(&mut home.early) {
            match of(&op.key) {
                true => refused.push((from, op.who)),
                false => home.early.push((from, op)),
            }
        }
        for queue in home
            .busy
            .iter_mut()
            .filter(|(key, _)| of(key))
            .map(|(_, q)| q)
        {
            home.waiting -= queue.len();
            refused.extend(queue.drain(..).map(|(from, op)| (from, op.who)));
        }
        for (from, who) in refused {
            self.answer_share_state(from, who, Err(ErrorCode::NotCoordinator));
        }
    }

    /// The topic of share states is gone, all of it.
    pub(crate) fn forget_share_states(&mut self) {
        for tp in self.share_states.homes.all() {
            self.unload_share_states(tp);
        }
    }

    /// Topics are gone: their states go.
    pub(crate) fn share_states_of_deleted(&mut self, turn: &mut Turn<'_>, gone: &[(&str, Uuid)]) {
        let of = |id: Uuid| gone.iter().any(|(_, gone)| *gone == id);
        for key in self.share_states.states.of_topics(of) {
            let op = ShareStateOp {
                key,
                deed: ShareStateDeed::Delete,
                who: ShareStateFor::Nobody,
            };
            let from = OpFrom {
                shard: self.id,
                gather: 0,
                index: 0,
            };
            self.run_share_state_op(turn, from, Box::new(op));
        }
    }

    // ---- pruning ----

    fn arm_prune(&mut self, turn: &Turn<'_>) {
        let interval_ms = self.broker.share.state_topic_prune_interval_ms;
        let at = turn.now.mono.plus_ms(interval_ms.into());
        self.timers.arm(at, TimerKey::PruneShareStates);
    }

    /// Records that no state needs any more are deleted.
    pub(crate) fn prune_share_states(&mut self, turn: &mut Turn<'_>) {
        for tp in self.share_states.homes.all() {
            if self.share_states.homes.is_loading(tp.partition) {
                continue;
            }
            let snapshots = self.share_states.snapshots.get(&tp.partition);
            let oldest = snapshots.and_then(|s| s.values().min().copied());
            let log = self.partitions.map.get_mut(&tp).and_then(|p| p.log_mut());
            if let Some(log) = log {
                let below = oldest.map_or(log.written_end_offset(), Offset);
                if below > log.log_start_offset() {
                    log.advance_log_start(below);
                }
            }
        }
        self.arm_prune(turn);
    }
}
