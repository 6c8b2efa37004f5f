//! The transaction coordinator with a log in memory, markers that are written by hand, and time by
//! hand.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

use bytes::Bytes;
use flumen_base::{ErrorCode, Mono, Now, PartitionIndex, Prng};
use flumen_coordinator::txn::{
    Markers, TransactionCoordinator, TxnConfig, TxnOut, TxnPartitions, TxnReply,
};
use flumen_coordinator::{Append, ReplyToken, partition_for};
use flumen_wire::messages::{EndTxnRequest, InitProducerIdRequest, ListTransactionsRequest};
use std::collections::{BTreeMap, VecDeque};

const PARTITIONS: i32 = 3;
const EPOCH: i32 = 5;
const DAY_MS: i64 = 24 * 3600 * 1000;

struct World {
    coordinator: TransactionCoordinator,
    config: TxnConfig,
    now: Now,
    log: Vec<(PartitionIndex, Bytes, Option<Bytes>)>,
    appends: VecDeque<Append>,
    markers: VecDeque<Markers>,
    replies: BTreeMap<ReplyToken, TxnReply>,
    token_last: u64,
    next_id: i64,
    /// Ids that are given at a time; 0 holds them back.
    block: i32,
    auto_commit: bool,
    auto_mark: bool,
}

type Told = Result<(i64, i16), ErrorCode>;

fn told(error: i16, id: i64, epoch: i16) -> Told {
    match ErrorCode::from_i16(error).unwrap() {
        ErrorCode::None => Ok((id, epoch)),
        error => {
            assert_eq!((id, epoch), (-1, -1));
            Err(error)
        }
    }
}

impl World {
    fn new(transaction_version: i16) -> Self {
        let config = TxnConfig {
            num_partitions: PARTITIONS,
            transaction_version,
            ..TxnConfig::default()
        };
        let now = Now {
            mono: Mono(1_000_000_000),
            wall_ms: 1_700_000_000_000,
        };
        let mut world = Self {
            coordinator: TransactionCoordinator::new(config.clone()),
            config,
            now,
            log: Vec::new(),
            appends: VecDeque::new(),
            markers: VecDeque::new(),
            replies: BTreeMap::new(),
            token_last: 0,
            next_id: 1000,
            block: 1000,
            auto_commit: true,
            auto_mark: true,
        };
        world.restart();
        world
    }

    /// As a restart would bring it back from the first `records` records.
    fn replayed(&self, records: usize, out: &mut TxnOut) -> TransactionCoordinator {
        let mut coordinator = TransactionCoordinator::new(self.config.clone());
        (0..PARTITIONS).for_each(|p| coordinator.begin_load(p, EPOCH));
        for (p, key, value) in &self.log[..records] {
            coordinator.replay(*p, key, value.as_deref()).unwrap();
        }
        (0..PARTITIONS).for_each(|p| coordinator.finish_load(self.now, p, out));
        coordinator
    }

    fn restart(&mut self) {
        self.appends.clear();
        self.markers.clear();
        let mut out = TxnOut::default();
        self.coordinator = self.replayed(self.log.len(), &mut out);
        self.drain(out);
    }

    fn drain(&mut self, out: TxnOut) {
        for (token, reply) in out.replies {
            let twice = self.replies.insert(token, reply);
            assert!(twice.is_none(), "{token:?} answered twice");
        }
        self.appends.extend(out.appends);
        self.markers.extend(out.markers);
        if out.wants_producer_ids && self.block > 0 {
            self.give_ids();
        }
        while self.auto_commit && !self.appends.is_empty() {
            self.commit_next();
        }
        while self.auto_mark && !self.markers.is_empty() {
            self.mark_next(ErrorCode::None);
        }
    }

    fn run(&mut self, call: impl FnOnce(&mut TransactionCoordinator, Now, &mut TxnOut)) {
        let mut out = TxnOut::default();
        call(&mut self.coordinator, self.now, &mut out);
        self.drain(out);
    }

    fn give_ids(&mut self) {
        let (first, len) = (self.next_id, self.block.max(1));
        self.next_id += i64::from(len);
        self.run(|c, now, out| c.producer_ids(now, Ok((first, len)), out));
    }

