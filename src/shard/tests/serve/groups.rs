//! Classic groups.

use super::*;
use std::borrow::Cow;

fn join(d: &mut Driver, c: Client, member: &str) -> wire::JoinGroupResponse<'static> {
    let request = wire::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member.to_owned().into(),
        protocol_type: "consumer".into(),
        protocols: vec![wire::join_group_request::JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Cow::Borrowed(&[0]),
        }],
        ..Default::default()
    };
    d.call(c, &request, 9)
}

#[test]
fn a_group_joins_commits_and_is_there_after_a_restart() {
    each_shape(|mut d| {
        let mut c = d.connect(0);
        d.create_topic(c, "t", 1);
        let find = wire::FindCoordinatorRequest {
            coordinator_keys: vec!["g".into()],
            ..Default::default()
        };
        // The question that makes the offsets topic is answered as if there was none.
        let r: wire::FindCoordinatorResponse<'_> = d.call(c, &find, 4);
        assert_eq!(r.coordinators[0].error_code, 15);
        let r: wire::FindCoordinatorResponse<'_> = d.call(c, &find, 4);
        assert_eq!(r.coordinators[0].error_code, 0);
        assert_eq!(r.coordinators[0].node_id, 1);
        // A partition that is new has no groups to be loaded: it serves at once.
        let r = join(&mut d, c, "");
        assert_eq!(r.error_code, 79);
        let member = r.member_id.into_owned();
        let r = join(&mut d, c, &member);
        assert_eq!((r.error_code, r.generation_id), (0, 1));
        let sync = wire::SyncGroupRequest {
            group_id: "g".into(),
            generation_id: 1,
            member_id: member.clone().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: vec![wire::sync_group_request::SyncGroupRequestAssignment {
                member_id: member.clone().into(),
                assignment: Cow::Borrowed(&[1, 2]),
            }],
            ..Default::default()
        };
        let r: wire::SyncGroupResponse<'_> = d.call(c, &sync, 5);
        assert_eq!((r.error_code, &*r.assignment), (0, &[1u8, 2][..]));
        let commit = wire::OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: 1,
            member_id: member.clone().into(),
            topics: vec![wire::offset_commit_request::OffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![wire::offset_commit_request::OffsetCommitRequestPartition {
                    committed_offset: 41,
                    committed_leader_epoch: -1,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let r: wire::OffsetCommitResponse<'_> = d.call(c, &commit, 8);
        assert_eq!(r.topics[0].partitions[0].error_code, 0);
        for restart in [false, true] {
            if restart {
                d.restart();
                d.run_until_ready();
                d.run_until_idle();
                c = d.connect(0);
            }
            let fetch = wire::OffsetFetchRequest {
                groups: vec![wire::offset_fetch_request::OffsetFetchRequestGroup {
                    group_id: "g".into(),
                    topics: None,
                    ..Default::default()
                }],
                ..Default::default()
            };
            let r: wire::OffsetFetchResponse<'_> = d.call(c, &fetch, 8);
            assert_eq!(r.groups[0].error_code, 0);
            let p = &r.groups[0].topics[0].partitions[0];
            assert_eq!(p.committed_offset, 41);
            let r: wire::ListGroupsResponse<'_> = d.call(c, &wire::ListGroupsRequest::default(), 5);
            assert_eq!(r.groups[0].group_id, "g");
        }
        let heartbeat = wire::HeartbeatRequest {
            group_id: "g".into(),
            generation_id: 1,
            member_id: member.into(),
            ..Default::default()
        };
        let r: wire::HeartbeatResponse = d.call(c, &heartbeat, 4);
        assert_eq!(r.error_code, 0);
    });
}

#[test]
fn without_the_offsets_topic_no_group_is_coordinated_here() {
    let mut d = Driver::ready(2, 6);
    let c = d.connect(0);
    d.create_topic(c, "t", 1);
    assert_eq!(join(&mut d, c, "").error_code, 16);
    let topics = vec![wire::offset_fetch_request::OffsetFetchRequestTopic {
        name: "t".into(),
        partition_indexes: vec![0],
    }];
    let fetch = wire::OffsetFetchRequest {
        group_id: "g".into(),
        topics: Some(topics),
        ..Default::default()
    };
    // Version 1 has no place for a group's error but at each partition.
    let r: wire::OffsetFetchResponse<'_> = d.call(c, &fetch, 1);
    assert_eq!(r.topics[0].partitions[0].error_code, 16);
    assert_eq!(r.topics[0].partitions[0].committed_offset, -1);
    let r: wire::OffsetFetchResponse<'_> = d.call(c, &fetch, 2);
    assert_eq!((r.error_code, r.topics.len()), (16, 0));
}
