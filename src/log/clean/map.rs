//! The last offset of each key of a part of a log, by the keys' 128-bit hashes, in memory of a
//! given size.

use super::siphash::siphash128;

/// The hash of a key, and one above its offset; 0 there is a free place. So the memory comes
/// zeroed from the system, and only what is used is touched.
type Entry = [u64; 3];

/// An open-addressed table that only grows up to its bound: what does not fit waits for the next
/// cleaning.
#[derive(Debug, Default)]
pub(crate) struct OffsetMap {
    entries: Vec<Entry>,
    used: usize,
    used_max: usize,
    hash_key: [u64; 2],
    latest: i64,
}

impl OffsetMap {
    /// A map of at most `bytes`, filled up to `load_factor`; smaller where `keys_max` keys at most
    /// can come.
    pub(crate) fn new(bytes: usize, load_factor: f64, keys_max: u64, hash_key: [u64; 2]) -> Self {
        let load_factor = load_factor.clamp(0.01, 1.0);
        let wanted = (keys_max as f64 / load_factor) as u64 + 2;
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        // One place stays free, where a search ends, and one key must fit.
        let places = (bytes / size_of::<Entry>()).min(wanted).max(2);
        let used_max = ((places as f64 * load_factor) as usize).clamp(1, places - 1);
        Self {
            entries: vec![[0; 3]; places],
            used: 0,
            used_max,
            hash_key,
            latest: -1,
        }
    }

    /// Whether no further key fits.
    pub(crate) fn is_full(&self) -> bool {
        self.used >= self.used_max
    }

    /// Keys in it.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// How much of it is used, between 0 and 1.
    pub(crate) fn utilization(&self) -> f64 {
        self.used as f64 / self.entries.len().max(1) as f64
    }

    /// Everything up to this offset is in it; -1 for nothing.
    pub(crate) fn latest(&self) -> i64 {
        self.latest
    }

    /// Everything up to this offset is in it.
    pub(crate) fn advance(&mut self, offset: i64) {
        self.latest = self.latest.max(offset);
    }

    /// A record with this key stands at `offset`, which is above all before it. Not when it is
    /// full.
    pub(crate) fn put(&mut self, key: &[u8], offset: i64) {
        debug_assert!(!self.is_full());
        let [a, b] = siphash128(self.hash_key, key);
        let place = self.find([a, b]);
        if let Some(entry) = self.entries.get_mut(place) {
            self.used += usize::from(entry[2] == 0);
            *entry = [a, b, (offset + 1) as u64];
        }
        self.advance(offset);
    }

    /// The last offset of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<i64> {
        let place = self.find(siphash128(self.hash_key, key));
        let [.., end] = self.entries.get(place)?;
        end.checked_sub(1).map(|offset| offset as i64)
    }

    /// Where this hash is, or the free place where it would go.
    fn find(&self, hash: [u64; 2]) -> usize {
        let places = self.entries.len();
        // Uniform over the places, as the hash is over its range.
        let first = ((u128::from(hash[0]) * places as u128) >> 64) as usize;
        let fits = |[a, b, end]: &Entry| *end == 0 || [*a, *b] == hash;
        let (before, behind) = self.entries.split_at(first);
        let found = behind.iter().position(fits).map(|n| first + n);
        found
            .or_else(|| before.iter().position(fits))
            .unwrap_or(places) // never: one place is always free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flumen_base::Prng;
    use std::collections::BTreeMap;

    #[test]
    fn knows_the_last_offset_of_each_key() {
        let mut prng = Prng::new(1);
        let mut map = OffsetMap::new(1 << 20, 0.9, 1000, [1, 2]);
        let mut model = BTreeMap::new();
        for offset in 0..1000 {
            let key = prng.below(300).to_be_bytes();
            map.put(&key, offset);
            model.insert(key, offset);
        }
        assert_eq!((map.len(), map.latest()), (model.len(), 999));
        for n in 0..400u64 {
            let key = n.to_be_bytes();
            assert_eq!(map.get(&key), model.get(&key).copied());
        }
    }

    #[test]
    fn takes_no_more_than_its_share_of_its_memory() {
        for (bytes, load, keys, most) in [
            (24 * 10, 0.9, 1000, 9),
            (24 * 10, 1.0, 1000, 9),
            (24 * 10, 0.5, 1000, 5),
            (0, 0.9, 1000, 1),
            (1 << 20, 0.9, 7, 8),
        ] {
            let mut map = OffsetMap::new(bytes, load, keys, [3, 4]);
            let mut count = 0u64;
            while !map.is_full() {
                map.put(&count.to_be_bytes(), count as i64);
                count += 1;
            }
            assert_eq!(count, most, "{bytes} bytes, {load}");
            assert!(map.utilization() <= 1.0);
            for n in 0..count {
                assert_eq!(map.get(&n.to_be_bytes()), Some(n as i64));
            }
            assert_eq!(map.get(b"none"), None);
        }
    }
}
