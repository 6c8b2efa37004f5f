//! Kafka's administrative tools: topics, configs, groups, offsets, delete-records, versions, dirs.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flumen_it::process::Process;
use flumen_it::tools::tool_with;
use flumen_it::{Broker, Options, Shape, deps, wait};

scenarios!(
    topics_tool,
    configs_tool,
    consumer_groups_tool,
    group_with_members,
    offsets_and_delete_records,
    versions_and_log_dirs,
);

/// Writes these lines as records of one topic with the console producer.
fn send(broker: &Broker, topic: &str, lines: &str) -> Result<()> {
    let args = ["--bootstrap-server", &broker.address(), "--topic", topic];
    tool_with("kafka-console-producer", lines.as_bytes(), &args)?
        .ok()
        .map(drop)
}

fn topics_tool(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    let topics = |args: &[&str]| broker.tool("kafka-topics", args);
    let listed = |expected: &[&str]| {
        wait::until("the list", Duration::from_secs(10), || {
            let text = topics(&["--list", "--exclude-internal"])?;
            ensure!(text.lines() == expected, "{text}");
            Ok(Some(()))
        })
    };
    let refused = |args: &[&str], why: &str| -> Result<()> {
        broker
            .try_tool("kafka-topics", args)?
            .fails_with(why)
            .map(drop)
    };
    let create = [
        "--create",
        "--topic",
        "orders",
        "--partitions",
        "3",
        "--config",
    ];
    topics(&[&create[..], &["retention.ms=3600000"]].concat())?.has("Created topic orders.")?;
    topics(&["--create", "--topic", "second"])?;
    listed(&["orders", "second"])?;
    refused(&["--create", "--topic", "orders"], "already exists")?;
    topics(&["--create", "--topic", "orders", "--if-not-exists"])?;
    refused(&["--create", "--topic", "no/good"], "is invalid")?;
    refused(
        &["--create", "--topic", "x", "--partitions", "0"],
        "partitions",
    )?;
    refused(
        &["--create", "--topic", "x", "--replication-factor", "3"],
        "replication factor",
    )?;
    refused(
        &["--create", "--topic", "x", "--config", "retention.ms=abc"],
        "retention.ms",
    )?;
    refused(
        &["--create", "--topic", "x", "--config", "no.such=1"],
        "no.such",
    )?;

    let text = topics(&["--describe", "--topic", "orders"])?;
    let head = text.lines().first().copied().unwrap_or_default().to_owned();
    for part in [
        "PartitionCount: 3",
        "ReplicationFactor: 1",
        "retention.ms=3600000",
    ] {
        ensure!(head.contains(part), "no {part:?} in {text}");
    }
    let rows: Vec<&str> = text
        .lines()
        .into_iter()
        .filter(|l| l.contains("Leader: "))
        .collect();
    ensure!(
        rows.len() == 3 && rows.iter().all(|r| !r.contains("none")),
        "{text}"
    );

    topics(&["--alter", "--topic", "orders", "--partitions", "7"])?;
    let text = topics(&["--describe", "--topic", "orders"])?.has("PartitionCount: 7")?;
    ensure!(text.out.matches("Leader: ").count() == 7, "{text}");
    refused(
        &["--alter", "--topic", "orders", "--partitions", "2"],
        "would not be an increase",
    )?;
    refused(
        &["--alter", "--topic", "nosuch", "--partitions", "2"],
        "nosuch",
    )?;
    let assigned = [
        "--create",
        "--topic",
        "placed",
        "--replica-assignment",
        "1,1",
    ];
    let broker_id = broker
        .raw()?
        .metadata(&[])?
        .brokers
        .first()
        .context("no broker")?
        .node_id
        .0;
    let placement = format!("{broker_id},{broker_id}");
    topics(&[&assigned[..4], &[placement.as_str()]].concat())?;
    topics(&["--describe", "--topic", "placed"])?.has("PartitionCount: 2")?;

    send(&broker, "orders", "one\ntwo\n")?;
    topics(&["--delete", "--topic", "orders"])?;
    refused(&["--describe", "--topic", "orders"], "does not exist")?;
    refused(&["--delete", "--topic", "orders"], "does not exist")?;
    // The same name again is a new topic without the old one's records and configuration.
    topics(&["--create", "--topic", "orders", "--partitions", "1"])?;
    let end = broker.tool("kafka-get-offsets", &["--topic", "orders"])?;
    ensure!(end.lines() == ["orders:0:0"], "{end}");
    let text = topics(&["--describe", "--topic", "orders"])?;
    ensure!(!text.out.contains("retention.ms"), "{text}");
    listed(&["orders", "placed", "second"])
}

