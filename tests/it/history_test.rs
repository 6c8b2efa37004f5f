//! The checker against histories that are sound, and against the same with one fault planted.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // tests may panic

use super::*;

const PARTITIONS: i32 = 3;
const IDS: usize = 3;
const STEPS: usize = 160;

/// splitmix64 of a seed that every failure names.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// One transactional id while the history is made.
#[derive(Default)]
struct Writer {
    incarnation: u32,
    number: u64,
    /// Index of the open transaction.
    open: Option<usize>,
}

/// A history as a correct broker makes it: every write takes an offset, every end a marker in the
/// partitions it wrote to, and only what is committed can be read.
fn sound(dice: &mut Dice) -> History {
    let mut history = History::default();
    let mut writers: Vec<Writer> = (0..IDS).map(|_| Writer::default()).collect();
    // Everything that was appended: partition, offset, value, transaction.
    let mut log: Vec<(i32, i64, String, usize)> = Vec::new();
    let mut ends = [0i64; PARTITIONS as usize];
    let mut there = Vec::new();
    for _ in 0..STEPS {
        let which = dice.below(IDS);
        let writer = &mut writers[which];
        let Some(open) = writer.open else {
            if dice.below(12) == 0 {
                writer.incarnation += 1;
            }
            writer.number += 1;
            writer.open = Some(history.transactions.len());
            history.transactions.push(Transaction {
                id: format!("id{which}"),
                incarnation: writer.incarnation,
                number: writer.number,
                writes: Vec::new(),
                outcome: Outcome::Aborted,
            });
            there.push(false);
            continue;
        };
        if dice.below(4) > 0 {
            let partition = dice.below(PARTITIONS as usize);
            let value = format!("{which}.{}.{}", writer.number, log.len());
            let transaction = &mut history.transactions[open];
            let p = i32::try_from(partition).unwrap();
            transaction.writes.push((p, value.clone()));
            log.push((p, ends[partition], value, open));
            ends[partition] += 1;
            continue;
        }
        let (outcome, visible) = match dice.below(6) {
            0 => (Outcome::Aborted, false),
            1 => (Outcome::Unknown, false),
            2 => (Outcome::Unknown, true),
            _ => (Outcome::Committed, true),
        };
        // Whoever does not know may have been replaced.
        writer.incarnation += u32::from(outcome == Outcome::Unknown);
        writer.open = None;
        history.transactions[open].outcome = outcome;
        there[open] = visible;
        for end in &mut ends {
            *end += 1; // the marker
        }
    }
    for (partition, offset, value, transaction) in log {
        if there[transaction] {
            let records = history.read.entry(partition).or_default();
            records.push((offset, value));
        }
    }
    for (partition, records) in &history.read {
        let upto = dice.below(records.len() + 1);
        history.live.insert(*partition, records[..upto].to_vec());
    }
    history
}

/// Transactions with this outcome of which `seen` records are read, at least `least`.
fn pick(history: &History, dice: &mut Dice, outcome: Outcome, least: usize) -> Option<usize> {
    let all: Vec<&String> = history.read.values().flatten().map(|r| &r.1).collect();
    let fits = |t: &Transaction| {
        let there = t.writes.iter().filter(|w| all.contains(&&w.1)).count();
        t.outcome == outcome
            && t.writes.len() >= least
            && (outcome == Outcome::Aborted || there == t.writes.len())
    };
    let found: Vec<usize> = (0..history.transactions.len())
        .filter(|i| fits(&history.transactions[*i]))
        .collect();
    (!found.is_empty()).then(|| found[dice.below(found.len())])
}

fn remove(history: &mut History, value: &str) {
    for records in history.read.values_mut().chain(history.live.values_mut()) {
        records.retain(|r| r.1 != value);
    }
}

