//! DescribeShareGroupOffsets (90), versions 0 and 1 (KIP-932; v1: the lag, KIP-1226).
//!
//! Three rounds: the coordinators say which share partitions a group has (where the request does
//! not), the homes of their stored states where each stands, and the partitions where they end.

use super::decode;
use crate::ops::{Gathering, GroupOp, GroupResult, ListOffsetOp, Op, OpResult, PartitionOp};
use crate::request::{Reply, Request};
use crate::share_states::{ShareStateDeed, ShareStateFor, ShareStateOp};
use crate::{Shard, Turn};
use flumen_base::{ErrorCode, PartitionIndex, ShardId, Uuid};
use flumen_coordinator::share::ShareKey;
use flumen_wire::messages as wire;
use std::borrow::Cow;
use wire::describe_share_group_offsets_response::{
    DescribeShareGroupOffsetsResponseGroup as Group,
    DescribeShareGroupOffsetsResponsePartition as Partition,
    DescribeShareGroupOffsetsResponseTopic as Topic,
};

/// ListOffsets' timestamp of the end.
const LATEST: i64 = -1;

/// The answer as it grows.
#[derive(Default)]
struct Lines {
    response: wire::DescribeShareGroupOffsetsResponse<'static>,
    /// Where the result of each operation of a round belongs: group, topic, partition.
    places: Vec<(usize, usize, usize)>,
    /// Finished records behind the start, by place; those that the lag is wanted of.
    complete: Vec<((usize, usize, usize), i32)>,
}

impl Lines {
    fn line(&mut self, (g, t, p): (usize, usize, usize)) -> Option<&mut Partition<'static>> {
        let group = self.response.groups.get_mut(g)?;
        group.topics.get_mut(t)?.partitions.get_mut(p)
    }
}

/// A partition of which nothing is known.
fn unknown(index: PartitionIndex) -> Partition<'static> {
    Partition {
        partition_index: index,
        start_offset: -1,
        lag: -1,
        ..Default::default()
    }
}

pub(crate) fn run(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(
        shard,
        turn,
        request,
        wire::DescribeShareGroupOffsetsRequest<'_>
    );
    let mut asked = Asked::default();
    let mut ops = Vec::new();
    for (g, group) in message.groups.iter().enumerate() {
        let mut answer = Group {
            group_id: Cow::Owned(group.group_id.to_string()),
            ..Default::default()
        };
        match &group.topics {
            _ if !shard.serves_share_groups() => {
                answer.error_code = ErrorCode::UnsupportedVersion.code();
            }
            None => match shard.coordinator_of(&group.group_id) {
                Ok(owner) => {
                    let group = group.group_id.to_string();
                    ops.push((owner, Op::Group(GroupOp::SharePartitions { group })));
                    asked.groups.push(g);
                }
                Err(error) => answer.error_code = error.code(),
            },
            Some(topics) => {
                let topics = topics.iter().map(|topic| {
                    let known = shard.image.topic(&topic.topic_name);
                    Topic {
                        topic_name: Cow::Owned(topic.topic_name.to_string()),
                        topic_id: known.map_or(Uuid::ZERO, |t| t.id),
                        partitions: topic.partitions.iter().map(|p| unknown(*p)).collect(),
                    }
                });
                answer.topics = topics.collect();
            }
        }
        asked.lines.response.groups.push(answer);
    }
    drop(message);
    shard.gather(turn, request.reply, Box::new(asked), ops);
}

/// The share partitions of a group, by topic.
type Found = Vec<(Uuid, Vec<PartitionIndex>)>;

/// The first round.
#[derive(Default)]
struct Asked {
    lines: Lines,
    /// The group of each operation.
    groups: Vec<usize>,
    /// The groups' places, and what they have.
    found: Vec<(usize, Found)>,
}

impl Gathering for Asked {
    fn take(&mut self, index: u32, result: OpResult) {
        let Some(g) = self.groups.get(index as usize).copied() else {
            return;
        };
        match result {
            OpResult::Group(GroupResult::SharePartitions(Ok(topics))) => {
                self.found.push((g, topics));
            }
            OpResult::Group(GroupResult::SharePartitions(Err(error))) => {
                if let Some(group) = self.lines.response.groups.get_mut(g) {
                    group.error_code = error.code();
                }
            }
            _ => {}
        }
    }

