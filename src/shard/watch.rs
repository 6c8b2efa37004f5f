//! Who waits for data of this shard's partitions: fetches that wait (long poll), and fetch sessions
//! that want to know which of their partitions have something new.
//!
//! ```text
//! partition: first <-> .. <-> last     its watches, oldest first: an advance walks these only
//! OpFrom -> watch                      so that one is taken back without looking for it
//! ```
//! A watch lives in a slot that is used again, and stands in the list of its partition: to wait,
//! to be woken and to stop waiting allocate nothing and touch nobody else's watch.

use crate::ops::{OpFrom, WatchOp};
use flumen_base::{IdMap, TopicPartition};

/// No watch.
const NONE: u32 = u32::MAX;

/// The watches of one partition.
#[derive(Debug)]
pub(crate) struct WatchList {
    first: u32,
    last: u32,
}

impl Default for WatchList {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
        }
    }
}

/// Who waits, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    pub(crate) from: OpFrom,
    pub(crate) op: WatchOp,
    /// Active segment and its size when it began.
    pub(crate) at: (i64, u64),
}

#[derive(Debug)]
struct Slot {
    tp: TopicPartition,
    watch: Watch,
    before: u32,
    after: u32,
}

/// All watches of a shard's partitions.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by: IdMap<OpFrom, u32>,
    /// The one whose place another of its origin has taken, until it is ended: its partition and
    /// its slot.
    replaced: Option<(TopicPartition, u32)>,
}

