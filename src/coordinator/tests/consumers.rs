//! Consumer groups (KIP-848), rule by rule.

#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod common;

use common::consumers::*;
use common::*;
use flumen_base::{ErrorCode, Uuid};
use flumen_coordinator::{CoordinatorConfig, GroupSettings, Reply};
use flumen_wire::messages::{ConsumerGroupHeartbeatRequest, ListGroupsRequest};

fn world() -> World {
    World::with(
        CoordinatorConfig {
            consumer_group_assignment_interval_ms: 0,
            ..config()
        },
        1,
    )
}

/// A member that has all ten partitions of t0, in epoch 2.
fn alone(w: &mut World, group: &str, member: &str) {
    let r = w.ask(&join_consumers(group, member, &["t0"]));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, 2));
    assert_eq!(assigned(&r), Some(vec![(0, (0..10).collect())]));
}

#[test]
fn one_member_gets_everything() {
    let mut w = world();
    let token = w.beat(&join_consumers("g", "a", &["t0", "t1", "nothing"]));
    let r = w.beaten(token);
    assert_eq!(code(&r), ErrorCode::None);
    assert_eq!(r.member_id.as_deref(), Some("a"));
    assert_eq!((r.member_epoch, r.heartbeat_interval_ms), (2, 5_000));
    let all: Vec<i32> = (0..10).collect();
    assert_eq!(assigned(&r), Some(vec![(0, all.clone()), (1, all)]));
    // nothing new, nothing said, nothing written
    let written = w.log.len();
    let r = w.ask(&beat_request("g", "a", 2));
    assert_eq!((r.member_epoch, assigned(&r)), (2, None));
    assert_eq!(w.log.len(), written);
    // a full request is answered in full
    let full = ConsumerGroupHeartbeatRequest {
        member_epoch: 2,
        ..join_consumers("g", "a", &["t0", "t1", "nothing"])
    };
    assert!(assigned(&w.ask(&full)).is_some());
    assert_eq!(w.log.len(), written);
    let d = w.describe_consumers("g");
    assert_eq!(
        (&*d.group_state, d.group_epoch, d.assignment_epoch),
        ("Stable", 2, 2)
    );
    assert_eq!((&*d.assignor_name, d.members.len()), ("uniform", 1));
    assert_eq!(d.members[0].member_type, 1);
    assert_eq!(d.members[0].assignment, d.members[0].target_assignment);
    w.coordinator.check();
}

#[test]
fn version_0_is_told_its_id() {
    let mut w = world();
    let token = w.token();
    let mut out = Default::default();
    let request = join_consumers("g", "", &["t0"]);
    w.coordinator
        .consumer_group_heartbeat(w.now, ctx(0), token, &request, &mut out);
    w.drain(out);
    let id = w.beaten(token).member_id.unwrap();
    assert!(Uuid::parse(&id).is_some(), "{id}");
    assert_eq!(code(&w.ask(&beat_request("g", &id, 2))), ErrorCode::None);
}

#[test]
fn a_second_member_waits_for_what_the_first_gives_up() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let r = w.ask(&join_consumers("g", "b", &["t0"]));
    assert_eq!((r.member_epoch, assigned(&r)), (3, Some(vec![])));
    assert_eq!(w.describe_consumers("g").group_state, "Reconciling");
    // a is asked to give up five, and stays in its epoch until it has
    let r = w.ask(&beat_request("g", "a", 2));
    let kept = assigned(&r).unwrap();
    assert_eq!((r.member_epoch, kept[0].1.len()), (2, 5));
    let r = w.ask(&owning("g", "a", 2, &[(0, &(0..10).collect::<Vec<_>>())]));
    assert_eq!((r.member_epoch, assigned(&r)), (2, None));
    assert_eq!(assigned(&w.ask(&beat_request("g", "b", 3))), None);
    // it has: both get on
    let r = w.ask(&owning("g", "a", 2, &[(0, &kept[0].1)]));
    assert_eq!(r.member_epoch, 3);
    let r = w.ask(&beat_request("g", "b", 3));
    assert_eq!(assigned(&r).unwrap()[0].1.len(), 5);
    assert_eq!(w.describe_consumers("g").group_state, "Stable");
    w.coordinator.check();
}

