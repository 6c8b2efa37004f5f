//! Streams groups (KIP-1071), rule by rule.

#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod common;

use common::consumers::{beat_request, join_consumers};
use common::streams::*;
use common::*;
use flumen_base::ErrorCode;
use flumen_coordinator::{CoordinatorConfig, GroupSettings, StreamsSettings};
use flumen_wire::messages::ListGroupsRequest;
use flumen_wire::messages::streams_group_heartbeat_request::{Endpoint, KeyValue};

fn world_with(change: impl FnOnce(&mut CoordinatorConfig)) -> World {
    let mut config = CoordinatorConfig {
        streams_group_initial_rebalance_delay_ms: 0,
        streams_group_assignment_interval_ms: 0,
        ..config()
    };
    change(&mut config);
    World::with(config, 1)
}

fn world() -> World {
    world_with(|_| {})
}

fn all(partitions: i32) -> Vec<i32> {
    (0..partitions).collect()
}

/// A member that runs all ten tasks of t0, in epoch 2.
fn alone(w: &mut World, group: &str, member: &str) {
    let r = w.ask_streams(&join_streams(group, member, simple()));
    assert_eq!(
        (error_of(&r), r.member_epoch),
        (ErrorCode::None, 2),
        "{r:?}"
    );
    assert_eq!(active(&r), Some(vec![("0".into(), all(10))]));
}

#[test]
fn one_member_runs_everything() {
    let mut w = world();
    let r = w.ask_streams(&join_streams("g", "a", simple()));
    assert_eq!((error_of(&r), statuses(&r)), (ErrorCode::None, vec![]));
    assert_eq!((&*r.member_id, r.member_epoch), ("a", 2));
    assert_eq!(r.heartbeat_interval_ms, 5_000);
    assert_eq!(active(&r), Some(vec![("0".into(), all(10))]));
    assert_eq!(
        (standby(&r), &r.warmup_tasks),
        (Some(vec![]), &Some(vec![]))
    );
    // nothing new, nothing said, nothing written
    let written = w.log.len();
    let r = w.ask_streams(&streams_beat("g", "a", 2));
    assert_eq!((r.member_epoch, active(&r), standby(&r)), (2, None, None));
    assert_eq!(w.log.len(), written);
    // who joins again is told what it has
    let r = w.ask_streams(&join_streams("g", "a", simple()));
    assert_eq!((r.member_epoch, active(&r).unwrap().len()), (2, 1));
    assert_eq!(w.log.len(), written);
    let d = w.describe_streams("g");
    assert_eq!(
        (&*d.group_state, d.group_epoch, d.assignment_epoch),
        ("Stable", 2, 2)
    );
    let member = &d.members[0];
    assert_eq!(
        (&*member.member_id, &*member.process_id),
        ("a", "process of a")
    );
    assert_eq!(member.assignment, member.target_assignment);
    assert_eq!((member.topology_epoch, member.is_classic), (0, false));
    w.coordinator.check();
}

#[test]
fn tasks_move_only_when_they_are_given_up() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let r = w.ask_streams(&join_streams("g", "b", simple()));
    assert_eq!((r.member_epoch, active(&r)), (3, Some(vec![])));
    // a hears what stays, and keeps its epoch until the rest is gone
    let r = w.ask_streams(&streams_beat("g", "a", 2));
    assert_eq!(
        (r.member_epoch, active(&r)),
        (2, Some(vec![("0".into(), all(5))]))
    );
    assert_eq!(w.describe_streams("g").group_state, "Reconciling");
    let everything = all(10);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &everything)], &[]));
    assert_eq!((r.member_epoch, active(&r)), (2, None));
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!((r.member_epoch, active(&r)), (3, None));
    let half = all(5);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &half)], &[]));
    assert_eq!(r.member_epoch, 3);
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!(active(&r), Some(vec![("0".into(), vec![5, 6, 7, 8, 9])]));
    assert_eq!(w.describe_streams("g").group_state, "Stable");
    w.coordinator.check();
}

