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
/// Connections with answers in memory above which those go through the ring together.
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

    /// Starts or goes on with the sends of all connections that have something new: where no file
    /// is to be sent, then with `files` the others, as far as the turn's rest goes. Those that it
    /// is too short for stay, and are the first of the next turn.
    pub(crate) fn drive_sends(&mut self, files: bool) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut small = std::mem::take(&mut self.dirty_small);
        dirty.retain(|&index| {
            let has_file = self.has_file(index);
            if !has_file {
                small.push(index);
            }
            has_file
        });
        let together = small.len() > INLINE_SENDS_MAX;
        for index in small.drain(..) {
            if let Some(conn) = self.conns.get(index) {
                conn.dirty = false;
                self.drive_send(index, together, &mut 0);
            }
        }
        self.dirty_small = small;
        if files {
            if dirty.len() > 1 {
                self.read_all_ahead(&dirty);
            }
            dirty.retain(|&index| !self.drive_files(index));
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    fn has_file(&mut self, index: u32) -> bool {
        let conn = self.conns.get(index);
        conn.is_some_and(|conn| conn.out.has_file())
    }

    /// First all reads, then all sends: a client with several connections is woken once.
    fn read_all_ahead(&mut self, dirty: &[u32]) {
        let mut left = self.turn_left;
        for &index in dirty {
            if left == 0 {
                break;
            }
            self.read_ahead(index, &mut left);
        }
    }

    /// Has the next turn's [`Self::drive_sends`] go on with this connection.
    pub(crate) fn go_on_later(&mut self, index: u32) {
        self.dirty_later.push(index);
    }

    /// A new turn: the connections that had a share of the last one go on, behind those that had
    /// none.
    pub(crate) fn go_on_sending(&mut self) {
        self.turn_left = TURN_BYTES_OF_ALL;
        let mut later = std::mem::take(&mut self.dirty_later);
        for index in later.drain(..) {
            self.mark_dirty(index);
        }
        self.dirty_later = later;
    }

    /// Drives a connection with files; false if the turn has nothing left for it.
    fn drive_files(&mut self, index: u32) -> bool {
        let Some(conn) = self.conns.get(index) else {
            return true;
        };
        if self.turn_left == 0 && !conn.out.busy {
            return false;
        }
        conn.dirty = false;
        let at_hand = conn.out.at_hand();
        let share = TURN_BYTES.saturating_sub(at_hand);
        let mut budget = share;
        self.drive_send(index, false, &mut budget);
        let conn = self.conns.get(index);
        let left = conn.map_or(0, |conn| conn.out.at_hand());
        let gone = at_hand.saturating_add(share - budget).saturating_sub(left);
        self.turn_left = self.turn_left.saturating_sub(gone);
        true
    }
}
