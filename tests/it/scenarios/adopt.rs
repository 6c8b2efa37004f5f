//! Directories of the other broker: Flumen takes over what Kafka wrote, its tools find nothing
//! wrong in it, and Kafka's dump tool reads what Flumen wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::raw::{self, Read};
use flumen_it::{Broker, Kind, Options, Output, Raw, Shape, deps, process, tool, wait};
use serde_json::Value;

scenarios!(a_directory_of_kafka_is_taken_over);

/// Topics and their numbers of partitions.
const TOPICS: [(&str, i32); 5] = [
    ("rolled", 2),
    ("moved", 1),
    ("compacted", 1),
    ("codecs", 1),
    ("reborn", 1),
];

/// What clients see of a cluster.
#[derive(Debug, PartialEq)]
struct Seen {
    ids: BTreeMap<String, [u8; 16]>,
    records: BTreeMap<(String, i32), Vec<Read>>,
    starts: BTreeMap<(String, i32), i64>,
    ends: BTreeMap<(String, i32), i64>,
    configs: Vec<String>,
    groups: Vec<Vec<String>>,
    producers: Vec<Vec<String>>,
}

fn a_directory_of_kafka_is_taken_over(shape: Shape) -> Result<()> {
    if Kind::chosen() == Kind::Kafka {
        println!("an import needs Flumen");
        return Ok(());
    }
    let mut kafka = Broker::start(Options::new(shape).of(Kind::Kafka))?;
    fill(&kafka)?;
    let before = see(&kafka)?;
    kafka.stop(Duration::from_secs(60))?;

    let dir = kafka.log_dir();
    let verified = flumen(&["log", "verify", "--json", path(&dir)?])?.ok()?;
    let summary = last_json(&verified)?;
    ensure!(
        summary["defects"] == 0 && summary["unreadable"] == 0,
        "{verified}"
    );
    ensure!(summary["segments"].as_i64() > Some(8), "{verified}");
    offsets_are_decoded(&dir)?;
    dumps_agree(&kafka)?;

    let mut broker = Broker::unformatted(Options::new(shape).of(Kind::Flumen).from_file())?;
    let file = broker.file();
    let import = [
        "storage",
        "import",
        "--from",
        path(&dir)?,
        "--config",
        path(&file)?,
    ];
    println!("{}", flumen(&import)?.ok()?.out);
    broker.launch()?;
    let after = see(&broker)?;
    ensure!(before == after, "Kafka:  {before:?}\nFlumen: {after:?}");
    // What comes next follows.
    let mut open = broker.raw()?;
    for ((topic, partition), end) in &after.ends {
        let batch = raw::batch(&[Bytes::from_static(b"next")])?;
        if topic != "compacted" {
            let next = open.produce(topic, &[(*partition, batch)])?;
            ensure!(next == [*end], "{topic}-{partition}: {next:?}, not {end}");
        }
    }
    broker.stop(Duration::from_secs(10))?;
    let verified = flumen(&["log", "verify", "--json", path(&broker.log_dir())?])?.ok()?;
    ensure!(last_json(&verified)?["defects"] == 0, "{verified}");
    broker.launch()?;
    let last = see(&broker)?;
    broker.stop(Duration::from_secs(10))?;
    kafka_reads(&broker, &last)?;
    refusals(&mut kafka, &dir, shape)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}

fn flumen(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(deps::flumen()?);
    process::run(command.args(args), b"", Duration::from_secs(60))
}

fn last_json(output: &Output) -> Result<Value> {
    let lines = output.lines();
    Ok(serde_json::from_str(lines.last().context("no output")?)?)
}

