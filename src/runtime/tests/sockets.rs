//! Frames and responses over real sockets.

mod common;

use common::*;
use flumen_runtime::RuntimeConfig;
use std::io::Write;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

#[test]
fn frames_arrive_whole_however_they_are_cut() {
    let rig = Rig::new(on_one_cpu(2));
    let mut client = rig.client();
    // Byte by byte.
    for byte in framed(b'E', b"split") {
        client.0.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.receive(), b"split");
    // Many in one, answered in order.
    let mut many = Vec::new();
    for i in 0..500u32 {
        many.extend(framed(b'E', &i.to_be_bytes()));
    }
    client.0.write_all(&many).unwrap();
    for i in 0..500u32 {
        assert_eq!(client.receive(), i.to_be_bytes());
    }
    // Large, cut at odd places, with a small one behind it.
    let body = pattern(3_000_001, 1);
    let mut bytes = framed(b'E', &body);
    bytes.extend(framed(b'E', b"after"));
    let writer = client.0.try_clone().unwrap();
    let feed = std::thread::spawn(move || {
        for piece in bytes.chunks(70_001) {
            (&writer).write_all(piece).unwrap();
        }
    });
    assert!(client.receive() == body);
    assert_eq!(client.receive(), b"after");
    feed.join().unwrap();
    rig.stop();
}

#[test]
fn bad_frames_cost_only_their_connection() {
    let config = RuntimeConfig {
        request_bytes_max: 1000,
        ..on_one_cpu(1)
    };
    let rig = Rig::new(config);
    let mut good = rig.client();
    for bytes in [
        &1001i32.to_be_bytes()[..],
        &(-5i32).to_be_bytes(),
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 1, b'?'],
        &[0, 0, 0, 0],
    ] {
        let mut bad = rig.client();
        bad.0.write_all(bytes).unwrap();
        assert!(bad.is_closed_by_peer(), "{bytes:?}");
        assert_eq!(good.ask(b'E', b"still here"), b"still here");
    }
    // Half frames that end.
    for bytes in [&[0u8][..], &[0, 0, 0, 9, b'E']] {
        let mut half = rig.client();
        half.0.write_all(bytes).unwrap();
        drop(half);
    }
    eventually("all bad connections end", || {
        rig.stage.closed.load(SeqCst) == 7
    });
    assert_eq!(rig.metric("flumen_partial_frame_bytes"), 0.0);
    rig.stop();
}

#[test]
fn a_close_comes_after_the_answers_before_it() {
    let rig = Rig::new(on_one_cpu(1));
    let mut client = rig.client();
    let mut bytes = framed(b'E', &pattern(200_000, 3));
    bytes.extend(framed(b'C', b""));
    bytes.extend(framed(b'E', b"too late"));
    client.0.write_all(&bytes).unwrap();
    assert_eq!(client.receive().len(), 200_000);
    assert_eq!(client.receive(), b"bye");
    assert!(client.is_closed_by_peer());
    rig.stop();
}

#[test]
fn idle_and_too_many_connections_are_closed() {
    let config = RuntimeConfig {
        idle_max: Some(Duration::from_millis(300)),
        connections_max: 2,
        ..on_one_cpu(1)
    };
    let rig = Rig::new(config);
    let (mut busy, mut slow) = (rig.client(), rig.client());
    assert_eq!(busy.ask(b'E', b"a"), b"a");
    assert_eq!(slow.ask(b'E', b"b"), b"b");
    assert!(rig.client().is_closed_by_peer());
    slow.0.write_all(&[0, 0, 1, 0, b'E']).unwrap(); // a frame that never becomes whole
    eventually("the idle one is closed", || {
        assert_eq!(busy.ask(b'E', b"x"), b"x");
        rig.stage.closed.load(SeqCst) == 1
    });
    assert!(slow.is_closed_by_peer());
    assert_eq!(rig.client().ask(b'E', b"room again"), b"room again");
    rig.stop();
}

