use super::*;
use crate::logfile::OpenLog;
use crate::sys;
use flumen_base::FileId;
use std::path::Path;
use std::time::{Duration, Instant};

fn files(room: usize) -> Arc<Files> {
    let mut files = Files::new(1000, 1);
    files.room = room;
    Arc::new(files)
}

fn open(files: &Arc<Files>, dir: &Path, n: u64) -> Arc<LogFile> {
    let file = LogFile::segment(FileId(n), dir.join(format!("{n}.log")));
    open_again(files, &file);
    file
}

fn open_again(files: &Arc<Files>, file: &Arc<LogFile>) -> OpenLog {
    let opened = sys::open_log(file.path(), true).unwrap();
    OpenLog::put(file, opened, files).unwrap()
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let by = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < by, "{what}");
        std::thread::yield_now();
    }
}

fn is_open(file: &Arc<LogFile>) -> bool {
    file.handle().get::<LogHandle>().is_some()
}

#[test]
fn files_not_used_lately_are_closed_and_open_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(200);
    let clients = Arc::new(AtomicUsize::new(20));
    let counted = Arc::clone(&clients);
    let count = move || counted.load(Ordering::SeqCst);
    let closer = files.start(Arc::default(), count).unwrap();
    let all: Vec<_> = (0..300).map(|n| open(&files, dir.path(), n)).collect();
    assert_eq!(files.open(), 300);
    let in_use = OpenLog::new(&all[0]).unwrap();
    let leased = Arc::clone(&all[1]); // a fetch that has not opened it
    files.check(20);
    // It closes so many at a time, and the last of them too.
    let left = 300 - (300 - files.aim(20)).next_multiple_of(SYNCS);
    wait("files are closed", || files.open() <= left);
    assert!(is_open(&all[0]) && is_open(&leased));
    assert!(!is_open(&all[2]), "the oldest go first");
    assert!(is_open(&all[299]));
    drop(in_use);
    open_again(&files, &all[2]);
    assert_eq!(files.open(), left + 1);
    clients.store(100, Ordering::SeqCst);
    files.check(100);
    wait("clients take their place", || files.open() <= 100);
    closer.stop();
}

#[test]
fn what_was_written_is_synced_before_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(0);
    let file = open(&files, dir.path(), 1);
    let handle = file.handle().get::<LogHandle>().unwrap();
    handle.set_synced(false);
    assert!(!handle.is_idle());
    assert_eq!(is_unused(&file, false), Some(false), "it was used");
    assert_eq!(is_unused(&file, false), Some(true));
    flush_all(std::slice::from_ref(&file));
    assert!(handle.is_idle());
    assert!(!close_idle(&file), "somebody has it");
    drop(handle);
    assert!(close_idle(&file));
    assert!(!is_open(&file));
}

#[test]
fn a_file_whose_sync_failed_stays_broken() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(0);
    let file = open(&files, dir.path(), 1);
    file.set_broken();
    let opened = sys::open_log(file.path(), true).unwrap();
    assert!(OpenLog::put(&file, opened, &files).is_err());
}

#[test]
fn files_that_are_gone_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(100);
    for n in 0..2 * FORGET_ABOVE as u64 {
        drop(open(&files, dir.path(), n));
    }
    assert!(files.lock().len() <= FORGET_ABOVE + 2);
    assert_eq!(files.open(), 0);
}

#[test]
fn there_is_room_for_so_many() {
    let files = files(100);
    let began = (0..200).filter(|_| files.begin_opening(10)).count();
    assert_eq!(began, 90);
    files.end_opening();
    assert!(files.begin_opening(10) && !files.begin_opening(10));
    assert!(!files.begin_opening(30), "clients have come");
}