fn configs_tool(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool("kafka-topics", &["--create", "--topic", "tuned"])?;
    let topic = ["--entity-type", "topics", "--entity-name", "tuned"];
    let configs =
        |entity: &[&str], args: &[&str]| broker.try_tool("kafka-configs", &[entity, args].concat());
    let add = ["--alter", "--add-config"];
    let set = "retention.ms=1000,max.message.bytes=2000000,cleanup.policy=[compact,delete]";
    configs(&topic, &[add[0], add[1], set])?
        .ok()?
        .has("Completed updating config")?;
    let text = configs(&topic, &["--describe"])?.ok()?;
    for part in [
        "retention.ms=1000",
        "max.message.bytes=2000000",
        "cleanup.policy=compact,delete",
        "DYNAMIC_TOPIC_CONFIG:retention.ms=1000",
    ] {
        ensure!(text.out.contains(part), "no {part:?} in {text}");
    }
    ensure!(
        !text.out.contains("segment.bytes"),
        "defaults belong to --all: {text}"
    );
    let all = configs(&topic, &["--describe", "--all"])?.ok()?;
    let known = all
        .lines()
        .iter()
        .filter(|l| l.contains("synonyms={"))
        .count();
    ensure!(known >= 30, "only {known} topic configs: {all}");
    ensure!(all.out.contains("segment.bytes=1073741824"), "{all}");
    configs(&topic, &["--alter", "--delete-config", "retention.ms"])?.ok()?;
    let text = configs(&topic, &["--describe"])?.ok()?;
    ensure!(!text.out.contains("retention.ms"), "{text}");
    configs(&topic, &[add[0], add[1], "min.insync.replicas=0"])?.fails_with("min.insync")?;
    configs(&topic, &[add[0], add[1], "cleanup.policy=shred"])?.fails_with("cleanup.policy")?;
    configs(&topic, &[add[0], add[1], "nosuch.key=1"])?.fails_with("nosuch.key")?;

    let id = broker
        .raw()?
        .metadata(&[])?
        .brokers
        .first()
        .context("no broker")?
        .node_id
        .0;
    let id = id.to_string();
    let one = ["--entity-type", "brokers", "--entity-name", id.as_str()];
    let every = ["--entity-type", "brokers", "--entity-default"];
    configs(&every, &[add[0], add[1], "log.retention.ms=7200000"])?.ok()?;
    configs(&every, &["--describe"])?
        .ok()?
        .has("log.retention.ms=7200000")?;
    // A broker applies a dynamic default soon after the answer, not before it.
    let all = wait::until("the dynamic default", Duration::from_secs(10), || {
        configs(&one, &["--describe", "--all"])?
            .has("log.retention.ms=7200000")
            .map(Some)
    })?;
    let known = all
        .lines()
        .iter()
        .filter(|l| l.contains("synonyms={"))
        .count();
    ensure!(known >= 200, "only {known} broker configs");
    configs(&topic, &["--describe", "--all"])?
        .ok()?
        .has("retention.ms=7200000")?;
    configs(&one, &[add[0], add[1], "node.id=7"])?.fails_with("node.id")?;
    configs(&every, &["--alter", "--delete-config", "log.retention.ms"])?.ok()?;
    Ok(())
}

