//! One connection of the limit probe: takes requests apart as their bytes arrive, without waiting
//! for whole ones, and sends what is owed.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Write as _};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Buf as _;
use mio::net::TcpStream;
use rustix::net::{SendFlags, send};

use crate::frames::{self, FETCH_VERSION, Fields, PRODUCE_VERSION};
use crate::limit::{Kind, Topics};
use crate::limit_answers::{CORRELATION_AT, FetchHead, produced, set_up};
use crate::limit_store::{Log, Piece, Removed, Slot};
use std::sync::mpsc::SyncSender;

/// Before a batch's bytes that are not covered by its checksum are past.
const UNCOVERED_BYTES: usize = 21;
/// The header of a partition in a Produce request and all of its batch's header.
const PARTITION_HEAD_BYTES: usize = 8 + 61;

/// The batch that is arriving.
struct Arriving {
    left: usize,
    crc: crc_fast::Digest,
    expected: u32,
    slot: Option<Slot>,
    /// Index of its log.
    log: Option<usize>,
}

/// The Produce request that is arriving.
struct Request {
    correlation: i32,
    partitions_left: i32,
    batch: Option<Arriving>,
    /// Bytes of it that are still to come, for one that is not looked into.
    skip: usize,
}

/// A fetch that found nothing yet.
#[derive(Clone, Copy)]
struct Waiting {
    partition: i32,
    log: usize,
    correlation: i32,
    offset: i64,
    bytes: usize,
}

/// A fetch answer being sent: position in head and records together.
struct Serving {
    partition: i32,
    log: usize,
    correlation: i32,
    from: u64,
    bytes: usize,
    sent: usize,
}

/// One connection.
pub struct Peer {
    /// The socket.
    pub stream: TcpStream,
    kind: Kind,
    /// Bytes that could not be taken apart yet.
    pub partial: Vec<u8>,
    request: Option<Request>,
    /// Acks of the requests on this connection, and its answer, known from the first one.
    acks: i16,
    canned: Vec<u8>,
    /// Index of the topic and partitions seen in the first request.
    topic: Option<usize>,
    name: String,
    seen: Vec<i32>,
    /// Answers to send now.
    pub out: Vec<u8>,
    /// Answers whose records wait for the next sync, and for the one under way.
    pub unsynced: Vec<u8>,
    /// See `unsynced`.
    pub syncing: Vec<u8>,
    serving: VecDeque<Serving>,
    waiting: Option<Waiting>,
    head: Option<FetchHead>,
}

/// What the connections share while they take bytes apart.
pub struct Shared<'a> {
    /// All logs.
    pub topics: &'a mut Topics,
    /// Writes of this read.
    pub pieces: &'a mut Vec<Piece>,
    /// Removes segments.
    pub helper: &'a SyncSender<Removed>,
}

impl Peer {
    /// A new connection.
    pub fn new(stream: TcpStream, kind: Kind) -> Self {
        Self {
            stream,
            kind,
            partial: Vec::new(),
            request: None,
            acks: -1,
            canned: Vec::new(),
            topic: None,
            name: String::new(),
            seen: Vec::new(),
            out: Vec::new(),
            unsynced: Vec::new(),
            syncing: Vec::new(),
            serving: VecDeque::new(),
            waiting: None,
            head: None,
        }
    }

    /// Takes the first `filled` bytes of the input apart and says how many are done with; the
    /// others must be there again the next time, with more behind them.
    ///
    /// # Errors
    /// The bytes are none of the load generator's requests, or a checksum is wrong.
    pub fn take(
        &mut self,
        input: &mut [u8],
        filled: usize,
        shared: &mut Shared<'_>,
    ) -> Result<usize> {
        let mut at = 0;
        while at < filled {
            let done = match &self.request {
                Some(_) => self.go_on(input, at, filled, shared)?,
                None => self.begin(input, at, filled, shared)?,
            };
            if done == 0 {
                break;
            }
            at += done;
        }
        Ok(at)
    }

