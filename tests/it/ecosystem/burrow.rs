//! The lag of a group, from four that compute it: Burrow and a reader of `__consumer_offsets` of
//! our own, `kafka-consumer-groups`, and the broker's `/metrics`.
//!
//! Burrow up to 1.9.3 cannot talk to Kafka 4 (it asks for offsets in version 0, see
//! [`flumen_it::old_offsets`]) and knows committed offsets up to version 3 of their record, while
//! Kafka 4.3 writes version 4. It still reads version 1, which is written for commits that carry a
//! retention time of their own: its group commits so. The reader of our own sees both kinds.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::deps::{self, java};
use flumen_it::old_offsets::OldOffsets;
use flumen_it::{Broker, Kind, Options, Program, Shape, broker, http, not_run, process, raw, wait};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, OffsetCommitRequest};
use kafka_protocol::protocol::StrBytes;
use serde_json::Value;

use super::{PACE, PATIENCE, count, options};

ecosystem!(
    a_reader_of_the_offsets_topic_finds_the_lag,
    burrow_finds_the_lag
);

const TOPIC: &str = "watched";
const PARTITIONS: i32 = 3;

/// Records in each partition, by round.
fn produce(broker: &Broker, round: usize) -> Result<()> {
    let mut raw = broker.raw()?;
    for partition in 0..PARTITIONS {
        let records = 10 * (round + 1) + 7 * usize::try_from(partition)?;
        let values = vec![Bytes::from_static(b"watched"); records];
        raw.produce(TOPIC, &[(partition, raw::batch(&values)?)])?;
    }
    Ok(())
}

/// Commits all but `left` records of each partition, in a version with a retention time (4) or in
/// one of today (8).
fn commit(broker: &Broker, group: &str, version: i16, left: i64) -> Result<()> {
    let mut raw = broker.raw()?;
    let group = StrBytes::from_string(group.to_owned());
    let mut partitions = Vec::new();
    for partition in 0..PARTITIONS {
        let end = raw.offset(TOPIC, partition, -1)?;
        partitions.push(
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition)
                .with_committed_offset((end - left - i64::from(partition)).max(0)),
        );
    }
    let topic = OffsetCommitRequestTopic::default()
        .with_name(raw::name(TOPIC))
        .with_partitions(partitions);
    let mut request = OffsetCommitRequest::default()
        .with_group_id(GroupId(group.clone()))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    if version <= 4 {
        request = request.with_retention_time_ms(3_600_000);
    }
    wait::until("the commit", Duration::from_secs(30), || {
        let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![group.clone()]);
        raw.call(&find, 4)?; // makes the topic of the groups
        let answer = raw.call(&request, version)?;
        let mut codes = answer.topics.iter().flat_map(|t| &t.partitions);
        Ok(codes.all(|p| p.error_code == 0).then_some(()))
    })
}

/// Lag of each partition as `kafka-consumer-groups` tells it.
fn told_by_tool(broker: &Broker, group: &str) -> Result<Vec<i64>> {
    let out = broker.tool("kafka-consumer-groups", &["--describe", "--group", group])?;
    (0..PARTITIONS)
        .map(|p| {
            let row = out.row(&[group, TOPIC, &p.to_string()])?;
            let lag = row.get(5).with_context(|| out.to_string())?;
            lag.parse().with_context(|| out.to_string())
        })
        .collect()
}

/// Lag of each partition in the broker's metrics.
fn told_by_metrics(broker: &Broker, group: &str) -> Result<Vec<i64>> {
    let (status, text) = http::call(&broker.metrics_address(), "GET", "/metrics", None)?;
    ensure!(status == 200, "{status}: {text}");
    let of = |partition: i32| {
        let fits = |l: &&str| {
            l.starts_with("flumen_group_lag{")
                && l.contains(&format!("group=\"{group}\""))
                && l.contains(&format!("topic=\"{TOPIC}\""))
                && l.contains(&format!("partition=\"{partition}\""))
        };
        let line = text.lines().find(fits);
        let value = line.and_then(|l| l.rsplit(' ').next());
        value.with_context(|| format!("no lag of {partition} in {text}"))
    };
    (0..PARTITIONS).map(|p| Ok(of(p)?.parse()?)).collect()
}

