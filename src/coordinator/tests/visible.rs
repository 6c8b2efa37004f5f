//! When admin requests see a group whose first record is still on its way.

use flumen_base::{Mono, Now, Prng};
use flumen_coordinator::{
    CoordinatorConfig, GroupCoordinator, Out, ReplyToken, RequestContext, partition_for,
};
use flumen_wire::messages::{
    JoinGroupRequest, ListGroupsRequest, join_group_request::JoinGroupRequestProtocol,
};

/// A slow disk must not hide a group from those who look right after its members joined.
#[test]
fn a_group_with_a_generation_is_seen_before_its_record_is_written() {
    let config = CoordinatorConfig::default();
    let partition = partition_for("readers", config.offsets_topic_num_partitions);
    let mut coordinator = GroupCoordinator::new(config, Prng::new(1));
    let mut now = Now {
        mono: Mono(0),
        wall_ms: 1_700_000_000_000,
    };
    let mut out = Out::default();
    coordinator.begin_load(partition);
    coordinator.finish_load(now, partition, &mut out);
    let request = JoinGroupRequest {
        group_id: "readers".into(),
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 300_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let ctx = RequestContext {
        api_version: 3,
        client_id: "c",
        client_host: "/127.0.0.1",
    };
    coordinator.join_group(now, ctx, ReplyToken(7), &request, &mut out);
    assert_eq!(out.appends.len(), 1, "its first record, not written yet");
    assert_eq!(
        coordinator.describe_group(ctx, "readers").group_state,
        "Dead"
    );
    now.mono = coordinator.next_deadline().unwrap();
    coordinator.tick(now, &mut out);
    assert_eq!(out.replies.len(), 1, "the member has joined");
    let described = coordinator.describe_group(ctx, "readers");
    assert_eq!(described.group_state, "CompletingRebalance");
    assert_eq!(described.members.len(), 1);
    let listed = coordinator.list_groups(&ListGroupsRequest::default());
    assert_eq!(listed.unwrap().len(), 1);
}
