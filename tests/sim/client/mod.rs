//! The clients: each a small state machine that sends what real clients send and checks what it
//! hears.

pub(crate) mod admin;
pub(crate) mod committer;
pub(crate) mod consumer;
mod deliveries;
pub(crate) mod keyed;
pub(crate) mod ledger;
pub(crate) mod producer;
pub(crate) mod seeker;
mod sharer;
pub(crate) mod sharers;

use crate::Check;
use crate::link::Cx;
use crate::model::{Known, Tp};

/// A topic of the run.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) partitions: i32,
    /// Acks wait for the disk (`flush.messages=1`).
    pub(crate) durable: bool,
    /// It is deleted and created again now and then.
    pub(crate) comes_and_goes: bool,
    /// Retention keeps so many bytes of each partition (`retention.bytes`).
    pub(crate) keeps: Option<u64>,
    /// Only the last record of each key is kept.
    pub(crate) compacted: bool,
    /// Its records are those of transactions, of which the model knows nothing.
    pub(crate) transactional: bool,
}

/// A partition of a [`Spec`]: which topic, which index.
pub(crate) type Key = (usize, i32);

/// One client.
pub(crate) trait Client {
    /// What it is called.
    fn name(&self) -> &str;
    /// Takes everything that has arrived.
    fn receive(&mut self, cx: &mut Cx<'_>) -> Check;
    /// Does one thing, if there is one to do.
    fn act(&mut self, cx: &mut Cx<'_>) -> Check;
    /// Faults are over and no new work begins: what remains is to end what is open.
    fn settle(&mut self) {}
    /// After [`Client::settle`]: whether nothing is left to do; or what.
    fn left_to_do(&self, cx: &Cx<'_>) -> Option<String>;
}

/// The partition's id, if the topic is known to exist.
pub(crate) fn tp_of(cx: &Cx<'_>, specs: &[Spec], (topic, partition): Key) -> Option<Tp> {
    match cx.model.topic(specs.get(topic)?.name).0 {
        Known::Exists(id) => Some((id, partition)),
        _ => None,
    }
}

/// Error codes by their numbers in the protocol.
pub(crate) mod code {
    pub(crate) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(crate) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub(crate) const LEADER_NOT_AVAILABLE: i16 = 5;
    pub(crate) const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub(crate) const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub(crate) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub(crate) const NOT_COORDINATOR: i16 = 16;
    pub(crate) const NOT_ENOUGH_REPLICAS: i16 = 19;
    pub(crate) const UNKNOWN_MEMBER_ID: i16 = 25;
    pub(crate) const NOT_CONTROLLER: i16 = 41;
    pub(crate) const INVALID_REQUEST: i16 = 42;
    pub(crate) const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub(crate) const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
    pub(crate) const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub(crate) const INVALID_TXN_STATE: i16 = 48;
    pub(crate) const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
    pub(crate) const CONCURRENT_TRANSACTIONS: i16 = 51;
    pub(crate) const KAFKA_STORAGE_ERROR: i16 = 56;
    pub(crate) const UNKNOWN_PRODUCER_ID: i16 = 59;
    pub(crate) const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub(crate) const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
    pub(crate) const PRODUCER_FENCED: i16 = 90;
    pub(crate) const UNKNOWN_TOPIC_ID: i16 = 100;
    pub(crate) const FENCED_MEMBER_EPOCH: i16 = 110;
    pub(crate) const TRANSACTION_ABORTABLE: i16 = 120;
    pub(crate) const INVALID_RECORD_STATE: i16 = 121;
    pub(crate) const SHARE_SESSION_NOT_FOUND: i16 = 122;
    pub(crate) const INVALID_SHARE_SESSION_EPOCH: i16 = 123;

    /// What clients hear of a disk that fails or is full; they try again.
    pub(crate) fn is_disk_trouble(error: i16) -> bool {
        let known = [
            KAFKA_STORAGE_ERROR,
            LEADER_NOT_AVAILABLE,
            NOT_ENOUGH_REPLICAS,
        ];
        known.contains(&error)
    }
}
