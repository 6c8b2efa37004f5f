//! What was acknowledged is there after any crash, and damaged files never give wrong records.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic

mod common;

use common::{DIR, Node, facts, random_records, rounds, write};
use flumen_base::{Disk, DiskFile, OpenMode, Prng};
use flumen_log::testing::MemDisk;
use flumen_quorum::{Append, Delta, Effect, Image, LoadError, MetadataRecord, Quorum};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What was proposed is written, and nothing synced.
fn write_unsynced(disk: &MemDisk, node: &mut Node, seed: u64) -> Append {
    let mut effects = Vec::new();
    node.quorum.poll(&mut effects);
    let append = match effects.into_iter().next() {
        Some(Effect::Append(append)) => append,
        other => panic!("seed {seed}: {other:?}"),
    };
    write(disk, &append, false);
    append
}

#[test]
fn a_new_directory_elects_itself_at_once_and_loads_empty() {
    let disk = MemDisk::new();
    let node = Node::start(&disk, 1 << 20);
    assert_eq!(facts(&node.image), facts(&Image::default()));
    assert_eq!(
        node.appends, 1,
        "one write: the vote and the leader's first entry"
    );
    assert_eq!(node.quorum.status().leader, 0);
    assert_eq!(node.quorum.next_deadline(), None);
    drop(node);
    let node = Node::start(&disk, 1 << 20);
    assert_eq!(node.quorum.status().term, 2);
}

#[test]
fn proposals_of_one_turn_share_a_write_and_an_image() {
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 1 << 20);
    let before = node.appends;
    let mut ids = Vec::new();
    for n in 0..10 {
        let id = flumen_base::Uuid::from_bytes([n; 16]);
        let name = format!("t{n}");
        ids.push(node.propose(&[MetadataRecord::Topic { name, id }]));
        assert_eq!(node.quorum.latest().topics().len(), usize::from(n) + 1);
        assert_eq!(node.quorum.committed().topics().len(), 0);
    }
    node.settle();
    assert_eq!(node.appends, before + 1);
    assert_eq!(node.finished, ids);
    assert_eq!(node.image.topics().len(), 10);
}

#[test]
fn a_record_that_does_not_fit_changes_nothing() {
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 1 << 20);
    let id = flumen_base::Uuid::from_bytes([7; 16]);
    let name = "t".to_owned();
    let topic = MetadataRecord::Topic { name, id };
    node.propose(std::slice::from_ref(&topic));
    let before = facts(node.quorum.latest());
    let other = MetadataRecord::ClusterId("x".to_owned());
    assert!(node.quorum.propose(&[other, topic]).is_err());
    assert_eq!(facts(node.quorum.latest()), before);
    node.settle();
    assert_eq!(facts(&node.image), before);
}

#[test]
fn a_failed_write_is_fatal() {
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 1 << 20);
    node.propose(&[MetadataRecord::ClusterId("x".to_owned())]);
    let mut effects = Vec::new();
    node.quorum.poll(&mut effects);
    assert!(matches!(effects[..], [Effect::Append(_)]));
    effects.clear();
    node.quorum.append_done(Err("no space".to_owned()));
    node.quorum.poll(&mut effects);
    node.quorum.poll(&mut effects);
    assert!(matches!(&effects[..], [Effect::Fatal(reason)] if reason.contains("no space")));
    assert!(node.quorum.propose(&[]).is_err());
    assert!(!node.quorum.is_ready());
}