#[test]
fn who_does_not_give_up_in_time_is_fenced() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask_streams(&join_streams("g", "b", simple()));
    w.ask_streams(&streams_beat("g", "a", 2));
    for _ in 0..4 {
        w.advance_ms(14_000);
        let r = w.ask_streams(&streams_beat("g", "a", 2));
        assert_eq!(error_of(&r), ErrorCode::None);
        w.ask_streams(&streams_beat("g", "b", 3));
    }
    w.advance_ms(5_000);
    let r = w.ask_streams(&streams_beat("g", "a", 2));
    assert_eq!(error_of(&r), ErrorCode::UnknownMemberId);
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!(active(&r), Some(vec![("0".into(), all(10))]));
}

#[test]
fn standbys_follow_on_other_processes() {
    let mut w = world_with(|c| c.streams_group_num_standby_replicas = 1);
    w.put_topic("c", 10);
    let stateful = || vec![reads("0", &["t0"], "c")];
    let r = w.ask_streams(&join_streams("g", "a", stateful()));
    assert_eq!(standby(&r), Some(vec![]), "there is no other process");
    let r = w.ask_streams(&join_streams("g", "b", stateful()));
    assert_eq!(active(&r), Some(vec![]));
    // what b is to run it may not hold as a copy: it gets the copies of what a keeps
    assert_eq!(standby(&r), Some(vec![("0".into(), all(5))]));
    w.ask_streams(&streams_beat("g", "a", 2));
    let half = all(5);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &half)], &[]));
    assert_eq!(
        (r.member_epoch, standby(&r)),
        (3, None),
        "its process has just run them"
    );
    let r = w.ask_streams(&streams_beat("g", "a", 3));
    assert_eq!(standby(&r), Some(vec![("0".into(), vec![5, 6, 7, 8, 9])]));
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!(active(&r), Some(vec![("0".into(), vec![5, 6, 7, 8, 9])]));
    assert_eq!(w.describe_streams("g").group_state, "Stable");
    // a dies: b, which has copies, runs it all
    w.advance_ms(40_000);
    w.ask_streams(&streams_beat("g", "b", 3));
    w.advance_ms(10_000);
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!((r.member_epoch, standby(&r)), (3, Some(vec![])), "{r:?}");
    let other = [5, 6, 7, 8, 9];
    let r = w.ask_streams(&running("g", "b", 3, &[("0", &other)], &[]));
    // gone as copies, they are free to be run with the next heartbeat
    let r = match active(&r) {
        Some(tasks) if tasks == [("0".to_owned(), all(10))] => r,
        _ => w.ask_streams(&streams_beat("g", "b", r.member_epoch)),
    };
    assert_eq!(active(&r), Some(vec![("0".into(), all(10))]));
    w.coordinator.check();
}

#[test]
fn a_change_of_standbys_makes_a_new_assignment() {
    let mut w = world();
    w.put_topic("c", 10);
    let stateful = || vec![reads("0", &["t0"], "c")];
    w.ask_streams(&join_streams("g", "a", stateful()));
    w.ask_streams(&join_streams("g", "b", stateful()));
    let epoch = w.describe_streams("g").group_epoch;
    w.change_metadata(|m| {
        m.settings = GroupSettings {
            streams: StreamsSettings {
                standby_replicas: Some(1),
                heartbeat_interval_ms: Some(7_000),
                ..StreamsSettings::default()
            },
            ..GroupSettings::default()
        };
    });
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!(r.heartbeat_interval_ms, 7_000);
    let d = w.describe_streams("g");
    assert_eq!((d.group_epoch, d.assignment_epoch), (epoch + 1, epoch + 1));
    assert!(
        d.members
            .iter()
            .all(|m| !m.target_assignment.standby_tasks.is_empty())
    );
}

#[test]
fn the_first_members_wait_for_others() {
    let mut w = world_with(|c| c.streams_group_initial_rebalance_delay_ms = 3_000);
    let r = w.ask_streams(&join_streams("g", "a", simple()));
    assert_eq!(statuses(&r), [ASSIGNMENT_DELAYED]);
    assert_eq!((r.member_epoch, active(&r)), (1, Some(vec![])));
    w.advance_ms(2_000);
    let r = w.ask_streams(&join_streams("g", "b", simple()));
    assert_eq!(
        (r.member_epoch, statuses(&r)),
        (1, vec![ASSIGNMENT_DELAYED])
    );
    assert_eq!(w.describe_streams("g").group_state, "Assigning");
    w.advance_ms(1_000);
    assert_eq!(w.describe_streams("g").group_state, "Reconciling");
    let r = w.ask_streams(&streams_beat("g", "a", 1));
    assert_eq!((r.member_epoch, statuses(&r)), (3, vec![]));
    assert_eq!(active(&r).unwrap()[0].1.len(), 5);
    let r = w.ask_streams(&streams_beat("g", "b", 1));
    assert_eq!(active(&r).unwrap()[0].1.len(), 5);
    assert_eq!(w.describe_streams("g").group_state, "Stable");
}

