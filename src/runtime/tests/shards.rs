//! Several shards: messages, jobs, metrics, the end.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::*;
use flumen_runtime::{Listen, RuntimeConfig};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

#[test]
fn messages_keep_their_order_when_queues_overflow() {
    let rig = Rig::new(on_one_cpu(4));
    let mut clients: Vec<Client> = (0..8).map(|_| rig.client()).collect();
    for _ in 0..3 {
        // Each client has its shard send 20,000 messages to every shard: five queues full.
        for client in &mut clients {
            client.send(b'M', &20_000u64.to_be_bytes());
            client.send(b'E', b"behind");
        }
        for client in &mut clients {
            assert_eq!(client.receive(), b"counted");
            assert_eq!(client.receive(), b"behind");
        }
    }
    assert_eq!(rig.metric("flumen_mesh_waiting"), 0.0);
    rig.stop();
}

#[test]
fn single_messages_wake_sleeping_shards() {
    let rig = Rig::new(on_one_cpu(4));
    let mut client = rig.client();
    for _ in 0..500 {
        assert_eq!(client.ask(b'M', &1u64.to_be_bytes()), b"counted");
    }
    rig.stop();
}

#[test]
fn jobs_run_beside_and_answer() {
    let rig = Rig::new(on_one_cpu(2));
    let mut clients: Vec<Client> = (0..4).map(|_| rig.client()).collect();
    for i in 0..50u32 {
        for client in &mut clients {
            client.send(b'J', &i.to_be_bytes());
        }
    }
    for i in 0..50u32 {
        for client in &mut clients {
            assert_eq!(client.receive(), i.to_be_bytes());
        }
    }
    assert_eq!(rig.metric("flumen_jobs_pending"), 0.0);
    rig.stop();
}

/// What clients wait for has a thread of its own, and eight places to wait there; what finds none
/// goes behind the others.
#[test]
fn jobs_that_clients_wait_for_do_not_wait_for_helpers() {
    let rig = Rig::new(RuntimeConfig {
        job_threads: 2,
        ..on_one_cpu(1)
    });
    let run = || rig.stage.running_jobs.load(SeqCst);
    let mut long = rig.client();
    (0..70).for_each(|_| long.send(b'L', b""));
    eventually("helpers are busy", || run() == 2);
    let mut awaited = rig.client();
    (0..20).for_each(|_| awaited.send(b'A', b""));
    eventually("the first awaited job runs", || run() == 3);
    assert_eq!(rig.metric("flumen_jobs_pending"), 90.0);
    rig.stage.release.store(true, SeqCst);
    (0..20).for_each(|_| assert_eq!(awaited.receive(), b"let go"));
    (0..70).for_each(|_| assert_eq!(long.receive(), b"let go"));
    assert_eq!(run(), 90);
    assert_eq!(rig.metric("flumen_jobs_pending"), 0.0);
    rig.stop();
}

#[test]
fn an_idle_process_does_not_spin() {
    let rig = Rig::new(on_one_cpu(4));
    let mut client = rig.client();
    assert_eq!(client.ask(b'J', b"job"), b"job");
    let before = rig.metric("flumen_turns_total");
    let end = Instant::now() + Duration::from_millis(300);
    let mut byte = [0];
    client
        .0
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    while Instant::now() < end {
        assert!(client.0.read(&mut byte).is_err()); // nothing comes: this waits
    }
    let turns = rig.metric("flumen_turns_total") - before;
    assert!(turns < 60.0, "{turns} turns in 300 ms without work");
    rig.stop();
}

fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut http = TcpStream::connect(address).unwrap();
    http.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(http, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    http.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn metrics_and_health_are_served() {
    let config = RuntimeConfig {
        metrics: Some(Listen::new("127.0.0.1", 0)),
        ..on_one_cpu(3)
    };
    let rig = Rig::new(config);
    let address = rig.running.as_ref().unwrap().metrics_address().unwrap();
    let text = get(address, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in [
        "fake{shard=\"2\"} 1\n",
        "process_open_fds ",
        "flumen_sockets{shard=\"0\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert_eq!(text.matches("# TYPE flumen_sockets gauge").count(), 1);
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz?x").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/other").starts_with("HTTP/1.1 404"));
    rig.stop();
}

#[test]
fn a_shutdown_ends_soon_even_if_a_shard_does_not() {
    let rig = Rig::new(on_one_cpu(4));
    let mut client = rig.client();
    assert_eq!(client.ask(b'E', b"x"), b"x");
    assert!(rig.stop() < Duration::from_secs(2));
    assert!(client.is_closed_by_peer());

    let stage = Stage {
        never_stop: true,
        ..Stage::default()
    };
    let config = RuntimeConfig {
        shutdown_max: Duration::from_millis(300),
        ..on_one_cpu(2)
    };
    let rig = Rig::staged(config, stage);
    let took = rig.stop();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(3),
        "{took:?}"
    );
}

#[test]
fn a_failure_of_one_shard_ends_all() {
    for op in [b'Z', b'X'] {
        let mut rig = Rig::new(on_one_cpu(3));
        let mut client = rig.client();
        client.send(op, b"");
        let running = rig.running.take().unwrap();
        let reason = running.join().unwrap_err().to_string();
        assert!(
            reason.contains("asked to") || reason.contains("panicked"),
            "{reason}"
        );
        assert!(client.is_closed_by_peer());
    }
}

#[test]
fn impossible_configurations_are_refused_with_a_reason() {
    let refused = |config: RuntimeConfig| {
        let make = |_: &flumen_runtime::ShardStart| -> Result<FakeCore, String> {
            Err("not today".to_owned())
        };
        match flumen_runtime::start(config, make) {
            Ok(running) => running.join().unwrap_err().to_string(),
            Err(e) => e.to_string(),
        }
    };
    let config = RuntimeConfig {
        cpus: Some(vec![4000]),
        ..RuntimeConfig::default()
    };
    assert!(refused(config).contains("flumen.cpus names CPU 4000"));
    assert!(refused(on_one_cpu(0)).contains("at least one"));
    assert!(refused(on_one_cpu(2)).contains("not today"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = RuntimeConfig {
        listeners: vec![Listen::new("127.0.0.1", taken.local_addr().unwrap().port())],
        ..on_one_cpu(1)
    };
    assert!(refused(config).contains("cannot listen on 127.0.0.1:"));
}

#[test]
fn a_start_waits_for_an_address_that_becomes_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = RuntimeConfig {
        listeners: vec![Listen::new("127.0.0.1", taken.local_addr().unwrap().port())],
        ..on_one_cpu(1)
    };
    let freed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200)); // as a killed process lets go of it
        drop(taken);
    });
    let stage = std::sync::Arc::new(Stage::default());
    let make = move |start: &flumen_runtime::ShardStart| {
        Ok(FakeCore::new(start.shard, start.shards, stage.clone()))
    };
    let running = flumen_runtime::start(config, make).unwrap();
    freed.join().unwrap();
    running.stopper().shutdown();
    running.join().unwrap();
}
