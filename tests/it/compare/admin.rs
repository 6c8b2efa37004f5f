//! The cluster: versions, metadata, quorum, log directories, features, elections, reassignments.

use anyhow::Result;
use serde_json::json;

use super::batch::Batch;
use super::pair::Pair;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    versions(pair)?;
    metadata(pair)?;
    topic_partitions(pair)?;
    cluster(pair)?;
    log_dirs(pair)?;
    elections(pair)?;
    features(pair)
}

fn versions(pair: &mut Pair) -> Result<()> {
    pair.case("versions");
    let software = json!({"ClientSoftwareName": "compare", "ClientSoftwareVersion": "1.0"});
    for version in 0..=4 {
        pair.ask("ApiVersions", version, &software)?;
    }
    pair.case("versions: software name that is not one");
    pair.ask(
        "ApiVersions",
        3,
        &json!({"ClientSoftwareName": "a b", "ClientSoftwareVersion": "1"}),
    )?;
    pair.ask(
        "ApiVersions",
        4,
        &json!({"ClientSoftwareName": "", "ClientSoftwareVersion": ""}),
    )?;
    pair.case("versions: a version that does not exist");
    pair.ask("ApiVersions", 9, &software)
}

fn metadata(pair: &mut Pair) -> Result<()> {
    pair.topic("meta", 3, &[])?;
    pair.topic("meta-b", 1, &[])?;
    pair.case("metadata: none");
    for version in [1, 6, 13] {
        pair.ask("Metadata", version, &json!({"Topics": []}))?;
    }
    pair.case("metadata: all");
    pair.ask("Metadata", 0, &json!({"Topics": []}))?;
    for version in [1, 5, 8, 9, 10, 12, 13] {
        pair.ask("Metadata", version, &json!({"Topics": null}))?;
    }
    pair.case("metadata: named");
    pair.all(
        "Metadata",
        &json!({"Topics": [{"Name": "meta"}, {"Name": "meta-b"}]}),
    )?;
    pair.all(
        "Metadata",
        &json!({"Topics": [{"Name": "meta"}, {"Name": "meta"}]}),
    )?;
    pair.case("metadata: unknown");
    let unknown = json!({"Topics": [{"Name": "nobody"}], "AllowAutoTopicCreation": false});
    for version in [4, 8, 13] {
        pair.ask("Metadata", version, &unknown)?;
    }
    pair.case("metadata: names that are not names");
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a b", "ä", long.as_str()] {
        for create in [true, false] {
            let request = json!({"Topics": [{"Name": name}], "AllowAutoTopicCreation": create});
            pair.all("Metadata", &request)?;
        }
    }
    pair.case("metadata: ids");
    pair.top(
        "Metadata",
        &json!({"Topics": [{"TopicId": "$meta", "Name": null}]}),
    )?;
    pair.ask(
        "Metadata",
        10,
        &json!({"Topics": [{"TopicId": "$meta", "Name": null}]}),
    )?;
    pair.ask(
        "Metadata",
        12,
        &json!({"Topics": [{"TopicId": "$meta", "Name": "meta"}]}),
    )?;
    let unknown = "00112233445566778899aabbccddeeff";
    pair.top(
        "Metadata",
        &json!({"Topics": [{"TopicId": unknown, "Name": null}]}),
    )?;
    pair.case("metadata: neither name nor id");
    pair.top("Metadata", &json!({"Topics": [{"Name": null}]}))?;
    pair.case("metadata: operations");
    let all = json!({"Topics": [{"Name": "meta"}], "IncludeTopicAuthorizedOperations": true});
    pair.top("Metadata", &all)?;
    let all = json!({"Topics": [], "IncludeClusterAuthorizedOperations": true});
    pair.ask("Metadata", 9, &all)?;
    pair.case("metadata: created by asking");
    for version in [0, 4, 13] {
        pair.ask(
            "Metadata",
            version,
            &json!({"Topics": [{"Name": "auto-{v}"}]}),
        )?;
        let ready = |v: &serde_json::Value| v["Topics"][0]["ErrorCode"] == 0;
        pair.until(
            "Metadata",
            version,
            &json!({"Topics": [{"Name": "auto-{v}"}]}),
            ready,
        )?;
        pair.ask(
            "Metadata",
            version,
            &json!({"Topics": [{"Name": "auto-{v}"}]}),
        )?;
    }
    Ok(())
}

