//! Transactions: their coordinator, what gets into a log and what a reader sees of it.

use anyhow::Result;
use serde_json::{Value, json};

use super::pair::Pair;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("txns", 2, &[])?;
    coordinators(pair)?;
    producers(pair)?;
    older_clients(pair)?;
    newer_clients(pair)?;
    offsets(pair)?;
    markers(pair)?;
    lists(pair)
}

fn coordinators(pair: &mut Pair) -> Result<()> {
    let ready = |v: &Value| v["Coordinators"][0]["ErrorCode"] == 0;
    pair.case("txns: coordinator");
    for (key, kind) in [("a", 1), ("txn-group", 0)] {
        let ask = json!({"CoordinatorKeys": [key], "KeyType": kind});
        pair.until("FindCoordinator", 4, &ask, ready)?;
    }
    for version in [1, 3] {
        let ask = json!({"Key": "a", "KeyType": 1});
        pair.ask("FindCoordinator", version, &ask)?;
    }
    let ask = json!({"CoordinatorKeys": ["a", "", "b"], "KeyType": 1});
    pair.ask("FindCoordinator", 5, &ask)
}

fn init(id: &str, timeout: i32, producer: &Value, epoch: &Value) -> Value {
    json!({"TransactionalId": id, "TransactionTimeoutMs": timeout, "ProducerId": producer,
        "ProducerEpoch": epoch})
}

/// A producer of this name, kept as `name` and `name-epoch`.
fn begin(pair: &mut Pair, id: &str) -> Result<()> {
    let ask = init(id, 60_000, &json!(-1), &json!(-1));
    pair.until("InitProducerId", 5, &ask, |v| v["ErrorCode"] == 0)?;
    pair.keep(id, "/ProducerId")?;
    pair.keep(&format!("{id}-epoch"), "/ProducerEpoch")
}

fn producers(pair: &mut Pair) -> Result<()> {
    pair.case("txns: producer");
    let ids = ["a", "b", "old", "new", "off"];
    let known = |v: &Value| {
        let states = v["TransactionStates"].as_array().into_iter().flatten();
        states.clone().count() == ids.len() && states.clone().all(|s| s["ErrorCode"] == 105)
    };
    let idempotent = json!({"TransactionalId": null, "TransactionTimeoutMs": 60_000});
    pair.until("InitProducerId", 4, &idempotent, |v| v["ErrorCode"] == 0)?;
    let ask = json!({"TransactionalIds": ids});
    pair.until("DescribeTransactions", 0, &ask, known)?;
    let ask = init("a", 60_000, &json!(-1), &json!(-1));
    for version in 0..=5 {
        pair.ask("InitProducerId", version, &ask)?;
    }
    pair.keep("a", "/ProducerId")?;
    pair.keep("a-epoch", "/ProducerEpoch")?;
    pair.case("txns: producer that goes on");
    let on = init("a", 60_000, &json!("$a"), &json!("$a-epoch"));
    pair.ask("InitProducerId", 5, &on)?;
    pair.ask("InitProducerId", 3, &on)?;
    pair.case("txns: producer of another time");
    for version in 3..=5 {
        let old = init("a", 60_000, &json!("$a"), &json!(0));
        pair.ask("InitProducerId", version, &old)?;
        let other = init("a", 60_000, &json!(4_000_000), &json!(0));
        pair.ask("InitProducerId", version, &other)?;
    }
    pair.case("txns: wrong producers");
    for (id, timeout, producer, epoch) in [
        ("", 60_000, -1, -1),
        ("a", 0, -1, -1),
        ("a", -5, -1, -1),
        ("a", 900_000, -1, 3),
        ("a", 900_000, 3, -1),
        ("a", 900_001, -1, -1),
    ] {
        let ask = init(id, timeout, &json!(producer), &json!(epoch));
        pair.ask("InitProducerId", 4, &ask)?;
    }
    Ok(())
}

