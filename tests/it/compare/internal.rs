//! The internal topics, byte for byte: the same operations on Apache Kafka and on Flumen, both logs
//! dumped by Kafka's own tool with its decoders, and the records compared in their order, with
//! their sizes. What each broker makes up itself (times, ids of members and topics) is taken out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use flumen_it::{Broker, tool, wait};
use serde_json::{Value, json};

use super::pair::Pair;

/// Both brokers' settings.
const PROPERTIES: &[(&str, &str)] = &[
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "4"),
    ("group.consumer.assignment.interval.ms", "0"),
];

/// Groups whose records are compared.
const GROUPS: &[&str] = &[
    "commits",
    "classic",
    "static",
    "consumers",
    "deleted",
    "sent",
];

#[test]
fn internal_topics_equal_those_of_kafka() -> Result<()> {
    let mut pair = Pair::start(PROPERTIES)?;
    pair.case("internal");
    pair.topic("inner", 4, &[])?;
    ready(&mut pair)?;
    commits(&mut pair)?;
    classic(&mut pair)?;
    consumers(&mut pair)?;
    same_records(&mut pair, "__consumer_offsets", "--offsets-decoder", 25)?;
    if pair.versions("EndTxn").is_ok() {
        transactions(&mut pair)?;
        let decoder = "--transaction-log-decoder";
        same_records(&mut pair, "__transaction_state", decoder, 10)?;
        same_records(&mut pair, "__consumer_offsets", "--offsets-decoder", 28)?;
    } else {
        flumen_it::not_run("transactions are not served: their topic was not compared")?;
    }
    Ok(())
}

/// Waits for the coordinators of all groups.
fn ready(pair: &mut Pair) -> Result<()> {
    let found = |v: &Value| v["Coordinators"][0]["ErrorCode"] == 0;
    let keys = json!({"CoordinatorKeys": ["commits"]});
    pair.until("FindCoordinator", 4, &keys, found)?;
    let loaded = |v: &Value| v["Groups"][0]["ErrorCode"] != 14 && v["Groups"][0]["ErrorCode"] != 16;
    for group in GROUPS {
        pair.until("DescribeGroups", 4, &json!({"Groups": [group]}), loaded)?;
    }
    Ok(())
}

fn commit(group: &str, generation: i32, member: &str, partition: i32, retention: i64) -> Value {
    let part = json!({"PartitionIndex": partition, "CommittedOffset": 40 + partition,
        "CommittedLeaderEpoch": 0, "CommittedMetadata": "why"});
    json!({"GroupId": group, "GenerationIdOrMemberEpoch": generation, "MemberId": member,
        "RetentionTimeMs": retention,
        "Topics": [{"Name": "inner", "TopicId": "$inner", "Partitions": [part]}]})
}

/// Offsets in old and new versions, with and without a retention, removed one by one and with
/// their group.
fn commits(pair: &mut Pair) -> Result<()> {
    let api = "OffsetCommit";
    for (version, partition, retention) in [(2, 0, -1), (3, 1, 900_000), (8, 2, -1), (10, 3, -1)] {
        let request = commit("commits", -1, "", partition, retention);
        pair.ask(api, version, &request)?;
    }
    let topics = json!([{"Name": "inner", "Partitions": [{"PartitionIndex": 1}]}]);
    let request = json!({"GroupId": "commits", "Topics": topics});
    pair.ask("OffsetDelete", 0, &request)?;
    for partition in 0..2 {
        pair.ask(api, 8, &commit("deleted", -1, "", partition, -1))?;
    }
    pair.ask("DeleteGroups", 2, &json!({"GroupsNames": ["deleted"]}))
}

