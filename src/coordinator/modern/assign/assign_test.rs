//! The assignors against a naive model: everything is given to a subscriber, once; as even as can
//! be; and nothing moves that need not.
#![allow(clippy::unwrap_used)] // tests, though outside of a #[test]

use super::*;
use flumen_base::Prng;
use proptest::prelude::*;

fn topic(n: usize) -> Uuid {
    Uuid::from_bytes([n as u8 + 1; 16])
}

/// A group of the test: partitions by topic, and for each member what it subscribes to.
#[derive(Clone, Debug)]
struct Case {
    counts: Vec<i32>,
    subscriptions: Vec<BTreeSet<usize>>,
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("m{n:03}")).collect()
}

impl Case {
    fn assign(&self, assignor: Assignor, ids: &[String], last: &[Partitions]) -> Vec<Partitions> {
        let members = ids.iter().zip(&self.subscriptions).zip(last);
        let members = members.map(|((id, topics), last)| MemberSpec {
            id,
            instance: None,
            topics: Rc::new(topics.iter().map(|n| topic(*n)).collect()),
            last: Some(last),
        });
        let counts = self.counts.iter().enumerate();
        let spec = Spec {
            members: members.collect(),
            counts: counts.map(|(n, count)| (topic(n), *count)).collect(),
        };
        assignor.assign(&spec)
    }

    fn fresh(&self, assignor: Assignor) -> (Vec<String>, Vec<Partitions>) {
        let ids = names(self.subscriptions.len());
        let none = vec![Partitions::new(); ids.len()];
        let targets = self.assign(assignor, &ids, &none);
        (ids, targets)
    }

    /// Every partition that somebody subscribes to is given once, to one who does.
    fn check_whole(&self, targets: &[Partitions]) {
        assert_eq!(targets.len(), self.subscriptions.len());
        let mut given = BTreeSet::new();
        for (target, subscribed) in targets.iter().zip(&self.subscriptions) {
            for (id, partitions) in target {
                assert!(!partitions.is_empty());
                let n = (0..self.counts.len()).find(|n| topic(*n) == *id).unwrap();
                assert!(subscribed.contains(&n), "{n} is not subscribed to");
                for p in partitions {
                    assert!((0..self.counts[n]).contains(p));
                    assert!(given.insert((n, *p)), "{n}-{p} is given twice");
                }
            }
        }
        let wanted = |n: &usize| self.subscriptions.iter().any(|s| s.contains(n));
        let topics = (0..self.counts.len()).filter(wanted);
        let all: usize = topics.map(|n| self.counts[n] as usize).sum();
        assert_eq!(given.len(), all, "something is not given");
    }
}

fn size(target: &Partitions) -> usize {
    target.values().map(BTreeSet::len).sum()
}

fn moved(before: &[Partitions], after: &[Partitions]) -> usize {
    let kept = |(before, after): (&Partitions, &Partitions)| -> usize {
        let topics = before.iter();
        topics
            .map(|(id, partitions)| {
                after
                    .get(id)
                    .map_or(0, |a| a.intersection(partitions).count())
            })
            .sum()
    };
    let all: usize = before.iter().map(size).sum();
    all - before.iter().zip(after).map(kept).sum::<usize>()
}

fn spread(targets: &[Partitions]) -> usize {
    let sizes = targets.iter().map(size);
    sizes.clone().max().unwrap_or(0) - sizes.min().unwrap_or(0)
}

fn same_for_all() -> impl Strategy<Value = Case> {
    (prop::collection::vec(1..12i32, 1..5), 1..9usize).prop_map(|(counts, members)| Case {
        subscriptions: vec![(0..counts.len()).collect(); members],
        counts,
    })
}

fn different() -> impl Strategy<Value = Case> {
    prop::collection::vec(1..12i32, 1..6).prop_flat_map(|counts| {
        let topics = prop::collection::btree_set(0..counts.len(), 0..=counts.len());
        prop::collection::vec(topics, 1..8).prop_map(move |subscriptions| Case {
            counts: counts.clone(),
            subscriptions,
        })
    })
}

