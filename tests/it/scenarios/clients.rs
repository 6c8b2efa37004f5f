//! Other people's clients: librdkafka, franz-go, kafkajs.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use flumen_it::{Broker, Options, Output, Shape, deps, process};

scenarios!(librdkafka, librdkafka_rebalance, franz_go, kafkajs);

/// Runs a client program and requires success.
fn client(command: &mut Command, args: &[&str]) -> Result<Output> {
    let out = process::run(command.args(args), b"", Duration::from_secs(120))?.ok()?;
    println!("{}", out.out.trim());
    out.has("ok")
}

fn python(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(deps::dir()?.join("venv/bin/python"));
    client(command.arg(deps::client_file("python/client.py")), args)
}

fn librdkafka(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    python(&["roundtrip", &broker.address(), "rdkafka"]).map(drop)
}

/// Eager and cooperative: members join, share, and leave.
fn librdkafka_rebalance(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    for strategy in ["range", "cooperative-sticky"] {
        python(&[
            "rebalance",
            &broker.address(),
            &format!("moves-{strategy}"),
            strategy,
        ])?;
    }
    Ok(())
}

fn franz_go(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    let mut command = Command::new(deps::dir()?.join("franz-client"));
    client(&mut command, &[&broker.address(), "franz"]).map(drop)
}

fn kafkajs(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    let mut command = Command::new("node");
    command.env("NODE_PATH", deps::dir()?.join("js/node_modules"));
    client(
        command.arg(deps::client_file("js/client.js")),
        &[&broker.address(), "js"],
    )
    .map(drop)
}
