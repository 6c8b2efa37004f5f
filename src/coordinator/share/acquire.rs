//! Handing records out.

use super::partition::{Lock, Run, SharePartition};
use super::{RecordState, ShareLimits};
use flumen_base::Mono;
use std::sync::Arc;

/// Below this number of deliveries a record is never thought to be the one that kills its readers.
const SUSPECT_DELIVERIES_MIN: u16 = 2;

/// First and last offset of a record batch that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSpan {
    /// Base offset.
    pub base: i64,
    /// Last offset, inclusive.
    pub last: i64,
}

/// Who wants how much.
#[derive(Clone, Copy, Debug)]
pub struct Acquire<'a> {
    /// The member.
    pub member: &'a Arc<str>,
    /// `max_records` may not be exceeded (`ShareAcquireMode` 1, KIP-1206); otherwise the last batch
    /// is handed out whole.
    pub strict: bool,
    /// New records are listed in pieces of about this many.
    pub batch_size: i64,
    /// How many records at most, or where to stop.
    pub max_records: i64,
    /// Where the read was asked to start.
    pub fetch_offset: i64,
}

/// Records handed out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// First offset.
    pub first: i64,
    /// Last offset, inclusive.
    pub last: i64,
    /// How often they have been handed out, this time included.
    pub deliveries: u16,
}

impl Acquired {
    fn count(&self) -> i64 {
        self.last - self.first + 1
    }
}

/// What has been handed out so far to one request.
struct Handing {
    list: Vec<Acquired>,
    count: i64,
    max: i64,
    strict: bool,
    lock: Lock,
    /// Batch of the last entry of `list`: its parts are listed as one where they agree.
    origin: Option<(i64, i64)>,
}

impl Handing {
    fn room(&self) -> i64 {
        self.max - self.count
    }

    fn push(&mut self, piece: Acquired, origin: (i64, i64)) {
        self.count += piece.count();
        if self.origin == Some(origin)
            && let Some(before) = self.list.last_mut()
            && before.last + 1 == piece.first
            && before.deliveries == piece.deliveries
        {
            before.last = piece.last;
            return;
        }
        self.origin = Some(origin);
        self.list.push(piece);
    }
}

impl SharePartition {
    /// Hands records of the batches just read to a member: what lies between start and end offset
    /// and is free, then what nobody has had. Nothing is written for it.
    ///
    /// Records that were delivered often are handed out few at a time and nothing behind them, the
    /// last attempt alone: if one of them kills its readers, the others survive.
    pub fn acquire(
        &mut self,
        now: Mono,
        ask: Acquire<'_>,
        batches: &[BatchSpan],
        limits: &ShareLimits,
    ) -> Vec<Acquired> {
        let (Some(head), Some(tail)) = (batches.first(), batches.last()) else {
            return Vec::new();
        };
        let room = limits.in_flight_max - self.in_flight();
        let (max, last) = if room > 0 {
            (ask.max_records.min(room), tail.last)
        } else {
            // Full: only what is in flight already and free again.
            let below = self.end - ask.fetch_offset;
            (ask.max_records.min(below), tail.last.min(self.end - 1))
        };
        if max <= 0 || tail.last < self.start {
            return Vec::new();
        }
        if head.base > ask.fetch_offset {
            // The log has nothing there any more.
            self.archive(ask.fetch_offset, head.base - 1);
            if self.runs.is_empty() && self.end < head.base {
                self.start = head.base;
                self.end = head.base;
            }
        }
        let until = now.plus_ms(limits.lock_ms);
        let mut handing = Handing {
            list: Vec::new(),
            count: 0,
            max,
            strict: ask.strict,
            lock: Lock {
                member: Arc::clone(ask.member),
                until,
            },
            origin: None,
        };
        self.hand_out(
            &mut handing,
            head.base.max(self.start),
            last,
            |handing, from, to| new_pieces(handing, ask.batch_size, batches, from, to),
            limits,
        );
        if !handing.list.is_empty() {
            self.first_expiry = Some(self.first_expiry.map_or(until, |at| at.min(until)));
        }
        handing.list
    }

    /// Takes aborted batches back out of what [`SharePartition::acquire`] has just handed to a
    /// member that reads committed records only: they are finished. Returns what is left.
    pub fn without_aborted(
        &mut self,
        member: &str,
        list: Vec<Acquired>,
        aborted: &[BatchSpan],
    ) -> Vec<Acquired> {
        let mut left = list;
        for span in aborted {
            self.split_at(span.base);
            self.split_at(span.last + 1);
            for run in self
                .runs
                .range_mut(span.base..=span.last)
                .map(|(_, run)| run)
            {
                if run.held_by(member) && run.change.is_none() {
                    run.state = RecordState::Archived;
                    run.lock = None;
                }
            }
            left = left.iter().flat_map(|piece| outside(piece, span)).collect();
        }
        self.drop_finished();
        left
    }

    fn hand_out(
        &mut self,
        handing: &mut Handing,
        from: i64,
        last: i64,
        cut: impl Fn(&Handing, i64, i64) -> Vec<(i64, i64)>,
        limits: &ShareLimits,
    ) {
        let mut at = from;
        while at <= last && handing.room() > 0 {
            let under = self.runs.range(..=at).next_back();
            match under.map(|(_, run)| (run.last, run.is_free(), run.origin)) {
                Some((end, free, origin)) if end >= at => {
                    if free && self.origin_is_suspect(origin, at, last, limits) {
                        if handing.count == 0 {
                            self.hand_out_suspects(handing, at, last.min(origin.1), limits);
                        }
                        return;
                    }
                    at = if free {
                        self.hand_out_again(handing, at, end.min(last))
                    } else {
                        end + 1
                    };
                }
                _ => {
                    let next = self.runs.range(at..).next().map(|(&first, _)| first - 1);
                    let to = next.map_or(last, |before| before.min(last));
                    for (first, to) in cut(handing, at, to) {
                        self.hand_out_new(handing, first, to);
                        at = to + 1;
                    }
                }
            }
        }
    }

