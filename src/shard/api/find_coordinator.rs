//! FindCoordinator (key 10), versions 0 to 6. A single node coordinates every group and
//! transaction itself; the topic that they live in is created with the first question, which is
//! answered COORDINATOR_NOT_AVAILABLE as Kafka answers it. v1: key type (KIP-98). v3: flexible. v4:
//! many keys (KIP-699). v6: share partitions, as `group:topic id:partition` (KIP-932).

use super::decode;
use crate::groups::OFFSETS_TOPIC;
use crate::ops::{Gathering, Op, OpResult};
use crate::request::{Reply, Request};
use crate::share_states::SHARE_STATE_TOPIC;
use crate::txns::TXN_TOPIC;
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, ShardId, Uuid};
use flumen_coordinator::partition_for;
use flumen_wire::messages::find_coordinator_response as wire;
use flumen_wire::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use std::borrow::Cow;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;
const BATCHED_FROM: i16 = 4;
const SHARES_FROM: i16 = 6;
/// What Kafka says of a request that breaks the protocol.
pub(super) const MALFORMED: &str = "This most likely occurs because of a request being malformed \
    by the client library or the message was sent to an incompatible broker. See the broker logs \
    for more details.";

/// Whether a key names a share partition.
fn is_share_key(key: &str) -> bool {
    let mut parts = key.rsplitn(3, ':');
    let partition = parts.next().map(str::parse::<i32>);
    let topic = parts.next().and_then(Uuid::parse);
    let group = parts.next().filter(|group| !group.is_empty());
    matches!(partition, Some(Ok(0..))) && topic.is_some() && group.is_some()
}

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, FindCoordinatorRequest<'_>);
    let keys: Vec<String> = if request.reply.version >= BATCHED_FROM {
        message
            .coordinator_keys
            .iter()
            .map(ToString::to_string)
            .collect()
    } else {
        vec![message.key.to_string()]
    };
    let topic = match message.key_type {
        TRANSACTION => TXN_TOPIC,
        SHARE => SHARE_STATE_TOPIC,
        _ => OFFSETS_TOPIC,
    };
    let known = match message.key_type {
        GROUP | TRANSACTION => true,
        SHARE => shard.serves_share_groups() && request.reply.version >= SHARES_FROM,
        _ => false,
    };
    let asks = message.key_type != SHARE || keys.iter().any(|key| is_share_key(key));
    let creates = known && asks && shard.image.topic(topic).is_none();
    let question = Question {
        keys,
        listener: request.listener,
        topic,
        creates,
        error: match known {
            true => ErrorCode::None,
            false => ErrorCode::InvalidRequest,
        },
    };
    let mut ops = Vec::new();
    if creates {
        let create = Op::AutoCreate(vec![topic.to_owned()]);
        ops.push((ShardId::FIRST, create));
    }
    drop(message);
    shard.gather(turn, request.reply, Box::new(question), ops);
}

struct Question {
    keys: Vec<String>,
    listener: usize,
    /// What it coordinates lives in this.
    topic: &'static str,
    /// It has that topic made.
    creates: bool,
    error: ErrorCode,
}

impl Gathering for Question {
    fn take(&mut self, _index: u32, _result: OpResult) {
        // Whether it was created shows in the image.
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let broker = shard.image.brokers().get(&shard.broker.node_id);
        let endpoint = broker.and_then(|b| shard.endpoint(b, self.listener));
        let topic = shard.image.topic(self.topic);
        // One whose log directory failed has no leader.
        let no_leader = topic.is_some_and(|topic| {
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            let of = |key: &String| topic.partition(partition_for(key, count));
            self.keys
                .iter()
                .any(|key| of(key).is_some_and(|p| p.leader < 0))
        });
        let error = match (&endpoint, topic) {
            _ if !self.error.is_none() => self.error,
            (Some(_), Some(_)) if !self.creates && !no_leader => ErrorCode::None,
            _ => ErrorCode::CoordinatorNotAvailable,
        };
        let (node_id, (host, port)) = match endpoint.filter(|_| error.is_none()) {
            Some(endpoint) => (shard.broker.node_id, endpoint),
            None => (-1, (String::new(), -1)),
        };
        let batched = reply.version >= BATCHED_FROM;
        let message = match error {
            // Kafka's answers carry text on success, too.
            ErrorCode::None if !batched => "NONE",
            ErrorCode::InvalidRequest if self.topic == SHARE_STATE_TOPIC && batched => "",
            ErrorCode::InvalidRequest => MALFORMED,
            ErrorCode::CoordinatorNotAvailable if !batched => "The coordinator is not available.",
            _ => "",
        };
        let message = Some(message.to_owned());
        let mut response = FindCoordinatorResponse::default();
        if batched {
            let line = |key: String| match self.topic == SHARE_STATE_TOPIC && !is_share_key(&key) {
                true => wire::Coordinator {
                    key: Cow::Owned(key),
                    node_id: -1,
                    port: -1,
                    error_code: ErrorCode::InvalidRequest.code(),
                    error_message: Some(Cow::Borrowed("")),
                    ..Default::default()
                },
                false => wire::Coordinator {
                    key: Cow::Owned(key),
                    node_id,
                    host: Cow::Owned(host.clone()),
                    port,
                    error_code: error.code(),
                    error_message: message.clone().map(Cow::Owned),
                },
            };
            response.coordinators = self.keys.into_iter().map(line).collect();
        } else {
            response.error_code = error.code();
            response.error_message = message.map(Cow::Owned);
            response.node_id = node_id;
            response.host = Cow::Owned(host);
            response.port = port;
        }
        shard.reply(turn, reply, &response);
    }
}
