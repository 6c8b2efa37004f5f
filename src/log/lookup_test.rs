use super::*;
use crate::LogConfig;
use crate::batch::BatchBuilder;
use crate::testing::MemDisk;
use crate::testing_rig::{DIR, Rig, batch};
use flumen_base::Prng;
use std::path::Path;

fn lookup(rig: &Rig, target: Target, bound: i64) -> Option<(i64, i64, i32)> {
    let job = rig.log.lookup(target, Offset(bound));
    let found = job.run(&rig.disk).unwrap().0?;
    Some((found.timestamp, found.offset.0, found.leader_epoch))
}

#[test]
fn lookups_equal_a_linear_scan() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new(LogConfig {
            segment_bytes: 3000,
            index_interval_bytes: prng.below(500) as u32,
            message_timestamp_after_max_ms: i64::MAX,
            ..LogConfig::default()
        });
        assert_eq!(lookup(&rig, Target::MaxTimestamp, 9), None);
        let mut times = Vec::new();
        for i in 0..60 {
            let mut builder = BatchBuilder::new();
            for _ in 0..1 + prng.below(4) {
                let time = 1000 + times.len() as i64 * 3 + prng.below(40) as i64;
                builder.push(time, None, Some(&[0; 60]));
                times.push((time, times.len() as i64, i / 20));
            }
            let codec = crate::Compression::from_id(prng.below(5) as u8).unwrap();
            let bytes = builder.build_compressed(codec, 1).unwrap();
            rig.append_at_epoch(bytes, i / 20).unwrap();
        }
        rig.write();
        if prng.one_in(2) {
            rig.seal();
        }
        if prng.one_in(2) {
            rig.log.advance_log_start(Offset(10));
        }
        let start = rig.log.log_start_offset().0;
        let end = times.len() as i64;
        let expect = |target: Target, bound: i64| {
            let live = times.iter().filter(|t| t.1 >= start && t.1 < bound);
            let expected = match target {
                Target::Timestamp(wanted) => live.copied().find(|t| t.0 >= wanted),
                Target::MaxTimestamp => {
                    let live: Vec<_> = live.collect();
                    let max = live.iter().map(|t| t.0).max();
                    live.iter().find(|t| Some(t.0) == max).map(|t| **t)
                }
            };
            assert_eq!(
                lookup(&rig, target, bound),
                expected,
                "{target:?} below {bound}"
            );
        };
        for _ in 0..40 {
            expect(Target::Timestamp(990 + prng.below(600) as i64), end);
        }
        expect(Target::Timestamp(1050), 30);
        expect(Target::MaxTimestamp, end);
    }
}

/// Any timestamps in any order, in segments of all sizes (the last one may be empty), before and
/// after a restart, with a log start and a bound anywhere: as a linear scan says.
#[test]
fn any_lookup_equals_a_linear_scan() {
    let rounds: u64 = std::env::var("FLUMEN_TEST_ROUNDS").map_or(1, |n| n.parse().unwrap());
    for seed in 100..100 + 40 * rounds {
        println!("seed {seed}");
        let mut prng = Prng::new(seed);
        let config = LogConfig {
            segment_bytes: 1500 + prng.below(6000) as u32,
            index_interval_bytes: prng.below(800) as u32,
            message_timestamp_after_max_ms: i64::MAX,
            message_timestamp_type: match prng.one_in(4) {
                true => crate::TimestampType::LogAppendTime,
                false => crate::TimestampType::CreateTime,
            },
            ..LogConfig::default()
        };
        let stamped = config.message_timestamp_type == crate::TimestampType::LogAppendTime;
        let (mut rig, mut records) = (Rig::new(config.clone()), Vec::new());
        let spread = [1, 10, 400, 5000][prng.below(4) as usize];
        for i in 0..1 + prng.below(90) as i64 {
            rig.now_ms += prng.below(30) as i64;
            let mut builder = BatchBuilder::new();
            for _ in 0..1 + prng.below(4) {
                let time = 1000 + i * 5 * prng.below(3) as i64 + prng.below(spread) as i64;
                builder.push(time, None, Some(&[7; 60]));
                let time = if stamped { rig.now_ms } else { time };
                records.push((time, records.len() as i64, i as i32 / 20));
            }
            let codec = crate::Compression::from_id(prng.below(5) as u8).unwrap();
            let bytes = builder.build_compressed(codec, 1).unwrap();
            rig.append_at_epoch(bytes, i as i32 / 20).unwrap();
        }
        rig.write();
        if prng.one_in(2) {
            rig.log.roll(rig.now()); // an empty active segment
        }
        if prng.one_in(2) {
            rig.seal();
        }
        let end = records.len() as i64;
        if prng.one_in(2) {
            let (disk, config) = rig.close();
            rig = Rig::open(disk, config, end, 0, true);
        } else if prng.one_in(2) {
            rig = Rig::open(rig.disk.clone(), config, 0, 0, false);
        }
        if prng.one_in(2) {
            let start = prng.below(end as u64 + 1) as i64;
            rig.log.advance_log_start(Offset(start));
        }
        let start = rig.log.log_start_offset().0;
        for _ in 0..30 {
            let bound = match prng.one_in(2) {
                true => end,
                false => prng.below(end as u64 + 1) as i64,
            };
            let live = records.iter().filter(|r| r.1 >= start && r.1 < bound);
            let wanted = match prng.one_in(5) {
                true => prng.below(3) as i64 * 1_000_500,
                false => 990 + prng.below(1000) as i64,
            };
            let first = live.clone().find(|r| r.0 >= wanted).copied();
            let found = lookup(&rig, Target::Timestamp(wanted), bound);
            assert_eq!(found, first, "{wanted} of {start}..{bound}");
            let max = live.clone().map(|r| r.0).max();
            let largest = live.clone().find(|r| Some(r.0) == max).copied();
            let found = lookup(&rig, Target::MaxTimestamp, bound);
            assert_eq!(found, largest, "largest of {start}..{bound}");
        }
    }
}

