//! Flumen's own command line against any broker: on Apache Kafka too.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::{Broker, Options, Output, Shape, deps, process, raw};

scenarios!(
    command_line_round_trip,
    command_line_groups,
    command_line_failures,
    log_tools_tell_by_their_exit_code,
);

/// Runs `flumen` with these arguments and the broker's address.
fn flumen(broker: &Broker, stdin: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(deps::flumen()?);
    command
        .args(args)
        .args(["--bootstrap-server", &broker.address()]);
    process::run(&mut command, stdin.as_bytes(), Duration::from_secs(60))
}

fn done(broker: &Broker, args: &[&str]) -> Result<Output> {
    flumen(broker, "", args)?.ok()
}

fn json(output: &Output) -> Result<serde_json::Value> {
    serde_json::from_str(&output.out).with_context(|| output.to_string())
}

fn command_line_round_trip(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    let create = ["topics", "create", "words", "--partitions", "3", "--config"];
    done(&broker, &[&create[..], &["retention.ms=3600000"]].concat())?;
    broker.raw()?.await_leaders("words", 3)?;
    done(&broker, &["topics", "list"])?.has("words")?;
    let listed = json(&done(&broker, &["topics", "list", "--json"])?)?;
    ensure!(listed.to_string().contains("\"words\""), "{listed}");

    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: String = (0..20).map(|n| format!("k{n}={codec}-{n}\n")).collect();
        let args = [
            "produce",
            "words",
            "--key-separator",
            "=",
            "--compression",
            codec,
        ];
        flumen(&broker, &lines, &[&args[..], &["--header", "h=1"]].concat())?.ok()?;
    }
    let read = [
        "consume",
        "words",
        "--from-beginning",
        "--max-messages",
        "100",
        "--json",
    ];
    let out = done(&broker, &read)?;
    let mut values = Vec::new();
    for line in out.lines() {
        let record: serde_json::Value = serde_json::from_str(line)?;
        let (key, value) = (record["key"].as_str(), record["value"].as_str());
        let (key, value) = (key.context("a key")?, value.context("a value")?);
        ensure!(
            value.ends_with(&format!("-{}", key.trim_start_matches('k'))),
            "{line}"
        );
        values.push(value.to_owned());
    }
    values.sort();
    values.dedup();
    ensure!(values.len() == 100, "{} different values", values.len());
    // The other way round: Kafka's console consumer reads what flumen wrote, flumen what it wrote.
    let args = [
        "--topic",
        "words",
        "--from-beginning",
        "--max-messages",
        "100",
    ];
    let theirs = broker.tool("kafka-console-consumer", &args)?;
    let mut lines: Vec<String> = theirs.lines().into_iter().map(str::to_owned).collect();
    lines.sort();
    ensure!(lines == values, "{theirs}");

    let text = json(&done(&broker, &["topics", "describe", "words", "--json"])?)?;
    ensure!(text.to_string().contains("3600000"), "{text}");
    done(&broker, &["topics", "alter", "words", "--partitions", "5"])?;
    let text = broker.tool("kafka-topics", &["--describe", "--topic", "words"])?;
    ensure!(text.out.contains("PartitionCount: 5"), "{text}");
    done(&broker, &["topics", "delete", "words"])?;
    flumen(&broker, "", &["topics", "describe", "words"])?.fails_with("words")?;
    Ok(())
}

