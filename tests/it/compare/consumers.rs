//! Consumer groups (KIP-848), members of both protocols in one group, groups that change their
//! kind.

use anyhow::Result;
use serde_json::{Value, json};

use super::modern::{self, Assigned, Protocol, with};
use super::pair::Pair;

const BEAT: &str = "ConsumerGroupHeartbeat";
const GROUPS: Protocol = Protocol {
    name: "consumers",
    beat: (BEAT, 1),
    describe: "ConsumerGroupDescribe",
};
const MEMBERS: Assigned = Assigned {
    protocol: GROUPS,
    topic: "consumed",
    beat,
    join,
    owning,
};

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("consumed", 4, &[])?;
    modern::coordinators(
        pair,
        "consumers: coordinator",
        &[
            "refused",
            "unknown",
            "two-c",
            "offsets-c",
            "static-c",
            "regex-c",
            "mixed",
            "up",
            "convert",
        ],
    )?;
    refused(pair)?;
    two_members(pair)?;
    MEMBERS.offsets(pair, "offsets-c")?;
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

fn join(group: &str, member: &str) -> Value {
    json!({"GroupId": group, "MemberId": member, "MemberEpoch": 0, "InstanceId": null,
        "RackId": null, "RebalanceTimeoutMs": 60_000, "SubscribedTopicNames": ["consumed"],
        "SubscribedTopicRegex": null, "ServerAssignor": null, "TopicPartitions": []})
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
    GROUPS.describe(pair, group)
}

fn refused(pair: &mut Pair) -> Result<()> {
    let good = || join("refused", "m");
    let cases = [
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
    ];
    GROUPS.beats(pair, cases)?;
    GROUPS.describe_what_is_not(pair, "refused")
}

fn two_members(pair: &mut Pair) -> Result<()> {
    pair.case("consumers: join");
    GROUPS.ask(pair, &join("two-c", "a"))?;
    describe(pair, "two-c")?;
    GROUPS.ask(pair, &beat("two-c", "a", 2))?;
    GROUPS.ask(pair, &with(join("two-c", "a"), "MemberEpoch", json!(2)))?;
    let wrong: [(i32, &[i32]); 4] = [(2, &[0, 1]), (2, &[0, 1, 2]), (1, &[]), (4, &[0, 1])];
    MEMBERS.second_member(pair, "two-c", &wrong)?;
    pair.case("consumers: the assignor is chosen");
    let range = with(beat("two-c", "a", 3), "ServerAssignor", json!("range"));
    GROUPS.ask(pair, &range)?;
    describe(pair, "two-c")?;
    pair.case("consumers: subscribes to nothing");
    let nothing = with(beat("two-c", "a", 3), "SubscribedTopicNames", json!([]));
    GROUPS.ask(pair, &nothing)?;
    describe(pair, "two-c")?;
    let mut none = owning("two-c", "a", 3, &[]);
    none["TopicPartitions"] = json!([]);
    GROUPS.ask(pair, &none)?;
    GROUPS.ask(pair, &beat("two-c", "b", 3))?;
    describe(pair, "two-c")?;
    MEMBERS.both_leave(pair, "two-c", 4)
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
        GROUPS.ask(pair, &fixed(request))?;
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
    GROUPS.ask(pair, &by(join("regex-c", "a"), "consu.*"))?;
    // Kafka matches topics in the background.
    let ready = |v: &Value| v["Groups"][0]["GroupEpoch"] == 2;
    let described = json!({"GroupIds": ["regex-c"]});
    pair.until("ConsumerGroupDescribe", 1, &described, ready)?;
    GROUPS.ask(pair, &beat("regex-c", "a", 1))?;
    describe(pair, "regex-c")?;
    pair.case("expression: to names");
    let names = with(
        by(beat("regex-c", "a", 2), ""),
        "SubscribedTopicNames",
        json!(["consumed"]),
    );
    GROUPS.ask(pair, &names)?;
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
    GROUPS.ask(pair, &join("mixed", "a"))?;
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
    GROUPS.ask(pair, &beat("mixed", "a", 2))?;
    GROUPS.ask(pair, &owning("mixed", "a", 2, &[0, 1]))?;
    pair.ask("Heartbeat", 4, &at("mixed", 3, "$classic"))?;
    pair.ask("JoinGroup", 9, &classic("mixed", "$classic", &[]))?;
    pair.ask("SyncGroup", 5, &sync("mixed", 3, "$classic"))?;
    describe(pair, "mixed")?;
    pair.case("mixed: down to a classic group");
    GROUPS.ask(pair, &beat("mixed", "a", -1))?;
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
    GROUPS.ask(pair, &join("up", "c"))?;
    describe(pair, "up")?;
    pair.ask("Heartbeat", 4, &at("up", 1, "$up"))?;
    pair.ask("JoinGroup", 3, &classic("up", "$up", &[0, 1, 2, 3]))?;
    pair.ask("SyncGroup", 5, &sync("up", 1, "$up"))?;
    pair.ask("Heartbeat", 4, &at("up", 1, "$up"))?;
    describe(pair, "up")?;
    pair.ask("JoinGroup", 3, &classic("up", "$up", &[0, 1]))?;
    pair.ask("SyncGroup", 5, &sync("up", 2, "$up"))?;
    pair.ask("Heartbeat", 4, &at("up", 2, "$up"))?;
    GROUPS.ask(pair, &beat("up", "c", 2))?;
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
    GROUPS.ask(pair, &join("convert", "a"))?;
    GROUPS.ask(pair, &beat("convert", "a", -1))?;
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
    GROUPS.ask(pair, &join("convert", "b"))?;
    describe(pair, "convert")?;
    GROUPS.ask(pair, &beat("convert", "b", -1))
}
