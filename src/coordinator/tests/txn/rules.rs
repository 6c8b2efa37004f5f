//! The rules, one by one.

use super::*;
use flumen_coordinator::partition_for;
use flumen_wire::messages::ListTransactionsRequest;

#[test]
fn a_transaction_from_begin_to_end() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    assert_eq!(who, (1000, 0));
    assert_eq!(w.state("a"), "Empty");
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::None);
    assert_eq!(w.add("a", who, ("t", 1)), ErrorCode::None);
    let records = w.log.len();
    assert_eq!(w.add("a", who, ("t", 1)), ErrorCode::None);
    assert_eq!(w.log.len(), records, "known already");
    assert_eq!(w.state("a"), "Ongoing");
    w.auto_mark = false;
    let next = w.end("a", who, true, 5).unwrap();
    assert_eq!(next, (1000, 1), "answered when the decision is written");
    assert_eq!(w.state("a"), "PrepareCommit");
    let concurrent = ErrorCode::ConcurrentTransactions;
    assert_eq!(w.add("a", next, ("t", 0)), concurrent);
    assert_eq!(w.end("a", who, true, 5), Err(concurrent));
    assert_eq!(w.init("a"), Err(concurrent));
    let markers = w.mark_next(ErrorCode::None);
    assert_eq!((markers.producer_id, markers.producer_epoch), (1000, 1));
    assert!(markers.commit && markers.transaction_version == 2);
    assert_eq!(markers.coordinator_epoch, EPOCH);
    assert_eq!(markers.partitions, [("t".into(), 0), ("t".into(), 1)]);
    assert_eq!(w.state("a"), "CompleteCommit");
    assert_eq!(w.end("a", who, true, 5), Ok(next), "once more");
    assert_eq!(w.end("a", who, false, 5), Err(ErrorCode::InvalidTxnState));
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::ProducerFenced);
    assert_eq!(w.add("a", next, ("t", 0)), ErrorCode::None);
    assert_eq!(w.end("a", next, false, 5).map(|_| ()), Ok(()));
    w.mark_next(ErrorCode::None);
    assert_eq!(w.state("a"), "CompleteAbort");
}

#[test]
fn older_clients_keep_their_epoch() {
    for version in [0, 1, 2] {
        let mut w = World::new(version);
        let who = w.init("a").unwrap();
        let token = w.ask_add("a", who, ("t", 0), false);
        assert_eq!(w.added(token), ErrorCode::None);
        assert_eq!(
            w.end("a", (who.0, 9), true, 4),
            Err(ErrorCode::ProducerFenced)
        );
        assert_eq!(
            w.end("a", (who.0, 9), true, 1),
            Err(ErrorCode::InvalidProducerEpoch)
        );
        assert_eq!(
            w.end("a", (7, 0), true, 4),
            Err(ErrorCode::InvalidProducerIdMapping)
        );
        assert_eq!(w.end("a", who, true, 4), Ok((-1, -1)));
        assert_eq!(w.end("a", who, true, 4), Ok((-1, -1)));
        assert_eq!(w.end("a", who, false, 4), Err(ErrorCode::InvalidTxnState));
        let token = w.ask_add("a", who, ("t", 0), false);
        assert_eq!(w.added(token), ErrorCode::None, "the same epoch");
        assert_eq!(w.end("a", who, false, 4), Ok((-1, -1)));
        assert_eq!(w.end("a", who, false, 4), Ok((-1, -1)));
        assert_eq!(
            w.end("b", who, false, 4),
            Err(ErrorCode::InvalidProducerIdMapping)
        );
        assert_eq!(w.end("", who, false, 4), Err(ErrorCode::InvalidRequest));
    }
}

