//! What goes in beside a request and what comes out of the coordinator.

use crate::share_group::ShareCall;
use bytes::Bytes;
use flumen_base::{ErrorCode, PartitionIndex, ProducerId, Uuid};
use flumen_wire::messages::create_topics_request::CreatableTopic;
use flumen_wire::messages::delete_groups_response::DeletableGroupResult;
use flumen_wire::messages::offset_fetch_response::OffsetFetchResponseGroup;
use flumen_wire::messages::{
    AlterShareGroupOffsetsResponse, ConsumerGroupHeartbeatResponse,
    DeleteShareGroupOffsetsResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitResponse,
    OffsetDeleteResponse, ShareGroupHeartbeatResponse, StreamsGroupHeartbeatResponse,
    SyncGroupResponse, TxnOffsetCommitResponse,
};
use std::fmt;

/// The shard's name for one waiting request; chosen by the shard, answered exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyToken(pub u64);

/// The coordinator's name for one [`Append`]; never reused by this coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteToken(pub u64);

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// Version of the request: decides some rules (MEMBER_ID_REQUIRED from JoinGroup 4, batched
    /// leave from 3 ...).
    pub api_version: i16,
    /// The header's client id; "" when null. Member ids start with it.
    pub client_id: &'a str,
    /// The client's address as Kafka shows it: `/127.0.0.1`.
    pub client_host: &'a str,
}

/// One record for `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Key with its 2-byte type in front.
    pub key: Bytes,
    /// Value with its 2-byte version in front; `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// What kind of batch an [`Append`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendKind {
    /// Records as such.
    Plain,
    /// Records of a transaction.
    Txn {
        /// Whose.
        producer_id: ProducerId,
        /// And under which epoch.
        producer_epoch: i16,
        /// The proof that the log wants; `None` where the transaction is open in it.
        guard: Option<u64>,
    },
    /// The marker that ends a transaction; it has no records of the coordinator.
    Marker(TxnMarker),
}

/// A transaction marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnMarker {
    /// Whose transaction ends.
    pub producer_id: ProducerId,
    /// Under which epoch.
    pub producer_epoch: i16,
    /// Epoch of the transaction coordinator.
    pub coordinator_epoch: i32,
    /// Committed, not rolled back.
    pub commit: bool,
    /// `transaction.version` that the transaction was made under.
    pub transaction_version: i16,
}

/// Records to append as one batch (split only where they exceed the topic's `max.message.bytes`),
/// timestamped with the turn's wall clock. Answer with `commit` or `append_failed`, per partition
/// in the order handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Partition of `__consumer_offsets`; owned by this shard.
    pub partition: PartitionIndex,
    /// At least one; none for a marker.
    pub records: Vec<Record>,
    /// What kind of batch they make.
    pub kind: AppendKind,
    /// To be handed back.
    pub write_token: WriteToken,
}

/// The effects of a call; the shard drains all lists after each call (replies may leave before
/// appends are done: a reply that depends on an append comes out of its `commit`).
#[derive(Debug, Default)]
pub struct Out {
    /// In the order they must be appended.
    pub appends: Vec<Append>,
    /// In no particular order.
    pub replies: Vec<(ReplyToken, Reply)>,
    /// To be carried out by those who have the stored states of share partitions, and answered with
    /// [`crate::GroupCoordinator::share_called`] and the number.
    pub share_calls: Vec<(u64, ShareCall)>,
}

/// The answer to a StreamsGroupHeartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamsHeartbeat {
    /// What the member hears.
    pub response: StreamsGroupHeartbeatResponse<'static>,
    /// Topics of the application that the cluster does not have yet: to be created, as often as
    /// they are named until they are there.
    pub topics: Vec<CreatableTopic<'static>>,
}

