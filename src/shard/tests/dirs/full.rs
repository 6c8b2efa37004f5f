//! Disks that are full.

use super::*;
use flumen_base::Disk;

/// What the files below a directory take.
fn used(d: &Driver, dir: &str) -> u64 {
    let space = d.faults.on(&d.disk).space(Path::new(dir)).unwrap().unwrap();
    space.total - space.usable
}

/// Leaves so much room under a directory.
fn leave(d: &Driver, dir: &str, bytes: u64) {
    d.faults.limit(Path::new(dir), u64::MAX);
    let total = used(d, dir) + bytes;
    d.faults.limit(Path::new(dir), total);
}

/// Produces until there is no room; gives what was acked.
fn fill(d: &mut Driver, c: Client, topic: &str, partition: i32) -> Vec<String> {
    let mut acked = Vec::new();
    for n in 0..10_000 {
        let value = format!("{n}-{}", "x".repeat(n % 1000));
        match produce(d, c, topic, partition, &value).0 {
            0 => acked.push(value),
            NO_ROOM => return acked,
            error => panic!("{error}"),
        }
    }
    panic!("it does not get full");
}

#[test]
fn without_room_produce_is_refused_and_all_else_goes_on() {
    for (shards, seed, synced) in [(1, 1, false), (3, 2, true), (2, 3, false)] {
        let mut settings = settings();
        settings.flumen.log_sync_before_ack = synced;
        settings.topics.log.segment_bytes = 3000;
        settings.topics.log.file_delete_delay_ms = 60_000;
        let (mut d, mut c) = start(shards, seed, settings);
        d.create_topic(c, "t", 2);
        d.create_topic(c, "other", 2);
        let full = partition_in(&mut d, c, "t", B);
        let old = partition_in(&mut d, c, "other", B);
        produce(&mut d, c, "other", old, &"y".repeat(2000));
        leave(&d, B, 20_000);
        let mut acked = fill(&mut d, c, "t", full);
        assert!(acked.len() > 20);
        d.run_until_idle();
        // Every partition there, on every shard; not the other disk; reads and admin go on.
        assert_eq!(produce(&mut d, c, "other", old, "v").0, NO_ROOM);
        assert_eq!(produce(&mut d, c, "t", 1 - full, "v").0, 0);
        assert_eq!(read(&mut d, c, "t", full, 0), (0, acked.clone()));
        assert_eq!(d.create_topic(c, "admin", 1), 0);
        let dirs = describe(&mut d, c).results;
        assert_eq!(dirs[1].error_code, 0);
        assert!(dirs[1].usable_bytes < 1000 && dirs[1].total_bytes > 20_000);
        d.run_for_ms(30_000);
        assert_eq!(produce(&mut d, c, "t", full, "v").0, NO_ROOM);
        // A deleted topic makes room, and writing goes on by itself.
        leave(&d, B, 0);
        assert_eq!(d.delete_topic(c, "other"), 0);
        d.faults.limit(Path::new(B), used(&d, B) + (2 << 20));
        d.run_for_ms(3000);
        for n in 0..20 {
            let value = format!("after {n}");
            assert_eq!(produce(&mut d, c, "t", full, &value).0, 0, "seed {seed}");
            acked.push(value);
        }
        assert_eq!(read(&mut d, c, "t", full, 0), (0, acked.clone()));
        c = again(&mut d, if synced { Driver::crash } else { Driver::kill });
        assert_eq!(read(&mut d, c, "t", full, 0), (0, acked), "seed {seed}");
    }
}

#[test]
fn deleted_records_make_room_at_once() {
    let mut settings = settings();
    settings.topics.log.segment_bytes = 3000;
    settings.topics.log.file_delete_delay_ms = 3_600_000;
    settings.log.retention_check_interval_ms = 1000;
    settings.log.initial_task_delay_ms = 1000;
    let (mut d, c) = start(2, 4, settings);
    d.create_topic(c, "t", 2);
    let full = partition_in(&mut d, c, "t", B);
    leave(&d, B, 2 << 20);
    let acked = fill(&mut d, c, "t", full);
    let end = acked.len() as i64;
    assert_eq!(delete_records(&mut d, c, "t", full, end - 5), 0);
    d.run_for_ms(10_000);
    assert_eq!(produce(&mut d, c, "t", full, "after"), (0, end));
    let (error, values) = read(&mut d, c, "t", full, end - 5);
    assert_eq!((error, values.len()), (0, 6));
}

