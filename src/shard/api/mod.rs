//! One file per Kafka API, and the table that says which versions of which are served: the single
//! source for ApiVersions and for `docs/protocol-support.md`.
//!
//! To add one: a file here with `run(&mut Shard, &mut Turn, Request)`, its header comment
//! (versions, behaviour, notes per version with their KIP, known gaps), and a line in [`HANDLERS`].
//! The wire types exist for every API. A request that only the controller can answer has
//! [`Route::Controller`] and goes on with `Shard::decide`.

pub(crate) mod alter_replica_log_dirs;
pub(crate) mod api_versions;
pub(crate) mod authorized;
pub(crate) mod consumer_group_apis;
pub(crate) mod controller_apis;
pub(crate) mod delete_records;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_producers;
pub(crate) mod describe_topic_partitions;
pub(crate) mod fetch;
pub(crate) mod fetch_answer;
mod fetch_watch;
pub(crate) mod fill;
pub(crate) mod find_coordinator;
pub(crate) mod group_apis;
pub(crate) mod init_producer_id;
pub(crate) mod list_config_resources;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod multi_group_apis;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod share_acks;
mod share_answer;
mod share_begin;
pub(crate) mod share_fetch;
pub(crate) mod share_group_apis;
pub(crate) mod share_offsets;
pub(crate) mod share_state_apis;
pub(crate) mod streams_group_apis;
pub(crate) mod txn_apis;
pub(crate) mod txn_offset_commit;
pub(crate) mod verify;

use crate::request::Request;
use crate::{Shard, Turn};
use flumen_wire::ApiKey;

/// Decodes the body of a request, or ends its connection and returns.
macro_rules! decode {
    ($shard:ident, $turn:ident, $request:ident, $message:ty) => {
        decode!($shard, $turn, $request => $request.body, $message)
    };
    ($shard:ident, $turn:ident, $request:ident => $body:expr, $message:ty) => {
        match <$message as flumen_wire::Message<'_>>::decode_exact(&$body, $request.reply.version) {
            Ok(message) => message,
            Err(error) => {
                $shard.malformed($turn, $request.reply, error);
                return;
            }
        }
    };
}
pub(crate) use decode;

/// Where a request is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// On the shard of its connection, which asks others where it must.
    Here,
    /// On shard 0.
    Controller,
}

/// One API.
pub(crate) struct Handler {
    pub(crate) key: ApiKey,
    /// The versions served. Advertised as they are, but for Produce (see [`ApiKey`]'s table).
    pub(crate) min: i16,
    pub(crate) max: i16,
    pub(crate) route: Route,
    pub(crate) run: fn(&mut Shard, &mut Turn<'_>, Request),
    /// What is missing, for the documentation; empty when nothing is known.
    pub(crate) gaps: &'static str,
}

impl Handler {
    /// Whether requests of this version are handled.
    pub(crate) fn serves(&self, version: i16, unstable: bool) -> bool {
        (self.min..=self.newest(unstable)).contains(&version)
    }

    /// The newest version that is served, with or without `unstable.api.versions.enable`.
    pub(crate) fn newest(&self, unstable: bool) -> i16 {
        let held_back = self.key == ApiKey::InitProducerId && !unstable;
        self.max - i16::from(held_back)
    }

