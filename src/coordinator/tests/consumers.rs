//! Consumer groups (KIP-848), rule by rule: members, their epochs and what they are assigned.
//! (`consumers_kept.rs`: what a group keeps.)

#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod common;

use common::consumers::*;
use common::*;
use flumen_base::{ErrorCode, Uuid};
use flumen_coordinator::{CoordinatorConfig, GroupSettings};
use flumen_wire::messages::ConsumerGroupHeartbeatRequest;

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
            ..GroupSettings::default()
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