/// Lag of each partition as found in `__consumer_offsets` by the program in `tests/clients/go/lag`.
fn told_by_reader(broker: &Broker, group: &str) -> Result<Vec<i64>> {
    let mut command = Command::new(deps::step("lag-reader")?);
    command.arg(broker.address());
    let out = process::run(&mut command, b"", Duration::from_secs(60))?.ok()?;
    let all: Value = serde_json::from_str(&out.out).with_context(|| out.to_string())?;
    (0..PARTITIONS)
        .map(|p| {
            let lag = &all[group][TOPIC][p.to_string()]["lag"];
            lag.as_i64().with_context(|| all.to_string())
        })
        .collect()
}

/// What must be: `left` and the partition's number, for `commit` leaves so many.
fn expected(left: i64) -> Vec<i64> {
    (0..PARTITIONS).map(|p| left + i64::from(p)).collect()
}

/// The tool, the metrics and the reader agree.
fn all_tell(broker: &Broker, group: &str, left: i64) -> Result<()> {
    let lag = expected(left);
    let tool = told_by_tool(broker, group)?;
    ensure!(tool == lag, "{group}: the tool says {tool:?}, not {lag:?}");
    let reader = told_by_reader(broker, group)?;
    ensure!(
        reader == lag,
        "{group}: the reader found {reader:?}, not {lag:?}"
    );
    if broker.kind() == Kind::Flumen {
        let metrics = told_by_metrics(broker, group)?;
        ensure!(
            metrics == lag,
            "{group}: the metrics have {metrics:?}, not {lag:?}"
        );
    }
    Ok(())
}

fn a_reader_of_the_offsets_topic_finds_the_lag(shape: Shape) -> Result<()> {
    let mut broker = Broker::start(options(shape))?;
    broker.raw()?.create_topic(TOPIC, PARTITIONS)?;
    for round in 0..count(2, 20) {
        produce(&broker, round)?;
        for (group, version) in [("today", 8), ("retained", 4)] {
            let left = i64::try_from(round)?;
            commit(&broker, group, version, left)?;
            all_tell(&broker, group, left)?;
        }
        broker.kill();
        broker.launch()?;
        all_tell(&broker, "today", i64::try_from(round)?)?;
    }
    Ok(())
}

/// The program of Debian's package, unpacked; `FLUMEN_BURROW` names another.
fn program() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("FLUMEN_BURROW") {
        return Ok(Some(PathBuf::from(path)));
    }
    let folder = deps::dir()?.join("burrow/usr");
    let places = ["bin/Burrow", "bin/burrow"];
    Ok(places.iter().map(|p| folder.join(p)).find(|p| p.exists()))
}

/// The server that Burrow keeps a lock in, whatever it watches.
fn zookeeper(broker: &Broker, port: u16) -> Result<Program> {
    let data = broker.scratch("zookeeper");
    std::fs::create_dir_all(&data)?;
    let options = ["-Dzookeeper.admin.enableServer=false"];
    let class = "org.apache.zookeeper.server.ZooKeeperServerMain";
    let mut command = java(100, &["zookeeper/*"], &options, class)?;
    command.arg(port.to_string()).arg(&data);
    Program::start(&broker.scratch(""), "zookeeper", &mut command)
}

/// Whether ZooKeeper takes sessions: it listens before it does, and Burrow asks only once.
fn serves(address: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"srvr")?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    Ok(told.contains("Mode: standalone"))
}