/// Several segments, a log start that moved, compaction, every codec, a topic that was deleted and
/// made again, and a consumer group.
fn fill(kafka: &Broker) -> Result<()> {
    let create = |topic: &str, partitions: i32, configs: &[&str]| -> Result<()> {
        let partitions = partitions.to_string();
        let mut args = vec!["--create", "--topic", topic, "--partitions", &partitions];
        for config in configs {
            args.extend(["--config", config]);
        }
        kafka.tool("kafka-topics", &args).map(drop)
    };
    create("reborn", 3, &[])?;
    kafka.tool("kafka-topics", &["--delete", "--topic", "reborn"])?;
    wait::until("the topic is gone", Duration::from_secs(20), || {
        let list = kafka.tool("kafka-topics", &["--list"])?;
        Ok((!list.lines().contains(&"reborn")).then_some(()))
    })?;
    create("rolled", 2, &["segment.bytes=1048576", "retention.ms=-1"])?;
    create(
        "compacted",
        1,
        &["cleanup.policy=compact", "segment.ms=100000"],
    )?;
    create("moved", 1, &[])?;
    create("codecs", 1, &["message.timestamp.type=LogAppendTime"])?;
    create("reborn", 1, &["max.message.bytes=2000000"])?;
    let address = format!("bootstrap.servers={}", kafka.address());
    for (topic, count, codec) in [
        ("rolled", "12000", "none"),
        ("codecs", "300", "gzip"),
        ("codecs", "300", "snappy"),
        ("codecs", "300", "lz4"),
        ("codecs", "300", "zstd"),
        ("reborn", "100", "none"),
    ] {
        let compression = format!("compression.type={codec}");
        let fixed = [
            "--topic",
            topic,
            "--num-records",
            count,
            "--record-size",
            "300",
        ];
        let props = [
            "--throughput",
            "-1",
            "--producer-props",
            &address,
            "acks=all",
        ];
        let last = [compression.as_str(), "batch.size=8000"];
        let args = [&fixed[..], &props, &last].concat();
        tool("kafka-producer-perf-test", &args)?.ok()?;
    }
    keyed(kafka)?;
    let mut transactions = Command::new(deps::dir()?.join("venv/bin/python"));
    transactions.arg(deps::client_file("python/client.py"));
    transactions.args(["transactions", &kafka.address(), "moved"]);
    process::run(&mut transactions, b"", Duration::from_secs(90))?.ok()?;
    let offsets = r#"{"partitions":[{"topic":"rolled","partition":1,"offset":50}],"version":1}"#;
    let file = kafka.scratch("delete.json");
    std::fs::write(&file, offsets)?;
    kafka.tool(
        "kafka-delete-records",
        &["--offset-json-file", path(&file)?],
    )?;
    let read = ["--topic", "reborn", "--group", "keeper", "--from-beginning"];
    let read = [
        &read[..],
        &["--max-messages", "70", "--timeout-ms", "30000"],
    ]
    .concat();
    kafka.tool("kafka-console-consumer", &read).map(drop)
}

fn keyed(kafka: &Broker) -> Result<()> {
    let input: String = (0..200).map(|n| format!("k{}|v{n}\n", n % 7)).collect();
    let address = kafka.address();
    let args = [
        "--bootstrap-server",
        &address,
        "--topic",
        "compacted",
        "--reader-property",
        "parse.key=true",
        "--reader-property",
        "key.separator=|",
    ];
    flumen_it::tools::tool_with("kafka-console-producer", input.as_bytes(), &args)?.ok()?;
    Ok(())
}

fn see(broker: &Broker) -> Result<Seen> {
    let mut open = broker.raw()?;
    let mut seen = Seen {
        ids: BTreeMap::new(),
        records: BTreeMap::new(),
        starts: BTreeMap::new(),
        ends: BTreeMap::new(),
        configs: Vec::new(),
        groups: Vec::new(),
        producers: Vec::new(),
    };
    for (topic, partitions) in TOPICS {
        open.await_leaders(topic, partitions)?;
        let metadata = open.metadata(&[topic])?;
        let found = metadata.topics.first().context("a topic")?;
        seen.ids
            .insert(topic.to_owned(), *found.topic_id.as_bytes());
        for partition in 0..partitions {
            let key = (topic.to_owned(), partition);
            seen.starts
                .insert(key.clone(), open.offset(topic, partition, -2)?);
            let end = open.offset(topic, partition, -1)?;
            seen.ends.insert(key.clone(), end);
            let records = match topic {
                "codecs" => unfolded(broker, &mut open, topic)?,
                "moved" => around_markers(&mut open, topic)?,
                _ => open.read_all(topic, partition)?,
            };
            seen.records.insert(key, records);
        }
        let name = [
            "--describe",
            "--entity-type",
            "topics",
            "--entity-name",
            topic,
        ];
        let text = broker.tool("kafka-configs", &name)?;
        // Which static settings stand behind a topic's own is each broker's matter.
        let own = text
            .lines()
            .into_iter()
            .filter(|l| l.contains("sensitive="));
        let own = own.map(|l| l.split(" synonyms=").next().unwrap_or(l).to_owned());
        seen.configs.extend(own);
        let args = ["describe-producers", "--topic", topic, "--partition", "0"];
        let text = broker.tool("org.apache.kafka.tools.TransactionsCommand", &args)?;
        let mut rows = cells(&text);
        rows.sort();
        seen.producers.extend(rows);
    }
    let text = broker.tool(
        "kafka-consumer-groups",
        &["--describe", "--group", "keeper"],
    )?;
    let rows = cells(&text)
        .into_iter()
        .filter(|row| row.first().is_some_and(|c| c == "keeper"));
    seen.groups.extend(rows);
    ensure!(!seen.groups.is_empty(), "no group: {text}");
    Ok(seen)
}