    fn commit_next(&mut self) {
        let append = self.appends.pop_front().unwrap();
        for r in append.records {
            self.log.push((append.partition, r.key, r.value));
        }
        self.run(|c, now, out| c.commit(now, append.write_token, out));
    }

    fn fail_next(&mut self, error: ErrorCode) {
        let append = self.appends.pop_front().unwrap();
        self.run(|c, now, out| c.append_failed(now, append.write_token, error, out));
    }

    fn mark_next(&mut self, error: ErrorCode) -> Markers {
        let markers = self.markers.pop_front().unwrap();
        for (topic, index) in &markers.partitions {
            let place = (&**topic, *index);
            self.run(|c, now, out| c.marker_done(now, markers.token, place, error, out));
        }
        markers
    }

    fn advance_ms(&mut self, ms: i64) {
        let end = self.now.mono.plus_ms(ms);
        let start = self.now;
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            self.now.mono = at.max(self.now.mono);
            let passed = self.now.mono.nanos_since(start.mono) / 1_000_000;
            self.now.wall_ms = start.wall_ms + passed as i64;
            self.run(|c, now, out| c.tick(now, out));
        }
        self.now.mono = end;
        self.now.wall_ms = start.wall_ms + ms;
    }

    fn token(&mut self) -> ReplyToken {
        self.token_last += 1;
        ReplyToken(self.token_last)
    }

    fn ask_init(&mut self, id: &str, expected: (i64, i16), version: i16) -> ReplyToken {
        let token = self.token();
        let request = InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: 60_000,
            producer_id: expected.0,
            producer_epoch: expected.1,
            ..Default::default()
        };
        self.run(|c, now, out| c.init_producer_id(now, token, &request, version, out));
        token
    }

    fn inited(&mut self, token: ReplyToken) -> Told {
        match self.replies.remove(&token) {
            Some(TxnReply::InitProducerId(r)) => {
                told(r.error_code, r.producer_id, r.producer_epoch)
            }
            other => panic!("{other:?}"),
        }
    }

    fn init(&mut self, id: &str) -> Told {
        self.init_from(id, (-1, -1))
    }

    fn init_from(&mut self, id: &str, expected: (i64, i16)) -> Told {
        let token = self.ask_init(id, expected, 5);
        self.inited(token)
    }

    fn ask_add(&mut self, id: &str, who: (i64, i16), at: (&str, i32), bumps: bool) -> ReplyToken {
        let token = self.token();
        let request = partitions(id, who, at, bumps);
        self.run(|c, now, out| c.add_partitions(now, token, &request, out));
        token
    }

    fn added(&mut self, token: ReplyToken) -> ErrorCode {
        match self.replies.remove(&token) {
            Some(TxnReply::Added(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    fn add(&mut self, id: &str, who: (i64, i16), at: (&str, i32)) -> ErrorCode {
        let token = self.ask_add(id, who, at, true);
        self.added(token)
    }

    fn ask_end(&mut self, id: &str, who: (i64, i16), commit: bool, version: i16) -> ReplyToken {
        let token = self.token();
        let request = EndTxnRequest {
            transactional_id: id.into(),
            producer_id: who.0,
            producer_epoch: who.1,
            committed: commit,
        };
        self.run(|c, now, out| c.end_txn(now, token, &request, version, out));
        token
    }

    fn ended(&mut self, token: ReplyToken) -> Told {
        match self.replies.remove(&token) {
            Some(TxnReply::EndTxn(r)) => {
                let error = ErrorCode::from_i16(r.error_code).unwrap();
                match error {
                    ErrorCode::None => Ok((r.producer_id, r.producer_epoch)),
                    error => Err(error),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, id: &str, who: (i64, i16), commit: bool, version: i16) -> Told {
        let token = self.ask_end(id, who, commit, version);
        self.ended(token)
    }

    fn state(&self, id: &str) -> String {
        let d = self.coordinator.describe(id);
        match d.error_code {
            0 => d.transaction_state.to_string(),
            error => format!("{error}"),
        }
    }

    /// Brings an id to this epoch, which takes its time.
    fn with_epoch(&mut self, id: &str, epoch: i16) -> (i64, i16) {
        let (pid, mut now) = self.init(id).unwrap();
        while now < epoch {
            now = self.init(id).unwrap().1;
        }
        (pid, now)
    }
}

fn partitions(
    id: &str,
    who: (i64, i16),
    (topic, index): (&str, i32),
    bumps: bool,
) -> TxnPartitions {
    TxnPartitions {
        transactional_id: id.to_owned(),
        producer_id: who.0,
        producer_epoch: who.1,
        partitions: [(topic.into(), [index].into())].into(),
        client_version: if bumps { 2 } else { 0 },
    }
}

#[test]
fn a_transaction_from_begin_to_end() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    assert_eq!(who, (1000, 0));
    assert_eq!(w.state("a"), "Empty");
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::None);
    assert_eq!(w.add("a", who, ("t", 1)), ErrorCode::None);
    let records = w.log.len();
    assert_eq!(w.add("a", who, ("t", 1)), ErrorCode::None);
    assert_eq!(w.log.len(), records, "known already");
    assert_eq!(w.state("a"), "Ongoing");
    w.auto_mark = false;
    let next = w.end("a", who, true, 5).unwrap();
    assert_eq!(next, (1000, 1), "answered when the decision is written");
    assert_eq!(w.state("a"), "PrepareCommit");
    let concurrent = ErrorCode::ConcurrentTransactions;
    assert_eq!(w.add("a", next, ("t", 0)), concurrent);
    assert_eq!(w.end("a", who, true, 5), Err(concurrent));
    assert_eq!(w.init("a"), Err(concurrent));
    let markers = w.mark_next(ErrorCode::None);
    assert_eq!((markers.producer_id, markers.producer_epoch), (1000, 1));
    assert!(markers.commit && markers.transaction_version == 2);
    assert_eq!(markers.coordinator_epoch, EPOCH);
    assert_eq!(markers.partitions, [("t".into(), 0), ("t".into(), 1)]);
    assert_eq!(w.state("a"), "CompleteCommit");
    assert_eq!(w.end("a", who, true, 5), Ok(next), "once more");
    assert_eq!(w.end("a", who, false, 5), Err(ErrorCode::InvalidTxnState));
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::ProducerFenced);
    assert_eq!(w.add("a", next, ("t", 0)), ErrorCode::None);
    assert_eq!(w.end("a", next, false, 5).map(|_| ()), Ok(()));
    w.mark_next(ErrorCode::None);
    assert_eq!(w.state("a"), "CompleteAbort");
}

#[test]
fn older_clients_keep_their_epoch() {
    for version in [0, 1, 2] {
        let mut w = World::new(version);
        let who = w.init("a").unwrap();
        let token = w.ask_add("a", who, ("t", 0), false);
        assert_eq!(w.added(token), ErrorCode::None);
        assert_eq!(
            w.end("a", (who.0, 9), true, 4),
            Err(ErrorCode::ProducerFenced)
        );
        assert_eq!(
            w.end("a", (who.0, 9), true, 1),
            Err(ErrorCode::InvalidProducerEpoch)
        );
        assert_eq!(
            w.end("a", (7, 0), true, 4),
            Err(ErrorCode::InvalidProducerIdMapping)
        );
        assert_eq!(w.end("a", who, true, 4), Ok((-1, -1)));
        assert_eq!(w.end("a", who, true, 4), Ok((-1, -1)));
        assert_eq!(w.end("a", who, false, 4), Err(ErrorCode::InvalidTxnState));
        let token = w.ask_add("a", who, ("t", 0), false);
        assert_eq!(w.added(token), ErrorCode::None, "the same epoch");
        assert_eq!(w.end("a", who, false, 4), Ok((-1, -1)));
        assert_eq!(w.end("a", who, false, 4), Ok((-1, -1)));
        assert_eq!(
            w.end("b", who, false, 4),
            Err(ErrorCode::InvalidProducerIdMapping)
        );
        assert_eq!(w.end("", who, false, 4), Err(ErrorCode::InvalidRequest));
    }
}

#[test]
fn nothing_open_as_the_table_says() {
    let its = Err(ErrorCode::InvalidTxnState);
    let fenced = Err(ErrorCode::ProducerFenced);
    let mut w = World::new(2);
    let (pid, _) = w.init("a").unwrap();
    let (_, epoch) = w.init("a").unwrap();
    // Empty
    assert_eq!(w.end("a", (pid, epoch - 1), false, 5), fenced);
    assert_eq!(w.end("a", (pid, epoch - 1), true, 5), fenced);
    assert_eq!(w.end("a", (pid, epoch), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), false, 5), Ok((pid, epoch + 1)));
    assert_eq!(w.state("a"), "CompleteAbort", "without a marker");
    // CompleteAbort
    let epoch = epoch + 1;
    assert_eq!(w.end("a", (pid, epoch - 1), false, 5), Ok((pid, epoch)));
    assert_eq!(w.end("a", (pid, epoch - 1), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), false, 5), Ok((pid, epoch + 1)));
    // CompleteCommit
    let epoch = epoch + 1;
    assert_eq!(w.add("a", (pid, epoch), ("t", 0)), ErrorCode::None);
    assert_eq!(w.end("a", (pid, epoch), true, 5), Ok((pid, epoch + 1)));
    let epoch = epoch + 1;
    assert_eq!(w.end("a", (pid, epoch - 1), false, 5), its);
    assert_eq!(w.end("a", (pid, epoch - 1), true, 5), Ok((pid, epoch)));
    assert_eq!(w.end("a", (pid, epoch), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), false, 5), Ok((pid, epoch + 1)));
}

