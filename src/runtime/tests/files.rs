//! Disk operations, and file slices on their way to slow readers.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::*;
use flumen_base::Prng;
use flumen_runtime::{RuntimeConfig, WriteStrategy};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Asks for slices of random sizes on both sides of the threshold, pipelined, and reads the answers
/// in small steps.
fn slices_equal_the_file(config: RuntimeConfig, cold: bool, seed: u64) {
    let rig = Rig::new(config);
    let data = pattern(6 << 20, seed);
    let path = rig.dir.path().join("data");
    std::fs::write(&path, &data).unwrap();
    if cold {
        // Writes it back and drops its pages.
        let of = format!("of={}", path.display());
        let dd = [
            "oflag=nocache",
            "conv=notrunc,fdatasync",
            "count=0",
            "status=none",
        ];
        let ok = std::process::Command::new("dd").arg(of).args(dd).status();
        assert!(ok.unwrap().success());
    }
    let mut prng = Prng::new(seed);
    let mut client = rig.client();
    let mut expected = Vec::new();
    let mut asked = 0;
    for _ in 0..30 {
        let mut args = Vec::new();
        let mut answer = Vec::new();
        for _ in 0..=prng.below(3) {
            let len = match prng.below(4) {
                0 => prng.below(500),
                1 => prng.below(70_000),
                2 => prng.below(300_000),
                _ => prng.below(2 << 20),
            };
            let pos = prng.below(data.len() as u64 - len);
            args.extend_from_slice(&pos.to_be_bytes());
            args.extend_from_slice(&(len as u32).to_be_bytes());
            answer.extend_from_slice(&(len as u32).to_be_bytes());
            answer.extend_from_slice(&data[pos as usize..(pos + len) as usize]);
        }
        client.send(b'F', &args);
        asked += 1;
        expected.extend_from_slice(&(answer.len() as u32).to_be_bytes());
        expected.extend_from_slice(&answer);
    }
    client.send(b'E', b"end");
    expected.extend_from_slice(&[0, 0, 0, 3, b'e', b'n', b'd']);
    let mut at = 0;
    let mut part = vec![0; 50_000];
    while at < expected.len() {
        let want = 1 + prng.below(part.len() as u64) as usize;
        let n = client.0.read(&mut part[..want]).unwrap();
        assert!(n > 0, "closed at {at} of {} (seed {seed})", expected.len());
        assert!(part[..n] == expected[at..at + n], "at {at} (seed {seed})");
        at += n;
    }
    // The core hears of what has left before the next request.
    assert_eq!(client.ask(b'E', b"next"), b"next");
    assert_eq!(rig.stage.sent.load(SeqCst), asked + 1);
    rig.stop();
}

#[test]
fn resident_slices_equal_the_file() {
    slices_equal_the_file(on_one_cpu(1), false, 11);
}

#[test]
fn cold_slices_equal_the_file() {
    slices_equal_the_file(on_one_cpu(1), true, 12);
}

#[test]
fn everything_spliced_equals_the_file() {
    let config = RuntimeConfig {
        splice_above_bytes: 0,
        ..on_one_cpu(1)
    };
    slices_equal_the_file(config.clone(), false, 13);
    slices_equal_the_file(config, true, 14);
}

#[test]
fn everything_copied_equals_the_file() {
    let config = RuntimeConfig {
        splice_above_bytes: usize::MAX,
        ..on_one_cpu(1)
    };
    slices_equal_the_file(config, true, 15);
}

#[test]
fn a_reader_that_leaves_frees_everything() {
    let rig = Rig::new(on_one_cpu(2));
    std::fs::write(rig.dir.path().join("data"), pattern(8 << 20, 5)).unwrap();
    for round in 0..20 {
        let mut client = rig.client();
        let mut args = Vec::new();
        args.extend_from_slice(&0u64.to_be_bytes());
        args.extend_from_slice(&(8u32 << 20).to_be_bytes());
        for _ in 0..4 {
            client.send(b'F', &args);
            client.send(b'E', &[1; 100_000]);
        }
        let mut part = vec![0; 100_000];
        for _ in 0..round {
            client.0.read_exact(&mut part).unwrap();
        }
    }
    eventually("all connections end", || {
        rig.metric("flumen_sockets") == 0.0
    });
    // What is left in the rings: one wake per shard and the accept.
    assert_eq!(rig.metric("flumen_ring_operations"), 3.0);
    assert_eq!(rig.client().ask(b'E', b"alive"), b"alive");
    rig.stop();
}