#[test]
fn nothing_open_as_the_table_says() {
    let its = Err(ErrorCode::InvalidTxnState);
    let fenced = Err(ErrorCode::ProducerFenced);
    let mut w = World::new(2);
    let (pid, _) = w.init("a").unwrap();
    let (_, epoch) = w.init("a").unwrap();
    // Empty
    assert_eq!(w.end("a", (pid, epoch - 1), false, 5), fenced);
    assert_eq!(w.end("a", (pid, epoch - 1), true, 5), fenced);
    assert_eq!(w.end("a", (pid, epoch), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), false, 5), Ok((pid, epoch + 1)));
    assert_eq!(w.state("a"), "CompleteAbort", "without a marker");
    // CompleteAbort
    let epoch = epoch + 1;
    assert_eq!(w.end("a", (pid, epoch - 1), false, 5), Ok((pid, epoch)));
    assert_eq!(w.end("a", (pid, epoch - 1), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), false, 5), Ok((pid, epoch + 1)));
    // CompleteCommit
    let epoch = epoch + 1;
    assert_eq!(w.add("a", (pid, epoch), ("t", 0)), ErrorCode::None);
    assert_eq!(w.end("a", (pid, epoch), true, 5), Ok((pid, epoch + 1)));
    let epoch = epoch + 1;
    assert_eq!(w.end("a", (pid, epoch - 1), false, 5), its);
    assert_eq!(w.end("a", (pid, epoch - 1), true, 5), Ok((pid, epoch)));
    assert_eq!(w.end("a", (pid, epoch), true, 5), its);
    assert_eq!(w.end("a", (pid, epoch), false, 5), Ok((pid, epoch + 1)));
}

