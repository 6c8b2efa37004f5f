use super::*;
use crate::LogConfig;
use crate::batch::BatchBuilder;
use crate::testing::MemDisk;
use crate::testing_rig::{Rig, batch, batch_values, fill, small};
use flumen_base::Prng;

#[test]
fn appends_are_coalesced_and_visible_when_written() {
    let mut rig = Rig::new(LogConfig::default());
    let info = rig.append(batch(1, 0, 3, 10)).unwrap();
    assert_eq!((info.base_offset, info.last_offset), (Offset(0), Offset(2)));
    rig.append(batch(1, 1, 2, 5000)).unwrap();
    assert_eq!(rig.log.log_end_offset(), Offset(5));
    assert_eq!(rig.log.written_end_offset(), Offset(0));
    assert_eq!(
        rig.read(0, 5, 1000),
        Some(vec![]),
        "not readable before it is written"
    );
    let write = rig.log.take_write().unwrap();
    assert_eq!(
        (write.pos, write.end_offset, write.bufs.len()),
        (0, Offset(5), 3)
    );
    assert!(rig.log.take_write().is_none(), "one write in flight");
    rig.append(batch(1, 2, 1, 10)).unwrap();
    rig.carry_out(&write);
    assert_eq!(rig.log.write_done(true), WriteDone::Advanced(Offset(5)));
    let next = rig.log.take_write().unwrap();
    assert_eq!(next.end_offset, Offset(6));
    rig.carry_out(&next);
    rig.log.write_done(true);
    let expected: Vec<_> = [
        batch_values(0, 3, 10),
        batch_values(1, 2, 5000),
        batch_values(2, 1, 10),
    ]
    .concat();
    let values: Vec<_> = rig.consume(0, 1 << 20).into_iter().map(|v| v.1).collect();
    assert_eq!(values, expected);
    assert_eq!(rig.read(7, 9, 100), None, "above the end");
}

#[test]
fn a_failed_write_takes_everything_back() {
    let mut rig = Rig::new(small());
    rig.log.set_tail_budget(1 << 20);
    let idempotent = |sequence, tag| {
        let mut builder = BatchBuilder::new().producer(5, 0, sequence);
        fill(&mut builder, 7, tag, 10, 100);
        builder.build().unwrap()
    };
    rig.append_at_epoch(idempotent(0, 0), 1).unwrap();
    rig.write();
    let producers = rig.log.producers().encode();
    for i in 1..9 {
        rig.append_at_epoch(idempotent(i * 10, i as u64), 1 + i / 4)
            .unwrap();
    }
    assert!(rig.log.segment_count() > 1);
    rig.log.take_write().unwrap();
    assert_eq!(rig.log.write_done(false), WriteDone::Failed(Offset(10)));
    assert_eq!(rig.log.log_end_offset(), Offset(10));
    assert_eq!(rig.log.producers().encode(), producers);
    assert_eq!(rig.log.latest_epoch(), 1);
    assert_eq!(rig.log.segment_count(), 1);
    assert!(!rig.log.has_pending_writes());
    assert_eq!(rig.consume(0, 1 << 20).len(), 10);
    let refused = rig.append(batch(1, 0, 1, 1)).unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotEnoughReplicas);
}

#[test]
fn segments_roll_by_size_time_index_and_batches_too_large_are_refused() {
    let mut rig = Rig::new(LogConfig {
        segment_bytes: 3000,
        segment_ms: 100,
        ..small()
    });
    rig.append(batch(1000, 0, 1, 1400)).unwrap();
    rig.append(batch(1000, 0, 1, 1400)).unwrap();
    assert_eq!(rig.log.segment_count(), 1);
    rig.append(batch(1000, 0, 1, 1400)).unwrap();
    assert_eq!(rig.log.segment_count(), 2, "size");
    rig.append(batch(1100, 0, 1, 1)).unwrap();
    assert_eq!(rig.log.segment_count(), 2);
    rig.append(batch(1101, 0, 1, 1)).unwrap();
    assert_eq!(rig.log.segment_count(), 3, "time");
    let error = rig.append(batch(1, 0, 1, 3000)).unwrap_err();
    assert_eq!(error.code, ErrorCode::RecordListTooLarge);
    let mut rig = Rig::new(LogConfig {
        segment_index_bytes: 24,
        index_interval_bytes: 0,
        ..small()
    });
    for _ in 0..9 {
        rig.append(batch(1, 0, 1, 1)).unwrap();
    }
    assert!(rig.log.segment_count() > 1, "index full");
    rig.write();
    assert_eq!(rig.consume(0, 100).len(), 9);
}

