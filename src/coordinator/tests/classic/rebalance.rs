//! How a generation comes about and ends.

use super::common::*;
use super::{G, code, two_members};
use flumen_base::ErrorCode;
use flumen_coordinator::CoordinatorConfig;

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