/// Members of classic groups come, commit and go; one has a static name.
fn classic(pair: &mut Pair) -> Result<()> {
    for (group, instance) in [("classic", json!(null)), ("static", json!("i"))] {
        let join = |member: &str| {
            json!({"GroupId": group, "SessionTimeoutMs": 30_000, "RebalanceTimeoutMs": 40_000,
                "MemberId": member, "GroupInstanceId": instance, "ProtocolType": "consumer",
                "Protocols": [{"Name": "range", "Metadata": "00010000"}]})
        };
        pair.ask("JoinGroup", 9, &join(""))?;
        pair.keep("member", "/MemberId")?;
        if instance.is_null() {
            pair.ask("JoinGroup", 9, &join("$member"))?; // with the id that it was given
        }
        let assigned = json!([{"MemberId": "$member", "Assignment": "0708"}]);
        let sync = json!({"GroupId": group, "GenerationId": 1, "MemberId": "$member",
            "GroupInstanceId": instance, "ProtocolType": "consumer", "ProtocolName": "range",
            "Assignments": assigned});
        pair.ask("SyncGroup", 5, &sync)?;
        let mut request = commit(group, 1, "$member", 2, -1);
        request["GroupInstanceId"] = instance.clone();
        pair.ask("OffsetCommit", 8, &request)?;
        let leaving = json!([{"MemberId": "$member", "GroupInstanceId": instance}]);
        let leave = json!({"GroupId": group, "Members": leaving});
        pair.ask("LeaveGroup", 5, &leave)?;
    }
    Ok(())
}

/// Two members of the new protocol, one of them static: join, share, leave for a while, leave.
fn consumers(pair: &mut Pair) -> Result<()> {
    let api = "ConsumerGroupHeartbeat";
    let beat = |member: &str, epoch: i32, owned: &Value| {
        let instance = if member == "b" {
            json!("fixed")
        } else {
            json!(null)
        };
        let topics = if epoch == 0 {
            json!(["inner"])
        } else {
            json!(null)
        };
        let timeout = if epoch == 0 { 60_000 } else { -1 };
        json!({"GroupId": "consumers", "MemberId": member, "MemberEpoch": epoch,
            "InstanceId": instance, "RackId": null, "RebalanceTimeoutMs": timeout,
            "SubscribedTopicNames": topics, "SubscribedTopicRegex": null,
            "ServerAssignor": null, "TopicPartitions": owned})
    };
    let nothing = json!(null);
    let owns = |partitions: &[i32]| json!([{"TopicId": "$inner", "Partitions": partitions}]);
    pair.ask(api, 1, &beat("a", 0, &json!([])))?;
    pair.ask(api, 1, &beat("b", 0, &json!([])))?;
    pair.ask(api, 1, &beat("a", 2, &nothing))?;
    pair.ask(api, 1, &beat("a", 2, &owns(&[0, 1])))?;
    pair.ask(api, 1, &beat("b", 3, &nothing))?;
    pair.ask("OffsetCommit", 9, &commit("consumers", 3, "b", 2, -1))?;
    pair.ask(api, 1, &beat("b", -2, &nothing))?;
    pair.ask(api, 1, &beat("a", -1, &nothing))
}

/// Transactions of an older client: one committed with offsets, one aborted, one left open.
fn transactions(pair: &mut Pair) -> Result<()> {
    let key = json!({"CoordinatorKeys": ["inner-tx"], "KeyType": 1});
    let found = |v: &Value| v["Coordinators"][0]["ErrorCode"] == 0;
    pair.until("FindCoordinator", 4, &key, found)?;
    let init = json!({"TransactionalId": "inner-tx", "TransactionTimeoutMs": 600_000,
        "ProducerId": -1, "ProducerEpoch": -1});
    // Both must be able to answer: one that is asked twice gives another epoch.
    let idempotent = json!({"TransactionalId": null, "TransactionTimeoutMs": 60_000});
    pair.until("InitProducerId", 3, &idempotent, |v| v["ErrorCode"] == 0)?;
    let described = json!({"TransactionalIds": ["inner-tx"]});
    let unknown = |v: &Value| v["TransactionStates"][0]["ErrorCode"] == 105;
    pair.until("DescribeTransactions", 0, &described, unknown)?;
    pair.ask("InitProducerId", 3, &init)?;
    pair.keep("producer", "/ProducerId")?;
    pair.keep("epoch", "/ProducerEpoch")?;
    let complete = |state: &'static str| {
        move |v: &Value| v["TransactionStates"][0]["TransactionState"] == state
    };
    let with = |mut request: Value| {
        request["TransactionalId"] = json!("inner-tx");
        request["ProducerId"] = json!("$producer");
        request["ProducerEpoch"] = json!("$epoch");
        request
    };
    let add = json!({"V3AndBelowTransactionalId": "inner-tx", "V3AndBelowProducerId": "$producer",
        "V3AndBelowProducerEpoch": "$epoch",
        "V3AndBelowTopics": [{"Name": "inner", "Partitions": [0, 2]}]});
    for (committed, end) in [(true, "CompleteCommit"), (false, "CompleteAbort")] {
        pair.ask("AddPartitionsToTxn", 3, &add)?;
        pair.ask("AddOffsetsToTxn", 3, &with(json!({"GroupId": "sent"})))?;
        let part = json!({"PartitionIndex": 1, "CommittedOffset": 41, "CommittedLeaderEpoch": 0,
            "CommittedMetadata": "why"});
        let request = with(
            json!({"GroupId": "sent", "GenerationId": -1, "MemberId": "",
            "Topics": [{"Name": "inner", "Partitions": [part]}]}),
        );
        pair.ask("TxnOffsetCommit", 3, &request)?;
        pair.ask("EndTxn", 3, &with(json!({"Committed": committed})))?;
        pair.until("DescribeTransactions", 0, &described, complete(end))?;
    }
    pair.ask("AddPartitionsToTxn", 3, &add)
}

