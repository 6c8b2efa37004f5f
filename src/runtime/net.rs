//! Connections of one shard: accepting and placing them, receiving frames, closing.

use crate::core::ShardCore;
use crate::framing::FrameReader;
use crate::mesh::Item;
use crate::reactor::{Owner, Reactor};
use crate::ring::Op;
use crate::send::Outgoing;
use flumen_base::{Mono, ShardId, limits};
use flumen_shard::io::{CloseReason, ConnId, ConnInfo, Input};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// One connection. Its place in the table is given away only when the kernel has finished all its
/// operations.
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) peer: SocketAddr,
    pub(crate) socket: Rc<TcpStream>,
    pub(crate) reader: FrameReader,
    /// Bytes of the frame being received, as counted in the shard's budget.
    pub(crate) partial: usize,
    pub(crate) receiving: bool,
    /// What the core wants.
    pub(crate) reading: bool,
    /// Whole frames may be in the reader that the core was not given yet.
    pub(crate) undelivered: bool,
    /// Its place in the list of those whose frames go on is taken.
    pub(crate) listed: bool,
    pub(crate) stalled: bool,
    /// It is in line for [`Reactor::receive_bulk`].
    pub(crate) queued: bool,
    /// Operations in the ring.
    pub(crate) ops: u32,
    /// The last receive left bytes in the socket.
    pub(crate) more_waits: bool,
    /// Answers that have left, of which the core was not told yet.
    pub(crate) sent: u32,
    pub(crate) out: Outgoing,
    /// Close when everything has been sent.
    pub(crate) closing: Option<CloseReason>,
    /// The core knows that it is gone.
    pub(crate) closed: bool,
    pub(crate) dirty: bool,
    pub(crate) last_active: Mono,
}

/// The table of connections.
#[derive(Default)]
pub(crate) struct Conns {
    slots: Vec<Option<Conn>>,
    free: Vec<u32>,
    opened: u32,
    pub(crate) partial_total: usize,
    pub(crate) stalled: Vec<u32>,
    /// Connections with frames for the next round.
    pub(crate) undelivered: Vec<u32>,
    /// Bulk senders of which bytes are waiting, first come first served. Not all are in line still.
    pub(crate) readable: VecDeque<u32>,
    /// Over the frame budget, the one connection that may finish its frame: all of them waiting for
    /// each other would wait for ever.
    pub(crate) finishing: Option<u32>,
    pub(crate) next_sweep: Option<Mono>,
    /// Connections refused since that was told.
    refused: u64,
    refusals_told: Option<Mono>,
}

impl Conns {
    pub(crate) fn get(&mut self, index: u32) -> Option<&mut Conn> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The slot of a connection that the core still may name.
    pub(crate) fn find(&mut self, id: ConnId) -> Option<u32> {
        let index = id.0 as u32;
        let conn = self.get(index)?;
        (conn.id == id && !conn.closed).then_some(index)
    }

    fn indices(&self) -> Vec<u32> {
        let used = self.slots.iter().enumerate();
        used.filter(|(_, conn)| conn.is_some())
            .map(|(i, _)| i as u32)
            .collect()
    }

    /// Sockets held, and bytes held of frames that are not whole.
    pub(crate) fn gauges(&self) -> (usize, usize) {
        (self.slots.len() - self.free.len(), self.partial_total)
    }

    fn forget_partial(&mut self, index: u32) {
        self.finishing = self.finishing.filter(|one| *one != index);
        let old = self
            .get(index)
            .map_or(0, |conn| std::mem::take(&mut conn.partial));
        self.partial_total -= old.min(self.partial_total);
    }
}

/// Pause after accept failed for lack of descriptors or memory.
const ACCEPT_RETRY_MS: i64 = 100;
/// How often it is looked for such frames.
pub(crate) const STALE_CHECK_MS: i64 = 1000;
/// Over the frame budget, a frame that has not grown for so long costs its connection.
const STALE_FRAME_MS: i64 = 10_000;

impl<C: ShardCore> Reactor<C> {
    /// Starts or restarts accepting on all listeners that this shard has.
    pub(crate) fn start_accepting(&mut self) {
        for (index, (listener, armed)) in self.listeners.iter_mut().enumerate() {
            if !*armed {
                *armed = true;
                let listener = Rc::clone(listener);
                self.ring
                    .start(Owner::Accept(index), Op::Accept { listener });
            }
        }
    }