fn configuration(broker: &Broker, zookeeper: u16, http: u16) -> String {
    let address = broker.address();
    let pid = broker.scratch("burrow.pid");
    format!(
        "[general]\npidfile=\"{}\"\n[logging]\nlevel=\"info\"\n\
         [zookeeper]\nservers=[\"127.0.0.1:{zookeeper}\"]\ntimeout=6\nroot-path=\"/burrow\"\n\
         [client-profile.test]\nclient-id=\"burrow\"\nkafka-version=\"2.0.0\"\n\
         [cluster.local]\nclass-name=\"kafka\"\nservers=[\"{address}\"]\nclient-profile=\"test\"\n\
         topic-refresh=2\noffset-refresh=1\n\
         [consumer.local]\nclass-name=\"kafka\"\ncluster=\"local\"\nservers=[\"{address}\"]\n\
         client-profile=\"test\"\n\
         [httpserver.default]\naddress=\"127.0.0.1:{http}\"\n\
         [evaluator.default]\nclass-name=\"caching\"\nexpire-cache=1\n\
         [storage.default]\nclass-name=\"inmemory\"\nworkers=2\nintervals=15\n\
         expire-group=604800\nmin-distance=0\n",
        pid.display()
    )
}

fn burrow_finds_the_lag(shape: Shape) -> Result<()> {
    let Some(program) = program()? else {
        return not_run("Burrow is only had from Debian's packages, on amd64 (or FLUMEN_BURROW)");
    };
    let between = broker::free_port()?;
    let advertised = format!("PLAINTEXT://127.0.0.1:{between}");
    let options: Options = options(shape).set("advertised.listeners", &advertised);
    let broker = Broker::start(options)?;
    let _between = OldOffsets::start(between, &broker.address())?;
    broker.raw()?.create_topic(TOPIC, PARTITIONS)?;
    produce(&broker, 0)?;
    commit(&broker, "retained", 4, 0)?;
    let (zookeeper_port, http_port) = (broker::free_port()?, broker::free_port()?);
    let mut keeper = zookeeper(&broker, zookeeper_port)?;
    let text = configuration(&broker, zookeeper_port, http_port);
    std::fs::write(broker.scratch("burrow.toml"), text)?;
    let mut command = Command::new(program);
    command.arg("--config-dir").arg(broker.scratch(""));
    command.current_dir(broker.scratch(""));
    let address = format!("127.0.0.1:{zookeeper_port}");
    wait::every(PACE, "ZooKeeper", PATIENCE, || {
        ensure!(keeper.alive(), "{}", keeper.tail());
        Ok(serves(&address)?.then_some(()))
    })?;
    let mut burrow = Program::start(&broker.scratch(""), "burrow", &mut command)?;
    for round in 1..count(4, 20) {
        let left = i64::try_from(round)?;
        produce(&broker, round)?;
        let address = format!("127.0.0.1:{http_port}");
        wait::every(10 * PACE, "Burrow's lag", PATIENCE, || {
            ensure!(burrow.alive(), "Burrow ended");
            // It computes a lag when it sees a commit, from the end it knew then.
            commit(&broker, "retained", 4, left)?;
            let path = "/v3/kafka/local/consumer/retained/lag";
            let status = http::json(&address, "GET", path, None)?;
            let found = lag_of(&status)?;
            ensure!(found == expected(left), "{found:?} in {status}");
            Ok(Some(()))
        })
        .with_context(|| burrow.tail())?;
        all_tell(&broker, "retained", left)?;
    }
    burrow.stop(PATIENCE)?;
    keeper.kill();
    Ok(())
}

/// Lag by partition in Burrow's answer.
fn lag_of(status: &Value) -> Result<Vec<i64>> {
    let partitions = status["status"]["partitions"].as_array();
    let partitions = partitions.with_context(|| status.to_string())?;
    let of = |partition: i32| {
        let found = partitions
            .iter()
            .find(|p| p["topic"] == TOPIC && p["partition"] == partition);
        let lag = found.and_then(|p| p["current_lag"].as_i64());
        lag.with_context(|| status.to_string())
    };
    (0..PARTITIONS).map(of).collect()
}