#[test]
fn epochs_are_checked() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask(&join_consumers("g", "b", &["t0"]));
    let kept = assigned(&w.ask(&beat_request("g", "a", 2))).unwrap();
    w.ask(&owning("g", "a", 2, &[(0, &kept[0].1)]));
    // the answer with epoch 3 got lost: the epoch before is good with what the member may have
    let r = w.ask(&owning("g", "a", 2, &[(0, &kept[0].1)]));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, 3));
    for request in [
        owning("g", "a", 2, &[(0, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])]),
        beat_request("g", "a", 2),
        beat_request("g", "a", 1),
        beat_request("g", "a", 4),
    ] {
        let r = w.ask(&request);
        assert_eq!(code(&r), ErrorCode::FencedMemberEpoch);
        assert!(
            r.error_message
                .unwrap()
                .contains("must abandon all its partitions")
        );
    }
    assert_eq!(
        code(&w.ask(&beat_request("g", "x", 3))),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(
        code(&w.ask(&beat_request("none", "a", 3))),
        ErrorCode::GroupIdNotFound
    );
    assert_eq!(
        code(&w.ask(&beat_request("none", "a", -1))),
        ErrorCode::GroupIdNotFound
    );
    // 0 begins anew, keeping what it had
    let r = w.ask(&join_consumers("g", "a", &["t0"]));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, 3));
}

#[test]
fn requests_are_checked() {
    let mut w = world();
    let good = || join_consumers("g", "a", &["t0"]);
    let cases = [
        (
            ConsumerGroupHeartbeatRequest {
                member_id: "".into(),
                ..good()
            },
            "MemberId can't be empty.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                group_id: " ".into(),
                ..good()
            },
            "GroupId can't be empty.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                instance_id: Some("".into()),
                ..good()
            },
            "InstanceId can't be empty.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                rack_id: Some("".into()),
                ..good()
            },
            "RackId can't be empty.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                rebalance_timeout_ms: -1,
                ..good()
            },
            "RebalanceTimeoutMs must be provided in first request.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                topic_partitions: None,
                ..good()
            },
            "TopicPartitions must be empty when (re-)joining.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                subscribed_topic_names: None,
                ..good()
            },
            "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                member_epoch: -2,
                ..good()
            },
            "InstanceId can't be null.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                member_epoch: -3,
                ..good()
            },
            "MemberEpoch is invalid.",
        ),
    ];
    for (request, message) in cases {
        let r = w.ask(&request);
        assert_eq!(code(&r), ErrorCode::InvalidRequest);
        assert_eq!(r.error_message.as_deref(), Some(message));
    }
    let r = w.ask(&ConsumerGroupHeartbeatRequest {
        server_assignor: Some("sticky".into()),
        ..good()
    });
    assert_eq!(code(&r), ErrorCode::UnsupportedAssignor);
    assert_eq!(
        r.error_message.as_deref(),
        Some("ServerAssignor sticky is not supported. Supported assignors: uniform, range.")
    );
    assert_eq!(
        w.describe_consumers("g").error_code,
        ErrorCode::GroupIdNotFound.code()
    );
    assert!(w.log.is_empty());
}

#[test]
fn leaving_frees_partitions_and_the_last_leaves_an_empty_group() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask(&join_consumers("g", "b", &["t0"]));
    let r = w.ask(&beat_request("g", "a", -1));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, -1));
    let r = w.ask(&beat_request("g", "b", 3));
    assert_eq!((r.member_epoch, assigned(&r).unwrap()[0].1.len()), (4, 10));
    assert_eq!(
        code(&w.ask(&beat_request("g", "a", -1))),
        ErrorCode::UnknownMemberId
    );
    w.ask(&beat_request("g", "b", -1));
    let d = w.describe_consumers("g");
    assert_eq!(
        (&*d.group_state, d.group_epoch, d.members.len()),
        ("Empty", 5, 0)
    );
    let token = w.delete_groups(&["g"]);
    assert_eq!(w.deleted(token), [0]);
    assert_eq!(
        w.describe_consumers("g").error_code,
        ErrorCode::GroupIdNotFound.code()
    );
    let replayed = w.replayed(w.log.len());
    let d = replayed.describe_consumer_group("g");
    assert_eq!(d.error_code, ErrorCode::GroupIdNotFound.code());
}

