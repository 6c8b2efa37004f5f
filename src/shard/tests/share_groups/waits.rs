//! Fetches that wait, and what is left or comes free while they do.

use super::*;
use flumen_shard::testing::{decode_answer, produce_request};
use flumen_wire::ApiKey;

/// Exactly so many records.
const STRICT: i8 = 1;

/// A fetch of at most so many records that waits for them.
fn waiting(m: &mut Member, partitions: &[i32], records: i32) -> wire::ShareFetchRequest<'static> {
    wire::ShareFetchRequest {
        max_records: records,
        share_acquire_mode: STRICT,
        ..m.request(partitions, &[], 30_000)
    }
}

/// A request that may be on its way.
struct Waiter {
    member: Member,
    sent: Option<i32>,
    /// What it has and has not said anything of.
    held: Vec<Say>,
}

impl Waiter {
    fn new(member: Member) -> Self {
        Self {
            member,
            sent: None,
            held: Vec::new(),
        }
    }

    fn fetch(&mut self, d: &mut Driver, partitions: &[i32], records: i32) {
        let request = waiting(&mut self.member, partitions, records);
        self.sent = Some(d.send(self.member.c, &request, 2));
    }

    /// What it was given, if it was answered.
    fn answer(&mut self, d: &mut Driver) -> Option<Vec<(i32, i64, i64, i16)>> {
        let frame = d.take_answer(self.member.c)?;
        let correlation = self.sent.take().expect("a request was sent");
        let of = ApiKey::ShareFetch as i16;
        let answer = decode_answer::<wire::ShareFetchResponse<'_>>(of, 2, correlation, frame);
        let pieces = got(&answer).pieces;
        let held = pieces
            .iter()
            .map(|(p, first, last, _)| (*p, *first, *last, ACCEPT));
        self.held.extend(held);
        Some(pieces)
    }
}

/// A member of another connection whose fetch of so many records waits.
fn waiter(d: &mut Driver, id: &'static str, topic: Uuid, records: i32) -> Waiter {
    let c = d.connect(d.shards() - 1);
    let mut waiter = Waiter::new(Member::new(c, id, topic));
    waiter.fetch(d, &[0], records);
    d.run_for_ms(100);
    assert_eq!(waiter.answer(d), None, "{id}: nothing is to be had");
    waiter
}

#[test]
fn what_one_leaves_of_a_batch_another_gets_at_once() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        a.fetch(&mut d, &[0], &[], 0);
        let mut all: Vec<_> = ["b", "c", "d"]
            .map(|id| waiter(&mut d, id, a.topic, 4))
            .into();
        assert_eq!(d.produce(a.c, "t", 0, &batch(0, 10)).0, 0);
        d.run_until_idle();
        let mut given: Vec<_> = all
            .iter_mut()
            .flat_map(|w| w.answer(&mut d).unwrap())
            .collect();
        given.sort_unstable();
        assert_eq!(given, [(0, 0, 3, 1), (0, 4, 7, 1), (0, 8, 9, 1)]);
    });
}

#[test]
fn room_in_flight_is_given_to_those_who_wait() {
    each_shape(|mut d| {
        let mut a = with_member(&mut d, 1);
        set(&mut d, a.c, "share.partition.max.record.locks", "100");
        for _ in 0..3 {
            assert_eq!(d.produce(a.c, "t", 0, &batch(0, 50)).0, 0);
        }
        assert_eq!(a.fetch(&mut d, &[0], &[], 500).pieces, [(0, 0, 99, 1)]);
        let (mut b, mut c) = (
            waiter(&mut d, "b", a.topic, 20),
            waiter(&mut d, "c", a.topic, 30),
        );
        assert_eq!(a.acknowledge(&mut d, &[(0, 0, 49, ACCEPT)]), (0, vec![0]));
        d.run_until_idle();
        let (b, c) = (b.answer(&mut d).unwrap(), c.answer(&mut d).unwrap());
        let mut given = [b, c].concat();
        given.sort_unstable();
        let ends = [given[0].1, given[0].2, given[1].1, given[1].2];
        let between = [100, ends[1], ends[1] + 1, 149];
        assert_eq!((given.len(), ends), (2, between), "{given:?}");
    });
}

/// Members fetch, say what became of it, leave, and hold records for too long, in any order.
/// Whenever all is quiet, nobody waits for what somebody else could fetch.
#[test]
fn nobody_waits_for_what_is_there() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut prng = Prng::new(seed);
        let mut d = Driver::ready(1 + (seed % 4) as u16, seed);
        let mut probe = with_member(&mut d, 2);
        set(&mut d, probe.c, "share.partition.max.record.locks", "100");
        probe.fetch(&mut d, &[0, 1], &[], 0);
        let topic = probe.topic;
        let mut members: Vec<Option<Waiter>> = vec![None, None, None, None];
        for _ in 0..60 {
            for _ in 0..prng.below(6) {
                let n = prng.below(4) as usize;
                random_deed(&mut d, &mut prng, topic, (n, &mut members[n]));
            }
            d.run_until_idle();
            let mut waits = false;
            for waiter in members.iter_mut().flatten() {
                waiter.answer(&mut d);
                waits |= waiter.sent.is_some();
            }
            let left = probe.fetch(&mut d, &[], &[], 0).pieces;
            assert!(
                !waits || left.is_empty(),
                "{left:?} is there and somebody waits"
            );
            for (p, first, last, _) in left {
                let said = probe.acknowledge(&mut d, &[(p, first, last, RELEASE)]);
                assert_eq!(said, (0, vec![0]));
            }
        }
    }
}

/// Something that a member does, or a producer.
fn random_deed(
    d: &mut Driver,
    prng: &mut Prng,
    topic: Uuid,
    (n, place): (usize, &mut Option<Waiter>),
) {
    let shards = u64::from(d.shards());
    let Some(waiter) = place else {
        let c = d.connect(prng.below(shards) as u16);
        let mut waiter = Waiter::new(Member::new(c, ["w", "x", "y", "z"][n], topic));
        waiter.fetch(d, &[0, 1], 1 + prng.below(60) as i32);
        *place = Some(waiter);
        return;
    };
    match prng.below(12) {
        0 => {
            d.disconnect(waiter.member.c);
            *place = None;
        }
        1 => d.run_for_ms(prng.below(20_000) as i64),
        2..=5 => {
            let c = d.connect(prng.below(shards) as u16);
            let records = batch(0, 1 + prng.below(40) as i64);
            let p = prng.below(2) as i32;
            d.send(c, &produce_request("t", p, 1, &records), 9);
        }
        _ if waiter.sent.is_some() => {}
        6..=8 if !waiter.held.is_empty() => {
            let at = prng.below(waiter.held.len() as u64) as usize;
            let (p, first, last, _) = waiter.held.remove(at);
            let middle = first + prng.below((last - first + 1) as u64) as i64;
            let kind = [ACCEPT, RELEASE, REJECT][prng.below(3) as usize];
            let error = waiter.member.acknowledge(d, &[(p, first, middle, kind)]).0;
            // Of two connections that begin a session for a member the later one may lose it.
            let lost = error == ErrorCode::ShareSessionNotFound.code();
            assert!(lost || error == 0, "error {error}");
            if lost {
                d.disconnect(waiter.member.c);
                *place = None;
            } else if middle < last {
                waiter.held.push((p, middle + 1, last, ACCEPT));
            }
        }
        _ => waiter.fetch(d, &[], 1 + prng.below(60) as i32),
    }
}
