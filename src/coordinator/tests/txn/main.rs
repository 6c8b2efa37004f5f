//! The transaction coordinator with a log in memory, markers that are written by hand, and time by
//! hand.
#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod replay;
mod rules;

use bytes::Bytes;
use flumen_base::{ErrorCode, Mono, Now, PartitionIndex};
use flumen_coordinator::txn::{
    Markers, TransactionCoordinator, TxnConfig, TxnOut, TxnPartitions, TxnReply,
};
use flumen_coordinator::{Append, ReplyToken};
use flumen_wire::messages::{EndTxnRequest, InitProducerIdRequest};
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