    /// Begins a request at `at`; 0 when too little of it is there.
    fn begin(
        &mut self,
        input: &mut [u8],
        at: usize,
        filled: usize,
        shared: &mut Shared<'_>,
    ) -> Result<usize> {
        let bytes = input.get(at..filled).unwrap_or_default();
        let Some(start) = bytes.first_chunk::<12>() else {
            return Ok(0);
        };
        let mut start = &start[..];
        let length = usize::try_from(start.get_i32())?;
        let (key, version, correlation) = (start.get_i16(), start.get_i16(), start.get_i32());
        if key == 0 {
            ensure!(version == PRODUCE_VERSION, "Produce of version {version}");
            if self.kind == Kind::Echo && !self.canned.is_empty() {
                let taken = bytes.len().min(length + 4);
                self.request = Some(Request {
                    correlation,
                    partitions_left: 0,
                    batch: None,
                    skip: length + 4 - taken,
                });
                self.finish_if_over()?;
                return Ok(taken);
            }
            return self.begin_produce(bytes, correlation, shared);
        }
        let Some(request) = bytes.get(4..4 + length) else {
            return Ok(0);
        };
        if key == 1 {
            ensure!(version == FETCH_VERSION, "Fetch of version {version}");
            self.fetch(request, correlation, shared.topics)?;
        } else {
            let topics = &*shared.topics;
            let answer = set_up(request, |topic, partition| topics.end(topic, partition))?;
            self.out.extend_from_slice(&answer);
        }
        Ok(4 + length)
    }

    /// Reads a Produce request up to its first partition.
    fn begin_produce(
        &mut self,
        bytes: &[u8],
        correlation: i32,
        shared: &mut Shared<'_>,
    ) -> Result<usize> {
        let mut fields = Fields(bytes);
        let mut read = || -> Result<(i16, usize, usize, i32)> {
            fields.take(12)?;
            fields.string()?; // client id
            fields.string()?; // transactional id
            let acks = fields.i16()?;
            fields.i32()?; // timeout
            ensure!(fields.i32()? == 1, "one topic");
            let name_at = bytes.len() - fields.0.len() + 2;
            fields.string()?;
            let name_end = bytes.len() - fields.0.len();
            Ok((acks, name_at, name_end, fields.i32()?))
        };
        // Whatever is missing comes with the next read: a head is far smaller than a read.
        let Ok((acks, name_at, name_end, partitions_left)) = read() else {
            ensure!(
                bytes.len() < 4096,
                "a Produce request without an end of its head"
            );
            return Ok(0);
        };
        self.acks = acks;
        if self.topic.is_none() {
            let name = bytes.get(name_at..name_end).unwrap_or_default();
            std::str::from_utf8(name)?.clone_into(&mut self.name);
            self.topic = Some(shared.topics.topic(&self.name));
        }
        self.request = Some(Request {
            correlation,
            partitions_left,
            batch: None,
            skip: 0,
        });
        Ok(bytes.len() - fields.0.len())
    }

    /// Goes on with the request at `at`; 0 when too little of it is there.
    fn go_on(
        &mut self,
        input: &mut [u8],
        at: usize,
        filled: usize,
        shared: &mut Shared<'_>,
    ) -> Result<usize> {
        let Some(request) = &mut self.request else {
            return Ok(0);
        };
        let bytes = input.get_mut(at..filled).unwrap_or_default();
        let taken = if request.skip > 0 {
            let taken = request.skip.min(bytes.len());
            request.skip -= taken;
            taken
        } else if let Some(batch) = &mut request.batch {
            let taken = batch.left.min(bytes.len());
            let part = bytes.get(..taken).unwrap_or_default();
            if let Some(slot) = &mut batch.slot {
                batch.crc.update(part);
                let (slot, from) = (slot.advance(taken), at);
                shared.pieces.push(Piece {
                    slot,
                    from,
                    bytes: taken,
                });
            }
            batch.left -= taken;
            if batch.left == 0 {
                let crc = batch.crc.finalize();
                let right = batch.log.is_none() || crc == u64::from(batch.expected);
                ensure!(right, "a batch with a wrong checksum");
                let log = batch.log.and_then(|n| shared.topics.logs.get_mut(n));
                if let Some(stored) = log {
                    stored.arriving -= 1;
                }
                request.batch = None;
            }
            taken
        } else {
            let needed = PARTITION_HEAD_BYTES;
            if bytes.len() < needed {
                return Ok(0);
            }
            self.partition(bytes, at, shared)?
        };
        self.finish_if_over()?;
        Ok(taken)
    }

