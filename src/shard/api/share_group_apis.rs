//! ShareGroupHeartbeat (76) and ShareGroupDescribe (77), version 1; DescribeShareGroupOffsets (90),
//! versions 0 and 1 (1: the lag), AlterShareGroupOffsets (91) and DeleteShareGroupOffsets (92),
//! version 0 (KIP-932). Refused with UNSUPPORTED_VERSION where the feature `share.version` is at
//! level 0.

use super::consumer_group_apis::describe_groups;
use super::fill::{Place, Scatter};
use super::group_apis::for_group;
use super::{authorized, decode};
use crate::ops::{GroupOp, GroupResult, OpResult};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_quorum::controller::SHARE_VERSION_FEATURE;
use flumen_wire::Message;
use flumen_wire::messages as wire;
use std::borrow::Cow;

impl Shard {
    /// Whether share groups may be used.
    pub(crate) fn serves_share_groups(&self) -> bool {
        self.image.feature(SHARE_VERSION_FEATURE) >= 1
    }
}

/// A request about one share group: `$call` asks its coordinator. While share groups are off it is
/// refused; its bytes are looked at nevertheless.
macro_rules! share_group_api {
    ($name:ident, $request:ident, $response:ident,
     |$coordinator:ident, $ask:ident, $message:ident, $out:ident| $call:expr) => {
        pub(crate) fn $name(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
            let refused = |error: ErrorCode| wire::$response {
                error_code: error.code(),
                ..Default::default()
            };
            if !shard.serves_share_groups() {
                let _checked = decode!(shard, turn, request, wire::$request<'_>);
                let response = refused(ErrorCode::UnsupportedVersion);
                shard.reply(turn, request.reply, &response);
                return;
            }
            let body = request.body.clone();
            let $message = for_group!(
                shard,
                turn,
                request,
                body,
                wire::$request<'_>,
                |_m, error| refused(error)
            );
            shard.ask_coordinator(turn, request, |$coordinator, $ask, _, $out| $call);
        }
    };
}

share_group_api!(
    heartbeat,
    ShareGroupHeartbeatRequest,
    ShareGroupHeartbeatResponse,
    |c, ask, message, out| c.share_group_heartbeat(ask.now, ask.ctx, ask.token, &message, out)
);

share_group_api!(
    alter_offsets,
    AlterShareGroupOffsetsRequest,
    AlterShareGroupOffsetsResponse,
    |c, ask, message, out| c.alter_share_group_offsets(ask.now, ask.token, &message, out)
);

share_group_api!(
    delete_offsets,
    DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse,
    |c, ask, message, out| c.delete_share_group_offsets(ask.now, ask.token, &message, out)
);

describe_groups!(
    serves_share_groups,
    wire::ShareGroupDescribeRequest<'_>,
    ShareGroupDescribeResponse,
    share_group_describe_response,
    DescribeShare
);
