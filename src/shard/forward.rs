//! Requests in and answers out: from a frame to its handler, and from an answer to the slot it
//! belongs to, over the mesh where another shard handles the request.

use crate::Shard;
use crate::api::{self, Route};
use crate::conn::Conn;
use crate::in_order::keeps_order;
use crate::io::{CloseReason, ConnId, ConnInfo, Effect, Response};
use crate::mesh::Message as Mesh;
use crate::ops::OF_SHARES;
use crate::request::{Answer, Reply, ReplyTo, Request};
use crate::turn::Turn;
use bytes::{Buf, Bytes};
use flumen_base::ShardId;
use flumen_base::limits::{SHARD_CONNECTIONS_MAX, SHARD_FRAME_BYTES_MAX};
use flumen_wire::{ApiKey, DecodeError, EncodeError, Message, Reader, header};

impl Shard {
    pub(crate) fn on_conn_opened(&mut self, turn: &mut Turn<'_>, id: ConnId, info: ConnInfo) {
        let mut conn = Conn::new(info, turn.now.mono);
        let refused = if self.life.is_stopping() {
            Some(CloseReason::Shutdown)
        } else if self.conns.len() >= SHARD_CONNECTIONS_MAX {
            Some(CloseReason::TooManyConnections)
        } else {
            None
        };
        if let Some(reason) = refused {
            conn.close();
            turn.fx.push(Effect::CloseConn(id, reason));
        }
        self.conns.insert(id, conn);
    }

    pub(crate) fn on_conn_closed(&mut self, turn: &mut Turn<'_>, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        self.free_frames(turn, conn.frame_bytes());
        self.lines.remove(&id);
        self.in_order.remove(&id);
        for fetch in conn.fetches {
            match fetch & OF_SHARES {
                0 => self.cancel_fetch(fetch),
                _ => self.cancel_share_fetch(turn, fetch & !OF_SHARES),
            }
        }
        self.end_share_members(turn, id, &conn.share_members);
    }

