//! DescribeProducers (key 61), version 0 (KIP-664): idempotent producers that a partition knows.

use super::decode;
use super::fill::{Place, Scatter};
use crate::ops::{OpResult, PartitionOp};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_wire::messages::describe_producers_response as wire;
use flumen_wire::messages::{DescribeProducersRequest, DescribeProducersResponse};
use std::borrow::Cow;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, DescribeProducersRequest<'_>);
    let mut scatter = Scatter::default();
    let mut topics = Vec::with_capacity(message.topics.len());
    for (t, topic) in message.topics.iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for (n, index) in topic.partition_indexes.iter().enumerate() {
            let mut line = wire::PartitionResponse {
                partition_index: *index,
                ..Default::default()
            };
            match shard.known_partition(&topic.name, *index) {
                Ok(tp) => scatter.add(shard, tp, (t, n), PartitionOp::Producers),
                Err(error) => {
                    let text = "This server does not host this topic-partition.";
                    line.error_code = error.code();
                    let known = shard.image.topic(&topic.name).is_some();
                    line.error_message = (!known).then_some(Cow::Borrowed(text));
                }
            }
            partitions.push(line);
        }
        topics.push(wire::TopicResponse {
            name: Cow::Owned(topic.name.clone().into_owned()),
            partitions,
        });
    }
    let response = DescribeProducersResponse {
        topics,
        ..Default::default()
    };
    scatter.fill(shard, turn, request.reply, response, put);
}

fn put(response: &mut DescribeProducersResponse<'static>, (t, n): Place, result: OpResult) {
    let topic = response.topics.get_mut(t);
    let line = topic.and_then(|t| t.partitions.get_mut(n));
    let (Some(line), OpResult::Producers(result)) = (line, result) else {
        return;
    };
    match result {
        Ok(producers) => {
            line.active_producers
                .extend(producers.into_iter().map(|p| wire::ProducerState {
                    producer_id: p.id,
                    producer_epoch: p.epoch,
                    last_sequence: p.last_sequence,
                    last_timestamp: p.last_timestamp,
                    coordinator_epoch: p.coordinator_epoch,
                    current_txn_start_offset: p.txn_start,
                }));
        }
        Err(error) => line.error_code = error.code(),
    }
}
