//! AlterReplicaLogDirs: partitions that go to another log directory while they serve.

use super::*;

/// Errors by partition.
fn alter(d: &mut Driver, c: Client, dir: &str, topic: &str, partitions: &[i32]) -> Vec<i16> {
    use wire::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
    let request = wire::AlterReplicaLogDirsRequest {
        dirs: vec![AlterReplicaLogDir {
            path: Cow::Owned(dir.to_owned()),
            topics: vec![AlterReplicaLogDirTopic {
                name: Cow::Owned(topic.to_owned()),
                partitions: partitions.to_vec(),
            }],
        }],
    };
    let r: wire::AlterReplicaLogDirsResponse<'_> = d.call(c, &request, 2);
    let partitions = r.results.iter().flat_map(|t| &t.partitions);
    partitions.map(|p| p.error_code).collect()
}

fn is_moving(d: &mut Driver, c: Client) -> bool {
    places(d, c, true).values().any(|found| !found.is_empty())
}

/// Directories whose names end so.
fn leftovers(d: &Driver) -> Vec<String> {
    let paths = d.disk.paths().into_iter();
    let names = paths.map(|p| p.to_string_lossy().into_owned());
    names
        .filter(|n| n.contains("-future/") || n.contains("-delete/") || n.contains("-stray/"))
        .collect()
}

/// Until nothing moves any more; appends meanwhile.
fn settle(d: &mut Driver, c: Client, expected: &mut Vec<String>, partition: i32) {
    for n in 0..2000 {
        if !is_moving(d, c) {
            return;
        }
        if n % 8 == 0 {
            let value = format!("{n}-{}", "m".repeat(n % 300));
            let (error, offset) = produce(d, c, "t", partition, &value);
            assert_eq!((error, offset), (0, expected.len() as i64));
            expected.push(value);
        }
        d.run_for_ms(50);
    }
    panic!("it goes on for ever: {}", d.describe());
}

#[test]
fn a_partition_moves_while_it_serves() {
    for seed in 0..rounds(12) {
        let mut settings = settings();
        settings.topics.log.segment_bytes = 2000;
        settings.flumen.log_sync_before_ack = seed % 2 == 0;
        // In slices of some bytes: the pause makes the rest.
        settings.log.alter_dirs_bytes_per_second = 1 << (10 + seed % 12);
        let (mut d, mut c) = start(1 + (seed % 3) as u16, seed, settings);
        d.create_topic(c, "t", 2);
        let p = partition_in(&mut d, c, "t", A);
        let mut expected = Vec::new();
        for n in 0..40 {
            let value = format!("{n}-{}", "v".repeat(n % 200));
            assert_eq!(produce(&mut d, c, "t", p, &value).0, 0);
            expected.push(value);
        }
        if seed % 3 == 0 {
            d.run_for_ms(5000); // segments are sealed
        }
        assert_eq!(alter(&mut d, c, B, "t", &[p]), [0]);
        settle(&mut d, c, &mut expected, p);
        d.run_until_idle();
        assert_eq!(dir_of(&mut d, c, "t", p).as_deref(), Some(B), "seed {seed}");
        assert_eq!(read(&mut d, c, "t", p, 0), (0, expected.clone()));
        assert_eq!(leftovers(&d), Vec::<String>::new());
        let paths = d.disk.paths();
        let old = format!("/a/t-{p}");
        assert!(!paths.iter().any(|f| f.starts_with(&old)), "seed {seed}");
        for n in 0..5 {
            assert_eq!(produce(&mut d, c, "t", p, "later").0, 0, "{n}");
            expected.push("later".to_owned());
        }
        c = match seed % 3 {
            0 => again(&mut d, Driver::restart),
            1 => again(&mut d, Driver::kill),
            _ if seed % 2 == 0 => again(&mut d, Driver::crash),
            _ => c,
        };
        assert_eq!(dir_of(&mut d, c, "t", p).as_deref(), Some(B), "seed {seed}");
        assert_eq!(read(&mut d, c, "t", p, 0), (0, expected), "seed {seed}");
    }
}

#[test]
fn a_process_that_dies_in_the_middle_goes_on_with_the_move() {
    for seed in 0..rounds(24) {
        let mut settings = settings();
        settings.topics.log.segment_bytes = 2000;
        settings.flumen.log_sync_before_ack = true;
        settings.log.alter_dirs_bytes_per_second = 20_000;
        let (mut d, mut c) = start(1 + (seed % 3) as u16, seed, settings);
        d.create_topic(c, "t", 2);
        let p = partition_in(&mut d, c, "t", A);
        let mut expected = Vec::new();
        for n in 0..60 {
            let value = format!("{n}-{}", "v".repeat(n % 200));
            assert_eq!(produce(&mut d, c, "t", p, &value).0, 0);
            expected.push(value);
        }
        assert_eq!(alter(&mut d, c, B, "t", &[p]), [0]);
        for _ in 0..d.prng.below(80) {
            d.step_or_wait();
        }
        c = again(
            &mut d,
            if seed % 2 == 0 {
                Driver::kill
            } else {
                Driver::crash
            },
        );
        assert_eq!(
            read(&mut d, c, "t", p, 0),
            (0, expected.clone()),
            "seed {seed}"
        );
        settle(&mut d, c, &mut expected, p);
        d.run_for_ms(1000);
        // Unless the copy had not even a name.
        let moved = dir_of(&mut d, c, "t", p).as_deref() == Some(B);
        if !moved {
            assert_eq!(alter(&mut d, c, B, "t", &[p]), [0]);
            settle(&mut d, c, &mut expected, p);
        }
        let places = leftovers(&d);
        assert!(places.iter().all(|n| n.contains("-stray/")), "{places:?}");
        c = again(&mut d, Driver::restart);
        assert_eq!(dir_of(&mut d, c, "t", p).as_deref(), Some(B), "seed {seed}");
        assert_eq!(read(&mut d, c, "t", p, 0), (0, expected), "seed {seed}");
    }
}

