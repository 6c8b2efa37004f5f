//! Streams groups (KIP-1071): topologies, internal topics, tasks, groups that change their kind.

use anyhow::Result;
use serde_json::{Value, json};

use super::modern::{self, Assigned, Protocol, with};
use super::pair::Pair;

const BEAT: &str = "StreamsGroupHeartbeat";
const GROUPS: Protocol = Protocol {
    name: "streams",
    beat: (BEAT, 0),
    describe: "StreamsGroupDescribe",
};
const MEMBERS: Assigned = Assigned {
    protocol: GROUPS,
    topic: "streamed",
    beat,
    join,
    owning,
};

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("streamed", 4, &[])?;
    pair.topic("narrow", 2, &[])?;
    modern::coordinators(
        pair,
        "streams: coordinator",
        &[
            "refused-s",
            "unknown-s",
            "topology-s",
            "two-s",
            "internal-s",
            "standby-s",
            "endpoint-s",
            "offsets-s",
            "shutdown-s",
            "convert-s",
        ],
    )?;
    refused(pair)?;
    topologies(pair)?;
    two_members(pair)?;
    internal_topics(pair)?;
    standbys(pair)?;
    endpoints(pair)?;
    MEMBERS.offsets(pair, "offsets-s")?;
    shutdown(pair)?;
    converted(pair)?;
    pair.case("streams: listed");
    pair.top("ListGroups", &json!({"TypesFilter": ["Streams"]}))?;
    pair.top(
        "ListGroups",
        &json!({"StatesFilter": ["NotReady", "STABLE"]}),
    )
}

fn reads(id: &str, topics: &[&str]) -> Value {
    json!({"SubtopologyId": id, "SourceTopics": topics, "SourceTopicRegex": [],
        "StateChangelogTopics": [], "RepartitionSinkTopics": [], "RepartitionSourceTopics": [],
        "CopartitionGroups": []})
}

fn internal(name: &str, partitions: i32) -> Value {
    json!({"Name": name, "Partitions": partitions, "ReplicationFactor": 0, "TopicConfigs": []})
}

fn join_with(group: &str, member: &str, subtopologies: &[Value]) -> Value {
    json!({"GroupId": group, "MemberId": member, "MemberEpoch": 0, "EndpointInformationEpoch": 0,
        "InstanceId": null, "RackId": null, "RebalanceTimeoutMs": 60_000,
        "Topology": {"Epoch": 0, "Subtopologies": subtopologies},
        "ActiveTasks": [], "StandbyTasks": [], "WarmupTasks": [],
        "ProcessId": format!("process of {member}"), "UserEndpoint": null, "ClientTags": [],
        "TaskOffsets": null, "TaskEndOffsets": null, "ShutdownApplication": false})
}

fn join(group: &str, member: &str) -> Value {
    join_with(group, member, &[reads("0", &["streamed"])])
}

fn beat(group: &str, member: &str, epoch: i32) -> Value {
    json!({"GroupId": group, "MemberId": member, "MemberEpoch": epoch,
        "EndpointInformationEpoch": 0, "InstanceId": null, "RackId": null,
        "RebalanceTimeoutMs": -1, "Topology": null, "ActiveTasks": null, "StandbyTasks": null,
        "WarmupTasks": null, "ProcessId": null, "UserEndpoint": null, "ClientTags": null,
        "TaskOffsets": null, "TaskEndOffsets": null, "ShutdownApplication": false})
}

fn owning(group: &str, member: &str, epoch: i32, active: &[i32]) -> Value {
    let tasks = match active {
        [] => json!([]),
        some => json!([{"SubtopologyId": "0", "Partitions": some}]),
    };
    let request = with(beat(group, member, epoch), "ActiveTasks", tasks);
    let request = with(request, "StandbyTasks", json!([]));
    with(request, "WarmupTasks", json!([]))
}

fn describe(pair: &mut Pair, group: &str) -> Result<()> {
    GROUPS.describe(pair, group)
}

fn refused(pair: &mut Pair) -> Result<()> {
    let good = || join("refused-s", "m");
    let sized = {
        let mut subtopology = reads("0", &["streamed"]);
        subtopology["StateChangelogTopics"] = json!([internal("sized", 3)]);
        join_with("refused-s", "m", &[subtopology])
    };
    let expression = {
        let mut subtopology = reads("0", &["streamed"]);
        subtopology["SourceTopicRegex"] = json!(["s.*"]);
        join_with("refused-s", "m", &[subtopology])
    };
    let own = join_with("refused-s", "m", &[reads("0", &["__consumer_offsets"])]);
    let unnamed = join_with("refused-s", "m", &[reads("0", &["no/name", "no name"])]);
    let some = with(beat("refused-s", "m", 1), "ActiveTasks", json!([]));
    let cases = [
        ("no group", with(good(), "GroupId", json!(""))),
        ("no member", with(good(), "MemberId", json!(""))),
        ("an instance", with(good(), "InstanceId", json!("i"))),
        ("no rack", with(good(), "RackId", json!(""))),
        ("no timeout", with(good(), "RebalanceTimeoutMs", json!(-1))),
        ("no topology", with(good(), "Topology", json!(null))),
        ("tasks not said", with(good(), "ActiveTasks", json!(null))),
        ("offsets", with(good(), "TaskOffsets", json!([]))),
        ("end offsets", with(good(), "TaskEndOffsets", json!([]))),
        ("wrong epoch", with(good(), "MemberEpoch", json!(-3))),
        ("topology later", with(good(), "MemberEpoch", json!(1))),
        ("leaves for a while", beat("refused-s", "m", -2)),
        ("unknown group", beat("unknown-s", "m", 5)),
        ("leaves an unknown group", beat("unknown-s", "m", -1)),
        ("sized changelog", sized),
        ("expression", expression),
        ("the broker's topic", own),
        ("no names", unnamed),
        ("some tasks said", some),
    ];
    GROUPS.beats(pair, cases)?;
    GROUPS.describe_what_is_not(pair, "refused-s")
}

