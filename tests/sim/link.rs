//! A client's connection: requests go out with ascending correlation ids, and each must be answered
//! exactly once and in order until the connection ends.

use crate::broker::Broker;
use crate::model::Model;
use crate::trace::{Trace, note};
use crate::{Check, shown};
use bytes::Bytes;
use flumen_base::{Now, Prng};
use flumen_shard::io::ConnId;
use flumen_wire::header::{RequestHeader, write_request_header};
use flumen_wire::{ApiKey, Reader, Request, Response, Writer};
use std::collections::VecDeque;

/// What a client sees of the world.
pub(crate) struct Cx<'a> {
    pub(crate) broker: &'a mut Broker,
    pub(crate) model: &'a mut Model,
    pub(crate) rng: &'a mut Prng,
    pub(crate) trace: &'a mut Trace,
    /// The run ends: nothing new, only what is open is brought to its end.
    pub(crate) settling: bool,
}

impl Cx<'_> {
    pub(crate) fn now(&self) -> Now {
        self.broker.now()
    }
}

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct Sent<T> {
    correlation_id: i32,
    pub(crate) version: i16,
    api: ApiKey,
    at: u64,
    pub(crate) what: T,
}

/// What a client hears.
#[derive(Debug)]
pub(crate) enum Event<T> {
    /// The answer to the oldest request.
    Answer(Sent<T>, Bytes),
    /// The connection is gone; these were not answered.
    Closed(Vec<Sent<T>>),
}

/// One connection after the other.
#[derive(Debug)]
pub(crate) struct Link<T> {
    pub(crate) name: String,
    conn: Option<ConnId>,
    last_correlation_id: i32,
    pending: VecDeque<Sent<T>>,
}

impl<T> Link<T> {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            conn: None,
            last_correlation_id: 0,
            pending: VecDeque::new(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.conn.is_some()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = &T> {
        self.pending.iter().map(|s| &s.what)
    }

    /// Connects if it is not connected and the broker can be reached.
    pub(crate) fn open(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.conn.is_none() {
            self.conn = cx.broker.connect(cx.rng);
            if let Some(conn) = self.conn {
                note!(cx.trace, "{} connects {}", self.name, conn.0);
            }
        }
        self.conn.is_some()
    }

    /// Sends a request; `what` comes back with its answer. `None` where no answer comes.
    pub(crate) fn send<'m, M: Request<'m>>(
        &mut self,
        cx: &mut Cx<'_>,
        version: i16,
        message: &M,
        what: Option<T>,
    ) -> Check {
        let Some(conn) = self.conn else {
            return Err(format!("{} is not connected", self.name));
        };
        let api = ApiKey::from_i16(M::API_KEY).ok_or("an api that no table knows")?;
        self.last_correlation_id += 1;
        let correlation_id = self.last_correlation_id;
        let mut w = Writer::new();
        let header = RequestHeader {
            api_key: M::API_KEY,
            api_version: version,
            correlation_id,
            client_id: Some(&self.name),
        };
        write_request_header(&mut w, &header);
        message.encode(&mut w, version).map_err(shown)?;
        let name = &self.name;
        note!(
            cx.trace,
            "{name} sends {} v{version} as {correlation_id}",
            M::NAME
        );
        cx.broker.send(conn, w.into_buf().freeze());
        if let Some(what) = what {
            self.pending.push_back(Sent {
                correlation_id,
                version,
                api,
                at: cx.now().mono.0,
                what,
            });
        }
        Ok(())
    }

    /// The next thing that happened.
    pub(crate) fn poll(&mut self, cx: &mut Cx<'_>) -> Check<Option<Event<T>>> {
        let Some(conn) = self.conn else {
            return Ok(None);
        };
        match cx.broker.receive(conn) {
            Ok(None) => Ok(None),
            Err(()) => {
                note!(cx.trace, "{} hears that {} is closed", self.name, conn.0);
                self.conn = None;
                Ok(Some(Event::Closed(self.pending.drain(..).collect())))
            }
            Ok(Some(frame)) => {
                let Some(sent) = self.pending.pop_front() else {
                    return Err(format!(
                        "{} got an answer that it did not ask for",
                        self.name
                    ));
                };
                let mut r = Reader::new(&frame);
                let correlation_id = r.i32();
                if correlation_id != sent.correlation_id {
                    let (name, expected) = (&self.name, sent.correlation_id);
                    return Err(format!(
                        "{name} got answer {correlation_id} instead of {expected}"
                    ));
                }
                let tagged = sent.api.info().response_header_version(sent.version) >= 1;
                let at = if tagged { 5 } else { 4 };
                let body = frame.slice(at.min(frame.len())..);
                Ok(Some(Event::Answer(sent, body)))
            }
        }
    }

    /// Disconnects; returns what was not answered.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>) -> Vec<Sent<T>> {
        if let Some(conn) = self.conn.take() {
            note!(cx.trace, "{} disconnects {}", self.name, conn.0);
            cx.broker.disconnect(conn, cx.rng);
        }
        self.pending.drain(..).collect()
    }

    /// Whether the oldest request has waited longer than so many milliseconds.
    pub(crate) fn waits_longer_than(&self, cx: &Cx<'_>, ms: u64) -> bool {
        let now = cx.broker.mono;
        self.pending
            .front()
            .is_some_and(|s| now.saturating_sub(s.at) > ms * 1_000_000)
    }
}

/// Decodes an answer as a whole.
pub(crate) fn decode<'a, M: Response<'a>>(body: &'a [u8], version: i16) -> Check<M> {
    M::decode_exact(body, version).map_err(|e| format!("{} v{version}: {e}", M::NAME))
}
