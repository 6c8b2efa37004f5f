//! Who keeps its latest batches in memory: partitions that were appended to lately share one budget
//! evenly, so that their readers are served without the disk. A partition that was silent between
//! two sweeps gives its share back.

use crate::Shard;
use flumen_base::TopicPartition;
use flumen_base::limits::{TAIL_BYTES_PER_PARTITION_MAX, TAIL_CACHE_BYTES_MAX};

/// The partitions with a share.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    warm: Vec<TopicPartition>,
    share: usize,
}

impl Shard {
    /// An append has come: the partition has a share from now on.
    pub(crate) fn warm_tail(&mut self, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        p.appended = true;
        if std::mem::replace(&mut p.warm, true) {
            return;
        }
        // It is there already when its log was loaded again.
        if !self.tails.warm.contains(&tp) {
            self.tails.warm.push(tp);
        }
        let share = share_of(self.tails.warm.len());
        if share == self.tails.share {
            if let Some(log) = p.log_mut() {
                log.set_tail_budget(share);
            }
        } else {
            self.set_shares(share);
        }
    }

    /// Takes the share from those that were silent since the last sweep.
    pub(crate) fn cool_tails(&mut self) {
        let mut warm = std::mem::take(&mut self.tails.warm);
        warm.retain(|tp| {
            let Some(p) = self.partitions.map.get_mut(tp) else {
                return false;
            };
            p.warm &= std::mem::take(&mut p.appended);
            let keep = p.warm;
            if let (false, Some(log)) = (keep, p.log_mut()) {
                log.set_tail_budget(0);
            }
            keep
        });
        self.tails.warm = warm;
        let share = share_of(self.tails.warm.len());
        if share != self.tails.share {
            self.set_shares(share);
        }
    }

    fn set_shares(&mut self, share: usize) {
        self.tails.share = share;
        for tp in &self.tails.warm {
            let p = self.partitions.map.get_mut(tp);
            if let Some(log) = p.and_then(crate::partition::Partition::log_mut) {
                log.set_tail_budget(share);
            }
        }
    }
}

/// Changes only when the number doubles or halves, so that a new warm partition seldom touches the
/// others.
fn share_of(warm: usize) -> usize {
    let share = TAIL_CACHE_BYTES_MAX / warm.max(1).next_power_of_two();
    share.min(TAIL_BYTES_PER_PARTITION_MAX)
}