#[test]
fn a_reserve_stops_writes_before_the_disk_is_full() {
    const RESERVE: u64 = 100_000;
    let mut settings = settings();
    settings.flumen.disk_reserve_bytes = RESERVE;
    let (mut d, c) = start(3, 5, settings);
    d.create_topic(c, "t", 2);
    let full = partition_in(&mut d, c, "t", B);
    d.faults.limit(Path::new(A), 1 << 40);
    leave(&d, B, RESERVE + 50_000);
    let mut acked = Vec::new();
    let value = "x".repeat(2000);
    for _ in 0..100 {
        match produce(&mut d, c, "t", full, &value).0 {
            0 => acked.push(value.clone()),
            error => assert_eq!(error, NO_ROOM),
        }
        d.run_for_ms(100);
    }
    // The looks come often enough where little is left.
    let free = d.faults.on(&d.disk).space(Path::new(B)).unwrap().unwrap();
    assert!(
        free.usable > RESERVE - 5000 && free.usable < RESERVE,
        "{free:?}"
    );
    assert_eq!(produce(&mut d, c, "t", 1 - full, "v").0, 0);
    // What is smaller than the reserve still finds room: topics, for one.
    assert_eq!(d.create_topic(c, "u", 2), 0);
    leave(&d, B, RESERVE + 10_000);
    d.run_for_ms(1000);
    assert_eq!(produce(&mut d, c, "t", full, &value).0, 0);
    acked.push(value);
    assert_eq!(read(&mut d, c, "t", full, 0), (0, acked));
    let text = d.metrics(0);
    assert!(text.contains("flumen_log_dirs_full{shard=\"0\"}"), "{text}");
}

/// Between two looks no more is written than the last one has left, however much comes at once.
#[test]
fn a_burst_does_not_use_up_the_reserve() {
    const RESERVE: u64 = 1_000_000;
    for (shards, seed) in [(1, 11), (3, 12)] {
        let mut settings = settings();
        settings.flumen.disk_reserve_bytes = RESERVE;
        let (mut d, c) = start(shards, seed, settings);
        d.create_topic(c, "t", 2);
        let full = partition_in(&mut d, c, "t", B);
        d.faults.limit(Path::new(A), 1 << 40);
        leave(&d, B, RESERVE + 60_000);
        d.run_for_ms(2000);
        let records = batch(&"x".repeat(5000));
        let request = produce_request("t", full, -1, &records);
        let clients: Vec<Client> = (0..150).map(|n| d.connect(n % shards)).collect();
        let ids: Vec<i32> = clients.iter().map(|c| d.send(*c, &request, 9)).collect();
        let mut acked = 0;
        for (client, id) in clients.into_iter().zip(ids) {
            let frame = d.wait_answer(client);
            let body = flumen_shard::testing::decode_answer::<wire::ProduceResponse<'_>>;
            let r = body(0, 9, id, frame);
            match r.responses[0].partition_responses[0].error_code {
                0 => acked += 1,
                error => assert_eq!(error, NO_ROOM, "seed {seed}"),
            }
        }
        let free = d.faults.on(&d.disk).space(Path::new(B)).unwrap().unwrap();
        assert!(acked > 2, "{acked} acked");
        assert!(free.usable >= RESERVE - 20_000, "{acked}: {free:?}");
    }
}

/// Memory stays as it is however many knock.
#[test]
fn refused_records_are_not_kept() {
    let (mut d, c) = start(1, 6, settings());
    d.create_topic(c, "t", 2);
    let full = partition_in(&mut d, c, "t", B);
    leave(&d, B, 0);
    fill(&mut d, c, "t", full);
    let value = "x".repeat(100_000);
    for _ in 0..50 {
        assert_eq!(produce(&mut d, c, "t", full, &value).0, NO_ROOM);
        let text = d.metrics(0);
        let gauge = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap();
            let value = line.rsplit_once(' ').unwrap().1;
            value.parse::<u64>().unwrap()
        };
        assert_eq!(gauge("flumen_frame_bytes{"), 0);
        assert!(gauge("flumen_log_tail_bytes{") < 10_000);
    }
}

