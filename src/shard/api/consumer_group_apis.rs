//! ConsumerGroupHeartbeat (68) and ConsumerGroupDescribe (69), versions 0 to 1 (KIP-848; v1: ids
//! made by members and regular expressions, and the kind of each member). Refused with
//! UNSUPPORTED_VERSION where the feature `group.version` is at level 0 or the protocol is not among
//! `group.coordinator.rebalance.protocols`.

use super::group_apis::for_group;
use super::{authorized, decode};
use crate::ops::{Gathering, GroupOp, GroupResult, Op, OpResult};
use crate::request::{Reply, Request};
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_wire::Message;
use flumen_wire::messages as wire;
use std::borrow::Cow;
use wire::consumer_group_describe_response::DescribedGroup;

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
    let message = for_group!(
        shard,
        turn,
        request,
        body,
        wire::ConsumerGroupHeartbeatRequest<'_>,
        |_m, error| wire::ConsumerGroupHeartbeatResponse {
            error_code: error.code(),
            ..Default::default()
        }
    );
    let (now, token) = (turn.now, shard.next_reply_token());
    shard.with_coordinator(&request, |c, ctx, _, out| {
        c.consumer_group_heartbeat(now, ctx, token, &message, out);
    });
    shard.await_groups(token, request.reply);
}

pub(crate) fn describe(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let message = decode!(shard, turn, request, wire::ConsumerGroupDescribeRequest<'_>);
    let served = shard.serves_consumer_groups();
    let mut ops = Vec::new();
    let mut places = Vec::new();
    let mut results = Vec::new();
    for (n, group) in message.group_ids.iter().enumerate() {
        let owner = match served {
            true => shard.coordinator_of(group),
            false => Err(ErrorCode::UnsupportedVersion),
        };
        results.push(DescribedGroup {
            group_id: Cow::Owned(group.to_string()),
            error_code: owner.err().unwrap_or_default().code(),
            ..Default::default()
        });
        if let Ok(owner) = owner {
            let group = group.to_string();
            ops.push((owner, Op::Group(GroupOp::DescribeConsumer { group })));
            places.push(n);
        }
    }
    let gathering = Described {
        results,
        places,
        with_operations: message.include_authorized_operations,
    };
    drop(message);
    shard.gather(turn, request.reply, Box::new(gathering), ops);
}

struct Described {
    results: Vec<DescribedGroup<'static>>,
    places: Vec<usize>,
    /// The request asks for authorized operations.
    with_operations: bool,
}

impl Gathering for Described {
    fn take(&mut self, index: u32, result: OpResult) {
        let place = self.places.get(index as usize);
        let place = place.and_then(|n| self.results.get_mut(*n));
        let OpResult::Group(GroupResult::DescribeConsumer(group)) = result else {
            return;
        };
        if let Some(place) = place {
            *place = *group;
            if self.with_operations && place.error_code == ErrorCode::None.code() {
                place.authorized_operations = authorized::GROUP;
            }
        }
    }

    fn finish(self: Box<Self>, shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply) {
        let response = wire::ConsumerGroupDescribeResponse {
            groups: self.results,
            ..Default::default()
        };
        shard.reply(turn, reply, &response);
    }
}