#[test]
fn who_is_not_heard_of_is_fenced() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask(&join_consumers("g", "b", &["t0"]));
    w.advance_ms(30_000);
    w.ask(&beat_request("g", "b", 3));
    w.advance_ms(20_000);
    assert_eq!(
        code(&w.ask(&beat_request("g", "a", 2))),
        ErrorCode::UnknownMemberId
    );
    let r = w.ask(&beat_request("g", "b", 3));
    assert_eq!(assigned(&r).unwrap()[0].1.len(), 10);
    // a setting of the group alone
    w.change_metadata(|m| {
        m.settings = GroupSettings {
            session_timeout_ms: Some(50_000),
            heartbeat_interval_ms: Some(7_000),
            assignment_interval_ms: None,
        };
    });
    assert_eq!(
        w.ask(&beat_request("g", "b", 4)).heartbeat_interval_ms,
        7_000
    );
    w.advance_ms(49_000);
    assert_eq!(code(&w.ask(&beat_request("g", "b", 4))), ErrorCode::None);
    w.advance_ms(51_000);
    assert_eq!(w.describe_consumers("g").group_state, "Empty");
}

#[test]
fn who_does_not_give_up_in_time_is_fenced() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask(&join_consumers("g", "b", &["t0"]));
    let all: Vec<i32> = (0..10).collect();
    for _ in 0..3 {
        let r = w.ask(&owning("g", "a", 2, &[(0, &all)]));
        assert_eq!(r.member_epoch, 2);
        w.ask(&beat_request("g", "b", 3));
        w.advance_ms(19_000);
    }
    w.advance_ms(5_000);
    assert_eq!(
        code(&w.ask(&beat_request("g", "a", 2))),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(code(&w.ask(&beat_request("g", "b", 3))), ErrorCode::None);
}

#[test]
fn targets_are_made_no_more_often_than_the_interval() {
    let mut w = World::new();
    alone(&mut w, "g", "a");
    let r = w.ask(&join_consumers("g", "b", &["t0"]));
    assert_eq!((r.member_epoch, assigned(&r)), (2, Some(vec![])));
    assert_eq!(w.describe_consumers("g").group_state, "Assigning");
    w.advance_ms(999);
    assert_eq!(w.ask(&beat_request("g", "b", 2)).member_epoch, 2);
    w.advance_ms(1);
    assert_eq!(w.ask(&beat_request("g", "b", 2)).member_epoch, 3);
}

#[test]
fn new_partitions_and_topics_are_assigned() {
    let mut w = world();
    w.ask(&join_consumers("g", "a", &["t0", "new"]));
    w.change_metadata(|m| {
        m.topics.insert("t0".to_owned(), (topic_id(0), 12));
    });
    let r = w.ask(&beat_request("g", "a", 2));
    assert_eq!((r.member_epoch, assigned(&r).unwrap()[0].1.len()), (3, 12));
    w.change_metadata(|m| {
        m.topics.insert("new".to_owned(), (topic_id(20), 1));
        m.topics.insert("other".to_owned(), (topic_id(21), 1));
    });
    let r = w.ask(&beat_request("g", "a", 3));
    assert_eq!(assigned(&r).unwrap()[1], (20, vec![0]));
    // a topic that is gone is gone from the next assignment
    w.change_metadata(|m| {
        m.topics.remove("t0");
    });
    let r = w.ask(&beat_request("g", "a", 4));
    assert_eq!(r.member_epoch, 4, "it is to give up what is gone");
    let r = w.ask(&owning("g", "a", 4, &[(20, &[0])]));
    assert_eq!(r.member_epoch, 5);
    assert_eq!(w.describe_consumers("g").group_state, "Stable");
    // racks count, too
    w.change_metadata(|m| {
        m.rack = Some("r1".to_owned());
        m.topics.insert("new".to_owned(), (topic_id(20), 2));
    });
    assert_eq!(w.ask(&beat_request("g", "a", 5)).member_epoch, 6);
}