#[test]
fn init_fences_rolls_back_and_knows_retries() {
    for version in [0, 2] {
        let mut w = World::new(version);
        let first = w.init("a").unwrap();
        assert_eq!(w.add("a", first, ("t", 0)), ErrorCode::None);
        let concurrent = Err(ErrorCode::ConcurrentTransactions);
        assert_eq!(w.init("a"), concurrent, "it is rolled back first");
        assert_eq!(w.state("a"), "CompleteAbort");
        assert_eq!(w.add("a", first, ("t", 0)), ErrorCode::ProducerFenced);
        let second = w.init("a").unwrap();
        assert_eq!(second, (first.0, first.1 + 2));
        // KIP-360: goes on from what it has; again, when the answer was lost.
        let third = w.init_from("a", second).unwrap();
        assert_eq!(third, (first.0, second.1 + 1));
        assert_eq!(w.init_from("a", second), Ok(third));
        assert_eq!(w.init_from("a", first), Err(ErrorCode::ProducerFenced));
        assert_eq!(w.init_from("a", (77, 0)), Err(ErrorCode::ProducerFenced));
        let token = w.ask_init("a", (77, 0), 3);
        assert_eq!(w.inited(token), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(w.init_from("a", (77, -1)), Err(ErrorCode::InvalidRequest));
        assert_eq!(w.init(""), Err(ErrorCode::InvalidRequest));
    }
}

#[test]
fn used_up_epochs_bring_another_producer_id() {
    let max = i16::MAX;
    let mut w = World::new(2);
    let last = w.with_epoch("a", max - 1);
    let second = w.init("a").unwrap();
    assert_eq!(second, (last.0 + 1, 0));
    assert_eq!(w.init_from("a", last), Err(ErrorCode::ProducerFenced));

    let last = w.with_epoch("b", max - 1);
    let next = w.init_from("b", last).unwrap();
    assert_eq!(next, (last.0 + 1, 0));
    assert_eq!(w.init_from("b", last), Ok(next), "a retry");

    // With a transaction that takes the last epoch: its markers have it, the producer another id.
    let last = w.with_epoch("c", max - 1);
    assert_eq!(w.add("c", last, ("t", 0)), ErrorCode::None);
    w.auto_mark = false;
    let next = w.end("c", last, true, 5).unwrap();
    assert_eq!(next, (last.0 + 1, 0));
    w.restart();
    let markers = w.mark_next(ErrorCode::None);
    assert_eq!((markers.producer_id, markers.producer_epoch), (last.0, max));
    assert_eq!(w.end("c", last, true, 5), Ok(next), "a retry");
    assert_eq!(w.add("c", next, ("t", 0)), ErrorCode::None);

    // Fencing it too.
    w.auto_mark = true;
    let last = w.with_epoch("d", max - 1);
    assert_eq!(w.add("d", last, ("t", 0)), ErrorCode::None);
    assert_eq!(w.init("d"), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(w.init("d"), Ok((last.0 + 1, 1)));
}

#[test]
fn producer_ids_are_waited_for() {
    let mut w = World::new(2);
    w.block = 0;
    let a = w.ask_init("a", (-1, -1), 5);
    let b = w.ask_init("b", (-1, -1), 5);
    assert!(w.replies.is_empty());
    w.block = 2;
    w.give_ids();
    assert_eq!((w.inited(a), w.inited(b)), (Ok((1000, 0)), Ok((1001, 0))));
    w.block = 0;
    let c = w.ask_init("c", (-1, -1), 5);
    let error = ErrorCode::CoordinatorLoadInProgress;
    w.run(|c, now, out| c.producer_ids(now, Err(error), out));
    assert_eq!(w.inited(c), Err(error));
    assert_eq!(
        w.state("c"),
        format!("{}", ErrorCode::TransactionalIdNotFound.code())
    );
}

#[test]
fn a_failed_append_leaves_the_id_as_it_was() {
    let mut w = World::new(2);
    w.auto_commit = false;
    let token = w.ask_init("a", (-1, -1), 5);
    w.fail_next(ErrorCode::NotEnoughReplicas);
    assert_eq!(w.inited(token), Err(ErrorCode::CoordinatorNotAvailable));
    let token = w.ask_init("a", (-1, -1), 5);
    let early = w.ask_init("a", (-1, -1), 5);
    assert_eq!(w.inited(early), Err(ErrorCode::ConcurrentTransactions));
    w.commit_next();
    let who = w.inited(token).unwrap();
    let token = w.ask_add("a", who, ("t", 0), true);
    w.fail_next(ErrorCode::KafkaStorageError);
    assert_eq!(w.added(token), ErrorCode::NotCoordinator);
    assert_eq!(w.state("a"), "Empty");
    let token = w.ask_add("a", who, ("t", 0), true);
    w.commit_next();
    assert_eq!(w.added(token), ErrorCode::None);
    let token = w.ask_end("a", who, true, 5);
    w.fail_next(ErrorCode::RequestTimedOut);
    assert_eq!(w.ended(token), Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(w.state("a"), "Ongoing");
    let token = w.ask_end("a", who, true, 5);
    w.commit_next();
    assert_eq!(w.ended(token), Ok((who.0, who.1 + 1)));
    // The completion is tried until it is written.
    w.fail_next(ErrorCode::NotEnoughReplicas);
    assert_eq!(w.state("a"), "PrepareCommit");
    w.advance_ms(100);
    w.commit_next();
    assert_eq!(w.state("a"), "CompleteCommit");
}

#[test]
fn a_fence_that_was_not_written_takes_no_second_epoch() {
    let mut w = World::new(1);
    let who = w.init("a").unwrap();
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::None);
    w.auto_commit = false;
    for _ in 0..3 {
        let token = w.ask_init("a", (-1, -1), 5);
        w.fail_next(ErrorCode::NotEnoughReplicas);
        assert_eq!(w.inited(token), Err(ErrorCode::CoordinatorNotAvailable));
    }
    w.auto_commit = true;
    assert_eq!(w.init("a"), Err(ErrorCode::ConcurrentTransactions));
    assert_eq!(w.init("a"), Ok((who.0, who.1 + 2)));
}

#[test]
fn markers_are_tried_until_written() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    w.add("a", who, ("t", 0));
    w.add("a", who, ("u", 3));
    w.auto_mark = false;
    w.end("a", who, true, 5).unwrap();
    let markers = w.markers.pop_front().unwrap();
    let not_yet = ErrorCode::NotLeaderOrFollower;
    w.run(|c, now, out| c.marker_done(now, markers.token, ("t", 0), ErrorCode::None, out));
    w.run(|c, now, out| c.marker_done(now, markers.token, ("u", 3), not_yet, out));
    let topics = w.coordinator.describe("a").topics;
    assert_eq!((topics.len(), &*topics[0].topic), (1, "u"));
    w.advance_ms(100);
    let again = w.mark_next(ErrorCode::InvalidProducerEpoch);
    assert_eq!(again.partitions, [("u".into(), 3)]);
    assert_eq!(w.state("a"), "CompleteCommit");
}

#[test]
fn time_rolls_back_and_forgets() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    w.add("a", who, ("t", 0));
    w.advance_ms(59_000);
    assert_eq!(w.state("a"), "Ongoing");
    w.advance_ms(12_000);
    assert_eq!(w.state("a"), "CompleteAbort");
    assert_eq!(w.end("a", who, true, 5), Err(ErrorCode::InvalidTxnState));
    assert_eq!(w.add("a", who, ("t", 0)), ErrorCode::ProducerFenced);
    let open = w.init("b").unwrap();
    w.add("b", open, ("t", 0));
    w.advance_ms(6 * DAY_MS);
    assert_eq!(w.state("a"), "CompleteAbort");
    w.init("c").unwrap();
    w.advance_ms(DAY_MS + 3_600_000);
    let gone = format!("{}", ErrorCode::TransactionalIdNotFound.code());
    assert_eq!(w.state("a"), gone);
    assert_eq!(w.state("c"), "Empty");
    assert_eq!(w.log.last().unwrap().2, None);
    w.restart();
    assert_eq!(w.state("a"), gone);
    let again = w.init("a").unwrap();
    assert!(again.0 > who.0 && again.1 == 0, "{again:?}");
}

