//! Who owned which partition when: from what members of a group noted, whether two live members
//! ever owned one partition at the same time, and for how long a partition had no owner.
//!
//! A member notes one line per event: a time (nanoseconds of the machine's monotonic clock), the
//! event and its words: `assigned GENERATION P,P`, `revoked GENERATION P,P`, `lost GENERATION P,P`,
//! `read PARTITION FROM TO` (offsets, `TO` excluded), `closed`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// One member's ownership of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The member.
    pub member: String,
    /// The partition.
    pub partition: i32,
    /// The generation in which it was assigned.
    pub generation: i32,
    /// When it was assigned, ns.
    pub from: u64,
    /// When it ended, ns; not yet.
    pub to: Option<u64>,
    /// It ended because the coordinator had taken the member for dead.
    pub lost: bool,
}

/// What one member noted.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// Its ownerships in order of their beginning.
    pub spans: Vec<Span>,
    /// Offsets it read: partition, first, and the one after the last.
    pub reads: Vec<(i32, i64, i64)>,
}

impl Noted {
    /// The partitions it owns now.
    pub fn owns(&self) -> BTreeSet<i32> {
        let open = self.spans.iter().filter(|s| s.to.is_none());
        open.map(|s| s.partition).collect()
    }
}

/// Reads a member's lines; `dead` is when it was killed.
///
/// # Errors
/// A line that no member writes, or a revocation of what is not owned.
pub fn parse(member: &str, lines: &[String], dead: Option<u64>) -> Result<Noted> {
    let mut noted = Noted::default();
    for line in lines {
        let mut words = line.split(' ');
        let Some(Ok(time)) = words.next().map(str::parse::<u64>) else {
            continue; // not an event
        };
        let event = words.next().context("an event")?;
        if event == "closed" {
            // A static member that stays in the group is not told to give anything back.
            for span in noted.spans.iter_mut().filter(|s| s.to.is_none()) {
                span.to = Some(time);
            }
        }
        if !["assigned", "revoked", "lost", "read"].contains(&event) {
            continue;
        }
        let first: i64 = words.next().context("a number")?.parse()?;
        if event == "read" {
            let mut offset = || -> Result<i64> { Ok(words.next().context("an offset")?.parse()?) };
            noted.reads.push((first.try_into()?, offset()?, offset()?));
            continue;
        }
        for partition in words.next().unwrap_or_default().split(',') {
            if partition.is_empty() {
                continue;
            }
            let partition: i32 = partition.parse()?;
            noted.change(member, time, event, first.try_into()?, partition)?;
        }
    }
    for span in noted.spans.iter_mut().filter(|s| s.to.is_none()) {
        span.to = dead;
    }
    Ok(noted)
}

impl Noted {
    fn change(
        &mut self,
        member: &str,
        time: u64,
        event: &str,
        generation: i32,
        partition: i32,
    ) -> Result<()> {
        let mut open = self.spans.iter_mut().filter(|s| s.to.is_none());
        let open = open.find(|s| s.partition == partition);
        match (event, open) {
            ("assigned", None) => self.spans.push(Span {
                member: member.to_owned(),
                partition,
                generation,
                from: time,
                to: None,
                lost: false,
            }),
            ("revoked" | "lost", Some(span)) => {
                span.to = Some(time);
                span.lost = event == "lost";
            }
            (event, open) => bail!("{member}: {event} of {partition} at {time} beside {open:?}"),
        }
        Ok(())
    }
}

/// Two live members never own one partition at the same time. One that the coordinator had taken
/// for dead may believe so a little longer.
///
/// # Errors
/// The two ownerships.
pub fn check_exclusive(spans: &[Span]) -> Result<()> {
    let mut by_partition: BTreeMap<i32, Vec<&Span>> = BTreeMap::new();
    for span in spans.iter().filter(|s| !s.lost) {
        by_partition.entry(span.partition).or_default().push(span);
    }
    for spans in by_partition.values_mut() {
        spans.sort_by_key(|s| s.from);
        // The ownership that lasts longest so far.
        let mut longest: Option<&Span> = None;
        for span in spans {
            let end = |s: &Span| s.to.unwrap_or(u64::MAX);
            if let Some(before) = longest {
                ensure!(end(before) <= span.from, "{before:?} and {span:?}");
            }
            if longest.is_none_or(|l| end(l) < end(span)) {
                longest = Some(span);
            }
        }
    }
    Ok(())
}

/// In one generation of a classic group a partition is assigned to one member.
///
/// # Errors
/// The two ownerships.
pub fn check_generations(spans: &[Span]) -> Result<()> {
    let mut owners: BTreeMap<(i32, i32), &Span> = BTreeMap::new();
    for span in spans {
        if let Some(other) = owners.insert((span.partition, span.generation), span) {
            ensure!(other.member == span.member, "{other:?} and {span:?}");
        }
    }
    Ok(())
}

/// How long each of `partitions` had no owner between two times, ns.
pub fn unowned(spans: &[Span], partitions: i32, from: u64, to: u64) -> Vec<u64> {
    let gap = |partition: i32| {
        let mut owned: Vec<(u64, u64)> = spans
            .iter()
            .filter(|s| s.partition == partition)
            .map(|s| (s.from.max(from), s.to.unwrap_or(u64::MAX).min(to)))
            .filter(|(a, b)| a < b)
            .collect();
        owned.sort_unstable();
        let (mut free, mut at) = (0, from);
        for (begin, end) in owned {
            free += begin.saturating_sub(at);
            at = at.max(end);
        }
        free + to.saturating_sub(at)
    };
    (0..partitions).map(gap).collect()
}

/// Every offset below `ends` of each partition was read by somebody.
///
/// # Errors
/// The first that was not.
pub fn check_delivered(reads: &[(i32, i64, i64)], ends: &[i64]) -> Result<()> {
    for (partition, end) in (0..).zip(ends) {
        let mut ranges: Vec<(i64, i64)> = reads
            .iter()
            .filter(|r| r.0 == partition)
            .map(|r| (r.1, r.2))
            .collect();
        ranges.sort_unstable();
        let mut next = 0;
        for (from, to) in ranges {
            ensure!(
                from <= next,
                "nobody read offset {next} of partition {partition}"
            );
            next = next.max(to);
        }
        ensure!(
            next >= *end,
            "nobody read offset {next} of partition {partition}, which ends at {end}"
        );
    }
    Ok(())
}

#[cfg(test)]
#[path = "ownership_test.rs"]
mod tests;
