//! Share groups (KIP-932): heartbeats, sessions, records handed out and acknowledged, stored
//! states, offsets.

use anyhow::Result;
use serde_json::{Value, json};

use super::batch::Batch;
use super::modern::{self, Protocol};
use super::pair::Pair;

const BEAT: &str = "ShareGroupHeartbeat";
const GROUPS: Protocol = Protocol {
    name: "shares",
    beat: (BEAT, 1),
    describe: "ShareGroupDescribe",
};

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("shared", 2, &[])?;
    coordinators(pair)?;
    refused(pair)?;
    member(pair)?;
    sessions(pair)?;
    records(pair)?;
    states(pair)?;
    offsets(pair)?;
    pair.case("shares: listed");
    pair.top("ListGroups", &json!({"TypesFilter": ["Share"]}))
}

fn coordinators(pair: &mut Pair) -> Result<()> {
    let groups = ["share-refused", "share-g", "share-off"];
    modern::coordinators(pair, "shares: coordinator", &groups)?;
    for group in groups {
        let set = json!({"Resources": [{"ResourceType": 32, "ResourceName": group, "Configs": [
            {"Name": "share.auto.offset.reset", "ConfigOperation": 0, "Value": "earliest"}]}]});
        pair.ask("IncrementalAlterConfigs", 1, &set)?;
    }
    for key in ["", "g", "g:x:0"] {
        let ask = json!({"CoordinatorKeys": [key], "KeyType": 2});
        pair.ask("FindCoordinator", 6, &ask)?;
    }
    Ok(())
}

fn beat(group: &str, member: &str, epoch: i32, topics: &Value) -> Value {
    json!({"GroupId": group, "MemberId": member, "MemberEpoch": epoch, "RackId": null,
        "SubscribedTopicNames": topics})
}

fn refused(pair: &mut Pair) -> Result<()> {
    let topics = json!(["shared"]);
    let cases = [
        ("no group", beat("", "m", 0, &topics)),
        ("no member", beat("share-refused", "", 0, &topics)),
        ("blank member", beat("share-refused", " ", 0, &topics)),
        (
            "long member",
            beat("share-refused", &"m".repeat(37), 0, &topics),
        ),
        (
            "nothing subscribed",
            beat("share-refused", "m", 0, &json!(null)),
        ),
        ("no topics", beat("share-refused", "m", 0, &json!([]))),
        ("wrong epoch", beat("share-refused", "m", -2, &topics)),
        ("unknown group", beat("share-refused", "m", 5, &topics)),
        (
            "leaves an unknown group",
            beat("share-refused", "m", -1, &json!(null)),
        ),
    ];
    GROUPS.beats(pair, cases)?;
    GROUPS.describe_what_is_not(pair, "share-refused")
}

fn member(pair: &mut Pair) -> Result<()> {
    pair.case("shares: join");
    GROUPS.ask(pair, &beat("share-g", "a", 0, &json!(["shared"])))?;
    // Without comparing: when the stored states are there is up to each.
    let has = |v: &Value| v["Assignment"]["TopicPartitions"][0]["Partitions"] == json!([0, 1]);
    let again = beat("share-g", "a", 0, &json!(["shared"]));
    pair.until(BEAT, 1, &again, has)?;
    pair.case("shares: a member");
    GROUPS.ask(pair, &beat("share-g", "a", 3, &json!(null)))?;
    GROUPS.ask(pair, &beat("share-g", "a", 3, &json!(["shared"])))?;
    GROUPS.ask(pair, &beat("share-g", "a", 9, &json!(null)))?;
    GROUPS.ask(pair, &beat("share-g", "b", 3, &json!(null)))?;
    GROUPS.describe(pair, "share-g")?;
    pair.case("shares: other protocols");
    let fetch = json!({"Groups": [{"GroupId": "share-g", "MemberId": null, "MemberEpoch": -1,
        "Topics": null}], "RequireStable": false});
    pair.ask("OffsetFetch", 9, &fetch)?;
    let consumer = json!({"GroupId": "share-g", "MemberId": "c", "MemberEpoch": 0,
        "InstanceId": null, "RackId": null, "RebalanceTimeoutMs": 60_000,
        "SubscribedTopicNames": ["shared"], "SubscribedTopicRegex": null, "ServerAssignor": null,
        "TopicPartitions": []});
    pair.ask("ConsumerGroupHeartbeat", 1, &consumer)?;
    let heartbeat = json!({"GroupId": "share-g", "GenerationId": 3, "MemberId": "a"});
    pair.ask("Heartbeat", 4, &heartbeat)
}

