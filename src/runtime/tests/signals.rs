//! SIGTERM: alone in this binary, because a signal is for the whole process.

mod common;

use common::*;
use flumen_runtime::{Listen, RuntimeConfig, ShardStart};
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[test]
fn sigterm_ends_all_shards_in_order() {
    let (sender, receiver) = mpsc::channel();
    let stage = Arc::new(Stage::default());
    let runner = std::thread::spawn(move || {
        let config = RuntimeConfig {
            listeners: vec![Listen::new("127.0.0.1", 0)],
            ..on_one_cpu(3)
        };
        let make = move |start: &ShardStart| {
            Ok(FakeCore::new(start.shard, start.shards, Arc::clone(&stage)))
        };
        flumen_runtime::run(config, make, |running| {
            assert!(running.wait_ready(PATIENCE));
            sender.send(running.listeners()[0]).unwrap();
        })
    });
    let mut client = Client::new(receiver.recv_timeout(PATIENCE).unwrap());
    assert_eq!(client.ask(b'E', b"x"), b"x");
    let begin = std::time::Instant::now();
    let id = std::process::id().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-TERM", &id])
        .status();
    assert!(kill.unwrap().success());
    assert!(client.is_closed_by_peer());
    runner.join().unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
}
