//! What members say about records that they hold.

use super::partition::{ShareLimits, SharePartition};
use super::{Persist, RecordState, StateBatch};
use flumen_base::{ErrorCode, Mono};

/// What a member says about a record, with the number of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum AckType {
    /// There was no record.
    Gap = 0,
    /// Processed.
    Accept = 1,
    /// To be delivered again.
    Release = 2,
    /// Not to be delivered again.
    Reject = 3,
    /// Still at it: the lock begins anew (KIP-1222).
    Renew = 4,
}

impl AckType {
    /// The type of a number; `None` for one that Kafka does not know.
    pub fn from_wire(id: i8) -> Option<Self> {
        [
            Self::Gap,
            Self::Accept,
            Self::Release,
            Self::Reject,
            Self::Renew,
        ]
        .into_iter()
        .find(|kind| *kind as i8 == id)
    }
}

/// One batch of acknowledgements of a request.
#[derive(Clone, Copy, Debug)]
pub struct AckBatch<'a> {
    /// First offset.
    pub first: i64,
    /// Last offset, inclusive.
    pub last: i64,
    /// One for all, or one for each offset.
    pub types: &'a [i8],
}

/// Offsets that one thing is said about.
struct Said {
    first: i64,
    last: i64,
    kind: AckType,
}

impl SharePartition {
    /// Takes acknowledgements of a member, all or none. What they change is written first; renewed
    /// locks hold at once. `Ok(None)`: there is nothing to write.
    ///
    /// Offsets below the start are passed over: they were finished by somebody else. Errors:
    /// INVALID_REQUEST for types that are unknown or of the wrong number and for offsets that were
    /// never handed out; INVALID_RECORD_STATE for records that the member does not hold (any more),
    /// and for a renewal where `renew` is not allowed.
    pub fn acknowledge(
        &mut self,
        now: Mono,
        member: &str,
        batches: &[AckBatch<'_>],
        limits: &ShareLimits,
        renew: bool,
    ) -> Result<Option<Persist>, ErrorCode> {
        let mut said = Vec::new();
        for batch in batches {
            group(batch, &mut said)?;
        }
        said.retain(|part| part.last >= self.start);
        // The first and last offsets name what the requests are about: they have to be known.
        for part in &mut said {
            part.first = part.first.max(self.start);
            self.check(part, member, renew)?;
        }
        said.sort_by_key(|part| part.first);
        if said.windows(2).any(|two| two[0].last >= two[1].first) {
            // The second word about a record finds it in change.
            return Err(ErrorCode::InvalidRecordState);
        }
        Ok(self.apply(now, &said, limits))
    }

    fn check(&self, part: &Said, member: &str, renew: bool) -> Result<(), ErrorCode> {
        if part.last >= self.end {
            return Err(ErrorCode::InvalidRequest);
        }
        if part.kind == AckType::Renew && !renew {
            return Err(ErrorCode::InvalidRecordState);
        }
        let under = self.runs.range(..=part.first).next_back();
        let from = match under {
            Some((&first, run)) if run.last >= part.first => first,
            _ => part.first,
        };
        let mut known = false;
        for run in self.runs.range(from..=part.last).map(|(_, run)| run) {
            known = true;
            if !run.held_by(member) || run.change.is_some() {
                return Err(ErrorCode::InvalidRecordState);
            }
        }
        if known {
            Ok(())
        } else {
            Err(ErrorCode::InvalidRecordState)
        }
    }

    fn apply(&mut self, now: Mono, said: &[Said], limits: &ShareLimits) -> Option<Persist> {
        let ticket = self.ticket();
        let mut changes = Vec::new();
        for part in said {
            self.split_at(part.first);
            self.split_at(part.last + 1);
            for (&first, run) in self.runs.range_mut(part.first..=part.last) {
                let state = match part.kind {
                    AckType::Renew => {
                        if let Some(lock) = &mut run.lock {
                            lock.until = now.plus_ms(limits.lock_ms);
                        }
                        continue;
                    }
                    AckType::Accept => RecordState::Acknowledged,
                    AckType::Release => run.state_when_released(limits),
                    AckType::Gap | AckType::Reject => RecordState::Archived,
                };
                run.change = Some((ticket, state));
                let batch = run.as_batch(first);
                changes.push(StateBatch { state, ..batch });
            }
        }
        (!changes.is_empty()).then(|| self.persist(changes, Some(ticket)))
    }
}

/// Splits a batch into parts about which one thing is said.
fn group(batch: &AckBatch<'_>, said: &mut Vec<Said>) -> Result<(), ErrorCode> {
    let count = batch
        .last
        .checked_sub(batch.first)
        .filter(|span| *span >= 0)
        .and_then(|span| span.checked_add(1))
        .ok_or(ErrorCode::InvalidRequest)?;
    let one_each = i64::try_from(batch.types.len()).is_ok_and(|types| types == count);
    if batch.types.is_empty() || (batch.types.len() > 1 && !one_each) {
        return Err(ErrorCode::InvalidRequest);
    }
    let kind = |id: &i8| AckType::from_wire(*id).ok_or(ErrorCode::InvalidRequest);
    if let [only] = batch.types {
        said.push(Said {
            first: batch.first,
            last: batch.last,
            kind: kind(only)?,
        });
        return Ok(());
    }
    let mut first = batch.first;
    for same in batch.types.chunk_by(|a, b| a == b) {
        let last = first + same.len() as i64 - 1;
        let kind = same.first().map_or(Ok(AckType::Gap), kind)?;
        said.push(Said { first, last, kind });
        first = last + 1;
    }
    Ok(())
}