impl Watches {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by.len()
    }

    /// Adds a watch to the list of `tp`. It takes the place of one of the same origin, which
    /// [`Watches::take_replaced`] names then: a late wake by a watch that was taken back makes who
    /// watches begin once more.
    pub(crate) fn add(&mut self, list: &mut WatchList, tp: TopicPartition, watch: Watch) {
        let before = list.last;
        let slot = Slot {
            tp,
            watch,
            before,
            after: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.slots.get_mut(at as usize) {
                    *place = slot;
                }
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.after = at,
            None => list.first = at,
        }
        list.last = at;
        if let Some(other) = self.by.insert(watch.from, at) {
            let slot = self.slots.get(other as usize);
            self.replaced = slot.map(|slot| (slot.tp, other));
        }
    }

    /// The watch that has to be ended by [`Watches::end_replaced`] after one was added, with its
    /// partition.
    pub(crate) fn take_replaced(&mut self) -> Option<(TopicPartition, u32)> {
        self.replaced.take()
    }

    /// Ends a watch whose place another one has taken; the list is that of its partition.
    pub(crate) fn end_replaced(&mut self, list: &mut WatchList, at: u32) {
        self.unlink(list, at);
    }

    /// The partition that `from` watches.
    pub(crate) fn partition_of(&self, from: &OpFrom) -> Option<TopicPartition> {
        let slot = self.slots.get(*self.by.get(from)? as usize)?;
        Some(slot.tp)
    }

    /// Ends a watch of the partition whose list this is, if there is one.
    pub(crate) fn remove(&mut self, list: &mut WatchList, from: &OpFrom) {
        if let Some(at) = self.by.remove(from) {
            self.unlink(list, at);
        }
    }

    fn unlink(&mut self, list: &mut WatchList, at: u32) {
        let Some(&Slot { before, after, .. }) = self.slots.get(at as usize) else {
            return;
        };
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.after = after,
            None => list.first = after,
        }
        match self.slots.get_mut(after as usize) {
            Some(slot) => slot.before = before,
            None => list.last = before,
        }
        self.free.push(at);
    }

    /// Tells those of the list for whom `is_due` holds. Those that want to hear only once are
    /// ended. Gives how many were told.
    pub(crate) fn wake(
        &mut self,
        list: &mut WatchList,
        is_due: impl Fn(&Watch) -> bool,
        mut tell: impl FnMut(&Watch),
    ) -> usize {
        let (mut at, mut told) = (list.first, 0);
        while let Some(slot) = self.slots.get(at as usize) {
            let (watch, here) = (slot.watch, at);
            at = slot.after;
            if !is_due(&watch) {
                continue;
            }
            told += 1;
            tell(&watch);
            if watch.op.once {
                self.by.remove(&watch.from);
                self.unlink(list, here);
            }
        }
        told
    }

    /// Ends all watches of a list and tells each.
    pub(crate) fn end_all(&mut self, list: &mut WatchList, mut tell: impl FnMut(&Watch)) {
        let mut at = list.first;
        while let Some(slot) = self.slots.get(at as usize) {
            tell(&slot.watch);
            self.by.remove(&slot.watch.from);
            self.free.push(at);
            at = slot.after;
        }
        *list = WatchList::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_base::{Prng, ShardId, Uuid};
    use std::collections::BTreeMap;

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition {
            topic_id: Uuid::ZERO,
            partition,
        }
    }

    fn watch(gather: u64, above: i64, once: bool) -> Watch {
        let op = WatchOp {
            above,
            log_start: None,
            once,
        };
        let from = OpFrom {
            shard: ShardId(0),
            gather,
            index: 0,
        };
        Watch {
            from,
            op,
            at: (0, 0),
        }
    }

    fn woken(watches: &mut Watches, list: &mut WatchList, end: i64) -> Vec<u64> {
        let mut out = Vec::new();
        let tell = |w: &Watch| out.push(w.from.gather);
        watches.wake(list, |w| end > w.op.above, tell);
        out
    }

    #[test]
    fn those_who_wait_are_told_in_order_and_once() {
        let (mut watches, mut list) = (Watches::default(), WatchList::default());
        for (gather, above, once) in [(1, 5, true), (2, 9, true), (3, 5, false), (4, 5, true)] {
            watches.add(&mut list, tp(0), watch(gather, above, once));
        }
        assert!(woken(&mut watches, &mut list, 5).is_empty());
        assert_eq!(woken(&mut watches, &mut list, 6), [1, 3, 4]);
        assert_eq!(woken(&mut watches, &mut list, 7), [3]);
        assert_eq!(woken(&mut watches, &mut list, 10), [2, 3]);
        assert_eq!(watches.len(), 1);
        let last = watch(3, 0, false).from;
        assert_eq!(watches.partition_of(&last), Some(tp(0)));
        watches.remove(&mut list, &last);
        watches.remove(&mut list, &last);
        assert_eq!((watches.len(), watches.partition_of(&last)), (0, None));
        assert!(woken(&mut watches, &mut list, 99).is_empty());
    }

    #[test]
    fn a_watch_takes_the_place_of_one_of_its_origin() {
        let (mut watches, mut a, mut b) = (
            Watches::default(),
            WatchList::default(),
            WatchList::default(),
        );
        watches.add(&mut a, tp(0), watch(1, 5, false));
        assert_eq!(watches.take_replaced(), None);
        watches.add(&mut b, tp(1), watch(1, 7, false));
        let (of, at) = watches.take_replaced().unwrap();
        assert_eq!(of, tp(0));
        watches.end_replaced(&mut a, at);
        assert!(woken(&mut watches, &mut a, 99).is_empty());
        assert_eq!(woken(&mut watches, &mut b, 8), [1]);
        watches.remove(&mut b, &watch(1, 7, false).from);
        assert_eq!((watches.len(), watches.free.len()), (0, 2));
    }

    /// Against a plain map, two partitions.
    #[test]
    fn any_order_of_adding_waking_and_ending() {
        let mut prng = Prng::new(11);
        let mut watches = Watches::default();
        let mut lists = [WatchList::default(), WatchList::default()];
        let mut model: [BTreeMap<u64, i64>; 2] = Default::default();
        for n in 1..5000u64 {
            let p = (prng.next_u64() % 2) as usize;
            let (list, model) = (&mut lists[p], &mut model[p]);
            match prng.next_u64() % 5 {
                0..=2 => {
                    let above = (prng.next_u64() % 100) as i64;
                    watches.add(list, tp(p as i32), watch(n, above, true));
                    model.insert(n, above);
                }
                3 => {
                    let pick = model.keys().nth(prng.next_u64() as usize % 7).copied();
                    if let Some(gather) = pick {
                        watches.remove(list, &watch(gather, 0, true).from);
                        model.remove(&gather);
                    }
                }
                _ => {
                    let end = (prng.next_u64() % 30) as i64;
                    let due = model.iter().filter(|(_, above)| end > **above);
                    let due: Vec<u64> = due.map(|(gather, _)| *gather).collect();
                    model.retain(|_, above| end <= *above);
                    assert_eq!(woken(&mut watches, list, end), due);
                }
            }
        }
        assert_eq!(watches.len(), model[0].len() + model[1].len());
        for (list, model) in lists.iter_mut().zip(&model) {
            let mut all = Vec::new();
            watches.end_all(list, |w| all.push(w.from.gather));
            assert_eq!(all, model.keys().copied().collect::<Vec<_>>());
        }
        assert_eq!(watches.len(), 0);
        assert_eq!(watches.free.len(), watches.slots.len());
    }
}
