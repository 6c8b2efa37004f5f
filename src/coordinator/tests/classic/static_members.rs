//! Members with a `group.instance.id`.

use super::common::*;
use super::{G, code};
use flumen_base::ErrorCode;

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut w = World::new();
    let token = w.join(7, &static_join(G, "", "i1", &[("range", b"m")]));
    let token2 = w.join(7, &static_join(G, "", "i2", &[("range", b"m")]));
    w.advance_ms(6_000);
    let (one, two) = (w.joined(token), w.joined(token2));
    assert!(one.member_id.starts_with("i1-"));
    let sync = [(&*one.member_id, &b"1"[..]), (&*two.member_id, &b"2"[..])];
    w.sync(3, &sync_request(G, &one.member_id, 1, &sync));
    assert_eq!(w.state(G), "Stable");
    // the follower restarts
    let token = w.join(7, &static_join(G, "", "i2", &[("range", b"m")]));
    let back = w.joined(token);
    assert_eq!((back.error_code, back.generation_id), (0, 1));
    assert_ne!(back.member_id, two.member_id);
    assert_eq!(back.leader, one.member_id);
    assert_eq!(w.state(G), "Stable");
    let token = w.sync(3, &sync_request(G, &back.member_id, 1, &[]));
    assert_eq!(&*w.synced(token).assignment, b"2");
    // the old one is fenced
    let fenced = w.heartbeat_as(G, &two.member_id, Some("i2"), 1);
    assert_eq!(fenced, ErrorCode::FencedInstanceId);
    let unknown = w.heartbeat_as(G, &two.member_id, Some("i3"), 1);
    assert_eq!(unknown, ErrorCode::UnknownMemberId);
    assert_eq!(
        w.heartbeat(G, &two.member_id, 1),
        ErrorCode::UnknownMemberId
    );
    // and the log knows the new one
    w.restart();
    assert_eq!(
        w.heartbeat_as(G, &back.member_id, Some("i2"), 1),
        ErrorCode::None
    );
}

#[test]
fn a_returning_static_leader_skips_the_assignment_from_version_9() {
    for version in [8, 9] {
        let mut w = World::new();
        let token = w.join(version, &static_join(G, "", "i1", &[("range", b"m")]));
        w.advance_ms(3_000);
        let one = w.joined(token);
        w.sync(
            3,
            &sync_request(G, &one.member_id, 1, &[(&one.member_id, b"1")]),
        );
        let token = w.join(version, &static_join(G, "", "i1", &[("range", b"m")]));
        let back = w.joined(token);
        assert_eq!(back.generation_id, 1);
        if version == 9 {
            assert!(back.skip_assignment);
            assert_eq!(back.leader, back.member_id);
            assert_eq!(back.members.len(), 1);
        } else {
            // or it would take itself for the leader and wait for all to join
            assert!(!back.skip_assignment);
            assert_eq!(back.leader, one.member_id);
            assert!(back.members.is_empty());
        }
    }
}

#[test]
fn a_static_return_that_can_not_be_written_is_undone() {
    let mut w = World::new();
    let token = w.join(7, &static_join(G, "", "i1", &[("range", b"m")]));
    w.advance_ms(3_000);
    let one = w.joined(token);
    w.sync(
        3,
        &sync_request(G, &one.member_id, 1, &[(&one.member_id, b"1")]),
    );
    w.auto_commit = false;
    let token = w.join(7, &static_join(G, "", "i1", &[("range", b"m")]));
    assert!(w.is_waiting(token));
    w.fail_next(ErrorCode::NotLeaderOrFollower);
    assert_eq!(w.joined(token).error_code, code(ErrorCode::NotCoordinator));
    assert_eq!(
        w.heartbeat_as(G, &one.member_id, Some("i1"), 1),
        ErrorCode::None
    );
}

#[test]
fn a_static_member_can_be_removed_by_instance_id() {
    let mut w = World::new();
    let token = w.join(7, &static_join(G, "", "i1", &[("range", b"m")]));
    w.advance_ms(3_000);
    w.joined(token);
    let token = w.leave(3, G, &[("", Some("i1")), ("", Some("i9"))]);
    let left = w.left(token);
    let errors: Vec<_> = left.members.iter().map(|m| m.error_code).collect();
    assert_eq!(errors, [0, code(ErrorCode::UnknownMemberId)]);
    assert_eq!(w.state(G), "Empty");
}

#[test]
fn a_static_member_keeps_its_place_while_it_is_away() {
    let mut w = World::new();
    let token = w.join(7, &static_join(G, "", "i1", &[("range", b"m")]));
    let mut long = static_join(G, "", "i2", &[("range", b"m")]);
    long.session_timeout_ms = 600_000;
    let token2 = w.join(7, &long);
    w.advance_ms(6_000);
    let (one, two) = (w.joined(token), w.joined(token2));
    let sync = [(&*one.member_id, &b"1"[..]), (&*two.member_id, &b"2"[..])];
    w.sync(3, &sync_request(G, &one.member_id, 1, &sync));
    w.sync(3, &sync_request(G, &two.member_id, 1, &[]));
    // a rebalance that the second one misses
    let token = w.join(7, &static_join(G, &one.member_id, "i1", &[("range", b"x")]));
    w.advance_ms(60_000);
    let joined = w.joined(token);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 2));
}
