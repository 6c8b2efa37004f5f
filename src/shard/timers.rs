//! Deadlines of one shard: an ordered set, as the number armed at a time is small (group timers,
//! housekeeping), and a queue for fetches that wait: nearly all wait for the same time, so that
//! their deadlines come in the order in which they are armed, and most are taken back before they
//! fire.

use flumen_base::{Mono, TopicPartition};
use std::collections::{BTreeSet, VecDeque};

/// Waits in the queue; more stand in the ordered set.
const QUEUE_MAX: usize = 1 << 16;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    /// `max.wait.ms` of a parked fetch, by its gather number.
    Fetch(u64),
    /// The next deadline of the group coordinator.
    Groups,
    /// A periodic task.
    Housekeeping(Task),
    /// Retired files whose delay is over.
    Unlink(u64),
    /// A rolled segment of this partition is to be sealed.
    Seal(TopicPartition),
    /// A synced write of this partition has waited long enough for others.
    Gather(TopicPartition),
    /// The cleaner looks for something to do, or goes on.
    Cleaner,
    /// A failed load to be tried again.
    Reload(u64),
    /// A background job that failed is to be done again.
    Again(u64),
    /// The start has taken long enough.
    ReadyBy,
    /// Operations have waited long enough for this partition to load.
    Patience(TopicPartition),
    /// The next slice of a partition's move to another log directory.
    Move(TopicPartition),
    /// The next look at the free space.
    Space,
    /// Something that is done again after a pause.
    Retry(u64),
    /// The next deadline of the transaction coordinator.
    Txns,
    /// A failed read of a coordinator's topic to be tried again.
    Replay(u64),
    /// Stored share states that nobody needs are to be looked for.
    PruneShareStates,
    /// Locks of a share partition run out, by its number.
    ShareLocks(u64),
    /// The time of a share fetch is over.
    ShareFetch(u64),
    /// A produce request to be verified again, by its number.
    Verify(u64),
    /// A shutdown has waited long enough for what is in flight.
    Shutdown,
}

/// The periodic tasks of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Retention, a slice of partitions at a time.
    Retention,
    /// Recovery points and log starts to shard 0, or from there to the disk.
    Checkpoint,
    /// Producers that were silent for long.
    Producers,
    /// `flush.ms`.
    Flush,
    /// Idle connections, and memory of partitions that have become silent.
    Connections,
}

/// All armed deadlines.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: BTreeSet<(Mono, TimerKey)>,
    /// Fetches that wait, by ascending deadline; 0 where one was taken back. The first is none of
    /// those.
    waits: VecDeque<(Mono, u64)>,
    /// How many have left the front of `waits`.
    gone: u64,
}

/// Where the deadline of a waiting fetch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitTimer {
    /// In the queue, under this number.
    Queue(u64),
    /// Among the others.
    Set,
}

impl Timers {
    /// Arms `key` at `at`. The caller remembers `at` for [`Timers::disarm`].
    pub(crate) fn arm(&mut self, at: Mono, key: TimerKey) {
        self.set.insert((at, key));
    }

    /// Takes a deadline back.
    pub(crate) fn disarm(&mut self, at: Mono, key: TimerKey) {
        self.set.remove(&(at, key));
    }

    /// Moves the one deadline of `key` from where the caller remembers it to `wanted`.
    #[inline]
    pub(crate) fn rearm(&mut self, armed: &mut Option<Mono>, wanted: Option<Mono>, key: TimerKey) {
        if wanted == *armed {
            return;
        }
        if let Some(at) = *armed {
            self.disarm(at, key);
        }
        if let Some(at) = wanted {
            self.arm(at, key);
        }
        *armed = wanted;
    }

    /// Arms [`TimerKey::Fetch`] at `at`. The caller remembers all of it for
    /// [`Timers::disarm_wait`].
    pub(crate) fn arm_wait(&mut self, at: Mono, fetch: u64) -> WaitTimer {
        let is_last = self.waits.back().is_none_or(|(last, _)| *last <= at);
        if is_last && self.waits.len() < QUEUE_MAX {
            self.waits.push_back((at, fetch));
            return WaitTimer::Queue(self.gone + self.waits.len() as u64 - 1);
        }
        self.arm(at, TimerKey::Fetch(fetch));
        WaitTimer::Set
    }

    /// Takes the deadline of a waiting fetch back.
    pub(crate) fn disarm_wait(&mut self, at: Mono, fetch: u64, timer: WaitTimer) {
        let WaitTimer::Queue(number) = timer else {
            return self.disarm(at, TimerKey::Fetch(fetch));
        };
        let index = number.checked_sub(self.gone).map(|n| n as usize);
        if let Some(wait) = index.and_then(|n| self.waits.get_mut(n))
            && wait.1 == fetch
        {
            wait.1 = 0;
            self.drop_taken_back();
        }
    }

    fn drop_taken_back(&mut self) {
        while let Some((_, 0)) = self.waits.front() {
            self.waits.pop_front();
            self.gone += 1;
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Mono> {
        let first = self.set.first().map(|(at, _)| *at);
        let waits = self.waits.front().map(|(at, _)| *at);
        first.into_iter().chain(waits).min()
    }

    /// The earliest deadline that has passed, removed.
    pub(crate) fn pop_due(&mut self, now: Mono) -> Option<TimerKey> {
        let first = self.set.first().map(|(at, _)| *at);
        match self.waits.front() {
            Some(&(at, fetch)) if at <= now && first.is_none_or(|first| at < first) => {
                self.waits.pop_front();
                self.gone += 1;
                self.drop_taken_back();
                return Some(TimerKey::Fetch(fetch));
            }
            _ => {}
        }
        let &(at, key) = self.set.first()?;
        (at <= now).then(|| {
            self.set.pop_first();
            key
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(timers: &mut Timers, now: u64) -> Vec<TimerKey> {
        std::iter::from_fn(|| timers.pop_due(Mono(now))).collect()
    }

    #[test]
    fn deadlines_come_in_order_whatever_holds_them() {
        use TimerKey::{Fetch, Groups, Shutdown};
        let mut timers = Timers::default();
        timers.arm(Mono(20), Groups);
        let one = timers.arm_wait(Mono(10), 1);
        let two = timers.arm_wait(Mono(30), 2);
        assert_eq!(timers.arm_wait(Mono(25), 3), WaitTimer::Set);
        let four = timers.arm_wait(Mono(40), 4);
        let five = timers.arm_wait(Mono(40), 5);
        timers.arm(Mono(30), Shutdown);
        assert_eq!(timers.next(), Some(Mono(10)));
        timers.disarm_wait(Mono(10), 1, one);
        timers.disarm_wait(Mono(10), 1, one); // nothing is left of it
        timers.disarm_wait(Mono(40), 4, four);
        assert_eq!(timers.next(), Some(Mono(20)));
        assert_eq!(due(&mut timers, 30), [Groups, Fetch(3), Shutdown, Fetch(2)]);
        assert_eq!(timers.next(), Some(Mono(40)));
        let six = timers.arm_wait(Mono(50), 6);
        timers.disarm_wait(Mono(30), 2, two);
        timers.disarm_wait(Mono(40), 5, five);
        assert_eq!(timers.next(), Some(Mono(50)));
        assert!(due(&mut timers, 49).is_empty());
        timers.disarm_wait(Mono(50), 6, six);
        assert_eq!((timers.next(), timers.waits.len()), (None, 0));
    }
}
