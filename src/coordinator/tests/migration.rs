//! Groups that change their kind, empty and with members, and members of both kinds in one group.

#![allow(clippy::unwrap_used)] // helpers of tests stand outside of them

mod common;

use common::consumers::*;
use common::*;
use flumen_base::ErrorCode;
use flumen_coordinator::{CoordinatorConfig, MigrationPolicy};
use flumen_wire::messages::{ConsumerGroupHeartbeatRequest, JoinGroupResponse};

fn world_with(policy: MigrationPolicy) -> World {
    World::with(
        CoordinatorConfig {
            consumer_group_assignment_interval_ms: 0,
            consumer_group_migration_policy: policy,
            group_initial_rebalance_delay_ms: 0,
            ..config()
        },
        1,
    )
}

fn world() -> World {
    world_with(MigrationPolicy::Bidirectional)
}

/// A subscription, version 1, to these topics with these partitions of t0.
fn subscribed(topics: &[&str], owned: &[i32]) -> Vec<u8> {
    let mut bytes = subscription(topics);
    if !owned.is_empty() {
        bytes.truncate(bytes.len() - 4);
        bytes.extend(1i32.to_be_bytes());
        bytes.extend([0, 2, b't', b'0']);
        bytes.extend((owned.len() as i32).to_be_bytes());
        owned.iter().for_each(|p| bytes.extend(p.to_be_bytes()));
    }
    bytes
}

/// An assignment, version 1, of these partitions of t0.
fn assignment(partitions: &[i32]) -> Vec<u8> {
    let mut bytes = vec![0, 1];
    bytes.extend(i32::from(!partitions.is_empty()).to_be_bytes());
    if !partitions.is_empty() {
        bytes.extend([0, 2, b't', b'0']);
        bytes.extend((partitions.len() as i32).to_be_bytes());
        partitions
            .iter()
            .for_each(|p| bytes.extend(p.to_be_bytes()));
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes
}

fn join(w: &mut World, group: &str, id: &str, metadata: &[u8]) -> JoinGroupResponse<'static> {
    let token = w.join(3, &join_request(group, id, &[("range", metadata)]));
    w.advance_ms(0);
    w.joined(token)
}

/// What a member of a consumer group is assigned by SyncGroup.
fn sync(w: &mut World, group: &str, id: &str, generation: i32) -> (ErrorCode, Vec<u8>) {
    let token = w.sync(3, &sync_request(group, id, generation, &[]));
    let r = w.synced(token);
    (
        ErrorCode::from_i16(r.error_code).unwrap(),
        r.assignment.to_vec(),
    )
}

/// A stable classic group of one member that has all of t0, in generation 1.
fn classic(w: &mut World, group: &str) -> String {
    let metadata = subscribed(&["t0"], &[]);
    let joined = join(w, group, "", &metadata);
    let id = joined.member_id.to_string();
    let all: Vec<i32> = (0..10).collect();
    let bytes = assignment(&all);
    let token = w.sync(
        3,
        &sync_request(group, &id, joined.generation_id, &[(&id, &bytes)]),
    );
    assert_eq!(w.synced(token).error_code, 0);
    id
}

#[test]
fn an_empty_classic_group_becomes_a_consumer_group_and_back() {
    let mut w = world();
    let token = w.commit(8, &commit_request("g", "", -1, &[("t0", 0, 7)]));
    w.committed(token);
    assert_eq!(w.ask(&join_consumers("g", "a", &["t0"])).member_epoch, 2);
    assert_eq!(w.offset_of("g", "t0", 0), 7, "offsets stay");
    w.restart();
    assert_eq!(w.offset_of("g", "t0", 0), 7);
    assert_eq!(w.describe_consumers("g").members.len(), 1);
    w.ask(&beat_request("g", "a", -1));
    // a member id that the group does not know
    let r = join(&mut w, "g", "x", &subscribed(&["t0"], &[]));
    assert_eq!(r.error_code, ErrorCode::UnknownMemberId.code());
    let r = join(&mut w, "g", "", &subscribed(&["t0"], &[]));
    assert_eq!((r.error_code, r.generation_id), (0, 1));
    assert_eq!(w.state("g"), "CompletingRebalance");
    assert_eq!(
        w.describe_consumers("g").error_code,
        ErrorCode::GroupIdNotFound.code()
    );
    w.restart();
    assert_eq!(w.offset_of("g", "t0", 0), 7);
    assert_eq!(w.state("g"), "Empty");
}