/// Retention takes segments between the making of a lookup and its run, also before their times
/// were looked at: what is left is searched.
#[test]
fn segments_that_retention_takes_meanwhile_are_passed_over() {
    let config = LogConfig {
        segment_bytes: 1000,
        message_timestamp_after_max_ms: i64::MAX,
        retention_ms: -1,
        ..LogConfig::default()
    };
    let mut rig = Rig::new(config.clone());
    for i in 0..60 {
        // The oldest records are the youngest by their times.
        let time = if i < 20 { 900_000 + i } else { 1000 + i };
        let mut builder = BatchBuilder::new();
        builder.push(time, None, Some(&[0; 60]));
        rig.append(builder.build().unwrap()).unwrap();
    }
    rig.write();
    rig.seal();
    let (disk, _) = rig.close();
    let mut rig = Rig::open(disk, config, 60, 0, true);
    let jobs = [Target::Timestamp(1), Target::MaxTimestamp]
        .map(|target| rig.log.lookup(target, Offset(60)));
    rig.log.advance_log_start(Offset(40));
    let retire = rig.log.retention(rig.now(), Offset(60)).unwrap();
    let done = retire.run(&rig.disk);
    rig.log.retire_done(&done);
    let first = rig.log.segments.front().unwrap().base_offset;
    assert!(first > 20, "{first}");
    let found = jobs.map(|job| job.run(&rig.disk).unwrap().0.unwrap().offset.0);
    assert_eq!(found, [first, 59]);
}

/// Twelve records, three per segment, the time of each its offset and 1000; cleanly closed.
fn closed(config: &LogConfig) -> MemDisk {
    let mut rig = Rig::new(config.clone());
    for i in 0..12 {
        rig.append(batch(1000 + i, i as u64, 1, 500)).unwrap();
    }
    rig.write();
    rig.seal();
    rig.close().0
}

/// A sealed file was cut, and no fetch can give its lost records: a search that would have to pass
/// over them is refused as well, with the place.
#[test]
fn a_lost_end_is_not_passed_over() {
    // With few entries a start can't see it, with many it looks at all batches.
    for index_interval_bytes in [100, 4096] {
        let config = LogConfig {
            segment_bytes: 2000,
            index_interval_bytes,
            retention_ms: -1,
            message_timestamp_after_max_ms: i64::MAX,
            ..LogConfig::default()
        };
        let path = segment_path(Path::new(DIR), 3, LOG_SUFFIX);
        let len = closed(&config).len(&path).unwrap();
        let third = len / 3;
        for (cut, lost) in [
            (0, 3),
            (1, 3),
            (third, 4),
            (third + 70, 4),
            (2 * third, 5),
            (len - 1, 5),
        ] {
            let what = format!("{index_interval_bytes}: {cut}");
            if cut == third + 70 && index_interval_bytes == 100 {
                continue; // the index says more: the start refuses
            }
            let disk = closed(&config);
            let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
            file.set_len(cut).unwrap();
            let mut rig = Rig::open(disk, config.clone(), 12, 0, true);
            // The second time it is known.
            for _ in 0..2 {
                for offset in 0..12 {
                    let found = search(&mut rig, Target::Timestamp(1000 + offset), 12);
                    match found {
                        Ok(found) if offset < lost => assert_eq!(found, Some(offset), "{what}"),
                        Err(error) if offset >= lost => assert_names(&error, &path, lost),
                        found => panic!("{what}: {offset} gives {found:?}"),
                    }
                }
                let youngest = search(&mut rig, Target::MaxTimestamp, 12).unwrap_err();
                assert_names(&youngest, &path, lost);
            }
            // Nobody asks for what is lost.
            for (target, bound) in [
                (Target::Timestamp(1009), lost),
                (Target::MaxTimestamp, lost),
            ] {
                let expected = (target == Target::MaxTimestamp).then_some(lost - 1);
                assert_eq!(search(&mut rig, target, bound).unwrap(), expected, "{what}");
            }
            assert!(rig.log.retention(rig.now(), Offset(12)).is_none());
            assert!(rig.log.take_times_job().is_none(), "{what}: looked at once");
            rig.log.advance_log_start(Offset(6));
            let found = search(&mut rig, Target::Timestamp(1000), 12).unwrap();
            assert_eq!(found, Some(6), "{what}");
            let found = search(&mut rig, Target::MaxTimestamp, 12).unwrap();
            assert_eq!(found, Some(11), "{what}");
        }
    }
}

fn search(rig: &mut Rig, target: Target, bound: i64) -> io::Result<Option<i64>> {
    let (found, checked) = rig.log.lookup(target, Offset(bound)).run(&rig.disk)?;
    rig.log.times_checked(&checked);
    Ok(found.map(|f| f.offset.0))
}

fn assert_names(error: &io::Error, path: &Path, lost: i64) {
    let text = error.to_string();
    let named = text.contains(&*path.to_string_lossy());
    assert!(named && text.contains(&format!("offset {lost} ")), "{text}");
}