    /// Reads a partition's head and the part of its batch that its checksum does not cover.
    fn partition(&mut self, bytes: &mut [u8], at: usize, shared: &mut Shared<'_>) -> Result<usize> {
        let mut fields = Fields(bytes);
        let (index, length) = (fields.i32()?, usize::try_from(fields.i32()?)?);
        let records = bytes.get(8 + 23..).context("a batch")?.get_i32() + 1;
        let expected = bytes.get(8 + 17..).context("a batch")?.get_u32();
        ensure!(length > UNCOVERED_BYTES, "a batch of {length} bytes");
        let request = self.request.as_mut().context("a request")?;
        request.partitions_left -= 1;
        if self.canned.is_empty() {
            self.seen.push(index);
        }
        let (mut slot, mut log) = (None, None);
        if self.kind.stores() {
            let topic = self.topic.context("a topic")?;
            let n = *log.insert(shared.topics.index(topic, index)?);
            let stored = shared.topics.logs.get_mut(n).context("a log")?;
            stored.arriving += 1;
            let (length, records) = (u64::try_from(length)?, i64::from(records));
            let (mut begin, base) = stored.log.reserve(length, records, shared.helper)?;
            frames::patch(bytes, 8, &base.to_be_bytes());
            let head = begin.advance(UNCOVERED_BYTES);
            let from = at + 8;
            shared.pieces.push(Piece {
                slot: head,
                from,
                bytes: UNCOVERED_BYTES,
            });
            slot = Some(begin);
        }
        request.batch = Some(Arriving {
            left: length - UNCOVERED_BYTES,
            // As quick as any broker's: a limit must not lose by its checksum.
            crc: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi),
            expected,
            slot,
            log,
        });
        Ok(8 + UNCOVERED_BYTES)
    }

    /// Owes the answer when the request has come to its end.
    fn finish_if_over(&mut self) -> Result<()> {
        let over = |r: &mut Request| r.skip == 0 && r.partitions_left == 0 && r.batch.is_none();
        let Some(request) = self.request.take_if(over) else {
            return Ok(());
        };
        if self.canned.is_empty() {
            self.canned = produced(&self.name, &self.seen)?;
        }
        if self.acks != 0 {
            let id = request.correlation.to_be_bytes();
            frames::patch(&mut self.canned, CORRELATION_AT, &id);
            let synced = self.kind == Kind::ReceiveCrcWriteSync;
            let owed = if synced {
                &mut self.unsynced
            } else {
                &mut self.out
            };
            owed.extend_from_slice(&self.canned);
        }
        Ok(())
    }

    /// Plans the answer to a Fetch of one partition, or has it wait until there is something. It
    /// waits for as long as that takes: who reads the end of a log is driven by who writes it.
    fn fetch(&mut self, request: &[u8], correlation: i32, topics: &mut Topics) -> Result<()> {
        let mut fields = Fields(request);
        fields.take(8)?;
        fields.string()?; // client id
        fields.take(4 + 4 + 4 + 4 + 1 + 4 + 4)?; // up to the session's epoch
        ensure!(fields.i32()? == 1, "one topic");
        let length = usize::try_from(fields.i16()?)?;
        let name = std::str::from_utf8(fields.take(length)?)?;
        ensure!(fields.i32()? == 1, "one partition");
        let partition = fields.i32()?;
        fields.i32()?; // leader epoch
        let offset = fields.i64()?;
        fields.i64()?; // log start
        let bytes = usize::try_from(fields.i32()?)?;
        if self.head.is_none() {
            self.head = Some(FetchHead::new(name)?);
            self.topic = Some(topics.topic(name));
        }
        let log = topics.index(self.topic.context("a topic")?, partition)?;
        self.waiting = Some(Waiting {
            partition,
            log,
            correlation,
            offset,
            bytes,
        });
        self.plan_waiting(topics)
    }

    /// Plans the answer to the fetch that waits, if there is something now.
    fn plan_waiting(&mut self, topics: &Topics) -> Result<()> {
        let Some(waiting) = self.waiting else {
            return Ok(());
        };
        let stored = topics.logs.get(waiting.log).context("a log")?;
        let (from, bytes) = stored.log.find(waiting.offset, waiting.bytes);
        if bytes > 0 && stored.arriving == 0 {
            self.waiting = None;
            self.serving.push_back(Serving {
                partition: waiting.partition,
                log: waiting.log,
                correlation: waiting.correlation,
                from,
                bytes,
                sent: 0,
            });
        }
        Ok(())
    }

    /// Sends what came to a log whose end was read.
    ///
    /// # Errors
    /// The connection ended.
    pub fn wake(&mut self, topics: &Topics) -> Result<()> {
        if self.waiting.is_some() {
            self.plan_waiting(topics)?;
            self.send(topics)?;
        }
        Ok(())
    }

    /// Sends what is owed until the socket is full.
    ///
    /// # Errors
    /// The connection ended.
    pub fn send(&mut self, topics: &Topics) -> Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => bail!("the connection is closed"),
                Ok(count) if count == self.out.len() => self.out.clear(),
                Ok(count) => drop(self.out.drain(..count)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        while let (Some(serving), Some(head)) = (self.serving.front_mut(), &mut self.head) {
            let stored = topics.logs.get(serving.log).context("a log")?;
            let end = stored.log.end;
            let head = head.patched(serving.correlation, serving.partition, end, serving.bytes);
            let whole = head.len() + serving.bytes;
            while serving.sent < whole {
                let count = match self.kind {
                    Kind::Sendfile => sendfile(&self.stream, head, serving, &stored.log),
                    _ => copy(&mut self.stream, head, serving, &stored.data),
                };
                match count {
                    Ok(0) => bail!("the connection is closed"),
                    Ok(count) => serving.sent += count,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.into()),
                }
            }
            self.serving.pop_front();
        }
        Ok(())
    }
}

