//! CRC32C (Castagnoli), which every byte of a batch goes through: by carry-less multiplication over
//! wide vectors where the CPU has it (four times the speed of its CRC instruction, docs/adr/0004).

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// Of these bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32 // a CRC of 32 bits
}

/// Of both, one behind the other.
pub(crate) fn crc32c_of_two(first: &[u8], second: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(first);
    digest.update(second);
    digest.finalize() as u32 // a CRC of 32 bits
}

/// Of bytes that come piece by piece.
pub(crate) struct Crc(Digest);

impl Crc {
    pub(crate) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn value(&self) -> u32 {
        self.0.finalize() as u32 // a CRC of 32 bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_another_implementation_says() {
        let bytes: Vec<u8> = (0..70_000u64).map(|n| ((n * n) >> 3) as u8).collect();
        let lens = (0..600).chain([1000, 4095, 4096, 16_384, 65_537, 70_000]);
        for len in lens {
            for start in [0, 1, 7, 61] {
                let part = &bytes[start.min(len)..len];
                assert_eq!(crc32c(part), crc32c::crc32c(part), "{len} from {start}");
                let (a, b) = part.split_at(part.len() / 3);
                assert_eq!(
                    crc32c_of_two(a, b),
                    crc32c::crc32c(part),
                    "{len} from {start}"
                );
            }
        }
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // the check value of its catalogue
    }
}
