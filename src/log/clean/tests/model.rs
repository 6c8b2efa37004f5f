//! Random histories, held against the last value of each key.

use super::*;
use crate::codec::Compression;
use crate::lookup::Target;
use crate::validate::default_level;
use flumen_base::{Offset, Prng};
use std::collections::BTreeMap;

fn rounds() -> u64 {
    let given = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    given.and_then(|v| v.parse().ok()).unwrap_or(1)
}

/// What was appended, and when tombstones were first cleaned.
#[derive(Default)]
struct Model {
    all: Vec<Seen>,
    /// Offset of a tombstone -> when it may go.
    horizons: BTreeMap<i64, i64>,
    /// Everything below was cleaned.
    cleaned: i64,
}

impl Model {
    fn append(&mut self, base: i64, records: &[Seen]) {
        for (n, record) in records.iter().enumerate() {
            self.all.push(Seen {
                offset: base + n as i64,
                ..record.clone()
            });
        }
    }

    /// The last record of each key below `end` stays, but tombstones only for their time.
    fn clean(&mut self, end: i64, now_ms: i64) {
        let mut last: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for s in self.all.iter().filter(|s| s.offset < end) {
            last.insert(s.key.clone(), s.offset);
        }
        let horizons = &mut self.horizons;
        self.all.retain(|s| {
            if s.offset >= end {
                return true;
            }
            if last.get(&s.key) != Some(&s.offset) {
                return false;
            }
            let horizon = horizons.get(&s.offset).copied();
            s.value.is_some() || horizon.is_none_or(|at| now_ms < at)
        });
        for s in self
            .all
            .iter()
            .filter(|s| s.offset < end && s.value.is_none())
        {
            horizons.entry(s.offset).or_insert(now_ms + RETENTION_MS);
        }
        self.cleaned = end;
    }
}

struct Run {
    rig: Rig,
    model: Model,
    prng: Prng,
    sequences: [i32; 3],
    map_bytes: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let config = LogConfig {
            segment_bytes: 1500 + prng.below(3000) as u32,
            index_interval_bytes: prng.below(600) as u32,
            ..config()
        };
        // From two keys at a time to all.
        let map_bytes = [48, 24 * 7, 1 << 20][prng.below(3) as usize];
        let mut rig = Rig::new(config);
        if prng.one_in(2) {
            rig.log.set_tail_budget(1 << 16);
        }
        Self {
            rig,
            model: Model::default(),
            prng,
            sequences: [0; 3],
            map_bytes,
        }
    }

    fn append(&mut self) {
        let count = 1 + self.prng.below(6);
        let producer = self.prng.below(4);
        let mut builder = BatchBuilder::new();
        if let Some(sequence) = self.sequences.get_mut(producer as usize) {
            builder = builder.producer(100 + producer as i64, 0, *sequence);
            *sequence += count as i32;
        }
        let mut records = Vec::new();
        for _ in 0..count {
            let timestamp = self.rig.now_ms - self.prng.below(50) as i64;
            let key = format!("key-{}", self.prng.below(12)).into_bytes();
            let len = self.prng.below(120) as usize;
            let value = (!self.prng.one_in(4)).then(|| self.prng.bytes16().repeat(len / 16 + 1));
            let name = format!("h{}", self.prng.below(9));
            let headers = [(name.as_str(), Some(b"v".as_slice()))];
            builder.push_with_headers(timestamp, Some(&key), value.as_deref(), &headers);
            let mut encoded = vec![2, 2 * name.len() as u8];
            encoded.extend_from_slice(name.as_bytes());
            encoded.extend_from_slice(&[2, b'v']);
            records.push(Seen {
                offset: 0,
                key,
                value,
                timestamp,
                headers: encoded,
            });
        }
        let codec = Compression::from_id(self.prng.below(5) as u8).unwrap();
        let bytes = builder
            .build_compressed(codec, default_level(codec))
            .unwrap();
        let base = put_bytes(&mut self.rig, bytes);
        self.model.append(base, &records);
        self.rig.seal();
    }

    fn clean(&mut self) {
        let hw = self.rig.log.written_end_offset();
        if let Some(what) = self.rig.log.cleanable(self.rig.now(), hw) {
            clean_all(&mut self.rig, self.map_bytes);
            assert_eq!(self.rig.log.cleaned_offset(), Some(what.upper));
            self.model.clean(what.upper.0, self.rig.now_ms);
        }
    }

    fn check(&mut self) {
        let max_bytes = 1 + self.prng.below(3000) as u32;
        let end = self.rig.log.log_end_offset().0;
        let from = self.prng.below(end as u64 + 1) as i64;
        for from in [0, from] {
            let seen = read_from(&mut self.rig, from, max_bytes);
            let wanted = self.model.all.iter().filter(|s| s.offset >= from);
            assert!(
                seen.iter().eq(wanted),
                "from {from}: {seen:?}\n{:?}",
                self.model.all
            );
        }
        let now_ms = self.rig.now_ms;
        let wanted = now_ms - self.prng.below(400) as i64;
        let lookup = self.rig.log.lookup(Target::Timestamp(wanted), Offset(end));
        let found = lookup.run(&self.rig.disk).unwrap();
        let first = self.model.all.iter().find(|s| s.timestamp >= wanted);
        assert_eq!(
            found.0.map(|f| (f.offset.0, f.timestamp)),
            first.map(|s| (s.offset, s.timestamp)),
            "first at or after {wanted}"
        );
    }

    /// Everything that is known of producers comes from the batches alone.
    fn reopen_without_snapshots(&mut self) {
        let before: BTreeMap<i64, (i16, i32)> = producers(&self.rig);
        let rig = std::mem::replace(&mut self.rig, Rig::new(config()));
        let config = (*rig.config).clone();
        let (disk, now_ms) = (rig.disk.clone(), rig.now_ms);
        let cleaned = rig.log.cleaned_offset();
        drop(rig);
        for path in disk.paths() {
            if path.extension().is_some_and(|e| e == "snapshot") {
                disk.remove_file(&path).unwrap();
            }
        }
        self.rig = Rig::open(disk, config, 0, 0, false);
        self.rig.now_ms = now_ms;
        self.rig.log.set_cleaned_offset(cleaned);
        assert_eq!(self.rig.report.cut, None);
        assert_eq!(producers(&self.rig), before);
    }
}

fn producers(rig: &Rig) -> BTreeMap<i64, (i16, i32)> {
    let producers = rig.log.producers().iter();
    producers
        .map(|(id, entry)| (id, (entry.epoch, entry.last_sequence())))
        .collect()
}

#[test]
fn agrees_with_the_last_value_of_each_key() {
    for seed in 0..30 * rounds() {
        println!("seed {seed}");
        let mut run = Run::new(seed);
        for _ in 0..120 {
            run.rig.now_ms += run.prng.below(60) as i64;
            match run.prng.below(12) {
                0 => run.clean(),
                1 => run.check(),
                2 => run.rig.now_ms += RETENTION_MS / 2,
                3 if run.prng.one_in(4) => run.reopen_without_snapshots(),
                _ => run.append(),
            }
        }
        run.clean();
        run.check();
        run.reopen_without_snapshots();
        run.check();
    }
}