fn topologies(pair: &mut Pair) -> Result<()> {
    let group = "topology-s";
    let mut looped = reads("0", &[]);
    looped["RepartitionSinkTopics"] = json!(["looped"]);
    looped["RepartitionSourceTopics"] = json!([internal("looped", 0)]);
    let mut unfed = reads("0", &["streamed"]);
    unfed["RepartitionSourceTopics"] = json!([internal("unfed", 0)]);
    for (name, subtopologies) in [
        ("looped", vec![looped]),
        ("unfed", vec![unfed]),
        ("idle", vec![reads("0", &[])]),
    ] {
        pair.case(&format!("topology: {name}"));
        GROUPS.ask(pair, &join_with(group, "m", &subtopologies))?;
    }
    pair.case("topology: joined topics differ");
    let mut both = reads("0", &["streamed", "narrow"]);
    both["CopartitionGroups"] = json!([{"SourceTopics": [0, 1], "SourceTopicRegex": [],
        "RepartitionSourceTopics": []}]);
    GROUPS.ask(pair, &join_with(group, "m", &[both]))?;
    describe(pair, group)?;
    pair.case("topology: another");
    GROUPS.ask(pair, &join(group, "n"))?;
    GROUPS.ask(pair, &beat(group, "m", -1))?;
    describe(pair, group)?;
    pair.top("DeleteGroups", &json!({"GroupsNames": [group]}))?;
    pair.case("topology: a source is missing");
    // One topic only: a coordinator may hear of two that are made in a row one by one.
    let missing = [reads("0", &["streamed", "gone"]), reads("1", &["narrow"])];
    GROUPS.ask(pair, &join_with(group, "m", &missing))?;
    describe(pair, group)?;
    GROUPS.ask(pair, &beat(group, "m", 2))?;
    pair.topic("gone", 3, &[])?;
    pair.case("topology: the sources are there");
    let ready = |v: &Value| v["MemberEpoch"] != 2;
    pair.until(BEAT, 0, &beat(group, "m", 2), ready)?;
    describe(pair, group)
}

fn two_members(pair: &mut Pair) -> Result<()> {
    pair.case("streams: join");
    GROUPS.ask(pair, &join("two-s", "a"))?;
    describe(pair, "two-s")?;
    GROUPS.ask(pair, &beat("two-s", "a", 2))?;
    GROUPS.ask(pair, &join("two-s", "a"))?;
    let wrong: [(i32, &[i32]); 5] = [
        (2, &[0, 1]),
        (2, &[0, 1, 2]),
        (1, &[]),
        (4, &[0, 1]),
        (3, &[9]),
    ];
    MEMBERS.second_member(pair, "two-s", &wrong)?;
    MEMBERS.both_leave(pair, "two-s", 3)
}

fn internal_topics(pair: &mut Pair) -> Result<()> {
    let group = "internal-s";
    pair.case("internal topics: asked for");
    let mut subtopology = reads("0", &["streamed"]);
    subtopology["StateChangelogTopics"] = json!([{"Name": "internal-changelog", "Partitions": 0,
        "ReplicationFactor": 1, "TopicConfigs": [{"Key": "cleanup.policy", "Value": "compact"}]}]);
    GROUPS.ask(pair, &join_with(group, "m", &[subtopology]))?;
    pair.case("internal topics: there");
    let ready = |v: &Value| v["MemberEpoch"] != 2;
    pair.until(BEAT, 0, &beat(group, "m", 2), ready)?;
    describe(pair, group)?;
    let topics = json!([{"Name": "internal-changelog", "TopicId": null}]);
    pair.ask("Metadata", 9, &json!({"Topics": topics}))?;
    let keys = json!([{"ResourceType": 2, "ResourceName": "internal-changelog",
        "ConfigurationKeys": ["cleanup.policy"]}]);
    pair.ask("DescribeConfigs", 4, &json!({"Resources": keys}))?;
    pair.case("internal topics: one that does not fit");
    let mut wide = reads("0", &["streamed"]);
    wide["StateChangelogTopics"] = json!([internal("narrow", 0)]);
    GROUPS.ask(pair, &join_with("unknown-s", "m", &[wide]))?;
    GROUPS.ask(pair, &beat("unknown-s", "m", -1))
}

