//! The four codecs as Kafka's clients write them.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};

use crate::args::Codec;

/// Head of a stream of Snappy blocks: magic, version and oldest compatible version.
const SNAPPY_HEAD: &[u8] = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01";
/// Uncompressed bytes of one such block.
const SNAPPY_BLOCK: usize = 32 * 1024;

/// The records of a batch, compressed.
///
/// # Errors
/// The compressor failed.
pub fn compress(codec: Codec, records: &[u8]) -> Result<Vec<u8>> {
    Ok(match codec {
        Codec::None => bail!("nothing to compress with"),
        Codec::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(records)?;
            out.finish()?
        }
        Codec::Snappy => {
            let mut out = SNAPPY_HEAD.to_vec();
            let mut encoder = snap::raw::Encoder::new();
            for block in records.chunks(SNAPPY_BLOCK) {
                let packed = encoder.compress_vec(block)?;
                out.extend_from_slice(&u32::try_from(packed.len())?.to_be_bytes());
                out.extend_from_slice(&packed);
            }
            out
        }
        Codec::Lz4 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(records)?;
            out.finish().context("lz4")?
        }
        Codec::Zstd => zstd::bulk::compress(records, 3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Shape, encode};
    use std::io::Read as _;

    fn unpack(codec: Codec, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match codec {
            Codec::None => out.extend_from_slice(bytes),
            Codec::Gzip => {
                flate2::read::GzDecoder::new(bytes)
                    .read_to_end(&mut out)
                    .unwrap();
            }
            Codec::Snappy => {
                let mut rest = bytes.strip_prefix(SNAPPY_HEAD).unwrap();
                while let Some((length, blocks)) = rest.split_first_chunk::<4>() {
                    let (block, more) = blocks.split_at(u32::from_be_bytes(*length) as usize);
                    out.extend(snap::raw::Decoder::new().decompress_vec(block).unwrap());
                    rest = more;
                }
            }
            Codec::Lz4 => {
                lz4_flex::frame::FrameDecoder::new(bytes)
                    .read_to_end(&mut out)
                    .unwrap();
            }
            Codec::Zstd => out = zstd::stream::decode_all(bytes).unwrap(),
        }
        out
    }

    #[test]
    fn each_codec_gives_back_the_records_and_saves_as_text_does() {
        let shape = |codec| Shape {
            records: 60,
            value_bytes: 1000,
            timestamp_ms: 1_700_000_000_000,
            codec,
        };
        for (codec, number) in [
            (Codec::Gzip, 1),
            (Codec::Snappy, 2),
            (Codec::Lz4, 3),
            (Codec::Zstd, 4),
        ] {
            let made = encode(shape(codec)).unwrap();
            assert_eq!(made.bytes[21..23], [0, number], "{codec:?}");
            let records = unpack(codec, &made.bytes[61..]);
            assert_eq!(records.len() + 61, made.uncompressed, "{codec:?}");
            let ratio = made.uncompressed as f64 / made.bytes.len() as f64;
            assert!((1.5..12.0).contains(&ratio), "{codec:?}: {ratio}");
            assert!(records.windows(7).any(|w| w == b"\"path\":"));
        }
    }
}