#[test]
fn the_first_write_of_a_segment_says_that_the_one_before_is_full() {
    let mut rig = Rig::new(LogConfig {
        segment_bytes: 3000,
        ..small()
    });
    let mut full = Vec::new();
    for i in 0..10 {
        rig.append(batch(i, 0, 1, 800)).unwrap();
        let write = rig.log.take_write().unwrap();
        rig.carry_out(&write);
        rig.log.write_done(true);
        assert!(!full.contains(&write.file.id()), "write {i}");
        full.extend(write.full.map(|file| file.id()));
        let expected = if full.is_empty() { 0 } else { 1 << 20 };
        assert_eq!(write.file.expected(), expected, "what the one before had");
    }
    assert_eq!(rig.log.segment_count(), full.len() + 1);
    full.dedup();
    assert!(full.len() > 1);
    assert_eq!(rig.log.segment_count(), full.len() + 1);
}

#[test]
fn flush_settings_ask_for_syncs() {
    let mut rig = Rig::new(LogConfig {
        flush_messages: 3,
        ..LogConfig::default()
    });
    rig.append(batch(1, 0, 2, 1)).unwrap();
    let write = rig.log.take_write().unwrap();
    assert!(!write.sync);
    rig.carry_out(&write);
    rig.log.write_done(true);
    assert_eq!(rig.log.recovery_point(), Offset(0));
    rig.append(batch(1, 0, 1, 1)).unwrap();
    let write = rig.log.take_write().unwrap();
    assert!(write.sync);
    rig.carry_out(&write);
    rig.log.write_done(true);
    assert_eq!(rig.log.recovery_point(), Offset(2));

    let mut rig = Rig::new(LogConfig {
        flush_ms: 50,
        ..LogConfig::default()
    });
    rig.append(batch(1, 0, 2, 1)).unwrap();
    rig.write();
    assert!(rig.log.take_sync(rig.now()).is_none());
    rig.now_ms += 50;
    let sync = rig.log.take_sync(rig.now()).unwrap();
    assert!(rig.log.take_sync(rig.now()).is_none(), "one in flight");
    rig.log.sync_done(sync.end_offset, true);
    assert_eq!(rig.log.recovery_point(), Offset(1));
}

/// It has no indexes on disk yet, or those of an earlier stop.
#[test]
fn a_segment_synced_to_its_end_is_read_again_until_it_is_sealed() {
    let mut rig = Rig::new(LogConfig {
        flush_ms: 50,
        ..small()
    });
    rig.append(batch(1, 0, 1, 500)).unwrap();
    let (disk, config) = rig.close(); // leaves indexes of one batch
    let mut rig = Rig::open(disk, config, 1, 0, true);
    rig.append(batch(2, 1, 1, 1000)).unwrap();
    rig.append(batch(3, 2, 1, 1000)).unwrap();
    rig.write();
    assert!(rig.log.take_sync(rig.now()).is_none());
    rig.now_ms += 50;
    let sync = rig.log.take_sync(rig.now()).unwrap();
    assert_eq!(sync.end_offset, Offset(3));
    rig.log.sync_done(sync.end_offset, true);
    rig.append(batch(4, 3, 1, 3000)).unwrap();
    assert_eq!(rig.log.segment_count(), 2);
    rig.write();
    let (disk, config) = (rig.disk.clone(), (*rig.config).clone());
    let point = rig.log.recovery_point().0;
    drop(rig);
    disk.kill();
    let rig = Rig::open(disk, config, point, 0, false);
    assert_eq!(rig.report.segments_recovered, 2);
}