/// No room on the disk: the frame is written again, and nothing is proposed meanwhile.
#[test]
fn a_full_disk_delays_what_is_proposed() {
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 1 << 20);
    let id = node.propose(&[MetadataRecord::ClusterId("x".to_owned())]);
    let mut effects = Vec::new();
    node.quorum.poll(&mut effects);
    let Some(Effect::Append(first)) = effects.pop() else {
        panic!("no append");
    };
    node.quorum.append_full();
    node.quorum.poll(&mut effects);
    assert!(effects.is_empty());
    let other = MetadataRecord::ClusterId("y".to_owned());
    assert!(node.quorum.propose(std::slice::from_ref(&other)).is_err());
    node.quorum.retry_append(&mut effects);
    let Some(Effect::Append(second)) = effects.pop() else {
        panic!("no append");
    };
    assert_eq!((first.pos, &first.bytes), (second.pos, &second.bytes));
    write(&disk, &second, true);
    node.quorum.append_done(Ok(()));
    node.settle();
    assert_eq!(node.finished, [id]);
    node.quorum.retry_append(&mut effects);
    assert!(effects.is_empty());
    node.propose(&[other]);
    node.settle();
    let again = Node::start(&disk, 1 << 20);
    assert_eq!(facts(&again.image), facts(&node.image));
}

/// Live image, image from the log alone, and image from snapshots and a tail are the same, through
/// restarts and crashes.
#[test]
fn every_way_to_the_image_gives_the_same() {
    for seed in 0..u64::from(rounds(24)) {
        let mut prng = Prng::new(seed);
        let disk = MemDisk::new();
        let long_log = MemDisk::new();
        let mut with_snapshots = Node::start(&disk, 300 + prng.below(3000));
        let mut without = Node::start(&long_log, u64::MAX);
        for _ in 0..40 + prng.below(60) {
            for _ in 0..=prng.below(3) {
                let mut copy = Prng::new(prng.next_u64());
                let records = random_records(&mut copy, with_snapshots.quorum.latest());
                with_snapshots.propose(&records);
                without.propose(&records);
            }
            let before = with_snapshots.image.clone();
            with_snapshots.settle();
            without.settle();
            let live = facts(&with_snapshots.image);
            let delta = Delta::between(&before, &with_snapshots.image);
            assert_eq!(
                delta.is_empty(),
                same_but_position(&before, &with_snapshots.image),
                "seed {seed}"
            );
            if prng.one_in(10) {
                if prng.one_in(2) {
                    disk.crash(&mut prng);
                }
                let snapshots = with_snapshots.snapshots;
                with_snapshots = Node::start(&disk, 300 + prng.below(3000));
                with_snapshots.snapshots += snapshots;
                without = Node::start(&long_log, u64::MAX);
                assert_eq!(facts(&with_snapshots.image), live, "seed {seed}");
                assert_eq!(facts(&without.image), live, "seed {seed}");
            }
        }
        assert!(
            with_snapshots.snapshots > 0,
            "seed {seed}: no snapshot was taken"
        );
        let segments = disk.paths().len();
        assert!(segments <= 5, "seed {seed}: {:?}", disk.paths());
    }
}

fn same_but_position(a: &Image, b: &Image) -> bool {
    let strip = |image: &Image| {
        let text = facts(image);
        // Producer ids and the cluster id are nothing that a shard builds or tears down.
        let features = format!(" {} ", image.features_index());
        let cut = text.rfind(&features).unwrap();
        text[..cut].to_owned()
    };
    strip(a) == strip(b)
}

/// A crash in the middle of a write keeps all that was acknowledged before, and the write as a
/// whole or not at all.
#[test]
fn a_crash_during_a_write_keeps_what_was_acknowledged() {
    for seed in 0..u64::from(rounds(200)) {
        let mut prng = Prng::new(seed);
        let disk = MemDisk::new();
        let mut node = Node::start(&disk, 2000);
        for _ in 0..prng.below(20) {
            let records = random_records(&mut prng, node.quorum.latest());
            node.propose(&records);
            node.settle();
        }
        let acked = facts(&node.image);
        for _ in 0..=prng.below(30) {
            let records = random_records(&mut prng, node.quorum.latest());
            node.propose(&records);
        }
        let with_write = facts(node.quorum.latest());
        write_unsynced(&disk, &mut node, seed);
        drop(node);
        disk.crash(&mut prng);
        let node = Node::start(&disk, 2000);
        let now = facts(&node.image);
        assert!(now == acked || now == with_write, "seed {seed}");
        drop(node);
        // What was found once stays, whatever happens to the machine.
        disk.crash(&mut prng);
        assert_eq!(facts(&Node::start(&disk, 2000).image), now, "seed {seed}");
    }
}

