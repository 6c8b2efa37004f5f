//! OffsetForLeaderEpoch (key 23), versions 2 to 4: the largest epoch at or below the one asked for,
//! and its end offset. Unknown: -1 and -1. v2: current leader epoch is checked (KIP-320). v3:
//! replica id. v4: flexible.

use super::decode;
use super::fill::{Place, Scatter};
use crate::ops::{OpResult, PartitionOp};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_wire::messages::offset_for_leader_epoch_response as wire;
use flumen_wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use std::borrow::Cow;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, OffsetForLeaderEpochRequest<'_>);
    let mut scatter = Scatter::default();
    let mut topics = Vec::with_capacity(message.topics.len());
    for (t, topic) in message.topics.iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (n, p) in topic.partitions.iter().enumerate() {
            let mut line = wire::EpochEndOffset {
                partition: p.partition,
                leader_epoch: -1,
                end_offset: -1,
                ..Default::default()
            };
            match shard.known_partition(&topic.topic, p.partition) {
                Ok(tp) => {
                    let op = PartitionOp::EpochEnd {
                        current_leader_epoch: p.current_leader_epoch,
                        epoch: p.leader_epoch,
                    };
                    scatter.add(shard, tp, (t, n), op);
                }
                Err(error) => line.error_code = error.code(),
            }
            partitions.push(line);
        }
        topics.push(wire::OffsetForLeaderTopicResult {
            topic: Cow::Owned(topic.topic.clone().into_owned()),
            partitions,
        });
    }
    let response = OffsetForLeaderEpochResponse {
        topics,
        ..Default::default()
    };
    scatter.fill(shard, turn, request.reply, response, put);
}

fn put(response: &mut OffsetForLeaderEpochResponse<'static>, (t, n): Place, result: OpResult) {
    let topic = response.topics.get_mut(t);
    let line = topic.and_then(|t| t.partitions.get_mut(n));
    let (Some(line), OpResult::EpochEnd(result)) = (line, result) else {
        return;
    };
    match result {
        Ok((epoch, end_offset)) => (line.leader_epoch, line.end_offset) = (epoch, end_offset),
        Err(error) => line.error_code = error.code(),
    }
}
