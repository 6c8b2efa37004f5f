//! Ten thousand groups on one node: a heartbeat costs what it costs with a hundred of them, of both
//! protocols, and all are there again after a kill.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flumen_it::{Broker, Kind, Raw, Shape, raw, wait};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, ListGroupsRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::{PATIENCE, count, options};

ecosystem!(heartbeats_cost_the_same_with_many_groups);

const TOPIC: &str = "beaten";
/// Requests on their way at once.
const WINDOW: usize = 50;
/// Groups at the first measurement.
const FEW: usize = 100;
/// Errors that end by waiting: the coordinator loads, is not there yet, or is elsewhere.
const NOT_YET: [i16; 3] = [14, 15, 16];

/// A group with its one member.
#[derive(Clone)]
struct Group {
    id: StrBytes,
    member: StrBytes,
    /// Epoch or generation.
    epoch: i32,
}

/// The two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Classic,
    Consumer,
}

fn string(text: String) -> StrBytes {
    StrBytes::from_string(text)
}

fn heartbeats_cost_the_same_with_many_groups(shape: Shape) -> Result<()> {
    let options = options(shape)
        .set("group.max.session.timeout.ms", "3600000")
        .set("group.consumer.max.session.timeout.ms", "3600000")
        .set("group.consumer.session.timeout.ms", "3600000")
        .set("group.initial.rebalance.delay.ms", "0");
    let mut broker = Broker::start(options)?;
    broker.raw()?.create_topic(TOPIC, 1)?;
    let many = count(2_000, 10_000);
    for protocol in [Protocol::Consumer, Protocol::Classic] {
        let mut raw = broker.raw()?;
        await_coordinators(&mut raw, protocol)?;
        let mut groups = create(&mut raw, protocol, 0..FEW)?;
        let few = cost(&mut broker, protocol, &groups)?;
        let before = broker.process()?.resident_bytes()?;
        groups.extend(create(&mut raw, protocol, FEW..many)?);
        let grown = broker.process()?.resident_bytes()?.saturating_sub(before);
        let all = cost(&mut broker, protocol, &groups)?;
        println!(
            "{protocol:?}: {few:.2?} of CPU each with {FEW} groups, {all:.2?} with {many}; {} \
             bytes of memory each",
            grown / (many - FEW) as u64
        );
        let flat = all.as_secs_f64() <= 1.5 * few.as_secs_f64();
        ensure!(
            flat || broker.kind() == Kind::Kafka,
            "{protocol:?}: a heartbeat costs {few:?} with {FEW} groups, {all:?} with {many}"
        );
        all_are_back(&mut broker, protocol, &groups)?;
    }
    Ok(())
}

/// Waits until every partition of the offsets topic has a coordinator that has loaded it.
fn await_coordinators(raw: &mut Raw, protocol: Protocol) -> Result<()> {
    for n in 0..64 {
        wait::until("the coordinators", Duration::from_secs(30), || {
            let key = string(format!("probe-{protocol:?}-{n}"));
            let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![key.clone()]);
            raw.call(&find, 4)?;
            let beat = HeartbeatRequest::default().with_group_id(GroupId(key));
            let code = raw.call(&beat, 3)?.error_code;
            Ok((!NOT_YET.contains(&code)).then_some(()))
        })?;
    }
    Ok(())
}

fn create(raw: &mut Raw, protocol: Protocol, which: std::ops::Range<usize>) -> Result<Vec<Group>> {
    let ids: Vec<StrBytes> = which
        .map(|n| string(format!("{protocol:?}-{n:05}")))
        .collect();
    let mut groups = Vec::new();
    for chunk in ids.chunks(WINDOW) {
        match protocol {
            Protocol::Consumer => consumers(raw, chunk, &mut groups)?,
            Protocol::Classic => classics(raw, chunk, &mut groups)?,
        }
    }
    Ok(groups)
}

fn consumers(raw: &mut Raw, ids: &[StrBytes], groups: &mut Vec<Group>) -> Result<()> {
    let requests: Vec<_> = ids
        .iter()
        .map(|id| {
            ConsumerGroupHeartbeatRequest::default()
                .with_group_id(GroupId(id.clone()))
                .with_member_id(string(format!("member-of-{id}")))
                .with_rebalance_timeout_ms(60_000)
                .with_subscribed_topic_names(Some(vec![raw::name(TOPIC)]))
                .with_topic_partitions(Some(Vec::new()))
        })
        .collect();
    for (request, answer) in requests.iter().zip(raw.pipeline(&requests, 1)?) {
        let (code, why) = (answer.error_code, answer.error_message);
        ensure!(code == 0, "{:?}: error {code} {why:?}", request.group_id);
        groups.push(Group {
            id: request.group_id.0.clone(),
            member: request.member_id.clone(),
            epoch: answer.member_epoch,
        });
    }
    Ok(())
}

