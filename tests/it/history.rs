//! Histories of transactions: what producers did, what readers with isolation `read_committed` saw,
//! and whether the one explains the other.
//!
//! Each value is written once in the whole history. What must hold: a transaction is seen whole or
//! not at all, as its producer was told; records of one transactional id are in the order in which
//! they were sent; nothing of a producer stands behind a record of the producer that took its place
//! (a zombie's write); and a reader that follows the end never sees what later is not there, and is
//! never passed by what appears behind it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// What a producer was told of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The commit was acknowledged.
    Committed,
    /// The abort was acknowledged, or no commit was ever asked for.
    Aborted,
    /// A commit was asked for and its answer is not known.
    Unknown,
}

/// One transaction as its producer knows it.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// The transactional id.
    pub id: String,
    /// The how manieth producer with that id it was.
    pub incarnation: u32,
    /// Its number among this producer's.
    pub number: u64,
    /// Partition and value of each record, as they were sent.
    pub writes: Vec<(i32, String)>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Offset and value of records by partition, in the order in which they were read.
pub type Seen = BTreeMap<i32, Vec<(i64, String)>>;

/// Everything that is known of one topic.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Of each transactional id, in the order in which they began.
    pub transactions: Vec<Transaction>,
    /// What a reader saw from the beginning, after all transactions had ended.
    pub read: Seen,
    /// What a reader saw that began before the first of them and followed the end.
    pub live: Seen,
}

/// What a history shows that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A record that nobody sent there.
    Foreign(String),
    /// A record that is there twice.
    Twice(String),
    /// Offsets that do not ascend.
    Offsets(String),
    /// A record of an aborted transaction was seen.
    Aborted(String),
    /// A record of a committed transaction is missing.
    Missing(String),
    /// Some but not all records of a transaction with unknown outcome were seen.
    Torn(String),
    /// Records of one transactional id are not in the order in which they were sent.
    Order(String),
    /// A record of a producer behind one of the producer that took its place.
    Zombie(String),
    /// The reader that followed saw what is not there, or is elsewhere.
    Vanished(String),
    /// A record appeared behind the reader that followed.
    Skipped(String),
}

/// What a sound history holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Transactions that were acknowledged as committed.
    pub committed: usize,
    /// Transactions that were aborted.
    pub aborted: usize,
    /// Transactions whose producer does not know.
    pub unknown: usize,
    /// Those of them that are there.
    pub unknown_seen: usize,
    /// Records seen in the end.
    pub records: usize,
    /// Records seen by the reader that followed.
    pub live: usize,
}

/// Where a value was written: index of the transaction, index of the write, partition.
type Place = (usize, usize, i32);

fn places(history: &History) -> BTreeMap<&str, Place> {
    let mut places = BTreeMap::new();
    for (t, transaction) in history.transactions.iter().enumerate() {
        for (w, (partition, value)) in transaction.writes.iter().enumerate() {
            places.insert(value.as_str(), (t, w, *partition));
        }
    }
    places
}

/// Looks for the first thing that must not be.
///
/// # Errors
/// The fault, with the records that show it.
pub fn check(history: &History) -> Result<Summary, Fault> {
    let places = places(history);
    let mut counts = vec![0usize; history.transactions.len()];
    for seen in [&history.live, &history.read] {
        counts.fill(0);
        for (partition, records) in seen {
            check_partition(history, &places, *partition, records, &mut counts)?;
        }
    }
    check_transactions(history, &counts)?;
    for (partition, records) in &history.live {
        let read = history.read.get(partition).map_or(&[][..], Vec::as_slice);
        check_live(*partition, records, read)?;
    }
    let mut summary = Summary::default();
    for (transaction, seen) in history.transactions.iter().zip(&counts) {
        summary.records += seen;
        match transaction.outcome {
            Outcome::Committed => summary.committed += 1,
            Outcome::Aborted => summary.aborted += 1,
            Outcome::Unknown => summary.unknown += 1,
        }
        if transaction.outcome == Outcome::Unknown && *seen > 0 {
            summary.unknown_seen += 1;
        }
    }
    summary.live = history.live.values().map(Vec::len).sum();
    Ok(summary)
}

