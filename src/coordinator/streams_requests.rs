//! The entries of the APIs of streams groups.

use crate::coordinator::GroupCoordinator;
use crate::out::{Out, ReplyToken, RequestContext};
use crate::streams::{
    streams_described_error, streams_described_unknown, streams_heartbeat_error, validate_streams,
};
use flumen_base::Now;
use flumen_wire::messages::StreamsGroupHeartbeatRequest;
use flumen_wire::messages::streams_group_describe_response::DescribedGroup;

impl GroupCoordinator {
    /// StreamsGroupHeartbeat. Answered with [`crate::Reply::StreamsGroupHeartbeat`] when what it
    /// changed is written. That the topics of the topology may be named and used is for the shard
    /// to say.
    pub fn streams_group_heartbeat(
        &mut self,
        now: Now,
        ctx: RequestContext<'_>,
        token: ReplyToken,
        request: &StreamsGroupHeartbeatRequest<'_>,
        out: &mut Out,
    ) {
        let asked = (&*request.group_id, request.member_epoch);
        let target = validate_streams(request)
            .and_then(|()| self.heartbeat_target(now, asked, "Streams group"));
        match target {
            Err(refusal) => Self::reply(out, token, streams_heartbeat_error(refusal)),
            Ok((serial, created)) => {
                self.with_group(serial, now, out, |group, env| {
                    group.streams_heartbeat(env, ctx, token, request, created);
                });
            }
        }
    }

    /// One group of a StreamsGroupDescribe request.
    pub fn describe_streams_group(&self, name: &str) -> DescribedGroup<'static> {
        let group = match self.to_describe(name) {
            Ok(group) => group,
            Err(refusal) => return streams_described_error(name, refusal),
        };
        let described = group.and_then(|g| g.describe_streams());
        described.unwrap_or_else(|| streams_described_unknown(name, group.is_some()))
    }
}
