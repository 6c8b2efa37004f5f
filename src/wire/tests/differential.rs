//! Our bytes, read and written again by the kafka-protocol crate, are the same bytes: two codecs,
//! made from two releases of Kafka by different people, agree. Only bytes that are known to be good
//! are given to that crate: it trusts lengths.
#![allow(clippy::unwrap_used)] // a test may

use bytes::{Buf, Bytes, BytesMut};
use flumen_wire::testing::{CODECS, Codec, Gen};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message};

struct Their {
    name: &'static str,
    versions: (i16, i16),
    again: fn(Bytes, i16) -> Result<(Bytes, usize), String>,
}

fn again<T: Decodable + Encodable>(
    mut bytes: Bytes,
    version: i16,
) -> Result<(Bytes, usize), String> {
    let value = T::decode(&mut bytes, version).map_err(|e| format!("decode: {e}"))?;
    let mut out = BytesMut::new();
    value
        .encode(&mut out, version)
        .map_err(|e| format!("encode: {e}"))?;
    Ok((out.freeze(), bytes.remaining()))
}

macro_rules! theirs {
    ($($name:ident)*) => {
        &[$(
            Their {
                name: stringify!($name),
                versions: (
                    <theirs::$name as Message>::VERSIONS.min,
                    <theirs::$name as Message>::VERSIONS.max,
                ),
                again: again::<theirs::$name>,
            },
        )*]
    };
}

/// All that both know. Streams groups and the coordinators' records are not in that crate, and the
/// voters of its LeaderChangeMessage and VotersRecord are wrong (Kafka's own classes read ours: see
/// against_kafka.rs).
const THEIRS: &[Their] = theirs! {
    ProduceRequest
    ProduceResponse
    FetchRequest
    FetchResponse
    ListOffsetsRequest
    ListOffsetsResponse
    MetadataRequest
    MetadataResponse
    OffsetCommitRequest
    OffsetCommitResponse
    OffsetFetchRequest
    OffsetFetchResponse
    FindCoordinatorRequest
    FindCoordinatorResponse
    JoinGroupRequest
    JoinGroupResponse
    HeartbeatRequest
    HeartbeatResponse
    LeaveGroupRequest
    LeaveGroupResponse
    SyncGroupRequest
    SyncGroupResponse
    DescribeGroupsRequest
    DescribeGroupsResponse
    ListGroupsRequest
    ListGroupsResponse
    SaslHandshakeRequest
    SaslHandshakeResponse
    ApiVersionsRequest
    ApiVersionsResponse
    CreateTopicsRequest
    CreateTopicsResponse
    DeleteTopicsRequest
    DeleteTopicsResponse
    DeleteRecordsRequest
    DeleteRecordsResponse
    InitProducerIdRequest
    InitProducerIdResponse
    OffsetForLeaderEpochRequest
    OffsetForLeaderEpochResponse
    AddPartitionsToTxnRequest
    AddPartitionsToTxnResponse
    AddOffsetsToTxnRequest
    AddOffsetsToTxnResponse
    EndTxnRequest
    EndTxnResponse
    WriteTxnMarkersRequest
    WriteTxnMarkersResponse
    TxnOffsetCommitRequest
    TxnOffsetCommitResponse
    DescribeAclsRequest
    DescribeAclsResponse
    CreateAclsRequest
    CreateAclsResponse
    DeleteAclsRequest
    DeleteAclsResponse
    DescribeConfigsRequest
    DescribeConfigsResponse
    AlterConfigsRequest
    AlterConfigsResponse
    AlterReplicaLogDirsRequest
    AlterReplicaLogDirsResponse
    DescribeLogDirsRequest
    DescribeLogDirsResponse
    SaslAuthenticateRequest
    SaslAuthenticateResponse
    CreatePartitionsRequest
    CreatePartitionsResponse
    CreateDelegationTokenRequest
    CreateDelegationTokenResponse
    RenewDelegationTokenRequest
    RenewDelegationTokenResponse
    ExpireDelegationTokenRequest
    ExpireDelegationTokenResponse
    DescribeDelegationTokenRequest
    DescribeDelegationTokenResponse
    DeleteGroupsRequest
    DeleteGroupsResponse
    ElectLeadersRequest
    ElectLeadersResponse
    IncrementalAlterConfigsRequest
    IncrementalAlterConfigsResponse
    AlterPartitionReassignmentsRequest
    AlterPartitionReassignmentsResponse
    ListPartitionReassignmentsRequest
    ListPartitionReassignmentsResponse
    OffsetDeleteRequest
    OffsetDeleteResponse
    DescribeClientQuotasRequest
    DescribeClientQuotasResponse
    AlterClientQuotasRequest
    AlterClientQuotasResponse
    DescribeUserScramCredentialsRequest
    DescribeUserScramCredentialsResponse
    AlterUserScramCredentialsRequest
    AlterUserScramCredentialsResponse
    DescribeQuorumRequest
    DescribeQuorumResponse
    UpdateFeaturesRequest
    UpdateFeaturesResponse
    DescribeClusterRequest
    DescribeClusterResponse
    DescribeProducersRequest
    DescribeProducersResponse
    UnregisterBrokerRequest
    UnregisterBrokerResponse
    DescribeTransactionsRequest
    DescribeTransactionsResponse
    ListTransactionsRequest
    ListTransactionsResponse
    ConsumerGroupHeartbeatRequest
    ConsumerGroupHeartbeatResponse
    ConsumerGroupDescribeRequest
    ConsumerGroupDescribeResponse
    GetTelemetrySubscriptionsRequest
    GetTelemetrySubscriptionsResponse
    PushTelemetryRequest
    PushTelemetryResponse
    ListConfigResourcesRequest
    ListConfigResourcesResponse
    DescribeTopicPartitionsRequest
    DescribeTopicPartitionsResponse
    ShareGroupHeartbeatRequest
    ShareGroupHeartbeatResponse
    ShareGroupDescribeRequest
    ShareGroupDescribeResponse
    ShareFetchRequest
    ShareFetchResponse
    ShareAcknowledgeRequest
    ShareAcknowledgeResponse
    AddRaftVoterRequest
    AddRaftVoterResponse
    RemoveRaftVoterRequest
    RemoveRaftVoterResponse
    InitializeShareGroupStateRequest
    InitializeShareGroupStateResponse
    ReadShareGroupStateRequest
    ReadShareGroupStateResponse
    WriteShareGroupStateRequest
    WriteShareGroupStateResponse
    DeleteShareGroupStateRequest
    DeleteShareGroupStateResponse
    ReadShareGroupStateSummaryRequest
    ReadShareGroupStateSummaryResponse
    DescribeShareGroupOffsetsRequest
    DescribeShareGroupOffsetsResponse
    AlterShareGroupOffsetsRequest
    AlterShareGroupOffsetsResponse
    DeleteShareGroupOffsetsRequest
    DeleteShareGroupOffsetsResponse
    EndTxnMarker
    SnapshotHeaderRecord
    SnapshotFooterRecord
    KRaftVersionRecord
    ConsumerProtocolSubscription
    ConsumerProtocolAssignment
    DefaultPrincipalData
};

