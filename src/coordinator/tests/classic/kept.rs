//! What is written, what happens when it cannot be, and what a restart or another owner brings
//! back.

use super::common::*;
use super::{G, code, two_members};
use flumen_base::ErrorCode;

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