#[test]
fn a_conversion_that_fails_is_taken_back() {
    let mut w = world();
    w.ask(&join_consumers("g", "a", &["t0"]));
    w.ask(&beat_request("g", "a", -1));
    w.auto_commit = false;
    let token = w.join(3, &join_request("g", "", &[("range", b"")]));
    while w.fail_next(ErrorCode::NotLeaderOrFollower) {}
    assert_eq!(w.joined(token).error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(w.describe_consumers("g").group_state, "Empty");
    w.coordinator.check();
    w.auto_commit = true;
    assert_eq!(w.ask(&join_consumers("g", "a", &["t0"])).error_code, 0);
}

#[test]
fn online_up_and_down() {
    let mut w = world();
    let old = classic(&mut w, "g");
    // the first consumer takes the group with it
    let r = w.ask(&join_consumers("g", "new", &["t0"]));
    assert_eq!((code(&r), r.member_epoch), (ErrorCode::None, 2));
    assert_eq!(assigned(&r), Some(vec![]));
    let d = w.describe_consumers("g");
    assert_eq!((d.members.len(), d.group_epoch), (2, 2));
    let types: Vec<i8> = d.members.iter().map(|m| m.member_type).collect();
    assert_eq!(types.iter().sum::<i8>(), 1);
    w.coordinator.check();
    let replayed = w.replayed(w.log.len());
    assert_eq!(replayed.describe_consumer_group("g"), d);
    // the classic member rejoins to give up half
    assert_eq!(w.heartbeat("g", &old, 1), ErrorCode::RebalanceInProgress);
    let all: Vec<i32> = (0..10).collect();
    let r = join(&mut w, "g", &old, &subscribed(&["t0"], &all));
    assert_eq!((r.error_code, r.generation_id), (0, 1));
    assert_eq!(
        (&*r.leader, r.protocol_name.as_deref()),
        ("", Some("range"))
    );
    let (error, bytes) = sync(&mut w, "g", &old, 1);
    assert_eq!(error, ErrorCode::None);
    let kept: Vec<i32> = (0..10).filter(|p| assignment_has(&bytes, *p)).collect();
    assert_eq!(kept.len(), 5);
    assert_eq!(w.heartbeat("g", &old, 1), ErrorCode::RebalanceInProgress);
    let r = join(&mut w, "g", &old, &subscribed(&["t0"], &kept));
    assert_eq!(r.generation_id, 2);
    assert_eq!(sync(&mut w, "g", &old, 2).0, ErrorCode::None);
    assert_eq!(sync(&mut w, "g", &old, 1).0, ErrorCode::IllegalGeneration);
    assert_eq!(w.heartbeat("g", &old, 2), ErrorCode::None);
    assert_eq!(
        assigned(&w.ask(&beat_request("g", "new", 2))).unwrap()[0]
            .1
            .len(),
        5
    );
    assert_eq!(w.describe_consumers("g").group_state, "Stable");
    let token = w.commit(8, &commit_request("g", &old, 2, &[("t0", 0, 9)]));
    assert_eq!(w.committed(token).topics[0].partitions[0].error_code, 0);
    let token = w.commit(8, &commit_request("g", &old, 3, &[("t0", 0, 9)]));
    let code = w.committed(token).topics[0].partitions[0].error_code;
    assert_eq!(code, ErrorCode::IllegalGeneration.code());
    // the last consumer leaves: down again, with a rebalance
    assert_eq!(w.ask(&beat_request("g", "new", -1)).error_code, 0);
    assert_eq!(w.state("g"), "PreparingRebalance");
    assert_eq!(w.heartbeat("g", &old, 2), ErrorCode::RebalanceInProgress);
    let r = join(&mut w, "g", &old, &subscribed(&["t0"], &kept));
    assert_eq!((r.error_code, r.members.len()), (0, 1));
    assert!(r.generation_id > 2);
    let replayed = w.replayed(w.log.len());
    assert_eq!(replayed.describe_group(ctx(5), "g").members.len(), 1);
    assert_eq!(w.offset_of("g", "t0", 0), 9);
}

fn assignment_has(bytes: &[u8], partition: i32) -> bool {
    // version, one topic, its name, then the partitions
    let count = i32::from_be_bytes(bytes[10..14].try_into().unwrap());
    (0..count as usize).any(|n| {
        let at = 14 + 4 * n;
        i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) == partition
    })
}

