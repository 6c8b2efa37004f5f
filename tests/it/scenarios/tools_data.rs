//! Kafka's tools that move records: console producer and consumer, the performance tests, the
//! verifiable pair, and the dump of segment files.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use flumen_it::tools::{tool_alone, tool_with};
use flumen_it::{Broker, Options, Shape, tool};

scenarios!(
    console_round_trip,
    performance_tools,
    verifiable_pair,
    dump_log_reads_the_files
);

/// Every codec, keys, headers, three partitions; a consumer from the beginning sees each once.
fn console_round_trip(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "console", "--partitions", "3"],
    )?;
    let mut expected = BTreeSet::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let mut input = String::new();
        for n in 0..100 {
            input.push_str(&format!("a:{codec}|k{n}|value-{codec}-{n}\n"));
            expected.insert(format!("a:{codec}\tk{n}\tvalue-{codec}-{n}"));
        }
        let args = [
            "--bootstrap-server",
            &broker.address(),
            "--topic",
            "console",
            "--compression-codec",
            codec,
            "--reader-property",
            "parse.key=true",
            "--reader-property",
            "parse.headers=true",
            "--reader-property",
            "key.separator=|",
            "--reader-property",
            "headers.delimiter=|",
        ];
        tool_with("kafka-console-producer", input.as_bytes(), &args)?.ok()?;
    }
    let read = broker.tool(
        "kafka-console-consumer",
        &[
            "--topic",
            "console",
            "--from-beginning",
            "--max-messages",
            "500",
            "--timeout-ms",
            "20000",
            "--formatter-property",
            "print.key=true",
            "--formatter-property",
            "print.headers=true",
        ],
    )?;
    let lines = read.lines();
    ensure!(lines.len() == 500, "{} lines: {read}", lines.len());
    let seen: BTreeSet<String> = lines.into_iter().map(str::to_owned).collect();
    ensure!(seen == expected, "other records than sent: {read}");
    // A topic that nobody created appears when a producer asks for it.
    let args = [
        "--bootstrap-server",
        &broker.address(),
        "--topic",
        "made-by-use",
    ];
    tool_with("kafka-console-producer", b"one\ntwo\n", &args)?.ok()?;
    let args = [
        "--topic",
        "made-by-use",
        "--from-beginning",
        "--max-messages",
        "2",
    ];
    let read = broker.tool("kafka-console-consumer", &args)?;
    ensure!(read.lines() == ["one", "two"], "{read}");
    Ok(())
}

/// The producer's and the consumer's performance tests move all they were asked to.
fn performance_tools(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "perf", "--partitions", "4"],
    )?;
    let address = format!("bootstrap.servers={}", broker.address());
    let args = [
        "--topic",
        "perf",
        "--num-records",
        "100000",
        "--record-size",
        "200",
        "--throughput",
        "-1",
        "--producer-props",
        &address,
        "acks=all",
        "linger.ms=5",
    ];
    let out = tool("kafka-producer-perf-test", &args)?
        .ok()?
        .has("100000 records sent")?;
    println!("{}", out.lines().last().unwrap_or(&""));
    let args = [
        "--topic",
        "perf",
        "--num-records",
        "100000",
        "--timeout",
        "30000",
    ];
    let out = broker.tool("kafka-consumer-perf-test", &args)?;
    println!("{}", out.out);
    let last = out.lines().last().copied().unwrap_or_default();
    let fields: Vec<&str> = last.split(',').map(str::trim).collect();
    let count: u64 = fields.get(4).context("no count column")?.parse()?;
    ensure!(count >= 100_000, "{count} records: {out}");
    Ok(())
}

/// VerifiableProducer gets an ack for each record, VerifiableConsumer reads and commits each.
fn verifiable_pair(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "verify", "--partitions", "2"],
    )?;
    let common = [
        "--bootstrap-server",
        &broker.address(),
        "--topic",
        "verify",
        "--max-messages",
    ];
    let args = [&common[..], &["5000", "--throughput", "-1", "--acks", "-1"]].concat();
    let sent = tool_alone("kafka-verifiable-producer", &args)?.ok()?;
    let acked = sent.out.matches("producer_send_success").count();
    ensure!(acked == 5000, "{acked} acked: {}", sent.err);
    ensure!(!sent.out.contains("producer_send_error"), "{sent}");
    let group = [
        "5000",
        "--group-id",
        "verify-group",
        "--reset-policy",
        "earliest",
        "--verbose",
    ];
    let read = tool_alone("kafka-verifiable-consumer", &[&common[..], &group].concat())?.ok()?;
    let records = read.out.matches("\"record_data\"").count();
    ensure!(records == 5000, "{records} read: {}", read.err);
    let commits = read
        .out
        .lines()
        .filter(|l| l.contains("offsets_committed"))
        .collect::<Vec<_>>();
    ensure!(!commits.is_empty(), "no commit: {}", read.err);
    ensure!(
        commits.iter().all(|c| c.contains("\"success\":true")),
        "{commits:?}"
    );
    Ok(())
}

/// DumpLogSegments reads segments and indexes and finds nothing wrong in them.
fn dump_log_reads_the_files(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape).set("log.index.interval.bytes", "512"))?;
    let topic = "dumped";
    broker.tool(
        "kafka-topics",
        &[
            "--create",
            "--topic",
            topic,
            "--partitions",
            "2",
            "--config",
            "segment.bytes=1048576",
        ],
    )?;
    let address = format!("bootstrap.servers={}", broker.address());
    for codec in ["none", "gzip", "lz4"] {
        let compression = format!("compression.type={codec}");
        let args = [
            "--topic",
            topic,
            "--num-records",
            "10000",
            "--record-size",
            "150",
            "--throughput",
            "-1",
            "--producer-props",
            &address,
            "acks=all",
            &compression,
            "batch.size=4096",
        ];
        tool("kafka-producer-perf-test", &args)?
            .ok()?
            .has("10000 records sent")?;
    }
    broker.stop(std::time::Duration::from_secs(20))?;
    let logs = broker.segment_files(topic, "log")?;
    ensure!(logs.len() > 2, "segments did not roll: {logs:?}");
    let list = |extension: &str| -> Result<String> {
        let files = broker.segment_files(topic, extension)?;
        ensure!(!files.is_empty(), "no .{extension} files");
        Ok(files
            .iter()
            .map(|f| f.display().to_string())
            .collect::<Vec<_>>()
            .join(","))
    };
    let args = [
        "--files",
        &list("log")?,
        "--deep-iteration",
        "--print-data-log",
    ];
    let dump = tool("kafka-dump-log", &args)?.ok()?;
    let records = dump.out.matches("| offset: ").count();
    ensure!(
        records == 30_000,
        "{records} records in {} segments",
        logs.len()
    );
    ensure!(!dump.out.contains("isvalid: false"), "a batch is not valid");
    for extension in ["index", "timeindex"] {
        let dump = tool("kafka-dump-log", &["--files", &list(extension)?])?.ok()?;
        for bad in ["mismatch", "Mismatch", "Found", "isn't"] {
            ensure!(!dump.out.contains(bad), "{extension}: {dump}");
        }
        let needle = if extension == "index" {
            "position: "
        } else {
            "timestamp: "
        };
        ensure!(
            dump.out.matches(needle).count() > 50,
            "hardly any entry: {dump}"
        );
    }
    let dump = tool("kafka-dump-log", &["--files", &list("snapshot")?])?.ok()?;
    ensure!(
        dump.out.contains("producerId: "),
        "no producer in the snapshots: {dump}"
    );
    Ok(())
}
