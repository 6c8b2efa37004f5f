//! Classic groups and their offsets.

use anyhow::Result;
use serde_json::{Value, json};

use super::modern;
use super::pair::Pair;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("groups", 3, &[])?;
    coordinators(pair)?;
    life(pair)?;
    wrong_joins(pair)?;
    two_members(pair)?;
    fixed_members(pair)?;
    offsets(pair)?;
    ends(pair)
}

fn coordinators(pair: &mut Pair) -> Result<()> {
    let groups = ["g", "life-0", "life-9", "two", "fixed", "offsets"];
    modern::coordinators(pair, "coordinator", &groups)?;
    for version in [0, 1, 3] {
        pair.ask("FindCoordinator", version, &json!({"Key": "g"}))?;
        pair.ask("FindCoordinator", version, &json!({"Key": ""}))?;
    }
    for version in [4, 5, 6] {
        pair.ask(
            "FindCoordinator",
            version,
            &json!({"CoordinatorKeys": ["g", "", "h"]}),
        )?;
        pair.ask("FindCoordinator", version, &json!({"CoordinatorKeys": []}))?;
    }
    for kind in [-1, 7] {
        pair.case(&format!("coordinator of type {kind}"));
        pair.ask("FindCoordinator", 1, &json!({"Key": "g", "KeyType": kind}))?;
        pair.ask(
            "FindCoordinator",
            4,
            &json!({"CoordinatorKeys": ["g"], "KeyType": kind}),
        )?;
    }
    Ok(())
}

fn join(group: &str, member: &Value) -> Value {
    json!({"GroupId": group, "SessionTimeoutMs": 30_000, "RebalanceTimeoutMs": 30_000,
        "MemberId": member, "ProtocolType": "consumer",
        "Protocols": [{"Name": "range", "Metadata": "0001"}, {"Name": "other", "Metadata": "02"}]})
}

fn at(group: &str, generation: &Value, member: &Value) -> Value {
    json!({"GroupId": group, "GenerationId": generation, "MemberId": member})
}

fn sync(group: &str, generation: &Value, member: &Value, assigned: &[(&str, &str)]) -> Value {
    let one = |(member, bytes): &(&str, &str)| json!({"MemberId": member, "Assignment": bytes});
    let all: Vec<Value> = assigned.iter().map(one).collect();
    json!({"GroupId": group, "GenerationId": generation, "MemberId": member, "Assignments": all})
}

fn leave(group: &str, member: &Value) -> Value {
    json!({"GroupId": group, "MemberId": member, "Members": [{"MemberId": member}]})
}

/// One member from join to leave, in every version of each call.
fn life(pair: &mut Pair) -> Result<()> {
    for version in 0..=9 {
        let group = format!("life-{version}");
        let other = version.min(4);
        let described = json!({"Groups": [group]});
        pair.case("group: join");
        pair.ask("JoinGroup", version, &join(&group, &json!("")))?;
        pair.keep("member", "/MemberId")?;
        if version >= 4 {
            pair.case("group: join with the id given");
            pair.ask("JoinGroup", version, &join(&group, &json!("$member")))?;
        }
        pair.case("group: joined");
        pair.all("DescribeGroups", &described)?;
        pair.ask(
            "Heartbeat",
            other,
            &at(&group, &json!(1), &json!("$member")),
        )?;
        pair.case("group: sync");
        let assigned = [("$member", "0708")];
        pair.ask(
            "SyncGroup",
            version.min(5),
            &sync(&group, &json!(1), &json!("$member"), &assigned),
        )?;
        pair.ask(
            "SyncGroup",
            version.min(5),
            &sync(&group, &json!(1), &json!("$member"), &[]),
        )?;
        pair.case("group: stable");
        pair.all("DescribeGroups", &described)?;
        pair.case("group: heartbeat");
        pair.ask(
            "Heartbeat",
            other,
            &at(&group, &json!(1), &json!("$member")),
        )?;
        pair.ask(
            "Heartbeat",
            other,
            &at(&group, &json!(9), &json!("$member")),
        )?;
        pair.ask("Heartbeat", other, &at(&group, &json!(1), &json!("nobody")))?;
        pair.ask(
            "Heartbeat",
            other,
            &at("nobody", &json!(1), &json!("$member")),
        )?;
        pair.ask("Heartbeat", other, &at("", &json!(1), &json!("$member")))?;
        pair.case("group: sync wrong");
        let wrong =
            |generation: i32, member: &str| sync(&group, &json!(generation), &json!(member), &[]);
        pair.ask("SyncGroup", version.min(5), &wrong(9, "$member"))?;
        pair.ask("SyncGroup", version.min(5), &wrong(1, "nobody"))?;
        pair.ask(
            "SyncGroup",
            version.min(5),
            &sync("", &json!(1), &json!("$member"), &[]),
        )?;
        pair.case("group: join again");
        pair.ask("JoinGroup", version, &join(&group, &json!("$member")))?;
        pair.ask(
            "Heartbeat",
            other,
            &at(&group, &json!(2), &json!("$member")),
        )?;
        pair.case("group: leave");
        pair.ask(
            "LeaveGroup",
            version.min(5),
            &leave(&group, &json!("nobody")),
        )?;
        pair.ask(
            "LeaveGroup",
            version.min(5),
            &leave("nobody", &json!("$member")),
        )?;
        pair.ask(
            "LeaveGroup",
            version.min(5),
            &leave(&group, &json!("$member")),
        )?;
        pair.ask(
            "LeaveGroup",
            version.min(5),
            &leave(&group, &json!("$member")),
        )?;
        pair.case("group: left");
        pair.ask(
            "Heartbeat",
            other,
            &at(&group, &json!(2), &json!("$member")),
        )?;
        pair.all("DescribeGroups", &described)?;
    }
    pair.case("groups: listed");
    pair.all("ListGroups", &json!({}))?;
    pair.top("ListGroups", &json!({"StatesFilter": ["Empty"]}))?;
    pair.top(
        "ListGroups",
        &json!({"StatesFilter": ["stable"], "TypesFilter": ["classic"]}),
    )?;
    pair.top("ListGroups", &json!({"TypesFilter": ["Classic"]}))?;
    pair.top("ListGroups", &json!({"TypesFilter": ["consumer"]}))?;
    pair.top(
        "ListGroups",
        &json!({"StatesFilter": ["nothing"], "TypesFilter": ["nothing"]}),
    )
}