/// A ShareFetch; `says`: partition, first and last offset, what is said.
fn fetch(member: &str, epoch: i32, partitions: &[i32], says: &[(i32, i64, i64, i8)]) -> Value {
    let partitions = partitions.iter().map(|p| {
        let says = says.iter().filter(|s| s.0 == *p).map(|(_, first, last, kind)| {
            json!({"FirstOffset": first, "LastOffset": last, "AcknowledgeTypes": [kind]})
        });
        json!({"PartitionIndex": p, "AcknowledgementBatches": says.collect::<Vec<_>>()})
    });
    let partitions: Vec<_> = partitions.collect();
    let topics = match partitions.is_empty() {
        true => json!([]),
        false => json!([{"TopicId": "$shared", "Partitions": partitions}]),
    };
    json!({"GroupId": "share-g", "MemberId": member, "ShareSessionEpoch": epoch, "MaxWaitMs": 500,
        "MinBytes": 1, "MaxBytes": 1_000_000, "MaxRecords": 100, "BatchSize": 100,
        "ShareAcquireMode": 0, "IsRenewAck": false, "Topics": topics, "ForgottenTopicsData": []})
}

fn sessions(pair: &mut Pair) -> Result<()> {
    pair.case("shares: sessions");
    pair.all("ShareFetch", &fetch("a", 5, &[0], &[]))?;
    pair.all("ShareFetch", &fetch("a", -1, &[], &[]))?;
    pair.all("ShareFetch", &fetch("a", 0, &[0], &[(0, 0, 0, 1)]))?;
    pair.all("ShareFetch", &fetch("", 0, &[0], &[]))?;
    let no_group = json!({"GroupId": null, "MemberId": "a", "ShareSessionEpoch": 0,
        "MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 0, "MaxRecords": 0, "BatchSize": 0,
        "ShareAcquireMode": 0, "IsRenewAck": false, "Topics": [], "ForgottenTopicsData": []});
    pair.all("ShareFetch", &no_group)?;
    let acknowledge = |epoch: i32| {
        json!({"GroupId": "share-g", "MemberId": "a", "ShareSessionEpoch": epoch,
            "IsRenewAck": false, "Topics": []})
    };
    for epoch in [0, 1, -1] {
        pair.all("ShareAcknowledge", &acknowledge(epoch))?;
    }
    Ok(())
}

fn produce(pair: &mut Pair, partition: i32, count: usize) -> Result<()> {
    let records = Batch::of(count).hex();
    let partition = json!({"Index": partition, "Records": records});
    let request = json!({"TransactionalId": null, "Acks": -1, "TimeoutMs": 10_000,
        "TopicData": [{"Name": "shared", "PartitionData": [partition]}]});
    pair.ask("Produce", 9, &request)
}

