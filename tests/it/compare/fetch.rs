//! Fetch: ranges, limits, epochs, sessions.

use anyhow::Result;
use serde_json::{Value, json};

use super::batch::Batch;
use super::pair::Pair;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    pair.topic("fetch", 2, &[])?;
    pair.topic("fetch-empty", 1, &[])?;
    for n in 1..4 {
        let parts = json!([{"Index": 0, "Records": Batch::of(n).hex()},
            {"Index": 1, "Records": Batch::large(500).hex()}]);
        let topics = json!([{"Name": "fetch", "PartitionData": parts}]);
        pair.case("fetch: fill");
        pair.ask(
            "Produce",
            9,
            &json!({"Acks": -1, "TimeoutMs": 5000, "TopicData": topics}),
        )?;
    }
    ranges(pair)?;
    epochs(pair)?;
    sessions(pair)?;
    unknown(pair)
}

fn part(index: i32, offset: i64) -> Value {
    json!({"Partition": index, "FetchOffset": offset, "PartitionMaxBytes": 1 << 20})
}

fn of(topic: &str, partitions: &Value) -> Value {
    json!({"Topic": topic, "TopicId": format!("${topic}"), "Partitions": partitions})
}

fn fetch(topics: &Value) -> Value {
    json!({"MaxWaitMs": 50, "MinBytes": 1, "Topics": topics})
}

fn ranges(pair: &mut Pair) -> Result<()> {
    for offset in [0, 1, 2, 3, 5, 6, 7, -1, -2] {
        pair.case(&format!("fetch from {offset}"));
        pair.all(
            "Fetch",
            &fetch(&json!([of("fetch", &json!([part(0, offset)]))])),
        )?;
    }
    pair.case("fetch two partitions");
    pair.all(
        "Fetch",
        &fetch(&json!([of("fetch", &json!([part(0, 0), part(1, 0)]))])),
    )?;
    pair.case("fetch two topics");
    let topics = json!([
        of("fetch-empty", &json!([part(0, 0)])),
        of("fetch", &json!([part(1, 1)]))
    ]);
    pair.all("Fetch", &fetch(&topics))?;
    pair.case("fetch nothing");
    pair.all("Fetch", &fetch(&json!([])))?;
    pair.case("fetch an empty partition");
    pair.all(
        "Fetch",
        &fetch(&json!([of("fetch-empty", &json!([part(0, 0)]))])),
    )?;
    for (limit, whole) in [
        (0, 1 << 20),
        (1, 1 << 20),
        (100, 1 << 20),
        (700, 1 << 20),
        (1 << 20, 0),
        (1 << 20, 1),
        (1 << 20, 100),
        (1 << 20, 700),
        (-1, 1 << 20),
        (1 << 20, -1),
    ] {
        pair.case(&format!(
            "fetch at most {limit} of a partition, {whole} of all"
        ));
        let small =
            |index: i32| json!({"Partition": index, "FetchOffset": 0, "PartitionMaxBytes": limit});
        let topics = json!([of("fetch", &json!([small(1), small(0)]))]);
        let request = json!({"MaxWaitMs": 50, "MinBytes": 1, "MaxBytes": whole, "Topics": topics});
        pair.all("Fetch", &request)?;
    }
    pair.case("fetch: wait for more than there is");
    let topics = json!([of("fetch", &json!([part(0, 0)]))]);
    pair.all(
        "Fetch",
        &json!({"MaxWaitMs": 50, "MinBytes": 100_000, "Topics": topics}),
    )?;
    pair.all(
        "Fetch",
        &json!({"MaxWaitMs": 0, "MinBytes": 100_000, "Topics": topics}),
    )?;
    pair.case("fetch: read committed");
    let request = json!({"MaxWaitMs": 50, "MinBytes": 1, "IsolationLevel": 1, "Topics": topics});
    pair.all("Fetch", &request)?;
    pair.case("fetch: a partition twice");
    pair.all(
        "Fetch",
        &fetch(&json!([of("fetch", &json!([part(0, 0), part(0, 1)]))])),
    )
}

