//! Consumer groups (KIP-848), members of both protocols in one group, groups that change their
//! kind.

use anyhow::Result;
use serde_json::{Value, json};

use super::pair::Pair;

const BEAT: &str = "ConsumerGroupHeartbeat";

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("consumed", 4, &[])?;
    coordinators(pair)?;
    refused(pair)?;
    two_members(pair)?;
    offsets(pair)?;
    static_members(pair)?;
    expressions(pair)?;
    mixed(pair)?;
    upgraded(pair)?;
    converted(pair)?;
    pair.case("consumers: listed");
    pair.top("ListGroups", &json!({"TypesFilter": ["Consumer"]}))?;
    pair.top(
        "ListGroups",
        &json!({"StatesFilter": ["reconciling", "STABLE"]}),
    )
}

/// Waits for both sides' coordinators of all groups.
fn coordinators(pair: &mut Pair) -> Result<()> {
    let groups = [
        "refused",
        "unknown",
        "two-c",
        "offsets-c",
        "static-c",
        "regex-c",
        "mixed",
        "up",
        "convert",
    ];
    pair.case("consumers: coordinator");
    let ready = |v: &Value| v["Coordinators"][0]["ErrorCode"] == 0;
    let keys = json!({"CoordinatorKeys": ["g"]});
    pair.until("FindCoordinator", 4, &keys, ready)?;
    let loaded = |v: &Value| v["Groups"][0]["ErrorCode"] != 14 && v["Groups"][0]["ErrorCode"] != 16;
    for group in groups {
        pair.until("DescribeGroups", 4, &json!({"Groups": [group]}), loaded)?;
    }
    Ok(())
}

fn join(group: &str, member: &str) -> Value {
    json!({"GroupId": group, "MemberId": member, "MemberEpoch": 0, "InstanceId": null,
        "RackId": null, "RebalanceTimeoutMs": 60_000, "SubscribedTopicNames": ["consumed"],
        "SubscribedTopicRegex": null, "ServerAssignor": null, "TopicPartitions": []})
}

fn with(mut request: Value, key: &str, value: Value) -> Value {
    request[key] = value;
    request
}

fn beat(group: &str, member: &str, epoch: i32) -> Value {
    json!({"GroupId": group, "MemberId": member, "MemberEpoch": epoch, "InstanceId": null,
        "RackId": null, "RebalanceTimeoutMs": -1, "SubscribedTopicNames": null,
        "SubscribedTopicRegex": null, "ServerAssignor": null, "TopicPartitions": null})
}

fn owning(group: &str, member: &str, epoch: i32, partitions: &[i32]) -> Value {
    let owned = json!([{"TopicId": "$consumed", "Partitions": partitions}]);
    with(beat(group, member, epoch), "TopicPartitions", owned)
}

fn describe(pair: &mut Pair, group: &str) -> Result<()> {
    let request = json!({"GroupIds": [group], "IncludeAuthorizedOperations": true});
    pair.all("ConsumerGroupDescribe", &request)?;
    pair.top("DescribeGroups", &json!({"Groups": [group]}))
}

fn refused(pair: &mut Pair) -> Result<()> {
    let good = || join("refused", "m");
    for (name, request) in [
        ("no group", with(good(), "GroupId", json!(""))),
        ("no member", with(good(), "MemberId", json!(""))),
        ("blank instance", with(good(), "InstanceId", json!(" "))),
        ("no rack", with(good(), "RackId", json!(""))),
        ("no timeout", with(good(), "RebalanceTimeoutMs", json!(-1))),
        (
            "partitions not said",
            with(good(), "TopicPartitions", json!(null)),
        ),
        (
            "nothing subscribed",
            with(good(), "SubscribedTopicNames", json!(null)),
        ),
        ("wrong epoch", with(good(), "MemberEpoch", json!(-3))),
        (
            "leaves without instance",
            with(good(), "MemberEpoch", json!(-2)),
        ),
        ("assignor", with(good(), "ServerAssignor", json!("sticky"))),
        ("unknown group", with(good(), "MemberEpoch", json!(5))),
        (
            "leaves an unknown group",
            with(good(), "MemberEpoch", json!(-1)),
        ),
    ] {
        pair.case(&format!("consumers: {name}"));
        pair.ask(BEAT, 1, &request)?;
    }
    pair.case("consumers: describe what is not");
    let request = json!({"GroupIds": ["refused", "", "groups"]});
    pair.all("ConsumerGroupDescribe", &request)
}