#[test]
fn duplicates_are_answered_with_the_first_offsets() {
    let mut rig = Rig::new(small());
    let send = |rig: &mut Rig, sequence: i32| {
        let mut builder = BatchBuilder::new().producer(5, 0, sequence);
        fill(&mut builder, 7, sequence as u64, 2, 10);
        rig.append(builder.build().unwrap())
    };
    send(&mut rig, 0).unwrap();
    let again = send(&mut rig, 0).unwrap();
    assert!(again.duplicate);
    assert_eq!(
        (again.base_offset, again.last_offset),
        (Offset(0), Offset(1))
    );
    let error = send(&mut rig, 3).unwrap_err();
    assert_eq!(error.code, ErrorCode::OutOfOrderSequenceNumber);
    rig.write();
    // Producer state survives restarts, clean or not.
    let (disk, config) = rig.close();
    let mut rig = Rig::open(disk.clone(), config.clone(), 2, 0, true);
    assert!(send(&mut rig, 0).unwrap().duplicate);
    send(&mut rig, 2).unwrap();
    rig.write();
    let mut rig = Rig::open(disk, config, 2, 0, false);
    assert!(send(&mut rig, 2).unwrap().duplicate);
    assert!(!send(&mut rig, 4).unwrap().duplicate);
}

#[test]
fn records_are_not_copied_and_the_tail_is_charged_with_what_they_pin() {
    let mut rig = Rig::new(LogConfig::default());
    rig.log.set_tail_budget(1 << 20);
    let bytes = batch(1, 0, 1, 9000);
    let config = LogConfig::default();
    let valid = crate::validate(bytes.clone(), &config, crate::Origin::Client, 1, 1).unwrap();
    let shares = |write: &WriteOp| {
        let range = bytes.as_ptr_range();
        write.bufs.iter().any(|b| range.contains(&b.as_ptr()))
    };
    rig.log.append(rig.now(), &valid, 0).unwrap();
    assert_eq!(rig.log.tail_bytes(), bytes.len());
    let write = rig.log.take_write().unwrap();
    assert!(shares(&write));
    rig.log.write_done(true);
    rig.log.reuse_bufs(write.bufs);
    let part = valid.with_frame_len(100_000);
    rig.log.append(rig.now(), &part, 0).unwrap();
    assert_eq!(rig.log.tail_bytes(), bytes.len() + 100_000);
    assert!(shares(&rig.log.take_write().unwrap()));
    rig.log.write_done(true);
    let small = batch(1, 0, 1, 100);
    let frame = crate::validate(small.clone(), &config, crate::Origin::Client, 1, 1).unwrap();
    let before = rig.log.tail_bytes();
    let copied = frame.with_frame_len(100_000);
    rig.log.append(rig.now(), &copied, 0).unwrap();
    rig.log.take_write().unwrap();
    assert_eq!(rig.log.tail_bytes(), before + small.len());
    rig.log.set_tail_budget(0);
    assert_eq!(rig.log.tail_bytes(), 0);
}

/// Random operations against a vector of values; crashes lose at most what was not synced, never
/// something in between.
#[test]
fn model() {
    let rounds = std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok());
    for seed in 0..60 * rounds.unwrap_or(1) {
        println!("seed {seed}");
        model_run(&mut Prng::new(seed));
    }
}

struct Model {
    rig: Rig,
    /// Every record from offset 0 on.
    values: Vec<Vec<u8>>,
    log_start: i64,
    tag: u64,
    next_sequence: i32,
}

fn model_run(prng: &mut Prng) {
    let config = LogConfig {
        segment_bytes: 2000 + prng.below(20_000) as u32,
        index_interval_bytes: prng.below(2000) as u32,
        segment_index_bytes: 64 + prng.below(4000) as u32,
        flush_messages: if prng.one_in(2) {
            i64::MAX
        } else {
            1 + prng.below(30) as i64
        },
        ..small()
    };
    let mut model = Model {
        rig: Rig::new(config),
        values: Vec::new(),
        log_start: 0,
        tag: 0,
        next_sequence: 0,
    };
    for _ in 0..120 {
        model.step(prng);
    }
}

impl Model {
    fn step(&mut self, prng: &mut Prng) {
        match prng.below(20) {
            0..=8 => self.append(prng),
            9..=14 => self.check_read(prng),
            15 => self.rig.seal(),
            16 => self.rig.log.set_tail_budget(prng.below(8000) as usize),
            17 => self.delete_records(prng),
            18 if prng.one_in(3) => self.restart(prng),
            _ => self.check_all(prng),
        }
    }

