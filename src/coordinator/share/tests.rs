//! A share partition against a map of single offsets, and the cases by name.

use super::*;
use flumen_base::{ErrorCode, Mono, Prng};
use std::collections::BTreeMap;
use std::sync::Arc;

const LIMITS: ShareLimits = ShareLimits {
    in_flight_max: 100,
    deliveries_max: 5,
    lock_ms: 1000,
};

fn spans(bases: &[(i64, i64)]) -> Vec<BatchSpan> {
    bases
        .iter()
        .map(|&(base, last)| BatchSpan { base, last })
        .collect()
}

fn take(
    partition: &mut SharePartition,
    now: Mono,
    member: &str,
    max: i64,
    batches: &[(i64, i64)],
) -> Vec<(i64, i64, u16)> {
    let member: Arc<str> = member.into();
    let ask = Acquire {
        member: &member,
        strict: false,
        batch_size: 500,
        max_records: max,
        fetch_offset: partition.next_fetch_offset(),
    };
    partition
        .acquire(now, ask, &spans(batches), &LIMITS)
        .iter()
        .map(|piece| (piece.first, piece.last, piece.deliveries))
        .collect()
}

fn say(
    partition: &mut SharePartition,
    member: &str,
    (first, last): (i64, i64),
    types: &[i8],
) -> Result<Option<Persist>, ErrorCode> {
    let batch = AckBatch { first, last, types };
    partition.acknowledge(Mono(0), member, &[batch], &LIMITS, true)
}

fn say_and_write(partition: &mut SharePartition, member: &str, range: (i64, i64), kind: i8) {
    let persist = say(partition, member, range, &[kind]).unwrap().unwrap();
    partition.settle(persist.ticket.unwrap(), true);
}

fn empty() -> SharePartition {
    SharePartition::load(0, 1, &[]).unwrap()
}

#[test]
fn accepted_records_move_the_start() {
    let mut partition = empty();
    assert_eq!(
        take(&mut partition, Mono(0), "a", 500, &[(0, 9), (10, 19)]),
        [(0, 19, 1)]
    );
    let persist = say(&mut partition, "a", (0, 9), &[1]).unwrap().unwrap();
    assert_eq!(
        (persist.start_offset, persist.delivery_complete_count),
        (0, 10)
    );
    assert_eq!(partition.start_offset(), 0, "not before it is written");
    partition.settle(persist.ticket.unwrap(), true);
    assert_eq!((partition.start_offset(), partition.in_flight()), (10, 10));
    assert_eq!(partition.next_fetch_offset(), 20);
}

#[test]
fn a_change_that_was_not_written_leaves_the_records_with_their_holder() {
    let mut partition = empty();
    take(&mut partition, Mono(0), "a", 500, &[(0, 9)]);
    let persist = say(&mut partition, "a", (0, 9), &[1]).unwrap().unwrap();
    let again = say(&mut partition, "a", (0, 9), &[1]);
    assert_eq!(
        again,
        Err(ErrorCode::InvalidRecordState),
        "one change at a time"
    );
    partition.settle(persist.ticket.unwrap(), false);
    say_and_write(&mut partition, "a", (0, 9), 1);
    assert_eq!(partition.start_offset(), 10);
}

#[test]
fn released_records_go_to_the_next_with_their_count() {
    let mut partition = empty();
    take(&mut partition, Mono(0), "a", 500, &[(0, 9)]);
    say_and_write(&mut partition, "a", (4, 6), 2);
    assert_eq!(partition.next_fetch_offset(), 4);
    assert_eq!(
        take(&mut partition, Mono(0), "b", 500, &[(0, 9)]),
        [(4, 6, 2)]
    );
    let foreign = say(&mut partition, "b", (3, 4), &[1]);
    assert_eq!(foreign, Err(ErrorCode::InvalidRecordState));
    let unknown = say(&mut partition, "b", (4, 10), &[1]);
    assert_eq!(unknown, Err(ErrorCode::InvalidRequest));
}

