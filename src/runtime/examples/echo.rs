//! The runtime with a core that echoes frames: what the loop itself costs. `cargo run --release
//! --example echo -- SHARDS`.

use bytes::{BufMut, BytesMut};
use flumen_base::{Disk, Mono, Now};
use flumen_runtime::{In, Listen, Out, RuntimeConfig, ShardCore, run};
use flumen_shard::io::{Effect, Input, Response, Segment};

struct Echo(bool);

impl ShardCore for Echo {
    type Message = ();
    type Job = ();
    type JobOutput = ();

    fn run_job(_: (), _: &dyn Disk) {}

    fn step(&mut self, _: Now, input: In<Self>, effects: &mut Out<Self>) {
        match input {
            Input::Frame(conn, frame) => {
                let mut head = BytesMut::with_capacity(4);
                head.put_u32(frame.len() as u32);
                let segments = vec![Segment::Bytes(head.freeze()), Segment::Bytes(frame)].into();
                effects.push(Effect::Send(conn, Response { segments }));
            }
            Input::Shutdown => effects.push(Effect::Stopped),
            Input::MetricsWanted(token) => effects.push(Effect::Metrics(token, String::new())),
            _ => {}
        }
    }

    fn end_turn(&mut self, _: Now, effects: &mut Out<Self>) {
        if !std::mem::replace(&mut self.0, true) {
            effects.push(Effect::Ready);
        }
    }

    fn tick(&mut self, _: Now, _: &mut Out<Self>) {}

    fn frame_bytes(&self) -> usize {
        0
    }

    fn next_deadline(&self) -> Option<Mono> {
        None
    }
}

#[allow(clippy::print_stdout)] // a program
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shards = std::env::args().nth(1).map(|n| n.parse()).transpose()?;
    let config = RuntimeConfig {
        listeners: vec![Listen::new("127.0.0.1", 9092)],
        metrics: Some(Listen::new("127.0.0.1", 9093)),
        shards,
        ..RuntimeConfig::default()
    };
    let begin = std::time::Instant::now();
    run(
        config,
        |_| Ok(Echo(false)),
        |running| {
            running.wait_ready(std::time::Duration::from_secs(5));
            println!(
                "ready after {:?} on {:?}",
                begin.elapsed(),
                running.listeners()
            );
        },
    )?;
    Ok(())
}