fn classics(raw: &mut Raw, ids: &[StrBytes], groups: &mut Vec<Group>) -> Result<()> {
    let range = JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0"));
    let requests: Vec<_> = ids
        .iter()
        .map(|id| {
            // Version 3 does not send the member back for an id of its own.
            JoinGroupRequest::default()
                .with_group_id(GroupId(id.clone()))
                .with_session_timeout_ms(3_600_000)
                .with_rebalance_timeout_ms(60_000)
                .with_protocol_type(StrBytes::from_static_str("consumer"))
                .with_protocols(vec![range.clone()])
        })
        .collect();
    let mut joined = Vec::new();
    for (request, answer) in requests.iter().zip(raw.pipeline(&requests, 3)?) {
        let code = answer.error_code;
        ensure!(code == 0, "{:?}: error {code}", request.group_id);
        joined.push(Group {
            id: request.group_id.0.clone(),
            member: answer.member_id,
            epoch: answer.generation_id,
        });
    }
    let requests: Vec<_> = joined
        .iter()
        .map(|g| {
            SyncGroupRequest::default()
                .with_group_id(GroupId(g.id.clone()))
                .with_member_id(g.member.clone())
                .with_generation_id(g.epoch)
        })
        .collect();
    for (group, answer) in joined.iter().zip(raw.pipeline(&requests, 2)?) {
        let code = answer.error_code;
        ensure!(code == 0, "{}: error {code}", group.id);
    }
    groups.extend(joined);
    Ok(())
}

/// One heartbeat of each of these groups; gives the first error code other than 0.
fn beat(raw: &mut Raw, protocol: Protocol, groups: &[Group]) -> Result<i16> {
    let mut codes = Vec::new();
    match protocol {
        Protocol::Consumer => {
            let requests: Vec<_> = groups
                .iter()
                .map(|g| {
                    ConsumerGroupHeartbeatRequest::default()
                        .with_group_id(GroupId(g.id.clone()))
                        .with_member_id(g.member.clone())
                        .with_member_epoch(g.epoch)
                        .with_rebalance_timeout_ms(-1)
                })
                .collect();
            let answers = raw.pipeline(&requests, 1)?;
            codes.extend(answers.iter().map(|a| a.error_code));
        }
        Protocol::Classic => {
            let requests: Vec<_> = groups
                .iter()
                .map(|g| {
                    HeartbeatRequest::default()
                        .with_group_id(GroupId(g.id.clone()))
                        .with_member_id(g.member.clone())
                        .with_generation_id(g.epoch)
                })
                .collect();
            let answers = raw.pipeline(&requests, 3)?;
            codes.extend(answers.iter().map(|a| a.error_code));
        }
    }
    Ok(codes.into_iter().find(|c| *c != 0).unwrap_or(0))
}

/// CPU time of the broker for one heartbeat, when all these groups send theirs in turn: one after
/// the other, as members do who have a connection each, and not in the order in which the groups
/// were made. The least of three measurements, for what disturbs one only adds to it.
fn cost(broker: &mut Broker, protocol: Protocol, groups: &[Group]) -> Result<Duration> {
    let beats = count(5_000, 20_000);
    let mut groups = groups.to_vec();
    groups.sort_by_cached_key(|group| group.id.bytes().rev().collect::<Vec<_>>());
    let mut raw = broker.raw()?;
    let mut least = Duration::MAX;
    for _ in 0..3 {
        let before = broker.process()?.cpu_time()?;
        let mut sent = 0u32;
        while (sent as usize) < beats {
            for group in &groups {
                let code = beat(&mut raw, protocol, std::slice::from_ref(group))?;
                ensure!(code == 0, "a heartbeat: error {code}");
                sent += 1;
            }
        }
        let spent = broker.process()?.cpu_time()?.saturating_sub(before);
        least = least.min(spent / sent);
    }
    Ok(least)
}

/// After a kill every group is listed and every member's next heartbeat is taken.
fn all_are_back(broker: &mut Broker, protocol: Protocol, groups: &[Group]) -> Result<()> {
    broker.kill();
    broker.launch()?;
    let begin = Instant::now();
    let mut raw = broker.raw()?;
    let mut served = 0;
    for chunk in groups.chunks(WINDOW) {
        wait::until("heartbeats after a kill", PATIENCE, || {
            let code = beat(&mut raw, protocol, chunk)?;
            ensure!(code == 0, "error {code}");
            Ok(Some(()))
        })
        .with_context(|| format!("{protocol:?}, after {served} groups"))?;
        served += chunk.len();
    }
    println!(
        "{protocol:?}: {served} groups served {:?} after the start",
        begin.elapsed()
    );
    let listed = raw.call(&ListGroupsRequest::default(), 4)?;
    ensure!(
        listed.error_code == 0,
        "listing: error {}",
        listed.error_code
    );
    let prefix = format!("{protocol:?}-");
    let found = listed.groups.iter();
    let found = found.filter(|g| g.group_id.starts_with(&prefix)).count();
    ensure!(
        found == groups.len(),
        "{found} of {} groups listed",
        groups.len()
    );
    Ok(())
}
