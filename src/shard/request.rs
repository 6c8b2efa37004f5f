//! One request on its way through the shards, and the obligation to answer it.

use crate::io::{ConnId, Response, Segment};
use bytes::{Bytes, BytesMut};
use flumen_base::{Mono, ShardId};
use flumen_wire::{ApiInfo, EncodeError, Message, Writer};
use smallvec::{SmallVec, smallvec};
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
        Ok(finish(writer.into_buf(), std::iter::empty()))
    }

    /// Frames a small response in memory that it shares with others.
    pub(crate) fn frame_small(
        &self,
        memory: &mut ResponseMemory,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Bytes, EncodeError> {
        let mut buf = memory.take();
        self.put_start(&mut buf);
        let mut writer = Writer::with_buf(buf);
        body(&mut writer);
        let checked = writer.check();
        writer.patch_i32(0, (writer.len() - 4) as i32);
        let mut buf = writer.into_buf();
        let frame = buf.split().freeze();
        memory.give_back(buf);
        checked.map(|()| frame)
    }

    /// The start of a hand-framed response: room for the size, then the header.
    pub(crate) fn start(&self, capacity: usize) -> BytesMut {
        let mut buf = BytesMut::with_capacity(capacity);
        self.put_start(&mut buf);
        buf
    }

    fn put_start(&self, buf: &mut BytesMut) {
        let mut start = [0; 9]; // the last is that of no tagged fields
        start[4..8].copy_from_slice(&self.correlation_id.to_be_bytes());
        let tagged = self.api.response_header_version(self.version) >= 1;
        let start: &[u8] = if tagged { &start } else { &start[..8] };
        buf.extend_from_slice(start);
    }
}

/// What a request is answered with: a whole response, or the one piece of memory that is all of it,
/// which goes from hand to hand more lightly.
pub(crate) trait Answer: Into<Response> {
    /// Length in bytes.
    fn bytes(&self) -> usize;

    /// Bytes that it keeps in memory until it is sent.
    fn bytes_in_memory(&self) -> usize;
}

impl Answer for Response {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn bytes_in_memory(&self) -> usize {
        Self::bytes_in_memory(self)
    }
}

impl Answer for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn bytes_in_memory(&self) -> usize {
        self.len()
    }
}

impl From<Bytes> for Response {
    fn from(bytes: Bytes) -> Self {
        Self {
            segments: smallvec![Segment::Bytes(bytes)],
        }
    }
}

/// What is left when new memory is taken: room for nearly all small responses.
const SMALL_RESPONSE_BYTES: usize = 256;
/// Memory that small responses share. One that a client does not take keeps all of it: times
/// `CONN_REQUESTS_IN_FLIGHT_MAX` it is less than a connection may be owed anyway.
const RESPONSE_MEMORY_BYTES: usize = 16 << 10;

/// Where small responses are written, one behind the other. Once all of them have left, the same
/// memory is used again.
#[derive(Debug, Default)]
pub(crate) struct ResponseMemory {
    rest: BytesMut,
}

impl ResponseMemory {
    /// Room for a small response. Give back what is left.
    pub(crate) fn take(&mut self) -> BytesMut {
        let mut buf = std::mem::take(&mut self.rest);
        if buf.capacity() < SMALL_RESPONSE_BYTES {
            buf.reserve(RESPONSE_MEMORY_BYTES);
        }
        buf
    }

    /// What a response has left.
    pub(crate) fn give_back(&mut self, rest: BytesMut) {
        self.rest = rest;
    }
}

/// Puts the size into a frame begun with [`Reply::start`], which is followed by `rest`.
pub(crate) fn finish(mut head: BytesMut, rest: impl IntoIterator<Item = Segment>) -> Response {
    let mut segments: SmallVec<[Segment; 4]> = smallvec![Segment::Bytes(Bytes::new())];
    segments.extend(rest);
    let len = head.len() - 4 + segments.iter().map(Segment::len).sum::<usize>();
    head[..4].copy_from_slice(&(len as u32).to_be_bytes());
    if let Some(first) = segments.first_mut() {
        *first = Segment::Bytes(head.freeze());
    }
    Response { segments }
}
