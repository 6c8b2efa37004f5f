//! Which connections send in a turn: answers without files first, then about half a MiB of files of
//! all connections together, so that a request that comes beside catch-up readers waits for no more
//! than that (docs/adr/0019).

use crate::core::ShardCore;
use crate::reactor::Reactor;
use crate::send::TURN_BYTES;

/// Bytes of files that leave in one turn, of all connections, more or less a share: those that get
/// none are the first of the next turn. As much is read for several connections before the first
/// send: it stays in the cache.
const TURN_BYTES_OF_ALL: usize = 512 << 10;
/// Connections with something to send above which the sends of a turn go through the ring together.
const INLINE_SENDS_MAX: usize = 4;

impl<C: ShardCore> Reactor<C> {
    /// Has [`Self::drive_sends`] look at this connection.
    pub(crate) fn mark_dirty(&mut self, index: u32) {
        if let Some(conn) = self.conns.get(index)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Starts or goes on with the sends of all connections that have something new, with `files`
    /// or only where none is to be sent.
    pub(crate) fn drive_sends(&mut self, files: bool) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let together = dirty.len() > INLINE_SENDS_MAX;
        dirty.retain(|&index| !self.drive_small(index, together));
        if files {
            self.drive_files(&mut dirty, together);
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// As far as the turn's rest goes.
    fn drive_files(&mut self, dirty: &mut Vec<u32>, together: bool) {
        if dirty.len() > 1 {
            // First all reads, then all sends: a client with several connections is woken once.
            let mut left = self.turn_left;
            for &index in &*dirty {
                if left == 0 {
                    break;
                }
                self.read_ahead(index, &mut left);
            }
        }
        for index in dirty.drain(..) {
            self.drive_large(index, together);
        }
    }

    /// Has the next turn's [`Self::drive_sends`] go on with this connection.
    pub(crate) fn go_on_later(&mut self, index: u32) {
        self.dirty_later.push(index);
    }

    /// A new turn: connections that the last one was too short for go on, those that had no share
    /// of it first.
    pub(crate) fn go_on_sending(&mut self) {
        self.turn_left = TURN_BYTES_OF_ALL;
        let mut again = std::mem::take(&mut self.unserved);
        again.append(&mut self.dirty_later);
        for index in again.drain(..) {
            self.mark_dirty(index);
        }
        self.unserved = again;
    }

    /// Drives a connection without files; false if it has some.
    fn drive_small(&mut self, index: u32, together: bool) -> bool {
        let Some(conn) = self.conns.get(index) else {
            return true;
        };
        if conn.out.has_file() {
            return false;
        }
        conn.dirty = false;
        self.drive_send(index, together, &mut 0);
        true
    }

    /// Drives a connection with files if the turn has something left.
    fn drive_large(&mut self, index: u32, together: bool) {
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        conn.dirty = false;
        if conn.out.busy {
            return;
        }
        if self.turn_left == 0 {
            return self.unserved.push(index);
        }
        let at_hand = conn.out.at_hand();
        let share = TURN_BYTES.saturating_sub(at_hand);
        let mut budget = share;
        self.drive_send(index, together, &mut budget);
        let conn = self.conns.get(index);
        let left = conn.map_or(0, |conn| conn.out.at_hand());
        let gone = at_hand.saturating_add(share - budget).saturating_sub(left);
        self.turn_left = self.turn_left.saturating_sub(gone);
    }
}