fn add(id: &str, epoch: &Value, topics: &Value) -> Value {
    json!({"V3AndBelowTransactionalId": id, "V3AndBelowProducerId": format!("${id}"),
        "V3AndBelowProducerEpoch": epoch, "V3AndBelowTopics": topics})
}

fn end(id: &str, epoch: &Value, commit: bool) -> Value {
    json!({"TransactionalId": id, "ProducerId": format!("${id}"), "ProducerEpoch": epoch,
        "Committed": commit})
}

/// Until nothing of the transaction is on its way any more.
fn settled(pair: &mut Pair, id: &str) -> Result<()> {
    let ask = json!({"TransactionalIds": [id]});
    pair.until("DescribeTransactions", 0, &ask, |v| {
        let state = v["TransactionStates"][0]["TransactionState"].as_str();
        state.is_some_and(|s| !s.starts_with("Prepare"))
    })?;
    pair.ask("DescribeTransactions", 0, &ask)
}

fn produce(pair: &mut Pair, version: i16, id: &str, sequence: i32) -> Result<()> {
    let records = format!("%{id}:{sequence}");
    let request = json!({"TransactionalId": id, "Acks": -1, "TimeoutMs": 5000, "TopicData": [
        {"Name": "txns", "TopicId": "$txns",
        "PartitionData": [{"Index": 0, "Records": records}]}]});
    pair.ask("Produce", version, &request)
}

/// What readers of each kind see.
fn seen(pair: &mut Pair) -> Result<()> {
    for level in [0, 1] {
        let partition = json!({"PartitionIndex": 0, "Timestamp": -1});
        let topics = json!([{"Name": "txns", "Partitions": [partition]}]);
        let ask = json!({"ReplicaId": -1, "IsolationLevel": level, "Topics": topics});
        pair.ask("ListOffsets", 6, &ask)?;
        let parts = json!([{"Partition": 0, "FetchOffset": 2, "PartitionMaxBytes": 1 << 20}]);
        let topics = json!([{"Topic": "txns", "TopicId": "$txns", "Partitions": parts}]);
        let request = json!({"MaxWaitMs": 100, "MinBytes": 1, "IsolationLevel": level,
            "Topics": topics});
        for version in [4, 11, 13] {
            pair.ask("Fetch", version, &request)?;
        }
    }
    Ok(())
}

/// Clients that add partitions themselves and keep their epoch.
fn older_clients(pair: &mut Pair) -> Result<()> {
    begin(pair, "old")?;
    let topics = json!([{"Name": "txns", "Partitions": [0]}]);
    let epoch = json!("$old-epoch");
    pair.case("txns: not added");
    for version in [9, 10, 11] {
        produce(pair, version, "old", 0)?;
    }
    pair.case("txns: nothing to end");
    for version in 0..=4 {
        pair.ask("EndTxn", version, &end("old", &epoch, true))?;
        pair.ask("EndTxn", version, &end("old", &epoch, false))?;
        pair.ask("EndTxn", version, &end("old", &json!(77), true))?;
    }
    pair.ask("EndTxn", 4, &end("a", &json!(0), true))?;
    pair.case("txns: wrong partitions");
    for version in 0..=3 {
        pair.ask(
            "AddPartitionsToTxn",
            version,
            &add("old", &json!(77), &topics),
        )?;
        let some = json!([{"Name": "txns", "Partitions": [0, 9]},
            {"Name": "nobody", "Partitions": [0]}]);
        pair.ask("AddPartitionsToTxn", version, &add("old", &epoch, &some))?;
    }
    for round in 0..4 {
        pair.case("txns: added");
        let version = round;
        pair.ask("AddPartitionsToTxn", version, &add("old", &epoch, &topics))?;
        pair.ask("AddPartitionsToTxn", version, &add("old", &epoch, &topics))?;
        settled(pair, "old")?;
        pair.case("txns: produced");
        produce(pair, 10, "old", i32::from(round) * 2)?;
        produce(pair, 11, "old", i32::from(round) * 2 + 1)?;
        pair.case("txns: open");
        seen(pair)?;
        pair.case("txns: ended");
        let commit = round % 2 == 0;
        pair.ask("EndTxn", version, &end("old", &epoch, commit))?;
        settled(pair, "old")?;
        pair.ask("EndTxn", version, &end("old", &epoch, commit))?;
        pair.ask("EndTxn", version, &end("old", &epoch, !commit))?;
        pair.case("txns: decided");
        seen(pair)?;
    }
    Ok(())
}

