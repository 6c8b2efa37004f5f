//! The APIs that the controller decides, on shard 0. Their rules are in `flumen-quorum`'s
//! `controller`; here is only how each request gets there. The answer leaves when every shard has
//! applied the change, so that a client reads its own writes.
//!
//! - CreateTopics (19) 2 to 7: v4 defaults by -1 (KIP-464), v5 configs in the answer (KIP-525), v7
//!   topic ids (KIP-516).
//! - DeleteTopics (20) 1 to 6: v6 by topic id. CreatePartitions (37) 0 to 3.
//! - AlterConfigs (33) 0 to 2, IncrementalAlterConfigs (44) 0 to 1 (KIP-339).
//! - ElectLeaders (43) 0 to 2 (KIP-460), AlterPartitionReassignments (45) 0 to 1 and
//!   ListPartitionReassignments (46) 0 (KIP-455).
//! - DescribeQuorum (55) 0 to 2 (KIP-595, KIP-836), UpdateFeatures (57) 0 to 2 (KIP-584),
//!   UnregisterBroker (64) 0.

use crate::io::CloseReason;
use crate::request::Request;
use crate::{Shard, Turn};
use flumen_quorum::controller::{self as c, Decision};
use flumen_wire::messages as wire;
use flumen_wire::{DecodeError, Message};

fn body<'a, M: Message<'a>>(request: &'a Request) -> Result<M, CloseReason> {
    let malformed = |e: DecodeError| CloseReason::Malformed(e.to_string());
    M::decode_exact(&request.body, request.version()).map_err(malformed)
}

fn answer<R>(response: R) -> Decision<R> {
    Decision {
        records: Vec::new(),
        response,
    }
}

pub(crate) fn create_topics(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, prng, _, request| {
        let message: wire::CreateTopicsRequest<'_> = body(request)?;
        Ok(c::create_topics(ctx, prng, &message))
    });
}

pub(crate) fn delete_topics(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::DeleteTopicsRequest<'_> = body(request)?;
        Ok(c::delete_topics(ctx, &message, request.version()))
    });
}

pub(crate) fn create_partitions(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, prng, _, request| {
        let message: wire::CreatePartitionsRequest<'_> = body(request)?;
        Ok(c::create_partitions(ctx, prng, &message))
    });
}

pub(crate) fn alter_configs(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::AlterConfigsRequest<'_> = body(request)?;
        Ok(c::alter_configs(ctx, &message))
    });
}

pub(crate) fn incremental_alter_configs(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::IncrementalAlterConfigsRequest<'_> = body(request)?;
        Ok(c::incremental_alter_configs(ctx, &message))
    });
}

pub(crate) fn elect_leaders(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::ElectLeadersRequest<'_> = body(request)?;
        Ok(c::elect_leaders(ctx, &message))
    });
}

pub(crate) fn alter_partition_reassignments(
    shard: &mut Shard,
    turn: &mut Turn<'_>,
    request: Request,
) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::AlterPartitionReassignmentsRequest<'_> = body(request)?;
        Ok(c::alter_partition_reassignments(ctx, &message))
    });
}

pub(crate) fn list_partition_reassignments(
    shard: &mut Shard,
    turn: &mut Turn<'_>,
    request: Request,
) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::ListPartitionReassignmentsRequest<'_> = body(request)?;
        Ok(answer(c::list_partition_reassignments(ctx, &message)))
    });
}

pub(crate) fn describe_quorum(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    let wall_ms = turn.now.wall_ms;
    shard.decide(turn, request, |ctx, _, quorum, request| {
        let message: wire::DescribeQuorumRequest<'_> = body(request)?;
        let status = quorum.status();
        Ok(answer(c::describe_quorum(
            ctx,
            &status,
            &message,
            request.version(),
            wall_ms,
        )))
    });
}

pub(crate) fn update_features(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::UpdateFeaturesRequest<'_> = body(request)?;
        Ok(c::update_features(ctx, &message, request.version()))
    });
}

pub(crate) fn unregister_broker(shard: &mut Shard, turn: &mut Turn<'_>, request: Request) {
    shard.decide(turn, request, |ctx, _, _, request| {
        let message: wire::UnregisterBrokerRequest = body(request)?;
        Ok(c::unregister_broker(ctx, &message))
    });
}
