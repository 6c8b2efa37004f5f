//! Committed offsets: who may commit, what is seen when, what expires.

mod common;

use common::*;
use flumen_base::{ErrorCode, Uuid};
use flumen_coordinator::{offset_fetch_group_of, offset_fetch_response_of};
use flumen_wire::messages::offset_commit_request::OffsetCommitRequestTopic;
use flumen_wire::messages::offset_fetch_request::{
    OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use flumen_wire::messages::{OffsetCommitResponse, OffsetFetchRequest};

const G: &str = "group";
const DAY_MS: i64 = 86_400_000;

fn code(error: ErrorCode) -> i16 {
    error.code()
}

fn errors(response: &OffsetCommitResponse<'_>) -> Vec<i16> {
    let topics = response.topics.iter();
    topics
        .flat_map(|t| t.partitions.iter().map(|p| p.error_code))
        .collect()
}

fn commit(w: &mut World, version: i16, group: &str, member: &str, generation: i32) -> i16 {
    let token = w.commit(
        version,
        &commit_request(group, member, generation, &[("t0", 0, 7)]),
    );
    errors(&w.committed(token))[0]
}

#[test]
fn commits_from_outside_a_group() {
    let mut w = World::new();
    assert_eq!(commit(&mut w, 8, G, "", -1), 0);
    assert_eq!(w.offset_of(G, "t0", 0), 7);
    assert_eq!(w.offset_of(G, "t0", 1), -1);
    assert_eq!(w.offset_of("none", "t0", 0), -1);
    assert_eq!(
        commit(&mut w, 8, "", "", -1),
        0,
        "the empty group id is served"
    );
    assert_eq!(
        commit(&mut w, 8, "other", "m", 3),
        code(ErrorCode::IllegalGeneration)
    );
    assert_eq!(
        commit(&mut w, 9, "other", "m", 3),
        code(ErrorCode::GroupIdNotFound)
    );
    assert_eq!(
        commit(&mut w, 9, G, "m", 0),
        code(ErrorCode::UnknownMemberId)
    );
}

#[test]
fn commits_from_inside_a_group() {
    let mut w = World::new();
    let (id, generation) = w.stable_group(G);
    assert_eq!(commit(&mut w, 8, G, &id, generation), 0);
    assert_eq!(
        commit(&mut w, 8, G, &id, generation + 1),
        code(ErrorCode::IllegalGeneration)
    );
    assert_eq!(
        commit(&mut w, 8, G, &id, -1),
        code(ErrorCode::IllegalGeneration)
    );
    assert_eq!(
        commit(&mut w, 8, G, "x", generation),
        code(ErrorCode::UnknownMemberId)
    );
    assert_eq!(
        commit(&mut w, 8, G, "", -1),
        code(ErrorCode::UnknownMemberId)
    );
    let mut request = commit_request(G, &id, generation, &[("t0", 0, 7)]);
    request.group_instance_id = Some("i".into());
    let token = w.commit(8, &request);
    assert_eq!(
        errors(&w.committed(token)),
        [code(ErrorCode::UnknownMemberId)]
    );
    // while gathering, the old generation may still commit
    w.join(3, &join_request(G, "", &[("range", b"")]));
    assert_eq!(commit(&mut w, 8, G, &id, generation), 0);
    w.join(3, &join_request(G, &id, &[("range", b"")]));
    assert_eq!(w.state(G), "CompletingRebalance");
    let rebalancing = commit(&mut w, 8, G, &id, generation + 1);
    assert_eq!(rebalancing, code(ErrorCode::RebalanceInProgress));
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let mut w = World::new();
    let (id, generation) = w.stable_group(G);
    for _ in 0..4 {
        w.advance_ms(9_000);
        assert_eq!(commit(&mut w, 8, G, &id, generation), 0);
    }
    assert_eq!(w.heartbeat(G, &id, generation), ErrorCode::None);
}

#[test]
fn topics_partitions_and_metadata_are_checked() {
    let mut w = World::new();
    let mut request = commit_request(
        G,
        "",
        -1,
        &[("t0", 0, 1), ("nope", 0, 1), ("t1", 10, 1), ("t2", 0, 1)],
    );
    // 4096 characters are fine however many bytes they take; one more is not
    request.topics[0].partitions[0].committed_metadata = Some("ä".repeat(4096).into());
    request.topics[3].partitions[0].committed_metadata = Some("x".repeat(4097).into());
    let token = w.commit(8, &request);
    let expected = [
        0,
        code(ErrorCode::UnknownTopicOrPartition),
        code(ErrorCode::UnknownTopicOrPartition),
        code(ErrorCode::OffsetMetadataTooLarge),
    ];
    assert_eq!(errors(&w.committed(token)), expected);
    assert_eq!(w.log.len(), 1);

    let token = w.commit(8, &commit_request("fresh", "", -1, &[("nope", 0, 1)]));
    w.committed(token);
    request.topics.remove(0);
    request.group_id = "fresh".into();
    let token = w.commit(8, &request);
    w.committed(token);
    let described = w.coordinator.describe_group(ctx(6), "fresh");
    assert_eq!(described.error_code, code(ErrorCode::GroupIdNotFound));
}

#[test]
fn topic_ids_from_version_10() {
    let mut w = World::new();
    let mut request = commit_request(G, "", -1, &[("", 3, 33), ("", 0, 1)]);
    request.topics[0].topic_id = topic_id(4);
    request.topics[1].topic_id = topic_id(77);
    let token = w.commit(10, &request);
    let done = w.committed(token);
    assert_eq!(errors(&done), [0, code(ErrorCode::UnknownTopicId)]);
    assert_eq!(done.topics[0].topic_id, topic_id(4));
    assert_eq!(w.offset_of(G, "t4", 3), 33);

    let mut request = fetch_request(G, "", &[3]);
    let topics = request.topics.as_mut().unwrap();
    topics[0].topic_id = topic_id(4);
    topics.push(OffsetFetchRequestTopics {
        topic_id: topic_id(99),
        partition_indexes: vec![0],
        ..Default::default()
    });
    let token = w.fetch(10, &request, false);
    let group = w.fetched(token);
    assert_eq!(group.topics[0].partitions[0].committed_offset, 33);
    assert_eq!(group.topics[0].topic_id, topic_id(4));
    let unknown = &group.topics[1].partitions[0];
    assert_eq!(unknown.error_code, code(ErrorCode::UnknownTopicId));
    request.topics = None;
    let token = w.fetch(10, &request, false);
    assert_eq!(w.fetched(token).topics[0].topic_id, topic_id(4));
}

#[test]
fn old_versions_know_one_group() {
    let mut w = World::new();
    commit(&mut w, 8, G, "", -1);
    let mut request = OffsetFetchRequest {
        group_id: G.into(),
        topics: Some(vec![OffsetFetchRequestTopic {
            name: "t0".into(),
            partition_indexes: vec![0, 1],
        }]),
        ..Default::default()
    };
    let token = w.fetch(5, &offset_fetch_group_of(&request), false);
    let response = offset_fetch_response_of(w.fetched(token));
    let offsets: Vec<_> = response.topics[0]
        .partitions
        .iter()
        .map(|p| p.committed_offset)
        .collect();
    assert_eq!((response.error_code, offsets), (0, vec![7, -1]));
    request.topics = None;
    let token = w.fetch(5, &offset_fetch_group_of(&request), false);
    let response = offset_fetch_response_of(w.fetched(token));
    assert_eq!(response.topics[0].partitions.len(), 1);
    assert_eq!(
        response.topics[0].partitions[0].metadata.as_deref(),
        Some("")
    );
}

#[test]
fn fetch_sees_what_is_written_and_stable_fetch_waits_for_it() {
    let mut w = World::new();
    commit(&mut w, 8, G, "", -1);
    w.auto_commit = false;
    let token = w.commit(8, &commit_request(G, "", -1, &[("t0", 0, 8)]));
    assert_eq!(w.offset_of(G, "t0", 0), 7);
    let stable = w.fetch(8, &fetch_request(G, "t0", &[0]), true);
    assert!(w.is_waiting(stable) && w.is_waiting(token));
    w.commit_all();
    assert_eq!(errors(&w.committed(token)), [0]);
    assert_eq!(
        w.fetched(stable).topics[0].partitions[0].committed_offset,
        8
    );
    let stable = w.fetch(8, &fetch_request(G, "t0", &[0]), true);
    assert_eq!(
        w.fetched(stable).topics[0].partitions[0].committed_offset,
        8
    );
}

#[test]
fn a_failed_commit_leaves_no_trace() {
    let mut w = World::new();
    w.auto_commit = false;
    let cases = [
        (
            ErrorCode::NotEnoughReplicas,
            ErrorCode::CoordinatorNotAvailable,
        ),
        (ErrorCode::KafkaStorageError, ErrorCode::NotCoordinator),
        (ErrorCode::MessageTooLarge, ErrorCode::UnknownServerError),
    ];
    for (cause, told) in cases {
        let token = w.commit(
            8,
            &commit_request(G, "", -1, &[("t0", 0, 8), ("nope", 0, 1)]),
        );
        let stable = w.fetch(8, &fetch_request(G, "t0", &[0]), true);
        w.fail_next(cause);
        let unknown = code(ErrorCode::UnknownTopicOrPartition);
        assert_eq!(errors(&w.committed(token)), [code(told), unknown]);
        let told = match told {
            ErrorCode::CoordinatorNotAvailable => ErrorCode::NotCoordinator,
            told => told,
        };
        assert_eq!(w.fetched(stable).error_code, code(told));
        assert_eq!(w.offset_of(G, "t0", 0), -1);
        let described = w.coordinator.describe_group(ctx(6), G);
        assert_eq!(described.error_code, code(ErrorCode::GroupIdNotFound));
    }
}

#[test]
fn the_later_of_two_commits_in_flight_stands_if_it_is_written() {
    let mut w = World::new();
    w.auto_commit = false;
    for fail_second in [false, true] {
        w.commit(8, &commit_request(G, "", -1, &[("t0", 0, 1)]));
        w.commit(8, &commit_request(G, "", -1, &[("t0", 0, 2)]));
        w.commit_next();
        assert_eq!(w.offset_of(G, "t0", 0), 1);
        if fail_second {
            w.fail_next(ErrorCode::RequestTimedOut);
            assert_eq!(w.offset_of(G, "t0", 0), 1);
        } else {
            w.commit_next();
            assert_eq!(w.offset_of(G, "t0", 0), 2);
        }
    }
}

#[test]
fn offset_delete() {
    let mut w = World::new();
    let token = w.delete_offset("none", "t0", 0);
    assert_eq!(
        w.offset_deleted(token),
        (code(ErrorCode::GroupIdNotFound), None)
    );
    commit(&mut w, 8, G, "", -1);
    let token = w.delete_offset(G, "nope", 0);
    let unknown = code(ErrorCode::UnknownTopicOrPartition);
    assert_eq!(w.offset_deleted(token), (0, Some(unknown)));
    let token = w.delete_offset(G, "t0", 5);
    assert_eq!(w.offset_deleted(token), (0, Some(0)));
    assert_eq!(w.log.len(), 1, "nothing there, nothing written");
    let token = w.delete_offset(G, "t0", 0);
    assert_eq!(w.offset_deleted(token), (0, Some(0)));
    assert_eq!(w.offset_of(G, "t0", 0), -1);
    assert_eq!(w.log.len(), 2);

    let sub = subscription(&["t0"]);
    let token = w.join(3, &join_request("live", "", &[("range", &sub)]));
    w.advance_ms(3_000);
    let id = w.joined(token).member_id.to_string();
    w.sync(3, &sync_request("live", &id, 1, &[]));
    let offsets = [("t0", 0, 1), ("t1", 0, 1)];
    w.commit(8, &commit_request("live", &id, 1, &offsets));
    let token = w.delete_offset("live", "t0", 0);
    let subscribed = code(ErrorCode::GroupSubscribedToTopic);
    assert_eq!(w.offset_deleted(token), (0, Some(subscribed)));
    let token = w.delete_offset("live", "t1", 0);
    assert_eq!(w.offset_deleted(token), (0, Some(0)));

    let mut request = join_request("workers", "", &[("x", b"")]);
    request.protocol_type = "connect".into();
    w.join(3, &request);
    let token = w.delete_offset("workers", "t0", 0);
    assert_eq!(
        w.offset_deleted(token),
        (code(ErrorCode::NonEmptyGroup), None)
    );
}

#[test]
fn delete_groups() {
    let mut w = World::new();
    commit(&mut w, 8, "simple", "", -1);
    w.stable_group("live");
    w.auto_commit = false;
    let token = w.delete_groups(&["simple", "live", "none"]);
    assert!(w.is_waiting(token));
    // while it dies: no commits, no joins, still shown
    let refused = commit(&mut w, 8, "simple", "", -1);
    assert_eq!(refused, code(ErrorCode::CoordinatorNotAvailable));
    let join = w.join(3, &join_request("simple", "", &[("range", b"")]));
    assert_eq!(
        w.joined(join).error_code,
        code(ErrorCode::CoordinatorNotAvailable)
    );
    assert_eq!(w.state("simple"), "Empty");
    assert_eq!(w.offset_of("simple", "t0", 0), 7);
    let again = w.delete_groups(&["simple"]);
    assert_eq!(w.deleted(again), [code(ErrorCode::GroupIdNotFound)]);
    w.fail_next(ErrorCode::NotEnoughReplicas);
    let expected = [
        code(ErrorCode::CoordinatorNotAvailable),
        code(ErrorCode::NonEmptyGroup),
        code(ErrorCode::GroupIdNotFound),
    ];
    assert_eq!(w.deleted(token), expected);
    assert_eq!(w.offset_of("simple", "t0", 0), 7, "as if nothing had been");
    let token = w.delete_groups(&["simple"]);
    w.commit_all();
    assert_eq!(w.deleted(token), [0]);
    assert_eq!(w.state("simple"), "Dead");
    w.restart();
    assert_eq!(w.state("simple"), "Dead");
    assert_eq!(w.state("live"), "Stable");
}

#[test]
fn deleting_a_group_buries_commits_still_in_flight() {
    let mut w = World::new();
    w.auto_commit = false;
    let commit = w.commit(8, &commit_request(G, "", -1, &[("t0", 0, 1)]));
    let delete = w.delete_groups(&[G]);
    w.commit_all();
    assert_eq!(errors(&w.committed(commit)), [0]);
    assert_eq!(w.deleted(delete), [0]);
    assert_eq!(w.offset_of(G, "t0", 0), -1);
    w.restart();
    assert_eq!(w.offset_of(G, "t0", 0), -1);
}

/// The tombstone that is on its way already may not be written, and the later one be.
#[test]
fn an_offset_whose_tombstone_is_on_its_way_is_buried_again() {
    for whole_group in [true, false] {
        let mut w = World::new();
        commit(&mut w, 8, G, "", -1);
        w.auto_commit = false;
        let first = w.delete_offset(G, "t0", 0);
        let second = match whole_group {
            true => w.delete_groups(&[G]),
            false => w.delete_offset(G, "t0", 0),
        };
        w.fail_next(ErrorCode::NotEnoughReplicas);
        w.commit_all();
        assert_ne!(w.offset_deleted(first).0, 0);
        match whole_group {
            true => assert_eq!(w.deleted(second), [0]),
            false => assert_eq!(w.offset_deleted(second), (0, Some(0))),
        }
        assert_eq!(w.offset_of(G, "t0", 0), -1);
        w.restart();
        assert_eq!(w.offset_of(G, "t0", 0), -1, "whole group: {whole_group}");
    }
}

#[test]
fn offsets_of_a_simple_group_expire_each_on_its_own() {
    let mut w = World::new();
    commit(&mut w, 8, G, "", -1);
    w.advance_ms(4 * DAY_MS);
    w.commit(8, &commit_request(G, "", -1, &[("t1", 0, 9)]));
    w.advance_ms(3 * DAY_MS - 600_000);
    assert_eq!(w.offset_of(G, "t0", 0), 7);
    w.advance_ms(1_200_000);
    assert_eq!(w.offset_of(G, "t0", 0), -1);
    assert_eq!(w.offset_of(G, "t1", 0), 9);
    assert_eq!(w.state(G), "Empty");
    w.advance_ms(4 * DAY_MS);
    assert_eq!(w.state(G), "Dead", "the group goes with its last offset");
    assert!(w.log.iter().filter(|(_, _, value)| value.is_none()).count() == 3);
}

#[test]
fn offsets_of_an_empty_group_expire_when_it_has_been_empty_long_enough() {
    let mut w = World::new();
    let (id, generation) = w.stable_group(G);
    commit(&mut w, 8, G, &id, generation);
    for _ in 0..10 * 24 * 360 {
        w.advance_ms(10_000 - 1);
        assert_eq!(w.heartbeat(G, &id, generation), ErrorCode::None);
    }
    assert_eq!(
        w.offset_of(G, "t0", 0),
        7,
        "members may read it: their metadata can't be told"
    );
    w.leave(3, G, &[(&id, None)]);
    w.advance_ms(7 * DAY_MS - 600_000);
    assert_eq!(w.offset_of(G, "t0", 0), 7);
    w.restart();
    w.advance_ms(1_200_000);
    assert_eq!(w.state(G), "Dead");
}

#[test]
fn a_stable_group_loses_offsets_of_topics_it_does_not_read() {
    let mut w = World::new();
    let sub = subscription(&["t1", "t2"]);
    let mut request = join_request(G, "", &[("range", &sub)]);
    request.session_timeout_ms = 1_800_000;
    let token = w.join(3, &request);
    w.advance_ms(3_000);
    let id = w.joined(token).member_id.to_string();
    w.sync(3, &sync_request(G, &id, 1, &[]));
    w.commit(8, &commit_request(G, &id, 1, &[("t0", 0, 1), ("t1", 0, 1)]));
    for _ in 0..8 * 24 * 3 {
        w.advance_ms(1_200_000);
        assert_eq!(w.heartbeat(G, &id, 1), ErrorCode::None);
    }
    assert_eq!(w.offset_of(G, "t0", 0), -1);
    assert_eq!(w.offset_of(G, "t1", 0), 1);
}

#[test]
fn old_clients_choose_their_own_retention() {
    let mut w = World::new();
    let mut request = commit_request(G, "", -1, &[("t0", 0, 1)]);
    request.retention_time_ms = 1_000;
    w.commit(2, &request);
    w.commit(2, &commit_request(G, "", -1, &[("t1", 0, 1)]));
    w.restart();
    w.advance_ms(601_000);
    assert_eq!(w.offset_of(G, "t0", 0), -1);
    assert_eq!(w.offset_of(G, "t1", 0), 1);
}

#[test]
fn expiry_of_many_goes_in_bounded_appends() {
    let mut w = World::new();
    let names: Vec<_> = (0..300).map(|n| group_in(1, n)).collect();
    for name in &names {
        let offsets: Vec<_> = (0..10).map(|p| ("t0", p, 1)).collect();
        w.commit(8, &commit_request(name, "", -1, &offsets));
    }
    w.advance_ms(7 * DAY_MS - 300_000);
    w.auto_commit = false;
    w.advance_ms(900_000);
    assert!(w.appends.len() >= 3);
    assert!(w.appends.iter().all(|a| a.records.len() <= 1001));
    let total: usize = w.appends.iter().map(|a| a.records.len()).sum();
    assert_eq!(total, 300 * 11);
    w.commit_all();
    assert!(
        w.coordinator
            .list_groups(&Default::default())
            .unwrap()
            .is_empty()
    );
    assert_eq!(w.coordinator.writes_outstanding(), 0);
}

#[test]
fn deleted_topics_take_their_offsets_along() {
    let mut w = World::new();
    let offsets = [("t0", 0, 1), ("t0", 1, 1), ("t1", 0, 1)];
    w.commit(8, &commit_request(G, "", -1, &offsets));
    let mut out = Default::default();
    let other_life = Uuid::from_bytes([200; 16]);
    w.coordinator
        .on_topics_deleted(w.now, &[("t0", other_life)], &mut out);
    w.drain(out);
    assert_eq!(
        w.offset_of(G, "t0", 0),
        1,
        "that was another topic of this name"
    );
    let mut out = Default::default();
    w.coordinator
        .on_topics_deleted(w.now, &[("t0", topic_id(0))], &mut out);
    w.drain(out);
    assert_eq!(w.offset_of(G, "t0", 0), -1);
    assert_eq!(w.offset_of(G, "t0", 1), -1);
    assert_eq!(w.offset_of(G, "t1", 0), 1);
    let mut lags = Vec::new();
    w.coordinator
        .for_each_committed(&mut |group, topic, partition, offset| {
            lags.push((group.to_owned(), topic.to_owned(), partition, offset.0));
        });
    assert_eq!(lags, [(G.to_owned(), "t1".to_owned(), 0, 1)]);
}

#[test]
fn an_empty_group_without_offsets_is_deleted_at_the_next_look() {
    let mut w = World::new();
    w.join(4, &join_request(G, "", &[("range", b"")]));
    assert_eq!(w.state(G), "Empty");
    w.advance_ms(600_000);
    assert_eq!(w.state(G), "Dead");
}

#[test]
fn the_same_partition_twice_in_one_commit() {
    let mut w = World::new();
    let mut request = commit_request(G, "", -1, &[("t0", 0, 1), ("t0", 0, 2)]);
    let topic: OffsetCommitRequestTopic<'_> = request.topics[1].clone();
    request.topics.push(topic);
    let token = w.commit(8, &request);
    assert_eq!(errors(&w.committed(token)), [0, 0, 0]);
    assert_eq!(w.offset_of(G, "t0", 0), 2);
    w.restart();
    assert_eq!(w.offset_of(G, "t0", 0), 2);
}
