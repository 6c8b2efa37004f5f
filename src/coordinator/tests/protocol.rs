//! Classic groups, case by case: what Kafka 4.3.1 answers.

mod common;

use common::*;
use flumen_base::ErrorCode;
use flumen_coordinator::{CoordinatorConfig, ReplyToken};

const G: &str = "group";

fn code(error: ErrorCode) -> i16 {
    error.code()
}

/// Two members, stable; the first leads. Returns their ids and the generation.
fn two_members(w: &mut World) -> (String, String, i32) {
    let a = w.join(3, &join_request(G, "", &[("range", b"a")]));
    let b = w.join(3, &join_request(G, "", &[("range", b"b")]));
    w.advance_ms(6_000);
    let (a, b) = (w.joined(a), w.joined(b));
    assert_eq!((a.error_code, b.error_code), (0, 0));
    assert_eq!(a.leader, a.member_id);
    assert_eq!(b.leader, a.member_id);
    assert_eq!((a.members.len(), b.members.len()), (2, 0));
    assert_eq!(a.generation_id, b.generation_id);
    let (ia, ib) = (a.member_id.to_string(), b.member_id.to_string());
    let follower = w.sync(3, &sync_request(G, &ib, a.generation_id, &[]));
    assert!(w.is_waiting(follower));
    let request = sync_request(G, &ia, a.generation_id, &[(&ia, b"A"), (&ib, b"B")]);
    let leader = w.sync(3, &request);
    assert_eq!(&*w.synced(leader).assignment, b"A");
    assert_eq!(&*w.synced(follower).assignment, b"B");
    (ia, ib, a.generation_id)
}

#[test]
fn first_generation_waits_for_the_initial_delay_and_longer_while_members_come() {
    let mut w = World::new();
    let first = w.join(3, &join_request(G, "", &[("range", b"1")]));
    w.advance_ms(2_999);
    let second = w.join(3, &join_request(G, "", &[("range", b"2")]));
    w.advance_ms(2_000);
    assert!(w.is_waiting(first));
    w.advance_ms(1_001);
    assert_eq!(w.joined(first).generation_id, 1);
    assert_eq!(w.joined(second).generation_id, 1);
    assert_eq!(w.state(G), "CompletingRebalance");
}

#[test]
fn initial_delay_never_exceeds_the_rebalance_timeout() {
    let mut w = World::new();
    let mut request = join_request(G, "", &[("range", b"1")]);
    request.rebalance_timeout_ms = 7_000;
    let mut tokens = vec![w.join(3, &request)];
    for _ in 0..10 {
        w.advance_ms(1_000);
        tokens.push(w.join(3, &request));
    }
    assert!(
        !w.is_waiting(tokens[0]),
        "still waiting after the rebalance timeout"
    );
}

#[test]
fn zero_delay_starts_at_the_next_tick() {
    let mut w = World::with(
        CoordinatorConfig {
            group_initial_rebalance_delay_ms: 0,
            ..config()
        },
        1,
    );
    let token = w.join(3, &join_request(G, "", &[("range", b"1")]));
    w.advance_ms(0);
    assert_eq!(w.joined(token).error_code, 0);
}