    /// Frames are no longer in work: connections that were held back for want of memory go on.
    fn free_frames(&mut self, turn: &mut Turn<'_>, bytes: usize) {
        self.frame_bytes = self.frame_bytes.saturating_sub(bytes);
        if self.frame_bytes > SHARD_FRAME_BYTES_MAX / 2 || self.held_back.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.held_back) {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.hold_back(id, false, turn.fx);
            }
        }
    }

    /// One request: a slot, the header, the version, then its handler here or on the shard that
    /// decides.
    pub(crate) fn on_frame(&mut self, turn: &mut Turn<'_>, id: ConnId, mut frame: Bytes) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| !c.is_closing()) else {
            return;
        };
        if self.life.is_stopping() {
            self.close_conn(turn, id, CloseReason::Shutdown);
            return;
        }
        conn.last_active = turn.now.mono;
        let slot = conn.take_slot(frame.len());
        conn.update_reading(id, turn.fx);
        self.frame_bytes += frame.len();
        if self.frame_bytes > SHARD_FRAME_BYTES_MAX {
            conn.hold_back(id, true, turn.fx);
            self.held_back.push(id);
        }
        let (listener, peer) = (conn.info.listener, conn.info.peer);
        self.metrics.bytes_in += frame.len() as u64;
        match self.parse(turn, &mut frame, (id, slot), listener) {
            Ok((reply, handler, client_id)) => {
                let request = Request {
                    reply,
                    body: frame,
                    client_id,
                    listener,
                    peer,
                };
                match handler.route {
                    Route::Controller if self.id != ShardId::FIRST => {
                        self.forward(turn, ShardId::FIRST, request);
                    }
                    _ if keeps_order(handler.key) => self.enter_order(turn, id, request),
                    _ => (handler.run)(self, turn, request),
                }
            }
            Err(Some(reason)) => self.close_conn(turn, id, reason),
            Err(None) => {}
        }
    }

    /// Reads the header and takes it off the frame. `Err(None)` means that the request is answered
    /// already (ApiVersions of an unknown version).
    #[allow(clippy::type_complexity)] // the parts of one request, taken apart where it is called
    fn parse(
        &mut self,
        turn: &mut Turn<'_>,
        frame: &mut Bytes,
        (conn, slot): (ConnId, u64),
        listener: usize,
    ) -> Result<(Reply, &'static api::Handler, Bytes), Option<CloseReason>> {
        let malformed = |e: DecodeError| Some(CloseReason::Malformed(e.to_string()));
        let mut reader = Reader::new(frame);
        let first = header::request_header_start(&mut reader).map_err(malformed)?;
        let unknown = || Some(CloseReason::UnknownApi(first.api_key));
        let key = ApiKey::from_i16(first.api_key).ok_or_else(unknown)?;
        let mut reply = Reply {
            to: ReplyTo::Conn(conn, slot),
            api: key.info(),
            version: first.api_version,
            correlation_id: first.correlation_id,
            received: turn.now.mono,
        };
        let here = self.is_controller_listener(listener);
        let unstable = self.broker.quorum.unstable_api_versions;
        let handler =
            api::handler(key).filter(|h| h.serves(first.api_version, unstable) && h.is_on(here));
        let Some(handler) = handler else {
            if key == ApiKey::ApiVersions {
                reply.version = 0;
                api::api_versions::refuse_version(self, turn, reply);
                return Err(None);
            }
            let (key, version) = (first.api_key, first.api_version);
            return Err(Some(CloseReason::UnsupportedVersion(key, version)));
        };
        let flexible = reply.api.is_flexible(reply.version);
        let client_id = header::request_header_rest(&mut reader, flexible).map_err(malformed)?;
        let client_id = match client_id {
            None | Some("") => Bytes::new(),
            Some(text) => frame.slice_ref(text.as_bytes()),
        };
        let body_at = reader.position();
        frame.advance(body_at);
        Ok((reply, handler, client_id))
    }

    /// Whether the listener of this index is one of controllers.
    pub(crate) fn is_controller_listener(&self, listener: usize) -> bool {
        let listeners = &self.config.broker.listeners;
        listeners.get(listener).is_some_and(|l| l.controller)
    }

    /// Answers a request with a generated response.
    pub(crate) fn reply<'m, M: Message<'m>>(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        message: &M,
    ) {
        let response = reply.frame(message);
        self.send_framed(turn, reply, response);
    }

    /// Sends a response, or closes the connection if it could not be encoded.
    pub(crate) fn send_framed<A: Answer>(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        response: Result<A, EncodeError>,
    ) {
        match response {
            Ok(response) => self.send(turn, reply, Some(response)),
            Err(error) => {
                tracing::error!(api = reply.api.name, %error, "an answer could not be encoded");
                let reason = CloseReason::Malformed(error.to_string());
                self.close_reply(turn, reply, reason);
            }
        }
    }

    /// Answers a request with a framed response, or ends it with none (acks=0).
    pub(crate) fn send<A: Answer>(
        &mut self,
        turn: &mut Turn<'_>,
        reply: Reply,
        response: Option<A>,
    ) {
        match reply.to {
            ReplyTo::Conn(id, slot) => {
                let bytes = response.as_ref().map_or(0, Answer::bytes);
                self.metrics.answered(&reply, bytes, turn.now);
                if let Some(conn) = self.conns.get_mut(&id) {
                    let before = conn.frame_bytes();
                    conn.fill(id, slot, response, turn.fx);
                    let freed = before - conn.frame_bytes();
                    self.free_frames(turn, freed);
                }
                if !self.in_order.is_empty() && keeps_order(reply.api.key) {
                    self.answered_in_order(turn, id);
                }
            }
            ReplyTo::Shard(shard, n) => {
                let message = Mesh::Forwarded(n, response.map(|a| Box::new(a.into())));
                turn.fx.push(Effect::Mesh(shard, message));
            }
        }
    }

    /// The request's bytes are no such request: its connection ends, as in Kafka.
    pub(crate) fn malformed(&mut self, turn: &mut Turn<'_>, reply: Reply, error: DecodeError) {
        let reason = CloseReason::Malformed(format!(
            "{} version {}: {error}",
            reply.api.name, reply.version
        ));
        self.close_reply(turn, reply, reason);
    }

    /// Closes the connection that waits for this answer.
    pub(crate) fn close_reply(&mut self, turn: &mut Turn<'_>, reply: Reply, reason: CloseReason) {
        match reply.to {
            ReplyTo::Conn(id, _) => self.close_conn(turn, id, reason),
            ReplyTo::Shard(shard, n) => {
                let message = Mesh::ForwardedClose(n, reason);
                turn.fx.push(Effect::Mesh(shard, message));
            }
        }
    }

    pub(crate) fn close_conn(&mut self, turn: &mut Turn<'_>, id: ConnId, reason: CloseReason) {
        if let Some(conn) = self.conns.get_mut(&id)
            && conn.close()
        {
            self.metrics.conns_closed += 1;
            turn.fx.push(Effect::CloseConn(id, reason));
        }
    }

    /// Has another shard handle the whole request.
    pub(crate) fn forward(&mut self, turn: &mut Turn<'_>, to: ShardId, mut request: Request) {
        let n = self.next_id();
        let there = Reply {
            to: ReplyTo::Shard(self.id, n),
            api: request.reply.api,
            version: request.reply.version,
            correlation_id: request.reply.correlation_id,
            received: request.reply.received,
        };
        let here = std::mem::replace(&mut request.reply, there);
        self.forwards.insert(n, here);
        let message = Mesh::Forward(n, Box::new(request));
        turn.fx.push(Effect::Mesh(to, message));
    }

    /// Handles a request of a connection of shard `from`.
    pub(crate) fn on_forwarded(
        &mut self,
        turn: &mut Turn<'_>,
        from: ShardId,
        n: u64,
        request: Request,
    ) {
        debug_assert_eq!(request.reply.to, ReplyTo::Shard(from, n));
        if let Some(handler) = api::handler(request.reply.api.key) {
            (handler.run)(self, turn, request);
        }
    }

    pub(crate) fn on_forward_answered(
        &mut self,
        turn: &mut Turn<'_>,
        n: u64,
        answer: Option<Response>,
    ) {
        if let Some(reply) = self.forwards.remove(&n) {
            self.send(turn, reply, answer);
        }
    }

    pub(crate) fn on_forward_close(&mut self, turn: &mut Turn<'_>, n: u64, reason: CloseReason) {
        if let Some(reply) = self.forwards.remove(&n) {
            self.close_reply(turn, reply, reason);
        }
    }
}