#[test]
fn deleted_records_stay_deleted_wherever_the_partition_is() {
    let mut settings = settings();
    settings.topics.log.segment_bytes = 2000;
    let (mut d, mut c) = start(2, 5, settings);
    d.create_topic(c, "t", 2);
    let p = partition_in(&mut d, c, "t", A);
    for n in 0..50 {
        produce(&mut d, c, "t", p, &format!("{n}"));
    }
    assert_eq!(delete_records(&mut d, c, "t", p, 33), 0);
    d.run_for_ms(100_000); // checkpoints say so
    assert_eq!(alter(&mut d, c, B, "t", &[p]), [0]);
    let mut none = (0..50).map(|n| n.to_string()).collect();
    settle(&mut d, c, &mut none, p);
    d.run_until_idle();
    c = again(&mut d, Driver::kill);
    assert_eq!(dir_of(&mut d, c, "t", p).as_deref(), Some(B));
    assert_eq!(read(&mut d, c, "t", p, 0).0, 1, "OFFSET_OUT_OF_RANGE");
    assert_eq!(read(&mut d, c, "t", p, 33), (0, none[33..].to_vec()));
}

#[test]
fn moves_are_given_up_refused_and_end_with_their_topic() {
    let mut settings = settings();
    settings.log.alter_dirs_bytes_per_second = 1; // hardly moves
    let (mut d, c) = start(3, 6, settings);
    d.create_topic(c, "t", 4);
    let p = partition_in(&mut d, c, "t", A);
    for n in 0..4 {
        produce(&mut d, c, "t", n, &"x".repeat(1000));
    }
    assert_eq!(alter(&mut d, c, "/nowhere", "t", &[p]), [57]);
    assert_eq!(alter(&mut d, c, B, "t", &[9]), [3]);
    assert_eq!(alter(&mut d, c, B, "unknown", &[0]), [3]);
    // Where it is already: nothing to do.
    assert_eq!(alter(&mut d, c, A, "t", &[p]), [0]);
    assert!(!is_moving(&mut d, c));
    // Given up by sending it back.
    d.faults.limit(Path::new(B), 1 << 40);
    assert_eq!(alter(&mut d, c, B, "t", &[p]), [0]);
    assert_eq!(alter(&mut d, c, A, "t", &[p]), [0]);
    d.run_until_idle();
    assert!(!is_moving(&mut d, c));
    assert_eq!(leftovers(&d), Vec::<String>::new());
    assert_eq!(dir_of(&mut d, c, "t", p).as_deref(), Some(A));
    // A topic that is deleted takes its copies along.
    assert_eq!(alter(&mut d, c, B, "t", &[p]), [0]);
    assert_eq!(d.delete_topic(c, "t"), 0);
    d.run_until_idle();
    let files = d.disk.paths();
    let of_topic = |f: &std::path::PathBuf| f.to_string_lossy().contains("/t-");
    assert!(!files.iter().any(of_topic), "{files:?}");
    // A directory that fails is no place to go.
    d.create_topic(c, "u", 2);
    let p = partition_in(&mut d, c, "u", A);
    let in_b = partition_in(&mut d, c, "u", B);
    d.faults.break_below(Path::new(B));
    assert_eq!(produce(&mut d, c, "u", in_b, "v").0, STORAGE_ERROR);
    d.run_until_idle();
    assert_eq!(alter(&mut d, c, B, "u", &[p]), [STORAGE_ERROR]);
    assert_eq!(produce(&mut d, c, "u", p, "v").0, 0);
}

#[test]
fn a_directory_without_room_or_that_fails_leaves_the_partition_where_it_is() {
    for fails in [false, true] {
        let (mut d, c) = start(2, 7, settings());
        d.create_topic(c, "t", 2);
        let p = partition_in(&mut d, c, "t", A);
        let mut expected = Vec::new();
        for n in 0..30 {
            let value = format!("{n}-{}", "v".repeat(200));
            produce(&mut d, c, "t", p, &value);
            expected.push(value);
        }
        if fails {
            d.faults.break_below(Path::new(B));
        } else {
            d.faults.limit(Path::new(B), 3000);
        }
        assert_eq!(alter(&mut d, c, B, "t", &[p]), [0]);
        d.run_for_ms(10_000);
        assert_eq!(dir_of(&mut d, c, "t", p).as_deref(), Some(A));
        for n in 0..5 {
            let value = format!("more {n}");
            assert_eq!(produce(&mut d, c, "t", p, &value).0, 0);
            expected.push(value);
        }
        assert_eq!(read(&mut d, c, "t", p, 0), (0, expected.clone()));
        d.faults.mend();
        d.run_for_ms(10_000);
        if !fails {
            assert_eq!(dir_of(&mut d, c, "t", p).as_deref(), Some(B));
            assert_eq!(read(&mut d, c, "t", p, 0), (0, expected));
        }
    }
}