    /// An accept operation ended.
    pub(crate) fn on_accept_end(&mut self, index: usize, result: io::Result<u32>) {
        if let Some((_, armed)) = self.listeners.get_mut(index) {
            *armed = false;
        }
        if let Some(fd) = crate::ring::last_accepted(&result) {
            self.on_accepted(index, fd);
        } else if let Err(e) = &result
            && !self.stopping
        {
            tracing::warn!(listener = index, error = %e, "accept failed");
            self.accept_at = Some(self.now.mono.plus_ms(ACCEPT_RETRY_MS));
            return;
        }
        if !self.stopping {
            self.accept_at = Some(self.now.mono);
        }
    }

    /// Gives a new connection to the shard that has the fewest.
    pub(crate) fn on_accepted(&mut self, listener: usize, fd: OwnedFd) {
        let socket = TcpStream::from(fd);
        let Ok(peer) = socket.peer_addr() else { return }; // gone already
        if self.stopping {
            return;
        }
        let connections = self.shared.connections();
        self.shared.files.check(connections + 1);
        if connections >= self.config.connections_max {
            return self.refuse(peer);
        }
        let count = |i: &usize| self.shared.shards[*i].connections.load(Ordering::Relaxed);
        let Some(to) = (0..self.shared.shards.len()).min_by_key(count) else {
            return;
        };
        if count(&to) >= limits::SHARD_CONNECTIONS_MAX {
            return self.refuse(peer);
        }
        self.shared.shards[to]
            .connections
            .fetch_add(1, Ordering::Relaxed);
        let info = ConnInfo { listener, peer };
        if let Err(Item::Conn(socket, info)) =
            self.mesh.send(ShardId(to as u16), Item::Conn(socket, info))
        {
            self.open_conn(socket, info);
        }
    }

    /// Says that there are too many connections, once a second: a crowd must not fill the log too.
    fn refuse(&mut self, peer: SocketAddr) {
        self.conns.refused += 1;
        if self
            .conns
            .refusals_told
            .is_none_or(|at| at.plus_ms(1000) <= self.now.mono)
        {
            self.conns.refusals_told = Some(self.now.mono);
            let refused = std::mem::take(&mut self.conns.refused);
            let reason = CloseReason::TooManyConnections;
            tracing::warn!(%peer, refused, %reason, "connections refused");
        }
    }

    /// Serves a connection on this shard.
    pub(crate) fn open_conn(&mut self, socket: TcpStream, info: ConnInfo) {
        // Only fails on a socket that is gone, which receiving will tell.
        let _ = socket.set_nodelay(true);
        let index = self.conns.free.pop().unwrap_or_else(|| {
            self.conns.slots.push(None);
            (self.conns.slots.len() - 1) as u32
        });
        self.conns.opened = self.conns.opened.wrapping_add(1);
        let id = ConnId(u64::from(self.conns.opened) << 32 | u64::from(index));
        let peer = info.peer;
        self.conns.slots[index as usize] = Some(Conn {
            id,
            peer,
            socket: Rc::new(socket),
            reader: FrameReader::new(self.config.request_bytes_max),
            partial: 0,
            receiving: false,
            reading: true,
            undelivered: false,
            listed: false,
            stalled: false,
            queued: false,
            ops: 0,
            more_waits: true,
            sent: 0,
            out: Outgoing::default(),
            closing: None,
            closed: false,
            dirty: false,
            last_active: self.now.mono,
        });
        if self.conns.next_sweep.is_none() {
            self.conns.next_sweep = self.config.idle_max.map(|idle| self.now.mono + idle);
        }
        self.inputs.push_back(Input::ConnOpened(id, info));
        self.start_recv(index);
    }

    /// The core wants more or less of this connection.
    pub(crate) fn set_reading(&mut self, id: ConnId, reading: bool) {
        let Some(index) = self.conns.find(id) else {
            return;
        };
        if let Some(conn) = self.conns.get(index) {
            conn.reading = reading;
            self.tell_sent(index);
            self.start_recv(index);
        }
    }

    /// So many answers of a connection have left. The core hears of it before the connection's next
    /// request; at once only where it waits for that.
    pub(crate) fn sent(&mut self, index: u32, count: u32) {
        if count == 0 {
            return;
        }
        let stopping = self.stopping;
        if let Some(conn) = self.conns.get(index) {
            conn.sent += count;
            if stopping || !conn.reading {
                self.tell_sent(index);
            }
        }
    }

    /// Tells the core of answers that have left.
    fn tell_sent(&mut self, index: u32) {
        if let Some(conn) = self.conns.get(index)
            && conn.sent > 0
        {
            let sent = std::mem::take(&mut conn.sent);
            self.inputs.push_back(Input::Sent(conn.id, sent));
        }
    }

