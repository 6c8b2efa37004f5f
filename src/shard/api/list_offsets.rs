//! ListOffsets (key 2), versions 1 to 11.
//!
//! Timestamps: -1 latest (the last stable offset with isolation level 1), -2 earliest, -3 the
//! record with the largest timestamp (v7, KIP-734), -4 earliest local (v8, KIP-405), -5 latest
//! tiered (v9, KIP-1005), -6 earliest pending upload (v11, KIP-1023); others are searched by a job:
//! the first record at or after the time, with its own timestamp. Nothing found: -1 and -1.
//!
//! - v2: isolation level (KIP-98). v4: leader epochs (KIP-320). v6: flexible. v10: timeout (unused:
//!   nothing waits remotely).

use super::decode;
use super::fill::{Place, Scatter};
use crate::ops::{ListOffsetOp, OpResult, PartitionOp};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_wire::messages::list_offsets_response as wire;
use flumen_wire::messages::{ListOffsetsRequest, ListOffsetsResponse};
use std::borrow::Cow;
use std::collections::BTreeSet;

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, ListOffsetsRequest<'_>);
    let version = request.reply.version;
    let twice = twice(&message);
    let mut refused = BTreeSet::new();
    let mut scatter = Scatter::default();
    let mut topics = Vec::with_capacity(message.topics.len());
    for (t, topic) in message.topics.iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for p in &topic.partitions {
            let found = shard.known_partition(&topic.name, p.partition_index);
            let found = found.and_then(|tp| is_known(p.timestamp, version).map(|()| tp));
            // A partition asked for twice is answered once, as wrong.
            let id = (&*topic.name, p.partition_index);
            let found = match twice.contains(&id) {
                true if !refused.insert(id) => continue,
                true => Err(ErrorCode::InvalidRequest),
                false => found,
            };
            let mut line = wire::ListOffsetsPartitionResponse {
                partition_index: p.partition_index,
                timestamp: -1,
                offset: -1,
                leader_epoch: -1,
                ..Default::default()
            };
            match found {
                Ok(tp) => {
                    let op = PartitionOp::ListOffset(ListOffsetOp {
                        timestamp: p.timestamp,
                        current_leader_epoch: p.current_leader_epoch,
                        committed_only: message.isolation_level == 1,
                        epochs: version >= 4,
                    });
                    scatter.add(shard, tp, (t, partitions.len()), op);
                }
                Err(error) => line.error_code = error.code(),
            }
            partitions.push(line);
        }
        topics.push(wire::ListOffsetsTopicResponse {
            name: Cow::Owned(topic.name.clone().into_owned()),
            partitions,
        });
    }
    let response = ListOffsetsResponse {
        topics,
        ..Default::default()
    };
    scatter.fill(shard, turn, request.reply, response, put);
}

/// The partitions that stand more than once in a request.
fn twice<'a>(message: &'a ListOffsetsRequest<'_>) -> BTreeSet<(&'a str, i32)> {
    let mut seen = BTreeSet::new();
    let topics = message.topics.iter();
    let all = topics.flat_map(|t| t.partitions.iter().map(|p| (&*t.name, p.partition_index)));
    all.filter(|one| !seen.insert(*one)).collect()
}

/// Whether a version knows a special timestamp.
fn is_known(timestamp: i64, version: i16) -> Result<(), ErrorCode> {
    let since = match timestamp {
        -3 => 7,
        -4 => 8,
        -5 => 9,
        -6 => 11,
        t if t < -6 => i16::MAX,
        _ => 0,
    };
    if version >= since {
        Ok(())
    } else {
        Err(ErrorCode::UnsupportedVersion)
    }
}

fn put(response: &mut ListOffsetsResponse<'static>, (t, n): Place, result: OpResult) {
    let topic = response.topics.get_mut(t);
    let line = topic.and_then(|t| t.partitions.get_mut(n));
    let (Some(line), OpResult::ListOffset(result)) = (line, result) else {
        return;
    };
    match result {
        Ok(listed) => {
            line.timestamp = listed.timestamp;
            line.offset = listed.offset;
            line.leader_epoch = listed.leader_epoch;
        }
        Err(error) => line.error_code = error.code(),
    }
}