/// Records of compressed batches, as Kafka's consumer reads them: the raw client unfolds nothing.
fn unfolded(broker: &Broker, open: &mut Raw, topic: &str) -> Result<Vec<Read>> {
    let count = open.offset(topic, 0, -1)? - open.offset(topic, 0, -2)?;
    let count = count.to_string();
    let place = ["--topic", topic, "--partition", "0", "--offset", "earliest"];
    let limits = ["--max-messages", &count, "--timeout-ms", "30000"];
    let print = ["--formatter-property", "print.offset=true"];
    let read = broker.tool(
        "kafka-console-consumer",
        &[&place[..], &limits, &print].concat(),
    )?;
    let records = read.lines().into_iter().map(|line| {
        let (offset, value) = line.split_once('\t').context("no tab")?;
        let offset = offset.strip_prefix("Offset:").context("no offset")?;
        Ok(Read {
            offset: offset.parse()?,
            value: Bytes::copy_from_slice(value.as_bytes()),
        })
    });
    records.collect()
}

/// Records between the markers of transactions, aborted ones too.
fn around_markers(open: &mut Raw, topic: &str) -> Result<Vec<Read>> {
    let (mut next, end) = (open.offset(topic, 0, -2)?, open.offset(topic, 0, -1)?);
    let mut records = Vec::new();
    while next < end {
        let some = open.fetch(topic, 0, next)?;
        next = some.last().map_or(next, |r| r.offset) + 1;
        records.extend(some);
    }
    Ok(records)
}

