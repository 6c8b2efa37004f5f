use super::*;
use flumen_base::{Disk, DiskFile, OpenMode};

fn file(disk: &MemDisk, name: &str) -> Box<dyn DiskFile> {
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.open(&Path::new("/d").join(name), OpenMode::Create)
        .unwrap()
}

fn held(disk: &MemDisk, name: &str) -> Vec<u8> {
    disk.contents(&Path::new("/d").join(name)).unwrap()
}

#[test]
fn a_full_disk_takes_what_fits_and_goes_on_when_there_is_room() {
    let disk = MemDisk::new();
    let a = file(&disk, "a");
    a.write_all_at(b"0123456789", 0).unwrap();
    disk.set_capacity(Some(14));
    assert_eq!(a.write_at(b"abcdefgh", 10).unwrap(), 4);
    let full = a.write_at(b"e", 14).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(a.write_at(b"XY", 0).unwrap(), 2, "it takes no more room");
    let path = Path::new("/d/b");
    assert!(disk.open(path, OpenMode::Create).is_err());
    assert_eq!(held(&disk, "a"), b"XY23456789abcd");
    disk.set_capacity(None);
    assert_eq!(a.write_at(b"efgh", 14).unwrap(), 4);
    assert_eq!(disk.used(), 18);
}

#[test]
fn a_sync_that_loses_is_not_made_good_by_the_next() {
    for (how, kept) in [
        (SyncFailure::Keeps, &b"old new later"[..]),
        (SyncFailure::Loses, b"old\0\0\0\0 later"),
    ] {
        let disk = MemDisk::new();
        let a = file(&disk, "a");
        a.write_all_at(b"old", 0).unwrap();
        a.sync().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        a.write_all_at(b" new", 3).unwrap();
        disk.fail_next_sync(how);
        a.sync().unwrap_err();
        a.write_all_at(b" later", 7).unwrap();
        a.sync().unwrap();
        assert_eq!(held(&disk, "a"), b"old new later");
        assert_eq!(disk.is_synced(Path::new("/d/a")), how == SyncFailure::Keeps);
        disk.crash(&mut Prng::new(1));
        assert_eq!(held(&disk, "a"), kept);
    }
}

#[test]
fn garbage_stands_only_where_nothing_was_synced() {
    let mut garbage = 0;
    for seed in 0..200 {
        let disk = MemDisk::new();
        let a = file(&disk, "a");
        a.write_all_at(&[1; 700], 0).unwrap();
        a.sync().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        a.write_all_at(&[2; 2000], 700).unwrap();
        disk.crash_with_garbage(&mut Prng::new(seed));
        let data = held(&disk, "a");
        assert_eq!(data[..700], [1; 700]);
        let known = |b: &u8| *b == 2 || *b == 0;
        assert!(
            data[700..].iter().take(1024 - 700).all(known),
            "seed {seed}"
        );
        garbage += u32::from(!data[700..].iter().all(known));
    }
    assert!(garbage > 20, "{garbage}");
}

#[test]
fn a_fork_is_apart() {
    let disk = MemDisk::new();
    let a = file(&disk, "a");
    a.write_all_at(b"abc", 0).unwrap();
    let fork = disk.fork();
    assert!(fork.flip_bit(Path::new("/d/a"), 1, 0));
    assert!(!fork.flip_bit(Path::new("/d/a"), 3, 0));
    assert!(!fork.flip_bit(Path::new("/d/b"), 0, 0));
    a.write_all_at(b"d", 3).unwrap();
    assert_eq!(held(&disk, "a"), b"abcd");
    assert_eq!(held(&fork, "a"), b"acc");
    fork.crash(&mut Prng::new(3));
    assert_eq!(held(&fork, "a"), b"acc", "all of it was synced");
}
