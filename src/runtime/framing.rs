//! From received bytes to request frames. A frame's memory grows with the bytes received, never
//! with the length that its size prefix claims; a large frame is received straight into its own
//! buffer, smaller ones as many at once as have come.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// Length of the size prefix.
const PREFIX: usize = 4;
/// What a new connection receives into, and what waits for the next bytes of a bulk sender.
const FIRST_BYTES: usize = 4 << 10;
/// Most bytes of a large frame that one receive is offered.
const RECV_BYTES_MAX: usize = 1 << 20;
/// Most bytes that one receive of several frames is offered: they are to be checked and written
/// while the second-level cache still has them.
const SHARED_BYTES_MAX: usize = 256 << 10;
/// Frames above this are received alone, so that the next one starts in its own buffer, until the
/// peer has shown that it sends frames of their size.
const LARGE_BYTES: usize = 32 << 10;
/// Frames above this are always received alone.
const SHARED_FRAME_MAX: usize = 128 << 10;
/// Spare bytes below which a fresh buffer is taken.
const SPARE_BYTES_MIN: usize = 512;
/// Smallest buffer for several frames, and how many a shard remembers: 2 MiB of the largest.
const SHARED_BYTES_MIN: usize = 64 << 10;
const SHARED_BUFS_MAX: usize = 8;

/// Why a byte stream is no sequence of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The size prefix is negative.
    #[error("negative request size {0}")]
    Negative(i32),
    /// The size prefix is larger than `socket.request.max.bytes`.
    #[error("request of {0} bytes is larger than the limit of {1}")]
    TooLarge(usize, usize),
}

/// Buffers for several frames of a shard's bulk senders. One is used again when the last of its
/// frames is done with: without the allocator, and while the caches have it.
#[derive(Default)]
pub(crate) struct SharedBufs {
    /// What is left of each, and its size; the latest first.
    bufs: VecDeque<(BytesMut, usize)>,
}

impl SharedBufs {
    /// An empty buffer with room for `bytes`, at most [`SHARED_BYTES_MAX`], and its size.
    fn take(&mut self, bytes: usize) -> (BytesMut, usize) {
        let size = bytes.next_power_of_two();
        let size = size.clamp(SHARED_BYTES_MIN, SHARED_BYTES_MAX);
        let is_free = |(buf, of): &mut (BytesMut, usize)| *of == size && buf.try_reclaim(size);
        let free = self.bufs.iter_mut().position(is_free);
        let free = free.and_then(|at| self.bufs.remove(at));
        free.unwrap_or_else(|| (BytesMut::with_capacity(size), size))
    }

    /// Takes back what is left of a buffer of this size.
    fn put(&mut self, mut buf: BytesMut, size: usize) {
        buf.clear();
        self.bufs.truncate(SHARED_BUFS_MAX - 1);
        self.bufs.push_front((buf, size));
    }
}

/// The receiving half of one connection.
pub(crate) struct FrameReader {
    buf: BytesMut,
    frame_max: usize,
    /// How much to offer to the next receive at a frame's start: follows what this peer has really
    /// sent.
    recv_bytes: usize,
    offered: usize,
    /// Length of the last frame, prefix included.
    last_frame: usize,
    /// Frames were cut from the buffer: what is left in it pins them.
    cut: bool,
    /// Size of the buffer if it is to be used again: one of [`SharedBufs`], or `first`; else 0.
    size: usize,
    /// What a bulk sender's next bytes are awaited with: [`FIRST_BYTES`].
    first: BytesMut,
}

impl FrameReader {
    pub(crate) fn new(frame_max: usize) -> Self {
        Self {
            buf: BytesMut::new(),
            frame_max,
            recv_bytes: FIRST_BYTES,
            offered: 0,
            last_frame: PREFIX,
            cut: false,
            size: 0,
            first: BytesMut::new(),
        }
    }

    /// Whether the peer sends so much that it pays to take all of it at once, and not before its
    /// turn has come.
    pub(crate) fn is_bulk(&self) -> bool {
        self.recv_bytes > LARGE_BYTES
    }

    /// Whether a bulk sender's next bytes are here, and belong before what is still to come.
    pub(crate) fn has_beginning(&self) -> bool {
        let whole = self.claimed().is_some_and(|total| total <= self.buf.len());
        self.is_bulk() && self.buf.len() <= FIRST_BYTES && !whole
    }

