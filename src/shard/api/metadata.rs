//! Metadata (key 3), versions 0 to 13: brokers with the address of the listener that was asked, and
//! topics with their partitions.
//!
//! A topic that is not there is created with the broker's defaults when the request and
//! `auto.create.topics.enable` allow it; the answer then waits for its creation.
//! - v0: no topics means all. v1: null means all, none means none. v4: auto-creation may be
//!   forbidden.
//! - v7: leader epochs (KIP-320). v8 to v10: authorized operations of the cluster (KIP-430). v9:
//!   flexible.
//! - v10, v12: topic ids, and topics by id (KIP-516). v13: top-level error (KIP-1102), never set.

use super::{authorized, decode};
use crate::ops::{Gathering, Op, OpResult};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::{ErrorCode, ShardId, Uuid};
use flumen_quorum::controller::validate_topic_name;
use flumen_quorum::{Image, Topic};
use flumen_wire::Message;
use flumen_wire::messages::metadata_request::MetadataRequestTopic;
use flumen_wire::messages::metadata_response as wire;
use flumen_wire::messages::{MetadataRequest, MetadataResponse};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, MetadataRequest<'_>);
    // Topics by id came with version 10, which answers them wrongly: Kafka refuses up to 11.
    let by_id = |t: &MetadataRequestTopic<'_>| t.name.is_none() || t.topic_id != Uuid::ZERO;
    if request.reply.version < 12 && message.topics.iter().flatten().any(by_id) {
        let response = refusal(&message, ErrorCode::InvalidRequest);
        shard.reply(turn, request.reply, &response);
        return;
    }
    let may_create =
        message.allow_auto_topic_creation && shard.broker.topics.auto_create_topics_enable;
    let missing: Vec<String> = message
        .topics
        .iter()
        .flatten()
        .filter(|_| !names_ids(&message))
        .filter_map(|t| t.name.as_deref())
        .filter(|name| may_create && shard.image.topic(name).is_none())
        .filter(|name| validate_topic_name(name).is_ok())
        .map(str::to_owned)
        .collect();
    if missing.is_empty() {
        let errors = BTreeMap::new();
        let response = response(shard, &message, &request, &errors);
        shard.reply(turn, request.reply, &response);
        return;
    }
    drop(message);
    let Request {
        reply,
        body,
        listener,
        ..
    } = request;
    let creation = Creation {
        body,
        listener,
        errors: BTreeMap::new(),
    };
    let ops = vec![(ShardId::FIRST, Op::AutoCreate(missing))];
    shard.gather(turn, reply, Box::new(creation), ops);
}

/// Waits for the creation of missing topics.
struct Creation {
    body: Bytes,
    listener: usize,
    errors: BTreeMap<String, ErrorCode>,
}

impl Gathering for Creation {
    fn take(&mut self, _index: u32, result: OpResult) {
        if let OpResult::AutoCreate(results) = result {
            self.errors.extend(results);
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        match MetadataRequest::decode_exact(&self.body, reply.version) {
            Ok(message) => {
                let asked = (self.listener, reply.version);
                let response = response_for(shard, &message, asked, &self.errors);
                shard.reply(turn, reply, &response);
            }
            Err(error) => shard.malformed(turn, reply, error),
        }
    }
}

fn response(
    shard: &Shard,
    message: &MetadataRequest<'_>,
    request: &Request,
    errors: &BTreeMap<String, ErrorCode>,
) -> MetadataResponse<'static> {
    let asked = (request.listener, request.reply.version);
    response_for(shard, message, asked, errors)
}