#[test]
fn init_fences_rolls_back_and_knows_retries() {
    for version in [0, 2] {
        let mut w = World::new(version);
        let first = w.init("a").unwrap();
        assert_eq!(w.add("a", first, ("t", 0)), ErrorCode::None);
        let concurrent = Err(ErrorCode::ConcurrentTransactions);
        assert_eq!(w.init("a"), concurrent, "it is rolled back first");
        assert_eq!(w.state("a"), "CompleteAbort");
        assert_eq!(w.add("a", first, ("t", 0)), ErrorCode::ProducerFenced);
        let second = w.init("a").unwrap();
        assert_eq!(second, (first.0, first.1 + 2));
        // KIP-360: goes on from what it has; again, when the answer was lost.
        let third = w.init_from("a", second).unwrap();
        assert_eq!(third, (first.0, second.1 + 1));
        assert_eq!(w.init_from("a", second), Ok(third));
        assert_eq!(w.init_from("a", first), Err(ErrorCode::ProducerFenced));
        assert_eq!(w.init_from("a", (77, 0)), Err(ErrorCode::ProducerFenced));
        let token = w.ask_init("a", (77, 0), 3);
        assert_eq!(w.inited(token), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(w.init_from("a", (77, -1)), Err(ErrorCode::InvalidRequest));
        assert_eq!(w.init(""), Err(ErrorCode::InvalidRequest));
    }
}

#[test]
fn used_up_epochs_bring_another_producer_id() {
    let max = i16::MAX;
    let mut w = World::new(2);
    let last = w.with_epoch("a", max - 1);
    let second = w.init("a").unwrap();
    assert_eq!(second, (last.0 + 1, 0));
    assert_eq!(w.init_from("a", last), Err(ErrorCode::ProducerFenced));

    let last = w.with_epoch("b", max - 1);
    let next = w.init_from("b", last).unwrap();
    assert_eq!(next, (last.0 + 1, 0));
    assert_eq!(w.init_from("b", last), Ok(next), "a retry");

    // With a transaction that takes the last epoch: its markers have it, the producer another id.
    let last = w.with_epoch("c", max - 1);
    assert_eq!(w.add("c", last, ("t", 0)), ErrorCode::None);
    w.auto_mark = false;
    let next = w.end("c", last, true, 5).unwrap();
    assert_eq!(next, (last.0 + 1, 0));
    w.restart();
    let markers = w.mark_next(ErrorCode::None);
    assert_eq!((markers.producer_id, markers.producer_epoch), (last.0, max));
    assert_eq!(w.end("c", last, true, 5), Ok(next), "a retry");
    assert_eq!(w.add("c", next, ("t", 0)), ErrorCode::None);

    // Fencing it too.
    w.auto_mark = true;
    let last = w.with_epoch("d", max - 1);
    assert_eq!(w.add("d", last, ("t", 0)), ErrorCode::None);
    assert_eq!(w.init("d"), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(w.init("d"), Ok((last.0 + 1, 1)));
}

#[test]
fn producer_ids_are_waited_for() {
    let mut w = World::new(2);
    w.block = 0;
    let a = w.ask_init("a", (-1, -1), 5);
    let b = w.ask_init("b", (-1, -1), 5);
    assert!(w.replies.is_empty());
    w.block = 2;
    w.give_ids();
    assert_eq!((w.inited(a), w.inited(b)), (Ok((1000, 0)), Ok((1001, 0))));
    w.block = 0;
    let c = w.ask_init("c", (-1, -1), 5);
    let error = ErrorCode::CoordinatorLoadInProgress;
    w.run(|c, now, out| c.producer_ids(now, Err(error), out));
    assert_eq!(w.inited(c), Err(error));
    assert_eq!(
        w.state("c"),
        format!("{}", ErrorCode::TransactionalIdNotFound.code())
    );
}

#[test]
fn a_failed_append_leaves_the_id_as_it_was() {
    let mut w = World::new(2);
    w.auto_commit = false;
    let token = w.ask_init("a", (-1, -1), 5);
    w.fail_next(ErrorCode::NotEnoughReplicas);
    assert_eq!(w.inited(token), Err(ErrorCode::CoordinatorNotAvailable));
    let token = w.ask_init("a", (-1, -1), 5);
    let early = w.ask_init("a", (-1, -1), 5);
    assert_eq!(w.inited(early), Err(ErrorCode::ConcurrentTransactions));
    w.commit_next();
    let who = w.inited(token).unwrap();
    let token = w.ask_add("a", who, ("t", 0), true);
    w.fail_next(ErrorCode::KafkaStorageError);
    assert_eq!(w.added(token), ErrorCode::NotCoordinator);
    assert_eq!(w.state("a"), "Empty");
    let token = w.ask_add("a", who, ("t", 0), true);
    w.commit_next();
    assert_eq!(w.added(token), ErrorCode::None);
    let token = w.ask_end("a", who, true, 5);
    w.fail_next(ErrorCode::RequestTimedOut);
    assert_eq!(w.ended(token), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(w.state("a"), "Ongoing");
    let token = w.ask_end("a", who, true, 5);
    w.commit_next();
    assert_eq!(w.ended(token), Ok((who.0, who.1 + 1)));
    // The completion is tried until it is written.
    w.fail_next(ErrorCode::NotEnoughReplicas);
    assert_eq!(w.state("a"), "PrepareCommit");
    w.advance_ms(100);
    w.commit_next();
    assert_eq!(w.state("a"), "CompleteCommit");
}

#[test]
fn a_fence_that_was_not_written_takes_no_second_epoch() {
    let mut w = World::new(1);
    let who = w.init("a").unwrap();
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::None);
    w.auto_commit = false;
    for _ in 0..3 {
        let token = w.ask_init("a", (-1, -1), 5);
        w.fail_next(ErrorCode::NotEnoughReplicas);
        assert_eq!(w.inited(token), Err(ErrorCode::CoordinatorNotAvailable));
    }
    w.auto_commit = true;
    assert_eq!(w.init("a"), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(w.init("a"), Ok((who.0, who.1 + 2)));
}

#[test]
fn markers_are_tried_until_written() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    w.add("a", who, ("t", 0));
    w.add("a", who, ("u", 3));
    w.auto_mark = false;
    w.end("a", who, true, 5).unwrap();
    let markers = w.markers.pop_front().unwrap();
    let not_yet = ErrorCode::NotLeaderOrFollower;
    w.run(|c, now, out| c.marker_done(now, markers.token, ("t", 0), ErrorCode::None, out));
    w.run(|c, now, out| c.marker_done(now, markers.token, ("u", 3), not_yet, out));
    let topics = w.coordinator.describe("a").topics;
    assert_eq!((topics.len(), &*topics[0].topic), (1, "u"));
    w.advance_ms(100);
    let again = w.mark_next(ErrorCode::InvalidProducerEpoch);
    assert_eq!(again.partitions, [("u".into(), 3)]);
    assert_eq!(w.state("a"), "CompleteCommit");
}

#[test]
fn time_rolls_back_and_forgets() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    w.add("a", who, ("t", 0));
    w.advance_ms(59_000);
    assert_eq!(w.state("a"), "Ongoing");
    w.advance_ms(12_000);
    assert_eq!(w.state("a"), "CompleteAbort");
    assert_eq!(w.end("a", who, true, 5), Err(ErrorCode::InvalidTxnState));
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::ProducerFenced);
    let open = w.init("b").unwrap();
    w.add("b", open, ("t", 0));
    w.advance_ms(6 * DAY_MS);
    assert_eq!(w.state("a"), "CompleteAbort");
    w.init("c").unwrap();
    w.advance_ms(DAY_MS + 3_600_000);
    let gone = format!("{}", ErrorCode::TransactionalIdNotFound.code());
    assert_eq!(w.state("a"), gone);
    assert_eq!(w.state("c"), "Empty");
    assert_eq!(w.log.last().unwrap().2, None);
    w.restart();
    assert_eq!(w.state("a"), gone);
    let again = w.init("a").unwrap();
    assert!(again.0 > who.0 && again.1 == 0, "{again:?}");
}