fn standbys(pair: &mut Pair) -> Result<()> {
    let group = "standby-s";
    pair.case("standbys: set");
    let set = |key: &str, value: &str| json!({"Name": key, "ConfigOperation": 0, "Value": value});
    let configs = json!([
        set("streams.num.standby.replicas", "1"),
        set("streams.heartbeat.interval.ms", "6000")
    ]);
    let request = json!({"Resources": [{"ResourceType": 32, "ResourceName": group,
        "Configs": configs}], "ValidateOnly": false});
    pair.ask("IncrementalAlterConfigs", 1, &request)?;
    pair.topic("standby-changelog", 4, &[])?;
    let mut subtopology = reads("0", &["streamed"]);
    subtopology["StateChangelogTopics"] = json!([internal("standby-changelog", 0)]);
    let all = [subtopology];
    // The coordinator of Kafka hears of a topic later than its log does.
    let seen = |v: &Value| v["Status"] == json!([]);
    pair.until(BEAT, 0, &join_with("probe-s", "p", &all), seen)?;
    GROUPS.ask(pair, &beat("probe-s", "p", -1))?;
    pair.case("standbys: one process");
    GROUPS.ask(pair, &join_with(group, "a", &all))?;
    pair.case("standbys: two processes");
    GROUPS.ask(pair, &join_with(group, "b", &all))?;
    describe(pair, group)?;
    GROUPS.ask(pair, &beat(group, "a", 2))?;
    GROUPS.ask(pair, &owning(group, "a", 2, &[0, 1]))?;
    GROUPS.ask(pair, &beat(group, "b", 3))?;
    describe(pair, group)
}

fn endpoints(pair: &mut Pair) -> Result<()> {
    let group = "endpoint-s";
    let at = |member: &str| {
        let endpoint = json!({"Host": member, "Port": 80});
        with(join(group, member), "UserEndpoint", endpoint)
    };
    pair.case("endpoints: first");
    GROUPS.ask(pair, &at("a"))?;
    pair.case("endpoints: second");
    GROUPS.ask(pair, &at("b"))?;
    for epoch in [0, 1, 2] {
        let request = with(
            beat(group, "b", 3),
            "EndpointInformationEpoch",
            json!(epoch),
        );
        GROUPS.ask(pair, &request)?;
    }
    describe(pair, group)
}

fn shutdown(pair: &mut Pair) -> Result<()> {
    let group = "shutdown-s";
    pair.case("streams: shutdown");
    GROUPS.ask(pair, &join(group, "a"))?;
    GROUPS.ask(pair, &join(group, "b"))?;
    let last = with(beat(group, "a", -1), "ShutdownApplication", json!(true));
    GROUPS.ask(pair, &last)?;
    GROUPS.ask(pair, &beat(group, "b", 3))?;
    GROUPS.ask(pair, &beat(group, "b", -1))?;
    GROUPS.ask(pair, &join(group, "c"))
}

fn converted(pair: &mut Pair) -> Result<()> {
    let group = "convert-s";
    pair.case("streams: other protocols");
    GROUPS.ask(pair, &join(group, "a"))?;
    let consumer = json!({"GroupId": group, "MemberId": "c", "MemberEpoch": 0,
        "InstanceId": null, "RackId": null, "RebalanceTimeoutMs": 60_000,
        "SubscribedTopicNames": ["streamed"], "SubscribedTopicRegex": null,
        "ServerAssignor": null, "TopicPartitions": []});
    pair.ask("ConsumerGroupHeartbeat", 1, &consumer)?;
    let classic = json!({"GroupId": group, "SessionTimeoutMs": 10_000,
        "RebalanceTimeoutMs": 10_000, "MemberId": "", "ProtocolType": "consumer",
        "Protocols": [{"Name": "range", "Metadata": ""}]});
    pair.ask("JoinGroup", 9, &classic)?;
    let heartbeat = json!({"GroupId": group, "GenerationId": 2, "MemberId": "a"});
    pair.ask("Heartbeat", 4, &heartbeat)?;
    GROUPS.ask(pair, &beat(group, "a", -1))?;
    pair.case("streams: an empty group as consumers");
    pair.ask("ConsumerGroupHeartbeat", 1, &consumer)?;
    pair.case("streams: an empty group as classic");
    pair.ask("JoinGroup", 9, &classic)?;
    // Kafka tells the member its id before the record that converts the group is written.
    let request = json!({"GroupIds": [group], "IncludeAuthorizedOperations": false});
    let written = |v: &Value| v["Groups"][0]["ErrorCode"] != 0;
    pair.until("StreamsGroupDescribe", 0, &request, written)?;
    describe(pair, group)?;
    pair.case("streams: and back");
    GROUPS.ask(pair, &join(group, "a"))?;
    describe(pair, group)
}
