//! Compaction as clients see it: while they produce and read, over restarts, kills and crashes, and
//! of the offsets topic.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests stand outside of them

use bytes::Bytes;
use flumen_base::Disk as _;
use flumen_log::BatchBuilder;
use flumen_log::batch::{Batches, Records};
use flumen_log::testing::MemDisk;
use flumen_settings::{BrokerConfig, CleanupPolicy};
use flumen_shard::testing::{Client, Driver, decode_answer, produce_request};
use flumen_wire::messages as wire;
use std::collections::BTreeMap;

fn settings() -> BrokerConfig {
    let mut settings = Driver::settings();
    settings.topics.log.segment_bytes = 2000;
    settings.topics.log.cleanup_policy = CleanupPolicy {
        delete: false,
        compact: true,
    };
    settings.topics.log.min_cleanable_dirty_ratio = 0.01;
    settings.log.cleaner_backoff_ms = 500;
    settings.offsets.metadata_max_bytes = 100_000;
    settings.offsets.topic_segment_bytes = 1 << 20;
    settings
}

fn fetch(partition: i32, offset: i64, max_bytes: i32) -> wire::FetchRequest<'static> {
    wire::FetchRequest {
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![wire::fetch_request::FetchTopic {
            topic: "t".into(),
            partitions: vec![wire::fetch_request::FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: max_bytes,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// (offset, key, value) of the records from `offset` on in an answer, and where the next read
/// begins.
fn take(r: &wire::FetchResponse<'_>, offset: i64) -> (Vec<(i64, u64, u64)>, i64) {
    let p = &r.responses[0].partitions[0];
    assert_eq!(p.error_code, 0);
    let (mut out, mut next) = (Vec::new(), offset);
    for batch in Batches::new(p.records.as_deref().unwrap_or_default()) {
        let batch = batch.unwrap();
        batch.check_crc().unwrap();
        let header = batch.header;
        assert!(header.last_offset() >= next);
        let section = batch.unfold(1 << 20).unwrap();
        for record in Records::new(&section, header.count()) {
            let record = record.unwrap();
            let at = header.base_offset() + i64::from(record.offset_delta);
            if at >= offset {
                out.push((at, number(record.key), number(record.value)));
            }
        }
        next = header.last_offset() + 1;
    }
    (out, next)
}

/// All records from the start on, as a consumer reads them.
fn read_all(d: &mut Driver, c: Client, partition: i32, max_bytes: i32) -> Vec<(i64, u64, u64)> {
    let (mut out, mut next) = (Vec::new(), 0);
    loop {
        let r: wire::FetchResponse<'_> = d.call(c, &fetch(partition, next, max_bytes), 12);
        let (got, end) = take(&r, next);
        if end == next {
            return out;
        }
        out.extend(got);
        next = end;
    }
}

fn number(bytes: Option<&[u8]>) -> u64 {
    let bytes = bytes.unwrap().first_chunk().unwrap();
    u64::from_be_bytes(*bytes)
}

fn record(key: u64, value: u64) -> Bytes {
    let mut b = BatchBuilder::new();
    let mut long = value.to_be_bytes().to_vec();
    long.resize(200, 0);
    b.push(1_700_000_000_000, Some(&key.to_be_bytes()), Some(&long));
    b.build().unwrap()
}

/// What was acked: per partition the offset and value of each key's last record.
type Acked = Vec<BTreeMap<u64, (i64, u64)>>;

fn check(d: &mut Driver, c: Client, acked: &Acked, max_bytes: i32) -> usize {
    let mut count = 0;
    for (partition, keys) in acked.iter().enumerate() {
        let seen = read_all(d, c, partition as i32, max_bytes);
        assert!(seen.is_sorted(), "offsets go back: {seen:?}");
        count += seen.len();
        let last: BTreeMap<u64, (i64, u64)> = seen
            .iter()
            .map(|(o, key, value)| (*key, (*o, *value)))
            .collect();
        assert_eq!(&last, keys, "partition {partition}");
    }
    count
}

fn metric(d: &mut Driver, name: &str) -> u64 {
    let mut sum = 0;
    for shard in 0..d.shards() {
        let text = d.metrics(shard);
        let line = text.lines().find(|l| l.starts_with(&format!("{name}{{")));
        let value = line.and_then(|l| l.rsplit_once(' '));
        sum += value.map_or(0, |(_, v)| v.parse::<u64>().unwrap());
    }
    sum
}

#[test]
fn the_last_value_of_each_key_stays_and_the_rest_goes() {
    for (shards, seed) in [(1, 1), (3, 2), (2, 3), (4, 4)] {
        println!("shards {shards} seed {seed}");
        let mut d = Driver::start(shards, seed, settings(), MemDisk::new());
        d.run_until_ready();
        let mut c = d.connect(0);
        assert_eq!(d.create_topic(c, "t", 3), 0);
        let mut acked: Acked = vec![BTreeMap::new(); 3];
        let mut ends = [0; 3];
        for n in 0..400u64 {
            let (partition, key) = (n as usize % 3, d.prng.below(7));
            assert_eq!(d.produce(c, "t", partition as i32, &record(key, n)).0, 0);
            acked[partition].insert(key, (ends[partition], n));
            ends[partition] += 1;
            if n % 40 == 7 {
                // Reading meets segments that are about to change places.
                let ms = d.prng.below(3000) as i64;
                d.run_for_ms(ms);
                let max_bytes = [500, 5000, 1 << 20][d.prng.below(3) as usize];
                check(&mut d, c, &acked, max_bytes);
            }
        }
        d.run_for_ms(10_000);
        assert!(metric(&mut d, "flumen_cleaner_runs_total") > 0);
        assert!(metric(&mut d, "flumen_cleaner_records_removed_total") > 200);
        // At most the active segments' records are left beside the last ones.
        let left = check(&mut d, c, &acked, 1 << 20);
        assert!(left < 80, "{left} records are left");
        for end in 0..3 {
            match end {
                0 => d.restart(),
                1 => d.kill(),
                _ => {
                    d.run_for_ms(70_000); // checkpoints
                    d.crash();
                }
            }
            d.run_until_ready();
            c = d.connect(0);
            if end < 2 {
                assert_eq!(check(&mut d, c, &acked, 1 << 20), left);
            }
        }
        let names = d.disk.paths().into_iter().map(|p| p.display().to_string());
        let names: Vec<String> = names.collect();
        assert!(
            names
                .iter()
                .any(|n| n.ends_with("/cleaner-offset-checkpoint"))
        );
        let odd = |n: &&String| n.ends_with(".cleaned") || n.ends_with(".swap");
        assert_eq!(names.iter().find(odd), None);
    }
}

/// As in Kafka the checkpoint follows each cleaning, and not the clock: after a kill nothing is
/// cleaned again, of partitions that a checkpoint of all has named with their topic's id.
#[test]
fn the_checkpoint_follows_each_cleaning() {
    for (shards, seed) in [(1, 1), (3, 2)] {
        let mut settings = settings();
        settings.log.flush_offset_checkpoint_interval_ms = 1 << 30;
        settings.log.flush_start_offset_checkpoint_interval_ms = 1 << 30;
        let mut d = Driver::start(shards, seed, settings, MemDisk::new());
        d.run_until_ready();
        let c = d.connect(0);
        assert_eq!(d.create_topic(c, "t", 3), 0);
        d.restart();
        d.run_until_ready();
        let c = d.connect(0);
        for n in 0..90u64 {
            let batch = record(n % 2, n);
            assert_eq!(d.produce(c, "t", n as i32 % 3, &batch).0, 0);
        }
        d.run_for_ms(10_000);
        assert!(metric(&mut d, "flumen_cleaner_runs_total") >= 3);
        let mut names = d.disk.paths().into_iter();
        let path = names.find(|p| p.ends_with("cleaner-offset-checkpoint"));
        let text = d.disk.read_all(&path.unwrap(), 1 << 20).unwrap();
        let text = String::from_utf8(text).unwrap();
        let cleaned = |line: &str| line.rsplit_once(' ')?.1.parse::<i64>().ok();
        let all: Vec<i64> = text.lines().skip(2).filter_map(cleaned).collect();
        assert!(all.len() == 3 && all.iter().all(|n| *n > 20), "{text}");
        d.kill();
        d.run_until_ready();
        d.run_for_ms(10_000);
        assert_eq!(metric(&mut d, "flumen_cleaner_runs_total"), 0);
    }
}

/// With failing disks, kills and crashes: what is acked stays the last of its key.
#[test]
fn acked_values_survive_cleanings_that_are_cut_off() {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    let rounds = 8 * factor.and_then(|f| f.parse::<u64>().ok()).unwrap_or(1);
    for seed in 0..rounds {
        println!("seed {seed}");
        let mut settings = settings();
        let power = seed % 2 == 0;
        settings.flumen.log_sync_before_ack = power;
        let mut d = Driver::start(1 + (seed % 3) as u16, seed, settings, MemDisk::new());
        d.run_until_ready();
        let mut c = d.connect(0);
        assert_eq!(d.create_topic(c, "t", 2), 0);
        let mut acked: Acked = vec![BTreeMap::new(); 2];
        let (mut n, mut runs) = (0, 0);
        for life in 0..4 {
            d.io_failures_percent = if life == 2 { 4 } else { 0 };
            for _ in 0..60 {
                n += 1;
                let (partition, key) = (d.prng.below(2), d.prng.below(5));
                // A refused record may be there all the same, with a higher number.
                let error = d.produce(c, "t", partition as i32, &record(key, n)).0;
                if error == 0 {
                    acked[partition as usize].insert(key, (0, n));
                } else {
                    assert!(d.io_failures_percent > 0, "error {error}");
                }
                if d.prng.one_in(20) {
                    let ms = d.prng.below(2500) as i64;
                    d.run_for_ms(ms);
                }
            }
            d.io_failures_percent = 0;
            // Somewhere in the middle of what the cleaner does.
            let ms = 2000 + d.prng.below(1500) as i64;
            d.run_for_ms(ms);
            for _ in 0..d.prng.below(30) {
                d.step_or_wait();
            }
            runs += metric(&mut d, "flumen_cleaner_runs_total");
            if power {
                d.crash()
            } else {
                d.kill()
            }
            d.run_until_ready();
            c = d.connect(0);
            for (partition, keys) in acked.iter().enumerate() {
                let seen = read_all(&mut d, c, partition as i32, 1 << 20);
                let last: BTreeMap<u64, u64> = seen.iter().map(|(_, k, v)| (*k, *v)).collect();
                for (key, (_, value)) in keys {
                    let there = last.get(key).copied();
                    assert!(there >= Some(*value), "key {key}: {there:?} for {value}");
                }
            }
        }
        assert!(runs > 0, "nothing was cleaned");
    }
}

#[test]
fn a_record_without_key_is_refused_by_name() {
    let mut d = Driver::start(1, 9, settings(), MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    assert_eq!(d.create_topic(c, "t", 1), 0);
    let mut b = BatchBuilder::new();
    b.push(1_700_000_000_000, Some(b"key"), Some(b"1"));
    b.push(1_700_000_000_000, None, Some(b"2"));
    let records = b.build().unwrap();
    let request = produce_request("t", 0, -1, &records);
    let r: wire::ProduceResponse<'_> = d.call(c, &request, 9);
    let p = &r.responses[0].partition_responses[0];
    assert_eq!(p.error_code, 87);
    assert_eq!(p.record_errors.len(), 1);
    assert_eq!(p.record_errors[0].batch_index, 1);
    let message = "Compacted topic cannot accept message without key in topic partition t-0";
    let told = p.record_errors[0].batch_index_error_message.as_deref();
    assert_eq!(told, Some(message));
}

#[test]
fn committed_offsets_are_compacted_and_read_again() {
    let mut d = Driver::start(2, 11, settings(), MemDisk::new());
    d.run_until_ready();
    let mut c = d.connect(0);
    assert_eq!(d.create_topic(c, "t", 1), 0);
    let find = wire::FindCoordinatorRequest {
        coordinator_keys: vec!["g".into()],
        ..Default::default()
    };
    let _: wire::FindCoordinatorResponse<'_> = d.call(c, &find, 4);
    let metadata = "m".repeat(30_000);
    let groups = ["g", "h", "i"];
    for n in 0..240 {
        let commit = wire::OffsetCommitRequest {
            group_id: groups[n % 3].into(),
            generation_id_or_member_epoch: -1,
            topics: vec![wire::offset_commit_request::OffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![wire::offset_commit_request::OffsetCommitRequestPartition {
                    committed_offset: n as i64,
                    committed_leader_epoch: -1,
                    committed_metadata: Some(metadata.as_str().into()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let r: wire::OffsetCommitResponse<'_> = d.call(c, &commit, 8);
        assert_eq!(r.topics[0].partitions[0].error_code, 0);
    }
    let size = |d: &Driver| -> usize {
        let all = d.disk.paths().into_iter();
        let logs = all.filter(|p| p.display().to_string().contains("__consumer_offsets"));
        let logs = logs.filter(|p| p.extension().is_some_and(|e| e == "log"));
        logs.map(|p| d.disk.contents(&p).unwrap().len()).sum()
    };
    let before = size(&d);
    d.run_for_ms(10_000);
    assert!(size(&d) < before / 2, "{before} bytes became {}", size(&d));
    d.kill();
    d.run_until_ready();
    d.run_until_idle();
    c = d.connect(0);
    for (n, group) in groups.iter().enumerate() {
        let fetch = wire::OffsetFetchRequest {
            groups: vec![wire::offset_fetch_request::OffsetFetchRequestGroup {
                group_id: (*group).into(),
                topics: None,
                ..Default::default()
            }],
            ..Default::default()
        };
        let r: wire::OffsetFetchResponse<'_> = d.call(c, &fetch, 8);
        assert_eq!(r.groups[0].error_code, 0);
        let p = &r.groups[0].topics[0].partitions[0];
        assert_eq!(p.committed_offset, 237 + n as i64);
    }
}

/// Fetches are on their way between shards while the segments that they found are replaced.
#[test]
fn who_has_found_a_segment_reads_it_to_its_end() {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    let rounds = 6 * factor.and_then(|f| f.parse::<u64>().ok()).unwrap_or(1);
    for seed in 0..rounds {
        println!("seed {seed}");
        let mut settings = settings();
        settings.log.cleaner_backoff_ms = 1 << 40;
        let mut d = Driver::start(4, seed, settings.clone(), MemDisk::new());
        d.run_until_ready();
        let c = d.connect(0);
        assert_eq!(d.create_topic(c, "t", 1), 0);
        let mut known = BTreeMap::new();
        for n in 0..150i64 {
            let (key, value) = (d.prng.below(60), n as u64);
            assert_eq!(d.produce(c, "t", 0, &record(key, value)).0, 0);
            known.insert(n, (key, value));
        }
        // After a start no file is open yet.
        d.shutdown();
        settings.log.cleaner_backoff_ms = 1;
        let mut d = Driver::start(4, seed, settings, d.disk.clone());
        let mut sent = Vec::new();
        let clients: Vec<Client> = (0..4).map(|n| d.connect(n)).collect();
        while metric(&mut d, "flumen_cleaner_runs_total") == 0 {
            let c = clients[d.prng.below(4) as usize];
            let offset = d.prng.below(150) as i64;
            let max_bytes = [300, 1 << 20][d.prng.below(2) as usize];
            let id = d.send(c, &fetch(0, offset, max_bytes), 12);
            sent.push((c, id, offset));
            // Time goes on although there is always something to do.
            d.now.mono = d.now.mono.plus_ms(1);
            d.now.wall_ms += 1;
            for _ in 0..d.prng.below(12) {
                d.step_or_wait();
            }
            assert!(sent.len() < 10_000, "seed {seed}: nothing is cleaned");
        }
        for (c, id, offset) in sent {
            let frame = d.wait_answer(c);
            let r: wire::FetchResponse<'_> = decode_answer(1, 12, id, frame);
            for (at, key, value) in take(&r, offset).0 {
                assert_eq!(known.get(&at), Some(&(key, value)), "seed {seed}");
            }
        }
        assert!(metric(&mut d, "flumen_cleaner_records_removed_total") > 20);
    }
}
