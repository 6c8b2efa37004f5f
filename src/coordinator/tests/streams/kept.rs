//! What is written and brought back; groups of other kinds.

use super::common::consumers::{beat_request, join_consumers};
use super::common::streams::*;
use super::common::*;
use super::{all, alone, world};
use flumen_base::ErrorCode;

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
