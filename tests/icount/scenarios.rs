//! What is counted: each scenario sets a node up, warms it, and then counts the same request again
//! and again.

use crate::codec;
use crate::node::{Client, Counted, Node};
use bytes::Bytes;
use flumen_base::TopicPartition;
use flumen_log::BatchBuilder;
use flumen_wire::messages as wire;
use std::borrow::Cow;

const TOPIC: &str = "bench";
/// Versions that today's Java client uses: topics by id from 13 on.
const PRODUCE: i16 = 11;
const FETCH: i16 = 12;
const KIB: usize = 1024;

/// One row of the table.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What one request of it is.
    pub about: &'static str,
    /// Runs it and gives the number of counted requests.
    pub run: fn() -> u64,
}

macro_rules! scenarios {
    ($($name:literal $about:literal $run:expr;)*) => {
        /// All of them.
        pub const SCENARIOS: &[Scenario] = &[$(Scenario {
            name: $name,
            about: $about,
            run: || $run,
        }),*];
    };
}

scenarios! {
    "parse/produce-1" "header and body of a Produce request, 1 partition" codec::parse_produce(1);
    "parse/produce-8" "the same, 8 partitions" codec::parse_produce(8);
    "parse/fetch-1" "header and body of a Fetch request, 1 partition" codec::parse_fetch(1);
    "parse/fetch-8" "the same, 8 partitions" codec::parse_fetch(8);
    "encode/produce-1" "a Produce response by the generated codec, 1 partition" codec::encode_produce(1);
    "encode/produce-8" "the same, 8 partitions" codec::encode_produce(8);
    "encode/fetch-1" "framing of a Fetch response, 1 partition" codec::encode_fetch(1);
    "encode/fetch-8" "the same, 8 partitions" codec::encode_fetch(8);
    "produce/100b" "1 record of 100 B, alone in its turn" produce(1, 1, 100, 256);
    "produce/100b-of-8" "the same, 8 connections in a turn" produce(8, 1, 100, 64);
    "produce/100b-of-40" "the same, 8 connections x 5 in a turn" produce_deep(64);
    "produce/16k" "a batch of 16 KiB, alone in its turn" produce(1, 1, 16 * KIB, 128);
    "produce/8x16k" "8 partitions x 16 KiB in a request" produce(1, 8, 16 * KIB, 32);
    "produce/idempotent-16k" "a batch of 16 KiB with producer id and sequence" idempotent(128);
    "fetch/64k-tail" "64 KiB of what was just produced" fetch(false, 64 * KIB, 64);
    "fetch/64k-file" "64 KiB that only the file has" fetch(true, 64 * KIB, 64);
    "fetch/1m-file" "1 MiB that only the file has" fetch(true, 1024 * KIB, 32);
    "fetch/8-partitions" "8 partitions of 16 KiB each, from memory" fetch_many(64);
    "fetch/parks-and-wakes" "a fetch that waits, and the produce of 100 B that wakes it" tail(1, 128);
    "fetch/10-parked" "10 fetches that wait, and the produce of 100 B that wakes them" tail(10, 32);
    "fetch/session-waits" "a fetch of a session that waits, and the produce of 100 B that wakes it"
        session(1, 500, 128);
    "fetch/session-1000" "a produce of 100 B, and a fetch of a session of 1,000 partitions after it"
        session(1000, 0, 64);
    "group/heartbeat" "a classic member's heartbeat" heartbeat(256);
    "group/heartbeat-of-1" "a consumer group's member's heartbeat" heartbeats(1, 256);
    "group/heartbeat-of-10000" "the same, in turn for 10,000 groups" heartbeats(10_000, 256);
    "hop/produce-100b-home" "1 record of 100 B for another shard: connection's side"
        hop(1, 100, Counted::Only(0), 256);
    "hop/produce-100b-owner" "the same, owner's side" hop(1, 100, Counted::Only(1), 256);
    "hop/produce-100b-of-8-home" "the same, 8 connections in a turn: connection's side"
        hop(8, 100, Counted::Only(0), 64);
    "hop/produce-100b-of-8-owner" "the same, owner's side" hop(8, 100, Counted::Only(1), 64);
    "hop/fetch-64k-home" "64 KiB of another shard's memory: connection's side"
        hop_fetch(Counted::Only(0), 64);
    "hop/fetch-64k-owner" "the same, owner's side" hop_fetch(Counted::Only(1), 64);
}

/// Rounds before those that count: maps and buffers have their size, all paths were taken.
const WARM_ROUNDS: u32 = 40;

