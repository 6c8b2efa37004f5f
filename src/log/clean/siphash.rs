//! SipHash-2-4 with 128 bits (Aumasson and Bernstein): a keyed hash, so that nobody can prepare
//! keys that collide.

/// The hash of `bytes` under `key`.
pub(crate) fn siphash128(key: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    let mut v = State([
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ]);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        v.take(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    last[7] = bytes.len() as u8; // its low byte, as the definition says
    v.take(u64::from_le_bytes(last));
    v.0[2] ^= 0xee;
    v.rounds(4);
    let first = v.fold();
    v.0[1] ^= 0xdd;
    v.rounds(4);
    [first, v.fold()]
}

struct State([u64; 4]);

impl State {
    #[inline]
    fn take(&mut self, word: u64) {
        self.0[3] ^= word;
        self.rounds(2);
        self.0[0] ^= word;
    }

    #[inline]
    fn rounds(&mut self, n: usize) {
        let [mut a, mut b, mut c, mut d] = self.0;
        for _ in 0..n {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.0 = [a, b, c, d];
    }

    fn fold(&self) -> u64 {
        self.0.iter().fold(0, |all, part| all ^ part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_reference_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let hash = |bytes: &[u8]| {
            let [a, b] = siphash128(key, bytes);
            [a.to_le_bytes(), b.to_le_bytes()].concat()
        };
        let of_nothing = [
            0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55,
            0x02, 0x93,
        ];
        assert_eq!(hash(&[]), of_nothing);
        let of_zero = [
            0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22,
            0xfc, 0x45,
        ];
        assert_eq!(hash(&[0]), of_zero);
        let all: Vec<Vec<u8>> = (0..40).map(|n| hash(&vec![7; n])).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
