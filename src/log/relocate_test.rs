use super::*;
use crate::FileIds;
use crate::recovery::{LoadParams, load};
use crate::testing_rig::{Rig, batch, batch_values, small};
use flumen_base::{Now, Offset, Prng, Uuid};
use std::sync::Arc;

const COPY: &str = "/other/t-0.0123-future";
const TO: &str = "/other/t-0";
const ASIDE: &str = "/logs/t-0.0123-delete";

fn reload(rig: &Rig) -> Rig {
    let params = LoadParams {
        dir: PathBuf::from(TO),
        config: Arc::clone(&rig.config),
        recovery_point: Offset(0),
        log_start_offset: Offset(0),
        cleaned_offset: Offset(0),
        clean: false,
        now_ms: rig.now_ms,
        topic_id: Uuid::from_bytes([3; 16]),
    };
    let loaded = load(&rig.disk, params).unwrap();
    let report = loaded.report.clone();
    Rig {
        disk: rig.disk.clone(),
        log: Log::from_loaded(loaded, Arc::clone(&rig.config), FileIds::default()),
        config: Arc::clone(&rig.config),
        now_ms: rig.now_ms,
        scans: 0,
        report,
        mended: 0,
    }
}

/// Appends, seals, takes the oldest segments away, and moves on, in any order: the copy is the log.
#[test]
fn the_copy_is_the_log() {
    for seed in 0..100 {
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new(small());
        rig.disk.create_dir_all(Path::new("/other")).unwrap();
        let mut expected = Vec::new();
        let mut tag = 0;
        let mut append = |rig: &mut Rig, prng: &mut Prng, expected: &mut Vec<Vec<u8>>| {
            for _ in 0..=prng.below(4) {
                let (count, len) = (1 + prng.below(3) as usize, prng.below(1000) as usize);
                rig.append(batch(1, tag, count, len)).unwrap();
                expected.extend(batch_values(tag, count, len));
                tag += 1;
            }
            rig.write();
        };
        for _ in 0..prng.below(20) {
            append(&mut rig, &mut prng, &mut expected);
        }
        let mut state = CopyState::default();
        for _ in 0..prng.below(40) {
            match prng.below(6) {
                0 | 1 => append(&mut rig, &mut prng, &mut expected),
                2 => rig.seal(),
                3 => {
                    let below = prng.below(rig.log.written_end_offset().0 as u64 + 1);
                    rig.log.advance_log_start(Offset(below as i64));
                    let now = Now::default();
                    if let Some(job) = rig.log.retention(now, rig.log.written_end_offset()) {
                        let deleted = job.run(&rig.disk).unwrap();
                        deleted.unlink.unwrap().run(&rig.disk).unwrap();
                    }
                }
                _ => {
                    let job = state.plan(&rig.log, Path::new(COPY), 1 + prng.below(6000));
                    let (bytes, before) = (job.bytes(), state.lag_bytes(&rig.log));
                    let copied = job.run(&rig.disk).unwrap();
                    state.copied(&copied);
                    assert_eq!(state.lag_bytes(&rig.log), before - bytes, "seed {seed}");
                }
            }
        }
        let lag = state.lag_offsets(&rig.log);
        assert_eq!(lag == 0, state.lag_bytes(&rig.log) == 0, "seed {seed}");
        let job = state.swap(&rig.log, Path::new(COPY), TO.into(), ASIDE.into());
        let swapped = job.run(&rig.disk).unwrap();
        assert!(swapped.left_behind.is_none());
        rig.log.moved_to(swapped.dir);
        rig.disk.remove_dir_all(&swapped.aside).unwrap();
        for path in rig.disk.paths() {
            assert!(path.starts_with(TO), "{}", path.display());
        }
        append(&mut rig, &mut prng, &mut expected);
        let start = rig.log.log_start_offset().0;
        let values: Vec<_> = rig.consume(start, 3000).into_iter().map(|v| v.1).collect();
        assert!(values == expected[start as usize..], "seed {seed}");
        // And so it is found by the next process.
        let first = rig.log.segments[0].base_offset;
        let mut again = reload(&rig);
        assert!(
            again.report.cut.is_none(),
            "seed {seed}: {:?}",
            again.report
        );
        let values: Vec<_> = again
            .consume(first, 3000)
            .into_iter()
            .map(|v| v.1)
            .collect();
        assert!(values == expected[first as usize..], "seed {seed}");
        rig.seal();
    }
}

/// What is copied survives the power, whenever it goes; the names decide which directory holds it.
#[test]
fn a_crash_during_the_swap_leaves_one_of_both_whole() {
    for seed in 0..50 {
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new(small());
        rig.disk.create_dir_all(Path::new("/other")).unwrap();
        for tag in 0..10 {
            rig.append(batch(1, tag, 2, 700)).unwrap();
        }
        rig.write();
        let mut state = CopyState::default();
        let job = state.swap(&rig.log, Path::new(COPY), TO.into(), ASIDE.into());
        job.run(&rig.disk).unwrap();
        rig.disk.crash(&mut prng);
        let mut again = reload(&rig);
        assert_eq!(again.consume(0, 3000).len(), 20, "seed {seed}");
    }
}

#[test]
fn a_copy_that_is_not_whole_takes_nobodys_name() {
    let mut rig = Rig::new(small());
    rig.disk.create_dir_all(Path::new("/other")).unwrap();
    rig.append(batch(1, 0, 2, 700)).unwrap();
    rig.write();
    let mut state = CopyState::default();
    let copied = state
        .plan(&rig.log, Path::new(COPY), 1 << 20)
        .run(&rig.disk);
    state.copied(&copied.unwrap());
    let file = segment_path(Path::new(COPY), 0, LOG_SUFFIX);
    let file = rig.disk.open(&file, OpenMode::ReadWrite).unwrap();
    file.set_len(10).unwrap();
    let job = state.swap(&rig.log, Path::new(COPY), TO.into(), ASIDE.into());
    assert!(job.run(&rig.disk).is_err());
    assert!(rig.disk.list(Path::new(TO)).is_err());
    assert_eq!(rig.consume(0, 1 << 20).len(), 2);
}
