//! Offsets that are committed with a transaction.

use super::*;
use flumen_log::BatchHeader;

fn committed(d: &mut Driver, c: Client, stable: bool) -> Result<i64, ErrorCode> {
    let request = wire::OffsetFetchRequest {
        groups: vec![wire::offset_fetch_request::OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: Some(vec![wire::offset_fetch_request::OffsetFetchRequestTopics {
                name: "t".into(),
                partition_indexes: vec![0],
                ..Default::default()
            }]),
            ..Default::default()
        }],
        require_stable: stable,
        ..Default::default()
    };
    let r: wire::OffsetFetchResponse<'_> = d.call(c, &request, 9);
    assert_eq!(r.groups[0].error_code, 0);
    let p = &r.groups[0].topics[0].partitions[0];
    match ErrorCode::from_i16(p.error_code).unwrap() {
        ErrorCode::None => Ok(p.committed_offset),
        error => Err(error),
    }
}

fn commit_offset(d: &mut Driver, c: Client, who: Who, offset: i64, version: i16) -> ErrorCode {
    commit_as(d, c, who, ("", -1), offset, version)
}

/// As a member of the group, at its epoch.
fn commit_as(
    d: &mut Driver,
    c: Client,
    who: Who,
    (member, epoch): (&str, i32),
    offset: i64,
    version: i16,
) -> ErrorCode {
    use wire::txn_offset_commit_request as r;
    let request = wire::TxnOffsetCommitRequest {
        member_id: member.into(),
        generation_id: epoch,
        transactional_id: "a".into(),
        group_id: "g".into(),
        producer_id: who.0,
        producer_epoch: who.1,
        topics: vec![r::TxnOffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![r::TxnOffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                ..Default::default()
            }],
        }],
        ..Default::default()
    };
    let r: wire::TxnOffsetCommitResponse<'_> = d.call(c, &request, version);
    ErrorCode::from_i16(r.topics[0].partitions[0].error_code).unwrap()
}

#[test]
fn offsets_are_committed_with_their_transaction() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        d.find_coordinator(c, "g", 0);
        let mut who = init(&mut d, c, "a");
        let refused = ErrorCode::InvalidTxnState;
        assert_eq!(commit_offset(&mut d, c, who, 7, 3), refused, "not added");
        assert_eq!(commit_offset(&mut d, c, who, 7, 5), ErrorCode::None);
        assert_eq!(committed(&mut d, c, false), Ok(-1));
        let unstable = Err(ErrorCode::UnstableOffsetCommit);
        assert_eq!(committed(&mut d, c, true), unstable);
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        d.run_for_ms(100);
        assert_eq!(committed(&mut d, c, true), unstable);
        who = end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        assert_eq!(commit_offset(&mut d, c, who, 9, 5), ErrorCode::None);
        end(&mut d, c, "a", who, false).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        d.run_for_ms(100);
        assert_eq!(committed(&mut d, c, true), Ok(7));
    });
}

/// Sequences of the first records of the batches in a topic, without those of markers.
fn sequences(d: &Driver, topic: &str) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let logs = d.disk.paths().into_iter().filter(|p| {
        let in_topic = p.display().to_string().contains(topic);
        in_topic && p.extension().is_some_and(|e| e == "log")
    });
    for log in logs {
        let bytes = d.disk.contents(&log).unwrap();
        let mut rest = &bytes[..];
        while let Some(batch) = BatchHeader::new(rest) {
            let Ok(size) = batch.size() else { break };
            if !batch.is_control() {
                found.insert(batch.base_sequence());
            }
            rest = &rest[size..];
        }
    }
    found
}

/// Kafka's group coordinators number their records, its transaction coordinators do not.
#[test]
fn sequences_are_those_of_kafkas_coordinators() {
    let mut d = Driver::ready(1, 1);
    let c = d.connect(0);
    create(&mut d, c, "t", 1);
    d.find_coordinator(c, "g", 0);
    let who = init(&mut d, c, "a");
    assert_eq!(commit_offset(&mut d, c, who, 7, 5), ErrorCode::None);
    end(&mut d, c, "a", who, true).unwrap();
    settle(&mut d, c, "a");
    let commit = wire::OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![wire::offset_commit_request::OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![Default::default()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let r: wire::OffsetCommitResponse<'_> = d.call(c, &commit, 8);
    assert_eq!(r.topics[0].partitions[0].error_code, 0);
    d.run_for_ms(1_000);
    assert_eq!(sequences(&d, "__consumer_offsets"), BTreeSet::from([0]));
    assert_eq!(sequences(&d, "__transaction_state"), BTreeSet::from([-1]));
}

#[test]
fn members_of_a_consumer_group_commit_offsets_in_transactions() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        d.find_coordinator(c, "g", 0);
        let join = wire::ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            rebalance_timeout_ms: 60_000,
            subscribed_topic_names: Some(vec!["t".into()]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        let r: wire::ConsumerGroupHeartbeatResponse<'_> = d.call(c, &join, 1);
        assert_eq!(r.error_code, 0);
        let epoch = r.member_epoch;
        let mut who = init(&mut d, c, "a");
        let stranger = commit_as(&mut d, c, who, ("x", epoch), 5, 5);
        assert_eq!(stranger, ErrorCode::UnknownMemberId);
        let ahead = commit_as(&mut d, c, who, ("m", epoch + 1), 5, 5);
        assert_eq!(ahead, ErrorCode::IllegalGeneration);
        let member = commit_as(&mut d, c, who, ("m", epoch), 7, 5);
        assert_eq!(member, ErrorCode::None);
        let unstable = Err(ErrorCode::UnstableOffsetCommit);
        assert_eq!(committed(&mut d, c, true), unstable);
        who = end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        d.run_for_ms(100);
        let member = commit_as(&mut d, c, who, ("m", epoch), 9, 5);
        assert_eq!(member, ErrorCode::None, "the group is known again");
        who = end(&mut d, c, "a", who, false).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(7));
        let unnamed = commit_offset(&mut d, c, who, 11, 5);
        assert_eq!(unnamed, ErrorCode::None, "old clients do not name members");
        end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(committed(&mut d, c, true), Ok(11));
    });
}
