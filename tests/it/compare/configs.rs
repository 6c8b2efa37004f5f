//! Configurations: described and altered.

use anyhow::Result;
use serde_json::{Value, json};

use super::pair::Pair;

const TOPIC: i32 = 2;
const BROKER: i32 = 4;
const LOGGER: i32 = 8;
const CLIENT: i32 = 16;
const GROUP: i32 = 32;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic(
        "configured",
        1,
        &[("retention.ms", "12345"), ("cleanup.policy", "compact")],
    )?;
    describe(pair)?;
    incremental(pair)?;
    whole(pair)?;
    pair.case("describe after altering");
    for (kind, name) in [(TOPIC, "configured"), (BROKER, "1"), (BROKER, "")] {
        pair.top("DescribeConfigs", &asked(kind, name, &json!(null)))?;
    }
    Ok(())
}

fn asked(kind: i32, name: &str, keys: &Value) -> Value {
    let resource = json!({"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": keys});
    json!({"Resources": [resource], "IncludeSynonyms": true})
}

fn describe(pair: &mut Pair) -> Result<()> {
    let api = "DescribeConfigs";
    for (kind, name) in [(TOPIC, "configured"), (BROKER, "1"), (BROKER, "")] {
        pair.case(&format!("describe {kind} {name:?}"));
        pair.all(api, &asked(kind, name, &json!(null)))?;
        pair.case(&format!("describe some of {kind} {name:?}"));
        let keys = json!([
            "retention.ms",
            "log.retention.ms",
            "nobody",
            "min.insync.replicas"
        ]);
        pair.all(api, &asked(kind, name, &keys))?;
        pair.all(api, &asked(kind, name, &json!([])))?;
    }
    for (kind, name) in [
        (TOPIC, "nobody"),
        (TOPIC, "a b"),
        (TOPIC, ""),
        (BROKER, "7"),
        (BROKER, "x"),
        (LOGGER, "7"),
        (LOGGER, ""),
        (CLIENT, "nobody"),
        (CLIENT, ""),
        (GROUP, "nobody"),
        (GROUP, ""),
        (0, "x"),
        (99, "x"),
    ] {
        pair.case(&format!("describe {kind} {name:?}"));
        pair.all(api, &asked(kind, name, &json!(null)))?;
    }
    pair.case("describe nothing");
    pair.all(api, &json!({"Resources": []}))?;
    pair.case("describe documentation");
    let mut request = asked(TOPIC, "configured", &json!(["retention.ms"]));
    request["IncludeDocumentation"] = json!(true);
    pair.top(api, &request)
}

/// Operations of an incremental change.
const SET: i32 = 0;
const DELETE: i32 = 1;
const APPEND: i32 = 2;
const SUBTRACT: i32 = 3;

