//! OffsetCommit (8), versions 2-10.
//!
//! - 2-4: a retention of its own for the commit. 5: gone.
//! - 6: leader epoch. 7: `group.instance.id`. 9: GROUP_ID_NOT_FOUND where there was
//!   ILLEGAL_GENERATION. 10: topic ids.

use super::{OffsetValue, offset_append_error};
use crate::classic::State;
use crate::config::CoordinatorConfig;
use crate::group::{Env, Group};
use crate::out::{Reply, ReplyToken, Topics};
use crate::records;
use crate::writes::{Done, Effect, OffsetKey, Part};
use flumen_base::{ErrorCode, Uuid};
use flumen_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use flumen_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use flumen_wire::messages::{OffsetCommitRequest, OffsetCommitResponse};

/// Versions from here on name topics by id.
const TOPIC_IDS_FROM: i16 = 10;
/// Versions from here on hear that a group is not there.
const TELLS_NOT_FOUND_FROM: i16 = 9;

/// A topic of the request, with what the metadata image says of it.
struct ResolvedTopic<'r> {
    name: &'r str,
    id: Uuid,
    error: ErrorCode,
}

fn resolve<'r>(
    topic: &'r OffsetCommitRequestTopic<'_>,
    api_version: i16,
    topics: &'r dyn Topics,
) -> ResolvedTopic<'r> {
    if api_version >= TOPIC_IDS_FROM {
        let name = topics.name_of(topic.topic_id);
        return ResolvedTopic {
            name: name.unwrap_or(""),
            id: topic.topic_id,
            error: match name {
                Some(_) => ErrorCode::None,
                None => ErrorCode::UnknownTopicId,
            },
        };
    }
    let id = topics.id_of(&topic.name);
    ResolvedTopic {
        name: &topic.name,
        id: id.unwrap_or(Uuid::ZERO),
        error: match id {
            Some(_) => ErrorCode::None,
            None => ErrorCode::UnknownTopicOrPartition,
        },
    }
}

fn partition_result(index: i32, error: ErrorCode) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition {
        partition_index: index,
        error_code: error.code(),
    }
}

/// Turns the answer of a commit that was accepted into that of one that failed: partitions refused
/// before keep their error.
pub(crate) fn fail_commit(response: &mut OffsetCommitResponse<'static>, error: ErrorCode) {
    refuse_commit(response, offset_append_error(error));
}

/// Puts an error on every partition that had none.
pub(crate) fn refuse_commit(response: &mut OffsetCommitResponse<'static>, error: ErrorCode) {
    let error = error.code();
    for topic in &mut response.topics {
        for partition in &mut topic.partitions {
            if partition.error_code == 0 {
                partition.error_code = error;
            }
        }
    }
}

/// The answer as the metadata image alone decides it: every partition that exists is accepted.
pub(crate) fn draft_commit(
    request: &OffsetCommitRequest<'_>,
    api_version: i16,
    topics: &dyn Topics,
) -> OffsetCommitResponse<'static> {
    let results = request.topics.iter().map(|topic| {
        let resolved = resolve(topic, api_version, topics);
        let result = |p: &OffsetCommitRequestPartition<'_>| {
            let missing =
                resolved.error.is_none() && !topics.has_partition(resolved.name, p.partition_index);
            let error = match missing {
                true => ErrorCode::UnknownTopicOrPartition,
                false => resolved.error,
            };
            partition_result(p.partition_index, error)
        };
        OffsetCommitResponseTopic {
            name: resolved.name.to_owned().into(),
            topic_id: resolved.id,
            partitions: topic.partitions.iter().map(result).collect(),
        }
    });
    OffsetCommitResponse {
        topics: results.collect(),
        ..Default::default()
    }
}

/// Whether a draft has something to commit.
pub(crate) fn accepts_any(draft: &OffsetCommitResponse<'static>) -> bool {
    let mut partitions = draft.topics.iter().flat_map(|t| &t.partitions);
    partitions.any(|p| p.error_code == 0)
}

