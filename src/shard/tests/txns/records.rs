//! Which records get in, and who reads them.

use super::*;
use flumen_log::testing::MemDisk;

#[test]
fn committed_records_are_read_and_others_not() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 6);
        let mut who = init(&mut d, c, "a");
        for p in 0..6 {
            write(&mut d, c, who, 0, ("t", p), "yes");
            write(&mut d, c, who, 1, ("t", p), "yes too");
            assert_eq!(fetch(&mut d, c, ("t", p), true), (vec![], 0), "open");
            let (all, stable) = fetch(&mut d, c, ("t", p), false);
            assert_eq!((all.len(), stable), (2, 0));
        }
        who = end(&mut d, c, "a", who, true).unwrap();
        settle(&mut d, c, "a");
        for p in 0..6 {
            write(&mut d, c, who, 0, ("t", p), "no");
        }
        who = end(&mut d, c, "a", who, false).unwrap();
        settle(&mut d, c, "a");
        for p in 0..6 {
            write(&mut d, c, who, 0, ("t", p), "open");
            let expected = vec!["yes".to_owned(), "yes too".to_owned()];
            assert_eq!(fetch(&mut d, c, ("t", p), true), (expected.clone(), 5));
            // What was decided stays so.
        }
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        for p in 0..6 {
            let expected = vec!["yes".to_owned(), "yes too".to_owned()];
            assert_eq!(fetch(&mut d, c, ("t", p), true), (expected, 5));
        }
        let again = init(&mut d, c, "a");
        assert!(again.1 > who.1);
        settle(&mut d, c, "a");
        let (values, stable) = fetch(&mut d, c, ("t", 0), true);
        assert_eq!(
            (values.len(), stable),
            (2, 7),
            "rolled back by the one who came"
        );
    });
}

#[test]
fn nothing_gets_in_without_the_coordinator() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 2);
        let who = init(&mut d, c, "a");
        let mut p = Produce {
            id: Some("a"),
            who,
            sequence: 0,
            at: ("t", 0),
            value: "v",
        };
        // Before version 12 partitions are added beforehand.
        assert_eq!(produce(&mut d, c, 10, &p), ErrorCode::InvalidTxnState);
        assert_eq!(produce(&mut d, c, 11, &p), ErrorCode::TransactionAbortable);
        p.id = None;
        let refused = ErrorCode::TransactionalIdAuthorizationFailed;
        assert_eq!(produce(&mut d, c, 12, &p), refused);
        p.id = Some("unknown");
        let refused = ErrorCode::InvalidProducerIdMapping;
        assert_eq!(produce(&mut d, c, 12, &p), refused);
        let request = wire::AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: "a".into(),
            v3_and_below_producer_id: who.0,
            v3_and_below_producer_epoch: who.1,
            v3_and_below_topics: vec![
                wire::add_partitions_to_txn_request::AddPartitionsToTxnTopic {
                    name: "t".into(),
                    partitions: vec![0],
                },
            ],
            ..Default::default()
        };
        let r: wire::AddPartitionsToTxnResponse<'_> = d.call(c, &request, 3);
        let result = &r.results_by_topic_v3_and_below[0].results_by_partition[0];
        assert_eq!(result.partition_error_code, 0);
        p.id = Some("a");
        assert_eq!(produce(&mut d, c, 10, &p), ErrorCode::None);
        // A second producer of the same name: the first is fenced.
        let second = init(&mut d, c, "a");
        p.sequence = 1;
        assert_eq!(produce(&mut d, c, 12, &p), ErrorCode::InvalidProducerEpoch);
        assert_eq!(
            end(&mut d, c, "a", who, true),
            Err(ErrorCode::ProducerFenced)
        );
        write(&mut d, c, second, 0, ("t", 0), "mine");
        end(&mut d, c, "a", second, true).unwrap();
        settle(&mut d, c, "a");
        assert_eq!(fetch(&mut d, c, ("t", 0), true).0, ["mine"]);
    });
}

#[test]
fn a_restart_in_the_middle_loses_no_decision() {
    each_shape(|mut d| {
        for round in 0..6 {
            let c = d.connect(0);
            if round == 0 {
                create(&mut d, c, "t", 3);
            }
            let who = init(&mut d, c, "a");
            for p in 0..3 {
                write(&mut d, c, who, 0, ("t", p), &format!("{round}"));
            }
            let commit = round % 2 == 0;
            end(&mut d, c, "a", who, commit).unwrap();
            if round % 3 > 0 {
                d.restart();
                d.run_until_ready();
            }
        }
        let c = d.connect(0);
        d.find_coordinator(c, "a", 1);
        settle(&mut d, c, "a");
        for p in 0..3 {
            assert_eq!(fetch(&mut d, c, ("t", p), true).0, ["0", "2", "4"]);
        }
    });
}