#[test]
fn a_client_that_never_reads_answers_is_held_back() {
    let stage = Stage {
        pause_at: 64,
        ..Stage::default()
    };
    let rig = Rig::staged(on_one_cpu(1), stage);
    let mut client = rig.client();
    client
        .0
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let request = framed(b'H', &[7; 10_000]);
    let mut written = 0usize;
    // Until the socket is full because nobody reads.
    while let Ok(n) = client.0.write(&request[written % request.len()..]) {
        written += n;
        assert!(written < 100 << 20, "no backpressure");
    }
    let taken = rig.stage.frames.load(SeqCst);
    assert!((64..300).contains(&taken), "{taken} frames were taken");
    // Let go: everything sent is answered.
    rig.stage.release.store(true, SeqCst);
    client.0.set_write_timeout(Some(PATIENCE)).unwrap();
    client
        .0
        .write_all(&request[written % request.len()..])
        .unwrap();
    for _ in 0..written / request.len() + 1 {
        assert_eq!(client.receive(), b"released");
    }
    rig.stop();
}

#[test]
fn requests_that_came_at_once_stop_with_reading() {
    let stage = Stage {
        pause_at: 64,
        ..Stage::default()
    };
    let rig = Rig::staged(on_one_cpu(1), stage);
    let mut client = rig.client();
    // Large ones first, so that a single receive takes thousands of small ones.
    assert_eq!(client.ask(b'E', &pattern(1 << 20, 1)).len(), 1 << 20);
    let count = 20_000;
    client
        .0
        .write_all(&framed(b'H', b"").repeat(count))
        .unwrap();
    eventually("the first are taken", || rig.stage.frames.load(SeqCst) > 64);
    assert_eq!(rig.client().ask(b'E', b"others go on"), b"others go on");
    let taken = rig.stage.frames.load(SeqCst);
    assert!(taken < 300, "{taken} frames were taken");
    rig.stage.release.store(true, SeqCst);
    for _ in 0..count {
        assert_eq!(client.receive(), b"released");
    }
    rig.stop();
}

#[test]
fn over_the_budget_slow_frames_go_and_others_wait() {
    let rig = Rig::new(on_one_cpu(1));
    let (mut good, mut slow) = (rig.client(), rig.client());
    assert_eq!(good.ask(b'E', b"a"), b"a");
    slow.0.write_all(&[0, 0, 1, 0, b'E']).unwrap(); // a frame that never becomes whole
    eventually("half a frame is held", || {
        rig.metric("flumen_partial_frame_bytes") == 5.0
    });
    // The core has its hands full: one frame may come, then nothing is read.
    rig.stage.core_bytes.store(usize::MAX / 2, SeqCst);
    assert_eq!(good.ask(b'E', b"was read already"), b"was read already");
    let taken = rig.stage.frames.load(SeqCst);
    good.send(b'E', b"later");
    assert!(slow.is_closed_by_peer(), "the slow one goes after a while");
    assert_eq!(rig.stage.frames.load(SeqCst), taken);
    rig.stage.core_bytes.store(0, SeqCst);
    assert_eq!(good.receive(), b"later");
    rig.stop();
}

#[test]
fn connections_are_spread_over_shards() {
    let rig = Rig::new(on_one_cpu(4));
    let mut clients: Vec<Client> = (0..16).map(|_| rig.client()).collect();
    let mut counts = [0; 4];
    for client in &mut clients {
        counts[usize::from(client.ask(b'S', b"")[1])] += 1;
    }
    assert_eq!(counts, [4; 4]);
    drop(clients);
    eventually("all are closed", || rig.stage.closed.load(SeqCst) == 16);
    assert_eq!(rig.metric("flumen_sockets"), 0.0);
    rig.stop();
}

#[test]
fn random_bytes_never_harm_others() {
    let rounds: usize = std::env::var("FLUMEN_TEST_ROUNDS").map_or(1, |n| n.parse().unwrap());
    let rig = Rig::new(on_one_cpu(2));
    let mut good = rig.client();
    let mut prng = flumen_base::Prng::new(42);
    for round in 0..200 * rounds {
        let mut bad = rig.client();
        let len = prng.below(400) as usize;
        let mut bytes = pattern(len, prng.next_u64());
        if prng.one_in(2) && len > 5 {
            bytes[0..3].fill(0); // a plausible size
        }
        for byte in &mut bytes {
            if b"WYRJXMFHCZ".contains(byte) {
                *byte = b'?'; // what the fake core does on purpose
            }
        }
        let _ = bad.0.write_all(&bytes);
        if round % 20 == 0 {
            assert_eq!(good.ask(b'E', b"alive"), b"alive", "round {round}");
        }
    }
    rig.stop();
}