fn command_line_groups(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    done(&broker, &["topics", "create", "jobs", "--partitions", "1"])?;
    broker.raw()?.await_leaders("jobs", 1)?;
    flumen(&broker, "a\nb\nc\nd\ne\n", &["produce", "jobs"])?.ok()?;
    let read = [
        "consume",
        "jobs",
        "--from-beginning",
        "--group",
        "crew",
        "--max-messages",
    ];
    let first = done(&broker, &[&read[..], &["3"]].concat())?;
    ensure!(first.lines() == ["a", "b", "c"], "{first}");
    let second = done(&broker, &[&read[..], &["2"]].concat())?;
    ensure!(second.lines() == ["d", "e"], "{second}");
    done(&broker, &["groups", "list"])?.has("crew")?;
    let committed = |offset: i64| -> Result<()> {
        let text = done(&broker, &["groups", "describe", "crew", "--json"])?;
        let found = json(&text)?["offsets"][0]["current_offset"].as_i64();
        ensure!(found == Some(offset), "{offset} expected: {text}");
        let theirs = broker.tool("kafka-consumer-groups", &["--describe", "--group", "crew"])?;
        let row = theirs.row(&["crew", "jobs", "0"])?;
        ensure!(row.get(3) == Some(&offset.to_string().as_str()), "{theirs}");
        Ok(())
    };
    committed(5)?;
    let reset = ["groups", "reset-offsets", "crew", "--topic", "jobs"];
    done(&broker, &[&reset[..], &["--to-earliest"]].concat())?;
    committed(5)?;
    done(
        &broker,
        &[&reset[..], &["--to-earliest", "--execute"]].concat(),
    )?;
    committed(0)?;
    done(
        &broker,
        &[&reset[..], &["--to-offset", "2", "--execute"]].concat(),
    )?;
    committed(2)?;
    done(
        &broker,
        &[&reset[..], &["--shift-by", "-1", "--execute"]].concat(),
    )?;
    committed(1)?;
    done(&broker, &["groups", "delete", "crew"])?;
    let left = done(&broker, &["groups", "list"])?;
    ensure!(!left.out.contains("crew"), "{left}");
    Ok(())
}

/// Wrong use ends with 2, a refusal with 1 and a reason.
fn command_line_failures(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    let refused = flumen(&broker, "", &["topics", "delete", "nosuch"])?.fails_with("nosuch")?;
    ensure!(refused.code == 1, "{refused}");
    let wrong = flumen(&broker, "", &["topics", "create"])?;
    ensure!(wrong.code == 2, "{wrong}");
    let mut command = Command::new(deps::flumen()?);
    command.args(["topics", "list", "--bootstrap-server", "127.0.0.1:1"]);
    command.args(["--request-timeout-ms", "500"]);
    let lost =
        process::run(&mut command, b"", Duration::from_secs(20))?.fails_with("127.0.0.1:1")?;
    ensure!(lost.code == 1, "{lost}");
    Ok(())
}

/// Clean is 0, a defect 1, a file that is not there 2; the place of the defect is told. Of Kafka's
/// directory as of Flumen's.
fn log_tools_tell_by_their_exit_code(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    broker.raw()?.create_topic("looked-at", 1)?;
    broker.raw()?.await_leaders("looked-at", 1)?;
    let values = (0..50).map(|n| Bytes::from(format!("value-{n}")));
    let batch = raw::batch(&values.collect::<Vec<_>>())?;
    for _ in 0..20 {
        broker.raw()?.produce("looked-at", &[(0, batch.clone())])?;
    }
    broker.stop(Duration::from_secs(60))?;
    let dir = broker.log_dir();
    let log = |command: &str, path: &Path, code: i32| -> Result<Output> {
        let mut flumen = Command::new(deps::flumen()?);
        flumen.args(["log", command]).arg(path);
        let done = process::run(&mut flumen, b"", Duration::from_secs(60))?;
        ensure!(done.code == code, "exit code {code} expected: {done}");
        Ok(done)
    };
    log("verify", &dir, 0)?.has("defects: 0")?;
    let files = broker.segment_files("looked-at", "log")?;
    let segment = files.first().context("no segment")?;
    log("dump", segment, 0)?
        .has("count: 50")?
        .has("isvalid: true")?;
    log("verify", &dir.join("nothing"), 2)?.says("nothing")?;
    log("dump", &dir.join("nothing"), 2)?.says("nothing")?;
    let mut bytes = std::fs::read(segment)?;
    *bytes.get_mut(100).context("a byte")? ^= 1;
    std::fs::write(segment, bytes)?;
    let place = format!("{} at byte 0", segment.display());
    log("verify", &dir, 1)?.has(&place)?.has("the CRC is")?;
    log("dump", segment, 1)?.has("isvalid: false")?;
    Ok(())
}