fn two_members(pair: &mut Pair) -> Result<()> {
    pair.case("consumers: join");
    pair.ask(BEAT, 1, &join("two-c", "a"))?;
    describe(pair, "two-c")?;
    pair.ask(BEAT, 1, &beat("two-c", "a", 2))?;
    pair.ask(BEAT, 1, &with(join("two-c", "a"), "MemberEpoch", json!(2)))?;
    pair.case("consumers: a second");
    pair.ask(BEAT, 1, &join("two-c", "b"))?;
    describe(pair, "two-c")?;
    pair.case("consumers: the first gives up");
    pair.ask(BEAT, 1, &beat("two-c", "a", 2))?;
    pair.ask(BEAT, 1, &owning("two-c", "a", 2, &[0, 1, 2, 3]))?;
    describe(pair, "two-c")?;
    pair.ask(BEAT, 1, &beat("two-c", "b", 3))?;
    pair.ask(BEAT, 1, &owning("two-c", "a", 2, &[0, 1]))?;
    pair.ask(BEAT, 1, &beat("two-c", "b", 3))?;
    describe(pair, "two-c")?;
    pair.case("consumers: epochs");
    for (epoch, owned) in [
        (2, vec![0, 1]),
        (2, vec![0, 1, 2]),
        (1, vec![]),
        (4, vec![0, 1]),
    ] {
        pair.ask(BEAT, 1, &owning("two-c", "a", epoch, &owned))?;
    }
    pair.ask(BEAT, 1, &beat("two-c", "nobody", 3))?;
    pair.case("consumers: the assignor is chosen");
    let range = with(beat("two-c", "a", 3), "ServerAssignor", json!("range"));
    pair.ask(BEAT, 1, &range)?;
    describe(pair, "two-c")?;
    pair.case("consumers: subscribes to nothing");
    let nothing = with(beat("two-c", "a", 3), "SubscribedTopicNames", json!([]));
    pair.ask(BEAT, 1, &nothing)?;
    describe(pair, "two-c")?;
    let mut none = owning("two-c", "a", 3, &[]);
    none["TopicPartitions"] = json!([]);
    pair.ask(BEAT, 1, &none)?;
    pair.ask(BEAT, 1, &beat("two-c", "b", 3))?;
    describe(pair, "two-c")?;
    pair.case("consumers: leave");
    pair.ask(BEAT, 1, &beat("two-c", "a", -1))?;
    pair.ask(BEAT, 1, &beat("two-c", "a", -1))?;
    pair.ask(BEAT, 1, &beat("two-c", "b", 4))?;
    describe(pair, "two-c")?;
    pair.case("consumers: delete while one is there");
    pair.top("DeleteGroups", &json!({"GroupsNames": ["two-c"]}))?;
    pair.ask(BEAT, 1, &beat("two-c", "b", -1))?;
    describe(pair, "two-c")?;
    pair.case("consumers: delete");
    pair.top("DeleteGroups", &json!({"GroupsNames": ["two-c"]}))?;
    describe(pair, "two-c")
}

fn commit(epoch: i32, member: &str, index: i32) -> Value {
    let part = json!({"PartitionIndex": index, "CommittedOffset": 5, "CommittedLeaderEpoch": 0,
        "CommittedMetadata": "m"});
    json!({"GroupId": "offsets-c", "GenerationIdOrMemberEpoch": epoch, "MemberId": member,
        "Topics": [{"Name": "consumed", "TopicId": "$consumed", "Partitions": [part]}]})
}

fn offsets(pair: &mut Pair) -> Result<()> {
    pair.case("consumers: offsets: join");
    pair.ask(BEAT, 1, &join("offsets-c", "a"))?;
    for (name, version, request) in [
        ("as a member", 9, commit(2, "a", 0)),
        ("as a member, by id", 10, commit(2, "a", 1)),
        ("in an old version", 8, commit(2, "a", 0)),
        ("in an old epoch", 9, commit(1, "a", 0)),
        ("in a later epoch", 9, commit(3, "a", 0)),
        ("as nobody", 9, commit(2, "nobody", 0)),
        ("from outside", 9, commit(-1, "", 0)),
    ] {
        pair.case(&format!("consumers: commit {name}"));
        pair.ask("OffsetCommit", version, &request)?;
    }
    for (member, epoch) in [
        (json!(null), -1),
        (json!("a"), 2),
        (json!("a"), 1),
        (json!("b"), 2),
    ] {
        pair.case(&format!("consumers: fetch as {member} in {epoch}"));
        for stable in [false, true] {
            let group = json!({"GroupId": "offsets-c", "MemberId": member, "MemberEpoch": epoch,
                "Topics": [{"Name": "consumed", "TopicId": "$consumed",
                    "PartitionIndexes": [0, 1, 2]}]});
            let request = json!({"Groups": [group], "RequireStable": stable});
            pair.ask("OffsetFetch", 9, &request)?;
            pair.ask("OffsetFetch", 10, &request)?;
        }
    }
    pair.case("consumers: delete offsets");
    let parts = json!([{"PartitionIndex": 0}]);
    let request = json!({"GroupId": "offsets-c", "Topics": [{"Name": "consumed",
        "Partitions": parts}]});
    pair.top("OffsetDelete", &request)?;
    pair.ask(BEAT, 1, &beat("offsets-c", "a", -1))?;
    pair.top("OffsetDelete", &request)?;
    pair.case("consumers: commit to an empty group");
    pair.ask("OffsetCommit", 9, &commit(-1, "", 0))?;
    pair.ask("OffsetCommit", 9, &commit(2, "a", 0))
}

