//! Which requests are refused, and what others may see.

use super::common::*;
use super::{G, code, two_members};
use flumen_base::ErrorCode;
use flumen_coordinator::{CoordinatorConfig, ReplyToken};

#[test]
fn dynamic_members_must_come_back_with_their_id_from_version_4() {
    let mut w = World::new();
    let token = w.join(4, &join_request(G, "", &[("range", b"1")]));
    let told = w.joined(token);
    assert_eq!(told.error_code, code(ErrorCode::MemberIdRequired));
    let uuid = told.member_id.strip_prefix("client-").unwrap();
    let shape: Vec<_> = uuid.split('-').map(str::len).collect();
    assert_eq!(shape, [8, 4, 4, 4, 12]);
    assert_eq!(w.state(G), "Empty");
    let token = w.join(4, &join_request(G, &told.member_id, &[("range", b"1")]));
    w.advance_ms(3_000);
    let joined = w.joined(token);
    assert_eq!((joined.error_code, &joined.member_id), (0, &told.member_id));
}

#[test]
fn a_pending_member_that_stays_away_is_forgotten() {
    let mut w = World::new();
    let token = w.join(4, &join_request(G, "", &[("range", b"1")]));
    let told = w.joined(token);
    w.advance_ms(10_000);
    let token = w.join(4, &join_request(G, &told.member_id, &[("range", b"1")]));
    assert_eq!(w.joined(token).error_code, code(ErrorCode::UnknownMemberId));
}

#[test]
fn unknown_groups_and_members() {
    let mut w = World::new();
    let token = w.join(4, &join_request(G, "nobody", &[("range", b"1")]));
    assert_eq!(w.joined(token).error_code, code(ErrorCode::UnknownMemberId));
    assert_eq!(w.heartbeat(G, "nobody", 1), ErrorCode::UnknownMemberId);
    let token = w.sync(3, &sync_request(G, "nobody", 1, &[]));
    assert_eq!(w.synced(token).error_code, code(ErrorCode::UnknownMemberId));
    let token = w.leave(3, G, &[("nobody", None)]);
    let left = w.left(token);
    assert_eq!(left.error_code, 0);
    assert_eq!(left.members[0].error_code, code(ErrorCode::UnknownMemberId));
    let token = w.leave(2, G, &[("nobody", None)]);
    assert_eq!(w.left(token).error_code, code(ErrorCode::UnknownMemberId));
    let token = w.join(4, &join_request("", "", &[("range", b"1")]));
    assert_eq!(w.joined(token).error_code, code(ErrorCode::InvalidGroupId));
    assert_eq!(w.heartbeat("", "x", 1), ErrorCode::InvalidGroupId);
}

#[test]
fn session_timeouts_have_bounds() {
    let mut w = World::new();
    for (ms, ok) in [
        (5_999, false),
        (6_000, true),
        (1_800_000, true),
        (1_800_001, false),
    ] {
        let mut request = join_request(G, "", &[("range", b"1")]);
        request.session_timeout_ms = ms;
        let token = w.join(4, &request);
        let expected = match ok {
            true => ErrorCode::MemberIdRequired,
            false => ErrorCode::InvalidSessionTimeout,
        };
        assert_eq!(w.joined(token).error_code, code(expected), "{ms}");
    }
}

#[test]
fn protocols_must_fit() {
    let mut w = World::new();
    let empty = w.join(3, &join_request(G, "", &[]));
    assert_eq!(
        w.joined(empty).error_code,
        code(ErrorCode::InconsistentGroupProtocol)
    );
    two_members(&mut w);
    let other = w.join(3, &join_request(G, "", &[("sticky", b"x")]));
    assert_eq!(
        w.joined(other).error_code,
        code(ErrorCode::InconsistentGroupProtocol)
    );
    let mut connect = join_request(G, "", &[("range", b"x")]);
    connect.protocol_type = "connect".into();
    let other = w.join(3, &connect);
    assert_eq!(
        w.joined(other).error_code,
        code(ErrorCode::InconsistentGroupProtocol)
    );
}

#[test]
fn any_protocol_type_is_served() {
    let mut w = World::new();
    let mut request = join_request(G, "", &[("sessioned", b"\x01\xff")]);
    request.protocol_type = "connect".into();
    let token = w.join(3, &request);
    w.advance_ms(3_000);
    let joined = w.joined(token);
    assert_eq!(&*joined.members[0].metadata, b"\x01\xff");
    let id = joined.member_id.to_string();
    let token = w.sync(3, &sync_request(G, &id, 1, &[(&id, b"work")]));
    assert_eq!(&*w.synced(token).assignment, b"work");
    assert_eq!(
        w.coordinator.describe_group(ctx(5), G).protocol_type,
        "connect"
    );
}

