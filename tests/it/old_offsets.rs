//! A go-between for clients that still ask for offsets in version 0 of ListOffsets, which brokers
//! no longer serve (Burrow up to 1.9.3). That request becomes version 1 and its answer version 0
//! again; every other byte passes as it is. The broker advertises the go-between's port.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

/// Frames above this are refused.
const FRAME_LIMIT: usize = 128 << 20;
/// The API key of ListOffsets.
const LIST_OFFSETS: i16 = 2;

/// A running go-between. Dropping it closes its connections.
#[derive(Debug)]
pub struct OldOffsets {
    port: u16,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl OldOffsets {
    /// Listens on `port` of the loopback address and passes on to `upstream`.
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(port: u16, upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        let (stopped, kept, upstream) = (stop.clone(), open.clone(), upstream.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A broker that is down now is the client's to notice.
                let _ = pass(client, &upstream, &kept);
            }
        });
        Ok(Self { port, stop, open })
    }
}

impl Drop for OldOffsets {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Starts the two threads of one connection.
fn pass(client: TcpStream, upstream: &str, open: &Mutex<Vec<TcpStream>>) -> Result<()> {
    let server = TcpStream::connect(upstream)?;
    let mut kept = open.lock().unwrap_or_else(PoisonError::into_inner);
    kept.extend([client.try_clone()?, server.try_clone()?]);
    let asked: Arc<Mutex<BTreeSet<i32>>> = Arc::default();
    let noted = asked.clone();
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let translate = |frame: Vec<u8>| {
            let Some((id, new)) = newer_request(&frame) else {
                return frame;
            };
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.insert(id);
            new
        };
        let _ = copy(&mut from, &mut to, translate);
        let _ = to.shutdown(Shutdown::Both);
    });
    let (mut from, mut to) = (server, client);
    std::thread::spawn(move || {
        let translate = |frame: Vec<u8>| {
            let id = Cursor(&frame).i32();
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let old = id.filter(|id| asked.remove(id));
            old.and_then(|_| older_answer(&frame)).unwrap_or(frame)
        };
        let _ = copy(&mut from, &mut to, translate);
        let _ = to.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// Frames from one side to the other until one of them ends.
fn copy(
    from: &mut TcpStream,
    to: &mut TcpStream,
    translate: impl Fn(Vec<u8>) -> Vec<u8>,
) -> Result<()> {
    loop {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        ensure!(length <= FRAME_LIMIT, "a frame of {length} bytes");
        let mut frame = vec![0; length];
        from.read_exact(&mut frame)?;
        let frame = translate(frame);
        let length = i32::try_from(frame.len()).context("a frame")?;
        to.write_all(&length.to_be_bytes())?;
        to.write_all(&frame)?;
    }
}

/// Big-endian fields from the front of a frame.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A string with its length, as it stands; a negative length is no string.
    fn string(&mut self) -> Option<&'a [u8]> {
        let all = self.0;
        let length = usize::try_from(self.i16()?.max(0)).ok()?;
        self.take(length)?;
        all.get(..2 + length)
    }

    /// The count of an array, passed on.
    fn count(&mut self, out: &mut Vec<u8>) -> Option<i32> {
        let count = self.i32()?;
        out.extend(count.to_be_bytes());
        Some(count)
    }
}

/// Correlation id and version 1 of a ListOffsets request of version 0; nothing for any other.
fn newer_request(frame: &[u8]) -> Option<(i32, Vec<u8>)> {
    let mut from = Cursor(frame);
    if (from.i16()?, from.i16()?) != (LIST_OFFSETS, 0) {
        return None;
    }
    let mut out = Vec::with_capacity(frame.len());
    out.extend(LIST_OFFSETS.to_be_bytes());
    out.extend(1i16.to_be_bytes());
    let id = from.count(&mut out)?; // the correlation id, an i32 as counts are
    out.extend(from.string()?);
    out.extend(from.take(4)?); // the replica
    for _ in 0..from.count(&mut out)? {
        out.extend(from.string()?);
        for _ in 0..from.count(&mut out)? {
            out.extend(from.take(4 + 8)?); // partition and time
            from.take(4)?; // how many offsets are asked for
        }
    }
    Some((id, out))
}

/// Version 0 of an answer of version 1: a list of one offset instead of time and offset.
fn older_answer(frame: &[u8]) -> Option<Vec<u8>> {
    let mut from = Cursor(frame);
    let mut out = Vec::with_capacity(frame.len());
    out.extend(from.take(4)?); // the correlation id
    for _ in 0..from.count(&mut out)? {
        out.extend(from.string()?);
        for _ in 0..from.count(&mut out)? {
            out.extend(from.take(4 + 2)?); // partition and error
            from.take(8)?; // time
            out.extend(1i32.to_be_bytes());
            out.extend(from.take(8)?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_change_their_version() {
        let topic = b"\x00\x01t";
        let old: Vec<&[u8]> = vec![
            b"\x00\x02\x00\x00\x00\x00\x00\x09\x00\x02me\xff\xff\xff\xff",
            b"\x00\x00\x00\x01",
            topic,
            b"\x00\x00\x00\x01\x00\x00\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x01",
        ];
        let new: Vec<&[u8]> = vec![
            b"\x00\x02\x00\x01\x00\x00\x00\x09\x00\x02me\xff\xff\xff\xff",
            b"\x00\x00\x00\x01",
            topic,
            b"\x00\x00\x00\x01\x00\x00\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        assert_eq!(newer_request(&old.concat()), Some((9, new.concat())));
        assert_eq!(newer_request(&new.concat()), None);
        let answer = b"\x00\x00\x00\x09\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x01\x00\x00\x00\x03\
            \x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x00\x00\x00\x00\x2a";
        let expected = b"\x00\x00\x00\x09\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x01\x00\x00\x00\x03\
            \x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x2a";
        assert_eq!(older_answer(answer), Some(expected.to_vec()));
        assert_eq!(older_answer(&answer[..20]), None);
    }
}
