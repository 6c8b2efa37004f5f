//! What time does: transactions that take too long are rolled back, ids that nobody uses expire,
//! and what failed is tried again.

use super::{Done, Pending, TransactionCoordinator, TxnOut, TxnSerial, records};
use crate::limits::TXN_EXPIRY_PER_TICK_MAX;
use flumen_base::{Mono, Now, PartitionIndex};

impl TransactionCoordinator {
    /// When to call [`TransactionCoordinator::tick`] next; it may turn out to be for nothing.
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.txns.is_empty() && self.retry_at.is_none() {
            return None; // asked at the end of every turn
        }
        let abort = self.abort_at.filter(|_| !self.timeouts.is_empty());
        let expiry = self.expiry_at.filter(|_| !self.txns.is_empty());
        [self.retry_at, abort, expiry].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now, out: &mut TxnOut) {
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now.mono);
        if due(self.retry_at) {
            self.retry_at = None;
            for serial in std::mem::take(&mut self.retries) {
                self.send_markers(now, serial, out);
            }
        }
        if due(self.abort_at) {
            self.abort_at = Some(now.mono.plus_ms(self.config.abort_interval_ms.max(1)));
            self.abort_timed_out(now, out);
        }
        if due(self.expiry_at) {
            let more = self.expire(now, out);
            // Soon, but after others had a turn.
            let wait_ms = if more {
                1
            } else {
                self.config.expiry_interval_ms
            };
            self.expiry_at = Some(now.mono.plus_ms(wait_ms.max(1)));
        }
    }

    fn abort_timed_out(&mut self, now: Now, out: &mut TxnOut) {
        let late = self.timeouts.range(..(now.wall_ms, TxnSerial::MIN));
        let late: Vec<TxnSerial> = late.map(|(_, serial)| *serial).collect();
        for serial in late {
            let busy = self.txns.get(&serial).is_none_or(|txn| txn.is_busy());
            if !busy && !self.fence(now, serial, Done::Nobody, out) {
                // The next look finds it again, and an id for it.
                out.wants_producer_ids |= !std::mem::replace(&mut self.ids.asked, true);
            }
        }
    }

    /// Looks at some ids of each partition; true if there are more.
    fn expire(&mut self, now: Now, out: &mut TxnOut) -> bool {
        let partitions: Vec<PartitionIndex> = self.partitions.keys().copied().collect();
        let mut more = false;
        for partition in partitions {
            more |= self.expire_in(now, partition, out);
        }
        more
    }

    fn expire_in(&mut self, now: Now, partition: PartitionIndex, out: &mut TxnOut) -> bool {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return false;
        };
        if state.loading {
            return false;
        }
        let from = state.expiry_cursor.take().unwrap_or(0);
        let some = state.names.iter_from(from);
        let mut some: Vec<_> = some.take(TXN_EXPIRY_PER_TICK_MAX + 1).collect();
        if some.len() > TXN_EXPIRY_PER_TICK_MAX {
            state.expiry_cursor = some.pop();
        }
        let more = state.expiry_cursor.is_some();
        let before = now.wall_ms.saturating_sub(self.config.id_expiration_ms);
        let (mut tombstones, mut gone) = (Vec::new(), Vec::new());
        for serial in some {
            let Some(txn) = self.txns.get_mut(&serial) else {
                continue;
            };
            let unused = txn.meta.state.is_at_rest() && txn.meta.last_update_ms <= before;
            if unused
                && txn.pending.is_none()
                && let Some(record) = records::tombstone(&txn.id)
            {
                txn.pending = Some(Pending::Tombstone);
                tombstones.push(record);
                gone.push(serial);
            }
        }
        if !tombstones.is_empty() {
            self.append(partition, tombstones, gone, Done::Nobody, out);
        }
        more
    }
}
