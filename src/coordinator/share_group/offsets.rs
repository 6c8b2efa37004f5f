//! What admin requests do to the offsets of a share group, and what follows when stored states were
//! made or deleted: AlterShareGroupOffsets (91) and DeleteShareGroupOffsets (92), version 0, and
//! DeleteGroups. The group must be empty.

use super::calls::{ShareCall, ShareCalled, ShareThen};
use super::records::ShareRecord;
use super::state::{StateTopic, StateTopics};
use super::write::After;
use crate::group::{Env, Group};
use crate::modern::Refusal;
use crate::out::{Metadata, Reply, ReplyToken};
use flumen_base::{ErrorCode, PartitionIndex, Uuid};
use flumen_wire::messages::alter_share_group_offsets_request::AlterShareGroupOffsetsRequestTopic;
use flumen_wire::messages::alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use flumen_wire::messages::delete_share_group_offsets_response as deleted;
use flumen_wire::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Kafka's words for UNKNOWN_TOPIC_OR_PARTITION.
const UNKNOWN_PARTITION: &str = "This server does not host this topic-partition.";
/// Kafka's words for NON_EMPTY_GROUP.
const NOT_EMPTY: &str = "The group is not empty.";

/// The answer to an AlterShareGroupOffsets that is refused as a whole.
pub(crate) fn alter_error(refusal: Refusal) -> Reply {
    Reply::AlterShareGroupOffsets(AlterShareGroupOffsetsResponse {
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    })
}

/// The answer to a DeleteShareGroupOffsets that is refused as a whole.
pub(crate) fn delete_offsets_error(refusal: Refusal) -> Reply {
    Reply::DeleteShareGroupOffsets(DeleteShareGroupOffsetsResponse {
        error_code: refusal.error.code(),
        error_message: refusal.message.map(Into::into),
        ..Default::default()
    })
}

/// Those of a call's share partitions, by topic.
fn by_topic<'a>(
    called: impl Iterator<Item = &'a ShareCalled>,
) -> BTreeMap<Uuid, BTreeSet<PartitionIndex>> {
    let mut topics: BTreeMap<Uuid, BTreeSet<PartitionIndex>> = BTreeMap::new();
    for (id, partition, _) in called {
        topics.entry(*id).or_default().insert(*partition);
    }
    topics
}

fn altered(index: PartitionIndex, known: bool) -> AlterShareGroupOffsetsResponsePartition<'static> {
    let mut partition = AlterShareGroupOffsetsResponsePartition {
        partition_index: index,
        ..Default::default()
    };
    if !known {
        partition.error_code = ErrorCode::UnknownTopicOrPartition.code();
        partition.error_message = Some(UNKNOWN_PARTITION.into());
    }
    partition
}

/// One topic of an AlterShareGroupOffsets: its answer, and the partitions to be begun anew.
fn alter_topic(
    metadata: &dyn Metadata,
    topic: &AlterShareGroupOffsetsRequestTopic<'_>,
) -> (
    AlterShareGroupOffsetsResponseTopic<'static>,
    Vec<(Uuid, PartitionIndex, i64)>,
) {
    let id = metadata.topic_id(&topic.topic_name);
    let count = id.and_then(|id| metadata.partition_count(id)).unwrap_or(0);
    let mut starts = Vec::new();
    let mut answer = AlterShareGroupOffsetsResponseTopic {
        topic_name: topic.topic_name.to_string().into(),
        topic_id: id.unwrap_or(Uuid::ZERO),
        partitions: Vec::new(),
    };
    for partition in &topic.partitions {
        let index = partition.partition_index;
        let known = id.filter(|_| (0..count).contains(&index));
        starts.extend(known.map(|id| (id, index, partition.start_offset)));
        answer.partitions.push(altered(index, known.is_some()));
    }
    (answer, starts)
}

fn refused_topic(
    name: &str,
    message: &str,
) -> deleted::DeleteShareGroupOffsetsResponseTopic<'static> {
    deleted::DeleteShareGroupOffsetsResponseTopic {
        topic_name: name.to_owned().into(),
        topic_id: Uuid::ZERO,
        error_code: ErrorCode::UnknownTopicOrPartition.code(),
        error_message: Some(message.to_owned().into()),
    }
}

