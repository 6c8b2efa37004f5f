//! DescribeQuorum (55), versions 0 to 2: the state of the metadata group.
//!
//! Positions are Raft indexes; the log's end is the next one, as with Kafka's offsets. A leader is
//! up to date with itself at any time, and there are no observers.

use super::{Context, owned};
use crate::effect::{QuorumStatus, VoterStatus};
use flumen_base::{ErrorCode, Uuid};
use flumen_wire::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use flumen_wire::messages::{DescribeQuorumRequest, DescribeQuorumResponse};

const TOPIC: &str = "__cluster_metadata";

/// The version that lists the voters' endpoints.
const NODES_FROM: i16 = 2;

/// Describes the group at `wall_ms`.
pub fn describe_quorum(
    ctx: &Context<'_>,
    status: &QuorumStatus,
    request: &DescribeQuorumRequest<'_>,
    version: i16,
    wall_ms: i64,
) -> DescribeQuorumResponse<'static> {
    let valid = match &request.topics[..] {
        [topic] => {
            topic.topic_name == TOPIC
                && topic.partitions.len() == 1
                && topic.partitions.iter().all(|p| p.partition_index == 0)
        }
        _ => false,
    };
    if !valid {
        return refuse(request);
    }
    let voter = |v: &VoterStatus| {
        let leads = v.node_id == status.leader;
        ReplicaState {
            replica_id: v.node_id,
            replica_directory_id: Uuid::ZERO,
            log_end_offset: v.last_index as i64 + 1,
            last_fetch_timestamp: if leads { wall_ms } else { -1 },
            last_caught_up_timestamp: if leads { wall_ms } else { -1 },
        }
    };
    DescribeQuorumResponse {
        topics: vec![TopicData {
            topic_name: owned(TOPIC),
            partitions: vec![PartitionData {
                partition_index: 0,
                leader_id: status.leader,
                leader_epoch: i32::try_from(status.term).unwrap_or(i32::MAX),
                high_watermark: status.committed as i64 + 1,
                current_voters: status.voters.iter().map(voter).collect(),
                ..PartitionData::default()
            }],
        }],
        // Older versions have no place for them, and an answer must fit its version.
        nodes: if version >= NODES_FROM {
            nodes(ctx)
        } else {
            Vec::new()
        },
        ..DescribeQuorumResponse::default()
    }
}

/// This node with its controller listeners.
fn nodes(ctx: &Context<'_>) -> Vec<Node<'static>> {
    let listeners = ctx.broker.advertised_listeners.iter();
    let listeners = listeners.filter(|l| l.controller).map(|l| Listener {
        name: owned(&l.name),
        host: owned(&l.host),
        port: l.port,
    });
    vec![Node {
        node_id: ctx.broker.node_id,
        listeners: listeners.collect(),
    }]
}

fn refuse(request: &DescribeQuorumRequest<'_>) -> DescribeQuorumResponse<'static> {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| PartitionData {
            partition_index: p.partition_index,
            error_code: ErrorCode::UnknownTopicOrPartition.code(),
            error_message: Some(owned("This server does not host this topic-partition.")),
            ..PartitionData::default()
        });
        TopicData {
            topic_name: owned(&topic.topic_name),
            partitions: partitions.collect(),
        }
    });
    DescribeQuorumResponse {
        topics: topics.collect(),
        ..DescribeQuorumResponse::default()
    }
}
