//! What a share group was given and has said of it: which records are done with, and who holds
//! which. Every answer to a member is held against it.

use super::code::{INVALID_RECORD_STATE, INVALID_REQUEST, UNKNOWN_TOPIC_OR_PARTITION};
use crate::Check;
use flumen_base::Mono;
use std::collections::BTreeMap;

pub(crate) const ACCEPT: i8 = 1;
pub(crate) const RELEASE: i8 = 2;
pub(crate) const REJECT: i8 = 3;
pub(crate) const RENEW: i8 = 4;

/// Partition and offset.
pub(crate) type Place = (i32, i64);

/// A session of a member, as far as its locks can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bond {
    /// Which session of which member: no two are the same.
    pub(crate) session: u64,
    /// Nothing of an earlier session of the member can come late and release what it holds.
    pub(crate) firm: bool,
    /// The life of the process.
    pub(crate) life: u32,
}

/// A member was given a record, and has said nothing of it.
#[derive(Clone, Copy, Debug)]
struct Hold {
    bond: Bond,
    /// When the answer came, as [`Deliveries::tick`] counts.
    received: u64,
    /// Its lock does not run out before.
    until: Mono,
}

impl Hold {
    /// Whether the lock has been held all the time, if this is the session that has not ended.
    fn is_sure(&self, bond: Option<Bond>, now: Mono) -> bool {
        self.bond.firm && Some(self.bond) == bond && self.until > now
    }
}

/// What is said of records that the member does not hold, as the broker sees it.
fn is_refusal(error: Option<i16>) -> bool {
    let refusals = [
        INVALID_RECORD_STATE,
        INVALID_REQUEST,
        // Nobody has fetched there since it was forgotten, or begun anew.
        UNKNOWN_TOPIC_OR_PARTITION,
    ];
    error.is_some_and(|error| refusals.contains(&error))
}

#[derive(Debug, Default)]
struct Record {
    /// When the answer came that it is accepted or rejected.
    done: Option<u64>,
    /// And of which life, and after how many deliveries, where that is certain.
    after: Option<(u32, i16)>,
    /// It was to be accepted or rejected, and that was not answered.
    maybe: bool,
    /// The highest delivery count.
    count: i16,
    /// Answers that were lost before it was delivered last.
    lost: u64,
    hold: Option<Hold>,
}

/// What a member says of neighbouring records, and what was known of them then.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) partition: i32,
    pub(crate) first: i64,
    pub(crate) kinds: Vec<i8>,
    before: Vec<(i16, Option<Hold>)>,
}

impl Said {
    /// The last offset.
    pub(crate) fn last(&self) -> i64 {
        self.first + self.kinds.len() as i64 - 1
    }
}

/// A request that records came with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// When it was sent, as [`Deliveries::tick`] counts.
    pub(crate) sent: u64,
    pub(crate) at: Mono,
    pub(crate) bond: Bond,
}

/// Neighbouring records that were handed out together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) partition: i32,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) count: i16,
}

/// All of a group.
#[derive(Debug)]
pub(crate) struct Deliveries {
    records: BTreeMap<Place, Record>,
    clock: u64,
    /// Fetches whose answers never came, and may have brought anything.
    pub(crate) lost: u64,
    /// Delivery count limit and lock time of the group.
    pub(crate) limit: i16,
    pub(crate) lock_ms: i64,
    /// What the broker knows may be forgotten without a crash.
    failing_disk: bool,
}

impl Deliveries {
    pub(crate) fn new(limit: i16, lock_ms: i64, failing_disk: bool) -> Self {
        Self {
            records: BTreeMap::new(),
            clock: 0,
            lost: 0,
            limit,
            lock_ms,
            failing_disk,
        }
    }

    /// A number for a moment.
    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Records came. `alive`: the sessions that have not ended.
    pub(crate) fn given(
        &mut self,
        (asked, now): (Asked, Mono),
        given: Given,
        alive: &[Bond],
    ) -> Check {
        let received = self.tick();
        let until = asked.at.plus_ms(self.lock_ms);
        for offset in given.first..=given.last {
            let (limit, failing) = (self.limit, self.failing_disk);
            let place = (given.partition, offset);
            let record = self.records.entry(place).or_default();
            let count = given.count;
            let wrong =
                |what: &str| Err(format!("sharers: {place:?} {what}: {record:?}, {given:?}"));
            if count < 1 || count > limit {
                return wrong("was delivered too often");
            }
            if record.done.is_some_and(|at| at < asked.sent) {
                return wrong("is done with and comes again");
            }
            let same_life = |(life, before)| life == asked.bond.life && count > before;
            if !failing && record.after.is_some_and(same_life) {
                return wrong("is done with and was handed out after that");
            }
            let held = |hold: &Hold| {
                let holds = hold.until > now && hold.bond.life == asked.bond.life;
                hold.bond.firm && holds && alive.contains(&hold.bond) && hold.received < asked.sent
            };
            if !failing && record.hold.as_ref().is_some_and(held) {
                return wrong("is another's");
            }
            record.count = record.count.max(count);
            record.lost = self.lost;
            let bond = asked.bond;
            record.hold = Some(Hold {
                bond,
                received,
                until,
            });
        }
        Ok(())
    }

