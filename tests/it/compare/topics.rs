//! Topics: created, grown, deleted.

use anyhow::Result;
use serde_json::{Value, json};

use super::pair::Pair;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    create(pair)?;
    grow(pair)?;
    delete(pair)
}

fn request(topics: &Value, validate: bool) -> Value {
    json!({"Topics": topics, "timeoutMs": 20_000, "validateOnly": validate})
}

fn create(pair: &mut Pair) -> Result<()> {
    let api = "CreateTopics";
    let topic = |name: &str, n: i32, replicas: i32, configs: Value| {
        let mut topic = json!({"Name": name, "NumPartitions": n, "ReplicationFactor": replicas});
        topic["Configs"] = configs;
        json!([topic])
    };
    let config = |name: &str, value: Value| json!([{"Name": name, "Value": value}]);
    let none = || json!([]);
    let long = "x".repeat(250);
    let cases = [
        ("valid", topic("new-{v}", 2, 1, none())),
        ("exists", topic("new-{v}", 2, 1, none())),
        ("default numbers", topic("defaults-{v}", -1, -1, none())),
        ("collides", topic("a.b-{v}", 1, 1, none())),
        ("collides", topic("a_b-{v}", 1, 1, none())),
        ("name: empty", topic("", 1, 1, none())),
        ("name: dot", topic(".", 1, 1, none())),
        ("name: dots", topic("..", 1, 1, none())),
        ("name: space", topic("a b", 1, 1, none())),
        ("name: long", topic(&long, 1, 1, none())),
        ("internal", topic("__consumer_offsets_{v}", 1, 1, none())),
        ("no partitions", topic("p-{v}", 0, 1, none())),
        ("negative partitions", topic("p-{v}", -2, 1, none())),
        ("no replicas", topic("p-{v}", 1, 0, none())),
        ("negative replicas", topic("p-{v}", 1, -2, none())),
        ("many replicas", topic("p-{v}", 1, 3, none())),
        (
            "config",
            topic("config-{v}", 1, 1, config("retention.ms", json!("5000"))),
        ),
        (
            "config unknown",
            topic("c-{v}", 1, 1, config("nobody", json!("1"))),
        ),
        (
            "config not a number",
            topic("c-{v}", 1, 1, config("retention.ms", json!("x"))),
        ),
        (
            "config too small",
            topic("c-{v}", 1, 1, config("segment.bytes", json!("1"))),
        ),
        (
            "config null",
            topic("c-{v}", 1, 1, config("retention.ms", json!(null))),
        ),
        (
            "config not listed",
            topic("c-{v}", 1, 1, config("cleanup.policy", json!("x"))),
        ),
        (
            "compression",
            topic("c-{v}", 1, 1, config("compression.type", json!("x"))),
        ),
        (
            "twice in a request",
            json!([{"Name": "twice-{v}", "NumPartitions": 1, "ReplicationFactor": 1},
                {"Name": "twice-{v}", "NumPartitions": 2, "ReplicationFactor": 1},
                {"Name": "once-{v}", "NumPartitions": 1, "ReplicationFactor": 1}]),
        ),
        ("none", json!([])),
    ];
    for (name, topics) in cases {
        for validate in [true, false] {
            pair.case(&format!("create: {name}, only validate: {validate}"));
            pair.all(api, &request(&topics, validate))?;
        }
    }
    assignments(pair)
}

fn assignments(pair: &mut Pair) -> Result<()> {
    let assigned = |n: i32, replicas: i32, all: &[(i32, &[i32])]| {
        let one = |(p, brokers): &(i32, &[i32])| json!({"PartitionIndex": p, "BrokerIds": brokers});
        let all: Vec<Value> = all.iter().map(one).collect();
        json!([{"Name": "as-{v}", "NumPartitions": n, "ReplicationFactor": replicas,
            "Assignments": all}])
    };
    for (name, topics) in [
        ("both", assigned(1, 1, &[(0, &[1])])),
        ("replicas too", assigned(-1, 1, &[(0, &[1])])),
        ("unknown broker", assigned(-1, -1, &[(0, &[7])])),
        ("twice a broker", assigned(-1, -1, &[(0, &[1, 1])])),
        ("no broker", assigned(-1, -1, &[(0, &[])])),
        ("negative broker", assigned(-1, -1, &[(0, &[-1])])),
        ("hole", assigned(-1, -1, &[(0, &[1]), (2, &[1])])),
        ("from one", assigned(-1, -1, &[(1, &[1])])),
        (
            "twice a partition",
            assigned(-1, -1, &[(0, &[1]), (0, &[1])]),
        ),
        ("valid", assigned(-1, -1, &[(0, &[1]), (1, &[1])])),
    ] {
        pair.case(&format!("create with assignments: {name}"));
        pair.all("CreateTopics", &request(&topics, false))?;
    }
    Ok(())
}