#[test]
fn assignments_are_some_time_apart() {
    let mut w = world_with(|c| c.streams_group_assignment_interval_ms = 1_000);
    alone(&mut w, "g", "a");
    let r = w.ask_streams(&join_streams("g", "b", simple()));
    assert_eq!(
        (r.member_epoch, statuses(&r)),
        (2, vec![ASSIGNMENT_DELAYED])
    );
    w.advance_ms(1_000);
    let r = w.ask_streams(&streams_beat("g", "b", 2));
    assert_eq!((r.member_epoch, statuses(&r)), (3, vec![]));
}

#[test]
fn missing_source_topics_are_told_until_they_are_there() {
    let mut w = world();
    let r = w.ask_streams(&join_streams(
        "g",
        "a",
        vec![reads("0", &["t0", "later"], "")],
    ));
    assert_eq!(
        (error_of(&r), statuses(&r)),
        (ErrorCode::None, vec![MISSING_SOURCE_TOPICS])
    );
    assert_eq!(
        r.status.unwrap()[0].status_detail,
        "Source topics later are missing."
    );
    assert_eq!((r.member_epoch, r.active_tasks.unwrap().len()), (2, 0));
    let d = w.describe_streams("g");
    assert_eq!(d.group_state, "NotReady");
    assert_eq!(
        d.topology.unwrap().subtopologies.unwrap()[0]
            .source_topics
            .len(),
        2
    );
    w.put_topic("later", 12);
    let r = w.ask_streams(&streams_beat("g", "a", 2));
    assert_eq!((r.member_epoch, statuses(&r)), (3, vec![]));
    assert_eq!(
        active(&r),
        Some(vec![("0".into(), all(12))]),
        "the widest topic counts"
    );
}

#[test]
fn internal_topics_are_sized_and_asked_for() {
    let mut w = world();
    w.put_topic("t1", 4);
    let mut first = reads("0", &["t0", "t1"], "c0");
    first.repartition_sink_topics = vec!["r".into()];
    let mut second = reads("1", &[], "c1");
    let mut repartition = internal("r", 0);
    repartition.replication_factor = 3;
    repartition.topic_configs = vec![KeyValue {
        key: "retention.ms".into(),
        value: "-1".into(),
    }];
    second.repartition_source_topics = vec![repartition];
    let token = w.stream(&join_streams("g", "a", vec![first, second]));
    let beat = w.streamed(token);
    assert_eq!(statuses(&beat.response), [MISSING_INTERNAL_TOPICS]);
    let detail = &beat.response.status.as_ref().unwrap()[0].status_detail;
    assert_eq!(detail, "Internal topics are missing: c0, c1, r");
    let wanted: Vec<_> = beat
        .topics
        .iter()
        .map(|t| (&*t.name, t.num_partitions))
        .collect();
    assert_eq!(wanted, [("c0", 10), ("c1", 10), ("r", 10)]);
    assert_eq!(beat.topics[0].replication_factor, -1);
    assert_eq!(beat.topics[2].replication_factor, 3);
    assert_eq!(beat.topics[2].configs[0].value.as_deref(), Some("-1"));
    for topic in ["c0", "c1", "r"] {
        w.put_topic(topic, 10);
    }
    let token = w.stream(&streams_beat("g", "a", 2));
    let beat = w.streamed(token);
    assert_eq!((statuses(&beat.response), beat.topics.len()), (vec![], 0));
    assert_eq!(active(&beat.response).unwrap().len(), 2);
    let d = w.describe_streams("g");
    let subtopologies = d.topology.unwrap().subtopologies.unwrap();
    assert_eq!(subtopologies[1].repartition_source_topics[0].partitions, 10);
    assert_eq!(subtopologies[1].state_changelog_topics[0].partitions, 10);
    // one that is there but does not fit
    w.put_topic("c1", 3);
    let r = w.ask_streams(&streams_beat("g", "a", 3));
    assert_eq!(statuses(&r), [INCORRECTLY_PARTITIONED_TOPICS]);
    let detail = &r.status.as_ref().unwrap()[0].status_detail;
    assert_eq!(
        detail,
        "Existing topic c1 has different number of partitions: expected 10, found 3"
    );
    assert_eq!(w.describe_streams("g").group_state, "NotReady");
}