#[test]
fn requests_for_other_partitions() {
    let mut w = World::new(2);
    let partition = partition_for("a", PARTITIONS);
    w.run(|c, _, _| c.begin_load(partition, 6));
    let loading = ErrorCode::CoordinatorLoadInProgress;
    assert_eq!(w.init("a"), Err(loading));
    let list = ListTransactionsRequest::default();
    let listed = w.coordinator.list(w.now, &list);
    assert_eq!(listed.error_code, loading.code());
    w.auto_commit = false;
    w.run(|c, now, out| c.finish_load(now, partition, out));
    let waiting = w.ask_init("a", (-1, -1), 5);
    w.run(|c, _, out| c.unload(partition, out));
    assert_eq!(w.inited(waiting), Err(ErrorCode::NotCoordinator));
    assert_eq!(w.init("a"), Err(ErrorCode::NotCoordinator));
}

#[test]
fn verification_knows_what_was_added() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    w.add("a", who, ("t", 0));
    let verify = |w: &World, who, at| {
        let request = partitions("a", who, at, false);
        w.coordinator.verify_partitions(&request).map(|r| r[0].2)
    };
    assert_eq!(verify(&w, who, ("t", 0)), Ok(ErrorCode::None));
    assert_eq!(
        verify(&w, who, ("t", 1)),
        Ok(ErrorCode::TransactionAbortable)
    );
    assert_eq!(
        verify(&w, (who.0, 7), ("t", 0)),
        Err(ErrorCode::ProducerFenced)
    );
    assert_eq!(
        verify(&w, (7, 0), ("t", 0)),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    w.auto_mark = false;
    w.end("a", who, true, 4).unwrap();
    assert_eq!(
        verify(&w, who, ("t", 0)),
        Err(ErrorCode::ConcurrentTransactions)
    );
}