fn cells(output: &Output) -> Vec<Vec<String>> {
    let lines = output.lines().into_iter();
    lines
        .map(|l| l.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// The committed offset of the group, the transactional id and the topics, as Flumen's dump shows
/// Kafka's internal topics.
fn offsets_are_decoded(dir: &Path) -> Result<()> {
    let group = r#"key: {"type":"1","data":{"group":"keeper","topic":"reborn","partition":0}}"#;
    let id = r#"key: {"type":"0","data":{"transactionalId":"moved-tx"}}"#;
    let (mut groups, mut ids) = (0, 0);
    for entry in std::fs::read_dir(dir)? {
        let path_here = entry?.path();
        let name = path_here.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("__consumer_offsets-") || name.starts_with("__transaction_state-") {
            let args = ["log", "dump", "--print-data-log", path(&path_here)?];
            let dump = flumen(&args)?.ok()?;
            groups += dump.out.matches(group).count();
            ids += dump.out.matches(id).count();
            ensure!(!dump.out.contains("undecodable"), "{dump}");
        }
    }
    ensure!(
        groups > 0 && ids > 0,
        "{groups} committed offsets, {ids} transactional ids"
    );
    let metadata = dir.join("__cluster_metadata-0");
    let dump = flumen(&["log", "dump", "--print-data-log", path(&metadata)?])?.ok()?;
    for text in [
        r#""type":"TOPIC_RECORD""#,
        "LeaderChange: {",
        r#""name":"reborn""#,
    ] {
        ensure!(dump.out.contains(text), "no {text}");
    }
    ensure!(!dump.out.contains("undecodable"), "{dump}");
    Ok(())
}

/// Both dump tools say the same of what Kafka wrote, batch by batch and record by record.
fn dumps_agree(kafka: &Broker) -> Result<()> {
    let mut compared = BTreeMap::new();
    for (topic, _) in TOPICS {
        for extension in ["log", "index", "timeindex", "txnindex", "snapshot"] {
            for file in kafka.segment_files(topic, extension)? {
                *compared.entry(extension).or_insert(0) += one_dump_agrees(path(&file)?)?;
            }
        }
    }
    println!("lines that both dump tools show alike: {compared:?}");
    let compared = |extension| compared.get(extension).copied().unwrap_or(0);
    ensure!(compared("log") > 13_000, "only {} lines", compared("log"));
    let aborted = compared("txnindex");
    ensure!(
        aborted >= 3,
        "a heading and two transactions, not {aborted} lines"
    );
    Ok(())
}

fn one_dump_agrees(file: &str) -> Result<usize> {
    if std::fs::metadata(file)?.len() == 0 {
        return Ok(0); // Kafka's says that it is empty, ours nothing
    }
    let theirs = tool("kafka-dump-log", &["--files", file, "--print-data-log"])?.ok()?;
    let ours = flumen(&["log", "dump", "--print-data-log", file])?.ok()?;
    let mut theirs = theirs.out;
    for absent in ["deleteHorizonMs", "currentTxnFirstOffset"] {
        theirs = theirs.replace(&format!(" {absent}: OptionalLong.empty"), "");
    }
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = |text: &str| -> Vec<String> { text.lines().map(words).collect() };
    let (theirs, ours) = (lines(&theirs), lines(&ours.out));
    let first = theirs.iter().zip(&ours).find(|(a, b)| a != b);
    ensure!(
        theirs == ours,
        "{file}: {} and {} lines; {first:?}",
        theirs.len(),
        ours.len()
    );
    Ok(ours.len())
}

/// Kafka's dump tool reads every file, finds nothing wrong, and shows the records that clients
/// read.
fn kafka_reads(broker: &Broker, seen: &Seen) -> Result<()> {
    for (topic, _) in TOPICS {
        let list = |extension: &str| -> Result<String> {
            let files: Vec<PathBuf> = broker.segment_files(topic, extension)?;
            let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
            Ok(names.join(","))
        };
        let logs = list("log")?;
        let dump = tool("kafka-dump-log", &["--files", &logs, "--print-data-log"])?.ok()?;
        ensure!(
            !dump.out.contains("isvalid: false"),
            "a batch of {topic} is not valid"
        );
        let mut shown: BTreeMap<(String, i32), Vec<(i64, String)>> = BTreeMap::new();
        let mut partition = 0;
        for line in dump.lines() {
            if let Some(file) = line.strip_prefix("Dumping ") {
                let dir = Path::new(file).parent().and_then(Path::file_name);
                let dir = dir.context("a partition's folder")?.to_string_lossy();
                let (_, number) = dir.rsplit_once('-').context("a partition's number")?;
                partition = number.parse()?;
            } else if let Some(record) = line.strip_prefix("| offset: ") {
                let (offset, _) = record.split_once(' ').context("an offset")?;
                if record.contains(" endTxnMarker: ") {
                    continue; // consumers are not given it
                }
                let (_, payload) = record.split_once("payload: ").context("a payload")?;
                let key = (topic.to_owned(), partition);
                let records = shown.entry(key).or_default();
                records.push((offset.parse()?, payload.to_owned()));
            }
        }
        for (key, records) in seen.records.iter().filter(|((name, _), _)| name == topic) {
            let start = seen.starts.get(key).copied().unwrap_or(0);
            let text = |r: &Read| (r.offset, String::from_utf8_lossy(&r.value).into_owned());
            let expected: Vec<(i64, String)> = records.iter().map(text).collect();
            let mut all = shown.remove(key).unwrap_or_default();
            all.retain(|(offset, _)| *offset >= start);
            ensure!(
                all == expected,
                "Kafka's dump of {key:?} shows other records"
            );
        }
        for extension in ["index", "timeindex", "snapshot"] {
            let files = list(extension)?;
            if files.is_empty() {
                continue;
            }
            let dump = tool("kafka-dump-log", &["--files", &files])?.ok()?;
            for bad in ["mismatch", "Mismatch", "Found", "isn't"] {
                ensure!(!dump.out.contains(bad), "{extension}: {dump}");
            }
        }
    }
    Ok(())
}

/// A broker that was killed, and a target that is not empty.
fn refusals(kafka: &mut Broker, dir: &Path, shape: Shape) -> Result<()> {
    let target = Broker::unformatted(Options::new(shape).of(Kind::Flumen).from_file())?;
    let file = target.file();
    let import = [
        "storage",
        "import",
        "--from",
        path(dir)?,
        "--config",
        path(&file)?,
    ];
    flumen(&[&import[..], &["--override", "node.id=7"]].concat())?.fails_with("")?;
    std::fs::create_dir_all(target.log_dir().join("t-0"))?;
    flumen(&import)?.fails_with("is not empty")?;
    std::fs::remove_dir_all(target.log_dir())?;
    kafka.launch()?;
    flumen(&import)?.fails_with("not shut down cleanly")?;
    kafka.kill();
    flumen(&import)?.fails_with("not shut down cleanly")?;
    Ok(())
}
