//! Consumer groups (KIP-848): their offsets, what of them is written, and what admins see.
//! (`consumers.rs`: members and assignments.)

#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod common;

use common::consumers::*;
use common::*;
use flumen_base::ErrorCode;
use flumen_coordinator::{CoordinatorConfig, Reply};
use flumen_wire::messages::ListGroupsRequest;

#[test]
fn offsets_need_the_members_epoch() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let commit = |w: &mut World, version, member: &str, epoch| {
        let token = w.commit(
            version,
            &commit_request("g", member, epoch, &[("t0", 0, 5)]),
        );
        ErrorCode::from_i16(w.committed(token).topics[0].partitions[0].error_code).unwrap()
    };
    assert_eq!(commit(&mut w, 9, "a", 2), ErrorCode::None);
    assert_eq!(commit(&mut w, 8, "a", 2), ErrorCode::UnsupportedVersion);
    assert_eq!(commit(&mut w, 9, "a", 1), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut w, 9, "a", 3), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut w, 9, "b", 2), ErrorCode::UnknownMemberId);
    assert_eq!(commit(&mut w, 9, "", -1), ErrorCode::UnknownMemberId);
    // an older epoch is good for what the member has had since then
    w.ask(&join_consumers("g", "b", &["t0"]));
    let kept = assigned(&w.ask(&beat_request("g", "a", 2)))
        .unwrap()
        .remove(0)
        .1;
    w.ask(&owning("g", "a", 2, &[(0, &kept)]));
    for p in 0..10 {
        let token = w.commit(9, &commit_request("g", "a", 2, &[("t0", p, 6)]));
        let code = w.committed(token).topics[0].partitions[0].error_code;
        assert_eq!(code == 0, kept.contains(&p), "{p}");
    }
    let fetch = |w: &mut World, member: Option<&str>, epoch, stable| {
        let mut request = fetch_request("g", "t0", &[0]);
        request.member_id = member.map(|m| m.to_owned().into());
        request.member_epoch = epoch;
        let token = w.fetch(9, &request, stable);
        ErrorCode::from_i16(w.fetched(token).error_code).unwrap()
    };
    for stable in [true, false] {
        assert_eq!(fetch(&mut w, None, -1, stable), ErrorCode::None);
        assert_eq!(fetch(&mut w, Some("a"), 3, stable), ErrorCode::None);
        assert_eq!(
            fetch(&mut w, Some("a"), 2, stable),
            ErrorCode::StaleMemberEpoch
        );
        assert_eq!(
            fetch(&mut w, Some("x"), 3, stable),
            ErrorCode::UnknownMemberId
        );
    }
    // members keep offsets of what they read
    let token = w.delete_offset("g", "t0", 0);
    let subscribed = ErrorCode::GroupSubscribedToTopic.code();
    assert_eq!(w.offset_deleted(token), (0, Some(subscribed)));
    let token = w.delete_groups(&["g"]);
    assert_eq!(w.deleted(token), [ErrorCode::NonEmptyGroup.code()]);
}

#[test]
fn a_fetch_sees_members_as_they_are_written() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask(&join_consumers("g", "b", &["t0"]));
    let kept = assigned(&w.ask(&beat_request("g", "a", 2)))
        .unwrap()
        .remove(0)
        .1;
    w.auto_commit = false;
    let beat = w.beat(&owning("g", "a", 2, &[(0, &kept)]));
    assert!(w.is_waiting(beat));
    let mut request = fetch_request("g", "t0", &[0]);
    request.member_id = Some("a".into());
    request.member_epoch = 2;
    let token = w.fetch(9, &request, false);
    assert_eq!(w.fetched(token).error_code, 0);
    w.commit_all();
    assert_eq!(w.beaten(beat).member_epoch, 3);
    let token = w.fetch(9, &request, false);
    assert_eq!(
        w.fetched(token).error_code,
        ErrorCode::StaleMemberEpoch.code()
    );
}

#[test]
fn a_write_that_fails_is_taken_back() {
    let mut w = world();
    w.auto_commit = false;
    let first = w.beat(&join_consumers("g", "a", &["t0"]));
    assert!(w.fail_next(ErrorCode::NotEnoughReplicas));
    assert_eq!(code(&w.beaten(first)), ErrorCode::CoordinatorNotAvailable);
    let unknown = ErrorCode::GroupIdNotFound.code();
    assert_eq!(w.describe_consumers("g").error_code, unknown);
    assert_eq!(w.coordinator.writes_outstanding(), 0);
    let again = w.beat(&join_consumers("g", "a", &["t0"]));
    w.commit_all();
    assert_eq!(w.beaten(again).member_epoch, 2);
    let before = w.describe_consumers("g");
    // what depends on it goes with it
    let joined = w.beat(&join_consumers("g", "b", &["t0"]));
    let asked = w.beat(&beat_request("g", "a", 2));
    let still = w.beat(&beat_request("g", "b", 3));
    while w.fail_next(ErrorCode::KafkaStorageError) {}
    for token in [joined, asked, still] {
        assert_eq!(code(&w.beaten(token)), ErrorCode::NotCoordinator);
    }
    assert_eq!(w.describe_consumers("g"), before);
    w.coordinator.check();
    // the session goes on
    w.auto_commit = true;
    w.advance_ms(46_000);
    assert_eq!(w.describe_consumers("g").group_state, "Empty");
}