fn consumer_groups_tool(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    let groups = |args: &[&str]| broker.try_tool("kafka-consumer-groups", args);
    for topic in ["g-one", "g-two"] {
        broker.tool("kafka-topics", &["--create", "--topic", topic])?;
        send(&broker, topic, &"record\n".repeat(10))?;
    }
    for (group, topic) in [("first", "g-one"), ("second", "g-two")] {
        broker.tool(
            "kafka-console-consumer",
            &[
                "--topic",
                topic,
                "--group",
                group,
                "--from-beginning",
                "--max-messages",
                "10",
                "--timeout-ms",
                "20000",
            ],
        )?;
    }
    let listed = groups(&["--list"])?.ok()?;
    let mut names = listed.lines();
    names.sort_unstable();
    ensure!(names == ["first", "second"], "{listed}");
    send(&broker, "g-one", "more\nmore\n")?;
    let row = |group: &str| -> Result<Vec<String>> {
        let text = groups(&["--describe", "--group", group])?.ok()?;
        Ok(text.row(&[group])?.into_iter().map(str::to_owned).collect())
    };
    ensure!(
        row("first")?[..6] == ["first", "g-one", "0", "10", "12", "2"],
        "{:?}",
        row("first")
    );
    let state = groups(&["--describe", "--state", "--group", "first"])?.ok()?;
    ensure!(state.row(&["first"])?.contains(&"Empty"), "{state}");
    groups(&["--describe", "--group", "nosuch"])?.says("not found")?;

    let reset = ["--group", "first", "--topic", "g-one", "--reset-offsets"];
    let dry = groups(&[&reset[..], &["--to-earliest", "--dry-run"]].concat())?.ok()?;
    ensure!(
        dry.row(&["first"])?[..4] == ["first", "g-one", "0", "0"],
        "{dry}"
    );
    ensure!(row("first")?[3] == "10", "a dry run changed something");
    let done = |how: &[&str], offset: &str| -> Result<()> {
        groups(&[&reset[..], how, &["--execute"]].concat())?.ok()?;
        ensure!(
            row("first")?[3] == offset,
            "after {how:?}: {:?}",
            row("first")
        );
        Ok(())
    };
    done(&["--to-earliest"], "0")?;
    done(&["--to-latest"], "12")?;
    done(&["--shift-by", "-5"], "7")?;
    done(&["--to-offset", "3"], "3")?;
    done(&["--to-datetime", "2020-01-01T00:00:00.000"], "0")?;
    done(&["--to-datetime", "2099-01-01T00:00:00.000"], "12")?;
    done(&["--by-duration", "P1D"], "0")?;

    groups(&["--delete-offsets", "--group", "first", "--topic", "g-one"])?.ok()?;
    groups(&["--delete", "--group", "second"])?
        .ok()?
        .has("was successful")?;
    groups(&["--delete", "--group", "nosuch"])?.says("does not exist")?;
    let listed = groups(&["--list"])?.ok()?;
    ensure!(!listed.out.contains("second"), "{listed}");
    Ok(())
}

/// While a member is in the group: the tool shows it, and refuses to reset or delete.
fn group_with_members(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "live", "--partitions", "2"],
    )?;
    send(&broker, "live", "a\nb\nc\n")?;
    let mut command = Command::new(deps::dir()?.join("venv/bin/python"));
    command.arg(deps::client_file("python/client.py"));
    command.args(["group", &broker.address(), "live", "members", "3"]);
    let mut member = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut said = String::new();
    let out = member.child().stdout.take().context("stdout")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said)?;
    ensure!(said.trim() == "ready", "the member said {said:?}");

    let groups = |args: &[&str]| broker.try_tool("kafka-consumer-groups", args);
    let text = groups(&["--describe", "--members", "--verbose", "--group", "members"])?.ok()?;
    let row = text.row(&["members"])?;
    ensure!(row.contains(&"rdkafka") && row.contains(&"2"), "{text}");
    let state = groups(&["--describe", "--state", "--group", "members"])?.ok()?;
    ensure!(state.row(&["members"])?.contains(&"Stable"), "{state}");
    let text = groups(&["--describe", "--group", "members"])?.ok()?;
    ensure!(text.out.contains("/127.0.0.1"), "no host: {text}");
    let reset = [
        "--group",
        "members",
        "--topic",
        "live",
        "--reset-offsets",
        "--to-earliest",
    ];
    let text = groups(&[&reset[..], &["--execute"]].concat())?;
    ensure!(
        text.out.contains("inactive") || text.err.contains("inactive"),
        "{text}"
    );
    groups(&["--delete", "--group", "members"])?.says("not empty")?;

    drop(member.child().stdin.take());
    ensure!(member.wait(Duration::from_secs(20))?.success());
    groups(&["--delete", "--group", "members"])?.ok()?;
    Ok(())
}

