//! StreamsGroupHeartbeat (88) and StreamsGroupDescribe (89), version 0 (KIP-1071). Refused with
//! UNSUPPORTED_VERSION where the feature `streams.version` is at level 0 or the protocol is not
//! among `group.coordinator.rebalance.protocols`. A topology must name topics by valid names, and
//! none of the broker's own.

use super::consumer_group_apis::describe_groups;
use super::fill::{Place, Scatter};
use super::group_apis::for_group;
use super::{authorized, decode};
use crate::ops::{GroupOp, GroupResult, OpResult};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_quorum::controller::{is_internal_topic, validate_topic_name};
use flumen_wire::Message;
use flumen_wire::messages as wire;
use std::borrow::Cow;

type Response = wire::StreamsGroupHeartbeatResponse<'static>;

fn refusal(error: ErrorCode, message: Option<String>) -> Response {
    Response {
        error_code: error.code(),
        error_message: message.map(Cow::Owned),
        ..Default::default()
    }
}

/// Every topic of a topology once, in the order in which it names them.
fn topics_of<'m>(message: &'m wire::StreamsGroupHeartbeatRequest<'_>) -> Vec<&'m str> {
    let mut topics: Vec<&str> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let subtopologies = message.topology.iter().flat_map(|t| &t.subtopologies);
    for s in subtopologies {
        let read = s.source_topics.iter().map(|t| &**t);
        let sinks = s.repartition_sink_topics.iter().map(|t| &**t);
        let sources = s.repartition_source_topics.iter().map(|t| &*t.name);
        let changelogs = s.state_changelog_topics.iter().map(|t| &*t.name);
        let all = read.chain(sinks).chain(sources).chain(changelogs);
        topics.extend(all.filter(|topic| seen.insert(*topic)));
    }
    topics
}

/// What is wrong with the topics of a topology.
fn bad_topics(message: &wire::StreamsGroupHeartbeatRequest<'_>) -> Option<Response> {
    let topics = topics_of(message);
    let listed = |bad: fn(&str) -> bool| {
        let bad: Vec<&str> = topics.iter().copied().filter(|t| bad(t)).collect();
        (!bad.is_empty()).then(|| bad.join(","))
    };
    let text = match listed(is_internal_topic) {
        Some(internal) => format!(
            "Use of Kafka internal topics {internal} in a Kafka Streams topology is prohibited."
        ),
        None => {
            let invalid = listed(|topic| validate_topic_name(topic).is_err())?;
            format!("Topic names {invalid} are not valid topic names.")
        }
    };
    Some(refusal(ErrorCode::StreamsInvalidTopology, Some(text)))
}

pub(crate) fn heartbeat(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone();
    if !shard.serves_streams_groups() {
        let _checked = decode!(shard, turn, request, wire::StreamsGroupHeartbeatRequest<'_>);
        let response = refusal(ErrorCode::UnsupportedVersion, None);
        shard.reply(turn, request.reply, &response);
        return;
    }
    let message = for_group!(
        shard,
        turn,
        request,
        body,
        wire::StreamsGroupHeartbeatRequest<'_>,
        |m, error| bad_topics(&m).unwrap_or_else(|| refusal(error, None))
    );
    if let Some(response) = bad_topics(&message) {
        shard.reply(turn, request.reply, &response);
        return;
    }
    shard.ask_coordinator(turn, request, |c, ask, _, out| {
        c.streams_group_heartbeat(ask.now, ask.ctx, ask.token, &message, out);
    });
}

describe_groups!(
    serves_streams_groups,
    wire::StreamsGroupDescribeRequest<'_>,
    StreamsGroupDescribeResponse,
    streams_group_describe_response,
    DescribeStreams
);