fn wrong_joins(pair: &mut Pair) -> Result<()> {
    let with = |key: &str, value: Value| {
        let mut request = join("wrong-{v}", &json!(""));
        request[key] = value;
        request
    };
    for (name, request) in [
        ("no group", with("GroupId", json!(""))),
        ("unknown member", with("MemberId", json!("nobody"))),
        ("short session", with("SessionTimeoutMs", json!(1))),
        ("long session", with("SessionTimeoutMs", json!(100_000_000))),
        ("no type", with("ProtocolType", json!(""))),
        ("no protocols", with("Protocols", json!([]))),
    ] {
        pair.case(&format!("group: join wrong: {name}"));
        pair.all("JoinGroup", &request)?;
    }
    pair.case("group: describe what is not");
    pair.all("DescribeGroups", &json!({"Groups": ["never", ""]}))?;
    pair.all("DescribeGroups", &json!({"Groups": []}))?;
    pair.case("group: operations");
    let request = json!({"Groups": ["life-9"], "IncludeAuthorizedOperations": true});
    pair.top("DescribeGroups", &request)
}

fn two_members(pair: &mut Pair) -> Result<()> {
    let api = "JoinGroup";
    pair.case("two members");
    pair.ask(api, 9, &join("two", &json!("")))?;
    pair.keep("one", "/MemberId")?;
    pair.ask(api, 9, &join("two", &json!("$one")))?;
    pair.ask(
        "SyncGroup",
        5,
        &sync("two", &json!(1), &json!("$one"), &[("$one", "01")]),
    )?;
    pair.send(1, api, 9, &join("two", &json!("")))?;
    pair.answer(1, api, 9)?;
    pair.keep("two", "/MemberId")?;
    pair.send(1, api, 9, &join("two", &json!("$two")))?;
    let rebalancing = |v: &Value| v["ErrorCode"] == 27;
    pair.until(
        "Heartbeat",
        4,
        &at("two", &json!(1), &json!("$one")),
        rebalancing,
    )?;
    pair.top("DescribeGroups", &json!({"Groups": ["two"]}))?;
    pair.case("two members: the first joins again");
    pair.ask(api, 9, &join("two", &json!("$one")))?;
    pair.answer(1, api, 9)?;
    pair.case("two members: sync");
    pair.send(
        1,
        "SyncGroup",
        5,
        &sync("two", &json!(2), &json!("$two"), &[]),
    )?;
    let assigned = [("$one", "0a"), ("$two", "0b")];
    pair.ask(
        "SyncGroup",
        5,
        &sync("two", &json!(2), &json!("$one"), &assigned),
    )?;
    pair.answer(1, "SyncGroup", 5)?;
    pair.top("DescribeGroups", &json!({"Groups": ["two"]}))?;
    pair.case("two members: another protocol");
    let mut other = join("two", &json!(""));
    other["Protocols"] = json!([{"Name": "third", "Metadata": ""}]);
    pair.ask(api, 9, &other)?;
    other["ProtocolType"] = json!("connect");
    pair.ask(api, 9, &other)?;
    pair.case("two members: delete while they are there");
    pair.all("DeleteGroups", &json!({"GroupsNames": ["two"]}))?;
    pair.case("two members: one leaves");
    pair.ask("LeaveGroup", 5, &leave("two", &json!("$two")))?;
    pair.ask("Heartbeat", 4, &at("two", &json!(2), &json!("$one")))?;
    pair.ask(api, 9, &join("two", &json!("$one")))
}

