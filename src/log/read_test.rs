use crate::testing_rig::{Rig, batch, values};
use crate::{LogConfig, ReadPlan, ReadRequest};
use bytes::Bytes;
use flumen_base::Offset;

fn rig(batches: u64, len: usize) -> Rig {
    let mut rig = Rig::new(LogConfig {
        segment_bytes: 1 << 20,
        retention_ms: -1,
        ..LogConfig::default()
    });
    for tag in 0..batches {
        rig.append(batch(1, tag, 2, len)).unwrap();
        rig.write();
    }
    rig
}

fn request(offset: i64, max_bytes: u32, min_one: bool) -> ReadRequest {
    ReadRequest {
        offset: Offset(offset),
        upper_bound: Offset(i64::MAX),
        max_bytes,
        min_one,
    }
}

#[test]
fn the_tail_is_served_from_memory_within_its_budget() {
    let mut rig = rig(0, 0);
    rig.log.set_tail_budget(10_000);
    for tag in 0..20 {
        rig.append(batch(1, tag, 2, 500)).unwrap();
    }
    assert!(rig.log.tail_bytes() <= 10_000 && rig.log.tail_bytes() > 8000);
    assert!(matches!(
        rig.log.plan_read(&request(39, 1000, true)),
        ReadPlan::Empty
    ));
    rig.write();
    let plan = rig.log.plan_read(&request(37, 1 << 20, true));
    let ReadPlan::Memory(bufs) = plan else {
        panic!("{plan:?}");
    };
    assert_eq!(values(&bufs.concat(), 37).len(), 3);
    assert!(matches!(
        rig.log.plan_read(&request(0, 6000, true)),
        ReadPlan::File(_)
    ));
    rig.log.set_tail_budget(0);
    assert_eq!(rig.log.tail_bytes(), 0);
    assert!(!matches!(
        rig.log.plan_read(&request(39, 1000, true)),
        ReadPlan::Memory(_)
    ));
}

#[test]
fn the_first_batch_comes_whole_or_not_at_all() {
    for budget in [0, 1 << 20] {
        let mut rig = rig(0, 0);
        rig.log.set_tail_budget(budget);
        for tag in 0..3 {
            rig.append(batch(1, tag, 1, 9000)).unwrap();
        }
        rig.write();
        let whole = rig.read(1, 3, 100).unwrap();
        assert_eq!(values(&whole, 1).len(), 1);
        assert!(whole.len() > 9000 && whole.len() < 9200);
        let mut plan = rig.log.plan_read(&request(0, 100, false));
        while let ReadPlan::NeedScan(scan) = plan {
            let bytes = rig.read(0, 3, 1 << 20).unwrap();
            let len = bytes.len().min(scan.range.len as usize);
            plan = rig
                .log
                .resume_read(scan, &Bytes::copy_from_slice(&bytes[..len]));
        }
        assert!(matches!(plan, ReadPlan::Empty));
    }
}

#[test]
fn sequential_readers_of_large_and_small_batches_need_no_scan() {
    for (batches, len) in [(50, 9000), (600, 300), (2000, 40)] {
        let mut rig = rig(batches, len);
        let all = rig.consume(0, 40_000);
        assert_eq!(all.len() as u64, batches * 2);
        assert_eq!(rig.scans, 0, "{len}");
        // A reader in the middle scans at most once.
        rig.consume(batches as i64 + 1, 40_000);
        assert!(rig.scans <= 1, "{} scans for {len}", rig.scans);
    }
}

#[test]
fn tail_readers_without_memory_need_no_scan() {
    let mut rig = rig(5, 100);
    let mut at = 0;
    for tag in 0..40 {
        let end = rig.log.written_end_offset().0;
        let got = values(&rig.read(at, end, 1 << 20).unwrap(), at);
        at = got.last().unwrap().0 + 1;
        assert_eq!(at, end);
        rig.append(batch(1, tag, 3, 100)).unwrap();
        rig.write();
    }
    assert_eq!(rig.scans, 0);
}

#[test]
fn cold_segments_are_read_through_their_index_files() {
    let mut rig = Rig::new(LogConfig {
        segment_bytes: 300_000,
        index_interval_bytes: 100,
        retention_ms: -1,
        ..LogConfig::default()
    });
    for tag in 0..3000 {
        rig.append(batch(1, tag, 1, 200)).unwrap();
    }
    rig.write();
    let expected = rig.consume(0, 50_000);
    rig.seal();
    for how in ["sealed", "restarted"] {
        if how == "restarted" {
            let (disk, config) = rig.close();
            rig = Rig::open(disk, config, 3000, 0, true);
            assert_eq!(rig.report.segments_recovered, 0);
        }
        assert!(rig.log.segment_count() > 2);
        for offset in [0, 1, 777, 1300, 1301, 2500, 2999] {
            let bytes = rig.read(offset, 3000, 5000).unwrap();
            let got = values(&bytes[..bytes.len()], offset);
            assert_eq!(got[0], expected[offset as usize], "{how}");
        }
        let (before, segments) = (rig.scans, rig.log.segment_count());
        assert_eq!(rig.consume(0, 50_000), expected, "{how}");
        // One read of the disk per answer, but for the first of a segment.
        let answers = 3000 * 270 / 50_000 + segments;
        assert!(
            rig.scans - before <= answers + 2,
            "{how}: {before} {} {answers}",
            rig.scans
        );
    }
}

#[test]
fn a_file_that_lies_is_corrupt_not_a_panic() {
    let mut rig = rig(600, 300);
    let plan = rig.log.plan_read(&request(601, 100, true));
    let ReadPlan::NeedScan(scan) = plan else {
        panic!("{plan:?}");
    };
    let garbage = Bytes::from(vec![0xff; scan.range.len as usize]);
    assert!(matches!(
        rig.log.resume_read(scan, &garbage),
        ReadPlan::Corrupt
    ));
    let ReadPlan::NeedScan(scan) = rig.log.plan_read(&request(601, 100, true)) else {
        panic!();
    };
    let plan = rig.log.resume_read(scan, &Bytes::new());
    assert!(matches!(plan, ReadPlan::Corrupt));
}