/// What one partition shows by itself; counts the records of each transaction.
fn check_partition(
    history: &History,
    places: &BTreeMap<&str, Place>,
    partition: i32,
    records: &[(i64, String)],
    counts: &mut [usize],
) -> Result<(), Fault> {
    let mut previous_offset = -1;
    let mut values = BTreeMap::new();
    // Of each transactional id the last record seen: transaction, write, incarnation.
    let mut last: BTreeMap<&str, (usize, usize, u32)> = BTreeMap::new();
    for (offset, value) in records {
        let at = || format!("{value} at offset {offset} of partition {partition}");
        if let Some(before) = values.insert(value.as_str(), *offset) {
            return Err(Fault::Twice(format!("{}, and at {before}", at())));
        }
        if *offset <= previous_offset {
            let text = format!("{} after offset {previous_offset}", at());
            return Err(Fault::Offsets(text));
        }
        previous_offset = *offset;
        let place = places.get(value.as_str());
        let Some((t, w, _)) = place.filter(|(_, _, p)| *p == partition) else {
            return Err(Fault::Foreign(at()));
        };
        let Some(transaction) = history.transactions.get(*t) else {
            return Err(Fault::Foreign(at()));
        };
        if transaction.outcome == Outcome::Aborted {
            return Err(Fault::Aborted(at()));
        }
        let now = (*t, *w, transaction.incarnation);
        if let Some(before) = last.insert(&transaction.id, now) {
            if before.2 > now.2 {
                let text = format!("{}, behind incarnation {}", at(), before.2);
                return Err(Fault::Zombie(text));
            }
            if (before.0, before.1) > (now.0, now.1) {
                return Err(Fault::Order(at()));
            }
        }
        if let Some(count) = counts.get_mut(*t) {
            *count += 1;
        }
    }
    Ok(())
}

/// Each transaction is there as its producer was told.
fn check_transactions(history: &History, counts: &[usize]) -> Result<(), Fault> {
    for (transaction, seen) in history.transactions.iter().zip(counts) {
        let Transaction {
            id,
            incarnation,
            number,
            writes,
            outcome,
        } = transaction;
        let text = || {
            let of = writes.len();
            format!("{id}, incarnation {incarnation}, number {number}: {seen} of {of}")
        };
        match outcome {
            Outcome::Committed if *seen < writes.len() => return Err(Fault::Missing(text())),
            Outcome::Unknown if *seen > 0 && *seen < writes.len() => {
                return Err(Fault::Torn(text()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The reader that followed saw the beginning of what is there in the end.
fn check_live(partition: i32, live: &[(i64, String)], read: &[(i64, String)]) -> Result<(), Fault> {
    let mut rest = read.iter();
    for (offset, value) in live {
        let at = || format!("{value} at offset {offset} of partition {partition}");
        match rest.next() {
            Some((o, v)) if o == offset && v == value => {}
            Some((o, v)) if o < offset => {
                let text = format!("{v} at offset {o}, before {}", at());
                return Err(Fault::Skipped(text));
            }
            _ => return Err(Fault::Vanished(at())),
        }
    }
    Ok(())
}

/// Reads what a producer noted, one line each: `begin N`, `write PARTITION VALUE`, `commit N`
/// before it asks for the commit, then `committed N`, `aborted N`, `unknown N` or `fenced N`. A
/// producer may end anywhere. The last line may be torn.
///
/// # Errors
/// A line that no producer writes.
pub fn parse_notes(id: &str, incarnation: u32, text: &str) -> Result<Vec<Transaction>> {
    let mut all: Vec<Transaction> = Vec::new();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in complete.lines() {
        let mut words = line.splitn(3, ' ');
        let what = words.next().unwrap_or_default();
        let number: i64 = words.next().context("a number")?.parse()?;
        if what == "begin" {
            all.push(Transaction {
                id: id.to_owned(),
                incarnation,
                number: number.try_into()?,
                writes: Vec::new(),
                outcome: Outcome::Aborted,
            });
            continue;
        }
        let transaction = all.last_mut().with_context(|| format!("{line:?} first"))?;
        match what {
            "write" => {
                let value = words.next().context("a value")?.to_owned();
                transaction.writes.push((number.try_into()?, value));
            }
            "commit" => transaction.outcome = Outcome::Unknown,
            "committed" => transaction.outcome = Outcome::Committed,
            "aborted" => transaction.outcome = Outcome::Aborted,
            // After a commit that was asked for nobody knows; before it nothing is there.
            "unknown" | "fenced" => {}
            _ => bail!("{line:?}"),
        }
    }
    Ok(all)
}

#[cfg(test)]
#[path = "history_test.rs"]
mod tests;
