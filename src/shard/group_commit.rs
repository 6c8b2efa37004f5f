//! When a partition's next synced write begins, so that those who share its sync are many.
//!
//! One write is in flight for a partition; what arrives meanwhile is the next. Producers that send
//! as they are answered fall into two halves by that: one waits for the disk while the other is on
//! its way, each for more than one sync's time. So when a synced write has ended, the next waits a
//! moment for those whose answers have just left, and goes with everybody:
//!
//! ```text
//! at once      |== 2 ==|=== 3 ===|== 2 ==|=== 3 ===|
//! gathered     |==== 5 ====|.|==== 5 ====|.|==== 5 ====|
//! ```
//! Where they do not come back in time, as each sends at its own pace, the next writes begin at
//! once, the more of them the more often that was so.

use crate::Shard;
use flumen_base::{Mono, TopicPartition};
use std::time::Duration;

/// The longest wait, as a part of the time that synced writes take.
const WAIT_PART: u64 = 2;
/// The longest wait in any case, in nanoseconds: what a disk with a volatile cache takes.
const WAIT_NS_MAX: u64 = 1_000_000;
/// Weight of what was before in the mean time of a write.
const MEAN_WEIGHT: u64 = 7;
/// After so many waits in vain in a row, or more, `1 << 10` writes begin at once.
const MISSES_MAX: u32 = 10;

/// What one partition knows of those who wait for its synced writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GroupCommit {
    /// When the synced write in flight began.
    began: Option<Mono>,
    /// How long they take, in nanoseconds.
    mean_ns: u64,
    /// Appends that are to wait together for the next write, and until when it waits for them.
    gathering: Option<(usize, Mono)>,
    /// Waits in vain in a row.
    misses: u32,
    /// Writes still to begin at once.
    skip: u32,
    /// The deadline that is armed for it.
    pub(crate) armed: Option<Mono>,
}

impl GroupCommit {
    /// A write begins, `synced` before it is answered or not.
    pub(crate) fn begins(&mut self, now: Mono, synced: bool) {
        self.began = synced.then_some(now);
        self.gathering = None;
    }

    /// The write has ended while `waiting` appends waited, those in it included.
    pub(crate) fn ended(&mut self, now: Mono, waiting: usize) {
        let Some(began) = self.began.take() else {
            return;
        };
        let took = now.nanos_since(began);
        self.mean_ns = match self.mean_ns {
            0 => took,
            mean => (mean * MEAN_WEIGHT + took) / (MEAN_WEIGHT + 1),
        };
        if self.skip > 0 {
            self.skip -= 1;
        } else if waiting > 1 {
            let wait = (self.mean_ns / WAIT_PART).min(WAIT_NS_MAX);
            self.gathering = Some((waiting, now + Duration::from_nanos(wait)));
        }
    }

    /// Until when the next write is held back, with `waiting` appends for it; `None` to begin.
    pub(crate) fn holds(&mut self, now: Mono, waiting: usize) -> Option<Mono> {
        let (all, until) = self.gathering?;
        if waiting < all && now < until {
            return Some(until);
        }
        self.gathering = None;
        if waiting >= all {
            self.misses = 0;
        } else {
            self.misses = (self.misses + 1).min(MISSES_MAX);
            self.skip = 1 << self.misses;
        }
        None
    }
}

