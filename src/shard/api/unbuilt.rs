//! Share groups (KIP-932): not built. Their APIs are not advertised; who asks nevertheless hears
//! UNSUPPORTED_VERSION, as from a Kafka cluster whose feature `share.version` is at level 0 as it
//! is here.

use super::{Handler, Route, decode};
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_wire::ApiKey;
use flumen_wire::messages as wire;
use std::borrow::Cow;

const UNSUPPORTED: i16 = ErrorCode::UnsupportedVersion as i16;

/// A refusal with an error on top.
macro_rules! refuse_all {
    ($name:ident $request:ty, $response:ident) => {
        fn $name(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
            let _checked = decode!(shard, turn, request, $request);
            let response = wire::$response {
                error_code: UNSUPPORTED,
                ..Default::default()
            };
            shard.reply(turn, request.reply, &response);
        }
    };
}

/// A refusal with an error for each group that was asked for.
macro_rules! refuse_each {
    ($name:ident $request:ty, $response:ident, $module:ident) => {
        fn $name(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
            let message = decode!(shard, turn, request, $request);
            let described = |group_id: &Cow<'_, str>| wire::$module::DescribedGroup {
                error_code: UNSUPPORTED,
                group_id: Cow::Owned(group_id.to_string()),
                ..Default::default()
            };
            let response = wire::$response {
                groups: message.group_ids.iter().map(described).collect(),
                ..Default::default()
            };
            shard.reply(turn, request.reply, &response);
        }
    };
}

refuse_all!(share_heartbeat wire::ShareGroupHeartbeatRequest<'_>, ShareGroupHeartbeatResponse);
refuse_each!(share_describe wire::ShareGroupDescribeRequest<'_>,
    ShareGroupDescribeResponse, share_group_describe_response);
refuse_all!(share_fetch wire::ShareFetchRequest<'_>, ShareFetchResponse);
refuse_all!(share_acknowledge wire::ShareAcknowledgeRequest<'_>, ShareAcknowledgeResponse);

const fn refusal(
    key: ApiKey,
    (min, max): (i16, i16),
    run: fn(&mut Shard, &mut Turn<'_>, Request),
) -> Handler {
    Handler {
        key,
        min,
        max,
        route: Route::Here,
        run,
        gaps: "",
    }
}

/// Not in [`super::HANDLERS`], so not advertised.
const REFUSALS: &[Handler] = &[
    refusal(ApiKey::ShareGroupHeartbeat, (1, 1), share_heartbeat),
    refusal(ApiKey::ShareGroupDescribe, (1, 1), share_describe),
    refusal(ApiKey::ShareFetch, (1, 2), share_fetch),
    refusal(ApiKey::ShareAcknowledge, (1, 2), share_acknowledge),
];

/// How requests of an API that is not built are refused, if by an answer.
pub(crate) fn refusal_of(key: ApiKey) -> Option<&'static Handler> {
    REFUSALS.iter().find(|h| h.key == key)
}