#[test]
fn time_rolls_a_transaction_back() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        let who = init(&mut d, c, "a");
        write(&mut d, c, who, 0, ("t", 0), "late");
        d.run_for_ms(75_000);
        let c = d.connect(0);
        settle(&mut d, c, "a");
        assert_eq!(state(&mut d, c, "a"), "CompleteAbort");
        assert_eq!(fetch(&mut d, c, ("t", 0), true), (vec![], 2));
        let listed: wire::ListTransactionsResponse<'_> =
            d.call(c, &wire::ListTransactionsRequest::default(), 2);
        assert_eq!(listed.transaction_states.len(), 1);
    });
}

#[test]
fn markers_of_the_tool() {
    each_shape(|mut d| {
        let c = d.connect(0);
        create(&mut d, c, "t", 1);
        let who = init(&mut d, c, "a");
        write(&mut d, c, who, 0, ("t", 0), "hangs");
        use wire::write_txn_markers_request as r;
        let request = wire::WriteTxnMarkersRequest {
            markers: vec![r::WritableTxnMarker {
                producer_id: who.0,
                producer_epoch: who.1,
                transaction_result: false,
                topics: vec![r::WritableTxnMarkerTopic {
                    name: "t".into(),
                    partition_indexes: vec![0, 9],
                }],
                coordinator_epoch: 0,
                transaction_version: 0,
            }],
        };
        let r: wire::WriteTxnMarkersResponse<'_> = d.call(c, &request, 1);
        let results = &r.markers[0].topics[0].partitions;
        let errors: Vec<i16> = results.iter().map(|p| p.error_code).collect();
        assert_eq!(errors, [0, ErrorCode::UnknownTopicOrPartition.code()]);
        assert_eq!(fetch(&mut d, c, ("t", 0), true), (vec![], 2));
    });
}

/// Reads for a share group, whose states are not stored: offsets that are handed out.
fn share_fetch(d: &mut Driver, c: Client, epoch: i32, topic: &str) -> Vec<i64> {
    use wire::share_fetch_request as share;
    let request = wire::ShareFetchRequest {
        group_id: Some("g".into()),
        member_id: Some("m".into()),
        share_session_epoch: epoch,
        max_wait_ms: 100,
        max_bytes: 1 << 20,
        max_records: 500,
        batch_size: 500,
        topics: vec![share::FetchTopic {
            topic_id: d.topic_id(c, topic),
            partitions: vec![share::FetchPartition::default()],
        }],
        ..Default::default()
    };
    let r: wire::ShareFetchResponse<'_> = d.call(c, &request, 1);
    assert_eq!(r.error_code, 0);
    let partitions = r.responses.iter().flat_map(|t| &t.partitions);
    let acquired = partitions.flat_map(|p| &p.acquired_records);
    acquired
        .flat_map(|a| a.first_offset..=a.last_offset)
        .collect()
}

#[test]
fn share_groups_of_readers_of_committed_records_get_no_others() {
    let mut settings = Driver::settings();
    settings.share.stores_state = false;
    let mut d = Driver::start(3, 6, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    create(&mut d, c, "t", 1);
    let configs = [
        ("share.auto.offset.reset", "earliest"),
        ("share.isolation.level", "read_committed"),
    ];
    d.set_group_configs(c, "g", &configs);
    let who = init(&mut d, c, "a");
    write(&mut d, c, who, 0, ("t", 0), "yes");
    write(&mut d, c, who, 1, ("t", 0), "yes too");
    assert_eq!(share_fetch(&mut d, c, 0, "t"), [], "open");
    let who = end(&mut d, c, "a", who, true).unwrap();
    settle(&mut d, c, "a");
    write(&mut d, c, who, 0, ("t", 0), "no");
    let who = end(&mut d, c, "a", who, false).unwrap();
    settle(&mut d, c, "a");
    write(&mut d, c, who, 0, ("t", 0), "open");
    // Markers are handed out, too: members pass over them. 3 was rolled back.
    assert_eq!(share_fetch(&mut d, c, 1, "t"), [0, 1, 2, 4]);
    assert_eq!(share_fetch(&mut d, c, 2, "t"), []);
}
