//! DeleteRecords (key 21), versions 0 to 2 (KIP-107): moves the log start; -1 is the high
//! watermark. Segments below go with the next run of retention. v2: flexible.

use super::decode;
use super::fill::{Place, Scatter};
use crate::ops::{OpResult, PartitionOp};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_wire::messages::delete_records_response as wire;
use flumen_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use std::borrow::Cow;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, DeleteRecordsRequest<'_>);
    let mut scatter = Scatter::default();
    let mut topics = Vec::with_capacity(message.topics.len());
    for (t, topic) in message.topics.iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (n, p) in topic.partitions.iter().enumerate() {
            let mut line = wire::DeleteRecordsPartitionResult {
                partition_index: p.partition_index,
                low_watermark: -1,
                ..Default::default()
            };
            match shard.known_partition(&topic.name, p.partition_index) {
                Ok(tp) => {
                    let op = PartitionOp::DeleteRecords(p.offset);
                    scatter.add(shard, tp, (t, n), op);
                }
                Err(error) => line.error_code = error.code(),
            }
            partitions.push(line);
        }
        topics.push(wire::DeleteRecordsTopicResult {
            name: Cow::Owned(topic.name.clone().into_owned()),
            partitions,
        });
    }
    let response = DeleteRecordsResponse {
        topics,
        ..Default::default()
    };
    scatter.fill(shard, turn, request.reply, response, put);
}

fn put(response: &mut DeleteRecordsResponse<'static>, (t, n): Place, result: OpResult) {
    let topic = response.topics.get_mut(t);
    let line = topic.and_then(|t| t.partitions.get_mut(n));
    let (Some(line), OpResult::DeleteRecords(result)) = (line, result) else {
        return;
    };
    match result {
        Ok(low) => line.low_watermark = low,
        Err(error) => line.error_code = error.code(),
    }
}