/// Clients whose partitions add themselves, with an epoch for each transaction.
fn newer_clients(pair: &mut Pair) -> Result<()> {
    begin(pair, "new")?;
    let epoch = json!("$new-epoch");
    pair.case("txns: empty ends");
    pair.ask("EndTxn", 5, &end("new", &epoch, true))?;
    pair.ask("EndTxn", 5, &end("new", &json!(77), true))?;
    pair.ask("EndTxn", 5, &end("new", &epoch, false))?;
    pair.keep("new-epoch", "/ProducerEpoch")?;
    settled(pair, "new")?;
    for round in 0..4 {
        let commit = round % 2 == 0;
        pair.case("txns: adds itself");
        produce(pair, 12, "new", 0)?;
        produce(pair, 13, "new", 1)?;
        pair.case("txns: out of order");
        produce(pair, 12, "new", 9)?;
        let ask = json!({"TransactionalIds": ["new", "", "nobody"]});
        pair.ask("DescribeTransactions", 0, &ask)?;
        pair.case("txns: producers");
        let topics = json!([{"Name": "txns", "PartitionIndexes": [0]}]);
        pair.ask("DescribeProducers", 0, &json!({"Topics": topics}))?;
        pair.case("txns: verified");
        let topics = json!([{"Name": "txns", "Partitions": [0, 1]}]);
        let one = json!({"TransactionalId": "new", "ProducerId": "$new",
            "ProducerEpoch": "$new-epoch", "VerifyOnly": true, "Topics": topics});
        let ask = json!({"Transactions": [one]});
        pair.ask("AddPartitionsToTxn", 4, &ask)?;
        pair.ask("AddPartitionsToTxn", 5, &ask)?;
        pair.case("txns: epoch grows");
        pair.ask("EndTxn", 5, &end("new", &epoch, commit))?;
        pair.keep("next", "/ProducerEpoch")?;
        settled(pair, "new")?;
        pair.case("txns: once more");
        pair.ask("EndTxn", 5, &end("new", &epoch, commit))?;
        pair.ask("EndTxn", 5, &end("new", &epoch, !commit))?;
        pair.ask("EndTxn", 5, &end("new", &json!("$next"), true))?;
        pair.case("txns: an epoch too old");
        produce(pair, 12, "new", 2)?;
        pair.ask("EndTxn", 5, &end("new", &json!("$next"), false))?;
        pair.keep("new-epoch", "/ProducerEpoch")?;
        settled(pair, "new")?;
        pair.case("txns: decided");
        seen(pair)?;
    }
    Ok(())
}

fn commit(version: i16, epoch: &Value, offset: i64) -> Value {
    let partitions = json!([
        {"PartitionIndex": 0, "CommittedOffset": offset, "CommittedMetadata": "m"},
        {"PartitionIndex": 9, "CommittedOffset": offset, "CommittedMetadata": null}]);
    let topics = json!([{"Name": "txns", "Partitions": partitions},
        {"Name": "nobody", "Partitions": partitions}]);
    let mut request = json!({"TransactionalId": "off", "GroupId": "txn-group",
        "ProducerId": "$off", "ProducerEpoch": epoch, "Topics": topics});
    if version >= 3 {
        request["GenerationId"] = json!(-1);
        request["MemberId"] = json!("");
    }
    request
}

fn fetched(pair: &mut Pair) -> Result<()> {
    for stable in [false, true] {
        let topics = json!([{"Name": "txns", "PartitionIndexes": [0, 1]}]);
        let group = json!({"GroupId": "txn-group", "Topics": topics});
        let ask = json!({"Groups": [group], "RequireStable": stable});
        pair.ask("OffsetFetch", 8, &ask)?;
        let all = json!({"Groups": [{"GroupId": "txn-group", "Topics": null}],
            "RequireStable": stable});
        pair.ask("OffsetFetch", 8, &all)?;
    }
    Ok(())
}