/// Sends the rest of the head, or of the records from their file.
fn sendfile(
    stream: &TcpStream,
    head: &[u8],
    serving: &Serving,
    log: &Log,
) -> std::io::Result<usize> {
    if let Some(rest) = head.get(serving.sent..).filter(|r| !r.is_empty()) {
        let more = if serving.bytes > 0 {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
        return Ok(send(stream, rest, more)?);
    }
    let done = serving.sent - head.len();
    let mut from = serving.from + done as u64;
    Ok(rustix::fs::sendfile(
        stream,
        log.file(),
        Some(&mut from),
        serving.bytes - done,
    )?)
}

/// Sends the rest of the head and of the records from memory in one call.
fn copy(
    stream: &mut TcpStream,
    head: &[u8],
    serving: &Serving,
    data: &[u8],
) -> std::io::Result<usize> {
    let from = usize::try_from(serving.from).unwrap_or(usize::MAX);
    let records = data.get(from..).and_then(|d| d.get(..serving.bytes));
    let records = records.unwrap_or_default();
    let head_rest = head.get(serving.sent..).unwrap_or_default();
    let done = serving.sent.saturating_sub(head.len());
    let records = records.get(done..).unwrap_or_default();
    stream.write_vectored(&[IoSlice::new(head_rest), IoSlice::new(records)])
}
