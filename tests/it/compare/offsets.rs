//! Offsets of a log: by time, by epoch, and records deleted.

use anyhow::Result;
use serde_json::{Value, json};

use super::batch::{self, Batch};
use super::pair::Pair;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("offsets", 1, &[("segment.bytes", "1048576")])?;
    pair.topic("offsets-empty", 1, &[])?;
    pair.case("offsets: fill");
    for n in 0..6 {
        // The third is older than the second, the fifth as old as the fourth.
        let time = batch::time() + [0, 100, 50, 200, 200, 300].get(n).copied().unwrap_or(0);
        let parts = json!([{"Index": 0, "Records": Batch::large(400_000).at(time).hex()}]);
        let topics = json!([{"Name": "offsets", "PartitionData": parts}]);
        pair.ask(
            "Produce",
            9,
            &json!({"Acks": -1, "TimeoutMs": 5000, "TopicData": topics}),
        )?;
    }
    list(pair)?;
    epochs(pair)?;
    delete(pair)
}

fn list(pair: &mut Pair) -> Result<()> {
    let ask = |topic: &str, index: i32, time: i64, epoch: i32| {
        let part = json!({"PartitionIndex": index, "Timestamp": time, "CurrentLeaderEpoch": epoch});
        json!({"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [part]}],
            "TimeoutMs": 5000})
    };
    let mut times: Vec<i64> = (-8..1).collect();
    times.extend([-1, 0, 1, 50, 99, 100, 101, 199, 200, 201, 300, 301].map(|n| batch::time() + n));
    times.extend([i64::MAX, i64::MIN]);
    for time in times {
        pair.case(&format!("list offsets at {time}"));
        pair.all("ListOffsets", &ask("offsets", 0, time, -1))?;
        pair.all("ListOffsets", &ask("offsets-empty", 0, time, -1))?;
    }
    pair.case("list offsets: special times in each version");
    for version in 1..=11 {
        for time in -6..0 {
            pair.ask("ListOffsets", version, &ask("offsets", 0, time, -1))?;
        }
    }
    pair.case("list offsets: unknown");
    pair.all("ListOffsets", &ask("offsets", 9, -1, -1))?;
    pair.all("ListOffsets", &ask("offsets", -1, -1, -1))?;
    pair.all("ListOffsets", &ask("nobody", 0, -1, -1))?;
    pair.case("list offsets: epochs");
    for epoch in [0, 1, -2] {
        pair.all("ListOffsets", &ask("offsets", 0, -1, epoch))?;
    }
    pair.case("list offsets: a partition twice");
    let part = json!({"PartitionIndex": 0, "Timestamp": -1});
    let topics = json!([{"Name": "offsets", "Partitions": [part, part]}]);
    pair.all("ListOffsets", &json!({"ReplicaId": -1, "Topics": topics}))?;
    pair.case("list offsets: read committed");
    let topics = json!([{"Name": "offsets", "Partitions": [part]}]);
    pair.all(
        "ListOffsets",
        &json!({"ReplicaId": -1, "IsolationLevel": 1, "Topics": topics}),
    )?;
    pair.case("list offsets: nothing");
    pair.all("ListOffsets", &json!({"ReplicaId": -1, "Topics": []}))
}

fn epochs(pair: &mut Pair) -> Result<()> {
    let ask = |topic: &str, index: i32, current: i32, epoch: i32| {
        let part = json!({"Partition": index, "CurrentLeaderEpoch": current, "LeaderEpoch": epoch});
        json!({"ReplicaId": -1, "Topics": [{"Topic": topic, "Partitions": [part]}]})
    };
    for current in [-1, 0, 1] {
        for epoch in [-1, 0, 1, 5] {
            pair.case(&format!("offset for epoch {epoch} in {current}"));
            pair.all("OffsetForLeaderEpoch", &ask("offsets", 0, current, epoch))?;
            pair.all(
                "OffsetForLeaderEpoch",
                &ask("offsets-empty", 0, current, epoch),
            )?;
        }
    }
    pair.case("offset for epoch: unknown");
    pair.all("OffsetForLeaderEpoch", &ask("offsets", 9, -1, 0))?;
    pair.all("OffsetForLeaderEpoch", &ask("nobody", 0, -1, 0))
}

fn delete(pair: &mut Pair) -> Result<()> {
    let ask = |topic: &str, index: i32, offset: i64| {
        let part = json!({"PartitionIndex": index, "Offset": offset});
        json!({"Topics": [{"Name": topic, "Partitions": [part]}], "TimeoutMs": 5000})
    };
    for offset in [-2, 7, 100, 0, 2, 1, 4] {
        pair.case(&format!("delete records before {offset}"));
        pair.all("DeleteRecords", &ask("offsets", 0, offset))?;
    }
    pair.case("delete records: what is left");
    let offset = |time: i64| {
        let part = json!({"PartitionIndex": 0, "Timestamp": time});
        json!({"ReplicaId": -1, "Topics": [{"Name": "offsets", "Partitions": [part]}]})
    };
    for time in [-2, -1, -3, batch::time(), batch::time() + 200] {
        pair.top("ListOffsets", &offset(time))?;
    }
    let fetch = |offset: i64| -> Value {
        let part = json!({"Partition": 0, "FetchOffset": offset, "PartitionMaxBytes": 100});
        json!({"MaxWaitMs": 50, "MinBytes": 1, "Topics": [{"Topic": "offsets",
            "TopicId": "$offsets", "Partitions": [part]}]})
    };
    pair.top("Fetch", &fetch(3))?;
    pair.top("Fetch", &fetch(4))?;
    pair.case("delete records: all");
    pair.all("DeleteRecords", &ask("offsets", 0, -1))?;
    for time in [-2, -1, -3, batch::time()] {
        pair.top("ListOffsets", &offset(time))?;
    }
    pair.case("delete records: empty");
    pair.all("DeleteRecords", &ask("offsets-empty", 0, -1))?;
    pair.case("delete records: unknown");
    pair.all("DeleteRecords", &ask("offsets", 9, 0))?;
    pair.all("DeleteRecords", &ask("nobody", 0, 0))?;
    pair.case("delete records: compacted");
    pair.topic("delete-compacted", 1, &[("cleanup.policy", "compact")])?;
    pair.all("DeleteRecords", &ask("delete-compacted", 0, -1))
}
