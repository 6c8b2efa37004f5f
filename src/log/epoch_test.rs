use super::*;

fn cache(entries: &[(i32, i64)]) -> EpochCache {
    let mut cache = EpochCache::default();
    for (epoch, start) in entries {
        cache.assign(*epoch, *start);
    }
    cache
}

#[test]
fn assign_keeps_both_columns_ascending() {
    let mut epochs = cache(&[(1, 0), (3, 10)]);
    assert!(!epochs.assign(3, 12), "the same epoch goes on");
    assert!(epochs.assign(4, 10), "no records of 3 were written");
    assert_eq!(epochs.entries(), [(1, 0), (4, 10)]);
    assert!(epochs.assign(2, 5));
    assert_eq!(epochs.entries(), [(1, 0), (2, 5)]);
    assert!(!epochs.assign(-1, 50));
}

#[test]
fn end_offsets() {
    let epochs = cache(&[(2, 5), (4, 10), (7, 20)]);
    let end = |epoch| {
        let end = epochs.end_offset(epoch, 30);
        (end.epoch, end.end_offset.0)
    };
    assert_eq!(end(7), (7, 30));
    assert_eq!(end(8), (-1, -1));
    assert_eq!(end(-1), (-1, -1));
    assert_eq!(end(4), (4, 20));
    assert_eq!(end(5), (4, 20));
    assert_eq!(end(2), (2, 10));
    assert_eq!(end(1), (1, 5));
    assert_eq!(EpochCache::default().end_offset(0, 9), EpochEnd::UNKNOWN);
    let at = |offset| epochs.at(offset);
    assert_eq!((at(4), at(5), at(9), at(10), at(99)), (-1, 2, 2, 4, 7));
}

#[test]
fn truncation() {
    let mut epochs = cache(&[(2, 5), (4, 10), (7, 20)]);
    assert!(epochs.truncate_end(20));
    assert_eq!(epochs.entries(), [(2, 5), (4, 10)]);
    assert!(epochs.truncate_start(12));
    assert_eq!(epochs.entries(), [(4, 12)]);
    assert!(!epochs.truncate_start(12));
    assert!(!epochs.truncate_start(3));
}

#[test]
fn the_file() {
    let epochs = cache(&[(0, 0), (4, 10)]);
    assert_eq!(epochs.encode(), "0\n2\n0 0\n4 10\n");
    assert_eq!(EpochCache::decode(&epochs.encode()), Some(epochs));
    for bad in [
        "",
        "0\n",
        "1\n0\n",
        "0\n2\n0 0\n",
        "0\n1\n0 0 0\n",
        "0\n1\nx 0\n",
    ] {
        assert_eq!(EpochCache::decode(bad), None, "{bad:?}");
    }
}
