//! Receiving on the connections of one shard: into which memory, how much at once, in what order.

use crate::core::ShardCore;
use crate::net::{Conn, STALE_CHECK_MS};
use crate::reactor::{Owner, Reactor};
use crate::ring::Op;
use crate::sys;
use flumen_base::limits;
use flumen_shard::io::Input;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::rc::Rc;

/// Frames of one connection that the core is given before its effects are carried out: it can stop
/// reading after so many, however many small ones came at once.
const FRAMES_PER_ROUND: usize = limits::CONN_REQUESTS_IN_FLIGHT_MAX;
/// Bytes of bulk senders after which the core is stepped: they should still be in the cache when
/// they are checked and written.
const ROUND_BYTES: usize = 256 << 10;

impl<C: ShardCore> Reactor<C> {
    /// Receives on this connection if the core, the mesh and the memory budget allow it. A bulk
    /// sender of which bytes are waiting has to wait for its turn.
    pub(crate) fn start_recv(&mut self, index: u32) {
        if !self.may_receive(index) {
            return;
        }
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        if conn.more_waits && conn.reader.is_bulk() {
            conn.queued = true;
            self.conns.readable.push_back(index);
            return;
        }
        conn.receiving = true;
        conn.ops += 1;
        let socket = Rc::clone(&conn.socket);
        let (buf, len) = conn.reader.take_buf(conn.more_waits, &mut self.recv_bufs);
        let op = Op::Recv {
            socket,
            buf,
            len,
            ready: conn.more_waits,
        };
        self.ring.start(Owner::Conn(index), op);
    }

    /// Whether to receive on this connection now. If not, what stands in the way goes on with it.
    fn may_receive(&mut self, index: u32) -> bool {
        let blocked = self.mesh.is_blocked();
        let over_budget = self.is_over_budget() && self.conns.finishing != Some(index);
        let Some(conn) = self.conns.get(index) else {
            return false;
        };
        let busy = conn.receiving || conn.queued;
        if busy || !conn.reading || conn.closed || conn.closing.is_some() {
            return false;
        }
        if conn.undelivered {
            if !std::mem::replace(&mut conn.listed, true) {
                self.conns.undelivered.push(index);
            }
            return false;
        }
        if over_budget {
            let soon = self.now.mono.plus_ms(STALE_CHECK_MS);
            let next = self.conns.next_sweep.map_or(soon, |next| next.min(soon));
            self.conns.next_sweep = Some(next);
        }
        let Some(conn) = self.conns.get(index) else {
            return false;
        };
        if (blocked || over_budget) && !std::mem::replace(&mut conn.stalled, true) {
            self.conns.stalled.push(index);
        }
        !blocked && !over_budget
    }

    /// Receives from bulk senders, one after the other, until there is enough for a round. Who has
    /// sent more goes to the end of the line, and then finds all that came meanwhile. Whether
    /// anything has come.
    pub(crate) fn receive_bulk(&mut self) -> bool {
        let mut bytes = 0;
        while bytes < ROUND_BYTES {
            let Some(index) = self.conns.readable.pop_front() else {
                break;
            };
            let is_queued = |conn: &mut Conn| std::mem::take(&mut conn.queued);
            if !self.conns.get(index).is_some_and(is_queued) || !self.may_receive(index) {
                continue;
            }
            let Some(conn) = self.conns.get(index) else {
                continue;
            };
            let (mut buf, len) = conn.reader.take_buf(true, &mut self.recv_bufs);
            let result = sys::receive(conn.socket.as_fd(), &mut buf, len);
            let n = *result.as_ref().unwrap_or(&0);
            bytes += n;
            self.on_recv(index, (buf, n == len), result);
        }
        bytes > 0
    }

    /// Whether [`Self::receive_bulk`] has something to do.
    pub(crate) fn has_readable(&self) -> bool {
        !self.conns.readable.is_empty()
    }

