//! Which directories are full, and how failures are judged.

use super::*;

fn space(usable: u64) -> Option<Space> {
    Some(Space {
        total: 1 << 40,
        usable,
    })
}

#[test]
fn full_below_the_reserve_and_a_while_after_a_write_found_no_room() {
    let mut dir = Dir {
        space: space(100),
        ..Dir::default()
    };
    let now = Mono(1);
    assert!(!dir.judge(now, 0));
    assert!(!dir.judge(now, 100));
    assert!(dir.judge(now, 101));
    dir.full_since = Some(now);
    assert!(dir.judge(now, 0));
    let later = now.plus_ms(FULL_MS);
    assert!(dir.judge(later, 0), "hardly anything is free");
    dir.space = space(FULL_UNTIL_FREE_BYTES);
    assert!(!dir.judge(later, 0));
    assert!(dir.judge(later, u64::MAX));
    // Where the disk does not tell, time does.
    dir.space = None;
    assert!(!dir.judge(later, u64::MAX - 1));
    dir.full_since = Some(later);
    assert!(dir.judge(later, 0));
    assert!(!dir.judge(later.plus_ms(FULL_MS), 0));
}

#[test]
fn what_was_granted_is_used_up_by_appends() {
    let mut dirs = Dirs::default();
    dirs.list.push(Dir::default());
    dirs.spend(0, 1 << 40);
    assert!(!dirs.is_full(0), "nothing was granted or refused");
    dirs.grant(0, (1 << 40) + 100);
    dirs.spend(0, 99);
    assert!(!dirs.is_full(0));
    dirs.spend(0, 1); // what the last look did not see is taken off
    assert!(dirs.is_full(0) && dirs.counts() == (0, 1));
    dirs.grant(0, 100);
    assert!(dirs.is_full(0));
    dirs.grant(0, 100);
    assert!(!dirs.is_full(0));
    dirs.grant(0, 0);
    assert!(dirs.is_full(0));
}

#[test]
fn a_failed_sync_is_never_a_small_matter() {
    use io::ErrorKind::{NotFound, Other, StorageFull};
    let failure = |op, kind| IoFailure {
        op,
        path: String::new(),
        kind,
    };
    for (op, kind, fault) in [
        ("write", StorageFull, DiskFault::Full),
        ("open", StorageFull, DiskFault::Full),
        ("fdatasync", StorageFull, DiskFault::Device),
        ("write", Other, DiskFault::Device),
        ("open", NotFound, DiskFault::Device),
        ("read", NotFound, DiskFault::Local),
        ("read", Other, DiskFault::Device),
    ] {
        assert_eq!(fault_of(&failure(op, kind)), fault, "{op} {kind}");
    }
}