    /// From now on the core hears of answers that leave at once.
    pub(crate) fn tell_all_sent(&mut self) {
        for index in self.conns.indices() {
            self.tell_sent(index);
        }
    }

    /// The core wants it closed after what was sent before has left.
    pub(crate) fn close_after_sends(&mut self, id: ConnId, reason: CloseReason) {
        let Some(index) = self.conns.find(id) else {
            return;
        };
        if let Some(conn) = self.conns.get(index)
            && conn.closing.is_none()
        {
            tracing::info!(peer = %conn.peer, %reason, "closing connection");
            conn.closing = Some(reason);
            self.mark_dirty(index);
        }
    }

    /// Ends a connection now: tells the core, and makes the kernel finish its operations soon.
    pub(crate) fn close_conn(&mut self, index: u32, reason: &dyn Display) {
        self.conns.forget_partial(index);
        let Some(conn) = self.conns.get(index).filter(|conn| !conn.closed) else {
            return;
        };
        tracing::debug!(peer = %conn.peer, %reason, "connection ends");
        conn.closed = true;
        conn.out.pieces.clear();
        let _ = conn.socket.shutdown(Shutdown::Both); // fails if the peer was quicker
        let pipe = conn.out.pipe.take();
        self.inputs.push_back(Input::ConnClosed(conn.id));
        if let Some(pipe) = pipe {
            self.pipes.give_back(pipe);
        }
        let me = self.shard.index();
        self.shared.shards[me]
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        self.free_conn(index);
    }

    /// Gives the slot away once it is closed and the kernel is done with it.
    pub(crate) fn free_conn(&mut self, index: u32) {
        if let Some(conn) = self.conns.get(index)
            && conn.closed
            && conn.ops == 0
        {
            self.conns.slots[index as usize] = None;
            self.conns.free.push(index);
        }
    }

    /// Something was sent or received.
    pub(crate) fn touch(&mut self, index: u32) {
        let now = self.now.mono;
        if let Some(conn) = self.conns.get(index) {
            conn.last_active = now;
        }
    }

    /// When [`Self::sweep_idle`] wants to run.
    pub(crate) fn next_sweep(&self) -> Option<Mono> {
        self.conns.next_sweep
    }

    /// Closes connections idle for too long, and over the frame budget those whose frame does not
    /// grow.
    pub(crate) fn sweep_idle(&mut self) {
        let now = self.now.mono;
        if self.conns.next_sweep.is_none_or(|due| now < due) {
            return;
        }
        let over_budget = self.is_over_budget();
        let mut stale: Vec<(Mono, u32)> = Vec::new();
        let mut next: Option<Mono> = None;
        for index in self.conns.indices() {
            let Some(conn) = self.conns.get(index).filter(|conn| !conn.closed) else {
                continue;
            };
            // Those that we don't read are not to blame.
            let slow = conn.receiving && conn.last_active.plus_ms(STALE_FRAME_MS) <= now;
            if over_budget && conn.partial > 0 && slow {
                stale.push((conn.last_active, index));
            }
            let Some(deadline) = self.config.idle_max.map(|idle| conn.last_active + idle) else {
                continue;
            };
            if deadline <= now {
                self.close_idle(index);
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        // The frame that has not grown for longest goes first, and only as many as must.
        stale.sort_unstable();
        for (_, index) in stale {
            if self.is_over_budget() {
                self.close_idle(index);
            }
        }
        // Not more than 20 sweeps per idle time, but one a second while memory is short.
        let soonest = self.config.idle_max.map_or(now, |idle| now + idle / 20);
        let next = next.map(|next| next.max(soonest));
        self.conns.next_sweep = match self.is_over_budget() {
            true => Some(now.plus_ms(STALE_CHECK_MS)),
            false => next,
        };
    }

    fn close_idle(&mut self, index: u32) {
        if let Some(conn) = self.conns.get(index).filter(|conn| !conn.closed) {
            let reason = CloseReason::Idle;
            tracing::info!(peer = %conn.peer, %reason, "closing connection");
            self.close_conn(index, &reason);
        }
    }

    /// Closes everything, at the end.
    pub(crate) fn close_all(&mut self) {
        for (listener, _) in &self.listeners {
            stop_listening(listener);
        }
        for index in self.conns.indices() {
            self.close_conn(index, &CloseReason::Shutdown);
        }
    }
}

/// Makes accepts on this socket fail from now on.
pub(crate) fn stop_listening(listener: &std::net::TcpListener) {
    if let Ok(copy) = listener.try_clone() {
        let _ = TcpStream::from(OwnedFd::from(copy)).shutdown(Shutdown::Both);
    }
}