    /// Whether it is served on this kind of listener. A controller listener has what an admin
    /// client asks of controllers (KIP-919) and nothing of partitions and groups.
    pub(crate) fn is_on(&self, controller_listener: bool) -> bool {
        let both = matches!(
            self.key,
            ApiKey::ApiVersions | ApiKey::DescribeCluster | ApiKey::DescribeConfigs
        );
        !controller_listener || both || self.route == Route::Controller
    }
}

macro_rules! handlers {
    ($($key:ident $min:literal $max:literal $route:ident $run:path, $gaps:literal;)*) => {
        /// Every API that is served, by ascending key.
        pub(crate) const HANDLERS: &[Handler] = &[$(Handler {
            key: ApiKey::$key,
            min: $min,
            max: $max,
            route: Route::$route,
            run: $run,
            gaps: $gaps,
        }),*];
    };
}

handlers! {
    Produce 3 13 Here produce::run, "CurrentLeader (KIP-951)";
    Fetch 4 18 Here fetch::run,
        "requests of follower brokers; preferred read replica (KIP-392); CurrentLeader (KIP-951)";
    ListOffsets 1 11 Here list_offsets::run, "";
    Metadata 0 13 Here metadata::run, "";
    OffsetCommit 2 10 Here group_apis::offset_commit, "";
    OffsetFetch 1 10 Here multi_group_apis::offset_fetch, "";
    FindCoordinator 0 6 Here find_coordinator::run, "";
    JoinGroup 0 9 Here group_apis::join_group, "";
    Heartbeat 0 4 Here group_apis::heartbeat, "";
    LeaveGroup 0 5 Here group_apis::leave_group, "";
    SyncGroup 0 5 Here group_apis::sync_group, "";
    DescribeGroups 0 6 Here multi_group_apis::describe_groups, "";
    ListGroups 0 5 Here multi_group_apis::list_groups, "";
    ApiVersions 0 4 Here api_versions::run, "";
    CreateTopics 2 7 Controller controller_apis::create_topics, "";
    DeleteTopics 1 6 Controller controller_apis::delete_topics, "";
    DeleteRecords 0 2 Here delete_records::run, "";
    InitProducerId 0 6 Here init_producer_id::run,
        "6 only with `unstable.api.versions.enable`; two-phase commit (KIP-939) is refused";
    OffsetForLeaderEpoch 2 4 Here offset_for_leader_epoch::run, "";
    AddPartitionsToTxn 0 5 Here txn_apis::add_partitions, "";
    AddOffsetsToTxn 0 4 Here txn_apis::add_offsets, "";
    EndTxn 0 5 Here txn_apis::end_txn, "";
    WriteTxnMarkers 1 2 Here txn_apis::write_markers, "";
    TxnOffsetCommit 0 5 Here txn_offset_commit::run, "";
    DescribeConfigs 1 4 Here describe_configs::run, "broker loggers";
    AlterConfigs 0 2 Controller controller_apis::alter_configs, "";
    AlterReplicaLogDirs 1 2 Here alter_replica_log_dirs::run, "";
    DescribeLogDirs 1 5 Here describe_log_dirs::run, "";
    CreatePartitions 0 3 Controller controller_apis::create_partitions, "";
    DeleteGroups 0 2 Here multi_group_apis::delete_groups, "";
    ElectLeaders 0 2 Controller controller_apis::elect_leaders, "";
    IncrementalAlterConfigs 0 1 Controller controller_apis::incremental_alter_configs,
        "broker loggers";
    AlterPartitionReassignments 0 1 Controller controller_apis::alter_partition_reassignments, "";
    ListPartitionReassignments 0 0 Controller controller_apis::list_partition_reassignments, "";
    OffsetDelete 0 0 Here group_apis::offset_delete, "";
    DescribeQuorum 0 2 Controller controller_apis::describe_quorum, "";
    UpdateFeatures 0 2 Controller controller_apis::update_features, "";
    DescribeCluster 0 2 Here describe_cluster::run, "";
    DescribeProducers 0 0 Here describe_producers::run, "";
    UnregisterBroker 0 0 Controller controller_apis::unregister_broker, "";
    DescribeTransactions 0 0 Here txn_apis::describe, "";
    ListTransactions 0 2 Here txn_apis::list, "";
    ConsumerGroupHeartbeat 0 1 Here consumer_group_apis::heartbeat, "";
    ConsumerGroupDescribe 0 1 Here consumer_group_apis::describe, "";
    ListConfigResources 0 1 Here list_config_resources::run, "";
    DescribeTopicPartitions 0 0 Here describe_topic_partitions::run, "";
    ShareGroupHeartbeat 1 1 Here share_group_apis::heartbeat, "";
    ShareGroupDescribe 1 1 Here share_group_apis::describe, "";
    ShareFetch 1 2 Here share_fetch::run, "CurrentLeader (KIP-951)";
    ShareAcknowledge 1 2 Here share_acks::run, "CurrentLeader (KIP-951)";
    InitializeShareGroupState 0 0 Here share_state_apis::initialize, "";
    ReadShareGroupState 0 0 Here share_state_apis::read, "";
    WriteShareGroupState 0 1 Here share_state_apis::write, "";
    DeleteShareGroupState 0 0 Here share_state_apis::delete, "";
    ReadShareGroupStateSummary 0 1 Here share_state_apis::summary, "";
    StreamsGroupHeartbeat 0 0 Here streams_group_apis::heartbeat, "";
    StreamsGroupDescribe 0 0 Here streams_group_apis::describe, "";
    DescribeShareGroupOffsets 0 1 Here share_offsets::run, "";
    AlterShareGroupOffsets 0 0 Here share_group_apis::alter_offsets, "";
    DeleteShareGroupOffsets 0 0 Here share_group_apis::delete_offsets, "";
}

/// Keys of APIs are below it.
const KEYS: usize = 128;

/// At each key the place of its handler in [`HANDLERS`]; past its end where there is none.
const PLACES: [u8; KEYS] = {
    let mut places = [u8::MAX; KEYS];
    let mut n = 0;
    while n < HANDLERS.len() {
        places[HANDLERS[n].key as usize] = n as u8;
        n += 1;
    }
    places
};

/// The handler of an API.
pub(crate) fn handler(key: ApiKey) -> Option<&'static Handler> {
    let place = PLACES.get(key as usize)?;
    HANDLERS.get(usize::from(*place))
}

/// One line of `docs/protocol-support.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    /// Key of the API.
    pub key: i16,
    /// Kafka's name of it.
    pub name: &'static str,
    /// The versions of Kafka 4.3.1.
    pub kafka: (i16, i16),
    /// The versions served; `None` where the API is not built yet.
    pub served: Option<(i16, i16)>,
    /// What is missing in what is served.
    pub gaps: &'static str,
}

/// All APIs of a Kafka 4.3.1 broker's client listener and what of them is served.
pub fn support_table() -> Vec<Support> {
    ApiKey::ALL
        .iter()
        .map(|key| {
            let handler = handler(*key);
            Support {
                key: key.code(),
                name: key.info().name,
                kafka: (key.info().min, key.info().max),
                served: handler.map(|h| (h.min, h.max)),
                gaps: handler.map_or("", |h| h.gaps),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_ascend_and_stay_within_kafka_versions() {
        assert!(HANDLERS.is_sorted_by_key(|h| h.key.code()));
        for h in HANDLERS {
            let info = h.key.info();
            assert!(h.min >= info.min && h.max <= info.max, "{}", info.name);
        }
    }
}
