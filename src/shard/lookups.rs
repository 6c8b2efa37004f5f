//! ListOffsets, and its searches for an offset by time: jobs that find files by their names. Where
//! compaction gave a name to another file meanwhile they are done again.

use crate::Shard;
use crate::jobs::Job;
use crate::ops::{ListOffsetOp, ListedOffset, OpFrom, OpResult};
use crate::partition::Partition;
use crate::partitions::PendingJob;
use crate::turn::Turn;
use flumen_base::{ErrorCode, Offset, TopicPartition};
use flumen_log::CheckedTimes;
use flumen_log::lookup::{Target, TimestampOffset};
use std::io;

/// A search, and whom to answer.
#[derive(Debug)]
pub(crate) struct PendingLookup {
    pub(crate) tp: TopicPartition,
    pub(crate) from: OpFrom,
    pub(crate) target: Target,
    /// Nothing at or above it is found.
    pub(crate) bound: Offset,
    /// Whether the answer has room for a leader epoch.
    pub(crate) epochs: bool,
    /// The log's swaps when it began.
    pub(crate) swaps: u64,
}

impl Shard {
    /// Answers ListOffsets of a partition, or starts a search.
    pub(crate) fn list_offset(
        &mut self,
        turn: &mut Turn<'_>,
        from: OpFrom,
        tp: TopicPartition,
        op: &ListOffsetOp,
    ) {
        let Some(p) = self.partitions.map.get(&tp) else {
            return;
        };
        let bound = Offset(p.read_bound(op.committed_only));
        let target = match op.timestamp {
            -3 => Some(Target::MaxTimestamp),
            t if t >= 0 => Some(Target::Timestamp(t)),
            _ => None,
        };
        let listed = match (p.check_epoch(op.current_leader_epoch), target) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(target)) => {
                let lookup = PendingLookup {
                    tp,
                    from,
                    target,
                    bound,
                    epochs: op.epochs,
                    swaps: 0,
                };
                return self.start_lookup(turn, Box::new(lookup));
            }
            (Ok(()), None) => special_offset(p, op, bound),
        };
        self.outbox.result(from, OpResult::ListOffset(listed));
    }

    /// Starts a search.
    pub(crate) fn start_lookup(&mut self, turn: &mut Turn<'_>, mut lookup: Box<PendingLookup>) {
        let p = self.partitions.map.get(&lookup.tp);
        let Some(log) = p.and_then(Partition::log) else {
            let refused = OpResult::ListOffset(Err(ErrorCode::NotLeaderOrFollower));
            return self.outbox.result(lookup.from, refused);
        };
        lookup.swaps = log.swaps();
        let job = log.lookup(lookup.target, lookup.bound);
        self.start_job(turn, PendingJob::Lookup(lookup), Job::Lookup(job));
    }

    /// A search has ended.
    pub(crate) fn looked_up(
        &mut self,
        turn: &mut Turn<'_>,
        lookup: Box<PendingLookup>,
        found: io::Result<(Option<TimestampOffset>, CheckedTimes)>,
    ) {
        match self.partitions.log_mut(lookup.tp) {
            Some(log) if log.is_swapping() => self.cleaner.lookups.push(*lookup),
            Some(log) if log.swaps() != lookup.swaps => self.start_lookup(turn, lookup),
            log => {
                let found = found.map(|(found, checked)| {
                    if let Some(log) = log {
                        log.times_checked(&checked);
                    }
                    found
                });
                if let Err(error) = &found {
                    let n = self.dir_of(lookup.tp);
                    self.job_failed(turn, n, error);
                }
                let listed = listed(found, lookup.epochs);
                self.outbox
                    .result(lookup.from, OpResult::ListOffset(listed));
            }
        }
    }

    /// No files are changing places any more.
    pub(crate) fn lookups_again(&mut self, turn: &mut Turn<'_>) {
        for lookup in std::mem::take(&mut self.cleaner.lookups) {
            self.start_lookup(turn, Box::new(lookup));
        }
    }
}

/// The answer to a search by time; nothing found is no error.
fn listed(
    found: io::Result<Option<TimestampOffset>>,
    epochs: bool,
) -> Result<ListedOffset, ErrorCode> {
    match found {
        Ok(found) => Ok(ListedOffset {
            timestamp: found.map_or(-1, |f| f.timestamp),
            offset: found.map_or(-1, |f| f.offset.0),
            leader_epoch: found.filter(|_| epochs).map_or(-1, |f| f.leader_epoch),
        }),
        Err(error) => {
            tracing::warn!(%error, "a search by time failed");
            Err(ErrorCode::KafkaStorageError)
        }
    }
}

/// ListOffsets' timestamps that need no search: latest, earliest, earliest local, latest tiered
/// (KIP-405), earliest pending upload (KIP-1023). Without tiered storage the last two are never
/// known.
fn special_offset(
    p: &Partition,
    op: &ListOffsetOp,
    bound: Offset,
) -> Result<ListedOffset, ErrorCode> {
    let log = p.log().ok_or(ErrorCode::KafkaStorageError)?;
    let (offset, leader_epoch) = match op.timestamp {
        -1 => (bound.0, p.leader_epoch),
        -2 | -4 => {
            let start = log.log_start_offset();
            let epoch = log.epoch_at(start);
            (start.0, if epoch < 0 { p.leader_epoch } else { epoch })
        }
        -5 | -6 => (-1, -1),
        _ => return Err(ErrorCode::UnsupportedVersion),
    };
    Ok(ListedOffset {
        timestamp: -1,
        offset,
        leader_epoch: if op.epochs { leader_epoch } else { -1 },
    })
}
