use super::*;
use crate::batch::BatchBuilder;
use bytes::Bytes;

fn batch(offset: i64, pid: i64, epoch: i16, sequence: i32, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new()
        .base_offset(offset)
        .producer(pid, epoch, sequence);
    for _ in 0..records {
        builder.push(1000 + offset, None, Some(b"v"));
    }
    builder.build().unwrap()
}

fn check(state: &ProducerState, bytes: &Bytes) -> Result<Check, ErrorCode> {
    let header = BatchHeader::new(bytes).unwrap();
    state
        .check(&header, &Terms::plain(Origin::Client))
        .map_err(|e| e.code)
}

fn apply(state: &mut ProducerState, bytes: &Bytes) -> Undo {
    state
        .apply(&BatchHeader::new(bytes).unwrap(), None)
        .unwrap()
}

#[test]
fn sequences_duplicates_and_epochs() {
    let mut state = ProducerState::default();
    let first = batch(10, 1, 0, 100, 2);
    assert_eq!(
        check(&state, &first),
        Ok(Check::New),
        "unknown producers start anywhere"
    );
    apply(&mut state, &first);
    for i in 0..5 {
        let next = batch(12 + i, 1, 0, 102 + i as i32, 1);
        assert_eq!(check(&state, &next), Ok(Check::New));
        apply(&mut state, &next);
    }
    match check(&state, &batch(0, 1, 0, 103, 1)) {
        Ok(Check::Duplicate(known)) => assert_eq!(known.last_offset, 13),
        other => panic!("{other:?}"),
    }
    let out_of_order = Err(ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(
        check(&state, &first),
        out_of_order,
        "six batches ago is forgotten"
    );
    assert_eq!(check(&state, &batch(0, 1, 0, 108, 1)), out_of_order);
    assert_eq!(
        check(&state, &batch(0, 1, 0, 103, 2)),
        out_of_order,
        "not the same batch"
    );
    assert_eq!(
        check(&state, &batch(0, 1, 1, 5, 1)),
        out_of_order,
        "new epochs start at 0"
    );
    apply(&mut state, &batch(20, 1, 1, 0, 1));
    let old_epoch = Err(ErrorCode::InvalidProducerEpoch);
    assert_eq!(check(&state, &batch(0, 1, 0, 107, 1)), old_epoch);
}

#[test]
fn sequences_wrap_to_zero() {
    let mut state = ProducerState::default();
    apply(&mut state, &batch(0, 1, 0, i32::MAX - 1, 2));
    assert_eq!(check(&state, &batch(2, 1, 0, 0, 1)), Ok(Check::New));
    let mut state = ProducerState::default();
    let across = batch(0, 1, 0, i32::MAX, 3);
    apply(&mut state, &across);
    assert!(matches!(check(&state, &across), Ok(Check::Duplicate(_))));
    assert_eq!(check(&state, &batch(3, 1, 0, 2, 1)), Ok(Check::New));
}

#[test]
fn undo_restores() {
    let mut state = ProducerState::default();
    let mut images = vec![];
    let mut undos = vec![];
    for i in 0..8 {
        images.push(state.encode());
        undos.push(apply(
            &mut state,
            &batch(i, i % 2, (i / 4) as i16, i as i32, 1),
        ));
    }
    while let Some(undo) = undos.pop() {
        state.undo(undo);
        assert_eq!(state.encode(), images.pop().unwrap());
    }
    assert!(state.is_empty());
}

#[test]
fn snapshots_round_trip_and_corruption_is_seen() {
    let mut state = ProducerState::default();
    apply(&mut state, &batch(5, 9, 2, 7, 3));
    let mut txn = BatchBuilder::new()
        .base_offset(8)
        .producer(10, 0, 0)
        .transactional(true);
    txn.push(1, None, None);
    apply(&mut state, &txn.build().unwrap());
    assert_eq!(state.first_open_txn(), Some(8));
    let bytes = state.encode();
    let read = ProducerState::decode(&bytes).unwrap();
    assert_eq!(read.get(9), state.get(9));
    assert_eq!(read.first_open_txn(), Some(8));
    for i in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[i] ^= 1;
        assert!(ProducerState::decode(&bad).is_none());
        assert!(ProducerState::decode(&bytes[..i]).is_none());
    }
}

#[test]
fn a_marker_ends_the_transaction() {
    let mut state = ProducerState::default();
    let mut txn = BatchBuilder::new()
        .base_offset(8)
        .producer(10, 0, 0)
        .transactional(true);
    txn.push(1, None, None);
    apply(&mut state, &txn.build().unwrap());
    let mut marker = BatchBuilder::new()
        .base_offset(9)
        .producer(10, 0, -1)
        .transactional(true)
        .control(true);
    marker.push(2, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 4]));
    let bytes = marker.build().unwrap();
    let record = crate::batch::Records::new(&bytes[61..], 1)
        .next()
        .unwrap()
        .unwrap();
    let undo = state
        .apply(&BatchHeader::new(&bytes).unwrap(), Some(&record))
        .unwrap();
    assert_eq!(state.first_open_txn(), Some(8), "until it is written");
    let mut written = state.clone();
    written.written(10);
    assert_eq!(written.first_open_txn(), None);
    assert_eq!(state.get(10).unwrap().coordinator_epoch, 4);
    state.undo(undo);
    assert_eq!(state.first_open_txn(), Some(8));
}

#[test]
fn silent_producers_expire() {
    let mut state = ProducerState::default();
    apply(&mut state, &batch(0, 1, 0, 0, 1));
    state.expire(1000 + 99, 100);
    assert_eq!(state.len(), 1);
    state.expire(1000 + 100, 100);
    assert!(state.is_empty());
}

#[test]
fn every_batch_can_be_taken_back() {
    let mut state = ProducerState::default();
    let mut before = Vec::new();
    let mut undos = Vec::new();
    for n in 0..9 {
        before.push(format!("{:?}", state.get(7)));
        let mut b = BatchBuilder::new()
            .producer(7, 0, n)
            .base_offset(i64::from(n));
        b.push(100 + i64::from(n), None, Some(b"v"));
        let bytes = b.build().unwrap();
        undos.push(apply(&mut state, &bytes));
    }
    while let (Some(undo), Some(before)) = (undos.pop(), before.pop()) {
        state.undo(undo);
        assert_eq!(format!("{:?}", state.get(7)), before);
    }
}