fn static_members(pair: &mut Pair) -> Result<()> {
    let fixed = |request: Value| with(request, "InstanceId", json!("i"));
    for (name, request) in [
        ("join", join("static-c", "a")),
        ("another wants the place", join("static-c", "b")),
        ("another heartbeats", beat("static-c", "b", 2)),
        ("leaves for a while", beat("static-c", "a", -2)),
        ("heartbeats while away", beat("static-c", "a", 2)),
        ("another comes back", join("static-c", "b")),
        ("the first is fenced", beat("static-c", "a", 2)),
        ("goes on", beat("static-c", "b", 2)),
        ("another leaves", beat("static-c", "a", -1)),
        ("leaves for good", beat("static-c", "b", -1)),
        ("leaves again", beat("static-c", "b", -1)),
    ] {
        pair.case(&format!("static consumer: {name}"));
        pair.ask(BEAT, 1, &fixed(request))?;
        describe(pair, "static-c")?;
    }
    Ok(())
}

fn expressions(pair: &mut Pair) -> Result<()> {
    let by = |request: Value, regex: &str| {
        let request = with(request, "SubscribedTopicNames", json!(null));
        with(request, "SubscribedTopicRegex", json!(regex))
    };
    pair.case("expression: join");
    pair.ask(BEAT, 1, &by(join("regex-c", "a"), "consu.*"))?;
    // Kafka matches topics in the background.
    let ready = |v: &Value| v["Groups"][0]["GroupEpoch"] == 2;
    let described = json!({"GroupIds": ["regex-c"]});
    pair.until("ConsumerGroupDescribe", 1, &described, ready)?;
    pair.ask(BEAT, 1, &beat("regex-c", "a", 1))?;
    describe(pair, "regex-c")?;
    pair.case("expression: to names");
    let names = with(
        by(beat("regex-c", "a", 2), ""),
        "SubscribedTopicNames",
        json!(["consumed"]),
    );
    pair.ask(BEAT, 1, &names)?;
    describe(pair, "regex-c")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The topic with these partitions, as an array of one.
fn partitions(indexes: &[i32]) -> String {
    let name = "consumed";
    let all: String = indexes.iter().map(|p| format!("{p:08x}")).collect();
    let (len, count) = (name.len(), indexes.len());
    format!("00000001{len:04x}{}{count:08x}{all}", hex(name.as_bytes()))
}

/// What a classic consumer says: version 1, the topic, no data, what it has.
fn subscription(owned: &[i32]) -> String {
    let topics = format!("00000001{:04x}{}", "consumed".len(), hex(b"consumed"));
    let owned = match owned {
        [] => "00000000".to_owned(),
        some => partitions(some),
    };
    format!("0001{topics}ffffffff{owned}")
}

fn classic(group: &str, member: &str, owned: &[i32]) -> Value {
    json!({"GroupId": group, "SessionTimeoutMs": 30_000, "RebalanceTimeoutMs": 30_000,
        "MemberId": member, "ProtocolType": "consumer",
        "Protocols": [{"Name": "range", "Metadata": subscription(owned)}]})
}

fn sync(group: &str, generation: i32, member: &str) -> Value {
    json!({"GroupId": group, "GenerationId": generation, "MemberId": member,
        "ProtocolType": "consumer", "ProtocolName": "range", "Assignments": []})
}

fn at(group: &str, generation: i32, member: &str) -> Value {
    json!({"GroupId": group, "GenerationId": generation, "MemberId": member})
}

/// A classic member in a consumer group; in the end the only one.
fn mixed(pair: &mut Pair) -> Result<()> {
    pair.case("mixed: a consumer, then a classic member");
    pair.ask(BEAT, 1, &join("mixed", "a"))?;
    pair.ask("JoinGroup", 9, &classic("mixed", "", &[]))?;
    pair.keep("classic", "/MemberId")?;
    pair.ask("JoinGroup", 9, &classic("mixed", "$classic", &[]))?;
    describe(pair, "mixed")?;
    pair.ask("SyncGroup", 5, &sync("mixed", 3, "$classic"))?;
    pair.ask("Heartbeat", 4, &at("mixed", 3, "$classic"))?;
    pair.case("mixed: wrong requests");
    pair.ask("SyncGroup", 5, &sync("mixed", 2, "$classic"))?;
    pair.ask("SyncGroup", 5, &sync("mixed", 3, "a"))?;
    pair.ask("SyncGroup", 5, &sync("mixed", 3, "nobody"))?;
    let other = with(sync("mixed", 3, "$classic"), "ProtocolName", json!("other"));
    pair.ask("SyncGroup", 5, &other)?;
    pair.ask("Heartbeat", 4, &at("mixed", 2, "$classic"))?;
    pair.ask("Heartbeat", 4, &at("mixed", 2, "a"))?;
    let mut other = classic("mixed", "", &[]);
    other["Protocols"] = json!([{"Name": "third", "Metadata": subscription(&[])}]);
    pair.ask("JoinGroup", 9, &other)?;
    other["ProtocolType"] = json!("connect");
    pair.ask("JoinGroup", 9, &other)?;
    pair.case("mixed: the consumer gives up");
    pair.ask(BEAT, 1, &beat("mixed", "a", 2))?;
    pair.ask(BEAT, 1, &owning("mixed", "a", 2, &[0, 1]))?;
    pair.ask("Heartbeat", 4, &at("mixed", 3, "$classic"))?;
    pair.ask("JoinGroup", 9, &classic("mixed", "$classic", &[]))?;
    pair.ask("SyncGroup", 5, &sync("mixed", 3, "$classic"))?;
    describe(pair, "mixed")?;
    pair.case("mixed: down to a classic group");
    pair.ask(BEAT, 1, &beat("mixed", "a", -1))?;
    pair.ask("Heartbeat", 4, &at("mixed", 3, "$classic"))?;
    describe(pair, "mixed")?;
    pair.ask("JoinGroup", 9, &classic("mixed", "$classic", &[2, 3]))?;
    pair.case("mixed: leave");
    let one = json!({"MemberId": "$classic"});
    pair.ask(
        "LeaveGroup",
        5,
        &json!({"GroupId": "mixed", "Members": [one]}),
    )?;
    describe(pair, "mixed")
}

/// A consumer takes a classic group with it.
fn upgraded(pair: &mut Pair) -> Result<()> {
    pair.case("upgrade: the classic group");
    pair.ask("JoinGroup", 3, &classic("up", "", &[]))?;
    pair.keep("up", "/MemberId")?;
    let mut assigned = sync("up", 1, "$up");
    let bytes = format!("0001{}ffffffff", partitions(&[0, 1, 2, 3]));
    assigned["Assignments"] = json!([{"MemberId": "$up", "Assignment": bytes}]);
    pair.ask("SyncGroup", 5, &assigned)?;
    pair.case("upgrade: a consumer joins");
    pair.ask(BEAT, 1, &join("up", "c"))?;
    describe(pair, "up")?;
    pair.ask("Heartbeat", 4, &at("up", 1, "$up"))?;
    pair.ask("JoinGroup", 3, &classic("up", "$up", &[0, 1, 2, 3]))?;
    pair.ask("SyncGroup", 5, &sync("up", 1, "$up"))?;
    pair.ask("Heartbeat", 4, &at("up", 1, "$up"))?;
    describe(pair, "up")?;
    pair.ask("JoinGroup", 3, &classic("up", "$up", &[0, 1]))?;
    pair.ask("SyncGroup", 5, &sync("up", 2, "$up"))?;
    pair.ask("Heartbeat", 4, &at("up", 2, "$up"))?;
    pair.ask(BEAT, 1, &beat("up", "c", 2))?;
    describe(pair, "up")?;
    pair.case("upgrade: members are removed");
    let members = json!([{"MemberId": "$up"}, {"MemberId": "nobody"}, {"MemberId": "c"}]);
    pair.ask(
        "LeaveGroup",
        5,
        &json!({"GroupId": "up", "Members": members}),
    )?;
    describe(pair, "up")
}

/// Empty groups change their kind with the first request.
fn converted(pair: &mut Pair) -> Result<()> {
    pair.case("convert: empty consumer group");
    pair.ask(BEAT, 1, &join("convert", "a"))?;
    pair.ask(BEAT, 1, &beat("convert", "a", -1))?;
    pair.ask("JoinGroup", 3, &classic("convert", "", &[]))?;
    pair.keep("convert", "/MemberId")?;
    describe(pair, "convert")?;
    let one = json!({"MemberId": "$convert"});
    pair.ask(
        "LeaveGroup",
        5,
        &json!({"GroupId": "convert", "Members": [one]}),
    )?;
    pair.case("convert: empty classic group");
    pair.ask(BEAT, 1, &join("convert", "b"))?;
    describe(pair, "convert")?;
    pair.ask(BEAT, 1, &beat("convert", "b", -1))
}
