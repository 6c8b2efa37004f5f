//! Appends as O_DIRECT wants them: whole blocks at block boundaries, from one buffer.
//!
//! ```text
//! file      |  block  |  block  |  block..pad|      pad: zeros up to the block's end
//! write n              [##############000000]       from the start of the last block on
//! write n+1                      [####======000]    the last block again, with what is new
//! ```
//! The bytes of the last block are kept in memory, so that the next write can begin with them; a
//! block that is torn by a power loss holds them in its old and in its new form. Behind the end
//! stand at most [`BLOCK`] - 1 zeros: nobody reads beyond what is written, whoever finishes the
//! file cuts it to its length, and recovery takes zeros for its end.
//!
//! This is arithmetic and copying only, the same in the runtime and in the simulator.

/// Unit of direct writes in bytes: no device that matters asks for more.
pub const BLOCK: usize = 4096;
/// Most bytes of one piece: a longer write goes in several, one after the other.
pub const PIECE_MAX: usize = 1 << 20;

fn in_block(pos: u64) -> usize {
    (pos % BLOCK as u64) as usize
}

/// The bytes of a file's last block, up to where the file ends.
#[derive(Debug, Default)]
pub struct LastBlock {
    end: u64,
    bytes: Vec<u8>,
}

impl LastBlock {
    /// Where the bytes stand that a direct write at `pos` needs and this does not know, and how
    /// many they are. They end at `pos`.
    pub fn missing(&self, pos: u64) -> Option<(u64, usize)> {
        let head = in_block(pos);
        let known = head == 0 || (self.end == pos && self.bytes.len() == head);
        (!known).then_some((pos - head as u64, head))
    }

    /// The file ends at `end`, with `bytes` in its last block.
    pub fn set(&mut self, end: u64, bytes: &[u8]) {
        self.end = end;
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
    }
}

/// A piece of an [`AlignedWrite`]: whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it goes, in bytes; a multiple of [`BLOCK`].
    pub at: u64,
    /// Its length in bytes, padding included; a multiple of [`BLOCK`].
    pub len: usize,
    /// Bytes in front that are in the file already.
    head: usize,
    /// Bytes of the write in it.
    take: usize,
}

/// An append that is carried out in aligned pieces.
#[derive(Debug)]
pub struct AlignedWrite<B> {
    pos: u64,
    bufs: Vec<B>,
    total: usize,
    done: usize,
}

impl<B: AsRef<[u8]>> AlignedWrite<B> {
    /// Appends `bufs` at `pos`, the end of the file.
    pub fn new(pos: u64, bufs: Vec<B>) -> Self {
        let total = bufs.iter().map(|b| b.as_ref().len()).sum();
        Self {
            pos,
            bufs,
            total,
            done: 0,
        }
    }

    /// Whether all of it is written.
    pub fn is_done(&self) -> bool {
        self.done == self.total
    }

    /// The write as it was asked for, and how many bytes of it are written.
    pub fn into_parts(self) -> (u64, Vec<B>, usize) {
        (self.pos, self.bufs, self.done)
    }

    /// The next piece.
    pub fn piece(&self) -> Piece {
        let from = self.pos + self.done as u64;
        let head = in_block(from);
        let take = (self.total - self.done).min(PIECE_MAX - head);
        Piece {
            at: from - head as u64,
            len: (head + take).next_multiple_of(BLOCK),
            head,
            take,
        }
    }

    /// Whether this piece ends the write.
    pub fn is_last(&self, piece: &Piece) -> bool {
        self.done + piece.take == self.total
    }

    /// Puts the piece into `out`, which is as long as it. `last` knows what stands before it.
    pub fn fill(&self, piece: &Piece, last: &LastBlock, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(piece.head);
        let known = last.bytes.get(..piece.head).unwrap_or_default();
        head[..known.len()].copy_from_slice(known);
        let (mut to, pad) = rest.split_at_mut(piece.take);
        let mut skip = self.done;
        for buf in &self.bufs {
            let bytes = buf.as_ref();
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let n = (bytes.len() - skip).min(to.len());
            let (now, later) = to.split_at_mut(n);
            now.copy_from_slice(&bytes[skip..skip + n]);
            (to, skip) = (later, 0);
            if to.is_empty() {
                break;
            }
        }
        pad.fill(0);
    }

    /// The first `written` bytes of the piece are in the file; `out` is as [`AlignedWrite::fill`]
    /// left it. What a short write left in the middle of a block counts as not written.
    pub fn advance(&mut self, piece: &Piece, out: &[u8], written: usize, last: &mut LastBlock) {
        let whole = written - written % BLOCK;
        let end = (piece.head + piece.take).min(whole);
        if end <= piece.head {
            return; // nothing new
        }
        self.done += end - piece.head;
        let start = end - end % BLOCK;
        last.set(
            piece.at + end as u64,
            out.get(start..end).unwrap_or_default(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prng;
    use proptest::prelude::*;

    /// Appends as the runtime does, with short writes; the file must always be what was appended,
    /// and at most a block's rest of zeros.
    fn appends(seed: u64, count: u64, len_max: u64) {
        let mut prng = Prng::new(seed);
        let (mut file, mut expected) = (Vec::new(), Vec::new());
        let mut last = LastBlock::default();
        for _ in 0..count {
            let bufs: Vec<Vec<u8>> = (0..=prng.below(4))
                .map(|_| {
                    (0..=prng.below(len_max))
                        .map(|_| 1 + prng.below(255) as u8)
                        .collect()
                })
                .collect();
            let pos = expected.len() as u64;
            expected.extend(bufs.concat());
            if prng.one_in(4) {
                // Through the page cache: the last block is not known any more.
                let end = expected.len().max(file.len());
                file.resize(end, 0);
                file[pos as usize..expected.len()].copy_from_slice(&expected[pos as usize..]);
                continue;
            }
            if let Some((at, len)) = last.missing(pos) {
                let at = at as usize;
                last.set(pos, &file[at..at + len]);
            }
            let mut write = AlignedWrite::new(pos, bufs);
            while !write.is_done() {
                let piece = write.piece();
                assert_eq!((piece.at % 4096, piece.len % 4096), (0, 0));
                assert!(piece.len > 0 && piece.len <= PIECE_MAX);
                let mut out = vec![0xEE; piece.len];
                write.fill(&piece, &last, &mut out);
                let n = match prng.one_in(3) {
                    true => prng.below(piece.len as u64 + 1) as usize,
                    false => piece.len,
                };
                let at = piece.at as usize;
                file.resize(file.len().max(at + n), 0);
                file[at..at + n].copy_from_slice(&out[..n]);
                let done = write.is_last(&piece) && n == piece.len;
                write.advance(&piece, &out, n, &mut last);
                assert_eq!(write.is_done(), done || write.is_done());
            }
            let (data, pad) = file.split_at(expected.len());
            assert!(data == expected, "seed {seed}");
            assert!(pad.iter().all(|b| *b == 0), "seed {seed}");
        }
    }

    #[test]
    fn long_appends_go_in_pieces() {
        appends(1, 6, 2 << 20);
    }

    #[test]
    fn an_aligned_append_needs_nothing_from_before() {
        let last = LastBlock::default();
        assert_eq!(last.missing(0), None);
        assert_eq!(last.missing(8192), None);
        assert_eq!(last.missing(8193), Some((8192, 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_file_is_what_was_appended(seed: u64) {
            appends(seed, 20, 9000);
        }
    }
}
