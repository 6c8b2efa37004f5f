//! Share groups (KIP-932): heartbeats, what is assigned, stored states, offsets, deletion, writes
//! that fail, restarts.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests stand outside of them

mod common;

use common::consumers::join_consumers;
use common::shares::share_request;
use common::streams::{join_streams, simple};
use common::{World, join_request, topic_id};
use flumen_base::{ErrorCode, Prng};
use flumen_coordinator::ShareDeed;
use flumen_wire::messages::AlterShareGroupOffsetsRequest;
use flumen_wire::messages::alter_share_group_offsets_request::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use flumen_wire::messages::share_group_heartbeat_response::ShareGroupHeartbeatResponse;
use std::collections::BTreeSet;

fn assigned(response: &ShareGroupHeartbeatResponse<'_>) -> Vec<(u8, Vec<i32>)> {
    let topics = response.assignment.iter().flat_map(|a| &a.topic_partitions);
    topics
        .map(|t| (t.topic_id.as_bytes()[0] - 1, t.partitions.clone()))
        .collect()
}

/// A group "g" of member "m" that has all of t0.
fn with_member() -> World {
    let mut world = World::new();
    let r = world.share_beat("g", "m", 0, Some(&["t0"]));
    assert_eq!((r.error_code, r.member_epoch), (0, 2));
    assert_eq!(assigned(&r), [], "nothing has stored state yet");
    world.answer_call(ErrorCode::None);
    world.advance_ms(1000);
    let r = world.share_beat("g", "m", 2, None);
    assert_eq!((r.error_code, r.member_epoch), (0, 3));
    assert_eq!(assigned(&r), [(0, (0..10).collect())]);
    world
}

#[test]
fn partitions_are_assigned_when_they_have_stored_state() {
    let mut world = World::new();
    let r = world.share_beat("g", "m", 0, Some(&["t0", "none"]));
    assert_eq!((r.error_code, r.member_epoch), (0, 2));
    assert_eq!(r.heartbeat_interval_ms, 5000);
    let call = world.answer_call(ErrorCode::None);
    let ShareDeed::Initialize {
        state_epoch,
        partitions,
    } = call.what
    else {
        panic!("another call")
    };
    assert_eq!((&*call.group, state_epoch), ("g", 2));
    let all: Vec<_> = (0..10).map(|p| (topic_id(0), p, -1)).collect();
    assert_eq!(partitions, all);
    // The target was made just now; the next may follow after a second.
    let r = world.share_beat("g", "m", 2, None);
    assert_eq!((r.member_epoch, r.assignment.is_none()), (2, true));
    world.advance_ms(1000);
    let r = world.share_beat("g", "m", 2, None);
    assert_eq!(
        (r.member_epoch, assigned(&r)),
        (3, vec![(0, (0..10).collect())])
    );
    let r = world.share_beat("g", "m", 3, None);
    assert_eq!((r.member_epoch, r.assignment.is_none()), (3, true));
    let described = world.describe_share("g");
    assert_eq!(
        (&*described.group_state, described.group_epoch),
        ("Stable", 3)
    );
    assert_eq!(
        (&*described.assignor_name, described.assignment_epoch),
        ("simple", 3)
    );
    let topics = &described.members[0].assignment.topic_partitions;
    assert_eq!(
        (&*topics[0].topic_name, topics[0].partitions.len()),
        ("t0", 10)
    );
}

