//! For tests: random values of every message, a table of every codec, and what the fuzz targets
//! call. Behind the feature `testing`.

use crate::{EncodeError, Message, Writer};
use flumen_base::{Prng, Uuid};
use std::borrow::Cow;

/// Makes random values of bounded size.
#[derive(Clone, Debug)]
pub struct Gen {
    /// Where the randomness comes from.
    pub rng: Prng,
    /// Elements of an array are fewer than this.
    pub array_len_end: u64,
    /// Elements that arrays may still have.
    pub elements_left: u64,
    /// Whether every field takes as few bytes as it can: what an attacker would send to have much
    /// memory taken.
    pub tiny: bool,
}

impl Gen {
    /// The same seed gives the same values.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Prng::new(seed),
            array_len_end: 4,
            elements_left: 1000,
            tiny: false,
        }
    }

    /// Small values in large arrays.
    pub fn tiny(seed: u64) -> Self {
        Self {
            array_len_end: 3000,
            elements_left: 4000,
            tiny: true,
            ..Self::new(seed)
        }
    }

    /// Whether to set a tagged field.
    fn tagged(&mut self) -> bool {
        !self.tiny && !self.rng.one_in(3)
    }

    fn len(&mut self) -> usize {
        if self.tiny {
            return 0;
        }
        // A few are too long for a one-byte length.
        if self.rng.one_in(12) {
            120 + self.rng.below(200) as usize
        } else {
            self.rng.below(9) as usize
        }
    }
}

/// A type that random values can be made of.
pub trait Random: Sized {
    /// A value with fields set that this version has, and defaults elsewhere.
    fn random(g: &mut Gen, version: i16) -> Self;
}

macro_rules! integers {
    ($($kind:ty),*) => {$(
        impl Random for $kind {
            fn random(g: &mut Gen, _: i16) -> Self {
                match g.rng.below(6) {
                    0 => 0,
                    1 => <$kind>::MAX,
                    2 => <$kind>::MIN,
                    _ => g.rng.next_u64() as $kind,
                }
            }
        }
    )*};
}

integers!(i8, i16, i32, i64, u16, u32);

impl Random for bool {
    fn random(g: &mut Gen, _: i16) -> Self {
        g.rng.one_in(2)
    }
}

impl Random for f64 {
    fn random(g: &mut Gen, _: i16) -> Self {
        g.rng.next_u64() as i64 as Self / 1024.0
    }
}

impl Random for Uuid {
    fn random(g: &mut Gen, _: i16) -> Self {
        if g.rng.one_in(4) {
            Self::ZERO
        } else {
            g.rng.uuid()
        }
    }
}

impl Random for Cow<'_, str> {
    fn random(g: &mut Gen, _: i16) -> Self {
        let len = g.len();
        let letters = [
            'a',
            'Z',
            '0',
            '-',
            '.',
            '_',
            '\u{e9}',
            '\u{4e16}',
            '\u{1f600}',
            '\0',
        ];
        (0..len)
            .map(|_| letters[g.rng.below(10) as usize])
            .collect::<String>()
            .into()
    }
}

impl Random for Cow<'_, [u8]> {
    fn random(g: &mut Gen, _: i16) -> Self {
        let len = g.len();
        (0..len)
            .map(|_| g.rng.next_u64() as u8)
            .collect::<Vec<u8>>()
            .into()
    }
}

impl<T: Random> Random for Vec<T> {
    fn random(g: &mut Gen, version: i16) -> Self {
        let len = g.rng.below(g.array_len_end.min(g.elements_left + 1));
        g.elements_left -= len;
        (0..len).map(|_| T::random(g, version)).collect()
    }
}

impl<T: Random> Random for Option<T> {
    fn random(g: &mut Gen, version: i16) -> Self {
        if g.tiny || g.rng.one_in(4) {
            None
        } else {
            Some(T::random(g, version))
        }
    }
}

/// One message's codec, without its type.
#[derive(Clone, Copy)]
pub struct Codec {
    /// Kafka's name of the message.
    pub name: &'static str,
    /// request, response, data, coordinator-key, coordinator-value or metadata.
    pub kind: &'static str,
    /// API key or record type, -1 for neither.
    pub key: i16,
    /// First and last version.
    pub versions: (i16, i16),
    /// The encoding of a random value.
    pub random: fn(&mut Gen, i16) -> Result<Vec<u8>, EncodeError>,
    /// Makes a random value, encodes it, decodes that, and compares.
    pub round_trip: fn(&mut Gen, i16) -> Result<(), String>,
    /// Decodes, and forgets.
    pub decode: fn(&[u8], i16) -> Result<(), crate::DecodeError>,
    /// Decodes and encodes again; the error says which of the two failed.
    pub reencode: fn(&[u8], i16) -> Result<Vec<u8>, CodecError>,
}

/// What failed in [`Codec::reencode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// The bytes were refused.
    Decode(crate::DecodeError),
    /// The bytes were taken, but what they say cannot be written: a bug.
    Encode(EncodeError),
}

/// The bytes of a value.
///
/// # Errors
/// The value cannot be written in this version.
pub fn encode<'a, T: Message<'a>>(value: &T, version: i16) -> Result<Vec<u8>, EncodeError> {
    let mut w = Writer::new();
    value.encode(&mut w, version)?;
    Ok(w.as_slice().to_vec())
}

macro_rules! codec {
    ($module:ident, $kind:ty, $what:literal, $key:literal) => {
        mod $module {
            use super::*;

            fn random(g: &mut Gen, version: i16) -> Result<Vec<u8>, EncodeError> {
                encode(&<$kind>::random(g, version), version)
            }

            fn round_trip(g: &mut Gen, version: i16) -> Result<(), String> {
                let value = <$kind>::random(g, version);
                let bytes = encode(&value, version).map_err(|e| format!("{value:?}: {e}"))?;
                let back = <$kind>::decode_exact(&bytes, version)
                    .map_err(|e| format!("{value:?}: {e}"))?;
                if value == back {
                    Ok(())
                } else {
                    Err(format!("{value:?} became {back:?}"))
                }
            }

            fn decode(bytes: &[u8], version: i16) -> Result<(), crate::DecodeError> {
                <$kind>::decode_exact(bytes, version).map(drop)
            }

            fn reencode(bytes: &[u8], version: i16) -> Result<Vec<u8>, CodecError> {
                let value = <$kind>::decode_exact(bytes, version).map_err(CodecError::Decode)?;
                encode(&value, version).map_err(CodecError::Encode)
            }

            pub(super) const CODEC: Codec = Codec {
                name: <$kind as Message<'_>>::NAME,
                kind: $what,
                key: $key,
                versions: (
                    *<$kind as Message<'_>>::VERSIONS.start(),
                    *<$kind as Message<'_>>::VERSIONS.end(),
                ),
                random,
                round_trip,
                decode,
                reencode,
            };
        }
    };
}

#[allow(
    clippy::all,
    unused_variables,
    elided_lifetimes_in_paths,
    unused_qualifications
)]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/random.rs"));
}
pub use generated::CODECS;

/// The codec of a request (`kind` "request") or response of this API.
pub fn codec_of(kind: &str, key: i16) -> Option<&'static Codec> {
    CODECS.iter().find(|c| c.kind == kind && c.key == key)
}