fn incremental(pair: &mut Pair) -> Result<()> {
    let api = "IncrementalAlterConfigs";
    let change = |kind: i32, name: &str, key: &str, operation: i32, value: Value| {
        let config = json!({"Name": key, "ConfigOperation": operation, "Value": value});
        json!({"ResourceType": kind, "ResourceName": name, "Configs": [config]})
    };
    let topic = |key: &str, operation, value| change(TOPIC, "configured", key, operation, value);
    for (name, resource) in [
        ("set", topic("retention.ms", SET, json!("777"))),
        ("delete", topic("retention.ms", DELETE, json!(null))),
        (
            "delete what is not set",
            topic("segment.ms", DELETE, json!(null)),
        ),
        ("append", topic("cleanup.policy", APPEND, json!("delete"))),
        (
            "append again",
            topic("cleanup.policy", APPEND, json!("delete")),
        ),
        (
            "subtract",
            topic("cleanup.policy", SUBTRACT, json!("delete")),
        ),
        (
            "append to no list",
            topic("retention.ms", APPEND, json!("1")),
        ),
        (
            "subtract from no list",
            topic("retention.ms", SUBTRACT, json!("1")),
        ),
        ("set null", topic("retention.ms", SET, json!(null))),
        ("unknown operation", topic("retention.ms", 9, json!("1"))),
        ("unknown key", topic("nobody", SET, json!("1"))),
        ("delete unknown key", topic("nobody", DELETE, json!(null))),
        ("no number", topic("retention.ms", SET, json!("x"))),
        ("out of range", topic("retention.ms", SET, json!("-2"))),
        ("not listed", topic("compression.type", SET, json!("x"))),
        ("empty name", topic("", SET, json!("x"))),
        (
            "unknown topic",
            change(TOPIC, "nobody", "retention.ms", SET, json!("1")),
        ),
        (
            "no topic",
            change(TOPIC, "", "retention.ms", SET, json!("1")),
        ),
        (
            "bad topic",
            change(TOPIC, "a b", "retention.ms", SET, json!("1")),
        ),
        (
            "broker",
            change(BROKER, "1", "log.retention.ms", SET, json!("5000000")),
        ),
        (
            "brokers",
            change(BROKER, "", "log.retention.ms", SET, json!("6000000")),
        ),
        (
            "broker read-only",
            change(BROKER, "1", "node.id", SET, json!("5")),
        ),
        (
            "broker unknown key",
            change(BROKER, "1", "nobody", SET, json!("5")),
        ),
        (
            "broker no number",
            change(BROKER, "1", "log.retention.ms", SET, json!("x")),
        ),
        (
            "broker of another id",
            change(BROKER, "7", "log.retention.ms", SET, json!("5")),
        ),
        (
            "broker of no id",
            change(BROKER, "x", "log.retention.ms", SET, json!("5")),
        ),
        (
            "unknown type",
            change(99, "x", "retention.ms", SET, json!("5")),
        ),
        ("no type", change(0, "x", "retention.ms", SET, json!("5"))),
        (
            "group",
            change(
                GROUP,
                "g",
                "consumer.session.timeout.ms",
                SET,
                json!("50000"),
            ),
        ),
        (
            "group unknown key",
            change(GROUP, "g", "nobody", SET, json!("5")),
        ),
        (
            "group of no name",
            change(GROUP, "", "consumer.session.timeout.ms", SET, json!("5")),
        ),
        (
            "metrics",
            change(CLIENT, "c", "interval.ms", SET, json!("5000")),
        ),
        ("logger", change(LOGGER, "7", "kafka", SET, json!("INFO"))),
    ] {
        for only in [true, false] {
            pair.case(&format!(
                "alter incrementally: {name}, only validate: {only}"
            ));
            pair.all(api, &json!({"Resources": [resource], "ValidateOnly": only}))?;
        }
    }
    pair.case("alter incrementally: nothing");
    pair.all(api, &json!({"Resources": []}))?;
    pair.case("alter incrementally: twice a resource");
    let one = topic("retention.ms", SET, json!("5"));
    pair.all(api, &json!({"Resources": [one, one]}))?;
    pair.case("alter incrementally: twice a key");
    let config = json!({"Name": "retention.ms", "ConfigOperation": SET, "Value": "5"});
    let twice = json!({"ResourceType": TOPIC, "ResourceName": "configured",
        "Configs": [config, config]});
    pair.all(api, &json!({"Resources": [twice]}))?;
    pair.case("alter incrementally: one of two is wrong");
    let other = change(TOPIC, "nobody", "retention.ms", SET, json!("5"));
    pair.all(api, &json!({"Resources": [one, other]}))
}

fn whole(pair: &mut Pair) -> Result<()> {
    let api = "AlterConfigs";
    let all = |kind: i32, name: &str, key: &str, value: Value| {
        json!({"ResourceType": kind, "ResourceName": name,
            "Configs": [{"Name": key, "Value": value}]})
    };
    for (name, resource) in [
        (
            "set",
            all(TOPIC, "configured", "retention.ms", json!("888")),
        ),
        (
            "null",
            all(TOPIC, "configured", "retention.ms", json!(null)),
        ),
        (
            "unknown key",
            all(TOPIC, "configured", "nobody", json!("1")),
        ),
        (
            "no number",
            all(TOPIC, "configured", "retention.ms", json!("x")),
        ),
        (
            "unknown topic",
            all(TOPIC, "nobody", "retention.ms", json!("1")),
        ),
        (
            "broker",
            all(BROKER, "1", "log.retention.ms", json!("5000000")),
        ),
        ("broker read-only", all(BROKER, "1", "node.id", json!("5"))),
        ("unknown type", all(99, "x", "retention.ms", json!("5"))),
    ] {
        for only in [true, false] {
            pair.case(&format!("alter: {name}, only validate: {only}"));
            pair.all(api, &json!({"Resources": [resource], "ValidateOnly": only}))?;
        }
    }
    pair.case("alter: nothing");
    pair.all(api, &json!({"Resources": []}))
}