#[test]
fn a_join_phase_waits_a_moment_for_those_on_their_way() {
    let config = CoordinatorConfig {
        join_grace_ms: 25,
        ..config()
    };
    let mut w = World::with(config, 1);
    let mut request = join_request(G, "", &[("range", b"1")]);
    request.session_timeout_ms = 100_000; // longer than the rebalance timeout of 60 s
    let first = w.join(3, &request);
    w.advance_ms(3_024);
    assert!(w.is_waiting(first));
    w.advance_ms(1);
    let member = w.joined(first).member_id.to_string();
    // The same when a generation is followed by another one.
    let second = w.join(3, &request);
    w.advance_ms(60_024);
    assert!(w.is_waiting(second));
    request.member_id = member.as_str().into();
    let back = w.join(3, &request);
    assert_eq!(w.joined(back).member_id, member);
    assert!(!w.is_waiting(second));
}

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
fn protocol_with_most_votes_wins() {
    let mut w = World::new();
    let offers: [&[(&str, &[u8])]; 3] = [
        &[("a", b""), ("b", b""), ("c", b"")],
        &[("b", b""), ("a", b"")],
        &[("b", b""), ("c", b""), ("a", b"")],
    ];
    let tokens = offers.map(|o| w.join(7, &static_join(G, "", "", o)));
    // an empty instance id is an instance id like any other: the same for all three, so each fences
    // the one before
    assert_eq!(
        w.joined(tokens[0]).error_code,
        code(ErrorCode::FencedInstanceId)
    );
    let mut w = World::new();
    let tokens = offers.map(|o| w.join(3, &join_request(G, "", o)));
    w.advance_ms(10_000);
    for token in tokens {
        let joined = w.joined(token);
        assert_eq!(joined.protocol_name.as_deref(), Some("b"));
    }
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
fn a_new_member_makes_the_others_rejoin() {
    let mut w = World::new();
    let (a, b, generation) = two_members(&mut w);
    let c = w.join(3, &join_request(G, "", &[("range", b"c")]));
    assert_eq!(w.state(G), "PreparingRebalance");
    assert_eq!(
        w.heartbeat(G, &a, generation),
        ErrorCode::RebalanceInProgress
    );
    let token = w.sync(3, &sync_request(G, &a, generation, &[]));
    assert_eq!(
        w.synced(token).error_code,
        code(ErrorCode::RebalanceInProgress)
    );
    let a = w.join(3, &join_request(G, &a, &[("range", b"a")]));
    assert!(w.is_waiting(a));
    let b = w.join(3, &join_request(G, &b, &[("range", b"b")]));
    for token in [a, b, c] {
        let joined = w.joined(token);
        assert_eq!(
            (joined.error_code, joined.generation_id),
            (0, generation + 1)
        );
    }
}

#[test]
fn members_that_do_not_rejoin_in_time_are_out() {
    let mut w = World::new();
    let (a, _, generation) = two_members(&mut w);
    let c = w.join(3, &join_request(G, "", &[("range", b"c")]));
    let a_token = w.join(3, &join_request(G, &a, &[("range", b"a")]));
    // the second member's session ends before the rebalance timeout
    w.advance_ms(10_000);
    assert_eq!(w.joined(a_token).members.len(), 2);
    assert_eq!(w.joined(c).generation_id, generation + 1);
}

#[test]
fn heartbeats_keep_a_session_and_silence_ends_it() {
    let mut w = World::new();
    let (a, b, generation) = two_members(&mut w);
    for _ in 0..5 {
        w.advance_ms(9_000);
        assert_eq!(w.heartbeat(G, &a, generation), ErrorCode::None);
        assert_eq!(w.heartbeat(G, &b, generation), ErrorCode::None);
    }
    assert_eq!(
        w.heartbeat(G, &a, generation + 1),
        ErrorCode::IllegalGeneration
    );
    assert_eq!(w.heartbeat(G, "x", generation), ErrorCode::UnknownMemberId);
    w.advance_ms(5_000);
    assert_eq!(w.heartbeat(G, &a, generation), ErrorCode::None);
    w.advance_ms(5_000);
    assert_eq!(w.heartbeat(G, &b, generation), ErrorCode::UnknownMemberId);
    assert_eq!(
        w.heartbeat(G, &a, generation),
        ErrorCode::RebalanceInProgress
    );
    w.advance_ms(10_000);
    assert_eq!(w.state(G), "Empty");
}

#[test]
fn members_that_do_not_sync_in_time_are_out() {
    let mut w = World::new();
    let a = w.join(3, &join_request(G, "", &[("range", b"a")]));
    let b = w.join(3, &join_request(G, "", &[("range", b"b")]));
    w.advance_ms(6_000);
    let (a, b) = (w.joined(a), w.joined(b));
    let follower = w.sync(3, &sync_request(G, &b.member_id, 1, &[]));
    for _ in 0..12 {
        w.advance_ms(5_000);
        w.heartbeat(G, &a.member_id, 1);
    }
    assert_eq!(
        w.synced(follower).error_code,
        code(ErrorCode::RebalanceInProgress)
    );
    assert_eq!(w.heartbeat(G, &a.member_id, 1), ErrorCode::UnknownMemberId);
    assert_eq!(
        w.heartbeat(G, &b.member_id, 1),
        ErrorCode::RebalanceInProgress
    );
}

#[test]
fn leaving_rebalances_at_once_and_the_last_one_empties_the_group() {
    let mut w = World::new();
    let (a, b, generation) = two_members(&mut w);
    let token = w.leave(3, G, &[(&a, None), ("nobody", None)]);
    let left = w.left(token);
    let errors: Vec<_> = left.members.iter().map(|m| m.error_code).collect();
    assert_eq!(errors, [0, code(ErrorCode::UnknownMemberId)]);
    assert_eq!(w.state(G), "PreparingRebalance");
    let token = w.join(3, &join_request(G, &b, &[("range", b"b")]));
    assert_eq!(w.joined(token).leader, b);
    w.auto_commit = false;
    let token = w.leave(2, G, &[(&b, None)]);
    assert!(
        w.is_waiting(token),
        "the empty generation is not written yet"
    );
    w.commit_all();
    assert_eq!(w.left(token).error_code, 0);
    assert_eq!(w.state(G), "Empty");
    let described = w.coordinator.describe_group(ctx(5), G);
    assert_eq!(described.protocol_type, "consumer");
    assert!(generation + 2 > generation);
}

#[test]
fn a_follower_with_nothing_new_gets_the_generation_again_and_the_leader_forces_one() {
    let mut w = World::new();
    let (a, b, generation) = two_members(&mut w);
    let token = w.join(3, &join_request(G, &b, &[("range", b"b")]));
    let again = w.joined(token);
    assert_eq!((again.generation_id, again.members.len()), (generation, 0));
    assert_eq!(w.state(G), "Stable");
    let token = w.sync(3, &sync_request(G, &b, generation, &[]));
    assert_eq!(&*w.synced(token).assignment, b"B");
    let leader = w.join(3, &join_request(G, &a, &[("range", b"a")]));
    assert!(w.is_waiting(leader));
    assert_eq!(w.state(G), "PreparingRebalance");
    let follower = w.join(3, &join_request(G, &b, &[("range", b"b")]));
    assert_eq!(w.joined(leader).generation_id, generation + 1);
    assert_eq!(w.joined(follower).generation_id, generation + 1);
}

#[test]
fn changed_metadata_forces_a_rebalance() {
    let mut w = World::new();
    let (_, b, _) = two_members(&mut w);
    let token = w.join(3, &join_request(G, &b, &[("range", b"new")]));
    assert!(w.is_waiting(token));
    assert_eq!(w.state(G), "PreparingRebalance");
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
fn a_failed_assignment_goes_to_all_as_an_error() {
    let mut w = World::new();
    let a = w.join(3, &join_request(G, "", &[("range", b"a")]));
    let b = w.join(3, &join_request(G, "", &[("range", b"b")]));
    w.advance_ms(6_000);
    let (a, b) = (w.joined(a), w.joined(b));
    w.auto_commit = false;
    let follower = w.sync(3, &sync_request(G, &b.member_id, 1, &[]));
    let leader = w.sync(
        3,
        &sync_request(G, &a.member_id, 1, &[(&a.member_id, b"A")]),
    );
    assert!(w.fail_next(ErrorCode::NotEnoughReplicas));
    for token in [leader, follower] {
        let synced = w.synced(token);
        assert_eq!(synced.error_code, code(ErrorCode::CoordinatorNotAvailable));
        assert!(synced.assignment.is_empty());
    }
    assert_eq!(w.state(G), "PreparingRebalance");
}

#[test]
fn a_rebalance_during_the_write_makes_the_assignment_void() {
    let mut w = World::new();
    let joined = w.join_alone(G, "range");
    w.auto_commit = false;
    let id = joined.member_id.to_string();
    let sync = w.sync(3, &sync_request(G, &id, 1, &[(&id, b"A")]));
    let other = w.join(3, &join_request(G, "", &[("range", b"b")]));
    assert_eq!(
        w.synced(sync).error_code,
        code(ErrorCode::RebalanceInProgress)
    );
    w.commit_all();
    assert_eq!(w.state(G), "PreparingRebalance");
    let again = w.join(3, &join_request(G, &id, &[("range", b"a")]));
    assert_eq!(w.joined(again).generation_id, 2);
    assert_eq!(w.joined(other).generation_id, 2);
}

#[test]
fn a_group_whose_first_record_fails_never_was() {
    let mut w = World::new();
    w.auto_commit = false;
    let token = w.join(3, &join_request(G, "", &[("range", b"a")]));
    let pending = w.join(4, &join_request(G, "", &[("range", b"a")]));
    let told = w.joined(pending);
    assert_eq!(w.coordinator.describe_group(ctx(6), G).error_code, 69);
    w.fail_next(ErrorCode::KafkaStorageError);
    assert_eq!(w.joined(token).error_code, code(ErrorCode::NotCoordinator));
    let token = w.join(4, &join_request(G, &told.member_id, &[("range", b"a")]));
    assert_eq!(w.joined(token).error_code, code(ErrorCode::UnknownMemberId));
    assert!(w.log.is_empty());
}

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
fn new_members_that_wait_too_long_are_dropped() {
    let mut w = World::new();
    let (a, _, _) = two_members(&mut w);
    let mut request = join_request(G, &a, &[("range", b"new")]);
    request.rebalance_timeout_ms = 1_000_000;
    request.session_timeout_ms = 1_000_000;
    w.join(3, &request);
    let mut silent = static_join(G, "", "s", &[("range", b"s")]);
    silent.session_timeout_ms = 1_800_000;
    let s = w.join(7, &silent);
    // a pending member keeps the join phase open beyond the limit
    let mut held = join_request(G, "", &[("range", b"p")]);
    held.session_timeout_ms = 1_800_000;
    w.join(4, &held);
    w.advance_ms(300_000);
    assert_eq!(w.joined(s).error_code, code(ErrorCode::UnknownMemberId));
}

#[test]
fn loading_and_foreign_partitions() {
    let mut w = World::new();
    let (a, _, generation) = two_members(&mut w);
    let partition = flumen_coordinator::partition_for(G, PARTITIONS);
    w.coordinator.begin_load(partition);
    assert_eq!(w.heartbeat(G, &a, generation), ErrorCode::None);
    let token = w.join(3, &join_request(G, &a, &[("range", b"a")]));
    assert_eq!(
        w.joined(token).error_code,
        code(ErrorCode::CoordinatorLoadInProgress)
    );
    let error = w.coordinator.list_groups(&Default::default()).unwrap_err();
    assert_eq!(error, ErrorCode::CoordinatorLoadInProgress);
    let mut out = Default::default();
    w.coordinator.unload(w.now, partition, &mut out);
    w.drain(out);
    assert_eq!(w.heartbeat(G, &a, generation), ErrorCode::NotCoordinator);
    let described = w.coordinator.describe_group(ctx(6), G);
    assert_eq!(described.error_code, code(ErrorCode::NotCoordinator));
}

#[test]
fn giving_up_a_partition_answers_everybody() {
    let mut w = World::new();
    let (a, _, _) = two_members(&mut w);
    let join = w.join(3, &join_request(G, &a, &[("range", b"new")]));
    w.auto_commit = false;
    let commit = w.commit(5, &commit_request("simple", "", -1, &[("t0", 0, 5)]));
    let fetch = w.fetch(8, &fetch_request("simple", "t0", &[0]), true);
    let delete = w.delete_groups(&["simple", "nothing"]);
    assert!(w.is_waiting(fetch) && w.is_waiting(delete));
    for p in 0..PARTITIONS {
        let mut out = Default::default();
        w.coordinator.unload(w.now, p, &mut out);
        w.drain(out);
    }
    let not_coordinator = code(ErrorCode::NotCoordinator);
    assert_eq!(w.joined(join).error_code, not_coordinator);
    assert_eq!(
        w.committed(commit).topics[0].partitions[0].error_code,
        not_coordinator
    );
    assert_eq!(w.fetched(fetch).error_code, not_coordinator);
    assert_eq!(
        w.deleted(delete),
        [not_coordinator, code(ErrorCode::GroupIdNotFound)]
    );
    assert_eq!(w.coordinator.writes_outstanding(), 0);
}

#[test]
fn a_restart_brings_members_back_and_starts_their_sessions() {
    let mut w = World::new();
    let (a, b, generation) = two_members(&mut w);
    w.restart();
    let described = w.coordinator.describe_group(ctx(5), G);
    assert_eq!(described.group_state, "Stable");
    assert_eq!(described.protocol_data, "range");
    assert_eq!(described.members.len(), 2);
    assert_eq!(&*described.members[1].member_assignment, b"B");
    assert_eq!(&*described.members[1].member_metadata, b"b");
    assert_eq!(described.members[1].client_host, "/127.0.0.1");
    w.advance_ms(9_000);
    assert_eq!(w.heartbeat(G, &a, generation), ErrorCode::None);
    w.advance_ms(2_000);
    assert_eq!(w.heartbeat(G, &b, generation), ErrorCode::UnknownMemberId);
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