#[test]
fn one_write_that_fails_leaves_the_log_and_the_state_alike() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.auto_commit = false;
    w.beat(&join_consumers("g", "b", &["t0"]));
    let second = w.appends.len();
    w.beat(&join_consumers("g", "c", &["t1"]));
    assert_eq!((second, w.appends.len()), (1, 2));
    w.fail_next(ErrorCode::NotEnoughReplicas);
    w.commit_all();
    w.coordinator.check();
    let replayed = w.replayed(w.log.len());
    assert_eq!(
        replayed.describe_consumer_group("g"),
        w.describe_consumers("g")
    );
}

#[test]
fn admins_see_the_kind_of_a_group() {
    let mut w = world();
    alone(&mut w, "new", "a");
    w.stable_group("old");
    let list = |w: &World, types: &[&str], states: &[&str]| {
        let request = ListGroupsRequest {
            types_filter: types.iter().map(|t| (*t).into()).collect(),
            states_filter: states.iter().map(|t| (*t).into()).collect(),
        };
        let mut groups = w.coordinator.list_groups(&request).unwrap();
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        let line = |g: &flumen_wire::messages::list_groups_response::ListedGroup<'_>| {
            format!(
                "{} {} {} {}",
                g.group_id, g.protocol_type, g.group_state, g.group_type
            )
        };
        groups.iter().map(line).collect::<Vec<_>>()
    };
    let (new, old) = (
        "new consumer Stable consumer",
        "old consumer Stable classic",
    );
    assert_eq!(list(&w, &[], &[]), [new, old]);
    assert_eq!(list(&w, &["Consumer"], &[]), [new]);
    assert_eq!(list(&w, &["classic"], &["stable"]), [old]);
    assert!(list(&w, &["share"], &[]).is_empty());
    assert!(list(&w, &[], &["Assigning"]).is_empty());
    let d = w.coordinator.describe_group(ctx(6), "new");
    assert_eq!(d.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(
        d.error_message.as_deref(),
        Some("Group new is not a classic group.")
    );
    let d = w.describe_consumers("old");
    assert_eq!(
        d.error_message.as_deref(),
        Some("Group old is not a consumer group.")
    );
    assert_eq!(
        w.describe_consumers("").error_code,
        ErrorCode::InvalidGroupId.code()
    );
}

#[test]
fn expired_groups_go() {
    let mut w = World::with(
        CoordinatorConfig {
            offsets_retention_ms: 1_000,
            offsets_retention_check_interval_ms: 500,
            consumer_group_assignment_interval_ms: 0,
            ..config()
        },
        1,
    );
    alone(&mut w, "g", "a");
    let token = w.commit(
        9,
        &commit_request("g", "a", 2, &[("t0", 0, 5), ("t1", 0, 6)]),
    );
    w.committed(token);
    w.advance_ms(5_000);
    assert_eq!(w.offset_of("g", "t0", 0), 5, "it is read");
    assert_eq!(w.offset_of("g", "t1", 0), -1, "it is not read");
    w.ask(&beat_request("g", "a", -1));
    w.advance_ms(5_000);
    assert_eq!(w.offset_of("g", "t0", 0), -1);
    assert_eq!(
        w.describe_consumers("g").error_code,
        ErrorCode::GroupIdNotFound.code()
    );
}

#[test]
fn a_restart_keeps_the_group() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask(&join_consumers("g", "b", &["t0"]));
    w.ask(&beat_request("g", "a", 2));
    let before = w.describe_consumers("g");
    w.restart();
    assert_eq!(w.describe_consumers("g"), before);
    // whoever is asked to give up has its time again
    w.advance_ms(40_000);
    w.ask(&beat_request("g", "b", 3));
    w.ask(&beat_request("g", "a", 2));
    w.advance_ms(21_000);
    assert_eq!(
        code(&w.ask(&beat_request("g", "a", 2))),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn a_partition_that_is_given_up_answers() {
    let mut w = world();
    w.auto_commit = false;
    let token = w.beat(&join_consumers("g", "a", &["t0"]));
    let mut out = Default::default();
    let p = flumen_coordinator::partition_for("g", PARTITIONS);
    w.coordinator.unload(w.now, p, &mut out);
    w.appends.clear();
    w.drain(out);
    assert!(
        matches!(w.replies.remove(&token), Some(Reply::ConsumerGroupHeartbeat(r))
        if r.error_code == ErrorCode::NotCoordinator.code())
    );
}
