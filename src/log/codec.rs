//! Kafka's compression codecs, as the Java client frames them. Every decoder is given the most it
//! may unfold to.

use std::io::{Read, Write};

/// Codec of a batch (attributes bits 0 to 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// Not compressed.
    None = 0,
    /// gzip.
    Gzip = 1,
    /// Snappy: xerial's framing, or one raw block.
    Snappy = 2,
    /// LZ4 frame.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl Compression {
    /// The codec with this number.
    pub fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Why bytes could not be (de)compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More than the caller allows.
    #[error("unfolds to more than {0} bytes")]
    TooLarge(usize),
    /// Not what the codec writes.
    #[error("corrupt {0} data")]
    Corrupt(&'static str),
}

/// What xerial's SnappyOutputStream begins with: magic, version 1, compatible version 1.
const XERIAL_HEADER: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];
const XERIAL_MAGIC_LEN: usize = 8;
/// Block size of Java's SnappyOutputStream.
const XERIAL_BLOCK: usize = 32 << 10;
/// First allocation for an output of unknown size; it grows with what is really there.
const FIRST_CAPACITY_MAX: usize = 64 << 10;

/// Unfolds `bytes` to at most `max` bytes.
pub fn decompress(codec: Compression, bytes: &[u8], max: usize) -> Result<Vec<u8>, CodecError> {
    match codec {
        Compression::None if bytes.len() > max => Err(CodecError::TooLarge(max)),
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => read_all(flate2::read::MultiGzDecoder::new(bytes), max, "gzip", bytes),
        Compression::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(bytes), max, "lz4", bytes),
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(bytes)
                .map_err(|_| CodecError::Corrupt("zstd"))?;
            read_all(decoder, max, "zstd", bytes)
        }
        Compression::Snappy => snappy_unfold(bytes, max),
    }
}

fn read_all(
    reader: impl Read,
    max: usize,
    name: &'static str,
    bytes: &[u8],
) -> Result<Vec<u8>, CodecError> {
    let first = bytes
        .len()
        .saturating_mul(4)
        .min(FIRST_CAPACITY_MAX)
        .min(max);
    let mut out = Vec::with_capacity(first);
    let limit = (max as u64).saturating_add(1);
    match reader.take(limit).read_to_end(&mut out) {
        Ok(_) if out.len() > max => Err(CodecError::TooLarge(max)),
        Ok(_) => Ok(out),
        Err(_) => Err(CodecError::Corrupt(name)),
    }
}

fn snappy_unfold(bytes: &[u8], max: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    if bytes.get(..XERIAL_MAGIC_LEN) != Some(&XERIAL_HEADER[..XERIAL_MAGIC_LEN]) {
        snappy_block(bytes, max, &mut out)?;
        return Ok(out);
    }
    let mut rest = bytes
        .get(XERIAL_HEADER.len()..)
        .ok_or(CodecError::Corrupt("snappy"))?;
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        // Streams written one after the other: the next one's magic stands where a length would.
        if rest.get(..XERIAL_MAGIC_LEN) == Some(&XERIAL_HEADER[..XERIAL_MAGIC_LEN]) {
            rest = rest
                .get(XERIAL_HEADER.len()..)
                .ok_or(CodecError::Corrupt("snappy"))?;
            continue;
        }
        let block = tail.get(..len).ok_or(CodecError::Corrupt("snappy"))?;
        snappy_block(block, max, &mut out)?;
        rest = &tail[len..];
    }
    if rest.is_empty() {
        Ok(out)
    } else {
        Err(CodecError::Corrupt("snappy"))
    }
}

fn snappy_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let len = snap::raw::decompress_len(block).map_err(|_| CodecError::Corrupt("snappy"))?;
    let start = out.len();
    if len > max.saturating_sub(start) {
        return Err(CodecError::TooLarge(max));
    }
    // A snappy block can't unfold to more than 64 bytes for each 3 of its own: a longer claim is a
    // lie.
    if len > block.len().saturating_mul(32) + 64 {
        return Err(CodecError::Corrupt("snappy"));
    }
    out.resize(start + len, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|_| CodecError::Corrupt("snappy"))?;
    out.truncate(start + written);
    Ok(())
}

/// Compresses at Kafka's `level` for this codec (-1 is gzip's default; snappy has none; LZ4's are
/// accepted, but the encoder has one speed).
pub fn compress(codec: Compression, bytes: &[u8], level: i32) -> Result<Vec<u8>, CodecError> {
    match codec {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => {
            let level = match u32::try_from(level) {
                Ok(level) => flate2::Compression::new(level.min(9)),
                Err(_) => flate2::Compression::default(),
            };
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
            written.map_err(|_| CodecError::Corrupt("gzip"))
        }
        Compression::Snappy => snappy_fold(bytes),
        Compression::Lz4 => lz4_fold(bytes),
        Compression::Zstd => {
            zstd::bulk::compress(bytes, level).map_err(|_| CodecError::Corrupt("zstd"))
        }
    }
}

fn snappy_fold(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let mut out = XERIAL_HEADER.to_vec();
    for block in bytes.chunks(XERIAL_BLOCK) {
        let folded = snap::raw::Encoder::new()
            .compress_vec(block)
            .map_err(|_| CodecError::Corrupt("snappy"))?;
        out.extend_from_slice(&(folded.len() as u32).to_be_bytes());
        out.extend_from_slice(&folded);
    }
    Ok(out)
}

/// As Java's client: independent blocks of 64 KiB, no checksum but the header's.
fn lz4_fold(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder
        .write_all(bytes)
        .map_err(|_| CodecError::Corrupt("lz4"))?;
    encoder.finish().map_err(|_| CodecError::Corrupt("lz4"))
}
