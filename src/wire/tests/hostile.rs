//! Decoders under garbage: no panic, and memory in proportion to the bytes received.
#![allow(clippy::unwrap_used)] // a test may

use flumen_base::Prng;
use flumen_wire::fuzz::{fuzz_record, fuzz_request, fuzz_response};
use flumen_wire::testing::{CODECS, Gen};
use flumen_wire::{ApiKey, Writer, header};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes that a decoder may allocate for each byte it is given, and on top.
const ALLOCATED_PER_BYTE_MAX: usize = 64;
const ALLOCATED_FIXED_MAX: usize = 80 << 10;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.with(|n| n.set(n.get() + layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.with(|n| n.set(n.get() + size));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn rounds(n: u64) -> u64 {
    n * std::env::var("FLUMEN_TEST_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(1)
}

fn allocated(f: impl FnOnce()) -> usize {
    let before = ALLOCATED.with(Cell::get);
    f();
    ALLOCATED.with(Cell::get) - before
}

/// What comes over sockets that nobody should trust.
fn mutate(rng: &mut Prng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.next_u64() as u8),
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
            // A length that is far too large.
            4 if at + 4 <= bytes.len() => {
                bytes[at..at + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
            }
            5 if at + 5 <= bytes.len() => {
                bytes[at..at + 5].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
            _ => {}
        }
    }
}

fn assert_bounded(name: &str, version: i16, seed: u64, len: usize, allocated: usize) {
    assert!(
        allocated <= ALLOCATED_FIXED_MAX + ALLOCATED_PER_BYTE_MAX * len,
        "{name} v{version} seed {seed}: {allocated} bytes allocated for {len}"
    );
}

#[test]
fn garbage_neither_panics_nor_takes_memory() {
    for (i, codec) in CODECS.iter().enumerate() {
        for version in codec.versions.0..=codec.versions.1 {
            for round in 0..rounds(30) {
                let seed = round << 32 | (i as u64) << 16 | version as u64;
                let mut g = Gen::new(seed);
                let mut bytes = if round % 5 == 4 {
                    (0..g.rng.below(200))
                        .map(|_| g.rng.next_u64() as u8)
                        .collect()
                } else {
                    (codec.random)(&mut g, version).unwrap()
                };
                mutate(&mut g.rng, &mut bytes);
                let allocated = allocated(|| {
                    let _ = (codec.decode)(&bytes, version);
                });
                assert_bounded(codec.name, version, seed, bytes.len(), allocated);
            }
        }
    }
}

#[test]
fn many_small_elements_take_bounded_memory() {
    let mut worst = (0, "", 0);
    for (i, codec) in CODECS.iter().enumerate() {
        for version in codec.versions.0..=codec.versions.1 {
            for round in 0..rounds(4) {
                let seed = round << 32 | (i as u64) << 16 | version as u64;
                let bytes = (codec.random)(&mut Gen::tiny(seed), version).unwrap();
                let allocated = allocated(|| (codec.decode)(&bytes, version).unwrap());
                assert_bounded(codec.name, version, seed, bytes.len(), allocated);
                if bytes.len() > 1000 {
                    worst = worst.max((allocated / bytes.len(), codec.name, version));
                }
            }
        }
    }
    println!(
        "at most {} bytes per byte: {} v{}",
        worst.0, worst.1, worst.2
    );
}

#[test]
fn a_cut_message_is_refused() {
    for (i, codec) in CODECS.iter().enumerate() {
        let version = codec.versions.1;
        let bytes = (codec.random)(&mut Gen::new(i as u64), version).unwrap();
        for len in 0..bytes.len() {
            let result = (codec.decode)(&bytes[..len], version);
            assert!(result.is_err(), "{} v{version} cut to {len}", codec.name);
        }
    }
}

#[test]
fn the_fuzz_targets_find_nothing_in_seeded_garbage() {
    for round in 0..rounds(20_000) {
        let mut g = Gen::new(round);
        let key = ApiKey::ALL[g.rng.below(77) as usize];
        let info = key.info();
        let version = info.min + g.rng.below((info.max - info.min + 2) as u64) as i16;
        let codec = flumen_wire::testing::codec_of("request", key.code()).unwrap();
        let mut w = Writer::new();
        let header = header::RequestHeader {
            api_key: key.code(),
            api_version: version,
            correlation_id: 1,
            client_id: Some("c"),
        };
        header::write_request_header(&mut w, &header);
        let mut frame = w.as_slice().to_vec();
        frame.extend((codec.random)(&mut g, version.min(info.max)).unwrap());
        if !g.rng.one_in(4) {
            mutate(&mut g.rng, &mut frame);
        }
        fuzz_request(&frame);

        let mut bytes: Vec<u8> = (0..g.rng.below(60)).map(|_| g.rng.below(6) as u8).collect();
        fuzz_response(&bytes);
        if bytes.len() > 3 {
            bytes[0] = g.rng.next_u64() as u8;
            (bytes[1], bytes[2]) = (0, g.rng.below(5) as u8);
        }
        fuzz_record(&bytes);
    }
}

#[test]
fn headers_of_any_length_are_answered() {
    for len in 0..20 {
        fuzz_request(&vec![0; len]);
        fuzz_request(&vec![0xff; len]);
    }
}