fn epochs(pair: &mut Pair) -> Result<()> {
    for epoch in [-1, 0, 1, -2] {
        for fetched in [-1, 0, 1] {
            pair.case(&format!("fetch in epoch {epoch} after epoch {fetched}"));
            let part = json!({"Partition": 0, "FetchOffset": 2, "PartitionMaxBytes": 1 << 20,
                "CurrentLeaderEpoch": epoch, "LastFetchedEpoch": fetched});
            pair.ask("Fetch", 12, &fetch(&json!([of("fetch", &json!([part]))])))?;
            pair.top("Fetch", &fetch(&json!([of("fetch", &json!([part]))])))?;
        }
    }
    pair.case("fetch as a follower");
    for version in [11, 12] {
        let mut request = fetch(&json!([of("fetch", &json!([part(0, 0)]))]));
        request["ReplicaId"] = json!(7);
        pair.ask("Fetch", version, &request)?;
    }
    Ok(())
}

fn sessions(pair: &mut Pair) -> Result<()> {
    let ask = |id: Value, epoch: i32, topics: Value, forgotten: Value| {
        json!({"MaxWaitMs": 50, "MinBytes": 1, "SessionId": id, "SessionEpoch": epoch,
            "Topics": topics, "ForgottenTopicsData": forgotten})
    };
    for version in [7, 12, 13, 18] {
        let both = json!([
            of("fetch", &json!([part(0, 0), part(1, 3)])),
            of("fetch-empty", &json!([part(0, 0)]))
        ]);
        pair.case("session: none");
        pair.ask(
            "Fetch",
            version,
            &ask(json!(0), -1, both.clone(), json!([])),
        )?;
        pair.case("session: made");
        pair.ask("Fetch", version, &ask(json!(0), 0, both.clone(), json!([])))?;
        pair.keep("session", "/SessionId")?;
        pair.case("session: next");
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 1, json!([]), json!([])),
        )?;
        pair.case("session: moved");
        let moved = json!([of("fetch", &json!([part(0, 6)]))]);
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 2, moved, json!([])),
        )?;
        pair.case("session: out of range stays");
        let moved = json!([of("fetch", &json!([part(0, 60)]))]);
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 3, moved, json!([])),
        )?;
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 4, json!([]), json!([])),
        )?;
        pair.case("session: forgotten");
        let forgotten = json!([{"Topic": "fetch", "TopicId": "$fetch", "Partitions": [0]}]);
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 5, json!([]), forgotten),
        )?;
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 6, json!([]), json!([])),
        )?;
        pair.case("session: wrong epoch");
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 6, json!([]), json!([])),
        )?;
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 9, json!([]), json!([])),
        )?;
        pair.case("session: goes on after a wrong epoch");
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 7, json!([]), json!([])),
        )?;
        pair.case("session: made again");
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 0, both.clone(), json!([])),
        )?;
        pair.keep("session", "/SessionId")?;
        pair.case("session: ended");
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), -1, both, json!([])),
        )?;
        pair.ask(
            "Fetch",
            version,
            &ask(json!("$session"), 1, json!([]), json!([])),
        )?;
        pair.case("session: unknown");
        pair.ask(
            "Fetch",
            version,
            &ask(json!(123_456), 1, json!([]), json!([])),
        )?;
    }
    Ok(())
}

fn unknown(pair: &mut Pair) -> Result<()> {
    pair.case("fetch: unknown partition");
    for index in [9, -1] {
        pair.all(
            "Fetch",
            &fetch(&json!([of("fetch", &json!([part(index, 0)]))])),
        )?;
    }
    pair.case("fetch: unknown topic");
    let id = "00112233445566778899aabbccddeeff";
    let zero = "00000000000000000000000000000000";
    for id in [id, zero] {
        let topic = json!({"Topic": "nobody", "TopicId": id, "Partitions": [part(0, 0)]});
        pair.all("Fetch", &fetch(&json!([topic])))?;
        pair.case("fetch: unknown topic in a session");
        let request = json!({"MaxWaitMs": 50, "MinBytes": 1, "SessionEpoch": 0,
            "Topics": [topic, of("fetch", &json!([part(0, 0)]))]});
        pair.all("Fetch", &request)?;
    }
    Ok(())
}