/// Compares the records of an internal topic, of which there are `least` at least.
fn same_records(pair: &mut Pair, topic: &str, decoder: &str, least: usize) -> Result<()> {
    let [kafka, flumen] = pair.brokers();
    // The last record's acknowledgement may come before the tool can see the file's new end.
    wait::until("equal records", std::time::Duration::from_secs(20), || {
        let (theirs, ours) = (dump(kafka, topic, decoder)?, dump(flumen, topic, decoder)?);
        let count: usize = theirs.values().map(Vec::len).sum();
        ensure!(
            count >= least,
            "{count} records of {topic}, {least} expected"
        );
        let text = differences(&theirs, &ours);
        if !text.is_empty() {
            bail!("{topic}: Kafka's and Flumen's records differ\n{text}");
        }
        println!("{topic}: {count} records, all alike");
        Ok(Some(()))
    })
}

/// Each partition's records in order, as text, without what is the broker's own.
type Records = BTreeMap<String, Vec<String>>;

fn dump(broker: &Broker, topic: &str, decoder: &str) -> Result<Records> {
    let mut all = Records::new();
    for file in broker.segment_files(topic, "log")? {
        let partition = file
            .parent()
            .and_then(|p| p.file_name())
            .unwrap_or_default();
        let partition = partition.to_string_lossy().into_owned();
        let file = file.display().to_string();
        let out = tool("kafka-dump-log", &["--files", &file, decoder])?.ok()?;
        let records = all.entry(partition).or_default();
        let lines = out.out.lines().filter(|l| l.starts_with("| offset: "));
        records.extend(lines.map(own_taken_out));
    }
    Ok(all)
}

/// A record's line without times, made-up ids, and hashes over them.
fn own_taken_out(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let word: usize = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
            .unwrap_or(rest.len());
        if word == 0 {
            text.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (token, after) = rest.split_at(word);
        text.push_str(if is_own(token, &text) { "OWN" } else { token });
        rest = after;
    }
    text
}

/// Whether a word is the broker's own; `before` is what stands before it.
fn is_own(word: &str, before: &str) -> bool {
    let digits = word.chars().all(|c| c.is_ascii_digit());
    let uuid = |w: &str| {
        let parts: Vec<usize> = w.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12] && w.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
    };
    let tail = word.len().checked_sub(36).and_then(|at| word.get(at..));
    (digits && word.len() >= 13)
        || tail.is_some_and(uuid)
        || before.ends_with("opicId\":\"")
        || before.to_ascii_lowercase().ends_with("hash\":")
        || (digits && before.ends_with("roducerId\":"))
}

/// The first difference of each partition.
fn differences(kafka: &Records, flumen: &Records) -> String {
    let mut text = String::new();
    let names: std::collections::BTreeSet<&String> = kafka.keys().chain(flumen.keys()).collect();
    for name in names {
        let empty = Vec::new();
        let (theirs, ours) = (
            kafka.get(name).unwrap_or(&empty),
            flumen.get(name).unwrap_or(&empty),
        );
        let equal = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
        if equal == theirs.len() && equal == ours.len() {
            continue;
        }
        let at = |records: &[String]| records.get(equal).cloned().unwrap_or("nothing".to_owned());
        let _ = writeln!(
            text,
            "{name}, record {equal} of {} and {}\n  Kafka:  {}\n  Flumen: {}",
            theirs.len(),
            ours.len(),
            at(theirs),
            at(ours)
        );
    }
    text
}