#[test]
fn joined_topics_must_be_alike() {
    let mut w = world();
    w.put_topic("t1", 4);
    let r = w.ask_streams(&join_streams(
        "g",
        "a",
        vec![joined(reads("0", &["t0", "t1"], ""))],
    ));
    assert_eq!(statuses(&r), [INCORRECTLY_PARTITIONED_TOPICS]);
    let detail = &r.status.as_ref().unwrap()[0].status_detail;
    assert_eq!(
        detail,
        "Following topics do not have the same number of partitions: [{t0=10, t1=4}]"
    );
    // A repartition topic becomes as wide as what it is joined with.
    let mut first = reads("0", &["t1"], "");
    first.repartition_sink_topics = vec!["r".into()];
    let mut second = reads("1", &["t0"], "");
    second.repartition_source_topics = vec![internal("r", 0)];
    let token = w.stream(&join_streams(
        "h",
        "a",
        vec![first.clone(), joined(second.clone())],
    ));
    assert_eq!(w.streamed(token).topics[0].num_partitions, 10);
    // Without being joined it is as wide as what is written into it.
    let token = w.stream(&join_streams("i", "a", vec![first.clone(), second.clone()]));
    assert_eq!(w.streamed(token).topics[0].num_partitions, 4);
    // One with a number of its own must have the right one.
    second.repartition_source_topics = vec![internal("r", 5)];
    let r = w.ask_streams(&join_streams("j", "a", vec![first, joined(second)]));
    assert_eq!(statuses(&r), [INCORRECTLY_PARTITIONED_TOPICS]);
}

#[test]
fn impossible_topologies_are_refused() {
    let mut w = world();
    let mut looped = reads("0", &[], "");
    looped.repartition_sink_topics = vec!["r".into()];
    looped.repartition_source_topics = vec![internal("r", 0)];
    let mut unfed = reads("0", &["t0"], "");
    unfed.repartition_source_topics = vec![internal("r", 0)];
    let mut sized = reads("0", &["t0"], "c");
    sized.state_changelog_topics[0].partitions = 3;
    let idle = reads("0", &[], "c");
    for (name, subtopology) in [
        ("looped", looped),
        ("unfed", unfed),
        ("sized", sized),
        ("idle", idle),
    ] {
        let r = w.ask_streams(&join_streams("g", "a", vec![subtopology]));
        assert_eq!(
            error_of(&r),
            ErrorCode::StreamsInvalidTopology,
            "{name}: {r:?}"
        );
        assert_eq!(
            w.describe_streams("g").error_code,
            69,
            "{name} made no group"
        );
    }
    let twice = vec![reads("0", &["t0"], ""), reads("0", &["t1"], "")];
    let r = w.ask_streams(&join_streams("g", "a", twice));
    assert_eq!(error_of(&r), ErrorCode::UnknownServerError);
    let mut wild = joined(reads("0", &["t0"], ""));
    wild.copartition_groups[0].source_topics = vec![7];
    let r = w.ask_streams(&join_streams("g", "a", vec![wild]));
    assert_eq!(error_of(&r), ErrorCode::UnknownServerError);
    assert_eq!(w.log.len(), 0);
}

#[test]
fn all_members_have_one_topology() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let r = w.ask_streams(&join_streams("g", "b", vec![reads("0", &["t1"], "")]));
    assert_eq!(error_of(&r), ErrorCode::InvalidRequest);
    assert_eq!(
        r.error_message.as_deref(),
        Some("Topology updates are not supported yet.")
    );
    let mut newer = join_streams("g", "b", simple());
    newer.topology.as_mut().unwrap().epoch = 1;
    assert_eq!(error_of(&w.ask_streams(&newer)), ErrorCode::InvalidRequest);
    // The order of subtopologies means nothing; an older epoch is told.
    let two = |epoch, order: [&'static str; 2]| {
        let subtopologies = order.iter().map(|id| reads(id, &["t0"], "")).collect();
        let mut join = join_streams("h", "a", subtopologies);
        join.topology.as_mut().unwrap().epoch = epoch;
        join
    };
    assert_eq!(
        error_of(&w.ask_streams(&two(1, ["0", "1"]))),
        ErrorCode::None
    );
    assert_eq!(
        statuses(&w.ask_streams(&two(1, ["1", "0"]))),
        Vec::<i8>::new()
    );
    assert_eq!(
        statuses(&w.ask_streams(&two(0, ["0", "1"]))),
        [STALE_TOPOLOGY]
    );
}