#[test]
fn lists_and_their_filters() {
    let mut w = World::new(2);
    let a = w.init("app-1").unwrap();
    let b = w.init("app-2").unwrap();
    w.init("other").unwrap();
    w.add("app-1", a, ("t", 0));
    w.advance_ms(5_000);
    w.add("app-2", b, ("t", 0));
    let names = |w: &World, request: &ListTransactionsRequest<'_>| {
        let listed = w.coordinator.list(w.now, request);
        let names = listed.transaction_states.iter();
        let mut names: Vec<_> = names.map(|t| t.transactional_id.to_string()).collect();
        names.sort();
        (names.join(" "), listed.error_code)
    };
    let mut request = ListTransactionsRequest::default();
    assert_eq!(names(&w, &request).0, "app-1 app-2 other");
    request.state_filters = vec!["Ongoing".into(), "Dead".into(), "Nope".into()];
    assert_eq!(names(&w, &request).0, "app-1 app-2");
    let listed = w.coordinator.list(w.now, &request);
    assert_eq!(listed.unknown_state_filters, ["Nope"]);
    request.duration_filter = 4_000;
    assert_eq!(names(&w, &request).0, "app-1");
    let mut request = ListTransactionsRequest {
        producer_id_filters: vec![b.0],
        ..Default::default()
    };
    assert_eq!(names(&w, &request).0, "app-2");
    request.producer_id_filters.clear();
    request.transactional_id_pattern = Some("app".into());
    assert_eq!(names(&w, &request).0, "", "as a whole");
    request.transactional_id_pattern = Some("app-.|x".into());
    assert_eq!(names(&w, &request).0, "app-1 app-2");
    request.transactional_id_pattern = Some("(".into());
    let invalid = ErrorCode::InvalidRegularExpression.code();
    assert_eq!(names(&w, &request), (String::new(), invalid));
}