#[test]
fn locks_run_out_and_renewals_hold_them() {
    let mut partition = empty();
    let second = Mono(0).plus_ms(1000);
    take(&mut partition, Mono(0), "a", 500, &[(0, 9)]);
    assert_eq!(partition.next_deadline(), Some(second));
    let batch = AckBatch {
        first: 5,
        last: 9,
        types: &[4],
    };
    let half = Mono(0).plus_ms(500);
    let nothing = partition.acknowledge(half, "a", &[batch], &LIMITS, true);
    assert_eq!(nothing, Ok(None));
    let refused = partition.acknowledge(half, "a", &[batch], &LIMITS, false);
    assert_eq!(refused, Err(ErrorCode::InvalidRecordState));
    let persist = partition.expire(second, &LIMITS).unwrap();
    assert_eq!(persist.ticket, None);
    assert_eq!(persist.batches[0].state, RecordState::Available);
    assert_eq!((persist.batches[0].first, persist.batches[0].last), (0, 4));
    assert_eq!(
        take(&mut partition, second, "b", 500, &[(0, 9)]),
        [(0, 4, 2)]
    );
}

#[test]
fn often_delivered_records_come_few_at_a_time_and_the_last_attempt_alone() {
    let mut partition = empty();
    let mut now = Mono(0);
    let mut listed = Vec::new();
    for _ in 0..40 {
        listed.push(take(&mut partition, now, "a", 500, &[(0, 7)]));
        now = now.plus_ms(1001);
        partition.expire(now, &LIMITS);
    }
    assert_eq!(listed[..3], [[(0, 7, 1)], [(0, 7, 2)], [(0, 7, 3)]]);
    // Three deliveries of five are suspect: half of the batch, then one.
    assert_eq!(listed[3], [(0, 3, 4)]);
    assert_eq!(listed[4], [(0, 0, 5)]);
    assert_eq!(partition.start_offset(), 8, "all archived in the end");
}

#[test]
fn a_full_partition_gives_nothing_new() {
    let mut partition = empty();
    take(&mut partition, Mono(0), "a", 500, &[(0, 99)]);
    assert!(!partition.can_acquire(&LIMITS));
    assert_eq!(take(&mut partition, Mono(0), "b", 500, &[(100, 109)]), []);
    say_and_write(&mut partition, "a", (50, 59), 2);
    assert!(partition.can_acquire(&LIMITS));
    assert_eq!(
        take(&mut partition, Mono(0), "b", 500, &[(0, 99), (100, 109)]),
        [(50, 59, 2)]
    );
}

#[test]
fn limits_stop_at_batches_or_exactly() {
    let batches = [(0, 4), (5, 9), (10, 14)];
    let mut partition = empty();
    assert_eq!(take(&mut partition, Mono(0), "a", 7, &batches), [(0, 9, 1)]);
    let member: Arc<str> = "b".into();
    let ask = Acquire {
        member: &member,
        strict: true,
        batch_size: 1,
        max_records: 2,
        fetch_offset: 10,
    };
    let exact = partition.acquire(Mono(0), ask, &spans(&[(10, 14)]), &LIMITS);
    assert_eq!((exact[0].first, exact[0].last, exact.len()), (10, 11, 1));
}

#[test]
fn new_records_are_listed_in_pieces_that_begin_with_a_batch() {
    let member: Arc<str> = "a".into();
    let ask = Acquire {
        member: &member,
        strict: false,
        batch_size: 4,
        max_records: 500,
        fetch_offset: 0,
    };
    let batches = spans(&[(0, 2), (3, 5), (6, 8), (9, 9)]);
    let list = empty().acquire(Mono(0), ask, &batches, &LIMITS);
    let list: Vec<_> = list.iter().map(|p| (p.first, p.last)).collect();
    assert_eq!(list, [(0, 5), (6, 9)]);
}

#[test]
fn what_the_log_lost_is_passed_over() {
    let mut partition = empty();
    take(&mut partition, Mono(0), "a", 500, &[(0, 9)]);
    say_and_write(&mut partition, "a", (2, 3), 2);
    // Compaction took 2 and 3: the read that asked for them begins at 10.
    assert_eq!(
        take(&mut partition, Mono(0), "a", 500, &[(10, 11)]),
        [(10, 11, 1)]
    );
    say_and_write(&mut partition, "a", (0, 1), 1);
    assert_eq!(partition.start_offset(), 4);
    partition.log_start_moved(11);
    assert_eq!((partition.start_offset(), partition.in_flight()), (11, 1));
    assert_eq!(
        say(&mut partition, "a", (4, 9), &[1]),
        Ok(None),
        "below the start"
    );
}

