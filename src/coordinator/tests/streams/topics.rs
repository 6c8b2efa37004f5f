//! Topologies and their topics.

use super::common::streams::*;
use super::{all, alone, world};
use flumen_base::ErrorCode;
use flumen_wire::messages::streams_group_heartbeat_request::KeyValue;

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