/// What anybody can see of all ids. Which markers of a decision are written is not stored.
fn seen(coordinator: &TransactionCoordinator) -> String {
    let mut out = String::new();
    for n in 0..6 {
        let mut d = coordinator.describe(&format!("id-{n}"));
        if d.transaction_state.starts_with("Prepare") {
            d.topics.clear();
        }
        out.push_str(&format!("{d:?}\n"));
    }
    out
}

fn random_step(w: &mut World, prng: &mut Prng, known: &mut BTreeMap<String, (i64, i16)>) {
    let id = format!("id-{}", prng.below(6));
    let who = known.get(&id).copied().unwrap_or((-1, -1));
    let who = match prng.below(12) {
        0 => (who.0, who.1.saturating_sub(1)),
        1 => (who.0 + 1, who.1),
        _ => who,
    };
    match prng.below(100) {
        0..25 => {
            let expected = if prng.below(2) == 0 { who } else { (-1, -1) };
            let token = w.ask_init(&id, expected, 5);
            if let Some(TxnReply::InitProducerId(r)) = w.replies.remove(&token)
                && r.error_code == 0
            {
                known.insert(id, (r.producer_id, r.producer_epoch));
            }
        }
        25..55 => {
            let at = (["t", "u"][prng.below(2) as usize], prng.below(3) as i32);
            w.ask_add(&id, who, at, prng.below(4) > 0);
        }
        55..75 => {
            let version = if prng.below(4) > 0 { 5 } else { 4 };
            let token = w.ask_end(&id, who, prng.below(2) == 0, version);
            if let Some(TxnReply::EndTxn(r)) = w.replies.remove(&token)
                && r.error_code == 0
                && r.producer_id >= 0
            {
                known.insert(id, (r.producer_id, r.producer_epoch));
            }
        }
        75..85 if !w.appends.is_empty() => w.commit_next(),
        85..88 if !w.appends.is_empty() => w.fail_next(ErrorCode::NotEnoughReplicas),
        88..95 if !w.markers.is_empty() => {
            let errors = [ErrorCode::None, ErrorCode::NotLeaderOrFollower];
            w.mark_next(errors[prng.below(2) as usize]);
        }
        95 => w.advance_ms(prng.below(100_000) as i64),
        96 => w.advance_ms(4 * DAY_MS),
        _ => w.advance_ms(prng.below(100) as i64),
    }
}

