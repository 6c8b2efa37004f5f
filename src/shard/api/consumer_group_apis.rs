//! ConsumerGroupHeartbeat (68) and ConsumerGroupDescribe (69), versions 0 to 1 (KIP-848; v1: ids
//! made by members and regular expressions, and the kind of each member). Refused with
//! UNSUPPORTED_VERSION where the feature `group.version` is at level 0 or the protocol is not among
//! `group.coordinator.rebalance.protocols`.

use super::fill::{Place, Scatter};
use super::group_apis::for_group;
use super::{authorized, decode};
use crate::ops::{GroupOp, GroupResult, OpResult};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_wire::Message;
use flumen_wire::messages as wire;
use std::borrow::Cow;

pub(crate) fn heartbeat(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    if !shard.serves_consumer_groups() {
        let _checked = decode!(
            shard,
            turn,
            request,
            wire::ConsumerGroupHeartbeatRequest<'_>
        );
        let response = wire::ConsumerGroupHeartbeatResponse {
            error_code: ErrorCode::UnsupportedVersion.code(),
            ..Default::default()
        };
        shard.reply(turn, request.reply, &response);
        return;
    }
    let body = request.body.clone();
    let message = for_group!(shard, turn, request, body,
        ConsumerGroupHeartbeatRequest => ConsumerGroupHeartbeatResponse);
    shard.ask_coordinator(turn, request, |c, ask, _, out| {
        c.consumer_group_heartbeat(ask.now, ask.ctx, ask.token, &message, out);
    });
}

/// A request that describes groups of one kind: each is asked of the shard that coordinates it.
/// `$op` names the operation and its result.
macro_rules! describe_groups {
    ($serves:ident, $request:ty, $response:ident, $module:ident, $op:ident) => {
        pub(crate) fn describe(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
            let message = decode!(shard, turn, request, $request);
            let served = shard.$serves();
            let with_operations = message.include_authorized_operations;
            let mut scatter = Scatter::default();
            let mut response = wire::$response::default();
            for (n, group) in message.group_ids.iter().enumerate() {
                let owner = match served {
                    true => shard.coordinator_of(group),
                    false => Err(ErrorCode::UnsupportedVersion),
                };
                response.groups.push(wire::$module::DescribedGroup {
                    group_id: Cow::Owned(group.to_string()),
                    error_code: owner.err().unwrap_or_default().code(),
                    ..Default::default()
                });
                if let Ok(owner) = owner {
                    let group = group.to_string();
                    scatter.add_group(owner, n, GroupOp::$op { group });
                }
            }
            drop(message);
            let put = move |r: &mut wire::$response<'static>, (n, _): Place, result| {
                let OpResult::Group(GroupResult::$op(mut group)) = result else {
                    return;
                };
                if with_operations && group.error_code == ErrorCode::None.code() {
                    group.authorized_operations = authorized::GROUP;
                }
                if let Some(place) = r.groups.get_mut(n) {
                    *place = *group;
                }
            };
            scatter.fill(shard, turn, request.reply, response, put);
        }
    };
}

pub(crate) use describe_groups;

describe_groups!(
    serves_consumer_groups,
    wire::ConsumerGroupDescribeRequest<'_>,
    ConsumerGroupDescribeResponse,
    consumer_group_describe_response,
    DescribeConsumer
);
