//! DescribeTopicPartitions (key 75), version 0 (KIP-966): topics by name in order, a page of
//! partitions at a time. A cursor names the first partition of the next page. At most
//! `max.request.partition.size.limit` partitions are answered.

use super::{authorized, decode};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_quorum::controller::validate_topic_name;
use flumen_quorum::{Image, Partition};
use flumen_wire::messages::describe_topic_partitions_response as wire;
use flumen_wire::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use std::borrow::Cow;
use std::collections::BTreeSet;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, DescribeTopicPartitionsRequest<'_>);
    let most = shard.broker.topics.max_request_partition_size_limit;
    let limit = message.response_partition_limit.clamp(1, most.max(1)) as usize;
    let cursor = message.cursor.as_ref();
    // A cursor stands at one of the topics asked for.
    let listed = |name: &str| message.topics.iter().any(|t| t.name == name);
    if cursor.is_some_and(|c| {
        c.partition_index < 0 || !(message.topics.is_empty() || listed(&c.topic_name))
    }) {
        let line = |name: &str| wire::DescribeTopicPartitionsResponseTopic {
            error_code: ErrorCode::InvalidRequest.code(),
            name: Some(Cow::Owned(name.to_owned())),
            ..Default::default()
        };
        let response = DescribeTopicPartitionsResponse {
            topics: message.topics.iter().map(|t| line(&t.name)).collect(),
            ..Default::default()
        };
        shard.reply(turn, request.reply, &response);
        return;
    }
    let from = cursor.map_or("", |c| &*c.topic_name);
    let image = shard.image.clone();
    let names: BTreeSet<&str> = if message.topics.is_empty() {
        image.topics().keys().map(|name| &**name).collect()
    } else {
        message.topics.iter().map(|t| &*t.name).collect()
    };
    let mut page = Page {
        left: limit,
        response: DescribeTopicPartitionsResponse::default(),
    };
    for name in names.range(from..) {
        let first = match cursor {
            Some(c) if c.topic_name == *name => usize::try_from(c.partition_index).unwrap_or(0),
            _ => 0,
        };
        if !page.add(&image, name, first) {
            break;
        }
    }
    shard.reply(turn, request.reply, &page.response);
}

struct Page {
    left: usize,
    response: DescribeTopicPartitionsResponse<'static>,
}

impl Page {
    /// Adds a topic from a partition on; false when the page is full.
    fn add(&mut self, image: &Image, name: &str, first: usize) -> bool {
        let Some(topic) = image.topic(name) else {
            let error = if validate_topic_name(name).is_err() {
                ErrorCode::InvalidTopicException
            } else {
                ErrorCode::UnknownTopicOrPartition
            };
            self.response
                .topics
                .push(wire::DescribeTopicPartitionsResponseTopic {
                    error_code: error.code(),
                    name: Some(Cow::Owned(name.to_owned())),
                    topic_authorized_operations: authorized::TOPIC,
                    ..Default::default()
                });
            return true;
        };
        if self.left == 0 {
            self.end_at(name, first);
            return false;
        }
        let partitions = topic.partitions.get(first..).unwrap_or_default();
        let now = partitions.get(..self.left).unwrap_or(partitions);
        self.response
            .topics
            .push(wire::DescribeTopicPartitionsResponseTopic {
                name: Some(Cow::Owned(name.to_owned())),
                topic_id: topic.id,
                is_internal: topic.is_internal(),
                partitions: now.iter().map(|p| line(image, p)).collect(),
                topic_authorized_operations: authorized::TOPIC,
                error_code: ErrorCode::None.code(),
            });
        self.left -= now.len();
        if now.len() < partitions.len() {
            self.end_at(name, first + now.len());
            return false;
        }
        true
    }

    fn end_at(&mut self, topic: &str, partition: usize) {
        self.response.next_cursor = Some(wire::Cursor {
            topic_name: Cow::Owned(topic.to_owned()),
            partition_index: i32::try_from(partition).unwrap_or(i32::MAX),
        });
    }
}

fn line(image: &Image, p: &Partition) -> wire::DescribeTopicPartitionsResponsePartition {
    let offline = p.replicas.iter().filter(|r| !image.serves(p, **r));
    let error = if p.leader < 0 {
        ErrorCode::LeaderNotAvailable
    } else {
        ErrorCode::None
    };
    wire::DescribeTopicPartitionsResponsePartition {
        error_code: error.code(),
        partition_index: p.index,
        leader_id: p.leader,
        leader_epoch: p.leader_epoch,
        replica_nodes: p.replicas.clone(),
        isr_nodes: p.isr.clone(),
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        offline_replicas: offline.copied().collect(),
    }
}