impl Group {
    /// The record of which stored states there are.
    fn stored_record(env: &Env<'_>, stored: StateTopics) -> ShareRecord {
        ShareRecord::Stored(Some(Arc::new(stored.at(env.now.wall_ms))))
    }

    fn empty_share(&self) -> Result<StateTopics, Refusal> {
        match &self.share {
            _ if self.is_dead() => Err(ErrorCode::GroupIdNotFound.into()),
            None => Err(ErrorCode::GroupIdNotFound.into()),
            Some(share) if !share.is_empty() => {
                Err(Refusal::new(ErrorCode::NonEmptyGroup, NOT_EMPTY))
            }
            Some(share) => Ok(share.stored()),
        }
    }

    /// AlterShareGroupOffsets, when the group was found or made.
    pub(crate) fn alter_share_offsets(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &AlterShareGroupOffsetsRequest<'_>,
    ) -> Result<(), Refusal> {
        let mut stored = self.empty_share()?;
        let mut response = AlterShareGroupOffsetsResponse::default();
        let mut starts = Vec::new();
        let mut begun: BTreeMap<Uuid, StateTopic> = BTreeMap::new();
        for topic in &request.topics {
            let (answer, own) = alter_topic(env.metadata, topic);
            if let Some((id, ..)) = own.first() {
                let topic = StateTopic {
                    name: (&*answer.topic_name).into(),
                    partitions: own.iter().map(|(_, index, _)| *index).collect(),
                    since_ms: 0,
                };
                begun.insert(*id, topic);
            }
            response.responses.push(answer);
            starts.extend(own);
        }
        if starts.is_empty() {
            env.reply(token, Reply::AlterShareGroupOffsets(response));
            return Ok(());
        }
        stored.begin(begun);
        let state_epoch = self.share.as_ref().map_or(0, |share| share.records.epoch);
        let then = ShareThen::Alter {
            group: self.name.clone(),
            token,
            draft: Box::new(response),
        };
        let call = ShareCall::initialize(&self.name, state_epoch, starts);
        let records = vec![Self::stored_record(env, stored)];
        let after = After {
            reply: None,
            call: Some((call, then)),
        };
        self.write_share(env, records, after)
    }

    /// DeleteShareGroupOffsets, when the group was found.
    pub(crate) fn delete_share_offsets(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        request: &DeleteShareGroupOffsetsRequest<'_>,
    ) -> Result<(), Refusal> {
        let mut stored = self.empty_share()?;
        let mut refused = Vec::new();
        let mut gone: BTreeMap<Uuid, BTreeSet<PartitionIndex>> = BTreeMap::new();
        for topic in &request.topics {
            let name = &*topic.topic_name;
            let Some(id) = env.metadata.topic_id(name) else {
                refused.push(refused_topic(name, UNKNOWN_PARTITION));
                continue;
            };
            if let Some(topic) = stored.initialized.remove(&id) {
                stored.deleting.insert(id, name.into());
                gone.insert(id, topic.partitions);
            } else if stored.deleting.contains_key(&id) {
                let count = env.metadata.partition_count(id).unwrap_or(0);
                gone.entry(id).or_insert_with(|| (0..count).collect());
            } else {
                refused.push(refused_topic(
                    name,
                    "There is no offset information to delete.",
                ));
            }
        }
        if gone.is_empty() {
            let response = DeleteShareGroupOffsetsResponse {
                responses: refused,
                ..Default::default()
            };
            env.reply(token, Reply::DeleteShareGroupOffsets(response));
            return Ok(());
        }
        let then = ShareThen::DeleteOffsets {
            group: self.name.clone(),
            token,
            refused,
        };
        let call = ShareCall::delete(&self.name, &gone);
        let records = vec![Self::stored_record(env, stored)];
        let after = After {
            reply: None,
            call: Some((call, then)),
        };
        self.write_share(env, records, after)
    }

