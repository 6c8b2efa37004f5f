//! One request on its way through the shards, and the obligation to answer it.

use crate::io::{ConnId, Response, Segment};
use bytes::{BufMut, Bytes, BytesMut};
use flumen_base::{Mono, ShardId};
use flumen_wire::{ApiInfo, EncodeError, Message, Writer};
use std::net::SocketAddr;

/// A request whose header is parsed. Travels to another shard as it is: its bytes are shared, not
/// copied.
#[derive(Debug)]
pub struct Request {
    /// Which API and version, and how to answer.
    pub(crate) reply: Reply,
    /// The frame from the end of the header on.
    pub(crate) body: Bytes,
    /// The header's client id; empty where null.
    pub(crate) client_id: Bytes,
    /// Index of the listener it came through.
    pub(crate) listener: usize,
    /// The client's address.
    pub(crate) peer: SocketAddr,
}

impl Request {
    /// The client id as text ("" where it is not UTF-8: the header parser has refused that before).
    pub(crate) fn client_id(&self) -> &str {
        std::str::from_utf8(&self.client_id).unwrap_or("")
    }

    /// The version of the request.
    pub(crate) fn version(&self) -> i16 {
        self.reply.version
    }
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyTo {
    /// The slot of a connection of this shard.
    Conn(ConnId, u64),
    /// A request forwarded by another shard, by that shard's number for it.
    Shard(ShardId, u64),
}

/// The obligation to answer one request exactly once: it is moved to whoever answers. Dropping it
/// without an answer would stall the connection; [`crate::Shard`] counts them in debug builds
/// through the connection's slots.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) to: ReplyTo,
    pub(crate) api: &'static ApiInfo,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    /// When the frame came, for the latency histogram.
    pub(crate) received: Mono,
}

impl Reply {
    /// Frames `message`: size, header, body.
    pub(crate) fn frame<'m, M: Message<'m>>(&self, message: &M) -> Result<Response, EncodeError> {
        let mut writer = Writer::with_buf(self.start(128));
        message.encode(&mut writer, self.version)?;
        Ok(finish(writer.into_buf(), Vec::new()))
    }

    /// The start of a hand-framed response: room for the size, then the header.
    pub(crate) fn start(&self, capacity: usize) -> BytesMut {
        let mut buf = BytesMut::with_capacity(capacity);
        buf.put_i32(0);
        buf.put_i32(self.correlation_id);
        if self.api.response_header_version(self.version) >= 1 {
            buf.put_u8(0); // no tagged fields
        }
        buf
    }
}

/// Puts the size into a frame begun with [`Reply::start`], which is followed by `rest`.
pub(crate) fn finish(mut head: BytesMut, rest: Vec<Segment>) -> Response {
    let len = head.len() - 4 + rest.iter().map(Segment::len).sum::<usize>();
    head[..4].copy_from_slice(&(len as u32).to_be_bytes());
    let mut segments = Vec::with_capacity(1 + rest.len());
    segments.push(Segment::Bytes(head.freeze()));
    segments.extend(rest);
    Response { segments }
}
