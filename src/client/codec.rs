//! The five compression codecs of record batches.

use crate::ClientError;
use std::io::{Read, Write};
use std::str::FromStr;

/// What a batch may unfold to, in bytes.
const UNFOLDED_BYTES_MAX: u64 = 512 << 20;
/// The frame that Java's Snappy streams have around raw Snappy blocks: magic, version, lowest
/// compatible version.
const XERIAL: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// A codec, with the number it has in a batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // their names
pub enum Codec {
    #[default]
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "none" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return Err("expected none, gzip, snappy, lz4 or zstd".to_owned()),
        })
    }
}

impl Codec {
    /// From a batch's attributes.
    pub fn from_attributes(attributes: i16) -> Option<Self> {
        Some(match attributes & 7 {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    pub(crate) fn compress(self, bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(bytes),
            Self::Gzip => {
                let level = flate2::Compression::default();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
            Self::Snappy => {
                let mut out = XERIAL.to_vec();
                for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
                    let packed = snap::raw::Encoder::new().compress_vec(block)?;
                    out.extend((packed.len() as u32).to_be_bytes());
                    out.extend(packed);
                }
                Ok(out)
            }
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(&bytes)?;
                encoder.finish().map_err(std::io::Error::other)
            }
            Self::Zstd => zstd::encode_all(&bytes[..], 3),
        }
    }

    pub(crate) fn decompress(self, bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
        let bad = |e: std::io::Error| ClientError::Malformed(format!("{self:?} data: {e}"));
        match self {
            Self::None => Ok(bytes.to_vec()),
            Self::Gzip => read_all(flate2::read::MultiGzDecoder::new(bytes)).map_err(bad),
            Self::Snappy => unsnap(bytes),
            Self::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(bytes)).map_err(bad),
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(bytes).map_err(bad)?;
                read_all(decoder).map_err(bad)
            }
        }
    }
}

fn read_all(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(UNFOLDED_BYTES_MAX + 1).read_to_end(&mut out)?;
    if out.len() as u64 > UNFOLDED_BYTES_MAX {
        return Err(std::io::Error::other("unfolds to more than the limit"));
    }
    Ok(out)
}

/// Java's framed blocks, or one raw block as other clients write it.
fn unsnap(bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
    let bad = |why: &str| ClientError::Malformed(format!("snappy data: {why}"));
    if !bytes.starts_with(&XERIAL[..8]) {
        return unsnap_block(bytes, &bad);
    }
    let mut rest = bytes.get(16..).ok_or_else(|| bad("short header"))?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (size, tail) = rest.split_first_chunk().ok_or_else(|| bad("short block"))?;
        let size = u32::from_be_bytes(*size) as usize;
        let block = tail.get(..size).ok_or_else(|| bad("short block"))?;
        out.extend(unsnap_block(block, &bad)?);
        if out.len() as u64 > UNFOLDED_BYTES_MAX {
            return Err(bad("unfolds to more than the limit"));
        }
        rest = &tail[size..];
    }
    Ok(out)
}

fn unsnap_block(block: &[u8], bad: &dyn Fn(&str) -> ClientError) -> Result<Vec<u8>, ClientError> {
    let len = snap::raw::decompress_len(block).map_err(|e| bad(&e.to_string()))?;
    if len as u64 > UNFOLDED_BYTES_MAX {
        return Err(bad("unfolds to more than the limit"));
    }
    snap::raw::Decoder::new()
        .decompress_vec(block)
        .map_err(|e| bad(&e.to_string()))
}