#[test]
fn requests_are_checked() {
    let mut w = world();
    type Spoil = fn(&mut Beat<'static>);
    let bad: [(&str, Spoil); 13] = [
        ("member", |r| r.member_id = " ".into()),
        ("group", |r| r.group_id = "".into()),
        ("instance", |r| r.instance_id = Some("i".into())),
        ("rack", |r| r.rack_id = Some("".into())),
        ("timeout", |r| r.rebalance_timeout_ms = -1),
        ("topology", |r| r.topology = None),
        ("tasks", |r| r.active_tasks = None),
        ("offsets", |r| r.task_offsets = Some(Vec::new())),
        ("end offsets", |r| r.task_end_offsets = Some(Vec::new())),
        ("epoch", |r| r.member_epoch = -3),
        ("away", |r| *r = streams_beat("g", "a", -2)),
        ("topology later", |r| r.member_epoch = 1),
        ("some tasks", |r| {
            *r = streams_beat("g", "a", 1);
            r.active_tasks = Some(Vec::new());
        }),
    ];
    for (name, change) in bad {
        let mut request = join_streams("g", "a", simple());
        change(&mut request);
        let r = w.ask_streams(&request);
        assert_eq!(error_of(&r), ErrorCode::InvalidRequest, "{name}: {r:?}");
        assert!(r.error_message.is_some(), "{name}");
    }
    let mut expression = reads("0", &["t0"], "");
    expression.source_topic_regex = vec!["t.*".into()];
    let r = w.ask_streams(&join_streams("g", "a", vec![expression]));
    assert_eq!(error_of(&r), ErrorCode::InvalidRequest);
    assert_eq!(w.log.len(), 0);
    let r = w.ask_streams(&streams_beat("g", "a", 1));
    assert_eq!(error_of(&r), ErrorCode::GroupIdNotFound);
    assert_eq!(
        r.error_message.as_deref(),
        Some("Streams group g not found.")
    );
    alone(&mut w, "g", "a");
    let r = w.ask_streams(&streams_beat("g", "nobody", 2));
    assert_eq!(error_of(&r), ErrorCode::UnknownMemberId);
    for epoch in [1, 3] {
        let r = w.ask_streams(&streams_beat("g", "a", epoch));
        assert_eq!(error_of(&r), ErrorCode::FencedMemberEpoch);
    }
    for tasks in [("1", &[0][..]), ("0", &[10][..])] {
        let r = w.ask_streams(&running("g", "a", 2, &[tasks], &[]));
        assert_eq!(error_of(&r), ErrorCode::InvalidRequest, "{r:?}");
    }
}

#[test]
fn an_answer_that_got_lost_is_given_again() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask_streams(&join_streams("g", "b", simple()));
    let half = all(5);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &half)], &[]));
    assert_eq!(r.member_epoch, 3);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &half)], &[]));
    assert_eq!((error_of(&r), r.member_epoch), (ErrorCode::None, 3));
    let more = all(6);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &more)], &[]));
    assert_eq!(error_of(&r), ErrorCode::FencedMemberEpoch);
}

#[test]
fn a_group_has_only_so_many_members() {
    let mut w = world_with(|c| c.streams_group_max_size = 1);
    alone(&mut w, "g", "a");
    let r = w.ask_streams(&join_streams("g", "b", simple()));
    assert_eq!(error_of(&r), ErrorCode::GroupMaxSizeReached);
    assert_eq!(
        error_of(&w.ask_streams(&streams_beat("g", "a", 2))),
        ErrorCode::None
    );
}

