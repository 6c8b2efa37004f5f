use super::*;
use crate::testing_rig::{Rig, batch, batch_values, small};
use crate::{LogConfig, WriteDone, WriteOp};
use flumen_base::{ErrorCode, Offset, Prng};

/// Only the first `len` bytes come to the file.
fn carry_out_part(rig: &Rig, write: &WriteOp, len: usize) {
    let bytes = write.bufs.concat();
    let path = write.file.path();
    let file = rig.disk.open(path, OpenMode::Create).unwrap();
    file.write_all_at(&bytes[..len.min(bytes.len())], write.pos)
        .unwrap();
}

fn reopen(rig: Rig) -> Rig {
    let (disk, config) = (rig.disk, (*rig.config).clone());
    disk.kill();
    Rig::open(disk, config, 0, 0, false)
}

/// Writes that find no room, in the middle of anything: what was acked before and after is there,
/// what was refused is not, in memory and after a kill.
#[test]
fn a_write_without_room_leaves_no_trace() {
    for seed in 0..200 {
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new(small());
        rig.log.set_tail_budget(prng.below(2) as usize * 5000);
        let mut expected: Vec<Vec<u8>> = Vec::new();
        let mut staged: Vec<Vec<u8>> = Vec::new();
        let mut tag = 0;
        for _ in 0..60 {
            for _ in 0..=prng.below(4) {
                let (count, len) = (1 + prng.below(3) as usize, prng.below(1000) as usize);
                rig.append(batch(1, tag, count, len)).unwrap();
                staged.extend(batch_values(tag, count, len));
                tag += 1;
            }
            let end = rig.log.written_end_offset();
            if prng.one_in(2) {
                rig.write();
                expected.append(&mut staged);
            } else {
                // Some of the writes succeed.
                let (first, mut written) = (end.0 as usize, end);
                while let Some(write) = rig.log.take_write() {
                    if prng.one_in(3) {
                        let whole = write.bufs.concat().len() as u64;
                        carry_out_part(&rig, &write, prng.below(whole + 1) as usize);
                        let done = rig.log.write_done(false);
                        assert_eq!(done, WriteDone::Failed(written), "seed {seed}");
                        let refused = rig.append(batch(1, 0, 1, 1)).unwrap_err();
                        assert_eq!(refused.code, ErrorCode::NotEnoughReplicas);
                        rig.log.cut_job().unwrap().run(&rig.disk).unwrap();
                        rig.log.cut_done();
                        break;
                    }
                    rig.carry_out(&write);
                    rig.log.write_done(true);
                    written = write.end_offset;
                }
                assert_eq!(rig.log.log_end_offset(), written, "seed {seed}");
                staged.truncate(written.0 as usize - first);
                expected.append(&mut staged);
            }
            assert!(rig.log.cut_job().is_none());
            if prng.one_in(8) {
                rig.seal();
            }
            if prng.one_in(10) {
                rig = reopen(rig);
            }
            let values: Vec<_> = rig.consume(0, 3000).into_iter().map(|v| v.1).collect();
            assert!(values == expected, "seed {seed}");
        }
        let mut rig = reopen(rig);
        let values: Vec<_> = rig.consume(0, 3000).into_iter().map(|v| v.1).collect();
        assert!(values == expected, "seed {seed}");
    }
}

#[test]
fn a_file_that_could_not_be_made_needs_no_cut() {
    let mut rig = Rig::new(small());
    rig.append(batch(1, 0, 1, 3000)).unwrap();
    rig.write();
    rig.append(batch(1, 1, 1, 3000)).unwrap();
    rig.log.take_write().unwrap();
    assert_eq!(rig.log.write_done(false), WriteDone::Failed(Offset(1)));
    rig.log.cut_job().unwrap().run(&rig.disk).unwrap();
    rig.log.cut_done();
    rig.append(batch(1, 2, 1, 3000)).unwrap();
    rig.write();
    assert_eq!(rig.consume(0, 1 << 20).len(), 2);
}

#[test]
fn a_seal_without_room_comes_again_and_staged_writes_can_be_taken_back() {
    let mut rig = Rig::new(LogConfig {
        flush_messages: 1,
        ..small()
    });
    rig.append(batch(1, 0, 1, 3000)).unwrap();
    rig.write();
    rig.append(batch(1, 1, 1, 3000)).unwrap();
    assert!(rig.log.take_write().is_none(), "the name comes first");
    let now = rig.now().mono;
    rig.log.take_epoch_job().unwrap();
    assert!(rig.log.take_epoch_job().is_none());
    rig.log.epochs_written(false);
    assert!(
        rig.log.take_seal_job(now).is_none(),
        "the epochs come first"
    );
    rig.write_epochs();
    assert!(rig.log.take_seal_job(now).is_some());
    rig.log.seal_postponed(now);
    assert!(rig.log.take_seal_job(now).is_none());
    assert_eq!(rig.log.seal_due(), Some(now.plus_ms(SEAL_RETRY_MS)));
    assert!(rig.log.take_back_staged());
    assert!(!rig.log.take_back_staged());
    assert_eq!(rig.log.log_end_offset(), Offset(1));
    rig.append(batch(1, 2, 1, 3000)).unwrap();
    let job = rig.log.take_seal_job(now.plus_ms(SEAL_RETRY_MS)).unwrap();
    rig.run_seal(job);
    rig.write();
    assert_eq!(rig.consume(0, 1 << 20).len(), 2);
}
