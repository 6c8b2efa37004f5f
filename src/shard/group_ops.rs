//! Operations of the group coordinator that another shard asks for, and what they give.

use bytes::Bytes;
use flumen_base::ErrorCode;
use flumen_wire::messages as wire;

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
    DescribeStreams {
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
    DescribeStreams(Box<wire::streams_group_describe_response::DescribedGroup<'static>>),
    Delete(Vec<wire::delete_groups_response::DeletableGroupResult<'static>>),
    OffsetFetch(Box<wire::offset_fetch_response::OffsetFetchResponseGroup<'static>>),
    List(Result<Vec<wire::list_groups_response::ListedGroup<'static>>, ErrorCode>),
}

/// What a failed append means for a group's client, as Kafka's coordinator says it.
pub(crate) fn group_error(error: ErrorCode) -> ErrorCode {
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