/// More readers than one turn has shares for: nobody waits until others have everything.
#[test]
fn readers_of_large_slices_get_on_side_by_side() {
    const SLICE: u32 = 8 << 20;
    const SLICES: usize = 8;
    let rig = Rig::new(on_one_cpu(1));
    std::fs::write(rig.dir.path().join("data"), pattern(SLICE as usize, 6)).unwrap();
    let got: Arc<Vec<AtomicUsize>> = Arc::new((0..6).map(|_| AtomicUsize::new(0)).collect());
    let one = [0u64.to_be_bytes().as_slice(), &SLICE.to_be_bytes()].concat();
    let clients: Vec<_> = got.iter().map(|_| rig.client()).collect();
    let readers = clients.into_iter().enumerate().map(|(own, mut client)| {
        let (got, one) = (Arc::clone(&got), one.clone());
        std::thread::spawn(move || {
            client.send(b'F', &one.repeat(SLICES));
            let mut part = vec![0; 256 << 10];
            let mut left = 4 + SLICES * (4 + SLICE as usize);
            while left > 0 {
                let want = part.len().min(left);
                let n = client.0.read(&mut part[..want]).unwrap();
                assert!(n > 0, "closed");
                left -= n;
                got[own].fetch_add(n, SeqCst);
            }
            got.iter().map(|n| n.load(SeqCst)).min().unwrap()
        })
    });
    let readers: Vec<_> = readers.collect();
    let least = readers.into_iter().map(|reader| reader.join().unwrap());
    let least = least.min().unwrap();
    let share = least * 100 / (SLICES * SLICE as usize);
    assert!(share >= 25, "another had {share} % when the first had all");
    rig.stop();
}

#[test]
fn a_slice_past_the_end_closes_the_connection() {
    let rig = Rig::new(on_one_cpu(1));
    std::fs::write(rig.dir.path().join("data"), pattern(1000, 7)).unwrap();
    for len in [2000u32, 3 << 20] {
        let mut client = rig.client();
        let mut args = 0u64.to_be_bytes().to_vec();
        args.extend_from_slice(&len.to_be_bytes());
        client.send(b'F', &args);
        assert!(client.is_closed_by_peer());
        said_once(&rig);
    }
    rig.stop();
}

/// The core has heard of one slice that could not be sent, and why.
fn said_once(rig: &Rig) {
    eventually("the core hears of it", || {
        !rig.stage.unsent.lock().unwrap().is_empty()
    });
    let said = std::mem::take(&mut *rig.stage.unsent.lock().unwrap());
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].kind, std::io::ErrorKind::UnexpectedEof);
    assert!(said[0].op == "read" && said[0].path.ends_with("/data"));
}

/// Where a file can be mapped its slices are sent from there: what goes wrong then is found out by
/// reading it in another way.
#[test]
fn a_file_that_is_cut_while_it_is_sent_closes_the_connection() {
    for splice_above_bytes in [0, 1 << 20, usize::MAX] {
        let rig = Rig::new(RuntimeConfig {
            splice_above_bytes,
            ..on_one_cpu(1)
        });
        let path = rig.dir.path().join("data");
        std::fs::write(&path, pattern(16 << 20, 9)).unwrap();
        let mut client = rig.client();
        for len in [1u32 << 20, 100_000] {
            // Many more than the socket takes.
            let slice = [&0u64.to_be_bytes()[..], &len.to_be_bytes()].concat();
            let whole = slice.repeat(8 + (16 << 20) / len as usize);
            for _ in 0..3 {
                client.send(b'F', &whole);
            }
        }
        let mut part = vec![0; 300_000];
        client.0.read_exact(&mut part).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        let mut rest = Vec::new();
        let ended = client.0.read_to_end(&mut rest);
        assert!(ended.is_err() || rest.len() < 100 << 20);
        said_once(&rig);
        assert_eq!(rig.client().ask(b'E', b"alive"), b"alive");
        rig.stop();
    }
}

/// 100 MB/s.
const PACED: WriteStrategy = WriteStrategy::Paced(100_000_000);

