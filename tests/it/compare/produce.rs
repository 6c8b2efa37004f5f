//! Produce: what is stored and what is refused.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::batch::{self, Batch, old_message, old_message_at};
use super::pair::Pair;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("produce", 2, &[])?;
    plain(pair)?;
    wrong(pair)?;
    configured(pair)?;
    sequences(pair)
}

/// One partition's records to a topic, by name and by id: the version decides.
fn to(topic: &str, index: i32, acks: i32, records: &Value) -> Value {
    let id = format!("${topic}");
    json!({"Acks": acks, "TimeoutMs": 5000, "TopicData": [{"Name": topic, "TopicId": id,
        "PartitionData": [{"Index": index, "Records": records}]}]})
}

/// Sends it in the lowest, middle and highest version.
fn send(pair: &mut Pair, topic: &str, records: &str) -> Result<()> {
    pair.all("Produce", &to(topic, 0, -1, &json!(records)))
}

fn plain(pair: &mut Pair) -> Result<()> {
    for version in [3, 5, 7, 8, 9, 10, 12, 13] {
        pair.case("produce");
        pair.ask(
            "Produce",
            version,
            &to("produce", 0, -1, &json!(Batch::of(2).hex())),
        )?;
        pair.ask(
            "Produce",
            version,
            &to("produce", 1, 1, &json!(Batch::of(1).hex())),
        )?;
    }
    pair.case("produce: unknown partition");
    for index in [9, -1] {
        pair.all(
            "Produce",
            &to("produce", index, -1, &json!(Batch::of(1).hex())),
        )?;
    }
    pair.case("produce: unknown topic");
    let data = json!([{"Index": 0, "Records": Batch::of(1).hex()}]);
    let unknown = "00112233445566778899aabbccddeeff";
    for name in ["nobody", "", "a b"] {
        let topics = json!([{"Name": name, "TopicId": unknown, "PartitionData": data}]);
        pair.all(
            "Produce",
            &json!({"Acks": 1, "TimeoutMs": 5000, "TopicData": topics}),
        )?;
    }
    pair.case("produce: acks");
    for acks in [2, -2] {
        pair.all(
            "Produce",
            &to("produce", 0, acks, &json!(Batch::of(1).hex())),
        )?;
    }
    pair.case("produce: nothing");
    pair.all(
        "Produce",
        &json!({"Acks": -1, "TimeoutMs": 5000, "TopicData": []}),
    )?;
    pair.case("produce: one of two");
    let parts = json!([{"Index": 0, "Records": Batch::of(1).hex()},
        {"Index": 9, "Records": Batch::of(1).hex()}]);
    let topics = json!([{"Name": "produce", "TopicId": "$produce", "PartitionData": parts}]);
    pair.all(
        "Produce",
        &json!({"Acks": -1, "TimeoutMs": 5000, "TopicData": topics}),
    )?;
    pair.case("produce: a partition twice");
    let one = json!({"Index": 0, "Records": Batch::of(1).hex()});
    pair.topic("produce-twice", 1, &[])?;
    let topics = json!([{"Name": "produce-twice", "TopicId": "$produce-twice",
        "PartitionData": [one, one]}]);
    pair.all(
        "Produce",
        &json!({"Acks": -1, "TimeoutMs": 5000, "TopicData": topics}),
    )?;
    pair.case("produce: to an internal topic");
    let ready = |v: &Value| v["Coordinators"][0]["ErrorCode"] == 0;
    pair.until(
        "FindCoordinator",
        4,
        &json!({"CoordinatorKeys": ["g"]}),
        ready,
    )?;
    let topics = json!([{"Name": "__consumer_offsets", "PartitionData": data}]);
    pair.ask(
        "Produce",
        9,
        &json!({"Acks": 1, "TimeoutMs": 5000, "TopicData": topics}),
    )
}

fn wrong(pair: &mut Pair) -> Result<()> {
    let batch = |change: fn(&mut Batch)| {
        let mut batch = Batch::of(2);
        change(&mut batch);
        batch.hex()
    };
    let good = Batch::of(1).hex();
    let whole = Batch::of(2).hex();
    let cut = whole.get(..whole.len() - 10).context("cut")?.to_owned();
    for (name, records) in [
        ("checksum", batch(|b| b.crc_error = 1)),
        ("format 0", old_message(0)),
        ("format 1", old_message(1)),
        // Where a batch has its attributes, with zstd's bits.
        ("format 1, such a time", old_message_at(1, 0x1a2_0400_0000)),
        ("format 3", batch(|b| b.magic = 3)),
        ("two batches", format!("{good}{good}")),
        ("control", batch(|b| b.attributes = 0x20)),
        (
            "transactional without producer",
            batch(|b| b.attributes = 0x10),
        ),
        ("append time bit", batch(|b| b.attributes = 8)),
        ("unknown compression", batch(|b| b.attributes = 5)),
        ("compression that is none", batch(|b| b.attributes = 2)),
        ("zstd", batch(|b| b.attributes = 4)),
        ("gzip", batch(|b| b.attributes = 1)),
        ("no records", batch(|b| b.records.clear())),
        ("more records than there are", batch(|b| b.count_error = 1)),
        (
            "fewer records than there are",
            batch(|b| b.count_error = -1),
        ),
        (
            "far future",
            batch(|b| b.times = (i64::MAX / 2, i64::MAX / 2)),
        ),
        ("negative time", batch(|b| b.times = (-5, -5))),
        ("no time", batch(|b| b.times = (-1, -1))),
        (
            "a later maximum",
            batch(|b| b.times = (batch::time(), batch::time() + 5)),
        ),
        ("cut", cut),
        ("empty", String::new()),
        ("few bytes", "00112233".to_owned()),
        ("sequence without epoch", batch(|b| b.producer = (5, -1, 0))),
        ("epoch without sequence", batch(|b| b.producer = (5, 0, -1))),
        ("sequence without id", batch(|b| b.producer = (-1, 0, 0))),
    ] {
        pair.case(&format!("produce wrong: {name}"));
        send(pair, "produce", &records)?;
    }
    // Null records are not compared: Kafka fails inside and never answers.
    pair.case("produce wrong: what was stored");
    fetched(pair, "produce", 0)
}