fn topic_partitions(pair: &mut Pair) -> Result<()> {
    pair.case("topic partitions");
    let api = "DescribeTopicPartitions";
    let topics = json!([{"Name": "meta"}, {"Name": "meta-b"}]);
    pair.top(api, &json!({"Topics": []}))?;
    pair.top(api, &json!({"Topics": topics}))?;
    for limit in [1, 2, 3, 4] {
        pair.top(
            api,
            &json!({"Topics": topics, "ResponsePartitionLimit": limit}),
        )?;
        let cursor = json!({"TopicName": "meta", "PartitionIndex": limit});
        pair.top(
            api,
            &json!({"Topics": topics, "ResponsePartitionLimit": 2, "Cursor": cursor}),
        )?;
    }
    pair.case("topic partitions: limits");
    pair.top(api, &json!({"Topics": topics, "ResponsePartitionLimit": 0}))?;
    pair.top(
        api,
        &json!({"Topics": topics, "ResponsePartitionLimit": -1}),
    )?;
    pair.case("topic partitions: cursors");
    for (name, index) in [
        ("meta-b", 0),
        ("a", 0),
        ("zzz", 0),
        ("meta", -1),
        ("meta", 99),
    ] {
        let cursor = json!({"TopicName": name, "PartitionIndex": index});
        pair.top(api, &json!({"Topics": topics, "Cursor": cursor}))?;
        pair.top(
            api,
            &json!({"Topics": [], "Cursor": cursor, "ResponsePartitionLimit": 1}),
        )?;
    }
    pair.case("topic partitions: unknown");
    pair.top(
        api,
        &json!({"Topics": [{"Name": "nobody"}, {"Name": "meta"}]}),
    )?;
    pair.top(api, &json!({"Topics": [{"Name": "a b"}]}))
}

fn cluster(pair: &mut Pair) -> Result<()> {
    pair.case("cluster");
    pair.all("DescribeCluster", &json!({}))?;
    pair.all(
        "DescribeCluster",
        &json!({"IncludeClusterAuthorizedOperations": true}),
    )?;
    pair.top("DescribeCluster", &json!({"IncludeFencedBrokers": true}))?;
    for kind in [0, 2, 3] {
        pair.case(&format!("cluster: endpoint type {kind}"));
        pair.top("DescribeCluster", &json!({"EndpointType": kind}))?;
    }
    pair.case("quorum");
    let of = |topic: &str, partition: i32| {
        let partitions = json!([{"PartitionIndex": partition}]);
        json!({"Topics": [{"TopicName": topic, "Partitions": partitions}]})
    };
    pair.all("DescribeQuorum", &of("__cluster_metadata", 0))?;
    pair.all("DescribeQuorum", &of("__cluster_metadata", 1))?;
    pair.all("DescribeQuorum", &of("meta", 0))?;
    pair.all("DescribeQuorum", &json!({"Topics": []}))?;
    pair.case("config resources");
    pair.all("ListConfigResources", &json!({}))?;
    for kind in [2, 4, 8, 16, 32, 0, 1, 99] {
        pair.top("ListConfigResources", &json!({"ResourceTypes": [kind]}))?;
    }
    pair.case("unregister");
    pair.all("UnregisterBroker", &json!({"BrokerId": 77}))
}