fn fixed_members(pair: &mut Pair) -> Result<()> {
    let fixed = |member: &str, instance: &str| {
        let mut request = join("fixed", &json!(member));
        request["GroupInstanceId"] = json!(instance);
        request
    };
    pair.case("static member: join");
    pair.ask("JoinGroup", 9, &fixed("", "i"))?;
    pair.keep("old", "/MemberId")?;
    pair.ask(
        "SyncGroup",
        5,
        &sync("fixed", &json!(1), &json!("$old"), &[("$old", "01")]),
    )?;
    pair.top("DescribeGroups", &json!({"Groups": ["fixed"]}))?;
    pair.case("static member: joins again");
    pair.ask("JoinGroup", 9, &fixed("", "i"))?;
    pair.keep("new", "/MemberId")?;
    pair.top("DescribeGroups", &json!({"Groups": ["fixed"]}))?;
    pair.case("static member: the old id is fenced");
    let beat = |member: &str, instance: &str| {
        json!({"GroupId": "fixed", "GenerationId": 1, "MemberId": member,
            "GroupInstanceId": instance})
    };
    pair.ask("Heartbeat", 4, &beat("$old", "i"))?;
    pair.ask("Heartbeat", 4, &beat("$new", "i"))?;
    pair.ask("Heartbeat", 4, &beat("$new", "nobody"))?;
    pair.ask("JoinGroup", 9, &fixed("$old", "i"))?;
    pair.ask("JoinGroup", 9, &fixed("nobody", "j"))?;
    pair.case("static member: sync");
    pair.ask(
        "SyncGroup",
        5,
        &sync("fixed", &json!(1), &json!("$new"), &[]),
    )?;
    pair.case("static member: removed by its instance");
    let remove = |member: &str, instance: &str| {
        let one = json!({"MemberId": member, "GroupInstanceId": instance, "Reason": "test"});
        json!({"GroupId": "fixed", "Members": [one]})
    };
    pair.ask("LeaveGroup", 5, &remove("$old", "i"))?;
    pair.ask("LeaveGroup", 5, &remove("", "nobody"))?;
    pair.ask("LeaveGroup", 5, &remove("", "i"))?;
    pair.top("DescribeGroups", &json!({"Groups": ["fixed"]}))
}

fn commit(group: &str, generation: i32, member: &str, topic: &str, index: i32) -> Value {
    let part = json!({"PartitionIndex": index, "CommittedOffset": 5 + index,
        "CommittedLeaderEpoch": 0, "CommittedMetadata": "m"});
    let id = if topic == "groups" {
        "$groups"
    } else {
        "00112233445566778899aabbccddeeff"
    };
    json!({"GroupId": group, "GenerationIdOrMemberEpoch": generation, "MemberId": member,
        "Topics": [{"Name": topic, "TopicId": id, "Partitions": [part]}]})
}

fn fetched(group: &str, indexes: &Value) -> Value {
    let topics = if indexes.is_null() {
        json!(null)
    } else {
        json!([{"Name": "groups", "PartitionIndexes": indexes}])
    };
    let mut with_ids = topics.clone();
    if let Some(topic) = with_ids.get_mut(0) {
        topic["TopicId"] = json!("$groups");
    }
    json!({"GroupId": group, "Topics": topics, "Groups": [{"GroupId": group, "Topics": with_ids}]})
}