    /// Hands out a part of a run that is free; returns the offset behind it.
    fn hand_out_again(&mut self, handing: &mut Handing, first: i64, last: i64) -> i64 {
        let last = if handing.strict {
            last.min(first + handing.room() - 1)
        } else {
            last
        };
        self.split_at(first);
        self.split_at(last + 1);
        if let Some(run) = self.runs.get_mut(&first) {
            run.state = RecordState::Acquired;
            run.deliveries = run.deliveries.saturating_add(1);
            run.lock = Some(handing.lock.clone());
            let deliveries = run.deliveries;
            let origin = run.origin;
            handing.push(
                Acquired {
                    first,
                    last,
                    deliveries,
                },
                origin,
            );
        }
        last + 1
    }

    fn hand_out_new(&mut self, handing: &mut Handing, first: i64, last: i64) {
        let run = Run {
            last,
            state: RecordState::Acquired,
            deliveries: 1,
            origin: (first, last),
            lock: Some(handing.lock.clone()),
            change: None,
        };
        self.runs.insert(first, run);
        self.end = self.end.max(last + 1);
        let piece = Acquired {
            first,
            last,
            deliveries: 1,
        };
        handing.push(piece, (first, last));
    }

    /// Whether something free in this batch has been delivered so often that it is treated with
    /// care.
    fn origin_is_suspect(
        &self,
        origin: (i64, i64),
        from: i64,
        last: i64,
        limits: &ShareLimits,
    ) -> bool {
        let suspect = suspect_deliveries(limits);
        self.free_parts(origin, from, last)
            .any(|(_, _, deliveries)| deliveries >= suspect)
    }

    /// First, last and deliveries of the free runs of a batch, between two offsets.
    fn free_parts(
        &self,
        origin: (i64, i64),
        from: i64,
        last: i64,
    ) -> impl Iterator<Item = (i64, i64, u16)> + '_ {
        self.runs
            .range(origin.0..=origin.1)
            .filter(move |(first, run)| run.is_free() && run.last >= from && **first <= last)
            .map(move |(first, run)| ((*first).max(from), run.last.min(last), run.deliveries))
    }

    fn hand_out_suspects(
        &mut self,
        handing: &mut Handing,
        from: i64,
        last: i64,
        limits: &ShareLimits,
    ) {
        let Some((_, run)) = self.runs.range(..=from).next_back() else {
            return;
        };
        let origin = run.origin;
        let suspect = suspect_deliveries(limits);
        let parts: Vec<_> = self.free_parts(origin, from, last).collect();
        let mut quota: Option<i64> = None;
        for (first, end, deliveries) in parts {
            let last_attempt = limits.deliveries_max > 2 && deliveries + 1 == limits.deliveries_max;
            if last_attempt && handing.count > 0 {
                return;
            }
            if deliveries >= suspect && quota.is_none() {
                let shift = u32::from(deliveries - suspect + 1).min(62);
                quota = Some(((origin.1 - origin.0 + 1) >> shift).max(1));
            }
            let mut end = end;
            if last_attempt {
                end = first;
            } else if let Some(quota) = quota {
                end = end.min(first + (quota - handing.count) - 1);
            }
            if end >= first {
                self.hand_out_again(handing, first, end);
            }
            let full = quota.is_some_and(|quota| handing.count >= quota);
            if last_attempt || full || (handing.strict && handing.room() <= 0) {
                return;
            }
        }
    }
}

/// The parts of a piece before and behind a span.
fn outside(piece: &Acquired, span: &BatchSpan) -> impl Iterator<Item = Acquired> {
    let before = Acquired {
        last: piece.last.min(span.base - 1),
        ..*piece
    };
    let behind = Acquired {
        first: piece.first.max(span.last + 1),
        ..*piece
    };
    [before, behind]
        .into_iter()
        .filter(|part| part.first <= part.last)
}

/// Half of the allowed deliveries, rounded up, and at least two.
fn suspect_deliveries(limits: &ShareLimits) -> u16 {
    limits
        .deliveries_max
        .div_ceil(2)
        .max(SUSPECT_DELIVERIES_MIN)
}

/// Cuts offsets that nobody has had into the pieces that are listed and locked: as many as there is
/// room for, then to the end of the batch (or not, when the limit is strict), in pieces that begin
/// with a batch.
fn new_pieces(
    handing: &Handing,
    batch_size: i64,
    batches: &[BatchSpan],
    from: i64,
    to: i64,
) -> Vec<(i64, i64)> {
    let mut last = to;
    if handing.room() < to - from + 1 {
        let wanted = from + handing.room() - 1;
        last = if handing.strict {
            wanted
        } else {
            batches
                .iter()
                .find(|batch| batch.base <= wanted && wanted <= batch.last)
                .map_or(wanted, |batch| batch.last.min(to))
        };
    }
    let mut pieces = Vec::new();
    let mut first = from;
    if !handing.strict && last - from + 1 > batch_size {
        for batch in batches {
            if batch.base > last {
                break;
            }
            if batch.base - first >= batch_size {
                pieces.push((first, batch.base - 1));
                first = batch.base;
            }
        }
    }
    pieces.push((first, last));
    pieces
}