/// What the partition holds, compared byte by byte.
fn fetched(pair: &mut Pair, topic: &str, offset: i64) -> Result<()> {
    let id = format!("${topic}");
    let parts = json!([{"Partition": 0, "FetchOffset": offset, "PartitionMaxBytes": 1 << 20}]);
    let topics = json!([{"Topic": topic, "TopicId": id, "Partitions": parts}]);
    let request = json!({"MaxWaitMs": 100, "MinBytes": 1, "Topics": topics});
    pair.all("Fetch", &request)
}

fn configured(pair: &mut Pair) -> Result<()> {
    for (topic, key, value) in [
        ("compacted", "cleanup.policy", "compact"),
        ("small", "max.message.bytes", "200"),
        ("append-time", "message.timestamp.type", "LogAppendTime"),
        ("before", "message.timestamp.before.max.ms", "1000"),
        ("uncompressed", "compression.type", "uncompressed"),
        ("gzipped", "compression.type", "gzip"),
    ] {
        pair.topic(topic, 1, &[(key, value)])?;
        for (name, records) in [
            ("plain", Batch::of(2)),
            ("keys", Batch::of(2).key("k")),
            ("gzip", Batch::of(2).key("k").attributes(1)),
            ("large", Batch::large(300).key("k")),
            ("large gzip", Batch::large(300).key("k").attributes(1)),
        ] {
            pair.case(&format!("produce to {topic}: {name}"));
            send(pair, topic, &records.hex())?;
        }
        if topic != "append-time" && topic != "gzipped" {
            pair.case(&format!("stored in {topic}"));
            fetched(pair, topic, 0)?;
        }
    }
    pair.case("produce: too large for the broker");
    send(pair, "produce", &Batch::large(1_100_000).hex())
}

fn sequences(pair: &mut Pair) -> Result<()> {
    pair.topic("sequences", 1, &[])?;
    pair.case("producer id");
    let ask = json!({"TransactionalId": null, "TransactionTimeoutMs": 60_000});
    pair.until("InitProducerId", 4, &ask, |v| v["ErrorCode"] == 0)?;
    pair.all("InitProducerId", &ask)?;
    pair.case("producer id: another epoch");
    pair.top("InitProducerId", &ask)?;
    pair.keep("producer", "/ProducerId")?;
    let again = |id: Value, epoch: i32| {
        json!({"TransactionalId": null, "TransactionTimeoutMs": 60_000, "ProducerId": id,
            "ProducerEpoch": epoch})
    };
    pair.top("InitProducerId", &again(json!("$producer"), 0))?;
    pair.top("InitProducerId", &again(json!("$producer"), -1))?;
    pair.top("InitProducerId", &again(json!(-1), 5))?;
    pair.top("InitProducerId", &again(json!(4_000_000), 3))?;
    pair.case("producer id: wrong names");
    let wrong = json!({"TransactionalId": "", "TransactionTimeoutMs": 60_000});
    pair.all("InitProducerId", &wrong)?;
    let of =
        |epoch: i16, sequence: i32, n: usize| Batch::of(n).from(1_000_000, epoch, sequence).hex();
    for (name, records) in [
        ("unknown producer, late start", of(0, 5, 1)),
        ("first", of(0, 0, 2)),
        ("again", of(0, 0, 2)),
        ("next", of(0, 2, 2)),
        ("the first again", of(0, 0, 2)),
        ("gap", of(0, 9, 1)),
        ("overlap", of(0, 3, 2)),
        ("new epoch, late start", of(1, 5, 1)),
        ("new epoch", of(1, 0, 1)),
        ("old epoch", of(0, 4, 1)),
        ("fills", of(1, 1, 1)),
        ("fills", of(1, 2, 1)),
        ("fills", of(1, 3, 1)),
        ("fills", of(1, 4, 1)),
        ("fills", of(1, 5, 1)),
        ("a duplicate in the cache", of(1, 2, 1)),
        ("a duplicate beyond the cache", of(1, 0, 1)),
        ("wrapped", of(1, i32::MAX, 1)),
    ] {
        pair.case(&format!("sequences: {name}"));
        pair.ask("Produce", 9, &to("sequences", 0, -1, &json!(records)))?;
    }
    pair.case("sequences: in all versions");
    send(pair, "sequences", &of(0, 0, 2))?;
    pair.case("producers");
    let topics = json!([{"Name": "sequences", "PartitionIndexes": [0, 9]},
        {"Name": "nobody", "PartitionIndexes": [0]}]);
    pair.top("DescribeProducers", &json!({"Topics": topics}))
}