/// The disk stops doing anything at each step of a snapshot in turn, then the machine restarts.
#[test]
fn a_crash_at_any_step_of_a_snapshot_loses_nothing() {
    for seed in 0..u64::from(rounds(10)) {
        for steps in 0..40 {
            let mut prng = Prng::new(seed);
            let disk = MemDisk::new();
            let mut node = Node::start(&disk, 600);
            let mut stopped = false;
            for turn in 0.. {
                if stopped {
                    break;
                }
                assert!(turn < 1000, "no third snapshot");
                let records = random_records(&mut prng, node.quorum.latest());
                node.propose(&records);
                let mut effects = Vec::new();
                node.quorum.poll(&mut effects);
                let Effect::Append(append) = effects.remove(0) else {
                    panic!("{effects:?}");
                };
                write(&disk, &append, true);
                node.quorum.append_done(Ok(()));
                node.quorum.poll(&mut effects);
                for effect in effects {
                    match effect {
                        Effect::Committed(commit) => node.image = commit.image,
                        Effect::Job(job) if node.snapshots == 2 => {
                            job.run(&Stopping::new(&disk, steps));
                            stopped = true;
                        }
                        Effect::Job(job) => {
                            node.snapshots += 1;
                            node.quorum.job_done(job.run(&disk));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            let live = facts(&node.image);
            drop(node);
            disk.crash(&mut prng);
            let mut node = Node::start(&disk, 600);
            assert_eq!(facts(&node.image), live, "seed {seed}, step {steps}");
            for _ in 0..10 {
                let records = random_records(&mut prng, node.quorum.latest());
                node.propose(&records);
                node.settle();
            }
            let live = facts(&node.image);
            drop(node);
            assert_eq!(
                facts(&Node::start(&disk, 600).image),
                live,
                "seed {seed}, step {steps}"
            );
        }
    }
}

/// The process is killed when a snapshot has made the next segment and a write to the one before
/// is not synced. Found, the write counts: a power loss must not take it from before what follows.
#[test]
fn what_a_killed_process_wrote_stays_beside_a_new_segment() {
    for seed in 0..u64::from(rounds(20)) {
        let mut prng = Prng::new(seed);
        let disk = MemDisk::new();
        let mut node = Node::start(&disk, 600);
        let (mut effects, mut job) = (Vec::new(), None);
        while job.is_none() {
            let records = random_records(&mut prng, node.quorum.latest());
            node.propose(&records);
            node.quorum.poll(&mut effects);
            while let Some(effect) = effects.pop() {
                match effect {
                    Effect::Append(append) => {
                        write(&disk, &append, true);
                        node.quorum.append_done(Ok(()));
                        node.quorum.poll(&mut effects);
                    }
                    Effect::Job(snapshot) => job = Some(snapshot),
                    _ => {}
                }
            }
        }
        let records = random_records(&mut prng, node.quorum.latest());
        node.propose(&records);
        write_unsynced(&disk, &mut node, seed);
        job.unwrap().run(&disk);
        drop(node);
        disk.kill();
        let mut node = Node::start(&disk, 1 << 20);
        let records = random_records(&mut prng, node.quorum.latest());
        node.propose(&records);
        node.settle();
        let live = facts(&node.image);
        drop(node);
        disk.crash(&mut prng);
        assert_eq!(facts(&Node::start(&disk, 600).image), live, "seed {seed}");
    }
}

/// The process is killed with a write that is not synced. What the next one has loaded it serves
/// before its own first write is synced: a power loss may take nothing of it.
#[test]
fn what_a_start_has_loaded_is_on_disk() {
    let mut prng = Prng::new(1);
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 1 << 20);
    let records = random_records(&mut prng, node.quorum.latest());
    node.propose(&records);
    let append = write_unsynced(&disk, &mut node, 1);
    drop(node);
    disk.kill();
    assert!(!disk.is_synced(append.file.path()));
    Quorum::load(&disk, Path::new(DIR)).unwrap();
    assert!(disk.is_synced(append.file.path()));
}

/// A segment that can't be removed keeps those behind it: what is left follows each other.
#[test]
fn segments_are_removed_in_order_or_not_at_all() {
    let mut prng = Prng::new(1);
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 600);
    let keeper = Stopping {
        kept: Some(segment()),
        ..Stopping::new(&disk, usize::MAX)
    };
    let mut effects = Vec::new();
    while node.snapshots < 4 {
        let records = random_records(&mut prng, node.quorum.latest());
        node.propose(&records);
        node.quorum.poll(&mut effects);
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::Append(append) => {
                    write(&disk, &append, true);
                    node.quorum.append_done(Ok(()));
                    node.quorum.poll(&mut effects);
                }
                Effect::Committed(commit) => node.image = commit.image,
                Effect::Job(job) => {
                    node.snapshots += 1;
                    node.quorum.job_done(job.run(&keeper));
                }
                Effect::Fatal(reason) => panic!("{reason}"),
            }
        }
    }
    let live = facts(&node.image);
    drop(node);
    assert_eq!(facts(&Node::start(&disk, 600).image), live);
}

