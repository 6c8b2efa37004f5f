use super::*;

fn entries() -> Vec<IndexEntry> {
    (0..1000u32)
        .map(|i| IndexEntry {
            last: i * 10 + 9,
            position: i * 100,
            first: i * 10,
        })
        .collect()
}

#[test]
fn full_indexes_know_the_batch() {
    let index = OffsetIndex::Full(entries());
    assert_eq!(index.floor(0), Floor::Exact(0));
    assert_eq!(index.floor(1234), Floor::Exact(12300));
    assert_eq!(index.floor(20_000), Floor::AtOrAfter(99_900));
}

#[test]
fn samples_lead_to_a_block() {
    let mut index = OffsetIndex::Full(entries());
    let file = index.encode().unwrap();
    index.thin();
    assert_eq!(index.len(), 1000);
    let Floor::NeedBlock { slot, entries } = index.floor(5555) else {
        panic!("{:?}", index.floor(5555));
    };
    let block = &file[slot * OFFSET_ENTRY_LEN..(slot + entries) * OFFSET_ENTRY_LEN];
    let block: Vec<_> = decode_offsets(block).collect();
    // The file does not say where batches begin: the batch before is the floor.
    assert_eq!(floor_in(&block, 5555).0, Floor::AtOrAfter(55_400));

    let mut cold = OffsetIndex::Cold { entries: 1000 };
    assert_eq!(cold.floor(5555), Floor::NeedAll { entries: 1000 });
    assert!(cold.load_samples(&file, u64::MAX));
    assert!(matches!(cold.floor(5555), Floor::NeedBlock { .. }));
}

#[test]
fn boundaries() {
    let index = OffsetIndex::Full(entries());
    assert_eq!(
        index.boundary_below(1250, None).map(|e| e.position),
        Some(1200)
    );
    assert_eq!(
        index.boundary_below(99_999, Some(55)).map(|e| e.position),
        Some(500)
    );
    assert_eq!(OffsetIndex::new().boundary_below(5, None), None);
}

#[test]
fn padding_and_garbage_end_a_file() {
    let mut file = OffsetIndex::Full(entries()[..3].to_vec()).encode().unwrap();
    file.extend_from_slice(&[0; 80]);
    assert_eq!(decode_offsets(&file).count(), 3);
    let times = [(5, 1), (9, 4)].map(|(timestamp, offset)| TimeEntry { timestamp, offset });
    let mut file = encode_times(&times);
    file.extend_from_slice(&[0; 31]);
    assert_eq!(decode_times(&file).collect::<Vec<_>>(), times);
}