fn offsets_and_delete_records(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "trim", "--partitions", "2"],
    )?;
    let mut raw = broker.raw()?;
    raw.await_leaders("trim", 2)?;
    let values: Vec<bytes::Bytes> = (0..10).map(|n| format!("v{n}").into()).collect();
    let batch = flumen_it::raw::batch(&values)?;
    for _ in 0..3 {
        raw.produce("trim", &[(0, batch.clone()), (1, batch.clone())])?;
    }
    let offsets = |time: &str, expected: &[&str]| -> Result<()> {
        let text = broker.tool("kafka-get-offsets", &["--topic", "trim", "--time", time])?;
        ensure!(text.lines() == expected, "--time {time}: {text}");
        Ok(())
    };
    offsets("latest", &["trim:0:30", "trim:1:30"])?;
    offsets("earliest", &["trim:0:0", "trim:1:0"])?;
    // All records have the same time: the first of them has the greatest.
    offsets("max-timestamp", &["trim:0:0", "trim:1:0"])?;
    let time = flumen_it::raw::time_ms();
    offsets(&time.to_string(), &["trim:0:0", "trim:1:0"])?;
    offsets(&(time + 1).to_string(), &[])?;
    let file = broker.scratch("delete.json");
    std::fs::write(
        &file,
        r#"{"version":1,"partitions":[{"topic":"trim","partition":0,"offset":15},
            {"topic":"trim","partition":1,"offset":-1}]}"#,
    )?;
    let file = file.to_str().context("a name")?;
    let text = broker.tool("kafka-delete-records", &["--offset-json-file", file])?;
    for part in [
        "partition: trim-0\tlow_watermark: 15",
        "partition: trim-1\tlow_watermark: 30",
    ] {
        ensure!(text.out.contains(part), "no {part:?} in {text}");
    }
    offsets("earliest", &["trim:0:15", "trim:1:30"])?;
    let args = [
        "--topic",
        "trim",
        "--partition",
        "0",
        "--from-beginning",
        "--max-messages",
        "15",
        "--timeout-ms",
        "20000",
        "--formatter-property",
        "print.offset=true",
    ];
    let text = broker.tool("kafka-console-consumer", &args)?;
    ensure!(text.lines().first() == Some(&"Offset:15\tv5"), "{text}");
    std::fs::write(
        file,
        r#"{"version":1,"partitions":[{"topic":"trim","partition":0,"offset":99}]}"#,
    )?;
    let text = broker.try_tool("kafka-delete-records", &["--offset-json-file", file])?;
    ensure!(
        text.out.contains("range") || text.err.contains("range"),
        "{text}"
    );
    Ok(())
}

fn versions_and_log_dirs(shape: Shape) -> Result<()> {
    let broker = Broker::start(Options::new(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "placed", "--partitions", "3"],
    )?;
    send(&broker, "placed", "record\n")?;
    let text = broker.tool("kafka-broker-api-versions", &[])?;
    for part in [
        "Produce(0): 0 to 13",
        "Fetch(1): 4 to 18",
        "ApiVersions(18): 0 to",
    ] {
        ensure!(text.out.contains(part), "no {part:?} in {text}");
    }
    let text = broker.tool("kafka-log-dirs", &["--describe", "--topic-list", "placed"])?;
    let json = text
        .lines()
        .into_iter()
        .find(|l| l.starts_with('{'))
        .context("no JSON")?;
    let json: serde_json::Value = serde_json::from_str(json)?;
    let dirs = &json["brokers"][0]["logDirs"];
    ensure!(
        dirs.as_array().map(Vec::len) == Some(1) && dirs[0]["error"].is_null(),
        "{text}"
    );
    ensure!(
        dirs[0]["logDir"].as_str() == broker.log_dir().to_str(),
        "{text}"
    );
    let parts = dirs[0]["partitions"].as_array().context("no partitions")?;
    ensure!(parts.len() == 3, "{text}");
    let size: i64 = parts.iter().filter_map(|p| p["size"].as_i64()).sum();
    ensure!(size > 60, "size {size}: {text}");
    Ok(())
}
