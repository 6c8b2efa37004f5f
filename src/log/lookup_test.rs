use super::*;
use crate::LogConfig;
use crate::batch::BatchBuilder;
use crate::testing_rig::Rig;
use flumen_base::Prng;

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