    /// Bytes received of a frame that is not whole yet.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.buf.len()
    }

    /// The buffer to receive into (behind its length) and how many bytes to ask for, after all
    /// whole frames were taken. `waiting`: bytes are there already. Without them a bulk sender's
    /// buffer is small: what will have come by the time of its turn is received then, into memory
    /// that others have just let go of.
    pub(crate) fn take_buf(&mut self, waiting: bool, bufs: &mut SharedBufs) -> (BytesMut, usize) {
        let have = self.buf.len();
        let bulk = self.is_bulk();
        if have == 0 && bulk {
            self.change_buf(BytesMut::new(), 0, bufs);
        }
        let spare = self.buf.capacity() - have;
        let want = match self.claimed() {
            Some(total) if self.is_alone(total) => {
                // At most doubles what has come, unless this peer has shown that it sends frames of
                // this size.
                let grown = (have * 2).max(LARGE_BYTES).max(self.recv_bytes);
                let missing = total - have;
                let want = missing.min(spare.max(grown - have.min(grown)).max(FIRST_BYTES));
                self.reserve(want);
                want
            }
            None if bulk && !waiting => {
                if have == 0 {
                    self.buf = match self.first.try_reclaim(FIRST_BYTES) {
                        true => std::mem::take(&mut self.first),
                        false => BytesMut::with_capacity(FIRST_BYTES),
                    };
                    self.size = FIRST_BYTES;
                }
                self.reserve(FIRST_BYTES);
                FIRST_BYTES
            }
            claimed => {
                // The next frame is likely to be like the last: one that a receive would cut is
                // received twice, and copied into the next buffer.
                let likely = self.last_frame.min(LARGE_BYTES);
                let missing = claimed.map_or(likely, |total| total - have);
                let ends = claimed.map_or(self.last_frame, |_| missing);
                let moves = bulk && waiting && have <= FIRST_BYTES;
                if spare < missing || spare < SPARE_BYTES_MIN || moves {
                    let more = missing.max(self.recv_bytes);
                    if bulk && waiting && have + missing <= SHARED_BYTES_MAX {
                        let (buf, size) = bufs.take((have + more).min(SHARED_BYTES_MAX));
                        self.change_buf(buf, size, bufs);
                    } else {
                        self.reserve(more);
                    }
                }
                let room = self.buf.capacity() - have;
                if bulk {
                    self.whole_frames(room, ends)
                } else {
                    room
                }
            }
        };
        let want = want.min(RECV_BYTES_MAX);
        debug_assert!(want > 0, "a receive of nothing looks like the end");
        self.offered = want;
        (std::mem::take(&mut self.buf), want)
    }

    /// Goes on with another buffer, to which what has come is copied.
    fn change_buf(&mut self, to: BytesMut, size: usize, bufs: &mut SharedBufs) {
        let mut old = std::mem::replace(&mut self.buf, to);
        self.buf.extend_from_slice(&old);
        match std::mem::replace(&mut self.size, size) {
            0 => {}
            FIRST_BYTES => {
                old.clear();
                self.first = old;
            }
            of => bufs.put(old, of),
        }
    }

    /// Room for so many bytes more. Where that takes other memory its size is not known.
    fn reserve(&mut self, more: usize) {
        if self.buf.capacity() - self.buf.len() < more {
            self.size = 0;
            self.buf.reserve(more);
        }
    }

    /// As much of `room` as ends with a frame, if the one under way ends after `first` bytes and
    /// is followed by frames like the last: the beginning of one more would be copied.
    fn whole_frames(&self, room: usize, first: usize) -> usize {
        room - room.saturating_sub(first) % self.last_frame
    }

    /// Whether a frame of this length is received alone.
    fn is_alone(&self, total: usize) -> bool {
        total > LARGE_BYTES && (total > self.recv_bytes || total > SHARED_FRAME_MAX)
    }

    /// Takes the buffer back after a receive of `n` bytes; none: there was nothing to receive.
    pub(crate) fn put_back(&mut self, buf: BytesMut, n: usize) {
        self.buf = buf;
        let max = SHARED_BYTES_MAX.max(self.recv_bytes);
        if (1..self.recv_bytes / 4).contains(&n) && n < self.offered {
            self.recv_bytes = (self.recv_bytes / 2).max(FIRST_BYTES);
        } else if n == self.offered && (n > FIRST_BYTES || !self.is_bulk()) {
            self.recv_bytes = (self.recv_bytes * 2).min(max);
        }
    }

    /// All whole frames were taken. What is left of a bulk sender's goes to a buffer of its own, so
    /// that the memory of the others is free for the next sender once they are done with.
    pub(crate) fn settle(&mut self, bufs: &mut SharedBufs) {
        let cut = std::mem::take(&mut self.cut);
        if !self.is_bulk() {
            return;
        }
        let rest = self.buf.len();
        let room = match self.claimed() {
            Some(total) => total.min(self.recv_bytes).max(rest),
            None => rest,
        };
        if cut || self.buf.capacity() > (2 * room).max(FIRST_BYTES) {
            self.change_buf(BytesMut::with_capacity(room), 0, bufs);
        }
    }

    /// Whole length, prefix included, of the frame at the front, once its prefix is there. Checked
    /// by `next_frame`.
    fn claimed(&self) -> Option<usize> {
        let mut front = self.buf.get(..PREFIX)?;
        usize::try_from(front.get_i32()).ok().map(|n| n + PREFIX)
    }

    /// The next whole frame without its prefix.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(mut front) = self.buf.get(..PREFIX) else {
            return Ok(None);
        };
        let size = front.get_i32();
        let len = usize::try_from(size).map_err(|_| FrameError::Negative(size))?;
        if len > self.frame_max {
            return Err(FrameError::TooLarge(len, self.frame_max));
        }
        if self.buf.len() < PREFIX + len {
            return Ok(None);
        }
        let mut frame = self.buf.split_to(PREFIX + len);
        frame.advance(PREFIX);
        self.cut = true;
        self.last_frame = len + PREFIX;
        if len + PREFIX > SHARED_FRAME_MAX {
            self.recv_bytes = (len + PREFIX).min(RECV_BYTES_MAX);
        } else if len + PREFIX > LARGE_BYTES {
            self.recv_bytes = self.recv_bytes.clamp(len + PREFIX, SHARED_BYTES_MAX);
        }
        Ok(Some(frame.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `bytes` in pieces of the given sizes, as receives would.
    fn feed(
        bytes: &[u8],
        cuts: &[usize],
        frame_max: usize,
    ) -> Result<(Vec<Bytes>, usize), FrameError> {
        let (mut reader, mut bufs) = (FrameReader::new(frame_max), SharedBufs::default());
        let (mut at, mut turn, mut frames, mut largest) = (0, 0, Vec::new(), 0);
        while at < bytes.len() {
            let (mut buf, want) = reader.take_buf(turn % 3 > 0, &mut bufs);
            assert!(want > 0 && buf.capacity() - buf.len() >= want);
            largest = largest.max(buf.capacity());
            let n = cuts[turn % cuts.len()].clamp(1, want).min(bytes.len() - at);
            turn += 1;
            buf.extend_from_slice(&bytes[at..at + n]);
            at += n;
            reader.put_back(buf, n);
            while let Some(frame) = reader.next_frame()? {
                frames.push(frame);
            }
            reader.settle(&mut bufs);
        }
        Ok((frames, largest))
    }

    fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for body in bodies {
            bytes.extend_from_slice(&(body.len() as i32).to_be_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_survive_any_cut(
            sizes in proptest::collection::vec(prop_oneof![0usize..300, 0usize..200_000], 1..12),
            cuts in proptest::collection::vec(
                prop_oneof![1usize..9, 1usize..5000, 1usize..2_000_000], 1..8,
            ),
        ) {
            let bodies: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(i, &n)| vec![i as u8; n]).collect();
            let bytes = framed(&bodies);
            let widest = cuts.iter().copied().max().unwrap().max(1000);
            let cuts = if bytes.len() > 20_000 { vec![widest] } else { cuts };
            let (frames, _) = feed(&bytes, &cuts, 1 << 20).unwrap();
            prop_assert_eq!(frames, bodies);
        }
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut bytes = (100_000_000i32).to_be_bytes().to_vec();
        bytes.resize(10_000, 1);
        let (frames, largest) = feed(&bytes, &[1000], 104_857_600).unwrap();
        assert!(frames.is_empty());
        assert!(largest <= 64 << 10, "{largest} bytes for 10,000 received");
    }

    #[test]
    fn bad_sizes_end_the_stream() {
        assert_eq!(
            feed(&[0xff; 4], &[4], 100).unwrap_err(),
            FrameError::Negative(-1)
        );
        assert_eq!(
            feed(&[0, 0, 0, 101], &[1], 100).unwrap_err(),
            FrameError::TooLarge(101, 100)
        );
        assert_eq!(
            feed(&[0, 0, 0, 0], &[1], 100).unwrap().0,
            vec![Bytes::new()]
        );
    }

    #[test]
    fn large_frames_of_a_known_peer_are_received_in_place() {
        let (mut reader, mut bufs) = (FrameReader::new(1 << 20), SharedBufs::default());
        let body = framed(&[vec![7; 200_000]]);
        for round in 0..4 {
            let mut at = 0;
            let mut receives = 0;
            while at < body.len() {
                let (mut buf, want) = reader.take_buf(false, &mut bufs);
                let n = want.min(body.len() - at);
                buf.extend_from_slice(&body[at..at + n]);
                at += n;
                receives += 1;
                reader.put_back(buf, n);
            }
            assert_eq!(reader.next_frame().unwrap().unwrap().len(), 200_000);
            assert_eq!(reader.partial_bytes(), 0);
            if round > 0 {
                assert!(receives <= 2, "{receives} receives in round {round}");
            }
        }
    }

    #[test]
    fn a_frame_like_the_last_is_received_at_once() {
        for len in [100, 1100, 16_400] {
            let (mut reader, mut bufs) = (FrameReader::new(1 << 20), SharedBufs::default());
            let body = framed(&[vec![7; len]]);
            for round in 0..200 {
                let (mut at, mut receives) = (0, 0);
                while at < body.len() {
                    let (mut buf, want) = reader.take_buf(false, &mut bufs);
                    let n = want.min(body.len() - at);
                    buf.extend_from_slice(&body[at..at + n]);
                    at += n;
                    receives += 1;
                    reader.put_back(buf, n);
                }
                assert_eq!(reader.next_frame().unwrap().unwrap().len(), len);
                if round > 0 {
                    assert_eq!(receives, 1, "round {round} of {len} bytes");
                }
            }
        }
    }
    #[test]
    fn frames_of_a_bulk_sender_come_together_and_are_not_pinned_by_the_next() {
        for len in [1100, 16_400, 65_600] {
            let (mut reader, mut bufs) = (FrameReader::new(1 << 20), SharedBufs::default());
            let burst = framed(&vec![vec![7; len]; 200_000 / len]);
            let mut bytes: Vec<u8> = Vec::new();
            for round in 0..50 {
                // Each time a part of the next frame comes along.
                bytes.extend_from_slice(&burst);
                bytes.extend_from_slice(&framed(&[vec![7; len]])[..len / 2]);
                let (mut at, mut receives, mut frames) = (0, 0, 0);
                while at < bytes.len() {
                    let (mut buf, want) = reader.take_buf(receives > 0, &mut bufs);
                    let n = want.min(bytes.len() - at);
                    buf.extend_from_slice(&bytes[at..at + n]);
                    at += n;
                    receives += 1;
                    reader.put_back(buf, n);
                    while let Some(frame) = reader.next_frame().unwrap() {
                        assert_eq!(frame.len(), len);
                        frames += 1;
                    }
                    reader.settle(&mut bufs);
                }
                assert!(frames >= burst.len() / (len + PREFIX), "round {round}");
                if round > 9 {
                    assert!(
                        receives <= 4,
                        "{receives} receives in round {round} of {len}"
                    );
                    assert!(reader.buf.capacity() <= len.max(FIRST_BYTES) + PREFIX);
                }
                bytes = framed(&[vec![7; len]]).split_off(len / 2); // and here is its rest
            }
            let remembered = bufs.bufs.len();
            assert!((1..=3).contains(&remembered), "{remembered}, one per size");
            assert!(reader.first.capacity() <= FIRST_BYTES);
        }
    }
}