    fn finish(mut self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        for (g, topics) in self.found {
            let topics = topics.into_iter().filter_map(|(id, partitions)| {
                let name = shard.image.topic_by_id(&id)?.name.to_string();
                Some(Topic {
                    topic_name: Cow::Owned(name),
                    topic_id: id,
                    partitions: partitions.into_iter().map(unknown).collect(),
                })
            });
            if let Some(group) = self.lines.response.groups.get_mut(g) {
                group.topics = topics.collect();
            }
        }
        let mut lines = self.lines;
        let mut ops = Vec::new();
        for (g, group) in lines.response.groups.iter().enumerate() {
            for (t, topic) in group.topics.iter().enumerate() {
                for (p, partition) in topic.partitions.iter().enumerate() {
                    let key = ShareKey {
                        group: (&*group.group_id).into(),
                        topic: topic.topic_id,
                        partition: partition.partition_index,
                    };
                    let owner = shard.share_state_owner(&key);
                    let Some(owner) = owner.ok().filter(|_| !topic.topic_id.is_zero()) else {
                        continue; // there is no state
                    };
                    let (deed, who) = (ShareStateDeed::Summary, ShareStateFor::Request);
                    let op = ShareStateOp { key, deed, who };
                    ops.push((owner, Op::ShareState(Box::new(op))));
                    lines.places.push((g, t, p));
                }
            }
        }
        shard.gather(turn, reply, Box::new(Stored(lines)), ops);
    }
}

/// The second round.
struct Stored(Lines);

impl Gathering for Stored {
    fn take(&mut self, index: u32, result: OpResult) {
        let lines = &mut self.0;
        let place = lines.places.get(index as usize).copied();
        let (Some(place), OpResult::ShareState(Ok(state))) = (place, result) else {
            return; // as if there were none, says Kafka
        };
        if state.start_offset >= 0 && state.delivery_complete_count >= 0 {
            lines.complete.push((place, state.delivery_complete_count));
        }
        if let Some(line) = lines.line(place) {
            line.start_offset = state.start_offset;
            line.leader_epoch = state.leader_epoch;
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let mut lines = self.0;
        let mut ops: Vec<(ShardId, Op)> = Vec::new();
        let (mut kept, mut places) = (Vec::new(), Vec::new());
        for (place, complete) in std::mem::take(&mut lines.complete) {
            let group = lines.response.groups.get(place.0);
            let topic = group.and_then(|group| group.topics.get(place.1));
            let line = topic.and_then(|topic| topic.partitions.get(place.2));
            let (Some(topic), Some(line)) = (topic, line) else {
                continue;
            };
            let Some(tp) = shard.partition_id(&topic.topic_name, line.partition_index) else {
                continue;
            };
            let op = PartitionOp::ListOffset(ListOffsetOp {
                timestamp: LATEST,
                current_leader_epoch: -1,
                committed_only: false,
                epochs: true,
            });
            ops.push((shard.owner(tp), Op::Partition(tp, op)));
            places.push(place);
            kept.push((place, complete));
        }
        lines.places = places;
        lines.complete = kept;
        shard.gather(turn, reply, Box::new(Ends(lines)), ops);
    }
}

/// The third round.
struct Ends(Lines);

impl Gathering for Ends {
    fn take(&mut self, index: u32, result: OpResult) {
        let lines = &mut self.0;
        let place = lines.places.get(index as usize).copied();
        let complete = lines.complete.get(index as usize).map(|(_, count)| *count);
        let (Some(place), Some(complete)) = (place, complete) else {
            return;
        };
        let Some(line) = lines.line(place) else {
            return;
        };
        match result {
            OpResult::ListOffset(Ok(end)) => {
                line.lag = end.offset - line.start_offset - i64::from(complete);
            }
            OpResult::ListOffset(Err(error)) => {
                *line = Partition {
                    error_code: error.code(),
                    ..unknown(line.partition_index)
                };
            }
            _ => {}
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        shard.reply(turn, reply, &self.0.response);
    }
}