    /// The first step of deleting a share group: its stored states go. False where there are none.
    pub(crate) fn delete_share_states(
        &mut self,
        env: &mut Env<'_>,
        (gather, index): (u64, usize),
    ) -> Result<bool, ErrorCode> {
        let Some(mut stored) = self.share.as_ref().map(|share| share.stored()) else {
            return Ok(false);
        };
        let gone = stored.delete_all(env.metadata);
        if gone.is_empty() {
            return Ok(false);
        }
        let then = ShareThen::DeleteGroup {
            group: self.name.clone(),
            gather,
            index,
        };
        let call = ShareCall::delete(&self.name, &gone);
        let records = vec![Self::stored_record(env, stored)];
        let after = After {
            reply: None,
            call: Some((call, then)),
        };
        let written = self.write_share(env, records, after);
        written.map(|()| true).map_err(|refusal| refusal.error)
    }

    /// Stored states were made, all of them, or (`made` is false) at least one of them could not be
    /// made.
    pub(crate) fn share_states_begun(
        &mut self,
        env: &mut Env<'_>,
        called: &[ShareCalled],
        made: bool,
    ) {
        let Some(share) = self.share.as_ref().filter(|_| !self.is_dead()) else {
            return;
        };
        let mut stored = share.stored();
        stored.end(env.metadata, &by_topic(called.iter()), made);
        if stored == share.stored() {
            return;
        }
        let records = vec![Self::stored_record(env, stored)];
        // It can't fail: the group's name stands in records already.
        let _ = self.write_share(env, records, After::default());
    }

    /// Stored states were deleted for a DeleteShareGroupOffsets, or not; its answer leaves.
    pub(crate) fn share_offsets_deleted(
        &mut self,
        env: &mut Env<'_>,
        token: ReplyToken,
        called: &[ShareCalled],
        refused: Vec<deleted::DeleteShareGroupOffsetsResponseTopic<'static>>,
    ) {
        let mut responses = Vec::new();
        let mut failed = Vec::new();
        let mut done = Vec::new();
        for id in by_topic(called.iter()).into_keys() {
            let errors = called.iter().filter(|(of, ..)| *of == id).map(|c| c.2);
            let error = errors.into_iter().find(|e| !e.is_none());
            let name = env.metadata.topic_name(id).unwrap_or("").to_owned();
            let topic = deleted::DeleteShareGroupOffsetsResponseTopic {
                topic_name: name.into(),
                topic_id: id,
                error_code: error.unwrap_or(ErrorCode::None).code(),
                error_message: None,
            };
            match error {
                None => {
                    done.push(id);
                    responses.push(topic);
                }
                Some(_) => failed.push(topic),
            }
        }
        responses.extend(refused);
        responses.extend(failed);
        let reply = Reply::DeleteShareGroupOffsets(DeleteShareGroupOffsetsResponse {
            responses,
            ..Default::default()
        });
        let Some(mut stored) = self.share.as_ref().map(|share| share.stored()) else {
            return env.reply(token, reply);
        };
        if done.is_empty() || self.is_dead() {
            return env.reply(token, reply);
        }
        stored.deleting.retain(|id, _| !done.contains(id));
        let records = vec![Self::stored_record(env, stored)];
        let after = After {
            reply: Some((token, reply)),
            call: None,
        };
        if let Err(refusal) = self.write_share(env, records, after) {
            env.reply(token, delete_offsets_error(refusal));
        }
    }

    /// Topics are gone, and their stored states with them.
    pub(crate) fn share_topics_deleted(&mut self, env: &mut Env<'_>, gone: &[(&str, Uuid)]) {
        let Some(mut stored) = self.share.as_ref().map(|share| share.stored()) else {
            return;
        };
        if stored.forget(gone) {
            let records = vec![Self::stored_record(env, stored)];
            // It can't fail: the group's name stands in records already.
            let _ = self.write_share(env, records, After::default());
        }
    }
}

/// The answer to an AlterShareGroupOffsets when its states were begun anew, or some not.
pub(crate) fn alter_answer(
    mut draft: AlterShareGroupOffsetsResponse<'static>,
    called: &[ShareCalled],
) -> Reply {
    for topic in &mut draft.responses {
        for partition in topic.partitions.iter_mut().filter(|p| p.error_code == 0) {
            let place = (topic.topic_id, partition.partition_index);
            let error = called.iter().find(|(id, index, _)| (*id, *index) == place);
            partition.error_code = error.map_or(0, |(_, _, error)| error.code());
        }
    }
    Reply::AlterShareGroupOffsets(draft)
}