const STRATEGIES: [WriteStrategy; 6] = [
    WriteStrategy::Auto,
    WriteStrategy::Inline,
    WriteStrategy::Ring,
    WriteStrategy::Uncached,
    WriteStrategy::Direct,
    PACED,
];

#[test]
fn writes_syncs_and_reads_are_whole() {
    for write_strategy in STRATEGIES {
        let config = RuntimeConfig {
            write_strategy,
            ..on_one_cpu(1)
        };
        let rig = Rig::new(config);
        let mut client = rig.client();
        let missing = client.ask(b'R', b"\0\0\0\0\0\0\0\0\0\0\0\x05nothing");
        assert!(missing.starts_with(b"error: read of ") && missing.ends_with(b"entity not found"));
        // 3 MB in 1000-byte buffers: more than one vector holds.
        let data = pattern(3_000_000, 8);
        let mut args = vec![1];
        args.extend_from_slice(&0u64.to_be_bytes());
        args.extend_from_slice(&data);
        assert_eq!(client.ask(b'W', &args), b"done");
        let mut args = vec![0];
        args.extend_from_slice(&3_000_000u64.to_be_bytes());
        args.extend_from_slice(b"tail");
        assert_eq!(client.ask(b'W', &args), b"done");
        assert_eq!(client.ask(b'Y', b""), b"done");
        let on_disk = std::fs::read(rig.dir.path().join("written")).unwrap();
        assert!(on_disk[..3_000_000] == data && &on_disk[3_000_000..3_000_004] == b"tail");
        let mut args = 2_999_998u64.to_be_bytes().to_vec();
        args.extend_from_slice(&100u32.to_be_bytes());
        args.extend_from_slice(b"written");
        let mut expected = data[2_999_998..].to_vec();
        expected.extend_from_slice(b"tail"); // fewer than asked for, only at the end
        if write_strategy == WriteStrategy::Direct {
            expected.resize(102, 0); // the padding of the last block
            expected.truncate(100);
        }
        assert_eq!(client.ask(b'R', &args), expected);
        rig.stop();
    }
}

/// Appends of all sizes, some synced, each read back: only what is behind the end may differ.
#[test]
fn small_appends_are_whole_whatever_the_strategy() {
    for write_strategy in STRATEGIES {
        let rig = Rig::new(RuntimeConfig {
            write_strategy,
            ..on_one_cpu(1)
        });
        // What stands there already is not known to whoever goes on with it.
        let mut expected = pattern(5000, 21);
        std::fs::write(rig.dir.path().join("written"), &expected).unwrap();
        let mut client = rig.client();
        let mut prng = Prng::new(22);
        let (begun, mut last) = (Instant::now(), 0);
        for n in 0..60 {
            let len = match prng.below(3) {
                0 => 1 + prng.below(200),
                1 => 1 + prng.below(20_000),
                _ => 4096 * (1 + prng.below(300)),
            };
            let data = pattern(len as usize, n);
            let mut args = vec![u8::from(prng.one_in(3))];
            args.extend_from_slice(&(expected.len() as u64).to_be_bytes());
            args.extend_from_slice(&data);
            assert_eq!(client.ask(b'W', &args), b"done");
            let from = expected.len() - expected.len().min(3000);
            expected.extend_from_slice(&data);
            last = data.len();
            let wanted = &expected[from..];
            let mut args = (from as u64).to_be_bytes().to_vec();
            args.extend_from_slice(&(wanted.len() as u32).to_be_bytes());
            args.extend_from_slice(b"written");
            assert!(client.ask(b'R', &args) == wanted, "{write_strategy:?} {n}");
        }
        // The last one does not hold up itself; a turn may have begun before the first came.
        let paced = Duration::from_nanos((expected.len() - 105_000 - last) as u64 * 10);
        assert!(write_strategy != PACED || begun.elapsed() >= paced);
        let on_disk = std::fs::read(rig.dir.path().join("written")).unwrap();
        let (data, padding) = on_disk.split_at(expected.len());
        assert!(data == expected, "{write_strategy:?}");
        assert!(padding.len() < 4096 && padding.iter().all(|b| *b == 0));
        let direct = [WriteStrategy::Direct, WriteStrategy::Auto].contains(&write_strategy);
        assert!(direct || padding.is_empty());
        rig.stop();
    }
}