fn records(pair: &mut Pair) -> Result<()> {
    pair.case("shares: produce");
    produce(pair, 0, 5)?;
    produce(pair, 0, 3)?;
    produce(pair, 1, 2)?;
    pair.case("shares: records");
    let got = |v: &Value| {
        let partitions = v["Responses"][0]["Partitions"].as_array();
        let partitions = partitions.into_iter().flatten();
        partitions
            .filter(|p| p["AcquiredRecords"] != json!([]))
            .count()
            == 1
    };
    // A long wait: what one side gave out it keeps locked, a second try would find nothing.
    let patient = |member: &str| {
        let mut request = fetch(member, 0, &[0], &[]);
        request["MaxWaitMs"] = json!(10_000);
        request
    };
    // One partition: which one comes first is up to each.
    pair.until("ShareFetch", 2, &patient("a"), got)?;
    pair.ask(
        "ShareFetch",
        2,
        &fetch("a", 1, &[0], &[(0, 0, 1, 1), (0, 2, 2, 3)]),
    )?;
    pair.ask("ShareFetch", 2, &fetch("a", 2, &[0], &[(0, 0, 1, 1)]))?;
    pair.ask("ShareFetch", 2, &fetch("a", 3, &[0], &[(0, 3, 2, 1)]))?;
    pair.ask("ShareFetch", 2, &fetch("a", 4, &[0], &[(0, 3, 3, 9)]))?;
    pair.ask("ShareFetch", 2, &fetch("a", 5, &[0], &[(0, 3, 3, 4)]))?;
    pair.ask("ShareFetch", 2, &fetch("a", 6, &[0], &[(0, 90, 91, 1)]))?;
    let says = json!([{"TopicId": "$shared", "Partitions": [
        {"PartitionIndex": 0, "AcknowledgementBatches": [
            {"FirstOffset": 3, "LastOffset": 4, "AcknowledgeTypes": [1, 3]}]},
        {"PartitionIndex": 7, "AcknowledgementBatches": [
            {"FirstOffset": 3, "LastOffset": 4, "AcknowledgeTypes": [1]}]}]}]);
    let acknowledge = json!({"GroupId": "share-g", "MemberId": "a", "ShareSessionEpoch": 7,
        "IsRenewAck": false, "Topics": says});
    pair.ask("ShareAcknowledge", 2, &acknowledge)?;
    pair.case("shares: renewed");
    let says = json!([{"TopicId": "$shared", "Partitions": [
        {"PartitionIndex": 0, "AcknowledgementBatches": [
            {"FirstOffset": 5, "LastOffset": 7, "AcknowledgeTypes": [4]}]}]}]);
    let renew = json!({"GroupId": "share-g", "MemberId": "a", "ShareSessionEpoch": 8,
        "IsRenewAck": true, "Topics": says});
    pair.ask("ShareAcknowledge", 2, &renew)?;
    pair.case("shares: the session ends");
    pair.ask("ShareFetch", 2, &fetch("a", -1, &[0], &[(0, 5, 5, 1)]))?;
    await_release(pair)?;
    pair.case("shares: delivered again");
    pair.until("ShareFetch", 2, &patient("b"), got)?;
    // What is given back is there when that has been stored, on a slow disk too.
    let mut gives_back = fetch("b", 1, &[0], &[(0, 6, 7, 2)]);
    gives_back["MaxWaitMs"] = json!(3_000);
    pair.ask("ShareFetch", 2, &gives_back)?;
    pair.ask("ShareFetch", 2, &fetch("b", -1, &[], &[]))
}

/// Until what the session held is stored as given back: Kafka gives nothing to a fetch that comes
/// before, until its wait is over, and on a busy machine not even then.
fn await_release(pair: &mut Pair) -> Result<()> {
    let given_back = |v: &Value| {
        let batches = v["Results"][0]["Partitions"][0]["StateBatches"].as_array();
        let last = |b: &Value| b["LastOffset"] == 7 && b["DeliveryState"] == 0;
        batches.into_iter().flatten().any(last)
    };
    let state = json!({"GroupId": "share-g", "Topics": [
        {"TopicId": "$shared", "Partitions": [{"Partition": 0, "LeaderEpoch": -1}]}]});
    pair.until("ReadShareGroupState", 0, &state, given_back)
}