#[test]
fn static_members_leave_for_a_while_and_come_back() {
    let mut w = world();
    let join = |id: &'static str| ConsumerGroupHeartbeatRequest {
        instance_id: Some("i".into()),
        ..join_consumers("g", id, &["t0"])
    };
    assert_eq!(w.ask(&join("a")).member_epoch, 2);
    assert_eq!(code(&w.ask(&join("b"))), ErrorCode::UnreleasedInstanceId);
    let at = |id: &'static str, epoch| ConsumerGroupHeartbeatRequest {
        instance_id: Some("i".into()),
        ..beat_request("g", id, epoch)
    };
    assert_eq!(code(&w.ask(&at("b", 2))), ErrorCode::FencedInstanceId);
    let r = w.ask(&at("a", -2));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, -2));
    let d = w.describe_consumers("g");
    assert_eq!((d.members.len(), d.members[0].member_epoch), (1, -2));
    // it inherits without a new epoch
    let r = w.ask(&join("b"));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, 2));
    assert_eq!(assigned(&r).unwrap()[0].1.len(), 10);
    assert_eq!(w.describe_consumers("g").members.len(), 1);
    assert_eq!(code(&w.ask(&at("a", 2))), ErrorCode::FencedInstanceId);
    assert_eq!(code(&w.ask(&at("b", 2))), ErrorCode::None);
    // away too long
    w.ask(&at("b", -2));
    w.advance_ms(46_000);
    assert_eq!(w.describe_consumers("g").members.len(), 0);
    let unknown = ConsumerGroupHeartbeatRequest {
        instance_id: Some("j".into()),
        ..beat_request("g", "c", 2)
    };
    assert_eq!(code(&w.ask(&unknown)), ErrorCode::UnknownMemberId);
    w.coordinator.check();
}

#[test]
fn a_group_has_a_largest_size() {
    let mut w = World::with(
        CoordinatorConfig {
            consumer_group_max_size: 1,
            consumer_group_assignment_interval_ms: 0,
            ..config()
        },
        1,
    );
    alone(&mut w, "g", "a");
    let r = w.ask(&join_consumers("g", "b", &["t0"]));
    assert_eq!(code(&r), ErrorCode::GroupMaxSizeReached);
    assert_eq!(
        code(&w.ask(&join_consumers("g", "a", &["t0"]))),
        ErrorCode::None
    );
}

#[test]
fn members_subscribe_by_expression() {
    let mut w = world();
    let join = |regex: &'static str| ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: None,
        subscribed_topic_regex: Some(regex.into()),
        ..join_consumers("g", "a", &[])
    };
    let r = w.ask(&join("t[0"));
    assert_eq!(code(&r), ErrorCode::InvalidRegularExpression);
    assert_eq!(
        w.describe_consumers("g").error_code,
        ErrorCode::GroupIdNotFound.code()
    );
    let r = w.ask(&join("t[01]"));
    assert_eq!((r.member_epoch, assigned(&r)), (1, Some(vec![])));
    let r = w.ask(&beat_request("g", "a", 1));
    assert_eq!(r.member_epoch, 2);
    assert_eq!(assigned(&r).unwrap().len(), 2);
    // a topic that matches: not before ten seconds are over
    w.change_metadata(|m| {
        m.topics.insert("t1x".to_owned(), (topic_id(30), 1));
        m.topics.insert("t".to_owned(), (topic_id(31), 1));
    });
    let change = ConsumerGroupHeartbeatRequest {
        subscribed_topic_regex: Some("t1?x?".into()),
        ..beat_request("g", "a", 2)
    };
    let r = w.ask(&change);
    assert_eq!(r.member_epoch, 2);
    assert_eq!(assigned(&r), Some(vec![]), "it gives up at once");
    w.advance_ms(10_001);
    w.ask(&owning("g", "a", 2, &[]));
    let r = w.ask(&owning("g", "a", 2, &[]));
    let topics: Vec<u8> = assigned(&r).unwrap().iter().map(|t| t.0).collect();
    assert_eq!(topics, [1, 30, 31]);
    let d = w.describe_consumers("g");
    assert_eq!(
        d.members[0].subscribed_topic_regex.as_deref(),
        Some("t1?x?")
    );
    w.coordinator.check();
    let replayed = w.replayed(w.log.len());
    replayed.check();
    assert_eq!(
        replayed.describe_consumer_group("g"),
        w.describe_consumers("g")
    );
}

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