/// Behind everything in the partition, and not seen by the reader that followed.
fn append(history: &mut History, partition: i32, value: String) {
    let records = history.read.entry(partition).or_default();
    let offset = records.last().map_or(0, |r| r.0) + 100;
    records.push((offset, value));
}

type Plant = fn(&mut History, &mut Dice) -> Option<()>;
type IsFault = fn(&Fault) -> bool;

/// Each bug of a broker, and what the checker must call it.
const PLANTS: &[(&str, Plant, IsFault)] = &[
    ("a committed record is lost", lost, |f| {
        matches!(f, Fault::Missing(_))
    }),
    ("an aborted record is read", aborted, |f| {
        matches!(f, Fault::Aborted(_))
    }),
    ("half of a transaction", half, |f| {
        matches!(f, Fault::Torn(_))
    }),
    ("a record twice", twice, |f| matches!(f, Fault::Twice(_))),
    ("a record of nobody", foreign, |f| {
        matches!(f, Fault::Foreign(_))
    }),
    ("a record in another partition", moved, |f| {
        matches!(f, Fault::Foreign(_))
    }),
    ("two records of one id changed places", swapped, |f| {
        matches!(f, Fault::Order(_) | Fault::Zombie(_))
    }),
    ("a zombie writes", zombie, |f| matches!(f, Fault::Zombie(_))),
    ("an offset repeats", offsets, |f| {
        matches!(f, Fault::Offsets(_))
    }),
    ("a reader saw what was taken back", vanished, |f| {
        matches!(f, Fault::Vanished(_) | Fault::Aborted(_))
    }),
    ("a reader was passed", skipped, |f| {
        matches!(f, Fault::Skipped(_))
    }),
];

fn lost(history: &mut History, dice: &mut Dice) -> Option<()> {
    let t = pick(history, dice, Outcome::Committed, 1)?;
    let writes = history.transactions[t].writes.clone();
    remove(history, &writes[dice.below(writes.len())].1);
    Some(())
}

fn aborted(history: &mut History, dice: &mut Dice) -> Option<()> {
    let t = pick(history, dice, Outcome::Aborted, 1)?;
    let writes = history.transactions[t].writes.clone();
    let (partition, value) = writes[dice.below(writes.len())].clone();
    append(history, partition, value);
    Some(())
}

fn half(history: &mut History, dice: &mut Dice) -> Option<()> {
    let t = pick(history, dice, Outcome::Unknown, 2)?;
    let value = history.transactions[t].writes[0].1.clone();
    remove(history, &value);
    Some(())
}

fn twice(history: &mut History, dice: &mut Dice) -> Option<()> {
    let t = pick(history, dice, Outcome::Committed, 1)?;
    let (partition, value) = history.transactions[t].writes[0].clone();
    append(history, partition, value);
    Some(())
}

fn foreign(history: &mut History, _: &mut Dice) -> Option<()> {
    append(history, 0, "nobody's".to_owned());
    Some(())
}

fn moved(history: &mut History, dice: &mut Dice) -> Option<()> {
    let t = pick(history, dice, Outcome::Committed, 1)?;
    let (partition, value) = history.transactions[t].writes[0].clone();
    remove(history, &value);
    append(history, (partition + 1) % PARTITIONS, value);
    Some(())
}

/// Two records of one transactional id in one partition.
fn pair(history: &History, one_incarnation: bool) -> Option<(i32, usize, usize)> {
    let places = places(history);
    for (partition, records) in &history.read {
        for a in 0..records.len() {
            for b in a + 1..records.len() {
                let of = |i: usize| &history.transactions[places[records[i].1.as_str()].0];
                let (x, y) = (of(a), of(b));
                if x.id == y.id && (x.incarnation == y.incarnation) == one_incarnation {
                    return Some((*partition, a, b));
                }
            }
        }
    }
    None
}