fn states(pair: &mut Pair) -> Result<()> {
    pair.case("shares: stored states");
    let line = |extra: Value| {
        let mut partition = json!({"Partition": 0});
        for (key, value) in extra.as_object().into_iter().flatten() {
            partition[key] = value.clone();
        }
        json!({"GroupId": "share-st", "Topics": [
            {"TopicId": "$shared", "Partitions": [partition]}]})
    };
    let none = || line(json!({"LeaderEpoch": -1}));
    pair.all("ReadShareGroupState", &none())?;
    pair.all("ReadShareGroupStateSummary", &none())?;
    let first = line(json!({"StateEpoch": 3, "StartOffset": 10}));
    pair.all("InitializeShareGroupState", &first)?;
    pair.all("ReadShareGroupState", &none())?;
    let older = line(json!({"StateEpoch": 2, "StartOffset": 10}));
    pair.all("InitializeShareGroupState", &older)?;
    let batches = json!([
        {"FirstOffset": 11, "LastOffset": 14, "DeliveryState": 0, "DeliveryCount": 1},
        {"FirstOffset": 13, "LastOffset": 20, "DeliveryState": 2, "DeliveryCount": 1}]);
    for epoch in [3, 2] {
        let write = line(
            json!({"LeaderEpoch": -1, "StateEpoch": epoch, "StartOffset": 11,
            "DeliveryCompleteCount": 8, "StateBatches": batches}),
        );
        pair.all("WriteShareGroupState", &write)?;
        pair.all("ReadShareGroupState", &none())?;
        pair.all("ReadShareGroupStateSummary", &none())?;
    }
    pair.all("ReadShareGroupState", &line(json!({"LeaderEpoch": 4})))?;
    pair.all("ReadShareGroupState", &line(json!({"LeaderEpoch": 3})))?;
    pair.all(
        "ReadShareGroupState",
        &line(json!({"Partition": -1, "LeaderEpoch": -1})),
    )?;
    pair.all(
        "ReadShareGroupState",
        &line(json!({"Partition": 9, "LeaderEpoch": -1})),
    )?;
    for _ in 0..2 {
        pair.all("DeleteShareGroupState", &line(json!({})))?;
    }
    pair.all("ReadShareGroupState", &none())
}

fn offsets(pair: &mut Pair) -> Result<()> {
    pair.case("shares: offsets");
    let topic = json!({"TopicName": "shared", "Partitions": [0, 1]});
    let other = json!({"TopicName": "nowhere", "Partitions": [0]});
    for topics in [json!(null), json!([topic, other]), json!([])] {
        let ask = json!({"Groups": [{"GroupId": "share-g", "Topics": topics}]});
        pair.all("DescribeShareGroupOffsets", &ask)?;
    }
    let alter = |group: &str| {
        json!({"GroupId": group, "Topics": [
            {"TopicName": "shared", "Partitions": [{"PartitionIndex": 0, "StartOffset": 2},
                {"PartitionIndex": 9, "StartOffset": 2}]},
            {"TopicName": "nowhere", "Partitions": [{"PartitionIndex": 0, "StartOffset": 2}]}]})
    };
    pair.all("AlterShareGroupOffsets", &alter("share-g"))?;
    let delete = |group: &str| {
        let topics = json!([{"TopicName": "shared"}, {"TopicName": "nowhere"}]);
        json!({"GroupId": group, "Topics": topics})
    };
    pair.all("DeleteShareGroupOffsets", &delete("share-g"))?;
    pair.all("DeleteShareGroupOffsets", &delete("share-nobody"))?;
    pair.case("shares: offsets of a new group");
    pair.all("AlterShareGroupOffsets", &alter("share-off"))?;
    let ask = json!({"Groups": [{"GroupId": "share-off", "Topics": null}]});
    let there = |v: &Value| v["Groups"][0]["Topics"] != json!([]);
    pair.until("DescribeShareGroupOffsets", 1, &ask, there)?;
    pair.all("DescribeShareGroupOffsets", &ask)?;
    pair.all("DeleteShareGroupOffsets", &delete("share-off"))?;
    pair.all("DescribeShareGroupOffsets", &ask)?;
    pair.case("shares: deleted");
    pair.top(
        "DeleteGroups",
        &json!({"GroupsNames": ["share-g", "share-off"]}),
    )?;
    GROUPS.ask(pair, &beat("share-g", "a", -1, &json!(null)))?;
    pair.top("DeleteGroups", &json!({"GroupsNames": ["share-g"]}))?;
    GROUPS.describe(pair, "share-g")
}
