//! Requests of members and of others, and what they are answered.

use super::common::streams::*;
use super::common::*;
use super::{all, alone, world, world_with};
use flumen_base::ErrorCode;
use flumen_wire::messages::ListGroupsRequest;
use flumen_wire::messages::streams_group_heartbeat_request::Endpoint;

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
