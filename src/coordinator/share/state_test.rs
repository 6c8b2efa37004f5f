//! Stored share state: joining against a map of offsets, replay, fences.

use super::*;
use flumen_base::{ErrorCode, Prng, Uuid};
use std::collections::BTreeMap;

fn stored(first: i64, last: i64, delivery_state: i8, delivery_count: i16) -> Stored {
    Stored {
        first,
        last,
        delivery_state,
        delivery_count,
    }
}

fn key() -> ShareKey {
    ShareKey {
        group: "readers".into(),
        topic: Uuid::from_bytes([7; 16]),
        partition: 3,
    }
}

fn write(start_offset: i64, batches: &[Stored]) -> ShareWrite {
    ShareWrite {
        leader_epoch: 0,
        state_epoch: 0,
        start_offset,
        delivery_complete_count: 0,
        batches: batches.to_vec(),
    }
}

fn replay(states: &mut ShareStates, record: &crate::Record) {
    states.replay(&record.key, record.value.as_deref()).unwrap();
}

fn begun(updates_max: u32) -> ShareStates {
    let mut states = ShareStates::new(updates_max);
    let record = states.initialize(5, &key(), 0, -1).unwrap();
    replay(&mut states, &record);
    states
}

#[test]
fn joined_batches_agree_with_a_map_of_offsets() {
    let mut prng = Prng::new(11);
    for _ in 0..2000 {
        let mut list = || -> Vec<Stored> {
            (0..prng.below(6))
                .map(|_| {
                    let first = prng.below(30) as i64;
                    let last = first + prng.below(8) as i64;
                    stored(
                        first,
                        last,
                        [0, 2, 4][prng.below(3) as usize],
                        prng.below(3) as i16,
                    )
                })
                .collect()
        };
        let (old, new) = (list(), list());
        let start = prng.below(12) as i64 - 1;
        let mut offsets = BTreeMap::new();
        for batch in old.iter().chain(&new) {
            for offset in batch.first.max(start)..=batch.last {
                let rank = (batch.delivery_count, batch.delivery_state);
                let there = offsets.entry(offset).or_insert(rank);
                *there = rank.max(*there);
            }
        }
        let joined = combine(&old, &new, start);
        let mut again = BTreeMap::new();
        for batch in &joined {
            for offset in batch.first..=batch.last {
                let rank = (batch.delivery_count, batch.delivery_state);
                assert_eq!(again.insert(offset, rank), None, "overlap in {joined:?}");
            }
        }
        assert_eq!(again, offsets, "{old:?} {new:?} {start}");
        for two in joined.windows(2) {
            let same = (two[0].delivery_count, two[0].delivery_state)
                == (two[1].delivery_count, two[1].delivery_state);
            assert!(
                two[0].last + 1 < two[1].first || !same,
                "not joined: {joined:?}"
            );
        }
    }
}

#[test]
fn joining_survives_the_ends_of_the_number_line() {
    let all = stored(0, i64::MAX, 2, 1);
    let part = stored(5, 6, 4, 2);
    let joined = combine(&[all], &[part], -1);
    assert_eq!(
        joined,
        [stored(0, 4, 2, 1), part, stored(7, i64::MAX, 2, 1)]
    );
}

#[test]
fn nothing_is_written_before_the_beginning() {
    let states = ShareStates::new(500);
    let answer = states.write(0, &key(), &write(0, &[]));
    assert_eq!(answer, Err(ErrorCode::InvalidRequest));
    assert!(states.read(0, &key(), 0).is_err());
    assert_eq!(states.delete(&key()), Ok(None));
}

#[test]
fn updates_add_up_and_a_snapshot_follows_them() {
    let mut states = begun(2);
    for n in 0..3i64 {
        let batch = stored(n * 10, n * 10 + 9, 2, 1);
        let record = states.write(7, &key(), &write(0, &[batch])).unwrap();
        let kind = i16::from_be_bytes([record.key[0], record.key[1]]);
        assert_eq!(
            kind,
            if n < 2 { 1 } else { 0 },
            "two updates, then a snapshot"
        );
        replay(&mut states, &record);
    }
    let state = states.get(&key()).unwrap();
    assert_eq!(state.batches, [stored(0, 29, 2, 1)]);
    assert_eq!((state.snapshot_epoch, state.start_offset), (1, 0));
    let record = states.write(8, &key(), &write(25, &[])).unwrap();
    replay(&mut states, &record);
    let state = states.get(&key()).unwrap();
    assert_eq!(
        (state.start_offset, &*state.batches),
        (25, &[stored(25, 29, 2, 1)][..])
    );
}

#[test]
fn older_leaders_and_states_are_fenced() {
    let mut states = begun(500);
    let (state, record) = states.read(1, &key(), 4).unwrap();
    assert_eq!(
        (state.start_offset, state.delivery_complete_count),
        (-1, -1)
    );
    replay(&mut states, &record.unwrap());
    assert!(
        states.read(1, &key(), 4).unwrap().1.is_none(),
        "noted already"
    );
    let old = ShareWrite {
        leader_epoch: 3,
        ..write(0, &[])
    };
    assert_eq!(
        states.write(1, &key(), &old),
        Err(ErrorCode::FencedLeaderEpoch)
    );
    let record = states.initialize(2, &key(), 1, 100).unwrap();
    replay(&mut states, &record);
    let state = states.get(&key()).unwrap();
    assert_eq!(
        (state.state_epoch, state.start_offset, state.snapshot_epoch),
        (1, 100, 1)
    );
    let old = ShareWrite {
        leader_epoch: 4,
        ..write(0, &[])
    };
    assert_eq!(
        states.write(1, &key(), &old),
        Err(ErrorCode::FencedStateEpoch)
    );
    let again = states.initialize(2, &key(), 0, 5);
    assert_eq!(again, Err(ErrorCode::FencedStateEpoch));
    let record = states.delete(&key()).unwrap().unwrap();
    replay(&mut states, &record);
    assert_eq!(states.get(&key()), None);
}

#[test]
fn damaged_records_are_errors() {
    let mut states = begun(500);
    let record = states
        .write(0, &key(), &write(0, &[stored(0, 1, 2, 1)]))
        .unwrap();
    let value = record.value.unwrap();
    for len in 0..record.key.len() {
        let _ = states.replay(&record.key[..len], Some(&value));
    }
    for len in 0..value.len() {
        assert!(
            states.replay(&record.key, Some(&value[..len])).is_err(),
            "{len} bytes"
        );
    }
}