#[test]
fn a_classic_member_joins_a_consumer_group() {
    let mut w = world();
    w.ask(&join_consumers("g", "new", &["t0"]));
    // told its id first
    let token = w.join(
        4,
        &join_request("g", "", &[("range", &subscribed(&["t0"], &[]))]),
    );
    let r = w.joined(token);
    assert_eq!(r.error_code, ErrorCode::MemberIdRequired.code());
    let id = r.member_id.to_string();
    let r = join(&mut w, "g", &id, &subscribed(&["t0"], &[]));
    assert_eq!((r.error_code, r.generation_id), (0, 3));
    assert_eq!(
        sync(&mut w, "g", &id, 3),
        (ErrorCode::None, assignment(&[]))
    );
    assert_eq!(w.heartbeat("g", &id, 3), ErrorCode::None);
    let kept = assigned(&w.ask(&beat_request("g", "new", 2))).unwrap();
    w.ask(&owning("g", "new", 2, &[(0, &kept[0].1)]));
    // what it waited for is free
    assert_eq!(w.heartbeat("g", &id, 3), ErrorCode::RebalanceInProgress);
    let r = join(&mut w, "g", &id, &subscribed(&["t0"], &[]));
    assert_eq!(r.generation_id, 3);
    let (_, bytes) = sync(&mut w, "g", &id, 3);
    assert_eq!((0..10).filter(|p| assignment_has(&bytes, *p)).count(), 5);
    // other protocols, bad bytes
    let token = w.join(3, &join_request("g", "", &[("roundrobin", b"\0\x01")]));
    assert_eq!(
        w.joined(token).error_code,
        ErrorCode::InconsistentGroupProtocol.code()
    );
    let r = join(&mut w, "g", "", b"\0");
    assert_eq!(r.error_code, ErrorCode::UnknownServerError.code());
    // requests of the other kind
    assert_eq!(w.heartbeat("g", "new", 3), ErrorCode::UnknownMemberId);
    assert_eq!(w.heartbeat("g", "nobody", 3), ErrorCode::UnknownMemberId);
    assert_eq!(sync(&mut w, "g", "new", 3).0, ErrorCode::UnknownMemberId);
    // it leaves, and an administrator removes the other
    let token = w.leave(3, "g", &[(&id, None), ("nobody", None), ("new", None)]);
    let left: Vec<i16> = w.left(token).members.iter().map(|m| m.error_code).collect();
    let unknown = ErrorCode::UnknownMemberId.code();
    assert_eq!(left, [0, unknown, 0]);
    assert_eq!(w.describe_consumers("g").group_state, "Empty");
    w.coordinator.check();
}

