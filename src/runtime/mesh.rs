//! Messages between shards: one lock-free single-producer queue per pair of shards, one batch per
//! destination and turn, and a doorbell only for a peer that sleeps.
//!
//! The sleep protocol: a shard that wants to sleep sets `sleeping`, passes a full fence, and looks
//! into its queues once more; a sender pushes, passes a full fence, and looks at `sleeping`.
//! Whatever the interleaving, either the shard sees the message or the sender sees the flag. What
//! does not fit waits in the sender's outbox; while anything waits, the sender reads no sockets,
//! and the receiver that makes room wakes it (`wants_room`, the same protocol in the other
//! direction).

use crate::shared::Shared;
use flumen_base::{ShardId, limits};
use flumen_shard::io::ConnInfo;
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// What travels between shards.
pub(crate) enum Item<M> {
    /// A message of the core.
    Core(M),
    /// An accepted connection for the receiver to serve.
    Conn(TcpStream, ConnInfo),
}

struct Out<M> {
    queue: Producer<Item<M>>,
    outbox: VecDeque<Item<M>>,
    wants_room: Arc<AtomicBool>,
}

struct Incoming<M> {
    queue: Consumer<Item<M>>,
    wants_room: Arc<AtomicBool>,
}

/// One shard's ends of all its queues. A shard's place in its own table is a queue to itself that
/// only uses the outbox.
pub(crate) struct Mesh<M> {
    me: ShardId,
    out: Vec<Option<Out<M>>>,
    incoming: Vec<Option<Incoming<M>>>,
    /// Shards whose doorbell is to be rung with the next submission.
    bells: Vec<ShardId>,
    waiting: usize,
}

/// The queues of `shards` shards, each `capacity` long.
pub(crate) fn mesh<M>(shards: u16, capacity: usize) -> Vec<Mesh<M>> {
    let mut ends: Vec<Mesh<M>> = (0..shards)
        .map(|i| Mesh {
            me: ShardId(i),
            out: (0..shards).map(|_| None).collect(),
            incoming: (0..shards).map(|_| None).collect(),
            bells: Vec::new(),
            waiting: 0,
        })
        .collect();
    for from in 0..usize::from(shards) {
        for to in 0..usize::from(shards) {
            if from == to {
                continue;
            }
            let (producer, consumer) = RingBuffer::new(capacity);
            let wants_room = Arc::new(AtomicBool::new(false));
            ends[from].out[to] = Some(Out {
                queue: producer,
                outbox: VecDeque::new(),
                wants_room: Arc::clone(&wants_room),
            });
            ends[to].incoming[from] = Some(Incoming {
                queue: consumer,
                wants_room,
            });
        }
    }
    ends
}

/// Messages per pair that fit before the sender has to wait.
pub(crate) const CAPACITY: usize = limits::MESH_QUEUE_MESSAGES_MAX;

impl<M> Mesh<M> {
    /// Puts an item into the batch for `to`; unknown shards and this shard itself give it back.
    pub(crate) fn send(&mut self, to: ShardId, item: Item<M>) -> Result<(), Item<M>> {
        match self.out.get_mut(to.index()) {
            Some(Some(out)) => {
                out.outbox.push_back(item);
                self.waiting += 1;
                Ok(())
            }
            _ => Err(item),
        }
    }

    /// Hands over the batches as far as there is room. Call once per turn, and before sleeping.
    pub(crate) fn flush(&mut self, shared: &Shared) {
        if self.waiting == 0 {
            return;
        }
        for (to, out) in self.out.iter_mut().enumerate() {
            let Some(out) = out.as_mut().filter(|out| !out.outbox.is_empty()) else {
                continue;
            };
            let mut pushed = push_all(out, &mut self.waiting);
            if !out.outbox.is_empty() && !out.wants_room.load(Ordering::Relaxed) {
                out.wants_room.store(true, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                // The receiver may have made room just before it could see the flag.
                pushed += push_all(out, &mut self.waiting);
            }
            if pushed > 0 {
                fence(Ordering::SeqCst);
                if shared.shards[to].stop_sleeping() {
                    self.bells.push(ShardId(to as u16));
                }
            }
        }
    }

    /// Whether messages wait for room: then this shard takes in no new work.
    pub(crate) fn is_blocked(&self) -> bool {
        self.waiting > 0
    }

    /// Messages that wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes what has come, at most one queue length per sender, so that a turn ends.
    pub(crate) fn receive(&mut self, shared: &Shared, mut take: impl FnMut(ShardId, Item<M>)) {
        for (from, incoming) in self.incoming.iter_mut().enumerate() {
            let Some(incoming) = incoming else { continue };
            let n = incoming.queue.slots();
            if n == 0 {
                continue;
            }
            if let Ok(chunk) = incoming.queue.read_chunk(n) {
                for item in chunk {
                    take(ShardId(from as u16), item);
                }
            }
            fence(Ordering::SeqCst);
            if incoming.wants_room.load(Ordering::SeqCst) {
                incoming.wants_room.store(false, Ordering::SeqCst);
                if shared.shards[from].stop_sleeping() {
                    self.bells.push(ShardId(from as u16));
                }
            }
        }
    }

    /// Whether something can be received.
    pub(crate) fn has_incoming(&self) -> bool {
        self.incoming
            .iter()
            .flatten()
            .any(|incoming| !incoming.queue.is_empty())
    }

    /// Whether some waiting message would fit now.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting > 0
            && self
                .out
                .iter()
                .flatten()
                .any(|out| !out.outbox.is_empty() && !out.queue.is_full())
    }

    /// The doorbells to ring.
    pub(crate) fn take_bells(&mut self) -> impl Iterator<Item = ShardId> + '_ {
        self.bells.drain(..)
    }

    /// This shard.
    pub(crate) fn me(&self) -> ShardId {
        self.me
    }
}

fn push_all<M>(out: &mut Out<M>, waiting: &mut usize) -> usize {
    let room = out.queue.slots().min(out.outbox.len());
    if room == 0 {
        return 0;
    }
    let Ok(chunk) = out.queue.write_chunk_uninit(room) else {
        return 0;
    };
    let pushed = chunk.fill_from_iter(out.outbox.drain(..room));
    *waiting -= pushed;
    pushed
}