/// A disk whose changes fail after some number of them.
struct Stopping {
    disk: MemDisk,
    left: Arc<AtomicUsize>,
    /// A file that can't be removed.
    kept: Option<PathBuf>,
}

struct StoppingFile {
    file: Box<dyn DiskFile>,
    left: Arc<AtomicUsize>,
}

fn step(left: &AtomicUsize) -> io::Result<()> {
    match left.load(Ordering::Relaxed) {
        0 => Err(io::Error::other("the machine is gone")),
        n => {
            left.store(n - 1, Ordering::Relaxed);
            Ok(())
        }
    }
}

impl Stopping {
    fn new(disk: &MemDisk, steps: usize) -> Self {
        Self {
            disk: disk.clone(),
            left: Arc::new(AtomicUsize::new(steps)),
            kept: None,
        }
    }
}

impl Disk for Stopping {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        step(&self.left)?;
        Ok(Box::new(StoppingFile {
            file: self.disk.open(path, mode)?,
            left: self.left.clone(),
        }))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.disk.list(path)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.disk.len(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        step(&self.left)?;
        if self.kept.as_deref() == Some(path) {
            return Err(io::Error::other("it stays"));
        }
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        step(&self.left)?;
        self.disk.sync_dir(path)
    }
}

impl DiskFile for StoppingFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.file.read_at(buf, pos)
    }
    fn write_at(&self, bytes: &[u8], pos: u64) -> io::Result<usize> {
        step(&self.left)?;
        self.file.write_at(bytes, pos)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        step(&self.left)?;
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        step(&self.left)?;
        self.file.sync()
    }
}

/// The only segment of a log, and what the image is after each of its frames, with the byte at
/// which the frame ends.
fn recorded_log(prng: &mut Prng) -> (Vec<u8>, Vec<(usize, String)>) {
    let disk = MemDisk::new();
    let path = segment();
    let len = |disk: &MemDisk| disk.contents(&path).unwrap().len();
    let mut node = Node::start(&disk, u64::MAX);
    let mut states = vec![
        (20, facts(&Image::default())),
        (len(&disk), facts(&node.image)),
    ];
    for _ in 0..12 {
        let records = random_records(prng, node.quorum.latest());
        node.propose(&records);
        node.settle();
        states.push((len(&disk), facts(&node.image)));
    }
    (disk.contents(&path).unwrap(), states)
}

fn segment() -> PathBuf {
    Path::new(DIR).join("segment-00000000000000000000.raft")
}