    /// Whether the shard holds too many bytes of frames: those not whole yet, those not given to
    /// the core yet, and those that the core works on.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.conns.partial_total + self.core_frame_bytes() > limits::SHARD_FRAME_BYTES_MAX
    }

    /// Goes on with connections that had to wait for the mesh or the budget.
    pub(crate) fn resume_stalled(&mut self) {
        if self.conns.stalled.is_empty() || self.mesh.is_blocked() {
            return;
        }
        if self.is_over_budget() {
            return self.finish_one();
        }
        for index in std::mem::take(&mut self.conns.stalled) {
            if let Some(conn) = self.conns.get(index) {
                conn.stalled = false;
                self.start_recv(index);
            }
        }
    }

    /// Lets the connection go on whose frame has come furthest, unless one does already.
    fn finish_one(&mut self) {
        if self.conns.finishing.is_some() {
            return;
        }
        let stalled = self.conns.stalled.clone();
        let partial = |i: &u32| self.conns.get(*i).map_or(0, |conn| conn.partial);
        let Some((bytes, index)) = stalled.iter().map(partial).zip(&stalled).max() else {
            return;
        };
        if bytes > 0
            && let Some(conn) = self.conns.get(*index)
        {
            conn.stalled = false;
            self.conns.stalled.retain(|one| one != index);
            self.conns.finishing = Some(*index);
            self.start_recv(*index);
        }
    }

    /// A receive ended; `more`: it left bytes in the socket.
    pub(crate) fn on_recv(
        &mut self,
        index: u32,
        (buf, more): (bytes::BytesMut, bool),
        result: io::Result<usize>,
    ) {
        let now = self.now.mono;
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        conn.receiving = false;
        conn.more_waits = more;
        if conn.closed || conn.closing.is_some() {
            return;
        }
        let n = match result {
            Ok(0) if conn.reader.partial_bytes() + buf.len() > 0 => {
                return self.close_conn(index, &"closed by the peer within a request");
            }
            Ok(0) => return self.close_conn(index, &"closed by the peer"),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => 0,
            Err(e) => return self.close_conn(index, &e),
        };
        conn.last_active = now;
        conn.reader.put_back(buf, n);
        if more && conn.reader.has_beginning() {
            return self.start_recv(index); // there is nothing to deliver yet
        }
        self.deliver(index);
    }

    /// Gives the core the next frames that are whole, and receives when there are none.
    fn deliver(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        conn.undelivered = true;
        if conn.sent > 0 {
            let sent = std::mem::take(&mut conn.sent);
            self.inputs.push_back(Input::Sent(conn.id, sent));
        }
        let mut delivered = false;
        for _ in 0..FRAMES_PER_ROUND {
            match conn.reader.next_frame() {
                Ok(Some(frame)) => {
                    delivered = true;
                    self.inputs.push_back(Input::Frame(conn.id, frame));
                }
                Ok(None) => {
                    conn.undelivered = false;
                    conn.reader.settle(&mut self.recv_bufs);
                    break;
                }
                Err(e) => {
                    tracing::warn!(peer = %conn.peer, reason = %e, "closing connection");
                    return self.close_conn(index, &e);
                }
            }
        }
        let partial = conn.reader.partial_bytes();
        if delivered {
            self.conns.finishing = self.conns.finishing.filter(|one| *one != index);
        }
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        let old = std::mem::replace(&mut conn.partial, partial);
        self.conns.partial_total = (self.conns.partial_total + partial).saturating_sub(old);
        self.start_recv(index);
    }

    /// Gives the core more frames of connections that sent many at once.
    pub(crate) fn deliver_more(&mut self) {
        for index in std::mem::take(&mut self.conns.undelivered) {
            if let Some(conn) = self.conns.get(index)
                && std::mem::replace(&mut conn.listed, false)
                && conn.reading
                && !conn.closed
                && conn.closing.is_none()
            {
                self.deliver(index);
            }
        }
    }

    /// Whether [`Self::deliver_more`] has something to do.
    pub(crate) fn has_undelivered(&self) -> bool {
        !self.conns.undelivered.is_empty()
    }
}