#[test]
fn aborted_batches_are_finished_at_once() {
    let mut partition = empty();
    let member: Arc<str> = "a".into();
    let ask = Acquire {
        member: &member,
        strict: false,
        batch_size: 500,
        max_records: 500,
        fetch_offset: 0,
    };
    let batches = spans(&[(0, 3), (4, 5), (6, 9)]);
    let list = partition.acquire(Mono(0), ask, &batches, &LIMITS);
    let left = partition.without_aborted("a", list, &spans(&[(4, 5)]));
    let left: Vec<_> = left.iter().map(|p| (p.first, p.last)).collect();
    assert_eq!(left, [(0, 3), (6, 9)]);
    say_and_write(&mut partition, "a", (0, 3), 1);
    assert_eq!(partition.start_offset(), 6);
}

#[test]
fn stored_state_comes_back_without_locks_and_with_holes() {
    let batch = |first, last, state, deliveries| StateBatch {
        first,
        last,
        state,
        deliveries,
    };
    let stored = [
        batch(5, 9, RecordState::Acknowledged, 1),
        batch(12, 14, RecordState::Available, 2),
    ];
    let mut partition = SharePartition::load(3, 7, &stored).unwrap();
    assert_eq!(
        (partition.state_epoch(), partition.next_fetch_offset()),
        (7, 3)
    );
    assert_eq!(
        take(&mut partition, Mono(0), "a", 500, &[(0, 20)]),
        [(3, 4, 1), (10, 11, 1), (12, 14, 3), (15, 20, 1)]
    );
    let overlap = [stored[0], batch(9, 10, RecordState::Available, 1)];
    assert!(SharePartition::load(3, 7, &overlap).is_err());
    assert!(SharePartition::load(6, 7, &stored).is_err());
}

#[test]
fn acknowledgement_types_are_checked() {
    let mut partition = empty();
    take(&mut partition, Mono(0), "a", 500, &[(0, 9)]);
    for (range, types) in [
        ((0, 9), &[9i8][..]),
        ((0, 9), &[]),
        ((0, 9), &[1, 1]),
        ((5, 4), &[1]),
        ((i64::MIN, i64::MAX), &[1]),
    ] {
        let answer = say(&mut partition, "a", range, types);
        assert_eq!(
            answer,
            Err(ErrorCode::InvalidRequest),
            "{range:?} {types:?}"
        );
    }
    let mixed = say(&mut partition, "a", (0, 3), &[1, 1, 2, 3])
        .unwrap()
        .unwrap();
    let states: Vec<_> = mixed
        .batches
        .iter()
        .map(|b| (b.first, b.last, b.state))
        .collect();
    assert_eq!(
        states,
        [
            (0, 1, RecordState::Acknowledged),
            (2, 2, RecordState::Available),
            (3, 3, RecordState::Archived)
        ]
    );
}

/// What the model knows of an offset.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Free(u16),
    Held {
        by: usize,
        deliveries: u16,
        until: Mono,
        change: Option<(Ticket, RecordState)>,
    },
    Done,
}

struct Model {
    partition: SharePartition,
    offsets: BTreeMap<i64, Known>,
    now: Mono,
    prng: Prng,
    open: Vec<Ticket>,
}

const MEMBERS: [&str; 3] = ["a", "b", "c"];
const SMALL: ShareLimits = ShareLimits {
    in_flight_max: 40,
    deliveries_max: 3,
    lock_ms: 50,
};

impl Model {
    fn acquire(&mut self) {
        let by = self.prng.below(3) as usize;
        let from = self.partition.next_fetch_offset();
        let mut batches = Vec::new();
        // Batches of three: a read returns whole ones.
        let mut base = from - from % 3;
        for _ in 0..=self.prng.below(6) {
            batches.push(BatchSpan {
                base,
                last: base + 2,
            });
            base += 3;
        }
        let member: Arc<str> = MEMBERS[by].into();
        let ask = Acquire {
            member: &member,
            strict: self.prng.below(2) == 0,
            batch_size: 1 + self.prng.below(8) as i64,
            max_records: 1 + self.prng.below(20) as i64,
            fetch_offset: from,
        };
        let list = self.partition.acquire(self.now, ask, &batches, &SMALL);
        let mut count = 0;
        for piece in &list {
            for offset in piece.first..=piece.last {
                count += 1;
                let before = self.offsets.get(&offset).cloned().unwrap_or(Known::Free(0));
                assert_eq!(before, Known::Free(piece.deliveries - 1), "offset {offset}");
                let until = self.now.plus_ms(SMALL.lock_ms);
                let held = Known::Held {
                    by,
                    deliveries: piece.deliveries,
                    until,
                    change: None,
                };
                self.offsets.insert(offset, held);
            }
        }
        assert!(!ask.strict || count <= ask.max_records);
        assert!(self.partition.in_flight() <= SMALL.in_flight_max + 2);
    }