#[test]
fn members_leave_and_fall_silent() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let r = w.ask_streams(&streams_beat("g", "a", -1));
    assert_eq!(
        (error_of(&r), r.member_epoch, &*r.member_id),
        (ErrorCode::None, -1, "a")
    );
    let d = w.describe_streams("g");
    assert_eq!(
        (&*d.group_state, d.group_epoch, d.members.len()),
        ("Empty", 3, 0)
    );
    let r = w.ask_streams(&streams_beat("g", "a", -1));
    assert_eq!(error_of(&r), ErrorCode::UnknownMemberId);
    let r = w.ask_streams(&join_streams("g", "b", simple()));
    assert_eq!((r.member_epoch, active(&r).unwrap().len()), (4, 1));
    w.advance_ms(44_000);
    assert_eq!(w.describe_streams("g").group_state, "Stable");
    w.advance_ms(2_000);
    assert_eq!(w.describe_streams("g").group_state, "Empty");
}

#[test]
fn one_member_ends_the_whole_application() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask_streams(&join_streams("g", "b", simple()));
    let leaving = Beat {
        shutdown_application: true,
        ..streams_beat("g", "a", -1)
    };
    assert_eq!(error_of(&w.ask_streams(&leaving)), ErrorCode::None);
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!(statuses(&r), [SHUTDOWN_APPLICATION]);
    assert!(r.status.unwrap()[0].status_detail.contains("member a "));
    let r = w.ask_streams(&join_streams("g", "c", simple()));
    assert_eq!(statuses(&r), [SHUTDOWN_APPLICATION]);
    // with the last member that is forgotten
    w.ask_streams(&streams_beat("g", "b", -1));
    w.ask_streams(&streams_beat("g", "c", -1));
    let r = w.ask_streams(&join_streams("g", "d", simple()));
    assert_eq!(statuses(&r), Vec::<i8>::new());
}

#[test]
fn endpoints_tell_where_state_is() {
    let mut w = world();
    let at = |member: &'static str| Beat {
        endpoint_information_epoch: -1,
        user_endpoint: Some(Endpoint {
            host: member.into(),
            port: 80,
        }),
        ..join_streams("g", member, simple())
    };
    let r = w.ask_streams(&at("a"));
    let told = r.partitions_by_user_endpoint.unwrap();
    assert_eq!(
        (&*told[0].user_endpoint.host, told[0].user_endpoint.port),
        ("a", 80)
    );
    assert_eq!(told[0].active_partitions[0].topic, "t0");
    assert_eq!(told[0].active_partitions[0].partitions, all(10));
    assert_eq!(
        r.endpoint_information_epoch, 0,
        "a new group knows of no epoch"
    );
    let r = w.ask_streams(&at("b"));
    assert_eq!(r.endpoint_information_epoch, 1);
    assert_eq!(r.partitions_by_user_endpoint.unwrap().len(), 2);
    let known = |epoch, endpoints| Beat {
        endpoint_information_epoch: endpoints,
        ..streams_beat("g", "b", epoch)
    };
    let r = w.ask_streams(&known(3, 1));
    assert_eq!(
        (r.endpoint_information_epoch, r.partitions_by_user_endpoint),
        (1, None)
    );
    let half = all(5);
    w.ask_streams(&running("g", "a", 2, &[("0", &half)], &[]));
    let r = w.ask_streams(&known(3, 1));
    let told = r.partitions_by_user_endpoint.unwrap();
    assert_eq!(told[0].active_partitions[0].partitions, half);
    assert_eq!(told[1].active_partitions[0].partitions, [5, 6, 7, 8, 9]);
}

#[test]
fn members_commit_and_fetch_by_their_epoch() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let commit = |w: &mut World, version, member, epoch, partition| {
        let request = commit_request("g", member, epoch, &[("t0", partition, 5)]);
        let token = w.commit(version, &request);
        let r = w.committed(token);
        ErrorCode::from_i16(r.topics[0].partitions[0].error_code).unwrap()
    };
    assert_eq!(commit(&mut w, 9, "a", 2, 0), ErrorCode::None);
    assert_eq!(commit(&mut w, 8, "a", 2, 0), ErrorCode::UnsupportedVersion);
    assert_eq!(commit(&mut w, 9, "a", 3, 0), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut w, 9, "a", 1, 0), ErrorCode::StaleMemberEpoch);
    assert_eq!(commit(&mut w, 9, "b", 2, 0), ErrorCode::UnknownMemberId);
    assert_eq!(commit(&mut w, 9, "", -1, 0), ErrorCode::UnknownMemberId);
    // In a later epoch it may still commit in the old one what it has had since.
    w.ask_streams(&join_streams("g", "b", simple()));
    let half = all(5);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &half)], &[]));
    assert_eq!(r.member_epoch, 3);
    assert_eq!(commit(&mut w, 9, "a", 2, 0), ErrorCode::None);
    assert_eq!(commit(&mut w, 9, "a", 2, 9), ErrorCode::StaleMemberEpoch);
    // An empty group takes offsets from outside.
    w.ask_streams(&streams_beat("g", "a", -1));
    w.ask_streams(&streams_beat("g", "b", -1));
    assert_eq!(commit(&mut w, 9, "", -1, 0), ErrorCode::None);
    assert_eq!(w.offset_of("g", "t0", 0), 5);
}