/// Refuses the metadata strings that are too long (counted as Java does, in UTF-16 units).
pub(crate) fn refuse_long_metadata(
    config: &CoordinatorConfig,
    request: &OffsetCommitRequest<'_>,
    draft: &mut OffsetCommitResponse<'static>,
) {
    for (topic, result) in request.topics.iter().zip(&mut draft.topics) {
        for (partition, result) in topic.partitions.iter().zip(&mut result.partitions) {
            let metadata = partition.committed_metadata.as_deref().unwrap_or("");
            let too_long = metadata.len() > config.offset_metadata_max_bytes
                && metadata.encode_utf16().count() > config.offset_metadata_max_bytes;
            if too_long && result.error_code == 0 {
                result.error_code = ErrorCode::OffsetMetadataTooLarge.code();
            }
        }
    }
}

/// The error of a commit to a group that does not exist, unless it comes from outside a group (and
/// so creates a simple one).
pub(crate) fn validate_new(generation: i32, api_version: i16) -> Result<(), ErrorCode> {
    match generation {
        ..0 => Ok(()),
        _ if api_version >= TELLS_NOT_FOUND_FROM => Err(ErrorCode::GroupIdNotFound),
        _ => Err(ErrorCode::IllegalGeneration),
    }
}

impl Group {
    /// Whether this sender may commit now what the draft accepts. A classic member that does is
    /// alive.
    pub(crate) fn validate_commit(
        &mut self,
        env: &mut Env<'_>,
        request: &OffsetCommitRequest<'_>,
        draft: &OffsetCommitResponse<'static>,
        (api_version, topics): (i16, &dyn Topics),
    ) -> Result<(), ErrorCode> {
        if self.share.is_some() {
            return Err(ErrorCode::GroupIdNotFound);
        }
        if let Some(consumer) = self.consumer.as_ref().filter(|_| !self.is_dead()) {
            return consumer.validate_commit(request, draft, topics, api_version);
        }
        if let Some(streams) = self.streams.as_ref().filter(|_| !self.is_dead()) {
            return streams.validate_commit(request, draft, api_version);
        }
        let classic = &self.classic;
        let generation = request.generation_id_or_member_epoch;
        let instance = request.group_instance_id.as_deref();
        match classic.state {
            State::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
            State::Empty if generation < 0 => return Ok(()),
            _ => {}
        }
        if generation < 0 && request.member_id.is_empty() && instance.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        }
        let serial = classic.validate_member(&request.member_id, instance)?;
        if generation != classic.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        if classic.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.touch(env, serial);
        Ok(())
    }

    /// Writes what the draft accepts, and answers with the draft when it is written.
    pub(crate) fn commit_offsets(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &OffsetCommitRequest<'_>,
        mut draft: OffsetCommitResponse<'static>,
    ) {
        let write = env.next_write();
        let expire_ms = (request.retention_time_ms != -1)
            .then(|| env.now.wall_ms.saturating_add(request.retention_time_ms));
        let mut records = Vec::new();
        let mut keys: Vec<OffsetKey> = Vec::new();
        for (topic, result) in request.topics.iter().zip(&mut draft.topics) {
            let (name, topic_id) = (&*result.name, result.topic_id);
            for (partition, result) in topic.partitions.iter().zip(&mut result.partitions) {
                if result.error_code != 0 {
                    continue;
                }
                let index = partition.partition_index;
                let value = OffsetValue {
                    offset: partition.committed_offset,
                    leader_epoch: partition.committed_leader_epoch,
                    metadata: partition.committed_metadata.as_deref().unwrap_or("").into(),
                    commit_ms: env.now.wall_ms,
                    expire_ms,
                    topic_id,
                };
                match records::offset(&self.name, name, index, Some(&value)) {
                    Some(record) => {
                        records.push(record);
                        keys.push(self.offsets.propose(write, name, index, Some(value)));
                    }
                    None => result.error_code = ErrorCode::UnknownServerError.code(),
                }
            }
        }
        if records.is_empty() {
            return env.reply(token, Reply::OffsetCommit(draft));
        }
        let part = Part {
            group: self.serial,
            offsets: keys,
            effect: Effect::None,
        };
        let part = self.part(write, part);
        let done = Done::Reply(token, Reply::OffsetCommit(draft));
        env.append(self.partition, records, vec![part], done);
    }
}