#[test]
fn classic_members_have_deadlines() {
    let mut w = world();
    w.ask(&join_consumers("g", "new", &["t0"]));
    let joined = join(&mut w, "g", "", &subscribed(&["t0"], &[]));
    let id = joined.member_id.to_string();
    // its own session, of ten seconds
    w.advance_ms(9_000);
    assert_eq!(w.heartbeat("g", &id, 3), ErrorCode::None);
    w.advance_ms(11_000);
    assert_eq!(w.heartbeat("g", &id, 3), ErrorCode::UnknownMemberId);
    assert_eq!(w.describe_consumers("g").members.len(), 1);
    // it must fetch its assignment within its rebalance timeout
    let joined = join(&mut w, "g", "", &subscribed(&["t0"], &[]));
    let id = joined.member_id.to_string();
    for _ in 0..8 {
        w.advance_ms(8_000);
        w.heartbeat("g", &id, joined.generation_id);
        w.ask(&beat_request("g", "new", 2));
    }
    assert_eq!(
        w.heartbeat("g", &id, joined.generation_id),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn policies() {
    let mut w = world_with(MigrationPolicy::Downgrade);
    classic(&mut w, "g");
    let r = w.ask(&join_consumers("g", "new", &["t0"]));
    assert_eq!(code(&r), ErrorCode::GroupIdNotFound);
    assert_eq!(
        r.error_message.as_deref(),
        Some(
            "Cannot upgrade classic group g to consumer group because online upgrade is disabled."
        )
    );
    assert_eq!(w.state("g"), "Stable");

    let mut w = world_with(MigrationPolicy::Upgrade);
    let old = classic(&mut w, "g");
    assert_eq!(
        code(&w.ask(&join_consumers("g", "new", &["t0"]))),
        ErrorCode::None
    );
    w.ask(&beat_request("g", "new", -1));
    let d = w.describe_consumers("g");
    assert_eq!(
        (d.error_code, d.members.len()),
        (0, 1),
        "it stays a consumer group"
    );
    assert_eq!(d.members[0].member_id, old);

    let mut w = world_with(MigrationPolicy::Disabled);
    w.ask(&join_consumers("g", "new", &["t0"]));
    let r = join(&mut w, "g", "", &subscribed(&["t0"], &[]));
    assert_eq!(r.error_code, ErrorCode::InconsistentGroupProtocol.code());
}

#[test]
fn what_can_not_be_upgraded() {
    let mut w = world();
    let token = w.join(3, &join_request("g", "", &[("range", b"no subscription")]));
    w.advance_ms(0);
    w.joined(token);
    let r = w.ask(&join_consumers("g", "new", &["t0"]));
    assert_eq!(code(&r), ErrorCode::GroupIdNotFound);
    assert!(r.error_message.unwrap().contains("is malformed"));
    assert_eq!(w.state("g"), "CompletingRebalance");
    let mut request = join_request("connect", "", &[("range", b"x")]);
    request.protocol_type = "connect".into();
    let token = w.join(3, &request);
    w.advance_ms(0);
    w.joined(token);
    let r = w.ask(&join_consumers("connect", "new", &["t0"]));
    assert!(
        r.error_message
            .unwrap()
            .contains("does not use the consumer embedded protocol")
    );
}

#[test]
fn an_upgrade_answers_who_waits() {
    let mut w = world();
    let old = classic(&mut w, "g");
    let token = w.join(
        3,
        &join_request("g", "", &[("range", &subscribed(&["t0"], &[]))]),
    );
    assert!(w.is_waiting(token));
    assert_eq!(w.state("g"), "PreparingRebalance");
    w.auto_commit = false;
    let beat = w.beat(&join_consumers("g", "new", &["t0"]));
    assert_eq!(
        w.joined(token).error_code,
        ErrorCode::RebalanceInProgress.code()
    );
    // it can't be written: the group is asked to rebalance again
    while w.fail_next(ErrorCode::NotEnoughReplicas) {}
    assert_eq!(code(&w.beaten(beat)), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(w.state("g"), "PreparingRebalance");
    assert_eq!(w.heartbeat("g", &old, 1), ErrorCode::RebalanceInProgress);
    w.auto_commit = true;
    let token = w.join(
        3,
        &join_request("g", &old, &[("range", &subscribed(&["t0"], &[]))]),
    );
    w.advance_ms(60_000);
    assert_eq!(w.joined(token).error_code, 0);
}

/// Kafka 4.3.1 answers with UNKNOWN_SERVER_ERROR here, which ends the consumer that joins.
#[test]
fn a_group_that_waits_for_its_first_generation_is_upgraded() {
    let mut w = world();
    let metadata = subscribed(&["t0"], &[]);
    let token = w.join(3, &join_request("g", "", &[("range", &metadata)]));
    assert_eq!(w.state("g"), "PreparingRebalance");
    let beaten = w.ask(&join_consumers("g", "new", &["t0"]));
    assert_eq!(code(&beaten), ErrorCode::None);
    let joined = w.joined(token);
    assert_eq!(joined.error_code, ErrorCode::RebalanceInProgress.code());
    assert_eq!(w.describe_consumers("g").members.len(), 2);
}

#[test]
fn a_static_member_changes_its_protocol() {
    let mut w = world();
    let bytes = subscribed(&["t0"], &[]);
    let protocols: [(&str, &[u8]); 1] = [("range", &bytes)];
    let token = w.join(5, &static_join("g", "", "i", &protocols));
    w.advance_ms(0);
    let joined = w.joined(token);
    let id = joined.member_id.to_string();
    let all: Vec<i32> = (0..10).collect();
    let given = assignment(&all);
    let token = w.sync(3, &sync_request("g", &id, 1, &[(&id, &given)]));
    w.synced(token);
    // to the consumer protocol: nobody has to leave, the assignment stays
    let r = w.ask(&ConsumerGroupHeartbeatRequest {
        instance_id: Some("i".into()),
        ..join_consumers("g", "new", &["t0"])
    });
    assert_eq!(code(&r), ErrorCode::None);
    assert_eq!(assigned(&r), Some(vec![(0, all.clone())]));
    assert_eq!(w.describe_consumers("g").members.len(), 1);
    // and back: the group goes with its only member
    let token = w.join(5, &static_join("g", "", "i", &protocols));
    let joined = w.joined(token);
    assert_eq!(joined.error_code, 0);
    let back = w.coordinator.describe_group(ctx(5), "g");
    assert_eq!((&*back.group_state, back.members.len()), ("Stable", 1));
    assert_eq!(&*back.members[0].member_assignment, &*given);
    assert_eq!(back.members[0].member_id, joined.member_id);
    let replayed = w.replayed(w.log.len());
    assert_eq!(replayed.describe_group(ctx(5), "g"), back);
}