    fn acknowledge(&mut self) {
        let by = self.prng.below(3) as usize;
        let start = self.partition.start_offset();
        let first = start + self.prng.below(12) as i64;
        let last = first + self.prng.below(6) as i64;
        let kind = 1 + self.prng.below(4) as i8;
        let batch = AckBatch {
            first,
            last,
            types: &[kind],
        };
        let answer = self
            .partition
            .acknowledge(self.now, MEMBERS[by], &[batch], &SMALL, true);
        let mine = (first..=last).all(|offset| {
            matches!(self.offsets.get(&offset),
                Some(Known::Held { by: holder, change: None, .. }) if *holder == by)
        });
        assert_eq!(answer.is_ok(), mine, "{first}..={last} {:?}", self.offsets);
        let Ok(persist) = answer else { return };
        let ticket = persist.and_then(|persist| persist.ticket);
        self.open.extend(ticket);
        for offset in first..=last {
            let Some(Known::Held {
                until,
                change,
                deliveries,
                ..
            }) = self.offsets.get_mut(&offset)
            else {
                panic!("held")
            };
            match (kind, ticket) {
                (4, _) => *until = self.now.plus_ms(SMALL.lock_ms),
                (2, Some(t)) if *deliveries < 3 => *change = Some((t, RecordState::Available)),
                (_, t) => *change = t.map(|t| (t, RecordState::Archived)),
            }
        }
    }

    fn settle(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let ticket = self
            .open
            .remove(self.prng.below(self.open.len() as u64) as usize);
        let written = self.prng.below(4) != 0;
        self.partition.settle(ticket, written);
        for known in self.offsets.values_mut() {
            let Known::Held {
                change, deliveries, ..
            } = known
            else {
                continue;
            };
            let Some((_, to)) = change.take_if(|(of, _)| *of == ticket) else {
                continue;
            };
            match (written, to) {
                (false, _) => {}
                (true, RecordState::Available) => *known = Known::Free(*deliveries),
                (true, _) => *known = Known::Done,
            }
        }
    }

    fn expire(&mut self) {
        self.now = self.now.plus_ms(self.prng.below(40) as i64);
        self.partition.expire(self.now, &SMALL);
        for known in self.offsets.values_mut() {
            if let Known::Held {
                deliveries,
                until,
                change: None,
                ..
            } = known
                && *until <= self.now
            {
                *known = if *deliveries >= 3 {
                    Known::Done
                } else {
                    Known::Free(*deliveries)
                };
            }
        }
    }

    fn release(&mut self) {
        let by = self.prng.below(3) as usize;
        let Some(persist) = self.partition.release(MEMBERS[by], &SMALL) else {
            return;
        };
        let ticket = persist.ticket.unwrap();
        self.open.push(ticket);
        for known in self.offsets.values_mut() {
            if let Known::Held {
                by: holder,
                change: change @ None,
                deliveries,
                ..
            } = known
                && *holder == by
            {
                let done = *deliveries >= 3;
                let to = if done {
                    RecordState::Archived
                } else {
                    RecordState::Available
                };
                *change = Some((ticket, to));
            }
        }
    }

    fn check(&mut self) {
        let end = self.partition.start_offset() + self.partition.in_flight();
        let free = (self.partition.start_offset()..end)
            .find(|offset| matches!(self.offsets.get(offset), None | Some(Known::Free(_))));
        assert_eq!(self.partition.next_fetch_offset(), free.unwrap_or(end));
        let open = self
            .offsets
            .iter()
            .find(|(_, known)| **known != Known::Done)
            .map(|(offset, _)| *offset);
        assert_eq!(self.partition.start_offset(), open.unwrap_or(end));
    }
}

#[test]
fn a_share_partition_agrees_with_a_map_of_offsets() {
    let rounds: u64 = std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    for seed in 0..200 * rounds {
        let mut model = Model {
            partition: empty(),
            offsets: BTreeMap::new(),
            now: Mono(0),
            prng: Prng::new(seed),
            open: Vec::new(),
        };
        for step in 0..200 {
            match model.prng.below(10) {
                0..4 => model.acquire(),
                4..7 => model.acknowledge(),
                7 => model.settle(),
                8 => model.expire(),
                _ => model.release(),
            }
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.check()));
            assert!(checked.is_ok(), "seed {seed}, step {step}");
        }
    }
}
