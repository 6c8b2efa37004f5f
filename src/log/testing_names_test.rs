use super::super::MemDisk;
use super::*;
use flumen_base::{Disk, OpenMode, Prng};

fn disk() -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.forget_directories();
    disk
}

/// A synced file with a durable name, as far as its directory has one.
fn put(disk: &MemDisk, path: &str) {
    let path = Path::new(path);
    let file = disk.open(path, OpenMode::Create).unwrap();
    file.write_all_at(path.to_str().unwrap().as_bytes(), 0)
        .unwrap();
    file.sync().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

/// What power losses leave, in all the ways that there are.
fn left(make: impl Fn(&MemDisk)) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = (0..200)
        .map(|seed| {
            let disk = disk();
            make(&disk);
            disk.crash(&mut Prng::new(seed));
            let paths = disk.paths().into_iter();
            paths.map(|p| p.display().to_string()).collect()
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn a_new_directory_is_there_once_the_one_above_is_synced() {
    let make = |disk: &MemDisk| {
        disk.create_dir_all(Path::new("/d/a")).unwrap();
        put(disk, "/d/a/x");
    };
    assert_eq!(left(make), [vec![], vec!["/d/a/x".to_owned()]]);
    let synced = left(|disk| {
        make(disk);
        disk.sync_dir(Path::new("/d")).unwrap();
    });
    assert_eq!(synced, [["/d/a/x"]]);
}

#[test]
fn nothing_is_made_in_a_directory_that_is_not_there() {
    let disk = disk();
    let path = Path::new("/d/a/x");
    assert!(disk.open(path, OpenMode::Create).is_err());
    disk.create_dir_all(Path::new("/d/a")).unwrap();
    put(&disk, "/d/a/x");
    disk.remove_dir_all(Path::new("/d/a")).unwrap();
    assert!(disk.open(path, OpenMode::Read).is_err());
    assert!(disk.open(path, OpenMode::Create).is_err());
}

/// What is synced in a directory is found in it, whatever its name has come to be.
#[test]
fn a_renamed_directory_keeps_what_is_synced_in_it() {
    let make = |disk: &MemDisk| {
        disk.create_dir_all(Path::new("/d/a")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        put(disk, "/d/a/x");
        let later = Path::new("/d/a/later");
        disk.open(later, OpenMode::Create).unwrap();
        disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        put(disk, "/d/b/y");
    };
    let name = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let all = ["/d/a/later", "/d/a/x", "/d/a/y"];
    let renamed = ["/d/b/later", "/d/b/x", "/d/b/y"];
    assert_eq!(left(make), [name(&all), name(&renamed)]);
    let synced = left(|disk| {
        make(disk);
        disk.sync_dir(Path::new("/d")).unwrap();
    });
    assert_eq!(synced, [name(&renamed)]);
    // A name that was not synced before its directory was renamed is lost or not, in the new one.
    let synced = left(|disk| {
        disk.create_dir_all(Path::new("/d/a")).unwrap();
        disk.open(Path::new("/d/a/x"), OpenMode::Create).unwrap();
        disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
    });
    assert_eq!(synced, [name(&[]), name(&["/d/b/x"])]);
}

#[test]
fn a_removed_directory_may_come_back() {
    let removed = left(|disk| {
        disk.create_dir_all(Path::new("/d/a")).unwrap();
        put(disk, "/d/a/x");
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.remove_dir_all(Path::new("/d/a")).unwrap();
    });
    assert_eq!(removed, [vec![], vec!["/d/a/x".to_owned()]]);
}