fn rounds(n: u64) -> u64 {
    n * std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(1)
}

fn ours(name: &str) -> &'static Codec {
    CODECS
        .iter()
        .find(|c| c.name == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_other_codec_reads_and_writes_the_same_bytes() {
    let mut compared = 0;
    for (i, their) in THEIRS.iter().enumerate() {
        let our = ours(their.name);
        let first = our.versions.0.max(their.versions.0);
        let last = our.versions.1.min(their.versions.1);
        assert!(first <= last, "{}: no common version", their.name);
        for version in first..=last {
            compared += 1;
            for round in 0..rounds(8) {
                let seed = round << 32 | (i as u64) << 16 | version as u64;
                let at = format!("{} v{version} seed {seed}", their.name);
                let bytes = Bytes::from((our.random)(&mut Gen::new(seed), version).unwrap());
                let (out, rest) = (their.again)(bytes.clone(), version)
                    .unwrap_or_else(|e| panic!("{at}: {e}\n{bytes:?}"));
                assert_eq!(rest, 0, "{at}: bytes left");
                assert_eq!(out, bytes, "{at}");
            }
        }
    }
    assert_eq!(compared, 544, "versions compared");
}

#[test]
fn the_rest_is_known() {
    let missing: Vec<&str> = CODECS
        .iter()
        .filter(|c| matches!(c.kind, "request" | "response"))
        .map(|c| c.name)
        .filter(|name| THEIRS.iter().all(|t| t.name != *name))
        .collect();
    assert_eq!(
        missing,
        [
            "StreamsGroupHeartbeatRequest",
            "StreamsGroupHeartbeatResponse",
            "StreamsGroupDescribeRequest",
            "StreamsGroupDescribeResponse",
        ]
    );
}