    fn append(&mut self, prng: &mut Prng) {
        for _ in 0..1 + prng.below(3) {
            self.tag += 1;
            let count = 1 + prng.below(4) as usize;
            let len = match prng.below(6) {
                0 => 1200,
                _ => prng.below(200) as usize,
            };
            let mut builder = BatchBuilder::new().producer(1, 0, self.next_sequence);
            fill(
                &mut builder,
                1000 + self.tag as i64,
                self.tag,
                count,
                len.min(1500 / count),
            );
            let bytes = builder.build().unwrap();
            let info = self.rig.append(bytes.clone()).unwrap();
            assert_eq!(info.base_offset.0, self.values.len() as i64);
            self.values
                .extend(batch_values(self.tag, count, len.min(1500 / count)));
            self.next_sequence += count as i32;
            if prng.one_in(3) {
                let again = self.rig.append(bytes).unwrap();
                assert!(again.duplicate && again.base_offset == info.base_offset);
            }
        }
        self.rig.write();
    }

    fn check_read(&mut self, prng: &mut Prng) {
        let end = self.values.len() as i64;
        let offset = self.log_start + prng.below((end - self.log_start) as u64 + 1) as i64;
        // Bounds stand where batches end: take the end of some batch.
        let all = self.rig.read(offset, end, 1 << 20).unwrap();
        let ends: Vec<i64> = crate::batch::Batches::new(&all)
            .map(|b| b.unwrap().header.last_offset() + 1)
            .collect();
        let bound = match ends.len() {
            0 => end,
            n => ends[prng.below(n as u64) as usize],
        };
        let bytes = self
            .rig
            .read(offset, bound, prng.below(5000) as u32)
            .unwrap();
        let got = crate::testing_rig::values(&bytes, offset);
        assert_eq!(got.is_empty(), offset >= bound);
        for (at, value) in got {
            assert!(at < bound);
            assert_eq!(value, self.values[at as usize], "at {at}");
        }
    }

    fn check_all(&mut self, prng: &mut Prng) {
        let all = self.rig.consume(self.log_start, prng.below(9000) as u32);
        assert_eq!(all.len() as i64, self.values.len() as i64 - self.log_start);
        for (at, value) in all {
            assert_eq!(value, self.values[at as usize], "at {at}");
        }
    }

    fn delete_records(&mut self, prng: &mut Prng) {
        let end = self.values.len() as i64;
        let offset = self.log_start + prng.below((end - self.log_start) as u64 / 2 + 1) as i64;
        self.rig.log.advance_log_start(Offset(offset));
        self.log_start = offset;
        if let Some(job) = self.rig.log.retention(self.rig.now(), Offset(end)) {
            let deleted = job.run(&self.rig.disk).unwrap();
            deleted.unlink.unwrap().run(&self.rig.disk).unwrap();
        }
        assert_eq!(self.rig.log.log_start_offset().0, self.log_start);
    }

    fn restart(&mut self, prng: &mut Prng) {
        let config = (*self.rig.config).clone();
        let disk: MemDisk = self.rig.disk.clone();
        let point = self.rig.log.recovery_point().0;
        let how = prng.below(3);
        match how {
            0 => {
                self.rig.write();
                let closed = self.rig.log.close_job().run(&disk).unwrap();
                assert_eq!(closed.recovery_point.0, self.values.len() as i64);
            }
            1 => disk.kill(),
            _ => disk.crash(prng),
        }
        self.rig = Rig::open(disk, config, point, self.log_start, how == 0);
        let end = self.rig.log.log_end_offset().0;
        assert!(end >= point, "what was synced is there");
        assert!(end as usize <= self.values.len());
        if how < 2 {
            assert_eq!(
                end as usize,
                self.values.len(),
                "nothing is lost without a crash"
            );
        }
        self.values.truncate(end as usize);
        self.log_start = self.rig.log.log_start_offset().0;
        // The producer goes on where the log ends; it is forgotten only with its last record.
        match self.rig.log.producers().get(1) {
            Some(entry) => assert_eq!(i64::from(entry.last_sequence()) + 1, end),
            None => assert_eq!(self.log_start, end),
        }
        self.next_sequence = end as i32;
        self.check_all(prng);
    }
}