#[test]
fn offsets_of_topics_that_are_read_are_not_deleted() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let token = w.commit(9, &commit_request("g", "a", 2, &[("t0", 0, 5)]));
    w.committed(token);
    let token = w.delete_offset("g", "t0", 0);
    assert_eq!(w.offset_deleted(token), (0, Some(86)));
    w.ask_streams(&streams_beat("g", "a", -1));
    let token = w.delete_offset("g", "t0", 0);
    assert_eq!(w.offset_deleted(token), (0, Some(0)));
}

#[test]
fn admin_requests_know_streams_groups() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let list = |w: &World, types: &[&'static str], states: &[&'static str]| {
        let request = ListGroupsRequest {
            types_filter: types.iter().map(|t| (*t).into()).collect(),
            states_filter: states.iter().map(|s| (*s).into()).collect(),
        };
        w.coordinator.list_groups(&request).unwrap()
    };
    let listed = list(&w, &["Streams"], &["stable"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&*listed[0].group_type, &*listed[0].protocol_type),
        ("streams", "streams")
    );
    assert!(list(&w, &["consumer", "classic"], &[]).is_empty());
    assert_eq!(w.coordinator.describe_group(ctx(6), "g").error_code, 69);
    assert_eq!(w.describe_consumers("g").error_code, 69);
    let d = w.describe_streams("nothing");
    assert_eq!(d.error_message.as_deref(), Some("Group nothing not found."));
    let token = w.delete_groups(&["g"]);
    assert_eq!(w.deleted(token), [ErrorCode::NonEmptyGroup.code()]);
    w.ask_streams(&streams_beat("g", "a", -1));
    let token = w.delete_groups(&["g"]);
    assert_eq!(w.deleted(token), [0]);
    assert_eq!(w.describe_streams("g").error_code, 69);
    let replayed = w.replayed(w.log.len());
    assert_eq!(
        replayed.describe_streams_group("g").error_code,
        69,
        "nothing is left"
    );
    assert!(
        replayed
            .list_groups(&ListGroupsRequest::default())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn groups_of_other_kinds_are_kept_apart() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let r = w.ask(&join_consumers("g", "b", &["t0"]));
    assert_eq!(r.error_code, ErrorCode::GroupIdNotFound.code());
    let r = w.ask(&beat_request("g", "a", 2));
    assert_eq!(
        r.error_message.as_deref(),
        Some("Group g is not a consumer group.")
    );
    let token = w.join(
        4,
        &join_request("g", "", &[("range", &subscription(&["t0"]))]),
    );
    assert_eq!(
        w.joined(token).error_code,
        ErrorCode::InconsistentGroupProtocol.code()
    );
    assert_eq!(w.heartbeat("g", "a", 2), ErrorCode::UnknownMemberId);
    let token = w.leave(3, "g", &[("a", None)]);
    assert_eq!(
        w.left(token).members[0].error_code,
        ErrorCode::UnknownMemberId.code()
    );
    assert_eq!(
        w.describe_streams("g").group_state,
        "Stable",
        "nothing has happened"
    );
    // consumer and classic groups are not joined
    w.ask(&join_consumers("c", "b", &["t0"]));
    let r = w.ask_streams(&join_streams("c", "a", simple()));
    assert_eq!(error_of(&r), ErrorCode::GroupIdNotFound);
    assert_eq!(
        r.error_message.as_deref(),
        Some("Group c is not a streams group.")
    );
    w.stable_group("k");
    let r = w.ask_streams(&join_streams("k", "a", simple()));
    assert_eq!(error_of(&r), ErrorCode::GroupIdNotFound);
}

