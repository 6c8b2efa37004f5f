//! Share groups as Kafka's own programs use them.

use anyhow::{Result, ensure};
use flumen_it::tools::tool_alone;
use flumen_it::{Broker, Options, Shape};

scenarios!(share_consumers_and_tools);

const RECORDS: usize = 2000;

/// VerifiableShareConsumer reads and acknowledges what VerifiableProducer wrote; offsets are reset,
/// and the console's share consumer gets all of it again; the tool for share groups sees it all.
fn share_consumers_and_tools(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "shared", "--partitions", "3"],
    )?;
    let address = broker.address();
    let count = RECORDS.to_string();
    let common = ["--bootstrap-server", &address, "--topic", "shared"];
    let args = [&common[..], &["--max-messages", &count, "--acks", "-1"]].concat();
    tool_alone("kafka-verifiable-producer", &args)?.ok()?;
    let group = [
        "--group-id",
        "verify-share",
        "--acknowledgement-mode",
        "sync",
        "--offset-reset-strategy",
        "earliest",
        "--max-messages",
        &count,
    ];
    let args = [&common[..], &group].concat();
    let read = tool_alone("kafka-verifiable-share-consumer", &args)?.ok()?;
    let acknowledged: usize = read
        .out
        .lines()
        .filter(|line| line.contains("\"offsets_acknowledged\""))
        .filter_map(|line| {
            let count = line.split("\"count\":").nth(1)?;
            count.split([',', '}']).next()?.trim().parse::<usize>().ok()
        })
        .sum();
    ensure!(
        acknowledged == RECORDS,
        "{acknowledged} acknowledged: {read}"
    );
    ensure!(!read.out.contains("\"success\":false"), "{read}");
    let list = broker.tool("kafka-share-groups", &["--list", "--state"])?;
    list.has("verify-share")?;
    let offsets = ["--describe", "--group", "verify-share"];
    let described = broker.tool("kafka-share-groups", &offsets)?.ok()?;
    ensure!(described.lines().len() >= 4, "{described}");
    let reset = [
        "--reset-offsets",
        "--group",
        "verify-share",
        "--topic",
        "shared",
        "--to-earliest",
        "--execute",
    ];
    broker.tool("kafka-share-groups", &reset)?.ok()?;
    let again = [
        "--topic",
        "shared",
        "--group",
        "verify-share",
        "--max-messages",
        &count,
        "--timeout-ms",
        "20000",
    ];
    let read = broker.tool("kafka-console-share-consumer", &again)?;
    ensure!(
        read.lines().len() == RECORDS,
        "{} lines",
        read.lines().len()
    );
    let delete = ["--delete", "--group", "verify-share"];
    broker.tool("kafka-share-groups", &delete)?.ok()?;
    Ok(())
}
