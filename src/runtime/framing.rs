//! From received bytes to request frames. A frame's memory grows with the bytes received, never
//! with the length that its size prefix claims; a large frame is received straight into its own
//! buffer.

use bytes::{Buf, Bytes, BytesMut};

/// Length of the size prefix.
const PREFIX: usize = 4;
/// What a new connection receives into.
const FIRST_BYTES: usize = 4 << 10;
/// Most bytes that one receive is offered when nothing is known of the frame to come.
const RECV_BYTES_MAX: usize = 1 << 20;
/// Frames above this are received alone, so that the next one starts in its own buffer.
const LARGE_BYTES: usize = 32 << 10;
/// Spare bytes below which a fresh buffer is taken.
const SPARE_BYTES_MIN: usize = 512;

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

/// The receiving half of one connection.
pub(crate) struct FrameReader {
    buf: BytesMut,
    frame_max: usize,
    /// How much to offer to the next receive at a frame's start: follows what this peer has really
    /// sent.
    recv_bytes: usize,
    offered: usize,
    /// Length of the last frame, prefix included, as far as frames share buffers.
    last_frame: usize,
}

impl FrameReader {
    pub(crate) fn new(frame_max: usize) -> Self {
        Self {
            buf: BytesMut::new(),
            frame_max,
            recv_bytes: FIRST_BYTES,
            offered: 0,
            last_frame: PREFIX,
        }
    }

    /// Bytes received of a frame that is not whole yet.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.buf.len()
    }

    /// The buffer to receive into (behind its length) and how many bytes to ask for.
    pub(crate) fn take_buf(&mut self) -> (BytesMut, usize) {
        let have = self.buf.len();
        let spare = self.buf.capacity() - have;
        let want = match self.claimed() {
            Some(total) if total > LARGE_BYTES => {
                // At most doubles what has come, unless this peer has shown that it sends frames of
                // this size.
                let grown = (have * 2).max(LARGE_BYTES).max(self.recv_bytes);
                let missing = total - have;
                let want = missing.min(spare.max(grown - have.min(grown)).max(FIRST_BYTES));
                self.buf.reserve(want);
                want
            }
            claimed => {
                // The next frame is likely to be like the last: one that a receive would cut is
                // received twice, and copied into the next buffer.
                let missing = claimed.map_or(self.last_frame, |total| total - have);
                if spare < missing || spare < SPARE_BYTES_MIN {
                    self.buf.reserve(missing.max(self.recv_bytes));
                }
                self.buf.capacity() - have
            }
        };
        let want = want.min(RECV_BYTES_MAX.max(LARGE_BYTES));
        self.offered = want;
        (std::mem::take(&mut self.buf), want)
    }

    /// Takes the buffer back after a receive of `n` bytes.
    pub(crate) fn put_back(&mut self, buf: BytesMut, n: usize) {
        self.buf = buf;
        if n == self.offered {
            self.recv_bytes = (self.recv_bytes * 2).min(RECV_BYTES_MAX);
        } else if n < self.recv_bytes / 4 {
            self.recv_bytes = (self.recv_bytes / 2).max(FIRST_BYTES);
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
        self.last_frame = (len + PREFIX).min(LARGE_BYTES);
        if len + PREFIX > LARGE_BYTES {
            self.recv_bytes = (len + PREFIX).min(RECV_BYTES_MAX);
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
        let mut reader = FrameReader::new(frame_max);
        let (mut at, mut turn, mut frames, mut largest) = (0, 0, Vec::new(), 0);
        while at < bytes.len() {
            let (mut buf, want) = reader.take_buf();
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
        let mut reader = FrameReader::new(1 << 20);
        let body = framed(&[vec![7; 200_000]]);
        for round in 0..4 {
            let mut at = 0;
            let mut receives = 0;
            while at < body.len() {
                let (mut buf, want) = reader.take_buf();
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
            let mut reader = FrameReader::new(1 << 20);
            let body = framed(&[vec![7; len]]);
            for round in 0..200 {
                let (mut at, mut receives) = (0, 0);
                while at < body.len() {
                    let (mut buf, want) = reader.take_buf();
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
}