#[test]
fn an_empty_group_changes_its_kind() {
    let mut w = world();
    alone(&mut w, "g", "a");
    let token = w.commit(9, &commit_request("g", "a", 2, &[("t0", 0, 5)]));
    w.committed(token);
    w.ask_streams(&streams_beat("g", "a", -1));
    let (member, _) = w.stable_group("g");
    assert_eq!(w.state("g"), "Stable");
    assert_eq!(w.offset_of("g", "t0", 0), 5, "offsets stay");
    let replayed = w.replayed(w.log.len());
    assert_eq!(replayed.describe_streams_group("g").error_code, 69);
    let token = w.leave(3, "g", &[(&member, None)]);
    w.left(token);
    alone(&mut w, "g", "b");
    assert_eq!(w.offset_of("g", "t0", 0), 5);
    let replayed = w.replayed(w.log.len());
    assert_eq!(replayed.describe_streams_group("g").members.len(), 1);
    assert_eq!(replayed.describe_group(ctx(6), "g").error_code, 69);
}

/// The kinds of the records since `from`, with whether they are tombstones.
fn kinds(w: &World, from: usize) -> Vec<(i16, bool)> {
    let kind = |r: &LogRecord| {
        let kind = i16::from_be_bytes([r.1[0], r.1[1]]);
        (kind, r.2.is_none())
    };
    w.log[from..].iter().map(kind).collect()
}

#[test]
fn records_stand_in_the_order_of_kafka() {
    let mut w = world();
    alone(&mut w, "g", "a");
    // member, topology, group epoch, target of the member, target epoch, what the member has
    let written = [19, 23, 17, 21, 20, 22].map(|kind| (kind, false));
    assert_eq!(kinds(&w, 0), written);
    let values = w.log.iter().filter_map(|r| r.2.as_ref());
    assert!(
        values.clone().all(|v| v[..2] == [0, 0]),
        "all values are of version 0"
    );
    w.ask_streams(&streams_beat("g", "a", -1));
    let left = [(22, true), (21, true), (19, true), (17, false)];
    assert_eq!(kinds(&w, 6), left);
    let token = w.delete_groups(&["g"]);
    w.deleted(token);
    assert_eq!(kinds(&w, 10), [(20, true), (17, true), (23, true)]);
}

#[test]
fn a_failed_write_leaves_no_trace() {
    let mut w = world();
    w.auto_commit = false;
    let token = w.stream(&join_streams("g", "a", simple()));
    assert!(w.is_waiting(token));
    w.fail_next(ErrorCode::NotLeaderOrFollower);
    let r = w.streamed(token).response;
    assert_eq!(error_of(&r), ErrorCode::NotCoordinator);
    assert_eq!(w.describe_streams("g").error_code, 69);
    w.auto_commit = true;
    alone(&mut w, "g", "a");
    w.auto_commit = false;
    let before = w.describe_streams("g");
    let token = w.stream(&join_streams("g", "b", simple()));
    let later = w.stream(&streams_beat("g", "a", 2));
    w.fail_next(ErrorCode::NotLeaderOrFollower);
    w.fail_next(ErrorCode::NotLeaderOrFollower);
    assert_eq!(
        error_of(&w.streamed(token).response),
        ErrorCode::NotCoordinator
    );
    assert_eq!(
        error_of(&w.streamed(later).response),
        ErrorCode::NotCoordinator
    );
    w.auto_commit = true;
    w.ask_streams(&streams_beat("g", "a", 2));
    assert_eq!(w.describe_streams("g"), before);
    w.coordinator.check();
}

#[test]
fn a_restart_brings_back_what_is_written() {
    let mut w = world();
    alone(&mut w, "g", "a");
    w.ask_streams(&join_streams("g", "b", simple()));
    w.ask_streams(&streams_beat("g", "a", 2));
    w.restart();
    let half = all(5);
    let r = w.ask_streams(&running("g", "a", 2, &[("0", &half)], &[]));
    assert_eq!((error_of(&r), r.member_epoch), (ErrorCode::None, 3));
    let r = w.ask_streams(&streams_beat("g", "b", 3));
    assert_eq!(active(&r), Some(vec![("0".into(), vec![5, 6, 7, 8, 9])]));
    w.advance_ms(50_000);
    assert_eq!(
        w.describe_streams("g").group_state,
        "Empty",
        "sessions began anew"
    );
}