proptest! {
    #[test]
    fn everything_is_given_once(case in prop_oneof![same_for_all(), different()]) {
        for assignor in Assignor::ALL {
            let (ids, targets) = case.fresh(assignor);
            case.check_whole(&targets);
            let again = case.assign(assignor, &ids, &targets);
            case.check_whole(&again);
            prop_assert_eq!(moved(&targets, &again), 0, "a balanced group does not move");
        }
    }

    #[test]
    fn uniform_is_even_for_equal_members(case in same_for_all()) {
        let (_, targets) = case.fresh(Assignor::Uniform);
        prop_assert!(spread(&targets) <= 1, "{:?}", targets);
    }

    /// Of all even assignments one that keeps most: everyone keeps what it had up to the smaller
    /// quota, and the extras go to those who had more.
    #[test]
    fn uniform_moves_no_more_than_it_must(case in same_for_all(), seed: u64) {
        let mut rng = Prng::new(seed);
        let members = case.subscriptions.len();
        let mut last = vec![Partitions::new(); members];
        for (n, count) in case.counts.iter().enumerate() {
            for p in 0..*count {
                if !rng.one_in(4) {
                    give(&mut last[rng.below(members as u64) as usize], (topic(n), p));
                }
            }
        }
        let targets = case.assign(Assignor::Uniform, &names(members), &last);
        case.check_whole(&targets);
        prop_assert!(spread(&targets) <= 1);
        let all: i32 = case.counts.iter().sum();
        let (least, extras) = (all as usize / members, all as usize % members);
        let kept: usize = last.iter().map(|l| size(l).min(least)).sum();
        let more = last.iter().filter(|l| size(l) > least).count();
        let had: usize = last.iter().map(size).sum();
        prop_assert_eq!(moved(&last, &targets), had - kept - more.min(extras));
    }

    /// No partition could move to a subscriber that has two fewer.
    #[test]
    fn uniform_leaves_no_move_that_helps(case in different(), seed: u64) {
        let (ids, targets) = case.fresh(Assignor::Uniform);
        let mut rng = Prng::new(seed);
        // Somebody forgets what it had.
        let mut last = targets;
        let who = rng.below(last.len() as u64) as usize;
        last[who].clear();
        let targets = case.assign(Assignor::Uniform, &ids, &last);
        case.check_whole(&targets);
        for (n, from) in targets.iter().enumerate() {
            for id in from.keys() {
                let index = (0..case.counts.len()).find(|t| topic(*t) == *id).unwrap();
                for (m, to) in targets.iter().enumerate() {
                    if n != m && case.subscriptions[m].contains(&index) {
                        prop_assert!(size(from) <= size(to) + 1, "{} -> {}: {:?}", n, m, targets);
                    }
                }
            }
        }
    }

    /// Ranges of one topic differ by one at most, follow each other, and begin with the first id.
    #[test]
    fn ranges_are_ranges(case in different()) {
        let (_, targets) = case.fresh(Assignor::Range);
        for (n, count) in case.counts.iter().enumerate() {
            let mut next = 0;
            let subscribers: Vec<_> = (0..targets.len())
                .filter(|m| case.subscriptions[*m].contains(&n))
                .collect();
            for (i, m) in subscribers.iter().enumerate() {
                let share = count / subscribers.len() as i32
                    + i32::from((i as i32) < count % subscribers.len() as i32);
                let range: BTreeSet<i32> = (next..next + share).collect();
                let got = targets[*m].get(&topic(n)).cloned().unwrap_or_default();
                prop_assert_eq!(got, range);
                next += share;
            }
        }
    }

    /// Two records may say that two members shall have the same: it ends with one of them.
    #[test]
    fn what_was_given_twice_is_given_once(case in prop_oneof![same_for_all(), different()]) {
        let (ids, targets) = case.fresh(Assignor::Uniform);
        let mut union = Partitions::new();
        for (id, partitions) in targets.iter().flatten() {
            union.entry(*id).or_default().extend(partitions);
        }
        union.entry(topic(200)).or_default().insert(1);
        union.entry(topic(0)).or_default().insert(4711);
        let last = vec![union; ids.len()];
        case.check_whole(&case.assign(Assignor::Uniform, &ids, &last));
    }
}

#[test]
fn static_members_come_first_in_ranges() {
    let topics: Rc<BTreeSet<Uuid>> = Rc::new([topic(0)].into());
    let member = |id, instance| MemberSpec {
        id,
        instance,
        topics: topics.clone(),
        last: None,
    };
    let spec = Spec {
        members: vec![
            member("a", None),
            member("x", Some("i2")),
            member("y", Some("i1")),
        ],
        counts: [(topic(0), 3)].into(),
    };
    let targets = Assignor::Range.assign(&spec);
    let firsts: Vec<_> = targets
        .iter()
        .map(|t| *t[&topic(0)].first().unwrap())
        .collect();
    assert_eq!(firsts, [2, 1, 0]);
}

#[test]
fn nobody_and_nothing() {
    for assignor in Assignor::ALL {
        assert!(assignor.assign(&Spec::default()).is_empty());
        let case = Case {
            counts: vec![3],
            subscriptions: vec![BTreeSet::new(), BTreeSet::new()],
        };
        assert!(case.fresh(assignor).1.iter().all(Partitions::is_empty));
        assert_eq!(Assignor::by_name(assignor.name()), Some(assignor));
    }
    assert_eq!(Assignor::by_name("sticky"), None);
}