/// Warms, then counts. `round` is done once per round and gives its answers.
fn rounds(
    node: &mut Node,
    counted: Counted,
    n: u32,
    mut round: impl FnMut(&mut Node) -> u64,
) -> u64 {
    node.counted = Counted::None;
    for _ in 0..WARM_ROUNDS {
        round(node);
    }
    node.counted = counted;
    let sum = (0..n).map(|_| round(node)).sum();
    node.counted = Counted::None;
    sum
}

fn batch(bytes: usize) -> BatchBuilder {
    let mut b = BatchBuilder::new();
    let value = vec![b'v'; bytes.min(1000)];
    loop {
        b.push(1_700_000_000_000, None, Some(&value));
        if b.size() + value.len() > bytes {
            return b;
        }
    }
}

fn built(bytes: usize) -> Bytes {
    batch(bytes).build().unwrap()
}

/// A Produce request of the same records for each partition.
pub fn produce_request<'a>(partitions: &[i32], records: &'a [u8]) -> wire::ProduceRequest<'a> {
    let part = |index: &i32| wire::produce_request::PartitionProduceData {
        index: *index,
        records: Some(Cow::Borrowed(records)),
    };
    wire::ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![wire::produce_request::TopicProduceData {
            name: TOPIC.into(),
            partition_data: partitions.iter().map(part).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A Fetch request without a session.
pub fn fetch_request(
    partitions: &[(i32, i64)],
    bytes: usize,
    wait_ms: i32,
) -> wire::FetchRequest<'static> {
    let part = |(partition, offset): &(i32, i64)| wire::fetch_request::FetchPartition {
        partition: *partition,
        fetch_offset: *offset,
        partition_max_bytes: bytes as i32,
        ..Default::default()
    };
    wire::FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![wire::fetch_request::FetchTopic {
            topic: TOPIC.into(),
            partitions: partitions.iter().map(part).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Creates the topic and says for each shard which partitions it owns.
fn create(node: &mut Node, client: Client, partitions: i32) {
    let request = wire::CreateTopicsRequest {
        topics: vec![wire::create_topics_request::CreatableTopic {
            name: TOPIC.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        }],
        timeout_ms: 1000,
        ..Default::default()
    };
    let r: wire::CreateTopicsResponse<'_> = node.call(client, &request, 7);
    assert_eq!(r.topics[0].error_code, 0);
}

/// Produces once and gives the base offset.
fn produced(node: &mut Node, client: Client, partition: i32, records: &[u8]) -> i64 {
    let request = produce_request(&[partition], records);
    let r: wire::ProduceResponse<'_> = node.call(client, &request, PRODUCE);
    let answer = &r.responses[0].partition_responses[0];
    assert_eq!(answer.error_code, 0);
    answer.base_offset
}

/// A node of one shard with `clients` connections and the topic.
fn one_shard(clients: usize, partitions: i32) -> (Node, Vec<Client>) {
    let mut node = Node::start(1);
    let clients: Vec<Client> = (0..clients).map(|_| node.connect(0)).collect();
    create(&mut node, clients[0], partitions);
    (node, clients)
}

/// All offered requests in one turn; every one must be answered.
fn settled(node: &mut Node, answers: usize, least_bytes: usize) -> u64 {
    node.settle();
    let (n, bytes) = node.take_answers();
    assert_eq!(n, answers, "answers");
    assert!(bytes >= least_bytes, "{bytes} bytes, not {least_bytes}");
    n as u64
}

fn produce(clients: usize, partitions: i32, bytes: usize, n: u32) -> u64 {
    let (mut node, clients) = one_shard(clients, 8);
    let records = built(bytes);
    rounds(&mut node, Counted::All, n, |node| {
        for (n, client) in (0..).zip(&clients) {
            let to: Vec<i32> = (n..n + partitions).map(|p| p % 8).collect();
            node.offer(*client, &produce_request(&to, &records), PRODUCE);
        }
        settled(node, clients.len(), 0)
    })
}

fn produce_deep(n: u32) -> u64 {
    let (mut node, clients) = one_shard(8, 8);
    let records = built(100);
    rounds(&mut node, Counted::All, n, |node| {
        for (n, client) in (0..).zip(&clients) {
            for _ in 0..5 {
                node.offer(*client, &produce_request(&[n], &records), PRODUCE);
            }
        }
        settled(node, clients.len() * 5, 0)
    })
}

fn idempotent(n: u32) -> u64 {
    let (mut node, clients) = one_shard(1, 1);
    let request = wire::InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 1000,
        ..Default::default()
    };
    let r: wire::InitProducerIdResponse = node.call(clients[0], &request, 4);
    assert_eq!(r.error_code, 0);
    let mut sequence = 0;
    rounds(&mut node, Counted::All, n, |node| {
        let b = batch(16 * KIB).producer(r.producer_id, r.producer_epoch, sequence);
        sequence += b.count();
        let records = b.build().unwrap();
        node.offer(clients[0], &produce_request(&[0], &records), PRODUCE);
        settled(node, 1, 0)
    })
}

/// Reads partitions that are empty: memory keeps the latest batches of those that are read.
fn read_ends(node: &mut Node, client: Client, partitions: std::ops::Range<i32>) {
    let wants: Vec<(i32, i64)> = partitions.map(|p| (p, 0)).collect();
    node.offer(client, &fetch_request(&wants, 16 * KIB, 0), FETCH);
    settled(node, 1, 0);
}

fn fetch(from_file: bool, bytes: usize, n: u32) -> u64 {
    let (mut node, clients) = one_shard(1, 1);
    read_ends(&mut node, clients[0], 0..1);
    let records = built(64 * KIB);
    let mut last = 0;
    // 8 MiB is more than a partition keeps in memory.
    for _ in 0..8 << 20 >> 16 {
        last = produced(&mut node, clients[0], 0, &records);
    }
    let offset = if from_file { 0 } else { last };
    rounds(&mut node, Counted::All, n, |node| {
        node.offer(clients[0], &fetch_request(&[(0, offset)], bytes, 0), FETCH);
        settled(node, 1, bytes * 9 / 10)
    })
}

fn fetch_many(n: u32) -> u64 {
    let (mut node, clients) = one_shard(1, 8);
    let records = built(16 * KIB);
    read_ends(&mut node, clients[0], 0..8);
    for partition in 0..8 {
        produced(&mut node, clients[0], partition, &records);
    }
    let wants: Vec<(i32, i64)> = (0..8).map(|p| (p, 0)).collect();
    rounds(&mut node, Counted::All, n, |node| {
        node.offer(clients[0], &fetch_request(&wants, 16 * KIB, 0), FETCH);
        settled(node, 1, 8 * 15 * KIB)
    })
}

/// Consumers at the end of the log, and a producer that wakes them.
fn tail(consumers: usize, n: u32) -> u64 {
    let (mut node, clients) = one_shard(consumers + 1, 1);
    let records = built(100);
    let mut end = produced(&mut node, clients[consumers], 0, &records) + 1;
    let counted = rounds(&mut node, Counted::All, n, |node| {
        for client in &clients[..consumers] {
            node.offer(*client, &fetch_request(&[(0, end)], 64 * KIB, 500), FETCH);
        }
        settled(node, 0, 0);
        node.offer(
            clients[consumers],
            &produce_request(&[0], &records),
            PRODUCE,
        );
        end += 1;
        settled(node, consumers + 1, 0)
    });
    counted / (consumers as u64 + 1)
}

/// A consumer with a session, and a producer to its partitions in turns: before each fetch, or
/// while that waits.
fn session(partitions: i32, wait_ms: i32, n: u32) -> u64 {
    let (mut node, clients) = one_shard(2, partitions);
    let records = built(100);
    let all: Vec<(i32, i64)> = (0..partitions).map(|p| (p, 0)).collect();
    let mut open = fetch_request(&all, 64 * KIB, 0);
    open.session_epoch = 0;
    let r: wire::FetchResponse<'_> = node.call(clients[0], &open, FETCH);
    assert_ne!(r.session_id, 0);
    let (mut epoch, mut ends) = (0, vec![0; partitions as usize]);
    let mut last: Option<i32> = None;
    rounds(&mut node, Counted::All, n, |node| {
        epoch += 1;
        let partition = epoch * 7 % partitions;
        // The position has moved on where the last answer had data.
        let moved: Vec<(i32, i64)> = last.iter().map(|p| (*p, ends[*p as usize])).collect();
        let mut request = fetch_request(&moved, 64 * KIB, wait_ms);
        (request.session_id, request.session_epoch) = (r.session_id, epoch);
        if moved.is_empty() {
            request.topics.clear();
        }
        let produce = produce_request(&[partition], &records);
        if wait_ms > 0 {
            node.offer(clients[0], &request, FETCH);
            settled(node, 0, 0);
            node.offer(clients[1], &produce, PRODUCE);
        } else {
            node.offer(clients[1], &produce, PRODUCE);
            settled(node, 1, 0);
            node.offer(clients[0], &request, FETCH);
        }
        last = Some(partition);
        ends[partition as usize] += 1;
        settled(node, if wait_ms > 0 { 2 } else { 1 }, 100);
        1
    })
}

/// One shard that is the coordinator of groups.
fn group_shard() -> (Node, Client) {
    let (mut node, clients) = one_shard(1, 1);
    let client = clients[0];
    let find = wire::FindCoordinatorRequest {
        coordinator_keys: vec!["g".into()],
        ..Default::default()
    };
    // The first one makes the offsets topic.
    while {
        let r: wire::FindCoordinatorResponse<'_> = node.call(client, &find, 4);
        r.coordinators[0].error_code != 0
    } {}
    (node, client)
}

/// One heartbeat of one group after the other, with one member each.
fn heartbeats(groups: usize, n: u32) -> u64 {
    let (mut node, client) = group_shard();
    let mut beats = Vec::new();
    for group in 0..groups {
        let mut beat = wire::ConsumerGroupHeartbeatRequest {
            group_id: format!("group-{group}").into(),
            member_id: "member".into(),
            rebalance_timeout_ms: 30_000,
            subscribed_topic_names: Some(vec![TOPIC.into()]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        // Each partition of the offsets topic is loaded first.
        beat.member_epoch = loop {
            let r: wire::ConsumerGroupHeartbeatResponse<'_> = node.call(client, &beat, 1);
            if r.error_code == 0 {
                break r.member_epoch;
            }
        };
        beat.rebalance_timeout_ms = -1;
        beat.subscribed_topic_names = None;
        beat.topic_partitions = None;
        beats.push(beat);
    }
    let mut turns = beats.iter().cycle();
    rounds(&mut node, Counted::All, n, |node| {
        node.offer(client, turns.next().unwrap(), 1);
        settled(node, 1, 0)
    })
}

fn heartbeat(n: u32) -> u64 {
    let (mut node, client) = group_shard();
    let mut join = wire::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![wire::join_group_request::JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Cow::Borrowed(&[0]),
        }],
        ..Default::default()
    };
    let joined = loop {
        let r: wire::JoinGroupResponse<'_> = node.call(client, &join, 9);
        join.member_id = r.member_id.to_string().into();
        if r.error_code == 0 {
            break r;
        }
    };
    let member: Cow<'_, str> = joined.member_id.to_string().into();
    let sync = wire::SyncGroupRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: member.clone(),
        ..Default::default()
    };
    let r: wire::SyncGroupResponse<'_> = node.call(client, &sync, 4);
    assert_eq!(r.error_code, 0);
    let beat = wire::HeartbeatRequest {
        group_id: "g".into(),
        generation_id: joined.generation_id,
        member_id: member,
        ..Default::default()
    };
    let r: wire::HeartbeatResponse = node.call(client, &beat, 4);
    assert_eq!(r.error_code, 0);
    rounds(&mut node, Counted::All, n, |node| {
        node.offer(client, &beat, 4);
        settled(node, 1, 0)
    })
}

/// Two shards, connections on the first, and a partition of the second.
fn two_shards(clients: usize) -> (Node, Vec<Client>, i32) {
    let mut node = Node::start(2);
    let clients: Vec<Client> = (0..clients).map(|_| node.connect(0)).collect();
    create(&mut node, clients[0], 8);
    let request = wire::MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let r: wire::MetadataResponse<'_> = node.call(clients[0], &request, 12);
    let topic_id = r.topics[0].topic_id;
    let away = |partition: &i32| {
        let tp = TopicPartition {
            topic_id,
            partition: *partition,
        };
        tp.shard(2).0 == 1
    };
    let partition = (0..8).find(away).unwrap();
    (node, clients, partition)
}

fn hop(clients: usize, bytes: usize, counted: Counted, n: u32) -> u64 {
    let (mut node, clients, partition) = two_shards(clients);
    let records = built(bytes);
    rounds(&mut node, counted, n, |node| {
        for client in &clients {
            node.offer(*client, &produce_request(&[partition], &records), PRODUCE);
        }
        settled(node, clients.len(), 0)
    })
}

fn hop_fetch(counted: Counted, n: u32) -> u64 {
    let (mut node, clients, partition) = two_shards(1);
    read_ends(&mut node, clients[0], partition..partition + 1);
    let offset = produced(&mut node, clients[0], partition, &built(64 * KIB));
    rounds(&mut node, counted, n, |node| {
        let request = fetch_request(&[(partition, offset)], 64 * KIB, 0);
        node.offer(clients[0], &request, FETCH);
        settled(node, 1, 60 * KIB)
    })
}
