use crate::batch::Batches;
use crate::testing_rig::{Rig, batch};
use crate::{LogConfig, ReadPlan, ReadRequest};
use flumen_base::Offset;
use proptest::prelude::*;

/// Base offset, last offset and bytes of a batch.
type Known = (i64, i64, Vec<u8>);

/// What a read is to give, by its definition.
fn expected(batches: &[Known], request: &ReadRequest) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let wanted = batches
        .iter()
        .filter(|(_, last, _)| *last >= request.offset.0);
    for (_, last, batch) in wanted {
        let fits = bytes.len() + batch.len() <= request.max_bytes as usize;
        let whole = request.min_one && bytes.is_empty();
        if *last >= request.upper_bound.0 || !(fits || whole) {
            break;
        }
        bytes.extend_from_slice(batch);
    }
    bytes
}

/// A log after these turns of appends: records and bytes of each.
fn rig_with(turns: &[Vec<(usize, usize)>], tail_budget: usize) -> Rig {
    let mut rig = Rig::new(LogConfig {
        segment_bytes: 30_000,
        retention_ms: -1,
        ..LogConfig::default()
    });
    rig.log.set_tail_budget(tail_budget);
    let mut tag = 0;
    for turn in turns {
        for &(count, len) in turn {
            rig.append(batch(1, tag, count, len)).unwrap();
            tag += 1;
        }
        rig.write();
    }
    rig
}

/// All batches of a log without a memory tail.
fn batches_in_files(rig: &mut Rig) -> Vec<Known> {
    let end = rig.log.log_end_offset().0;
    let (mut batches, mut next) = (Vec::new(), 0);
    while next < end {
        let bytes = rig.read(next, end, 1 << 30).unwrap();
        for batch in Batches::new(&bytes) {
            let batch = batch.unwrap();
            let (base, last) = (batch.header.base_offset(), batch.header.last_offset());
            next = last + 1;
            batches.push((base, last, batch.bytes().to_vec()));
        }
    }
    batches
}

fn read(rig: &mut Rig, request: &ReadRequest) -> Vec<u8> {
    match rig.log.plan_read(request) {
        ReadPlan::Memory(bufs) => bufs.concat(),
        ReadPlan::Empty => Vec::new(),
        other => panic!("{request:?}: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Small batches gathered into runs, and large ones among them, read as if each were alone:
    /// whatever the offset, the bound and the limit.
    #[test]
    fn runs_read_as_their_batches(
        turns in prop::collection::vec(
            prop::collection::vec(
                (1..4usize, prop_oneof![6 => 0..300usize, 1 => 3900..4300usize]),
                1..12,
            ),
            1..6,
        ),
        reads in prop::collection::vec((0.0..1.0f64, 0.0..1.2f64, 0..20_000u32, any::<bool>()), 40),
    ) {
        let mut rig = rig_with(&turns, 1 << 20);
        let batches = batches_in_files(&mut rig_with(&turns, 0));
        prop_assert_eq!(batches.len(), turns.iter().flatten().count());
        let end = rig.log.log_end_offset().0;
        for (offset, bound, max_bytes, min_one) in reads {
            let request = ReadRequest {
                offset: Offset((offset * end as f64) as i64),
                upper_bound: Offset((bound * end as f64) as i64),
                max_bytes,
                min_one,
            };
            let wanted = match request.offset < request.upper_bound {
                true => expected(&batches, &request),
                false => Vec::new(),
            };
            prop_assert_eq!(read(&mut rig, &request), wanted, "{:?}", request);
        }
    }
}

#[test]
fn a_write_of_many_small_batches_has_few_buffers() {
    let mut rig = Rig::new(LogConfig::default());
    rig.log.set_tail_budget(1 << 20);
    for tag in 0..100 {
        rig.append(batch(1, tag, 1, 100)).unwrap();
    }
    let write = rig.log.take_write().unwrap();
    let bytes: usize = write.bufs.iter().map(bytes::Bytes::len).sum();
    assert!(
        bytes > 100 * 100 && write.bufs.len() <= 16,
        "{} buffers",
        write.bufs.len()
    );
    assert_eq!(Batches::new(&write.bufs.concat()).count(), 100);
}