#[test]
fn requests_for_other_partitions() {
    let mut w = World::new(2);
    let partition = partition_for("a", PARTITIONS);
    w.run(|c, _, _| c.begin_load(partition, 6));
    let loading = ErrorCode::CoordinatorLoadInProgress;
    assert_eq!(w.init("a"), Err(loading));
    let list = ListTransactionsRequest::default();
    let listed = w.coordinator.list(w.now, &list);
    assert_eq!(listed.error_code, loading.code());
    w.auto_commit = false;
    w.run(|c, now, out| c.finish_load(now, partition, out));
    let waiting = w.ask_init("a", (-1, -1), 5);
    w.run(|c, _, out| c.unload(partition, out));
    assert_eq!(w.inited(waiting), Err(ErrorCode::NotCoordinator));
    assert_eq!(w.init("a"), Err(ErrorCode::NotCoordinator));
}

#[test]
fn verification_knows_what_was_added() {
    let mut w = World::new(2);
    let who = w.init("a").unwrap();
    w.add("a", who, ("t", 0));
    let verify = |w: &World, who, at| {
        let request = partitions("a", who, at, false);
        w.coordinator.verify_partitions(&request).map(|r| r[0].2)
    };
    assert_eq!(verify(&w, who, ("t", 0)), Ok(ErrorCode::None));
    assert_eq!(
        verify(&w, who, ("t", 1)),
        Ok(ErrorCode::TransactionAbortable)
    );
    assert_eq!(
        verify(&w, (who.0, 7), ("t", 0)),
        Err(ErrorCode::ProducerFenced)
    );
    assert_eq!(
        verify(&w, (7, 0), ("t", 0)),
        Err(ErrorCode::InvalidProducerIdMapping)
    );
    w.auto_mark = false;
    w.end("a", who, true, 4).unwrap();
    assert_eq!(
        verify(&w, who, ("t", 0)),
        Err(ErrorCode::ConcurrentTransactions)
    );
}

#[test]
fn lists_and_their_filters() {
    let mut w = World::new(2);
    let a = w.init("app-1").unwrap();
    let b = w.init("app-2").unwrap();
    w.init("other").unwrap();
    w.add("app-1", a, ("t", 0));
    w.advance_ms(5_000);
    w.add("app-2", b, ("t", 0));
    let names = |w: &World, request: &ListTransactionsRequest<'_>| {
        let listed = w.coordinator.list(w.now, request);
        let names = listed.transaction_states.iter();
        let mut names: Vec<_> = names.map(|t| t.transactional_id.to_string()).collect();
        names.sort();
        (names.join(" "), listed.error_code)
    };
    let mut request = ListTransactionsRequest::default();
    assert_eq!(names(&w, &request).0, "app-1 app-2 other");
    request.state_filters = vec!["Ongoing".into(), "Dead".into(), "Nope".into()];
    assert_eq!(names(&w, &request).0, "app-1 app-2");
    let listed = w.coordinator.list(w.now, &request);
    assert_eq!(listed.unknown_state_filters, ["Nope"]);
    request.duration_filter = 4_000;
    assert_eq!(names(&w, &request).0, "app-1");
    let mut request = ListTransactionsRequest {
        producer_id_filters: vec![b.0],
        ..Default::default()
    };
    assert_eq!(names(&w, &request).0, "app-2");
    request.producer_id_filters.clear();
    request.transactional_id_pattern = Some("app".into());
    assert_eq!(names(&w, &request).0, "", "as a whole");
    request.transactional_id_pattern = Some("app-.|x".into());
    assert_eq!(names(&w, &request).0, "app-1 app-2");
    request.transactional_id_pattern = Some("(".into());
    let invalid = ErrorCode::InvalidRegularExpression.code();
    assert_eq!(names(&w, &request), (String::new(), invalid));
}
