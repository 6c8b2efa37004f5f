//! Deadlines of one shard: an ordered set, as the number armed at a time is small (long polls,
//! group timers, housekeeping) and most are cancelled before they fire.

use flumen_base::{Mono, TopicPartition};
use std::collections::BTreeSet;

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
    /// A failed load to be tried again.
    Reload(u64),
    /// A failed read of groups to be tried again.
    GroupLoad(u64),
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

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.set.first().map(|(at, _)| *at)
    }

    /// The earliest deadline that has passed, removed.
    pub(crate) fn pop_due(&mut self, now: Mono) -> Option<TimerKey> {
        let &(at, key) = self.set.first()?;
        (at <= now).then(|| {
            self.set.pop_first();
            key
        })
    }
}