impl Shard {
    /// Those who were to share a write's sync have had their time.
    pub(crate) fn gather_due(&mut self, tp: TopicPartition) {
        if let Some(p) = self.partitions.map.get_mut(&tp) {
            p.group_commit.armed = None;
            p.mark_dirty(&mut self.partitions.dirty);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_base::Prng;

    const TAKES_NS: u64 = 800_000;

    fn at(ns: u64) -> Mono {
        Mono(ns)
    }

    /// A write of this many ended at 800 us.
    fn after(waiting: usize) -> GroupCommit {
        let mut g = GroupCommit::default();
        g.begins(at(0), true);
        g.ended(at(TAKES_NS), waiting);
        g
    }

    #[test]
    fn waits_for_as_many_as_there_were_and_half_a_write() {
        let mut g = after(5);
        assert_eq!(g.holds(at(900_000), 4), Some(at(1_200_000)));
        assert_eq!(g.holds(at(950_000), 5), None);
        assert_eq!(g.holds(at(960_000), 1), None, "the write has begun");
        let mut g = after(5);
        assert_eq!(g.holds(at(1_199_999), 4), Some(at(1_200_000)));
        assert_eq!(g.holds(at(1_200_000), 4), None);
        let mut g = GroupCommit::default();
        g.begins(at(0), true);
        g.ended(at(40_000_000), 5);
        assert_eq!(g.holds(at(40_000_000), 1), Some(at(41_000_000)));
    }

    #[test]
    fn nobody_waits_where_nothing_is_synced_or_one_is_alone() {
        let mut g = after(1);
        assert_eq!(g.holds(at(TAKES_NS), 0), None);
        let mut g = GroupCommit::default();
        g.begins(at(0), false);
        g.ended(at(TAKES_NS), 5);
        assert_eq!(g.holds(at(TAKES_NS), 4), None);
    }

    #[test]
    fn waits_in_vain_become_rare_and_one_that_pays_brings_them_back() {
        let mut g = GroupCommit::default();
        let (mut now, mut held) = (0, 0);
        let mut write = |g: &mut GroupCommit, all_come: bool| {
            g.begins(at(now), true);
            now += TAKES_NS;
            g.ended(at(now), 5);
            let holds = g.holds(at(now), 3).is_some();
            now += TAKES_NS;
            assert_eq!(g.holds(at(now), if all_come { 5 } else { 3 }), None);
            holds
        };
        for _ in 0..10_000 {
            held += u32::from(write(&mut g, false));
        }
        assert!((5..=20).contains(&held), "held {held} of 10000 writes");
        while !write(&mut g, true) {}
        assert!((0..100).all(|_| write(&mut g, true)));
    }

    /// Five producers that send `pause` after they were answered; appends per write.
    fn closed_loop(gathers: bool, pause: impl Fn(&mut Prng) -> u64) -> f64 {
        let mut prng = Prng::new(7);
        let mut g = GroupCommit::default();
        let mut comes: Vec<u64> = (0..5).map(|n| n * 30_000).collect();
        let (mut now, mut waiting, mut writing) = (0, 0, 0);
        let mut ends = None;
        let (mut writes, mut appends) = (0, 0);
        while writes < 1000 {
            let came = comes.iter().filter(|t| **t <= now).count();
            comes.retain(|t| *t > now);
            waiting += came;
            if ends == Some(now) {
                ends = None;
                g.ended(at(now), waiting + writing);
                for _ in 0..writing {
                    comes.push(now + pause(&mut prng));
                }
                (writes, appends) = (writes + 1, appends + writing);
            }
            let until = g.holds(at(now), waiting).filter(|_| gathers);
            if ends.is_none() && waiting > 0 && until.is_none() {
                g.begins(at(now), true);
                (writing, waiting) = (waiting, 0);
                ends = Some(now + TAKES_NS);
            }
            let until = until.filter(|_| waiting > 0).map(|t| t.0);
            let next = comes.iter().copied().chain(ends).chain(until).min();
            now = next.unwrap();
        }
        appends as f64 / f64::from(writes)
    }

    #[test]
    fn producers_that_send_when_answered_share_one_sync() {
        let soon = |prng: &mut Prng| 20_000 + prng.below(100_000);
        let (at_once, gathered) = (closed_loop(false, soon), closed_loop(true, soon));
        assert!((2.0..3.0).contains(&at_once), "{at_once} at once");
        assert!(gathered > 4.9, "{gathered} gathered");
        // Who takes longer is not waited for.
        let late = |prng: &mut Prng| 500_000 + prng.below(400_000);
        let (at_once, gathered) = (closed_loop(false, late), closed_loop(true, late));
        assert!((gathered - at_once).abs() < 0.2, "{at_once}, {gathered}");
    }
}