fn log_dirs(pair: &mut Pair) -> Result<()> {
    pair.case("log directories");
    let records = Batch::of(3).hex();
    let data = json!([{"Index": 0, "Records": records}]);
    let topics = json!([{"Name": "meta", "PartitionData": data}]);
    pair.ask(
        "Produce",
        9,
        &json!({"Acks": -1, "TimeoutMs": 5000, "TopicData": topics}),
    )?;
    let topics = json!([{"Topic": "meta", "Partitions": [0, 2]}]);
    pair.all("DescribeLogDirs", &json!({"Topics": topics}))?;
    let topics =
        json!([{"Topic": "nobody", "Partitions": [0]}, {"Topic": "meta", "Partitions": [9]}]);
    pair.all("DescribeLogDirs", &json!({"Topics": topics}))?;
    pair.all("DescribeLogDirs", &json!({"Topics": []}))?;
    pair.all("DescribeLogDirs", &json!({"Topics": null}))
}

fn elections(pair: &mut Pair) -> Result<()> {
    for kind in [0, 1] {
        pair.case(&format!("elections of type {kind}"));
        let ask =
            |topics| json!({"ElectionType": kind, "TopicPartitions": topics, "TimeoutMs": 5000});
        pair.all(
            "ElectLeaders",
            &ask(json!([{"Topic": "meta", "Partitions": [0, 1]}])),
        )?;
        pair.all(
            "ElectLeaders",
            &ask(json!([{"Topic": "meta", "Partitions": [9]}])),
        )?;
        pair.all(
            "ElectLeaders",
            &ask(json!([{"Topic": "nobody", "Partitions": [0]}])),
        )?;
        pair.all("ElectLeaders", &ask(json!([])))?;
        pair.all("ElectLeaders", &ask(json!(null)))?;
    }
    pair.case("elections of an unknown type");
    let topics = json!([{"Topic": "meta", "Partitions": [0]}]);
    pair.top(
        "ElectLeaders",
        &json!({"ElectionType": 7, "TopicPartitions": topics}),
    )?;
    pair.case("reassignments");
    let api = "AlterPartitionReassignments";
    let ask = |topic: &str, index: i32, replicas| {
        let partitions = json!([{"PartitionIndex": index, "Replicas": replicas}]);
        json!({"TimeoutMs": 5000, "Topics": [{"Name": topic, "Partitions": partitions}]})
    };
    pair.all(api, &ask("meta", 0, json!([1])))?;
    pair.all(api, &ask("meta", 0, json!(null)))?;
    pair.all(api, &ask("meta", 9, json!([1])))?;
    pair.all(api, &ask("nobody", 0, json!([1])))?;
    pair.all(api, &ask("meta", 0, json!([2])))?;
    pair.all(api, &ask("meta", 0, json!([])))?;
    pair.all(api, &ask("meta", 0, json!([1, 1])))?;
    pair.all(api, &ask("meta", 0, json!([-1])))?;
    pair.all("ListPartitionReassignments", &json!({"Topics": null}))?;
    let topics = json!([{"Name": "nobody", "PartitionIndexes": [0]}]);
    pair.all("ListPartitionReassignments", &json!({"Topics": topics}))
}

fn features(pair: &mut Pair) -> Result<()> {
    pair.case("features");
    let ask = |name: &str, level: i32, kind: i32, only: bool| {
        let update = json!({"Feature": name, "MaxVersionLevel": level, "UpgradeType": kind,
            "AllowDowngrade": kind != 1});
        json!({"FeatureUpdates": [update], "ValidateOnly": only})
    };
    for (name, level, kind, only) in [
        ("nobody", 1, 1, false),
        ("metadata.version", 99, 1, false),
        ("metadata.version", 30, 1, true),
        ("metadata.version", 1, 1, true),
        ("metadata.version", 8, 1, true),
        ("metadata.version", 0, 2, true),
        ("metadata.version", 30, 9, true),
        ("transaction.version", 99, 1, false),
        ("kraft.version", 7, 1, true),
    ] {
        pair.case(&format!("feature {name} to {level}, type {kind}"));
        pair.all("UpdateFeatures", &ask(name, level, kind, only))?;
    }
    pair.case("features: none, twice");
    pair.all("UpdateFeatures", &json!({"FeatureUpdates": []}))?;
    let update = json!({"Feature": "nobody", "MaxVersionLevel": 1});
    pair.all(
        "UpdateFeatures",
        &json!({"FeatureUpdates": [update, update]}),
    )
}