#[test]
fn sync_checks_generation_and_protocol() {
    let mut w = World::new();
    let (a, _, generation) = two_members(&mut w);
    let token = w.sync(3, &sync_request(G, &a, generation - 1, &[]));
    assert_eq!(
        w.synced(token).error_code,
        code(ErrorCode::IllegalGeneration)
    );
    let mut request = sync_request(G, &a, generation, &[]);
    let token = w.sync(5, &request);
    assert_eq!(
        w.synced(token).error_code,
        code(ErrorCode::InconsistentGroupProtocol)
    );
    request.protocol_type = Some("consumer".into());
    request.protocol_name = Some("sticky".into());
    let token = w.sync(5, &request);
    assert_eq!(
        w.synced(token).error_code,
        code(ErrorCode::InconsistentGroupProtocol)
    );
    request.protocol_name = Some("range".into());
    let token = w.sync(5, &request);
    let synced = w.synced(token);
    assert_eq!((synced.error_code, &*synced.assignment), (0, &b"A"[..]));
    assert_eq!(synced.protocol_name.as_deref(), Some("range"));
}

#[test]
fn group_max_size_holds() {
    let mut w = World::with(
        CoordinatorConfig {
            group_max_size: 2,
            ..config()
        },
        1,
    );
    two_members(&mut w);
    let token = w.join(3, &join_request(G, "", &[("range", b"c")]));
    assert_eq!(
        w.joined(token).error_code,
        code(ErrorCode::GroupMaxSizeReached)
    );
    let mut w = World::with(
        CoordinatorConfig {
            group_max_size: 2,
            ..config()
        },
        1,
    );
    let tokens: Vec<ReplyToken> = (0..3)
        .map(|_| w.join(3, &join_request(G, "", &[("range", b"c")])))
        .collect();
    assert_eq!(
        w.joined(tokens[2]).error_code,
        code(ErrorCode::GroupMaxSizeReached)
    );
}

#[test]
fn admin_views() {
    let mut w = World::new();
    two_members(&mut w);
    w.commit(5, &commit_request("simple", "", -1, &[("t0", 0, 5)]));
    let mut request = flumen_wire::messages::ListGroupsRequest::default();
    let all = w.coordinator.list_groups(&request).unwrap();
    let mut names: Vec<_> = all
        .iter()
        .map(|g| (&*g.group_id, &*g.group_state))
        .collect();
    names.sort_unstable();
    assert_eq!(names, [("group", "Stable"), ("simple", "Empty")]);
    assert!(all.iter().all(|g| g.group_type == "classic"));
    request.states_filter = vec!["sTABLE ".into()];
    assert_eq!(w.coordinator.list_groups(&request).unwrap().len(), 1);
    request.states_filter = vec!["Nonsense".into()];
    assert!(w.coordinator.list_groups(&request).unwrap().is_empty());
    request.states_filter.clear();
    request.types_filter = vec!["consumer".into()];
    assert!(w.coordinator.list_groups(&request).unwrap().is_empty());
    request.types_filter = vec!["Consumer".into(), "Classic".into()];
    assert_eq!(w.coordinator.list_groups(&request).unwrap().len(), 2);

    let unknown = w.coordinator.describe_group(ctx(5), "none");
    assert_eq!((unknown.error_code, &*unknown.group_state), (0, "Dead"));
    let unknown = w.coordinator.describe_group(ctx(6), "none");
    assert_eq!(unknown.error_code, code(ErrorCode::GroupIdNotFound));
    assert_eq!(
        unknown.error_message.as_deref(),
        Some("Group none not found.")
    );
    assert_eq!(unknown.authorized_operations, i32::MIN);
}

#[test]
fn resent_requests_leave_no_answer_out() {
    let mut w = World::new();
    let (a, b, generation) = two_members(&mut w);
    let first = w.join(3, &join_request(G, &a, &[("range", b"new")]));
    let second = w.join(3, &join_request(G, &a, &[("range", b"new")]));
    assert_eq!(
        w.joined(first).error_code,
        code(ErrorCode::RebalanceInProgress)
    );
    let other = w.join(3, &join_request(G, &b, &[("range", b"b")]));
    assert_eq!(w.joined(second).generation_id, generation + 1);
    w.joined(other);
    let first = w.sync(3, &sync_request(G, &b, generation + 1, &[]));
    let second = w.sync(3, &sync_request(G, &b, generation + 1, &[]));
    assert_eq!(
        w.synced(first).error_code,
        code(ErrorCode::RebalanceInProgress)
    );
    w.sync(3, &sync_request(G, &a, generation + 1, &[(&b, b"B2")]));
    assert_eq!(&*w.synced(second).assignment, b"B2");
}
