//! Who keeps its latest batches in memory: partitions that were appended to and read near their end
//! lately share one budget evenly, so that their readers are served without the disk. One that was
//! silent between two sweeps, or that nobody read, gives its share back: what nobody reads is let
//! go of as soon as it is written, and the memory is used again while the caches have it.

use crate::Shard;
use flumen_base::TopicPartition;
use flumen_base::limits::{TAIL_BYTES_PER_PARTITION_MAX, TAIL_CACHE_BYTES_MAX};

/// What a partition's share depends on.
#[derive(Debug, Default)]
pub(crate) struct TailUse {
    /// It stands among those that the next sweep looks at.
    listed: bool,
    /// An append came since the last sweep.
    appended: bool,
    has_share: bool,
}

impl TailUse {
    /// An append has come. Whether [`Shard::warm_tail`] has something to do: `end_read`: somebody
    /// has read near the log's end.
    pub(crate) fn note_append(&mut self, end_read: bool) -> bool {
        self.appended = true;
        !self.listed || (end_read && !self.has_share)
    }
}

/// The partitions that were appended to lately.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    listed: Vec<TopicPartition>,
    /// How many of them have a share, and how large it is.
    sharing: usize,
    share: usize,
}

impl Shard {
    /// An append has come to a partition that is not listed, or that has readers and no share.
    pub(crate) fn warm_tail(&mut self, tp: TopicPartition) {
        let Some(p) = self.partitions.map.get_mut(&tp) else {
            return;
        };
        // It is there already when its log was loaded again.
        if !std::mem::replace(&mut p.tail.listed, true) && !self.tails.listed.contains(&tp) {
            self.tails.listed.push(tp);
        }
        let end_read = p.log().is_some_and(flumen_log::Log::is_end_read);
        if !end_read || std::mem::replace(&mut p.tail.has_share, true) {
            return;
        }
        self.tails.sharing += 1;
        let share = share_of(self.tails.sharing);
        if share == self.tails.share {
            if let Some(log) = p.log_mut() {
                log.set_tail_budget(share);
            }
        } else {
            self.set_shares(share);
        }
    }

    /// Takes the share from those that were silent or not read since the last sweep.
    pub(crate) fn cool_tails(&mut self) {
        let mut listed = std::mem::take(&mut self.tails.listed);
        let mut sharing = 0;
        listed.retain(|tp| {
            let Some(p) = self.partitions.map.get_mut(tp) else {
                return false;
            };
            p.tail.listed &= std::mem::take(&mut p.tail.appended);
            let end_read = p.log_mut().is_some_and(flumen_log::Log::take_end_read);
            p.tail.has_share &= p.tail.listed && end_read;
            let (listed, has_share) = (p.tail.listed, p.tail.has_share);
            if let (false, Some(log)) = (has_share, p.log_mut()) {
                log.set_tail_budget(0);
            }
            sharing += usize::from(has_share);
            listed
        });
        (self.tails.listed, self.tails.sharing) = (listed, sharing);
        let share = share_of(sharing);
        if share != self.tails.share {
            self.set_shares(share);
        }
    }

    fn set_shares(&mut self, share: usize) {
        self.tails.share = share;
        for tp in &self.tails.listed {
            let p = self.partitions.map.get_mut(tp);
            if let Some(log) = p
                .filter(|p| p.tail.has_share)
                .and_then(crate::partition::Partition::log_mut)
            {
                log.set_tail_budget(share);
            }
        }
    }
}

/// Changes only when the number doubles or halves, so that a new one seldom touches the others.
fn share_of(sharing: usize) -> usize {
    let share = TAIL_CACHE_BYTES_MAX / sharing.max(1).next_power_of_two();
    share.min(TAIL_BYTES_PER_PARTITION_MAX)
}
