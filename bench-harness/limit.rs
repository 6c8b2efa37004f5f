//! The limit probes: a server that does the least work that a workload needs, so that its result
//! is what the kernel and the hardware allow.
//!
//! It speaks as much of the protocol as the load generator of this crate, so that the same client
//! with the same connections and requests in flight runs against it. One thread, epoll, one input
//! buffer that stays in the cache, answers prepared beforehand, nothing allocated per request, one
//! send for all answers to what one read brought.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::limit_peer::{Peer, Shared};
use crate::limit_store::{Log, Oldest, Piece, Removed, Syncer, remover, write};
use crate::setup::resolve;

const INPUT_BYTES: usize = 256 * 1024;
/// Reads of one connection before others get their turn.
const READS_PER_TURN: usize = 4;
const LISTENER: Token = Token(usize::MAX);
const SYNCED: Token = Token(usize::MAX - 1);

/// What the probe does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Answers produce requests without looking into them
    Echo,
    /// Receives, checks the CRC, writes to a file per partition, answers
    ReceiveCrcWrite,
    /// The same, with one sync of all written files before the answers
    ReceiveCrcWriteSync,
    /// Receives, checks the CRC and writes all to one file, and serves fetches from it by sendfile
    Sendfile,
    /// The same, and serves fetches from memory
    ServeCopy,
}

impl Kind {
    /// Whether produced records are kept.
    pub fn stores(self) -> bool {
        self != Self::Echo
    }
}

/// Arguments of the probe.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// What it does
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// Where it listens, host:port
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub listen: String,
    /// Where it writes, for all kinds but echo; a new directory that the caller removes
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Overwrite the oldest segment in place of removing it and creating a new one
    #[arg(long)]
    pub recycle: bool,
}

/// One partition's log and, for serve-copy, its bytes.
#[derive(Debug)]
pub struct Stored {
    /// On disk.
    pub log: Log,
    /// In memory.
    pub data: Vec<u8>,
    /// Batches that are there in part: nobody reads meanwhile.
    pub arriving: usize,
}

/// All logs by topic and partition.
#[derive(Debug)]
pub struct Topics {
    dir: PathBuf,
    oldest: Oldest,
    synced: bool,
    /// Name and, by partition, the index into `logs`.
    names: Vec<(String, Vec<Option<usize>>)>,
    /// In order of creation.
    pub logs: Vec<Stored>,
}

impl Topics {
    /// The index of a topic.
    pub fn topic(&mut self, name: &str) -> usize {
        let found = self.names.iter().position(|(n, _)| n == name);
        found.unwrap_or_else(|| {
            self.names.push((name.to_owned(), Vec::new()));
            self.names.len() - 1
        })
    }

    /// The index of a partition's log, which is created if need be.
    ///
    /// # Errors
    /// It cannot be created, or the partition is out of range.
    pub fn index(&mut self, topic: usize, partition: i32) -> Result<usize> {
        let (name, parts) = self.names.get_mut(topic).context("a topic")?;
        let at = usize::try_from(partition)?;
        ensure!(at < 100_000, "partition {partition}");
        if parts.len() <= at {
            parts.resize(at + 1, None);
        }
        let place = parts.get_mut(at).context("inside")?;
        if let Some(index) = place {
            return Ok(*index);
        }
        let dir = self.dir.join(format!("{name}-{partition}"));
        let log = Log::new(dir, self.oldest, self.synced)?;
        self.logs.push(Stored {
            log,
            data: Vec::new(),
            arriving: 0,
        });
        Ok(*place.insert(self.logs.len() - 1))
    }

    /// The end offset of a partition, 0 where there is none.
    pub fn end(&self, topic: &str, partition: i32) -> i64 {
        let parts = self.names.iter().find(|(n, _)| n == topic).map(|(_, p)| p);
        let at = usize::try_from(partition).unwrap_or(usize::MAX);
        let index = parts.and_then(|p| p.get(at)).copied().flatten();
        index
            .and_then(|i| self.logs.get(i))
            .map_or(0, |s| s.log.end)
    }
}

