use super::*;
use crate::LogConfig;
use crate::batch::BatchBuilder;
use crate::testing_rig::Rig;
use flumen_base::Prng;

fn lookup(rig: &Rig, target: Target, bound: i64) -> Option<(i64, i64, i32)> {
    let job = rig.log.lookup(target, Offset(bound));
    let found = job.run(&rig.disk).unwrap()?;
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
