//! The APIs that are about one classic group each: they run on the shard that coordinates the
//! group, and their rules are in `flumen-coordinator`.
//!
//! - JoinGroup (11) 0 to 9: v4 MEMBER_ID_REQUIRED (KIP-394), v5 static members (KIP-345), v9 skip
//!   assignment (KIP-814).
//! - SyncGroup (14) 0 to 5, Heartbeat (12) 0 to 4, LeaveGroup (13) 0 to 5 (v3 many members).
//! - OffsetCommit (8) 2 to 10: v6 leader epochs (KIP-320), v9 KIP-848, v10 topic ids. OffsetDelete
//!   (47) 0 (KIP-496).

use crate::request::Request;
use crate::{Shard, Turn};
use flumen_wire::Message;
use flumen_wire::messages as wire;
use std::borrow::Cow;

/// Decodes the request (from `$body`, which shares its bytes) and goes on if its group is this
/// shard's. Elsewhere it is forwarded; where no shard has the group yet, `$refusal` is the answer.
/// Without one it is `$response`, which holds the error and nothing else.
macro_rules! for_group {
    ($shard:ident, $turn:ident, $request:ident, $body:ident,
     $message:ident => $response:ident) => {
        for_group!(
            $shard,
            $turn,
            $request,
            $body,
            wire::$message<'_>,
            |_m, error| wire::$response {
                error_code: error.code(),
                ..Default::default()
            }
        )
    };
    ($shard:ident, $turn:ident, $request:ident, $body:ident, $message:ty,
     |$m:ident, $error:ident| $refusal:expr) => {{
        let $m = match <$message>::decode_exact(&$body, $request.reply.version) {
            Ok(message) => message,
            Err(error) => {
                $shard.malformed($turn, $request.reply, error);
                return;
            }
        };
        match $shard.coordinator_of(&$m.group_id) {
            Ok(owner) if owner == $shard.id => $m,
            Ok(owner) => {
                $shard.forward($turn, owner, $request);
                return;
            }
            Err($error) => {
                let response = $refusal;
                $shard.reply($turn, $request.reply, &response);
                return;
            }
        }
    }};
}

pub(crate) use for_group;

pub(crate) fn join_group(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let (body, version) = (request.body.clone(), request.reply.version);
    let message = for_group!(
        shard,
        turn,
        request,
        body,
        wire::JoinGroupRequest<'_>,
        |m, error| wire::JoinGroupResponse {
            error_code: error.code(),
            generation_id: -1,
            // May be null from version 7 on.
            protocol_name: (version < 7).then_some(Cow::Borrowed("")),
            member_id: m.member_id,
            ..Default::default()
        }
    );
    shard.ask_coordinator(turn, request, |c, ask, _, out| {
        c.join_group(ask.now, ask.ctx, ask.token, &message, out);
    });
}

pub(crate) fn sync_group(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone();
    let message = for_group!(shard, turn, request, body, SyncGroupRequest => SyncGroupResponse);
    shard.ask_coordinator(turn, request, |c, ask, _, out| {
        c.sync_group(ask.now, ask.ctx, ask.token, &message, out);
    });
}

pub(crate) fn heartbeat(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone();
    let message = for_group!(shard, turn, request, body, HeartbeatRequest => HeartbeatResponse);
    let now = turn.now;
    let response = shard.with_coordinator(&request, |c, _, _, out| c.heartbeat(now, &message, out));
    shard.reply(turn, request.reply, &response);
}

pub(crate) fn leave_group(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone();
    let message = for_group!(shard, turn, request, body, LeaveGroupRequest => LeaveGroupResponse);
    shard.ask_coordinator(turn, request, |c, ask, _, out| {
        c.leave_group(ask.now, ask.ctx, ask.token, &message, out);
    });
}

pub(crate) fn offset_commit(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone();
    let message = for_group!(
        shard,
        turn,
        request,
        body,
        wire::OffsetCommitRequest<'_>,
        |m, error| refuse_commit(m, error.code())
    );
    shard.ask_coordinator(turn, request, |c, ask, topics, out| {
        c.offset_commit(ask.now, ask.ctx, ask.token, &message, topics, out);
    });
}

/// OffsetCommit has no error of its own: it stands with each partition.
fn refuse_commit(
    m: wire::OffsetCommitRequest<'_>,
    error_code: i16,
) -> wire::OffsetCommitResponse<'_> {
    use wire::offset_commit_response as r;
    let topics = m.topics.into_iter().map(|t| r::OffsetCommitResponseTopic {
        name: t.name,
        topic_id: t.topic_id,
        partitions: t
            .partitions
            .iter()
            .map(|p| r::OffsetCommitResponsePartition {
                partition_index: p.partition_index,
                error_code,
            })
            .collect(),
    });
    wire::OffsetCommitResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

pub(crate) fn offset_delete(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let body = request.body.clone();
    let message =
        for_group!(shard, turn, request, body, OffsetDeleteRequest => OffsetDeleteResponse);
    shard.ask_coordinator(turn, request, |c, ask, topics, out| {
        c.offset_delete(ask.now, ask.token, &message, topics, out);
    });
}