    /// Something is about to be said of neighbouring records.
    pub(crate) fn say(&mut self, partition: i32, first: i64, kinds: Vec<i8>) -> Said {
        let mut before = Vec::new();
        for (offset, kind) in (first..).zip(&kinds) {
            let record = self.records.entry((partition, offset)).or_default();
            before.push((record.count, record.hold));
            if *kind != RENEW {
                record.hold = None;
            }
        }
        Said {
            partition,
            first,
            kinds,
            before,
        }
    }

    /// What became of all that a request said of a partition: nothing of it is refused if all was
    /// held.
    pub(crate) fn check_refusal(
        &self,
        all: &[Said],
        (partition, error): (i32, i16),
        (bond, now): (Option<Bond>, Mono),
    ) -> Check {
        let of = all.iter().filter(|said| said.partition == partition);
        let mut holds = of.flat_map(|said| &said.before);
        let sure = |hold: &Option<Hold>| hold.is_some_and(|hold| hold.is_sure(bond, now));
        let held = holds.all(|(_, hold)| sure(hold)) && !self.failing_disk;
        match held && is_refusal(Some(error)) {
            true => Err(format!(
                "sharers: what is held is refused: {error}, {all:?}"
            )),
            false => Ok(()),
        }
    }

    /// What became of it: an error code, or no answer came. `bond`: the session's, if it has not
    /// ended; `start`: nothing was asked to be deleted from there on.
    pub(crate) fn heard(
        &mut self,
        said: &Said,
        error: Option<i16>,
        (bond, now, start): (Option<Bond>, Mono, i64),
    ) {
        let at = self.tick();
        let failing = self.failing_disk;
        let sure = |hold: &Hold| hold.is_sure(bond, now) && !failing;
        let refused = is_refusal(error);
        let session_of = |hold: &Option<Hold>| hold.map(|hold| hold.bond.session);
        let newest = said
            .before
            .iter()
            .map(|(_, hold)| session_of(hold))
            .max()
            .flatten();
        for ((offset, kind), (count, hold)) in (said.first..).zip(&said.kinds).zip(&said.before) {
            let place = (said.partition, offset);
            let Some(record) = self.records.get_mut(&place) else {
                continue;
            };
            if ![ACCEPT, REJECT].contains(kind) || refused {
                continue;
            }
            // What may be deleted is passed over, and comes again if a crash undoes the deletion.
            if offset < start {
                record.maybe = true;
                continue;
            }
            match error {
                // Said together with records of a later session, of which the answer is: between
                // them this one counts as a gap if the broker has begun anew, as in Kafka.
                Some(0) if session_of(hold) != newest => record.maybe = true,
                Some(0) => {
                    record.done.get_or_insert(at);
                    if let Some(hold) = hold.as_ref().filter(|hold| sure(hold)) {
                        record.after = Some((hold.bond.life, *count));
                    }
                }
                _ => record.maybe = true,
            }
        }
    }

    /// Whether it is known what became of a record: it is done with, or was delivered as often as
    /// it may be.
    pub(crate) fn is_known(&self, place: Place) -> bool {
        let record = self.records.get(&place);
        record.is_some_and(|r| r.done.is_some() || r.count >= self.limit)
    }

    /// A record that is not handed out any more without that being known: that may be.
    pub(crate) fn check_silent(&self, place: Place) -> Check {
        let none = Record::default();
        let record = self.records.get(&place).unwrap_or(&none);
        let lost = i64::try_from(self.lost - record.lost).unwrap_or(i64::MAX);
        if record.maybe || i64::from(record.count) + lost >= i64::from(self.limit) {
            return Ok(());
        }
        let lost = self.lost;
        Err(format!(
            "sharers: {place:?} was passed over, {lost} answers lost: {record:?}"
        ))
    }
}