fn grow(pair: &mut Pair) -> Result<()> {
    pair.topic("grow", 2, &[])?;
    let ask = |name: &str, count: i32, assignments: Value, only: bool| {
        let topic = json!({"Name": name, "Count": count, "Assignments": assignments});
        json!({"Topics": [topic], "TimeoutMs": 20_000, "ValidateOnly": only})
    };
    let brokers = |all: &[&[i32]]| {
        json!(
            all.iter()
                .map(|b| json!({"BrokerIds": b}))
                .collect::<Vec<_>>()
        )
    };
    let cases = [
        ("fewer", ask("grow", 1, json!(null), false)),
        ("equal", ask("grow", 2, json!(null), false)),
        ("none", ask("grow", 0, json!(null), false)),
        ("negative", ask("grow", -1, json!(null), false)),
        ("unknown", ask("nobody", 5, json!(null), false)),
        ("not a name", ask("a b", 5, json!(null), false)),
        ("only validate", ask("grow", 5, json!(null), true)),
        (
            "too few assignments",
            ask("grow", 5, brokers(&[&[1]]), false),
        ),
        (
            "too many assignments",
            ask("grow", 3, brokers(&[&[1], &[1]]), true),
        ),
        ("unknown broker", ask("grow", 3, brokers(&[&[7]]), false)),
        ("twice a broker", ask("grow", 3, brokers(&[&[1, 1]]), false)),
        ("no broker", ask("grow", 3, brokers(&[&[]]), false)),
        ("assigned", ask("grow", 3, brokers(&[&[1]]), true)),
    ];
    for (name, request) in cases {
        pair.case(&format!("grow: {name}"));
        pair.all("CreatePartitions", &request)?;
    }
    pair.case("grow: more");
    for (version, count) in [(0, 3), (1, 4), (3, 5)] {
        pair.ask(
            "CreatePartitions",
            version,
            &ask("grow", count, json!(null), false),
        )?;
    }
    pair.case("grow: twice in a request");
    let topic = |n: i32| json!({"Name": "grow", "Count": n, "Assignments": null});
    pair.all(
        "CreatePartitions",
        &json!({"Topics": [topic(6), topic(7)], "TimeoutMs": 20_000}),
    )?;
    pair.case("grow: result");
    pair.top("Metadata", &json!({"Topics": [{"Name": "grow"}]}))
}

fn delete(pair: &mut Pair) -> Result<()> {
    let api = "DeleteTopics";
    for name in ["gone-1", "gone-5", "gone-6", "gone-7"] {
        pair.topic(name, 1, &[])?;
    }
    let ids = |topics: Value| json!({"Topics": topics, "TimeoutMs": 20_000});
    let names = |topics: Value| json!({"TopicNames": topics, "TimeoutMs": 20_000});
    pair.case("delete: unknown");
    for version in [1, 3, 5] {
        pair.ask(api, version, &names(json!(["nobody"])))?;
        pair.ask(api, version, &names(json!([""])))?;
        pair.ask(api, version, &names(json!([])))?;
    }
    pair.ask(api, 6, &ids(json!([{"Name": "nobody"}])))?;
    pair.case("delete: unknown id");
    let unknown = "00112233445566778899aabbccddeeff";
    pair.ask(api, 6, &ids(json!([{"TopicId": unknown}])))?;
    pair.case("delete: neither name nor id");
    pair.ask(api, 6, &ids(json!([{"Name": null}])))?;
    pair.case("delete: both");
    pair.ask(
        api,
        6,
        &ids(json!([{"Name": "gone-6", "TopicId": "$gone-6"}])),
    )?;
    pair.case("delete: twice in a request");
    pair.ask(
        api,
        6,
        &ids(json!([{"Name": "gone-6"}, {"TopicId": "$gone-6"}])),
    )?;
    pair.ask(
        api,
        6,
        &ids(json!([{"Name": "gone-6"}, {"Name": "gone-6"}])),
    )?;
    pair.ask(
        api,
        6,
        &ids(json!([{"TopicId": "$gone-6"}, {"TopicId": "$gone-6"}])),
    )?;
    pair.case("delete: by name");
    pair.ask(api, 1, &names(json!(["gone-1"])))?;
    pair.ask(api, 5, &names(json!(["gone-5", "nobody"])))?;
    pair.ask(api, 6, &ids(json!([{"Name": "gone-7"}])))?;
    pair.case("delete: by id");
    pair.ask(api, 6, &ids(json!([{"TopicId": "$gone-6"}])))?;
    pair.case("delete: again");
    pair.ask(api, 6, &ids(json!([{"TopicId": "$gone-6"}])))
}
