//! Log compaction, judged by Kafka's own tools.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flumen_it::tools::tool_alone;
use flumen_it::{Broker, Options, Raw, Shape, raw, tool, wait};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest};
use kafka_protocol::protocol::StrBytes;

scenarios!(log_compaction_tester, committed_offsets_survive);

/// A broker that compacts soon and often.
fn eager(shape: Shape) -> Options {
    Options::new(shape)
        .set("log.segment.bytes", "1048576")
        .set("log.cleaner.backoff.ms", "50")
        .set("log.cleaner.min.cleanable.ratio", "0.01")
        .set("log.cleaner.dedupe.buffer.size", "8388608")
        .set("offsets.topic.segment.bytes", "1048576")
        .set("offsets.topic.num.partitions", "1")
}

/// Kafka's LogCompactionTester produces keys many times over with deletes among them, waits, reads
/// all and holds the last values against each other. Afterwards its dump tool reads what is left.
fn log_compaction_tester(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(eager(shape))?;
    for codec in ["none", "lz4"] {
        let args = [
            "--bootstrap-server",
            &broker.address(),
            "--messages",
            "100000",
            "--duplicates",
            "20",
            "--topics",
            "2",
            "--percent-deletes",
            "20",
            "--compression-type",
            codec,
            "--sleep",
            "5",
        ];
        let class = "org.apache.kafka.tools.LogCompactionTester";
        let out = tool_alone(class, &args)?.ok()?.says(" 0 mismatches")?;
        println!("{}", out.out);
        let reduced = out.out.split_once('(').and_then(|(_, rest)| {
            let (percent, _) = rest.split_once("% reduction")?;
            percent.parse::<f64>().ok()
        });
        let reduced = reduced.with_context(|| format!("no reduction in {out}"))?;
        ensure!(reduced > 5.0, "only {reduced} % were compacted: {out}");
    }
    broker.stop(Duration::from_secs(20))?;
    let topics: Vec<String> = std::fs::read_dir(broker.log_dir())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix("-0")?.to_owned()))
        .filter(|name| name.starts_with("log-cleaner-test"))
        .collect();
    ensure!(topics.len() == 4, "{topics:?}");
    for topic in &topics {
        dump(&broker, topic)?;
    }
    let checkpoint = broker.log_dir().join("cleaner-offset-checkpoint");
    let checkpoint = std::fs::read_to_string(checkpoint)?;
    ensure!(checkpoint.starts_with("0\n"), "{checkpoint}");
    ensure!(
        topics
            .iter()
            .all(|t| checkpoint.contains(&format!("\n{t} 0 "))),
        "{checkpoint}"
    );
    Ok(())
}

/// DumpLogSegments finds batches and indexes of a topic's files in order.
fn dump(broker: &Broker, topic: &str) -> Result<()> {
    for extension in ["log", "index", "timeindex"] {
        let files = broker.segment_files(topic, extension)?;
        let list: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        let list = list.join(",");
        let mut args = vec!["--files", &list];
        if extension == "log" {
            args.push("--deep-iteration");
        }
        let out = tool("kafka-dump-log", &args)?.ok()?;
        let wrong: &[&str] = match extension {
            "log" => &["isvalid: false"],
            _ => &["mismatch", "Mismatch", "Found", "isn't"],
        };
        for text in wrong {
            ensure!(!out.out.contains(text), "{text}: {out}");
        }
    }
    Ok(())
}

/// The offsets topic is compacted while groups commit; after a kill the last commits are there.
fn committed_offsets_survive(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(eager(shape))?;
    broker.tool(
        "kafka-topics",
        &["--create", "--topic", "of-groups", "--partitions", "1"],
    )?;
    let group = "many-commits";
    let mut client = broker.raw()?;
    wait::until("the coordinator", Duration::from_secs(20), || {
        let find = kafka_protocol::messages::FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![StrBytes::from_static_str(group)]);
        client.call(&find, 4)?; // makes the topic of the groups
        Ok(commit(&mut client, group, 0)?.then_some(()))
    })?;
    let last = 600;
    for n in 1..=last {
        ensure!(commit(&mut client, group, n)?, "commit {n} was refused");
    }
    let size = || -> Result<u64> {
        let logs = broker.segment_files("__consumer_offsets", "log")?;
        Ok(logs
            .iter()
            .filter_map(|f| f.metadata().ok())
            .map(|m| m.len())
            .sum())
    };
    wait::until(
        "compaction of the offsets topic",
        Duration::from_secs(20),
        || Ok((size()? < 1_500_000).then_some(())),
    )?;
    broker.kill();
    broker.launch()?;
    let described = wait::until("the group", Duration::from_secs(20), || {
        let out = broker.try_tool("kafka-consumer-groups", &["--describe", "--group", group])?;
        Ok((out.code == 0 && out.out.contains("of-groups")).then_some(out))
    })?;
    let row = described.row(&[group, "of-groups", "0"])?;
    ensure!(
        row.get(3) == Some(&last.to_string().as_str()),
        "{described}"
    );
    Ok(())
}

/// Commits an offset with 4 KiB of metadata; false if the coordinator is not there yet.
fn commit(client: &mut Raw, group: &str, offset: i64) -> Result<bool> {
    let metadata = StrBytes::from_string("m".repeat(4000));
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some(metadata));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(raw::name("of-groups"))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let answer = client.call(&request, 8)?;
    let mut codes = answer.topics.iter().flat_map(|t| &t.partitions);
    Ok(codes.all(|p| p.error_code == 0))
}