fn exchange(history: &mut History, place: (i32, usize, usize)) {
    let (partition, a, b) = place;
    let records = history.read.get_mut(&partition).unwrap();
    let (x, y) = (records[a].1.clone(), records[b].1.clone());
    records[a].1 = y;
    records[b].1 = x;
    history.live.clear();
}

fn swapped(history: &mut History, _: &mut Dice) -> Option<()> {
    let place = pair(history, true)?;
    exchange(history, place);
    Some(())
}

/// The older producer's record goes behind the newer's last one.
fn zombie(history: &mut History, _: &mut Dice) -> Option<()> {
    let (partition, a, _) = pair(history, false)?;
    let value = history.read[&partition][a].1.clone();
    remove(history, &value);
    append(history, partition, value);
    history.live.clear();
    Some(())
}

fn offsets(history: &mut History, dice: &mut Dice) -> Option<()> {
    history.live.clear();
    let records = history.read.values_mut().find(|r| r.len() > 1)?;
    let at = 1 + dice.below(records.len() - 1);
    records[at].0 = records[at - 1].0;
    Some(())
}

fn vanished(history: &mut History, dice: &mut Dice) -> Option<()> {
    // Its producer never learnt the outcome; the reader saw it, and it is not there.
    let t = pick(history, dice, Outcome::Unknown, 1)?;
    let writes = history.transactions[t].writes.clone();
    let seen = |v: &String| history.live.values().flatten().any(|r| r.1 == *v);
    if !writes.iter().any(|w| seen(&w.1)) {
        return None;
    }
    for records in history.read.values_mut() {
        records.retain(|r| !writes.iter().any(|w| w.1 == r.1));
    }
    Some(())
}

fn skipped(history: &mut History, dice: &mut Dice) -> Option<()> {
    let records = history.live.values_mut().find(|r| r.len() > 1)?;
    records.remove(dice.below(records.len() - 1));
    Some(())
}

#[test]
fn sound_histories_pass() {
    let mut total = Summary::default();
    for seed in 0..300 {
        let history = sound(&mut Dice(seed));
        let summary = check(&history).unwrap_or_else(|f| panic!("seed {seed}: {f:?}"));
        total.committed += summary.committed;
        total.unknown_seen += summary.unknown_seen;
        total.aborted += summary.aborted;
    }
    assert!(total.committed > 1000 && total.aborted > 300 && total.unknown_seen > 100);
}

#[test]
fn every_planted_fault_is_found() {
    for (what, plant, is_fault) in PLANTS {
        let mut planted = 0;
        for seed in 0..300 {
            let mut dice = Dice(seed);
            let mut history = sound(&mut dice);
            if plant(&mut history, &mut dice).is_none() {
                continue;
            }
            planted += 1;
            let fault = check(&history).expect_err(&format!("{what}, seed {seed}: not found"));
            assert!(is_fault(&fault), "{what}, seed {seed}: called {fault:?}");
        }
        assert!(planted > 20, "{what}: planted only {planted} times");
    }
}

#[test]
fn notes_end_anywhere() {
    let text = "begin 1\nwrite 0 a\nwrite 2 b\ncommit 1\ncommitted 1\n\
                begin 2\nwrite 1 c\naborted 2\nbegin 3\nwrite 1 d\ncommit 3\nfenced 3\nbegin 4\nwrite 0 e\nfenced 4\nbegin 5\nwri";
    let found = parse_notes("x", 7, text).unwrap();
    let outcomes: Vec<Outcome> = found.iter().map(|t| t.outcome).collect();
    use Outcome::{Aborted, Committed, Unknown};
    assert_eq!(outcomes, [Committed, Aborted, Unknown, Aborted, Aborted]);
    assert_eq!(found[0].writes, [(0, "a".to_owned()), (2, "b".to_owned())]);
    assert_eq!(found[4].number, 5);
    assert!(parse_notes("x", 7, "write 0 a\n").is_err());
    assert!(parse_notes("x", 7, "begin 1\nhello 1\n").is_err());
}