#[test]
fn replay_of_any_prefix_is_the_state_that_was() {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    let rounds: u64 = factor.and_then(|f| f.parse().ok()).unwrap_or(1);
    for seed in 0..20 * rounds {
        let mut prng = Prng::new(seed);
        let mut w = World::new(2);
        w.auto_commit = seed % 2 == 0;
        w.auto_mark = seed % 3 == 0;
        let mut known = BTreeMap::new();
        let mut states: BTreeMap<usize, String> = BTreeMap::new();
        for _ in 0..300 {
            random_step(&mut w, &mut prng, &mut known);
            states.insert(w.log.len(), seen(&w.coordinator));
        }
        for (records, state) in states {
            let mut out = TxnOut::default();
            let replayed = w.replayed(records, &mut out);
            assert_eq!(
                seen(&replayed),
                state,
                "seed {seed} after {records} records"
            );
        }
        // Whatever was on its way, in the end everything is decided.
        (w.auto_commit, w.auto_mark) = (true, true);
        w.restart();
        w.advance_ms(200_000);
        let list = ListTransactionsRequest::default();
        for txn in w.coordinator.list(w.now, &list).transaction_states {
            let state = &*txn.transaction_state;
            let at_rest = ["Empty", "CompleteAbort", "CompleteCommit"].contains(&state);
            assert!(at_rest, "seed {seed}: {txn:?}");
        }
        assert_eq!(w.coordinator.writes_outstanding(), 0);
    }
}