/// An answer that may have had to wait. It already fits the version of its request.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is the response of that name
pub enum Reply {
    JoinGroup(JoinGroupResponse<'static>),
    SyncGroup(SyncGroupResponse<'static>),
    LeaveGroup(LeaveGroupResponse<'static>),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse<'static>),
    StreamsGroupHeartbeat(Box<StreamsHeartbeat>),
    ShareGroupHeartbeat(ShareGroupHeartbeatResponse<'static>),
    AlterShareGroupOffsets(AlterShareGroupOffsetsResponse<'static>),
    DeleteShareGroupOffsets(DeleteShareGroupOffsetsResponse<'static>),
    OffsetCommit(OffsetCommitResponse<'static>),
    /// One group; the shard joins those of one request.
    OffsetFetch(OffsetFetchResponseGroup<'static>),
    OffsetDelete(OffsetDeleteResponse<'static>),
    TxnOffsetCommit(TxnOffsetCommitResponse<'static>),
    /// A marker is written, or why not.
    TxnCompleted(ErrorCode),
    /// One result per group asked for, in that order; the shard joins those of several shards.
    DeleteGroups(Vec<DeletableGroupResult<'static>>),
}

/// What the coordinator asks of the cluster's metadata image; implemented by the shard.
pub trait Topics {
    /// Id of the topic with this name.
    fn id_of(&self, name: &str) -> Option<Uuid>;
    /// Name of the topic with this id.
    fn name_of(&self, id: Uuid) -> Option<&str>;
    /// Whether the topic exists and has this partition.
    fn has_partition(&self, name: &str, partition: PartitionIndex) -> bool;
}

/// Settings of one group that were set for it alone (the GROUP config resource), within the
/// broker's bounds; `None`: the broker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // `consumer.x` of the same name, `share.x` of `share_x`
pub struct GroupSettings {
    pub session_timeout_ms: Option<i32>,
    pub heartbeat_interval_ms: Option<i32>,
    pub assignment_interval_ms: Option<i32>,
    pub share_session_timeout_ms: Option<i32>,
    pub share_heartbeat_interval_ms: Option<i32>,
    pub share_assignment_interval_ms: Option<i32>,
    pub streams: StreamsSettings,
}

/// The same of a streams group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // `streams.x` of the same name
pub struct StreamsSettings {
    pub session_timeout_ms: Option<i32>,
    pub heartbeat_interval_ms: Option<i32>,
    pub assignment_interval_ms: Option<i32>,
    pub initial_rebalance_delay_ms: Option<i32>,
    /// `streams.num.standby.replicas`
    pub standby_replicas: Option<i32>,
}

/// The cluster's metadata as groups with assignment by the coordinator need it: one version of it,
/// handed over with [`crate::GroupCoordinator::set_metadata`].
pub trait Metadata: fmt::Debug + Send + Sync {
    /// Goes up with every change.
    fn version(&self) -> i64;
    /// Id of the topic with this name.
    fn topic_id(&self, name: &str) -> Option<Uuid>;
    /// Name of the topic with this id.
    fn topic_name(&self, id: Uuid) -> Option<&str>;
    /// How many partitions a topic has.
    fn partition_count(&self, id: Uuid) -> Option<i32>;
    /// The racks of the brokers that hold a partition, in any order, as often as they hold it.
    fn racks(&self, id: Uuid, partition: PartitionIndex) -> Vec<&str>;
    /// Calls `each` with the name of every topic.
    fn for_each_topic(&self, each: &mut dyn FnMut(&str));
    /// What is set for a group.
    fn group_settings(&self, group: &str) -> GroupSettings;
}

/// No topics: what a coordinator knows before it is told.
#[derive(Debug)]
pub(crate) struct NoMetadata;

impl Metadata for NoMetadata {
    fn version(&self) -> i64 {
        0
    }
    fn topic_id(&self, _name: &str) -> Option<Uuid> {
        None
    }
    fn topic_name(&self, _id: Uuid) -> Option<&str> {
        None
    }
    fn partition_count(&self, _id: Uuid) -> Option<i32> {
        None
    }
    fn racks(&self, _id: Uuid, _partition: PartitionIndex) -> Vec<&str> {
        Vec::new()
    }
    fn for_each_topic(&self, _each: &mut dyn FnMut(&str)) {}
    fn group_settings(&self, _group: &str) -> GroupSettings {
        GroupSettings::default()
    }
}
