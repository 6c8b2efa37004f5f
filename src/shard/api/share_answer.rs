//! The answers to ShareFetch and ShareAcknowledge.

use super::share_fetch::{ShareFetch, ShareWant};
use crate::request::Reply;
use crate::share_sessions::{FINAL_EPOCH, INITIAL_EPOCH};
use crate::shares::ShareAcquired;
use crate::{Shard, Turn};
use bytes::Bytes;
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_wire::ApiKey;
use flumen_wire::messages as wire;
use std::borrow::Cow;
use wire::{share_acknowledge_response as acks, share_fetch_response as parts};

/// Refuses a ShareFetch as a whole.
pub(super) fn refuse_fetch(shard: &mut Shard, turn: &mut Turn<'_>, reply: Reply, error: ErrorCode) {
    let response = wire::ShareFetchResponse {
        error_code: error.code(),
        ..Default::default()
    };
    shard.reply(turn, reply, &response);
}

/// Refuses a ShareAcknowledge as a whole.
pub(super) fn refuse_acknowledge(
    shard: &mut Shard,
    turn: &mut Turn<'_>,
    reply: Reply,
    error: ErrorCode,
) {
    let response = wire::ShareAcknowledgeResponse {
        error_code: error.code(),
        ..Default::default()
    };
    shard.reply(turn, reply, &response);
}

/// Answers a request that is done; a session that ends by it ends now.
pub(super) fn answer(shard: &mut Shard, turn: &mut Turn<'_>, fetch: ShareFetch) {
    let (key, epoch) = (fetch.key.clone(), fetch.epoch);
    let lock_ms = i32::try_from(shard.share_lock_ms(&key.0)).unwrap_or(i32::MAX);
    if fetch.reply.api.key == ApiKey::ShareAcknowledge {
        let response = acknowledged(&fetch, lock_ms);
        shard.reply(turn, fetch.reply, &response);
    } else {
        let tells = tells(shard, &fetch);
        let data: Vec<Bytes> = fetch.wants.iter().map(records_of).collect();
        let response = fetched(&fetch, &tells, &data, lock_ms);
        shard.reply(turn, fetch.reply, &response);
    }
    if epoch == FINAL_EPOCH {
        shard.close_share_session(turn, &key);
    }
}

/// Which partitions the answer names, in their order; the session notes what it says.
fn tells(shard: &mut Shard, fetch: &ShareFetch) -> Vec<bool> {
    let first = fetch.epoch == INITIAL_EPOCH;
    let mut session = shard.share_sessions.get_mut(&fetch.key);
    let tells = fetch.wants.iter().map(|want| {
        let result = want.result.as_deref();
        let failed = result.is_some_and(|r| !r.error.is_none());
        let gave = result.is_some_and(|r| !r.acquired.is_empty());
        let mut must = want.acked.is_some() || failed || gave;
        if let (Some(session), Some(_)) = (&mut session, result) {
            must |= first || session.must_tell(want.place());
            session.note(want.place(), failed, gave);
        }
        must
    });
    tells.collect()
}

/// The records that a partition gave, in one piece.
fn records_of(want: &ShareWant) -> Bytes {
    let data = want.result.as_ref().map_or(&[][..], |result| &result.data);
    match data {
        [] => Bytes::new(),
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

fn fetched<'a>(
    fetch: &ShareFetch,
    tells: &[bool],
    data: &'a [Bytes],
    acquisition_lock_timeout_ms: i32,
) -> wire::ShareFetchResponse<'a> {
    let mut response = wire::ShareFetchResponse {
        acquisition_lock_timeout_ms,
        ..Default::default()
    };
    let told = fetch
        .wants
        .iter()
        .zip(data)
        .zip(tells)
        .filter(|(_, tells)| **tells);
    for ((want, data), _) in told {
        let none = ShareAcquired::refused(ErrorCode::None);
        let result = want.result.as_deref().unwrap_or(&none);
        let acquired = result.acquired.iter().map(|piece| parts::AcquiredRecords {
            first_offset: piece.first,
            last_offset: piece.last,
            delivery_count: i16::try_from(piece.deliveries).unwrap_or(i16::MAX),
        });
        let partition = parts::PartitionData {
            partition_index: want.index,
            error_code: result.error.code(),
            acknowledge_error_code: want.acked.unwrap_or(ErrorCode::None).code(),
            records: Cow::Borrowed(&data[..]),
            acquired_records: acquired.collect(),
            ..Default::default()
        };
        let topic = want.topic;
        match response.responses.iter_mut().find(|t| t.topic_id == topic) {
            Some(topic) => topic.partitions.push(partition),
            None => response.responses.push(parts::ShareFetchableTopicResponse {
                topic_id: topic,
                partitions: vec![partition],
            }),
        }
    }
    response
}

fn acknowledged(
    fetch: &ShareFetch,
    acquisition_lock_timeout_ms: i32,
) -> wire::ShareAcknowledgeResponse<'static> {
    let mut topics: Vec<(Uuid, Vec<(PartitionIndex, ErrorCode)>)> = Vec::new();
    for want in &fetch.wants {
        let line = (want.index, want.acked.unwrap_or(ErrorCode::None));
        match topics.iter_mut().find(|(topic, _)| *topic == want.topic) {
            Some((_, lines)) => lines.push(line),
            None => topics.push((want.topic, vec![line])),
        }
    }
    let topics = topics.into_iter().map(|(topic_id, lines)| {
        let partitions = lines.into_iter().map(|(index, error)| acks::PartitionData {
            partition_index: index,
            error_code: error.code(),
            ..Default::default()
        });
        acks::ShareAcknowledgeTopicResponse {
            topic_id,
            partitions: partitions.collect(),
        }
    });
    wire::ShareAcknowledgeResponse {
        acquisition_lock_timeout_ms,
        responses: topics.collect(),
        ..Default::default()
    }
}