fn offsets(pair: &mut Pair) -> Result<()> {
    let api = "OffsetCommit";
    pair.case("offsets: none yet");
    pair.all("OffsetFetch", &fetched("offsets", &json!([0, 1, 9])))?;
    pair.ask("OffsetFetch", 2, &fetched("offsets", &json!(null)))?;
    pair.case("offsets: commit");
    for (version, index) in [(2, 0), (6, 1), (9, 2), (10, 0)] {
        pair.ask(api, version, &commit("offsets", -1, "", "groups", index))?;
    }
    pair.case("offsets: committed");
    pair.all("OffsetFetch", &fetched("offsets", &json!([0, 1, 2, 9])))?;
    for version in [2, 7, 8, 9, 10] {
        pair.ask("OffsetFetch", version, &fetched("offsets", &json!(null)))?;
        pair.ask("OffsetFetch", version, &fetched("offsets", &json!([])))?;
    }
    let mut stable = fetched("offsets", &json!([0]));
    stable["RequireStable"] = json!(true);
    pair.top("OffsetFetch", &stable)?;
    for (name, request) in [
        ("unknown partition", commit("offsets", -1, "", "groups", 9)),
        ("unknown topic", commit("offsets", -1, "", "nobody", 0)),
        (
            "unknown member",
            commit("offsets", 1, "nobody", "groups", 0),
        ),
        (
            "no generation",
            commit("offsets", -1, "nobody", "groups", 0),
        ),
        (
            "unknown group with a generation",
            commit("other-{v}", 3, "nobody", "groups", 0),
        ),
        ("no group", commit("", -1, "", "groups", 0)),
        ("wrong generation", commit("two", 1, "$one", "groups", 0)),
        (
            "a group with members, from outside",
            commit("two", -1, "", "groups", 0),
        ),
    ] {
        pair.case(&format!("offsets: commit: {name}"));
        pair.all(api, &request)?;
    }
    pair.case("offsets: commit: long metadata");
    let mut request = commit("offsets", -1, "", "groups", 0);
    request["Topics"][0]["Partitions"][0]["CommittedMetadata"] = json!("m".repeat(5000));
    pair.all(api, &request)?;
    request["Topics"][0]["Partitions"][0]["CommittedMetadata"] = json!(null);
    pair.all(api, &request)?;
    request["Topics"][0]["Partitions"][0]["CommittedOffset"] = json!(-5);
    pair.all(api, &request)?;
    pair.case("offsets: fetch");
    pair.all("OffsetFetch", &fetched("offsets", &json!([0])))?;
    pair.all("OffsetFetch", &fetched("never", &json!([0])))?;
    pair.all("OffsetFetch", &fetched("", &json!([0])))?;
    pair.case("offsets: fetch as a member");
    let group = json!({"GroupId": "two", "MemberId": "nobody", "MemberEpoch": 5, "Topics": null});
    pair.top("OffsetFetch", &json!({"Groups": [group]}))?;
    pair.case("offsets: fetch unknown topics");
    let unknown = json!([{"Name": "nobody", "TopicId": "00112233445566778899aabbccddeeff",
        "PartitionIndexes": [0]}]);
    let group = json!({"GroupId": "offsets", "Topics": unknown});
    pair.ask("OffsetFetch", 9, &json!({"Groups": [group]}))?;
    pair.ask("OffsetFetch", 10, &json!({"Groups": [group]}))
}

fn ends(pair: &mut Pair) -> Result<()> {
    let delete = |group: &str, topic: &str, indexes: &[i32]| {
        let parts: Vec<Value> = indexes
            .iter()
            .map(|n| json!({"PartitionIndex": n}))
            .collect();
        json!({"GroupId": group, "Topics": [{"Name": topic, "Partitions": parts}]})
    };
    for (name, request) in [
        ("two", delete("offsets", "groups", &[1, 9])),
        ("again", delete("offsets", "groups", &[1])),
        ("unknown topic", delete("offsets", "nobody", &[0])),
        ("unknown group", delete("never", "groups", &[0])),
        ("no group", delete("", "groups", &[0])),
        ("group with members", delete("two", "groups", &[0])),
        ("nothing", delete("offsets", "groups", &[])),
    ] {
        pair.case(&format!("offsets: delete: {name}"));
        pair.top("OffsetDelete", &request)?;
    }
    pair.case("offsets: left");
    pair.top("OffsetFetch", &fetched("offsets", &json!(null)))?;
    pair.case("groups: delete");
    pair.ask(
        "DeleteGroups",
        0,
        &json!({"GroupsNames": ["offsets", "never", ""]}),
    )?;
    pair.ask("DeleteGroups", 1, &json!({"GroupsNames": ["offsets"]}))?;
    pair.ask(
        "DeleteGroups",
        2,
        &json!({"GroupsNames": ["life-9", "life-9", "two"]}),
    )?;
    pair.ask("DeleteGroups", 2, &json!({"GroupsNames": []}))?;
    pair.top("DescribeGroups", &json!({"Groups": ["offsets"]}))?;
    pair.top("OffsetFetch", &fetched("offsets", &json!(null)))?;
    pair.case("groups: listed at the end");
    pair.top("ListGroups", &json!({}))
}