fn response_for(
    shard: &Shard,
    message: &MetadataRequest<'_>,
    (listener, version): (usize, i16),
    errors: &BTreeMap<String, ErrorCode>,
) -> MetadataResponse<'static> {
    let image = &shard.image;
    let ids = names_ids(message);
    let mut topics: Vec<_> = match &message.topics {
        Some(topics) if version > 0 || !topics.is_empty() => {
            // A topic asked for twice is answered once.
            let mut seen = BTreeSet::new();
            topics
                .iter()
                .filter(|asked| !ids || asked.topic_id != Uuid::ZERO)
                .filter(|asked| seen.insert((asked.name.as_deref(), asked.topic_id)))
                .map(|asked| topic_line(image, asked, version, errors))
                .collect()
        }
        _ => image.topics().values().map(|t| found(image, t)).collect(),
    };
    if message.include_topic_authorized_operations {
        for topic in topics.iter_mut().filter(|t| t.error_code == 0) {
            topic.topic_authorized_operations = authorized::TOPIC;
        }
    }
    let cluster_operations = message.include_cluster_authorized_operations;
    let brokers = image.active_brokers().filter_map(|b| {
        let (host, port) = shard.endpoint(b, listener)?;
        Some(wire::MetadataResponseBroker {
            node_id: b.id,
            host: Cow::Owned(host),
            port,
            rack: b.rack.clone().map(Cow::Owned),
        })
    });
    MetadataResponse {
        brokers: brokers.collect(),
        cluster_id: Some(Cow::Owned(shard.config.cluster_id.clone())),
        controller_id: image.controller_id(),
        topics,
        cluster_authorized_operations: authorized::if_asked(
            cluster_operations,
            authorized::CLUSTER,
        ),
        ..Default::default()
    }
}

/// Whether topics are asked for by id: names, which such requests may leave empty, don't count
/// then.
fn names_ids(message: &MetadataRequest<'_>) -> bool {
    let mut topics = message.topics.iter().flatten();
    topics.any(|t| t.topic_id != Uuid::ZERO)
}

/// The same error for every topic of a request.
fn refusal(message: &MetadataRequest<'_>, error: ErrorCode) -> MetadataResponse<'static> {
    let line = |t: &MetadataRequestTopic<'_>| wire::MetadataResponseTopic {
        error_code: error.code(),
        name: Some(Cow::Owned(t.name.as_deref().unwrap_or_default().to_owned())),
        topic_id: t.topic_id,
        ..Default::default()
    };
    MetadataResponse {
        topics: message.topics.iter().flatten().map(line).collect(),
        ..Default::default()
    }
}

fn topic_line(
    image: &Image,
    asked: &MetadataRequestTopic<'_>,
    version: i16,
    errors: &BTreeMap<String, ErrorCode>,
) -> wire::MetadataResponseTopic<'static> {
    let by_id = asked.topic_id != Uuid::ZERO;
    let Some(name) = asked.name.as_deref().filter(|_| !by_id) else {
        if let Some(topic) = image.topic_by_id(&asked.topic_id) {
            return found(image, topic);
        }
        // The name may be null from version 12 on.
        return wire::MetadataResponseTopic {
            error_code: ErrorCode::UnknownTopicId.code(),
            name: (version < 12).then_some(Cow::Borrowed("")),
            topic_id: asked.topic_id,
            ..Default::default()
        };
    };
    if let Some(topic) = image.topic(name) {
        return found(image, topic);
    }
    let error = match errors.get(name) {
        _ if validate_topic_name(name).is_err() => ErrorCode::InvalidTopicException,
        None | Some(ErrorCode::None | ErrorCode::TopicAlreadyExists) => {
            ErrorCode::UnknownTopicOrPartition
        }
        // What Kafka answers while a topic can't be made for want of brokers.
        Some(ErrorCode::InvalidReplicationFactor) => ErrorCode::InvalidReplicationFactor,
        Some(error) => *error,
    };
    wire::MetadataResponseTopic {
        error_code: error.code(),
        name: Some(Cow::Owned(name.to_owned())),
        is_internal: flumen_quorum::controller::is_internal_topic(name),
        ..Default::default()
    }
}

fn found(image: &Image, topic: &Topic) -> wire::MetadataResponseTopic<'static> {
    let partitions = topic.partitions.iter().map(|p| {
        let offline = p.replicas.iter().filter(|r| !image.serves(p, **r));
        let error = if p.leader < 0 {
            ErrorCode::LeaderNotAvailable
        } else {
            ErrorCode::None
        };
        wire::MetadataResponsePartition {
            error_code: error.code(),
            partition_index: p.index,
            leader_id: p.leader,
            leader_epoch: p.leader_epoch,
            replica_nodes: p.replicas.clone(),
            isr_nodes: p.isr.clone(),
            offline_replicas: offline.copied().collect(),
        }
    });
    wire::MetadataResponseTopic {
        name: Some(Cow::Owned(topic.name.to_string())),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: partitions.collect(),
        ..Default::default()
    }
}