#[test]
fn members_share_and_leave() {
    let mut world = with_member();
    world.advance_ms(1000);
    let r = world.share_beat("g", "n", 0, Some(&["t0"]));
    assert_eq!((r.error_code, r.member_epoch), (0, 4));
    let of_n: BTreeSet<i32> = assigned(&r)[0].1.iter().copied().collect();
    assert_eq!(of_n.len(), 5);
    let r = world.share_beat("g", "m", 3, None);
    let of_m: BTreeSet<i32> = assigned(&r)[0].1.iter().copied().collect();
    assert_eq!((r.member_epoch, of_m.len()), (4, 5));
    assert!(of_m.is_disjoint(&of_n));
    let r = world.share_beat("g", "n", -1, None);
    assert_eq!((r.error_code, r.member_epoch), (0, -1));
    world.advance_ms(1000);
    let r = world.share_beat("g", "m", 4, None);
    assert_eq!((r.member_epoch, assigned(&r)[0].1.len()), (5, 10));
    world.coordinator.check();
    // A member that is silent is taken out.
    world.advance_ms(46_000);
    assert_eq!(&*world.describe_share("g").group_state, "Empty");
    let r = world.share_beat("g", "m", 5, None);
    assert_eq!(r.error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let mut world = with_member();
    let code = |world: &mut World, member: &str, epoch: i32, topics: Option<&[&str]>| {
        let r = world.share_beat("g", member, epoch, topics);
        (r.error_code, r.error_message.map(|m| m.into_owned()))
    };
    let invalid = ErrorCode::InvalidRequest.code();
    assert_eq!(code(&mut world, "", 0, Some(&["t0"])), (invalid, None));
    let long = "x".repeat(37);
    assert_eq!(code(&mut world, &long, 0, Some(&["t0"])), (invalid, None));
    let first = Some("SubscribedTopicNames must be set in first request.".to_owned());
    assert_eq!(code(&mut world, "n", 0, None), (invalid, first));
    assert_eq!(code(&mut world, "m", -2, None).0, invalid);
    assert_eq!(
        code(&mut world, "m", 9, None).0,
        ErrorCode::FencedMemberEpoch.code()
    );
    assert_eq!(
        code(&mut world, "m", 1, None).0,
        ErrorCode::FencedMemberEpoch.code()
    );
    assert_eq!(code(&mut world, "m", 2, None).0, 0, "the epoch before");
    assert_eq!(
        code(&mut world, "n", 1, None).0,
        ErrorCode::UnknownMemberId.code()
    );
    let r = world.share_beat("other", "m", 1, None);
    assert_eq!(r.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(r.error_message.unwrap(), "Share group other not found.");
    // Other protocols have no members in it, and it has none in a classic group.
    let token = world.join(9, &join_request("g", "", &[("range", b"")]));
    let error = world.joined(token).error_code;
    assert_eq!(error, ErrorCode::InconsistentGroupProtocol.code());
    world.stable_group("classic");
    let r = world.share_beat("classic", "m", 0, Some(&["t0"]));
    assert_eq!(
        r.error_message.unwrap(),
        "Group classic is not a share group."
    );
    assert_eq!(
        world.heartbeat("g", "m", 3),
        ErrorCode::UnknownMemberId,
        "a classic heartbeat"
    );
}

#[test]
fn groups_of_other_protocols_are_kept_apart() {
    let mut world = with_member();
    let r = world.ask(&join_consumers("g", "c", &["t0"]));
    assert_eq!(r.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(
        r.error_message.as_deref(),
        Some("Group g is not a consumer group.")
    );
    let r = world.ask_streams(&join_streams("g", "s", simple()));
    assert_eq!(r.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(
        r.error_message.as_deref(),
        Some("Group g is not a streams group.")
    );
    let r = world.ask_streams(&join_streams("app", "s", simple()));
    assert_eq!(r.error_code, 0);
    let r = world.share_beat("app", "m", 0, Some(&["t0"]));
    assert_eq!(r.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(
        r.error_message.as_deref(),
        Some("Group app is not a share group.")
    );
    assert_eq!(&*world.describe_share("g").group_state, "Stable");
    let restarted = world.replayed(world.log.len());
    assert_eq!(&*restarted.describe_share_group("g").group_state, "Stable");
    assert_eq!(&*restarted.describe_streams_group("app").group_id, "app");
    assert_eq!(restarted.describe_streams_group("app").error_code, 0);
}

#[test]
fn stored_states_that_could_not_be_made_are_asked_for_again() {
    let mut world = World::new();
    world.share_beat("g", "m", 0, Some(&["t0"]));
    world.answer_call(ErrorCode::CoordinatorNotAvailable);
    world.share_beat("g", "m", 2, None);
    assert_eq!(world.share_calls.len(), 1, "at once");
    world.share_beat("g", "m", 2, None);
    assert_eq!(world.share_calls.len(), 1, "it is on its way");
    world.share_calls.clear();
    for _ in 0..7 {
        world.advance_ms(5000);
        world.share_beat("g", "m", 2, None);
    }
    assert_eq!(world.share_calls.len(), 1, "after half a minute");
}

#[test]
fn topics_grow_and_go() {
    let mut world = with_member();
    world.change_metadata(|m| {
        m.topics.insert("t0".to_owned(), (topic_id(0), 12));
    });
    let r = world.share_beat("g", "m", 3, None);
    assert_eq!(r.error_code, 0);
    let call = world.answer_call(ErrorCode::None);
    let ShareDeed::Initialize { partitions, .. } = call.what else {
        panic!("another call")
    };
    assert_eq!(partitions, [(topic_id(0), 10, -1), (topic_id(0), 11, -1)]);
    world.advance_ms(1000);
    let r = world.share_beat("g", "m", r.member_epoch, None);
    assert_eq!(assigned(&r)[0].1.len(), 12);
    world.change_metadata(|m| {
        m.topics.remove("t0");
    });
    let mut out = flumen_coordinator::Out::default();
    let now = world.now;
    world
        .coordinator
        .on_topics_deleted(now, &[("t0", topic_id(0))], &mut out);
    world.drain(out);
    assert_eq!(world.coordinator.share_partitions_of("g").unwrap(), []);
    world.advance_ms(1000);
    let r = world.share_beat("g", "m", r.member_epoch, None);
    assert_eq!((r.error_code, assigned(&r)), (0, vec![]));
}

fn alter<'a>(group: &'a str, offsets: &[(&'a str, i32, i64)]) -> AlterShareGroupOffsetsRequest<'a> {
    let topics = offsets.iter().map(|(name, index, offset)| {
        let partition = AlterShareGroupOffsetsRequestPartition {
            partition_index: *index,
            start_offset: *offset,
        };
        AlterShareGroupOffsetsRequestTopic {
            topic_name: (*name).into(),
            partitions: vec![partition],
        }
    });
    AlterShareGroupOffsetsRequest {
        group_id: group.into(),
        topics: topics.collect(),
    }
}

#[test]
fn offsets_of_an_empty_group_can_be_altered_and_deleted() {
    let mut world = with_member();
    let token = world.alter_share_offsets(&alter("g", &[("t1", 3, 7)]));
    let error = world.altered(token).error_code;
    assert_eq!(error, ErrorCode::NonEmptyGroup.code());
    world.share_beat("g", "m", -1, None);
    let token = world.alter_share_offsets(&alter("g", &[("t1", 3, 7), ("t1", 30, 7)]));
    assert!(world.is_waiting(token), "for the stored state");
    let call = world.answer_call(ErrorCode::None);
    let what = ShareDeed::Initialize {
        state_epoch: 4,
        partitions: vec![(topic_id(1), 3, 7)],
    };
    assert_eq!(call.what, what);
    let r = world.altered(token);
    let errors: Vec<_> = r
        .responses
        .iter()
        .map(|t| t.partitions[0].error_code)
        .collect();
    assert_eq!(errors, [0, ErrorCode::UnknownTopicOrPartition.code()]);
    let of = world.coordinator.share_partitions_of("g").unwrap();
    assert_eq!(of[1], (topic_id(1), vec![3]));

    let token = world.delete_share_offsets("g", &["t1", "t2", "none"]);
    let call = world.answer_call(ErrorCode::None);
    let what = ShareDeed::Delete {
        partitions: vec![(topic_id(1), 3)],
    };
    assert_eq!(call.what, what);
    let r = world.share_offsets_deleted(token);
    let lines: Vec<_> = r
        .responses
        .iter()
        .map(|t| (&*t.topic_name, t.error_code))
        .collect();
    assert_eq!(lines, [("t1", 0), ("t2", 3), ("none", 3)]);
    assert_eq!(world.coordinator.share_partitions_of("g").unwrap().len(), 1);
    let token = world.delete_share_offsets("nobody", &["t1"]);
    let r = world.share_offsets_deleted(token);
    assert_eq!(r.error_code, ErrorCode::GroupIdNotFound.code());
    // Offsets can be set before there is a group.
    let token = world.alter_share_offsets(&alter("new", &[("t1", 0, 5)]));
    world.answer_call(ErrorCode::FencedStateEpoch);
    let r = world.altered(token);
    let error = r.responses[0].partitions[0].error_code;
    assert_eq!(error, ErrorCode::FencedStateEpoch.code());
}

#[test]
fn a_deleted_group_takes_its_stored_states_along() {
    let mut world = with_member();
    let token = world.delete_groups(&["g"]);
    assert_eq!(world.deleted(token), [ErrorCode::NonEmptyGroup.code()]);
    world.share_beat("g", "m", -1, None);
    let token = world.delete_groups(&["g", "none"]);
    assert!(world.is_waiting(token));
    world.answer_call(ErrorCode::CoordinatorNotAvailable);
    let not_found = ErrorCode::GroupIdNotFound.code();
    let errors = world.deleted(token);
    assert_eq!(
        errors,
        [ErrorCode::CoordinatorNotAvailable.code(), not_found]
    );
    let token = world.delete_groups(&["g"]);
    let call = world.answer_call(ErrorCode::None);
    let ShareDeed::Delete { partitions } = call.what else {
        panic!("another call")
    };
    assert_eq!(partitions.len(), 10);
    assert_eq!(world.deleted(token), [0]);
    assert_eq!(world.describe_share("g").error_code, not_found);
    world.restart();
    assert_eq!(world.describe_share("g").error_code, not_found);
}

/// Whatever fails: what the group is follows from what was written.
#[test]
fn writes_that_fail_are_taken_back() {
    let rounds: u64 = std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    for seed in 0..60 * rounds {
        let mut prng = Prng::new(seed);
        let mut world = World::with(common::config(), seed);
        world.auto_commit = false;
        let mut epochs = [0; 4];
        for _ in 0..60 {
            let n = prng.below(4) as usize;
            let member = ["a", "b", "c", "d"][n];
            match prng.below(8) {
                0..4 => {
                    let topics: &[&str] = [&["t0"][..], &["t0", "t1"]][prng.below(2) as usize];
                    let topics = (epochs[n] == 0).then_some(topics);
                    let token = world.share_send(&share_request("g", member, epochs[n], topics));
                    world.commit_all();
                    let r = world.share_answer(token);
                    epochs[n] = if r.error_code == 0 { r.member_epoch } else { 0 };
                }
                4 => {
                    world.share_send(&share_request("g", member, -1, None));
                    epochs[n] = 0;
                }
                5 => {
                    // Two in flight, the first of which fails.
                    world.share_send(&share_request("g", member, 0, Some(&["t1"])));
                    let other = ["b", "c", "d", "a"][n];
                    world.share_send(&share_request("g", other, 0, Some(&["t0"])));
                    world.fail_next(ErrorCode::NotEnoughReplicas);
                    epochs = [0; 4];
                }
                6 if !world.share_calls.is_empty() => {
                    let errors = [ErrorCode::None, ErrorCode::CoordinatorNotAvailable];
                    world.answer_call(errors[prng.below(2) as usize]);
                }
                _ => world.advance_ms(prng.below(2000) as i64),
            }
            world.coordinator.check();
        }
        world.commit_all();
        let described = world.describe_share("g");
        let again = world.replayed(world.log.len());
        assert_eq!(again.describe_share_group("g"), described, "seed {seed}");
        let of = |c: &flumen_coordinator::GroupCoordinator| c.share_partitions_of("g");
        assert_eq!(of(&again), of(&world.coordinator), "seed {seed}");
    }
}