fn offsets(pair: &mut Pair) -> Result<()> {
    let epoch = json!("$off-epoch");
    for version in 0..=5 {
        begin(pair, "off")?;
        pair.case("txns: offsets not added");
        if version < 5 {
            pair.ask("TxnOffsetCommit", version, &commit(version, &epoch, 1))?;
            pair.case("txns: offsets added");
            let ask = |epoch: &Value| {
                json!({"TransactionalId": "off", "ProducerId": "$off", "ProducerEpoch": epoch,
                    "GroupId": "txn-group"})
            };
            pair.ask("AddOffsetsToTxn", version.min(4), &ask(&json!(77)))?;
            pair.ask("AddOffsetsToTxn", version.min(4), &ask(&epoch))?;
        }
        pair.case("txns: offsets");
        let offset = i64::from(version) + 10;
        pair.ask("TxnOffsetCommit", version, &commit(version, &epoch, offset))?;
        pair.ask(
            "TxnOffsetCommit",
            version,
            &commit(version, &json!(77), offset),
        )?;
        fetched(pair)?;
        pair.case("txns: offsets decided");
        let commit = version % 3 > 0;
        pair.ask("EndTxn", 4, &end("off", &epoch, commit))?;
        settled(pair, "off")?;
        fetched(pair)?;
    }
    Ok(())
}

fn markers(pair: &mut Pair) -> Result<()> {
    pair.case("txns: markers");
    let marker = |producer: i64, partitions: &Value| {
        json!({"ProducerId": producer, "ProducerEpoch": 0, "TransactionResult": false,
            "CoordinatorEpoch": 0, "Topics": [{"Name": "txns", "PartitionIndexes": partitions}]})
    };
    for version in [1, 2] {
        pair.ask("WriteTxnMarkers", version, &json!({"Markers": []}))?;
        let one = json!({"Markers": [marker(9_000_000, &json!([1]))]});
        pair.ask("WriteTxnMarkers", version, &one)?;
        let unknown =
            json!({"Markers": [marker(9_001_000, &json!([7])), marker(9_000_000, &json!([1, 8]))]});
        pair.ask("WriteTxnMarkers", version, &unknown)?;
    }
    pair.case("txns: markers stored");
    let parts = json!([{"Partition": 1, "FetchOffset": 0, "PartitionMaxBytes": 1 << 20}]);
    let topics = json!([{"Topic": "txns", "TopicId": "$txns", "Partitions": parts}]);
    let request = json!({"MaxWaitMs": 100, "MinBytes": 1, "IsolationLevel": 1, "Topics": topics});
    pair.ask("Fetch", 11, &request)
}

fn lists(pair: &mut Pair) -> Result<()> {
    pair.case("txns: listed");
    for (states, ids, duration, pattern) in [
        (json!([]), json!([]), -1, json!(null)),
        (json!(["Empty", "CompleteAbort"]), json!([]), -1, json!("")),
        (
            json!(["Nope", "Dead", "Ongoing"]),
            json!([]),
            -1,
            json!(null),
        ),
        (json!([]), json!(["$old"]), -1, json!(null)),
        (json!([]), json!([]), 3_600_000, json!(null)),
        (json!([]), json!([]), -1, json!("o.*")),
        (json!([]), json!([]), -1, json!("(")),
    ] {
        let ask = json!({"StateFilters": states, "ProducerIdFilters": ids,
            "DurationFilter": duration, "TransactionalIdPattern": pattern});
        pair.ask("ListTransactions", 2, &ask)?;
    }
    for version in [0, 1] {
        pair.ask(
            "ListTransactions",
            version,
            &json!({"StateFilters": ["Ongoing"]}),
        )?;
    }
    Ok(())
}