/// Room comes and goes at any moment: in the middle of writes, rolls, seals. What was acked is
/// there, what was refused is not, and nothing else is.
#[test]
fn whatever_the_room_acked_is_there_and_refused_is_not() {
    for seed in 0..rounds(10) {
        let mut settings = Driver::settings_with(&[A, B]);
        settings.flumen.log_sync_before_ack = seed % 2 == 0;
        settings.topics.log.segment_bytes = 1500;
        settings.log.flush_offset_checkpoint_interval_ms = 2000;
        settings.log.initial_task_delay_ms = 500;
        let shards = 1 + (seed % 3) as u16;
        let (mut d, mut c) = start(shards, seed, settings);
        d.create_topic(c, "t", 6);
        let mut expected: Vec<Vec<String>> = vec![Vec::new(); 6];
        for round in 0..6 {
            let room = d.prng.below(12_000);
            leave(&d, B, room);
            for n in 0..40 {
                let clients: Vec<Client> = (0..3).map(|k| d.connect(k % shards)).collect();
                let mut sent = Vec::new();
                for c in clients {
                    let p = d.prng.below(6) as usize;
                    let value = format!("{round}-{n}-{}", "z".repeat(d.prng.below(400) as usize));
                    let records = batch(&value);
                    let id = d.send(c, &produce_request("t", p as i32, -1, &records), 9);
                    sent.push((c, id, p, value));
                }
                let mut acked: Vec<(usize, i64, String)> = Vec::new();
                for (client, id, p, value) in sent {
                    let frame = d.wait_answer(client);
                    let body = flumen_shard::testing::decode_answer::<wire::ProduceResponse<'_>>;
                    let r = body(0, 9, id, frame);
                    let answer = &r.responses[0].partition_responses[0];
                    match answer.error_code {
                        0 => acked.push((p, answer.base_offset, value)),
                        error => assert_eq!(error, NO_ROOM, "seed {seed}"),
                    }
                    d.disconnect(client);
                }
                acked.sort();
                for (p, offset, value) in acked {
                    assert_eq!(offset as usize, expected[p].len(), "seed {seed}");
                    expected[p].push(value);
                }
                if d.prng.one_in(10) {
                    let ms = d.prng.below(1500) as i64;
                    d.run_for_ms(ms);
                }
            }
            leave(&d, B, 4 << 20);
            c = match d.prng.below(4) {
                0 => again(&mut d, Driver::kill),
                1 if seed % 2 == 0 => again(&mut d, Driver::crash),
                2 => again(&mut d, Driver::restart),
                _ => c,
            };
            d.run_for_ms(5000);
            for (p, expected) in expected.iter().enumerate() {
                let found = read(&mut d, c, "t", p as i32, 0);
                assert!(found == (0, expected.clone()), "seed {seed}, partition {p}");
            }
        }
    }
}

#[test]
fn groups_and_metadata_wait_for_room_and_nothing_ends() {
    let mut settings = Driver::settings_with(&[A]);
    settings.offsets.topic_num_partitions = 1;
    let (mut d, mut c) = start(2, 8, settings);
    d.create_topic(c, "t", 1);
    offline::find(&mut d, c, "g");
    assert_eq!(offline::find(&mut d, c, "g"), 0);
    assert_eq!(offline::commit(&mut d, c, "g"), 0);
    leave(&d, A, 0);
    fill(&mut d, c, "t", 0);
    d.run_until_idle();
    assert_eq!(offline::commit(&mut d, c, "g"), 15);
    // The metadata log has no room either: the change is made when there is.
    let request = wire::DeleteTopicsRequest {
        topic_names: vec!["t".into()],
        timeout_ms: 1000,
        ..Default::default()
    };
    let id = d.send(c, &request, 5);
    d.run_for_ms(20_000);
    assert!(d.fatal.is_none() && d.take_answer(c).is_none());
    let other = d.connect(0);
    assert_eq!(read(&mut d, other, "t", 0, 0).0, 0);
    leave(&d, A, 4 << 20);
    let frame = d.wait_answer(c);
    let body = flumen_shard::testing::decode_answer::<wire::DeleteTopicsResponse<'_>>;
    let r = body(20, 5, id, frame);
    assert_eq!(r.responses[0].error_code, 0);
    d.run_for_ms(3000);
    assert_eq!(d.create_topic(c, "t", 1), 0);
    assert_eq!(offline::commit(&mut d, c, "g"), 0);
    assert_eq!(produce(&mut d, c, "t", 0, "new"), (0, 0));
    c = again(&mut d, Driver::kill);
    assert_eq!(read(&mut d, c, "t", 0, 0), (0, vec!["new".to_owned()]));
}
