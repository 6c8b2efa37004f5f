//! Anything in any order, with failures of the disk, kills and crashes, under a seed.

use super::*;
use flumen_log::testing::MemDisk;
use flumen_shard::testing::{decode_answer, produce_request};

#[test]
fn same_seed_same_run() {
    let run = || {
        let mut d = Driver::ready(4, 7);
        let c = d.connect(1);
        d.create_topic(c, "t", 8);
        for n in 0..20 {
            produce(&mut d, c, "t", n % 8, &["v"]);
        }
        d.crash();
        d.run_until_ready();
        (d.steps, d.now.mono, d.disk.paths())
    };
    assert_eq!(run(), run());
}

fn rounds() -> u64 {
    let factor = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    12 * factor.and_then(|f| f.parse::<u64>().ok()).unwrap_or(1)
}

/// Produces by chance over some connections, with disk failures, and kills or crashes now and then.
fn chaos(seed: u64) {
    let crashes = seed.is_multiple_of(2);
    let mut settings = Driver::settings();
    settings.flumen.log_sync_before_ack = crashes;
    settings.topics.log.segment_bytes = 2000;
    let shards = 1 + (seed % 4) as u16;
    let mut d = Driver::start(shards, seed, settings, MemDisk::new());
    d.run_until_ready();
    let c = d.connect(0);
    assert_eq!(d.create_topic(c, "t", 5), 0);
    let mut acked: Vec<Vec<(i64, String)>> = vec![Vec::new(); 5];
    for life in 0..3 {
        let clients: Vec<Client> = (0..4).map(|n| d.connect(n % shards)).collect();
        d.io_failures_percent = if life == 1 { 10 } else { 0 };
        for n in 0..30 {
            let mut sent = Vec::new();
            for c in &clients {
                let partition = d.prng.below(5) as usize;
                let value = format!("{life}-{n}-{}-{}", c.conn.0, "x".repeat(80));
                let records = batch(&[&value]);
                let id = d.send(*c, &produce_request("t", partition as i32, -1, &records), 9);
                sent.push((*c, id, partition, value));
            }
            for (c, id, partition, value) in sent {
                let frame = d.wait_answer(c);
                let r: wire::ProduceResponse<'_> = decode_answer(0, 9, id, frame);
                let p = &r.responses[0].partition_responses[0];
                match p.error_code {
                    0 => acked[partition].push((p.base_offset, value)),
                    error => assert!(d.io_failures_percent > 0, "error {error}"),
                }
            }
        }
        d.io_failures_percent = 0;
        match (crashes, life) {
            (true, _) => d.crash(),
            (false, 0) => d.restart(),
            (false, _) => d.kill(),
        }
        d.run_until_ready();
        let c = d.connect(0);
        for (partition, acked) in acked.iter().enumerate() {
            let mut next = 0;
            let mut found = Vec::new();
            loop {
                let request = fetch_request(&[("t", partition as i32, next)], 0);
                let r: wire::FetchResponse<'_> = d.call(c, &request, 12);
                let p = &r.responses[0].partitions[0];
                assert_eq!(p.error_code, 0, "seed {seed}");
                let mut end = next;
                for b in Batches::new(p.records.as_deref().unwrap_or_default()) {
                    let h = b.unwrap().header;
                    assert_eq!(h.base_offset(), end, "seed {seed}: offsets are not dense");
                    end = h.last_offset() + 1;
                }
                found.extend(values(&r));
                if end == next {
                    break;
                }
                next = end;
            }
            for (offset, value) in acked {
                let there = found.get(*offset as usize);
                assert_eq!(there, Some(value), "seed {seed}, partition {partition}");
            }
        }
    }
}

#[test]
fn acked_is_readable_after_failures_kills_and_crashes() {
    for seed in 0..rounds() {
        println!("seed {seed}");
        chaos(seed);
    }
}
