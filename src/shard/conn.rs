//! One client connection as the shard sees it: answers leave in request order, and the number of
//! requests in flight is bounded.
//!
//! ```text
//! frame -> slot (waiting) ... handler answers -> slot (ready)
//!       -> oldest ready slots leave -> Sent -> freed
//! ```
//! A slot is taken for each request in order of arrival. Handlers answer in any order; an answer
//! leaves when all before it have left. A produce with acks=0 takes a slot too and ends it with
//! nothing to send. Reading stops while more than [`CONN_REQUESTS_IN_FLIGHT_MAX`] answers are owed
//! or not yet in the kernel, or those hold more than [`CONN_RESPONSE_BYTES_MAX`] bytes of memory,
//! or more than [`CONN_FRAME_BYTES_MAX`] bytes of frames are in work, so that a slow or greedy
//! client waits in its own socket.

use crate::io::{ConnId, ConnInfo, Effect, Effects, Response};
use crate::request::Answer;
use crate::share_sessions::MemberKey;
use flumen_base::Mono;
use flumen_base::limits::{
    CONN_FRAME_BYTES_MAX, CONN_REQUESTS_IN_FLIGHT_MAX, CONN_RESPONSE_BYTES_MAX,
};
use std::collections::VecDeque;

/// The number of a request on its connection, from 0.
pub(crate) type SlotSeq = u64;

#[derive(Debug)]
enum SlotState {
    Waiting,
    Ready(Response),
    /// Done without an answer (acks=0).
    Silent,
}

#[derive(Debug)]
struct Slot {
    state: SlotState,
    frame_bytes: usize,
}

/// State of one connection. Lives from `ConnOpened` to `ConnClosed` on the shard that was given the
/// connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Index of the listener and the peer's address.
    pub(crate) info: ConnInfo,
    /// `client.software.name` and version of its ApiVersions request (KIP-511), once sent.
    pub(crate) software: Option<(String, String)>,
    /// When the last request came, for `connections.max.idle.ms`.
    pub(crate) last_active: Mono,
    /// Its fetches that wait for data; a disconnect cancels them.
    pub(crate) fetches: Vec<u64>,
    /// The members of share groups that have a session with it; they end with it.
    pub(crate) share_members: Vec<MemberKey>,
    slots: VecDeque<Slot>,
    first: SlotSeq,
    /// Of each answer that has not left completely: its bytes in memory, oldest first.
    unsent: VecDeque<usize>,
    unsent_bytes: usize,
    frame_bytes: usize,
    /// The shard holds too many bytes of frames: this connection waits for the others.
    held_back: bool,
    reading: bool,
    closing: bool,
}

impl Conn {
    /// A new connection that is being read.
    pub(crate) fn new(info: ConnInfo, now: Mono) -> Self {
        Self {
            info,
            software: None,
            last_active: now,
            fetches: Vec::new(),
            share_members: Vec::new(),
            slots: VecDeque::new(),
            first: 0,
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            frame_bytes: 0,
            held_back: false,
            reading: true,
            closing: false,
        }
    }

    /// Takes the next slot for a request whose frame holds `frame_bytes`.
    pub(crate) fn take_slot(&mut self, frame_bytes: usize) -> SlotSeq {
        self.slots.push_back(Slot {
            state: SlotState::Waiting,
            frame_bytes,
        });
        self.frame_bytes += frame_bytes;
        self.first + self.slots.len() as u64 - 1
    }

    /// The answer of a slot (or its end without one); emits what may leave now. A slot that is gone
    /// already (the connection is closing) is ignored.
    pub(crate) fn fill<A: Answer>(
        &mut self,
        id: ConnId,
        seq: SlotSeq,
        answer: Option<A>,
        fx: &mut Effects,
    ) {
        let Some(index) = seq.checked_sub(self.first).map(|n| n as usize) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        debug_assert!(matches!(slot.state, SlotState::Waiting), "answered twice");
        if index > 0 {
            slot.state = answer.map_or(SlotState::Silent, |answer| SlotState::Ready(answer.into()));
            return;
        }
        // The oldest leaves at once, and those behind it that are ready.
        let frame_bytes = slot.frame_bytes;
        self.slots.pop_front();
        self.leave(id, frame_bytes, answer, fx);
        while let Some(slot) = self.slots.front_mut() {
            let answer = match std::mem::replace(&mut slot.state, SlotState::Waiting) {
                SlotState::Waiting => break,
                SlotState::Ready(response) => Some(response),
                SlotState::Silent => None,
            };
            let frame_bytes = slot.frame_bytes;
            self.slots.pop_front();
            self.leave(id, frame_bytes, answer, fx);
        }
        self.update_reading(id, fx);
    }

    /// The oldest slot is gone: its answer leaves.
    fn leave<A: Answer>(
        &mut self,
        id: ConnId,
        frame_bytes: usize,
        answer: Option<A>,
        fx: &mut Effects,
    ) {
        self.first += 1;
        self.frame_bytes = self.frame_bytes.saturating_sub(frame_bytes);
        if let Some(response) = answer
            && !self.closing
        {
            let bytes = response.bytes_in_memory();
            self.unsent.push_back(bytes);
            self.unsent_bytes += bytes;
            fx.push(Effect::Send(id, response.into()));
        }
    }

    /// So many answers have left completely.
    pub(crate) fn sent(&mut self, id: ConnId, count: u32, fx: &mut Effects) {
        let count = self.unsent.len().min(count as usize);
        self.unsent_bytes -= self.unsent.drain(..count).sum::<usize>();
        self.update_reading(id, fx);
    }

    /// Stops or resumes reading as the bounds say. Resumes at half of them, so that it doesn't
    /// flap.
    pub(crate) fn update_reading(&mut self, id: ConnId, fx: &mut Effects) {
        if self.closing {
            return;
        }
        let owed = self.slots.len() + self.unsent.len();
        let change = if self.reading {
            owed >= CONN_REQUESTS_IN_FLIGHT_MAX
                || self.frame_bytes >= CONN_FRAME_BYTES_MAX
                || self.unsent_bytes >= CONN_RESPONSE_BYTES_MAX
                || self.held_back
        } else {
            !self.held_back
                && owed <= CONN_REQUESTS_IN_FLIGHT_MAX / 2
                && self.frame_bytes < CONN_FRAME_BYTES_MAX / 2
                && self.unsent_bytes < CONN_RESPONSE_BYTES_MAX / 2
        };
        if change {
            self.reading = !self.reading;
            fx.push(Effect::SetReading(id, self.reading));
        }
    }

    /// Makes it wait for the other connections of its shard, or lets it go on.
    pub(crate) fn hold_back(&mut self, id: ConnId, yes: bool, fx: &mut Effects) {
        self.held_back = yes;
        self.update_reading(id, fx);
    }

    /// Bytes of frames in work.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Marks it as closing; false if it was already.
    pub(crate) fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closing, true)
    }

    /// Whether a close was asked for: frames that still come are dropped.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Requests without an answer yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Answers that have not left completely.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }
}