fn load(bytes: &[u8]) -> Result<String, LoadError> {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let file = disk.open(&segment(), OpenMode::Create).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync().unwrap();
    Quorum::load(&disk, Path::new(DIR)).map(|loaded| facts(loaded.image()))
}

#[test]
fn every_truncation_gives_the_state_of_a_frame_before() {
    let (bytes, states) = recorded_log(&mut Prng::new(5));
    for len in 0..=bytes.len() {
        match load(&bytes[..len]) {
            Ok(found) => {
                let whole = states.iter().rfind(|(end, _)| *end <= len);
                assert_eq!(Some(&found), whole.map(|(_, facts)| facts), "cut at {len}");
            }
            Err(e) => assert!(len < 20, "cut at {len}: {e}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (bytes, states) = recorded_log(&mut Prng::new(6));
    let (last_frame, before_last) = &states[states.len() - 2];
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        match load(&damaged) {
            // The last frame may just as well never have been acknowledged.
            Ok(found) => {
                assert!(at >= *last_frame, "byte {at} of an acknowledged frame");
                assert_eq!(&found, before_last, "byte {at}");
            }
            Err(LoadError::Corrupt { .. }) => assert!(at < *last_frame, "byte {at}"),
            Err(e) => panic!("byte {at}: {e}"),
        }
    }
}

#[test]
fn random_damage_never_panics_and_never_invents() {
    for seed in 0..u64::from(rounds(300)) {
        let mut prng = Prng::new(seed);
        let (mut bytes, states) = recorded_log(&mut Prng::new(seed % 4));
        for _ in 0..=prng.below(4) {
            let at = prng.below(bytes.len() as u64) as usize;
            match prng.below(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = prng.next_u64() as u8,
                2 => bytes.extend(std::iter::repeat_n(0, at)),
                _ => {
                    let end = (at + prng.below(64) as usize).min(bytes.len());
                    bytes[at..end].fill(prng.next_u64() as u8);
                }
            }
        }
        if let Ok(found) = load(&bytes) {
            assert!(
                states.iter().any(|(_, facts)| *facts == found),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let disk = MemDisk::new();
    let mut prng = Prng::new(1);
    let mut node = Node::start(&disk, 100);
    for _ in 0..10 {
        let records = random_records(&mut prng, node.quorum.latest());
        node.propose(&records);
        node.settle();
    }
    drop(node);
    let path = Path::new(DIR).join("snapshot.raft");
    let good = disk.contents(&path).expect("a snapshot");
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        disk.write_atomic(&path, &bytes).unwrap();
        assert!(Quorum::load(&disk, Path::new(DIR)).is_err(), "byte {at}");
    }
}

#[test]
fn another_nodes_metadata_is_refused() {
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 10);
    node.propose(&[MetadataRecord::ClusterId("x".to_owned())]);
    node.settle();
    drop(node);
    let loaded = Quorum::load(&disk, Path::new(DIR)).unwrap();
    let config = flumen_quorum::QuorumConfig {
        node_id: 5,
        file_id_base: 0,
        snapshot_bytes: 100,
    };
    let refused = Quorum::new(config, loaded).unwrap_err();
    assert!(refused.contains("belongs to node 0"), "{refused}");
}

/// A thousand topics one after the other: what a change costs must not grow with a deep copy of
/// all.
#[test]
fn a_thousand_topics_one_by_one() {
    let disk = MemDisk::new();
    let mut node = Node::start(&disk, 20 << 20);
    let mut prng = Prng::new(1);
    for n in 0..1000 {
        let (name, id) = (format!("topic-{n}"), prng.uuid());
        let before = node.image.topics().values().next().cloned();
        node.propose(&[MetadataRecord::Topic { name, id }]);
        node.settle();
        let after = node.image.topics().values().next();
        if let (Some(before), Some(after)) = (&before, after) {
            assert!(Arc::ptr_eq(before, after) || before.id != after.id);
        }
    }
    assert_eq!(node.image.topics().len(), 1000);
    assert_eq!(node.appends, 1001);
}
