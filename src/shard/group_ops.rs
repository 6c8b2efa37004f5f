//! Operations of the group coordinator that are parts of requests for several groups, which another
//! shard may ask for, and what they give.

use crate::Shard;
use crate::group_metadata::ImageTopics;
use crate::groups::{Groups, WaitingFor};
use crate::ops::{OpFrom, OpResult};
use crate::turn::Turn;
use bytes::Bytes;
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_coordinator::{ReplyToken, RequestContext as Context};
use flumen_wire::Message;
use flumen_wire::messages as wire;
use flumen_wire::messages::{ListGroupsRequest, OffsetFetchRequest};

/// An operation of the group coordinator that is part of a request for several groups.
#[derive(Debug)]
pub(crate) enum GroupOp {
    Describe {
        group: String,
        version: i16,
    },
    DescribeConsumer {
        group: String,
    },
    DescribeShare {
        group: String,
    },
    DescribeStreams {
        group: String,
    },
    /// The share partitions of a share group that have stored state.
    SharePartitions {
        group: String,
    },
    Delete {
        groups: Vec<String>,
    },
    OffsetFetch {
        /// Group number `group` of this request is meant; kept encoded, it is cheap to decode
        /// again.
        body: Bytes,
        group: usize,
        version: i16,
    },
    List {
        body: Bytes,
        version: i16,
    },
}

/// What a group operation gives.
#[derive(Debug)]
pub(crate) enum GroupResult {
    Describe(Box<wire::describe_groups_response::DescribedGroup<'static>>),
    DescribeConsumer(Box<wire::consumer_group_describe_response::DescribedGroup<'static>>),
    DescribeShare(Box<wire::share_group_describe_response::DescribedGroup<'static>>),
    DescribeStreams(Box<wire::streams_group_describe_response::DescribedGroup<'static>>),
    SharePartitions(Result<Vec<(Uuid, Vec<PartitionIndex>)>, ErrorCode>),
    Delete(Vec<wire::delete_groups_response::DeletableGroupResult<'static>>),
    OffsetFetch(Box<wire::offset_fetch_response::OffsetFetchResponseGroup<'static>>),
    List(Result<Vec<wire::list_groups_response::ListedGroup<'static>>, ErrorCode>),
}

impl Shard {
    /// Op::Group of a shard.
    pub(crate) fn run_group_op(&mut self, turn: &mut Turn<'_>, from: OpFrom, op: GroupOp) {
        let now = turn.now;
        let token = ReplyToken(self.next_id());
        let topics = ImageTopics(&self.image);
        let Groups {
            coordinator,
            out,
            waiting,
            ..
        } = &mut self.groups;
        let context = |api_version| Context {
            api_version,
            client_id: "",
            client_host: "",
        };
        let result = match op {
            GroupOp::Describe { group, version } => {
                let described = coordinator.describe_group(context(version), &group);
                GroupResult::Describe(Box::new(described))
            }
            GroupOp::DescribeConsumer { group } => {
                let described = coordinator.describe_consumer_group(&group);
                GroupResult::DescribeConsumer(Box::new(described))
            }
            GroupOp::DescribeShare { group } => {
                let described = coordinator.describe_share_group(&group);
                GroupResult::DescribeShare(Box::new(described))
            }
            GroupOp::DescribeStreams { group } => {
                let described = coordinator.describe_streams_group(&group);
                GroupResult::DescribeStreams(Box::new(described))
            }
            GroupOp::SharePartitions { group } => {
                GroupResult::SharePartitions(coordinator.share_partitions_of(&group))
            }
            GroupOp::List { body, version } => {
                GroupResult::List(match ListGroupsRequest::decode_exact(&body, version) {
                    Ok(request) => coordinator.list_groups(&request),
                    Err(_) => Err(ErrorCode::InvalidRequest),
                })
            }
            GroupOp::Delete { groups } => {
                waiting.insert(token, WaitingFor::Op(from));
                let names: Vec<&str> = groups.iter().map(String::as_str).collect();
                return coordinator.delete_groups(now, token, &names, out);
            }
            GroupOp::OffsetFetch {
                body,
                group,
                version,
            } => {
                let Ok(request) = OffsetFetchRequest::decode_exact(&body, version) else {
                    return;
                };
                let stable = request.require_stable;
                let one = flumen_coordinator::offset_fetch_group_of(&request);
                let group = request.groups.get(group).filter(|_| version >= 8);
                let group = group.unwrap_or(&one);
                waiting.insert(token, WaitingFor::Op(from));
                coordinator.offset_fetch(context(version), token, group, stable, &topics, out);
                return;
            }
        };
        self.outbox.result(from, OpResult::Group(result));
    }
}

/// What a failed append means for who asked a coordinator of groups or of share states, as Kafka's
/// say it.
pub(crate) fn append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::InvalidFetchSize => ErrorCode::UnknownServerError,
        other => other,
    }
}
