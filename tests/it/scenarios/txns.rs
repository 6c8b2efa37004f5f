//! Transactions as Kafka's own programs make, read and administer them.

use std::time::Duration;

use anyhow::{Result, ensure};
use flumen_it::tools::tool_alone;
use flumen_it::{Broker, Options, Shape, tool};

scenarios!(transactional_producer_and_tools);

const RECORDS: &str = "3000";

/// Kafka's performance test as a transactional producer, a consumer of committed records, the tool
/// for transactions, and what Kafka's dump says of the files.
fn transactional_producer_and_tools(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "eos", "--partitions", "3"],
    )?;
    let address = format!("bootstrap.servers={}", broker.address());
    let args = [
        "--topic",
        "eos",
        "--num-records",
        RECORDS,
        "--record-size",
        "100",
        "--throughput",
        "-1",
        "--transactional-id",
        "perf",
        "--transaction-duration-ms",
        "20",
        "--producer-props",
        &address,
    ];
    tool("kafka-producer-perf-test", &args)?
        .ok()?
        .has("3000 records sent")?;
    let read = broker.tool(
        "kafka-console-consumer",
        &[
            "--topic",
            "eos",
            "--from-beginning",
            "--isolation-level",
            "read_committed",
            "--max-messages",
            RECORDS,
            "--timeout-ms",
            "20000",
        ],
    )?;
    ensure!(read.lines().len() == 3000, "{} lines", read.lines().len());
    broker
        .tool("kafka-transactions", &["list"])?
        .has("perf")?
        .has("CompleteCommit")?;
    let args = ["describe", "--transactional-id", "perf"];
    broker
        .tool("kafka-transactions", &args)?
        .has("CompleteCommit")?;
    // It may have chosen one partition for all.
    let mut producers = String::new();
    for partition in ["0", "1", "2"] {
        let args = [
            "describe-producers",
            "--topic",
            "eos",
            "--partition",
            partition,
        ];
        producers += &broker.tool("kafka-transactions", &args)?.ok()?.out;
    }
    ensure!(producers.contains("None"), "no producer: {producers}");
    broker.stop(Duration::from_secs(20))?;
    let mut dumped = String::new();
    for topic in ["eos", "__transaction_state"] {
        for file in broker.segment_files(topic, "log")? {
            let file = file.display().to_string();
            let decoder = match topic {
                "eos" => "--print-data-log",
                _ => "--transaction-log-decoder",
            };
            dumped += &tool_alone("kafka-dump-log", &["--files", &file, decoder])?
                .ok()?
                .out;
        }
    }
    for expected in [
        "endTxnMarker: COMMIT",
        "\"transactionStatus\":4",
        "isTransactional: true",
    ] {
        ensure!(dumped.contains(expected), "{expected} is missing: {dumped}");
    }
    Ok(())
}
