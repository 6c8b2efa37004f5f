//! The APIs of the coordinator of stored share states (KIP-932): InitializeShareGroupState (83) 0,
//! ReadShareGroupState (84) 0, WriteShareGroupState (85) 0 to 1, DeleteShareGroupState (86) 0,
//! ReadShareGroupStateSummary (87) 0 to 1 (v1 of both: how many records are done with).
//!
//! Brokers ask each other with them; shards of one broker don't need them.

use super::decode;
use super::fill::{Place, Scatter};
use crate::ops::{Op, OpResult};
use crate::request::Request;
use crate::share_states::{
    ShareStateAnswer, ShareStateDeed, ShareStateFor, ShareStateOp, ShareStateResult,
};
use crate::{Shard, Turn};
use flumen_base::ErrorCode;
use flumen_coordinator::share::{ShareKey, ShareWrite, Stored};
use flumen_wire::messages as wire;

/// What is wrong with a group's name, if anything.
fn group_error(group: &str) -> Option<ErrorCode> {
    group.is_empty().then_some(ErrorCode::InvalidGroupId)
}

/// One handler: `$deed` makes the operation of a partition of the request, `$fill` puts what is
/// told of it into its answer.
macro_rules! state_api {
    ($name:ident, $request:ident, $response:ident, $of:ident, $result:ident,
     |$p:ident| $deed:expr, |$line:ident, $answer:ident| $fill:expr) => {
        pub(crate) fn $name(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
            let message = decode!(shard, turn, request, wire::$request<'_>);
            let mut scatter = Scatter::default();
            let mut response = wire::$response::default();
            for (t, topic) in message.topics.iter().enumerate() {
                let mut results = wire::$of::$result {
                    topic_id: topic.topic_id,
                    ..Default::default()
                };
                for (n, $p) in topic.partitions.iter().enumerate() {
                    let key = ShareKey {
                        group: (&*message.group_id).into(),
                        topic: topic.topic_id,
                        partition: $p.partition,
                    };
                    let owner = match group_error(&message.group_id) {
                        Some(error) => Err(error),
                        None => shard.share_state_owner(&key),
                    };
                    results.partitions.push(wire::$of::PartitionResult {
                        partition: $p.partition,
                        error_code: owner.err().unwrap_or_default().code(),
                        ..Default::default()
                    });
                    if let Ok(owner) = owner {
                        let (deed, who) = ($deed, ShareStateFor::Request);
                        let op = Op::ShareState(Box::new(ShareStateOp { key, deed, who }));
                        scatter.ops.push((owner, op));
                        scatter.places.push((t, n));
                    }
                }
                response.results.push(results);
            }
            drop(message);
            let put = |r: &mut wire::$response<'static>, (t, n): Place, result| {
                let line = r.results.get_mut(t).and_then(|r| r.partitions.get_mut(n));
                if let (Some($line), OpResult::ShareState(result)) = (line, result) {
                    let (error, $answer) = told(result);
                    $line.error_code = error.code();
                    if error.is_none() {
                        $fill;
                    }
                }
            };
            scatter.fill(shard, turn, request.reply, response, put);
        }
    };
}

fn told(result: ShareStateResult) -> (ErrorCode, ShareStateAnswer) {
    match result {
        Ok(answer) => (ErrorCode::None, *answer),
        Err(error) => (error, ShareStateAnswer::default()),
    }
}

state_api!(
    initialize,
    InitializeShareGroupStateRequest,
    InitializeShareGroupStateResponse,
    initialize_share_group_state_response,
    InitializeStateResult,
    |p| ShareStateDeed::Initialize {
        state_epoch: p.state_epoch,
        start_offset: p.start_offset,
    },
    |_line, _answer| {}
);

state_api!(
    read,
    ReadShareGroupStateRequest,
    ReadShareGroupStateResponse,
    read_share_group_state_response,
    ReadStateResult,
    |p| ShareStateDeed::Read {
        leader_epoch: p.leader_epoch,
    },
    |line, answer| {
        line.state_epoch = answer.state_epoch;
        line.start_offset = answer.start_offset;
        let batches = answer.batches.iter();
        line.state_batches = batches
            .map(|b| wire::read_share_group_state_response::StateBatch {
                first_offset: b.first,
                last_offset: b.last,
                delivery_state: b.delivery_state,
                delivery_count: b.delivery_count,
            })
            .collect();
    }
);

state_api!(
    write,
    WriteShareGroupStateRequest,
    WriteShareGroupStateResponse,
    write_share_group_state_response,
    WriteStateResult,
    |p| ShareStateDeed::Write(ShareWrite {
        leader_epoch: p.leader_epoch,
        state_epoch: p.state_epoch,
        start_offset: p.start_offset,
        delivery_complete_count: p.delivery_complete_count,
        batches: p
            .state_batches
            .iter()
            .map(|b| Stored {
                first: b.first_offset,
                last: b.last_offset,
                delivery_state: b.delivery_state,
                delivery_count: b.delivery_count,
            })
            .collect(),
    }),
    |_line, _answer| {}
);

state_api!(
    delete,
    DeleteShareGroupStateRequest,
    DeleteShareGroupStateResponse,
    delete_share_group_state_response,
    DeleteStateResult,
    |p| ShareStateDeed::Delete,
    |_line, _answer| {}
);

state_api!(
    summary,
    ReadShareGroupStateSummaryRequest,
    ReadShareGroupStateSummaryResponse,
    read_share_group_state_summary_response,
    ReadStateSummaryResult,
    |p| ShareStateDeed::Summary,
    |line, answer| {
        line.state_epoch = answer.state_epoch;
        line.leader_epoch = answer.leader_epoch;
        line.start_offset = answer.start_offset;
        line.delivery_complete_count = answer.delivery_complete_count;
    }
);
