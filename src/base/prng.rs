//! A small seeded generator (SplitMix64): the same seed gives the same run, in the simulator and in
//! a shard alike.

/// Deterministic random numbers; not for secrets. The runtime seeds each shard's from the OS, the
/// simulator from its seed.
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    /// A generator that will always give the same sequence for this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// 16 random bytes.
    pub fn bytes16(&mut self) -> [u8; 16] {
        let n = (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64());
        n.to_be_bytes()
    }

    /// A random version 4 UUID that Kafka would accept as a topic or cluster id.
    pub fn uuid(&mut self) -> crate::Uuid {
        loop {
            if let Some(id) = crate::Uuid::from_random(self.bytes16()) {
                return id;
            }
        }
    }
}
