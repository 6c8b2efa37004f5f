//! Who gets which tasks, and when.

use super::common::streams::*;
use super::{all, alone, world, world_with};
use flumen_base::ErrorCode;
use flumen_coordinator::{GroupSettings, StreamsSettings};

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