/// A probe that listens.
pub struct Server {
    kind: Kind,
    poll: Poll,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    topics: Topics,
    input: Vec<u8>,
    pieces: Vec<Piece>,
    helper: SyncSender<Removed>,
    syncer: Option<Syncer>,
    dirty: Vec<Arc<File>>,
    /// Records have come in this turn.
    appended: bool,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The address is in use, or a kind that writes has no directory.
    pub fn bind(args: &LimitArgs) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(resolve(&args.listen)?)?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        ensure!(
            args.dir.is_some() || args.kind == Kind::Echo,
            "this kind needs --dir"
        );
        let oldest = match args.kind {
            Kind::Sendfile | Kind::ServeCopy => Oldest::Kept,
            _ if args.recycle => Oldest::Overwritten,
            _ => Oldest::Removed,
        };
        let syncer = if args.kind == Kind::ReceiveCrcWriteSync {
            Some(Syncer::new(&Arc::new(Waker::new(poll.registry(), SYNCED)?)))
        } else {
            None
        };
        Ok(Self {
            kind: args.kind,
            poll,
            listener,
            peers: Vec::new(),
            topics: Topics {
                dir: args.dir.clone().unwrap_or_default(),
                oldest,
                synced: syncer.is_some(),
                names: Vec::new(),
                logs: Vec::new(),
            },
            input: vec![0; INPUT_BYTES],
            pieces: Vec::with_capacity(1024),
            helper: remover(),
            syncer,
            dirty: Vec::new(),
            appended: false,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until `stop`, which is looked at ten times a second.
    ///
    /// # Errors
    /// The disk or the event queue failed; a connection that fails is closed.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let (mut again, mut next) = (Vec::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let wait = if again.is_empty() { 100 } else { 0 };
            self.poll
                .poll(&mut events, Some(Duration::from_millis(wait)))?;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    SYNCED => {}
                    Token(n) => {
                        if self.serve(n, event.is_readable()) {
                            next.push(n);
                        }
                    }
                }
            }
            for n in again.drain(..) {
                if self.serve(n, true) {
                    next.push(n);
                }
            }
            std::mem::swap(&mut again, &mut next);
            self.sync()?;
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            stream.set_nodelay(true)?;
            let n = self.peers.len();
            self.register(&mut stream, n)?;
            self.peers.push(Some(Peer::new(stream, self.kind)));
        }
    }

    fn register(&self, stream: &mut TcpStream, n: usize) -> Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(stream, Token(n), interest)?;
        Ok(())
    }

    /// Serves one connection and closes it when it ended; whether it needs another turn at once.
    fn serve(&mut self, n: usize, readable: bool) -> bool {
        let Some(mut peer) = self.peers.get_mut(n).and_then(Option::take) else {
            return false;
        };
        let Ok(Some(again)) = self.turn(&mut peer, readable) else {
            return false; // dropped, and with it closed
        };
        if let Some(place) = self.peers.get_mut(n) {
            *place = Some(peer);
        }
        if std::mem::take(&mut self.appended) {
            self.wake();
        }
        again
    }

    /// Reads, writes and answers; nothing when the connection ended.
    fn turn(&mut self, peer: &mut Peer, readable: bool) -> Result<Option<bool>> {
        let mut again = readable;
        for _ in 0..if readable { READS_PER_TURN } else { 0 } {
            let start = peer.partial.len();
            let kept = self.input.get_mut(..start).context("a small rest")?;
            kept.copy_from_slice(&peer.partial);
            let room = self.input.get_mut(start..).context("room")?;
            let wanted = room.len();
            let count = match peer.stream.read(room) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            if count > 0 {
                self.take(peer, start + count)?;
            }
            if count < wanted {
                again = false;
                break;
            }
        }
        peer.send(&self.topics)?;
        Ok(Some(again))
    }

    fn take(&mut self, peer: &mut Peer, filled: usize) -> Result<()> {
        self.pieces.clear();
        let mut shared = Shared {
            topics: &mut self.topics,
            pieces: &mut self.pieces,
            helper: &self.helper,
        };
        let done = peer.take(&mut self.input, filled, &mut shared)?;
        if !self.pieces.is_empty() {
            write(&self.pieces, &self.input)?;
            if self.kind == Kind::ServeCopy {
                self.keep()?;
            }
            self.pieces.clear();
            self.appended = true;
        }
        peer.partial.clear();
        let rest = self.input.get(done..filled).unwrap_or_default();
        peer.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Keeps what was written in memory, too: each log is one file here.
    fn keep(&mut self) -> Result<()> {
        for piece in &self.pieces {
            let mut logs = self.topics.logs.iter_mut();
            let stored = logs.find(|stored| piece.slot.is_in(&stored.log));
            let bytes = self.input.get(piece.from..piece.from + piece.bytes);
            let data = &mut stored.context("a log")?.data;
            data.extend_from_slice(bytes.context("inside the input")?);
        }
        Ok(())
    }

    /// Sends what has come to those who wait for it.
    fn wake(&mut self) {
        for place in &mut self.peers {
            if let Some(peer) = place
                && peer.wake(&self.topics).is_err()
            {
                *place = None;
            }
        }
    }

    /// Answers what the last sync made durable and begins the next one. While it is under way the
    /// next requests are received and written: they share the sync after it.
    fn sync(&mut self) -> Result<()> {
        let Some(syncer) = &self.syncer else {
            return Ok(());
        };
        if !syncer.idle()? {
            return Ok(());
        }
        let mut waiting = false;
        for place in &mut self.peers {
            let Some(peer) = place else { continue };
            if !peer.syncing.is_empty() {
                peer.out.append(&mut peer.syncing);
                if peer.send(&self.topics).is_err() {
                    *place = None;
                    continue;
                }
            }
            std::mem::swap(&mut peer.unsynced, &mut peer.syncing);
            waiting |= !peer.syncing.is_empty();
        }
        if waiting {
            for stored in &mut self.topics.logs {
                stored.log.take_dirty(&mut self.dirty);
            }
            syncer.begin(&mut self.dirty)?;
        }
        Ok(())
    }
}

/// Runs the probe until the process is ended.
///
/// # Errors
/// As `Server::bind` and `Server::run`.
pub fn limit(args: &LimitArgs) -> Result<()> {
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| shown(dir))?;
    }
    Server::bind(args)?.run(&AtomicBool::new(false))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
