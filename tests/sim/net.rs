//! Connections between clients and shards. Whole frames travel, in order; a cut may lose what was
//! not delivered.

use bytes::Bytes;
use flumen_shard::io::{ConnId, Response};
use std::collections::VecDeque;

/// What waits on the way to the shard.
#[derive(Debug)]
pub(crate) enum Inbound {
    Opened,
    Frame(Bytes),
    Closed,
}

/// What waits on the way to the client.
#[derive(Debug)]
pub(crate) enum Outbound {
    Response(Response),
    Close,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) shard: usize,
    pub(crate) inbound: VecDeque<Inbound>,
    pub(crate) outbound: VecDeque<Outbound>,
    /// What the client may read.
    pub(crate) received: VecDeque<Bytes>,
    /// The shard reads it.
    pub(crate) reading: bool,
    /// The shard was told that it is closed, or will be.
    pub(crate) closed_at_shard: bool,
    /// The client will hear that it is closed, or has closed it.
    pub(crate) closed_at_client: bool,
}

impl Conn {
    pub(crate) fn new(id: ConnId, shard: usize) -> Self {
        Self {
            id,
            shard,
            inbound: VecDeque::from([Inbound::Opened]),
            outbound: VecDeque::new(),
            received: VecDeque::new(),
            reading: true,
            closed_at_shard: false,
            closed_at_client: false,
        }
    }

    /// Whether the shard has something to take.
    pub(crate) fn has_input(&self) -> bool {
        match self.inbound.front() {
            Some(Inbound::Frame(_)) => self.reading,
            Some(_) => true,
            None => false,
        }
    }

    /// Both ends are done with it.
    pub(crate) fn is_over(&self) -> bool {
        self.closed_at_client
            && self.closed_at_shard
            && self.inbound.is_empty()
            && self.received.is_empty()
    }

    /// The shard hears of the end after what it can still read.
    pub(crate) fn close_towards_shard(&mut self) {
        if !self.closed_at_shard {
            self.closed_at_shard = true;
            self.inbound.push_back(Inbound::Closed);
            // What stays unread in a socket is gone.
            self.reading = true;
        }
        self.outbound.clear();
    }
}
